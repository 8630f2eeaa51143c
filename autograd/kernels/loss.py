"""The kernel of cross-entropy."""

import math

import numpy as np

from autograd.kernels.jit import (
    EXACT,
    as_rows,
    jit,
    split,
    takes,
)
from autograd.kernels.normalization import or_else
from autograd.kernels.rows import excess, largest, sum_exp, sum_of
from autograd.kernels.vector import exp


@jit(EXACT)
def _cross_entropy(logits, target, weight, ignore_index, smoothing, losses, largests, log_totals):
    real, n = logits.dtype.type, logits.shape[1]
    total_weight = sum_of(weight)
    for r in range(logits.shape[0]):
        row = logits[r]  # (n,)
        top = largest(row)
        log_total = math.log(sum_exp(row, top))
        largests[r], log_totals[r] = top, real(log_total)
        if target[r] == ignore_index:
            losses[r] = 0
            continue
        minus_log_p = log_total - (np.float64(row[target[r]]) - top)
        loss = (1 - smoothing) * weight[target[r]] * minus_log_p
        if smoothing:
            loss += smoothing / n * (total_weight * log_total - excess(row, top, weight))
        losses[r] = loss


@jit(EXACT)
def _cross_entropy_vjp(g, logits, target, weight, largests, log_totals, smoothing, out):
    real = logits.dtype.type
    spread = real(smoothing / logits.shape[1])
    spread_weight = spread * sum_of(weight)
    for r in range(logits.shape[0]):
        row, g_row = logits[r], out[r]  # (n,), (n,)
        top, log_total = largests[r], log_totals[r]
        aim = real(1 - smoothing) * weight[target[r]]
        both = real(aim + spread_weight)
        for i in range(row.size):
            g_row[i] = (exp((row[i] - top) - log_total) * both - spread * weight[i]) * g[r]
        g_row[target[r]] -= g[r] * aim


def cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing):
    """Return the loss; each row's maximum, and log(sum(exp(x - maximum))), (rows,) each."""
    call = classes_of(input, target, weight, ignore_index)
    if call is None:
        return NotImplemented
    logits, classes, weight, counted = call
    losses, (largest, log_total) = np.empty(len(logits)), np.empty((2, len(logits)), input.dtype)
    static = weight, int(ignore_index), float(label_smoothing)
    split(
        lambda part: _cross_entropy(
            logits[part], classes[part], *static, losses[part], largest[part], log_total[part]
        ),
        len(logits), logits.size,
    )  # fmt: skip
    if reduction == "none":
        return losses.reshape(target.shape).astype(input.dtype), largest, log_total
    total = np.sum(losses)
    if reduction == "mean":
        total /= np.sum(weight[classes[counted]], dtype=float) or np.nan
    return total.astype(input.dtype), largest, log_total


def cross_entropy_vjp(
    g, input, target, weight, ignore_index, reduction, label_smoothing, largest, log_total
):  # fmt: skip
    """Return the gradient of the logits."""
    call = classes_of(input, target, weight, ignore_index)
    if call is None or not takes(input, largest, log_total):
        return NotImplemented
    logits, classes, weight, counted = call
    g = np.reshape(g, -1).astype(input.dtype) * counted  # of each row
    largest, log_total = (x.reshape(len(logits)) for x in (largest, log_total))
    if reduction == "mean":
        g /= np.sum(weight[classes[counted]]) or 1
    classes[~counted] = 0
    out = np.empty(input.shape, input.dtype)
    rows, smoothing = as_rows(out, input.shape[-1]), float(label_smoothing)
    split(
        lambda part: _cross_entropy_vjp(
            g[part], logits[part], classes[part], weight, largest[part], log_total[part],
            smoothing, rows[part],
        ),
        len(rows), rows.size,
    )  # fmt: skip
    return out


def classes_of(input, target, weight, ignore_index):
    """Return logits (rows, n), the class of each row, the weight of each class, and which count.

    Or None, if it is for NumPy to handle.
    """
    if not takes(input) or input.ndim == 0 or not input.size:
        return None
    if target.shape != input.shape[:-1] or target.dtype.kind not in "iu":
        return None
    logits, classes = as_rows(input, input.shape[-1]), target.reshape(-1).astype(np.int64)
    if weight is not None:
        if weight.shape != logits.shape[1:]:
            return None
        weight = weight.astype(input.dtype)
    counted = classes != ignore_index
    chosen = classes[counted]
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < logits.shape[1]:
        return None  # NumPy's function says what is wrong
    return logits, classes, or_else(weight, 1, logits), counted

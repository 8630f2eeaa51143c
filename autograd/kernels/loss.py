"""The kernels of cross-entropy, called by `autograd.ops.loss`.

Logits (rows, C) of a language model are the largest array of a training step: 8 sequences of 1024
tokens and 50,257 classes make 1.6 GB in float32. The kernels read a row once from memory, and the
rule writes its one result; no array of probabilities is kept. The threads share the rows.

The loss of a row and the sums in it are in float64, and exponentials are ours, so the results
differ from NumPy's in the last digits. They have the same bits with any number of threads.
"""

import math

import numpy as np

from autograd.kernels.jit import EXACT, as_rows, takes
from autograd.kernels.normalization import or_else
from autograd.kernels.rows import excess, largest, sum_exp, sum_of
from autograd.kernels.team import row_kernel, split
from autograd.kernels.vector import exp

# The loss of a row x with the class c is log(sum(exp(x))) - x[c]. With `top`, the largest logit,
# and `log_total` = log(sum(exp(x - top))), it is log_total - (x[c] - top). For the row [2, 0] and c
# = 0: top = 2, log_total = log(1 + exp(-2)) = 0.127, and the loss is 0.127 - 0.
#
# Label smoothing takes the share `smoothing` from the class c, and gives it to all n classes in
# equal parts. Class k's own loss is log_total - (x[k] - top), so that all of them, times their
# weights, sum to total_weight log_total - sum(weight (x - top)), the second term of which is
# `excess`.


@row_kernel(EXACT)
def _cross_entropy(logits, target, losses, largests, log_totals, weight, ignore_index, smoothing):
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


# The gradient of x[i] is p[i] times the sum of all classes' shares, minus the share of class i,
# where p = exp(x - top - log_total) is softmax. The target's share is `aim`, each class's share by
# label smoothing is `spread` times its weight, and `both` is the sum of all. For the row [2, 0]
# with the class 0, without smoothing: p = [0.88, 0.12], and the gradient is [0.88 - 1, 0.12].


@row_kernel(EXACT)
def _cross_entropy_vjp(out, g, logits, target, largests, log_totals, weight, smoothing):
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
    """Return the loss, each row's largest logit, and log(sum(exp(x - largest))), (rows,) each."""
    call = prepare(input, target, weight, ignore_index)
    if call is None:
        return NotImplemented
    logits, classes, weight, counted = call
    losses, (largest, log_total) = np.empty(len(logits)), np.empty((2, len(logits)), input.dtype)
    split(
        _cross_entropy, (logits, classes, losses, largest, log_total),
        weight, int(ignore_index), float(label_smoothing),
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
    call = prepare(input, target, weight, ignore_index)
    if call is None or not takes(input, largest, log_total):
        return NotImplemented
    logits, classes, weight, counted = call
    g = np.reshape(g, -1).astype(input.dtype) * counted  # of each row
    largest, log_total = (x.reshape(len(logits)) for x in (largest, log_total))
    if reduction == "mean":
        g /= np.sum(weight[classes[counted]]) or 1
    classes[~counted] = 0
    out = np.empty(input.shape, input.dtype)
    rows = as_rows(out, input.shape[-1])
    split(
        _cross_entropy_vjp, (rows, g, logits, classes, largest, log_total),
        weight, float(label_smoothing),
    )  # fmt: skip
    return out


def prepare(input, target, weight, ignore_index):
    """Return logits (rows, n), the class of each row, the weight of each class, and which count.

    Or None, if the kernels are not compiled for this input.
    """
    if not takes(input) or not input.size:
        return None
    logits, classes = as_rows(input, input.shape[-1]), target.reshape(-1).astype(np.int64)
    weight = None if weight is None else weight.astype(input.dtype)
    return logits, classes, or_else(weight, 1, logits), classes != ignore_index

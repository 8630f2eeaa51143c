"""Losses: how far predictions are from their targets.

``cross_entropy`` of integer targets is an op with a kernel, since a language model spends a large
part of its memory and time there. The other losses are written in other ops.
"""

import numpy as np

from autograd.dispatch import plain
from autograd.kernels import kernel
from autograd.op import op
from autograd.ops.activation import softplus
from autograd.ops.checks import check_floats, check_number
from autograd.ops.embedding import as_ids, misfit
from autograd.ops.index import take_along_axis
from autograd.ops.linalg import rows
from autograd.ops.normalization import log_softmax
from autograd.precision import in_single


def reduce_losses(losses, reduction):
    """Return the mean or the sum of losses; for ``"none"`` the losses themselves.

    The mean of an empty array is NaN.
    """
    check_reduction(reduction)
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total / (losses.size or np.nan)


def check_reduction(reduction):
    """Raise ``ValueError`` unless `reduction` is ``"mean"``, ``"sum"`` or ``"none"``."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")


def mse_loss(input, target, reduction="mean"):
    """Squared difference, element by element."""
    return reduce_losses((input - target) ** 2, reduction)


def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """Negative log-likelihood of targets in [0, 1] under sigmoid(input).

    `target` has the shape of `input`. `weight` multiplies the losses, `pos_weight` the part of the
    targets in them; both broadcast.
    """
    if np.shape(input) != np.shape(target):
        raise ValueError(
            f"binary_cross_entropy_with_logits: input has shape {np.shape(input)} and target "
            f"{np.shape(target)}; expected the same"
        )
    # -pos_weight t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)): softplus(-x) is -log(sigmoid(x)),
    # and softplus(x) is -log(1 - sigmoid(x)), without the difference, which is 0 for a large x.
    positive = target if pos_weight is None else pos_weight * target
    losses = positive * softplus(-input) + (1 - target) * softplus(input)
    return reduce_losses(losses if weight is None else losses * weight, reduction)


def cross_entropy(
    input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """Negative log-probability of the targets under softmax(input), as PyTorch's function.

    Parameters
    ----------
    input : Tensor or ndarray, (C,), (N, C) or (N, C, d1, ...)
        Logits of C classes.
    target : array_like of int, (), (N,) or (N, d1, ...); or Tensor or ndarray of `input`'s shape
        Classes, or probabilities of all of them, which may require a gradient.
    weight : array_like, (C,), optional
        The weight of each class.
    ignore_index : int
        Positions with this target have a loss of 0, and do not count for the mean.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides by the sum of the weights of the targets that count, or for probabilities
        by the number of positions; if that is 0, the result is NaN.
    label_smoothing : float
        Which share of each target goes, in equal parts, to all classes. Szegedy et al. 2016,
        arXiv:1512.00567, section 7.

    Returns
    -------
    Tensor or ndarray
        A number; with ``"none"`` one for each position, (), (N,) or (N, d1, ...).

    Raises
    ------
    ValueError
        If the shapes do not fit, or a target is not among the classes.

    Examples
    --------
    >>> import autograd
    >>> logits = autograd.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> autograd.nn.cross_entropy(logits, [0, 1], reduction="none").numpy().round(4).tolist()
    [0.1269, 0.6931]
    """
    check_reduction(reduction)
    check_number("cross_entropy", "label_smoothing", label_smoothing)
    check_ignored("cross_entropy", ignore_index)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}, not in [0, 1]")
    weight = None if weight is None else np.asarray(weight)
    if np.asarray(plain(target)).dtype.kind != "f":
        input, target = classes_last("cross_entropy", input), as_ids(target)
        return cross_entropy_(input, target, weight, ignore_index, reduction, label_smoothing)
    if np.shape(target) != np.shape(input):
        raise ValueError(
            f"cross_entropy: input has shape {np.shape(input)} and target {np.shape(target)}; "
            "expected integers, or probabilities of the same shape"
        )
    input, target = (classes_last("cross_entropy", x) for x in (input, target))  # (N, ..., C)
    check_weight("cross_entropy", weight, input.shape[-1])
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / max(input.shape[-1], 1)
    if weight is not None:
        target = target * weight
    losses = -np.sum(log_softmax(input) * target, axis=-1)
    return reduce_losses(losses, reduction)


def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """Negative log-probability of the target classes, of log-probabilities: see `cross_entropy`."""
    check_reduction(reduction)
    check_ignored("nll_loss", ignore_index)
    input, target = classes_last("nll_loss", input), as_ids(target)
    weight = None if weight is None else np.asarray(weight)
    check_weight("nll_loss", weight, input.shape[-1])
    check_classes("nll_loss", input, target, ignore_index)
    classes, share = shares(target, weight, ignore_index, input.dtype)
    losses = -take_along_axis(input, classes[..., None], -1)[..., 0]
    losses = np.where(target == ignore_index, 0, losses * share)
    if reduction != "mean":
        return reduce_losses(losses, reduction)
    return np.sum(losses) / (np.sum(share) or np.nan)


def classes_last(name, x):
    """Move the axis of classes to the end: (N, C, d1, ...) -> (N, d1, ..., C)."""
    if np.ndim(x) == 0:
        raise ValueError(f"{name}: input has no axes; expected (C,), (N, C) or (N, C, d1, ...)")
    return np.moveaxis(x, 1, -1) if np.ndim(x) > 2 else x


def shares(target, weight, ignore_index, dtype):
    """Return the class and the weight of each position; both are 0 where the class is ignored.

    For targets [2, -100] and no weights, the classes are [2, 0] and the weights [1, 0].
    """
    counted = target != ignore_index
    classes = np.where(counted, target, 0)
    share = counted.astype(dtype)
    return classes, share if weight is None else share * weight[classes].astype(dtype)


def smoothing(label_smoothing, weight, n, dtype):
    """Return the share of the target that label smoothing gives to each of n classes, (n,)."""
    spread = np.full(n, label_smoothing / max(n, 1), dtype)
    return spread if weight is None else spread * weight.astype(dtype)


def check_ignored(name, ignore_index):
    """Raise ``TypeError`` unless the class to ignore is an integer, of either sign."""
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int | np.integer):
        raise TypeError(f"{name}: ignore_index is {ignore_index!r}; expected an integer")


def check_weight(name, weight, n):
    """Raise ``ValueError`` unless there is one weight for each class, or none."""
    if weight is not None and weight.shape != (n,):
        raise ValueError(f"{name}: weight has shape {weight.shape}, and input has {n} classes")


def check_classes(name, input, target, ignore_index):
    """Raise ``ValueError`` where targets do not fit (..., C) in shape or are not among classes."""
    if input.shape[:-1] != target.shape:
        raise ValueError(
            f"{name}: input has {input.shape[-1]} classes at positions of shape "
            f"{input.shape[:-1]}; expected a target of shape {input.shape[:-1]}, got {target.shape}"
        )
    if fault := misfit(target, input.shape[-1], "input has {} classes", ignore_index):
        raise ValueError(f"{name}: target {fault}")


def check_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing):
    """Raise unless there is a class for each position of input, and no weight, or C of them."""
    check_weight("cross_entropy", weight, input.shape[-1])
    check_classes("cross_entropy", input, target, ignore_index)
    check_floats("cross_entropy", input=input)


# The loss of a row of logits x is log(sum(exp(x))) - x[target]. With m, the largest logit, the
# first term is m + log(sum(exp(x - m))), in which no exponential overflows. The rule reads m and
# the logarithm, which are saved as two numbers: for m = 1e6 and a logarithm of 0.53, their sum in
# float32 would be 1000000.5, and the logarithm would have one digit left.


@op(saves=("largest", "log_total"))
@kernel("loss.cross_entropy", check=check_cross_entropy)
def cross_entropy_(input, target, weight, ignore_index, reduction, label_smoothing):
    """Cross-entropy of ``input (..., C)`` and classes ``target (...)``; see `cross_entropy`."""
    logits = rows(in_single(input))
    classes, share = shares(target.reshape(-1), weight, ignore_index, logits.dtype)
    largest = np.max(logits, axis=-1, keepdims=True, initial=-np.inf)
    e = logits - largest
    picked = np.take_along_axis(e, classes[:, None], axis=-1)[:, 0]
    if label_smoothing:
        spread = smoothing(label_smoothing, weight, e.shape[-1], e.dtype)
        smooth = e @ spread
    np.exp(e, out=e)
    log_total = np.log(np.sum(e, axis=-1))
    losses = (log_total - picked) * share
    if label_smoothing:
        losses *= 1 - label_smoothing
        losses += log_total * spread.sum() - smooth
    losses[target.reshape(-1) == ignore_index] = 0
    out = losses.reshape(target.shape)
    if reduction != "none":
        out = np.sum(losses)
    if reduction == "mean":
        out = out / (np.sum(share) or np.nan)
    return out.astype(input.dtype, copy=False), largest[:, 0], log_total


@cross_entropy_.formula(classes=lambda input_shape: input_shape[-1])
def _(weight=None, reduction="mean", label_smoothing=0.0):
    aim = "[c = target]"
    if label_smoothing:
        aim = f"((1 - label_smoothing) · {aim} + label_smoothing / classes)"
    counts = "[target ≠ ignore_index]" + (" · weight_{target}" if weight is not None else "")
    total = {"mean": "(Σ loss) / (Σ counts)", "sum": "Σ loss", "none": "loss"}[reduction]
    return f"""
        p_c = exp(input_c) / Σ_k exp(input_k)
        q_c = [target ≠ ignore_index] · {aim}{" · weight_c" if weight is not None else ""}
        loss = -Σ_c q_c · log(p_c)
        counts = {counts}
        out = {total}
        dinput_c = g · (p_c · Σ_k q_k - q_c){" / (Σ counts)" if reduction == "mean" else ""}
    """


@cross_entropy_.vjp("input")
@kernel("loss.cross_entropy_vjp")
def _(
    g, input, target, weight, ignore_index, reduction, label_smoothing, largest, log_total
):  # fmt: skip
    target = target.reshape(-1)
    classes, share = shares(target, weight, ignore_index, input.dtype)
    g = np.reshape(g, -1).astype(input.dtype) * (target != ignore_index)  # of each row
    if reduction == "mean":
        g /= np.sum(share) or 1
    share *= g * (1 - label_smoothing)
    p = rows(input) - largest[:, None]
    p -= log_total[:, None]
    np.exp(p, out=p)
    if label_smoothing:
        spread = smoothing(label_smoothing, weight, p.shape[-1], p.dtype)
        p *= (share + g * spread.sum())[:, None]
        p -= np.outer(g, spread)
    else:
        p *= share[:, None]
    p[np.arange(len(p)), classes] -= share
    return p.reshape(input.shape)


@cross_entropy_.reference
def _(input, target, weight, ignore_index, reduction, label_smoothing):
    n = input.shape[-1]
    classes, share = shares(target, weight, ignore_index, input.dtype)
    aim = (1 - label_smoothing) * share[..., None] * (classes[..., None] == np.arange(n))
    spread = smoothing(label_smoothing, weight, n, input.dtype)
    aim = aim + spread * (target != ignore_index)[..., None]
    losses = -np.sum(log_softmax(input) * aim, axis=-1)
    if reduction == "none":
        return losses
    return np.sum(losses) / (np.sum(share) or 1 if reduction == "mean" else 1)


@cross_entropy_.sample
def _(draw):
    shape = draw.shape(max_dims=2, min_side=1)
    n = draw.integer(1, 4)
    target = draw.integers(shape, 0, n - 1)
    if draw.boolean() and target.size > 1:
        target.flat[0] = -100
    weight = draw.choice([None, 0.5 + np.arange(n)])
    reduction, label_smoothing = draw.choice(["mean", "sum", "none"]), draw.choice([0.0, 0.2])
    x = draw.array(shape=(*shape, n))
    return draw.call(x, target, weight, -100, reduction, label_smoothing)

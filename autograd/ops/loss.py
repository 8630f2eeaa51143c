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
from autograd.ops.index import as_array, take_along_axis
from autograd.ops.linalg import rows
from autograd.ops.normalization import log_softmax
from autograd.precision import in_float, in_single


def reduce_losses(losses, reduction):
    """Return the mean or the sum of losses; for ``"none"`` the losses themselves.

    The mean of an empty array is NaN.
    """
    check_reduction(reduction)
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total / (losses.size or np.nan)


def check_reduction(reduction, expected="'mean', 'sum' or 'none'"):
    """Raise ``ValueError`` unless `reduction` is ``"mean"``, ``"sum"`` or ``"none"``."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; expected {expected}")


def check_same_shape(name, input, target):
    """Raise ``ValueError`` unless predictions and targets have one shape."""
    if np.shape(input) != np.shape(target):
        raise ValueError(
            f"{name}: input has shape {np.shape(input)} and target {np.shape(target)}; expected "
            "the same"
        )


def mse_loss(input, target, reduction="mean"):
    """Squared difference, element by element."""
    return reduce_losses((input - target) ** 2, reduction)


def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """Negative log-likelihood of targets in [0, 1] under sigmoid(input).

    `target` has the shape of `input`. `weight` multiplies the losses, `pos_weight` the part of the
    targets in them; both broadcast.
    """
    check_same_shape("binary_cross_entropy_with_logits", input, target)
    # -pos_weight t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)): softplus(-x) is -log(sigmoid(x)),
    # and softplus(x) is -log(1 - sigmoid(x)), without the difference, which is 0 for a large x.
    positive = target if pos_weight is None else pos_weight * target
    losses = positive * softplus(-input) + (1 - target) * softplus(input)
    return reduce_losses(losses if weight is None else losses * weight, reduction)


def binary_cross_entropy(input, target, weight=None, reduction="mean"):
    """Negative log-likelihood of targets in [0, 1] under probabilities.

    ``binary_cross_entropy_with_logits`` is more exact if the probabilities come from a sigmoid.

    Parameters
    ----------
    input : Tensor or ndarray
        Probabilities, in [0, 1].
    target : Tensor or ndarray
        Of the shape of `input`.
    weight : Tensor or ndarray, optional
        Multiplies the losses; it broadcasts.
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor or ndarray
        A number, or with ``"none"`` one for each element. As in PyTorch, a logarithm counts as
        -100 if it is smaller, and x (1 - x), by which the gradient divides, as at least 1e-12.

    Raises
    ------
    ValueError
        If the shapes differ, or an element of `input` is not in [0, 1].

    Examples
    --------
    >>> import numpy as np, autograd
    >>> p, target = np.array([0.5, 0.25, 0.0]), np.array([1.0, 0.0, 1.0])
    >>> autograd.nn.binary_cross_entropy(p, target, reduction="none").round(4).tolist()
    [0.6931, 0.2877, 100.0]
    """
    check_reduction(reduction)
    input, target, weight = map(as_array, (input, target, weight))
    check_same_shape("binary_cross_entropy", input, target)
    p = np.asarray(plain(input))
    if not np.all(inside := (p >= 0) & (p <= 1)):
        raise ValueError(
            f"binary_cross_entropy: input holds {p[~inside][0]}; expected probabilities in [0, 1], "
            "as of sigmoid (for logits, use binary_cross_entropy_with_logits)"
        )
    losses = binary_cross_entropy_(input, target)
    return reduce_losses(losses if weight is None else losses * weight, reduction)


@op(broadcasts=True, domain={"input": (0.25, 0.75), "target": (0.0, 1.0)})
def binary_cross_entropy_(input, target):
    """-t log(p) - (1 - t) log(1 - p), with logarithms of -100 or more."""
    p, t = in_single(in_float(input)), in_single(in_float(target))
    with np.errstate(divide="ignore"):  # log(0) = -inf is right
        positive, negative = np.log(p), np.log1p(-p)
    losses = (t - 1) * np.maximum(negative, -100) - t * np.maximum(positive, -100)
    return losses.astype(in_float(input).dtype, copy=False)


binary_cross_entropy_.formula(
    """
    out = -target · max(log(input), -100) - (1 - target) · max(log(1 - input), -100)
    dinput = g · (input - target) / max(input · (1 - input), 1e-12)
    dtarget = g · (log(1 - input) - log(input))
    """
)
binary_cross_entropy_.vjp(
    input=lambda g, input, target: g * ((input - target) / np.maximum(input * (1 - input), 1e-12)),
    target=lambda g, input: g * (np.log1p(-input) - np.log(input)),
)


def kl_div(input, target, reduction="mean", log_target=False):
    """Kullback-Leibler divergence of `target` from exp(`input`): target (log(target) - input).

    The arguments are in PyTorch's order: first the log-probabilities of the model, then the target.
    Kullback and Leibler 1951, doi:10.1214/aoms/1177729694.

    Parameters
    ----------
    input : Tensor or ndarray
        Log-probabilities, as of ``log_softmax``.
    target : Tensor or ndarray
        Probabilities, or their logarithms with `log_target`; it broadcasts with `input`. Where a
        probability is 0, target log(target) is 0, and so is its gradient.
    reduction : {"mean", "sum", "none", "batchmean"}
        ``"batchmean"`` divides the sum by the length of the first axis, which gives the divergence
        of one distribution; ``"mean"`` divides by the number of all elements.
    log_target : bool

    Returns
    -------
    Tensor or ndarray
        A number, or with ``"none"`` one for each element.

    Raises
    ------
    ValueError
        If the reduction has another name, or for ``"batchmean"`` if `input` has no axes.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    >>> float(autograd.nn.kl_div(np.log(q), p, reduction="batchmean").round(4))
    0.1438
    """
    batchmean = isinstance(reduction, str) and reduction == "batchmean"
    if not batchmean:
        check_reduction(reduction, "'mean', 'sum', 'none' or 'batchmean'")
    input, target = as_array(input), as_array(target)
    if log_target:
        losses = np.exp(target) * (target - input)
    else:
        # log(0) is never taken: 0 times its infinite derivative would be NaN
        losses = target * np.log(np.where(target == 0, 1, target)) - target * input
    if not batchmean:
        return reduce_losses(losses, reduction)
    if np.ndim(input) == 0:
        raise ValueError("kl_div: reduction is 'batchmean', and input has no axes")
    return losses.sum() / (len(input) or np.nan)


def huber_loss(input, target, reduction="mean", delta=1.0, weight=None):
    """Half the squared difference up to `delta`, and from there on a line of slope `delta`.

    Huber 1964, doi:10.1214/aoms/1177703732.

    Parameters
    ----------
    input, target : Tensor or ndarray
    reduction : {"mean", "sum", "none"}
    delta : float
        More than 0.
    weight : Tensor or ndarray, optional
        Multiplies the losses; of the shape of `input`.

    Returns
    -------
    Tensor or ndarray
        A number, or with ``"none"`` one for each element.

    Raises
    ------
    ValueError
        If `delta` is not more than 0, or `weight` has another shape.

    Examples
    --------
    >>> import autograd
    >>> autograd.nn.huber_loss([0.0, 0.0, 0.0], [0.5, 1.0, 3.0], reduction="none").tolist()
    [0.125, 0.5, 2.5]
    """
    check_reduction(reduction)
    check_number("huber_loss", "delta", delta)
    if not delta > 0:
        raise ValueError(f"huber_loss: delta is {delta}; expected more than 0")
    input, target, weight = map(as_array, (input, target, weight))
    losses = huber(input - target, delta)
    if weight is not None and np.shape(weight) != np.shape(input):
        raise ValueError(
            f"huber_loss: weight has shape {np.shape(weight)} and input {np.shape(input)}; "
            "expected the same"
        )
    return reduce_losses(losses if weight is None else losses * weight, reduction)


def smooth_l1_loss(input, target, reduction="mean", beta=1.0):
    """Return ``|input - target| - beta / 2``, with a parabola in its place within `beta` of 0.

    It is ``huber_loss`` with ``delta=beta``, divided by `beta`; with a `beta` of 0, the absolute
    difference. Girshick 2015, arXiv:1504.08083, equation 3.

    Parameters
    ----------
    input, target : Tensor or ndarray
    reduction : {"mean", "sum", "none"}
    beta : float
        0 or more.

    Returns
    -------
    Tensor or ndarray
        A number, or with ``"none"`` one for each element.

    Raises
    ------
    ValueError
        If `beta` is negative.

    Examples
    --------
    >>> import autograd
    >>> autograd.nn.smooth_l1_loss([0.0, 0.0], [0.5, 3.0], reduction="none").tolist()
    [0.125, 2.5]
    """
    check_reduction(reduction)
    check_number("smooth_l1_loss", "beta", beta)
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta is {beta}; expected 0 or more")
    difference = as_array(input) - as_array(target)
    return reduce_losses(huber(difference, beta) / beta if beta else abs(difference), reduction)


def huber(x, delta):
    """Return x^2 / 2 up to |x| = delta, and delta (|x| - delta / 2) from there on."""
    near = np.clip(x, -delta, delta)  # x, or delta with the sign of x
    return near * (x - near / 2)


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
    """Raise unless each position of input has a class, and weight and smoothing fit."""
    check_weight("cross_entropy", weight, input.shape[-1])
    check_classes("cross_entropy", input, target, ignore_index)
    check_floats("cross_entropy", input=input)
    check_number("cross_entropy", "label_smoothing", label_smoothing)


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
def _(weight=None, reduction="mean", label_smoothing=0.0, target=None, ignore_index=-100):
    counts = "[target ≠ ignore_index]" + (" · weight_{target}" if weight is not None else "")
    total = {"mean": "(Σ loss) / (Σ counts)", "sum": "Σ loss", "none": "loss"}[reduction]
    share = " / (Σ counts)" if reduction == "mean" else ""
    if target is not None and not shares(target.reshape(-1), weight, ignore_index, float)[1].sum():
        share = ""  # if nothing counts, the gradient is 0, and not 0 / 0
    logarithm = """
        m = max_c input_c
        l_c = input_c - m - log(Σ_k exp(input_k - m))  # log(p_c)
        p_c = exp(l_c)
    """
    if not label_smoothing:
        return f"""{logarithm}
            counts = {counts}
            loss = -counts · l_{{target}}
            out = {total}
            dinput_c = g · counts · (p_c - [c = target]){share}
        """
    aim = "((1 - label_smoothing) · [c = target] + label_smoothing / classes)"
    return f"""{logarithm}
        q_c = [target ≠ ignore_index] · {aim}{" · weight_c" if weight is not None else ""}
        loss = -Σ_c q_c · l_c
        counts = {counts}
        out = {total}
        dinput_c = g · (p_c · Σ_k q_k - q_c){share}
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

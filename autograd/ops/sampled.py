"""Functions that are known at points: evenly spaced points, interpolation, slopes and integrals."""

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from autograd.dispatch import plain
from autograd.ops.composing import array_of, composes

# ---- points


def shares(num, endpoint, ndim):
    """Return how far each of `num` points is on the way, from 0 to 1: (num, 1, ...)."""
    share = np.arange(num) / max(1, num - 1 if endpoint else num)
    return np.reshape(share, (-1,) + (1,) * ndim)


def joined_ndim(*arrays):
    """Return how many axes some arrays have if they are broadcast."""
    return max(map(np.ndim, arrays))


@composes(np.linspace, inputs=("start", "stop"))
def linspace(start, stop, num=50, endpoint=True, retstep=False, *, axis=0):
    """Return evenly spaced points: a share of stop, and the rest of start, exact at both ends."""
    start, stop = array_of(start), array_of(stop)
    share = shares(num, endpoint, joined_ndim(start, stop))
    out = np.moveaxis(start * (1 - share) + stop * share, 0, axis)
    n = num - 1 if endpoint else num
    return (out, (stop - start) / n if n > 0 else np.nan) if retstep else out


@composes(np.logspace, inputs=("start", "stop", "base"))
def _(start, stop, num=50, endpoint=True, base=10.0, *, axis=0):
    start, stop, base = array_of(start), array_of(stop), array_of(base)
    ndim = joined_ndim(start, stop, base)
    if base.ndim:
        start = np.reshape(start, (1,) * (ndim - start.ndim) + start.shape)
        base = np.expand_dims(np.reshape(base, (1,) * (ndim - base.ndim) + base.shape), axis)
    return base ** linspace(start, stop, num, endpoint, axis=axis)


@composes(np.geomspace, inputs=("start", "stop"))
def _(start, stop, num=50, endpoint=True, *, axis=0):
    start, stop = array_of(start), array_of(stop)
    share = shares(num, endpoint, joined_ndim(start, stop))
    sign = np.sign(plain(start))
    return np.moveaxis(sign * (start * sign) ** (1 - share) * (stop * sign) ** share, 0, axis)


# ---- interpolation


@composes(np.interp, inputs=("x", "xp", "fp", "left", "right"))
def _(x, xp, fp, left=None, right=None, period=None):
    x, xp, fp = (np.astype(array_of(values), np.float64) for values in (x, xp, fp))
    if period is not None:
        period, left, right = abs(period), None, None
        x, xp = x % period, xp % period
        order = np.argsort(xp)
        xp, fp = xp[order], fp[order]
        # the last point stands once more before the first, and the first after the last
        xp = np.concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = np.concatenate([fp[-1:], fp, fp[:1]])
    if len(xp) == 1:
        out = np.broadcast_to(fp[0], x.shape)
    else:
        # at a point, the slope is that on its right; at the last, that on its left
        at = np.clip(np.searchsorted(xp, x, side="right"), 1, len(xp) - 1)
        width = xp[at] - xp[at - 1]
        slope = (fp[at] - fp[at - 1]) / np.where(width == 0, 1, width)
        out = np.where(width == 0, fp[at], fp[at - 1] + slope * (x - xp[at - 1]))
    out = np.where(x < xp[0], fp[0] if left is None else left, out)
    return np.where(x > xp[-1], fp[-1] if right is None else right, out)


@composes(np.unwrap)
def _(p, discont=None, axis=-1, *, period=2 * np.pi):
    # the whole periods that are added do not depend on small changes of p
    return p + (np.unwrap(plain(p), discont, axis, period=period) - plain(p))


# ---- slopes, integrals and differences


@composes(np.trapezoid, inputs=("y", "x", "dx"))
def _(y, x=None, dx=1.0, axis=-1):
    y = np.moveaxis(array_of(y), axis, -1)
    if x is not None:
        x = array_of(x)
        dx = np.diff(x if x.ndim == 1 else np.moveaxis(x, axis, -1))
    return np.sum(dx * (y[..., 1:] + y[..., :-1]) / 2, -1)


@composes(np.gradient, inputs=("f", "varargs"))
def _(f, *varargs, axis=None, edge_order=1):
    f = array_of(f)
    axes = normalize_axis_tuple(range(f.ndim) if axis is None else axis, f.ndim)
    steps = varargs or (1.0,)
    steps = steps * len(axes) if len(steps) == 1 and np.ndim(steps[0]) == 0 else steps
    found = []
    for a, step in zip(axes, steps, strict=True):
        step = array_of(step)
        if step.ndim:
            step = np.diff(step.astype(float))  # unsigned integers have no negative differences
        slopes = slopes_along(np.moveaxis(f, a, -1).astype(float), step, edge_order)
        found.append(np.moveaxis(slopes, -1, a))
    return found[0] if len(found) == 1 else tuple(found)


def slopes_along(f, step, edge_order):
    """Return the slopes of f at its points on the last axis, which are `step` apart.

    At a point with the steps h0 to the left and h1 to the right, the slope is that of the parabola
    through the point and its neighbours f0 and f2,
    -h1 / (h0 (h0 + h1)) f0 + (h1 - h0) / (h0 h1) f1 + h0 / (h1 (h0 + h1)) f2. At the ends, it is
    that of the first or last line, d, or of the parabola there, if `edge_order` is 2. Fornberg
    1988, doi:10.1090/S0025-5718-1988-0935077-0.
    """
    h = np.broadcast_to(step, (f.shape[-1] - 1,))
    h0, h1 = h[:-1], h[1:]
    f0, f1, f2 = f[..., :-2], f[..., 1:-1], f[..., 2:]
    if np.ndim(step):
        inner = -h1 / (h0 * (h0 + h1)) * f0 + (h1 - h0) / (h0 * h1) * f1
        inner = inner + h0 / (h1 * (h0 + h1)) * f2
    else:
        inner = (f2 - f0) / (2 * step)
    d = np.diff(f) / h
    first, last = d[..., :1], d[..., -1:]
    if edge_order == 2:
        bend = (d[..., 1:] - d[..., :-1]) / (h0 + h1)
        first, last = first - (bend * h0)[..., :1], last + (bend * h1)[..., -1:]
    return np.concatenate([first, inner, last], -1)


@composes(np.ediff1d, inputs=("ary", "to_end", "to_begin"))
def _(ary, to_end=None, to_begin=None):
    parts = [to_begin, np.diff(np.ravel(array_of(ary))), to_end]
    return np.concatenate([np.ravel(array_of(part)) for part in parts if part is not None])


def so_far(function, start):
    """Return what ``np.cumulative_sum`` or ``np.cumulative_prod`` does on tensors."""

    def run(x, *, axis=None, include_initial=False):
        x, axis = np.atleast_1d(x), 0 if axis is None else axis
        out = function(x, axis)
        shape = list(x.shape)
        shape[axis] = 1
        first = np.full(shape, start, x.dtype)
        return np.concatenate([first, out], axis) if include_initial else out

    return run


if hasattr(np, "cumulative_sum"):  # since NumPy 2.1
    composes(np.cumulative_sum)(so_far(np.cumsum, 0))
    composes(np.cumulative_prod)(so_far(np.cumprod, 1))

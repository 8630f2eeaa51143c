"""Kernels over all parameters: AdamW, the norm of the gradients, and their scaling.

They are called by `npgpt.training.optim`, with flat arrays that are updated in place. A model has
many small arrays, so each kernel runs once, on the pieces of all arrays: a row of the kernel is a
piece of up to 2^16 elements, given by its address and length (see `pieces`).

AdamW and the scaling compute element by element in the dtype of the parameter, so their results
have the same bits with any number of threads, and differ from NumPy's where a multiplication and an
addition are rounded once. The norm sums the squares of each piece in float64; the sums of the
pieces are added exactly and rounded once, so the order does not matter.
"""

import math
from functools import lru_cache
from itertools import chain

import numpy as np

from autograd.kernels.intrinsics import vector_at
from autograd.kernels.jit import EXACT, SUMS, address_of, inline, takes
from autograd.kernels.team import row_kernel, split

PIECE = 2**16  # elements


# One update of an element. The mean of the gradients and the mean of their squares move a little
# towards the new gradient and its square: with beta1 = 0.9, rest1 = 0.1, a mean of 1 and a gradient
# of 2, the new mean is 1 * 0.9 + 2 * 0.1 = 1.1. Then weight decay shrinks the parameter, and the
# parameter moves against the mean, divided by the root of the mean square. `size` is the learning
# rate and `root` a factor of the root, both with Adam's corrections for the first updates. NumPy
# would read and write these arrays in about ten passes; the loop needs one.


@row_kernel(EXACT)
def _adamw(
    ps, gs, means, squares, sizes, shrinks, like, rate, root, eps, beta1, beta2, rest1, rest2
):  # fmt: skip
    real = like.dtype.type
    for k in range(sizes.size):
        n, shrink = sizes[k], real(shrinks[k])
        p, g = vector_at(like, ps[k], n), vector_at(like, gs[k], n)
        mean, square = vector_at(like, means[k], n), vector_at(like, squares[k], n)
        for i in range(n):
            mean[i] = mean[i] * beta1 + g[i] * rest1
            square[i] = square[i] * beta2 + g[i] * g[i] * rest2
            p[i] = p[i] * shrink - mean[i] / (real(math.sqrt(square[i])) * root + eps) * rate


@inline(SUMS)
def _squares_in_lanes(g):
    """Return the sum of squares, in float64; terms may be reordered, into parallel lanes."""
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * np.float64(g[i])
    return total


@row_kernel(EXACT)
def _squares(gs, sizes, totals, like):
    for k in range(sizes.size):
        totals[k] = _squares_in_lanes(vector_at(like, gs[k], sizes[k]))


@row_kernel(EXACT)
def _scale(gs, sizes, like, scale):
    for k in range(sizes.size):
        g = vector_at(like, gs[k], sizes[k])
        for i in range(g.size):
            g[i] *= scale


def adamw(parameters, size, root, eps, betas):
    """Update flat parameters in place, each given as (parameter, gradient, mean, square, shrink).

    The numbers become the parameter's dtype first: float32 times a float64 number would be computed
    in float64.
    """
    if not parameters:
        return None
    *lists, shrinks = zip(*parameters, strict=True)
    lengths, *others = (tuple([x.size for x in arrays]) for arrays in lists)
    if not are_flat(*chain(*lists)) or others != [lengths] * len(others):
        return NotImplemented
    like = lists[0][0][:0]
    which, starts, sizes = pieces(lengths)
    addresses = [addresses_of(arrays)[which] + starts * like.itemsize for arrays in lists]
    numbers = map(like.dtype.type, (size, root, eps, *betas, *(1 - beta for beta in betas)))
    rows = (*addresses, sizes, np.array(shrinks)[which])
    split(_adamw, rows, like, *numbers, size=int(sizes.sum()))
    return None


def global_norm(gradients):
    """Return the joint Euclidean norm of flat arrays, summed in float64 in a fixed order."""
    if not are_flat(*gradients):
        return NotImplemented
    if not gradients:
        return 0.0
    like = gradients[0][:0]
    which, starts, sizes = pieces(tuple([g.size for g in gradients]))
    addresses = addresses_of(gradients)[which] + starts * like.itemsize
    totals = np.empty(len(sizes))
    split(_squares, (addresses, sizes, totals), like, size=int(sizes.sum()))
    return math.sqrt(math.fsum(totals.tolist()))


def scale_all(gradients, scale):
    """Multiply flat gradients by a number, in place."""
    if not are_flat(*gradients):
        return NotImplemented
    if not gradients:
        return None
    like = gradients[0][:0]
    which, starts, sizes = pieces(tuple([g.size for g in gradients]))
    addresses = addresses_of(gradients)[which] + starts * like.itemsize
    split(_scale, (addresses, sizes), like, like.dtype.type(scale), size=int(sizes.sum()))
    return None


def are_flat(*arrays):
    """Return whether kernels are compiled for arrays of one dtype, each one axis without gaps."""
    return not arrays or (
        takes(*arrays) and all([x.ndim == 1 and x.flags.c_contiguous for x in arrays])
    )


def addresses_of(arrays):
    """Return where the elements of some arrays begin."""
    return np.array([address_of(x) for x in arrays])


@lru_cache(maxsize=16)
def pieces(sizes):
    """Cut arrays of these sizes into pieces; return whose each is, where it begins, and its size.

    Arrays of 150,000 and of 10 elements have the pieces 0, 0, 0 and 1, which begin at 0, 65,536,
    131,072 and 0, and have 65,536, 65,536, 18,928 and 10 elements.
    """
    all_sizes = np.array(sizes)
    counts = -(-all_sizes // PIECE)
    which = np.repeat(np.arange(len(sizes)), counts)
    starts = PIECE * (np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts))
    return which, starts, np.minimum(all_sizes[which] - starts, PIECE)

"""Kernels over all parameters: AdamW, the norm of the gradients, and their scaling.

They are called by `npgpt.training.optim`, with flat arrays that are updated in place. The threads
share the elements of one parameter after the other.

AdamW and the scaling compute element by element in the dtype of the parameter, so their results
have the same bits with any number of threads, and differ from NumPy's where a multiplication and an
addition are rounded once. The norm sums squares in float64, in blocks of 2^16 elements that the
threads share; the sums of the blocks are added exactly and rounded once, so the order does not
matter.
"""

import math

import numpy as np

from autograd.kernels.jit import EXACT, SUMS, alike, inline
from autograd.kernels.team import row_kernel, split

BLOCK = 2**16  # elements whose squares are summed together


# One update of an element. The mean of the gradients and the mean of their squares move a little
# towards the new gradient and its square: with beta1 = 0.9, rest1 = 0.1, a mean of 1 and a gradient
# of 2, the new mean is 1 * 0.9 + 2 * 0.1 = 1.1. Then weight decay shrinks the parameter, and the
# parameter moves against the mean, divided by the root of the mean square. `size` is the learning
# rate and `root` a factor of the root, both with Adam's corrections for the first updates. NumPy
# would read and write these arrays in about ten passes; the loop needs one.


@row_kernel(EXACT)
def _adamw(p, g, mean, square, shrink, size, root, eps, beta1, beta2, rest1, rest2):
    real = p.dtype.type
    for i in range(p.size):
        mean[i] = mean[i] * beta1 + g[i] * rest1
        square[i] = square[i] * beta2 + g[i] * g[i] * rest2
        p[i] = p[i] * shrink - mean[i] / (real(math.sqrt(square[i])) * root + eps) * size


@inline(SUMS)
def _squares_in_lanes(g):
    """Return the sum of squares, in float64; terms may be reordered, into parallel lanes."""
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * np.float64(g[i])
    return total


@row_kernel(EXACT)
def _squares(starts, totals, g):
    for k in range(starts.size):
        totals[k] = _squares_in_lanes(g[starts[k] : starts[k] + BLOCK])


@row_kernel(EXACT)
def _scale(g, scale):
    for i in range(g.size):
        g[i] *= scale


def adamw(parameters, size, root, eps, betas):
    """Update flat parameters in place, each given as (parameter, gradient, mean, square, shrink).

    The numbers become the parameter's dtype first: float32 times a float64 number would be computed
    in float64.
    """
    if not all(is_flat(*arrays) for *arrays, _ in parameters):
        return NotImplemented
    rests = [1 - beta for beta in betas]
    for *arrays, shrink in parameters:
        real = arrays[0].dtype.type
        split(_adamw, tuple(arrays), *map(real, (shrink, size, root, eps, *betas, *rests)))
    return None


def global_norm(gradients):
    """Return the joint Euclidean norm of flat arrays, summed in float64 in a fixed order."""
    if not all(map(is_flat, gradients)):
        return NotImplemented
    squares = []
    for g in gradients:  # of 150,000 elements: blocks that begin at 0, 65,536 and 131,072
        starts = np.arange(0, g.size, BLOCK)
        totals = np.empty(len(starts))
        split(_squares, (starts, totals), g, size=g.size)
        squares += totals.tolist()
    return math.sqrt(math.fsum(squares))


def scale_all(gradients, scale):
    """Multiply flat gradients by a number, in place."""
    if not all(map(is_flat, gradients)):
        return NotImplemented
    for g in gradients:
        split(_scale, (g,), g.dtype.type(scale))
    return None


def is_flat(*arrays):
    """Return whether kernels are compiled for these arrays, and each is one axis without gaps."""
    return alike(*arrays) and all(x.ndim == 1 and x.flags.c_contiguous for x in arrays)

"""Sums over a row, and its maximum, for the kernels of functions of a row.

A sum of many float32 numbers loses digits: 0.1 added 100 million times gives 2 million in the place
of 10 million. A sum in float64 loses none that matter, but takes twice the time, since a vector
holds half as many numbers. So a row is summed in two steps: blocks of 1024 terms in the row's own
precision, and the sums of the blocks in float64. The sum of a row of 5000 numbers is that of 5
numbers in float64, of which each is a sum of up to 1024 in float32.
"""

import numpy as np

from autograd.kernels.jit import EXACT, SUMS, inline
from autograd.kernels.vector import disordered, exp, ordered

BLOCK = 1024  # terms


@inline(EXACT)
def largest(row):
    """Return the maximum of a row; -inf for a row without elements.

    A NaN in the row may be passed over. Functions of a row compute exp(x - maximum) next, which is
    NaN for that element, so the NaN is not lost. The comparison is one of integers, for which the
    compiler has vector instructions (see `autograd.kernels.vector.ordered`).
    """
    top = ordered(row.dtype.type(-np.inf))
    for i in range(row.size):
        k = ordered(row[i])
        top = k if k > top else top
    return disordered(top)


# ---- a block: in the precision of the row


@inline(SUMS)
def block_sum(row):
    """Return the sum of up to `BLOCK` terms."""
    total = row.dtype.type(0)
    for i in range(row.size):
        total += row[i]
    return total


@inline(SUMS)
def block_sum_exp(row, shift):
    """Return the sum of exp(x - shift) over up to `BLOCK` elements."""
    total = row.dtype.type(0)
    for i in range(row.size):
        total += exp(row[i] - shift)
    return total


@inline(SUMS)
def block_dot(a, b):
    """Return the sum of products over up to `BLOCK` elements."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@inline(SUMS)
def block_squares(row, shift):
    """Return the sum of (x - shift)^2 over up to `BLOCK` elements."""
    total = row.dtype.type(0)
    for i in range(row.size):
        total += (row[i] - shift) * (row[i] - shift)
    return total


# ---- a row: the blocks' sums, in float64


@inline(EXACT)
def sum_of(row):
    """Return the sum of a row."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_sum(row[start : start + BLOCK])
    return total


@inline(EXACT)
def dot(a, b):
    """Return the sum of products."""
    total = 0.0
    for start in range(0, a.size, BLOCK):
        total += block_dot(a[start : start + BLOCK], b[start : start + BLOCK])
    return total


def by_blocks(block):
    """Return a function of a row and a number that adds up `block` of each of the row's blocks."""

    @inline(EXACT)
    def total_of(row, shift):
        total = 0.0
        for start in range(0, row.size, BLOCK):
            total += block(row[start : start + BLOCK], shift)
        return total

    return total_of


sum_exp = by_blocks(block_sum_exp)
squares = by_blocks(block_squares)


@inline(SUMS)
def excess(row, shift, weight):
    """Return the sum of (x - shift) weight, each term in float64: it may leave float32's range."""
    total = 0.0
    for i in range(row.size):
        total += (np.float64(row[i]) - shift) * weight[i]
    return total

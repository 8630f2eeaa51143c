"""Sums over a row, for the kernels of functions of a row."""

import numpy as np

from autograd.kernels.jit import (
    EXACT,
    SUMS,
    inline,
)
from autograd.kernels.vector import disordered, exp, ordered

BLOCK = 1024  # terms that are summed in the row's own precision, in parallel lanes


@inline(EXACT)
def largest(row):
    """Return the maximum, of none -inf. NaN may or may not win; it comes through exp() anyhow."""
    top = ordered(row.dtype.type(-np.inf))
    for i in range(row.size):
        k = ordered(row[i])
        top = k if k > top else top
    return disordered(top)


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


@inline(EXACT)
def sum_of(row):
    """Return the sum of a row, in float64."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_sum(row[start : start + BLOCK])
    return total


@inline(SUMS)
def excess(row, shift, weight):
    """Return the sum of (x - shift) weight, in float64: it may leave float32's range."""
    total = 0.0
    for i in range(row.size):
        total += (np.float64(row[i]) - shift) * weight[i]
    return total


@inline(EXACT)
def sum_exp(row, shift):
    """Return the sum of exp(x - shift), in float64."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_sum_exp(row[start : start + BLOCK], shift)
    return total


@inline(EXACT)
def dot(a, b):
    """Return the sum of products, in float64."""
    total = 0.0
    for start in range(0, a.size, BLOCK):
        total += block_dot(a[start : start + BLOCK], b[start : start + BLOCK])
    return total


@inline(EXACT)
def squares(row, shift):
    """Return the sum of (x - shift)^2, in float64."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_squares(row[start : start + BLOCK], shift)
    return total

"""Dropout."""

import math
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from autograd.kernels import kernel
from autograd.op import op
from autograd.ops import special
from autograd.ops.checks import (
    check_floats,
    check_probability,
)


def new_seed(generator=None):
    """Draw the seed of one dropout mask; without a generator, from NumPy's entropy."""
    replayed, drawn = _replayed.get(), _drawn.get()
    if replayed is not None:
        seed = next(replayed, 0)  # 0 for a call too many, which `checkpoint` then notices
    else:
        seed = int((generator or np.random.default_rng()).integers(2**63))
    if drawn is not None:
        drawn.append(seed)
    return seed


_drawn = ContextVar("drawn", default=None)
_replayed = ContextVar("replayed", default=None)


@contextmanager
def seeds_drawn():
    """Give the list of the seeds that are drawn inside the block."""
    outer, seeds = _drawn.get(), []
    token = _drawn.set(seeds)
    try:
        yield seeds
    finally:
        _drawn.reset(token)
        if outer is not None:
            outer += seeds


@contextmanager
def seeds_replayed(seeds):
    """Draw these seeds again, in their order."""
    token = _replayed.set(iter(seeds))
    try:
        yield
    finally:
        _replayed.reset(token)


def dropout(input, p=0.5, training=True, generator=None):
    """Set each element to 0 with probability p and divide the others by 1 - p, while training.

    The mask is a function of a seed and of the element's position. The seed is drawn here, once a
    call, from `generator`, a ``numpy.random.Generator``.
    """
    check_probability("dropout", "p", p)
    return dropout_seeded(input, p, new_seed(generator)) if training and p > 0 else input


def dropout_mask(rows, columns, p, seed, dtype):
    """Return 0 (with probability p) and 1 / (1 - p) for some rows and columns of a mask."""
    threshold = np.uint32(min(round(p * 2**32), 2**32 - 1))
    mask = (special.random_bits(rows, columns, seed) >= threshold).astype(dtype)
    mask *= 1 / (1 - p)
    return mask


def dropout_like(x_shape, p, seed, dtype):
    """Return the mask of a whole array, its last axis the columns."""
    *lead, n_columns = x_shape or (1,)
    mask = dropout_mask(np.arange(math.prod(lead)), np.arange(n_columns), p, seed, dtype)
    return mask.reshape(x_shape)


@op
@kernel("dropout.dropout")
def dropout_seeded(input, p, seed):
    """Dropout with the mask that belongs to a seed."""
    check_floats("dropout", input=input)
    return input * dropout_like(input.shape, p, seed, input.dtype)


dropout_seeded.formula(
    "out = input · r  # r is 0 with probability p, else 1 / (1 - p); dinput = g · r",
    r=lambda input_shape, p, seed: dropout_like(input_shape, p, seed, float),
)


@dropout_seeded.vjp("input")
@kernel("dropout.dropout_vjp")
def _(g, input_shape, p, seed):
    return g * dropout_like(input_shape, p, seed, g.dtype)


@dropout_seeded.sample
def _(draw):
    return draw.call(draw.array(), 0.3, draw.integer(0, 2**40))

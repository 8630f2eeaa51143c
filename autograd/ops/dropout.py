"""Dropout, whose mask is a function of a seed, and the seeds that a block of code draws.

The mask is never stored: the rule makes it again from the seed. `autograd.checkpoint`, which runs a
function a second time during backward, must get the same masks; so it asks for the seeds that the
first run drew, and has them drawn again.

Several processes may compute a batch together, each a part of its samples. `masks_from` gives each
sample the mask that it has in the whole batch, whichever process computes it.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from autograd.kernels import kernel
from autograd.op import op
from autograd.ops import special
from autograd.ops.checks import check_floats, check_probability


def new_seed(generator=None, shape=()):
    """Draw the seed of one dropout mask from a generator, or without one from the system.

    `shape` is that of the mask. Inside `masks_from`, its first axis counts samples of a batch.
    Inside `seeds_replayed`, the seed is the next of those given. Inside `seeds_drawn`, it is noted.
    """
    replayed, drawn = _replayed.get(), _drawn.get()
    if replayed is not None:
        seed = next(replayed, 0)  # 0 if none is left: `checkpoint` notices that another was drawn
    else:
        seed = int((generator or np.random.default_rng()).integers(2**63))
        seed = special.seed_of_row(_first.get() * math.prod(shape[1:-1]), seed)
    if drawn is not None:
        drawn.append(seed)
    return seed


_first = ContextVar("first", default=0)


@contextmanager
def masks_from(first):
    """Draw masks inside the block for the samples of a batch from number `first` on.

    A batch may be computed in parts. Of a batch of 8 samples, the second half inside
    ``masks_from(4)`` has the masks that it has in the whole batch, if the generators of both are in
    the same state. The first axis of each array that is dropped from counts the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import nn
    >>> x, new = np.ones((8, 2, 3)), np.random.default_rng
    >>> whole = nn.dropout(x, 0.5, generator=new(0))
    >>> with masks_from(4):
    ...     part = nn.dropout(x[4:], 0.5, generator=new(0))
    >>> bool(np.all(part == whole[4:]))
    True
    """
    token = _first.set(first)
    try:
        yield
    finally:
        _first.reset(token)


_drawn = ContextVar("drawn", default=None)
_replayed = ContextVar("replayed", default=None)


@contextmanager
def seeds_drawn():
    """Collect the seeds that are drawn inside the block, in the list that it is given.

    Blocks may be nested: seeds of an inner block are added to the outer block's list at its end.
    """
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
    """Let `new_seed` return these seeds inside the block, in their order."""
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
    return (
        dropout_seeded(input, p, new_seed(generator, np.shape(input)))
        if training and p > 0
        else input
    )


def dropout_mask(rows, columns, p, seed, dtype):
    """Return a part of a mask, (len(rows), len(columns)): 0 with probability p, else 1 / (1 - p).

    An element is 0 if its 32 random bits, as an integer, are below p 2^32.
    """
    threshold = np.uint32(min(round(p * 2**32), 2**32 - 1))
    mask = (special.random_bits(rows, columns, seed) >= threshold).astype(dtype)
    mask *= 1 / (1 - p)
    return mask


def dropout_like(x_shape, p, seed, dtype):
    """Return the mask of a whole array, its last axis the columns."""
    *lead, n_columns = x_shape or (1,)
    mask = dropout_mask(np.arange(math.prod(lead)), np.arange(n_columns), p, seed, dtype)
    return mask.reshape(x_shape)


def check_dropout(input, p, seed):
    """Raise unless input holds floating-point numbers."""
    check_floats("dropout", input=input)


@op
@kernel("dropout.dropout", check=check_dropout)
def dropout_seeded(input, p, seed):
    """Dropout with the mask that belongs to a seed."""
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

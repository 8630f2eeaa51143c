"""Hypothesis strategies for tests of ops: arrays, tensors, orders in memory, and calls of an op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd.op import Op
from autograd.tensor import Tensor

GENERIC = 200  # draws, to find generic calls
LAYOUTS = ("C", "strided", "reversed", "Fortran")


def laid_out(x: ndarray, layout: str) -> ndarray:
    """Return an array with the same values in another order in memory.

    Parameters
    ----------
    x : ndarray
    layout : {"C", "strided", "reversed", "Fortran"}

    Examples
    --------
    >>> import numpy as np
    >>> laid_out(np.ones((2, 3)), "reversed").strides
    (24, -8)
    """
    if layout == "Fortran":
        return np.array(x, order="F")
    if layout == "strided" and x.ndim:
        gap = np.nan if x.dtype.kind == "f" else 0
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), gap, x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "reversed" and x.ndim:
        return x[..., ::-1].copy()[..., ::-1]
    return x


class Call(NamedTuple):
    """The arguments of one call of an op."""

    args: tuple
    kwargs: dict[str, Any]


class Draw:
    """The source of random values that is given to an op's sampler.

    Examples
    --------
    The op is called with a matrix and one of its axes::

        @total.sample
        def _(draw):
            return draw.call(draw.array(shape=(2, 3)), draw.axis(2))
    """

    generic: type[GenericDraw]  # a source of the same kind of calls, without what is special

    def __init__(self, draw: Callable) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return self._draw(st.integers(low, high))

    def boolean(self) -> bool:
        """Return True or False."""
        return self._draw(st.booleans())

    def choice(self, options: Sequence) -> Any:
        """Return one of the options."""
        return options[self.integer(0, len(options) - 1)]

    def axis(self, ndim: int) -> int:
        """Return an axis, counted from the front or from the end."""
        return self.integer(-ndim, ndim - 1)

    def axes(self, ndim: int) -> Any:
        """Return an axis, a tuple of axes, or None for all."""
        if ndim == 0:
            return None
        return self.choice([None, self.axis(ndim), tuple(range(self.integer(1, ndim)))])

    def shape(
        self, min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 3
    ) -> tuple[int, ...]:
        """Return a shape; axes of length 0 and 1 are frequent."""
        dims = dict(min_dims=min_dims, max_dims=max_dims, max_side=max_side)
        full = hnp.array_shapes(min_side=max(1, min_side), **dims)
        return self._draw(full | hnp.array_shapes(min_side=min_side, **dims))

    def integers(self, shape: tuple[int, ...], low: int, high: int) -> ndarray:
        """Return an array of integers from low to high, both included."""
        return self._draw(hnp.arrays(np.int64, shape, elements=st.integers(low, high)))

    def array(
        self,
        shape: tuple[int, ...] | None = None,
        low: float = -2.0,
        high: float = 2.0,
        kinks: tuple[float, ...] = (),
        dtype: DTypeLike = np.float64,
        **limits: int,
    ) -> ndarray:
        """Return a floating-point array in any memory order.

        The elements are at least 0.1 away from each of the `kinks`, where the op has no derivative.
        """
        shape = self.shape(**limits) if shape is None else shape
        x = self.integers(shape, round(low * 64), round(high * 64)) / 64  # exact in float32 too
        for kink in kinks:
            x = np.where(np.abs(x - kink) < 0.1, kink + 0.15, x)
        return laid_out(np.asarray(x, dtype), self.choice(LAYOUTS))

    def arrays(self, n: int) -> list[ndarray]:
        """Return arrays whose shapes broadcast together."""
        return [self.array(shape=shape) for shape in self.broadcastable(n)]

    def broadcastable(self, n: int) -> Sequence[tuple[int, ...]]:
        """Return shapes that broadcast together; often all are equal."""
        if self.boolean():
            return [self.shape()] * n
        shapes = hnp.mutually_broadcastable_shapes(
            num_shapes=n, max_dims=3, min_side=self.integer(0, 1), max_side=3
        )
        return self._draw(shapes).input_shapes

    def shuffled(self, x: Any) -> Any:
        """Return the elements in another order, in the same shape."""
        order = self._draw(st.permutations(range(x.size)))
        return x.reshape(-1)[np.array(order, int)].reshape(x.shape)

    def call(self, *args: Any, **kwargs: Any) -> Call:
        """Return the arguments of a call.

        If ``draw.array()`` has no axes, NumPy makes a scalar of ``draw.array() + 1``. Such a scalar
        counts as an array.
        """
        return Call(tuple(np.asarray(x) if isinstance(x, np.floating) else x for x in args), kwargs)


def layouts() -> st.SearchStrategy[str]:
    """Return a strategy for the names of memory orders that `laid_out` takes.

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import given
    >>> @given(layouts())
    ... def test(layout):
    ...     assert (laid_out(np.eye(2), layout) == np.eye(2)).all()
    >>> test()
    """
    return st.sampled_from(LAYOUTS)


@st.composite
def arrays(
    draw: Callable,
    shape: tuple[int, ...] | None = None,
    dtype: DTypeLike = np.float64,
    min_value: float = -2.0,
    max_value: float = 2.0,
    kinks: tuple[float, ...] = (),
    **limits: int,
) -> ndarray:
    """Return a strategy for floating-point arrays in any memory order.

    The elements are multiples of 1/64, which float32 represents exactly. Zeros and equal elements
    are frequent.

    Parameters
    ----------
    shape : tuple of int, optional
        By default any shape of up to three axes with up to three elements each; axes of length 0
        and 1 are frequent.
    dtype : dtype_like
    min_value, max_value : float
    kinks : tuple of float
        Values that the elements keep a distance of 0.1 from.
    **limits : int
        Limits of the shape: min_dims, max_dims, min_side, max_side.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(arrays(min_side=1))
    ... def test(x):
    ...     assert x.size
    >>> test()
    """
    return Draw(draw).array(shape, min_value, max_value, kinks, dtype, **limits)


@st.composite
def tensors(
    draw: Callable,
    shape: tuple[int, ...] | None = None,
    dtype: DTypeLike = np.float64,
    min_value: float = -2.0,
    max_value: float = 2.0,
    kinks: tuple[float, ...] = (),
    requires_grad: bool = True,
    **limits: int,
) -> Tensor:
    """Return a strategy for Tensors; the arguments are those of `arrays`.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(tensors(shape=(2, 3)))
    ... def test(x):
    ...     assert x.shape == (2, 3) and x.requires_grad
    >>> test()
    """
    x = Draw(draw).array(shape, min_value, max_value, kinks, dtype, **limits)
    # not tensor(x): a copy may have another memory order
    return Tensor(x).requires_grad_(requires_grad)


@st.composite
def broadcastable(
    draw: Callable,
    n: int,
    dtype: DTypeLike = np.float64,
    min_value: float = -2.0,
    max_value: float = 2.0,
) -> tuple[ndarray, ...]:
    """Return a strategy for tuples of n arrays whose shapes broadcast together.

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import given
    >>> @given(broadcastable(2))
    ... def test(pair):
    ...     np.broadcast(*pair)
    >>> test()
    """
    source = Draw(draw)
    shapes = source.broadcastable(n)
    return tuple(source.array(shape, min_value, max_value, dtype=dtype) for shape in shapes)


def op_calls(op: Op, source: type[Draw] = Draw) -> st.SearchStrategy[Call]:
    """Return a strategy for the arguments of an op.

    The op's sampler draws them if the op has one. Otherwise they are arrays that broadcast
    together, inside the op's domain and away from its kinks.

    Parameters
    ----------
    op : Op
    source : type
        `Draw`, or `PlainDraw` for calls with the plainest options alone.

    Returns
    -------
    SearchStrategy of Call
        The op can be called as ``op(*call.args, **call.kwargs)``.

    Examples
    --------
    >>> import autograd
    >>> from hypothesis import given
    >>> @given(op_calls(autograd.REGISTRY["multiply"]))
    ... def test(call):
    ...     assert len(call.args) == 2 and not call.kwargs
    >>> test()
    """

    @st.composite
    def calls(draw: Callable) -> Call:
        return draw_call(op, source(draw))

    return calls()


def draw_call(op: Op, draw: Draw) -> Call:
    """Return the arguments of one call of an op, from a source of random values."""
    if op.sampler is not None:
        return op.sampler(draw)
    args = []
    required = [name for name in op.names if name not in op.defaults]
    for name, shape in zip(required, draw.broadcastable(len(required)), strict=True):
        low, high = op.domain.get(name, (-2.0, 2.0))
        args.append(draw.array(shape=shape, low=low, high=high, kinks=op.kinks))
    return Call(tuple(args), {})


class GenericDraw(Draw):
    """A source of random values that avoids what is special.

    Axes have two or three elements, arrays are in C order, and their elements are not near 0, as
    far as an op's sampler leaves the choice. The same seed gives the same values.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return int(self._random.integers(low, high, endpoint=True))

    def boolean(self) -> bool:
        """Return True or False."""
        return self.integer(0, 1) == 1

    def axis(self, ndim: int) -> int:
        """Return an axis, counted from the front."""
        return self.integer(0, ndim - 1)

    def shape(
        self, min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 3
    ) -> tuple[int, ...]:
        """Return a shape without axes of length 0 or 1."""
        n = self.integer(min_dims, max_dims)
        return tuple(self.integer(min(max(min_side, 2), max_side), max_side) for _ in range(n))

    def integers(self, shape: tuple[int, ...], low: int, high: int) -> ndarray:
        """Return an array of integers from low to high, both included."""
        return self._random.integers(low, high, shape, endpoint=True)

    def array(
        self,
        shape: tuple[int, ...] | None = None,
        low: float = -2.0,
        high: float = 2.0,
        kinks: tuple[float, ...] = (),
        dtype: DTypeLike = np.float64,
        **limits: int,
    ) -> ndarray:
        """Return a floating-point array in C order, at a distance from each of the `kinks`."""
        shape = self.shape(**limits) if shape is None else shape
        x = self.integers(shape, round(low * 64), round(high * 64)) / 64
        for kink in (0.0, *kinks) if low < 0 < high else kinks:
            x = np.where(np.abs(x - kink) < 0.15, kink + 0.2 + np.abs(x - kink), x)
        return np.asarray(x, dtype)

    def broadcastable(self, n: int) -> list[tuple[int, ...]]:
        """Return shapes that broadcast together: the first is the longest."""
        shape = self.shape()
        return [shape[self.integer(0, len(shape) // 2) if i else 0 :] for i in range(n)]

    def shuffled(self, x: Any) -> Any:
        """Return the elements in another order, in the same shape."""
        return self._random.permutation(x.reshape(-1)).reshape(x.shape)


class PlainDraw(Draw):
    """A source of random values that leaves the options of a call at the plainest.

    Options are by convention the first of the choices of a sampler, and False. Choices among shapes
    are free.
    """

    def boolean(self) -> bool:
        """Return False."""
        return False

    def choice(self, options: Sequence) -> Any:
        """Return the first of the options; any of them if they are shapes."""
        if all(isinstance(option, tuple) for option in options):
            return super().choice(options)
        return options[0]

    def axis(self, ndim: int) -> int:
        """Return the last axis."""
        return -1


class PlainGenericDraw(PlainDraw, GenericDraw):
    """A source of generic values for calls with the plainest options."""


class TextbookDraw(PlainGenericDraw):
    """A source of generic values for the plainest calls: all shapes are equal, too."""

    def choice(self, options: Sequence) -> Any:
        """Return the first of the options."""
        return options[0]

    def broadcastable(self, n: int) -> list[tuple[int, ...]]:
        """Return equal shapes."""
        return [self.shape()] * n


Draw.generic = GenericDraw
PlainDraw.generic = PlainGenericDraw


def generic_calls(op: Op, n: int, source: type[GenericDraw] = GenericDraw) -> list[Call]:
    """Return at most n calls of an op whose floating-point arrays have nothing special.

    They are in C order, have at least two elements along each axis, are no square matrices, and
    have elements that are neither equal nor near 0. Those with matrices come first. The list is
    empty if the op's sampler draws no such call.
    """
    found: list[Call] = []
    for seed in range(GENERIC):
        call = draw_call(op, source(seed))
        if all(map(_is_generic, floating_arrays(call))):
            found.append(call)
    return sorted(found, key=lambda call: abs(largest_ndim(call) - 2))[:n]


def largest_ndim(call: Call) -> int:
    """Return the largest number of axes of a floating-point array of a call."""
    return max((x.ndim for x in floating_arrays(call)), default=0)


def floating_arrays(call: Call) -> list[ndarray]:
    """Return the floating-point arrays among the arguments of a call."""
    arguments = (*call.args, *call.kwargs.values())
    return [x for x in arguments if isinstance(x, ndarray) and x.dtype.kind == "f"]


def _is_generic(x: ndarray) -> bool:
    return (
        x.flags.c_contiguous
        and x.ndim > 0
        and min(x.shape) > 1
        and (x.ndim != 2 or x.shape[0] != x.shape[1])
        and np.unique(np.abs(x)).size == x.size
        and float(np.min(np.abs(x))) > 0.05
    )

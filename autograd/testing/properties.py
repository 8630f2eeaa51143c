"""What must hold for every op: inputs that hypothesis draws, and the properties to test on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy import ndarray

from autograd.engine import no_grad
from autograd.op import Op
from autograd.tensor import Tensor, grad, tensor
from autograd.testing.gradcheck import gradcheck, gradgradcheck

LAYOUTS = ("C", "strided", "reversed", "Fortran")


def laid_out(x: ndarray, layout: str) -> ndarray:
    """Return the same values with another layout in memory."""
    if layout == "Fortran":
        return np.array(x, order="F")
    if layout == "strided" and x.ndim:
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan)
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
    """What an op's sampler draws its arguments from."""

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
        """Return a shape; sides of 0 and 1 are common."""
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
        **limits: int,
    ) -> ndarray:
        """Return a float64 array of any layout, at least 0.1 away from the kinks."""
        shape = self.shape(**limits) if shape is None else shape
        x = self.integers(shape, round(low * 64), round(high * 64)) / 64  # exact in float32 too
        for kink in kinks:
            x = np.where(np.abs(x - kink) < 0.1, kink + 0.15, x)
        return laid_out(np.asarray(x), self.choice(LAYOUTS))

    def arrays(self, n: int) -> list[ndarray]:
        """Return arrays whose shapes broadcast together."""
        return [self.array(shape=shape) for shape in self.broadcastable(n)]

    def broadcastable(self, n: int) -> Sequence[tuple[int, ...]]:
        """Return shapes that broadcast together; often all the same."""
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
        """Return the arguments of a call."""
        return Call(args, kwargs)


def op_calls(op: Op) -> st.SearchStrategy[Call]:
    """Return a strategy for an op's arguments, from its sampler, domain and kinks.

    Parameters
    ----------
    op : Op

    Returns
    -------
    SearchStrategy of Call
        Whose ``args`` and ``kwargs`` fit ``op(*args, **kwargs)``.
    """

    @st.composite
    def calls(draw: Callable) -> Call:
        source = Draw(draw)
        if op.sampler is not None:
            return op.sampler(source)
        args = []
        required = [name for name in op.names if name not in op.defaults]
        shapes = source.broadcastable(len(required))
        for name, shape in zip(required, shapes, strict=True):
            low, high = op.domain.get(name, (-2.0, 2.0))
            args.append(source.array(shape=shape, low=low, high=high, kinks=op.kinks))
        return Call(tuple(args), {})

    return calls()


def differentiable(op: Op, call: Call) -> list[int]:
    """Return the positions of the arguments that the op has rules for and that are arrays."""
    ruled = {position for rule in op.rules for position in rule.positions}
    return [
        i
        for i, x in enumerate(call.args)
        if isinstance(x, ndarray) and x.dtype.kind == "f" and (op.variadic or i in ruled)
    ]


def _function(op: Op, call: Call) -> tuple[Callable, list]:
    """Return the op as a function of its differentiable arguments, and these."""
    positions = differentiable(op, call)

    def function(*values: Any) -> Any:
        args = list(call.args)
        for position, value in zip(positions, values, strict=True):
            args[position] = value
        return op(*args, **call.kwargs)

    return function, [call.args[i] for i in positions]


def value_is_numpys(op: Op, call: Call) -> None:
    """Check that an op returns on Tensors what its function and its reference return on arrays."""
    function, inputs = _function(op, call)
    plain = function(*inputs)
    with no_grad():
        wrapped = function(
            *map(Tensor, inputs)
        )  # the arrays themselves: a copy's layout may differ
    recorded = function(*(Tensor(x).requires_grad_() for x in inputs))
    parts = (
        zip(plain, wrapped, recorded, strict=True) if op.multiple else [(plain, wrapped, recorded)]
    )
    for p, w, r in parts:
        np.testing.assert_array_equal(p, w.numpy())
        np.testing.assert_array_equal(p, r.numpy())
    if op.reference_function is not None:
        args = op._bind(call.args, call.kwargs)
        np.testing.assert_allclose(plain, op.reference_function(*args), rtol=1e-12, atol=1e-13)


def gradient_is_right(op: Op, call: Call) -> None:
    """Check the rules against central differences."""
    function, inputs = _function(op, call)
    gradcheck(function, inputs, name=op.name)


def second_derivative_is_right(op: Op, call: Call) -> None:
    """Check the derivative of the rules, run on Tensors."""
    function, inputs = _function(op, call)
    gradgradcheck(function, inputs, name=op.name)


def dtype_is_kept(op: Op, call: Call) -> None:
    """Check that float32 gives float32 results and gradients, close to those in float64."""
    function, inputs = _function(op, call)

    def run(dtype: Any) -> list[ndarray]:
        leaves = [tensor(x.astype(dtype), requires_grad=True) for x in inputs]
        outputs = function(*leaves)
        outputs = outputs if op.multiple else (outputs,)
        gradients = grad(outputs, leaves, [np.ones(y.shape) for y in outputs])
        return [y.numpy() for y in (*outputs, *gradients)]

    for single, double in zip(run(np.float32), run(np.float64), strict=True):
        if op.name != "astype":
            assert single.dtype == np.float32, f"{op.name}: float32 became {single.dtype}"
        largest = np.max(np.abs(double), initial=1)
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=2e-6 * largest)


def layout_does_not_matter(op: Op, call: Call) -> None:
    """Check that contiguous copies of the inputs give the same values and gradients."""
    function, inputs = _function(op, call)

    def run(arrays: Sequence[ndarray]) -> list[ndarray]:
        leaves = [Tensor(x).requires_grad_() for x in arrays]
        outputs = function(*leaves)
        outputs = outputs if op.multiple else (outputs,)
        gradients = grad(outputs, leaves, [np.ones(y.shape) for y in outputs])
        return [y.numpy() for y in (*outputs, *gradients)]

    for a, b in zip(run(inputs), run([np.ascontiguousarray(x).reshape(x.shape) for x in inputs]),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


PROPERTIES = (
    value_is_numpys,
    gradient_is_right,
    second_derivative_is_right,
    dtype_is_kept,
    layout_does_not_matter,
)


def check_op(op: Op, max_examples: int = 30) -> None:
    """Run the property tests of one op, yours or ours.

    Parameters
    ----------
    op : Op
        Elementwise, or with a sampler of its own (``@op.sample``).
    max_examples : int
        Inputs that hypothesis draws for each property.

    Raises
    ------
    AssertionError
        With the smallest input found for which a property fails.

    Examples
    --------
    >>> import autograd
    >>> from autograd.testing import check_op
    >>> check_op(autograd.REGISTRY["tanh"], max_examples=5)
    """
    for check in PROPERTIES:
        hold(op, check, max_examples)


def hold(op: Op, check: Callable[[Op, Call], None], max_examples: int | None = None) -> None:
    """Test one property of one op; without a number of examples, by the current profile."""

    @given(op_calls(op))
    def test(call: Call) -> None:
        check(op, call)

    options: dict[str, Any] = {} if max_examples is None else {"max_examples": max_examples}
    settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)(
        test
    )()

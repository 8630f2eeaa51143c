"""Property tests of ops: what must hold for every op, on inputs that hypothesis draws.

A property is a function of an op and of one call of the op, such as :func:`gradient_is_right`. It
raises AssertionError if it does not hold for this call. :func:`check_op` runs all properties.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import HypothesisException
from numpy import ndarray

from autograd.modes import no_grad, unrecorded
from autograd.op import Op
from autograd.tensor import Tensor, grad, tensor
from autograd.testing.differences import duplicate
from autograd.testing.gradcheck import gradcheck, gradgradcheck, without_report
from autograd.testing.problem import GradientError, frames_of_the_user, name_of
from autograd.testing.source import expression, literal
from autograd.testing.strategies import Call, Draw, generic_calls, laid_out, op_calls

__tracebackhide__ = True  # pytest shows the line that called a check, and the message

__all__ = ["PROPERTIES", "Call", "Draw", "check_op", "laid_out", "op_calls", "property_tests"]


def differentiable(op: Op, call: Call) -> list[int]:
    """Return the positions of the arguments that are floating-point arrays and have a rule."""
    ruled = {position for rule in op.rules for position in rule.positions}
    return [
        i
        for i, x in enumerate(call.args)
        if isinstance(x, ndarray) and x.dtype.kind == "f" and (op.variadic or i in ruled)
    ]


class Applied:
    """An op as a function of its differentiable arguments only; the other arguments are fixed."""

    def __init__(self, op: Op, call: Call) -> None:
        self.op, self.call = op, call
        self.positions = differentiable(op, call)
        self.inputs = [call.args[i] for i in self.positions]
        self.__name__ = op.name
        self.names = [f"x{i}" if op.variadic else op.names[i] for i in self.positions]

    def __call__(self, *values: Any) -> Any:
        return self._run(self.op, values)

    def composed(self, *values: Any) -> Any:
        """Do the same without the op's rules: by its reference, or by its function."""
        return self._run(self.op.composed, values)

    def _run(self, function: Callable, values: Sequence) -> Any:
        args = list(self.call.args)
        for position, value in zip(self.positions, values, strict=True):
            args[position] = value
        return function(*args, **self.call.kwargs)

    @property
    def source(self) -> str:
        """Source code of this function."""
        names = iter(self.names)
        args = [next(names) if i in self.positions else literal(arg)
                for i, arg in enumerate(self.call.args)]  # fmt: skip
        args += [f"{key}={literal(value)}" for key, value in self.call.kwargs.items()]
        op, _ = expression(self.op)
        if args == self.names:
            return op
        return f"lambda {', '.join(self.names)}: {op}({', '.join(args)})"

    def outputs(self, *values: Any) -> tuple:
        """Return the results as a tuple, also if there is only one."""
        result = self(*values)
        return tuple(result) if self.op.multiple else (result,)

    def outputs_and_gradients(
        self, leaves: Sequence[Tensor], cotangents: Sequence | None = None
    ) -> list:
        """Return the outputs and the gradients as arrays; cotangents are ones by default."""
        outputs = self.outputs(*leaves)
        us = [np.ones(y.shape) for y in outputs] if cotangents is None else cotangents
        return [y.numpy() for y in (*outputs, *grad(outputs, leaves, us))]


def _leaves(arrays: Sequence[ndarray]) -> list[Tensor]:
    """Return Tensors that use these arrays; a copy might have another order in memory."""
    return [Tensor(x).requires_grad_() for x in arrays]


def _cotangents(outputs: Sequence[Any]) -> list[ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(y.shape) for y in outputs]


def _equal(some: Sequence, others: Sequence, what: str, rtol: float = 1e-12) -> None:
    for a, b in zip(some, others, strict=True):
        atol = 1e-13 * np.max(np.abs(b), initial=1, where=np.isfinite(b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=what)


# ---- the properties: functions of an op and a call of it


def value_is_numpys(op: Op, call: Call) -> None:
    """Check that an op returns the same on Tensors as its function and its reference on arrays."""
    function = Applied(op, call)
    plain = function.outputs(*function.inputs)
    with no_grad():
        wrapped = function.outputs(*map(Tensor, function.inputs))
    recorded = function.outputs(*_leaves(function.inputs))
    for p, w, r in zip(plain, wrapped, recorded, strict=True):
        np.testing.assert_array_equal(p, w.numpy(), err_msg=f"{op.name}: on an array and a Tensor")
        np.testing.assert_array_equal(p, r.numpy(), err_msg=f"{op.name}: on and off the tape")
    if op.reference_function is not None:
        args = op.bind(call.args, call.kwargs)
        reference = op.reference_function(*args)
        np.testing.assert_allclose(
            function(*function.inputs), reference, rtol=1e-12, atol=1e-13,
            err_msg=f"{op.name}: its function and its reference",
        )  # fmt: skip


def gradient_is_right(op: Op, call: Call) -> None:
    """Check the rules against central differences."""
    function = Applied(op, call)
    gradcheck(function, function.inputs)


def second_derivative_is_right(op: Op, call: Call) -> None:
    """Check the derivative of the rules, run on Tensors."""
    function = Applied(op, call)
    gradgradcheck(function, function.inputs)


def dtype_is_kept(op: Op, call: Call) -> None:
    """Check that results and gradients have the dtype of the inputs.

    For float32 inputs they must be float32, and close to those for float64 inputs. For float64
    inputs the rules must compute in float64 all the way: a gradient whose digits are those of a
    float32 number was rounded in between.
    """
    function, narrow = Applied(op, call), Applied(op, _in_single_precision(call))
    single, double = (
        applied.outputs_and_gradients([tensor(x, requires_grad=True) for x in applied.inputs])
        for applied in (narrow, function)
    )
    # In a result that is a small difference of large terms, the error is relative to the terms.
    # They may be as large as the largest result.
    largest = max(np.max(np.abs(d), initial=1) for d in double)
    for s, d in zip(single, double, strict=True):
        if op.name != "astype":
            assert s.dtype == np.float32, f"{op.name}: float32 became {s.dtype}"
        np.testing.assert_allclose(
            s, d, rtol=1e-5, atol=2e-6 * largest, err_msg=f"{op.name}: in float32 and in float64"
        )
    outputs = function.outputs(*_leaves(function.inputs))
    if any(y.dtype != np.float64 for y in outputs):
        return
    n = len(outputs)
    gradients = function.outputs_and_gradients(_leaves(function.inputs), _cotangents(outputs))[n:]
    for name, gradient in zip(function.names, gradients, strict=True):
        # smaller elements may be rounding errors
        known = gradient[(np.abs(gradient) > 1e-3) & np.isfinite(gradient)]
        # if all are float32 numbers, that is no coincidence: half of the digits of each are zero
        assert not known.size or (known != known.astype(np.float32)).any(), (
            f"{op.name}: the gradient of {name!r} has the digits of float32, and its input is "
            "float64"
        )


def _in_single_precision(call: Call) -> Call:
    """Return a call with all float64 arrays converted to float32, also those without a rule."""

    def convert(x: Any) -> Any:
        is_double = isinstance(x, ndarray) and x.dtype == np.float64
        return x.astype(np.float32) if is_double else x

    kwargs = {name: convert(x) for name, x in call.kwargs.items()}
    return Call(tuple(map(convert, call.args)), kwargs)


def layout_does_not_matter(op: Op, call: Call) -> None:
    """Check that contiguous copies of the inputs give the same values and gradients."""
    function = Applied(op, call)
    as_drawn = function.outputs_and_gradients(_leaves(function.inputs))
    contiguous = [x.copy(order="C") for x in function.inputs]
    message = f"{op.name}: the result depends on the order of the inputs in memory"
    _equal(as_drawn, function.outputs_and_gradients(_leaves(contiguous)), message, rtol=1e-13)


def each_input_stands_alone(op: Op, call: Call) -> None:
    """Check that an input's gradient does not depend on which others need one."""
    function = Applied(op, call)
    inputs = function.inputs
    outputs = function.outputs(*map(Tensor, inputs))
    n, us = len(outputs), _cotangents(outputs)
    together = function.outputs_and_gradients(_leaves(inputs), us)[n:]
    for i, gradient in enumerate(together if len(inputs) > 1 else ()):
        leaf = Tensor(inputs[i]).requires_grad_()
        values = [leaf if j == i else x for j, x in enumerate(inputs)]
        alone = grad(function.outputs(*values), leaf, us).numpy()
        message = f"{op.name}: the gradient of input {i} when no other input needs one"
        _equal([alone], [gradient], message)


def same_input_twice_adds_up(op: Op, call: Call) -> None:
    """Check that a Tensor given as two inputs gets the sum of their gradients."""
    function = Applied(op, call)
    inputs = function.inputs
    same = [(i, j) for j, y in enumerate(inputs) for i in range(j) if inputs[i].shape == y.shape]
    for i, j in same[:1]:
        leaves = _leaves([duplicate(inputs[i] if k == j else x) for k, x in enumerate(inputs)])
        with np.errstate(all="ignore"):
            try:
                outputs = function.outputs(*leaves)
                us = _cotangents(outputs)
                separate = grad(outputs, leaves, us)
            except (ValueError, ArithmeticError, TypeError):
                return  # the op does not take these arguments
            leaves[j] = leaves[i]
            shared = grad(function.outputs(*leaves), leaves[i], us)
            expected = separate[i].numpy() + separate[j].numpy()
        message = f"{op.name}: the gradient when inputs {i} and {j} are the same Tensor"
        _equal([shared.numpy()], [expected], message)


def passes_are_pure(op: Op, call: Call) -> None:
    """Check that no pass changes its inputs or cotangents, or depends on other passes."""
    function = Applied(op, call)
    inputs = [duplicate(x) for x in function.inputs]
    leaves = _leaves(inputs)
    outputs = function.outputs(*leaves)
    us = _cotangents(outputs)
    before = [x.copy() for x in (*inputs, *us)]
    values = [y.numpy().copy() for y in outputs]
    with np.errstate(all="ignore"), suppress(ValueError, ArithmeticError):
        # another call, with other numbers, between forward and backward
        function.outputs(*_leaves([np.asarray(0.75 * x) for x in inputs]))
    for y, value in zip(outputs, values, strict=True):
        message = f"{op.name}: a later call changed this result"
        np.testing.assert_array_equal(y.numpy(), value, err_msg=message)
    first = [g.numpy().copy() for g in grad(outputs, leaves, us, retain_graph=True)]
    for i, (x, original) in enumerate(zip((*inputs, *us), before, strict=True)):
        what = f"input {i}" if i < len(inputs) else f"cotangent {i - len(inputs)}"
        message = f"{op.name}: {what} was changed in place"
        np.testing.assert_array_equal(x, original, err_msg=message)
    again = [g.numpy() for g in grad(outputs, leaves, us)]
    _equal(again, first, f"{op.name}: a second backward pass gives another gradient")
    fresh = function.outputs_and_gradients(_leaves(inputs), us)[len(outputs) :]
    _equal(first, fresh, f"{op.name}: a gradient depends on a call in between")


def formula_agrees(op: Op, call: Call) -> None:
    """Check that an op and its rules compute what its formula says, if it has one."""
    if op.stated is None:
        return
    function = Applied(op, call)
    leaves = _leaves(function.inputs)
    outputs = function.outputs(*leaves)
    us = _cotangents(outputs)
    gradients = [g.numpy() for g in grad(outputs, leaves, us)]
    values = [y.numpy() for y in outputs]
    out, g = (values, us) if op.multiple else (values[0], us[0])
    arguments = dict(op.named(op.bind(call.args, call.kwargs)))
    cotangents = dict(zip(function.names, gradients, strict=True))
    for text, found, stated in op.stated.equations(arguments, out, g, cotangents):
        np.testing.assert_allclose(
            found, stated, rtol=1e-9, atol=1e-11, err_msg=f"{op.name} and its formula: {text}"
        )


PROPERTIES = (
    value_is_numpys,
    gradient_is_right,
    second_derivative_is_right,
    dtype_is_kept,
    layout_does_not_matter,
    each_input_stands_alone,
    same_input_twice_adds_up,
    passes_are_pure,
    formula_agrees,
)


# ---- running them

GENERIC = 20  # generic calls that are tried, to find one for which a gradient is wrong


def check_op(op: Op, max_examples: int = 30) -> None:
    """Run the property tests of one op: your own, or one of this package.

    Parameters
    ----------
    op : Op
        An op whose arguments may be any arrays that broadcast together, or an op with a sampler
        (``@op.sample``), which says how to draw its arguments.
    max_examples : int
        How many inputs hypothesis draws for each property.

    Raises
    ------
    AssertionError
        If a property does not hold. The message has a small input for which the property fails, and
        code that repeats the test.
    NeedsSampler
        If the op has no sampler, and raises for arrays that broadcast together; a ValueError.

    Examples
    --------
    >>> import autograd
    >>> from autograd.testing import check_op
    >>> check_op(autograd.REGISTRY["tanh"], max_examples=5)
    """
    _require_op(op)
    for check in PROPERTIES:
        hold(op, check, max_examples)


def property_tests(op: Op) -> Callable:
    """Return the property tests of one op as a test for pytest, with a case for each property.

    The current hypothesis profile says how many examples are drawn. There is no deadline.

    Examples
    --------
    One line in a file of tests; ``pytest`` then runs ``test_ratio[gradient_is_right]`` and so on::

        test_ratio = property_tests(ratio)
    """
    import pytest

    _require_op(op)
    unfit: list[ValueError] = []

    @pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
    def test(check: Callable) -> None:
        if unfit:
            pytest.skip(f"{op.name} needs a sampler, as another case says")
        try:
            hold(op, check)
        except NeedsSampler as error:
            unfit.append(error)
            raise

    test.__name__ = f"test_{name_of(op)}"
    return test


def _require_op(op: Any) -> None:
    if not isinstance(op, Op):
        raise TypeError(
            f"{op!r} is no op: give a function with @autograd.op, or an op of autograd.REGISTRY, "
            'as in autograd.REGISTRY["tanh"]; gradcheck checks any function'
        )


def hold(
    op: Op,
    check: Callable[[Op, Call], None],
    max_examples: int | None = None,
    source: type[Draw] = Draw,
) -> None:
    """Test one property of one op.

    Parameters
    ----------
    op : Op
    check : callable
        A property, one of ``PROPERTIES``.
    max_examples : int, optional
        How many inputs to draw. Every run then draws the same inputs, so that the same rule always
        gets the same verdict. By default the current hypothesis profile decides.
    source : type
        What draws the calls, as for `op_calls`.

    Raises
    ------
    AssertionError
        If the property does not hold.
    NeedsSampler
        As `check_op` does.
    """
    if not op.rules:
        raise GradientError(f"{op.name} has no rule: declare one, as in op.vjp(x=lambda g: g)")
    options: dict[str, Any] = {}
    if max_examples is not None:
        options = {"max_examples": max_examples, "derandomize": True, "database": None}
    with unrecorded():
        call = _failing_call(op, check, source, options)
        if call is not None:
            _fail(op, check, call)


def _fail(op: Op, check: Callable[[Op, Call], None], call: Call) -> NoReturn:
    """Raise the error of a property that does not hold for a call, with code to repeat it."""
    try:
        check(op, call)
    except GradientError:
        raise  # the message has a test to paste already
    except Exception as error:
        if op.sampler is None and not _runs(op, call):
            raise NeedsSampler(op, error) from None
        error.add_note(_repeat(op, check, call))
        error.__traceback__ = frames_of_the_user(error.__traceback__)
        raise
    raise GradientError(f"{op.name}: the same call failed and then passed: two different results")


class NeedsSampler(ValueError):
    """An op cannot be called with arbitrary arrays that broadcast together."""

    __module__ = "autograd.testing"

    def __init__(self, op: Op, error: Exception) -> None:
        name = op.name
        super().__init__(
            f"{name} needs a sampler, which says how to draw its arguments. Without a sampler they "
            f"are any arrays that broadcast together, and {name} raised for some of them:\n"
            f"  {type(error).__name__}: {error}"
        )
        arguments = ", ".join("draw.array(shape=(2, 4))" for n in op.names if n not in op.defaults)
        self.add_note(
            f"for example:\n\n    @{name}.sample\n    def _(draw):\n"
            f"        return draw.call({arguments})"
        )


def _failing_call(
    op: Op, check: Callable, source: type[Draw], options: dict[str, Any]
) -> Call | None:
    """Return a call for which a property does not hold, or None if no such call was drawn.

    A wrong gradient is shown for a generic call, if there is one: in a scalar, or where elements
    are zero or equal, most mistakes look alike. Otherwise the call is the smallest that was found.
    """
    last: list[Call] = []

    def holds(call: Call) -> None:
        last[:] = [call]
        check(op, call)

    # hypothesis stores failures by this name
    holds.__name__ = re.sub(r"\W", "_", f"{op.name}_{check.__name__}")

    def search(**options: Any) -> Exception | None:
        options |= dict(
            deadline=None, report_multiple_bugs=False, verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        try:
            with without_report():
                settings(**options)(given(call=op_calls(op, source))(holds))()
        except HypothesisException:
            raise
        except (Exception, SystemExit) as error:
            return error  # type: ignore[return-value]
        return None

    # the phase "explain" lists lines of this package, which explain nothing to the author of an op
    phases = {*settings().phases} - {Phase.explain}
    error = search(phases=phases - {Phase.shrink}, **options)
    if error is None:
        return None
    found = last[0]
    if isinstance(error, GradientError):
        with suppress(Exception):  # of the op's sampler
            for call in generic_calls(op, GENERIC, source.generic):
                if isinstance(_error(op, check, call), GradientError):
                    return call
    return last[0] if search(phases=phases, **options) else found


def _error(op: Op, check: Callable, call: Call) -> Exception | None:
    """Return the error that a property raises for a call, if any."""
    try:
        with without_report(), np.errstate(all="ignore"):
            check(op, call)
    except Exception as error:
        return error
    return None


def _runs(op: Op, call: Call) -> bool:
    """Return whether an op takes these arguments, as plain arrays."""
    try:
        op(*call.args, **call.kwargs)
    except Exception:  # an op may raise anything
        return False
    return True


def _repeat(op: Op, check: Callable, call: Call) -> str:
    """Return source code that repeats a failed property."""
    name, lines = expression(op)
    return "\n".join(
        ["to repeat it:", "", "    import numpy as np", "", *(f"    {line}" for line in lines)]
        + [f"    from autograd.testing.properties import Call, {check.__name__}", ""]
        + [f"    call = Call({literal(call.args)}, {literal(call.kwargs)})"]
        + [f"    {check.__name__}({name}, call)"]
    )

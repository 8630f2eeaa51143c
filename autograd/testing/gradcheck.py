"""Comparing gradients with numeric ones, in float64.

`gradcheck` checks the gradient of a function of Tensors, `gradgradcheck` its second derivative, and
`check_vjp` a gradient that was written by hand. All three come down to :func:`_compare`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.modes import unrecorded
from autograd.tensor import Tensor, grad
from autograd.testing import differences
from autograd.testing.diagnosis import report
from autograd.testing.look import moved
from autograd.testing.problem import (
    Arrays,
    GradientError,
    Problem,
    arguments,
    fill,
    frames_of_the_user,
    of_tensors,
    of_vjp,
    parameter_names,
    split,
    tensors_of,
)
from autograd.testing.source import source_of_test

__tracebackhide__ = True  # pytest shows the line that called a check, and the message

ALL_ELEMENTS = 4096  # up to this size of an input every element is checked
DIRECTIONS = 4  # random directions that are checked for a larger input


def gradcheck(
    func: Callable,
    inputs: Any,
    *,
    eps: float = differences.STEP,
    atol: float = 1e-9,
    rtol: float = 1e-6,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool | None = None,
    method: str = "central",
    seed: int = 0,
    name: str | None = None,
) -> bool:
    """Check a function's gradient against numeric differentiation.

    The outputs are multiplied by random cotangents u and summed. The gradient of this sum, which
    the backward pass computes, is compared with differences of the sum.

    Parameters
    ----------
    func : callable
        Takes Tensors, and returns a Tensor or any nesting of Tensors. It must be deterministic.
    inputs : sequence
        The arguments of `func`; an array or Tensor that is not in a list is the only argument.
        Floating-point arrays and Tensors are checked, also those inside tuples, lists, deques,
        dicts and dataclasses. They are converted to float64, because differences in float32 are too
        inexact. Other arguments are passed on as they are.
    eps : float
        The step of central differences.
    atol, rtol : float
        The error that is allowed in each element: ``atol + rtol * (largest element of the
        gradient)``.
    raise_exception : bool
        Whether to raise if the gradients disagree; otherwise the function returns False.
    nondet_tol : float
        How much two evaluations of the function may differ, in addition to rounding.
    fast_mode : bool, optional
        Whether to compare derivatives along four random directions for each input, instead of the
        derivatives by every element. If they differ, bisection finds a wrong element. An error in
        one of n elements is noticed if it is larger than about ``rtol * sqrt(n)``. By default the
        mode is used for inputs of more than 4096 elements.
    method : {"central", "complex"}
        Central differences of fourth order, or the complex step. The complex step runs `func` on
        plain complex arrays. Its derivatives are exact to rounding, so that `rtol` may be 1e-13,
        but the function must be analytic: ``abs``, ``norm``, ``var`` and ``floor`` are not, and
        end in an error.
    seed : int
        The seed of the random cotangents and directions.
    name : str, optional
        The name of the function in messages.

    Returns
    -------
    bool
        True if the gradients agree.

    Raises
    ------
    GradientError
        If the gradients disagree by more than `atol` and `rtol` allow. The message has the input,
        the element, both values, the error for steps from 1e-1 to 1e-8, the likely cause, and a
        test to paste. Also if the function is not deterministic, changes its inputs, or returns no
        Tensor.
    ValueError
        If no input is a floating-point array, or for ``method="complex"`` if the function is not
        complex-differentiable.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.testing import gradcheck
    >>> gradcheck(lambda x: np.exp(x) / x, np.array([0.5, 1.0]))
    True
    >>> gradcheck(lambda p: p["w"] @ p["w"], {"w": np.array([0.5, 1.0])}, method="complex")
    True
    """
    problem = of_tensors(func, inputs, name)
    options = _changed(eps=eps, atol=atol, rtol=rtol, fast_mode=fast_mode, method=method, name=name)
    problem = replace(problem, test=_test("gradcheck", [func], inputs, options))
    return _check(
        problem, Options(eps, atol, rtol, raise_exception, nondet_tol, fast_mode, method, seed)
    )


def gradgradcheck(
    func: Callable,
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = differences.STEP,
    atol: float = 1e-9,
    rtol: float = 1e-6,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool | None = None,
    seed: int = 0,
    name: str | None = None,
) -> bool:
    """Check a function's second derivative.

    The gradient is itself a function: of the inputs and of the cotangents of the outputs. This
    function is checked as `gradcheck` checks a function.

    Parameters
    ----------
    func, inputs, **options
        As for `gradcheck`.
    grad_outputs : array_like or sequence of array_like, optional
        A cotangent for each output; random ones by default.

    Returns
    -------
    bool
        True if the derivatives agree.

    Raises
    ------
    GradientError, ValueError
        As `gradcheck` does.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.testing import gradgradcheck
    >>> gradgradcheck(lambda x: np.tanh(x), np.array([0.5, 1.0]))
    True
    """
    first = of_tensors(func, inputs, name)
    args, _, arrays = split(inputs, first.name)
    if grad_outputs is None:
        random = np.random.default_rng(seed + 1)
        with unrecorded():
            outputs = first.values(arrays)
        cotangents = [random_cotangent(y.shape, random) for y in outputs]
    else:
        cotangents = [np.asarray(u, np.float64) for u in arguments(grad_outputs)]
    n = len(arrays)

    def gradient(*values: Tensor) -> tuple:
        xs, us = values[:n], values[n:]
        outputs = tensors_of(func(*fill(args, xs)), first.name)
        reached = [(y, u) for y, u in zip(outputs, us, strict=True) if y.requires_grad]
        if not reached:
            return tuple(x * 0 for x in xs)
        ys, us = zip(*reached, strict=True)
        return grad(ys, xs, us, create_graph=True)

    second = of_tensors(gradient, [*arrays, *cotangents], f"gradient of {first.name}")
    many = len(cotangents) > 1
    extra = [f"cotangent {i}" if many else "the cotangent" for i in range(len(cotangents))]
    names = [f"g[{i}]" if many else "g" for i in range(len(cotangents))]
    options = _changed(eps=eps, atol=atol, rtol=rtol, fast_mode=fast_mode, name=name)
    second = replace(
        second,
        labels=[*first.labels, *extra],
        names=[*first.names, *names],
        test=_test("gradgradcheck", [func], args, options),
    )
    return _check(
        second, Options(eps, atol, rtol, raise_exception, nondet_tol, fast_mode, "central", seed)
    )


def check_vjp(
    func: Callable,
    vjp: Callable,
    inputs: Any,
    *,
    eps: float = differences.STEP,
    atol: float = 1e-9,
    rtol: float = 1e-6,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool | None = None,
    method: str = "central",
    seed: int = 0,
    name: str | None = None,
) -> bool:
    """Check a gradient that was written by hand for a plain NumPy function, without Tensors.

    Parameters
    ----------
    func : callable
        Takes arrays, and returns an array, a number or any nesting of these.
    vjp : callable
        It is called as ``vjp(g, *inputs)`` with the cotangent g of the output; for several outputs,
        g is a tuple. It returns the cotangents of the floating-point arrays among the inputs, in
        order: an array for one input, a tuple for several. None means zeros.
    inputs, **options
        As for `gradcheck`.

    Returns
    -------
    bool
        True if the gradients agree.

    Raises
    ------
    GradientError, ValueError
        As `gradcheck` does.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.testing import check_vjp
    >>> check_vjp(
    ...     lambda A, x: A @ x,
    ...     lambda g, A, x: (np.outer(g, x), g @ A),
    ...     [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, -1.0])],
    ... )
    True
    """
    problem = of_vjp(func, vjp, inputs, name)
    options = _changed(eps=eps, atol=atol, rtol=rtol, fast_mode=fast_mode, method=method, name=name)
    problem = replace(problem, test=_test("check_vjp", [func, vjp], inputs, options))
    return _check(
        problem, Options(eps, atol, rtol, raise_exception, nondet_tol, fast_mode, method, seed)
    )


def _changed(**options: Any) -> dict[str, Any]:
    """Return the options whose values are not the defaults of `gradcheck`."""
    defaults = gradcheck.__kwdefaults__ or {}
    return {key: value for key, value in options.items() if value != defaults[key]}


def _test(
    checker: str, functions: Sequence[Callable], inputs: Any, options: dict
) -> Callable[[], str]:
    args = arguments(inputs)
    names = parameter_names(functions[0], len(args))
    return lambda: source_of_test(checker, functions, names, args, **options)


# ---- the check

_without_report: ContextVar[bool] = ContextVar("_without_report", default=False)


@contextmanager
def without_report() -> Iterator[None]:
    """Let failed checks raise without a report: for a search that fails many times."""
    token = _without_report.set(True)
    try:
        yield
    finally:
        _without_report.reset(token)


class Options(NamedTuple):
    """The options that all three checks have; see `gradcheck`."""

    eps: float
    atol: float
    rtol: float
    raise_exception: bool
    nondet_tol: float
    fast_mode: bool | None
    method: str
    seed: int


def _check(problem: Problem, options: Options) -> bool:
    if options.method not in ("central", "complex"):
        raise ValueError(f'method is "central" or "complex", not {options.method!r}')
    try:
        with unrecorded():
            _compare(problem, options)
    except GradientError:
        if options.raise_exception:
            raise
        return False
    except Exception as error:  # of the function that is checked, or of the rule
        error.__traceback__ = frames_of_the_user(error.__traceback__)
        raise
    return True


def _compare(problem: Problem, options: Options) -> None:
    """Raise GradientError if a gradient of a problem is wrong.

    For each input, the loop below compares the gradient with numeric derivatives. For f(x) = x * x
    at x = [1, 2] with the cotangent u = [1, 1], the gradient is [2, 4], and the differences of the
    sum of u * f(x) are 2 when x[0] moves and 4 when x[1] moves.
    """
    random = np.random.default_rng(options.seed)
    arrays, name = problem.arrays, problem.name
    outputs = _check_values(problem, options.nondet_tol)
    cotangents = [random_cotangent(y.shape, random) for y in outputs]
    gradients = _check_gradients(problem, cotangents)
    for position, (x, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        derivative = _derivative(problem, cotangents, position, options, random)
        fast = x.size > ALL_ELEMENTS if options.fast_mode is None else options.fast_mode
        compare = _compare_directions if fast else _compare_elements
        wrong = compare(derivative, x, gradient, options, random)
        if wrong:
            raise GradientError(
                report(problem, cotangents, position, gradient=gradient, **wrong)
                if options.raise_exception and not _without_report.get()
                else "wrong"
            )
    again = problem.gradients(arrays, cotangents)  # after other calls of the function
    if not _same(gradients, again, options.nondet_tol):
        raise GradientError(
            f"{name}: its gradient changed when it was computed again: it depends on more than "
            "its inputs (a cache, global state or random numbers)"
        )
    if all(_is_stale(problem, cotangents, gradients, seed) for seed in (1, 2, 3)):
        raise GradientError(
            f"{name}: its gradient is the same at other inputs, where the derivative is another: "
            "it keeps values of an earlier call (a cache)"
        )


def _is_stale(problem: Problem, cotangents: Arrays, gradients: Arrays, seed: int) -> bool:
    """Return whether a point nearby has the same gradients bit by bit, and they are wrong there.

    The step is so small that it hardly ever crosses a kink of a function whose gradient is the same
    around it, such as a maximum.
    """
    random = np.random.default_rng(seed)
    arrays = [moved(x, random) for x in problem.arrays]
    with np.errstate(all="ignore"), suppress(Exception):  # outside of the function's domain
        if not all(map(np.array_equal, gradients, problem.gradients(arrays, cotangents))):
            return False
        near = problem.at(arrays)
        for position, (x, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            direction = _direction(x, random)
            function = near.along(position, cotangents, near.values)
            ahead, behind = (function(differences.move(x, direction, h)) for h in (1e-6, -1e-6))
            error = (ahead - behind) / 2e-6 - np.vdot(gradient, direction)
            terms = np.sum(np.abs(gradient * direction))  # without what cancels
            rounding = (1 + np.max(np.abs(x), initial=0)) * sum(np.abs(u).sum() for u in cotangents)
            if abs(error) > 1e-4 * terms + 1e-8 * (abs(ahead) + abs(behind) + rounding):
                return True
    return False


def _check_values(problem: Problem, nondet_tol: float) -> list[ndarray]:
    """Return the outputs; raise if the function changes an input or is not deterministic."""
    before = [x.copy() for x in problem.arrays]
    outputs = [y.copy() for y in problem.values(problem.arrays)]
    _refuse_changes(problem.arrays, before, problem.labels, f"{problem.name} changed its")
    if not _same(outputs, problem.values(problem.arrays), nondet_tol):
        raise GradientError(
            f"{problem.name} is not deterministic: two calls with the same inputs gave different "
            "results; fix the seed of what is random in it"
        )
    return outputs


def _check_gradients(problem: Problem, cotangents: Sequence[ndarray]) -> list[ndarray]:
    """Return the gradients; raise if the backward pass changes an input or a cotangent."""
    before = [x.copy() for x in (*problem.arrays, *cotangents)]
    labels = [*problem.labels, *(f"cotangent {i}" for i in range(len(cotangents)))]
    gradients = [gradient.copy() for gradient in problem.gradients(problem.arrays, cotangents)]
    after = [*problem.arrays, *cotangents]
    _refuse_changes(after, before, labels, f"the backward pass of {problem.name} changed")
    return gradients


def _refuse_changes(
    arrays: Sequence[ndarray], before: Sequence[ndarray], labels: Sequence[str], what: str
) -> None:
    for x, original, label in zip(arrays, before, labels, strict=True):
        if not np.array_equal(x, original, equal_nan=True):
            raise GradientError(f"{what} {label} in place")


def _same(some: Sequence[ndarray], others: Sequence[ndarray], tolerance: float) -> bool:
    return len(some) == len(others) and all(
        np.allclose(a, b, rtol=1e-12, atol=tolerance, equal_nan=True)
        for a, b in zip(some, others, strict=True)
    )


# ---- numeric derivatives, and the two ways to compare


def _derivative(
    problem: Problem,
    cotangents: Sequence[ndarray],
    position: int,
    options: Options,
    random: np.random.Generator,
) -> Callable[[ndarray], float]:
    """Return a function from a direction in one input to the numeric derivative along it."""
    x = problem.arrays[position]
    function = problem.along(position, cotangents, problem.values)

    def central(direction: ndarray) -> float:
        return float(differences.central_difference(function, x, direction, options.eps))

    if options.method == "central" or not x.size:
        return central
    complex_function = problem.along(position, cotangents, problem.plain)

    def by_complex_step(direction: ndarray) -> float:
        return float(differences.complex_difference(complex_function, x, direction))

    _refuse_not_analytic(problem, central, by_complex_step, _direction(x, random))
    return by_complex_step


def _refuse_not_analytic(
    problem: Problem, central: Callable, by_complex_step: Callable, direction: ndarray
) -> None:
    """Raise if the complex step and central differences disagree along one direction.

    The complex step of a function that is not analytic returns wrong numbers without an error.
    """
    message = (
        f"{problem.name} is not complex-differentiable (abs, norm, var, floor and conj are "
        'not): use method="central"'
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            found = by_complex_step(direction)
    except (TypeError, ValueError, AttributeError, np.exceptions.ComplexWarning) as error:
        raise ValueError(f"{message}\n  {type(error).__name__}: {error}") from error
    expected = central(direction)
    if not abs(found - expected) <= 1e-8 + 1e-5 * abs(expected):
        raise ValueError(
            f"{message}\n  along a random direction the complex step gives {found:.9g}, "
            f"central differences {expected:.9g}"
        )


def random_cotangent(shape: tuple[int, ...], random: np.random.Generator) -> ndarray:
    """Return a random cotangent. Its numbers have few digits, so that messages are readable."""
    return np.asarray(random.choice([-1.0, 1.0], shape) * random.integers(50, 200, shape) / 100)


def _direction(x: ndarray, random: np.random.Generator) -> ndarray:
    """Return a direction that moves all elements by similar, but not equal, amounts."""
    return random.uniform(0.5, 1, x.shape) * random.choice([-1.0, 1.0], x.shape)


def _compare_elements(
    derivative: Callable[[ndarray], float],
    x: ndarray,
    gradient: ndarray,
    options: Options,
    random: np.random.Generator,
) -> dict[str, Any]:
    """Compare the derivatives by every element; describe the worst wrong one, if there is one."""
    numeric = differences.every_element(derivative, x)
    with np.errstate(invalid="ignore"):
        error = np.abs(gradient - numeric)
    allowed = float(options.atol + options.rtol * np.max(np.abs(numeric), initial=0))
    wrong = ~(error <= allowed)  # a NaN is wrong
    if not wrong.any():
        return {}
    error = np.where(np.isnan(error), np.inf, error)
    worst = tuple(map(int, np.unravel_index(np.argmax(error), error.shape)))
    at = f"[{', '.join(map(str, worst))}]"
    extent = f" in {wrong.sum()} of {wrong.size} elements; worst at {at}" if worst else ""
    return dict(element=worst, numeric=float(numeric[worst]), extent=extent, allowed=allowed)


def _compare_directions(
    derivative: Callable[[ndarray], float],
    x: ndarray,
    gradient: ndarray,
    options: Options,
    random: np.random.Generator,
) -> dict[str, Any]:
    """Compare derivatives along random directions; describe a wrong element, if there is one."""
    for _ in range(DIRECTIONS if x.size else 0):
        direction = _direction(x, random)
        numeric = derivative(direction)
        # n independent errors of the allowed size add up to about sqrt(n) times this size
        size = max(float(np.linalg.norm(gradient * direction)), abs(numeric))
        allowed = options.atol * np.sqrt(x.size) + options.rtol * size
        if abs(np.vdot(gradient, direction) - numeric) <= allowed:
            continue

        def error_along(part: ndarray) -> float:
            moves = part != 0  # 0 times a NaN elsewhere in the gradient would be NaN
            return np.vdot(gradient[moves], part[moves]) - derivative(part)

        worst = differences.locate(error_along, direction)
        axis = np.zeros(x.shape)
        axis[worst] = 1
        numeric = derivative(axis)
        at = f"[{', '.join(map(str, worst))}]"
        extent = f"; found at {at}, of shape {x.shape}" if worst else ""
        allowed = options.atol + options.rtol * abs(numeric)
        return dict(element=worst, numeric=numeric, extent=extent, allowed=allowed)
    return {}

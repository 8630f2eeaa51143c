"""Check gradients against numeric ones, in float64: of functions, and of rules written by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.tensor import Tensor, grad
from autograd.testing import differences
from autograd.testing.diagnosis import report
from autograd.testing.problem import (
    GradientError,
    Problem,
    arguments,
    filled,
    of_tensors,
    of_vjp,
    parameter_names,
    split,
    tensors_of,
)
from autograd.testing.source import source_of_test

ALL_ELEMENTS = 4096  # up to this size of an input each of its elements is checked
DIRECTIONS = 4


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

    The outputs are multiplied with random cotangents u, and the gradient of u f(x), which backward
    computes, is compared with differences of u f(x).

    Parameters
    ----------
    func : callable
        Of Tensors, to a Tensor or any nesting of Tensors. It must be deterministic.
    inputs : sequence
        The arguments; a single array or Tensor is the only one. Floating-point arrays and Tensors
        are checked, also those inside tuples, lists, dicts and dataclasses. They are converted to
        float64: single precision is too coarse for differences. All else is passed on.
    eps : float
        Step of central differences.
    atol, rtol : float
        Agreement demanded of each element: ``atol + rtol * (largest element of the gradient)``.
    raise_exception : bool
        Raise when they disagree; otherwise return False.
    nondet_tol : float
        By how much two evaluations may differ, beyond rounding.
    fast_mode : bool, optional
        Compare the derivatives along four random directions an input, instead of every element's;
        when they differ, bisection finds an element. The error of one element of n is then seen if
        it is larger than about ``rtol * sqrt(n)``. If not given, inputs of more than 4096 elements
        are checked so.
    method : {"central", "complex"}
        Central differences of fourth order, or the complex step: `func` is run on plain complex
        arrays, and the derivatives are exact to rounding, so that `rtol` may be 1e-13. For analytic
        functions only: ``abs``, ``norm``, ``var`` and ``floor`` are not, and an error says so.
    seed : int
        Of the cotangents and directions.
    name : str, optional
        What to call the function in messages.

    Returns
    -------
    bool
        True if they agree.

    Raises
    ------
    GradientError
        With the input, the element and both values, the error for steps from 1e-1 to 1e-8, the
        likely cause, and a test to paste. Also for a function that is not deterministic, changes
        its inputs, or returns no Tensor.
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
    __tracebackhide__ = True  # pytest shows the caller
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
    """Check a function's second derivative: `gradcheck` of its gradient.

    The gradient is taken as a function of the inputs and of the cotangents.

    Parameters
    ----------
    func, inputs, **options
        As for `gradcheck`.
    grad_outputs : array_like or sequence of array_like, optional
        The cotangents, one an output; random ones if not given.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.testing import gradgradcheck
    >>> gradgradcheck(lambda x: np.tanh(x), np.array([0.5, 1.0]))
    True
    """
    __tracebackhide__ = True
    first = of_tensors(func, inputs, name)
    args, _, arrays = split(inputs, first.name)
    if grad_outputs is None:
        random = np.random.default_rng(seed + 1)
        cotangents = [random_cotangent(y.shape, random) for y in first.values(arrays)]
    else:
        cotangents = [np.asarray(u, np.float64) for u in arguments(grad_outputs)]
    n = len(arrays)

    def gradient(*values: Tensor) -> tuple:
        xs, us = values[:n], values[n:]
        outputs = tensors_of(func(*filled(args, xs)), first.name)
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
    """Check a gradient written by hand for a plain NumPy function. No Tensor is involved.

    Parameters
    ----------
    func : callable
        Of arrays, to an array, a number or any nesting of them.
    vjp : callable
        ``vjp(g, *inputs)``, with the cotangent g of the output (of several outputs, a tuple),
        returns the cotangents of the floating-point arrays among the inputs, in order: an array for
        one, a tuple for several. None stands for zeros.
    inputs, **options
        As for `gradcheck`.

    Raises
    ------
    GradientError
        As `gradcheck`.

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
    __tracebackhide__ = True
    problem = of_vjp(func, vjp, inputs, name)
    options = _changed(eps=eps, atol=atol, rtol=rtol, fast_mode=fast_mode, method=method, name=name)
    problem = replace(problem, test=_test("check_vjp", [func, vjp], inputs, options))
    return _check(
        problem, Options(eps, atol, rtol, raise_exception, nondet_tol, fast_mode, method, seed)
    )


def _changed(**options: Any) -> dict[str, Any]:
    """Return the options that are not gradcheck's own."""
    defaults = gradcheck.__kwdefaults__ or {}
    return {key: value for key, value in options.items() if value != defaults[key]}


def _test(
    checker: str, functions: Sequence[Callable], inputs: Any, options: dict
) -> Callable[[], str]:
    args = arguments(inputs)
    names = parameter_names(functions[0], len(args))
    return lambda: source_of_test(checker, functions, names, args, **options)


# ---- the check


class Options(NamedTuple):
    """What all checks have in common; see `gradcheck`."""

    eps: float
    atol: float
    rtol: float
    raise_exception: bool
    nondet_tol: float
    fast_mode: bool | None
    method: str
    seed: int


def _check(problem: Problem, options: Options) -> bool:
    __tracebackhide__ = True
    if options.method not in ("central", "complex"):
        raise ValueError(f'method is "central" or "complex", not {options.method!r}')
    try:
        _compare(problem, options)
    except GradientError:
        if options.raise_exception:
            raise
        return False
    return True


def _compare(problem: Problem, options: Options) -> None:
    __tracebackhide__ = True
    random = np.random.default_rng(options.seed)
    arrays, name = problem.arrays, problem.name
    outputs = _sound_values(problem, options.nondet_tol)
    cotangents = [random_cotangent(y.shape, random) for y in outputs]
    gradients = _sound_gradients(problem, cotangents)
    for position, (x, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        derivative = _derivative(problem, cotangents, position, options, random)
        fast = x.size > ALL_ELEMENTS if options.fast_mode is None else options.fast_mode
        compare = _compare_directions if fast else _compare_elements
        wrong = compare(derivative, x, gradient, options, random)
        if wrong:
            raise GradientError(
                report(problem, cotangents, position, gradient=gradient, **wrong)
                if options.raise_exception
                else "wrong"
            )
    again = problem.gradients(arrays, cotangents)  # after other calls of the function
    if not _same(gradients, again, options.nondet_tol):
        raise GradientError(
            f"{name}: its gradient changed when it was computed again: it depends on more than "
            "its inputs (a cache, global state or random numbers)"
        )


def _sound_values(problem: Problem, nondet_tol: float) -> list[ndarray]:
    """Return the outputs of a function that changes no input and is deterministic."""
    before = [x.copy() for x in problem.arrays]
    outputs = [y.copy() for y in problem.values(problem.arrays)]
    _refuse_changes(problem.arrays, before, problem.labels, f"{problem.name} changed its")
    if not _same(outputs, problem.values(problem.arrays), nondet_tol):
        raise GradientError(
            f"{problem.name} is not deterministic: two calls with the same inputs gave different "
            "results; fix the seed of what is random in it"
        )
    return outputs


def _sound_gradients(problem: Problem, cotangents: Sequence[ndarray]) -> list[ndarray]:
    """Return the gradients, if computing them changes neither inputs nor cotangents."""
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
    """Return the numeric derivative by one input, as a function of the direction."""
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
    """Compare the two methods once: what is not analytic gives wrong numbers without a sound."""
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
    """Return what to multiply an output with: of two digits, which read well in messages."""
    return np.asarray(random.choice([-1.0, 1.0], shape) * random.integers(50, 200, shape) / 100)


def _direction(x: ndarray, random: np.random.Generator) -> ndarray:
    """Return a direction that moves each element by about as much, and none by the same."""
    return random.uniform(0.5, 1, x.shape) * random.choice([-1.0, 1.0], x.shape)


def _compare_elements(
    derivative: Callable[[ndarray], float],
    x: ndarray,
    gradient: ndarray,
    options: Options,
    random: np.random.Generator,
) -> dict[str, Any]:
    """Compare every element; return what is wrong, if anything."""
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
    """Compare along random directions; return an element that is wrong, if there is one."""
    for _ in range(DIRECTIONS if x.size else 0):
        direction = _direction(x, random)
        numeric = derivative(direction)
        # what a sum of that many independent errors may come to
        size = max(float(np.linalg.norm(gradient * direction)), abs(numeric))
        allowed = options.atol * np.sqrt(x.size) + options.rtol * size
        if abs(np.vdot(gradient, direction) - numeric) <= allowed:
            continue

        def error_along(part: ndarray) -> float:
            moves = part != 0  # a NaN elsewhere is not this part's
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

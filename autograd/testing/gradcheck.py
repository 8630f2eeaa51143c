"""Compare derivatives with central differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.engine import enable_grad, no_grad
from autograd.tensor import Tensor, grad, tensor


class GradientError(AssertionError):
    """A derivative does not agree with its numeric value, or cannot be had at all."""


def numeric_gradient(
    function: Callable[[ndarray], float], x: ndarray, step: float = 1e-3
) -> ndarray:
    """Differentiate a number-valued function of an array by central differences.

    The stencil (f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h)) / 12h has an error of h^4 f^(5) / 30: with
    h = 1e-3 that and the rounding, about 1e-13 |f|, are alike (Fornberg 1988,
    doi:10.1090/S0025-5718-1988-0935077-0, table 1).

    Parameters
    ----------
    function : callable
        From an array to a number.
    x : ndarray of float64
    step : float

    Returns
    -------
    ndarray
        Of the shape of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> numeric_gradient(lambda x: float(np.sum(x**3)), np.array([1.0, 2.0])).round(6).tolist()
    [3.0, 12.0]
    """
    x = np.array(x, dtype=np.float64)
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        here = x[i]
        total = 0.0
        for offset, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            x[i] = here + offset * step
            total += weight * function(x)
        x[i] = here
        gradient[i] = total / (12 * step)
    return gradient


def gradcheck(
    function: Callable,
    inputs: Sequence[Any],
    *,
    eps: float = 1e-3,
    atol: float = 1e-9,
    rtol: float = 1e-6,
    raise_exception: bool = True,
    seed: int = 0,
    name: str | None = None,
) -> bool:
    """Check a function's gradient against central differences.

    Parameters
    ----------
    function : callable
        Of Tensors, to a Tensor or a sequence of Tensors. It must be deterministic.
    inputs : sequence
        Floating-point arrays and Tensors are checked, in float64; anything else is passed on.
    eps : float
        Step of the differences.
    atol, rtol : float
        Agreement demanded of each element: ``atol + rtol * (largest element of the gradient)``.
    raise_exception : bool
        Raise when they disagree; otherwise return False.
    seed : int
        Of the random cotangent: the outputs are projected on it.
    name : str, optional
        What to call the function in messages.

    Returns
    -------
    bool
        True if they agree.

    Raises
    ------
    GradientError
        Naming the input, the element and both values.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.testing import gradcheck
    >>> gradcheck(lambda x: np.exp(x) / x, [np.array([0.5, 1.0])])
    True
    """
    label = str(name or getattr(function, "__name__", "function"))
    checked = [i for i, x in enumerate(inputs) if _is_floating(x)]
    if not checked:
        raise ValueError(f"gradcheck of {label}: none of the inputs is a floating-point array")
    arrays = [np.array(_array(x), np.float64) if i in checked else x for i, x in enumerate(inputs)]
    originals = [array.copy() for i, array in enumerate(arrays) if i in checked]
    random = np.random.default_rng(seed)

    # Tensors that alias nothing: a function that writes to its inputs is found out below.
    leaves = [Tensor(x).requires_grad_() if i in checked else x for i, x in enumerate(arrays)]
    outputs = _outputs(function(*leaves), label)
    for i, original in zip(checked, originals, strict=True):
        if not np.array_equal(arrays[i], original, equal_nan=True):
            raise GradientError(f"{label} changed its input {i} in place")
    cotangents = [random.standard_normal(y.shape) for y in outputs]
    reached = [(y, u) for y, u in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if reached:
        ys, us = zip(*reached, strict=True)
        analytic = grad(ys, [leaves[i] for i in checked], us)
    else:
        analytic = tuple(Tensor(np.zeros(arrays[i].shape)) for i in checked)

    def projected(position: int, x: ndarray) -> float:
        with no_grad():
            values = [tensor(a) if i in checked else a for i, a in enumerate(arrays)]
            values[position] = tensor(x)
            ys = _outputs(function(*values), label)
        return sum(float(np.sum(u * y.numpy())) for u, y in zip(cotangents, ys, strict=True))

    for position, gradient in zip(checked, analytic, strict=True):
        numeric = numeric_gradient(partial(projected, position), arrays[position], eps)
        error = np.abs(gradient.numpy() - numeric)
        allowed = atol + rtol * np.max(np.abs(numeric), initial=0)
        wrong = ~(error <= allowed)  # a NaN is wrong
        if wrong.any():
            if not raise_exception:
                return False
            raise GradientError(
                _failure(label, position, arrays[position], gradient.numpy(), numeric, wrong)
            )
    return True


def gradgradcheck(function: Callable, inputs: Sequence[Any], **options: Any) -> bool:
    """Check a function's second derivative: `gradcheck` of its gradient.

    The gradient is taken as a function of the inputs and of the cotangent.

    Parameters
    ----------
    function, inputs, **options
        As for `gradcheck`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.testing import gradgradcheck
    >>> gradgradcheck(lambda x: np.tanh(x), [np.array([0.5, 1.0])])
    True
    """
    name = options.pop("name", None) or getattr(function, "__name__", "function")
    checked = [i for i, x in enumerate(inputs) if _is_floating(x)]
    with no_grad():
        values = [tensor(np.array(_array(x), np.float64)) if i in checked else x
                  for i, x in enumerate(inputs)]  # fmt: skip
        shapes = [y.shape for y in _outputs(function(*values), name)]
    random = np.random.default_rng(options.get("seed", 0) + 1)

    def gradient(*arguments: Any) -> tuple:
        xs = [
            x if i not in checked or x.requires_grad else tensor(x, requires_grad=True)
            for i, x in enumerate(arguments[: len(inputs)])
        ]
        with enable_grad():
            ys = _outputs(function(*xs), name)
            reached = [(y, u) for y, u in zip(ys, arguments[len(inputs) :], strict=True)
                       if y.requires_grad]  # fmt: skip
            outputs, cotangents = zip(*reached, strict=True)
            return grad(outputs, [xs[i] for i in checked], cotangents, create_graph=True)

    cotangents = [random.standard_normal(shape) for shape in shapes]
    return gradcheck(gradient, [*inputs, *cotangents], name=f"gradient of {name}", **options)


def _array(x: Any) -> ndarray:
    return x.numpy() if isinstance(x, Tensor) else x


def _is_floating(x: Any) -> bool:
    return isinstance(x, Tensor | ndarray) and x.dtype.kind == "f"


def _outputs(result: Any, name: str) -> list[Tensor]:
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    for y in outputs:
        if not isinstance(y, Tensor):
            raise GradientError(f"{name} returned {type(y).__name__}, not a Tensor: gradient lost")
    return outputs


def _failure(
    name: str, position: int, x: ndarray, analytic: ndarray, numeric: ndarray, wrong: ndarray
) -> str:
    """Describe the worst element of a wrong gradient."""
    error = np.where(np.isnan(analytic - numeric), np.inf, np.abs(analytic - numeric))
    worst = np.unravel_index(np.argmax(error), error.shape)
    at = "[" + ", ".join(map(str, worst)) + "]" if worst else ""
    lines = [
        f"{name}: the gradient of input {position} is wrong in {wrong.sum()} of {wrong.size} "
        f"elements; worst at {at or 'the only one'}:",
        f"  input     {float(x[worst]):.17g}   (array of shape {x.shape})",
        f"  backward  {float(analytic[worst]):.17g}",
        f"  numeric   {float(numeric[worst]):.17g}",
    ]
    if numeric[worst] != 0 and np.isfinite(analytic[worst]):
        lines.append(f"  ratio     {float(analytic[worst] / numeric[worst]):.6g}")
    return "\n".join(lines)

"""Functions of NumPy that are composed of ops, and for which NumPy decides what a call may be."""

import inspect

import numpy as np

from autograd.dispatch import as_tensors, implements, plain, rebuilt, requires_gradient
from autograd.engine import TensorBase
from autograd.modes import is_grad_enabled


def composes(*functions, inputs=None, asks=()):
    """Declare the implementation of some of NumPy's functions, as `autograd.op.implements` does.

    NumPy's function runs first, on plain arrays. It raises NumPy's errors, and its results are the
    results if no gradient is required. Otherwise the implementation computes the results from
    tensors. It can assume that the call is a right one. Its results get the dtypes of NumPy's.

    The results are computed twice, so this is for functions that few programs call. A function
    that a training loop calls is declared with `implements`, and checks its arguments itself.
    """

    def declare(run):
        signature = inspect.signature(run)

        def checked(*args, **kwargs):
            given = signature.bind(*args, **kwargs)  # raises for an argument that `run` lacks
            expected = functions[0](*plain(given.args), **plain(given.kwargs))
            if is_grad_enabled() and requires_gradient([args, kwargs]):
                return _like(expected, run(*args, **kwargs))
            return as_tensors(expected)

        checked.__signature__ = signature
        checked.__module__ = run.__module__
        implements(*functions, inputs=inputs, asks=asks)(checked)
        return run

    return declare


def _like(expected, found):
    """Return results in the dtypes of NumPy's; NumPy's own where no gradient flows."""
    if isinstance(expected, tuple | list):
        return rebuilt(expected, [_like(a, b) for a, b in zip(expected, found, strict=True)])
    if not isinstance(found, TensorBase) or expected.dtype.kind != "f":
        return as_tensors(expected)
    return found if found.dtype == expected.dtype else found.astype(expected.dtype)


def array_of(x):
    """Return a tensor as it is, and anything else as an array."""
    return x if isinstance(x, TensorBase) else np.asarray(x)

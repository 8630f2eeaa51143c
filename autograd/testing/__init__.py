"""Checking gradients, of these ops and of yours.

`gradcheck` and `gradgradcheck` compare a function's derivatives with numeric ones, `check_vjp`
those of a plain NumPy function and a gradient written by hand. `check_op` and `property_tests` run
the property tests of one op, with inputs drawn by hypothesis; `tensors`, `arrays`, `broadcastable`,
`layouts` and `op_calls` are strategies for tests of your own.
"""

from typing import Any

from autograd.testing.differences import numeric_gradient
from autograd.testing.gradcheck import check_vjp, gradcheck, gradgradcheck
from autograd.testing.problem import GradientError

__all__ = [
    "GradientError",
    "PROPERTIES",
    "arrays",
    "broadcastable",
    "check_op",
    "check_vjp",
    "gradcheck",
    "gradgradcheck",
    "hold",
    "laid_out",
    "layouts",
    "literal",
    "numeric_gradient",
    "op_calls",
    "property_tests",
    "tensors",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # what imports hypothesis, which the names above must not
        from autograd.testing import properties, strategies

        return getattr(properties if hasattr(properties, name) else strategies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

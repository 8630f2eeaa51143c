"""Checking gradients: those of this package's ops, and those of your own code.

- `gradcheck` and `gradgradcheck` compare the first and second derivatives of a function with
  numeric ones. `check_vjp` does the same for a plain NumPy function whose gradient was written by
  hand.
- `check_op` and `property_tests` run the property tests of one op, with inputs that hypothesis
  draws.
- `tensors`, `arrays`, `broadcastable`, `layouts` and `op_calls` are hypothesis strategies for your
  own tests.
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
    if name in __all__:  # imported late, because these modules import hypothesis
        from autograd.testing import properties, strategies

        return getattr(properties if hasattr(properties, name) else strategies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

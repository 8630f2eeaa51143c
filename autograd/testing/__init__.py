"""Checking gradients, of these ops and of yours.

`gradcheck` and `gradgradcheck` compare a function's derivatives with central differences;
`check_op` runs the property tests of one op, with inputs drawn by hypothesis.
"""

from autograd.testing.gradcheck import GradientError, gradcheck, gradgradcheck, numeric_gradient

__all__ = [
    "GradientError",
    "check_op",
    "gradcheck",
    "gradgradcheck",
    "numeric_gradient",
    "op_calls",
]


def __getattr__(name: str) -> object:
    if name in ("check_op", "op_calls"):  # these import hypothesis, the others must not
        from autograd.testing import properties

        return getattr(properties, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

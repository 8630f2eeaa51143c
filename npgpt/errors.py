"""The error that tells users what they can correct."""

from autograd.schema import UserError

__all__ = ["UserError"]

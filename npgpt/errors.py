"""The error for what a user can put right."""

from autograd.schema import UserError

__all__ = ["UserError"]

"""Which precision a rule computes in: float32 for float16, float64 for whole numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from autograd.engine import Node, TensorBase

if TYPE_CHECKING:
    from collections.abc import Callable


def is_half(nodes: Iterable[Node]) -> bool:
    """Return whether one of these nodes is in half precision, float16."""
    return any([node.dtype.char == "e" for node in nodes])


def in_single(x: Any) -> Any:
    """Return an array of float16 as float32, and any other array as it is."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def in_float(x: Any) -> Any:
    """Return integers and booleans as float64, as NumPy's functions do, and floats as they are."""
    return x.astype(np.float64) if x.dtype.kind in "biu" else x


def all_in_single(value: Any) -> Any:
    """Return a residual, in which every array of float16, also in tuples, is float32."""
    if isinstance(value, ndarray | np.generic | TensorBase):
        return in_single(value)
    return tuple(map(all_in_single, value)) if type(value) is tuple else value


def single_rule(function: Callable) -> Callable:
    """Return a rule's function for inputs of float16: it computes in float32.

    Float16 has neither the range nor the digits for the numbers inside a rule: the square of 300
    and a count of 70,000 are infinite, and a sum of ones stays at 2048. The tape rounds the
    resulting cotangent to float16.
    """

    def in_float32(*values: Any, **needs: Any) -> Any:
        return function(*map(all_in_single, values), **needs)

    return in_float32

"""A step of a backward pass: one call run backwards, and what it sends to its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy import ndarray

from autograd.engine import TensorBase


@dataclass(eq=False)
class Edge:
    """The contribution of a step to the cotangent of one input.

    Attributes
    ----------
    input : str
        The name of the op's argument.
    parent : int
        The number of the node that receives the contribution.
    contribution : ndarray
        The array that is added to the cotangent of that node.
    """

    input: str
    parent: int
    contribution: ndarray


@dataclass(eq=False)
class Step:
    """One call of an op, run backwards.

    Attributes
    ----------
    number : int
        The number of the call.
    cotangent : ndarray, or tuple of ndarray
        The complete cotangent of the call's result. For an op with several outputs it is a tuple
        with one cotangent for each output.
    edges : list of Edge
        What the step sends to the inputs of the call.
    """

    number: int
    cotangent: Any
    edges: list[Edge] = field(default_factory=list)

    @property
    def symbols(self) -> dict[str, ndarray]:
        """The cotangent under its name in formulas: g, or g0, g1, ... for several outputs."""
        if isinstance(self.cotangent, tuple):
            return {f"g{i}": g for i, g in enumerate(self.cotangent)}
        return {"g": self.cotangent}


def plain(x: Any) -> Any:
    """Return a cotangent without Tensors; with create_graph=True a cotangent is a Tensor.

    NumPy scalars are not converted to arrays, because NumPy may round a computation with an array
    without axes differently.
    """
    if isinstance(x, tuple | list):
        return tuple(map(plain, x))
    return x._array if isinstance(x, TensorBase) else x


def as_tuple(x: Any) -> tuple:
    """Return the cotangents, or results, of an op as a tuple, also if the op has one output."""
    return x if isinstance(x, tuple) else (x,)

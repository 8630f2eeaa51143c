"""A part of a value, as a user writes it: ``W1[0, 2]``, ``wte.weight[5]``, ``ws[0][:, 1]``."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np

Index = tuple[Any, ...]  # of integers and slices; empty for the whole value


def split_index(text: str) -> tuple[str, str]:
    """Return the name and the index of a text: ``("ws[0]", "1, 2")`` for ``ws[0][1, 2]``."""
    name, bracket, inside = text.rpartition("[")
    return (name.strip(), inside[:-1]) if bracket and inside.endswith("]") else (text, "")


def read_index(inside: str, shape: tuple[int, ...]) -> Index:
    """Return the index that a text between brackets is, for an array of a shape.

    Raises
    ------
    ValueError
        If the text has anything but integers and slices of integers, or is out of range.
    """
    try:
        node = ast.parse(f"x[{inside}]", mode="eval").body.slice  # type: ignore[attr-defined]
        index = tuple(map(_read, node.elts if isinstance(node, ast.Tuple) else [node]))
        np.broadcast_to(0, shape)[index]
    except (SyntaxError, AttributeError, ValueError, TypeError):
        raise ValueError(
            f"[{inside}] is no index: write integers and slices, as in [0, 2]"
        ) from None
    except IndexError:
        raise ValueError(f"[{inside}] is out of range: the shape is {list(shape)}") from None
    return tuple(i % n if isinstance(i, int) else i for i, n in zip(index, shape, strict=False))


def _read(node: ast.expr) -> Any:
    if not isinstance(node, ast.Slice):
        return _integer(node)
    return slice(*(end and _integer(end) for end in (node.lower, node.upper, node.step)))


def _integer(node: ast.expr) -> int:
    value = ast.literal_eval(node)
    if type(value) is not int:
        raise ValueError(f"{value!r} is no integer")
    return value


def first_of(index: Index, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first element of a part that has elements."""
    whole = (*index, *(slice(None),) * (len(shape) - len(index)))
    pairs = zip(whole, shape, strict=True)
    return tuple(i if isinstance(i, int) else i.indices(n)[0] for i, n in pairs)


def name_of(name: str, index: Index) -> str:
    """Return a name with an index: ``W1[0, 2]``, ``wte.weight[5, :]``, ``(x * x)[1]``."""

    def text(i: Any) -> str:
        if not isinstance(i, slice):
            return str(i)
        ends = ["" if end is None else str(end) for end in (i.start, i.stop, i.step)]
        return ":".join(ends if ends[2] else ends[:2])

    if not index:
        return name
    is_plain = re.fullmatch(r"[^\s()]+", name) and not is_operation(name)
    whole = name if is_plain or not _outside_brackets(name) else f"({name})"
    return f"{whole}[{', '.join(map(text, index))}]"


def is_operation(name: str) -> bool:
    """Return whether a name is an expression with an operator: ``W @ x``, not ``np.exp(x - 1)``."""
    return re.search(r"[-+*/@%&|^~<>=\s]", _outside_brackets(name)) is not None


def _outside_brackets(text: str) -> str:
    while (outside := re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", text)) != text:
        text = outside
    return text

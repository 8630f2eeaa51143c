"""Constants as Python source code that gives exactly the same value."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.escape import shown

WIDTH = 100  # of a line


def literal(value: Any) -> str:
    """Return the source code of a constant, exact to the last digit.

    Raises
    ------
    TypeError
        If values of this type have no source code.
    """
    if isinstance(value, ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return f"np.{type(value).__name__}({literal(value.item())})"
    if isinstance(value, tuple):
        return tuple_of(map(literal, value))
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, slice):
        parts = [value.start, value.stop, value.step]
        if value.step is None:
            parts = [value.stop] if value.start is None else [value.start, value.stop]
        return f"slice({', '.join(map(literal, parts))})"
    if value is Ellipsis:
        return "..."
    if isinstance(value, np.dtype):
        return f"np.dtype({value.name!r})"
    if isinstance(value, type) and (value in (float, int, bool) or issubclass(value, np.generic)):
        return value.__name__ if value in (float, int, bool) else f"np.{value.__name__}"
    if isinstance(value, float):
        return re.sub(r"\b(nan|inf)\b", r"np.\1", repr(value))
    if isinstance(value, str):
        return shown(json.dumps(value, ensure_ascii=False))
    if value is None or isinstance(value, bool | int):
        return repr(value)
    raise TypeError(f"to_source: a constant of type {type(value).__name__} has no source")


def tuple_of(parts: Iterable[str]) -> str:
    """Return the source code of a tuple, from the source codes of its items."""
    parts = list(parts)
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _array(x: ndarray) -> str:
    """Return the source code of an array that also has the same order of axes in memory."""
    dtype = "" if x.dtype in (np.float64, np.int64, np.bool_) else f", np.{x.dtype.name}"
    if x.size == 0:
        return f"np.zeros({x.shape}, np.{x.dtype.name})"
    axes = memory_order(x)
    if axes != list(range(x.ndim)):
        back = tuple(int(a) for a in np.argsort(axes))
        return f"{_array(x.transpose(axes))}.transpose({literal(back)})"
    for function, value in (("zeros", 0), ("ones", 1)):
        if x.size > 4 and x.tobytes() == np.full(x.shape, value, x.dtype).tobytes():
            kind = "" if x.dtype == np.float64 else f", np.{x.dtype.name}"
            return f"np.{function}({literal(x.shape)}{kind})"
    rows = [_numbers(row) for row in (x.reshape(-1, x.shape[-1]) if x.ndim > 1 else [x])]
    reshape = f".reshape{x.shape}" if x.ndim > 2 else ""
    line = f"np.array({rows[0] if x.ndim < 2 else '[' + ', '.join(rows) + ']'}{dtype}){reshape}"
    if len(line) <= 72:
        return line
    if x.ndim < 2:
        rows = [rows[0][1:-1]]
    wrapped = [
        textwrap.fill(row + ",", WIDTH, initial_indent="    ", subsequent_indent="    " + " " *
                      (x.ndim > 1), break_long_words=False, break_on_hyphens=False)
        for row in rows
    ]  # fmt: skip
    return "np.array([\n" + "\n".join(wrapped) + f"\n]{dtype}){reshape}"


def _numbers(x: ndarray) -> str:
    """Return an array's numbers with as few digits as identify them."""
    values = x.tolist()
    if x.dtype.kind == "f" and x.dtype != np.float64 and x.ndim:
        short = [float(str(v)) for v in x]
        if np.array(short, x.dtype).tobytes() == x.tobytes():  # read by way of float64
            values = short
    return re.sub(r"\b(nan|inf)\b", r"np.\1", repr(values))


def memory_order(x: ndarray) -> list[int]:
    """Return the axes of an array in their order in memory: (1, 0) for Fortran order."""
    if x.flags.c_contiguous:
        return list(range(x.ndim))
    return sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))


def identical(x: ndarray, y: ndarray) -> bool:
    """Return whether two arrays have the same bits and the same order in memory."""
    return (
        x.shape == y.shape
        and x.dtype == y.dtype
        and memory_order(x) == memory_order(y)
        and x.tobytes() == y.tobytes()
    )


def wrapped(code: str, comment: int) -> str:
    """Return a line of code. The arguments of a call in a long line stand on lines of their own."""
    if len(code) + 4 + comment <= WIDTH or "\n" in code or not code.endswith(")"):
        return code
    begin = code.index("(", code.index(" = ")) + 1
    inside = code[begin:-1]
    texts = [x.value for x in ast.walk(ast.parse(code)) if isinstance(x, ast.Constant)]
    if _depth(inside) < 0 or any(isinstance(x, str) and " " in x for x in texts):
        return code
    filled = textwrap.fill(
        inside, WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return f"{code[:begin]}\n{filled}\n)"


def _depth(text: str) -> int:
    """Return the lowest nesting depth in a text: -1 for ``a) + (b``, and 0 if brackets match."""
    level = lowest = 0
    for sign in text:
        level += (sign in "([{") - (sign in ")]}")
        lowest = min(lowest, level)
    return lowest

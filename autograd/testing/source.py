"""Source code of a test that repeats a failed check.

A message about a wrong gradient ends in such a test, to paste into a file. Values are written as
literals, and functions by their names.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.op import REGISTRY, Op
from autograd.tensor import Tensor

LARGEST = 256  # elements: a larger array is replaced by a random one of the same shape


def literal(value: Any) -> str:
    """Return source code for a value: exact to the last digit, and with the same memory order.

    Examples
    --------
    >>> import numpy as np
    >>> literal(np.array([0.1, np.nan])), literal(np.zeros((0, 3)))
    ('np.array([0.1, np.nan])', 'np.zeros((0, 3))')
    >>> literal({"axis": (0, None)})
    '{"axis": (0, None)}'
    """
    if isinstance(value, Tensor):
        return literal(value.numpy())
    if isinstance(value, ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return literal(value.item())
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, dict):
        items = (f"{literal(key)}: {literal(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if type(value) is tuple:
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    if type(value) is list:
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, np.dtype):
        return f"np.dtype({value.name!r})"
    if isinstance(value, type):
        return f"np.{value.__name__}" if issubclass(value, np.generic) else value.__name__
    if isinstance(value, float):
        return _numbers(value)
    return repr(value)


def _numbers(values: Any) -> str:
    return re.sub(r"\b(nan|inf)\b", r"np.\1", repr(values))


def _array(x: ndarray) -> str:
    dtype = "" if x.dtype in (np.float64, np.int64, np.bool_) else f", dtype=np.{x.dtype.name}"
    if x.size == 0:
        kind = dtype if x.dtype.kind == "f" else f", dtype=np.{x.dtype.name}"
        return f"np.zeros({x.shape}{kind})"
    if x.size > LARGEST:
        random = "np.random.default_rng(0)."
        kind = "standard_normal(" if x.dtype.kind == "f" else f"integers({x.min()}, {x.max()}, "
        return f"{random}{kind}{x.shape}" + (")" if x.dtype.kind == "f" else ", endpoint=True)")
    backward = [stride < 0 for stride in x.strides]
    if any(backward):
        index = ", ".join("::-1" if back else ":" for back in backward)
        forward = tuple(slice(None, None, -1 if back else 1) for back in backward)
        return f"{_array(x[forward])}[{index}]"
    if x.ndim > 1 and x.flags.f_contiguous and not x.flags.c_contiguous:
        dtype += ', order="F"'
    return f"np.array({_numbers(x.tolist())}{dtype})"


def expression(func: Callable, unnamed: str = "function") -> tuple[str, list[str]]:
    """Return an expression for a function, and the import lines that the expression needs.

    A lambda has no name; it is written as `unnamed`. Instead of an import line there is then a
    comment line with this name, because the user must define the function.
    """
    if isinstance(func, Op) and REGISTRY.get(func.name) is func:
        lines = ["import autograd"]
        module = func.__module__ or "__main__"
        if module != "__main__" and not module.startswith("autograd.") and module in sys.modules:
            lines.append(f"import {module}  # registers the op")
        return f"autograd.REGISTRY[{func.name!r}]".replace("'", '"'), lines
    if hasattr(func, "source"):  # an op with its other arguments fixed
        return func.source, expression(func.op)[1]  # type: ignore[attr-defined]
    module, name = getattr(func, "__module__", ""), getattr(func, "__name__", "")
    if getattr(np, name, None) is func:
        return f"np.{name}", []
    if module and getattr(sys.modules.get(module), name, None) is func and module != "__main__":
        return name, [f"from {module} import {name}"]
    if not name.isidentifier():
        name = unnamed
    return name, [f"# {name}"]


def source_of_test(
    checker: str, functions: Sequence[Callable], names: Sequence[str], inputs: Sequence,
    **options: Any,
) -> str:  # fmt: skip
    """Return the source of a test that calls a checker on functions and inputs, with imports.

    Parameters
    ----------
    checker : str
        The name of a function of `autograd.testing`.
    functions : sequence of callable
        The function, and its vjp if that is checked.
    names : sequence of str
        For each input, what the function calls the input.
    inputs : sequence
    **options
        Options of the checker.
    """
    found = [expression(f, name) for f, name in zip(functions, ("function", "vjp"), strict=False)]
    imports = dict.fromkeys(line for _, lines in found for line in lines)
    top = [line for line in imports if line.startswith("import ")]
    rest = [line for line in imports if line.startswith("from ")]
    missing = [line[2:] for line in imports if line.startswith("# ")]
    if missing:
        rest += ["", f"# define here: {' and '.join(missing)}, as checked"]
    lines = ["import numpy as np", "", *top, f"from autograd.testing import {checker}", *rest]
    lines += ["", "", f"def test_{_identifier(functions[0])}():"]
    listed = []
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value, ndarray | Tensor) and name.isidentifier():
            large = "  # in place of the array that was checked"
            lines.append(f"    {name} = {literal(value)}{large if value.size > LARGEST else ''}")
            listed.append(name)
        else:
            listed.append(literal(value))
    if found[0][0].startswith("lambda"):
        options.setdefault("name", functions[0].__name__)
    called = ", ".join(text for text, _ in found)
    extra = "".join(f", {key}={literal(value)}" for key, value in options.items())
    lines.append(f"    assert {checker}({called}, [{', '.join(listed)}]{extra})")
    return "\n".join(lines)


def _identifier(func: Callable) -> str:
    name = getattr(func, "__name__", "")
    return name if name.isidentifier() else "function"

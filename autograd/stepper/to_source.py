"""Tape to source: a recorded forward and backward pass as one NumPy script, free of the engine.

An op's function and its rules are NumPy source already. What fits on a line is written with the
variables in the place of its arguments; the rest is carried over as a function, with all that it
calls. What the engine does between the ops (adding up, summing what was broadcast, converting
dtypes) is spelled out, in its order: so the script's numbers are the engine's, bit for bit.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import keyword
import linecache
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, groupby
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.anomaly import users_frame
from autograd.engine import TensorBase
from autograd.kernels import use_kernels
from autograd.modes import enable_grad, record_with
from autograd.op import Op, Rule
from autograd.stepper.record import Call, Recording, recording_of
from autograd.tensor import Tensor

WIDTH = 100  # of a line
LONGEST = 64  # characters of a function's expression that is written in the place of its call
SMALL = 16  # elements of an array that is written out although there is a file for arrays
MOST = 20_000  # elements that are written out where there is none
FUNCTIONS = "functions: what the ops compute, and their rules"
SECTION = 16  # ops of a module that are not divided among its parts


def to_source(loss: Tensor, file: str | Path | None = None, *, primitives: bool = False) -> str:
    """Write the pass that computed a loss, and the pass back from it, as a NumPy script.

    Run by itself, the script prints the loss and the gradients of the leaves: those of the engine
    with kernels off, bit for bit.

    Parameters
    ----------
    loss : Tensor
        A number, computed inside ``with autograd.record():``.
    file : str or Path, optional
        Where to write the script; its large arrays go to a file beside it, with ``.npz`` for its
        suffix.
    primitives : bool
        Write the references of fused ops in their place. The numbers are then theirs: the same but
        for rounding.

    Returns
    -------
    str
        The script.

    Raises
    ------
    RuntimeError
        If `loss` was not recorded, or a hook changed one of its gradients.
    ValueError
        If `loss` is not a number, or its arrays are large and there is no file for them.
    TypeError
        If the source of an op is not to be found, or has a constant that cannot be written.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> from autograd.stepper.to_source import to_source
    >>> with autograd.record():
    ...     x = autograd.tensor([0.5, 1.0], requires_grad=True)
    ...     y = np.tanh(x)
    ...     loss = (y * y).sum()
    >>> print(to_source(loss).split("# ---- backward")[1].split("# ---- gradients")[0].strip())
    d_loss = np.ones(())
    d_multiply_1 = restore(d_loss, (2,), None, False)  # dx_i = g  (2,)
    d_y = d_multiply_1 * y                             # dx = g · y  (2,)
    d_y = d_y + d_multiply_1 * y                       # dy = g · x  (2,)
    d_x = d_y - d_y * y * y                            # dx = g · (1 - tanh(x)^2)  (2,)
    """
    recording = recording_of(loss, "to_source")
    if loss.size != 1:
        raise ValueError(f"to_source: the loss must be a number, and has shape {loss.shape}")
    frame = users_frame()
    recording.name_variables(frame)
    start = loss._node.number  # type: ignore[union-attr]
    for call in recording.behind(start):
        for name, number in call.parents.items():
            value = recording.values[number]
            if number not in recording.maker and call.arguments[name] is not value:
                raise RuntimeError(
                    f"to_source: {recording.name(number)} was changed in place between two uses"
                )
        for number in (*call.results, *call.parents.values()):
            if recording._nodes[number].hooks:
                raise RuntimeError(
                    f"to_source: a hook sees the gradient of {recording.name(number)}, and what "
                    "it does is no part of the tape"
                )
    with use_kernels(False), np.errstate(all="ignore"):
        while primitives and any(call.op.reference_function for call in recording.behind(start)):
            recording, start = _expanded(recording, start)
        script = _Script(recording, start, _arrays_in(frame), None if file is None else Path(file))
        text = script.text()
    if file is not None:
        Path(file).write_text(text, encoding="utf-8")
        if script.stored:
            arrays: dict[str, Any] = script.stored
            np.savez(Path(file).with_suffix(".npz"), **arrays)
    return text


def _arrays_in(frame: FrameType | None) -> list[tuple[str, ndarray]]:
    """Return the constant arrays that variables of a frame, and of its callers, hold."""
    found = []
    while frame is not None:
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, TensorBase) and value._node is None:
                value = value._array
            if type(value) is ndarray and not name.startswith("_"):
                found.append((name, value))
        frame = frame.f_back
    return found


def _expanded(recording: Recording, start: int) -> tuple[Recording, int]:
    """Run a recording again with the references of fused ops in their place."""
    new = Recording()
    tensors: dict[int, Tensor] = {}
    with record_with(new), enable_grad():
        for call in recording.behind(start):
            for parent in call.parents.values():
                if parent not in tensors:
                    leaf = Tensor(recording.values[parent].copy(order="K"))
                    tensors[parent] = leaf.requires_grad_()
            values = {
                name: tensors[call.parents[name]] if name in call.parents else x
                for name, x in call.arguments.items()
            }
            arrays = [values.pop(n) for n in list(values)[: len(values) - len(call.op.names) + 1]
                      if call.op.variadic]  # fmt: skip
            run = call.op.reference_function or call.op
            within = f"{call.scope}.{call.op.name}" if run is not call.op else call.scope
            with new.scope(within.strip(".")):
                out = run(*arrays, **values) if run is call.op else run(*values.values())
            outputs = out if isinstance(out, tuple) else (out,)
            tensors.update(zip(call.results, outputs, strict=True))
    numbers = {old: x._node.number for old, x in tensors.items()}  # type: ignore[union-attr]
    new.names = {numbers[old]: name for old, name in recording.names.items() if old in numbers}
    return new, numbers[start]


# ---- names and constants


class _Names:
    """Names of a script, no two of them the same."""

    def __init__(self) -> None:
        self.taken = {*keyword.kwlist, *dir(builtins), "np", "math", "arrays", "gradients", "_"}

    def new(self, wanted: str) -> str:
        """Return an identifier close to the one that is wanted."""
        wanted = re.sub(r"\.(\d+)\b", r"\1", wanted)  # h.0.attn: h0_attn
        wanted = re.sub(r"_?\W+", "_", wanted).strip("_") or "x"
        wanted = "_" + wanted if wanted[0].isdigit() else wanted
        name = next(
            name for i in count(1) if (name := wanted if i == 1 else f"{wanted}_{i}") not in
            self.taken
        )  # fmt: skip
        self.taken.add(name)
        return name


def _literal(value: Any) -> str:
    """Return source code of a constant, to the last digit; TypeError if there is none."""
    if isinstance(value, ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return f"np.{type(value).__name__}({_literal(value.item())})"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_literal, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, slice):
        parts = [value.start, value.stop, value.step]
        if value.step is None:
            parts = [value.stop] if value.start is None else [value.start, value.stop]
        return f"slice({', '.join(map(_literal, parts))})"
    if value is Ellipsis:
        return "..."
    if isinstance(value, np.dtype):
        return f"np.dtype({value.name!r})"
    if isinstance(value, type) and (value in (float, int, bool) or issubclass(value, np.generic)):
        return value.__name__ if value in (float, int, bool) else f"np.{value.__name__}"
    if isinstance(value, float):
        return re.sub(r"\b(nan|inf)\b", r"np.\1", repr(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool | int):
        return repr(value)
    raise TypeError(f"to_source: a constant of type {type(value).__name__} has no source")


def _array(x: ndarray) -> str:
    """Return source code of an array, with the order of its axes in memory."""
    dtype = "" if x.dtype in (np.float64, np.int64, np.bool_) else f", np.{x.dtype.name}"
    if x.size == 0:
        return f"np.zeros({x.shape}, np.{x.dtype.name})"
    axes = _order(x)
    if axes != list(range(x.ndim)):
        back = tuple(int(a) for a in np.argsort(axes))
        return f"{_array(x.transpose(axes))}.transpose({_literal(back)})"
    for function, value in (("zeros", 0), ("ones", 1)):
        if x.size > 4 and x.tobytes() == np.full(x.shape, value, x.dtype).tobytes():
            kind = "" if x.dtype == np.float64 else f", np.{x.dtype.name}"
            return f"np.{function}({_literal(x.shape)}{kind})"
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
    """Return numbers, or one, in as few digits as say which they are."""
    values = x.tolist()
    if x.dtype.kind == "f" and x.dtype != np.float64 and x.ndim:
        short = [float(str(v)) for v in x]
        if np.array(short, x.dtype).tobytes() == x.tobytes():  # read by way of float64
            values = short
    return re.sub(r"\b(nan|inf)\b", r"np.\1", repr(values))


def _order(x: ndarray) -> list[int]:
    """Return the axes of an array by the order of its elements in memory."""
    if x.flags.c_contiguous:
        return list(range(x.ndim))
    return sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))


# ---- functions


class _Functions:
    """Functions carried over into a script, with all that they call."""

    def __init__(self, names: _Names) -> None:
        self.names = names
        self.definitions: dict[str, str] = {}  # in order: each after what it needs
        self.imports: set[str] = set()
        self._known: dict[int, tuple[Any, str]] = {}

    def name(self, function: Any, wanted: str = "", doc: str | None = None) -> str:
        """Return what a function or class is called in the script; its definition is added."""
        function = inspect.unwrap(function)
        if id(function) in self._known:
            return self._known[id(function)][1]
        name = self.names.new(wanted or function.__name__)
        self._known[id(function)] = function, name
        node, lines = self._node(function)
        if isinstance(node, ast.Lambda):
            body = ast.unparse(_Put(dict(self._uses(node, function))).visit(node.body))
            text = f"def {name}({ast.unparse(node.args)}):\n"
            if doc:
                text += f"    {_quoted(doc, '    ')}\n"
            text += f"    return {body}"
        else:
            text = self._definition(node, lines, function, name, doc)
        self.definitions[name] = text
        return name

    def inline(self, function: Any, texts: dict[str, str]) -> tuple[str, bool] | None:
        """Return a function's expression with texts in the place of its arguments, if it is short.

        And whether its result is the same to the bit for a scalar of NumPy's as for an array of no
        axes, which are computed with by other code.
        """
        function = inspect.unwrap(function)
        node, _ = self._node(function)
        body = _expression(node)
        if body is None or len(ast.unparse(body)) > LONGEST:
            return None
        parts = list(ast.walk(body))
        calls = [x.func for x in parts if isinstance(x, ast.Call) and x is not body]
        if any(isinstance(f, ast.Name) and f.id not in dir(builtins) for f in calls):
            return None  # a call of another function is written alone, or in a function
        put: dict[Any, str] = dict(self._uses(node, function))
        for child in parts:
            if isinstance(child, ast.Name) and child.id in texts:
                put[child] = texts[child.id]
        return ast.unparse(_Put(put).visit(body)), _same_for_scalars(body)

    def _node(self, function: Any) -> tuple[Any, list[str]]:
        """Return the syntax tree of a function or class, and the lines of its file."""
        code = getattr(function, "__code__", None)
        try:
            path = code.co_filename if code else inspect.getfile(function)
            lines = linecache.getlines(path)
            tree = _parsed("".join(lines))
        except (TypeError, SyntaxError):
            lines, tree = [], ast.Module([], [])
        lambdas = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Lambda) and code and code.co_name == "<lambda>":
                if all(_within(node.body, place) for place in code.co_positions()):
                    lambdas.append(node)
            elif isinstance(node, ast.FunctionDef) and code and node.name == code.co_name:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if first == code.co_firstlineno:
                    return node, lines
            elif isinstance(node, ast.ClassDef) and not code and node.name == function.__name__:
                return node, lines
        if lambdas:  # the innermost
            return min(lambdas, key=lambda node: len(ast.unparse(node))), lines
        raise TypeError(f"to_source: the source of {function.__qualname__} is not to be found")

    def _definition(
        self, node: Any, lines: list[str], function: Any, name: str, doc: str | None
    ) -> str:
        """Return a definition's text, with the script's names and without annotations."""
        edits: list[tuple[int, int, int, int, str]] = []  # from line and column to line and column

        def edit(start: tuple[int, int], end: tuple[int, int], text: str) -> None:
            edits.append((*start, *end, text))

        for child, text in self._uses(node, function):
            edit((child.lineno, child.col_offset), (child.end_lineno, child.end_col_offset), text)
        for child in ast.walk(node):
            if isinstance(child, ast.arg) and child.annotation is not None:
                edit((child.lineno, child.col_offset), _end(child.annotation), child.arg)
            elif isinstance(child, ast.FunctionDef) and child.returns is not None:
                line = lines[child.returns.lineno - 1].encode()
                arrow = line.rindex(b"->", 0, child.returns.col_offset)
                before = len(line[:arrow].rstrip())
                edit((child.returns.lineno, before), _end(child.returns), "")
        begin = lines[node.lineno - 1].encode().index(node.name.encode(), node.col_offset)
        edit((node.lineno, begin), (node.lineno, begin + len(node.name.encode())), name)
        if doc:
            first = node.body[0]
            indent = " " * first.col_offset
            quoted = _quoted(doc, indent)
            if ast.get_docstring(node) is not None:
                edit((first.lineno, first.col_offset), _end(first), quoted)
            else:
                place = first.lineno, first.col_offset
                edit(place, place, f"{quoted}\n{indent}")
        kept, last = [line.encode() for line in lines], node.end_lineno
        for row, column, end_row, end_column, text in sorted(edits, reverse=True):
            head, tail = kept[row - 1][:column], kept[end_row - 1][end_column:]
            kept[row - 1 : end_row] = [head + text.encode() + tail]
            last -= end_row - row
        text = b"".join(kept[node.lineno - 1 : last]).decode()
        opening, *rest = textwrap.dedent(text).rstrip().split("\n")
        if len(opening) > WIDTH and opening.endswith("):"):  # its name is longer than it was
            opening = re.sub(r"^(\w+ \w+\()(.*)\):$", r"\1\n    \2\n):", opening)
        return "\n".join([opening, *rest])

    def _uses(self, node: Any, function: Any) -> Iterator[tuple[Any, str]]:
        """Yield the parts of a tree that name globals, with their names in the script."""
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    method = vars(function)[part.name]
                    method = getattr(method, "__func__", getattr(method, "fget", method))
                    yield from self._uses(part, method)
            return
        closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        known = function.__globals__ | {name: cell.cell_contents for name, cell in closure}
        bound = _bound(node)
        for place, *attributes in _chains(node):
            name = place.id
            if name in bound or name not in known:
                continue
            value = known[name]
            for attribute in attributes:  # of a module of ours, or of the user's: nn.sigmoid
                if not isinstance(value, ModuleType) or _is_at_hand(value):
                    break
                place, name = attribute, attribute.attr
                value = getattr(value, name)
            text = self._written(value, name)
            if ast.unparse(place) != text:
                yield place, text

    def _written(self, value: Any, name: str) -> str:
        """Return what to write for the value of a global name."""
        known = getattr(value, "__name__", "")
        if isinstance(value, ModuleType):
            if known.split(".")[0] == "numpy":
                return "np" + known.removeprefix("numpy")
            if known != "math":
                self.imports.add(known)
            return known
        if isinstance(value, Op):
            if not value.saves:
                return self.name(value.forward)
            whole = self.name(value.forward, value.forward.__name__ + "_and_saved")
            if id(value) not in self._known:
                self._known[id(value)] = value, self.names.new(value.forward.__name__)
                alone = self._known[id(value)][1]
                self.definitions[alone] = (
                    f"def {alone}(*args, **kwargs):\n    return {whole}(*args, **kwargs)[0]"
                )
            return self._known[id(value)][1]
        if known and getattr(np, known, None) is value:
            return f"np.{known}"
        if known and getattr(math, known, None) is value:
            return f"math.{known}"
        if getattr(builtins, known, None) is value:
            return known
        if isinstance(value, type) or isinstance(inspect.unwrap(value), FunctionType):
            return self.name(value)
        if isinstance(value, BuiltinFunctionType | np.ufunc):
            raise TypeError(f"to_source: {known} has no source in Python")
        if id(value) not in self._known:
            name = self.names.new(name)
            self._known[id(value)] = value, name
            self.definitions[name] = _wrapped(f"{name} = {_literal(value)}", 0)
        return self._known[id(value)][1]


@lru_cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


class _Put(ast.NodeTransformer):
    """Puts texts in the place of some nodes of a tree: a copy of it, the tree stays."""

    def __init__(self, texts: dict[Any, str]) -> None:
        self.texts = texts

    def visit(self, node: ast.AST) -> Any:
        """Return a node's copy, or what stands in its place."""
        if node in self.texts:
            return ast.parse(self.texts[node], mode="eval").body
        fields = {}
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                value = [self.visit(x) if isinstance(x, ast.AST) else x for x in value]
            elif isinstance(value, ast.AST):
                value = self.visit(value)
            fields[name] = value
        if isinstance(node, ast.Subscript):
            fields["slice"] = _sliced(fields["slice"])
        return type(node)(**fields)


def _within(node: Any, place: tuple) -> bool:
    """Return whether a place in the source, of an instruction, is in that of a tree."""
    line, end_line, column, end_column = place
    if line is None or (line, column) == (end_line, end_column):
        return True
    begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return begin <= (line, column) and (end_line, end_column) <= end


def _sliced(index: Any) -> Any:
    """Return the tree of an index with ``a:b`` for ``slice(a, b)``."""
    if isinstance(index, ast.Tuple):
        return ast.Tuple([_sliced(part) for part in index.elts], ast.Load())
    if isinstance(index, ast.Call) and ast.unparse(index.func) == "slice":
        parts = [None if ast.unparse(p) == "None" else p for p in index.args]
        parts = [None, *parts] if len(parts) == 1 else parts
        return ast.Slice(*parts)
    return index


def _expression(node: Any) -> Any:
    """Return the expression that is all of a function, if it has no variables of its own."""
    if isinstance(node, ast.Lambda):
        body: Any = node.body
    else:
        body = node.body[ast.get_docstring(node) is not None :]
        if len(body) != 1 or not isinstance(body[0], ast.Return):
            return None
        body = body[0].value
    return None if _bound(body) or any(isinstance(x, ast.Lambda) for x in ast.walk(body)) else body


def _bound(node: ast.AST) -> set[str]:
    """Return the names that are bound anywhere in a tree."""
    found = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load):
            found.add(child.id)
        elif isinstance(child, ast.arg):
            found.add(child.arg)
        elif isinstance(child, ast.FunctionDef | ast.ClassDef) and child is not node:
            found.add(child.name)
    return found


def _chains(node: ast.AST) -> Iterator[list[Any]]:
    """Yield the names in a tree, each with the attributes on it, outwards; not in annotations."""
    chain: list[Any] = [node]
    while isinstance(chain[0], ast.Attribute):
        chain.insert(0, chain[0].value)
    if isinstance(chain[0], ast.Name):
        yield chain
        return
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _chains(child)


def _is_at_hand(module: ModuleType) -> bool:
    return module.__name__.split(".")[0] in ("numpy", "math")


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset


def _quoted(doc: str, indent: str) -> str:
    """Return a docstring's source."""
    lines = doc.replace("\\", "\\\\").replace('"""', '"').split("\n")
    lines[1:] = [
        indent + line if line or i == len(lines) - 2 else "" for i, line in enumerate(lines[1:])
    ]
    return '"""' + "\n".join(lines) + '"""'


def _same_for_scalars(body: ast.AST) -> bool:
    """Return whether an expression has only what NumPy rounds alike for scalars and arrays."""
    if isinstance(body, ast.Name):
        return False  # it may be kept, and meet anything later
    for node in ast.walk(body):
        if isinstance(node, ast.BinOp):
            if not isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
                return False
        elif isinstance(node, ast.Call):
            if not ast.unparse(node.func).startswith("np."):
                return False
        elif isinstance(node, ast.Subscript):
            return False
        elif isinstance(node, ast.Attribute) and not ast.unparse(node).startswith("np."):
            return False
    return True


# ---- the script


@dataclass
class _Line:
    """One line of the script: ``target = value``, and what its comment says."""

    target: str
    value: str
    formula: str = ""
    shape: Any = None
    scope: str = ""
    number: int = 0  # of the node whose value is a scalar, which may have to be an array

    @property
    def comment(self) -> str:
        shape = self.shape if isinstance(self.shape, list) else [self.shape]
        shapes = ", ".join("" if x is None else str(tuple(x)) for x in shape)
        return "  ".join(filter(None, [self.formula, shapes]))


class _Script:
    """The script of the calls behind one node."""

    def __init__(
        self, recording: Recording, start: int, known: list[tuple[str, ndarray]], file: Path | None
    ) -> None:
        self.recording, self.start, self.known, self.file = recording, start, known, file
        self.calls = recording.behind(start)
        self.names = _Names()
        self.functions = _Functions(self.names)
        self.stored: dict[str, ndarray] = {}
        self.data: list[_Line] = []
        self.constants: list[tuple[ndarray, str]] = []
        self.written_out = 0  # elements
        self.arrays: set[int] = set()  # numbers of values that must be arrays, not scalars
        self.scalars: set[int] = set()  # and of those that are scalars
        self.saved: dict[int, dict] = {}  # of calls: what they return for rules, variable and value
        maker = {n for call in self.calls for n in call.results}
        used = [n for call in self.calls for n in call.parents.values()]
        self.leaves = list(dict.fromkeys(n for n in used if n not in maker))
        self.full = self._full_names()
        self.shorten = _without_root(self.full.values())
        self.variable = {n: self.names.new(self.shorten(name)) for n, name in self.full.items()}
        self.cotangent = {n: self.names.new("d_" + self.variable[n]) for n in self.full}
        self.formulas = self._formulas()

    def _full_names(self) -> dict[int, str]:
        """Return what to call leaves and results: by name, module, or op."""
        recording, full = self.recording, {n: self.recording.name(n) for n in self.leaves}
        last = {call.scope: call for call in self.calls}  # the result of a module
        counted: Counter[str] = Counter()
        for call in self.calls:
            for number in call.results:
                if number in recording.names:
                    full[number] = recording.names[number]
                elif call.scope and last[call.scope] is call and len(call.results) == 1:
                    full[number] = call.scope
                else:
                    name = f"{call.scope}.{call.op.name}".removeprefix(".")
                    counted[name] += 1
                    full[number] = f"{name}_{counted[name]}"
        return full

    def _formulas(self) -> dict[str, str]:
        """Return a formula for each op: that of its calls if they agree, or the plainest."""
        found: dict[str, set[str]] = {}
        for call in self.calls:
            if call.op.stated is not None and not call.op.stated.moves:
                found.setdefault(call.op.name, set()).add(call.op.stated.text(call.arguments))
        plain = {call.op.name: call.op.stated for call in self.calls}
        return {
            name: texts.pop() if len(texts) == 1 else str(plain[name])
            for name, texts in found.items()
        }

    # ---- texts of values

    def constant(self, value: Any, wanted: str) -> str:
        """Return what to write for an argument that is not on the tape."""
        if not isinstance(value, ndarray):
            if isinstance(value, tuple | list):
                parts = [self.constant(part, wanted) for part in value]
                comma = "," if len(parts) == 1 and isinstance(value, tuple) else ""
                return ("({}{})" if isinstance(value, tuple) else "[{}{}]").format(
                    ", ".join(parts), comma
                )
            return _literal(value)
        for array, name in self.constants:
            if _same(array, value):
                return name
        users = (name for name, array in self.known if _same(array, value))
        name = next(users, wanted)
        if value.size <= 1 and name == wanted:
            return _literal(value)
        name = self.names.new(name)
        self.constants.append((value, name))
        self.data.append(_Line(name, self.array(value, name), shape=value.shape))
        return name

    def array(self, x: ndarray, name: str) -> str:
        """Return source code of an array, or of its place in the file of arrays."""
        if self.file is not None and x.size > SMALL:
            axes = _order(x)
            self.stored[name] = x.transpose(axes)
            back = tuple(int(a) for a in np.argsort(axes))
            moved = "" if axes == list(range(x.ndim)) else f".transpose({_literal(back)})"
            return f"arrays[{_literal(name)}]{moved}"
        self.written_out += x.size
        if self.written_out > MOST and self.file is None:
            raise ValueError(
                f"to_source: the arrays have more than {MOST} elements; give a file, and they are "
                "written beside it: to_source(loss, 'step.py')"
            )
        return _literal(x)

    def namespace(self, call: Call) -> tuple[dict[str, str], dict[str, Any], dict[str, list[int]]]:
        """Return what a call's rules may name: texts, values, and numbers of the nodes of these."""
        op = call.op
        texts, numbers = {}, {}
        for name, x in call.arguments.items():
            parent = call.parents.get(name)
            if parent is None:
                wanted = self.shorten(f"{call.scope}.{name}".removeprefix("."))
                texts[name] = self.constant(x, wanted)
            else:
                texts[name] = self.variable[parent]
                numbers[name] = [parent]
        values = dict(call.arguments)
        if op.variadic:
            n = len(values) - len(op.names) + 1
            arrays = [values.pop(f"x{i}") for i in range(n)]
            parts = [texts.pop(f"x{i}") for i in range(n)]
            values[op.names[0]] = tuple(arrays)
            texts[op.names[0]] = f"({', '.join(parts)}{',' if n == 1 else ''})"
            numbers[op.names[0]] = [numbers.pop(f"x{i}")[0] for i in range(n) if f"x{i}" in numbers]
        results = [self.variable[n] for n in call.results]
        outs = [self.recording.values[n] for n in call.results]
        if op.multiple:
            texts["out"] = f"({', '.join(results)}{',' if len(results) == 1 else ''})"
            values["out"] = tuple(outs)
        else:
            texts["out"], values["out"] = results[0], outs[0]
        numbers["out"] = list(call.results)
        read = {name for rule in op.rules for name in rule.residuals}
        for name in op.names:
            if f"{name}_shape" not in read:
                continue
            x = values[name]
            shape = tuple(map(np.shape, x)) if isinstance(x, tuple) else np.shape(x)
            values[f"{name}_shape"], texts[f"{name}_shape"] = shape, _literal(shape)
        for name, (variable, value) in self.saved.get(call.number, {}).items():
            texts[name], values[name] = variable, value
        return texts, values, numbers

    # ---- forward

    def forward(self) -> Iterator[_Line]:
        """Yield the lines of the forward pass."""
        for call in self.calls:
            op = call.op
            arrays = [v for k, v in call.arguments.items() if op.variadic and k not in op.names[1:]]
            static = {k: v for k, v in call.arguments.items() if not op.variadic or k in op.names}
            out = op.forward(*arrays, **static)
            if op.saves:
                out, *saved = out
                names = [self.names.new(f"{self.variable[call.results[0]]}_{n}") for n in op.saves]
                pairs = zip(names, saved, strict=True)
                self.saved[call.number] = dict(zip(op.saves, pairs, strict=True))
            parts = out if op.multiple else [out]
            for number, part in zip(call.results, parts, strict=True):
                if isinstance(part, np.generic):
                    self.scalars.add(number)
            texts, _, numbers = self.namespace(call)
            formula, _ = _divided(self.formulas.get(op.name, ""), op)
            value, alike = self.functions.inline(op.forward, texts) or ("", False)
            said = formula.replace("\n", "; ")
            if not value:
                name, said = self.functions.name(op.forward, doc=_doc(op, formula)), ""
                value = f"{name}({', '.join(self._arguments(call, texts))})"
            if not alike:
                self.arrays.update(n for name in op.names for n in numbers.get(name, ()))
            if _is_arithmetic(value):
                said = ""  # it is its own formula
            if op.multiple and not self.scalars.isdisjoint(call.results):
                value = f"map(np.asarray, {value})"
            targets = [self.variable[n] for n in call.results]
            targets += [texts[name] for name in op.saves]
            target = ", ".join(targets) + ("," if op.multiple and len(targets) == 1 else "")
            shape = self.recording.values[call.results[0]].shape
            yield _Line(target, value, said, shape, call.scope, 0 if op.multiple else number)

    def _arguments(self, call: Call, texts: dict[str, str]) -> list[str]:
        """Return the arguments of a call: those after the last array by name."""
        op = call.op
        if op.variadic:
            parts = [
                self.variable[call.parents[n]] if n in call.parents else self.constant(x, n)
                for n, x in call.arguments.items() if n not in op.names[1:]
            ]  # fmt: skip
            return parts + [f"{name}={texts[name]}" for name in op.names[1:]]
        arrays = [i for i, n in enumerate(op.names) if isinstance(call.arguments[n], ndarray)]
        last = max(arrays, default=0)
        return [
            texts[name] if i <= last else f"{name}={texts[name]}" for i, name in enumerate(op.names)
        ]

    # ---- backward

    def backward(self) -> Iterator[_Line]:
        """Yield the lines of the backward pass: what the engine does, in its order."""
        first = self.recording.values[self.start]
        dtype = "" if first.dtype == np.float64 else f", np.{first.dtype.name}"
        self.reached = {self.start}
        scope = self.recording.maker[self.start].scope if self.calls else ""
        yield _Line(
            self.cotangent[self.start], f"np.ones({_literal(first.shape)}{dtype})", scope=scope
        )
        for call in sorted(self.calls, key=lambda call: -call.number):
            yield from self._pulled_back(call)

    def _pulled_back(self, call: Call) -> Iterator[_Line]:
        op, values = call.op, self.recording.values
        texts, known, numbers = self.namespace(call)
        zeros = {
            n: f"np.zeros({_literal(values[n].shape)}, np.{values[n].dtype.name})"
            for n in call.results
        }
        g = [self.cotangent[n] if n in self.reached else zeros[n] for n in call.results]
        ones = [np.ones(values[n].shape, values[n].dtype) for n in call.results]
        texts["g"] = f"({', '.join(g)}{',' if len(g) == 1 else ''})" if op.multiple else g[0]
        wanted = [i for i, name in enumerate(op.names) if name in call.parents]
        if op.variadic:
            wanted = [0]
        for rule in op.rules:
            if set(rule.positions).isdisjoint(wanted):
                continue
            parents = self._parents(call, rule)
            needs = tuple(p is not None for p in parents)
            residuals = [known[name] for name in rule.residuals]
            extra = {"needs": needs} if rule.wants_needs else {}
            found = rule.function(tuple(ones) if op.multiple else ones[0], *residuals, **extra)
            _, formula = _divided(self.formulas.get(op.name, ""), op)
            texts["needs"] = _literal(needs)
            value, alike = self.functions.inline(rule.function, texts) or ("", False)
            said = "; ".join(x for x in formula.split("\n") if _speaks_of(x, rule.inputs))
            if not value:
                helper = "_".join([op.name, "vjp", *(rule.inputs if len(op.rules) > 1 else ())])
                doc, said = _rules_doc(op, rule, formula), ""
                arguments = [texts[name] for name in ("g", *rule.residuals)]
                arguments += [f"needs={needs}"] if rule.wants_needs else []
                name = self.functions.name(rule.function, helper, doc)
                value = f"{name}({', '.join(arguments)})"
            if not alike:
                self.arrays.update(n for name in rule.residuals for n in numbers.get(name, ()))
            if not rule.joint:
                yield self._added(call.parents[rule.inputs[0]], value, found, said, call)
                continue
            yield from self._unpacked(parents, value, tuple(found), said, call)

    @staticmethod
    def _parents(call: Call, rule: Rule) -> list[int | None]:
        if call.op.variadic:
            n = len(call.arguments) - len(call.op.names) + 1
            return [call.parents.get(f"x{i}") for i in range(n)]
        return [call.parents.get(name) for name in rule.inputs]

    def _unpacked(
        self, parents: list, value: str, found: tuple, said: str, call: Call
    ) -> Iterator[_Line]:
        """Yield the lines of a rule that serves several inputs."""
        targets, later = [], []
        for parent, part in zip(parents, found, strict=True):
            if parent is None:
                targets.append("_")
                continue
            name = self.cotangent[parent]
            if parent in self.reached or name in targets:
                name = self.names.new(f"{name}_from_{call.op.name}")
            if name != self.cotangent[parent] or self._fitted("x", part, parent) != "x":
                later.append((parent, name, part))
            else:
                self.reached.add(parent)
            targets.append(name)
        shapes = [tuple(part.shape) for part, parent in zip(found, parents, strict=True)
                  if parent is not None]  # fmt: skip
        target = ", ".join(targets) + ("," if len(targets) == 1 else "")
        yield _Line(
            target, value, said, shapes[:1] if len(set(shapes)) == 1 else shapes, call.scope
        )
        for parent, name, part in later:
            yield self._added(parent, name, part, "", call)

    def _added(self, parent: int, value: str, found: Any, said: str, call: Call) -> _Line:
        """Return the line that adds a contribution to a cotangent."""
        value = self._fitted(value, found, parent)
        name = self.cotangent[parent]
        if parent in self.reached:
            tree = ast.parse(value, mode="eval").body
            low = isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add | ast.Sub)
            value = f"{name} + ({value})" if low else f"{name} + {value}"
        self.reached.add(parent)
        return _Line(name, value, said, self.recording.values[parent].shape, call.scope)

    def _fitted(self, text: str, found: Any, parent: int) -> str:
        """Return a contribution with broadcasting and promotion undone."""
        like = self.recording.values[parent]
        if found.shape == like.shape and found.dtype == like.dtype:
            return text
        if not isinstance(ast.parse(text, mode="eval").body, ast.Name | ast.Call | ast.Subscript):
            text = f"({text})"
        if found.shape != like.shape:
            added = len(found.shape) - len(like.shape)
            axes = [
                i
                for i, n in enumerate(found.shape)
                if i < added or (like.shape[i - added] == 1 and n != 1)
            ]
            text += f".sum({axes[0] if len(axes) == 1 else tuple(axes)})"
            left = tuple(n for i, n in enumerate(found.shape) if i not in axes)
            if left != like.shape or not like.shape:
                text += f".reshape({_literal(like.shape)})"
        if found.dtype != like.dtype:
            text += f".astype(np.{like.dtype.name})"
        return text

    # ---- all of it

    def text(self) -> str:
        """Return the script."""
        values = self.recording.values
        for n in self.leaves:
            name = self.variable[n]
            code = self.array(values[n], name)
            self.data.append(_Line(name, code, shape=values[n].shape))
        forward = list(self.forward())
        backward = list(self.backward())
        for line in list(forward):  # as the engine has them
            if line.number in self.scalars & self.arrays:
                if line.target == self.variable[line.number]:
                    line.value = f"np.asarray({line.value})"
                else:
                    name = self.variable[line.number]
                    after = _Line(name, f"np.asarray({name})", scope=line.scope)
                    forward.insert(forward.index(line) + 1, after)
        loss = self.variable[self.start]
        imports = "\n".join(f"import {name}" for name in sorted(self._imports(forward, backward)))
        imports += "\n\n" if imports else ""
        parts = [_head(loss, bool(self.stored)) + f"\n\n{imports}import numpy as np"]
        if self.functions.definitions:
            parts.append("\n\n".join([_rule(FUNCTIONS), *self._definitions()]).rstrip() + "\n")
        sections = _sections(self.calls)
        load = 'arrays = np.load(__file__.removesuffix(".py") + ".npz")\n\n' if self.stored else ""
        parts.append(f"{_rule('data')}\n\n{load}{_aligned(self.data)}")
        parts.append(f"{_rule('forward')}\n\n{self._body(forward, sections)}")
        parts.append(f"{_rule('backward')}\n\n{self._body(backward, sections)}")
        gradients = [
            f'    {_literal(self.full[n])}: np.array({self.cotangent[n]}, order="C"),'
            for n in self.leaves
        ]
        parts.append("\n".join([
            _rule("gradients"), "", "gradients = {", *gradients, "}", "",
            'np.set_printoptions(floatmode="unique")  # every digit', f'print("{loss} =", {loss})',
            "for name, gradient in gradients.items():",
            f'    print(f"\\nd {loss} / d {{name}}, {{gradient.shape}}:\\n{{gradient}}")',
        ]))  # fmt: skip
        return "\n\n".join(parts) + "\n"

    def _imports(self, *passes: list[_Line]) -> set[str]:
        code = [line.value for lines in passes for line in lines]
        code += self.functions.definitions.values()
        return self.functions.imports | {"math" for x in code if re.search(r"\bmath\.", x)}

    def _definitions(self) -> Iterator[str]:
        """Yield the functions and the constants, with the empty lines that they need."""
        for constant, names in groupby(
            self.functions.definitions, lambda n: not re.match("def|class",
                                                               self.functions.definitions[n])
        ):  # fmt: skip
            found = [self.functions.definitions[name] for name in names]
            yield "\n".join(found) if constant else "\n" + "\n\n\n".join(found) + "\n"

    def _body(self, lines: list[_Line], sections: dict[str, str]) -> str:
        """Return lines in sections by module."""
        found = []
        for section, group in groupby(lines, lambda line: sections.get(line.scope, line.scope)):
            text = _aligned(list(group))
            found.append(f"# {section}\n{text}" if section and len(sections) > 1 else text)
        return "\n\n".join(found)


def _same(x: ndarray, y: ndarray) -> bool:
    return (
        x.shape == y.shape
        and x.dtype == y.dtype
        and _order(x) == _order(y)
        and x.tobytes() == y.tobytes()
    )


def _without_root(names: Iterable[str]) -> Callable[[str], str]:
    """Return a function that shortens dotted names, if most have the same first part."""
    deep = [name for name in names if name.count(".") > 1]
    if not deep:
        return lambda name: name
    root, n = Counter(name.split(".")[0] + "." for name in deep).most_common(1)[0]
    return lambda name: name.removeprefix(root) if 2 * n > len(deep) else name


def _sections(calls: list[Call]) -> dict[str, str]:
    """Return, for each scope, the module whose section its calls belong to."""
    sizes: Counter[str] = Counter()
    for call in calls:
        parts = call.scope.split(".")
        sizes.update(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    found = {}
    for scope in dict.fromkeys(call.scope for call in calls):
        parts = scope.split(".")
        above = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        found[scope] = next((name for name in above if sizes[name] <= SECTION), scope)
    return found


def _divided(formula: str, op: Op) -> tuple[str, str]:
    """Divide a formula into what it says of the result, and of the cotangents."""
    lines = formula.split("\n") if formula else []
    inputs = "|".join(["x\\d+"] if op.variadic else map(re.escape, op.names))
    about = re.compile(rf"(?<![\w])(g\d*|d({inputs}))(?![^\W_])")
    first = next((i for i, line in enumerate(lines) if about.search(line)), len(lines))
    ends = [i for i, line in enumerate(lines[:first]) if re.search(r"\bout(?![^\W_])", line)]
    last = max(ends, default=-1) + 1
    return "\n".join(lines[:last]), "\n".join(lines[last:])


def _speaks_of(line: str, inputs: tuple[str, ...]) -> bool:
    left = line.split("=")[0]
    return any(re.match(rf"d{re.escape(name)}(?![^\W_])", left.strip()) for name in inputs)


def _doc(op: Op, formula: str) -> str:
    """Return the docstring of an op's function: what it says of itself, and its formula."""
    summary = (op.__doc__ or op.name).strip().split("\n")[0]
    if not formula:
        return summary
    return summary + "\n\n" + textwrap.indent(formula, "    ") + "\n"


def _rules_doc(op: Op, rule: Rule, formula: str) -> str:
    """Return the docstring of a rule."""
    lines = formula.split("\n") if formula else []
    others = [n for n in op.names if n not in rule.inputs]
    lines = [line for line in lines if not _speaks_of(line, tuple(others))]
    summary = f"Cotangent of {' and '.join(rule.inputs)}."
    if len(rule.inputs) > 1:
        summary = f"Cotangents of {', '.join(rule.inputs[:-1])} and {rule.inputs[-1]}."
    return summary if not lines else "\n".join([summary, "", *("    " + x for x in lines), ""])


def _head(loss: str, stored: bool) -> str:
    beside = "\nThe arrays are in the .npz beside this file.\n" if stored else ""
    return (
        f'"""What computed {loss}, and its derivatives: a tape of autograd, as NumPy.\n\n'
        f"d_x is the derivative of {loss} with respect to x. In a formula, out is an op's result,\n"
        f"g the derivative of {loss} with respect to it, and dx with respect to its input x.\n"
        f'{beside}"""'
    )


def _rule(title: str) -> str:
    return f"# ---- {title}"


def _aligned(lines: list[_Line]) -> str:
    """Return lines with their comments in one column."""
    codes = [_wrapped(f"{line.target} = {line.value}", len(line.comment)) for line in lines]
    ends = [
        len(code)
        for code, line in zip(codes, lines, strict=True)
        if line.comment and "\n" not in code and len(code) + len(line.comment) + 4 <= WIDTH
    ]
    width = max([n for n in ends if n <= 64] or ends, default=0)
    padded = [0 if "\n" in code else width - len(code) for code in codes]
    return "\n".join(
        f"{code}{' ' * padding}  # {line.comment}" if line.comment else code
        for code, padding, line in zip(codes, padded, lines, strict=True)
    )


def _is_arithmetic(value: str) -> bool:
    """Return whether an expression is one operation on names and numbers."""
    tree = ast.parse(value, mode="eval").body
    return isinstance(tree, ast.BinOp) and all(
        isinstance(side, ast.Name | ast.Constant) for side in (tree.left, tree.right)
    )


def _wrapped(code: str, comment: int) -> str:
    """Return a line of code, a long one with its arguments on lines of their own."""
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
    """Return how far the brackets of a text fall below the outermost."""
    level = lowest = 0
    for sign in text:
        level += (sign in "([{") - (sign in ")]}")
        lowest = min(lowest, level)
    return lowest

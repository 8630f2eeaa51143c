"""Functions as source code, taken from their files together with everything that they call."""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import linecache
import math
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np

from autograd.escape import shown_text
from autograd.op import Op
from autograd.stepper.literals import WIDTH, literal, wrapped

LONGEST = 64  # characters: a shorter function body is written in the place of a call


class Names:
    """The names that a script uses; a new name is different from all before."""

    def __init__(self) -> None:
        self.taken = {
            *keyword.kwlist,
            *dir(builtins),
            "np",
            "math",
            "arrays",
            "check",
            "gradients",
            "_",
        }

    def new(self, wanted: str) -> str:
        """Return a new identifier similar to a wanted name: ``h0_attn`` for ``h.0.attn``."""
        wanted = unicodedata.normalize("NFKC", wanted)  # as Python reads identifiers
        wanted = re.sub(r"\.(\d+)\b", r"\1", wanted)  # h.0.attn: h0_attn
        wanted = "".join(c if f"x{c}".isidentifier() else " " for c in wanted)
        wanted = re.sub(r"_?\W+", "_", wanted).strip("_") or "x"
        wanted = "_" + wanted if wanted[0].isdigit() else wanted
        name = next(
            name for i in count(1) if (name := wanted if i == 1 else f"{wanted}_{i}") not in
            self.taken
        )  # fmt: skip
        self.taken.add(name)
        return name


class Functions:
    """The functions that a script defines: those of ops and rules, and all that they call."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.definitions: dict[str, str] = {}  # in order: a definition stands after those it uses
        self.imports: set[str] = set()
        self._known: dict[int, tuple[Any, str]] = {}

    def name(self, function: Any, wanted: str = "", doc: str | None = None) -> str:
        """Return the name of a function or class in the script, and add its definition."""
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
        """Return the body of a short function with other texts in the place of its arguments.

        For ``lambda g, y: g * y`` and the texts ``dz`` and ``w`` it is ``dz * w``. The second
        result says whether NumPy computes exactly the same for a scalar as for an array without
        axes, for which it has different code. The result is None if the body is too long.
        """
        function = inspect.unwrap(function)
        node, _ = self._node(function)
        body = _expression(node)
        if body is None or len(ast.unparse(body)) > LONGEST:
            return None
        parts = list(ast.walk(body))
        calls = [x.func for x in parts if isinstance(x, ast.Call) and x is not body]
        if any(isinstance(f, ast.Name) and f.id not in dir(builtins) for f in calls):
            return None  # a call of another function must stand alone in its line
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
        if lambdas:  # the shortest is the innermost one
            return min(lambdas, key=lambda node: len(ast.unparse(node))), lines
        raise TypeError(f"to_source: the source of {function.__qualname__} was not found")

    def _definition(
        self, node: Any, lines: list[str], function: Any, name: str, doc: str | None
    ) -> str:
        """Return the text of a definition with the names of the script, without annotations."""
        edits: list[tuple[int, int, int, int, str]] = []  # begin (line, column), end, new text

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
        bound, aliases = _bound(node), dict[str, str]()
        for place, *attributes in _chains(node):
            name = place.id
            if name in bound or name not in known:
                continue
            value = known[name]
            for attribute in attributes:  # of a module, as in nn.sigmoid
                if not isinstance(value, ModuleType) or _is_at_hand(value):
                    break
                place, name = attribute, attribute.attr
                value = getattr(value, name)
            text = self._written(value, name)
            if text in bound:  # a variable of the function has this name
                if text not in aliases:
                    aliases[text] = self._alias(text, bound)
                text = aliases[text]
            if ast.unparse(place) != text:
                yield place, text

    def _alias(self, name: str, others: set[str]) -> str:
        """Return another name for a definition, which is none of some names."""
        alias = name
        while alias in others:
            alias = self.names.new(f"global_{name}")
        self.definitions[alias] = f"{alias} = {name}"
        return alias

    def _written(self, value: Any, name: str) -> str:
        """Return the source code for the value of a global name."""
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
            self.definitions[name] = wrapped(f"{name} = {literal(value)}", 0)
        return self._known[id(value)][1]


@lru_cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


class _Put(ast.NodeTransformer):
    """Copies a syntax tree with source texts in the place of some nodes."""

    def __init__(self, texts: dict[Any, str]) -> None:
        self.texts = texts

    def visit(self, node: ast.AST) -> Any:
        """Return a copy of a node, or the tree of the text that replaces the node."""
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
    """Return whether the place of an instruction lies inside the source of a tree."""
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
    """Return the expression that a function returns, if the function does nothing else."""
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
    """Yield each name in a tree with its attributes: for ``np.linalg.norm`` three nodes.

    Annotations are left out.
    """
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
    lines = re.sub(r'"{2,}|"$', "'", shown_text(doc).replace("\\", "\\\\")).split("\n")
    lines[1:] = [
        indent + line if line or i == len(lines) - 2 else "" for i, line in enumerate(lines[1:])
    ]
    return '"""' + "\n".join(lines) + '"""'


def _same_for_scalars(body: ast.AST) -> bool:
    """Return whether NumPy rounds an expression equally for scalars and for arrays."""
    if isinstance(body, ast.Name):
        return False  # the value itself may be used later, in any expression
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

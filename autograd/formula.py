"""The notation in which ops say what they compute: people read it, and a program evaluates it.

A formula is a few equations, one a line (or after a semicolon)::

    p_i = exp(x_i) / Σ_j exp(x_j)        a definition
    out_i = p_i                          the op's value
    dx_i = p_i · (g_i - Σ_j g_j · p_j)   the cotangent of its input x

`out` is the op's result, `g` the cotangent of it, and ``dx`` that of the input named ``x``; other
names are the op's arguments, or defined by an earlier line. An equation whose left side is not a
name alone states an identity: ``Σ_j x_ij · out_jk = [i = k]``.

Subscripts name the last axes of an array; whatever axes stand before them are taken element by
element, and broadcast. So ``out = x · y`` speaks of every element, and ``out_ik = Σ_j x_ij · y_jk``
of every matrix in a stack. Where inputs broadcast, their cotangents are summed back.

- ``+ - · / ^`` and ``|x|`` as usual (``*`` for ``·`` will do); functions such as ``exp(x)``;
- ``Σ_i``, ``Π_i``, ``max_i``, ``min_i``, ``mean_i`` act on the product after them (``sum_i`` for
  ``Σ_i`` will do); without an index, over all axes that subscripts do not name;
- ``[condition]`` is 1 where it holds and 0 elsewhere (Iverson's bracket), with ``= ≠ < > ≤ ≥ and``;
  indices are numbers there, counted from 0;
- ``x_{i + 1, j}`` computes a subscript; outside of its array a value is 0;
- ``n`` is how many elements a reduction takes together; what follows a ``#`` is a remark.

The evaluation shares nothing with the rules: it is a proof of them, not a second copy.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

FUNCTIONS: dict[str, Callable] = {
    name: getattr(np, name)
    for name in (
        "exp exp2 log log2 log10 sqrt cbrt sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh "
        "arccosh arctanh arctan2 sign floor ceil trunc hypot"
    ).split()
} | {
    "erf": np.vectorize(math.erf, otypes=[float]),
    "round": np.rint,
    "max": np.maximum,
    "min": np.minimum,
    "mod": np.mod,
}
BIG: dict[str, Callable] = {
    "Σ": np.sum, "Π": np.prod, "max": np.max, "min": np.min, "mean": np.mean,
}  # fmt: skip
BINARY: dict[str, Callable] = {
    "+": np.add, "-": np.subtract, "·": np.multiply, "/": np.divide, "^": np.power,
}  # fmt: skip
COMPARISONS: dict[str, Callable] = {
    "=": np.equal, "≠": np.not_equal, "<": np.less, ">": np.greater,
    "≤": np.less_equal, "≥": np.greater_equal,
}  # fmt: skip


class FormulaError(ValueError):
    """A formula that cannot be read, or that names what its op does not have."""


# ---- reading


class Number(NamedTuple):
    """A constant."""

    value: float


class Name(NamedTuple):
    """An array, a static argument, or an index, with its subscripts."""

    name: str
    subscripts: tuple = ()


class Call(NamedTuple):
    """A function of expressions: also the signs of arithmetic, and comparisons."""

    function: Callable
    arguments: tuple


class Big(NamedTuple):
    """A sum, or its like, over an index, or (of none) over all that is not subscripted."""

    function: Callable
    letter: str
    body: Any


class Equation(NamedTuple):
    """One line of a formula."""

    text: str
    left: Any
    right: Any


_TOKEN = re.compile(r"\s*(\d+\.?\d*(?:e[-+]?\d+)?|[^\W\d]\w*|\S)")


class _Reader:
    """Reads one expression after the other, by recursive descent."""

    def __init__(self, text: str, known: set[str]) -> None:
        self.text, self.known = text, known
        self.tokens = [*_TOKEN.findall(text.replace("*", "·")), ""]

    def fail(self, expected: str) -> Any:
        found = self.tokens[0] or "its end"
        raise FormulaError(f"formula {self.text!r}: expected {expected}, found {found}")

    def accept(self, *tokens: str) -> str:
        """Take the next token if it is one of these."""
        return self.tokens.pop(0) if self.tokens[0] in tokens and self.tokens[0] else ""

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail(repr(token))

    def expression(self) -> Any:
        left = self.product()
        while sign := self.accept("+", "-"):
            left = Call(BINARY[sign], (left, self.product()))
        return left

    def product(self) -> Any:
        left = self.factor()
        while sign := self.accept("·", "/"):
            left = Call(BINARY[sign], (left, self.factor()))
        return left

    def factor(self) -> Any:
        if self.accept("-"):
            return Call(np.negative, (self.product(),))
        atom = self.atom()
        return Call(BINARY["^"], (atom, self.factor())) if self.accept("^") else atom

    def atom(self) -> Any:
        if self.accept("("):
            inner = self.expression()
            self.expect(")")
            return inner
        if self.accept("["):
            return self.condition()
        if self.accept("|"):
            inner = self.expression()
            self.expect("|")
            return Call(np.abs, (inner,))
        token = self.tokens[0]
        if token[:1].isdigit():
            return Number(float(self.tokens.pop(0)))
        if not token.isidentifier():
            self.fail("a number, a name or a bracket")
        return self.name(self.tokens.pop(0))

    def name(self, word: str) -> Any:
        base, letters = self.divided(word)
        subscripts: tuple = tuple(
            Number(float(c)) if c.isdigit() else Name(c) for c in letters.rstrip("_")
        )
        if base in BIG and not (not letters and self.tokens[0] == "("):
            if len(letters) > 1:
                self.fail(f"one index after {base}_")
            return Big(BIG[base], letters, self.product())
        if base in FUNCTIONS and self.accept("("):
            arguments = [self.expression()]
            while self.accept(","):
                arguments.append(self.expression())
            self.expect(")")
            return Call(FUNCTIONS[base], tuple(arguments))
        if word.endswith("_") and self.accept("{"):
            parts = [self.expression()]
            while self.accept(","):
                parts.append(self.expression())
            self.expect("}")
            subscripts = tuple(parts)
        return Name(base, subscripts)

    def divided(self, word: str) -> tuple[str, str]:
        """Divide a word into a name, which may have underscores itself, and its subscripts."""
        if word in self.known:
            return word, ""
        parts = word.split("_")
        for i in range(len(parts) - 1, 0, -1):
            base = "_".join(parts[:i])
            if base in self.known or base in BIG or base in FUNCTIONS or base == "sum":
                return base.replace("sum", "Σ"), "".join(parts[i:])
        return ("Σ", "") if word == "sum" else (parts[0], "".join(parts[1:]))

    def condition(self) -> Any:
        conditions: list[Any] = []
        while not conditions or self.accept("and"):
            left = self.expression()
            sign = self.accept(*COMPARISONS) or "≠"
            right = self.expression() if self.tokens[0] not in ("]", "and") else Number(0)
            conditions.append(Call(COMPARISONS[sign], (left, right)))
        self.expect("]")
        holds = conditions[0]
        for other in conditions[1:]:
            holds = Call(np.multiply, (holds, other))
        return Call(np.multiply, (Number(1), holds))


@lru_cache(maxsize=1000)
def parse(text: str, known: frozenset[str]) -> tuple[Equation, ...]:
    """Read a formula whose op has arguments and other values of these names."""
    names = set(known)
    equations = []
    for line in (part.split("#")[0].strip() for part in re.split(r"[;\n]", text)):
        if not line:
            continue
        reader = _Reader(line, names)
        left = reader.expression()
        reader.expect("=")
        right = reader.expression()
        if reader.tokens[0]:
            reader.fail("its end")
        if isinstance(left, Name):
            names.add(left.name)
        equations.append(Equation(line, left, right))
    return tuple(equations)


def _names(node: Any) -> Iterator[Name]:
    """Yield every name in an expression, subscripts before what they belong to."""
    children = {Call: "arguments", Name: "subscripts"}.get(type(node))
    for child in getattr(node, children) if children else ():
        yield from _names(child)
    if isinstance(node, Big):
        yield from _names(node.body)
    if isinstance(node, Name):
        yield node


def _open(node: Any) -> list[str]:
    """Return the indices of a left side, in order, without those of its sums."""
    bound = set()

    def walk(node: Any) -> None:
        if isinstance(node, Big):
            bound.add(node.letter)
            walk(node.body)
        for child in node.arguments if isinstance(node, Call) else ():
            walk(child)

    walk(node)
    letters = [s.name for name in _names(node) for s in name.subscripts if isinstance(s, Name)]
    return [letter for letter in dict.fromkeys(letters) if letter not in bound]


# ---- evaluating


class Evaluation:
    """Values by name, and the axes that every value has: the batch, then one an open index."""

    def __init__(self, equations: tuple[Equation, ...], values: dict[str, Any]) -> None:
        self.values = dict(values)
        shapes = [()]
        for name in (name for e in equations for side in e[1:] for name in _names(side)):
            value = self.values.get(name.name)
            if isinstance(value, ndarray):
                if value.ndim < len(name.subscripts):
                    raise FormulaError(
                        f"{name.name} has {len(name.subscripts)} subscripts and shape {value.shape}"
                    )
                shapes.append(value.shape[: value.ndim - len(name.subscripts)])
        self.batch = np.broadcast_shapes(*shapes)
        self.indices: dict[str, ndarray] = {}
        self.ranges: dict[str, int] = {}

    def sides(self, equation: Equation) -> tuple[ndarray, ndarray] | None:
        """Return both sides of an equation; of a definition None, having made it."""
        self.ranges |= self.found_ranges(equation)  # others go as far as in the lines before
        letters = _open(equation.left)
        for letter in letters:
            self.open(letter)
        lengths = tuple(self.ranges[letter] for letter in letters)
        right = self.value(equation.right)
        right = np.broadcast_to(right, np.broadcast_shapes(right.shape, lengths))
        left = equation.left
        result = None
        if not isinstance(left, Name) or left.name in self.values:
            whole = isinstance(left, Name) and all(isinstance(s, Name) for s in left.subscripts)
            found = np.asarray(self.values[left.name]) if whole else self.value(left)
            result = found, _fitted(right, found.shape)
        else:
            self.values[left.name] = right
        self.indices.clear()
        return result

    def found_ranges(self, equation: Equation) -> dict[str, int]:
        """Return how far each index goes: as far as the axes that it stands at."""
        ranges: dict[str, int] = {}
        for name in (name for side in equation[1:] for name in _names(side)):
            value = self.values.get(name.name)
            if isinstance(value, ndarray) and name.subscripts:
                axes = value.shape[value.ndim - len(name.subscripts) :]
                for n, subscript in zip(axes, name.subscripts, strict=True):
                    if isinstance(subscript, Name) and not subscript.subscripts:
                        ranges[subscript.name] = n if ranges.get(subscript.name, 1) == 1 else (
                            ranges[subscript.name]
                        )  # fmt: skip
        return ranges

    def open(self, letter: str) -> None:
        """Give an index an axis of its own, behind all others."""
        if letter not in self.ranges:
            raise FormulaError(f"index {letter} stands at no axis of a known array")
        self.indices = {known: index[..., None] for known, index in self.indices.items()}
        depth = len(self.indices)
        self.indices[letter] = np.arange(self.ranges[letter]).reshape((1,) * depth + (-1,))

    def value(self, node: Any) -> ndarray:
        """Return an expression's value: the axes of the batch, then one for each open index."""
        if isinstance(node, Number):
            return np.asarray(node.value)
        if isinstance(node, Call):
            with np.errstate(all="ignore"):
                return node.function(*map(self.value, node.arguments))
        if isinstance(node, Big):
            return self.summed(node)
        if node.name in self.indices and not node.subscripts:
            return self.indices[node.name]
        if node.name not in self.values:
            raise FormulaError(f"the formula names {node.name!r}, which nothing defines")
        return self.entry(np.asarray(self.values[node.name]), node.subscripts)

    def summed(self, node: Big) -> ndarray:
        """Return a sum, or its like: over its own new axis, or over those of the batch."""
        before = self.indices
        if node.letter:
            self.open(node.letter)
        value = self.value(node.body)
        self.indices = before
        if node.letter:
            value = np.broadcast_to(value, (*value.shape[:-1], self.ranges[node.letter]))
            return node.function(value, axis=-1)
        whole = np.broadcast_shapes(value.shape, (*self.batch, *(1,) * len(before)))
        axes = tuple(range(len(self.batch)))
        return node.function(np.broadcast_to(value, whole), axis=axes, keepdims=True)

    def entry(self, array: ndarray, subscripts: tuple) -> ndarray:
        """Return elements of an array, by subscripts of its last axes."""
        depth = len(self.indices)
        if not subscripts:
            return array.reshape(array.shape + (1,) * depth)
        lead, axes = array.shape[: -len(subscripts)], array.shape[-len(subscripts) :]
        lead = (1,) * (len(self.batch) - len(lead)) + lead
        array = array.reshape(lead + axes)
        grid: Any = np.indices(lead, sparse=True)
        places = [axis.reshape(axis.shape + (1,) * depth) for axis in grid]
        inside: Any = True
        for subscript, n in zip(subscripts, axes, strict=True):
            place = self.value(subscript)
            if n == 1 and isinstance(subscript, Name) and subscript.name in self.indices:
                place = place * 0  # an axis of length 1 stretches
            inside = inside & (place >= 0) & (place < n)
            places.append(np.clip(place, 0, max(n - 1, 0)).astype(int))
        if array.size == 0:
            return np.zeros(np.broadcast_shapes(*(place.shape for place in places)))
        return np.where(inside, array[tuple(places)], 0)


def _fitted(x: ndarray, shape: tuple[int, ...]) -> ndarray:
    """Sum over the axes that broadcasting added or stretched, and broadcast over the others."""
    added = x.ndim - len(shape)
    axes = tuple(i for i in range(x.ndim) if i < added or (shape[i - added] == 1 != x.shape[i]))
    x = x.sum(axis=axes, keepdims=True)
    return np.broadcast_to(x.reshape(x.shape[max(added, 0) :]), shape)


class Formula:
    """An op's formula: its text, and how a call's arrays become what the text speaks of.

    Parameters
    ----------
    op : Op
    text : str or callable
        A callable takes some of the op's arguments (or ``<argument>_shape``) by name and returns
        the text for them; its defaults are the case that a table shows.
    along : str or callable, optional
        The argument that names an axis, or several, or a function of arguments that does: they
        become the last axis, so that the text speaks of one vector.
    moves : bool
        The op only moves elements: all arrays are flat, and ``at`` is where each came from.
    given : dict of str to callable
        Further names, each computed from arguments by name.
    """

    def __init__(
        self,
        op: Any,
        text: str | Callable[..., str],
        *,
        along: str | Callable | None = None,
        moves: bool = False,
        **given: Callable,
    ) -> None:
        self.op, self.along, self.moves, self.given = op, along, moves, given
        self._text = text

    def text(self, arguments: dict[str, Any] | None = None) -> str:
        """Return the formula for a call's arguments, or for the plainest case."""
        text = self._text
        if callable(text):
            text = text(**({} if arguments is None else _named(text, arguments)))
        lines = (line.strip() for line in re.split(r"[;\n]", text))
        return re.sub(r"\bsum\b|\bsum(?=_)", "Σ", "\n".join(filter(None, lines))).replace("*", "·")

    def __str__(self) -> str:
        return self.text()

    def equations(
        self, arguments: dict[str, Any], out: Any, g: Any, cotangents: dict[str, Any]
    ) -> Iterator[tuple[str, ndarray, ndarray]]:
        """Evaluate a call's formula.

        Parameters
        ----------
        arguments : dict
            Arrays and static arguments by name; those of a variadic op are x0, x1, ...
        out, g : ndarray, or sequence of ndarray
            The result and its cotangent; of several, out0, out1, ... and g0, g1, ...
        cotangents : dict
            By the name of an input, what the op's rules gave.

        Yields
        ------
        text, found, expected
            An equation, the value of the name on its left (or its left side), and that of its right
            side, to be summed where the input was broadcast.
        """
        equations, evaluation = self._evaluation(arguments, out, g, cotangents)
        stated = {name.name for e in equations for side in e[1:] for name in _names(side)}
        for name in cotangents:
            if not self.moves and f"d{name}" not in stated:
                raise FormulaError(f"{self.op.name}: the formula says nothing of d{name}")
        for equation in equations:
            if (sides := evaluation.sides(equation)) is not None:
                yield equation.text, *sides

    def _evaluation(
        self, arguments: dict[str, Any], out: Any, g: Any, cotangents: dict[str, Any]
    ) -> tuple[tuple[Equation, ...], Evaluation]:
        """Read the formula for a call, and put its arrays in the axes that it speaks of."""
        values = {"π": np.pi, **arguments}
        values |= {f"d{name}": value for name, value in cotangents.items()}
        for name, value in (("out", out), ("g", g)):
            several = isinstance(value, tuple | list)
            values |= {f"{name}{i}": v for i, v in enumerate(value)} if several else {name: value}
        text = self.text(arguments)
        if self.moves:
            values |= self._flat(arguments, out, g, cotangents)
        for name, function in self.given.items():
            values[name] = function(**_named(function, arguments))
        equations = parse(text, frozenset(values))
        if self.along is not None:
            values |= self._along(equations, values)
        return equations, Evaluation(equations, values)

    def _along(self, equations: tuple[Equation, ...], values: dict[str, Any]) -> dict[str, Any]:
        """Bring the axes that the op works along to the end, as one."""
        along, names = self.along, self.op.names
        given = {name: values[name] for name in names if name in values}
        axis: Any = along(**_named(along, given)) if callable(along) else values[str(along)]
        shape = np.shape(values[self.op.names[0]])
        axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        last = sorted(int(a) % len(shape) for a in axes)
        first = [a for a in range(len(shape)) if a not in last]
        batch, n = tuple(shape[a] for a in first), math.prod(shape[a] for a in last)
        subscripted = {
            name.name: len(name.subscripts)
            for e in equations for side in e[1:] for name in _names(side)
        }  # fmt: skip
        own = tuple(shape[a] for a in last)
        moved: dict[str, Any] = {"n": n}
        for name, value in values.items():
            if isinstance(value, ndarray) and subscripted.get(name) and value.shape == shape:
                moved[name] = value.transpose(first + last).reshape(*batch, n)
            elif isinstance(value, ndarray) and subscripted.get(name) and value.shape == own:
                moved[name] = value.reshape(n)
            elif isinstance(value, ndarray) and subscripted.get(name) == 0 and value.ndim:
                moved[name] = value.reshape(batch)
        return moved

    def _flat(self, arguments: dict, out: Any, g: Any, cotangents: dict) -> dict[str, Any]:
        """Return all arrays flat, and where in the inputs each element of the output comes from."""
        inputs = {name: np.asarray(arguments[name]) for name in cotangents}
        n = sum(x.size for x in inputs.values())

        def flat(parts: Any) -> ndarray:
            parts = parts if isinstance(parts, tuple | list) else [parts]
            return np.concatenate([np.reshape(part, -1) for part in parts])

        def moved(first: float) -> ndarray:
            """Return the output for inputs whose elements are numbers, counted from the first."""
            numbers = np.split(np.arange(first, first + n), np.cumsum([x.size for x in
                               inputs.values()])[:-1])  # fmt: skip
            call = arguments | {
                name: part.reshape(x.shape)
                for (name, x), part in zip(inputs.items(), numbers, strict=True)
            }
            arrays = [call.pop(name) for name in inputs] if self.op.variadic else []
            return flat(self.op.forward(*arrays, **call))

        at, later = moved(0.0), moved(n + 1.0)
        found = {f"d{name}": flat(value) for name, value in cotangents.items()}
        found |= {name: flat(value) for name, value in inputs.items()}
        x, dx = flat(list(inputs.values())), flat(list(cotangents.values()))
        at = np.where(at == later, -1, at).astype(int)  # -1: it came from no input
        return {**found, "at": at, "x": x, "dx": dx, "out": flat(out), "g": flat(g)}


def _named(function: Callable, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a function names, shapes included."""
    found = {}
    for name in inspect.signature(function).parameters:
        if name in arguments:
            found[name] = arguments[name]
        elif name.endswith("_shape"):
            found[name] = np.shape(arguments[name.removesuffix("_shape")])
        else:
            found[name] = tuple(v for k, v in arguments.items() if re.fullmatch(r"x\d+", k))
    return found

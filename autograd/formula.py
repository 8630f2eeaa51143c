"""The notation in which ops state their formulas. People read it, and a program evaluates it.

A formula is a list of equations, one in each line (or separated by semicolons)::

    p_i = exp(x_i) / Σ_j exp(x_j)        a definition of p
    out_i = p_i                          the result of the op
    dx_i = p_i · (g_i - Σ_j g_j · p_j)   the cotangent of the input x

`out` is the op's result and `g` is the cotangent of the result. ``dx`` is the cotangent of the
input ``x``. Other names are arguments of the op, or are defined by an earlier line. If the left
side is not a single name, the equation states an identity: ``Σ_j x_ij · out_jk = [i = k]``.

Subscripts name the last axes of an array. An equation holds for every element of the axes before
them, with broadcasting. So ``out = x · y`` holds for every element, and
``out_ik = Σ_j x_ij · y_jk`` for every matrix in a stack. If an input was broadcast, its cotangent
is summed over the broadcast axes.

- ``+ - · / ^`` and ``|x|`` have their usual meaning (``*`` means ``·``, and ``**`` means ``^``).
  There are functions such as ``exp(x)``, and ``∞`` is infinity.
- ``Σ_i``, ``Π_i``, ``max_i``, ``min_i`` and ``mean_i`` apply to the product after them (``sum_i``
  means ``Σ_i``). Without an index they reduce all axes that have no subscript.
- ``[condition]`` is 1 if the condition holds and 0 otherwise (Iverson's bracket). Conditions use
  ``= ≠ < > ≤ ≥ and``. An index is a number in them, counted from 0. A product with a condition that
  does not hold is 0, whatever the other factor is: ``∞ · [s > t]`` is ``∞`` or 0.
- ``x_{i + 1, j}`` computes a subscript. A value outside of the array is 0.
- ``n`` is the number of elements that a reduction combines. Text after ``#`` is a remark.

The evaluation computes in float64 and shares no code with the ops' rules. So an equation that holds
for the numbers of a call is evidence that formula and rule are both right.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
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
TYPED = {"**": "^", "*": "·"}  # signs as Python has them
COMPARISONS: dict[str, Callable] = {
    "=": np.equal, "≠": np.not_equal, "<": np.less, ">": np.greater,
    "≤": np.less_equal, "≥": np.greater_equal,
}  # fmt: skip


def one_or_zero(holds: Any) -> Any:
    """Return 1 where a condition holds, and 0 elsewhere: the bracket ``[condition]``."""
    return np.where(holds, 1.0, 0.0)


def choose(x: Any, y: Any) -> Any:
    """Return the product of two factors, of which one is a condition: 0 where a factor is 0.

    A condition that does not hold leaves out the other factor, which may be infinite or NaN there.
    """
    return np.where((np.asarray(x) == 0) | (np.asarray(y) == 0), 0.0, np.multiply(x, y))


class FormulaError(ValueError):
    """A formula that cannot be read, or that uses a name which is not defined."""


# ---- reading


class Number(NamedTuple):
    """A constant."""

    value: float


class Name(NamedTuple):
    """An array, a static argument, or an index, with its subscripts."""

    name: str
    subscripts: tuple = ()


class Call(NamedTuple):
    """A function applied to expressions. Arithmetic signs and comparisons are functions, too."""

    function: Callable
    arguments: tuple


class Big(NamedTuple):
    """A sum, product, maximum, minimum or mean over an index.

    Without an index (``letter`` is empty), it reduces all axes that have no subscript.
    """

    function: Callable
    letter: str
    body: Any


class Equation(NamedTuple):
    """One line of a formula."""

    text: str
    left: Any
    right: Any


_TOKEN = re.compile(r"\s*(\d+\.?\d*(?:e[-+]?\d+)?|[^\W\d]\w*|\*\*|\S)")


class _Reader:
    """Reads expressions by recursive descent: one method for each level of binding strength.

    For ``a + b · c``, `expression` reads a term, sees ``+``, and asks `product` for the next term,
    which reads ``b · c`` as a whole. So ``·`` binds more strongly than ``+``.
    """

    def __init__(self, text: str, known: set[str]) -> None:
        self.text, self.known = text, known
        self.tokens = [*_TOKEN.findall(text), ""]

    def fail(self, expected: str) -> Any:
        found = self.tokens[0] or "its end"
        raise FormulaError(f"formula {self.text!r}: expected {expected}, found {found}")

    def accept(self, *tokens: str) -> str:
        """Consume and return the next token if it is one of these; else return an empty text."""
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
        while sign := self.accept("·", "*", "/"):
            right = self.factor()
            is_choice = sign != "/" and (_is_condition(left) or _is_condition(right))
            left = Call(choose if is_choice else BINARY[TYPED.get(sign, sign)], (left, right))
        return left

    def factor(self) -> Any:
        if self.accept("-"):
            return Call(np.negative, (self.product(),))
        atom = self.atom()
        return Call(np.power, (atom, self.factor())) if self.accept("^", "**") else atom

    def atom(self) -> Any:
        if self.accept("("):
            inner = self.expression()
            self.expect(")")
            return inner
        if self.accept("∞"):
            return Number(math.inf)
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
        base, letters = self.split_name(word)
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

    def split_name(self, word: str) -> tuple[str, str]:
        """Split a word into a name and its subscripts: ``x_ij`` into ``x`` and ``ij``.

        A name may have underscores itself, so the longest known name at the beginning is taken.
        """
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
        return Call(one_or_zero, (holds,))


def _is_condition(node: Any) -> bool:
    """Return whether an expression is a bracket ``[condition]``, or a product of brackets."""
    if not isinstance(node, Call):
        return False
    all_are = node.function is choose and all(map(_is_condition, node.arguments))
    return all_are or node.function is one_or_zero


@lru_cache(maxsize=1000)
def parse(text: str, known: frozenset[str]) -> tuple[Equation, ...]:
    """Return the equations of a formula; `known` are the names of the values of its op."""
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


def rename(equation: Equation, known: Iterable[str], name: Callable[[str], str]) -> str:
    """Return the text of an equation with other names for the values.

    Parameters
    ----------
    equation : Equation
    known : iterable of str
        The names of all values in the formula: of the op, and those that earlier lines define.
    name : callable
        Takes a name of `known`, and returns the text that replaces the name. Subscripts and
        indices stay.

    Examples
    --------
    >>> known = {"x", "y", "g", "dx"}
    >>> (equation,) = parse("dx_ij = g_i · y_j", frozenset(known))
    >>> rename(equation, known, str.upper)
    'DX_ij = G_i · Y_j'
    """
    known = set(known)
    reader = _Reader(equation.text, known)

    def other(match: re.Match) -> str:
        base = match[0] if match[0] in known else reader.split_name(match[0])[0]
        return name(base) + match[0].removeprefix(base) if base in known else match[0]

    return re.sub(r"(?<![\w.])[^\W\d]\w*", other, equation.text)


def _names(node: Any) -> Iterator[Name]:
    """Yield every name in an expression; the subscripts of a name come before the name."""
    children = {Call: "arguments", Name: "subscripts"}.get(type(node))
    for child in getattr(node, children) if children else ():
        yield from _names(child)
    if isinstance(node, Big):
        yield from _names(node.body)
    if isinstance(node, Name):
        yield node


def _undefined(node: Any, known: set[str]) -> Iterator[str]:
    """Yield the names in an expression that are not known, and no index of a sum around them."""
    if isinstance(node, Big):
        yield from _undefined(node.body, known | {node.letter})
    for child in node.arguments if isinstance(node, Call) else ():
        yield from _undefined(child, known)
    if isinstance(node, Name):
        if node.name not in known:
            yield node.name
        for subscript in node.subscripts:
            yield from _undefined(subscript, known)


def _open(node: Any) -> list[str]:
    """Return the indices of a left side in order, without the indices of sums in it."""
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
    """Evaluates equations for the arrays of one call.

    While an equation is evaluated, every value has the axes of the batch (those without subscripts)
    and then one axis for each index that is open. For ``out_ik = Σ_j x_ij · y_jk``, the left side
    opens i and k. The sum opens j as a third axis, the product is computed for all (i, k, j) at
    once, and the sum removes the axis of j.
    """

    def __init__(
        self,
        equations: tuple[Equation, ...],
        values: dict[str, Any],
        given: dict[str, Any] | None = None,
    ) -> None:
        self.values = dict(values)
        self.given = values if given is None else given  # before `along` moved axes
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
        """Return the values of both sides of an equation.

        If the equation defines a new name, store the value under this name and return None.
        """
        self.ranges |= self.find_ranges(equation)  # other indices keep their ranges
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
            result = found, _sum_to_shape(right, found.shape)
        else:
            self.values[left.name] = right
        self.indices.clear()
        return result

    def find_ranges(self, equation: Equation) -> dict[str, int]:
        """Return the range of each index: the length of the axes that the index subscripts."""
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
        """Open an index: give it an axis of its own, behind all others."""
        if letter not in self.ranges:
            raise FormulaError(
                f"index {letter} is a subscript of no known array: its range is unknown"
            )
        self.indices = {known: index[..., None] for known, index in self.indices.items()}
        depth = len(self.indices)
        self.indices[letter] = np.arange(self.ranges[letter]).reshape((1,) * depth + (-1,))

    def value(self, node: Any) -> ndarray:
        """Return the value of an expression: the batch axes, then one axis for each open index."""
        if isinstance(node, Number):
            return np.asarray(node.value)
        if isinstance(node, Call):
            with np.errstate(all="ignore"):
                return node.function(*map(self.value, node.arguments))
        if isinstance(node, Big):
            return self.reduce(node)
        if node.name in self.indices and not node.subscripts:
            return self.indices[node.name]
        if node.name not in self.values:
            raise FormulaError(f"the formula names {node.name!r}, which nothing defines")
        return self.entry(np.asarray(self.values[node.name], float), node.subscripts)

    def reduce(self, node: Big) -> ndarray:
        """Return a sum or another reduction: over the axis of its index, or over the batch."""
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
                place = place * 0  # broadcasting: an axis of length 1 has the same value everywhere
            inside = inside & (place >= 0) & (place < n)
            places.append(np.clip(place, 0, max(n - 1, 0)).astype(int))
        if array.size == 0:
            return np.zeros(np.broadcast_shapes(*(place.shape for place in places)))
        return np.where(inside, array[tuple(places)], 0)


def _sum_to_shape(x: ndarray, shape: tuple[int, ...]) -> ndarray:
    """Return x in a shape: sum over axes that broadcasting added, and broadcast the others."""
    added = x.ndim - len(shape)
    axes = tuple(i for i in range(x.ndim) if i < added or (shape[i - added] == 1 != x.shape[i]))
    x = x.sum(axis=axes, keepdims=True)
    return np.broadcast_to(x.reshape(x.shape[max(added, 0) :]), shape)


class Formula:
    """The formula of an op, and how the arrays of a call become the values of its names.

    Parameters
    ----------
    op : Op
    text : str or callable
        The equations. A callable takes some of the op's arguments (or ``<argument>_shape``) by name
        and returns the equations for them. Its default values are the case that tables show.
    along : str or callable, optional
        The name of the argument that says along which axis, or axes, the op works; or a function
        that takes arguments by name and returns the axes. These axes become one last axis, so that
        the equations can speak of one vector.
    moves : bool
        Whether the op only moves elements, like a transpose. All arrays are then flat, and ``at``
        says from which place in the inputs each element of the output came.
    given : dict of str to callable
        More names, each with a function that computes the value from arguments by name.

    Examples
    --------
    >>> import autograd
    >>> print(autograd.REGISTRY["exp"].stated)
    out = exp(x)
    dx = g · exp(x)
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
        """Return the equations for the arguments of a call, or for the default case."""
        text = self._text
        if callable(text):
            text = text(**({} if arguments is None else _named(text, arguments)))
        lines = (line.strip() for line in re.split(r"[;\n]", text))
        text = re.sub(r"\bsum\b|\bsum(?=_)", "Σ", "\n".join(filter(None, lines)))
        for typed, sign in TYPED.items():
            text = text.replace(typed, sign)
        return text

    def __str__(self) -> str:
        return self.text()

    def check(self) -> None:
        """Read the formula as it was written, and look for names that nothing defines.

        Of a function that returns the text, the text of the default case is read; without a default
        for each argument there is no such case.

        Raises
        ------
        FormulaError
            With the line that cannot be read, or the name.
        """
        text = self._text
        if callable(text):
            parameters = inspect.signature(text).parameters.values()
            if any(p.default is p.empty for p in parameters):
                return
            text = text()
        op = self.op
        names = {*op.names, *(f"x{i}" for i in range(10) if op.variadic)}
        known = names | {f"d{name}" for name in names} | {"out", "g", "π", *self.given}
        known |= {f"{of}{i}" for of in ("out", "g") for i in range(10) if op.multiple}
        known |= {"n"} if self.along is not None else set()
        known |= {"at", "x", "dx"} if self.moves else set()
        try:
            for equation in parse(text, frozenset(known)):
                letters = {*_open(equation.left)}
                right = _undefined(equation.right, known | letters)
                left = equation.left
                is_name = isinstance(left, Name)
                for name in (*right, *(() if is_name else _undefined(left, known | letters))):
                    raise FormulaError(
                        f"formula {equation.text!r} names {name!r}, which nothing defines: no "
                        "argument of the op, no earlier line, and no index on the left or of a sum"
                    )
                known |= {left.name} if is_name else set()
        except FormulaError as error:
            raise FormulaError(f"op {op.name!r}: {error}") from None

    def equations(
        self, arguments: dict[str, Any], out: Any, g: Any, cotangents: dict[str, Any]
    ) -> Iterator[tuple[str, ndarray, ndarray]]:
        """Evaluate the equations for the arrays of a call.

        Parameters
        ----------
        arguments : dict
            Arrays and static arguments by name. The arrays of a variadic op are x0, x1, ...
        out, g : ndarray, or sequence of ndarray
            The result and its cotangent. In the equations, several are out0, out1, ... and g0, g1,
            ...
        cotangents : dict
            For the name of an input, the cotangent that the op's rule returned.

        Yields
        ------
        text, found, expected
            An equation, the value of its left side in the call, and the value of its right side,
            summed to the same shape.

        Raises
        ------
        FormulaError
            If the formula cannot be read, uses an unknown name, or has no equation for an input.
        """
        equations, evaluation = self.evaluation(arguments, out, g, cotangents)
        stated = {name.name for e in equations for side in e[1:] for name in _names(side)}
        for name in cotangents:
            if not self.moves and f"d{name}" not in stated:
                raise FormulaError(f"{self.op.name}: the formula has no equation for d{name}")
        for equation in equations:
            if (sides := evaluation.sides(equation)) is not None:
                yield equation.text, *sides

    def renamed(
        self, arguments: dict[str, Any], name: Callable[[str], str]
    ) -> Iterator[tuple[str, str]]:
        """Yield the equations for a call in other names; see `rename`.

        The name ``n``, the number of elements along the axes that the op works along, becomes this
        number.

        Yields
        ------
        left, text
            The name on the left side (empty if the equation is an identity), and the equation.
        """
        known = {"π", "out", "g", *arguments, *(f"d{argument}" for argument in arguments)}
        known |= {f"{of}{i}" for of in ("out", "g") for i in range(10)} | {*self.given}
        equations = parse(self.text(arguments), frozenset(known))
        known |= {e.left.name for e in equations if isinstance(e.left, Name)}
        known.discard("π")
        numbers = {}
        if self.along is not None:
            shape = np.shape(arguments[self.op.names[0]])
            numbers["n"] = str(math.prod(shape[a] for a in self.axes(arguments)))
        known |= numbers.keys()
        for equation in equations:
            left = equation.left.name if isinstance(equation.left, Name) else ""
            yield left, rename(equation, known, lambda word: numbers.get(word) or name(word))

    def evaluation(
        self, arguments: dict[str, Any], out: Any, g: Any, cotangents: dict[str, Any]
    ) -> tuple[tuple[Equation, ...], Evaluation]:
        """Return the equations for a call, and an evaluation with the values of their names."""
        values = {"π": np.pi, **arguments}
        values |= {f"d{name}": value for name, value in cotangents.items()}
        for name, value in (("out", out), ("g", g)):
            several = isinstance(value, tuple | list)
            values |= {f"{name}{i}": v for i, v in enumerate(value)} if several else {name: value}
        text = self.text(arguments)
        if self.moves:
            values |= self.flat(arguments, out, g, cotangents)
        for name, function in self.given.items():
            values[name] = function(**_named(function, arguments))
        # what no cotangent was sent to is a name as well: dattn_mask_ts has the subscripts t and s
        equations = parse(text, frozenset({*values, *(f"d{name}" for name in arguments)}))
        given = dict(values)
        if self.along is not None:
            values |= self._along(equations, values)
        return equations, Evaluation(equations, values, given)

    def moves_axes(self, given: dict[str, Any]) -> bool:
        """Return whether arrays are evaluated with their axes in another order."""
        if self.along is None:
            return False
        return self.axes(given) != [np.ndim(given[self.op.names[0]]) - 1]

    def places(self, equations: tuple[Equation, ...], given: dict[str, Any]) -> dict[str, ndarray]:
        """Return, for the arrays whose axes `along` moves, where their elements came from.

        The element of a moved array at some index stood at this place in the flat array.
        """
        if self.along is None:
            return {}
        numbered = {
            name: np.arange(x.size).reshape(x.shape) if isinstance(x, ndarray) else x
            for name, x in given.items()
        }
        moved = self._along(equations, numbered)
        return {name: x for name, x in moved.items() if isinstance(x, ndarray)}

    def _along(self, equations: tuple[Equation, ...], values: dict[str, Any]) -> dict[str, Any]:
        """Return the arrays with the axes that the op works along at the end, as one axis.

        For a softmax along axis 0 of an array of shape (3, 4), the array becomes one of shape
        (4, 3): four vectors of three elements.
        """
        shape = np.shape(values[self.op.names[0]])
        last = self.axes(values)
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

    def axes(self, values: dict[str, Any]) -> list[int]:
        """Return the axes that the op works along, ascending, for the arguments of a call."""
        along, names = self.along, self.op.names
        given = {name: values[name] for name in names if name in values}
        axis: Any = along(**_named(along, given)) if callable(along) else values[str(along)]
        n_axes = np.ndim(values[names[0]])
        axes = range(n_axes) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return sorted(int(a) % n_axes for a in axes)

    def flat(self, arguments: dict, out: Any, g: Any, cotangents: dict) -> dict[str, Any]:
        """Return all arrays flat, and ``at``: the place in the inputs of each output element.

        The inputs are those that have a cotangent.
        """
        inputs = {name: np.asarray(arguments[name]) for name in cotangents}
        found = {f"d{name}": _flat(value) for name, value in cotangents.items()}
        found |= {name: _flat(value) for name, value in inputs.items()}
        x, dx = _flat(list(inputs.values())), _flat(list(cotangents.values()))
        at = self.came_from(arguments, inputs)
        return {**found, "at": at, "x": x, "dx": dx, "out": _flat(out), "g": _flat(g)}

    def moved(self, arguments: dict[str, Any]) -> dict[str, ndarray]:
        """Return the arguments of a call whose elements the op moves, by name."""
        names = (
            [name for name in arguments if re.fullmatch(r"x\d+", name)]
            if self.op.variadic
            else [self.op.names[i] for i in sorted(self.op.differentiable)]
        )
        return {name: np.asarray(arguments[name]) for name in names}

    def moves_of(self, arguments: dict[str, Any]) -> tuple[ndarray, ndarray]:
        """Return the places of elements in the moved inputs, and the places to which they went.

        Inputs are laid end to end, and so are outputs. An element may go to several places, and
        several to one.
        """
        if "at" in self.given:
            to = self.given["at"](**_named(self.given["at"], arguments))
            return np.arange(to.size), to
        at = self.came_from(arguments, self.moved(arguments))
        (to,) = np.nonzero(at >= 0)
        return at[to], to

    def came_from(self, arguments: dict[str, Any], inputs: dict[str, ndarray]) -> ndarray:
        """Return, for each output element, its place in some of the inputs, laid end to end.

        To find the places, the op runs on inputs whose elements are their own places 0, 1, 2, ...
        It runs a second time with other numbers: an element that stays the same came from none of
        these inputs, such as the zeros of ``pad``, and its place is -1.
        """
        n = sum(x.size for x in inputs.values())
        ends = np.cumsum([x.size for x in inputs.values()])[:-1]

        def run(first: float) -> ndarray:
            """Return the output for inputs with the elements first, first + 1, first + 2, ..."""
            numbers = np.split(np.arange(first, first + n), ends)
            call = arguments | {
                name: part.reshape(x.shape)
                for (name, x), part in zip(inputs.items(), numbers, strict=True)
            }
            variadic = self.moved(call) if self.op.variadic else {}
            arrays = [call.pop(name) for name in variadic]
            return _flat(self.op.forward(*arrays, **call))

        at, later = run(0.0), run(n + 1.0)
        return np.where(at == later, -1, at).astype(int)


def _flat(parts: Any) -> ndarray:
    """Return the elements of an array, or of several, on one axis."""
    parts = parts if isinstance(parts, tuple | list) else [parts]
    return np.concatenate([np.reshape(part, -1) for part in parts])


def _named(function: Callable, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a function takes, by name; ``x_shape`` is the shape of ``x``."""
    found = {}
    for name in inspect.signature(function).parameters:
        if name in arguments:
            found[name] = arguments[name]
        elif name.endswith("_shape"):
            found[name] = np.shape(arguments[name.removesuffix("_shape")])
        else:
            found[name] = tuple(v for k, v in arguments.items() if re.fullmatch(r"x\d+", k))
    return found

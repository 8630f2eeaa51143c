"""An op's formula as data: for each element of an array, the sum that gives this element.

A page has no formulas of its own, and computes no function. The page has each equation as a tree of
nested lists, and looks up the numbers that the tree names for one element::

    ["n", 2.0]                       a constant
    ["c", "eps", 1e-5]               an argument that is one number
    ["i", "j"]                       an index as a number
    ["a", 3, [SUBSCRIPT, ...]]       an element of the third array that the equations refer to
    ["f", "exp", [TREE], 5, ["j"]]   a function; its values stand in array 5, by batch and indices
    ["+", TREE, TREE]                and so for - · / mod = ≠ < > ≤ ≥, neg, and [] (1 if it holds)
    ["Σ", "j", 4, TREE]              a sum over j = 0, 1, 2, 3; without an index over the batch
    ["mean", "j", 4, TREE]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from autograd.formula import (
    BIG,
    BINARY,
    COMPARISONS,
    FUNCTIONS,
    Big,
    Equation,
    Evaluation,
    Formula,
    FormulaError,
    Name,
    Number,
    choose,
    one_or_zero,
)
from autograd.ops.index import MOVES
from autograd.page.arrays import Arrays, number

LARGEST = (
    1 << 21
)  # elements that are computed for an equation; a larger equation is shown without numbers
SIGNS = {f: sign for sign, f in (BINARY | COMPARISONS).items() if sign != "^"} | {
    np.negative: "neg",
    np.mod: "mod",
    choose: "·",
}
SUMS = {np.sum: "Σ", np.mean: "mean"}
WORDS = {f: word for word, f in (FUNCTIONS | BIG).items()} | {np.power: "^"}


def write_terms(
    formula: Formula,
    arguments: dict[str, Any],
    out: Any,
    g: Any,
    sent: dict[str, Any],
    arrays: Arrays,
) -> dict[str, Any]:
    """Return the equations of a call as data.

    Parameters
    ----------
    formula : Formula
    arguments, out, g, sent
        Of the call: its arguments by name, its result, the result's cotangent (None if the pass
        did not go through the call), and by the name of an input the cotangent sent to it.
    arrays : Arrays
        Gets the arrays that the equations name.

    Returns
    -------
    dict
        ``refs``, the arrays that trees refer to, and ``equations``. Of an op that only moves
        elements, ``from`` is an array: from which place in the inputs, laid end to end, each
        element of the result came, -1 if it came from none; ``sizes`` are the numbers of elements
        of the inputs.
    """
    if formula.text(arguments).splitlines() == MOVES.split("; "):
        inputs = {  # also arrays off the tape, such as one that concatenate puts beside a tensor
            name: x
            for name, x in formula.moved(arguments).items()
            if name in sent or (sent and isinstance(arguments[name], ndarray) and x.ndim)
        }
        outputs = out if isinstance(out, tuple) else (out,)
        if sum(map(np.size, (*inputs.values(), *outputs))) > LARGEST:
            return {"refs": [], "equations": []}
        at = formula.came_from(arguments, inputs)
        sizes = {name: x.size for name, x in inputs.items()}
        return {"refs": [], "equations": [], "from": arrays.add(at), "sizes": sizes}
    equations, evaluation = formula.evaluation(arguments, out, out if g is None else g, sent)
    hidden = {f"d{name}" for name in arguments if name not in sent}
    if g is None:
        hidden |= {"g"} | {f"g{i}" for i in range(len(out) if isinstance(out, tuple) else 0)}
    places = formula.places(equations, evaluation.given)
    writer = _Writer(evaluation, places, arrays, hidden)
    written = [found for equation in equations if (found := writer.write(equation))]
    return {"refs": writer.refs, "equations": written}


class _TooLarge(Exception):
    """An equation needs more numbers than a page can hold."""


class _Writer:
    """Turns equations into trees, and keeps the arrays that they name."""

    def __init__(
        self,
        evaluation: Evaluation,
        places: Mapping[str, ndarray],
        arrays: Arrays,
        hidden: set[str],
    ) -> None:
        self.evaluation, self.places, self.arrays = evaluation, places, arrays
        self.hidden = hidden  # names that have no value in this pass
        self.refs: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}  # of the refs, by name

    def write(self, equation: Equation) -> dict[str, Any] | None:
        """Return an equation as data, or None if it defines no elements or is too large."""
        evaluation, left = self.evaluation, equation.left
        if not isinstance(left, Name) or not all(type(s) is Name for s in left.subscripts):
            return None
        letters = [s.name for s in left.subscripts]
        if left.name in self.hidden or len(set(letters)) < len(letters):
            self.hidden.add(left.name)
            return None
        evaluation.ranges |= evaluation.find_ranges(equation)
        try:
            self.demand_small(equation.right, letters, left.name not in evaluation.values)
            if left.name not in evaluation.values:
                evaluation.sides(equation)
            for letter in letters:
                evaluation.open(letter)
            tree = self.tree(equation.right)
        except (_TooLarge, _Hidden):
            self.hidden.add(left.name)  # unless it is known: then it has its array all the same
            return None
        finally:
            evaluation.indices.clear()
        spread = self.spread(tree)
        return {
            "name": left.name,
            "left": self.ref(left.name),
            "letters": letters,
            "lengths": [evaluation.ranges[letter] for letter in letters],
            "batch": list(evaluation.batch),
            "spread": [1] * (len(evaluation.batch) - len(spread)) + list(spread),
            "tree": tree,
        }

    def spread(self, tree: list[Any]) -> tuple[int, ...]:
        """Return the lengths of the batch axes along which a tree has several values."""
        sign, *rest = tree
        if sign in ("Σ", "mean"):
            return self.spread(rest[2]) if rest[0] else ()
        own: list[int] = []
        if sign == "a":
            shape, parts = self.refs[rest[0]]["shape"], rest[1]
            own = shape[: len(shape) - len(parts)]
        elif sign == "f":
            shape, parts = np.shape(self.arrays.kept[rest[2]]), []
            own = shape[: len(shape) - len(rest[3])]
        else:
            parts = [] if sign in ("n", "c", "i") else rest
        return np.broadcast_shapes(tuple(own), *map(self.spread, parts))

    def demand_small(self, node: Any, letters: list[str], whole: bool) -> None:
        """Raise _TooLarge if the values of an expression, or of a function in it, are too many."""
        ranges = self.evaluation.ranges
        size = math.prod([*self.evaluation.batch, *(ranges.get(s, 1) for s in letters)])
        if isinstance(node, Big):
            whole = whole or node.function not in SUMS
            self.demand_small(node.body, [*letters, *filter(None, [node.letter])], whole)
        elif not isinstance(node, Name | Number):
            whole = whole or node.function not in SIGNS
            for argument in node.arguments:
                self.demand_small(argument, letters, whole)
        if whole and size > LARGEST:
            raise _TooLarge

    def tree(self, node: Any) -> list[Any]:
        """Return the tree of an expression; the indices that are open are those around it."""
        evaluation = self.evaluation
        if isinstance(node, Number):
            return ["n", number(node.value)]
        if isinstance(node, Name):
            if node.name in evaluation.indices and not node.subscripts:
                return ["i", node.name]
            if node.name in self.hidden:
                raise _Hidden
            value = evaluation.values[node.name]
            if not isinstance(value, ndarray | np.generic):
                if not isinstance(value, int | float):
                    raise FormulaError(f"{node.name} is {brief(value)}, and no number")
                return ["c", node.name, number(value)]
            return ["a", self.ref(node.name), [self.tree(s) for s in node.subscripts]]
        if isinstance(node, Big):
            before = evaluation.indices
            if node.letter:
                evaluation.open(node.letter)
            body = self.tree(node.body)
            evaluation.indices = before
            if node.function in SUMS:
                n = evaluation.ranges.get(node.letter, math.prod(evaluation.batch))
                return [SUMS[node.function], node.letter, n, body]
            return self.computed(node, [body])
        parts = [self.tree(argument) for argument in node.arguments]
        if node.function is one_or_zero:
            return ["[]", parts[0]]
        if node.function in SIGNS:
            return [SIGNS[node.function], *parts]
        return self.computed(node, parts)

    def computed(self, node: Any, parts: list[Any]) -> list[Any]:
        """Return the tree of a function, whose values are computed here and kept as an array."""
        value = np.asarray(self.evaluation.value(node))
        word = WORDS.get(node.function, "abs" if node.function is np.abs else "f")
        if isinstance(node, Big) and node.letter:
            word += f"_{node.letter}"
        return ["f", word, parts, self.arrays.add(value), list(self.evaluation.indices)]

    def ref(self, name: str) -> int:
        """Return the number of an array that trees refer to."""
        if name not in self._numbers:
            value = self.evaluation.values[name]
            found: dict[str, Any] = {"name": name, "shape": list(np.shape(value))}
            whole = self.evaluation.given.get(name, value)
            found["array"] = self.arrays.add(whole)
            if name in self.places:
                places = self.places[name]
                if not np.array_equal(places.ravel(), np.arange(places.size)):
                    found["places"] = self.arrays.add(places)
            self._numbers[name] = len(self.refs)
            self.refs.append(found)
        return self._numbers[name]


class _Hidden(Exception):
    """An equation names something that has no value in this pass."""

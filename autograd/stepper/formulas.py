"""An op's formula with numbers in the place of its names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from autograd.formula import (
    COMPARISONS,
    FUNCTIONS,
    Big,
    Equation,
    Evaluation,
    Formula,
    Name,
    Number,
)

EACH = 9  # up to this many elements of a result, the formula is written out for each
MOST_TERMS = 4  # terms of a sum that are written; the middle of a longer sum is left out


class NumberedEquation(NamedTuple):
    """An equation of a formula, written out with numbers for the first elements of its left side.

    For ``y = w · x`` the first row may be ``("y[0]", "3 · 2", "6")``. The value is empty if the
    text is already the number.
    """

    sign: str
    """``=``, or ``+=`` for what a rule adds to a cotangent."""
    rows: list[tuple[str, str, str]]
    """For each element its place, the right side with numbers, and its value."""
    total: int
    """The number of elements of the left side."""


def write_with_numbers(
    formula: Formula,
    arguments: dict[str, Any],
    out: Any,
    g: Any,
    sent: dict[str, Any],
    names: dict[str, str],
) -> Iterator[NumberedEquation]:
    """Yield the equations of a formula with the numbers of one call.

    Up to `EACH` elements of a left side are all written out; of more elements, only the first. The
    formula of an op that only moves elements, such as a transpose, has no equations with numbers.

    Parameters
    ----------
    formula : Formula
    arguments, out, g, sent
        Of the call: its arguments by name, its result, the result's cotangent, and by the name of
        an input the cotangent that is sent to it.
    names : dict of str to str
        What the symbols on the left sides stand for. A symbol that is missing is written as it is,
        with a dollar sign.
    """
    equations, evaluation = formula.evaluation(arguments, out, g, sent)
    # For dx_i = g_i · y_i, with arrays of shape (2,), the loop writes dx[0] = 1 · 3 = 3 and
    # dx[1] = 1 · 4 = 4: one equation, with a row for each element.
    for equation in () if formula.moves else equations:
        evaluation.sides(equation)
        name, subscripts = equation.left if isinstance(equation.left, Name) else ("", ())
        if not name or not all(isinstance(s, Name) for s in subscripts):
            continue
        of_input = name.startswith("d") and name[1:] in arguments
        if of_input and name[1:] not in sent:
            continue
        left = np.array(evaluation.values[name], ndmin=len(subscripts))
        if not left.size:
            continue
        places = np.ndindex(left.shape) if left.size <= EACH else islice(np.ndindex(left.shape), 1)
        shown = names.get(name, f"${name}")
        rows = [_Written(evaluation, equation, place, left[place], shown).parts for place in places]
        yield NumberedEquation("+=" if of_input else "=", rows, left.size)


SIGNS: dict[Callable, tuple[str, int]] = {  # each with its binding strength
    np.add: ("+", 1), np.subtract: ("-", 1), np.multiply: ("·", 2), np.divide: ("/", 2),
    np.power: ("^", 4),
}  # fmt: skip
WORDS = {function: name for name, function in FUNCTIONS.items()}


class _Written:
    """Writes an equation for one element of its left side, with numbers in the place of names.

    A part of the text comes with its binding strength, which says whether brackets are needed: the
    sum ``3 + 4`` (strength 1) as a factor of a product (strength 2) becomes ``(3 + 4)``.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        equation: Equation,
        place: tuple[int, ...],
        found: Any,
        name: str,
    ) -> None:
        self.evaluation = evaluation
        subscripts = equation.left.subscripts
        lead = len(place) - len(subscripts)
        self.batch = (0,) * (len(evaluation.batch) - lead) + place[:lead]
        indices = {s.name: i for s, i in zip(subscripts, place[lead:], strict=True)}
        with np.errstate(all="ignore"):
            text, _, value = self.write(equation.right, indices)
        if not np.isclose(value, found, rtol=1e-4, atol=1e-12, equal_nan=True):
            text += " + …"  # a broadcast input: the terms of its other uses are left out
        at = f"{name}[{', '.join(map(str, place))}]" if place else name
        self.parts = at, text, "" if text == four_digits(found) else four_digits(found)

    def write(self, node: Any, indices: dict[str, int]) -> tuple[str, int, float]:
        """Return an expression's text, its binding strength, and its value."""
        if isinstance(node, Number):
            return four_digits(node.value), 5, node.value
        if isinstance(node, Name):
            value = self.entry(node, indices)
            return four_digits(value), 5 if value >= 0 else 1, value
        if isinstance(node, Big):
            return self.write_sum(node, indices)
        parts = [self.write(argument, indices) for argument in node.arguments]
        value = float(node.function(*(part[2] for part in parts)))
        if node.function in COMPARISONS.values() or (
            node.function is np.multiply and node.arguments[0] == Number(1)
        ):
            return four_digits(value), 5, value  # a condition in brackets is 0 or 1
        if node.function is np.negative:
            return f"-{_bracketed(parts[0], 2)}", 1, value
        if node.function in SIGNS:
            sign, strength = SIGNS[node.function]
            power = sign == "^"  # a^b^c is a^(b^c); the other signs group from the left
            left, right = (_bracketed(parts[i], strength + (power != i)) for i in (0, 1))
            space = "" if power else " "
            return f"{left}{space}{sign}{space}{right}", strength, value
        inside = ", ".join(part[0] for part in parts)
        return (f"|{inside}|" if node.function is np.abs else
                f"{WORDS[node.function]}({inside})"), 5, value  # fmt: skip

    def write_sum(self, node: Big, indices: dict[str, int]) -> tuple[str, int, float]:
        """Write out the terms of a sum, product, maximum, minimum or mean."""
        terms = []
        if node.letter:
            for i in range(self.evaluation.ranges[node.letter]):
                terms.append(self.write(node.body, indices | {node.letter: i}))
        else:
            before = self.batch
            for place in np.ndindex(self.evaluation.batch):
                self.batch = place
                terms.append(self.write(node.body, indices))
            self.batch = before
        value = float(node.function([term[2] for term in terms]))
        if not terms:
            return four_digits(value), 5, value
        if len(terms) == 1:
            return *terms[0][:2], value
        strength = 3 if node.function is np.prod else 2
        texts = [_bracketed(term, strength) for term in terms]
        if len(texts) > MOST_TERMS:
            texts[2:-1] = ["…"]
        if node.function in (np.max, np.min):
            name = "max" if node.function is np.max else "min"
            return f"{name}({', '.join(texts)})", 5, value
        text = (" · " if node.function is np.prod else " + ").join(texts)
        if node.function is np.mean:
            return f"({text}) / {len(terms)}", 2, value
        return text, strength - 1, value

    def entry(self, node: Name, indices: dict[str, int]) -> float:
        """Return the number that a name stands for."""
        if node.name in indices and not node.subscripts:
            return indices[node.name]
        array = np.asarray(self.evaluation.values[node.name])
        lead = array.ndim - len(node.subscripts)
        places = list(self.batch[len(self.batch) - lead :]) if lead else []
        places += [int(self.write(s, indices)[2]) for s in node.subscripts]
        for axis, n in enumerate(array.shape):
            if n == 1:
                places[axis] = 0
            if not 0 <= places[axis] < n:
                return 0.0
        return float(array[tuple(places)])


def four_digits(x: Any) -> str:
    """Return a number in four digits."""
    return f"{float(x):.4g}"


def _bracketed(part: tuple[str, int, float], strength: int) -> str:
    return part[0] if part[1] >= strength else f"({part[0]})"

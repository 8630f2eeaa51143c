"""How the stepper shows numbers: aligned, in colours by sign and magnitude, within the width.

And formulas with numbers in the place of names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy import ndarray
from rich.text import Text

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

# By sign and magnitude; they can be told apart on light and on dark ground.
POSITIVE = ("color(137)", "color(172)", "bold color(208)")
NEGATIVE = ("color(67)", "color(68)", "bold color(33)")
MOST_ROWS = 8
EACH = 9  # elements of a result, up to which a formula is shown for each
MOST_TERMS = 4  # of a sum in a formula; of longer ones the middle is left out


def numbers(x: ndarray) -> tuple[list[str], list[str], str]:
    """Return the elements in equal format and width, the style of each, and a common factor."""
    flat = x.reshape(-1)
    factor = ""
    if x.dtype.kind != "f":
        texts = [str(int(v)) if x.dtype.kind in "bui" else str(v) for v in flat]
        styles = ["dim" if not v else "" for v in flat]
    else:
        wide = flat.astype(np.float64)
        largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=0))
        if largest and not 1e-2 <= largest < 1e5:
            power = math.floor(math.log10(largest))
            factor = f"× 1e{power:+03d}"
            wide = wide / 10.0**power
        finite = wide[np.isfinite(wide)]
        short = np.allclose(finite, finite.round(1), rtol=1e-9, atol=0)  # such as 1.5
        texts = [_short(v, 1 if short else 4) for v in wide]
        styles = [_style(v, largest) for v in flat]
    width = max(map(len, texts), default=0)
    return [text.rjust(width) for text in texts], styles, factor


def one(x: Any) -> str:
    """Return a number alone."""
    (text,), _, factor = numbers(np.asarray(x).reshape(1))
    return text + factor.replace("× 1", "")


def _short(v: float, digits: int) -> str:
    if not np.isfinite(v):
        return "NaN" if np.isnan(v) else "Inf" if v > 0 else "-Inf"
    text = f"{v:.{digits}f}"
    return "0" if v == 0 else text.lstrip("-") if not float(text) else text


def _style(v: float, largest: float) -> str:
    if not np.isfinite(v):
        return "bold reverse red"
    if v == 0:
        return "dim"
    share = abs(float(v)) / largest
    return (POSITIVE if v > 0 else NEGATIVE)[(share > 0.1) + (share > 0.5)]


def matrix(x: Any, width: int, most_rows: int = MOST_ROWS) -> Iterator[Text]:
    """Yield the lines that show an array, its middle left out where it is too large.

    Of more than two axes, the matrix at the first place of the others is shown.
    """
    x = np.asarray(x)
    if x.size == 0:
        yield Text("no elements", "dim")
        return
    if x.ndim == 0:
        yield Text(one(x), numbers(x)[1][0])
        return
    lead = x.shape[:-2]
    shown = x[(0,) * len(lead)] if lead else x
    rows = shown if shown.ndim == 2 else shown[None]
    n_rows, n_columns = rows.shape
    top, bottom = (n_rows, 0) if n_rows <= most_rows else (most_rows - 2, 1)
    rows = np.concatenate([rows[:top], rows[n_rows - bottom :]])
    cell = max(map(len, numbers(rows)[0])) + 1
    room = max(2, (width - 14) // cell)  # beside brackets and a factor
    left, right = (n_columns, 0) if n_columns <= room else (max(1, room - 2), 1)
    rows = np.concatenate([rows[:, :left], rows[:, n_columns - right :]], axis=1)
    texts, styles, factor = numbers(rows)
    for i, row in enumerate(rows):
        if bottom and i == top:
            yield Text("  ⋮", "dim")
        line = Text().append("[", "dim")
        for j in range(len(row)):
            if right and j == left:
                line.append(" …", "dim")
            k = i * len(row) + j
            line.append(" ").append(texts[k], styles[k])
        line.append(" ]", "dim")
        yield line.append(f" {factor}", "dim") if factor and i == 0 else line
    if lead and math.prod(lead) > 1:
        yield Text(f"{[0] * len(lead)}, the first of {math.prod(lead)}", "dim")


def norm(x: Any) -> float:
    """Return the length of an array, or of several, as one vector."""
    parts = x if isinstance(x, tuple) else (x,)
    return float(np.sqrt(sum(float(np.vdot(p, p).real) for p in map(_wide, parts))))


def _wide(x: Any) -> ndarray:
    return np.asarray(x).astype(np.float64)


def difference(found: Any, expected: Any, scale: float = 0.0) -> str:
    """Say how near two arrays are, if they differ by no more than rounding; otherwise nothing.

    `scale` is the largest number that they were computed from: where such cancel, what is left is
    as uncertain as they were.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return ""
    if np.array_equal(found, expected, equal_nan=True):
        return "equal, bit for bit"
    size = max(scale, largest(expected))
    error = largest(_wide(found) - _wide(expected)) / size if size else math.inf
    allowed = 64 * float(np.finfo(expected.dtype).eps) * math.sqrt(max(1, expected.size))
    return f"equal to rounding: at most {error:.1e} apart" if error <= allowed else ""


def largest(x: Any) -> float:
    """Return the largest magnitude among the finite elements, 0 if there is none."""
    x = np.abs(_wide(x))
    return float(np.max(x, where=np.isfinite(x), initial=0))


# ---- formulas with numbers


def in_numbers(
    formula: Formula, arguments: dict[str, Any], out: Any, g: Any, sent: dict[str, Any], width: int
) -> Iterator[Text]:
    """Yield a formula's lines with numbers for the names: those of `Formula.equations`.

    Of each left side every element is shown where they are few, else the first. What only moves
    elements has no such lines.
    """
    equations, evaluation = formula._evaluation(arguments, out, g, sent)
    for equation in () if formula.moves else equations:
        evaluation.sides(equation)
        name, subscripts = equation.left if isinstance(equation.left, Name) else ("", ())
        if not name or not all(isinstance(s, Name) for s in subscripts):
            continue
        left = np.array(evaluation.values[name], ndmin=len(subscripts))
        if not left.size:
            continue
        places = np.ndindex(left.shape) if left.size <= EACH else islice(np.ndindex(left.shape), 1)
        rows = [_Written(evaluation, equation, place, left[place]).parts for place in places]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = sum(widths) + 8 <= width
        for place, text, value in rows:
            if aligned:
                place, text = place.ljust(widths[0]), text.ljust(widths[1])
                value = value.rjust(widths[2]) if value else ""
            yield Text("  " + " = ".join(filter(None, [place, text, value])).rstrip())
        if len(rows) < left.size:
            yield Text(f"  the first of {left.size} elements", "dim")


SIGNS: dict[Callable, tuple[str, int]] = {  # and how strongly each binds
    np.add: ("+", 1), np.subtract: ("-", 1), np.multiply: ("·", 2), np.divide: ("/", 2),
    np.power: ("^", 4),
}  # fmt: skip
WORDS = {function: name for name, function in FUNCTIONS.items()}


class _Written:
    """An equation for one element of its left side, with numbers for the names."""

    def __init__(
        self, evaluation: Evaluation, equation: Equation, place: tuple[int, ...], found: Any
    ) -> None:
        self.evaluation = evaluation
        name, subscripts = equation.left
        lead = len(place) - len(subscripts)
        self.batch = (0,) * (len(evaluation.batch) - lead) + place[:lead]
        indices = {s.name: i for s, i in zip(subscripts, place[lead:], strict=True)}
        with np.errstate(all="ignore"):
            text, _, value = self.written(equation.right, indices)
        if not np.isclose(value, found, rtol=1e-4, atol=1e-12, equal_nan=True):
            text += " + …"  # an input that was broadcast: the others of its uses are added
        at = f"{name}[{', '.join(map(str, place))}]" if place else name
        self.parts = at, text, "" if text == _four(found) else _four(found)

    def written(self, node: Any, indices: dict[str, int]) -> tuple[str, int, float]:
        """Return an expression's text, how strongly it binds, and its value."""
        if isinstance(node, Number):
            return _four(node.value), 5, node.value
        if isinstance(node, Name):
            value = self.entry(node, indices)
            return _four(value), 5 if value >= 0 else 1, value
        if isinstance(node, Big):
            return self.summed(node, indices)
        parts = [self.written(argument, indices) for argument in node.arguments]
        value = float(node.function(*(part[2] for part in parts)))
        if node.function in COMPARISONS.values() or (
            node.function is np.multiply and node.arguments[0] == Number(1)
        ):
            return _four(value), 5, value  # a bracket: 0 or 1
        if node.function is np.negative:
            return f"-{_bracketed(parts[0], 2)}", 1, value
        if node.function in SIGNS:
            sign, strength = SIGNS[node.function]
            power = sign == "^"  # which binds to the right, others to the left
            left, right = (_bracketed(parts[i], strength + (power != i)) for i in (0, 1))
            space = "" if power else " "
            return f"{left}{space}{sign}{space}{right}", strength, value
        inside = ", ".join(part[0] for part in parts)
        return (f"|{inside}|" if node.function is np.abs else
                f"{WORDS[node.function]}({inside})"), 5, value  # fmt: skip

    def summed(self, node: Big, indices: dict[str, int]) -> tuple[str, int, float]:
        """Write out a sum, or its like."""
        terms = []
        if node.letter:
            for i in range(self.evaluation.ranges[node.letter]):
                terms.append(self.written(node.body, indices | {node.letter: i}))
        else:
            before = self.batch
            for place in np.ndindex(self.evaluation.batch):
                self.batch = place
                terms.append(self.written(node.body, indices))
            self.batch = before
        value = float(node.function([term[2] for term in terms]))
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
        places += [int(self.written(s, indices)[2]) for s in node.subscripts]
        for axis, n in enumerate(array.shape):
            if n == 1:
                places[axis] = 0
            if not 0 <= places[axis] < n:
                return 0.0
        return float(array[tuple(places)])


def _four(x: Any) -> str:
    """Return a number in four digits."""
    return f"{float(x):.4g}"


def _bracketed(part: tuple[str, int, float], strength: int) -> str:
    return part[0] if part[1] >= strength else f"({part[0]})"

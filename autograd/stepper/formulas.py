"""An op's formula with numbers in the place of its names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice, product, takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.formula import (
    COMPARISONS,
    FUNCTIONS,
    Big,
    Call,
    Equation,
    Evaluation,
    Formula,
    Name,
    Number,
    _names,
    choose,
    one_or_zero,
)
from autograd.stepper.axes import Labels

EACH = 9  # up to this many elements of a result, the formula is written out for each
MOST_TERMS = 4  # terms of a sum that are written; the middle of a longer sum is left out
LISTED = 8  # terms of an element's sum that are listed, the largest ones
MANY = 100  # of a sum with more terms, only those that are shown are written
LARGEST_MOVED = 10_000_000  # elements, whose places take a second to find
ROUNDINGS = 8  # last places by which an op may round at each of its steps


LabelsOf = Callable[[str], Labels | None]  # of an array of the formula, by its name


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
    """The number of elements of the left side; 1 if a single element was asked for."""
    terms: list[tuple[str, str, float]]
    """For a single element that was asked for, the terms of its sum, the largest first: each with
    the index of the sum, the term with numbers, and its value. Terms that are 0 are left out. Of
    many terms, only the `LISTED` largest have an index and a text."""


class Numbers(NamedTuple):
    """The numbers of one call: what `write_with_numbers` puts into a formula."""

    arguments: dict[str, Any]
    """The arguments of the call, by name."""
    out: Any
    g: Any
    """The result of the call, and the cotangent of the result."""
    sent: dict[str, Any]
    """By the name of an input, the cotangent that is sent to it."""


def write_with_numbers(
    formula: Formula,
    numbers: Numbers,
    names: dict[str, str],
    symbol: str = "",
    index: tuple[int, ...] | None = None,
    labels: LabelsOf | None = None,
) -> Iterator[NumberedEquation]:
    """Yield the equations of a formula with the numbers of one call.

    Up to `EACH` elements of a left side are all written out; of more elements, only the first. Each
    element is computed alone, so arrays may be large. Of an op that only moves elements, such as a
    transpose, only an element that is asked for has an equation.

    Parameters
    ----------
    formula : Formula
    numbers : Numbers
    names : dict of str to str
        What the symbols on the left sides stand for. A symbol that is missing is written as it is,
        with a dollar sign.
    symbol : str, optional
        Of a left side: only the equation of this symbol is written.
    index : tuple of int, optional
        With a symbol, the element to write.
    labels : callable, optional
        What the axes of an array count, to name the terms of a sum.
    """
    if formula.moves:
        if symbol:
            yield from _write_moved(formula, numbers, names, symbol, index)
        return
    equations, evaluation = formula.evaluation(*numbers)
    if formula.moves_axes(evaluation.given):
        labels = None  # the axes here are not those of the arrays
    definitions: dict[str, _Ranged] = {}
    for ranged in _with_ranges(equations, evaluation, numbers.arguments):
        equation = ranged.equation
        name, subscripts = equation.left if isinstance(equation.left, Name) else ("", ())
        if name and name not in evaluation.values:
            definitions[name] = ranged
        of_input = name.startswith("d") and name[1:] in numbers.arguments
        if (
            not name
            or not all(isinstance(s, Name) for s in subscripts)
            or (of_input and name[1:] not in numbers.sent)
            or (symbol and name != symbol)
        ):
            continue
        shape = _left_shape(evaluation, ranged)
        total = math.prod(shape)
        if not total:
            continue
        places: Iterator[tuple[int, ...]] = islice(np.ndindex(shape), total if total <= EACH else 1)
        if index is not None:
            places = iter([_moved(formula, evaluation, equations, name, index, shape)])
        written = [_Written(evaluation, definitions, ranged, place, labels) for place in places]
        shown = names.get(name, f"${name}")
        at = [index or ()] if index is not None else [one.place for one in written]
        rows = [
            (f"{shown}[{', '.join(map(str, place))}]" if place else shown, *one.text_and_value())
            for place, one in zip(at, written, strict=True)
        ]
        terms = written[0].terms() if index is not None else []
        n_asked = total if index is None else 1
        yield NumberedEquation("+=" if of_input else "=", rows, n_asked, terms)


def _write_moved(
    formula: Formula,
    numbers: Numbers,
    names: dict[str, str],
    symbol: str,
    index: tuple[int, ...] | None,
) -> Iterator[NumberedEquation]:
    """Yield the equation of one element of an op that moves elements.

    A result says from which element it came, or from which several. What is sent to an input is the
    sum over the places to which the element went.
    """
    inputs = formula.moved(numbers.arguments)
    results, cotangents = (
        {f"{name}{i}": np.asarray(x) for i, x in enumerate(value)}
        if isinstance(value, tuple | list)
        else {name: np.asarray(value)}
        for name, value in (("out", numbers.out), ("g", numbers.g))
    )
    forward = symbol in results
    own, others = (results, inputs) if forward else (inputs, cotangents)
    asked = symbol if forward else symbol[1:]
    if index is None and not own[asked].ndim:
        index = ()
    if index is None or sum(x.size for x in (*own.values(), *others.values())) > LARGEST_MOVED:
        return
    before = sum(own[name].size for name in takewhile(lambda name: name != asked, own))
    at = before + (int(np.ravel_multi_index(index, own[asked].shape)) if index else 0)
    left, went = formula.moves_of(numbers.arguments)
    parts = [_find(others, int(k)) for k in (left[went == at] if forward else went[left == at])]

    def written(name: str, index: tuple[int, ...]) -> str:
        return names.get(name, f"${name}") + (f"[{', '.join(map(str, index))}]" if index else "")

    terms = [written(name, place) for name, place, _ in parts]
    found = results[asked] if forward else np.asarray(numbers.sent[asked])
    total = four_digits(float(found[index]))
    shown = [*terms[:2], "…", terms[-1]] if len(terms) > MOST_TERMS else terms
    row = (" + ".join(shown), total) if terms else (total, "")
    listed = [(term, four_digits(x), x) for term, (*_, x) in zip(terms, parts, strict=True) if x]
    listed.sort(key=lambda term: -abs(term[2]))
    yield NumberedEquation(
        "=" if forward else "+=",
        [(written(symbol, index), *row)],
        1,
        listed if len(parts) > 1 else [],
    )


def _find(arrays: dict[str, ndarray], k: int) -> tuple[str, tuple[int, ...], float]:
    """Return an element of arrays laid end to end: its array, its index there, its value."""
    for name, x in arrays.items():
        if k < x.size:
            index = tuple(map(int, np.unravel_index(k, x.shape)))
            return name, index, float(x[index])
        k -= x.size
    raise IndexError(k)


class _Ranged(NamedTuple):
    """An equation, and the range of each index in it."""

    equation: Equation
    ranges: dict[str, int]

    @property
    def letters(self) -> list[str]:
        """The indices of the left side."""
        return [subscript.name for subscript in self.equation.left.subscripts]


def _with_ranges(
    equations: tuple[Equation, ...], evaluation: Evaluation, arguments: Iterable[str]
) -> Iterator[_Ranged]:
    """Yield equations with the ranges of their indices: one letter may differ between equations."""
    like = {f"d{name}": evaluation.values[name] for name in arguments}  # if none was sent to it
    stand_ins = Evaluation((), like | evaluation.values)  # also of what the equations define
    ranges: dict[str, int] = {}
    for equation in equations:
        ranges = ranges | stand_ins.find_ranges(equation)
        ranged = _Ranged(equation, ranges)
        yield ranged
        left = equation.left
        if isinstance(left, Name) and left.name not in evaluation.values:
            shape = (*evaluation.batch, *(ranges[letter] for letter in ranged.letters))
            stand_ins.values[left.name] = np.broadcast_to(0.0, shape)


def _left_shape(evaluation: Evaluation, ranged: _Ranged) -> tuple[int, ...]:
    """Return the shape of a left side: of its array, or of what a definition would hold."""
    left = ranged.equation.left
    if left.name in evaluation.values:
        return np.array(evaluation.values[left.name], ndmin=len(left.subscripts)).shape
    return (*evaluation.batch, *(ranged.ranges[letter] for letter in ranged.letters))


def _moved(
    formula: Formula, evaluation: Evaluation, equations: tuple[Equation, ...], name: str,
    index: tuple[int, ...], shape: tuple[int, ...],
) -> tuple[int, ...]:  # fmt: skip
    """Return the place of an element in the array with which the equations are evaluated.

    For an op along axis 0, the axes of this array have another order.
    """
    places = formula.places(equations, evaluation.given).get(name)
    if places is None:
        return index
    flat = np.ravel_multi_index(index, np.shape(evaluation.given[name])) if index else 0
    return tuple(int(i) for i in np.argwhere(places.reshape(shape) == flat)[0])


SIGNS: dict[Callable, tuple[str, int]] = {  # each with its binding strength
    np.add: ("+", 1), np.subtract: ("-", 1), np.multiply: ("·", 2), np.divide: ("/", 2),
    np.power: ("^", 4), choose: ("·", 2),
}  # fmt: skip
WORDS = {function: name for name, function in FUNCTIONS.items()}


class _Nested(Exception):
    """A sum depends on the index of another sum."""


class _Part(NamedTuple):
    """An expression with numbers in the place of names."""

    text: str
    strength: int
    """How strongly its outermost sign binds, which says whether brackets are needed: the sum
    ``3 + 4`` (strength 1) as a factor of a product (strength 2) becomes ``(3 + 4)``."""
    value: float
    error: float = 0.0
    """A bound of what rounding may do to the value, in units of the last place of its dtype."""

    def inside(self, strength: int) -> str:
        """Return the text for a place where the other signs bind with a strength."""
        return self.text if self.strength >= strength else f"({self.text})"


class _Written:
    """Writes an equation for one element of its left side, with numbers in the place of names."""

    def __init__(
        self,
        evaluation: Evaluation,
        definitions: dict[str, _Ranged],
        ranged: _Ranged,
        place: tuple[int, ...],
        labels: LabelsOf | None = None,
    ) -> None:
        self.evaluation, self.definitions, self.place = evaluation, definitions, place
        self.labels = labels
        self.ranges = ranged.ranges
        self.known: dict[tuple, _Part] = {}  # sums and definitions
        self.listed: list[tuple[str, _Part]] | None = None  # of the first sum
        equation, lead = ranged.equation, len(place) - len(ranged.letters)
        indices = dict(zip(ranged.letters, place[lead:], strict=True))
        self.array = evaluation.values.get(equation.left.name)
        sizes = np.shape(self.array)[lead:] if self.array is not None else ()
        repeated = [letter for letter, n in zip(ranged.letters, sizes, strict=False)
                    if n == 1 and self.ranges[letter] > 1]  # fmt: skip
        parts = []
        with np.errstate(all="ignore"):
            for batch in self.batches(place[:lead], self.axes(equation.right)):
                for at in product(*(range(self.ranges[letter]) for letter in repeated)):
                    self.batch = batch
                    here = indices | dict(zip(repeated, at, strict=True))
                    parts.append(((*batch, *at), self.write(equation.right, here)))
        if len(parts) != 1:  # a broadcast input: its cotangent is summed
            self.listed = [(f"at [{', '.join(map(str, at))}]", part) for at, part in parts]
            self.whole = _add([part for _, part in parts])
        else:
            self.whole = parts[0][1]

    def batches(self, place: tuple[int, ...], axes: set[int]) -> Iterator[tuple[int, ...]]:
        """Yield the places in the batch of which an element of the left side is the sum.

        These are several if the left side lacks axes of the batch on which the right side depends.
        """
        batch = self.evaluation.batch
        lead = np.shape(self.array)[: len(place)] if self.array is not None else batch
        ranges: list[Any] = [range(n if axis in axes else 1) for axis, n in enumerate(batch)]
        for axis, (i, n) in enumerate(zip(place, lead, strict=True), len(batch) - len(place)):
            if n == batch[axis]:
                ranges[axis] = [i]
        return product(*ranges)

    def axes(self, node: Any) -> set[int]:
        """Return the axes of the batch on which an expression depends."""
        if isinstance(node, Call):
            return set().union(*map(self.axes, node.arguments))
        if isinstance(node, Big):
            return self.axes(node.body) if node.letter else set()
        if not isinstance(node, Name):
            return set()
        found = set().union(*map(self.axes, node.subscripts))
        if node.name in self.evaluation.values:
            shape = np.shape(self.evaluation.values[node.name])
            lead = shape[: len(shape) - len(node.subscripts)]
            first = len(self.evaluation.batch) - len(lead)
            return found | {axis for axis, n in enumerate(lead, first) if n != 1}
        definition = self.definitions.get(node.name)
        if definition and len(definition.letters) == len(node.subscripts):
            return found | self.axes(definition.equation.right)  # else an index of the same letter
        return found

    def text_and_value(self) -> tuple[str, str]:
        """Return the right side with numbers, and the value; empty if the text is the number."""
        text, computed = self.whole.text, self.whole.value
        if self.array is None:
            value = four_digits(computed)
            return text, "" if text == value else value
        array = np.array(self.array, ndmin=len(self.place))
        found, sizes = float(array[self.place]), np.abs(array)
        largest = float(np.max(sizes, where=np.isfinite(sizes), initial=0))
        eps = np.finfo(array.dtype if array.dtype.kind == "f" else float).eps
        atol = 1e-12 + 1e-3 * largest + ROUNDINGS * float(eps) * self.whole.error
        value = four_digits(found)
        if np.isclose(computed, found, rtol=1e-3, atol=atol, equal_nan=True):
            return text, "" if text == value else value
        with np.errstate(over="ignore"):
            is_range = np.isinf(found) and array.dtype.type(computed) == found
        note = f"which is {value} in {array.dtype}" if is_range else f"and the op has {value}"
        return text, f"{four_digits(computed)}, {note}"

    def terms(self) -> list[tuple[str, str, float]]:
        """Return the terms of the sum, the largest first, without those that are 0."""
        found = [(at, part.text, part.value) for at, part in self.listed or () if part.value != 0]
        return sorted(found, key=lambda term: -abs(term[2]))

    def write(self, node: Any, indices: dict[str, int]) -> _Part:
        """Return an expression with its numbers."""
        if isinstance(node, Number):
            return _Part(four_digits(node.value), 5, node.value)
        if isinstance(node, Name):
            value, error = self.entry(node, indices)
            return _Part(four_digits(value), 5 if value >= 0 else 1, value, error)
        if isinstance(node, Big):
            return self.write_sum(node, indices)
        function = node.function
        parts = [self.write(argument, indices) for argument in node.arguments]
        values = [part.value for part in parts]
        value = float(function(*values))
        if function is one_or_zero or function in COMPARISONS.values():
            return _Part(four_digits(value), 5, value)  # a condition in brackets is 0 or 1
        if function is choose and value == 0 and not np.isfinite(values).all():
            return _Part("0", 5, 0.0)  # what the condition leaves out may be infinite
        error = _error(function, parts, value)
        if function is np.negative:
            return _Part(f"-{parts[0].inside(2)}", 1, value, error)
        if function in SIGNS:
            sign, strength = SIGNS[function]
            power = sign == "^"  # a^b^c is a^(b^c); the other signs group from the left
            left, right = (parts[i].inside(strength + (power != i)) for i in (0, 1))
            space = "" if power else " "
            return _Part(f"{left}{space}{sign}{space}{right}", strength, value, error)
        inside = ", ".join(part.text for part in parts)
        text = f"|{inside}|" if function is np.abs else f"{WORDS[function]}({inside})"
        return _Part(text, 5, value, error)

    def write_sum(self, node: Big, indices: dict[str, int]) -> _Part:
        """Write out the terms of a sum, product, maximum, minimum or mean."""
        within = {key: i for key, i in indices.items() if key in _letters(node)}
        key = (id(node), tuple(within.items()), self.batch if node.letter else ())
        if key not in self.known:
            self.known[key] = self.write_terms(node, within)
        return self.known[key]

    def write_terms(self, node: Big, indices: dict[str, int]) -> _Part:
        """Write out the terms, which no earlier sum has written."""
        is_first = self.listed is None and node.function is np.sum
        if is_first:
            self.listed = []
        if node.letter and self.ranges[node.letter] > MANY:
            with suppress(_Nested):
                return self.write_many_terms(node, indices, is_first)
        terms, places = [], []
        if node.letter:
            for i in range(self.ranges[node.letter]):
                terms.append(self.write(node.body, indices | {node.letter: i}))
                places.append(self.name_term(node, i) if is_first else "")
        else:
            before = self.batch
            for place in np.ndindex(self.evaluation.batch):
                self.batch = place
                terms.append(self.write(node.body, indices))
                places.append(self.name_place(node, place) if is_first else "")
            self.batch = before
        if is_first:
            self.listed = list(zip(places, terms, strict=True))
        if len(terms) == 1:
            return terms[0]
        return _joined(node.function, terms, [term.value for term in terms])

    def write_many_terms(self, node: Big, indices: dict[str, int], is_first: bool) -> _Part:
        """Write out the first and the last of many terms, and of a first sum the largest.

        The values of all terms are computed as one array. The text of a term that is not written is
        empty.
        """
        n = self.ranges[node.letter]
        values = np.zeros(n) + self.values_of(node.body, indices | {node.letter: np.arange(n)})
        chosen = {0, 1, n - 1}
        if is_first:
            chosen.update(np.argsort(-np.abs(values), kind="stable")[:LISTED].tolist())
        written = {i: self.write(node.body, indices | {node.letter: i}) for i in sorted(chosen)}
        if is_first:
            self.listed = [
                (self.name_term(node, i), written[i]) if i in written else ("", _Part("", 5, value))
                for i, value in enumerate(values.tolist())
            ]
        ends = [written[0], written[1], written[n - 1]]
        return _joined(node.function, ends, values)

    def name_term(self, node: Big, i: int) -> str:
        """Return the index of a term, and what the index counts, if it is known.

        An index is a subscript of an array in the term: it counts what this axis of the array
        counts.
        """
        for name, labels in self.labelled(node):
            for axis, subscript in enumerate(name.subscripts, -len(name.subscripts)):
                if subscript == Name(node.letter, ()) and (text := labels.label(axis, i)):
                    return f"{node.letter} = {text}"
        return f"{node.letter} = {i}"

    def name_place(self, node: Big, place: tuple[int, ...]) -> str:
        """Return a place in the batch, in words if it is known what the axes of the batch count."""
        for name, labels in self.labelled(node):
            if len(labels.axes) - len(name.subscripts) == len(place):
                if text := labels.of_element(place):
                    return f"at {text}"
        return f"at [{', '.join(map(str, place))}]"

    def labelled(self, node: Big) -> Iterator[tuple[Name, Labels]]:
        """Yield the arrays in the terms of a sum of which it is known what the axes count."""
        for name in _names(node.body):
            if self.labels and (labels := self.labels(name.name)) and labels.names:
                yield name, labels

    def values_of(self, node: Any, indices: dict[str, Any]) -> Any:
        """Return the values of an expression for indices that may be arrays of one length, (n,).

        Raises
        ------
        _Nested
            If a sum within the expression depends on such an index.
        """
        if isinstance(node, Number):
            return node.value
        if isinstance(node, Name):
            return self.entries(node, indices)
        if not isinstance(node, Big):
            return node.function(*(self.values_of(each, indices) for each in node.arguments))
        varied = {key for key, i in indices.items() if isinstance(i, ndarray)}
        if (_letters(node) - {node.letter}) & varied:
            raise _Nested
        return self.write_sum(node, {key: indices[key] for key in indices.keys() - varied}).value

    def entries(self, node: Name, indices: dict[str, Any]) -> Any:
        """Return the numbers that a name stands for, as `entry` for indices that may be arrays."""
        if node.name in indices and not node.subscripts:
            return indices[node.name]
        subscripts = [np.asarray(self.values_of(s, indices)).astype(int) for s in node.subscripts]
        if node.name in self.definitions and node.name not in self.evaluation.values:
            equation, ranges = definition = self.definitions[node.name]
            bounds = [ranges[letter] for letter in definition.letters]
            places = [np.clip(i, 0, n - 1) for i, n in zip(subscripts, bounds, strict=True)]
            before, self.listed, self.ranges = (self.listed, self.ranges), [], ranges
            try:
                found = self.values_of(
                    equation.right, dict(zip(definition.letters, places, strict=True))
                )
            finally:
                self.listed, self.ranges = before
        else:
            array = np.asarray(self.evaluation.values[node.name])
            lead = array.ndim - len(subscripts)
            subscripts = [*map(np.asarray, self.batch[len(self.batch) - lead :] if lead else ()),
                          *subscripts]  # fmt: skip
            bounds = [*array.shape]
            subscripts = [
                np.zeros_like(i) if is_one else i
                for i, is_one in zip(subscripts, _broadcast(array, node), strict=True)
            ]
            places = [np.clip(i, 0, n - 1) for i, n in zip(subscripts, bounds, strict=True)]
            found = array[tuple(places)].astype(float)
        is_inside: Any = True
        for place, i in zip(places, subscripts, strict=True):
            is_inside = is_inside & (place == i)
        return np.where(is_inside, found, 0.0)

    def entry(self, node: Name, indices: dict[str, int]) -> tuple[float, float]:
        """Return the number that a name stands for, and what rounding may do to this number."""
        if node.name in indices and not node.subscripts:
            return indices[node.name], 0.0
        subscripts = [int(self.write(s, indices).value) for s in node.subscripts]
        if node.name in self.definitions and node.name not in self.evaluation.values:
            return self.defined(node.name, subscripts)
        array = np.asarray(self.evaluation.values[node.name])
        lead = array.ndim - len(subscripts)
        places = [*(self.batch[len(self.batch) - lead :] if lead else ()), *subscripts]
        for axis, (n, is_one) in enumerate(zip(array.shape, _broadcast(array, node), strict=True)):
            if is_one:
                places[axis] = 0
            if not 0 <= places[axis] < n:
                return 0.0, 0.0
        return float(array[tuple(places)]), 0.0

    def defined(self, name: str, subscripts: list[int]) -> tuple[float, float]:
        """Return an element of a value that an earlier equation defines; see `entry`."""
        key = (name, *subscripts, self.batch)
        if key not in self.known:
            equation, ranges = definition = self.definitions[name]
            letters = definition.letters
            if not all(0 <= i < ranges[k] for i, k in zip(subscripts, letters, strict=True)):
                return 0.0, 0.0
            # The terms to list are those of the equation itself, and its indices have other ranges.
            before, self.listed, self.ranges = (self.listed, self.ranges), [], ranges
            self.known[key] = self.write(
                equation.right, dict(zip(letters, subscripts, strict=True))
            )
            self.listed, self.ranges = before
        return self.known[key].value, self.known[key].error


def _broadcast(array: ndarray, node: Name) -> list[bool]:
    """Return which axes of an array have the same element at every index.

    These are the axes of length 1, but not where a subscript is computed: x_{i - 1} is outside of
    the array for all but one i.
    """
    lead = array.ndim - len(node.subscripts)
    computed = [not isinstance(s, Name) or bool(s.subscripts) for s in node.subscripts]
    return [n == 1 and not (i >= lead and computed[i - lead]) for i, n in enumerate(array.shape)]


@cache
def _letters(node: Big) -> frozenset[str]:
    """Return the names without subscripts in an expression: the indices are among them."""
    return frozenset(name.name for name in _names(node) if not name.subscripts)


def _error(function: Callable, parts: list[_Part], value: float) -> float:
    """Return a bound of what rounding may do to a function's value, in units of the last place.

    Rounding changes each argument by its own bound, and rounds the result once more.
    """
    values, error = [part.value for part in parts], abs(value)
    for i, part in enumerate(parts):
        if part.error:
            step = 1e-6 * max(abs(part.value), part.error)  # for a difference quotient
            moved = float(function(*values[:i], part.value + step, *values[i + 1 :]))
            error += abs(moved - value) / step * part.error
    return error if math.isfinite(error) else 0.0


def _add(terms: list[_Part]) -> _Part:
    """Return the sum of terms, of which the middle ones are left out if there are many."""
    if len(terms) == 1:
        return terms[0]
    return _joined(np.sum, terms, [term.value for term in terms])


def _joined(function: Callable, terms: list[_Part], values: Sequence[float] | ndarray) -> _Part:
    """Return a sum, product, maximum, minimum or mean of values.

    Parameters
    ----------
    function : callable
    terms : list of _Part
        What is written: of many values, the first, the second and the last are enough.
    values : sequence of float
        All values.
    """
    n, value = len(values), float(function(values))
    if not terms:
        return _Part(four_digits(value), 5, value)
    error = sum(term.error for term in terms)
    if function in (np.sum, np.mean):
        error += float(np.abs(values).sum())
        error /= n if function is np.mean else 1
    elif function is np.prod:
        error = abs(value) * sum(1 + term.error / abs(term.value) for term in terms if term.value)
    error = error if math.isfinite(error) else 0.0
    strength = 3 if function is np.prod else 0 if function in (np.max, np.min) else 2
    texts = [term.inside(strength) for term in terms]
    if n > MOST_TERMS:
        texts = [*texts[:2], "…", texts[-1]]
    if function is np.sum:
        return _Part(" + ".join(texts), 1, value, error)
    if function in (np.max, np.min):
        name = "max" if function is np.max else "min"
        return _Part(f"{name}({', '.join(texts)})", 5, value, error)
    if function is np.mean:
        return _Part(f"({' + '.join(texts)}) / {n}", 2, value, error)
    return _Part(" · ".join(texts), 2, value, error)


def four_digits(x: Any) -> str:
    """Return a number in four digits."""
    return f"{float(x):.4g}"

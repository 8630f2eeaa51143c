"""What the axes of recorded arrays count: tokens of a text, heads, channels, classes.

A program says what a few axes count, such as those of its token ids (`Recording.axes`). What the
others count follows from the calls: a formula such as ``out_ik = Σ_j x_ij · y_jk`` says that the
rows of `out` are those of `x`, and a transpose or a reshape says where each index went. An axis
about which nothing follows has no name. If two names contradict each other, the axis has none, so a
name is never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.formula import Equation, FormulaError, Name, _names, parse

if TYPE_CHECKING:
    from autograd.stepper.record import Call, Recording

MOST_MOVED = 1 << 20  # elements: where the elements of larger copies came from is not searched
PART = "part"  # what an axis counts that has the queries, the keys and the values side by side
PARTS = ("query", "key", "value")


class Coordinate(NamedTuple):
    """What the indices of an axis stand for: index i is number ``at[i]`` of what `name` counts."""

    name: str
    """``position``, ``head``, ..."""
    at: ndarray

    def same(self, other: Coordinate) -> bool:
        """Return whether two coordinates say the same."""
        return self.name == other.name and np.array_equal(self.at, other.at)


Axis = tuple[Coordinate, ...]  # several of (heads · channels) as one axis; empty if unknown
Place = tuple  # the number of a value, and one of its axes
Group = tuple[list[Place], tuple[int, ...], list[Place], tuple[int, ...]]


def count(name: str, n: int) -> Axis:
    """Return an axis that counts something from 0 on.

    Examples
    --------
    >>> count("head", 3)
    (Coordinate(name='head', at=array([0, 1, 2])),)
    """
    return (Coordinate(name, np.arange(n)),)


def same_axis(a: Axis, b: Axis) -> bool:
    """Return whether two axes count the same."""
    return len(a) == len(b) and all(x.same(y) for x, y in zip(a, b, strict=True))


def find_axes(recording: Recording) -> dict[Any, tuple[Axis, ...]]:
    """Return what each axis of each value and constant counts, as far as it is known.

    A name that the formula of a call alone has, such as the weights of attention, is found under
    the number of the call and the name.
    """
    arrays = recording.constants | recording.values
    links = _Links(arrays)
    links.parts = _find_parts(recording)
    for call in recording.calls.values():
        links.add(call)
    given = [
        ((number, i), axis)
        for number, axes in recording.axes.items()
        for i, axis in enumerate(axes)
        if axis
    ]
    found = links.spread(given)
    axes: dict[Any, tuple[Axis, ...]] = {
        number: tuple(found.get(links.root((number, i)), ()) for i in range(np.ndim(x)))
        for number, x in arrays.items()
    }
    for (number, name), n in links.named.items():
        axes[number, name] = tuple(
            found.get(links.root((number, name, i)), ()) for i in range(-n, 0)
        )
    return axes


def find_owners(call: Call) -> dict[str, str]:
    """Return the argument of an op that each index of the op's formula belongs to.

    Both axes of the weights of attention, ``p_ts``, count positions: ``t`` those of the queries,
    and ``s`` those of the keys. An index belongs to the first argument that has the index.
    """
    owners: dict[str, str] = {}
    for equation in _equations(call):
        for name in _names(equation.right):
            if name.name in call.op.names:
                for letter in filter(None, map(_letter, name.subscripts)):
                    owners.setdefault(letter, name.name)
    return owners


class _Links:
    """Which axes of the arrays of a recording are the same, and which are made of others.

    Axes that are the same form a set, as in a union-find structure. The axes of a reshape, of a
    slice and of a split follow from others by a function.
    """

    def __init__(self, arrays: dict[int, ndarray]) -> None:
        self.arrays = arrays
        self.above: dict[Place, Place] = {}
        self.named: dict[tuple[int, str], int] = {}  # names that a formula alone has: their axes
        self.groups: list[Group] = []
        self.moved: list[tuple[Place, list[tuple[Place, ndarray]]]] = []
        self.stated: list[tuple[Place, Axis]] = []  # by ops, about axes of which nothing is known
        self.grouped: set[Any] = set()  # the queries and results of attention with shared keys
        self.parts: dict[Any, str] = {}  # for what only attention reads: as which of `PARTS`

    def root(self, place: Place) -> Place:
        """Return the axis that stands for the set of an axis."""
        root = place
        while root in self.above:
            root = self.above[root]
        while place != root:  # so that the next search has one step
            self.above[place], place = root, self.above[place]
        return root

    def join(self, a: Place, b: Place) -> None:
        """Note that two axes are the same."""
        a, b = self.root(a), self.root(b)
        if a != b:
            self.above[b] = a

    # ---- reading calls

    def add(self, call: Call) -> None:
        """Add what a call says about the axes of its arguments and results."""
        numbers: dict[str, Any] = call.constants | call.parents
        several = call.op.multiple
        numbers |= {f"out{i}" if several else "out": n for i, n in enumerate(call.results)}
        shapes = {name: np.shape(self.arrays[n]) for name, n in numbers.items()}
        self.add_meaning(call, numbers, shapes)
        stated = call.op.stated
        if stated is None:
            return
        if call.op.name == "reshape":
            self.add_reshape(numbers["x"], numbers["out"], shapes["x"], shapes["out"])
        elif stated.moves:
            if (moved := call.op.names[0]) in numbers and not call.op.variadic:
                self.add_moves(call, moved, numbers[moved], shapes[moved])
        elif stated.along is None:
            self.add_formula(call, numbers, shapes)
        else:
            self.add_along(call, numbers, shapes)

    def add_meaning(self, call: Call, numbers: dict[str, Any], shapes: dict[str, Any]) -> None:
        """Note what an op says of its own arguments: attention has heads, a table has channels."""
        said: list[tuple[str, int, str]] = []
        if call.op.name == "attention" and len(shapes.get("query", ())) in (4, 5):
            if len(shapes["query"]) == 5:  # (B, K, H / K, T, D): the heads of a group share keys
                self.grouped |= {numbers["query"], numbers["out"]}
                said = [("key", 1, "key head")]
            else:
                said = [("query", 1, "head"), ("key", 1, "head")]
            said += [("query", -1, "channel in head"), ("value", -1, "channel in head")]
        elif call.op.name == "embedding":
            said = [("weight", 1, "channel")]
            for i, n in enumerate(shapes.get("input", ())):
                if n > 1:
                    self.join((numbers["input"], i), (numbers["out"], i))
        elif call.op.name == "cross_entropy" and len(shapes.get("input", ())) == 2:
            said = [("input", 1, "class")]
        for name, axis, what in said:
            if name in numbers:
                n, axis = shapes[name][axis], axis % len(shapes[name])
                self.stated.append(((numbers[name], axis), count(what, n)))

    def add_formula(self, call: Call, numbers: dict[str, Any], shapes: dict[str, Any]) -> None:
        """Join the axes that have the same index in an equation of the op's formula.

        A name that the formula alone has, such as the weights of attention, has axes as well: the
        rows of the weights are those of the queries, and the rows of the result are those of the
        weights.
        """
        equations = list(_equations(call))
        defined = {e.left.name for e in equations if isinstance(e.left, Name)} - shapes.keys()
        named = [[n for side in e[1:] for n in _names(side)] for e in equations]
        depth = max((
            len(shapes[name.name]) - len(name.subscripts)
            for names in named for name in names if name.name in shapes
        ), default=0)  # fmt: skip
        sizes: dict[Place, int] = {}  # of the axes of names that the formula alone has
        for names in named:
            alike: dict[Any, list[tuple[Place, int]]] = {}
            letters = {_letter(subscript) for name in names for subscript in name.subscripts}
            for name in names:
                shape = shapes.get(name.name)
                if name.name in letters and not name.subscripts:  # an index, not an array
                    continue
                if shape is None and name.name not in defined:
                    continue
                lead = depth if shape is None else len(shape) - len(name.subscripts)
                keys = [*range(-lead, 0), *map(_letter, name.subscripts)]
                if shape is None:
                    self.named[call.number, name.name] = len(keys)
                for i, key in enumerate(keys):
                    place = (call.number, name.name, i - len(keys)) if shape is None else (
                        numbers[name.name], i)  # fmt: skip
                    n = sizes.get(place, 0) if shape is None else shape[i]
                    if key is not None and key not in call.arguments:
                        alike.setdefault(key, []).append((place, n))
            for entries in alike.values():
                largest = max(n for _, n in entries)
                sizes |= {place: largest for place, n in entries if n == 0}
                same = [place for place, n in entries if n in (0, largest)]
                for a, b in pairwise(same if largest > 1 else ()):
                    self.join(a, b)

    def add_along(self, call: Call, numbers: dict[str, Any], shapes: dict[str, Any]) -> None:
        """Join the axes of an op that works along some: a softmax, a norm, a sum."""
        first = call.op.names[0]
        if first not in shapes:
            return
        whole: tuple[int, ...] = shapes[first]
        last = call.op.stated.axes(call.arguments)  # type: ignore[union-attr]
        others = [i for i in range(len(whole)) if i not in last]
        for name, shape in shapes.items():
            if shape == whole:
                pairs = [(i, i) for i in range(len(whole))]
            elif name != "out" and shape == tuple(whole[i] for i in last):
                pairs = [*zip(range(len(last)), last, strict=True)]
            elif name == "out" and len(shape) == len(whole):  # keepdims
                pairs = [(i, i) for i in others]
            elif name == "out" and len(shape) == len(others):
                pairs = [*zip(range(len(others)), others, strict=True)]
            else:
                continue
            for mine, its in pairs:
                if name != first and whole[its] > 1 and shape[mine] == whole[its]:
                    self.join((numbers[first], its), (numbers[name], mine))

    def add_reshape(self, x: Any, out: Any, before: tuple, after: tuple) -> None:
        """Note which axes of a reshaped array came from which: those of equal products."""
        if math.prod(before) == 0:
            return
        here, there = _long(before), _long(after)
        while here or there:
            ins, outs = [here.pop(0)], [there.pop(0)]
            while (n := math.prod(before[i] for i in ins)) != (
                m := math.prod(after[i] for i in outs)
            ):
                (ins.append(here.pop(0)) if n < m else outs.append(there.pop(0)))
            if len(ins) == len(outs) == 1:
                self.join((x, ins[0]), (out, outs[0]))
            else:
                self.groups.append((
                    [(x, i) for i in ins], tuple(before[i] for i in ins),
                    [(out, i) for i in outs], tuple(after[i] for i in outs),
                ))  # fmt: skip

    def add_moves(self, call: Call, name: str, x: Any, shape: tuple[int, ...]) -> None:
        """Follow each axis of an array through an op that moves elements.

        The op runs on an array whose elements are the indices of one axis. If the result differs
        along one axis only, it says which index of the input each of its indices is. The op runs a
        second time with larger numbers: what stays the same came from no input, as what a pad adds.
        """
        for axis in _long(shape):
            n = shape[axis]
            line = np.arange(n).reshape(-1, *(1,) * (len(shape) - axis - 1))
            runs = []
            for first in (0, n):
                x_of = np.broadcast_to(line + first, shape)
                found = call.op.forward(**call.arguments | {name: x_of})
                runs.append(found if call.op.multiple else (found,))
            pieces = []
            for number, part, later in zip(call.results, *runs, strict=True):
                followed, again = _varies(part), _varies(later)
                if followed and again and np.array_equal(followed[1] + n, again[1]):
                    pieces.append(((number, followed[0]), followed[1]))
            if len(pieces) == 1 and np.array_equal(pieces[0][1], np.arange(n)):
                self.join((x, axis), pieces[0][0])
            elif pieces:
                self.moved.append(((x, axis), pieces))

    # ---- what follows

    def spread(self, given: list[tuple[Place, Axis]]) -> dict[Place, Axis]:
        """Return what is known of each set of axes: what was given, and what follows from that."""
        wrong: set[Place] = set()  # sets of axes about which there are contradictions
        while True:
            found: dict[Place, Axis] = {}
            before = len(wrong)
            for place, axis in given:
                self.learn(found, wrong, place, axis)
            self.close(found, wrong)
            known = set(found)
            for place, axis in (*self._heads_of_groups(), *self.stated):
                if self.root(place) not in known:
                    self.learn(found, wrong, place, axis)
            self.close(found, wrong)
            if len(wrong) == before:
                return found

    def _heads_of_groups(self) -> Iterator[tuple[Place, Axis]]:
        """Yield the axes that are reshaped to groups of heads, or made of them: these are heads."""
        for ins, _, outs, _ in self.groups:
            for one, group in ((ins, outs), (outs, ins)):
                if len(one) == 1 and [*group] == [(group[0][0], 1), (group[0][0], 2)]:
                    number, axis = one[0]
                    if group[0][0] in self.grouped:
                        yield one[0], count("head", self.arrays[number].shape[axis])

    def learn(self, found: dict[Place, Axis], wrong: set[Place], place: Place, axis: Axis) -> bool:
        """Note what an axis counts; return whether that is new."""
        place = self.root(place)
        if not axis or place in wrong:
            return False
        if place not in found:
            found[place] = axis
            return True
        if not same_axis(found[place], axis):
            wrong.add(place)
            del found[place]
        return False

    def close(self, found: dict[Place, Axis], wrong: set[Place]) -> None:
        """Add what follows through reshapes and moves, until nothing new follows."""
        is_new = True
        while is_new:
            is_new = False
            for ins, before, outs, after in self.groups:
                for here, sizes, there, parts in (
                    (ins, before, outs, after),
                    (outs, after, ins, before),
                ):
                    whole = _merge([found.get(self.root(p), ()) for p in here], sizes)
                    for place, axis in zip(there, _split(whole, parts), strict=True):
                        is_new |= self.learn(found, wrong, place, axis)
            for place, pieces in self.moved:
                known = found.get(self.root(place), ())
                for to, at in pieces:
                    axis = tuple(Coordinate(name, of[at]) for name, of in known if name != PART)
                    is_new |= self.learn(found, wrong, to, axis)
                if not known:
                    axes = [found.get(self.root(to), ()) for to, _ in pieces]
                    n = np.shape(self.arrays[place[0]])[place[1]]
                    whole = _assemble(axes, pieces, n)
                    roles = [self.parts.get(to[0]) for to, _ in pieces]
                    if whole and None not in roles and len({*roles}) == len(roles) > 1:
                        which = np.repeat([PARTS.index(str(role)) for role in roles],
                                          [len(at) for _, at in pieces])  # fmt: skip
                        places = np.concatenate([at for _, at in pieces])
                        whole = (Coordinate(PART, which[np.argsort(places)]), *whole)
                    is_new |= self.learn(found, wrong, place, whole)


def _find_parts(recording: Recording) -> dict[int, str]:
    """Return what attention reads each value as, of the values that serve nothing else."""
    read_as: dict[int, set[str]] = {}
    for call in reversed(recording.calls.values()):
        whole = set().union(*(read_as.get(number, {""}) for number in call.results))
        for name, number in call.parents.items():
            is_part = call.op.name == "attention" and name in PARTS
            read_as.setdefault(number, set()).update({name} if is_part else whole)
    return {n: min(parts) for n, parts in read_as.items() if len(parts) == 1 and parts != {""}}


def _equations(call: Call) -> Iterator[Equation]:
    """Yield the equations of an op's formula that are not about cotangents."""
    stated: Any = call.op.stated
    known = frozenset({*call.arguments, *stated.given, "out", "π"} | {f"out{i}" for i in range(10)})
    try:
        equations = parse(stated.text(call.arguments), known)
    except FormulaError:
        return
    cotangents = {"g", *(f"g{i}" for i in range(10)), *(f"d{name}" for name in call.arguments)}
    for equation in equations:
        names = {name.name for side in equation[1:] for name in _names(side)}
        if names.isdisjoint(cotangents):
            yield equation


def _letter(subscript: Any) -> str | None:
    return subscript.name if isinstance(subscript, Name) and not subscript.subscripts else None


def _long(shape: tuple[int, ...]) -> list[int]:
    """Return the axes that are longer than 1."""
    return [i for i, n in enumerate(shape) if n > 1]


def _varies(x: ndarray) -> tuple[int, ndarray] | None:
    """Return the only axis along which an array differs, and the elements along this axis."""
    axes = [i for i in _long(x.shape) if x.strides[i]]
    for axis in axes if x.size else ():
        line = x[tuple(slice(None) if i == axis else 0 for i in range(x.ndim))]
        if len(axes) == 1:
            return axis, line
        if x.size <= MOST_MOVED and (x == np.expand_dims(line, [*range(1, x.ndim - axis)])).all():
            return axis, line
    return None


def _merge(axes: list[Axis], sizes: tuple[int, ...]) -> Axis:
    """Return what the indices of several axes count, when these become one axis."""
    if len(axes) == 1 or not all(axes):
        return axes[0] if len(axes) == 1 else ()
    places = np.indices(sizes).reshape(len(sizes), -1)
    return tuple(
        Coordinate(name, at[where]) for axis, where in zip(axes, places, strict=True)
        for name, at in axis
    )  # fmt: skip


def _split(axis: Axis, sizes: tuple[int, ...]) -> list[Axis]:
    """Return what the indices of the parts count, when an axis becomes several."""
    found: list[list[Coordinate]] = [[] for _ in sizes]
    for name, at in axis:
        if (followed := _varies(at.reshape(sizes))) is not None:
            found[followed[0]].append(Coordinate(name, followed[1]))
    return [*map(tuple, found)]


def _assemble(axes: list[Axis], pieces: list[tuple[Place, ndarray]], n: int) -> Axis:
    """Return what an axis counts of which all pieces are known, such as those of a split."""
    made = []
    for name, _ in axes[0]:
        whole = np.full(n, -1)
        for axis, (_, at) in zip(axes, pieces, strict=True):
            for other, of in axis:
                if other == name:
                    whole[at] = of
        if (whole >= 0).all():
            made.append(Coordinate(name, whole))
    return tuple(made)


# ---- labels


class Labels(NamedTuple):
    """What the axes of an array count, and the texts of what is counted."""

    axes: tuple[Axis, ...]
    texts: dict[tuple[str, ...], list]

    @property
    def names(self) -> str:
        """What each axis counts, as in ``(·, position, channel)``; empty if nothing is known."""
        known = [" and ".join(c.name for c in axis) for axis in self.axes]
        return f"({', '.join(name or '·' for name in known)})" if any(known) else ""

    def has_texts(self, axis: int) -> bool:
        """Return whether something that an axis counts has texts."""
        return any(key[-1] == c.name for c in self.axes[axis] for key in self.texts)

    def label(self, axis: int, index: int, others: tuple[int, ...] = ()) -> str:
        """Return what an index of an axis stands for, as in ``3 ·Tower`` or ``head 2, channel 5``.

        The text is empty if this is unknown, and for an index that the axis does not have.

        Parameters
        ----------
        axis, index : int
        others : tuple of int
            The indices of the axes before it: the token at a position depends on the example.
        """
        if not -len(self.axes) <= axis < len(self.axes):
            return ""
        if any(index >= len(c.at) for c in self.axes[axis]):  # the axis is broadcast
            return ""
        here = {c.name: int(c.at[i]) for other, i in zip(self.axes, others, strict=False)
                for c in other if i < len(c.at)}  # fmt: skip
        here |= {c.name: int(c.at[index]) for c in self.axes[axis]}
        texts = {c.name: self._text(c.name, here) for c in self.axes[axis]}
        return ", ".join(
            f"{name} {here[name]}" if text is None else
            text if name == PART else f"{here[name]} {text}"
            for name, text in texts.items()
        )  # fmt: skip

    def of_element(self, place: tuple[int, ...]) -> str:
        """Return what the indices of an element stand for, as in ``head 2, position 3 ·fox``."""
        named = []
        for axis, i in enumerate(place[: len(self.axes)]):
            text, counts = self.label(axis, i, place[:axis]), self.axes[axis]
            if text and len(counts) == 1 and not text.startswith(counts[0].name):
                text = f"{counts[0].name} {text}"
            named.append(text)
        return ", ".join(filter(None, named))

    def text_of(self, name: str, i: int) -> str:
        """Return number i of what is counted, with its text if it has one, as in ``3 ·Tower``."""
        text = self._text(name, {name: i})
        return str(i) if text is None else text if name == PART else f"{i} {text}"

    def _text(self, name: str, here: dict[str, int]) -> str | None:
        if name == PART:
            return PARTS[here[name]]
        for key, entry in self.texts.items():
            if key[-1] == name:
                for part in key:
                    i = here.get(part, 0 if len(entry) == 1 else len(entry))
                    if i >= len(entry):
                        return None
                    entry = entry[i]
                return str(entry)
        return None

    def part(self, index: tuple[Any, ...]) -> Labels:
        """Return the labels of a part of an array, which an index of integers and slices names."""
        made = []
        for i, axis in enumerate(self.axes):
            chosen = index[i] if i < len(index) else slice(None)
            if isinstance(chosen, slice):
                made.append(tuple(Coordinate(name, at[chosen]) for name, at in axis))
        return Labels(tuple(made), self.texts)

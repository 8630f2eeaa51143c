"""What if a value were another: the recorded program runs again, forward and backward.

The program itself does not run, and none of its arrays is changed. The calls of the recording run
again with the other value in place, and a new recording and a new trace hold the results.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.engine import Node, differentiate
from autograd.modes import observing, unseen
from autograd.stepper.axes import Labels
from autograd.stepper.measure import memory_of, norm, relative_distance
from autograd.stepper.record import Call, Recording
from autograd.stepper.steps import as_tuple
from autograd.stepper.trace import Trace
from autograd.tensor import Tensor, grad

FEW = 6  # elements: of a larger array the norm is shown
MOST_EARLIER, MOST_BYTES = 100, 1 << 31  # of traces that are kept for `undo`
MOST_ROWS = 8  # of the values, gradients and predictions that are shown

Changes = dict[int, ndarray]  # by the number of a leaf, a result or a constant: the other value


class Change(NamedTuple):
    """A number or an array before and after."""

    name: str
    before: ndarray
    after: ndarray

    @property
    def size(self) -> float:
        """The norm of the difference, relative to the larger of both norms; 1 for other shapes."""
        same_shape = self.before.shape == self.after.shape
        return relative_distance(self.before, self.after) if same_shape else 1.0


class Prediction(NamedTuple):
    """What a classifier says about one row, before and after."""

    row: tuple[int, ...]
    target: int
    before: tuple[int, float]
    """The most probable class, and the probability of the target."""
    after: tuple[int, float]
    labels: Labels
    """What the rows and the classes stand for."""


class Outcome(NamedTuple):
    """Two passes of one program with different values."""

    loss: Change
    change: float
    """The change of the result, weighted with the cotangent at the start, which is usually 1."""
    forecast: float | None
    """g · Δ, the change if the loss were linear; None for values without a gradient."""
    values: list[Change]
    """The named results that changed, in the order of execution."""
    gradients: list[Change]
    """The gradients of the leaves; the gradient that changed most is the first."""
    predictions: list[Prediction]
    """The rows of a cross-entropy that changed; rows with another class are the first."""
    not_computed: list[str]
    """What the program may have computed from a value that changed, and stays as recorded, since
    it is off the tape: conditions, integers, and what NumPy made of an array such as ``x > 0``."""


def run_again(recorded: Trace, changed: Changes) -> Trace:
    """Run the program of a trace again with other values, forward and backward.

    A result that is replaced, such as a hidden layer, becomes a leaf: the backward pass ends there.

    Raises
    ------
    ValueError, TypeError, IndexError, ArithmeticError
        If an op refuses its new arguments, such as a token id that is out of range, or if the
        program would fail before the op: by the integer of an infinite number.
    """
    recording, start = recorded.recording, recorded.start
    with unseen():
        answers: dict[int, ndarray] = {}
        tape = recording.replay(start, changed, answers=answers)
        changed_recording = _recording_of(recording, start, tape, changed | answers)
        new = Trace(changed_recording, start, recorded.cotangent, insight=recorded.insight)
        ends = {*recorded.waiting(), *changed} & tape.keys()
        nodes: list[Any] = [tape[number]._node for number in ends]
        with observing(new):
            differentiate([tape[start]._node], [recorded.cotangent], nodes)  # type: ignore[list-item]
    return new


def _recording_of(
    recording: Recording, start: int, tape: dict[int, Tensor], changed: Changes
) -> Recording:
    """Return the recording of the calls that ran again, with the values that they computed."""
    values = {number: x._array for number, x in tape.items()}
    constants = recording.constants | {n: x for n, x in changed.items() if n not in values}
    calls = {}
    for call in recording.behind(start, answers=True):
        if not changed.keys().isdisjoint(call.results):
            continue  # its result is a leaf now
        calls[call.number] = new = copy.copy(call)
        new.arguments = call.arguments | {
            name: constants[number]
            if isinstance(call.arguments[name], ndarray)
            else constants[number].item()  # a number stays one: NumPy's dtypes depend on that
            for name, number in call.constants.items()
        }
        new.arguments |= {name: values[number] for name, number in call.parents.items()}
    names = {n: name for n, name in recording.names.items() if n in values or n in constants}
    axes = {n: of for n, of in recording.axes.items() if n in values}
    texts = recording.texts | dict(_texts_of_ids(recording, calls))
    made = Recording(calls, values, names, recording.file, constants, axes, texts)
    made.answers, made._nodes = recording.answers, recording._nodes
    if not any(_moves_by(call, changed) for call in calls.values()):
        made.resemble(recording)
    return made


def _moves_by(call: Call, changed: Changes) -> bool:
    """Return whether a call moves elements to places that a changed array says."""
    moves = call.op.stated is not None and call.op.stated.moves
    return bool(moves) and not changed.keys().isdisjoint(call.constants.values())


def _texts_of_ids(
    recording: Recording, calls: dict[int, Call]
) -> Iterator[tuple[tuple[str, ...], list]]:
    """Yield the texts of positions again, of ids that may have changed."""
    tokens = recording.texts.get(("token",), [])
    for number, axes in recording.axes.items():
        if number in calls and calls[number].op.name == "embedding":
            names = tuple(coordinate.name for axis in axes for coordinate in axis)
            if names in recording.texts:
                ids = calls[number].arguments["input"].tolist()
                yield names, [[tokens[i] for i in row] for row in ids]


def count_kept(earlier: Sequence[Trace]) -> int:
    """Return how many of the earlier traces, the last ones, fit the memory for `undo`; at least 1.

    Traces share the arrays that a change has left as they were. Such an array counts once.
    """
    seen: set[tuple] = set()
    size = 0
    for n, trace in enumerate(reversed(earlier[-MOST_EARLIER:])):
        for x in _arrays_of(trace):
            if (memory := memory_of(x)) not in seen:
                seen.add(memory)
                size += x.nbytes
        if n and size > MOST_BYTES:
            return n
    return min(len(earlier), MOST_EARLIER)


def _arrays_of(trace: Trace) -> Iterator[ndarray]:
    yield from trace.recording.values.values()
    yield from trace.recording.constants.values()
    for step in trace.steps:
        yield from map(np.asarray, as_tuple(step.cotangent))
        yield from (np.asarray(edge.contribution) for edge in step.edges)


def compare(before: Trace, after: Trace, changed: Changes) -> Outcome:
    """Compare two passes of one program; `changed` has the values that are set in the second."""
    start, old, new = before.start, before.recording, after.recording
    change = float(np.vdot(before.cotangent, new.values[start] - old.values[start]))
    results = {n: (old.values[n], x) for n, x in new.values.items() if n in old.maker}
    answers = {n: (old.constants[n], x) for n, x in new.constants.items()
               if n not in changed and x is not old.constants[n]}  # fmt: skip
    values = [Change(old.name(n), *pair) for n, pair in sorted((results | answers).items())
              if n in old.names and n != start]  # fmt: skip
    gradients = [
        Change(old.name(n), g, h)
        for n in before.waiting()
        if (g := before.cotangent_of(n)) is not None and (h := after.cotangent_of(n)) is not None
    ]
    return Outcome(
        Change(old.name(start), old.values[start], new.values[start]),
        change,
        forecast(before, changed),
        [value for value in values if value.size],
        sorted(gradients, key=lambda gradient: -gradient.size),
        sorted(_predictions(before, after),
               key=lambda row: (row.before[0] == row.after[0], -abs(row.after[1] - row.before[1]))),
        list(dict.fromkeys(_not_computed(old, changed, new))),
    )  # fmt: skip


def _not_computed(recording: Recording, changed: Changes, new: Recording) -> Iterator[str]:
    """Yield what calls that depend on a changed value may have read of what stays as recorded.

    These are answers such as ``x.sum() > 0`` that have become others, and that no call has read:
    the program may have taken another branch, or made another array of them. And if an array off
    the tape was changed, they are conditions and integers without a name: the recording does not
    know whether the program computed them from this array.
    """
    leaves = {n: recording.values[n] for n in recording.leaves()}
    before = recording.values | recording.constants
    after = leaves | new.constants | changed | new.values
    again = {n for n, x in new.constants.items() if x is not recording.constants.get(n)}
    has_data = not changed.keys().isdisjoint(recording.constants)
    reached = {*changed, *again}
    for call in recording.calls.values():
        given = {*call.parents.values(), *call.constants.values()}
        if reached.isdisjoint(given):
            continue
        reached.update(call.results)
        for name, x in call.arguments.items() if has_data else ():
            number = call.constants.get(name)
            is_known = name in call.parents or number in reached or number in recording.names
            if not is_known and any(map(_is_condition, x if isinstance(x, tuple) else (x,))):
                yield f"${name} of {call.op.name}  {call.at}"
    for answer in recording.answers:
        if not (
            answer.constant in again
            or reached.isdisjoint(answer.numbers)
            or answer.is_same(before, after)
        ):
            yield answer.place
    for call in recording.calls.values():
        indices = [n for n in call.constants.values() if n in again or n in changed]
        if call.op.name == "getitem" and any(
            _count_chosen(before[n]) != _count_chosen(after[n]) for n in indices
        ):
            yield f"what the program made of the shape of {recording.name(call.number)}"
    for number in new.values:
        node = recording.node(number)
        if node is None or number in changed:
            continue
        if number not in recording.maker and not reached.isdisjoint(_numbers_behind(node)):
            yield f"{recording.name(number)}, a result from outside of the recording"
        if node.hooks:
            yield f"what the hook of {recording.name(number)} makes of the gradient"


def _count_chosen(index: ndarray) -> int:
    return int(np.count_nonzero(index)) if index.dtype == bool else index.size


def _numbers_behind(node: Node) -> set[int]:
    """Return the numbers of the nodes that a result was computed from, as far as its tape goes."""
    found: set[int] = set()
    waiting = [node]
    while waiting:
        here = waiting.pop()
        parents = [p for _, _, of in here.steps or () for p in of if p is not None]
        parents += here.selects[:1] if here.selects else ()
        waiting += [p for p in parents if p.number not in found]
        found.update(p.number for p in parents)
    return found


def _is_condition(x: Any) -> bool:
    return isinstance(x, ndarray | np.generic) and x.dtype.kind in "bi"


@np.errstate(all="ignore")
def forecast(trace: Trace, changed: Changes) -> float | None:
    """Return g · Δ for other values, or None if one of these is no floating-point array.

    The gradient with respect to an array off the tape, such as an input, is computed here: the
    recorded calls run again, with this array as a leaf.
    """
    recording, total = trace.recording, 0.0
    constants = [n for n in changed if n in recording.constants]
    gradients: dict[int, Any] = {n: trace.cotangent_of(n) for n in changed}
    if constants:
        if not all(_is_differentiable(recording, n) for n in constants):
            return None
        tape = recording.replay(trace.start, leaves=constants)
        read = [n for n in constants if n in tape]
        with unseen():
            found = grad(tape[trace.start], [tape[n] for n in read], trace.cotangent)
        gradients |= dict(zip(read, map(np.asarray, found), strict=True))
    for number, value in changed.items():
        if gradients[number] is not None:
            old = recording.values.get(number, recording.constants.get(number))
            total += float(np.vdot(gradients[number], value - old))
    return total


def _is_differentiable(recording: Recording, number: int) -> bool:
    """Return whether a constant is a floating-point array, and every op has a rule for it."""
    return recording.constants[number].dtype.kind == "f" and all(
        name in call.differentiable
        for call in recording.calls.values()
        for name, constant in call.constants.items()
        if constant == number
    )


def descend(trace: Trace, rate: float) -> Changes:
    """Return the leaves after a step of gradient descent: each minus the rate times its gradient.

    Parameters
    ----------
    trace : Trace
    rate : float
        The learning rate.
    """
    leaves = [n for n in trace.waiting() if n not in trace.recording.maker]
    return {
        n: trace.recording.values[n] - np.asarray(rate * g, trace.recording.values[n].dtype)
        for n in leaves
        if (g := trace.cotangent_of(n)) is not None
    }


def _predictions(before: Trace, after: Trace) -> Iterator[Prediction]:
    """Yield the rows whose prediction changed, if the program has one cross-entropy of classes."""
    calls = after.recording.calls
    losses = [n for n, call in calls.items() if call.op.name == "cross_entropy"]
    if len(losses) != 1:
        return
    number = losses[0]
    targets = calls[number].arguments["target"]
    numbers = calls[number].parents | calls[number].constants
    labels = Labels(after.recording.axes_of(numbers["input"]), after.recording.texts)
    # (..., C), also if the program's classes are on axis 1
    classes = [trace.recording.calls[number].arguments["input"] for trace in (before, after)]
    is_other = classes[0].shape != classes[1].shape  # a mask has chosen other rows
    if is_other or targets.dtype.kind not in "iu" or classes[0].ndim != targets.ndim + 1:
        return
    for row in np.ndindex(targets.shape):
        target = int(targets[row])
        old, new = (x[row] for x in classes)
        if 0 <= target < len(old) and not np.array_equal(old, new):  # not an ignored one
            yield Prediction(
                row,
                target,
                (int(np.argmax(old)), float(_softmax(old)[target])),
                (int(np.argmax(new)), float(_softmax(new)[target])),
                labels,
            )


def _softmax(logits: ndarray) -> ndarray:
    p = np.exp(logits - np.max(logits))
    return p / p.sum()


# ---- as text


def outcome_lines(outcome: Outcome, width: int) -> Iterator[str]:
    """Yield the lines that show an outcome: the loss, the forecast, and what changed with it."""
    rows = outcome_rows(outcome)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    narrow = sum(widths) + 8 > width
    for row in rows:
        cells = row if narrow else [x.ljust(w) for x, w in zip(row, widths, strict=True)]
        yield "  {}  {} → {}".format(*cells).rstrip()
    yield from (f"  {line}" for line in outcome_notes(outcome))


def outcome_rows(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Return what changed: each time the name, and the value before and after, as texts."""
    name, before, after = outcome.loss
    rows = [(name, _number(before), _number(after))]
    rows += [_row("", change) for change in outcome.values[-MOST_ROWS:]]
    return rows + [_row("d", change) for change in outcome.gradients[:MOST_ROWS]]


def outcome_notes(outcome: Outcome) -> Iterator[str]:
    """Yield the lines that compare the true change with the forecast, and the predictions."""
    yield f"true change {outcome.change:+.4g}; {_forecast_text(outcome)}"
    if outcome.not_computed:
        yield "not computed again, since it is off the tape:"
    yield from (f"  {place}" for place in outcome.not_computed[:MOST_ROWS])
    if (n := len(outcome.not_computed) - MOST_ROWS) > 0:
        yield f"  and {n} more"
    if outcome.predictions:
        yield "predictions: the most probable class, and the probability of the target"
    for place, target, (old, p), (new, q), labels in outcome.predictions[:MOST_ROWS]:
        number = f"row {', '.join(map(str, place))}" if place else "the row"
        row = labels.of_element(place) or number
        names = [labels.label(len(place), i) or f"class {i}" for i in (old, new, target)]
        what = names[0] if old == new else f"{names[0]} → {names[1]}"
        yield f"  {row}: {what}, p({names[2]}) {p:.4f} → {q:.4f}"
    if (n := len(outcome.predictions) - MOST_ROWS) > 0:
        yield f"  and {n} rows that changed less"


def _forecast_text(outcome: Outcome) -> str:
    if outcome.forecast is None:
        return "no linear forecast, since a value without a gradient was changed"
    text = f"linear forecast g · Δ = {outcome.forecast:+.4g}"
    if outcome.change and np.isfinite(outcome.forecast):
        text += f", {outcome.forecast / outcome.change:.3g} times the true change"
    return text


def _row(prefix: str, change: Change) -> tuple[str, str, str]:
    name = f"{prefix}({change.name})" if prefix else change.name
    before, after, size = _number(change.before), _number(change.after), change.size
    if before == after:  # in four digits
        after = f"{after}, other by {size:.1g} of it" if size else "the same"
    return name, before, after


def _number(x: ndarray) -> str:
    """Return a small array with its elements, and the norm of a large one."""
    x = np.asarray(x)
    if x.size > FEW or x.ndim > 1:
        return f"norm {norm(x):.4g}"
    text = " ".join(f"{float(v):.4g}" for v in x.reshape(-1))
    return f"[ {text} ]" if x.ndim else text

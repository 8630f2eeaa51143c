"""Traces on disk: ``trace.json``, and in ``trace.safetensors`` the arrays that it refers to.

In the JSON file, an array is written as ``{"array": "12"}``: the array named 12 in the other file.
Values that JSON does not have, such as slices and dtypes, are objects with one key, too:
``{"slice": [null, 3, null]}``.
"""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy import ndarray

from autograd.dispatch import import_rarely_used
from autograd.escape import brief, shown
from autograd.files import read_together, together, write_json, write_tensors
from autograd.modes import no_grad
from autograd.op import REGISTRY, Op
from autograd.reading import fit_file, read_json, read_tensors
from autograd.schema import Count, FileName, UserError, fit
from autograd.stepper.axes import Coordinate
from autograd.stepper.literals import memory_order
from autograd.stepper.off_tape import Answer, Number
from autograd.stepper.record import Call, Recording
from autograd.stepper.source import Part, Statement, printable
from autograd.stepper.steps import Edge, Step, as_tuple


class Stored(NamedTuple):
    """What is stored of a trace: the attributes of `autograd.stepper.Trace`."""

    recording: Recording
    start: int
    cotangent: ndarray
    steps: list[Step]


def save(trace: Stored, folder: str | Path) -> None:
    """Write a trace to a folder. The folder is created if it does not exist.

    Raises
    ------
    TypeError
        If an argument of a call is neither an array nor a constant of Python or NumPy.
    """
    folder = Path(folder)
    arrays = _Arrays()
    recording = trace.recording
    calls = [
        {
            "number": call.number,
            "op": call.op.name,
            "arguments": {name: arrays.encode(x) for name, x in call.arguments.items()},
            "parents": call.parents,
            "results": list(call.results),
            "line": call.line,
            "scope": call.scope,
            "constants": call.constants,
            "statement": call.statement.text,
            "part": call.statement.part and list(call.statement.part),
        }
        for call in recording.calls.values()
    ]
    steps = [
        {
            "number": step.number,
            "cotangent": arrays.encode(step.cotangent),
            "edges": [
                [edge.input, edge.parent, arrays.encode(edge.contribution)] for edge in step.edges
            ],
        }
        for step in trace.steps
    ]
    contents = {
        "version": 1,
        "start": trace.start,
        "cotangent": arrays.encode(trace.cotangent),
        "calls": calls,
        "values": [[number, arrays.encode(x)] for number, x in recording.values.items()],
        "names": list(recording.names.items()),
        "constants": [[number, arrays.encode(x)] for number, x in recording.constants.items()],
        "axes": [
            [number, [[[c.name, c.at.tolist()] for c in axis] for axis in axes]]
            for number, axes in recording.axes.items()
        ],
        "answers": [[a.place, a.numbers, a.constant] for a in recording.answers],
        "texts": [[list(names), texts] for names, texts in recording.texts.items()],
        "steps": steps,
    }
    with together(folder):
        write_tensors(folder / "trace.safetensors", arrays.kept)
        write_json(folder / "trace.json", contents, indent=1)


class _CallEntry(TypedDict):
    """An entry of ``calls`` in the file."""

    number: Count
    op: str
    arguments: dict[str, Any]
    parents: dict[str, Count]
    results: list[Count]
    line: FileName
    scope: str
    constants: NotRequired[dict[str, Count]]  # traces of earlier versions lack this, and the rest
    statement: NotRequired[str]
    part: NotRequired[tuple[Count, Count, Count, Count] | None]


class _StepEntry(TypedDict):
    """An entry of ``steps`` in the file.

    An edge is a list of the input's name, the number of the parent, and the contribution.
    """

    number: Count
    cotangent: Any
    edges: list[tuple[str, Count, Any]]


class _TraceFile(TypedDict):
    """The contents of ``trace.json``."""

    start: Count
    cotangent: Any
    calls: list[_CallEntry]
    values: list[tuple[Count, Any]]
    names: list[tuple[Count, str]]
    constants: NotRequired[list[tuple[Count, Any]]]
    axes: NotRequired[list[tuple[Count, list[list[tuple[str, list[Count]]]]]]]
    texts: NotRequired[list[tuple[list[str], list[Any]]]]
    answers: NotRequired[list[tuple[str, list[Count], int]]]  # without what computed them
    steps: list[_StepEntry]


LONGEST = 100_000  # characters of a text in the file; a page repeats names many times


def load(folder: str | Path) -> Stored:
    """Read a trace from a folder.

    The file names ops, and `load` looks them up in the registry of this process. A file may have
    been changed by hand, so `load` checks what the stepper relies on: calls stand in the order of
    execution, the parents of a call were made before the call, and a cotangent has the shape of its
    value. Each call runs once, with its stored arguments.

    Raises
    ------
    FileNotFoundError
        If the folder has no ``trace.json``.
    ValueError
        If the files hold no trace, or if an op of the trace is not registered.
    """
    folder = Path(folder)
    path = folder / "trace.json"
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def read() -> tuple[Any, dict[str, ndarray]]:
        contents = read_json(path)
        if contents.get("version") != 1:
            version = brief(contents.get("version"))
            raise UserError(f"it has version {version}, and this program reads version 1")
        return contents, read_tensors(folder / "trace.safetensors")[0]

    try:
        contents, tensors = read_together(folder, _is_of_trace, read)
        found = fit_file(contents, _TraceFile, path)
        _demand_short(found)
        trace = _decode(found, _Arrays(tensors))
        _check(trace)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{folder} holds no trace that can be read: {error!s:.400}") from error
    return trace


def _decode(contents: _TraceFile, arrays: _Arrays) -> Stored:
    calls = {}
    for call in contents["calls"]:
        number, part = call["number"], call.get("part")
        if number in calls:
            raise ValueError(f"call {number} occurs twice")
        statement = Statement(call.get("statement", ""), part and Part(*part))
        line, statement = printable(call["line"], statement)
        calls[number] = Call(
            number,
            _op(call["op"]),
            {name: arrays.decode(x) for name, x in call["arguments"].items()},
            call["parents"],
            tuple(call["results"]),
            line,
            shown(call["scope"]),
            call.get("constants", {}),
            statement,
        )
    values = {number: arrays.decode(x) for number, x in contents["values"]}
    names = dict(contents["names"])
    constants = {number: arrays.decode(x) for number, x in contents.get("constants", [])}
    if len(values) < len(contents["values"]) or len(names) < len(contents["names"]):
        raise ValueError("a value or a name occurs twice")
    if values.keys() & constants.keys():
        raise ValueError("a number is that of a value and of a constant")
    steps = [
        Step(
            step["number"],
            arrays.decode(step["cotangent"]),
            [Edge(name, parent, arrays.decode(x)) for name, parent, x in step["edges"]],
        )
        for step in contents["steps"]
    ]
    cotangent = arrays.decode(contents["cotangent"])
    axes = {
        number: tuple(
            tuple(Coordinate(shown(name), np.array(at, int)) for name, at in axis) for axis in of
        )
        for number, of in contents.get("axes", [])
    }
    texts = {tuple(of): _texts(entry, len(of)) for of, entry in contents.get("texts", [])}
    answers = [
        Answer(None, tuple(map(Number, numbers)), {}, shown(place), constant=constant)
        for place, numbers, constant in contents.get("answers", [])
    ]
    recording = Recording(
        calls, values, names, constants=constants, axes=axes, texts=texts, answers=answers
    )
    return Stored(recording, contents["start"], cotangent, steps)


def _demand_short(contents: Any) -> None:
    """Refuse a text of many megabytes in nested dicts and lists."""
    if isinstance(contents, str) and len(contents) > LONGEST:
        raise ValueError(
            f"the text {brief(contents)} has {len(contents):,} characters; expected {LONGEST:,} "
            "at most"
        )
    if isinstance(contents, dict):
        _demand_short(list(contents))
        contents = list(contents.values())
    if isinstance(contents, list | tuple):
        for part in contents:
            _demand_short(part)


def _check(trace: Stored) -> None:
    """Refuse a trace whose parts contradict each other."""
    recording = trace.recording
    values, calls = recording.values, recording.calls
    for number, x in values.items():
        _demand_array(x, f"value {number}")
    for number, x in recording.constants.items():
        _demand_array(x, f"constant {number}")
    for number, axes in recording.axes.items():
        shape = np.shape(values[number]) if number in values else ()
        sizes = [{len(coordinate.at) for coordinate in axis} for axis in axes]
        known = number in values and len(axes) == len(shape)
        if not known or any(of - {n} for of, n in zip(sizes, shape, strict=True)):
            raise ValueError(f"the axes of value {number} are not those of its shape {shape}")
    made: set[int] = set()
    last = -1
    for call in calls.values():
        what = f"call {call.number} ({call.op.name})"
        if call.number <= last:
            raise ValueError(f"{what} comes after call {last}; calls must be in order of execution")
        last = call.number
        _check_arguments(call, what)
        if not call.results or not made.isdisjoint(call.results):
            raise ValueError(f"{what} has no results, or a result of an earlier call")
        if missing := [number for number in call.results if number not in values]:
            raise ValueError(f"{what} has the result {missing[0]}, which has no value")
        for name, parent in call.parents.items():
            if name not in call.arguments:
                raise ValueError(
                    f"{what} has a parent for the argument {brief(name)}, which it does not have"
                )
            if parent not in values:
                raise ValueError(f"{what} has the parent {parent}, which has no value")
            if values[parent].dtype.kind != "f":
                raise ValueError(f"{what} has the parent {parent}, which holds no real numbers")
            maker = recording.maker.get(parent)
            if maker is not None and maker.number >= call.number:
                raise ValueError(f"{what} has the parent {parent}, which is made after the call")
            _demand_like(call.arguments[name], values[parent], f"{what}: the argument {name}")
        for name, constant in call.constants.items():
            if name not in call.arguments or constant not in recording.constants:
                raise ValueError(f"{what} has a constant for {brief(name)} that does not exist")
        made.update(call.results)
        _check_run(call, recording, what)
    if len(set(recording.names.values())) < len(recording.names):
        raise ValueError("two values have the same name")
    if trace.start not in values:
        raise ValueError(f"it starts at {trace.start}, which has no value")
    if trace.start not in made:
        raise ValueError(f"it starts at {trace.start}, which no call has made")
    _demand_like(trace.cotangent, values[trace.start], "the first cotangent")
    _check_steps(trace)


def _texts(entry: Any, depth: int) -> list:
    """Return nested lists of texts, without control characters."""
    if depth == 1:
        return [shown(text) for text in fit(entry, list[str], "texts")]
    return [_texts(part, depth - 1) for part in fit(entry, list[Any], "texts")]


def _check_arguments(call: Call, what: str) -> None:
    """Refuse a call whose arguments are not those of its op; see `Op.named`."""
    op = call.op
    if op.variadic:
        several = [name for name in call.arguments if name not in op.names[1:]]
        expected = [f"x{i}" for i in range(len(several))] + list(op.names[1:])
    else:
        expected = list(op.names)
    if list(call.arguments) != expected:
        given = ", ".join(map(brief, call.arguments))
        raise ValueError(f"{what} has the arguments {given}, and the op {', '.join(expected)}")


def _check_run(call: Call, recording: Recording, what: str) -> None:
    """Refuse a call that does not run, or has results of other shapes.

    The op runs as it did when the trace was recorded, so it may raise anything: it may have got a
    text for a number, or indices that its array does not have.
    """
    try:
        with no_grad(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            out = call.run(call.op, call.arguments)
            if call.op.stated:  # its formula may depend on the arguments
                call.op.stated.text(call.arguments)
    except Exception as error:
        raise ValueError(f"{what} does not run: {shown(str(error))}") from error
    given = [recording.values[number].shape for number in call.results]
    if (found := [np.shape(x) for x in (out if call.op.multiple else (out,))]) != given:
        raise ValueError(f"{what} has results of the shapes {found}; they are stored as {given}")


def _check_steps(trace: Stored) -> None:
    recording = trace.recording
    seen: set[int] = set()
    for step in trace.steps:
        call = recording.calls.get(step.number)
        if call is None or step.number in seen:
            raise ValueError(
                f"step {step.number} belongs to no call, or to one with a step already"
            )
        seen.add(step.number)
        cotangents = as_tuple(step.cotangent)
        if len(cotangents) != len(call.results):
            raise ValueError(
                f"step {step.number} has {len(cotangents)} cotangents, and its call has "
                f"{len(call.results)} results"
            )
        for number, cotangent in zip(call.results, cotangents, strict=True):
            _demand_like(cotangent, recording.values[number], f"step {step.number}: the cotangent")
        if len({edge.input for edge in step.edges}) < len(step.edges):
            raise ValueError(f"step {step.number} sends by one input several times")
        for edge in step.edges:
            if call.parents.get(edge.input) != edge.parent:
                raise ValueError(
                    f"step {step.number} sends to {edge.parent} by the input {brief(edge.input)}, "
                    "which is not the parent of that input"
                )
            what = f"step {step.number}: what it sends to {edge.input}"
            _demand_like(edge.contribution, recording.values[edge.parent], what)


def _demand_array(x: Any, what: str) -> None:
    if not isinstance(x, ndarray | np.generic):  # a sum over all axes is a number
        raise ValueError(f"{what} is {brief(x)}; expected an array")


def _demand_like(x: Any, value: ndarray, what: str) -> None:
    _demand_array(x, what)
    if x.shape != value.shape:
        raise ValueError(f"{what} has shape {x.shape}; expected {value.shape}")


def _is_of_trace(name: str) -> bool:
    return name in ("trace.json", "trace.safetensors")


def _op(name: str) -> Op:
    if name not in REGISTRY:
        import_rarely_used()
    if name not in REGISTRY:
        raise ValueError(
            f"the op {brief(name)} is not registered; import the module that defines the op"
        )
    return REGISTRY[name]


class _Arrays:
    """Turns values into JSON and back. Arrays are kept beside the JSON, each one once."""

    def __init__(self, kept: dict[str, ndarray] | None = None) -> None:
        self.kept = kept or {}
        # The names of arrays by their ids. No id is used again, because the trace keeps the arrays.
        self._keys: dict[int, str] = {}

    def encode(self, x: Any) -> Any:
        if x is None or isinstance(x, bool | int | str):
            return x
        if isinstance(x, ndarray):
            if id(x) not in self._keys:
                self._keys[id(x)] = key = str(len(self.kept))
                whole = x.transpose(memory_order(x))
                self.kept[key] = np.ascontiguousarray(whole).reshape(whole.shape)
            # The order of the axes in memory is kept, because it may decide how a sum is rounded.
            key, axes = self._keys[id(x)], memory_order(x)
            return {"array": key} if axes == sorted(axes) else {"transposed": [key, axes]}
        if isinstance(x, np.generic):
            return {"scalar": self.encode(np.asarray(x))}
        if isinstance(x, float):
            return {"float": x.hex()}
        if isinstance(x, slice):
            return {"slice": [self.encode(part) for part in (x.start, x.stop, x.step)]}
        if isinstance(x, tuple | list):
            return {type(x).__name__: [self.encode(item) for item in x]}
        if x is Ellipsis:
            return {"ellipsis": None}
        if isinstance(x, np.dtype) or isinstance(x, type) and issubclass(x, np.generic):
            return {"dtype": np.dtype(x).str}
        raise TypeError(f"a trace with an argument of type {type(x).__name__} cannot be saved")

    def decode(self, x: Any) -> Any:
        if x is None or isinstance(x, bool | int | str):
            return x
        if not isinstance(x, dict):
            raise ValueError(f"{brief(x)} is no value")
        if len(x) != 1:
            raise ValueError(f"{brief(x)} is no value")
        ((kind, value),) = x.items()
        if kind == "array":
            return self._array(value)
        if kind == "transposed":
            key, axes = fit(value, tuple[str, list[Count]], "transposed")
            return self._array(key).transpose(np.argsort(axes))
        if kind == "float":
            return float.fromhex(fit(value, str, "float"))
        if kind == "scalar":
            return self._array(fit(value, _ArrayName, "scalar")["array"])[()]
        if kind == "slice":
            return slice(*map(self.decode, fit(value, tuple[Any, Any, Any], "slice")))
        if kind in ("tuple", "list"):
            items = map(self.decode, fit(value, list[Any], kind))
            return tuple(items) if kind == "tuple" else list(items)
        if kind == "ellipsis":
            return Ellipsis
        if kind == "dtype":
            return _dtype(value)
        raise ValueError(f"a value has the unknown kind {brief(kind)}")

    def _array(self, key: Any) -> ndarray:
        if fit(key, str, "array") not in self.kept:
            raise ValueError(f"the array {brief(key)} is missing in trace.safetensors")
        return self.kept[key]


class _ArrayName(TypedDict):
    array: str


def _dtype(name: Any) -> np.dtype:
    dtype = np.dtype(fit(name, str, "dtype")[:8])
    if dtype.kind not in "biufc":
        raise ValueError(f"{brief(name)} is no type of numbers")
    return dtype

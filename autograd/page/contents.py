"""The contents of a page: values, calls, steps, source lines and graphs, as data for JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.escape import brief, shown, shown_text
from autograd.formula import FormulaError
from autograd.page.arrays import Arrays
from autograd.page.graph import draw_graph
from autograd.page.terms import write_terms
from autograd.stepper.axes import PART, PARTS, Axis, Coordinate, find_owners
from autograd.stepper.measure import is_same
from autograd.stepper.record import Call
from autograd.stepper.source import source_lines
from autograd.stepper.steps import Step, as_tuple
from autograd.stepper.trace import Trace

MAPS = ("p", "dp")  # of the formula of attention: the weights, and their gradients


def collect(
    trace: Trace, arrays: Arrays | None = None, before: Trace | None = None, title: str = ""
) -> dict[str, Any]:
    """Return everything that the page of a trace shows.

    Parameters
    ----------
    trace : Trace
    arrays : Arrays, optional
        Gets the arrays that the page shows.
    before : Trace, optional
        The pass before a change: the page also shows the values and cotangents that have changed.
    title : str
        What has computed the pass, such as the name of a model.
    """
    arrays = arrays or Arrays()
    recording = trace.recording
    calls = recording.behind(trace.start)
    steps = {step.number: i for i, step in enumerate(trace.steps)}
    lines = _Lines()
    entries: list[dict[str, Any]] = []
    for call in calls:
        place = steps.get(call.number)
        step = None if place is None else trace.steps[place]
        terms = _terms(trace, call, step, arrays)
        if call.op.name == "attention":  # the page shows a picture of each head
            for ref in terms.get("refs", ()):
                if ref["name"] in MAPS:
                    arrays.keep_whole(ref["array"])
        file, line = lines.find(call)
        named = {name: n for name, n in call.constants.items() if n in recording.names}
        inputs = call.parents | named
        entries.append(
            {
                "op": call.op.name,
                "scope": call.scope,
                "file": file,
                "line": line,
                "at": call.at,
                "inputs": inputs,
                "constants": {
                    name: arrays.add(x) if isinstance(x, ndarray) and x.ndim else shown(brief(x))
                    for name, x in call.arguments.items()
                    if name not in inputs
                },
                "off_tape": call.constants,
                "results": list(call.results),
                "step": -1 if place is None else place,
                "formula": call.op.stated.text(call.arguments).splitlines()
                if call.op.stated
                else [],
                **terms,
                **_axes_inside(trace, call, [ref["name"] for ref in terms.get("refs", ())]),
            }
        )
    arrays_of = recording.constants | recording.values
    numbers = {n for entry in entries for n in (*entry["results"], *entry["inputs"].values())}
    replaced = _replaced_cotangents(trace)
    values: dict[int, dict[str, Any]] = {}
    for n in sorted(numbers | {trace.start}):
        cotangent = replaced.get(n, trace.cotangent_of(n))
        values[n] = {
            "name": recording.name(n),
            "array": arrays.add(arrays_of[n]),
            "cotangent": -1 if cotangent is None else arrays.add(cotangent),
            "axes": _axes(recording.axes_of(n)),
            "replaced": n in replaced,
        }
    places = {call.number: i for i, call in enumerate(calls)}
    steps_of_page = [
        {
            "call": places[step.number],
            "edges": [
                [edge.input, edge.parent, arrays.add(edge.contribution)] for edge in step.edges
            ],
        }
        for step in trace.steps
    ]
    if before:
        _add_earlier(values, trace, before, arrays)
    return {
        "start": trace.start,
        "values": values,
        "calls": entries,
        "steps": steps_of_page,
        "files": lines.files,
        "graph": draw_graph(trace),
        "arrays": arrays.entries(),
        **_beside(trace, title),
        "texts": [[list(names), texts] for names, texts in recording.texts.items()]
        + [[[PART], list(PARTS)]],
        "asked": [
            [element.number, list(element.place), shown(element.label)]
            for element in (trace.insight.elements(trace) if trace.insight else ())
        ],
    }


def collect_inside(trace: Trace, title: str) -> dict[str, Any]:
    """Return the part of a trace that a page shows beside another one: attention, and tables.

    The parts have the names that they have in `collect`.
    """
    found, arrays, calls = Arrays(), Arrays(), []
    steps = {step.number: step for step in trace.steps}
    for call in trace.recording.behind(trace.start):
        if call.op.name == "attention":
            refs = _terms(trace, call, steps.get(call.number), found).get("refs", [])
            kept = [
                ref | {"array": arrays.add(found.kept[ref["array"]])}
                for ref in refs
                if ref["name"] in MAPS
            ]
            calls.append({"op": call.op.name, "inputs": {}, "constants": {}, "refs": kept})
    return {"calls": calls, "arrays": arrays.entries(), "asked": [], **_beside(trace, title)}


def _beside(trace: Trace, title: str) -> dict[str, Any]:
    """Return what the page says of a pass as a whole."""
    views = trace.insight.views(trace) if trace.insight else []
    return {
        "title": shown(title),
        "name": trace.recording.name(trace.start),
        "value": brief(trace.recording.values[trace.start].tolist()),
        "views": [view.entry() for view in views],
        "texts": [  # those that were read, without the whole vocabulary
            [list(names), texts] for names, texts in trace.recording.texts.items() if len(names) > 1
        ],
    }


def _axes(axes: tuple[Axis, ...]) -> list[list[list[Any]]]:
    return [[*map(_coordinate, axis)] for axis in axes]


def _axes_inside(trace: Trace, call: Call, names: list[str]) -> dict[str, Any]:
    """Return the axes of names that the formula of a call alone has, and of their cotangents.

    With them comes the argument that each index of the formula belongs to.
    """
    found = {}
    for name in names:
        for known in (name, name.removeprefix("d")):
            axes = trace.recording.axes_of(call.number, known)
            if any(axes):
                found[name] = _axes(axes)
    return {"axes": found, "owners": find_owners(call)} if found else {}


def _coordinate(coordinate: Coordinate) -> list[Any]:
    """Return what an axis counts, and the place of each index; only their number if place = index.

    A text in ``texts`` is found by the places of its names: that of position 3 of example 0 is
    entry 0, 3 under the names ``["example", "position"]``. An axis may have several coordinates.
    """
    name, at = coordinate
    n = len(at)
    return [name, n if np.array_equal(at, np.arange(n)) else at.tolist()]


def _replaced_cotangents(trace: Trace) -> dict[int, ndarray]:
    """Return the cotangents that a hook or the user replaced, so that no sum gives them."""
    found = {}
    for step in trace.steps:
        for n, cotangent in zip(trace.call(step).results, as_tuple(step.cotangent), strict=True):
            total = trace.cotangent_of(n)
            if total is not None and not is_same(total, cotangent):
                found[n] = cotangent
    return found


def _add_earlier(
    values: dict[int, dict[str, Any]], trace: Trace, before: Trace, arrays: Arrays
) -> None:
    """Add to the values of a page the arrays before a change, where these were different."""
    replaced = _replaced_cotangents(before)
    old_arrays = before.recording.constants | before.recording.values
    for n, entry in values.items():
        pairs = {
            "array": (old_arrays.get(n), arrays.kept[entry["array"]]),
            "cotangent": (
                replaced.get(n, before.cotangent_of(n)),
                arrays.kept[entry["cotangent"]] if entry["cotangent"] >= 0 else None,
            ),
        }
        for kind, (old, new) in pairs.items():
            if old is not None and new is not None and not is_same(old, new):
                entry[f"earlier_{kind}"] = arrays.add(old)


def _terms(trace: Trace, call: Call, step: Step | None, arrays: Arrays) -> dict[str, Any]:
    """Return the equations of a call, or nothing if its op states none."""
    if call.op.stated is None:
        return {}
    values = tuple(trace.recording.values[n] for n in call.results)
    out = values if len(values) > 1 else values[0]
    sent = {edge.input: edge.contribution for edge in step.edges} if step else {}
    cotangent = step.cotangent if step else None
    try:
        return write_terms(call.op.stated, call.arguments, out, cotangent, sent, arrays)
    except FormulaError:  # a formula that does not hold for these arguments
        return {}


class _Lines:
    """The source files of calls."""

    def __init__(self) -> None:
        self.files: list[dict[str, Any]] = []
        self._known: dict[str, int] = {}

    def find(self, call: Call) -> tuple[int, int]:
        """Return the number of the file, and the line, counted from 1; -1 if there is no source."""
        path, line, _ = call.place
        if not (lines := source_lines(call.place)):
            return -1, 0
        if path not in self._known:
            self._known[path] = len(self.files)
            text = [shown_text(line.rstrip("\r\n")) for line in lines]
            self.files.append({"name": shown(Path(path).name), "lines": text})
        return self._known[path], int(line)

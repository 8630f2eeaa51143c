"""Traces on disk: ``trace.json``, and the arrays that it names in ``trace.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.files import read_together, together, write_json, write_tensors
from autograd.op import REGISTRY, Op
from autograd.stepper.literals import memory_order
from autograd.stepper.record import Call, Recording
from autograd.stepper.trace import Edge, Step, Trace


def save(trace: Trace, folder: str | Path) -> None:
    """Write a trace to a folder, which is made if need be: see `load`.

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
        "steps": steps,
    }
    with together(folder):
        write_tensors(folder / "trace.safetensors", arrays.kept)
        write_json(folder / "trace.json", contents, indent=1)


def load(folder: str | Path) -> Trace:
    """Read a trace from a folder.

    Ops are looked up by name among those registered here.

    Raises
    ------
    FileNotFoundError
    ValueError
        If it is no trace, or has a call of an op that is not registered.
    """
    from safetensors.numpy import load_file

    folder = Path(folder)

    def opened() -> tuple[Any, dict[str, ndarray]]:
        text = (folder / "trace.json").read_text(encoding="utf-8")
        return json.loads(text), load_file(folder / "trace.safetensors")

    try:
        contents, tensors = read_together(folder, _is_of_trace, opened)
        if contents["version"] != 1:
            raise ValueError(f"it has version {contents['version']}, and this reads version 1")
        arrays = _Arrays(tensors)
        calls = {
            call["number"]: Call(
                call["number"],
                _op(call["op"]),
                {name: arrays.decode(x) for name, x in call["arguments"].items()},
                call["parents"],
                tuple(call["results"]),
                call["line"],
                call["scope"],
            )
            for call in contents["calls"]
        }
        values = {number: arrays.decode(x) for number, x in contents["values"]}
        recording = Recording(calls, values, dict(contents["names"]))
        steps = [
            Step(
                step["number"],
                arrays.decode(step["cotangent"]),
                [Edge(name, parent, arrays.decode(x)) for name, parent, x in step["edges"]],
            )
            for step in contents["steps"]
        ]
        return Trace(recording, contents["start"], arrays.decode(contents["cotangent"]), steps)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no trace that can be read: {error}") from error


def _is_of_trace(name: str) -> bool:
    return name in ("trace.json", "trace.safetensors")


def _op(name: str) -> Op:
    if name not in REGISTRY:
        raise ValueError(f"the op {name!r} is not registered; import the module that defines it")
    return REGISTRY[name]


class _Arrays:
    """Values as JSON; arrays go beside it, each once."""

    def __init__(self, kept: dict[str, ndarray] | None = None) -> None:
        self.kept = kept or {}
        self._keys: dict[int, str] = {}  # by the array's id: the trace keeps it alive

    def encode(self, x: Any) -> Any:
        if x is None or isinstance(x, bool | int | str):
            return x
        if isinstance(x, ndarray):
            if id(x) not in self._keys:
                self._keys[id(x)] = key = str(len(self.kept))
                whole = x.transpose(memory_order(x))
                self.kept[key] = np.ascontiguousarray(whole).reshape(whole.shape)
            key, axes = self._keys[id(x)], memory_order(x)  # the order may decide how sums round
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
        if not isinstance(x, dict):
            return x
        ((kind, value),) = x.items()
        if kind == "array":
            return self.kept[value]
        if kind == "transposed":
            key, axes = value
            return self.kept[key].transpose(np.argsort(axes))
        if kind == "float":
            return float.fromhex(value)
        if kind == "scalar":
            return self.decode(value)[()]
        if kind == "slice":
            return slice(*map(self.decode, value))
        if kind in ("tuple", "list"):
            items = map(self.decode, value)
            return tuple(items) if kind == "tuple" else list(items)
        if kind == "ellipsis":
            return Ellipsis
        if kind == "dtype":
            return np.dtype(value)
        raise ValueError(f"a value of unknown kind {kind!r}")

"""The trace of a backward pass: what an observer of the real one saw, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.engine import Node, differentiate
from autograd.modes import observing
from autograd.stepper.notebook import table
from autograd.stepper.record import Call, Recording, kind, recording_of
from autograd.stepper.steps import Edge, Step, as_tuple, plain
from autograd.tensor import Tensor, _cotangent


@dataclass(eq=False)
class Trace:
    """A backward pass, in order; an `Observer` that fills itself.

    Attributes
    ----------
    recording : Recording
    start : int
        The number of the node that the pass began at.
    cotangent : ndarray
        What it began with.
    steps : list of Step
        Of the calls in the recording; what lies behind it is left out.

    Examples
    --------
    >>> import autograd
    >>> from autograd.stepper import trace
    >>> with autograd.record():
    ...     x = autograd.tensor(3.0, requires_grad=True)
    ...     y = x * x
    >>> found = trace(y)
    >>> [(edge.input, edge.contribution.item()) for edge in found.steps[0].edges]
    [('x', 3.0), ('y', 3.0)]
    >>> found.cotangent_of(x._node.number).item()
    6.0
    """

    recording: Recording
    start: int
    cotangent: ndarray
    steps: list[Step] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Trace of {len(self.steps)} steps back from {self.recording.name(self.start)}>"

    def _repr_html_(self) -> str:
        """Show the steps in a notebook."""
        name = self.recording.name
        head = ["step", "op", "back from", "its cotangent", "norm", "sends to", "line"]
        return table(repr(self)[1:-1], head, [
            (
                i + 1,
                self.call(step).op.name,
                ", ".join(map(name, self.call(step).results)),
                ", ".join(map(kind, as_tuple(step.cotangent))),
                ", ".join(f"{np.linalg.norm(g):.4g}" for g in as_tuple(step.cotangent)),
                ", ".join(dict.fromkeys(name(edge.parent) for edge in step.edges)),
                self.call(step).at,
            )
            for i, step in enumerate(self.steps)
        ])  # fmt: skip

    # ---- observing

    def visit(self, node: Node, cotangent: Any) -> None:
        """Begin a step."""
        if node.number in self.recording.calls:
            self.steps.append(Step(node.number, plain(cotangent)))

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """Keep what the step sends."""
        if node.number in self.recording.calls:
            if node.op.variadic:  # type: ignore[union-attr]
                name = "x" + name.split("[")[1].rstrip("]")  # as in `Op.named`
            self.steps[-1].edges.append(Edge(name, parent.number, plain(contribution)))

    # ---- reading

    def call(self, step: Step) -> Call:
        """Return what a step goes back through."""
        return self.recording.calls[step.number]

    def edges_to(self, number: int) -> Iterator[tuple[int, Edge]]:
        """Yield what is sent to a value, each with the index of its step."""
        for i, step in enumerate(self.steps):
            for edge in step.edges:
                if edge.parent == number:
                    yield i, edge

    def cotangent_of(self, number: int, before: int | None = None) -> ndarray | None:
        """Return the sum of what was sent to a value, in all or before a step; None if nothing.

        The additions are those of the engine, in its order: the result is the same to the bit.
        """
        total = self.cotangent if number == self.start else None
        for i, edge in self.edges_to(number):
            if before is None or i < before:
                total = edge.contribution if total is None else total + edge.contribution
        return total

    def waiting(self, index: int | None = None) -> list[int]:
        """Return the numbers of what the steps before one have reached, and not gone back through.

        Those of all steps are the ends of the pass: leaves, or the results that were asked for.
        """
        steps = self.steps[:index]
        reached = {self.start, *(edge.parent for step in steps for edge in step.edges)}
        reached -= {number for step in steps for number in self.call(step).results}
        return [number for number in self.recording.values if number in reached]

    # ---- on disk

    def save(self, folder: str | Path) -> None:
        """Write ``trace.json`` and ``trace.safetensors`` to a folder."""
        from autograd.stepper.store import Stored, save

        save(Stored(self.recording, self.start, self.cotangent, self.steps), folder)

    @classmethod
    def load(cls, folder: str | Path) -> Trace:
        """Read what `save` wrote; ops are looked up by name among those registered."""
        from autograd.stepper.store import load

        return cls(*load(folder))

    # ---- what if

    def rerun(self, index: int, cotangent: ndarray) -> Trace:
        """Go on from a step with another cotangent: the rest of the pass runs again, for real.

        Parameters
        ----------
        index : int
        cotangent : ndarray, or tuple of ndarray
            In the place of the step's own.

        Returns
        -------
        Trace
            The earlier steps as they were, and new ones from there.
        """
        step = self.steps[index]
        tape = self.recording.replay(self.start)
        nodes: dict[int, Any] = {number: x._node for number, x in tape.items()}
        waiting: Any = {number: self.cotangent_of(number, index) for number in self.waiting(index)}
        for number, given in zip(self.call(step).results, as_tuple(cotangent), strict=True):
            waiting[number] = given
        new = Trace(self.recording, self.start, self.cotangent, self.steps[:index])
        started, ends = ([nodes[number] for number in of] for of in (waiting, self.waiting()))
        with observing(None), observing(new):  # no other observer: it is no pass of the program
            differentiate(started, list(waiting.values()), ends)
        return new


@contextmanager
def tracing(x: Tensor, gradient: Any = None) -> Iterator[Trace]:
    """Trace a backward pass that starts at a recorded tensor inside the block.

    Examples
    --------
    >>> import autograd
    >>> from autograd.stepper import tracing
    >>> with autograd.record():
    ...     x = autograd.tensor(3.0, requires_grad=True)
    ...     y = x * x
    >>> with tracing(y) as found:
    ...     y.backward()
    >>> found
    <Trace of 1 steps back from y>
    """
    recording = recording_of(x)
    node: Any = x._node
    found = Trace(recording, node.number, _cotangent(x, gradient, False))
    with observing(found):
        yield found


def trace(x: Tensor, gradient: Any = None) -> Trace:
    """Run the backward pass of a recorded tensor, and return what happened in it.

    No ``.grad`` changes, and the tape stays.

    Parameters
    ----------
    x : Tensor
        Made inside ``with autograd.record():``.
    gradient : array_like, optional
        The cotangent to start with; 1 if `x` is a number.

    Raises
    ------
    RuntimeError
        If `x` was not recorded, or an earlier pass released its tape.
    """
    with observing(None), tracing(x, gradient) as found:
        recording = found.recording
        calls = recording.behind(found.start)
        parents = dict.fromkeys(number for call in calls for number in call.parents.values())
        ends = [recording._nodes[n] for n in parents if n not in recording.maker]
        start: Any = x._node
        differentiate([start], [found.cotangent], ends, retain_graph=True)
    return found

"""The trace of a backward pass: the steps that an observer of the engine's own pass saw."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from autograd.engine import Node, differentiate
from autograd.modes import observing
from autograd.stepper.notebook import table
from autograd.stepper.record import Call, Recording, kind, recording_of
from autograd.stepper.steps import Edge, Step, as_tuple, plain
from autograd.tensor import Tensor, _cotangent

if TYPE_CHECKING:
    from autograd.page.live import Reader
    from autograd.page.views import Insight


@dataclass(eq=False)
class Trace:
    """The steps of a backward pass, in order.

    A trace is an `Observer`: while the pass runs, the trace adds the steps to itself.

    Attributes
    ----------
    recording : Recording
        The recording of the forward pass.
    start : int
        The number of the node where the pass began.
    cotangent : ndarray
        The cotangent with which the pass began.
    steps : list of Step
        One for each call of the recording that the pass went back through. Calls from before the
        recording have no steps.
    insight : Insight, optional
        What the page of the trace shows beside the pass (`autograd.page.views`). Whoever made the
        trace gives it; `save` leaves it out.

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
    insight: Insight | None = None
    _sums: dict[int, tuple[int, ndarray]] = field(default_factory=dict, init=False)
    _groups: tuple[int, dict[tuple, list[int]]] = field(default=(0, {}), init=False)
    _arrived: dict[int, list[tuple[int, Edge]]] = field(default_factory=dict, init=False)
    _read: tuple[int, int] = field(default=(0, 0), init=False)  # up to where `_arrived` knows

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
        """Add a contribution to the last step."""
        if node.number in self.recording.calls:
            if node.op.variadic:  # type: ignore[union-attr]
                name = "x" + name.split("[")[1].rstrip("]")  # as in `Op.named`
            self.steps[-1].edges.append(Edge(name, parent.number, plain(contribution)))

    # ---- reading

    def call(self, step: Step) -> Call:
        """Return the call that a step goes back through."""
        return self.recording.calls[step.number]

    def alike(self, step: Step) -> list[int]:
        """Return the indices of the steps whose calls are by the same part of the program.

        That is the body of a loop, for example. They are in the order in which the program ran. A
        part that runs in several modules counts in each module alone.
        """
        n_steps, groups = self._groups
        if n_steps != len(self.steps):
            groups = {}
            for i, other in sorted(enumerate(self.steps), key=lambda entry: entry[1].number):
                groups.setdefault(self.call(other).part, []).append(i)
            self._groups = len(self.steps), groups
        return groups[self.call(step).part]

    def edges_to(self, number: int) -> list[tuple[int, Edge]]:
        """Return the contributions to a value's cotangent, each with the index of its step."""
        first, known = self._read  # the last step that was read, and how many of its edges
        for i, step in enumerate(self.steps[first:], first):  # what came since the last call
            for edge in step.edges[known:]:
                self._arrived.setdefault(edge.parent, []).append((i, edge))
            self._read, known = (i, len(step.edges)), 0
        return self._arrived.get(number, [])

    def cotangent_of(self, number: int, before: int | None = None) -> ndarray | None:
        """Return a value's cotangent: the sum of all contributions, or of those before a step.

        The result is None if there is no contribution. The additions are done in the engine's
        order, so the sum is equal to the engine's bit for bit.
        """
        terms = [] if number != self.start else [self.cotangent]
        terms += [e.contribution for i, e in self.edges_to(number) if before is None or i < before]
        if len(terms) < 2:
            return terms[0] if terms else None
        known, total = self._sums.get(number, (0, terms[0]))
        if known != len(terms):
            total = functools.reduce(operator.add, terms)
            self._sums[number] = len(terms), total  # an embedding's gradient is large
        return total

    def waiting(self, index: int | None = None) -> list[int]:
        """Return the numbers of the values that wait for their turn before a step.

        These values have received a contribution, and no step has gone back through them. After all
        steps, they are the ends of the pass: leaves, or the results whose gradient was asked for.
        """
        steps = self.steps[:index]
        reached = {self.start, *(edge.parent for step in steps for edge in step.edges)}
        reached -= {number for step in steps for number in self.call(step).results}
        return [number for number in self.recording.values if number in reached]

    def why(self, number: int, index: tuple = (), width: int = 80) -> str:
        """Return why the gradient of a value, or of an element, is what it is, as a text.

        See `autograd.stepper.why.why`.
        """
        from autograd.stepper.why import why

        return why(self, number, index, width)

    # ---- on disk

    def save(self, folder: str | Path) -> None:
        """Write ``trace.json`` and ``trace.safetensors`` to a folder."""
        from autograd.stepper.store import Stored, save

        save(Stored(self.recording, self.start, self.cotangent, self.steps), folder)

    def to_html(self, path: str | Path) -> None:
        """Write a page of HTML that shows every number of the pass; see `autograd.page`."""
        from autograd.page import write_page

        write_page(self, path)

    def serve(self, port: int = 0, browser: bool = True, reader: Reader | None = None) -> None:
        """Serve the page to a browser on this computer, until Ctrl-C.

        In this page, values can be changed, too; see `autograd.page.server.serve`.
        """
        from autograd.page.server import serve

        serve(self, port, browser, reader)

    @classmethod
    def load(cls, folder: str | Path) -> Trace:
        """Read a trace that `save` wrote. The ops must be registered under the same names."""
        from autograd.stepper.store import load

        return cls(*load(folder))

    # ---- what if

    def rerun(self, index: int, cotangent: ndarray) -> Trace:
        """Run the rest of the pass again from a step, with another cotangent.

        Parameters
        ----------
        index : int
            The index of the step.
        cotangent : ndarray, or tuple of ndarray
            The cotangent that replaces the recorded one.

        Returns
        -------
        Trace
            The earlier steps as they were, and new steps from there on. The engine runs the rules
            again.
        """
        step = self.steps[index]
        tape = self.recording.replay(self.start)
        nodes: dict[int, Any] = {number: x._node for number, x in tape.items()}
        waiting: Any = {number: self.cotangent_of(number, index) for number in self.waiting(index)}
        for number, given in zip(self.call(step).results, as_tuple(cotangent), strict=True):
            waiting[number] = given
        new = Trace(self.recording, self.start, self.cotangent, self.steps[:index], self.insight)
        started, ends = ([nodes[number] for number in of] for of in (waiting, self.waiting()))
        with observing(None), observing(new):  # an observer of the program must not see this pass
            differentiate(started, list(waiting.values()), ends)
        return new


@contextmanager
def tracing(x: Tensor, gradient: Any = None) -> Iterator[Trace]:
    """Trace the backward pass that starts at a recorded tensor, and runs inside the block.

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
    """Run the backward pass of a recorded tensor, and return its trace.

    The pass changes no ``.grad``, and keeps the tape.

    Parameters
    ----------
    x : Tensor
        A tensor that was made inside ``with autograd.record():``.
    gradient : array_like, optional
        The cotangent to start with. It may be left out if `x` is a number; it is 1 then.

    Raises
    ------
    RuntimeError
        If `x` was not recorded, or an earlier pass released its tape.
    """
    with observing(None), tracing(x, gradient) as found:
        recording = found.recording
        calls = recording.behind(found.start)
        parents = dict.fromkeys(number for call in calls for number in call.parents.values())
        leaves = [recording.node(n) for n in parents if n not in recording.maker]
        ends = [node for node in leaves if node is not None]  # None only of a released tape
        start: Any = x._node
        differentiate([start], [found.cotangent], ends, retain_graph=True)
    return found

"""Where to stop: the steps that a user names by a value, an op, a module, a line or a number."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autograd.stepper.measure import largest
from autograd.stepper.steps import Step

if TYPE_CHECKING:
    from autograd.stepper.session import Session

LIMITS = {"nonfinite": np.inf, "vanishing": 1e-6, "exploding": 1e3}  # of contributions
Condition = Callable[[Step], bool]


class CommandError(ValueError):
    """A command that cannot be carried out; the message says why."""


class Unknown(CommandError):
    """A name or a place that this pass does not have."""


@dataclass
class Breakpoint:
    """A breakpoint.

    Attributes
    ----------
    number : int
        Breakpoints are numbered from 1, in the order in which they were added.
    text : str
        The text that the user typed.
    once : bool
        Whether the breakpoint is removed after it has stopped the walk once.
    holds : callable
        The condition on a step of this pass.
    pending : str
        Why no step of this pass can be meant; empty if one can. A later pass may have the place.
    """

    number: int
    text: str
    once: bool = False
    holds: Condition = lambda step: False
    pending: str = ""

    @property
    def where(self) -> str:
        """The place: that of `condition`."""
        return self.text.partition(" if ")[0].strip()

    @property
    def expression(self) -> str:
        """An expression that must also be true at the step; empty if there is none."""
        return self.text.partition(" if ")[2].strip()


def condition(session: Session, text: str) -> Condition:
    """Return the condition on a step that a text names.

    The text is a value's name, an op's name, the name of a module (the steps at which the pass
    enters the module), a line of the program (``12``, ``model.py:12``), a shape (``[2, 3]``), or
    ``nonfinite``, ``vanishing 1e-6``, ``exploding 1e3``.

    Raises
    ------
    CommandError
        If the text names nothing.
    """
    if text.partition(" ")[0] in LIMITS:
        return _of_size(text)
    if re.fullmatch(r"\[[\d, ]*\]", text):
        return _of_shape(session, tuple(int(n) for n in re.findall(r"\d+", text)))
    call_of = session.trace.call
    if re.fullmatch(r"(.*:)?\d+", text):
        path, _, line = text.rpartition(":")

        def is_at(step: Step) -> bool:
            file, number, _ = call_of(step).place
            return number == line and file.endswith(path)

        return is_at
    recording = session.trace.recording
    ops = {call.op.name for call in recording.calls.values()}
    if text not in recording.names.values():
        if text in ops:
            return lambda step: call_of(step).op.name == text
        if module := find_module(session, text):
            return _enters(session, module)
    wanted = session.find(text, [*ops, *modules(session)])

    def is_of(step: Step) -> bool:
        call = call_of(step)
        return (
            wanted in call.results
            or wanted in call.constants.values()
            or any(edge.parent == wanted for edge in step.edges)
        )

    return is_of


def _of_size(text: str) -> Condition:
    """Return the condition that the numbers which a step sends are of a size."""
    word, _, rest = text.partition(" ")
    try:
        limit = float(rest or LIMITS[word])
    except ValueError:
        raise CommandError(
            f"{rest!r} is no number: write one such as 1e-6 after {word}, or nothing"
        ) from None

    def sent(step: Step) -> float:
        return max((largest(edge.contribution) for edge in step.edges), default=0.0)

    if word == "nonfinite":
        return lambda step: not all(np.isfinite(e.contribution).all() for e in step.edges)
    return (lambda step: sent(step) < limit) if word == "vanishing" else (
        lambda step: sent(step) > limit
    )  # fmt: skip


def _of_shape(session: Session, shape: tuple[int, ...]) -> Condition:
    """Return the condition that a step's result has a shape; if none has, that an input has it."""

    def result_is(step: Step) -> bool:
        return any(session.value(n).shape == shape for n in session.trace.call(step).results)

    if any(map(result_is, session.trace.steps)):
        return result_is
    return lambda step: any(session.value(edge.parent).shape == shape for edge in step.edges)


def modules(session: Session) -> list[str]:
    """Return the names of the modules that ran, with those that contain them."""
    found: dict[str, None] = {}
    for call in session.trace.recording.calls.values():
        parts = call.scope.split(".") if call.scope else []
        found |= {".".join(parts[: i + 1]): None for i in range(len(parts))}
    return list(found)


def find_module(session: Session, text: str) -> str:
    """Return the whole name of a module; nothing if no module, or more than one, is called so."""
    known = modules(session)
    found = [name for name in known if name == text] or [
        name for name in known if name.endswith(f".{text}")
    ]
    return found[0] if len(found) == 1 else ""


def is_inside(scope: str, module: str) -> bool:
    """Return whether a scope is that of a module, or of a module in it."""
    return f"{scope}.".startswith(f"{module}.")


def _enters(session: Session, module: str) -> Condition:
    """Return the condition that a step is in a module, and the step before was not."""
    steps = session.trace.steps
    inside = [is_inside(session.trace.call(step).scope, module) for step in steps]
    before = [False, *inside]
    first = {s.number for s, now, then in zip(steps, inside, before, strict=False)
             if now and not then}  # fmt: skip
    return lambda step: step.number in first

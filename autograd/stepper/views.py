"""What a session returns: the views of a step, of a module, of the end of a pass, and so on.

Each is plain data. `autograd.stepper.session` makes the views, and the terminal shows them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy import ndarray

from autograd.stepper.axes import Labels
from autograd.stepper.check import Proof
from autograd.stepper.formulas import NumberedEquation
from autograd.stepper.source import Statement


class Received(NamedTuple):
    """The cotangent of one result: its symbol in the rule (g), the result's name, and the value."""

    symbol: str
    name: str
    value: ndarray
    labels: Labels
    """What the rows and columns of the value stand for."""


class Sent(NamedTuple):
    """The contribution of a step to the cotangent of one input."""

    symbol: str
    """The symbol of the contribution in the rule, such as ``dx``."""
    rule: str
    """The line of the op's formula that computes the value, as in ``d(W1) += d(a) · x``."""
    value: ndarray
    target: str
    """The name of the input's value."""
    note: str
    """Whether the target's cotangent is complete with this value."""
    labels: Labels


class StepView(NamedTuple):
    """A step: the op, the line that called it, the cotangents that it received and sent."""

    number: int
    """From 1 to `total`."""
    total: int
    op: str
    at: str
    scope: str
    calls: tuple[int, int]
    """Which of the calls by the same part of the program it is, and of how many in this pass."""
    statement: Statement
    """The statement of the program, and the part of it that called the op."""
    inside: str
    """The fused op whose reference this step is part of, or nothing."""
    received: list[Received]
    sent: list[Sent] | None
    """None while predictions are asked for: the values are hidden."""

    @property
    def progress(self) -> str:
        """As in ``step 7 of 31``, or, inside a fused op, ``softmax ▸ step 2 of 5``."""
        place = f"step {self.number} of {self.total}"
        return f"{self.inside} ▸ {place}" if self.inside else place


class Gradient(NamedTuple):
    """A gradient at the end of a pass."""

    name: str
    value: ndarray
    note: str
    """After `Session.set`: whether the gradient is still as recorded."""
    labels: Labels


class ModuleView(NamedTuple):
    """A module that contains the step: its steps, and the values that enter and leave it."""

    name: str
    """Empty for the whole pass."""
    first: int
    """The numbers of the module's first and last step, from 1 on."""
    last: int
    total: int
    results: list[Received]
    """What the module computes for others, with the whole cotangents of these values."""
    inputs: list[Received]
    """What others have computed for the module, with the whole cotangents."""


class EndView(NamedTuple):
    """The end of a pass: the gradients at which the pass arrived."""

    gradients: list[Gradient]


class ProofView(NamedTuple):
    """An op that was stepped into, compared with the pass through its reference."""

    op: str
    proofs: list[Proof]


class Overview(NamedTuple):
    """What a pass is, before its first step."""

    name: str
    """The name of the value that the pass starts at, such as ``loss``."""
    value: ndarray
    n_steps: int
    n_ends: int
    """The number of values at which the pass arrives."""
    ends_are_leaves: bool
    """False if a result is among these values, for example for ``grad(loss, h)``."""


class Watched(NamedTuple):
    """A watched expression at the step where the session stands."""

    expression: str
    value: Any
    error: str
    """The reason if the expression has no value here; otherwise empty."""


class Value(NamedTuple):
    """A value in the neighbourhood of a step."""

    name: str
    made_by: str
    """The call that made the value, such as ``tanh(z)``; nothing for a leaf."""
    kind: str


class Parent(NamedTuple):
    """An input of a step, the arguments for which it stands, and its own inputs."""

    value: Value
    arguments: list[str]
    inputs: list[Value]


class Neighbourhood(NamedTuple):
    """The values around a step: its results and inputs, and the values that use the results."""

    users: list[Value]
    results: list[Value]
    parents: list[Parent]


class FormulaView(NamedTuple):
    """An op's formula: in symbols, and with numbers (None if the arrays are too large)."""

    symbols: dict[str, str]
    """What the rule's symbols stand for, as in ``$x``: ``W1``."""
    lines: list[str]
    with_numbers: list[NumberedEquation]
    element: str = ""
    """What the element that was asked for stands for, as in ``position 2 ·fox``, if known."""
    place: str = ""
    """The step and its op, if it is another step than that where the session stands."""

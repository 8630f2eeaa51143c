"""A session: a place in a backward pass, and the answers to the questions that a user asks there.

Every method returns data, and no method prints. The terminal (`autograd.stepper.terminal`) prints
what a session returns. A page or a notebook can show the same data in its own way.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.anomaly import Explanation
from autograd.stepper import check, what_if
from autograd.stepper.check import Comparison, Judgement, Proof
from autograd.stepper.contributions import explain_whole
from autograd.stepper.evaluate import evaluate, plain_quotes
from autograd.stepper.formulas import NumberedEquation, write_with_numbers
from autograd.stepper.measure import largest, norm
from autograd.stepper.places import Index, read_index, split_index
from autograd.stepper.record import Call, kind, record
from autograd.stepper.source import Statement
from autograd.stepper.steps import Edge, Step, as_tuple
from autograd.stepper.symbols import ASSIGNMENT, lines_of, names_of, values_of
from autograd.stepper.trace import Trace, trace
from autograd.tensor import tensor

WRITABLE = 1024  # elements: for larger arrays, a formula is shown without numbers
VALUE_ASSIGNMENT = re.compile(r"([^=<>!]+?)\s*(?<![-+*/@%])=(?!=)\s*(.+)", re.DOTALL)
LIMITS = {"nonfinite": np.inf, "vanishing": 1e-6, "exploding": 1e3}  # of contributions


class CommandError(ValueError):
    """A command that cannot be carried out; the message says why."""


class NotYet(CommandError):
    """A cotangent at which nothing has arrived at this step."""


@dataclass
class Level:
    """A pass that the session walks through: the outer pass, or the pass inside an op.

    Attributes
    ----------
    trace : Trace
    index : int
        The index of the step where the session stands; ``len(trace.steps)`` at the end.
    recorded : Trace
        The trace as it was before `Session.set` changed something.
    inside : (Call, Step), optional
        The call and the step of the op that was stepped into. This pass goes through the op's
        reference.
    breaks : list of (str, callable)
        The breakpoints: the text that the user typed, and the condition on a step.
    changed : dict of int to ndarray
        The values that `Session.set` and `Session.descend` have changed.
    history : tuple of (Trace, dict)
        The earlier traces, each with the values that were changed in it.
    """

    trace: Trace
    index: int = 0
    recorded: Trace = field(init=False)
    inside: tuple[Call, Step] | None = None
    breaks: list[tuple[str, Callable]] = field(default_factory=list)
    changed: what_if.Changes = field(default_factory=dict)
    history: tuple[tuple[Trace, what_if.Changes], ...] = ()

    def __post_init__(self) -> None:
        self.recorded = self.trace

    @property
    def at_end(self) -> bool:
        """Whether every step was taken."""
        return self.index >= len(self.trace.steps)


class Received(NamedTuple):
    """The cotangent of one result: its symbol in the rule (g), the result's name, and the value."""

    symbol: str
    name: str
    value: ndarray


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


class StepView(NamedTuple):
    """A step: the op, the line that called it, the cotangents that it received and sent."""

    number: int
    """From 1 to `total`."""
    total: int
    op: str
    at: str
    scope: str
    passes: tuple[int, int]
    """The pass of a loop: this is which of the calls by the same part of the program, of how many.
    """
    statement: Statement
    """The statement of the program, and the part of it that called the op."""
    inside: str
    """The fused op whose reference this step is part of, or nothing."""
    received: list[Received]
    sent: list[Sent] | None
    """None while predictions are asked for: the values are hidden."""


class Gradient(NamedTuple):
    """A gradient at the end of a pass."""

    name: str
    value: ndarray
    note: str
    """After `Session.set`: whether the gradient is still as recorded."""


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
    with_numbers: list[NumberedEquation] | None


class Session:
    """Walks through a trace, and answers questions about the step where it stands.

    Each command of the stepper is a method here, or a few:

    ======================  ========================================================
    next, back, jump        `move`, `jump`
    continue, until         `go_on`, `go_until`
    break                   `add_break`, `breaks`, `clear_breaks`
    into, out               `step_into`, `proof`, `step_out`
    (after every move)      `current_view`: a `StepView`, an `EndView` or a `ProofView`;
                            `watched_values`
    where                   `neighbourhood`
    print, watch            `evaluate`, `watch`; `symbols`, what ``$x`` and so on stand for
    formula                 `formula`
    why                     `why`; `explanation`, of the number that `find` returns
    check                   `check_step`, `check_loss`
    set, descend, undo      `set`, `descend`, `undo`, `reset`
    predict                 `predict`, `hidden`
    ======================  ========================================================

    Parameters
    ----------
    trace : Trace

    Attributes
    ----------
    levels : list of Level
        The outer pass, and the insides of ops that were stepped into.
    hidden : bool
        Whether `view` leaves out what a step sends, for the learner to predict.
    watched : list of str
        The expressions to show after every move.

    Examples
    --------
    >>> import autograd
    >>> from autograd.stepper import trace
    >>> from autograd.stepper.session import Session
    >>> with autograd.record():
    ...     x = autograd.tensor(3.0, requires_grad=True)
    ...     loss = x * x + x
    >>> session = Session(trace(loss))
    >>> session.view().op
    'add'
    >>> session.go(1).view().op
    'multiply'
    >>> float(session.evaluate("d(loss) * 2"))
    2.0
    >>> [float(gradient.value) for gradient in session.go(2).gradients()]
    [7.0]
    """

    def __init__(self, trace: Trace) -> None:
        self.levels = [Level(trace)]
        self.hidden = False
        self.watched: list[str] = []

    def branch(self) -> Session:
        """Return a session that stands at the same step, and moves alone."""
        other = copy.copy(self)
        other.levels = [copy.copy(level) for level in self.levels]
        for level in other.levels:
            level.breaks = list(level.breaks)
        other.watched = list(self.watched)
        return other

    # ---- where the session stands

    @property
    def level(self) -> Level:
        """The innermost pass."""
        return self.levels[-1]

    @property
    def trace(self) -> Trace:
        """The trace of the innermost pass."""
        return self.level.trace

    @property
    def at_end(self) -> bool:
        """Whether every step of the innermost pass was taken."""
        return self.level.at_end

    @property
    def step(self) -> Step:
        """The step where the session stands; an error at the end."""
        if self.at_end:
            raise CommandError("the pass is at its end; `back` goes back into it")
        return self.trace.steps[self.level.index]

    @property
    def call(self) -> Call:
        """The call that the step goes back through."""
        return self.trace.call(self.step)

    @property
    def scope(self) -> str:
        """The module that the step is part of; nothing at the end."""
        return "" if self.at_end else self.call.scope

    def value(self, number: int) -> ndarray:
        """Return a recorded value, or an array off the tape."""
        recording = self.trace.recording
        return recording.constants[number] if number in recording.constants else (
            recording.values[number]
        )  # fmt: skip

    def name(self, number: int) -> str:
        """Return the name of a value. The name of the step's own module is left out of it."""
        scope = self.scope
        return self.trace.recording.name(number).removeprefix(f"{scope}." if scope else "")

    def out(self, call: Call) -> Any:
        """Return a call's result, or the tuple of several results."""
        results = tuple(self.value(number) for number in call.results)
        return results if call.op.multiple else results[0]

    def find(self, name: str) -> int:
        """Return the number of a value.

        Parameters
        ----------
        name : str
            The whole name, the name inside the step's module, or the end of one name only; or the
            symbol of an argument or a result, such as ``$x``.

        Raises
        ------
        CommandError
            If no value, or more than one, has that name.
        """
        recording = self.trace.recording
        if name.startswith("$"):
            return self.number_of_symbol(name[1:])
        numbers = [*recording.constants, *recording.values]
        names = {plain_quotes(recording.name(number)): number for number in numbers}
        name = plain_quotes(name)
        for whole in (name, f"{self.scope}.{name}"):
            if whole in names:
                return names[whole]
        found = [n for n in names if n.endswith((f".{name}", f"['{name}']"))]
        if len(found) == 1:
            return names[found[0]]
        if found:
            more = " ..." if len(found) > 4 else ""
            raise CommandError(f"{name} may be {', '.join(found[:4])}{more}")
        if not self.at_end and name in self.symbols():
            raise CommandError(
                f"nothing here is called {name!r}; the symbol of the rule is written ${name}"
            )
        close = difflib.get_close_matches(name, names, 3, 0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise CommandError(f"nothing here is called {name!r}{hint}")

    def symbols(self) -> dict[str, Any]:
        """Return the values of the rule's symbols at this step: x, y, ... out, g, dx, ..."""
        return values_of(self.call, self.step, self.out(self.call))

    def symbol(self, name: str) -> Any:
        """Return the value of a symbol of the step's rule."""
        found = self.symbols()
        if name not in found:
            known = ", ".join(f"${symbol}" for symbol in found)
            raise CommandError(f"the rule of {self.call.op.name} has no ${name}; it has {known}")
        return found[name]

    def number_of_symbol(self, symbol: str) -> int:
        """Return the number of the value for which the symbol of an argument or a result stands."""
        call = self.call
        numbers = call.constants | call.parents
        for i, result in enumerate(call.results):
            numbers[f"out{i}" if call.op.multiple else "out"] = result
        if symbol not in numbers:
            known = ", ".join(f"${name}" for name in numbers)
            raise CommandError(f"${symbol} is no value of this step, whose values are {known}")
        return numbers[symbol]

    def names_of_symbols(self, call: Call) -> dict[str, str]:
        """Return what each symbol of a call's rule stands for: x is W1, g is d(a), ..."""
        return names_of(call, self.trace.recording, self.name)

    def arrived(self, number: int) -> ndarray:
        """Return a value's cotangent up to this step: the sum of all contributions so far.

        Raises
        ------
        NotYet
            If nothing has arrived there.
        """
        passed = self.trace.steps[: self.level.index + 1]
        for step in passed:
            results = self.trace.call(step).results
            if number in results:  # also if `set` has replaced the cotangent
                return as_tuple(step.cotangent)[results.index(number)]
        found = self.trace.cotangent_of(number, len(passed))
        if found is None:
            first = next((i for i, _ in self.trace.edges_to(number)), None)
            when = "at no step" if first is None else f"step {first + 1} is the first to send to it"
            raise NotYet(f"nothing has arrived at {self.name(number)}: {when}")
        return found

    def find_part(self, text: str) -> tuple[int, Index]:
        """Return the number of a value, and the index of a part: of ``W1[0, 2]``, of ``W1``."""
        name, inside = split_index(text)
        try:
            return self.find(text), ()  # also if brackets belong to the name, as in layers[0].b
        except CommandError:
            if not inside:
                raise
        number = self.find(name)
        try:
            return number, read_index(inside, self.value(number).shape)
        except ValueError as error:
            raise CommandError(f"{name}{error}") from None

    def names(self) -> list[str]:
        """Return the names of values and ops, for completion."""
        calls = self.trace.recording.calls.values()
        ops = dict.fromkeys(call.op.name for call in calls)
        names = list(self.trace.recording.names.values())
        return [*names, *(op for op in ops if op not in names)]

    # ---- seeing the step

    def overview(self) -> Overview:
        """Return what the innermost pass is: where it starts, how long it is, where it ends."""
        trace = self.trace
        ends = trace.waiting()
        return Overview(
            self.name(trace.start),
            self.value(trace.start),
            len(trace.steps),
            len(ends),
            ends_are_leaves=trace.recording.maker.keys().isdisjoint(ends),
        )

    def current_view(self) -> StepView | EndView | ProofView:
        """Return what to show after a move.

        That is the step where the session stands. At the end of the pass it is the gradients, and
        at the end inside an op the comparison of the op with its reference.
        """
        if not self.at_end:
            return self.view()
        return self.proof() if self.level.inside else EndView(self.gradients())

    def view(self) -> StepView:
        """Return the step where the session stands."""
        call, step, inside = self.call, self.step, self.level.inside
        repeated = self.trace.recording.repeated(call)
        rules = {line.symbol: line.text for line in lines_of(call, self.names_of_symbols(call))}
        received = [
            Received(symbol, self.name(result), g)
            for result, (symbol, g) in zip(call.results, step.symbols.items(), strict=True)
        ]
        sent = [
            Sent(
                symbol=f"d{edge.input}",
                rule=rules.get(f"d{edge.input}", f"d({self.name(edge.parent)}) += $d{edge.input}"),
                value=edge.contribution,
                target=self.name(edge.parent),
                note=self.note(edge),
            )
            for edge in step.edges
        ]
        return StepView(
            number=self.level.index + 1,
            total=len(self.trace.steps),
            op=call.op.name,
            at=call.at,
            scope=call.scope,
            passes=(repeated.index(call.number) + 1, len(repeated)),
            statement=call.statement,
            inside=inside[0].op.name if inside else "",
            received=received,
            sent=None if self.hidden else sent,
        )

    def note(self, edge: Edge) -> str:
        """Say whether a cotangent is complete with what a step adds."""
        uses = list(self.trace.edges_to(edge.parent))
        place = next(k for k, (_, other) in enumerate(uses) if other is edge)
        waits = len(uses) - place - 1
        notes = ["summed"] if place else []
        if waits:
            notes.append(f"{waits} more to come")
        elif edge.parent not in self.trace.recording.maker:
            notes.append("complete: its .grad")
        elif edge.parent in self.trace.waiting():
            notes.append("complete: asked for")
        return ", ".join(notes)

    def formula(self) -> FormulaView:
        """Return what the op and its rule compute, in symbols and with numbers.

        Raises
        ------
        CommandError
            If the op states no formula.
        """
        call, step, names = self.call, self.step, self.names_of_symbols(self.call)
        lines = [line.text for line in lines_of(call, names)]
        if not lines:
            raise CommandError(f"{call.op.name} states no formula")
        symbols = {
            f"${symbol}": name for symbol, name in names.items()
            if symbol not in call.arguments or symbol in call.parents or symbol in call.constants
            if symbol[0] != "d" or symbol in call.arguments
        }  # fmt: skip
        arrays = [*call.arguments.values(), *as_tuple(self.out(call))]
        if any(isinstance(x, ndarray) and x.size > WRITABLE for x in arrays):
            return FormulaView(symbols, lines, None)
        sent = {edge.input: edge.contribution for edge in step.edges}
        stated: Any = call.op.stated
        equations = write_with_numbers(
            stated, call.arguments, self.out(call), step.cotangent, sent, names
        )
        return FormulaView(symbols, lines, list(equations))

    def gradients(self) -> list[Gradient]:
        """Return the gradients at which the pass arrives."""
        recorded = self.level.recorded
        found = []
        for number in self.trace.waiting():
            gradient: Any = self.trace.cotangent_of(number)
            before = None if self.trace is recorded else recorded.cotangent_of(number)
            note = ""
            if before is not None:
                same = np.array_equal(before, gradient)
                note = "as recorded" if same else f"its norm was {norm(before):.4g}"
            found.append(Gradient(self.name(number), gradient, note))
        return found

    def neighbourhood(self) -> Neighbourhood:
        """Return the values around the step."""
        call, recording = self.call, self.trace.recording

        def value(number: int) -> Value:
            made = recording.maker.get(number)
            inputs = [self.argument(made, name) for name in made.arguments] if made else []
            made_by = f"{made.op.name}({', '.join(inputs)})" if made else ""
            return Value(self.name(number), made_by, kind(recording.values[number]))

        users = [c for c in recording.calls.values() if set(call.results) & set(c.parents.values())]
        parents = []
        for parent in dict.fromkeys(call.parents.values()):
            made = recording.maker.get(parent)
            arguments = [name for name, number in call.parents.items() if number == parent]
            inputs = dict.fromkeys(made.parents.values()) if made else ()
            parents.append(Parent(value(parent), arguments, [value(number) for number in inputs]))
        return Neighbourhood(
            [value(number) for user in reversed(users[-4:]) for number in user.results],
            [value(number) for number in call.results],
            parents,
        )

    def argument(self, call: Call, name: str) -> str:
        """Return a short text for an argument of a call: its name, kind or value."""
        if name in call.parents or call.constants.get(name) in self.trace.recording.names:
            return self.names_of_symbols(call)[name]
        x = call.arguments[name]
        if isinstance(x, ndarray) and x.ndim:
            return kind(x)
        return text if len(text := str(x)) <= 12 else f"{name}=…"

    def explanation(self, number: int) -> Explanation:
        """Return the contributions to a value's cotangent, grouped by module."""
        if self.trace.cotangent_of(number) is None:
            raise CommandError(f"no gradient reaches {self.name(number)}")
        return explain_whole(self.trace, number)

    def why(self, text: str, width: int = 80) -> str:
        """Return why the gradient of ``NAME`` or ``NAME[INDEX]`` is what it is, as a text."""
        return self.trace.why(*self.find_part(text), width)

    # ---- moving

    def go(self, index: int) -> Session:
        """Stand at another step of this pass, or at its end."""
        self.level.index = max(0, min(index, len(self.trace.steps)))
        return self

    def move(self, n: int) -> Session:
        """Go n steps on, or back if n is negative; stop at the first step and at the end."""
        if n < 0 and self.level.index == 0:
            raise CommandError("this is the first step")
        return self.go(self.level.index + n)

    def jump(self, text: str) -> None:
        """Go to a step, forward or back.

        Parameters
        ----------
        text : str
            The number of a step, ``pass N`` for the same place in another pass of a loop, or
            ``loop`` for the next step outside of the loop.
        """
        word, _, rest = text.partition(" ")
        if word not in ("pass", "loop"):
            self.go(_number(text, len(self.trace.steps), "step") - 1)
            return
        repeated = self.trace.recording.repeated
        passes = repeated(self.call)
        if len(passes) == 1:
            raise CommandError("this step is in no loop: its line ran once")
        if word == "pass":
            number = passes[_number(rest, len(passes), "pass") - 1]
            found = (i for i, step in enumerate(self.trace.steps) if step.number == number)
            missing = f"the pass back does not go through pass {rest} of the loop"
        else:
            later = enumerate(self.trace.steps[self.level.index + 1 :], self.level.index + 1)
            found = (i for i, step in later
                     if len(repeated(self.trace.call(step))) < len(passes))  # fmt: skip
            missing = "all later steps are in the loop"
        index = next(found, None)
        if index is None:
            raise CommandError(missing)
        self.go(index)

    def go_on(self) -> str:
        """Go on to the next breakpoint, or to the end; return the breakpoint's text, or nothing."""
        for index in range(self.level.index + 1, len(self.trace.steps)):
            for what, holds in self.level.breaks:
                if holds(self.trace.steps[index]):
                    self.go(index)
                    return what
        self.go(len(self.trace.steps))
        return ""

    def go_until(self, text: str) -> None:
        """Go on to the next step for which a condition holds; see `condition`."""
        holds = self.condition(text)
        for index in range(self.level.index + 1, len(self.trace.steps)):
            if holds(self.trace.steps[index]):
                self.go(index)
                return
        raise CommandError(f"no later step has to do with {text}")

    def add_break(self, text: str) -> None:
        """Add a breakpoint: `go_on` stops at steps for which a condition holds; see `condition`."""
        holds = self.condition(text)
        if text.split()[0] not in LIMITS and not any(map(holds, self.trace.steps)):
            raise CommandError(f"no step of this pass has to do with {text}")
        self.level.breaks.append((text, holds))

    def breaks(self) -> list[str]:
        """Return the breakpoints of this pass, as they were added."""
        return [text for text, _ in self.level.breaks]

    def clear_breaks(self) -> None:
        """Remove all breakpoints of this pass."""
        self.level.breaks.clear()

    def condition(self, text: str) -> Callable[[Step], bool]:
        """Return a breakpoint's condition on a step.

        The text is a value's name, an op's name, a line of the program (``12``, ``model.py:12``),
        a shape (``[2, 3]``), or ``nonfinite``, ``vanishing 1e-6``, ``exploding 1e3``.
        """
        word, _, rest = text.partition(" ")

        def sent(step: Step) -> float:
            return max((largest(edge.contribution) for edge in step.edges), default=0.0)

        if word == "nonfinite":
            return lambda step: not all(np.isfinite(e.contribution).all() for e in step.edges)
        if word in LIMITS:
            try:
                limit = float(rest or LIMITS[word])
            except ValueError:
                raise CommandError(f"{rest!r} is no number") from None
            if word == "vanishing":
                return lambda step: sent(step) < limit
            return lambda step: sent(step) > limit
        if re.fullmatch(r"\[[\d, ]*\]", text):
            shape = tuple(int(n) for n in re.findall(r"\d+", text))
            return lambda step: any(
                self.value(number).shape == shape for number in self.trace.call(step).results
            )
        if re.fullmatch(r"(.*:)?\d+", text):
            path, _, line = text.rpartition(":")

            def is_at(step: Step) -> bool:
                file, number, _ = self.trace.call(step).place
                return number == line and file.endswith(path)

            return is_at
        is_op = any(call.op.name == text for call in self.trace.recording.calls.values())
        if is_op and text not in self.trace.recording.names.values():
            return lambda step: self.trace.call(step).op.name == text
        wanted = self.find(text)

        def is_of(step: Step) -> bool:
            call = self.trace.call(step)
            return (
                wanted in call.results
                or wanted in call.constants.values()
                or any(edge.parent == wanted for edge in step.edges)
            )

        return is_of

    # ---- into an op

    def step_into(self) -> str:
        """Step into the op, through its reference in primitives; return the op's name."""
        call, step = self.call, self.step
        if call.op.reference_function is None:
            raise CommandError(
                f"{call.op.name} is a primitive: it has a rule and nothing inside; see formula"
            )
        self.levels.append(Level(inside_of(call, step), inside=(call, step)))
        return call.op.name

    def step_out(self) -> None:
        """Leave an op that was stepped into."""
        if not self.level.inside:
            raise CommandError("this is the outermost pass")
        self.levels.pop()

    def proof(self) -> ProofView:
        """Compare the op that was stepped into with the pass through its reference."""
        if not self.level.inside:
            raise CommandError("this is the outermost pass")
        call, step = self.level.inside
        outer = self.levels[-2].trace.recording
        titles = self.titles(call, names_of(call, outer, outer.name))
        titles["out"] = outer.name(call.results[0])
        proofs = check.prove(self.trace, step, outer.values[call.results[0]])
        return ProofView(
            call.op.name, [proof._replace(title=titles[proof.title]) for proof in proofs]
        )

    # ---- expressions, checks, what if, predictions

    def evaluate(self, text: str) -> Any:
        """Return the value of an expression of names, symbols (``$x``) and cotangents (``d(x)``).

        Raises
        ------
        CommandError
            Whatever the expression raises, in one line.
        """
        try:
            return evaluate(self, text)
        except CommandError:
            raise
        except SyntaxError as error:
            raise CommandError(f"SyntaxError: {error.msg}") from None
        except Exception as error:  # whatever the expression raises
            raise CommandError(f"{type(error).__name__}: {error}") from None

    def watch(self, text: str) -> None:
        """Add an expression to those that `watched_values` evaluates after every move."""
        with suppress(NotYet):
            self.evaluate(text)
        self.watched.append(text)

    def watched_values(self) -> list[Watched]:
        """Return the watched expressions with their values at this step."""
        found = []
        for text in self.watched:
            try:
                found.append(Watched(text, self.evaluate(text), ""))
            except CommandError as error:
                found.append(Watched(text, None, str(error)))
        return found

    def array(self, text: str, like: ndarray) -> ndarray:
        """Return the value of an expression in the shape and dtype of another array."""
        return _fit(self.evaluate(text), like)

    def check_step(self) -> Iterator[Comparison]:
        """Compare what this step sends with numeric derivatives of the op alone."""
        titles = self.titles(self.call, self.names_of_symbols(self.call))
        for found in check.check_step(self.call, self.step):
            yield found._replace(title=titles[found.title])

    @staticmethod
    def titles(call: Call, names: dict[str, str]) -> dict[str, str]:
        """Return a title for what a rule sends to each input: d(W1), or d(e) as $dx if e has two.

        The keys are symbols such as ``dx``.
        """
        symbols = [f"d{name}" for name in call.parents]
        shown = [names[symbol] for symbol in symbols]
        return {
            symbol: f"{name} as ${symbol}" if shown.count(name) > 1 else name
            for symbol, name in zip(symbols, shown, strict=True)
        }

    def check_loss(self, number: int) -> Comparison:
        """Compare a gradient of the whole loss with numeric derivatives of the replayed loss."""
        found = check.check_loss(self.trace, number, f"d({self.name(number)})")
        if found is None:
            raise CommandError(f"the loss does not depend on {self.name(number)}")
        return found

    def set(self, text: str) -> what_if.Outcome | None:
        """Change a value and run the program again, or this step's cotangent and the rest of it.

        Parameters
        ----------
        text : str
            ``NAME = EXPRESSION`` or ``NAME[INDEX] = EXPRESSION`` changes a leaf, a result, or an
            array off the tape; the answer compares the new pass with the one before. An expression
            alone, such as ``d(a) * 2``, is for the cotangent. For one of several cotangents it is
            ``d(first) = EXPRESSION``, or ``$g0 = EXPRESSION``.
        """
        match = VALUE_ASSIGNMENT.fullmatch(text)
        if match and not ASSIGNMENT.fullmatch(text):
            return self.change(dict([self.replaced(match[1].strip(), match[2])]))
        self.set_cotangent(text)
        return None

    def replaced(self, left: str, right: str) -> tuple[int, ndarray]:
        """Return the number of a value, and the value with a part of it replaced."""
        number, index = self.find_part(left)
        changed = self.value(number).copy(order="K")
        changed[index] = _exact(self.evaluate(right), changed[index], left)
        return number, changed

    def change(self, changes: what_if.Changes) -> what_if.Outcome:
        """Run the program again with other values; see `autograd.stepper.what_if`."""
        level = self.level
        if level.inside:
            raise CommandError("a value is changed in the outermost pass: go `out` first")
        before, changed = self.trace, level.changed | changes
        try:
            with np.errstate(all="ignore"):
                after = what_if.run_again(level.recorded, changed)
        except (ValueError, TypeError, IndexError) as error:
            raise CommandError(f"the program does not run with that: {error}") from None
        self.remember(after)
        level.changed = changed
        return what_if.compare(before, after, changes)

    def descend(self, text: str) -> what_if.Outcome:
        """Take a step of gradient descent with a learning rate, and run the program again."""
        rate = np.asarray(self.evaluate(text))
        if rate.ndim or rate.dtype.kind not in "fiu" or not np.isfinite(rate):
            raise CommandError(f"descend by which learning rate? {text} is no number; as in: 0.1")
        changes = what_if.descend(self.trace, float(rate))
        if not changes:
            raise CommandError("the pass arrives at no leaf that could be changed")
        return self.change(changes)

    def remember(self, after: Trace) -> None:
        """Go over to another trace, at the same step; `undo` comes back."""
        level = self.level
        number = None if level.at_end else self.step.number
        level.history = (*level.history, (level.trace, level.changed))
        level.trace = after
        found = (i for i, step in enumerate(after.steps) if step.number == number)
        level.index = next(found, len(after.steps) if number is None else 0)

    def undo(self) -> None:
        """Undo the last `set` or `descend`."""
        level = self.level
        if not level.history:
            raise CommandError("nothing was set")
        *earlier, (before, changed) = level.history
        self.remember(before)
        level.history, level.changed = tuple(earlier), changed

    def set_cotangent(self, text: str) -> None:
        """Change this step's cotangent, and run the rest of the pass again; see `set`."""
        given = self.step.symbols
        names = {f"d({self.name(n)})": symbol for n, symbol in zip(self.call.results, given,
                                                                   strict=True)}  # fmt: skip
        match = ASSIGNMENT.fullmatch(text)
        left, right = (match[1], match[4]) if match else (next(iter(names)), text)
        symbol = names.get(left, left.removeprefix("$"))
        if symbol not in given or len(given) > 1 and not match:
            raise CommandError(f"set which of {', '.join(names)}? As in: set {min(names)} = 0")
        given[symbol] = self.array(right, given[symbol])
        value: Any = tuple(given.values()) if self.call.op.multiple else given["g"]
        self.remember(self.trace.rerun(self.level.index, value))

    def reset(self) -> None:
        """Undo every `set` and `descend`: the pass is as recorded again."""
        self.remember(self.level.recorded)
        self.level.history, self.level.changed = (), {}

    def predict(self, text: str) -> list[Judgement]:
        """Judge a prediction.

        Parameters
        ----------
        text : str
            ``d(W1) += EXPRESSION`` predicts what this step sends to W1, and ``d(W1) = EXPRESSION``
            the cotangent of W1 after this step. ``$dx = EXPRESSION`` predicts what the step sends
            to its argument x. An expression alone predicts the cotangent of the next step; if that
            step has several, they are separated by commas.
        """
        if match := ASSIGNMENT.fullmatch(text):
            left, _, sign, right = match.groups()
            expected = self.predictable(left, sign)
            title = left if sign == "=" else f"{left} {sign}"
            return [check.judge(title, self.array(right, expected), expected)]
        if match := re.match(r"(\w+)\s*\+?=(?!=)", text):
            raise CommandError(
                f"predict d(NAME) += VALUE or $dx = VALUE; {match[1]} is a name of the program"
            )
        edges = [f"d({self.name(edge.parent)}) +=" for edge in self.step.edges]
        if self.level.index + 1 >= len(self.trace.steps):
            raise CommandError("there is no next step; predict " + " or ".join(edges) + " ...")
        coming = self.trace.steps[self.level.index + 1]
        expected, found = as_tuple(coming.cotangent), self.evaluate(text)
        parts = (found,) if len(expected) == 1 else found
        if not isinstance(parts, tuple) or len(parts) != len(expected):
            raise CommandError(
                f"the next step has {len(expected)} outputs: predict their cotangents, with commas "
                "between them"
            )
        results = self.trace.call(coming).results
        return [
            check.judge(f"d({self.name(number)})", _fit(value, g), g)
            for number, value, g in zip(results, parts, expected, strict=True)
        ]

    def predictable(self, left: str, sign: str) -> Any:
        """Return the true value of what a prediction is about; see `predict`."""
        sent = {f"$d{edge.input}": edge.contribution for edge in self.step.edges}
        if left.startswith("$"):
            if left not in sent:
                raise CommandError(f"{left} is none of {', '.join(sent)}, which this step sends")
            return sent[left]
        number = self.find(left[2:-1].strip())
        if sign == "=":
            return self.arrived(number)
        parts = [edge.contribution for edge in self.step.edges if edge.parent == number]
        if not parts:
            targets = ", ".join(f"d({self.name(edge.parent)})" for edge in self.step.edges)
            raise CommandError(f"this step adds nothing to {left}; it adds to {targets}")
        return sum(parts[1:], parts[0])


def inside_of(call: Call, step: Step) -> Trace:
    """Return the trace of an op's reference, run on the inputs of a call with its cotangent."""
    reference: Any = call.op.reference_function
    wanted = {edge.input for edge in step.edges}
    with record(file=reference.__code__.co_filename) as recording:
        arguments = {
            name: tensor(x, requires_grad=True) if name in wanted else x
            for name, x in call.arguments.items()
        }
        out = call.run(reference, arguments)
    for name in wanted:
        leaf: Any = arguments[name]
        recording.give_name(leaf._node.number, name)
    recording.give_name(out._node.number, "out")
    return trace(out, step.cotangent)


def _number(text: str, most: int, what: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise CommandError(f"{text!r} is no {what}: they are numbered from 1 to {most}")
    return int(text)


def _exact(value: Any, like: Any, name: str) -> Any:
    """Return a value in the shape and dtype of an array; integers must stay what they are."""
    fitted = _fit(value, np.asarray(like))
    if fitted.dtype.kind in "iub" and not np.all(fitted == value):
        raise CommandError(f"{name} has the dtype {fitted.dtype}; {value} is no value of it")
    return fitted


def _fit(value: Any, like: ndarray) -> ndarray:
    """Return a value in the shape and dtype of an array, or raise CommandError."""
    try:
        return np.broadcast_to(np.asarray(value, dtype=like.dtype), like.shape).copy()
    except (TypeError, ValueError):
        raise CommandError(f"expected {kind(like)}") from None

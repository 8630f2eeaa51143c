"""A session: a place in a backward pass, and the answers to the questions that a user asks there.

Every method returns data, and no method prints. The terminal (`autograd.stepper.terminal`) prints
what a session returns. A page or a notebook can show the same data in its own way.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.anomaly import Explanation
from autograd.stepper import check, what_if
from autograd.stepper.axes import Labels
from autograd.stepper.check import Comparison, Judgement
from autograd.stepper.contributions import explain_whole
from autograd.stepper.evaluate import evaluate, plain_quotes, tensors_advice
from autograd.stepper.formulas import NumberedEquation, Numbers, write_with_numbers
from autograd.stepper.measure import norm
from autograd.stepper.places import Index, read_index, split_index
from autograd.stepper.record import Call, kind, record
from autograd.stepper.source import source_lines
from autograd.stepper.steps import Edge, Step, as_tuple
from autograd.stepper.stops import (
    LIMITS,
    Breakpoint,
    CommandError,
    Unknown,
    condition,
    find_module,
    is_inside,
    modules,
)
from autograd.stepper.symbols import ASSIGNMENT, COTANGENT, lines_of, names_of, values_of
from autograd.stepper.trace import Trace, trace
from autograd.stepper.views import (
    EndView,
    FormulaView,
    Gradient,
    ModuleView,
    Neighbourhood,
    Overview,
    Parent,
    ProofView,
    Received,
    Sent,
    StepView,
    Value,
    Watched,
)
from autograd.tensor import tensor

AROUND = 5  # lines of the program that are listed before and after the one that runs
VALUE_ASSIGNMENT = re.compile(r"([^=<>!]+?)\s*(?<![-+*/@%])=(?!=)\s*(.+)", re.DOTALL)


class NotYet(CommandError):
    """A cotangent at which nothing has arrived at this step."""


class Earlier(NamedTuple):
    """A trace before a change, to which `Session.undo` comes back."""

    trace: Trace
    changed: what_if.Changes
    """The values that were changed in it."""
    place: int
    """The index of the step where the session stood."""
    place_after: int
    """Where the session stood after the change."""


@dataclass
class Level:
    """A pass that the session walks through: the outer pass, or the pass inside an op.

    Attributes
    ----------
    trace : Trace
    index : int
        The index of the step where the session stands; ``len(trace.steps)`` at the end.
    frame : str, optional
        The module that `Session.look_up` has gone to; empty for the whole pass.
    recorded : Trace
        The trace as it was before `Session.set` changed something.
    inside : (Call, Step), optional
        The call and the step of the op that was stepped into. This pass goes through the op's
        reference.
    breaks : list of Breakpoint
    changed : dict of int to ndarray
        The values that `Session.set` and `Session.descend` have changed.
    history : tuple of Earlier
        The earlier traces.
    """

    trace: Trace
    index: int = 0
    frame: str | None = None
    recorded: Trace = field(init=False)
    inside: tuple[Call, Step] | None = None
    breaks: list[Breakpoint] = field(default_factory=list)
    changed: what_if.Changes = field(default_factory=dict)
    history: tuple[Earlier, ...] = ()

    def __post_init__(self) -> None:
        self.recorded = self.trace

    @property
    def at_end(self) -> bool:
        """Whether every step was taken."""
        return self.index >= len(self.trace.steps)


class Session:
    """Walks through a trace, and answers questions about the step where it stands.

    Each command of the stepper is a method here, or a few:

    ======================  ========================================================
    next, back, jump        `move`, `jump`; `follow`, of a later pass
    continue, until, over   `go_on`, `go_until`, `go_over`
    break, tbreak           `add_break`, `breaks`, `clear_breaks`
    into, out               `step_into`, `proof`, `step_out`
    (after every move)      `current_view`: a `StepView`, an `EndView` or a `ProofView`;
                            `watched_values`
    up, down                `look_up`
    where, whatis, list     `neighbourhood`, `description`, `source`
    print                   `evaluate`; `symbols`, what ``$x`` and so on stand for
    watch, unwatch          `watch`, `unwatch`
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
    n_breaks : int
        How many breakpoints were set, with those that were removed.

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
        self.n_breaks = 0  # that were set: numbers are not used again

    def branch(self) -> Session:
        """Return a session that stands at the same step, and moves alone."""
        other = copy.copy(self)
        other.levels = [copy.copy(level) for level in self.levels]
        for level in other.levels:
            level.breaks = list(level.breaks)
        other.watched = list(self.watched)
        return other

    def follow(self, trace: Trace) -> Session:
        """Return a session of another pass, with the breakpoints and watched expressions."""
        other = Session(trace)
        other.hidden, other.watched, other.n_breaks = self.hidden, self.watched, self.n_breaks
        for stop in self.levels[0].breaks:
            try:
                other.level.breaks.append(other.placed(stop))
            except CommandError as error:
                other.level.breaks.append(Breakpoint(stop.number, stop.text, stop.once,
                                                     pending=str(error)))  # fmt: skip
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
    def progress(self) -> str:
        """Where the session stands in the innermost pass, as in ``step 7 of 31``."""
        if self.at_end:
            return f"the end of {len(self.trace.steps)} steps"
        return self.view().progress

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

    def labels(self, number: int, index: Index = ()) -> Labels:
        """Return what the rows and columns of a value, or of a part of it, stand for."""
        recording = self.trace.recording
        whole = Labels(recording.axes_of(number), recording.texts)
        return whole.part(index) if index else whole

    def labels_of(self, text: str) -> Labels | None:
        """Return the labels of what an expression names, if it is a value, a cotangent or a part.

        Of another expression, such as ``W * 2``, nothing is known.
        """
        text = _of_cotangent(text)
        if match := re.fullmatch(r"\$(g|d)(\w*)(\[.*\])?", text):
            results = {symbol: f"out{symbol[1:]}" for symbol in self.step.symbols}
            known = results if match[1] == "g" else {f"d{name}": name for name in self.call.parents}
            text = f"${known.get(match[1] + match[2], match[1] + match[2])}{match[3] or ''}"
        with suppress(CommandError):
            return self.labels(*self.find_part(text))
        return None

    def find(self, name: str, others: Iterable[str] = ()) -> int:
        """Return the number of a value.

        Parameters
        ----------
        name : str
            The whole name, the name inside the step's module, or the end of one name only, with any
            spaces; or the symbol of an argument or a result, such as ``$x``.
        others : iterable of str
            Names of other things that the user may have meant, for the message.

        Raises
        ------
        CommandError
            If no value, or more than one, has that name.
        """
        if name.startswith("$"):
            return self.number_of_symbol(name[1:])
        name, names = plain_quotes(name), self.numbers_by_name()
        found = self.called(name, names)
        if len(found) == 1:
            return names[found[0]]
        if found:
            more = " ..." if len(found) > 4 else ""
            raise CommandError(f"{name} may be {', '.join(found[:4])}{more}")
        if not self.at_end and name in self.symbols():
            raise Unknown(
                f"nothing here is called {name!r}; the symbol of the rule is written ${name}"
            )
        close = [n for n in names if re.search(rf"(^|\.){re.escape(name)}[.\[]", n)][:3]
        close = close or difflib.get_close_matches(name, [*names, *others], 3, 0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise Unknown(f"nothing here is called {name!r}{hint}")

    def numbers_by_name(self) -> dict[str, int]:
        """Return the numbers of all values by their names."""
        recording = self.trace.recording
        numbers = [*recording.constants, *recording.values]
        return {plain_quotes(recording.name(number)): number for number in numbers}

    def called(self, name: str, names: Iterable[str]) -> list[str]:
        """Return those of the names that a user may mean by a name; see `find`."""
        for whole in (name, f"{self.scope}.{name}"):
            if whole in names:
                return [whole]
        joined = "".join(name.split())
        if same := [n for n in names if "".join(n.split()) == joined]:  # but for spaces
            return same
        return [n for n in names if n.endswith((f".{name}", f"['{name}']"))]

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
        if number in self.trace.recording.constants:
            raise CommandError(f"{self.name(number)} is off the tape: it gets no cotangent")
        passed = self.trace.steps[: self.level.index + 1]
        for step in passed:
            results = self.trace.call(step).results
            if number in results:  # also if `set` has replaced the cotangent
                return as_tuple(step.cotangent)[results.index(number)]
        found = self.trace.cotangent_of(number, len(passed))
        if found is None:
            first = next((i for i, _ in self.trace.edges_to(number)), None)
            name = self.name(number)
            if first is None:
                raise NotYet(f"nothing arrives at {name} in this pass: the result does not use it")
            raise NotYet(
                f"nothing has arrived at {name}: step {first + 1} is the first to send to it"
            )
        return found

    def find_part(self, text: str) -> tuple[int, Index]:
        """Return the number of a value, and the index of a part: of ``W1[0, 2]``, of ``W1``."""
        name, inside = split_index(text)
        if not inside or self.is_name(text):
            return self.find(text), ()
        number = self.find(name)
        try:
            return number, read_index(inside, self.value(number).shape)
        except ValueError as error:
            raise CommandError(f"{name}{error}") from None

    def is_name(self, text: str) -> bool:
        """Return whether a text is a whole name, also with brackets: ``layers[0].b``, ``f(x)[0]``.

        ``x[0]`` is an element if a variable holds x, though a result may have that name, too.
        """
        held = {plain_quotes(name) for name in self.trace.recording.names.values()}
        name, text = split_index(plain_quotes(text))[0], plain_quotes(text)
        is_element = name != text and self.called(name, held) and not self.called(text, held)
        return not is_element and bool(self.called(text, self.numbers_by_name()))

    def names(self) -> list[str]:
        """Return the names of values, ops and modules, for completion."""
        calls = self.trace.recording.calls.values()
        names = dict.fromkeys(self.trace.recording.names.values())
        return list(names | dict.fromkeys([call.op.name for call in calls] + modules(self)))

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
        alike = self.trace.alike(step)
        rules = {line.symbol: line.text for line in lines_of(call, self.names_of_symbols(call))}
        received = [
            Received(symbol, self.name(result), g, self.labels(result))
            for result, (symbol, g) in zip(call.results, step.symbols.items(), strict=True)
        ]
        sent = [
            Sent(
                symbol=f"d{edge.input}",
                rule=rules.get(f"d{edge.input}", f"d({self.name(edge.parent)}) += $d{edge.input}"),
                value=edge.contribution,
                target=self.name(edge.parent),
                note=self.note(edge),
                labels=self.labels(edge.parent),
            )
            for edge in step.edges
        ]
        return StepView(
            number=self.level.index + 1,
            total=len(self.trace.steps),
            op=call.op.name,
            at=call.at,
            scope=call.scope,
            calls=(alike.index(self.level.index) + 1, len(alike)),
            statement=call.statement,
            inside=inside[0].op.name if inside else "",
            received=received,
            sent=None if self.hidden else sent,
        )

    def note(self, edge: Edge) -> str:
        """Say whether a cotangent is complete with what a step adds.

        Of an op that uses a value twice, as in ``e * e``, both contributions come in one step.
        """
        uses = list(self.trace.edges_to(edge.parent))
        place, step = next((k, i) for k, (i, other) in enumerate(uses) if other is edge)
        waits = sum(i != step for i, _ in uses[place + 1 :])
        notes = ["summed"] if place else []
        if waits:
            notes.append(f"{waits} more to come")
        elif uses[place + 1 :]:
            notes.append("and once more in this step")
        elif edge.parent not in self.trace.recording.maker:
            notes.append("its gradient is complete")
        elif edge.parent in self.trace.waiting():
            notes.append("complete: asked for")
        return ", ".join(notes)

    def formula(self, text: str = "") -> FormulaView:
        """Return what the op and its rule compute, in names and with numbers.

        Parameters
        ----------
        text : str
            A result (``a``), a cotangent that the step adds to (``d(W1)``), a symbol (``$dx``), or
            an element of one, such as ``d(W1)[2, 7]``. A result or a cotangent of another step is
            found there. Without a text, the whole formula.

        Raises
        ------
        CommandError
            If the op states no formula, or the formula has no such part.
        """
        call, step, names = self.call, self.step, self.names_of_symbols(self.call)
        lines = lines_of(call, names)
        if not lines:
            raise CommandError(f"{call.op.name} states no formula")
        symbols = {
            f"${symbol}": name for symbol, name in names.items()
            if symbol not in call.arguments or symbol in call.parents or symbol in call.constants
            if symbol[0] != "d" or symbol in call.arguments
        }  # fmt: skip
        numbers = Numbers(
            call.arguments, self.out(call), step.cotangent,
            {edge.input: edge.contribution for edge in step.edges},
        )  # fmt: skip
        stated: Any = call.op.stated
        if not text:
            equations = write_with_numbers(stated, numbers, names)
            return FormulaView(symbols, [line.text for line in lines], list(equations))
        try:
            asked, index = self.part_of_formula(text, [line.symbol for line in lines])
        except Unknown as error:
            at, text = self.part_of_another_step(text, error)
            there = self.branch().go(at)
            place = f"step {at + 1}, {there.call.op.name}"
            return there.formula(text)._replace(place=place)
        shown = [line.text for line in lines if line.symbol in asked]
        found: list[NumberedEquation] = []
        for symbol in asked:
            found += write_with_numbers(
                stated, numbers, names, symbol, index, self.labels_of_symbol
            )
        labels = self.labels_of_symbol(asked[0]) if index else None
        element = labels.of_element(index) if labels and index else ""
        return FormulaView(symbols, shown, found, element)

    def labels_of_symbol(self, symbol: str) -> Labels | None:
        """Return what the axes of an array in the formula of the call count, if it is known."""
        recording = self.trace.recording
        axes = recording.axes_of(self.call.number, symbol)
        return Labels(axes, recording.texts) if axes else self.labels_of(f"${symbol}")

    def part_of_formula(
        self, text: str, known: list[str]
    ) -> tuple[list[str], tuple[int, ...] | None]:
        """Return the symbols of a part of the formula, and the index of the element, if any."""
        values = self.symbols()
        shown: dict[str, list[str]] = {}
        for symbol in filter(None, known):
            names = self.names_of_symbols(self.call)
            for written in (f"${symbol}", names.get(symbol, f"${symbol}")):
                shown.setdefault(plain_quotes(written), []).append(symbol)
        text = plain_quotes(text)
        name, inside = (text, "") if text in shown else split_index(text)
        if inside and not name:
            example = min(shown, key=lambda written: written.startswith("$"))
            raise CommandError(f"{text} of which array? As in: formula {example}{text}")
        if name not in shown:
            raise Unknown(f"the formula has no {name}; it has {', '.join(shown)}")
        asked = list(dict.fromkeys(shown[name]))
        if not inside:
            return asked, None
        if asked[0] not in values:
            raise CommandError(f"{name} is a value of the formula alone, and has no elements here")
        try:
            index = read_index(inside, np.shape(values[asked[0]]))
        except ValueError as error:
            name = self.names_of_symbols(self.call).get(asked[0], name)
            raise CommandError(f"{name}{error}") from None
        if len(index) < np.ndim(values[asked[0]]) or not all(isinstance(i, int) for i in index):
            shape = list(np.shape(values[asked[0]]))
            raise CommandError(f"name one element: {name} has the shape {shape}")
        return asked, index

    def part_of_another_step(self, text: str, error: Unknown) -> tuple[int, str]:
        """Return the step whose formula has a part, and the part in symbols, as in ``$out[2, 7]``.

        If no formula of the pass has it, the given error is raised.
        """
        name, inside = split_index(plain_quotes(text))
        if name.startswith("$"):  # a symbol of this step
            raise error
        element = f"[{inside}]" if inside else ""
        cotangent = re.fullmatch(COTANGENT, name)
        try:
            number = self.find(cotangent[1] if cotangent else name)
        except Unknown:
            raise error from None
        if cotangent:
            uses = list(self.trace.edges_to(number))
            if len(uses) == 1:
                at, edge = uses[0]
                return at, f"$d{edge.input}{element}"
            steps = ", ".join(str(at + 1) for at in dict.fromkeys(at for at, _ in uses))
            if uses:
                raise CommandError(
                    f"{name} is the sum of what the steps {steps} add: why {cotangent[1]} prints "
                    "the sum, jump N goes to step N"
                )
        call = self.trace.recording.maker.get(number)
        for at, step in enumerate(self.trace.steps):
            if not cotangent and self.trace.call(step) is call:
                several = str(call.results.index(number)) if call.op.multiple else ""
                return at, f"$out{several}{element}"
        raise error  # it is a leaf, say

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
                was = (
                    f"its norm was {norm(before):.4g}" if gradient.ndim else f"it was {before:.4g}"
                )
                note = "as recorded" if same else was
            found.append(Gradient(self.name(number), gradient, note, self.labels(number)))
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

    def look_up(self, n: int) -> ModuleView | None:
        """Look at the module that contains the one looked at, or n further; back if n is negative.

        The session stays at its step. The result is None if it looks at the step alone again.
        """
        parts = self.call.scope.split(".") if self.call.scope else []
        frames = [None, *(".".join(parts[:i]) for i in range(len(parts), -1, -1))]
        at = frames.index(self.level.frame) + n
        if not 0 <= at < len(frames):
            if n > 0:
                raise CommandError("this is the whole pass")
            raise CommandError("this is the step itself; `up` looks at its module")
        self.level.frame = frames[at]
        return None if frames[at] is None else self.module_view(str(frames[at]))

    def module_view(self, name: str) -> ModuleView:
        """Return a module's steps, and the values that enter and leave it; of all for no name."""
        trace, recording = self.trace, self.trace.recording
        calls = [c for c in recording.behind(trace.start) if not name or is_inside(c.scope, name)]
        made = {number for call in calls for number in call.results}
        read = {number for call in calls for number in call.parents.values()}
        others = {
            number for call in recording.calls.values() if not made.issuperset(call.results)
            for number in call.parents.values()
        }  # fmt: skip
        steps = [i for i, step in enumerate(trace.steps, 1) if made.issuperset(
                 trace.call(step).results)]  # fmt: skip

        def received(numbers: list[int]) -> list[Received]:
            found = [(n, trace.cotangent_of(n)) for n in sorted(numbers)]
            return [Received("", recording.name(n), g, self.labels(n))
                    for n, g in found if g is not None]  # fmt: skip

        return ModuleView(
            name, steps[0], steps[-1], len(trace.steps),
            received([n for n in made if n in others or n == trace.start]),
            received([n for n in read - made if n in recording.maker]),
        )  # fmt: skip

    def argument(self, call: Call, name: str) -> str:
        """Return a short text for an argument of a call: its name, kind or value."""
        number = call.parents.get(name, call.constants.get(name))
        if name in call.parents or number in self.trace.recording.names:
            return self.name(number)  # type: ignore[arg-type]
        x = call.arguments[name]
        if isinstance(x, ndarray) and x.ndim:
            return kind(x)
        return text if len(text := str(x)) <= 12 else f"{name}=…"

    def description(self, text: str) -> list[str]:
        """Return what a value is: its dtype and shape, what made it, and what uses it.

        The text is a name, or an expression, of which only the kind is known.
        """
        try:
            number = self.find(text)
        except CommandError:
            value = self.evaluate(text)
            is_array = isinstance(value, ndarray | np.generic)
            return [f"{text}: {kind(value) if is_array else type(value).__name__}"]
        recording = self.trace.recording
        made = recording.maker.get(number)
        if number in recording.constants:
            origin = "an array off the tape, which gets no cotangent"
        else:
            origin = f"made by {made.op.name}  {made.at}" if made else "a leaf"
        lines = [f"{self.name(number)}: {kind(self.value(number))}, {origin}"]
        for call in recording.calls.values():
            if number in (*call.parents.values(), *call.constants.values()):
                results = ", ".join(map(self.name, call.results))
                lines.append(f"  used by {call.op.name} for {results}  {call.at}")
        return lines

    def source(self, what: str = "") -> list[tuple[int, str, bool]]:
        """Return lines of source: the number, the text, and whether the step's line is this one.

        Parameters
        ----------
        what : str
            ``op`` for the function of the op, or for its reference if it has one; ``rule`` for the
            functions of its rules. Without it, the lines of the program around the step; a number
            for those around another line.
        """
        call = self.call
        if what in ("op", "rule"):
            functions = [call.op.reference_function or call.op.forward]
            if what == "rule":
                functions = list(dict.fromkeys(rule.function for rule in call.op.rules))
            try:
                texts = [inspect.getsource(function).rstrip() for function in functions]
            except (OSError, TypeError):
                raise CommandError(f"the source of the {what} is not at hand") from None
            return [(0, line, False) for line in "\n\n".join(texts).splitlines()]
        if what and not what.isdecimal():
            raise CommandError(f"list, list N, list op or list rule; not list {what}")
        lines, here = source_lines(call.place), int(call.place[1] or 0)
        if not lines:
            return [(here, line, True) for line in call.statement.text.splitlines()]
        middle = min(int(what or here), len(lines))
        first = max(1, middle - AROUND)
        shown = lines[first - 1 : middle + AROUND]
        return [(n, line.rstrip(), n == here) for n, line in enumerate(shown, first)]

    def explanation(self, number: int) -> Explanation:
        """Return the contributions to a value's cotangent, grouped by module."""
        if self.trace.cotangent_of(number) is None:
            raise CommandError(f"no gradient reaches {self.name(number)}")
        return explain_whole(self.trace, number)

    def why(self, text: str, width: int = 80) -> str:
        """Return why the gradient of ``NAME`` or ``NAME[INDEX]`` is what it is, as a text.

        The gradient may also be written as the stepper shows it, as ``d(NAME)[INDEX]``.
        """
        match = re.fullmatch(COTANGENT, text)
        with suppress(Unknown):
            if match:  # d(x[0]) of a result x[0]
                return self.trace.why(self.find(match[1]), (), width)
        return self.trace.why(*self.find_part(_of_cotangent(text)), width)

    # ---- moving

    def go(self, index: int) -> Session:
        """Stand at another step of this pass, or at its end."""
        self.level.index = max(0, min(index, len(self.trace.steps)))
        self.level.frame = None
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
            The number of a step, ``call N`` for another call by the same part of the program, or
            ``loop`` for the next step outside of the loop.
        """
        word, _, rest = text.partition(" ")
        if word not in ("call", "loop"):
            hint = f"; `until {text}` goes to a line" if text.isdecimal() else ""
            self.go(_number(text, len(self.trace.steps), "step", hint) - 1)
            return
        alike = self.trace.alike(self.step)
        if len(alike) == 1:
            raise CommandError("this step is in no loop: its line ran once in this pass")
        if word == "call":
            self.go(alike[_number(rest, len(alike), "call") - 1])
            return
        later = enumerate(self.trace.steps[self.level.index + 1 :], self.level.index + 1)
        outside = (i for i, step in later if len(self.trace.alike(step)) < len(alike))
        index = next(outside, None)
        if index is None:
            raise CommandError("all later steps are in the loop")
        self.go(index)

    def go_on(self, here: bool = False) -> str:
        """Go on to the next breakpoint, or to the end; return the breakpoint's text, or nothing.

        With `here`, the session stays if there is a breakpoint at the step where it stands.
        """
        for index in range(self.level.index + (not here), len(self.trace.steps)):
            for stop in self.level.breaks:
                if stop.holds(self.trace.steps[index]) and self.is_true(stop.expression, index):
                    self.go(index)
                    if stop.once:
                        self.level.breaks.remove(stop)
                    return stop.text
        self.go(len(self.trace.steps))
        return ""

    def is_true(self, expression: str, index: int) -> bool:
        """Return whether an expression is true at a step; an empty one is, an undefined one not."""
        if not expression:
            return True
        there = self.branch().go(index)
        with suppress(CommandError):
            return bool(np.all(there.evaluate(expression)))
        return False

    def go_until(self, text: str, back: bool = False) -> None:
        """Go to the next step for which a condition holds, or to the last one before this step.

        The text is that of `stops.condition`.
        """
        holds, steps, here = condition(self, text), self.trace.steps, self.level.index
        ways = [range(here + 1, len(steps)), range(here - 1, -1, -1)]
        ahead, behind = reversed(ways) if back else ways
        index = next((i for i in ahead if holds(steps[i])), None)
        if index is not None:
            self.go(index)
            return
        what = f"line {text}" if text.isdecimal() else text
        message = f"no {'earlier' if back else 'later'} step has to do with {what}"
        if any(holds(steps[i]) for i in behind):
            message += f"; `{'until' if back else 'back until'} {text}` finds one"
        elif text.isdecimal() and 1 <= int(text) <= len(steps):
            message += f"; `jump {text}` goes to step {text}"
        raise CommandError(message)

    def go_over(self, text: str = "") -> str:
        """Go on to the first step outside of a module.

        By default, it is the module that `look_up` has gone to, or that of this step.

        Returns the name of the module.
        """
        module = find_module(self, text) if text else self.level.frame or self.scope
        if not module:
            raise CommandError(
                f"no module here is called {text!r}" if text else "this step is in no module"
            )
        scopes = [self.trace.call(step).scope for step in self.trace.steps]
        here = self.level.index
        if not any(is_inside(scope, module) for scope in scopes[here:]):
            raise CommandError(f"no later step is in {module}")
        first = next(i for i in range(here, len(scopes)) if is_inside(scopes[i], module))
        later = range(first, len(scopes))
        self.go(next((i for i in later if not is_inside(scopes[i], module)), len(scopes)))
        return module

    def add_break(self, text: str, once: bool = False) -> Breakpoint:
        """Add a breakpoint: `go_on` stops at steps for which a condition holds.

        If this pass has no such place, the breakpoint is pending: a later pass may have it.

        Parameters
        ----------
        text : str
            That of `stops.condition`; then, if an expression must be true, ``if EXPRESSION``, or
            ``, EXPRESSION`` as in pdb.
        once : bool
            Whether the breakpoint is removed when it has stopped the walk.
        """
        if " if " not in text:
            text = re.sub(r"^((?:\[[^]]*\]|\([^)]*\)|[^],[()])+),\s*", r"\1 if ", text)
        stop = self.placed(Breakpoint(self.n_breaks + 1, text, once))
        self.n_breaks += 1
        self.level.breaks.append(stop)
        return stop

    def placed(self, stop: Breakpoint) -> Breakpoint:
        """Return a breakpoint with its condition in this pass; see `add_break`."""
        if not stop.where or stop.where.startswith("if "):
            raise CommandError(f"break where? As in: break LINE {stop.text}".rstrip())
        if stop.text.endswith((" if", ",")):
            raise CommandError("break if what is true? As in: break LINE if d(h)[0] > 0")
        try:
            holds, here = condition(self, stop.where), self.level.index
            if stop.where.split()[0] not in LIMITS:
                places = (i for i, step in enumerate(self.trace.steps) if holds(step))
                if (here := next(places, -1)) < 0:
                    raise Unknown(f"no step of this pass has to do with {stop.where}")
            if stop.expression:
                with suppress(NotYet):
                    self.branch().go(here).evaluate(stop.expression)
        except Unknown as error:
            return Breakpoint(stop.number, stop.text, stop.once, pending=str(error))
        return replace(stop, holds=holds, pending="")

    def breaks(self) -> list[str]:
        """Return the breakpoints of this pass, as they were added."""
        return [stop.text for stop in self.level.breaks]

    def clear_breaks(self, number: int | None = None) -> None:
        """Remove a breakpoint of this pass, or all of them."""
        kept = [s for s in self.level.breaks if number is not None and s.number != number]
        if number is not None and len(kept) == len(self.level.breaks):
            raise CommandError(f"there is no breakpoint {number}")
        self.level.breaks = kept

    # ---- into an op

    def step_into(self) -> str:
        """Step into the op, through its reference in primitives; return the op's name."""
        call, step = self.call, self.step
        if call.op.reference_function is None:
            raise CommandError(
                f"{call.op.name} is a primitive: it has a rule and nothing inside; see formula"
            )
        inside, outer = inside_of(call, step), self.trace.recording
        numbers = {inside.recording.name(number): number for number in inside.recording.values}
        inside.recording.texts = outer.texts
        inside.recording.axes = {
            numbers[name]: outer.axes_of(number)
            for name, number in call.parents.items() if name in numbers
        }  # fmt: skip
        self.levels.append(Level(inside, inside=(call, step)))
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
        except SyntaxError as error:
            raise CommandError(f"SyntaxError: {error.msg}") from None
        except Exception as error:  # whatever the expression raises
            if isinstance(error, AttributeError | Unknown) and (advice := tensors_advice(text)):
                raise CommandError(advice) from None
            if isinstance(error, CommandError):
                raise
            raise CommandError(f"{type(error).__name__}: {error}") from None

    def watch(self, text: str) -> None:
        """Add an expression to those that `watched_values` evaluates after every move."""
        with suppress(NotYet):
            self.evaluate(text)
        if text not in self.watched:
            self.watched.append(text)

    def unwatch(self, text: str = "") -> None:
        """Remove an expression from those that are watched, or all of them."""
        if text and text not in self.watched:
            raise CommandError(f"{text} is not watched; `watch` lists what is")
        self.watched[:] = [other for other in self.watched if text and other != text]

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
        if number in self.trace.recording.constants:
            raise CommandError(f"{self.name(number)} is off the tape: it gets no cotangent")
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
        if match := re.fullmatch(r"(\S+)\s+(?!if |or |and |in |is |not )([\w.\[('\"].*)", text):
            with suppress(Unknown):
                name = self.name(self.find(match[1]))
                raise CommandError(f"set {name} = {match[2]} changes {name}: type the sign =")
        self.set_cotangent(text)
        return None

    def replaced(self, left: str, right: str) -> tuple[int, ndarray]:
        """Return the number of a value, and the value with a part of it replaced."""
        number, index = self.find_part(left)
        return number, replaced_part(self.value(number), index, self.evaluate(right), left)

    def change(self, changes: what_if.Changes) -> what_if.Outcome:
        """Run the program again with other values; see `autograd.stepper.what_if`."""
        level = self.level
        if level.inside:
            raise CommandError("a value is changed in the outermost pass: go `out` first")
        before, changed = self.trace, level.changed | changes
        try:
            with np.errstate(all="ignore"):
                after = what_if.run_again(level.recorded, changed)
                outcome = what_if.compare(before, after, changes)
        except (ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise CommandError(f"the program does not run with that: {error}") from None
        self.remember(after)
        level.changed = changed
        return outcome

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
        level, here = self.level, self.level.index
        there = same_place(level.trace, here, after)
        earlier = (*level.history, Earlier(level.trace, level.changed, here, there))
        level.trace, level.index = after, there
        level.history = earlier[-what_if.count_kept([each.trace for each in earlier]) :]

    def undo(self) -> None:
        """Undo the last `set` or `descend`; stand where the session stood then, unless it moved."""
        level = self.level
        if not level.history:
            if level.trace is not level.recorded:
                raise CommandError("earlier changes take too much memory to be kept; "
                                   "`set` alone undoes all")  # fmt: skip
            raise CommandError("nothing was set")
        *earlier, last = level.history
        has_moved = level.index != last.place_after
        level.index = same_place(level.trace, level.index, last.trace) if has_moved else last.place
        level.trace, level.changed, level.history = last.trace, last.changed, tuple(earlier)

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
        self.rerun(given | {symbol: self.array(right, given[symbol])})

    def rerun(self, cotangents: dict[str, ndarray]) -> None:
        """Run the rest of the pass again with other cotangents of this step, by their symbols."""
        value: Any = tuple(cotangents.values()) if self.call.op.multiple else cotangents["g"]
        self.remember(self.trace.rerun(self.level.index, value))

    def reset(self) -> None:
        """Undo every `set` and `descend`: the pass is as recorded again."""
        level = self.level
        level.index = same_place(level.trace, level.index, level.recorded)
        level.trace, level.history, level.changed = level.recorded, (), {}

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


def same_place(before: Trace, index: int, after: Trace) -> int:
    """Return the index of the same step in another trace of the program, or of its end.

    If the step is gone, because a result that was set is a leaf now, it is that of the nearest step
    before.
    """
    if index >= len(before.steps):
        return len(after.steps)
    places = {step.number: i for i, step in enumerate(after.steps)}
    passed = (step.number for step in reversed(before.steps[: index + 1]))
    return next((places[number] for number in passed if number in places), 0)


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


def _of_cotangent(text: str) -> str:
    """Return ``W[0]`` for ``d(W)[0]``, and any other text as it is."""
    match = re.fullmatch(rf"{COTANGENT}(\[.*\])?", text)
    return match[1] + (match[2] or "") if match else text


def _number(text: str, most: int, what: str, hint: str = "") -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise CommandError(f"{text!r} is no {what}: they are numbered from 1 to {most}{hint}")
    return int(text)


def replaced_part(x: ndarray, index: Index, value: Any, name: str) -> ndarray:
    """Return a copy of an array with another value in a part; raise CommandError if none fits."""
    changed = x.copy(order="K")
    changed[index] = _exact(value, changed[index], name)
    return changed


def _exact(value: Any, like: Any, name: str) -> Any:
    """Return a value in the shape and dtype of an array; integers must stay what they are."""
    fitted = _fit(value, np.asarray(like))
    if fitted.dtype.kind in "iub" and not np.all(fitted == value):
        raise CommandError(f"{name} has the dtype {fitted.dtype}; {value} is no value of it")
    return fitted


def _fit(value: Any, like: ndarray) -> ndarray:
    """Return a value in the shape and dtype of an array, or raise CommandError."""
    try:
        if np.iscomplexobj(value):  # a cast would drop the imaginary part
            raise TypeError
        return np.broadcast_to(np.asarray(value, dtype=like.dtype), like.shape).copy()
    except (TypeError, ValueError, OverflowError):
        is_array = isinstance(value, ndarray | np.generic)
        given = kind(value) if is_array else f"a {type(value).__name__}"
        raise CommandError(f"expected {kind(like)}, and was given {given}") from None

"""The stepper: a debugger whose program is a backward pass.

Commands are those of pdb where it has such. Each is a method here, `do_next` for ``next``; its
docstring is what ``help`` shows.
"""

from __future__ import annotations

import builtins
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray
from rich.text import Text

from autograd.anomaly import Contribution, Explanation
from autograd.console import Console
from autograd.stepper import display
from autograd.stepper.display import largest, matrix, norm
from autograd.stepper.record import Call, kind, record
from autograd.stepper.trace import Edge, Step, Trace, as_tuple, trace
from autograd.tensor import grad, tensor
from autograd.testing.diagnosis import error_curve
from autograd.testing.differences import STEP, central_difference

ALIASES = {
    "n": "next", "c": "continue", "u": "until", "b": "break", "i": "into", "o": "out", "w": "where",
    "p": "print", "f": "formula", "q": "quit", "h": "help", "?": "help", "exit": "quit",
}  # fmt: skip
FEW = 64  # elements, up to which an array is shown in full
WRITABLE = 1024  # elements, up to which formulas are shown with numbers in them
LIMITS = {"nonfinite": np.inf, "vanishing": 1e-6, "exploding": 1e3}  # of what a step sends
SAMPLED = 6  # entries of a large array that a check looks at
ROUNDINGS = 4  # of each value on the way, that a check allows for


class CommandError(ValueError):
    """A command that cannot be carried out, and why."""


class Namespace(dict):
    """Names and what they stand for; of others, what a function finds."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self.find = find

    def __missing__(self, name: str) -> Any:
        """Look elsewhere."""
        return self.find(name)


@dataclass
class Level:
    """A pass that is walked through: the outer one, or the inside of an op.

    Attributes
    ----------
    trace : Trace
    index : int
        The step it stands at; ``len(trace.steps)`` at the end.
    recorded : Trace
        As it was before any cotangent was set.
    inside : (Call, Step), optional
        The op whose reference this is.
    """

    trace: Trace
    index: int = 0
    recorded: Trace = field(init=False)
    inside: tuple[Call, Step] | None = None
    breaks: list[tuple[str, Callable]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorded = self.trace


class Stepper:
    """Walks through a trace by commands, and shows what is there.

    Parameters
    ----------
    trace : Trace
    console : rich.console.Console, optional
        Where to write; standard output if not given.

    Examples
    --------
    >>> import autograd
    >>> from autograd.stepper import trace
    >>> from autograd.stepper.debugger import Stepper
    >>> with autograd.record():
    ...     x = autograd.tensor(3.0, requires_grad=True)
    ...     loss = x * x + x
    >>> stepper = Stepper(trace(loss))
    >>> stepper.run("print d(loss) * 2")
    2.0
    >>> stepper.run("why x")
    gradient float64[], norm 7, from 3 uses
      multiply(x)  norm 3           +42.9% of the gradient
      multiply(y)  norm 3           +42.9% of the gradient
      add(y)       norm 1           +14.3% of the gradient
    """

    def __init__(self, trace: Trace, console: Console | None = None) -> None:
        self.console = console or Console()
        self.levels = [Level(trace)]
        self.watched: list[str] = []
        self.hidden = False  # whether what a step sends is left for the learner to predict
        self.done = False  # whether the pass was left,
        self.quit = False  # and for good

    # ---- where it stands

    @property
    def level(self) -> Level:
        """The innermost pass."""
        return self.levels[-1]

    @property
    def trace(self) -> Trace:
        """What is walked through."""
        return self.level.trace

    @property
    def step(self) -> Step:
        """The step it stands at; an error at the end."""
        if self.level.index >= len(self.trace.steps):
            raise CommandError("the pass is at its end; `back` goes back into it")
        return self.trace.steps[self.level.index]

    @property
    def call(self) -> Call:
        """The call that the step goes back through."""
        return self.trace.call(self.step)

    def value(self, number: int) -> ndarray:
        """Return a recorded value."""
        return self.trace.recording.values[number]

    def name(self, number: int) -> str:
        """Return what a value is called; in the module of the step, without the module's name."""
        scope = self.call.scope if self.level.index < len(self.trace.steps) else ""
        return self.trace.recording.name(number).removeprefix(f"{scope}." if scope else "")

    def out(self, call: Call) -> Any:
        """Return a call's result, or the tuple of several."""
        results = tuple(self.value(number) for number in call.results)
        return results if call.op.multiple else results[0]

    # ---- running

    def print(self, *parts: Any, style: str = "") -> None:
        """Write a line."""
        text = Text(style=style)
        for part in parts:
            text.append_text(part) if isinstance(part, Text) else text.append(str(part))
        text.rstrip()
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def run(self, line: str) -> None:
        """Carry out one command; what is wrong with it is said, and changes nothing."""
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            return
        with self.console:  # shown at once: in a notebook as one
            try:
                self.command(word)(rest.strip())
            except CommandError as error:
                self.print(error, style="red")
            except Exception as error:  # the program that is looked at goes on all the same
                self.print(f"{word}: {type(error).__name__}: {error}", style="red")

    def command(self, word: str) -> Callable[[str], None]:
        """Return a command by its name, its letter, or the beginning of its name."""
        names = self.commands()
        name = ALIASES.get(word, word)
        found = [name] if name in names else [n for n in names if n.startswith(name)]
        if len(found) == 1:
            return getattr(self, f"do_{found[0]}")
        if found:
            raise CommandError(f"{word} may be {', '.join(found)}")
        close = difflib.get_close_matches(word, names, 1)
        hint = f"did you mean {close[0]}?" if close else "help lists the commands"
        raise CommandError(f"there is no command {word!r}; {hint}")

    @classmethod
    def commands(cls) -> list[str]:
        """Return the names of the commands."""
        return [name.removeprefix("do_") for name in vars(cls) if name.startswith("do_")]

    def play(self, lines: Iterable[str]) -> None:
        """Run commands from a file: each is shown before what it says."""
        self.begin()
        for line in lines:
            if line.strip():
                self.print("(step) ", line.rstrip(), style="bold")
                self.run(line)
            if self.done:
                return

    def talk(self) -> None:
        """Ask for commands: in a terminal with history and completion, in a notebook in its way.

        Elsewhere they are read from the standard input.
        """
        terminal = sys.stdin.isatty() and self.console.is_terminal
        if not terminal and not hasattr(builtins, "__IPYTHON__"):
            self.play(sys.stdin)
            return
        ask = self.prompt() if terminal else input
        self.begin()
        last = ""
        while not self.done:
            try:
                line = ask("(step) ").strip()
            except KeyboardInterrupt:
                if not terminal:
                    raise
                continue
            except EOFError:
                self.do_quit("")
                return
            if not line and last.partition(" ")[0] in ("n", "next", "back", "c", "continue"):
                line = last  # as in pdb, an empty line repeats a move
            last = line
            try:
                self.run(line)
            except KeyboardInterrupt:
                self.print("interrupted", style="red")

    def prompt(self) -> Callable[[str], str]:
        """Return what asks in a terminal."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory

        words = WordCompleter(self.words, pattern=re.compile(r"[\w.\[\]]+"))
        session: Any = PromptSession(
            history=InMemoryHistory(), completer=words, complete_while_typing=False
        )
        return session.prompt

    def words(self) -> list[str]:
        """Return what may be completed: commands, values and ops."""
        calls = self.trace.recording.calls.values()
        ops = dict.fromkeys(call.op.name for call in calls)
        names = self.trace.recording.names.values()
        return [*self.commands(), *names, *(op for op in ops if op not in names)]

    # ---- showing

    def begin(self) -> None:
        """Say what the pass is, and show its first step."""
        n, ends = len(self.trace.steps), self.trace.waiting()
        results = self.trace.recording.maker.keys() & ends
        words = ("value", "values") if results else ("leaf", "leaves")
        loss = self.value(self.trace.start)
        what = f" = {display.one(loss)}" if loss.ndim == 0 else f", {kind(loss)}"
        self.print(
            Text(self.name(self.trace.start), "bold"), what,
            f": {n} step{'s' * (n != 1)} back to {len(ends)} {words[len(ends) != 1]}",
        )  # fmt: skip
        self.show()

    def show(self) -> None:
        """Show the step it stands at."""
        if self.level.index >= len(self.trace.steps):
            self.show_end()
        else:
            self.show_step()
        for expression in self.watched:
            self.print(Text(f"{expression}:", "dim"))
            self.run(f"print {expression}")

    def rule(self, left: str, right: str = "") -> None:
        """Draw a line across, with a title at its left end and a note at its right."""
        width = self.console.width
        left = left if len(left) + 4 <= width else left[: width - 5] + "…"
        right = f" {right}" if right and len(left) + len(right) + 10 <= width else ""
        fill = "─" * (width - len(left) - len(right) - 4)
        self.print(Text("── ", "dim"), Text(left, "bold"), Text(f" {fill}{right}", "dim"))

    def show_step(self) -> None:
        """Show a step: what comes in, and what goes out to where."""
        call, step, index = self.call, self.step, self.level.index
        text = call.place[2]
        inside = f"{self.level.inside[0].op.name} ▸ " if self.level.inside else ""
        self.print()
        self.rule(
            f"{inside}{index + 1}/{len(self.trace.steps)}  {call.op.name}",
            call.at,
        )
        if call.scope:
            self.print(Text(f"in {call.scope}", "dim"))
        if text:
            self.print(Text(text, "italic"))
        for result, (symbol, g) in zip(call.results, step.symbols.items(), strict=True):
            self.show_array(f"{symbol} = d({self.name(result)})", g)
        if self.hidden:
            self.print(Text("what it sends is hidden: predict", "dim"))
            return
        for edge in step.edges:
            note = self.note(edge)
            title = self.rule_of(call, edge.input)
            self.show_array(title, edge.contribution, self.name(edge.parent), note)

    def note(self, edge: Edge) -> str:
        """Say what happens to what the step sends."""
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

    def show_array(self, title: str, x: Any, target: str = "", note: str = "") -> None:
        """Show an array under its title; beside it if it is one line and there is room."""
        x, width = np.asarray(x), self.console.width
        head = Text("  ").append(title)
        tail = Text()
        if target:
            tail.append("  → ", "dim").append(target, "bold")
        tail.append(f"  {kind(x)}", "dim")
        size = f"  norm {norm(x):.4g}" if x.size > FEW else ""
        if head.cell_len + tail.cell_len + len(size) >= width:
            self.print(head)
            head = Text("  ")
        head.append_text(tail)
        if head.cell_len + len(size) < width:
            head.append(size, "dim")
        lines = list(matrix(x, width - 6, 8 if x.size <= FEW else 4))
        beside = len(lines) == 1 and head.cell_len + lines[0].cell_len + 3 <= width
        if beside:
            head.append("   ").append_text(lines[0])
        if note and head.cell_len + len(note) + 3 <= width:
            head.append(f"   {note}", "dim italic")
            note = ""
        self.print(head)
        for line in () if beside else lines:
            self.print("      ", line)
        if note:
            self.print(Text(f"      {note}", "dim italic"))

    def rule_of(self, call: Call, name: str) -> str:
        """Return the line of an op's formula that tells an input's cotangent, in symbols."""
        for line in self.formula_lines(call):
            if re.match(rf"d{re.escape(name)}(_\w+)? =", line):
                return line
        return f"d{name}"

    @staticmethod
    def formula_lines(call: Call) -> list[str]:
        """Return an op's formula for a call."""
        return call.op.stated.text(call.arguments).splitlines() if call.op.stated else []

    def show_end(self) -> None:
        """Show the gradients that the pass arrived at."""
        self.print()
        if self.level.inside:
            self.show_proof()
            return
        self.rule("the end: gradients")
        recorded = self.level.recorded
        gradients: Any = {n: self.trace.cotangent_of(n) for n in self.trace.waiting()}
        width = max((len(self.name(number)) for number in gradients), default=0)
        for number, gradient in gradients.items():
            before = None if self.trace is recorded else recorded.cotangent_of(number)
            note = ""
            if before is not None:
                same = np.array_equal(before, gradient)
                note = "as recorded" if same else f"its norm was {norm(before):.4g}"
            if len(gradients) <= 6:
                self.show_array(self.name(number), gradient, note=note)
            else:
                size = f"norm {norm(gradient):<10.4g}"
                extent = f"{kind(gradient):<18}"
                self.print(Text(f"  {self.name(number):<{width}}  {size} ").append(extent, "dim"),
                           Text(note, "dim italic"))  # fmt: skip

    # ---- moving

    def go(self, index: int) -> None:
        """Stand at another step, and show it."""
        self.level.index = max(0, min(index, len(self.trace.steps)))
        self.show()

    def do_next(self, text: str) -> None:
        """Go one step on, or N; from the end, leave the pass.  next [N]."""
        if not self.left():
            self.go(self.level.index + _count(text))

    def left(self) -> bool:
        """Leave a pass that is at its end: for the op that it is inside of, or the program."""
        if self.level.index < len(self.trace.steps):
            return False
        if self.level.inside:
            self.do_out("")
        else:
            self.done = True
        return True

    def do_back(self, text: str) -> None:
        """Go one step back, or N.  back [N]."""
        if self.level.index == 0:
            raise CommandError("this is the first step")
        self.go(self.level.index - _count(text))

    def do_continue(self, text: str) -> None:
        """Go on to the next breakpoint, or to the end; from there, leave the pass.  continue."""
        if self.left():
            return
        for index in range(self.level.index + 1, len(self.trace.steps)):
            for what, holds in self.level.breaks:
                if holds(self.trace.steps[index]):
                    self.print(Text(f"break: {what}", "yellow"))
                    self.go(index)
                    return
        self.go(len(self.trace.steps))

    def do_until(self, text: str) -> None:
        """Go on to an op, to what makes or feeds a value, or to a line.  until OP|NAME|LINE."""
        if not text:
            raise CommandError("until which op, value or line?")
        holds = self.condition(text)
        for index in range(self.level.index + 1, len(self.trace.steps)):
            if holds(self.trace.steps[index]):
                self.go(index)
                return
        raise CommandError(f"no later step has to do with {text}")

    def do_break(self, text: str) -> None:
        """Stop there when continuing; alone, list the breakpoints.

        break OP|NAME|LINE      an op, a value, a line of the program
        break [2, 3]            a result of that shape
        break nonfinite         a NaN or an Inf in what a step sends
        break vanishing [1e-6]  no element sent is larger
        break exploding [1e3]   an element sent is larger
        break clear             forget all
        """
        if text == "clear":
            self.level.breaks.clear()
        elif text:
            holds = self.condition(text)
            if text.split()[0] not in LIMITS and not any(map(holds, self.trace.steps)):
                raise CommandError(f"no step of this pass has to do with {text}")
            self.level.breaks.append((text, holds))
        for what, _ in self.level.breaks:
            self.print(f"break {what}")
        if not self.level.breaks:
            self.print("no breakpoints")

    def condition(self, text: str) -> Callable[[Step], bool]:
        """Return what a breakpoint asks of a step."""
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
        if any(call.op.name == text for call in self.trace.recording.calls.values()):
            return lambda step: self.trace.call(step).op.name == text
        wanted = self.find(text)
        return lambda step: (
            wanted in self.trace.call(step).results
            or any(edge.parent == wanted for edge in step.edges)
        )

    def find(self, name: str) -> int:
        """Return the number of a value, by its name, or its end: in this module, or if alone."""
        recording = self.trace.recording
        names = {_plain(recording.name(number)): number for number in recording.values}
        name = _plain(name)
        here = self.call.scope if self.level.index < len(self.trace.steps) else ""
        for whole in (name, f"{here}.{name}"):
            if whole in names:
                return names[whole]
        found = [n for n in names if n.endswith((f".{name}", f"['{name}']"))]
        if len(found) == 1:
            return names[found[0]]
        if found:
            more = " ..." if len(found) > 4 else ""
            raise CommandError(f"{name} may be {', '.join(found[:4])}{more}")
        close = difflib.get_close_matches(name, names, 3, 0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise CommandError(f"nothing here is called {name!r}{hint}")

    # ---- into an op

    def do_into(self, text: str) -> None:
        """Step into an op: through its reference, in primitives.  into."""
        call, step = self.call, self.step
        if call.op.reference_function is None:
            raise CommandError(
                f"{call.op.name} is a primitive: it has a rule and nothing inside; see formula"
            )
        self.levels.append(Level(inside_of(call, step), inside=(call, step)))
        self.print(
            f"into {call.op.name}: its reference, on the inputs that were saved", style="green"
        )
        self.show()

    def do_out(self, text: str) -> None:
        """Leave an op that was stepped into, with the proof that it is the same.  out."""
        if not self.level.inside:
            raise CommandError("this is the outermost pass")
        if self.level.index < len(self.trace.steps):
            self.show_proof()
        self.levels.pop()
        self.show()

    def show_proof(self) -> None:
        """Compare an op with the pass through its reference."""
        call, step = self.level.inside  # type: ignore[misc]
        self.rule(f"{call.op.name}: the op against its reference")
        outer = self.levels[-2].trace.recording
        out = outer.values[call.results[0]]
        for title, found, expected, scale in proof(self.trace, call, step, out):
            verdict = display.difference(found, expected, scale)
            style = "green" if verdict else "bold red"
            shown = verdict or "DIFFERENT"
            self.print(f"  {title:<14} ", Text(f"{'✓' if verdict else '✗'} {shown}", style))

    # ---- looking

    def do_where(self, text: str) -> None:
        """Draw the neighbourhood in the graph.  where."""
        call = self.call
        recording = self.trace.recording

        def described(number: int) -> Text:
            made = recording.maker.get(number)
            line = Text().append(self.name(number), "bold")
            if made:
                inputs = [self.argument(made, name) for name in made.arguments]
                line.append(f" = {made.op.name}({', '.join(inputs)})")
            return line.append(f"  {kind(recording.values[number])}", "dim")

        def draw(mark: str, number: int, note: str = "", style: str = "dim") -> None:
            line = Text().append(mark, style).append_text(described(number)).append(note, "dim")
            line.truncate(self.console.width - 1, overflow="ellipsis")
            self.print(line)

        users = [c for c in recording.calls.values() if set(call.results) & set(c.parents.values())]
        for user in reversed(users[-4:]):
            for number in user.results:
                draw("    ▲  ", number)
        if not users:
            self.print(Text("    the pass begins here", "dim"))
        self.print(Text("    │", "dim"))
        for number in call.results:
            draw("  ▶ ●  ", number, style="bold yellow")
        parents = list(dict.fromkeys(call.parents.values()))
        for i, parent in enumerate(parents):
            last = i == len(parents) - 1
            names = [name for name, number in call.parents.items() if number == parent]
            draw(f"    {'└' if last else '├'}─ ", parent, f"  as {', '.join(names)}")
            made = recording.maker.get(parent)
            grand = list(dict.fromkeys(made.parents.values())) if made else []
            for j, number in enumerate(grand):
                corner = "└" if j == len(grand) - 1 else "├"
                draw(f"    {' ' if last else '│'}   {corner}─ ", number)

    def argument(self, call: Call, name: str) -> str:
        """Return an argument of a call in a few letters."""
        if name in call.parents:
            return self.name(call.parents[name])
        x = call.arguments[name]
        if isinstance(x, ndarray) and x.ndim:
            return kind(x)
        return text if len(text := str(x)) <= 12 else f"{name}=…"

    def do_print(self, text: str) -> None:
        """Show a value, a slice of one, or any expression of NumPy.  print EXPRESSION.

        Values go by their names; d(NAME) is what has arrived at a value so far. Of this step, g is
        the cotangent, out the result, x (and so on) an argument, dx what is sent to it.
        """
        if not text:
            raise CommandError("print what?")
        value = self.evaluate(text)
        value = value.item() if isinstance(value, np.bool_) else value
        x = np.asarray(value) if isinstance(value, ndarray | np.generic | float) else None
        if x is None or x.dtype.kind not in "fiub":
            self.print(repr(value))
            return
        if x.ndim:
            ends = f"  from {float(x.min()):.4g} to {float(x.max()):.4g}" if x.size else ""
            self.print(Text(f"{kind(x)}  norm {norm(x):.4g}{ends}", "dim"))
        for line in matrix(x, self.console.width - 2):
            self.print(line)

    def evaluate(self, text: str, symbols: bool = False) -> Any:
        """Return the value of an expression; with `symbols` the op's arguments go first."""
        space, text = self.namespace(text)
        if symbols:
            space |= self.call.arguments
        try:
            with np.errstate(all="ignore"):
                return eval(text, space)
        except CommandError:
            raise
        except SyntaxError as error:
            raise CommandError(f"SyntaxError: {error.msg}") from None
        except Exception as error:  # whatever the expression raises
            raise CommandError(f"{type(error).__name__}: {error}") from None

    def namespace(self, text: str) -> tuple[Namespace, str]:
        """Return what the names in an expression stand for, and the expression to evaluate."""
        recording, index = self.trace.recording, self.level.index
        within = index < len(self.trace.steps)
        space = Namespace(lambda name: self.value(self.find(name)))
        known = {n: getattr(builtins, n) for n in ALLOWED}
        space |= {"__builtins__": {"__import__": __import__}, "np": np} | known
        space |= self.call.arguments if within else {}
        space |= {recording.name(number): x for number, x in recording.values.items()}
        if within:
            space |= {"g": self.step.cotangent, "out": self.out(self.call)} | self.step.symbols
            space |= {f"d{edge.input}": edge.contribution for edge in self.step.edges}

        def put(value: Any) -> str:
            space[key := f"_{len(space)}"] = value
            return key

        def cotangent(match: re.Match) -> str:
            number = self.find(match[1].strip())
            found = self.trace.cotangent_of(number, index + 1)
            return put(np.zeros_like(self.value(number)) if found is None else found)

        def dotted(match: re.Match) -> str:
            if match[0].split(".")[0] in space:
                return match[0]
            name = re.sub(r"(\.(m?T|shape|size|ndim|dtype))+$", "", match[0])
            return put(space[name]) + match[0].removeprefix(name)

        text = re.sub(r"\bd\(([^()]+)\)", cotangent, text)
        names = {name for name in recording.names.values() if not name.isidentifier()}
        names |= {name.partition(".")[2] for name in names if "[" in name}  # without the object
        for name in sorted(filter(None, names), key=len, reverse=True):
            if _plain(name) in _plain(text):
                pattern = rf"(?<![\w.]){re.escape(_plain(name))}(?!\w)".replace("'", "['\"]")
                text = re.sub(pattern, lambda _, name=name: put(space[name]), text)  # type: ignore[misc]
        return space, re.sub(r"(?<![\w.)\]])[A-Za-z]\w*(\.\w+)+(?!\w|\()", dotted, text)

    def do_formula(self, text: str) -> None:
        """Show what the op and its rule compute, and the same with numbers.  formula."""
        call, step = self.call, self.step
        lines = self.formula_lines(call)
        if not lines:
            raise CommandError(f"{call.op.name} states no formula")
        for line in lines:
            self.print("  ", line)
        arrays = [*call.arguments.values(), *as_tuple(self.out(call))]
        if any(isinstance(x, ndarray) and x.size > WRITABLE for x in arrays):
            self.print(Text(f"numbers are put in for arrays of up to {WRITABLE} elements", "dim"))
            return
        sent = {edge.input: edge.contribution for edge in step.edges}
        stated: Any = call.op.stated
        found = list(display.in_numbers(
            stated, call.arguments, self.out(call), step.cotangent, sent, self.console.width
        ))  # fmt: skip
        for row in [Text("with numbers", "dim"), *found] if found else ():
            self.print(row)

    def do_why(self, text: str) -> None:
        """Show what a gradient is the sum of, largest first.  why NAME."""
        if not text:
            raise CommandError("why which gradient?")
        self.print(self.explanation(self.find(text)))

    def explanation(self, number: int) -> Explanation:
        """Return the contributions to a value's cotangent, grouped by module."""
        gradient = self.trace.cotangent_of(number)
        if gradient is None:
            raise CommandError(f"no gradient reaches {self.name(number)}")
        parts = []
        for i, edge in self.trace.edges_to(number):
            call = self.trace.call(self.trace.steps[i])
            shape = self.value(call.results[0]).shape
            part = Contribution(
                call.op.name, edge.input, shape, call.number, edge.contribution, call.scope
            )
            parts.append(part)
        return Explanation.of(gradient, parts)

    # ---- checking

    @np.errstate(all="ignore")  # a step may lead to where the function does not exist
    def do_check(self, text: str) -> None:
        """Compare with numeric derivatives, in float64.

        check            what this step sends, of this op alone
        check loss NAME  the derivative of the whole loss, for a few entries
        """
        if not text:
            self.check_step()
            return
        word, _, name = text.partition(" ")
        if word != "loss" or not name:
            raise CommandError("check, or check loss NAME")
        self.check_loss(self.find(name.strip()))

    def check_step(self) -> None:
        """Differentiate the op numerically, for what the rule was given."""
        call, step = self.call, self.step
        arguments = {name: _double(x) for name, x in call.arguments.items()}
        gs = [_double(g) for g in as_tuple(step.cotangent)]
        parents = [name for name in call.parents if any(e.input == name for e in step.edges)]
        leaves = {name: tensor(arguments[name], requires_grad=True) for name in parents}

        def run(changed: dict[str, Any]) -> list[Any]:
            out = call.run(call.op, arguments | changed)
            return list(out) if call.op.multiple else [out]

        outputs = run(leaves)
        rules = [rule.numpy() for rule in grad(outputs, list(leaves.values()), gs)]
        on_the_way = [(g, y.numpy()) for g, y in zip(gs, outputs, strict=True)]
        on_the_way += [(rule, arguments[name]) for name, rule in zip(parents, rules, strict=True)]
        for name, rule in zip(parents, rules, strict=True):

            def value(x: ndarray, name: str = name) -> float:
                return float(sum(np.vdot(g, y) for g, y in zip(gs, run({name: x}), strict=True)))

            self.compare(f"d{name}", value, arguments[name], rule, _noise(on_the_way))

    def check_loss(self, number: int) -> None:
        """Differentiate the replayed loss numerically, by a leaf or a result."""
        recording, start = self.trace.recording, self.trace.start
        weight = _double(self.trace.cotangent)
        point = _double(self.value(number))
        tape = recording.replay(start, {number: point}, np.float64)
        if number not in tape:
            raise CommandError(f"the loss does not depend on {self.name(number)}")
        gradients = dict(zip(tape, grad(tape[start], list(tape.values()), weight), strict=True))
        found = gradients[number].numpy()

        def value(x: ndarray) -> float:
            run = recording.replay(start, {number: x}, np.float64)
            return float(np.vdot(weight, run[start].numpy()))

        on_the_way = [(gradients[n].numpy(), tape[n].numpy()) for n in tape]
        self.compare(f"d({self.name(number)})", value, point, found, _noise(on_the_way))

    def compare(
        self,
        title: str,
        function: Callable[[ndarray], float],
        x: ndarray,
        found: ndarray,
        noise: float,
    ) -> None:
        """Show numeric derivatives of a few entries beside those computed, and the verdict.

        They agree to 1e-6 of the largest, or to the noise of the differences if that is more.
        """
        entries = np.arange(x.size)
        if x.size > SAMPLED:
            top = np.argsort(-np.abs(found), axis=None)[:2]
            others = np.random.default_rng(0).choice(x.size, SAMPLED - 2, replace=False)
            entries = np.unique([*top, *others])
        places = [tuple(map(int, np.unravel_index(entry, x.shape))) for entry in entries]
        numeric, rule = [], [float(found[place]) for place in places]
        for place in places:
            axis = np.zeros(x.shape)
            axis[place] = 1
            numeric.append(central_difference(function, x, axis))
        errors = np.abs(np.subtract(numeric, rule))
        error = float(np.max(errors, initial=0))  # NaN if one is
        size = max(largest(found), largest(numeric))
        mark, style, remark = "✓", "green", ""
        if not error <= (allowed := max(1e-6 * size, noise)):
            worst = int(np.argmax(errors))
            _, remark, is_wrong = error_curve(function, x, places[worst], rule[worst], allowed)
            mark, style = ("✗", "bold red") if is_wrong else ("?", "bold yellow")
        if 1e-6 * size < error <= noise:
            verdict = f"largest difference {error:.1e}, which rounding explains"
        else:
            verdict = f"largest difference {error / (size or 1):.1e} of the largest entry"
        count = f"; {len(entries)} of {x.size} entries" if len(entries) < x.size else ""
        self.print(f"  {title}  ", Text(f"{mark} ", style), verdict, Text(count, "dim"))
        if remark:
            self.print(Text(f"    {remark}", style))
        wide = max(8, min(14, (self.console.width - 18) // 2))
        self.print(Text(f"    {'':<12} {'numeric':>{wide}} {'rule':>{wide}}", "dim"))
        for place, *both in zip(places, numeric, rule, strict=True):
            at = f"[{', '.join(map(str, place))}]" if place else ""
            self.print(f"    {at:<12} ", " ".join(f"{v:>{wide}.{wide - 6}g}" for v in both))

    # ---- what if, and predictions

    @np.errstate(all="ignore")  # what if it were infinite?
    def do_set(self, text: str) -> None:
        """Change this step's cotangent, and run the rest again; alone, undo that.

        set EXPRESSION         such as: set g * 2, or: set 0
        set g1 = EXPRESSION    of an op with several outputs, one cotangent
        """
        if not text:
            self.level.trace = self.level.recorded
            self.print("as recorded again", style="green")
            self.show()
            return
        given = self.step.symbols
        match = re.match(r"(g\d*)\s*=(?!=)", text)
        symbol = match[1] if match else "g"
        if symbol not in given:
            raise CommandError(f"set which of {', '.join(given)}? As in: set {min(given)} = 0")
        given[symbol] = self.array(text[match.end() :] if match else text, given[symbol])
        several = self.call.op.multiple
        value: Any = tuple(given.values()) if several else given["g"]
        self.level.trace = self.trace.rerun(self.level.index, value)
        self.print("what if: the rest of the pass ran again from here", style="green")
        self.show()

    def array(self, text: str, like: ndarray, symbols: bool = False) -> ndarray:
        """Return what an expression says, in the shape and dtype of another array."""
        return _fitted(self.evaluate(text, symbols), like)

    def do_predict(self, text: str) -> None:
        """Say what comes before it is shown, and be judged.

        predict                  hide what steps send, or show it again
        predict EXPRESSION       the cotangent of the next step; of several outputs: predict G0, G1
        predict dx = EXPRESSION  what this step sends to its input x, from g, x, ... of the rule
        """
        if not text:
            self.hidden = not self.hidden
            self.show()
            return
        edges = {f"d{edge.input}": edge for edge in self.step.edges}
        left, equals, right = (part.strip() for part in text.partition("="))
        if equals and left in edges:
            edge = edges[left]
            found = self.array(right, edge.contribution, symbols=True)
            self.judge(left, found, edge.contribution)
            return
        if self.level.index + 1 >= len(self.trace.steps):
            raise CommandError("there is no next step; predict " + " or ".join(edges) + " = ...")
        coming = self.trace.steps[self.level.index + 1]
        expected, found = as_tuple(coming.cotangent), self.evaluate(text)
        parts = (found,) if len(expected) == 1 else found
        if not isinstance(parts, tuple) or len(parts) != len(expected):
            names = ", ".join(symbol.upper() for symbol in coming.symbols)
            raise CommandError(f"the next step has {len(expected)} outputs: predict {names}")
        for number, value, g in zip(self.trace.call(coming).results, parts, expected, strict=True):
            self.judge(f"d({self.name(number)})", _fitted(value, g), g)

    def judge(self, title: str, found: ndarray, expected: ndarray) -> None:
        """Say whether a prediction is right: to the digits that one writes."""
        right = np.isclose(
            found, expected, rtol=5e-3, atol=5e-4 * largest(expected), equal_nan=True
        )
        if right.all():
            self.print(f"✓ right: {title} is", style="green")
            for line in matrix(expected, self.console.width - 6):
                self.print("      ", line)
            return
        hint = f"{int((~right).sum())} of {right.size} are wrong"
        if np.allclose(found, -expected, rtol=5e-3):
            hint = "the sign is the other one"
        elif (
            norm(found)
            and norm(expected)
            and np.allclose(found * norm(expected), expected * norm(found), rtol=5e-3)
        ):
            hint = f"right but for a factor of {norm(found) / norm(expected):.3g}"
        elif not right.ndim:
            hint = "not that"
        self.print(f"✗ {title}: {hint}", style="red")

    def do_watch(self, text: str) -> None:
        """Show an expression after every move; alone, stop watching.  watch EXPRESSION."""
        if not text:
            self.watched.clear()
            self.print("nothing is watched")
            return
        self.evaluate(text)
        self.watched.append(text)
        self.run(f"print {text}")

    # ---- help

    def do_help(self, text: str) -> None:
        """List the commands, or explain one.  help [COMMAND]."""
        if text:
            name = self.command(text).__name__.removeprefix("do_")
            self.print(inspect.getdoc(getattr(self, f"do_{name}")) or "")
            return
        letters = {name: letter for letter, name in ALIASES.items() if len(letter) == 1}
        for name in self.commands():
            doc = (inspect.getdoc(getattr(self, f"do_{name}")) or "").splitlines()[0]
            summary = doc.split(".  ")[0].rstrip(".")
            self.print(f"  {name:<9} {letters.get(name, ''):<2} ", Text(summary, "dim"))

    def do_quit(self, text: str) -> None:
        """Leave the stepper, and the script.  quit."""
        self.done = self.quit = True


ALLOWED = ("abs", "float", "int", "len", "max", "min", "range", "round", "sum", "tuple")


def inside_of(call: Call, step: Step) -> Trace:
    """Return the trace of an op's reference, on the inputs of a call and with its cotangent."""
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


def proof(
    inner: Trace, call: Call, step: Step, out: ndarray
) -> Iterator[tuple[str, ndarray, ndarray, float]]:
    """Yield what an op and its reference both computed: the result, and each gradient.

    With each goes the largest number on the way, of which rounding takes its share.
    """
    recording = inner.recording
    scale = max(map(largest, recording.values.values()))
    yield "out", recording.values[inner.start], out, scale
    scale = max(largest(edge.contribution) for s in inner.steps for edge in s.edges)
    for edge in step.edges:
        found = inner.cotangent_of(recording.number(edge.input))
        if found is None:
            found = np.zeros_like(edge.contribution)
        yield f"d{edge.input}", found, edge.contribution, scale


def _plain(text: str) -> str:
    """Return a text with one kind of quotes."""
    return text.replace('"', "'")


def _fitted(value: Any, like: ndarray) -> ndarray:
    """Return a value in the shape and dtype of an array."""
    try:
        return np.broadcast_to(np.asarray(value, dtype=like.dtype), like.shape).copy()
    except (TypeError, ValueError):
        raise CommandError(f"expected {kind(like)}") from None


def _count(text: str) -> int:
    if not text:
        return 1
    if not text.isdigit():
        raise CommandError(f"{text!r} is no number of steps")
    return int(text)


def _noise(terms: Iterable[tuple[ndarray, ndarray]]) -> float:
    """Return how uncertain a difference is, when each value on the way was rounded.

    A value that is wrong by eps of itself changes the result by eps times itself times its
    cotangent, and a difference by that over the step. Ops round several times inside.
    """
    total = sum(float(np.sum(np.abs(x := g * y), where=np.isfinite(x))) for g, y in terms)
    return ROUNDINGS * float(np.finfo(np.float64).eps) * total / STEP


def _double(x: Any) -> Any:
    floating = isinstance(x, ndarray) and x.dtype.kind == "f"
    return x.astype(np.float64) if floating else x

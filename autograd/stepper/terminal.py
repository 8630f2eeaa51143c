"""The stepper in a terminal: a debugger whose program is a backward pass.

If pdb has a command for the same purpose, the command here has the same name. Each command is a
method: `do_next` carries out ``next``, and its docstring is the text that ``help`` shows. All
answers come from the `Session`; this file reads lines and prints.
"""

from __future__ import annotations

import builtins
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pprint import pformat
from typing import Any

import numpy as np
from numpy import ndarray
from rich.cells import cell_len
from rich.text import Text

from autograd.console import Console
from autograd.schema import UserError
from autograd.signals import restoring_terminal
from autograd.stepper.axes import Labels
from autograd.stepper.check import Comparison
from autograd.stepper.display import matrix, one
from autograd.stepper.formulas import NumberedEquation, four_digits
from autograd.stepper.lines import flow, fold, spans, the_others
from autograd.stepper.measure import norm
from autograd.stepper.record import kind
from autograd.stepper.session import Session
from autograd.stepper.source import Statement
from autograd.stepper.stops import CommandError
from autograd.stepper.trace import Trace
from autograd.stepper.views import EndView, ModuleView, ProofView, StepView, Value
from autograd.stepper.what_if import Outcome, outcome_lines

ALIASES = {
    "n": "next", "c": "continue", "b": "break", "i": "into", "o": "out", "w": "where",
    "p": "print", "f": "formula", "q": "quit", "?": "help", "h": "help", "exit": "quit",
    "a": "args", "l": "list", "j": "jump", "u": "up", "d": "down",
    # names of pdb and gdb for the same purpose
    "s": "into", "step": "into", "r": "out", "return": "out", "finish": "out", "cont": "continue",
    "ll": "list", "bt": "where", "display": "watch", "undisplay": "unwatch", "tui": "screen",
}  # fmt: skip
INSTEAD = {  # of commands that the stepper has not, as those of pdb, gdb and IPython
    "condition": "break PLACE if EXPRESSION", "disable": "clear N", "enable": "break PLACE",
    "grad": "print d(NAME)", "gradient": "print d(NAME)",
    "ignore": "jump call N", "interact": "print EXPRESSION", "pinfo": "whatis NAME",
    "restart": "jump 1", "run": "jump 1", "source": "list op",
}  # fmt: skip
MOVES = ("next", "back", "continue", "until", "over", "into", "out", "up", "down")
# An empty line repeats the last command; not one that changes numbers or breakpoints.
ONCE = ("set", "descend", "undo", "break", "tbreak", "clear", "watch", "unwatch", "predict",
        "screen")  # fmt: skip
FEW = 64  # elements: an array of at most this size is shown in full
MOST_TERMS = 8  # terms of a sum that are listed
MARKS = {"right": ("✓", "green"), "wrong": ("✗", "bold red"), "unclear": ("?", "bold yellow")}


class Terminal:
    """Reads commands, carries them out in a session, and prints the answers.

    Parameters
    ----------
    trace : Trace
    console : Console, optional
        The console to write to; by default the standard output.

    Attributes
    ----------
    session : Session
    screen : str
        Empty, ``full`` or ``projector``: how `talk` shows steps, if the terminal can be redrawn.
    done, quit : bool
        `done` is True when the user left this pass, `quit` when the user left the stepper.
    is_running : bool
        Whether the program runs on to the next breakpoint, which may be in a later pass.

    Examples
    --------
    >>> import autograd
    >>> from autograd.stepper import trace
    >>> from autograd.stepper.terminal import Terminal
    >>> with autograd.record():
    ...     x = autograd.tensor(3.0, requires_grad=True)
    ...     loss = x * x + x
    >>> terminal = Terminal(trace(loss))
    >>> terminal.run("print d(loss) * 2")
    2.0
    >>> terminal.run("why x")  # doctest: +ELLIPSIS
    gradient of x: +7, from 3 uses
      +3  +42.9%  x * x  multiply(x) ...
    """

    def __init__(self, trace: Trace, console: Console | None = None) -> None:
        self.console = console or Console()
        self.session = Session(trace)
        self.history: list[str] = []
        self.last = ""  # the line that an empty one may repeat
        self.stop = ""  # the breakpoint at which this pass began, until the next command
        self.is_running = False
        self.screen = ""
        self.in_terminal = False
        self.done = False
        self.quit = False

    def enter(self, trace: Trace) -> None:
        """Go on with a later pass of the program.

        Breakpoints, watched expressions, the history and the kind of screen stay. After `continue`
        at the end of a pass, a pass without a stop at a breakpoint is done at once.
        """
        self.session, self.stop = self.session.follow(trace), ""
        self.done = self.quit = False
        if self.is_running:
            self.stop = self.session.go_on(here=True)
            self.done = self.is_running = not self.stop

    def branch(self) -> Terminal:
        """Return a terminal on a session that stands at the same step, and moves alone."""
        other = Terminal(self.session.trace, self.console)
        other.session = self.session.branch()
        return other

    # ---- running commands

    def print(self, *parts: Any, style: str = "", indent: int | None = None) -> None:
        """Write a line. If it is wider than the terminal, it goes on below, at a column."""
        text = Text(style=style)
        for part in parts:
            text.append_text(part) if isinstance(part, Text) else text.append(str(part))
        for line in fold(text, self.width, indent):
            self.write(line)

    def write(self, line: Text) -> None:
        """Write a line that fits the width."""
        self.console.print(line, soft_wrap=True)

    @property
    def width(self) -> int:
        """The number of columns of all that is printed."""
        return self.console.width

    def run(self, line: str) -> None:
        """Carry out one command. After a command that cannot be carried out, print the reason."""
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            return
        self.history.append(line.strip())
        self.stop = ""
        with self.console:  # the output appears at once: in a notebook as one display
            try:
                self.command_or_value(word, line.strip())(rest.strip())
            except (CommandError, UserError) as error:
                self.print(error, style="red")
            except Exception as error:  # an error of the stepper must not end the user's program
                self.print(f"{word}: {type(error).__name__}: {error}", style="red")

    def command_or_value(self, word: str, line: str) -> Callable[[str], None]:
        """Return the command of a line; of a line that is an expression, one that shows its value.

        A command has precedence, also by its letter, as in ``h``; but ``h * 2`` is an expression. A
        name of the program has precedence over the beginning of a command's name.
        """
        if line.startswith("!"):  # in pdb, what follows is never a command
            line = line[1:].strip()
            refuse_assignment(line, self.session)
            return lambda rest: self.do_print(line)
        if line.endswith("?") and line != "?":  # in IPython, it asks what a value is
            return lambda rest: self.do_whatis(line.rstrip("? "))
        refuse_assignment(line, self.session)
        is_sum = bool(re.match(r"\w+ [-+*/@%<>=!&|]+ ", line)) and word not in self.commands()
        is_name = word == line and word not in self.commands() and word not in ALIASES
        if not (is_name or is_sum) or word not in self.session.names():
            try:
                return self.command(word)
            except CommandError:
                if re.fullmatch(r"[^\W\d]\w*( +\w.*)?", line):
                    raise
        return lambda rest: self.do_print(line)

    def command(self, word: str) -> Callable[[str], None]:
        """Return a command by its name, its letter, or the beginning of its name."""
        names = self.commands()
        name = ALIASES.get(word, word)
        found = [name] if name in names else [n for n in names if n.startswith(name)]
        if len(found) == 1:
            return getattr(self, f"do_{found[0]}")
        if found:
            raise CommandError(f"{word} may be {', '.join(found)}")
        close = [INSTEAD[word]] if word in INSTEAD else difflib.get_close_matches(word, names, 1)
        if word[0] == "d" and word[1:] in self.session.names():  # as in dW1
            close = [f"d({word[1:]})"]
        hint = f"did you mean {close[0]}?" if close else "help lists the commands"
        raise CommandError(f"there is no command {word!r}; {hint}")

    @classmethod
    def commands(cls) -> list[str]:
        """Return the names of the commands."""
        names = [name for part in reversed(cls.__mro__) for name in vars(part)]
        return [name.removeprefix("do_") for name in names if name.startswith("do_")]

    def play(self, lines: Iterable[str]) -> None:
        """Run commands from a file. Each command is printed before its output."""
        self.screen = ""
        self.begin()
        for line in lines:
            if line.strip():
                self.print("(step) ", line.rstrip(), style="bold")
                self.run(line)
            if self.done:
                return

    def talk(self) -> None:
        """Ask for commands until the user leaves.

        In a terminal the prompt has history and completion. In a notebook the notebook's own input
        field is used. Otherwise the commands are read from the standard input.
        """
        self.in_terminal = sys.stdin.isatty() and self.console.is_terminal
        if not self.in_terminal and not hasattr(builtins, "__IPYTHON__"):
            self.play(sys.stdin)
            return
        self.screen = self.screen if self.can_redraw else ""
        self.begin()
        with restoring_terminal():
            while not self.done:
                if self.screen:
                    from autograd.stepper.screen import Screen

                    with Screen(self) as screen:
                        self.converse(screen.ask, screen.run)
                    if not self.done and not self.screen:
                        self.show()
                else:
                    self.converse(self.asker(), self.run)

    def asker(self) -> Callable[[], str]:
        """Return the function that asks for a command in a line."""
        prompt = self.prompt() if self.in_terminal else input
        return lambda: prompt(f"({self.session.progress}) ")

    @property
    def can_redraw(self) -> bool:
        """Whether a screen can be shown: in a terminal that moves its cursor."""
        return self.in_terminal and not self.console.is_dumb_terminal

    def converse(self, ask: Callable[[], str], run: Callable[[str], None]) -> None:
        """Ask for commands and run them until the user leaves, or changes the kind of screen."""
        screen = self.screen
        while not self.done and self.screen == screen:
            try:
                line = ask().strip()
            except KeyboardInterrupt:
                if not self.in_terminal:
                    raise
                continue
            except EOFError:
                self.do_quit("")
                return
            self.last = line or self.repeated()
            try:
                run(self.last)
            except KeyboardInterrupt:
                self.print("interrupted", style="red")

    def repeated(self) -> str:
        """Return the command that an empty line stands for: the last one, as in pdb.

        A command that changes numbers or breakpoints is not repeated. In the full screen, only
        moves are: there, an empty line removes what another command printed.
        """
        try:
            command = self.command_or_value(self.last.partition(" ")[0], self.last)
        except CommandError:
            return ""
        name = command.__name__.removeprefix("do_")
        return self.last if (name in MOVES if self.screen else name not in ONCE) else ""

    def prompt(self, **options: Any) -> Callable[[Any], str]:
        """Return the function that shows the prompt in a terminal and returns the typed line."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory

        words = WordCompleter(self.words, pattern=re.compile(r"[\w.\[\]]+"))
        session: Any = PromptSession(
            history=InMemoryHistory(self.history),
            completer=words,
            complete_while_typing=False,
            **options,
        )
        return session.prompt

    def words(self) -> list[str]:
        """Return the words for completion: commands, values and ops."""
        return [*self.commands(), *self.session.names()]

    # ---- showing

    def begin(self) -> None:
        """Say what the pass is, and show its first step."""
        name, value, n_steps, n_ends, are_leaves = self.session.overview()
        words = ("leaf", "leaves") if are_leaves else ("value", "values")
        what = f" = {one(value)}" if value.ndim == 0 else f", {kind(value)}"
        self.print(
            Text(name, "bold"), what,
            f": {n_steps} step{'s' * (n_steps != 1)} back to {n_ends} {words[n_ends != 1]}",
        )  # fmt: skip
        self.show_stop(self.stop)
        self.show()

    def show(self) -> None:
        """Show the step where the session stands, and the watched expressions."""
        if not self.screen:  # which shows the step itself
            self.print()
            self.show_view(self.session.current_view())
        for expression, value, error in self.session.watched_values():
            self.print(Text(f"{expression}:", "dim"))
            if error:
                self.print(error, style="red")
            else:
                self.show_value(value)

    def show_view(self, view: StepView | EndView | ProofView) -> None:
        """Show the step, the gradients at the end of a pass, or the comparison of an op."""
        if isinstance(view, StepView):
            self.show_step(view)
        elif isinstance(view, EndView):
            self.show_end(view)
        else:
            self.show_proof(view)

    def rule(self, left: str, right: str = "") -> None:
        """Draw a line across, with a title at its left end and a note at its right."""
        room = self.width - cell_len(left) - 4
        fits = right and cell_len(right) + 6 <= room
        line = f"{'─' * (room - cell_len(right) - 1)} {right}" if fits else "─" * room
        self.print(Text("── ", "dim"), Text(left, "bold"), Text(f" {line}", "dim"))
        if right and not fits:
            self.print(Text(f"   {right}", "dim"))

    def show_step(self, view: StepView) -> None:
        """Show a step: its place, its statement and its cotangents."""
        self.show_place(view)
        self.show_statement(view.statement)
        self.show_cotangents(view)

    def show_place(self, view: StepView) -> None:
        """Show where a step is: in the pass, in a loop, in the program, in the model."""
        n, n_calls = view.calls
        which = f"call {n} of {n_calls}  " if n_calls > 1 else ""
        self.rule(f"{view.progress}  {view.op}", f"{which}{view.at}")
        if view.scope:
            self.print(Text(f"in {view.scope}", "dim"))

    def show_cotangents(self, view: StepView) -> None:
        """Show the cotangent that comes in, and what the step sends to each input."""
        for _, name, value, labels in view.received:
            self.show_array(f"d({name})", value, labels=labels)
        if view.sent is None:
            self.print(Text("what it sends is hidden: predict", "italic"))
            return
        for _, rule, value, _, note, labels in view.sent:
            self.show_array(rule, value, note, labels)

    def show_statement(self, statement: Statement) -> None:
        """Show a statement, with marks below the part that ran, also where a line is broken."""
        lines = statement.marked()
        for line, below in pairwise([*lines, ""]):
            if set(line) == {" ", "^"}:
                continue
            marks = below if set(below) == {" ", "^"} else ""
            for start, end, column in spans(line, self.width):
                self.print(Text(" " * column + line[start:end], "italic"))
                if marks[start:end].strip():
                    self.print(Text(" " * column + marks[start:end], "dim"))

    def show_array(self, title: str, x: Any, note: str = "", labels: Labels | None = None) -> None:
        """Show an array under its title; beside it if it is one line and there is room."""
        x, width = np.asarray(x), self.width
        size = f"  norm {norm(x):.4g}" if x.size > FEW else ""
        names = f"  {labels.names}" if labels is not None and labels.names else ""
        pieces = [Text(f"  {title}"), Text(f"  {kind(x)}{size}", "dim"), Text(names, "dim")]
        *above, head = flow(filter(None, pieces), width, 2)
        for line in above:
            self.print(line)
        lines = list(matrix(x, width - 6, 8 if x.size <= FEW else 4, labels))
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

    def show_end(self, view: EndView) -> None:
        """Show the gradients at which the pass arrives."""
        self.rule("the end: gradients")
        gradients = view.gradients
        width = max((len(gradient.name) for gradient in gradients), default=0)
        for name, value, note, labels in gradients:
            if len(gradients) <= 6:
                self.show_array(name, value, note, labels)
            else:
                pieces = [
                    Text(f"  {name:<{width}}"), Text(f"  norm {norm(value):<10.4g}"),
                    Text(f" {kind(value):<18}", "dim"), Text(note, "dim italic"),
                ]  # fmt: skip
                for line in flow(pieces, self.width, 4):
                    self.print(line)

    def show_proof(self, view: ProofView) -> None:
        """Show whether an op and the pass through its reference computed the same."""
        self.rule(f"{view.op}: the op against its reference")
        for title, verdict in view.proofs:
            style = "green" if verdict else "bold red"
            shown = verdict or "DIFFERENT"
            self.print(f"  {title:<14} ", Text(f"{'✓' if verdict else '✗'} {shown}", style))

    # ---- moving

    def do_next(self, text: str) -> None:
        """Go one step on, or N; from the end, leave the pass.  next [N]."""
        if not self.left():
            self.session.move(_count(text, "until"))
            self.show()

    def left(self) -> bool:
        """At the end of a pass, leave it: for the op that it is inside of, or the program."""
        if not self.session.at_end:
            return False
        if self.session.level.inside:
            self.do_out("")
        else:
            self.done = True
        return True

    def do_back(self, text: str) -> None:
        """Go one step back, or N, or to an earlier step.  back [N|until OP|NAME|LINE].

        back 36        go 36 steps back
        back until 36  go back to line 36 of the program, as `until 36` goes on to it
        """
        word, _, where = text.partition(" ")
        if word == "until":
            self.session.go_until(self.place(where), back=True)
        else:
            self.session.move(-_count(text, "back until"))
        self.show()

    def do_jump(self, text: str) -> None:
        """Go to step N, to call N of this line, or past a loop.  jump N|call N|loop.

        jump 36      step 36, forward or back
        jump call 4  of a line that ran several times, as in a loop, the same step of its call 4
        jump loop    the first step after the loop, of a line that ran fewer times
        """
        if not text:
            raise CommandError("jump where? jump N, jump call N or jump loop")
        self.session.jump(text)
        self.show()

    def do_continue(self, text: str) -> None:
        """Go on to the next breakpoint or the end; from the end, leave the pass.  continue.

        If there are breakpoints, the program then runs on to the next of them, in a later pass.
        """
        if self.left():
            self.is_running = self.done and bool(self.session.level.breaks)
            return
        self.show_stop(self.session.go_on())
        self.show()

    def show_stop(self, text: str) -> None:
        """Say which breakpoint has stopped the walk."""
        if text:
            self.print(Text(f"break: {text}", "yellow"))

    def do_until(self, text: str) -> None:
        """Go on to an op, module or line, or where a value is made or used.  until OP|NAME|LINE.

        until 36          line 36 of the program; `next 36` goes 36 steps on, `jump 36` to step 36
        until model.py:8  a line of another file
        back until 36     the same, backwards
        """
        self.session.go_until(self.place(text))
        self.show()

    def place(self, text: str) -> str:
        """Return the place that a command is to go to, unless none was typed."""
        if not text.strip():
            raise CommandError("until which op, value, module or line?")
        return text.strip()

    def do_over(self, text: str) -> None:
        """Go to the first step after this module, or after another one.  over [MODULE]."""
        module = self.session.go_over(text)
        self.print(f"past {module}", style="green")
        self.show()

    def do_break(self, text: str) -> None:
        """Set a breakpoint, where `continue` stops; alone, list them.

        break OP|NAME|LINE       an op, a value, a line of the program
        break MODULE             where the pass enters a module
        break [2, 3]             a result of that shape
        break nonfinite          a NaN or an Inf in what a step sends
        break vanishing [1e-6]   no number that a step sends is larger
        break exploding [1e3]    a number that a step sends is larger
        break ... if EXPRESSION  only if the expression is true there
        break clear              remove all; clear N removes one

        Breakpoints stay in later passes of the program. A breakpoint at a place that this pass does
        not have is pending: it waits for a later pass.
        """
        if text == "clear":
            self.session.clear_breaks()
        elif text:
            self.session.add_break(text)
        self.show_breaks()

    def do_tbreak(self, text: str) -> None:
        """Set a breakpoint that is removed when it has stopped the walk.  tbreak OP|NAME|LINE."""
        if not text:
            raise CommandError("tbreak at what? See: help break")
        self.session.add_break(text, once=True)
        self.show_breaks()

    def do_clear(self, text: str) -> None:
        """Remove breakpoint N, or all of them.  clear [N]."""
        if text and not text.isdecimal():
            raise CommandError(f"{text!r} is no number of a breakpoint")
        self.session.clear_breaks(int(text) if text else None)
        self.show_breaks()

    def show_breaks(self) -> None:
        """List the breakpoints with their numbers."""
        for stop in self.session.level.breaks:
            self.print(f"break {stop.number}: {stop.text}", "  once" if stop.once else "")
            if stop.pending:
                self.print(Text(f"    pending, for a later pass: {stop.pending}", "yellow"))
        if not self.session.level.breaks:
            self.print("no breakpoints")

    # ---- into an op

    def do_into(self, text: str) -> None:
        """Step into an op: through its reference, in primitives.  into."""
        op = self.session.step_into()
        self.print(f"into {op}: its reference, on the inputs that were saved", style="green")
        self.show()

    def do_out(self, text: str) -> None:
        """Leave an op that was stepped into, or the module of this step.  out.

        In an op's reference, `out` compares what the op and its reference have computed, and
        goes back to the op. Elsewhere it goes on past the module of this step, as `over` does, or
        past the module to which `up` has gone.
        """
        if not self.session.level.inside:
            if not (self.session.level.frame or self.session.scope):
                raise CommandError("this is the outermost pass, and this step is in no module")
            self.do_over("")
            return
        proof = self.session.proof()
        if not self.session.at_end:
            self.show_proof(proof)
        self.session.step_out()
        self.show()

    # ---- looking

    def do_up(self, text: str) -> None:
        """Look at the module of this step, or at the next one around it.  up [N].

        It shows the module's steps, and what enters and leaves it. `out` goes on past this module,
        `down` looks at the module inside it, and every move looks at the step again.
        """
        self.show_module(self.session.look_up(_count(text)))

    def do_down(self, text: str) -> None:
        """Look at the module inside the one to which `up` has gone.  down [N]."""
        self.show_module(self.session.look_up(-_count(text)))

    def show_module(self, view: ModuleView | None) -> None:
        """Show a module's steps and ends; without a module, the step."""
        if view is None:
            self.show()
            return
        steps = f"steps {view.first} to {view.last} of {view.total}"
        self.rule(view.name or "the whole pass", steps)
        for title, values in (("it returns", view.results), ("it reads", view.inputs)):
            for _, name, gradient, labels in values[:MOST_TERMS]:
                line = Text(f"  {title:<10}  ", "dim").append(name)
                line.append(f"  {kind(gradient)}  norm of d {norm(gradient):.4g}", "dim")
                line.append(f"  {labels.names}" if labels.names else "", "dim")
                self.print(line, indent=14)
            if rest := values[MOST_TERMS:]:
                self.print(Text(f"  {title:<10}  {len(rest)} more", "dim"))

    def do_where(self, text: str) -> None:
        """Draw the neighbourhood in the graph.  where."""
        around = self.session.neighbourhood()

        def print_value(mark: str, value: Value, note: str = "", style: str = "dim") -> None:
            line = Text().append(mark, style).append(value.name, "bold")
            line.append(f" = {value.made_by}" if value.made_by else "")
            line.append(f"  {value.kind}", "dim").append(note, "dim")
            self.print(line, indent=len(mark) + 2)

        for user in around.users:
            print_value("    ▲  ", user)
        if not around.users:
            self.print(Text("    the pass begins here", "dim"))
        self.print(Text("    │", "dim"))
        for result in around.results:
            print_value("  ▶ ●  ", result, style="bold yellow")
        for i, (parent, arguments, inputs) in enumerate(around.parents):
            last = i == len(around.parents) - 1
            symbols = ", ".join(f"${name}" for name in arguments)
            print_value(f"    {'└' if last else '├'}─ ", parent, f"  as {symbols}")
            for j, grandparent in enumerate(inputs):
                corner = "└" if j == len(inputs) - 1 else "├"
                print_value(f"    {' ' if last else '│'}   {corner}─ ", grandparent)

    def do_print(self, text: str) -> None:
        """Show a value, a slice of one, or any expression of NumPy.  print EXPRESSION.

        A name is that of your variable; d(NAME) is what has arrived at a value so far. The rule has
        symbols of its own: $x (and so on) is an argument, $out the result, $g its cotangent, and
        $dx what is sent to $x. `formula` says what they stand for here.
        """
        if not text:
            raise CommandError("print what?")
        self.show_value(self.session.evaluate(text), self.session.labels_of(text))

    def do_pp(self, text: str) -> None:
        """Show every element of a value.  pp EXPRESSION."""
        if not text:
            raise CommandError("pp what?")
        value = self.session.evaluate(text)
        if isinstance(value, ndarray):
            written = np.array2string(
                value, max_line_width=self.width, precision=4, suppress_small=True,
                threshold=sys.maxsize,
            )  # fmt: skip
        else:
            written = pformat(value, width=self.width)
        for line in written.splitlines():
            self.print(line)

    def do_whatis(self, text: str) -> None:
        """Say what a value is, what made it, and what uses it.  whatis NAME."""
        if not text:
            raise CommandError("whatis what?")
        for line in self.session.description(text):
            self.print(line)

    def do_args(self, text: str) -> None:
        """Show what the rule's symbols stand for here, with their values.  args."""
        names = self.session.names_of_symbols(self.session.call)
        for symbol, value in self.session.symbols().items():
            name = names.get(symbol, f"${symbol}")
            verb = "adds to" if symbol.startswith("d") and symbol in names else "is"
            title = f"${symbol}" if name == f"${symbol}" else f"${symbol} {verb} {name}"
            if isinstance(value, ndarray | np.generic):
                self.show_array(title, value, labels=self.session.labels_of(f"${symbol}"))
            else:
                self.print(f"  ${symbol} is {value}")

    def do_list(self, text: str) -> None:
        """Show the program around this step, or the source of its op.  list [N|op|rule].

        list       the lines around the one that called the op; list 30 those around line 30
        list op    the function of the op; of a fused op its reference, which it is tested against
        list rule  the functions that compute what is sent
        """
        for number, line, is_current in self.session.source(text):
            mark = "->" if is_current else "  "
            place = f"{number:>4} {mark} " if number else "  "
            indent = len(place) + len(line) - len(line.lstrip()) + 4
            self.print(Text(place, "dim"), Text(line, "bold" if is_current else ""), indent=indent)

    def do_history(self, text: str) -> None:
        """List the commands that were typed.  history."""
        for number, line in enumerate(self.history, 1):
            self.print(Text(f"{number:>4}  ", "dim"), line)

    def show_value(self, value: Any, labels: Labels | None = None) -> None:
        """Show the value of an expression, with what its rows and columns stand for, if known."""
        value = value.item() if isinstance(value, np.bool_) else value
        x = np.asarray(value) if isinstance(value, ndarray | np.generic | float) else None
        if x is None or x.dtype.kind not in "fiub":
            self.print(repr(value))
            return
        if x.ndim:
            ends = f"  from {float(x.min()):.4g} to {float(x.max()):.4g}" if x.size else ""
            self.print(Text(f"{kind(x)}  norm {norm(x):.4g}{ends}", "dim"))
            if labels is not None and labels.names:
                self.print(Text(labels.names, "dim"))
        for line in matrix(x, self.width - 2, labels=labels):
            self.print(line)

    def do_formula(self, text: str) -> None:
        """Show what the op and its rule compute, also with numbers.  formula [PART].

        formula d(W1)        what is added to one cotangent, or the line of one result
        formula d(W1)[2, 7]  one element of it, and the terms of its sum, the largest first

        The result or the cotangent may belong to another step.
        """
        symbols, lines, equations, element, place = self.session.formula(text)
        if place:
            self.print(Text(place, "dim"))
        legend = ", ".join(f"{symbol} is {name}" for symbol, name in symbols.items())
        self.print(Text(legend, "dim"))
        for line in lines:
            self.print("  ", line)
        if element:
            self.print(Text(f"element: {element}", "dim"))
        if equations:
            self.print(Text("with numbers", "dim"))
            for equation in equations:
                self.show_equation(equation)

    def show_equation(self, equation: NumberedEquation) -> None:
        """Show an equation with numbers; its rows in columns, if the columns fit the width."""
        widths = [max(map(len, column)) for column in zip(*equation.rows, strict=True)]
        aligned = sum(widths) + 9 <= self.width
        for place, text, value in equation.rows:
            if aligned:
                place, text = place.ljust(widths[0]), text.ljust(widths[1])
                value = value.rjust(widths[2]) if value else ""
            line = f"  {place} {equation.sign} {text}"
            self.print((f"{line} = {value}" if value else line).rstrip())
        if equation.terms:
            self.show_terms(equation.terms)
        elif len(equation.rows) < equation.total:
            self.print(Text(f"  the first of {equation.total} elements", "dim"))

    def show_terms(self, terms: list[tuple[str, str, float]]) -> None:
        """Show the terms of a sum in columns, the largest first."""
        shown = terms[:MOST_TERMS]
        places = max(len(place) for place, _, _ in shown)
        for place, text, value in shown:
            line = Text(f"    {place:<{places}}  ", "dim").append(f"{value:>+11.4g}", "bold")
            line.append("" if text == four_digits(value) else f"  {text}")
            self.print(line, indent=places + 19)
        if rest := terms[MOST_TERMS:]:
            total = sum(value for _, _, value in rest)
            self.print(Text(f"    {'':<{places}}  {total:>+11.4g}  {the_others(len(rest))}", "dim"))

    def do_why(self, text: str) -> None:
        """Show the contributions whose sum is a gradient, largest first.  why NAME.

        why NAME         a whole gradient: by use, line and element, by token and head where
                         these are known, and the largest path to the start of the pass
        why NAME[0, 2]   one element, or a part such as NAME[5]

        For a NaN it says which op made the first one, and for a zero, which factor was 0.
        """
        if not text:
            raise CommandError("why which gradient? As in: why W[0, 2]")
        self.print(self.session.why(text, self.width))

    # ---- checking

    def do_check(self, text: str) -> None:
        """Compare with numeric derivatives, in float64.

        check            what this step sends, with derivatives of this op alone
        check loss NAME  the gradient of NAME, with derivatives of the whole loss, at a few entries
        """
        if not text:
            for comparison in self.session.check_step():
                self.show_comparison(comparison)
            return
        word, _, name = text.partition(" ")
        if word != "loss" or not name:
            name = text if text != "loss" and text in self.session.names() else "NAME"
            raise CommandError(f"`check` is about this step; of the whole loss: check loss {name}")
        self.show_comparison(self.session.check_loss(self.session.find(name.strip())))

    def show_comparison(self, found: Comparison) -> None:
        """Show numeric derivatives of a few entries beside the computed ones, and the verdict."""
        mark, style = MARKS[found.verdict]
        if 1e-6 * found.size < found.error <= found.noise:
            verdict = f"largest difference {found.error:.1e}, which rounding explains"
        else:
            share = found.error / (found.size or 1)
            verdict = f"largest difference {share:.1e} of the largest entry"
        n = len(found.places)
        count = f"; {n} of {found.total} entries" if n < found.total else ""
        self.print(f"  {found.title}  ", Text(f"{mark} ", style), verdict, Text(count, "dim"))
        if found.remark:
            self.print(Text(f"    {found.remark}", style))
        if found.likely:
            self.print(Text(f"    likely {found.likely}", style))
        wide = max(8, min(14, (self.width - 18) // 2))
        self.print(Text(f"    {'':<12} {'numeric':>{wide}} {'rule':>{wide}}", "dim"))
        for place, *both in zip(found.places, found.numeric, found.computed, strict=True):
            at = f"[{', '.join(map(str, place))}]" if place else ""
            self.print(f"    {at:<12} ", " ".join(f"{v:>{wide}.{wide - 6}g}" for v in both))

    # ---- what if, and predictions

    @np.errstate(all="ignore")  # what if it were infinite?
    def do_set(self, text: str) -> None:
        """Change a value or this step's cotangent; alone, undo all changes.

        set NAME[0, 2] = EXPRESSION  a value, or a part of it: a parameter, an input, a token, a
                                     hidden layer; the program runs again, forward and backward
        set EXPRESSION               this step's cotangent, as in: set d(a) * 2, or: set 0
        set d(NAME) = EXPRESSION     of an op with several outputs, one cotangent
        """
        if not text:
            self.session.reset()
            self.print("as recorded again", style="green")
        elif (found := self.session.set(text)) is not None:
            self.show_what_if(found)
            return
        else:
            self.print("what if: the rest of the pass ran again from here", style="green")
        self.show()

    def do_descend(self, text: str) -> None:
        """Take a step of gradient descent, and run the program again.  descend LEARNING_RATE."""
        if not text:
            raise CommandError("descend by which learning rate? As in: descend 0.1")
        self.show_what_if(self.session.descend(text))

    def do_undo(self, text: str) -> None:
        """Undo the last set or descend.  undo."""
        self.session.undo()
        self.show()

    def show_what_if(self, found: Outcome) -> None:
        """Show the loss, values, predictions and gradients before and after a change."""
        self.print("what if: the program ran again, forward and backward", style="green")
        for line in outcome_lines(found, self.width):
            self.print(line)

    def do_predict(self, text: str) -> None:
        """Type a cotangent before it is shown, and have it judged.

        predict                        hide what steps send, or show it again
        predict EXPRESSION             the cotangent of the next step; of several, with commas
        predict d(NAME) += EXPRESSION  what this step adds to a cotangent
        predict d(NAME) = EXPRESSION   the cotangent after this step
        """
        if not text:
            self.session.hidden = not self.session.hidden
            self.show()
            return
        for title, is_right, hint, expected in self.session.predict(text):
            if not is_right:
                self.print(f"✗ {title}: {hint}", style="red")
                continue
            self.print(f"✓ right: {title}{'' if title.endswith('=') else ' is'}", style="green")
            for line in matrix(expected, self.width - 6):
                self.print("      ", line)

    def do_watch(self, text: str) -> None:
        """Show an expression after every move; alone, list them.  watch [EXPRESSION]."""
        if text:
            self.session.watch(text)
            self.show_value(self.session.evaluate(text))
        else:
            self.show_watched()

    def do_unwatch(self, text: str) -> None:
        """Show an expression no more after moves; alone, show none.  unwatch [EXPRESSION]."""
        self.session.unwatch(text)
        self.show_watched()

    def show_watched(self) -> None:
        """List the watched expressions."""
        for text in self.session.watched:
            self.print(f"watch {text}")
        if not self.session.watched:
            self.print("nothing is watched")

    def do_screen(self, text: str) -> None:
        """Show each step in a full screen that is redrawn.  screen [projector|off].

        screen            the source, the graph, the values and the cotangents, and below them what
                          the last command printed: PageUp and PageDown scroll it, Enter removes it
        screen projector  the same for the back rows: fewer digits, empty lines, no small print
        screen off        lines again
        """
        if text not in ("", "projector", "off"):
            raise CommandError(f"screen, screen projector or screen off; not screen {text}")
        if not self.can_redraw:
            raise CommandError("the full screen needs commands that are typed in a terminal")
        self.screen = {"": "full", "off": ""}.get(text, text)

    # ---- help

    def do_help(self, text: str) -> None:
        """List the commands, or explain one.  help [COMMAND]."""
        if text:
            name = self.command(text).__name__.removeprefix("do_")
            self.show_help(inspect.getdoc(getattr(self, f"do_{name}")) or "")
            return
        letters = {name: letter for letter, name in ALIASES.items() if len(letter) == 1}
        for name in self.commands():
            doc = (inspect.getdoc(getattr(self, f"do_{name}")) or "").splitlines()[0]
            summary = doc.split(".  ")[0].rstrip(".")
            letter = letters.get(name, "")
            self.print(f"  {name:<9} {letter:<2} ", Text(summary, "dim"), indent=15)

    def show_help(self, text: str) -> None:
        """Show the help of a command: paragraphs, and forms of the command in a column."""
        summary, *paragraphs = text.split("\n\n")
        summary, _, usage = " ".join(summary.split("\n")).partition(".  ")
        self.print(f"{summary.rstrip('.')}.", indent=0)
        if usage:
            self.print(f"    {usage.rstrip('.')}")
        for paragraph in paragraphs:
            self.print()
            forms = re.findall(r"^(\S+(?: \S+)*)  +(.*(?:\n +.*)*)", paragraph, re.MULTILINE)
            if not forms:
                self.print(" ".join(paragraph.split("\n")), indent=0)
            self.show_forms([(form, " ".join(meaning.split())) for form, meaning in forms])

    def show_forms(self, forms: list[tuple[str, str]]) -> None:
        """Show forms of a command and their meanings: side by side if there is room."""
        column = max((len(form) for form, _ in forms), default=0) + 2
        beside = 2 * column <= self.width
        for form, meaning in forms:
            if beside:
                self.print(form.ljust(column), Text(meaning, "dim"), indent=column)
            else:
                self.print(form)
                self.print(Text(f"    {meaning}", "dim"), indent=4)

    def do_quit(self, text: str) -> None:
        """Leave the stepper, and the script.  quit."""
        self.done = self.quit = True


def refuse_assignment(line: str, session: Session) -> None:
    """Raise CommandError for a line that assigns to a name, as in ``W1[0] = 5``."""
    match = re.fullmatch(r"([^=<>!]+?)\s*(\*\*|//|[-+*/@%])?=(?!=)\s*(.+)", line)
    if not match or not re.fullmatch(r"[^\s\[(]+(\s*\[.*\]|\(.*\)(\[.*\])?)?", match[1]):
        return
    left, sign, right = match.groups()
    if not left.startswith(("$", "d(")):
        session.find_part(left)  # or it raises
    value = f"{left} {sign} ({right})" if sign else right
    raise CommandError(f"a value is changed with `set`: set {left} = {value}")


def _count(text: str, other: str = "") -> int:
    """Return a number of steps; `other` is the command to which another text belongs."""
    if not text:
        return 1
    if not text.isdecimal():
        hint = f"; `{other} {text}` goes to a line, an op or a name" if other else ""
        raise CommandError(f"{text!r} is no number of steps{hint}")
    return int(text)

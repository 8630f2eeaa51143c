"""Lessons: texts with prose, a script, and commands of the stepper.

A lesson is a Markdown file in this folder, such as ``1_the_chain_rule.md``. Its ``python`` blocks
together are one script. A ``step`` block holds commands for the last `backward` of the script so
far, and the output of the stepper. ``python -m npgpt.learn.lessons`` writes the output again; a
test checks that every lesson is up to date.
"""

from __future__ import annotations

import io
import linecache
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.syntax import Syntax
from rich.text import Text

import autograd
from autograd.console import Console
from autograd.kernels import use_kernels
from autograd.stepper.symbols import ASSIGNMENT
from autograd.stepper.terminal import Terminal
from npgpt.errors import UserError

HOW = """\
Enter runs the command that is shown. You can type other commands to look
around, and the lesson waits: help lists the commands, quit ends the lesson.
"""


class Lesson:
    """The text of a lesson.

    Parameters
    ----------
    number : int or str

    Attributes
    ----------
    path : Path
    title : str
    parts : list of (str, str)
        The parts of the lesson in order. The first entry of a part is its kind, ``text``,
        ``python`` or ``step``, and the second its content.

    Raises
    ------
    UserError
        If there is no such lesson.

    Examples
    --------
    >>> from npgpt.learn.lessons import Lesson
    >>> lesson = Lesson(1)
    >>> lesson.title
    'The chain rule on three scalars'
    >>> print(lesson.parts[1][1].splitlines()[-1])
    loss.backward()
    """

    def __init__(self, number: int | str) -> None:
        self.number, paths = str(number), _paths()
        if self.number not in paths:
            raise UserError(f"there is no lesson {number!r}; npgpt lesson lists them")
        self.path = paths[self.number]
        text = self.path.read_text(encoding="utf-8")
        self.title = text.partition("\n")[0].removeprefix("# ")
        blocks = re.compile(r"^(```(?:python|step)\n.*?^```\n)", re.DOTALL | re.MULTILINE)
        self.parts = [_part(piece) for piece in blocks.split(text)]

    def replayed(self) -> str:
        """Return the whole text, with the output that the stepper prints now.

        Examples
        --------
        >>> from npgpt.learn.lessons import Lesson
        >>> print(Lesson(1).replayed().splitlines()[0])
        # The chain rule on three scalars
        """
        console = Console(file=io.StringIO(), width=80, record=True)
        player, text = Player(self, console), ""
        with use_kernels(False):
            for kind, content in self.parts:
                player.show(kind, content)
                printed = f"{console.export_text().strip()}\n"
                if kind == "step" and essential(printed) != essential(content):
                    content = printed
                text += content if kind == "text" else f"```{kind}\n{content}```\n"
        return text


def _part(piece: str) -> tuple[str, str]:
    """Return the kind and the content of a block, or of the text between blocks."""
    if not piece.startswith("```"):
        return "text", piece
    kind, _, content = piece.removeprefix("```").removesuffix("```\n").partition("\n")
    return kind, content


def lessons() -> list[Lesson]:
    """Return all lessons, in order.

    Examples
    --------
    >>> from npgpt.learn.lessons import lessons
    >>> lessons()[0].title
    'The chain rule on three scalars'
    """
    return [Lesson(number) for number in _paths()]


def _paths() -> dict[str, Path]:
    return {path.name.split("_")[0]: path for path in sorted(Path(__file__).parent.glob("*.md"))}


def essential(printed: str) -> str:
    """Return the stepper's output without the parts that depend on the machine or the version.

    These parts are the sizes of rounding errors, line numbers in the library's own files, and the
    numbers of nodes.

    Examples
    --------
    >>> from npgpt.learn.lessons import essential
    >>> essential("✓ largest difference 7.8e-13 of the largest entry")
    '✓ largest difference of the largest entry'
    """
    for pattern, instead in {
        r" *-?\d\.\d+e-[12]\d": "",
        r"equal to rounding: at most apart|equal, bit for bit": "equal",
        r"─+ (?!lesson)\w+\.py:\d+": "",
        r"\b([a-z]\w*)_\d+\b": r"\1",
        r"0\.0000": "     0",
    }.items():
        printed = re.sub(pattern, instead, printed)
    return printed


class Player:
    """Plays a lesson: prints its parts, and lets the learner run each command.

    Parameters
    ----------
    lesson : Lesson
    console : Console, optional
        A console that records; by default one on the standard output.
    ask : callable, optional
        Takes the lesson's next command, and returns the command that the learner types; an empty
        text runs the lesson's command. By default a terminal shows a prompt; without a terminal all
        commands run without a question.
    """

    def __init__(
        self,
        lesson: Lesson,
        console: Console | None = None,
        ask: Callable[[str], str] | None = None,
    ) -> None:
        self.lesson = lesson
        self.console = console or Console(record=True)
        if ask is None and sys.stdin.isatty() and self.console.is_terminal:
            ask = self.prompt()
        self.ask = ask
        self.script, self.names = "", {"__name__": "__main__"}
        self.stepper: Any = None  # the terminal of the script's last backward pass
        self.begun = False  # whether the first step of this pass was shown

    def play(self) -> None:
        """Show the lesson from its beginning to its end, or until the learner leaves."""
        if self.ask:
            self.console.print(Text(HOW, "dim"))
        try:
            with use_kernels(False):  # kernels take time to compile, and lessons are small
                for kind, content in self.lesson.parts:
                    self.show(kind, content)
        except _Left:
            return
        following = str(int(self.lesson.number) + 1)
        if following in _paths():
            self.console.print(f"\nNext: npgpt lesson {following}")

    def show(self, kind: str, content: str) -> None:
        """Show one part of the lesson."""
        getattr(self, f"show_{kind}")(content)

    # ---- the three kinds of parts

    def show_text(self, content: str) -> None:
        """Print prose."""
        text = Text(content[:-1])
        text.highlight_regex(r"(?m)^#+ .*", "bold")
        text.highlight_regex(r"`[^`]+`", "cyan")
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def show_python(self, content: str) -> None:
        """Print the new lines of the script, run them, and go to the first step of their pass."""
        name = f"lesson{self.lesson.number}.py"
        before = self.script.count("\n")
        self.script += content
        linecache.cache[name] = len(self.script), None, self.script.splitlines(True), name
        code = Syntax("", "python", theme="ansi_dark").highlight(content)
        for number, line in enumerate(code.split("\n", allow_blank=False), before + 1):
            self.console.print(Text(f"{number:>4}  ", "dim").append_text(line), soft_wrap=True)
        while self.ask and (typed := self.ask("")):
            if "quit".startswith(typed):
                raise _Left
            self.console.print("Enter runs the script, quit leaves the lesson")
        passes: list[Any] = []
        with autograd.stepper.stopping_at_backward(passes.append):
            exec(compile("\n" * before + content, name, "exec"), self.names)
        hidden = self.stepper is not None and self.stepper.session.hidden
        self.stepper, self.begun = Terminal(passes[-1], self.console), False
        self.stepper.session.hidden = hidden

    def show_step(self, content: str) -> None:
        """Run the commands of a block. Before each command, the learner may type others."""
        if not self.begun:
            self.stepper.begin()
            self.begun = True
        for command in re.findall(r"^\(step\) (.*)", content, re.MULTILINE):
            if not self.ask:
                self.console.print(Text(f"(step) {command}", "bold"), soft_wrap=True)
            elif self.answered(command):
                continue
            self.stepper.run(command)

    # ---- the learner

    def answered(self, command: str) -> bool:
        """Run the commands that the learner types; return whether one answers the question.

        The commands run in a copy of the session, so that the lesson stays at its step.
        """
        aside = None
        while typed := self.ask(command):  # type: ignore[misc]
            if self.alike(typed, command):
                break
            aside = aside or self.stepper.branch()
            self.console.export_text()
            aside.run(typed)
            if aside.quit:
                raise _Left
            asked, said = question(command).split(), self.console.export_text()
            if asked and asked == question(typed).split() and "✓" in said and "✗" not in said:
                return True
        return False

    def alike(self, typed: str, command: str) -> bool:
        """Return whether two commands are the same, even if one is abbreviated."""
        (word, _, rest), (other, _, others) = typed.partition(" "), command.partition(" ")
        try:
            same = self.stepper.command(word) == self.stepper.command(other)
        except ValueError:  # the learner typed no command of the stepper
            return False
        return same and rest.strip() == others.strip()

    def prompt(self) -> Callable[[str], str]:
        """Return the function that shows the prompt in a terminal.

        The lesson's command is shown in grey, and Enter runs it. If the lesson asks for a
        prediction, the beginning of the command is already typed, such as ``predict d(w) +=``.
        """
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        # Ctrl-D leaves, even if the line is not empty
        keys.add("c-d")(lambda event: event.app.exit(exception=EOFError))
        words = WordCompleter(
            lambda: self.stepper.words() if self.stepper else [],
            pattern=re.compile(r"[\w.\[\]]+"),
        )
        session: Any = PromptSession(
            history=InMemoryHistory(),
            completer=words,
            complete_while_typing=False,
            key_bindings=keys,
        )

        def ask(command: str) -> str:
            begun = question(command)
            shown = [("class:placeholder fg:ansibrightblack", command or "Enter runs the script")]
            while True:
                try:
                    typed = session.prompt("(step) ", default=begun, placeholder=shown).strip()
                    return "" if typed == begun.strip() else typed
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    return "quit"

        return ask


def question(command: str) -> str:
    """Return the beginning of a command that predicts, or an empty text for other commands.

    The learner types the rest: the predicted value.

    Examples
    --------
    >>> from npgpt.learn.lessons import question
    >>> question("predict d(w) += d(y) * x"), question("predict 3"), question("next")
    ('predict d(w) += ', 'predict ', '')
    """
    word, _, rest = command.partition(" ")
    if word != "predict" or not rest:
        return ""
    found = ASSIGNMENT.fullmatch(rest.strip())
    return f"predict {found[1]} {found[3]} " if found else "predict "


class _Left(Exception):
    """The learner left the lesson."""

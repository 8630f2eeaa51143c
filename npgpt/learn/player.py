"""Playing a lesson in a terminal: a learner runs the commands, and answers the questions."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.text import Text

from autograd.console import Console
from autograd.kernels import use_kernels
from autograd.signals import restoring_terminal
from autograd.stepper.stops import CommandError
from npgpt.errors import UserError
from npgpt.learn.lessons import Lesson, Runner, lessons
from npgpt.learn.progress import Progress
from npgpt.learn.prose import fold
from npgpt.learn.questions import Question, judge_answer, read_question

HOW = """\
Enter runs the command that is shown. You can type other commands to look around, and the lesson \
waits: `help` lists them. At a question, type your answer; `hint` helps, and Enter alone shows the \
answer. `read` shows the text again. `part` lists the parts of the lesson, and `part 2` goes to \
one. `q` leaves; next time the lesson goes on from there.
"""
RUN = "Enter runs the script"
GO_ON = "Enter goes on"
ANSWER = "your answer, or hint; Enter alone shows the answer"
WORDS = ("answer", "hint", "part", "quit", "read", "skip")
MARKS = {"right": ("✓ ", "green"), "wrong": ("✗ ", "red"), "unclear": ("? ", "yellow")}


class Player(Runner):
    """Plays a lesson: prints its parts, and lets the learner run each command.

    Parameters
    ----------
    lesson : Lesson
    console : Console, optional
        A console that records; by default one on the standard output.
    ask : callable, optional
        Takes a text that is shown in grey, such as the lesson's next command, and returns what the
        learner types; an empty text runs that command. By default a terminal shows a prompt;
        without a terminal, `lines` are read.
    lines : iterable of str, optional
        What a learner types without a terminal: the lines of a pipe. When they have ended, or if
        they are left out, all commands run without a question.
    progress : Progress, optional
        The file with the part that the learner has come to. Without it the lesson begins at its
        beginning, and nothing is saved.

    Attributes
    ----------
    section : int
        The index of the section that is played.
    """

    def __init__(
        self,
        lesson: Lesson,
        console: Console | None = None,
        ask: Callable[[str], str] | None = None,
        progress: Progress | None = None,
        lines: Iterable[str] | None = None,
    ) -> None:
        super().__init__(lesson, console or Console(record=True))
        if ask is None and sys.stdin.isatty() and self.console.is_terminal:
            ask = self.prompt()
        elif ask is None and lines is not None:
            ask = self.reader(iter(lines))
        self.ask, self.progress = ask, progress if ask else None
        self.section = 0
        self.aside: Any = None  # the stepper with which the learner looks around
        self.prose: list[Text] = []  # of this section, as far as it was shown
        self.passage: list[Text] = []  # the end of the prose, which stays in view
        self.n_behind = 0  # lines printed since the beginning of the passage
        self.n_lines = 0  # lines printed since the learner was last asked
        self.is_gap = True  # whether the last line is empty

    # ---- the sections

    def play(self, section: int | None = None) -> None:
        """Play the lesson to its end, or until the learner leaves.

        Parameters
        ----------
        section : int, optional
            The index of the first section. By default it is the one where the learner left.
        """
        self.section = self.saved_section() if section is None else section
        if self.ask:
            self.show_prose(fold(HOW, self.console.width), "dim")
        while True:
            try:
                with restoring_terminal():
                    self.play_sections()
            except _GoTo as place:
                self.section = place.section
            except (_Left, KeyboardInterrupt):
                at = f"part {self.section + 1} of {len(self.lesson.sections)}"
                self.say(f"You left lesson {self.lesson.number} at {at}.")
                if self.progress:
                    self.say(f"To go on from there: npgpt lesson {self.lesson.number}")
                return
            else:
                break
        following = str(int(self.lesson.number) + 1)
        if following in [lesson.number for lesson in lessons()]:
            self.console.print(f"\nNext: npgpt lesson {following}")

    def play_sections(self) -> None:
        """Play from the current section to the end. What stands before runs without being shown."""
        self.begin()
        with use_kernels(False):  # kernels take time to compile, and lessons are small
            self.run_silently(self.lesson.sections[: self.section])
            for number in range(self.section, len(self.lesson.sections)):
                self.section, self.prose, self.passage = number, [], []
                self.save(part=number)
                if self.ask:
                    place = f"part {number + 1} of {len(self.lesson.sections)}"
                    self.make_room(4)  # with the heading that comes next
                    self.gap()
                    self.say(f"lesson {self.lesson.number}, {place}", "dim")
                for kind, content in self.lesson.sections[number]:
                    self.run(kind, content)
        self.save(part=0, finished=1)

    def run_silently(self, sections: list[list[tuple[str, str]]]) -> None:
        """Run the script and the commands of sections; print and ask nothing."""
        ask, self.ask, self.console.quiet = self.ask, None, True
        try:
            for kind, content in sum(sections, []):
                if kind not in ("text", "question"):
                    self.run(kind, content)
        finally:
            self.ask, self.console.quiet = ask, False

    def saved_section(self) -> int:
        """Return the section where the learner left the lesson."""
        entry: dict[str, int] = {}
        with self.excused():
            entry = self.progress.read().get(self.lesson.number, {}) if self.progress else {}
        return min(entry.get("part", 0), len(self.lesson.sections) - 1)

    def save(self, **numbers: int) -> None:
        """Save how far the learner has come."""
        with self.excused():
            if self.progress:
                self.progress.write(self.lesson.number, **numbers)

    @contextmanager
    def excused(self) -> Iterator[None]:
        """If the file cannot be read or written, say so once, and play without it."""
        try:
            yield
        except UserError as error:
            self.progress = None
            self.say(f"Your place in the lesson is not saved: {error}", "yellow")
        except OSError as error:
            self.progress = None
            why = f"{error.filename}: {error.strerror}"
            self.say(f"Your place in the lesson is not saved: {why}", "yellow")

    # ---- printing

    def say(self, text: str, style: str = "") -> None:
        """Print text, folded to the width of the terminal."""
        self.console.print(Text(text, style), soft_wrap=not self.console.is_terminal)

    def show_prose(self, chunks: list[Text], style: str = "") -> None:
        """Print paragraphs, and wait where the screen is full."""
        for chunk in chunks:
            self.make_room(len(chunk.plain.splitlines()) + 1)
            self.gap()
            self.console.print(chunk, style=style)

    def gap(self) -> None:
        """Print an empty line, unless the last line is empty."""
        self.count()
        if not self.is_gap:
            self.console.print()

    def make_room(self, n_lines: int) -> None:
        """Wait for Enter if so many more lines would move unread lines out of view."""
        self.count()
        is_full = self.n_lines and self.n_lines + n_lines > self.console.height - 2
        if is_full and self.console.is_terminal:
            self.wait(GO_ON)

    def wait(self, shown: str) -> None:
        """Wait for Enter, if there is a learner."""
        while self.ask and self.asked(shown):
            self.say(f"{shown}; q leaves the lesson", "yellow")

    def count(self) -> None:
        """Count the lines that were printed since the last count."""
        if printed := self.console.export_text():
            self.is_gap = f"\n{printed}".endswith("\n\n")
            self.n_lines += printed.count("\n")
            self.n_behind += printed.count("\n")

    def keep_in_view(self, chunks: list[Text]) -> None:
        """Take the last paragraphs as the passage that stays in view."""
        self.count()
        self.passage, self.n_behind = [], 0
        for chunk in reversed(chunks):
            n_lines = len(chunk.plain.splitlines()) + 1
            if self.passage and self.n_behind + n_lines > self.console.height // 3:
                break
            self.passage.insert(0, chunk)
            self.n_behind += n_lines

    def repeat_passage(self) -> None:
        """Show the passage again if it is no longer in view."""
        self.count()
        if self.console.is_terminal and self.passage and self.n_behind > self.console.height - 2:
            self.n_behind = 0
            for chunk in self.passage:
                self.gap()
                self.console.print(chunk, style="dim")
            self.gap()

    # ---- the kinds of parts

    def run_text(self, content: str) -> None:
        """Print prose."""
        chunks = fold(content, self.console.width)
        if self.console.is_terminal:
            self.show_prose(chunks)
            self.gap()
        else:
            super().run_text(content)
        self.prose += chunks
        self.keep_in_view(chunks)

    def run_python(self, content: str) -> None:
        """Print the new lines of the script, run them, and go to the first step of their pass."""
        before = self.script.count("\n")
        self.script += content
        lines = self.numbered(content, before + 1)
        self.make_room(len(lines))
        for line in lines:
            self.make_room(1 + len(line) // self.console.width)
            self.console.print(line, soft_wrap=not self.console.is_terminal)
        self.wait(RUN)
        self.run_script(content, before)

    def run_command(self, command: str) -> None:
        """Run a command of the lesson. Before it, the learner may type others."""
        self.aside = None
        while self.ask and (typed := self.asked(command)):
            if self.alike(typed, command):
                break
            self.look_around(typed)
        if self.ask:
            self.stepper.run(command)
        else:
            super().run_command(command)

    def run_question(self, content: str) -> None:
        """Ask a question until the answer is right, twice wrong, or not wanted."""
        if not self.ask:
            super().run_question(content)
            return
        question, self.aside, n_wrong = read_question(content), None, 0
        self.begin_pass()
        contents = [text for kind, text in self.lesson.parts if kind == "question"]
        self.make_room(4)
        self.gap()
        self.say(f"question {contents.index(content) + 1} of {len(contents)}", "dim")
        self.is_gap = True  # the number belongs to the text
        chunks = fold("\n".join([question.text, "", *question.lettered]), self.console.width)
        self.show_prose(chunks)
        self.gap()
        self.keep_in_view(chunks)
        while typed := self.asked(ANSWER):
            if typed in ("answer", "skip"):
                break
            if typed == "hint":
                self.say(question.hint)
            elif self.is_command(typed, question):
                self.look_around(typed)
                self.say("The question waits for your answer.", "dim")
            else:
                verdict, message = judge_answer(question, typed, self.session)
                mark, style = MARKS[verdict]
                self.say(f"{mark}{message or 'right'}", style)
                n_wrong += verdict == "wrong"
                if verdict == "right" or n_wrong == 2:
                    break
                if verdict == "wrong":
                    self.say(f"Hint: {question.hint}")
        self.say(self.explained(question))

    # ---- the learner

    def asked(self, shown: str) -> str:
        """Ask the learner, and carry out the lesson's own commands; return any other text."""
        while True:
            if shown != GO_ON:
                self.repeat_passage()
            try:
                typed = self.ask(shown)  # type: ignore[misc]
            except EOFError:  # of a pipe: in a terminal, the end of the input leaves the lesson
                self.say("The input has ended: the rest of the lesson asks no questions.", "dim")
                self.ask = self.progress = None
                return ""
            self.count()
            self.n_lines, self.n_behind = 0, self.n_behind + 1
            word, _, rest = typed.partition(" ")
            if typed in ("q", "quit", "exit"):
                raise _Left
            if typed == "read":
                self.show_prose(self.prose)
                self.keep_in_view(self.prose)
            elif typed == "hint" and shown != ANSWER:
                self.say("There are hints at the questions. Enter goes on with the lesson.")
            elif word == "part":
                self.go_to(rest.strip())
            else:
                return typed

    def go_to(self, text: str) -> None:
        """Go to the part with a number; without one, list the parts."""
        titles = [part["title"] for part in self.lesson.data()["sections"]]
        if text.isdecimal() and 1 <= int(text) <= len(titles):
            raise _GoTo(int(text) - 1)
        for number, title in enumerate(titles):
            mark = "→" if number == self.section else " "
            self.say(f"{mark} {number + 1:>2}  {title}")
        if text:
            self.say(f"There is no part {text}; they are numbered from 1 to {len(titles)}.", "red")

    def look_around(self, typed: str) -> None:
        """Run a command in a copy of the session, so that the lesson stays at its step."""
        self.aside = self.aside or self.stepper.branch()
        self.aside.run(typed)

    def is_command(self, typed: str, question: Question) -> bool:
        """Return whether a text at a question is a command of the stepper, and no answer."""
        letters = [option[0] for option in question.lettered]
        if typed in (*question.options, *letters) or typed in self.session.names():
            return False
        if self.stepper is None:  # there was no backward pass
            return False
        try:
            command = self.stepper.command_or_value(typed.partition(" ")[0], typed)
        except CommandError:
            return False
        return command.__name__.startswith("do_")  # and not the function that shows a value

    def alike(self, typed: str, command: str) -> bool:
        """Return whether two commands are the same, even if one is abbreviated."""
        (word, _, rest), (other, _, others) = typed.partition(" "), command.partition(" ")
        try:
            same = self.stepper.command(word) == self.stepper.command(other)
        except CommandError:  # the learner typed no command of the stepper
            return False
        return same and rest.strip() == others.strip()

    def prompt(self) -> Callable[[str], str]:
        """Return the function that shows the prompt in a terminal.

        The lesson's command is shown in grey, and Enter runs it. Ctrl-D leaves the lesson, and
        Ctrl-C as well if nothing is typed; otherwise Ctrl-C clears the line.
        """
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        # Ctrl-D leaves, even if the line is not empty
        keys.add("c-d")(lambda event: event.app.exit(exception=EOFError))
        words = WordCompleter(
            lambda: [*WORDS, *(self.stepper.words() if self.stepper else [])],
            pattern=re.compile(r"[\w.\[\]]+"),
        )
        session: Any = PromptSession(
            history=InMemoryHistory(),
            completer=words,
            complete_while_typing=False,
            key_bindings=keys,
        )

        def ask(shown: str) -> str:
            prompt = "(answer) " if shown == ANSWER else "(step) "
            shown = shown[: max(0, self.console.width - len(prompt) - 1)]
            grey = [("class:placeholder fg:ansibrightblack", shown)]
            while True:
                try:
                    return session.prompt(prompt, placeholder=grey).strip()
                except KeyboardInterrupt:
                    if not session.default_buffer.text:
                        return "quit"
                except EOFError:
                    return "quit"

        return ask

    def reader(self, lines: Iterator[str]) -> Callable[[str], str]:
        """Return the function that reads what the learner types from lines, and prints it."""

        def ask(shown: str) -> str:
            typed = next(lines, None)
            if typed is None:
                raise EOFError
            typed = typed.strip()
            if shown == ANSWER:
                self.say(f"(answer) {typed}", "bold")
            elif typed or shown not in (RUN, GO_ON):
                self.say(f"(step) {typed or shown}", "bold")
            return typed

        return ask


class _Left(Exception):
    """The learner left the lesson."""


class _GoTo(Exception):
    """The learner goes to another section."""

    def __init__(self, section: int) -> None:
        super().__init__(section)
        self.section = section

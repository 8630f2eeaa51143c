"""Lessons: texts with prose, a script, commands of the stepper, and questions.

A lesson is a Markdown file in this folder, such as ``1_the_chain_rule.md``. Its ``python`` blocks
together are one script. An ``output`` block holds what the script has printed. A ``step`` block
holds commands for the last `backward` of the script so far, and the output of the stepper. A
``question`` block holds a question and its right answer; see
`npgpt.learn.questions`. ``python -m npgpt.learn.lessons`` writes the output and the right answers
again; a test checks that every lesson is up to date.

`npgpt.learn.player` plays a lesson in a terminal. For other surfaces, `Lesson.data` is a lesson as
data, and `judge` judges an answer.
"""

from __future__ import annotations

import io
import linecache
import re
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.syntax import Syntax
from rich.text import Text

import autograd
from autograd.console import Console
from autograd.kernels import use_kernels
from autograd.stepper.session import Session
from autograd.stepper.terminal import Terminal
from npgpt.errors import UserError
from npgpt.learn.questions import Question, Verdict, judge_answer, read_question, solution

COMPUTED = ("output", "step", "question")  # kinds of blocks with parts that `replayed` writes
BLOCK = re.compile(
    r"^(```(?:python|output|step|question)\n.*?^```\n)|^(?=## )", re.DOTALL | re.MULTILINE
)


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
        ``python``, ``output``, ``step`` or ``question``, and the second its content.
    sections : list of list of (str, str)
        The same parts by section. A section begins with a heading.
    questions : list of Question
        The questions of the lesson, in order.

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
        self.parts = [_part(piece) for piece in BLOCK.split(text) if piece]
        self.sections: list[list[tuple[str, str]]] = []
        for kind, content in self.parts:
            if not self.sections or kind == "text" and content.startswith("## "):
                self.sections.append([])
            self.sections[-1].append((kind, content))
        self.questions = [
            read_question(content) for kind, content in self.parts if kind == "question"
        ]

    def data(self) -> dict[str, Any]:
        """Return the lesson as data that can be written as JSON.

        Returns
        -------
        dict
            ``number``, ``title`` and ``sections``. Each section has a ``title`` and ``parts``, and
            each part a ``kind``: a ``text`` has its ``text`` in Markdown; ``python`` has ``code``;
            an ``output`` has the ``text`` that the script prints; a ``step`` has ``commands``, and
            ``text``, what the stepper prints; a ``question`` has its ``number`` (see `judge`) and
            the attributes of a `Question`, with ``judge`` for its kind.

        Examples
        --------
        >>> from npgpt.learn.lessons import Lesson
        >>> section = Lesson(1).data()["sections"][1]
        >>> section["title"], [part["kind"] for part in section["parts"][:3]]
        ('Back through the last line', ['text', 'step', 'text'])
        """
        questions = enumerate(self.questions, 1)

        def as_data(kind: str, content: str) -> dict[str, Any]:
            if kind == "question":
                number, question = next(questions)
                entries = asdict(question)
                return {"kind": kind, "number": number, "judge": entries.pop("kind")} | entries
            if kind == "step":
                return {"kind": kind, "commands": commands_of(content), "text": content}
            return {"kind": kind, "code" if kind == "python" else "text": content}

        return {
            "number": self.number,
            "title": self.title,
            "sections": [
                {"title": _title(parts), "parts": [as_data(*part) for part in parts]}
                for parts in self.sections
            ],
        }

    def replayed(self) -> str:
        """Return the whole text, with the output that the stepper prints now.

        Examples
        --------
        >>> from npgpt.learn.lessons import Lesson
        >>> print(Lesson(1).replayed().splitlines()[0])
        # The chain rule on three scalars
        """
        runner, text = Runner(self), ""
        with use_kernels(False):
            for kind, content in self.parts:
                runner.run(kind, content)
                printed = runner.console.export_text().strip("\n") + "\n"
                if kind == "question":
                    shown = solution(read_question(content), runner.session)
                    space = "" if shown.startswith("\n") else " "
                    asked = content.partition("\nright:")[0].rstrip("\n")
                    printed = f"{asked}\nright:{space}{shown}\n"
                if kind in COMPUTED and essential(printed) != essential(content):
                    content = printed
                text += content if kind == "text" else f"```{kind}\n{content}```\n"
        return text

    @cached_property
    def sessions(self) -> list[Session]:
        """For each question, a session of the stepper that stands where the question is asked."""
        runner, found = Runner(self), []
        with use_kernels(False):
            for kind, content in self.parts:
                runner.run(kind, content)
                if kind == "question":
                    found.append(runner.session.branch())
        return found


def judge(lesson: Lesson, number: int, answer: str) -> Verdict:
    """Judge an answer to one of a lesson's questions, which are numbered from 1.

    The lesson's script runs at the first call, up to every question.

    Examples
    --------
    >>> from npgpt.learn.lessons import Lesson, judge
    >>> judge(Lesson(1), 1, "nonsense").verdict
    'unclear'
    """
    with use_kernels(False):
        return judge_answer(lesson.questions[number - 1], answer, lesson.sessions[number - 1])


def right_answer(lesson: Lesson, number: int) -> str:
    """Return the right answer to one of a lesson's questions as text; see `judge`."""
    with use_kernels(False):
        return solution(lesson.questions[number - 1], lesson.sessions[number - 1])


def _part(piece: str) -> tuple[str, str]:
    """Return the kind and the content of a block, or of the text between blocks."""
    if not piece.startswith("```"):
        return "text", piece
    kind, _, content = piece.removeprefix("```").removesuffix("```\n").partition("\n")
    return kind, content


def _title(parts: list[tuple[str, str]]) -> str:
    """Return the heading of a section."""
    return parts[0][1].partition("\n")[0].lstrip("# ")


def commands_of(content: str) -> list[str]:
    """Return the commands of a ``step`` block."""
    return re.findall(r"^\(step\) (.*)", content, re.MULTILINE)


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
    paths = {path.name.split("_")[0]: path for path in Path(__file__).parent.glob("*.md")}
    return dict(sorted(paths.items(), key=lambda entry: int(entry[0])))


def _nothing() -> Session:
    """Return a session in which expressions without names of a program can be evaluated."""
    with autograd.record():
        start = autograd.tensor(0.0, requires_grad=True) * 1.0
    return Session(autograd.stepper.trace(start))


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


class Runner:
    """Runs the parts of a lesson, and prints them. Nobody is asked anything.

    Parameters
    ----------
    lesson : Lesson
    console : Console, optional
        A console that records; by default one whose output is kept in memory.

    Attributes
    ----------
    stepper : Terminal
        The stepper's terminal for the last backward pass of the script so far.
    session : Session
        Where the stepper stands.
    """

    def __init__(self, lesson: Lesson, console: Console | None = None) -> None:
        self.lesson = lesson
        self.console = console or Console(file=io.StringIO(), width=80, record=True)
        self.begin()

    def begin(self) -> None:
        """Go to the beginning of the lesson: nothing has run."""
        self.script, self.names = "", {"__name__": "__main__"}
        self.printed = ""  # by the last lines of the script
        self.stepper: Any = None
        self.begun = False  # whether the first step of this pass was shown

    @property
    def session(self) -> Session:
        """The session of the stepper; of an empty pass before the first `backward`."""
        return self.stepper.session if self.stepper else _nothing()

    def run(self, kind: str, content: str) -> None:
        """Run or print one part of the lesson."""
        getattr(self, f"run_{kind}")(content)

    def run_text(self, content: str) -> None:
        """Print prose."""
        self.console.print(Text(content[:-1]), soft_wrap=True)

    def run_python(self, content: str) -> None:
        """Print the new lines of the script, run them, and go to the first step of their pass."""
        before = self.script.count("\n")
        self.script += content
        for line in self.numbered(content, before + 1):
            self.console.print(line, soft_wrap=not self.console.is_terminal)
        self.run_script(content, before)

    def numbered(self, content: str, first: int) -> list[Text]:
        """Return lines of the script in colours, with their numbers."""
        code = Syntax("", "python", theme="ansi_dark").highlight(content)
        lines = enumerate(code.split("\n", allow_blank=False), first)
        return [Text(f"{number:>4}  ", "dim").append_text(line) for number, line in lines]

    def run_script(self, content: str, before: int) -> None:
        """Run new lines of the script, which stand behind the number of lines that ran before."""
        name = f"lesson{self.lesson.number}.py"
        linecache.cache[name] = len(self.script), None, self.script.splitlines(True), name
        passes: list[Any] = []
        printed, ops = io.StringIO(), set(autograd.REGISTRY)
        with autograd.stepper.stopping_at_backward(passes.append), redirect_stdout(printed):
            exec(compile("\n" * before + content, name, "exec"), self.names)
        for op in set(autograd.REGISTRY) - ops:  # a lesson may define an op again, or run twice
            del autograd.REGISTRY[op]
        self.printed = printed.getvalue()
        if not passes:
            return
        self.begun = False
        if self.stepper:
            self.stepper.enter(passes[-1])
        else:
            self.stepper = Terminal(passes[-1], self.console)

    def run_output(self, content: str) -> None:
        """Print what the script has printed."""
        self.console.print(Text(self.printed.rstrip("\n")), soft_wrap=not self.console.is_terminal)

    def run_step(self, content: str) -> None:
        """Run the commands of a block."""
        self.begin_pass()
        for command in commands_of(content):
            self.run_command(command)

    def begin_pass(self) -> None:
        """Show the first step of a pass, once."""
        if self.stepper is not None and not self.begun:
            self.stepper.begin()
            self.begun = True

    def run_command(self, command: str) -> None:
        """Print a command, and run it."""
        self.console.print(Text(f"(step) {command}", "bold"), soft_wrap=True)
        self.stepper.run(command)

    def run_question(self, content: str) -> None:
        """Print a question with its answer."""
        question = read_question(content)
        if self.stepper is not None and not self.begun:
            self.begin_pass()
            self.console.print()
        for line in [question.text, *question.lettered]:
            self.console.print(Text(line), soft_wrap=True)
        self.console.print(Text(self.explained(question)), soft_wrap=True)

    def explained(self, question: Question) -> str:
        """Return the right answer, and why it is right."""
        return f"answer: {solution(question, self.session)}\n{question.why}".rstrip()


def __getattr__(name: str) -> Any:
    """Return the `Player`, which has moved to a module of its own."""
    if name != "Player":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from npgpt.learn.player import Player

    return Player

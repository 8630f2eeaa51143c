"""Lessons and katas on a page, served to a browser on this computer, or shown in a notebook.

The page asks for the same judges as the terminal, and the progress is in the same files. It runs
code that the learner types. So the page has a server of its own, which only the learner starts, and
whose address has a random token; the page of a trace (`autograd.page.live`) never runs code.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from threading import Lock, Timer
from typing import Any, NoReturn

from autograd import REGISTRY
from autograd.console import Console
from autograd.files import write_text
from autograd.page import fill_html, read_scripts, read_style
from autograd.page.notebook import make_widget
from autograd.page.server import serve_answers
from autograd.reading import read_text
from autograd.stepper.stops import CommandError
from npgpt.errors import UserError
from npgpt.learn import katas
from npgpt.learn.katas import Kata, WrongRule
from npgpt.learn.lessons import Lesson, judge, lessons, right_answer
from npgpt.learn.progress import Progress

SECONDS = 60  # for which a solution may run
MOST = 1 << 16  # letters of what the check of a solution prints


def serve(start: str = "", port: int = 0) -> None:
    """Serve lessons and katas to a browser on this computer, until Ctrl-C.

    Parameters
    ----------
    start : str
        The number of a lesson, or the name of an op, with which the page begins.
    port : int
        The port on 127.0.0.1; with 0 a free one.

    Raises
    ------
    UserError
        If there is no such lesson and no such kata.
    OSError
        If the port is in use, or needs rights that the user does not have.
    """
    serve_answers(Tutor(start), port)


def practise(start: str = "") -> Any:
    """Return a widget with lessons and katas for a notebook; see `serve`.

    Raises
    ------
    UserError
        If there is no such lesson and no such kata, or `anywidget` is not installed.
    """
    try:
        return make_widget(Tutor(start))
    except ImportError:
        raise UserError("the page needs anywidget: pip install 'npgpt[notebook]'") from None


class Tutor:
    """Answers a page with lessons and katas.

    Parameters
    ----------
    start : str
        The number of a lesson, or the name of an op.

    Examples
    --------
    >>> from npgpt.learn.page import Tutor
    >>> tutor = Tutor()
    >>> tutor.answer({"do": "judge", "lesson": "1", "question": 1, "answer": "?"})["verdict"]
    'unclear'
    >>> tutor.answer({"do": "check", "op": "tanh", "rules": {"x": "g * ("}})["text"]
    "g * ( is not an expression: '(' was never closed"
    """

    longest = 1 << 16  # bytes of a request to a server

    def __init__(self, start: str = "") -> None:
        self.start = start
        self._lessons: dict[str, Lesson] = {}
        self._lock = Lock()  # a server answers each request in a thread
        if start:
            self._lesson(start) if start.isdecimal() else Kata(start)

    def page(self, channel: str) -> str:
        """Return the page; see `autograd.page.live.Live.page`."""
        own = files(__package__)
        script = own.joinpath("page.js").read_text("utf-8")
        style = read_style() + own.joinpath("page.css").read_text("utf-8")
        contents = {"channel": channel, "start": self.start, "ops": sorted(REGISTRY)}
        contents |= self._overview()
        script = f"{script}\n{read_scripts(('elements', 'ask'))}"
        return fill_html("Lessons and katas", contents, script, style)

    def array(self, key: Any, version: Any) -> NoReturn:
        """Refuse to send an array: the page has none."""
        raise CommandError("this page has no arrays")

    def answer(self, request: Any) -> dict[str, Any]:
        """Carry out a request.

        Parameters
        ----------
        request : dict
            ``do`` with one of these: ``kata`` and ``hint`` with an ``op``; ``check`` with an
            ``op``, and ``rules``, an expression for each input, or the ``source`` of a solution;
            ``lesson`` with a ``lesson``; ``part`` with a ``lesson``, and a ``part`` that the
            learner has come to; ``judge`` with a ``lesson``, a ``question`` and an ``answer``;
            ``reveal``, the same without an answer.

        Returns
        -------
        dict
            What the page shows; ``error``, if the request could not be carried out.
        """
        actions = {
            "kata": self._show_kata, "hint": self._hint, "check": self._check,
            "lesson": self._show_lesson, "part": self._come_to, "judge": self._judge,
            "reveal": self._reveal,
        }  # fmt: skip
        action = request.get("do") if isinstance(request, dict) else None
        if not isinstance(action, str) or action not in actions:
            return {"error": f"a request is to do one of {', '.join(actions)}"}
        with self._lock:
            try:
                return actions[action](request)
            except (UserError, CommandError) as error:
                return {"error": str(error)}
            except OSError as error:
                return {"error": f"{error.filename}: {error.strerror}"}

    def _overview(self) -> dict[str, Any]:
        """Return the lessons and the path of katas, and how far the learner has come in each."""
        read, done = Progress().read(), katas.Progress().read()
        found = []
        for lesson in lessons():
            entry = read.get(lesson.number, {})
            found.append([lesson.number, lesson.title, "finished" in entry])
        path = [[name, "solved_with" in done.get(name, {})] for name in katas.PATH]
        return {"lessons": found, "katas": path}

    # ---- katas

    def _show_kata(self, request: dict[str, Any]) -> dict[str, Any]:
        kata = Kata(_text(request, "op"))
        name, progress = kata.op.name, katas.Progress()
        saved = progress.solution(name)
        entry = progress.read().get(name, {})
        shown = {
            "name": name,
            "code": kata.code,
            "formula": kata.formulas()[0],
            "question": kata.question(),
            "inputs": kata.inputs,
            "source": read_text(saved) if saved.exists() else kata.skeleton(),
            "level": entry.get("level", 0),
            "solved": "solved_with" in entry,
        }
        return {"kata": shown} | self._overview()

    def _hint(self, request: dict[str, Any]) -> dict[str, Any]:
        console = Console(file=io.StringIO(), width=80, record=True)
        katas.Session(console=console).hint(Kata(_text(request, "op")))
        return {"text": console.export_text().strip()}

    def _check(self, request: dict[str, Any]) -> dict[str, Any]:
        """Check a solution as ``npgpt kata OP --file FILE`` does, in a process of its own."""
        kata = Kata(_text(request, "op"))
        try:
            source = self._source(kata, request)
        except WrongRule as error:
            return {"right": False, "text": str(error)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "solution.py")
            write_text(path, source)
            command = [sys.executable, "-m", "npgpt", "kata", kata.op.name, "--file", str(path)]
            code, text = _run(command)
        return {"right": code == 0, "text": text} | self._overview()

    def _source(self, kata: Kata, request: dict[str, Any]) -> str:
        if "rules" not in request:
            return _text(request, "source")
        rules = request["rules"]
        if not isinstance(rules, dict):
            raise CommandError("rules is to be an object")
        return "\n\n\n".join(kata.rule(name, _text(rules, name)) for name in kata.inputs)

    # ---- lessons

    def _lesson(self, number: str) -> Lesson:
        if number not in self._lessons:
            self._lessons[number] = Lesson(number)
        return self._lessons[number]

    def _show_lesson(self, request: dict[str, Any]) -> dict[str, Any]:
        lesson = self._lesson(_text(request, "lesson"))
        shown = lesson.data()
        for section in shown["sections"]:  # without what would give the answers away
            for part in section["parts"]:
                for key in ("answer", "replies", "why"):
                    part.pop(key, None)
        entry = Progress().read().get(lesson.number, {})
        shown["part"] = min(entry.get("part", 0), len(lesson.sections) - 1)
        return {"lesson": shown} | self._overview()

    def _come_to(self, request: dict[str, Any]) -> dict[str, Any]:
        lesson = self._lesson(_text(request, "lesson"))
        part = _number(request, "part", len(lesson.sections) + 1)
        if part < len(lesson.sections):
            Progress().write(lesson.number, part=part)
        else:
            Progress().write(lesson.number, part=0, finished=1)
        return self._overview()

    def _judge(self, request: dict[str, Any]) -> dict[str, Any]:
        lesson, number = self._question(request)
        verdict = judge(lesson, number, _text(request, "answer"))
        why = lesson.questions[number - 1].why if verdict.verdict == "right" else ""
        return {"verdict": verdict.verdict, "text": verdict.message or why}

    def _reveal(self, request: dict[str, Any]) -> dict[str, Any]:
        lesson, number = self._question(request)
        why = lesson.questions[number - 1].why
        return {"text": f"{right_answer(lesson, number)}\n{why}".strip()}

    def _question(self, request: dict[str, Any]) -> tuple[Lesson, int]:
        lesson = self._lesson(_text(request, "lesson"))
        return lesson, _number(request, "question", len(lesson.questions) + 1, 1)


def _text(request: dict[str, Any], key: str) -> str:
    if not isinstance(text := request.get(key), str):
        raise CommandError(f"{key} is to be a text")
    return text


def _number(request: dict[str, Any], key: str, end: int, begin: int = 0) -> int:
    number = request.get(key)
    if type(number) is not int or not begin <= number < end:
        raise CommandError(f"{key} is to be a number from {begin} to {end - 1}")
    return number


def _run(command: list[str]) -> tuple[int, str]:
    """Run a command; return its exit code, and what it prints.

    A command that runs for more than `SECONDS`, or prints more than `MOST` letters, is ended.
    """
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    environment.pop("FORCE_COLOR", None)  # a notebook's kernel asks for colours
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", env=environment,
    ) as process:  # fmt: skip
        timer = Timer(SECONDS, process.kill)
        timer.start()
        try:
            text = process.stdout.read(MOST)  # type: ignore[union-attr]
            if len(text) == MOST:
                process.kill()
                text += "\nThe solution prints too much, so it was ended."
            process.wait()
            if not timer.is_alive():
                text += f"\nThe solution did not end within {SECONDS} s. Does a loop never end?"
        finally:
            timer.cancel()
            process.kill()
    return process.returncode, text.strip()

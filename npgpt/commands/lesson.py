"""``npgpt lesson``: play a lesson on backpropagation."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from npgpt.commands._serve import Port, taking
from npgpt.errors import UserError
from npgpt.learn.lessons import Lesson, lessons
from npgpt.learn.player import Player
from npgpt.learn.progress import Progress
from npgpt.options import Argument, parse
from npgpt.say import say


def numbers() -> list[str]:
    """Return the numbers of all lessons."""
    return [lesson.number for lesson in lessons()]


@dataclass
class Options:
    """Play a lesson; without a number, list them."""

    number: Annotated[str, Argument("N", words=numbers)] = ""
    """The number of the lesson."""
    part: int = 0
    """Begin at this part of the lesson. By default a lesson goes on where you left it."""
    serve: bool = False
    """Serve lessons and katas as a page, until Ctrl-C. The page runs the rules that you type."""
    port: Port | None = None
    """With --serve: the port on this computer. Without it: a free one."""


def run(args: list[str]) -> int:
    """Play a lesson, or list all."""
    options = parse(Options, args, "lesson")
    if options.port and not options.serve:
        raise UserError("--port is the port of a page that is served: add --serve")
    if options.serve:
        if options.part:
            raise UserError("--serve serves a page: leave out --part")
        from npgpt.learn.page import serve

        with taking(options.port):
            serve(options.number, options.port or 0)
        return 0
    if not options.number:
        if options.part:
            raise UserError("name the lesson first, as in: npgpt lesson 1 --part 2")
        list_lessons(Progress())
        return 0
    lesson = Lesson(options.number)
    n_parts = len(lesson.sections)
    if not 0 <= options.part <= n_parts:
        raise UserError(f"lesson {lesson.number} has {n_parts} parts, and no part {options.part}")
    lines = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin  # a pipe or a file
    player = Player(lesson, progress=Progress(), lines=lines)
    player.play(options.part - 1 if options.part else None)
    return 0


def list_lessons(progress: Progress) -> None:
    """Print all lessons, and how far the learner has come in each."""
    entries: dict[str, dict[str, int]] = {}
    try:
        entries = progress.read()
    except UserError as error:
        say(str(error), file=sys.stderr)
    following = ""
    for lesson in lessons():
        entry, note = entries.get(lesson.number, {}), ""
        if part := min(entry.get("part", 0), len(lesson.sections) - 1):
            note = f"part {part + 1} of {len(lesson.sections)}"
        elif "finished" in entry:
            note = "✓"
        if note != "✓":
            following = following or lesson.number
        print(f"  {lesson.number:>2}  {lesson.title:<56}  {note}".rstrip())
    print(f"\nBegin with: npgpt lesson {following or 1}")

"""``npgpt lesson``: play a lesson on backpropagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from npgpt.learn.lessons import Lesson, Player, lessons
from npgpt.options import Argument, parse


def numbers() -> list[str]:
    """Return the numbers of all lessons."""
    return [lesson.number for lesson in lessons()]


@dataclass
class Options:
    """Play a lesson; without a number, list them."""

    number: Annotated[str, Argument("N", words=numbers)] = ""
    """The number of the lesson."""


def run(args: list[str]) -> int:
    """Play a lesson, or list all."""
    options = parse(Options, args, "lesson")
    if options.number:
        Player(Lesson(options.number)).play()
        return 0
    for lesson in lessons():
        print(f"  {lesson.number}  {lesson.title}")
    print("\nBegin with: npgpt lesson 1")
    return 0

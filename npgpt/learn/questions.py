"""The questions of a lesson, and judging what a learner answers; nothing is printed or asked here.

A question is a block of a lesson's Markdown file. First stands its text, then lines that begin with
a key::

    How much larger is the loss, if b grows by 0.1?
    value: 4 * 0.1
    hint: The derivative says how much the loss grows for each 1 that b grows.
    mistake: 4 | That is the derivative. How far does b move?
    why: The derivative by b is 4, and b moves by 0.1.
    right: 0.4000

``value``, ``shape`` and ``places`` are followed by an expression of the stepper, which is evaluated
at the step where the lesson stands. The learner answers with the value (a number, an array or
another expression), with the value's shape, or with the places at which a condition holds. If there
are lines that begin with ``+`` or ``-``, the learner chooses among them, and the line with ``+`` is
right. ``right`` is written by ``python -m npgpt.learn.lessons``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.stepper.check import judge as judge_value
from autograd.stepper.display import matrix
from autograd.stepper.session import Session
from autograd.stepper.stops import CommandError

LINE = re.compile(r"(value|shape|places|hint|mistake|why|right): *(.*)|([-+]) (.*)")
LEFT_SIDE = re.compile(r"(predict\s+)?(\$\w+|[\w.]+|d\([^=]*\))\s*\+?=(?!=)\s*")
LONGEST = 500  # characters of an answer
WIDTH = 74  # columns of a shown answer


class Verdict(NamedTuple):
    """What is said about an answer."""

    verdict: str
    """``right``, ``wrong``, or ``unclear`` for a text that is no answer to the question."""
    message: str
    """Why the answer is wrong, or which kind of answer is expected; empty for a right answer."""


@dataclass
class Question:
    r"""A question of a lesson.

    Attributes
    ----------
    kind : str
        ``value``, ``shape``, ``places`` or ``choice``.
    text : str
        What is asked.
    answer : str
        The expression of the right answer, or the letter of the right choice.
    options : list of str
        What can be chosen; the letters are a, b, c, ...
    replies : dict of str to str
        What is said about a mistake that is expected. The keys are expressions, or letters.
    hint, why : str
        What is said after the first wrong answer, and what explains the right answer.

    Examples
    --------
    >>> from npgpt.learn.questions import read_question
    >>> question = read_question("Which op passes g on?\n+ add\n- log | It divides g.")
    >>> question.kind, question.options, question.answer, question.replies
    ('choice', ['add', 'log'], 'a', {'b': 'It divides g.'})
    """

    kind: str = "choice"
    text: str = ""
    answer: str = ""
    options: list[str] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    hint: str = ""
    why: str = ""

    @property
    def asks_for(self) -> str:
        """What the learner types, in a few words."""
        return {
            "value": "a number or an expression, such as 2 or 3 * d(a), or an array, as [1, 2]",
            "shape": "a shape, such as (3, 2), or () for a single number",
            "places": "indices, such as 0, 2 or [0, 1], [1, 1]; or all, or none",
            "choice": f"a letter from a to {'abcdefgh'[max(0, len(self.options) - 1)]}",
        }[self.kind]

    @property
    def lettered(self) -> list[str]:
        """The options, each after its letter."""
        return [f"{letter}) {text}" for letter, text in zip("abcdefgh", self.options, strict=False)]


def read_question(block: str) -> Question:
    """Return the question that a block of a lesson describes."""
    question, key = Question(), "text"
    entries: list[tuple[str, str]] = []
    for line in block.splitlines():
        if match := LINE.fullmatch(line):
            key = match[1] or match[3]
            entries.append((key, match[2] or match[4] or ""))
        elif entries:
            entries[-1] = key, f"{entries[-1][1]} {line.strip()}"
        else:
            question.text += f"{line}\n"
    for key, text in entries:
        first, _, reply = text.partition(" | ")
        if key in ("value", "shape", "places"):
            question.kind, question.answer = key, text
        elif key == "mistake":
            question.replies[first] = reply
        elif key in "+-":
            letter = "abcdefgh"[len(question.options)]
            question.options.append(first)
            question.replies |= {letter: reply} if reply else {}
            question.answer = letter if key == "+" else question.answer
        elif key != "right":
            setattr(question, key, text)
    question.text = question.text.strip()
    return question


def judge_answer(question: Question, answer: str, session: Session) -> Verdict:
    """Judge what a learner answers to a question.

    Parameters
    ----------
    question : Question
    answer : str
        What the learner typed. Text that is no answer is ``unclear``, and never raises an error.
    session : Session
        A session of the stepper, which stands where the lesson asks the question.
    """
    if len(answer) > LONGEST:
        return Verdict("unclear", f"an answer has at most {LONGEST} characters")
    try:
        return JUDGES[question.kind](question, answer.strip(), session)
    except CommandError as error:
        is_syntax = str(error).startswith("SyntaxError")
        problem = f"{answer!r} is no expression" if is_syntax else str(error)
        return Verdict("unclear", f"{problem}; expected {question.asks_for}")


def solution(question: Question, session: Session) -> str:
    """Return the right answer as text, on one line or, for a matrix, on several."""
    if question.kind == "choice":
        return question.lettered["abcdefgh".index(question.answer)]
    value = session.evaluate(question.answer)
    if question.kind == "shape":
        return str(np.shape(value))
    if question.kind == "places":
        return _list_places(np.argwhere(value))
    if np.ndim(value) == 0:
        return f"{float(value):.4g}"
    lines = [line.plain for line in matrix(np.asarray(value), WIDTH)]
    return ("\n" if len(lines) > 1 else "") + "\n".join(lines)


# ---- one function for each kind


def _judge_value(question: Question, answer: str, session: Session) -> Verdict:
    """Compare the value of the learner's expression with that of the right one."""
    expected = np.asarray(session.evaluate(question.answer), np.float64)
    found = session.array(_as_expression(answer), expected)
    _, is_right, hint, _ = judge_value("", found, expected)
    if is_right:
        return Verdict("right", "")
    for mistake, reply in question.replies.items():
        other = session.array(mistake, expected)
        if judge_value("", found, other)[1]:
            return Verdict("wrong", reply)
    if found.size == 1 and np.allclose(found, expected, rtol=0.05):
        hint = "near, but not exact: give three digits, or an expression"
    return Verdict("wrong", hint)


def _as_expression(answer: str) -> str:
    """Return an answer as Python: without ``d(a) +=``, and with the commas of a printed array."""
    answer = LEFT_SIDE.sub("", answer, count=1) if LEFT_SIDE.match(answer) else answer
    answer = answer.replace("−", "-").replace("·", "*").replace("×", "*").replace("^", "**")
    if answer.startswith("[") and "," not in answer:
        answer = re.sub(r"(?<=[\d.\]])\s+(?=[-\[\d.])", ", ", answer)
    if not answer:
        raise CommandError("there is no answer")
    return answer


def _judge_shape(question: Question, answer: str, session: Session) -> Verdict:
    """Compare two shapes."""
    expected = np.shape(session.evaluate(question.answer))
    is_scalar = answer.lower() in ("()", "[]", "scalar", "a number", "number")
    if not is_scalar and not re.fullmatch(r"[(\[\s]*\d+(\d|by|[\s,()\[\]x×])*", answer):
        raise CommandError(f"{answer or 'nothing'} is no shape")
    found = tuple(map(int, re.findall(r"\d{1,9}", answer)))
    if found == expected:
        return Verdict("right", "")
    if found == expected[::-1]:
        return Verdict("wrong", "these are the right axes, in the other order")
    if [n for n in found if n != 1] == [n for n in expected if n != 1]:
        return Verdict("wrong", "that differs in an axis of length 1")
    if len(found) != len(expected):
        return Verdict("wrong", f"not that: {len(found)} is not the right number of axes")
    wrong = [k for k, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
    return Verdict("wrong", f"axis {wrong[0]} has another length")


def _judge_places(question: Question, answer: str, session: Session) -> Verdict:
    """Compare the places that a learner lists with those where a condition holds."""
    holds = np.asarray(session.evaluate(question.answer), bool)
    expected = {tuple(place) for place in np.argwhere(holds).tolist()}
    found = set(_read_places(answer, holds))
    if found == expected:
        return Verdict("right", "")
    if extra := sorted(found - expected):
        return Verdict("wrong", f"{_list_places(extra[:1])} is not among them")
    return Verdict("wrong", "all of that is right, but something is missing")


def _read_places(answer: str, holds: ndarray) -> Iterator[tuple[int, ...]]:
    """Yield the places that an answer lists; raise CommandError if it lists none."""
    word = answer.lower().rstrip(".")
    if word in ("none", "all"):
        yield from () if word == "none" else map(tuple, np.argwhere(holds | True).tolist())
        return
    if not re.fullmatch(r"(\d{1,9}|and|[\s,;()\[\]])+", word):
        raise CommandError(f"{answer or 'nothing'} is no list of places")
    numbers = list(map(int, re.findall(r"\d+", word)))
    if not numbers or len(numbers) % holds.ndim:
        raise CommandError(f"a place has {holds.ndim} indices here")
    for place in np.reshape(numbers, (-1, holds.ndim)).tolist():
        if any(n >= size for n, size in zip(place, holds.shape, strict=True)):
            raise CommandError(f"there is no place {_list_places([place])}, in {holds.shape}")
        yield tuple(place)


def _list_places(places: Any) -> str:
    """Return places as text: indices such as 0, 2, or pairs such as [0, 1], [1, 1]."""
    rows = [list(map(int, place)) for place in places]
    return ", ".join(str(row[0]) if len(row) == 1 else str(row) for row in rows) or "none"


def _judge_choice(question: Question, answer: str, session: Session) -> Verdict:
    """Find the chosen option, by its letter or its text."""
    word = answer.lower().strip("().")
    letters = "abcdefgh"[: len(question.options)]
    texts = [text.lower() for text in question.options]
    if word in texts:
        word = letters[texts.index(word)]
    if len(word) != 1 or word not in letters:
        raise CommandError(f"{answer or 'nothing'} is none of the answers")
    if word == question.answer:
        return Verdict("right", "")
    return Verdict("wrong", question.replies.get(word, "not that"))


JUDGES: dict[str, Callable[[Question, str, Session], Verdict]] = {
    "value": _judge_value,
    "shape": _judge_shape,
    "places": _judge_places,
    "choice": _judge_choice,
}

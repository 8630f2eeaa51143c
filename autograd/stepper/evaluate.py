"""Expressions at a step: what the names in an expression stand for, and its value."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from autograd.stepper.session import Session

ALLOWED = ("abs", "float", "int", "len", "max", "min", "range", "round", "sum", "tuple")


class Namespace(dict):
    """Names and their values; for any other name, the result of a function."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self.find = find

    def __missing__(self, name: str) -> Any:
        """Look elsewhere."""
        return self.find(name)


def evaluate(session: Session, text: str, symbols: bool = False) -> Any:
    """Return the value of an expression; with `symbols` the op's arguments go first."""
    space, text = namespace(session, text)
    if symbols:
        space |= session.call.arguments
    with np.errstate(all="ignore"):
        return eval(text, space)


def namespace(session: Session, text: str) -> tuple[Namespace, str]:
    """Return what the names in an expression stand for, and the expression to evaluate.

    Names that are no Python identifiers (``layers[0].weight``), and ``d(NAME)``, are replaced by
    identifiers.
    """
    recording, index = session.trace.recording, session.level.index
    within = not session.at_end
    space = Namespace(lambda name: session.value(session.find(name)))
    known = {n: getattr(builtins, n) for n in ALLOWED}
    space |= {"__builtins__": {"__import__": __import__}, "np": np} | known
    space |= session.call.arguments if within else {}
    space |= {recording.name(number): x for number, x in recording.values.items()}
    if within:
        step = session.step
        space |= {"g": step.cotangent, "out": session.out(session.call)} | step.symbols
        space |= {f"d{edge.input}": edge.contribution for edge in step.edges}

    def put(value: Any) -> str:
        space[key := f"_{len(space)}"] = value
        return key

    def cotangent(match: re.Match) -> str:
        number = session.find(match[1].strip())
        found = session.trace.cotangent_of(number, index + 1)
        return put(np.zeros_like(session.value(number)) if found is None else found)

    def dotted(match: re.Match) -> str:
        if match[0].split(".")[0] in space:
            return match[0]
        name = re.sub(r"(\.(m?T|shape|size|ndim|dtype))+$", "", match[0])
        return put(space[name]) + match[0].removeprefix(name)

    text = re.sub(r"\bd\(([^()]+)\)", cotangent, text)
    names = {name for name in recording.names.values() if not name.isidentifier()}
    names |= {name.partition(".")[2] for name in names if "[" in name}  # without the object
    for name in sorted(filter(None, names), key=len, reverse=True):
        if plain_quotes(name) in plain_quotes(text):
            pattern = rf"(?<![\w.]){re.escape(plain_quotes(name))}(?!\w)".replace("'", "['\"]")
            text = re.sub(pattern, lambda _, name=name: put(space[name]), text)  # type: ignore[misc]
    return space, re.sub(r"(?<![\w.)\]])[A-Za-z]\w*(\.\w+)+(?!\w|\()", dotted, text)


def plain_quotes(text: str) -> str:
    """Return a text with one kind of quotes."""
    return text.replace('"', "'")

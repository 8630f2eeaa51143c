"""Expressions that a user types at a step, such as ``d(a) * x``, and their values."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.stepper.symbols import COTANGENT

if TYPE_CHECKING:
    from autograd.stepper.session import Session

ALLOWED = ("abs", "float", "int", "len", "max", "min", "range", "round", "sum", "tuple")


class Namespace(dict):
    """Names with their values. For a name that is missing, a function is asked for the value."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self.find = find

    def __missing__(self, name: str) -> Any:
        """Ask the function."""
        return self.find(name)


def evaluate(session: Session, text: str) -> Any:
    """Return the value of an expression at the step where a session stands.

    A name is that of a recorded value. ``$x`` is a symbol of the step's rule, and ``d(NAME)`` the
    cotangent that has arrived at a value. A value without a name is called by its expression, such
    as ``nn.relu(x)``, which may have functions that the namespace lacks.
    """
    names = session.numbers_by_name()
    if not text.isidentifier() and session.is_name(text):
        if len(found := session.called(plain_quotes(text), names)) == 1:
            return session.value(names[found[0]])
    space, text = namespace(session, text)
    with np.errstate(all="ignore"):
        return eval(text, space)


def namespace(session: Session, text: str) -> tuple[Namespace, str]:
    """Return the values of the names in an expression, and an expression that Python can evaluate.

    Some names are no Python identifiers, such as ``layers[0].weight``. They, ``d(NAME)``, and
    symbols such as ``$x``, are replaced by new identifiers: ``layers[0].weight * 2`` becomes
    ``_31 * 2``, with the value of the weight under the name ``_31``.
    """
    recording = session.trace.recording
    space = Namespace(lambda name: session.value(session.find(name)))
    known = {n: getattr(builtins, n) for n in ALLOWED}
    space |= {"__builtins__": {"__import__": __import__}, "np": np} | known
    for values in (recording.constants, recording.values):
        space |= {recording.name(number): x for number, x in values.items()}

    def put(value: Any) -> str:
        space[key := f"_{len(space)}"] = value
        return key

    def cotangent(match: re.Match) -> str:
        return put(session.arrived(session.find(match[1].strip())))

    def symbol(match: re.Match) -> str:
        return put(session.symbol(match[1]))

    def dotted(match: re.Match) -> str:
        if match[0].split(".")[0] in space:
            return match[0]
        name = re.sub(r"(\.(m?T|shape|size|ndim|dtype))+$", "", match[0])
        return put(space[name]) + match[0].removeprefix(name)

    text = re.sub(COTANGENT, cotangent, text)
    text = re.sub(r"\$(\w+)", symbol, text)
    names = {name for name in recording.names.values() if not name.isidentifier()}
    # "model.layers[0].weight" may be written without the name of the object
    names |= {name.partition(".")[2] for name in names if "[" in name}
    for name in sorted(filter(None, names), key=len, reverse=True):
        if plain_quotes(name) in plain_quotes(text):
            pattern = rf"(?<![\w.]){re.escape(plain_quotes(name))}(?!\w)".replace("'", "['\"]")
            text = re.sub(pattern, lambda _, name=name: put(space[name]), text)  # type: ignore[misc]
    return space, re.sub(r"(?<![\w.)\]])[A-Za-z]\w*(\.\w+)+(?!\w|\()", dotted, text)


def tensors_advice(text: str) -> str:
    """Return what to write in the place of an attribute that tensors have, and arrays have not.

    >>> tensors_advice("2 * W1.grad")
    'W1 is an array of NumPy here; its gradient is d(W1)'
    >>> tensors_advice("grad(W1)")
    'the gradient of W1 is d(W1)'
    """
    if found := re.search(r"\bgrad\(([^()]+)\)", text):
        return f"the gradient of {found[1]} is d({found[1]})"
    found = re.search(r"([\w.\[\]'\"]+)\.(grad\b|(?:numpy|detach|cpu)\(\))", text)
    if not found:
        return ""
    name, attribute = found.groups()
    advice = f"its gradient is d({name})" if attribute == "grad" else f"leave out .{attribute}"
    return f"{name} is an array of NumPy here; {advice}"


def plain_quotes(text: str) -> str:
    """Return a text with single quotes in the place of double quotes."""
    return text.replace('"', "'")

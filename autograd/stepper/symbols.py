"""The symbols of a rule at a step: what they stand for, and formulas in the program's own names.

A rule has symbols of its own: its arguments (x, y), its result (out), the result's cotangent (g),
and what it sends to an argument (dx). A user writes them with a dollar sign, as in ``$x`` and
``$dx``. A name without the sign is always a name of the program.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from autograd.formula import FormulaError
from autograd.stepper.formulas import four_digits
from autograd.stepper.places import is_operation
from autograd.stepper.record import Call, Recording
from autograd.stepper.steps import Step, as_tuple

# ``$dx = VALUE``, ``d(W1) = VALUE`` or ``d(W1) += VALUE``
COTANGENT = r"\bd\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))+)\)"  # d(NAME), also d(np.exp(x))
ASSIGNMENT = re.compile(rf"(\$\w+|{COTANGENT})\s*(\+?=)(?!=)\s*(.*)", re.DOTALL)


class Line(NamedTuple):
    """A line of a formula in the program's names."""

    symbol: str
    """The symbol that the line defines, such as ``dx``; empty if it states an identity."""
    text: str


def values_of(call: Call, step: Step, out: Any) -> dict[str, Any]:
    """Return the value of each symbol at a step: x, y, ... out, g, dx, ..."""
    values = call.arguments | step.symbols
    several = {f"out{i}": x for i, x in enumerate(as_tuple(out))}
    values |= several if call.op.multiple else {"out": out}
    return values | {f"d{edge.input}": edge.contribution for edge in step.edges}


def names_of(call: Call, recording: Recording, name: Callable[[int], str]) -> dict[str, str]:
    """Return what each symbol of a call's rule stands for in the program.

    For ``a = W1 @ x``, x is W1, y is x, out is a, g is d(a), and dx is d(W1). A number is
    written as this number. An argument without a name in the program is written with a dollar sign.

    Parameters
    ----------
    call : Call
    recording : Recording
    name : callable
        Takes the number of a value, and returns its name.
    """
    names = {}
    for argument, value in call.arguments.items():
        names[argument] = f"${argument}"
        if argument in call.parents:
            names[argument] = _factor(name(call.parents[argument]))
            names[f"d{argument}"] = f"d({name(call.parents[argument])})"
        elif call.constants.get(argument) in recording.names:
            names[argument] = name(call.constants[argument])
        elif isinstance(value, int | float | np.number | np.ndarray) and np.ndim(value) == 0:
            number = four_digits(value)
            names[argument] = f"({number})" if number.startswith("-") else number
    for i, result in enumerate(call.results):
        place = str(i) if call.op.multiple else ""
        names |= {f"out{place}": _factor(name(result)), f"g{place}": f"d({name(result)})"}
    return names


def _factor(name: str) -> str:
    """Return a name that may stand in a product: ``(W @ x)``, but ``W`` and ``np.exp(x)``."""
    return f"({name})" if is_operation(name) else name


def lines_of(call: Call, names: dict[str, str]) -> list[Line]:
    """Return the lines of an op's formula for a call, in the program's names.

    A line for what the rule sends begins with ``d(W1) +=``: the contributions of all steps are
    added. Lines for arguments to which nothing is sent are left out. Names that the formula alone
    has are written with the dollar sign. The list is empty if the op states no formula. If the
    formula cannot be read, the only line says so.
    """
    if call.op.stated is None:
        return []
    if call.op.stated.moves:
        return list(_moves(call, names))
    try:
        equations = list(
            call.op.stated.renamed(call.arguments, lambda symbol: names.get(symbol, f"${symbol}"))
        )
    except FormulaError as error:  # the step is shown without it
        return [Line("", f"the formula of {call.op.name} cannot be read: {error}")]
    lines = []
    for symbol, text in equations:
        of_input = symbol.startswith("d") and symbol[1:] in call.arguments
        if of_input and symbol in names:
            lines.append(Line(symbol, text.replace(" = ", " += ", 1)))
        elif not of_input:
            lines.append(Line(symbol, text))
    return lines


def _moves(call: Call, names: dict[str, str]) -> list[Line]:
    """Return the lines of an op that only moves elements, such as a transpose, in words."""
    stated: Any = call.op.stated
    found = [symbol for symbol in names if re.fullmatch(r"out\d*", symbol)]
    g = ", ".join(text for symbol, text in names.items() if re.fullmatch(r"g\d*", symbol))
    if _is_transpose(call):
        forward, back = f"{names['x']}ᵀ", f"{g}ᵀ"
    else:
        inputs = [names.get(name, f"${name}") for name in stated.moved(call.arguments)]
        forward, back = f"{call.op.name}({', '.join(inputs)})", f"{g}, back in place"
    return [
        *(
            Line(symbol, f"{names[symbol]} = {forward}" + (f"[{i}]" if call.op.multiple else ""))
            for i, symbol in enumerate(found)
        ),
        *(
            Line(f"d{name}", f"{names[f'd{name}']} += {back}")
            for name in call.arguments
            if f"d{name}" in names
        ),
    ]


def _is_transpose(call: Call) -> bool:
    """Return whether a call exchanges the two axes of a matrix."""
    if call.op.name != "transpose" or call.arguments["x"].ndim != 2:
        return False
    return [axis % 2 for axis in call.arguments["axes"] or (1, 0)] == [1, 0]

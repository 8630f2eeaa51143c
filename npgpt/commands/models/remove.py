"""``npgpt models remove``: remove a model from our own folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from npgpt.errors import UserError
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.weights.store import remove


@dataclass
class Options:
    """Remove a model that was added."""

    name: Annotated[str, Argument("NAME")] = ""
    """The name of the model; see npgpt models list."""


def run(args: list[str]) -> int:
    """``npgpt models remove``."""
    options = parse(Options, args, "models remove")
    if not options.name:
        raise UserError("name the model to remove; npgpt models list lists them")
    say(f"removed {remove(options.name)}")
    return 0

"""``npgpt info``: what a model is and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from autograd.escape import shown_text
from autograd.schema import FileName, Range
from npgpt.diagnostics.info import presets, show
from npgpt.models.config import PRESETS
from npgpt.options import Argument, parse


@dataclass
class Options:
    """Show what a model is and costs: parameters, computation, memory."""

    model: Annotated[FileName | None, Argument("PRESET|DIR", words=PRESETS.keys)] = None
    """A preset, a folder with a model, or a name on the hub; without a name, the presets."""
    compare: tuple[FileName, ...] = ()
    """Several models, side by side."""
    batch: Annotated[int, Range(1, 2**53)] = 1
    """Sequences."""
    context: Annotated[int, Range(1, 2**53)] | None = None
    """Tokens of each; if not given, as many as the model takes."""


def run(args: list[str]) -> int:
    """Print a page on each model that is named, or the presets."""
    options = parse(Options, args, "info")
    names = [options.model] if options.model is not None else []
    names += options.compare
    print(shown_text(show(names, options.batch, options.context)) if names else presets())
    return 0

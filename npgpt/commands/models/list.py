"""``npgpt models list``: the models that are here, and those that can be added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from npgpt.errors import UserError
from npgpt.hub import KNOWN, find_all, inside, models_folder
from npgpt.options import parse
from npgpt.say import say
from npgpt.weights.load import read_model


@dataclass
class Options:
    """Show the models that are here, and the published ones that can be added."""


def run(args: list[str]) -> int:
    """``npgpt models list``."""
    parse(Options, args, "models list")
    found = find_all()
    for name, path in found.items():
        try:
            say(f"{name:13}  {describe(path)}")
        except (UserError, OSError) as error:
            say(f"{name:13}  {error}")
    for name, model in KNOWN.items():
        if name not in found:
            say(f"{name:13}  not here; npgpt models add {name} ({model.size / 1e6:.0f} MB; "
                f"{model.about})")  # fmt: skip
    print()
    say(f"Those that were added are in {models_folder()}")
    return 0


def describe(path: Path) -> str:
    """Return the kind of a model, and its size in parameters and in bytes."""
    config, tensors, _, _ = read_model(inside(path))
    n = sum(math.prod(tensor.shape) for tensor in tensors.values())
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    return f"{config.model_type}, {n / 1e6:,.0f} million parameters, {size / 1e6:,.0f} MB, {path}"

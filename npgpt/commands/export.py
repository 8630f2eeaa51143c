"""``npgpt export``: write a model and its tokenizer for transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.weights.export import export


@dataclass
class Options:
    """Write a model and its tokenizer for transformers, to a new folder."""

    source: Annotated[FileName, Argument("DIR")] = ""
    """A folder with a model and its tokenizer, such as a run."""
    folder: Annotated[FileName, Argument("FOLDER")] = ""
    """The new folder."""


def run(args: list[str]) -> int:
    """Write the folder."""
    options = parse(Options, args, "export")
    if not options.source or not options.folder:
        raise UserError("give two folders, as in: npgpt export out/0001 exported")
    export(Path(options.source), Path(options.folder))
    say(f"{options.folder}: transformers opens it with AutoModelForCausalLM and AutoTokenizer")
    return 0

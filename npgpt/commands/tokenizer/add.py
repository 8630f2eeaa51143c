"""``npgpt tokenizer add``: keep the files of a tokenizer in our own folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.tokenizers.store import add, folder


@dataclass
class Options:
    """Keep a tokenizer in our own folder."""

    paths: Annotated[tuple[FileName, ...], Argument("PATH ...")] = ()
    """Its files, or a folder of them."""
    name: str = ""
    """What to call it; the name of its file or folder if not given."""


def run(args: list[str]) -> int:
    """``npgpt tokenizer add``."""
    options = parse(Options, args, "tokenizer add")
    if not options.paths:
        raise UserError("name what to add, as in: npgpt tokenizer add encoder.json vocab.bpe")
    for name, tokenizer in add([Path(path) for path in options.paths], options.name).items():
        say(f"{name}: {tokenizer.n_vocab:,} tokens, in {folder()}")
    return 0

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
    """Install a tokenizer: copy its files to the folder that npgpt reads tokenizers from."""

    paths: Annotated[tuple[FileName, ...], Argument("PATH ...")] = ()
    """The files of the tokenizer, or a folder that holds them."""
    name: str = ""
    """The name of the tokenizer; if not given, the name of its file or folder."""


def run(args: list[str]) -> int:
    """Copy the files, and print the name and size of each tokenizer."""
    options = parse(Options, args, "tokenizer add")
    if not options.paths:
        raise UserError("name what to add, as in: npgpt tokenizer add encoder.json vocab.bpe")
    for name, tokenizer in add([Path(path) for path in options.paths], options.name).items():
        say(f"{name}: {tokenizer.n_vocab:,} tokens, in {folder()}")
    return 0

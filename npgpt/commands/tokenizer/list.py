"""``npgpt tokenizer list``: the tokenizers that are installed, and those that can be."""

from __future__ import annotations

from dataclasses import dataclass

from npgpt.errors import UserError
from npgpt.options import parse
from npgpt.say import say
from npgpt.tokenizers import make_tokenizer
from npgpt.tokenizers.store import KNOWN, folder, gpt1_files, read_encoding


@dataclass
class Options:
    """Show the tokenizers that are installed, and the published ones that can be added."""


def run(args: list[str]) -> int:
    """Print a line for each tokenizer: its name and size, or how to add it."""
    parse(Options, args, "tokenizer list")
    print("char           of the training text")
    print("byte           256 tokens")
    for name, files in KNOWN.items():
        try:
            n = len(gpt1_files()[0]) if name == "gpt1" else _size(read_encoding(name))
            print(f"{name:13}  {n:,} tokens")
        except UserError:
            print(f"{name:13}  not here; npgpt tokenizer add {' '.join(files)}")
    for path in sorted(folder().glob("*.json")):
        try:
            say(f"{path.stem:13}  {make_tokenizer(path.stem).n_vocab:,} tokens")
        except UserError as error:
            say(f"{path.stem:13}  {error}")
    print()
    say(f"Those that were added are in {folder()}")
    return 0


def _size(values: dict) -> int:
    return max(*values["ranks"].values(), *values["special_tokens"].values()) + 1

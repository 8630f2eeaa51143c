"""``npgpt tokenizer show``: the tokens of a text, and the merges that make them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from rich.text import Text

from autograd.console import Console
from autograd.reading import read_stream
from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.options import Argument, parse
from npgpt.say import visible
from npgpt.tokenizers import make_tokenizer
from npgpt.tokenizers.bpe import BPETokenizer
from npgpt.tokenizers.gpt1 import GPT1Tokenizer

COLOURS = ("green", "cyan", "yellow", "magenta", "blue", "red")


@dataclass
class Options:
    """Print the tokens of a text, with their ids."""

    text: Annotated[str | None, Argument("TEXT", is_text=True)] = None
    """The text; - is standard input."""
    tokenizer: FileName = "gpt2"
    """A name (see npgpt tokenizer list), a file, or a folder such as a run's."""
    steps: bool = False
    """Show how each piece of the text is merged, step by step."""


def run(args: list[str]) -> int:
    """Print the tokens, or the merges."""
    options = parse(Options, args, "tokenizer show")
    text = options.text
    if text is None:
        raise UserError(
            'give a text first, as in: npgpt tokenizer show "Hello, world"; '
            "one that begins with -- comes through a pipe, as -"
        )
    if text == "-":
        try:
            text = read_stream(sys.stdin.buffer, "standard input").decode()
        except UnicodeDecodeError:
            raise UserError("standard input is not UTF-8") from None
    tokenizer = make_tokenizer(options.tokenizer, text)
    console = Console()
    if options.steps:
        if not isinstance(tokenizer, BPETokenizer | GPT1Tokenizer):
            raise UserError(f"the tokenizer {options.tokenizer} merges nothing: it has no --steps")
        for line in merge_lines(tokenizer, text):
            console.print(line, soft_wrap=True)
        return 0
    ids = tokenizer.encode(text, allowed_special="all").tolist()
    pieces = [(i, visible(tokenizer.tokens[i])) for i in ids]
    if console.is_terminal:
        line = Text()
        for k, (i, piece) in enumerate(pieces):
            line.append(piece, f"black on {COLOURS[k % len(COLOURS)]}").append(f"{i} ", "dim")
        console.print(line)
        console.print(f"{len(text):,} characters, {len(ids):,} tokens", style="dim")
    else:
        for i, piece in pieces:
            print(f"{i}\t{piece}")
    return 0


def merge_lines(tokenizer: Any, text: str) -> Iterator[Text]:
    """Yield, for each different piece of a text, a line for each merge and the token it makes."""
    ids = tokenizer.ranks if isinstance(tokenizer, BPETokenizer) else tokenizer.vocab
    for piece in dict.fromkeys(map(tuple, tokenizer.pieces(text))):
        yield Text(" ".join(map(visible, piece)))
        parts = list(piece)
        for merged in tokenizer.merge_steps(piece):
            made = next(part for part in merged if merged.count(part) > parts.count(part))
            line = Text("  ")
            for part in merged:
                line.append(visible(part), "bold green" if part == made else "").append(" ")
            yield line.append(f"  {visible(made)} = {ids[made]}", "dim")
            parts = merged

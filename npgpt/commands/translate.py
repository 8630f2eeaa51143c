"""``npgpt translate``: what an encoder-decoder writes for each line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated

from autograd.reading import read_text
from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.hub import find_model
from npgpt.models.config import Size
from npgpt.models.gpt import GPT
from npgpt.options import Argument, parse
from npgpt.say import say_text
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.training.memory import keep_freed_memory
from npgpt.translation import (
    BATCH,
    Translation,
    demand_encoder_decoder,
    encode_source,
    translate,
)
from npgpt.weights.load import load_model


@dataclass
class Options:
    """Translate lines.

    The model is one that npgpt train --pairs has trained. The lines are those of the files, or of
    standard input. A line without text stays one.
    """

    files: Annotated[tuple[FileName, ...], Argument("FILE ...")] = ()
    """Files with a sentence on each line."""
    model: FileName = ""
    """A folder with a model, or a name on the Hugging Face hub; if not given, the latest run under
    out/."""
    beams: Size = 4
    """How many beginnings of a translation the search keeps; 1 is the fastest."""
    json: bool = False
    """Print for each line an object: source, target, logprob (the logarithm of the target's
    probability), and ids (the tokens of the target, with its end)."""


def run(args: list[str]) -> int:
    """Print a line for each line; return 130 after Ctrl-C."""
    options = parse(Options, args, "translate")
    keep_freed_memory()
    if options.model:
        folder = find_model(options.model)
    else:
        from npgpt.training.run import latest_run  # takes longer to import than all of the others

        folder = latest_run()
    model, tokenizer = demand_encoder_decoder(load_model(folder)), load_tokenizer(folder)
    is_typed = not options.files and sys.stdin.isatty()
    if is_typed:
        print("one sentence a line; Ctrl-D ends", file=sys.stderr)
    lines = read_lines(options.files)
    n = 0
    try:
        while block := list(islice(lines, 1 if is_typed else 4 * BATCH)):
            n += len(block)
            for each in translate_lines(model, tokenizer, block, options.beams):
                if options.json:
                    print(json.dumps(asdict(each), ensure_ascii=False))
                else:
                    say_text(each.target)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    if not n:
        raise UserError("there is nothing to translate: give a file, or lines on standard input")
    return 0


def translate_lines(
    model: GPT, tokenizer: Tokenizer, lines: list[tuple[str, str]], num_beams: int
) -> list[Translation]:
    """Return the translation of each line; an error says which line it is about."""
    texts = []
    for where, text in lines:
        if text.strip():
            texts.append(text)
            try:
                encode_source(model, tokenizer, text)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    found = iter(translate(model, tokenizer, texts, num_beams))
    return [next(found) if text.strip() else Translation(text, "", 0.0, []) for _, text in lines]


def read_lines(files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the lines of files, or of standard input as they come, each with where it stands."""
    for file in files:
        text = read_text(file, pipes=True).removesuffix("\n")
        for number, line in enumerate(text.split("\n") if text else [], 1):
            yield f"{file}, line {number}", line.rstrip("\r")
    if not files:
        for number, content in enumerate(sys.stdin.buffer, 1):
            where = f"line {number} of standard input"
            try:
                yield where, content.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                raise UserError(f"{where} is not UTF-8") from None

"""``npgpt fill``: the tokens that fit the gaps of a text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from autograd.schema import FileName
from npgpt.commands.generate import is_piped, read_lines
from npgpt.errors import UserError
from npgpt.gaps import Guess, demand_masked_head, fill_gaps
from npgpt.hub import find_model
from npgpt.models.config import Size
from npgpt.options import Argument, parse
from npgpt.say import say, visible
from npgpt.tokenizers import load_tokenizer
from npgpt.training.memory import keep_freed_memory
from npgpt.weights.load import load_model


@dataclass
class Options:
    """Fill the gaps of a text, each written as [MASK], with the most probable tokens.

    Each gap is filled for itself. Without any text, the lines of standard input are the texts.
    """

    texts: Annotated[tuple[str, ...], Argument("TEXT ...")] = ()
    """The texts."""
    model: FileName = ""
    """A folder with a BERT, or a name on the hub; the latest run under out/, if not given."""
    top: Size = 5
    """How many tokens to show for each gap."""
    json: bool = False
    """Print a line for each text: for each gap a list of tokens, as the fill-mask pipeline of
    transformers names their values."""


def run(args: list[str]) -> int:
    """Print the tokens for the gaps of each text; return 130 after Ctrl-C."""
    options = parse(Options, args, "fill")
    keep_freed_memory()
    if options.model:
        folder = find_model(options.model)
    else:
        from npgpt.training.run import latest_run  # takes longer to import than all of the others

        folder = latest_run()
    model = demand_masked_head(load_model(folder), str(folder))
    tokenizer = load_tokenizer(folder)
    try:
        for number, text in enumerate(read_texts(options)):
            found = fill_gaps(model, tokenizer, text, options.top)
            if options.json:
                print(json.dumps([[dataclasses.asdict(guess) for guess in gap] for gap in found]))
            else:
                show(found, is_first=not number)
    except KeyboardInterrupt:
        return 130
    return 0


def read_texts(options: Options) -> Iterator[str]:
    """Yield the texts: those of the command line, or the lines of a pipe as they come."""
    if options.texts:
        yield from options.texts
    elif is_piped():
        yield from read_lines()
    else:
        raise UserError('there is no text; give one, as in: npgpt fill "the capital [MASK] of"')


def show(found: list[list[Guess]], is_first: bool) -> None:
    """Print a line for each guess: its probability, its token, and the text with this token."""
    for number, guesses in enumerate(found):
        if number or not is_first:
            say("")
        width = max(len(visible(guess.token_str)) for guess in guesses)
        for guess in guesses:
            token = visible(guess.token_str)
            say(f"{guess.score:6.3f}  {token:<{width}}  {guess.sequence}")

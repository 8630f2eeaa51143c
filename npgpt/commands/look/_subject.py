"""What the commands of ``npgpt look`` share: the model, the text, and where the result goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from rich.cells import set_cell_size  # a Chinese character takes two columns of a terminal
from rich.text import Text

from autograd.console import Console
from autograd.escape import brief
from autograd.files import write_text
from autograd.schema import FileName
from npgpt.diagnostics import page
from npgpt.diagnostics.axis_names import name_token
from npgpt.diagnostics.inside import encode
from npgpt.errors import UserError
from npgpt.hub import find_model
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.options import NewFile
from npgpt.say import say
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.translation import encode_source, translate
from npgpt.weights.load import load_model

BLOCKS = " ░▒▓█"


@dataclass
class Options:
    """The options of all commands of ``npgpt look``; the first of each."""

    model: FileName = ""
    """A folder with a model, a .safetensors or .gguf file, the name of an added model (npgpt models
    list), or a name on the Hugging Face hub; if not given, the latest run under out/."""
    text: str = ""
    """The text that the model reads."""
    html: NewFile = ""
    """A file to write: a page with heat maps of everything, in one file without scripts."""
    json: bool = False
    """Print the numbers as JSON instead."""


@dataclass
class Subject:
    """A model and the text that it has read; of an encoder-decoder also the target."""

    model: GPT
    tokenizer: Tokenizer
    ids: ndarray  # (T,)
    console: Console = field(default_factory=Console)
    target: ndarray | None = None

    def name(self, token: int) -> str:
        """Return a token in visible characters; an id beyond the tokenizer's has no text."""
        return name_token(self.tokenizer, token)

    @property
    def tokens(self) -> list[str]:
        """The tokens of the text, in visible characters."""
        return [self.name(i) for i in self.ids.tolist()]

    @property
    def texts(self) -> list[str]:
        """The tokens of the text, as they are; a byte that is no character is spelled."""
        return self.spell(self.ids)

    def spell(self, ids: ndarray) -> list[str]:
        """Return tokens as they are; a byte that is no character is spelled."""
        found = (self.tokenizer.tokens.get(i, f"[{i}]") for i in ids.tolist())
        return [t if isinstance(t, str) else t.decode("utf-8", "backslashreplace") for t in found]

    def find_token(self, option: str, text: str) -> int:
        """Return the id of an option's text, which must be one token."""
        ids = self.tokenizer.encode(text, allowed_special="all", add_special_tokens=False)
        if len(ids) != 1:
            made = " ".join(self.name(i) for i in ids.tolist()) or "none"
            raise UserError(
                f"{option} must be one token, and {brief(text)} is {len(ids)}: {brief(made)} (a "
                "word within a text begins with its space, as in ' Paris')"
            )
        return int(ids[0])

    def describe(self, best: ndarray, probabilities: ndarray) -> str:
        """Return tokens with their probabilities, as ``·Paris 82 %  ·a 3 %``.

        No comma separates them, since a comma is a token that is often among them.
        """
        pairs = zip(best.tolist(), probabilities.tolist(), strict=True)
        return "  ".join(f"{self.name(i)} {percent(p)}" for i, p in pairs)


def load_subject(
    options: Options, n_at_least: int = 1, predicts: bool = True, translates: bool = False
) -> Subject:
    """Return the model and the text that the options name.

    With `predicts`, the model must predict next tokens; with `translates`, it may be an
    encoder-decoder as well.
    """
    if options.model:
        folder = find_model(options.model)
    else:
        from npgpt.training.run import latest_run

        folder = latest_run()
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    if isinstance(model, EncoderDecoder) and translates:
        return read_pair(model, tokenizer, options.text)
    if isinstance(model, EncoderDecoder) or predicts and not model.predicts_tokens:
        need = "predicts next tokens" if predicts else "reads one text"
        raise UserError(
            f"{folder} is a model of the type {model.config.model_type}; this needs one that {need}"
        )
    return Subject(model, tokenizer, encode(model, tokenizer, options.text, n_at_least))


def read_pair(model: EncoderDecoder, tokenizer: Tokenizer, text: str) -> Subject:
    """Return a source and its target, with a tab between them in the text.

    Without a tab, the text is a source, and the model writes the target.
    """
    text, tab, target = text.partition("\t")
    source = encode_source(model, tokenizer, text)
    if not tab:
        ids = translate(model, tokenizer, [text])[0].ids
    else:
        ids = [*tokenizer.encode(target), model.config.eos_token_id]
    if len(ids) > model.config.n_positions:
        raise UserError(
            f"the target has {len(ids):,} tokens, and the model writes at most "
            f"{model.config.n_positions:,}; give a shorter one"
        )
    return Subject(model, tokenizer, source, target=np.array(ids))


def find_index(option: str, value: int, n: int, of: str) -> int:
    """Return an index that an option gives, counted from the end if it is negative."""
    if not -n <= value < n:
        raise UserError(f"{option} is {value}; {of}, 0 to {n - 1}")
    return value % n


def print_json(**values: Any) -> None:
    """Print values as one line of JSON; arrays become lists."""

    def plain(value: Any) -> Any:
        assert isinstance(value, ndarray | np.generic)
        return value.tolist()

    print(json.dumps(values, default=plain, ensure_ascii=True))


def write_page(options: Options, title: str, *parts: str) -> None:
    """Write the page that --html asks for."""
    write_text(Path(options.html), page.page(title, *parts))
    say(f"{options.html} is written")


def percent(share: float) -> str:
    """Return a share in percent, in two or three characters and a sign.

    Examples
    --------
    >>> percent(0.5), percent(0.004), percent(0.0004)
    ('50 %', '0.4 %', '<0.1 %')
    """
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0095 or not share else f"{100 * share:.1f} %"


def shorten(text: str, width: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def labels(tokens: Sequence[str], width: int) -> list[str]:
    """Return the labels of tokens in front of a row: the position, and the token."""
    digits = len(str(len(tokens) - 1))
    return [
        set_cell_size(f"{i:>{digits}} {shorten(token, width - digits - 1)}", width)
        for i, token in enumerate(tokens)
    ]


def bar(share: float, width: int) -> Text:
    """Return a bar for a share from -1 to 1, in the colour of its sign."""
    n = round(min(abs(share), 1) * width)
    return Text("█" * n, "color(33)" if share >= 0 else "color(208)")

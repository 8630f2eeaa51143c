"""``npgpt summarize``: what a model writes about a text in a few sentences."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from autograd.escape import brief
from autograd.reading import LARGE, decode, read_text
from autograd.schema import FileName
from npgpt.commands.complete import Writer, find_writer, resolve_answers, write_answer
from npgpt.commands.generate import Sampling, is_piped
from npgpt.errors import UserError
from npgpt.evaluation.choices import encode_prompt, encode_text
from npgpt.evaluation.few_shot import FewShot
from npgpt.generation.options import Options as GenerationOptions
from npgpt.models.gpt import GPT
from npgpt.options import Argument, parse
from npgpt.say import say, say_text
from npgpt.tokenizers import Tokenizer
from npgpt.training.memory import keep_freed_memory

ASKED = "Summarize this text in one or two sentences."
STDIN = "standard input"
AFTER = "{input}\n\nTL;DR: {output}"  # Radford et al. 2019, section 3.6


@dataclass
class Texts:
    """The texts: the first option of the command."""

    files: Annotated[tuple[FileName, ...], Argument("FILE ...")] = ()
    """Files with one text each; standard input, if none is given."""
    instruction: str = ASKED
    """What a model is asked that was trained on conversations; an empty line and the text follow.
    If empty, the message is the text alone."""


@dataclass
class Options(Sampling, Writer, Texts):  # the fields of the last base class come first
    """Summarize texts, each in a few sentences.

    A model with a chat template, such as smollm2, gets the instruction and the text as a message.
    Another model continues the text after "TL;DR:", as GPT-2 did. A text that is too long for the
    model loses its last tokens; a note says how many.

    An option that is not given has the value in the model's generation_config.json. If the file has
    no value either, a summary has up to 100 tokens, each the most probable one.
    """

    json: bool = False
    """Print each summary as one line of JSON: the file, the summary, its tokens, why it ended, and
    how many tokens of the text the model has not read."""


def run(args: list[str]) -> int:
    """Print the summary of each text; return 130 after Ctrl-C."""
    options = parse(Options, args, "summarize")
    keep_freed_memory()
    texts = [*read_texts(options.files)]  # a file that cannot be read ends the command at once
    model, tokenizer = find_writer(options)
    task = describe(tokenizer, options.instruction)
    resolved = resolve_answers(options, model, tokenizer, task)
    try:
        for n, (file, text) in enumerate(texts):
            fitted, n_left_out = fit(model, tokenizer, task, text, resolved)
            if n_left_out:
                say(
                    f"note: {file} is too long for the model's context of "
                    f"{model.config.n_positions:,} tokens; the last {n_left_out:,} of its tokens "
                    "are left out",
                    sys.stderr,
                )
            summary, found = write_answer(model, tokenizer, task, fitted, resolved)
            if options.json:
                values = {"file": file, "summary": summary, "ids": found.ids}
                rest = {"finish_reason": found.finish_reason, "left_out": n_left_out}
                print(json.dumps(values | rest), flush=True)
            else:
                say_text(("\n" if n else "") + summary)  # an empty line between two summaries
    except KeyboardInterrupt:
        return 130
    return 0


def read_texts(files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file, or of standard input."""
    if not files and not is_piped():
        raise UserError("there is no text; give files, as in: npgpt summarize article.txt")
    found = [(file, read_text(file, LARGE, pipes=True)) for file in files]
    if not files:
        found = [(STDIN, decode(sys.stdin.buffer.read(), STDIN))]
    for name, text in found:
        if not text.strip():
            raise UserError(f"there is nothing to summarize: {name} has no text")
        yield name, text.strip()


def describe(tokenizer: Tokenizer, instruction: str) -> FewShot:
    """Return how a text becomes a prompt: a message if the model knows conversations."""
    if not tokenizer.chat_template:
        if instruction != ASKED:
            raise UserError(
                f"--instruction is {brief(instruction)}, and the model has no chat template: it "
                "was not trained to follow instructions; leave out --instruction"
            )
        return FewShot(AFTER)
    if "{input}" in instruction or "{output}" in instruction:
        raise UserError(
            f"--instruction is {brief(instruction)}; it must be a text without {{input}} and "
            "{output}: the text follows the instruction by itself"
        )
    asked = f"{instruction}\n\n" if instruction else ""
    return FewShot(asked + "{input}\n{output}", as_chat=True)


def fit(
    model: GPT, tokenizer: Tokenizer, task: FewShot, text: str, options: GenerationOptions
) -> tuple[str, int]:
    """Return as much of a text as the model can read, and how many tokens are left out.

    The prompt and the summary together have room in the model's context.
    """
    room = model.config.n_positions - (options.max_new_tokens or 0)
    ids = encode_text(tokenizer, text)
    n_kept = len(ids)
    while n_kept >= 0:
        kept = text if n_kept == len(ids) else tokenizer.decode(ids[:n_kept]).rstrip("\ufffd")
        too_many = len(encode_prompt(tokenizer, task.prompt(kept, tokenizer))) - room
        if too_many <= 0 and kept.strip():
            return kept, len(ids) - n_kept
        n_kept -= max(1, too_many)
    raise UserError(
        f"the model's context of {model.config.n_positions:,} tokens has no room for a text and a "
        f"summary of {options.max_new_tokens or 0:,} tokens; lower --max_new_tokens"
    )

"""``npgpt generate``: let a model continue texts."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autograd.files import write_text
from autograd.reading import read_text
from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.generation import TextStreamer, resolve_options, start_search
from npgpt.generation.options import Options as GenerationOptions
from npgpt.generation.quantize import quantize
from npgpt.hub import find_model
from npgpt.models.gpt import GPT
from npgpt.options import NewFile, parse, quoted
from npgpt.say import say_text
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.training.memory import keep_freed_memory
from npgpt.weights.load import load_pretrained

LINE = "─" * 72


# of what is neither given nor in the model's generation_config.json
DEFAULTS = {"max_new_tokens": 500, "temperature": 0.8, "top_k": 200}


@dataclass
class Options:
    """Let a model continue a prompt.

    What is not given is as the model's generation_config.json says. Where that says nothing: up to
    500 new tokens, drawn at temperature 0.8 among the best 200, or the best ones of a beam search.
    """

    prompt: str = ""
    """The text to continue; - takes one prompt a line from standard input, as a pipe does."""
    prompt_file: FileName = ""
    """A file with the text to continue."""
    model: FileName = ""
    """A folder with a model, its .safetensors file, or a name on the hub; if empty, the latest run
    under out/."""
    int8: bool = False
    """Round the weights to 8 bits, which generates faster and is a little less exact."""
    max_new_tokens: int | None = None
    """Tokens that follow at most."""
    max_length: int | None = None
    """Tokens at most, the prompt's included."""
    min_new_tokens: int | None = None
    """Tokens that follow at least."""
    min_length: int | None = None
    """Tokens at least, the prompt's included."""
    max_time: float | None = None
    """Seconds after which a text ends."""
    do_sample: bool | None = None
    """Draw each token from its distribution; if nothing says so, yes, but not in a beam search."""
    temperature: float | None = None
    """Below 1 the text is more probable, above 1 wilder; 0 always takes the best token."""
    top_k: int | None = None
    """Choose among this many tokens; 0 is off."""
    top_p: float | None = None
    """Choose among the best tokens that have this probability together."""
    min_p: float | None = None
    """Choose among tokens with this part of the best one's probability."""
    typical_p: float | None = None
    """Choose among the least surprising and boring tokens of this probability together."""
    epsilon_cutoff: float | None = None
    """Choose among tokens with at least this probability; 0 is off."""
    eta_cutoff: float | None = None
    """As epsilon_cutoff, and among less probable tokens where the choice is wide; 0 is off."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens that are in the text less probable."""
    no_repeat_ngram_size: int | None = None
    """No run of so many tokens comes twice; 0 is off."""
    bad_words: tuple[str, ...] = ()
    """Words that must not come."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that must not come."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Tokens that must not follow the prompt at once."""
    forced_bos_token_id: int | None = None
    """The token that follows a prompt of one token."""
    forced_eos_token_id: int | None = None
    """The last token of a text that is as long as it may be."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end the text."""
    eos_token_id: int | None = None
    """A token that ends the text."""
    num_beams: int | None = None
    """Above 1: search for the most probable text, among so many beginnings at a time."""
    length_penalty: float | None = None
    """Beams are compared by their log-probability divided by length to this power."""
    early_stopping: Literal["true", "false", "never"] | None = None
    """When a beam search ends: as soon as there are enough, if no better is likely, or possible."""
    num_return_sequences: int | None = None
    """Continuations of each prompt."""
    seed: int | None = None
    """The same seed writes the same text; a random one if not given."""
    use_cache: bool | None = None
    """False reads the whole text again for every token."""
    json: NewFile = ""
    """A file for the texts, their tokens and log-probabilities, and why they end."""


def run(args: list[str]) -> int:
    """Write a text for each prompt; return 130 after Ctrl-C."""
    if args and not args[0].startswith("-"):
        raise UserError(f"to continue a text, give it as --prompt {quoted(args[0])}")
    options = parse(Options, args, "generate")
    keep_freed_memory()
    if options.model:
        folder = find_model(options.model)
    else:
        from npgpt.training.run import latest_run  # takes longer to import than all of the others

        folder = latest_run()
    model, tokenizer = load_pretrained(folder), load_tokenizer(folder)
    if options.int8:
        model = quantize(model)
    beams = options.num_beams or model.generation_config.get("num_beams") or 1
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    fallback = DEFAULTS | {"do_sample": beams == 1, "seed": seed}
    resolved = resolve_options(model, choices_of(options, model, tokenizer), tokenizer, fallback)
    records: list[dict[str, Any]] = []
    interrupted = False
    began = time.monotonic()
    try:
        for prompt in prompts_of(options):
            if records:
                print(LINE)
            write(model, tokenizer, prompt, resolved, records, bool(options.json))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        seconds = time.monotonic() - began
        if options.json and (records or not sys.exc_info()[0]):  # what is there, whatever ends it
            lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
            write_text(Path(options.json), f"[\n{lines}\n]\n")
    if sys.stderr.isatty():
        n = sum(len(record["ids"]) for record in records)
        print(f"{n:,} tokens in {seconds:.1f} s, {n / seconds:,.1f} a second", file=sys.stderr)
    return 130 if interrupted else 0


def choices_of(options: Options, model: GPT, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what was given, as options of `npgpt.generate`."""
    vocab_size = model.config.vocab_size
    if options.top_k is not None and options.top_k > vocab_size:
        raise UserError(f"top_k is {options.top_k}, and the vocabulary has {vocab_size} tokens")
    choices = {
        name: value
        for name, value in vars(options).items()
        if name not in ("prompt", "prompt_file", "model", "int8", "bad_words", "json")
    }
    if "" in options.bad_words:
        raise UserError("one of --bad_words is empty; it must be a word")
    early = options.early_stopping
    choices["early_stopping"] = {"true": True, "false": False}.get(str(early), early)
    in_text = tokenizer.kind not in ("char", "byte")  # where a word has a token with its space
    choices["bad_words_ids"] = [
        tokenizer.encode(before + word, add_special_tokens=False).tolist()
        for word in options.bad_words
        for before in (["", " "] if in_text else [""])
    ]
    return {name: value for name, value in choices.items() if value not in (None, (), [])}


def prompts_of(options: Options) -> Iterator[str]:
    """Yield the prompts: the option's, a file's, or the lines of standard input as they come."""
    if options.prompt and options.prompt_file:
        raise UserError("give --prompt or --prompt_file, not both")
    if options.prompt_file:
        path = Path(options.prompt_file)
        text = read_text(path, pipes=True)
        if not text.strip("\n"):
            raise UserError(f"{path} is empty; it must hold the text to continue")
        yield text.removesuffix("\n")  # which editors add
    elif options.prompt not in ("", "-"):
        yield options.prompt
    elif options.prompt == "-" or is_piped():
        if sys.stdin.isatty():
            print("one prompt a line; Ctrl-D ends", file=sys.stderr)
        empty = True
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                prompt = line.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                raise UserError(f"line {number} of standard input is not UTF-8") from None
            if prompt:
                empty = False
                yield prompt
        if empty:
            raise UserError("the prompt is empty: standard input has no text")
    else:
        raise UserError("the prompt is empty; give the text to continue with --prompt TEXT")


def is_piped() -> bool:
    """Return whether standard input is a pipe or a file, not a terminal or nothing."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def write(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    options: GenerationOptions,
    records: list[dict[str, Any]],
    wants_logprobs: bool,
) -> None:
    """Print what follows a prompt, and add it to the records, as far as it comes.

    One text is printed while it is written; of several, all are when they are there.
    """
    ids = tokenizer.encode(prompt, allowed_special="all")
    search = start_search(model, ids, options, tokenizer=tokenizer, wants_logprobs=wants_logprobs)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    is_one = options.num_beams == options.num_return_sequences == 1
    stop: BaseException | None = None
    try:
        search.run(streamer if is_one else None)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        stop = error
    known = len(tokenizer.decode(ids, skip_special_tokens=True))
    texts = []
    for found in search.continuations():
        texts.append(tokenizer.decode([*ids, *found.ids], skip_special_tokens=True))
        records.append(
            {
                "prompt": prompt,
                "text": texts[-1][known:],
                "ids": found.ids,
                "logprobs": found.logprobs,
                "seed": options.seed if options.do_sample else None,
                "finish_reason": found.finish_reason or "interrupted",
            }
        )
    if not is_one:
        say_text(f"\n{LINE}\n".join(texts))
    elif isinstance(stop, KeyboardInterrupt):
        streamer.end()
    if stop:
        raise stop

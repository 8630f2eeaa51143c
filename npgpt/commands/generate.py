"""``npgpt generate``: let a model continue texts."""

from __future__ import annotations

import dataclasses
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
from numpy import ndarray

from autograd.files import write_text
from autograd.reading import read_text
from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.generation import TextStreamer, ahead, resolve_options, start_search
from npgpt.generation.image import put_image_first, read_image
from npgpt.generation.options import Options as GenerationOptions
from npgpt.generation.quantize import quantize
from npgpt.hub import find_model
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.options import NewFile, parse, quoted
from npgpt.say import say_text
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.training.memory import keep_freed_memory
from npgpt.weights.load import load_model

LINE = "─" * 72


# Defaults of options that are neither given nor in the model's generation_config.json.
DEFAULTS = {"max_new_tokens": 500, "temperature": 0.8, "top_k": 200}


@dataclass
class Prompt:
    """What to continue, and the model: the first options of the command."""

    prompt: str = ""
    """The text to continue; with -, each line of standard input is a prompt, as from a pipe."""
    prompt_file: FileName = ""
    """A file with the text to continue."""
    image: FileName = ""
    """A .npy file with an image, which the model reads before the prompt; only what it writes is
    printed."""
    model: FileName = ""
    """A folder with a model, a .safetensors file, or a name on the Hugging Face hub; if not given,
    the latest run under out/."""
    int8: bool = False
    """Round the weights to 8 bits: generation is faster, and a little less exact."""
    float32: bool = False
    """Compute with float32 weights where the model's file has fewer bits, which takes more memory
    and time. Without it, quantized and 16-bit weights stay as they are in the file."""


@dataclass
class Sampling:
    """The options of a text that is written token by token; ``npgpt chat`` has them, too."""

    max_new_tokens: int | None = None
    """Most new tokens."""
    min_new_tokens: int | None = None
    """Fewest new tokens."""
    max_time: float | None = None
    """Seconds after which a text ends."""
    do_sample: bool | None = None
    """Draw each token from its distribution. The default is True, and False in a beam search."""
    temperature: float | None = None
    """Below 1, probable tokens are drawn more often; above 1, less often; 0 always takes the most
    probable token."""
    top_k: int | None = None
    """Draw among this many of the most probable tokens; 0 is off."""
    top_p: float | None = None
    """Draw among the most probable tokens whose probabilities add up to this number; 1 is off."""
    min_p: float | None = None
    """Draw among tokens with at least this share of the highest probability; 0 is off."""
    typical_p: float | None = None
    """Draw among the tokens whose surprise is nearest to the expected surprise, and whose
    probabilities add up to this number; 1 is off."""
    epsilon_cutoff: float | None = None
    """Draw among tokens with at least this probability; 0 is off."""
    eta_cutoff: float | None = None
    """As epsilon_cutoff, but with a lower bound where many tokens are possible; 0 is off."""
    repetition_penalty: float | None = None
    """Above 1, tokens that are in the text become less probable; 1 is off."""
    no_repeat_ngram_size: int | None = None
    """No sequence of this many tokens occurs twice; 0 is off."""
    bad_words: tuple[str, ...] = ()
    """Words that must not occur in the new text."""
    suppress_tokens: tuple[int, ...] = ()
    """Token ids that must not occur in the new text."""
    stop_strings: tuple[str, ...] = ()
    """Strings after which the text ends."""
    eos_token_id: int | None = None
    """The token id after which the text ends."""
    seed: int | None = None
    """Of the random draws: the same seed gives the same text. If not given, a random seed."""
    use_cache: bool | None = None
    """If False, the model reads the whole text again for every token, which is slow."""


@dataclass
class Options(Sampling, Prompt):  # help shows the fields of the last base class first
    """Let a model continue a prompt.

    An option that is not given has the value in the model's generation_config.json. If the file
    has no value either, up to 500 new tokens follow, each drawn at temperature 0.8 among the 200
    most probable tokens, or found by a beam search.
    """

    max_length: int | None = None
    """Most tokens, the prompt's included."""
    min_length: int | None = None
    """Fewest tokens, the prompt's included."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Token ids that must not be the first new token."""
    forced_bos_token_id: int | None = None
    """The token id that follows a prompt of one token."""
    forced_eos_token_id: int | None = None
    """The last token id of a text that reaches its greatest length."""
    num_beams: int | None = None
    """Above 1: a beam search for the most probable text, which keeps this many texts at a time."""
    length_penalty: float | None = None
    """A beam's score is its log-probability, divided by its length to this power."""
    early_stopping: Literal["true", "false", "never"] | None = None
    """When a beam search ends: true: as soon as num_beams texts are complete; false: when a better
    text is unlikely; never: when a better text is impossible."""
    num_return_sequences: int | None = None
    """Texts for each prompt."""
    json: NewFile = ""
    """A file to write: each text, its token ids and log-probabilities, and why it ended."""


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
    ahead.start()
    model, tokenizer = load_writer(folder, options.int8, options.float32)
    beams = options.num_beams or model.generation_config.get("num_beams") or 1
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    fallback = DEFAULTS | {"do_sample": beams == 1, "seed": seed}
    resolved = resolve_options(
        model, collect_choices(options, model, tokenizer), tokenizer, fallback
    )
    image = read_image(options.image, model) if options.image else None
    records: list[dict[str, Any]] = []
    interrupted = False
    began = time.monotonic()
    try:
        for prompt in read_prompts(options):
            if records:
                print(LINE)
            write(model, tokenizer, prompt, resolved, records, bool(options.json), image)
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


def load_writer(folder: Path, int8: bool, float32: bool) -> tuple[GPT, Tokenizer]:
    """Return a model that is to write, and its tokenizer.

    Weights stay as they are packed in the file, unless one of the two options says otherwise.
    """
    if int8 and float32:
        raise UserError("give --int8 or --float32, not both")
    model = load_model(folder, packed=not float32)
    return quantize(model) if int8 else model, load_tokenizer(folder)


def demand_writer(model: GPT, folder: Path) -> None:
    """Refuse a model that does not continue a text."""
    if isinstance(model, EncoderDecoder) or not model.predicts_tokens:
        raise UserError(
            f"{folder} is a model of the type {model.config.model_type}, which does not continue a "
            "text; this needs one that does, such as smollm2"
        )


def collect_choices(options: Sampling, model: GPT, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what was given, as options of `npgpt.generate`."""
    vocab_size = model.config.vocab_size
    if options.top_k is not None and options.top_k > vocab_size:
        raise UserError(f"top_k is {options.top_k}, and the vocabulary has {vocab_size} tokens")
    names = {field.name for field in dataclasses.fields(GenerationOptions)}
    choices = {name: value for name, value in vars(options).items() if name in names}
    if "" in options.bad_words:
        raise UserError("one of --bad_words is empty; it must be a word")
    early = choices.get("early_stopping")
    choices["early_stopping"] = {"true": True, "false": False}.get(str(early), early)
    in_text = tokenizer.kind not in ("char", "byte")  # where a word has a token with its space
    choices["bad_words_ids"] = [
        tokenizer.encode(before + word, add_special_tokens=False).tolist()
        for word in options.bad_words
        for before in (["", " "] if in_text else [""])
    ]
    return {name: value for name, value in choices.items() if value not in (None, (), [])}


def read_prompts(options: Options) -> Iterator[str]:
    """Yield the prompts: the option's, a file's, or the lines of standard input as they come."""
    if options.prompt and options.prompt_file:
        raise UserError("give --prompt or --prompt_file, not both")
    if options.prompt_file:
        path = Path(options.prompt_file)
        text = read_text(path, pipes=True)
        if not text.strip("\n"):
            raise UserError(f"{path} is empty; it must hold the text to continue")
        yield text.removesuffix("\n")  # which editors add
    elif options.prompt not in ("", "-") or options.image and not options.prompt:
        yield options.prompt
    elif options.prompt == "-" or is_piped():
        if sys.stdin.isatty():
            print("one prompt a line; Ctrl-D ends", file=sys.stderr)
        yield from read_lines()
    else:
        raise UserError("the prompt is empty; give the text to continue with --prompt TEXT")


def read_lines() -> Iterator[str]:
    """Yield the lines of standard input that are not empty, as they come."""
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
        raise UserError("standard input has no text")


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
    image: ndarray | None = None,
) -> None:
    """Print what follows a prompt, and add it to the records, as far as it comes.

    One text is printed while it is written; of several, all are when they are there.
    """
    ids = tokenizer.encode(prompt, allowed_special="all")
    if image is not None:
        ids = put_image_first(model, ids)
    search = start_search(
        model, ids, options, tokenizer=tokenizer, wants_logprobs=wants_logprobs, pixel_values=image
    )
    streamer = TextStreamer(tokenizer, skip_prompt=image is not None, skip_special_tokens=True)
    is_one = options.num_beams == options.num_return_sequences == 1
    stop: BaseException | None = None
    try:
        search.run(streamer if is_one else None)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        stop = error
    if isinstance(model, EncoderDecoder) or image is not None:  # answered, and not continued
        ids = ids[:0]
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

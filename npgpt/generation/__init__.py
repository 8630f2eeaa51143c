"""Generating text with a model: `generate`, with the options of Hugging Face's function.

The files, in the order in which a call of `generate` comes to them: ``options.py`` checks the
options, ``search.py`` has the loop, ``reader.py`` and ``decode.py`` compute logits,
``processors.py`` changes them, and ``streaming.py`` prints the text.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from autograd import no_grad
from npgpt.errors import UserError
from npgpt.generation.options import Options, fit_own_options
from npgpt.generation.reader import Reader, window_step
from npgpt.generation.search import BeamSearch, Generated, Sampling, Search
from npgpt.generation.streaming import Streamer, TextStreamer
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.models.vision import VisionGPT
from npgpt.module import check_ids, evaluating
from npgpt.say import say
from npgpt.tokenizers.base import Tokenizer

__all__ = ["Generated", "TextStreamer", "generate"]

SAMPLING = (  # options that have an effect only where tokens are drawn
    "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
Prompts = ArrayLike | Sequence[ArrayLike]


@overload
def generate(
    model: GPT, input_ids: Prompts, *, output_logprobs: Literal[True], **options: Any
) -> Generated: ...
@overload
def generate(model: GPT, input_ids: Prompts, **options: Any) -> ndarray: ...
def generate(
    model: GPT,
    input_ids: Prompts,
    *,
    attention_mask: Prompts | None = None,
    tokenizer: Tokenizer | None = None,
    streamer: Streamer | None = None,
    output_logprobs: bool = False,
    pixel_values: ArrayLike | None = None,
    **options: Any,
) -> ndarray | Generated:
    """Continue sequences of tokens. Names, meanings and defaults of options are Hugging Face's.

    The text that follows a prompt depends on the prompt, the options and the seed. It does not
    depend on the other prompts of the batch. If a text grows longer than the model's context, the
    model sees only the end of the text (`npgpt.generation.reader.window_start`), and a note on
    standard error says so.

    Parameters
    ----------
    model : GPT
        The model. An option that is not given here has the value in the model's
        ``generation_config`` (from ``generation_config.json``), if it has one. An option that is
        given as None is off: with ``eos_token_id=None``, no token ends a text.
    input_ids : array_like of int, (T,) or (B, T), or sequence of (T,)
        The prompts, of at least one token each. In a sequence, prompts may differ in length. For
        an `EncoderDecoder` they are sources, and the result has the targets, each with the token
        that the decoder reads first.
    attention_mask : array_like of the shape of `input_ids`, optional
        0 for padding, and 1 for text. The model does not read padding; the result keeps it. If
        there is no mask, every token is text.
    tokenizer : Tokenizer, optional
        The tokenizer that decodes the text in which `stop_strings` are searched for.
    streamer : Streamer, optional
        An object that receives each token as it is chosen, such as a `TextStreamer`; only for one
        sequence.
    output_logprobs : bool
        Whether to return a `Generated`, with log-probabilities, in place of an array.
    pixel_values : array_like of float, (B, c, H, W), optional
        For a `VisionGPT`: an image for each prompt. A prompt has the image token once for each
        patch. Image and text must fit the context.
    max_length, max_new_tokens : int, optional
        The greatest number of tokens. `max_length` counts the prompt and its padding, and
        `max_new_tokens` does not. If neither is given, 20 new tokens may follow, or fewer where the
        context ends before.
    min_length, min_new_tokens : int, optional
        The number of tokens before which no token of `eos_token_id` may come. `min_length` counts
        the prompt, and `min_new_tokens` does not. If both are given, `min_new_tokens` counts.
    max_time : float, optional
        Seconds after which the text ends with the next token.
    do_sample : bool
        Whether to draw each token by its probability. If False, the most probable token is chosen.
    temperature : float
        The logits are divided by this number before a token is drawn. 0 is greedy decoding.
    top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff : int and float
        Limits that leave only some tokens to draw from, see `npgpt.generation.processors`. The
        values 0, 1, 0, 1, 0 and 0 switch them off. By default only ``top_k=50`` is on.
    repetition_penalty : float
        A number above 1 makes tokens that the text already has less probable; 1 is off.
    no_repeat_ngram_size : int
        No sequence of this many tokens may occur twice; 0 is off.
    bad_words_ids : sequence of sequence of int
        Sequences of tokens that must not occur.
    suppress_tokens, begin_suppress_tokens : sequence of int
        Tokens that must never come, and tokens that must not be the first new token.
    forced_bos_token_id : int, optional
        The token that must follow a prompt of one token.
    forced_eos_token_id : int or sequence of int, optional
        The last token of a text that grows to its greatest length; one of these if there are
        several.
    logits_processor : callable or sequence of callable
        Functions ``(input_ids, scores) -> scores`` that change the logits of the next token, before
        `temperature` and the limits do. `input_ids` is int64 (R, T), the rows with their padding;
        `scores` is float64 (R, V). R is the same in each step. In a beam search, scores are
        log-probabilities.
    stopping_criteria : callable or sequence of callable
        Functions ``(input_ids, None) -> bool`` that say which rows end: an array of bool (R,), or
        one bool for all rows.
    eos_token_id : int or sequence of int, optional
        Tokens that end a text.
    pad_token_id : int, optional
        The token that fills up the shorter rows of the result. If not given, it is the first token
        of `eos_token_id`, or 0.
    stop_strings : str or sequence of str
        Strings that end a text. The string stays in the text.
    num_beams : int
        Above 1, a beam search for the most probable text, with this many texts that grow side by
        side. With `do_sample`, their continuations are drawn.
    length_penalty : float
        Beams are compared by their log-probability divided by ``length ** length_penalty``.
    early_stopping : bool or "never"
        When to end a beam search in which ``num_beams`` texts have ended: at once (True), when a
        better text is improbable (False), or when a better text is impossible ("never").
    num_return_sequences : int
        The number of continuations of each prompt. They are next to each other in the result.
    use_cache : bool
        Whether to keep each layer's keys and values (`npgpt.models.cache.KVCache`). Without them,
        the result is the same, and each step reads the whole text again.
    seed : int, optional
        The seed of the random numbers; the same seed gives the same text.

    Returns
    -------
    ndarray of int64, (B * num_return_sequences, T + N), or Generated
        The prompts as they were given, padded on the left to T tokens, and their continuations,
        padded on the right to N tokens.

    Raises
    ------
    UserError
        If an option is unknown, out of range, or contradicts another; if a prompt is empty, or
        holds an id that is not in the vocabulary; or if the options forbid all tokens.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=32, n_embd=16, n_layer=2, n_head=2))
    >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=10).shape
    (1, 13)
    >>> model.generate([[1, 2, 3], [4]], max_length=8, do_sample=True, seed=1).shape
    (2, 10)
    """
    resolved = resolve_options(model, options, tokenizer)
    search = start_search(
        model, input_ids, resolved, attention_mask, tokenizer, output_logprobs, pixel_values
    )
    if streamer and resolved.num_beams > 1:
        raise UserError(
            "a streamer cannot follow a beam search, in which the best text may change with each "
            "token; leave out the streamer, or set num_beams=1"
        )
    if streamer and len(search.prompts) * resolved.num_return_sequences > 1:
        raise UserError(
            f"a streamer follows one sequence, and there are "
            f"{len(search.prompts) * resolved.num_return_sequences}; leave out the streamer, or "
            "give one prompt and num_return_sequences=1"
        )
    search.run(streamer)
    result = search.result()
    return result if output_logprobs else result.sequences


def resolve_options(
    model: GPT,
    given: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
    fallback: Mapping[str, Any] | None = None,
) -> Options:
    """Return the options of a call of `generate`, and print notes about options without effect.

    Parameters
    ----------
    model : GPT
        The model, whose ``generation_config`` has the value of options that are not given.
    given : mapping
        The options that the caller gave.
    tokenizer : Tokenizer, optional
        Needed for ``stop_strings``.
    fallback : mapping, optional
        The values of options that are neither given nor in the model's ``generation_config``.

    Raises
    ------
    UserError
        If an option is unknown, out of range, or contradicts another. The message says so if the
        option is in the model's files.
    """
    own, remark = fit_own_options(model.generation_config, model.config.vocab_size)

    def checked(own: Mapping[str, Any]) -> Options:
        options = Options.of(given, own, fallback or {})
        options.check_tokens(model.config.vocab_size)
        return options

    try:
        options = checked(own)
    except UserError as error:
        checked({})  # raises the same error if the caller's options alone are wrong
        raise UserError(
            f"in the model's own settings (generation_config.json, or config.json), {error}"
        ) from None
    if remark:
        note_once(f"parts of the model's generation_config.json have no effect: {remark}")
    if options.stop_strings and tokenizer is None:
        raise UserError("stop_strings are searched for in decoded text; give tokenizer=, too")
    idle = [name for name in SAMPLING if given.get(name) is not None and not options.do_sample]
    if given.get("temperature") == 0:  # this option has an effect: it switches sampling off
        idle.remove("temperature")
    if idle:
        why = "at temperature 0" if options.temperature == 0 else "without do_sample=True"
        has = "has" if len(idle) == 1 else "have"
        say(f"note: {', '.join(idle)} {has} no effect {why}", sys.stderr)
    return options


@functools.cache
def note_once(text: str) -> None:
    """Print a note on standard error, if this process has not printed it before."""
    say(f"note: {text}", sys.stderr)


def start_search(
    model: GPT,
    input_ids: Prompts,
    options: Options,
    attention_mask: Prompts | None = None,
    tokenizer: Tokenizer | None = None,
    wants_logprobs: bool = False,
    pixel_values: ArrayLike | None = None,
) -> Search:
    """Check the prompts, and return the search, which `Search.run` runs.

    The parameters are those of `generate`; `options` is the result of `resolve_options`.

    Raises
    ------
    UserError
        If a prompt is empty or too long, or has an id that is not in the vocabulary; if there are
        images, and the model reads none, or the text would not fit the context beside them.
    """
    if pixel_values is not None and not isinstance(model, VisionGPT):
        raise UserError(
            f"pixel_values is given, and a {type(model).__name__} reads no images; a VisionGPT does"
        )
    if isinstance(model, EncoderDecoder):
        return start_target(model, input_ids, options, attention_mask, tokenizer, wants_logprobs)
    n_positions = model.config.n_positions
    given, prompts = check_prompts(input_ids, attention_mask, model.config.vocab_size)
    lengths = [len(prompt) for prompt in prompts]
    limits = [options.limit(len(row), n_positions) for row in given]
    if max(np.add(lengths, limits)) - 1 > n_positions:  # the last token is not read
        if pixel_values is not None:
            raise UserError(
                f"image and text may grow to {max(np.add(lengths, limits))} tokens, and the model "
                f"reads {n_positions}: lower max_new_tokens or max_length, or shorten the prompt"
            )
        announce_window(max(lengths), n_positions)
    memory = None
    if isinstance(model, VisionGPT) and pixel_values is not None:
        with no_grad(), evaluating():
            memory = model.encode(pixel_values)
    reader = Reader(model, prompts, max(lengths) + max(limits), options.use_cache, memory=memory)
    return search_of(reader, options, given, tokenizer, wants_logprobs)


def search_of(reader: Reader, options: Options, *others: Any) -> Search:
    """Return the kind of search that the options ask for."""
    kind = BeamSearch if options.num_beams > 1 else Sampling
    return kind(reader, options, *others)


def start_target(
    model: EncoderDecoder,
    input_ids: Prompts,
    options: Options,
    attention_mask: Prompts | None = None,
    tokenizer: Tokenizer | None = None,
    wants_logprobs: bool = False,
) -> Search:
    """Let the encoder read the sources, and return the search for their targets.

    The rows of the search are targets, which begin with ``decoder_start_token_id``. A target has
    at most as many tokens as the model has positions. See `start_search`.
    """
    config = model.config
    _, sources = check_prompts(input_ids, attention_mask, config.vocab_size)
    width = max(map(len, sources))
    ids = np.full((len(sources), width), config.pad_token_id)
    mask = np.zeros(ids.shape, bool)
    for row, shown, source in zip(ids, mask, sources, strict=True):
        row[: len(source)], shown[: len(source)] = source, True
    start = [np.array([config.decoder_start_token_id])] * len(ids)
    limit = options.limit(1, config.n_positions)
    if limit > config.n_positions:
        raise UserError(
            f"{limit} new tokens are asked for, and the model writes at most {config.n_positions}: "
            "lower max_new_tokens or max_length"
        )
    with no_grad(), evaluating():
        memory = model.encode(ids, None if mask.all() else mask)
    reader = Reader(model, start, 1 + limit, options.use_cache, memory=memory)
    return search_of(reader, options, start, tokenizer, wants_logprobs)


def check_prompts(
    input_ids: Prompts, attention_mask: Prompts | None, vocab_size: int
) -> tuple[list[ndarray], list[ndarray]]:
    """Return the prompts as they were given, and without padding: two lists of arrays (T,).

    Raises
    ------
    UserError
        If a prompt is empty, has an id that is not in the vocabulary, or is not of shape (T,), or
        the mask has another shape.
    """
    given = split_rows(input_ids)
    for row in given:
        if row.ndim != 1:
            raise UserError(
                f"input_ids must have shape (T,) or (B, T), and one of its rows has the shape "
                f"{row.shape}"
            )
        if row.size:
            check_ids("input_ids", row, vocab_size, "the vocabulary has {} tokens")
    prompts = given
    if attention_mask is not None:
        mask = split_rows(attention_mask)
        if [row.shape for row in mask] != [row.shape for row in given]:
            raise UserError(
                "attention_mask must have the shape of input_ids; its rows have the shapes "
                f"{[row.shape for row in mask]!s:.60}, and those of input_ids "
                f"{[row.shape for row in given]!s:.60}"
            )
        prompts = [row[shown != 0] for row, shown in zip(given, mask, strict=True)]
    if not prompts or any(prompt.size == 0 for prompt in prompts):
        raise UserError("the prompt is empty; the model needs at least one token to continue")
    return given, prompts


def split_rows(x: Prompts) -> list[ndarray]:
    """Return the rows of an array, or of a sequence whose rows may differ in length."""
    several = isinstance(x, (list, tuple)) and any(map(np.ndim, x))
    rows: Any = x if several else np.atleast_2d(np.asarray(x))
    return [np.asarray(row) for row in rows]


def announce_window(prompt_length: int, n_positions: int) -> None:
    """Print a note that a text will be longer than the context, and what the model will see."""
    least = n_positions - window_step(n_positions) + 1
    window = (
        f"the last {n_positions}" if least == n_positions else f"the last {least} to {n_positions}"
    )
    if prompt_length > n_positions:
        what = f"the prompt has {prompt_length} tokens; the model sees the last {n_positions}"
        what += f", then {window}"
    else:
        what = f"the text grows longer than {n_positions} tokens, the model sees {window} of them"
    say(f"note: {what}", sys.stderr)

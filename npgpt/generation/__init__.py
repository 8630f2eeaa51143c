"""Let a model write: `generate`, with the options of Hugging Face's function of that name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from npgpt.errors import UserError
from npgpt.generation.options import Options, fitted
from npgpt.generation.reader import Reader, hop
from npgpt.generation.search import BeamSearch, Generated, Sampling, Search
from npgpt.generation.streaming import Streamer, TextStreamer
from npgpt.models.gpt import GPT
from npgpt.module import check_ids
from npgpt.say import say
from npgpt.tokenizers.base import Tokenizer

__all__ = ["Generated", "TextStreamer", "generate"]

SAMPLING = (  # options of it alone
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
    **options: Any,
) -> ndarray | Generated:
    """Continue sequences of tokens; names, meanings and defaults are Hugging Face's.

    The text that follows a prompt depends on the prompt, the options and the seed, not on the other
    prompts of the batch. Once a text is longer than the model's context, the model sees the end of
    it only, and a note on standard error says so (`npgpt.generation.reader.window_start`).

    Parameters
    ----------
    model : GPT
        Its ``generation_config``, from the file of that name, has the defaults of options that are
        not given here. An option that is given as None is off: ``eos_token_id=None`` lets a text go
        on, whatever the model's defaults say.
    input_ids : array_like of int, (T,) or (B, T), or sequence of (T,)
        The prompts, of at least one token each. In a sequence they may differ in length.
    attention_mask : array_like, as `input_ids`, optional
        0 for padding. The model does not read padding; the result keeps it. Without a mask every
        token is text.
    tokenizer : Tokenizer, optional
        For `stop_strings`.
    streamer : Streamer, optional
        Is told of every token as it is chosen, as `TextStreamer`; for one sequence only.
    output_logprobs : bool
        Return a `Generated`.
    max_length, max_new_tokens : int, optional
        Where to stop, with and without the prompt's own tokens and padding. If neither is given,
        20 new tokens may follow, or fewer where the context ends before.
    min_length, min_new_tokens : int, optional
        No end before so many tokens, with and without the prompt's own; the second counts if both
        are given.
    max_time : float, optional
        Seconds after which the text ends with the next token.
    do_sample : bool
        Draw each token from its distribution; otherwise take the most probable.
    temperature : float
        Divides the logits before sampling; 0 is the same as not to sample.
    top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff : int and float
        Sample among few tokens only, see `npgpt.generation.processors`; 0, 1, 0, 1, 0 and 0 are
        off. Only ``top_k=50`` is on.
    repetition_penalty : float
        Makes tokens that are in the text less probable; 1 is off.
    no_repeat_ngram_size : int
        No run of so many tokens comes twice; 0 is off.
    bad_words_ids : sequence of sequence of int
        Words, by their tokens, that must not come.
    suppress_tokens, begin_suppress_tokens : sequence of int
        Tokens that must not come; that must not come first.
    forced_bos_token_id : int, optional
        The token that follows a prompt of one token.
    forced_eos_token_id : int or sequence of int, optional
        The last token of a text that gets as long as it may be; of several, one.
    logits_processor : callable or sequence of callable
        Functions ``(input_ids, scores) -> scores`` that change the logits of the next token, before
        the options of sampling do: arrays (R, T) of int64 and (R, V) of float64. There is a row for
        each text that grows, with its padding, and R is the same in each step. In a beam search,
        scores are log-probabilities.
    stopping_criteria : callable or sequence of callable
        Functions ``(input_ids, scores) -> bool`` that say which rows end: an array (R,), or a bool
        for all. The second argument is None.
    eos_token_id : int or sequence of int, optional
        Tokens that end a text.
    pad_token_id : int, optional
        Fills up shorter rows of the result; the first of `eos_token_id` if not given, or 0.
    stop_strings : str or sequence of str
        Strings that end a text, in which they stay.
    num_beams : int
        Above 1: search for the most probable text, among so many beginnings at a time; with
        `do_sample`, those that go on are drawn.
    length_penalty : float
        Beams are compared by their log-probability divided by length to this power.
    early_stopping : bool or "never"
        End a beam search when ``num_beams`` texts are there; or when a better one is improbable
        (False), or impossible ("never").
    num_return_sequences : int
        Continuations of each prompt, next to each other in the result.
    use_cache : bool
        Keep each layer's keys and values of what was read (`npgpt.models.cache.KVCache`). The
        result is the same without, and slow.
    seed : int, optional
        Of the sampling; the same seed gives the same text.

    Returns
    -------
    ndarray of int64, (B * num_return_sequences, T + N), or Generated
        The prompts as they were given, shorter ones padded on the left, and what follows, shorter
        continuations padded on the right.

    Raises
    ------
    UserError
        If an argument cannot be, or two contradict each other.

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
    settled = settle(model, options, tokenizer)
    search = start(model, input_ids, settled, attention_mask, tokenizer, output_logprobs)
    if streamer and settled.num_beams > 1:
        raise UserError("a streamer cannot follow a beam search, where what is best may change")
    if streamer and len(search.prompts) * settled.num_return_sequences > 1:
        raise UserError("a streamer follows one sequence, and these are several")
    search.run(streamer)
    result = search.result()
    return result if output_logprobs else result.sequences


def settle(
    model: GPT,
    given: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
    fallback: Mapping[str, Any] | None = None,
) -> Options:
    """Return options: those given, the model's own, and `fallback` for what neither has."""
    own, remark = fitted(model.generation_config, model.config.vocab_size)

    def checked(own: Mapping[str, Any]) -> Options:
        options = Options.of(given, own, fallback or {})
        options.check_tokens(model.config.vocab_size)
        return options

    try:
        options = checked(own)
    except UserError as error:
        checked({})  # which raises if the fault is not the model's
        raise UserError(
            f"in the model's own settings (generation_config.json, or config.json), {error}"
        ) from None
    if remark:
        note_once(f"parts of the model's generation_config.json have no effect: {remark}")
    if options.stop_strings and tokenizer is None:
        raise UserError("stop_strings are looked for in text, which takes tokenizer=, too")
    idle = [name for name in SAMPLING if given.get(name) is not None and not options.do_sample]
    if given.get("temperature") == 0:  # which is why there is no sampling
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


def start(
    model: GPT,
    input_ids: Prompts,
    options: Options,
    attention_mask: Prompts | None = None,
    tokenizer: Tokenizer | None = None,
    wants_logprobs: bool = False,
) -> Search:
    """Check the prompts, and return what is to be run."""
    n_positions = model.config.n_positions
    given, prompts = prompts_of(input_ids, attention_mask, model.config.vocab_size)
    lengths = [len(prompt) for prompt in prompts]
    limits = [options.limit(len(row), n_positions) for row in given]
    if max(np.add(lengths, limits)) - 1 > n_positions:  # the last token is not read
        announce_window(max(lengths), n_positions)
    reader = Reader(model, prompts, max(lengths) + max(limits), options.use_cache)
    kind = BeamSearch if options.num_beams > 1 else Sampling
    return kind(reader, options, given, tokenizer, wants_logprobs)


def prompts_of(
    input_ids: Prompts, attention_mask: Prompts | None, vocab_size: int
) -> tuple[list[ndarray], list[ndarray]]:
    """Return the tokens of each prompt, as they are given, and without padding."""
    given = rows_of(input_ids)
    for row in given:
        if row.ndim != 1:
            raise UserError(f"input_ids must have shape (B, T), and a row of it has {row.shape}")
        if row.size:
            check_ids("input_ids", row, vocab_size, "the vocabulary has {} tokens")
    prompts = given
    if attention_mask is not None:
        mask = rows_of(attention_mask)
        if [row.shape for row in mask] != [row.shape for row in given]:
            raise UserError("attention_mask must have the shape of input_ids, and has another")
        prompts = [row[shown != 0] for row, shown in zip(given, mask, strict=True)]
    if not prompts or any(prompt.size == 0 for prompt in prompts):
        raise UserError("the prompt is empty; the model needs at least one token to continue")
    return given, prompts


def rows_of(x: Prompts) -> list[ndarray]:
    """Return the rows of an array, or of a sequence in which they may differ in length."""
    several = isinstance(x, (list, tuple)) and any(map(np.ndim, x))
    rows: Any = x if several else np.atleast_2d(np.asarray(x))
    return [np.asarray(row) for row in rows]


def announce_window(prompt_length: int, n_positions: int) -> None:
    """Say that a text will not fit the context."""
    least = n_positions - hop(n_positions) + 1
    window = (
        f"the last {n_positions}" if least == n_positions else f"the last {least} to {n_positions}"
    )
    if prompt_length > n_positions:
        what = f"the prompt has {prompt_length} tokens; the model sees the last {n_positions}"
        what += f", then {window}"
    else:
        what = f"the text grows longer than {n_positions} tokens, the model sees {window} of them"
    say(f"note: {what}", sys.stderr)

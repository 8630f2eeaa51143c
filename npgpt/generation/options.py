"""The options of generation, with the names and defaults of Hugging Face's ``generate``.

Options come from three places: the caller, the model's ``generation_config.json``, and the defaults
of a command. `Options.of` puts them together, and checks them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Annotated, Any, Literal

import numpy as np

from autograd.escape import brief
from autograd.schema import Range, fit_fields, nearest
from npgpt.errors import UserError

AtLeastOne = Annotated[int, Range(1)]
Rows = Annotated[int, Range(1, 2**16)]
NotNegative = Annotated[int, Range(0)]
CHECKED = (  # the options that their annotations check; the others accept values of several types
    "max_length max_new_tokens min_length min_new_tokens do_sample temperature top_k top_p min_p "
    "typical_p epsilon_cutoff eta_cutoff repetition_penalty no_repeat_ngram_size max_time "
    "num_beams num_return_sequences length_penalty use_cache seed"
).split()


@dataclass
class Options:
    """How to continue a prompt. The documentation of `npgpt.generate` explains each option.

    Parameters
    ----------
    max_length, max_new_tokens, min_new_tokens : int, optional
    min_length : int
    do_sample : bool
    temperature, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, repetition_penalty : float
    top_k, no_repeat_ngram_size : int
    bad_words_ids : sequence of sequence of int
    suppress_tokens, begin_suppress_tokens : int or collection of int
    forced_bos_token_id, forced_eos_token_id, eos_token_id : int or collection of int, optional
    pad_token_id : int, optional
    stop_strings : str or collection of str
    max_time : float, optional
    logits_processor, stopping_criteria : callable or sequence of callable
    num_beams, num_return_sequences : int
    length_penalty : float
    early_stopping : bool or "never"
    use_cache : bool
    seed : int, optional

    Raises
    ------
    UserError
        If a value has the wrong type or is out of range, or two options contradict each other.

    Examples
    --------
    >>> Options(do_sample=True, eos_token_id=[3, 4]).eos
    (3, 4)
    """

    max_length: AtLeastOne | None = None
    max_new_tokens: NotNegative | None = None
    min_length: NotNegative = 0
    min_new_tokens: NotNegative | None = None
    do_sample: bool = False
    temperature: Annotated[float, Range(0, finite=False)] = 1.0
    top_k: NotNegative = 50
    top_p: Annotated[float, Range(0, 1, excluded=0)] = 1.0
    min_p: Annotated[float, Range(0, 1)] = 0.0
    typical_p: Annotated[float, Range(0, 1, excluded=0)] = 1.0
    epsilon_cutoff: Annotated[float, Range(0, 1)] = 0.0
    eta_cutoff: Annotated[float, Range(0, 1)] = 0.0
    repetition_penalty: Annotated[float, Range(0, excluded=0, finite=False)] = 1.0
    no_repeat_ngram_size: NotNegative = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    suppress_tokens: int | Collection[int] = ()
    begin_suppress_tokens: int | Collection[int] = ()
    forced_bos_token_id: int | Collection[int] | None = None
    forced_eos_token_id: int | Collection[int] | None = None
    eos_token_id: int | Collection[int] | None = None
    pad_token_id: int | None = None
    stop_strings: str | Sequence[str] = ()
    max_time: Annotated[float, Range(0, finite=False)] | None = None
    logits_processor: Callable | Sequence[Callable] = ()
    stopping_criteria: Callable | Sequence[Callable] = ()
    num_beams: Rows = 1
    num_return_sequences: Rows = 1
    length_penalty: Annotated[float, Range(finite=False)] = 1.0
    early_stopping: bool | Literal["never"] = False
    use_cache: bool = True
    seed: NotNegative | None = None

    def __post_init__(self) -> None:
        # None switches an option off. The default values do, too, except that top_k is 50.
        for f in dataclasses.fields(self):
            if getattr(self, f.name) is None:
                setattr(self, f.name, 0 if f.name == "top_k" else f.default)
        fit_fields(self, CHECKED)
        if self.early_stopping not in (True, False, "never"):
            raise UserError(
                f'early_stopping is {self.early_stopping!r}; it must be True, False or "never"'
            )
        if isinstance(self.stop_strings, str):
            self.stop_strings = (self.stop_strings,)
        stops, words = self.stop_strings, self.bad_words_ids
        if not isinstance(stops, Collection) or not all(isinstance(s, str) and s for s in stops):
            raise UserError(
                f"stop_strings is {stops!r}; it must be a string or several, none of them empty"
            )
        if not isinstance(words, Collection) or not all(np.ndim(w) == 1 and len(w) for w in words):
            raise UserError(
                f"bad_words_ids is {words!r}; it must be a list of words, each a list of one or "
                "more token ids, as in [[3], [4, 5]]"
            )
        for name in ("logits_processor", "stopping_criteria"):
            given = getattr(self, name)
            if not all(map(callable, list_functions(given))):
                raise UserError(
                    f"{name} is {brief(given)}; it must be a function of input_ids and scores, or "
                    "a list of such functions"
                )
        if self.temperature == 0:  # at this limit, sampling always draws the most probable token
            self.do_sample = False
        self._check_together()

    def _check_together(self) -> None:
        n = self.num_return_sequences
        if self.max_length is not None and self.max_new_tokens is not None:
            raise UserError(
                f"max_length is {self.max_length} and max_new_tokens is {self.max_new_tokens}: "
                "max_length counts the tokens of the prompt and max_new_tokens does not; give only "
                "one of them"
            )
        for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise UserError(f"{least} is {low}, and {most} is {high}; it must not be less")
        if self.num_beams > 1:
            if n > self.num_beams:
                raise UserError(
                    f"num_return_sequences is {n}, and there are {self.num_beams} beams; it must "
                    "not be more than num_beams"
                )
        elif n > 1 and not self.do_sample:
            raise UserError(
                f"num_return_sequences is {n}, and greedy decoding finds only one text; to get "
                "several, sample (do_sample=True with a temperature above 0), or search with "
                "num_beams"
            )

    @classmethod
    def of(cls, given: Mapping[str, Any], *defaults: Mapping[str, Any]) -> Options:
        """Return the options that the caller gave, and defaults for all others.

        Parameters
        ----------
        given : mapping
            The caller's options. None switches an option off.
        *defaults : mapping
            Options that count where `given` has none, such as those of a model's
            ``generation_config.json``. The first mapping that has a value counts. A key that is not
            an option is ignored, and None is no value. If a mapping has both ``max_length`` and
            ``max_new_tokens``, the second counts; and if the caller gave one of them, neither does.

        Raises
        ------
        UserError
            If the caller gave an unknown option, or the options are wrong (see `Options`).

        Examples
        --------
        >>> options = Options.of({"top_p": 0.9}, {"top_p": 0.5, "seed": 1, "unknown": 3})
        >>> options.top_p, options.seed
        (0.9, 1)
        """
        names = [f.name for f in dataclasses.fields(cls)]
        for name in given:
            if name in MISSING:
                raise UserError(
                    f"generate has no option {name!r}: it is an option of transformers that npgpt "
                    "does not have; leave it out"
                )
            if name not in names:
                raise UserError(f"generate has no option {name!r}{nearest(name, names)}")
        values = dict(given)
        for own in defaults:
            own = {name: own[name] for name in names if own.get(name) is not None}
            if own.get("max_new_tokens", values.get("max_new_tokens")) is not None:
                own.pop("max_length", None)
            if values.get("max_length") is not None:
                own.pop("max_new_tokens", None)
            values = own | values
        return cls(**values)

    @cached_property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return list_ids(self.eos_token_id)

    @cached_property
    def forced_eos(self) -> tuple[int, ...]:
        """The tokens of which one must be the last token of a text of the greatest length."""
        return list_ids(self.forced_eos_token_id)

    @cached_property
    def forced_bos(self) -> tuple[int, ...]:
        """The tokens of which one must follow a prompt of one token."""
        return list_ids(self.forced_bos_token_id)

    @cached_property
    def processors(self) -> tuple[Callable, ...]:
        """The user's functions that change logits."""
        return list_functions(self.logits_processor)

    @cached_property
    def criteria(self) -> tuple[Callable, ...]:
        """The user's functions that end texts."""
        return list_functions(self.stopping_criteria)

    @cached_property
    def pad(self) -> int:
        """The token that fills up the shorter rows of a result."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.eos[0] if self.eos else 0

    def check_tokens(self, vocab_size: int) -> None:
        """Raise a UserError if an option has a token that is not in the vocabulary."""
        for name in TOKENS:
            for i in list_tokens(name, getattr(self, name)):
                if not is_token(i, vocab_size):
                    raise UserError(f"{name} has {i!r}; a token id must be in [0, {vocab_size})")

    def limit(self, prompt_length: int, n_positions: int | None = None) -> int:
        """Return how many tokens may follow a prompt.

        If neither ``max_new_tokens`` nor ``max_length`` is given, 20 tokens may follow; fewer if
        the model's context ends before, unless the prompt alone fills the context.

        Parameters
        ----------
        prompt_length : int
            The number of tokens of the prompt, padding included.
        n_positions : int, optional
            The model's context length.

        Raises
        ------
        UserError
            If ``max_length`` is not greater than the length of the prompt.

        Examples
        --------
        >>> Options(max_length=10).limit(4), Options().limit(1000, n_positions=1024)
        (6, 20)
        """
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            room = 0 if n_positions is None else n_positions - prompt_length
            return min(20, room) if room > 0 else 20
        if self.max_length <= prompt_length:
            raise UserError(
                f"max_length is {self.max_length}, and a prompt alone has {prompt_length} tokens; "
                "raise max_length, or give max_new_tokens, which does not count the prompt"
            )
        return self.max_length - prompt_length


def list_functions(given: Callable | Sequence[Callable]) -> tuple[Callable, ...]:
    """Return the functions of an option whose value is a function, or a sequence of functions."""
    return tuple(given) if isinstance(given, Sequence) else (given,)


# ---- tokens


TOKENS = (  # options whose values are tokens
    "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id",
    "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
)  # fmt: skip


def list_ids(given: Any) -> tuple[Any, ...]:
    """Return the tokens of an option whose value is None, a token, or a collection of tokens."""
    if given is None:
        return ()
    if isinstance(given, np.ndarray):
        given = given.tolist()
    several = isinstance(given, Collection) and not isinstance(given, str)
    return tuple(given) if several else (given,)


def list_tokens(name: str, given: Any) -> tuple[Any, ...]:
    """Return the tokens in the value of an option in `TOKENS`."""
    ids = list_ids(given)
    return tuple(i for word in ids for i in list_ids(word)) if name == "bad_words_ids" else ids


def is_token(i: Any, vocab_size: int) -> bool:
    """Return whether `i` is a whole number in [0, vocab_size)."""
    return isinstance(i, Integral) and not isinstance(i, bool) and 0 <= int(i) < vocab_size


# ---- a model's own options


IGNORED = frozenset(
    "_commit_hash _from_model_config assistant_confidence_threshold assistant_early_exit "
    "assistant_ensemble_weight assistant_lookbehind bos_token_id cache_config cache_implementation "
    "compile_config continuous_batching_config decoder_start_token_id disable_compile "
    "encoder_no_repeat_ngram_size encoder_repetition_penalty is_assistant low_memory "
    "max_cache_len max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule "
    "output_attentions output_hidden_states output_logits output_scores prefill_chunk_size "
    "prompt_lookup_num_tokens return_dict_in_generate return_legacy_cache speculation_type "
    "target_lookbehind transformers_version use_mtp".split()
)
"""Options of transformers that have no influence on the tokens that a GPT generates."""

MISSING: dict[str, Any] = {
    "constraints": None, "diversity_penalty": 0, "dola_layers": None,
    "exponential_decay_length_penalty": None, "force_words_ids": None, "guidance_scale": 1,
    "num_beam_groups": 1, "penalty_alpha": 0, "remove_invalid_values": False,
    "renormalize_logits": False, "sequence_bias": None, "token_healing": False, "top_h": None,
    "watermarking_config": None,
}  # fmt: skip
"""Options of transformers that npgpt does not have, each with the value that switches it off."""


def options_in_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of generation in a ``config.json``, to which old versions wrote them."""
    names = {f.name for f in dataclasses.fields(Options)} | {*MISSING}
    names -= {"seed", "logits_processor", "stopping_criteria"}  # these are not in such files
    return {name: values[name] for name in values if name in names and values[name] is not None}


def fit_own_options(own: Mapping[str, Any], vocab_size: int) -> tuple[dict[str, Any], str]:
    """Return the options of a model that have an effect here, and a remark about the others.

    A token that is not in the vocabulary never comes, so an option that names it has no effect.
    transformers writes the ``eos_token_id`` 50256 for every GPT-2, even if the model has a smaller
    vocabulary of its own.

    Parameters
    ----------
    own : mapping
        The options of the model's ``generation_config.json``.
    vocab_size : int

    Returns
    -------
    tuple of dict and str
        The options, and the remark, which is empty if all options have an effect.
    """
    known = {f.name for f in dataclasses.fields(Options)}
    unknown = [
        name
        for name, value in own.items()
        if value is not None
        and name not in known | IGNORED
        and not (name in MISSING and value == MISSING[name])
    ]
    options = {name: value for name, value in own.items() if name in known}
    outside: list[str] = []
    for name in TOKENS:
        wrong = [
            i
            for i in list_tokens(name, options.get(name))
            if isinstance(i, Integral) and not is_token(i, vocab_size)
        ]
        if wrong:
            outside.append(f"{name} {wrong[0]}")
            value = options.pop(name)
            if isinstance(value, Collection):
                options[name] = [i for i in value if not any(j in wrong for j in list_ids(i))]
    remarks = []
    if unknown:
        names = [f"{brief(name)}" for name in sorted(unknown)]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        remarks.append(f"npgpt has no option {', '.join(names[:10])}{more}")
    if outside:
        remarks.append(f"{', '.join(outside)}: outside of the vocabulary of {vocab_size} tokens")
    return options, "; ".join(remarks)

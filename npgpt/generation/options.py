"""The options of generation: names and defaults of Hugging Face's ``generate``, checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from npgpt.config import nearest
from npgpt.errors import UserError


@dataclass
class Options:
    """How to continue a prompt; `npgpt.generate` says what each option means.

    Parameters
    ----------
    max_length, max_new_tokens : int, optional
    min_new_tokens : int
    do_sample : bool
    temperature, top_p, min_p, typical_p, repetition_penalty : float
    top_k, no_repeat_ngram_size : int
    bad_words_ids : sequence of sequence of int
    eos_token_id : int or collection of int, optional
    pad_token_id : int, optional
    stop_strings : str or collection of str
    num_beams, num_return_sequences : int
    length_penalty : float
    early_stopping : bool or "never"
    use_cache : bool
    seed : int, optional

    Raises
    ------
    UserError
        If a value cannot be, or two contradict each other.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    eos_token_id: int | Collection[int] | None = None
    pad_token_id: int | None = None
    stop_strings: str | Sequence[str] = ()
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    use_cache: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_length", "num_beams", "num_return_sequences"):
            self._demand(name, Integral, 1)
        for name in ("max_new_tokens", "min_new_tokens", "top_k", "no_repeat_ngram_size", "seed"):
            self._demand(name, Integral, 0)
        for name in ("top_p", "min_p", "typical_p"):
            self._demand(name, Real, 0, 1)
        self._demand("temperature", Real, 0)
        self._demand("repetition_penalty", Real, 0)
        self._demand("length_penalty", Real, -math.inf)
        for name in ("top_p", "typical_p", "repetition_penalty"):
            if getattr(self, name) == 0:
                raise UserError(f"{name} is 0; it must be above 0 (1 is off)")
        for name in ("do_sample", "use_cache"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        if self.early_stopping not in (True, False, "never"):
            raise UserError(
                f'early_stopping is {self.early_stopping!r}; it must be True, False or "never"'
            )
        if isinstance(self.stop_strings, str):
            self.stop_strings = (self.stop_strings,)
        stops, words = self.stop_strings, self.bad_words_ids
        if not isinstance(stops, Collection) or not all(isinstance(s, str) and s for s in stops):
            raise UserError(
                f"stop_strings is {stops!r}; it must be strings, and none of them empty"
            )
        if not isinstance(words, Collection) or not all(np.ndim(w) == 1 and len(w) for w in words):
            raise UserError(
                f"bad_words_ids is {words!r}; it must be lists of tokens, as in [[3], [4, 5]]"
            )
        if self.temperature == 0:  # the limit of sampling: the most probable token
            self.do_sample = False
        self._check_together()

    def _demand(self, name: str, kind: Any, low: float, high: float = math.inf) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
            what = "a whole number" if kind is Integral else "a number"
            bounds = f" of at least {low}" if high == math.inf else f" from {low} to {high}"
            raise UserError(
                f"{name} is {value!r}; it must be {what}{bounds if low > -math.inf else ''}"
            )

    def _check_together(self) -> None:
        n = self.num_return_sequences
        if self.max_length is not None and self.max_new_tokens is not None:
            raise UserError(
                f"max_length is {self.max_length} and max_new_tokens {self.max_new_tokens}: one "
                "counts the prompt and one does not; give one of them"
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"min_new_tokens is {self.min_new_tokens}, more than the {self.max_new_tokens} of "
                "max_new_tokens"
            )
        if self.num_beams > 1:
            if n > self.num_beams:
                raise UserError(
                    f"num_return_sequences is {n}, and there are {self.num_beams} beams; it must "
                    "not be more than num_beams"
                )
        elif n > 1 and not self.do_sample:
            raise UserError(
                f"greedy decoding has one answer, and num_return_sequences is {n}; sample to get "
                "several (do_sample=True with a temperature above 0), or search with num_beams"
            )

    @classmethod
    def of(cls, given: Mapping[str, Any], *defaults: Mapping[str, Any]) -> Options:
        """Make options of those that are given; None stands for the default.

        Defaults are a model's own, of its ``generation_config.json``, and may have other keys; of
        several, the first that has a value counts. Where two lengths are defaults of one place,
        ``max_new_tokens`` counts.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        for name in given:
            if name not in names:
                raise UserError(f"generate has no option {name!r}{nearest(name, names)}")
        values = {name: value for name, value in given.items() if value is not None}
        for own in defaults:
            own = {name: own[name] for name in names if own.get(name) is not None}
            if "max_new_tokens" in own or "max_new_tokens" in values:
                own.pop("max_length", None)
            if "max_length" in values:
                own.pop("max_new_tokens", None)
            values = own | values
        return cls(**values)

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        given: Any = self.eos_token_id
        return () if given is None else tuple(np.atleast_1d(given).tolist())

    @property
    def pad(self) -> int:
        """What fills up a row of the result."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.eos[0] if self.eos else 0

    def check_tokens(self, vocab_size: int) -> None:
        """Refuse tokens that are not in the vocabulary."""
        named = {"eos_token_id": self.eos, "pad_token_id": (self.pad,)}
        named["bad_words_ids"] = tuple(i for word in self.bad_words_ids for i in word)
        for name, ids in named.items():
            for i in ids:
                if not isinstance(i, Integral) or not 0 <= i < vocab_size:
                    raise UserError(f"{name} has {i!r}; a token id must be in [0, {vocab_size})")

    def limit(self, prompt_length: int) -> int:
        """Return how many tokens may follow a prompt."""
        if self.max_length is None:
            return 20 if self.max_new_tokens is None else self.max_new_tokens
        if self.max_length <= prompt_length:
            raise UserError(
                f"max_length is {self.max_length}, and a prompt alone has {prompt_length} tokens; "
                "raise it, or say with max_new_tokens how many are to follow"
            )
        return self.max_length - prompt_length

"""Which tokens follow: the most probable, drawn ones, or those of a beam search."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import no_grad
from npgpt.errors import UserError
from npgpt.generation.options import Options
from npgpt.generation.processors import draw, log_softmax, process
from npgpt.generation.reader import Reader
from npgpt.generation.streaming import Streamer
from npgpt.module import evaluating
from npgpt.tokenizers.base import Tokenizer


@dataclass
class Continuation:
    """What follows a prompt: tokens, their log-probabilities, and why there are no more."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""


@dataclass
class Generated:
    """Sequences, and what is known of them: R of them, with N new tokens at most.

    Attributes
    ----------
    sequences : ndarray of int64, (R, T + N)
        Prompts of T tokens at most, as they were given and padded on the left, and what follows,
        padded on the right.
    logprobs : ndarray of float64, (R, N)
        The model's own logarithm of the probability of each new token, before any option has
        changed it; 0 after the end.
    finish_reasons : list of str
        Why each ends: ``"eos"``, ``"stop_string"``, ``"stopping_criteria"``, ``"length"`` or
        ``"max_time"``; ``"interrupted"`` if it does not.
    """

    sequences: ndarray
    logprobs: ndarray
    finish_reasons: list[str]


class Search(ABC):
    """A search for continuations, `run` to its end, or as far as it comes.

    Parameters
    ----------
    reader : Reader
        Of the prompts.
    options : Options
    given : sequence of ndarray of int, (T,)
        The prompts with their padding.
    tokenizer : Tokenizer, optional
        For stop strings.
    wants_logprobs : bool
    """

    def __init__(
        self,
        reader: Reader,
        options: Options,
        given: Sequence[ndarray],
        tokenizer: Tokenizer | None = None,
        wants_logprobs: bool = False,
    ) -> None:
        self.reader, self.options = reader, options
        self.tokenizer, self.wants_logprobs = tokenizer, wants_logprobs
        self.widths = np.array([len(row) for row in given])
        self.limits = np.array([options.limit(n, reader.n_positions) for n in self.widths])
        self.prompts = np.full((len(given), max(self.widths)), options.pad, np.int64)
        for row, prompt in zip(self.prompts, given, strict=True):
            row[len(row) - len(prompt) :] = prompt
        self.n_new = 0  # tokens that follow each prompt
        self.began = time.monotonic()

    def run(self, streamer: Streamer | None = None) -> None:
        """Search until all that is wanted has ended: without a tape, and without dropout."""
        self.began = time.monotonic()
        with no_grad(), evaluating():
            self.search(streamer)

    @abstractmethod
    def search(self, streamer: Streamer | None) -> None:
        """Search until all that is wanted has ended."""

    @abstractmethod
    def continuations(self) -> list[Continuation]:
        """Return what was found: `num_return_sequences` for each prompt, next to each other."""

    def result(self) -> Generated:
        """Return what was found, as arrays."""
        found = self.continuations()
        N = max(len(row.ids) for row in found)
        new = np.full((len(found), N), self.options.pad, np.int64)
        logprobs = np.zeros((len(found), N))
        for i, row in enumerate(found):
            new[i, : len(row.ids)] = row.ids
            logprobs[i, : len(row.logprobs)] = row.logprobs
        prompts = np.repeat(self.prompts, self.options.num_return_sequences, axis=0)
        sequences = np.concatenate([prompts, new], axis=1)
        reasons = [row.finish_reason or "interrupted" for row in found]
        return Generated(sequences, logprobs, reasons)

    def input_ids(self) -> ndarray | None:
        """Return the rows with their padding, (B, T), if a user's function is to read them."""
        if not self.options.processors and not self.options.criteria:
            return None
        ids = self.reader.ids
        prompts = np.repeat(self.prompts, len(ids) // len(self.prompts), axis=0)
        return np.concatenate([prompts, ids[:, ids.shape[1] - self.n_new :]], axis=1)

    def process(self, logits: ndarray) -> ndarray:
        """Return the logits of all rows, (B, V), as the options change them."""
        n = len(logits) // len(self.prompts)
        widths, limits = np.repeat(self.widths, n), np.repeat(self.limits, n)
        rows = self.reader.rows()
        return process(self.options, rows, logits, self.n_new, widths, limits, self.input_ids())

    def finish_reasons(
        self,
        texts: Sequence[ndarray],
        limits: Iterable[int],
        n_new: int,
        input_ids: ndarray | None,
    ) -> list[str]:
        """Return why rows end with their last tokens; an empty string for one that goes on.

        ``texts`` are without padding, and ``input_ids`` are the same with padding.
        """
        options = self.options
        stopped = np.zeros(len(texts), bool)
        if input_ids is not None:
            for function in options.criteria:
                stopped |= call(function, input_ids)
        late = options.max_time is not None and time.monotonic() - self.began > options.max_time
        reasons = []
        for ids, limit, stop in zip(texts, limits, stopped, strict=True):
            stops = options.stop_strings
            if ids[-1] in options.eos:
                reasons.append("eos")
            elif stops and self.tokenizer and completes(ids, stops, self.tokenizer):
                reasons.append("stop_string")
            elif stop:
                reasons.append("stopping_criteria")
            else:
                reasons.append("length" if n_new == limit else "max_time" if late else "")
        return reasons


def call(function: Callable, input_ids: ndarray) -> ndarray:
    """Return what a user's function says of each row, (R,): whether it ends."""
    found = np.asarray(function(input_ids.copy(), None))
    if found.dtype != bool or found.shape not in ((), (len(input_ids),)):
        raise UserError(
            f"stopping_criteria returned {found.dtype} of shape {found.shape}; it must return "
            f"True or False, or an array of bool of shape ({len(input_ids)},)"
        )
    return found


def completes(ids: ndarray, stop_strings: Sequence[str], tokenizer: Tokenizer) -> bool:
    """Return whether the last token completes a stop string, which may begin in the prompt."""
    longest = max(len(stop.encode()) for stop in stop_strings)  # in tokens: each has a byte or more
    *before, last = ids[-longest - 1 :]
    known = len(tokenizer.decode(before).rstrip("\ufffd"))  # which may become a character
    text = tokenizer.decode([*before, last])
    return any(stop in text[max(0, known + 1 - len(stop)) :] for stop in stop_strings)


class Sampling(Search):
    """Greedy decoding and sampling: every row grows by itself."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        n, seed = self.options.num_return_sequences, self.options.seed
        self.found = [
            Continuation(finish_reason="" if limit else "length")
            for limit in self.limits
            for _ in range(n)
        ]
        self.generators = [  # of a row, and so the same whatever stands beside it
            np.random.default_rng(None if seed is None else [seed, i % n])
            for i in range(len(self.found))
        ]

    def search(self, streamer: Streamer | None) -> None:
        """Let all rows grow until the last of them ends."""
        n = self.options.num_return_sequences
        if streamer:
            streamer.put(self.prompts)
        while growing := [i for i, row in enumerate(self.found) if not row.finish_reason]:
            logits = self.reader.logits()  # (B, V)
            if self.n_new == 0:  # all returns of a prompt share its reading
                self.reader.select(np.repeat(np.arange(len(logits)), n))
                logits = np.repeat(logits, n, axis=0)  # (B n, V)
            chosen = self.choose(self.process(logits)[growing], growing)
            tokens = np.full(len(logits), self.options.pad)
            tokens[growing] = chosen
            self.reader.append(tokens)
            self.n_new += 1
            logprobs = log_softmax(logits) if self.wants_logprobs else None
            limits = np.repeat(self.limits, n)
            reasons = self.finish_reasons(self.reader.rows(), limits, self.n_new, self.input_ids())
            for row in growing:
                found, token = self.found[row], tokens[row]
                found.ids.append(int(token))
                if logprobs is not None:
                    found.logprobs.append(float(logprobs[row, token]))
                found.finish_reason = reasons[row]
            if streamer:
                streamer.put(chosen)
        if streamer:
            streamer.end()

    def choose(self, scores: ndarray, growing: list[int]) -> ndarray:
        """Return a token for each of the rows that grow."""
        if not np.all(np.isfinite(scores.max(-1))):
            raise UserError(
                "no token may follow: the options forbid all, or the model gives no number"
            )
        if self.options.do_sample:
            return draw(scores, np.array([self.generators[i].random() for i in growing]))
        return scores.argmax(-1)

    def continuations(self) -> list[Continuation]:
        """Return what was found."""
        return self.found


class BeamSearch(Search):
    """Beam search: the best few beginnings of each prompt grow side by side."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.beams = [Beams(self.options, limit, self.finish_reasons) for limit in self.limits]

    def search(self, streamer: Streamer | None) -> None:
        """Search until no prompt can have a better continuation."""
        K = self.options.num_beams
        while not all(beams.done for beams in self.beams):
            logits = self.reader.logits()  # (B, V)
            if self.n_new == 0:
                self.reader.select(np.repeat(np.arange(len(logits)), K))
                logits = np.repeat(logits, K, axis=0)  # (B K, V)
            rows, logprobs = self.reader.rows(), log_softmax(logits)
            scores, input_ids = self.process(logprobs), self.input_ids()
            parents = np.arange(len(rows))
            tokens = np.full(len(rows), self.options.pad)
            for i, beams in enumerate(self.beams):
                if not beams.done:
                    own = slice(i * K, i * K + K)
                    from_row, token = beams.grow(
                        rows[own],
                        scores[own],
                        logprobs[own],
                        None if input_ids is None else input_ids[own],
                    )
                    parents[own], tokens[own] = np.add(from_row, i * K), token
            self.reader.select(parents)
            self.reader.append(tokens)
            self.n_new += 1

    def continuations(self) -> list[Continuation]:
        """Return the best of each prompt, the best first."""
        n = self.options.num_return_sequences
        return [found for beams in self.beams for found in beams.best(n)]


class Beams:
    """The beams of one prompt: those that grow, and the best that have ended.

    The rules are those of transformers 5.24. The candidates are the most probable texts. With
    ``do_sample``, the candidates are drawn by their probabilities so far, without replacement, and
    then sorted by probability. Of the candidates that end, those among the first ``num_beams``
    count, with their log-probability divided by ``length ** length_penalty``.
    """

    def __init__(
        self,
        options: Options,
        limit: int,
        finish_reasons: Callable[
            [Sequence[ndarray], Iterable[int], int, ndarray | None], list[str]
        ],
    ) -> None:
        K = options.num_beams
        self.options, self.limit, self.finish_reasons = options, limit, finish_reasons
        self.growing = [Continuation(finish_reason="" if limit else "length")] * K
        self.totals = np.array([0.0] + [-np.inf] * (K - 1))  # at first all are the same
        self.ended: list[tuple[float, Continuation]] = []  # the best first
        self.n_new = 0
        self.done = limit == 0
        self.random = np.random.default_rng(options.seed)  # of a prompt, whatever stands beside it

    def grow(
        self,
        rows: list[ndarray],
        scores: ndarray,
        logprobs: ndarray,
        input_ids: ndarray | None = None,
    ) -> tuple[list[int], list[int]]:
        """Take one step; return for each new beam, (K,), which one it goes on from, and a token."""
        options, (K, V) = self.options, scores.shape
        self.n_new += 1
        totals = (self.totals[:, None] + scores).reshape(-1)  # (K V,)
        n = min(max(2, 1 + len(options.eos)) * K, totals.size)  # K are left if others end
        order = totals  # or with Gumbel noise, which draws by softmax(totals), none of them twice
        if options.do_sample:
            order = totals + self.random.gumbel(size=totals.size)
        candidates = np.argpartition(-order, n - 1)[:n]
        candidates = candidates[np.argsort(-totals[candidates], kind="stable")]
        candidates = candidates[totals[candidates] > -np.inf]
        from_rows, new_tokens = np.divmod(candidates, V)
        texts = [np.append(rows[i], token) for i, token in zip(from_rows, new_tokens, strict=True)]
        if input_ids is not None:
            input_ids = np.column_stack([input_ids[from_rows], new_tokens])
        limits = [self.limit] * len(texts)
        reasons = self.finish_reasons(texts, limits, self.n_new, input_ids)
        growing: list[tuple[int, int, float, Continuation]] = []
        for rank, (candidate, reason) in enumerate(zip(candidates.tolist(), reasons, strict=True)):
            parent, token = divmod(candidate, V)
            total, old = float(totals[candidate]), self.growing[parent]
            logprob = float(logprobs[parent, token])
            new = Continuation([*old.ids, token], [*old.logprobs, logprob], reason)
            if not reason:
                growing.append((parent, token, total, new))
            elif rank < K:
                self.ended.append((total / self._length(self.n_new), new))
        self.ended = sorted(self.ended, key=lambda pair: -pair[0])[:K]
        growing.sort(key=lambda beam: -beam[2])
        self.done = not growing or self._cannot_improve(growing[0][2])
        growing += [(0, options.pad, -np.inf, Continuation())] * K  # dead ones, if few are left
        parents, tokens, best, self.growing = map(list, zip(*growing[:K], strict=True))
        self.totals = np.array(best)
        return parents, tokens

    def _length(self, n_new: int) -> float:
        return float(n_new) ** self.options.length_penalty

    def _cannot_improve(self, best_total: float) -> bool:
        """Return whether what grows can no longer replace one that has ended."""
        options = self.options
        if len(self.ended) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        hopeful = options.early_stopping == "never" and options.length_penalty > 0
        length = self._length(self.limit if hopeful else self.n_new)
        return best_total / length <= self.ended[-1][0]

    def best(self, n: int) -> list[Continuation]:
        """Return the n best: those that have ended, and if interrupted those that grow."""
        found = [found for _, found in self.ended]
        if not self.done or not self.limit:
            found += self.growing
        if len(found) < n:
            raise UserError(
                f"only {len(found)} continuations are possible, and num_return_sequences is {n}"
            )
        return found[:n]

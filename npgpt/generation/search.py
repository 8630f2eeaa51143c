"""Choosing the tokens that follow a prompt: greedy decoding, sampling, and beam search.

All three are loops with the same steps, here for a text "A B" and one new token:

    1. reader.logits()   the model reads the new tokens          logits (B, V)
    2. process()         the options change the logits           -inf for forbidden tokens
    3. choose            the most probable token, or a random    token "C"
                         token, or the best few beginnings
    4. reader.append()   each row grows by its token             "A B C"
    5. finish_reasons()  a row may end, for example with eos     the loop ends with the last row
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """The new tokens of one row, their log-probabilities, and why the row has ended.

    `finish_reason` is an empty string while the row grows.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""


@dataclass
class Generated:
    """The result of `npgpt.generate`: R sequences with at most N new tokens each.

    Attributes
    ----------
    sequences : ndarray of int64, (R, T + N)
        In each row a prompt as it was given, padded on the left to T tokens, and its continuation,
        padded on the right to N tokens.
    logprobs : ndarray of float64, (R, N)
        The logarithm of the model's probability of each new token. The options of generation have
        no influence on it. After the end of a row it is 0.
    finish_reasons : list of str
        Why each row has ended: ``"eos"``, ``"stop_string"``, ``"stopping_criteria"``, ``"length"``
        or ``"max_time"``; ``"interrupted"`` if an exception such as Ctrl-C ended the search first.
    """

    sequences: ndarray
    logprobs: ndarray
    finish_reasons: list[str]


class Search(ABC):
    """A search for the continuations of some prompts.

    `run` searches until all rows have ended. After an exception in `run`, `result` returns what was
    found until then.

    Parameters
    ----------
    reader : Reader
        The reader of the prompts, without padding.
    options : Options
    given : sequence of ndarray of int, (T,)
        The prompts with their padding, as the user gave them.
    tokenizer : Tokenizer, optional
        The tokenizer that decodes the text in which stop strings are searched for.
    wants_logprobs : bool
        Whether to record the log-probabilities.
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
        self.n_new = 0  # the number of tokens after each prompt so far
        self.began = time.monotonic()

    def run(self, streamer: Streamer | None = None) -> None:
        """Search until all rows have ended. No tape is recorded, and dropout is off."""
        self.began = time.monotonic()
        with no_grad(), evaluating():
            self.search(streamer)

    @abstractmethod
    def search(self, streamer: Streamer | None) -> None:
        """Search until all rows have ended."""

    @abstractmethod
    def continuations(self) -> list[Continuation]:
        """Return the rows that were found, `num_return_sequences` for each prompt in turn."""

    def result(self) -> Generated:
        """Return the rows that were found, as arrays."""
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
        """Return the rows with their padding, (B, T), or None if no user's function reads them."""
        if not self.options.processors and not self.options.criteria:
            return None
        ids = self.reader.ids
        prompts = np.repeat(self.prompts, len(ids) // len(self.prompts), axis=0)
        return np.concatenate([prompts, ids[:, ids.shape[1] - self.n_new :]], axis=1)

    def process(self, logits: ndarray) -> ndarray:
        """Return the logits (B, V) after the options have changed them."""
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
        """Return why each row ends with its last token, or an empty string if the row goes on.

        Parameters
        ----------
        texts : sequence of ndarray of int, (T,)
            The rows without padding.
        limits : iterable of int
            How many tokens may follow the prompt of each row.
        n_new : int
            How many tokens follow each prompt.
        input_ids : ndarray of int64, (R, T), or None
            The rows with padding, if a user's function reads them.
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
    """Return whether each row ends, bool (R,) or (), as a user's function says.

    Raises
    ------
    UserError
        If the function does not return a bool, or an array of bool of shape (R,).
    """
    found = np.asarray(function(input_ids.copy(), None))
    if found.dtype != bool or found.shape not in ((), (len(input_ids),)):
        raise UserError(
            f"stopping_criteria returned {found.dtype} of shape {found.shape}; it must return "
            f"True or False, or an array of bool of shape ({len(input_ids)},)"
        )
    return found


def completes(ids: ndarray, stop_strings: Sequence[str], tokenizer: Tokenizer) -> bool:
    """Return whether the last token completes a stop string, which may begin in the prompt.

    Only the end of the text is decoded. A token has at least one byte, so a stop string of N bytes
    lies in the last N tokens.
    """
    longest = max(len(stop.encode()) for stop in stop_strings)
    *before, last = ids[-longest - 1 :]
    # U+FFFD at the end may be a part of a character that the last token completes
    known = len(tokenizer.decode(before).rstrip("\ufffd"))
    text = tokenizer.decode([*before, last])
    return any(stop in text[max(0, known + 1 - len(stop)) :] for stop in stop_strings)


class Sampling(Search):
    """Greedy decoding and sampling: each row grows independently of the others."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        n, seed = self.options.num_return_sequences, self.options.seed
        self.found = [
            Continuation(finish_reason="" if limit else "length")
            for limit in self.limits
            for _ in range(n)
        ]
        self.generators = [  # each row has its own, so that it does not depend on the other rows
            np.random.default_rng(None if seed is None else [seed, i % n])
            for i in range(len(self.found))
        ]

    def search(self, streamer: Streamer | None) -> None:
        """Take all steps, and show them to the streamer."""
        if streamer:
            streamer.put(self.prompts)
        for chosen in self.steps():
            if streamer:
                streamer.put(chosen)
        if streamer:
            streamer.end()

    def steps(self) -> Iterator[ndarray]:
        """Choose a token for each row that grows, until the last row has ended; yield the tokens.

        A row that has ended stays in the array, and grows by padding that is ignored.
        """
        n = self.options.num_return_sequences
        while growing := [i for i, row in enumerate(self.found) if not row.finish_reason]:
            logits = self.reader.logits()  # (B, V)
            if self.n_new == 0:  # a prompt is read once, and copied for each of its n rows
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
            yield chosen

    def choose(self, scores: ndarray, growing: list[int]) -> ndarray:
        """Return a token for each row that grows, of its scores (G, V).

        Raises
        ------
        UserError
            If all tokens of a row are forbidden, or a score is NaN.
        """
        if not np.all(np.isfinite(scores.max(-1))):
            raise UserError(
                "no token may follow: the options forbid all tokens, or the model's logits are "
                "NaN or infinite"
            )
        if self.options.do_sample:
            return draw(scores, np.array([self.generators[i].random() for i in growing]))
        return scores.argmax(-1)

    def continuations(self) -> list[Continuation]:
        """Return the rows, in the order of the prompts."""
        return self.found


class BeamSearch(Search):
    """Beam search: the most probable beginnings of each prompt's continuation grow side by side.

    Rows ``i * K`` to ``i * K + K - 1`` of the reader are the K beams of prompt i.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.beams = [Beams(self.options, limit, self.finish_reasons) for limit in self.limits]

    def search(self, streamer: Streamer | None) -> None:
        """Let the beams of each prompt grow, until no prompt can get a better continuation.

        A beam may go on from another beam: the new row r is the row ``parents[r]`` and the token
        ``tokens[r]``. For K = 2, if both best texts continue beam 0, then ``parents = [0, 0]``.
        """
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
        """Return the best continuations of each prompt, the best first."""
        n = self.options.num_return_sequences
        return [found for beams in self.beams for found in beams.best(n)]


class Beams:
    """The beams of one prompt: the K texts that grow, and the best K texts that have ended.

    The rules are those of transformers 5.24. A step scores all K * V texts that are a beam and one
    more token. The 2 K most probable of them are the candidates (more if several tokens end a
    text). The best K candidates that do not end are the new beams. A candidate that ends is kept
    if it is among the first K candidates; its score is its log-probability divided by
    ``length ** length_penalty``. With ``do_sample``, the candidates are drawn by their
    probabilities, without replacement, and then sorted by probability.

    An example with K = 2 and the tokens a, b and "." (which ends a text):

        beams       candidates, by probability        new beams    ended
        a  0.6      a.  0.40   ba  0.30               ba, ab       a.
        b  0.4      ab  0.15   b.  0.06

    "b." is not kept, because it is not among the first two.

    Parameters
    ----------
    options : Options
    limit : int
        How many tokens may follow the prompt.
    finish_reasons : callable
        `Search.finish_reasons`.
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
        # log-probabilities; at first all beams are the same text, so only the first may count
        self.totals = np.array([0.0] + [-np.inf] * (K - 1))
        self.ended: list[tuple[float, Continuation]] = []  # scores and texts, the best first
        self.n_new = 0
        self.done = limit == 0
        # each prompt has its own generator, so that a text does not depend on the other prompts
        self.random = np.random.default_rng(options.seed)

    def grow(
        self,
        rows: list[ndarray],
        scores: ndarray,
        logprobs: ndarray,
        input_ids: ndarray | None = None,
    ) -> tuple[list[int], list[int]]:
        """Take one step: choose the new beams, and keep the candidates that end.

        Parameters
        ----------
        rows : list of ndarray of int, (T,)
            The beams without padding.
        scores : ndarray of float64, (K, V)
            The log-probabilities of the next token, as the options have changed them.
        logprobs : ndarray of float64, (K, V)
            The log-probabilities of the next token, from the model.
        input_ids : ndarray of int64, (K, T), optional
            The beams with padding, if a user's function reads them.

        Returns
        -------
        tuple of list of int, (K,)
            For each new beam the index of the beam that it continues, and its new token.
        """
        options, (K, V) = self.options, scores.shape
        self.n_new += 1
        totals = (self.totals[:, None] + scores).reshape(-1)  # (K V,)
        # Each beam can end with each of the eos tokens. So of this many candidates, K do not end.
        n = min(max(2, 1 + len(options.eos)) * K, totals.size)
        # The greatest n of totals with Gumbel noise are a draw by softmax(totals), none twice.
        order = totals
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
        # if fewer than K are left, beams of probability 0 fill up the places
        growing += [(0, options.pad, -np.inf, Continuation())] * K
        parents, tokens, best, self.growing = map(list, zip(*growing[:K], strict=True))
        self.totals = np.array(best)
        return parents, tokens

    def _length(self, n_new: int) -> float:
        return float(n_new) ** self.options.length_penalty

    def _cannot_improve(self, best_total: float) -> bool:
        """Return whether no beam that grows can still replace a text that has ended.

        `best_total` is the log-probability of the best beam, and a longer text is never more
        probable. The best score that a beam can get is estimated as `best_total` divided by the
        present length. With ``early_stopping="never"`` it is divided by the greatest length, if
        this makes the score better; then no better text can be missed.
        """
        options = self.options
        if len(self.ended) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        hopeful = options.early_stopping == "never" and options.length_penalty > 0
        length = self._length(self.limit if hopeful else self.n_new)
        return best_total / length <= self.ended[-1][0]

    def best(self, n: int) -> list[Continuation]:
        """Return the n best texts: texts that have ended, and, if interrupted, those that grow.

        Raises
        ------
        UserError
            If there are fewer than n.
        """
        found = [found for _, found in self.ended]
        if not self.done or not self.limit:
            found += self.growing
        if len(found) < n:
            raise UserError(
                f"only {len(found)} continuations are possible, and num_return_sequences is {n}"
            )
        return found[:n]

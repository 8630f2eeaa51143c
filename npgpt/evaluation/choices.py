r"""Choice by likelihood: how probable a model finds each of some continuations of a prompt.

A model that was not trained to classify can classify: after "Review: what a film!\nSentiment:",
it finds either " positive" or " negative" the more probable continuation. The same comparison
answers questions with several choices, and says which sentence of a pair a model prefers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn, no_grad
from autograd.escape import brief
from npgpt.errors import UserError
from npgpt.models.cache import KVCache
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.tokenizers.base import Tokenizer

MOST_NEW = 1024  # tokens that are read at once
MOST_CACHED = 4096  # tokens whose keys and values are in memory at once, the prompts' included
MOST_LOGITS = 2**22


class Question(NamedTuple):
    """A prompt and its choices in tokens; the tokens of the prompt are those of all choices."""

    prompt: ndarray  # (T,), T > 0
    choices: list[ndarray]  # of at least one token each


class Scorer:
    r"""The log-probabilities of continuations, under a model.

    Prompts often begin alike, with the same examples for instance, and all choices of a question
    have one prompt. So a call reads in three parts: the beginning that all prompts share, once;
    the rest of each prompt, once; and of each choice all tokens but the last one. The beginning is
    kept for the next call. Prompts of the same length are read together, so no padding is read.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer

    Examples
    --------
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=64, n_embd=16, n_layer=2, n_head=2))
    >>> scorer = Scorer(model, ByteTokenizer())
    >>> prompts = ["Review: what a film!\nSentiment:", "Review: a bore.\nSentiment:"]
    >>> for scores in scorer.score(prompts, [" good", " bad"]):
    ...     print(scores.shape, scores.max() < 0)
    (2,) True
    (2,) True
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._shared = KVCache(model.config.n_positions)
        self._read = np.zeros(0, np.int64)  # the tokens whose keys and values are in it

    def score(
        self,
        prompts: Sequence[str | ndarray],
        choices: Sequence[str] | Sequence[Sequence[str]],
        check: Callable[[], None] = lambda: None,
    ) -> list[ndarray]:
        """Return log p(choice | prompt), the sum over the choice's tokens, for each prompt.

        Parameters
        ----------
        prompts : sequence of str, or of ndarray of int
            A prompt of token ids, such as that of a chat template, is read as it is.
        choices : sequence of str, or for each prompt a sequence of str
            The continuations, with the white space before them: ``" positive"``. A text and its
            continuation are encoded as one text. Where a tokenizer joins the end of a prompt and
            the beginning of a choice into one token, all choices are scored from there on.
        check : callable
            Called before each batch: it may raise to end the evaluation.

        Returns
        -------
        list of ndarray
            An array of float64 for each prompt, (number of its choices,).

        Raises
        ------
        UserError
            If a choice is empty, a prompt has no token to begin with, or a prompt with a choice is
            longer than the model's context.
        """
        if len(choices) and isinstance(choices[0], str):
            choices = [choices] * len(prompts)  # type: ignore[list-item]
        most = self.model.config.n_positions
        questions: list[Question] = []
        for prompt, own in zip(prompts, choices, strict=True):
            question = encode_question(self.tokenizer, prompt, own)
            if (n := len(question.prompt) + max(map(len, question.choices)) - 1) > most:
                text = prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)
                raise UserError(
                    f"the prompt that ends in {brief(text[-40:])} has {n:,} tokens with its "
                    f"longest choice, and the model's context has {most:,}; shorten the prompt, "
                    "or give fewer examples"
                )
            questions.append(question)
        scores: list[ndarray] = [np.zeros(0)] * len(questions)
        if not questions:
            return scores
        with no_grad(), evaluating():
            check()
            self._read_shared([question.prompt for question in questions])
            for group in self._groups(questions):
                check()
                found = self._score_group([questions[i] for i in group])
                for i, row in zip(group, found, strict=True):
                    scores[i] = row
        return scores

    def _read_shared(self, prompts: list[ndarray]) -> None:
        """Read what all prompts begin with; one token at least is left of each prompt."""
        beginning = prompts[0][: min(map(len, prompts)) - 1]
        for prompt in prompts:
            beginning = beginning[: count_common(beginning, prompt)]
        self._shared.length = count_common(beginning, self._read)
        if len(new := beginning[self._shared.length :]):
            self.model.transformer(new[None], cache=self._shared, only_last=True)
        self._read = beginning

    def _groups(self, questions: list[Question]) -> Iterator[list[int]]:
        """Yield the indices of prompts that are read together: of one length, not too many."""
        past = self._shared.length
        group: list[int] = []
        cached = 0
        for i in sorted(range(len(questions)), key=lambda i: len(questions[i].prompt)):
            prompt, choices = questions[i]
            n = len(prompt)
            cached += n * max(1, sum(len(choice) > 1 for choice in choices))
            is_full = cached > MOST_CACHED or (len(group) + 1) * (n - past) > MOST_NEW
            if group and (is_full or n > len(questions[group[0]].prompt)):
                yield group
                group, cached = [], n * max(1, sum(len(choice) > 1 for choice in choices))
            group.append(i)
        yield group

    def _score_group(self, questions: list[Question]) -> list[ndarray]:
        """Return the scores of questions whose prompts have one length."""
        past, model = self._shared.length, self.model
        ids = np.stack([question.prompt[past:] for question in questions])  # (B, T)
        cache = self._shared.branch(np.zeros(len(ids), int), ids.shape[1])
        hidden = model.transformer(ids, cache=cache, only_last=True)[:, -1]  # (B, C)
        first = nn.log_softmax(exact(model.lm_head(hidden)), -1)  # (B, V)
        scores = [
            first[b, [choice[0] for choice in question.choices]]
            for b, question in enumerate(questions)
        ]
        longer = [
            (b, j)
            for b, question in enumerate(questions)
            for j, choice in enumerate(question.choices)
            if len(choice) > 1
        ]
        n_rows = max(1, MOST_CACHED // (cache.length + 1))
        for start in range(0, len(longer), n_rows):
            rows = longer[start : start + n_rows]
            rests = [questions[b].choices[j] for b, j in rows]
            found = self._score_rests(rests, cache, np.array([b for b, _ in rows]))
            for (b, j), score in zip(rows, found, strict=True):
                scores[b][j] += score
        return scores

    def _score_rests(self, choices: list[ndarray], cache: KVCache, rows: ndarray) -> list[float]:
        """Return the log-probability of each choice's tokens after its first one.

        Shorter choices are padded at their ends, where no token of theirs sees the padding.
        """
        T = max(map(len, choices)) - 1
        ids = np.zeros((len(choices), T), np.int64)
        for row, choice in zip(ids, choices, strict=True):
            row[: len(choice) - 1] = choice[:-1]
        hidden = self.model.transformer(ids, cache=cache.branch(rows, T))  # (R, T, C)
        real = np.arange(T) < np.array([len(choice) - 1 for choice in choices])[:, None]  # (R, T)
        where, targets = real.nonzero(), np.concatenate([choice[1:] for choice in choices])
        found = np.empty(len(targets))
        step = max(1, MOST_LOGITS // self.model.config.vocab_size)
        for i in range(0, len(targets), step):
            some = slice(i, i + step)
            logits = self.model.lm_head(hidden[where[0][some], where[1][some]])  # (n, V)
            logs = nn.log_softmax(exact(logits), -1)
            found[some] = logs[np.arange(len(logs)), targets[some]]
        return [found[where[0] == row].sum() for row in range(len(choices))]


def normalize(scores: ndarray, choices: Sequence[str]) -> ndarray:
    """Divide the scores of choices by their numbers of characters.

    A long choice has a low probability, since it has more tokens. This is the normalization of
    lm-evaluation-harness (``acc_norm``); the white space in front of a choice does not count.

    Examples
    --------
    >>> normalize(np.array([-4.0, -6.0]), [" no", " maybe"]).tolist()
    [-2.0, -1.2]
    """
    return scores / [max(1, len(choice.lstrip())) for choice in choices]


def encode_question(
    tokenizer: Tokenizer, prompt: str | ndarray, choices: Sequence[str]
) -> Question:
    """Return a prompt and its choices in tokens; see `Scorer.score`."""
    if not len(choices) or isinstance(choices, str):
        raise UserError(f"the choices are {brief(choices)}; they must be a list of texts")
    ids = encode_prompt(tokenizer, prompt)
    whole = [encode_prompt(tokenizer, prompt, choice) for choice in choices]
    n = min(count_common(ids, text) for text in whole)
    for choice, text in zip(choices, whole, strict=True):
        if not choice or len(text) == n:
            raise UserError(f"the choice {brief(choice)} has no token; it must have a text")
    if not n:
        raise UserError(
            f"the prompt is {brief(prompt)}, of which no token is left before the choice "
            f"{brief(choices[0])}; give a prompt that ends before a choice begins"
        )
    return Question(ids[:n], [text[n:] for text in whole])


def encode_prompt(tokenizer: Tokenizer, prompt: str | ndarray, rest: str = "") -> ndarray:
    """Return the ids of a prompt, and of the text that continues the prompt.

    A text begins with the tokens that the tokenizer puts before each text. An empty prompt has one
    token at least, if the tokenizer has a token that begins or ends a text.
    """
    if not isinstance(prompt, str):
        return np.concatenate([prompt, encode_text(tokenizer, rest)])
    start = np.array(tokenizer.before, np.int64)
    if not prompt and not len(start):
        start = _begin(tokenizer)
    return np.concatenate([start, encode_text(tokenizer, prompt + rest)])


def encode_text(tokenizer: Tokenizer, text: str) -> ndarray:
    """Return the ids of a text of a stranger, in which special tokens are letters."""
    return tokenizer.encode(text, disallowed_special=(), add_special_tokens=False)


def _begin(tokenizer: Tokenizer) -> ndarray:
    """Return the token after which a text begins that has no prompt."""
    for name in ("bos_token", "eos_token"):
        token = tokenizer.special_tokens.get(tokenizer.special_tokens_map.get(name, ""))
        if token is not None:
            return np.array([token])
    return np.array(list(tokenizer.special_tokens.values())[:1], np.int64)


def count_common(a: ndarray, b: ndarray) -> int:
    """Return how many tokens two texts have in common at their beginning.

    Examples
    --------
    >>> count_common(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def exact(logits: Tensor) -> ndarray:
    """Return logits in float64, so that a sum over many tokens stays exact."""
    return logits.numpy().astype(np.float64)

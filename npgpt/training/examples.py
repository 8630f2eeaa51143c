"""Training on examples: the base class of `Classification` and other tasks."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.evaluation.loss import Check, mean_loss
from npgpt.models.gpt import GPT
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import AnyBatch, Tokens
from npgpt.training.task import TRAIN, VALIDATION, Task, refuse_documents

SPREAD = 16  # examples are sorted by their lengths within so many batches


class Examples(Task):
    """A task whose data are examples, and not one long text.

    Each epoch reads all training examples once, in batches of examples of similar lengths. Examples
    that do not fill a last whole batch are not read. The validation split is the second token
    file, or a tenth of the examples, which the seed draws.

    A subclass sets `lengths`, calls `divide`, and defines `batch`.

    Attributes
    ----------
    lengths : ndarray of int, (N,)
        The number of tokens of each example, of all token files.
    splits : (ndarray of int, ndarray of int)
        The numbers of the training examples, and of the validation examples.
    evaluated_at_once : int
        The number of tokens in a batch of an evaluation.
    """

    evaluated_at_once = 2**14
    lengths: ndarray
    splits: tuple[ndarray, ndarray]

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    @abstractmethod
    def batch(self, numbers: ndarray) -> AnyBatch:
        """Return some examples as a batch."""

    def divide(self, sizes: list[int], groups: ndarray | None = None) -> None:
        """Set `splits`; `sizes` are the numbers of examples in the token files.

        Examples with the same number in `groups`, (N,), are in the same split; if it is not given,
        each example is drawn for itself.

        Raises
        ------
        UserError
            If no example is left to train on.
        """
        numbers = np.arange(sum(sizes))
        if len(sizes) > 1:
            self.splits = numbers[: sizes[0]], numbers[sizes[0] :]
        else:
            validates = draw_validation(numbers if groups is None else groups, self.config.seed)
            self.splits = numbers[~validates], numbers[validates]
        if not self.splits[TRAIN].size:
            raise UserError("there is one example, and it is used for validation: give two or more")

    def _epoch(self, epoch: int) -> ndarray:
        """Return the examples of each update of an epoch, (updates, examples)."""
        size = self.config.batch_size * self.config.gradient_accumulation_steps
        generator = np.random.default_rng([self.config.seed, 6, epoch])
        order = generator.permutation(self.splits[TRAIN])
        n = max(1, len(order) // size)
        order = np.resize(order, n * size)
        for first in range(0, len(order), SPREAD * size):
            part = order[first : first + SPREAD * size]
            part[...] = part[np.argsort(self.lengths[part], kind="stable")]
        return generator.permutation(order.reshape(n, size))

    def batches(self, step: int) -> Sequence[AnyBatch]:
        """Return the batches of the update that leads from a step to the next."""
        parts = np.split(self.numbers(step), self.config.gradient_accumulation_steps)
        return [self.batch(part) for part in parts]

    def numbers(self, step: int) -> ndarray:
        """Return the numbers of the examples in the batches of a step, in their order."""
        epoch, number = divmod(step, len(self.epoch(0)))
        return self.epoch(epoch)[number]

    def random_batch(self, split: int, generator: np.random.Generator) -> AnyBatch:
        """Draw examples of a split at random."""
        return self.batch(generator.choice(self.splits[split], self.config.batch_size))

    def every_batch(self, split: int) -> Iterator[tuple[ndarray, AnyBatch]]:
        """Yield every example of a split once: the numbers, and the batch; the longest first."""
        numbers = self.splits[split]
        numbers = numbers[np.argsort(-self.lengths[numbers], kind="stable")]
        while numbers.size:
            n = max(1, min(64, self.evaluated_at_once // self.lengths[numbers[0]]))
            yield numbers[:n], self.batch(numbers[:n])
            numbers = numbers[n:]

    @property
    def tokens_per_batch(self) -> int:
        """How many tokens of examples a batch holds on average."""
        return round(self.config.batch_size * self.lengths[self.splits[TRAIN]].mean())

    @property
    def largest_batch(self) -> int:
        """How many tokens a batch holds at most."""
        return self.config.batch_size * int(self.lengths.max())

    def whole_loss(self, model: GPT, check: Check = lambda: None) -> float:
        """Return the mean loss over all examples of the validation split."""
        return mean_loss(
            self.objective(model), (batch for _, batch in self.every_batch(VALIDATION)), check
        )

    def decode(self, ids: ndarray) -> str:
        """Return the text of some tokens, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def demand_examples(names: Sequence[str], config: TrainConfig, expected: str) -> str:
    """Return the name of the one file of examples; refuse files and options that are for texts."""
    refuse_documents(config, "examples")
    if len(names) != 1 or names[0].endswith(".bin"):
        raise UserError(f"{' '.join(names) or 'nothing'} is given; expected one {expected}")
    return names[0]


def n_validation(n: int) -> int:
    """Return how many of n examples are used for validation, if no other file is given for it."""
    return max(1, n // 10)


def draw_validation(groups: ndarray, seed: int) -> ndarray:
    """Return which examples validate, (N,) of bool: those in a tenth of the groups.

    Examples
    --------
    >>> draw_validation(np.array([4, 4, 7]), seed=0)
    array([False, False,  True])
    """
    order = np.random.default_rng([seed, 5]).permutation(np.unique(groups))
    return np.isin(groups, order[: n_validation(len(order))])


def count_updates(config: TrainConfig, sizes: list[int]) -> TrainConfig:
    """Return the configuration with a number of updates in the place of its epochs.

    `sizes` has the number of examples in the data, and in the validation data if there is any.
    """
    if not config.epochs:
        return config
    n = sizes[0] - (0 if len(sizes) > 1 else n_validation(sizes[0]))
    updates = max(1, n // (config.batch_size * config.gradient_accumulation_steps))
    n_updates = math.ceil(config.epochs * updates)
    is_given = config.eval_interval != TrainConfig.eval_interval
    interval = config.eval_interval if is_given else updates
    return dataclasses.replace(config, max_iters=n_updates, eval_interval=interval, epochs=0.0)

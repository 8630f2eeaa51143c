"""Training on numbers: a model rates a text or a pair, or turns two texts into similar vectors.

In a token file, the 32 bits of an example's number, as a float32, stand before its tokens, so that
the number is not rounded again: -2.0 is 1 1 0 0 0 and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray

from autograd import Tensor
from autograd.escape import brief
from npgpt.errors import UserError
from npgpt.evaluation.labels import label_row
from npgpt.evaluation.loss import Check, Objective
from npgpt.evaluation.metrics import pearson, spearman
from npgpt.models.bert import BertConfig
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.heads import label_loss
from npgpt.options import quoted
from npgpt.training.classification import Classification
from npgpt.training.config import TrainConfig
from npgpt.training.data import Batch, Source

SHIFTS = np.arange(31, -1, -1)  # of the bits of a number, the first is its sign


class Regression(Classification):
    """Give a number to a text or a pair: a model with one label, whose loss is the mean square.

    Attributes
    ----------
    targets : ndarray of float32, (N,)
        The number of each example.
    """

    name = "regression"
    n_numbers: ClassVar = len(SHIFTS)

    def find_targets(self, numbers: ndarray) -> ndarray:
        """Return the numbers whose bits are in a token file, (N, 32) -> (N,)."""
        return (numbers << SHIFTS).sum(axis=1).astype(np.uint32).view(np.float32)

    @classmethod
    def complete_labels(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Refuse labels, and an example whose label is no number."""
        if config.labels:
            raise UserError(f"the task is {cls.name}, which gives numbers: leave out --labels")
        if config.label_smoothing or config.lm_loss:
            raise UserError(
                f"the task is {cls.name}: --label_smoothing and --lm_loss are of a classification; "
                "leave them out"
            )
        for source in sources:
            for place, _, label in cls.examples(source, config):
                try:
                    with np.errstate(over="ignore"):
                        is_number = np.isfinite(np.float32(label))
                except ValueError:
                    is_number = False
                if not is_number:
                    raise UserError(f"{place}: the label is {brief(label)}; a number is expected")
        known = {np.float32(label) for _, _, label in cls.examples(sources[0], config)}
        if len(known) == 1:
            raise UserError(
                f"all examples have the number {min(known):g}: there is nothing to learn; check "
                "--label_column"
            )
        return config

    @classmethod
    def count_numbers(cls, config: TrainConfig) -> int:
        """Return 2, since a bit is 0 or 1."""
        return 2

    @classmethod
    def numbers_of(cls, label: str, config: TrainConfig) -> list[int]:
        """Return the bits of a number."""
        return [int(bit) for bit in f"{np.float32(label).view(np.uint32):032b}"]

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model, with one label."""
        return self.labelled(base, ("number",))

    def label_losses(self, model: GPT, logits: Tensor, targets: ndarray) -> Tensor:
        """Return the squared error of each number, (B,)."""
        return (logits[:, 0] - targets.astype(logits.dtype)) ** 2

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return the correlations of the model's numbers with those of the validation examples."""
        numbers, logits = self.outputs(model, check)
        right, found = self.targets[numbers], logits[:, 0]
        return {"pearson": pearson(right, found), "spearman": spearman(right, found)}

    def balance(self) -> str:
        """Return the range of the numbers, and their mean."""
        low, mean, high = self.targets.min(), self.targets.mean(), self.targets.max()
        return f"numbers from {low:.2f} to {high:.2f}, {mean:.2f} on average"

    def answer(self, logits: ndarray) -> Any:
        """Return the number that a text gets."""
        return logits[0]

    def spell(self, target: Any) -> str:
        """Return a number with two decimals."""
        return f"{target:.2f}"

    def final_sample(self, model: GPT) -> str:
        """Return five texts and their numbers, and the correlations."""
        found = self.metrics(model, 0)
        lines = [f"{name} {value:.4f}" for name, value in found.items()]
        return "\n".join([*self.judge(model, self.splits[1][:5]), "", *lines])


class Similarity(Regression):
    """Turn two texts into vectors, so that their cosine says how much they mean the same.

    The vector of a text is the mean of its last hidden states, as `npgpt.sentences.SentenceEncoder`
    computes it. The loss is the mean square of the difference between the cosine and the number
    (Reimers and Gurevych 2019, arXiv:1908.10084, section 3). The numbers of the training examples,
    such as 0 to 5, are mapped to 0 to 1 for this; the model has no head.

    Attributes
    ----------
    rows : list of (ndarray of int, ndarray of int)
        The tokens of both texts of each example.
    lengths : ndarray of int, (N,)
        The number of tokens of both texts together.
    """

    name = "similarity"

    def take(self, examples: Sequence[Sequence[ndarray]]) -> None:
        """Set `rows` and `lengths`: each text of a pair has a row of its own."""
        length = self.config.block_size
        self.rows = [
            [label_row([text], self.tokenizer, length) for text in texts] for texts in examples
        ]
        self.lengths = np.array([sum(map(len, pair)) for pair in self.rows])
        self.n_cut = self.count_cut([len(text) for texts in examples for text in texts], 1)

    def find_targets(self, numbers: ndarray) -> ndarray:
        """Return the numbers, of which the training examples have 0 to 1."""
        found = super().find_targets(numbers)
        known = found[self.splits[0]]
        return (found - known.min()) / (np.ptp(known) or 1)

    @classmethod
    def count_texts(cls, config: TrainConfig) -> int:
        """Return 2: an example is a pair."""
        return 2

    @classmethod
    def columns(cls, config: TrainConfig) -> tuple[str, ...]:
        """Return the names of the columns: the first three, if none is given."""
        return super().columns(config) or ("1", "2", "3")

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model; of a BERT, without a head."""
        if self.config.train_layers == 0:
            raise UserError("--train_layers 0 trains the head alone, and similarity has no head")
        config = self.config.model(self.tokenizer.n_vocab, base)
        if isinstance(config, BertConfig):
            return dataclasses.replace(config, architecture="BertModel", labels=())
        return dataclasses.replace(config, labels=())

    def batch(self, numbers: ndarray) -> Batch:
        """Return some examples as a batch: texts (B, 2, T), numbers (B,), mask (B, 2, T)."""
        lengths = np.array([[len(row) for row in self.rows[n]] for n in numbers])  # (B, 2)
        mask = np.arange(lengths.max()) < lengths[..., None]
        inputs = np.full(mask.shape, self.padding)
        inputs[mask] = np.concatenate([row for n in numbers for row in self.rows[n]])
        return Batch(inputs, self.targets[numbers], mask)

    def objective(self, model: GPT) -> Objective:
        """Return what computes the cosines (B, 1), and the mean square of the differences."""

        def compute(
            inputs: ndarray, targets: ndarray, mask: ndarray, *_: None
        ) -> tuple[Tensor, Tensor]:
            cosines = self.compute(model, inputs, mask)[0]
            return cosines, label_loss(cosines, targets)

        return compute

    def compute(
        self, model: GPT, inputs: ndarray, mask: ndarray | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the cosines of both vectors of each example, (B, 1)."""
        B, _, T = inputs.shape
        seen = np.ones(inputs.shape, bool) if mask is None else mask
        x = model.transformer(inputs.reshape(2 * B, T), seen.reshape(2 * B, T))  # (2 B, T, C)
        weights = (seen / seen.sum(axis=-1, keepdims=True)).reshape(2 * B, T, 1).astype(x.dtype)
        vectors = np.sum(x * weights, axis=1).reshape(B, 2, -1)  # (B, 2, C)
        products = np.sum(vectors[:, 0] * vectors[:, 1], axis=1, keepdims=True)  # (B, 1)
        squares = np.sum(vectors * vectors, axis=2)  # (B, 2)
        return products / np.sqrt(squares[:, :1] * squares[:, 1:]), None

    def decode(self, ids: Any) -> str:
        """Return both texts of an example, with a | between."""
        return " | ".join(map(super().decode, ids))

    def command(self, folder: Path) -> str:
        """Return the command that shows how similar two texts are."""
        texts = " ".join(quoted(text) for text in self.prompt().split(" | ", 1))
        return f"npgpt embed --model {quoted(str(folder))} {texts}"

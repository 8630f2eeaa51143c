"""Direct preference optimization: a model learns which of two answers is the better one.

With the prompt x, the chosen answer y and the rejected answer z, the loss of a pair is

    -log sigmoid(beta * ((log p(y|x) - log q(y|x)) - (log p(z|x) - log q(z|x))))

where p is the model, and q the model with which the run began (Rafailov et al. 2023,
arXiv:2305.18290, equation 7). The argument of the sigmoid is the margin, which begins at 0. In a
token file, the chosen and the rejected answer are two examples of `npgpt.training.instructions`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn, no_grad
from npgpt.errors import UserError
from npgpt.evaluation.loss import Check, Objective
from npgpt.evaluation.metrics import estimate
from npgpt.models.gpt import GPT
from npgpt.models.heads import label_loss
from npgpt.module import evaluating
from npgpt.say import say
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.conversations import Conversation, read_conversations
from npgpt.training.data import IGNORED, Batch, Source, Tokens
from npgpt.training.instructions import Instructions
from npgpt.training.task import TRAIN, VALIDATION, token_losses

CHOSEN = 0  # of the two answers of a pair


class PairBatch(NamedTuple):
    """The arrays of a batch of pairs, which the objective of preferences takes."""

    inputs: ndarray  # (B, 2, T)
    targets: ndarray  # (B,), the number of the better answer: 0
    tokens: ndarray  # (B, 2, T), the tokens that the model is to find in each position, or -100
    reference: ndarray  # (B, 2), the log-probability of each answer before the training


class Preferences(Instructions):
    """Prefer the better of two answers (Rafailov et al. 2023).

    The loss is that of a classification with two labels: the logit of an answer is `dpo_beta` times
    the change of the answer's log-probability since the beginning of the run.

    Attributes
    ----------
    reference : ndarray of float64, (N, 2)
        The log-probabilities of both answers of each pair, by the model with which the run began.
    """

    name = "preferences"
    keys = ("epochs", "text_column", "template", "dpo_beta")
    n_rows = 2

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.reference = np.zeros((len(self.lengths), 2))

    # ---- before a run begins

    @classmethod
    def read_file(cls, name: str, config: TrainConfig) -> list[Conversation]:
        """Read the pairs of answers in a file."""
        return read_conversations(name, config.text_column, has_rejected=True)

    @classmethod
    def complete(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with a number of updates in the place of its epochs."""
        if config.init_from == "scratch":
            raise UserError(
                "preferences need a model that answers already, such as one that npgpt finetune "
                "instructions has trained: name it with --model"
            )
        return super().complete(config, sources)

    @classmethod
    def written(cls, conversation: Conversation) -> list[list[dict[str, str]]]:
        """Return the conversation with the chosen answer, and with the rejected one."""
        *asked, chosen = conversation.messages
        return [[*asked, chosen], [*asked, chosen | {"content": conversation.rejected}]]

    def begin(self, model: GPT) -> None:
        """Compute the log-probabilities of all answers by the model with which the run begins."""
        n = len(self.lengths)
        say(f"note: computing the log-probabilities of the answers of {n:,} pairs", sys.stderr)
        with no_grad(), evaluating():
            for split in (TRAIN, VALIDATION):
                pairs: Any = self.every_batch(split)
                for numbers, batch in pairs:
                    found = log_probabilities(model, batch.inputs, batch.tokens)
                    self.reference[numbers] = found.numpy()

    def state_dict(self) -> dict[str, ndarray]:
        """Return the log-probabilities by the model with which the run began."""
        return {"reference": self.reference}

    def load_state_dict(self, state: dict[str, ndarray]) -> None:
        """Restore these log-probabilities."""
        if state["reference"].shape != self.reference.shape:
            raise ValueError(f"there are {len(self.reference)} pairs of answers")
        self.reference[...] = state["reference"]

    # ---- batches

    def batch(self, numbers: ndarray) -> Any:
        """Return some pairs as a batch."""
        shape = len(numbers), 2, int(self.lengths[numbers].max()) // 2
        inputs, tokens = np.full(shape, self.padding), np.full(shape, IGNORED)
        for pair, n in enumerate(numbers):
            for side in (0, 1):
                self.rows[2 * n + side].write(inputs[pair, side], tokens[pair, side])
        targets = np.full(len(numbers), CHOSEN)
        return PairBatch(inputs, targets, tokens, self.reference[numbers])

    def objective(self, model: GPT) -> Objective:
        """Return the function that compares answers: it returns the logits (B, 2), and the loss."""

        def compare(
            inputs: ndarray, targets: ndarray, tokens: ndarray, reference: ndarray
        ) -> tuple[Tensor, Tensor]:
            found = log_probabilities(model, inputs, tokens)  # (B, 2)
            logits = self.config.dpo_beta * (found - reference.astype(found.dtype))
            return logits, label_loss(logits, targets, model.smoothing)

        return compare

    # ---- judging, and showing

    def losses(self, model: GPT, batch: Any) -> Tensor:
        """Return the loss of each pair, (B,)."""
        logits, _ = self.objective(model)(*batch)
        return nn.cross_entropy(
            logits, batch.targets, reduction="none", label_smoothing=model.smoothing
        )

    def margins(self, model: GPT, check: Check = lambda: None) -> ndarray:
        """Return the margin of each pair of the validation split, (N,)."""
        found, objective = [], self.objective(model)
        with no_grad(), evaluating():
            for _, batch in self.every_batch(VALIDATION):
                check()
                logits = objective(*batch)[0].numpy()
                found.append(logits[:, CHOSEN] - logits[:, 1 - CHOSEN])
        return np.concatenate(found)

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return the share of pairs with a positive margin, and the mean margin."""
        margins = self.margins(model, check)
        return {"accuracy": preferred(margins), "margin": float(margins.mean())}

    def texts(self, batch: Any) -> list[str]:
        """Return the text of each pair."""
        return [" | ".join(map(self.decode, pair)) for pair in batch.inputs]

    def final_sample(self, model: GPT) -> str:
        """Return five answers, and the share of pairs whose better answer has gained more."""
        found = estimate(preferred, self.margins(model))
        n = len(self.splits[VALIDATION])
        return (
            f"{super().final_sample(model)}\n\nof {n:,} pairs that were not trained on, the better "
            f"answer has gained more in {found}"
        )


def preferred(margins: ndarray) -> float:
    """Return the share of margins that are positive; 0 counts one half.

    Examples
    --------
    >>> preferred(np.array([2.0, -1.0, 0.0, 0.0]))
    0.5
    """
    return float(np.mean(np.sign(margins)) / 2 + 0.5)


def log_probabilities(model: GPT, inputs: ndarray, tokens: ndarray) -> Tensor:
    """Return the log-probability of both answers of each pair, ``(B, 2, T), (B, 2, T) -> (B, 2)``.

    `inputs` has the tokens that the model reads, and `tokens` the next token at each position of an
    answer, and -100 elsewhere.
    """
    T = inputs.shape[-1]
    losses = token_losses(model, Batch(inputs.reshape(-1, T), tokens.reshape(-1, T)))
    return -losses.sum(axis=1).reshape(inputs.shape[:2])

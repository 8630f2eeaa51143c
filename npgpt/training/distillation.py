"""Distillation: a student learns from the probabilities of a teacher, as well as from the data.

Hinton et al. 2015, arXiv:1503.02531, section 2. A target says which token is right. The teacher
gives a probability to every token, so a student also learns which other tokens would have fitted
nearly as well. Both models' logits are divided by a temperature T before they are compared, so
that small probabilities count more. If hidden states are compared as well (Jiao et al. 2019,
arXiv:1909.10351), the student also learns the vectors that the teacher computes in its layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from autograd import Tensor, nn, no_grad
from npgpt.errors import UserError
from npgpt.evaluation.loss import Objective
from npgpt.hub import find_model
from npgpt.models.context import Activations
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import IGNORED, AnyBatch, n_predicted
from npgpt.training.state import hash_parameters
from npgpt.weights.load import load_model


@dataclass(frozen=True)
class Distillation:
    """A teacher, and how a student is compared with it.

    The loss of a target is ``(1 - share) * loss + share * T**2 * divergence + hidden * distance``:
    the loss of the data, the Kullback-Leibler divergence of the student's probabilities from the
    teacher's, both at the temperature T, and the mean square of the difference of hidden states.
    The gradient of the divergence falls with the square of T, so T**2 keeps its size.

    Parameters
    ----------
    teacher : GPT
    temperature : float
        T.
    share : float
        The weight of the divergence, from 0 to 1; the loss of the data has the weight 1 - share.
    hidden : float
        The weight of the hidden states. With L layers of the student and M of the teacher, the
        student's layer i is compared with the teacher's layer i M / L, rounded.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> config = GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=2, n_head=1)
    >>> batch = np.array([[1, 2, 3]]), np.array([[2, 3, 4]])
    >>> same = Distillation(GPT(config), share=1.0)  # the teacher teaches itself
    >>> logits, loss = same.objective(GPT(config).eval())(*batch)
    >>> bool(abs(loss.item()) < 1e-6)
    True
    """

    teacher: GPT
    temperature: float = 2.0
    share: float = 0.5
    hidden: float = 0.0

    @cached_property
    def sha256(self) -> str:
        """The hash of the teacher's parameters."""
        return hash_parameters(self.teacher)

    def objective(self, student: GPT) -> Objective:
        """Return the objective of the student: a function from a batch to logits and the mean loss.

        Updates use this objective in the place of `Task.objective`. Evaluations use the objective
        of the task, so the losses that a run shows, and by which the best model is chosen, are
        the losses on the data alone.
        """

        def read(*batch: Any) -> tuple[Tensor, Tensor]:
            logits, losses = self.compare(student, batch)
            return logits, np.sum(losses) / max(1, n_predicted(batch[1]))

        return read

    def losses(self, student: GPT, batch: AnyBatch) -> Tensor:
        """Return the loss of each target of a batch, in the shape of the targets."""
        return self.compare(student, batch)[1]

    def compare(self, student: GPT, batch: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Return the student's logits, and the loss of each target, 0 where none counts."""
        T, targets = self.temperature, np.asarray(batch[1])
        counts = targets.reshape(-1) != IGNORED
        logits, states = self.read(student, batch)
        with no_grad(), evaluating():
            taught, taught_states = self.read(self.teacher, batch)
        if logits.shape[:-1] != targets.shape:  # such as the start and the end of an answer
            raise UserError(
                f"the model has outputs of shape {logits.shape} for targets of shape "
                f"{targets.shape}: a teacher is for tasks with one choice for each target"
            )
        rows = logits.reshape(-1, logits.shape[-1])  # (B T, V)
        found, wanted = (nn.log_softmax(x / T) for x in (rows, taught.numpy().reshape(rows.shape)))
        divergence = np.sum(nn.kl_div(found, wanted, "none", log_target=True), axis=-1)  # (B T,)
        losses = divergence * (self.share * T**2 * counts).astype(rows.dtype)
        if self.share < 1:
            data = nn.cross_entropy(
                rows, targets.reshape(-1), reduction="none", label_smoothing=student.smoothing
            )
            losses = losses + (1 - self.share) * data
        if self.hidden:
            n, m = len(states) - 1, len(taught_states) - 1
            for i, state in enumerate(states):
                far = np.mean((state - taught_states[round(i * m / n)].numpy()) ** 2, axis=-1)
                weight = self.hidden / len(states) * counts
                losses = losses + far.reshape(-1) * weight.astype(rows.dtype)
        return logits, losses.reshape(targets.shape)

    def read(self, model: GPT, batch: tuple[Any, ...]) -> tuple[Tensor, list[Tensor]]:
        """Return the logits of a batch, and the hidden states if these are compared."""
        if not self.hidden:
            return model(*batch)[0], []
        inputs, _, *others = batch
        capture = Activations(keeps_attentions=False)
        x = model.transformer(inputs, *others, capture=capture)  # (B, T, C)
        return model.predict(x)[0], capture.hidden_states


def load_distillation(
    config: TrainConfig, student: GPT, tokenizer: Tokenizer
) -> Distillation | None:
    """Return the distillation that the keys of a run describe; None if there is no teacher.

    Raises
    ------
    UserError
        If the teacher cannot be loaded, or does not fit the student or the task.
    """
    if not config.teacher:
        return None
    path = find_model(config.teacher)
    teacher, other = load_model(path), load_tokenizer(path)
    demand_same_outputs(config, teacher, student, other, tokenizer)
    if config.teacher_hidden:
        demand_hidden_states(teacher, student)
    return Distillation(
        teacher, config.teacher_temperature, config.teacher_share, config.teacher_hidden
    )


def demand_same_outputs(
    config: TrainConfig, teacher: GPT, student: GPT, other: Tokenizer, tokenizer: Tokenizer
) -> None:
    """Refuse a teacher whose probabilities are not of the student's tokens or labels."""
    ours, theirs = student.config, teacher.config
    if other.tokens != tokenizer.tokens or theirs.vocab_size != ours.vocab_size:
        raise UserError(
            f"the teacher {config.teacher} has {theirs.vocab_size:,} tokens ({other.kind}), and "
            f"the student {ours.vocab_size:,} ({tokenizer.kind}), which are others: a student "
            "learns the probabilities of the same tokens; leave out --student for a new model "
            "with the teacher's tokenizer"
        )
    if theirs.labels != ours.labels or getattr(theirs, "architecture", "") != getattr(
        ours, "architecture", ""
    ):
        raise UserError(
            f"the teacher {config.teacher} has the labels {', '.join(theirs.labels) or 'none'}, "
            f"and the student {', '.join(ours.labels) or 'none'}: both must have the same head"
        )
    if len(ours.labels) == 1:
        raise UserError(
            "teacher and student have one label, so they give a number to a text, and no "
            "probabilities to learn from: name a teacher with two or more labels"
        )
    if theirs.n_positions < config.block_size:
        raise UserError(
            f"the teacher {config.teacher} reads {theirs.n_positions} tokens, and the "
            f"block_size is {config.block_size}: add --block_size {theirs.n_positions}"
        )


def demand_hidden_states(teacher: GPT, student: GPT) -> None:
    """Refuse to compare hidden states of two widths, or of models that are no GPTs or Llamas."""
    if not all(
        type(model).forward is GPT.forward and model.predicts_tokens for model in (teacher, student)
    ):
        raise UserError(
            "--teacher_hidden compares the hidden states of GPTs and Llamas that predict tokens: "
            "leave it out"
        )
    if teacher.config.n_embd != student.config.n_embd:
        raise UserError(
            f"the hidden states of the teacher have {teacher.config.n_embd} channels, and those of "
            f"the student {student.config.n_embd}: leave out --teacher_hidden, or give --n_embd "
            f"{teacher.config.n_embd}"
        )

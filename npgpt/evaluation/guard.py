"""A guard: a classifier that reads each message before the model does, and then each answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, Self

from autograd.escape import brief
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.evaluation.labels import label_probabilities
from npgpt.hub import find_model
from npgpt.models.gpt import GPT
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.weights.load import load_model


class Refusal(NamedTuple):
    """Why a text is refused: the label, and its probability."""

    label: str
    probability: float


class Guard:
    """A classifier that refuses the texts of one label.

    Parameters
    ----------
    model : GPT
        A model with labels, as ``npgpt finetune classification`` makes one.
    tokenizer : Tokenizer
    label : str
        The label that is refused.
    threshold : float
        A text is refused if its label is more probable than this.

    Raises
    ------
    UserError
        If the model has no such label, or the threshold is not from 0 to 1.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> config = GPTConfig(vocab_size=257, n_positions=16, n_embd=8, n_layer=1, n_head=2,
    ...                    labels=("ham", "spam"))
    >>> guard = Guard(GPT(config), ByteTokenizer(["<|endoftext|>"]), "spam", threshold=1.0)
    >>> print(guard.check("You have won!"))
    None
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, label: str, threshold: float = 0.5
    ) -> None:
        labels = model.config.labels
        if len(labels) < 2:
            raise UserError(
                "a guard needs a model that names labels, as npgpt finetune classification makes "
                f"one; this one is a {model.config.model_type} without labels"
            )
        if label not in labels:
            asked = f"the guard has no label {brief(label)}" if label else "no label is refused yet"
            hint = nearest(label, labels) if label else f"; known are {', '.join(labels)}"
            raise UserError(f"{asked}{hint}: say which one is refused (--guard_label)")
        if not 0 <= threshold <= 1:
            raise UserError(f"the threshold is {threshold}; a number from 0 to 1 is expected")
        self.model, self.tokenizer = model, tokenizer
        self.label, self.threshold = label, threshold

    @classmethod
    def load(cls, source: str | Path, label: str, threshold: float = 0.5) -> Self:
        """Make the guard of a model's folder, file or name; see `npgpt.load_model`."""
        path = find_model(source)
        return cls(load_model(path), load_tokenizer(path), label, threshold)

    def check(self, text: str) -> Refusal | None:
        """Return why a text is refused, or None if it is not; an empty text is never refused.

        If a text is longer than the guard's context, the guard reads only the first tokens.

        Raises
        ------
        UserError
            If the probability is NaN: such a guard would let every text pass.
        """
        if not text.strip():
            return None
        (row,) = label_probabilities(self.model, self.tokenizer, [text])
        probability = float(row[self.model.config.labels.index(self.label)])
        if math.isnan(probability):  # which is not more than any threshold
            raise UserError("the guard computes NaN: its weights are damaged; take another guard")
        return Refusal(self.label, probability) if probability > self.threshold else None

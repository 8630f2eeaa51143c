"""Training a classifier: a model reads a text and names its label.

In a token file, an example is the number of its label, the tokens of the text, and an end token:

    a bore.<tab>bad   ->   0 a   b o r e . END        with the labels bad and good
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn, no_grad
from autograd.escape import brief
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.evaluation.examples import read_examples
from npgpt.evaluation.labels import PADDING, label_row, padding_token, stop_token
from npgpt.evaluation.loss import Check, Objective
from npgpt.evaluation.metrics import accuracy, confusion_matrix
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.heads import label_loss
from npgpt.module import evaluating
from npgpt.options import quoted
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import END, Batch, Source, Tokens
from npgpt.training.examples import Examples, count_updates
from npgpt.training.task import TRAIN, VALIDATION


class Classification(Examples):
    """Name the label of a text (Radford et al. 2018, section 3.2; Devlin et al. 2018, section 4.1).

    Of a text that is too long for the context, the first tokens count.

    Attributes
    ----------
    stop : int
        The token after each text in a token file.
    padding : int
        The token that fills up shorter texts.
    rows : list of ndarray of int
        The tokens of each text, of all token files.
    targets : ndarray of int, (N,)
        The number of each label.

    Raises
    ------
    UserError
        If a token file holds no examples, or a split has none.
    """

    name = "classification"
    model_types = "gpt", "llama", "mistral", "qwen2", "bert"
    keys = "epochs", "text_column", "label_column", "labels"

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.stop, self.padding = stop_token(tokenizer), padding_token(tokenizer)
        files = [find_examples(tokens, self.stop, len(config.labels)) for tokens in data.values()]
        self.rows = [
            label_row(row, tokenizer, config.block_size) for _, rows in files for row in rows
        ]
        self.targets = np.concatenate([targets for targets, _ in files])
        self.lengths = np.array([len(row) for row in self.rows])
        self.known: dict[bytes, ndarray] = {}  # see `states`
        self.divide([len(rows) for _, rows in files])

    # ---- before a run begins

    @classmethod
    def read(cls, names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
        """Read a file of examples, or a token file of them."""
        if config.documents:
            raise UserError("--documents is about texts: leave it out to train on examples")
        if len(names) != 1:
            raise UserError(
                f"{'there are no' if not names else len(names)} files of examples; give one file, "
                "or a folder with a file for each label"
            )
        if names[0].endswith(".bin"):
            return super().read(names, config, is_main)
        found = read_examples(names[0], config.text_column, config.label_column)
        return Source(None, [part for example in found for part in example], [names[0]])

    @classmethod
    def complete(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with the labels: those of the data, if none are given."""
        config, labels = super().complete(config, sources), config.labels
        for source in sources:
            if source.file is not None and not labels:
                raise UserError(f"{source.file} has the numbers of labels; name them with --labels")
        if not labels:
            labels = tuple(sorted({label for source in sources[:1] for label in source.text[1::2]}))
        if len({*labels}) < len(labels):
            raise UserError(f"labels is {brief(labels)}: one of them is there twice")
        if len(labels) < 2:
            raise UserError(
                f"all examples have the label {brief(labels[0])}: there is nothing to learn"
                if labels
                else "there are no labels"
            )
        for source in sources:
            for text, label in zip(source.text[::2], source.text[1::2], strict=True):
                if label not in labels:
                    raise UserError(
                        f"{source.names[0]}: {brief(text)} has the label {brief(label)}"
                        f"{nearest(label, labels)}"
                    )
        config = dataclasses.replace(config, labels=labels)
        if config.epochs and not sources[0].text:
            raise UserError(
                f"{sources[0].file} is a token file: give max_iters, the updates, and no epochs"
            )
        return count_updates(config, [len(source.text) // 2 for source in sources])

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the end token, and the padding."""
        return [END, PADDING]

    @classmethod
    def encode(cls, source: Source, tokenizer: Tokenizer, config: TrainConfig) -> ndarray:
        """Return the examples of a file as tokens; see the module's docstring."""
        stop, numbers = stop_token(tokenizer), {label: n for n, label in enumerate(config.labels)}
        if len(config.labels) > tokenizer.n_vocab:
            raise UserError(
                f"there are {len(config.labels)} labels, and the tokenizer has "
                f"{tokenizer.n_vocab} tokens: take a larger one"
            )
        parts: list[Any] = []
        for text, label in zip(source.text[::2], source.text[1::2], strict=True):
            ids = tokenizer.encode(text, disallowed_special=(), add_special_tokens=False)
            if not len(ids):
                raise UserError(f"{source.names[0]}: the tokenizer makes no token of {brief(text)}")
            parts += [[numbers[label]], ids, [stop]]
        return np.concatenate(parts).astype(np.int64)

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model, with the labels."""
        config = self.config.model(self.tokenizer.n_vocab, base)
        new: dict[str, Any] = dict(labels=self.config.labels, pad_token_id=self.padding)
        if isinstance(config, BertConfig):
            kind = "BertForSequenceClassification"
            new |= dict(architecture=kind, num_labels=len(self.config.labels))
        return dataclasses.replace(config, **new)

    # ---- batches

    def batch(self, numbers: ndarray) -> Batch:
        """Return some examples as a batch: texts (B, T), labels (B,), mask of the texts (B, T)."""
        T = self.lengths[numbers].max()
        inputs = np.full((len(numbers), T), self.padding)
        for row, n in enumerate(numbers):
            inputs[row, : self.lengths[n]] = self.rows[n]
        mask = np.arange(T) < self.lengths[numbers, None]
        return Batch(inputs, self.targets[numbers], None if mask.all() else mask)

    # ---- the head alone

    def objective(self, model: GPT) -> Objective:
        """Return the model, or if the head alone is trained, the head on states that are known."""
        if self.config.train_layers != 0:
            return model
        states = self.states(model)

        def read_states(
            inputs: ndarray, targets: ndarray, mask: ndarray | None = None, *_: None
        ) -> tuple[Tensor, Tensor]:
            mask = np.ones(inputs.shape, bool) if mask is None else mask
            known = [states[row[seen].tobytes()] for row, seen in zip(inputs, mask, strict=True)]
            logits = model.judge(Tensor(np.stack(known)))  # (B, 1, C) -> (B, labels)
            return logits, label_loss(logits, targets, model.smoothing)

        return read_states

    def states(self, model: GPT) -> dict[bytes, ndarray]:
        """Return the hidden state (1, C) of each text that the head reads, by the text's tokens.

        The layers below the head are frozen, and so compute the same in every epoch. They run once,
        without dropout, on all texts in one order: a run that is resumed has the same states.
        """
        if not self.known:
            for split in (TRAIN, VALIDATION):
                with no_grad(), evaluating():
                    for numbers, (inputs, _, *others) in self.every_batch(split):
                        x = model.transformer(inputs, *others).numpy()  # (B, T, C)
                        # a BERT reads the first token; the others, the last that is not padding
                        at = 0 if isinstance(model, Bert) else self.lengths[numbers] - 1
                        states = x[np.arange(len(x)), at]  # (B, C)
                        for n, state in zip(numbers, states, strict=True):
                            self.known[self.rows[n].tobytes()] = state[None].copy()
        return self.known

    # ---- judging, and showing

    def losses(self, model: GPT, batch: Batch) -> Tensor:
        """Return the loss of each text, (B,)."""
        logits = self.objective(model)(*batch)[0]  # (B, labels)
        return nn.cross_entropy(
            logits, batch.targets, reduction="none", label_smoothing=model.smoothing
        )

    def predict(self, model: GPT, check: Check = lambda: None) -> tuple[ndarray, ndarray]:
        """Return the numbers of the validation examples, and the label that each gets, (N,)."""
        found = []
        objective = self.objective(model)
        with no_grad(), evaluating():
            for numbers, batch in self.every_batch(VALIDATION):
                check()
                logits = objective(*batch)[0]
                found.append((numbers, logits.numpy().argmax(axis=1)))
        numbers, labels = map(np.concatenate, zip(*found, strict=True))
        return numbers, labels

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return the share of the validation examples that get their label."""
        numbers, labels = self.predict(model, check)
        return {"accuracy": accuracy(self.targets[numbers], labels)}

    def texts(self, batch: Batch) -> list[str]:
        """Return each text with its label."""
        return [
            f"{self.decode(row)} -> {self.config.labels[target]}"
            for row, target in zip(batch.inputs, batch.targets, strict=True)
        ]

    def prompt(self) -> str:
        """Return a text of the validation split."""
        return self.decode(self.rows[self.splits[VALIDATION][0]])

    def sample(self, model: GPT) -> str:
        """Return a text of the validation split with the label that the model gives it."""
        return self.judge(model, self.splits[VALIDATION][:1])[0]

    def final_sample(self, model: GPT) -> str:
        """Return five texts, their labels where these are others, and how often each pair occurs.

        The last lines are the confusion matrix: a row for each label, a column for each that the
        model gives.
        """
        numbers, labels = self.predict(model)
        names = [label[:12] for label in self.config.labels]
        width = max(map(len, names))
        lines = ["", " " * width + "".join(f"  {name:>{width}}" for name in names)]
        confusion = confusion_matrix(self.targets[numbers], labels, len(names))
        for name, row in zip(names, confusion, strict=True):
            lines.append(f"{name:>{width}}" + "".join(f"  {count:>{width}}" for count in row))
        return "\n".join(self.judge(model, self.splits[VALIDATION][:5]) + lines)

    def judge(self, model: GPT, numbers: ndarray) -> list[str]:
        """Return some texts with the labels that the model gives them."""
        batch = self.batch(numbers)
        with no_grad(), evaluating():
            logits, _ = model(batch.inputs, None, batch.attention_mask)
        lines = []
        for n, best in zip(numbers, logits.numpy().argmax(axis=1), strict=True):
            found, right = self.config.labels[best], self.config.labels[self.targets[n]]
            wrong = "" if found == right else f" (is {right})"
            lines.append(f"{self.decode(self.rows[n])} -> {found}{wrong}")
        return lines

    def command(self, folder: Path) -> str:
        """Return the command that judges other texts."""
        return f"echo {quoted(self.prompt())} | npgpt classify --model {quoted(str(folder))}"


def find_examples(tokens: Tokens, stop: int, n_labels: int) -> tuple[ndarray, list[ndarray]]:
    """Return the numbers of the labels in a token file, and the tokens of each text.

    Raises
    ------
    UserError
        If the file does not consist of examples with these labels.
    """
    array = tokens.array
    stops = np.flatnonzero(array == stop)
    targets, rows, first = [], [], 0
    while first < len(array):
        place = np.searchsorted(stops, first + 1)
        if place == len(stops) or array[first] >= n_labels:
            raise UserError(
                f"{tokens.path} holds no examples with {n_labels} labels: examples are read from "
                "a file with a text and a label in each row"
            )
        targets.append(int(array[first]))
        rows.append(array[first + 1 : stops[place]])
        first = int(stops[place]) + 1
    return np.array(targets), rows

"""Training a classifier: a model reads a text, or two, and names the label.

In a token file, an example is the number of its label, the tokens of the text, and an end token. In
a pair, an end token stands after each text:

    a bore.<tab>bad   ->   0 a   b o r e . END        with the labels bad and good
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn, no_grad
from autograd.escape import brief
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.evaluation.examples import read_rows
from npgpt.evaluation.labels import (
    DELIMITER,
    PADDING,
    label_row,
    padding_token,
    segments,
    stop_token,
)
from npgpt.evaluation.loss import Check, Objective
from npgpt.evaluation.metrics import accuracy, confusion_matrix
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.heads import label_loss, next_token_losses
from npgpt.module import evaluating
from npgpt.options import quoted
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import END, IGNORED, Batch, Source, Tokens, n_predicted
from npgpt.training.examples import Examples, count_updates
from npgpt.training.task import TRAIN, VALIDATION, refuse_documents


class Classification(Examples):
    """Name the label of a text (Radford et al. 2018, section 3.2; Devlin et al. 2018, section 4.1).

    With `text_pair_column`, an example has two texts. If texts are too long for the context,
    they lose their last tokens (`npgpt.evaluation.labels.label_row`).

    Attributes
    ----------
    n_texts : int
        The texts of an example: 1 or 2.
    stop : int
        The token after each text in a token file.
    padding : int
        The token that fills up shorter texts.
    rows : list of ndarray of int
        The tokens of each example as the model reads them, of all token files.
    targets : ndarray of int, (N,)
        The number of each label.

    Raises
    ------
    UserError
        If a token file holds no examples, or a split has none.
    """

    name = "classification"
    model_types = "gpt", "llama", "mistral", "qwen2", "bert"
    keys = (
        "epochs", "text_column", "text_pair_column", "label_column", "labels", "form", "encoding",
        "lm_loss",
    )  # fmt: skip
    n_numbers: ClassVar = 1  # that say the target of an example in a token file

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.n_texts = self.count_texts(config)
        self.stop, self.padding = stop_token(tokenizer), padding_token(tokenizer)
        files = [self.find_examples(tokens) for tokens in data.values()]
        self.take([texts for _, examples in files for texts in examples])
        self.divide([len(examples) for _, examples in files])
        self.targets = self.find_targets(np.concatenate([numbers for numbers, _ in files]))
        self.known: dict[bytes, ndarray] = {}  # see `states`

    def take(self, examples: Sequence[Sequence[ndarray]]) -> None:
        """Set `rows` and `lengths`, from the tokens of the texts of each example."""
        length = self.config.block_size
        self.rows: list[Any] = [label_row(texts, self.tokenizer, length) for texts in examples]
        self.lengths = np.array([len(row) for row in self.rows])
        self.n_cut = self.count_cut([sum(map(len, texts)) for texts in examples], self.n_texts)

    def count_cut(self, sizes: list[int], n_texts: int) -> int:
        """Return how many examples are cut, from the token counts of their `n_texts` texts."""
        length = self.config.block_size
        shortest = label_row([np.zeros(1, int)] * n_texts, self.tokenizer, length)
        return int(np.count_nonzero(np.array(sizes) + len(shortest) - n_texts > length))

    def find_targets(self, numbers: ndarray) -> ndarray:
        """Return the targets from their numbers in a token file, (N, n_numbers) -> (N,)."""
        return numbers[:, 0]

    # ---- before a run begins

    @classmethod
    def count_texts(cls, config: TrainConfig) -> int:
        """Return how many texts an example has."""
        return 2 if config.text_pair_column else 1

    @classmethod
    def columns(cls, config: TrainConfig) -> tuple[str, ...]:
        """Return the names of the columns of the texts and of the label; () if none is given."""
        options = ["text_column", "text_pair_column", "label_column"]
        if cls.count_texts(config) == 1:
            options.remove("text_pair_column")
        names = tuple(getattr(config, option) for option in options)
        if any(names) and not all(names):
            raise UserError(f"name all columns, or none: {', '.join(f'--{o}' for o in options)}")
        return names if all(names) else ()

    @classmethod
    def read(cls, names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
        """Read a file of examples, or a token file of them."""
        refuse_documents(config, "examples")
        if len(names) != 1:
            raise UserError(
                f"{'there are no' if not names else len(names)} files of examples; give one file, "
                "or a folder with a file for each label"
            )
        if names[0].endswith(".bin"):
            return super().read(names, config, is_main)
        columns = cls.columns(config)
        rows = read_rows(names[0], columns, form=config.form, encoding=config.encoding)
        cells = [cell for row in rows for cell in row.cells]
        return Source(None, cells, [names[0]], places=[row.where for row in rows])

    @classmethod
    def examples(cls, source: Source, config: TrainConfig) -> Iterator[tuple[str, list[str], str]]:
        """Yield the place of each example in a source, for messages, its texts, and its label."""
        n = cls.count_texts(config) + 1
        for number, place in enumerate(source.places):
            cells = [*source.text[n * number : n * number + n]]
            yield place, cells[:-1], cells[-1]

    @classmethod
    def complete(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with labels; if none are given, with the labels in the data."""
        config = super().complete(config, sources)
        if config.epochs and not sources[0].text:
            raise UserError(
                f"{sources[0].file} is a token file: give --max_iters, the number of updates, "
                "and no --epochs"
            )
        config = cls.complete_labels(config, sources)
        return count_updates(config, [len(source.places) for source in sources])

    @classmethod
    def complete_labels(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with labels; refuse an example that has another label."""
        labels = config.labels
        for source in sources:
            if source.file is not None and not labels:
                raise UserError(f"{source.file} has the numbers of labels; name them with --labels")
        if not labels:
            labels = tuple(sorted({label for _, _, label in cls.examples(sources[0], config)}))
        if len({*labels}) < len(labels):
            raise UserError(f"labels is {brief(labels)}: name each label once")
        if len(labels) < 2:
            raise UserError(
                f"all examples have the label {brief(labels[0])}: there is nothing to learn"
                if labels
                else "there are no labels"
            )
        for source in sources:
            for place, texts, label in cls.examples(source, config):
                if label not in labels:
                    raise UserError(
                        f"{place}: {brief(texts[0])} has the label {brief(label)}"
                        f"{nearest(label, labels)}"
                    )
        return dataclasses.replace(config, labels=labels)

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the end token, the padding, and for pairs the delimiter."""
        return [END, PADDING, DELIMITER] if cls.count_texts(config) > 1 else [END, PADDING]

    @classmethod
    def count_numbers(cls, config: TrainConfig) -> int:
        """Return how many different numbers stand before texts in a token file."""
        return len(config.labels)

    @classmethod
    def numbers_of(cls, label: str, config: TrainConfig) -> list[int]:
        """Return the numbers that stand for a label in a token file."""
        return [config.labels.index(label)]

    @classmethod
    def encode(cls, source: Source, tokenizer: Tokenizer, config: TrainConfig) -> ndarray:
        """Return the examples of a file as tokens; see the module's docstring."""
        stop, n = stop_token(tokenizer), cls.count_numbers(config)
        if n > tokenizer.n_vocab:
            raise UserError(
                f"there are {n} labels, and the tokenizer has {tokenizer.n_vocab} tokens: take a "
                "--tokenizer with more tokens, or fewer labels"
            )
        parts: list[Any] = []
        for place, texts, label in cls.examples(source, config):
            parts.append(cls.numbers_of(label, config))
            for text in texts:
                ids = tokenizer.encode(text, disallowed_special=(), add_special_tokens=False)
                if not len(ids):
                    raise UserError(f"{place}: the tokenizer makes no token of {brief(text)}")
                parts += [ids, [stop]]
        return np.concatenate(parts).astype(np.int64)

    def find_examples(self, tokens: Tokens) -> tuple[ndarray, list[list[ndarray]]]:
        """Return the numbers of each example in a token file, and the tokens of its texts.

        Raises
        ------
        UserError
            If the file does not consist of examples with these labels.
        """
        array, limit = tokens.array, self.count_numbers(self.config)
        stops = np.flatnonzero(array == self.stop)
        numbers, examples, first = [], [], 0
        while first < len(array):
            place = np.searchsorted(stops, first + self.n_numbers)
            last = place + self.n_texts
            if last > len(stops) or array[first : first + self.n_numbers].max() >= limit:
                raise UserError(
                    f"{tokens.path} holds no examples with {limit} labels: examples are read from "
                    "a file with a text and a label in each row"
                )
            ends = stops[place:last]
            starts = [first + self.n_numbers, *(ends[:-1] + 1)]
            numbers.append(array[first : first + self.n_numbers])
            examples.append([array[a:b] for a, b in zip(starts, ends, strict=True)])
            first = int(ends[-1]) + 1
        return np.array(numbers, np.int64), examples

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model, with the labels."""
        return self.labelled(base, self.config.labels)

    def labelled(self, base: ModelConfig | None, labels: tuple[str, ...]) -> ModelConfig:
        """Return the configuration of a model with some labels."""
        config = self.config.model(self.tokenizer.n_vocab, base)
        self.demand_lm_loss(config)
        new: dict[str, Any] = dict(labels=labels, pad_token_id=self.padding)
        if isinstance(config, BertConfig):
            new |= dict(architecture="BertForSequenceClassification", num_labels=len(labels))
        return dataclasses.replace(config, **new)

    def demand_lm_loss(self, config: ModelConfig) -> None:
        """Refuse `lm_loss` where the model cannot learn to predict tokens."""
        if self.config.lm_loss and (
            isinstance(config, BertConfig) or self.config.train_layers == 0
        ):
            raise UserError(
                "--lm_loss is of a GPT whose layers are trained: leave it out for a BERT, and "
                "with --train_layers 0"
            )
        if self.config.lm_loss and not config.tie_word_embeddings:
            raise UserError(
                "--lm_loss predicts tokens by the token embedding, and the model has another head "
                "for them: leave it out"
            )

    def find_places(self, step: int) -> list[str]:
        """Return the file and the line of each example of a step, or else its number."""
        known, numbers = self.lines, self.numbers(step).tolist()
        if known:
            return [known[n] for n in numbers]
        return [f"example {n:,} of {next(iter(self.data.values())).path.name}" for n in numbers]

    @cached_property
    def lines(self) -> list[str]:
        """The file and the line of each example; empty if the file is not there, or was changed."""
        try:
            source = self.read(self.config.data, self.config, True)
            tokens = self.encode(source, self.tokenizer, self.config)
        except ValueError:  # no such file, or it has other examples or labels
            return []
        is_same = np.array_equal(tokens, next(iter(self.data.values())).array)
        return source.places if is_same else []

    # ---- batches

    def batch(self, numbers: ndarray) -> Batch:
        """Return some examples as a batch: texts (B, T), labels (B,), mask of the texts (B, T)."""
        T = self.lengths[numbers].max()
        inputs = np.full((len(numbers), T), self.padding)
        for row, n in enumerate(numbers):
            inputs[row, : self.lengths[n]] = self.rows[n]
        mask = np.arange(T) < self.lengths[numbers, None]
        return Batch(inputs, self.targets[numbers], None if mask.all() else mask)

    # ---- what is computed of a batch

    def objective(self, model: GPT) -> Objective:
        """Return the model, or a function of logits and loss if the model alone is not enough."""
        is_plain = self.config.train_layers != 0 and not self.config.lm_loss
        if is_plain and (self.n_texts == 1 or not isinstance(model, Bert)):
            return model

        def compute(
            inputs: ndarray, targets: ndarray, mask: ndarray | None = None, *_: None
        ) -> tuple[Tensor, Tensor]:
            logits, others = self.compute(model, inputs, mask)
            loss = label_loss(logits, targets, model.smoothing)
            return logits, loss if others is None else loss + np.mean(others)

        return compute

    def compute(
        self, model: GPT, inputs: ndarray, mask: ndarray | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits (B, labels), and a term that is added to each loss, (B,), or None."""
        if self.config.train_layers == 0:
            seen = np.ones(inputs.shape, bool) if mask is None else mask
            known = self.states(model)
            rows = [
                known[ids[is_text].tobytes()] for ids, is_text in zip(inputs, seen, strict=True)
            ]
            return model.judge(Tensor(np.stack(rows))), None  # (B, 1, C) -> (B, labels)
        x = self.hidden(model, inputs, mask)
        others = None
        if self.config.lm_loss and model.training:
            others = self.config.lm_loss * language_losses(model, x, inputs, mask)
        return model.judge(x, mask), others

    def hidden(self, model: GPT, inputs: ndarray, mask: ndarray | None) -> Tensor:
        """Return the last hidden states, (B, T, C); a BERT also gets the segments of a pair."""
        more = {}
        if self.n_texts > 1 and isinstance(model, Bert):
            more["token_type_ids"] = segments(inputs, self.tokenizer)
        return model.transformer(inputs, mask, **more)

    def states(self, model: GPT) -> dict[bytes, ndarray]:
        """Return the hidden state (1, C) of each text that the head reads, by the text's tokens.

        The layers below the head are frozen, and so compute the same in every epoch. They run once,
        without dropout, on all texts in one order: a run that is resumed has the same states.
        """
        if self.known:
            return self.known
        with no_grad(), evaluating():
            for split in (TRAIN, VALIDATION):
                for numbers, batch in self.every_batch(split):
                    x = self.hidden(model, batch.inputs, batch.attention_mask).numpy()  # (B, T, C)
                    # a BERT reads the first token; the others, the last that is not padding
                    at = 0 if isinstance(model, Bert) else self.lengths[numbers] - 1
                    states = x[np.arange(len(x)), at]  # (B, C)
                    for n, state in zip(numbers, states, strict=True):
                        self.known[self.rows[n].tobytes()] = state[None].copy()
        return self.known

    def losses(self, model: GPT, batch: Batch) -> Tensor:
        """Return the loss of each text, (B,)."""
        logits, others = self.compute(model, batch.inputs, batch.attention_mask)
        losses = self.label_losses(model, logits, batch.targets)
        return losses if others is None else losses + others

    def label_losses(self, model: GPT, logits: Tensor, targets: ndarray) -> Tensor:
        """Return the loss of each label, (B,)."""
        return nn.cross_entropy(logits, targets, reduction="none", label_smoothing=model.smoothing)

    # ---- judging, and showing

    def notes(self) -> list[str]:
        """Return lines about the sizes of the splits, the targets, and the lengths of examples."""
        train, validation = map(len, self.splits)
        lengths = self.lengths
        cut = f"{self.n_cut:,} are cut to {self.config.block_size}" if self.n_cut else "none is cut"
        return [
            f"{train:,} examples train, {validation:,} validate; {self.balance()}",
            f"tokens of an example: {np.median(lengths):.0f} (median) to {lengths.max()}; {cut}",
        ]

    def balance(self) -> str:
        """Return the share of each label, the most frequent first."""
        counts = np.bincount(self.targets, minlength=len(self.config.labels))
        order = np.argsort(-counts, kind="stable")
        shares = [
            f"{self.config.labels[n][:20]} {100 * counts[n] / counts.sum():.1f} %" for n in order
        ]
        return ", ".join([*shares[:8], "..."] if len(shares) > 8 else shares)

    def outputs(self, model: GPT, check: Check = lambda: None) -> tuple[ndarray, ndarray]:
        """Return the numbers of the validation examples, and the logits of each, (N, labels)."""
        found = []
        objective = self.objective(model)
        with no_grad(), evaluating():
            for numbers, batch in self.every_batch(VALIDATION):
                check()
                found.append((numbers, objective(*batch)[0].numpy()))
        numbers, logits = map(np.concatenate, zip(*found, strict=True))
        return numbers, logits

    def predict(self, model: GPT, check: Check = lambda: None) -> tuple[ndarray, ndarray]:
        """Return the numbers of the validation examples, and the label that each gets, (N,)."""
        numbers, logits = self.outputs(model, check)
        return numbers, logits.argmax(axis=1)

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return the share of the validation examples that get the right label."""
        numbers, labels = self.predict(model, check)
        return {"accuracy": accuracy(self.targets[numbers], labels)}

    def texts(self, batch: Batch) -> list[str]:
        """Return each text with its target."""
        return [
            f"{self.decode(row)} -> {self.spell(target)}"
            for row, target in zip(batch.inputs, batch.targets, strict=True)
        ]

    def answer(self, logits: ndarray) -> Any:
        """Return the target that the logits of a text (labels,) mean."""
        return logits.argmax()

    def spell(self, target: Any) -> str:
        """Return a target as a person writes it."""
        return self.config.labels[target]

    def decode(self, ids: ndarray) -> str:
        """Return the text of some tokens, without special tokens; of a pair, with a | between."""
        ends = [self.stop, self.tokenizer.special_tokens.get(DELIMITER, self.stop)]
        parts = np.split(ids, np.flatnonzero(np.isin(ids, ends)))
        return " | ".join(filter(None, map(super().decode, parts)))

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
        """Return some texts with what the model says of them."""
        batch = self.batch(numbers)
        with no_grad(), evaluating():
            logits, _ = self.compute(model, batch.inputs, batch.attention_mask)
        lines = []
        for n, row in zip(numbers, logits.numpy(), strict=True):
            found, right = self.spell(self.answer(row)), self.spell(self.targets[n])
            wrong = "" if found == right else f" (is {right})"
            lines.append(f"{self.decode(self.rows[n])} -> {found}{wrong}")
        return lines

    def command(self, folder: Path) -> str:
        """Return the command that judges other texts."""
        text, more = self.prompt(), ""
        if self.n_texts > 1:
            text, more = "\t".join(text.split(" | ", 1)), " --pairs"
        return f"echo {quoted(text)} | npgpt classify{more} --model {quoted(str(folder))}"


def language_losses(model: GPT, x: Tensor, inputs: ndarray, mask: ndarray | None) -> Tensor:
    """Return the loss of each text as language, (B,); the mean is that over all tokens.

    Each token but the first is predicted from the hidden states x (B, T, C) before it, by the token
    embedding (Radford et al. 2018, section 3.2, equation 5).
    """
    logits = x[:, :-1] @ model.transformer.wte.weight.T  # (B, T - 1, V)
    targets = inputs[:, 1:] if mask is None else np.where(mask[:, 1:], inputs[:, 1:], IGNORED)
    losses = next_token_losses(logits, targets)  # (B, T - 1)
    return losses.sum(axis=1) * (len(inputs) / max(1, n_predicted(targets)))

"""What a model is trained to do: the batches that it reads, and how its results are judged.

The training loop (`npgpt.training.loop`) knows no text. It asks a `Task` for the batches of an
update, for losses to show, and for a sample. `LanguageModelling` predicts each token from the
tokens before it. Another kind of training is another subclass of `Task`. The key `task` of a run's
configuration names its task, by which `npgpt.training.registry.TASKS` finds the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn
from npgpt.errors import UserError
from npgpt.evaluation.loss import Check, Objective, mean_loss, whole_loss
from npgpt.generation import generate
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.heads import next_token_losses
from npgpt.options import quoted
from npgpt.parallel.group import part_of
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import ModelType, TrainConfig
from npgpt.training.data import (
    END,
    IGNORED,
    AnyBatch,
    Batch,
    Source,
    Tokens,
    demand_context,
    encode_text,
    end_token,
    n_predicted,
    random_starts,
    read_documents,
    read_text,
    separated,
    split_tokens,
    windows_at,
)
from npgpt.training.sources import TextSources

TRAIN, VALIDATION = 0, 1  # the two splits of the data

EXAMPLE_KEYS = (
    "epochs", "text_column", "text_pair_column", "label_column", "labels", "form", "encoding",
    "lm_loss", "stride", "template", "pack", "dpo_beta",
)  # fmt: skip
"""Keys of a run that say something of examples."""

SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 0}
"""The options of `npgpt.generate` for the samples that training shows."""


def accumulate_gradients(
    model: Objective,
    batches: Sequence[AnyBatch | tuple[ndarray, ndarray]],
    rank: int = 0,
    size: int = 1,
) -> float:
    """Add the gradient of the mean loss over some batches to ``.grad``; return the mean loss.

    Nothing else changes: an optimizer takes the step. The mean is over all targets of all batches.
    So two batches of 4 sequences give the gradient of one batch of 8, also where the batches have
    different numbers of targets.

    If several processes compute the gradient, each takes a part of every batch: `rank` is the
    number of this process, and `size` the number of processes. The sum of their gradients, and of
    their results, is that of one process. A sample has the same dropout in each part.

    Parameters
    ----------
    model : GPT, or another objective of a task (`Task.objective`)
    batches : sequence of Batch, or of (inputs, targets)
        Each is what the model reads: the arguments of ``model(...)``, in their order.
    rank, size : int

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    >>> loss = accumulate_gradients(model, [(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))])
    >>> all(parameter.grad is not None for parameter in model.parameters())
    True
    """
    counts = [n_predicted(batch[1]) for batch in batches]
    total = 0.0
    for batch, count in zip(batches, counts, strict=True):
        if not count:
            continue
        part = part_of(len(batch[1]), rank, size)
        mine: Any = [None if array is None else array[part] for array in batch]
        with nn.masks_from(part.start):
            loss: Any = model(*mine)[1]  # also without targets here: seeds of dropout are drawn
        if own := n_predicted(mine[1]):
            share = own / sum(counts)
            total += loss.item() * share
            loss.backward(np.full((), share, loss.dtype))
    return total


class Task(ABC):
    """What a model is trained to do.

    A subclass says which models it trains and how its data are read, and holds the data. It draws
    random batches, judges a model by all of the validation data, and shows what the model does.
    Each batch is what the model reads: ``model(*batch)`` returns the output and the mean loss over
    the targets of the batch.

    All random numbers are a function of the seed, of what they are for, and of the step. So a run
    that is resumed, or replayed, has the same batches as the run without a break.

    Parameters
    ----------
    config : TrainConfig
        A resumed run may replace it by one with, for example, another batch size.
    tokenizer : Tokenizer
    data : dict of str to Tokens
        The token files, by their names in a run folder (`npgpt.training.data.TOKEN_FILES`).

    Attributes
    ----------
    name : str
        The value of the key `task` in the configuration of a run.
    model_types : tuple of ModelType
        The values of the key `model_type` with which the task trains. The first is the default.
    keys : tuple of str
        The keys of `EXAMPLE_KEYS` that the task takes.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[ModelType, ...]]
    keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.data = data

    @property
    def n_tokens(self) -> int:
        """How many tokens the first token file holds."""
        return len(next(iter(self.data.values())).array)

    @property
    def tokens_per_batch(self) -> int:
        """How many tokens a batch holds, on average."""
        return self.config.batch_size * self.config.block_size

    @property
    def largest_batch(self) -> int:
        """How many tokens a batch holds at most."""
        return self.config.batch_size * self.config.block_size

    def notes(self) -> list[str]:
        """Return lines about the data, which are shown before the training."""
        return []

    # ---- before a run begins; a subclass may replace each

    @classmethod
    def read(cls, names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
        """Read what `names` says: the value of ``--data``, or (not `is_main`) of ``--val_data``."""
        if len(names) == 1 and names[0].endswith(".bin"):
            return Source(Path(names[0]).expanduser().resolve(), names=list(names))
        if config.documents:
            return Source(None, *read_documents(names, config.separator, is_main))
        return Source(None, *read_text(names))

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the special tokens that a tokenizer needs which is made for a run."""
        return [END] if config.documents else []

    @classmethod
    def prepare_tokenizer(cls, tokenizer: Tokenizer, config: TrainConfig) -> Tokenizer:
        """Return the tokenizer of a new run with what the task needs, such as a chat template."""
        return tokenizer

    @classmethod
    def complete(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with what the data determine, such as labels.

        Raises
        ------
        UserError
            If a key is given that says something of examples that the task does not have.
        """
        for key in EXAMPLE_KEYS:
            if key not in cls.keys and getattr(config, key) != getattr(TrainConfig, key):
                raise UserError(
                    f"{key} says something of examples, and the task is {cls.name}: leave it out"
                )
        return config

    @classmethod
    def encode(cls, source: Source, tokenizer: Tokenizer, config: TrainConfig) -> ndarray:
        """Return the tokens of the text of a source, (N,)."""
        return encode_text(source.text, tokenizer)

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model; `base` is that of a model to start from.

        Raises
        ------
        UserError
            If the model to start from has labels, and no head for tokens.
        """
        if base is not None and base.labels:
            raise UserError(
                f"{self.config.init_from} judges texts, and its head does not predict tokens: "
                "train it by npgpt finetune classification, or start from another model"
            )
        return self.config.model(self.tokenizer.n_vocab, base)

    @classmethod
    def imitate(
        cls, batch: Batch, architecture: ModelConfig, generator: np.random.Generator
    ) -> AnyBatch:
        """Return a batch of random tokens in the form of the task's batches, to measure a step."""
        return batch

    def generation_config(self) -> dict[str, Any]:
        """Return the options that ``generation_config.json`` is to hold besides the model's own."""
        return {}

    # ---- what a subclass defines

    @abstractmethod
    def random_batch(self, split: int, generator: np.random.Generator) -> AnyBatch:
        """Draw one batch of a split, `TRAIN` or `VALIDATION`."""

    @abstractmethod
    def whole_loss(self, model: GPT, check: Check = lambda: None) -> float:
        """Return the mean loss over all validation data; call `check` between batches."""

    @abstractmethod
    def losses(self, model: GPT, batch: Any) -> Tensor:
        """Return the loss of each target of a batch, in the shape of the targets."""

    @abstractmethod
    def texts(self, batch: Any) -> list[str]:
        """Return the text of each sequence in a batch, for a person to read."""

    @abstractmethod
    def prompt(self) -> str:
        """Return a text for a sample to begin with."""

    @abstractmethod
    def sample(self, model: GPT) -> str:
        """Return what the model makes of the prompt, in `sample_tokens` tokens or fewer."""

    @abstractmethod
    def final_sample(self, model: GPT) -> str:
        """Return a longer sample, which is shown after the training."""

    @abstractmethod
    def command(self, folder: Path) -> str:
        """Return a command that shows more of what the model in a run folder does."""

    def objective(self, model: GPT) -> Objective:
        """Return the function from a batch to its output and mean loss: by default, the model."""
        return model

    def begin(self, model: GPT) -> None:
        """Compute values that the task needs from the model with which a new run begins."""
        return None

    def find_places(self, step: int) -> list[str]:
        """Return where the data have each sequence of a step's batches; empty if it is not known.

        A place is a text for a person to read, such as ``README.md, lines 12 to 15``.
        """
        return []

    def state_dict(self) -> dict[str, ndarray]:
        """Return the values that `begin` has computed, for the state of the run."""
        return {}

    def load_state_dict(self, state: dict[str, ndarray]) -> None:
        """Restore the values that `begin` computed when the run began.

        Raises
        ------
        KeyError, ValueError
            If it does not fit the data.
        """
        return None

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return numbers that an evaluation shows besides the losses, by their names."""
        return {}

    def evaluation_batch(self, split: int, generator: np.random.Generator) -> AnyBatch:
        """Draw a batch for an estimate of the loss of a split."""
        return self.random_batch(split, generator)

    # ---- what all tasks do in the same way

    def batches(self, step: int) -> Sequence[AnyBatch]:
        """Draw the batches of the update that leads from a step to the next."""
        generator = self.generator(step)
        n = self.config.gradient_accumulation_steps
        return [self.random_batch(TRAIN, generator) for _ in range(n)]

    def generator(self, step: int) -> np.random.Generator:
        """Return what draws the batches of the update that leads from a step to the next."""
        return np.random.default_rng([self.config.seed, 1, step])

    def estimate_losses(
        self, model: GPT, step: int, check: Check = lambda: None
    ) -> tuple[float, float]:
        """Estimate the loss on both splits, each from `eval_iters` random batches."""

        def estimate(split: int) -> float:
            generator = np.random.default_rng([self.config.seed, 2 + split, step])
            n = self.config.eval_iters
            batches = (self.evaluation_batch(split, generator) for _ in range(n))
            return mean_loss(self.objective(model), batches, check)

        return estimate(TRAIN), estimate(VALIDATION)


def refuse_documents(config: TrainConfig, examples: str) -> None:
    """Refuse the key `documents` for a task whose data are examples, such as pairs."""
    if config.documents:
        raise UserError(f"--documents is about texts: leave it out to train on {examples}")


def token_losses(model: GPT, batch: AnyBatch, label_smoothing: float = 0.0) -> Tensor:
    """Return the loss of each token that is predicted, (B, T), and 0 at other positions."""
    inputs, targets, *others = batch
    logits, _ = model(inputs, None, *others)  # (B, T, V)
    return next_token_losses(logits, targets, label_smoothing)


class LanguageModelling(Task):
    """Predict each token of a text from the tokens before it.

    The validation split is the second token file, or if there is none the last 10 % of the first.

    Attributes
    ----------
    text : ndarray
        The tokens of the first token file, (N,).
    splits : (ndarray, ndarray)
        The tokens that train, and the tokens that validate, (N,) each.
    end : int or None
        The token that ends a document, if the text consists of documents.
    boundary : int or None
        The same token if the documents in a window are kept apart (`separated`).

    Raises
    ------
    UserError
        If a split does not hold a context and the token after it; or if there are documents, and
        the tokenizer has no end token or a token file holds none.
    """

    name = "language_modelling"
    model_types: ClassVar[tuple[ModelType, ...]] = ("gpt", "llama", "mistral", "qwen2")

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.text, *others = (tokens.array for tokens in data.values())
        if others:
            demand_context(self.text, config.block_size, "--data")
            demand_context(others[0], config.block_size, "--val_data")
            self.splits = self.text, others[0]
        else:
            self.splits = split_tokens(self.text, config.block_size)
        self.end = end_token(tokenizer) if config.documents else None
        for tokens in data.values() if config.documents else ():
            if not np.any(tokens.array == self.end):
                raise UserError(
                    f"{tokens.path} holds no end token ({self.end}): leave out --documents"
                )
        self.boundary = self.end if config.separate else None
        if config.read_once:
            most = len(self.window_starts) // self.windows_per_update
            if config.max_iters > most:
                raise UserError(
                    f"--read_once: the text is long enough for {most} updates, and max_iters is "
                    f"{config.max_iters}: give more text, or fewer updates with --max_iters"
                )

    @property
    def windows_per_update(self) -> int:
        """How many windows of the text an update reads."""
        return self.config.batch_size * self.config.gradient_accumulation_steps

    @cached_property
    def window_starts(self) -> ndarray:
        """Where the windows of the training split begin, in the order in which they are read once.

        Each window begins where another ends. The order is a function of the seed, so runs of one
        seed and one text read the same windows, whatever their models are.
        """
        length = self.config.block_size
        n = (len(self.splits[TRAIN]) - 1) // length
        return length * np.random.default_rng([self.config.seed, 7]).permutation(n)

    def batches(self, step: int) -> Sequence[AnyBatch]:
        """Return the batches of the update that leads from a step to the next."""
        if not self.config.read_once:
            return super().batches(step)
        n = self.windows_per_update
        starts = self.window_starts[n * step : n * (step + 1)]
        parts = np.split(starts, self.config.gradient_accumulation_steps)
        cut = (windows_at(self.splits[TRAIN], part, self.config.block_size) for part in parts)
        return [separated(windows[:, :-1], windows[:, 1:], self.boundary) for windows in cut]

    def generation_config(self) -> dict[str, Any]:
        """Return the token at which generation stops, if the text consists of documents."""
        return {"eos_token_id": self.end} if self.config.documents else {}

    def random_batch(self, split: int, generator: np.random.Generator) -> Batch:
        """Draw windows of a split at random, (B, T)."""
        length = self.config.block_size
        windows = self.draw_windows(split, length, generator)
        return separated(windows[:, :-1], windows[:, 1:], self.boundary)

    def draw_windows(self, split: int, length: int, generator: np.random.Generator) -> ndarray:
        """Draw windows of a split, each with `length` tokens and the token after: (B, length + 1).

        Where they begin is noted, for `find_places`.
        """
        tokens = self.splits[split]
        self.drawn = random_starts(tokens, self.config.batch_size, length, generator)
        return windows_at(tokens, self.drawn, length)

    def find_places(self, step: int) -> list[str]:
        """Return the files and lines of the windows of a step's batches, or else their tokens."""
        length = self.window_length
        if self.config.read_once:
            n = self.windows_per_update
            starts = self.window_starts[n * step : n * (step + 1)]
        else:
            generator, drawn = self.generator(step), []
            for _ in range(self.config.gradient_accumulation_steps):
                self.random_batch(TRAIN, generator)
                drawn.append(self.drawn)
            starts = np.concatenate(drawn)
        return [self.sources.find(start, length) for start in starts.tolist()]

    @cached_property
    def sources(self) -> TextSources:
        """The files that the training text was made from."""
        tokens = next(iter(self.data.values()))
        return TextSources(self.config, self.tokenizer, tokens, self.end)

    @property
    def window_length(self) -> int:
        """How many tokens of the text a window has."""
        return self.config.block_size + 1

    def whole_loss(self, model: GPT, check: Check = lambda: None) -> float:
        """Return the mean loss over all tokens of the validation split but the first."""
        return whole_loss(model, self.splits[VALIDATION], check=check, end=self.boundary)

    def losses(self, model: GPT, batch: Batch) -> Tensor:
        """Return the loss of each token that is predicted, (B, T)."""
        return token_losses(model, batch, model.smoothing)

    def texts(self, batch: Batch) -> list[str]:
        """Return the text of each window: its inputs, and the token after them."""
        return [
            self.tokenizer.decode(np.append(row, last[last != IGNORED]))  # (T + 1,), or T
            for row, last in zip(batch.inputs, batch.targets[:, -1:], strict=True)
        ]

    def prompt(self) -> str:
        """Return the beginning of the text."""
        if not self.config.data:
            return "def "
        ids = self.text[:200]
        if self.end is not None:  # the first document that is not empty
            ids = ids[np.argmax(ids != self.end) :]
            ids = ids[: (*np.flatnonzero(ids == self.end), len(ids))[0]]
        return first_words(self.tokenizer.decode(ids))

    def sample(self, model: GPT) -> str:
        """Return what the model writes after the prompt, as far as its context reaches.

        The random numbers of the sample are none of those that training draws.
        """
        n_positions = self.config.block_size
        ids = self.tokenizer.encode(self.prompt(), allowed_special="all")
        if len(ids):
            ids = ids[: max(1, n_positions // 2)]
        else:
            ids = self.text[:1].astype(np.int64)
        n = min(self.config.sample_tokens, n_positions - len(ids))
        seed, end = self.config.seed, self.end
        found = generate(model, ids, max_new_tokens=n, seed=seed, eos_token_id=end, **SAMPLING)[0]
        known = [i for i in found.tolist() if i in self.tokenizer.tokens]
        return self.tokenizer.decode(known, skip_special_tokens=True)

    def final_sample(self, model: GPT) -> str:
        """Return what the model writes after the prompt: 400 tokens, or 120 if these are words."""
        tokenizer = self.tokenizer
        ids = tokenizer.encode(self.prompt(), allowed_special="all")
        length = 120 if tokenizer.n_vocab > 256 and tokenizer.kind != "char" else 400
        found = generate(
            model, ids, max_new_tokens=length, seed=self.config.seed, tokenizer=tokenizer,
            **SAMPLING,
        )  # fmt: skip
        return tokenizer.decode(found[0], skip_special_tokens=True)

    def command(self, folder: Path) -> str:
        """Return the command that writes more after the prompt."""
        return f"npgpt generate --model {quoted(str(folder))} --prompt={quoted(self.prompt())}"


def first_words(text: str) -> str:
    """Return the beginning of a text's first line: something to continue."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), text)
    return line if len(line) <= 20 else line[:20].rsplit(" ", 1)[0]

"""Training on pairs: a model reads a source and writes its target, such as a translation.

A pairs file has a pair on each line: the source, a tab, the target. In a token file, source and
target are two documents, each followed by the end token:

    Hi.<tab>Salut.   ->   H i . END S a l u t . END
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor
from autograd.escape import brief
from npgpt.errors import UserError
from npgpt.evaluation.loss import Check, mean_loss
from npgpt.generation import generate
from npgpt.models.config import ModelConfig
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from npgpt.models.gpt import GPT
from npgpt.models.heads import next_token_losses
from npgpt.options import quoted
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import END, IGNORED, Batch, Source, Tokens, end_token, read_texts
from npgpt.training.task import VALIDATION, Task, refuse_documents

SPREAD = 16  # a random batch is one of this many, into which pairs are divided by their lengths
LARGEST = 2**22  # logits of a batch of an evaluation


class Pairs(Task):
    """Write the target of a source: translation, for example.

    The validation split is the second token file, or if there is none the pairs of a tenth of the
    sources, which the seed draws. A pair whose source is in the validation split is not trained on.

    Attributes
    ----------
    end : int
        The token that ends a target. The decoder also reads it first.
    places : ndarray of int, (N, 4)
        For each pair of all token files the number of the file, and where its source begins, where
        it ends, and where its target ends.
    splits : (ndarray of int, ndarray of int)
        The rows of `places` that train, and those that validate.

    Raises
    ------
    UserError
        If a token file holds no pairs, if a pair is too long for the context, or if a split has no
        pair.
    """

    name = "pairs"
    model_types = "encoder-decoder", "marian"

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.end = end_token(tokenizer, f"a target ends with {END}")
        self.files = [tokens.array for tokens in data.values()]
        self.places = np.concatenate(
            [find_pairs(n, tokens, self.end) for n, tokens in enumerate(data.values())]
        )
        self.lengths = np.diff(self.places[:, 1:], axis=1) - [0, 1]  # (N, 2), without an end token
        self.demand_short()
        self.splits = self.divide()

    @classmethod
    def read(cls, names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
        """Read pairs files, or a token file of pairs."""
        refuse_documents(config, "pairs")
        if not names:
            raise UserError("there are no pairs: give a file with --pairs FILE.tsv")
        if len(names) == 1 and names[0].endswith(".bin"):
            return super().read(names, config, is_main)
        return Source(None, *read_pairs(names))

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the end token."""
        return [END]

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model, in which the end token has all three tasks."""
        config = super().architecture(base)
        assert isinstance(config, EncoderDecoderConfig)
        if base is None:
            end = self.end
            return dataclasses.replace(
                config, pad_token_id=end, eos_token_id=end, decoder_start_token_id=end
            )
        if config.eos_token_id != self.end:
            raise UserError(
                f"the model ends a text with token {config.eos_token_id}, and the end token of its "
                f"tokenizer is {self.end}"
            )
        return config

    def generation_config(self) -> dict[str, Any]:
        """Return the tokens at which generation ends, and the greatest length of a target."""
        return {
            "eos_token_id": self.end,
            "pad_token_id": self.end,
            "decoder_start_token_id": self.end,
            "max_length": self.config.block_size + 1,  # with the token that the decoder reads first
        }

    # ---- the pairs

    def demand_short(self) -> None:
        """Refuse a pair that is longer than the context."""
        block_size = self.config.block_size
        sizes = self.lengths + [0, 1]  # a target has its end token
        long = np.flatnonzero(sizes.max(axis=1) > block_size)
        if not long.size:
            return
        first = long[0]
        side = int(np.argmax(sizes[first]))
        text = brief(self.tokenizer.decode(self.pair(first)[side]))
        raise UserError(
            f"the {('source', 'target')[side]} {text} has {sizes[first, side]} tokens, and "
            f"the model reads {block_size} (block_size). {long.size:,} of {len(sizes):,} pairs are "
            f"too long: add --block_size {sizes.max()}, or leave these pairs out"
        )

    def divide(self) -> tuple[ndarray, ndarray]:
        """Return the pairs that train, and those that validate; they have no source in common."""
        sources: dict[bytes, int] = {}
        numbers = np.array(
            [
                sources.setdefault(self.pair(n)[0].tobytes(), len(sources))
                for n in range(len(self.places))
            ]
        )  # (N,), of each pair's source
        generator = np.random.default_rng([self.config.seed, 5])
        if len(self.files) > 1:
            judged = np.unique(numbers[self.places[:, 0] == 1])
            rows = np.flatnonzero(self.places[:, 0] == 1)
        else:
            judged = generator.permutation(len(sources))[: max(1, len(sources) // 10)]
            rows = np.flatnonzero(np.isin(numbers, judged))
        train = np.flatnonzero(~np.isin(numbers, judged))
        if not train.size:
            raise UserError(
                f"there are {len(self.places):,} pairs with {len(sources):,} different sources, "
                "and no source is left to train on besides those of the validation; give more pairs"
            )
        return train, generator.permutation(rows)

    def pair(self, n: int) -> tuple[ndarray, ndarray]:
        """Return the tokens of a source, and of its target without the end token."""
        file, begin, middle, stop = self.places[n]
        tokens = self.files[file]
        return tokens[begin:middle], tokens[middle + 1 : stop]

    # ---- batches

    def random_batch(self, split: int, generator: np.random.Generator) -> Batch:
        """Draw pairs of similar lengths, so that a batch has little padding.

        16 times as many pairs as a batch has are drawn, each as probable as any other, and sorted
        by their lengths. One sixteenth of them is the batch.
        """
        size = self.config.batch_size
        drawn = generator.choice(self.splits[split], SPREAD * size)
        part = generator.integers(SPREAD) * size
        return self.batch(self.by_length(drawn)[part : part + size])

    def evaluation_batch(self, split: int, generator: np.random.Generator) -> Batch:
        """Draw pairs of all lengths: the loss of a batch of long pairs alone is another one."""
        return self.batch(generator.choice(self.splits[split], self.config.batch_size))

    def by_length(self, rows: ndarray) -> ndarray:
        """Return pairs sorted by the length of the target, and then by that of the source."""
        return rows[np.lexsort(self.lengths[rows].T)]

    def batch(self, rows: ndarray) -> Batch:
        """Return some pairs as a batch: sources (B, S), targets (B, T), mask of the sources (B, S).

        Shorter sources are filled up with the end token, and hidden by the mask. Shorter targets
        are filled up with a target that does not count.
        """
        S, T = self.lengths[rows].max(axis=0) + [0, 1]
        inputs = np.full((len(rows), S), self.end)
        targets = np.full((len(rows), T), IGNORED)
        for row, n in enumerate(rows):
            source, target = self.pair(n)
            inputs[row, : len(source)] = source
            targets[row, : len(target)] = target
            targets[row, len(target)] = self.end
        mask = np.arange(S) < self.lengths[rows, :1]
        return Batch(inputs, targets, None if mask.all() else mask)

    def every_batch(self, split: int) -> Iterator[Batch]:
        """Yield every pair of a split once, the longest targets first."""
        rows = self.by_length(self.splits[split])[::-1]
        while rows.size:
            logits = (self.lengths[rows[0], 1] + 1) * self.tokenizer.n_vocab  # of a pair
            n = max(1, min(64, LARGEST // logits))
            yield self.batch(rows[:n])
            rows = rows[n:]

    @property
    def tokens_per_batch(self) -> int:
        """How many tokens of sources and targets a batch holds on average."""
        lengths = self.lengths[self.splits[0]]
        return round(self.config.batch_size * (lengths.sum(axis=1).mean() + 1))

    # ---- judging, and showing

    def whole_loss(self, model: GPT, check: Check = lambda: None) -> float:
        """Return the mean loss over all target tokens of the validation split."""
        return mean_loss(model, self.every_batch(VALIDATION), check)

    def losses(self, model: GPT, batch: Batch) -> Tensor:
        """Return the loss of each token of the targets, (B, T)."""
        assert isinstance(model, EncoderDecoder)
        targets = batch.targets
        read = model.shifted(targets)
        logits, _ = model(batch.inputs, None, batch.attention_mask, read)  # (B, T, V)
        return next_token_losses(logits, targets, model.smoothing)

    def texts(self, batch: Batch) -> list[str]:
        """Return each source with its target."""
        return [
            f"{self.decode(source)} -> {self.decode(target[target != IGNORED])}"
            for source, target in zip(batch.inputs, batch.targets, strict=True)
        ]

    def decode(self, ids: ndarray) -> str:
        """Return the text of some tokens, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompt(self) -> str:
        """Return a source of the validation split."""
        return self.decode(self.pair(self.splits[VALIDATION][0])[0])

    def sample(self, model: GPT) -> str:
        """Return a source of the validation split, and what the model writes for it."""
        n = min(self.config.sample_tokens, self.config.block_size)
        return f"{self.prompt()} -> {self.write(model, self.splits[VALIDATION][:1], n)[0]}"

    def final_sample(self, model: GPT) -> str:
        """Return five sources of the validation split, what the model writes, and the targets."""
        rows = self.splits[VALIDATION][:5]
        written = self.write(model, rows, self.config.block_size)
        lines = []
        for n, text in zip(rows, written, strict=True):
            source, target = map(self.decode, self.pair(n))
            lines.append(f"source  {source}\nmodel   {text}\ntarget  {target}")
        return "\n\n".join(lines)

    def write(self, model: GPT, rows: ndarray, max_new_tokens: int) -> list[str]:
        """Return what the model writes for the sources of some pairs."""
        sources = [self.pair(n)[0].astype(np.int64) for n in rows]
        found = generate(model, sources, max_new_tokens=max_new_tokens, eos_token_id=self.end)
        return [self.decode(row) for row in found]

    def command(self, folder: Path) -> str:
        """Return the command that writes targets of other sources."""
        prompt = quoted(self.prompt())
        return f"echo {prompt} | npgpt translate --model {quoted(str(folder))}"


def read_pairs(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the texts of pairs files, and the names of the files.

    Parameters
    ----------
    names : tuple of str
        Files, folders or patterns, as `npgpt.training.data.read_text` takes them.

    Returns
    -------
    texts : list of str
        The first source, its target, the second source, and so on, without white space around
        them.
    names : list of str

    Raises
    ------
    UserError
        If a line has no tab, or nothing on one side of it; if a file is not UTF-8.
    """
    contents, names_ = read_texts(names)
    texts = []
    for content, name in zip(contents, names_, strict=True):
        for number, line in enumerate(content.split("\n"), 1):
            if not line.strip():
                continue
            source, tab, rest = line.partition("\t")
            target = rest.partition("\t")[0]  # further columns, such as a licence, are left out
            if not tab:
                raise UserError(
                    f"{name}, line {number}: there is no tab in {brief(line)}; a pair is a source, "
                    "a tab and a target"
                )
            for side, text in (("source", source), ("target", target)):
                if not text.strip():
                    raise UserError(f"{name}, line {number}: the {side} is empty")
            texts += [source.strip(), target.strip()]
    return texts, names_


def find_pairs(file: int, tokens: Tokens, end: int) -> ndarray:
    """Return the rows of `Pairs.places` for a token file, the number of which is `file`.

    Raises
    ------
    UserError
        If the file does not consist of pairs of documents.
    """
    stops = np.flatnonzero(tokens.array == end)
    begins = np.concatenate([[0], stops[:-1] + 1]) if stops.size else stops
    is_whole = stops.size and stops.size % 2 == 0 and stops[-1] == len(tokens.array) - 1
    if not is_whole or np.any(stops == begins):
        raise UserError(
            f"{tokens.path} holds no pairs: sources and targets, each with {END} after it; pairs "
            "are read from --pairs FILE.tsv"
        )
    return np.column_stack([np.full(len(stops) // 2, file), begins[::2], stops[::2], stops[1::2]])

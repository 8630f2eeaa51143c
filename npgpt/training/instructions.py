"""Training an assistant: a model reads a conversation, and learns only the answers.

A chat template writes a conversation as one text (`npgpt.tokenizers.templates`). The model reads
the whole text, and only the tokens of the answers count in the loss. In a token file, a mark stands
before each token: 2 before the first token of an example, 1 before a token of an answer, and 0
before the others. With letters as tokens, "Q: a" with the answer "b" is

    2 Q  0 :  0 a  1 b  1 END
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from autograd import Tensor
from npgpt.errors import UserError
from npgpt.evaluation.labels import padding_token
from npgpt.generation import generate
from npgpt.models.gpt import GPT
from npgpt.options import quoted
from npgpt.tokenizers import ByteTokenizer, Tokenizer
from npgpt.tokenizers.templates import encode_turns, find_end, find_template, render_chat
from npgpt.training.config import TrainConfig
from npgpt.training.conversations import Conversation, read_conversations
from npgpt.training.data import END, IGNORED, Batch, Source, Tokens, end_token
from npgpt.training.examples import Examples, count_updates, demand_examples
from npgpt.training.task import VALIDATION, token_losses

GIVEN, ANSWER, FIRST = 0, 1, 2  # the marks in a token file
DEFAULT = "plain"  # the template of a model that has none


class Row(NamedTuple):
    """An example as tokens."""

    ids: ndarray  # (T + 1,)
    is_answer: ndarray  # (T + 1,) of bool: whether the assistant writes the token

    @property
    def prompt(self) -> ndarray:
        """The tokens before the last answer."""
        last = np.flatnonzero(self.is_answer)[-1]
        return self.ids[: last + 1 - np.argmin(self.is_answer[last::-1])]

    def write(self, inputs: ndarray, targets: ndarray) -> None:
        """Write the inputs of the model, and its targets, to the beginnings of arrays (T,)."""
        n = len(self.ids) - 1
        inputs[:n] = self.ids[:-1]
        targets[:n] = np.where(self.is_answer[1:], self.ids[1:], IGNORED)


@dataclass
class Conversations(Source):
    """The conversations of a file; `text` has the text of each."""

    conversations: list[Conversation] = field(default_factory=list)


class Instructions(Examples):
    """Answer as an assistant: only the tokens of the answers count in the loss.

    An example of more than `block_size` + 1 tokens loses its last tokens. If it then has no token
    of an answer any more, it is left out.

    Attributes
    ----------
    stop : int
        The token that ends an answer.
    n_rows : int
        How many rows an example has.
    rows : list of Row
        The examples of all token files, one after the other.
    n_cut, n_left_out : int
        The number of examples that have lost tokens, and of those that are left out.

    Raises
    ------
    UserError
        If a token file holds no such examples, or a split has none.
    """

    name = "instructions"
    model_types = "gpt", "llama", "mistral", "qwen2"
    keys: ClassVar[tuple[str, ...]] = (
        "epochs", "text_column", "label_column", "template", "pack",
    )  # fmt: skip
    n_rows = 1

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        self.stop = stop_of(tokenizer)
        self.padding = padding_token(tokenizer)
        self.evaluated_at_once = max(1, 2**24 // tokenizer.n_vocab)  # so that logits stay small
        longest = config.block_size + 1
        files = [self.grouped(find_rows(tokens)) for tokens in data.values()]
        n_long = sum(any(len(row.ids) > longest for row in each) for file in files for each in file)
        n_all = sum(map(len, files))
        files = [[short for each in file if (short := shorten(each, longest))] for file in files]
        self.rows = [row for file in files for each in file for row in each]
        self.n_left_out = n_all - sum(map(len, files))
        self.n_cut = n_long - self.n_left_out
        if not all(files):
            raise UserError(
                f"no example has an answer within the first {config.block_size} tokens "
                "(block_size): give a larger --block_size"
            )
        lengths = np.array([len(row.ids) - 1 for row in self.rows]).reshape(-1, self.n_rows)
        self.lengths = lengths.max(axis=1) * self.n_rows
        self.divide([len(file) for file in files])

    @classmethod
    def grouped(cls, rows: list[Row]) -> list[list[Row]]:
        """Return the rows of each example."""
        return [rows[n : n + cls.n_rows] for n in range(0, len(rows), cls.n_rows)]

    # ---- before a run begins

    @classmethod
    def read(cls, names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
        """Read a file of conversations."""
        form = "file of conversations (.json, .jsonl, .csv or .tsv)"
        found = cls.read_file(demand_examples(names, config, form), config)
        text = [conversation.text for conversation in found]
        if config.init_from == "scratch":  # whose tokenizer may be made of the text
            template = find_template(config.template or DEFAULT)
            text = [
                render_chat(ByteTokenizer(), each.messages, template, False, {}) + each.rejected
                for each in found
            ]
        return Conversations(None, text, [names[0]], found)

    @classmethod
    def read_file(cls, name: str, config: TrainConfig) -> list[Conversation]:
        """Read the conversations in a file."""
        return read_conversations(name, config.text_column, config.label_column)

    @classmethod
    def prepare_tokenizer(cls, tokenizer: Tokenizer, config: TrainConfig) -> Tokenizer:
        """Return the tokenizer with the chat template of the run."""
        if config.template or not tokenizer.chat_template:
            tokenizer.chat_template = find_template(config.template or DEFAULT)
        return tokenizer

    @classmethod
    def complete(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with a number of updates in the place of its epochs."""
        return count_updates(super().complete(config, sources), [len(s.text) for s in sources])

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the end token."""
        return [END]

    @classmethod
    def encode(cls, source: Source, tokenizer: Tokenizer, config: TrainConfig) -> ndarray:
        """Return the examples of a file as tokens; see the module's docstring."""
        assert isinstance(source, Conversations)
        end = find_end(tokenizer)[0], stop_of(tokenizer)
        parts = []
        for conversation in source.conversations:
            for messages in cls.written(conversation):
                try:
                    turns = encode_turns(tokenizer, messages, end)
                except UserError as error:
                    raise UserError(f"{conversation.where}: {error}") from None
                ids = np.concatenate([ids for ids, _ in turns])
                marks = np.repeat([ANSWER if said else GIVEN for _, said in turns],
                                  [len(ids) for ids, _ in turns])  # fmt: skip
                marks[0] = FIRST
                parts.append(np.column_stack([marks, ids]).reshape(-1))
        return np.concatenate(parts)

    @classmethod
    def written(cls, conversation: Conversation) -> list[list[dict[str, str]]]:
        """Return the messages of each example that is made from a conversation."""
        return [conversation.messages]

    @property
    def n_tokens(self) -> int:
        """How many tokens the first token file holds, without the marks."""
        return super().n_tokens // 2

    def generation_config(self) -> dict[str, Any]:
        """Return the token that ends an answer."""
        return {"eos_token_id": self.stop}

    def notes(self) -> list[str]:
        """Return the number of examples, their lengths, and how many are cut or left out."""
        train, valid = self.splits
        quartiles = np.percentile(self.lengths, [0, 50, 100]).astype(int)
        n_answer = np.mean([row.is_answer[1:].sum() for row in self.rows])
        lines = [
            f"{len(train):,} examples train and {len(valid):,} validate; they have "
            f"{quartiles[0]:,} to {quartiles[2]:,} tokens (half of them up to {quartiles[1]:,}), "
            f"and their answers {n_answer:.0f} on average"
        ]
        if self.n_cut or self.n_left_out:
            lines.append(
                f"note: {self.n_cut:,} examples are longer than {self.config.block_size:,} tokens "
                f"(block_size) and lose their last tokens; {self.n_left_out:,} more are left out, "
                "since nothing is left of their answers"
            )
        return lines

    # ---- batches

    def batch(self, numbers: ndarray) -> Batch:
        """Return some examples as a batch; with the key `pack`, in as few rows as they need."""
        if self.config.pack:
            return self.packed(pack(self.lengths[numbers]), numbers)
        T = self.lengths[numbers].max()
        inputs = np.full((len(numbers), T), self.padding)
        targets = np.full((len(numbers), T), IGNORED)
        for row, n in enumerate(numbers):
            self.rows[n].write(inputs[row], targets[row])
        return Batch(inputs, targets)

    def packed(self, bins: list[list[int]], numbers: ndarray) -> Batch:
        """Return a batch with several examples in a row, in which no example attends to another.

        Positions count from the first token of each example, so the model computes the same for an
        example as if the example were alone.
        """
        T = max(int(self.lengths[numbers[each]].sum()) for each in bins)
        shape = len(bins), T
        inputs, targets = np.full(shape, self.padding), np.full(shape, IGNORED)
        example, positions = np.full(shape, -1), np.zeros(shape, np.int64)
        for row, members in enumerate(bins):
            first = 0
            for n in numbers[members]:
                part = slice(first, first + self.lengths[n])
                self.rows[n].write(inputs[row, part], targets[row, part])
                example[row, part] = n
                positions[row, part] = np.arange(self.lengths[n])
                first = part.stop
        return Batch(inputs, targets, example[:, :, None] == example[:, None, :], positions)

    # ---- judging, and showing

    def losses(self, model: GPT, batch: Batch) -> Tensor:
        """Return the loss of each token of the answers, (B, T)."""
        return token_losses(model, batch, model.smoothing)

    def texts(self, batch: Batch) -> list[str]:
        """Return the text of each row."""
        return [self.decode(row) for row in batch.inputs]

    def prompt(self) -> str:
        """Return the text before an answer of the validation split."""
        return self.decode(self.first_row(self.splits[VALIDATION][0]).prompt)

    def first_row(self, n: int) -> Row:
        """Return the row of an example, or the first if there are several."""
        return self.rows[n * self.n_rows]

    def sample(self, model: GPT) -> str:
        """Return the text before an answer of the validation split, and what the model answers."""
        answer = self.answer(model, self.splits[VALIDATION][:1], self.config.sample_tokens)[0]
        return f"{self.prompt()} -> {answer}"

    def final_sample(self, model: GPT) -> str:
        """Return five examples of the validation split, with the answers that the model writes."""
        numbers = self.splits[VALIDATION][:5]
        lines = []
        for n, text in zip(numbers, self.answer(model, numbers, 120), strict=True):
            prompt = self.decode(self.first_row(n).prompt)
            lines.append(f"{prompt}\nmodel     {text}\nexpected  {self.expected(n)}")
        return "\n\n".join(lines)

    def expected(self, n: int) -> str:
        """Return the last answer of an example."""
        row = self.first_row(n)
        return self.decode(row.ids[len(row.prompt) :]).strip()

    def answer(self, model: GPT, numbers: ndarray, max_new_tokens: int) -> list[str]:
        """Return the model's last answers to some examples, by the most probable tokens."""
        prompts = [self.first_row(n).prompt for n in numbers]
        longest = max(map(len, prompts))
        room = model.config.n_positions - longest
        found = generate(
            model, prompts, max_new_tokens=max(1, min(max_new_tokens, room)),
            eos_token_id=self.stop, do_sample=False,
        )  # fmt: skip
        return [self.decode(ids[longest:]).strip() for ids in found]

    def command(self, folder: Path) -> str:
        """Return the command that talks with the model."""
        return f"npgpt chat --model {quoted(str(folder))}"


def stop_of(tokenizer: Tokenizer) -> int:
    """Return the token that ends an answer: that of the chat template, or the end token."""
    token, _ = find_end(tokenizer)
    return end_token(tokenizer, "an answer ends with a token") if token is None else token


def shorten(example: list[Row], length: int) -> list[Row]:
    """Return the first tokens of each row of an example; no rows if one then has no answer."""
    short = [Row(row.ids[:length], row.is_answer[:length]) for row in example]
    return short if all(row.is_answer.any() for row in short) else []


def pack(lengths: ndarray) -> list[list[int]]:
    """Divide examples among rows, none of which is longer than the longest example.

    The longest examples are placed first, each in the first row that has room (first fit
    decreasing).

    Examples
    --------
    >>> pack(np.array([2, 5, 3, 1]))
    [[1], [2, 0], [3]]
    """
    room: list[int] = []
    bins: list[list[int]] = []
    for n in np.argsort(-lengths, kind="stable").tolist():
        at = next((i for i, left in enumerate(room) if left >= lengths[n]), len(room))
        if at == len(room):
            room.append(int(lengths.max()))
            bins.append([])
        room[at] -= int(lengths[n])
        bins[at].append(n)
    return bins


def find_rows(tokens: Tokens) -> list[Row]:
    """Return the examples in a token file.

    Raises
    ------
    UserError
        If the file does not consist of examples.
    """
    array = tokens.array.astype(np.int64)
    if len(array) % 2 or not len(array) or array[0] != FIRST or array[::2].max() > FIRST:
        raise UserError(
            f"{tokens.path} holds no conversations: these are read from a file such as .jsonl"
        )
    marks, ids = array.reshape(-1, 2).T
    firsts = np.flatnonzero(marks == FIRST)[1:]
    parts = zip(np.split(ids, firsts), np.split(marks == ANSWER, firsts), strict=True)
    return [Row(*part) for part in parts]

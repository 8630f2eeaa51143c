"""Training to answer by a span of a context: a model learns where an answer starts and ends.

In a token file, a mark stands before each token: 3 before the first token of a question, 0 before
its others, 2 before a token of the answer in the context, and 1 before the others there. With words
as tokens, "who sat ?" about "the cat sat ." is

    3 who  0 sat  0 ?  2 the  2 cat  1 sat  1 .
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn, no_grad
from autograd.escape import brief
from npgpt.errors import UserError
from npgpt.evaluation.labels import PADDING, segments
from npgpt.evaluation.loss import Check, Objective
from npgpt.evaluation.spans import (
    Question,
    Window,
    best_span,
    cut_windows,
    encode_words,
    read_spans,
    stack_windows,
)
from npgpt.evaluation.written import compare
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.heads import span_loss
from npgpt.module import evaluating
from npgpt.options import quoted
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import END, AnyBatch, Batch, Source, Tokens
from npgpt.training.examples import Examples, count_updates, demand_examples, draw_validation
from npgpt.training.task import VALIDATION

ASKED, CONTEXT, ANSWER, FIRST = range(4)  # the marks in a token file


@dataclass
class Questions(Source):
    """The questions of a file; `text` has the text of each with its context."""

    questions: list[Question] = field(default_factory=list)


class Example(NamedTuple):
    """A question as tokens."""

    asked: ndarray  # (N,)
    context: ndarray  # (M,)
    first: int  # the number of the answer's first token in the context
    last: int


class Spans(Examples):
    """Find the start and the end of an answer in a context (Devlin et al. 2018, section 4.2).

    An example is a question. Its context is cut into windows of up to `block_size` tokens with the
    question (`npgpt.evaluation.spans.cut_windows`), which are rows of the same batch. If a window
    does not hold the whole answer, its targets are the first position, which is no part of the
    context. If there is no other file for validation, a tenth of the contexts validates.

    Attributes
    ----------
    examples : list of Example
        Of all token files.
    windows : list of list of Window
        The windows of each example.
    longest : int
        The most tokens of an answer: those of the longest one to train on.
    """

    name = "spans"
    model_types = ("bert",)
    keys: ClassVar[tuple[str, ...]] = ("epochs", "stride")

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        super().__init__(config, tokenizer, data)
        files = [find_examples(tokens) for tokens in data.values()]
        self.examples = [each for file in files for each in file]
        self.windows = [
            cut_windows(each.asked, each.context, tokenizer, config.block_size, config.stride)
            for each in self.examples
        ]
        self.lengths = np.array([sum(len(w.row) for w in windows) for windows in self.windows])
        contexts = number_groups([each.context.tobytes() for each in self.examples])
        self.divide([len(file) for file in files], contexts)
        self.longest = max(
            self.examples[n].last - self.examples[n].first + 1 for n in self.splits[0]
        )

    # ---- before a run begins

    @classmethod
    def read(cls, names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
        """Read a file of questions."""
        form = ".json file of questions, contexts and answers, in the form of SQuAD 1.1"
        found = read_spans(demand_examples(names, config, form))
        return Questions(None, [f"{q.question}\n{q.context}\n" for q in found], [*names], found)

    @classmethod
    def complete(cls, config: TrainConfig, sources: Sequence[Source]) -> TrainConfig:
        """Return the configuration with a number of updates in the place of its epochs."""
        config = super().complete(config, sources)
        sizes = [len(source.text) for source in sources]
        if len(sources) == 1:
            (source,) = sources
            assert isinstance(source, Questions)
            groups = number_groups([each.context for each in source.questions])
            validates = draw_validation(groups, config.seed)
            if validates.all():
                raise UserError(
                    "all questions are about one context, and a tenth of the contexts is used for "
                    "validation: give questions about two contexts, or another file with --valid"
                )
            sizes = [int(np.sum(~validates)), int(np.sum(validates))]
        return count_updates(config, sizes)

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the end token, which stands after a question and a context, and the padding."""
        return [END, PADDING]

    @classmethod
    def encode(cls, source: Source, tokenizer: Tokenizer, config: TrainConfig) -> ndarray:
        """Return the examples of a file as tokens; see the module's docstring."""
        assert isinstance(source, Questions)
        parts = []
        for each in source.questions:
            asked, _ = encode_words(each.question, tokenizer)
            context, places = encode_words(each.context, tokenizer)
            start, end = each.span
            is_answer = (places[:, 0] < end) & (places[:, 1] > start)
            if not len(asked) or not is_answer.any():
                raise UserError(
                    f"{each.where}: the tokenizer makes no token of the question or of the answer "
                    f"{brief(each.answers[0])}"
                )
            marks = [np.full(len(asked), ASKED), np.where(is_answer, ANSWER, CONTEXT)]
            marks[0][0] = FIRST
            ids = np.concatenate([asked, context])
            parts.append(np.column_stack([np.concatenate(marks), ids]).reshape(-1))
        return np.concatenate(parts)

    @property
    def n_tokens(self) -> int:
        """How many tokens the first token file holds, without the marks."""
        return super().n_tokens // 2

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model, with a head for spans."""
        config = self.config.model(self.tokenizer.n_vocab, base)
        more: dict[str, Any] = {"architecture": "BertForQuestionAnswering", "labels": ()}
        return replace(config, **more)

    def notes(self) -> list[str]:
        """Return the sizes of the splits, the windows, and how many answers no window holds."""
        train, validation = map(len, self.splits)
        counts = np.array([len(windows) for windows in self.windows])
        n_lost = sum(
            all(self.targets_in(window, each)[0] == 0 for window in windows)
            for each, windows in zip(self.examples, self.windows, strict=True)
        )
        lines = [
            f"{train:,} questions train, {validation:,} validate; their contexts are cut into "
            f"{counts.mean():.1f} windows on average, and into {counts.max()} at most"
        ]
        if n_lost:
            lines.append(
                f"note: {n_lost:,} answers are in no window as a whole; a larger --block_size or a "
                "smaller --stride helps"
            )
        return lines

    # ---- batches

    @staticmethod
    def targets_in(window: Window, example: Example) -> tuple[int, int]:
        """Return the positions of an answer in the row of a window; 0 if not all of it is there."""
        if example.first < window.start or example.last >= window.stop:
            return 0, 0
        offset = window.first - window.start
        return example.first + offset, example.last + offset

    def batch(self, numbers: ndarray) -> Batch:
        """Return the windows of some examples: tokens (W, T), targets (W, 2), mask (W, T)."""
        windows = [window for n in numbers for window in self.windows[n]]
        targets = [
            self.targets_in(window, self.examples[n]) for n in numbers for window in self.windows[n]
        ]
        inputs, mask = stack_windows(windows, self.tokenizer)
        return Batch(inputs, np.array(targets), mask)

    def objective(self, model: GPT) -> Objective:
        """Return what computes logits (W, T, 2) of starts and ends, and their mean loss."""

        def compute(
            inputs: ndarray, targets: ndarray, mask: ndarray, *_: None
        ) -> tuple[Tensor, Tensor]:
            more: dict[str, Any] = {"token_type_ids": segments(inputs, self.tokenizer)}
            logits, _ = model(inputs, attention_mask=mask, **more)
            return logits, span_loss(logits, targets, model.smoothing)

        return compute

    def losses(self, model: GPT, batch: Batch) -> Tensor:
        """Return the losses of the start and the end in each window, (W, 2)."""
        logits = self.objective(model)(*batch)[0]
        each = [
            nn.cross_entropy(
                logits[:, :, side], batch.targets[:, side], reduction="none",
                label_smoothing=model.smoothing,
            )
            for side in (0, 1)
        ]  # fmt: skip
        return cast(Tensor, np.stack(each, axis=1))

    # ---- judging, and showing

    def answers(
        self, model: GPT, parts: Iterator[tuple[ndarray, AnyBatch]], check: Check = lambda: None
    ) -> Iterator[tuple[int, str]]:
        """Yield the number of each example in some batches, and what the model answers."""
        objective = self.objective(model)
        with no_grad(), evaluating():
            for numbers, batch in parts:
                check()
                rows = iter(objective(*batch)[0].numpy())  # (W, T, 2)
                for n in numbers:
                    own = [next(rows) for _ in self.windows[n]]
                    span = best_span(own, self.windows[n], self.longest)
                    yield n, self.decode(self.examples[n].context[span.first : span.last + 1])

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return exact match and token F1 of the answers to the questions for validation.

        The texts that tokens are decoded to are compared, and an answer of the model with the first
        of a question's answers. `npgpt eval spans` compares the texts in the file, with all
        answers.
        """
        found = [*self.answers(model, self.every_batch(VALIDATION), check)]
        scores = compare([text for _, text in found], [[self.right(n)] for n, _ in found])
        return {
            name.replace(" ", "_").lower(): float(scores[name].mean())
            for name in ("exact match", "token F1")
        }

    def right(self, n: int) -> str:
        """Return the answer of an example."""
        example = self.examples[n]
        return self.decode(example.context[example.first : example.last + 1])

    def texts(self, batch: Batch) -> list[str]:
        """Return the text of each window with its answer."""
        return [
            f"{self.decode(row)} -> {self.decode(row[start : end + 1]) if start else '(not here)'}"
            for row, (start, end) in zip(batch.inputs, batch.targets, strict=True)
        ]

    def prompt(self) -> str:
        """Return a question for validation."""
        return self.decode(self.examples[self.splits[VALIDATION][0]].asked)

    def sample(self, model: GPT) -> str:
        """Return a question for validation, what the model answers, and the right answer."""
        return self.judge(model, self.splits[VALIDATION][:1])

    def final_sample(self, model: GPT) -> str:
        """Return five questions with answers, and the numbers of all questions for validation."""
        lines = [f"{name} {value:.4f}" for name, value in self.metrics(model, 0).items()]
        return "\n".join([self.judge(model, self.splits[VALIDATION][:5]), "", *lines])

    def judge(self, model: GPT, numbers: ndarray) -> str:
        """Return some questions, what the model answers, and the right answer if it is another."""
        lines = []
        for n, answer in self.answers(model, iter([(numbers, self.batch(numbers))])):
            wrong = "" if answer == self.right(n) else f" (is {self.right(n)})"
            lines.append(f"{self.decode(self.examples[n].asked)} -> {answer}{wrong}")
        return "\n".join(lines)

    def command(self, folder: Path) -> str:
        """Return the command that answers other questions."""
        return f"npgpt answer --model {quoted(str(folder))} --context FILE {quoted(self.prompt())}"


def number_groups(keys: Sequence[str | bytes]) -> ndarray:
    """Return a number for each key, (N,): the same for equal keys, counted as they come.

    Examples
    --------
    >>> number_groups(["b", "a", "b"])
    array([0, 1, 0])
    """
    numbers: dict[str | bytes, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def find_examples(tokens: Tokens) -> list[Example]:
    """Return the examples in a token file.

    Raises
    ------
    UserError
        If the file does not consist of examples.
    """
    array = tokens.array.astype(np.int64)
    marks, ids = array[: len(array) // 2 * 2].reshape(-1, 2).T
    firsts = np.flatnonzero(marks == FIRST)
    examples = []
    for first, end in zip(firsts, [*firsts[1:], len(marks)], strict=True):
        own = marks[first:end]
        n_asked = int(np.argmax(np.isin(own, (CONTEXT, ANSWER))))
        answer = np.flatnonzero(own == ANSWER) - n_asked
        if n_asked and len(answer) and (own[n_asked:] != ASKED).all():
            examples.append(
                Example(ids[first : first + n_asked], ids[first + n_asked : end],
                        int(answer[0]), int(answer[-1]))
            )  # fmt: skip
    if len(array) % 2 or not examples or len(examples) < len(firsts) or firsts[0]:
        raise UserError(
            f"{tokens.path} holds no questions about contexts: these are read from a .json file in "
            "the form of SQuAD 1.1"
        )
    return examples

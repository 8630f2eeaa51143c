"""Files of questions with several choices, and how often a model finds the right one.

A ``.jsonl`` file has a question in each line: ``{"prompt": ..., "choices": [...], "answer": 0}``,
where the answer is the number of the right choice, from 0, and the prompt may be left out. A
``group`` is a name under which questions are counted together. Each line may also be a minimal
pair: ``{"sentence_good": ..., "sentence_bad": ...}``, two sentences of which one is right. Another
file is a table (`npgpt.evaluation.examples`) whose first column has the right sentence of a pair,
and whose second column the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy import ndarray

from autograd.reading import LARGE, parse_json, read_text
from autograd.schema import fit
from npgpt.errors import UserError
from npgpt.evaluation.choices import Scorer, normalize
from npgpt.evaluation.examples import read_rows


class Item(NamedTuple):
    """A question: the prompt, its choices, the number of the right one, and its group."""

    prompt: str
    choices: list[str]
    answer: int
    group: str = ""


class Line(TypedDict):
    """A line of a file with questions."""

    prompt: NotRequired[str]
    choices: list[str]
    answer: int
    group: NotRequired[str]


class Pair(TypedDict):
    """A line of a file with minimal pairs."""

    sentence_good: str
    sentence_bad: str
    group: NotRequired[str]


def read_questions(path: str | Path) -> list[Item]:
    """Return the questions in a file; see the module's docstring for its form.

    Raises
    ------
    UserError
        If the file has no question, or a line is no question; the message names the line.
    """
    path = Path(path)
    if path.suffix.lower() != ".jsonl":
        return [Item("", row.cells, 0) for row in read_rows(path, ("1", "2"))]
    lines = read_text(path, LARGE, pipes=True).split("\n")
    items = [
        _read_line(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not items:
        raise UserError(f"{path} has no question")
    return items


def _read_line(text: str, where: str) -> Item:
    values = parse_json(text, where)
    if isinstance(values, dict) and "sentence_good" in values:
        pair: Pair = fit(values, Pair, where)
        choices = [pair["sentence_good"], pair["sentence_bad"]]
        line = Line(choices=choices, answer=0, group=pair.get("group", ""))
    else:
        line = fit(values, Line, where)
    n = len(line["choices"])
    if n < 2 or len(set(line["choices"])) < n:
        raise UserError(f"{where} has {n} choices; it must have two or more different ones")
    if not 0 <= line["answer"] < n:
        raise UserError(f"{where}: the answer is {line['answer']}; there are choices 0 to {n - 1}")
    return Item(line.get("prompt", ""), line["choices"], line["answer"], line.get("group", ""))


class Answers(NamedTuple):
    """Which choices a model finds the most probable."""

    right: ndarray  # (N,), whether the sum of log-probabilities is highest for the right choice
    right_normalized: ndarray  # (N,), the same after a division by the characters of a choice
    margins: ndarray  # (N,), log-probability of the right choice minus that of the best other one


def answer_questions(scorer: Scorer, items: list[Item]) -> Answers:
    r"""Return which choices a model finds the most probable.

    A choice follows its prompt after a space, if the prompt does not end in white space. Both
    figures are defined as in lm-evaluation-harness (``acc`` and ``acc_norm``).

    Examples
    --------
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=64, n_embd=16, n_layer=2, n_head=2))
    >>> items = [Item("Q: What is red?\nA:", ["a rose", "the sea"], 0)]
    >>> answer_questions(Scorer(model, ByteTokenizer()), items).margins.shape
    (1,)
    """
    choices = [[_space(item.prompt) + choice for choice in item.choices] for item in items]
    scores = scorer.score([item.prompt for item in items], choices)
    rows = []
    for item, own, found in zip(items, choices, scores, strict=True):
        best_other = np.delete(found, item.answer).max()
        is_best = [each.argmax() == item.answer for each in (found, normalize(found, own))]
        rows.append([*is_best, found[item.answer] - best_other])
    right, right_normalized, margins = np.array(rows, float).reshape(-1, 3).T
    return Answers(right, right_normalized, margins)


def _space(prompt: str) -> str:
    """Return what stands between a prompt and its choices."""
    return " " if prompt and not prompt[-1].isspace() else ""

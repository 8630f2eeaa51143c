"""``npgpt eval spans``: how well a model finds answers in texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from autograd.schema import FileName
from npgpt.commands.answer import Finding, load_finder
from npgpt.commands.eval._result import show_result
from npgpt.errors import UserError
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.result import Table
from npgpt.evaluation.spans import find_answer, nearest_sentence, read_spans
from npgpt.evaluation.written import compare
from npgpt.models.config import Seed, Steps
from npgpt.options import Argument, parse
from npgpt.training.memory import keep_freed_memory

SHOWN = 5  # answers that are printed


@dataclass
class Data:
    """The questions: the first options of the command."""

    data: Annotated[FileName, Argument("FILE")] = ""
    """A .json file of questions, contexts and answers, in the form of SQuAD 1.1. If a question has
    several answers, the nearest counts."""
    n: Steps = 0
    """Ask only so many questions, drawn at random; 0 asks all."""


@dataclass
class Options(Finding, Data):  # the fields of the last base class come first
    """Measure how well a model finds the answers to questions in their contexts.

    The model finds answers as in npgpt answer, and the options are the same. The last row is
    without a model: the token F1 of the sentence that has most words in common with the question.
    """

    seed: Seed = 0
    """The seed with which questions are drawn."""
    json: bool = False
    """Print the result as one line of JSON."""


def run(args: list[str]) -> int:
    """Print the numbers; return 130 after Ctrl-C."""
    options = parse(Options, args, "eval spans")
    keep_freed_memory()
    if not options.data:
        raise UserError("there are no questions: give a .json file in the form of SQuAD 1.1")
    questions = read_spans(options.data)
    if 0 < options.n < len(questions):
        generator = np.random.default_rng(options.seed)
        drawn = generator.choice(len(questions), options.n, replace=False)
        questions = [questions[i] for i in np.sort(drawn)]
    path, model, tokenizer = load_finder(options)
    try:
        texts = [
            find_answer(
                model, tokenizer, each.question, each.context, options.stride, options.longest
            ).answer
            for each in questions
        ]
    except KeyboardInterrupt:
        return 130
    references = [each.answers for each in questions]
    found = compare(texts, references)
    metrics = {name: estimate(np.mean, found[name]) for name in ("exact match", "token F1")}
    nearest = [nearest_sentence(each.question, each.context) for each in questions]
    metrics["token F1 of the nearest sentence"] = estimate(
        np.mean, compare(nearest, references)["token F1"]
    )
    rows = [
        [each.question, text, each.answers[0]]
        for each, text in zip(questions[:SHOWN], texts, strict=False)
    ]
    tables = {"the first answers": Table(["question", "found", "answer"], rows)}
    show_result("spans", options, path, (options.data,), len(questions), metrics, tables)
    return 0

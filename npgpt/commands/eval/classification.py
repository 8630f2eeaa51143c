"""``npgpt eval classification``: how often a model names the right label."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np
from numpy import ndarray

from autograd.schema import FileName
from npgpt.commands.chat import find_partner
from npgpt.commands.classify import Classifier, Judging, block_size, make_classifier
from npgpt.commands.eval._result import show_result
from npgpt.errors import UserError
from npgpt.evaluation.examples import Example, draw_examples, read_examples
from npgpt.evaluation.metrics import (
    Calibration,
    Estimate,
    accuracy,
    calibration,
    calibration_error,
    confusion_matrix,
    estimate,
    macro_f1,
    precision_recall_f1,
)
from npgpt.evaluation.result import Table
from npgpt.models.config import Size, Steps
from npgpt.options import Argument, parse
from npgpt.training.memory import keep_freed_memory


@dataclass
class Data:
    """The examples: the first options of the command."""

    data: Annotated[FileName, Argument("FILE")] = ""
    """A .csv, .tsv or .jsonl file with a text and its label in each row, or a folder with a file
    for each label; --text_column, --label_column, --form and --encoding also describe this data."""
    n: Steps = 0
    """How many examples are used, drawn at random; 0 uses all."""
    text_pair_column: str = ""
    """For a model that was trained on pairs of texts: the column with the second texts. Name
    --text_column and --label_column, too."""


@dataclass
class Options(Judging, Data):  # the fields of the last base class come first
    """Measure how often a model names the right label of a text.

    The model names labels as in npgpt classify, and the options are the same.
    """

    bins: Size = 10
    """The number of bins of equal width in the calibration table."""
    json: bool = False
    """Print the result as one line of JSON."""


def run(args: list[str]) -> int:
    """Print the numbers; return 130 after Ctrl-C."""
    options = parse(Options, args, "eval classification")
    keep_freed_memory()
    if not options.data:
        raise UserError("there are no examples: give a file of texts and labels, or a folder")
    labels, find = make_classifier(options, bool(options.text_pair_column))
    if len(labels) == 1:
        raise UserError(
            f"{options.model} gives a number to a text, and no label: name a "
            "model with two or more labels"
        )
    examples = read_examples(
        options.data,
        options.text_column,
        options.label_column,
        text_pair_column=options.text_pair_column,
        labels=labels,
        form=options.form,
        encoding=options.encoding,
    )
    if options.n:
        examples = draw_examples(examples, options.n, options.seed)
    targets = np.array([[*labels].index(label) for _, label in examples])
    try:
        probabilities = find_all(find, examples, block_size(options))
    except KeyboardInterrupt:
        return 130
    metrics, tables = judge(targets, probabilities, [*labels], options.bins)
    path = find_partner(options.model)
    files = options.data, options.shots
    show_result("classification", options, path, files, len(examples), metrics, tables)
    return 0


def find_all(find: Classifier, examples: list[Example], size: int | None) -> ndarray:
    """Return the probabilities of the labels of all examples, (N, L), `size` texts at a time."""
    texts = iter([text for text, _ in examples])
    found = []
    while block := list(islice(texts, size)):
        found.append(find(block))
    return np.concatenate(found)


def judge(
    targets: ndarray, probabilities: ndarray, labels: list[str], n_bins: int
) -> tuple[dict[str, Estimate], dict[str, Table]]:
    """Return the numbers and the tables of a classification.

    Parameters
    ----------
    targets : ndarray of int, (N,)
    probabilities : ndarray, (N, L)
    labels : list of str
        The L names.
    n_bins : int
        Of the calibration.
    """
    found = probabilities.argmax(axis=1)
    confusion = confusion_matrix(targets, found, len(labels))
    most = np.full(len(targets), confusion.sum(axis=1).argmax())
    metrics = {
        "accuracy": estimate(accuracy, targets, found),
        "macro F1": estimate(lambda a, b: macro_f1(a, b, len(labels)), targets, found),
        "calibration error": estimate(
            lambda a, b: calibration_error(a, b, n_bins), targets, probabilities
        ),
        "accuracy of the commonest label": estimate(accuracy, targets, most),
    }
    each = precision_recall_f1(confusion)
    tables = {
        "labels": Table(
            ["label", "examples", "precision", "recall", "F1"],
            [
                [label, str(count), *(f"{x:.3f}" for x in row)]
                for label, count, row in zip(labels, confusion.sum(axis=1), each, strict=True)
            ],
        ),
        "confusion (a row for each label, a column for each that the model names)": Table(
            ["", *labels],
            [[label, *map(str, row)] for label, row in zip(labels, confusion, strict=True)],
        ),
        "calibration": calibration_table(calibration(targets, probabilities, n_bins)),
    }
    return metrics, tables


def calibration_table(found: Calibration) -> Table:
    """Return the bins in which there are examples."""
    n = len(found.counts)
    rows = [
        [f"{b / n:.2f} to {(b + 1) / n:.2f}", str(count), f"{sure:.3f}", f"{right:.3f}"]
        for b, (count, sure, right) in enumerate(zip(*found, strict=True))
        if count
    ]
    return Table(["probability of the label", "examples", "mean", "accuracy"], rows)

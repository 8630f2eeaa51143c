"""``npgpt eval similarity``: how well vectors of sentences agree with people's judgement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from autograd.escape import brief
from autograd.schema import FileName
from npgpt.commands import embed
from npgpt.commands.eval._result import show_result
from npgpt.errors import UserError
from npgpt.evaluation.examples import Form, read_rows
from npgpt.evaluation.metrics import estimate, pearson, spearman
from npgpt.hub import find_model
from npgpt.options import Argument, parse
from npgpt.sentences import SentenceEncoder
from npgpt.training.memory import keep_freed_memory


@dataclass
class Options:
    """Measure how well the cosine of the vectors of two sentences agrees with given scores.

    Each row of the file has two sentences and a number: how similar people find them.
    """

    file: Annotated[FileName, Argument("FILE")] = ""
    """A .csv, .tsv or .jsonl file."""
    model: FileName = embed.DEFAULT
    """A folder with a model, a name (see npgpt models list), or a name on the Hugging Face hub."""
    columns: tuple[str, ...] = ("1", "2", "3")
    """The columns of the two sentences and of the score: by their names in the first line, or by
    their numbers from 1 if the first line is a row already."""
    form: Form | None = None
    """The form of the file, if the end of its name does not say it."""
    encoding: str = "utf-8"
    """The encoding of the file, such as latin-1."""
    json: bool = False
    """Print the result as one line of JSON."""


def run(args: list[str]) -> int:
    """Print the numbers; return 130 after Ctrl-C."""
    options = parse(Options, args, "eval similarity")
    if not options.file:
        raise UserError("there are no pairs: give a file with two sentences and a score in a row")
    if len(options.columns) != 3:
        raise UserError(
            f"columns is {brief(options.columns)}; name three: two of sentences, one of scores"
        )
    rows = read_rows(options.file, options.columns, form=options.form, encoding=options.encoding)
    scores = np.array([read_score(where, cells[2]) for where, cells in rows])
    keep_freed_memory()
    encoder = SentenceEncoder.load(options.model)
    try:
        first, second = (encoder.encode([row.cells[i] for row in rows]) for i in (0, 1))
    except KeyboardInterrupt:
        return 130
    cosines = np.sum(first * second, axis=1)
    metrics = {
        name: estimate(correlation, cosines, scores)
        for name, correlation in (("Pearson", pearson), ("Spearman", spearman))
    }
    path = find_model(options.model)
    show_result("similarity", options, path, (options.file,), len(rows), metrics)
    return 0


def read_score(where: str, text: str) -> float:
    """Return the number in a cell."""
    try:
        score = float(text)
    except ValueError:
        score = np.nan
    if not np.isfinite(score):
        raise UserError(f"{where}: the score is {brief(text)}; it must be a number")
    return score

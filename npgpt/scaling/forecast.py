"""The laws of a ladder that is trained, the best size for a budget, and a prediction on file.

A prediction is written before its model is trained, and is never written again once that training
has begun. So it cannot be fitted to what it predicts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autograd.files import write_json
from autograd.reading import read_json
from npgpt.errors import UserError
from npgpt.evaluation.metrics import Estimate
from npgpt.models.config import Positive, Size
from npgpt.options import quoted
from npgpt.scaling.ladder import (
    Factor,
    Ladder,
    Rule,
    Rung,
    cost_of,
    demand_text,
    middle,
    rung_at,
    variables,
)
from npgpt.scaling.laws import Fit, Law, fit_law
from npgpt.training.folder import RunFolder

PREDICTION = "prediction.json"
FINE = 1.02  # the ratio of neighbouring widths in the search for the best one, or one step


def fit_ladder(ladder: Ladder, losses: list[float]) -> tuple[Fit, Fit]:
    """Return the fits of L(C) and of L(N, D) to the losses of all models of a ladder.

    L(C) is fitted to the models that have the rule's own number of tokens for each parameter, as
    the predicted model has. L(N, D) is fitted to all models.
    """
    line = middle(ladder.rule, ladder.rungs)
    of_line = [loss for rung, loss in zip(ladder.rungs, losses, strict=True) if rung in line]
    by_compute = fit_law(np.array(of_line), variables(line, "C"))
    return by_compute, fit_law(np.array(losses), variables(ladder.rungs, "N", "D"))


def median_compute(ladder: Ladder) -> float:
    """Return the median of the operations of the models."""
    return float(np.median([rung.compute for rung in ladder.rungs]))


class Optimum(NamedTuple):
    """The model with the lowest loss for a budget, by a law."""

    compute: float
    width: int
    n_parameters: int
    n_tokens: float
    loss: float


def find_optimum(rule: Rule, vocab_size: int, law: Law, compute: float) -> Optimum:
    """Return the best size for a budget: of all widths, the one whose loss is lowest by L(N, D).

    The tokens follow from the width, since a model reads as many as its budget pays for.
    """

    def at(width: int) -> Optimum:
        cost = cost_of(rule, vocab_size, width)
        n_tokens = compute / cost.training_flops
        loss = float(law(N=float(cost.n_parameters), D=n_tokens))
        return Optimum(compute, width, cost.n_parameters, n_tokens, loss)

    best = at(rule.n_head)
    width = rule.n_head
    while True:  # the loss falls with the width up to the best one, and then rises
        width = max(width + rule.n_head, rule.n_head * round(FINE * width / rule.n_head))
        found = at(width)
        if found.loss >= best.loss or width > 2**16:
            return best
        best = found


@dataclass
class Prediction:
    """What ``prediction.json`` holds.

    Attributes
    ----------
    factor : float
        The budget of the model, over the median of the ladder.
    width, n_parameters, n_tokens : int
    compute : float
    by_compute, by_size : (float, float, float)
        The loss by L(C) and by L(N, D), each with the bounds of its 95 % interval.
    laws : tuple of str
        Both laws.
    ladder : tuple of (float, float, float, float)
        Of each model that the laws were fitted to: C, N, D and the loss.
    """

    factor: Factor
    width: Size
    n_parameters: Size
    n_tokens: Size
    compute: Positive
    by_compute: tuple[float, float, float]
    by_size: tuple[float, float, float]
    laws: tuple[str, ...]
    ladder: tuple[tuple[float, float, float, float], ...]

    @property
    def losses(self) -> dict[str, Estimate]:
        """The predicted losses, by the law."""
        return {"L(C)": Estimate(*self.by_compute), "L(N, D)": Estimate(*self.by_size)}


def target_folder(path: Path) -> Path:
    """Return the run folder of the predicted model, in the folder of a ladder."""
    return path / "target"


def demand_no_target(path: Path) -> None:
    """Refuse to predict after the training of the predicted model has begun."""
    folder = target_folder(path)
    if RunFolder(folder).recipe.is_file():
        raise UserError(
            f"the predicted model is in {folder} already, and a prediction after its training "
            f"would be none: leave out --predict, or remove {quoted(str(folder))} first"
        )


def write_prediction(
    ladder: Ladder, fits: tuple[Fit, Fit], losses: list[float], factor: float
) -> Prediction:
    """Predict the loss of a model with some times the median budget, and write it to a file.

    Raises
    ------
    UserError
        If the training of a predicted model has begun, or the text is too short for the model.
    """
    demand_no_target(ladder.path)
    rung = target_of(ladder, factor)
    demand_text([rung], ladder.text[1])
    by_compute = fits[0].predict(C=rung.compute)
    by_size = fits[1].predict(N=float(rung.n_parameters), D=float(rung.n_tokens))
    rows = [
        (each.compute, float(each.n_parameters), float(each.n_tokens), loss)
        for each, loss in zip(ladder.rungs, losses, strict=True)
    ]
    found = Prediction(
        factor, rung.config.n_embd, rung.n_parameters, rung.n_tokens, rung.compute,
        by_compute, by_size, tuple(str(fit.law) for fit in fits), tuple(rows),
    )  # fmt: skip
    write_json(ladder.path / PREDICTION, dataclasses.asdict(found), indent=1)
    return found


def read_prediction(path: Path) -> Prediction | None:
    """Return the prediction in the folder of a ladder; None if there is none."""
    file = path / PREDICTION
    return read_json(file, Prediction) if file.is_file() else None


def target_of(ladder: Ladder, factor: float) -> Rung:
    """Return the model with some times the median budget, by the rule of the ladder."""
    rule = ladder.rule
    compute = factor * median_compute(ladder)
    return rung_at(rule, ladder.text[0], compute, rule.tokens_per_parameter)

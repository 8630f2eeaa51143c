"""``npgpt scale``: train a ladder of small models, fit scaling laws, and predict a larger model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from autograd.files import write_text
from autograd.schema import FileName
from npgpt.commands import train
from npgpt.diagnostics.report import Section, to_html, to_markdown
from npgpt.errors import UserError
from npgpt.options import Argument, quoted, read
from npgpt.say import say, say_text
from npgpt.scaling.forecast import (
    demand_no_target,
    fit_ladder,
    read_prediction,
    target_folder,
    target_of,
    write_prediction,
)
from npgpt.scaling.ladder import Factor, Ladder, Operations, Rule, Rung
from npgpt.scaling.report import describe_plan, make_report, summarize


@dataclass
class Options(Rule):
    """Train small models of several sizes, and fit to their losses how the loss falls with size.

    DIR keeps the models, each a run folder as npgpt train makes it, and the report scaling.md and
    scaling.html. The same command continues a ladder that was interrupted: it skips the models that
    are trained. The options of the ladder can then be left out, and cannot change.
    """

    folder: Annotated[FileName, Argument("DIR")] = "out/scale"
    """The folder of the ladder (default: out/scale)."""
    predict: Factor | None = None
    """Write down the loss of a model with so many times the ladder's median budget, such as 16,
    before it is trained."""
    target: bool = False
    """Train the model that was predicted, and compare."""
    optimum: Operations | None = None
    """Also print the best size for this number of floating-point operations."""


def run(args: list[str]) -> int:
    """Train what is missing, and print the report; return the exit code.

    Raises
    ------
    SystemExit
        With 128 + n after signal n.
    """
    given = read(Options, args, "scale")
    names = [f.name for f in dataclasses.fields(Rule)]
    options = Options(**given)
    path = Path(options.folder)
    prediction = read_prediction(path)
    if options.target and not (options.predict or prediction):
        raise UserError(f"there is no prediction in {path}: add --predict 16, for example")
    if options.predict:
        demand_no_target(path)
    ladder = open_ladder(path, {name: given[name] for name in names if name in given})
    say(describe_plan(ladder))
    losses = train_ladder(ladder)
    fits = fit_ladder(ladder, losses)
    if options.predict:
        prediction = write_prediction(ladder, fits, losses, options.predict)
    measured = None
    if prediction:
        rung, folder = target_of(ladder, prediction.factor), target_folder(path)
        measured = ladder.loss_of(rung, folder)
        if options.target and measured is None:
            measured = train_rung(ladder, rung, folder, "the predicted model", " --target")
    sections = make_report(ladder, losses, fits, prediction, measured, options.optimum)
    write_report(path, sections)
    for section in sections:
        say_text(f"\n{summarize(section)}")
    say_text("")
    say(f"{path / 'scaling.html'} has all of this with a picture")
    return 0


def open_ladder(path: Path, given: dict[str, Any]) -> Ladder:
    """Return the ladder in a folder, or a new one; refuse one that cannot be trained."""
    if (path / "ladder.json").is_file():
        return Ladder.open(path, given)
    return Ladder.make(path, Rule(**given))


def train_ladder(ladder: Ladder) -> list[float]:
    """Train the models that are not trained; return the losses of all."""
    losses = []
    for number, rung in enumerate(ladder.rungs, 1):
        folder = ladder.folder_of(rung)
        loss = ladder.loss_of(rung, folder)
        if loss is None:
            loss = train_rung(ladder, rung, folder, f"model {number} of {len(ladder.rungs)}")
        losses.append(loss)
    return losses


def train_rung(ladder: Ladder, rung: Rung, folder: Path, about: str, option: str = "") -> float:
    """Train a model to its end, and return its loss.

    `about` says which model it is, and `option` what continues its training if it is interrupted.
    """
    say(f"{about}: width {rung.config.n_embd}, {rung.n_tokens:,} tokens, {rung.compute:.3g} FLOP")
    run = ladder.open_run(rung, folder)
    again = f"npgpt scale {quoted(str(ladder.path))}{option}"
    if code := train.train(run, is_resumed=run.progress.step > 0, again=again):
        raise SystemExit(code)
    loss = ladder.loss_of(rung, folder)
    assert loss is not None
    return loss


def write_report(path: Path, sections: list[Section]) -> None:
    """Write the report into the folder of a ladder, as Markdown and as a page."""
    title = f"Scaling laws of {path.resolve().name}"
    write_text(path / "scaling.md", to_markdown(title, sections))
    write_text(path / "scaling.html", to_html(title, sections))

"""``npgpt train``: train a model, continue a run, or evaluate either."""

from __future__ import annotations

import dataclasses
import errno
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from autograd.reading import read_toml
from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.models.config import Size
from npgpt.options import Argument, quoted, read
from npgpt.parallel.group import RankError
from npgpt.say import forget_stdout, say, say_text
from npgpt.training import run as training
from npgpt.training.config import TrainConfig
from npgpt.training.curve import loss_curve
from npgpt.training.display import Display, OutputLost, showing
from npgpt.training.together import follow_launched, working_together
from npgpt.training.trainable import describe_trainable


@dataclass
class Options(TrainConfig):
    """Train a model.

    Options on the command line replace those of CONFIG.toml.
    """

    config: Annotated[FileName, Argument("CONFIG.toml")] = ""
    """A TOML file whose keys are these options."""
    pairs: tuple[FileName, ...] = ()
    """Files with a source, a tab and a target on each line: short for --task pairs --data."""
    resume: FileName = ""
    """A run folder to continue."""
    overwrite: bool = False
    """Replace the run in --out_dir."""
    workers: Size = 1
    """Processes of this machine that divide each batch, at most one for each core."""


def run(args: list[str]) -> int:
    """Train, and return the exit code: 128 + n if signal n ended the training."""
    if (code := follow_launched()) is not None:
        return code
    given = spell_out_pairs(read(Options, args, "train"))
    return train_as(given, *read_defaults(given))


def train_as(given: dict[str, Any], default: Options, in_file: Collection[str]) -> int:
    """Train with the options that are given, and else with the default ones; return the exit code.

    `in_file` names the default options that the user wrote into a file.
    """
    options = dataclasses.replace(default, **given)
    config = TrainConfig(
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig)}
    )
    changes = {key: value for key, value in vars(config).items() if value != getattr(default, key)}
    said = {key for key in vars(config) if key in given or key in in_file}
    if options.eval_only:
        if options.workers > 1:
            raise UserError("--eval_only computes in one process: leave out --workers")
        if options.resume:
            found = training.evaluate_run(Path(options.resume), changes)
        else:
            found = training.evaluate_plan(config, said)
        print(
            f"step {found.step:>6}  train {found.train_loss:.4f}  val {found.val_loss:.4f}\n"
            f"loss {found.whole_val_loss:.4f} over the whole validation split"
        )
        return 0
    with working_together(options.workers) as ranks:
        if options.resume:
            started = training.resume(Path(options.resume), changes, ranks)
        else:
            started = training.start(config, options.overwrite, said, ranks)
        code = train(started, is_resumed=bool(options.resume))
    if code:
        return code
    if curve := loss_curve(started.folder):
        print(f"\n{curve}")
    show_sample(started)
    return 0


def spell_out_pairs(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are given, with those that --pairs stands for in its place."""
    if "pairs" not in given:
        return given
    others = {name: value for name, value in given.items() if name != "pairs"}
    for name in ("data", "task"):
        if name in others:
            raise UserError(f"--pairs is short for --task pairs --data: leave out --{name}")
    if not given["pairs"]:
        raise UserError("--pairs names no file; give one, as in --pairs FILE.tsv")
    return others | {"task": "pairs", "data": given["pairs"]}


def read_defaults(given: dict[str, Any]) -> tuple[Options, Collection[str]]:
    """Return the values of options that are not given, and the keys of CONFIG.toml.

    A run that is resumed has its values from its own ``train.toml``.
    """
    path, resumed = given.get("config", ""), given.get("resume")
    if resumed == "":
        raise UserError("--resume names no folder; give that of a run, as in --resume out/0001")
    if given.get("data") == ():
        raise UserError("--data names no file; leave it out to train on Python's own library")
    if path and resumed:
        raise UserError("a resumed run has its own configuration: drop CONFIG.toml or --resume")
    if resumed and given.get("overwrite"):
        raise UserError("--resume continues the run, --overwrite removes it: drop one of them")
    if resumed:
        recipe = Path(resumed) / "train.toml"
        if not recipe.exists():
            raise UserError(f"{resumed} holds no run to resume (no train.toml)")
        return Options.from_toml(recipe), {}
    if not path:
        return Options(), {}
    if not Path(path).exists():
        raise UserError(f"the configuration {path} does not exist")
    if not path.endswith(".toml"):
        raise UserError(f"{path} is no .toml configuration; to train on it: --data {path}")
    return Options.from_toml(path), read_toml(path)


def train(run: training.Run, is_resumed: bool, again: str = "") -> int:
    """Take a run to its end, and show its progress; return the exit code.

    `again` is the command that continues the run after an interruption, if it is not npgpt train.

    Raises
    ------
    UserError
        If a file cannot be written, or another process of the run ends. What the run saved before
        is whole.
    """
    again = again or f"npgpt train --resume {quoted(str(run.folder))}"
    try:
        with showing():
            for line in (describe(run, is_resumed), *run.task.notes()):
                say(line)
            if not all(parameter.requires_grad for parameter in run.model.parameters()):
                say(describe_trainable(run.model))
        training.train(run, Display(run.config.max_iters, run.progress.step))
    except training.Interrupted as stop:
        by = "" if stop.number == signal.SIGINT else f" ({stop})"
        tell(f"interrupted{by} at step {run.progress.step}, and saved; continue with: {again}")
        return 128 + stop.number
    except OutputLost as lost:
        forget_stdout()
        step = run.progress.step
        tell(
            f"npgpt: standard output cannot be written ({lost}): ended at step {step}, and saved; "
            f"continue with: {again}",
            sys.stderr,
        )
        return 128 + 13 if lost.errno == errno.EPIPE else 2  # 13: SIGPIPE, as of any other command
    except KeyboardInterrupt:
        tell(f"ended at once; what was saved before is kept. Continue with: {again}", sys.stderr)
        return 130
    except RankError as error:
        raise UserError(f"{error}; what was saved before is kept. Continue with: {again}") from None
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            f"{file}{error.strerror or error}: nothing that was saved before is lost; when "
            f"{'there is room' if full else 'it can be written'} again, continue with {again}"
        ) from None
    return 0


def describe(run: training.Run, is_resumed: bool) -> str:
    """Return the first line that the command prints: what is trained, and on what."""
    step = run.progress.step
    if not is_resumed:
        verb = "trains"
    elif run.is_out_of_patience and run.progress.finished:
        verb = f"stopped early at step {step} (to go on, add a larger --patience, or 0)"
    elif step < run.config.max_iters:
        verb = f"continues at step {step}"
    else:
        verb = f"is finished at step {step} (to go on, add a larger --max_iters)"
    where = "Python's own library" if not run.config.data else " ".join(run.config.data)
    processes = f", {run.ranks.size} processes" if run.ranks.size > 1 else ""
    return (
        f"{run.folder} {verb}: {run.model.n_parameters():,} parameters, "
        f"{run.task.n_tokens:,} tokens of {where}, vocabulary {run.tokenizer.n_vocab:,}"
        f"{processes}"
    )


def tell(text: str, file: Any = None) -> None:
    """Print a line, unless nothing can be printed: the terminal may be closed."""
    try:
        say(text, file)
    except OSError:
        forget_stdout()


def show_sample(run: training.Run) -> None:
    """Print what the trained model does, and the command that shows more."""
    text = run.task.final_sample(run.best_model())
    print("\n" + "─" * 72)
    say_text(text)
    print("─" * 72 + "\n")
    say(f"the run is in {run.folder}; for more of it:")
    say(f"  {run.task.command(run.folder)}")

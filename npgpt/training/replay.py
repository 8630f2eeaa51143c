"""Time travel: the steps of a training run again, bit for bit, and the history of one weight.

A step is a function of the parameters, the optimizer's means, the seed and the step's number. So
from any checkpoint, or from the initialization, a run can be taken to any step again: on the same
data and in the same environment, both of which the run has noted.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

import autograd
from autograd.console import Console
from autograd.schema import fit
from npgpt.errors import UserError
from npgpt.hub import find_model
from npgpt.training.config import TrainConfig
from npgpt.training.data import n_predicted
from npgpt.training.loop import Run
from npgpt.training.memory import keep_freed_memory
from npgpt.training.prepare import initial_model
from npgpt.training.run import open_run
from npgpt.training.state import Progress, Setting, environment, hash_parameters
from npgpt.weights.load import load_pretrained


class Replay:
    """A run that takes its steps again, and writes nothing.

    Update n leads from step n to step n + 1.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    first, last : int
        The updates that are wanted, both included; to the last one that was saved if not given.
    force : bool
        Go on although the environment, or what comes out, is not what it was.

    Attributes
    ----------
    run : Run
        As it stands before update ``run.progress.step``.
    last : int
    origin : str
        What it began from.
    notes : list of str
        What is not certain about it.

    Raises
    ------
    UserError
        If the folder holds no run, or the run has no such updates; if its data, its environment or
        the model that it began with have changed.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt.models.config import Steps
    >>> from npgpt.training.config import TrainConfig
    >>> from npgpt.training.run import start
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = start(TrainConfig(out_dir=folder, n_layer=1, n_embd=8, batch_size=2))
    ...     losses = [run.update()[0] for _ in range(3)]
    ...     replay = Replay(folder, 2, 2)
    ...     replay.seek(2)
    ...     replay.run.backward() == losses[2]
    True
    """

    def __init__(
        self, folder: str | Path, first: int = 0, last: int | None = None, *, force: bool = False
    ) -> None:
        keep_freed_memory()
        self.run = run = open_run(Path(folder))
        self.force = force
        self.notes: list[str] = []
        saved = run.progress.step
        n = max(saved, run.config.max_iters)
        self.last = saved - 1 if last is None else last
        if last is None and saved == 0:
            raise UserError(f"{folder} has saved no update yet; say which is the last one wanted")
        for step in (first, self.last):
            if not 0 <= step < n:
                raise UserError(f"{folder} has no update {step}: it takes {n}, counted from 0")
        if first > self.last:
            raise UserError(f"update {first} comes after update {self.last}")
        if self.last >= saved:
            self.notes.append(f"saved at step {saved}: what follows is what the run would do")
        self._settings = _settings(run)
        self.origin = self._rewind(first)
        self._demand_environment()

    def seek(self, step: int) -> None:
        """Take the updates before a step; the run then stands there, ready for that one."""
        for _ in tracked(range(self.run.progress.step, step)):
            self._configure()
            self.run.update()
        self._configure()

    # ---- where it begins

    def _rewind(self, step: int) -> str:
        """Put the run at the latest step up to one that is known; return where that is kept."""
        run, history = self.run, self.run.history
        known = run.files.numbered_states() | {run.progress.step: run.files.state}
        for n in sorted((n for n in known if n <= step), reverse=True):
            run.load_state(known[n])
            if run.progress.step == n and _until(n, run.history) == _until(n, history):
                return str(known[n].relative_to(run.folder))
            # else it is left over from a course that a resumed run has not taken again
        source = run.config.init_from
        base = None if source == "scratch" else load_pretrained(find_model(source))
        model = initial_model(run.model.config, run.config.seed, base)
        self.run = dataclasses.replace(run, model=model, progress=Progress())
        return "the initialization" if base is None else source

    # ---- what must be as it was

    def _demand_environment(self) -> None:
        here = environment()
        begin = len(_until(self.run.progress.step + 1, self._settings)) - 1
        different: dict[str, None] = {}
        for setting in _until(self.last + 1, self._settings)[begin:]:
            then = setting["environment"]
            if then is None:
                self.notes.append(
                    "the run does not say in which environment it was computed, and whether its "
                    "configuration was ever changed"
                )
                continue
            for key in {**then, **here}:
                if then.get(key) != here.get(key):
                    different[f"{key} {then.get(key)}, here {here.get(key)}"] = None
        if different and self.force:
            self.notes.append(f"computed with {'; '.join(different)}: the numbers may differ")
        elif different:
            raise UserError(
                f"{self.run.folder} was computed with {'; '.join(different)}. Make it as it was "
                "(OPENBLAS_NUM_THREADS and AUTOGRAD_KERNELS set threads and kernels), or add "
                "--force: the numbers may then differ"
            )

    def _configure(self) -> None:
        """Let hold what held at this step, after a check that the parameters are those it had."""
        run = self.run
        setting = _until(run.progress.step + 1, self._settings)[-1]
        run.configure(fit(setting["config"], TrainConfig, "the history's config"))
        run.model.train()
        known = setting["parameters"] if setting["step"] == run.progress.step else None
        if known not in (None, hash_parameters(run.model)) and not self.force:
            what = "began with" if run.progress.step == 0 else f"had at step {run.progress.step}"
            raise UserError(
                f"the parameters are not those that {run.folder} {what}: {self.origin}, where the "
                "replay began, or the program has changed. --force goes on with them"
            )


def tracked(steps: range) -> Iterable[int]:
    """Yield steps; in a terminal, with a bar that shows how far they are."""
    console = Console(stderr=True)
    hidden = len(steps) < 2 or not console.is_terminal
    return track(steps, "replaying", console=console, transient=True, disable=hidden)


def _settings(run: Run) -> list[Setting]:
    """Return a run's history from step 0 on; of older runs, what came before it was noted."""
    history = run.history
    if history and history[0]["step"] == 0:
        return history
    config = history[0]["config"] if history else dataclasses.asdict(run.config)
    return [{"step": 0, "parameters": None, "config": config, "environment": None}, *history]


def _until(step: int, history: list[Setting]) -> list[Setting]:
    """Return the part of a history that had begun before a step."""
    return [setting for setting in history if setting["step"] < step]


# ---- one weight


@dataclass
class Move:
    """What an update did to a weight.

    Attributes
    ----------
    step : int
    loss : float
        Of the step's batches.
    value : float
        Before the update.
    gradient, clipped : float
        Before and after clipping.
    change : float
        By the update.
    moved : float
        By the step's batches, in this update and in all those after it that are looked at: Adam
        keeps a running mean of the gradients, so that each has a part in every later update.
    """

    step: int
    loss: float
    value: float
    gradient: float
    clipped: float = 0.0
    change: float = 0.0
    moved: float = 0.0


@dataclass
class History:
    """What updates did to a weight; all its parts add up to the way that the weight has gone.

    Attributes
    ----------
    moves : list of Move
        One an update.
    before : float
        By what the running mean held already: by the batches before the first update.
    decay : float
        By weight decay.
    """

    moves: list[Move]
    before: float
    decay: float


def follow(replay: Replay, name: str, index: tuple[int, ...], first: int = 0) -> History:
    """Take the updates from one to the last, and return what each did to a weight."""
    moves, slopes = [], []  # and what a running mean of 1 would have changed
    replay.seek(first)
    run, optimizer = replay.run, replay.run.optimizer
    parameter = optimizer.parameters[name]
    mean, decay = float(optimizer.means[name][index]), 0.0
    for step in tracked(range(first, replay.last + 1)):
        replay.seek(step)
        loss = run.backward()
        gradient: Any = parameter.grad
        move = Move(step, loss, float(parameter.numpy()[index]), float(gradient.numpy()[index]))
        _, lr = run.descend()
        move.clipped = float(gradient.numpy()[index])  # clipping is in place
        move.change = float(parameter.numpy()[index]) - move.value
        moves.append(move)
        if parameter.ndim >= 2:
            decay -= lr * optimizer.weight_decay * move.value
        beta1, beta2 = optimizer.betas
        square = float(optimizer.squares[name][index]) / (1 - beta2**optimizer.n_updates)
        size = lr / (1 - beta1**optimizer.n_updates)
        slopes.append((-size / (math.sqrt(square) + optimizer.eps), beta1))
    ahead = 0.0  # what the rest of the updates make of the mean as it is after this one
    for move, (slope, beta1) in zip(reversed(moves), reversed(slopes), strict=True):
        ahead += slope
        move.moved = (1 - beta1) * move.clipped * ahead
        ahead *= beta1
    return History(moves, before=mean * ahead, decay=decay)


def by_sequence(run: Run, name: str, index: tuple[int, ...]) -> list[float]:
    """Return what each sequence of this step's batches adds to the gradient of a weight."""
    parameter = run.optimizer.parameters[name]
    batches = run.task.batches(run.progress.step)
    counts = [n_predicted(batch.targets) for batch in batches]
    parts = []
    with run.dropout():
        for batch in batches:
            losses = run.task.losses(run.model, batch)  # (B, T)
            for b in range(len(batch.inputs)):
                share = np.zeros(losses.shape, losses.dtype)
                share[b] = 1 / sum(counts)
                gradient = autograd.grad(losses, parameter, share, retain_graph=True)
                parts.append(float(gradient.numpy()[index]))
    return parts


def find_weight(run: Run, text: str) -> tuple[str, tuple[int, ...]]:
    """Return name and index of a weight, of ``name[i, j]``; a UserError if it is none of a run."""
    name, bracket, inside = text.partition("[")
    name = name.strip()
    parameters = run.optimizer.parameters
    if name not in parameters:
        close = difflib.get_close_matches(name, parameters, 3, 0.0)
        raise UserError(
            f"--param names no parameter of {run.folder}: {name!r}; nearest are {', '.join(close)}"
        )
    shape = parameters[name].shape
    try:
        index = tuple(int(i) for i in inside.removesuffix("]").split(","))
    except ValueError:
        index = ()
    if len(index) != len(shape) or not inside.endswith("]"):
        example = ",".join("0" for _ in shape)
        raise UserError(
            f"{name} has the shape {list(shape)}: name one weight of it, as in '{name}[{example}]'"
        )
    if not all(-n <= i < n for i, n in zip(index, shape, strict=True)):
        raise UserError(f"{name}{list(index)} is out of range: the shape is {list(shape)}")
    return name, tuple(i % n for i, n in zip(index, shape, strict=True))

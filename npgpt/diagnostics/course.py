"""A training run for a page: its losses, the pass of each update, and what moved a weight."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np

from autograd.escape import shown
from autograd.page.views import View
from autograd.stepper import Trace, stopping_at_backward
from autograd.stepper.stops import CommandError
from npgpt.diagnostics.axis_names import name_axes, name_token
from npgpt.diagnostics.views import ModelInsight
from npgpt.errors import UserError
from npgpt.models.gpt import GPT
from npgpt.options import quoted
from npgpt.training.curve import read_metrics
from npgpt.training.follow import (
    Preview,
    Sequence,
    Shares,
    find_movers,
    follow,
    preview_update,
    read_sequences,
)
from npgpt.training.loop import Run
from npgpt.training.optim import decays, scale_to
from npgpt.training.replay import Replay
from npgpt.training.run import open_run

MOST_POINTS = 2000  # of a loss curve
MOST_SEQUENCES = 64  # of a batch that are listed
MOST_SHARED = 1 << 20  # weights: of a larger model, each parameter is asked about by itself
MOST_MOVERS = 8  # sequences that are listed with what they add to a gradient


class Course:
    """A run whose updates are replayed, one after the other, for a page.

    Parameters
    ----------
    folder : str
        The run folder.
    force : bool
        Go on although the environment is not that of the run (`Replay`).

    Attributes
    ----------
    n : int
        How many updates can be shown: those that the run has saved, or if it has saved none, those
        that it would do.
    """

    def __init__(self, folder: str, force: bool = False) -> None:
        self.folder, self.force = folder, force
        run = open_run(Path(folder))
        saved = run.progress.step
        self.n = saved or run.config.max_iters
        self.saved = sorted({0, *(n for n in run.files.numbered_states() if n < self.n)})
        self.losses, self.seconds = read_curve(run.folder, run.tokens_per_update)
        self.replay: Replay | None = None
        self.shares: Shares | None = None  # of this update, when a weight is asked about
        self._entry: dict[str, Any] = {}
        self.traces: list[Trace] = []  # of the batches of this update

    def go(self, step: Any, batch: Any = 0) -> Trace:
        """Replay the run up to an update, and return the pass of one of its batches.

        Raises
        ------
        CommandError
            If the run has no such update, or it cannot be replayed here.
        """
        if type(step) is not int or not 0 <= step < self.n:
            raise CommandError(f"the run has the updates 0 to {self.n - 1}")
        try:
            if self.replay is None or step != self.run.progress.step:
                self._replay(step)
            self.run.model.train()  # it may have read a text in between
        except UserError as error:
            raise CommandError(str(error)) from None
        if type(batch) is not int or not 0 <= batch < len(self.traces):
            raise CommandError(f"the update has the batches 0 to {len(self.traces) - 1}")
        self._entry = self._describe(batch)
        return self.traces[batch]

    @property
    def run(self) -> Run:
        """The run before the update that was replayed last; CommandError if a replay failed."""
        if self.replay is None:
            raise CommandError("the last replay failed: choose an update of the run")
        return self.replay.run

    @property
    def notes(self) -> list[str]:
        """Reasons why the numbers may not be those of the run."""
        return self.replay.notes if self.replay else []

    def _replay(self, step: int) -> None:
        replay, last = Replay(self.folder, step, step, force=self.force), self.replay
        if last and replay.run.progress.step < last.run.progress.step <= step:
            last.last, last.notes = step, replay.notes  # it is nearer than a state that was saved
            replay = last
        self.replay, self.shares, self.traces = None, None, []
        n, begin = step - replay.run.progress.step, time.monotonic()
        replay.seek(step)
        if n:
            self.seconds = (time.monotonic() - begin) / n
        run = replay.run
        with stopping_at_backward(self.traces.append):
            self.loss = run.backward()
        if not self.traces:
            raise UserError(f"update {step} of {self.folder} has no backward pass")
        self.preview = preview_update(run)
        self.sequences = read_sequences(run)
        update = update_view(self.preview, run.config.grad_clip)
        for trace in self.traces:
            name_axes(trace.recording, run.model, run.tokenizer)
            trace.insight = UpdateInsight(run.model, run.tokenizer, trace, update)
        self.replay = replay

    # ---- what the page shows

    def entry(self) -> dict[str, Any]:
        """Return what a page shows of the run, and of the update that `go` returned last."""
        return self._entry

    def _describe(self, batch: int) -> dict[str, Any]:
        order = np.argsort([-each.loss for each in self.sequences], kind="stable").tolist()
        return {
            "name": shown(self.folder),
            "n": self.n,
            "step": self.run.progress.step,
            "batch": batch,
            "batches": len(self.traces),
            "loss": self.loss,
            "losses": self.losses,
            "saved": self.saved,
            "seconds": self.seconds,
            "command": f"npgpt step --run {quoted(self.folder)}",
            "notes": [*map(shown, self.notes)],
            "sequences": [
                [each.loss, *self._written(each, each.losses)]
                for each in (self.sequences[i] for i in order[:MOST_SEQUENCES])
            ],
            "others": max(0, len(order) - MOST_SEQUENCES),
        }

    def _written(self, sequence: Sequence, numbers: Any) -> list[Any]:
        """Return the place of a sequence, its text, and its tokens with a number each."""
        names = [name_token(self.run.tokenizer, i) for i in sequence.tokens]
        pairs = [[name, float(x)] for name, x in zip(names, numbers, strict=True)]
        return [shown(sequence.place), "" if pairs else shown(sequence.text), pairs]

    # ---- one weight

    def why(self, name: str, place: tuple[int, ...]) -> dict[str, Any]:
        """Return what moves a weight in this update: the sequences of the batches, and AdamW.

        Empty, if the name is none of a parameter that is trained.
        """
        if self.replay is None or name not in self.preview.gradients:
            return {}
        if self.shares is None or name not in self.shares.names:
            sizes = sum(x.size for x in self.preview.gradients.values())
            names = self.preview.gradients if sizes <= MOST_SHARED else [name]
            self.shares = Shares(self.run, names)
        movers = find_movers(self.run, name, place, self.shares, self.sequences)
        rest = movers[MOST_MOVERS:]
        return {
            "gradient": float(self.preview.gradients[name][place]),
            "moved": [
                [each.adds, *self._written(each.sequence, each.shares), each.sequence.loss]
                for each in movers[:MOST_MOVERS]
            ],
            "unlisted": [len(rest), sum(each.adds for each in rest)],
            "update": self._update_of(name, place),
        }

    def _update_of(self, name: str, place: tuple[int, ...]) -> list[list[str]]:
        """Return the lines of AdamW for one weight: a name, its numbers, and the result."""
        run, found = self.run, self.preview
        w, mean, square = (float(x[place]) for x in found.before[name])
        w_after, mean_after, square_after = (float(x[place]) for x in found.after[name])
        scale, g = scale_to(found.norm, run.config.grad_clip), float(found.gradients[name][place])
        beta1, beta2 = run.optimizer.betas
        n, rate = run.optimizer.n_updates + 1, found.rate
        decay = run.optimizer.weight_decay if decays(name, run.optimizer.parameters[name]) else 0
        root = math.sqrt(square_after / (1 - beta2**n)) + run.optimizer.eps
        change = -rate / (1 - beta1**n) * mean_after / root
        lines: list[tuple[str, str, float]] = [("gradient g", "the sum over the batches", g)]
        if scale < 1:
            clip = f"{g:.4g} · {scale:.4g}, to the norm {run.config.grad_clip:g}"
            lines.append(("clipped g", clip, g * scale))
        g *= scale
        lines += [
            ("mean m", f"{beta1:g} · {mean:.4g} + {1 - beta1:.4g} · {g:.4g}", mean_after),
            ("mean of squares v", f"{beta2:g} · {square:.4g} + {1 - beta2:.4g} · ({g:.4g})²",
             square_after),
            ("step", f"-{rate:.4g} / (1 - {beta1:g}^{n}) · m / (√(v / (1 - {beta2:g}^{n})) + "
             f"{run.optimizer.eps:g})", change),
        ]  # fmt: skip
        if decay:
            lines.append(("weight decay", f"-{rate:.4g} · {decay:g} · {w:.4g}", -rate * decay * w))
        lines.append(("weight", f"before {w:.7g}", w_after))
        return [[what, numbers, f"{x:.7g}"] for what, numbers, x in lines]

    def follow(self, name: str, place: tuple[int, ...], first: Any, last: Any) -> dict[str, Any]:
        """Replay updates, and return what each did to a weight (`npgpt.training.follow.follow`).

        Raises
        ------
        CommandError
            If the run has no such updates.
        """
        if type(first) is not int or type(last) is not int or not 0 <= first <= last < self.n:
            raise CommandError(f"from and to are updates of the run, 0 to {self.n - 1}")
        if self.replay is None or name not in self.preview.gradients:
            raise CommandError("this is no weight that the run trains")
        try:
            replay, begin = Replay(self.folder, first, last, force=self.force), time.monotonic()
            n = last + 1 - replay.run.progress.step
            history = follow(replay, name, place, first)
        except UserError as error:
            raise CommandError(str(error)) from None
        self.seconds = (time.monotonic() - begin) / n
        return {
            "moves": [
                [move.step, move.value, move.gradient, move.change, move.moved, move.loss]
                for move in history.moves
            ],
            "before": history.before,
            "decay": history.decay,
        }


class UpdateInsight(ModelInsight):
    """What a page shows beside the pass of an update: also what the update changes."""

    def __init__(self, model: GPT, tokenizer: Any, trace: Trace, update: View) -> None:
        super().__init__(model, tokenizer)
        self._recorded, self._update = ref(trace), update

    def views(self, trace: Trace) -> list[View]:
        """Return what the update changes, unless the pass was changed, and the model's views."""
        update = [self._update] if trace is self._recorded() else []
        return update + super().views(trace)


def read_curve(folder: Path, tokens_per_update: int) -> tuple[dict[str, Any], float | None]:
    """Return the losses of a run by update, and the seconds of an update; None if not known.

    The training loss of update n is that of its batch. The validation loss at n is that before
    update n.
    """
    losses: dict[str, list[tuple[int, float]]] = {"train": [], "val": []}
    seconds = None
    path = folder / "metrics.jsonl"
    for _, values in read_metrics(path) if path.exists() else ():
        if "lr" in values:
            losses["train"].append((values["step"] - 1, values.get("train_loss", math.nan)))
            if rate := values.get("tokens_per_second"):
                seconds = tokens_per_update / rate
        elif "train_loss" in values:
            losses["val"].append((values["step"], values.get("val_loss", math.nan)))
    found = {}
    for name, points in losses.items():
        finite = [point for point in points if math.isfinite(point[1])]
        found[name] = finite[:: -(-len(finite) // MOST_POINTS) or 1]
    return found, seconds if seconds and math.isfinite(seconds) else None


def update_view(preview: Preview, clip: float) -> View:
    """Return a table of what an update changes, with a row for each parameter."""
    rows = list(preview.after)
    columns = [
        "norm of the gradient",
        "norm of the weights",
        "norm of the change",
        "change / weights",
    ]
    numbers = np.array([
        [np.linalg.norm(preview.gradients[name]), weights := np.linalg.norm(before),
         change := np.linalg.norm(preview.after[name][0] - before),
         change / weights if weights else 0.0]
        for name, (before, *_) in preview.before.items()
    ])  # fmt: skip
    scale = scale_to(preview.norm, clip)
    clipped = f", clipped to {clip:g} (times {scale:.4g})" if scale < 1 else ""
    return View(
        "what the update changes",
        f"The gradient has the norm {preview.norm:.4g}{clipped}. AdamW then takes a step with the "
        f"learning rate {preview.rate:.4g}. The norms of gradients are those before clipping.",
        rows,
        columns,
        [[f"{x:.3g}" for x in line] for line in numbers],
        numbers / (np.abs(numbers).max(axis=0) + 1e-300),
        [[f"{name}: {column} {x:.6g}" for column, x in zip(columns, line, strict=True)]
         for name, line in zip(rows, numbers, strict=True)],
    )  # fmt: skip

"""What training shows: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from autograd.console import Console
from autograd.escape import shown


class OutputLost(Exception):
    """Nothing can be printed any more: a reader such as ``head`` ended, or the terminal closed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.errno = error.errno


@contextmanager
def showing() -> Iterator[None]:
    """Raise `OutputLost` in place of an error of writing in the block."""
    try:
        yield
    except OSError as error:
        raise OutputLost(error) from None


class Display:
    """Shows the step, the losses, tokens per second and the time left.

    In a terminal, a line at the bottom is updated. Elsewhere, a line is printed every 10 seconds.

    Parameters
    ----------
    total, start : int
        How many updates the run takes, and how many of them were done before.
    console : Console, optional
        Where to print; standard output if not given.

    Raises
    ------
    OutputLost
        By every method, if nothing can be printed.
    """

    def __init__(self, total: int, start: int = 0, console: Console | None = None) -> None:
        self.console = console or Console()
        self._losses: dict[str, float] = {}  # those that are known: after --resume, none yet
        self._rate = 0.0
        self._shown = time.monotonic()
        self._progress = Progress(
            TextColumn("step {task.completed:>5.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            speed_estimate_period=60,
        )
        self._task = self._progress.add_task("train", total=total, completed=start, losses="")
        self._step = start

    def __enter__(self) -> None:
        with showing():
            self._progress.start()

    def __exit__(self, *exception: Any) -> None:
        with suppress(OSError):
            self._progress.stop()

    def _print(self, line: str) -> None:
        with showing():
            self.console.print(line, soft_wrap=True)

    def _update(self) -> None:
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in self._losses.items())
        if self.console.width >= 70:  # in a narrower terminal, the step would not be seen
            losses += f"  {self._rate:>7,.0f} tokens/s"
        with showing():
            self._progress.update(self._task, completed=self._step, losses=losses)

    def step(self, step: int, loss: float, rate: float) -> None:
        """Show the numbers of an update."""
        self._step, self._rate = step, rate
        self._losses["train"] = loss
        self._update()
        if not self.console.is_terminal and time.monotonic() - self._shown > 10:
            self._shown = time.monotonic()
            self._print(f"step {step:>6}  batch {loss:.4f}  {rate:,.0f} tokens/s")

    def evaluated(self, step: int, train_loss: float, val_loss: float, **others: float) -> None:
        """Show an evaluation, on a line of its own that stays."""
        self._step = step
        self._losses = {"train": train_loss, "val": val_loss}
        self._update()
        self._shown = time.monotonic()
        more = "".join(f"  {name} {value:.4f}" for name, value in others.items())
        self._print(f"step {step:>6}  train {train_loss:.4f}  val {val_loss:.4f}{more}")

    def sampled(self, text: str) -> None:
        """Show a sample; its control characters are spelled out, and not sent to the terminal."""
        for line in text.splitlines():
            self._print(f"    │ {shown(line)}")

    def stopped_early(self, n_worse: int) -> None:
        """Show that the training ended because no evaluation was better."""
        last = "evaluation" if n_worse == 1 else f"{n_worse} evaluations"
        self._print(f"stopped early: the last {last} brought no better loss")

    def finished(self, loss: float, best_step: int, seconds: float) -> None:
        """Show the result."""
        self._print(
            f"done in {seconds:.0f} s: loss {loss:.4f} over the whole validation split "
            f"(weights of step {best_step})"
        )

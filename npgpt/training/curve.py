"""The loss curve of a run: as text for the terminal, and as a picture in the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from autograd.files import replacing
from autograd.reading import parse_json, read_bytes
from autograd.schema import fit
from npgpt.errors import UserError
from npgpt.models.config import Steps

WIDTH, HEIGHT = 60, 12  # of the plot in the terminal, in characters


class Line(TypedDict):
    """A line of ``metrics.jsonl``; the line of an update has a learning rate, others have none."""

    step: Steps
    train_loss: NotRequired[float]
    val_loss: NotRequired[float]
    lr: NotRequired[float]
    tokens_per_second: NotRequired[float]


def read_metrics(path: Path) -> Iterator[tuple[bytes, Line]]:
    """Yield the lines of a ``metrics.jsonl`` with their values, without damaged lines."""
    for line in bytes(read_bytes(path)).splitlines():
        try:
            values: Line = fit(parse_json(line, path), Line)
        except UserError:
            continue  # the run was killed while it wrote this line
        yield line, values


def read_losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and losses, ``train`` and ``val``, from a run's ``metrics.jsonl``."""
    losses: dict[str, list[tuple[int, float]]] = {"train": [], "val": []}
    for _, values in read_metrics(folder / "metrics.jsonl"):
        if "train_loss" not in values:
            continue
        if "lr" in values:  # an update; without a learning rate, the loss is of an evaluation
            losses["train"].append((values["step"], values["train_loss"]))
        elif "val_loss" in values:
            losses["val"].append((values["step"], values["val_loss"]))
    return losses


def read_final_loss(folder: Path) -> float | None:
    """Return the loss over the whole validation split, which a run records at its end."""
    found = None
    for _, values in read_metrics(folder / "metrics.jsonl"):
        if "val_loss" in values and "train_loss" not in values:
            found = values["val_loss"]
    return found


def loss_curve(folder: Path) -> str:
    """Return the loss curve as text: ``.`` is the training loss, ``o`` the validation loss.

    The text is empty for a run with fewer than two evaluations.
    """
    losses = read_losses(folder)
    points = losses["train"] + losses["val"]
    if len({step for step, _ in losses["val"]}) < 2:
        return ""
    last = max(step for step, _ in points)
    signs = {".": losses["train"], "o": losses["val"]}
    shares = {sign: [(step / last, loss) for step, loss in signs[sign]] for sign in signs}
    return draw_points(shares, ("0", f"step {last}"), "loss:  . train  o val")


def draw_points(
    series: Mapping[str, Sequence[tuple[float, float]]], ends: tuple[str, str], legend: str
) -> str:
    """Return a picture of losses as text.

    Parameters
    ----------
    series : mapping of str to sequence of (float, float)
        The places, from 0 on the left to 1 on the right, and the losses, by the sign that stands
        for each. Where two signs fall on one place, the later one is seen.
    ends : (str, str)
        What stands below the left end of the axis, and below the right end.
    legend : str
    """
    losses = [loss for points in series.values() for _, loss in points]
    low, high = min(losses), max(losses)
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    for sign, points in series.items():
        for share, loss in points:
            height = (loss - low) / ((high - low) or 1)
            row = HEIGHT - 1 - round(height * (HEIGHT - 1))
            rows[row][round(share * (WIDTH - 1))] = sign
    labels = {0: high, HEIGHT // 2: high + (low - high) * (HEIGHT // 2) / (HEIGHT - 1)}
    labels[HEIGHT - 1] = low
    lines = [
        f"{f'{labels[i]:.3f}' if i in labels else '':>8} |{''.join(row)}".rstrip()
        for i, row in enumerate(rows)
    ]
    first, last = ends
    lines.append(f"{'':>8} +{'-' * WIDTH}")
    lines.append(f"{'':>10}{first:<{WIDTH - len(last)}}{last}")
    lines.append(f"{'':>10}{legend}")
    return "\n".join(lines)


def write_loss_png(folder: Path) -> bool:
    """Draw the loss curve into ``loss.png``, if matplotlib is installed; return whether it is."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    losses = read_losses(folder)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, width, marker in (("train", 1, ""), ("val", 2, "o")):
        if losses[name]:
            steps, values = zip(*losses[name], strict=True)
            axes.plot(steps, values, label=name, lw=width, marker=marker, ms=4)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend()
    with replacing(folder / "loss.png") as file:
        FigureCanvasAgg(figure).print_png(file)
    return True

"""Writing ``metrics.jsonl``: a line of numbers for each logged update and each evaluation."""

from __future__ import annotations

import json
from pathlib import Path

from autograd.files import replacing
from npgpt.files import append
from npgpt.training.curve import read_metrics


class Metrics:
    """Appends lines to ``metrics.jsonl``.

    A run that is killed may have written lines after it saved its state. A resumed run computes
    these updates again, so the lines of steps after `step` are removed.

    Parameters
    ----------
    path : Path
    step : int
        The step at which the run goes on.
    """

    def __init__(self, path: Path, step: int) -> None:
        lines = []
        if path.exists():
            lines = [line + b"\n" for line, values in read_metrics(path) if values["step"] <= step]
        with replacing(path) as file:
            file.writelines(lines)
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("ab", buffering=0)

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, step: int, **values: float) -> None:
        """Append a line; if the disk is full, nothing of the line is written."""
        rounded = {key: float(f"{value:.7g}") for key, value in values.items()}
        append(self._file, (json.dumps({"step": step, **rounded}) + "\n").encode())

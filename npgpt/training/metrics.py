"""The lines of metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from autograd.files import replacing
from npgpt.files import append
from npgpt.training.curve import read_metrics


class Metrics:
    """The lines of ``metrics.jsonl``; those after the state that a run resumes from are dropped."""

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
        """Append a line: all of it, or nothing if the disk is full."""
        rounded = {key: float(f"{value:.7g}") for key, value in values.items()}
        append(self._file, (json.dumps({"step": step, **rounded}) + "\n").encode())

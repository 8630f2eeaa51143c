"""The result of an evaluation: numbers with their intervals, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograd.reading import hash_file
from npgpt.evaluation.metrics import Estimate


@dataclass
class Table:
    """A table of texts: what the columns are, and the rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """Return the table in Markdown, with columns of one width.

        Examples
        --------
        >>> print(Table(["label", "F1"], [["good", "0.9"], ["bad", "0.75"]]))
        | label | F1   |
        |-------|------|
        | good  | 0.9  |
        | bad   | 0.75 |
        """
        cells = [
            [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
            for row in (self.columns, *self.rows)
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in cells]
        lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
        return "\n".join(lines)


@dataclass
class Result:
    """What an evaluation has found.

    Attributes
    ----------
    task : str
        The name of the evaluation, such as ``classification``.
    model : str
        The folder or file of the model.
    data : dict of str to str
        The files that were read, with the SHA-256 of each.
    settings : dict
        The options of the command, except ``--json``.
    n : int
        How many examples there are.
    metrics : dict of str to Estimate
    tables : dict of str to Table
        Tables beside the numbers, such as a confusion matrix.
    """

    task: str
    model: str
    data: dict[str, str]
    settings: dict[str, Any]
    n: int
    metrics: dict[str, Estimate]
    tables: dict[str, Table] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the values for a JSON file, with None for NaN; `from_dict` reads them."""
        return {
            "task": self.task,
            "model": self.model,
            "data": self.data,
            "settings": self.settings,
            "n": self.n,
            "metrics": {
                name: {key: x if math.isfinite(x) else None for key, x in found._asdict().items()}
                for name, found in self.metrics.items()
            },
            "tables": {name: vars(table) for name, table in self.tables.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """Return the result that `to_dict` has written."""
        metrics = {
            name: Estimate(**{key: math.nan if x is None else x for key, x in found.items()})
            for name, found in values["metrics"].items()
        }
        tables = {name: Table(**table) for name, table in values["tables"].items()}
        return cls(**{**values, "metrics": metrics, "tables": tables})

    @property
    def title(self) -> str:
        """What was evaluated."""
        return f"{self.model} on {', '.join(self.data)}, n = {self.n:,}"

    def metric_table(self) -> Table:
        """Return the table of the numbers with their intervals."""
        rows = [
            [name, f"{found.value:.4g}", f"{found.low:.4g} to {found.high:.4g}"]
            for name, found in self.metrics.items()
        ]
        return Table(["metric", "value", "95 % interval"], rows)

    def __str__(self) -> str:
        """Return the tables in Markdown."""
        parts = [
            f"{self.model} on {', '.join(self.data)}, n = {self.n:,}",
            str(self.metric_table()),
        ]
        for name, table in self.tables.items():
            parts += [name, str(table)]
        return "\n\n".join(parts)


def hash_data(*names: str) -> dict[str, str]:
    """Return the SHA-256 of each file; for a folder, of each file in it; a pipe has none."""
    found: dict[str, str] = {}
    for name in filter(None, names):
        path = Path(name).expanduser()
        inside = (
            sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        )
        for each in inside:
            if not each.name.startswith("."):
                found[str(each)] = hash_file(each) if each.is_file() else ""
    return found

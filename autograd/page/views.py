"""A view: a table that a page shows beside a pass, computed by whoever made the trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from numpy import ndarray

from autograd.escape import shown


@dataclass(frozen=True)
class View:
    """A table of short texts, each on the colour of a number.

    Parameters
    ----------
    title, note : str
        What the table is, and how to read it.
    rows, columns : list of str
        The labels.
    cells : list of list of str
        A text for each row and column.
    shares : ndarray, (rows, columns)
        The colour of each cell: 1 is blue, -1 orange, and 0 clear.
    tips : list of list of str
        What a click on a cell says.

    Examples
    --------
    >>> import numpy as np
    >>> view = View("best", "", ["layer 0"], ["a", "b"], [["x", "y"]], np.ones((1, 2)),
    ...             [["x 90 %", "y 80 %"]])
    >>> view.entry()["shares"]
    [[1.0, 1.0]]
    """

    title: str
    note: str
    rows: list[str]
    columns: list[str]
    cells: list[list[str]]
    shares: ndarray
    tips: list[list[str]]

    def entry(self) -> dict[str, Any]:
        """Return the view as data for JSON, with no character that a screen would obey.

        A share that is not finite has no colour.
        """
        found = asdict(self) | {"shares": self.shares.clip(-1, 1).tolist()}
        for name in ("rows", "columns"):
            found[name] = [*map(shown, found[name])]
        for name in ("cells", "tips"):
            found[name] = [[*map(shown, line)] for line in found[name]]
        return found

"""Tables for notebooks, and whether the program runs in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from autograd.escape import shown

MOST = 60  # rows


def in_notebook() -> bool:
    """Return whether a kernel of Jupyter runs the program: its outputs can be pages."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table. The texts are escaped, and only the first rows of many are shown.

    The table sets no colours, so that it fits light and dark pages.

    Examples
    --------
    >>> print(table("2 < 3", ["name"], [["<b>"]]).splitlines()[2])
    <tr><td style='text-align: left'>&lt;b&gt;</td></tr>
    """
    rows = list(rows)
    lines = [_row("th", head), *(_row("td", row) for row in rows[:MOST])]
    if len(rows) > MOST:
        lines.append(_row("td", [f"… and {len(rows) - MOST} more", *[""] * (len(head) - 1)]))
    title = f"<caption style='text-align: left'>{escape(shown(caption))}</caption>"
    return "\n".join([f"<table>{title}<tbody>", *lines, "</tbody></table>"])


def _row(kind: str, cells: Sequence[Any]) -> str:
    inside = "".join(
        f"<{kind} style='text-align: left'>{escape(shown(str(cell)))}</{kind}>" for cell in cells
    )
    return f"<tr>{inside}</tr>"

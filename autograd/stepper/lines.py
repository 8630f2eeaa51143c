"""Lines that fit a terminal: broken at spaces and continued with an indentation; nothing is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.text import Text

from autograd.escape import OBEYED, shown_text

DEEPER = 4  # columns by which a continued line is indented further
OPERATORS = {"=", "+=", "+", "-", "*", "@", "·", "/", "→"}


def the_others(n: int) -> str:
    """Return what terms that are not listed are called.

    >>> the_others(1), the_others(2)
    ('the other one', 'the 2 others')
    """
    return f"the {n} others" if n > 1 else "the other one"


def fold(text: Text, width: int, indent: int | None = None) -> Iterator[Text]:
    r"""Yield the lines of a text, none wider than a terminal.

    Control characters are spelled first, because that makes them wider.

    Parameters
    ----------
    text : Text
    width : int
        The number of columns.
    indent : int, optional
        The column at which a line goes on below; by default 4 more than where it begins.

    Examples
    --------
    >>> for line in fold(Text("  d(b1)_i += d(z)_i + d(w)_i"), 16):
    ...     print(line)
      d(b1)_i
          += d(z)_i
          + d(w)_i
    """
    if OBEYED.search(text.plain):
        text = Text(shown_text(text.plain), text.style)
    text = text.copy()
    text.expand_tabs(8)
    for line in text.split("\n", allow_blank=True):
        line.rstrip()
        for start, end, column in spans(line.plain, width, indent):
            yield Text(" " * column).append_text(line[start:end])


def spans(line: str, width: int, indent: int | None = None) -> list[tuple[int, int, int]]:
    """Return the parts of a line: each its start, its end, and the column where it is written.

    A part ends at a space, but not after an operator. If it has no space, it ends behind a sign,
    such as the dot of ``transformer.h``. A number that fits a line is not cut.
    """
    begin = len(line) - len(line.lstrip())
    column = min(begin + DEEPER if indent is None else indent, width // 2)
    parts, start, at = [], 0, 0
    while cell_len(line[start:]) > width - at:
        end = _end(line, start, width - at, start or begin)
        parts.append((start, start + len(line[start:end].rstrip()), at))
        start = end + len(line[end:]) - len(line[end:].lstrip())
        at = column
    return [*parts, (start, len(line), at)]


def _end(line: str, start: int, room: int, least: int) -> int:
    """Return where a part ends that begins at `start` and has room for so many columns."""
    end = start
    while end < len(line) and cell_len(line[start : end + 1]) <= room:
        end += 1
    spaces = [at for at in range(least + 1, end + 1) if line[at : at + 1] == " "]
    for at in reversed(spaces):
        if line[start:at].split()[-1] not in OPERATORS:  # which begin the next part
            return at
    signs = [match.end() for match in re.finditer(r"[^\w\s-](?!\d)|_", line[start:end])]
    return start + signs[-1] if signs and signs[-1] > 1 else max(end, start + 1)


def flow(pieces: Iterable[Text], width: int, indent: int) -> list[Text]:
    """Return lines of pieces that are not broken: one that does not fit begins another line."""
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + piece.cell_len < width:
            lines[-1].append_text(piece)
        else:
            lines.append(Text(" " * indent if lines else "").append_text(piece))
    return lines

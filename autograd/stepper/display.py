"""How a terminal shows arrays: aligned, in colours by sign and magnitude, within the width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy import ndarray
from rich.cells import cell_len, set_cell_size  # a Chinese character takes two columns
from rich.text import Text

from autograd.stepper.axes import Labels

# Colours by sign, from small to large magnitude. They are readable on light and on dark
# backgrounds.
POSITIVE = ("color(137)", "color(172)", "bold color(208)")
NEGATIVE = ("color(67)", "color(68)", "bold color(33)")
MOST_ROWS = 8  # rows of a matrix that are shown
LONGEST_LABEL = 20  # columns of the terminal for what a row stands for
WIDEST_CELL = 8  # columns of the terminal to which a number is widened for what its column is


def numbers(x: ndarray, digits: int = 4) -> tuple[list[str], list[str], str]:
    """Return an array's elements as texts of equal width, the style of each, and a common factor.

    The factor is a text such as ``× 1e-05``. It is empty if the numbers are of moderate size.
    """
    flat = x.reshape(-1)
    factor = ""
    if x.dtype.kind != "f":
        texts = [str(int(v)) if x.dtype.kind in "bui" else str(v) for v in flat]
        styles = ["dim" if not v else "" for v in flat]
    else:
        wide = flat.astype(np.float64)
        largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=0))
        if largest and not 1e-2 <= largest < 1e5:
            power = math.floor(math.log10(largest))
            factor = f"× 1e{power:+03d}"
            wide = wide / 10.0**power
        finite = wide[np.isfinite(wide)]
        short = np.allclose(finite, finite.round(1), rtol=1e-9, atol=0)  # such as 1.5
        texts = [_short(v, 1 if short else digits) for v in wide]
        styles = [_style(v, largest) for v in flat]
    width = max(map(len, texts), default=0)
    return [text.rjust(width) for text in texts], styles, factor


def one(x: Any, digits: int = 4) -> str:
    """Return a single number as text."""
    (text,), _, factor = numbers(np.asarray(x).reshape(1), digits)
    return text + factor.replace("× 1", "")


def _short(v: float, digits: int) -> str:
    if not np.isfinite(v):
        return "NaN" if np.isnan(v) else "Inf" if v > 0 else "-Inf"
    text = f"{v:.{digits}f}"
    return "0" if v == 0 else text.lstrip("-") if not float(text) else text


def _style(v: float, largest: float) -> str:
    if not np.isfinite(v):
        return "bold reverse red"
    if v == 0:
        return "dim"
    share = abs(float(v)) / largest
    return (POSITIVE if v > 0 else NEGATIVE)[(share > 0.1) + (share > 0.5)]


def matrix(
    x: Any,
    width: int,
    most_rows: int = MOST_ROWS,
    labels: Labels | None = None,
    digits: int = 4,
) -> Iterator[Text]:
    """Yield the lines that show an array.

    The middle rows and columns of a large matrix are left out. Of an array with more than two axes,
    only the first matrix is shown. With labels, rows and columns have those that are known.
    """
    x = np.asarray(x)
    if x.size == 0:
        yield Text("no elements", "dim")
        return
    if x.ndim == 0:
        yield Text(one(x, digits), numbers(x)[1][0])
        return
    lead = x.shape[:-2]
    shown = x[(0,) * len(lead)] if lead else x
    rows = shown if shown.ndim == 2 else shown[None]
    n_rows, n_columns = rows.shape
    top, bottom = (n_rows, 0) if n_rows <= most_rows else (most_rows - 2, 1)
    rows = np.concatenate([rows[:top], rows[n_rows - bottom :]])
    numbered = [*range(top), *range(n_rows - bottom, n_rows)]
    sides = _row_labels(labels, numbered, x.ndim, width)
    width -= cell_len(sides[0])
    has_texts = labels is not None and labels.has_texts(-1)
    likely = np.concatenate([rows[:, :width], rows[:, -1:]], axis=1)  # no more columns fit
    cell = max(map(len, numbers(likely, digits)[0])) + 1
    room = max(2, (width - 14) // max(cell, has_texts and WIDEST_CELL))
    left, right = (n_columns, 0) if n_columns <= room else (max(1, room - 2), 1)
    rows = np.concatenate([rows[:, :left], rows[:, n_columns - right :]], axis=1)
    texts, styles, factor = numbers(rows, digits)
    if labels is not None and has_texts:
        texts = [text.rjust(WIDEST_CELL - 1) for text in texts]
        yield _column_labels(labels, [*range(left), *range(n_columns - right, n_columns)],
                             x.ndim, cell_len(sides[0]), len(texts[0]), left)  # fmt: skip
    for i, row in enumerate(rows):
        if bottom and i == top:
            yield Text(" " * cell_len(sides[0]) + "  ⋮", "dim")
        line = Text(sides[i], "dim").append("[", "dim")
        for j in range(len(row)):
            if right and j == left:
                line.append(" …", "dim")
            k = i * len(row) + j
            line.append(" ").append(texts[k], styles[k])
        line.append(" ]", "dim")
        yield line.append(f" {factor}", "dim") if factor and i == 0 else line
    if lead and math.prod(lead) > 1:
        of = [labels.label(i, 0) for i in range(len(lead)) if labels.axes[i]] if labels else []
        named = f" ({', '.join(of)})" if of else ""
        yield Text(f"{[0] * len(lead)}{named}, the first of {math.prod(lead)}", "dim")


def _row_labels(labels: Labels | None, rows: list[int], ndim: int, width: int) -> list[str]:
    """Return what stands before each row: its label, in texts of equal width."""
    if labels is None or ndim < 2 or not labels.axes[-2]:
        return [""] * len(rows)
    texts = [labels.label(ndim - 2, i, (0,) * (ndim - 2)) for i in rows]
    size = min(max(map(cell_len, texts)), LONGEST_LABEL, width // 4)
    return [shorten(text, size) + " " for text in texts]


def _column_labels(
    labels: Labels, columns: list[int], ndim: int, indent: int, size: int, left: int
) -> Text:
    """Return the line with what each column stands for."""
    line = Text(" " * (indent + 1), "dim")
    for j, column in enumerate(columns):
        if len(columns) > left == j:
            line.append(" …")
        text = labels.label(ndim - 1, column, (0,) * (ndim - 1))
        line.append(" " + shorten(text.partition(" ")[2], size, right=True))
    return line


def shorten(text: str, size: int, right: bool = False) -> str:
    """Return a text of exactly so many columns of the terminal, at the right if asked for."""
    if cell_len(text) > size:
        return set_cell_size(text, size - 1) + "…"
    space = " " * (size - cell_len(text))
    return space + text if right else text + space

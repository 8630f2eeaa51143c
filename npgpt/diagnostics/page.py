"""Pages and pictures of numbers: heat maps of texts, matrices and attention, as HTML and SVG.

A page is one file without scripts, which reads nothing from elsewhere. All text on a page is
escaped, since a token may be any text.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from autograd.escape import shown

READABLE = 0.6  # of a colour, at most, behind text
POSITIVE, NEGATIVE = (31, 119, 180), (214, 106, 0)  # blue and orange: also for the colour-blind
THIRD = (0, 140, 100)  # bluish green, beside both

STYLE = """
:root { color-scheme: light dark; --ink: #222; --dim: #666; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --dim: #999; --paper: #161616; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; padding: 0 1rem; max-width: 70rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.note, figcaption { color: var(--dim); }
table { border-collapse: collapse; font: 13px ui-monospace, monospace; }
th { font-weight: normal; color: var(--dim); text-align: right; padding: 1px 6px; }
td { padding: 1px 6px; text-align: center; white-space: pre; border: 1px solid var(--paper); }
.scroll { overflow-x: auto; }
.text { font: 15px/2 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.text span { padding: 3px 0; border-radius: 2px; }
svg text { fill: currentColor; font: 11px ui-monospace, monospace; }
svg { max-width: 100%; height: auto; }
figure { margin: 0 0 .6rem; display: inline-block; text-align: center; }
.heads { display: flex; flex-wrap: wrap; gap: .4rem; }
.heads img { width: 6.5rem; height: 6.5rem; image-rendering: pixelated;
  border: 1px solid var(--dim); display: block; }
.large { display: none; } .large:target { display: block; }
"""


def escape(text: str) -> str:
    r"""Return a text for HTML and SVG: markup does nothing, and a control character is spelled.

    Examples
    --------
    >>> print(escape('<b title="x">\x00'))
    &lt;b title=&quot;x&quot;&gt;\x00
    """
    return html.escape(shown(text), quote=True)


def page(title: str, *parts: str) -> str:
    """Return a page of parts, which are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def note(text: str) -> str:
    """Return a paragraph that explains what is seen."""
    return f'<p class="note">{escape(text)}</p>'


def heading(text: str) -> str:
    """Return the heading of a part."""
    return f"<h2>{escape(text)}</h2>"


def text(content: str) -> str:
    """Return a text that keeps its lines and spaces."""
    lines = "\n".join(map(escape, content.split("\n")))
    return f'<p class="text">{lines}</p>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts; the first cell of a row is the name of the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = [f"<tr>{head}</tr>"]
    for name, *cells in rows:
        filled = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{filled}</tr>')
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def colour(share: float) -> str:
    """Return the colour of a number from -1 to 1: clear at 0, blue at 1, orange at -1.

    Examples
    --------
    >>> colour(0.5), colour(-2)
    ('rgba(31,119,180,0.5)', 'rgba(214,106,0,1)')
    """
    r, g, b = POSITIVE if share >= 0 else NEGATIVE
    return f"rgba({r},{g},{b},{min(abs(float(share)), 1):.3g})"


def colour_text(tokens: Sequence[str], shares: Sequence[float], titles: Sequence[str]) -> str:
    """Return a text whose tokens have the colours of numbers, and titles under the pointer."""
    spans = [
        f'<span style="background:{colour(READABLE * share)}" title="{escape(title)}">'
        f"{escape(token)}</span>"
        for token, share, title in zip(tokens, shares, titles, strict=True)
    ]
    return f'<p class="text">{"<wbr>".join(spans)}</p>'


def colour_table(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    shares: ndarray,
    titles: Sequence[Sequence[str]],
) -> str:
    """Return a table whose cells have texts, the colours of numbers (rows, columns), and titles."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = [f"<tr><th></th>{head}</tr>"]
    for name, texts, line, about in zip(rows, cells, shares, titles, strict=True):
        filled = "".join(
            f'<td style="background:{colour(READABLE * share)}" title="{escape(title)}">'
            f"{escape(text)}</td>"
            for text, share, title in zip(texts, line, about, strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{filled}</tr>')
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


CELL, LETTER = 18, 6.8  # of a heat map: the side of a cell, and the width of a letter, in pixels
LONGEST = 24  # letters of a label


def heat_map(values: ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> str:
    """Return an SVG picture of a matrix: a coloured cell for each number, which is its tooltip.

    Parameters
    ----------
    values : ndarray, (R, C)
        The number that is largest without its sign has the full colour.
    rows, columns : sequence of str
        The labels.
    title : str
        What the picture shows, for those who cannot see it.
    """
    shares = values / (np.abs(values).max(initial=0) or 1)
    left, top, axes = _axes(rows, columns)
    cells = [
        f'<rect x="{left + CELL * j:.0f}" y="{top + CELL * i:.0f}" width="{CELL}" height="{CELL}" '
        f'fill="{colour(shares[i, j])}"><title>{escape(row)}, {escape(column)}: '
        f"{values[i, j]:.3g}</title></rect>"
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
    return _svg(left + CELL * len(columns), top + CELL * len(rows), title, axes, *cells)


class Curve(NamedTuple):
    """A curve with intervals: a mean for each place, its interval, and single results."""

    name: str
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    points: Sequence[Sequence[float]] = ()


PLOT, STEP = 240, 84  # of a chart: its height, and the distance of places, in pixels


def line_chart(curves: Sequence[Curve], places: Sequence[str], axis: str, title: str) -> str:
    """Return an SVG picture of two or three curves of shares, from 0 to 1, with their intervals.

    Parameters
    ----------
    curves : sequence of Curve
        The first is blue, the second orange and the third green.
    places : sequence of str
        The labels of the places on the horizontal axis, at equal distances.
    axis : str
        What the places are.
    title : str
        What the picture shows, for those who cannot see it.
    """
    left, top, gray = 44, 28, 'fill="#808080"'
    width = left + STEP * len(places)

    def y(share: float) -> str:
        return f"{top + PLOT * (1 - share):.1f}"

    parts = []
    for share in np.linspace(0, 1, 6):
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{y(share)}" y2="{y(share)}" stroke="#808080" '
            f'stroke-opacity="0.3"/><text x="{left - 6}" y="{y(share - 0.015)}" '
            f'text-anchor="end" {gray}>{share:.1f}</text>'
        )
    for j, place in enumerate(places):
        parts.append(
            f'<text x="{left + STEP * (j + 0.5):.0f}" y="{top + PLOT + 18}" text-anchor="middle" '
            f"{gray}>{escape(place)}</text>"
        )
    middle = (left + width) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{top + PLOT + 36}" text-anchor="middle" {gray}>{escape(axis)}'
        "</text>"
    )
    name_at = left + 8
    for i, (curve, rgb) in enumerate(zip(curves, (POSITIVE, NEGATIVE, THIRD), strict=False)):
        ink = "rgb({},{},{})".format(*rgb)
        aside = 8 * (2 * i + 1 - len(curves))
        xs = [left + STEP * (j + 0.5) + aside for j in range(len(places))]
        for j, points in enumerate(curve.points):
            parts += [
                f'<circle cx="{xs[j] + (5 if i else -5):.1f}" cy="{y(point)}" r="2.5" fill="{ink}" '
                'fill-opacity="0.45"/>'
                for point in points
            ]
        for x, place, mean, low, high in zip(
            xs, places, curve.means, curve.lows, curve.highs, strict=True
        ):
            about = f"{curve.name}, {axis} {place}: {mean:.3f} ({low:.3f} to {high:.3f})"
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(low)}" y2="{y(high)}" stroke="{ink}" '
                f'stroke-width="2"/><circle cx="{x:.1f}" cy="{y(mean)}" r="4" fill="{ink}">'
                f"<title>{escape(about)}</title></circle>"
            )
        line = " ".join(f"{x:.1f},{y(mean)}" for x, mean in zip(xs, curve.means, strict=True))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-opacity="0.6"/>')
        parts.append(f'<text x="{name_at}" y="16" fill="{ink}">● {escape(curve.name)}</text>')
        name_at += 30 + 7 * len(curve.name)
    return _svg(width + 8, top + PLOT + 44, title, *parts)


def loss_chart(losses: Mapping[str, Sequence[tuple[int, float]]], title: str) -> str:
    """Return an SVG picture of at most two series of steps and losses, each a line.

    Parameters
    ----------
    losses : mapping of str to sequence of (int, float)
        The first is blue, and the second orange; one at least has a point.
    title : str
        What the picture shows, for those who cannot see it.
    """
    left, top, width, gray = 60, 28, 520, 'fill="#808080"'
    points = np.array([point for series in losses.values() for point in series], float)
    last, low, high = max(points[:, 0].max(), 1), points[:, 1].min(), points[:, 1].max()

    def place(step: float, loss: float) -> tuple[float, float]:
        share = (loss - low) / ((high - low) or 1)
        return left + (width - left) * step / last, top + PLOT * (1 - share)

    parts = []
    for loss in np.linspace(low, high, 5):
        x, y = place(0, loss)
        parts.append(
            f'<line x1="{x:.1f}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#808080" '
            f'stroke-opacity="0.3"/><text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end" '
            f"{gray}>{loss:.3f}</text>"
        )
    for step in (0, last / 2, last):
        x, _ = place(step, low)
        parts.append(
            f'<text x="{x:.1f}" y="{top + PLOT + 18}" text-anchor="middle" {gray}>{step:,.0f}'
            "</text>"
        )
    for i, (name, series) in enumerate(losses.items()):
        ink = "rgb({},{},{})".format(*(POSITIVE, NEGATIVE)[i])
        line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in series)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-width="1.5"/>'
            f'<text x="{left + 8 + 130 * i}" y="16" fill="{ink}">● {escape(name)}</text>'
        )
    return _svg(width + 8, top + PLOT + 28, title, *parts)


class Point(NamedTuple):
    """A measured loss, and what its tooltip says."""

    x: float
    loss: float
    about: str


def law_chart(
    points: Sequence[Point],
    later: Sequence[Point],
    xs: Sequence[float] | ndarray,
    band: Sequence[tuple[float, float, float]],
    axis: str,
    title: str,
) -> str:
    """Return an SVG picture of losses and of a law, with logarithmic axes.

    Parameters
    ----------
    points, later : sequence of Point
        What the law was fitted to, in blue, and what was measured later, in orange.
    xs : sequence of float, (n,)
        Where the law is drawn, from the smallest to the largest.
    band : sequence of (float, float, float)
        The loss by the law at each of these places, and the bounds of its interval.
    axis : str
        What is on the horizontal axis.
    title : str
        What the picture shows, for those who cannot see it.
    """
    left, top, width, gray = 60, 12, 620, 'fill="#808080"'
    blue, orange = ("rgb({},{},{})".format(*rgb) for rgb in (POSITIVE, NEGATIVE))
    losses = [point.loss for point in (*points, *later)] + [x for row in band for x in row]
    low, high = np.log(min(losses)), np.log(max(losses))
    first, last = np.log(xs[0]), np.log(xs[-1])

    def place(x: float, loss: float) -> str:
        across = left + (width - left) * (np.log(x) - first) / ((last - first) or 1)
        return f"{across:.1f},{top + PLOT * (high - np.log(loss)) / ((high - low) or 1):.1f}"

    marks = [
        place(xs[0], loss).split(",") + [f"{loss:.3f}"]
        for loss in np.exp(np.linspace(low, high, 5))
    ]
    parts = [
        f'<line x1="{x}" x2="{width}" y1="{y}" y2="{y}" stroke="#808080" stroke-opacity="0.3"/>'
        f'<text x="{left - 6}" y="{y}" text-anchor="end" {gray}>{loss}</text>'
        for x, y, loss in marks
    ]
    below = [
        (place(x, losses[0]).split(",")[0], 18, f"{x:.2g}")
        for x in np.exp(np.linspace(first, last, 4))
    ]
    parts += [
        f'<text x="{x}" y="{top + PLOT + down}" text-anchor="middle" {gray}>{escape(text)}</text>'
        for x, down, text in (*below, ((left + width) / 2, 36, axis))
    ]
    line, under, over = (
        [place(x, row[i]) for x, row in zip(xs, band, strict=True)] for i in range(3)
    )
    parts.append(
        f'<polygon points="{" ".join(over + under[::-1])}" fill="{blue}" fill-opacity="0.15"/>'
        f'<polyline points="{" ".join(line)}" fill="none" stroke="{blue}" stroke-width="1.5"/>'
    )
    for ink, point in [*((blue, each) for each in points), *((orange, each) for each in later)]:
        x, y = place(point.x, point.loss).split(",")
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="4" fill="{ink}"><title>{escape(point.about)}</title>'
            "</circle>"
        )
    return _svg(width + 40, top + PLOT + 44, title, *parts)


def _svg(width: float, height: float, title: str, *parts: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="monospace" '
        f'font-size="11"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _axes(rows: Sequence[str], columns: Sequence[str]) -> tuple[float, float, str]:
    """Return where the first cell begins, and the labels of rows and columns."""
    rows, columns = ([_short(label) for label in labels] for labels in (rows, columns))
    left, top = (
        8 + LETTER * max((len(label) for label in labels), default=0) for labels in (rows, columns)
    )
    gray = 'fill="#808080"'
    texts = [
        f'<text x="{left - 4:.0f}" y="{top + CELL * (i + 0.7):.0f}" text-anchor="end" {gray}>'
        f"{escape(label)}</text>"
        for i, label in enumerate(rows)
    ]
    texts += [
        f'<text transform="translate({left + CELL * (j + 0.7):.0f},{top - 4:.0f}) rotate(-90)" '
        f"{gray}>{escape(label)}</text>"
        for j, label in enumerate(columns)
    ]
    return left, top, "".join(texts)


def _short(label: str) -> str:
    label = shown(label)
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def attention_pictures(maps: ndarray, tokens: Sequence[str], layers: Sequence[int]) -> str:
    """Return the maps of heads, (L, H, T, T), as small pictures, each with a large one behind.

    A click on a small picture shows the large one, with the tokens beside it, above all others.
    The axes are on the page once; each large picture uses them again.
    """
    left, top, axes = _axes(tokens, tokens)
    side = CELL * len(tokens)
    parts = [f'<svg width="0" height="0"><defs><g id="axes">{axes}</g></defs></svg>']
    pictures = [[png(weights) for weights in heads] for heads in maps]
    for layer, heads in zip(layers, pictures, strict=True):
        for head, picture in enumerate(heads):
            image = (
                f'<use href="#axes"/><image x="{left:.0f}" y="{top:.0f}" width="{side}" '
                f'height="{side}" style="image-rendering:pixelated" href="{picture}"/>'
                f'<rect x="{left:.0f}" y="{top:.0f}" width="{side}" height="{side}" fill="none" '
                'stroke="#808080"/>'
            )
            name = f"layer {layer}, head {head}"
            drawn = _svg(left + side + 1, top + side + 1, name, image)
            parts.append(
                f'<figure class="large" id="l{layer}h{head}"><figcaption>{name}: each row is where '
                f"a token looks</figcaption>{drawn}</figure>"
            )
    for layer, heads in zip(layers, pictures, strict=True):
        figures = "".join(
            f'<a href="#l{layer}h{head}"><figure><img src="{picture}" alt="layer {layer}, head '
            f'{head}"><figcaption>{head}</figcaption></figure></a>'
            for head, picture in enumerate(heads)
        )
        parts.append(f'{heading(f"Layer {layer}")}<div class="heads">{figures}</div>')
    return "\n".join(parts)


def png(shares: ndarray) -> str:
    """Return a picture of numbers from 0 to 1, (R, C), as a data URI: a pixel each, 0 is clear.

    Examples
    --------
    >>> png(np.eye(2))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    n_rows, n_columns = shares.shape
    pixels = np.empty((n_rows, n_columns, 4), np.uint8)
    pixels[..., :3] = POSITIVE
    pixels[..., 3] = np.rint(255 * np.clip(shares, 0, 1))
    lines = np.zeros((n_rows, 1 + 4 * n_columns), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels.reshape(n_rows, -1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", n_columns, n_rows, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    content += chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"

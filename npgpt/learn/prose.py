"""Text in a terminal, folded to any width: prose in Markdown, and messages of a check."""

from __future__ import annotations

import re
import textwrap

from rich.text import Text

from autograd.stepper.lines import fold as lines_that_fit

ITEM = re.compile(r"(?:- |\d+\. |[a-h]\) )")
WIDEST = 88  # columns: longer lines are hard to read


def fold(content: str, width: int) -> list[Text]:
    r"""Return the paragraphs of a text, each folded to so many columns.

    Indented lines are formulas: they stay as they are, unless they are too wide.

    Examples
    --------
    >>> from npgpt.learn.prose import fold
    >>> print(fold("- one two\n  three", 9)[0])
    - one two
      three
    """
    chunks = re.split(r"\n\s*\n", content.strip("\n"))
    return [_fold_chunk(chunk.splitlines(), min(width, WIDEST)) for chunk in chunks if chunk]


def _fold_chunk(lines: list[str], width: int) -> Text:
    """Return one paragraph, list, heading or block of formulas."""
    if lines[0].startswith("#"):
        return Text(textwrap.fill(lines[0].lstrip("# "), width), "bold")
    if lines[0].startswith("    "):
        return Text("\n").join(part for line in lines for part in lines_that_fit(Text(line), width))
    items: list[list[str]] = []
    for line in lines:
        if not items or ITEM.match(line):
            items.append([])
        items[-1].append(line.strip())
    folded = [_fold_item(" ".join(item), width) for item in items]
    return _with_code(Text("\n".join(folded)))


def _fold_item(text: str, width: int) -> str:
    """Return a paragraph or an item of a list, whose later lines are indented."""
    item = ITEM.match(text)
    indent = " " * len(item[0]) if item else ""
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)


def fold_report(text: str, width: int) -> str:
    r"""Return the message of a failed check with lines of at most so many columns.

    A value goes on below its beginning. Two matrices side by side are put below each other, and the
    table of errors ends with the last step that fits.

    Examples
    --------
    >>> from npgpt.learn.prose import fold_report
    >>> print(fold_report("  likely    a wrong sign", 20))
      likely    a wrong
                sign
    """
    lines = _stacked(text.splitlines(), width)
    return "\n".join(part for line in lines for part in _fold_row(line, width))


def _fold_row(line: str, width: int) -> list[str]:
    """Return a row of a report, ``  name  value``, or any other line, as lines that fit."""
    name = re.match(r" *\S+  +| *\w+ += | +", line)
    start = len(name[0]) if name else 2
    if len(line) > width and re.match(r" *(step|\|error\|) ", line):
        return [line[: start + (width - start + 2) // 8 * 8].rstrip()]  # a column has 8 characters
    return [part.plain for part in lines_that_fit(Text(line), width, start)]


def _stacked(lines: list[str], width: int) -> list[str]:
    """Return the lines of a report; matrices that are too wide side by side stand in a column."""
    top = next((i for i, line in enumerate(lines) if line.split() == ["backward", "numeric"]), None)
    if top is None:
        return lines
    end = next((i for i in range(top, len(lines)) if not lines[i].strip()), len(lines))
    if max(map(len, lines[top:end])) <= width:
        return lines
    middle = lines[top].index("numeric")
    left = [line[:middle].rstrip() for line in lines[top:end]]
    right = ["  " + line[middle:] for line in lines[top:end]]
    return [*lines[:top], *left, *right, *lines[end:]]


def _with_code(text: Text) -> Text:
    """Return a text in which code between backticks has a colour."""
    text.highlight_regex(r"`[^`]+`", "cyan")
    return text

"""Prose in a terminal: the paragraphs of a text in Markdown, folded to any width."""

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


def _with_code(text: Text) -> Text:
    """Return a text in which code between backticks has a colour."""
    text.highlight_regex(r"`[^`]+`", "cyan")
    return text

"""The statement of the program in which a call ran, and the part of the statement that ran."""

from __future__ import annotations

import ast
import linecache
import re
from functools import lru_cache
from itertools import islice
from pathlib import Path
from textwrap import dedent
from types import CodeType, FrameType
from typing import NamedTuple

from autograd.anomaly import line_of
from autograd.escape import shown, shown_text

MOST_LINES = 12  # of a longer statement, only the line that runs is shown


class Part(NamedTuple):
    """A part of a text: from a line and a column to a line and a column, counted from 0."""

    line: int
    column: int
    end_line: int
    end_column: int


class Statement(NamedTuple):
    """A statement, and the part of it that ran."""

    text: str
    """The lines of the statement, without their common indentation."""
    part: Part | None
    """None if the whole statement ran, or all that it assigns or returns."""

    @property
    def running(self) -> str:
        """The text of the part that ran; empty if all ran, or if the part has several lines."""
        lines, part = self.text.splitlines(), self.part
        if part is None or part.line != part.end_line or part.line >= len(lines):
            return ""
        line = lines[part.line]
        if line[: part.column].endswith("."):  # a call whose object stands on the line before
            return ""
        return line[part.column : part.end_column]

    @property
    def target(self) -> str:
        """The variable to which the statement assigns what ran; empty if there is none."""
        match = re.match(r"([^\W\d]\w*)\s*=(?!=)", self.text)
        return match[1] if match and self.part is None else ""

    def marked(self) -> list[str]:
        r"""Return the lines of the text, in which the part that ran is marked.

        A part of one line has ``^`` below it, and the lines of a longer part ``>`` before them.

        Examples
        --------
        >>> print("\n".join(Statement("z = W @ x + b", Part(0, 4, 0, 9)).marked()))
        z = W @ x + b
            ^^^^^
        """
        lines, part = self.text.splitlines(), self.part
        if part is None or part.end_line >= len(lines):
            return lines
        if part.line < part.end_line:
            ran = range(part.line, part.end_line + 1)
            return [f"{'>' if i in ran else ' '} {line}" for i, line in enumerate(lines)]
        carets = " " * part.column + "^" * (part.end_column - part.column)
        return [*lines[: part.line + 1], carets, *lines[part.line + 1 :]]


UNKNOWN = Statement("", None)


MOST_PLACES = 10_000  # that are remembered
# By the id of a code and an instruction. An entry keeps the code, so that no other gets its id.
_places: dict[tuple[int, int], tuple[str, Statement, CodeType]] = {}


def place_of(frame: FrameType) -> tuple[str, Statement]:
    """Return the line where a frame stands (see `line_of`), and the statement that runs there."""
    code, instruction = frame.f_code, frame.f_lasti
    found = _places.get((id(code), instruction))
    if found is None:
        if len(_places) >= MOST_PLACES:
            _places.clear()
        found = (*printable(line_of(frame), _statement(code, instruction)), code)
        _places[id(code), instruction] = found
    return found[:2]


def printable(line: str, statement: Statement) -> tuple[str, Statement]:
    """Return a line and a statement without control characters.

    If the statement has no text, because its source is not at hand, it gets the text of the line.
    """
    line = shown(line)
    text = shown_text(statement.text) or split_line(line)[2]
    return line, statement._replace(text=text)


def split_line(line: str) -> tuple[str, str, str]:
    """Return the file, the number and the text of a line; empty texts if the line is unknown."""
    match = re.match(r"(.*?):(\d{1,9})(?:: (.*))?$", line)
    return (match[1], match[2], match[3] or "") if match else ("", "", "")


def source_lines(place: tuple[str, str, str]) -> list[str]:
    """Return the lines of a file in which a line stands; none if another text stands there.

    A trace may come from another computer, or from somebody else, and may name any file of this
    one: a device without end, or a file with a password. So a file that Python has not read as
    source yet is a regular file whose name ends as that of a script.

    Parameters
    ----------
    place : (str, str, str)
        The file, the number of the line, and its text, as of `split_line`.
    """
    path, number, text = place
    is_script = path.endswith((".py", ".pyw")) and Path(path).is_file()
    if not text or not (is_script or path in linecache.cache):
        return []
    lines, at = linecache.getlines(path), int(number) - 1
    return lines if 0 <= at < len(lines) and shown(lines[at].strip()) == text else []


def short_place(line: str) -> str:
    """Return the file and the number of a line, as in ``script.py:6``; empty if it is unknown."""
    path, number, _ = split_line(line)
    return f"{Path(path).name}:{number}" if path else ""


def _statement(code: CodeType, instruction: int) -> Statement:
    positions = next(islice(code.co_positions(), instruction // 2, None), None)
    lines = linecache.getlines(code.co_filename)
    if positions is None or None in positions or not lines:
        return UNKNOWN
    line, end_line, column, end_column = map(int, positions)  # type: ignore[arg-type]
    found = _statements("".join(lines)).get(line)
    if found is None or end_line > found.last or found.last - found.first >= MOST_LINES:
        return UNKNOWN
    shown = lines[found.first - 1 : found.last]
    text = dedent("".join(shown)).rstrip()
    indent = len(shown[0].rstrip()) - len(text.splitlines()[0].rstrip())
    if (line, column, end_line, end_column) in found.wholes:
        return Statement(text, None)

    def place(n: int, byte: int) -> int:  # Python counts the bytes of a line
        return len(lines[n - 1].encode()[:byte].decode(errors="ignore")) - indent

    part = Part(line - found.first, place(line, column),
                end_line - found.first, place(end_line, end_column))  # fmt: skip
    return Statement(text, part)


class _Lines(NamedTuple):
    """The first and the last line of a statement, and the positions of all of it."""

    first: int
    last: int
    wholes: frozenset[tuple[int, int, int, int]]


@lru_cache(maxsize=100)
def _statements(source: str) -> dict[int, _Lines]:
    """Return the innermost statement of each line. Of a compound statement it is the header."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[int, _Lines] = {}
    for node in ast.walk(tree):  # an inner statement comes after the outer one
        if not isinstance(node, ast.stmt):
            continue
        last = node.end_lineno or node.lineno
        body = getattr(node, "body", None) or getattr(node, "cases", None)
        if body:
            first_inside = getattr(body[0], "lineno", None) or body[0].pattern.lineno
            last = max(node.lineno, min(last, first_inside - 1))
        parts = [node, getattr(node, "value", None)]
        wholes = frozenset(
            (part.lineno, part.col_offset, part.end_lineno or 0, part.end_col_offset or 0)
            for part in parts if isinstance(part, ast.stmt | ast.expr)
        )  # fmt: skip
        found |= dict.fromkeys(range(node.lineno, last + 1), _Lines(node.lineno, last, wholes))
    return found

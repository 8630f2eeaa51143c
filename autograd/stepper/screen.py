"""The stepper's full screen: a step in panes that are redrawn in place, and a prompt below them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prompt_toolkit.application import get_app
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.key_binding import KeyBindings
from rich.cells import cell_len
from rich.control import Control
from rich.text import Text

from autograd.stepper.display import matrix
from autograd.stepper.lines import fold
from autograd.stepper.session import Session
from autograd.stepper.terminal import Terminal
from autograd.stepper.views import StepView

SIDE_BY_SIDE = 72  # columns from which the panes stand side by side
FEWEST_OF_PANE = 4  # rows
FEWEST_ROWS, FEWEST_COLUMNS = 6, 20  # of a terminal in which panes are drawn
LARGE_DIGITS = 2  # after the point, for a projector
LARGE_ROWS = 4
SMALL_PRINT = re.compile(r"[^\W\d]{2}")  # a word; not the e of a number
WHOLE = 1000  # columns of a pane whose lines are cropped, and not broken
Pane = tuple[str, list[Text]]  # the title and the lines


class Screen:
    """A terminal that shows each step in its whole window, on the terminal's second screen.

    The second screen is left, and the first one is as it was, when the block ends, also by an
    exception.

    Parameters
    ----------
    terminal : Terminal
        The terminal whose commands run, and whose session is shown.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.is_large = terminal.screen == "projector"
        self.printed: list[Text] = []  # what the last command printed
        if terminal.stop:
            self.printed.append(Text(f"break: {terminal.stop}", "yellow"))
        self.top = 0  # the first line of it that is shown
        self.shown = 0  # how many of its lines are shown
        self._drawn: dict[tuple[int, int, int], ANSI] = {}
        self._second = terminal.console.screen(hide_cursor=False)
        self._prompt = terminal.prompt(key_bindings=self.keys(), reserve_space_for_menu=0)

    def __enter__(self) -> Screen:
        self._second.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._second.__exit__(*error)

    def keys(self) -> KeyBindings:
        """Return the keys that scroll what the last command printed."""
        keys = KeyBindings()
        keys.add("pagedown")(lambda event: self.scroll(self.shown))
        keys.add("pageup")(lambda event: self.scroll(-self.shown))
        return keys

    def scroll(self, n: int) -> None:
        """Scroll what the last command printed by n lines."""
        self.top = max(0, min(self.top + n, len(self.printed) - self.shown))

    def ask(self) -> str:
        """Draw the screen, and return the line that is typed below it."""
        self._drawn.clear()
        self.terminal.console.control(Control.home())
        return self._prompt(self.message)

    def run(self, line: str) -> None:
        """Carry out a command; what it prints is shown below the panes."""
        with self.terminal.console.capture() as captured:
            try:
                self.terminal.run(line)
            except KeyboardInterrupt:
                self.terminal.print("interrupted", style="red")
        self.printed, self.top = [*Text.from_ansi(captured.get()).split("\n")], 0

    def message(self) -> ANSI:
        """Return what stands before the typed line: all of the screen, for its present size."""
        size, console = get_app().output.get_size(), self.terminal.console
        key = size.columns, size.rows, self.top
        if key in self._drawn:  # prompt_toolkit asks after each key that is typed
            return self._drawn[key]
        with console.capture() as captured:
            for line in self.lines(size.columns, size.rows - 1):
                console.print(line, soft_wrap=True)
            console.print(f"({self.terminal.session.progress}) ", end="", soft_wrap=True)
        self._drawn[key] = ANSI(captured.get())
        return self._drawn[key]

    def lines(self, width: int, height: int) -> list[Text]:
        """Return the lines of the screen, as many as there are rows."""
        try:
            found = self.body(width, height)
        except Exception as error:  # an error of the stepper must not end the user's program
            text = f"this step cannot be shown: {type(error).__name__}: {error}"
            found = [*fold(Text(text, "red"), width)]
        return [cropped(line, width) for line in [*found, *[Text()] * height][: max(height, 0)]]

    def body(self, width: int, height: int) -> list[Text]:
        """Return the step in panes, and below them what the last command printed."""
        if height < FEWEST_ROWS or width < FEWEST_COLUMNS:
            return [Text("the terminal is too small: `screen off` prints lines")]
        session, view = self.terminal.session, self.terminal.session.current_view()
        if isinstance(view, StepView):
            head = self.pane(width, lambda pane: pane.show_place(view))
        else:
            head = self.pane(width, lambda pane: pane.show_view(view))
        printed = self.excerpt(width, height - min(len(head), height // 2))
        room = height - len(printed)
        head = shortened(head, room)
        if isinstance(view, StepView):
            panes = self.panes(session, view, width)
            head += list(arranged(panes, width, room - len(head), self.is_large))
        return [*head, *[Text()] * (room - len(head)), *printed]

    def panes(self, session: Session, view: StepView, width: int) -> list[Pane]:
        """Return the source, the cotangents, the values and the graph: titles and lines."""
        width = width if width < SIDE_BY_SIDE else (width - 3) // 2
        return [
            ("source", self.pane(WHOLE, lambda pane: show_source(pane, view))),
            ("cotangents", self.pane(width, lambda pane: pane.show_cotangents(view))),
            ("values", self.pane(width, show_values)),
            ("graph", self.pane(WHOLE, lambda pane: pane.do_where(""))),
        ]

    def pane(self, width: int, show: Callable[[_Pane], None]) -> list[Text]:
        """Return the lines that a function prints into a pane."""
        pane = _Pane(self.terminal.session, width, self.is_large)
        show(pane)
        return pane.lines

    def excerpt(self, width: int, room: int) -> list[Text]:
        """Return what the last command printed, or a part of it, below a line."""
        if not any(line.plain for line in self.printed):
            self.shown = 0
            return []
        self.shown = min(len(self.printed), room - 1)
        self.scroll(0)  # after the terminal has become larger
        rest = len(self.printed) - self.shown
        where = f" lines {self.top + 1} to {self.top + self.shown} of {len(self.printed)}"
        title = f"──{where if rest else ''}{', PageUp and PageDown' if rest else ''} "
        rule = Text(title.ljust(width, "─") if rest else "─" * width, "dim")
        return [cropped(rule, width), *self.printed[self.top : self.top + self.shown]]


class _Pane(Terminal):
    """Collects the lines that a terminal would print, for a part of the screen."""

    def __init__(self, session: Session, width: int, is_large: bool) -> None:
        super().__init__(session.trace)
        self.session, self.is_large, self._width = session, is_large, width
        self.lines: list[Text] = []

    @property
    def width(self) -> int:
        """The number of columns of the pane."""
        return self._width

    def write(self, line: Text) -> None:
        """Keep a line; for a projector, without its small print."""
        self.lines.append(without_small_print(line) if self.is_large else line)

    def show_array(self, title: str, x: Any, note: str = "", labels: Any = None) -> None:
        """Show an array; for a projector, with fewer digits and nothing but its numbers."""
        if not self.is_large:
            super().show_array(title, x, note, labels)
            return
        lines = list(matrix(x, self.width - 2, LARGE_ROWS, digits=LARGE_DIGITS))
        if len(lines) == 1 and cell_len(title) + lines[0].cell_len + 3 <= self.width:
            self.print(Text(f"{title}   ", "bold"), lines[0])
            return
        self.print(Text(title, "bold"))
        for line in lines:
            self.print("  ", line)


def show_source(pane: _Pane, view: StepView) -> None:
    """Show the lines of the program around a step, with marks below the part that ran."""
    if pane.is_large:
        pane.show_statement(view.statement)
        return
    running = view.statement.running
    for number, line, is_current in pane.session.source():
        place = f"{number:>4} {'->' if is_current else '  '} "
        pane.print(Text(place, "dim"), Text(line, "bold" if is_current else ""))
        if is_current and running and running in line:
            column = len(place) + line.index(running)
            pane.print(Text(" " * column + "^" * len(running), "dim"))


def show_values(pane: _Pane) -> None:
    """Show the results of a step, and the arrays from which they were computed."""
    session, call = pane.session, pane.session.call
    numbers = [*call.results, *call.parents.values(), *call.constants.values()]
    for number in dict.fromkeys(numbers):
        labels = session.labels(number)
        pane.show_array(session.name(number), session.value(number), labels=labels)


def without_small_print(line: Text) -> Text:
    """Return a line without what is written dimly, if that is words: dtypes, places, notes."""
    for start, end, style in sorted(line.spans, key=lambda span: span.start, reverse=True):
        if style == "dim" and SMALL_PRINT.search(line.plain[start:end]):
            line = line[:start].append_text(line[end:])
    return line


def arranged(panes: Sequence[Pane], width: int, height: int, is_large: bool) -> Iterator[Text]:
    """Yield the rows of panes: side by side, or below each other if the terminal is narrow."""
    if is_large:
        panes = [(title, spaced(lines)) for title, lines in panes]
    if width < SIDE_BY_SIDE:
        yield from stacked(panes, width, height)
        return
    source, cotangents, values, graph = panes
    side, blank = (width - 3) // 2, [Text()] * height
    left = [*stacked([source, graph], side, height), *blank][:height]
    right = [*stacked([values, cotangents], side, height), *blank][:height]
    for one, other in zip(left, right, strict=True):
        line = cropped(one, side)
        line.append(" " * (side - line.cell_len)).append(" │ ", "dim")
        yield line.append_text(other)


def spaced(lines: list[Text]) -> list[Text]:
    """Return lines with an empty one after each."""
    return [row for line in lines for row in (line, Text())]


def stacked(panes: Sequence[Pane], width: int, height: int) -> list[Text]:
    """Return the rows of panes below each other; the last ones are left out if rows are few."""
    panes = panes[: max(1, height // FEWEST_OF_PANE)]
    given = shares([1 + len(lines) for _, lines in panes], height)
    rows: list[Text] = []
    for (title, lines), n in zip(panes, given, strict=True):
        if n > 1:
            rows.append(Text(f"─ {title} ".ljust(width, "─"), "dim"))
            rows += shortened(lines, n - 1)
    return rows


def shares(needs: Sequence[int], room: int) -> list[int]:
    """Divide rows among panes: each gets the same, but none more than it needs.

    Examples
    --------
    >>> shares([2, 9, 9], 12)
    [2, 5, 5]
    """
    given = [0] * len(needs)
    while room > 0 and given != [*needs]:
        for i, need in enumerate(needs):
            if given[i] < need and room > 0:
                given[i] += 1
                room -= 1
    return given


def shortened(lines: list[Text], n: int) -> list[Text]:
    """Return at most n lines: those around the current one of a source, or the first ones."""
    if len(lines) <= n:
        return lines
    current = next((i for i, line in enumerate(lines) if line.plain[5:7] == "->"), None)
    if current is not None:
        first = max(0, min(current - (n - 1) // 2, len(lines) - n))
        return lines[first : first + n]
    return [*lines[: max(n - 1, 0)], Text("⋮", "dim")][:n]


def cropped(line: Text, width: int) -> Text:
    """Return a copy of a line that is at most so wide; `…` says that something is left out."""
    line = line.copy()
    line.expand_tabs(8)
    line.truncate(width, overflow="ellipsis")
    return line

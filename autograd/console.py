"""A console of `rich` for text from files: markup, emoji codes and control sequences do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.console import ConsoleDimensions
from rich.segment import Segment

from autograd.escape import shown_text

NARROWEST, WIDEST = 40, 1000  # columns


class Console(rich.console.Console):
    """A console that styles only our own ``Text`` objects, and spells control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    @property
    def size(self) -> ConsoleDimensions:
        """The terminal's size; at least as wide as tables and progress bars need."""
        size = super().size
        return ConsoleDimensions(min(max(size.width, NARROWEST), WIDEST), size.height)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    def on_broken_pipe(self) -> None:
        """Raise the error again, for the caller: `rich` would end the program with exit code 1."""
        raise  # noqa: PLE0704 (called while the error is handled)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Yield the segments to write; control sequences in them are those of `rich` alone."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(shown_text(segment.text), segment.style)

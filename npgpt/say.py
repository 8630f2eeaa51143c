"""Printing what may come from files: shown, and never obeyed by a terminal."""

from __future__ import annotations

import os
import sys
from typing import Any

from autograd.escape import shown, shown_text


def is_terminal() -> bool:
    """Return whether the output goes to a terminal; what replaces ``sys.stdout`` may not know."""
    return bool(getattr(sys.stdout, "isatty", bool)())


def say(line: str, file: Any = None) -> None:
    r"""Print one line; a newline and other control characters in it are shown, as ``\n``."""
    print(shown(line), file=file, flush=True)


def say_text(text: str, end: str = "\n") -> None:
    """Print a text: in a terminal with its control characters shown, into a file or pipe as it is.

    Newlines and tabs stay. All others move the cursor, set colours or titles, or turn the direction
    of writing: in a terminal they could forge what stands there.
    """
    print(shown_text(text) if is_terminal() else text, end=end, flush=True)


def forget_stdout() -> None:
    """Drop what is buffered for a reader that is gone, and whatever is printed from now on."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115

"""Printing text that may come from files, so that no terminal acts on control characters in it."""

from __future__ import annotations

import os
import sys
from typing import Any

from autograd.escape import shown, shown_text


def is_terminal() -> bool:
    """Return whether standard output is a terminal.

    An object that a program has put in the place of ``sys.stdout`` may have no ``isatty``; it is
    taken for no terminal.
    """
    return bool(getattr(sys.stdout, "isatty", bool)())


def say(line: str, file: Any = None) -> None:
    r"""Print one line; a newline or another control character in the line is spelled, as ``\n``."""
    print(shown(line), file=file, flush=True)


def say_text(text: str, end: str = "\n") -> None:
    """Print a text: unchanged into a file or pipe, with control characters spelled in a terminal.

    Newlines and tabs are kept. The other control characters move the cursor, set colours or titles,
    or turn the direction of writing, so that a text could forge what the terminal shows.
    """
    print(shown_text(text) if is_terminal() else text, end=end, flush=True)


def visible(token: str | bytes) -> str:
    r"""Return a token in visible characters: a space is ``·``, a control character is spelled.

    Examples
    --------
    >>> print(visible(b" the"), visible("\n"))
    ·the \n
    """
    text = token if isinstance(token, str) else token.decode("utf-8", "backslashreplace")
    return shown(text).replace(" ", "·")


def forget_stdout() -> None:
    """Discard what is printed from now on, and what is still buffered: the reader is gone."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115

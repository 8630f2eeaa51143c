r"""Text and values from files, made safe to print in a terminal, a script, a page or a picture.

A name in a trace may hold a newline, which would end a comment in a script, and a model may write
the sequence that sets a terminal's title. The functions here replace such characters by what
Python writes for them, as ``\x1b``: `shown` for a name or a message on one line, `shown_text` for a
text of several lines, and `brief` for any value that a message quotes.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

# Characters that a terminal or an editor acts on, in text that may have lines, tabs and any script:
# control characters, line separators, changes of direction, and halves of surrogate pairs.
OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(name: str) -> str:
    r"""Return a name or a message on one line: a character that cannot be printed is spelled.

    Examples
    --------
    >>> print(shown("layer\nimport os"), shown("größe \x1b[31m"))
    layer\nimport os größe \x1b[31m
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else spell(c) for c in name)


def shown_text(text: str) -> str:
    r"""Return a text of several lines, in which each control sequence is spelled.

    Newlines, tabs and the letters of any script stay as they are.

    Examples
    --------
    >>> print(shown_text("two\nlines \x1b]0;title\x07"))
    two
    lines \x1b]0;title\x07
    """
    return OBEYED.sub(lambda found: spell(found[0]), text)


def brief(value: Any) -> str:
    """Return a short form of any value, on one line, for a message that quotes the value.

    Examples
    --------
    >>> brief("a" * 100)
    "'aaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaa'"
    """
    try:
        text = shown(" ".join(_SHORT.repr(value).splitlines()))
    except Exception:  # numbers of thousands of digits; objects with a repr of their own
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 4 :]}"


LONGEST = 160  # characters of a value in a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 38


def spell(character: str) -> str:
    r"""Return what Python writes for a character: ``\n`` for a newline.

    Python reads a byte of a file name that is not UTF-8 as half of a surrogate pair; such a
    character is spelled as the byte.

    Examples
    --------
    >>> print(spell("\x1b"), spell("\udce9"))
    \x1b \xe9
    """
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]

r"""Text from files, shown and never obeyed: in a terminal, a script, a page or a picture.

A name in a trace may hold a newline that ends a comment, and a model may write the sequence that
sets a terminal's title. Such characters are replaced by what Python writes for them, as ``\x1b``.
"""

from __future__ import annotations

import re

# What a terminal or an editor obeys, in text that may have lines, tabs and any script: control
# characters, line separators, changes of direction, and halves of surrogate pairs.
OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(name: str) -> str:
    r"""Return a name, or a message, on one line: what Python does not print, as it writes it.

    Examples
    --------
    >>> print(shown("layer\nimport os"), shown("größe \x1b[31m"))
    layer\nimport os größe \x1b[31m
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else _written(c) for c in name)


def shown_text(text: str) -> str:
    r"""Return a text with its lines, tabs and scripts, and what a terminal would obey shown.

    Examples
    --------
    >>> print(shown_text("two\nlines \x1b]0;title\x07"))
    two
    lines \x1b]0;title\x07
    """
    return OBEYED.sub(lambda found: _written(found[0]), text)


def _written(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]

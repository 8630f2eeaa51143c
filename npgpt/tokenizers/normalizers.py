r"""Normalizers: the functions that change a text before the text is encoded.

A ``tokenizer.json`` of Hugging Face's tokenizers library describes them. That library runs regular
expressions with Oniguruma. We run them with Python's ``regex`` module and, in tiktoken, with
Rust's. The three dialects agree on most patterns. `from_their_pattern` and `to_their_pattern`
translate ``\w``, the common case in which the dialects differ. They refuse a pattern that holds any
other difference, because the pattern would cut some text at another place.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

from autograd.escape import brief
from autograd.schema import fit
from npgpt.errors import UserError
from npgpt.tokenizers.base import WHITE, check_utf8

Normalizer = Callable[[str], str]

_CHARACTERS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
_THEIR_WORD = _CHARACTERS + "²³¹¼½¾"  # the characters that \w matches in Oniguruma
_OUR_WORD = _CHARACTERS + r"\p{Join_Control}"  # the characters that \w matches in Rust

# A pattern is read part by part: a property, an escape, the beginning of a set, or one character.
_PART = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[\^?\]?|.", re.DOTALL)
# Escapes that have one meaning in all dialects. Others do not: \h is a hexadecimal digit in
# Oniguruma, \m is a letter there and the beginning of a word in Python.
_SAME_ESCAPE = re.compile(r"\\([aDdfnrSstuvxz0-9_]|[^\w<>])|\\[pP]\{(?!(?i:word|xdigit|lc)\})")
# Other parts that differ. In Oniguruma, ^ and $ match at each line, {1,3}+ repeats a repetition,
# {2}? makes the repetition optional, and (?i) in the middle of a group holds to the group's end.
_OTHERWISE = re.compile(
    r"\^|\$|\(\?(?!-?i:|[:=!>#(]|<[=!a-zA-Z_])|\{\d*,?\d*\}\+|\{\d+\}\?|\{,\}|&&|--|~~|\|\|"
)
# Under (?i), Oniguruma lets "ss" match "ß" and "st" match a ligature; Python lets "i" match "İ".
_OTHER_CASE = re.compile(r"[iI]|ss|ff|fl|st|[a-z]-[a-z]|[^\x00-\x7f]|\\[pP]\{[^}]{2,}\}", re.I)


class Described(TypedDict):
    """The description of a normalizer of any type."""

    type: str


class Sequence(Described):
    """A normalizer that runs several normalizers, one after the other."""

    normalizers: list[dict[str, Any]]


class Strip(Described):
    """A normalizer that removes white space at the ends of a text."""

    strip_left: bool
    strip_right: bool


class Prepend(Described):
    """A normalizer that puts a string before a text that is not empty."""

    prepend: str


class Replace(Described):
    """A normalizer that replaces each match of a pattern by a string."""

    pattern: dict[str, str]
    content: str


FIELDS: dict[str, Any] = {
    "Sequence": Sequence, "Strip": Strip, "Prepend": Prepend, "Replace": Replace,
}  # fmt: skip


def make_normalizer(values: Any) -> Normalizer:
    """Return the function that the ``normalizer`` of a ``tokenizer.json`` describes.

    The Unicode normal forms and the lower case of a character are those of Python's Unicode
    version, which may differ from the version of Hugging Face's library for the newest characters.

    Parameters
    ----------
    values : mapping or None
        The description, such as ``{"type": "Lowercase"}``. None stands for a normalizer that
        changes nothing.

    Returns
    -------
    callable
        A function of a text that returns the normalized text. The function raises `UserError` if
        the pattern of a ``Replace`` matches the empty string somewhere in the text.

    Raises
    ------
    UserError
        If a normalizer has a type that is not known here (the message names the type), or a pattern
        that `from_their_pattern` refuses.

    Examples
    --------
    >>> steps = [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    >>> make_normalizer({"type": "Sequence", "normalizers": steps})("Déjà vu")
    'deja vu'
    """
    if values is None:
        return lambda text: text
    kind = fit(values, Described, "the normalizer")["type"]
    values = fit(values, FIELDS.get(kind, Described), f"the normalizer {brief(kind)}")
    if kind == "Sequence":
        steps = [make_normalizer(step) for step in values["normalizers"]]

        def all_of(text: str) -> str:
            for step in steps:
                text = step(text)
            return text

        return all_of
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return lambda text: unicodedata.normalize(kind, text)
    if kind == "Lowercase":  # each character alone: str.lower of a word has a rule for a last sigma
        return lambda text: "".join(map(str.lower, text))
    if kind == "StripAccents":
        return lambda text: "".join(c for c in text if not unicodedata.category(c).startswith("M"))
    if kind == "Strip":
        left, right = values["strip_left"], values["strip_right"]
        return lambda text: (
            (text.lstrip(WHITE) if left else text) if not right
            else (text.strip(WHITE) if left else text.rstrip(WHITE))
        )  # fmt: skip
    if kind == "Prepend":
        start = _text(values["prepend"])
        return lambda text: text and start + text
    if kind == "Replace":
        import regex  # type: ignore[import-untyped]

        pattern, content = (
            regex.compile(from_their_pattern(values["pattern"])),
            _text(values["content"]),
        )

        def replace(text: str) -> str:
            return "".join(
                part if isinstance(part, str) else content for part in split_by(pattern, text)
            )

        return replace
    raise UserError(f"the normalizer {kind:.80} is not known here")


# ---- BERT's

CHINESE = (  # the blocks that BERT's tokenizer lists; each character in them is a word of its own
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def normalize_as_bert(
    text: str,
    clean_text: bool = True,
    handle_chinese_chars: bool = True,
    strip_accents: bool | None = None,
    lowercase: bool = True,
) -> str:
    r"""Return a text as ``BertNormalizer`` of Hugging Face's library returns it.

    Parameters
    ----------
    text : str
    clean_text : bool
        Remove control characters and U+FFFD; white space becomes a space.
    handle_chinese_chars : bool
        Put a space before and after each Chinese character (`CHINESE`).
    strip_accents : bool, optional
        Remove accents; as `lowercase` if not given.
    lowercase : bool

    Examples
    --------
    >>> normalize_as_bert("Déjà\tvu 天气")
    'deja vu  天  气 '
    >>> normalize_as_bert("Déjà vu", lowercase=False)
    'Déjà vu'
    """
    if text.isascii() and text.isprintable():
        return text.lower() if lowercase else text
    if clean_text or handle_chinese_chars:
        text = "".join([_clean(c, clean_text, handle_chinese_chars) for c in text])
    if lowercase if strip_accents is None else strip_accents:
        parts = unicodedata.normalize("NFD", text)
        text = "".join([c for c in parts if unicodedata.category(c) != "Mn"])
    # each character alone: str.lower of a whole word has a rule of its own for a last sigma
    return "".join(map(str.lower, text)) if lowercase else text


@functools.cache
def _clean(c: str, clean_text: bool, handle_chinese_chars: bool) -> str:
    """Return the replacement of a character; see `normalize_as_bert`."""
    if clean_text:
        category = unicodedata.category(c)
        if c in "\t\n\r" or category.startswith("Z"):
            return " "
        if c == "\ufffd" or category in ("Cc", "Cf", "Co"):
            return ""
    is_chinese = handle_chinese_chars and any(a <= ord(c) <= b for a, b in CHINESE)
    return f" {c} " if is_chinese else c


@functools.cache
def is_punctuation(c: str) -> bool:
    """Return whether BERT's tokenizer takes a character for punctuation: a word of its own."""
    return "!" <= c <= "~" and not c.isalnum() or unicodedata.category(c[:1]).startswith("P")


def _text(value: object) -> str:
    check_utf8(str(value))
    return str(value)


def split_by(pattern: Any, text: str) -> Iterator[Any]:
    """Yield the matches of a compiled pattern, and as strings the text between the matches.

    Raises
    ------
    UserError
        If the pattern matches the empty string somewhere in the text. Such a match cuts nothing
        off, and Hugging Face's library counts empty matches otherwise than Python does.

    Examples
    --------
    >>> [str(part) for part in split_by(re.compile("b+"), "abbc")]
    ['a', "<re.Match object; span=(1, 3), match='bb'>", 'c']
    """
    end = 0
    for match in pattern.finditer(text):
        if not match[0]:
            raise UserError(
                f"the pattern {pattern.pattern} matches the empty string in the text; each of its "
                "matches must have at least one character"
            )
        if end < match.start():
            yield text[end : match.start()]
        yield match
        end = match.end()
    if end < len(text):
        yield text[end:]


def from_their_pattern(values: Mapping[str, str]) -> str:
    r"""Return a regular expression of ours that matches the same as a ``pattern`` of their files.

    Parameters
    ----------
    values : mapping
        ``{"String": s}``, which matches the string itself, or ``{"Regex": r}``.

    Raises
    ------
    UserError
        If the pattern is neither of the two, is no regular expression, or holds a part that means
        something else in Hugging Face's dialect, such as ``$``.

    Examples
    --------
    >>> from_their_pattern({"String": "1+1"})
    '1\\+1'
    """
    import regex

    if set(values) == {"String"} and values["String"]:
        return regex.escape(values["String"])
    if set(values) != {"Regex"} or not values["Regex"]:
        raise UserError(f"the pattern {brief(dict(values))} is neither a String nor a Regex")
    pattern = _translated(values["Regex"], _THEIR_WORD)
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise UserError(f"the pattern {brief(pattern)} is no regular expression: {error}") from None
    return pattern


def to_their_pattern(pattern: str) -> dict[str, str]:
    r"""Return the ``pattern`` that matches the same in Hugging Face's dialect as ours does here.

    Possessive repetitions such as ``{1,3}+`` lose the plus sign where a pattern ends, because they
    match the same there without it. The end of the text is ``\\z`` there, where ours is ``$``.

    Raises
    ------
    UserError
        If the pattern holds a part that means something else in Hugging Face's dialect.

    Examples
    --------
    >>> to_their_pattern(r"\p{N}{1,3}+|\s+$")
    {'Regex': '\\p{N}{1,3}|\\s+\\z'}
    """
    pattern = re.sub(r"(\{\d*,?\d*\})\+(?=\||$)", r"\1", pattern)  # possessive, at an end
    pattern = re.sub(r"(?<!\\)\$(?=\||\)|$)", r"\\z", pattern)
    return {"Regex": _translated(pattern, _OUR_WORD)}


def _translated(pattern: str, word: str) -> str:
    r"""Return a pattern that means the same in all dialects: with ``\w`` spelled out.

    The loop reads the pattern part by part, and knows whether a part stands in a set such as
    ``[\w-]``. With ``word = "ab"``, ``\w+[\w-]\W`` becomes ``[ab]+[ab-][^ab]``.

    Raises
    ------
    UserError
        If a part means something else in one of the dialects.
    """
    found: list[str] = []
    bare: list[str] = []  # the pattern with a dot for each part that is literal or has been checked
    in_set = False
    for part in _PART.findall(pattern):
        if part == r"\w":
            found.append(word if in_set else f"[{word}]")
        elif part == r"\W" and not in_set:
            found.append(f"[^{word}]")
        elif part[0] == "\\" and not _SAME_ESCAPE.match(part) or part[0] == "[" and in_set:
            raise _differs(pattern, part)
        else:
            found.append(part)
        bare.append("." if part[0] in "\\[" or in_set and part in "^$({" else part)
        in_set = part != "]" and (in_set or part[0] == "[")
    plain = "".join(bare).removeprefix("(?i)")  # which holds to the end of the pattern everywhere
    if wrong := _OTHERWISE.search(plain):
        raise _differs(pattern, wrong[0])
    if pattern.startswith("(?i)"):
        any_case = [pattern.removeprefix("(?i)")]
    elif "(?i:" in plain:
        any_case = re.findall(r"\(\?i:([^()]*)\)", pattern)
        if len(any_case) < plain.count("(?i:"):  # a group that holds other groups
            any_case = [pattern]
    else:
        any_case = []
    for part in any_case:
        if wrong := _OTHER_CASE.search(re.sub(r"\\[a-zA-Z](?!\{)", "", part.replace("(?i:", ""))):
            raise _differs(pattern, f"{wrong[0]} after (?i")
    return "".join(found)


def _differs(pattern: str, part: str) -> UserError:
    return UserError(
        f"the pattern {brief(pattern)} holds {part!r}, which means something else in "
        "Hugging Face's regular expressions than here"
    )

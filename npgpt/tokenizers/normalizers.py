"""Normalizers: what is done to a text before it is encoded, as Hugging Face's files describe it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from autograd.schema import brief, fit
from npgpt.errors import UserError
from npgpt.tokenizers.base import WHITE, demand_utf8

Normalizer = Callable[[str], str]

_CHARACTERS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
_THEIR_WORD = _CHARACTERS + "²³¹¼½¾"  # what \w is in Hugging Face's regular expressions (Oniguruma)
_OUR_WORD = _CHARACTERS + r"\p{Join_Control}"
# What has another meaning in one of the two dialects: in Oniguruma, anchors are of a line, \h is a
# hexadecimal digit, and {1,3}+ repeats a repetition.
_OTHERWISE = re.compile(
    r"\\[ABGHKRWXZbhk]|\^|\$|\(\?\^?[a-zA-Z]*[msxU]|\{\d*,?\d*\}\+|&&|\[\[|--|~~|\|\|"
)


class Described(TypedDict):
    """A normalizer's description: of any type."""

    type: str


class Sequence(Described):
    """Normalizers that run one after the other."""

    normalizers: list[dict[str, Any]]


class Strip(Described):
    """White space is removed at the ends."""

    strip_left: bool
    strip_right: bool


class Prepend(Described):
    """A text is put in front."""

    prepend: str


class Replace(Described):
    """What a pattern matches is replaced."""

    pattern: dict[str, str]
    content: str


FIELDS: dict[str, Any] = {
    "Sequence": Sequence, "Strip": Strip, "Prepend": Prepend, "Replace": Replace,
}  # fmt: skip


def make_normalizer(values: Any) -> Normalizer:
    """Return the function that the ``normalizer`` of a ``tokenizer.json`` describes.

    The Unicode normal forms and the lower case of a character are Python's.

    Raises
    ------
    UserError
        If the normalizer is of a type that is not known here, by its name.

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
    if kind == "Lowercase":  # one character at a time: a sigma at the end is as any other
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

        pattern, content = regex.compile(pattern_of(values["pattern"])), _text(values["content"])
        return lambda text: pattern.sub(lambda match: content, text)
    raise UserError(f"the normalizer {kind:.80} is not known here")


def _text(value: object) -> str:
    demand_utf8(str(value))
    return str(value)


def pattern_of(values: Mapping[str, str]) -> str:
    r"""Return the regular expression of a ``pattern``, which is a string or an expression itself.

    Raises
    ------
    UserError
        If it holds what means something else in Hugging Face's dialect, such as ``$``, or is none.
    """
    import regex

    if set(values) == {"String"} and values["String"]:
        return regex.escape(values["String"])
    if set(values) != {"Regex"} or not values["Regex"]:
        raise UserError(f"the pattern {dict(values)!r:.40} is neither a String nor a Regex")
    pattern = _translated(values["Regex"], _THEIR_WORD)
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise UserError(f"the pattern {pattern!r:.80} is no regular expression: {error}") from None
    return pattern


def their_pattern(pattern: str) -> dict[str, str]:
    r"""Return a pattern of ours as Hugging Face's files have it.

    Raises
    ------
    UserError
        If it holds what means something else there.

    Examples
    --------
    >>> their_pattern(r"\p{N}{1,3}+|\s+$")
    {'Regex': '\\p{N}{1,3}|\\s+\\z'}
    """
    pattern = re.sub(r"(\{\d*,?\d*\})\+(?=\||$)", r"\1", pattern)  # possessive, at an end
    pattern = re.sub(r"(?<!\\)\$(?=\||\)|$)", r"\\z", pattern)
    return {"Regex": _translated(pattern, _OUR_WORD)}


def _translated(pattern: str, word: str) -> str:
    r"""Return a pattern that means the same in both dialects: with ``\w`` spelled out."""
    found: list[str] = []
    in_set = False
    for part in re.findall(r"\\p\{[^}]*\}|\\.|\[\^?\]?|.", pattern, re.DOTALL):
        if part == r"\w":
            part = word if in_set else f"[{word}]"
        elif part == r"\W" and not in_set:
            part = f"[^{word}]"
        elif in_set and part == "[" or part in (r"\b", r"\W"):
            found.append(part)
            break
        elif part == "]":
            in_set = False
        elif part.startswith("["):
            in_set = True
        found.append(part)
    else:
        bare = re.sub(r"\\[^ABGHKRWXZbhk]|\[(?!\[)\^?", "", "".join(found))
        if not (wrong := _OTHERWISE.search(bare)):
            return "".join(found)
        found = [wrong[0]]
    raise UserError(
        f"the pattern {pattern!r:.80} holds {found[-1]!r}, which means something else in "
        "Hugging Face's regular expressions than here"
    )

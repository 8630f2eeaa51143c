"""What every tokenizer does, and the two that need no vocabulary file: characters and bytes."""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError


class Tokenizer(ABC):
    """Text to token ids, and back: decoding what was encoded gives the same text.

    Parameters
    ----------
    tokens : mapping of int to bytes
        What each id stands for, special tokens included.
    special_tokens : mapping of str to int, optional
        Tokens that a text becomes only if asked to, such as the end of a document.

    Attributes
    ----------
    kind : str
        What `load_tokenizer` knows it by.
    n_vocab : int
        One more than the largest id.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("né").tolist()
    [110, 195, 169]
    >>> list(tokenizer.decode_stream([110, 195, 169]))
    ['n', 'é']
    """

    kind: str

    def __init__(
        self, tokens: Mapping[int, bytes], special_tokens: Mapping[str, int] | None = None
    ) -> None:
        self.tokens = tokens
        self.special_tokens = dict(special_tokens or {})
        self.n_vocab = max(tokens, default=-1) + 1

    # ---- encoding

    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | Collection[str] = (),
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> ndarray:
        """Return the token ids of a text.

        Parameters
        ----------
        text : str
        allowed_special : collection of str, or "all"
            Special tokens that become their id where the text spells them.
        disallowed_special : collection of str, or "all"
            Special tokens that the text must not spell; "all" are those that are not allowed. Those
            that are neither allowed nor disallowed are text like any other: ``()`` is for texts
            from files, which may well spell some.

        Returns
        -------
        ndarray
            The ids, int64 (T,).

        Raises
        ------
        UserError
            If the text spells a disallowed token, or holds half of a surrogate pair.
        """
        special = set(self.special_tokens)
        allowed = special if allowed_special == "all" else special & set(allowed_special)
        refused = special - allowed if disallowed_special == "all" else set(disallowed_special)
        for token in sorted(refused):
            if token in text:
                raise UserError(
                    f"the text spells the special token {token!r}; allow it with allowed_special, "
                    "or let it be text like any other with disallowed_special=()"
                )
        demand_utf8(text)
        if not any(token in text for token in allowed):
            return self._encode(text)
        longest_first = sorted(allowed, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return np.concatenate([  # every other part is a special token
            np.array([self.special_tokens[part]]) if i % 2 else self._encode(part)
            for i, part in enumerate(parts)
        ])  # fmt: skip

    @abstractmethod
    def _encode(self, text: str) -> ndarray:
        """Return the ids of a text; special tokens in it are text like any other."""

    # ---- decoding

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD.

        Raises
        ------
        UserError
            If an id stands for nothing.
        """
        return b"".join(self._bytes(ids, skip_special_tokens)).decode("utf-8", "replace")

    def decode_stream(
        self, ids: Iterable[int], *, skip_special_tokens: bool = False
    ) -> Iterator[str]:
        """Yield the text of token ids as they come, never a part of a character.

        Together the pieces are what `decode` returns.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for content in self._bytes(ids, skip_special_tokens):
            if text := decoder.decode(content):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def _bytes(self, ids: Iterable[int], skip_special_tokens: bool) -> Iterator[bytes]:
        skipped = set(self.special_tokens.values()) if skip_special_tokens else set[int]()
        for i in map(int, ids):
            if i in skipped:
                continue
            if i not in self.tokens:
                raise UserError(
                    f"token id {i} stands for nothing in this vocabulary of {self.n_vocab:,}"
                )
            yield self.tokens[i]

    # ---- saving

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs, as JSON."""


class CharTokenizer(Tokenizer):
    """One token a character; the vocabulary is the sorted characters of a text.

    A character outside of the vocabulary is refused: a model has never seen it, and any
    replacement would answer another prompt than the one that was asked.

    Examples
    --------
    >>> from npgpt.tokenizers import CharTokenizer
    >>> tokenizer = CharTokenizer.from_text("hello")
    >>> tokenizer.encode("hole").tolist()
    [1, 3, 2, 0]
    """

    kind = "char"

    def __init__(self, characters: str) -> None:
        demand_utf8(characters)
        self.characters = characters
        self._codes = np.array([ord(c) for c in characters], np.uint32)
        if np.any(np.diff(self._codes.astype(np.int64)) <= 0):
            raise UserError("the characters of a tokenizer must be sorted, each once")
        super().__init__({i: c.encode() for i, c in enumerate(characters)})

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """Make the vocabulary of a text."""
        demand_utf8(text)
        return cls("".join(map(chr, np.unique(_code_points(text)))))

    def _encode(self, text: str) -> ndarray:
        codes = _code_points(text)
        ids = np.searchsorted(self._codes, codes)
        known = ids < self.n_vocab
        known[known] = self._codes[ids[known]] == codes[known]
        if not known.all():
            unknown = "".join(sorted({chr(code) for code in codes[~known]}))
            shown = ", ".join(map(repr, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
            raise UserError(
                f"the tokenizer does not know {shown}: it has the {self.n_vocab} characters of "
                "its training text; leave these out, or train with --tokenizer byte"
            )
        return ids

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs."""
        return {"kind": self.kind, "characters": self.characters}


class ByteTokenizer(Tokenizer):
    """One token a byte of UTF-8: any text, 256 tokens."""

    kind = "byte"

    def __init__(self) -> None:
        super().__init__({i: bytes([i]) for i in range(256)})

    def _encode(self, text: str) -> ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs."""
        return {"kind": self.kind}


def demand_utf8(text: str) -> None:
    """Refuse a text that no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of the text, {text[error.start]!r}, is half of a surrogate "
            "pair, which no UTF-8 can hold"
        ) from None


def _code_points(text: str) -> ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)

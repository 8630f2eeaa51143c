"""Tokenizers: text to token ids and back. Characters, bytes, and GPT-2's byte-pair encoding."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError


class Tokenizer(Protocol):
    """What every tokenizer does. Decoding what was encoded gives the same text."""

    kind: str
    n_vocab: int

    def encode(self, text: str) -> ndarray:
        """Return the token ids of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs, as JSON."""


class CharTokenizer:
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
        self.characters = characters
        self.n_vocab = len(characters)
        self._codes = np.array([ord(c) for c in characters], np.uint32)
        if np.any(np.diff(self._codes.astype(np.int64)) <= 0):
            raise UserError("the characters of a tokenizer must be sorted, each once")

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """Make the vocabulary of a text."""
        return cls("".join(map(chr, np.unique(_code_points(text)))))

    def encode(self, text: str) -> ndarray:
        """Return the token ids of a text."""
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

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        return "".join(self.characters[i] for i in ids)

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs."""
        return {"kind": self.kind, "characters": self.characters}


class ByteTokenizer:
    """One token a byte of UTF-8: any text, 256 tokens."""

    kind = "byte"
    n_vocab = 256

    def encode(self, text: str) -> ndarray:
        """Return the token ids of a text."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; bytes that are no UTF-8 show as a replacement character."""
        return bytes(int(i) for i in ids).decode("utf-8", errors="replace")

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs."""
        return {"kind": self.kind}


class GPT2Tokenizer:
    """GPT-2's byte-pair encoding of 50,257 tokens, by way of tiktoken.

    tiktoken downloads two files on first use and keeps them; without a network it finds them in the
    folder that ``TIKTOKEN_CACHE_DIR`` names.
    """

    kind = "gpt2"

    def __init__(self) -> None:
        import tiktoken

        try:
            self._encoding = tiktoken.get_encoding("gpt2")
        except Exception as error:  # requests' many kinds, or a bad hash
            raise UserError(
                "GPT-2's vocabulary is not here, and tiktoken could not download it "
                f"({type(error).__name__}). Offline, put the files encoder.json and vocab.bpe into "
                "a folder under the names 6c7ea1a7e38e3a7f062df639a5b80947f075ffe6 and "
                "6d1cbeee0f20b3d9449abfede4726ed8212e3aee, and set TIKTOKEN_CACHE_DIR to it"
            ) from None
        self.n_vocab = self._encoding.n_vocab

    def encode(self, text: str) -> ndarray:
        """Return the token ids of a text; special tokens in it are text like any other."""
        return np.array(self._encoding.encode_ordinary(text), np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        return self._encoding.decode([int(i) for i in ids])

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs."""
        return {"kind": self.kind}


def _code_points(text: str) -> ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def make_tokenizer(kind: str, text: str) -> Tokenizer:
    """Make a tokenizer of a kind, for a text."""
    from npgpt.config import nearest

    if kind == "char":
        return CharTokenizer.from_text(text)
    if kind == "byte":
        return ByteTokenizer()
    if kind == "gpt2":
        return GPT2Tokenizer()
    raise UserError(f"unknown tokenizer {kind!r}{nearest(kind, ['char', 'byte', 'gpt2'])}")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` to a folder."""
    from npgpt.files import write_text

    write_text(folder / "tokenizer.json", json.dumps(tokenizer.to_dict(), ensure_ascii=False))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read ``tokenizer.json`` from a folder."""
    from npgpt.files import read_json

    path = Path(folder) / "tokenizer.json"
    return tokenizer_of(read_json(path), path)


def tokenizer_of(values: dict[str, Any], path: Path) -> Tokenizer:
    """Make the tokenizer that a file describes, as `Tokenizer.to_dict` does."""
    kind = values.get("kind")
    if kind == "char" and isinstance(values.get("characters"), str):
        return CharTokenizer(values["characters"])
    if kind in ("byte", "gpt2"):
        return make_tokenizer(kind, "")
    raise UserError(f"{path} describes no tokenizer that is known here (kind {kind!r})")

"""Where the windows of a text come from: the files and the lines that hold them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from autograd.escape import shown
from npgpt.errors import UserError
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import Tokens, read_texts, spelled_out

BLOCK = 1 << 16  # tokens whose bytes are counted together


class Piece(NamedTuple):
    """A file of the text, or a document in it."""

    name: str
    line: int  # of the file, on which the piece begins
    content: bytes


class TextSources:
    """The files that a token file was made from, read again when a place is asked for.

    Parameters
    ----------
    config : TrainConfig
    tokenizer : Tokenizer
    tokens : Tokens
    end : int or None
        The token that ends a document, if the text consists of documents.
    """

    def __init__(
        self, config: TrainConfig, tokenizer: Tokenizer, tokens: Tokens, end: int | None
    ) -> None:
        self.config, self.tokenizer, self.tokens, self.end = config, tokenizer, tokens, end

    def find(self, first: int, length: int) -> str:
        """Return the file and the lines of some tokens.

        Without the files, or if they have changed, these are the numbers of the tokens. If the
        tokens are from several files or documents, the place is that in the first one.

        Parameters
        ----------
        first : int
            The number of the first token.
        length : int
            How many tokens there are.
        """
        window = self.tokens.array[first : first + length]
        where = f"tokens {first:,} to {first + length - 1:,} of {self.tokens.path.name}"
        skipped = int(np.argmax(window != self.end)) if self.end is not None else 0
        window = window[skipped:]
        if self.end is not None and (stops := np.flatnonzero(window == self.end)).size:
            window = window[: stops[0]]
        content = b"".join(self.tokenizer.tokens.get(i, b"") for i in window.tolist())
        begin = self._count_bytes(first + skipped)
        number = int(np.searchsorted(self._begins, begin, "right")) - 1
        if number < 0:
            return where
        name, line, piece = self._pieces[number]
        offset = begin - int(self._begins[number])
        found = piece[offset : offset + len(content)]
        if not found or not content.startswith(found) or offset > len(piece):
            return where
        name, line = shown(name), line + piece.count(b"\n", 0, offset)
        last = line + found.rstrip(b"\n").count(b"\n")
        return f"{name}, line {line:,}" if last == line else f"{name}, lines {line:,} to {last:,}"

    @cached_property
    def _pieces(self) -> list[Piece]:
        """The files, or their documents; none if they cannot be read again."""
        config = self.config
        if "-" in config.data or any(name.endswith(".bin") for name in config.data):
            return []
        try:
            texts, names = read_texts(config.data)
        except UserError:
            return []
        separator = spelled_out(config.separator) if config.documents else ""
        found = []
        for name, text in zip(names, texts, strict=True):
            line = 1
            for part in text.split(separator) if separator else [text]:
                if part.strip() or not config.documents:
                    found.append(Piece(name, line, part.encode()))
                line += part.count("\n") + separator.count("\n")
        return found

    @cached_property
    def _begins(self) -> ndarray:
        """The byte of the text at which each piece begins; a line break is between two files."""
        gap = 0 if self.config.documents else 1
        sizes = [len(piece.content) + gap for piece in self._pieces]
        return np.cumsum([0, *sizes])[: len(sizes)]

    @cached_property
    def _sizes(self) -> ndarray:
        """How many bytes of the text each token stands for."""
        known = self.tokenizer.tokens
        sizes = np.array([len(known.get(i, b"")) for i in range(self.tokenizer.n_vocab)])
        if self.end is not None:
            sizes[self.end] = 0
        return sizes

    @cached_property
    def _sums(self) -> ndarray:
        """How many bytes there are before each block of tokens."""
        tokens = self.tokens.array
        firsts = range(0, len(tokens), BLOCK)
        return np.cumsum([0, *(self._sizes[tokens[i : i + BLOCK]].sum() for i in firsts)])

    def _count_bytes(self, stop: int) -> int:
        """Return how many bytes the tokens before one stand for."""
        block = stop // BLOCK
        rest = self.tokens.array[block * BLOCK : stop]
        return int(self._sums[block] + self._sizes[rest].sum())

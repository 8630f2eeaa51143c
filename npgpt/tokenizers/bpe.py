"""Byte-pair encodings of bytes, such as GPT-2's: ranks and a pattern, which tiktoken runs."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.tokenizers.base import Tokenizer

# GPT-2's: where it cuts a text before any merge. Possessive quantifiers (++) cut at the same places
# as plain ones here, without backtracking.
PATTERN = r"'(?:[sdmt]|ll|re|ve)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s+"

Part = TypeVar("Part", str, bytes)


class BPETokenizer(Tokenizer):
    """Byte-pair encoding over bytes: any text, and the text comes back exactly.

    The text is cut into pieces by the pattern. In each, of all neighbours that are a token
    together, those of the lowest rank merge, until none is left.

    Parameters
    ----------
    ranks : mapping of bytes to int
        The id of each token. Lower ones merge first; the 256 bytes must be among them.
    pattern : str, optional
        The regular expression of a piece; GPT-2's if not given.
    special_tokens : mapping of str to int, optional
    name : str, optional
        What to call it in messages.
    kind : str, optional
        Only for those that `npgpt.tokenizers` makes by their name.

    Raises
    ------
    UserError
        If a byte is missing, an id stands for two tokens, or the pattern is no regular expression.

    References
    ----------
    Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword Units, 2016;
    over bytes: Radford et al., Language Models are Unsupervised Multitask Learners, 2019.

    Examples
    --------
    >>> from npgpt.tokenizers import BPETokenizer
    >>> ranks = {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257}
    >>> tokenizer = BPETokenizer(ranks, special_tokens={"<|endoftext|>": 258})
    >>> tokenizer.encode("the<|endoftext|>", allowed_special="all").tolist()
    [257, 258]
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str = PATTERN,
        special_tokens: Mapping[str, int] | None = None,
        name: str = "bpe",
        kind: str = "bpe",
    ) -> None:
        special = dict(special_tokens or {})
        tokens = {rank: token for token, rank in ranks.items()}
        tokens |= {i: token.encode() for token, i in special.items()}
        if len(tokens) < len(ranks) + len(special):
            raise UserError(f"{name}: an id stands for two tokens")
        if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
            raise UserError(
                f"{name}: {len(missing)} of the 256 single bytes are no tokens, "
                f"the first is {missing[0]}; without them it cannot encode every text"
            )
        import tiktoken

        try:
            self._encoding = tiktoken.Encoding(
                name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=special
            )
        except ValueError as error:
            raise UserError(f"{name}: the pattern is no regular expression: {error}") from None
        self.ranks, self.pattern, self.name, self.kind = ranks, pattern, name, kind
        super().__init__(tokens, special)

    def _encode(self, text: str) -> ndarray:
        try:
            ids = self._encoding.encode_ordinary(text)
        except BaseException as error:
            # hundreds of thousands of white spaces in a row are too many for tiktoken's pattern,
            # and it cannot take one that matches where nothing is
            if type(error).__name__ != "PanicException":
                raise
            ids = [
                i for piece in self._cut(text) for i in self._encoding._encode_single_piece(piece)
            ]
        return np.array(ids, np.int64)

    def _cut(self, text: str) -> list[str]:
        import regex  # type: ignore[import-untyped]

        return [match[0] for match in regex.finditer(self.pattern, text) if match[0]]

    # ---- explaining itself

    def pieces(self, text: str) -> list[list[bytes]]:
        """Return the bytes of each piece that the pattern cuts a text into."""
        return [[bytes([byte]) for byte in piece.encode()] for piece in self._cut(text)]

    def merge_steps(self, piece: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Yield the parts of a piece after each merge; the last ones are its tokens."""
        return merge_steps(piece, lambda left, right: self.ranks.get(left + right))

    @functools.cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs that became a token, in the order of their ranks."""
        found = []
        for token, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            parts = [bytes([byte]) for byte in token]
            for merged in self.merge_steps(parts):
                if len(merged) == 1:
                    break
                parts = merged
            if len(parts) > 1:
                if len(parts) > 2:
                    raise UserError(f"{self.name}: no two tokens merge into {token!r} ({rank})")
                found.append((parts[0], parts[1]))
        return found

    # ---- saving

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs: the name of a known encoding, or all of another."""
        if self.kind != "bpe":
            return {"kind": self.kind}
        return {
            "kind": self.kind,
            "name": self.name,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "ranks": format_ranks(self.ranks),
        }


def merge_steps(
    parts: Sequence[Part], rank: Callable[[Part, Part], int | None]
) -> Iterator[list[Part]]:
    """Yield the parts after each merge: of the pair with the lowest rank, wherever it stands.

    Examples
    --------
    >>> ranks = {b"ab": 0, b"abc": 1}
    >>> list(merge_steps([b"a", b"b", b"c"], lambda left, right: ranks.get(left + right)))
    [[b'ab', b'c'], [b'abc']]
    """
    while True:
        pairs = {
            pair: r
            for pair in zip(parts, parts[1:], strict=False)
            if (r := rank(*pair)) is not None
        }
        if not pairs:
            return
        best = min(pairs, key=pairs.__getitem__)
        merged, i = [], 0
        while i < len(parts):
            length = 2 if tuple(parts[i : i + 2]) == best else 1
            merged.append(parts[i] + parts[i + 1] if length == 2 else parts[i])
            i += length
        parts = merged
        yield merged


def format_ranks(ranks: Mapping[bytes, int]) -> str:
    """Return the text of a ``.tiktoken`` file: a token in base64 and its rank in each line."""
    return "".join(
        f"{base64.b64encode(token).decode()} {rank}\n"
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    )


def parse_ranks(text: str, source: object) -> dict[bytes, int]:
    """Read the text of a ``.tiktoken`` file."""
    ranks = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise UserError(
                f"{source}, line {number}: expected a token in base64 and its rank, and read "
                f"{line[:40]!r}"
            ) from None
    return ranks

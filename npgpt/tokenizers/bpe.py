"""Byte-pair encodings of bytes, such as GPT-2's: ranks and a pattern, which tiktoken runs."""

from __future__ import annotations

import base64
import functools
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.tokenizers.base import MOST_IDS, AddedToken, Tokenizer
from npgpt.tokenizers.normalizers import make_normalizer, split_by

# GPT-2's: where it cuts a text before any merge. Possessive quantifiers (++) cut at the same places
# as plain ones here, without backtracking.
PATTERN = r"'(?:[sdmt]|ll|re|ve)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s+"

Part = TypeVar("Part", str, bytes)


class BPETokenizer(Tokenizer):
    """Byte-pair encoding over bytes: any text, and the text comes back exactly.

    The text is cut into pieces: what the pattern matches, and what lies between two matches. In
    each piece, of all neighbours that are a token together, those of the lowest rank merge, until
    none is left.

    Parameters
    ----------
    ranks : mapping of bytes to int
        The id of each token. Lower ones merge first; the 256 bytes must be among them.
    pattern : str or sequence of str, optional
        The regular expression of a piece; GPT-2's if not given. Of several, each cuts the pieces
        of the one before.
    special_tokens : mapping of str to int, optional
    name : str, optional
        What to call it in messages.
    kind : str, optional
        Only for those that `npgpt.tokenizers` makes by their name.
    added_tokens : iterable of AddedToken, optional
        More tokens that are searched for before the text is cut, with their flags.
    before, after : sequence of int, optional
        Ids that stand before and after every text.
    normalizer : mapping, optional
        What is done to a text first, as in Hugging Face's files (`npgpt.tokenizers.normalizers`).
        The text that comes back is then the normalized one.
    add_prefix_space : bool
        Encode a text as if a space stood before it, unless one does.
    unreached : mapping of bytes to int, optional
        Tokens that only decoding knows: no merge makes them.

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
        pattern: str | Sequence[str] = PATTERN,
        special_tokens: Mapping[str, int] | None = None,
        name: str = "bpe",
        kind: str = "bpe",
        *,
        added_tokens: Iterable[AddedToken] = (),
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        normalizer: Mapping[str, Any] | None = None,
        add_prefix_space: bool = False,
        unreached: Mapping[bytes, int] | None = None,
    ) -> None:
        added = [AddedToken(token, i) for token, i in (special_tokens or {}).items()]
        added += added_tokens
        unreached = unreached or {}
        new = {token.id for token in added if ranks.get(token.content.encode()) != token.id}
        n_tokens = len(ranks) + len(unreached) + len(new)
        tokens = {rank: token for token, rank in [*ranks.items(), *unreached.items()]}
        self._normalize = make_normalizer(normalizer)
        tokens |= {token.id: self._shown(token).encode() for token in added}
        if len(tokens) < n_tokens or len({token.content for token in added}) < len(added):
            raise UserError(f"{name}: an id stands for two tokens")
        if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
            raise UserError(
                f"{name}: {len(missing)} of the 256 single bytes are no tokens, "
                f"the first is {missing[0]}; without them it cannot encode every text"
            )
        super().__init__(tokens, added, before, after)
        import tiktoken

        patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        ids = {token.content: token.id for token in added}
        try:
            [*cut_by(patterns[:-1], [" "])]  # which compiles them
            self._encoding = tiktoken.Encoding(
                name, pat_str=patterns[-1], mergeable_ranks=dict(ranks), special_tokens=ids
            )
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{name}: the pattern is no regular expression: {error}") from None
        self.ranks, self.pattern, self.name, self.kind = ranks, pattern, name, kind
        self.normalizer, self.add_prefix_space = normalizer, add_prefix_space
        self.unreached = unreached
        self._patterns = patterns

    def normalize(self, text: str) -> str:
        """Return a text after the normalizer."""
        return self._normalize(text)

    def _encode(self, text: str) -> ndarray:
        text = self._with_space(text)
        whole = cut_by(self._patterns[:-1], [text])
        try:
            ids = [i for piece in whole for i in self._encoding.encode_ordinary(piece)]
            covered = self._lengths[ids].sum() == len(text.encode())
        except BaseException as error:
            # hundreds of thousands of white spaces in a row are too many for tiktoken's pattern,
            # and it cannot take one that matches where nothing is
            if type(error).__name__ != "PanicException":
                raise
            covered = False
        if not covered:  # tiktoken leaves out what the pattern does not match
            pieces = cut_by(self._patterns, [text])
            ids = [i for piece in pieces for i in self._encoding._encode_single_piece(piece)]
        return np.array(ids, np.int64)

    def _with_space(self, text: str) -> str:
        return f" {text}" if self.add_prefix_space and text and text[0] != " " else text

    @functools.cached_property
    def _lengths(self) -> ndarray:
        """The bytes of each token, by its id."""
        lengths = np.zeros(self.n_vocab, np.int64)
        for token, i in self.ranks.items():
            lengths[i] = len(token)
        return lengths

    # ---- explaining itself

    def pieces(self, text: str) -> list[list[bytes]]:
        """Return the bytes of each piece that a text is cut into, after the normalizer."""
        pieces = cut_by(self._patterns, [self._with_space(self.normalize(text))])
        return [[bytes([byte]) for byte in piece.encode()] for piece in pieces]

    def merge_steps(self, piece: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Yield the parts of a piece after each merge; the last ones are its tokens."""
        return merge_steps(piece, lambda left, right: self.ranks.get(left + right))

    @functools.cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs that became a token, in the order of their ranks.

        A token that no two others make, which only a piece of its own becomes, has none.
        """
        return merges_of(self.ranks)

    # ---- saving

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs: the name of a known encoding, or all of another."""
        if self.kind != "bpe":
            return {"kind": self.kind}
        return {"kind": self.kind} | self.described() | {"ranks": format_ranks(self.ranks)}

    def described(self) -> dict[str, Any]:
        """Return all but the ranks, as the JSON file beside a ``.tiktoken`` file has it."""
        plain = [t for t in self.added_tokens if t == AddedToken(t.content, t.id)]
        rare = {
            "added_tokens": [asdict(t) for t in self.added_tokens if t not in plain],
            "before": list(self.before),
            "after": list(self.after),
            "normalizer": self.normalizer,
            "add_prefix_space": self.add_prefix_space,
            "unreached": format_ranks(self.unreached),
        }
        return {
            "name": self.name,
            "pattern": self.pattern if isinstance(self.pattern, str) else list(self.pattern),
            "special_tokens": {token.content: token.id for token in plain},
            **{key: value for key, value in rare.items() if value},
        }


def cut_by(patterns: Sequence[str], pieces: Iterable[str]) -> Iterator[str]:
    """Cut pieces of text where a pattern's matches begin and end, by one pattern after the other.

    Nothing is lost: what lies between two matches is a piece, too, as with Hugging Face's ``Split``
    of behavior ``Isolated``.

    Raises
    ------
    UserError
        If a pattern is no regular expression, or matches where nothing is: such a match cuts
        nothing off.

    Examples
    --------
    >>> list(cut_by([r"[a-z]+"], ["hello, world!"]))
    ['hello', ', ', 'world', '!']
    """
    for pattern in patterns:
        pieces = _cut(pattern, pieces)
    yield from pieces


def _cut(pattern: str, pieces: Iterable[str]) -> Iterator[str]:
    import regex  # type: ignore[import-untyped]

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise UserError(f"the pattern is no regular expression: {error}") from None
    for piece in pieces:
        for part in split_by(compiled, piece):
            yield part if isinstance(part, str) else part[0]


# ---- merging


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
    merging: list[Any] = [*parts]
    for _ in _merge(merging, rank):
        yield [part for part in merging if part is not None]


def merged(parts: Sequence[Part], rank: Callable[[Part, Part], int | None]) -> list[Part]:
    """Return the parts after the last merge."""
    merging: list[Any] = [*parts]
    for _ in _merge(merging, rank):
        pass
    return [part for part in merging if part is not None]


def _merge(parts: list[Any], rank: Callable[[Any, Any], int | None]) -> Iterator[None]:
    """Merge parts in place, the right one of a pair becoming None; yield when another pair is next.

    A heap has the pairs by rank and position; each merge changes two of them, so N parts take time
    in proportion to N log N. A pair in the heap may be gone, which its parts show.
    """
    n = len(parts)
    following, previous = [*range(1, n + 1)], [*range(-1, n - 1)]
    heap: list[tuple[int, int, Any, Any]] = []

    def look(i: int) -> None:
        if i >= 0 and following[i] < n:
            left, right = parts[i], parts[following[i]]
            if (r := rank(left, right)) is not None:
                heapq.heappush(heap, (r, i, left, right))

    def is_gone(i: int, left: Any, right: Any) -> bool:
        return parts[i] != left or following[i] == n or parts[following[i]] != right

    for i in range(n):
        look(i)
    while heap:
        lowest, i, left, right = heapq.heappop(heap)
        if is_gone(i, left, right):
            continue
        j = following[i]
        parts[i], parts[j] = left + right, None
        following[i] = following[j]
        if following[i] < n:
            previous[following[i]] = i
        look(previous[i])
        look(i)
        while heap and is_gone(*heap[0][1:]):
            heapq.heappop(heap)
        if not heap or heap[0][0] != lowest:
            yield


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pair that merges into each token, in the order of ranks, where there is one."""
    pairs = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1 and (pair := _last_pair(token, ranks)):
            pairs.append(pair)
    return pairs


def _last_pair(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """Return the two parts that merging the bytes of a token leaves before the last merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    if len(parts) > 64:  # where a heap is quicker
        whole = ranks[token]
        parts = merged(parts, lambda a, b: r if (r := ranks.get(a + b)) != whole else None)
        return (parts[0], parts[1]) if len(parts) == 2 else None
    pairs = [ranks.get(a + b, math.inf) for a, b in pairwise(parts)]
    while len(parts) > 2:
        lowest = min(pairs)
        if lowest == math.inf:
            return None
        i = pairs.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del pairs[i]
        for j in (i - 1, i):
            if 0 <= j < len(pairs):
                pairs[j] = ranks.get(parts[j] + parts[j + 1], math.inf)
    return (parts[0], parts[1])


def format_ranks(ranks: Mapping[bytes, int]) -> str:
    """Return the text of a ``.tiktoken`` file: a token in base64 and its rank in each line."""
    return "".join(
        f"{base64.b64encode(token).decode()} {rank}\n"
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    )


def parse_ranks(text: str, source: object) -> dict[bytes, int]:
    """Read the text of a ``.tiktoken`` file."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            content, i = base64.b64decode(token, validate=True), int(rank)
        except ValueError:
            raise UserError(
                f"{source}, line {number}: expected a token in base64 and its rank, and read "
                f"{line[:40]!r}"
            ) from None
        if not content or content in ranks or not 0 <= i < MOST_IDS:
            reason = "is empty" if not content else "has two ranks" if content in ranks else ""
            reason = reason or f"has a rank that is not between 0 and {MOST_IDS - 1}"
            raise UserError(f"{source}, line {number}: the token {token[:40]!r} {reason}")
        ranks[content] = i
    return ranks

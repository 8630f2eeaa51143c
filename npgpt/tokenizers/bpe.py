"""Byte-pair encodings over bytes, such as GPT-2's.

Ranks (the id of each token) and a regular expression (where to cut a text) define an encoding.
tiktoken, a library in Rust, encodes texts, because it is fast. `merge_steps` does the same in
Python, and shows each merge.
"""

from __future__ import annotations

import base64
import functools
import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.tokenizers.base import MOST_IDS, AddedToken, Tokenizer
from npgpt.tokenizers.normalizers import make_normalizer, split_by

# GPT-2's pattern. It cuts a text into words, numbers, punctuation and white space before any merge.
# GPT-2 wrote + for ++. Both match the same text here, and ++ (possessive) never backtracks.
PATTERN = r"'(?:[sdmt]|ll|re|ve)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s+"

Part = TypeVar("Part", str, bytes)


class BPETokenizer(Tokenizer):
    """A byte-pair encoding over bytes, which can encode any text whose bytes are tokens.

    Encoding has two steps. The pattern cuts the text into pieces: each match is a piece, and the
    text between two matches is a piece, too. Then the neighbours in each piece merge: of all pairs
    of neighbours whose bytes together are a token, the pair whose token has the lowest rank becomes
    this token, and so on until no pair is left that is a token together. For example, with the
    ranks of the example below, the piece ``the`` goes ``t h e`` -> ``th e`` -> ``the``.

    Parameters
    ----------
    ranks : mapping of bytes to int
        The id of each token. A token with a lower id merges first. The 256 single bytes must be
        tokens, unless `lacks` names them.
    pattern : str or sequence of str, optional
        The regular expression whose matches are pieces; GPT-2's if not given. If there are several
        patterns, the second cuts the pieces that the first has made, and so on.
    special_tokens : mapping of str to int, optional
        The ids of tokens such as ``<|endoftext|>``.
    name : str, optional
        The name of the encoding in messages.
    kind : str, optional
        The name of a published encoding, such as ``gpt2``. Only `npgpt.tokenizers` passes it: then
        a file that is written holds the name in place of the ranks.
    added_tokens : iterable of AddedToken, optional
        More tokens that are searched for before the text is cut, with their flags.
    before, after : sequence of int, optional
        Ids that are put before and after the ids of each text.
    normalizer : mapping, optional
        The description of a function that changes the text first, as in Hugging Face's files
        (`npgpt.tokenizers.normalizers`). Decoding then returns the normalized text.
    add_prefix_space : bool
        Whether to encode a text as if a space stood before it, if it does not begin with a space.
    unreached : mapping of bytes to int, optional
        The ids of tokens that no merge makes. Decoding knows them; encoding never returns them.
    lacks : collection of int, optional
        The single bytes that are no tokens. Encoding leaves them out of a text, as the tokenizers
        library does. For example, the vocabulary of SmolLM2 lacks 21 bytes: some that no UTF-8 has,
        and some control characters.

    Raises
    ------
    UserError
        If a single byte is not a token, an id stands for two tokens, or a pattern is not a regular
        expression.

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
        lacks: Collection[int] = (),
    ) -> None:
        added = [AddedToken(token, i) for token, i in (special_tokens or {}).items()]
        added += added_tokens
        unreached = unreached or {}
        new = {token.id for token in added if ranks.get(token.content.encode()) != token.id}
        n_tokens = len(ranks) + len(unreached) + len(new)
        tokens = {rank: token for token, rank in [*ranks.items(), *unreached.items()]}
        self._normalize = make_normalizer(normalizer)
        tokens |= {token.id: self._spelling(token).encode() for token in added}
        if len(tokens) < n_tokens or len({token.content for token in added}) < len(added):
            raise UserError(
                f"{name}: an id stands for two tokens, or a token is added twice; each token must "
                "have an id of its own"
            )
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing != [*lacks]:
            raise UserError(
                f"{name}: {len(missing)} of the 256 single bytes are no tokens, from "
                f"{missing[:1]} on, and {len(lacks)} may lack; an encoding without these bytes "
                "cannot encode every text"
            )
        super().__init__(tokens, added, before, after)
        import tiktoken

        patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        if not patterns:
            raise UserError(f"{name}: there is no pattern; give one, or a list of them")
        ids = {token.content: token.id for token in added}
        try:
            [*cut_by(patterns[:-1], [" "])]  # compiles the patterns, to find errors now
            self._encoding = tiktoken.Encoding(
                name, pat_str=patterns[-1], mergeable_ranks=dict(ranks), special_tokens=ids
            )
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{name}: the pattern is no regular expression: {error}") from None
        self.ranks, self.pattern, self.name, self.kind = ranks, pattern, name, kind
        self.normalizer, self.add_prefix_space = normalizer, add_prefix_space
        self.unreached, self.lacks = unreached, bytes(missing)
        self._patterns = patterns

    def normalize(self, text: str) -> str:
        """Return a text after the normalizer."""
        return self._normalize(text)

    def _encode(self, text: str) -> ndarray:
        text = self._with_space(text)
        if self.lacks and len(self._without_lacking(text)) < len(text.encode()):
            return self._encode_pieces(text)
        whole = cut_by(self._patterns[:-1], [text])
        try:
            ids = [i for piece in whole for i in self._encoding.encode_ordinary(piece)]
            covered = self._lengths[ids].sum() == len(text.encode())
        except BaseException as error:
            # tiktoken panics on hundreds of thousands of white spaces in a row, and on a pattern
            # that matches the empty string
            if type(error).__name__ != "PanicException":
                raise
            covered = False
        if not covered:  # tiktoken drops the text between two matches, so we cut the text here
            return self._encode_pieces(text)
        return np.array(ids, np.int64)

    def _encode_pieces(self, text: str) -> ndarray:
        """Return the ids of a text that is cut here, not by tiktoken."""
        pieces = map(self._without_lacking, cut_by(self._patterns, [text]))
        ids = [i for piece in pieces if piece for i in self._encoding._encode_single_piece(piece)]
        return np.array(ids, np.int64)

    def _without_lacking(self, text: str) -> bytes:
        """Return the bytes of a text, without those that are no tokens."""
        return text.encode().translate(None, self.lacks)

    def _with_space(self, text: str) -> str:
        return f" {text}" if self.add_prefix_space and text and text[0] != " " else text

    @functools.cached_property
    def _lengths(self) -> ndarray:
        """The number of bytes of each token, at the index of the token's id."""
        lengths = np.zeros(self.n_vocab, np.int64)
        for token, i in self.ranks.items():
            lengths[i] = len(token)
        return lengths

    # ---- explaining itself

    def pieces(self, text: str) -> list[list[bytes]]:
        """Return the single bytes of each piece that the patterns cut a normalized text into.

        Examples
        --------
        >>> ranks = {bytes([byte]): byte for byte in range(256)}
        >>> BPETokenizer(ranks).pieces("a b")
        [[b'a'], [b' ', b'b']]
        """
        pieces = cut_by(self._patterns, [self._with_space(self.normalize(text))])
        found = ([bytes([byte]) for byte in self._without_lacking(piece)] for piece in pieces)
        return [piece for piece in found if piece]

    def merge_steps(self, piece: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Yield the parts of a piece after each merge; the last list is the piece's tokens.

        Parameters
        ----------
        piece : sequence of bytes
            The single bytes of a piece, as `pieces` returns them.

        Examples
        --------
        >>> ranks = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257}
        >>> list(BPETokenizer(ranks).merge_steps([b"t", b"h", b"e"]))
        [[b'th', b'e'], [b'the']]
        """
        return merge_steps(piece, lambda left, right: self.ranks.get(left + right))

    @functools.cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pair of tokens that merges into each longer token, in the order of the ranks.

        Some encodings have tokens that no pair of other tokens makes. Such a token stands only for
        a piece that is equal to the token, and is not in this list.
        """
        return find_merges(self.ranks)

    # ---- saving

    def to_dict(self) -> dict[str, Any]:
        """Return a description in JSON's types, from which `load_tokenizer` makes the tokenizer.

        The description of a published encoding is its name; of any other encoding, it is complete.
        """
        if self.kind != "bpe":
            return {"kind": self.kind}
        return {"kind": self.kind} | self.describe() | {"ranks": format_ranks(self.ranks)}

    def describe(self) -> dict[str, Any]:
        """Return everything but the ranks: the JSON file that stands beside a ``.tiktoken`` file.

        A key whose value is empty or None is left out.
        """
        plain = [t for t in self.added_tokens if t == AddedToken(t.content, t.id)]
        rare = {
            "added_tokens": [asdict(t) for t in self.added_tokens if t not in plain],
            "before": list(self.before),
            "after": list(self.after),
            "normalizer": self.normalizer,
            "add_prefix_space": self.add_prefix_space,
            "unreached": format_ranks(self.unreached),
            "lacks": list(self.lacks),
        }
        return {
            "name": self.name,
            "pattern": self.pattern if isinstance(self.pattern, str) else list(self.pattern),
            "special_tokens": {token.content: token.id for token in plain},
            **{key: value for key, value in rare.items() if value},
        }


def cut_by(patterns: Sequence[str], pieces: Iterable[str]) -> Iterator[str]:
    """Cut pieces of text where the matches of a pattern begin and end, one pattern after the other.

    No text is lost: the text between two matches is a piece, too. Hugging Face's ``Split`` does the
    same with the behavior ``Isolated``.

    Parameters
    ----------
    patterns : sequence of str
        The second pattern cuts the pieces that the first has made, and so on.
    pieces : iterable of str
        The text, or its pieces.

    Raises
    ------
    UserError
        If a pattern is not a regular expression, or matches the empty string: such a match cuts
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
#
# `_merge` is the algorithm of byte-pair encoding; `merge_steps` and `merge` run it. The loop takes
# the pair of neighbours with the lowest rank, puts the token in place of the two parts, and looks
# for the two new pairs that the token makes with its neighbours. For the ranks ab: 0, abc: 1,
# cab: 2 and the parts of "cabc":
#
#     parts       pairs that have a rank         merge
#     c a b c     (a, b): 0                      a b -> ab
#     c ab c      (c, ab): 2, (ab, c): 1         ab c -> abc
#     c abc       none                           the end


def merge_steps(
    parts: Sequence[Part], rank: Callable[[Part, Part], int | None]
) -> Iterator[list[Part]]:
    """Yield the parts after each merge.

    Each merge joins the pair of neighbours with the lowest rank. Where this pair occurs several
    times, all occurrences merge in the same step, from left to right.

    Parameters
    ----------
    parts : sequence of bytes or str
        The smallest parts, such as the single bytes of a piece.
    rank : callable
        A function of a left part and a right part that returns the rank of the token that they
        make together, or None if together they are not a token.

    Examples
    --------
    >>> ranks = {b"ab": 0, b"abc": 1}
    >>> list(merge_steps([b"a", b"b", b"c"], lambda left, right: ranks.get(left + right)))
    [[b'ab', b'c'], [b'abc']]
    """
    merging: list[Any] = [*parts]
    for _ in _merge(merging, rank):
        yield [part for part in merging if part is not None]


def merge(parts: Sequence[Part], rank: Callable[[Part, Part], int | None]) -> list[Part]:
    """Return the parts after the last merge; the parameters are those of `merge_steps`."""
    merging: list[Any] = [*parts]
    for _ in _merge(merging, rank):
        pass
    return [part for part in merging if part is not None]


def _merge(parts: list[Any], rank: Callable[[Any, Any], int | None]) -> Iterator[None]:
    """Merge parts in place, and yield each time when all occurrences of a pair have merged.

    A merge stores the token at the index of the left part, and None at the index of the right part.
    ``following[i]`` and ``previous[i]`` are the indices of the parts beside part i, so that a merge
    moves nothing. A heap sorts the pairs by rank and then by index. A merge adds at most two pairs
    to the heap, so N parts take time in proportion to N log N. A merge also ends up to two older
    pairs: these stay in the heap, and are skipped when they come out, because one of their parts
    has changed.
    """
    n = len(parts)
    following, previous = [*range(1, n + 1)], [*range(-1, n - 1)]
    heap: list[tuple[int, int, Any, Any]] = []

    def push(i: int) -> None:  # the pair of part i and the part after it, if the pair has a rank
        if i >= 0 and following[i] < n:
            left, right = parts[i], parts[following[i]]
            if (r := rank(left, right)) is not None:
                heapq.heappush(heap, (r, i, left, right))

    def is_gone(i: int, left: Any, right: Any) -> bool:
        return parts[i] != left or following[i] == n or parts[following[i]] != right

    for i in range(n):
        push(i)
    while heap:
        lowest, i, left, right = heapq.heappop(heap)
        if is_gone(i, left, right):
            continue
        j = following[i]
        parts[i], parts[j] = left + right, None
        following[i] = following[j]
        if following[i] < n:
            previous[following[i]] = i
        push(previous[i])
        push(i)
        while heap and is_gone(*heap[0][1:]):
            heapq.heappop(heap)
        if not heap or heap[0][0] != lowest:
            yield


def find_merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pair of tokens that merges into each longer token, in the order of the ranks.

    A token that no pair of other tokens makes is left out. Ranks do not store the pairs, so each
    pair is found by merging the bytes of the token with all tokens of a lower rank: two parts are
    left, and they are the pair.

    Examples
    --------
    >>> find_merges({b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"abc": 4})
    [(b'b', b'c'), (b'a', b'bc')]
    """
    pairs = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1 and (pair := _last_pair(token, ranks)):
            pairs.append(pair)
    return pairs


def follow_from(ranks: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return whether merges are `find_merges` of the ranks, which takes several times as long.

    If each token has a higher rank than its parts, as is usual, then the merges that make the bytes
    of ``left + right`` happen in the order of their ranks. The last merge is that of `left` and
    `right`, unless a pair across the border of the two merges first. The loop goes back in time: of
    the two parts at the border, it takes back the merge of the part with the higher rank. Before
    that merge, one half of this part was at the border. The pair that was then at the border may
    have merged if its rank is lower than that of the merge that was taken back last. In this case,
    the bytes of the token are merged to find out.

    For example, for ``ab`` and ``cd`` with the ranks ab: 2, cd: 1:

        pair at the border     merges if its rank is
        ab cd                  the token itself
        b  cd                  below 2
        b  c                   below 1

    Examples
    --------
    >>> ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"abc": 4}
    >>> follow_from(ranks, [(b"b", b"c"), (b"a", b"bc")])
    True
    >>> follow_from(ranks, [(b"b", b"c"), (b"ab", b"c")])
    False
    """
    made = {token: (-1, b"", b"") for token in ranks if len(token) == 1}  # rank, left, right
    before = -1
    for left, right in merges:
        rank = ranks.get(left + right, -1)
        if rank <= before:
            return False
        if left not in made or right not in made:  # a part has a higher rank than the token
            return find_merges(ranks) == [*merges]
        x, y, below, across = left, right, rank, None
        while across is None or across > below:
            x_rank, _, x_right = made[x]
            y_rank, y_left, _ = made[y]
            if x_rank == y_rank:  # two bytes, the end; or one token twice, of which one is first
                across = None if x_rank < 0 else x_rank
                break
            if x_rank > y_rank:
                x, below = x_right, x_rank
            else:
                y, below = y_left, y_rank
            across = ranks.get(x + y)
        if across is not None and _last_pair(left + right, ranks) != (left, right):
            return False
        made[left + right] = rank, left, right
        before = rank
    rest = (token for token in ranks if len(token) > 1 and token not in made)
    return all(_last_pair(token, ranks) is None for token in rest)


def _last_pair(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """Return the two parts of a token's bytes before the last merge, or None if there are more.

    The loop merges the pair with the lowest rank until two parts are left. ``pairs[i]`` is the rank
    of parts i and i + 1. A list is quicker than the heap of `_merge` for a token of few bytes.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    if len(parts) > 64:  # a long token, for which the heap is quicker
        whole = ranks[token]
        parts = merge(parts, lambda a, b: r if (r := ranks.get(a + b)) != whole else None)
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
    r"""Return the text of a ``.tiktoken`` file: each line has a token in base64 and its rank.

    Examples
    --------
    >>> format_ranks({b"the": 262})
    'dGhl 262\n'
    """
    return "".join(
        f"{base64.b64encode(token).decode()} {rank}\n"
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    )


def parse_ranks(text: str, source: object) -> dict[bytes, int]:
    """Return the ranks in the text of a ``.tiktoken`` file; `source` is its name in messages.

    Raises
    ------
    UserError
        If a line is not a token in base64 and its rank, or a token is empty or occurs twice, or a
        rank is not in [0, 2**24).
    """
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

"""Training a byte-pair encoding: the most frequent pair becomes a token, again and again.

Equal counts are decided by the pair that is greater as a pair of byte strings, so that the same
text always gives the same vocabulary.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from npgpt.errors import UserError
from npgpt.tokenizers.base import check_utf8
from npgpt.tokenizers.bpe import PATTERN, BPETokenizer, cut_by

END_OF_TEXT = "<|endoftext|>"
LONGEST = 4096  # the bytes of a piece: a merge in it takes time in proportion


def train_bpe(
    text: str,
    vocab_size: int,
    *,
    pattern: str = PATTERN,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    min_frequency: int = 2,
    name: str = "bpe",
    progress: Callable[[int], object] | None = None,
) -> BPETokenizer:
    """Train a byte-pair encoding on a text.

    Ids are, in this order, the 256 bytes, the merges, and the special tokens.

    Parameters
    ----------
    text : str
        A special token in it ends a piece, and is no part of any.
    vocab_size : int
        Tokens in all: at least 256 and the special ones. Fewer come out of a text in which no pair
        is left that occurs often enough.
    pattern : str, optional
        The regular expression of a piece, which no token reaches beyond; GPT-2's if not given.
        What lies between two matches is a piece, too.
    special_tokens : sequence of str, optional
    min_frequency : int, optional
        How often a pair must occur to become a token.
    name : str, optional
    progress : callable, optional
        Called with the number of tokens after each merge.

    Returns
    -------
    BPETokenizer

    Raises
    ------
    UserError
        If the vocabulary is too small, a special token is empty or there twice, or the pattern is
        no regular expression, or matches where nothing is.

    References
    ----------
    Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword Units, 2016.

    Examples
    --------
    >>> from npgpt.tokenizers import train_bpe
    >>> tokenizer = train_bpe("low lower lowest", 259)
    >>> tokenizer.merges
    [(b'o', b'w'), (b'l', b'ow')]
    """
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size is {vocab_size}; it must be at least {smallest}: 256 bytes and "
            f"{len(special_tokens)} special tokens"
        )
    if min_frequency < 1:
        raise UserError(f"min_frequency is {min_frequency}; it must be at least 1")
    if "" in special_tokens or len(set(special_tokens)) < len(special_tokens):
        raise UserError("special tokens must be different from each other, and not empty")
    ranks = {bytes([byte]): byte for byte in range(256)}
    pairs = learn_merges(count_pieces(text, pattern, special_tokens), min_frequency)
    for left, right in pairs if vocab_size > smallest else ():
        ranks[left + right] = len(ranks)
        if progress is not None:
            progress(len(ranks))
        if len(ranks) == vocab_size - len(special_tokens):
            break
    special = {token: len(ranks) + i for i, token in enumerate(special_tokens)}
    return BPETokenizer(ranks, pattern, special, name)


def count_pieces(
    text: str, pattern: str = PATTERN, special_tokens: Sequence[str] = ()
) -> dict[bytes, int]:
    """Return how often each piece occurs that the pattern cuts a text into (see `cut_by`).

    One of more than `LONGEST` bytes, such as a megabyte without a space, counts as several.
    """
    import regex  # type: ignore[import-untyped]

    check_utf8(text)
    longest_first = sorted(special_tokens, key=len, reverse=True)
    between = "|".join(map(regex.escape, longest_first))
    pieces = Counter(cut_by([pattern], regex.split(between, text) if between else [text]))
    counts: Counter[bytes] = Counter()
    for piece, n in pieces.items():
        content = piece.encode()
        for start in range(0, len(content), LONGEST):
            counts[content[start : start + LONGEST]] += n
    return dict(counts)


def learn_merges(
    pieces: Mapping[bytes, int], min_frequency: int = 2
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs to merge, best first, until none occurs `min_frequency` times.

    Pairs are counted once. A merge then visits only the pieces that its pair occurs in, and
    corrects the counts of its neighbours. A heap finds the next pair: counts of old pairs only
    fall, so an entry is at worst too high, which shows when it comes to the top.
    """
    tokens = [bytes([byte]) for byte in range(256)]
    # A heap pops the least, so ties need strings that sort the other way round: each byte is
    # mirrored, and an end above all of them puts "a" behind "ab".
    mirrored = [chr(255 - byte) + "\u0100" for byte in range(256)]
    words = [list(piece) for piece in pieces]  # each byte, then each token, by its id
    frequencies = list(pieces.values())
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    where: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # words that a pair is in
    for i, (word, n) in enumerate(zip(words, frequencies, strict=True)):
        for pair in zip(word, word[1:], strict=False):
            counts[pair] += n
            where[pair].append(i)

    def entry(pair: tuple[int, int]) -> tuple[int, str, str, tuple[int, int]]:
        return -counts[pair], mirrored[pair[0]], mirrored[pair[1]], pair

    heap = [entry(pair) for pair in counts]
    heapq.heapify(heap)
    while heap:
        count, _, _, pair = heapq.heappop(heap)
        if count != -counts[pair]:
            heapq.heappush(heap, entry(pair))
            continue
        if -count < min_frequency:
            return
        a, b = pair
        yield tokens[a], tokens[b]
        new = len(tokens)
        tokens.append(tokens[a] + tokens[b])
        mirrored.append(mirrored[a][:-1] + mirrored[b])

        # by the neighbour on the left and on the right: how often, and in which words
        before: defaultdict[int, int] = defaultdict(int)
        after: defaultdict[int, int] = defaultdict(int)
        where_before: defaultdict[int, list[int]] = defaultdict(list)
        where_after: defaultdict[int, list[int]] = defaultdict(list)
        visited = -1
        for i in where.pop(pair):  # a word twice in a row if the pair is in it twice
            if i == visited:
                continue
            visited, word, n = i, words[i], frequencies[i]
            j, last = 0, len(word) - 1
            while a in word[j:last]:
                j = word.index(a, j)
                if word[j + 1] == b:
                    if j > 0:
                        before[word[j - 1]] += n
                        where_before[word[j - 1]].append(i)
                    if j + 1 < last:
                        after[word[j + 2]] += n
                        where_after[word[j + 2]].append(i)
                    word[j : j + 2] = [new]
                    last -= 1
                j += 1
        for left, n in before.items():
            counts[left, a] -= n
            counts[left, new] += n
            where[left, new] = where_before[left]
        for right, n in after.items():
            counts[b, right] -= n
            counts[new, right] += n
            where[new, right] = where_after[right]
        del counts[pair]
        for made in {(left, new) for left in before} | {(new, right) for right in after}:
            if counts[made] > 0:
                heapq.heappush(heap, entry(made))

"""Training a tokenizer: the most frequent pair of neighbours becomes a token, repeatedly.

In a byte-pair encoding, the first tokens are the bytes; in WordPiece, the characters of words. Of
pairs that are equally frequent, the pair that is greater as a pair of byte strings becomes a token
first. Therefore the same text always gives the same vocabulary.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from npgpt.errors import UserError
from npgpt.tokenizers.base import check_utf8
from npgpt.tokenizers.bpe import PATTERN, BPETokenizer, cut_by
from npgpt.tokenizers.wordpiece import (
    UNKNOWN,
    WordPieceTokenizer,
    find_chunks,
    split_words,
)

END_OF_TEXT = "<|endoftext|>"
BYTES = tuple(bytes([byte]) for byte in range(256))
BERT_TOKENS = "[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]"
LONGEST = 4096  # bytes of a piece; longer pieces are cut, because a merge reads the whole piece


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

    The first 256 ids are the bytes; then come the tokens that merges make, in the order of the
    merges, and last the special tokens.

    Parameters
    ----------
    text : str
        The text to train on. Special tokens in the text are not trained on; a piece ends before a
        special token.
    vocab_size : int
        The number of tokens, at least 256 plus the number of special tokens. The vocabulary is
        smaller if no pair is left that occurs `min_frequency` times.
    pattern : str, optional
        The regular expression that cuts the text into pieces (see `BPETokenizer`); GPT-2's if not
        given. A token is always a part of one piece.
    special_tokens : sequence of str, optional
        Tokens that do not come from the text, such as the end of a document.
    min_frequency : int, optional
        How often a pair must occur to become a token; at least 1.
    name : str, optional
        The name of the encoding in messages.
    progress : callable, optional
        A function that is called with the number of tokens after each merge.

    Returns
    -------
    BPETokenizer

    Raises
    ------
    UserError
        If `vocab_size` or `min_frequency` is too small, a special token is empty or occurs twice,
        the text holds half of a surrogate pair, or the pattern is not a regular expression or
        matches the empty string.

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
    """Return how often each piece of a text occurs (see `npgpt.tokenizers.bpe.cut_by`).

    A piece of more than `LONGEST` bytes, such as a megabyte without a space, is cut into several.

    Examples
    --------
    >>> count_pieces("low low lower")
    {b'low': 1, b' low': 1, b' lower': 1}
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


def train_wordpiece(
    text: str,
    vocab_size: int,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    progress: Callable[[int], object] | None = None,
) -> WordPieceTokenizer:
    """Train a WordPiece tokenizer, BERT's kind, on a text.

    The first ids are BERT's special tokens; then come all characters, each as the beginning of a
    word (``e``), and those that continue a word as such (``##e``); and last the tokens that merges
    make. How Google trained the
    vocabulary of BERT was never published. The merges here are of the most frequent pairs, as in
    the tokenizers library of Hugging Face.

    Parameters
    ----------
    text : str
        The text to train on.
    vocab_size : int
        The number of tokens: at least the special tokens and the characters. The vocabulary is
        smaller if no pair is left that occurs `min_frequency` times.
    lowercase : bool, optional
        Whether letters are lower-cased, and accents removed.
    min_frequency : int, optional
        How often a pair must occur to become a token; at least 1.
    progress : callable, optional
        A function that is called with the number of tokens after each merge.

    Returns
    -------
    WordPieceTokenizer

    Raises
    ------
    UserError
        If `vocab_size` or `min_frequency` is too small, or the text has no word.

    References
    ----------
    Wu et al., Google's Neural Machine Translation System, 2016, section 4.1.

    Examples
    --------
    >>> from npgpt.tokenizers import train_wordpiece
    >>> tokenizer = train_wordpiece("low lower Lowest", 20)
    >>> " ".join(list(tokenizer.vocab)[5:])
    'e l o r s t w ##e ##o ##r ##s ##t ##w ##ow low'
    >>> tokenizer.decode(tokenizer.encode("lower"), skip_special_tokens=True)
    'lower'
    """
    if min_frequency < 1:
        raise UserError(f"min_frequency is {min_frequency}; it must be at least 1")
    check_utf8(text)
    # A word of another tokenizer of this kind, whatever its vocabulary, is a word here.
    normalize = WordPieceTokenizer({UNKNOWN: 0}, lowercase=lowercase).normalize
    words: Counter[str] = Counter()
    for chunk, n in Counter(find_chunks(normalize(text))).items():
        for word in split_words(chunk):
            words[word[:LONGEST]] += n
    if not words:
        raise UserError("the text has no word to train on")
    # A space in front marks a character that begins a word, so that joined characters keep it:
    #   "low" is " l" "o" "w", which become " l" "ow" and then " low".
    # In the vocabulary, it is the other way round: "low" begins a word, "##ow" continues one.
    parts = {word: (f" {word[0]}", *word[1:]) for word in words}
    continuing = {part for word in parts.values() for part in word[1:]}
    beginning = {f" {part}" for part in continuing} | {word[0] for word in parts.values()}
    alphabet = [*sorted(beginning), *sorted(continuing)]
    smallest = len(BERT_TOKENS) + len(alphabet)
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size is {vocab_size}; it must be at least {smallest}: {len(BERT_TOKENS)} "
            f"special tokens, and {len(alphabet)} characters that begin or continue words"
        )
    ids = {part: n for n, part in enumerate(alphabet)}
    pieces = {tuple(ids[part] for part in word): words[text] for text, word in parts.items()}
    tokens = [*alphabet]
    pairs = learn_merges(pieces, min_frequency, [part.encode() for part in alphabet])
    for left, right in pairs if vocab_size > smallest else ():
        tokens.append((left + right).decode())
        if progress is not None:
            progress(len(BERT_TOKENS) + len(tokens))
        if len(BERT_TOKENS) + len(tokens) == vocab_size:
            break
    spelled = [token[1:] if token.startswith(" ") else f"##{token}" for token in tokens]
    vocab = {token: n for n, token in enumerate(dict.fromkeys([*BERT_TOKENS, *spelled]))}
    return WordPieceTokenizer(vocab, lowercase=lowercase)


def learn_merges(
    pieces: Mapping[bytes, int] | Mapping[tuple[int, ...], int],
    min_frequency: int = 2,
    alphabet: Sequence[bytes] = BYTES,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs to merge, the first merge first, until no pair occurs `min_frequency` times.

    The obvious loop counts all pairs, merges the most frequent pair everywhere, and counts again.
    This function yields the same pairs, and counts all pairs only once. A merge of a and b then
    visits the pieces that hold the pair, and corrects the counts of the pairs beside it. In the
    piece ``x a b y``, which occurs n times, the new token ``ab`` makes ``x ab y``:

        counts[x, a]  falls by n        counts[x, ab]  grows by n
        counts[b, y]  falls by n        counts[ab, y]  grows by n

    A heap finds the most frequent pair. The count of an old pair only falls, and its entry in the
    heap keeps the older, higher count. So an entry that comes to the top is compared with the
    count, and pushed again with the right count if the two differ.

    Parameters
    ----------
    pieces : mapping of bytes, or of tuples of int, to int
        How often each piece occurs, from `count_pieces`; or pieces of ids of the alphabet.
    min_frequency : int
        How often a pair must occur to be merged.
    alphabet : sequence of bytes
        The tokens before the first merge, by their ids.

    Examples
    --------
    >>> list(learn_merges({b"low": 2, b"lower": 1}, min_frequency=3))
    [(b'o', b'w'), (b'l', b'ow')]
    """
    tokens = [*alphabet]
    # heapq pops the smallest entry, and we want the greatest pair of equally frequent pairs. So the
    # heap compares mirrored strings, which sort the other way round: each byte becomes 255 - byte,
    # and a last character above all others sorts "a" after "ab", where Python sorts it before.
    mirrored = ["".join(chr(255 - byte) for byte in token) + "\u0100" for token in tokens]
    words = [list(piece) for piece in pieces]  # the pieces as lists of ids
    frequencies = list(pieces.values())
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    # the indices of the words that hold a pair, or held the pair before another merge
    where: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
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

        # For each neighbour x on the left and y on the right of a merge: how often it occurs there,
        # and the indices of the words in which it occurs.
        before: defaultdict[int, int] = defaultdict(int)
        after: defaultdict[int, int] = defaultdict(int)
        where_before: defaultdict[int, list[int]] = defaultdict(list)
        where_after: defaultdict[int, list[int]] = defaultdict(list)
        visited = -1
        for i in where.pop(pair):  # a word that holds the pair twice is listed twice in a row
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

"""GPT-1's tokenizer: a byte-pair encoding of the characters of lower-cased words.

The last character of each word carries the mark ``</w>``, so that the token ``low</w>`` is the word
"low", and the token ``low`` is the beginning of a longer word such as "lower".
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.tokenizers.base import AddedToken, Tokenizer
from npgpt.tokenizers.bpe import merge, merge_steps
from npgpt.tokenizers.normalizers import is_punctuation, normalize_as_bert

END = "</w>"  # the mark of the end of a word


class GPT1Tokenizer(Tokenizer):
    r"""GPT-1's byte-pair encoding of 40,478 tokens, as ``OpenAIGPTTokenizer`` of transformers.

    A text is normalized: control characters and accents are removed, and letters are lower-cased.
    Punctuation marks and Chinese characters are words of their own. Therefore decoding returns the
    words, and not the text: ``Héllo,  you`` becomes ``hello , you``. A part of a word that is not
    in the vocabulary becomes ``<unk>``.

    OpenAI's release of 2018 differs from transformers, and so from this class: it repaired the text
    with ftfy, used the words of spaCy (``don't`` was ``do n't``), kept accents, replaced some marks
    by others (a long dash by ``-``), and encoded a line break as the token ``\n</w>``. Here a line
    break is white space.

    Parameters
    ----------
    vocab : mapping of str to int, optional
        The ids of the tokens. If not given, OpenAI's vocabulary and merges are read from the files
        that ``npgpt tokenizer add`` has copied.
    merges : sequence of pairs of str, optional
        The pairs of tokens that merge; the first pair merges first.
    added_tokens : iterable of AddedToken, optional
        Tokens that are searched for before the text is normalized, with their flags; ``<unk>`` if
        not given.
    before, after : sequence of int, optional
        Ids that are put before and after the ids of each text.

    Raises
    ------
    UserError
        If `vocab` is not given and the files are missing, or the vocabulary lacks ``<unk>`` or the
        token that a merge makes.

    Examples
    --------
    >>> from npgpt.tokenizers import GPT1Tokenizer
    >>> vocab = {"<unk>": 0, "h": 1, "i</w>": 2, "hi</w>": 3, "!</w>": 4}
    >>> tokenizer = GPT1Tokenizer(vocab, [("h", "i</w>")])
    >>> tokenizer.encode("Hi!").tolist(), tokenizer.decode([3, 4])
    ([3, 4], 'hi !')
    """

    kind = "gpt1"

    def __init__(
        self,
        vocab: Mapping[str, int] | None = None,
        merges: Sequence[tuple[str, str]] | None = None,
        *,
        added_tokens: Iterable[AddedToken] | None = None,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
    ) -> None:
        self._by_name = vocab is None
        if vocab is None:
            from npgpt.tokenizers.store import gpt1_files

            vocab, merges = gpt1_files()
        merges = merges or ()
        if "<unk>" not in vocab:
            raise UserError(
                "GPT-1's vocabulary lacks <unk>, the token for characters that it does not know"
            )
        if unknown := [pair for pair in merges if "".join(pair) not in vocab]:
            raise UserError(
                f"the vocabulary lacks {''.join(unknown[0])!r}, the token that the merge of "
                f"{unknown[0][0]!r} and {unknown[0][1]!r} makes"
            )
        self.vocab, self.merges = vocab, merges
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._ids_of_word = functools.lru_cache(2**17)(self._merge)
        added = [AddedToken("<unk>", vocab["<unk>"])] if added_tokens is None else [*added_tokens]
        names = {i: token for token, i in vocab.items()} | {t.id: self._spelling(t) for t in added}
        self._ends = {i for i, token in names.items() if token.endswith(END)}
        tokens = {
            i: token.removesuffix(END).replace(END, " ").encode() + b" " * (i in self._ends)
            for i, token in names.items()
        }
        super().__init__(tokens, added, before, after)

    def normalize(self, text: str) -> str:
        """Return a text without control characters and accents, in lower case."""
        return normalize_as_bert(text)

    def _encode(self, text: str) -> ndarray:
        ids = [i for word in _words(text) for i in self._ids_of_word(word)]
        return np.array(ids, np.int64)

    def _merge(self, word: str) -> list[int]:
        parts = merge(_characters(word), self._rank)
        return [self.vocab.get(part, self.vocab["<unk>"]) for part in parts]

    def _rank(self, left: str, right: str) -> int | None:
        return self._ranks.get((left, right))

    def _piece(self, i: int, previous: int | None) -> bytes:
        content = self.tokens[i].removesuffix(b" ") if i in self._ends else self.tokens[i]
        return b" " + content if previous in self._ends else content

    def pieces(self, text: str) -> list[list[str]]:
        """Return the characters of each word of a text; each last character has the mark ``</w>``.

        Examples
        --------
        >>> GPT1Tokenizer({"<unk>": 0}).pieces("Hi!")
        [['h', 'i</w>'], ['!</w>']]
        """
        return [_characters(word) for word in words(text)]

    def merge_steps(self, piece: Sequence[str]) -> Iterator[list[str]]:
        """Yield the parts of a word after each merge; the last list is the word's tokens."""
        return merge_steps(piece, self._rank)

    def to_dict(self) -> dict[str, Any]:
        """Return a description in JSON's types, from which `load_tokenizer` makes the tokenizer.

        The description of OpenAI's vocabulary is its name; of any other, it is complete.
        """
        if self._by_name:
            return {"kind": self.kind}
        merges = [" ".join(pair) for pair in self.merges]
        rare = {
            "added_tokens": [asdict(token) for token in self.added_tokens],
            "before": list(self.before),
            "after": list(self.after),
        }
        if self.added_tokens == (AddedToken("<unk>", self.vocab["<unk>"]),):
            del rare["added_tokens"]
        rare = {key: value for key, value in rare.items() if value or key == "added_tokens"}
        return {"kind": self.kind, "vocab": dict(self.vocab), "merges": merges, **rare}


def words(text: str) -> list[str]:
    """Return the words of a text, as BERT's basic tokenizer finds them.

    Examples
    --------
    >>> words("Déjà vu: 天气!")
    ['deja', 'vu', ':', '天', '气', '!']
    """
    return _words(normalize_as_bert(text))


def _words(text: str) -> list[str]:
    return "".join(f" {c} " if is_punctuation(c) else c for c in text).split()


def _characters(word: str) -> list[str]:
    return [*word[:-1], word[-1] + END]

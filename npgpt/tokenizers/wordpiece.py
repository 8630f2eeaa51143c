"""BERT's tokenizer: words, and the pieces of words that are not in the vocabulary.

A text is normalized (`npgpt.tokenizers.normalizers.normalize_as_bert`) and cut into words at white
space and punctuation. A word becomes the longest token that it begins with, the rest of the word
the longest token with the mark ``##`` that the rest begins with, and so on:

    "unaffable"  ->  "un" "##aff" "##able"

A word of which any part is no token becomes ``[UNK]`` (Devlin et al. 2018, section 3; Wu et al.
2016, arXiv:1609.08144, section 4.1).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.tokenizers.base import WHITE, AddedToken, Tokenizer
from npgpt.tokenizers.normalizers import is_punctuation, normalize_as_bert

UNKNOWN = "[UNK]"
SPECIAL = {  # BERT's special tokens, by the names that Hugging Face's files give them
    "unk_token": UNKNOWN,
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
CLOSING = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")  # decoded without a space before
_CHUNK = re.compile(f"[^{WHITE}]+")


def find_chunks(text: str) -> list[str]:
    """Return the parts of a text between white space."""
    return _CHUNK.findall(text)


def split_words(chunk: str) -> list[str]:
    """Return the words of a text without white space; each mark of punctuation is a word.

    Examples
    --------
    >>> split_words("(don't)")
    ['(', 'don', "'", 't', ')']
    """
    words = "".join(f" {c} " if is_punctuation(c) else c for c in chunk).split(" ")
    return [word for word in words if word]


class WordPieceTokenizer(Tokenizer):
    """BERT's WordPiece, as ``BertTokenizer`` of transformers.

    Decoding returns the words, and not the text: ``Héllo,  you`` becomes ``hello, you``.

    Parameters
    ----------
    vocab : mapping of str to int
        The ids of the tokens. A token that continues a word begins with `prefix`.
    clean_text, handle_chinese_chars, strip_accents, lowercase : bool
        How a text is normalized; see `npgpt.tokenizers.normalizers.normalize_as_bert`. If
        `strip_accents` is None, accents are removed where letters are lower-cased.
    unk_token, prefix : str
    max_input_chars_per_word : int
        A longer word becomes `unk_token`.
    cleanup : bool
        Whether decoding puts no space before a full stop, a comma and the like.
    added_tokens : iterable of AddedToken, optional
        Those of BERT's five special tokens that the vocabulary has, if not given.
    before, after : sequence of int, optional
        Ids that are put before and after the ids of each text: ``[CLS]`` and ``[SEP]``, if not
        given and in the vocabulary.

    Raises
    ------
    UserError
        If the vocabulary lacks `unk_token`.

    Examples
    --------
    >>> from npgpt.tokenizers import WordPieceTokenizer
    >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] un ##aff ##able , 天".split()
    >>> tokenizer = WordPieceTokenizer({word: i for i, word in enumerate(words)})
    >>> tokenizer.encode("Unaffable, 天気").tolist()
    [2, 5, 6, 7, 8, 9, 1, 3]
    >>> tokenizer.decode([5, 6, 7, 8, 9])
    'unaffable, 天'
    >>> batch = tokenizer.encode_batch(["un", "天"], pairs=["天", ""], max_length=6)
    >>> batch.input_ids
    array([[2, 5, 3, 9, 3],
           [2, 9, 3, 3, 0]])
    >>> batch.token_type_ids
    array([[0, 0, 0, 1, 1],
           [0, 0, 0, 1, 0]])
    """

    kind = "wordpiece"
    has_segments = True

    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        clean_text: bool = True,
        handle_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        lowercase: bool = True,
        unk_token: str = UNKNOWN,
        prefix: str = "##",
        max_input_chars_per_word: int = 100,
        cleanup: bool = True,
        added_tokens: Iterable[AddedToken] | None = None,
        before: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
    ) -> None:
        if unk_token not in vocab:
            raise UserError(f"the vocabulary lacks {unk_token}, the token for unknown words")
        self.vocab, self.unk_token, self.prefix = dict(vocab), unk_token, prefix
        self.max_input_chars_per_word, self.cleanup = max_input_chars_per_word, cleanup
        self.normalizer: dict[str, Any] = {
            "clean_text": clean_text,
            "handle_chinese_chars": handle_chinese_chars,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        }
        self._longest = max(map(len, vocab))
        self._ids_of_chunk = functools.lru_cache(2**17)(self._pieces)
        if added_tokens is None:
            added_tokens = [AddedToken(t, vocab[t]) for t in SPECIAL.values() if t in vocab]
        added = [*added_tokens]
        ids = dict(vocab) | {token.content: token.id for token in added}
        if before is None:
            before = [ids["[CLS]"]] if "[CLS]" in ids else []
        if after is None:
            after = [ids["[SEP]"]] if "[SEP]" in ids else []
        names = {i: token for token, i in ids.items()}
        tokens = {i: token.encode() for i, token in sorted(names.items())}
        super().__init__(tokens, added, before, after)
        contents = {token.content for token in added}
        self.special_tokens_map = {k: t for k, t in SPECIAL.items() if t in contents}
        closing = CLOSING if cleanup else ()
        self._joined = {  # the tokens that follow others without a space, and what they add
            i: (token.removeprefix(prefix) if token.startswith(prefix) else token).encode()
            for i, token in names.items()
            if token.startswith((prefix, *closing))
        }

    def normalize(self, text: str) -> str:
        """Return a text as the vocabulary spells it, such as in lower case without accents."""
        return normalize_as_bert(text, **self.normalizer)

    def _encode(self, text: str) -> ndarray:
        chunks = find_chunks(text)
        return np.array([i for chunk in chunks for i in self._ids_of_chunk(chunk)], np.int64)

    def _pieces(self, chunk: str) -> list[int]:
        """Return the ids of a text without white space: of its words, cut at punctuation."""
        return [i for word in split_words(chunk) for i in self._ids_of_word(word)]

    def _ids_of_word(self, word: str) -> list[int]:
        """Return the longest tokens that a word begins with, one after the other."""
        unknown = [self.vocab[self.unk_token]]
        if len(word) > self.max_input_chars_per_word:
            return unknown
        ids, start = list[int](), 0
        while start < len(word):
            mark = self.prefix if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                if (i := self.vocab.get(mark + word[start:end])) is not None:
                    break
            else:
                return unknown
            ids.append(i)
            start = end
        return ids

    def _piece(self, i: int, previous: int | None) -> bytes:
        if previous is None:
            return self.tokens[i]
        return self._joined[i] if i in self._joined else b" " + self.tokens[i]

    def to_dict(self) -> dict[str, Any]:
        """Return a description in JSON's types, from which `load_tokenizer` makes the tokenizer."""
        return {
            "kind": self.kind,
            "vocab": self.vocab,
            **self.normalizer,
            "unk_token": self.unk_token,
            "prefix": self.prefix,
            "max_input_chars_per_word": self.max_input_chars_per_word,
            "cleanup": self.cleanup,
            "added_tokens": [asdict(token) for token in self.added_tokens],
            "before": list(self.before),
            "after": list(self.after),
        }

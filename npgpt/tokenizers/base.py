"""What every tokenizer does, and the two that need no vocabulary file: characters and bytes."""

from __future__ import annotations

import codecs
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy import ndarray

from autograd.schema import Range
from npgpt.errors import UserError

WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""Unicode's white space. Python counts U+001C to U+001F to it, too, Hugging Face's library not."""


MOST_IDS = 2**24  # so that a table by id stays small
TokenId = Annotated[int, Range(0, MOST_IDS - 1)]


@dataclass(frozen=True)
class AddedToken:
    """A token that is searched for in a text as a string, before the text is cut and merged.

    Parameters
    ----------
    content : str
        What the text spells.
    id : int
    special : bool
        The text must be allowed to spell the token (see `Tokenizer.encode`), and decoding can leave
        the token out. A token that is not special is always searched for, as a word of its own.
    single_word : bool
        The token does not match inside of a longer word.
    lstrip, rstrip : bool
        White space before (after) the token belongs to the token.
    normalized : bool
        The token is searched for after the text was normalized, and is itself normalized for that.
    """

    content: str
    id: TokenId
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class Tokenizer(ABC):
    """Text to token ids, and back: decoding what was encoded gives the same text.

    Parameters
    ----------
    tokens : mapping of int to bytes
        What each id stands for, special tokens included.
    added_tokens : iterable of AddedToken, optional
        Tokens that are searched for in a text before anything else, such as the end of a document.
    before, after : sequence of int, optional
        Ids that stand before and after every text.

    Attributes
    ----------
    kind : str
        What `load_tokenizer` knows it by.
    n_vocab : int
        One more than the largest id.
    special_tokens : dict of str to int
        The ids of the added tokens that are special.

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
        self,
        tokens: Mapping[int, bytes],
        added_tokens: Iterable[AddedToken] = (),
        before: Sequence[int] = (),
        after: Sequence[int] = (),
    ) -> None:
        self.tokens = tokens
        self.added_tokens = tuple(added_tokens)
        self.before, self.after = tuple(before), tuple(after)
        self.special_tokens = {t.content: t.id for t in self.added_tokens if t.special}
        self.n_vocab = max(tokens, default=-1) + 1
        if wrong := [i for i in {*tokens, *self.before, *self.after} if not 0 <= i < MOST_IDS]:
            raise UserError(f"the id of a token is {wrong[0]}; it must be in [0, {MOST_IDS:,})")
        searched = dict[tuple[str, bool], str]()
        for token in self.added_tokens:
            content = self._shown(token)
            if not content:
                raise UserError(f"nothing is left of the added token {token.content!r}")
            same = searched.setdefault((content, token.normalized), token.content)
            if same != token.content:
                raise UserError(
                    f"the added tokens {same!r} and {token.content!r} become the same text, "
                    f"{content!r}, so which of them it spells is not known"
                )

    # ---- encoding

    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | Collection[str] = (),
        disallowed_special: Literal["all"] | Collection[str] = "all",
        add_special_tokens: bool = True,
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
        add_special_tokens : bool
            Put the tokens before and after the text that the tokenizer's template asks for. Only
            some tokenizers from Hugging Face's files have a template.

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
        check_utf8(text)
        wanted = [t for t in self.added_tokens if not t.special or t.content in allowed]
        parts = [
            np.array([part]) if isinstance(part, int) else self._encode(part)
            for part in self._split(text, wanted)
        ]
        before, after = (self.before, self.after) if add_special_tokens else ((), ())
        return np.concatenate([np.array(before, np.int64), *parts, np.array(after, np.int64)])

    def _split(self, text: str, wanted: Sequence[AddedToken]) -> Iterator[str | int]:
        """Yield what lies between the added tokens, normalized, and the ids of these tokens.

        Tokens that are normalized are searched for in what the others have left.
        """
        exact = {token.content: token for token in wanted if not token.normalized}
        normal = {self._shown(token): token for token in wanted if token.normalized}
        for part in split_at(text, exact):
            if isinstance(part, int):
                yield part
            else:
                yield from split_at(self.normalize(part), normal)

    def normalize(self, text: str) -> str:
        """Return what is encoded in place of a text: the text itself, or a simpler form."""
        return text

    def _shown(self, token: AddedToken) -> str:
        """Return what an added token is searched for as, and decoded to."""
        return self.normalize(token.content) if token.normalized else token.content

    @abstractmethod
    def _encode(self, text: str) -> ndarray:
        """Return the ids of a normalized text; special tokens in it are text like any other."""

    # ---- decoding

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD.

        Raises
        ------
        UserError
            If an id stands for nothing, or is no whole number.
        """
        decoder = StreamDecoder(self, skip_special_tokens)
        return decoder.put(ids) + decoder.end()

    def decode_stream(
        self, ids: Iterable[int], *, skip_special_tokens: bool = False
    ) -> Iterator[str]:
        """Yield the text of token ids as they come, never a part of a character.

        Together the pieces are what `decode` returns.
        """
        decoder = StreamDecoder(self, skip_special_tokens)
        for i in ids:
            if text := decoder.put([i]):
                yield text
        if text := decoder.end():
            yield text

    def _content(self, i: int) -> tuple[bytes, bytes]:
        """Return what an id stands for, and what separates it from a token that follows."""
        return self.tokens[i], b""

    # ---- saving

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs, as JSON."""


class StreamDecoder:
    """Text of token ids that come a few at a time; each id is decoded once.

    Parameters
    ----------
    tokenizer : Tokenizer
    skip_special_tokens : bool
        Leave the special tokens out.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer, StreamDecoder
    >>> decoder = StreamDecoder(ByteTokenizer())
    >>> decoder.put([110, 195]), decoder.put([169]), decoder.end()
    ('n', 'é', '')
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = set(tokenizer.special_tokens.values()) if skip_special_tokens else set()
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._separator = b""

    def put(self, ids: Iterable[int]) -> str:
        """Return the text that these ids add; the bytes of an unfinished character are kept back.

        Raises
        ------
        UserError
            If an id stands for nothing, or is no whole number.
        """
        tokenizer, content = self._tokenizer, []
        for value in ids:
            try:
                i = operator.index(value)
            except TypeError:
                raise UserError(
                    f"token ids must be whole numbers, and one is {value!r:.40}; decode takes the "
                    "ids of one text, (T,)"
                ) from None
            if i in self._skipped:
                continue
            if i not in tokenizer.tokens:
                raise UserError(
                    f"token id {i} stands for nothing in this vocabulary of {tokenizer.n_vocab:,}"
                )
            token, separator = tokenizer._content(i)
            content += [self._separator, token]
            self._separator = separator
        return self._characters.decode(b"".join(content))

    def end(self) -> str:
        """Return what an unfinished character leaves: U+FFFD."""
        return self._characters.decode(b"", final=True)


def split_at(text: str, tokens: Mapping[str, AddedToken]) -> Iterator[str | int]:
    """Yield the parts of a text between tokens, where there is anything, and the tokens' ids.

    Of tokens that begin at the same place, the longest matches. White space that a token takes
    (`AddedToken.lstrip`) is never taken from the token before.

    Examples
    --------
    >>> tokens = {"<a>": AddedToken("<a>", 7), "<b>": AddedToken("<b>", 8, rstrip=True)}
    >>> list(split_at("x<a><b>  y", tokens))
    ['x', 7, 8, 'y']
    """
    done = 0  # all before was yielded
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    matches = re.finditer("|".join(map(re.escape, longest_first)), text) if longest_first else ()
    for match in matches:
        token, (start, stop) = tokens[match[0]], match.span()
        beside = (text[max(0, start - 1) : start], text[stop : stop + 1])
        if token.single_word and any(map(_is_word, beside)):
            continue
        if token.lstrip:
            while start > done and text[start - 1] in WHITE:
                start -= 1
            start = max(start, done)
        while token.rstrip and stop < len(text) and text[stop] in WHITE:
            stop += 1
        if done < start:
            yield text[done:start]
        if start < stop:  # else the token before took all of it
            yield token.id
        done = stop
    if done < len(text):
        yield text[done:]


def _is_word(character: str) -> bool:
    """Return whether a character is a letter, a mark, a decimal digit or a connector."""
    import regex  # type: ignore[import-untyped]

    word = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]"
    return bool(regex.match(word, character))


class CharTokenizer(Tokenizer):
    """One token a character; the vocabulary is the sorted characters of a text.

    A character outside of the vocabulary is refused: a model has never seen it, and any
    replacement would answer another prompt than the one that was asked.

    Parameters
    ----------
    characters : str
        The vocabulary, sorted; their ids are 0, 1, 2, ...
    special_tokens : sequence of str, optional
        Tokens such as ``<|endoftext|>``, whose ids follow those of the characters.

    Raises
    ------
    UserError
        If the characters are not sorted, or a token is there twice.

    Examples
    --------
    >>> from npgpt.tokenizers import CharTokenizer
    >>> tokenizer = CharTokenizer.from_text("hello")
    >>> tokenizer.encode("hole").tolist()
    [1, 3, 2, 0]
    """

    kind = "char"

    def __init__(self, characters: str, special_tokens: Sequence[str] = ()) -> None:
        check_utf8(characters)
        self.characters = characters
        self._codes = np.array([ord(c) for c in characters], np.uint32)
        if np.any(np.diff(self._codes.astype(np.int64)) <= 0):
            raise UserError("the characters of a tokenizer must be sorted, each once")
        super().__init__(*_vocabulary([c.encode() for c in characters], special_tokens))

    @classmethod
    def from_text(cls, text: str, special_tokens: Sequence[str] = ()) -> CharTokenizer:
        """Make the vocabulary of a text."""
        check_utf8(text)
        return cls("".join(map(chr, np.unique(_code_points(text)))), special_tokens)

    def _encode(self, text: str) -> ndarray:
        codes = _code_points(text)
        ids = np.searchsorted(self._codes, codes)
        known = ids < len(self._codes)
        known[known] = self._codes[ids[known]] == codes[known]
        if not known.all():
            unknown = "".join(sorted({chr(code) for code in codes[~known]}))
            shown = ", ".join(map(repr, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
            raise UserError(
                f"the tokenizer does not know {shown}: it has the {len(self._codes)} characters of "
                "its training text; leave these out, or train with --tokenizer byte"
            )
        return ids

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs."""
        special = {"special_tokens": list(self.special_tokens)} if self.special_tokens else {}
        return {"kind": self.kind, "characters": self.characters, **special}


class ByteTokenizer(Tokenizer):
    """One token a byte of UTF-8: any text, 256 tokens.

    Parameters
    ----------
    special_tokens : sequence of str, optional
        Tokens such as ``<|endoftext|>``, whose ids begin at 256.
    """

    kind = "byte"

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        super().__init__(*_vocabulary([bytes([i]) for i in range(256)], special_tokens))

    def _encode(self, text: str) -> ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return what `load_tokenizer` needs."""
        special = {"special_tokens": list(self.special_tokens)} if self.special_tokens else {}
        return {"kind": self.kind, **special}


def _vocabulary(
    tokens: list[bytes], special_tokens: Sequence[str]
) -> tuple[dict[int, bytes], list[AddedToken]]:
    """Return what each id stands for, the special tokens last, and the special tokens."""
    if len(set(special_tokens)) < len(special_tokens) or not all(special_tokens):
        raise UserError(f"special_tokens has a token twice, or an empty one: {special_tokens!r}")
    added = [AddedToken(token, len(tokens) + i) for i, token in enumerate(special_tokens)]
    return dict(enumerate([*tokens, *(token.content.encode() for token in added)])), added


def check_utf8(text: str) -> None:
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

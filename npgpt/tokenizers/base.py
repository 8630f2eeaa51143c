"""The base class of all tokenizers, and two that need no vocabulary file: characters and bytes."""

from __future__ import annotations

import codecs
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, overload

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from autograd.schema import Range
from npgpt.errors import UserError

WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""Unicode's white space. ``str.isspace`` also accepts U+001C to U+001F, and Hugging Face's library
does not, so we use this list."""


MOST_IDS = 2**24  # a bound for ids, so that an array with an element for each id stays small
TokenId = Annotated[int, Range(0, MOST_IDS - 1)]
MOST_ADDED = 2**16  # added tokens: a text is searched for all of them at once


@dataclass(frozen=True)
class AddedToken:
    """A token that is searched for in a text as a string, before the text is cut and merged.

    Parameters
    ----------
    content : str
        The string that stands for the token in a text, such as ``<|endoftext|>``.
    id : int
        The token's id, in [0, 2**24).
    special : bool
        If True, the string becomes this token only where the caller allows it (see
        `Tokenizer.encode`), and decoding can leave the token out. If False, the string always
        becomes this token.
    single_word : bool
        If True, the string does not match inside of a longer word.
    lstrip, rstrip : bool
        If True, white space before (after) the string belongs to the token.
    normalized : bool
        If True, the string is normalized, and is searched for in the normalized text. If False,
        the string is searched for in the text as it was given.

    Examples
    --------
    >>> from npgpt.tokenizers import AddedToken, BPETokenizer
    >>> mask = AddedToken("<mask>", 256, special=False, lstrip=True)
    >>> ranks = {bytes([byte]): byte for byte in range(256)}
    >>> BPETokenizer(ranks, added_tokens=[mask]).encode("a  <mask>b").tolist()
    [97, 256, 98]
    """

    content: str
    id: TokenId
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class Encoded(NamedTuple):
    """Texts as a model reads them, of `Tokenizer.encode_batch`: B rows of T tokens."""

    input_ids: ndarray  # (B, T) of int64
    attention_mask: ndarray  # (B, T): 1 for the tokens of a text, 0 for padding
    token_type_ids: ndarray  # (B, T): 1 for the tokens of a second text


class Tokenizer(ABC):
    """The base class of tokenizers, which turn a text into token ids and token ids into a text.

    A tokenizer without a normalizer loses nothing: decoding the ids of a text gives the same text.

    Parameters
    ----------
    tokens : mapping of int to bytes
        The bytes that each id stands for, special tokens included.
    added_tokens : iterable of AddedToken, optional
        Tokens that are searched for in a text before anything else, such as the end of a document.
    before, after : sequence of int, optional
        Ids that are put before and after the ids of each text.

    Attributes
    ----------
    kind : str
        The name by which `load_tokenizer` recognizes the class in a file.
    n_vocab : int
        One more than the largest id.
    special_tokens : dict of str to int
        The ids of the added tokens that are special.
    special_tokens_map : dict of str to str
        The special tokens by the names that Hugging Face's files give them, such as
        ``{"bos_token": "<s>"}``. A chat template may use these names.
    chat_template : str or None
        How the messages of a conversation become a text, in the language of Jinja2.

    Raises
    ------
    UserError
        If an id is not in [0, 2**24), or the normalizer leaves nothing of an added token, or makes
        two added tokens equal.

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
    has_segments = False  # whether a pair of texts can be encoded, each as a segment

    def __init__(
        self,
        tokens: Mapping[int, bytes],
        added_tokens: Iterable[AddedToken] = (),
        before: Sequence[int] = (),
        after: Sequence[int] = (),
    ) -> None:
        self.tokens = tokens
        self.added_tokens = tuple(added_tokens)
        if len(self.added_tokens) > MOST_ADDED:
            raise UserError(
                f"there are {len(self.added_tokens):,} added tokens; at most {MOST_ADDED:,} can be "
                "searched for in a text"
            )
        self.before, self.after = tuple(before), tuple(after)
        self.special_tokens = {t.content: t.id for t in self.added_tokens if t.special}
        self.special_tokens_map: dict[str, str] = {}
        self.chat_template: str | None = None
        self.n_vocab = max(tokens, default=-1) + 1
        if wrong := [i for i in {*tokens, *self.before, *self.after} if not 0 <= i < MOST_IDS]:
            raise UserError(f"the id of a token is {wrong[0]}; it must be in [0, {MOST_IDS:,})")
        searched = dict[tuple[str, bool], str]()
        for token in self.added_tokens:
            content = self._spelling(token)
            if not content:
                raise UserError(
                    f"the added token {token.content!r} is empty, or the normalizer leaves nothing "
                    "of it; an added token must have at least one character"
                )
            same = searched.setdefault((content, token.normalized), token.content)
            if same != token.content:
                raise UserError(
                    f"the added tokens {same!r} and {token.content!r} become the same text, "
                    f"{content!r}, so this text could stand for either; leave out one of the tokens"
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

        A special token can stand for the end of a document. A text from a stranger that spells
        ``<|endoftext|>`` must not end a document, so a special token is refused by default.

        Parameters
        ----------
        text : str
        allowed_special : collection of str, or "all"
            Special tokens that become their id where the text spells them.
        disallowed_special : collection of str, or "all"
            Special tokens that the text must not spell. "all" stands for all special tokens that
            are not allowed. A special token that is neither allowed nor disallowed is encoded like
            any other text; so ``disallowed_special=()`` is right for texts from files.
        add_special_tokens : bool
            Whether to add the tokens before and after the text that the tokenizer's template asks
            for. Only some tokenizers from Hugging Face's files have a template.

        Returns
        -------
        ndarray of int64, (T,)
            The ids.

        Raises
        ------
        UserError
            If the text spells a disallowed token, or holds half of a surrogate pair, or the
            vocabulary of a `CharTokenizer` lacks a character of the text.

        Examples
        --------
        >>> from npgpt.tokenizers import ByteTokenizer
        >>> tokenizer = ByteTokenizer(["<|endoftext|>"])
        >>> tokenizer.encode("a<|endoftext|>", allowed_special="all").tolist()
        [97, 256]
        >>> len(tokenizer.encode("a<|endoftext|>", disallowed_special=()))
        14
        """
        special = set(self.special_tokens)
        allowed = special if allowed_special == "all" else special & set(allowed_special)
        refused = special - allowed if disallowed_special == "all" else set(disallowed_special)
        for token in sorted(refused):
            if token in text:
                raise UserError(
                    f"the text spells the special token {token!r}; allow the token with "
                    "allowed_special, or encode it like any other text with disallowed_special=()"
                )
        check_utf8(text)
        wanted = [t for t in self.added_tokens if not t.special or t.content in allowed]
        parts = [
            np.array([part]) if isinstance(part, int) else self._encode(part)
            for part in self._split(text, wanted)
        ]
        before, after = (self.before, self.after) if add_special_tokens else ((), ())
        return np.concatenate([np.array(before, np.int64), *parts, np.array(after, np.int64)])

    def encode_batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
    ) -> Encoded:
        """Return the ids of several texts as one array, the shorter rows filled up at their end.

        A special token that a text spells is encoded like any other text.

        Parameters
        ----------
        texts : sequence of str
        pairs : sequence of str, optional
            A second text for each text, as ``[CLS] text [SEP] pair [SEP]``: the second segment.
        max_length : int, optional
            The most tokens of a row. A longer text loses its last tokens. Of a pair, the longer
            text is cut, as far as the other is long; then both are.

        Returns
        -------
        Encoded

        Raises
        ------
        UserError
            If there is no text, if there are not as many pairs as texts, if the tokenizer has no
            segments, or if no token fits `max_length` beside those of the template.

        Examples
        --------
        >>> from npgpt.tokenizers import ByteTokenizer
        >>> batch = ByteTokenizer().encode_batch(["abc", "d"], max_length=2)
        >>> batch.input_ids.tolist(), batch.attention_mask.tolist()
        ([[97, 98], [100, 0]], [[1, 1], [1, 0]])
        """
        if isinstance(texts, str) or not len(texts):
            raise UserError("encode_batch takes a list of one text or more")
        if pairs is not None and not self.has_segments:
            raise UserError(
                f"a tokenizer of kind {self.kind!r} has no segments, so it encodes no pairs"
            )
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"there are {len(texts)} texts and {len(pairs)} pairs; give one each")
        room = None
        if max_length is not None:
            room = max_length - len(self.before) - len(self.after) * (1 if pairs is None else 2)
            if room < 1:
                raise UserError(
                    f"max_length is {max_length}, and {max_length - room} tokens stand before and "
                    "after each text: give a larger max_length"
                )

        def encode(text: str) -> list[int]:
            ids = self.encode(text, disallowed_special=(), add_special_tokens=False)
            return ids.tolist()

        rows, firsts = [], []
        for n, text in enumerate(texts):
            a, b = encode(text), [] if pairs is None else encode(pairs[n])
            if room is not None:
                length, other = shorten(len(a), len(b), room)
                a, b = a[:length], b[:other]
            first = [*self.before, *a, *self.after]
            rows.append(first if pairs is None else [*first, *b, *self.after])
            firsts.append(len(first))
        shape = len(rows), max(map(len, rows))
        ids = np.full(shape, self.pad_token_id)
        mask, segments = np.zeros((2, *shape), np.int64)
        for n, (row, first_length) in enumerate(zip(rows, firsts, strict=True)):
            ids[n, : len(row)], mask[n, : len(row)] = row, 1
            segments[n, first_length : len(row)] = 1
        return Encoded(ids, mask, segments)

    @property
    def pad_token_id(self) -> int:
        """The id that fills up shorter rows: the padding token's, or 0, which no mask shows."""
        name = self.special_tokens_map.get("pad_token", "[PAD]")
        return self.special_tokens.get(name, 0)

    @overload
    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: Literal[False],
        sanitize_control_tokens: bool = False,
        **variables: Any,
    ) -> str: ...
    @overload
    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: Literal[True] = True,
        sanitize_control_tokens: bool = False,
        **variables: Any,
    ) -> ndarray: ...
    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = False,
        **variables: Any,
    ) -> str | ndarray:
        """Return the text of a conversation as a model reads it, or the ids of this text.

        Names and results are those of transformers.

        Parameters
        ----------
        conversation : sequence of mapping
            The messages, each with ``role`` (``"system"``, ``"user"`` or ``"assistant"``) and
            ``content``.
        chat_template : str, optional
            The template, in the language of Jinja2; if not given, the tokenizer's `chat_template`.
        add_generation_prompt : bool
            Whether the text ends where an answer begins.
        tokenize : bool
            Whether to return ids in place of the text.
        sanitize_control_tokens : bool
            Whether a special token that a message spells is encoded like any other text. If False,
            it becomes the token, so that a message from a stranger can end itself and begin another
            message.
        **variables
            More names for the template, such as ``tools``.

        Returns
        -------
        ndarray of int64, (T,), or str

        Raises
        ------
        UserError
            If there is no template, the template is wrong, refuses the messages, or needs more time
            or memory than a chat template does; or if a message is no object with a role.

        Examples
        --------
        >>> from npgpt.tokenizers import ByteTokenizer
        >>> tokenizer = ByteTokenizer(["<|end|>"])
        >>> tokenizer.chat_template = (
        ...     "{% for message in messages %}{{ message.role }}: {{ message.content }}<|end|>"
        ...     "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}")
        >>> messages = [{"role": "user", "content": "Hi!"}]
        >>> tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        'user: Hi!<|end|>assistant: '
        >>> tokenizer.apply_chat_template(messages)[-2:].tolist()
        [33, 256]
        """
        from npgpt.tokenizers.templates import encode_chat, render_chat

        values = conversation, chat_template, add_generation_prompt, variables
        if tokenize and sanitize_control_tokens:
            return encode_chat(self, *values)
        text = render_chat(self, *values)
        if not tokenize:
            return text
        return self.encode(text, allowed_special="all", add_special_tokens=False)

    def _split(self, text: str, wanted: Sequence[AddedToken]) -> Iterator[str | int]:
        """Yield the ids of the added tokens in a text, and the normalized text between them.

        There are two searches: for tokens with `normalized` False in the text as it was given, and
        then for the other tokens in each part that is left, after that part was normalized.
        """
        exact = {token.content: token for token in wanted if not token.normalized}
        normal = {self._spelling(token): token for token in wanted if token.normalized}
        for part in split_at(text, exact):
            if isinstance(part, int):
                yield part
            else:
                yield from split_at(self.normalize(part), normal)

    def normalize(self, text: str) -> str:
        """Return the text that is encoded in place of a text: the same text, or a simpler form."""
        return text

    def _spelling(self, token: AddedToken) -> str:
        """Return the string that an added token is found by in a text, and is decoded to."""
        return self.normalize(token.content) if token.normalized else token.content

    @abstractmethod
    def _encode(self, text: str) -> ndarray:
        """Return the ids of a normalized text; special tokens in it are text like any other."""

    # ---- decoding

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids.

        Parameters
        ----------
        ids : iterable of int
            The ids of one text, such as an array (T,).
        skip_special_tokens : bool
            Whether to leave the special tokens out.

        Returns
        -------
        str
            The text. Bytes that are not valid UTF-8 become U+FFFD.

        Raises
        ------
        UserError
            If an id is not in the vocabulary, or is not a whole number.

        Examples
        --------
        >>> from npgpt.tokenizers import ByteTokenizer
        >>> ByteTokenizer(["<|endoftext|>"]).decode([104, 105, 256], skip_special_tokens=True)
        'hi'
        """
        decoder = StreamDecoder(self, skip_special_tokens)
        return decoder.put(ids) + decoder.end()

    def decode_stream(
        self, ids: Iterable[int], *, skip_special_tokens: bool = False
    ) -> Iterator[str]:
        """Yield the text of token ids piece by piece, as the ids come.

        A character whose bytes are spread over several tokens is yielded when its last byte has
        come. The pieces joined together are the text that `decode` returns.

        Parameters
        ----------
        ids : iterable of int
        skip_special_tokens : bool
            Whether to leave the special tokens out.

        Raises
        ------
        UserError
            If an id is not in the vocabulary, or is not a whole number.
        """
        decoder = StreamDecoder(self, skip_special_tokens)
        for i in ids:
            if text := decoder.put([i]):
                yield text
        if text := decoder.end():
            yield text

    def _piece(self, i: int, previous: int | None) -> bytes:
        """Return the bytes that an id adds to a text, after a previous id if there is one."""
        return self.tokens[i]

    # ---- saving

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return a description in JSON's types, from which `load_tokenizer` makes the tokenizer."""


class StreamDecoder:
    """Decodes token ids that come a few at a time; each id is decoded once.

    Parameters
    ----------
    tokenizer : Tokenizer
    skip_special_tokens : bool
        Whether to leave the special tokens out.

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
        self._previous: int | None = None

    def put(self, ids: Iterable[int]) -> str:
        """Return the text that these ids add to the text so far.

        The bytes of an unfinished character are kept, and are returned with the character's last
        byte.

        Raises
        ------
        UserError
            If an id is not in the vocabulary, or is not a whole number.
        """
        tokenizer, content = self._tokenizer, []
        for value in ids:
            try:
                i = operator.index(value)
            except TypeError:
                raise UserError(
                    f"token ids must be whole numbers, and one of them is {brief(value)}; decode "
                    "takes the ids of one text, an array of shape (T,)"
                ) from None
            if i in self._skipped:
                continue
            if i not in tokenizer.tokens:
                raise UserError(
                    f"token id {i} stands for nothing in this vocabulary of {tokenizer.n_vocab:,}"
                    " tokens"
                )
            content.append(tokenizer._piece(i, self._previous))
            self._previous = i
        return self._characters.decode(b"".join(content))

    def end(self) -> str:
        """Return U+FFFD if the ids ended in the middle of a character, or an empty string."""
        return self._characters.decode(b"", final=True)


def shorten(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths that two texts are cut to, so that both fit: the longer is cut first.

    Examples
    --------
    >>> shorten(3, 9, room=8), shorten(7, 9, room=8), shorten(9, 0, room=8)
    ((3, 5), (4, 4), (8, 0))
    """
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    long = room - short
    return (short, long) if first <= second else (long, short)


def split_at(text: str, tokens: Mapping[str, AddedToken]) -> Iterator[str | int]:
    """Yield the ids of the tokens that a text spells, and the parts of the text between them.

    Of tokens that begin at the same place, the longest matches. White space between two tokens
    belongs to the first token if that token has `rstrip`, even if the second token has `lstrip`.

    Examples
    --------
    >>> tokens = {"<a>": AddedToken("<a>", 7), "<b>": AddedToken("<b>", 8, rstrip=True)}
    >>> list(split_at("x<a><b>  y", tokens))
    ['x', 7, 8, 'y']
    """
    done = 0  # the text before this index has been yielded
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
        if start < stop:  # otherwise the white space of the token before included this token
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
    """A tokenizer with one token for each character that occurs in its training text.

    `encode` refuses a character outside of the vocabulary, because the model has never seen that
    character, and a replacement would change the prompt.

    Parameters
    ----------
    characters : str
        The characters of the vocabulary, sorted. Their ids are 0, 1, 2, ...
    special_tokens : sequence of str, optional
        Tokens such as ``<|endoftext|>``. Their ids follow the ids of the characters.

    Raises
    ------
    UserError
        If the characters are not sorted, or a character or a special token occurs twice, or a
        special token is empty.

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
            raise UserError("the characters of a tokenizer must be sorted, and each occurs once")
        super().__init__(*_vocabulary([c.encode() for c in characters], special_tokens))

    @classmethod
    def from_text(cls, text: str, special_tokens: Sequence[str] = ()) -> CharTokenizer:
        """Return the tokenizer whose vocabulary is the characters of a text.

        Raises
        ------
        UserError
            If the text holds half of a surrogate pair, or a special token is empty or occurs twice.
        """
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
                f"the tokenizer does not know {shown}: its vocabulary is the {len(self._codes)} "
                "characters of its training text; leave out the unknown characters, or train with "
                "--tokenizer byte"
            )
        return ids

    def to_dict(self) -> dict[str, Any]:
        """Return a description in JSON's types, from which `load_tokenizer` makes the tokenizer."""
        special = {"special_tokens": list(self.special_tokens)} if self.special_tokens else {}
        return {"kind": self.kind, "characters": self.characters, **special}


class ByteTokenizer(Tokenizer):
    """A tokenizer with one token for each byte of UTF-8; its 256 tokens can encode any text.

    Parameters
    ----------
    special_tokens : sequence of str, optional
        Tokens such as ``<|endoftext|>``. Their ids begin at 256.

    Raises
    ------
    UserError
        If a special token is empty, or occurs twice.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> ByteTokenizer().encode("né").tolist()
    [110, 195, 169]
    """

    kind = "byte"

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        super().__init__(*_vocabulary([bytes([i]) for i in range(256)], special_tokens))

    def _encode(self, text: str) -> ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return a description in JSON's types, from which `load_tokenizer` makes the tokenizer."""
        special = {"special_tokens": list(self.special_tokens)} if self.special_tokens else {}
        return {"kind": self.kind, **special}


def _vocabulary(
    tokens: list[bytes], special_tokens: Sequence[str]
) -> tuple[dict[int, bytes], list[AddedToken]]:
    """Return the bytes of each id, and the special tokens, whose ids follow all others."""
    if len(set(special_tokens)) < len(special_tokens) or not all(special_tokens):
        raise UserError(
            "special_tokens must be different from each other, and not empty; they are "
            f"{special_tokens!r}"
        )
    added = [AddedToken(token, len(tokens) + i) for i, token in enumerate(special_tokens)]
    return dict(enumerate([*tokens, *(token.content.encode() for token in added)])), added


def check_utf8(text: str) -> None:
    """Raise a UserError if a text holds half of a surrogate pair, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of the text, {text[error.start]!r}, is half of a surrogate "
            "pair, which UTF-8 cannot encode; read the text with errors='replace', or remove it"
        ) from None


def _code_points(text: str) -> ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)

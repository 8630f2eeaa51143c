"""Reading and writing Hugging Face's tokenizer files, for the tokenizers of GPTs and of BERT.

``tokenizer.json`` describes the five steps from a text to ids, and the way back:

    added_tokens     strings that become one id, such as <|endoftext|>
    normalizer       changes the text, for example to lower case
    pre_tokenizer    cuts the text into pieces ("cuts" in this file)
    model            turns each piece into ids: the vocabulary and the merges
    post_processor   adds ids before and after the text ("template" in this file)
    decoder          turns ids into text

Older versions of transformers write the model to ``vocab.json`` and ``merges.txt``, or to
``vocab.txt`` (BERT's kind), and the added tokens to ``tokenizer_config.json``,
``added_tokens.json`` and ``special_tokens_map.json``.

A step that this file does not know is refused, and the error names the step, because the ids would
be wrong without it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from autograd.escape import brief, shown
from autograd.files import together, write_json, write_text
from autograd.reading import SMALL, fit_file, read_json
from autograd.schema import Range
from npgpt.errors import UserError
from npgpt.tokenizers.base import (
    AddedToken,
    ByteTokenizer,
    CharTokenizer,
    TokenId,
    Tokenizer,
)
from npgpt.tokenizers.bpe import PATTERN, BPETokenizer, follow_from
from npgpt.tokenizers.gpt1 import END, GPT1Tokenizer
from npgpt.tokenizers.normalizers import from_their_pattern, to_their_pattern
from npgpt.tokenizers.wordpiece import SPECIAL, WordPieceTokenizer

Merges = Sequence[tuple[str, str]]

EVERYTHING = r"[\s\S]++"  # matches the whole text, so the text is not cut
CHARACTER = r"[\s\S]"
PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
GPT2_PATTERNS = (  # three spellings of GPT-2's pattern: ours, tiktoken's, and OpenAI's of 2019
    PATTERN,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
)
BERT = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
    "strip_accents": None, "lowercase": True,
}  # fmt: skip
NAMED = "bos_token eos_token unk_token sep_token pad_token cls_token mask_token".split()
FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")


# ---- reading tokenizer.json


class HuggingFaceModel(TypedDict):
    """The model of a ``tokenizer.json``."""

    vocab: dict[str, TokenId]
    merges: list[str | tuple[str, str]]


class HuggingFaceWordPiece(TypedDict):
    """The model of a ``tokenizer.json`` of BERT's kind."""

    vocab: dict[str, TokenId]
    unk_token: NotRequired[str]
    continuing_subword_prefix: NotRequired[str]
    max_input_chars_per_word: NotRequired[Annotated[int, Range(0, 2**20)]]


class HuggingFaceToken(TypedDict):
    """An added token of a ``tokenizer.json``."""

    content: str
    id: TokenId


class HuggingFace(TypedDict):
    """A ``tokenizer.json`` of the tokenizers library."""

    model: dict[str, Any]
    added_tokens: NotRequired[list[HuggingFaceToken]]
    normalizer: NotRequired[dict[str, Any] | None]
    pre_tokenizer: NotRequired[dict[str, Any] | None]
    post_processor: NotRequired[dict[str, Any] | None]
    decoder: NotRequired[dict[str, Any] | None]


def read_hugging_face(values: dict[str, Any], path: Path) -> Tokenizer:
    """Return the tokenizer that a ``tokenizer.json`` of the tokenizers library describes.

    Tokens that other files in the same folder declare are added, as transformers does.

    Parameters
    ----------
    values : dict
        The content of the file.
    path : Path
        Where the file is.

    Raises
    ------
    UserError
        If the file is damaged, or has a step that is not known here; the message names the step.
    """
    try:
        return _read_steps(values, path)
    except UserError as error:
        message = shown(f"{error!s:.600}")
        raise UserError(message if str(path) in message else f"{path}: {message}") from None
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged: {error!r:.200}") from None


def _read_steps(values: dict[str, Any], path: Path) -> Tokenizer:
    values = fit_file(values, HuggingFace, path)
    model = values["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    cuts = _flat(values.get("pre_tokenizer"), "pretokenizers")
    names = ", ".join(str(cut["type"]) for cut in cuts) or "nothing"
    if kind == "WordPiece" and names == "BertPreTokenizer":
        return _make_wordpiece(values, path)
    if kind == "WordLevel" and names == "Split":
        return _make_characters(values, model["vocab"], cuts[0])
    if kind != "BPE" or not (names == "BertPreTokenizer" or names.endswith("ByteLevel")):
        raise UserError(
            f"{path} is a {kind} tokenizer that cuts by {names}; known here are GPT-2's kind (BPE "
            "that cuts by ByteLevel), GPT-1's kind (BPE that cuts by BertPreTokenizer) and BERT's "
            "kind (WordPiece that cuts by BertPreTokenizer)"
        )
    model = fit_file(model, HuggingFaceModel, path)
    vocab = dict(model["vocab"])
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    merges = parse_merges("\n".join(lines), path)
    declared = [
        _added(token, token["content"], token["id"]) for token in values.get("added_tokens", ())
    ]
    declared = _updated(declared, _declared_beside(path.parent))
    added = _placed(declared, vocab)
    before, after = _template(values.get("post_processor"))
    decoders = [step for step in _flat(values.get("decoder"), "decoders") if step["type"] != "Fuse"]
    is_gpt1 = names == "BertPreTokenizer"
    check(
        not model.get("dropout"),
        f"dropout {model.get('dropout')} leaves out merges at random, which is not known here",
    )
    check(not model.get("continuing_subword_prefix"), "continuing_subword_prefix is not known")
    suffix = model.get("end_of_word_suffix") or ""
    check(suffix == (END if is_gpt1 else ""), f"end_of_word_suffix {brief(suffix)} is not known")
    expected = ["BPEDecoder"] if is_gpt1 else ["ByteLevel"]
    found = [step["type"] for step in decoders]
    check(found == expected, f"the decoder is {found or None}, and {expected[0]} is known here")
    if is_gpt1:
        normalizer = BERT | (values.get("normalizer") or {"type": None})
        if normalizer["strip_accents"]:  # null means the value of lowercase, which is true here
            normalizer["strip_accents"] = None
        check(normalizer == BERT, f"the normalizer {normalizer['type']} is not GPT-1's")
        for flag in ("fuse_unk", "byte_fallback", "ignore_merges"):
            check(not model.get(flag), f"{flag} is not known")
        unk = model.get("unk_token")
        check(unk == "<unk>", f"unk_token is {brief(unk)}, and <unk> is known here")
        end = decoders[0].get("suffix", END)
        check(end == END, f"the decoder's suffix is {brief(end)}, and {END} is known here")
        return GPT1Tokenizer(vocab, merges, added_tokens=added, before=before, after=after)
    patterns = [_pattern(cut) for cut in cuts[:-1]]
    prefix = bool(cuts[-1].get("add_prefix_space", True))
    check(not (prefix and patterns), "add_prefix_space after another cut is not known")
    if cuts[-1].get("use_regex", True):
        patterns.append(PATTERN)
    tokenizer = make_byte_level(
        vocab, merges, added, path, path, bool(model.get("ignore_merges")),
        may_lack_bytes=model.get("unk_token") is None,
        pattern=patterns or [EVERYTHING], before=before, after=after,
        normalizer=values.get("normalizer"), add_prefix_space=prefix,
    )  # fmt: skip
    is_bytes = tokenizer.to_dict() == make_byte_level_of_bytes(tokenizer.name).to_dict()
    return ByteTokenizer() if is_bytes else tokenizer


def _make_wordpiece(values: dict[str, Any], path: Path) -> WordPieceTokenizer:
    """Return BERT's kind of tokenizer."""
    model: dict[str, Any] = fit_file(values["model"], HuggingFaceWordPiece, path)
    normalizer = values.get("normalizer") or {"type": None}
    check(
        normalizer["type"] == "BertNormalizer",
        f"the normalizer {normalizer['type']} is not known before WordPiece",
    )
    normalizer = {key: normalizer.get(key, BERT[key]) for key in BERT if key != "type"}
    step = values.get("decoder") or {"type": None}
    check(step["type"] == "WordPiece", f"the decoder is {step['type']}, and WordPiece is known")
    prefix = model.get("continuing_subword_prefix", "##")
    check(
        step.get("prefix", "##") == prefix,
        f"the decoder's prefix is {brief(step.get('prefix'))}, and that of the model {prefix!r}",
    )
    declared = [
        _added(token, token["content"], token["id"]) for token in values.get("added_tokens", ())
    ]
    added = _placed(_updated(declared, _declared_beside(path.parent)), model["vocab"])
    before, after = _template(values.get("post_processor"))
    for processor in _flat(values.get("post_processor"), "processors"):
        if processor["type"] == "TemplateProcessing":
            check(
                processor.get("pair") == _pair(processor["single"]),
                "the template of a pair is not that of BERT: text, [SEP], pair, [SEP]",
            )
    return WordPieceTokenizer(
        model["vocab"], **normalizer, unk_token=model.get("unk_token", "[UNK]"), prefix=prefix,
        max_input_chars_per_word=model.get("max_input_chars_per_word", 100),
        cleanup=bool(step.get("cleanup", True)), added_tokens=added, before=before, after=after,
    )  # fmt: skip


def _pair(single: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return BERT's template of a pair, given that of a text: what follows a text follows both."""
    end = next(n for n, piece in enumerate(single) if "Sequence" in piece)
    second = [{"Sequence": {"id": "B"}}, *single[end + 1 :]]
    return [
        *single,
        *({kind: values | {"type_id": 1}} for piece in second for kind, values in piece.items()),
    ]


def _make_characters(
    values: dict[str, Any], vocab: dict[str, int], cut: Mapping[str, Any]
) -> CharTokenizer:
    """Return the tokenizer of characters that `to_hugging_face` has written."""
    check(_pattern(cut) == CHARACTER, "a WordLevel tokenizer of words is not known")
    for part in ("normalizer", "post_processor", "added_tokens"):
        check(not values.get(part), f"a tokenizer of characters has no {part} here")
    check([*vocab.values()] == [*range(len(vocab))], "the ids of characters must count from 0")
    return CharTokenizer("".join(vocab))


def check(condition: bool, message: str) -> None:
    """Raise a UserError with this message unless a file meets a condition."""
    if not condition:
        raise UserError(message)


def _flat(step: Mapping[str, Any] | None, parts: str) -> list[Mapping[str, Any]]:
    """Return the steps of a sequence and of the sequences in it, as one list.

    `parts` is the key of a sequence's steps, such as ``"normalizers"``. A step that is not a
    sequence is a list of one step; None is an empty list.
    """
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [inner for part in step[parts] for inner in _flat(part, parts)]


def _pattern(cut: Mapping[str, Any]) -> str:
    """Return the regular expression whose matches are the pieces of a step that cuts a text.

    Only steps that keep all of the text are known: ``Split``, ``Digits`` and ``Punctuation``, with
    the behavior ``Isolated``.
    """
    kind = cut["type"]
    behavior = cut.get("behavior", "Isolated")
    check(
        behavior == "Isolated",
        f"the pre-tokenizer {kind} has behavior {behavior}; only Isolated is known here",
    )
    if kind == "Split":
        return from_their_pattern(cut["pattern"])
    if kind == "Digits":
        return r"\p{N}" if cut["individual_digits"] else r"\p{N}+"
    check(kind == "Punctuation", f"the pre-tokenizer {kind} is not known before ByteLevel")
    return PUNCTUATION


def _template(step: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """Return the ids that a post-processor adds before and after a text.

    For the template ``<s> $A </s>``, where the ids of the two tokens are 320 and 321, the result is
    ``([320], [321])``.
    """
    before, after = list[int](), list[int]()
    for processor in _flat(step, "processors"):
        kind = processor["type"]
        if kind == "TemplateProcessing":
            ids = {name: token["ids"] for name, token in processor["special_tokens"].items()}
            pieces = [  # the ids of each piece of the template; None stands for the text
                None if "Sequence" in piece else ids[piece["SpecialToken"]["id"]]
                for piece in processor["single"]
            ]
            check(pieces.count(None) == 1, "a template must have the text once")
            place = pieces.index(None)
            first = [i for piece in pieces[:place] for i in piece or ()]
            last = [i for piece in pieces[place + 1 :] for i in piece or ()]
        elif kind in ("RobertaProcessing", "BertProcessing"):
            first, last = [processor["cls"][1]], [processor["sep"][1]]
        else:
            check(kind == "ByteLevel", f"the post-processor {kind} is not known")
            continue
        check(not (before or after), "a Sequence of several templates is not known")
        before, after = first, last
    check(all(type(i) is int for i in before + after), "a template's ids must be whole numbers")
    return before, after


# ---- added tokens


def _added(flags: Mapping[str, Any], content: str, i: int) -> AddedToken:
    special = bool(flags.get("special", False))
    values = {flag: bool(flags.get(flag, False)) for flag in FLAGS}
    values["normalized"] = bool(flags.get("normalized", not special))
    if not isinstance(content, str) or type(i) is not int:
        raise UserError(
            "an added token must have a content (a string) and an id (a whole number); one has the "
            f"content {brief(content)} and the id {brief(i)}"
        )
    return AddedToken(content, i, **values)


def _declared_beside(folder: Path, defaults: Mapping[str, str] | None = None) -> list[AddedToken]:
    """Return the added tokens that the files beside a vocabulary declare.

    The rules are those of transformers: ``tokenizer_config.json`` names special tokens
    (``bos_token`` and others) and may list all added tokens with their ids and flags. If that list
    is missing, ``special_tokens_map.json`` names special tokens, too, and ``added_tokens.json`` has
    the ids. A token without an id in these files has the id -1.

    Parameters
    ----------
    folder : Path
    defaults : mapping of str to str, optional
        Special tokens that a class of transformers has if no file names another.
    """

    def read(name: str) -> dict[str, Any]:
        return read_json(folder / name, limit=SMALL) if (folder / name).exists() else {}

    config = read("tokenizer_config.json")
    named = dict(defaults or {}) | config
    if (listed := config.get("added_tokens_decoder")) is None:
        mapped = read("special_tokens_map.json")
        named |= mapped
    extra = named.get("extra_special_tokens") or named.get("additional_special_tokens") or []
    named = {k: v for k, v in named.items() if k in NAMED or k.endswith("_token")}
    found = [v for v in named.values() if isinstance(v, str | dict) and v]
    found += extra.values() if isinstance(extra, dict) else extra
    try:
        special = {
            content: _added({**(v if isinstance(v, dict) else {}), "special": True}, content, -1)
            for v in found
            if (content := v["content"] if isinstance(v, dict) else v)
        }
        if listed is not None:
            added = [_added(token, token["content"], int(i)) for i, token in listed.items()]
        else:
            added = [
                _added({"special": token in special}, token, i)
                for token, i in read("added_tokens.json").items()
            ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"the tokens in {folder}/tokenizer_config.json, or beside it, are "
                        f"damaged: {error!r:.200}") from None  # fmt: skip
    added = [
        dataclasses.replace(token, special=token.special or token.content in special)
        for token in sorted(added, key=lambda token: token.id)
    ]
    known = {token.content for token in added}
    return added + [token for content, token in special.items() if content not in known]


def _updated(tokens: Iterable[AddedToken], more: Iterable[AddedToken]) -> list[AddedToken]:
    """Return the tokens and `more` tokens, each content once.

    Of two tokens with the same content, the later token counts if it has an id.
    """
    found = {token.content: token for token in tokens}
    for token in more:
        if token.id >= 0 or token.content not in found:
            found[token.content] = token
    return list(found.values())


def _placed(tokens: Iterable[AddedToken], vocab: Mapping[str, int]) -> list[AddedToken]:
    """Return the added tokens with the ids that the tokenizers library gives them.

    A token that is in the vocabulary keeps its id there. Any other token gets the next id after the
    vocabulary and after all added tokens before it.

    Raises
    ------
    UserError
        If a file gives a token another id. The tokenizers library ignores this id, so the file does
        not mean what its writer wanted.
    """
    placed, top = [], -1
    for token in tokens:
        if not token.content:
            continue
        i = vocab.get(token.content, max(top + 1, len(vocab)))
        check(
            token.id in (-1, i),
            f"the added token {brief(token.content)} has the id {token.id}, and the tokenizers "
            f"library would give it {i}; correct the id in the file",
        )
        placed.append(dataclasses.replace(token, id=i))
        top = max(top, i)
    return placed


# ---- the model


def make_from_pair(
    vocab: dict[str, int], merges: Merges, vocab_file: Path, merges_file: Path
) -> Tokenizer:
    """Return the tokenizer of ``vocab.json`` and ``merges.txt``: GPT-1's kind, or GPT-2's.

    The vocabulary is of GPT-1's kind if the mark of the end of a word occurs in it.

    Raises
    ------
    UserError
        If the vocabulary is empty, or the files beside it name a class that cuts texts otherwise.
    """
    if not vocab:
        raise UserError(f"{vocab_file} has no tokens")
    is_gpt1 = any(token.endswith(END) for token in vocab)
    folder = vocab_file.parent
    config: dict[str, Any] = {}
    added: list[AddedToken] | None = None
    if vocab_file.name == "vocab.json" and any(
        (folder / name).is_file() for name in ("tokenizer_config.json", "special_tokens_map.json")
    ):
        path = folder / "tokenizer_config.json"
        config = read_json(path, limit=SMALL) if path.exists() else {}
        name = str(config.get("tokenizer_class") or ("OpenAIGPT" if is_gpt1 else "GPT2"))
        expected = "OpenAIGPT" if is_gpt1 else "GPT2"
        if name.removesuffix("Fast").removesuffix("Tokenizer") != expected:
            raise UserError(
                f"{path} is of a {name:.40}, which cuts a text otherwise than {expected}Tokenizer; "
                "open the folder with transformers 5 and save it, which writes tokenizer.json"
            )
        names = ["unk_token"] if is_gpt1 else ["bos_token", "eos_token", "unk_token"]
        defaults = dict.fromkeys(names, "<unk>" if is_gpt1 else "<|endoftext|>")
        added = _placed(_declared_beside(folder, defaults), vocab)
    if is_gpt1:
        return GPT1Tokenizer(vocab, merges, added_tokens=added)
    before, after = (
        [i for i in [_id_of(config, name, added)] if config.get(f"add_{name}")]
        for name in ("bos_token", "eos_token")
    )
    return make_byte_level(
        vocab, merges, added, vocab_file, merges_file, before=before, after=after,
        add_prefix_space=bool(config.get("add_prefix_space")),
    )  # fmt: skip


WORDPIECE_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert")


def make_from_lines(lines: Sequence[str], vocab_file: Path) -> WordPieceTokenizer:
    """Return the tokenizer of ``vocab.txt``, BERT's list of tokens in the order of their ids.

    Raises
    ------
    UserError
        If the list lacks ``[UNK]``, or the files beside it name a class of another kind.
    """
    path = vocab_file.with_name("tokenizer_config.json")
    config: dict[str, Any] = read_json(path, limit=SMALL) if path.exists() else {}
    name = str(config.get("tokenizer_class") or "Bert")
    if name.removesuffix("Fast").removesuffix("Tokenizer") not in WORDPIECE_CLASSES:
        raise UserError(
            f"{path} is of a {name:.40}, which cuts a text otherwise than BertTokenizer; open the "
            "folder with transformers 5 and save it, which writes tokenizer.json"
        )
    vocab = {token: i for i, token in enumerate(lines)}
    if "[UNK]" not in vocab:
        raise UserError(
            f"{vocab_file} has no line [UNK], so it is no vocabulary of BERT's kind (vocab.txt)"
        )
    added = _placed(_declared_beside(vocab_file.parent, SPECIAL), vocab)
    found: dict[str, Any] = {
        ours: config.get(theirs, default)
        for ours, theirs, default in (
            ("lowercase", "do_lower_case", True),
            ("handle_chinese_chars", "tokenize_chinese_chars", True),
            ("strip_accents", "strip_accents", None),
        )
    }
    for key, value in found.items():
        check(isinstance(value, bool | None), f"{path}: {key} is {brief(value)}, no true or false")
    return WordPieceTokenizer(vocab, **found, added_tokens=added)


def _id_of(config: Mapping[str, Any], name: str, added: Sequence[AddedToken] | None) -> int:
    value = config.get(name, "<|endoftext|>")
    content = value.get("content") if isinstance(value, dict) else value
    return next((token.id for token in added or () if token.content == content), -1)


def make_byte_level(
    vocab: Mapping[str, int],
    merges: Merges,
    added: Sequence[AddedToken] | None,
    vocab_file: Path,
    merges_file: Path,
    ignore_merges: bool = False,
    may_lack_bytes: bool = False,
    **options: Any,
) -> BPETokenizer:
    """Return the byte-pair encoding of a vocabulary that spells bytes as letters.

    In ``vocab.json`` the token of a space and "the" is ``Ġthe``: each byte is a visible letter
    (`byte_letters`). The file also has a list of merges. tiktoken has no such list: it merges the
    pair whose token has the lowest id. So the list of merges must be the list that follows from the
    ids, and any other list is refused.

    Parameters
    ----------
    vocab : mapping of str to int
    merges : sequence of pairs of str
        The pairs of tokens that merge; the first pair merges first.
    added : sequence of AddedToken, or None
        The added tokens. None means that no file lists them: then each token that no merge makes
        is an added token.
    vocab_file, merges_file : Path
        The files, for messages.
    ignore_merges : bool
        Whether a piece that is a token becomes this token even if no merges make the token.
    may_lack_bytes : bool
        Whether bytes that are no tokens are left out of texts; see `BPETokenizer`.
    **options
        Options of `BPETokenizer`.

    Raises
    ------
    UserError
        If a merge needs a token that is not in the vocabulary, or is not made of bytes, or the
        merges are not those that follow from the ids.
    """
    letters = {letter: byte for byte, letter in byte_letters().items()}
    lacks = [letters[x] for x in letters if x not in vocab] if may_lack_bytes else []
    single = [letter for letter, byte in letters.items() if byte not in lacks]

    made = list(map("".join, merges))
    needed = [*single, *made, *itertools.chain.from_iterable(merges)]
    if lacking := set(needed) - vocab.keys():
        raise UserError(
            f"{vocab_file} lacks the token {brief(next(filter(lacking.__contains__, needed)))}, "
            f"which a merge in {merges_file.name} needs, or which is one of the 256 bytes"
        )
    added_contents = {token.content for token in added or ()}
    whole = (t for t in vocab if {*t} <= letters.keys() and t not in added_contents and t)
    tokens = list(dict.fromkeys([*single, *made, *(whole if ignore_merges else ())]))
    if not set().union(*tokens) <= letters.keys():
        wrong = next(token for token in tokens if not set(token) <= letters.keys())
        raise UserError(f"{wrong!r} in {merges_file} is not made of bytes")
    spelled = dict(zip(tokens, spell_bytes(tokens, letters), strict=True))
    ranks = {spelled[token]: vocab[token] for token in tokens}
    pairs = [(spelled.get(left, b""), spelled.get(right, b"")) for left, right in merges]
    if made and not follow_from(ranks, pairs):
        raise UserError(
            f"the merges in {merges_file} are not those that follow from the ids in "
            f"{vocab_file.name}: tiktoken, which runs the encoding, needs merges in the order of "
            "their tokens' ids, and each merge after the merges that make its two parts"
        )
    ids = set(ranks.values())
    rest = {token: i for token, i in vocab.items() if i not in ids}
    if added is None:
        added, rest = [AddedToken(token, i) for token, i in rest.items()], {}
    rest = {token: i for token, i in rest.items() if token not in added_contents}
    of_letters = [token for token in rest if {*token} <= letters.keys()]
    spelled |= zip(of_letters, spell_bytes(of_letters, letters), strict=True)
    unreached = {spelled.get(token) or token.encode(): i for token, i in rest.items()}
    options.setdefault("name", vocab_file.resolve().parent.name)
    return BPETokenizer(
        ranks, added_tokens=added, unreached=unreached, lacks=sorted(lacks), **options
    )


def spell_bytes(tokens: Sequence[str], letters: Mapping[str, int]) -> list[bytes]:
    """Return the bytes that tokens stand for, which are made of letters alone.

    All tokens are translated in one call, which takes a tenth of the time of a call for each.
    """
    end = "\uffff"  # no letter
    table = str.maketrans({letter: chr(byte) for letter, byte in letters.items()})
    spelled = end.join(tokens).translate(table).split(end) if tokens else []
    return [token.encode("latin-1") for token in spelled]


def make_byte_level_of_bytes(name: str) -> BPETokenizer:
    """Return the byte-pair encoding that has no merges, and whose ids are the bytes."""
    return BPETokenizer({bytes([byte]): byte for byte in range(256)}, [EVERYTHING], name=name)


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in GPT-2's files, where each letter is visible.

    A byte that is a visible character in Latin-1 stands for itself. The other bytes have the
    letters from U+0100 on, in their order.

    Examples
    --------
    >>> letters = byte_letters()
    >>> letters[ord("t")], letters[ord(" ")]
    ('t', 'Ġ')
    """
    visible = {byte: chr(byte) for byte in range(256) if chr(byte).isprintable() and byte != 32}
    others = [byte for byte in range(256) if byte not in visible]
    return visible | {byte: chr(256 + i) for i, byte in enumerate(others)}


def parse_merges(text: str, source: object) -> list[tuple[str, str]]:
    r"""Return the pairs of tokens in the text of ``merges.txt``; `source` is its name in messages.

    Raises
    ------
    UserError
        If a line does not have two tokens with a space between them.

    Examples
    --------
    >>> parse_merges("#version: 0.2\nh e\nt he\n", "merges.txt")
    [('h', 'e'), ('t', 'he')]
    """
    merges = []
    lines = text.split("\n")
    if lines[0].startswith("#version"):
        lines[0] = ""
    for number, line in enumerate(lines, 1):
        left, _, right = line.rstrip("\r").partition(" ")
        if left and right and " " not in right:
            merges.append((left, right))
        elif left or line.startswith(" "):
            raise UserError(f"{source}, line {number}: expected two tokens, and read {line[:40]!r}")
    return merges


# ---- writing


def write_hugging_face(tokenizer: Tokenizer, folder: Path, n_positions: int | None = None) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, which transformers reads.

    A chat template is written to ``chat_template.jinja``.

    Parameters
    ----------
    tokenizer : Tokenizer
    folder : Path
        An existing or a new folder.
    n_positions : int, optional
        The number of tokens that the model can read, for ``model_max_length``.

    Raises
    ------
    UserError
        If transformers has no tokenizer that gives the same ids.
    """
    values = to_hugging_face(tokenizer)
    end = "<|endoftext|>" if "<|endoftext|>" in tokenizer.special_tokens else None
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "unk_token": "<unk>" if "<unk>" in tokenizer.special_tokens else None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_positions,
    }
    config = {key: value for key, value in config.items() if value is not None}
    config |= tokenizer.special_tokens_map
    lines = None
    if isinstance(tokenizer, WordPieceTokenizer) and tokenizer.normalizer["clean_text"]:
        config |= {  # a tokenizer that does not clean texts has no class in transformers
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": tokenizer.normalizer["lowercase"],
            "tokenize_chinese_chars": tokenizer.normalizer["handle_chinese_chars"],
            "strip_accents": tokenizer.normalizer["strip_accents"],
        }
        lines = [token for token, _ in sorted(tokenizer.vocab.items(), key=lambda t: t[1])]
    with together(folder):
        if lines is not None:
            write_text(folder / "vocab.txt", "".join(f"{line}\n" for line in lines))
        if tokenizer.chat_template is not None:
            write_text(folder / "chat_template.jinja", tokenizer.chat_template)
        write_json(folder / "tokenizer.json", values)
        write_json(folder / "tokenizer_config.json", config, indent=2)


def to_hugging_face(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of the ``tokenizer.json`` that describes a tokenizer.

    Raises
    ------
    UserError
        If transformers has no tokenizer that gives the same ids.
    """
    normalizer: Any = None
    if isinstance(tokenizer, CharTokenizer):
        cuts: list[dict[str, Any]] = [_split({"Regex": CHARACTER})]
        vocab = {c: i for i, c in enumerate(tokenizer.characters)}
        model: dict[str, Any] = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
        decoder: dict[str, Any] = {"type": "Fuse"}
    elif isinstance(tokenizer, GPT1Tokenizer):
        normalizer, cuts = BERT, [{"type": "BertPreTokenizer"}]
        model = _bpe(tokenizer.vocab, tokenizer.merges, "<unk>", END, False)
        decoder = {"type": "BPEDecoder", "suffix": END}
    elif isinstance(tokenizer, BPETokenizer | ByteTokenizer):
        encoding = tokenizer
        if isinstance(encoding, ByteTokenizer):
            encoding = make_byte_level_of_bytes("byte")
        normalizer, cuts = encoding.normalizer, _cuts(encoding)
        model = _byte_level(encoding)
        decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    elif isinstance(tokenizer, WordPieceTokenizer):
        normalizer, cuts = BERT | tokenizer.normalizer, [{"type": "BertPreTokenizer"}]
        model = {
            "type": "WordPiece",
            "unk_token": tokenizer.unk_token,
            "continuing_subword_prefix": tokenizer.prefix,
            "max_input_chars_per_word": tokenizer.max_input_chars_per_word,
            "vocab": dict(tokenizer.vocab),
        }
        decoder = {
            "type": "WordPiece", "prefix": tokenizer.prefix, "cleanup": tokenizer.cleanup,
        }  # fmt: skip
    else:
        raise UserError(
            f"a tokenizer of kind {tokenizer.kind!r} cannot be exported: transformers has no "
            "tokenizer that gives the same ids"
        )
    for token in tokenizer.added_tokens:  # a token in the vocabulary keeps its id there
        if model["vocab"].setdefault(token.content, token.id) != token.id:
            raise UserError(
                f"the added token {token.content!r} is spelled like another token of the "
                "vocabulary, and a tokenizer.json cannot hold both"
            )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_their_token(t) for t in sorted(tokenizer.added_tokens, key=_by_id)],
        "normalizer": normalizer,
        "pre_tokenizer": cuts[0] if len(cuts) == 1 else _sequence(cuts),
        "post_processor": _their_template(tokenizer),
        "decoder": decoder,
        "model": model,
    }


def _by_id(token: AddedToken) -> int:
    return token.id


def _their_token(token: AddedToken) -> dict[str, Any]:
    return {"id": token.id, "content": token.content} | {f: getattr(token, f) for f in FLAGS}


def _sequence(cuts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": cuts}


def _split(pattern: dict[str, str]) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _cuts(tokenizer: BPETokenizer) -> list[dict[str, Any]]:
    patterns = [tokenizer.pattern] if isinstance(tokenizer.pattern, str) else [*tokenizer.pattern]
    by_words = patterns[-1] in GPT2_PATTERNS
    if by_words or patterns == [EVERYTHING]:
        patterns = patterns[:-1]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": tokenizer.add_prefix_space,
        "trim_offsets": True,
        "use_regex": by_words,
    }
    if patterns and tokenizer.add_prefix_space:
        raise UserError(
            "a tokenizer with add_prefix_space and a pattern other than GPT-2's cannot be "
            "exported: transformers has no tokenizer that gives the same ids"
        )
    return [*(_split(to_their_pattern(pattern)) for pattern in patterns), byte_level]


def _byte_level(tokenizer: BPETokenizer) -> dict[str, Any]:
    letters = byte_letters()

    def letters_of(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    tokens = sorted([*tokenizer.ranks.items(), *tokenizer.unreached.items()], key=lambda t: t[1])
    vocab = {letters_of(token): i for token, i in tokens}
    merges = [(letters_of(left), letters_of(right)) for left, right in tokenizer.merges]
    has_whole = len(merges) + 256 - len(tokenizer.lacks) < len(tokenizer.ranks)
    return _bpe(vocab, merges, None, None, has_whole)


def _bpe(
    vocab: Mapping[str, int], merges: Merges, unk: str | None, suffix: str | None, whole: bool
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": suffix,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": whole,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in merges],
    }


def _their_template(tokenizer: Tokenizer) -> dict[str, Any] | None:
    if not tokenizer.before and not tokenizer.after:
        return None
    names = {token.id: token.content for token in tokenizer.added_tokens}
    ids = dict.fromkeys([*tokenizer.before, *tokenizer.after])
    tokens = {
        (name := names.get(i, str(i))): {"id": name, "ids": [i], "tokens": [name]} for i in ids
    }

    def special(i: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": names.get(i, str(i)), "type_id": 0}}

    single = [
        *map(special, tokenizer.before),
        {"Sequence": {"id": "A", "type_id": 0}},
        *map(special, tokenizer.after),
    ]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": _pair(single)
        if tokenizer.has_segments
        else [*single, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": tokens,
    }

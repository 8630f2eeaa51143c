"""Hugging Face's tokenizer files: reading those of the GPT family, and writing any tokenizer.

``tokenizer.json`` describes a tokenizer in five steps: added tokens, normalizer, pre-tokenizer,
model and post-processor; then a decoder for the way back. Files of older versions have the model in
``vocab.json`` and ``merges.txt``, and the added tokens in ``tokenizer_config.json``,
``added_tokens.json`` and ``special_tokens_map.json``. What is not known here is refused by its
name, because without it the ids would be wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from autograd.escape import shown
from autograd.reading import SMALL, fit_file, read_json
from autograd.schema import brief
from npgpt.errors import UserError
from npgpt.files import together, write_json
from npgpt.tokenizers.base import (
    AddedToken,
    ByteTokenizer,
    CharTokenizer,
    TokenId,
    Tokenizer,
)
from npgpt.tokenizers.bpe import PATTERN, BPETokenizer, merges_of
from npgpt.tokenizers.gpt1 import END, GPT1Tokenizer
from npgpt.tokenizers.normalizers import pattern_of, their_pattern

Merges = Sequence[tuple[str, str]]

EVERYTHING = r"[\s\S]++"  # no cut at all
CHARACTER = r"[\s\S]"
PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
GPT2_PATTERNS = (  # ours, and tiktoken's and OpenAI's spelling of the same
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


def of_hugging_face(values: dict[str, Any], path: Path) -> Tokenizer:
    """Make the tokenizer that a ``tokenizer.json`` of the tokenizers library describes.

    The tokens that other files of its folder declare are added, as transformers does.

    Raises
    ------
    UserError
        If the file is damaged, or has a part that is not known here, by its name.
    """
    try:
        return _of_steps(values, path)
    except UserError as error:
        message = shown(f"{error!s:.600}")
        raise UserError(message if str(path) in message else f"{path}: {message}") from None
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged: {error!r:.200}") from None


def _of_steps(values: dict[str, Any], path: Path) -> Tokenizer:
    values = fit_file(values, HuggingFace, path)
    model = values["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    cuts = _flat(values.get("pre_tokenizer"), "pretokenizers")
    names = ", ".join(str(cut["type"]) for cut in cuts) or "nothing"
    if kind == "WordLevel" and names == "Split":
        return _of_characters(values, model["vocab"], cuts[0])
    if kind != "BPE" or not (names == "BertPreTokenizer" or names.endswith("ByteLevel")):
        raise UserError(
            f"{path} is a {kind} tokenizer that cuts by {names}, and GPT-2's (BPE, ByteLevel) and "
            "GPT-1's (BPE, BertPreTokenizer) are known here"
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
    demand(not model.get("dropout"), f"dropout {model.get('dropout')} draws merges at random")
    demand(not model.get("continuing_subword_prefix"), "continuing_subword_prefix is not known")
    suffix = model.get("end_of_word_suffix") or ""
    demand(suffix == (END if is_gpt1 else ""), f"end_of_word_suffix {suffix!r:.20} is not known")
    expected = ["BPEDecoder"] if is_gpt1 else ["ByteLevel"]
    found = [step["type"] for step in decoders]
    demand(found == expected, f"the decoder is {found or None}, and {expected[0]} is known here")
    if is_gpt1:
        normalizer = BERT | (values.get("normalizer") or {"type": None})
        if normalizer["strip_accents"]:  # null stands for what lowercase says
            normalizer["strip_accents"] = None
        demand(normalizer == BERT, f"the normalizer {normalizer['type']} is not GPT-1's")
        for flag in ("fuse_unk", "byte_fallback", "ignore_merges"):
            demand(not model.get(flag), f"{flag} is not known")
        unk = model.get("unk_token")
        demand(unk == "<unk>", f"unk_token is {unk!r:.20}, and <unk> is known here")
        end = decoders[0].get("suffix", END)
        demand(end == END, f"the decoder's suffix is {end!r:.20}, and {END} is known here")
        return GPT1Tokenizer(vocab, merges, added_tokens=added, before=before, after=after)
    patterns = [_pattern(cut) for cut in cuts[:-1]]
    prefix = bool(cuts[-1].get("add_prefix_space", True))
    demand(not (prefix and patterns), "add_prefix_space after another cut is not known")
    if cuts[-1].get("use_regex", True):
        patterns.append(PATTERN)
    tokenizer = of_byte_level(
        vocab, merges, added, path, path, bool(model.get("ignore_merges")),
        pattern=patterns or [EVERYTHING], before=before, after=after,
        normalizer=values.get("normalizer"), add_prefix_space=prefix,
    )  # fmt: skip
    is_bytes = tokenizer.to_dict() == byte_level_of_bytes(tokenizer.name).to_dict()
    return ByteTokenizer() if is_bytes else tokenizer


def _of_characters(
    values: dict[str, Any], vocab: dict[str, int], cut: Mapping[str, Any]
) -> CharTokenizer:
    """Make the tokenizer of characters that `their_json` writes."""
    demand(_pattern(cut) == CHARACTER, "a WordLevel tokenizer of words is not known")
    for part in ("normalizer", "post_processor", "added_tokens"):
        demand(not values.get(part), f"a tokenizer of characters has no {part} here")
    demand([*vocab.values()] == [*range(len(vocab))], "the ids of characters must count from 0")
    return CharTokenizer("".join(vocab))


def demand(condition: bool, message: str) -> None:
    """Refuse a file for what it has, by its name."""
    if not condition:
        raise UserError(message)


def _flat(step: Mapping[str, Any] | None, parts: str) -> list[Mapping[str, Any]]:
    """Return the steps of a sequence, and of sequences in it."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [inner for part in step[parts] for inner in _flat(part, parts)]


def _pattern(cut: Mapping[str, Any]) -> str:
    """Return the regular expression of a step that cuts a text, and loses nothing of it."""
    kind = cut["type"]
    behavior = cut.get("behavior", "Isolated")
    demand(behavior == "Isolated", f"{kind} of behavior {behavior} is not known, Isolated is")
    if kind == "Split":
        return pattern_of(cut["pattern"])
    if kind == "Digits":
        return r"\p{N}" if cut["individual_digits"] else r"\p{N}+"
    demand(kind == "Punctuation", f"the pre-tokenizer {kind} is not known before ByteLevel")
    return PUNCTUATION


def _template(step: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """Return the ids that post-processors put before and after a text."""
    before, after = list[int](), list[int]()
    for processor in _flat(step, "processors"):
        kind = processor["type"]
        if kind == "TemplateProcessing":
            ids = {name: token["ids"] for name, token in processor["special_tokens"].items()}
            pieces = [  # None is the text
                None if "Sequence" in piece else ids[piece["SpecialToken"]["id"]]
                for piece in processor["single"]
            ]
            demand(pieces.count(None) == 1, "a template must have the text once")
            place = pieces.index(None)
            first = [i for piece in pieces[:place] for i in piece or ()]
            last = [i for piece in pieces[place + 1 :] for i in piece or ()]
        elif kind in ("RobertaProcessing", "BertProcessing"):
            first, last = [processor["cls"][1]], [processor["sep"][1]]
        else:
            demand(kind == "ByteLevel", f"the post-processor {kind} is not known")
            continue
        demand(not (before or after), "a Sequence of several templates is not known")
        before, after = first, last
    demand(all(type(i) is int for i in before + after), "a template's ids must be whole numbers")
    return before, after


# ---- added tokens


def _added(flags: Mapping[str, Any], content: str, i: int) -> AddedToken:
    special = bool(flags.get("special", False))
    values = {flag: bool(flags.get(flag, False)) for flag in FLAGS}
    values["normalized"] = bool(flags.get("normalized", not special))
    if not isinstance(content, str) or type(i) is not int:
        raise UserError(f"an added token must have a content and an id, and has {content!r:.40}")
    return AddedToken(content, i, **values)


def _declared_beside(folder: Path, defaults: Mapping[str, str] | None = None) -> list[AddedToken]:
    """Return the added tokens that the files beside a vocabulary declare, as transformers does.

    Those without an id there have the id -1.
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
    """Return tokens after more were added: a later one with an id replaces one of its content."""
    found = {token.content: token for token in tokens}
    for token in more:
        if token.id >= 0 or token.content not in found:
            found[token.content] = token
    return list(found.values())


def _placed(tokens: Iterable[AddedToken], vocab: Mapping[str, int]) -> list[AddedToken]:
    """Return added tokens with the ids that the tokenizers library gives them.

    Raises
    ------
    UserError
        If a file says another id: transformers would read it otherwise than it was written.
    """
    placed, top = [], -1
    for token in tokens:
        if not token.content:
            continue
        i = vocab.get(token.content, max(top + 1, len(vocab)))
        demand(
            token.id in (-1, i),
            f"the added token {token.content!r:.40} has the id {token.id}, and the tokenizers "
            f"library would give it {i}",
        )
        placed.append(dataclasses.replace(token, id=i))
        top = max(top, i)
    return placed


# ---- the model


def of_pair(
    vocab: dict[str, int], merges: Merges, vocab_file: Path, merges_file: Path
) -> Tokenizer:
    """Make the tokenizer of a vocabulary and its merges: GPT-1's kind, or GPT-2's."""
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
                "save it with transformers 5, which writes tokenizer.json"
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
    return of_byte_level(
        vocab, merges, added, vocab_file, merges_file, before=before, after=after,
        add_prefix_space=bool(config.get("add_prefix_space")),
    )  # fmt: skip


def _id_of(config: Mapping[str, Any], name: str, added: Sequence[AddedToken] | None) -> int:
    value = config.get(name, "<|endoftext|>")
    content = value.get("content") if isinstance(value, dict) else value
    return next((token.id for token in added or () if token.content == content), -1)


def of_byte_level(
    vocab: Mapping[str, int],
    merges: Merges,
    added: Sequence[AddedToken] | None,
    vocab_file: Path,
    merges_file: Path,
    ignore_merges: bool = False,
    **options: Any,
) -> BPETokenizer:
    """Make a byte-pair encoding of a vocabulary that spells bytes as letters.

    tiktoken, which runs it, merges by ids; so the merges must be what these say. Without a list of
    the added tokens, all that no merge makes is special.
    """
    letters = {letter: byte for byte, letter in byte_letters().items()}

    def spelled(token: str) -> bytes:
        return bytes(letters[letter] for letter in token)

    made = list(map("".join, merges))
    for token in [*letters, *made, *(part for pair in merges for part in pair)]:
        if token not in vocab:
            raise UserError(f"{vocab_file} lacks {brief(token)}, which {merges_file.name} needs")
    added_contents = {token.content for token in added or ()}
    whole = [t for t in vocab if {*t} <= letters.keys() and t not in added_contents and t]
    ranks, last = {}, -1
    for token in dict.fromkeys([*letters, *made, *(whole if ignore_merges else ())]):
        if not set(token) <= letters.keys():
            raise UserError(f"{token!r} in {merges_file} is not made of bytes")
        ranks[spelled(token)] = vocab[token]
    in_order = [(spelled(left), spelled(right)) for left, right in merges]
    for token in made:
        in_order = in_order if vocab[token] > last else []
        last = vocab[token]
    if made and merges_of(ranks) != in_order:
        raise UserError(
            f"the merges in {merges_file} are not those that follow from {vocab_file.name}: "
            "tiktoken, which runs it, needs them in the order of their ids, each after its parts"
        )
    ids = set(ranks.values())
    rest = {token: i for token, i in vocab.items() if i not in ids}
    if added is None:
        added, rest = [AddedToken(token, i) for token, i in rest.items()], {}
    unreached = {
        spelled(token) if {*token} <= letters.keys() else token.encode(): i
        for token, i in rest.items()
        if token not in added_contents
    }
    name = vocab_file.resolve().parent.name
    return BPETokenizer(ranks, name=name, added_tokens=added, unreached=unreached, **options)


def byte_level_of_bytes(name: str) -> BPETokenizer:
    """Return the byte-pair encoding without merges whose ids are the bytes."""
    return BPETokenizer({bytes([byte]): byte for byte in range(256)}, [EVERYTHING], name=name)


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in GPT-2's files: a visible one.

    Bytes that are a visible Latin-1 character are that; the others follow from U+0100 on.
    """
    visible = {byte: chr(byte) for byte in range(256) if chr(byte).isprintable() and byte != 32}
    others = [byte for byte in range(256) if byte not in visible]
    return visible | {byte: chr(256 + i) for i, byte in enumerate(others)}


def parse_merges(text: str, source: object) -> list[tuple[str, str]]:
    """Read the text of ``merges.txt``: two tokens in each line."""
    merges = []
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.rstrip("\r").split(" ")
        if parts == [""] or number == 1 and line.startswith("#version"):
            continue
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{source}, line {number}: expected two tokens, and read {line[:40]!r}")
        merges.append((parts[0], parts[1]))
    return merges


# ---- writing


def write_hugging_face(tokenizer: Tokenizer, folder: Path, n_positions: int | None = None) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, which transformers reads.

    Raises
    ------
    UserError
        If the tokenizer has no equal there.
    """
    values = their_json(tokenizer)
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
    with together(folder):
        write_json(folder / "tokenizer.json", values)
        write_json(folder / "tokenizer_config.json", config, indent=2)


def their_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a tokenizer as ``tokenizer.json`` of the tokenizers library has it."""
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
        if isinstance(tokenizer, ByteTokenizer):
            tokenizer = byte_level_of_bytes("byte")
        normalizer, cuts = tokenizer.normalizer, _cuts(tokenizer)
        model = _byte_level(tokenizer)
        decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    else:
        raise UserError(f"a tokenizer of kind {tokenizer.kind!r} has no equal in transformers")
    for token in tokenizer.added_tokens:  # there, so that they keep their ids
        if model["vocab"].setdefault(token.content, token.id) != token.id:
            raise UserError(f"the added token {token.content!r} spells another token's bytes")
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
        raise UserError("add_prefix_space with such a pattern has no equal in transformers")
    return [*(_split(their_pattern(pattern)) for pattern in patterns), byte_level]


def _byte_level(tokenizer: BPETokenizer) -> dict[str, Any]:
    letters = byte_letters()

    def letters_of(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    tokens = sorted([*tokenizer.ranks.items(), *tokenizer.unreached.items()], key=lambda t: t[1])
    vocab = {letters_of(token): i for token, i in tokens}
    merges = [(letters_of(left), letters_of(right)) for left, right in tokenizer.merges]
    has_whole = len(merges) + 256 < len(tokenizer.ranks)
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
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": tokens,
    }

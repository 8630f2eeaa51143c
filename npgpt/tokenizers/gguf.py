"""The tokenizer in a GGUF file: GPT-2's kind of byte-pair encoding, by the file's metadata.

The metadata have the tokens in the order of their ids, what each token is, and the merges; the name
of the way in which a text is cut before any merge, such as ``smollm``; and the chat template.
llama.cpp has a list of the ways to cut a text, with their regular expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from autograd.schema import fit
from npgpt.errors import UserError
from npgpt.tokenizers.base import AddedToken, ByteTokenizer, TokenId, Tokenizer
from npgpt.tokenizers.bpe import PATTERN, BPETokenizer
from npgpt.tokenizers.huggingface import (
    GPT2_PATTERNS,
    byte_letters,
    make_byte_level,
    parse_merges,
)
from npgpt.weights.gguf import open_gguf

WORDS = (  # of Llama 3 and Qwen2; DIGITS stands for how many digits a piece has
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {  # each pattern cuts the pieces that the pattern before it has made
    "gpt-2": [PATTERN],
    "smollm": [r"\p{N}", PATTERN],  # each digit is a piece
    "llama-bpe": [WORDS.replace("DIGITS", r"\p{N}{1,3}")],
    "qwen2": [WORDS.replace("DIGITS", r"\p{N}")],
}
NAMED = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # the names in templates
WHOLE = {"llama-bpe"}  # where a piece that is a token is this token, whatever the merges make
NORMAL, CONTROL, OURS = 1, 3, 4  # types of tokens: of the vocabulary, special, and the user's own


def read_gguf_tokenizer(path: Path) -> BPETokenizer:
    """Return the tokenizer that the metadata of a GGUF file describe.

    Raises
    ------
    UserError
        If the file cannot be read or is damaged, or has another kind of tokenizer, or names a way
        to cut a text that is not known here.
    """
    metadata = open_gguf(path).metadata
    try:
        return _make_tokenizer(metadata, path)
    except UserError as error:
        message = f"{error!s:.400}"
        raise UserError(message if str(path) in message else f"{path}: {message}") from None


def _make_tokenizer(metadata: dict[str, Any], path: Path) -> BPETokenizer:
    def field(name: str, annotation: Any, *default: Any) -> Any:
        key = f"tokenizer.ggml.{name}"
        if key not in metadata and not default:
            raise UserError(f"its metadata lack {key}")
        return fit(metadata.get(key, *default), annotation, key)

    def find_id(name: str) -> int:
        i = field(f"{name}_token_id", TokenId)
        if i >= len(tokens):
            raise UserError(
                f"tokenizer.ggml.{name}_token_id is {i}, and it has {len(tokens)} tokens"
            )
        return i

    kind, cut = field("model", str), field("pre", str | None, None)
    if kind != "gpt2":
        raise UserError(
            f"its tokenizer is of the kind {brief(kind)}; known here is gpt2, the byte-pair "
            "encoding over bytes"
        )
    if cut not in PATTERNS:
        raise UserError(
            f"its tokenizer cuts a text by {brief(cut)} (tokenizer.ggml.pre); known here are "
            f"{', '.join(PATTERNS)}"
        )
    # A list in metadata holds texts, and an array numbers: `fit` need not look at each of them.
    tokens, lines = field("tokens", list), field("merges", list)
    kinds = field("token_type", ndarray, np.full(len(tokens), NORMAL)).tolist()
    merges = parse_merges("\n".join(lines), f"{path} (its merges)")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens) or len(kinds) != len(tokens):
        raise UserError(
            f"it has {len(tokens)} tokens, {len(vocab)} of them different, and the types of "
            f"{len(kinds)}; expected the same number of each"
        )
    added = [
        AddedToken(token, i, special=kinds[i] == CONTROL)
        for token, i in vocab.items()
        if kinds[i] in (CONTROL, OURS)
    ]
    has_start, has_end = (
        field(f"add_{name}_token", bool, name == "bos" and cut == "llama-bpe")
        for name in ("bos", "eos")
    )
    named = {
        f"{theirs}_token": tokens[find_id(name)]
        for name, theirs in NAMED.items()
        if f"tokenizer.ggml.{name}_token_id" in metadata
    }
    tokenizer = make_byte_level(
        vocab, merges, added, path, path, cut in WHOLE, may_lack_bytes=True,
        name=path.stem, pattern=PATTERNS[cut],
        before=[find_id("bos")] if has_start else [],
        after=[find_id("eos")] if has_end else [],
    )  # fmt: skip
    tokenizer.special_tokens_map = named
    tokenizer.chat_template = fit(
        metadata.get("tokenizer.chat_template"), str | None, "tokenizer.chat_template"
    )
    return tokenizer


# ---- writing

UNUSED = 5  # the type of an id that is no token
END = "<|endoftext|>"


def describe_for_gguf(tokenizer: Tokenizer, n_vocab: int, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the metadata of a GGUF file that describe a tokenizer.

    Parameters
    ----------
    tokenizer : Tokenizer
    n_vocab : int
        The number of the model's tokens. Those that the tokenizer does not have are marked.
    ids : mapping of str to int
        The ids of special tokens, by the names of `NAMED`, and of ``eot``; they come before those
        of ``tokenizer.special_tokens_map``.

    Raises
    ------
    UserError
        If such a file can have no tokenizer that gives the same ids.
    """
    if isinstance(tokenizer, ByteTokenizer):  # nothing is merged, so any cut gives the same ids
        encoding = BPETokenizer({bytes([byte]): byte for byte in range(256)})
    elif isinstance(tokenizer, BPETokenizer):
        encoding = tokenizer
    else:
        raise UserError(
            f"a GGUF file has no tokenizer of the kind {tokenizer.kind}; it has byte-pair "
            "encodings over bytes, as a model has that was trained with --tokenizer byte or gpt2"
        )
    cut = _find_cut(encoding)
    letters = byte_letters()

    def spelled(token: bytes) -> str:
        return "".join(map(letters.__getitem__, token))

    tokens = [f"[PAD{i}]" for i in range(n_vocab)]
    kinds = np.full(n_vocab, UNUSED)
    for token, i in [*encoding.ranks.items(), *encoding.unreached.items()]:
        tokens[i], kinds[i] = spelled(token), NORMAL
    for added in tokenizer.added_tokens:
        tokens[added.id], kinds[added.id] = added.content, CONTROL if added.special else OURS
    own = {token: i for i, token in enumerate(tokens)}
    found = {"bos": END, "eos": END} if END in tokenizer.special_tokens else {}
    found |= {
        name: tokenizer.special_tokens_map[f"{theirs}_token"]
        for name, theirs in NAMED.items()
        if f"{theirs}_token" in tokenizer.special_tokens_map
    }
    special = {name: own[token] for name, token in found.items() if token in own} | dict(ids)
    metadata: dict[str, Any] = {
        "model": "gpt2",
        "pre": cut,
        "tokens": tokens,
        "token_type": kinds,
        "merges": [f"{spelled(left)} {spelled(right)}" for left, right in encoding.merges],
        "add_bos_token": bool(tokenizer.before),
        "add_eos_token": bool(tokenizer.after),
    }
    metadata |= {f"{name}_token_id": i for name, i in special.items()}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in metadata.items()}
    if tokenizer.chat_template is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    again = _make_tokenizer(metadata, Path("the GGUF file"))
    if (
        (again.ranks, again.lacks) != (encoding.ranks, encoding.lacks)
        or [*again.before] != [*tokenizer.before]
        or [*again.after] != [*tokenizer.after]
        or {each.content: each.id for each in again.added_tokens}
        != {each.content: each.id for each in tokenizer.added_tokens}
    ):
        raise UserError(
            "a GGUF file cannot hold this tokenizer: what is read from it would give other ids "
            "(its merges, its added tokens, or what it puts before and after a text)"
        )
    return metadata


def _find_cut(encoding: BPETokenizer) -> str:
    """Return the name in `PATTERNS` of the way in which a tokenizer cuts a text."""
    patterns = [encoding.pattern] if isinstance(encoding.pattern, str) else [*encoding.pattern]
    if patterns[-1] in GPT2_PATTERNS:
        patterns[-1] = PATTERN
    cut = next((name for name, known in PATTERNS.items() if known == patterns), None)
    if cut is None or encoding.normalizer or encoding.add_prefix_space:
        raise UserError(
            "a GGUF file cannot hold this tokenizer: it names one of the ways to cut a text that "
            f"llama.cpp knows, of which {', '.join(PATTERNS)} are known here, and nothing else "
            "changes the text first"
        )
    return cut

"""The tokenizer in a GGUF file: GPT-2's kind of byte-pair encoding, by the file's metadata.

The metadata have the tokens in the order of their ids, what each token is, and the merges; the name
of the way in which a text is cut before any merge, such as ``smollm``; and the chat template.
llama.cpp has a list of the ways to cut a text, with their regular expressions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from autograd.schema import fit
from npgpt.errors import UserError
from npgpt.tokenizers.base import AddedToken, TokenId
from npgpt.tokenizers.bpe import PATTERN, BPETokenizer
from npgpt.tokenizers.huggingface import make_byte_level, parse_merges
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

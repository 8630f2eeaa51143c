"""Tokenizers: text to token ids and back.

Characters, bytes, GPT-1's and GPT-2's byte-pair encodings, any other of tiktoken's, those in
``vocab.json`` and ``merges.txt``, and our own, which `train_bpe` trains. None is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autograd.reading import read_json
from npgpt.errors import UserError
from npgpt.files import write_json
from npgpt.tokenizers.base import (
    AddedToken,
    ByteTokenizer,
    CharTokenizer,
    StreamDecoder,
    Tokenizer,
)
from npgpt.tokenizers.bpe import BPETokenizer
from npgpt.tokenizers.gpt1 import GPT1Tokenizer
from npgpt.tokenizers.store import (
    KNOWN,
    add,
    encoding,
    folder,
    known,
    read_tokenizer,
    tokenizer_of,
    write_tiktoken,
)
from npgpt.tokenizers.training import train_bpe

__all__ = [
    "AddedToken",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "GPT1Tokenizer",
    "GPT2Tokenizer",
    "StreamDecoder",
    "Tokenizer",
    "add",
    "load_tokenizer",
    "make_tokenizer",
    "read_tokenizer",
    "save_tokenizer",
    "tokenizer_of",
    "train_bpe",
    "write_tiktoken",
]


class GPT2Tokenizer(BPETokenizer):
    """GPT-2's byte-pair encoding of 50,257 tokens.

    Its files come from ``npgpt tokenizer add encoder.json vocab.bpe``, or from tiktoken's cache.

    Raises
    ------
    UserError
        If they are in neither.
    """

    def __init__(self) -> None:
        super().__init__(**encoding("gpt2"), kind="gpt2")


def make_tokenizer(name: str, text: str = "", special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Make a tokenizer: by its name, or of a file.

    Parameters
    ----------
    name : str
        ``char``, ``byte``, ``gpt1``, ``gpt2``, another of tiktoken's encodings, the name of one
        that was added, or a path (see `read_tokenizer`).
    text : str, optional
        What the vocabulary of ``char`` is made of.
    special_tokens : sequence of str, optional
        Those of ``char`` and ``byte``; every other tokenizer has its own.

    Raises
    ------
    UserError
        If there is none, or its files are missing or damaged.

    Examples
    --------
    >>> make_tokenizer("byte").n_vocab
    256
    """
    from autograd.schema import nearest

    if name == "char":
        return CharTokenizer.from_text(text, special_tokens)
    if name == "byte":
        return ByteTokenizer(special_tokens)
    if name in KNOWN:
        return known(name)
    own = folder() / f"{name}.json"
    if Path(name).name == name and own.is_file():
        return tokenizer_of(read_json(own), own)
    path = Path(name).expanduser()
    if path.exists() or path.name != name or path.suffix in (".tiktoken", ".json", ".txt", ".bpe"):
        return read_tokenizer(path)
    names = ["char", "byte", *KNOWN, *(file.stem for file in folder().glob("*.json"))]
    raise UserError(f"unknown tokenizer {name!r}{nearest(name, names)}")


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write ``tokenizer.json`` to a folder: a known tokenizer's name, or all of another."""
    write_json(Path(folder) / "tokenizer.json", tokenizer.to_dict())


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read the tokenizer of a folder, of a file, or of a model on the Hugging Face hub.

    Parameters
    ----------
    path : path or str
        A folder with our ``tokenizer.json``, with ``vocab.json`` and ``merges.txt`` or with Hugging
        Face's ``tokenizer.json``, a file that `read_tokenizer` knows, a ``.safetensors`` file in
        such a folder, or a name on the hub, as `GPT.from_pretrained` takes them.

    Raises
    ------
    UserError
        If there is none, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        from npgpt.hub import find_model

        path = find_model(str(path))
    if path.suffix == ".safetensors" and path.is_file():
        path = path.parent
    return read_tokenizer(path)

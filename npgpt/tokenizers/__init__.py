"""Tokenizers: text to token ids and back.

There are tokenizers of characters and of bytes, GPT-1's and GPT-2's byte-pair encodings, the other
encodings of tiktoken, BERT's WordPiece, tokenizers from Hugging Face's files (``tokenizer.json``,
``vocab.txt``, or ``vocab.json`` with ``merges.txt``), and the byte-pair encodings that
`train_bpe` and `train_wordpiece` train. No file is ever downloaded.

An example of the way from a text to ids, for a byte-pair encoding:

    "the<|endoftext|>"  ->  "the", 50256          special tokens are found (base.py)
    "the"               ->  "the"                 the text is normalized (normalizers.py)
    "the"               ->  b"t" b"h" b"e"        the text is cut into pieces, pieces into bytes
                        ->  b"t" b"he" -> b"the"  neighbours merge (bpe.py)
                        ->  1169                  each token has an id
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autograd.files import write_json
from autograd.reading import read_json
from npgpt.errors import UserError
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
    folder,
    make_known,
    read_encoding,
    read_tokenizer,
    tokenizer_of,
    write_tiktoken,
)
from npgpt.tokenizers.templates import describe_template
from npgpt.tokenizers.training import train_bpe, train_wordpiece
from npgpt.tokenizers.wordpiece import WordPieceTokenizer

__all__ = [
    "AddedToken",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "GPT1Tokenizer",
    "GPT2Tokenizer",
    "StreamDecoder",
    "Tokenizer",
    "WordPieceTokenizer",
    "add",
    "load_tokenizer",
    "make_tokenizer",
    "read_tokenizer",
    "save_tokenizer",
    "tokenizer_of",
    "train_bpe",
    "train_wordpiece",
    "write_tiktoken",
]


class GPT2Tokenizer(BPETokenizer):
    """GPT-2's byte-pair encoding of 50,257 tokens.

    Its vocabulary is read from the files that ``npgpt tokenizer add encoder.json vocab.bpe`` has
    copied, or from tiktoken's cache.

    Raises
    ------
    UserError
        If the vocabulary is in neither place.
    """

    def __init__(self) -> None:
        super().__init__(**read_encoding("gpt2"), kind="gpt2")


def make_tokenizer(name: str, text: str = "", special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Return the tokenizer of a name, or of a file.

    Parameters
    ----------
    name : str
        ``char``, ``byte``, ``gpt1``, ``gpt2``, the name of another encoding of tiktoken, the name
        of a tokenizer that ``npgpt tokenizer add`` has copied, or a path (see `read_tokenizer`).
    text : str, optional
        The text whose characters are the vocabulary of ``char``.
    special_tokens : sequence of str, optional
        The special tokens of ``char`` and ``byte``. Every other tokenizer has its own.

    Raises
    ------
    UserError
        If no tokenizer has this name, or its files are missing or damaged.

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
        return make_known(name)
    own = folder() / f"{name}.json"
    if Path(name).name == name and own.is_file():
        return tokenizer_of(read_json(own), own)
    path = Path(name).expanduser()
    if path.exists() or path.name != name or path.suffix in (".tiktoken", ".json", ".txt", ".bpe"):
        return read_tokenizer(path)
    names = ["char", "byte", *KNOWN, *(file.stem for file in folder().glob("*.json"))]
    raise UserError(f"unknown tokenizer {name!r}{nearest(name, names)}")


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write a tokenizer to ``tokenizer.json`` in a folder, from which `load_tokenizer` reads it.

    The file of a published tokenizer, such as GPT-2's, holds only the name. The file of any other
    tokenizer holds the whole vocabulary. A chat template is in the file, too.

    Parameters
    ----------
    tokenizer : Tokenizer
    folder : str or Path
        A folder that exists.

    Raises
    ------
    UserError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tokenizer(CharTokenizer.from_text("hello"), folder)
    ...     load_tokenizer(folder).decode([1, 3, 2, 0])
    'hole'
    """
    values = tokenizer.to_dict() | describe_template(tokenizer)
    write_json(Path(folder) / "tokenizer.json", values)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read the tokenizer of a folder, of a file, or of a model on the Hugging Face hub.

    Parameters
    ----------
    path : str or Path
        A folder, a file, or a name on the hub. A folder holds ``tokenizer.json`` (ours or Hugging
        Face's), or ``vocab.json`` and ``merges.txt``. A file is one that `read_tokenizer` reads, or
        a ``.safetensors`` file in such a folder. Names are those of `GPT.from_pretrained`.

    Raises
    ------
    UserError
        If the path holds no tokenizer, or its files are damaged.
    """
    path = Path(path)
    if not path.exists():
        from npgpt.hub import find_model

        path = find_model(str(path))
    if path.suffix == ".safetensors" and path.is_file():
        path = path.parent
    if (path / "adapter_config.json").is_file() and not (path / "tokenizer.json").exists():
        from npgpt.hub import find_base

        path = find_base(path)  # the model that LoRA's matrices in this folder change
    return read_tokenizer(path)

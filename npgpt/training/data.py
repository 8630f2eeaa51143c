"""From text to batches: reading, the token file, and random windows of it.

A token file holds raw little-endian integers: uint16, or uint32 for a vocabulary of more than
65,536 tokens. A JSON file of the same name describes it. The first 90 % of the tokens train, and
the rest validates.

A text may consist of documents. The end token then follows each document, and `separated` keeps
documents apart that are in one window.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.files import finish, replacing, together, write_json
from autograd.reading import (
    LARGE,
    demand_file,
    fit_file,
    hash_file,
    read_bytes,
    read_json,
    read_stream,
)
from autograd.schema import Count, FileName
from npgpt.errors import UserError
from npgpt.options import quoted
from npgpt.say import say
from npgpt.tokenizers import Tokenizer, tokenizer_of

LONGEST_TEXT = 4 * LARGE  # bytes of a file of text; text from a pipe may have a quarter of this
LIBRARY_BYTES = 4_000_000  # how much of Python's library is read, as the default corpus
INSTALLED = {"site-packages", "dist-packages"}  # folders in the library that are no part of it
RESTORE = "Put back a copy of both files, or train a new run on the text"


# ---- reading


@dataclass
class Source:
    """Where tokens come from: a token file that is there, or text that becomes one."""

    file: Path | None = None
    text: str | list[str] = ""  # or documents
    names: list[str] = field(default_factory=list)
    places: list[str] = field(
        default_factory=list, kw_only=True
    )  # of examples: file and line, for messages

    n_levels: ClassVar[int] = 0  # the numbers beyond the vocabulary that its examples have


def read_text(sources: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the text of files, folders and patterns as one text, and the names of the files.

    Without any source, the text is Python's library. ``-`` is standard input. A file that is named
    several times is read once. In a folder, all files of UTF-8 text are read, at any depth, except
    for hidden files and the files of training runs.
    """
    texts, names = read_texts(sources)
    return "\n".join(texts), names


def read_documents(
    sources: tuple[str, ...], separator: str = "", is_needed: bool = True
) -> tuple[list[str], list[str]]:
    r"""Return the documents in files, and the names of the files; see `read_text` for the sources.

    Without a separator, each file is one document. A separator cuts a file into several documents,
    and is part of none of them. The two characters ``\n`` in a separator, as a shell passes them
    on, stand for a line break, and ``\t`` for a tab. Documents of white space alone are left out.

    Raises
    ------
    UserError
        If there are no documents, or (if it `is_needed`) the separator is nowhere in the text.
    """
    texts, names = read_texts(sources)
    if separator:
        separator = spelled_out(separator)
        if is_needed and not any(separator in text for text in texts):
            raise UserError(
                f"--separator {separator!r} is nowhere in the text: nothing separates documents"
            )
        texts = [part for text in texts for part in text.split(separator)]
    documents = [text for text in texts if text.strip()]
    if not documents:
        raise UserError("the text holds nothing but separators and white space")
    return documents, names


def spelled_out(separator: str) -> str:
    """Return a separator with a line break for a backslash and n, and a tab for one and t."""
    return separator.replace("\\n", "\n").replace("\\t", "\t")


def read_texts(sources: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the text of each file, and the names of the files; see `read_text`."""
    if not sources:
        return library_texts()
    texts: dict[Path, tuple[str, str]] = {}
    for source in sources:
        path = Path(source).expanduser()
        if not source:
            raise UserError("--data has an empty name, which is no file")
        if path.is_dir():
            found = _texts_in(path)
        else:
            files = [path] if source == "-" or path.exists() else _matches(source)
            found = [(file, _text(file)) for file in files]
            for file, text in found:
                if not text.strip():
                    raise UserError(f"{file} is empty: training needs text")
        for file, text in found:
            texts.setdefault(file.resolve(), (str(file), text))
    return [text for _, text in texts.values()], [name for name, _ in texts.values()]


def _matches(pattern: str) -> list[Path]:
    found = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
    if not found:
        why = ": no file matches the pattern" if glob.has_magic(pattern) else ""
        if not why and " " in pattern and not Path(pattern).suffix:
            why = "; data are files, so a text goes into a file first"
        raise UserError(f"{quoted(pattern)} does not exist{why}")
    return found


def _texts_in(folder: Path) -> list[tuple[Path, str]]:
    """Return the files of text in a folder; print a note about the other files."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder))
    runs = {p.parent for p in files if p.name == "state.safetensors"}
    files = [p for p in files if runs.isdisjoint(p.parents)]
    if folder in runs:
        raise UserError(
            f"{folder} is the folder of a run. Name the files to train on; "
            f"what the run was trained on is {folder / 'tokens.bin'}"
        )
    texts, others = [], []
    for path in files:
        try:
            texts.append((path, _text(path)))
        except UserError:
            others.append(str(path.relative_to(folder)))
    texts = [(path, text) for path, text in texts if text.strip()]
    if not texts:
        raise UserError(f"{folder} is a folder without any text file (UTF-8)")
    if others:
        named = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        left_out = f"{len(others)} of {len(files)} files are no UTF-8 text and left out"
        say(f"note: {folder}: {left_out}: {named}", sys.stderr)
    return texts


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _text(path: Path) -> str:
    if str(path) == "-":
        content = read_stream(sys.stdin.buffer, "standard input")
    else:
        content = read_bytes(path, LONGEST_TEXT, pipes=True)
    if b"\0" in content:
        raise UserError(f"{path} is a binary file (it holds a zero byte): training needs text")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}) in line {line}; convert it first, for "
            "example with iconv -f LATIN1 -t UTF-8"
        ) from None


def library_text() -> tuple[str, list[str]]:
    """Return `library_texts` as one text."""
    texts, names = library_texts()
    return "\n".join(texts), names


def library_texts(whole: bool = False) -> tuple[list[str], list[str]]:
    """Return source code of Python's library, a text that every user has, and the file names.

    The text is the top-level modules that are ASCII, in alphabetical order, up to 4 MB. The `whole`
    library also has its packages, at any depth, but not the packages that were installed. Where
    Python was installed without its sources, the text is the language reference in `pydoc_data`.

    Raises
    ------
    UserError
        If there is neither.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts, names, size = [], [], 0
    limit = math.inf if whole else LIBRARY_BYTES
    for path in sorted(folder.rglob("*.py") if whole else folder.glob("*.py")):
        if not INSTALLED.isdisjoint(path.relative_to(folder).parts):
            continue
        content = path.read_bytes()
        if content.isascii() and content.strip() and size + len(content) <= limit:
            texts.append(content.decode("ascii").replace("\r\n", "\n"))
            names.append(path.relative_to(folder).as_posix())
            size += len(content)
    if size < 100_000:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise UserError(
                f"this Python has no sources of its library in {folder} to train on; "
                "give a text with --data FILE"
            ) from None
        return [topics[key] for key in sorted(topics)], ["pydoc_data.topics"]
    return texts, names


# ---- documents

END = "<|endoftext|>"


def end_token(
    tokenizer: Tokenizer, why: str = f"--documents puts the token {END} after each document"
) -> int:
    """Return the id of the token that ends a document; `why` one is needed is for the error.

    The token is ``<|endoftext|>``, or if the tokenizer does not have it, the only special token
    besides ``<unk>``.

    Raises
    ------
    UserError
        If the tokenizer has no such token.
    """
    special = {t: i for t, i in tokenizer.special_tokens.items() if t != "<unk>"}
    if END in special:
        return special[END]
    if len(special) == 1:
        return next(iter(special.values()))
    others = f"the special tokens {', '.join(special)}" if special else "no special token"
    raise UserError(
        f"{why}, and the tokenizer ({tokenizer.kind}) has {others}. Take a tokenizer that has one, "
        "such as --tokenizer char"
    )


def encode_text(text: str | list[str], tokenizer: Tokenizer) -> ndarray:
    """Return the ids of a text, (T,), or of documents, each followed by the end token.

    Where the text contains the characters of a special token, they are encoded as characters.
    """
    if isinstance(text, str):
        return tokenizer.encode(text, disallowed_special=())
    end = np.array([end_token(tokenizer)])
    parts = []
    for document in text:
        ids = tokenizer.encode(document, disallowed_special=(), add_special_tokens=False)
        parts += [ids, end]
    return np.concatenate(parts)


# ---- the token file

LEVELS = 256  # of a pixel
TOKEN_FILES = ("tokens", "val_tokens")  # of the data and of the validation data, in a run folder


@dataclass
class Tokens:
    """Tokens, and the file that holds them."""

    array: ndarray  # (N,)
    path: Path
    sha256: str


@dataclass
class TokenFile:
    """The contents of the JSON file that describes a token file."""

    tokenizer: dict[str, Any]
    n_vocab: Count
    n_tokens: Count
    n_characters: Count
    dtype: Literal["uint16", "uint32"]
    sha256: str
    sources: list[FileName]
    documents: bool = False  # whether an end token follows each document
    n_levels: Count = 0  # the numbers from n_vocab on that stand for the levels of pixels
    description_sha256: str = ""  # the hash of all fields above; version 0.1.0 wrote no such hash


def hash_description(values: dict) -> str:
    """Return the SHA-256 of a description of a token file, without its `description_sha256`."""
    values = values | {"description_sha256": ""}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_tokens(
    path: Path,
    text: str | list[str],
    tokenizer: Tokenizer,
    sources: list[str],
    ids: ndarray | None = None,
    n_levels: int = 0,
) -> TokenFile:
    """Write the tokens of a text, or of documents, to a token file; return its description.

    Parameters
    ----------
    path : Path
        The token file (.bin). The description goes to a JSON file of the same name.
    text : str or list of str
    tokenizer : Tokenizer
    sources : list of str
        The names of the files that the text was read from.
    ids : ndarray of int, optional
        The result of `encode_text`, if it is known already.
    n_levels : int
        How many numbers, from the size of the vocabulary on, stand for the levels of pixels.
    """
    n = tokenizer.n_vocab + n_levels
    dtype: Literal["uint16", "uint32"] = "uint16" if n <= 2**16 else "uint32"
    ids = encode_text(text, tokenizer) if ids is None else ids
    content = ids.astype(f"<{dtype[0]}{np.dtype(dtype).itemsize}").tobytes()
    info = TokenFile(
        tokenizer=tokenizer.to_dict(),
        n_vocab=tokenizer.n_vocab,
        n_tokens=ids.size,
        n_characters=len(text if isinstance(text, str) else "".join(text)),
        dtype=dtype,
        sha256=hashlib.sha256(content).hexdigest(),
        sources=sources if len(sources) <= 1000 else [*sources[:1000], "..."],
    )
    info.documents = not isinstance(text, str)
    info.n_levels = n_levels
    info.description_sha256 = hash_description(asdict(info))
    with together(path.parent):
        with replacing(path) as file:
            file.write(content)
        write_json(path.with_suffix(".json"), asdict(info), indent=1)
    return info


def open_tokens(path: Path, tokenizer: Tokenizer | None = None) -> tuple[ndarray, TokenFile]:
    """Map a token file into memory, after a check that it fits its description.

    A file of another program, such as nanoGPT's ``train.bin``, has no description. Its contents are
    read as uint16 tokens of `tokenizer`.

    Parameters
    ----------
    path : Path
    tokenizer : Tokenizer, optional

    Returns
    -------
    ndarray of int, (N,)
        A read-only memory map.
    TokenFile

    Raises
    ------
    UserError
        If the file or its description is missing or damaged, or a token is out of range.
    """
    finish(path.parent)
    if not path.exists():
        raise UserError(f"the token file {path} does not exist")
    demand_file(path)
    described = path.with_suffix(".json")
    if not described.is_file():
        if tokenizer is None:
            raise UserError(
                f"{described} does not exist: it would say what the tokens in {path.name} are. "
                + advice_on_foreign(path)
            )
        return open_foreign(path, tokenizer)
    values = read_json(described)
    info: TokenFile = fit_file(values, TokenFile, described)
    dtype = np.dtype({"uint16": "<u2", "uint32": "<u4"}[info.dtype])
    if info.description_sha256 not in ("", hash_description(values)):
        raise UserError(f"{described} was changed since {path.name} was written: {RESTORE}")
    if path.stat().st_size != info.n_tokens * dtype.itemsize:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes, and {described.name} promises "
            f"{info.n_tokens} tokens of {dtype.itemsize}: it was cut short or changed. {RESTORE}"
        )
    if hash_file(path) != info.sha256:
        raise UserError(
            f"{path} does not have the hash in {described.name}: it was changed. {RESTORE}"
        )
    if not info.n_tokens:
        raise UserError(f"{path} holds no tokens")
    tokens = np.memmap(path, dtype, mode="r")
    if (largest := int(tokens.max())) >= info.n_vocab + info.n_levels:
        raise UserError(
            f"{path} holds token {largest}, and {described.name} knows "
            f"{info.n_vocab + info.n_levels} (from 0)"
        )
    return tokens, info


def advice_on_foreign(path: Path) -> str:
    """Return the advice for a user who gave a token file of another program."""
    if (path.parent / "meta.pkl").exists():
        return (
            "The vocabulary is in meta.pkl beside it, and a pickle is never opened here: to load "
            "a pickle is to run what is in it. nanoGPT's character tokens are the sorted "
            "characters of the text, and so are those of npgpt: train on the text itself, as in "
            "--data input.txt"
        )
    return (
        "A token file of another program, such as nanoGPT's train.bin, has none: name the "
        "tokenizer that made it, as in --tokenizer gpt2, or train on the text itself, as in "
        "--data input.txt --tokenizer gpt2"
    )


def open_foreign(path: Path, tokenizer: Tokenizer) -> tuple[ndarray, TokenFile]:
    """Map a file of uint16 tokens that has no description into memory; see `open_tokens`."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise UserError(f"{path} has {size} bytes; uint16 tokens, as nanoGPT writes them, take two")
    tokens = np.memmap(path, "<u2", mode="r")
    if len(tokens) > 1 and not tokens[1::2].any():
        raise UserError(
            f"{path} holds a 0 in every second place: its tokens seem to have four bytes each, and "
            "a file without a description is read as uint16, as nanoGPT writes it"
        )
    if (largest := int(tokens.max())) >= tokenizer.n_vocab:
        raise UserError(
            f"{path} holds token {largest}, and the tokenizer ({tokenizer.kind}) knows "
            f"{tokenizer.n_vocab:,} (from 0): name the one that made the file with --tokenizer"
        )
    info = TokenFile(
        tokenizer=tokenizer.to_dict(),
        n_vocab=tokenizer.n_vocab,
        n_tokens=len(tokens),
        n_characters=0,
        dtype="uint16",
        sha256=hash_file(path),
        sources=[str(path)],
    )
    return tokens, info


def tokenizer_of_tokens(path: Path, info: TokenFile) -> Tokenizer:
    """Make the tokenizer that a token file was made with."""
    described = path.with_suffix(".json")
    tokenizer = tokenizer_of(info.tokenizer, described)
    if tokenizer.n_vocab != info.n_vocab:
        raise UserError(
            f"{described} says that there are {info.n_vocab} tokens, and its tokenizer has "
            f"{tokenizer.n_vocab}"
        )
    return tokenizer


def split_tokens(tokens: ndarray, block_size: int) -> tuple[ndarray, ndarray]:
    """Return the first 90 % of the tokens, and the rest.

    Raises
    ------
    UserError
        If a part has fewer than `block_size` + 1 tokens: a context and the token after it.
    """
    n = int(0.9 * len(tokens))
    train, validation = tokens[:n], tokens[n:]
    if min(len(train), len(validation)) <= block_size:
        raise UserError(
            f"the text has {len(tokens)} tokens, {len(validation)} of them for validation: too few "
            f"for a context of {block_size}, which needs {10 * (block_size + 1)}; "
            "give more text, or a smaller --block_size"
        )
    return train, validation


def demand_context(tokens: ndarray, block_size: int, option: str) -> None:
    """Refuse fewer than `block_size` + 1 tokens: a context and the token after it."""
    if len(tokens) <= block_size:
        raise UserError(
            f"{option} has {len(tokens)} tokens: too few for a context of {block_size}, which "
            f"needs {block_size + 1}; give more text, or a smaller --block_size"
        )


# ---- batches

IGNORED = -100  # a target of this value has no part in the loss


class Batch(NamedTuple):
    """What a model reads: the arguments of `npgpt.models.gpt.GPT.forward`, in their order.

    B is the number of sequences, T the number of tokens in a sequence.
    """

    inputs: ndarray  # (B, T)
    targets: ndarray  # (B, T)
    attention_mask: ndarray | None = None  # (B, T, T)
    position_ids: ndarray | None = None  # (B, T)


class ImageBatch(NamedTuple):
    """A batch with images: the arguments of `VisionGPT.forward`, in their order."""

    inputs: ndarray  # (B, T), with the image token for each patch
    targets: ndarray  # (B, T)
    attention_mask: ndarray | None  # (B, T, T)
    position_ids: ndarray | None  # (B, T)
    pixel_values: Any  # ndarray or Tensor of float, (B, c, H, W)


AnyBatch = Batch | ImageBatch


def random_batch(
    tokens: ndarray, batch_size: int, block_size: int, generator: np.random.Generator
) -> tuple[ndarray, ndarray]:
    """Draw windows of a text at random: inputs and targets, (B, T) each.

    The target at a position is the token after it, so the targets are the inputs moved by one.
    """
    starts = random_starts(tokens, batch_size, block_size, generator)
    windows = windows_at(tokens, starts, block_size)  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]


def random_starts(
    tokens: ndarray, batch_size: int, block_size: int, generator: np.random.Generator
) -> ndarray:
    """Draw where the windows of `random_batch` begin, (B,)."""
    return generator.integers(len(tokens) - block_size, size=batch_size)


def windows_at(tokens: ndarray, starts: Iterable[int], length: int) -> ndarray:
    """Return windows of a text, each with `length` tokens and the token after: (B, length + 1)."""
    windows = np.stack([tokens[start : start + length + 1] for start in starts])
    is_id = (
        windows.dtype.kind in "iu" and windows.dtype != np.uint64
    )  # the model refuses other types
    return windows.astype(np.int64) if is_id else windows


def separated(inputs: ndarray, targets: ndarray, end: int | None) -> Batch:
    """Return a batch in which the documents in a window are kept apart.

    The model then computes the same for a document as if the document were alone. The end token is
    the last token of its document. A position attends only to positions of its own document.
    Positions count from the first token of the document in the window. The end token predicts
    nothing, since the next token belongs to another document.

    Parameters
    ----------
    inputs, targets : ndarray of int, (B, T)
    end : int or None
        The end token. With None, nothing is kept apart: the model sees windows of one long text.

    Returns
    -------
    Batch

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt.training.data import separated
    >>> tokens = np.array([[5, 6, 0, 7, 8, 9]])
    >>> batch = separated(tokens[:, :-1], tokens[:, 1:], end=0)
    >>> batch.targets
    array([[   6,    0, -100,    8,    9]])
    >>> batch.position_ids
    array([[0, 1, 2, 0, 1]])
    >>> batch.attention_mask[0].astype(int)
    array([[1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0],
           [0, 0, 0, 1, 1],
           [0, 0, 0, 1, 1]])
    """
    if end is None:
        return Batch(inputs, targets)
    is_end = inputs == end  # (B, T)
    document = np.cumsum(is_end, axis=1) - is_end  # (B, T), the number of the position's document
    places = np.arange(inputs.shape[1])
    begins = np.zeros_like(inputs)
    begins[:, 1:] = np.where(is_end[:, :-1], places[1:], 0)
    return Batch(
        inputs,
        np.where(is_end, IGNORED, targets),
        document[:, :, None] == document[:, None, :],
        places - np.maximum.accumulate(begins, axis=1),
    )


def n_predicted(targets: ndarray) -> int:
    """Return the number of targets that have a part in the loss."""
    return int(np.count_nonzero(targets != IGNORED))

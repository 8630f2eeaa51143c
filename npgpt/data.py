"""From text to batches: reading, the token file, and random windows of it.

A token file is raw little-endian uint16 or uint32 (by the size of the vocabulary), beside it a JSON
file of the same name that says which. The first 90 % train, the rest validates.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from npgpt.config import check_types
from npgpt.errors import UserError
from npgpt.files import finish, hash_file, read_json, replacing, together, write_json
from npgpt.tokenizers import Tokenizer, tokenizer_of

LIBRARY_BYTES = 4_000_000  # of Python's library, as the default corpus
RESTORE = "Put back a copy of both files, or train a new run on the text"


# ---- reading


def read_text(sources: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the text of files, folders and patterns (of none: Python's library), and their names.

    A file counts once, however often it is named; ``-`` is standard input. In a folder every file
    counts, however deep, that holds UTF-8 text; hidden ones and those of training runs do not.
    """
    if not sources:
        return library_text()
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
    return "\n".join(text for _, text in texts.values()), [name for name, _ in texts.values()]


def _matches(pattern: str) -> list[Path]:
    found = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
    if not found:
        why = ": no file matches the pattern" if glob.has_magic(pattern) else ""
        raise UserError(f"{pattern} does not exist{why}")
    return found


def _texts_in(folder: Path) -> list[tuple[Path, str]]:
    """Return a folder's files of text; a note says which others there are."""
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
        print(f"note: {folder}: {left_out}: {named}", file=sys.stderr)
    return texts


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _text(path: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if b"\0" in content:
        raise UserError(f"{path} is a binary file (it holds a zero byte): training needs text")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}); convert it first, for example with "
            f"iconv -f LATIN1 -t UTF-8"
        ) from None


def library_text() -> tuple[str, list[str]]:
    """Return source code of the running interpreter's own library: text that every user has.

    The top-level modules in alphabetical order, ASCII only, up to 4 MB. An interpreter without
    sources may still have the language reference, in `pydoc_data`.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts, names, size = [], [], 0
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes()
        if content.isascii() and content.strip() and size + len(content) <= LIBRARY_BYTES:
            texts.append(content.decode("ascii").replace("\r\n", "\n"))
            names.append(path.name)
            size += len(content)
    if size < 100_000:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise UserError(
                f"this Python has no sources of its library in {folder} to train on; "
                "give a text with --data FILE"
            ) from None
        return "\n".join(topics[key] for key in sorted(topics)), ["pydoc_data.topics"]
    return "\n".join(texts), names


# ---- the token file


@dataclass
class TokenFile:
    """What the JSON beside a token file says."""

    tokenizer: dict
    n_vocab: int
    n_tokens: int
    n_characters: int
    dtype: str
    sha256: str
    sources: list
    description_sha256: str = ""  # of all of the above; version 0.1.0 wrote none

    def hash(self) -> str:
        """Return the SHA-256 of everything else that is said here."""
        values = asdict(self) | {"description_sha256": ""}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_tokens(path: Path, text: str, tokenizer: Tokenizer, sources: list[str]) -> TokenFile:
    """Tokenize a text into ``path`` (.bin) and describe it in the JSON file beside it."""
    dtype = "uint16" if tokenizer.n_vocab <= 2**16 else "uint32"
    ids = tokenizer.encode(text, disallowed_special=())
    content = ids.astype(f"<{dtype[0]}{np.dtype(dtype).itemsize}").tobytes()
    info = TokenFile(
        tokenizer=tokenizer.to_dict(),
        n_vocab=tokenizer.n_vocab,
        n_tokens=ids.size,
        n_characters=len(text),
        dtype=dtype,
        sha256=hashlib.sha256(content).hexdigest(),
        sources=sources if len(sources) <= 1000 else [*sources[:1000], "..."],
    )
    info.description_sha256 = info.hash()
    with together(path.parent):
        with replacing(path) as file:
            file.write(content)
        write_json(path.with_suffix(".json"), asdict(info), indent=1)
    return info


def open_tokens(path: Path) -> tuple[ndarray, TokenFile]:
    """Map a token file into memory, after checking it against its description."""
    finish(path.parent)
    if not path.is_file():
        raise UserError(f"the token file {path} does not exist")
    described = path.with_suffix(".json")
    if not described.is_file():
        raise UserError(
            f"{described} does not exist: it would say what the tokens in {path.name} are. A token "
            "file of another program, such as nanoGPT's train.bin, has none: train on the text "
            "itself, as in --data input.txt --tokenizer gpt2"
        )
    values = read_json(described)
    try:
        info = TokenFile(**values)
        check_types(info)
        dtype = np.dtype({"uint16": "<u2", "uint32": "<u4"}[info.dtype])
    except (TypeError, KeyError, UserError):
        raise UserError(f"{described} does not describe a token file") from None
    if info.description_sha256 not in ("", info.hash()):
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
    if (largest := int(tokens.max())) >= info.n_vocab:
        raise UserError(
            f"{path} holds token {largest}, and {described.name} knows {info.n_vocab} (from 0)"
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
    """Return the first 90 % and the rest; both must hold a context and the token after it."""
    n = int(0.9 * len(tokens))
    train, validation = tokens[:n], tokens[n:]
    if min(len(train), len(validation)) <= block_size:
        raise UserError(
            f"the text has {len(tokens)} tokens, {len(validation)} of them for validation: too few "
            f"for a context of {block_size}, which needs {10 * (block_size + 1)}; "
            "give more text, or a smaller --block_size"
        )
    return train, validation


# ---- batches


def random_batch(
    tokens: ndarray, batch_size: int, block_size: int, generator: np.random.Generator
) -> tuple[ndarray, ndarray]:
    """Draw windows at random: inputs, and as targets the tokens that follow, (B, T) each."""
    starts = generator.integers(len(tokens) - block_size, size=batch_size)
    windows = windows_at(tokens, starts, block_size)  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]


def windows_at(tokens: ndarray, starts: Iterable[int], length: int) -> ndarray:
    """Return parts of a text, each of `length` tokens and the one after: (B, length + 1)."""
    windows = np.stack([tokens[start : start + length + 1] for start in starts])
    is_id = windows.dtype.kind in "iu" and windows.dtype != np.uint64  # others: the model's error
    return windows.astype(np.int64) if is_id else windows

"""From text to batches: reading, the token file, and random windows of it.

A token file is raw little-endian uint16 or uint32 (by the size of the vocabulary), beside it a JSON
file of the same name that says which. The first 90 % train, the rest validates.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.files import read_json, replacing, write_text
from npgpt.tokenizers import Tokenizer

LIBRARY_BYTES = 4_000_000  # of Python's library, as the default corpus


# ---- reading


def read_text(sources: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the text of files, folders and patterns (of none: Python's library), and their names.

    In a folder every file counts, however deep, that holds UTF-8 text; hidden ones do not.
    """
    if not sources:
        return library_text()
    texts, names = [], []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
            readable = [(p, text) for p in found if (text := _text_or_none(p))]
            if not readable:
                raise UserError(f"{source} is a folder without any text file (UTF-8)")
        else:
            matches = (
                [path] if path.exists() else sorted(map(Path, glob.glob(source, recursive=True)))
            )
            files = [match for match in matches if match.is_file()]
            if not files:
                raise UserError(f"{source} does not exist" + (
                    ": no file matches the pattern" if glob.has_magic(source) else ""
                ))  # fmt: skip
            readable = [(file, _text(file)) for file in files]
        for file, text in readable:
            texts.append(text)
            names.append(str(file))
    return "\n".join(texts), names


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not content.strip():
        raise UserError(f"{path} is empty: training needs text")
    if b"\0" in content:
        raise UserError(f"{path} is a binary file (it holds a zero byte): training needs text")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}); convert it first, for example with "
            f"iconv -f LATIN1 -t UTF-8"
        ) from None


def _text_or_none(path: Path) -> str | None:
    try:
        return _text(path)
    except UserError:
        return None


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
    sources: list[str]


def write_tokens(path: Path, text: str, tokenizer: Tokenizer, sources: list[str]) -> TokenFile:
    """Tokenize a text into ``path`` (.bin) and describe it in the JSON file beside it."""
    dtype = "uint16" if tokenizer.n_vocab <= 2**16 else "uint32"
    ids = tokenizer.encode(text, disallowed_special=())
    ids = ids.astype(f"<{dtype[0]}{np.dtype(dtype).itemsize}")
    with replacing(path) as temporary:
        ids.tofile(temporary)
    info = TokenFile(
        tokenizer=tokenizer.to_dict(),
        n_vocab=tokenizer.n_vocab,
        n_tokens=ids.size,
        n_characters=len(text),
        dtype=dtype,
        sha256=hashlib.sha256(ids.tobytes()).hexdigest(),
        sources=sources if len(sources) <= 1000 else [*sources[:1000], "..."],
    )
    write_text(path.with_suffix(".json"), json.dumps(asdict(info), ensure_ascii=False, indent=1))
    return info


def open_tokens(path: Path) -> tuple[ndarray, TokenFile]:
    """Map a token file into memory, after checking it against its description."""
    if not path.is_file():
        raise UserError(f"the token file {path} does not exist")
    described = path.with_suffix(".json")
    try:
        info = TokenFile(**read_json(described))
        dtype = np.dtype({"uint16": "<u2", "uint32": "<u4"}[info.dtype])
    except (TypeError, KeyError):
        raise UserError(f"{described} does not describe a token file") from None
    if path.stat().st_size != info.n_tokens * dtype.itemsize:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes, and {described.name} promises "
            f"{info.n_tokens} tokens of {dtype.itemsize}: it was cut short or changed"
        )
    if hash_file(path) != info.sha256:
        raise UserError(f"{path} does not have the hash in {described.name}: it was changed")
    return np.memmap(path, dtype, mode="r"), info


def hash_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    windows = np.stack([tokens[start : start + block_size + 1] for start in starts])
    windows = windows.astype(np.int64)  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]

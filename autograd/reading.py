"""Reading files from unknown sources: no more than a limit, and checked against annotated types.

All files that this package reads are opened here. A file is opened only if it is of a kind that the
reader expects. Otherwise a reader could wait for a pipe forever, or read a device that has no end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from autograd.escape import brief
from autograd.files import HASH, NO_HASH
from autograd.schema import UserError, fit

MIB = 2**20
SMALL = 16 * MIB
"""The largest configuration, prompt or file of commands that is read, in bytes."""
LARGE = 1024 * MIB
"""The largest vocabulary, trace or text from a pipe that is read, in bytes."""
DEEPEST = 100  # lists and objects inside each other; more is an attack, or a mistake


# ---- opening and reading


@contextmanager
def open_file(path: str | Path) -> Iterator[BufferedReader]:
    """Open a regular file to read its bytes.

    Parameters
    ----------
    path : str or Path

    Yields
    ------
    BufferedReader

    Raises
    ------
    UserError
        If there is no file of that name, if the file is a folder, a pipe, a socket or a device, or
        if the system does not let the user read the file.

    Examples
    --------
    >>> with open_file(__file__) as file:
    ...     file.read(3)
    b'\"\"\"'
    """
    with _reported(path):
        # without O_NONBLOCK, to open a pipe waits until another process writes to the pipe
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    with file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"{path} is {_kind(mode)}; expected a regular file")
        with _reported(path):
            yield file


def demand_file(path: str | Path) -> None:
    """Refuse a path at which there is no regular file that the user may read."""
    with open_file(path):
        pass


def read_bytes(path: str | Path, limit: int = LARGE, *, pipes: bool = False) -> bytes | bytearray:
    """Return what a file holds, which is at most `limit` bytes, and from a pipe at most `LARGE`.

    Parameters
    ----------
    path : str or Path
    limit : int
    pipes : bool
        Whether the path may also be a pipe or a terminal, which is read up to its end.

    Raises
    ------
    UserError
        As `open_file`; if the file is larger than `limit`.
    """
    with _reported(path):
        if pipes and _is_stream(os.stat(path).st_mode, path):
            with open(path, "rb") as stream:
                return read_stream(stream, path, min(limit, LARGE))
    with open_file(path) as file:
        _demand_size(file, path, limit)
        return read_stream(file, path, limit)


def _demand_size(file: BinaryIO, path: str | Path, limit: int) -> None:
    if (size := os.fstat(file.fileno()).st_size) > limit:
        raise UserError(f"{path} has {size:,} bytes; at most {limit:,} are read")


def read_stream(stream: BinaryIO, name: object, limit: int = LARGE) -> bytes | bytearray:
    """Return what a stream holds up to its end, which is at most `limit` bytes."""
    content = bytearray()
    with _reported(name):
        while piece := stream.read(min(MIB, limit + 1 - len(content))):
            content += piece
            if len(content) > limit:
                raise UserError(
                    f"{name} does not end within {limit:,} bytes, the most that is read"
                )
    return content


def read_text(path: str | Path, limit: int = SMALL, *, pipes: bool = False) -> str:
    """Return the text of a UTF-8 file, as `read_bytes` does, without a byte order mark."""
    return decode(read_bytes(path, limit, pipes=pipes), path)


def decode(content: bytes | bytearray, name: object) -> str:
    """Return the text that UTF-8 bytes stand for, without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is damaged: it is not UTF-8 (byte {error.start})") from None


def _is_stream(mode: int, path: str | Path) -> bool:
    """Return whether a file is a pipe, a terminal or /dev/null; other devices may have no end."""
    if stat.S_ISCHR(mode):
        with open(path, "rb", buffering=0) as device:
            return device.isatty() or os.path.samefile(path, os.devnull)
    return stat.S_ISFIFO(mode)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
             stat.S_IFREG: "a file"}  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "a device")


@contextmanager
def _reported(path: object) -> Iterator[None]:
    """Turn an error of the system into a `UserError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        if error.errno is not None and _is_socket(path):
            raise UserError(f"{path} is a socket; expected a regular file") from None
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UserError, UnicodeError):
        raise
    except ValueError as error:  # a zero byte in the name
        raise UserError(f"{str(path)!r} is no name of a file: {error}") from None


def _is_socket(path: object) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(str(path)).st_mode)
    except (OSError, ValueError):
        return False


# ---- JSON, TOML and safetensors


def parse_json(text: str | bytes | bytearray, name: object) -> Any:
    """Return the value that a JSON text holds.

    Raises
    ------
    UserError
        If the text is no JSON, is nested too deep, or has a key twice in one object.
    """
    text = decode(text, name) if isinstance(text, bytes | bytearray) else text
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if is_deeper(value, DEEPEST):
            raise ValueError(f"its values are nested more than {DEEPEST} deep")
        return value
    except RecursionError:
        reason = f"its values are nested more than {DEEPEST} deep"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{name} is damaged, or no JSON: {reason:.400}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {brief(twice)} twice")
    return values


def is_deeper(value: Any, limit: int) -> bool:
    """Return whether lists and objects are nested more than `limit` deep."""
    level = [value]
    for _ in range(limit):
        level = [item for each in level for item in _items(each)]
        if not level:
            return False
    return True


def _items(value: Any) -> Iterable[Any]:
    return value.values() if type(value) is dict else value if type(value) is list else ()


def read_json(path: str | Path, annotation: Any = dict[str, Any], limit: int = LARGE) -> Any:
    """Return the value in a JSON file, checked by `fit`.

    Parameters
    ----------
    path : str or Path
    annotation : type
        What the file must hold.
    limit : int
        The largest size of the file in bytes.

    Raises
    ------
    UserError
        If the file cannot be read, is no JSON, or holds something else.
    """
    value = parse_json(read_bytes(path, limit), path)
    if annotation == dict[str, Any] and not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object")
    return fit_file(value, annotation, path)


def fit_file(value: Any, annotation: Any, path: str | Path) -> Any:
    """Return a file's value, checked by `fit`; the message names the file."""
    try:
        return fit(value, annotation)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def read_toml(path: str | Path, limit: int = SMALL) -> dict[str, Any]:
    """Return the table in a TOML file."""
    text = read_text(path, limit)
    try:
        return tomllib.loads(text)
    except RecursionError:
        reason = "its values are nested too deep"
    except ValueError as error:  # of TOML, and of numbers with thousands of digits
        reason = str(error)
    raise UserError(f"{path} is not a TOML file: {reason:.400}")


def demand_intact(file: BinaryIO, path: str | Path) -> bool:
    """Refuse a safetensors file that is not as `write_tensors` wrote it.

    The metadata holds the SHA-256 of the whole file, in which the hash itself is 64 zeros. Files of
    other programs hold none, so that nothing is known about them.

    Returns
    -------
    bool
        Whether the file holds a hash.

    Raises
    ------
    UserError
        If any bit of the file was changed.
    """
    file.seek(0)
    start = file.read(8)
    start += file.read(min(int.from_bytes(start, "little"), SMALL))
    found = re.search(rb'"%b":"([^"]*)"' % re.escape(HASH).encode(), start)
    if found is None:
        return False
    digest = hashlib.sha256(start[: found.start(1)] + NO_HASH.encode() + start[found.end(1) :])
    while chunk := file.read(2**20):
        digest.update(chunk)
    if found[1] != digest.hexdigest().encode():
        raise UserError(
            f"{path} is damaged: its contents do not have the SHA-256 that it was written with"
        )
    return True


def hash_file(path: str | Path, limit: int | None = None) -> str:
    """Return the SHA-256 of a file, which has at most `limit` bytes."""
    with open_file(path) as file:
        if limit is not None:
            _demand_size(file, path, limit)
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file; see `demand_intact`."""
    from safetensors import SafetensorError, safe_open

    demand_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged, or no safetensors file: {reason:.400}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory") from None
    with open_file(path) as contents:
        demand_intact(contents, path)
    metadata.pop(HASH, None)
    return tensors, metadata

"""Reading and writing files, whole or not at all; and the folders of runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from autograd.files import (  # noqa: F401 (what writes is had from here, too)
    HASH,
    NO_HASH,
    TEMPORARY,
    finish,
    make_folders,
    read_together,
    remove,
    replacing,
    together,
    write_json,
    write_tensors,
    write_text,
    written,
)
from npgpt.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def append(file: BinaryIO, line: bytes) -> None:
    """Add a line to the end of a file that is open without a buffer: all of the line, or nothing.

    After a kill in the middle of it, the next who reads finds a last line without its end.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(line)
        while rest:  # the system may take less than all of it, of a full disk for one
            rest = rest[file.write(rest) :]
    except BaseException:
        with suppress(OSError):
            file.truncate(size)
        raise


def demand_intact(file: BinaryIO, path: Path) -> bool:
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
    start += file.read(min(int.from_bytes(start, "little"), 100_000_000))  # the format's limit
    found = re.search(rb'"%b":"([0-9a-f]{64})"' % re.escape(HASH).encode(), start)
    if found is None:
        return False
    digest = hashlib.sha256(start[: found.start(1)] + NO_HASH.encode() + start[found.end(1) :])
    while chunk := file.read(2**20):
        digest.update(chunk)
    if found[1].decode() != digest.hexdigest():
        raise UserError(
            f"{path} is damaged: its contents do not have the SHA-256 that it was written with"
        )
    return True


def hash_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file; see `demand_intact`."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with path.open("rb") as contents:
            demand_intact(contents, path)
        metadata.pop(HASH, None)
        return tensors, metadata
    except UserError:
        raise
    except (SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no safetensors file: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, or no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a JSON object")
    return values


def home() -> Path:
    """Return our own folder: ``$NPGPT_HOME``, or ``npgpt`` in the user's data folder."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("NPGPT_HOME") or Path(data) / "npgpt").expanduser()


# ---- run folders


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, or that cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out_dir {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        if (folder / "state.safetensors").is_file():
            way = f"Continue the run in it with --resume {shlex.quote(str(folder))}, replace it"
        else:
            way = "It holds no run: train there, beside what it holds,"
        raise UserError(
            f"the folder {folder} is not empty. {way} with --overwrite, or leave out --out_dir for "
            "a new one"
        )


def make_folder(out_dir: str) -> Path:
    """Make the run folder: the one asked for, or the next number under out/."""
    try:
        if out_dir:
            folder = Path(out_dir)
            make_folders(folder)
            hold(folder)
            return folder
        out = Path("out")
        make_folders(out)
        taken = [int(p.name) for p in out.iterdir() if p.name.isdecimal()]
        for number in range(max(taken, default=0) + 1, 10**6):
            folder = out / f"{number:04d}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another run took it
            hold(folder)
            return folder
        raise UserError(f"{out} is full")
    except OSError as error:
        raise UserError(f"the folder {out_dir or 'out'} cannot be made: {error.strerror}") from None


RUN_FILES = (
    "train.toml config.json generation_config.json model.safetensors tokenizer.json tokens.bin "
    "tokens.json val_tokens.bin val_tokens.json metrics.jsonl loss.png state.safetensors"
).split()


def run_files(folder: Path) -> list[Path]:
    """Return all files in a folder that are an earlier run's, and no others."""
    checkpoints = folder / "checkpoints"
    own = [path for name in RUN_FILES if (path := folder / name).exists()]
    own += checkpoints.glob("step-*.safetensors")
    return own + leftovers(folder) + leftovers(checkpoints)


def leftovers(folder: Path) -> list[Path]:
    """Return what was being written in a folder when a process was killed.

    Version 0.1.0 left files without random signs, and of safetensors, called .tmp and six signs.
    """
    old = re.compile(r"\..+\.(bin|json|jsonl|safetensors|toml)\.tmp|\.tmp[A-Za-z0-9]{6}")
    return [
        path
        for path in folder.glob(".*")
        if (TEMPORARY.fullmatch(path.name) or old.fullmatch(path.name))
        and (path.is_file() or path.is_symlink())
    ]


def clear(folder: Path) -> None:
    """Remove an earlier run's files from a folder, and nothing else.

    In a `together` block, the run is there until the block ends, but for its checkpoints.
    """
    for file in run_files(folder):
        remove(file)
    with suppress(OSError):  # there is none, or something else in it
        (folder / "checkpoints").rmdir()


def demand_kept(folder: Path, needed: list[Path]) -> None:
    """Refuse to overwrite a run of which something is still needed."""
    doomed = {path.resolve() for path in (folder, *run_files(folder))}
    for path in needed:
        if path.resolve() in doomed:
            raise UserError(
                f"--overwrite would remove {path}, which the new run needs; give another --out_dir"
            )


_held: dict[tuple[int, int], int] = {}  # descriptors of the folders that this process holds


def hold(folder: Path) -> None:
    """Keep other processes from training in a folder, until `release` or the end of this process.

    The folder itself is locked: nothing is left in it, and even kill -9 unlocks it.
    """
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    key = _identity(descriptor)
    try:
        if key not in _held:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held[key] = descriptor
    except BlockingIOError:
        raise UserError(
            f"another process trains in {folder}: wait until it ends, or stop it first"
        ) from None
    except OSError:
        pass  # a file system without locks
    finally:
        if _held.get(key) != descriptor:
            os.close(descriptor)


def release(folder: Path) -> None:
    """Let other processes train in a folder again."""
    if folder.is_dir() and (descriptor := _held.pop(_identity(folder), None)) is not None:
        os.close(descriptor)


def _identity(file: int | Path) -> tuple[int, int]:
    info = os.stat(file)
    return info.st_dev, info.st_ino

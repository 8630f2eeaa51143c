"""Reading and writing files, whole or not at all; and the folders of runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from npgpt.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; afterwards it takes the place of `path`, in one step.

    Whatever happens, even a loss of power, `path` holds the old contents or the new.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # of a write, the system does not say it
        raise
    if os.name == "posix":  # the new name itself must reach the disk, too
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


HASH = "npgpt.sha256"  # in the metadata of the safetensors files that we write
NO_HASH = "0" * 64
TYPES = {  # safetensors' names of NumPy's types
    "f8": "F64", "i8": "I64", "u8": "U64", "f4": "F32", "i4": "I32", "u4": "U32",
    "f2": "F16", "i2": "I16", "u2": "U16", "i1": "I8", "u1": "U8", "b1": "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write a safetensors file, which holds a hash of itself; see `demand_intact`.

    The same tensors and metadata make the same bytes, which the library does not promise.
    """
    import numpy as np

    arrays = {}
    for name, array in tensors.items():
        array = np.asarray(array)
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    # the largest types first, so that all are aligned
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata | {HASH: NO_HASH}}
    end = 0
    for name in names:
        array, start = arrays[name], end
        end += array.nbytes
        kind = TYPES[array.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    contents = [memoryview(arrays[name].reshape(-1).view(np.uint8)) for name in names]
    digest = hashlib.sha256(start_of_file := len(text).to_bytes(8, "little"))
    digest.update(text)
    for content in contents:
        digest.update(content)
    sealed = f'"{HASH}":"{digest.hexdigest()}"'.encode()
    text = text.replace(f'"{HASH}":"{NO_HASH}"'.encode(), sealed, 1)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(start_of_file + text)
        for content in contents:
            file.write(content)


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


def make_folder(out_dir: str, overwrite: bool) -> Path:
    """Make the run folder: the one asked for, or the next number under out/."""
    try:
        if out_dir:
            folder = Path(out_dir)
            folder.mkdir(parents=True, exist_ok=True)
            hold(folder)
            if overwrite:
                clear(folder)
            return folder
        out = Path("out")
        out.mkdir(exist_ok=True)
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
    "tokens.json metrics.jsonl state.safetensors"
).split()


def run_files(folder: Path) -> list[Path]:
    """Return all files in a folder that are an earlier run's, and no others."""
    checkpoints = folder / "checkpoints"
    own = [path for name in RUN_FILES if (path := folder / name).exists()]
    own += checkpoints.glob("step-*.safetensors")
    return own + leftovers(folder) + leftovers(checkpoints)


def leftovers(folder: Path) -> list[Path]:
    """Return what was being written in a folder when a process was killed.

    Besides our own temporary files, these are safetensors', which are called .tmp and six signs.
    """
    ours = r"\..+\.(bin|json|jsonl|safetensors|toml)\.tmp|\.tmp[A-Za-z0-9]{6}"
    return [path for path in folder.glob(".*") if re.fullmatch(ours, path.name) and path.is_file()]


def clear(folder: Path) -> None:
    """Remove an earlier run's files from a folder, and nothing else."""
    for file in run_files(folder):
        file.unlink(missing_ok=True)
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

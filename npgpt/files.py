"""Reading and writing files, whole or not at all; and the folders of runs."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from autograd.files import (  # noqa: F401 (what writes is had from here, too)
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
from autograd.reading import (  # noqa: F401 (and what reads, too)
    demand_intact,
    hash_file,
    read_json,
    read_tensors,
)
from npgpt.errors import UserError
from npgpt.options import quoted

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
            way = f"Continue the run in it with --resume {quoted(str(folder))}, replace it"
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

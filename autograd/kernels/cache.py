"""Compiled kernels on disk: each in a file of its own, which begins with a hash of its content.

Numba has a cache, which we replace for three reasons. It loads what it finds without a check: a
file that was cut short or has a wrong bit ends the process, by an exception or a segmentation
fault. It keeps two files for a kernel, which two processes can mix up. And it writes to a folder
before it reads there, so that it finds nothing in a folder that is read-only.

Here, a file whose content does not have its hash counts as missing: the kernel is compiled anew,
and the file replaced. If a file cannot be written, the next process compiles again, and all else
works.

The files are in ``__pycache__`` beside the sources, or where that cannot be written in the user's
cache folder; ``NUMBA_CACHE_DIR`` names another place for all of them.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from autograd.files import make_folders, replacing

settings: Any = numba.config
# Settings that change the compiled code. `NUMBA_OPT=0`, say, makes kernels that are slow and
# round in another way, and that must not be used once the setting is gone.
COMPILED_BY = "OPT LOOP_VECTORIZE SLP_VECTORIZE BOUNDSCHECK DEBUGINFO_DEFAULT ENABLE_AVX".split()
PATTERN = "*-" + 16 * "[0-9a-f]" + ".nbc"
TITLE = b"a kernel of autograd\n"
LARGEST = 2**26  # bytes: kernels have less than 2**18
DIGEST = hashlib.sha256().digest_size


class Cache:
    """The cache of one kernel, with the methods by which Numba reads and writes a cache."""

    def __init__(self, function: Callable) -> None:
        code = function.__code__
        self._function = f"{function.__module__}.{function.__qualname__}", code.co_firstlineno
        self._stem = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        """The folder that is looked at first."""
        return str(folders()[0])

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the kernel for arguments of these types, or None: it is then compiled."""
        target_context.refresh()
        found = "missing"
        for folder in folders():
            path = folder / self._name(sig, target_context)
            state, content = read(path)
            if state == "good":
                try:
                    return CompileResult._rebuild(target_context, *pickle.loads(content))
                except Exception:  # another Numba with the same version number wrote it
                    state = "damaged"
            if state == "damaged":
                found = f"{path} is damaged"
        _announce(found)
        return None

    def save_overload(self, sig: Any, result: Any) -> None:
        """Keep a kernel that was compiled, where that is possible."""
        if result.lifted or result.library.has_dynamic_globals:
            return  # the code contains addresses, which mean nothing in another process
        reason = ""
        for folder in folders():
            path = folder / self._name(sig, result.target_context)
            try:
                make_folders(folder)
                write(path, dumps(result._reduce()))
                return
            except Exception as error:  # a read-only or full disk, a quota, another Numba
                reason = reason or f"{path}: {getattr(error, 'strerror', None) or error}"
        _complain(reason)

    def enable(self) -> None:
        """Do nothing: the cache is always on."""

    def disable(self) -> None:
        """Do nothing: ``NUMBA_CACHE_DIR`` can name an empty folder."""

    def flush(self) -> None:
        """Do nothing: files of other sources count as missing."""

    def _name(self, sig: Any, target_context: Any) -> str:
        processor = target_context.codegen().magic_tuple()
        options = [str(getattr(settings, name, None)) for name in COMPILED_BY]
        key = self._function, str(sig), processor, sys.implementation.cache_tag, options
        return f"{self._stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"


# ---- files


def write(path: Path, content: bytes) -> None:
    """Write a file that `read` finds good."""
    digest = _digest(path, version(), content)
    with replacing(path) as file:
        file.write(TITLE + version() + digest + content)


def read(path: Path) -> tuple[str, bytes]:
    """Return whether a file is good, old, damaged or missing; and its content if it is good.

    A file is old if other sources, or another version of Numba, made it.
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_size > LARGEST:
                return "damaged", b""
            whole = file.read(LARGEST)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return "missing", b""
    except OSError:  # the path is a folder or a link to itself, or the disk fails
        return "damaged", b""
    begin = len(TITLE)
    title, made_by = whole[:begin], whole[begin : begin + DIGEST]
    digest, content = whole[begin + DIGEST : begin + 2 * DIGEST], whole[begin + 2 * DIGEST :]
    if title != TITLE or digest != _digest(path, made_by, content):
        return "damaged", b""
    return ("good", content) if made_by == version() else ("old", b"")


def _digest(path: Path, made_by: bytes, content: bytes) -> bytes:
    """Return the hash of a file's name and content.

    Without the name, a copy of another kernel's file would count as good.
    """
    return hashlib.sha256(path.name.encode() + b"\n" + made_by + content).digest()


@cache
def version() -> bytes:
    """Return a hash of all sources of kernels, and of the compiler's version.

    A kernel contains its helpers, so a change in any file makes all kernels old. The hash is of
    contents, not of times of change: a copied environment finds its kernels.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


# ---- folders


@cache
def folders() -> list[Path]:
    """Return the folders that are read; the first of them that can be written is written to."""
    here = Path(os.path.abspath(__file__)).parent
    own = f"{here.name}_{hashlib.sha256(str(here).encode()).hexdigest()[:40]}"
    if settings.CACHE_DIR:
        return [Path(settings.CACHE_DIR, own)]
    found = [here / "__pycache__"]
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME") or "~/.cache"
    base = os.path.expanduser(base)
    if os.path.isabs(base):  # it is not, if the user has no home folder
        found.append(Path(base, "numba", own))
    return found


def writable() -> Path | None:
    """Return the first folder with room for a kernel, made if it is missing, or None."""
    for folder in folders():
        try:
            make_folders(folder)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(2**18))
            return folder
        except OSError:
            pass
    return None


def survey() -> dict[str, list[Path]]:
    """Return the files of kernels by what they are: good, old, damaged."""
    found: dict[str, list[Path]] = {"good": [], "old": [], "damaged": []}
    for folder in folders():
        for path in sorted(folder.glob(PATTERN)):
            found.get(read(path)[0], []).append(path)
    return found


# ---- notes to the user


_said: set[str] = set()


def _announce(found: str) -> None:
    """Tell the user once that kernels are compiled, why, and where they are kept."""
    if _said:
        return
    folder = writable()
    if folder is None:
        how = "for this process alone: name a folder that can be written by NUMBA_CACHE_DIR"
    else:
        how = f"once, into {folder}"
    because = f" ({found})" if found != "missing" else ""
    _say(f"compiling kernels{because}, {how}", "compiling" if folder else "kept")


def _complain(reason: str) -> None:
    """Tell the user once that compiled kernels cannot be written to disk."""
    if "kept" not in _said:
        _say(f"compiled kernels cannot be kept: {reason}", "kept")


def _say(what: str, about: str) -> None:
    _said.add(about)
    print(f"autograd: {what}", file=sys.stderr)

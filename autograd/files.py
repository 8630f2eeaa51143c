"""Writing files so that a reader finds the old contents or the new, and never a part of them.

`replacing` writes one file: first under a random name beside the file; then the new file is
renamed.
`together` does this for several files that belong together, such as a model and its configuration.
It first writes a journal, a file that lists the renames. If the process is killed before all
renames are done, the next process that finds the journal does the rest. The guarantees are:

- A file has its old contents or its new ones, whole, after an error, a full disk, a kill or a loss
  of power. When two processes write one file, the contents are those of one of them.
- The files of one `together` block are all old or all new for a process that reads them with
  `read_together`. Another program may find some old and some new files during the renames.
- An existing file keeps its mode, and its owner where the system allows it. A new file has the mode
  that the umask leaves. A file that may not be written is not replaced either.
- A symbolic link is followed: the file that it points to is replaced, the link stays. The name of
  the temporary file is random, so nobody can put a link in its place beforehand.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Found = TypeVar("Found")

JOURNAL = ".renames.json"
TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp", re.DOTALL)  # what `replacing` writes to
TRIES = 100  # of `read_together`
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_CAREFUL = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


# ---- one file


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file to write; when the block ends, the new file takes the place of `path`.

    Where `path` is no file but a device or a pipe, the block writes to that.

    Raises
    ------
    OSError
        If the file cannot be written; its ``filename`` is `path`, which then is as it was.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.txt"
    >>> with replacing(path) as file:
    ...     written = file.write(b"all of it")
    >>> path.read_text()
    'all of it'
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    temporary = None
    file: BinaryIO
    try:
        try:
            old = os.stat(target)
        except FileNotFoundError:
            old = None
        if old and not stat.S_ISREG(old.st_mode):
            with target.open("wb") as file:
                yield file
            return
        if old and not is_writable(target):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        temporary, file = _create(target, old)
        with file:
            yield file
            file.flush()
            _sync(file.fileno())
        if group := _group_of(target.parent):
            group.add(temporary.name, target.name)
        else:
            _rename(target.parent, temporary.name, target.name)
            _sync_folder(target.parent)
    except BaseException as error:
        if temporary:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary), str(target)):
            error.filename, error.filename2 = str(path), None
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, in UTF-8."""
    content = text.encode("utf-8")
    with replacing(path) as file:
        file.write(content)


def write_json(path: str | Path, values: Any, indent: int | None = None) -> None:
    """Write a JSON file."""
    text = json.dumps(values, ensure_ascii=False, indent=indent) + "\n"
    content = text.encode("utf-8", "backslashreplace")  # bytes of file names that are not UTF-8
    with replacing(path) as file:
        file.write(content)


DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "complex64": "C64", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


HASH = "npgpt.sha256"  # in the metadata
NO_HASH = "0" * 64


def write_tensors(
    path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file: the length of a header, the header in JSON, and the arrays.

    The same tensors and metadata make the same bytes. Under `HASH`, the metadata holds the SHA-256
    of the whole file, in which the hash itself is `NO_HASH`.

    Raises
    ------
    TypeError
        If the format has no name for the dtype of an array.
    """
    header: dict[str, Any] = {"__metadata__": {**(metadata or {}), HASH: NO_HASH}}
    arrays = {}
    for name, array in tensors.items():
        array = np.asarray(array)
        if array.dtype.name not in DTYPES or name == "__metadata__":
            raise TypeError(f"{path}: {name!r} of dtype {array.dtype} cannot be in such a file")
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    # the largest elements first: then each array begins at a multiple of the size of its elements
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in names:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        dtype, shape = DTYPES[array.dtype.name], array.shape
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little")
    contents: list[Any] = [arrays[name].reshape(-1).view(np.uint8) for name in names]
    digest = hashlib.sha256(start + text)
    for content in contents:
        digest.update(content)
    sealed = f'"{HASH}":"{digest.hexdigest()}"'.encode()
    text = text.replace(f'"{HASH}":"{NO_HASH}"'.encode(), sealed, 1)
    with replacing(path) as file:
        file.write(start + text)
        file.writelines(contents)


def remove(path: str | Path) -> None:
    """Remove a file if it is there; inside of `together`, at the end of the block."""
    path = Path(path)
    if group := _group_of(path.parent):
        group.add("", path.name)
    else:
        path.unlink(missing_ok=True)


def written(path: str | Path) -> Path:
    """Return the path at which a file can be read inside of the `together` block that wrote it.

    Until the block ends, that is the path of a temporary file.
    """
    path = Path(path)
    group = _group_of(path.parent)
    waits = group.waiting.get(path.name) if group else None
    return path.with_name(waits) if waits else path


def make_folders(folder: str | Path) -> bool:
    """Make a folder and its parents; return whether the folder is new."""
    folder = Path(folder)
    if folder.is_dir():
        return False
    make_folders(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():  # another process was faster
            return False
        raise
    _sync_folder(folder.parent)
    return True


def _create(target: Path, old: os.stat_result | None = None) -> tuple[Path, BinaryIO]:
    """Make a temporary file beside a file, with the same owner and mode as the old file."""
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.tmp")
    mode = 0o600 if old else 0o666  # nobody may open the file before its mode is that of the old
    try:
        file = os.fdopen(os.open(temporary, _NEW | _CAREFUL, mode), "wb")
    except OSError as error:
        error.filename = str(target)
        raise
    if old and hasattr(os, "fchown"):
        new = os.fstat(file.fileno())
        with suppress(OSError):  # other users' files; file systems without owners or modes
            if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
        with suppress(OSError):
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
    return temporary, file


def _rename(folder: Path, temporary: str, name: str) -> None:
    """Rename a temporary file to its final name; without one, remove the file of that name."""
    try:
        if temporary:
            os.replace(folder / temporary, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        error.filename, error.filename2 = str(folder / name), None
        raise


def is_writable(path: Path) -> bool:
    """Return whether this process may write to a file or a folder."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _sync(descriptor: int) -> None:
    """Wait until the contents are on the disk, on file systems that support this."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk."""
    if os.name == "posix":
        with suppress(PermissionError):  # of a folder that may be written and not be read
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                _sync(descriptor)
            finally:
                os.close(descriptor)


# ---- several files that belong together


@dataclass
class _Group:
    """Temporary files of a folder that are renamed together, at the end of a `together` block."""

    folder: Path
    waiting: dict[str, str] = field(default_factory=dict)  # names: final, and temporary or none

    def add(self, temporary: str, name: str) -> None:
        """Add a file: its temporary name ("" if the file is to be removed), and its final name."""
        before = self.waiting.get(name)
        self.waiting[name] = temporary
        if before:  # written in this block, and now replaced or removed
            (self.folder / before).unlink()

    def commit(self) -> None:
        """Rename all files. A journal makes sure that all are renamed, even after a kill."""
        if len(self.waiting) == 1:
            ((name, temporary),) = self.waiting.items()
            _rename(self.folder, temporary, name)
            _sync_folder(self.folder)
        elif self.waiting:
            draft, file = _create(self.folder / JOURNAL)
            try:
                with file:
                    _lock(file)
                    file.write(json.dumps(self.waiting).encode())
                    file.flush()
                    _sync(file.fileno())
                    while not _publish(draft, self.folder / JOURNAL):
                        finish(self.folder)  # of another process
                    renames, self.waiting = self.waiting, {}
                    _carry_out(self.folder, renames)
            finally:
                with suppress(OSError):
                    draft.unlink()

    def drop(self) -> None:
        """Remove the temporary files."""
        for temporary in self.waiting.values():
            if temporary:
                with suppress(OSError):
                    (self.folder / temporary).unlink()


_group: ContextVar[_Group | None] = ContextVar("group", default=None)


def _group_of(folder: Path) -> _Group | None:
    """Return the files that wait, if this code runs in a `together` block of the folder."""
    group = _group.get()
    return group if group and group.folder == Path(os.path.realpath(folder)) else None


@contextmanager
def together(folder: str | Path) -> Iterator[None]:
    """Replace all files that the block writes to a folder at once, when the block ends.

    If the block raises an error, no file is replaced. The folder is made if it does not exist.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "new"
    >>> with together(folder):
    ...     write_text(folder / "a.txt", "a")
    ...     write_text(folder / "b.txt", "b")
    ...     print(any((folder / name).exists() for name in ("a.txt", "b.txt")))
    False
    >>> sorted(path.name for path in folder.iterdir())
    ['a.txt', 'b.txt']
    """
    folder = Path(os.path.realpath(folder))
    outer = _group.get()
    if outer and outer.folder == folder:
        yield
        return
    is_new = make_folders(folder)
    group = _Group(folder)
    before = _group.set(group)
    try:
        finish(folder)
        yield
        group.commit()
    except BaseException:
        group.drop()
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    finally:
        _group.reset(before)


def read_together(folder: Path, names: Callable[[str], bool], read: Callable[[], Found]) -> Found:
    """Return ``read()``, which opens files in a folder that were written by one `together` block.

    Parameters
    ----------
    folder : Path
    names : callable
        Says of the name of a file in the folder whether `read` may open it.
    read : callable
        Is called again if one of these files was replaced while it ran.

    Raises
    ------
    OSError
        If the files are replaced again and again, or a process that was killed left some in their
        old and some in their new state, and this process may not write to the folder.
    """
    for _ in range(TRIES):
        finish(folder)
        before = _identities(folder, names)
        if os.path.lexists(folder / JOURNAL):  # some files may be new, and others not yet
            continue
        try:
            found = read()
        except Exception:
            if _identities(folder, names) == before:
                raise
            continue
        if _identities(folder, names) == before:
            return found
    raise OSError(errno.EBUSY, "it is being written all the time", str(folder))


def finish(folder: Path) -> None:
    """Do the renames in a folder that a killed process left undone.

    If the process still runs, wait until it is done.
    """
    journal = folder / JOURNAL
    while True:
        try:
            descriptor = os.open(journal, os.O_RDONLY | _CAREFUL)
        except (FileNotFoundError, NotADirectoryError):
            return
        with os.fdopen(descriptor, "rb") as file:
            _lock(file)
            if not _is_at(file, journal):
                continue  # the other process is done
            try:
                _carry_out(folder, _renames(file))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                raise OSError(
                    error.errno, "a process was killed while it wrote files here, and only who may "
                    "write to the folder can finish that", str(folder),
                ) from None  # fmt: skip
            return


def _carry_out(folder: Path, renames: dict[str, str]) -> None:
    for name, temporary in renames.items():
        with suppress(FileNotFoundError):  # it was carried out before
            _rename(folder, temporary, name)
    _sync_folder(folder)
    (folder / JOURNAL).unlink(missing_ok=True)
    _sync_folder(folder)


def _renames(file: BinaryIO) -> dict[str, str]:
    """Return the renames in a journal; none if the file is no journal that this module wrote."""
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return {}
        renames = json.loads(file.read(2**20))
        if all(
            isinstance(temporary, str)
            and (not temporary or TEMPORARY.fullmatch(temporary))
            and not {os.path.dirname(name), os.path.dirname(temporary)} - {""}
            and name not in ("", ".", "..")
            for name, temporary in renames.items()
        ):
            return renames
    except (ValueError, AttributeError, RecursionError):
        pass
    return {}


def _publish(draft: Path, journal: Path) -> bool:
    """Rename a journal to its final name, unless a journal has that name; return whether it did."""
    try:
        os.link(draft, journal)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: two processes at once could mix
        os.replace(draft, journal)
    _sync_folder(journal.parent)
    return True


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Let one process at a time, and one thread, run such a block for a folder; the others wait.

    The lock is on the folder itself, and ends with the process. On Windows, and on file systems
    without locks, nobody waits.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder):  # nobody comes between the look and the write
    ...     if not (folder / "x.txt").exists():
    ...         write_text(folder / "x.txt", "first")
    """
    descriptor = None
    if fcntl:
        with suppress(PermissionError):  # of a folder that may be written and not be read
            descriptor = os.open(folder, os.O_RDONLY)
            _lock(descriptor)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(file: BinaryIO | int) -> None:
    """Lock a file; wait while another process has the lock, which ends with that process."""
    if fcntl:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _identities(folder: Path, names: Callable[[str], bool]) -> dict[str, tuple[int, int, int]]:
    """Return numbers by which one can tell whether a file was replaced, for each name."""
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if names(entry.name):
                with suppress(FileNotFoundError):
                    info = entry.stat()
                    found[entry.name] = info.st_ino, info.st_mtime_ns, info.st_size
    return found

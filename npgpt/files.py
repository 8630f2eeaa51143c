"""Our own folder, and adding a line to a file; `autograd.files` writes all other files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def append(file: BinaryIO, line: bytes) -> None:
    """Add a line to the end of a file that is open without a buffer: all of the line, or nothing.

    If the process is killed while it writes, the file ends with an incomplete line.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(line)
        while rest:  # one call may write less than the whole line, for instance on a full disk
            rest = rest[file.write(rest) :]
    except BaseException:
        with suppress(OSError):
            file.truncate(size)
        raise


def home() -> Path:
    """Return npgpt's own folder: ``$NPGPT_HOME``, or ``npgpt`` in the user's data folder."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("NPGPT_HOME") or Path(data) / "npgpt").expanduser()

"""Signals that end a program while it waits at a prompt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def restoring_terminal() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave the block by an exception, so that its prompts end in order.

    By default, these signals end the process at once. A terminal in which a prompt waits would then
    show no typed letters, or stay on its second screen. A handler of the program is left as it is.
    """

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)  # the exit code that a shell shows for the signal

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]  # none on Windows
    is_main = threading.current_thread() is threading.main_thread()
    changed = [n for n in numbers if n and is_main and signal.getsignal(n) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)

"""Signals that end a program while it waits at a prompt."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def restoring_terminal() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave the block by an exception, so that its prompts end in order.

    By default, these signals end the process at once. A terminal in which a prompt waits would then
    show no typed letters, or stay on its second screen. A handler of the program is left as it is.
    The settings of the terminal are restored here, too, since a prompt does not restore them if it
    is interrupted while it changes them.
    """
    restore = _keep_terminal()

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
        restore()


def _keep_terminal() -> Callable[[], None]:
    """Return a function that gives the terminal the settings that it has now."""
    try:
        import termios
    except ImportError:  # on Windows
        return lambda: None
    try:
        number = sys.stdin.fileno()
        settings = termios.tcgetattr(number)
    except (AttributeError, OSError, ValueError, termios.error):  # it is no terminal
        return lambda: None

    def restore() -> None:
        with suppress(OSError, ValueError, termios.error):  # after SIGHUP, it may be gone
            if termios.tcgetattr(number) != settings:
                termios.tcsetattr(number, termios.TCSANOW, settings)

    return restore

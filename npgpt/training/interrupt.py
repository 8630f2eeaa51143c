"""Signals that end the training between two updates, so that the state can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """The training was ended by a signal, such as that of Ctrl-C; the state is saved."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.strsignal(number))
        self.number = number


class Interrupt:
    """The signal that asked the training to end, if there was one."""

    number: int | None = None

    def check(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Note signals in the block, instead of ending; a second Ctrl-C ends the block at once.

    The code in the block calls `Interrupt.check` where it can end. The signals are SIGINT (Ctrl-C),
    SIGTERM, and SIGHUP unless the process ignores it, as under nohup. A shell and the system may
    both send SIGTERM or SIGHUP, so a second one of these has no meaning of its own.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handler(number: int, frame: Any) -> None:
        if number == signal.SIGINT and interrupt.number is not None:
            raise KeyboardInterrupt
        interrupt.number = number

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None or name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, handler)
    try:
        yield interrupt
    finally:
        for number, action in before.items():
            signal.signal(number, action)

"""Ending a run by a signal, with its state saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """A signal ended the training, such as that of Ctrl-C, and the state is saved."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.strsignal(number))
        self.number = number


class Interrupt:
    """Which signal, if any, asked the training to end."""

    number: int | None = None

    def check(self) -> None:
        """Raise Interrupted if there was one."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Let a signal end training between two steps, and a second Ctrl-C at once.

    The signals are that of Ctrl-C, SIGTERM, and SIGHUP unless nohup lets the process ignore it.
    SIGTERM and SIGHUP often come twice, from a shell and from the system: only the signal of Ctrl-C
    means more the second time.
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

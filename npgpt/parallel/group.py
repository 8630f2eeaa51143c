"""The interface of a group of processes: exchanged values, sums of vectors, and shared memory.

Each process of a group of N has a rank, from 0 to N - 1. The processes run the same program, and
call the same methods of their `Group` in the same order. `npgpt.parallel.workers` is a group on one
machine, `npgpt.parallel.mpi` a group that ``mpirun`` starts on any number of machines.
"""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError

Value = TypeVar("Value")
BLOCK = 2**16  # elements that are added at a time; they stay in the cache after the first vector


class RankError(UserError):
    """A process of the group ended, or raised an error; the message names its rank."""


class Group(ABC):
    """Processes that compute together.

    A vector of n elements is divided among the processes: the part of rank r is
    ``vector[part_of(n, r, size)]``.

    Attributes
    ----------
    rank, size : int
        The number of this process, and how many there are.
    is_first_here : bool
        Whether no process of this machine has a lower rank.
    n_machines : int
        The number of machines on which the processes run.
    """

    rank: int
    size: int
    is_first_here: bool
    n_machines: int = 1

    # ---- small values

    @abstractmethod
    def gather(self, value: Value) -> list[Value]:
        """Return the value that each rank gave, in the order of the ranks.

        A value is a number, a text, or a list, which may also hold dicts, as in JSON. No process
        returns before all processes have called this method. So a call whose values are not used
        is a barrier.
        """

    @abstractmethod
    def broadcast(self, value: Any = None) -> Any:
        """Return the value that rank 0 gave."""

    # ---- vectors

    @abstractmethod
    def share(self, n: int, dtype: np.dtype) -> ndarray:
        """Return n zeros in memory that all processes of a machine share."""

    @abstractmethod
    def own(self, n: int, dtype: np.dtype) -> ndarray:
        """Return n numbers of this process, for the argument of `add_up`."""

    @abstractmethod
    def add_up(self, vector: ndarray) -> None:
        """Replace this rank's part of a vector by the sum of this part over all ranks.

        The terms are added in the order of the ranks, so that the sum has the same bits in each
        run. `vector` comes from `own`.
        """

    @abstractmethod
    def complete(self, vector: ndarray) -> None:
        """Wait until each rank has written its part of a vector that `share` returned.

        Afterwards, each machine also has the parts that ranks on other machines wrote.
        """

    # ---- the end

    @abstractmethod
    def close(self, is_failure: bool) -> None:
        """End the group; after a failure on this rank, end the other processes at once."""


def part_of(n: int, rank: int, size: int) -> slice:
    """Return which of n elements belong to a rank.

    Examples
    --------
    >>> [part_of(10, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    return slice(n * rank // size, n * (rank + 1) // size)


def add_in_order(vectors: Sequence[ndarray], out: ndarray) -> None:
    """Write the sum of vectors, (n,) each, into `out`, which may be one of them.

    Examples
    --------
    >>> x, y, z = np.ones(2), np.ones(2), np.full(2, 5.0)
    >>> add_in_order([x, y, z], out=z)
    >>> z
    array([7., 7.])
    """
    for start in range(0, len(out), BLOCK):
        block = slice(start, start + BLOCK)
        total = vectors[0][block].copy()
        for vector in vectors[1:]:
            total += vector[block]
        out[block] = total


# Ctrl-C and similar signals; Windows has no SIGHUP
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def ignore_signals() -> None:
    """Ignore Ctrl-C and similar signals: rank 0 saves the state, and then ends the other ranks."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let these signals wait for the end of the block.

    They also wait for a process that is started in the block, until it ignores them. Otherwise
    a signal to all ranks would kill a rank that is about to start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def describe(error: BaseException) -> str:
    """Return what an error says, for rank 0 to print."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {error}' if str(error) else ''}"
    return f"{type(error).__name__}: {error}"


def host() -> str:
    """Return the name of this machine."""
    return os.uname().nodename if hasattr(os, "uname") else ""

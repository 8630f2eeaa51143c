"""The threads that run a kernel together, and the loop in which they wait for the next kernel.

A kernel is a loop over rows. `split` runs a kernel on a *team* of threads: the thread that calls
`split`, and *helpers*. A kernel of a small model takes 20 microseconds, and waking a thread that
sleeps takes 50. So a helper does not sleep between two kernels. It stays inside a compiled loop,
without the GIL, and reads a number in memory until the caller changes that number. Starting
a kernel on the team and waiting for its end take less than a microsecond. After some milliseconds
without work a helper does sleep, until a large kernel wakes it.

The caller writes a job into memory: the address of a function, and the number of rows, cut into
chunks. Each thread of the team has a counter of the chunks that are left for it. A thread first
takes its own chunks, and then those of the others. So no work is left undone if a helper comes
late, or not at all because another program has its processor. Rows do not depend on each other:
a result is the same whichever thread computed it.

Numba's own threads are not used: they compile several times slower, spin against BLAS's, and may
not be called from two Python threads.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from threading import RLock, Thread
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.cpus import usable_cpus
from autograd.forks import in_child
from autograd.kernels import most_threads
from autograd.kernels.cache import settings
from autograd.kernels.intrinsics import (
    THREADS_CAN_WAIT,
    add,
    counts,
    enter,
    entry_of,
    lock,
    pause,
    read,
    reraise,
    swap,
    unlock,
    yield_processor,
)
from autograd.kernels.jit import EXACT, inline, jit

GRAIN = 2**12  # elements: a chunk has no fewer
CHUNKS = 3  # for each thread: who is late leaves a part of its work to the others
WORTH_WAKING = 2**15  # elements: for fewer, to wake a thread costs more than it saves

LOOKS = 64  # at a number, before a thread that waits lets others have its processor
PATIENCE = 1000  # times that a helper does so before it sleeps: some milliseconds


def n_threads() -> int:
    """Return how many threads kernels use: ``NUMBA_NUM_THREADS``, but at most one for each CPU.

    Inside `autograd.kernels.use_threads` there are no more than that says. There is one if kernels
    are not compiled, so that a debugger has one thread to follow, and if the system has no function
    by which threads can wait.
    """
    return 1 if settings.DISABLE_JIT or not THREADS_CAN_WAIT else min(_n_useful(), most_threads())


@cache
def _n_useful() -> int:
    # With more threads than CPUs, the caller would wait for helpers that do not run. Numba's own
    # number does not know how much time a container may use.
    return min(settings.NUMBA_NUM_THREADS, usable_cpus())


def row_kernel(flags: set[str]) -> Callable:
    """Compile a kernel that `split` runs: a loop over the rows of its first arguments."""

    def compile(function: Callable) -> Any:
        kernel = inline(flags)(function)

        def launch(team, n_chunks, wake, rows, static):
            entry, arguments, n_rows = entry_of(kernel, rows, static)
            if n_rows < 0:
                raise ValueError("a kernel was given arrays of different numbers of rows")
            if n_chunks > 1 and swap(line(team, BUSY), 1) == 0:
                reraise(_run(team, n_chunks, wake, entry, arguments, n_rows))
            else:  # too small; or another Python thread has the team
                reraise(enter(entry, arguments, 0, n_rows))

        kernel.launch = jit(EXACT, named=function)(launch)
        return kernel

    return compile


def split(kernel: Any, rows: tuple[ndarray, ...], *static: Any, size: int | None = None) -> None:
    """Run ``kernel(*rows, *static)``, in chunks of the rows and over the threads.

    For example, ``split(_scale_rows, (x, out), weight)`` on two threads, with 768 rows, may call
    ``_scale_rows(x[:128], out[:128], weight)`` in one and, at the same time,
    ``_scale_rows(x[384:512], out[384:512], weight)`` in the other, and so on for all of them.

    Parameters
    ----------
    kernel : a function decorated with `row_kernel`
    rows : tuple of ndarray
        Arrays with as many rows each. A kernel that needs the numbers of its rows gets them in
        an array, too: ``np.arange(n)``.
    *static
        What all rows share: numbers, and arrays that are given whole.
    size : int, optional
        How much work this is, in elements of an elementwise kernel. By default, the number of
        elements of the first array.
    """
    if settings.DISABLE_JIT:
        kernel(*rows, *static)
        return
    size = rows[0].size if size is None else size
    n = n_threads()
    n_chunks = min(CHUNKS * n, size // GRAIN, len(rows[0])) if n > 1 else 1
    if n_chunks < 2:
        kernel.launch(0, 1, False, rows, static)
    else:
        kernel.launch(team(n).ready(), n_chunks, size >= WORTH_WAKING, rows, static)


@lru_cache(maxsize=64)
def parts_of(n: int, count: int) -> tuple[ndarray, ndarray]:
    """Cut range(n) into parts of nearly one length; return where each begins, and where it ends.

    There are `count` of them, or fewer if some would be empty. They are the rows of a kernel whose
    result depends on how its rows are cut, so that the number of threads must not cut them.
    """
    count = max(1, min(n, count))
    ends = np.arange(count + 1) * n // count
    return ends[:-1], ends[1:]


# ---- what the threads share: lines of words of 64 bits

LINE = 128  # bytes: processors fetch 64 or 128 at a time, and each line is to be fetched alone
BUSY = 0  # [1 while a thread runs a job on the team; another Python thread then works alone]
NEWS = 1  # [the number of the last job, 1 if the team ends]
JOB = 2  # [address of the entry, of its arguments, number of rows, of chunks, of threads]
DONE = 3  # [how many chunks of the job are done, address of an error or 0]
MEMBERS = 4  # from here on, two lines for each thread:
LEFT = 0  # [how many chunks are left for it; below 1: none]
ASLEEP = 1  # [1 if it sleeps, address of the lock that it sleeps by]


@inline(EXACT)
def line(team, number, word=0):
    """Return a pointer to a word of a line; `team` is the address of the first line."""
    return counts(team + LINE * number + 8 * word)


@inline(EXACT)
def _run(team, n_chunks, wake, entry, arguments, n_rows):
    """Run a job on a team that is marked as busy; return the address of an error, or 0."""
    job, done = line(team, JOB), line(team, DONE)
    job[0], job[1], job[2], job[3] = entry, arguments, n_rows, n_chunks
    done[0], done[1] = 0, 0
    n = job[4]

    # Give each thread its chunks. For example, of 7 chunks and 3 threads the first thread gets the
    # chunks 0 and 1, the second 2 and 3, the third 4, 5 and 6. As soon as a counter is set, any
    # thread can take its chunks.
    for member in range(n):
        here, after = n_chunks * member // n, n_chunks * (member + 1) // n
        swap(line(team, MEMBERS + 2 * member + LEFT), after - here)
    add(line(team, NEWS), 1)
    if wake:
        for member in range(1, n):
            asleep = line(team, MEMBERS + 2 * member + ASLEEP)
            if read(asleep) == 1 and swap(asleep, 0) == 1:
                unlock(asleep[1])
    _work(team, 0)

    # Now all chunks are taken, but a helper may still compute one. That helper may have lost its
    # processor to this very thread, so this thread yields the processor now and then.
    looks = 0
    while read(done) < n_chunks:
        looks += 1
        if looks % LOOKS == 0:
            yield_processor()
        pause()
    error = done[1]
    swap(line(team, BUSY), 0)
    return error


@inline(EXACT)
def _work(team, me):
    """Take chunks of the job until none is left: first a thread's own, then those of the others.

    A thread takes a chunk by subtracting 1 from the counter. For example, with 2 chunks left, two
    threads that subtract at the same time find 2 and 1, and have a chunk each; a third finds 0, and
    has none.

    A helper that comes late may find that its job is done and that the next job begins. This does
    no harm: a thread reads the job after it has taken a chunk, and a job cannot end, nor be
    overwritten, before all of its chunks are done.
    """
    job, done = line(team, JOB), line(team, DONE)
    n = job[4]
    for k in range(n):
        member = (me + k) % n
        left = line(team, MEMBERS + 2 * member + LEFT)
        while read(left) > 0:
            mine = add(left, -1)
            if mine < 1:
                break
            n_rows, n_chunks = job[2], job[3]
            chunk = n_chunks * (member + 1) // n - mine
            begin, end = n_rows * chunk // n_chunks, n_rows * (chunk + 1) // n_chunks
            error = enter(job[0], job[1], begin, end)
            if error:
                swap(line(team, DONE, 1), error)
            add(done, 1)


@jit(EXACT)
def _help(team, me):
    """Wait for jobs and work on them, until the team ends. This is all that a helper does.

    No wake-up can be lost. A helper that goes to sleep first sets ASLEEP to 1, and then looks for
    news once more. A caller first writes the news, and then looks at ASLEEP. So the helper sees the
    news, or the caller sees that the helper sleeps, or both. If both do, each tries to change
    ASLEEP from 1 to 0, and one of them succeeds. If this is the caller, it opens the helper's lock,
    and the helper has to pass that lock before it works.
    """
    news, ends = line(team, NEWS), line(team, NEWS, 1)
    asleep = line(team, MEMBERS + 2 * me + ASLEEP)
    seen = 0
    while True:
        looks = 0
        while read(news) == seen and read(ends) == 0:
            pause()
            looks += 1
            if looks % LOOKS == 0:
                yield_processor()
            if looks == LOOKS * PATIENCE:
                swap(asleep, 1)
                if (read(news) == seen and read(ends) == 0) or swap(asleep, 0) == 0:
                    lock(asleep[1], 1)
                looks = 0
        if read(ends):
            return
        seen = read(news)
        _work(team, me)


class Team:
    """The memory that n threads share, and the n - 1 helpers among them."""

    def __init__(self, n: int) -> None:
        python = ctypes.pythonapi
        python.PyThread_allocate_lock.restype = ctypes.c_void_p
        python.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
        python.PyThread_release_lock.argtypes = [ctypes.c_void_p]
        words = np.zeros((MEMBERS + 2 * n + 1) * LINE // 8, np.int64)
        self.address = -(-words.ctypes.data // LINE) * LINE
        begin = (self.address - words.ctypes.data) // 8
        self.lines = words[begin : begin + (MEMBERS + 2 * n) * LINE // 8].reshape(-1, LINE // 8)
        self.lines[JOB, 4] = n
        self.locks = [python.PyThread_allocate_lock() for _ in range(n - 1)]
        self.threads: list[Thread] = []
        self.avoided = -1  # the processor that the helpers keep off
        for member, closed in enumerate(self.locks, start=1):
            python.PyThread_acquire_lock(closed, 1)
            self.lines[MEMBERS + 2 * member + ASLEEP, 1] = closed
            name = f"autograd-kernels-{member}"
            thread = Thread(target=_help, args=(self.address, member), name=name, daemon=True)
            with suppress(RuntimeError):  # the system has no more threads, or the program ends
                thread.start()
                self.threads.append(thread)

    def ready(self) -> int:
        """Return the address of the shared memory, with all helpers off the caller's processor.

        A system may wake a helper on the processor where the caller runs: they would take turns.
        """
        if (processor := _processor()) != self.avoided:
            self.avoided = processor
            if others := os.sched_getaffinity(0) - {processor}:
                with suppress(OSError):  # the processors may have changed meanwhile
                    for thread in self.threads:
                        if thread.native_id:  # 0 would be the caller
                            os.sched_setaffinity(thread.native_id, others)
        return self.address

    def end(self) -> None:
        """End the helpers. Jobs that come later are the caller's alone."""
        self.lines[NEWS, 1] = 1
        for closed in self.locks:
            ctypes.pythonapi.PyThread_release_lock(closed)
        for thread in self.threads:
            thread.join(timeout=1)


_teams: dict[int, Team] = {}
_making = RLock()  # a finalizer may run a kernel while a team is made


def team(n: int) -> Team:
    """Return the team of n threads."""
    if n not in _teams:
        with _making:
            if n not in _teams:
                _teams[n] = Team(n)
    return _teams[n]


@atexit.register
def _end_all() -> None:
    """End all helpers while the code that they run still exists."""
    for each in _teams.values():
        each.end()


@in_child
def _forget_all() -> None:
    """Forget all teams, in a child process: threads do not survive a fork."""
    global _making
    _making = RLock()
    _teams.clear()


@cache
def _libc() -> Any:
    return ctypes.PyDLL(None)  # which keeps Python's lock: the call takes no time


def _processor() -> int:
    """Return the number of the processor that this thread runs on, or -1 if nothing tells."""
    return _libc().sched_getcpu() if sys.platform == "linux" else -1

"""How kernels are compiled, cached and shared out over threads: one policy for all of them.

A kernel is a plain loop over the rows that it is given, compiled for one thread and without
Python's lock. `split` gives every thread its own rows. Numba's own threads are not used: they
compile several times slower, spin against BLAS's, and may not be called from two Python threads.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import numba
import numpy as np
from numpy import ndarray

from autograd.kernels.cache import Cache, settings
from autograd.kernels.intrinsics import yield_processor

# ---- compiling

# "numpy": division by zero gives infinity; Python's check alone would stop vectorization.
OPTIONS: dict[str, Any] = dict(nogil=True, error_model="numpy")

# What each kind of loop lets the compiler assume. Never that there is no NaN and no infinity: both
# must come through. `contract` joins a multiplication and an addition, rounding once.
EXACT = {"contract"}  # elementwise, and the vector math, which breaks if terms are reordered
SUMS = {"contract", "reassoc", "nsz"}  # a sum is vectorized only if its terms may be reordered

OVERLOADS: Any = dict(fastmath=EXACT, **OPTIONS)  # for helpers chosen by the type of an argument


def jit(flags: set[str]) -> Callable:
    """Compile a kernel, or take it from the cache."""

    def compile(function: Callable) -> Any:
        compiled: Any = numba.njit(function, fastmath=flags, **OPTIONS)
        if not settings.DISABLE_JIT:
            compiled._cache = Cache(function)
        return compiled

    return compile


def inline(flags: set[str]) -> Callable:
    """Compile a helper, as a part of the kernels that call it."""
    return numba.njit(fastmath=flags, **OPTIONS)


# ---- sharing out

SMALL = 2**15  # elements: for fewer, waking a thread costs more than it saves


def n_threads() -> int:
    """Return how many threads kernels use: ``NUMBA_NUM_THREADS``, or one a core.

    A debugger that steps through uncompiled kernels has only one to follow.
    """
    return 1 if settings.DISABLE_JIT else settings.NUMBA_NUM_THREADS


def split(task: Callable[[slice], Any], n_rows: int, size: int) -> None:
    """Run ``task(part)`` on parts that make up n_rows rows, of `size` elements, over the threads.

    There are a few parts for each thread, none small: whoever is done takes the next. Rows do not
    depend on each other, so the result does not depend on the number of threads.
    """
    n = n_threads()
    count = min(4 * n, size // SMALL)
    share(task, slices(n_rows, count if count < n else count - count % n), size)


def share(task: Callable[[Any], Any], parts: Sequence, size: int) -> None:
    """Run ``task(part)`` on each of some parts, over the threads if they are large enough."""
    helpers = min(n_threads(), len(parts)) - 1 if size > SMALL else 0
    if helpers < 1:
        for part in parts:
            task(part)
        return
    queue = iter(parts)  # next() on it is atomic

    def work() -> None:
        for part in queue:
            task(part)

    team = _team()
    jobs = [team.start(work) for _ in range(helpers)]
    try:
        work()
    finally:
        for error in [job.join() for job in jobs]:
            if error:
                raise error


class _Team:
    """The threads that help. Each waits for its next job awake for a while, and then asleep."""

    def __init__(self, size: int) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.n_jobs = np.zeros(1, np.int64)  # so far
        self.avoided = -1  # the processor that the threads keep off
        names = [f"autograd-kernels-{i + 1}" for i in range(size)]
        self.threads = [Thread(target=self.help, name=name, daemon=True) for name in names]
        for thread in self.threads:
            thread.start()

    def start(self, work: Callable[[], None]) -> _Job:
        """Give a job to whoever comes first."""
        if (processor := _processor()) != self.avoided:
            self.avoid(processor)
        job = _Job(work)
        self.jobs.put(job)
        self.n_jobs[0] += 1
        return job

    def avoid(self, processor: int) -> None:
        """Keep the threads off the caller's processor.

        A system may wake a thread where the caller runs, and then the two take turns.
        """
        self.avoided = processor
        if others := os.sched_getaffinity(0) - {processor}:
            with suppress(OSError):  # the processors may have changed meanwhile
                for thread in self.threads:
                    if thread.native_id:  # 0 would be the caller
                        os.sched_setaffinity(thread.native_id, others)

    def help(self) -> None:
        """Do one job after the other."""
        while True:
            n_jobs = self.n_jobs[0]
            if self.jobs.empty():
                wait_awake(self.n_jobs, n_jobs, grace=20)
            self.jobs.get().run()


class _Job:
    """What one helper does in a call. A Future would add a tenth to the time of a small kernel."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.begun, self.done = Lock(), Lock()  # locked since it began; locked until it is done
        self.done.acquire()
        self.ready = np.zeros(1, np.int64)
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work, unless the caller was done before."""
        if self.begun.acquire(blocking=False):
            try:
                self.work()
            except BaseException as error:
                self.error = error
            finally:
                self.ready[0] = 1
                self.done.release()

    def join(self) -> BaseException | None:
        """Wait for a helper that has begun; return what it failed with."""
        if not self.begun.acquire(blocking=False):
            wait_awake(self.ready, 0, grace=3)
            self.done.acquire()
        return self.error


def _processor() -> int:
    """Return the number of the processor that this thread runs on, or -1 if nothing tells."""
    return _libc().sched_getcpu() if sys.platform == "linux" else -1


@cache
def _libc() -> Any:
    return ctypes.PyDLL(None)  # which keeps Python's lock: the call takes no time


LOOKS = 300  # of less than a microsecond each; a thread that sleeps takes 50 to come back


def wait_awake(number: ndarray, before: int, grace: int) -> None:
    """Wait for a while, until another thread changes a number; without Python's lock.

    That thread holds the lock for a moment more: `grace` is how many looks that takes.
    """
    if hasattr(os, "sched_yield"):
        _wait_awake(number, before, grace)


@jit(EXACT)
def _wait_awake(number: ndarray, before: int, grace: int) -> None:
    for _ in range(LOOKS):
        yield_processor()
        if number[0] != before:
            break
    for _ in range(grace):
        yield_processor()


@cache
def _team() -> _Team:
    return _Team(n_threads() - 1)  # whose jobs may come from several threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _team.cache_clear())  # threads do not survive


def slices(n: int, count: int) -> list[slice]:
    """Cut range(n) into `count` slices of nearly one length, or fewer that are not empty."""
    count = max(1, min(n, count))
    ends = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]


# ---- what kernels take

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def takes(*arrays: Any) -> bool:
    """Return whether these are plain arrays of one dtype that kernels are made for (or None)."""
    given = [x for x in arrays if x is not None]
    dtype = getattr(given[0], "dtype", None)
    return dtype in DTYPES and all(type(x) is ndarray and x.dtype == dtype for x in given)


def alike(*arrays: Any) -> bool:
    """Return whether kernels take these, and they are of one shape: a loop over one fits all."""
    return takes(*arrays) and all(x.shape == arrays[0].shape for x in arrays)


def as_rows(x: ndarray, n: int) -> ndarray:
    """Return an array as rows of n elements, copied only where they lie otherwise in memory."""
    return np.ascontiguousarray(x).reshape(x.size // n if n else 0, n)


def flat(x: ndarray) -> ndarray:
    """Return an array's elements in C order on one axis, copied only where they lie otherwise."""
    return np.ascontiguousarray(x).reshape(-1)

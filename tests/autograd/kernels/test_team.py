"""The team of threads: each row is computed once, whatever happens. No test asserts a time."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import need
from numba.core.caching import NullCache

from autograd import nn
from autograd.kernels import team, use_kernels
from autograd.kernels.intrinsics import add, counts, read, yield_processor
from autograd.kernels.jit import EXACT
from autograd.kernels.team import BUSY, MEMBERS, NEWS, n_threads, parts_of, row_kernel, split

LARGE = 10**9  # elements: worth waking helpers for


def kernel(function):
    """Compile a kernel of these tests, and keep it out of the cache on disk."""
    compiled = row_kernel(EXACT)(function)
    compiled.launch._cache = NullCache()
    return compiled


@kernel
def count(rows, times):
    """Count how often each row is computed."""
    for r in range(rows.size):
        rows[r] += times


@kernel
def fail_at(rows, bad):
    """Raise an error in one row, or in all of them (-1)."""
    for r in range(rows.size):
        if bad in (-1, rows[r]):
            raise ValueError("a bad row")


@kernel
def fill_memory(rows, n):
    """Ask for more memory than there is."""
    for r in range(rows.size):
        rows[r] = np.empty(n)[0]


@kernel
def meet(found, address, patience):
    """Find out if two threads compute rows at the same time: each waits for the other."""
    arrived = counts(address)
    for r in range(found.size):
        add(arrived, 1)
        for _ in range(patience):
            if read(arrived) >= 2:
                found[r] = True
                break
            yield_processor()


@kernel
def compute_long(rows, address):
    """Say that the kernel runs, and run until it is told to stop."""
    add(counts(address), 1)
    for _ in range(rows.size):
        while read(counts(address)) < 2:
            yield_processor()


@pytest.fixture
def threads(monkeypatch):
    """Set the number of threads, and let the smallest kernel be shared out and wake helpers."""
    monkeypatch.setattr(team, "GRAIN", 1)
    monkeypatch.setattr(team, "WORTH_WAKING", 1)

    def set_threads(n):
        monkeypatch.setattr(team, "n_threads", lambda: n)

    set_threads(2)
    return set_threads


def helped():
    """Return whether two threads run a kernel at the same time."""
    found, arrived = np.zeros(2, bool), np.zeros(1, np.int64)
    split(meet, (found,), arrived.ctypes.data, 10**8, size=LARGE)
    return found.all()


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_every_row_is_computed_once(n, threads):
    """By as many threads as there are, and by more than there are processors."""
    threads(n)
    for n_rows in (0, 1, 2, 3, 7, 100, 10_001):
        rows = np.zeros(n_rows, int)
        for _ in range(20):
            split(count, (rows,), 1)
        assert (rows == 20).all(), n_rows


def test_rows_of_any_layout(threads):
    """Columns of a matrix, rows in reverse, and several arrays of different widths."""

    @kernel
    def add_up(x, y, out):
        for r in range(out.size):
            out[r] = x[r].sum() + y[r]

    x = np.arange(60.0).reshape(5, 12)
    for array in (x, x[:, ::3], x[::-1], x.T, np.asfortranarray(x), x[:, :1]):
        y, out = np.arange(float(len(array)))[::-1], np.empty(len(array))
        split(add_up, (array, y, out))
        np.testing.assert_array_equal(out, array.sum(axis=1) + y)


def test_arrays_of_different_lengths_are_refused(threads):
    """No kernel may read beyond the shorter one."""

    @kernel
    def copy(x, out):
        out[:] = x

    for n in (1, 2):
        threads(n)
        with pytest.raises(ValueError, match="different numbers of rows"):
            split(copy, (np.zeros(8), np.zeros(7)))


def test_helpers_help(threads):
    assert helped()


def test_a_helper_sleeps_and_is_woken(threads, monkeypatch):
    """A small kernel leaves it asleep."""
    assert helped()
    words = team.team(2).lines
    asleep = words[MEMBERS + 2 + team.ASLEEP]
    deadline = time.monotonic() + 60
    while not asleep[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asleep[0] == 1
    rows = np.zeros(100, int)
    monkeypatch.setattr(team, "WORTH_WAKING", LARGE)
    split(count, (rows,), 1)
    assert (rows == 1).all() and asleep[0] == 1
    assert helped()


def test_an_error_reaches_the_caller(threads):
    """With its type and its text, from any thread; the next kernel works."""
    for n in (1, 2, 4):
        threads(n)
        rows = np.arange(1000)
        for bad in (0, 400, 999, -1):
            with pytest.raises(ValueError, match="a bad row"):
                split(fail_at, (rows,), bad)
            assert team.team(2).lines[BUSY, 0] == 0
            counted = np.zeros(1000, int)
            split(count, (counted,), 1)
            assert (counted == 1).all()
        with pytest.raises(MemoryError):
            split(fill_memory, (np.zeros(8),), 2**58)


@pytest.mark.parametrize("n", [2, 16])
def test_python_threads_at_once(n, threads):
    """One has the team; the others work alone meanwhile, and each gets its own errors."""
    threads(n)

    def work(number):
        rows, bad = np.zeros(2000, int), np.arange(2000)
        for i in range(1, 200):
            split(count, (rows,), 1)
            assert (rows == i).all()
            if number % 2:
                with pytest.raises(ValueError, match="a bad row"):
                    split(fail_at, (bad,), i)
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def child_works(_=None):
    """Return whether a process that was forked has a team of its own."""
    rows = np.zeros(1000, int)
    split(count, (rows,), 1)
    return bool((rows == 1).all() and helped() and len(team._teams) == 1)


def test_a_forked_process_has_a_team_of_its_own(threads):
    """Also if it is forked while another thread runs a kernel, and the child of a child."""
    need(hasattr(os, "fork"), "os.fork")
    assert helped()
    word = np.zeros(1, np.int64)
    other = threading.Thread(
        target=lambda: split(compute_long, (np.zeros(100),), word.ctypes.data, size=LARGE)
    )
    other.start()
    while not word[0]:
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        grandchild = os.fork() if child_works() else -1
        if grandchild == 0:
            os._exit(0 if child_works() else 1)
        os._exit(1 if grandchild < 0 else os.waitpid(grandchild, 0)[1] != 0)
    word[0] = 2
    other.join()
    assert os.waitpid(child, 0)[1] == 0
    assert helped()


def test_multiprocessing(threads):
    need("fork" in multiprocessing.get_all_start_methods(), "fork")
    assert helped()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.map(child_works, range(6)))


def test_an_interruption_comes_after_the_kernel(threads):
    """Ctrl-C: all threads end their chunks, and then the caller raises KeyboardInterrupt."""
    need(hasattr(signal, "pthread_kill"), "signal.pthread_kill")
    word, main = np.zeros(1, np.int64), threading.main_thread().ident

    def interrupt():
        while not word[0]:
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)
        word[0] = 2

    other = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        other.start()
        split(compute_long, (np.zeros(100),), word.ctypes.data, size=LARGE)
        other.join()
    other.join()
    assert team.team(2).lines[BUSY, 0] == 0 and helped()


PROGRAM = """
import atexit, sys, threading, time
import numpy as np
from autograd import nn
from autograd.kernels import team

team.GRAIN = team.WORTH_WAKING = 1
x = np.linspace(-1, 1, 4096).astype(np.float32)
expected = x / (1 + np.exp(-x))

def use(n):
    team.n_threads = lambda: n

def work():
    assert np.allclose(nn.silu(x), expected, atol=1e-6)

def work_on():
    while True:
        work()
"""
ENDINGS = {
    "helpers spin": "work()",
    "helpers sleep": "work(); time.sleep(0.3)",
    "an error": "work(); sys.stderr.write('as meant'); raise SystemExit(0)",
    "a thread works on": "threading.Thread(target=work_on, daemon=True).start(); time.sleep(0.2)",
    "at the very end": "work(); atexit.register(work)",
    "first at the very end": "atexit.register(work)",
    "after the team's end": "team._end_all(); work(); team._end_all(); work()",
}


def run(code, **environment):
    """Run a program, and return what it prints; it must end, and end well."""
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"AUTOGRAD_KERNELS": "1"} | environment,
        text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and "Fatal" not in result.stderr, result.stderr
    return result.stdout


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends(ending):
    for n in (2, 5):
        run(f"{PROGRAM}\nuse({n}); {ENDINGS[ending]}")


def test_one_thread_has_no_helpers():
    for environment in ({"NUMBA_NUM_THREADS": "1"}, {"NUMBA_DISABLE_JIT": "1"}):
        code = PROGRAM + "work(); print(team.n_threads(), threading.active_count(), team._teams)"
        assert run(code, **environment) == "1 1 {}\n"


def test_a_system_without_functions_to_wait_by():
    """As if they were missing: the compiler finds other functions, and no helper is started."""
    code = """
import ctypes
real = ctypes.CDLL
class Without(real):
    def __getattr__(self, name):
        if name in ("sched_yield", "SwitchToThread"):
            raise AttributeError(name)
        return super().__getattr__(name)
ctypes.CDLL = ctypes.WinDLL = Without
from autograd.kernels import intrinsics
assert not intrinsics.THREADS_CAN_WAIT
"""
    end = "work(); print(team.n_threads(), threading.active_count())"
    assert run(code + PROGRAM + end) == "1 1\n"


def test_a_system_without_another_thread(threads, monkeypatch):
    """The caller does what the helpers would."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(team.Thread, "start", refuse)
    monkeypatch.setattr(team, "_teams", {})
    threads(7)
    rows = np.zeros(1000, int)
    split(count, (rows,), 1)
    assert (rows == 1).all() and team.team(7).threads == []


@pytest.mark.parametrize(("wanted", "usable", "expected"), [(64, 3, 3), (2, 3, 2), (1, 8, 1)])
def test_the_number_of_threads(wanted, usable, expected, monkeypatch):
    """Who asks for more threads than CPUs, or than a container may use, gets as many as help."""
    monkeypatch.setattr(team.settings, "NUMBA_NUM_THREADS", wanted)
    monkeypatch.setattr(team, "usable_cpus", lambda: usable)
    team._n_useful.cache_clear()
    assert n_threads() == (1 if team.settings.DISABLE_JIT else expected)
    team._n_useful.cache_clear()


def test_parts_do_not_depend_on_threads():
    for n, count_ in ((0, 4), (1, 4), (3, 4), (16, 4), (17, 16), (100, 16)):
        starts, stops = parts_of(n, count_)
        assert len(starts) == max(1, min(n, count_))
        assert starts[0] == 0 and stops[-1] == n
        assert (stops[:-1] == starts[1:]).all()
        assert n == 0 or (stops - starts).min() >= 1


@use_kernels(True)
def test_jobs_are_counted(threads):
    """One for each kernel that is shared out; none for a kernel that runs alone."""
    assert helped()
    before = team.team(2).lines[NEWS, 0]
    nn.sigmoid(np.zeros(100, np.float32))
    assert team.team(2).lines[NEWS, 0] == before + 1
    threads(1)
    nn.sigmoid(np.zeros(100, np.float32))
    assert team.team(2).lines[NEWS, 0] == before + 1

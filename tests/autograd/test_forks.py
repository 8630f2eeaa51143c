"""A process that is forked while other threads compute: it has none of them, and works."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import need

import autograd
from autograd import changes, kernels
from autograd.kernels import kernels_enabled, use_threads

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@contextmanager
def elsewhere(block):
    """Be inside a block in another thread."""
    entered, end = threading.Event(), threading.Event()

    def stay():
        with block:
            entered.set()
            end.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    entered.wait()
    try:
        yield
    finally:
        end.set()
        thread.join()


def works_in_child(work):
    """Return whether a function returns True in a forked process, within ten seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.001)
    return ended[1] == 0


def add_to_a_gradient(leaf):
    (leaf * 2).sum().backward()
    return bool((leaf.grad == 2).all())


def write(leaf):
    leaf.data[0] = 3
    return leaf.data[0] == 3


@pytest.mark.parametrize("work", [add_to_a_gradient, write])
def test_locks_of_the_engine(work):
    leaf = autograd.tensor(np.ones(3), requires_grad=True)
    with elsewhere(leaf._node.lock), elsewhere(changes._lock):
        assert works_in_child(lambda: work(leaf))
    assert add_to_a_gradient(leaf)


def test_a_limit_that_another_thread_sets():
    def limit():
        with use_threads(1):
            return kernels.most_threads() == 1

    with elsewhere(kernels._limiting):
        assert works_in_child(limit)
    assert limit()


def test_a_product_of_another_thread():
    """The child is not left with BLAS on one thread."""
    need(kernels_enabled(), "kernels")
    from autograd.kernels import blas

    need(blas.usable(), "NumPy's OpenBLAS")
    before = blas.library().scipy_openblas_get_num_threads64_()

    def multiply():
        with blas.one_thread():
            inside = blas.library().scipy_openblas_get_num_threads64_()
        return (inside, blas.library().scipy_openblas_get_num_threads64_()) == (1, before)

    with elsewhere(blas.one_thread()), elsewhere(blas._lock):
        assert works_in_child(multiply)
    assert multiply()


def test_a_fork_waits_until_kernels_are_compiled():
    need(kernels_enabled(), "kernels")
    from autograd.kernels import jit

    ended = threading.Event()

    def compile(entered):
        with jit.global_compiler_lock:
            entered.set()
            time.sleep(0.1)
            ended.set()

    entered = threading.Event()
    thread = threading.Thread(target=compile, args=(entered,))
    thread.start()
    entered.wait()

    def compile_too():
        with jit.global_compiler_lock:
            return ended.is_set()

    assert works_in_child(compile_too)
    thread.join()

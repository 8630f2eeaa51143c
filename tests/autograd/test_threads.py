"""Threads that share leaves: no contribution, no hook and no warning is lost."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import autograd
from autograd import no_grad, tensor

N_THREADS = 8


@pytest.fixture(autouse=True)
def hurried():
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work):
    """Run a function of the thread's number in several threads that start at the same time."""
    barrier = threading.Barrier(N_THREADS)

    def run(i):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(N_THREADS) as pool:
        return [done.result() for done in [pool.submit(run, i) for i in range(N_THREADS)]]


@pytest.mark.parametrize("size", [1, 3, 200_000])  # NumPy lets other threads run at large arrays
@pytest.mark.parametrize("create_graph", [False, True])
def test_sums_into_a_shared_leaf_are_exact(size, create_graph):
    repeats = 40 if size < 1000 else 5
    for _ in range(3):  # the first contribution, too, is one of many
        w = tensor(np.full(size, 1.0), requires_grad=True)

        def work(i, w=w):
            for _ in range(repeats):
                ((i + 1) * w * w).sum().backward(create_graph=create_graph)

        together(work)
        expected = 2 * repeats * N_THREADS * (N_THREADS + 1) / 2
        assert np.array(w.grad.detach()).tolist() == [expected] * size
        if create_graph:  # every contribution is on the tape of the gradient
            (second,) = autograd.grad(w.grad.sum(), [w])
            assert second.tolist() == [expected] * size


def test_a_shared_result_that_retains_its_gradient():
    w = tensor(np.ones(3), requires_grad=True)
    h = w * 2
    h.retain_grad()

    def work(i):
        for _ in range(50):
            (h * (i + 1)).sum().backward(retain_graph=True)

    together(work)
    assert h.grad.tolist() == [50 * 36] * 3
    assert w.grad.tolist() == [50 * 72] * 3


def test_hooks_that_come_and_go():
    w = tensor(np.ones(2), requires_grad=True)
    seen = [0] * N_THREADS

    def work(i):
        def count(gradient):
            seen[i] += 1
            return None

        removers = [w.register_hook(count) for _ in range(40)]
        for remove in removers[1:]:
            remove()

    together(work)
    assert len(w._node.hooks) == N_THREADS
    w.sum().backward()
    assert seen == [1] * N_THREADS


def test_a_shared_hook_sees_every_pass():
    w = tensor(np.ones(2), requires_grad=True)
    seen = []
    w.register_hook(lambda g: seen.append(float(g[0])) or g * 2)

    def work(i):
        for _ in range(20):
            (w * (i + 1)).sum().backward()

    together(work)
    assert sorted(seen) == sorted(float(i + 1) for i in range(N_THREADS) for _ in range(20))
    assert w.grad.tolist() == [2 * 20 * 36] * 2


def test_a_tape_that_another_thread_releases():
    """A pass is complete, or says that the tape is gone; there is nothing between."""
    for joint in (False, True):
        for _ in range(20):
            w = tensor(np.ones(4), requires_grad=True)
            h = w
            for _ in range(10):
                h = autograd.nn.affine(h.reshape(1, 4), np.eye(4), h)[0] if joint else h * 1.5
            own = [tensor(1.0, requires_grad=True) for _ in range(N_THREADS)]
            losses = [(h * x).sum() for x in own]

            def work(i, losses=losses, w=w):
                try:
                    (g,) = autograd.grad(losses[i], [w])
                except RuntimeError as error:
                    assert "released by an earlier backward pass" in str(error)
                    return None
                return g.tolist()

            expected = (2 if joint else 1.5) ** 10
            found = [g for g in together(work) if g is not None]
            assert all(g == [expected] * 4 for g in found)


def test_a_shared_leaf_whose_array_was_handed_out():
    for _ in range(30):
        w = tensor(np.ones(3), requires_grad=True)
        w.data[0] = 1
        gradients = together(lambda i, w=w: autograd.grad((w * w).sum(), w).tolist())
        assert gradients == [[2, 2, 2]] * N_THREADS


def test_writes_are_logged_in_order():
    """Each thread changes its own leaf; each change is noticed."""

    def work(i):
        w = tensor(np.full(5, 2.0), requires_grad=True)
        noticed = 0
        for _ in range(50):
            loss = (w * w).sum()
            with no_grad():
                w += 1
            try:
                loss.backward()
            except RuntimeError:
                noticed += 1
        return noticed

    assert together(work) == [50] * N_THREADS


def test_grad_modes_do_not_mix():
    def work(i):
        w = tensor(1.0, requires_grad=True)
        for _ in range(50):
            with no_grad() if i % 2 else autograd.enable_grad():
                if (w * w).requires_grad != (i % 2 == 0):
                    return False
            if not (w * w).requires_grad:
                return False
        return True

    assert all(together(work))

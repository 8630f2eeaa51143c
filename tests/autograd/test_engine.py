"""The tape: what it records, when it lets go, and what it refuses."""

import asyncio
import gc
import math
import operator
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd import engine, no_grad, tensor


def leaf(*values, dtype=None):
    return tensor(values[0] if len(values) == 1 else list(values), requires_grad=True, dtype=dtype)


# ---- recording


def test_gradients_accumulate_on_leaves():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    (3 * x).sum().backward()
    assert x.grad.tolist() == [5, 7]
    assert isinstance(x.grad, autograd.Tensor) and not x.grad.requires_grad


def test_a_gradient_is_its_own_writable_array():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    g = np.ones(2)
    (x + y).backward(g)
    x.grad.data[...] = 9
    assert y.grad.tolist() == [1, 1] and g.tolist() == [1, 1]
    z = leaf(1.0, 2.0)
    z.sum().backward()
    z.grad.data[0] = 5
    assert z.grad.tolist() == [5, 1]


def test_a_gradient_is_copied_only_if_its_array_is_shared():
    made = []

    @autograd.op
    def doubled(x):
        """Twice x."""
        return 2 * x

    del autograd.REGISTRY["doubled"]

    @doubled.vjp("x")
    def _(g):
        result = 2 * g
        made.append(result.ctypes.data)
        return result

    x = leaf(np.ones(10_000))
    doubled(x).sum().backward()
    assert x.grad.numpy().ctypes.data == made[0]  # a new array is not copied

    g, x, y, z = np.ones(3), leaf(np.ones(3)), leaf(np.ones(3)), leaf(np.ones(3))
    ((x + y) + z.T).backward(g)
    x.backward(g)  # a leaf itself
    for a in (x, y, z):
        a.grad.data[0] += 10
    assert (x.grad.tolist(), y.grad.tolist(), z.grad.tolist(), g.tolist()) == (
        [12, 2, 2], [11, 1, 1], [11, 1, 1], [1, 1, 1]
    )  # fmt: skip
    kept = []
    x = leaf(np.ones(3))
    y = 1.0 * x
    x.register_hook(kept.append)
    (y * 2).sum().backward()
    x.grad.data[0] = 9
    assert kept[0].tolist() == [2, 2, 2]


def test_large_sums_are_added_to_in_place_and_shared_ones_are_not():
    """Each cotangent that somebody else holds stays as it was."""
    n = 20_000  # 160 kB
    x, w = leaf(np.ones(n)), leaf(np.full(n, 3.0))
    seen, g = [], np.full(n, 2.0)
    y = x * 1.0
    y.register_hook(lambda gradient: seen.append(gradient))
    z = (y + w) + (y + w) + y * 5.0 + y
    z.backward(g)
    assert (g == 2).all() and (x.grad.numpy() == 16).all() and (w.grad.numpy() == 4).all()
    assert (seen[0].numpy() == 16).all()
    x.grad.data[:] = 0
    assert (seen[0].numpy() == 16).all() and (w.grad.numpy() == 4).all()


def test_a_diamond_and_a_shared_input():
    x = leaf(3.0)
    a = x * 2
    b = a * a + a * x
    b.backward()
    assert x.grad.item() == 2 * 2 * 6 + 2 * 2 * 3


def test_constants_cost_nothing():
    x, w = leaf(np.ones(3)), tensor(np.ones(3))
    y = x * w
    assert [name for rule, _, _ in y._node.steps for name in rule.inputs] == ["x"]
    assert not (w * w).requires_grad
    assert type(autograd.REGISTRY["multiply"](np.ones(2), 3.0)) is np.ndarray


def test_no_grad():
    x = leaf(1.0)
    with no_grad():
        assert not (x * 2).requires_grad
        with autograd.enable_grad():
            assert (x * 2).requires_grad
        assert not autograd.is_grad_enabled()
    assert (x * 2).requires_grad

    @no_grad()
    def double(x):
        return x * 2

    @no_grad()
    def generate(x):
        yield x * 2
        yield x * 3

    assert not double(x).requires_grad
    for y in generate(x):
        assert not y.requires_grad
        assert autograd.is_grad_enabled()  # outside of the generator it is on
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert autograd.is_grad_enabled()


def test_grad_mode_is_per_thread():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(autograd.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_grad_mode_is_per_task():
    async def without(seen, turn, other):
        with no_grad():
            turn.set()
            await other.wait()  # the other task runs inside our block
            seen.append(autograd.is_grad_enabled())

    async def within(seen, turn, other):
        await other.wait()
        seen.append(autograd.is_grad_enabled())
        turn.set()

    async def both():
        seen, first, second = [], asyncio.Event(), asyncio.Event()
        await asyncio.gather(without(seen, first, second), within(seen, second, first))
        return seen

    assert asyncio.run(both()) == [True, False]


def test_backward_in_threads():
    def work(seed):
        random = np.random.default_rng(seed)
        w = tensor(random.standard_normal((8, 8)), requires_grad=True)
        for _ in range(50):
            y = np.tanh(w @ w).sum()
            (g,) = autograd.grad(y, [w])
        return g.numpy()

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(work, range(8)))
    for seed, g in enumerate(parallel):
        np.testing.assert_array_equal(g, work(seed))


# ---- dtype and shape


def test_a_float32_graph_stays_float32():
    x = leaf(np.ones((3, 4)), dtype=np.float32)
    y = (2.0 * x / 3 - 1) ** 2 + np.exp(-x) * np.sqrt(x + 1.5)
    y = autograd.nn.layer_norm(y, (4,), None, None) @ np.ones((4, 2), np.float32)
    loss = autograd.nn.cross_entropy(autograd.nn.gelu(y), np.array([0, 1, 1]))
    assert y.dtype == loss.dtype == np.float32
    loss.backward()
    assert x.grad.dtype == np.float32


def test_a_gradient_has_its_inputs_dtype_and_shape():
    x = leaf(np.ones((1, 3)), dtype=np.float32)
    y = x * np.ones((4, 3))  # NumPy promotes
    assert y.dtype == np.float64
    y.sum().backward()
    assert x.grad.dtype == np.float32 and x.grad.shape == (1, 3)
    assert x.grad.tolist() == [[4, 4, 4]]


@pytest.mark.parametrize("dtype", [int, bool, complex])
def test_only_real_floating_point_can_require_a_gradient(dtype):
    with pytest.raises(TypeError, match=np.dtype(dtype).name):
        tensor(np.ones(3, dtype), requires_grad=True)


def test_scalars():
    x = leaf(2.0)
    assert (x * x).shape == () and isinstance((x * x)._array, np.ndarray)
    (x * x).backward()
    assert x.grad.shape == () and x.grad.item() == 4


# ---- releasing


def test_a_second_backward_says_that_the_tape_is_gone():
    x = leaf(1.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match="multiply.*released.*retain_graph=True"):
        y.backward()
    z = x * x
    z.backward(retain_graph=True)
    z.backward()
    assert x.grad.item() == 6


def test_no_reference_cycles():
    """With the garbage collector off, thousands of steps leave nothing behind."""

    def steps(n):
        for _ in range(n):
            x = leaf(np.ones(3))
            y = autograd.nn.softmax(np.tanh(x * x) @ np.ones((3, 3)))
            y = autograd.functional.checkpoint(np.exp)(y)
            g = autograd.grad(y.sum(), x, create_graph=True)
            autograd.explain(g.sum(), x)
            (g * g).sum().backward()

    steps(10)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        steps(3000)
        assert len(gc.get_objects()) - before < 200
    finally:
        gc.enable()


def test_a_long_chain():
    x = leaf(1.0)
    y = x
    for _ in range(1_000_000):
        y = y + 0.5
    y.backward()
    assert x.grad.item() == 1
    y = x
    for _ in range(200_000):
        y = y + 0.5
    del y  # and so is dropping one


# ---- grad, hooks, several outputs


def test_grad_changes_no_grad():
    x, unused = leaf(3.0), leaf(1.0, 2.0)
    a, b = autograd.grad(x * x, [x, unused])
    assert a.item() == 6 and b.tolist() == [0, 0] and x.grad is None


def test_grad_of_a_result_in_the_middle():
    x = leaf(2.0)
    y = x * 3
    z = y * y
    assert autograd.grad(z, y, retain_graph=True).item() == 12
    assert autograd.grad(z, [y, x], retain_graph=True)[1].item() == 36
    autograd.grad(z, y)
    y.backward()  # the tape behind y is still there
    assert x.grad.item() == 3


def test_grad_searches_nothing_older_than_its_inputs():
    x = leaf(2.0)
    old = x * 3
    seen = []

    class Watch:
        def visit(self, node, cotangent):
            seen.append(node.op.name)

        def edge(self, node, name, parent, contribution):
            pass

    y = autograd.tensor(1.0, requires_grad=True)
    with autograd.observe(Watch()):
        autograd.grad(np.exp(y) * old, y)
    assert seen == ["multiply", "exp"]


def test_observer_sees_what_backward_does():
    x, y = leaf(2.0), leaf(5.0)
    edges = []

    class Watch:
        def visit(self, node, cotangent):
            edges.append((node.op.name, float(cotangent)))

        def edge(self, node, name, parent, contribution):
            edges.append((name, float(contribution)))

    with autograd.observe(Watch()):
        (x * y + y).backward()
    assert edges == [("add", 1), ("x", 1), ("y", 1), ("multiply", 1), ("x", 5), ("y", 2)]


class Events:
    """An observer that notes what it is told, in order."""

    def __init__(self, name="", log=None):
        self.name, self.log = name, [] if log is None else log

    def begin(self, outputs, cotangents, inputs, retain_graph):
        given = [float(g) for g in cotangents]
        asked = None if inputs is None else [node.op for node in inputs]
        self.log.append(f"{self.name}begin {outputs[0].op.name} {given} {asked} {retain_graph}")

    def visit(self, node, cotangent):
        self.log.append(f"{self.name}{node.op.name}")

    def edge(self, node, name, parent, contribution):
        pass

    def end(self, error):
        self.log.append(f"{self.name}end {'' if error is None else type(error).__name__}".strip())


def test_observer_sees_each_pass_begin_and_end():
    x, events = leaf(2.0), Events()
    y = x * 3
    with autograd.observe(events):
        y.backward(retain_graph=True)
        assert x.grad.item() == 3
        autograd.grad(y, [x], np.float64(5.0))
        with pytest.raises(RuntimeError, match="released"):
            y.backward()
    assert events.log == [
        "begin multiply [1.0] None True", "multiply", "end",
        "begin multiply [5.0] [None] False", "multiply", "end",
        "begin multiply [1.0] None False", "end RuntimeError",
    ]  # fmt: skip


def test_observer_sees_nested_passes_as_brackets():
    x, z, events = leaf(2.0), leaf(4.0), Events()
    inner = np.exp(z)
    y = x * 3
    y.register_hook(lambda g: inner.backward())
    with autograd.observe(events):
        (y + 1).backward()
        (g,) = autograd.grad(x * x * x, [x], create_graph=True)
        g.backward()
    words = [entry.split()[0] for entry in events.log]
    assert words[:6] == ["begin", "add", "begin", "exp", "end", "multiply"] and words[6] == "end"
    assert words.count("begin") == words.count("end") == 4
    assert x.grad.item() == 3 + 12  # of y + 1, and the second derivative of the cube


def test_nested_observers_both_watch_and_none_hides_both():
    log = []
    outer, inner = Events("outer ", log), Events("inner ", log)
    x = leaf(2.0)
    with autograd.observe(outer), autograd.observe(inner), autograd.observe(outer):
        (x * 3).backward()
        with autograd.observe(None):
            (x * 3).backward()
    assert log == [
        "outer begin multiply [1.0] None False", "inner begin multiply [1.0] None False",
        "outer multiply", "inner multiply", "inner end", "outer end",
    ]  # fmt: skip


def test_an_observer_that_fails_does_not_hide_the_end_from_others():
    class Failing(Events):
        def begin(self, *details):
            raise KeyError("begin")

    outer, x = Events(), leaf(2.0)
    with autograd.observe(outer), autograd.observe(Failing()), pytest.raises(KeyError):
        (x * 3).backward()
    assert outer.log == ["begin multiply [1.0] None False", "end KeyError"]
    assert autograd.is_grad_enabled() and x.grad is None


def test_an_observer_watches_its_own_thread():
    x, events = leaf(2.0), Events()
    y = x * 3
    with autograd.observe(events), ThreadPoolExecutor(1) as pool:
        pool.submit(y.backward).result()
    assert events.log == [] and x.grad.item() == 3


def test_hooks_and_retained_gradients():
    x = leaf(1.0, 2.0)
    y = x * 2
    y.retain_grad()
    seen = []
    remove = y.register_hook(lambda g: seen.append(g.tolist()))
    x.register_hook(lambda g: g * 10)
    (y * y).sum().backward()
    assert seen == [[4, 8]] and y.grad.tolist() == [4, 8] and x.grad.tolist() == [80, 160]
    remove()
    (x * 2 + y.detach()).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_hook_replaces_one_gradient_only(create_graph):
    def gradients(hook):
        x, z = leaf(1.0, 2.0), leaf(3.0, 4.0)
        y = x + z
        x.register_hook(hook)
        y.sum().backward(create_graph=create_graph)
        assert x.grad.dtype == np.float64 and z.grad.tolist() == [1, 1]
        return x.grad.tolist()

    assert gradients(lambda g: [5, 6]) == gradients(lambda g: np.float32([5, 6])) == [5, 6]
    assert gradients(lambda g: None) == [1, 1]
    for change in (
        lambda g: g.__imul__(2),
        lambda g: g.data.fill(2),
        lambda g: g.__setitem__(0, 2),
    ):
        with pytest.raises(ValueError, match="return a new one: g \\* 2"):
            gradients(change)
    for wrong in (2.0, np.ones((1, 2)), np.array([1j, 2]), "ab"):
        with pytest.raises(ValueError, match=r"gradient of shape \(2,\), and returned"):
            gradients(lambda g, wrong=wrong: wrong)
    with pytest.raises(ValueError, match="a hook's own"):
        gradients(raises(ValueError("a hook's own")))


def raises(error):
    def function(*_):
        raise error

    return function


def test_a_hook_in_the_middle_may_return_a_list():
    x = leaf(1.0, 2.0)
    y = x * 2
    y.register_hook(lambda g: [3, 4])
    np.exp(y).sum().backward()
    assert x.grad.tolist() == [6, 8]


def test_one_of_two_equal_hooks_is_removed():
    x, calls = leaf(1.0), []
    hook = lambda g: calls.append(1)  # noqa: E731
    remove = x.register_hook(hook)
    x.register_hook(hook)
    remove()
    remove()
    (x * 2).backward()
    assert calls == [1]


def test_some_of_several_outputs():
    x = leaf(np.arange(6.0))
    a, _, c = np.split(x, 3)
    (a.sum() + (c * c).sum()).backward()
    assert x.grad.tolist() == [1, 1, 0, 0, 8, 10]


def test_create_graph_in_backward():
    x = leaf(3.0)
    (x**3).backward(create_graph=True)
    first = x.grad
    x.grad = None
    first.backward()
    assert first.item() == 27 and x.grad.item() == 18
    a, b = leaf(1.0), leaf(2.0)
    (a + b).backward(create_graph=True)
    a.grad += 5
    assert (a.grad.item(), b.grad.item()) == (6, 1)


def test_second_derivative_under_no_grad():
    x = leaf(3.0)
    y = x**3
    with no_grad():
        g = autograd.grad(y, x, create_graph=True)
    assert autograd.grad(g, x).item() == 18


def test_a_paused_leaf_keeps_everything():
    """As in PyTorch: the tape, the gradient and the hooks outlive requires_grad_(False)."""
    x, w, seen = leaf(1.0, 2.0), leaf(3.0, 4.0), []
    remove = w.register_hook(seen.append)
    loss = (x * w * w).sum()
    w.grad = np.ones(2)
    grad = w.grad
    assert w.requires_grad_(False) is w and not w.requires_grad and w.is_leaf
    assert not (w * w).requires_grad and w.grad is grad
    loss.backward(retain_graph=True)
    assert x.grad.tolist() == [9, 16] and w.grad.tolist() == [1, 1] and len(seen) == 1
    with pytest.raises(RuntimeError, match="grad: .* requires no gradient"):
        autograd.grad(loss, w)
    with pytest.raises(RuntimeError, match="register_hook: .* requires no gradient"):
        w.register_hook(print)
    w.requires_grad = True
    w.requires_grad = True
    (g,) = autograd.grad(loss, [w], retain_graph=True)  # the same leaf
    loss.backward(retain_graph=True)
    assert g.tolist() == [6, 16] and w.grad is grad and grad.tolist() == [7, 17]
    assert len(seen) == 3
    remove()
    w.requires_grad_(False).grad = None
    w.grad = np.zeros(2)
    w.requires_grad_()
    loss.backward()
    assert w.grad.tolist() == [6, 16] and len(seen) == 3
    (w * w).sum()
    assert w._node.plain  # and it costs what it did


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("write", [
    lambda w: w.data.__setitem__(0, 7),
    lambda w: w.numpy().__setitem__(0, 7),
    lambda w: np.asarray(w).__setitem__(0, 7),
    lambda w: w.detach().numpy().__setitem__(0, 7),
    lambda w: w.__setitem__(0, 7),
    lambda w: w.__iadd__(7),
    lambda w: np.add(w, 7, out=w),
])  # fmt: skip
def test_a_write_to_a_paused_leaf_is_noticed(write, again):
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    loss = (x * w).sum()
    write(w.requires_grad_(False))
    w.requires_grad_(again)
    with pytest.raises(RuntimeError, match="multiply: 'y', .* was changed in place"):
        loss.backward()


def test_only_an_array_that_is_held_is_watched_after_a_pause():
    w = leaf(3.0, 4.0).requires_grad_(False)
    array = w.data
    loss = (w.requires_grad_() * w).sum()
    array[0] = 7
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    w.requires_grad_(False).data = np.array([1.0, 1.0])
    (w.requires_grad_() * w).sum().backward()
    assert w.grad.tolist() == [2, 2]


# ---- changes in place


def test_data_of_a_result_is_read_only():
    x = leaf(1.0, 2.0)
    y = x * 2
    for array in (y.data, y.numpy(), y.detach().data, x.numpy(), x.detach().data):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    with pytest.raises(ValueError, match="only that of a leaf"):
        y.data = np.zeros(2)


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y.reshape(3, 1),
        lambda y: y[1:],
        lambda y: +y,
        lambda y: np.split(y, 3)[2],
        lambda y: np.einsum("i->i", y),
        lambda y: y.reshape(3, 1).T,
    ],
)
def test_a_view_made_under_no_grad_is_read_only(view):
    x = leaf(np.ones(3))
    y = np.exp(x)
    with no_grad():
        z = view(y)
        assert np.exp(y).numpy().flags.writeable and not z.requires_grad
        with pytest.raises(ValueError, match="read-only"):
            z.numpy()[:] = 0
        with pytest.raises(ValueError, match="read-only"):
            z *= 2
        x[1:] += 1  # a part of a leaf
    assert x.tolist() == [1, 2, 2]


def test_operators_in_place():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="subtract in place"):
        x -= 1
    with pytest.raises(RuntimeError, match="np.where"):
        x[0] = 1
    same, array = x, x.data
    with no_grad():
        x -= 0.5
        x[0] = 9
    assert x is same and array.tolist() == [9, 1.5]
    x.data -= 1.0
    assert x.tolist() == [8, 0.5]
    w = leaf([[5.0, 7.0], [1.0, 2.0]])
    same = w
    with no_grad():
        w //= 2
        w %= 2
        w @= [[0.0, 1.0], [1.0, 0.0]]
    assert w is same and w.is_leaf and w.tolist() == [[1, 0], [1, 0]]
    plain = tensor([1.0])
    plain += 1
    assert plain.tolist() == [2]


IN_PLACE = [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
            operator.imod, operator.ipow, operator.imatmul]  # fmt: skip
PLAIN = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
         operator.mod, operator.pow, operator.matmul]  # fmt: skip
M = [[1.5, 2.5], [3.5, 4.5]]


@pytest.mark.parametrize("mode", [no_grad, autograd.enable_grad])
@pytest.mark.parametrize("other", ["leaf", "result", "array", "plain", "number", "list", "larger"])
@pytest.mark.parametrize(("in_place", "operate"), list(zip(IN_PLACE, PLAIN, strict=True)))
def test_an_operator_in_place_on_a_result(in_place, operate, other, mode):
    """It binds a new tensor, and differentiates as ``y = y + z``; who has the old one keeps it."""
    if operate is operator.matmul and other == "number":
        return
    x, z = leaf(M), leaf([[2.0, 1.0], [1.0, 3.0]])
    w = {"leaf": z, "result": z * 1, "array": np.array(z.numpy()), "plain": z.detach(),
         "number": 2, "list": z.tolist(), "larger": np.stack([z, z])}[other]  # fmt: skip
    y = result = x * 2
    view, value = y[0], y.numpy().copy()
    with mode():
        y = in_place(y, w)
        expected = operate(result, w)
    assert y is not result and y.tolist() == expected.tolist() and y.dtype == expected.dtype
    assert y.requires_grad == expected.requires_grad == (mode is autograd.enable_grad)
    assert result.tolist() == value.tolist() and view.tolist() == value[0].tolist()
    if y.requires_grad:
        total = (y * y).sum() + (result * result).sum() + view.sum()
        same = (expected * expected).sum() + (result * result).sum() + view.sum()
        for a, b in zip(autograd.grad(total, [x, z], retain_graph=True),
                        autograd.grad(same, [x, z]), strict=True):  # fmt: skip
            assert a.tolist() == b.tolist()


@pytest.mark.parametrize("start", [0, 0.0, tensor(0.0), tensor(0), np.float64(0)])
def test_a_sum_in_a_loop(start):
    x = leaf(1.0, 2.0, 3.0)
    total, before = start, float(start)
    for v in x:
        total += v * v
    total *= 2
    total.backward()
    assert x.grad.tolist() == [4, 8, 12] and float(start) == before


def test_a_plain_tensor_gets_onto_the_tape_under_a_new_name():
    x, total = leaf(1.0, 2.0), tensor([1.0, 1.0])
    alias = total
    total += 1
    assert alias is total and alias.tolist() == [2, 2]  # no gradient is concerned
    total += x
    assert alias.tolist() == [2, 2] and total.requires_grad
    total.sum().backward()
    assert x.grad.tolist() == [1, 1]
    with no_grad():
        alias += x
    assert alias.tolist() == [3, 4] and not alias.requires_grad


def test_an_operator_in_place_names_its_own_sign():
    with pytest.raises(RuntimeError, match="subtract in place .* x = x - y "):
        operator.isub(leaf(M), 1.0)
    with pytest.raises(RuntimeError, match=r"power in place .* x = x \*\* y "):
        operator.ipow(leaf(M), 2)


@pytest.mark.parametrize("in_place", IN_PLACE)
def test_what_no_operator_changes(in_place):
    x, z = leaf(M), np.array(M)
    y = x * 2
    with pytest.raises(RuntimeError, match="in place would change a leaf.*x = x .*y.*no_grad"):
        in_place(x, z)
    for part in (x, y):
        with pytest.raises(RuntimeError, match=r"np.where, np.concatenate or np.stack.*no_grad"):
            part[0:2] = in_place(part[0:2], z)
    with pytest.raises(TypeError, match="as in `a .= b`; write `a = a . b`"):
        in_place(np.array(M), x)
    constant = tensor(M)
    with pytest.raises(TypeError, match=r"np.stack\(\[x, y\]\)"):
        in_place(constant, [[x[0, 0], x[0, 1]], [x[1, 0], x[1, 1]]])
    with no_grad():
        for view in (y[0:2], +y, x.detach(), y.detach()):
            with pytest.raises(ValueError, match=r"read-only view.*x = x . y.*x.copy\(\)"):
                in_place(view, z)
            with pytest.raises(ValueError, match="read-only view"):
                view[0] = 1
        with pytest.raises(RuntimeError, match="np.where"):
            y[0] = 1
        with pytest.raises(ValueError, match="read-only view"):
            y[0:2] = in_place(y[0:2], z)
        same, before = x, x.numpy().copy()
        x[0:2] = in_place(x[0:2], z)
        assert x is same and not np.array_equal(x.numpy(), before)
    assert y.tolist() == (2 * np.array(M)).tolist() and constant.tolist() == M


@pytest.mark.parametrize("size", [3, 20_000])
def test_a_changed_constant(size):
    """Small constants are copied when saved, large ones are watched."""
    x, c = leaf(np.ones(size)), np.full(size, 2.0)
    y = (x * c).sum()
    c[1] = 100
    if size == 3:
        y.backward()
        assert x.grad.tolist() == [2, 2, 2]
    else:
        with pytest.raises(RuntimeError, match="multiply: .*changed in place"):
            y.backward()


@pytest.mark.parametrize("size", [3, 20_000])
def test_a_changed_constant_among_several(size):
    x, c = leaf(np.ones(size)), np.full(size, 2.0)
    y = np.einsum("i,i->", x, c)
    c[1] = 100
    if size == 3:
        y.backward()
        assert x.grad.tolist() == [2, 2, 2]
    else:
        with pytest.raises(RuntimeError, match="einsum: .*changed in place"):
            y.backward()


def test_a_changed_constant_tensor():
    x, c = leaf(np.ones(3)), tensor(np.full(3, 2.0))
    y = (x * c).sum()
    c *= 50
    y.backward()
    assert x.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize("index", [[0, 0, 1], np.array([0, 0, 1]), (np.array([0, 0, 1]),)])
def test_a_changed_index(index):
    x = leaf(1.0, 2.0, 3.0)
    y = x[index].sum()
    (index[0] if isinstance(index, tuple) else index)[0] = 2
    y.backward()
    assert x.grad.tolist() == [2, 1, 0]


def test_a_changed_leaf():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = (x * w).sum()
    w.data -= 1
    with pytest.raises(RuntimeError, match="multiply: 'y', of shape.*changed in place"):
        y.backward()
    y = (x * (2 * x + w.reshape(1, 2))[0] * w.T).sum()
    w.data -= 1
    with pytest.raises(RuntimeError, match="changed in place"):  # also where a view of it was kept
        y.backward()
    y = (x * w).sum()
    w.data = w.data + 1  # another array: the tape still has the old one
    y.backward()
    assert x.grad.tolist() == (w.numpy() - 1).tolist()
    x.grad = w.grad = None
    z = (x + w).sum()  # a sum needs no old values
    w.data -= 1
    z.backward()
    assert w.grad.tolist() == [1, 1]
    (x * w).sum().backward()  # and a step of training is as always
    with no_grad():
        w -= 0.1 * w.grad
    (x * w).sum().backward()


BIG = 20_000  # elements: too many to be copied


@pytest.mark.parametrize("use", [
    lambda w: w * w,
    lambda w: (w.T * 1.0) @ w,  # a view of it is kept
    lambda w: +w * np.ones(w.shape) * +w,  # the array itself, under another node
    lambda w: np.einsum("ij,ij->", w, w),
    lambda w: np.exp(w.reshape(-1)[3:]) * w.reshape(-1)[3:],
    lambda w: autograd.nn.layer_norm(w, (w.shape[1],), w[0], w[1]),
    lambda w: sum(part * part for part in np.split(w, 2)),
    np.sin,  # of one argument, which the rule reads
    lambda w: np.var(w, axis=1),  # of one argument and options
])  # fmt: skip
@pytest.mark.parametrize("when", ["held", "lent after the forward pass", "given", "before"])
def test_a_leafs_array_in_other_hands(use, when):
    """Writing through what `.data` handed out, or what it was given, is noticed."""
    data = np.ones((2, BIG // 2))
    w = tensor(data)
    if when == "before":
        data = w.data  # while it was no leaf
    w.requires_grad_()
    if when == "held":
        data = w.data[0]
    if when == "given":
        w.data = data
    y = use(w).sum()
    if when == "lent after the forward pass":
        w.data[0, 5] = 7
    else:
        data[..., 5] = 7
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    del data
    use(w).sum().backward()  # and all is well again


def test_what_nobody_holds_costs_nothing():
    w = leaf(1.0, 2.0)
    for _ in range(3):
        (w * 2.0).sum().backward()
        w.data -= 0.1 * w.grad.data
    (w * 2.0).sum()
    assert w._node.plain
    array = w.data
    node = (np.exp(w) * w)._node
    assert not w._node.plain and node.watched
    del array, node
    node = (np.exp(w) * w)._node
    assert w._node.plain and not node.watched


def test_write_in_place(monkeypatch):
    """A write is noticed without a look at the values, whatever becomes of the arrays."""
    w, b, plain = leaf(np.ones(BIG)), leaf(np.ones(BIG)), tensor(np.ones(BIG))

    def use():
        return (w * w.reshape(2, -1).reshape(-1) + b).sum()

    with monkeypatch.context() as patch:
        patch.setattr(autograd.changes.Fingerprint, "of", None)  # would raise
        with autograd.write_in_place(w, b, plain) as arrays:
            for array in arrays:
                array += 1
        del array, arrays
        use().backward()  # nothing else refers to the arrays any more, so none is watched
    assert w.grad.tolist() == [4] * BIG and plain.tolist() == [2] * BIG
    y, only_b = use(), (2 * b).sum()
    with autograd.write_in_place(w, b) as arrays:
        arrays[0][:] += 1
    with pytest.raises(RuntimeError, match="multiply: .*changed in place"):
        y.backward()
    only_b.backward()  # needs no old values
    assert b.grad.tolist() == [3] * BIG
    with autograd.write_in_place(w) as (kept,):
        y = use()
    with pytest.raises(RuntimeError, match="changed in place"):  # written since, for all we know
        y.backward()
    y = use()
    kept[5] = 7
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    with pytest.raises(ZeroDivisionError), autograd.write_in_place(w) as (array,):
        y = use()
        array[0] = 1 / 0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    for other, message in ((w * 2, "only a leaf .* result of multiply"), (w.detach(), "read-only")):
        y = use()
        with pytest.raises(ValueError, match=message), autograd.write_in_place(b, other):
            pass
        y.backward()


def test_reading_between_forward_and_backward_is_no_change():
    w = tensor(np.ones(BIG), requires_grad=True)
    y = (w * w).sum()
    assert w.data[0] == 1 and w.data.sum() == BIG
    y.backward()
    assert (w.grad.numpy() == 2).all()


def test_the_debug_mode_notices_everything():
    """Changes behind the back of every cheap mechanism."""
    w, c = tensor(np.ones(BIG), requires_grad=True), np.ones(BIG)
    for change in (lambda: memoryview(w.numpy().base)[5:6].cast("B").__setitem__(7, 1),
                   lambda: c[5:7].__iadd__([0.5, -0.5])):  # fmt: skip
        with autograd.debug():
            y = (np.square(w) * c).sum()
            change()
            with pytest.raises(RuntimeError, match="changed in place"):
                y.backward()


def test_the_users_data_is_copied():
    array = np.ones(3)
    x = tensor(array, requires_grad=True)
    array[0] = 7
    assert x.tolist() == [1, 1, 1]


# ---- ways off the tape


@pytest.mark.parametrize(
    "escape",
    [
        lambda t: np.array(t),
        lambda t: np.asarray(t),
        lambda t: np.array([t, t]),
        lambda t: np.full(2, t[0]),
        lambda t: float(t[0]),
        lambda t: int(t[0]),
        lambda t: __import__("math").exp(t[0]),
        lambda t: np.zeros(2).__setitem__(0, t[0]),
        lambda t: np.zeros(2).__iadd__(t),
        lambda t: np.add(t, 1, out=np.zeros(2)),
        lambda t: np.zeros((2, 2)).dot(t),
        lambda t: np.vectorize(lambda v: v + 1)(t),
        lambda t: np.fft.fft(t),
        lambda t: np.linalg.eigvals(np.stack([t, t])),
        lambda t: np.i0(t),
        lambda t: np.r_[t, t],
        lambda t: t.astype(int),
        lambda t: np.multiply.reduceat(t, [0]),
    ],
)
def test_no_silent_way_off_the_tape(escape):
    with pytest.raises((TypeError, ValueError)) as caught:
        escape(leaf(1.0, 2.0))
    reasons = f"{caught.value} {caught.value.__cause__}"  # NumPy wraps the error in some places
    assert "tensor that requires a gradient" in reasons


@pytest.mark.parametrize(
    ("escape", "remedy"),
    [
        (lambda t: np.array([t[0], t[1]]), r"np.stack\(\[x, y\]\)"),
        (lambda t: np.array([[t[0], 0.0], [0.0, t[1]]]), "np.stack"),
        (lambda t: np.asarray([t, t], dtype=np.float32), "np.stack"),
        (lambda t: np.r_[t, t], "np.stack"),
        (lambda t: np.sum([t[0], t[1]]), "np.stack"),
        (lambda t: t * [t[0], t[1]], "np.stack"),
        (lambda t: tensor([t[0], t[1]]), "np.stack"),
        (lambda t: np.fromiter(t, float), "np.stack"),
        (lambda t: np.zeros(2).__setitem__(0, t[0]), "np.stack"),
        (lambda t: np.zeros(2).__setitem__(slice(2), t), "np.stack"),
        (lambda t: tensor(np.zeros(2)).__setitem__(0, t[0]), "np.stack"),
        (lambda t: tensor(np.zeros(2)).__setitem__(slice(2), [t[0], t[1]]), "np.stack"),
        (lambda t: np.full(2, t[0]), r"np.broadcast_to\(x, shape\)"),
        (lambda t: np.full_like(np.ones(2), t[0]), r"np.broadcast_to\(x, shape\)"),
        (lambda t: math.exp(t[0]), "np.exp for math.exp"),
        (lambda t: math.floor(t[0]), "np.exp for math.exp"),
        (lambda t: complex(t[0]), "np.exp for math.exp"),
        (lambda t: float(t[0]), r".item\(\) for its number"),
        (lambda t: int(t[0]), r".item\(\) for its number"),
        (lambda t: range(t[0]), r".item\(\) for its number"),
        (lambda t: np.arange(t[0]), r".item\(\) for its number"),
        (lambda t: np.asarray(t), r".numpy\(\) for its array"),
        (lambda t: np.zeros((2, 2)).dot(t), r".numpy\(\) for its array"),
    ],
)
def test_a_way_off_the_tape_names_what_to_write(escape, remedy):
    with pytest.raises((TypeError, ValueError)) as caught:
        escape(leaf(1.0, 2.0))
    error = caught.value if "gradient" in str(caught.value) else caught.value.__cause__
    assert re.search(f"requires a gradient .*{remedy}", str(error))


def test_what_the_errors_name_works():
    x = leaf(1.0, 2.0)
    y = np.stack([x[0], x[1]]) + np.broadcast_to(x[0], (2,)) + np.exp(x)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [3 + np.e, 1 + np.e**2], rtol=1e-14)


def test_others_convert_freely():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    assert np.array(x.grad).tolist() == [2, 4]
    assert float(x.grad[0]) == 2
    assert np.cumprod(x.grad).tolist() == [2, 8]
    assert np.linalg.norm(tensor([3.0, 4.0])) == 5
    out = np.zeros(2)
    np.add(x.grad, 1, out=out)
    assert out.tolist() == [3, 5]
    assert f"{(x * x).sum():.3f}" == "5.000"
    assert bool((x > 0).all()) and (x == np.array([1, 5])).tolist() == [True, False]
    with no_grad():
        assert not np.exp(x).requires_grad


def test_repr():
    assert repr(tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(leaf(1.0, dtype=np.float32)) == "tensor(1., dtype=float32, requires_grad=True)"
    assert repr(leaf(1.0) * 2) == "tensor(2., op=multiply)"


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: tensor([1.0]).backward(), "requires no gradient"),
        (lambda: leaf(1.0, 2.0).__mul__(2).backward(), "give a gradient of that shape"),
        (lambda: (leaf(1.0) * 2).backward("3.5"), "gradient has dtype <U3; expected real numbers"),
        (lambda: (leaf(1.0) * 2).backward(3 + 4j), "gradient has dtype complex128"),
        (lambda: autograd.grad(leaf(1.0, 2.0) * 2, leaf(1.0), [1, None]), "has dtype object"),
        (lambda: (leaf(1.0, 2.0) * 2).backward(np.ones(3)), r"shape \(3,\), and the output \(2,\)"),
        (lambda: autograd.grad(lambda x: x, leaf(1.0)), "takes tensors"),
        (lambda: tensor(np.ma.masked_array([1.0])), "MaskedArray is not supported"),
        (lambda: tensor([1.0, None]), "given object"),
        (lambda: tensor("abc"), "real numbers or booleans, and was given <U3"),
        (lambda: tensor(1j), "real numbers or booleans, and was given complex128"),
        (lambda: leaf(1.0) * 1j, "multiply: the result has dtype complex128"),
        (lambda: leaf(1.0) * np.matrix([[1.0]]), "multiply: matrix means other things"),
        (lambda: np.ma.masked_array([1.0], [True]) * leaf(1.0), "behind the tape's back"),
        (lambda: leaf(1.0).mean(dim=0), "Tensor.mean: .*'dim'; NumPy's name for dim is axis"),
        (lambda: np.sum(leaf(1.0), dtype=np.float32), "np.sum with dtype= has no deriv"),
        (lambda: np.exp(leaf(1.0), where=[True]), "np.exp with where= has no derivative here"),
        (lambda: np.exp(leaf(1.0), out=np.ones(())), "np.exp with out= has no derivative here"),
        (lambda: 2 @ leaf(1.0), "does not have enough dimensions"),
        (lambda: setattr(leaf(1.0), "grad", np.ones(3)), "dtype and shape"),
        (lambda: setattr(leaf(1.0), "data", np.ones(3)), "data must stay"),
        (lambda: (leaf(1.0) * 2).requires_grad_(False), "detach"),
        (lambda: iter(leaf(1.0)), "no axes"),
    ],
)
def test_errors_say_what_is_wrong(action, message):
    with pytest.raises((RuntimeError, ValueError, TypeError), match=message):
        action()


# ---- declaring ops


@pytest.fixture
def cube():
    @autograd.op
    def cube(x):
        return x**3

    yield cube
    del autograd.REGISTRY["cube"]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((1.0,), "'x' returned a value of type tuple; expected an array"),
        ([1.0], "'x' returned a value of type list; expected an array"),
        (2.0, "'x' returned a value of type float; expected an array"),
        (None, "'x' returned no gradient"),
    ],
)
def test_a_rule_returns_an_array(cube, returned, message, create_graph):
    cube.vjp(x=lambda g: returned)
    with pytest.raises(TypeError, match="cube: the rule of input " + message):
        cube(leaf(2.0)).backward(create_graph=create_graph)


def test_a_rule_of_several_inputs_returns_a_tuple():
    both = autograd.Op(lambda x, y: x * y)
    both.vjp("x", "y")(lambda g, x, y: g)
    with pytest.raises(TypeError, match="2 cotangents, and returned a value of type ndarray"):
        both(leaf(2.0), leaf(3.0)).backward()


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda x, *, k=2.0: x * k, {}, "parameter 'k=2.0' .* without a \\* before it"),
        (lambda x, **rest: x, {}, r"parameter '\*\*rest'"),
        (lambda x, *rest: x, {}, r"parameter '\*rest' .* \*arrays as the first"),
        (lambda x: x, {"domain": {"y": (0, 1)}}, "domain names 'y', which is none of x"),
    ],
)
def test_what_cannot_be_an_op(function, options, message):
    with pytest.raises(TypeError, match=message):
        autograd.Op(function, **options)


def test_a_rule_may_read_the_shape_of_a_list():
    scaled = autograd.Op(lambda x, y: x * np.size(y))
    scaled.vjp(x=lambda g, y_shape: g * np.prod(y_shape), y=lambda g, y: g * np.zeros_like(y))
    x = leaf(1.0)
    scaled(x, [1.0, 2.0]).backward()
    assert x.grad.item() == 2


def test_arguments_of_methods():
    x = autograd.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    assert x.transpose(None).shape == x.transpose().shape == x.transpose((1, 0)).shape == (3, 2)
    with pytest.raises(TypeError, match="requires_grad must be True or False, and is 'no'"):
        x.requires_grad_("no")
    assert x.requires_grad


def test_shortcuts_change_nothing():
    """`autograd.fast` is only faster: without it, every bit of every gradient is the same."""
    program = """
import numpy as np, autograd
x = autograd.tensor(np.linspace(-2, 2, 6).reshape(2, 3), requires_grad=True)
w = autograd.tensor(np.linspace(0, 1, 3), requires_grad=True, dtype=np.float32)
y = np.sin(np.exp(x) * w)              # a chain, and broadcasting
z = y @ x.T + np.maximum(y, 0.1).sum(1) / (2 - w[0])   # two uses, constants, an option
z.register_hook(lambda g: g * 2)
left, right = np.split(y, [1], axis=1)                 # of several outputs, one with a hook
right.register_hook(lambda g: g * 3)
right.retain_grad()
z = z + (np.exp(left) * right.reshape(2, 2)).sum(-1) + np.sum(right * left, 0, keepdims=True)
z.sum().backward(retain_graph=True)
(dx,) = autograd.grad(z.sum(), (x,), create_graph=True)
(dx * dx).sum().backward()
print(*(t.grad.numpy().tobytes().hex() for t in (x, w, right)))
print(type(autograd.REGISTRY["add"]).__name__)
"""
    found = []
    for setting in ("1", "0"):
        environment = os.environ | {"AUTOGRAD_SHORTCUTS": setting}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        found.append(run.stdout.split("\n"))
    assert found[0][0] == found[1][0] and len(found[0][0]) > 100
    assert (found[0][1], found[1][1]) == ("BinaryOp", "Op")


OPS = {np.add: 2, np.multiply: 2, np.subtract: 2, np.sin: 1, np.cos: 1, np.tanh: 1}
PLACE = st.integers(0, 99)


@given(st.lists(st.tuples(st.sampled_from(list(OPS)), PLACE, PLACE), min_size=1), PLACE)
def test_shortcuts_visit_in_the_same_order(program, wanted):
    """The bits of a gradient depend on the order in which its contributions were added."""

    def gradients():
        values = [leaf(0.3, 1.7), leaf(-0.9, 0.1)]
        for op, *places in program:  # each takes leaves, or some of the last six results
            near = values[:2] + values[2:][-6:]
            values.append(op(*(near[i % len(near)] for i in places[: OPS[op]])))
        inputs = *values[:2], values[wanted % len(values)]
        first = autograd.grad(values[-1].sum(), inputs, create_graph=True)
        again = autograd.grad(values[-1].sum() + sum(np.sin(g).sum() for g in first), inputs)
        return [g.numpy().tobytes() for g in first + again]

    quick = engine.visit_quickly
    found = gradients()
    try:
        engine.visit_quickly = None
        assert gradients() == found
    finally:
        engine.visit_quickly = quick


def test_an_op_of_code_without_a_module():
    names = {"autograd": autograd}
    exec("@autograd.op\ndef nameless(x):\n    return x * 1\nnameless.vjp(x=lambda g: g)", names)
    try:
        assert names["nameless"].__module__ == "__main__"
    finally:
        del autograd.REGISTRY["nameless"]

"""Derivatives of functions, against formulas and against each other."""

import dataclasses
import weakref
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest

import autograd
from autograd.functional import (
    checkpoint,
    elementwise_grad,
    grad,
    hessian,
    hvp,
    jacobian,
    jvp,
    value_and_grad,
    vjp,
)

RANDOM = np.random.default_rng(0)
A = RANDOM.standard_normal((3, 4))
X = RANDOM.standard_normal(4)


def f(x):
    return np.tanh(A @ x) * (x**2).sum()


def scalar(x):
    return (f(x) ** 2).sum()


def test_nested_gradients():
    g = np.sin
    for expected in (np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin):
        g = grad(g)
        assert g(0.3) == pytest.approx(expected(0.3), rel=1e-14)
        assert isinstance(g(0.3), float)


def test_a_closure_over_an_outer_variable():
    # d/dy [ d/dx (x^2 y^2) at x = 3 ] = 4 x y, and no confusion of the two derivatives
    assert grad(lambda y: grad(lambda x: x * x * y * y)(3.0))(2.0) == 24
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(1.0) == 1


def test_jacobian_vjp_and_jvp_agree():
    J = jacobian(f)(X)
    assert J.shape == (3, 4) and type(J) is np.ndarray
    u, v = RANDOM.standard_normal(3), RANDOM.standard_normal(4)
    y, pull_back = vjp(f, X)
    np.testing.assert_allclose(y, f(X), rtol=1e-14)
    np.testing.assert_allclose(pull_back(u)[0], u @ J, rtol=1e-12)
    np.testing.assert_allclose(pull_back(2 * u)[0], 2 * u @ J, rtol=1e-12)  # again
    y, dy = jvp(f, [X], [v])
    np.testing.assert_allclose(dy, J @ v, rtol=1e-12)
    numeric = (f(X + 1e-6 * v) - f(X - 1e-6 * v)) / 2e-6
    np.testing.assert_allclose(dy, numeric, rtol=1e-7)


def test_hessian_and_hvp_agree():
    H = hessian(scalar)(X)
    np.testing.assert_allclose(H, H.T, rtol=1e-10, atol=1e-12)
    v = RANDOM.standard_normal(4)
    np.testing.assert_allclose(hvp(scalar, [X], [v])[0], H @ v, rtol=1e-10)
    numeric = (grad(scalar)(X + 1e-6 * v) - grad(scalar)(X - 1e-6 * v)) / 2e-6
    np.testing.assert_allclose(H @ v, numeric, rtol=1e-6)


class Pair(NamedTuple):
    a: object
    b: object


@dataclasses.dataclass
class Layer:
    w: object
    name: str = "layer"
    n: int = 3


def test_nested_containers():
    tree = {"layers": [Layer(np.ones(2)), Layer(np.array([2.0, 3.0]))], "pair": Pair(1.5, (2.0,))}

    def loss(p):
        total = p["pair"].a * p["pair"].b[0]
        return total + sum((layer.w**2).sum() * layer.n for layer in p["layers"])

    value, gradient = value_and_grad(loss)(tree)
    assert value == 3 + 3 * 2 + 3 * 13
    assert [layer.w.tolist() for layer in gradient["layers"]] == [[6, 6], [12, 18]]
    assert gradient["layers"][0].name is None  # what is no number has no gradient
    assert gradient["pair"] == Pair(2.0, (1.5,))
    out, pull_back = vjp(lambda p, s: {"y": p[0] * s, "z": (p[1],)}, [2.0, 3.0], 4.0)
    assert out == {"y": 8.0, "z": (3.0,)}
    assert pull_back({"y": 1.0, "z": (10.0,)}) == ([4.0, 10.0], 2.0)


def test_argnums_and_other_arguments():
    def g(x, flag, y, *, scale):
        return scale * x * y**2 if flag else x

    assert grad(g, 2)(2.0, True, 3.0, scale=5.0) == 60
    assert grad(g, (0, 2))(2.0, True, 3.0, scale=5.0) == (45, 60)


def test_tensors_stay_tensors():
    x = autograd.tensor(X, requires_grad=True)
    g = grad(scalar)(x)
    assert isinstance(g, autograd.Tensor) and g.requires_grad
    g.sum().backward()
    np.testing.assert_allclose(x.grad, hessian(scalar)(X).sum(0), rtol=1e-10)
    plain = grad(scalar)(autograd.tensor(X))
    assert isinstance(plain, autograd.Tensor) and not plain.requires_grad
    with autograd.no_grad():
        np.testing.assert_allclose(grad(scalar)(X), plain)


def test_outputs_that_do_not_depend():
    assert jacobian(lambda x: x * 0 + 1)(np.ones(2)).tolist() == [[0, 0], [0, 0]]
    assert hessian(lambda x: x.sum())(np.ones(2)).tolist() == [[0, 0], [0, 0]]
    assert jvp(lambda x, y: x * 2, [1.0, 1.0], [1.0, 5.0]) == (2.0, 2.0)
    assert grad(lambda x, y: x * 2, (0, 1))(1.0, 1.0) == (2.0, 0.0)


def test_derivatives_that_vanish_are_zeros():
    assert grad(grad(lambda x: 3 * x))(2.0) == 0
    second = elementwise_grad(elementwise_grad(autograd.nn.relu))
    assert second(np.array([1.0, -1.0])).tolist() == [0, 0]
    constant = autograd.tensor([1.0, 2.0])
    y, dy = jvp(lambda x: constant, [1.0], [5.0])
    assert (y.tolist(), dy.tolist()) == ([1, 2], [0, 0])
    (y, z), pull_back = vjp(lambda x: (constant, 3 * x), 1.0)
    assert pull_back((np.ones(2), 2.0)) == (6.0,) and z == 3
    ones = np.ones(2)
    hx, hy = hvp(lambda x, y: (x * x).sum() + y.sum(), [ones, ones], [ones, ones])
    assert (hx.tolist(), hy.tolist()) == ([2, 2], [0, 0])


def test_elementwise_grad():
    x = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(elementwise_grad(np.tanh)(x), 1 - np.tanh(x) ** 2)
    second = elementwise_grad(elementwise_grad(np.tanh))(x)
    np.testing.assert_allclose(second, -2 * np.tanh(x) * (1 - np.tanh(x) ** 2), atol=1e-15)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: grad(np.sin)(3), "argument 0 holds no real floating-point number.*3.0, not 3"),
        (lambda: grad(np.sin)(np.ones(3)), "use jacobian, vjp, or elementwise_grad"),
        (lambda: grad(lambda x: 3.0)(1.0), "returned float, no Tensor: gradient lost"),
        (lambda: grad(np.sin, 1)(1.0), "argnums names argument 1, and the call has 1"),
        (lambda: grad(lambda x: np.array(x))(1.0), "requires a gradient"),
        (lambda: jvp(np.sin, [1.0], [1.0, 2.0]), "tangents: expected 1 arrays, and was given 2"),
        (lambda: jvp(np.sin, [X], [X[:2]]), r"tangents: array 0 has shape \(2,\); expected \(4,\)"),
        (lambda: vjp(np.sin, X)[1](np.ones((3, 1))), r"cotangent: array 0 has shape \(3, 1\)"),
        (lambda: jvp(np.sin, X, X), r"jvp: primals is of type ndarray; .* jvp\(f, \[x\], \[v\]\)"),
        (lambda: hvp(scalar, [X], X), "hvp: tangents is of type ndarray; expected a list"),
        (lambda: autograd.grad(np.sin, 1.0), "autograd.functional.grad"),
    ],
)
def test_errors(action, message):
    with pytest.raises((TypeError, ValueError), match=message):
        action()


# ---- checkpoint


def gradients(wrap, build):
    """The gradients of the same computation, with its inner function wrapped."""
    w = autograd.tensor(A, requires_grad=True)
    x = autograd.tensor(X, requires_grad=True)
    random = np.random.default_rng(3)
    y = build(wrap, w, x, random)
    first = autograd.grad((y * y).sum(), [w, x], create_graph=True)
    second = autograd.grad(sum((g * g).sum() for g in first), [w, x])
    return [y, *first, *second]


@pytest.mark.parametrize(
    "build",
    [
        lambda wrap, w, x, random: wrap(lambda x: np.tanh(w @ x))(x),  # w from a closure
        lambda wrap, w, x, random: wrap(lambda x, w: np.tanh(w @ x) * x[0])(x, w=w),
        lambda wrap, w, x, random: sum(wrap(lambda p: {"a": p[0] @ x, "b": [p[1]]})((w, x[:3]))
                                       ["b"]),
        lambda wrap, w, x, random: np.concatenate(wrap(lambda: np.split(w @ x * x[0], 3))()[:2]),
        lambda wrap, w, x, random: wrap(lambda y: wrap(lambda z: np.exp(z) * x)(y) + w)(w * w),
        lambda wrap, w, x, random: wrap(lambda: x * 3 * x)(),
        lambda wrap, w, x, random: (lambda v: wrap(lambda: v * x + x)())(x * x),  # v and x, both
        lambda wrap, w, x, random: wrap(
            lambda: autograd.nn.dropout(np.exp(x), 0.5, generator=random)
            + autograd.nn.dropout(x, 0.3, generator=random)
        )(),
        lambda wrap, w, x, random: wrap(
            lambda q: autograd.nn.scaled_dot_product_attention(q, q, q, dropout_p=0.4,
                                                               generator=random)
        )(w),
    ],
)  # fmt: skip
def test_checkpoint_changes_nothing(build):
    """Values, first and second derivatives, with parameters in closures and with dropout."""
    for plain, again, nested in zip(
        gradients(lambda f: f, build),
        gradients(checkpoint, build),
        gradients(lambda f: checkpoint(checkpoint(f)), build),
        strict=True,
    ):
        np.testing.assert_allclose(again.numpy(), plain.numpy(), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(nested.numpy(), plain.numpy(), rtol=1e-12, atol=1e-14)


def test_checkpoint_keeps_nothing_inside():
    """What the function computed on its way is gone as soon as it returns."""
    alive = []

    def f(x):
        y = np.exp(x)
        alive.append(weakref.ref(y.numpy().base if y.numpy().base is not None else y.numpy()))
        return np.sin(y) * y

    x = autograd.tensor(np.ones(1000), requires_grad=True)
    z = f(x)
    assert alive[-1]() is not None
    z = checkpoint(f)(x)
    assert alive[-1]() is None
    z.sum().backward()


def test_checkpoint_notices_another_result():
    x, factor = autograd.tensor(X, requires_grad=True), [1.0]
    y = checkpoint(lambda x: x * factor[0])(x)
    factor[0] = 2.0
    with pytest.raises(RuntimeError, match="checkpoint: the function gave another result"):
        y.sum().backward()
    y = checkpoint(lambda x: x * np.random.default_rng().random())(x)
    with pytest.raises(RuntimeError, match="checkpoint: the function gave another result"):
        y.sum().backward()


ZEROS = np.zeros((2, 3))


def written(array, value=2.0):
    array[...] = value


def on_a_leaf(write):
    """A change that leaves the result as it was: a zero times something else is zero."""
    w, other = (autograd.tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    return lambda x: x * w + (x @ np.ones((3, 3))) * other, lambda: write(w, other)


def on_arrays(make, write):
    array = make()
    return lambda x: x * array if array.shape == x.shape else x @ array, lambda: write(array)


def under_no_grad(w, other):
    with autograd.no_grad():
        w *= 2


def captured(value, changed):
    box = [value]
    return (lambda x: box[0](x) if callable(box[0]) else x * box[0],
            lambda: box.__setitem__(0, changed))  # fmt: skip


def equal_parameters(change):
    ws = [autograd.tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2)]
    return lambda x: np.tanh(x * ws[0]) + x * ws[1], lambda: change(ws)


CHANGES = {
    "no_grad": lambda: on_a_leaf(under_no_grad),
    "data": lambda: on_a_leaf(lambda w, _: written(w.data)),
    "one element": lambda: on_a_leaf(lambda w, _: w.data.__setitem__((1, 2), 1.5)),
    "data set": lambda: on_a_leaf(lambda w, _: setattr(w, "data", w.numpy() * 2)),
    "paused": lambda: on_a_leaf(lambda w, _: w.requires_grad_(False)),
    "array": lambda: on_arrays(lambda: np.ones((2, 3)), written),
    "matrix": lambda: on_arrays(lambda: np.ones((3, 3)), lambda a: a.__imul__(2)),
    "view": lambda: on_arrays(lambda: np.ones((4, 3))[::2], lambda a: written(a[1:])),
    "number": lambda: captured(1.5, 2.5),
    "nan": lambda: captured(1.5, np.nan),
    "integer": lambda: captured(1, 2),
    "option": lambda: captured(lambda x: x.sum(axis=0), lambda x: x.sum(axis=1, keepdims=True)),
    "function": lambda: captured(np.sin, np.tan),
    "branch": lambda: captured(np.sin, lambda x: np.sin(x) * 1.0),
    "precision": lambda: captured(lambda x: x * 0.1, lambda x: x.astype("f4").astype("f8") * 0.1),
    "dropout": lambda: captured(
        lambda x: autograd.nn.dropout(x, 0.5, False), lambda x: autograd.nn.dropout(x, 0.5, True)
    ),
    "another parameter": lambda: equal_parameters(
        lambda ws: ws.__setitem__(0, autograd.tensor(ws[0].numpy(), requires_grad=True))
    ),
    "parameters exchanged": lambda: equal_parameters(lambda ws: ws.reverse()),
    "its constant": lambda: equal_parameters(lambda ws: ws.__setitem__(0, ws[0].detach())),
}


@pytest.mark.parametrize("wrap", [lambda f: f, checkpoint], ids=["one", "nested"])
@pytest.mark.parametrize("change", CHANGES)
def test_checkpoint_notices_another_gradient(change, wrap):
    """The result is zero before and after; the gradient is not what it was."""
    function, act = CHANGES[change]()
    x = autograd.tensor(ZEROS, requires_grad=True)
    y = checkpoint(lambda x: wrap(function)(x) * 1.0)(x)
    z = checkpoint(lambda x: wrap(function)(x) * 1.0)(x)
    z.sum().backward()  # nothing was changed
    x.grad = None
    act()
    with pytest.raises(RuntimeError, match="checkpoint: .*another result when it ran again"):
        y.sum().backward()
    assert x.grad is None
    checkpoint(function)(x).sum().backward()  # all is well again


@pytest.mark.parametrize("size", [3, 30_000])
def test_checkpoint_and_its_arguments(size):
    """A batch that is filled anew belongs to the caller; what comes back in time is no change."""
    w = autograd.tensor(np.zeros(size), requires_grad=True)
    batch = np.ones(size)
    y = checkpoint(lambda batch: batch * w)(batch)
    batch[size // 2] = 3
    with pytest.raises(RuntimeError, match="the inputs of multiply, of shape .* are not what"):
        y.sum().backward()
    batch[size // 2] = 1
    y.sum().backward()
    assert (w.grad.numpy() == 1).all()


def test_checkpoint_in_the_debug_mode():
    """It notices what fingerprints miss: changes that cancel."""
    x = autograd.tensor(np.zeros(10 * 509), requires_grad=True)
    c = np.random.default_rng(0).standard_normal(10 * 509)
    with autograd.debug():
        y = checkpoint(lambda x: x * c)(x)
        c[[5, 5 + 509]] = c[[5 + 509, 5]]
        with pytest.raises(RuntimeError, match="checkpoint: "):
            y.sum().backward()


def test_checkpoint_takes_no_offence():
    """At changes that it does not read, at NaN, at new objects that are equal."""
    w = autograd.tensor(np.array([np.nan, -0.0]), requires_grad=True)
    unread = np.ones(3)

    @checkpoint
    def f(x):
        fresh = np.array([2.0, 3.0])
        inner = autograd.tensor([1.0, 1.0], requires_grad=True)
        return (x * fresh * inner)[[0, 1]], np.float64(3) * w, unread.sum()

    y, z, _ = f(w)
    unread[:] = 7
    (y[1] + z[1]).backward()
    assert w.grad.numpy()[1] == 6


def test_checkpoint_without_gradients():
    assert checkpoint(np.sin)(0.5) == np.sin(0.5)
    with autograd.no_grad():
        assert not checkpoint(np.sin)(autograd.tensor(0.5, requires_grad=True)).requires_grad


def test_a_recording_looks_inside_a_checkpoint():
    w = autograd.tensor([0.5, 1.0], requires_grad=True)
    with autograd.record() as recording:
        h = checkpoint(lambda y: np.tanh(y * w))(w * 2)
        loss = (h * h).sum()
    names = {}
    with np.printoptions():  # which the script sets
        exec(compile(autograd.to_source(loss), "script", "exec"), names)
    loss.backward()
    assert "tanh" in [call.op.name for call in recording.calls.values()]
    y = 2 * w.numpy() ** 2
    expected = 8 * w.numpy() * np.tanh(y) * (1 - np.tanh(y) ** 2)
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-14)
    np.testing.assert_allclose(names["gradients"]["w"], expected, rtol=1e-14)


def test_other_watchers_leave_a_checkpoint_alone():
    x = autograd.tensor(X, requires_grad=True)
    with autograd.detect_anomaly():
        assert checkpoint(np.sin)(x)._node.selects[0].op.name == "checkpoint"


# ---- containers of other classes, and what argnums may be


class Weights(dict):
    def __init__(self, a, b):
        super().__init__(a=a, b=b)
        self.note = "mine"


class Point(tuple):
    def __new__(cls, x, y):
        return super().__new__(cls, (x, y))


class Slotted(list):
    __slots__ = ("note",)

    def __init__(self, first, *, note):
        super().__init__([first])
        self.note = note


class Named(Pair):
    def __new__(cls, both):
        return super().__new__(cls, both, both)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    w: object
    n: int = 3


@dataclasses.dataclass(init=False)
class Built:
    w: object
    norm: object = dataclasses.field(init=False)

    def __init__(self, size):
        self.w, self.norm = np.ones(size), float(size)


@dataclasses.dataclass
class Checked:
    w: object
    scale: dataclasses.InitVar[float]

    def __post_init__(self, scale):
        self.w = float(self.w) * scale


class Noted(deque):
    note = "mine"


class Settings(UserDict):
    def __init__(self, **values):
        super().__init__(values)
        self.note = "mine"


def flat(tree):
    """The values in a container, whatever its class."""
    if isinstance(tree, dict | UserDict):
        return list(tree.values())
    if dataclasses.is_dataclass(tree):
        return [getattr(tree, field.name) for field in dataclasses.fields(tree)]
    return list(tree)


CONTAINERS = [
    defaultdict(list, a=2.0, b=None),
    OrderedDict(b=2.0, a=3.0),
    Counter(a=2.0),
    Weights(2.0, 3.0),
    Point(2.0, 3.0),
    Slotted(2.0, note="mine"),
    Named(2.0),
    Pair(2.0, None),
    Frozen(2.0),
    Built(2),
    Checked(2.0, 3.0),
    deque([2.0, None, 3.0], maxlen=5),
    Noted([2.0]),
    Settings(b=2.0, a=None),
    UserList([2.0, 3.0]),
    (2.0, None, "text", [3.0, None]),
]


@pytest.mark.parametrize("tree", CONTAINERS, ids=lambda tree: type(tree).__name__)
def test_containers_keep_their_class(tree):
    def square(tree):
        numbers = [x for x in flat(tree) if isinstance(x, autograd.Tensor)]
        assert numbers
        return sum((x * x).sum() for x in numbers)

    gradient = grad(square)(tree)
    assert type(gradient) is type(tree)
    for x, g in zip(flat(tree), flat(gradient), strict=True):
        if isinstance(x, float | np.ndarray):
            np.testing.assert_array_equal(g, 2 * x)
        elif not isinstance(x, list):
            assert g is None
    assert getattr(gradient, "note", None) == getattr(tree, "note", None)
    assert getattr(gradient, "default_factory", None) is getattr(tree, "default_factory", None)
    assert getattr(gradient, "maxlen", None) == getattr(tree, "maxlen", None)
    if isinstance(tree, dict | UserDict):
        assert list(gradient) == list(tree)
    same, pull_back = vjp(lambda tree: tree, tree)  # as a result, too
    assert type(same) is type(tree)
    assert all(map(np.array_equal, flat(same), flat(tree)))
    assert type(pull_back(gradient)[0]) is type(tree)


def loops():
    """Containers that contain themselves."""
    for loop in ([1.0], deque([1.0])):
        loop.append(loop)
        yield loop
    for loop in ({"w": 1.0}, UserDict(w=1.0)):
        loop["loop"] = {"inner": [loop]}
        yield loop
    built = Built(2)
    built.norm = (built,)
    yield built


@pytest.mark.parametrize("loop", list(loops()), ids=lambda loop: type(loop).__name__)
def test_a_container_that_contains_itself(loop):
    message = "contains itself, so that its numbers cannot be listed; expected"
    for action in (lambda: grad(lambda tree: 1.0)(loop), lambda: vjp(lambda x: [x, loop], 1.0)):
        with pytest.raises(ValueError, match=message):
            action()


def test_a_container_may_occur_twice():
    w = [2.0]
    gradient = grad(lambda tree: tree["a"][0] * tree["b"][0] ** 2)({"a": w, "b": w})
    assert gradient == {"a": [4.0], "b": [8.0]}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (MappingProxyType({"w": 1.0}), "value of type mappingproxy, which is not searched.*deques"),
        ([{1.0, 2.0}], "is or holds a value of type set"),
        (iter([1.0]), "value of type list_iterator"),
        ({"w": 3}, "holds no real floating-point number, but dict {'w': 3}; give floats"),
        (np.arange(3), "but ndarray array.*; give floats"),
        ("text", "but str 'text'; give floats"),
    ],
)
def test_arguments_without_numbers(argument, message):
    with pytest.raises(TypeError, match=f"gradient: argument 0 .*{message}"):
        grad(lambda x: x)(argument)


def three(x, y, z):
    return x * y**2 * z**3


@pytest.mark.parametrize("argnums", [-3, 0, np.int64(1), np.uint8(2), (0, -1), [2, 0], range(3)])
def test_argnums_name_arguments(argnums):
    expected = np.array([4 * 27, 2 * 27 * 2, 3 * 9 * 4])  # of 1, 2, 3
    found = grad(three, argnums)(1.0, 2.0, 3.0)
    one = isinstance(argnums, int | np.integer)
    assert isinstance(found, float if one else tuple)
    np.testing.assert_allclose(found, expected[argnums if one else list(argnums)], rtol=1e-14)


@pytest.mark.parametrize("transform", [grad, value_and_grad, elementwise_grad])
@pytest.mark.parametrize(
    ("argnums", "message"),
    [
        ((0, 0), "names an argument twice"),
        ((0, -3), "names an argument twice"),
        ([1, np.int64(-2)], "names an argument twice"),
        ((), "argnums is empty"),
        (3, "names argument 3, and the call has 3"),
        ((0, -4), "names argument -4, and the call has 3"),
        (True, "argnums is True; expected the number"),
        ((0, False), "argnums is False; expected the number"),
        (1.0, "argnums is 1.0; expected the number"),
        ("x", "argnums is 'x'; expected the number"),
        (None, "argnums is None; expected the number"),
        (((0,),), r"argnums is \(0,\); expected the number"),
    ],
)
def test_argnums_that_name_none(transform, argnums, message):
    with pytest.raises((TypeError, ValueError), match=message):
        transform(three, argnums)(1.0, 2.0, 3.0)


@pytest.mark.parametrize("transform", [jacobian, hessian])
def test_argnum_is_one(transform):
    assert transform(three, np.int64(-3))(1.0, 2.0, 3.0) == (108 if transform is jacobian else 0)
    for wrong in ((0,), [0, 1], True, 0.0):
        with pytest.raises(TypeError, match="argnum"):
            transform(three, wrong)

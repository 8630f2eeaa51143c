"""NumPy's functions on tensors, all of them: values, gradients, and what is refused."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd import Tensor, tensor
from autograd.dispatch import NUMPY, WRITERS, Question, import_rarely_used, name_of

import_rarely_used()  # NUMPY has all implementations from here on
RANDOM = np.random.default_rng(0)


def public_functions():
    """NumPy's functions that ask their arguments what to do, and its ufuncs."""
    modules = (np, np.linalg, np.fft, np.lib.scimath, np.lib.stride_tricks)
    found = {}
    for module in modules:
        for key in dir(module):
            function = getattr(module, key)
            if isinstance(function, np.ufunc) or hasattr(function, "_implementation"):
                found.setdefault(function)
    return [f for f in found if f not in WRITERS and "busday" not in f.__name__]


X, Y = RANDOM.uniform(0.1, 0.9, (2, 3, 4))
S, R = X[:, :3] + np.eye(3), Y[:, :3] + np.eye(3)
V, W, U = RANDOM.uniform(0.1, 0.9, (3, 4))
B = X > 0.5
I = np.array([2, 0, 1, 1])  # noqa: E741

# Calls that suit many functions; NumPy says which suit one.
CALLS = [
    ((X,), {}), ((V,), {}), ((S,), {}), ((X[0, 0],), {}), ((X, Y), {}), ((V, W), {}), ((S, R), {}),
    ((S, V[:3]), {}), ((X, V), {}), ((V, X.T), {}), ((V, 2), {}), ((X, 1), {}), ((X, 1, 0), {}),
    ((X, (1, 0)), {}), ((X, 0, 1), {}), ((2, V), {}), ((X, 0, -1), {}), ((X, -1), {}),
    ((X, (3, 3)), {}), ((X, (1, 3, 4)), {}), ((X, (4, 3)), {}), ((V, I), {}), ((I, V), {}),
    ((X, I[:3]), {}), ((X, I[None], 1), {}), ((V, I, W), {}), ((X, 0.5, 1), {}), ((V[0], W[0]), {}),
    (([X, Y],), {}), ((I, I + 1), {}), ((I[:2], (3, 4)), {}), ((B,), {}),
    ((np.stack([X, Y]), 2), {}), ((V, [V < 0.5, V >= 0.5], [1.0, 2.0]), {}), (([V, W],), {}),
    (((X, Y, X),), {}), (([S, R, S],), {}), (([V, W], 0), {}), ((B, X, Y), {}), ((B, X), {}),
    ((B, [X, Y]), {}), (([B, ~B], [X, Y]), {}), ((I % 2, [V, W]), {}), ((V, W, np.sort(X[1])), {}),
    ((V, np.sort(W), X[1]), {}), ((X, Y, 1 - X), {}), ((V, W, U), {}), (("ij,kj->ik", X, Y), {}),
    (("ij", X), {}), ((X, [0, 1], Y, [2, 1]), {}), ((1.5, X), {}),
    ((V, np.array([0.2, 0.5, 0.8])), {}), ((V, W, 1), {}), ((V, W, 0.1, 0.2), {}), ((V, 3), {}),
    ((V, [V < 0.5, V >= 0.5], [W, X[1]]), {}), ((np.sum, 0, X), {}), ((np.sum, X, 0), {}),
    ((I, ), {"weights": V}), ((V,), {"weights": W}), ((V, 3), {"weights": W}), ((X,), {"axis": 0}),
    ((V, 3), {"density": True}), ((V, np.linspace(0, 1, 4)), {"density": True}),
    ((V, np.linspace(0, 1, 4), None), {"weights": W}), ((X,), {"where": B}), ((X,), {"mean": Y}),
    ((X, 1), {"constant_values": 0.5}), ((X, 1), {"constant_values": ((V[0], W[0]),) * 2}),
    ((X, 1), {"mode": "edge"}), ((X,), {"prepend": X[:, :1]}), ((X,), {"a_min": Y, "a_max": 0.8}),
    ((X,), {"min": Y, "max": 0.8}), ((X,), {"initial": 3.0}), ((X,), {"ddof": 1}),
    ((X,), {"dtype": np.float32}), ((X,), {"nan": V[0]}), ((V,), {"to_end": W}),
    ((V, W), {"rtol": V}), ((X, W), {"shape": (2, 4)}), ((V, W), {"side": "right"}),
    ((V, W), {"rcond": None}), ((V[:2], W[:2], 2), {}), ((X,), {"keepdims": True}),
    ((X,), {"return_counts": True}), ((V,), {"fweights": I}), ((V[:3], W[:3]), {"aweights": V[:3]}),
    ((V,), {"dx": 0.5}), ((V,), {"x": np.sort(W)}), ((V, W), {"mode": "same"}),
]  # fmt: skip


# Any values; whether a new tensor shares memory; a scalar's text; an order that may be any; a
# function of the symmetric part here, and of one triangle in NumPy
NO_VALUES = {np.empty_like, np.shares_memory, np.may_share_memory, np.array_repr,
             np.unique_values, np.linalg.cholesky}  # fmt: skip


def floats(result, path=()):
    """Yield the floating-point parts of a result, and where they are."""
    if isinstance(result, tuple | list):
        for i, part in enumerate(result):
            yield from floats(part, (*path, i))
    elif isinstance(result, Tensor | np.ndarray | np.generic) and result.dtype.kind in "fc":
        yield path, result


def same(found, expected):
    if isinstance(expected, tuple | list):
        return len(found) == len(expected) and all(map(same, found, expected))
    found = found.numpy() if isinstance(found, Tensor) else found
    if isinstance(expected, np.ndarray | np.generic):
        if expected.dtype.kind in "fc":
            return np.shape(found) == expected.shape and np.allclose(
                found, expected, rtol=1e-10, atol=1e-13, equal_nan=True
            )
        return np.array_equal(found, expected)
    return type(found) is type(expected) and (found == expected or repr(found) == repr(expected))


def places(x, path=()):
    """Yield where in some arguments there are arrays or numbers that a gradient may flow to."""
    if isinstance(x, dict):
        x = list(x.items())
    if isinstance(x, tuple | list):
        for i, part in enumerate(x):
            yield from places(part, (*path, i))
    elif isinstance(x, np.ndarray | np.floating) and x.dtype.kind == "f":
        yield path


def put(x, path, change):
    """Return arguments with another value at one place."""
    if not path:
        return change(x)
    if isinstance(x, dict):
        return dict(put(list(x.items()), path, change))
    parts = [put(part, path[1:], change) if i == path[0] else part for i, part in enumerate(x)]
    return type(x)(parts)


def run(function, call):
    args, kwargs = own(call)
    with np.errstate(all="ignore"):
        return function(*args, **kwargs)


def own(x):
    """Copy arrays: some calls write to one."""
    if isinstance(x, tuple | list):
        return type(x)(map(own, x))
    if isinstance(x, dict):
        return {key: own(part) for key, part in x.items()}
    return x.copy() if isinstance(x, np.ndarray) else x


def suitable(function):
    for call in CALLS:
        if "where" in call[1] and isinstance(function, np.ufunc):
            continue  # the rest is any number
        try:
            yield call, run(function, call)
        except Exception:  # noqa: S112 (NumPy says which calls suit)
            continue


FUNCTIONS = public_functions()
IDS = [name_of(f) for f in FUNCTIONS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", FUNCTIONS, ids=IDS)
def test_no_gradient_is_lost(function, tmp_path, monkeypatch):
    """A tensor in any place: its gradient flows and is right, or cannot exist, or is refused."""
    monkeypatch.chdir(tmp_path)  # for np.save
    calls = list(suitable(function))
    has_numbers = any(part.size for _, result in calls for _, part in floats(result))
    for call, expected in calls:
        for place in places(call):
            check_place(function, call, place, expected, has_numbers)


def check_place(function, call, place, expected, has_numbers):
    direction = RANDOM.standard_normal

    def moved(x, step=1e-6):
        return np.asarray(x + step * np.cos(np.arange(x.size)).reshape(x.shape), x.dtype)[()]

    leaves = []

    def leaf(x):
        leaves.append(tensor(x, requires_grad=True))
        return leaves[-1]

    try:
        above = run(function, put(call, place, moved))
        below = run(function, put(call, place, lambda x: moved(x, -1e-6)))
    except Exception:
        return
    shapes = [[part.shape for _, part in floats(x)] for x in (above, expected, below)]
    if shapes[0] != shapes[1] or shapes[1] != shapes[2]:
        return  # some elements tie
    slopes = [
        (path, (np.asarray(a, float if np.asarray(a).dtype.kind != "c" else complex) - b) / 2e-6)
        for (path, a), (_, b) in zip(floats(above), floats(below), strict=True)
    ]
    if function in NO_VALUES:
        slopes = []
    try:
        found = run(function, put(call, place, leaf))
    except (TypeError, RuntimeError) as error:
        if function is not np.take:  # which takes no index that is no integer
            assert "gradient" in str(error) or "the tape" in str(error), error
        # NumPy asks neither what is in a list nor the arguments of options
        unasked = "behind the tape's back" in str(error) or "in place" in str(error)
        assert unasked or has_numbers, f"no number to differentiate: {error}"
        return
    if function not in NO_VALUES:
        assert same(found, expected), (found, expected)
    parts = dict(floats(found))
    total, slope = 0.0, 0.0
    for path, expected_slope in slopes:
        part = parts[path]
        if not (isinstance(part, Tensor) and part.requires_grad):
            assert not np.any(expected_slope), f"{call}, {place}: a gradient is lost"
            continue
        if part.dtype != float or not np.isfinite(expected_slope).all():
            continue
        weights = direction(part.shape)
        total = total + (part * weights).sum()
        slope += np.sum(expected_slope * weights)
    if isinstance(total, Tensor):
        gradient = autograd.grad(total, leaves[0]).numpy()
        change = np.sum(gradient * np.cos(np.arange(gradient.size)).reshape(gradient.shape))
        assert change == pytest.approx(slope, rel=1e-4, abs=1e-6)


# ---- what NumPy refuses is refused, and what NumPy takes is taken

SHAPES = [(), (0,), (1,), (3,), (4,), (1, 3), (3, 3), (3, 4), (2, 3, 3), (2, 0), (0, 3)]
STATIC = [None, 0, 1, -1, 2, 5, -7, True, (0, 1), (0, 0), (1, -1), [0], [0, 1], (), (3, -1), (2, 3),
          np.int64(1), np.array(1), np.array([1, 0]), ((0, 1), (1, 0)), ([1], [0])]  # fmt: skip
OPTIONS = [{}, {}, {"axis": 0}, {"axis": -2}, {"axis": 3}, {"axis": (0, 1)}, {"axis": (0, 0)},
           {"axis": None}, {"keepdims": True}, {"out": None}, {"dtype": None},
           {"dtype": np.float32}, {"ddof": 1}, {"ddof": "x"}, {"k": 1}, {"n": 2}, {"order": "F"},
           {"order": "Q"}, {"offset": 1}, {"mode": "wrap"}, {"ord": 1}, {"ord": 2}, {"ord": "nuc"},
           {"ord": "x"}, {"upper": True}, {"kind": "stable"}, {"initial": 2.0}, {"decimals": 1},
           {"min": 0.5}, {"where": True}, {"no such": 1}]  # fmt: skip
SUBSCRIPTS = ["ij,jk", "ij,jk->ik", "i,i->", "ii,i->i", "...i,i...", "ij,jk->il", "ij,jk,kl",
              "i,i->ii", "i,", "ii", "ij->ji", "...->...", "...i->i", "->", "i->j"]  # fmt: skip


@st.composite
def calls(draw):
    """Some call, right for few functions and wrong for most."""

    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))  # a draw can be repeated

    def array():
        shape = draw(st.sampled_from(SHAPES))
        return random.uniform(0.2, 0.8, shape) + (np.eye(3) if shape[-2:] == (3, 3) else 0)

    form = draw(st.sampled_from("A A AS AS ASS AB AB ABS L LS EA EAB".split()))
    args, group = [], [array() for _ in range(draw(st.integers(0, 3)))] if "L" in form else None
    for letter in form:
        choices = {"S": STATIC, "E": SUBSCRIPTS}.get(letter)
        args.append(draw(st.sampled_from(choices)) if choices else group if group else array())
    return tuple(args), dict(draw(st.sampled_from(OPTIONS)))


def outcome(function, call):
    try:
        return run(function, call), None
    except Exception as error:  # whatever it is: NumPy's errors have many types
        return None, error


OURS = [f for f, known in NUMPY.items() if not isinstance(known, Question) and f not in NO_VALUES]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", OURS, ids=name_of)
@given(call=calls())
def test_numpy_decides_what_a_call_may_be(function, call):
    """Tensors without a gradient are as good as arrays, and tensors with one do not hide errors."""
    if isinstance(call[0][0], str) and function is not np.einsum:
        return
    if function is np.fix or isinstance(function, np.ufunc):
        if len(call[0]) > getattr(function, "nin", 1) or {"where", "keepdims"} & call[1].keys():
            return  # the second is an array to write to, or what it holds is any number
    expected, wrong = outcome(function, call)
    for needs in (False, True):
        tensors = call
        for place in places(call):
            tensors = put(tensors, place, lambda x, needs=needs: tensor(x, requires_grad=needs))
        found, error = outcome(function, tensors)
        if wrong is not None:
            assert error is not None, f"{call}: NumPy raises {wrong!r}"
        elif error is not None:
            if function is np.take and "Cannot cast" in str(error):
                continue  # an index that is no integer
            if function is np.astype and "expected a dtype" in str(error):
                continue  # np.float64(1) is a dtype for NumPy, and a tensor is none
            assert needs and isinstance(error, TypeError) and "gradient" in str(error), error
        else:
            assert same(found, expected), (found, expected)
            parts = [x for _, x in floats(found) if isinstance(x, Tensor) and x.requires_grad]
            if parts:  # what the forward pass takes, the backward pass can differentiate
                autograd.grad(parts, list(tensors_of(tensors)), [np.ones(x.shape) for x in parts])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", [f for f in OURS if not isinstance(f, np.ufunc)], ids=name_of)
def test_numpys_defaults_may_be_given(function):
    """A call that gives all of NumPy's defaults by name is the call that gives none."""
    defaults = {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.default is not p.empty
    }
    calls = [(X,), (V,), (S,), ([X, Y],), (X, Y), (S, R), (X, 1), (V, I), (X, (4, 3)), (X, 0, 1)]
    for args in calls:
        expected, wrong = outcome(function, (args, {}))
        names = [p.name for p in inspect.signature(function).parameters.values()][len(args) :]
        given = {key: value for key, value in defaults.items() if key in names}
        if wrong is None and outcome(function, (args, given))[1] is None:
            leaves = put((args,), next(places((args,))), lambda x: tensor(x, requires_grad=True))
            found = function(*leaves[0], **given)
            assert same(found, expected)
            for _, part in floats(found):
                if isinstance(part, Tensor) and part.requires_grad:
                    part.backward(np.ones(part.shape), retain_graph=True)
            return


def test_ufuncs_take_their_defaults():
    x = tensor(X, requires_grad=True)
    usual = dict(out=None, where=True, casting="same_kind", order="K", dtype=None, subok=True)
    for found in (np.exp(x, **usual), np.exp(x, None), np.exp(x, out=(None,))):
        assert found.requires_grad and same(found, np.exp(X))
    for found in (
        np.add.reduce(x, 0, None, None, True),
        np.add.reduce(x, dtype=None, out=None, keepdims=True, initial=np._NoValue, where=True),
    ):
        assert found.requires_grad and same(found, np.add.reduce(X, keepdims=True))


# ---- what no rule covers

MASK = np.array([True, False, True])
KNOWN = np.array([1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda t, m, o: np.sum(t, dtype=np.float32), np.float32(7)),
        (lambda t, m, o: np.sum(t, where=m), 5),
        (lambda t, m, o: np.sum(t, None, None, o[0]), 7),
        (lambda t, m, o: t.sum(initial=3.0), 10),
        (lambda t, m, o: np.mean(t, where=MASK), 2.5),
        (lambda t, m, o: np.std(t, mean=t.mean(keepdims=True)), np.std(KNOWN)),
        (lambda t, m, o: np.cumsum(t, out=o), [1, 3, 7]),
        (lambda t, m, o: np.concatenate([t, t], out=None, dtype=np.float32), [1, 2, 4, 1, 2, 4]),
        (lambda t, m, o: np.pad(t, 1, mode="edge"), [1, 1, 2, 4, 4]),
        (lambda t, m, o: np.take(t, [5], mode="clip"), [4]),
        (lambda t, m, o: np.linalg.norm(t[:, None], "nuc"), np.linalg.norm(KNOWN)),
        (lambda t, m, o: np.reshape(t, (1, 3), order="A"), [[1, 2, 4]]),
        (lambda t, m, o: np.diff(t, prepend=0.0), [1, 1, 2]),
        (lambda t, m, o: np.add(np.ones(3), 1, where=m, out=np.zeros(3)), [2, 0, 2]),
        (lambda t, m, o: np.add(t, t, out=o, where=m), [2, 0, 8]),
        (lambda t, m, o: np.add(KNOWN, 1, o), [2, 3, 5]),
        (lambda t, m, o: np.multiply.accumulate(t), [1, 2, 8]),
        (lambda t, m, o: np.multiply.reduce(np.ones(3), where=m), 1),
        (lambda t, m, o: np.subtract.outer(KNOWN, t)[0], [0, -1, -3]),
        (lambda t, m, o: np.add.reduceat(t, np.array([0, 1])), [1, 6]),
        (lambda t, m, o: np.add.reduceat(KNOWN, tensor([0, 1])), [1, 6]),
        (lambda t, m, o: np.divmod(t, 2)[1], [1, 0, 0]),
        (lambda t, m, o: np.modf(t, out=(np.zeros(3), o))[1], [1, 2, 4]),
        (lambda t, m, o: np.repeat(np.arange(3), tensor([1, 0, 2])), [0, 2, 2]),
        (lambda t, m, o: np.take(KNOWN, tensor([2, 0])), [4, 1]),
        (lambda t, m, o: np.sum(np.ones((2, 3)), axis=tensor(0)), [2, 2, 2]),
        (lambda t, m, o: np.sum(t, axis=tensor(0)), 7),
        (lambda t, m, o: np.sum(np.ones((2, 3)), axis=(tensor(0), 1)), 6),
        (lambda t, m, o: np.reshape(t, (tensor(1), 3)), [[1, 2, 4]]),
        (lambda t, m, o: np.select([m, ~MASK], [t, -t]), [1, -2, 4]),
        (lambda t, m, o: np.block([[t], [2 * t]]), [[1, 2, 4], [2, 4, 8]]),
        (lambda t, m, o: np.median(t), 2),
        (lambda t, m, o: np.any(m, out=np.zeros((), bool)), True),
    ],
)
def test_tensors_without_a_gradient_are_arrays(call, expected):
    """In any argument of any function, with any options; and all of it under no_grad."""
    for needs in (False, True):
        with autograd.enable_grad() if not needs else autograd.no_grad():
            found = call(tensor(KNOWN, requires_grad=needs), tensor(MASK), tensor(np.zeros(3)))
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12)


def test_arrays_that_are_written_to():
    out, t = tensor(np.zeros(3)), tensor(KNOWN)
    assert np.add(t, 1, out=out) is out and out.tolist() == [2, 3, 5]
    assert np.sum(t, out=out[0]).item() == 7
    np.add.at(out, [0, 0], 1.0)
    np.copyto(out, KNOWN, where=MASK)
    np.put(out, 1, t[0])
    assert out.tolist() == [1, 1, 4]
    w = tensor(KNOWN, requires_grad=True)
    y = w * w
    for write in (
        lambda: np.copyto(w, 0),
        lambda: np.add(t, 1, out=w),
        lambda: np.add.at(w, 0, 1),
        lambda: np.copyto(out, w),
        lambda: np.equal(t, 1, out=w),
    ):
        with pytest.raises((TypeError, RuntimeError), match="np[.]|gradient"):
            write()
    assert w.tolist() == KNOWN.tolist()
    with autograd.no_grad():
        assert np.add(w, 1, out=w) is w and w.requires_grad
        with pytest.raises(RuntimeError, match="np.copyto would write to a tensor"):
            np.copyto(y, 0)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(np.ones(3))


def test_what_is_picked_and_counted_has_a_gradient():
    x = tensor([3.0, 1.0, 3.0, 2.0], requires_grad=True)
    values, counts = np.unique(x, return_counts=True)
    values.backward(np.array([1.0, 2.0, 4.0]))
    assert x.grad.tolist() == [4, 1, 0, 2] and counts.tolist() == [1, 1, 2]
    x.grad = None
    counts, edges = np.histogram(x, bins=2)
    assert counts.tolist() == [1, 3] and edges.tolist() == [1, 2, 3]
    edges[1].backward()  # half of either end, and two share the upper
    assert x.grad.tolist() == [0.25, 0.5, 0.25, 0]
    fill = tensor(2.0, requires_grad=True)
    np.full_like(x, fill).sum().backward()
    assert fill.grad.item() == 4


def tensors_of(x):
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple | list | dict):
        for part in x.values() if isinstance(x, dict) else x:
            yield from tensors_of(part)


# ---- functions that are composed of ops, of which NumPy checks the arguments


def test_a_composed_function_has_numpys_dtypes_and_errors():
    narrow = tensor(np.eye(4, dtype=np.float32).reshape(4, 2, 2) + 1, requires_grad=True)
    found = np.linalg.tensorsolve(narrow, np.ones(4))
    assert found.requires_grad and found.dtype == np.float64
    found.sum().backward()
    assert narrow.grad.dtype == np.float32
    with autograd.no_grad():
        assert isinstance(np.linalg.tensorinv(narrow, 1), Tensor)
    assert isinstance(np.linalg.tensorinv(narrow.detach(), ind=1), Tensor)
    with pytest.raises(ValueError, match="Invalid ind argument"):
        np.linalg.tensorinv(narrow, 0)
    with pytest.raises(np.linalg.LinAlgError, match="must be square"):
        np.linalg.tensorinv(narrow, 2)
    with pytest.raises(TypeError, match="ind, and was given a tensor there that requires"):
        np.linalg.tensorinv(narrow, ind=narrow)

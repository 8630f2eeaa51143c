"""NumPy's functions on tensors, all of them: values, gradients, and what is refused."""

import numpy as np
import pytest

import autograd
from autograd import Tensor, tensor
from autograd.dispatch import WRITERS, name_of

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

"""NumPy's less common functions that move elements: delete, insert, block, select, meshgrid, ...

Most of them need no derivative of their own. :func:`moves` runs NumPy's function on numbers that
say where each element stands, and picks these elements from the tensor: for ``np.delete(x, 1)`` of
x = [5, 6, 7], NumPy makes [0, 2] of the numbers [0, 1, 2], and x[[0, 2]] is [5, 7].
"""

import inspect

import numpy as np

from autograd.dispatch import plain, rebuilt
from autograd.op import implements
from autograd.ops.composing import array_of, composes
from autograd.ops.index import getitem, take_along_axis


def moves(function, *inputs, asks=()):
    """Declare that a function of NumPy moves the elements of these inputs, and computes nothing."""
    signature = inspect.signature(function)
    parameters = signature.parameters
    known = []  # all but `out` and the like; what comes after these can be given by name alone
    for i, p in enumerate(parameters.values()):
        if p.name not in ("out", "subok", "writeable"):
            anywhere = p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            kind = p.POSITIONAL_OR_KEYWORD if len(known) == i else p.KEYWORD_ONLY
            known.append(p.replace(kind=kind) if anywhere else p)

    def run(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        sources, count = [], 0

        def numbered(x):
            """Return the numbers of the elements of an input, which are appended to `sources`."""
            nonlocal count
            if isinstance(x, tuple | list):
                return rebuilt(x, [numbered(part) for part in x])
            x = array_of(x)
            sources.append(np.reshape(x, -1))
            count += x.size
            return np.arange(count - x.size, count).reshape(x.shape)

        for name in inputs:
            given = bound.arguments.get(name, parameters[name].default)
            bound.arguments[name] = numbered(given)
        places = function(*bound.args, **bound.kwargs)
        return picked(np.concatenate(sources) if len(sources) > 1 else sources[0], places)

    run.__signature__ = signature.replace(parameters=known)
    composes(function, inputs=inputs, asks=asks)(run)


def picked(source, places):
    """Return the elements at some places, in the form of these."""
    if isinstance(places, tuple | list):
        return rebuilt(places, [picked(source, part) for part in places])
    if source.size == 0 and places.size:
        return None  # NumPy's result, which has no gradient: np.resize([], 2) is [0, 0]
    return getitem(source, places)


moves(np.delete, "arr")
moves(np.insert, "arr", "values")
moves(np.block, "arrays")
moves(np.select, "choicelist", "default", asks=("condlist",))
moves(np.choose, "choices", asks=("a",))
moves(np.compress, "a", asks=("condition",))
moves(np.extract, "arr", asks=("condition",))
moves(np.meshgrid, "xi")
moves(np.resize, "a")
moves(np.rollaxis, "a")
moves(np.fft.fftshift, "x")
moves(np.fft.ifftshift, "x")
moves(np.lib.stride_tricks.sliding_window_view, "x")
if hasattr(np, "unstack"):  # since NumPy 2.1
    moves(np.unstack, "x")


composes(np.diagflat)(lambda v, k=0: np.diag(np.ravel(array_of(v)), k))


@composes(np.partition)
def _(a, kth, axis=-1, kind="introselect"):
    if axis is None:
        a, axis = np.reshape(a, -1), -1
    # np.argpartition may order the elements between the `kth` in another way, so that the places
    # come from NumPy's result: its smallest element is the first of the sorted ones, and so on
    result = np.partition(plain(a), kth, axis, kind)
    order = np.argsort(a, axis, kind="stable")
    ranks = np.argsort(np.argsort(result, axis, kind="stable"), axis)
    return take_along_axis(a, np.take_along_axis(order, ranks, axis), axis)


@implements(np.piecewise, inputs=("x", "condlist", "funclist"))
def _(x, condlist, funclist, *args, **kw):
    x, condlist = array_of(x), plain(condlist)
    if np.isscalar(condlist) or (not isinstance(condlist[0], list | np.ndarray) and x.ndim):
        condlist = [condlist]
    conditions = list(np.asarray(condlist, bool))
    if len(conditions) == len(funclist) - 1:
        conditions.append(~np.any(conditions, axis=0))
    if len(conditions) != len(funclist):
        raise ValueError(
            f"piecewise: {len(conditions)} conditions and {len(funclist)} functions; expected as "
            "many functions as conditions, or one more"
        )
    # The results of all functions stand in one row, after a 0 for where no condition holds;
    # `places` says where each element of the result is found there. The last function wins.
    # Parts of no elements make the result a tensor, also where x and constants are not used.
    places, sources, count = np.zeros(x.shape, int), [np.zeros(1, x.dtype), np.ravel(x)[:0]], 1
    for condition, function in zip(conditions, funclist, strict=True):
        shape, n = places[condition].shape, places[condition].size
        if n:
            value = function(x[condition], *args, **kw) if callable(function) else function
            value = np.broadcast_to(array_of(value), shape).astype(x.dtype)
            sources.append(np.ravel(value))
            places[condition] = np.arange(count, count + n).reshape(shape)
            count += n
        elif not callable(function):
            sources.append(np.ravel(array_of(function))[:0].astype(x.dtype))
    return getitem(np.concatenate(sources), places)

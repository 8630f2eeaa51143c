"""In-place writes: noticing that an array which a rule will read was written to meanwhile.

A backward pass needs the values of the forward pass. If a residual was changed in between, the
gradient would be wrong without a word, so the pass raises instead. There are two ways to notice:

- Some residuals can be written to by code outside the engine: a large constant, or a leaf whose
  array was given out by ``.data``. Such a residual is *watched*: its :class:`Fingerprint` is taken
  when the tape keeps the array, and again before a rule reads it.
- An in-place write to a tensor (``w += 1``, ``w[0] = 2``) and giving out an array (``w.data``) are
  *logged*, with their time. The time is the number that the next node would get. A node that is
  older than a write to one of its residuals is stale.

Neither costs anything where nobody writes: most residuals are results, which are read-only, or
small constants, which are copied.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.forks import in_child

if TYPE_CHECKING:
    from autograd.engine import Node


class Fingerprint(NamedTuple):
    """A short summary of an array's contents, by which a change is noticed.

    The array is read as words of 8 bytes, and the words 0, 509, 1018, ... are summed, then the
    words 1, 510, 1019, ..., and so on: 509 sums. The bytes at the end that fill no row of 509 words
    are kept as they are. A change stays unnoticed if it leaves all sums as they were: if elements a
    multiple of 509 words apart are exchanged, for example. 509 is a prime, so that a matrix's rows
    are rarely that far apart.
    """

    sums: bytes
    rest: bytes

    @classmethod
    def of(cls, x: ndarray) -> Fingerprint:
        """Take an array's fingerprint: one pass over it."""
        flat = np.ascontiguousarray(x.T if x.flags.f_contiguous else x).reshape(-1).view(np.uint8)
        whole = flat.size // (8 * 509) * (8 * 509)
        words = flat[:whole].view(np.uint64).reshape(-1, 509)
        return cls(np.add.reduce(words, axis=0).tobytes(), flat[whole:].tobytes())


class Copy(NamedTuple):
    """All of an array's contents, in the place of a fingerprint; for the debug mode."""

    contents: bytes

    @classmethod
    def of(cls, x: ndarray) -> Copy:
        """Copy an array's contents."""
        return cls(x.tobytes())


class _Entry(NamedTuple):
    array: weakref.ref
    written: int  # the time of the last write that is certain
    shared: int  # when it was last given out
    before: Fingerprint | None  # of the array when it was given out; None after a certain write


_log: dict[int, _Entry] = {}  # by the id of the array
_lock = RLock()  # one thread at a time adds to the log, so that times ascend
last_entry = 0  # the time of the newest entry; only nodes older than this look the log up


@in_child
def _renew_lock() -> None:
    global _lock
    _lock = RLock()


def log_write(data: ndarray, clock: Callable[[], int]) -> None:
    """Log an in-place write to an array: nodes that need its old values are stale now."""
    with _lock:
        now = clock()
        _enter(data, now, now, None)


def log_shared(data: ndarray, clock: Callable[[], int]) -> None:
    """Log that an array was given to code outside the engine, which may write to it from now on."""
    with _lock:
        entry, looks = _entry(data), Fingerprint.of(data)
        written = 0
        if entry is not None:
            changed = entry.before is not None and entry.before != looks  # since the last time
            written = entry.shared if changed else entry.written
        _enter(data, written, clock(), looks)


def _entry(x: ndarray) -> _Entry | None:
    root = _root(x)
    entry = _log.get(id(root))
    return entry if entry is not None and entry.array() is root else None


def _enter(data: ndarray, written: int, shared: int, before: Fingerprint | None) -> None:
    global last_entry
    last_entry = shared
    root = _root(data)
    forget = functools.partial(lambda key, _: _log.pop(key, None), id(root))
    _log[id(root)] = _Entry(weakref.ref(root, forget), written, shared, before)


def _root(x: ndarray) -> ndarray:
    """Return the array that owns the memory of a view."""
    while isinstance(x.base, ndarray):
        x = x.base
    return x


def guarded(x: ndarray, values: list[ndarray]) -> ndarray:
    """Return an array; read-only if it is a view of one of some values."""
    root = _root(x)
    if any(root is _root(value) for value in values):
        x = x.view()
        x.flags.writeable = False
    return x


def has_other_owner(x: Any) -> bool:
    """Return whether anything but the tensor refers to its array, or to a view of it."""
    return (x._array.base is not None and not _is_trusted(x._array)) or _references(x) > _ALONE


def trust(view: ndarray) -> None:
    """Say that no code writes to the memory of a view between a forward and a backward pass.

    The view may be given to a tensor, which then counts as the only owner of the view. So its array
    is not watched: a fingerprint of all parameters at each step takes a tenth of a small step.
    Processes that share the memory of their parameters write to it between two steps only.
    """
    _trusted[id(view)] = weakref.ref(view, functools.partial(_forget, id(view)))


_trusted: dict[int, weakref.ref] = {}


def _forget(key: int, _: weakref.ref) -> None:
    _trusted.pop(key, None)


def _is_trusted(view: ndarray) -> bool:
    found = _trusted.get(id(view))
    return found is not None and found() is view


def is_alone(arrays: Any, key: int) -> bool:
    """Return whether nothing refers to an array but the list or dictionary that holds it.

    The array may be a view, if nothing else refers to the array whose memory it shows.
    """
    if arrays[key].base is not None and (
        type(arrays[key].base) is not ndarray
        or arrays[key].base.base is not None
        or sys.getrefcount(arrays[key].base) > _ALONE_BASE
    ):
        return False
    return sys.getrefcount(arrays[key]) <= _ALONE_INSIDE


def _references(x: Any) -> int:
    return sys.getrefcount(x._array)


class _Probe:
    """The only owner of an array: versions of Python count the references differently."""

    def __init__(self) -> None:
        self._array = np.empty(0)


_probe = _Probe()
_ALONE = _references(_probe)
_inside = [np.empty((2, 1)).T]
_ALONE_INSIDE = sys.getrefcount(_inside[0])
_ALONE_BASE = sys.getrefcount(_inside[0].base)


def check_unchanged(node: Node, steps: tuple) -> None:
    """Raise RuntimeError if a residual of a node was written to after the tape kept it."""
    for name, value, before in node.watched:
        if type(before).of(value) != before:
            _fail(node, name, value)
    for rule, residuals, _ in steps if last_entry > node.number else ():
        for name, value in zip(rule.residuals, residuals, strict=True):
            for array in value if isinstance(value, tuple) else (value,):
                entry = _entry(array) if isinstance(array, ndarray) else None
                if entry is not None and (
                    node.number < entry.written
                    or node.number < entry.shared
                    and entry.before is not None
                    and Fingerprint.of(_root(array)) != entry.before
                ):
                    _fail(node, name, array)


def _fail(node: Node, name: str, array: ndarray) -> None:
    raise RuntimeError(
        f"{node.op.name}: {name!r}, of shape {array.shape}, was changed in place after the "  # type: ignore[union-attr]
        "forward pass, and a gradient needs its old values; change it after backward"
    )

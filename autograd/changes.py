"""Changes in place: noticing that an array which a rule will read is no longer what it was.

Results are read-only, and small constants are copied when a rule keeps them. For the rest there
are two means, both free where they are not needed. What others can write to (a large constant; a
leaf's array that its ``.data`` handed out and somebody still holds) is *watched*: fingerprinted
when a rule keeps it, and again before the rule reads it. Writes through tensors, and arrays that a
``.data`` hands out, are *logged* with the time, so that what was kept before is known to be stale,
or can be compared with what it looked like.
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

if TYPE_CHECKING:
    from autograd.engine import Node


class Fingerprint(NamedTuple):
    """A cheap witness of an array's contents: the sums of every 509th word, and the last bytes.

    It misses an exchange of elements that are a multiple of 509 words apart (a prime, so that rows
    are not), and changes that cancel in such a sum.
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
    """A complete witness, for the debug mode."""

    contents: bytes

    @classmethod
    def of(cls, x: ndarray) -> Copy:
        """Copy an array's contents."""
        return cls(x.tobytes())


class _Entry(NamedTuple):
    array: weakref.ref
    written: int  # when it was last changed for certain
    lent: int  # when it was last handed out
    before: Fingerprint | None  # what it looked like then, if not changed for certain since


_log: dict[int, _Entry] = {}  # by the array's id
_lock = RLock()  # of the log: one entry at a time, in the order of their times
last_entry = 0  # when: nodes older than this look the log up


def log_write(data: ndarray, clock: Callable[[], int]) -> None:
    """Note that an array was changed: results that need its old values are stale."""
    with _lock:
        now = clock()
        _enter(data, now, now, None)


def log_loan(data: ndarray, clock: Callable[[], int]) -> None:
    """Note that an array was handed out, and may be changed from now on."""
    with _lock:
        entry, looks = _entry(data), Fingerprint.of(data)
        written = 0
        if entry is not None:
            changed = entry.before is not None and entry.before != looks  # since the last loan
            written = entry.lent if changed else entry.written
        _enter(data, written, clock(), looks)


def _entry(x: ndarray) -> _Entry | None:
    root = _root(x)
    entry = _log.get(id(root))
    return entry if entry is not None and entry.array() is root else None


def _enter(data: ndarray, written: int, lent: int, before: Fingerprint | None) -> None:
    global last_entry
    last_entry = lent
    root = _root(data)
    forget = functools.partial(lambda key, _: _log.pop(key, None), id(root))
    _log[id(root)] = _Entry(weakref.ref(root, forget), written, lent, before)


def _root(x: ndarray) -> ndarray:
    """Return the array whose memory a view shows."""
    while isinstance(x.base, ndarray):
        x = x.base
    return x


def guarded(x: ndarray, values: list[ndarray]) -> ndarray:
    """Return an array, read-only if it shows the memory of one of some values."""
    root = _root(x)
    if any(root is _root(value) for value in values):
        x = x.view()
        x.flags.writeable = False
    return x


def is_held(x: Any) -> bool:
    """Return whether anybody but its tensor may hold a tensor's array, or a view of it."""
    return x._array.base is not None or _references(x) > _ALONE


def _references(x: Any) -> int:
    return sys.getrefcount(x._array)


class _Probe:
    """What holds an array alone: how that counts differs between versions of Python."""

    def __init__(self) -> None:
        self._array = np.empty(0)


_probe = _Probe()
_ALONE = _references(_probe)


def check_unchanged(node: Node, steps: tuple) -> None:
    """Raise if an array that a node's rules will read was changed after they kept it."""
    for name, value, before in node.watched:
        if type(before).of(value) != before:
            _fail(node, name, value)
    for rule, residuals, _ in steps if last_entry > node.number else ():
        for name, value in zip(rule.residuals, residuals, strict=True):
            for array in value if isinstance(value, tuple) else (value,):
                entry = _entry(array) if isinstance(array, ndarray) else None
                if entry is not None and (
                    node.number < entry.written
                    or node.number < entry.lent
                    and entry.before is not None
                    and Fingerprint.of(_root(array)) != entry.before
                ):
                    _fail(node, name, array)


def _fail(node: Node, name: str, array: ndarray) -> None:
    raise RuntimeError(
        f"{node.op.name}: {name!r}, of shape {array.shape}, was changed in place after the "  # type: ignore[union-attr]
        "forward pass, and a gradient needs its old values; change it after backward"
    )

"""Checks of single arguments, with which ops refuse wrong ones before they compute anything.

An op that has a kernel makes a function of them, ``@kernel(..., check=...)``; any other op calls
them in its first lines. A message names the op and the argument, what was given, and what was
expected.
"""

import numpy as np


def check_axis(name, axis, ndim, key="dim"):
    """Raise unless `axis` is the number of one axis; an array without axes counts as having one."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"{name}: {key} is {axis!r}; expected the number of an axis")
    ndim = max(ndim, 1)
    if not -ndim <= axis < ndim:
        raise np.exceptions.AxisError(axis, ndim, f"{name}: {key}")


def check_number(name, key, value):
    """Raise ``TypeError`` unless a value is a real number."""
    if type(value) not in (float, int):
        if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "fiub":
            raise TypeError(f"{name}: {key} is {value!r}; expected a number")


def check_floats(name, **arrays):
    """Raise ``TypeError`` unless arrays hold floating-point numbers; results have their dtype."""
    for key, x in arrays.items():
        if x.dtype.kind != "f":
            raise TypeError(
                f"{name}: {key} has dtype {x.dtype}; expected floating-point numbers, as of "
                ".astype(float)"
            )


def check_eps(name, eps):
    """Raise unless `eps`, which is added to a variance, is a number of 0 or more."""
    check_number(name, "eps", eps)
    if not eps >= 0:
        raise ValueError(f"{name}: eps is {eps}; expected 0 or more")


def check_count(name, key, value, least):
    """Raise unless a value is an integer of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: {key} is {value!r}; expected an integer")
    if value < least:
        raise ValueError(f"{name}: {key} is {value}; expected {least} or more")


def check_probability(name, key, value):
    """Raise unless a value is at least 0 and less than 1."""
    check_number(name, key, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}: {key} is {value}, and must be at least 0 and less than 1")

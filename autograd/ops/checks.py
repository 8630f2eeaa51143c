"""What static arguments may be: ops refuse others before they compute anything."""

import numpy as np
from numpy.lib.array_utils import normalize_axis_index


def check_axis(name, dim, ndim):
    """Raise unless `dim` is the number of one axis; a number of no axes counts as one of one."""
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer):
        raise TypeError(f"{name}: dim is {dim!r}; expected the number of an axis")
    normalize_axis_index(dim, max(ndim, 1), f"{name}: dim")


def check_number(name, key, value):
    """Raise ``TypeError`` unless a value is a real number."""
    if type(value) not in (float, int):
        if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "fiub":
            raise TypeError(f"{name}: {key} is {value!r}; expected a number")


def check_count(name, key, value, least):
    """Raise unless a value is an integer that is not too small."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: {key} is {value!r}; expected an integer")
    if value < least:
        raise ValueError(f"{name}: {key} is {value}; expected {least} or more")


def check_probability(name, key, value):
    """Raise unless a value is at least 0 and less than 1."""
    check_number(name, key, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}: {key} is {value}, and must be at least 0 and less than 1")

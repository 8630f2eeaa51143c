"""Pooling over one axis or two: the largest element, or the mean, of each window.

``max_pool`` finds where the largest elements stand, and picks them; ``avg_pool`` sums windows.
"""

import math
from functools import partial

import numpy as np

from autograd.dispatch import plain
from autograd.modes import answered
from autograd.ops.checks import check_count
from autograd.ops.convolution import numbers, places_of, sliding_windows
from autograd.ops.index import as_array, getitem
from autograd.precision import in_single


def max_pool1d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    """Return the largest element of each window on the last axis, as PyTorch's function.

    Parameters
    ----------
    input : Tensor or ndarray, (N, C, L) or (C, L)
    kernel_size : int
        How many elements a window has.
    stride : int, optional
        How far apart the windows are: as far as the kernel is long, if not given.
    padding : int
        How many places to add on either side, which no window chooses: at most half of the kernel.
    dilation : int
        How far apart the elements of a window are.
    ceil_mode : bool
        Whether a last window may reach over the end of the padded input.
    return_indices : bool
        Whether to return the places of the largest elements, too.

    Returns
    -------
    values : Tensor or ndarray, (N, C, L_out) or (C, L_out)
        With L_out = (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1; with
        `ceil_mode` the quotient is rounded up, but no window begins in the padding at the end. Of
        elements that tie, the first gets the gradient.
    indices : ndarray of int
        With `return_indices`: counted from 0, of the shape of the values.

    Raises
    ------
    ValueError
        If the input has other axes, a window has no place, or the padding is too large.

    Examples
    --------
    >>> import autograd
    >>> x = autograd.tensor([[1.0, 3.0, 2.0, 0.0]])
    >>> values, indices = autograd.nn.max_pool1d(x, 2, return_indices=True)
    >>> values, indices.tolist()
    (tensor([[3., 2.]]), [[1, 2]])
    """
    options = (stride, padding, dilation, ceil_mode)
    return max_pool("max_pool1d", 1, input, kernel_size, options, return_indices)


def max_pool2d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    """Return the largest element of each window on the last two axes, as PyTorch's function.

    Parameters
    ----------
    input : Tensor or ndarray, (N, C, H, W) or (C, H, W)
    kernel_size, stride, padding, dilation : int or (int, int)
        As in `max_pool1d`, for height and width.
    ceil_mode, return_indices : bool
        As in `max_pool1d`.

    Returns
    -------
    values : Tensor or ndarray, (N, C, H_out, W_out) or (C, H_out, W_out)
        Of elements that tie, the first gets the gradient: rows are read from left to right.
    indices : ndarray of int
        With `return_indices`: place (i, j) has the number i W + j.

    Raises
    ------
    ValueError
        If the input has other axes, a window has no place, or the padding is too large.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> autograd.nn.max_pool2d(np.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[5.0, 7.0], [13.0, 15.0]]]
    """
    options = (stride, padding, dilation, ceil_mode)
    return max_pool("max_pool2d", 2, input, kernel_size, options, return_indices)


def avg_pool1d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Return the mean of each window on the last axis, as PyTorch's function.

    Parameters
    ----------
    input : Tensor or ndarray, (N, C, L) or (C, L)
    kernel_size, stride, padding, ceil_mode
        As in `max_pool1d`; the padding consists of zeros.
    count_include_pad : bool
        Whether the mean counts these zeros. Places beyond them, of `ceil_mode`, never count.

    Returns
    -------
    Tensor or ndarray, (N, C, L_out) or (C, L_out)

    Raises
    ------
    ValueError
        If the input has other axes, a window has no place, or the padding is too large.

    Examples
    --------
    >>> import autograd
    >>> autograd.nn.avg_pool1d(autograd.tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[2., 1.]])
    """
    options = (stride, padding, 1, ceil_mode)
    return avg_pool("avg_pool1d", 1, input, kernel_size, options, count_include_pad, None)


def avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    """Return the mean of each window on the last two axes, as PyTorch's function.

    Parameters
    ----------
    input : Tensor or ndarray, (N, C, H, W) or (C, H, W)
    kernel_size, stride, padding : int or (int, int)
        As in `avg_pool1d`, for height and width.
    ceil_mode, count_include_pad : bool
        As in `avg_pool1d`.
    divisor_override : int, optional
        What to divide the sums by, in the place of the number of elements.

    Returns
    -------
    Tensor or ndarray, (N, C, H_out, W_out) or (C, H_out, W_out)

    Raises
    ------
    ValueError
        If the input has other axes, a window has no place, the padding is too large, or the divisor
        is 0.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> autograd.nn.avg_pool2d(np.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    options = (stride, padding, 1, ceil_mode)
    return avg_pool(
        "avg_pool2d", 2, input, kernel_size, options, count_include_pad, divisor_override
    )


class Windows:
    """Where the windows of a pooling stand; each attribute has a number for each of the axes.

    Attributes
    ----------
    sizes, strides, padding, dilations : tuple of int
    counts : list of int
        How many windows there are.
    widths : list of (int, int)
        How many places to add before and behind the input, so that all windows fit: behind it more
        than `padding`, if the last window reaches over the end.
    """

    def __init__(self, name, n_axes, shape, kernel_size, options):
        stride, padding, dilation, self.ceil_mode = options
        self.lengths = shape[-n_axes:]
        self.sizes = numbers(name, "kernel_size", kernel_size, n_axes)
        empty = isinstance(stride, tuple | list) and not stride
        given = self.sizes if stride is None or empty else stride
        self.strides = numbers(name, "stride", given, n_axes)
        self.padding = numbers(name, "padding", padding, n_axes, 0)
        self.dilations = numbers(name, "dilation", dilation, n_axes)
        axes = "L" if n_axes == 1 else "H, W"
        if len(shape) - n_axes not in (1, 2):
            raise ValueError(
                f"{name}: input has shape {tuple(shape)}; expected (N, C, {axes}) or (C, {axes})"
            )
        self.counts, self.widths = [], []
        for length, size, step, around, apart in zip(
            self.lengths, self.sizes, self.strides, self.padding, self.dilations, strict=True
        ):
            span = apart * (size - 1) + 1
            if around > span // 2:
                raise ValueError(
                    f"{name}: padding is {around}; expected at most half of the kernel, which "
                    f"reaches over {span}"
                )
            room = length + 2 * around - span
            n = (room + (step - 1 if self.ceil_mode else 0)) // step + 1
            if self.ceil_mode and (n - 1) * step >= length + around:
                n -= 1  # the last window would begin behind the input
            if n < 1:
                raise ValueError(
                    f"{name}: the kernel reaches over {span} elements, and the padded input has "
                    f"{length + 2 * around}"
                )
            self.counts.append(n)
            self.widths.append((around, around + max(0, (n - 1) * step - room)))

    def pad(self, x, value):
        """Return the input with a value in the places around it."""
        if not any(map(any, self.widths)):
            return x
        widths = [(0, 0)] * (np.ndim(x) - len(self.widths)) + self.widths
        return np.pad(x, widths, constant_values=value)

    def numbers_of_elements(self, count_include_pad):
        """Return how many elements the mean of each window counts: an array of shape `counts`."""
        found = np.ones((), int)
        for n, length, size, step, around in zip(
            self.counts, self.lengths, self.sizes, self.strides, self.padding, strict=True
        ):
            begin = np.arange(n) * step - around
            end = np.minimum(begin + size, length + around)
            if not count_include_pad:
                begin, end = np.maximum(begin, 0), np.minimum(end, length)
            found = np.multiply.outer(found, end - begin)
        return found


def max_pool(name, n_axes, input, kernel_size, options, return_indices):
    """Return `max_pool1d` or `max_pool2d` of its arguments."""
    input = as_array(input)
    windows = Windows(name, n_axes, np.shape(input), kernel_size, options)
    if input.dtype.kind not in "fiu":
        raise TypeError(f"{name}: input has dtype {input.dtype}; expected numbers")
    where = partial(places_of_largest, name, windows=windows)
    indices = where(plain(input))
    answered(where, (input,), {}, indices)
    # An index into the flat input: each plane of H x W elements begins behind the one before it.
    lead, n = input.shape[:-n_axes], math.prod(windows.lengths)
    first = n * np.arange(math.prod(lead)).reshape(*lead, *[1] * n_axes)
    values = getitem(np.reshape(input, -1), first + indices)
    return (values, indices) if return_indices else values


def places_of_largest(name, x, windows):
    """Return where in its plane the largest element of each window stands; NaN is the largest.

    A turn of the loop compares one element of every window, such as the upper left, with the
    largest so far. So for kernels of 3 x 3 there are nine turns, for any number of windows.
    """
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = windows.pad(x, lowest)
    places = windows.pad(np.arange(math.prod(windows.lengths)).reshape(windows.lengths), -1)
    steps = (windows.counts, windows.strides, windows.dilations)
    largest = indices = None
    for at in np.ndindex(*windows.sizes):
        picked = places_of(at, *steps)
        part, place = padded[(..., *picked)], places[picked]
        if indices is None:
            largest, indices = part.copy(), np.broadcast_to(place, part.shape).copy()
            continue
        better = part > largest
        better |= part != part
        if any(windows.padding):
            better |= indices < 0  # so far there was padding alone
        np.copyto(largest, part, where=better)
        np.copyto(indices, place, where=better)
    if indices.size and indices.min() < 0:
        raise ValueError(f"{name}: a window lies in the padding alone; expected a smaller dilation")
    return indices


def avg_pool(name, n_axes, input, kernel_size, options, count_include_pad, divisor_override):
    """Return `avg_pool1d` or `avg_pool2d` of its arguments."""
    input = as_array(input)
    windows = Windows(name, n_axes, np.shape(input), kernel_size, options)
    if divisor_override is not None:
        check_count(name, "divisor_override", divisor_override, -math.inf)
        if divisor_override == 0:
            raise ValueError(f"{name}: divisor_override is 0")
    x = windows.pad(in_single(input), 0)
    if n_axes == 1:
        parts = sliding_windows(x, windows.sizes[0], windows.strides[0])
    else:
        parts = sliding_windows(x, windows.sizes, windows.strides)
    total = np.sum(parts, axis=tuple(range(-2 * n_axes, -n_axes)))
    divisor = divisor_override
    if divisor is None:
        divisor = windows.numbers_of_elements(count_include_pad)
        least, most = divisor.min(), divisor.max()
        divisor = int(most) if least == most else divisor.astype(total.dtype)
    out = total / divisor
    return out if out.dtype == input.dtype or input.dtype.kind != "f" else out.astype(input.dtype)

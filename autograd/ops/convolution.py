"""Convolution over one axis or two: windows are copied side by side, and multiplied as a matrix."""

import math

import numpy as np

from autograd.op import op
from autograd.ops.checks import check_count
from autograd.ops.index import as_array


@op
def sliding_windows(x, size, stride=1, dilation=1):
    """Windows on the last axis, each a column: ``(..., length) -> (..., size, n)``.

    The windows begin `stride` elements apart, and the elements of a window are `dilation` apart. Of
    [0, 1, 2, 3, 4], with a size of 2 and a stride of 1, they are [[0, 1, 2, 3], [1, 2, 3, 4]], a
    window in each column; with a dilation of 2, [[0, 1, 2], [2, 3, 4]].

    With a size of two numbers, they are windows on the last two axes: ``(..., height, width) ->
    (..., size[0], size[1], n, m)``; `stride` and `dilation` may have two numbers then, too.
    """
    sizes, strides, dilations = on_axes(
        "sliding_windows", size=size, stride=stride, dilation=dilation
    )
    k = len(sizes)
    spans = [dilation * (n - 1) + 1 for n, dilation in zip(sizes, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(-k, 0)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    windows = windows[(..., *steps)]  # (..., n, m, size[0], size[1])
    return np.moveaxis(windows, range(-k, 0), range(-2 * k, -k)).copy()


@op
def overlap_add(windows, length, stride=1, dilation=1):
    """Add windows into zeros, each at its place: ``(..., size, n) -> (..., length)``.

    It is the transpose of `sliding_windows`: [[1, 1, 1], [1, 1, 1]], windows of 2 elements with a
    stride of 1, become [1, 2, 2, 1], since two windows contain each element but the first and last.
    A length of two numbers is for windows on two axes.
    """
    lengths, strides, dilations = on_axes(
        "overlap_add", length=length, stride=stride, dilation=dilation
    )
    k = len(lengths)
    if windows.ndim < 2 * k:
        raise ValueError(
            f"overlap_add: length is {length} and windows has shape {windows.shape}; expected "
            f"{2 * k} axes or more"
        )
    lead, sizes, counts = windows.shape[: -2 * k], windows.shape[-2 * k : -k], windows.shape[-k:]
    for n, size, total, step, dilation in zip(
        counts, sizes, lengths, strides, dilations, strict=True
    ):
        if size and n and (n - 1) * step + (size - 1) * dilation >= total:
            raise ValueError(
                f"overlap_add: length is {total}; {n} windows of {size} elements, with a stride of "
                f"{step} and a dilation of {dilation}, reach over "
                f"{(n - 1) * step + (size - 1) * dilation + 1}"
            )
    # Elements number i of all windows lie `stride` apart in the result, and do not overlap, so each
    # turn of the loop adds them at once: with a size of 2, there are two turns for any n.
    out = np.zeros((*lead, *lengths), windows.dtype)
    every = (slice(None),) * len(lead)
    for at in np.ndindex(*sizes):
        places = places_of(at, counts, strides, dilations)
        out[(*every, *places)] += windows[(*every, *at)]
    return out


def places_of(at, counts, strides, dilations):
    """Return slices that pick element `at` of every window: one for each axis of the windows.

    Of 3 windows with a stride of 2, element 1 stands at 1, 3, 5: slice(1, 7, 2).
    """
    return tuple(
        slice(i * dilation, i * dilation + n * stride, stride)
        for i, n, stride, dilation in zip(at, counts, strides, dilations, strict=True)
    )


def numbers(name, key, value, n_axes, least=1):
    """Return a tuple of a number for each axis: 3 is (3, 3) for two axes, and (3,) for one."""
    found = tuple(value) if isinstance(value, tuple | list) else (value,) * n_axes
    if len(found) != n_axes:
        expected = "one integer" if n_axes == 1 else "one integer, or two"
        raise ValueError(f"{name}: {key} is {value!r}; expected {expected}")
    for number in found:
        check_count(name, key, number, least)
    return found


def on_axes(name, **values):
    """Return each value as a tuple of a number for each axis of the windows.

    The first value says whether there is one axis, as 3 does, or two, as (3, 2) does.
    """
    first = next(iter(values.values()))
    n_axes = 2 if isinstance(first, tuple | list) else 1
    return [
        numbers(name, key, value, n_axes, 0 if key == "length" else 1)
        for key, value in values.items()
    ]


# In the formulas for two axes, (k, m) is a place in a window and (l, j) the number of the window;
# the strides are (s, t) and the dilations (d, e).
AXES = dict(
    s=lambda stride: stride[0] if isinstance(stride, tuple | list) else stride,
    t=lambda stride: stride[1] if isinstance(stride, tuple | list) else stride,
    d=lambda dilation: dilation[0] if isinstance(dilation, tuple | list) else dilation,
    e=lambda dilation: dilation[1] if isinstance(dilation, tuple | list) else dilation,
)


@sliding_windows.formula(**AXES)
def _(size=1):
    if isinstance(size, tuple | list):
        return """
            # with strides (s, t) and dilations (d, e)
            out_kmlj = x_{l · s + k · d, j · t + m · e}
            dx_ab = Σ_k Σ_m Σ_l Σ_j [a = l · s + k · d and b = j · t + m · e] · g_kmlj
        """
    return """
        out_kl = x_{l · stride + k · dilation}
        dx_i = Σ_k Σ_l g_kl · [i = l · stride + k · dilation]
    """


@overlap_add.formula(**AXES)
def _(length=1):
    if isinstance(length, tuple | list):
        return """
            # with strides (s, t) and dilations (d, e)
            out_ab = Σ_k Σ_m Σ_l Σ_j [a = l · s + k · d and b = j · t + m · e] · windows_kmlj
            dwindows_kmlj = g_{l · s + k · d, j · t + m · e}
        """
    return """
        out_i = Σ_k Σ_l windows_kl · [i = l · stride + k · dilation]
        dwindows_kl = g_{l · stride + k · dilation}
    """


@sliding_windows.vjp("x")
def _(g, x_shape, size, stride, dilation):
    length = x_shape[-2:] if isinstance(size, tuple | list) else x_shape[-1]
    return overlap_add(g, length, stride, dilation)


@overlap_add.vjp("windows")
def _(g, windows_shape, length, stride, dilation):
    if isinstance(length, tuple | list):
        *_, height, width, n, m = windows_shape
        return sliding_windows(g, (height, width), stride, dilation)[..., :n, :m]
    *_, size, n = windows_shape
    return sliding_windows(g, size, stride, dilation)[..., :n]


@sliding_windows.reference
def _(x, size, stride, dilation):
    steps = on_axes("sliding_windows", size=size, stride=stride, dilation=dilation)
    lengths = x.shape[-len(steps[0]) :]
    places = [
        apart * np.arange(k)[:, None] + step * np.arange((n - apart * (k - 1) - 1) // step + 1)
        for n, k, step, apart in zip(lengths, *steps, strict=True)
    ]
    if len(places) == 1:
        return x[..., places[0]]
    rows, columns = places
    return x[..., rows[:, None, :, None], columns[:, None, :]]


@sliding_windows.sample
def _(draw):
    axes = [[draw.integer(1, most) for most in (3, 3, 2)] for _ in range(draw.integer(1, 2))]
    lengths = [apart * (k - 1) + 1 + draw.integer(0, 4) for k, _, apart in axes]
    x = draw.array(shape=(*draw.shape(max_dims=2), *lengths))
    return draw.call(x, *by_argument(axes))


@overlap_add.sample
def _(draw):
    axes = [[draw.integer(1, 3) for _ in range(4)] for _ in range(draw.integer(1, 2))]
    axes = [
        (k, n, (n - 1) * step + (k - 1) * apart + 1 + draw.integer(0, 3), step, apart)
        for k, step, apart, n in axes
    ]
    sizes, counts, *_ = zip(*axes, strict=True)
    x = draw.array(shape=(*draw.shape(max_dims=1), *sizes, *counts))
    return draw.call(x, *by_argument(axes)[2:])


def by_argument(axes):
    """Return the numbers of each axis by argument: of two axes as tuples, of one as numbers."""
    columns = list(zip(*axes, strict=True))
    return [column if len(column) > 1 else column[0] for column in columns]


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Slide kernels along the last axis: cross-correlation, as PyTorch's function of that name.

    One matrix product of the kernels and the windows.

    Parameters
    ----------
    input : Tensor or ndarray, (N, C_in, L) or (C_in, L)
    weight : Tensor or ndarray, (C_out, C_in / groups, size)
    bias : Tensor or ndarray, (C_out,), optional
    stride : int
        How far apart the windows are.
    dilation : int
        How far apart the elements of a window are.
    padding : int, "same" or "valid"
        How many zeros to add on either side. "same" adds as many as keep the length: it needs a
        stride of 1, and if their number is odd, one more stands on the right. "valid" adds none.
    groups : int
        Each group of output channels sees its own group of input channels alone.

    Returns
    -------
    Tensor or ndarray, (N, C_out, L_out) or (C_out, L_out)
        With L_out = (L + 2 padding - dilation (size - 1) - 1) // stride + 1.

    Raises
    ------
    ValueError
        If channels and groups do not fit, or the kernel is longer than the padded input.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> x = autograd.tensor([[1.0, 2.0, 4.0, 8.0]])
    >>> autograd.nn.conv1d(x, np.array([[[-1.0, 1.0]]]))
    tensor([[1., 2., 4.]])
    """
    return slide("conv1d", ("L",), input, weight, bias, stride, padding, dilation, groups)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Slide kernels over the last two axes: cross-correlation, as PyTorch's function of that name.

    One matrix product of the kernels and the windows, which are copied side by side: memory is that
    of the input times height times width of the kernels, divided by the strides.

    Parameters
    ----------
    input : Tensor or ndarray, (N, C_in, H, W) or (C_in, H, W)
    weight : Tensor or ndarray, (C_out, C_in / groups, height, width)
    bias : Tensor or ndarray, (C_out,), optional
    stride, dilation : int or (int, int)
        How far apart the windows are, and the elements of a window.
    padding : int, (int, int), "same" or "valid"
        How many zeros to add on either side; see `conv1d`.
    groups : int
        Each group of output channels sees its own group of input channels alone.

    Returns
    -------
    Tensor or ndarray, (N, C_out, H_out, W_out) or (C_out, H_out, W_out)
        With H_out = (H + 2 padding - dilation (height - 1) - 1) // stride + 1, and so W_out.

    Raises
    ------
    ValueError
        If channels and groups do not fit, or a kernel is larger than the padded input.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> image = autograd.tensor(np.eye(3)[None])
    >>> autograd.nn.conv2d(image, np.ones((1, 1, 2, 2)))
    tensor([[[2., 1.],
             [1., 2.]]])
    """
    return slide("conv2d", ("H", "W"), input, weight, bias, stride, padding, dilation, groups)


def slide(name, axes, input, weight, bias, stride, padding, dilation, groups):
    """Return `conv1d` or `conv2d` of its arguments; `axes` are the names of the axes."""
    input, weight, bias = map(as_array, (input, weight, bias))
    k = len(axes)
    if np.ndim(input) == k + 1:
        return slide(name, axes, input[None], weight, bias, stride, padding, dilation, groups)[0]
    shapes = (
        f"(N, C_in, {', '.join(axes)}) or (C_in, {', '.join(axes)}), and "
        f"(C_out, C_in / groups, {'size' if k == 1 else 'height, width'})"
    )
    if np.ndim(input) != k + 2 or np.ndim(weight) != k + 2:
        raise ValueError(
            f"{name}: input has {np.ndim(input)} axes and weight {np.ndim(weight)}; expected "
            f"{shapes}"
        )
    stride, dilation = numbers(name, "stride", stride, k), numbers(name, "dilation", dilation, k)
    check_count(name, "groups", groups, 1)
    batch, channels, *lengths = input.shape
    n_out, per_group, *sizes = weight.shape
    if channels != per_group * groups or n_out % groups:
        raise ValueError(
            f"{name}: input {input.shape}, weight {weight.shape} and groups={groups} do not fit; "
            f"expected {shapes}"
        )
    if bias is not None and np.shape(bias) != (n_out,):
        raise ValueError(f"{name}: bias has shape {np.shape(bias)}; expected {(n_out,)}")
    reaches = [d * (size - 1) for d, size in zip(dilation, sizes, strict=True)]
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ValueError(f"{name}: padding is {padding!r}; expected integers, 'same' or 'valid'")
    if isinstance(padding, str) and padding == "same":
        if any(step != 1 for step in stride):
            raise ValueError(f"{name}: padding='same' needs a stride of 1, and it is {stride}")
        widths = [(reach // 2, reach - reach // 2) for reach in reaches]
    elif isinstance(padding, str):
        widths = [(0, 0)] * k
    else:
        widths = [(n, n) for n in numbers(name, "padding", padding, k, 0)]
    for reach, length, (before, after) in zip(reaches, lengths, widths, strict=True):
        if before + length + after <= reach:
            raise ValueError(
                f"{name}: the kernel reaches over {reach + 1} elements, and the padded input has "
                f"{before + length + after}"
            )
    if any(before or after for before, after in widths):
        input = np.pad(input, ((0, 0), (0, 0), *widths))
    plain = (sizes[0], stride[0], dilation[0]) if k == 1 else (tuple(sizes), stride, dilation)
    windows = sliding_windows(input, *plain)  # (N, C_in, height, width, n, m)
    counts = windows.shape[-k:]
    columns = np.reshape(windows, (batch, groups, per_group * math.prod(sizes), math.prod(counts)))
    kernels = np.reshape(weight, (groups, n_out // groups, per_group * math.prod(sizes)))
    out = np.reshape(np.matmul(kernels, columns), (batch, n_out, *counts))
    return out if bias is None else out + np.reshape(bias, (n_out, *[1] * k))

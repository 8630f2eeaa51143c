"""Convolution over one axis: windows are copied side by side, and multiplied as one matrix."""

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
    """
    for key, value in {"size": size, "stride": stride, "dilation": dilation}.items():
        check_count("sliding_windows", key, value, 1)
    span = dilation * (size - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(x, span, -1)[..., ::stride, ::dilation]
    return np.swapaxes(windows, -1, -2).copy()  # (..., n, size) -> (..., size, n)


@op
def overlap_add(windows, length, stride=1, dilation=1):
    """Add windows into zeros, each at its place: ``(..., size, n) -> (..., length)``.

    It is the transpose of `sliding_windows`: [[1, 1, 1], [1, 1, 1]], windows of 2 elements with a
    stride of 1, become [1, 2, 2, 1], since two windows contain each element but the first and last.
    """
    *lead, size, n = windows.shape
    check_count("overlap_add", "length", length, 0)
    check_count("overlap_add", "stride", stride, 1)
    check_count("overlap_add", "dilation", dilation, 1)
    if size and n and (n - 1) * stride + (size - 1) * dilation >= length:
        raise ValueError(
            f"overlap_add: length is {length}; {n} windows of {size} elements, with a stride of "
            f"{stride} and a dilation of {dilation}, reach over "
            f"{(n - 1) * stride + (size - 1) * dilation + 1}"
        )
    # Elements number i of all windows lie `stride` apart in the result, and do not overlap, so each
    # turn of the loop adds them at once: with a size of 2, there are two turns for any n.
    out = np.zeros((*lead, length), windows.dtype)
    for i in range(size):
        first = i * dilation
        out[..., first : first + n * stride : stride][..., :n] += windows[..., i, :]
    return out


sliding_windows.formula(
    """
    out_kl = x_{l · stride + k · dilation}
    dx_i = Σ_k Σ_l g_kl · [i = l · stride + k · dilation]
    """
)
overlap_add.formula(
    """
    out_i = Σ_k Σ_l windows_kl · [i = l · stride + k · dilation]
    dwindows_kl = g_{l · stride + k · dilation}
    """
)


@sliding_windows.vjp("x")
def _(g, x_shape, stride, dilation):
    return overlap_add(g, x_shape[-1], stride, dilation)


@overlap_add.vjp("windows")
def _(g, windows_shape, stride, dilation):
    *_, size, n = windows_shape
    return sliding_windows(g, size, stride, dilation)[..., :n]


@sliding_windows.reference
def _(x, size, stride, dilation):
    n = (x.shape[-1] - dilation * (size - 1) - 1) // stride + 1
    return x[..., dilation * np.arange(size)[:, None] + stride * np.arange(n)]


@sliding_windows.sample
def _(draw):
    size, stride, dilation = draw.integer(1, 3), draw.integer(1, 3), draw.integer(1, 2)
    length = dilation * (size - 1) + 1 + draw.integer(0, 4)
    return draw.call(draw.array(shape=(*draw.shape(max_dims=2), length)), size, stride, dilation)


@overlap_add.sample
def _(draw):
    n, size, stride, dilation = (draw.integer(1, 3) for _ in range(4))
    length = (n - 1) * stride + (size - 1) * dilation + 1 + draw.integer(0, 4)
    x = draw.array(shape=(*draw.shape(max_dims=2), size, n))
    return draw.call(x, length, stride, dilation)


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
    input, weight, bias = map(as_array, (input, weight, bias))
    if input.ndim == 2:
        return conv1d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    stride, padding, dilation = (  # PyTorch takes (3,) for 3
        x[0] if isinstance(x, tuple | list) else x for x in (stride, padding, dilation)
    )
    if input.ndim != 3 or weight.ndim != 3:
        raise ValueError(
            f"conv1d: input has {input.ndim} axes and weight {weight.ndim}; expected (N, C_in, L) "
            "or (C_in, L), and (C_out, C_in / groups, size)"
        )
    for key, value in {"stride": stride, "dilation": dilation, "groups": groups}.items():
        check_count("conv1d", key, value, 1)
    if padding not in ("same", "valid"):
        check_count("conv1d", "padding", padding, 0)
    batch, channels, length = input.shape
    n_out, per_group, size = weight.shape
    if channels != per_group * groups or n_out % groups:
        raise ValueError(
            f"conv1d: input {input.shape}, weight {weight.shape} and groups={groups} do not fit; "
            "expected (N, C_in, L) and (C_out, C_in / groups, size)"
        )
    reach = dilation * (size - 1)
    if padding == "same":
        if stride != 1:
            raise ValueError(f"conv1d: padding='same' needs a stride of 1, and it is {stride}")
        before, after = reach // 2, reach - reach // 2
    else:
        before = after = 0 if padding == "valid" else padding
    if before + length + after <= reach:
        raise ValueError(
            f"conv1d: the kernel reaches over {reach + 1} elements, and the padded input has "
            f"{before + length + after}"
        )
    if before or after:
        input = np.pad(input, ((0, 0), (0, 0), (before, after)))
    windows = sliding_windows(input, size, stride, dilation)  # (N, C_in, size, n)
    n = windows.shape[-1]
    columns = np.reshape(windows, (batch, groups, per_group * size, n))
    kernels = np.reshape(weight, (groups, n_out // groups, per_group * size))
    out = np.reshape(np.matmul(kernels, columns), (batch, n_out, n))
    return out if bias is None else out + bias[:, None]

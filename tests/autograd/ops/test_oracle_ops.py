"""Every op beside PyTorch's: values, first and second derivatives, and what happens at kinks."""

import inspect
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import autograd
from autograd.kernels import use_kernels
from autograd.testing import op_calls
from autograd.testing.properties import Call, differentiable

pytestmark = [
    pytest.mark.usefixtures("oracle"),
    pytest.mark.filterwarnings("ignore:.*degrees of freedom"),  # PyTorch's, of empty arrays
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides"),  # PyTorch's, of kl_div
]

# Relative to the largest element; and absolute, for what is left where numbers near 1 cancel. In
# float32 one rounding is 6e-8 of a number, and the two may differ by a few roundings of each of a
# few terms, as the order of operations is theirs.
TOLERANCE = {np.float64: (1e-10, 1e-13), np.float32: (1e-5, 1e-6)}

SAME_NAME = """
    add subtract multiply divide negative absolute square sign reciprocal exp exp2 expm1 log log2
    log10 log1p sqrt sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh hypot
    rsqrt logaddexp arctan2 floor ceil trunc remainder maximum minimum where clip
    copysign fmax fmin fmod logaddexp2 sinc
    matmul moveaxis swapaxes roll reshape broadcast_to cumsum cumprod logsumexp
""".split()
SAME_NAME_IN_NN = """
    relu leaky_relu elu hardtanh hardswish sigmoid silu softmax log_softmax layer_norm rms_norm
""".split()
WITHOUT_TWIN = {
    "heaviside": "PyTorch's has no derivative",
    "dropout_seeded": "its mask is a function of our own seed",
}

TWIN_IS_RIGHT = {  # calls where PyTorch's derivatives are the mathematical ones
    # it sets the gradient at exponent 0 to 0, and so loses the mixed derivative, 1 / x
    "power": lambda x, y: (y != 0).all(),
    "det": lambda a: (np.abs(np.linalg.det(a)) > 0.1).all(),  # its second derivative inverts a
}


@cache
def twins():
    """Return by an op's name what does the same in PyTorch, with the op's arguments."""
    import torch
    import torch.nn.functional as F

    from autograd.ops.dropout import dropout_like
    from autograd.ops.reduce import axes_of

    def dims(x, axis):
        return tuple(range(x.ndim)) if axis is None else axis

    def positions(shape, index):
        """Return where x[index] finds its elements in order (PyTorch has no negative steps)."""
        index = np.asarray(index) if torch.is_tensor(index) else index
        everywhere = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        return torch.tensor(everywhere[index].copy())

    def scatter(values, index, shape):
        at, zeros = positions(shape, index), torch.zeros(shape, dtype=values.dtype)
        return zeros.flatten().index_add(0, at.flatten(), values.flatten()).reshape(shape)

    def pad(x, pad_width, constant_values):
        widths = np.broadcast_to(pad_width, (x.ndim, 2))[::-1]
        return F.pad(x, widths.flatten().tolist(), value=constant_values)

    def embedding(index, weight, padding_idx):
        if index.numel() == 0:  # PyTorch's has no gradient then
            return weight[index]
        return F.embedding(index, weight, padding_idx)

    def cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing):
        losses = F.cross_entropy(
            input.reshape(-1, input.shape[-1]),
            target.flatten(),
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        return losses.reshape(target.shape) if reduction == "none" else losses

    def binary_cross_entropy(input, target):
        broadcast = torch.broadcast_tensors(input, target)
        return F.binary_cross_entropy(*broadcast, reduction="none")

    def deviation(function, x, axis, ddof, keepdims):
        return function(x, dims(x, axis), correction=ddof, keepdim=keepdims)

    def prod(x, axis, keepdims):
        for dim in sorted(axes_of(x.shape, axis), reverse=True):
            x = torch.prod(x, dim, keepdims)
        return x

    def sliding_windows(x, *steps):
        axes = list(zip(*(n if isinstance(n, tuple) else (n,) for n in steps), strict=True))
        k, first = len(axes), x.ndim - len(axes)
        for i, (size, step, apart) in enumerate(axes, first):
            x = x.unfold(i, apart * (size - 1) + 1, step)[..., ::apart]  # a window's axis is last
        return x.movedim(tuple(range(-k, 0)), tuple(range(-2 * k, -k)))

    def overlap_add(windows, length, stride, dilation):
        """Add by index, each window's places those that windows of numbered elements show."""
        lengths = length if isinstance(length, tuple) else (length,)
        k = len(lengths)
        sizes, counts = windows.shape[-2 * k : -k], windows.shape[-k:]
        everywhere = torch.arange(np.prod(lengths)).reshape(lengths)
        at = sliding_windows(everywhere, tuple(sizes) if k > 1 else sizes[0], stride, dilation)
        for axis, n in enumerate(counts):
            at = at.narrow(axis - k, 0, n)
        zeros = torch.zeros(*windows.shape[: -2 * k], everywhere.numel(), dtype=windows.dtype)
        added = zeros.index_add(-1, at.flatten(), windows.flatten(-2 * k))
        return added.unflatten(-1, lengths)

    def solve(a, b):
        columns = b[:, None] if b.ndim == 1 else b
        if columns.ndim == 2:  # or PyTorch may take it for a batch of vectors
            columns = columns.expand(*a.shape[:-2], *columns.shape)
        x = torch.linalg.solve(a, columns)
        return x[..., 0] if b.ndim == 1 else x

    def signs(ours, theirs):
        """Return the signs of our vectors, relative to PyTorch's: both are right."""
        return torch.sign((torch.tensor(ours.copy()) * theirs.detach()).sum(-2, keepdim=True))

    def eigh(a, UPLO):
        a = (a + a.mT) / 2
        values, vectors = torch.linalg.eigh(a, UPLO)
        return values, vectors * signs(np.linalg.eigh(a.numpy(force=True), UPLO)[1], vectors)

    def svd(a, full_matrices):
        u, s, vh = torch.linalg.svd(a, full_matrices)
        sign = signs(np.linalg.svd(a.numpy(force=True), full_matrices)[0], u)
        return u * sign, s, vh * sign.mT

    def attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size):
        attend = partial(F.scaled_dot_product_attention, query, key, scale=scale)
        shape = (query.shape[-2], key.shape[-2])
        mask = torch.zeros(shape, dtype=query.dtype)  # PyTorch takes no mask beside is_causal
        if is_causal:
            seen = torch.ones(shape).tril().bool()
            if window_size is not None:
                seen &= ~torch.ones(shape).tril(-window_size).bool()
            mask = mask.masked_fill(~seen, -torch.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            mask = mask.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            mask = mask + attn_mask
        if not dropout_p:
            return attend(value, attn_mask=mask)
        one = torch.eye(shape[1], dtype=query.dtype).expand(*key.shape[:-1], shape[1])
        p = attend(one, attn_mask=mask)  # the weights themselves, for our own dropout
        kept = dropout_like(tuple(p.shape), dropout_p, seed, float)
        return p * torch.tensor(kept, dtype=p.dtype) @ value

    def correlate(a, v, padding):
        return F.conv1d(a[None, None], v[None, None], padding=padding)[0, 0]

    def rope(input, cos, sin):
        """A pair of channels as a complex number, which the angle's own turns."""
        turned = torch.complex(*input.tensor_split(2, -1)) * torch.complex(cos, sin)
        return torch.cat([turned.real, turned.imag], -1)

    return {
        **{name: getattr(torch, name) for name in SAME_NAME},
        **{name: getattr(F, name) for name in SAME_NAME_IN_NN},
        "affine": lambda x, weight, bias: F.linear(x, weight.T, bias),
        "alias": torch.clone,
        "astype": lambda x, dtype: x.to(getattr(torch, np.dtype(dtype).name)),
        "attention": attention,
        "binary_cross_entropy": binary_cross_entropy,
        "correlate": lambda a, v: correlate(a, v, 0),
        "convolve": lambda a, v: correlate(a, v.flip(0), len(v) - 1),
        "cbrt": lambda x: x ** (1 / 3),
        "cholesky": lambda a: torch.linalg.cholesky((a + a.mT) / 2),
        "concatenate": torch.cat,
        "cross_entropy": cross_entropy,
        "det": torch.linalg.det,
        "eigh": eigh,
        "einsum": lambda operands, subscripts: torch.einsum(subscripts, *operands),
        "embedding": embedding,
        "erf": torch.erf,
        "expand_dims": torch.unsqueeze,
        "flip": lambda x, axis: torch.flip(x, [axis]),
        "floor_divide": lambda x, y: torch.div(x, y, rounding_mode="floor"),
        "gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
        "getitem": lambda x, index: torch.take(x, positions(x.shape, index)),
        "inv": torch.linalg.inv,
        "lstsq": lambda a, b, rcond: torch.linalg.pinv(a) @ b,
        "max": lambda x, axis, keepdims: torch.amax(x, dims(x, axis), keepdims),
        "mean": lambda x, axis, keepdims: torch.mean(x, dims(x, axis), keepdims),
        "min": lambda x, axis, keepdims: torch.amin(x, dims(x, axis), keepdims),
        "overlap_add": overlap_add,
        "pad": pad,
        "pinv": lambda a, rcond: torch.linalg.pinv(a, rtol=rcond),
        "power": torch.pow,
        "prod": prod,
        "qr": torch.linalg.qr,
        "rint": torch.round,
        "rope": rope,
        "scatter": scatter,
        "scatter_rows": lambda values, index, shape: scatter(values, (index,), shape),
        "sliding_windows": sliding_windows,
        "slogdet": torch.linalg.slogdet,
        "solve": solve,
        "softplus": lambda x, beta, threshold: F.softplus(x, beta, min(threshold, 1e30)),
        "split": torch.tensor_split,
        "squeeze": lambda x, axis: torch.squeeze(x) if axis is None else torch.squeeze(x, axis),
        "stack": torch.stack,
        "std": partial(deviation, torch.std),
        "sum": lambda x, axis, keepdims: torch.sum(x, dims(x, axis), keepdims),
        "svd": svd,
        "transpose": lambda x, axes: torch.permute(x, axes or tuple(range(x.ndim))[::-1]),
        "vector_norm": lambda x, axis, keepdims, ord: torch.linalg.vector_norm(
            x, ord, dims(x, axis), keepdims
        ),
        "var": partial(deviation, torch.var),
    }


def derivatives(function, inputs, tensor, grad, order):
    """Return a function's values and its derivatives up to an order, along random directions.

    Each derivative is differentiated in turn by the inputs and by the directions so far.
    """
    random = np.random.default_rng(0)
    leaves = [tensor(x, requires_grad=True) for x in inputs]
    outputs = function(*leaves)
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    found = list(outputs)
    for remaining in reversed(range(order)):
        directions = [
            tensor(random.standard_normal(tuple(y.shape)), dtype=y.dtype, requires_grad=True)
            for y in outputs
        ]
        reached = [(y, u) for y, u in zip(outputs, directions, strict=True) if y.requires_grad]
        if reached:
            ys, us = zip(*reached, strict=True)
            outputs = list(grad(ys, leaves, us, create_graph=remaining > 0))
        else:  # PyTorch keeps no graph of what is zero
            outputs = [tensor(np.zeros(tuple(x.shape)), dtype=x.dtype) for x in leaves]
        found += outputs
        leaves += directions
    return found


def assert_same(ours, theirs, arguments, positions, orders=(1, 2)):
    """Compare two functions of the same arguments: values, and derivatives at positions.

    The first derivative has a run of its own: without a graph, rules may take other paths.
    """
    for order in orders:
        compare(np.float64, order, ours, theirs, arguments, positions)
    compare(np.float32, 1, ours, theirs, arguments, positions)


def compare(dtype, order, ours, theirs, arguments, positions):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def put(leaves, convert=lambda x: x):
        given = dict(zip(positions, leaves, strict=True))
        return [given[i] if i in given else convert(x) for i, x in enumerate(arguments)]

    def constant(x):
        return torch.tensor(x.copy()) if isinstance(x, np.ndarray | np.bool) else x

    arguments = [x.astype(dtype) if is_floating(x) else x for x in arguments]
    inputs = [arguments[i] for i in positions]
    found = derivatives(lambda *x: ours(*put(x)), inputs, autograd.tensor, autograd.grad, order)
    inputs = [x.copy() for x in inputs]  # PyTorch takes no negative strides
    their_grad = partial(torch.autograd.grad, materialize_grads=True)
    with sdpa_kernel(SDPBackend.MATH):  # its other kernels have no second derivative
        expected = derivatives(
            lambda *x: theirs(*put(x, constant)), inputs, torch.tensor, their_grad, order
        )
    relative, absolute = TOLERANCE[dtype]
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        a, b = a.numpy(), b.numpy(force=True)
        assert a.dtype == b.dtype and a.shape == b.shape
        largest = np.max(np.abs(b), initial=0, where=np.isfinite(b))
        np.testing.assert_allclose(
            a, b, rtol=0, atol=relative * largest + absolute, err_msg=f"result {i}"
        )


def is_floating(x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


# ---- ops, on what their samplers draw


OPS = {name for name, op in autograd.REGISTRY.items() if op.__module__.startswith("autograd.")}


def test_no_op_is_forgotten():
    assert OPS == twins().keys() | WITHOUT_TWIN.keys()
    assert not twins().keys() & WITHOUT_TWIN.keys()


def assert_op_same(op, call, **options):
    def theirs(*args):
        bound = op.signature.bind(*args, **call.kwargs)
        bound.apply_defaults()
        return twins()[op.name](*bound.arguments.values())

    def ours(*args):
        return op(*args, **call.kwargs)

    assert_same(ours, theirs, call.args, differentiable(op, call), **options)


@pytest.mark.parametrize("name", sorted(OPS - WITHOUT_TWIN.keys()))
@given(data=st.data())
def test_op_is_torchs(name, data):
    op = autograd.REGISTRY[name]
    call = data.draw(op_calls(op))
    assume(name not in TWIN_IS_RIGHT or TWIN_IS_RIGHT[name](*call.args))
    assert_op_same(op, call)


# ---- functions of autograd.nn, called with PyTorch's argument names


normal = np.random.default_rng(5).standard_normal
X, W, B, B2 = normal((3, 4)), normal(4), normal(4), normal((2, 2))
TABLE, INDEX = normal((5, 4)), np.array([[1, 3], [3, 0]])
IMAGE, KERNEL = normal((2, 4, 7)), normal((6, 4, 3))
PLANES, PATCH = normal((2, 4, 6, 5)), normal((6, 4, 3, 2))
CLASSES, HARD, SIDED = (
    np.array([1, -100, 3]),
    np.array([1, 0, 3]),
    np.array([[1, 0, 3, 3, 2], [2, 2, -100, 1, 0]]),
)
SOFT = np.abs(X) / np.abs(X).sum(1, keepdims=True)
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25])
QUERY, KEY, VALUE = normal((2, 3, 4)), normal((2, 5, 4)), normal((2, 5, 6))
SEEN = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
BIAS = normal((3, 5))

# Name, arguments to differentiate by, all arguments.
NN_CALLS = [
    ("relu", "input", dict(input=X)),
    ("leaky_relu", "input", dict(input=X)),
    ("leaky_relu", "input", dict(input=X, negative_slope=0.2)),
    ("elu", "input", dict(input=X)),
    ("elu", "input", dict(input=X, alpha=1.3)),
    ("hardtanh", "input", dict(input=2 * X)),
    ("hardtanh", "input", dict(input=X, min_val=-0.5, max_val=0.75)),
    ("relu6", "input", dict(input=6 * X)),
    ("hardswish", "input", dict(input=4 * X)),
    ("sigmoid", "input", dict(input=100 * X)),
    ("silu", "input", dict(input=X)),
    ("softplus", "input", dict(input=X)),
    ("softplus", "input", dict(input=X, beta=2.5)),
    ("softplus", "input", dict(input=X, beta=2.5, threshold=1.5)),
    ("logsigmoid", "input", dict(input=5 * X)),
    ("gelu", "input", dict(input=X)),
    ("gelu", "input", dict(input=X, approximate="tanh")),
    ("erf", "input", dict(input=X)),
    ("rsqrt", "input", dict(input=np.abs(X))),
    ("softmax", "input", dict(input=X, dim=0)),
    ("log_softmax", "input", dict(input=X, dim=-1)),
    ("logsumexp", "input", dict(input=X, dim=0)),
    ("logsumexp", "input", dict(input=IMAGE, dim=(0, -1), keepdim=True)),
    ("topk", "input", dict(input=X, k=2)),
    ("topk", "input", dict(input=X, k=1, dim=0, largest=False)),
    ("scatter_add", "input src", dict(input=X, dim=0, index=np.array([[2, 0], [2, 1]]), src=B2)),
    ("scatter_add", "input src", dict(input=X, dim=-1, index=np.array([[3, 0], [3, 3]]), src=B2)),
    ("layer_norm", "input", dict(input=X, normalized_shape=(4,))),
    ("layer_norm", "input", dict(input=X, normalized_shape=[3, 4], eps=0.1)),
    ("layer_norm", "input weight bias", dict(input=X, normalized_shape=(4,), weight=W, bias=B)),
    ("layer_norm", "input weight", dict(input=X, normalized_shape=(4,), weight=W)),
    ("rms_norm", "input", dict(input=X, normalized_shape=(4,))),
    ("rms_norm", "input weight", dict(input=X, normalized_shape=[4], weight=W, eps=0.1)),
    ("rms_norm", "input weight", dict(input=X, normalized_shape=(3, 4), weight=X * X)),
    ("linear", "input weight", dict(input=X, weight=TABLE)),
    ("linear", "input weight bias", dict(input=QUERY, weight=TABLE, bias=normal(5))),
    ("linear", "input weight bias", dict(input=W, weight=TABLE, bias=normal(5))),
    ("conv1d", "input weight", dict(input=IMAGE, weight=KERNEL)),
    ("conv1d", "input weight bias", dict(input=IMAGE, weight=KERNEL, bias=normal(6), padding=2)),
    ("conv1d", "input weight", dict(input=IMAGE, weight=KERNEL, stride=2, padding="valid")),
    ("conv1d", "input weight", dict(input=IMAGE[0], weight=KERNEL, padding="same", dilation=2)),
    ("conv1d", "input weight", dict(input=IMAGE, weight=KERNEL[:, :2], groups=2, padding=1)),
    ("conv2d", "input weight", dict(input=PLANES, weight=PATCH)),
    ("conv2d", "input weight bias", dict(input=PLANES, weight=PATCH, bias=normal(6), padding=2)),
    ("conv2d", "input weight",
     dict(input=PLANES, weight=PATCH, stride=(2, 1), padding=(0, 1), dilation=(1, 2))),
    ("conv2d", "input weight", dict(input=PLANES, weight=PATCH, stride=2, padding="valid")),
    ("conv2d", "input weight", dict(input=PLANES[0], weight=PATCH, padding="same", dilation=2)),
    ("conv2d", "input weight bias",
     dict(input=PLANES, weight=PATCH[:, :2], bias=normal(6), groups=2, padding=1)),
    *((f"{kind}_pool1d", "input", dict(input=IMAGE, **options))
      for kind in ("max", "avg")
      for options in (dict(kernel_size=2), dict(kernel_size=3, stride=2, padding=1),
                      dict(kernel_size=(4,), stride=3, padding=2, ceil_mode=True))),
    *((f"{kind}_pool2d", "input", dict(input=PLANES, **options))
      for kind in ("max", "avg")
      for options in (dict(kernel_size=2), dict(kernel_size=(3, 2), stride=2, padding=(1, 0)),
                      dict(kernel_size=3, stride=2, padding=1, ceil_mode=True),
                      dict(kernel_size=3, stride=(1, 2)))),
    ("max_pool1d", "input", dict(input=IMAGE[0], kernel_size=3, stride=2, dilation=2, padding=1)),
    ("max_pool2d", "input", dict(input=PLANES[0], kernel_size=2, stride=1, dilation=(3, 2))),
    ("avg_pool1d", "input",
     dict(input=IMAGE[0], kernel_size=3, padding=1, ceil_mode=True, count_include_pad=False)),
    ("avg_pool2d", "input",
     dict(input=PLANES[0], kernel_size=3, padding=1, ceil_mode=True, count_include_pad=False)),
    ("avg_pool2d", "input", dict(input=PLANES, kernel_size=3, padding=1, divisor_override=5)),
    ("embedding", "weight", dict(input=INDEX, weight=TABLE)),
    ("embedding", "weight", dict(input=INDEX, weight=TABLE, padding_idx=3)),
    ("embedding", "weight", dict(input=INDEX, weight=TABLE, padding_idx=-2)),
    ("nll_loss", "input", dict(input=X, target=CLASSES)),
    ("nll_loss", "input", dict(input=X, target=CLASSES, weight=WEIGHTS, reduction="sum")),
    ("nll_loss", "input", dict(input=IMAGE[..., :5], target=SIDED, weight=WEIGHTS)),
    ("nll_loss", "input", dict(input=X, target=HARD, ignore_index=3, reduction="none")),
    ("cross_entropy", "input", dict(input=X, target=CLASSES)),
    ("cross_entropy", "input", dict(input=X, target=CLASSES, reduction="sum")),
    ("cross_entropy", "input", dict(input=X, target=CLASSES, reduction="none")),
    ("cross_entropy", "input", dict(input=X[0], target=np.array(2), weight=WEIGHTS)),
    ("cross_entropy", "input", dict(input=X, target=CLASSES, weight=WEIGHTS, reduction="none")),
    ("cross_entropy", "input", dict(input=X, target=CLASSES, weight=WEIGHTS, label_smoothing=0.2)),
    ("cross_entropy", "input", dict(input=X, target=HARD, ignore_index=3, label_smoothing=0.1)),
    ("cross_entropy", "input", dict(input=IMAGE[..., :5], target=SIDED, weight=WEIGHTS)),
    ("cross_entropy", "input", dict(input=IMAGE[..., :5], target=SIDED, label_smoothing=0.3)),
    ("cross_entropy", "input", dict(input=IMAGE[..., :5], target=SIDED, reduction="none")),
    ("cross_entropy", "input target", dict(input=X, target=SOFT)),
    ("cross_entropy", "input target", dict(input=X, target=SOFT, weight=WEIGHTS, reduction="none")),
    ("cross_entropy", "input target", dict(input=X, target=SOFT, weight=B**2, label_smoothing=0.1)),
    ("cross_entropy", "input target", dict(input=IMAGE, target=IMAGE**2, reduction="sum")),
    ("mse_loss", "input target", dict(input=X, target=X * X)),
    ("mse_loss", "input target", dict(input=X, target=X * X, reduction="sum")),
    ("mse_loss", "input target", dict(input=X, target=X * X, reduction="none")),
    ("binary_cross_entropy_with_logits", "input target", dict(input=X, target=SOFT)),
    ("binary_cross_entropy_with_logits", "input",
     dict(input=X, target=SOFT, weight=WEIGHTS, reduction="sum")),
    ("binary_cross_entropy_with_logits", "input",
     dict(input=X, target=SOFT, reduction="none", pos_weight=WEIGHTS)),
    ("binary_cross_entropy", "input target", dict(input=SOFT[::-1], target=SOFT)),
    ("binary_cross_entropy", "input target",
     dict(input=SOFT[::-1], target=SOFT, weight=WEIGHTS, reduction="sum")),
    ("binary_cross_entropy", "input", dict(input=SOFT, target=SOFT, reduction="none")),
    *(("kl_div", "input target", dict(input=X, target=SOFT, reduction=reduction))
      for reduction in ("mean", "sum", "none", "batchmean")),
    ("kl_div", "input target", dict(input=X, target=B, log_target=True)),
    ("kl_div", "input", dict(input=X, target=np.eye(4)[:3], reduction="batchmean")),
    *(("huber_loss", "input target", dict(input=X, target=X * X, **options))
      for options in ({}, dict(reduction="sum", delta=0.3), dict(reduction="none", delta=2.5),
                      dict(weight=SOFT, delta=0.7), dict(weight=SOFT, reduction="sum"))),
    *(("smooth_l1_loss", "input target", dict(input=X, target=X * X, **options))
      for options in ({}, dict(reduction="sum", beta=0.3), dict(reduction="none", beta=2.5),
                      dict(beta=0.0))),
    *(("scaled_dot_product_attention", f"query key value {also}",
       dict(query=QUERY, key=KEY, value=VALUE, **options))
      for also, options in [("", {}), ("", dict(is_causal=True)), ("", dict(attn_mask=SEEN)),
                            ("attn_mask", dict(attn_mask=BIAS, scale=0.3))]),
    *(("scaled_dot_product_attention", "query key value",
       dict(query=normal((*q, 3, 4)), key=normal((*k, 5, 4)), value=normal((*v, 5, 2)), **options))
      for q, k, v, options in [((2, 3), (3,), (3,), {}), ((), (2,), (2,), dict(is_causal=True)),
                               ((2, 1), (1, 3), (2, 3), {}), ((3,), (2, 1), (2, 1), {}),
                               ((2, 3), (1, 3), (2, 1), dict(attn_mask=SEEN)),
                               ((1, 6), (2, 3), (2, 3), dict(enable_gqa=True)),
                               ((2, 6), (1, 3), (1, 3), dict(enable_gqa=True))]),
    *(("scaled_dot_product_attention", f"query key value {also}",
       dict(query=normal((2, 6, 3, 4)), key=normal((2, 2, 5, 4)), value=normal((2, 2, 5, 2)),
            enable_gqa=True, **options))
      for also, options in [("", {}), ("", dict(is_causal=True)), ("", dict(attn_mask=SEEN)),
                            ("", dict(attn_mask=normal((2, 1, 1, 5)) > -1)),
                            ("attn_mask", dict(attn_mask=normal((2, 6, 3, 5)))),
                            ("attn_mask", dict(attn_mask=normal((2, 1, 3, 5))))]),
]  # fmt: skip
NN_APART = {
    "affine": "linear with the weight transposed: compared as an op",
    "dropout": "its random bits are not PyTorch's",
    "one_hot": "integers: compared below",
    "rope": "PyTorch has none: compared as an op",
}


def test_no_function_is_forgotten():
    assert set(autograd.nn.__all__) == {name for name, _, _ in NN_CALLS} | NN_APART.keys()


@pytest.mark.parametrize("case", NN_CALLS, ids=lambda case: f"{case[0]}({', '.join(case[2])})")
def test_function_is_torchs(case):
    name, wanted, kwargs = case
    functions = getattr(autograd.nn, name), their_function(name)

    def call(function, *args):
        y = function(**dict(zip(kwargs, args, strict=True)))
        return y[0] if isinstance(y, tuple) else y  # of topk, the values

    ours, theirs = (partial(call, function) for function in functions)
    positions = [list(kwargs).index(argument) for argument in wanted.split()]
    assert_same(ours, theirs, list(kwargs.values()), positions)


def their_function(name):
    import torch

    return getattr(torch.nn.functional, name, None) or getattr(torch, name)


# ---- functions of NumPy that are composed of ops

Q, POINTS, HOLES = np.array([0.13, 0.47, 0.71]), np.array([0.1, 0.5, 1.3, 1.8]), np.eye(3, 4) > 0
X2, FOUR = normal((3, 4)), (normal((4, 4)) + 4 * np.eye(4)).reshape(4, 2, 2)


def numpy_calls():
    """Return, by name: a function of NumPy's, what does the same in PyTorch, and their inputs."""
    import torch

    holes, points = torch.tensor(HOLES), torch.tensor(POINTS)

    def with_holes(x):
        return x.masked_fill(holes, torch.nan)

    def ranked(function, method):
        return lambda x, q: function(with_holes(x), q, 1, interpolation=method)

    return {
        **{
            f"quantile {method}": (
                lambda x, q, method=method: np.quantile(x, q, 1, method=method),
                lambda x, q, method=method: torch.quantile(x, q, 1, interpolation=method),
                (X, Q),
            )
            for method in ("linear", "lower", "higher", "nearest", "midpoint")
        },
        "nanquantile": (
            lambda x, q: np.nanquantile(np.where(HOLES, np.nan, x), q, 1),
            ranked(torch.nanquantile, "linear"),
            (X, Q),
        ),
        "nanmedian": (
            lambda x: np.nanmedian(np.where(HOLES[0], np.nan, x), 1),
            lambda x: torch.nanmedian(x.masked_fill(holes[0], torch.nan), 1)[0],
            (X,),
        ),
        "cov": (
            lambda x, w: np.cov(x, fweights=[1, 3, 1, 2], aweights=w),
            lambda x, w: torch.cov(
                x.double(), fweights=torch.tensor([1, 3, 1, 2]), aweights=w.double()
            ),
            (X, np.abs(W)),
        ),
        "corrcoef": (np.corrcoef, lambda x: torch.corrcoef(x.double()), (X,)),
        "trapezoid": (np.trapezoid, torch.trapezoid, (X, POINTS)),
        "gradient": (
            lambda f: np.stack(np.gradient(f, 0.5, POINTS, edge_order=2)),
            lambda f: torch.stack(
                torch.gradient(
                    f, spacing=(torch.arange(3) / 2, points.to(f.dtype)), dim=(0, 1), edge_order=2
                )
            ),
            (X,),
        ),
        "cross": (
            lambda x, y: np.cross(x, y, axis=0),
            lambda x, y: torch.linalg.cross(x, y, dim=0),
            (X, X2),
        ),
        "kron": (np.kron, torch.kron, (X, W)),
        "vander": (
            np.vander,  # PyTorch's writes in place, and has no derivative
            lambda w: torch.stack([w.double() ** k for k in (3, 2, 1, 0)], 1),
            (W,),
        ),
        "matvec": (lambda x, w: np.matvec(x, w), torch.mv, (X, W)),
        "deg2rad": (np.deg2rad, torch.deg2rad, (X,)),
        "nansum": (
            lambda x: np.nansum(np.where(HOLES, np.nan, x), 0),
            lambda x: torch.nansum(with_holes(x), 0),
            (X,),
        ),
        "nanmean": (
            lambda x: np.nanmean(np.where(HOLES, np.nan, x), 0),
            lambda x: torch.nanmean(with_holes(x), 0),
            (X,),
        ),
        "nan_to_num": (
            lambda x: np.nan_to_num(np.where(HOLES, np.nan, x), nan=2.0),
            lambda x: torch.nan_to_num(with_holes(x), nan=2.0),
            (X,),
        ),
        "sliding_window_view": (
            lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 3)),
            lambda x: x.unfold(0, 2, 1).unfold(1, 3, 1),
            (X,),
        ),
        "meshgrid": (
            lambda v, w: np.multiply(*np.meshgrid(v, w, indexing="ij")),
            lambda v, w: torch.mul(*torch.meshgrid(v, w, indexing="ij")),
            (W, X[0]),
        ),
        **{
            f"{function} {name}": (
                lambda x, f=function, order=order: getattr(np.linalg, f)(x, order),
                lambda x, f=function, order=order: getattr(torch.linalg, f)(x, order),
                (FOUR.reshape(4, 4),),
            )
            for function, name, order in (
                ("norm", "largest", 2),
                ("norm", "least", -2),
                ("norm", "nuclear", "nuc"),
                ("cond", "largest", 2),
                ("cond", "least", -2),
            )
        },
        "cond columns": (  # PyTorch's writes in place, and has no derivative
            lambda x: np.linalg.cond(x, 1),
            lambda x: torch.linalg.norm(x, 1) * torch.linalg.norm(torch.linalg.inv(x), 1),
            (FOUR.reshape(4, 4),),
        ),
        "eigvalsh": (
            lambda x: np.linalg.eigvalsh(x @ x.T),
            lambda x: torch.linalg.eigvalsh(x @ x.T),
            (X,),
        ),
        "svdvals": (np.linalg.svdvals, torch.linalg.svdvals, (X,)),
        "tensorinv": (
            lambda x: np.linalg.tensorinv(x, 1),
            lambda x: torch.linalg.tensorinv(x, 1),
            (FOUR,),
        ),
        "tensorsolve": (np.linalg.tensorsolve, torch.linalg.tensorsolve, (FOUR, W)),
    }


NUMPY_CALLS = """
    quantile-linear quantile-lower quantile-higher quantile-nearest quantile-midpoint nanquantile
    nanmedian cov corrcoef trapezoid gradient cross kron vander matvec deg2rad nansum nanmean
    nan_to_num sliding_window_view meshgrid eigvalsh svdvals tensorinv tensorsolve
    norm-largest norm-least norm-nuclear cond-largest cond-least cond-columns
""".split()


@pytest.mark.parametrize("name", NUMPY_CALLS)
def test_function_of_numpy_is_torchs(name):
    known = numpy_calls()
    assert known.keys() == {name.replace("-", " ") for name in NUMPY_CALLS}
    ours, theirs, inputs = known[name.replace("-", " ")]
    assert_same(ours, theirs, inputs, range(len(inputs)))


def test_arguments_come_in_torchs_order():
    for name in set(autograd.nn.__all__) - {"affine", "rope"}:  # PyTorch has no function for these
        function, twin = getattr(autograd.nn, name), their_function(name)
        if name in ("max_pool1d", "max_pool2d"):  # one function of two, by `return_indices`
            twin = their_function(f"_{name}")
        ours = list(inspect.signature(getattr(function, "forward", function)).parameters)
        try:
            theirs = list(inspect.signature(twin).parameters)
        except ValueError:  # written in C++, it does not tell
            continue
        known = [argument for argument in ours if argument in theirs]
        assert known == sorted(known, key=theirs.index), name
        assert set(ours) - set(known) <= {"generator"}, name


def test_indices_are_torchs():
    import torch

    nn = autograd.nn
    for options in dict(k=3), dict(k=2, dim=0, largest=False):
        values, where = nn.topk(autograd.tensor(X), **options)
        assert isinstance(where, np.ndarray)
        np.testing.assert_array_equal(where, torch.topk(torch.tensor(X), **options).indices)
    for options in {}, dict(num_classes=6):
        expected = torch.nn.functional.one_hot(torch.tensor(INDEX), **options)
        np.testing.assert_array_equal(nn.one_hot(INDEX, **options), expected)


POOLS = [
    dict(kernel_size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    for size in (1, 2, 3, 4)
    for stride in (None, 1, 2, 3)
    for padding in range(size // 2 + 1)
    for ceil_mode in (False, True)
]


@pytest.mark.parametrize("options", POOLS, ids=str)
@pytest.mark.parametrize("n_axes", [1, 2])
def test_pools_are_torchs(n_axes, options):
    """Values, places and gradients; of integers that tie, the first is the largest."""
    import torch

    random = np.random.default_rng(0)
    shape = (2, 2, *(8, 9)[:n_axes])
    for x in (random.standard_normal(shape), random.integers(0, 3, shape).astype(float)):
        ours, theirs = autograd.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        for dilation in (1, 2):
            also = dict(options, dilation=dilation, return_indices=True)
            found, places = getattr(autograd.nn, f"max_pool{n_axes}d")(ours, **also)
            expected, their_places = their_function(f"max_pool{n_axes}d")(theirs, **also)
            np.testing.assert_array_equal(found.numpy(), expected.numpy(force=True))
            np.testing.assert_array_equal(places, their_places.numpy())
            u = random.standard_normal(found.shape)
            a, b = (
                autograd.grad(found, ours, u),
                torch.autograd.grad(expected, theirs, torch.tensor(u)),
            )
            np.testing.assert_allclose(a.numpy(), b[0].numpy(), rtol=1e-12, atol=1e-14)
        for count_include_pad in (True, False):
            also = dict(options, count_include_pad=count_include_pad)
            found = getattr(autograd.nn, f"avg_pool{n_axes}d")(ours, **also)
            expected = their_function(f"avg_pool{n_axes}d")(theirs, **also)
            np.testing.assert_allclose(
                found.numpy(), expected.numpy(force=True), rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize("x", [[np.nan, 1, 2, np.nan], [-np.inf] * 4, [1, np.nan, np.inf, 3]])
def test_pools_of_what_is_not_finite_are_torchs(x):
    import torch

    for padding in (0, 1):
        expected = torch.nn.functional.max_pool1d(torch.tensor([x]), 2, 1, padding)
        found = autograd.nn.max_pool1d(np.array([x]), 2, 1, padding)
        np.testing.assert_array_equal(found, expected.numpy())


# ---- kinks, ties and poles: the value of a derivative is a convention, and ours are PyTorch's

INF = np.inf
SINGLE, TIES, ZEROS = [0.0, -0.0], [3.0, 1.0, 3.0, 3.0], [[0.0, 2.0, 3.0], [0.0, 2.0, 0.0]]
OPS_AT_KINKS = [
    ("absolute", SINGLE),
    ("sign", SINGLE),
    ("relu", SINGLE),
    ("leaky_relu", SINGLE, 0.2),
    ("elu", SINGLE, 1.5),
    ("hardtanh", [-1.0, 1.0, np.nan], -1.0, 1.0),
    ("hardswish", [-3.0, 3.0]),
    ("clip", [-1.0, 0.0, 1.0], -1.0, 1.0),
    ("clip", [-1.0, 0.0, 1.0], None, 0.0),
    ("maximum", [0.0, 1.0, 2.0], [0.0, 1.0, -2.0]),
    ("minimum", [0.0, 1.0, 2.0], [0.0, 1.0, -2.0]),
    ("max", TIES),
    ("min", [TIES, TIES], 0, True),
    ("sqrt", SINGLE),
    ("log", SINGLE),
    ("log1p", [-1.0]),
    ("reciprocal", SINGLE),
    ("divide", [0.0, 1.0], [0.0, 0.0]),
    ("power", [0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 1.0, 2.0, 3.0]),
    ("power", [0.0, 0.0], [-1.0, -0.5]),
    ("power", [-2.0, -2.0, -2.0], [0.0, 2.0, 3.0]),
    ("arcsin", [-1.0, 1.0]),
    ("arccos", [-1.0, 1.0]),
    ("arccosh", [1.0]),
    ("arctanh", [-1.0, 1.0]),
    ("hypot", [0.0], [0.0]),
    ("arctan2", SINGLE, SINGLE),
    ("logaddexp", [-INF, 0.0, 1e3], [-INF, -INF, 0.0]),
    ("floor", SINGLE),
    ("ceil", SINGLE),
    ("trunc", SINGLE),
    ("rint", [0.5, 1.5, -0.5]),
    ("floor_divide", [4.0, -4.0], [2.0, 2.0]),
    ("remainder", [4.0, -4.0], [2.0, 2.0]),
    ("std", [1.0, 1.0]),
    ("prod", ZEROS, 1, False),
    ("prod", ZEROS),
    ("cumprod", ZEROS, 1),
    ("logsumexp", [[1.0, -INF], [0.0, -INF]], 1),
    ("softmax", [[-INF, 0.0, 1.0]]),
    ("log_softmax", [[-INF, 0.0, 1.0]]),
    *(("vector_norm", [[0.0, 0.0], [0.0, -2.0], [2.0, -2.0]], 1, False, order)
      for order in (2, 1, INF, -INF, 3, 1.5, 0.5, 0)),
]  # fmt: skip


EXPRESSIONS_AT_KINKS = {
    "x ** 0": (lambda x: x**0, lambda torch, x: x**0, SINGLE),
    "x ** 0.5": (lambda x: x**0.5, lambda torch, x: x**0.5, [0.0, 1.0]),
    "x ** 1": (lambda x: x**1, lambda torch, x: x**1, SINGLE),
    "2 ** x": (lambda x: 2**x, lambda torch, x: 2**x, SINGLE),
    "0 ** x": (lambda x: 0**x, lambda torch, x: 0**x, [0.0, 1.0]),
    "sqrt, not taken": (  # 0 times infinity: NaN, the trap
        lambda x: np.where(x > 0, np.sqrt(x), 0.0),
        lambda torch, x: torch.where(x > 0, torch.sqrt(x), 0.0),
        [0.0, 1.0],
    ),
    "sqrt, not reached": (
        lambda x: np.where(x > 0, np.sqrt(np.where(x > 0, x, 1.0)), 0.0),
        lambda torch, x: torch.where(x > 0, torch.sqrt(torch.where(x > 0, x, 1.0)), 0.0),
        [0.0, 1.0],
    ),
    "sort": (np.sort, lambda torch, x: torch.sort(x, stable=True).values, TIES),
    "running largest": (
        lambda x: np.maximum.accumulate(x) * np.arange(1.0, x.size + 1).astype(x.dtype),
        lambda torch, x: torch.cummax(x, 0).values * torch.arange(1, len(x) + 1),
        [1.0, *TIES, 4.0, 4.0],
    ),
    "running smallest": (
        lambda x: np.minimum.accumulate(x) * x,
        lambda torch, x: torch.cummin(x, 0).values * x,
        [*TIES, 1.0],
    ),
    "norm": (np.linalg.norm, lambda torch, x: torch.linalg.norm(x), SINGLE),
    "Frobenius": (
        lambda x: np.linalg.norm(x, "fro"),
        lambda torch, x: torch.linalg.norm(x, "fro"),
        [SINGLE, SINGLE],
    ),
    "largest column": (
        lambda x: np.linalg.norm(x, 1),
        lambda torch, x: torch.linalg.norm(x, 1),
        [[1.0, -2.0], [2.0, 1.0]],
    ),
    "relu6": (
        autograd.nn.relu6,
        lambda torch, x: torch.nn.functional.relu6(x),
        [0.0, 6.0],
    ),
    "Huber": (
        lambda x: autograd.nn.huber_loss(x, 0 * x.detach(), "sum", 2.0),
        lambda torch, x: torch.nn.functional.huber_loss(x, 0 * x.detach(), "sum", 2.0),
        np.linspace(-2, 2, 12).reshape(3, 4),
    ),
    "det of rank 1": (np.linalg.det, lambda torch, x: torch.linalg.det(x), np.ones((3, 3))),
    "nothing counts": (
        lambda x: autograd.nn.cross_entropy(x, np.array([-100, -100])),
        lambda torch, x: torch.nn.functional.cross_entropy(x, torch.tensor([-100, -100])),
        [[1.0, 2.0], [3.0, 4.0]],
    ),
    "nothing seen": (
        lambda x: autograd.nn.scaled_dot_product_attention(x, x, x, attn_mask=BLIND),
        lambda torch, x: torch.nn.functional.scaled_dot_product_attention(
            x, x, x, attn_mask=torch.tensor(BLIND)
        ),
        [[[1.0, 2.0], [3.0, 4.0]]],
    ),
    "softplus": (
        lambda x: autograd.nn.softplus(x),
        lambda torch, x: torch.nn.functional.softplus(x),
        [-1e3, 0.0, 1e3],
    ),
}
SMOOTH = {"prod", "cumprod", "x ** 0", "x ** 1", "softplus", "nothing seen"}  # twice, at least
BLIND = np.array([[False, False], [True, True]])


@pytest.mark.parametrize("case", OPS_AT_KINKS, ids=lambda case: f"{case[0]}({case[1]})")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_op_at_a_kink_is_torchs(case):
    name, *args = case
    call = Call(tuple(np.array(x) if isinstance(x, list) else x for x in args), {})
    assert_op_same(autograd.REGISTRY[name], call, orders=[1, 2] if name in SMOOTH else [1])


def test_binary_cross_entropy_of_certain_probabilities_is_torchs():
    """At 0 and 1, where PyTorch's own bound, 1e-12, is rounded to float32."""
    import torch

    p, target = np.array([0.0, 0.0, 1.0, 1.0, 1e-14]), np.array([0.0, 1.0, 0.0, 1.0, 0.5])
    ours, theirs = (tensor(p, requires_grad=True) for tensor in (autograd.tensor, torch.tensor))
    found = autograd.nn.binary_cross_entropy(ours, target, reduction="sum")
    expected = torch.nn.functional.binary_cross_entropy(
        theirs, torch.tensor(target), reduction="sum"
    )
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=4e-9)


@pytest.mark.parametrize("name", EXPRESSIONS_AT_KINKS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_expression_at_a_kink_is_torchs(name):
    import torch

    ours, theirs, x = EXPRESSIONS_AT_KINKS[name]
    assert_same(ours, partial(theirs, torch), [np.array(x)], [0], [1, 2] if name in SMOOTH else [1])


# ---- arrays without elements

EMPTY = [(0,), (2, 0), (0, 2), (2, 0, 3), (2, 3, 0), (0, 0)]


def on_nothing():
    """Yield functions of networks, PyTorch's twins, and arguments that have no elements."""
    import torch
    import torch.nn.functional as F

    nn = autograd.nn
    plain = """relu leaky_relu elu hardtanh relu6 hardswish sigmoid silu softplus logsigmoid
               gelu""".split()
    for shape in EMPTY:
        for name in plain:
            yield getattr(nn, name), getattr(F, name), [shape]
        for dim in range(-len(shape), len(shape)):
            for name in ("softmax", "log_softmax"):
                yield (
                    partial(getattr(nn, name), dim=dim),
                    partial(getattr(F, name), dim=dim),
                    [shape],
                )
            yield partial(nn.logsumexp, dim=dim), partial(torch.logsumexp, dim=dim), [shape]
        for last in (shape[-1:], shape[-2:]):
            parameters = [shape, last, last]
            yield (
                partial(lambda f, x, w, b, last: f(x, last, w, b), nn.layer_norm, last=last),
                partial(lambda f, x, w, b, last: f(x, last, w, b), F.layer_norm, last=last),
                parameters,
            )
            yield (
                partial(lambda f, x, w, last: f(x, last, w), nn.rms_norm, last=last),
                partial(lambda f, x, w, last: f(x, last, w), F.rms_norm, last=last),
                parameters[:2],
            )
        for n in (0, 3):
            yield nn.linear, F.linear, [shape, (n, shape[-1]), (n,)]
        for reduction in ("mean", "sum", "none"):
            for name in ("mse_loss", "binary_cross_entropy_with_logits", "binary_cross_entropy",
                         "kl_div", "huber_loss", "smooth_l1_loss"):  # fmt: skip
                ours, theirs = getattr(nn, name), getattr(F, name)
                yield (
                    partial(ours, reduction=reduction),
                    partial(theirs, reduction=reduction),
                    [shape, shape],
                )
    for reduction in ("mean", "sum", "none"):
        for shape in ((0, 3), (0, 0), (0, 3, 2), (2, 3, 0)):
            classes = np.zeros((shape[0], *shape[2:]), int)
            for name in ("cross_entropy", "nll_loss"):
                yield (
                    partial(getattr(nn, name), target=classes, reduction=reduction),
                    partial(getattr(F, name), target=torch.tensor(classes), reduction=reduction),
                    [shape],
                )
    for lead, t, s, d, v in [((), 0, 3, 2, 2), ((), 3, 0, 2, 2), ((2,), 3, 3, 0, 2),
                             ((2,), 3, 3, 2, 0), ((0,), 3, 3, 2, 2)]:  # fmt: skip
        for is_causal in (False, True):
            yield (
                partial(nn.scaled_dot_product_attention, is_causal=is_causal),
                partial(F.scaled_dot_product_attention, is_causal=is_causal),
                [(*lead, t, d), (*lead, s, d), (*lead, s, v)],
            )
    for ids, table in (((0,), (3, 2)), ((2, 0), (0, 2)), ((2,), (3, 0))):
        ids = np.zeros(ids, int)
        yield partial(nn.embedding, ids), partial(F.embedding, torch.tensor(ids)), [table]
    yield nn.conv1d, F.conv1d, [(0, 2, 5), (3, 2, 2), (3,)]
    yield nn.conv2d, F.conv2d, [(0, 2, 5, 4), (3, 2, 2, 1), (3,)]
    for name in ("max_pool2d", "avg_pool2d"):
        size = dict(kernel_size=2, padding=1)
        yield partial(getattr(nn, name), **size), partial(getattr(F, name), **size), [(0, 2, 5, 4)]


@pytest.mark.filterwarnings("error", "ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_without_elements(dtype, kernels):
    """Shapes, values and gradients are PyTorch's wherever an axis has length 0."""
    import torch

    for ours, theirs, shapes in on_nothing():
        arrays = [np.arange(np.prod(s), dtype=dtype).reshape(s) for s in shapes]
        x = [autograd.tensor(a, requires_grad=True) for a in arrays]
        y = [torch.tensor(a, requires_grad=True) for a in arrays]
        with use_kernels(kernels):
            found, expected = ours(*x), theirs(*y)
            found.backward(np.ones(found.shape))
        expected.sum().backward()
        message = f"{ours} of {shapes}"
        assert found.shape == tuple(expected.shape), message
        np.testing.assert_allclose(
            found.numpy(), expected.detach().numpy(), rtol=1e-6, err_msg=message
        )
        for a, b in zip(x, y, strict=True):
            gradient = np.zeros(a.shape) if b.grad is None else b.grad.numpy()
            assert a.grad is not None, message
            np.testing.assert_allclose(
                a.grad.numpy(), gradient, rtol=1e-6, atol=1e-6, err_msg=message
            )

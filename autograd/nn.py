"""Functions of networks that NumPy lacks, with the argument names of ``torch.nn.functional``."""

from autograd.ops.activation import (
    elu,
    erf,
    gelu,
    leaky_relu,
    logsigmoid,
    relu,
    rsqrt,
    sigmoid,
    silu,
    softplus,
)
from autograd.ops.attention import scaled_dot_product_attention
from autograd.ops.convolution import conv1d
from autograd.ops.dropout import dropout
from autograd.ops.embedding import affine, embedding, linear, one_hot
from autograd.ops.embedding import misfit as misfit  # no op: what is wrong with ids, as a phrase
from autograd.ops.index import scatter_add, topk
from autograd.ops.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss
from autograd.ops.normalization import layer_norm, log_softmax, rms_norm, softmax
from autograd.ops.reduce import logsumexp

__all__ = [
    "affine",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "erf",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "logsumexp",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "rms_norm",
    "rsqrt",
    "scaled_dot_product_attention",
    "scatter_add",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "topk",
]

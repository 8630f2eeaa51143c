"""Functions of networks that NumPy lacks, with the argument names of ``torch.nn.functional``."""
# ruff: noqa: F401  (the names are imported here so that users find them)

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
from autograd.ops.index import scatter_add, topk
from autograd.ops.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss
from autograd.ops.normalization import layer_norm, log_softmax, rms_norm, softmax
from autograd.ops.reduce import logsumexp
from autograd.ops.rotary import rope

__all__ = [name for name in dir() if not name.startswith("_")]

from autograd.ops.embedding import misfit  # says what is wrong with ids: for npgpt, not for users

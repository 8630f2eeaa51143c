"""Functions of networks that NumPy lacks, with the argument names of ``torch.nn.functional``."""

from autograd.ops.nn import (
    affine,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layer_norm,
    log_softmax,
    relu,
    scaled_dot_product_attention,
    softmax,
)

__all__ = [
    "affine",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "log_softmax",
    "relu",
    "scaled_dot_product_attention",
    "softmax",
]

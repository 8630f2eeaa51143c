"""Functions of networks that NumPy lacks, with the argument names of ``torch.nn.functional``."""
# ruff: noqa: F401  (the names are imported here so that users find them)

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autograd.ops.activation import (
    elu,
    erf,
    gelu,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    relu,
    relu6,
    rsqrt,
    sigmoid,
    silu,
    softplus,
)
from autograd.ops.attention import scaled_dot_product_attention
from autograd.ops.dropout import (
    dropout,
    masks_from,  # for a batch that several processes compute: for npgpt, not for users
)
from autograd.ops.embedding import (
    affine,
    embedding,
    linear,
    misfit,  # says what is wrong with ids: for npgpt, not for users
    one_hot,
)
from autograd.ops.index import scatter_add, topk
from autograd.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from autograd.ops.normalization import layer_norm, log_softmax, rms_norm, softmax
from autograd.ops.reduce import logsumexp
from autograd.ops.rotary import rope

if TYPE_CHECKING:
    from autograd.ops.convolution import conv1d, conv2d
    from autograd.ops.pooling import avg_pool1d, avg_pool2d, max_pool1d, max_pool2d

# Functions that few programs call, and the modules that their first use imports
RARELY_USED = {
    **dict.fromkeys(["conv1d", "conv2d"], "autograd.ops.convolution"),
    **dict.fromkeys(
        ["avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"], "autograd.ops.pooling"
    ),
}
_OTHERS = {"Any", "RARELY_USED", "TYPE_CHECKING", "import_module", "masks_from", "misfit"}
__all__ = sorted({*dir(), *RARELY_USED} - _OTHERS - {name for name in dir() if name[0] == "_"})


def __getattr__(name: str) -> Any:
    """Import a function that few programs call."""
    if name not in RARELY_USED:
        import numpy as np

        hint = f"; write np.{name}" if name[0] != "_" and hasattr(np, name) else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    function = globals()[name] = getattr(import_module(RARELY_USED[name]), name)
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *RARELY_USED})

"""The layers that architectures share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor, nn
from npgpt.module import Module, Parameter, Traced


class Weighted(Module):
    """A layer with a weight, which it may use in another form than it stores and trains.

    Attributes
    ----------
    form : callable or None
        A function from the weight to what the layer computes with, such as the weight rounded to 4
        bits; see `npgpt.weights.forms`.
    """

    weight: Any
    form: Callable[[Tensor], Tensor] | None = None

    def used_weight(self) -> Tensor:
        """Return the weight in the form in which the layer uses it."""
        return self.weight if self.form is None else self.form(self.weight)


class Linear(Weighted):
    """x @ weight + bias, with ``weight (in, out)``; GPT-2's checkpoints call this Conv1D.

    Attributes
    ----------
    adapter : Module or None
        A change of the layer, which is trained while the layer is frozen; see `npgpt.models.lora`.
    """

    adapter: Any = None

    def __init__(self, n_in: int, n_out: int, bias: bool = True, dtype: DTypeLike = np.float32):
        self.weight = Parameter.full((n_in, n_out), 0, dtype)
        self.bias = Parameter.full((n_out,), 0, dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in) -> (..., out)``."""
        y = nn.affine(x, self.used_weight(), self.bias)
        return y + self.adapter(x) if self.is_changed else y

    def trace(self, x: Traced) -> Traced:
        """Trace the product and the bias."""
        return x.linear(self.whole_weight(), self.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of inputs and outputs."""
        return self.weight.shape

    @property
    def is_changed(self) -> bool:
        """Whether there is an adapter whose change is not in the weight."""
        return self.adapter is not None and self.adapter.unmerged is None

    def whole_weight(self) -> ndarray:
        """Return the weight as it is used, with the change of the adapter, (in, out)."""
        weight = self.used_weight().numpy()
        return weight + self.adapter.change() if self.is_changed else weight


class Embedding(Weighted):
    """A table with one row for each token of the vocabulary.

    The row `padding`, if there is one, gets no gradient where the row is looked up. The form of the
    weight must be one that treats each row for itself.
    """

    part = "token embedding"

    def __init__(
        self, n_rows: int, width: int, dtype: DTypeLike = np.float32, padding: int | None = None
    ):
        self.weight = Parameter.full((n_rows, width), 0, dtype)
        self.padding = padding

    def forward(self, ids: ndarray) -> Tensor:
        """Look up rows: ``(...) -> (..., width)``."""
        if self.padding is None:
            rows = nn.embedding(ids, self.weight)
        else:
            rows = nn.embedding(ids, self.weight, padding_idx=self.padding)
        return rows if self.form is None else self.form(rows)


class LayerNorm(Module):
    """Normalize the last axis, then scale (and shift)."""

    part = "norms"

    def __init__(
        self, width: int, bias: bool = True, eps: float = 1e-5, dtype: DTypeLike = np.float32
    ):
        self.weight = Parameter.full((width,), 1, dtype)
        self.bias = Parameter.full((width,), 0, dtype) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(..., width)``."""
        return nn.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def trace(self, x: Traced) -> Traced:
        """Trace the norm."""
        return x.layer_norm(self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divide the last axis by the root of its mean square, then scale."""

    part = "norms"

    def __init__(self, width: int, eps: float = 1e-6, dtype: DTypeLike = np.float32):
        self.weight = Parameter.full((width,), 1, dtype)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(..., width)``."""
        return nn.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def trace(self, x: Traced) -> Traced:
        """Trace the norm."""
        return x.rms_norm(self.weight, self.eps)


class Dropout(Module):
    """Set elements to zero with probability p, in training."""

    def __init__(self, p: float):
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x."""
        return nn.dropout(x, self.p, self.training, dropout_generator())

    def trace(self, x: Traced) -> Traced:
        """Return x: a model is traced for its use, where dropout is off."""
        return x


_generator: ContextVar[np.random.Generator | None] = ContextVar("dropout_generator", default=None)


dropout_generator = _generator.get


@contextmanager
def dropout_from(generator: np.random.Generator) -> Iterator[None]:
    """Draw the seeds of all dropout inside the block from a generator."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


_tanh_gelu = partial(nn.gelu, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu": nn.gelu,
    "gelu_python": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": np.tanh,
}

"""LoRA: train a small change of the linear layers in the place of the layers themselves.

A linear layer ``x W`` becomes ``x W + s (x A) B``. W is frozen. A is (in, r) and B is (r, out),
with a small rank r, so A and B have few numbers. B begins at zero: the model first computes what
it computed without the change (Hu et al. 2021, arXiv:2106.09685, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor
from autograd.schema import Range, fit_fields
from npgpt.errors import UserError
from npgpt.models.config import Fraction, Size
from npgpt.models.gpt import GPT
from npgpt.models.layers import Dropout, Linear, Weighted
from npgpt.module import Module, Parameter


@dataclass
class LoraConfig:
    """Which linear layers are changed, and how; the fields have the names of peft's.

    Parameters
    ----------
    r : int
        The rank: how many columns A has.
    lora_alpha : float
        The change is multiplied by ``lora_alpha / r``.
    target_modules : tuple of str or str, optional
        Names of linear layers, such as ``("q_proj", "v_proj")``: a layer is changed if its name
        is one of them, or ends with a dot and one of them. A string is a regular expression that
        the whole name must match, or "all-linear" for every linear layer of the blocks. If not
        given, the usual layers of the model type (`npgpt.weights.adapters.USUAL`).
    lora_dropout : float
        The probability with which training drops an element of what A reads.
    use_rslora : bool
        Multiply by ``lora_alpha / sqrt(r)`` (Kalajdzievski 2023, arXiv:2312.03732).
    modules_to_save : tuple of str
        Names of heads, such as ``("score", "classifier")``, that are trained as a whole, and are
        saved beside the matrices. A name that the model does not have is left out, as peft does it
        with the heads of a classification, if it has another of them.

    Raises
    ------
    UserError
        If a field has another type, or a number is out of its range.

    Examples
    --------
    >>> LoraConfig(r=8, lora_alpha=16).scale
    2.0
    """

    r: Size = 8
    lora_alpha: Annotated[float, Range(0, 2**20, excluded=0)] = 8
    target_modules: tuple[str, ...] | str | None = None
    lora_dropout: Fraction = 0.0
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("target_modules", "modules_to_save"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, tuple(value))
        fit_fields(self)

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class LowRank(Module):
    """The change of a linear layer: ``s (x A) B``, with ``A (in, r)`` and ``B (r, out)``.

    Attributes
    ----------
    unmerged : ndarray or None
        While the change is merged into the layer's weight, the weight without the change.
    """

    part = "adapters"

    def __init__(
        self, n_in: int, n_out: int, config: LoraConfig, dtype: DTypeLike, draw: np.random.Generator
    ):
        bound = 1 / math.sqrt(n_in)
        self.lora_A = Parameter(draw.uniform(-bound, bound, (n_in, config.r)).astype(dtype))
        self.lora_B = Parameter.full((config.r, n_out), 0, dtype)
        self.dropout = Dropout(config.lora_dropout)
        self.scale = config.scale
        self.unmerged: ndarray | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in) -> (..., out)``."""
        return self.dropout(x) @ self.lora_A @ self.lora_B * self.scale

    def change(self) -> ndarray:
        """Return ``s A B``, (in, out): what is added to the weight of the layer."""
        return self.lora_A.numpy() @ self.lora_B.numpy() * self.scale


def adapted_layers(model: GPT) -> Iterator[tuple[str, Linear, LowRank]]:
    """Yield the name of each layer that has a change, the layer, and the change."""
    for name, module in model.named_modules():
        if isinstance(module, Linear) and isinstance(module.adapter, LowRank):
            yield name, module, module.adapter


def merge_lora(model: GPT) -> GPT:
    """Add each change to the weight of its layer, which then takes no more time than before.

    `unmerge_lora` takes the changes out again, bit for bit, since the weights without them are
    kept. A layer that is merged already stays as it is.

    Raises
    ------
    UserError
        If the weights are packed, which cannot hold a change.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> model = model.eval()
    >>> from npgpt.weights.adapters import add_lora
    >>> ids = np.array([[1, 2, 3]])
    >>> logits, _ = add_lora(model, LoraConfig(r=2))(ids)
    >>> bool(np.allclose(merge_lora(model)(ids)[0], logits, atol=1e-5))
    True
    """
    for _, layer, adapter in adapted_layers(model):
        if not isinstance(layer.weight, Parameter):
            raise UserError(
                "packed weights cannot hold LoRA's change: write it alone with save_adapter, and "
                "load that into the float32 model"
            )
        if adapter.unmerged is None:
            whole, adapter.unmerged = layer.whole_weight(), layer.weight.numpy()
            layer.weight = frozen(whole)
    return model


def unmerge_lora(model: GPT) -> GPT:
    """Take merged changes out of the weights again: the layer and its change are two as before."""
    for _, layer, adapter in adapted_layers(model):
        if adapter.unmerged is not None:
            layer.weight, adapter.unmerged = frozen(adapter.unmerged), None
    return model


def merged_state(model: GPT) -> dict[str, ndarray]:
    """Return the parameters by name, with each change in the weight of its layer.

    A weight that its layer uses in another form (`npgpt.models.layers.Weighted`) is in this form.
    The model stays as it is. The names are those of a model without changes.

    Examples
    --------
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.weights.adapters import add_lora
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> names = model.state_dict().keys()
    >>> merged_state(add_lora(model, LoraConfig(r=2))).keys() == names
    True
    """
    whole = {
        f"{name}.weight": module.used_weight().numpy()
        for name, module in model.named_modules()
        if isinstance(module, Weighted) and module.form is not None
    }
    own = set[str]()
    for name, layer, adapter in adapted_layers(model):
        whole[f"{name}.weight"] = layer.whole_weight()
        own.update(f"{name}.adapter.{each}" for each, _ in adapter.named_parameters())
    state = model.state_dict()
    return {name: whole.get(name, x) for name, x in state.items() if name not in own}


def frozen(array: ndarray) -> Parameter:
    """Return a parameter that requires no gradient."""
    parameter = Parameter(array)
    parameter.requires_grad_(False)
    return parameter


def remove_lora(model: GPT) -> GPT:
    """Merge all changes and forget their matrices; every parameter can be trained again.

    The result is an ordinary model, which `save_pretrained` writes.
    """
    for _, layer, _ in list(adapted_layers(merge_lora(model))):
        layer.adapter = None
    for parameter in model.parameters():
        parameter.requires_grad_()
    model.lora_config = None
    return model

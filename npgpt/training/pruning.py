"""Pruning: remove the heads, MLP channels and layers that a loss needs least, or zero weights.

A part of a model has a gate: what the part computes is multiplied by the gate, which is 1. If the
gate became 0, the part would be removed. To first order, the loss would then change by minus its
derivative with respect to the gate. The absolute value of this derivative, averaged over sequences,
is the importance of the part (Molchanov et al. 2017, arXiv:1611.06440, equation 8; Michel et al.
2019, arXiv:1905.10650, equation 2).

The derivative is gradient times activation. No gate has to be built for it. Let y (in,) be what a
linear layer with the weight W (in, out) reads, and G = dL/dW. Then the derivative with respect to
a gate of y_i, summed over all positions, is

    sum of y_i dL/dy_i  =  sum over o of W_io G_io,

since G_io is the sum of y_i dL/dz_o over the positions, for z = y W. So weights and their gradients
suffice.

Each layer loses the same number of heads and of channels, because a configuration has one number of
heads, and one width of MLPs. The result is an ordinary model with smaller matrices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.layers import Linear
from npgpt.models.llama import Llama, LlamaConfig
from npgpt.models.registry import architecture_of
from npgpt.module import evaluating, unallocated
from npgpt.training.data import AnyBatch, n_predicted
from npgpt.training.task import accumulate_gradients


class Units(NamedTuple):
    """Which linear layers of a block compute its heads, or the channels of its MLP, and read them.

    Attributes
    ----------
    writers : mapping of str to int
        The layers whose outputs are the units, and how many parts these have: the outputs of
        ``attn.c_attn`` are queries, keys and values, each of which consists of heads.
    reader : str
        The layer whose inputs are the units.
    """

    writers: Mapping[str, int]
    reader: str


class Parts(NamedTuple):
    """What can be pruned: of each block, heads and channels; and layers. Numbers, or shares."""

    heads: Any
    channels: Any
    layers: Any


UNITS: dict[type, tuple[Units, Units]] = {  # heads and channels, by the class of the model
    GPT: (Units({"attn.c_attn": 3}, "attn.c_proj"), Units({"mlp.c_fc": 1}, "mlp.c_proj")),
    Llama: (
        Units(dict.fromkeys((f"self_attn.{x}_proj" for x in "qkv"), 1), "self_attn.o_proj"),
        Units({"mlp.gate_proj": 1, "mlp.up_proj": 1}, "mlp.down_proj"),
    ),
}


def units_of(config: ModelConfig) -> tuple[Units, Units]:
    """Return the units of a model, heads and channels; refuse a model that has other blocks."""
    if (found := UNITS.get(architecture_of(config).model)) is None:
        raise UserError(
            f"the model is of the type {config.model_type}: only a GPT, a Llama, a Mistral or a "
            "Qwen2 can be pruned"
        )
    return found


def count_parts(config: ModelConfig) -> Parts:
    """Return how many heads, channels and layers a model has.

    Where groups of heads share their keys, a group is pruned as a whole, and counts once.

    Examples
    --------
    >>> count_parts(LlamaConfig.preset("smollm2-135m"))
    Parts(heads=3, channels=1536, layers=30)
    """
    heads = config.n_key_heads if isinstance(config, LlamaConfig) else config.n_head
    return Parts(heads, config.mlp_width, config.n_layer)


def measure_importance(model: GPT, batches: Iterable[AnyBatch]) -> Parts:
    """Return the importance of all parts: the mean absolute derivative with respect to their gates.

    Parameters
    ----------
    model : GPT
        A GPT or a Llama. Its gradients are overwritten, and are None afterwards.
    batches : iterable of batches
        The absolute value is taken for each batch. With one sequence in a batch, the derivatives of
        two sequences cannot cancel each other (Michel et al. 2019). A batch without a target does
        not count.

    Returns
    -------
    Parts
        ``heads (L, H)``, or (L, K) with K groups of heads that share their keys; ``channels
        (L, F)``; and ``layers (L,)``, where the gate is on what attention and MLP add.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=3, n_head=2))
    >>> found = measure_importance(model, [(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))])
    >>> found.heads.shape, found.channels.shape, found.layers.shape
    ((3, 2), (3, 32), (3,))
    """
    numbers = count_parts(model.config)
    shapes = (numbers.layers, numbers.heads), (numbers.layers, numbers.channels), numbers.layers
    total = Parts(*map(np.zeros, shapes))
    counted = (batch for batch in batches if n_predicted(batch[1]))
    for n, batch in enumerate(counted, start=1):
        model.zero_grad()
        with evaluating():
            accumulate_gradients(model, [batch])
        for seen, found in zip(total, gate_derivatives(model), strict=True):
            seen += (np.abs(found) - seen) / n  # the mean so far
    model.zero_grad()
    return total


def gate_derivatives(model: GPT) -> Parts:
    """Return the derivatives of the loss with respect to all gates, from ``.grad``."""
    numbers = count_parts(model.config)
    heads: list[ndarray] = []
    channels: list[ndarray] = []
    layers: list[float] = []
    for block in model.transformer.h:
        modules = dict(block.named_modules())
        layer = 0.0
        for units, n, found in zip(
            units_of(model.config), numbers, (heads, channels), strict=False
        ):
            reader: Any = modules[units.reader]
            products = reader.weight.numpy() * reader.weight.grad.numpy()  # (in, out)
            found.append(products.reshape(n, -1).sum(axis=1))
            layer += products.sum()
            if reader.bias is not None:
                layer += (reader.bias.numpy() * reader.bias.grad.numpy()).sum()
        layers.append(layer)
    return Parts(np.array(heads), np.array(channels), np.array(layers))


def remove_parts(model: GPT, keep: Parts, importance: Parts) -> GPT:
    """Return a smaller model, which has only the most important parts of a model.

    Parameters
    ----------
    model : GPT
        A GPT or a Llama. It does not change.
    keep : Parts
        How many heads (or groups of heads) and channels of each layer to keep, and how many layers.
    importance : Parts
        As `measure_importance` returns it.

    Raises
    ------
    UserError
        If nothing would be left of a part, or a layer would compute something else in a new place.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=3, n_head=2))
    >>> found = measure_importance(model, [(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))])
    >>> small = remove_parts(model, Parts(heads=1, channels=16, layers=2), found)
    >>> small.config.n_head, small.config.head_size, small.config.n_inner, small.config.n_layer
    (1, 4, 16, 2)
    """
    config, numbers = model.config, count_parts(model.config)
    for name, kept in keep._asdict().items():
        if kept < 1:
            raise UserError(
                f"the model has {getattr(numbers, name)} {name}{_each(name)}, and pruning would "
                "remove all of them: keep one at least"
            )
    kept_layers = most_important(importance.layers, keep.layers)
    if keep.layers < config.n_layer:
        demand_places(config)
    old, new = model.state_dict(), dict[str, ndarray]()
    for name, array in old.items():
        if not name.startswith("transformer.h."):
            new[name] = array
    for place, layer in enumerate(kept_layers):
        prefix = f"transformer.h.{layer}."
        block = {n.removeprefix(prefix): x for n, x in old.items() if n.startswith(prefix)}
        for units, scores, n in zip(units_of(model.config), importance, keep, strict=False):
            keep_units(block, units, scores.shape[1], most_important(scores[layer], n))
        new |= {f"transformer.h.{place}.{name}": array for name, array in block.items()}
    with unallocated():
        small = type(model)(smaller_config(config, keep), dtype=model.transformer.wte.weight.dtype)
    small.adopt_state_dict({name: array.copy() for name, array in new.items()})
    small.generation_config = model.generation_config
    small.eval()
    return small


def _each(name: str) -> str:
    return "" if name == "layers" else " in each layer"


def most_important(scores: ndarray, n: int) -> ndarray:
    """Return the places of the n largest scores, in their order; of equal scores, the first.

    Examples
    --------
    >>> most_important(np.array([3.0, 1.0, 2.0, 2.0]), 2)
    array([0, 2])
    """
    return np.sort(np.argsort(-scores, kind="stable")[:n])


def keep_units(block: dict[str, ndarray], units: Units, n_units: int, kept: ndarray) -> None:
    """Keep some of the units in the arrays of a block, by their names in the block."""
    for name, n_parts in units.writers.items():
        for key in (f"{name}.weight", f"{name}.bias"):  # (in, out) and (out,)
            if key in block:
                array = block[key]
                parts = array.reshape(*array.shape[:-1], n_parts, n_units, -1)
                block[key] = parts[..., kept, :].reshape(*array.shape[:-1], -1)
    key = f"{units.reader}.weight"
    rows = block[key].reshape(n_units, -1, block[key].shape[1])  # (in, out) -> (units, _, out)
    block[key] = rows[kept].reshape(-1, rows.shape[2])


def smaller_config(config: ModelConfig, keep: Parts) -> ModelConfig:
    """Return the configuration of a model with some of the parts."""
    group = config.n_head // count_parts(config).heads
    fields: dict[str, Any] = dict(
        n_head=keep.heads * group, head_dim=config.head_size, n_inner=keep.channels,
        n_layer=keep.layers,
    )  # fmt: skip
    if isinstance(config, LlamaConfig):
        fields["n_kv_head"] = keep.heads
    return dataclasses.replace(config, **fields)


def demand_places(config: ModelConfig) -> None:
    """Refuse to remove layers of a model in which the place of a layer decides what it computes."""
    why = ""
    if len({config.window_of(layer) for layer in range(config.n_layer)}) > 1:
        why = "the place of a layer decides whether it has a window"
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        why = "scores of attention are divided by the number of the layer"
    if getattr(config, "norm_position", "pre") == "post":
        why = "a post-norm layer does not add to what it reads, so no layer can be left out"
    if why:
        raise UserError(f"layers of this model cannot be removed: {why}. Prune heads or channels")


def zero_smallest(model: GPT, share: float) -> None:
    """Set a share of the weights of each linear layer to zero, the smallest without sign.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=1, n_head=2))
    >>> zero_smallest(model, 0.75)
    >>> round(share_of_zeros(model), 2)
    0.75
    """
    for array in matrices_of(model):
        places = np.argsort(np.abs(array), axis=None, kind="stable")
        array.ravel()[places[: round(share * array.size)]] = 0


def share_of_zeros(model: GPT) -> float:
    """Return the share of the weights of linear layers that are zero."""
    arrays = matrices_of(model)
    zeros = sum(array.size - np.count_nonzero(array) for array in arrays)
    return float(zeros / sum(array.size for array in arrays))


def matrices_of(model: GPT) -> list[ndarray]:
    """Return the weights of all linear layers, which may be written."""
    modules = (module for _, module in model.named_modules())
    return [module.weight.data for module in modules if isinstance(module, Linear)]

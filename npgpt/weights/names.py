"""From a file's names to the model's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy import ndarray

from npgpt.models.gpt import GPT
from npgpt.models.layers import LayerNorm, Linear
from npgpt.models.positions import SinusoidalEmbedding
from npgpt.weights.safetensors import Stored, Transposed

MINGPT = {"*.c_*.weight": "*.c_*.weight.T"}


def fitted(model: GPT, tensors: dict[str, Stored], mapping: Mapping[str, str]) -> dict[str, Stored]:
    """Return stored tensors under the model's names, without what only some formats have."""
    rest, result = dict(tensors), dict[str, Stored]()
    for name, _ in model.named_parameters():
        if (theirs := _name_there(name, mapping)) is not None:
            transposed = theirs.endswith(".T") and theirs not in tensors
            stored = rest.pop(theirs.removesuffix(".T") if transposed else theirs, None)
            if stored is None:
                raise ValueError(f"{theirs}, the mapping's name for {name}, is missing")
            result[name] = Transposed(stored) if transposed else stored
    for theirs, stored in rest.items():
        if _BUFFER.search(theirs):
            continue
        name = _our_name(theirs)
        if name in result:
            raise ValueError(f"{theirs} is there twice, under two names")
        result[name] = stored
    if model.config.tie_word_embeddings and (head := result.pop("lm_head.weight", None)):
        table = result.setdefault("transformer.wte.weight", head)
        if not _equal(head, table):
            raise ValueError("lm_head.weight is not the token embedding, to which it must be tied")
    for name, (shape, make) in implied(model).items():
        if (stored := result.pop(name, None)) is not None:
            close = 0 if name.endswith("bias") else 4e-3  # bfloat16 rounds sines by 0.002
            if stored.shape != shape or not np.allclose(
                stored.read(np.float32), make(), rtol=0, atol=close
            ):
                raise ValueError(f"{name} is not what the configuration implies")
    return result


def implied(model: GPT) -> dict[str, tuple[tuple[int, ...], Callable[[], ndarray]]]:
    """Return shape and value of what transformers stores, and this model computes or leaves out.

    These are the zero biases of a model without any, and the table of sinusoidal positions.
    """
    found: dict[str, tuple[tuple[int, ...], Callable[[], ndarray]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear | LayerNorm) and module.bias is None:
            shape, dtype = module.weight.shape[-1:], module.weight.dtype
            found[f"{name}.bias"] = shape, partial(np.zeros, shape, dtype)
        if isinstance(module, SinusoidalEmbedding):
            n = model.config.n_positions
            found[f"{name}.weight"] = (n, module.width), partial(module.rows, n)
    return found


# Masks and counters that old checkpoints keep beside the weights.
_BUFFER = re.compile(r"(^|\.)(attn\.(bias|masked_bias)|position_ids)$")


_GPT1_NAMES = {"wte": "tokens_embed", "wpe": "positions_embed"}


_OUR_NAMES = {theirs: ours for ours, theirs in _GPT1_NAMES.items()}


def _gpt1_name(name: str) -> str:
    return re.sub(r"\b(wte|wpe)\b", lambda found: _GPT1_NAMES[found[0]], name)


def _our_name(name: str) -> str:
    """Return our name of one in a checkpoint: GPT-1's tables, and the prefix that may lack."""
    name = re.sub(r"\b(tokens_embed|positions_embed)\b", lambda found: _OUR_NAMES[found[0]], name)
    return f"transformer.{name}" if re.match(r"(wte|wpe|ln_f|h\.\d+)\.", name) else name


def _name_there(name: str, mapping: Mapping[str, str]) -> str | None:
    """Return what a mapping makes of a name, if anything."""
    for ours, theirs in mapping.items():
        pattern = "(.*?)".join(map(re.escape, ours.split("*")))
        if found := re.fullmatch(pattern, name):
            if theirs.count("*") != ours.count("*"):
                raise ValueError(f"the mapping's {ours!r} and {theirs!r} differ in their stars")
            parts = theirs.split("*")
            return parts[0] + "".join(
                text + part for text, part in zip(found.groups(), parts[1:], strict=True)
            )
    return None


def _equal(a: Stored, b: Stored) -> bool:
    return a is b or a.shape == b.shape and np.array_equal(a.read(np.float32), b.read(np.float32))

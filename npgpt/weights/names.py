"""The names of parameters: those in files, and those of a model here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy import ndarray

from npgpt.models.config import GPTConfig
from npgpt.models.encoder_decoder import EncoderDecoderConfig
from npgpt.models.gpt import GPT
from npgpt.models.layers import LayerNorm, Linear
from npgpt.models.positions import SinusoidalEmbedding
from npgpt.models.registry import ARCHITECTURES
from npgpt.module import Parameter
from npgpt.weights.safetensors import Stored, Transposed

MINGPT = {"*.c_*.weight": "*.c_*.weight.T"}
"""The mapping for checkpoints whose linear layers are PyTorch's, (out, in)."""


def fitted(model: GPT, tensors: dict[str, Stored], mapping: Mapping[str, str]) -> dict[str, Stored]:
    """Return stored tensors under the model's names, without what only some formats have.

    A tensor is looked up under the name that `mapping` gives, which must then be there; otherwise
    under the names of `names_in_files`.
    """
    rest = {_OLD_NORM.sub(_new_norm, name): stored for name, stored in tensors.items()}
    result = dict[str, Stored]()
    parameters, tied = dict(model.named_parameters()), tied_names(model)
    for name in parameters:
        if (theirs := name_there(name, mapping)) is not None:
            if (stored := _take(rest, theirs)) is None:
                raise ValueError(f"{theirs}, the mapping's name for {name}, is missing")
            result[name] = stored
    for name in (*parameters, *tied, *implied(model)):
        for theirs in names_in_files(name, model):
            if (stored := _take(rest, theirs)) is not None:
                if name in result:
                    raise ValueError(f"{theirs} is there twice, under two names")
                result[name] = stored
    ignored = model.optional_tensors
    result |= {
        name: stored
        for name, stored in rest.items()
        if not _BUFFER.search(name) and not name.startswith(ignored)
    }
    for name, first in tied.items():
        if (stored := result.pop(name, None)) is not None:
            if not _equal(stored, result.setdefault(first, stored)):
                raise ValueError(
                    f"{name} is not the token embedding {first}, to which it must be tied"
                )
    for name, (shape, make) in implied(model).items():
        if (stored := result.pop(name, None)) is not None:
            close = 0 if name.endswith("bias") else 4e-3  # bfloat16 rounds sines by 0.002
            if stored.shape != shape or not np.allclose(
                stored.read(np.float32), make(), rtol=0, atol=close
            ):
                raise ValueError(f"{name} is not what the configuration implies")
    return result


def implied(model: GPT) -> dict[str, tuple[tuple[int, ...], Callable[[], ndarray]]]:
    """Return the tensors that transformers stores and this model has not: name, shape and value.

    These are the biases of a GPT without biases, which are zeros, and the table of sinusoidal
    positions, which is computed here.
    """
    found: dict[str, tuple[tuple[int, ...], Callable[[], ndarray]]] = {}
    if not isinstance(model.config, GPTConfig | EncoderDecoderConfig):
        return found
    for name, module in model.named_modules():
        if isinstance(module, Linear | LayerNorm) and module.bias is None:
            shape, dtype = module.weight.shape[-1:], module.weight.dtype
            found[f"{name}.bias"] = shape, partial(np.zeros, shape, dtype)
        if isinstance(module, SinusoidalEmbedding):
            n = model.config.n_positions
            found[f"{name}.weight"] = (n, module.width), partial(module.rows, n)
    return found


# Masks, counters and frequencies that old checkpoints keep beside the weights.
_BUFFER = re.compile(r"(^|\.)(attn\.(bias|masked_bias)|position_ids|rotary_emb\.inv_freq)$")

# What TensorFlow called the weight and the bias of a norm; BERT's published files still do.
_OLD_NORM = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")


def _new_norm(found: re.Match[str]) -> str:
    return {"gamma": "weight", "beta": "bias"}[found[0]]


def names_in_files(name: str, model: GPT) -> list[str]:
    """Return the names that a parameter may have in a file.

    These are the names in the tables of the model's architectures (a GPT may be stored as a GPT-1
    or as a GPT-2), and the parameter's own name; each also without the first word, which files of a
    model without its head lack.

    Examples
    --------
    >>> from npgpt import GPT, GPTConfig
    >>> names_in_files("transformer.h.0.ln_1.weight", GPT(GPTConfig(5, 4, 8, 1, 1)))
    ['transformer.h.0.ln_1.weight', 'h.0.ln_1.weight']
    """
    kinds = [each for each in ARCHITECTURES.values() if each.model is type(model)]
    whole = [name, *filter(None, (name_there(name, each.names) for each in kinds))]
    bare = [each.partition(".")[2] for each in whole if each.removesuffix(".T").count(".") > 1]
    return list(dict.fromkeys(whole + bare))


def renamed(tensors: dict[str, ndarray], names: Mapping[str, str]) -> dict[str, ndarray]:
    """Return tensors under the names that a table gives them in a file, transposed where it says.

    Examples
    --------
    >>> list(renamed({"h.0.weight": np.ones((2, 3))}, {"h.*.weight": "layer_*.w.T"}))
    ['layer_0.w']
    """
    result = {}
    for name, array in tensors.items():
        theirs = name_there(name, names) or name
        is_transposed = theirs != name and theirs.endswith(".T")
        array = np.ascontiguousarray(array.T) if is_transposed else array
        result[theirs.removesuffix(".T") if is_transposed else theirs] = array
    return result


def tied_names(model: GPT) -> dict[str, str]:
    """Return the second names of parameters that have two, and the first name of each."""
    first: dict[int, str] = {}
    second = {}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Parameter):
                name = f"{prefix}.{key}" if prefix else key
                if first.setdefault(id(value), name) != name:
                    second[name] = first[id(value)]
    return second


def _take(tensors: dict[str, Stored], name: str) -> Stored | None:
    """Take a tensor out; one whose name ends with .T is taken by the rest of it, transposed."""
    if name in tensors or not name.endswith(".T"):
        return tensors.pop(name, None)
    stored = tensors.pop(name.removesuffix(".T"), None)
    return None if stored is None else Transposed(stored)


def name_there(name: str, mapping: Mapping[str, str]) -> str | None:
    """Return the name that a mapping gives a parameter in a file; None if it gives none.

    Examples
    --------
    >>> name_there("transformer.h.3.ln_1.bias", {"transformer.h.*.ln_1.*": "layer_*.norm.*"})
    'layer_3.norm.bias'
    """
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

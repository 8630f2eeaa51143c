"""The number of parameters in each part of a model."""

from __future__ import annotations

import dataclasses
from collections import Counter

from npgpt.models.config import ModelConfig
from npgpt.models.registry import architecture_of
from npgpt.module import unallocated


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Return the number of parameters in each part of a model; tied parameters count once.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> sum(parameters_by_part(GPTConfig.preset("gpt3-175b")).values())
    174604259328
    """
    with unallocated():
        model = architecture_of(config).model(dataclasses.replace(config, n_layer=1))
    layers = model.transformer.first_layers()
    modules, counts = dict(model.named_modules()), Counter[str]()
    for name, parameter in model.named_parameters():
        words = name.split(".")  # transformer, h, 0, attn, c_attn, weight
        prefixes = [".".join(words[:n]) for n in range(1, len(words))]
        owners = [modules[prefix] for prefix in prefixes if prefix in modules]
        part = next((owner.part for owner in owners if owner.part), "others")
        is_of_layer = any(owner is layer for owner in owners for layer in layers)
        counts[part] += parameter.size * (config.n_layer if is_of_layer else 1)  # layers are alike
    return {part: counts[part] for part in (*PARTS, *counts) if counts[part]}


PARTS = ("token embedding", "position embedding", "attention", "MLPs", "norms", "head")  # in order

"""How many parameters each part of a model has."""

from __future__ import annotations

import dataclasses
from collections import Counter

from npgpt.models.config import GPTConfig
from npgpt.models.gpt import GPT
from npgpt.module import unallocated


def parameters_by_part(config: GPTConfig) -> dict[str, int]:
    """Return how many parameters each part of a model has; tied ones count once.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> sum(parameters_by_part(GPTConfig.preset("gpt3-175b")).values())
    174604259328
    """
    with unallocated():
        model = GPT(dataclasses.replace(config, n_layer=1))
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        times = config.n_layer if ".h.0." in name else 1  # layers are alike
        part = next(part for word, part in _PARTS.items() if word in name)
        counts[part] += times * parameter.size
    return {part: counts[part] for part in _PARTS.values() if counts[part]}


_PARTS = {
    ".wte.": "token embedding",
    ".wpe.": "position embedding",
    ".attn.": "attention",
    ".mlp.": "MLPs",
    ".ln_": "norms",
    "lm_head.": "head",
}

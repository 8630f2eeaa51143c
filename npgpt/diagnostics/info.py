"""What an architecture is, and what it costs: counted from its layers, which are not allocated.

No size of a layer stands here. A model without memory is traced (`npgpt.module.Traced`): each layer
says which products it computes, and `Counted` adds up what these cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import nn
from autograd.schema import nearest
from npgpt.errors import UserError
from npgpt.hub import find_config, find_model
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.models.parts import parameters_by_part
from npgpt.models.registry import PRESETS, architecture_of
from npgpt.module import Parameter, Traced, unallocated

FLOAT = 4  # bytes


def config_of(source: str) -> ModelConfig:
    """Return the configuration of a preset, of a folder with a model, or of a name on the hub."""
    if source in PRESETS and not Path(source).is_dir():
        return PRESETS[source]
    try:
        return find_config(find_model(source))
    except UserError as error:
        if Path(source).exists():
            raise
        hint = nearest(source, PRESETS, help="npgpt info")
        raise UserError(f"{error}; it is no preset either{hint}") from None


@dataclass
class Tally:
    """What a token costs on its way through some layers.

    Parameters
    ----------
    context : int
        Tokens of the sequence: attention costs what its average token costs.
    """

    context: int
    flops: float = 0  # of products with weights
    attention_flops: float = 0  # of scores and weighted sums
    keys: float = 0  # that its queries see
    kept: int = 0  # numbers that the tape keeps for the backward pass
    cached: int = 0  # numbers in the cache, for all tokens of the context together

    def add(self, other: Tally, times: int = 1) -> None:
        """Add what other layers cost, several times."""
        for name in ("flops", "attention_flops", "keys", "kept", "cached"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))


class Counted(Traced):
    """Hidden states of a token, (width,), whose way through layers is added to a tally.

    Each layer adds its operations, a multiplication and an addition for each matrix element, and
    the numbers that NumPy's ops keep of it. An array that two ops keep counts once: the result of
    ReLU is kept as the input of the linear layer behind.

    Examples
    --------
    >>> from npgpt.models.layers import Linear
    >>> tally = Tally(context=1)
    >>> Linear(3, 5)(Counted(3, tally)).width
    5
    >>> tally.flops, tally.kept
    (30, 3)
    """

    def __init__(self, width: int, tally: Tally) -> None:
        self.width, self.tally = width, tally
        self.is_kept = False

    def keep(self) -> None:
        """Count the numbers as kept by the tape, once."""
        self.tally.kept += 0 if self.is_kept else self.width
        self.is_kept = True

    def linear(self, weight: ndarray, bias: Parameter | None = None) -> Counted:
        """Count a product, which keeps its input."""
        self.tally.flops += 2 * weight.size
        self.keep()
        return Counted(weight.shape[1], self.tally)

    def layer_norm(self, weight: Parameter, bias: Parameter | None, eps: float) -> Counted:
        """Count a norm, which keeps its input, the mean and the deviation."""
        self.keep()
        self.tally.kept += 2
        return Counted(self.width, self.tally)

    def activation(self, function: Any) -> Counted:
        """Count what an activation keeps beside its result."""
        self.tally.kept += KEPT.get(function, 1) * self.width
        return Counted(self.width, self.tally)

    def rms_norm(self, weight: Parameter, eps: float) -> Counted:
        """Count a norm, which keeps its input, and the root of the mean square."""
        self.keep()
        self.tally.kept += 1
        return Counted(self.width, self.tally)

    def rotate(self, head_size: int) -> Counted:
        """Count a rotation, which keeps cosines and sines only, as all layers share them."""
        return Counted(self.width, self.tally)

    def split(self, n: int) -> list[Counted]:
        """Count the parts, which are views."""
        return [Counted(self.width // n, self.tally) for _ in range(n)]

    def attend(
        self, key: Any, value: Any, layer: int, n_head: int, scale: float, window_size: int | None
    ) -> Counted:
        """Count attention: two products; it keeps query, key, value, result, and each maximum."""
        T, width = self.tally.context, self.width
        far = min(window_size or T, T)  # keys that the last query sees
        keys = (far * (far + 1) / 2 + (T - far) * far) / T  # the mean of min(t, far), t = 1 ... T
        self.tally.keys += keys
        self.tally.attention_flops += 4 * width * keys
        for part in (self, key, value):
            part.keep()
        self.tally.kept += width + n_head
        self.tally.cached += (key.width + value.width) * far
        return Counted(width, self.tally)

    def attend_all(self, key: Any, value: Any, n_head: int, cached: bool = False) -> Counted:
        """Count attention of each token to all tokens of a context."""
        T, width = self.tally.context, self.width
        self.tally.keys += T
        self.tally.attention_flops += 4 * width * T
        for part in (self, key, value):
            part.keep()
        self.tally.kept += width + n_head
        self.tally.cached += (key.width + value.width) * T if cached else 0
        return Counted(width, self.tally)

    def __mul__(self, other: Any) -> Counted:
        """Count a product, which keeps both sides."""
        self.keep()
        other.keep()
        return Counted(self.width, self.tally)

    def __add__(self, other: Any) -> Counted:
        """Return the sum, for which the tape keeps nothing."""
        return Counted(self.width, self.tally)


KEPT = {nn.relu: 0, np.tanh: 0}  # arrays beside the result; GELU and SiLU keep their input


@dataclass(frozen=True)
class Cost:
    """What a model costs for a batch of sequences that fill a context.

    Parameters
    ----------
    config : ModelConfig
    batch : int
        Sequences.
    context : int
        Tokens of each.
    """

    config: ModelConfig
    batch: int
    context: int

    @property
    def n_parameters(self) -> int:
        """All parameters, tied ones counted once."""
        return sum(parameters_by_part(self.config).values())

    @cached_property
    def _model(self) -> GPT:
        """A model of one layer, without memory."""
        with unallocated():
            config = dataclasses.replace(self.config, n_layer=1)
            return architecture_of(config).model(config)

    def _of_layer(self, layer: int) -> Tally:
        """Return what a token costs in one layer."""
        tally = Tally(self.context)
        with unallocated():
            block = self._model.block(self.config, layer, np.float32)
        block(Counted(self.config.n_embd, tally))
        return tally

    @cached_property
    def _of_token(self) -> Tally:
        """What a token costs in all layers and in the head; layers of one window are alike."""
        tally, alike = Tally(self.context), dict[int | None, list[int]]()
        for layer in range(self.config.n_layer):
            alike.setdefault(self.config.window_of(layer), []).append(layer)
        for layers in alike.values():
            tally.add(self._of_layer(layers[0]), len(layers))
        if self._has_logits:
            self._model.lm_head(Counted(self.config.n_embd, tally))
        return tally

    @property
    def _has_logits(self) -> bool:
        """Whether there are logits for each token; a pooler reads one token of a text only."""
        return self._model.lm_head is not None

    @property
    def _logits(self) -> int:
        """The number of logits for a token."""
        return self.config.vocab_size if self._has_logits else 0

    def visible(self, layer: int) -> float:
        """Return how many keys a query of a layer sees, on average over the context."""
        return self._of_layer(layer).keys

    @property
    def attention_flops(self) -> float:
        """Operations of the scores and the weighted sums, for a token's forward pass."""
        return self._of_token.attention_flops

    @property
    def flops(self) -> float:
        """Operations of a token's forward pass: two for each element of a matrix.

        Norms, activations and the softmax do not count: they are of the order of 1 %.
        """
        return self._of_token.flops + self.attention_flops

    @property
    def training_flops(self) -> float:
        """Operations of both passes: backward has two products for each product of forward."""
        return 3 * self.flops

    @property
    def weights(self) -> int:
        """Bytes of the parameters."""
        return FLOAT * self.n_parameters

    @property
    def activations(self) -> int:
        """Bytes of what the tape keeps for the backward pass, as NumPy's ops keep it.

        Beside what the layers keep, these are the hidden states before the last norm, and the
        logits.
        """
        per_token = self._of_token.kept + self.config.n_embd + self._logits
        return FLOAT * self.batch * self.context * per_token

    @property
    def training(self) -> int:
        """Bytes for training: weights, gradients, AdamW's two means, activations."""
        return 4 * self.weights + self.activations

    @property
    def cache(self) -> int:
        """Bytes of the keys and values of a full context, a banded layer keeping its window."""
        return FLOAT * self.batch * self._of_token.cached

    @property
    def inference(self) -> int:
        """Bytes for generating token by token: weights, cache, and the logits."""
        return self.weights + self.cache + FLOAT * self.batch * self._logits


def sections(
    config: ModelConfig, batch: int, context: int, lengths: list[int]
) -> dict[str, dict[str, str]]:
    """Return the page of an architecture: for each section, the values by their labels."""
    cost, parts = Cost(config, batch, context), parameters_by_part(config)
    described = config.described()
    head = "tied" if config.tie_word_embeddings else "its own"
    head = f"{len(config.labels)} labels" if config.labels else head
    total = sum(parts.values())

    def growing(cost_at: Callable[[Cost], float], unit: str) -> dict[str, str]:
        return {
            f"context {n:,}": _scaled(cost_at(Cost(config, batch, n)), unit)
            if n <= context
            else "-"
            for n in lengths
        }

    return {
        "architecture": {
            "layers": f"{config.n_layer}",
            "width": f"{config.n_embd:,}",
            **described,
            "vocabulary": f"{config.vocab_size:,}",
            "head": described.get("head", head),
        },
        "parameters": {
            "all": f"{total:,}",
            **{part: f"{n:,} ({n / total:.1%})" for part, n in parts.items()},
        },
        "computation for a token": {
            "context": f"{context:,}",
            "forward": _scaled(cost.flops, "FLOP"),
            "attention's share": f"{cost.attention_flops / cost.flops:.1%}",
            "with backward": _scaled(cost.training_flops, "FLOP"),
        },
        "memory in float32": {
            "batch": f"{batch} x {context:,}",
            "weights": _scaled(cost.weights, "B"),
            "gradients, AdamW": _scaled(3 * cost.weights, "B"),
            "activations": _scaled(cost.activations, "B"),
            "training": _scaled(cost.training, "B"),
            "key/value cache": _scaled(cost.cache, "B"),
            "inference": _scaled(cost.inference, "B"),
        },
        "forward, for a token": growing(lambda cost: cost.flops, "FLOP"),
        "activations": growing(lambda cost: cost.activations, "B"),
        "key/value cache": growing(lambda cost: cost.cache, "B"),
    }


def show(sources: list[str], batch: int = 1, context: int | None = None) -> str:
    """Return the pages of one architecture, or of several side by side.

    Parameters
    ----------
    sources : list of str
        Presets, folders, or names on the hub; see `config_of`.
    batch : int
        Sequences.
    context : int, optional
        Tokens of each sequence; as many as the model takes if not given.

    Raises
    ------
    UserError
        If there is no such model, if it does not take so many tokens, or if `batch` or `context` is
        less than 1.

    Examples
    --------
    >>> for line in show(["gpt1", "gpt3-175b"]).splitlines()[1:5]:
    ...     print(line)
    architecture
      layers             12                  96
      width              768                 12,288
      heads              12 of 64            96 of 128
    """
    configs = [config_of(source) for source in sources]
    contexts = [c.n_positions if context is None else context for c in configs]
    for source, config, T in zip(sources, configs, contexts, strict=True):
        if min(T, batch) < 1:
            raise UserError("--batch and --context must be at least 1")
        if T > config.n_positions:
            raise UserError(f"--context is {T}, and {source} has {config.n_positions} positions")
    lengths = sorted({*contexts, *(n for n in (64, 256, 1024, 4096, 16384) if n < max(contexts))})
    columns = [
        sections(config, batch, T, lengths) for config, T in zip(configs, contexts, strict=True)
    ]
    lines = [("", *sources)]
    for section in columns[0]:
        lines.append((section, *("" for _ in sources)))
        for label in dict.fromkeys(label for column in columns for label in column[section]):
            lines.append((f"  {label}", *(column[section].get(label, "-") for column in columns)))
    widths = [2 + max(map(len, cells)) for cells in zip(*lines, strict=True)]
    widths[0] = 21
    return "\n".join(
        "".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def presets() -> str:
    """Return the names of the presets and their sizes.

    Examples
    --------
    >>> print(presets().splitlines()[0])
    gpt1             116,534,784 parameters
    """
    return "\n".join(
        f"{name:<12}{sum(parameters_by_part(config).values()):>16,} parameters"
        for name, config in PRESETS.items()
    )


def _scaled(n: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if n < 999.5:
            break
        n, prefix = n / 1000, "P"
    return f"{n:.3g} {prefix}{unit}"

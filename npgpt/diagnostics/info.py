"""What an architecture is, and what it costs: counted from its configuration, not allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from npgpt.errors import UserError
from npgpt.hub import find_config, find_model
from npgpt.models.config import PRESETS, GPTConfig, nearest
from npgpt.models.parts import parameters_by_part

FLOAT = 4  # bytes


def config_of(source: str) -> GPTConfig:
    """Return the configuration of a preset, of a folder with a model, or of a name on the hub."""
    if source in PRESETS and not Path(source).is_dir():
        return PRESETS[source]
    try:
        return find_config(find_model(source))
    except UserError as error:
        hint = (
            ""
            if Path(source).exists()
            else f"; it is no preset either{nearest(source, [*PRESETS])}"
        )
        raise UserError(f"{error}{hint}") from None


@dataclass(frozen=True)
class Cost:
    """What a model costs for a batch of sequences that fill a context.

    Parameters
    ----------
    config : GPTConfig
    batch : int
        Sequences.
    context : int
        Tokens of each.
    """

    config: GPTConfig
    batch: int
    context: int

    @property
    def n_parameters(self) -> int:
        """All parameters, tied ones counted once."""
        return sum(parameters_by_part(self.config).values())

    def visible(self, layer: int) -> float:
        """Return how many keys a query of a layer sees, on average over the context."""
        T, w = self.context, self._kept(layer)
        return (w * (w + 1) / 2 + (T - w) * w) / T  # the mean of min(t, w) for t = 1 ... T

    def _kept(self, layer: int) -> int:
        """Return how far back a layer looks: over all of the context, every other in a window."""
        window = self.config.window_size if layer % 2 else None
        return min(window or self.context, self.context)

    def _all_layers(self, of: Callable[[int], float]) -> float:
        """Return the sum over all layers of what depends on whether they are even or odd."""
        odd = self.config.n_layer // 2
        return (self.config.n_layer - odd) * of(0) + odd * of(1)

    @property
    def attention_flops(self) -> float:
        """Of the scores and the weighted sums, for a token's forward pass."""
        return 4 * self.config.n_embd * self._all_layers(self.visible)  # 2 products, 2 each

    @property
    def flops(self) -> float:
        """Of a token's forward pass: a multiplication and an addition for each matrix element.

        Norms, activations and the softmax are left out: they are of the order of 1 %.
        """
        config = self.config
        C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        layer = 3 * C * C + C * C + 2 * C * inner  # c_attn, attention's c_proj, the MLP
        return 2 * (config.n_layer * layer + C * config.vocab_size) + self.attention_flops

    @property
    def training_flops(self) -> float:
        """Of a token's forward and backward pass, which has two products for each of forward's."""
        return 3 * self.flops

    @property
    def weights(self) -> int:
        """Bytes of the parameters."""
        return FLOAT * self.n_parameters

    @property
    def activations(self) -> int:
        """Bytes of what the tape keeps for the backward pass, as NumPy's ops keep it.

        Each layer keeps 9 arrays of the width C (its input, both normalized or summed inputs of the
        branches, queries, keys and values, attention's result twice) and those of the activation.
        """
        config = self.config
        C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        kept = {"relu": 1, "tanh": 1, "silu": 2, "swish": 2}.get(config.activation_function, 3)
        layer = 9 * C + kept * inner + config.n_head + 4  # the last: softmax and norms
        per_token = config.n_layer * layer + 2 * C + config.vocab_size
        return FLOAT * self.batch * self.context * per_token

    @property
    def training(self) -> int:
        """Bytes for training: weights, gradients, AdamW's two means, activations."""
        return 4 * self.weights + self.activations

    @property
    def cache(self) -> int:
        """Bytes of the keys and values of a full context, a banded layer keeping its window."""
        positions = self._all_layers(self._kept)
        return FLOAT * self.batch * 2 * self.config.n_embd * int(positions)

    @property
    def inference(self) -> int:
        """Bytes for generating token by token: weights, cache, and the logits."""
        return self.weights + self.cache + FLOAT * self.batch * self.config.vocab_size


def sections(
    config: GPTConfig, batch: int, context: int, lengths: list[int]
) -> dict[str, dict[str, str]]:
    """Return everything about an architecture: values by section and label."""
    cost, parts = Cost(config, batch, context), parameters_by_part(config)
    total, window = sum(parts.values()), config.window_size

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
            "heads": f"{config.n_head} of {config.head_size}",
            "MLP": f"{config.n_inner or 4 * config.n_embd:,}, {config.activation_function}",
            "norm": config.norm_position,
            "attention": "dense" if window is None else f"dense, last {window:,} in turn",
            "positions": f"{config.n_positions:,}, {config.position_embedding}",
            "vocabulary": f"{config.vocab_size:,}",
            "head": "tied" if config.tie_word_embeddings else "its own",
            "biases": "yes" if config.bias else "no",
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
    """Return a page on one architecture, or on several side by side.

    Parameters
    ----------
    sources : list of str
        Presets, folders, or names on the hub; see `config_of`.
    batch : int
        Sequences.
    context : int, optional
        Tokens of each; as many as the model takes if not given.

    Raises
    ------
    UserError
        If there is no such model, or it does not take so many tokens.

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

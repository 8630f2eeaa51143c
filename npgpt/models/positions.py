"""Positions: how a model is told where in the text a token stands."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from npgpt.models.layers import Embedding
from npgpt.module import Module


class PositionEmbedding(Embedding):
    """A table with one row for each position of the context, learned like that of the tokens."""

    part = "position embedding"


class SinusoidalEmbedding(Module):
    """A fixed table of positions: sines and cosines (Vaswani et al. 2017, section 3.5).

    Channel 2i of position p is sin(p / 10000^(2i / width)), and channel 2i + 1 is the cosine of the
    same angle. The angles of later channels grow more slowly with the position. This is the layout
    "interleaved". In the layout "halves", that of Marian, all sines come first, in the same order,
    and all cosines after them.

    Examples
    --------
    >>> SinusoidalEmbedding(4, np.float64).rows(2)[1].round(2).tolist()
    [0.84, 0.54, 0.01, 1.0]
    >>> SinusoidalEmbedding(4, np.float64, "halves").rows(2)[1].round(2).tolist()
    [0.84, 0.01, 0.54, 1.0]
    """

    def __init__(
        self,
        width: int,
        dtype: DTypeLike = np.float32,
        layout: Literal["interleaved", "halves"] = "interleaved",
    ):
        self.width, self.dtype, self.layout = width, dtype, layout

    def forward(self, ids: ndarray) -> ndarray:
        """Compute rows: ``(...) -> (..., width)``."""
        channel = np.arange(self.width)
        angle = np.asarray(ids)[..., None] / 10000.0 ** ((channel - channel % 2) / self.width)
        table = np.where(channel % 2, np.cos(angle), np.sin(angle)).astype(self.dtype)
        if self.layout == "halves":
            return np.concatenate([table[..., ::2], table[..., 1::2]], axis=-1)
        return table

    def rows(self, n: int) -> ndarray:
        """Return the first rows of the table, (n, width)."""
        return self.forward(np.arange(n))


class RotaryEmbedding:
    """The angles by which queries and keys are rotated (Su et al. 2021, section 3.2).

    Pair i of a head's D channels turns by ``base^(-2i / D)`` from one position to the next: the
    first pair by one radian, later pairs more and more slowly. Later models are trained on short
    texts and then told to read longer ones; `scaling` says how the angles change for this.

    Parameters
    ----------
    size : int
        D, the channels of a head.
    base : float
        ``rope_theta`` in Hugging Face's files.
    scaling : dict, optional
        ``rope_scaling`` in Hugging Face's files, complete: see `npgpt.models.llama.LlamaConfig`.

    Attributes
    ----------
    magnitude : float
        What cosines and sines are multiplied with; 1 but for YaRN.

    Examples
    --------
    >>> rotary = RotaryEmbedding(4, base=100.0)
    >>> rotary.frequencies
    array([1. , 0.1])
    >>> cos, sin = rotary(np.arange(3), np.float64)
    >>> cos.shape, sin[1, 0].round(3).tolist()
    ((3, 1, 2), [0.841, 0.1])
    """

    def __init__(self, size: int, base: float, scaling: dict[str, Any] | None = None):
        self.size, self.base, self.scaling = size, base, scaling or {}
        self.magnitude = self.scaling.get("attention_factor", 1.0)

    @cached_property  # a model without memory, of any size, computes none
    def frequencies(self) -> ndarray:
        """The angle of each pair from one position to the next, float64 (D / 2,)."""
        plain = self.base ** (-np.arange(0, self.size, 2) / self.size)
        if not self.scaling:
            return plain
        return SCALINGS[self.scaling["rope_type"]](plain, self.base, self.scaling)

    def __call__(self, ids: ndarray, dtype: DTypeLike) -> tuple[ndarray, ndarray]:
        """Return the cosines and sines of positions: ``(...) ->`` twice ``(..., 1, D / 2)``."""
        angle = np.asarray(ids)[..., None, None] * self.frequencies
        cos, sin = np.cos(angle) * self.magnitude, np.sin(angle) * self.magnitude
        return cos.astype(dtype), sin.astype(dtype)


def scale_linearly(frequencies: ndarray, base: float, scaling: dict) -> ndarray:
    """Turn all pairs more slowly: position 8 of a factor of 4 has the angles of position 2.

    Chen et al. 2023, arXiv:2306.15595.
    """
    return frequencies / scaling["factor"]


def scale_dynamically(frequencies: ndarray, base: float, scaling: dict) -> ndarray:
    """Change nothing: this scaling begins where a text is longer than the context."""
    return frequencies


def scale_by_bands(frequencies: ndarray, base: float, scaling: dict) -> ndarray:
    """Turn slow pairs more slowly, as Llama 3.1 does (Grattafiori et al. 2024, arXiv:2407.21783).

    A pair that turns full circle at least ``high_freq_factor`` times in the original context keeps
    its frequency. A pair that turns at most ``low_freq_factor`` times has its frequency divided by
    the factor. The frequencies of the pairs between are interpolated.
    """
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling["factor"])


def scale_by_ramp(frequencies: ndarray, base: float, scaling: dict) -> ndarray:
    """Turn slow pairs more slowly, and sharpen attention: YaRN.

    A pair that turns ``beta_fast`` times in the original context, or more often, keeps its
    frequency. A pair that turns ``beta_slow`` times, or fewer, has it divided by the factor.
    Between, the share of each falls linearly with the number of the pair. Cosines and sines are
    multiplied with ``attention_factor``, so that scores grow by its square. Peng et al.
    2023, arXiv:2309.00071, section 3.
    """
    original, size = scaling["original_max_position_embeddings"], 2 * len(frequencies)

    def pair_that_turns(times: float) -> float:
        return size * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(scaling["beta_fast"]), pair_that_turns(scaling["beta_slow"])
    if scaling["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    slowed = np.clip((np.arange(size // 2) - low) / ((high - low) or 0.001), 0, 1)
    return frequencies * (1 - slowed + slowed / scaling["factor"])


SCALINGS = {
    "linear": scale_linearly,
    "dynamic": scale_dynamically,
    "llama3": scale_by_bands,
    "yarn": scale_by_ramp,
}

"""Positions: how a model is told where in the text a token stands."""

from __future__ import annotations

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
    same angle. The angles of later channels grow more slowly with the position.
    """

    def __init__(self, width: int, dtype: DTypeLike = np.float32):
        self.width, self.dtype = width, dtype

    def forward(self, ids: ndarray) -> ndarray:
        """Compute rows: ``(...) -> (..., width)``."""
        channel = np.arange(self.width)
        angle = np.asarray(ids)[..., None] / 10000.0 ** ((channel - channel % 2) / self.width)
        return np.where(channel % 2, np.cos(angle), np.sin(angle)).astype(self.dtype)

    def rows(self, n: int) -> ndarray:
        """Return the first rows of the table, (n, width)."""
        return self.forward(np.arange(n))

"""The context of a pass: everything that blocks are given beside the hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy import ndarray

from autograd import Tensor
from npgpt.models.cache import KVCache, Memory
from npgpt.module import Module


@dataclass
class Activations:
    """The values that a model computed on the way to its logits; see `GPT.activations`."""

    hidden_states: list[Tensor] = field(default_factory=list)
    """The embeddings and the result of each block, (B, T, C); the last is what the head reads."""
    attentions: list[Tensor] = field(default_factory=list)
    """The weights of each layer's heads, (B, H, T, T): row t says where position t looks."""
    cross_attentions: list[Tensor] = field(default_factory=list)
    """In an encoder-decoder, where position t of the target looks in the source, (B, H, T, S)."""
    keeps_attentions: bool = True
    """Whether weights of heads are kept, for which attention is computed a second time."""
    encoder: Activations | None = None
    """In an encoder-decoder, the values of the encoder."""


@dataclass(frozen=True)
class Context:
    """Everything that the blocks of a pass are given beside the hidden states.

    Attributes
    ----------
    mask : ndarray of bool, (B, 1, 1, S or more) or (B, 1, T, S), optional
        True for the positions that may be looked at.
    capture : Activations, optional
        Where hidden states and attention weights are stored.
    cache : KVCache, optional
        The keys and values of the tokens that were read earlier.
    rotation : tuple of ndarray, optional
        The cosines and sines of the positions' angles, (T, 1, D / 2) or (B, T, 1, D / 2) each; of a
        model with rotary positions.
    memory : Memory, optional
        The source that a decoder reads.
    only_last : bool
        Whether the last block returns the result of the last position alone, (B, 1, C). To choose a
        new token, no other position of the last block is read.
    """

    mask: ndarray | None = None
    capture: Activations | None = None
    cache: KVCache | None = None
    rotation: tuple[ndarray, ndarray] | None = None
    memory: Memory | None = None
    only_last: bool = False

    def wanted(self, x: Any) -> Any:
        """Return the positions of ``x (..., T, C)`` whose results are wanted: all, or the last."""
        return x[..., -1:, :] if self.only_last else x

    def for_blocks(self, blocks: Sequence[Module]) -> Iterator[tuple[Module, Context]]:
        """Yield each block with its context: `only_last` is for the last block alone."""
        others = replace(self, only_last=False)
        for block in blocks[:-1]:
            yield block, others
        for block in blocks[-1:]:
            yield block, self


ALONE = Context()  # of a pass over whole sequences: no mask, no cache, no rotation

"""Direct attribution of a logit: what each head, MLP and embedding adds to it.

A logit is the product of the last hidden state with a row of the head. The last hidden state is a
norm of a sum: the embedding, and what each layer's attention and MLP have added to it. With the
divisor of the norm kept at its value, the norm is linear, and the logit is a sum as well: of what
the embedding, each attention and each MLP add directly, not through a later layer. The result of
an attention is a sum over its heads, and over the tokens that a head looks at (Elhage et al. 2021,
"A Mathematical Framework for Transformer Circuits").

The model is traced (`npgpt.module.Traced`) with `Followed` in the place of hidden states. It
computes the numbers, and remembers sums, norms and products. `DirectPass.split` then walks back
from the logit: it carries a direction, the derivative of the logit, to each term of the sum. So
post-norm models, whose terms pass many norms, need no code of their own.

The head of a BERT has a layer of its own: a linear layer, an activation and a norm. The ratio of
the activation's result to its argument is kept at its value, as the divisor of a norm is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

import autograd
from autograd import nn
from npgpt.models.attention import visible
from npgpt.models.bert import BertTransformer, MaskedHead
from npgpt.models.gpt import GPT
from npgpt.module import Parameter, Traced, evaluating
from npgpt.weights.packed import demand_float32

Back = Callable[[ndarray, int], Iterator[tuple["Followed", ndarray]]]


@dataclass(frozen=True)
class DirectAttribution:
    """The terms of a logit, or of the difference of two logits; they add up to it.

    Parameters
    ----------
    logit : float
        The logit, or the difference, as the model computes it.
    token_embedding, position_embedding : float
        What the embedding of the token at the position, and of the position, add. The segment of a
        BERT counts as part of the position.
    heads : ndarray, (L, H, T)
        What each head of each layer adds, by the token that it looks at.
    attention_biases : ndarray, (L,)
        What the biases of the attentions' last linear layers add.
    mlps : ndarray, (L,)
        What the MLPs add.
    norm_biases : float
        What the biases of norms add.
    head_biases : float
        What the biases of a BERT's head add.
    """

    logit: float
    token_embedding: float
    position_embedding: float
    heads: ndarray
    attention_biases: ndarray
    mlps: ndarray
    norm_biases: float
    head_biases: float

    @property
    def total(self) -> float:
        """The sum of all terms: the logit, up to rounding."""
        arrays = self.heads.sum() + self.attention_biases.sum() + self.mlps.sum()
        embeddings = self.token_embedding + self.position_embedding
        return float(arrays + embeddings + self.norm_biases + self.head_biases)


def attribute_directly(
    model: GPT, ids: ndarray, token: int, against: int | None = None, position: int = -1
) -> DirectAttribution:
    """Split a logit into what each part of the model adds to it.

    Parameters
    ----------
    model : GPT
        A model that predicts next tokens, or a BERT with a head for masked tokens.
    ids : ndarray of int, (T,)
        The text.
    token : int
        The token whose logit is split.
    against : int, optional
        Another token: the difference of the two logits is split. The logits of all tokens often
        rise and fall together; a difference shows what speaks for one of the two.
    position : int
        The position whose logits these are: after the last token, if not given.

    Returns
    -------
    DirectAttribution

    Raises
    ------
    UserError
        If the model has packed weights.
    TypeError
        If a module of the model cannot be traced.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> found = attribute_directly(model, np.array([1, 2, 3]), token=4)
    >>> found.heads.shape
    (2, 2, 3)
    >>> bool(np.isclose(found.total, found.logit, rtol=1e-5))
    True
    """
    return DirectPass(model, ids).split(token, against, position)


class DirectPass:
    """A text that a model has read; every logit of the pass can be split.

    Parameters
    ----------
    model : GPT
    ids : ndarray of int, (T,)

    Raises
    ------
    UserError
        If the model has packed weights.
    TypeError
        If a module of the model cannot be traced.
    """

    def __init__(self, model: GPT, ids: ndarray) -> None:
        demand_float32(model)
        self.model, self.ids = model, ids
        body, head, positions = model.transformer, model.lm_head, np.arange(len(ids))
        with autograd.no_grad(), evaluating():
            shared = Pass(body.rotation(positions))
            if isinstance(body, BertTransformer):  # its embeddings have a norm
                added = _numbers(body.add_embeddings(ids[None], positions))[0]
                self.start = Followed(added, shared)
                x = body.ln(self.start)
            else:
                x = self.start = Followed(_numbers(body.embed(ids[None], positions))[0], shared)
            self.end = body(x)
            if isinstance(head, MaskedHead):
                shared.is_head = True
                self.end = head.trace_states(self.end)
        self.head_bias = getattr(head, "bias", None)

    def split(
        self, token: int, against: int | None = None, position: int = -1
    ) -> DirectAttribution:
        """Split a logit; see `attribute_directly`."""
        t = range(len(self.ids))[position]

        def row_of(token: int) -> ndarray:
            return self.model.lm_head.weight.numpy()[token].astype(np.float64)

        def bias_of(token: int) -> float:
            return 0.0 if self.head_bias is None else float(self.head_bias.numpy()[token])

        direction, own_bias = row_of(token), bias_of(token)
        if against is not None:
            direction, own_bias = direction - row_of(against), own_bias - bias_of(against)
        config, T = self.model.config, len(self.ids)
        heads = np.zeros((config.n_layer, config.n_head, T))
        attention_biases, mlps = np.zeros(config.n_layer), np.zeros(config.n_layer)
        norm_biases, head_biases = 0.0, own_bias
        at_embedding = np.zeros(self.start.value.shape[1])
        waiting = [(self.end, direction)]
        while waiting:
            node, d = waiting.pop()
            if node is self.start:
                at_embedding += d
            elif isinstance(node, Attended):
                heads[node.layer] += node.terms(d, t)
            elif node.back is None:
                mlps[node.layer] += node.at(t) @ d
            else:
                waiting += node.back(d, t)
                if node.bias is None:
                    continue
                term = float(node.bias.numpy().astype(np.float64) @ d)
                if node.is_norm:
                    norm_biases += term
                elif node.is_of_head:
                    head_biases += term
                else:
                    (attention_biases if node.is_of_attention else mlps)[node.layer] += term
        own = self.model.transformer.wte.weight.numpy()[self.ids[t]].astype(np.float64)
        return DirectAttribution(
            logit=float(self.end.at(t) @ direction) + own_bias,
            token_embedding=float(own @ at_embedding),
            position_embedding=float((self.start.at(t) - own) @ at_embedding),
            heads=heads,
            attention_biases=attention_biases,
            mlps=mlps,
            norm_biases=norm_biases,
            head_biases=head_biases,
        )


@dataclass
class Pass:
    """What all values of one pass share: the angles of positions, and which part runs."""

    rotation: tuple[ndarray, ndarray] | None
    layer: int = -1  # the first attention has the number 0
    is_head: bool = False


class Followed(Traced):
    """Hidden states of all positions, (T, width), and how those of one position came about.

    Parameters
    ----------
    value : ndarray, (T, width)
    shared : Pass
    back : callable, optional
        Takes the direction at a position, and the position, and yields each value that it was made
        of by a sum, a norm or a linear layer, with the direction there. None for the embedding, and
        for the result of a function that is not linear.
    bias : Parameter, optional
        What a norm or a linear layer has added.
    """

    is_norm = False
    is_of_attention = False

    def __init__(
        self, value: ndarray, shared: Pass, back: Back | None = None, bias: Parameter | None = None
    ) -> None:
        self.value, self.shared, self.back, self.bias = value, shared, back, bias
        self.layer, self.is_of_head = shared.layer, shared.is_head

    def at(self, t: int) -> ndarray:
        """Return the hidden state of a position, (width,)."""
        return self.value[t].astype(np.float64)

    def linear(self, weight: ndarray, bias: Parameter | None = None) -> Followed:
        """Follow a linear layer."""
        value = self.value @ weight
        if bias is not None:
            value = value + bias.numpy()

        def back(d: ndarray, t: int) -> Iterator[tuple[Followed, ndarray]]:
            yield self, weight @ d

        made = Followed(value, self.shared, back, bias)
        made.is_of_attention = isinstance(self, Attended)
        return made

    def layer_norm(self, weight: Parameter, bias: Parameter | None, eps: float) -> Followed:
        """Follow a layer norm, whose divisor is taken as a constant."""
        value = _numbers(nn.layer_norm(self.value, weight.shape, weight, bias, eps))

        def back(d: ndarray, t: int) -> Iterator[tuple[Followed, ndarray]]:
            scaled = d * weight.numpy()
            yield self, (scaled - scaled.mean()) / np.sqrt(self.at(t).var() + eps)

        return self._normed(value, back, bias)

    def rms_norm(self, weight: Parameter, eps: float) -> Followed:
        """Follow an RMS norm, whose divisor is taken as a constant."""
        value = _numbers(nn.rms_norm(self.value, weight.shape, weight, eps))

        def back(d: ndarray, t: int) -> Iterator[tuple[Followed, ndarray]]:
            yield self, d * weight.numpy() / np.sqrt(np.mean(self.at(t) ** 2) + eps)

        return self._normed(value, back, None)

    def _normed(self, value: ndarray, back: Back, bias: Parameter | None) -> Followed:
        made = Followed(value, self.shared, back, bias)
        made.is_norm = True
        return made

    def activation(self, function: Any) -> Followed:
        """Compute an activation, beyond which nothing is followed, except in a head."""
        value = _numbers(function(autograd.tensor(self.value)))

        def back(d: ndarray, t: int) -> Iterator[tuple[Followed, ndarray]]:
            x = self.at(t)
            yield self, d * np.divide(value[t], x, out=np.zeros_like(x), where=x != 0)

        return Followed(value, self.shared, back if self.is_of_head else None)

    def rotate(self, head_size: int) -> Followed:
        """Rotate the heads of queries or keys."""
        assert self.shared.rotation is not None
        heads = self.value.reshape(1, len(self.value), -1, head_size)
        turned = _numbers(nn.rope(heads, *self.shared.rotation))
        return Followed(turned.reshape(self.value.shape), self.shared)

    def split(self, n: int) -> list[Followed]:
        """Return the parts of the columns."""
        return [Followed(part, self.shared) for part in np.split(self.value, n, axis=1)]

    def attend(
        self, key: Any, value: Any, layer: int, n_head: int, scale: float, window_size: int | None
    ) -> Followed:
        """Compute causal attention, and keep where each position looks."""
        self.shared.layer = layer
        seen = visible(len(self.value), len(self.value), window_size)
        return self._attend(key, value, n_head, scale, seen)

    def attend_all(self, key: Any, value: Any, n_head: int, cached: bool = False) -> Followed:
        """Compute attention in both directions, and keep where each position looks."""
        if cached:
            raise TypeError("attention to a source cannot be followed")
        self.shared.layer += 1
        size = self.value.shape[1] // n_head
        return self._attend(key, value, n_head, 1 / np.sqrt(size), None)

    def _attend(
        self, key: Any, value: Any, n_head: int, scale: float, seen: ndarray | None
    ) -> Attended:
        T, size = len(self.value), self.value.shape[1] // n_head
        query, keys, values = (
            each.value.reshape(T, -1, size).swapaxes(0, 1) for each in (self, key, value)
        )  # (H, T, D), and (K, T, D) twice
        group = n_head // len(keys)
        keys, values = keys.repeat(group, axis=0), values.repeat(group, axis=0)  # (H, T, D)
        mixed = _numbers(
            nn.scaled_dot_product_attention(
                query[None], keys[None], values[None], attn_mask=seen, scale=scale
            )
        )[0]  # (H, T, D)
        joined = mixed.swapaxes(0, 1).reshape(T, -1)
        return Attended(joined, self.shared, query, keys, values, scale, seen)

    def __mul__(self, other: Any) -> Followed:
        """Compute a product, beyond which nothing is followed."""
        if not isinstance(other, Followed):
            return NotImplemented
        return Followed(self.value * other.value, self.shared)

    def __add__(self, other: Any) -> Followed:
        """Follow a sum."""
        if not isinstance(other, Followed):
            return NotImplemented

        def back(d: ndarray, t: int) -> Iterator[tuple[Followed, ndarray]]:
            yield self, d
            yield other, d

        return Followed(self.value + other.value, self.shared, back)


class Attended(Followed):
    """The result of attention: weighted sums.

    Parameters
    ----------
    value, shared
        As in `Followed`.
    query, keys, values : ndarray, (H, T, D)
    scale : float
        The factor of the scores.
    seen : ndarray of bool, (T, T), optional
        Which positions each position may look at; if not given, at all.
    """

    def __init__(
        self, value: ndarray, shared: Pass, query: ndarray, keys: ndarray, values: ndarray,
        scale: float, seen: ndarray | None,
    ) -> None:  # fmt: skip
        super().__init__(value, shared)
        self.query, self.keys, self.values = query, keys, values
        self.scale, self.seen = scale, seen

    def terms(self, d: ndarray, t: int) -> ndarray:
        """Return what the heads of a position add in a direction, by where they look, (H, T)."""
        scores = (self.keys @ self.query[:, t, :, None])[..., 0].astype(np.float64) * self.scale
        if self.seen is not None:
            scores[:, ~self.seen[t]] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        heads = d.reshape(len(weights), -1, 1)  # (H, D, 1)
        return weights * (self.values @ heads)[..., 0]


def _numbers(x: Any) -> ndarray:
    return x.numpy() if isinstance(x, autograd.Tensor) else np.asarray(x)

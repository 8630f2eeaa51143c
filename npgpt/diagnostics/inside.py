"""What a model does with a text: where heads look, what layers would say, what surprises it.

Each function takes a model and the ids of one text, (T,), and returns arrays. Nothing is drawn
here: `npgpt look` draws the results in a terminal and on a page.
Letters in shapes: T tokens, L layers, H heads, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy import ndarray

import autograd
from autograd import Tensor, nn, no_grad
from autograd.functional import value_and_grad
from npgpt.errors import UserError
from npgpt.models.context import Context
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.weights.packed import demand_float32

MOST_NUMBERS = 2**28  # in the attention maps of all heads together: 1 GiB of float32
AT_ONCE = 2**23  # logits that are computed at once


def encode(model: GPT, tokenizer: Any, text: str, n_at_least: int = 1) -> ndarray:
    """Return the ids of a text, (T,), which the model can read at once.

    Raises
    ------
    UserError
        If the text has fewer tokens than are needed, or more than the context.
    """
    if not text:
        raise UserError("the text is empty; give the text that the model reads with --text TEXT")
    ids = tokenizer.encode(text, allowed_special="all")
    if len(ids) < n_at_least:
        raise UserError(f"the text has {len(ids)} token; expected at least {n_at_least}")
    if len(ids) > model.config.n_positions:
        raise UserError(
            f"the text has {len(ids):,} tokens, and the model reads at most "
            f"{model.config.n_positions:,} at once; give a shorter text"
        )
    return ids


def attention_maps(model: GPT, ids: ndarray) -> ndarray:
    """Return where each head looks: (L, H, T, T), of which row t has the weights of position t.

    Raises
    ------
    UserError
        If the maps have more numbers than `MOST_NUMBERS`.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> maps = attention_maps(model, np.array([1, 2, 3]))
    >>> maps.shape, bool(np.allclose(maps.sum(axis=-1), 1))
    ((2, 2, 3, 3), True)
    """
    n_heads = model.config.n_layer * model.config.n_head
    if n_heads * len(ids) ** 2 > MOST_NUMBERS:
        raise UserError(
            f"the text has {len(ids):,} tokens; at most {int((MOST_NUMBERS / n_heads) ** 0.5):,} "
            f"can be shown, for the maps of {n_heads:,} heads have that number squared each"
        )
    with no_grad(), evaluating():
        found = model.activations(ids[None]).attentions
    return np.stack([weights.numpy()[0] for weights in found])


def cross_attention_maps(model: EncoderDecoder, source: ndarray, target: ndarray) -> ndarray:
    """Return where each head of the decoder looks in the source, (L, H, T, S).

    Row t has the weights of the position that predicts token t of the target.

    Parameters
    ----------
    model : EncoderDecoder
    source : ndarray of int, (S,)
    target : ndarray of int, (T,)
        The tokens that are written, without the token that the decoder reads first.

    Examples
    --------
    >>> from npgpt.models.encoder_decoder import EncoderDecoderConfig
    >>> config = EncoderDecoderConfig(9, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    >>> model = EncoderDecoder(config)
    >>> maps = cross_attention_maps(model, np.array([3, 4, 5]), np.array([6, 7, 8, 0]))
    >>> maps.shape, bool(np.allclose(maps.sum(axis=-1), 1))
    ((2, 2, 4, 3), True)
    """
    with no_grad(), evaluating():
        read = model.shifted(target[None])
        found = model.activations(source[None], None, read).cross_attentions
    return np.stack([weights.numpy()[0] for weights in found])


@dataclass(frozen=True)
class Predictions:
    """The best next tokens at each position, as one layer or the whole model sees them.

    Parameters
    ----------
    best : ndarray of int, (..., T, k)
        The ids of the most probable tokens, the first of them first.
    probabilities : ndarray, (..., T, k)
    ranks : ndarray of int, (..., T)
        The place of a certain token (see the function) in the order of probability, from 1 on.
    surprises : ndarray, (..., T)
        Minus the logarithm of that token's probability.
    """

    best: ndarray
    probabilities: ndarray
    ranks: ndarray
    surprises: ndarray


def logit_lens(model: GPT, ids: ndarray, k: int = 5) -> Predictions:
    """Return what each layer would predict, if its hidden states were the last ones.

    The last norm and the head are applied to the hidden states between layers (nostalgebraist
    2020, "interpreting GPT: the logit lens").

    Parameters
    ----------
    model : GPT
    ids : ndarray of int, (T,)
    k : int
        The number of tokens in `Predictions.best`.

    Returns
    -------
    Predictions, (L + 1, T)
        Entry 0 reads the embeddings, and entry l the result of the l-th layer; the last is what the
        model predicts. Ranks and surprises are those of the token that the model predicts.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> lens = logit_lens(model, np.array([1, 2, 3]))
    >>> lens.best.shape, lens.ranks[-1].tolist()
    ((3, 3, 5), [1, 1, 1])
    """
    with no_grad(), evaluating():
        states = _hidden_states(model, ids)
        final = np.concatenate([logits.argmax(axis=-1) for logits in _logits(model, states[-1])])
        return _stacked([_judge(model, state, final, k) for state in states])


def surprises(model: GPT, ids: ndarray, k: int = 5) -> Predictions:
    """Return how much each token but the first surprises the model, in nats.

    Returns
    -------
    Predictions, (T - 1,)
        Entry t is about token t + 1. Its rank and its surprise are those of the token that is
        there. The mean surprise is the loss.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2)).eval()
    >>> ids = np.array([1, 2, 3, 4])
    >>> _, loss = model(ids[None, :-1], targets=ids[None, 1:])
    >>> bool(np.isclose(surprises(model, ids).surprises.mean(), loss.item()))
    True
    """
    with no_grad(), evaluating():
        return _judge(model, model.transformer(ids[None, :-1]), ids[1:], k)


def _hidden_states(model: GPT, ids: ndarray) -> list[Tensor]:
    """Return the hidden states that the head could read: those of each layer, normed."""
    *states, last = model.activations(ids[None]).hidden_states
    norm = model.transformer.ln_f
    return [*(state if norm is None else norm(state) for state in states), last]


def _logits(model: GPT, state: Tensor) -> Iterator[ndarray]:
    """Yield the logits of a few positions at a time, so that a long text needs little memory."""
    n = max(1, AT_ONCE // model.config.vocab_size)
    for first in range(0, state.shape[1], n):
        yield model.lm_head(state[:, first : first + n]).numpy()[0]


def _judge(model: GPT, state: Tensor, tokens: ndarray, k: int) -> Predictions:
    """Return the predictions of hidden states (1, T, C); ranks and surprises of tokens (T,)."""
    k, first = min(k, model.config.vocab_size), 0
    parts = []
    for logits in _logits(model, state):
        of = tokens[first : first + len(logits), None]
        first += len(logits)
        logs = nn.log_softmax(logits.astype(np.float64), -1)
        best = _largest(logs, k)
        own = np.take_along_axis(logs, of, axis=-1)
        ranks = 1 + (logs > own).sum(axis=-1)
        chosen = np.take_along_axis(logs, best, axis=-1)
        parts.append((best, np.exp(chosen), ranks, -own[:, 0]))
    return Predictions(*map(np.concatenate, zip(*parts, strict=True)))


def _largest(x: ndarray, k: int) -> ndarray:
    """Return the places of the k largest numbers of each row, the largest first: (T, V) -> (T, k).

    Of equal numbers, the first counts. Rows are not sorted as a whole, since V is large.

    Examples
    --------
    >>> _largest(np.array([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, -1.0]]), 2)
    array([[1, 3],
           [0, 1]])
    """
    known = np.where(np.isnan(x), -np.inf, x)
    bounds = np.partition(known, -k, axis=-1)[:, -k]  # (T,), the k-th largest of each row
    found = []
    for row, bound in zip(known, bounds, strict=True):
        places = np.flatnonzero(row >= bound)
        found.append(places[np.argsort(-row[places], kind="stable")[:k]])
    return np.stack(found)


def _stacked(parts: list[Predictions]) -> Predictions:
    names = ("best", "probabilities", "ranks", "surprises")
    return Predictions(*(np.stack([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class TokenAttribution:
    """How much each token of a text changes a logit, or a difference of logits.

    Parameters
    ----------
    tokens : ndarray, (T,)
        What each token adds, compared with an average token in its place.
    logit, baseline : float
        The logit after the text, and after the text of average tokens.
    n_gradients : int
        How many gradients were computed.
    """

    tokens: ndarray
    logit: float
    baseline: float
    n_gradients: int

    @property
    def error(self) -> float:
        """How far the sum of `tokens` is from the difference of the logits.

        It is the error of the integral.
        """
        return float(self.tokens.sum() - (self.logit - self.baseline))


@dataclass(frozen=True)
class Piece:
    """A part of the line from a baseline to a text, and the integral over this part.

    Parameters
    ----------
    ends, logits : tuple of float
        Where the part begins and ends on the line, from 0 to 1, and the logits there.
    tokens : ndarray, (T,)
        What each token adds on the part.
    """

    ends: tuple[float, float]
    logits: tuple[float, float]
    tokens: ndarray

    @property
    def error(self) -> float:
        """How far the sum of `tokens` is from the change of the logit, without a sign."""
        return abs(float(self.tokens.sum()) - (self.logits[1] - self.logits[0]))


POINTS, WEIGHTS = np.polynomial.legendre.leggauss(3)  # of a piece that reaches from -1 to 1
FIRST_PIECES = 4


def integrate_gradients(
    model: GPT,
    ids: ndarray,
    token: int,
    against: int | None = None,
    *,
    keep_first: bool = True,
    tolerance: float = 0.01,
    most_gradients: int = 300,
) -> TokenAttribution:
    """Attribute the logit of the next token to the tokens of the text.

    The embedding of each token goes on a straight line from the mean of all tokens' embeddings to
    its own. A token's share is the integral of the logit's gradient along the line, times the
    difference of the two embeddings. The shares add up to the change of the logit (Sundararajan et
    al. 2017, "Axiomatic Attribution for Deep Networks", arXiv:1703.01365, proposition 1).

    Along the line, the logits of a real model jump. So the line is cut into pieces, each with three
    Gauss-Legendre points. On a piece, the integral is known: it is the change of the logit. The
    piece with the largest error is halved, until the errors add up to little.

    Parameters
    ----------
    model : GPT
        Its parameters get no gradient.
    ids : ndarray of int, (T,)
        The text, after which the next token is predicted.
    token : int
        The token whose logit is attributed.
    against : int, optional
        Another token: the difference of the two logits is attributed.
    keep_first : bool
        Leave the first token as it is, if there are several. Heads that look for nothing look at
        the first token (Xiao et al. 2023, arXiv:2309.17453). With an average token in its place,
        the model computes something else altogether, and most of the change has that one cause.
    tolerance : float
        How large the errors of all pieces may be together, as a share of the largest of 1, the
        logit and the baseline.
    most_gradients : int
        The number of gradients after which no piece is halved, even if the errors are larger.

    Raises
    ------
    UserError
        If the model has packed weights.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> found = integrate_gradients(model, np.array([1, 2, 3]), token=4)
    >>> found.tokens.shape, found.tokens[0].item(), abs(found.error) < 0.01
    ((3,), 0.0, True)
    """
    demand_float32(model)
    frozen = copy.deepcopy(model, {id(p): p.detach() for p in model.parameters()})
    transformer, positions = frozen.transformer, np.arange(len(ids))
    context = Context(rotation=transformer.rotation(positions))
    rows, table = frozen.lm_head.weight.numpy(), transformer.wte.weight.numpy()
    row = rows[token] if against is None else rows[token] - rows[against]
    way = table[ids] - table.mean(axis=0)  # (T, C), from the mean to each token
    if keep_first and len(ids) > 1:
        way[0] = 0
    with no_grad():
        own = transformer.embed(ids[None], positions).numpy()  # (1, T, C)

    def logit_of(x: Any) -> Tensor:
        return (transformer.apply_blocks(x, context)[:, -1] @ row).sum()

    def at(place: float) -> ndarray:
        return (own + (place - 1) * way).astype(own.dtype)

    def logit_at(place: float) -> float:
        with no_grad():
            return logit_of(autograd.tensor(at(place))).item()

    def integrate(ends: tuple[float, float], logits: tuple[float, float]) -> Piece:
        tokens, half = np.zeros(len(ids)), (ends[1] - ends[0]) / 2
        for point, weight in zip(POINTS, WEIGHTS, strict=True):
            _, gradient = value_and_grad(logit_of)(at(ends[0] + half * (1 + point)))
            tokens += half * weight * (gradient[0] * way).sum(axis=-1, dtype=np.float64)
        return Piece(ends, logits, tokens)

    with evaluating():
        places = np.linspace(0, 1, FIRST_PIECES + 1).tolist()
        logits = [logit_at(place) for place in places]
        allowed = tolerance * max(1, abs(logits[0]), abs(logits[-1]))
        pieces = [
            integrate(ends, change)
            for ends, change in zip(pairwise(places), pairwise(logits), strict=True)
        ]
        while (
            sum(piece.error for piece in pieces) > allowed
            and len(POINTS) * (2 * len(pieces) - FIRST_PIECES) < most_gradients
        ):
            worst = max(pieces, key=lambda piece: piece.error)
            pieces = [piece for piece in pieces if piece is not worst]
            middle = sum(worst.ends) / 2
            between = logit_at(middle)
            pieces.append(integrate((worst.ends[0], middle), (worst.logits[0], between)))
            pieces.append(integrate((middle, worst.ends[1]), (between, worst.logits[1])))
    n = 2 * len(pieces) - FIRST_PIECES  # with those that were halved
    shares = np.sum([piece.tokens for piece in pieces], axis=0)
    return TokenAttribution(shares, logits[-1], logits[0], n * len(POINTS))

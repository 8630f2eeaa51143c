"""One weight of a run: what each update did to it, and what in the batches moved it.

`follow` computes updates again, and notes what each did to a weight. `find_movers` says what each
sequence of a batch, and the loss of each of its tokens, adds to the gradient of a weight.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

import autograd
from autograd import no_grad
from npgpt.errors import UserError
from npgpt.models.bert import Bert
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.training.data import IGNORED, ImageBatch, n_predicted
from npgpt.training.loop import Run
from npgpt.training.optim import decays
from npgpt.training.replay import Replay, tracked


@dataclass
class Move:
    """What one update did to a weight.

    Attributes
    ----------
    step : int
        The number of the update.
    loss : float
        The mean loss of the batches of this update.
    value : float
        The weight before the update.
    gradient, clipped : float
        The gradient of the weight before and after clipping.
    change : float
        What the update added to the weight.
    moved : float
        What the batches of this update added to the weight, in this update and in the later ones.
        Adam moves a weight by a running mean of its gradients, so a gradient has a part in every
        later update.
    """

    step: int
    loss: float
    value: float
    gradient: float
    clipped: float = 0.0
    change: float = 0.0
    moved: float = 0.0


@dataclass
class History:
    """What several updates did to a weight.

    The sum of all `moved`, of `before` and of `decay` is the whole change of the weight.

    Attributes
    ----------
    moves : list of Move
        One entry for each update.
    before : float
        What the batches before the first of these updates added, through the running mean.
    decay : float
        What weight decay added.
    """

    moves: list[Move]
    before: float
    decay: float


def follow(replay: Replay, name: str, index: tuple[int, ...], first: int = 0) -> History:
    """Compute the updates from `first` to the last; return what each did to a weight.

    Parameters
    ----------
    replay : Replay
    name : str
        The name of a parameter.
    index : tuple of int
        The place of the weight in the parameter.
    first : int
        The first update to follow.
    """
    # Update n of AdamW changes the weight by slope_n * mean_n (besides weight decay), where mean_n
    # is the running mean of the gradients after the update: mean_n = beta1 * mean_{n-1} +
    # (1 - beta1) * gradient_n. The first loop computes the updates, and keeps slope_n and beta1.
    moves, slopes = [], []
    replay.seek(first)
    run, optimizer = replay.run, replay.run.optimizer
    parameter = optimizer.parameters[name]
    mean, decay = float(optimizer.means[name][index]), 0.0
    for step in tracked(range(first, replay.last + 1)):
        replay.seek(step)
        loss = run.backward()
        gradient: Any = parameter.grad
        move = Move(step, loss, float(parameter.numpy()[index]), float(gradient.numpy()[index]))
        _, lr = run.descend()
        move.clipped = float(gradient.numpy()[index])  # clipping is in place
        move.change = float(parameter.numpy()[index]) - move.value
        moves.append(move)
        if decays(name, parameter):
            decay -= lr * optimizer.weight_decay * move.value
        beta1, beta2 = optimizer.betas
        square = float(optimizer.squares[name][index]) / (1 - beta2**optimizer.n_updates)
        size = lr / (1 - beta1**optimizer.n_updates)
        slopes.append((-size / (math.sqrt(square) + optimizer.eps), beta1))
    # The second loop goes backwards, and divides the changes among the gradients. A mean of 1 after
    # update n changes the weight by slope_n in this update, by beta1 * slope_{n+1} in the next, and
    # so on: `ahead` is the sum. So gradient_n has moved the weight by (1 - beta1) * gradient_n *
    # ahead. For example, with two updates and beta1 = 0.9, the first gradient has moved it by
    # 0.1 * gradient_1 * (slope_1 + 0.9 * slope_2), the second by 0.1 * gradient_2 * slope_2.
    ahead = 0.0
    for move, (slope, beta1) in zip(reversed(moves), reversed(slopes), strict=True):
        ahead += slope
        move.moved = (1 - beta1) * move.clipped * ahead
        ahead *= beta1
    return History(moves, before=mean * ahead, decay=decay)


class Preview(NamedTuple):
    """What an update does, by the names of the parameters; nothing has been changed.

    Attributes
    ----------
    norm, rate : float
        The norm of the gradient before clipping, and the learning rate.
    gradients : dict of str to ndarray
        Before clipping.
    before, after : dict of str to (ndarray, ndarray, ndarray)
        The parameter, the running mean of its gradients, and that of their squares.
    """

    norm: float
    rate: float
    gradients: dict[str, ndarray]
    before: dict[str, tuple[ndarray, ndarray, ndarray]]
    after: dict[str, tuple[ndarray, ndarray, ndarray]]


def preview_update(run: Run) -> Preview:
    """Return what the update of this step does, after `Run.backward`; the run stays before it."""
    optimizer, progress = run.optimizer, run.progress
    arrays = {
        name: (p.data, optimizer.means[name], optimizer.squares[name])
        for name, p in optimizer.parameters.items()
        if p.grad is not None
    }

    def copies() -> dict[str, tuple[ndarray, ndarray, ndarray]]:
        return {name: (p.copy(), m.copy(), v.copy()) for name, (p, m, v) in arrays.items()}

    before, step, n_updates = copies(), progress.step, optimizer.n_updates
    gradients = {name: optimizer.parameters[name].grad.numpy().copy() for name in arrays}  # type: ignore[union-attr]
    norm, rate = run.descend()
    after = copies()
    for name, known in before.items():
        for array, x in zip(arrays[name], known, strict=True):
            array[...] = x
    progress.step, optimizer.n_updates = step, n_updates
    return Preview(norm, rate, gradients, before, after)


# ---- what the batches of a step add to a gradient


class Shares:
    """What each loss of a step's batches adds to the gradients of weights.

    Parameters
    ----------
    run : Run
        The run before the update of this step.
    names : iterable of str
        The names of the parameters whose weights can be asked about.
    """

    # The gradient is linear in the cotangents u of the losses: gradient = Σ_k u_k · ∂loss_k/∂w. So
    # the derivative of the gradient of one weight by u is ∂loss_k/∂w, for all losses at once
    # (as in `autograd.functional.jvp`).

    def __init__(self, run: Run, names: Iterable[str]) -> None:
        self.names = list(names)
        parameters = [run.optimizer.parameters[name] for name in self.names]
        batches = run.task.batches(run.progress.step)
        self._total = sum(n_predicted(batch.targets) for batch in batches)
        self._gradients = []  # of each batch: u, and the gradients as functions of u
        with run.dropout():
            for batch in batches:
                losses = run.losses(batch)  # (B, T), or (B,)
                u = autograd.tensor(np.zeros(losses.shape, losses.dtype), requires_grad=True)
                self._gradients.append((u, autograd.grad(losses, parameters, u, create_graph=True)))

    def of(self, name: str, index: tuple[int, ...]) -> list[ndarray]:
        """Return, for each batch, what each loss adds to the gradient of a weight: (B, T) or (B,).

        The sum of all numbers is the gradient, before clipping.
        """
        n = self.names.index(name)
        return [
            autograd.grad(gradients[n][index], u, retain_graph=True).numpy() / self._total
            for u, gradients in self._gradients
        ]


def by_sequence(run: Run, name: str, index: tuple[int, ...]) -> list[float]:
    """Return what each sequence of this step's batches adds to the gradient of a weight."""
    shares = Shares(run, [name]).of(name, index)
    return [float(row.sum()) for batch in shares for row in batch]


class Sequence(NamedTuple):
    """A sequence of a batch, as a person reads it.

    Attributes
    ----------
    text, place : str
        The text, and where the data have it; the place is empty if it is not known.
    loss : float
        The mean loss of its targets, with the dropout of the step.
    tokens : list of int
        The tokens of the text whose losses are known one by one; empty if the text has one loss.
    losses : ndarray, (T,)
        The loss of each of these tokens; 0 where nothing is predicted.
    """

    text: str
    place: str
    loss: float
    tokens: list[int]
    losses: ndarray


def read_sequences(run: Run) -> list[Sequence]:
    """Return the sequences of this step's batches, in their order."""
    step, found = run.progress.step, []
    texts: list[str] = []
    with run.dropout(), no_grad():
        for batch in run.task.batches(step):
            losses = run.losses(batch).numpy()  # (B, T), or (B,)
            texts += run.task.texts(batch)
            for b, (ids, of) in enumerate(align(run.model, batch, losses)):
                n = 1 if losses.ndim == 1 else n_predicted(batch.targets[b])
                found.append((float(losses[b].sum()) / max(1, n), ids, of))
    places = run.task.find_places(step) or [""] * len(texts)
    return [
        Sequence(text, place, *rest) for text, place, rest in zip(texts, places, found, strict=True)
    ]


class Moved(NamedTuple):
    """What a sequence of a batch adds to the gradient of a weight.

    Attributes
    ----------
    number : int
        The place of the sequence among those of the step.
    sequence : Sequence
    adds : float
    shares : ndarray, (T,)
        What the loss of each token of `sequence` adds; their sum is `adds`.
    """

    number: int
    sequence: Sequence
    adds: float
    shares: ndarray


def find_movers(
    run: Run,
    name: str,
    index: tuple[int, ...],
    shares: Shares | None = None,
    sequences: list[Sequence] | None = None,
) -> list[Moved]:
    """Return what each sequence of this step adds to the gradient of a weight, the largest first.

    The sum of all `adds` is the gradient of the weight before clipping.

    Parameters
    ----------
    run : Run
    name, index
        The weight, as `find_weight` returns it.
    shares : Shares, optional
    sequences : list of Sequence, optional
        The result of `read_sequences`. Both are computed if they are not given.
    """
    batches = run.task.batches(run.progress.step)
    found: list[Moved] = []
    shares, sequences = shares or Shares(run, [name]), sequences or read_sequences(run)
    for batch, of in zip(batches, shares.of(name, index), strict=True):
        for row, (_, aligned) in zip(of, align(run.model, batch, of), strict=True):
            n = len(found)
            found.append(Moved(n, sequences[n], float(row.sum()), aligned))
    return sorted(found, key=lambda moved: -abs(moved.adds))


def align(model: Any, batch: Any, of: ndarray) -> list[tuple[list[int], ndarray]]:
    """Return, for each sequence of a batch, its tokens, and a number for each token.

    Parameters
    ----------
    model : Module
    batch : Batch
    of : ndarray, (B, T) or (B,)
        A number for each loss. The number of a token is that of the loss of its prediction. If a
        sequence has one loss, it has no tokens here.
    """
    inputs, targets = batch.inputs, batch.targets
    if of.ndim != 2 or of.shape != targets.shape:
        return [([], np.zeros(0))] * len(of)
    if isinstance(model, EncoderDecoder):
        kept = targets != IGNORED
        return [(row[k].tolist(), x[k]) for row, x, k in zip(targets, of, kept, strict=True)]
    if inputs.shape != targets.shape:
        return [([], np.zeros(0))] * len(of)
    if isinstance(model, Bert):
        tokens = np.where(targets == IGNORED, inputs, targets)
        return [(row.tolist(), x) for row, x in zip(tokens, of, strict=True)]
    found = []
    for row, last, x in zip(inputs, targets[:, -1], of, strict=True):  # the next token is predicted
        known = last != IGNORED
        found.append(
            ([*row.tolist(), *([int(last)] if known else [])],
             np.concatenate([[0], x if known else x[:-1]]))
        )  # fmt: skip
    return found


def by_pixel(run: Run, name: str, index: tuple[int, ...], n: int) -> tuple[ndarray, ndarray]:
    """Return an image that this step read, and what its pixels add to the gradient of a weight.

    A pixel adds the derivative of the gradient by this pixel, times the pixel. So the numbers say
    how the gradient of the weight would change if the pixel became a little brighter.

    Parameters
    ----------
    run : Run
        A run whose task is `npgpt.training.images.Images`.
    name, index
        The weight, as `find_weight` returns it.
    n : int
        The number of the sequence, as in the list that `by_sequence` returns.

    Returns
    -------
    image, adds : ndarray, (c, H, W)
    """
    parameter = run.optimizer.parameters[name]
    batches = run.task.batches(run.progress.step)
    total = sum(n_predicted(batch.targets) for batch in batches)
    with run.dropout():
        for batch in batches:
            assert isinstance(batch, ImageBatch)
            pixels = autograd.tensor(batch.pixel_values, requires_grad=True)  # (B, c, H, W)
            losses = run.losses(batch._replace(pixel_values=pixels))  # (B, T)
            if n < len(pixels):
                break
            n -= len(pixels)
    assert isinstance(batch, ImageBatch)
    gradient = autograd.grad(np.sum(losses[n]) / total, parameter, create_graph=True)
    slope = autograd.grad(gradient[index], pixels)
    return batch.pixel_values[n], slope.numpy()[n] * batch.pixel_values[n]


def find_weight(run: Run, text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the index of a weight that is written as ``name[i, j]``.

    Raises
    ------
    UserError
        If the run's model has no such parameter, or the parameter no such index.
    """
    name, bracket, inside = text.partition("[")
    name = name.strip()
    parameters = run.optimizer.parameters
    if name not in parameters:
        close = difflib.get_close_matches(name, parameters, 3, 0.0)
        raise UserError(
            f"--param names no parameter of {run.folder}: {name!r}; nearest are {', '.join(close)}"
        )
    shape = parameters[name].shape
    try:
        index = tuple(int(i) for i in inside.removesuffix("]").split(","))
    except ValueError:
        index = ()
    if len(index) != len(shape) or not inside.endswith("]"):
        example = ",".join("0" for _ in shape)
        raise UserError(
            f"{name} has the shape {list(shape)}: name one weight of it, as in '{name}[{example}]'"
        )
    if not all(-n <= i < n for i, n in zip(index, shape, strict=True)):
        raise UserError(f"{name}{list(index)} is out of range: the shape is {list(shape)}")
    return name, tuple(i % n for i, n in zip(index, shape, strict=True))

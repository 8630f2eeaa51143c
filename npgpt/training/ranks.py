"""The processes that compute an update of a run: one process, or several that divide the work.

A batch is divided among the ranks of a group: of 12 sequences and 3 ranks, rank 1 has the sequences
4 to 7. Each rank computes the gradient of its part, and the parts are added up in the order of the
ranks. Then each rank updates its part of the parameters, so that it needs only this part of the
optimizer's means (Rajbhandari et al. 2020, arXiv:1910.02054, the first stage of ZeRO). The
parameters and the means are in memory that all processes of a machine share.

Rank 0 is the process that runs the training loop (`npgpt.training.loop`). It alone evaluates, shows
and saves. The other ranks run `follow`: they wait until rank 0 orders an update.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy import ndarray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import autograd
from autograd.escape import brief
from npgpt.errors import UserError
from npgpt.module import Parameter
from npgpt.parallel.group import Group, RankError, host, part_of
from npgpt.training.config import TrainConfig
from npgpt.training.optim import clip_grad_norm, global_norm, scale_all, scale_to, written_flat
from npgpt.training.state import environment, hash_parameters

if TYPE_CHECKING:
    from npgpt.training.loop import Run

UPDATE, COLLECT, END = "update", "collect", "end"  # what rank 0 orders
Compute = Callable[[int, int], float]
"""Adds the gradient of a rank's part of the batches, given rank and size; returns its loss."""


class Alone:
    """One process that does all of an update.

    Attributes
    ----------
    size : int
        How many ranks divide a batch.
    """

    size = 1

    def join(self, run: Run) -> None:
        """Begin the work on a run, whose folder exists already."""

    def order_update(self) -> None:
        """Let all ranks begin the next update."""

    def add_up(self, parameters: Mapping[str, Parameter], compute: Compute) -> float:
        """Add the gradient of the batches to ``.grad``; return the loss."""
        return compute(0, 1)

    def clip(self, parameters: Mapping[str, Parameter], max_norm: float) -> float:
        """Scale the gradient down to a norm; return its norm before the scaling."""
        return clip_grad_norm(parameters.values(), max_norm)

    def complete_update(self) -> None:
        """Wait until all parameters are updated."""

    def collect(self) -> None:
        """Send the optimizer's means of all ranks to rank 0."""


class InTurn(Alone):
    """One process that does the work of several ranks, one after the other, with the same bits.

    It replays the updates of a run that several processes computed.

    Parameters
    ----------
    size : int
    blas_threads : int, optional
        The threads of each rank's BLAS, on which the bits of a product may depend.
    """

    def __init__(self, size: int, blas_threads: int | None = None) -> None:
        self.size, self.blas_threads = size, blas_threads

    def add_up(self, parameters: Mapping[str, Parameter], compute: Compute) -> float:
        """Compute the gradient of each rank's part; add them up as the ranks do."""
        layout = Layout(parameters)
        total, vector = (np.empty(layout.size, layout.dtype) for _ in range(2))
        totals, views = layout.views(total), layout.views(vector)
        with threadpool_limits(self.blas_threads, user_api="blas"):
            loss = compute(0, self.size)
            used = take_gradients(parameters, totals)
            for rank in range(1, self.size):
                loss += compute(rank, self.size)
                used |= take_gradients(parameters, views)
                total += vector
        give_gradients(parameters, totals, used)
        return loss

    def clip(self, parameters: Mapping[str, Parameter], max_norm: float) -> float:
        """Scale the gradient down, by the norm that the ranks compute."""
        layout = Layout(parameters)
        cuts = [layout.cuts(rank, self.size) for rank in range(self.size)]
        with threadpool_limits(self.blas_threads, user_api="blas"):
            return clip_parts(parameters, max_norm, cuts, list)


class Ranks(Alone):
    """The processes of a group, each of which does its part of an update.

    Parameters
    ----------
    group : Group

    Attributes
    ----------
    is_idle : bool
        Whether the other ranks wait for an order, so that an order can end them.
    """

    def __init__(self, group: Group) -> None:
        self.group, self.size = group, group.size
        self.is_idle = True
        self.means: list[ndarray] = []  # until a run is joined

    def order(self, order: str) -> None:
        """Tell the other ranks what to do, if this is rank 0."""
        if self.group.rank == 0:
            self.is_idle = False
            self.group.broadcast(order)

    def join(self, run: Run) -> None:
        """Take up the work on a run: share its parameters and the means of its optimizer.

        Raises
        ------
        UserError
            If the ranks have different code, configurations, weights or libraries.
        """
        self.order(str(run.folder.resolve()))
        group, optimizer = self.group, run.optimizer
        layout = Layout(optimizer.parameters)
        frozen = {n: p for n, p in run.model.named_parameters() if n not in optimizer.parameters}
        self.parameters = group.share(layout.size, layout.dtype)
        self.means = [group.share(layout.size, layout.dtype) for _ in range(2)]
        self.gradient = group.own(layout.size, layout.dtype)
        self.gradients = layout.views(self.gradient)
        identity = environment() | {
            "code of npgpt": hash_code(),
            "configuration": hash_text(json.dumps(asdict(run.config), sort_keys=True)),
            "tokens": hash_text(json.dumps([each.sha256 for each in run.task.data.values()])),
            "weights": hash_parameters(run.model),
        }
        demand_alike(group.gather((host(), identity)))
        means = [layout.views(vector) for vector in self.means]
        if group.is_first_here:
            for views, arrays in zip(means, (optimizer.means, optimizer.squares), strict=True):
                for name, view in views.items():
                    view[...] = arrays[name]
        optimizer.means, optimizer.squares = means
        self.cuts = optimizer.cuts = layout.cuts(group.rank, group.size)
        move(optimizer.parameters, self.parameters, group)
        if frozen:
            rest = Layout(frozen)
            move(frozen, group.share(rest.size, rest.dtype), group)
        self.is_idle = True

    def order_update(self) -> None:
        """Let the other ranks begin the next update."""
        self.order(UPDATE)

    def add_up(self, parameters: Mapping[str, Parameter], compute: Compute) -> float:
        """Compute the gradient of this rank's part of the batch, and this rank's part of the sum.

        Only this rank's part of each ``.grad`` is that of the whole batch.
        """
        loss = compute(self.group.rank, self.size)
        used = take_gradients(parameters, self.gradients)
        losses, flags = zip(*self.group.gather((loss, used.tolist())), strict=True)
        self.group.add_up(self.gradient)
        give_gradients(parameters, self.gradients, np.any(flags, axis=0))
        return sum(losses)

    def clip(self, parameters: Mapping[str, Parameter], max_norm: float) -> float:
        """Scale this rank's part of the gradient down, by the norm of the whole gradient."""

        def gather(norms: list[float]) -> list[float]:
            return self.group.gather(norms[0])

        return clip_parts(parameters, max_norm, [self.cuts], gather)

    def complete_update(self) -> None:
        """Wait until all ranks have updated their parts of the parameters."""
        self.group.complete(self.parameters)
        self.is_idle = True

    def collect(self) -> None:
        """Let the first rank of each machine have the optimizer's means of all ranks."""
        if self.means and self.group.n_machines > 1:
            self.order(COLLECT)
            for vector in self.means:
                self.group.complete(vector)
            self.is_idle = True

    # ---- the end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self.is_idle and not isinstance(error, RankError):
            with suppress(RankError):
                self.group.broadcast(END)
                error = None
        self.group.close(is_failure=error is not None)


class Layout:
    """Where the numbers of parameters are in one vector: one parameter after the other.

    Parameters
    ----------
    parameters : dict of str to Parameter

    Examples
    --------
    >>> w, b = Parameter(np.ones((2, 3))), Parameter(np.ones(4))
    >>> layout = Layout({"w": w, "b": b})
    >>> layout.size, layout.cuts(rank=1, size=2)
    (10, {'w': slice(5, 6, None), 'b': slice(0, 4, None)})
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self.parameters = parameters
        ends = np.cumsum([p.size for p in parameters.values()]).tolist()
        self.starts = dict(zip(parameters, [0, *ends[:-1]], strict=True))
        self.size = ends[-1]
        (self.dtype,) = {p.dtype for p in parameters.values()}

    def views(self, vector: ndarray) -> dict[str, ndarray]:
        """Return the part of each parameter in a vector, in the parameter's shape."""
        return {
            name: vector[start : start + p.size].reshape(p.shape)
            for (name, p), start in zip(self.parameters.items(), self.starts.values(), strict=True)
        }

    def cuts(self, rank: int, size: int) -> dict[str, slice]:
        """Return which numbers of each parameter, in C order, belong to a rank's part."""
        part = part_of(self.size, rank, size)
        found = {}
        for name, parameter in self.parameters.items():
            n, start = parameter.size, self.starts[name]
            low, high = (min(max(place - start, 0), n) for place in (part.start, part.stop))
            found[name] = slice(low, high)
        return found


def take_gradients(parameters: Mapping[str, Parameter], views: Mapping[str, ndarray]) -> ndarray:
    """Move all gradients into the parts of a vector, 0 for none; return which there were."""
    used = np.zeros(len(parameters), bool)
    for i, (name, parameter) in enumerate(parameters.items()):
        gradient = parameter.grad
        used[i] = gradient is not None
        views[name][...] = 0 if gradient is None else gradient.numpy()
        parameter.grad = None
    return used


def give_gradients(
    parameters: Mapping[str, Parameter], views: Mapping[str, ndarray], used: ndarray
) -> None:
    """Let each parameter that is used have the gradient in its part of a vector, as a view."""
    for (name, parameter), is_used in zip(parameters.items(), used, strict=True):
        if is_used:
            parameter.grad = views[name]


def move(parameters: Mapping[str, Parameter], vector: ndarray, group: Group) -> None:
    """Move parameters into a vector that all processes of a machine share."""
    views = Layout(parameters).views(vector)
    if group.is_first_here:
        for name, view in views.items():
            view[...] = parameters[name].numpy()
    group.gather(None)
    for name, view in views.items():
        autograd.changes.trust(view)  # the ranks write to it between updates alone
        parameters[name].data = view


def clip_parts(
    parameters: Mapping[str, Parameter],
    max_norm: float,
    parts: list[dict[str, slice]],
    gather: Callable[[list[float]], list[float]],
) -> float:
    """Scale parts of the gradients down, so that the norm of all parts is at most `max_norm`.

    Parameters
    ----------
    parameters : dict of str to Parameter
    max_norm : float
        See `npgpt.training.optim.clip_grad_norm`.
    parts : list of dict of str to slice
        The parts that are computed here, each as `Layout.cuts` returns it.
    gather : callable
        Returns the norms of all ranks' parts, given those of these parts.

    Returns
    -------
    float
        The norm before.
    """
    given = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    with written_flat(list(given.values())) as whole:
        flat = dict(zip(given, whole, strict=True))
        rows = [[flat[name][cuts[name]] for name in flat] for cuts in parts]
        norm = math.hypot(*gather([global_norm(part) for part in rows]))
        if (scale := scale_to(norm, max_norm)) < 1:
            for part in rows:
                scale_all(part, scale)
    return norm


# ---- what must hold before the work begins


def demand_division(config: TrainConfig, size: int) -> None:
    """Refuse a batch that cannot be divided among the ranks."""
    if config.batch_size % size:
        raise UserError(
            f"batch_size is {config.batch_size}, which {size} processes cannot share evenly: give "
            f"a multiple of {size}, such as --batch_size {-(-config.batch_size // size) * size}"
        )


def demand_alike(found: list[tuple[str, dict[str, Any]]]) -> None:
    """Refuse ranks of which one has other code, or another model, than rank 0.

    Parameters
    ----------
    found : list of (str, dict of str to object)
        Of each rank, its machine, and what must be alike on all ranks: numbers, names and hashes.
    """
    (_, first), *_ = found
    for rank, (where, identity) in enumerate(found):
        for what, value in identity.items():
            if value != first[what]:
                raise UserError(
                    f"rank {rank} (on {where}) has another {what} than rank 0: {brief(value)}, and "
                    f"{brief(first[what])} on rank 0. All ranks need the same"
                )


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def hash_code() -> str:
    """Return the SHA-256 of the source of this package and of the engine."""
    digest = hashlib.sha256()
    for package in (Path(str(autograd.__file__)).parent, Path(__file__).parents[1]):
        for path in sorted(package.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()

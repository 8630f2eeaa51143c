"""AdamW, the learning-rate schedule, and clipping by global norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor, write_in_place
from autograd.kernels import kernel
from npgpt.module import Parameter

BLOCK = 65536  # elements of a block: small enough that all passes over it find it in the cache


class AdamW:
    """Adam with decoupled weight decay, on matrices only (Loshchilov and Hutter 2019, algorithm 2).

    Parameters
    ----------
    parameters : iterable of (str, Parameter)
        Names and parameters, as ``module.named_parameters()`` yields them.
    betas : (float, float)
        How much of the running means, of the gradient and of its square, an update keeps.
    eps : float
        Added to the square root of the mean square, so that no parameter is divided by 0.
    weight_decay : float
        An update makes each matrix smaller by this part, times the learning rate. Biases and the
        weights of norms do not decay (`decays`).

    Attributes
    ----------
    cuts : dict of str to slice
        Which numbers of each parameter are updated, in C order; all, if it is empty. Processes that
        train together update a part each.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt.module import Parameter
    >>> w = Parameter(np.array([[1.0, -2.0]]))
    >>> optimizer = AdamW([("w", w)], weight_decay=0.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step(0.1)  # the first update moves each weight by the learning rate
    >>> w
    tensor([[ 0.9, -1.9]], requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self.parameters = dict(parameters)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.n_updates = 0
        self.cuts: dict[str, slice] = {}
        self.means = {name: np.zeros(p.shape, p.dtype) for name, p in self.parameters.items()}
        self.squares = {name: np.zeros(p.shape, p.dtype) for name, p in self.parameters.items()}

    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient.

        The new values are written into the arrays of the parameters. A backward pass through a
        result that was computed before, and that needs the old values, raises RuntimeError.

        Parameters
        ----------
        learning_rate : float
        """
        self.n_updates += 1
        beta1, beta2 = self.betas
        size = learning_rate / (1 - beta1**self.n_updates)
        root = 1 / math.sqrt(1 - beta2**self.n_updates)
        updated, others = [], []  # the parameters, and what their update reads besides
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            arrays = (parameter.grad.numpy(), self.means[name], self.squares[name])
            decay = self.weight_decay if decays(name, parameter) else 0.0
            updated.append((name, parameter))
            others.append((*(self.part(name, x) for x in arrays), 1 - learning_rate * decay))
        with written_flat([parameter for _, parameter in updated]) as rows:
            parts = [
                (self.part(name, row), *other)
                for (name, _), row, other in zip(updated, rows, others, strict=True)
            ]
            adamw(parts, size, root, self.eps, self.betas)

    def part(self, name: str, array: ndarray) -> ndarray:
        """Return the numbers of a parameter that are updated, on one axis."""
        flat = array.reshape(-1)
        return flat[self.cuts[name]] if self.cuts else flat

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to None."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, ndarray]:
        """Return the running means by name."""
        return {f"mean.{name}": array for name, array in self.means.items()} | {
            f"square.{name}": array for name, array in self.squares.items()
        }

    def load_state_dict(self, state: dict[str, ndarray], n_updates: int) -> None:
        """Copy the running means of an earlier run, and how many updates it did."""
        for name in self.parameters:
            self.means[name][...] = state[f"mean.{name}"]
            self.squares[name][...] = state[f"square.{name}"]
        self.n_updates = n_updates


def decays(name: str, parameter: Parameter) -> bool:
    """Return whether a parameter decays: vectors do not, and biases not in any shape.

    Examples
    --------
    >>> import numpy as np
    >>> bias = Parameter(np.zeros((1, 5)))  # as the head of an encoder-decoder has it
    >>> decays("lm_head.bias", bias), decays("lm_head.weight", bias)
    (False, True)
    """
    return parameter.ndim >= 2 and name.rpartition(".")[2] != "bias"


@contextmanager
def written_flat(tensors: Sequence[Tensor]) -> Iterator[list[ndarray]]:
    """Let a block write to the arrays of leaves as to rows of numbers, each of shape (N,).

    A row is a view of an array in C order. Of an array in another order, such as a transposed one,
    a row is a copy, which is written back when the block ends.
    """
    with write_in_place(*tensors) as arrays:
        rows = [array.reshape(-1) for array in arrays]
        yield rows
        for array, row in zip(arrays, rows, strict=True):
            if not np.may_share_memory(array, row):
                array[...] = row.reshape(array.shape)


@kernel("optimizer.adamw")
def adamw(
    parameters: list[tuple[Any, ...]],
    size: float,
    root: float,
    eps: float,
    betas: tuple[float, float],
) -> None:
    """Update parameters in place; each is (parameter, gradient, mean, square, shrink).

    The arrays of a parameter have the shape (N,). `shrink` is what weight decay multiplies the
    parameter by. The running means begin at 0, so in the first updates they are too small: `size`
    is the learning rate, and `root` a factor of the square root, that make up for this.
    """
    beta1, beta2 = betas
    # For each block of a parameter p with the gradient g, in place and in this order:
    #   mean   <- beta1 * mean + (1 - beta1) * g
    #   square <- beta2 * square + (1 - beta2) * g^2
    #   p      <- shrink * p - size * mean / (root * sqrt(square) + eps)
    for *arrays, shrink in parameters:
        for start in range(0, arrays[0].size, BLOCK):
            p, g, mean, square = (array[start : start + BLOCK] for array in arrays)
            mean *= beta1
            mean += (1 - beta1) * g
            scratch = g * g
            scratch *= 1 - beta2
            square *= beta2
            square += scratch
            np.sqrt(square, out=scratch)
            scratch *= root
            scratch += eps
            np.divide(mean, scratch, out=scratch)
            scratch *= size
            if shrink != 1:
                p *= shrink
            p -= scratch


@kernel("optimizer.global_norm")
def global_norm(gradients: list[ndarray]) -> float:
    """Return the Euclidean norm of all numbers in some arrays of shape (N,) together."""
    return math.sqrt(sum(float(np.dot(g, g)) for g in gradients))


@kernel("optimizer.scale_all")
def scale_all(gradients: list[ndarray], scale: float) -> None:
    """Multiply arrays of shape (N,) by a number, in place."""
    for g in gradients:
        g *= scale


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients down so that their norm is at most `max_norm`; return the norm before.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient do not count.
    max_norm : float
        The largest Euclidean norm of all gradients together. With 0, nothing is scaled.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a gradient that must be scaled is on the tape (``create_graph=True``).

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt.module import Parameter
    >>> w = Parameter(np.zeros(2))
    >>> w.grad = np.array([3.0, 4.0])
    >>> clip_grad_norm([w], 1.0), w.grad.numpy().round(4).tolist()
    (5.0, [0.6, 0.8])
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: float = global_norm([g.numpy().reshape(-1) for g in gradients])
    if (scale := scale_to(norm, max_norm)) < 1:
        with written_flat(gradients) as rows:
            scale_all(rows, scale)
    return norm


def scale_to(norm: float, max_norm: float) -> float:
    """Return what gradients are multiplied by, so that their norm is at most `max_norm`.

    It is 1 if the norm is small enough, or `max_norm` is 0; also for a norm that is no number.
    """
    scale = max_norm / (norm + 1e-6)  # as PyTorch does it
    return scale if max_norm > 0 and scale < 1 else 1.0


def learning_rate_at(
    step: int, peak: float, minimum: float, warmup: int, decay_until: int
) -> float:
    """Return the learning rate of an update: linear warm-up, then a cosine to the minimum.

    Parameters
    ----------
    step : int
        The number of the update, from 0.
    peak, minimum : float
        The learning rate after warm-up, and at the end.
    warmup : int
        Updates of the warm-up.
    decay_until : int
        The update from which on the rate is `minimum`.

    Examples
    --------
    >>> [round(learning_rate_at(step, 1.0, 0.0, 1, 5), 3) for step in range(6)]
    [0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if step >= decay_until:
        return minimum
    progress = (step - warmup) / (decay_until - warmup)
    return minimum + 0.5 * (1 + math.cos(math.pi * progress)) * (peak - minimum)


def inverse_sqrt_rate_at(step: int, peak: float, warmup: int) -> float:
    """Return the learning rate of an update by the schedule of Vaswani et al. 2017, section 5.3.

    The rate rises linearly, and then falls with the root of the number of the update (arXiv:
    1706.03762, equation 3). There, the peak is ``(n_embd * warmup) ** -0.5``: 7e-4 for the base
    model, with 4,000 updates of warm-up.

    Parameters
    ----------
    step : int
        The number of the update, from 0. The equation counts from 1.
    peak : float
        The learning rate of the last update of the warm-up.
    warmup : int
        Updates of the warm-up. 0 is the same as 1.

    Examples
    --------
    >>> [round(inverse_sqrt_rate_at(step, 1.0, 4), 3) for step in (0, 1, 2, 3, 15, 63)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """
    n, warmup = step + 1, max(1, warmup)
    return peak * min(n / warmup, math.sqrt(warmup / n))

"""The form of a scaling law, its fit to measured losses, and intervals by the bootstrap.

Both laws are a constant and a power of each variable:

- ``L(C) = E + A / C**alpha`` of the training compute C (OpenAI 2023, arXiv:2303.08774, section 3,
  which writes it ``a C**b + c``);
- ``L(N, D) = E + A / N**alpha + B / D**beta`` of the parameters N and the tokens D (Hoffmann et al.
  2022, arXiv:2203.15556, equation 10).

The fit is that of Hoffmann et al., appendix D.3: the sum of Huber losses of the differences of
logarithms is minimized by BFGS from a grid of starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn
from npgpt.errors import UserError
from npgpt.evaluation.metrics import DRAWS, Estimate
from npgpt.scaling.minimize import minimize

DELTA = 1e-3  # of the Huber loss: of a larger difference, only the sign counts
LARGEST = 2.0  # of the exponents
FLOOR = 1e-6  # nats; a smaller constant is 0: where the losses show none, the fit goes towards 0
SHARES = (0.1, 0.4, 0.7, 0.9)  # of the loss that the constant has, in the grid of starts
SLOPES = (0.2, 0.4, 0.8)  # the exponents in the grid of starts


@dataclass(frozen=True)
class Law:
    """A law: a constant, and for each variable a factor and an exponent.

    Attributes
    ----------
    constant : float
        E, the loss that no model of this kind falls below.
    factors, exponents : dict of str to float
        By the names of the variables: the term of a variable x is ``factor / x**exponent``.

    Examples
    --------
    >>> law = Law(1.5, {"N": 2.0, "D": 4.0}, {"N": 0.5, "D": 1.0})
    >>> float(law(N=4, D=8))
    3.0
    >>> print(law)
    L = 1.5 + 2 / N^0.5 + 4 / D^1
    """

    constant: float
    factors: dict[str, float]
    exponents: dict[str, float]

    def __call__(self, **values: Any) -> ndarray:
        """Return the loss at some values of the variables, each a number or an array."""
        terms = (f * np.power(values[x], -self.exponents[x]) for x, f in self.factors.items())
        return self.constant + sum(terms)

    def __str__(self) -> str:
        terms = (f"{f:.4g} / {x}^{self.exponents[x]:.3g}" for x, f in self.factors.items())
        return " + ".join([f"L = {self.constant:.4g}", *terms])


@dataclass(frozen=True)
class Fit:
    """A law that was fitted to losses, and how uncertain it is.

    Attributes
    ----------
    law : Law
    errors : ndarray, (n,)
        The logarithms of the measured losses, less those of the law.
    draws : list of Law
        The laws that were fitted to the draws of the bootstrap.
    noise : ndarray, (R,)
        For each draw, an error of one more measurement.
    """

    law: Law
    errors: ndarray
    draws: list[Law] = field(repr=False)
    noise: ndarray = field(repr=False)

    def predict(self, **values: float) -> Estimate:
        """Return the loss that a new model will have, and the interval that should hold it."""
        found = [float(law(**values)) for law in self.draws] * np.exp(self.noise)
        return _interval(float(self.law(**values)), found)

    def estimates(self) -> dict[str, Estimate]:
        """Return the constant, the factors and the exponents with their intervals, by names."""
        found = {"E": _interval(self.law.constant, [draw.constant for draw in self.draws])}
        for i, x in enumerate(self.law.factors):
            parts = (("AB"[i], "factors"), (("alpha", "beta")[i], "exponents"))
            for name, kind in parts:
                drawn = [getattr(draw, kind)[x] for draw in self.draws]
                found[name] = _interval(getattr(self.law, kind)[x], drawn)
        return found


def _interval(value: float, found: Sequence[float] | ndarray) -> Estimate:
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def fit_law(
    losses: ndarray,
    variables: Mapping[str, ndarray],
    draws: int = DRAWS,
    seed: int = 0,
) -> Fit:
    """Fit a law to measured losses, and compute intervals by the bootstrap.

    The bootstrap draws errors, and not models (Efron 1979, section 7): the law's losses, each with
    an error that is drawn from those of the fit, are fitted again. So each draw has the sizes and
    data of the ladder. The errors of a fit of p numbers to n losses are too small; they are
    multiplied by the root of n / (n - p).

    Parameters
    ----------
    losses : ndarray, (n,)
        In nats for a token.
    variables : mapping of str to ndarray, (n,) each
        The values of one or two variables, such as C, or N and D.
    draws : int
    seed : int
        Of the bootstrap.

    Raises
    ------
    UserError
        If there are not at least two losses more than unknown numbers, if a variable does not have
        three different values, or if a loss or a value is not a positive number.

    Examples
    --------
    >>> C = np.array([1e9, 2e9, 4e9, 8e9, 16e9])
    >>> fit = fit_law(1.0 + 50 / C**0.2, {"C": C}, draws=10)
    >>> print(fit.law)
    L = 1 + 50 / C^0.2
    """
    losses = np.asarray(losses, float)
    demand_enough(losses, variables)
    logs = np.array([np.log(values) for values in variables.values()])  # (K, n)
    middle = logs.mean(axis=1, keepdims=True)
    found, values = _fit(np.log(losses)[None], logs - middle, _starts(losses, len(logs)))
    best = found[np.argmin(values)]
    errors = np.log(losses) - _predict(best[None], logs - middle)[0]
    n, p = len(losses), len(best)
    generator = np.random.default_rng(seed)
    larger = np.sqrt(n / (n - p)) * errors
    drawn = np.log(losses) - errors + generator.choice(larger, (draws, n))
    again, _ = _fit(drawn, logs - middle, np.tile(best, (draws, 1)))
    law, *others = (_law(row, tuple(variables), middle[:, 0]) for row in (best, *again))
    return Fit(law, errors, others, generator.choice(larger, draws))


def demand_enough(losses: ndarray, variables: Mapping[str, ndarray]) -> None:
    """Refuse losses to which a law cannot be fitted; see `fit_law`."""
    n, p = len(losses), 1 + 2 * len(variables)
    law = f"L({', '.join(variables)})"
    if n < p + 2:
        raise UserError(
            f"{law} has {p} unknown numbers, and there are {n} models: a fit takes {p + 2} or more"
        )
    for name, values in {"loss": losses, **variables}.items():
        if not np.all(np.isfinite(values) & (np.asarray(values) > 0)):
            raise UserError(f"{law}: the values of {name} must be positive numbers")
        if name in variables and len(np.unique(values)) < 3:
            raise UserError(f"{law}: {name} must have three different values or more")


# ---- the numbers that are fitted
#
# A row of numbers is e, a_1 ... a_K, t_1 ... t_K: the logarithms of the constant and of each
# variable's term in the middle of the ladder, and what the exponents are computed from, s = LARGEST
# / (1 + exp(-t)), so that the loss falls in each variable. With x_k the logarithm of a variable,
# less its mean, the logarithm of the loss is logsumexp(e, a_1 - s_1 x_1, ...). Without the mean, a
# small change of an exponent would change each loss by orders of magnitude.


def _predict(rows: Any, logs: ndarray) -> Any:
    """Return the logarithms of the losses: (R, 1 + 2 K), (K, n) -> (R, n)."""
    K = len(logs)
    e, a, t = rows[:, :1, None], rows[:, 1 : K + 1, None], rows[:, K + 1 :, None]
    powers = a - LARGEST * nn.sigmoid(t) * logs  # (R, K, n)
    terms = np.concatenate([e + np.zeros_like(logs[:1]), powers], axis=1)  # (R, 1 + K, n)
    return nn.logsumexp(terms, 1)


def _fit(targets: ndarray, logs: ndarray, starts: ndarray) -> tuple[ndarray, ndarray]:
    """Fit each start to its row of `targets`, (R, n), or to the only one."""

    def objective(rows: Tensor, numbers: ndarray) -> Tensor:
        wanted = targets[numbers] if len(targets) > 1 else targets
        wanted = np.broadcast_to(wanted, (len(numbers), logs.shape[1]))
        losses = nn.huber_loss(_predict(rows, logs), wanted, reduction="none", delta=DELTA)
        return np.sum(losses, axis=1) / DELTA

    return minimize(objective, starts)


def _starts(losses: ndarray, K: int) -> ndarray:
    """Return a grid of starts, (S, 1 + 2 K): the constant is a share of the smallest loss."""
    rows = []
    for share, *slopes in itertools.product(SHARES, *[SLOPES] * K):
        constant = share * losses.min()
        rest = (np.exp(np.log(losses).mean()) - constant) / K
        shares = np.array(slopes) / LARGEST
        rows.append([np.log(constant), *[np.log(rest)] * K, *np.log(shares / (1 - shares))])
    return np.array(rows)


def _law(row: ndarray, names: Sequence[str], middle: ndarray) -> Law:
    """Return the law of a row of numbers; `middle` are the means of the variables' logarithms."""
    K = len(names)
    a, s = row[1 : K + 1], LARGEST / (1 + np.exp(-row[K + 1 :]))
    factors = np.exp(a + s * middle)
    constant = float(np.exp(row[0]))
    return Law(
        constant if constant > FLOOR else 0.0,
        dict(zip(names, factors.tolist(), strict=True)),
        dict(zip(names, s.tolist(), strict=True)),
    )

"""The likely cause of a wrong gradient: planted faults, each with the cause that must be named."""

import functools
import re
from typing import Any, NamedTuple

import numpy as np
import pytest

import autograd
from autograd.stepper import trace
from autograd.stepper.session import Session
from autograd.testing import GradientError, check_vjp, gradcheck

RANDOM = np.random.default_rng(5)


def normal(*shape):
    return RANDOM.standard_normal(shape)


def positive(*shape):
    return RANDOM.uniform(0.4, 1.8, shape)


X, Y, SQUARE, W = normal(3, 4), normal(3, 4), normal(4, 4), normal(4, 4)
V, LONG, ROWS = normal(4), normal(8), normal(4, 6)


# ---- functions, in plain NumPy


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def softmax_rule(g, x, summed=(1,), subtract=True):
    p = softmax(x)
    return p * (g - subtract * np.sum(g * p, axis=summed, keepdims=True))


def standardized(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True))


def standardized_rule(g, x, mean=1.0, variance=1.0, axis=-1):
    z, std = standardized(x), x.std(-1, keepdims=True)
    return (
        g - mean * g.mean(axis, keepdims=True) - variance * z * (g * z).mean(axis, keepdims=True)
    ) / std


def layer_norm(x, w):
    return standardized(x) * w


def cross_entropy(x):
    p = softmax(x)
    return -np.log(p[np.arange(3), [1, 0, 3]]).mean()


def cross_entropy_rule(g, x, n=3, onehot=1.0):
    return g * (softmax(x) - onehot * np.eye(4)[[1, 0, 3]]) / n


def average_pool(x):
    return x.reshape(-1, 2).mean(1)


def moving_average(x):
    return (x[:-2] + x[1:-1] + x[2:]) / 3


def moving_average_rule(g, x, shift=0):
    dx = np.zeros(len(x) + 1)
    for i, v in enumerate(g):
        dx[i + shift : i + shift + 3] += v / 3
    return dx[: len(x)]


def max_pool(x):
    return x.reshape(-1, 3).max(1)


def max_pool_rule(g, x, off=1):
    dx = np.zeros((len(x) // 3, 3))
    dx[np.arange(len(g)), (x.reshape(-1, 3).argmax(1) + off) % 3] = g
    return dx.reshape(-1)


def looked_up(x):
    return x[[0, 2, 2, 1]]


def last_wins(g, x):
    dx = np.zeros_like(x)
    dx[[0, 2, 2, 1]] = g
    return dx


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def huber(x):
    return np.where(np.abs(x) < 0.8, x**2 / 2, 0.8 * np.abs(x) - 0.32)


def causal_softmax(x):
    return softmax(np.where(np.tri(4, dtype=bool), x, -np.inf))


def causal_rule(g, x):
    p = causal_softmax(x)
    return p * (g - np.sum(g * p, axis=0, keepdims=True))


def attention(q, k, v):
    return softmax(q @ k.T / np.sqrt(q.shape[1])) @ v


def attention_rule(g, q, k, v, scale=None, transposed=True, axis=-1, subtract=1):
    scale = 1 / np.sqrt(q.shape[1]) if scale is None else scale
    p = softmax(q @ k.T / np.sqrt(q.shape[1]))
    dp = g @ v.T
    ds = p * (dp - subtract * np.sum(p * dp, axis, keepdims=True))
    return scale * ds @ k, scale * ds.T @ q, (p.T if transposed else p) @ g


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrent(h, u):
    return np.tanh(h @ u)


def network(x, u, v):
    return np.maximum(x @ u, 0) @ v


def rms_norm(x, eps=0.01):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def rms_rule(g, x, eps=0.01, total=np.mean):
    size, z = np.sqrt((x * x).mean(-1, keepdims=True) + eps), rms_norm(x, eps)
    return (g - z * total(g * z, -1, keepdims=True)) / size


def standardized_over_variance(g, x):
    return standardized_rule(g, x) / x.std(-1, keepdims=True)


def cross_entropy_targets(g, x, targets):
    return g * (softmax(x) - np.eye(4)[targets]) / 3


def smoothed(x):
    return 0.9 * cross_entropy(x) - 0.1 * np.log(softmax(x)).mean()


def norm_of_columns(g, x):
    return g[:, None] * x / np.linalg.norm(x, axis=0)


def max_of_columns(g, x):
    return g[:, None] * (x == x.max(0))


def convolved_rule(g, x, k):
    return np.convolve(g, k, "full"), np.convolve(x[::-1], g, "valid")


def solve_rule(g, a, b):
    dx = np.linalg.solve(a, g)
    return -np.outer(dx, np.linalg.solve(a, b)), np.linalg.solve(a.T, g)


NETWORK, SQUARES = [X, W, normal(4, 2)], [normal(4, 3) for _ in range(3)]
KEPT = np.arange(12).reshape(3, 4) % 3 > 0
INVERTIBLE = normal(3, 3) + 3 * np.eye(3)


class Fault(NamedTuple):
    cause: str
    function: Any
    rule: Any
    inputs: list


def zeroed(x, *index):
    y = np.array(x)
    y[index] = 0
    return y


NOT_TRANSPOSED = "a Jacobian that is not transposed: the gradient is J g, and should be Jᵀ g"

FAULTS = {
    # a Jacobian that is not transposed
    "x @ W, square": Fault(NOT_TRANSPOSED, lambda x: x @ W, lambda g, x: g @ W, [X]),
    "W @ v, square": Fault(NOT_TRANSPOSED, lambda x: W @ x, lambda g, x: W @ g, [V]),
    "W @ x, square": Fault(NOT_TRANSPOSED, lambda x: W @ x, lambda g, x: W @ g, [SQUARE]),
    "cumsum": Fault(NOT_TRANSPOSED, lambda x: np.cumsum(x, 1), lambda g, x: np.cumsum(g, 1), [X]),
    "roll": Fault(NOT_TRANSPOSED, lambda x: np.roll(x, 1, 1), lambda g, x: np.roll(g, 1, 1), [X]),
    # a transpose, a reversal, a shift, an order
    "outer product": Fault(
        "a transpose too many or too few", lambda w, x: w @ x,
        lambda g, w, x: (np.outer(x, g), w.T @ g), [W, V],
    ),
    "transpose": Fault("a transpose too many or too few", lambda x: x.T, lambda g, x: g, [W]),
    "transpose of a stack": Fault(
        "a transpose too many or too few, of axes 0 and 1", lambda x: np.tanh(x),
        lambda g, x: (g * (1 - np.tanh(x) ** 2)).swapaxes(0, 1), [normal(3, 3, 2)],
    ),
    "transposed cotangent": Fault(
        "in the cotangent g: a transpose too many or too few", np.exp,
        lambda g, x: g.T * np.exp(x), [W],
    ),
    "flip": Fault("reversed along axis 1", lambda x: x[:, ::-1] ** 3,
                  lambda g, x: g * 3 * x[:, ::-1] ** 2, [X]),
    "moving average": Fault("shifted by one along axis 0", moving_average,
                            functools.partial(moving_average_rule, shift=1), [LONG]),
    "rolled": Fault("shifted by one along axis 1", np.sin,
                    lambda g, x: np.roll(g * np.cos(x), 1, 1), [X]),
    "diff": Fault("shifted by one along axis 0", lambda x: np.tanh(x[1:]),
                  lambda g, x: np.append(g * (1 - np.tanh(x[1:]) ** 2), 0), [LONG]),
    "reshape for a transpose": Fault(
        "a reshape in the place of a transpose", lambda x: x.T, lambda g, x: g.reshape(x.shape), [X]
    ),
    "max pool, off by one": Fault("the right numbers at wrong places", max_pool, max_pool_rule,
                                  [np.array([0.1, 0.5, 0.9, 0.8, 0.2, -0.3, -0.5, 1.4, 0.3])]),
    "inverse permutation": Fault(NOT_TRANSPOSED, lambda x: x[[2, 0, 4, 1, 3]],
                                 lambda g, x: g[[2, 0, 4, 1, 3]], [normal(5)]),
    # a sign, a factor
    "sign": Fault("a wrong sign", np.cos, lambda g, x: g * np.sin(x), [X]),
    "sign of one input": Fault("a wrong sign", np.subtract, lambda g, x, y: (g, g), [X, Y]),
    "square": Fault("2 times too small", np.square, lambda g, x: g * x, [X]),
    "mean": Fault("12 times too large (12 is the number of elements)", np.mean,
                  lambda g, x: g * np.ones_like(x), [X]),
    "mean of rows": Fault("4 times too large (4 is the length of axis 1)", lambda x: x.mean(1),
                          lambda g, x: np.repeat(g[:, None], 4, 1), [X]),
    "cross-entropy without 1/n": Fault(
        "3 times too large (3 is the length of axis 0)", cross_entropy,
        functools.partial(cross_entropy_rule, n=1), [X],
    ),
    "bias, averaged": Fault(
        "3 times too small (3 is the length of axis 0 of the output)", lambda b: X + b,
        lambda g, b: g.mean(0), [V],
    ),
    "variance of n - 1": Fault("4/3 times too small (4 is the length of axis 1)",
                               lambda x: x.var(1, ddof=1),
                               lambda g, x: g[:, None] * (x - x.mean(1, keepdims=True)) / 2, [X]),
    "attention's scale": Fault(
        "2 times too large", attention, functools.partial(attention_rule, scale=1),
        [normal(3, 4), normal(5, 4), normal(5, 2)],
    ),
    "a constant": Fault("a constant factor, 1.1", np.tanh,
                        lambda g, x: 1.1 * g * (1 - np.tanh(x) ** 2), [X]),
    "cube": Fault("x times too small", lambda x: x**3, lambda g, x: 3 * g * x, [X]),
    "logarithm": Fault("g is passed on unchanged", np.log, lambda g, x: g, [positive(3, 4)]),
    "quotient": Fault("-y times too large", lambda x, y: x / y,
                      lambda g, x, y: (g / y, g * x / y), [X, positive(3, 4)]),
    "norm of rows": Fault("out times too large", lambda x: np.linalg.norm(x, axis=1),
                          lambda g, x: g[:, None] * x, [X]),
    "square root": Fault("√x times too large", np.sqrt, lambda g, x: g * 0.5, [positive(3, 4)]),
    # g, and another value in its place
    "no g": Fault("the cotangent g is missing", np.tanh, lambda g, x: 1 - np.tanh(x) ** 2, [X]),
    "g twice": Fault("g is squared, or multiplied twice", np.sin, lambda g, x: g * g * np.cos(x),
                     [X]),
    "a term without g": Fault("a term without g", lambda x: x + x**2, lambda g, x: g + 2 * x, [X]),
    "normalized": Fault("after a normalization", np.sin,
                        lambda g, x: g * np.cos(x) / np.linalg.norm(g * np.cos(x)), [X]),
    "absolute": Fault("each sign is lost", np.sin, lambda g, x: np.abs(g * np.cos(x)), [X]),
    "clipped": Fault("clipped to 0.5", np.sin, lambda g, x: np.clip(g * np.cos(x), -0.5, 0.5), [X]),
    "passed on": Fault("g is passed on unchanged", np.tanh, lambda g, x: g, [X]),
    "the value itself": Fault("g is multiplied by the value", np.tanh,
                              lambda g, x: g * np.tanh(x), [X]),
    "inputs swapped": Fault("inputs swapped: this is what input 1 should get", np.multiply,
                            lambda g, x, y: (g * x, g * y), [X, Y]),
    "at out": Fault("the derivative is taken at out, and not at x", np.tanh,
                    lambda g, x: g * (1 - np.tanh(np.tanh(x)) ** 2), [X]),
    "lost": Fault("no gradient arrives", np.tanh, lambda g, x: np.zeros_like(x), [X]),
    "not finite": Fault("a division by zero, or a root or logarithm", np.square,
                        lambda g, x: g * x * np.sqrt(-np.abs(x)), [X]),
    # sums
    "softmax over the wrong axis": Fault(
        "a sum over axis 0, in the place of axis 1", softmax,
        functools.partial(softmax_rule, summed=(0,)), [X],
    ),
    "softmax over all": Fault(
        "a sum over axes 0 and 1, in the place of axis 1", softmax,
        functools.partial(softmax_rule, summed=(0, 1)), [X],
    ),
    "softmax without a sum": Fault(
        "a sum over axis 1 is missing: each element depends on its own g alone", softmax,
        functools.partial(softmax_rule, subtract=False), [X],
    ),
    "softmax's diagonal": Fault("a sum over axis 1 is missing", softmax,
                                lambda g, x: g * softmax(x) * (1 - softmax(x)), [X]),
    "norm over the wrong axis": Fault(
        "a sum over axis 0, in the place of axis 1", standardized,
        functools.partial(standardized_rule, axis=0), [X],
    ),
    "norm without the mean's term": Fault(
        "the mean over axis 1 is not subtracted", standardized,
        functools.partial(standardized_rule, mean=0.0), [ROWS],
    ),
    "norm without the variance's term": Fault(
        "the term of x - mean(x) in (x - mean(x)) ** 2 is missing", standardized,
        functools.partial(standardized_rule, variance=0.0), [ROWS],
    ),
    "norm with the mean's term twice": Fault(
        "the mean over axis 1 is subtracted too often", standardized,
        functools.partial(standardized_rule, mean=2.0), [ROWS],
    ),
    "centring": Fault("the mean over axis 1 is not subtracted",
                      lambda x: x - x.mean(1, keepdims=True), lambda g, x: g.copy(), [X]),
    "log-softmax": Fault(
        "a sum over axis 1 is missing", lambda x: np.log(softmax(x)),
        lambda g, x: g - softmax(x) * g, [X],
    ),
    "sum over rows": Fault("a sum over axis 1 is missing", lambda x: x.sum(1) ** 2,
                           lambda g, x: 2 * g[:, None] * x, [X]),
    "repeated along the wrong axis": Fault(
        "summed over, or repeated along, the wrong axis: constant along 0",
        lambda x: x.sum(1), lambda g, x: np.tile(g, (4, 1)), [W],
    ),
    # terms
    "a residual connection": Fault("a term g is missing", lambda x: x + np.tanh(x),
                                   lambda g, x: g * (1 - np.tanh(x) ** 2), [X]),
    "a penalty": Fault("a term 0.2 · g · x is missing", lambda x: np.sin(x).sum()
                       + 0.1 * (x * x).sum(), lambda g, x: g * np.cos(x), [X]),
    "an input used twice": Fault("the term with gᵀ is missing", lambda x: x @ x.T,
                                 lambda g, x: g @ x, [X]),
    "rows looked up twice": Fault("contributions are not added up", looked_up, last_wins, [X]),
    "one output forgotten": Fault("g is not used at index 3 of its axis 0", looked_up,
                                  lambda g, x: np.stack([g[0], 0 * g[0], g[1] + g[2]]), [X]),
    # some elements
    "the last row": Fault("only at index 2 of axis 0", np.sin,
                          lambda g, x: zeroed(g * np.cos(x), 2), [X]),
    "one element": Fault("one element alone, [1, 2]", np.sin,
                         lambda g, x: zeroed(g * np.cos(x), 1, 2), [X]),
    "the first row alone": Fault("everywhere but at index 0 of axis 0", np.sin,
                                 lambda g, x: zeroed(g * np.cos(x), slice(1, None)), [X]),
    "negative inputs": Fault("only where an input is negative", leaky,
                             lambda g, x: g * (x > 0), [X]),
    "negative inputs, by an absolute value": Fault(
        "a wrong sign, only where an input is negative", lambda x: x**2 / 2,
        lambda g, x: g * np.abs(x), [X]),
    "a threshold": Fault("only where x is smaller than about", lambda x: np.where(x < 0.5, x**2, x),
                         lambda g, x: g * np.where(x < 0.5, x, 1), [X]),
    # masks, places and one-hot arrays
    "dropout's mask": Fault("a mask is missing", lambda x: x * KEPT / 0.8, lambda g, x: g / 0.8,
                            [X]),
    "trace": Fault("a mask is missing", np.trace, lambda g, x: g * np.ones_like(x), [W]),
    "maximum, to all": Fault("a mask is missing", lambda x: x.max(1),
                             lambda g, x: np.repeat(g[:, None], 4, 1), [X]),
    "a causal mask": Fault("on which the result does not depend: a missing mask", causal_softmax,
                           lambda g, x: softmax_rule(g, x), [W]),
    "the other triangle": Fault("another mask", np.triu, lambda g, x: np.tril(g), [W]),
    "the maximum of columns": Fault("another mask", lambda x: x.max(1), max_of_columns, [W]),
    "relu on the other side": Fault("the mask is inverted", lambda x: np.maximum(x, 0),
                                    lambda g, x: g * (x < 0), [X]),
    "the diagonal": Fault("missing at the diagonal", np.tril, lambda g, x: np.tril(g, -1), [W]),
    "tile for repeat": Fault("whole blocks for single elements along axis 0", average_pool,
                             lambda g, x: np.tile(g, 2) / 2, [LONG]),
    "repeat for tile": Fault("in the cotangent g: whole blocks for single elements",
                             lambda x: np.tile(x, 2), lambda g, x: g.reshape(4, 2).sum(1), [V]),
    "the minimum for the maximum": Fault("the right numbers at wrong places", lambda x: x.max(1),
                                         lambda g, x: g[:, None] * (x == x.min(1)[:, None]), [X]),
    "no one-hot array": Fault("a term -0.3333 · g is missing at [0, 1], [1, 0], [2, 3]",
                              cross_entropy, functools.partial(cross_entropy_rule, onehot=0), [X]),
    "another one-hot array": Fault(
        "0.3333 · g too much at [0, 1], [1, 0], too little at [0, 2], [1, 1]", cross_entropy,
        functools.partial(cross_entropy_targets, targets=[2, 1, 3]), [X],
    ),
    "no label smoothing": Fault("the error is g times constants", smoothed, cross_entropy_rule,
                                [X]),
    # the rule is right for other values
    "the input for the output": Fault("x in the place of out", np.tanh,
                                      lambda g, x: g * (1 - x * x), [X]),
    "a kernel that is not reversed": Fault(
        "in the use of k: reversed along axis 0", lambda x, k: np.convolve(x, k, "valid"),
        convolved_rule, [LONG, normal(3)],
    ),
    "a weight that is not transposed": Fault(
        "in the use of w: a transpose", lambda x, v, w: x @ v @ w,
        lambda g, x, v, w: (g @ w @ v.T, x.T @ (g @ w), (x @ v).T @ g), [X, normal(4, 4), W],
    ),
    "a quadratic form": Fault("right only if a is symmetric: a transpose of a is missing",
                              lambda x, a: x @ a @ x, lambda g, x, a: (2 * g * a @ x,
                                                                       g * np.outer(x, x)), [V, W]),
    "a linear system": Fault("right only if a is symmetric", np.linalg.solve, solve_rule,
                             [INVERTIBLE, normal(3)]),
    "a Gram matrix": Fault("transpose(x) in transpose(x) @ x: in the cotangent g, a transpose",
                           lambda x: x.T @ x, lambda g, x: 2 * x @ g, [X]),
    "a scale along the wrong axis": Fault(
        "a sum over axis 1, in the place of axis 0", np.multiply,
        lambda g, x, s: (g * s, (g * x).sum(1)), [SQUARE, V],
    ),
    "a norm over the wrong axis": Fault("rows in the place of columns",
                                        lambda x: np.linalg.norm(x, axis=1), norm_of_columns, [W]),
    "g along the wrong axis": Fault("in the cotangent g, a transpose", lambda x: (x**2).sum(1),
                                    lambda g, x: 2 * g * x, [W]),
    "a gain that g must have": Fault("g must be multiplied by w first",
                                     lambda x, w: rms_norm(x) * w,
                                     lambda g, x, w: (rms_rule(g, x), (g * rms_norm(x)).sum(0)),
                                     [ROWS, normal(6)]),
    "eps": Fault("taken at mean(x * x), and not at mean(x * x) + 0.01: this step, such as an eps",
                 rms_norm, functools.partial(rms_rule, eps=0), [ROWS]),
    "eps of a root": Fault("a small term, such as eps, is missing",
                           lambda x: np.hypot(x, 0.1), lambda g, x: g * np.sign(x), [X]),
    # products
    "half of silu": Fault("only the term g · out / x of the product rule",
                          lambda x: x * sigmoid(x), lambda g, x: g * sigmoid(x), [X]),
    "the other half of silu": Fault("the term g · out / x of the product rule is missing",
                                    lambda x: x * sigmoid(x),
                                    lambda g, x: g * x * sigmoid(x) * (1 - sigmoid(x)), [X]),
    "entropy": Fault("a term -g is missing", lambda x: -(x * np.log(x)).sum(),
                     lambda g, x: -g * np.log(x), [positive(5)]),
    "a gate": Fault("a term -g · h is missing", lambda z, h, c: (1 - z) * h + z * c,
                    lambda g, z, h, c: (g * c, g * (1 - z), g * z), [normal(5) for _ in "zhc"]),
    "a sign for a value": Fault("|x| times too large", lambda x: np.abs(x).sum(),
                                lambda g, x: g * x, [X]),
    "probabilities for logits": Fault(
        "x · (1 - x) times too large", lambda x: -np.log(x[:2]).sum() - np.log(1 - x[2:]).sum(),
        lambda g, x: g * (x - [1, 1, 0, 0]), [RANDOM.uniform(0.2, 0.8, 4)],
    ),
    "an arc sine": Fault("√(1 - x²) times too small", np.arcsin, lambda g, x: g / (1 - x * x),
                         [RANDOM.uniform(-0.6, 0.6, 5)]),
    "a variance for a deviation": Fault("a wrong factor, the same along axis 1", standardized,
                                        standardized_over_variance, [ROWS]),
    "a sum for a mean": Fault("6 times too large (6 is the length of axis 1), in the term of x in",
                              rms_norm, functools.partial(rms_rule, total=np.sum), [ROWS]),
    # one step of a composed function
    "a layer that is not transposed": Fault(
        "in the gradient of sin(x) in sin(x) @", lambda x: np.sin(x) @ W,
        lambda g, x: np.cos(x) * (g @ W), [X],
    ),
    "a recurrent layer": Fault(
        "in the gradient of h in h @ u: a Jacobian that is not transposed", recurrent,
        lambda g, h, u: ((g * (1 - recurrent(h, u) ** 2)) @ u, h.T @ (
            g * (1 - recurrent(h, u) ** 2))), [X, W],
    ),
    "a derivative of an activation": Fault(
        "g passes from tanh(h @ u) to h @ u unchanged: the derivative is missing", recurrent,
        lambda g, h, u: (g @ u.T, h.T @ g), [X, W],
    ),
    "a derivative of several steps": Fault(
        "g passes from 1 / (1 + exp(…)) to x @ … unchanged", lambda x: sigmoid(x @ W),
        lambda g, x: g @ W.T, [X],
    ),
    "a derivative of an inner function": Fault(
        "unchanged: the derivative is missing", lambda x: x * np.tanh(2 * x + 0.1 * x**3),
        lambda g, x: g * (np.tanh(2 * x + 0.1 * x**3) + x / np.cosh(2 * x + 0.1 * x**3) ** 2),
        [X],
    ),
    "a relu's mask in a network": Fault(
        "g passes from maximum(x @ u, 0) to x @ u unchanged", network,
        lambda g, x, u, v: (g @ v.T @ u.T, x.T @ (g @ v.T), np.maximum(x @ u, 0).T @ g), NETWORK,
    ),
    "a value for a derivative, in a network": Fault(
        "g is multiplied by the value of maximum(x @ u, 0), not its derivative", network,
        lambda g, x, u, v: ((g @ v.T * np.maximum(x @ u, 0)) @ u.T, x.T @ (
            g @ v.T * np.maximum(x @ u, 0)), np.maximum(x @ u, 0).T @ g), NETWORK,
    ),
    "a value before its activation": Fault(
        "the derivatives are taken at x @ u, and not at maximum(x @ u, 0)", network,
        lambda g, x, u, v: ((g @ v.T * (x @ u > 0)) @ u.T, x.T @ (g @ v.T * (x @ u > 0)),
                            (x @ u).T @ g), NETWORK,
    ),
    "a temperature": Fault("the derivatives are taken at x, and not at x / 2",
                           lambda x: softmax(x / 2), lambda g, x: softmax_rule(g, x) / 2, [X]),
    "a softmax over the wrong axis, in attention": Fault(
        "in the softmax", attention, functools.partial(attention_rule, axis=0), SQUARES,
    ),
    "an axis in the place of another, in attention": Fault(
        "a sum over axis 0, in the place of axis 1", attention,
        functools.partial(attention_rule, axis=0), SQUARES,
    ),
    "a sum that attention needs": Fault(
        "is missing", attention, functools.partial(attention_rule, subtract=0), SQUARES,
    ),
    "cross-entropy with a softmax over rows": Fault(
        "a softmax over axis 0, in the place of axis 1", cross_entropy,
        lambda g, x: g * (softmax(x, 0) - np.eye(4)[[1, 0, 3]]) / 3, [X],
    ),
    "a deviation over the wrong axis": Fault(
        "in the norm x / sqrt(mean(x * x)): a sum over axis 0, in the place of axis 1",
        lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True)) * w,
        lambda g, x, w: (rms_rule(g * w, x, 0, lambda a, _, **keep: a.mean(0, **keep)),
                         (g * rms_norm(x, 0)).sum(0)), [SQUARE, V],
    ),
    "one use of two": Fault("the term of x in (x @ a) @ x is missing", lambda x, a: x @ a @ x,
                            lambda g, x, a: (g * a @ x, g * np.outer(x, x)), [V, W]),
    "one use of two, in einsum": Fault(
        "the term of one use of x in einsum(x, a, x) is missing",
        lambda x, a: np.einsum("bi,ij,bj->b", x, a, x),
        lambda g, x, a: (g[:, None] * (x @ a), np.einsum("b,bi,bj->ij", g, x, x)), [X, W],
    ),
    "a cosine without its lengths": Fault(
        "the term of x in x @ x is missing", lambda x, y: x @ y / np.sqrt((x @ x) * (y @ y)),
        lambda g, x, y: (g * y / np.sqrt((x @ x) * (y @ y)), g * x / np.sqrt((x @ x) * (y @ y))),
        [V, normal(4)],
    ),
    "factors in the other order": Fault(
        "the factors of a product stand in the other order", np.matmul,
        lambda g, a, b: (b.T @ g, g @ a.T), [W, SQUARE],
    ),
    "a bias, summed over the wrong axis": Fault(
        "a sum over axis 1, in the place of axis 0", np.add,
        lambda g, x, b: (g, g.sum(1)), [SQUARE, V],
    ),
    "a gain, summed before the product": Fault(
        "g is summed over axis 0 before the product, and not after it", np.multiply,
        lambda g, x, s: (g * s, g.sum(0) * x.sum(0)), [X, V],
    ),
    "swapped in a rule that sums rows": Fault(
        "inputs swapped: this is what input 1", lambda x, w, b: x @ w.T + b,
        lambda g, x, w, b: (g.T @ x, g @ w, g.sum(0)), [SQUARE, W, V],
    ),
    # branches, frequencies, borders
    "a branch without its factor": Fault(
        "g passes from 0.5 * (absolute(x) - 0.25) to absolute(x) - 0.25 unchanged",
        lambda x: np.where(np.abs(x) < 0.5, x * x / 2, 0.5 * (np.abs(x) - 0.25)),
        lambda g, x: g * np.where(np.abs(x) < 0.5, x, np.sign(x)), [np.linspace(-1, 1.1, 8)],
    ),
    "exchanged branches": Fault("the derivative is taken at -x, and not at x", leaky,
                                lambda g, x: np.where(x > 0, 0.1 * g, g), [X]),
    "the weights of rfft": Fault(
        "the frequencies of axis 0 are 1, 2, 2, 1 times what they should be",
        lambda x: np.abs(np.fft.rfft(x)) ** 2,
        lambda g, x: 2 * x.size * np.fft.irfft(g * np.fft.rfft(x), x.size), [normal(6)],
    ),
    "a border that is cut at one side": Fault(
        "in the cotangent g: shifted by one along all axes", lambda x: np.pad(x, 1),
        lambda g, x: g[:-2, :-2], [X],
    ),
    # dtypes
    "half precision": Fault("digits of float16", np.sin,
                            lambda g, x: (g * np.cos(x)).astype(np.float16), [X]),
    "whole numbers": Fault("rounded to whole numbers", np.square,
                           lambda g, x: (2 * g * x).astype(np.int64), [3 * X]),
}  # fmt: skip


def message(check, *args, **options):
    with np.errstate(all="ignore"), pytest.raises(GradientError) as found:
        check(*args, **options)
    return str(found.value)


def likely(text):
    rows = (line.split(None, 1) for line in text.splitlines() if line.startswith("  likely"))
    return next((cause for _, cause in rows), "")


@pytest.mark.parametrize("name", FAULTS)
def test_the_cause_is_named(name):
    cause, function, rule, inputs = FAULTS[name]
    assert cause in likely(message(check_vjp, function, rule, inputs))


def test_the_table_is_large_enough():
    assert len(FAULTS) >= 105 and len({fault.cause for fault in FAULTS.values()}) >= 50


AS_OPS = (
    "x @ W, square", "outer product", "transpose", "moving average", "max pool, off by one", "sign",
    "mean of rows", "cross-entropy without 1/n", "bias, averaged", "quotient", "norm of rows",
    "no g", "softmax over the wrong axis", "norm without the mean's term", "a residual connection",
    "rows looked up twice", "negative inputs", "the last row",
)  # fmt: skip


@pytest.fixture
def as_op():
    """Return a function that registers an op with a fault, for the length of a test."""
    names = []

    def register(name):
        _, function, rule, inputs = FAULTS[name]
        parameters = ["x", "y", "z"][: len(inputs)]
        arguments = ", ".join(parameters)
        scope = {"function": function, "rule": rule}
        exec(f"def planted({arguments}): return function({arguments})", scope)
        op = autograd.op(scope["planted"])
        names.append(op.name)
        if len(inputs) > 1:
            exec(f"def vjp(g, {arguments}): return rule(g, {arguments})", scope)
            op.vjp(*parameters)(scope["vjp"])
        else:
            op.vjp(x=lambda g, x: rule(g, x))
        return op

    yield register
    for name in names:
        del autograd.REGISTRY[name]


@pytest.mark.parametrize("name", AS_OPS)
def test_the_cause_is_the_same_for_an_op_and_in_the_stepper(name, as_op):
    cause, _, _, inputs = FAULTS[name]
    op = as_op(name)
    assert cause in likely(message(gradcheck, op, inputs)).replace("x1", "y").replace("x0", "x")
    leaves = [autograd.tensor(x, requires_grad=True) for x in inputs]
    with autograd.record():
        out = op(*leaves)
        loss = (out * np.linspace(-1.1, 1.6, out.size).reshape(out.shape)).sum()
    session = Session(trace(loss))
    session.go_until("planted")
    found = [comparison for comparison in session.check_step() if comparison.verdict == "wrong"]
    assert any(cause in comparison.likely.replace("$", "") for comparison in found), found
    assert not any(re.search(r"(?<!\$)\b(x|y|g|out)\b", c.likely) for c in found), "a bare symbol"


# ---- functions of Tensors


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / np.sqrt(np.sum(x.detach() ** 2)),
        lambda x: np.exp(x).sum() * float(x.data.sum()),
        lambda x: np.tanh(x.detach()) * np.sin(x),
    ],
)
def test_a_value_that_is_detached_is_said_to_be(function):
    named = likely(message(gradcheck, function, [V]))
    assert named.startswith("a value that depends on x is used as a constant")


def test_the_op_with_the_wrong_rule_is_named(as_op):
    op = as_op("sign")  # the cosine
    named = likely(message(gradcheck, lambda x: np.tanh(op(np.exp(x))), [V]))
    assert named == "the rule of planted is wrong, for exp(x) in planted(exp(x))"


# ---- no cause is better than a false one


def test_the_length_of_an_axis_explains_no_factor_of_an_elementwise_rule():
    text = message(check_vjp, lambda x: x**3, lambda g, x: g * x**2, [normal(3, 3)])
    assert likely(text) == "3 times too small"


def test_a_sum_of_zeros_is_no_other_sum():
    """A standardized row adds up to 0: what is summed too early vanishes, as a lost term does."""
    rule = functools.partial(standardized_rule, variance=0.0)
    assert "before the product" not in likely(message(check_vjp, standardized, rule, [ROWS]))


def test_the_axes_of_a_composed_function_are_no_cause():
    """The gradient of q combines other elements, because a factor inside is not transposed."""

    def rule(g, q, k, v):
        dq, dk, dv = attention_rule(g, q, k, v)
        return np.sin(dq.T.reshape(dq.shape)) + dq[::-1] ** 1 * 2, dk, dv

    assert "sum over" not in likely(message(check_vjp, attention, rule, SQUARES))


def test_an_off_by_one_is_not_blamed_on_negative_inputs():
    """With |x| for x, another element is the largest, and the rule may be right by chance."""
    x = np.array([0.1, -2.0, 0.9, 0.8, 0.2, -0.3, -0.5, 1.4, 0.3, 0.2, 0.7, -1.5])
    for shift in (1, 2):
        rule = functools.partial(max_pool_rule, off=shift)
        assert "negative" not in likely(message(check_vjp, max_pool, rule, [x]))


@pytest.mark.parametrize(
    ("function", "rule", "inputs"),
    [
        (np.tanh, lambda g, x: g * (1 + np.tanh(x) ** 2), [X]),
        (lambda x: x * np.tanh(x), lambda g, x: g * np.tanh(x) + g * np.sin(x), [X]),
        (lambda x: np.sin(x) @ W, lambda g, x: np.cos(x) * (g @ W) + g, [X]),
        (softmax, lambda g, x: softmax(x) * (g - 0.3 * np.sum(g, 1, keepdims=True)) ** 1, [X]),
        (lambda x, y: x @ y, lambda g, x, y: (g @ y.T, np.tanh(x).T @ g), [X, W]),
        (lambda x: np.sin(x).sum(0), lambda g, x: g * np.cos(np.sort(x, 0)), [X]),
    ],
)
def test_an_unusual_mistake_has_no_cause_by_force(function, rule, inputs):
    """No sign, factor, axis, input or condition explains these."""
    named = likely(message(check_vjp, function, rule, inputs))
    known = ("sign", "times too", "factor", "transpose", "swapped", "only where", "term", "shifted")
    assert not any(word in named for word in known), named


def test_a_sum_is_not_missing_if_only_one_element_gets_a_gradient():
    """The sum of a line with one element is this element, which may equal its neighbours."""
    x = np.array([-1.3, 0.4, -0.5, -1.1, -0.8, -0.2])
    text = message(check_vjp, lambda s: np.maximum(0, 1 - s).sum(), lambda g, s: -g * (s > 0), [x])
    assert "sum" not in likely(text)


def test_another_condition_is_not_blamed_on_negative_inputs():
    """The rule lacks the mask x < y; where x > y here, y is negative."""
    x, y = np.array([0.5, -1.2, 0.1, -0.4]), np.array([-0.3, 0.9, 0.8, 1.1])
    rule = functools.partial(lambda g, x, y: (g * (x > y), g))
    assert "negative" not in likely(message(check_vjp, np.maximum, rule, [x, y]))


def test_a_condition_on_two_inputs_is_not_blamed_on_one():
    """The rule of y has a factor of 1/2 where y is larger; x is negative at the same places."""
    x, y = np.array([0.9, -0.7, -0.4, 0.8]), np.array([-0.3, 0.5, -0.1, 0.2])
    rule = functools.partial(lambda g, x, y: (2 * g * (x > y), g * (y > x)))
    named = likely(message(check_vjp, lambda x, y: 2 * np.maximum(x, y), rule, [x, y]))
    assert "negative" not in named and "positive" not in named


def test_a_scalar_says_no_more_than_a_scalar_can():
    text = message(check_vjp, np.tanh, lambda g, x: g * (1 + np.tanh(x) ** 2), [np.array(0.3)])
    assert likely(text) == ""


def test_a_large_input_is_sampled():
    x = RANDOM.standard_normal((200, 300))
    text = message(check_vjp, np.sin, lambda g, x: -g * np.cos(x), [x])
    assert likely(text) == "a wrong sign" and "numeric   -" not in text
    text = message(check_vjp, lambda x: x[::-1], lambda g, x: g, [x])
    assert likely(text) == "reversed along axis 0"


def test_a_function_that_raises_elsewhere_has_no_cause():
    x = normal(3)

    def only_here(y):
        if np.abs(y - x).max() > 0.005:
            raise ValueError("not here")
        return np.sin(y)

    assert likely(message(check_vjp, only_here, lambda g, y: -g * np.cos(y), [x])) == ""


def test_a_rule_with_a_memory_is_said_to_have_one():
    calls = []

    def rule(g, x):
        calls.append(1)
        return 2 * g if len(calls) == 1 else g

    text = message(check_vjp, lambda x: x + 0, rule, [normal(3)])
    assert "different results for the same call" in likely(text)


def test_a_cache_that_a_check_at_one_point_cannot_see():
    kept = {}

    def rule(g, x):
        kept.setdefault("out", np.tanh(x))
        return g * (1 - kept["out"] ** 2)

    assert "(a cache)" in message(check_vjp, np.tanh, rule, [normal(5)])


@pytest.mark.parametrize(
    ("function", "rule", "x"),
    [
        (lambda x: 3 * x[::-1], lambda g, x: 3 * g[::-1], normal(200)),
        (max_pool, functools.partial(max_pool_rule, off=0), normal(300)),
        (np.sqrt, lambda g, x: g / (2 * np.sqrt(x)), np.full(3, 0.1)),
        # The results are 0 but for rounding, and so are the gradients.
        (lambda x: np.log(np.exp(x)) - x, lambda g, x: 0 * g, normal(3)),
        (lambda x: 100 * (np.sum(x) - x.sum(axis=0)), lambda g, x: 0 * x, normal(50)),
    ],
)
def test_equal_gradients_at_other_points_are_no_cache_by_themselves(function, rule, x):
    assert check_vjp(function, rule, [x])


def test_swapped_gradients_of_different_shapes():
    def rule(g, w, x):
        return w.T @ g, np.outer(g, x)

    text = message(check_vjp, lambda w, x: w @ x, rule, [W, V])
    assert likely(text) == "inputs swapped: this is the shape of input 1"


def test_a_domain_does_not_hide_the_cause():
    """The experiments with negative numbers raise here."""

    def root(x):
        if (x < 0).any():
            raise ValueError("negative")
        return np.sqrt(x)

    text = message(check_vjp, root, lambda g, x: g / np.sqrt(x), [positive(3)])
    assert likely(text) == "2 times too large"


def test_both_gradients_are_shown_if_they_are_small():
    text = message(check_vjp, lambda x: x @ W, lambda g, x: g @ W, [X])
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["backward", "numeric"])
    assert len(lines[start + 1].split("[[")) == 3 and max(map(len, lines[start : start + 4])) <= 80
    large = np.ones((20, 20))
    text = message(check_vjp, np.square, lambda g, x: g * x, [large])
    assert "numeric\n" not in text


@pytest.mark.parametrize(
    ("found", "expected", "cause"),
    [
        ((5, 3), (3, 5), "a transpose too many or too few: the axes are in reverse order"),
        ((2, 4, 3), (2, 3, 4), "the axes are in another order"),
        ((2, 3), (3,), "a forgotten sum over axis 0: along it the input was broadcast"),
        ((2, 3, 4), (1, 4), "a forgotten sum over axes 0, 1: along it the input was broadcast"),
        ((3, 1), (3, 4), "not repeated along axis 1 of the input"),
        ((), (3,), "not repeated along axis 0 of the input"),
        ((0,), (), "a forgotten sum over axis 0: along it the input was broadcast"),
        ((0, 0), (0,), "a forgotten sum over axis 0: along it the input was broadcast"),
        ((0, 3), (0, 4), "one element too few along axis 1"),
        ((12,), (3, 4), "a reshape is missing: the number of elements is right"),
        ((1, 3), (3,), "an axis of length 1 too many, as with keepdims=True"),
        ((3,), (3, 1), "an axis of length 1 too few, as without keepdims=True"),
        ((3, 5), (3, 4), "one element too many along axis 1"),
        ((2, 9), (3, 4), ""),
    ],
)
def test_a_wrong_shape_is_explained(found, expected, cause):
    function, rule = (lambda x: 2 * x), (lambda g, x: np.zeros(found))
    assert likely(message(check_vjp, function, rule, [np.ones(expected)])) == cause
    op = autograd.op(lambda x: 2 * x)
    try:
        op.vjp(x=lambda g: np.zeros(found))
        with pytest.raises(ValueError) as error:
            gradcheck(op, [np.ones(expected)])
    finally:
        del autograd.REGISTRY[op.name]
    assert likely(str(error.value)) == cause


@pytest.mark.parametrize("dtype", [np.complex128, object, np.str_])
def test_a_gradient_that_is_no_array_of_real_numbers(dtype):
    rule = functools.partial(lambda g, x: (2 * g).astype(dtype))
    text = message(check_vjp, lambda x: 2 * x, rule, [V])
    assert re.search(r"a gradient of dtype \S+ for input 0; expected real numbers", text)

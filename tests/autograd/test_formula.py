"""The notation of formulas: what it means, and that a wrong formula is found."""

import numpy as np
import pytest

import autograd
from autograd.formula import Evaluation, FormulaError, parse
from autograd.testing import check_op

X = np.random.default_rng(0).standard_normal((2, 3, 4))
Y = np.random.default_rng(1).standard_normal((3, 4, 5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("out = 2 · x + 1", 2 * X + 1),
        ("out = -x^2", -(X**2)),
        ("out = 2^x^2", 2 ** (X**2)),
        ("out = x - 1 - x / 2 / 2", X - 1 - X / 4),
        ("out = |x| · sign(x)", X),
        ("out = max(x, 0) + min(x, 0)", X),
        ("out = [x > 0 and x < 1] + 2 · [x ≤ 0]", ((X > 0) & (X < 1)) + 2 * (X <= 0)),
        ("out_ijk = x_ijk", X),
        ("out_ik = Σ_j x_ij · y_jk", X @ Y[:2]),
        ("out_i = Σ_j x_ij + 1", X.sum(-1) + 1),
        ("out_i = (Σ_j x_ij) / mean_k x_ik", np.full((2, 3), 4.0)),
        ("out_i = max_j x_ij - min_j x_ij", np.ptp(X, -1)),
        ("out = Π_i x_i", X.prod(-1)),
        ("out_ij = [i = j]·x_ij", X * np.eye(3, 4)),
        ("out_i = x_{i + 1}", np.concatenate([X[..., 1:], np.zeros((2, 3, 1))], -1)),
        ("out_i = x_{mod(i - 1, 4)}", np.roll(X, 1, -1)),
        ("out_i = x_{0, i}", X[:, 0]),
        ("s_i = Σ x_i; out_i = s_i", X.sum((0, 1))),
        ("t_i = exp(x_i); out_i = t_i / Σ_j t_j", np.exp(X) / np.exp(X).sum(-1, keepdims=True)),
        ("out_i = sum_j x_ij * x_ij", (X * X).sum(-1)),
    ],
)
def test_notation(text, expected):
    values = {"x": X, "y": Y[:2], "out": expected}
    equations = parse(text, frozenset(values))
    evaluation = Evaluation(equations, values)
    *_, (found, stated) = map(evaluation.sides, equations)
    np.testing.assert_allclose(stated, found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out = x +", "expected a number, a name or a bracket, found its end"),
        ("out = (x", r"expected '\)', found its end"),
        ("out = x y", "expected its end, found y"),
        ("x + 1", "expected '='"),
        ("out = [x > 1", r"expected '\]'"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(FormulaError, match=message):
        parse(text, frozenset({"x"}))


def square(x):
    return x * x


def planted(formula):
    op = autograd.Op(square)
    op.vjp(x=lambda g, x: 2 * g * x)
    op.formula(formula)
    return op


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("out = x^2; dx = g · x", r"square and its formula: dx = g · x"),
        ("out = x^3; dx = 2 · g · x", r"square and its formula: out = x\^3"),
        ("out = x^2", "square: the formula has no equation for dx"),
        ("out = x^2; dx = 2 · g · z", "names 'z', which nothing defines"),
        (
            "out_i = x_j^2; dx = 2 · g · x",
            "(names 'i'|names 'j'|subscripts|subscript of no known array)",
        ),
    ],
)
def test_a_wrong_formula_is_found(formula, message):
    with pytest.raises((AssertionError, FormulaError), match=message):
        check_op(planted(formula))


def test_a_right_formula_in_other_spellings():
    op = planted("out = x * x; dx = 2*g*x")
    check_op(op)
    assert str(op.stated) == "out = x · x\ndx = 2·g·x"

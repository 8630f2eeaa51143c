"""The optimizer, the fit of a law, and intervals: on planted laws, and on planted faults."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt import UserError
from npgpt.scaling.laws import Law, fit_law
from npgpt.scaling.minimize import minimize

RANDOM = np.random.default_rng(0)
BUDGETS = 1e12 * 2.0 ** np.arange(7)
N, D = (x.ravel() for x in np.meshgrid(1e4 * 2.0 ** np.arange(4), 1e6 * 3.0 ** np.arange(4)))

# ---- the optimizer


def rosenbrock(x, rows):
    """A curved valley with its minimum at (1, 1)."""
    return 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2


def test_each_start_reaches_the_end_of_a_curved_valley():
    starts = np.array([[-1.2, 1.0], [2.0, -3.0], [0.0, 5.0], [1.0, 1.0]])
    points, values = minimize(rosenbrock, starts)
    assert np.allclose(points, 1, atol=1e-6) and np.all(values < 1e-12)
    assert starts[0, 0] == -1.2  # what was given is not written to


def test_a_row_is_minimized_as_if_alone():
    """Its own data, and no part of the others' steps."""
    starts, goals = RANDOM.standard_normal((5, 3)), RANDOM.standard_normal((5, 3))
    scales = np.exp(RANDOM.standard_normal(3) * 2)

    def far(x, rows):
        return np.sum(scales * (x - goals[rows]) ** 4 + (x - goals[rows]) ** 2, axis=1)

    points, _ = minimize(far, starts)
    assert np.allclose(points, goals, atol=1e-6)
    for i in range(5):
        (alone,), _ = minimize(lambda x, rows, i=i: far(x, rows + i), starts[i : i + 1])
        assert np.allclose(alone, points[i], atol=1e-8)


def test_steps_that_leave_the_domain_are_shortened():
    with np.errstate(invalid="ignore", divide="ignore"):
        (point,), _ = minimize(lambda x, rows: np.sum(x - np.log(x), axis=1), np.array([[1e-3]]))
    assert point == pytest.approx(1, abs=1e-6)


def test_a_slope_without_end_stops_at_the_limit():
    _, values = minimize(lambda x, rows: np.sum(np.exp(-x), axis=1), np.zeros((1, 1)), limit=9)
    assert 0 <= values[0] < 1


# ---- planted laws


@settings(max_examples=6)
@given(st.floats(0.3, 3), st.floats(0.05, 1), st.floats(0.1, 3))
def test_the_law_of_compute_is_recovered(constant, exponent, term):
    """Where each of its terms can be seen in the losses."""
    factor = term * BUDGETS[3] ** exponent
    planted = Law(constant, {"C": factor}, {"C": exponent})
    law = fit_law(planted(C=BUDGETS), {"C": BUDGETS}, draws=2).law
    assert law.exponents["C"] == pytest.approx(exponent, rel=1e-3)
    assert law.constant == pytest.approx(constant, rel=1e-2)
    assert law(C=100 * BUDGETS[-1]) == pytest.approx(planted(C=100 * BUDGETS[-1]), rel=1e-3)


@settings(max_examples=6)
@given(st.floats(0.3, 3), st.floats(0.1, 0.8), st.floats(0.1, 0.8), st.floats(0.2, 2))
def test_the_law_of_size_and_data_is_recovered(constant, alpha, beta, term):
    factors = {"N": term * 3e4**alpha, "D": term * 5e6**beta}
    planted = Law(constant, factors, {"N": alpha, "D": beta})
    law = fit_law(planted(N=N, D=D), {"N": N, "D": D}, draws=2).law
    assert law.exponents == pytest.approx(planted.exponents, rel=1e-3)
    assert law.constant == pytest.approx(constant, rel=1e-2)


def test_losses_without_a_floor_have_none():
    law = fit_law(30 / BUDGETS**0.11, {"C": BUDGETS}, draws=2).law
    assert law.constant == 0 and law.exponents["C"] == pytest.approx(0.11, rel=1e-4)


def test_published_numbers_are_recovered():
    """Hoffmann et al. 2022, equation 10, at their sizes."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(7e7, 1e10, 6), np.geomspace(5e9, 4e11, 6)))
    planted = Law(1.69, {"N": 406.4, "D": 410.7}, {"N": 0.34, "D": 0.28})
    law = fit_law(planted(N=N, D=D), {"N": N, "D": D}, draws=2).law
    assert str(law) == str(planted)


def test_one_wrong_loss_hardly_changes_the_fit():
    """The Huber loss counts no more than the sign of a large error."""
    planted = Law(0.8, {"N": 60.0, "D": 200.0}, {"N": 0.4, "D": 0.4})
    losses = planted(N=N, D=D)
    losses[5] *= 1.2
    fit = fit_law(losses, {"N": N, "D": D}, draws=2)
    assert fit.law.exponents == pytest.approx(planted.exponents, rel=0.02)
    assert np.argmax(np.abs(fit.errors)) == 5 and fit.errors[5] == pytest.approx(
        np.log(1.2), rel=0.02
    )


def test_losses_of_another_law_do_not_fit():
    """A planted fault: the losses of the largest models stop falling."""
    planted = Law(0.8, {"C": 1000.0}, {"C": 0.25})
    right = planted(C=BUDGETS)
    good = fit_law(right, {"C": BUDGETS}, draws=2)
    bad = fit_law(np.maximum(right, right[4]), {"C": BUDGETS}, draws=2)
    assert np.abs(good.errors).max() < 1e-6 < 1e-3 < np.abs(bad.errors).max()
    bigger = 16 * BUDGETS[3]
    assert abs(float(bad.law(C=bigger)) / float(planted(C=bigger)) - 1) > 0.02


def test_intervals_hold_the_next_loss():
    """Of 20 ladders with errors of 0.5 %, about 18 hold it; and the intervals are of some use."""
    planted, new = Law(0.8, {"C": 1000.0}, {"C": 0.25}), 16 * BUDGETS[3]
    held, widths = 0, []
    for seed in range(20):
        noise = np.exp(0.005 * np.random.default_rng(seed).standard_normal(8))
        fit = fit_law(planted(C=BUDGETS) * noise[1:], {"C": BUDGETS}, draws=50, seed=seed)
        found = fit.predict(C=new)
        held += found.low <= planted(C=new) * noise[0] <= found.high
        widths.append((found.high - found.low) / found.value)
    assert held >= 15 and 0.02 < np.median(widths) < 0.06


def test_a_fit_is_a_function_of_its_seed():
    losses = Law(0.8, {"C": 1000.0}, {"C": 0.25})(C=BUDGETS) * [1, 1.01, 1, 0.99, 1, 1.01, 1]
    first, again, other = (fit_law(losses, {"C": BUDGETS}, 20, seed) for seed in (1, 1, 2))
    assert first.estimates() == again.estimates() != other.estimates()
    assert first.law == other.law
    found = first.estimates()
    assert [*found] == ["E", "A", "alpha"]
    assert all(low <= value <= high for value, low, high in found.values())


# ---- what cannot be fitted


@pytest.mark.parametrize(
    ("losses", "variables", "message"),
    [
        (np.ones(4), {"C": BUDGETS[:4]}, r"L\(C\) has 3 unknown numbers, and there are 4 models"),
        (np.ones(6), {"N": N[:6], "D": D[:6]}, r"L\(N, D\) has 5 unknown numbers.*takes 7"),
        (np.array([1, 2, np.nan, 3, 4, 5, 6]), {"C": BUDGETS}, "values of loss must be positive"),
        (np.ones(7), {"C": -BUDGETS}, "values of C must be positive"),
        (np.ones(7), {"C": np.array([1.0, 2] * 3 + [1])}, "C must have three different values"),
    ],
)
def test_what_cannot_be_fitted(losses, variables, message):
    with pytest.raises(UserError, match=message):
        fit_law(losses, variables)

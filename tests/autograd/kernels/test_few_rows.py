"""Products with few rows: the bits of our other product, whoever computes which columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd.kernels import kernels_enabled

if not kernels_enabled():
    pytest.skip("kernels are off", allow_module_level=True)

from autograd import nn, tensor
from autograd.kernels import few_rows, use_threads
from autograd.kernels.cache import settings
from autograd.kernels.product import WORTH_PACKING, Choice, own_product
from autograd.kernels.team import n_threads
from autograd.ops import linalg

if settings.DISABLE_JIT:
    pytest.skip("the product runs compiled only", allow_module_level=True)

LAYOUTS = {
    "rows": lambda x: x,
    "transposed": np.asfortranarray,
    "a part": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "every other": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}
layouts = st.sampled_from(sorted(LAYOUTS))


def drawn(*shapes, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


@given(
    st.integers(1, 255), st.integers(0, 300), st.integers(65, 300), layouts, layouts,
    st.booleans(), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32),
)  # fmt: skip
def test_bits_are_those_of_the_other_product(m, k, n, x_layout, y_layout, has_bias, dtype, seed):
    x, y, bias = drawn((m, k), (k, n), (n if has_bias else 0), dtype=dtype, seed=seed)
    x, y = LAYOUTS[x_layout](x), LAYOUTS[y_layout](y)
    with use_threads(2):
        found = few_rows.columns_product(x, y, bias)
    assert np.array_equal(found, own_product(x, y, bias))


def test_nothing_else_is_written_or_read():
    """Beside a part of an array stand NaN, which must not come in."""
    wide = np.full((40, 290), np.nan, np.float32)
    wide[:13, :30], wide[13:, 20:90] = drawn((13, 30), (27, 70))
    x, y = wide[:13, :27], wide[13:, 20:90]
    assert np.array_equal(
        few_rows.columns_product(x, y, np.empty(0, np.float32)),
        own_product(x.copy(), y.copy(), np.empty(0, np.float32)),
    )


def test_which_products_are_computed_here(monkeypatch):
    """Few rows, where our own product was chosen, and as many parts as there are threads."""
    monkeypatch.setattr(few_rows, "choice", lambda: Choice("own", "blas"))
    x, y, bias = drawn((20, 300), (300, 400), 400)
    assert np.array_equal(few_rows.product(x, y, bias), own_product(x, y, bias))
    assert np.array_equal(few_rows.product(x, y), own_product(x, y, np.empty(0, np.float32)))
    (many,) = drawn((WORTH_PACKING, 300))
    for declined in [
        (many, y), (np.asfortranarray(x), y), (x[:, 1:], y), (x, y, bias[1:]),
        (x, y.astype(np.float64)),
    ]:  # fmt: skip
        assert few_rows.product(*declined) is NotImplemented
    if n_threads() > 1:
        assert few_rows.product(x, y[:, :50]) is NotImplemented
    large = np.ones((200, 3000), np.float32)
    assert few_rows.product(large, np.ones((3000, 300), np.float32)) is NotImplemented
    monkeypatch.setattr(few_rows, "choice", lambda: Choice("blas", "own"))
    assert few_rows.product(x, y, bias) is NotImplemented


def test_a_single_row_is_multiplied_by_blas(monkeypatch):
    monkeypatch.setattr(few_rows, "choice", lambda: Choice("own", "own"))
    x, y, bias = drawn((1, 300), (900, 300), 900)
    found = few_rows.product(x, y.T, bias)
    if found is not NotImplemented:  # with one thread NumPy calls BLAS
        assert np.allclose(found, x @ y.T + bias, atol=1e-4)


@pytest.mark.parametrize("m", [1, 20])
def test_ops_ask_here_first(m, monkeypatch):
    calls = []

    def count(x, y, bias=None):
        calls.append(len(x))
        return few_rows.columns_product(x, y, np.empty(0, x.dtype) if bias is None else bias)

    monkeypatch.setattr(linalg.product._kernel, "_kernel", count)
    x, y, bias = drawn((m, 1000), (1000, 400), 400)
    assert np.allclose(nn.affine(x, y, bias), x @ y + bias, atol=1e-3)
    assert np.allclose((tensor(x) @ y).numpy(), x @ y, atol=1e-3)
    nn.affine(x[:, :100], y[:100, :100], None)  # fewer multiplications: NumPy computes
    assert calls == [m, m]

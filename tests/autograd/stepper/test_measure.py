"""How large and how near arrays are: large ones are read block by block."""

import numpy as np
import pytest

from autograd.stepper import measure


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (7,), (40, 30), (2, 3, 500)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "?"])
def test_in_blocks_as_at_once(shape, dtype, monkeypatch):
    monkeypatch.setattr(measure, "BLOCK", 64)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    for a, b in [(x, y), (x.T, y.T), (x[::-1] if shape else x, y)]:
        wide, other = a.astype(float), b.astype(float)
        assert np.isclose(measure.norm(a), np.linalg.norm(wide), rtol=1e-12)
        size = max(np.linalg.norm(wide), np.linalg.norm(other)) or 1.0
        distance = np.linalg.norm(wide - other) / size
        assert np.isclose(measure.relative_distance(a, b), distance, rtol=1e-12)
        assert measure.relative_distance(a, a) == 0
        assert measure.is_same(a, b) == np.array_equal(a, b)
        assert measure.is_same(a, a.copy()) and measure.is_same(a, a[...])


def test_one_element_makes_arrays_different(monkeypatch):
    monkeypatch.setattr(measure, "BLOCK", 8)
    x = np.arange(60.0).reshape(20, 3)
    x[7, 1] = np.nan  # NaN is the same as NaN
    for flat in (0, 30, 59):
        y = x.copy()
        assert measure.is_same(x, y)
        y.flat[flat] += 1
        assert not measure.is_same(x, y)
    assert not measure.is_same(x, x.T) and not measure.is_same(x, x.reshape(3, 20))

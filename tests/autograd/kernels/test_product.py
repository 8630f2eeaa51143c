"""The matrix product of our own, and the choice between it and BLAS."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autograd.kernels import kernels_enabled

if not kernels_enabled():
    pytest.skip("kernels are off", allow_module_level=True)

from autograd import nn, tensor
from autograd.kernels import product as kernels
from autograd.kernels.cache import settings
from autograd.kernels.gemm import BLOCK, LINE, lines_for
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


def bound(x, y, bias):
    """How far rounding may lead: an error of one eps for each term and addition."""
    terms = np.abs(x).astype(float) @ np.abs(y) + np.abs(bias)
    return (x.shape[1] + 2) * np.finfo(x.dtype).eps * terms


@example(600, 300, 500, "rows", "rows", np.float32, 0)  # several pieces
@example(600, 300, 500, "transposed", "transposed", np.float32, 0)
@given(
    st.integers(1, 300), st.integers(1, 600), st.integers(1, 200), layouts, layouts,
    st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32),
)  # fmt: skip
def test_any_shape_and_layout(m, k, n, x_layout, y_layout, dtype, seed):
    random = np.random.default_rng(seed)
    x, y, bias = (random.standard_normal(s).astype(dtype) for s in ((m, k), (k, n), n))
    exact = x.astype(float) @ y.astype(float)
    x, y = LAYOUTS[x_layout](x), LAYOUTS[y_layout](y)
    assert (np.abs(kernels.own_product(x, y, bias) - exact - bias) <= bound(x, y, bias)).all()
    none = np.empty(0, dtype)
    assert (np.abs(kernels.own_product(x, y, none) - exact) <= bound(x, y, 0 * bias)).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([32, 64]), st.integers(1, 40))
def test_pieces_cover_the_result_once(m, n, columns, n_threads):
    cuts = kernels.pieces(m, n, columns, n_threads)
    pieces = [list(map(int, piece)) for piece in zip(*cuts, strict=True)]
    for top, bottom, left, right in pieces:
        assert top % kernels.TILE_ROWS == 0 and left % columns == 0
        assert 0 < bottom - top <= kernels.HEIGHT + kernels.TILE_ROWS
        assert 0 < right - left <= kernels.WIDTH + columns
    assert {piece[1] for piece in pieces} == {piece[0] for piece in pieces} - {0} | {m}
    assert {piece[3] for piece in pieces} == {piece[2] for piece in pieces} - {0} | {n}
    assert len({(piece[0], piece[2]) for piece in pieces}) == len(pieces)
    assert sum((b - t) * (r - le) for t, b, le, r in pieces) == m * n


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 9)), min_size=2, max_size=2))
def test_tiles_prefetch_each_line_once(sizes):
    soon = tuple((10**9 * i, n, 9 * LINE, n_lines) for i, (n, n_lines) in enumerate(sizes))
    fetched, nothing, turn = [], False, 0
    while not nothing:
        first, step = lines_for.py_func(soon, turn, -1)
        nothing, turn = first == -1, turn + 1
        fetched += [first + step * term for term in range(0 if nothing else BLOCK)]
    lines = [
        first + row * i + LINE * j
        for first, n, row, n_lines in soon
        for i in range(n)
        for j in range(n_lines)
    ]
    assert set(lines) <= set(fetched) and len(set(fetched)) == len(fetched)
    assert len(fetched) <= sum(-(-n // BLOCK) * BLOCK * n_lines for n, n_lines in sizes)


@pytest.mark.parametrize("m", [9, 300])  # y is read in place, and packed
def test_an_element_is_the_same_in_any_panel(m):
    """The last columns may be computed as half a panel: their sums have the same order."""
    random = np.random.default_rng(0)
    x, y = (random.standard_normal(s).astype(np.float32) for s in ((m, 600), (600, 256)))
    none = np.empty(0, np.float32)
    whole = kernels.own_product(x, y, none)
    for n in (1, 31, 32, 33, 64, 65, 80, 96, 97, 128, 160):
        assert np.array_equal(kernels.own_product(x, y[:, :n], none), whole[:, :n]), n
        part = np.ascontiguousarray(y[:, :n])
        assert np.array_equal(kernels.own_product(x, part, none), whole[:, :n]), n


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)])
def test_without_elements(shape):
    m, k, n = shape
    x, y, bias = np.ones((m, k)), np.ones((k, n)), np.arange(float(n))
    assert np.array_equal(kernels.own_product(x, y, bias), x @ y + bias)


def test_what_is_no_number_comes_through():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 70, 70)).astype(np.float32)
    x[3, 5], x[20, 2], y[60, 66] = np.nan, np.inf, -np.inf
    y[5, :] = np.abs(y[5, :])
    with np.errstate(invalid="ignore"):
        expected = x.astype(float) @ y.astype(float)
        found = kernels.own_product(x, y, np.empty(0, np.float32))
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert np.array_equal(kind(found), kind(expected))


def test_tiny_numbers_stay():
    x = np.full((7, 3), 2.0**-75, np.float32)
    y = np.full((3, 5), 2.0**-74, np.float32)
    assert (kernels.own_product(x, y, np.empty(0, np.float32)) == 3 * 2.0**-149).all()


def test_nothing_else_is_written_or_read():
    """Beside a part of an array stand NaN, which must neither come in nor be overwritten."""
    random = np.random.default_rng(0)
    wide = np.full((40, 90), np.nan, np.float32)
    x, y = wide[:13, :30], wide[1:31, 40:73]
    x[:], y[:] = random.standard_normal((13, 30)), random.standard_normal((30, 33))
    found = kernels.own_product(x, y, np.empty(0, np.float32))
    assert np.allclose(found, x @ y, atol=1e-4) and np.isnan(wide).sum() == 40 * 90 - 390 - 990


def test_a_single_row_is_multiplied_by_blas(monkeypatch):
    """Also where our own product was chosen: it would pack all of a table for one token."""
    monkeypatch.setattr(kernels, "choice", lambda: kernels.Choice("own", "own"))
    monkeypatch.setattr(kernels, "own_product", None)
    random = np.random.default_rng(0)
    x, table, bias = (
        random.standard_normal(s).astype(np.float32) for s in ((1, 300), (900, 300), 900)
    )
    found = kernels.product(x, table.T, bias)
    if found is not NotImplemented:  # with one thread NumPy calls BLAS
        assert (np.abs(found - x @ table.T - bias) <= bound(x, table.T, bias)).all()


def test_no_product_wakes_the_threads_of_blas(monkeypatch):
    """OpenBLAS computes 2^18 multiplications on one thread; what is larger, kernels compute."""
    calls = []

    def count(x, y, bias=None):
        calls.append(x.size * y.shape[1])
        return NotImplemented

    monkeypatch.setattr(linalg.large_product._kernel, "_kernel", count)
    for m in (64, 65):
        x, y = np.ones((m, 64), np.float32), np.ones((64, 64), np.float32)
        assert (nn.affine(x, y, None) == 64).all() and ((tensor(x) @ y).numpy() == 64).all()
    assert calls == [65 * 64 * 64] * 2


PROGRAM = """
import numpy as np
from autograd.kernels.product import own_product
random = np.random.default_rng(0)
for m, k, n in [(768, 128, 384), (65, 700, 129), (1000, 20, 10), (192, 600, 700)]:
    x, y = (random.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    x = np.asfortranarray(x) if m == 192 else x
    print(own_product(x, y, np.empty(0, np.float32)).tobytes().hex())
"""


def run(program, **environment):
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_bits_do_not_depend_on_the_threads():
    assert len({run(PROGRAM, NUMBA_NUM_THREADS=n) for n in ("1", "2", "5")}) == 1


CHOICE = "from autograd.kernels.product import choice; print(repr(choice()))"
OTHER = {"own": "blas", "blas": "own"}


def test_the_choice_is_made_once(tmp_path):
    """It is measured, kept, and read again; a file that is damaged counts as none."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "AUTOGRAD_PRODUCT": "auto"}
    first = run(CHOICE, **environment)
    (path,) = tmp_path.rglob("product.json")
    ((machine, found),) = json.loads(path.read_text()).items()
    assert repr(kernels.Choice(**found)) == first.strip()
    other = {size: OTHER[way] for size, way in found.items()}
    path.write_text(json.dumps({machine: other}))
    assert run(CHOICE, **environment).strip() == repr(kernels.Choice(**other))
    for damage in ("{", "[]", json.dumps({machine: {"small": "fast"}}), json.dumps({machine: 1})):
        path.write_text(damage)
        assert run(CHOICE, **environment).startswith("Choice(")
        assert json.loads(path.read_text())[machine].keys() == found.keys()


def test_processes_that_start_together_choose_alike(tmp_path):
    """They measure one after the other, or both find what the first has measured."""
    program = (
        "import sys, time; from autograd.kernels import product as kernels\n"
        "kernels._faster = lambda *_: time.sleep(1) or sys.argv[1]\n"
        "print(kernels.choice())"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "AUTOGRAD_PRODUCT": "auto"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, way],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for way in ("own", "blas", "own", "blas")
    ]  # fmt: skip
    assert len({process.communicate()[0] for process in processes}) == 1
    assert not any(process.returncode for process in processes)


def test_machines_that_share_a_folder_keep_their_choices(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOGRAD_PRODUCT", "auto")
    monkeypatch.setattr(kernels, "folders", lambda: [tmp_path])
    monkeypatch.setattr(kernels, "writable", lambda: tmp_path)
    for way in ("own", "blas"):
        monkeypatch.setattr(kernels, "_machine", lambda way=way: f"a machine for {way}")
        monkeypatch.setattr(kernels, "_faster", lambda *_, way=way: way)
        assert kernels.choice.__wrapped__() == kernels.Choice(way, way)
    monkeypatch.setattr(kernels, "_faster", lambda *_: pytest.fail("measured again"))
    for way in ("own", "blas"):
        monkeypatch.setattr(kernels, "_machine", lambda way=way: f"a machine for {way}")
        assert kernels.choice.__wrapped__() == kernels.Choice(way, way)


def test_a_choice_that_cannot_be_kept_is_blas(tmp_path, monkeypatch):
    """Another process could choose otherwise. The disk may be full, say; here a folder is there."""
    (tmp_path / "product.json").mkdir()
    monkeypatch.setenv("AUTOGRAD_PRODUCT", "auto")
    monkeypatch.setattr(kernels, "folders", lambda: [tmp_path])
    monkeypatch.setattr(kernels, "writable", lambda: tmp_path)
    monkeypatch.setattr(kernels, "_faster", lambda *_: "own")
    assert kernels.choice.__wrapped__() == kernels.Choice("blas", "blas")
    assert [path.name for path in tmp_path.iterdir()] == ["product.json"]


def test_the_choice_can_be_overridden():
    for wanted, choice in {"own": ("own", "own"), "blas,own": ("blas", "own")}.items():
        found = run(CHOICE, AUTOGRAD_PRODUCT=wanted).strip()
        assert found == repr(kernels.Choice(*choice)) and str(kernels.Choice(*choice)) == wanted
    with pytest.raises(AssertionError, match="AUTOGRAD_PRODUCT is 'mkl'; expected own, blas"):
        run(CHOICE, AUTOGRAD_PRODUCT="mkl")

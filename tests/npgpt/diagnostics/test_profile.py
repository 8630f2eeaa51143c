"""The ledger of a computation, and the commands that show what things cost and what is wrong."""

import json
import time

import numpy as np
import pytest
from helpers import npgpt

import autograd
from autograd import Ledger, Roof, ledger, machine, nn
from autograd.cpus import cpu_quota
from npgpt.diagnostics import doctor
from npgpt.diagnostics.info import Cost
from npgpt.diagnostics.profile import Step
from npgpt.training.config import TrainConfig

TINY = dict(n_layer=2, n_head=2, n_embd=16, block_size=8, batch_size=3)
PRODUCTS = {"matmul", "affine", "attention", "einsum"}


def tiny_step(**options):
    options = TrainConfig(**TINY, **options)
    return Step(options, options.model(vocab_size=29))


def leaf(*shape):
    return autograd.tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=True)


def ledger_of(function, *leaves):
    """Return the rows of a forward and backward pass by name and kind."""
    with Ledger() as taken:
        y = function(*leaves)
        y.backward(np.ones(y.shape))
    return {(row.name, row.kind): row for row in taken.rows}


# ---- the ledger


def test_every_moment_belongs_to_one_row(monkeypatch):
    """By a clock that only the ops move, everything is where it happened."""
    now = [0.0]

    def passing(seconds, value):
        now[0] += seconds
        return value

    monkeypatch.setattr(ledger, "perf_counter", lambda: now[0])
    slow = autograd.op(lambda x: passing(5, x + 1))
    try:
        slow.vjp(x=lambda g: passing(7, g * 1))
        with Ledger() as taken:
            now[0] += 1
            y = slow(slow(leaf(2)))
            with taken.part("pause"):
                now[0] += 3
            y.sum().backward()
            now[0] += 2
    finally:
        del autograd.REGISTRY[slow.name]
    seconds = {(row.name, row.kind): row.seconds for row in taken.rows}
    assert seconds[slow.name, "forward"] == 10 and seconds[slow.name, "backward"] == 14
    assert seconds["pause", "rest"] == 3
    assert seconds["overhead", "rest"] == 3 and seconds["sums of gradients", "rest"] == 0
    assert sum(seconds.values()) == now[0]


def test_a_pass_inside_a_pass(monkeypatch):
    """A checkpointed call runs its function again, and backwards, inside its rule."""
    now = [0.0]
    monkeypatch.setattr(ledger, "perf_counter", lambda: now[0])

    def waiting(g):
        now[0] += 7
        return g * 1

    slow = autograd.op(lambda x: x + 1)
    try:
        slow.vjp(x=waiting)

        def function(x):
            return slow(np.tanh(x))

        with Ledger() as taken:
            autograd.functional.checkpoint(function)(leaf(2)).sum().backward()
            now[0] += 2
        with Ledger() as of_error:
            with pytest.raises(ZeroDivisionError):
                y = np.tanh(leaf(2))
                y.register_hook(lambda g: 1 / 0)
                y.sum().backward()
            now[0] += 2
    finally:
        del autograd.REGISTRY[slow.name]
    for rows in (taken, of_error):
        assert rows.row("overhead", "rest").seconds == 2
    assert taken.row("checkpoint", "backward").seconds == 7


def test_it_changes_no_result():
    def gradient():
        w = leaf(4, 4)
        y = nn.gelu(np.linalg.inv(w) @ w.T) + w
        (y[0] * np.concatenate([y, y])).sum().backward()
        return w.grad.numpy()

    expected = gradient()
    with Ledger() as taken:
        found = gradient()
    assert np.array_equal(found, expected)
    assert len(taken.rows) > 12
    n = len(taken.rows)
    gradient()
    assert len(taken.rows) == n, "it has stopped watching"


def test_an_op_inside_an_op_is_part_of_it():
    with autograd.use_kernels(False):
        rows = ledger_of(nn.silu, leaf(3))
    assert ("silu", "forward") in rows and ("sigmoid", "forward") not in rows


def test_after_an_error_the_clock_goes_on():
    with Ledger() as taken:
        with pytest.raises(ValueError):
            leaf(2, 3) @ leaf(2, 3)
        time.sleep(0.02)
    assert taken.row("overhead", "rest").seconds >= 0.02 > taken.row("matmul", "forward").seconds


def test_second_derivatives():
    x = leaf(3)
    with Ledger() as taken:
        (g,) = autograd.grad([(np.tanh(x) ** 2).sum()], [x], create_graph=True)
        g.sum().backward()
    assert taken.row("tanh", "backward").calls >= 2


@pytest.mark.parametrize(
    ("function", "shapes", "forward", "backward"),
    [
        (np.matmul, [(2, 3), (3, 4)], 48, 96),
        (np.matmul, [(5, 2, 3), (3, 4)], 240, 480),
        (np.matmul, [(5, 2, 3), (5, 3, 4)], 240, 480),
        (np.matmul, [(3,), (3, 4)], 24, 48),
        (np.matmul, [(2, 3), (3,)], 12, 24),
        (np.matmul, [(3,), (3,)], 6, 12),
        (lambda x, y: np.einsum("bij,jk->bik", x, y), [(5, 2, 3), (3, 4)], 240, 480),
        (nn.affine, [(5, 2, 3), (3, 4), (4,)], 240, 480),
        (lambda x: x @ np.ones((3, 4)), [(2, 3)], 48, 48),
        (lambda q: nn.scaled_dot_product_attention(q, q, q), [(2, 5, 3)], 600, 1200),
        (lambda q: nn.scaled_dot_product_attention(q, q, q, is_causal=True), [(2, 5, 3)], 360, 720),
        (lambda q: nn.scaled_dot_product_attention(q, q, q, np.eye(5, dtype=bool)), [(2, 5, 3)],
         120, 240),
        (np.add, [(4, 5), (5,)], 20, 20),  # the sum over 4 rows
        (np.tanh, [(4, 5)], 20, 60),
        (lambda x: x.reshape(-1)[::2], [(4, 5)], 0, 0),
    ],
)  # fmt: skip
def test_floating_point_operations(function, shapes, forward, backward):
    rows = ledger_of(function, *(leaf(*shape) for shape in shapes)).values()
    assert sum(row.flops for row in rows if row.kind == "forward") == forward
    assert sum(row.flops for row in rows if row.kind == "backward") == backward


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(6, 6), (2, 5), (5, 2)])
def test_pairs_that_attention_sees(n_queries, n_keys, window, is_causal):
    rows, keys = np.arange(n_queries)[:, None], np.arange(n_keys)
    seen = (keys <= rows if is_causal else keys < n_keys) & (rows - keys < (window or 99))
    seen = np.broadcast_to(seen, (n_queries, n_keys))
    mask = np.random.default_rng(0).random((4, 1, n_queries, n_keys)) < 0.5
    q, k, v = (np.zeros((4, 3, n, 7)) for n in (n_queries, n_keys, n_keys))
    for given, pairs in ((None, 12 * seen.sum()), (mask, 3 * (seen & mask).sum())):
        flops = ledger.attention_flops(q, k, v, given, is_causal, window)
        assert flops == pytest.approx(2 * 14 * pairs, rel=1e-12)


def test_a_context_of_100_000_tokens():
    q = np.broadcast_to(np.float32(0), (8, 12, 100_000, 64))
    expected = 4 * 64 * 96 * 100_000 * 100_001 / 2
    assert ledger.attention_flops(q, q, q, None, True, None) == expected


@pytest.mark.parametrize(
    ("function", "shapes", "forward", "backward"),
    [
        (np.matmul, [(2, 3), (3, 4)], 6 + 12 + 8, 8 + 6 + 12 + 6 + 12),
        (np.exp, [(4, 5)], 40, 60),
        (np.transpose, [(4, 5)], 0, 0),
        (np.add, [(4, 5), (4, 5)], 60, 0),  # the cotangent is handed on
        (lambda x: nn.embedding(np.array([1, 1]), x), [(90, 5)], 2 + 20, 2 + 10 + 450),
    ],
)
def test_bytes(function, shapes, forward, backward):
    rows = ledger_of(function, *(leaf(*shape) for shape in shapes)).values()
    assert sum(row.bytes for row in rows if row.kind == "forward") == 8 * forward
    assert sum(row.bytes for row in rows if row.kind == "backward") == 8 * backward


def test_gradients_that_meet():
    x = leaf(10)
    sums = ledger_of(lambda x: np.exp(x) + np.sin(x) + np.cos(x), x)["sums of gradients", "rest"]
    assert sums.calls == 3 and sums.flops == 20  # a copy for the leaf, and two sums


@pytest.mark.parametrize(
    "options",
    [{}, {"window_size": 3, "dropout": 0.1}, {"bias": True, "norm_position": "post"}],
    ids=str,
)
def test_a_step_has_the_operations_of_its_architecture(options):
    step = tiny_step(**options, gradient_accumulation_steps=2)
    before = step.model.transformer.wte.weight.numpy().copy()
    rows = step.take().rows
    cost = Cost(step.model.config, 3, 8)
    flops = sum(row.flops for row in rows if row.name in PRODUCTS)
    assert flops == 2 * 3 * 8 * cost.training_flops
    assert not np.array_equal(step.model.transformer.wte.weight.numpy(), before)
    assert all(p.grad is None for p in step.model.parameters())
    rest = {row.name: row.calls for row in rows if row.kind == "rest"}
    assert rest.keys() == {
        "overhead", "batch", "sums of gradients", "clipping", "AdamW", "zero_grad",
    }  # fmt: skip


def test_rows_add_up_to_the_step():
    step = tiny_step()
    step.take()
    start = time.perf_counter()
    rows = step.take().rows
    took = time.perf_counter() - start
    assert 0 < sum(row.seconds for row in rows) < took  # the rest is the ledger's own


def test_roof():
    roof = Roof.measure(seconds=0.01)
    assert roof.flops > 1e8 and roof.bandwidth > 1e8
    row = ledger.Row("x", "forward", 1, seconds=2.0, flops=30.0, bytes=10)
    assert ledger.share_of_roof([row], Roof(flops=30.0, bandwidth=20.0)) == 0.5
    assert ledger.share_of_roof([row], Roof(flops=60.0, bandwidth=10.0)) == 0.5
    assert ledger.share_of_roof([ledger.Row("x", "rest", 1, 2.0)], roof) is None


# ---- npgpt profile


def test_profile(tmp_path, capsys):
    config = tmp_path / "tiny.toml"
    config.write_text("".join(f"{key} = {value}\n" for key, value in TINY.items()))
    file = tmp_path / "rows.json"
    assert npgpt("profile", config, "--steps", 2, "--vocab_size", 29, "--json", file) == 0
    out = capsys.readouterr().out
    assert "A step of 3 x 8 tokens" in out and max(map(len, out.splitlines())) < 80
    values = json.loads(file.read_text())
    assert values["config"]["n_embd"] == 16
    for row in values["rows"]:
        assert f"\n  {row['name']} " in out
    assert sum(row["ms"] for row in values["rows"]) == pytest.approx(values["ms"])
    assert sum(row["share"] for row in values["rows"]) == pytest.approx(1)
    affine = next(row for row in values["rows"] if row["name"] == "affine")
    assert affine["gflops_per_s"] * affine["ms"] * 1e6 == pytest.approx(affine["flops"])
    assert sorted(tmp_path.iterdir()) == [file, config], "it writes nothing else"
    tiny_step().model.save_pretrained(tmp_path / "model")
    assert npgpt("profile", "--init_from", tmp_path / "model", "--steps", 1) == 0
    assert "A step of 12 x 8 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.toml"], "missing.toml does not exist"),
        (["--steps", "0"], "steps is 0"),
        (["--stepz", "1"], "did you mean '--steps'"),
        (["--json", "nowhere/rows.json"], "there is no folder nowhere"),
        (["--n_head", "3"], "n_head"),
        (["--data", "missing.txt"], "missing.txt does not exist"),
    ],
)
def test_profile_says_what_is_wrong(args, message, capsys):
    assert npgpt("profile", *args) == 2
    assert message in capsys.readouterr().err


# ---- npgpt doctor


def wrong(findings):
    return {finding.name: finding.fix for finding in findings if finding.fix}


@pytest.fixture
def no_settings(monkeypatch):
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)


def test_threads_that_fight(monkeypatch, no_settings):
    monkeypatch.setattr(machine, "usable_cpus", lambda: 64)
    assert wrong(doctor.threads()) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert wrong(doctor.threads()) == {}
    monkeypatch.setenv("NUMBA_NUM_THREADS", "4")
    assert wrong(doctor.threads()) == {"variables": "unset OMP_NUM_THREADS NUMBA_NUM_THREADS"}
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    assert "OMP_NUM_THREADS" in wrong(doctor.threads())
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    monkeypatch.setattr(doctor, "works", lambda name: name != "numba")
    assert "NUMBA_NUM_THREADS" in wrong(doctor.threads())
    assert wrong(doctor.versions())["numba"] == "see NUMBA_NUM_THREADS below"


def test_more_threads_than_cpus():
    assert doctor.too_many("BLAS", 10_000, "", "X_NUM_THREADS").fix == (
        f"export X_NUM_THREADS={machine.usable_cpus()}"
    )


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, np.inf),
        ({"cpu.max": "max 100000\n"}, np.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_the_quota_of_a_container(files, cpus, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cpus


def test_a_namesake_and_what_is_missing(monkeypatch):
    found = {"autograd": "1.7.0", "npgpt": "0.1.0", "numpy": "2.0"}

    def version(name):
        if name in found:
            return found[name]
        raise doctor.PackageNotFoundError

    monkeypatch.setattr(doctor, "version", version)
    fixes = wrong(doctor.versions())
    assert fixes["autograd"].startswith("pip uninstall autograd")
    assert fixes["tiktoken"] == "pip install tiktoken"
    found["tiktoken"] = "0.1"
    monkeypatch.setattr(doctor, "works", lambda name: False)
    assert "--force-reinstall tiktoken" in wrong(doctor.versions())["tiktoken"]
    names = {finding.name for part in (doctor.threads, doctor.kernels) for finding in part()}
    assert names >= {"BLAS", "NumPy's SIMD"} and "Numba's SIMD" not in names


def test_a_damaged_tokenizer():
    folder = doctor.folder() / "published"
    folder.mkdir(parents=True)
    (folder / "vocab.bpe").write_text("no merges")
    assert list(wrong(doctor.tokenizers())) == ["vocab.bpe"]


def test_doctor(tmp_path, monkeypatch, capsys):
    file = tmp_path / "findings.json"
    healthy = doctor.Finding("versions", "python", "3.99")
    ill = doctor.Finding("threads", "BLAS", "99 threads " + 30 * "of many ", "export X=1")
    for findings, code in (([healthy], 0), ([healthy, ill], 1)):
        with monkeypatch.context() as patched:
            patched.setattr(
                "npgpt.commands.doctor.examine", lambda findings=findings: iter(findings)
            )
            assert npgpt("doctor", "--json", file) == code
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        assert json.loads(file.read_text())["healthy"] is (code == 0)
    assert "fix: export X=1" in out and "1 to fix" in out
    sections = {finding.section for finding in doctor.examine()}
    assert sections == {"versions", "threads", "kernels", "tokenizers, offline", "speed"}
    assert npgpt("doctor", "--json", tmp_path / "nowhere" / "x.json") == 2


# ---- npgpt warmup


def test_warmup(monkeypatch, capsys):
    assert npgpt("warmup") == 0
    first = capsys.readouterr().out
    if not machine.compiles():
        assert "kernels are off" in first
        return
    assert "CPU time" in first
    assert npgpt("warmup") == 0
    assert "all kernels are there" in capsys.readouterr().out
    monkeypatch.setattr(machine, "kernel_cache", lambda: None)
    assert npgpt("warmup") == 2
    assert "NUMBA_CACHE_DIR" in capsys.readouterr().err


def test_the_costs_of_ops_name_ops_that_exist():
    """An op that is renamed would silently count as one operation an element."""
    named = PRODUCTS | ledger.PER_ELEMENT.keys() | ledger.NOT_COUNTED
    assert named <= autograd.REGISTRY.keys()

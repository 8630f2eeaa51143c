"""Several processes that train one run: the same numbers as one process, and clean ends."""

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from helpers import TEXT, Quiet, npgpt, same_runs, timeless, train_config

import autograd
from autograd import nn
from autograd.changes import Fingerprint, trust
from autograd.kernels import kernels_enabled, most_threads, use_threads
from autograd.reading import read_tensors
from npgpt import UserError
from npgpt.models.layers import dropout_from
from npgpt.models.registry import architecture_of
from npgpt.module import Parameter
from npgpt.parallel.group import add_in_order, part_of
from npgpt.parallel.workers import shared_memory
from npgpt.training.config import TrainConfig
from npgpt.training.data import IGNORED, Batch, separated
from npgpt.training.follow import find_weight, follow
from npgpt.training.optim import AdamW, clip_grad_norm
from npgpt.training.ranks import InTurn, Layout, demand_alike
from npgpt.training.replay import Replay
from npgpt.training.run import accumulate_gradients, resume, start, train
from npgpt.training.together import working_together

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs sockets that pass descriptors on")


def config(folder, **changes):
    (folder / "text.txt").write_text(TEXT)
    changes = dict(batch_size=6, dropout=0.2) | changes
    return train_config(str(folder / "text.txt"), folder / "run", **changes)


@pytest.fixture
def three_cores(monkeypatch):
    """More processes than this machine may have cores: slow, and right."""
    monkeypatch.setattr(autograd.machine, "usable_cpus", lambda: 3)


def train_with(n, folder, **changes):
    """Train a new run by n processes; return it."""
    folder.mkdir(exist_ok=True)
    with working_together(n) as ranks:
        run = start(config(folder, **changes), ranks=ranks)
        train(run, Quiet(run))
    return run


# ---- a part of a batch


def make_model(model_type):
    keys = dict(n_layer=2, n_head=2, n_embd=12, block_size=8, dropout=0.3, model_type=model_type)
    if model_type == "llama":
        keys |= dict(n_kv_head=1)
    config = TrainConfig(**keys).model(11)
    return architecture_of(config).model(config, dtype=np.float64, seed=3).train()


def make_batch(generator, model_type):
    """Return six windows; some have few targets, and the last two none."""
    ids = generator.integers(1, 11, (6, 9))
    ids[1, ::2] = 0
    if model_type == "gpt":
        batch = separated(ids[:, :-1], ids[:, 1:].copy(), end=0)
    elif model_type in ("bert", "encoder-decoder"):
        batch = Batch(
            ids[:, :-1], ids[:, 1:].copy(), np.arange(8) < generator.integers(4, 8, (6, 1))
        )
    else:
        batch = Batch(ids[:, :-1], ids[:, 1:].copy())
    batch.targets[4:] = IGNORED
    return batch


def differentiate(model, batches, rank=0, size=1):
    """Return the loss and the gradients of a part; the same dropout is drawn at each call."""
    with dropout_from(np.random.default_rng(5)):
        loss = accumulate_gradients(model, batches, rank, size)
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return loss, found


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("model_type", ["gpt", "llama", "bert", "encoder-decoder"])
def test_parts_add_up_to_the_whole_batch(model_type, size):
    """With dropout in all places, and where the parts have different numbers of targets."""
    model, generator = make_model(model_type), np.random.default_rng(0)
    batches = [make_batch(generator, model_type) for _ in range(2)]
    loss, whole = differentiate(model, batches)
    parts = [differentiate(model, batches, rank, size) for rank in range(size)]
    assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-12)
    for name, gradient in whole.items():
        total = sum(found[name] for _, found in parts if name in found)
        np.testing.assert_allclose(total, gradient, rtol=1e-9, atol=1e-13, err_msg=name)
    assert differentiate(model, [batches[1], batches[0]])[0] != pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_sample_has_the_same_dropout_in_any_part(enabled):
    x = np.random.default_rng(0).standard_normal((6, 2, 70, 5))

    def drop(part):
        with nn.masks_from(part.start), autograd.use_kernels(enabled):
            generator = np.random.default_rng(1)
            return (
                nn.dropout(x[part], 0.5, generator=generator),
                nn.scaled_dot_product_attention(
                    x[part], x[part], x[part], dropout_p=0.5, generator=generator
                ),
            )

    for whole, part in zip(drop(slice(0, 6)), drop(slice(2, 5)), strict=True):
        assert np.array_equal(whole[2:5], part)


# ---- the same runs


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two processes."""
    return train_with(2, tmp_path_factory.mktemp("two"), checkpoint_interval=5)


def test_a_run_of_two_is_that_of_one(two, tmp_path):
    """To rounding; evaluations and the best model are those of any run."""
    one = train_with(1, tmp_path)
    assert one.history[0]["environment"].get("processes") is None
    assert two.history[0]["environment"]["processes"] == 2
    for a, b in zip(timeless(one.folder), timeless(two.folder), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert b[key] == pytest.approx(a[key], rel=1e-3), (a, b)
    whole, divided = (read_tensors(run.files.state)[0] for run in (one, two))
    for name, x in whole.items():
        assert np.abs(divided[name] - x).max() <= 2e-3 * np.abs(x).max(), name
        assert name.startswith("transformer") or np.any(x)


def test_the_same_number_has_the_same_bits(two, tmp_path):
    same_runs(two.folder, train_with(2, tmp_path, checkpoint_interval=5).folder)


def test_one_process_replays_two(two):
    state = read_tensors(two.files.state)[0]
    for first in (0, 7):
        replay = Replay(two.folder, first)
        assert (first == 0) == (replay.origin == "the initialization")
        replay.seek(12)
        for name, x in replay.run.model.state_dict().items():
            assert x.tobytes() == state[name].tobytes(), name
        for name, x in replay.run.optimizer.state_dict().items():
            assert x.tobytes() == state[name].tobytes(), name


def test_why_and_step_know_such_runs(two, capsys, tmp_path):
    weight = "transformer.h.1.mlp.c_fc.weight[3,17]"
    replay = Replay(two.folder)
    history = follow(replay, *find_weight(replay.run, weight))
    state = read_tensors(two.files.state)[0]
    end = history.moves[-1]
    assert np.float32(end.value + end.change) == state[weight.partition("[")[0]][3, 17]
    assert npgpt("why", "--run", two.folder, "--param", weight, "--from", 9) == 0
    commands = tmp_path / "commands"
    commands.write_text("q\n")
    assert npgpt("step", "--run", two.folder, "--at", 3, "--commands", commands) == 0
    assert "part of a batch 1 of the 4 that this update adds up" in capsys.readouterr().out


def test_any_number_resumes_any_other(two, tmp_path, three_cores):
    """The history says how many computed which updates, and a replay computes them likewise."""
    folder = Path(shutil.copytree(two.folder, tmp_path / "run"))
    for n, until in ((3, 16), (1, 20), (2, 24)):
        with working_together(n) as ranks:
            run = resume(folder, {"max_iters": until}, ranks)
            train(run, Quiet(run))
    settings = [(s["step"], s["environment"].get("processes", 1)) for s in run.history]
    assert settings == [(0, 2), (12, 3), (16, 1), (20, 2)]
    state = read_tensors(run.files.state)[0]
    replay = Replay(folder, 0)
    replay.seek(24)
    for name, x in replay.run.model.state_dict().items():
        assert x.tobytes() == state[name].tobytes(), name


def test_one_process_is_as_before(tmp_path):
    """The division into one part changes no bit."""
    run = start(config(tmp_path))
    run.backward()
    expected = {name: p.grad.numpy().copy() for name, p in run.model.named_parameters()}
    run.optimizer.zero_grad()
    with run.dropout():
        accumulate_gradients(run.model, run.task.batches(0))
    for name, parameter in run.model.named_parameters():
        assert parameter.grad.numpy().tobytes() == expected[name].tobytes()
    before = clip_grad_norm(run.model.parameters(), 0.1)
    one = InTurn(1)
    for name, parameter in run.model.named_parameters():
        parameter.grad = expected[name].copy()
    assert one.clip(run.optimizer.parameters, 0.1) == before


def test_each_rank_updates_its_own_part():
    """The optimizer of a rank reads and writes the means of its part alone."""
    parameters = {"w": Parameter(np.ones((3, 4))), "b": Parameter(np.ones(5))}
    layout = Layout(parameters)
    whole = AdamW(parameters.items())
    parts = [AdamW(parameters.items()) for _ in range(3)]
    for rank, optimizer in enumerate(parts):
        optimizer.cuts = layout.cuts(rank, 3)
    generator = np.random.default_rng(0)
    for parameter in parameters.values():
        parameter.grad = generator.standard_normal(parameter.shape)
    for optimizer in parts:
        optimizer.step(0.1)
    found = {name: p.numpy().copy() for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.data[...] = 1
    whole.step(0.1)
    for name, parameter in parameters.items():
        assert np.array_equal(found[name], parameter.numpy())
        touched = [optimizer.squares[name] != 0 for optimizer in parts]
        assert np.array_equal(sum(t.astype(int) for t in touched), np.ones(parameter.shape))


# ---- the parts of the group


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_cover_a_vector_once(size):
    covered = np.zeros(10, int)
    for rank in range(size):
        covered[part_of(10, rank, size)] += 1
    assert np.all(covered == 1)


@pytest.mark.parametrize("out", [0, 1, 2])
def test_sums_have_the_order_of_the_ranks(out):
    """(1e8 + 1) - 1e8 is 0 in float32, and another order gives 1."""
    n = 2**16 + 5
    vectors = [np.full(n, x, np.float32) for x in (1e8, 1, -1e8)]
    add_in_order(vectors, vectors[out])
    assert np.all(vectors[out] == 0)


def test_a_trusted_view_is_not_watched(monkeypatch):
    """Only the view itself is trusted, and only while nothing else refers to it."""
    looks = []
    of = Fingerprint.of.__func__
    monkeypatch.setattr(
        Fingerprint, "of", classmethod(lambda cls, x: looks.append(x) or of(cls, x))
    )
    vector = np.ones(20_000)
    for trusted in (True, False):
        w = Parameter(np.ones(10_000))
        view = vector[:10_000]
        if trusted:
            trust(view)
        w.data = view
        del view
        looks.clear()
        (w * w).sum().backward()
        assert bool(looks) != trusted
    trust(view := vector[10_000:])
    w.data = view
    y = (w * w).sum()
    view[0] = 5
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_threads_are_shared_out():
    assert most_threads() > 1000
    with use_threads(1):
        assert most_threads() == 1
        if kernels_enabled():
            from autograd.kernels.team import n_threads

            assert n_threads() == 1
    assert most_threads() > 1000


@pytest.mark.parametrize("n", [0, -1, True, 1.5, "2", None])
def test_a_wrong_number_of_threads_is_refused(n):
    """The error changes nothing: no later block meets the wrong number."""
    with pytest.raises((TypeError, ValueError), match="use_threads: n is .*expected"):
        with use_threads(n):
            pass
    assert most_threads() > 1000


def threads_of_blas():
    pools = threadpoolctl.threadpool_info()
    return {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}


def test_limits_of_two_threads_end_in_any_order():
    """BLAS has its own threads again when the last block ends, also if it began in another one."""
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        for first_ends_first in (True, False):
            blocks = [use_threads(2), use_threads(1)]
            for block in blocks:
                block.__enter__()
            assert most_threads() == 1 and threads_of_blas() == {1}
            blocks.pop(0 if first_ends_first else 1).__exit__(None, None, None)
            left = 1 if first_ends_first else 2
            assert most_threads() == left and threads_of_blas() == {left}
            blocks.pop().__exit__(None, None, None)
            assert most_threads() > 1000 and threads_of_blas() == {3}


def test_a_limit_begins_and_ends_while_another_thread_multiplies():
    """Products keep BLAS on one thread for a moment; after them the limit counts."""
    blas = pytest.importorskip("autograd.kernels.blas")
    if not blas.usable():
        pytest.skip("NumPy has no OpenBLAS of its own here")
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        product, limit = blas.one_thread(), use_threads(2)
        product.__enter__()
        limit.__enter__()
        assert blas.n_threads() == 2
        product.__exit__(None, None, None)
        assert blas.n_threads() == 2 and threads_of_blas() == {2}

        product = blas.one_thread()
        product.__enter__()
        limit.__exit__(None, None, None)
        product.__exit__(None, None, None)
        assert blas.n_threads() == 3 and threads_of_blas() == {3}


def test_limits_that_threads_set():
    """Each of two threads sets a limit, and either may end first."""
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        for first, second in ((2, 1), (1, 2)):
            with ThreadPoolExecutor(1) as thread:
                other = use_threads(second)
                with use_threads(first):
                    thread.submit(other.__enter__).result()
                    assert threads_of_blas() == {1}
                assert threads_of_blas() == {second}
                thread.submit(other.__exit__, None, None, None).result()
                assert threads_of_blas() == {3}


def test_a_limit_adds_no_threads():
    for n in (2, np.int64(2)):
        with threadpoolctl.threadpool_limits(1, user_api="blas"), use_threads(n):
            assert threads_of_blas() == {1}
        with threadpoolctl.threadpool_limits(3, user_api="blas"), use_threads(n):
            assert threads_of_blas() == {2}


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", 1000), r"--workers is 1000, and this machine has \d+ cores? for them"),
        (("--workers", 0), "workers"),
        (("--workers", 2, "--eval_only"), "leave out --workers"),
        (("--workers", 2, "--batch_size", 5), "2 processes cannot share evenly.* --batch_size 6$"),
        (("--workers", 2, "--batch_size", 1), "2 processes cannot share evenly.* --batch_size 2$"),
    ],
)
def test_bad_input_ends_in_one_line(options, message, tmp_path, capsys, monkeypatch):
    if options[1] == 2:
        monkeypatch.setattr(autograd.machine, "usable_cpus", lambda: 2)
    out = tmp_path / "run"
    assert npgpt("train", "--out_dir", out, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert not out.exists()


def test_other_code_or_data_are_named():
    same = {"code of npgpt": "a", "configuration": "b"}
    demand_alike([("x", same), ("y", same)])
    with pytest.raises(
        UserError, match=r"rank 1 \(on y\) has another code of npgpt than rank 0: 'c'"
    ):
        demand_alike([("x", same), ("y", same | {"code of npgpt": "c"})])


def test_memory_that_is_not_there(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="shared memory cannot be reserved: No space left"):
        with shared_memory(100):
            pass

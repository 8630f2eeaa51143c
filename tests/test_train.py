"""Training: what a run writes, that it resumes bit for bit, and that nothing is half-written."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from npgpt import GPT, UserError
from npgpt.config import TrainConfig
from npgpt.display import Display
from npgpt.evaluate import whole_loss
from npgpt.files import read_tensors, replacing, write_tensors, write_text
from npgpt.train import Interrupted, latest_run, resume, start, train
from npgpt.weights import load_pretrained

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40

SMALL = dict(
    n_layer=2, n_head=2, n_embd=16, block_size=8, batch_size=4, max_iters=12, eval_interval=4,
    eval_iters=2, log_interval=2, warmup_iters=2, dropout=0.1, gradient_accumulation_steps=2,
)  # fmt: skip


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def config(text, folder, **changes):
    return TrainConfig(**{**SMALL, "data": (text,), "out_dir": str(folder), **changes})


class Quiet(Display):
    """A display that interrupts, as Ctrl-C does, when a step is shown."""

    def __init__(self, run, interrupt_at=None):
        super().__init__(run.config.max_iters)
        self.interrupt_at = interrupt_at
        self.console.quiet = True

    def step(self, step, loss, rate):
        if step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)


def run_to_the_end(*args, **kwargs):
    run = start(config(*args, **kwargs))
    train(run, Quiet(run))
    return run


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder):
    times = ("tokens_per_second", "elapsed_seconds")
    return [{k: v for k, v in line.items() if k not in times} for line in lines(folder)]


def same_runs(a, b):
    """Whether two run folders hold the same results, bit for bit."""
    assert timeless(a) == timeless(b)
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    (x, mx), (y, my) = read_tensors(a / "state.safetensors"), read_tensors(b / "state.safetensors")
    assert x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)
    progress = [json.loads(m["progress"]) for m in (mx, my)]
    assert [p.pop("elapsed_seconds") > 0 for p in progress] == [True, True]
    assert progress[0] == progress[1]


# ---- a run


def test_a_run_folder(text, tmp_path):
    run = run_to_the_end(text, tmp_path / "run")
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokens.bin", "tokens.json",
        "train.toml", "state.safetensors", "metrics.jsonl",
    }  # fmt: skip
    found = lines(run.folder)
    assert [line["step"] for line in found if "lr" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in found if "val_loss" in line] == [0, 4, 8, 12, 12]
    step = next(line for line in found if "lr" in line)
    assert step.keys() == {"step", "train_loss", "lr", "grad_norm", "tokens_per_second",
                           "elapsed_seconds"}  # fmt: skip
    best = load_pretrained(run.folder)
    assert found[-1]["val_loss"] == pytest.approx(whole_loss(best, run.validation_tokens), rel=1e-6)
    assert found[-1]["val_loss"] < found[0]["val_loss"]
    assert TrainConfig.from_toml(run.folder / "train.toml") == run.config


def test_the_model_file_is_the_best(text, tmp_path):
    # a learning rate that ruins what was learned
    run = start(config(text, tmp_path / "run", max_iters=40, learning_rate=0.02, min_lr=0.02,
                       weight_decay=0.0, grad_clip=0.0, eval_interval=1, beta2=0.5))  # fmt: skip
    train(run, Quiet(run))
    losses = {
        line["step"]: line["val_loss"] for line in lines(run.folder)[:-1] if "val_loss" in line
    }
    assert run.progress.best_loss == pytest.approx(min(losses.values()), rel=1e-6)
    assert losses[run.progress.best_step] == min(losses.values())
    assert (
        not np.array_equal(
            load_pretrained(run.folder).transformer.wte.weight.numpy(),
            run.model.transformer.wte.weight.numpy(),
        )
        or run.progress.best_step == 40
    )


def test_the_same_seed_gives_the_same_run(text, tmp_path):
    a, b = (run_to_the_end(text, tmp_path / name).folder for name in "ab")
    same_runs(a, b)
    c = run_to_the_end(text, tmp_path / "c", seed=2).folder
    assert timeless(c) != timeless(a)


def test_numbered_folders_and_the_latest(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="npgpt train"):
        latest_run()
    first = run_to_the_end(text, "")
    second = start(config(text, ""))
    assert (str(first.folder), str(second.folder)) == ("out/0001", "out/0002")
    assert str(latest_run()) == "out/0001"  # the other has no model yet


def test_starting_from_a_model(text, tmp_path):
    first = run_to_the_end(text, tmp_path / "first", seed=3)
    run = start(
        config(text, tmp_path / "second", init_from=str(first.folder), n_embd=4, max_iters=0)
    )
    assert run.model.config == first.model.config and run.config.n_embd == 16
    train(run, Quiet(run))
    best = read_tensors(first.folder / "model.safetensors")[0]
    assert all(np.array_equal(run.model.state_dict()[name], best[name]) for name in best)


def test_starting_from_a_model_keeps_all_of_its_architecture(text, tmp_path):
    first = run_to_the_end(text, tmp_path / "first")
    unusual = dataclasses.replace(
        first.model.config, n_inner=10, layer_norm_epsilon=0.1, tie_word_embeddings=False
    )
    base = GPT(unusual, seed=4)
    base.save_pretrained(first.folder)
    run = start(config(text, tmp_path / "second", init_from=str(first.folder), dropout=0.3))
    rates = dict(resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    assert run.model.config == dataclasses.replace(unusual, **rates)
    x = run.tokenizer.encode("the lazy")[None]
    assert np.array_equal(run.model.eval()(x)[0].numpy(), base.eval()(x)[0].numpy())


def test_a_token_file_as_data(text, tmp_path):
    first = run_to_the_end(text, tmp_path / "first")
    second = run_to_the_end(str(first.folder / "tokens.bin"), tmp_path / "second")
    assert timeless(second.folder) == timeless(first.folder)
    assert not (second.folder / "tokens.bin").exists()  # referred to, not copied
    resume(second.folder, {})
    (first.folder / "tokens.bin").write_bytes(b"")
    with pytest.raises(UserError, match="cut short or changed"):
        resume(second.folder, {})


# ---- resuming


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "text.txt").write_text(TEXT)
    return run_to_the_end(str(folder / "text.txt"), folder / "run").folder


@pytest.mark.parametrize("step", [2, 4, 6, 12])
def test_ctrl_c_saves_and_resuming_continues_bit_for_bit(step, text, tmp_path, uninterrupted):
    run = start(config(text, tmp_path / "run"))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=step))
    assert run.progress.step == step
    run = resume(run.folder, {})
    assert run.progress.step == step
    train(run, Quiet(run))
    same_runs(run.folder, uninterrupted)


def test_extending_a_finished_run(text, tmp_path, uninterrupted):
    run = run_to_the_end(text, tmp_path / "run", max_iters=8, lr_decay_iters=12)
    train(resume(run.folder, {}), Quiet(run))  # done already: nothing happens
    run = resume(run.folder, {"max_iters": 12})
    train(run, Quiet(run))
    assert run.progress.step == 12
    found = [line for line in timeless(run.folder) if line["step"] > 8]
    assert found == [line for line in timeless(uninterrupted) if line["step"] > 8]


@pytest.mark.parametrize("attempt", range(3))
def test_kill_9_at_random_moments(attempt, text, tmp_path):
    """A run that saves all the time, killed again and again, ends as if nothing had happened."""
    often = dict(max_iters=120, eval_interval=1, eval_iters=1)
    whole = start(config(text, tmp_path / "whole", **often))
    train(whole, Quiet(whole))
    state = start(config(text, tmp_path / "run", **often)).folder / "state.safetensors"
    command = [sys.executable, "-m", "npgpt.cli", "train", "--resume", str(tmp_path / "run")]
    chance = random.Random(attempt)
    for _ in range(5):
        before = state.stat().st_mtime_ns
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while state.stat().st_mtime_ns == before:  # it runs; most of its time goes into writing
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    same_runs(tmp_path / "run", tmp_path / "whole")
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.ones(3)}, {})
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert read_tensors(path)[0]["a"].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(tmp_path):
    (tmp_path / ".x.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "x", "text")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("interval", [1, 50])
def test_a_loss_that_is_not_finite_stops_the_run(interval, text, tmp_path):
    wild = dict(max_iters=100, learning_rate=1e30, grad_clip=0.0, eval_interval=interval)
    run = start(config(text, tmp_path / "run", **wild))
    with np.errstate(all="ignore"):
        with pytest.raises(
            UserError, match=r"after step \d+ the .*last good checkpoint.*--learning_rate"
        ):
            train(run, Quiet(run))
    again = resume(run.folder, {})
    assert all(np.isfinite(value).all() for value in again.model.state_dict().values())


def test_numbered_checkpoints(text, tmp_path):
    run = run_to_the_end(text, tmp_path / "run", checkpoint_interval=5)
    names = [path.name for path in sorted((run.folder / "checkpoints").iterdir())]
    assert names == ["step-000005.safetensors", "step-000010.safetensors"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "state.safetensors").unlink(), "no run that can be resumed"),
        (lambda f: cut(f / "state.safetensors"), "state.safetensors is damaged"),
        (lambda f: (f / "tokens.bin").write_bytes(b"\0\0"), "cut short or changed"),
        (
            lambda f: write_tensors(f / "state.safetensors", {"a": np.ones(1)}, {}),
            "does not name its token file",
        ),
        (lambda f: (f / "train.toml").write_text("n_layer = 3"), None),
        (lambda f: (f / "train.toml").write_text("max_itres = 3"), "did you mean 'max_iters'"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda f: edit(f / "config.json", n_layer=3), "transformer.h.2.ln_1.weight is missing"),
        (lambda f: edit(f / "config.json", n_embd=32), r"has shape \[[0-9, ]+\], expected"),
        (lambda f: edit(f / "config.json", model_type="bert"), "of a 'bert' model"),
    ],
)
def test_damaged_runs(damage, message, text, tmp_path):
    run = start(config(text, tmp_path / "run"))
    damage(run.folder)
    if message is None:
        resume(run.folder, {})
        return
    with pytest.raises(UserError, match=message):
        resume(run.folder, {})


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("transformer.wpe.weight"), "wpe.weight is missing"),
        (lambda tensors: tensors.update(extra=np.ones(2)), "extra is not part of the model"),
        (lambda tensors: tensors.update({"transformer.ln_f.weight": np.ones(3, np.float32)}),
         r"transformer.ln_f.weight has shape \[3\], expected \[16\]"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(change, message, uninterrupted, tmp_path):
    folder = tmp_path / "copy"
    GPT.from_pretrained(uninterrupted).save_pretrained(folder)
    tensors, _ = read_tensors(folder / "model.safetensors")
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors, {})
    with pytest.raises(UserError, match=message):
        load_pretrained(folder)


def test_architecture_cannot_change_on_resume(text, tmp_path):
    run = start(config(text, tmp_path / "run"))
    with pytest.raises(UserError, match="--n_layer is 2 in the run"):
        resume(run.folder, {"n_layer": 5})


def test_a_second_ctrl_c_ends_at_once(tmp_path, text):
    from npgpt.train import interruptible

    with pytest.raises(KeyboardInterrupt), interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interrupt.pressed
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

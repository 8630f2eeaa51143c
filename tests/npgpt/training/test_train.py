"""Training: what a run writes, that it resumes bit for bit, and that nothing is half-written."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import get_args

import numpy as np
import pytest
from helpers import TEXT, Quiet, cut, lines, same_runs, timeless, train_config
from safetensors.numpy import save_file

import autograd
from autograd.console import Console
from autograd.files import replacing, write_tensors, write_text
from autograd.reading import read_tensors
from npgpt import GPT, UserError
from npgpt.cli import main
from npgpt.evaluation.loss import every_window, mean_loss, whole_loss
from npgpt.models.registry import ARCHITECTURES
from npgpt.module import Parameter
from npgpt.tokenizers import ByteTokenizer
from npgpt.training.config import ModelType, TaskName, TrainConfig
from npgpt.training.data import IGNORED, Batch, write_tokens
from npgpt.training.display import Display, OutputLost
from npgpt.training.folder import RunFolder
from npgpt.training.interrupt import Interrupted, interruptible
from npgpt.training.optim import AdamW, clip_grad_norm
from npgpt.training.registry import TASKS
from npgpt.training.replay import Replay
from npgpt.training.run import latest_run, resume, start, train
from npgpt.training.task import LanguageModelling
from npgpt.weights.load import load_model


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def run_to_the_end(*args, **kwargs):
    run = start(train_config(*args, **kwargs))
    train(run, Quiet(run))
    return run


# ---- a run


def test_a_run_folder(text, tmp_path):
    run = run_to_the_end(text, tmp_path / "run")
    names = {path.name for path in run.folder.iterdir()} - {"loss.png"}  # drawn by matplotlib
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
    best = load_model(run.folder)
    assert found[-1]["val_loss"] == pytest.approx(whole_loss(best, run.task.splits[1]), rel=1e-6)
    assert found[-1]["val_loss"] < found[0]["val_loss"]
    assert TrainConfig.from_toml(run.folder / "train.toml") == run.config


def test_the_learning_rate_of_the_transformer(text, tmp_path):
    """Vaswani et al. 2017, equation 3, with its d_model ** -0.5 as a part of the peak."""
    d_model, warmup = 512, 5
    run = start(
        train_config(text, tmp_path / "run", lr_schedule="inverse_sqrt", warmup_iters=warmup,
                     learning_rate=(d_model * warmup) ** -0.5)
    )  # fmt: skip
    for n in range(1, 13):
        expected = d_model**-0.5 * min(n**-0.5, n * warmup**-1.5)
        assert run.update()[2] == pytest.approx(expected, rel=1e-12)


def test_label_smoothing_is_of_training_alone(text, tmp_path):
    plain = start(train_config(text, tmp_path / "a", dropout=0.0))
    smooth = start(train_config(text, tmp_path / "b", dropout=0.0, label_smoothing=0.1))
    assert plain.evaluate() == smooth.evaluate()
    batch = smooth.task.batches(0)[0]
    logits = smooth.model(batch.inputs)[0].numpy().astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = np.take_along_axis(logp, batch.targets[..., None], -1)[..., 0]
    expected = -0.9 * right - 0.1 * logp.mean(-1)
    np.testing.assert_allclose(smooth.task.losses(smooth.model, batch).numpy(), expected, rtol=1e-5)
    assert smooth.model(*batch)[1].item() == pytest.approx(expected.mean(), rel=1e-5)


def test_the_model_file_is_the_best(text, tmp_path):
    # a learning rate that ruins what was learned
    run = start(train_config(text, tmp_path / "run", max_iters=40, learning_rate=0.02, min_lr=0.02,
                       weight_decay=0.0, grad_clip=0.0, eval_interval=1, beta2=0.5))  # fmt: skip
    train(run, Quiet(run))
    losses = {
        line["step"]: line["val_loss"] for line in lines(run.folder)[:-1] if "val_loss" in line
    }
    assert run.progress.best_loss == pytest.approx(min(losses.values()), rel=1e-6)
    assert losses[run.progress.best_step] == min(losses.values())
    assert (
        not np.array_equal(
            load_model(run.folder).transformer.wte.weight.numpy(),
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
    second = start(train_config(text, ""))
    assert (str(first.folder), str(second.folder)) == ("out/0001", "out/0002")
    assert str(latest_run()) == "out/0001"  # the other has no model yet


def test_starting_from_a_model(text, tmp_path):
    first = run_to_the_end(text, tmp_path / "first", seed=3)
    run = start(
        TrainConfig(
            data=(text,),
            out_dir=str(tmp_path / "second"),
            init_from=str(first.folder),
            dropout=0.1,
            max_iters=0,
            eval_iters=1,
        )
    )
    assert run.model.config == first.model.config
    same = "n_layer n_head n_embd block_size bias tokenizer".split()
    assert [getattr(run.config, key) for key in same] == [
        getattr(first.config, key) for key in same
    ]
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
    run = start(train_config(text, tmp_path / "second", init_from=str(first.folder), dropout=0.3))
    rates = dict(resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    assert run.model.config == dataclasses.replace(unusual, **rates)
    x = run.tokenizer.encode("the lazy")[None]
    assert np.array_equal(run.model.eval()(x)[0].numpy(), base.eval()(x)[0].numpy())


def test_a_shorter_context_than_the_models(text, tmp_path):
    first = run_to_the_end(text, tmp_path / "first")
    base = load_model(first.folder)
    base.generation_config = {"top_k": 3}
    base.save_pretrained(first.folder)
    changes = dict(init_from=str(first.folder), block_size=5, max_iters=2)
    run = start(train_config(text, tmp_path / "second", **changes))
    assert run.model.config.n_positions == run.config.block_size == 5
    x = run.tokenizer.encode("lazy ")[None]
    assert np.array_equal(run.model.eval()(x)[0].numpy(), base(x)[0].numpy())
    train(run, Quiet(run))
    assert load_model(run.folder).generation_config == {"top_k": 3}
    Replay(run.folder).seek(1)


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        (dict(n_layer=3), (), "n_layer is 3, and the model .* has 2"),
        (dict(n_layer=4), ("n_layer",), "n_layer is 4, and the model .* has 2"),
        (dict(n_embd=32), (), "n_embd is 32, and the model .* has 16"),
        (dict(block_size=9), (), "block_size is 9, and the model .* has 8"),
        (dict(bias=True), (), "bias is True, and the model .* has False"),
        (dict(tokenizer="byte"), (), "tokenizer is byte, and the model .* has char"),
    ],
)
def test_options_that_a_model_contradicts(changes, given, message, uninterrupted, tmp_path):
    data = str(uninterrupted.parent / "text.txt")
    wrong = train_config(data, tmp_path / "run", init_from=str(uninterrupted), **changes)
    with pytest.raises(UserError, match=message):
        start(wrong, given=given)
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_of_a_token_file(uninterrupted, tmp_path):
    data = str(uninterrupted / "tokens.bin")
    with pytest.raises(UserError, match=r"tokenizer is byte, and the token file .* has char"):
        start(train_config(data, tmp_path / "run", tokenizer="byte"))
    write_tokens(tmp_path / "bytes.bin", TEXT, ByteTokenizer(), [])
    data = str(tmp_path / "bytes.bin")
    with pytest.raises(UserError, match="tokenizer is char"):
        start(train_config(data, tmp_path / "run"), given=["tokenizer"])
    assert start(train_config(data, tmp_path / "run")).config.tokenizer == "byte"


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
    run = start(train_config(text, tmp_path / "run"))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=step))
    assert run.progress.step == step
    run = resume(run.folder, {})
    assert run.progress.step == step
    train(run, Quiet(run))
    same_runs(run.folder, uninterrupted)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_save_as_well(name, text, tmp_path, uninterrupted):
    number = getattr(signal, name)
    run = start(train_config(text, tmp_path / "run"))
    display = Quiet(run)

    def step(*args):  # a shell and the system may both send the signal
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    display.step = step
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted) as caught:
            train(run, display)
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as by nohup
        with interruptible():
            assert (signal.getsignal(number) is signal.SIG_IGN) == (name == "SIGHUP")
    finally:
        signal.signal(number, before)
    assert caught.value.number == number
    train(again := resume(run.folder, {}), Quiet(again))
    same_runs(run.folder, uninterrupted)


@pytest.mark.parametrize("n_signals", [1, 2])
def test_signals_while_a_checkpoint_is_written(
    n_signals, text, tmp_path, monkeypatch, uninterrupted
):
    run = start(train_config(text, tmp_path / "run"))

    def interrupted(path, *args):
        with replacing(path) as file:
            file.write(b"half")
            for _ in range(n_signals if run.progress.step == 8 else 0):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        write_tensors(path, *args)

    monkeypatch.setattr("npgpt.training.state.write_tensors", interrupted)
    with pytest.raises(Interrupted if n_signals == 1 else KeyboardInterrupt):
        train(run, Quiet(run))
    monkeypatch.undo()
    again = resume(run.folder, {})
    assert again.progress.step == (9 if n_signals == 1 else 4)
    train(again, Quiet(again))
    same_runs(run.folder, uninterrupted)
    assert not list(run.folder.glob(".*"))


@pytest.mark.parametrize("n_lines", range(4))
def test_output_that_nobody_reads_loses_nothing(n_lines, text, tmp_path, uninterrupted):
    class Closed(io.StringIO):
        def write(self, text):
            if self.getvalue().count("\n") >= n_lines:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            return super().write(text)

    run = start(train_config(text, tmp_path / "run", sample_tokens=0))
    display = Display(12)
    display.console.file = Closed()
    with pytest.raises(OutputLost):
        train(run, display)
    again = resume(run.folder, {})
    assert again.progress.step == 4 * n_lines == again.progress.evaluated
    train(again, Quiet(again))
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
    whole = start(train_config(text, tmp_path / "whole", **often))
    train(whole, Quiet(whole))
    state = start(train_config(text, tmp_path / "run", **often)).folder / "state.safetensors"
    RunFolder(tmp_path / "run").unlock()
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
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert read_tensors(path)[0]["a"].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(tmp_path):
    (tmp_path / "x").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "x", "text")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("interval", [1, 50])
def test_a_loss_that_is_not_finite_stops_the_run(interval, text, tmp_path):
    wild = dict(max_iters=100, learning_rate=1e30, grad_clip=0.0, eval_interval=interval)
    run = start(train_config(text, tmp_path / "run", **wild))
    with np.errstate(all="ignore"):
        with pytest.raises(
            UserError, match=r"after step \d+ the .*last good checkpoint.*--learning_rate"
        ):
            train(run, Quiet(run))
    again = resume(run.folder, {})
    assert all(np.isfinite(value).all() for value in again.model.state_dict().values())


@pytest.mark.parametrize(("grad_clip", "advised"), [(0.0, True), (5.0, True), (1.0, False)])
def test_clipping_is_advised_where_nothing_is_clipped(grad_clip, advised, text, tmp_path):
    run = start(train_config(text, tmp_path / "run", grad_clip=grad_clip))
    with pytest.raises(UserError) as caught:
        run.demand_finite("loss", float("nan"))
    assert ("--grad_clip 1" in str(caught.value)) == advised


def test_a_run_that_is_stopped_early_says_how_long_it_waited():
    file = io.StringIO()
    display = Display(9, console=Console(file=file, width=80))
    for n in (1, 2):
        display.stopped_early(n)
    one, two = file.getvalue().splitlines()
    assert "the last evaluation brought no" in one and "the last 2 evaluations brought" in two


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
        (
            lambda f: (f / "train.toml").write_text(""),
            r'data is \[\], and \["/.*n_layer is 4, and 2 in the run',
        ),
        (lambda f: (f / "train.toml").write_text("max_itres = 3"), "did you mean 'max_iters'"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda f: edit(f / "config.json", n_layer=3), "n_layer is 3, and 2 in the run"),
        (lambda f: edit(f / "config.json", n_head=4), "n_head is 4, and 2 in the run"),
        (lambda f: edit(f / "config.json", resid_pdrop=0.2), "resid_pdrop is 0.2, and 0.1 in"),
        (lambda f: edit(f / "config.json", layer_norm_epsilon=0.1), "layer_norm_epsilon is 0.1"),
        (lambda f: edit(f / "config.json", model_type="t5"), "of a 't5' model"),
    ],
)
def test_damaged_runs(damage, message, text, tmp_path):
    run = start(train_config(text, tmp_path / "run"))
    damage(run.folder)
    with pytest.raises(UserError, match=message):
        resume(run.folder, {})


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
        load_model(folder)


def test_architecture_cannot_change_on_resume(text, tmp_path):
    run = start(train_config(text, tmp_path / "run"))
    with pytest.raises(UserError, match="--n_layer is 2 in the run"):
        resume(run.folder, {"n_layer": 5})
    with pytest.raises(UserError, match="--val_data is not given in the run"):
        resume(run.folder, {"val_data": ("other.txt",)})
    with pytest.raises(UserError, match="stays in its folder"):
        resume(run.folder, {"out_dir": str(tmp_path)})
    resume(run.folder, {"out_dir": f"{run.folder}/../run"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"eos_token_id": "end"}', "in the model's own settings .*eos_token_id has 'end'"),
        ('{"repetition_penalty": 0}', "in the model's own settings .*repetition_penalty is 0"),
        ('{"eos_token_id": ', "generation_config.json"),
    ],
)
def test_settings_of_generation_that_are_wrong_are_refused_before_training(
    settings, message, text, tmp_path
):
    """Not by the last sample, hours later."""
    run = run_to_the_end(text, tmp_path / "run", max_iters=2)
    (run.folder / "generation_config.json").write_text(settings)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(UserError, match=message):
        resume(run.folder, {"max_iters": 4})
    with pytest.raises(UserError, match=message):
        start(TrainConfig(data=(text,), init_from=str(run.folder), out_dir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_resumed_runs_samples_know_the_models_own_settings(text, tmp_path):
    """So they are the samples of a run without a break."""
    first = run_to_the_end(text, tmp_path / "first", max_iters=2)
    (first.folder / "generation_config.json").write_text('{"repetition_penalty": 3.0}')
    changes = dict(init_from=str(first.folder), sample_tokens=6)
    run = start(train_config(text, tmp_path / "run", **changes))
    again = resume(run.folder, {})
    assert again.model.generation_config == {"repetition_penalty": 3.0}
    assert run.task.sample(run.model) == again.task.sample(again.model)


def test_a_recipe_that_was_edited(text, tmp_path):
    run = start(train_config(text, tmp_path / "run"))
    recipe = run.folder / "train.toml"
    written = recipe.read_text()
    for key, value in dict(block_size=4, n_embd=8, seed=5, dropout=0.3, tokenizer='"byte"').items():
        recipe.write_text(re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", written))
        with pytest.raises(UserError, match=rf"train.toml was edited .*{key} is {value}, and "):
            resume(run.folder, {})
    recipe.write_text(written.replace("max_iters = 12", "max_iters = 13"))
    assert resume(run.folder, {}).config.max_iters == 13


@contextlib.contextmanager
def flipped(path, chance):
    """Flip one bit of a file for the block, often in its first bytes; say which."""
    content = path.read_bytes()
    bit = chance.randrange(8 * min(len(content), chance.choice([9, 4000, 2**40])))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        yield f"bit {bit} of {path.name}"
    finally:
        path.write_bytes(content)


def test_one_wrong_bit_is_found(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    resume(folder, {})
    chance = random.Random(0)
    for name in ("state.safetensors", "tokenizer.json", "tokens.bin", "tokens.json"):
        for _ in range(25):
            with flipped(folder / name, chance) as where:
                with pytest.raises(UserError) as caught:
                    resume(folder, {})
                message = str(caught.value)
                assert name in message or "another hash" in message, where
    for _ in range(25):
        with flipped(folder / "model.safetensors", chance) as where:
            resume(folder, {})
            assert "The next evaluation writes it again" in capsys.readouterr().err, where


def test_a_damaged_state_says_what_to_do(text, tmp_path):
    folder = run_to_the_end(text, tmp_path / "run", checkpoint_interval=5).folder
    last = folder / "checkpoints" / "step-000010.safetensors"
    cut(folder / "state.safetensors")
    with pytest.raises(UserError, match=f"copy a checkpoint over it, such as {last}"):
        resume(folder, {})
    shutil.copy(last, folder / "state.safetensors")
    train(again := resume(folder, {}), Quiet(again))
    same_runs(folder, run_to_the_end(text, tmp_path / "other", checkpoint_interval=5).folder)


def as_version_0_1_0(folder):
    """Take out of a run's files what version 0.1.0 did not write."""
    for path in folder.rglob("*.safetensors"):
        tensors, metadata = read_tensors(path)
        for key in ("architecture", "tokenizer"):
            metadata.pop(key, None)
        save_file(tensors, path, metadata)
    values = json.loads((folder / "tokens.json").read_text())
    values.pop("description_sha256")
    (folder / "tokens.json").write_text(json.dumps(values))


def test_runs_of_version_0_1_0(text, tmp_path, uninterrupted, capsys):
    run = start(train_config(text, tmp_path / "run"))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    as_version_0_1_0(run.folder)
    edit(run.folder / "config.json", n_head=4)
    with pytest.raises(UserError, match="n_head is 4, and 2 in the run"):
        resume(run.folder, {})
    edit(run.folder / "config.json", n_head=2)
    train(again := resume(run.folder, {}), Quiet(again))
    assert not capsys.readouterr().err
    same_runs(run.folder, uninterrupted)
    edit(run.folder / "config.json", layer_norm_epsilon=0.1)  # by now the run knows
    with pytest.raises(UserError, match="layer_norm_epsilon is 0.1, and 1e-05 in the run"):
        resume(run.folder, {})


@pytest.mark.parametrize("step", [4, 6, 12])
def test_a_model_that_is_lost_is_written_again(step, text, tmp_path, capsys):
    run = start(train_config(text, tmp_path / "run"))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=step))
    cut(run.folder / "model.safetensors")
    resume(run.folder, {})
    assert "model.safetensors is damaged" in capsys.readouterr().err
    (run.folder / "model.safetensors").unlink()
    train(again := resume(run.folder, {}), Quiet(again))
    assert "model.safetensors does not exist" in capsys.readouterr().err
    assert again.progress.finished
    load_model(run.folder)
    resume(run.folder, {})
    assert not capsys.readouterr().err


def test_metrics_that_are_damaged(text, tmp_path):
    run = run_to_the_end(text, tmp_path / "run", max_iters=4)
    before = lines(run.folder)
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n5\n{"step": "x"}\n{"step": 4')
    train(again := resume(run.folder, {"max_iters": 6}), Quiet(again))
    assert lines(run.folder)[: len(before)] == before


# ---- the task


def test_a_run_names_its_task(text, tmp_path):
    """An older run names none: it predicts the next token."""
    whole = run_to_the_end(text, tmp_path / "whole")
    run = start(train_config(text, tmp_path / "run"))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    recipe, named = run.files.recipe, 'task = "language_modelling"\n'
    recipe.write_text(recipe.read_text().replace(named, ""))
    tensors, metadata = read_tensors(run.files.state)
    history = json.loads(metadata["history"])
    assert history[0]["config"].pop("task") == "language_modelling"
    write_tensors(run.files.state, tensors, metadata | {"history": json.dumps(history)})
    again = resume(run.folder, {})
    assert type(again.task) is LanguageModelling
    train(again, Quiet(again))
    same_runs(run.folder, whole.folder)
    replay = Replay(run.folder, 3, 3)
    replay.seek(3)
    assert replay.origin == "the initialization"
    recipe.write_text('task = "flying"\n' + recipe.read_text())
    with pytest.raises(UserError, match="train.toml: task must be") as error:
        resume(run.folder, {})
    assert "\n" not in str(error.value)


def test_the_table_of_tasks():
    assert tuple(TASKS) == get_args(TaskName)
    for name, task in TASKS.items():
        assert task.name == name and {*task.model_types} <= {*get_args(ModelType)}
    with pytest.raises(UserError, match="task must be"):
        TrainConfig(task="flying")


class Masked(LanguageModelling):
    """Find the tokens that a mask hides: another task, on the same text."""

    def hide(self, batch, generator):
        hidden = generator.random(batch.inputs.shape) < 0.3
        inputs = np.where(hidden, 0, batch.inputs)
        return Batch(inputs, np.where(hidden, batch.inputs, IGNORED))

    def random_batch(self, split, generator):
        return self.hide(super().random_batch(split, generator), generator)

    def whole_loss(self, model, check=lambda: None):
        random = np.random.default_rng(0)
        windows = every_window(self.splits[1], self.config.block_size, 4, None)
        return mean_loss(model, (self.hide(batch, random) for batch in windows), check)

    def metrics(self, model, step, check=lambda: None):
        return {"share": step / 4}


def test_another_task(text, tmp_path):
    """The loop, the folder, and what is drawn from the seed know nothing of language modelling."""

    def masked(run):
        run.task = Masked(run.config, run.tokenizer, run.task.data)
        return run

    whole = masked(start(train_config(text, tmp_path / "whole")))
    train(whole, Quiet(whole))
    assert lines(whole.folder)[-1]["val_loss"] == pytest.approx(
        whole.task.whole_loss(load_model(whole.folder)), rel=1e-6
    )
    assert [line["share"] for line in lines(whole.folder) if "share" in line] == [0, 1, 2, 3]
    run = masked(start(train_config(text, tmp_path / "run")))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    train(again := masked(resume(run.folder, {})), Quiet(again))
    same_runs(again.folder, whole.folder)


# ---- the optimizer


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_no_bias_decays_whatever_its_shape(model_type):
    """With gradients of zero, an update changes only what decays: of a GPT, all matrices."""
    architecture = ARCHITECTURES[model_type]
    fields = dict(vocab_size=7, n_positions=200, n_embd=4, n_layer=1, n_head=1)
    if model_type == "vision-gpt":
        fields["image_token_id"] = 1
    model = architecture.model(architecture.config(**fields))
    before = {}
    for name, parameter in model.named_parameters():
        parameter.data[...] = 1
        parameter.grad = autograd.tensor(np.zeros_like(parameter.data))
        before[name] = parameter.ndim
    AdamW(model.named_parameters(), weight_decay=0.5).step(0.1)
    changed = {name for name, p in model.named_parameters() if (p.numpy() != 1).any()}
    assert changed == {n for n, ndim in before.items() if ndim > 1 and n != "lm_head.bias"}
    has_wide_bias = before.get("lm_head.bias") == 2
    assert has_wide_bias == (model_type in ("encoder-decoder", "marian"))


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_update_reaches_the_parameter_whatever_its_memory_order(order):
    def make(order):
        x = np.arange(12.0).reshape(3, 4)
        parameter = Parameter(np.array(x, order=order))
        parameter.grad = np.array(x - 4, order=order)
        return parameter

    parameter, expected = make(order), make("C")
    for p in (parameter, expected):
        assert clip_grad_norm([p], 1.0) == pytest.approx(np.linalg.norm(np.arange(12) - 4.0))
        AdamW([("p", p)]).step(0.1)
    assert np.array_equal(parameter.grad.numpy(), expected.grad.numpy())
    assert np.linalg.norm(parameter.grad.numpy()) == pytest.approx(1, rel=1e-5)
    assert np.array_equal(parameter.numpy(), expected.numpy())
    assert not np.array_equal(parameter.numpy(), np.arange(12.0).reshape(3, 4))


def test_an_update_is_noticed_and_looks_at_no_values(monkeypatch):
    parameter = Parameter(np.ones(20_000))
    optimizer = AdamW([("p", parameter)])
    with monkeypatch.context() as patch:
        patch.setattr(autograd.changes.Fingerprint, "of", None)  # would raise
        for _ in range(3):
            (parameter * parameter).sum().backward()
            clip_grad_norm([parameter], 1.0)
            optimizer.step(0.1)
            optimizer.zero_grad()
    loss = (parameter * parameter).sum()
    loss.backward(retain_graph=True)
    optimizer.step(0.1)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_gradient_on_the_tape_is_not_clipped():
    parameter = Parameter(np.ones(3))
    (parameter**3).sum().backward(create_graph=True)
    assert clip_grad_norm([parameter], 0) == pytest.approx(27**0.5)
    with pytest.raises(ValueError, match="only a leaf can be written to"):
        clip_grad_norm([parameter], 1.0)


# ---- the folder


def test_what_a_run_needs_is_not_overwritten(text, tmp_path):
    folder = run_to_the_end(text, tmp_path / "run").folder
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "link.bin").symlink_to(folder / "tokens.bin")
    (tmp_path / "link.json").symlink_to(folder / "tokens.json")
    for changes in (
        dict(data=str(folder / "tokens.bin")),
        dict(data=str(tmp_path / "link.bin")),
        dict(data=str(folder / "*.toml")),
        dict(init_from=str(folder)),
        dict(init_from=str(folder / "model.safetensors")),
    ):
        with pytest.raises(UserError, match="--overwrite would remove .*give another --out_dir"):
            start(train_config(**{"text": text, "folder": folder, "n_layer": 2, **changes}), True)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_leftovers_of_writes_that_were_killed(text, tmp_path):
    folder = start(train_config(text, tmp_path / "run")).folder
    (folder / "checkpoints").mkdir()
    mine = {".mine.tmp", ".tmp.tmp", "checkpoints/notes.txt"}

    def leave():
        for name in (".state.safetensors.tmp", ".tmpAb12Cd", "checkpoints/.tmpzzzzzz", *mine):
            (folder / name).touch()

    def hidden():
        found = (path.relative_to(folder) for path in folder.rglob("*"))
        return {str(path) for path in found if path.name[0] == "." or path.parent.name}

    for again in (
        lambda: resume(folder, {}),
        lambda: start(train_config(text, folder, checkpoint_interval=5), overwrite=True),
    ):
        leave()
        again()
        assert hidden() == mine


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_two_processes_in_one_folder(text, tmp_path):
    run = run_to_the_end(text, tmp_path / "run", max_iters=4)
    before = (run.folder / "state.safetensors").read_bytes()
    script = (
        "import sys; from npgpt.training.folder import RunFolder\n"
        "RunFolder(sys.argv[1]).lock()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(run.folder)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert other.stdout.readline() == b"held\n"
    for again in (
        lambda: resume(run.folder, {}),
        lambda: start(train_config(text, run.folder), overwrite=True),
    ):
        with pytest.raises(UserError, match="another process trains in"):
            again()
    assert (run.folder / "state.safetensors").read_bytes() == before
    Replay(run.folder)  # who only reads does not mind
    other.kill()
    other.communicate()
    resume(run.folder, {})
    resume(run.folder, {})  # the same process may


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of the system")
def test_a_write_that_the_system_refuses_names_the_file(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for path, write in (
            (tmp_path / "x.bin", lambda path: write_tokens(path, TEXT, ByteTokenizer(), [])),
            (tmp_path / "x.safetensors", lambda path: write_tensors(path, {"a": np.ones(999)}, {})),
        ):
            with pytest.raises(OSError) as caught:
                write(path)
            assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


# ---- the command


def command(*args):
    """Run npgpt train in this process; return its exit code."""
    return main(["train", *map(str, args)])


def test_text_in_brackets_is_no_markup(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("[/i] [bold]x[/b] :smile:\n\t\t\n" * 99)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(train_config("text.txt", "[red]x y", max_iters=2).to_toml())
    assert command(recipe) == 0
    out = capsys.readouterr().out
    assert "[red]x y trains" in out and "\t" in out
    assert "--model '[red]x y' --prompt='[/i] [bold]x[/b]'" in out


def test_a_reader_that_ends(text, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(train_config(text, tmp_path / "run", max_iters=10**6).to_toml())
    process = subprocess.Popen(
        [sys.executable, "-m", "npgpt.cli", "train", recipe],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "trains" in process.stdout.readline()
    process.stdout.close()
    lines = process.stderr.read().splitlines(keepends=True)
    message = "".join(line for line in lines if not line.startswith("autograd: compiling"))
    assert process.wait() == 141  # 128 + SIGPIPE
    assert re.fullmatch(r"npgpt: .*Broken pipe.*saved; continue with: npgpt train .*\n", message)
    assert resume(tmp_path / "run", {}).progress.evaluated == 0


def test_resuming_by_command(text, tmp_path, capsys):
    folder = run_to_the_end(text, tmp_path / "run", max_iters=4).folder
    for args in ([], ["--max_iters", 2], ["--out_dir", folder]):
        assert command("--resume", folder, *args) == 0
        assert (
            "is finished at step 4 (to go on, add a larger --max_iters)" in capsys.readouterr().out
        )
    for args, message in (
        (["--resume", ""], "--resume names no folder"),
        (["--resume="], "--resume names no folder"),
        (["--resume", folder, "--overwrite"], "drop one of them"),
    ):
        assert command(*args) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_that_a_model_contradicts_by_command(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_to_the_end(text, tmp_path / "run", max_iters=0)
    (tmp_path / "recipe.toml").write_text("n_layer = 4")
    for args, key in (  # all as they are without a model
        (["--n_layer=4"], "n_layer"),
        (["--block-size", 64], "block_size"),
        (["recipe.toml"], "n_layer"),
    ):
        assert command(*args, "--data", text, "--init_from", "run") == 2
        assert f"leave {key} out" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "shown"), [(40, False), (100, True)])
def test_the_live_line_of_a_narrow_terminal(width, shown):
    from rich.console import Console

    file = io.StringIO()
    display = Display(300, console=Console(file=file, width=width, force_terminal=True))
    with display:
        display.step(120, 2.5, 50_000)
    assert "120/300" in file.getvalue()
    assert ("tokens/s" in file.getvalue()) == shown


def test_a_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interrupt.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_checkpoints_of_activations_change_no_bit(text, tmp_path):
    """Also if they are switched on in the middle of a run."""
    plain = start(train_config(text, tmp_path / "plain"))
    train(plain, Quiet(plain))
    saving = start(train_config(text, tmp_path / "saving"))
    with pytest.raises(Interrupted):
        train(saving, Quiet(saving, interrupt_at=6))
    saving = resume(saving.folder, {"checkpoint_activations": True})
    train(saving, Quiet(saving))
    for name, array in plain.model.state_dict().items():
        assert array.tobytes() == saving.model.state_dict()[name].tobytes()

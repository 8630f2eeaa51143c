"""Time travel: a replayed step is, to the bit, the one that was trained, or it is refused."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import TEXT, Quiet, train_config
from rich.console import Console

import autograd
from autograd.files import write_tensors
from autograd.reading import read_tensors
from autograd.stepper import Trace, stopping_at_backward
from npgpt import GPT, UserError
from npgpt.cli import main
from npgpt.commands.step import Options as StepOptions
from npgpt.commands.step import walk
from npgpt.commands.why import MOST_ROWS, why
from npgpt.commands.why import Options as WhyOptions
from npgpt.training import loop
from npgpt.training.follow import by_sequence, find_weight, follow
from npgpt.training.interrupt import Interrupted
from npgpt.training.replay import Replay
from npgpt.training.run import Run, resume, start, train

OFTEN = dict(dropout=0.2, log_interval=1, checkpoint_interval=5)
WEIGHT = "transformer.h.1.mlp.c_fc.weight[3,17]"


def config(folder, **changes):
    (folder / "text.txt").write_text(TEXT)
    return train_config(str(folder / "text.txt"), folder / "run", **(OFTEN | changes))


def gradients(run):
    return {name: p.grad.numpy().copy() for name, p in run.model.named_parameters()}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run that was interrupted and resumed otherwise; and what each of its steps computed."""
    folder = tmp_path_factory.mktemp("resumed")
    seen, backward = {}, Run.backward

    def watched(run):
        loss = backward(run)
        seen[run.progress.step] = loss, gradients(run)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "backward", watched)
        run = start(config(folder))
        with pytest.raises(Interrupted):
            train(run, Quiet(run, interrupt_at=7))
        changes = dict(learning_rate=1e-2, beta1=0.8, weight_decay=0.3, batch_size=3)
        train(resume(run.folder, changes), Quiet(run))
    assert sorted(seen) == list(range(12))
    return run.folder, seen


@pytest.fixture
def copy(resumed, tmp_path):
    return Path(shutil.copytree(resumed[0], tmp_path / "copy"))


def same(found, expected):
    assert found[0] == expected[0] and found[1].keys() == expected[1].keys()
    for name, x in expected[1].items():
        assert found[1][name].tobytes() == x.tobytes(), name


# ---- the same steps


@pytest.mark.parametrize("checkpoints", [True, False])
def test_every_step_again(checkpoints, resumed, copy):
    if not checkpoints:
        shutil.rmtree(copy / "checkpoints")
    _, seen = resumed
    for first in (0, 4, 5, 6, 11):
        replay = Replay(copy, first)
        origin = f"checkpoints/step-{first // 5 * 5:06d}.safetensors"
        assert replay.origin == (origin if checkpoints and first >= 5 else "the initialization")
        for step in range(replay.run.progress.step, 12):
            replay.seek(step)
            same((replay.run.backward(), gradients(replay.run)), seen[step])
            replay.run.descend()
    last = read_tensors(copy / "state.safetensors")[0]
    for name, x in replay.run.model.state_dict().items():
        assert x.tobytes() == last[name].tobytes()


@pytest.mark.parametrize("step", [3, 9])
def test_the_traced_pass_is_the_real_one(step, resumed):
    folder, seen = resumed
    replay = Replay(folder, step, step)
    replay.seek(step)
    passes = []
    with stopping_at_backward(passes.append):
        loss = replay.run.backward()
    same((loss, gradients(replay.run)), seen[step])
    assert len(passes) == 2
    assert loss == sum(found.recording.values[found.start].item() / 2 for found in passes)
    for name, expected in seen[step][1].items():
        parts = [found.cotangent_of(found.recording.number(name)) for found in passes]
        assert (parts[0] + parts[1]).tobytes() == expected.tobytes()


def test_nothing_is_written(resumed):
    folder, _ = resumed
    (folder / ".state.safetensors.tmp").write_text("of a run that is being trained")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    why(WhyOptions(run=str(folder), param=WEIGHT, to=1), Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_from_another_model(tmp_path):
    base = start(config(tmp_path, max_iters=0))
    train(base, Quiet(base))
    run = start(config(tmp_path, init_from=str(base.folder), out_dir=str(tmp_path / "second")))
    expected = [run.update() for _ in range(3)]
    replay = Replay(run.folder, 0, 2)
    replay.seek(2)
    assert replay.run.update() == expected[2] and replay.origin.endswith("state.safetensors")
    run.save_state()  # at step 3: the replay now begins with the model
    replay = Replay(run.folder, 2)
    replay.seek(2)
    assert replay.run.update() == expected[2] and replay.origin == str(base.folder)
    GPT(base.model.config, seed=5).save_pretrained(base.folder)
    with pytest.raises(UserError, match=r"not those that .*second began with: .*run"):
        Replay(run.folder, 2).seek(2)
    Replay(run.folder, 2, force=True).seek(2)


def test_beyond_what_was_saved(tmp_path):
    """A killed run leaves a state that is older than its last steps."""
    run = start(config(tmp_path))
    losses = [run.update()[0] for _ in range(6)]
    with pytest.raises(UserError, match="has saved no update yet"):
        Replay(run.folder)
    replay = Replay(run.folder, 5, 5)
    assert replay.notes == ["saved at step 0: what follows is what the run would do"]
    replay.seek(5)
    assert replay.run.backward() == losses[5]


def test_checkpoints_of_a_course_that_was_given_up(tmp_path):
    run = start(config(tmp_path))
    for _ in range(3):
        run.update()
    run.save_state()
    for _ in range(2):
        run.update()
    (run.folder / "checkpoints").mkdir()
    run.save_state(run.folder / "checkpoints" / "step-000005.safetensors")
    assert Replay(run.folder, 7, 7).origin == "checkpoints/step-000005.safetensors"
    run = resume(run.folder, {"learning_rate": 1e-2})
    losses = [run.update()[0] for _ in range(5)]
    replay = Replay(run.folder, 7, 7)
    assert replay.origin == "state.safetensors"
    replay.seek(7)
    assert replay.run.backward() == losses[4]


# ---- what must be as it was


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("BLAS threads", 64, r"BLAS threads \d+, here 64\. .*OPENBLAS_NUM_THREADS"),
        ("kernels", "of lead", r"kernels (off|Numba .*), here of lead\. .*AUTOGRAD_KERNELS"),
        ("NumPy", "9.9", r"NumPy \d\S*, here 9.9"),
    ],
)
def test_another_environment_is_refused_by_name(key, value, message, resumed, monkeypatch):
    folder, _ = resumed
    here = loop.environment() | {key: value}
    monkeypatch.setattr("npgpt.training.replay.environment", lambda: here)
    with pytest.raises(UserError, match=message):
        Replay(folder, 5)
    (note,) = Replay(folder, 5, force=True).notes
    assert note.startswith(f"computed with {key} ")


@pytest.mark.skipif(not autograd.kernels.kernels_enabled(), reason="needs kernels")
def test_kernels_are_noticed(resumed):
    with autograd.use_kernels(False), pytest.raises(UserError, match="kernels Numba .*, here off"):
        Replay(resumed[0])


def test_other_data_are_refused(copy):
    tokens = np.fromfile(copy / "tokens.bin", np.uint16)
    tokens[7] ^= 1
    tokens.tofile(copy / "tokens.bin")
    with pytest.raises(UserError, match="tokens.bin does not have the hash"):
        Replay(copy, force=True)


def test_only_the_environments_that_matter_count(tmp_path, monkeypatch):
    here = loop.environment()
    run = start(config(tmp_path))
    run.update()
    run.save_state()
    monkeypatch.setattr(loop, "environment", lambda: here | {"NumPy": "9.9"})
    run = resume(run.folder, {})
    assert [setting["step"] for setting in run.history] == [0, 1]
    assert not resume(run.folder, {}).remember()  # nothing new
    run.update()
    run.save_state()
    assert Replay(run.folder, 0, 0).notes == []
    with pytest.raises(UserError, match="computed with NumPy 9.9, here"):
        Replay(run.folder, 0, 1)


def test_older_runs_do_not_say(copy, resumed):
    for path in [*copy.glob("checkpoints/*"), copy / "state.safetensors"]:
        tensors, metadata = read_tensors(path)
        del metadata["history"]
        write_tensors(path, tensors, metadata)
    replay = Replay(copy, 10, 10)
    assert len(replay.notes) == 1 and "does not say in which environment" in replay.notes[0]
    replay.seek(10)
    same((replay.run.backward(), gradients(replay.run)), resumed[1][10])


# ---- one weight


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("name", ["transformer.ln_f.weight[5]", WEIGHT])
def test_moves_add_up(name, first, tmp_path):
    """What the batches did, with those before them and weight decay, is the way of the weight."""
    run = start(config(tmp_path, weight_decay=0.5, max_iters=12, grad_clip=0.3))
    train(run, Quiet(run))
    replay = Replay(run.folder, first)
    name, index = find_weight(replay.run, name)
    replay.seek(first)
    begin = float(replay.run.optimizer.parameters[name].data[index])
    history = follow(replay, name, index, first)
    end = float(run.optimizer.parameters[name].data[index])
    moves = history.moves
    assert moves[0].value == begin and moves[-1].value + moves[-1].change == end
    for move, following in zip(moves, moves[1:], strict=False):
        assert move.value + move.change == following.value
    shares = [move.moved for move in moves] + [history.before, history.decay]
    assert abs(sum(shares) - (end - begin)) < 1e-5 * sum(map(abs, shares))
    assert bool(history.before) == (first > 0)
    assert bool(history.decay) == (name == WEIGHT.partition("[")[0])
    assert any(abs(move.clipped) < abs(move.gradient) for move in moves)


def test_sequences_add_up(resumed):
    folder, seen = resumed
    replay = Replay(folder, 6, 6)
    replay.seek(6)
    for text in (WEIGHT, "transformer.wte.weight[2,3]", "transformer.wpe.weight[-1,-1]"):
        name, index = find_weight(replay.run, text)
        parts = by_sequence(replay.run, name, index)
        assert len(parts) == 8 and all(parts)
        expected = seen[6][1][name][index]
        assert abs(sum(parts) - expected) < 1e-5 * sum(map(abs, parts))


def test_a_history(resumed, capsys, monkeypatch):
    monkeypatch.chdir(resumed[0].parent)
    folder = "run"
    assert main(["why", "--run", str(folder), "--param", WEIGHT]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80
    steps = [line.split() for line in out.splitlines() if re.match(r" *\d+ +-?0\.\d", line)]
    assert [int(words[0]) for words in steps] == list(range(13))
    assert "replayed from the initialization" in out and "moved it most" in out
    assert "largest batch" in out and re.search("the [13] others", out)
    terms = out[out.index("Of the 2 batches, the one with the largest part:") :]
    assert f"gradient of {WEIGHT[: WEIGHT.index('[')]}" in terms and "by position: " in terms
    assert main(["why", f"--run={folder}", f"--param={WEIGHT}", "--from=6", "--to", "8"]) == 0
    out = capsys.readouterr().out
    assert "updates 6 to 8" in out and "checkpoints/step-000005.safetensors" in out
    column = [
        float(x) for x in re.findall(r"(\S+e\S+)(?=  (?:\d\.\d{4})|  +batches|  +weight)", out)
    ]
    (whole,) = re.findall(r"(\S+)  +in all", out)
    assert len(column) == 5 and sum(column) == pytest.approx(float(whole), abs=3e-6)


def test_a_long_history_is_short(tmp_path):
    run = start(config(tmp_path, max_iters=50, n_layer=1, gradient_accumulation_steps=1))
    train(run, Quiet(run))
    console = Console(width=80, force_terminal=True, color_system="256", record=True)
    with console.capture() as capture:
        why(WhyOptions(run=str(run.folder), param="transformer.ln_f.weight[0]"), console)
    out = capture.get()
    assert re.search(r"\x1b\[[\d;]+m[+-]\d\.", out)  # in which codes, rich decides once a process
    steps = re.findall(r"^ *(\d+)  +-?[01]\.\d", re.sub(r"\x1b\[[\d;]*m", "", out), re.MULTILINE)
    assert len(steps) <= MOST_ROWS + 1 and (steps[0], steps[-1]) == ("0", "50")


def test_a_weight_that_nothing_moves(tmp_path):
    """The embedding of a token that only validates, in a model whose head is another matrix."""
    text = tmp_path / "other.txt"
    text.write_text(TEXT + "@")
    run = start(config(tmp_path, data=(str(text),)))
    untied = dataclasses.replace(run.model.config, tie_word_embeddings=False)
    GPT(untied).save_pretrained(tmp_path / "base")
    shutil.copy(run.folder / "tokenizer.json", tmp_path / "base")
    second = dict(out_dir=str(tmp_path / "second"), init_from=str(tmp_path / "base"))
    start(config(tmp_path, data=(str(text),), **second))
    token = run.tokenizer.encode("@")[0]
    console = Console(width=80)
    weight = f"transformer.wte.weight[{token},0]"
    with console.capture() as capture:
        why(WhyOptions(run=second["out_dir"], param=weight, to=3), console)
    assert "Its gradient is 0 in each of them" in capture.get()


# ---- what a user can do wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(run=""), "give a run and a weight"),
        (dict(param=""), "give a run and a weight"),
        (dict(run="nothing"), "nothing holds no run"),
        (dict(param="h.1.mlp.c_fc.weight[0,0]"), r"nearest are .*transformer.h.1.mlp.c_fc.weight"),
        (dict(param="transformer.ln_f.weight"), r"shape \[16\]: name one .*ln_f.weight\[0\]'"),
        (dict(param="transformer.ln_f.weight[1,2]"), "name one weight of it"),
        (dict(param="transformer.ln_f.weight[x]"), "name one weight of it"),
        (dict(param="transformer.ln_f.weight[1"), "name one weight of it"),
        (dict(param="transformer.ln_f.weight[16]"), r"weight\[16\] is out of range: .*\[16\]"),
        (dict(to=12), "has no update 12: it takes 12, counted from 0"),
        (dict(from_=-1), "has no update -1"),
        (dict(from_=5, to=4), "update 5 comes after update 4"),
    ],
)
def test_what_is_wrong_is_said(options, message, resumed):
    given = dict(run=str(resumed[0]), param=WEIGHT) | options
    with pytest.raises(UserError, match=message):
        why(WhyOptions(**given), Console(quiet=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "say which update of the run: --at STEP"),
        (dict(at=12), "has no update 12: it takes 12, counted from 0"),
        (dict(at=3, model="x"), "give a script, or --model"),
        (dict(run="", model="x", at=3), "name its folder with --run DIR"),
        (dict(at=3, primitives=True), "add --source FILE.py"),
        (dict(at=3, source="x.txt"), "is to be a .py file"),
        (dict(at=3, source="x.py", commands="c"), "leave out --trace, --save and --commands"),
    ],
)
def test_what_is_wrong_with_a_step_is_said(options, message, resumed):
    with pytest.raises(UserError, match=message):
        walk(StepOptions(**{"run": str(resumed[0]), **options}))


def test_data_that_are_gone(tmp_path):
    run = start(config(tmp_path))
    (run.folder / "tokens.bin").unlink()
    with pytest.raises(UserError, match="the token file .* does not exist"):
        Replay(run.folder, 0, 0)


# ---- npgpt step


def test_stepping_into_a_run(resumed, tmp_path, capsys):
    folder, seen = resumed
    (tmp_path / "commands").write_text(
        "until attention\nuntil dropout_seeded\ncontinue\nnext\ncontinue\nnext\n"
    )
    step = ["step", "--run", str(folder), "--at", "8", "--commands", str(tmp_path / "commands")]
    assert main([*step, "--save", str(tmp_path / "saved")]) == 0
    out = capsys.readouterr().out
    assert f"update 8 of {folder}, replayed from checkpoints/step-000005.safetensors" in out
    assert "batch 1 of the 2" in out and "batch 2 of the 2" in out
    assert "in transformer.h.1.attn" in out and re.search(r"of \d+  dropout_seeded", out)
    assert Trace.load(tmp_path / "saved").recording.values  # of the first


# ---- scripts


def prints(path):
    """Return what a script, run by itself, says that the loss is."""
    result = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[0].split(" = ")[1]


@pytest.mark.parametrize("primitives", [False, True])
def test_a_runs_step_as_a_script(primitives, resumed, tmp_path, capsys):
    folder, _ = resumed
    path = tmp_path / "step.py"
    walk(StepOptions(run=str(folder), at=9, source=str(path), primitives=primitives))
    said = capsys.readouterr().out
    replay = Replay(folder, 9, 9)
    replay.seek(9)
    with autograd.use_kernels(False), replay.run.dropout():
        inputs, targets, *_ = replay.run.task.batches(replay.run.progress.step)[0]
        loss = replay.run.model(inputs, targets)[1].item()
    assert "np.full((), 0.5, np.float32)" in path.read_text()  # two batches, half of each
    found = float(prints(path))
    assert found == pytest.approx(loss, rel=1e-6) if primitives else np.float32(found) == loss
    assert f"{path} is written; it prints" in said
    assert ("def attention(" in path.read_text()) != primitives


def test_a_script_and_a_model_as_scripts(resumed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fit.py").write_text(
        "import numpy as np, autograd\n"
        "w = autograd.tensor([0.5, -1.0], requires_grad=True)\n"
        "for _ in range(3):\n"
        "    error = (np.tanh(w * np.array([2.0, 3.0])) ** 2).sum()\n"
        "    error.backward()\n"
        "    print('went on')\n"
    )
    assert main("step fit.py --source out.py".split()) == 0
    said = capsys.readouterr().out
    assert "error = " in Path("out.py").read_text()
    assert "went on" not in said and said.strip().endswith(prints("out.py"))
    assert float(prints("out.py")) == np.square(np.tanh([1.0, -3.0])).sum()
    assert main("step fit.py --source fit.py".split()) == 2
    assert (
        main(["step", "--model", str(resumed[0]), "--text", "the lazy", "--source=model.py"]) == 0
    )
    said = capsys.readouterr().out.strip()
    assert said.endswith(" = " + prints("model.py"))
    best = GPT.from_pretrained(resumed[0])
    ids = resume_tokenizer(resumed[0]).encode("the lazy")[None]
    with autograd.use_kernels(False):
        assert np.float32(prints("model.py")) == best(ids[:, :-1], ids[:, 1:])[1].item()


def resume_tokenizer(folder):
    from npgpt import load_tokenizer

    return load_tokenizer(folder)


def test_the_history_is_plain_data(resumed):
    metadata = read_tensors(resumed[0] / "state.safetensors")[1]
    history = json.loads(metadata["history"])
    assert [setting["step"] for setting in history] == [0, 7]
    assert [setting["config"]["learning_rate"] for setting in history] == [3e-3, 1e-2]
    environment = {"NumPy", "BLAS", "BLAS threads", "kernels", "products"}
    assert history[0]["environment"].keys() == environment

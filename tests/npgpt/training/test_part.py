"""A run that trains a part of a model saves this part alone; what is frozen may stay packed."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from helpers import Quiet, demand_unnoticed_interruption, gguf_llama, npgpt, timeless, write_gguf
from test_trainable import CHOICES, base_of, begin, config_of, trained_names

from autograd.files import write_tensors
from autograd.reading import read_tensors
from npgpt import UserError, load_model
from npgpt.models.lora import adapted_layers
from npgpt.training.config import TrainConfig
from npgpt.training.interrupt import Interrupted
from npgpt.training.prepare import initial_model
from npgpt.training.replay import Replay
from npgpt.training.run import latest_run, resume, start, train
from npgpt.weights.packed import PackedGPT


@pytest.fixture
def table(tmp_path):
    rows = [f"{'good' if n % 2 else 'bad'} {n}\t{n % 2}" for n in range(40)]
    (tmp_path / "films.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "films.tsv")


@pytest.fixture
def gguf(tmp_path):
    """A Llama whose matrices have 5 bits."""
    write_gguf(tmp_path / "base.gguf", *gguf_llama({"norm": "F32", "": "Q4_1"}))
    return str(tmp_path / "base.gguf")


def trained_by(run, n=4):
    for _ in range(n):
        run.update()
    run.save_best()
    run.save_state()
    run.files.unlock()
    return run


def logits(model, run):
    model.eval()
    return run.task.objective(model)(*run.task.batches(0)[0])[0].numpy()


@pytest.mark.parametrize("choice", CHOICES)
def test_the_files_hold_what_is_trained_and_no_more(choice, table, tmp_path):
    run = trained_by(begin("gpt", choice, table, tmp_path))
    trained = trained_names(run)
    part, _ = read_tensors(run.folder / "trained.safetensors")
    assert part.keys() == trained
    state, _ = read_tensors(run.files.state)
    means = {f"{kind}.{name}" for kind in ("mean", "square") for name in trained}
    assert state.keys() == trained | means
    assert not (run.folder / "model.safetensors").exists()
    whole = load_model(run.folder)
    assert not any(adapted_layers(whole)) and all(p.requires_grad for p in whole.parameters())
    expected = logits(run.model, run)
    np.testing.assert_allclose(logits(whole, run), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


def test_rounded_weights_are_saved_whole(tmp_path):
    """With --fake_quantize, the frozen weights are used in another form than the base has."""
    base = base_of("gpt", tmp_path / "base")
    (tmp_path / "text.txt").write_text("some text " * 40)
    keys = dict(data=(str(tmp_path / "text.txt"),), tokenizer="byte", block_size=8, max_iters=2)
    keys |= dict(init_from=base, train_layers=1, batch_size=2, fake_quantize="Q8_0")
    run = trained_by(start(TrainConfig(**keys, out_dir=str(tmp_path / "run"))))
    assert run.files.best.name == "model.safetensors"
    np.testing.assert_allclose(logits(load_model(run.folder), run), logits(run.model, run),
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_the_latest_run_may_be_a_part(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained_by(begin("gpt", "last", table, tmp_path / "out"))
    assert latest_run().resolve() == run.folder.resolve()


@pytest.mark.parametrize("choice", ["last", "lora"])
def test_a_lost_or_changed_base_is_one_message(choice, table, tmp_path):
    run = trained_by(begin("gpt", choice, table, tmp_path))
    weights = tmp_path / "gpt" / "model.safetensors"
    tensors, metadata = read_tensors(weights)
    first = next(iter(tensors))
    write_tensors(weights, tensors | {first: tensors[first] + 1}, metadata)
    for read in (load_model, lambda folder: resume(folder, {}), Replay):
        with pytest.raises(UserError, match="has other weights than when the training") as error:
            read(run.folder)
        assert "\n" not in str(error.value)
    run.files.unlock()
    (tmp_path / "gpt").rename(tmp_path / "moved")
    for read in (load_model, lambda folder: resume(folder, {}), Replay):
        with pytest.raises(UserError, match="is not there any more: put it back at .*gpt$"):
            read(run.folder)


def test_a_run_that_others_are_built_on_is_not_overwritten_by_one_of_them(table, tmp_path):
    first = trained_by(begin("gpt", "last", table, tmp_path, "first"))
    keys = dict(tokenizer="byte", train_layers=1)
    second = trained_by(start(config_of(table, tmp_path / "second", str(first.folder), **keys)))
    third = config_of(table, first.folder, str(second.folder), **keys)
    with pytest.raises(UserError, match="--overwrite would remove .*first, which the new run"):
        start(third, overwrite=True)
    assert load_model(second.folder)


def test_folders_that_are_moved_together_are_found_by_the_name(table, tmp_path, monkeypatch):
    """The absolute path is of another machine then; the name is that of the command."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    base_of("gpt", tmp_path / "here" / "base")
    run = trained_by(start(config_of(table, tmp_path / "here" / "run", "base", tokenizer="byte",
                                     train_layers=1)))  # fmt: skip
    expected = logits(load_model("run"), run)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(logits(load_model("here/run"), run), expected)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    np.testing.assert_array_equal(logits(load_model("run"), run), expected)


@pytest.mark.parametrize("choice", ["last", "lora"])
def test_an_older_run_goes_on_with_its_whole_state(choice, table, tmp_path):
    """Up to version 0.2.0, the state and the best model had all parameters."""
    new = begin("gpt", choice, table, tmp_path, "new")
    train(new, Quiet(new))
    old = begin("gpt", choice, table, tmp_path, "old")
    old.base = None
    old.save_state()
    with pytest.raises(Interrupted):
        train(old, Quiet(old, interrupt_at=6))
    (tmp_path / "gpt").rename(tmp_path / "elsewhere")  # an older run does not need its base
    again = resume(tmp_path / "old", {})
    train(again, Quiet(again))
    assert timeless(tmp_path / "old") == timeless(tmp_path / "new")
    state, _ = read_tensors(again.files.state)
    assert state.keys() >= again.model.state_dict().keys()
    assert again.files.best.name == "model.safetensors" and load_model(again.folder)


@pytest.mark.parametrize("metadata", [{}, {"base": "[]"}, {"base": '{"name": "x"}'}])
def test_a_part_that_does_not_name_its_base_is_damaged(metadata, table, tmp_path):
    run = trained_by(begin("gpt", "last", table, tmp_path))
    tensors, _ = read_tensors(run.files.part)
    write_tensors(run.files.part, tensors, metadata)
    with pytest.raises(UserError, match=r"trained\.safetensors is damaged"):
        load_model(run.folder)


def test_a_part_of_another_form_is_refused(table, tmp_path):
    run = trained_by(begin("gpt", "lora", table, tmp_path))
    tensors, metadata = read_tensors(run.files.part)
    name = next(name for name in tensors if name.endswith("lora_A"))
    fewer = {key: array for key, array in tensors.items() if key != name}
    for wrong, message in (
        (fewer, "lacks"), (tensors | {name: tensors[name][:, :1]}, "does not fit"),
        (tensors | {"other": tensors[name]}, "does not fit"),
    ):  # fmt: skip
        write_tensors(run.files.part, wrong, metadata)
        with pytest.raises(UserError, match=message):
            load_model(run.folder)


# ---- beside packed weights


def packed_config(gguf, folder, file, task, **changes):
    keys = dict(task=task, data=(file,), init_from=gguf, lora_r=2, block_size=24, batch_size=4)
    keys |= dict(max_iters=8, eval_interval=4, eval_iters=2, learning_rate=1e-2, warmup_iters=0)
    keys |= dict(log_interval=1)
    return TrainConfig(**keys | changes, sample_tokens=0, out_dir=str(folder))


@pytest.fixture
def files(table, tmp_path):
    asked = [{"prompt": f"a{n}", "response": "b" * (1 + n % 3)} for n in range(20)]
    better = [{"prompt": f"a{n}", "chosen": "b", "rejected": "c" * (1 + n % 2)} for n in range(20)]
    found = {"classification": table}
    for task, rows in (("instructions", asked), ("preferences", better)):
        (tmp_path / f"{task}.json").write_text(json.dumps(rows))
        found[task] = str(tmp_path / f"{task}.json")
    return found


@pytest.mark.parametrize("task", ["classification", "instructions", "preferences"])
def test_a_run_beside_packed_weights(task, gguf, files, tmp_path):
    """It goes on as if it were not interrupted; its folder is a model, packed or in float32."""
    demand_unnoticed_interruption(
        lambda folder: packed_config(gguf, folder, files[task], task), tmp_path
    )
    folder = tmp_path / "broken"
    replay = Replay(folder, 0, 7)  # from the base on
    replay.seek(8)
    run = replay.run
    assert isinstance(run.model, PackedGPT) and len(replay.origin) > 0
    for name, array in read_tensors(run.files.state)[0].items():
        if name in run.model.state_dict():
            np.testing.assert_array_equal(run.model.state_dict()[name], array)
    run.save_best()
    floats, packed = load_model(folder), load_model(folder, packed=True)
    assert isinstance(packed, PackedGPT) and any(adapted_layers(packed))
    assert not isinstance(floats, PackedGPT) and not any(adapted_layers(floats))
    assert "eos_token_id" in floats.generation_config
    expected = logits(run.model, run)
    assert np.abs(expected).max() > 1e-2
    for model in (floats, packed):
        np.testing.assert_allclose(
            logits(model, run), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def test_packed_weights_give_the_loss_of_float32_weights(gguf, files, tmp_path):
    config = packed_config(gguf, tmp_path / "run", files["instructions"], "instructions")
    run = start(config)
    other = initial_model(run.model.config, config, Path(gguf), packed=False)
    assert isinstance(run.model, PackedGPT) and not isinstance(other, PackedGPT)
    batch = run.task.batches(0)[0]
    losses = [run.task.objective(model)(*batch)[1].item() for model in (run.model, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert trained_names(run) == {n for n, p in other.named_parameters() if p.requires_grad}


def test_what_changes_the_weights_takes_float32(gguf, files, tmp_path):
    """A second run begins with the change of the first, which packed weights cannot hold."""
    first = trained_by(start(packed_config(gguf, tmp_path / "a", files["instructions"],
                                           "instructions")))  # fmt: skip
    second = start(packed_config(str(first.folder), tmp_path / "b", files["preferences"],
                                 "preferences"))  # fmt: skip
    assert not isinstance(second.model, PackedGPT)
    trained_by(second)
    np.testing.assert_allclose(
        logits(load_model(second.folder, packed=True), second), logits(second.model, second),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    with_text = packed_config(gguf, tmp_path / "c", files["classification"], "classification",
                              lm_loss=0.5)  # fmt: skip
    assert not isinstance(start(with_text).model, PackedGPT)


def test_commands_beside_packed_weights(gguf, files, tmp_path, capsys, monkeypatch):
    args = ["--model", gguf, "--lora_r", 2, "--batch_size", 4, "--block_size", 24]
    args += ["--max_iters", 2, "--sample_tokens", 0]
    for task, file in files.items():
        assert npgpt("finetune", task, "--train", file, *args, "--out_dir", tmp_path / task) == 0
        out = capsys.readouterr().out
        assert ", packed in few bits" in out
    assert npgpt("classify", "--model", tmp_path / "classification", "good") == 0
    chat = ["chat", "--model", tmp_path / "preferences", "--max_new_tokens", 3]
    monkeypatch.setattr("sys.stdin", StringIO("a1\n"))
    assert npgpt(*chat) == 0
    capsys.readouterr()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    assert npgpt("models", "add", tmp_path / "preferences") != 0
    assert "npgpt export writes a folder with the whole model" in capsys.readouterr().err
    assert npgpt("export", tmp_path / "preferences", tmp_path / "whole") == 0
    assert npgpt("models", "add", tmp_path / "whole") == 0

"""Distillation: its loss and gradient, runs, and what is refused."""

import json
import re

import numpy as np
import pytest
from helpers import TEXT, Quiet, npgpt, same_runs, train_config

from autograd.testing import gradcheck
from npgpt import GPT, GPTConfig, UserError, load_model
from npgpt.models.bert import Bert, BertConfig
from npgpt.training.config import TrainConfig
from npgpt.training.data import Batch
from npgpt.training.distillation import Distillation
from npgpt.training.follow import by_sequence
from npgpt.training.interrupt import Interrupted
from npgpt.training.replay import Replay
from npgpt.training.run import resume, start, train
from npgpt.weights.load import save_weights

SIZES = dict(vocab_size=7, n_positions=6, n_embd=8, n_head=2)
BATCH = Batch(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[2, 3, -100], [5, 6, 0]]))
COUNTED = BATCH.targets != -100


def draw(n_layer, seed, **changes):
    model = GPT(GPTConfig(**SIZES | changes, n_layer=n_layer), dtype=np.float64).eval()
    random = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data[...] = 0.4 * random.standard_normal(parameter.shape)
    return model


def probabilities(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# ---- the loss


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_that_of_the_formula(share):
    teacher, student, T = draw(3, 1), draw(1, 2), 2.5
    logits, found = Distillation(teacher, T, share).objective(student)(*BATCH)
    p, q = (probabilities(model(BATCH.inputs)[0].numpy() / T) for model in (teacher, student))
    divergence = (p * np.log(p / q)).sum(axis=-1)[COUNTED].mean()
    data = student(*BATCH)[1].item()
    assert found.item() == pytest.approx((1 - share) * data + share * T**2 * divergence, rel=1e-12)
    np.testing.assert_array_equal(logits.numpy(), student(*BATCH)[0].numpy())


def test_hidden_states_are_compared_layer_by_layer():
    teacher, student = draw(4, 1), draw(2, 2)
    found = Distillation(teacher, share=0.0, hidden=0.7).losses(student, BATCH).numpy()
    ours, theirs = (m.activations(BATCH.inputs).hidden_states for m in (student, teacher))
    pairs = [(ours[i].numpy(), theirs[2 * i].numpy()) for i in range(3)]
    far = sum(((a - b) ** 2).mean(axis=-1) for a, b in pairs) / 3
    data = Distillation(teacher, share=0.0).losses(student, BATCH).numpy()
    np.testing.assert_allclose(found, data + 0.7 * far * COUNTED, rtol=1e-12)


@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_the_gradient_is_that_of_differences(hidden):
    teacher, student = draw(3, 1), draw(1, 2)
    norm = student.transformer.h[0].ln_1

    def loss(weight):
        norm.weight = weight
        return Distillation(teacher, 2.0, 0.6, hidden).objective(student)(*BATCH)[1]

    assert gradcheck(loss, [norm.weight])
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_drops_nothing():
    teacher, student = draw(2, 1, resid_pdrop=0.5).train(), draw(1, 2)
    first, second = (Distillation(teacher).losses(student, BATCH).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_model_that_chooses_more_than_one_thing_is_refused():
    reader = Bert(BertConfig(**SIZES, n_layer=1, architecture="BertForQuestionAnswering"))
    batch = Batch(BATCH.inputs, np.array([[0, 1], [1, 2]]))  # the start and the end of an answer
    with pytest.raises(UserError, match="one choice for each target"):
        Distillation(reader).losses(reader, batch)


# ---- runs


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def teacher(text, tmp_path):
    run = start(train_config(text, tmp_path / "teacher", max_iters=4))
    train(run, Quiet(run))
    return str(run.folder)


def student_config(text, folder, teacher, **changes):
    more = dict(teacher=teacher, n_layer=1, teacher_hidden=0.1) | changes
    return train_config(text, folder, **more)


def test_an_interrupted_run_is_the_run_without_a_break(text, teacher, tmp_path):
    whole = start(student_config(text, tmp_path / "whole", teacher))
    train(whole, Quiet(whole))
    part = start(student_config(text, tmp_path / "part", teacher))
    with pytest.raises(Interrupted):
        train(part, Quiet(part, interrupt_at=6))
    again = resume(part.folder, {})
    train(again, Quiet(again))
    same_runs(whole.folder, again.folder)
    with pytest.raises(UserError, match="teacher_share is 0.5 in the run"):
        resume(part.folder, {"teacher_share": 0.9})


def test_an_evaluation_shows_the_loss_of_the_data(text, teacher, tmp_path):
    run = start(student_config(text, tmp_path / "run", teacher))
    plain = start(train_config(text, tmp_path / "plain", n_layer=1))
    assert run.evaluate() == plain.evaluate()


def test_a_replay_and_the_share_of_each_sequence(text, teacher, tmp_path):
    run = start(student_config(text, tmp_path / "run", teacher))
    train(run, Quiet(run))
    replay = Replay(run.folder, 5, 5)
    replay.seek(5)
    name, index = "transformer.h.0.attn.c_attn.weight", (3, 5)
    parts = by_sequence(replay.run, name, index)
    replay.run.backward()
    gradient = replay.run.optimizer.parameters[name].grad.numpy()[index]
    assert sum(parts) == pytest.approx(gradient, rel=1e-3)


def test_a_teacher_that_was_changed_is_noticed(text, teacher, tmp_path):
    run = start(student_config(text, tmp_path / "run", teacher))
    train(run, Quiet(run))
    other = load_model(teacher)
    other.transformer.wte.weight.data[0] += 1
    save_weights(other, run.folder.parent / "teacher" / "model.safetensors")
    with pytest.raises(UserError, match="was changed since the run began"):
        resume(run.folder, {})


# ---- the command, and what is refused


def test_the_command_halves_the_layers(text, teacher, tmp_path, capsys):
    folder = tmp_path / "student"
    words = ["--max_iters=2", "--eval_interval=2", "--eval_iters=1", "--sample_tokens=0"]
    assert npgpt("distill", "--teacher", teacher, "--data", text, "--out_dir", folder, *words) == 0
    student = load_model(folder)
    assert student.config.n_layer == 1 and student.config.n_embd == 16
    assert json.loads((folder / "config.json").read_text())["n_embd"] == 16
    capsys.readouterr()
    assert npgpt("generate", "--model", folder, "--prompt=the", "--max_new_tokens=3") == 0
    again = ["--student", folder, "--out_dir", tmp_path / "again"]
    assert npgpt("distill", "--teacher", teacher, "--data", text, *again, *words) == 0
    assert npgpt("distill", "--resume", folder, "--max_iters=3") == 0


def test_a_process_of_mpirun_follows(monkeypatch):
    monkeypatch.setattr("npgpt.commands.distill.follow_launched", lambda: 7)
    assert npgpt("distill") == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no teacher"),
        (["--teacher", "nowhere"], "nowhere"),
        (["--teacher", "TEACHER", "--init_from", "TEACHER"], "--init_from is --student here"),
        (["--teacher", "TEACHER", "--teacher_temperature", "0"], "teacher_temperature"),
        (["--teacher", "TEACHER", "--teacher_share", "1.5"], "teacher_share"),
        (["--teacher", "TEACHER", "--block_size", "9"], "reads 8 tokens.*--block_size 8"),
        (["--teacher", "TEACHER", "--tokenizer", "byte"], "tokenizer is byte"),
        (["--teacher", "TEACHER", "--student", "OTHER"], "others: a student learns the prob"),
        (["--teacher", "TEACHER", "--n_embd=8", "--teacher_hidden=1"], "have 16 channels"),
        (["--teacher", "TEACHER", "--task", "masked"], "trains bert"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said, text, teacher, tmp_path, capsys):
    if "OTHER" in words:
        other = tmp_path / "other.txt"
        other.write_text(TEXT + "%")
        run = start(train_config(str(other), tmp_path / "other", max_iters=0))
        train(run, Quiet(run))
    names = {"TEACHER": teacher, "OTHER": tmp_path / "other"}
    words = [names.get(word, word) for word in words]
    assert npgpt("distill", *words, "--data", text, "--out_dir", tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error)
    assert not (tmp_path / "new").exists()


def test_keys_of_a_teacher_need_a_teacher():
    with pytest.raises(UserError, match="--teacher_hidden is about a teacher"):
        TrainConfig(teacher_hidden=1.0)


def test_heads_must_be_the_same():
    from npgpt.tokenizers import ByteTokenizer
    from npgpt.training.distillation import demand_hidden_states, demand_same_outputs

    tokenizer = ByteTokenizer()
    sizes = dict(vocab_size=256, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    plain = GPT(GPTConfig(**sizes))
    judge = GPT(GPTConfig(**sizes, labels=("bad", "good")))
    with pytest.raises(UserError, match="the labels bad, good, and the student none"):
        demand_same_outputs(
            TrainConfig(teacher="a", block_size=8), judge, plain, tokenizer, tokenizer
        )
    with pytest.raises(UserError, match="leave it out"):
        demand_hidden_states(Bert(BertConfig(**sizes)), plain)

"""Documents, validation data, foreign token files, and what training shows and stops by."""

import contextlib
import io
import json
import pickle
import re

import numpy as np
import pytest
from helpers import Quiet, lines, same_runs, train_config
from hypothesis import given
from hypothesis import strategies as st

from autograd.console import Console
from autograd.reading import read_tensors
from npgpt import GPT, GPTConfig, UserError, generate, load_tokenizer
from npgpt.cli import main
from npgpt.evaluation.loss import whole_loss
from npgpt.tokenizers import ByteTokenizer, CharTokenizer, save_tokenizer
from npgpt.training.curve import loss_curve, read_losses
from npgpt.training.data import END, encode_text, end_token, open_tokens, read_documents, separated
from npgpt.training.display import Display
from npgpt.training.follow import by_sequence
from npgpt.training.interrupt import Interrupted
from npgpt.training.replay import Replay
from npgpt.training.run import accumulate_gradients, resume, start, train
from npgpt.weights.load import load_model

TINY = dict(vocab_size=6, n_positions=12, n_embd=8, n_layer=2, n_head=2)

# ---- what a model sees of documents


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=9),
    st.sampled_from([{}, dict(window_size=2), dict(position_embedding="sinusoidal")]),
)
def test_documents_that_share_a_window_are_as_if_alone(tokens, changes):
    model = GPT(GPTConfig(**TINY, **changes), seed=1, dtype=np.float64).eval()
    for parameter in model.parameters():
        parameter.data *= 10  # or attention would hardly matter
    window = np.array([tokens])
    batch = separated(window[:, :-1], window[:, 1:], end=0)
    logits = model(*batch)[0].numpy()[0]
    begin = 0
    for i, token in enumerate(tokens[:-1]):
        if token == 0 or i == len(tokens) - 2:
            alone = model(window[:, begin : i + 1])[0].numpy()[0]
            assert np.allclose(logits[begin : i + 1], alone, rtol=1e-9, atol=1e-12)
            begin = i + 1
    expected = np.where(window[:, :-1] == 0, -100, window[:, 1:])
    assert np.array_equal(batch.targets, expected)
    assert separated(window, window, None)[2:] == (None, None)


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_it_makes_no_difference_how_tokens_are_divided_into_batches(seed, n):
    random = np.random.default_rng(seed)
    windows = random.integers(0, 3, (4, 8))
    batches = [separated(w[:, :-1], w[:, 1:], 0) for w in (windows, windows[:n], windows[n:])]
    one, many = (GPT(GPTConfig(**TINY), seed=1, dtype=np.float64) for _ in range(2))
    one.eval(), many.eval()
    assert accumulate_gradients(one, batches[:1]) == pytest.approx(
        accumulate_gradients(many, batches[1:]), rel=1e-12
    )
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or np.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-15)


def test_the_loss_over_documents():
    model = GPT(GPTConfig(**TINY), seed=1, dtype=np.float64).eval()
    text = np.array([1, 2, 3, 0, 4, 5, 1, 0, 2, 0, 3, 3, 3, 3, 3, 3, 3])
    total = count = 0
    # the last document is cut in two: a window holds 12 tokens and the one after them
    for document in ([1, 2, 3, 0], [4, 5, 1, 0], [2, 0], [3, 3, 3], [3, 3, 3, 3, 3]):
        ids = np.array([document])
        total += model(ids[:, :-1], ids[:, 1:])[1].item() * (len(document) - 1)
        count += len(document) - 1
    assert whole_loss(model, text, end=0) == pytest.approx(total / count, rel=1e-12)
    assert whole_loss(model, np.zeros(5, int), end=0) == 0


# ---- reading documents


@pytest.mark.parametrize("separator", ["\n\n", r"\n\n"])
def test_documents_of_files(separator, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n\n \n\n")
    (tmp_path / "b.txt").write_text(f"four {END}\n")
    names = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    assert read_documents(names)[0] == ["one\ntwo\n\nthree\n\n \n\n", f"four {END}\n"]
    found, files = read_documents(names, separator)
    assert found == ["one\ntwo", "three", f"four {END}\n"] and files == list(names)
    with pytest.raises(UserError, match="'%' is nowhere in the text"):
        read_documents(names, "%")
    with pytest.raises(UserError, match="nothing but separators"):
        (tmp_path / "c.txt").write_text("%")
        read_documents((str(tmp_path / "c.txt"),), "%")


@pytest.mark.parametrize(
    "tokenizer", [CharTokenizer.from_text(f"ab{END}", [END]), ByteTokenizer([END])]
)
def test_tokenizers_with_an_end_token(tokenizer, tmp_path):
    end = end_token(tokenizer)
    assert end == tokenizer.n_vocab - 1
    ids = encode_text(["ab", f"a{END}b"], tokenizer)
    assert [i for i, token in enumerate(ids) if token == end] == [2, len(ids) - 1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"aba{END}b"  # in a text: text
    assert tokenizer.encode(f"a{END}b", allowed_special="all")[1] == end  # in a prompt: the token
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.to_dict() == tokenizer.to_dict() and again.special_tokens == {END: end}
    with pytest.raises(UserError, match="the tokenizer .char. has no special token"):
        end_token(CharTokenizer.from_text("ab"))
    with pytest.raises(UserError, match="special_tokens must be different from each other"):
        ByteTokenizer([END, END])


# ---- a run


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text("ab" * (i % 7 + 1))
    other = tmp_path / "other.txt"
    other.write_text("abc" * 40)
    return dict(data=(str(folder),), val_data=(str(other),), documents=True, separate=True)


@pytest.mark.parametrize("step", [3, 4, 9])
def test_runs_on_documents_resume_bit_for_bit(step, documents, tmp_path, capsys):
    often = dict(documents, log_interval=1, checkpoint_interval=5)
    whole = start(train_config("", tmp_path / "whole", **often))
    train(whole, Quiet(whole))
    run = start(train_config("", tmp_path / "run", **often))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=step))
    again = resume(run.folder, {})
    assert np.array_equal(again.task.splits[1], encode_text(["abc" * 40], again.tokenizer))
    assert (
        len(again.task.text)
        == len(again.task.splits[0])
        == sum(2 * (i % 7 + 1) + 1 for i in range(60))
    )
    train(again, Quiet(again))
    same_runs(run.folder, whole.folder)
    replay = Replay(run.folder, 7, 7)
    replay.seek(7)
    weight = "transformer.h.0.attn.c_attn.weight"
    found = by_sequence(replay.run, weight, (0, 1))
    loss = replay.run.backward()
    (logged,) = [line for line in lines(run.folder) if line["step"] == 8 and "lr" in line]
    assert loss == pytest.approx(logged["train_loss"], rel=1e-6)
    gradient = replay.run.optimizer.parameters[weight].grad.numpy()[0, 1]
    assert sum(found) == pytest.approx(gradient, rel=1e-3)
    main(["why", "--run", str(run.folder), "--param", f"{weight}[0,1]", "--from", "7"])
    assert "Its gradient is the sum over these sequences" in capsys.readouterr().out


def test_generation_stops_at_the_end_of_a_document(documents, tmp_path):
    run = start(train_config("", tmp_path / "run", **documents))
    train(run, Quiet(run))
    model, end = load_model(run.folder), run.task.end
    assert model.generation_config == {"eos_token_id": end}
    ids = run.tokenizer.encode("ab")
    found = generate(model, ids, max_new_tokens=200, do_sample=True, seed=1)[0]
    assert found[-1] == end and len(found) < 202
    without = start(train_config(str(tmp_path / "other.txt"), tmp_path / "without"))
    train(without, Quiet(without))
    assert load_model(without.folder).generation_config == {}


def test_what_is_said_of_documents(documents, tmp_path):
    for changes, message in (
        (dict(documents=False), "--separate is about documents: add --documents"),
        (dict(documents=False, separate=False, separator="x"), "--separator is about documents"),
        (dict(val_data=("nowhere.txt",)), "nowhere.txt does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            start(train_config("", tmp_path / "run", **{**documents, **changes}))
    (tmp_path / "short.txt").write_text("ab")
    with pytest.raises(UserError, match="--val_data has 3 tokens: too few for a context of 8"):
        start(
            train_config(
                "", tmp_path / "run", **{**documents, "val_data": str(tmp_path / "short.txt")}
            )
        )
    assert not (tmp_path / "run").exists()


# ---- token files


def test_a_token_file_knows_its_documents(documents, tmp_path):
    run = start(train_config("", tmp_path / "run", **documents))
    changes = dict(val_data=(str(run.folder / "val_tokens.bin"),))
    other = start(train_config(str(run.folder / "tokens.bin"), tmp_path / "second", **changes))
    assert other.config.documents and other.model.generation_config == {
        "eos_token_id": run.task.end
    }
    assert np.array_equal(other.task.splits[1], run.task.splits[1])
    plain = start(train_config(str(tmp_path / "other.txt"), tmp_path / "plain"))
    with pytest.raises(UserError, match="no special token"):
        start(train_config(str(plain.folder / "tokens.bin"), tmp_path / "third", documents=True))


def test_token_files_of_nanogpt(tmp_path):
    ids = np.frombuffer(b"hello, world " * 30, np.uint8)
    for name in ("train", "val"):
        ids.astype("<u2").tofile(tmp_path / f"{name}.bin")
    train_bin, val_bin = str(tmp_path / "train.bin"), str(tmp_path / "val.bin")
    with pytest.raises(UserError, match="train.json does not exist.*--tokenizer gpt2"):
        start(train_config(train_bin, tmp_path / "run"))
    run = start(train_config(train_bin, tmp_path / "run", val_data=val_bin, tokenizer="byte"))
    assert np.array_equal(run.task.text, ids) and run.config.tokenizer == "byte"
    train(run, Quiet(run))
    assert not list(run.folder.glob("*.bin"))
    resume(run.folder, {})
    with open(val_bin, "r+b") as file:
        file.write(b"\1")
    with pytest.raises(UserError, match="val.bin is not the text that .* was trained on"):
        resume(run.folder, {})
    with pytest.raises(UserError, match="holds no end token"):
        start(train_config(train_bin, tmp_path / "x", tokenizer="byte", documents=True))
    for content, message in (
        (b"\0", "has 1 bytes"),
        (b"", "has 0 bytes"),
        (ids.astype("<u4").tobytes(), "seem to have four bytes each"),
        (b"\0\1" * 50, "holds token 256, and the tokenizer .byte. knows 256"),
    ):
        (tmp_path / "train.bin").write_bytes(content)
        with pytest.raises(UserError, match=message):
            start(train_config(train_bin, tmp_path / "x", tokenizer="byte"))


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('opened')",)


def test_meta_pkl_is_never_opened(tmp_path):
    np.zeros(100, "<u2").tofile(tmp_path / "train.bin")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="meta.pkl.*never opened.*--data input.txt"):
        start(train_config(str(tmp_path / "train.bin"), tmp_path / "run"))


# ---- evaluation only, early stopping, samples, the loss curve


def test_evaluation_only(documents, tmp_path, capsys):
    run = start(train_config("", tmp_path / "run", **documents))
    train(run, Quiet(run))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["train", "--resume", str(run.folder), "--eval_only"]) == 0
    out = capsys.readouterr().out
    last = lines(run.folder)[-2]
    assert out.startswith(
        f"step     12  train {last['train_loss']:.4f}  val {last['val_loss']:.4f}\nloss "
    )
    whole = whole_loss(run.model, run.task.splits[1], end=run.task.end)
    assert f"loss {whole:.4f} over the whole validation split" in out
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(train_config("", "", **documents, eval_only=True).to_toml())
    assert main(["train", str(recipe)]) == 0
    first = lines(run.folder)[0]
    assert (
        f"train {first['train_loss']:.4f}  val {first['val_loss']:.4f}" in capsys.readouterr().out
    )
    assert main(["train", "--resume", str(run.folder), "--eval_only", "--val_data", "x.txt"]) == 2
    assert f"--val_data is {tmp_path / 'other.txt'} in the run" in capsys.readouterr().err
    recipe.unlink()
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_early_stopping(documents, tmp_path, capsys):
    wild = dict(
        documents, learning_rate=0.05, min_lr=0.05, eval_interval=1, max_iters=300, beta2=0.5
    )
    run = start(train_config("", tmp_path / "run", **wild, patience=3))
    train(run, Quiet(run))
    assert run.progress.finished and run.progress.step == run.progress.best_step + 3 < 300
    assert main(["train", "--resume", str(run.folder)]) == 0
    assert f"stopped early at step {run.progress.step}" in capsys.readouterr().out
    again = resume(run.folder, {"patience": 0, "max_iters": run.progress.step + 4})
    train(again, Quiet(again))
    whole = start(
        train_config("", tmp_path / "whole", **(wild | {"max_iters": again.progress.step}))
    )
    train(whole, Quiet(whole))
    for name, array in whole.model.state_dict().items():
        assert np.array_equal(array, again.model.state_dict()[name])
    assert whole.progress.best_step == again.progress.best_step


def test_samples_change_nothing(documents, tmp_path):
    shown = []
    folders = []
    for n in (0, 5):
        run = start(train_config("", tmp_path / str(n), **documents, sample_tokens=n, patience=9))
        display = Quiet(run)
        display.sampled = shown.append
        train(run, display)
        folders.append(run.folder)
    same_runs(*folders)
    assert len(shown) == 4 and all(text.startswith("ab") and len(text) <= 9 for text in shown)


def test_control_characters_of_a_sample_are_shown():
    display = Display(10)
    display.console.file = io.StringIO()
    display.sampled("a\x1b[31mb\rc\td\u202e\n天")
    found = display.console.file.getvalue()
    assert found.splitlines() == ["    │ a\\x1b[31mb", "    │ c\\td\\u202e", "    │ 天"]


def test_the_display_shows_the_losses_that_are_known():
    """After --resume, no evaluation was seen yet."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with (display := Display(10, 4, console)):
        display.step(5, 1.25, 300.0)
    shown = console.file.getvalue()
    assert "train 1.250" in shown and "val" not in shown
    with display:
        display.evaluated(6, 1.2, 1.3)
    assert "val 1.300" in console.file.getvalue()


def test_the_loss_curve(documents, tmp_path, capsys):
    run = start(train_config("", tmp_path / "run", **documents))
    (run.folder / "metrics.jsonl").write_text("")
    assert loss_curve(run.folder) == ""
    train(run, Quiet(run))
    losses = read_losses(run.folder)
    assert [step for step, _ in losses["val"]] == [0, 4, 8, 12]
    assert [step for step, _ in losses["train"]] == [2, 4, 6, 8, 10, 12]
    curve = loss_curve(run.folder)
    plot = [line.partition("|")[2] for line in curve.splitlines() if "|" in line]
    assert sum(line.count("o") for line in plot) == 4
    values = [loss for points in losses.values() for _, loss in points]
    assert curve.startswith(f"{max(values):>8.3f} |") and f"{min(values):>8.3f} |" in curve
    assert re.search(r" 0 +step 12\n", curve) and max(map(len, curve.splitlines())) <= 72


def test_the_picture_of_the_loss_curve(documents, tmp_path):
    run = start(train_config("", tmp_path / "run", **documents))
    train(run, Quiet(run))
    picture = run.folder / "loss.png"
    with contextlib.suppress(ImportError):
        import matplotlib  # noqa: F401

        assert picture.read_bytes()[:4] == b"\x89PNG"
        picture.unlink()
    assert not picture.exists()


def test_files_of_validation_data_belong_to_the_run(documents, tmp_path):
    run = start(train_config("", tmp_path / "run", **documents))
    tokens, info = open_tokens(run.folder / "val_tokens.bin")
    assert info.documents and len(tokens) == 121
    where = read_tensors(run.folder / "state.safetensors")[1]["val_tokens"]
    assert json.loads(where) == [str(run.folder / "val_tokens.bin"), info.sha256]
    plain = start(train_config(str(tmp_path / "other.txt"), run.folder), overwrite=True)
    assert not (plain.folder / "val_tokens.bin").exists()


def test_profiling_documents(documents, tmp_path, capsys):
    folder = documents["data"][0]
    assert main(["profile", "--data", folder, "--documents", "--separate", "--steps", "1",
                 "--n_layer", "1", "--n_head", "2", "--n_embd", "8"]) == 0  # fmt: skip
    model = GPTConfig(vocab_size=3, n_positions=64, n_layer=1, n_head=2, n_embd=8, bias=False)
    parameters = GPT(model).n_parameters()  # of two characters and the end token
    assert f"{parameters:,} parameters" in capsys.readouterr().out

"""Pre-training by masked tokens: which are masked, the runs, and the tools on them."""

import json

import numpy as np
import pytest
from helpers import TEXT, Quiet, lines, npgpt, same_runs, train_config
from hypothesis import given
from hypothesis import strategies as st

from npgpt import GPT, GPTConfig, UserError, load_model
from npgpt.evaluation.loss import mean_loss
from npgpt.gaps import fill_gaps, ordinary_tokens
from npgpt.models.bert import Bert, BertConfig
from npgpt.tokenizers import ByteTokenizer, CharTokenizer, WordPieceTokenizer, save_tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import IGNORED, write_tokens
from npgpt.training.follow import by_sequence
from npgpt.training.interrupt import Interrupted
from npgpt.training.masked import MaskedTokens, mask_tokens
from npgpt.training.replay import Replay
from npgpt.training.run import evaluate_run, resume, start, train


def config_of(text, folder, **changes):
    return train_config(text, folder, **dict(task="masked", sample_tokens=0) | changes)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def wordpiece():
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the quick brown fox jump ##s over lazy dog .".split()
    return WordPieceTokenizer({word: i for i, word in enumerate(words)})


# ---- the gaps

ORDINARY = np.array([1, 2, 5, 6, 7, 9])


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_which_tokens_are_masked(T, seed):
    random = np.random.default_rng(seed)
    ids = random.integers(0, 10, T)
    before = ids.copy()
    inputs, targets = mask_tokens(ids, random, 3, ORDINARY)
    np.testing.assert_array_equal(ids, before)
    may, chosen = np.isin(ids, ORDINARY), targets != IGNORED
    assert not (chosen & ~may).any()
    np.testing.assert_array_equal(targets[chosen], ids[chosen])
    np.testing.assert_array_equal(inputs[~chosen], ids[~chosen])
    assert np.isin(inputs[chosen], [3, *ORDINARY]).all()
    n = np.count_nonzero(may)
    assert np.count_nonzero(chosen) == min(n, max(1, round(0.15 * n)))


def test_the_shares_are_those_of_the_paper():
    random = np.random.default_rng(0)
    ids = random.integers(100, 1100, (400, 500))
    rows = [mask_tokens(row, random, 3, np.arange(100, 1100)) for row in ids]
    inputs, targets = map(np.stack, zip(*rows, strict=True))
    chosen = targets != IGNORED
    assert chosen.mean() == pytest.approx(0.15)
    found = inputs[chosen]
    assert (found == 3).mean() == pytest.approx(0.8, abs=0.01)
    assert (found == ids[chosen]).mean() == pytest.approx(0.1 + 0.1 / 1000, abs=0.01)
    where = np.nonzero(chosen)[1]  # every place of a row is as likely
    assert np.bincount(where, minlength=500).std() < 1.2 * np.sqrt(400 * 0.15 * 0.85)
    others = found[(found != 3) & (found != ids[chosen])]
    assert len({*others.tolist()}) > 900


def test_the_gaps_of_a_window_depend_on_its_number_alone(text, tmp_path):
    """The batches of validation may be of any size, and the run may be at any step."""
    task = start(config_of(text, tmp_path / "run")).task

    def windows(batch_size):
        batches = [*task.validation_batches(batch_size, 8)]
        return [(row, gaps) for batch in batches for row, gaps in zip(*batch[:2], strict=True)]

    one, many = windows(1), windows(7)
    assert len(one) == len(many) == -(-len(task.splits[1]) // 8)
    for (a, b), (c, d) in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    read = np.concatenate([np.where(gaps == IGNORED, row, gaps) for row, gaps in one])
    np.testing.assert_array_equal(read, task.splits[1])
    model = start(config_of(text, tmp_path / "another")).model
    loss = mean_loss(model, task.validation_batches(3, 8))
    assert loss == pytest.approx(task.whole_loss(model), rel=1e-6)


# ---- runs


def test_a_run_is_resumed_bit_for_bit(text, tmp_path):
    whole = start(config_of(text, tmp_path / "whole"))
    train(whole, Quiet(whole))
    run = start(config_of(text, tmp_path / "run"))
    assert run.config.model_type == "bert"
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    run = resume(run.folder, {})
    assert run.progress.step == 6 and type(run.task) is MaskedTokens
    train(run, Quiet(run))
    same_runs(run.folder, whole.folder)
    model = load_model(run.folder)
    assert type(model) is Bert and model.config.architecture == "BertForMaskedLM"
    assert model.config.pad_token_id is None  # the tokenizer of characters has no padding
    loss = lines(run.folder)[-1]["val_loss"]
    assert run.task.whole_loss(model) == pytest.approx(loss, rel=1e-6)
    last = evaluate_run(run.folder, {}).whole_val_loss
    assert last == run.task.whole_loss(run.model) == evaluate_run(whole.folder, {}).whole_val_loss


def test_it_learns(text, tmp_path):
    """A letter follows from its neighbours; a guess has a loss of log(8) = 2.08."""
    (tmp_path / "text.txt").write_text("abcdefgh" * 400)
    run = start(config_of(text, tmp_path / "run", max_iters=300, n_layer=1, n_embd=32,
                          block_size=16, batch_size=32, gradient_accumulation_steps=1,
                          learning_rate=3e-3, dropout=0.0, warmup_iters=30))  # fmt: skip
    for _ in range(300):
        run.update()
    assert run.task.whole_loss(run.model) < 1.2
    assert run.task.metrics(run.model, 0)["accuracy"] > 0.5


def test_samples_and_texts(text, tmp_path):
    run = start(config_of(text, tmp_path / "run", sample_tokens=6))
    gaps, filled = run.task.sample(run.model).split("\n")
    assert gaps.count("_") == 1 and len(gaps) == len(filled) == 6 and "[MASK]" not in filled
    n = gaps.index("_")
    assert filled[:n] + filled[n + 1 :] == gaps.replace("_", "")
    batch = run.task.batches(0)[0]
    assert len(run.task.texts(batch)) == 4
    assert run.task.prompt().count("[MASK]") == 1


def test_windows_of_wordpiece_have_their_ends(text, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    save_tokenizer(wordpiece(), folder)
    run = start(config_of(text, tmp_path / "run", tokenizer=str(folder)))
    assert run.model.config.pad_token_id == 0
    for batch in run.task.batches(0):
        assert batch.inputs.shape == (4, 8)
        assert (batch.inputs[:, 0] == 2).all() and (batch.inputs[:, -1] == 3).all()
        assert (batch.targets[:, [0, -1]] == IGNORED).all()
    train(run, Quiet(run))
    again = resume(run.folder, {})
    assert again.tokenizer.kind == "wordpiece" and again.task.n_text == 6
    gaps, filled = again.task.final_sample(again.model).split("\n")
    assert "_" in gaps and "[CLS]" not in filled
    assert again.task.prompt() == "the quick [MASK] fox"


def test_documents_are_kept_apart(tmp_path):
    for n in range(9):
        (tmp_path / f"{n}.txt").write_text("abcdefg"[: 3 + n % 4] * 9)
    run = start(config_of(str(tmp_path / "*.txt"), tmp_path / "run", documents=True, separate=True))
    batch = run.task.batches(0)[0]
    assert batch.attention_mask.shape == (4, 8, 8)
    assert not (batch.targets == run.task.end).any()
    train(run, Quiet(run))
    assert not (run.folder / "generation_config.json").exists()


def test_why_and_the_stepper(text, tmp_path, capsys):
    run = start(config_of(text, tmp_path / "run"))
    train(run, Quiet(run))
    name = "transformer.h.0.self_attn.q_proj.weight"
    assert npgpt("why", "--run", run.folder, "--param", f"{name}[1,2]") == 0
    assert "moved it most" in capsys.readouterr().out
    commands = tmp_path / "commands"
    commands.write_text("quit\n")
    assert npgpt("step", "--run", run.folder, "--at", 3, "--commands", commands) == 0
    assert npgpt("step", "--model", run.folder, "--text", "the dog", "--commands", commands) == 0
    assert npgpt("step", "--model", run.folder, "--text", "the dog", "--source",
                 tmp_path / "script.py") == 0  # fmt: skip
    assert npgpt("profile", "--task", "masked", "--data", text, "--steps", 1, "--n_embd", 16,
                 "--n_head", 2, "--n_layer", 1) == 0  # fmt: skip
    capsys.readouterr()
    assert npgpt("step", "--model", run.folder, "--text", "the quick" * 9) == 2
    assert "81 tokens, and the model reads 8" in capsys.readouterr().err
    assert npgpt("step", "--model", run.folder) == 2
    assert "no token that could be masked" in capsys.readouterr().err


def test_a_step_that_is_replayed(text, tmp_path):
    """The loss and the gradient are those of the run, and sequences add up to the gradient."""
    run = start(config_of(text, tmp_path / "run"))
    losses = [run.update()[0] for _ in range(3)]
    run.save_state(run.files.checkpoint(3))
    run.files.unlock()
    loss = run.backward()
    name, index = "transformer.h.0.self_attn.q_proj.weight", (1, 2)
    gradient = run.optimizer.parameters[name].grad.numpy()
    replay = Replay(run.folder, 0, 3)
    assert [replay.run.update()[0] for _ in range(3)] == losses
    assert replay.run.backward() == loss
    np.testing.assert_array_equal(replay.run.optimizer.parameters[name].grad.numpy(), gradient)
    parts = by_sequence(replay.run, name, index)
    assert sum(parts) == pytest.approx(gradient[index], rel=1e-3, abs=1e-9)


def test_the_commands(text, tmp_path, capsys):
    run = tmp_path / "run"
    assert npgpt("train", "--task", "masked", "--data", text, "--max_iters", 4,
                 "--eval_interval", 2, "--eval_iters", 1, "--n_layer", 1, "--n_embd", 16,
                 "--block_size", 16, "--out_dir", run) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "accuracy 0." in out and f"npgpt fill --model {run} 'the quick[MASK]brown fox" in out
    assert npgpt("fill", "--model", run, "th[MASK] [MASK]ox", "[MASK]", "--top", 2) == 0
    rows = capsys.readouterr().out.split("\n")
    assert len(rows) == 9 and rows[0].endswith(" [MASK]ox") and rows[2] == rows[5] == ""
    assert npgpt("fill", "--model", run, "th[MASK] [MASK]ox", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first[0].keys() == {"score", "token", "token_str", "sequence"}
    assert len(first) == len(second) == 5 and first[0]["sequence"].startswith("th")
    assert npgpt("embed", "--model", run, "the fox", "the dog") == 0
    assert npgpt("generate", "--model", run, "--prompt", "the") == 2
    assert npgpt("export", run, tmp_path / "exported") == 0
    config = json.loads((tmp_path / "exported/config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]


def test_it_begins_with_a_model(text, tmp_path):
    base = start(config_of(text, tmp_path / "base"))
    train(base, Quiet(base))
    run = start(TrainConfig(data=(text,), out_dir=str(tmp_path / "run"), max_iters=2, batch_size=2,
                            task="masked", init_from=str(base.folder)))  # fmt: skip
    assert run.config.model_type == "bert" and run.config.n_embd == 16
    for (name, a), b in zip(
        run.model.named_parameters(), load_model(base.folder).parameters(), strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), name)


def test_wrong_runs_end_in_one_line(text, tmp_path):
    characters = CharTokenizer.from_text(TEXT)
    write_tokens(tmp_path / "plain.bin", TEXT, characters, ["text"])
    headless = Bert(BertConfig(vocab_size=257, n_positions=8, n_embd=8, n_layer=1, n_head=2,
                               architecture="BertModel"))  # fmt: skip
    plain = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    for name, model in (("headless", headless), ("plain", plain)):
        model.save_pretrained(tmp_path / name)
        save_tokenizer(ByteTokenizer(["[MASK]"] if model is headless else ()), tmp_path / name)
    (tmp_path / "tokenizer").mkdir()
    save_tokenizer(wordpiece(), tmp_path / "tokenizer")
    cases = [
        (dict(data=(str(tmp_path / "plain.bin"),)), r"no special token \[MASK\]"),
        (dict(init_from=str(tmp_path / "plain")), "the model_type is gpt, and --task masked"),
        (dict(model_type="llama"), "the model_type is llama, and --task masked trains bert"),
        (dict(task="language_modelling", model_type="bert"), "learns by --task masked"),
        (dict(tokenizer=str(tmp_path / "tokenizer"), block_size=2), "2 tokens around a text"),
        (dict(block_size=200), "too few for a context of 200"),
        (dict(norm_position="post"), "norm_position is post"),
        (dict(window_size=3), "no window_size"),
        (dict(bias=True), "bias is True"),
    ]
    for changes, said in cases:
        with pytest.raises(UserError, match=said) as error:
            start(config_of(text, tmp_path / "run", **changes))
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="a BertModel, which has no head"):
        start(TrainConfig(data=(text,), task="masked", init_from=str(tmp_path / "headless"),
                          out_dir=str(tmp_path / "run")))  # fmt: skip


# ---- filling gaps


def test_gaps_are_filled_with_the_most_probable_tokens():
    tokenizer = wordpiece()
    config = BertConfig(vocab_size=15, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = Bert(config, dtype=np.float64)  # in training mode: dropout is off while it fills
    found = fill_gaps(model, tokenizer, "The [MASK] fox [MASK].", top=20)
    assert found == fill_gaps(model, tokenizer, "The [MASK] fox [MASK].", top=20)
    assert [len(gap) for gap in found] == [15, 15]
    for gap in found:
        assert sum(guess.score for guess in gap) == pytest.approx(1)
        assert sorted(gap, key=lambda guess: -guess.score) == gap
    guess = next(guess for guess in found[1] if guess.token_str == "##s")
    assert guess.sequence == "the [MASK] foxs." and tokenizer.tokens[guess.token] == b"##s"
    np.testing.assert_array_equal(ordinary_tokens(tokenizer), np.arange(5, 15))


def test_what_cannot_be_filled():
    tokenizer = wordpiece()
    options = dict(vocab_size=15, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = Bert(BertConfig(**options))
    cases = [
        (GPT(GPTConfig(**options)), tokenizer, "[MASK]", "reads from left to right"),
        (Bert(BertConfig(**options, architecture="BertModel")), tokenizer, "[MASK]", "no head"),
        (model, ByteTokenizer(), "[MASK]", r"no special token \[MASK\]"),
        (model, tokenizer, "the fox", "no gap"),
        (model, tokenizer, "[MASK]" * 7, "9 tokens, and the model reads 8"),
    ]
    for *args, said in cases:
        with pytest.raises(UserError, match=said) as error:
            fill_gaps(*args)
        assert "\n" not in str(error.value)

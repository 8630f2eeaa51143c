"""Training on pairs: reading them, the split, batches, resuming, and the commands."""

import json
import re

import numpy as np
import pytest
from helpers import Quiet, lines, npgpt, same_runs
from safetensors.numpy import load_file

import autograd
from npgpt import GPT, GPTConfig, UserError, generate, load_model, load_tokenizer
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from npgpt.tokenizers import ByteTokenizer, CharTokenizer, save_tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import IGNORED, Tokens, encode_text, n_predicted
from npgpt.training.follow import by_sequence
from npgpt.training.interrupt import Interrupted
from npgpt.training.pairs import Pairs, read_pairs
from npgpt.training.replay import Replay
from npgpt.training.run import resume, start, train
from npgpt.translation import translate

WORDS = "one two three four five six seven eight nine ten".split()
PAIRS = [(f"{a} {b}", f"{b}, {a}.") for a in WORDS for b in WORDS]
SMALL = dict(
    task="pairs", model_type="encoder-decoder", n_layer=1, n_head=2, n_embd=16, block_size=16,
    batch_size=4, max_iters=12, eval_interval=4, eval_iters=2, log_interval=2, warmup_iters=2,
    dropout=0.1, label_smoothing=0.1, gradient_accumulation_steps=2, lr_schedule="inverse_sqrt",
)  # fmt: skip


def write_pairs(path, pairs):
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write_pairs(tmp_path / "pairs.tsv", PAIRS)


def config(file, folder, **changes):
    return TrainConfig(**{**SMALL, "data": (file,), "out_dir": str(folder), **changes})


def run_to_the_end(*args, **changes):
    run = start(config(*args, **changes))
    train(run, Quiet(run))
    return run


def task_of(pairs, validation=None, **changes):
    tokenizer = ByteTokenizer(["<|endoftext|>"])
    texts = [pairs] if validation is None else [pairs, validation]
    data = {
        name: Tokens(encode_text([text for pair in each for text in pair], tokenizer), name, "")
        for name, each in zip(("tokens", "val_tokens"), texts, strict=False)
    }
    return Pairs(TrainConfig(**{**SMALL, "out_dir": "", **changes}), tokenizer, data)


def texts_of(task, rows):
    return [tuple(map(task.decode, task.pair(n))) for n in rows]


# ---- reading


def test_pairs_are_read_and_further_columns_left_out(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes("\ufeffHi. \t 你好。\tCC-BY\r\n\r\nRun!\t跑！\n".encode())
    texts, names = read_pairs((str(path),))
    assert texts == ["Hi.", "你好。", "Run!", "跑！"]
    assert names == [str(path)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\tb\nno tab here\n", r"line 2: there is no tab in .no tab here."),
        (b"a\tb\n\nc\t \n", "line 3: the target is empty"),
        (b"\tb\n", "line 1: the source is empty"),
        (b"a\tb\nc\t\xff\n", r"not UTF-8 \(byte 6\) in line 2"),
        (b"", "is empty"),
        (b"a\tb\0\n", "binary file"),
    ],
)
def test_a_wrong_pairs_file_is_said_by_its_line(content, said, tmp_path, capsys):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    out = tmp_path / "run"
    assert npgpt("train", "--pairs", path, "--out_dir", out) == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1
    with pytest.raises(UserError, match=said):
        read_pairs((str(path),))
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model_type", "gpt"], "model_type is gpt"),
        (["--block_size", "8"], r"has \d+ tokens, and the model reads 8 .*--block_size 14"),
        (["--documents"], "leave it out to train on pairs"),
        (["--data", "x"], "leave out --data"),
        (["--task", "pairs"], "leave out --task"),
        (["--bias"], "no such choice: leave bias out"),
    ],
)
def test_wrong_options_are_one_line(options, said, file, tmp_path, capsys):
    out = tmp_path / "run"
    assert npgpt("train", "--pairs", file, "--out_dir", out, *options) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
    assert not out.exists()


def test_an_encoder_decoder_needs_pairs(file, tmp_path, capsys):
    assert npgpt("train", "--pairs") == 2
    assert "names no file" in capsys.readouterr().err
    assert npgpt("train", "--data", file, "--model_type", "encoder-decoder") == 2
    assert "learns by --task pairs" in capsys.readouterr().err


def test_tokens_that_are_no_pairs_are_refused(tmp_path):
    for texts in (["a"], ["a", ""], ["a", "b", "c"]):
        tokenizer = ByteTokenizer(["<|endoftext|>"])
        data = {"tokens": Tokens(encode_text(texts, tokenizer), tmp_path / "tokens.bin", "")}
        with pytest.raises(UserError, match=r"tokens.bin holds no pairs"):
            Pairs(TrainConfig(**SMALL), tokenizer, data)
    with pytest.raises(UserError, match="no source is left to train on"):
        task_of([("a", "b"), ("a", "c")])


# ---- the split and the batches


def test_no_source_is_in_both_splits():
    pairs = [(source, f"{n}") for n in range(3) for source in "abcdefghijklmnopqrst"]
    task = task_of(pairs)
    sources = [{source for source, _ in texts_of(task, rows)} for rows in task.splits]
    assert not sources[0] & sources[1] and len(sources[1]) == 2
    assert sorted(texts_of(task, np.concatenate(task.splits))) == sorted(pairs)
    other = task_of(pairs, seed=2)
    assert {s for s, _ in texts_of(other, other.splits[1])} != sources[1]
    judged = task_of(pairs, [("a", "9"), ("b", "9")])
    assert sorted(texts_of(judged, judged.splits[1])) == [("a", "9"), ("b", "9")]
    assert {source for source, _ in texts_of(judged, judged.splits[0])} == set("cdefghijklmnopqrst")


def test_a_batch_holds_pairs_as_they_are():
    task = task_of(PAIRS)
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        batch = task.random_batch(0, generator)
        mask = np.ones(batch.inputs.shape, bool)
        if batch.attention_mask is not None:
            mask = batch.attention_mask
        assert mask.any(axis=0).all() and (batch.targets != IGNORED).any(axis=0).all()
        for source, shown, target in zip(batch.inputs, mask, batch.targets, strict=True):
            ids = target[target != IGNORED]
            assert ids[-1] == task.end and (source[~shown] == task.end).all()
            seen.add((task.decode(source[shown]), task.decode(ids[:-1])))
    assert seen == set(texts_of(task, task.splits[0]))


def test_batches_have_little_padding():
    task = task_of(PAIRS, batch_size=8)
    batches = [task.random_batch(0, np.random.default_rng(n)) for n in range(100)]
    used = sum(n_predicted(batch.targets) for batch in batches)
    assert used / sum(batch.targets.size for batch in batches) > 0.9


def test_an_evaluation_mixes_lengths():
    """So that estimates differ by the model, and not by the lengths that were drawn."""
    task = task_of(PAIRS, batch_size=16)
    spread = {
        name: np.std([n_predicted(draw(1, np.random.default_rng(n)).targets) for n in range(100)])
        for name, draw in (("mixed", task.evaluation_batch), ("sorted", task.random_batch))
    }
    assert spread["mixed"] < spread["sorted"] / 2


def test_pairs_are_equally_probable():
    task = task_of(PAIRS[:20])
    generator = np.random.default_rng(0)
    counts = dict.fromkeys(texts_of(task, task.splits[0]), 0)
    for _ in range(2000):
        for text in task.texts(task.random_batch(0, generator)):
            counts[tuple(text.split(" -> "))] += 1
    expected = 2000 * 4 / len(counts)
    assert all(abs(n - expected) < 6 * expected**0.5 for n in counts.values())


def test_the_whole_loss_is_over_every_target_token():
    task = task_of(PAIRS)
    model = EncoderDecoder(task.architecture(None), dtype=np.float64).eval()
    for parameter in model.parameters():
        parameter.data[...] = np.random.default_rng(parameter.size).normal(0, 0.3, parameter.shape)
    total = count = 0
    for n in task.splits[1]:
        source, target = task.pair(n)
        targets = np.append(target, task.end)[None]
        total += model(source[None], targets)[1].item() * targets.size
        count += targets.size
    assert task.whole_loss(model) == pytest.approx(total / count, rel=1e-12)


# ---- runs


def test_a_run(file, tmp_path):
    run = run_to_the_end(file, tmp_path / "run", max_iters=60, eval_interval=20)
    found = lines(run.folder)
    assert found[-1]["val_loss"] < found[0]["val_loss"]
    best = load_model(run.folder)
    assert found[-1]["val_loss"] == pytest.approx(run.task.whole_loss(best), rel=1e-6)
    assert best.config.eos_token_id == best.config.decoder_start_token_id == run.task.end
    tokens = json.loads((run.folder / "tokens.json").read_text())
    assert tokens["documents"] and tokens["n_tokens"] == run.task.n_tokens
    ids = generate(best, load_tokenizer(run.folder).encode("one two"))
    assert ids.shape[1] <= run.config.block_size + 1  # from generation_config.json


def test_a_resumed_run_is_the_run_without_a_break(file, tmp_path):
    whole = run_to_the_end(file, tmp_path / "whole").folder
    part = run_to_the_end(file, tmp_path / "part", max_iters=8).folder
    again = resume(part, {"max_iters": 12})
    train(again, Quiet(again))
    assert lines(whole)[-2]["val_loss"] == lines(part)[-2]["val_loss"]
    a, b = (load_file(folder / "state.safetensors") for folder in (whole, part))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_an_interrupted_run_is_the_run_without_a_break(file, tmp_path):
    whole = run_to_the_end(file, tmp_path / "whole").folder
    run = start(config(file, tmp_path / "part"))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    again = resume(tmp_path / "part", {})
    train(again, Quiet(again))
    same_runs(whole, tmp_path / "part")


def test_other_pairs_validate_and_token_files_are_read_again(file, tmp_path):
    other = write_pairs(tmp_path / "other.tsv", [("one two", "x"), ("ten ten", "y")])
    run = run_to_the_end(file, tmp_path / "a", val_data=(other,))
    assert texts_of(run.task, sorted(run.task.splits[1])) == [("one two", "x"), ("ten ten", "y")]
    again = run_to_the_end(
        str(tmp_path / "a" / "tokens.bin"), tmp_path / "b",
        val_data=(str(tmp_path / "a" / "val_tokens.bin"),),
    )  # fmt: skip
    assert lines(again.folder)[-1]["val_loss"] == lines(run.folder)[-1]["val_loss"]
    more = start(config(file, tmp_path / "c", init_from=str(run.folder), val_data=(other,)))
    np.testing.assert_array_equal(
        more.model.lm_head.weight.numpy(), load_model(run.folder).lm_head.weight.numpy()
    )


def test_a_replay_and_the_share_of_each_pair(file, tmp_path):
    run = run_to_the_end(file, tmp_path / "run")
    replay = Replay(run.folder, 5, 5)
    replay.seek(5)
    name, index = "transformer.decoder.layers.0.encoder_attn.q_proj.weight", (3, 4)
    parts = by_sequence(replay.run, name, index)
    replay.run.backward()
    whole = replay.run.optimizer.parameters[name].grad.numpy()[index]
    assert len(parts) == 8 and sum(parts) == pytest.approx(whole, rel=1e-3, abs=1e-7)


def test_the_commands(file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    sizes = ["--n_layer", 1, "--n_head", 2, "--n_embd", 16, "--block_size", 16]
    assert npgpt("train", "--pairs", file, "--out_dir", out, *sizes, "--max_iters", 3,
                 "--eval_interval", 2) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "npgpt translate --model" in shown and "target" in shown
    assert npgpt("info", out) == 0
    assert npgpt("profile", "--task", "pairs", "--data", file, "--model_type", "encoder-decoder",
                 *sizes, "--steps", 1) == 0  # fmt: skip
    assert "cross_entropy" in capsys.readouterr().out
    assert npgpt("why", "--run", out, "--param",
                 "transformer.encoder.layers.0.self_attn.q_proj.weight[0,0]") == 0  # fmt: skip
    assert " -> " in capsys.readouterr().out
    commands = tmp_path / "commands"
    commands.write_text("quit\n")
    assert npgpt("step", "--run", out, "--at", 1, "--commands", commands) == 0
    assert npgpt("step", "--model", out, "--text", "one two\ttwo", "--commands", commands) == 0
    capsys.readouterr()

    texts = tmp_path / "texts"
    texts.write_text("one two\n\nthree\n")
    assert npgpt("translate", "--model", out, texts) == 0
    plain = capsys.readouterr().out
    assert plain.count("\n") == 3 and plain.split("\n")[1] == ""
    assert npgpt("translate", "--model", out, "--beams", 2, "--json", texts) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model, tokenizer = load_model(out), load_tokenizer(out)
    expected = translate(model, tokenizer, ["one two", "three"], num_beams=2)
    assert [each["target"] for each in found] == [expected[0].target, "", expected[1].target]
    assert found[0]["source"] == "one two" and found[0]["ids"] == expected[0].ids
    assert found[2]["logprob"] == pytest.approx(expected[1].logprob, rel=1e-5)

    for content, said in (("a" * 17, "line 1: the source has 17 tokens, and the model reads at"),
                          ("one\nžž", "line 2: the tokenizer does not know 'ž'"),
                          ("", "nothing to translate")):  # fmt: skip
        texts.write_text(content.replace("a", "o"))
        assert npgpt("translate", "--model", out, texts) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert npgpt("translate", "--model", out, tmp_path / "none") == 2
    assert npgpt("export", out, tmp_path / "exported") == 2
    assert "train with --model_type marian" in capsys.readouterr().err


def test_a_gpt_does_not_translate(tmp_path, capsys):
    GPT(GPTConfig(vocab_size=3, n_positions=4, n_embd=4, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    save_tokenizer(CharTokenizer("abc"), tmp_path)
    text = tmp_path / "text"
    text.write_text("abc\n")
    assert npgpt("translate", "--model", tmp_path, text) == 2
    assert capsys.readouterr().err == (
        "npgpt: the model is a gpt2, and only an encoder-decoder translates; npgpt train --pairs "
        "FILE makes one\n"
    )


def test_an_encoder_decoder_does_not_chat(tmp_path, capsys):
    config = EncoderDecoderConfig(3, n_positions=4, n_embd=4, n_layer=1, n_head=1)
    EncoderDecoder(config).save_pretrained(tmp_path)
    save_tokenizer(CharTokenizer("abc"), tmp_path)
    assert npgpt("chat", "--model", tmp_path) == 2
    assert "which does not continue a text" in capsys.readouterr().err


def test_translations_do_not_depend_on_each_other():
    task = task_of(PAIRS)
    model = EncoderDecoder(task.architecture(None), seed=1)
    texts = [source for source, _ in PAIRS[:40]]
    together = translate(model, task.tokenizer, texts, num_beams=2)
    alone = [translate(model, task.tokenizer, [text], num_beams=2)[0] for text in texts[::7]]
    assert [each.target for each in together[::7]] == [each.target for each in alone]
    assert [each.source for each in together] == texts
    for each in together[::13]:
        source, target = task.tokenizer.encode(each.source), np.array(each.ids)
        with autograd.no_grad():
            logits = model.eval()(source[None], target[None])[0].numpy()[0].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        found = logs[np.arange(len(target)), target].sum()
        assert each.logprob == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("kernels", [True, False])
def test_gradients_with_kernels_and_without(kernels):
    task = task_of(PAIRS)
    model = EncoderDecoder(task.architecture(None), dtype=np.float64)
    batch = task.batches(0)[0]
    with autograd.use_kernels(kernels):
        loss = model.eval()(*batch)[1]
        losses = task.losses(model, batch).numpy()
    assert loss.item() == pytest.approx(losses.sum() / n_predicted(batch.targets), rel=1e-12)

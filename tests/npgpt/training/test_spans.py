"""Answers as spans: what is read and learned, the folders, and the commands that use them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, demand_unnoticed_interruption, lines, npgpt, train_config
from test_classification import bert_folder
from test_trainable import base_of

from npgpt import UserError, load_model
from npgpt.evaluation.spans import cut_windows, encode_words, find_answer, read_spans
from npgpt.tokenizers import load_tokenizer
from npgpt.training.follow import by_sequence
from npgpt.training.run import start

WORDS = "a film the plot of it dull fun ok".split()


def paragraph(n):
    """Return a context, and two questions: the answer is what follows the word of the question."""
    random = np.random.default_rng(n)
    context = list(random.permutation(WORDS))
    questions = []
    for word in random.choice(context[:-2], 2, replace=False):
        place = context.index(word) + 1
        text = " ".join(context[place : place + 2])
        start = len(" ".join([*context[:place], ""]))
        questions.append({"question": word, "answers": [{"text": text, "answer_start": start}]})
    return {"context": " ".join(context), "qas": questions}


def write(path, paragraphs):
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return str(path)


@pytest.fixture
def asked(tmp_path):
    return write(tmp_path / "asked.json", [paragraph(n) for n in range(30)])


def config_of(data, folder, base, **changes):
    keys = dict(task="spans", batch_size=6, sample_tokens=0, dropout=0.1, n_layer=2, stride=3)
    keys |= dict(n_embd=16, n_head=2, block_size=9, init_from=base, tokenizer="char")
    return train_config(data, folder, **keys | changes)


def test_windows_and_targets(asked, tmp_path):
    """Every answer is found again at its targets, and other windows point to the first token."""
    task = start(config_of(asked, tmp_path / "run", base_of("bert", tmp_path / "base"))).task
    batch = task.batch(np.arange(60))
    rows = iter(zip(batch.inputs, batch.targets, batch.attention_mask, strict=True))
    n_there = 0
    for n, each in enumerate(read_spans(asked)):
        seen = []
        for window in task.windows[n]:
            row, (first, last), mask = next(rows)
            assert task.decode(row[mask]) == task.decode(window.row) and mask.sum() <= 9
            context = each.context.split()[window.start : window.stop]
            assert task.decode(row[mask]) == " ".join([each.question, *context])
            seen += range(window.start, window.stop)
            if first:
                assert task.decode(row[first : last + 1]) == each.answers[0]
                n_there += 1
            else:
                assert last == 0 and each.answers[0] not in " ".join(context)
        assert set(seen) == set(range(9))
    assert n_there >= 60 and next(rows, None) is None


def test_questions_of_one_context_are_in_one_split(asked, tmp_path):
    base = base_of("bert", tmp_path / "base")
    run = start(config_of(asked, tmp_path / "run", base, epochs=2))
    train_part, valid = (set(part.tolist()) for part in run.task.splits)
    assert len(valid) == 6 and valid == {n ^ 1 for n in valid} and len(train_part) == 54
    assert run.config.max_iters == 2 * (54 // 12)  # an update has two batches
    other = start(config_of(asked, tmp_path / "two", base, val_data=(asked,))).task
    assert [len(part) for part in other.splits] == [60, 60]
    one = write(tmp_path / "one.json", [paragraph(1)])
    with pytest.raises(UserError, match="all questions are about one context"):
        start(config_of(one, tmp_path / "three", base))


def test_the_losses_of_windows_make_the_loss(asked, tmp_path):
    """`losses` has the mean of the objective, and by_sequence adds up to the gradient."""
    run = start(config_of(asked, tmp_path / "run", base_of("bert", tmp_path / "base"), dropout=0.0))
    batch = run.task.batch(np.arange(7))
    _, loss = run.task.objective(run.model)(*batch)
    losses = run.task.losses(run.model, batch)
    assert losses.shape == batch.targets.shape
    assert abs(losses.numpy().mean() - loss.item()) < 1e-6
    name, index = "span_head.weight", (3, 1)
    parts = by_sequence(run, name, index)
    run.backward()
    np.testing.assert_allclose(
        sum(parts), dict(run.model.named_parameters())[name].grad.numpy()[index], rtol=1e-4
    )


@pytest.mark.parametrize("choice", [dict(), dict(train_layers=0), dict(lora_r=2)])
def test_a_run_goes_on_as_if_it_were_not_interrupted(choice, asked, tmp_path):
    base = base_of("bert", tmp_path / "base")
    demand_unnoticed_interruption(lambda out: config_of(asked, out, base, **choice), tmp_path)


def test_an_answer_is_learned_and_found(asked, tmp_path, capsys):
    """From windows of a BERT that was trained for another task, to the text of the answer."""
    base = bert_folder(tmp_path / "base", "BertForMaskedLM", n_layer=2)
    args = ["--train", asked, "--valid", asked, "--model", base, "--out_dir", tmp_path / "run"]
    args += ["--max_iters", 500, "--eval_interval", 250, "--learning_rate", "1e-2", "--dropout", 0]
    args += ["--batch_size", 10, "--block_size", 24, "--seed", 3, "--beta2", "0.99"]
    assert npgpt("finetune", "spans", *args) == 0
    out = capsys.readouterr().out
    assert "60 questions train, 60 validate" in out and "npgpt answer --model" in out
    found = [line for line in lines(tmp_path / "run") if "exact_match" in line]
    assert found[0]["exact_match"] < 0.5 and found[-1]["exact_match"] > 0.9
    assert npgpt("eval", "spans", asked, "--model", tmp_path / "run", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert abs(result["metrics"]["exact match"]["value"] - found[-1]["exact_match"]) < 1e-6
    assert result["n"] == 60 and result["metrics"]["token F1 of the nearest sentence"]["value"] < 1

    each = read_spans(asked)[0]
    context = tmp_path / "context.txt"
    context.write_text(each.context.title())
    ask = ["answer", "--model", tmp_path / "run", "--context", context]
    assert npgpt(*ask, each.question.upper()) == 0
    assert capsys.readouterr().out.strip() == each.answers[0].title()
    assert npgpt(*ask, "--json", each.question) == 0
    answer = json.loads(capsys.readouterr().out)
    assert context.read_text()[answer["start"] : answer["end"]] == answer["answer"]
    assert 0.5 < answer["score"] <= 1
    assert npgpt("report", tmp_path / "run") == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(init_from="gpt"), "trains bert"),
        (dict(text_column="a"), "leave it out"),
        (dict(block_size=4), "a larger one"),
    ],
)
def test_wrong_keys_are_refused(changes, message, asked, tmp_path):
    bases = {kind: base_of(kind, tmp_path / kind) for kind in ("bert", "gpt")}
    base = bases[changes.pop("init_from", "bert")]
    with pytest.raises(UserError, match=message):
        start(config_of(asked, tmp_path / "run", base, **changes))
    assert not (tmp_path / "run").exists()


def test_stride_is_a_key_of_spans_alone(tmp_path):
    (tmp_path / "text.txt").write_text("some text " * 50)
    with pytest.raises(UserError, match="stride says something of examples"):
        start(train_config(str(tmp_path / "text.txt"), tmp_path / "run", stride=7))


def test_a_new_model_learns_with_a_new_tokenizer(asked, tmp_path):
    """Without BERT's tokens around texts: the end token separates the question from its context."""
    keys = dict(model_type="bert", block_size=40, stride=128)
    run = start(config_of(asked, tmp_path / "run", "scratch", **keys))
    batch = run.task.batch(np.arange(4))
    for row, (first, last), each in zip(
        batch.inputs, batch.targets, read_spans(asked), strict=False
    ):
        assert run.tokenizer.decode(row[first : last + 1]) == each.answers[0].replace(" ", "")
    assert np.isfinite(run.update()[0])


def test_an_answer_is_found_in_any_window(tmp_path):
    """With windows, the best span of all windows is found; the text is that of the context."""
    base = bert_folder(tmp_path / "base", "BertForQuestionAnswering")
    model, tokenizer = load_model(base), load_tokenizer(base)
    context = "The  plot of it, dull;\n" * 12
    found = find_answer(model, tokenizer, "a film?", context, stride=5, longest=3)
    assert found.answer == context[found.start : found.end] and found.answer.strip()
    assert len(encode_words(found.answer, tokenizer)[0]) <= 3
    windows = cut_windows(
        *(encode_words(t, tokenizer)[0] for t in ("a film?", context)), tokenizer, 24, 5
    )
    assert len(windows) > 3 and all(len(window.row) <= 24 for window in windows)
    with pytest.raises(UserError, match="no token"):
        find_answer(model, tokenizer, " ", context)


def test_the_example(tmp_path):
    """Stories are made and learned, from scratch and from a model; the facts are found in them."""
    script = [sys.executable, ROOT / "examples/answers.py", "--steps", "20"]
    for model in ("scratch", str(tmp_path / "first")):
        save = ["--save", tmp_path / ("first" if model == "scratch" else "second")]
        result = subprocess.run(
            [*script, "--model", model, *save], capture_output=True, text=True, check=True
        )
        assert result.stdout.count("?") == 10
        assert "of 180 held-out questions are answered right" in result.stdout
    result = subprocess.run([*script, "--model", tmp_path / "x"], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.count("\n") == 1

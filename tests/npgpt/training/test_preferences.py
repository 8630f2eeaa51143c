"""Preferences: how pairs of answers are read, what begins at zero, and the runs."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, Quiet, draw_model, lines, npgpt, same_runs, train_config

from npgpt import UserError, load_model
from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.training.conversations import read_conversations
from npgpt.training.data import END
from npgpt.training.interrupt import Interrupted
from npgpt.training.preferences import preferred
from npgpt.training.run import resume, start, train


def pair(n):
    """Return a row whose better answer has another word than the worse one."""
    colour = ("red", "blue", "green")[n % 3]
    size = " ".join(["very"] * (n % 4))
    return {
        "instruction": f"Describe {colour}.", "input": "" if n % 2 else "in short",
        "chosen": f"a {size} nice {colour}", "rejected": f"a {size} bad {colour}",
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([pair(n) for n in range(40)]))
    return str(path)


@pytest.fixture
def base(tmp_path):
    tokenizer = ByteTokenizer([END])
    model = draw_model(vocab_size=tokenizer.n_vocab, n_positions=96)
    model.save_pretrained(tmp_path / "base")
    save_tokenizer(tokenizer, tmp_path / "base")
    return str(tmp_path / "base")


def config_of(file, folder, base, **changes):
    keys = dict(
        task="preferences", init_from=base, n_embd=20, block_size=96, bias=True, sample_tokens=0,
        batch_size=6, dropout=0.0, learning_rate=3e-4,
    )  # fmt: skip
    return train_config(file, folder, **keys | changes)


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


# ---- what is in a file


def test_forms_of_pairs(tmp_path):
    asked = {"role": "user", "content": "Hi!"}
    better, worse = ({"role": "assistant", "content": each} for each in ("Hello.", "What?"))
    answers = {"chosen": "Hello.", "rejected": "What?"}
    path = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "Hi!", **answers},
        {"instruction": "Hi!", "output": "else", **answers},
        {"messages": [asked], **answers},
        {"conversations": [{"from": "human", "value": "Hi!"}], **answers},
        {"chosen": [asked, better], "rejected": [asked, worse]},
    )
    for found in read_conversations(path, has_rejected=True):
        assert found.messages == [asked, better] and found.rejected == "What?"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "line 1 has no field 'rejected'"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "line 1: the rejected is ''"),
        ({"prompt": "a", "chosen": "b", "rejected": []}, "line 1: the rejected is"),
        ({"text": "a", "chosen": "b", "rejected": "c"}, "name the prompts with --text_column"),
        ({"messages": 3, "chosen": "b", "rejected": "c"}, "the messages are 3"),
        ({"messages": [], "chosen": "b", "rejected": "c"}, "must not be an answer"),
        ({"prompt": "a", "chosen": "b ", "rejected": "b"}, "line 1: .* the same answer, 'b'"),
    ],
)
def test_a_wrong_row_is_named(row, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_conversations(write(tmp_path / "pairs.jsonl", row), has_rejected=True)


def test_answers_to_different_questions_are_refused(tmp_path):
    turns = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": "x"}]
        for asked in "ab"
    ]
    path = write(tmp_path / "pairs.jsonl", {"chosen": turns[0], "rejected": turns[1]})
    with pytest.raises(UserError, match="line 1: chosen and rejected differ before"):
        read_conversations(path, has_rejected=True)


# ---- what is learned


def test_margins_begin_at_zero_and_ties_count_one_half(file, base, tmp_path):
    run = start(config_of(file, tmp_path / "run", base, lora_r=2))
    assert np.all(run.task.margins(run.model) == 0)
    assert run.task.metrics(run.model, 0) == {"accuracy": 0.5, "margin": 0.0}
    np.testing.assert_allclose(run.backward(), np.log(2), rtol=1e-5)
    assert preferred(np.array([1.0, -2.0, -0.5, 3.0, 0.0])) == 0.5
    assert preferred(np.array([1.0, 0.0])) == 0.75


def test_the_reference_is_the_sum_over_the_answer(file, base, tmp_path):
    run = start(config_of(file, tmp_path / "run", base))
    model = load_model(base, dtype=np.float64)
    for n in (0, 7, 23):
        for side in (0, 1):
            ids, is_answer = run.task.rows[2 * n + side]
            logits = model(ids[None, :-1])[0].numpy()[0]
            log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            places = np.flatnonzero(is_answer)
            total = log_p[places - 1, ids[places]].sum()
            np.testing.assert_allclose(run.task.reference[n, side], total, rtol=1e-4)
            expected = pair(n)[("chosen", "rejected")[side]]
            assert run.task.decode(ids[is_answer]).strip() == expected


def test_a_pair_that_lacks_an_answer_is_left_out_whole(file, base, tmp_path):
    task = start(config_of(file, tmp_path / "run", base, block_size=40)).task
    assert 0 < task.n_left_out < 40
    assert len(task.rows) == 2 * len(task.lengths) == 80 - 2 * task.n_left_out
    for n in range(len(task.lengths)):
        a, b = (task.rows[2 * n + side].prompt for side in (0, 1))
        assert a.tolist() == b.tolist()


# ---- runs


def test_a_run_that_is_interrupted_goes_on_as_if_it_were_not(file, base, tmp_path):
    """The log-probabilities of the reference model are not computed again."""
    whole = start(config_of(file, tmp_path / "whole", base))
    train(whole, Quiet(whole))
    run = start(config_of(file, tmp_path / "run", base))
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    again = resume(tmp_path / "run", {})
    assert np.array_equal(again.task.reference, run.task.reference) and run.task.reference.all()
    train(again, Quiet(again))
    same_runs(tmp_path / "whole", tmp_path / "run")


def test_what_is_better_is_learned(file, base, tmp_path, capsys):
    args = ["--train", file, "--model", base, "--out_dir", tmp_path / "run", "--template", "plain"]
    rate = ["--epochs", 8, "--learning_rate", 3e-3, "--lora_r", 4, "--batch_size", 6]
    assert npgpt("finetune", "preferences", *args, *rate) == 0
    out = capsys.readouterr().out
    assert "of 4 pairs that were not trained on, the better answer has gained more in 1.000" in out
    found = [line for line in lines(tmp_path / "run") if "accuracy" in line]
    assert found[0]["accuracy"] == 0.5 and found[-1]["accuracy"] == 1.0
    assert found[0]["margin"] == 0.0 and found[-1]["margin"] > 0.1


def test_clumsy_commands(file, base, tmp_path, capsys):
    out = ["--out_dir", tmp_path / "run", "--train", file]
    assert npgpt("finetune", "preferences", *out) == 2
    assert "name it with --model" in capsys.readouterr().err
    for args, message in [
        (["--dpo_beta", 0], "dpo_beta is 0"),
        (["--pack", "true"], "pack says something of examples"),
        (["--label_column", "x"], "label_column says something of examples"),
    ]:
        assert npgpt("finetune", "preferences", "--model", base, *out, *args) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_example(file, base, tmp_path):
    """The margins that it draws are those of the validation pairs of the run that it saves."""
    script = [sys.executable, ROOT / "examples/preferences.py", "--model", base, "--steps", "8"]
    args = ["--data", file, "--pairs", "12", "--save", tmp_path / "run"]
    result = subprocess.run([*script, *args], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout.splitlines()[-1])
    last = [line for line in lines(tmp_path / "run") if "accuracy" in line][-1]
    assert found["accuracy"] == round(last["accuracy"], 4)
    assert found["margin"] == pytest.approx(last["margin"], abs=1e-4)
    drawn = [line for line in result.stdout.splitlines() if "│" in line]
    margins = [float(line.split()[0]) for line in drawn]
    assert len(drawn) == 10 and margins[:5] == sorted(margins[:5], reverse=True)
    answers = {" ".join(pair(n)["chosen"].split()): n for n in range(28, 40)}
    for line in drawn:
        assert any(f" {answer} " in line for answer in answers)
    missing = subprocess.run([*script, "--data", "missing.json"], capture_output=True, text=True)
    assert missing.returncode == 1 and "missing.json does not exist" in missing.stderr

"""npgpt eval: the numbers are those of the functions, and clumsy input is refused in one line."""

import builtins
import json
import os
from threading import Thread

import numpy as np
import pytest
from helpers import draw_model, npgpt

from npgpt import load_model, load_tokenizer
from npgpt.evaluation.choices import Scorer
from npgpt.evaluation.few_shot import FewShot, classify
from npgpt.evaluation.labels import label_probabilities
from npgpt.evaluation.metrics import Estimate, calibration, macro_f1
from npgpt.evaluation.questions import Item, answer_questions, read_questions
from npgpt.evaluation.result import Result, Table
from npgpt.evaluation.texts import text_loss
from npgpt.models.bert import Bert, BertConfig
from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.training.data import END

EXAMPLES = [("one", "yes"), ("two", "no"), ("three", "yes"), ("a | b", "yes")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model that continues texts, and files of examples."""
    monkeypatch.chdir(tmp_path)
    draw_model(vocab_size=257, n_positions=160).save_pretrained("gpt")
    save_tokenizer(ByteTokenizer(["<|end|>"]), tmp_path / "gpt")
    rows = "".join(f"{text}\t{label}\n" for text, label in EXAMPLES)
    (tmp_path / "examples.tsv").write_text(rows)
    (tmp_path / "text.txt").write_text("To be, or not to be: that is the question.\n" * 6)
    return tmp_path


def evaluate(capsys, *args):
    """Return what a command of npgpt eval prints as JSON."""
    assert npgpt("eval", *args, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert Result.from_dict(values).to_dict() == values
    assert all(len(sha256) == 64 for sha256 in values["data"].values())
    return Result.from_dict(values)


def test_language_modelling(here, capsys):
    args = ["language_modelling", "text.txt", "--model", "gpt", "--length", 32, "--stride", 8]
    found = evaluate(capsys, *args, "--characters", 100, "--baseline", "text.txt")
    model, tokenizer = load_model(here / "gpt"), load_tokenizer(here / "gpt")
    text = (here / "text.txt").read_text()[:100]
    assert found.metrics == text_loss(model, tokenizer, text, 32, 8).metrics()
    assert found.n == 99 and found.settings["stride"] == 8
    assert [row[0] for row in found.tables["baseline"].rows] == [*found.metrics]
    assert evaluate(capsys, *args[:4]).settings["stride"] == 80  # half of the context
    assert npgpt("eval", *args) == 0
    assert "| perplexity " in capsys.readouterr().out


def test_classification_by_likelihood(here, capsys):
    args = ["classification", "examples.tsv", "--model", "gpt", "--labels", "yes=good,no=bad"]
    found = evaluate(capsys, *args, "--bins", 4)
    scorer = Scorer(load_model(here / "gpt"), load_tokenizer(here / "gpt"))
    texts, names = zip(*EXAMPLES, strict=True)
    probabilities = classify(scorer, FewShot(), texts, ["good", "bad"])
    targets = np.array([["yes", "no"].index(name) for name in names])
    guessed = probabilities.argmax(axis=1)
    assert found.metrics["accuracy"].value == np.mean(guessed == targets)
    assert found.metrics["macro F1"].value == pytest.approx(macro_f1(targets, guessed, 2))
    error = calibration(targets, probabilities, 4).error
    assert found.metrics["calibration error"].value == pytest.approx(error, rel=1e-5)
    assert found.metrics["accuracy of the commonest label"].value == 0.75
    confusion = next(table for name, table in found.tables.items() if name.startswith("conf"))
    cells = np.array([row[1:] for row in confusion.rows], int)
    assert cells.sum() == 4 and cells.trace() == 4 * found.metrics["accuracy"].value
    assert evaluate(capsys, *args, "--n", 2).n == 2


def test_classification_by_a_head(here, capsys):
    config = BertConfig(
        vocab_size=257, n_positions=8, n_embd=12, n_layer=1, n_head=3, num_labels=2,
        architecture="BertForSequenceClassification", labels=("no", "yes"),
    )  # fmt: skip
    model = Bert(config).eval()
    model.save_pretrained("bert")
    tokenizer = ByteTokenizer([END])
    save_tokenizer(tokenizer, here / "bert")
    found = evaluate(capsys, "classification", "examples.tsv", "--model", "bert")
    assert [row[:2] for row in found.tables["labels"].rows] == [["no", "1"], ["yes", "3"]]
    pairs = [("a  b", "c", "yes"), ("d", "e f", "no"), ("g", "h", "yes")]
    (here / "pairs.csv").write_text("".join(f"{a},{b},{label}\n" for a, b, label in pairs))
    names = ["--text_column", 1, "--text_pair_column", 2, "--label_column", 3]
    found = evaluate(capsys, "classification", "pairs.csv", "--model", "bert", *names)
    first, second, labels = zip(*pairs, strict=True)
    known = label_probabilities(load_model("bert"), tokenizer, first, second).argmax(axis=1)
    expected = np.mean([["no", "yes"][i] == label for i, label in zip(known, labels, strict=True)])
    assert found.metrics["accuracy"].value == expected and found.n == 3
    args = ["classification", "pairs.csv", "--model", "bert", "--text_pair_column", 2]
    assert npgpt("eval", *args) == 2
    assert "name text_column and label_column, too" in capsys.readouterr().err
    assert npgpt("eval", "classification", "pairs.csv", "--model", "gpt", *names) == 2
    assert "no classification head, which pairs" in capsys.readouterr().err
    (here / "more.tsv").write_text("one\tmaybe\n")
    assert npgpt("eval", "classification", "more.tsv", "--model", "bert") == 2
    assert "more.tsv, line 1: the label is 'maybe'" in capsys.readouterr().err


def test_generation_by_a_model_and_by_a_file(here, capsys):
    args = ["generation", "examples.tsv", "--model", "gpt", "--max_new_tokens", 3]
    assert evaluate(capsys, *args, "--n", 2).n == 2
    (here / "written.txt").write_text("Yes\nno, never\n\nyes\n")
    found = evaluate(capsys, "generation", "examples.tsv", "--written", "written.txt")
    assert found.metrics["exact match"].value == 0.5
    assert found.metrics["token F1"].value == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)
    assert found.tables["the first texts"].rows[1] == ["two", "no, never", "no"]


def test_generation_without_sacrebleu(here, monkeypatch, capsys):
    """All other numbers are there."""
    real = builtins.__import__

    def refuse(name, *args):
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    (here / "written.txt").write_text("yes\n" * 3)
    (here / "several.tsv").write_text("a\tyes\nb\tno\na\toh yes\nc\tyes\n")  # a has two answers
    assert npgpt("eval", "generation", "several.tsv", "--written", "written.txt", "--json") == 0
    out, err = capsys.readouterr()
    assert "pip install 'npgpt[eval]'" in err
    metrics = json.loads(out)["metrics"]
    assert metrics["exact match"]["value"] == pytest.approx(2 / 3) and "chrF" not in metrics


def test_similarity_of_a_real_model(minilm, shared, capsys):
    """The two numbers that sentence-transformers gives for this model and this file."""
    path = shared / "tasks/stsb/stsb-en-dev.csv"
    found = evaluate(capsys, "similarity", path, "--model", minilm)
    assert found.n == 1500
    assert round(found.metrics["Pearson"].value, 4) == 0.8696
    assert round(found.metrics["Spearman"].value, 4) == 0.8672


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_read_once(here, capsys):
    """Its content is gone when the result is written, so the result has no hash of it."""
    os.mkfifo("q.jsonl")
    line = json.dumps({"choices": ["good", "bad"], "answer": 0})
    Thread(target=(here / "q.jsonl").write_text, args=[line], daemon=True).start()
    assert npgpt("eval", "choices", "q.jsonl", "--model", "gpt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 1 and found["data"] == {"q.jsonl": ""}


def test_choices(here, capsys):
    """One question in which the sum and the mean over characters disagree."""
    model, tokenizer = load_model(here / "gpt"), load_tokenizer(here / "gpt")
    scorer = Scorer(model, tokenizer)
    items = [
        Item("Q: a?\nA:", ["bb", "c", "dd ee"], 1, "first"),
        Item("Q: a?\nA:", ["bb", "a long answer"], 1, "second"),
        Item("", ["good sentence", "bad sentence!"], 0, "second"),
    ]
    lines = [item._asdict() for item in items[:2]]
    lines.append({"sentence_good": "good sentence", "sentence_bad": "bad sentence!",
                  "group": "second", "UID": 7})  # fmt: skip
    (here / "q.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert read_questions("q.jsonl") == items
    found = evaluate(capsys, "choices", "q.jsonl", "--model", "gpt")
    expected, normalized = [], []
    for item in items:
        own = [" " + c if item.prompt else c for c in item.choices]
        (scores,) = scorer.score([item.prompt], own)
        expected.append(scores.argmax() == item.answer)
        shares = scores / [len(choice) for choice in item.choices]
        normalized.append(shares.argmax() == item.answer)
    assert expected[1] != normalized[1]
    assert found.metrics["accuracy"].value == np.mean(expected)
    assert found.metrics["accuracy, normalized"].value == np.mean(normalized)
    assert found.metrics["accuracy of chance"].value == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert [row[:2] for row in found.tables["groups"].rows] == [["first", "1"], ["second", "2"]]
    margins = answer_questions(scorer, items).margins
    assert [margin > 0 for margin in margins] == expected
    (here / "pairs.tsv").write_text("good sentence\tbad sentence!\n")
    assert evaluate(capsys, "choices", "pairs.tsv", "--model", "gpt").n == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["language_modelling"], "there is no text"),
        (["language_modelling", "empty.txt", "--model", "gpt"], "0 tokens; at least two"),
        (["language_modelling", "text.txt", "--model", "gpt", "--stride", 200], "from 1 to the l"),
        (["language_modelling", "absent.txt", "--model", "gpt"], "absent.txt"),
        (["classification"], "there are no examples"),
        (["classification", "examples.tsv", "--model", "gpt"], "say which labels"),
        (["classification", "examples.tsv", "--model", "gpt", "--labels", "a,b"], "line 1: the l"),
        (["similarity"], "there are no pairs"),
        (["similarity", "scores.tsv"], "scores.tsv, line 2: the score is 'high'"),
        (["similarity", "nan.tsv"], "nan.tsv, line 1: the score is 'nan'"),
        (["similarity", "scores.tsv", "--columns", "1", "2"], "name three"),
        (["generation"], "there are no references"),
        (["generation", "examples.tsv", "--written", "text.txt"], "has 6 lines, and there are 4"),
        (["choices"], "there are no questions"),
        (["choices", "empty.jsonl"], "empty.jsonl has no question"),
        (["choices", "one.jsonl"], "line 1 has 1 choices"),
        (["choices", "answer.jsonl"], "line 1: the answer is 2; there are choices 0 to 1"),
        (["choices", "list.jsonl"], "list.jsonl, line 1"),
        (["perplexity"], "unknown command 'perplexity' of npgpt eval"),
    ],
)
def test_clumsy_input(args, says, here, capsys):
    for name, content in {
        "empty.txt": "",
        "empty.jsonl": "\n",
        "scores.tsv": "a\tb\t1\nc\td\thigh\n",
        "nan.tsv": "a\tb\tnan\n",
        "one.jsonl": '{"choices": ["a"], "answer": 0}\n',
        "answer.jsonl": '{"choices": ["a", "b"], "answer": 2}\n',
        "list.jsonl": '["a", "b"]\n',
    }.items():
        (here / name).write_text(content)
    assert npgpt("eval", *args) == 2
    out, err = capsys.readouterr()
    assert says in err and err.count("\n") == 1 and not out


def test_a_model_that_writes_nothing_is_refused(here, capsys):
    config = BertConfig(vocab_size=256, n_positions=8, n_embd=12, n_layer=1, n_head=3)
    Bert(config).save_pretrained("bert")
    save_tokenizer(ByteTokenizer(), here / "bert")
    for command, file in (("language_modelling", "text.txt"), ("generation", "examples.tsv")):
        assert npgpt("eval", command, file, "--model", "bert") == 2
        assert "does not continue a text; this needs one that does" in capsys.readouterr().err


def test_a_number_that_is_none_is_null():
    """JSON has no NaN, so the result is null there, and NaN again when it is read."""
    numbers = {"loss": Estimate(np.nan, -np.inf, 2.0)}
    values = Result("task", "model", {}, {}, 1, numbers).to_dict()
    text = json.dumps(values, allow_nan=False)
    assert json.loads(text)["metrics"]["loss"] == {"value": None, "low": None, "high": 2.0}
    found = Result.from_dict(json.loads(text)).metrics["loss"]
    assert np.isnan(found.value) and np.isnan(found.low) and found.high == 2.0


def test_no_questions_have_no_answers(here):
    scorer = Scorer(load_model(here / "gpt"), load_tokenizer(here / "gpt"))
    assert [found.shape for found in answer_questions(scorer, [])] == [(0,)] * 3


def test_a_cell_cannot_break_a_table():
    assert str(Table(["a"], [["x | y\nz"]])).splitlines()[2] == "| x \\| y z |"

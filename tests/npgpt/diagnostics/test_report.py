"""npgpt report: what it says stands in the run's files, for every task, and no text acts."""

import json
import re

import numpy as np
import pytest
from helpers import TEXT, Quiet, npgpt, train_config

from npgpt.evaluation.metrics import Estimate
from npgpt.evaluation.result import Result, Table
from npgpt.training.run import start, train

SECTIONS = ["Data", "Tokenizer", "Model", "Training", "Samples", "Cost"]


@pytest.fixture
def folder(tmp_path):
    """A run on a text, with the result of an evaluation that holds markup."""
    (tmp_path / "text.txt").write_text(TEXT)
    run = start(train_config(str(tmp_path / "text.txt"), tmp_path / "run"))
    train(run, Quiet(run))
    result = Result(
        "choices", "<script>", {"a.csv": "0" * 64}, {}, 3, {"accuracy": Estimate(0.5, 0.25, 0.75)},
        {"groups <b>": Table(["group", "n"], [["x | <i>", "3"]])},
    )  # fmt: skip
    (tmp_path / "run" / "evaluation_1.json").write_text(json.dumps(result.to_dict()))
    return tmp_path / "run"


def read_rows(text):
    """Return the cells of all tables, by the first cell of each row."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line[:1] == "|"]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_run(folder, capsys):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert npgpt("report", folder) == 0
    assert "report.html is written" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before  # nothing else is changed
    text = (folder / "report.md").read_text()
    assert re.findall("^## (.*)", text, re.M) == [*SECTIONS[:4], "Evaluation: choices",
                                                  *SECTIONS[4:]]  # fmt: skip
    rows = read_rows(text)
    assert rows["tokens"][:3] == ["text.txt", f"{len(TEXT):,}", f"{len(TEXT):,}"]
    assert rows["updates"] == ["12 of 12"]
    assert rows["tokens read"] == [f"{12 * 2 * 4 * 8:,}"]
    assert rows["accuracy"] == ["0.5", "0.25 to 0.75"]
    evaluations = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = min(
        line["val_loss"] for line in evaluations if "train_loss" in line and "lr" not in line
    )
    assert rows["best validation loss"][0].startswith(f"{best:.4f} at update")
    page = (folder / "report.html").read_text()
    assert page.count("<polyline") == 2 and "<script" not in page and "<i>" not in page
    assert "x | &lt;i&gt;" in page
    assert all(f"<h2>{name}</h2>" in page for name in SECTIONS)


@pytest.mark.parametrize("task", ["pairs", "masked", "classification", "images"])
def test_other_tasks(task, tmp_path, capsys):
    words = "abc bcd cab bad cad".split() * 4
    path = tmp_path / "data.tsv"
    path.write_text("".join(f"{word} {word}\t{word[0]}\n" for word in words))
    kinds = {"pairs": "encoder-decoder", "masked": "bert", "classification": "gpt"}
    keys = dict(task=task, model_type=kinds.get(task, "vision-gpt"), max_iters=2, eval_interval=1)
    if task == "images":
        path = tmp_path / "data.npz"
        np.savez(path, images=np.zeros((20, 4, 4), np.uint8), texts=words)
        keys |= dict(patch_size=2, block_size=16)
    run = start(train_config(str(path), tmp_path / "run", **keys))
    train(run, Quiet(run))
    assert npgpt("report", tmp_path / "run") == 0
    text = (tmp_path / "run" / "report.md").read_text()
    assert re.findall("^## (.*)", text, re.M) == SECTIONS
    assert read_rows(text)["task"] == [task]


def test_a_run_that_has_just_begun(tmp_path, capsys):
    """Without a model and without a loss."""
    (tmp_path / "text.txt").write_text(TEXT)
    start(train_config(str(tmp_path / "text.txt"), tmp_path / "run"))
    assert npgpt("report", tmp_path / "run") == 0
    text = (tmp_path / "run" / "report.md").read_text()
    start(train_config(str(tmp_path / "text.txt"), tmp_path / "run"), overwrite=True)
    assert not list((tmp_path / "run").glob("report.*"))  # that of the run which is no more
    assert "There is no model yet" in text and read_rows(text)["updates"] == ["0 of 12"]
    assert read_rows(text)["best validation loss"] == ["not evaluated yet"]


def test_clumsy_input(folder, tmp_path, monkeypatch, capsys):
    assert npgpt("report", tmp_path) == 2
    assert "holds no run" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert npgpt("report") == 2
    assert "no trained model under out" in capsys.readouterr().err
    result = {"task": "t", "model": "m", "data": {}, "settings": {}, "n": 1, "metrics": {}}
    tables = [{"columns": ["a"], "rows": rows} for rows in ([[1]], [["x", "y"]], [[]], 7)]
    damaged = [json.dumps(result | {"tables": {"t": table}}) for table in tables]
    for content in ('{"task": 1}', "[]", "{", *damaged):
        (folder / "evaluation_2.json").write_text(content)
        assert npgpt("report", folder) == 2
        err = capsys.readouterr().err
        assert "evaluation_2.json" in err and err.count("\n") == 1
    assert not (folder / "report.md").exists()


def test_several_runs(folder, tmp_path, capsys):
    """The tables in front compare the runs, name the run from which another begins, and add up."""
    keys = dict(init_from=str(folder), max_iters=3)
    run = start(train_config(str(tmp_path / "text.txt"), tmp_path / "tuned", **keys))
    train(run, Quiet(run))
    assert npgpt("report", folder, tmp_path / "tuned") == 0
    assert not (folder / "report.md").exists()
    text = (tmp_path / "tuned" / "report.md").read_text()
    titles = re.findall("^## (.*)", text, re.M)
    assert titles == [
        "Runs", *(f"run: {name}" for name in [*SECTIONS[:4], "Evaluation: choices", *SECTIONS[4:]]),
        *(f"tuned: {name}" for name in SECTIONS),
    ]  # fmt: skip
    runs, evaluations = text[: text.index("## run: Data")].split("\n\n")[2:4]
    rows = read_rows(runs)
    assert rows["run"][0] == "scratch" and rows["tuned"][0] == "run"
    each = 2 * 4 * 8
    assert [rows[name][5] for name in ("run", "tuned", "all")] == [
        f"{12 * each:,}", f"{3 * each:,}", f"{15 * each:,}",
    ]  # fmt: skip
    operations = [float(rows[name][6]) for name in ("run", "tuned", "all")]
    assert operations[0] + operations[1] == pytest.approx(operations[2], rel=0.01)
    assert "| run | choices: a.csv | accuracy | 0.5   | 0.25 to 0.75  |" in evaluations
    page = (tmp_path / "tuned" / "report.html").read_text()
    assert "<h2>tuned: Cost</h2>" in page and "The runs run, tuned" in page


def test_several_runs_by_name(folder, tmp_path, capsys):
    """The same run twice is refused; two folders of one name are told apart by their paths."""
    assert npgpt("report", folder, folder / ".." / "run") == 2
    assert "is given twice" in capsys.readouterr().err
    assert npgpt("report", folder, tmp_path / "none") == 2
    assert "none" in capsys.readouterr().err
    assert not (folder / "report.md").exists()
    other = tmp_path / "other" / "run"
    start(train_config(str(tmp_path / "text.txt"), other))
    assert npgpt("report", folder, other) == 0
    text = (other / "report.md").read_text()
    assert f"## {folder}: Data" in text and f"## {other}: Data" in text

"""The plan of a ladder, its folder, and the command, with models that train in a moment."""

import json
import re
from functools import partial

import numpy as np
import pytest
from helpers import cut, npgpt

import autograd
from npgpt import UserError
from npgpt.scaling import forecast
from npgpt.scaling.forecast import find_optimum, median_compute
from npgpt.scaling.ladder import Ladder, Rule, cost_of, plan, rung_at
from npgpt.scaling.laws import Law
from npgpt.training import run as training
from npgpt.training.run import resume

PRODUCTS = {"affine", "matmul", "attention"}
TINY = dict(
    budget=3e7, n_budgets=5, tokens_per_parameter=2.0, n_layer=1, n_head=1, block_size=8,
    batch_size=2, seed=3,
)  # fmt: skip


@pytest.fixture
def text(tmp_path):
    """A file of 60,000 characters of 5 kinds, some of which follow others."""
    generator = np.random.default_rng(0)
    steps = generator.choice(5, 60_000, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    (tmp_path / "text").write_text("".join("abcde"[i] for i in np.cumsum(steps) % 5))
    return tmp_path / "text"


@pytest.fixture
def words(text, tmp_path):
    """The words of a command that trains a tiny ladder."""
    options = [word for name, value in TINY.items() for word in (f"--{name}", value)]
    return ["scale", tmp_path / "ladder", "--data", text, *options]


# ---- the plan


def test_the_models_of_the_default_ladder():
    rule = Rule()
    rungs = plan(rule, 96)
    total = sum(rung.compute for rung in rungs)
    assert len(rungs) == 11 and 0.99 * rule.budget < total <= rule.budget
    budgets = sorted({round(rung.compute / rungs[0].compute, 1) for rung in rungs})
    assert budgets[0] == 1 and budgets[-1] == pytest.approx(16, rel=0.01)
    for rung in rungs:
        config = rung.config
        assert rung.n_tokens == config.max_iters * config.batch_size * config.block_size
        assert rung.n_tokens / rung.n_parameters == pytest.approx(
            rung.tokens_per_parameter, rel=0.25
        )
        assert 1 < rung.compute / (6 * rung.n_parameters * rung.n_tokens) < 1.5
        assert config.learning_rate * config.n_embd == pytest.approx(64 * rule.learning_rate)
        assert config.min_lr == pytest.approx(config.learning_rate / 10)
        assert config.warmup_iters == config.max_iters // 10 and config.lr_decay_iters is None
        assert config.read_once


def test_the_cost_is_what_the_ledger_counts(text, tmp_path):
    ladder = Ladder.make(tmp_path / "ladder", Rule(**TINY, data=(str(text),)))
    rung = ladder.rungs[3]
    run = ladder.open_run(rung, ladder.folder_of(rung))
    with autograd.Ledger() as ledger:
        run.update()
    flops = sum(row.flops for row in ledger.rows if row.name in PRODUCTS)
    assert flops * rung.config.max_iters == rung.compute
    assert sum(p.numpy().size for p in run.model.parameters()) == rung.n_parameters


def test_the_best_size_is_the_best_of_all():
    rule, law = Rule(), Law(0.9, {"N": 60.0, "D": 300.0}, {"N": 0.4, "D": 0.4})
    best = find_optimum(rule, 96, law, 1e11)
    found = {}
    for width in range(2, 100, 2):
        cost = cost_of(rule, 96, width)
        found[width] = float(law(N=cost.n_parameters, D=1e11 / cost.training_flops))
    assert best.width == min(found, key=found.get)
    assert best.loss == pytest.approx(min(found.values()), rel=1e-12)
    more = find_optimum(rule, 96, law, 1e13)
    assert more.n_parameters > best.n_parameters and more.n_tokens > best.n_tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_budgets": 4}, "the ladder is too small to fit: L.C. has 3 unknown numbers, and there"),
        ({"budget": 1e6}, "a budget of .* a model needs 20 or more|pay for .* updates"),
        ({"budget": 1e9, "tokens_per_parameter": 1e5}, "give a larger --budget"),
    ],
)
def test_ladders_that_cannot_be_planned(changes, message):
    with pytest.raises(UserError, match=message):
        plan(Rule(**changes), 96)


# ---- the command


def test_a_ladder_from_its_plan_to_the_comparison(words, tmp_path, capsys, monkeypatch):
    """Interrupted, continued, predicted, and then trained: as the page tells it."""
    folder = tmp_path / "ladder"
    calls = []

    def stop_at_the_third(run, display):
        calls.append(run.folder)
        if len(calls) == 3:
            raise training.Interrupted
        train(run, display)

    train = training.train
    monkeypatch.setattr(training, "train", stop_at_the_third)
    monkeypatch.setattr(forecast, "fit_law", partial(forecast.fit_law, draws=50))
    assert npgpt(*words) == 130
    assert f"saved; continue with: npgpt scale {folder}" in capsys.readouterr().out
    done = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/model.safetensors")}
    assert len(done) == 2 and not (folder / "scaling.md").exists()

    assert npgpt("scale", folder, "--predict", 16, "--optimum", 1e10) == 0
    out = capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())  # skipped
    assert calls.count(calls[0]) == 1 and "model 1 of" not in out and "model 3 of" in out
    ladder = Ladder.open(folder, {**TINY, "data": (str(tmp_path / "text"),)})
    assert len(list(folder.glob("runs/*"))) == len(ladder.rungs) == 9
    wanted = json.loads((folder / "prediction.json").read_text())
    assert wanted["compute"] == pytest.approx(16 * median_compute(ladder), rel=0.05)
    assert "| law     | loss" in out and "1e+10" in out and not (folder / "target").exists()
    losses = [ladder.loss_of(rung, ladder.folder_of(rung)) for rung in ladder.rungs]
    assert [row[3] for row in wanted["ladder"]] == losses
    assert all(0.5 < loss < 1.7 for loss in losses)  # the entropy of the steps is 1.16

    assert npgpt("scale", folder, "--target") == 0
    out = capsys.readouterr().out
    assert json.loads((folder / "prediction.json").read_text()) == wanted
    rung = rung_at(ladder.rule, 5, 16 * median_compute(ladder), 2.0)
    measured = ladder.loss_of(rung, folder / "target")
    assert f"measured after the prediction: {measured:.4f}" in out
    error = wanted["by_compute"][0] / measured - 1
    assert f"{error:+.2%}" in out and "x predicted model" in out
    assert (folder / "scaling.md").read_text().count("## ") == 4
    page = (folder / "scaling.html").read_text()
    assert page.count("<circle") == len(ladder.rungs) + 1 and "<polygon" in page

    assert npgpt("scale", folder, "--predict", 16) == 2  # no prediction after the training
    assert "a prediction after its training would be none" in capsys.readouterr().err
    run = resume(ladder.folder_of(ladder.rungs[0]), {})  # an ordinary run
    assert run.progress.finished and run.config.read_once
    run.files.unlock()
    expect_refusals(words, folder, capsys)


def expect_refusals(words, folder, capsys):
    """What the folder of a ladder refuses, each in one line, with nothing trained."""

    def refused(*args):
        assert npgpt(*args) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "another ladder: --n_layer is 2, and 1 there" in refused("scale", folder, "--n_layer", 2)
    recipe = next(folder.glob("runs/*")) / "train.toml"
    kept = recipe.read_text()
    recipe.write_text(kept.replace("beta2 = 0.99", "beta2 = 0.9"))
    assert "is a run of another ladder: beta2 is 0.9, and 0.99 here" in refused("scale", folder)
    recipe.write_text(kept)
    cut(folder / "prediction.json")
    assert "prediction.json" in refused("scale", folder)
    (folder / "prediction.json").unlink()
    cut(folder / "ladder.json")
    assert "ladder.json" in refused("scale", folder)
    (folder / "ladder.json").unlink()
    assert "is no empty folder, and holds no ladder" in refused(*words)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--n_budgets", 3], "the ladder is too small to fit"),
        (["--budget", 1e4], "give a larger --budget"),
        (["--budget", 1e12], "none of them twice, and 57,000 of the text train: give more text"),
        (["--target"], "there is no prediction in .*: add --predict 16"),
        (["--predict", 0], "--predict"),
        (["--tokens_per_parameter", 0], "--tokens_per_parameter"),
    ],
)
def test_refusals_before_anything_is_written(words, tmp_path, capsys, more, message):
    assert npgpt(*words, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line) and not (tmp_path / "ladder").exists()

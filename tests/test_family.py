"""The page of the family: its figures are those of the presets, and are counted from them."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, npgpt

from npgpt.commands import COMMANDS
from npgpt.models.parts import parameters_by_part
from npgpt.models.registry import PRESETS

PAGE = (ROOT / "docs" / "family.md").read_text("utf-8")
SCALE = {"million": 1e6, "billion": 1e9}


def rows(title):
    """The cells of the table under a heading, a dict for each row."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


SIZES = {row["preset"].strip("` "): row for row in rows("How large it is") if "`" in row["preset"]}


@pytest.mark.parametrize("name", SIZES)
def test_a_row_is_its_preset(name):
    row, config = SIZES[name], PRESETS[name]
    both = "6 + 6" if name.startswith("transformer") else str(config.n_layer)
    assert row["layers"] == both
    assert int(row["width"]) == config.n_embd
    assert int(row["heads"]) == config.n_head
    assert int(row["vocabulary"].replace(",", "")) == config.vocab_size
    if row["context"] != "not published":
        assert int(row["context"]) == config.n_positions


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_counted_and_near_those_of_the_paper(name):
    row = SIZES[name]
    counted = sum(parameters_by_part(PRESETS[name]).values())
    assert row["counted"] == f"{counted:,}"
    number, unit = row["parameters, published"].split()
    published = float(number.replace(",", "")) * SCALE[unit]
    # the Transformer's paper does not say what it counts: base is above our count, big below it
    assert counted == pytest.approx(published, rel=0.03 if "transformer" in name else 0.015)


def test_every_model_has_a_row_in_every_table():
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)[:4]
    models = [[row["model"] for row in rows(title)] for title in titles]
    for table in models:
        assert {name.split(",")[0] for name in table} == {
            "Transformer", "GPT-1", "BERT", "GPT-2", "GPT-3", "LLaMA", "GPT-4",
        }  # fmt: skip


def test_its_commands_have_the_options_that_it_names(capsys):
    for line in re.findall(r"`npgpt (.+?)`", PAGE):
        command, *words = line.split()
        assert command in COMMANDS
        options = [word for word in words if word.startswith("--")]
        if options:
            npgpt(command, "--help")
            known = capsys.readouterr().out.split()
            assert set(options) <= set(known), line


def test_its_sources_are_listed():
    known = set(re.findall(r"^- \[(\w+)\] ", PAGE, re.MULTILINE))
    assert {name for name in re.findall(r"\[(\w{1,2})\](?!\()", PAGE)} == known


def test_the_comparison(tmp_path):
    """The script measures three models of one size; a second run only prints the tables again."""
    random = np.random.default_rng(0)
    words = "cat dog bird tree house lake sees likes finds runs sleeps".split()
    stories = (" ".join(random.choice(words, 8)) for _ in range(1200))
    (tmp_path / "stories.txt").write_text("".join(f"The {story}.\n" for story in stories))
    questions = (f"{label}:x What {word} is number {n} ?" for n, (label, word) in enumerate(
        zip(["HUM", "LOC"] * 30, random.choice(words, 60), strict=True)
    ))  # fmt: skip
    (tmp_path / "questions.txt").write_text("\n".join(questions) + "\n")

    def compare(*more):
        arguments = (
            "--text stories.txt --questions questions.txt --work kept --width 32 --updates 2 "
            "--train 40 --judged 20 --candidates 3 --measures fill write classify"
        )
        return subprocess.run(
            [sys.executable, ROOT / "examples/family.py", *arguments.split(), *more],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip

    found = compare()
    assert not found.returncode, found.stderr
    lines = (tmp_path / "kept/results.jsonl").read_text().splitlines()
    results = {(line["model"], line["measure"]): line["found"] for line in map(json.loads, lines)}
    assert len(lines) == len(results) == 12
    losses = {
        name: np.array(results[name, "write"][""]) for name in ("GPT", "BERT", "encoder-decoder")
    }
    assert len({len(loss) for loss in losses.values()}) == 1
    assert np.all(np.concatenate([*losses.values()]) > 0)
    assert {len(results[name, "classify"][""]) for name in losses} == {20}
    again = compare()
    assert not again.returncode, again.stderr
    assert again.stdout.startswith("| | GPT")
    assert found.stdout.endswith(again.stdout)
    assert "by seed" not in found.stdout
    for name in losses:  # as a second seed: the same runs, and losses that differ by 0.1, 0.2, 0.3
        shutil.copytree(tmp_path / f"kept/{name}-0", tmp_path / f"kept/{name}-1")
    shift = dict(zip(losses, (0.1, 0.2, 0.3), strict=True))
    with open(tmp_path / "kept/results.jsonl", "a") as file:
        for line in map(json.loads, lines):
            line["seed"] = 1
            for key in line["found"] if line["measure"] == "write" else ():
                moved = np.array(line["found"][key]) + shift.get(line["model"], 0)
                line["found"][key] = moved.tolist()
            file.write(json.dumps(line) + "\n")
    twice = compare("--seeds", "2")
    assert not twice.returncode, twice.stderr
    row = twice.stdout.split("by seed")[1].split("write on: loss of a token | ")[1].split(" | ")[0]
    first = losses["GPT"].mean() - losses["BERT"].mean()
    low, high = first - 0.05 - 0.05 * 12.706, first - 0.05 + 0.05 * 12.706
    assert row == f"{first:.3f}, {first - 0.1:.3f} [{low:.3f}, {high:.3f}]"
    refused = compare("--updates", "3")
    assert refused.returncode == 1
    assert "give another folder with --work" in refused.stderr

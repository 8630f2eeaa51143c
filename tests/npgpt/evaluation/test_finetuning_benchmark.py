"""benchmarks/finetuning.py: its commands, its splits, and what its table says of results."""

import json
import runpy
import shlex

import pytest
from helpers import ROOT

from npgpt import UserError
from npgpt.commands.eval.classification import Options as EvalOptions
from npgpt.commands.finetune import Options as FinetuneOptions
from npgpt.commands.tokenizer.train import Options as TokenizerOptions
from npgpt.evaluation.examples import read_examples
from npgpt.evaluation.metrics import Estimate
from npgpt.evaluation.result import Result
from npgpt.options import read

COMMANDS = {
    ("npgpt", "finetune"): (FinetuneOptions, 2),
    ("npgpt", "eval"): (EvalOptions, 3),
    ("npgpt", "tokenizer"): (TokenizerOptions, 3),
}


@pytest.fixture
def script():
    """The names of the script."""
    return runpy.run_path(str(ROOT / "benchmarks/finetuning.py"))


def test_every_command_has_options_that_exist(script):
    places = dict.fromkeys(("train", "valid", "texts", "words", "run", "data"), "x") | {"seed": 0}
    n = 0
    for row in script["ROWS"].values():
        for command in row.commands:
            words = shlex.split(command.format(**places))
            if tuple(words[:2]) not in COMMANDS:
                assert words[0] == "python" and (ROOT / words[1]).is_file()
                continue
            kind, start = COMMANDS[tuple(words[:2])]
            assert read(kind, words[start:], words[1])
            n += 1
    assert n > 10


def test_held_out_examples_are_the_same_for_every_number_of_labels(script, tmp_path):
    """They are drawn by the seed, and are never among the training examples."""
    (tmp_path / "rt-polarity").mkdir()
    for label in ("pos", "neg"):
        text = "".join(f"{label} {i}\n" for i in range(20))
        (tmp_path / f"rt-polarity/rt-polarity.{label}").write_text(text)
    found = {}
    for n, seed in ((10, 0), (20, 0), (10, 1)):
        row = script["tuned"]("", "rt-polarity", (n, 8), "")
        folder = tmp_path / f"{n}-{seed}"
        folder.mkdir()
        files = script["divide"](row, tmp_path, folder, seed)
        train, valid = (read_examples(files[split]) for split in ("train", "valid"))
        assert (len(train), len(valid)) == (n, 8) and not {*train} & {*valid}
        assert files["texts"].read_text().split("\n") == [text for text, _ in train]
        found[n, seed] = valid
    assert found[10, 0] == found[20, 0] != found[10, 1]


def test_the_table_shows_complete_rows(script, tmp_path):
    """One run has its own interval; of three, it is Student's t, computed by hand here."""
    rows = script["ROWS"]
    single = Result("classification", "m", {}, {}, 4, {"accuracy": Estimate(0.75, 0.5, 1.0)})
    output = json.dumps({"output": f"a note\n{json.dumps(single.to_dict())}\n"})
    (tmp_path / "trec-0.json").write_text(output)
    for seed, value in enumerate((0.80, 0.82, 0.87)):
        text = json.dumps({"output": json.dumps({"val_accuracy": value})})
        (tmp_path / f"minilm-all-{seed}.json").write_text(text)
    (tmp_path / "minilm-100-0.json").write_text(output)  # two of its three runs are missing
    text = "of 100 pairs, the better answer has gained more in 0.630 [0.540, 0.730]\n"
    (tmp_path / "dpo-smollm2-0.json").write_text(json.dumps({"output": text}))
    table = script["show"]([*rows], tmp_path).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "trec",
        "minilm-all",
        "dpo-smollm2",
    ]
    assert "| 0.750 [0.500, 1.000] " in table[2] and "--train train.json" in table[2]
    # the standard deviation is 0.036056, and 4.3027 x 0.036056 / sqrt(3) = 0.0896
    assert "| 0.830 [0.740, 0.920] (0.800, 0.820, 0.870)" in table[3]
    assert "| 0.630 [0.540, 0.730] " in table[4]


def test_the_picture_has_every_mean_and_every_run(script, tmp_path):
    single = Result("classification", "m", {}, {}, 4, {"accuracy": Estimate(0.6, 0.5, 0.7)})
    judged = json.dumps({"output": json.dumps(single.to_dict())})
    example = json.dumps({"output": json.dumps({"val_accuracy": 0.8})})
    names = [f"{kind}-{n}" for kind in ("minilm", "frozen", "scratch") for n in (100, 1000, "all")]
    for name in names[:-1]:
        is_example = "frozen" in name or "all" in name
        for seed in (0, 1, 2):
            (tmp_path / f"{name}-{seed}.json").write_text(example if is_example else judged)
    with pytest.raises(UserError, match="the row scratch-all, which is not complete"):
        script["draw_curve"](tmp_path)
    for seed in (0, 1, 2):
        (tmp_path / f"scratch-all-{seed}.json").write_text(example)
    picture = script["draw_curve"](tmp_path)
    assert picture.count('r="4"') == 9 and picture.count('r="2.5"') == 27
    assert "frozen, labels 1,000: 0.800 (0.800 to 0.800)" in picture
    assert "from scratch, labels 100: 0.600 (0.600 to 0.600)" in picture
    colors = {part.split('"')[0] for part in picture.split('stroke="rgb')[1:]}
    assert len(colors) == 3

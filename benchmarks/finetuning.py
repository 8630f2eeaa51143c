"""Fine-tune on real data by npgpt's commands: the table of docs/finetuning.md, with its commands.

    python benchmarks/finetuning.py DATA [ROW ...] [--results FOLDER]

DATA is the folder that has rt-polarity, trec and so on. Each run writes what its last command has
printed into the results folder. A run whose file exists is left out, so a benchmark that was
interrupted goes on, and one that is complete prints its table again. --picture FILE.svg draws the
accuracy on film reviews against the number of labels.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autograd.files import make_folders, write_text
from autograd.reading import read_json
from npgpt.diagnostics.page import Curve, line_chart
from npgpt.errors import UserError
from npgpt.evaluation.examples import draw_examples, read_examples
from npgpt.evaluation.metrics import Estimate
from npgpt.evaluation.result import Result, Table

TASKS: dict[str, tuple[str, dict[str, Any]]] = {  # where the examples are, and how they are read
    "rt-polarity": ("rt-polarity", {}),
    "trec": ("trec/TREC.train", {"form": "trec", "encoding": "latin-1"}),
    "sms-spam": ("sms-spam/sms.tsv", {"text_column": "2", "label_column": "1"}),
    "chn-sentiment": ("chn-sentiment", {}),
}
PREFERENCES = "instruction/instruction-data-with-preference.json"
STUDENT = 4.303  # the 97.5 % point of Student's t for the mean of three runs

FINETUNE = "npgpt finetune classification --train {train} --valid {valid} --out_dir {run}"
WORDS = "npgpt tokenizer train --kind wordpiece --vocab_size 4000 --data {texts} --out {words}"
JUDGE = "npgpt eval classification {valid} --model {run} --json"
MINILM = " --model minilm --seed {seed} --eval_interval 100000"
FAST = " --block_size 64 --batch_size 16 --learning_rate 1e-4 --epochs 2"  # for few examples
SCRATCH = (
    " --tokenizer {words} --model_type bert --n_layer 1 --n_head 4 --n_embd 64 --dropout 0.5"
    " --block_size 64 --seed {seed} --epochs 10"
)
SMOLLM2 = " --model smollm2 --lora_r 8 --seed {seed} --eval_interval 100000"
SENTIMENT = "python examples/sentiment.py --data {data}/rt-polarity --seed {seed}"


# ---- what the last command of a row prints


def judged(text: str) -> Estimate:
    """Return the accuracy that npgpt eval has printed as JSON."""
    return Result.from_dict(json.loads(text.splitlines()[-1])).metrics["accuracy"]


def example(text: str) -> Estimate:
    """Return the accuracy that examples/sentiment.py has printed, which has no interval."""
    value = json.loads(text.splitlines()[-1])["val_accuracy"]
    return Estimate(value, value, value)


def preferred(text: str) -> Estimate:
    """Return the accuracy on pairs that npgpt finetune preferences has printed."""
    found = re.search(r"gained more in ([\d.]+) \[([\d.]+), ([\d.]+)\]", text)
    if found is None:
        raise UserError(f"no accuracy was printed: {text[-300:]!r}")
    return Estimate(*map(float, found.groups()))


@dataclass
class Row:
    """A row of the table: its commands, and how their result is read.

    Attributes
    ----------
    about : str
        The model and the data.
    commands : tuple of str
        With the places ``{train}``, ``{valid}``, ``{texts}`` (those of the training examples),
        ``{words}`` (a tokenizer of them), ``{run}``, ``{seed}`` and ``{data}``.
    task : str
        The data that is divided for the commands, if they name ``{train}``.
    sizes : tuple of int
        How many examples are used for training, and how many for validation.
    seeds : tuple of int
    read : callable
        From the output of the last command to the number.
    """

    about: str
    commands: tuple[str, ...]
    task: str = ""
    sizes: tuple[int, int] = (0, 0)
    seeds: tuple[int, ...] = (0,)
    read: Callable[[str], Estimate] = judged


def tuned(about: str, task: str, sizes: tuple[int, int], options: str, n_seeds: int = 1) -> Row:
    """Return the row of a classifier that is trained, and evaluated on other examples."""
    words = (WORDS,) if "{words}" in options else ()
    return Row(about, (*words, FINETUNE + options, JUDGE), task, sizes, tuple(range(n_seeds)))


def frozen(n: int) -> dict[str, Row]:
    """Return the row with n labels of rt-polarity, and a linear classifier on MiniLM's vectors."""
    command = SENTIMENT + f" --model minilm --frozen --labels {n}"
    about = f"linear on MiniLM's vectors, {n:,} labels"
    return {f"frozen-{n}": Row(about, (command,), seeds=(0, 1, 2), read=example)}


def curve(n: int, batch_size: int, epochs: int) -> dict[str, Row]:
    """Return the rows with n labels of rt-polarity: from MiniLM, and from scratch."""
    data: Any = ("rt-polarity", (n, 1066))
    batch = f" --batch_size {batch_size}"
    minilm = MINILM + f" --block_size 64 --epochs {epochs}" + batch
    return {
        f"minilm-{n}": tuned(f"MiniLM, {n:,} labels", *data, minilm, 3),
        f"scratch-{n}": tuned(f"from scratch, {n:,} labels", *data, SCRATCH + batch, 3),
    }


ROWS: dict[str, Row] = {
    **curve(100, 10, 5),
    **curve(1000, 32, 3),
    **frozen(100),
    **frozen(1000),
    "trec": tuned(
        "MiniLM on trec: six types of questions", "trec", (4907, 545),
        MINILM + " --block_size 32 --epochs 1",
    ),
    "sms-spam": tuned(
        "MiniLM on sms-spam: ham or spam", "sms-spam", (400, 300),
        MINILM + FAST,
    ),
    "chn-sentiment": tuned(
        "MiniLM, which has read English, on chn-sentiment: Chinese reviews", "chn-sentiment",
        (400, 300), MINILM + FAST,
    ),
    "chn-scratch": tuned(
        "from scratch on chn-sentiment", "chn-sentiment", (4000, 300), SCRATCH
    ),
    "minilm-all": Row(
        "MiniLM, all labels", (SENTIMENT + " --model minilm",), seeds=(0, 1, 2), read=example
    ),
    "frozen-all": Row(
        "linear on MiniLM's vectors, all labels", (SENTIMENT + " --model minilm --frozen",),
        seeds=(0, 1, 2), read=example,
    ),
    "scratch-all": Row("from scratch, all labels", (SENTIMENT,), seeds=(0, 1, 2), read=example),
    "dpo-smollm2": Row(
        "SmolLM2, LoRA: the better of two answers (DPO)",
        (
            "npgpt finetune preferences --model smollm2 --train {train} --valid {valid} --lora_r 8"
            " --template plain --learning_rate 1e-3 --batch_size 4 --max_iters 25 --warmup_iters 5"
            " --seed {seed} --out_dir {run}",
        ),
        PREFERENCES, (100, 100), read=preferred,
    ),
    "smollm2-lora": tuned(
        "SmolLM2, LoRA, 400 labels", "rt-polarity", (400, 200),
        SMOLLM2 + " --block_size 64 --batch_size 8 --learning_rate 3e-4 --epochs 1",
    ),
    "smollm2-words": Row(
        "SmolLM2, LoRA, 400 labels as words",
        (
            "npgpt finetune instructions --train {train} --valid {valid} --out_dir {run} --model"
            " smollm2 --template plain --lora_r 8 --learning_rate 1e-3 --batch_size 8 --epochs 2"
            " --warmup_iters 5 --eval_interval 100000 --seed {seed}",
            JUDGE + r" --labels pos,neg --chat --template '{{input}}\n{{output}}'",
        ),
        "rt-polarity", (400, 200),
    ),
    "minilm-lora": tuned(
        "MiniLM, LoRA, 4,000 labels", "rt-polarity", (4000, 1066),
        MINILM + " --block_size 64 --lora_r 8 --learning_rate 1e-3 --epochs 1",
    ),
}  # fmt: skip


# ---- running


def divide(row: Row, data: Path, folder: Path, seed: int) -> dict[str, Path]:
    """Write the training and the held-out examples of a row, which the seed draws."""
    names = {"train": "train.json", "valid": "valid.json", "texts": "texts.txt"}
    files = {split: folder / name for split, name in names.items()}
    n_train, n_valid = row.sizes
    if row.task == PREFERENCES:  # the last examples validate
        rows = read_json(data / row.task, list[dict[str, str]])
        found = {"valid": rows[-n_valid:], "train": rows[:-n_valid][:n_train]}
    else:
        path, form = TASKS[row.task]
        examples = read_examples(data / path, **form)
        drawn = [each._asdict() for each in draw_examples(examples, n_valid + n_train, seed)]
        found = {"valid": drawn[:n_valid], "train": drawn[n_valid:]}
    for split, rows in found.items():
        write_text(files[split], json.dumps(rows, ensure_ascii=False))
    write_text(files["texts"], "\n".join(each["input"] for each in found["train"]))
    return files


def run(row: Row, data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Run the commands of a row with a seed; return what the last one printed, and the time."""
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
    make_folders(folder)
    places: dict[str, Any] = dict(
        data=data, run=folder / "run", words=folder / "vocab.txt", seed=seed
    )
    if row.task:
        places |= divide(row, data, folder, seed)
    began = time.monotonic()
    text = ""
    for command in row.commands:
        words = [word.format(**places) for word in shlex.split(command)]
        start = [sys.executable, *(["-m", "npgpt"] if words[0] == "npgpt" else [])]
        done = subprocess.run([*start, *words[1:]], stdout=subprocess.PIPE, encoding="utf-8")
        if done.returncode:
            sys.exit(f"{shlex.join(words)} ended with code {done.returncode}")
        text = done.stdout
    return {"output": text, "seconds": round(time.monotonic() - began, 1)}


def summarize(found: list[Estimate]) -> str:
    """Return the number of one run with its interval, or the mean of three and of that."""
    if len(found) == 1:
        value, low, high = found[0]
        return f"{value:.3f}" if low == high else str(found[0])
    return f"{mean_of(found)} ({', '.join(f'{each.value:.3f}' for each in found)})"


def mean_of(found: list[Estimate]) -> Estimate:
    """Return the mean of three runs, with its interval.

    Three runs differ in their examples, and in the order and the initialization: the interval of
    their mean is by Student's t.
    """
    values = np.array([each.value for each in found])
    half = STUDENT * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return Estimate(mean, mean - half, mean + half)


def read_results(name: str, results: Path) -> list[Estimate]:
    """Return the numbers of a row, one for each seed; none if the row is not complete."""
    row = ROWS[name]
    files = [results / f"{name}-{seed}.json" for seed in row.seeds]
    if not all(file.is_file() for file in files):
        return []
    return [row.read(json.loads(file.read_text(encoding="utf-8"))["output"]) for file in files]


def show(names: list[str], results: Path) -> str:
    """Return the table of the rows that are complete."""
    rows = []
    for name in names:
        row = ROWS[name]
        if not (found := read_results(name, results)):
            continue
        training = next(each for each in row.commands if "tokenizer" not in each.split()[:2])
        command = training.format(
            train="train.json", valid="valid.json", words="vocab.txt", run=name, seed=0, data="DATA"
        )
        n = "" if not row.task else f"{row.sizes[0]:,} / {row.sizes[1]:,}"
        rows.append([name, row.about, n, summarize(found), f"`{command}`"])
    columns = ["row", "model and data", "training / held out", "accuracy", "command"]
    return str(Table(columns, rows))


def draw_curve(results: Path) -> str:
    """Return a picture of the accuracy on film reviews, against the number of labels.

    Raises
    ------
    UserError
        If a row of the picture is not complete.
    """
    curves = []
    for name, begin in {"MiniLM": "minilm", "frozen": "frozen", "from scratch": "scratch"}.items():
        rows = [f"{begin}-{n}" for n in ("100", "1000", "all")]
        points = [read_results(row, results) for row in rows]
        for row, found in zip(rows, points, strict=True):
            if not found:
                raise UserError(f"the picture needs the row {row}, which is not complete: run it")
        means = np.array([mean_of(found) for found in points])  # (labels, 3)
        values = [[each.value for each in found] for found in points]
        curves.append(Curve(name, *means.T, values))
    title = "Accuracy on film reviews, against the number of labels"
    return line_chart(curves, ["100", "1,000", "9,596"], "labels", title)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder of the tasks")
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; without: all"
    )
    parser.add_argument("--results", type=Path, default=Path("out/finetuning"), metavar="FOLDER")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curve of labels")
    options = parser.parse_intermixed_args()
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    names = options.rows or [*ROWS]
    try:
        for name in names:
            for seed in ROWS[name].seeds:
                file = options.results / f"{name}-{seed}.json"
                if file.is_file():
                    continue
                print(f"{name}, seed {seed}", file=sys.stderr)
                found = run(ROWS[name], options.data, options.results / f"{name}-{seed}", seed)
                write_text(file, json.dumps(found))
        if options.picture:
            write_text(options.picture, draw_curve(options.results) + "\n")
    except UserError as error:
        sys.exit(str(error))
    print(show(names, options.results))


if __name__ == "__main__":
    main()

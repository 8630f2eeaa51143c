"""Try few-shot learning: how often a model is right that sees k examples, and is not trained.

    python examples/few_shot.py --data FOLDER [--model smollm2] [--results FILE.jsonl]

FOLDER holds ``rt-polarity`` (a folder with a file for each label: film reviews, positive or
negative) and ``trec/TREC.train`` (questions, and the type of their answers). For each number of
examples k, several sets of k examples are drawn, and the model classifies the same sentences after
each set. The result of each set is a line of the results file. A second run with the same file
does what is missing, and prints the table and writes the pictures again.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from autograd.files import make_folders, write_text
from npgpt import UserError, load_tokenizer
from npgpt.diagnostics.page import Curve, line_chart
from npgpt.evaluation.choices import Scorer
from npgpt.evaluation.examples import draw_examples, read_examples
from npgpt.evaluation.few_shot import CONTENT_FREE, FewShot, calibrate, classify
from npgpt.hub import find_model
from npgpt.weights.load import load_model

TASKS = {  # the file, how it is read, the template, the words for the labels, the instruction
    "rt-polarity": (
        "rt-polarity",
        {},
        "Review: {input}\nSentiment: {output}",
        {"pos": "positive", "neg": "negative"},
        "",
    ),
    "trec": (
        "trec/TREC.train",
        {"form": "trec", "encoding": "latin-1"},
        "Question: {input}\nAnswer type: {output}",
        {
            "ABBR": "abbreviation", "DESC": "description", "ENTY": "entity",
            "HUM": "person", "LOC": "location", "NUM": "number",
        },
        "The answer type of a question is one of: abbreviation, description, entity, person, "
        "location, number.",
    ),
}  # fmt: skip
KINDS = {"raw": "raw", "calibrated": "calibrated", "batch": "calibrated by the batch"}

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
parser.add_argument("--model", default="smollm2")
parser.add_argument("--results", type=Path, default=Path("out/few_shot.jsonl"), metavar="FILE")
parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="without: beside the results")
parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
parser.add_argument("--k", nargs="+", type=int, default=[0, 1, 2, 4, 8], help="numbers of examples")
parser.add_argument("--draws", type=int, default=5, help="sets of examples for each k")
parser.add_argument("--n", type=int, default=200, help="sentences to classify")
options = parser.parse_args()


def measure(scorer, name, k, draw):
    """Return for each sentence whether the model was right, with the labels of each kind."""
    path, form, template, words, instruction = TASKS[name]
    mixed = draw_examples(examples := read_examples(options.data / path, **form), len(examples))
    asked, rest = mixed[: options.n], mixed[options.n :]
    shown = [(text, words[label]) for text, label in draw_examples(rest, k, seed=draw)]
    task = FewShot(template, shown, instruction)
    texts = [text for text, _ in asked]
    found = classify(scorer, task, [*texts, *CONTENT_FREE], [*words.values()])
    raw, free = found[: len(texts)], found[len(texts) :].mean(axis=0)
    answers = [[*words].index(label) for _, label in asked]
    kinds = raw, calibrate(raw, free), calibrate(raw, raw.mean(axis=0))
    return [p.argmax(axis=1) == answers for p in kinds]


def interval(right):
    """Return the 95 % interval of the mean of (draws, sentences), by bootstrap over both."""
    random = np.random.default_rng(0)
    D, N = right.shape
    means = [
        right[random.integers(0, D, (D, 1)), random.integers(0, N, N)].mean() for _ in range(2000)
    ]
    return np.percentile(means, [2.5, 97.5])


def read_results():
    """Return the results of the wanted sizes, by task, k and draw."""
    if not options.results.exists():
        return {}
    lines = map(json.loads, options.results.read_text("utf-8").splitlines())
    return {
        (line["task"], line["k"], line["draw"]): line
        for line in lines
        if (line["model"], line["n"]) == (options.model, options.n) and {*KINDS} <= {*line}
    }


wanted = [
    (name, k, draw)
    for draw in range(options.draws)
    for name in options.tasks
    for k in options.k
    if k or not draw  # no examples can be drawn in one way only
]
try:
    results = read_results()
    missing = [key for key in wanted if key not in results]
    if missing:
        folder = find_model(options.model)
        scorer = Scorer(load_model(folder, packed=True), load_tokenizer(folder))
        make_folders(options.results.parent)
    for name, k, draw in missing:
        began = time.monotonic()
        right = measure(scorer, name, k, draw)
        line = {"model": options.model, "task": name, "k": k, "draw": draw, "n": options.n}
        line |= {
            kind: "".join(str(int(x)) for x in found)
            for kind, found in zip(KINDS, right, strict=True)
        }
        line["seconds"] = round(time.monotonic() - began, 1)
        with open(options.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        means = ", ".join(
            f"{kind} {found.mean():.3f}" for kind, found in zip(KINDS, right, strict=True)
        )
        print(f"{name}, k = {k}, draw {draw}: {means} ({line['seconds']} s)", file=sys.stderr)
        results[name, k, draw] = line
except UserError as error:
    sys.exit(str(error))

# ---- the table and the pictures

print("| task | k |" + "".join(f" {kind} | lowest, highest |" for kind in KINDS.values()))
print("|---" * (2 + 2 * len(KINDS)) + "|")
for name in options.tasks:
    found = {kind: [] for kind in KINDS}  # the results of each k: (draws, sentences)
    for k in options.k:
        lines = [results[key] for key in wanted if key[:2] == (name, k)]
        row = [name, str(k)]
        for kind in KINDS:
            right = np.array([[int(x) for x in line[kind]] for line in lines])
            found[kind].append(right)
            each = right.mean(axis=1)
            low, high = interval(right)
            row += [
                f"{each.mean():.3f} [{low:.3f}, {high:.3f}]",
                f"{each.min():.3f}, {each.max():.3f}",
            ]
        print(f"| {' | '.join(row)} |")
    curves = []
    for kind, name_of_kind in KINDS.items():
        ends = np.array([interval(right) for right in found[kind]])
        means = [right.mean() for right in found[kind]]
        points = [right.mean(axis=1) for right in found[kind]]
        curves.append(Curve(f"{name_of_kind} labels", means, ends[:, 0], ends[:, 1], points))
    title = f"Accuracy of {options.model} on {name}, against the number of examples"
    picture = line_chart(curves[:2], [str(k) for k in options.k], "examples (k)", title)
    folder = options.pictures or options.results.parent
    make_folders(folder)
    write_text(folder / f"few_shot_{name}.svg", picture + "\n")

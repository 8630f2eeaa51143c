"""``npgpt eval choices``: how often a model gives the right choice the highest probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from autograd.schema import FileName
from npgpt.commands.chat import find_partner
from npgpt.commands.eval._result import show_result
from npgpt.commands.generate import demand_writer, load_writer
from npgpt.errors import UserError
from npgpt.evaluation.choices import Scorer
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.questions import Answers, Item, answer_questions, read_questions
from npgpt.evaluation.result import Table
from npgpt.options import Argument, parse
from npgpt.training.memory import keep_freed_memory


@dataclass
class Options:
    """Measure how often a model gives the right choice of a question the highest probability.

    A choice is a continuation of a prompt. Without a prompt, the choices are two sentences, a
    minimal pair. The model writes no text; the command compares the probabilities of the choices.
    """

    file: Annotated[FileName, Argument("FILE")] = ""
    """A .jsonl file of questions ({"prompt": ..., "choices": [...], "answer": 0}) or of minimal
    pairs ({"sentence_good": ..., "sentence_bad": ...}); or a .csv or .tsv file of pairs, in which
    the first of two columns has the right sentence. Questions with the same "group" are
    also counted separately."""
    model: FileName = ""
    """A folder with a model, a .safetensors or .gguf file, the name of an added model (npgpt models
    list), or a name on the Hugging Face hub; if not given, smollm2."""
    float32: bool = False
    """Compute with float32 weights where the model's file has fewer bits, which takes more memory
    and time."""
    json: bool = False
    """Print the result as one line of JSON."""


def run(args: list[str]) -> int:
    """Print the numbers; return 130 after Ctrl-C."""
    options = parse(Options, args, "eval choices")
    keep_freed_memory()
    if not options.file:
        raise UserError("there are no questions: give a .jsonl file of questions, or pairs")
    items = read_questions(options.file)
    path = find_partner(options.model)
    model, tokenizer = load_writer(path, False, options.float32)
    demand_writer(model, path)
    try:
        found = answer_questions(Scorer(model, tokenizer), items)
    except KeyboardInterrupt:
        return 130
    chance = np.array([1 / len(item.choices) for item in items])
    metrics = {
        "accuracy": estimate(np.mean, found.right),
        "accuracy, normalized": estimate(np.mean, found.right_normalized),
        "accuracy of chance": estimate(np.mean, chance),
        "margin": estimate(np.mean, found.margins),
    }
    groups = {item.group for item in items} - {""}
    tables = {"groups": group_table(items, found)} if groups else {}
    show_result("choices", options, path, (options.file,), len(items), metrics, tables)
    return 0


def group_table(items: list[Item], found: Answers) -> Table:
    """Return the accuracies of each group of questions."""
    names = np.array([item.group for item in items])
    rows = []
    for name in sorted(set(names)):
        own = names == name
        shares = [
            str(estimate(np.mean, right[own])) for right in (found.right, found.right_normalized)
        ]
        rows.append([str(name), str(own.sum()), *shares])
    return Table(["group", "questions", "accuracy", "normalized"], rows)

"""``npgpt finetune``: teach a model a task from examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from autograd.schema import FileName
from npgpt.commands import train
from npgpt.errors import UserError
from npgpt.models.config import Fraction, Positive, Size, Steps
from npgpt.options import Argument, read
from npgpt.training.together import follow_launched

SHORT = {"model": "init_from", "train": "data", "valid": "val_data"}
"""Options, and the keys of a run that they stand for."""

USUAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("classification", "regression", "similarity"),
        {"scratch": {"learning_rate": 1e-3}, "model": {}},
    ),
    "spans": {
        "scratch": {"learning_rate": 1e-3, "block_size": 256, "batch_size": 8},
        "model": {"batch_size": 8},
    },
    "instructions": {
        "scratch": {"learning_rate": 1e-3, "block_size": 256, "batch_size": 8},
        "model": {"batch_size": 8},
    },
    "preferences": {"scratch": {}, "model": {"batch_size": 8, "learning_rate": 5e-6}},
}
"""Values of options that are not given, by the task, for a new model and for one that is there."""


@dataclass
class Options(train.Options):
    """Fine-tune a model on examples: texts with labels, or questions with answers.

    The file has an example in each row. It is CSV, TSV, JSONL or JSON, by the end of its name. For
    a classification, it may also be a folder with a file for each label. For spans, it is a JSON
    file of questions about contexts, in the form of SQuAD 1.1. For instructions, a row
    has messages, conversations (as ShareGPT has them), instruction, input and output (as Alpaca has
    them), or a prompt and a response. For preferences, it has chosen and rejected in the place of
    the answer. The model is saved in the run's folder, in transformers' form; npgpt classify or
    npgpt chat uses it.
    """

    task: Annotated[
        Literal[
            "classification", "regression", "similarity", "spans", "instructions", "preferences"
        ],
        Argument("TASK"),
    ] = "classification"
    """What the model learns: classification names the label of a text or a pair; regression gives a
    number to it; similarity turns two texts into vectors, whose cosine is the number; spans
    finds the answer to a question in a context; instructions answers as an assistant, and only the
    answers count in the loss; preferences prefers the better of two answers (direct preference
    optimization)."""
    model: FileName = "scratch"  # type: ignore[assignment] # options are no configuration
    """A folder with a model, the name of an added one (minilm, smollm2), or scratch for a new
    model."""
    train: FileName = ""
    """The examples: a file, or a folder with a file for each label."""
    valid: FileName = ""
    """Examples to validate on; if not given, a tenth of the others."""
    epochs: Positive = 3.0
    """How often every example is read; or give --max_iters, the updates."""
    batch_size: Size = 32
    """Examples in a batch; for spans, instructions and preferences 8, if not given."""
    learning_rate: Positive = 5e-5
    """For a model from scratch 1e-3, and for preferences 5e-6, if not given."""
    min_lr: Positive = 0.0
    """Where the cosine ends."""
    warmup_iters: Steps = 20
    weight_decay: Positive = 0.01
    beta2: Fraction = 0.999
    eval_iters: Steps = 5
    """Batches to an estimate of a loss."""


def run(args: list[str]) -> int:
    """Fine-tune, and return the exit code: 128 + n if signal n ended the training."""
    if (code := follow_launched()) is not None:
        return code
    given = spell_out(read(Options, args, "finetune"))
    if given.get("resume") is not None:
        return train.train_as(given, *train.read_defaults(given))
    if "data" not in given:
        raise UserError("there are no examples: give a file, or a folder, with --train")
    usual: dict[str, Any] = {
        name: getattr(Options, name)
        for name in Options.__annotations__
        if name not in SHORT and name != "task"
    }
    if "max_iters" in given:
        if "epochs" in given:
            raise UserError("--epochs sets --max_iters: leave one of them out")
        usual["epochs"] = 0.0
    task = given.get("task", Options.task)
    usual |= USUAL[task]["scratch" if given.get("init_from", "scratch") == "scratch" else "model"]
    return train.train_as(given, train.Options(task=task, **usual), ())


def spell_out(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are given, by the names of a run's keys."""
    spelled = {name: value for name, value in given.items() if name not in SHORT}
    for short, name in SHORT.items():
        if short not in given:
            continue
        if name in given:
            raise UserError(f"--{short} stands for --{name}: leave one of them out")
        spelled[name] = given[short] if name == "init_from" else (given[short],)
    return spelled

"""``npgpt distill``: train a smaller model on the probabilities of a larger one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autograd.schema import FileName
from npgpt.commands import train
from npgpt.diagnostics.info import config_of
from npgpt.errors import UserError
from npgpt.models.config import ModelConfig
from npgpt.options import read
from npgpt.training.config import keys_of
from npgpt.training.registry import TASKS
from npgpt.training.together import follow_launched

LONGEST = 256  # the context of a new student, if none is given


@dataclass
class Options(train.Options):
    """Train a student: a smaller model that learns from the probabilities of a teacher.

    Without --student, the student is a new model that has half of the teacher's layers, and the
    teacher's other sizes; --n_layer, --n_embd and so on give other sizes, as for npgpt train. The
    student has the teacher's tokenizer. The result is the folder of a run, with an ordinary model.
    """

    student: FileName = ""
    """A folder with a model to start from; if not given, the student is a new model."""


def run(args: list[str]) -> int:
    """Distil, and return the exit code: 128 + n if signal n ended the training."""
    if (code := follow_launched()) is not None:
        return code
    given = read(Options, args, "distill")
    if given.get("resume") is not None:
        return train.train_as(given, *train.read_defaults(given))
    if not given.get("teacher"):
        raise UserError(
            "there is no teacher: give a folder with a model, or a name, with --teacher"
        )
    if "init_from" in given:
        raise UserError("--init_from is --student here: give the model with --student")
    student = given.pop("student", "")
    config = config_of(given["teacher"])
    usual: dict[str, Any] = {"task": task_of(config)}
    if student:
        usual["init_from"] = student
    else:
        keys = keys_of(config)
        half, context = max(1, keys["n_layer"] // 2), min(LONGEST, keys["block_size"])
        usual |= keys | {"n_layer": half, "block_size": context}
    return train.train_as(given, train.Options(**usual), usual)


def task_of(config: ModelConfig) -> str:
    """Return the task that a model is trained for, as far as its configuration tells."""
    if config.labels:
        return "classification"
    model_type = keys_of(config)["model_type"]
    return next(name for name, task in TASKS.items() if model_type in task.model_types)

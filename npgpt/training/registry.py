"""The tasks that a run can have, by the names that the key `task` of a configuration takes.

A task is a subclass of `npgpt.training.task.Task`. A new one needs its name in
`npgpt.training.config.TaskName`, which lists the names without an import of any task, and its
entry here.
"""

from __future__ import annotations

from npgpt.training.classification import Classification
from npgpt.training.images import Images
from npgpt.training.instructions import Instructions
from npgpt.training.masked import MaskedTokens
from npgpt.training.pairs import Pairs
from npgpt.training.preferences import Preferences
from npgpt.training.similarity import Regression, Similarity
from npgpt.training.spans import Spans
from npgpt.training.task import LanguageModelling, Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        LanguageModelling,
        Pairs,
        MaskedTokens,
        Classification,
        Regression,
        Similarity,
        Spans,
        Instructions,
        Preferences,
        Images,
    )
}

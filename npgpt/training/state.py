"""The state of a run: all that a resumed run takes up, and the file that holds it.

All randomness of a run is a function of the seed and the step. So the parameters, the optimizer's
means and a few counters decide what a resumed run does. They are written together, to
``state.safetensors``. The history in it says what else decides every bit of a run (configuration,
kernels, BLAS), so that `npgpt.training.replay` can take the same steps again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from numpy import ndarray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from autograd.escape import brief
from autograd.files import write_tensors
from autograd.kernels import kernels_enabled, product_choice
from autograd.reading import parse_json, read_tensors
from autograd.schema import FileName, Range, fit
from npgpt.errors import UserError
from npgpt.models.config import Positive, Steps
from npgpt.models.gpt import GPT
from npgpt.training.data import TOKEN_FILES
from npgpt.weights.part import Base


@dataclass
class Progress:
    """The counters of a run: all of its state that is not an array."""

    step: Steps = 0  # updates done
    evaluated: Annotated[int, Range(-1, 2**53)] = -1  # the step of the last evaluation
    best_step: Steps = 0
    best_loss: Annotated[float, Range(finite=False)] = math.inf
    elapsed_seconds: Positive = 0.0
    finished: bool = False
    n_worse: Steps = 0  # evaluations since that of the best step


class Setting(TypedDict):
    """What holds from a step of a run on: an entry of the run's history."""

    step: Steps
    parameters: str | None  # the hash of the parameters at that step
    config: dict[str, Any]
    environment: dict[str, Any] | None


@dataclass
class State:
    """What ``state.safetensors`` holds.

    Attributes
    ----------
    tensors : dict of str to ndarray
        The parameters (with a `base`, those that are trained), the optimizer's means under
        ``mean.`` and ``square.`` of their names, and what the task keeps under ``task.``.
    progress : Progress
    data : dict of str to (str, str)
        The path and the SHA-256 of each token file, by its name in a run folder (`TOKEN_FILES`).
    history : list of Setting
        Empty in runs of the first version.
    architecture : dict of str to Any
        The configuration of the model; empty in runs of version 0.1.0.
    tokenizer : str or None
        The SHA-256 of ``tokenizer.json``; None in runs of version 0.1.0.
    teacher : str or None
        The SHA-256 of the parameters of the teacher, if there is one.
    base : Base or None
        The model that has the frozen parameters, if there are any. None in runs up to version
        0.2.0, whose states have all parameters.
    """

    tensors: dict[str, ndarray]
    progress: Progress
    data: dict[str, tuple[str, str]]
    history: list[Setting] = field(default_factory=list)
    architecture: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    teacher: str | None = None
    base: Base | None = None

    @property
    def parameters(self) -> dict[str, ndarray]:
        """The tensors of the model."""
        others = "mean.", "square.", "task."
        return {name: x for name, x in self.tensors.items() if not name.startswith(others)}

    @property
    def of_task(self) -> dict[str, ndarray]:
        """The tensors of the task, by their names in `npgpt.training.task.Task.state_dict`."""
        prefix = "task."
        tensors = self.tensors.items()
        return {n.removeprefix(prefix): x for n, x in tensors if n.startswith(prefix)}

    @property
    def means(self) -> dict[str, ndarray]:
        """The tensors of the optimizer."""
        return {n: x for n, x in self.tensors.items() if n.startswith(("mean.", "square."))}

    def write(self, path: Path) -> None:
        """Write the file whole: a process that is killed here leaves the old file."""
        first, *others = self.data
        metadata = {
            "progress": json.dumps(dataclasses.asdict(self.progress)),
            first: json.dumps(self.data[first]),
            "history": json.dumps(self.history),
            "architecture": json.dumps(self.architecture),
        }
        if self.tokenizer:
            metadata["tokenizer"] = self.tokenizer
        if self.teacher:
            metadata["teacher"] = self.teacher
        if self.base:
            metadata["base"] = json.dumps(dataclasses.asdict(self.base))
        metadata |= {name: json.dumps(self.data[name]) for name in others}
        write_tensors(path, self.tensors, metadata)

    @classmethod
    def read(cls, path: Path) -> State:
        """Read a state, of this version or an older one.

        Raises
        ------
        UserError
            If the file is damaged, or holds something that this version does not know.
        """
        tensors, metadata = read_whole(path)
        try:
            if TOKEN_FILES[0] not in metadata:
                raise UserError("it does not name its token file")
            if "progress" not in metadata:
                raise UserError("it does not say how far the run is")
            values = {key: parse_json(text, key) for key, text in metadata.items() if key in JSON}
            data = {name: values[name] for name in TOKEN_FILES if name in values}
            return cls(
                tensors,
                fit(values["progress"], Progress, "progress"),
                fit(data, dict[str, tuple[FileName, str]], "tokens"),
                fit(values.get("history", []), list[Setting], "history"),
                fit(values.get("architecture", {}), dict[str, Any], "architecture"),
                metadata.get("tokenizer"),
                metadata.get("teacher"),
                fit(values["base"], Base, "base") if "base" in values else None,
            )
        except UserError as error:
            raise UserError(f"{path} is damaged: {error}") from None


JSON = {"progress", "history", "architecture", "base", *TOKEN_FILES}  # metadata that is JSON


def read_whole(path: Path) -> tuple[dict[str, ndarray], dict[str, str]]:
    """Return the tensors and the metadata of a state; if it is damaged, say what to do."""
    try:
        tensors, metadata = read_tensors(path)
        if unknown := metadata.keys() - {*JSON, "tokenizer", "teacher"}:
            raise UserError(
                f"{path} is damaged, or of a newer version of npgpt: it holds {brief(min(unknown))}"
            )
    except UserError as error:
        folder = path.parent if path.parent.name == "checkpoints" else path.parent / "checkpoints"
        others = sorted(other for other in folder.glob("step-*.safetensors") if other != path)
        advice = (
            f"copy a checkpoint over it, such as {others[-1]}"
            if others
            else "put back a copy of the file, or train a new run"
        )
        raise UserError(f"{error}. To go on, {advice}") from None
    return tensors, metadata


# ---- the history


def environment() -> dict[str, Any]:
    """Return what decides, besides the seed and the configuration, every bit of a run."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    own = [pool for pool in pools if "numpy" in pool["filepath"]]  # SciPy's may be there as well
    blas = (own or pools or [{}])[0]  # none: a BLAS that has no settings, such as Accelerate
    named = (blas.get(key) for key in ("internal_api", "version", "architecture"))
    return {
        "NumPy": np.__version__,
        "BLAS": " ".join(filter(None, named)),
        "BLAS threads": blas.get("num_threads"),
        "kernels": f"Numba {version('numba')}" if kernels_enabled() else "off",
        "products": product_choice(),
    }


def hash_parameters(model: GPT) -> str:
    """Return the SHA-256 of a model's parameters."""
    digest = hashlib.sha256()
    for array in model.state_dict().values():
        digest.update(array.tobytes())
    return digest.hexdigest()

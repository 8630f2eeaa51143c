"""Starting a run, resuming it bit for bit, and evaluating it; `npgpt.training.loop` trains it."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograd.files import together, write_text
from npgpt.errors import UserError
from npgpt.hub import find_model
from npgpt.options import quoted
from npgpt.say import say
from npgpt.tokenizers import save_tokenizer
from npgpt.training.config import FIXED, PLACES, TrainConfig
from npgpt.training.data import open_tokens, write_tokens
from npgpt.training.distillation import load_distillation
from npgpt.training.folder import RunFolder, latest_run
from npgpt.training.interrupt import Interrupted
from npgpt.training.loop import Run, train
from npgpt.training.prepare import demand_generation, demand_memory_of, initial_model, plan
from npgpt.training.ranks import Alone, demand_division
from npgpt.training.registry import TASKS
from npgpt.training.task import accumulate_gradients
from npgpt.weights.load import read_generation_config, save_config, save_generation_config
from npgpt.weights.part import with_bases

__all__ = ["Interrupted", "Run", "accumulate_gradients", "latest_run", "resume", "start", "train"]


def start(
    config: TrainConfig,
    overwrite: bool = False,
    given: Collection[str] = (),
    ranks: Alone | None = None,
) -> Run:
    """Prepare a new run: everything is checked before the folder is made.

    Parameters
    ----------
    config : TrainConfig
        A model to start from (`init_from`) and a token file determine some of its keys: those may
        be left at their defaults, and must not say otherwise.
    overwrite : bool
        Remove the run that is in `out_dir`.
    given : collection of str
        The keys that were given by the user, should they have their default value.
    ranks : Alone, optional
        The processes that train together (`npgpt.training.together`); if not given, this one alone.

    Raises
    ------
    UserError
        If the configuration, its files or the folder do not allow the run.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt.training.config import FIXED, TrainConfig
    >>> from npgpt.training.run import start
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = start(TrainConfig(out_dir=folder, n_layer=1, n_embd=8, batch_size=2))
    ...     loss, norm, learning_rate = run.update()
    >>> run.progress.step
    1
    """
    ranks = ranks or Alone()
    demand_division(config, ranks.size)
    if config.out_dir:
        RunFolder(config.out_dir).demand_free(overwrite)
    found = plan(config, given)
    config, model, task = found.config, found.model, found.task
    if overwrite and config.out_dir:
        models = (config.init_from if config.init_from != "scratch" else "", config.teacher)
        paths = [path for name in models if name for path in with_bases(find_model(name))]
        names = [name for source in found.sources for name in (*source.names, source.file)]
        needed = [Path(name) for name in (*names, *paths) if name]
        RunFolder(config.out_dir).demand_unneeded(needed)
    is_new = not (config.out_dir and Path(config.out_dir).exists())
    files = RunFolder.make(config.out_dir)
    try:
        with together(files.path):
            if overwrite:
                files.clear()
            save_tokenizer(task.tokenizer, files.path)
            save_config(model.config, files.path)
            save_generation_config(model, files.path)
            for source, (name, tokens) in zip(found.sources, task.data.items(), strict=True):
                if source.file is None:
                    tokens.path = files.path / f"{name}.bin"
                    tokens.sha256 = write_tokens(
                        tokens.path, source.text, task.tokenizer, source.names, tokens.array,
                        n_levels=source.n_levels,
                    ).sha256  # fmt: skip
            write_text(files.recipe, config.to_toml())
            run = Run(
                files, config, model, task, ranks, distillation=found.distillation, base=found.base
            )
            run.remember()
            run.save_state()
        for tokens in task.data.values():  # from here on, the file is mapped into memory
            tokens.array = open_tokens(tokens.path, task.tokenizer)[0]
        run.task = type(task)(config, task.tokenizer, task.data)
        run.task.load_state_dict(task.state_dict())
        ranks.join(run)
        return run
    except OSError as error:
        files.unlock()
        if is_new:
            with suppress(OSError):
                files.path.rmdir()
        reason = error.strerror or error
        raise UserError(f"the folder {files.path} cannot be written: {reason}") from None


def resume(folder: Path, changes: dict[str, Any], ranks: Alone | None = None) -> Run:
    """Take up a run where its last checkpoint stands.

    Parameters
    ----------
    folder : Path
    changes : dict of str to Any
        Training keys to change from here on.
    ranks : Alone, optional
        The processes that train together from here on; if not given, this one alone.

    Raises
    ------
    UserError
        If the folder holds no run, if one of its files is damaged or was changed, if another
        process trains in it, or if a key cannot change.
    """
    files = RunFolder(folder)
    if folder.is_dir():
        files.lock()
    run = open_run(folder)
    run.ranks = ranks or Alone()
    if Path(changes.get("out_dir", folder)).resolve() != folder.resolve():
        raise UserError(f"a resumed run stays in its folder, {folder}: leave out --out_dir")
    demand_fixed(run.config, changes, folder)
    run.model.generation_config = read_generation_config(folder)
    demand_generation(run.model, run.tokenizer)
    for leftover in files.leftovers():
        leftover.unlink()
    run.configure(dataclasses.replace(run.config, **changes))
    demand_division(run.config, run.ranks.size)
    if not run.is_complete:
        run.progress.finished = False
    try:
        if run.progress.evaluated >= 0:
            files.demand_model(run.is_hashed)
    except UserError as error:
        say(f"note: {error}. The next evaluation writes it again", sys.stderr)
        run.progress.evaluated, run.progress.finished = -1, False
    if changes:
        write_text(files.recipe, run.config.to_toml())
    is_new = run.remember()
    run.ranks.join(run)
    if is_new:
        run.save_state()
    return run


def demand_fixed(config: TrainConfig, changes: dict[str, Any], folder: Path) -> None:
    """Refuse to change what a resumed run cannot change."""
    keys = (*FIXED, *PLACES) if config.read_once else FIXED
    for key, value in changes.items():
        if key in keys and value != getattr(config, key):
            fixed = getattr(config, key)
            words = () if fixed is None else fixed if isinstance(fixed, tuple) else (fixed,)
            spelled = " ".join(quoted(str(word)) for word in words) or "not given"
            raise UserError(f"--{key} is {spelled} in the run {folder}, and stays so")


def open_run(folder: Path) -> Run:
    """Read a run as its last checkpoint stands; nothing is written."""
    files = RunFolder(folder)
    state = files.read_state()
    config = files.read_config(state)
    architecture = files.read_architecture(state, config)
    tokenizer = files.read_tokenizer(state)
    data = files.read_data(state, tokenizer)
    task = TASKS[config.task](config, tokenizer, data)
    demand_memory_of(config, architecture, task)
    base = state.base  # None: the state has all parameters
    model = initial_model(architecture, config, None if base is None else base.find())
    distillation = load_distillation(config, model, tokenizer)
    if distillation is not None and distillation.sha256 != state.teacher:
        raise UserError(
            f"the teacher {config.teacher} was changed since the run began, and would teach "
            "something else. Put it back, or train a new run"
        )
    run = Run(files, config, model, task, distillation=distillation, base=base)
    run.take_up(state, files.state)
    return run


# ---- evaluation alone


@dataclass
class Evaluation:
    """The losses of a model: estimates, and that over the whole validation split."""

    step: int
    train_loss: float
    val_loss: float
    whole_val_loss: float


def evaluate_plan(config: TrainConfig, given: Collection[str] = ()) -> Evaluation:
    """Evaluate the model that a run would begin with; nothing is written. See `start`."""
    found = plan(config, given)
    losses = found.task.estimate_losses(found.model, 0)
    return Evaluation(0, *losses, found.task.whole_loss(found.model))


def evaluate_run(folder: Path, changes: dict[str, Any]) -> Evaluation:
    """Evaluate a run as its last checkpoint stands; nothing is written. See `resume`."""
    run = open_run(folder)
    demand_fixed(run.config, changes, folder)
    run.configure(dataclasses.replace(run.config, **changes))
    losses = run.evaluate()
    return Evaluation(run.progress.step, *losses, run.task.whole_loss(run.model))


def __getattr__(name: str) -> Any:
    """Return `accumulate_gradients` by the name that it had up to version 0.2.0, with a warning."""
    if name != "train_step":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = "train_step is now accumulate_gradients: it adds up gradients, and takes no step"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return accumulate_gradients

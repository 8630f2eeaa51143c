"""Replaying a run: its updates are computed again, bit for bit.

An update is a function of the parameters, the optimizer's means, the seed and the number of the
step. So a replay can begin at any checkpoint, or at the initialization, and compute every later
update again. The data and the environment (NumPy, BLAS, kernels) must be those of the run; the
run has noted both. What several processes have computed together, one process computes again: it
does the work of one rank after the other, and adds up in the same order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from rich.progress import track

from autograd.console import Console
from autograd.schema import fit
from npgpt.errors import UserError
from npgpt.hub import find_model
from npgpt.training.config import TrainConfig
from npgpt.training.loop import Run
from npgpt.training.memory import keep_freed_memory
from npgpt.training.prepare import initial_model
from npgpt.training.ranks import Alone, InTurn
from npgpt.training.run import open_run
from npgpt.training.state import Progress, Setting, environment, hash_parameters


class Replay:
    """A run whose updates are computed again; nothing is written.

    Update n leads from step n to step n + 1.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    first, last : int
        The first and the last update to compute. Without `last`, the last update that was saved.
    force : bool
        Go on although the environment or the parameters are not those of the run.

    Attributes
    ----------
    run : Run
        The run before its update ``run.progress.step``.
    last : int
        The last update to compute.
    origin : str
        Where the replay began: a state of the run folder, the initialization, or the model that
        the run started from.
    notes : list of str
        Reasons why the numbers may not be those of the run.

    Raises
    ------
    UserError
        If the folder holds no run, if the run has no such updates, or if its data, its environment
        or the model that it began with have changed.

    Examples
    --------
    >>> import tempfile
    >>> from npgpt.training.config import TrainConfig
    >>> from npgpt.training.run import start
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = start(TrainConfig(out_dir=folder, n_layer=1, n_embd=8, batch_size=2))
    ...     losses = [run.update()[0] for _ in range(3)]
    ...     replay = Replay(folder, 2, 2)
    ...     replay.seek(2)
    ...     replay.run.backward() == losses[2]
    True
    """

    def __init__(
        self, folder: str | Path, first: int = 0, last: int | None = None, *, force: bool = False
    ) -> None:
        keep_freed_memory()
        self.run = run = open_run(Path(folder))
        self.force = force
        self.notes: list[str] = []
        saved = run.progress.step
        n = max(saved, run.config.max_iters)
        self.last = saved - 1 if last is None else last
        if last is None and saved == 0:
            raise UserError(f"{folder} has saved no update yet; say which is the last one wanted")
        for step in (first, self.last):
            if not 0 <= step < n:
                raise UserError(f"{folder} has no update {step}: it takes {n}, counted from 0")
        if first > self.last:
            raise UserError(f"update {first} comes after update {self.last}")
        if self.last >= saved:
            self.notes.append(f"saved at step {saved}: what follows is what the run would do")
        self._settings = _settings(run)
        self.origin = self._rewind(first)
        self._demand_environment()

    def seek(self, step: int) -> None:
        """Compute the updates before a step, so that the update of this step is next."""
        for _ in tracked(range(self.run.progress.step, step)):
            self._configure()
            self.run.update()
        self._configure()

    # ---- where the replay begins

    def _rewind(self, step: int) -> str:
        """Load the latest saved state that is not after a step; return where the state was.

        Without such a state, the run begins again with its initialization.
        """
        run, history = self.run, self.run.history
        known = run.files.numbered_states() | {run.progress.step: run.files.state}
        for n in sorted((n for n in known if n <= step), reverse=True):
            run.load_state(known[n])
            if run.progress.step == n and _until(n, run.history) == _until(n, history):
                return str(known[n].relative_to(run.folder))
            # Otherwise the state was saved before the run was resumed from an earlier state, with
            # another configuration: the run as it is now never had these parameters.
        source = run.config.init_from
        is_new = source == "scratch"
        path = None if is_new else run.base.find() if run.base else find_model(source)
        model = initial_model(run.model.config, run.config, path, packed=run.base is not None)
        self.run = dataclasses.replace(run, model=model, progress=Progress())
        return "the initialization" if is_new else source

    # ---- what must be the same as in the run

    def _demand_environment(self) -> None:
        """Refuse, or with `force` note, that the updates were computed in another environment."""
        here = environment()
        begin = len(_until(self.run.progress.step + 1, self._settings)) - 1
        different: dict[str, None] = {}
        for setting in _until(self.last + 1, self._settings)[begin:]:
            then = setting["environment"]
            if then is None:
                self.notes.append(
                    "the run does not say in which environment it was computed, and whether its "
                    "configuration was ever changed"
                )
                continue
            then = {"products": "blas", **then}  # until version 0.2.0 there was no other
            if processes_of(setting) > 1:  # `InTurn` does as they did
                then = then | {"processes": None, "BLAS threads": here["BLAS threads"]}
            for key in {**then, **here}:
                if then.get(key) != here.get(key):
                    different[f"{key} {then.get(key)}, here {here.get(key)}"] = None
        if different and self.force:
            self.notes.append(f"computed with {'; '.join(different)}: the numbers may differ")
        elif different:
            raise UserError(
                f"{self.run.folder} was computed with {'; '.join(different)}. Make it as it was "
                "(OPENBLAS_NUM_THREADS, AUTOGRAD_KERNELS and AUTOGRAD_PRODUCT set threads, kernels "
                "and products), or add --force: the numbers may then differ"
            )

    def _configure(self) -> None:
        """Set the configuration of this step; check the parameters, if the run noted their hash."""
        run = self.run
        setting = _until(run.progress.step + 1, self._settings)[-1]
        run.configure(fit(setting["config"], TrainConfig, "the history's config"))
        n, environment = processes_of(setting), setting["environment"] or {}
        run.ranks = InTurn(n, environment.get("BLAS threads")) if n > 1 else Alone()
        run.model.train()
        known = setting["parameters"] if setting["step"] == run.progress.step else None
        if known not in (None, hash_parameters(run.model)) and not self.force:
            what = "began with" if run.progress.step == 0 else f"had at step {run.progress.step}"
            raise UserError(
                f"the parameters are not those that {run.folder} {what}: {self.origin}, where the "
                "replay began, or the program has changed. --force goes on with them"
            )


def tracked(steps: range) -> Iterable[int]:
    """Yield steps; in a terminal, show a progress bar."""
    console = Console(stderr=True)
    hidden = len(steps) < 2 or not console.is_terminal
    return track(steps, "replaying", console=console, transient=True, disable=hidden)


def _settings(run: Run) -> list[Setting]:
    """Return a run's history from step 0 on.

    Runs of the first version noted no history. Their first configuration counts from step 0 on, in
    an environment that is not known.
    """
    history = run.history
    if history and history[0]["step"] == 0:
        return history
    config = history[0]["config"] if history else dataclasses.asdict(run.config)
    return [{"step": 0, "parameters": None, "config": config, "environment": None}, *history]


def processes_of(setting: Setting) -> int:
    """Return how many processes computed the updates of a setting."""
    return (setting["environment"] or {}).get("processes", 1)


def _until(step: int, history: list[Setting]) -> list[Setting]:
    """Return the settings that began to hold before a step."""
    return [setting for setting in history if setting["step"] < step]

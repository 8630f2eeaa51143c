"""The folder of a run: the names of its files, its lock, and what must not have changed in it.

A run folder holds ``train.toml`` (the configuration), ``config.json`` and ``model.safetensors``
(the best model so far; of a run that trains a part of a model, ``trained.safetensors`` has this
part), ``generation_config.json`` (if generation has defaults),
``tokenizer.json``, ``tokens.bin`` and ``tokens.json`` (the text), ``metrics.jsonl``,
``state.safetensors`` (the last state, see `npgpt.training.state`), numbered states in
``checkpoints``, and in ``adapter`` LoRA's matrices, if the run trains these.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from contextlib import suppress
from pathlib import Path

from autograd.files import TEMPORARY, finish, make_folders, remove
from autograd.reading import LARGE, demand_intact, hash_file, open_file
from npgpt.errors import UserError
from npgpt.hub import ADAPTER, PART, load_config
from npgpt.models.config import ModelConfig
from npgpt.options import quoted
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.training.config import FIXED, TrainConfig, fields_of, keys_of
from npgpt.training.data import RESTORE, Tokens, open_tokens
from npgpt.training.state import State
from npgpt.weights.adapters import WEIGHTS
from npgpt.weights.load import load_model

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """The files of a run.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    path : Path
    recipe, model, part, tokenizer, state, metrics : Path
        ``train.toml``, ``model.safetensors``, ``trained.safetensors``, ``tokenizer.json``,
        ``state.safetensors``, ``metrics.jsonl``.
    checkpoints : Path
        The folder of numbered states.
    adapter : Path
        The folder of LoRA's matrices of the best model, in peft's format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "train.toml"
        self.model = self.path / "model.safetensors"
        self.part = self.path / PART
        self.tokenizer = self.path / "tokenizer.json"
        self.state = self.path / "state.safetensors"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.adapter = self.path / "adapter"

    @classmethod
    def make(cls, out_dir: str) -> RunFolder:
        """Make and lock a folder: `out_dir`, or if that is empty the next number under out/."""
        try:
            if out_dir:
                make_folders(Path(out_dir))
                return cls(out_dir).lock()
            out = Path("out")
            make_folders(out)
            taken = [int(path.name) for path in out.iterdir() if path.name.isdecimal()]
            for number in range(max(taken, default=0) + 1, 10**6):
                folder = out / f"{number:04d}"
                try:
                    folder.mkdir()
                except FileExistsError:
                    continue  # another run took it
                return cls(folder).lock()
            raise UserError(f"{out} is full")
        except OSError as error:
            reason = error.strerror
            raise UserError(f"the folder {out_dir or 'out'} cannot be made: {reason}") from None

    @property
    def best(self) -> Path:
        """The file of the best model, whole or the part of it that is trained."""
        return self.part if self.part.is_file() else self.model

    # ---- numbered states

    def checkpoint(self, step: int) -> Path:
        """Return the file of the numbered state of a step; its folder is made."""
        make_folders(self.checkpoints)
        return self.checkpoints / f"step-{step:06d}.safetensors"

    def numbered_states(self) -> dict[int, Path]:
        """Return the numbered states that are there, by their steps."""
        numbers = {
            path.stem.removeprefix("step-"): path
            for path in self.checkpoints.glob("step-*.safetensors")
        }
        return {int(number): path for number, path in numbers.items() if number.isdecimal()}

    # ---- one process at a time

    def lock(self) -> RunFolder:
        """Keep other processes from training here, until `unlock` or the end of this process.

        The lock is on the folder itself: no file is left behind, and even ``kill -9`` unlocks it.

        Raises
        ------
        UserError
            If another process has the lock.
        """
        if fcntl is None:
            return self
        descriptor = os.open(self.path, os.O_RDONLY)
        key = _identity(descriptor)
        try:
            if key not in _locks:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _locks[key] = descriptor
        except BlockingIOError:
            raise UserError(
                f"another process trains in {self.path}: wait until it ends, or stop it first"
            ) from None
        except OSError:
            pass  # a file system without locks
        finally:
            if _locks.get(key) != descriptor:
                os.close(descriptor)
        return self

    def unlock(self) -> None:
        """Let other processes train here again."""
        if self.path.is_dir() and (lock := _locks.pop(_identity(self.path), None)) is not None:
            os.close(lock)

    # ---- before a new run

    def demand_free(self, overwrite: bool) -> None:
        """Refuse a folder that holds something, unless it is to be overwritten, or a file."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out_dir {self.path} is a file; give a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not overwrite:
            if self.state.is_file():
                way = f"Continue the run in it with --resume {quoted(str(self.path))}, replace it"
            else:
                way = "It holds no run: train there, beside what it holds,"
            raise UserError(
                f"the folder {self.path} is not empty. {way} with --overwrite, or leave out "
                "--out_dir for a new one"
            )

    def demand_unneeded(self, needed: list[Path]) -> None:
        """Refuse to overwrite a run if the new run needs one of its files."""
        doomed = {path.resolve() for path in (self.path, *self.run_files())}
        for path in needed:
            if path.resolve() in doomed:
                raise UserError(
                    f"--overwrite would remove {path}, which the new run needs; give another "
                    "--out_dir"
                )

    def run_files(self) -> list[Path]:
        """Return all files here that belong to an earlier run, and no others."""
        own = [path for name in RUN_FILES if (path := self.path / name).exists()]
        own += self.checkpoints.glob("step-*.safetensors")
        own += (path for name in (ADAPTER, WEIGHTS) if (path := self.adapter / name).exists())
        return own + self.leftovers()

    def leftovers(self) -> list[Path]:
        """Return the unfinished files of writes during which a process was killed.

        Version 0.1.0 named them otherwise: ``.NAME.tmp``, or ``.tmp`` and six random letters.
        """
        old = re.compile(r"\..+\.(bin|json|jsonl|safetensors|toml)\.tmp|\.tmp[A-Za-z0-9]{6}")
        return [
            path
            for folder in (self.path, self.checkpoints, self.adapter)
            for path in folder.glob(".*")
            if (TEMPORARY.fullmatch(path.name) or old.fullmatch(path.name))
            and (path.is_file() or path.is_symlink())
        ]

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else.

        In a `autograd.files.together` block, all but the checkpoints stay until the block ends.
        """
        for file in self.run_files():
            remove(file)
        for folder in (self.checkpoints, self.adapter):
            with suppress(OSError):  # there is no such folder, or it holds something else
                folder.rmdir()

    # ---- what a resumed run reads, and what must not have changed since it was written

    def read_state(self) -> State:
        """Read the last state."""
        finish(self.path)
        if not self.state.is_file():
            filled = " --overwrite" if self.path.is_dir() and any(self.path.iterdir()) else ""
            raise UserError(
                f"{self.path} holds no run that can be resumed (no {self.state.name}); "
                f"start one with npgpt train --out_dir {quoted(str(self.path))}{filled}"
            )
        return State.read(self.state)

    def read_config(self, state: State) -> TrainConfig:
        """Read ``train.toml``; refuse one that was edited in a key that cannot change."""
        config = TrainConfig.from_toml(self.recipe)
        if not state.history:
            return config
        here = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples are lists, as recorded
        recorded = state.history[-1]["config"]
        changed = [
            f"{key} is {json.dumps(here[key])}, and {json.dumps(recorded[key])} in the run"
            for key in FIXED
            if key in recorded and here[key] != recorded[key]
        ]
        if changed:
            raise UserError(
                f"{self.recipe} was edited in what a run cannot change: {'; '.join(changed)}. "
                "Put that back"
            )
        return config

    def read_architecture(self, state: State, config: TrainConfig) -> ModelConfig:
        """Read ``config.json``; refuse one that is not of the model that the run trains."""
        architecture = load_config(self.path)
        expected = state.architecture
        if not expected:  # of version 0.1.0; what the configuration of the run says of the model
            expected = dataclasses.asdict(config.model(architecture.vocab_size))
            if config.init_from != "scratch":
                keys = keys_of(architecture)
                decided = [name for key in keys for name in fields_of(key, architecture)]
                expected = {name: expected[name] for name in decided}
        here, expected = (  # tuples are lists, as recorded
            json.loads(json.dumps(fields))
            for fields in (dataclasses.asdict(architecture), expected)
        )
        changed = [
            f"{key} is {json.dumps(here[key])}, and {json.dumps(value)} in the run"
            for key, value in expected.items()
            if here.get(key, value) != value
        ]
        if changed:
            raise UserError(
                f"{self.path / 'config.json'} was changed since the run began: "
                f"{'; '.join(changed)}. Put that back"
            )
        return architecture

    def read_tokenizer(self, state: State) -> Tokenizer:
        """Read ``tokenizer.json``; refuse one with another hash than the state says."""
        if state.tokenizer not in (None, hash_file(self.tokenizer, LARGE)):
            raise UserError(
                f"{self.tokenizer} was changed since the run began: its tokens would stand for "
                "something else. Put back a copy of the file, or train a new run"
            )
        return load_tokenizer(self.path)

    def read_data(self, state: State, tokenizer: Tokenizer) -> dict[str, Tokens]:
        """Open the token files; refuse one with another hash than the state says."""
        found = {}
        for name, (recorded, sha256) in state.data.items():
            inside = self.path / f"{name}.bin"  # the folder may have been moved
            path = inside if inside.is_file() else Path(recorded)
            array, info = open_tokens(path, tokenizer)
            if info.sha256 != sha256:
                raise UserError(
                    f"{path} is not the text that {self.path} was trained on (another hash). "
                    f"{RESTORE}"
                )
            found[name] = Tokens(array, path, sha256)
        return found

    def demand_model(self, hashed: bool) -> None:
        """Refuse a file of the best model that is lost or damaged.

        Where it must be `hashed`, as in runs after version 0.1.0, it must hold a hash of itself.
        """
        load_model(self.path, packed=True)
        with open_file(self.best) as file:
            if not demand_intact(file, self.best) and hashed:
                raise UserError(f"{self.best} is not as this run wrote it: it holds no hash")


RUN_FILES = (
    "train.toml config.json generation_config.json model.safetensors tokenizer.json tokens.bin "
    "tokens.json val_tokens.bin val_tokens.json metrics.jsonl loss.png state.safetensors "
    "report.md report.html"
).split() + [PART]

_locks: dict[tuple[int, int], int] = {}  # the open, locked folders of this process, by identity


def _identity(file: int | Path) -> tuple[int, int]:
    info = os.stat(file)
    return info.st_dev, info.st_ino


def latest_run(out: Path = Path("out")) -> Path:
    """Return the run under out/ whose model was written last."""
    models = [*out.glob("*/model.safetensors"), *out.glob(f"*/{PART}")]
    if not models:
        raise UserError(
            f"there is no trained model under {out}/; train one with npgpt train, "
            "or name a folder with --model"
        )
    return max(models, key=lambda path: path.stat().st_mtime).parent

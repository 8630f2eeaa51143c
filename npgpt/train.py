"""Pre-training: the loop, its run folder, and resuming it bit for bit.

A run folder holds ``train.toml`` (the configuration), ``config.json`` and ``model.safetensors``
(the best model so far), ``tokenizer.json``, ``tokens.bin`` and ``tokens.json`` (the text),
``metrics.jsonl``, and ``state.safetensors``: the last parameters, the optimizer's means and the
counters. All randomness is a function of the seed and the step, so that file alone decides what a
resumed run does; it is replaced in one step. Its history says what else decides every bit, so that
`npgpt.replay` can take the same steps again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from autograd.kernels import kernels_enabled
from npgpt.config import GPTConfig, TrainConfig
from npgpt.data import (
    open_tokens,
    random_batch,
    read_text,
    split_tokens,
    tokenizer_of_tokens,
    write_tokens,
)
from npgpt.display import Display, OutputLost
from npgpt.errors import UserError
from npgpt.evaluate import estimate_loss, whole_loss
from npgpt.files import (
    append,
    check_folder,
    clear,
    demand_intact,
    demand_kept,
    finish,
    hash_file,
    hold,
    leftovers,
    make_folder,
    make_folders,
    read_tensors,
    release,
    replacing,
    together,
    write_tensors,
    write_text,
    written,
)
from npgpt.memory import keep_freed_memory
from npgpt.model import GPT
from npgpt.nn import dropout_from
from npgpt.optim import AdamW, clip_grad_norm, learning_rate_at
from npgpt.tokenizers import Tokenizer, load_tokenizer, make_tokenizer, save_tokenizer
from npgpt.weights import (
    find_model,
    load_config,
    load_pretrained,
    save_config,
    save_generation_config,
    save_weights,
)


class Interrupted(Exception):
    """A signal ended the training, such as that of Ctrl-C, and the state is saved."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.strsignal(number))
        self.number = number


@dataclass
class Progress:
    """The counters of a run: all of its state that is not an array."""

    step: int = 0  # updates done
    evaluated: int = -1  # the step of the last evaluation
    best_step: int = 0
    best_loss: float = math.inf
    elapsed_seconds: float = 0.0
    finished: bool = False


@dataclass
class Run:
    """Everything that a training run consists of.

    The history lists, from the step at which each begins to hold, the configurations and
    environments (see `environment`) of the run, with the hash of the parameters at that step.
    """

    folder: Path
    config: TrainConfig
    model: GPT
    tokenizer: Tokenizer
    tokens: ndarray
    tokens_path: Path
    tokens_sha256: str
    progress: Progress = field(default_factory=Progress)
    history: list[dict[str, Any]] = field(default_factory=list)
    is_hashed: bool = True  # version 0.1.0 wrote files without a hash

    def __post_init__(self) -> None:
        self.tokenizer_sha256 = hash_file(written(self.folder / "tokenizer.json"))
        self.train_tokens, self.validation_tokens = split_tokens(
            self.tokens, self.config.block_size
        )
        self.optimizer = AdamW(self.model.named_parameters())
        self.configure(self.config)

    def configure(self, config: TrainConfig) -> None:
        """Go on by another configuration, of the same model and data."""
        self.config = config
        self.optimizer.betas = config.beta1, config.beta2
        self.optimizer.weight_decay = config.weight_decay

    # ---- state

    def save_state(self, path: Path | None = None) -> None:
        """Write all that a resumed run needs, in one step."""
        for name, array in self.model.state_dict().items():
            self.demand_finite(f"sum of {name}", float(array.sum()))
        metadata = {
            "progress": json.dumps(dataclasses.asdict(self.progress)),
            "tokens": json.dumps([str(self.tokens_path), self.tokens_sha256]),
            "history": json.dumps(self.history),
            "architecture": json.dumps(dataclasses.asdict(self.model.config)),
            "tokenizer": self.tokenizer_sha256,
        }
        tensors = self.model.state_dict() | self.optimizer.state_dict()
        write_tensors(path or self.folder / "state.safetensors", tensors, metadata)

    def load_state(self, path: Path | None = None) -> None:
        """Take up the state of the folder, or that of a checkpoint in it."""
        path = path or self.folder / "state.safetensors"
        tensors, metadata = read_state(path)
        means = {name: a for name, a in tensors.items() if name.startswith(("mean.", "square."))}
        try:
            self.model.load_state_dict({n: a for n, a in tensors.items() if n not in means})
            self.progress = Progress(**json.loads(metadata["progress"]))
            self.history = json.loads(metadata.get("history", "[]"))
            self.optimizer.load_state_dict(means, self.progress.step)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path} does not belong to this run, or is damaged: {error}") from None

    def save_best(self) -> None:
        """Write the model as the run's best."""
        save_weights(self.model, self.folder / "model.safetensors")

    def check_best(self) -> None:
        """Let the next evaluation write the model again if its file is lost or damaged."""
        path = self.folder / "model.safetensors"
        if self.progress.evaluated >= 0:
            try:
                load_pretrained(self.folder)
                with path.open("rb") as file:
                    if not demand_intact(file, path) and self.is_hashed:
                        raise UserError(f"{path} is not as this run wrote it: it holds no hash")
            except UserError as error:
                print(f"note: {error}. The next evaluation writes it again", file=sys.stderr)
                self.progress.evaluated, self.progress.finished = -1, False

    def remember(self) -> bool:
        """Add to the history what holds from here on; return whether it is anything new."""
        values = {"config": dataclasses.asdict(self.config), "environment": environment()}
        values = json.loads(json.dumps(values))  # tuples are lists, as in what was read
        if self.history and values.items() <= self.history[-1].items():
            return False
        hashed = hash_parameters(self.model)
        self.history.append({"step": self.progress.step, "parameters": hashed, **values})
        return True

    # ---- training

    def update(self) -> tuple[float, float, float]:
        """Take one optimizer step; return the loss, the gradient's norm, the learning rate."""
        loss = self.backward()
        norm, lr = self.descend()
        return loss, norm, lr

    def batches(self) -> list[tuple[ndarray, ndarray]]:
        """Draw the batches of this step: inputs and targets, (B, T) each."""
        config = self.config
        random = np.random.default_rng([config.seed, 1, self.progress.step])
        return [
            random_batch(self.train_tokens, config.batch_size, config.block_size, random)
            for _ in range(config.gradient_accumulation_steps)
        ]

    def dropout(self) -> AbstractContextManager[None]:
        """Let what runs inside the block drop what this step drops."""
        return dropout_from(np.random.default_rng([self.config.seed, 4, self.progress.step]))

    def backward(self) -> float:
        """Add the gradient of this step's batches to the parameters; return their mean loss."""
        with self.dropout():
            loss = train_step(self.model, self.batches())
        self.demand_finite("loss", loss)
        return loss

    def descend(self) -> tuple[float, float]:
        """Move by the gradient; return its norm before clipping, and the learning rate."""
        config = self.config
        lr = config.learning_rate
        if config.decay_lr:
            until = config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters
            lr = learning_rate_at(self.progress.step, lr, config.min_lr, config.warmup_iters, until)
        norm = clip_grad_norm(self.model.parameters(), config.grad_clip)
        self.demand_finite("norm of the gradient", norm)
        self.optimizer.step(lr)
        self.optimizer.zero_grad()
        self.progress.step += 1
        return norm, lr

    def evaluate(self, check: Any) -> tuple[float, float]:
        """Estimate the loss on both splits, with batches that depend on the seed and step alone."""
        config = self.config
        losses = []
        for i, tokens in enumerate((self.train_tokens, self.validation_tokens)):
            generator = np.random.default_rng([config.seed, 2 + i, self.progress.step])
            losses.append(
                estimate_loss(
                    self.model, tokens, config.batch_size, config.eval_iters, generator, check
                )
            )
        for loss in losses:
            self.demand_finite("loss", loss)
        return losses[0], losses[1]

    def demand_finite(self, what: str, value: float) -> None:
        """Stop the run, before anything is saved, where a number shows that it has diverged."""
        if not math.isfinite(value):
            kept = self.folder / "state.safetensors"
            raise UserError(
                f"after step {self.progress.step} the {what} is {value}. The last good checkpoint "
                f"is kept ({kept}). Lower --learning_rate, warm up for longer (--warmup_iters), or "
                "clip the gradient (--grad_clip 1)"
            )


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
    }


def hash_parameters(model: GPT) -> str:
    """Return the SHA-256 of a model's parameters."""
    digest = hashlib.sha256()
    for array in model.state_dict().values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def train_step(model: GPT, batches: list[tuple[ndarray, ndarray]]) -> float:
    """Add the gradient of the mean loss over some batches to the parameters; return that loss."""
    total = 0.0
    for inputs, targets in batches:
        _, loss = model(inputs, targets)
        total += loss.item() / len(batches)
        loss.backward(np.full((), 1 / len(batches), loss.dtype))
    return total


def train(run: Run, display: Display) -> None:
    """Train to the end, from wherever the run stands.

    Raises
    ------
    Interrupted
        After Ctrl-C, SIGTERM or SIGHUP, with the state saved.
    OutputLost
        If nothing can be shown any more, with the state saved.
    UserError
        If the loss is no longer finite.
    """
    keep_freed_memory()
    config, progress = run.config, run.progress
    run.model.train()
    metrics = Metrics(run.folder / "metrics.jsonl", progress.step)
    started = time.monotonic() - progress.elapsed_seconds

    def elapsed() -> float:
        progress.elapsed_seconds = time.monotonic() - started
        return progress.elapsed_seconds

    with interruptible() as interrupt, metrics, display:
        try:
            since, tokens = time.monotonic(), 0
            while True:
                interrupt.check()
                due = progress.step % config.eval_interval == 0 or progress.step >= config.max_iters
                if due and progress.evaluated != progress.step:
                    paused = time.monotonic()
                    train_loss, val_loss = run.evaluate(interrupt.check)
                    if val_loss < progress.best_loss or progress.evaluated < 0:
                        progress.best_loss, progress.best_step = val_loss, progress.step
                        run.save_best()
                    progress.evaluated = progress.step
                    values = {"train_loss": train_loss, "val_loss": val_loss}
                    metrics.write(progress.step, **values, elapsed_seconds=elapsed())
                    run.save_state()
                    display.evaluated(progress.step, train_loss, val_loss)
                    since += time.monotonic() - paused
                if progress.step >= config.max_iters:
                    break
                loss, norm, lr = run.update()
                tokens += config.batch_size * config.block_size * config.gradient_accumulation_steps
                if progress.step % config.log_interval == 0:
                    rate = tokens / (time.monotonic() - since)
                    since, tokens = time.monotonic(), 0
                    metrics.write(
                        progress.step, train_loss=loss, lr=lr, grad_norm=norm,
                        tokens_per_second=rate, elapsed_seconds=elapsed(),
                    )  # fmt: skip
                    display.step(progress.step, loss, rate)
                if config.checkpoint_interval and progress.step % config.checkpoint_interval == 0:
                    checkpoints = run.folder / "checkpoints"
                    make_folders(checkpoints)
                    run.save_state(checkpoints / f"step-{progress.step:06d}.safetensors")
            if not progress.finished:
                best = load_pretrained(run.folder)
                loss = whole_loss(best, run.validation_tokens, check=interrupt.check)
                progress.finished = True
                metrics.write(progress.step, val_loss=loss, elapsed_seconds=elapsed())
                run.save_state()
                display.finished(loss, progress.best_step, elapsed())
        except (Interrupted, OutputLost):
            elapsed()
            run.save_state()
            interrupt.check()  # a terminal that is closed sends a signal as well
            raise
        finally:
            release(run.folder)


# ---- starting and resuming


def start(config: TrainConfig, overwrite: bool = False, given: Collection[str] = ()) -> Run:
    """Prepare a new run: everything is checked before the folder is made.

    What a model to start from or a token file settles need not be in the configuration, and must
    not be there otherwise. `given` names the keys that are, should they have their default value.
    """
    if config.out_dir:
        check_folder(Path(config.out_dir), overwrite)
    source = None if config.init_from == "scratch" else find_model(config.init_from)
    base = None if source is None else load_pretrained(source)
    tokenizer = None if source is None else load_tokenizer(source)
    text, sources = "", list[str]()
    ready: Path | None = None
    if len(config.data) == 1 and config.data[0].endswith(".bin"):
        ready = Path(config.data[0]).resolve()
        tokens, info = open_tokens(ready)
        if tokenizer is not None and tokenizer.to_dict() != info.tokenizer:
            raise UserError(f"{ready} was made with another tokenizer than that of {source}")
        tokenizer = tokenizer_of_tokens(ready, info)
    else:
        text, sources = read_text(config.data)
        tokenizer = tokenizer or make_tokenizer(config.tokenizer, text)
        if tokenizer.n_vocab < 2:
            raise UserError(
                f"the text consists of one character, {text[:1]!r}: there is nothing to learn"
            )
        tokens = tokenizer.encode(text, disallowed_special=())
    if base is not None or ready is not None:
        config = settled(config, base, tokenizer, given)
    split_tokens(tokens, config.block_size)
    architecture = config.model(tokenizer.n_vocab)
    if base is not None:  # all that it is, but for this run's dropout and context
        rate = config.dropout
        architecture = dataclasses.replace(
            base.config, n_positions=config.block_size,
            resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate,
        )  # fmt: skip
    model = initial_model(architecture, config.seed, base)

    if overwrite and config.out_dir:
        demand_kept(Path(config.out_dir), [Path(p) for p in (*sources, source, ready) if p])
    is_new = not (config.out_dir and Path(config.out_dir).exists())
    folder = make_folder(config.out_dir)
    path = ready or folder / "tokens.bin"
    try:
        with together(folder):
            if overwrite:
                clear(folder)
            save_tokenizer(tokenizer, folder)
            save_config(model.config, folder)
            save_generation_config(model, folder)
            if ready is None:
                info = write_tokens(path, text, tokenizer, sources)
            write_text(folder / "train.toml", config.to_toml())
            run = Run(folder, config, model, tokenizer, tokens, path, info.sha256)
            run.remember()
            run.save_state()
        return dataclasses.replace(run, tokens=open_tokens(path)[0])
    except OSError as error:
        release(folder)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        reason = error.strerror or error
        raise UserError(f"the folder {folder} cannot be written: {reason}") from None


def settled(
    config: TrainConfig, base: GPT | None, tokenizer: Tokenizer, given: Collection[str]
) -> TrainConfig:
    """Take over what a model and a tokenizer settle; refuse a configuration that says otherwise.

    Only the context may be shorter than the model's.
    """
    said = {*given, *(f.name for f in fields(config) if getattr(config, f.name) != f.default)}
    values = {} if base is None else settled_by(base.config)
    if "block_size" in said and base is not None:
        values["block_size"] = min(config.block_size, values["block_size"])
    name = config.tokenizer
    is_named = name == tokenizer.kind or (
        "tokenizer" in said and make_tokenizer(name).tokens == tokenizer.tokens
    )
    values["tokenizer"] = name if is_named else tokenizer.kind
    origin = f"the token file {config.data[0]}" if base is None else f"the model {config.init_from}"
    for key, value in values.items():
        if key in said and value != getattr(config, key):
            raise UserError(
                f"{key} is {getattr(config, key)}, and {origin} has {value}, which it keeps: "
                f"leave {key} out"
            )
    return dataclasses.replace(config, **values)


def initial_model(architecture: GPTConfig, seed: int, base: GPT | None) -> GPT:
    """Make the model that a run begins with: a new one, or one like `base`."""
    model = GPT(architecture, seed=seed)
    if base is not None:
        state = base.state_dict()
        table = "transformer.wpe.weight"
        if table in state:  # a shorter context has the first of its positions
            state[table] = state[table][: architecture.n_positions]
        model.load_state_dict(state)
        model.generation_config = base.generation_config
    return model


FIXED = (  # keys that a resumed run cannot change
    "data tokenizer init_from seed bias activation_function n_layer n_head n_embd block_size "
    "norm_position position_embedding window_size dropout"
).split()


def resume(folder: Path, changes: dict[str, Any]) -> Run:
    """Take up a run where its last checkpoint stands; `changes` are training keys to change."""
    if folder.is_dir():
        hold(folder)
    run = open_run(folder)
    config = run.config
    if Path(changes.get("out_dir", folder)).resolve() != folder.resolve():
        raise UserError(f"a resumed run stays in its folder, {folder}: leave out --out_dir")
    for key, value in changes.items():
        if key in FIXED and value != getattr(config, key):
            raise UserError(f"--{key} is {getattr(config, key)} in the run {folder}, and stays so")
    for leftover in leftovers(folder) + leftovers(folder / "checkpoints"):
        leftover.unlink()
    run.configure(dataclasses.replace(config, **changes))
    if run.progress.step < run.config.max_iters:
        run.progress.finished = False
    run.check_best()
    if changes:
        write_text(folder / "train.toml", run.config.to_toml())
    if run.remember():
        run.save_state()
    return run


def open_run(folder: Path) -> Run:
    """Read a run as its last checkpoint stands; nothing is written."""
    state = folder / "state.safetensors"
    finish(folder)
    if not state.is_file():
        filled = " --overwrite" if folder.is_dir() and any(folder.iterdir()) else ""
        raise UserError(
            f"{folder} holds no run that can be resumed (no {state.name}); "
            f"start one with npgpt train --out_dir {shlex.quote(str(folder))}{filled}"
        )
    config = TrainConfig.from_toml(folder / "train.toml")
    _, metadata = read_state(state)
    try:
        recorded, sha256 = json.loads(metadata["tokens"])
        history = json.loads(metadata.get("history", "[]"))
        expected = json.loads(metadata.get("architecture", "{}"))
    except (KeyError, ValueError):
        raise UserError(f"{state} is damaged: it does not name its token file") from None
    if history:
        demand_unchanged(config, history[-1]["config"], folder / "train.toml")
    architecture = load_config(folder)
    if not expected:  # of version 0.1.0; what the configuration of the run says of the model
        expected = dataclasses.asdict(config.model(architecture.vocab_size))
        if config.init_from != "scratch":
            expected = {key: expected[key] for key in SETTLED}
    demand_same_model(architecture, expected, folder)
    if metadata.get("tokenizer") not in (None, hash_file(folder / "tokenizer.json")):
        raise UserError(
            f"{folder / 'tokenizer.json'} was changed since the run began: its tokens would stand "
            "for something else. Put back a copy of the file, or train a new run"
        )
    inside = folder / "tokens.bin"
    path = inside if inside.is_file() else Path(recorded)
    tokens, info = open_tokens(path)
    if info.sha256 != sha256:
        raise UserError(f"{path} is not the text that {folder} was trained on (another hash)")
    tokenizer = load_tokenizer(folder)
    model = GPT(architecture, seed=config.seed)
    run = Run(folder, config, model, tokenizer, tokens, path, sha256)
    run.is_hashed = "architecture" in metadata
    run.load_state()
    return run


STATE = {"progress", "tokens", "history", "architecture", "tokenizer"}  # the metadata of a state


def read_state(path: Path) -> tuple[dict[str, ndarray], dict[str, str]]:
    """Return the tensors and the metadata of a state.

    Raises
    ------
    UserError
        If the file is damaged, or holds what this version does not know.
    """
    try:
        tensors, metadata = read_tensors(path)
        if unknown := metadata.keys() - STATE:
            raise UserError(
                f"{path} is damaged, or of a newer version of npgpt: it holds {min(unknown)!r:.40}"
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


def demand_same_model(architecture: GPTConfig, expected: dict[str, Any], folder: Path) -> None:
    """Refuse a ``config.json`` that is not that of the model that a run trains."""
    here = dataclasses.asdict(architecture)
    changed = [
        f"{key} is {json.dumps(here[key])}, and {json.dumps(value)} in the run"
        for key, value in expected.items()
        if here.get(key, value) != value
    ]
    if changed:
        raise UserError(
            f"{folder / 'config.json'} was changed since the run began: {'; '.join(changed)}. "
            "Put that back"
        )


def demand_unchanged(config: TrainConfig, recorded: dict[str, Any], path: Path) -> None:
    """Refuse a ``train.toml`` that was edited where the run stays as it is."""
    here = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples are lists, as recorded
    changed = [
        f"{key} is {json.dumps(here[key])}, and {json.dumps(recorded[key])} in the run"
        for key in FIXED
        if key in recorded and here[key] != recorded[key]
    ]
    if changed:
        raise UserError(
            f"{path} was edited in what a run cannot change: {'; '.join(changed)}. Put that back"
        )


SETTLED = (  # what a model to start from settles, by its own names
    "n_layer n_head n_embd n_positions bias activation_function norm_position position_embedding "
    "window_size"
).split()


def settled_by(config: GPTConfig) -> dict[str, Any]:
    """Return the training keys that a model settles."""
    values = {key: getattr(config, key) for key in SETTLED}
    return values | {"block_size": values.pop("n_positions")}


def latest_run(out: Path = Path("out")) -> Path:
    """Return the run under out/ whose model was written last."""
    models = list(out.glob("*/model.safetensors"))
    if not models:
        raise UserError(
            f"there is no trained model under {out}/; train one with npgpt train, "
            "or name a folder with --model"
        )
    return max(models, key=lambda path: path.stat().st_mtime).parent


# ---- metrics and interruption


class Metrics:
    """The lines of ``metrics.jsonl``; those after the state that a run resumes from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        lines = []
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        lines.append(line + b"\n")
                except (ValueError, KeyError, TypeError):
                    pass  # cut short when the run was killed
        with replacing(path) as file:
            file.writelines(lines)
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("ab", buffering=0)

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, step: int, **values: float) -> None:
        """Append a line: all of it, or nothing if the disk is full."""
        rounded = {key: float(f"{value:.7g}") for key, value in values.items()}
        append(self._file, (json.dumps({"step": step, **rounded}) + "\n").encode())


class Interrupt:
    """Which signal, if any, asked the training to end."""

    number: int | None = None

    def check(self) -> None:
        """Raise Interrupted if there was one."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Let a signal end training between two steps, and a second Ctrl-C at once.

    The signals are that of Ctrl-C, SIGTERM, and SIGHUP unless nohup lets the process ignore it.
    SIGTERM and SIGHUP often come twice, from a shell and from the system: only the signal of Ctrl-C
    means more the second time.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handler(number: int, frame: Any) -> None:
        if number == signal.SIGINT and interrupt.number is not None:
            raise KeyboardInterrupt
        interrupt.number = number

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None or name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, handler)
    try:
        yield interrupt
    finally:
        for number, action in before.items():
            signal.signal(number, action)


__all__ = ["Interrupted", "Run", "latest_run", "resume", "start", "train", "train_step"]

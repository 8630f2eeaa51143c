"""Pre-training: the loop, its run folder, and resuming it bit for bit.

A run folder holds ``train.toml`` (the configuration), ``config.json`` and ``model.safetensors``
(the best model so far), ``tokenizer.json``, ``tokens.bin`` and ``tokens.json`` (the text),
``metrics.jsonl``, and ``state.safetensors``: the last parameters, the optimizer's means and the
counters. All randomness is a function of the seed and the step, so that file alone decides what a
resumed run does; it is replaced in one step. Its history says what else decides every bit, so that
`npgpt.training.replay` can take the same steps again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from numpy import ndarray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from autograd.kernels import kernels_enabled
from autograd.reading import LARGE, open_file, parse_json, read_tensors
from autograd.schema import FileName, Range, fit
from npgpt.errors import UserError
from npgpt.evaluation.loss import Check, estimate_loss, whole_loss
from npgpt.files import (
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
    release,
    together,
    write_tensors,
    write_text,
    written,
)
from npgpt.generation import generate
from npgpt.hub import find_model, load_config
from npgpt.models.config import GPTConfig, Positive, Steps
from npgpt.models.gpt import GPT
from npgpt.models.layers import dropout_from
from npgpt.options import quoted
from npgpt.say import say
from npgpt.tokenizers import Tokenizer, load_tokenizer, make_tokenizer, save_tokenizer
from npgpt.training.config import FIXED, MODEL_KEYS, TrainConfig, keys_of
from npgpt.training.curve import write_loss_png
from npgpt.training.data import (
    END,
    RESTORE,
    Batch,
    demand_context,
    encode_text,
    end_token,
    n_predicted,
    open_tokens,
    random_batch,
    read_documents,
    read_text,
    separated,
    split_tokens,
    tokenizer_of_tokens,
    write_tokens,
)
from npgpt.training.display import Display, OutputLost
from npgpt.training.interrupt import Interrupted, interruptible
from npgpt.training.memory import demand_memory, keep_freed_memory
from npgpt.training.metrics import Metrics
from npgpt.training.optim import AdamW, clip_grad_norm, learning_rate_at
from npgpt.weights.load import load_pretrained, save_config, save_generation_config, save_weights


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


@dataclass
class Tokens:
    """Tokens, and the file that holds them."""

    array: ndarray  # (N,)
    path: Path
    sha256: str


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
    data: Tokens
    validation: Tokens | None = None
    progress: Progress = field(default_factory=Progress)
    history: list[dict[str, Any]] = field(default_factory=list)
    is_hashed: bool = True  # version 0.1.0 wrote files without a hash

    def __post_init__(self) -> None:
        self.tokenizer_sha256 = hash_file(written(self.folder / "tokenizer.json"))
        self.train_tokens, self.validation_tokens = parts(
            self.data, self.validation, self.config.block_size
        )
        self.end = end_token(self.tokenizer) if self.config.documents else None
        self.optimizer = AdamW(self.model.named_parameters())
        self.configure(self.config)

    def configure(self, config: TrainConfig) -> None:
        """Go on by another configuration, of the same model and data."""
        self.config = config
        self.optimizer.betas = config.beta1, config.beta2
        self.optimizer.weight_decay = config.weight_decay

    @property
    def tokens(self) -> ndarray:
        """The tokens that the run trains on, and without `val_data` validates on, (N,)."""
        return self.data.array

    @property
    def is_out_of_patience(self) -> bool:
        """Whether too many evaluations have brought no better loss."""
        return 0 < self.config.patience <= self.progress.n_worse

    @property
    def barrier(self) -> int | None:
        """The token that keeps documents apart, if anything does."""
        return self.end if self.config.separate else None

    # ---- state

    def save_state(self, path: Path | None = None) -> None:
        """Write all that a resumed run needs, in one step."""
        for name, array in self.model.state_dict().items():
            self.demand_finite(f"sum of {name}", float(array.sum()))
        metadata = {
            "progress": json.dumps(dataclasses.asdict(self.progress)),
            "tokens": json.dumps([str(self.data.path), self.data.sha256]),
            "history": json.dumps(self.history),
            "architecture": json.dumps(dataclasses.asdict(self.model.config)),
            "tokenizer": self.tokenizer_sha256,
        }
        if self.validation:
            where = [str(self.validation.path), self.validation.sha256]
            metadata["val_tokens"] = json.dumps(where)
        tensors = self.model.state_dict() | self.optimizer.state_dict()
        write_tensors(path or self.folder / "state.safetensors", tensors, metadata)

    def load_state(self, path: Path | None = None) -> None:
        """Take up the state of the folder, or that of a checkpoint in it."""
        path = path or self.folder / "state.safetensors"
        tensors, metadata = read_state(path)
        means = {name: a for name, a in tensors.items() if name.startswith(("mean.", "square."))}
        try:
            self.model.load_state_dict({n: a for n, a in tensors.items() if n not in means})
            self.progress = fit(parse_json(metadata["progress"], "progress"), Progress, "progress")
            self.history = history_of(metadata)
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
                with open_file(path) as file:
                    if not demand_intact(file, path) and self.is_hashed:
                        raise UserError(f"{path} is not as this run wrote it: it holds no hash")
            except UserError as error:
                say(f"note: {error}. The next evaluation writes it again", sys.stderr)
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

    def batches(self) -> list[Batch]:
        """Draw the batches of this step."""
        config = self.config
        random = np.random.default_rng([config.seed, 1, self.progress.step])
        return [
            separated(
                *random_batch(self.train_tokens, config.batch_size, config.block_size, random),
                self.barrier,
            )
            for _ in range(config.gradient_accumulation_steps)
        ]

    def dropout(self) -> AbstractContextManager[None]:
        """Let what runs inside the block drop what this step drops."""
        return dropout_from(np.random.default_rng([self.config.seed, 4, self.progress.step]))

    def backward(self) -> float:
        """Add the gradient of this step's batches to the parameters; return their mean loss."""
        with self.dropout():
            loss = accumulate_gradients(self.model, self.batches())
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

    def evaluate(self, check: Check = lambda: None) -> tuple[float, float]:
        """Estimate the loss on both splits, with batches that depend on the seed and step alone."""
        splits = self.train_tokens, self.validation_tokens
        losses = estimate_losses(
            self.model, splits, self.config, self.progress.step, self.barrier, check
        )
        for loss in losses:
            self.demand_finite("loss", loss)
        return losses

    def prompt(self) -> str:
        """Return the beginning of the text, for a sample to continue."""
        if not self.config.data:
            return "def "
        ids = self.tokens[:200]
        if self.end is not None:  # the first document that is not empty
            ids = ids[np.argmax(ids != self.end) :]
            ids = ids[: (*np.flatnonzero(ids == self.end), len(ids))[0]]
        return first_words(self.tokenizer.decode(ids))

    def sample(self) -> str:
        """Return what the model writes now, as far as its context reaches.

        The numbers that are drawn for it are none of the training's.
        """
        n_positions = self.config.block_size
        ids = self.tokenizer.encode(self.prompt(), allowed_special="all")
        ids = ids[: max(1, n_positions // 2)] if len(ids) else self.tokens[:1].astype(np.int64)
        found = generate(
            self.model, ids, max_new_tokens=min(self.config.sample_tokens, n_positions - len(ids)),
            do_sample=True, temperature=0.8, top_k=0, seed=self.config.seed, eos_token_id=self.end,
        )[0]  # fmt: skip
        known = [i for i in found.tolist() if i in self.tokenizer.tokens]
        return self.tokenizer.decode(known, skip_special_tokens=True)

    def demand_finite(self, what: str, value: float) -> None:
        """Stop the run, before anything is saved, where a number shows that it has diverged."""
        if not math.isfinite(value):
            kept = self.folder / "state.safetensors"
            advice = "Lower --learning_rate, or warm up for longer (--warmup_iters)"
            if not 0 < self.config.grad_clip <= 1:
                advice += ", or clip the gradient (--grad_clip 1)"
            raise UserError(
                f"after step {self.progress.step} the {what} is {value}. The last good checkpoint "
                f"is kept ({kept}). {advice}"
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


def accumulate_gradients(model: GPT, batches: Sequence[Batch | tuple[ndarray, ndarray]]) -> float:
    """Add the gradient of the mean loss over some batches to ``.grad``; return the mean loss.

    Nothing else changes: an optimizer takes the step. The mean is over all targets of all batches.
    So two batches of 4 sequences give the gradient of one batch of 8, also where the batches have
    different numbers of targets.

    Parameters
    ----------
    model : GPT
    batches : sequence of Batch, or of (inputs, targets)
        Each is what the model reads: the arguments of ``model(...)``, in their order.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    >>> loss = accumulate_gradients(model, [(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))])
    >>> all(parameter.grad is not None for parameter in model.parameters())
    True
    """
    counts = [n_predicted(batch[1]) for batch in batches]
    total = 0.0
    for batch, count in zip(batches, counts, strict=True):
        if count:
            share = count / sum(counts)
            _, loss = model(*batch)
            total += loss.item() * share
            loss.backward(np.full((), share, loss.dtype))
    return total


def parts(data: Tokens, validation: Tokens | None, block_size: int) -> tuple[ndarray, ndarray]:
    """Return what trains, and what validates: the rest of the tokens, or tokens of their own."""
    if validation is None:
        return split_tokens(data.array, block_size)
    demand_context(data.array, block_size, "--data")
    demand_context(validation.array, block_size, "--val_data")
    return data.array, validation.array


def estimate_losses(
    model: GPT,
    splits: tuple[ndarray, ndarray],
    config: TrainConfig,
    step: int,
    barrier: int | None,
    check: Check = lambda: None,
) -> tuple[float, float]:
    """Estimate the loss on both splits, with batches that depend on the seed and step alone."""
    train_loss, val_loss = (
        estimate_loss(
            model, tokens, config.batch_size, config.eval_iters,
            np.random.default_rng([config.seed, 2 + i, step]), check, barrier,
        )
        for i, tokens in enumerate(splits)
    )  # fmt: skip
    return train_loss, val_loss


def first_words(text: str) -> str:
    """Return the beginning of a text's first line: something to continue."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), text)
    return line if len(line) <= 20 else line[:20].rsplit(" ", 1)[0]


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
                        progress.n_worse = 0
                        run.save_best()
                    else:
                        progress.n_worse += 1
                    progress.evaluated = progress.step
                    values = {"train_loss": train_loss, "val_loss": val_loss}
                    metrics.write(progress.step, **values, elapsed_seconds=elapsed())
                    run.save_state()
                    display.evaluated(progress.step, train_loss, val_loss)
                    if config.sample_tokens:
                        display.sampled(run.sample())
                    since += time.monotonic() - paused
                if progress.step >= config.max_iters or run.is_out_of_patience:
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
                loss = whole_loss(
                    best, run.validation_tokens, check=interrupt.check, end=run.barrier
                )
                progress.finished = True
                metrics.write(progress.step, val_loss=loss, elapsed_seconds=elapsed())
                run.save_state()
                write_loss_png(run.folder)
                if progress.step < config.max_iters:
                    display.stopped_early(progress.n_worse)
                display.finished(loss, progress.best_step, elapsed())
        except (Interrupted, OutputLost):
            elapsed()
            run.save_state()
            interrupt.check()  # a terminal that is closed sends a signal as well
            raise
        finally:
            release(run.folder)


# ---- starting and resuming


@dataclass
class Source:
    """Where tokens come from: a token file that is there, or text that becomes one."""

    file: Path | None = None
    text: str | list[str] = ""  # or documents
    names: list[str] = field(default_factory=list)


def source_of(names: tuple[str, ...], config: TrainConfig, is_main: bool) -> Source:
    """Return what the option for data, or that for validation data, names."""
    if len(names) == 1 and names[0].endswith(".bin"):
        return Source(Path(names[0]).expanduser().resolve(), names=list(names))
    if config.documents:
        return Source(None, *read_documents(names, config.separator, is_main))
    return Source(None, *read_text(names))


def tokenizer_for(
    config: TrainConfig, sources: list[Source], tokenizer: Tokenizer | None, origin: object
) -> Tokenizer:
    """Return the tokenizer of a model or a token file (`origin`), or else make a new one."""
    special = [END] if config.documents else []
    for source in sources:
        if source.file is None:
            continue
        if source.file.with_suffix(".json").is_file():
            own = tokenizer_of_tokens(source.file, open_tokens(source.file)[1])
            if tokenizer is not None and tokenizer.to_dict() != own.to_dict():
                raise UserError(
                    f"{source.file} was made with another tokenizer than that of {origin}"
                )
            tokenizer, origin = own, source.file
        elif tokenizer is None and config.tokenizer != "char":
            tokenizer = make_tokenizer(config.tokenizer, special_tokens=special)
            origin = f"--tokenizer {config.tokenizer}"
        else:
            open_tokens(source.file, tokenizer)  # which says what is missing
    if tokenizer is None:
        texts = ["".join(source.text) for source in sources]
        tokenizer = make_tokenizer(config.tokenizer, "".join(texts), special)
        if tokenizer.n_vocab - len(special) < 2:
            raise UserError(
                f"the text consists of one character, {texts[0][:1]!r}: there is nothing to learn"
            )
    return tokenizer


@dataclass
class Plan:
    """All that a new run begins with, before anything is written."""

    config: TrainConfig
    model: GPT
    tokenizer: Tokenizer
    sources: list[Source]  # of the data, and of the validation data if there is any
    tokens: list[Tokens]

    def __post_init__(self) -> None:
        self.data, self.validation = pair(self.tokens)
        self.splits = parts(self.data, self.validation, self.config.block_size)


def pair(tokens: list[Tokens]) -> tuple[Tokens, Tokens | None]:
    """Return the data, and the validation data if there is any."""
    return tokens[0], tokens[1] if len(tokens) > 1 else None


def plan(config: TrainConfig, given: Collection[str] = ()) -> Plan:
    """Read and check all that a new run needs; see `start`."""
    origin = None if config.init_from == "scratch" else find_model(config.init_from)
    base = None if origin is None else load_pretrained(origin)
    sources = [source_of(config.data, config, True)]
    if config.val_data:
        sources.append(source_of(config.val_data, config, False))
    tokenizer = None if origin is None else load_tokenizer(origin)
    tokenizer = tokenizer_for(config, sources, tokenizer, origin)
    tokens = []
    for source in sources:
        if source.file is None:
            array = encode_text(source.text, tokenizer)
            tokens.append(Tokens(array, Path(), ""))
        else:
            array, info = open_tokens(source.file, tokenizer)
            tokens.append(Tokens(array, source.file, info.sha256))
            config = dataclasses.replace(config, documents=config.documents or info.documents)
    files = [source.file for source in sources if source.file]
    if base is not None or files:
        what = f"the token file {files[0]}" if base is None else f"the model {config.init_from}"
        config = resolve_options(config, base, tokenizer, given, what)
    parts(*pair(tokens), config.block_size)
    architecture = config.model(tokenizer.n_vocab, None if base is None else base.config)
    demand_memory(architecture, config.batch_size * config.block_size)
    model = initial_model(architecture, config.seed, base)
    if config.documents:
        end = end_token(tokenizer)
        for source, found in zip(sources, tokens, strict=True):
            if not np.any(found.array == end):
                raise UserError(f"{source.file} holds no end token ({end}): leave out --documents")
        model.generation_config = {**model.generation_config, "eos_token_id": end}
    return Plan(config, model, tokenizer, sources, tokens)


def start(config: TrainConfig, overwrite: bool = False, given: Collection[str] = ()) -> Run:
    """Prepare a new run: everything is checked before the folder is made.

    What a model to start from or a token file settles need not be in the configuration, and must
    not be there otherwise. `given` names the keys that are, should they have their default value.
    """
    if config.out_dir:
        check_folder(Path(config.out_dir), overwrite)
    found = plan(config, given)
    config, model, tokenizer = found.config, found.model, found.tokenizer
    if overwrite and config.out_dir:
        base = None if config.init_from == "scratch" else find_model(config.init_from)
        names = [name for source in found.sources for name in (*source.names, source.file)]
        demand_kept(Path(config.out_dir), [Path(name) for name in (*names, base) if name])
    is_new = not (config.out_dir and Path(config.out_dir).exists())
    folder = make_folder(config.out_dir)
    try:
        with together(folder):
            if overwrite:
                clear(folder)
            save_tokenizer(tokenizer, folder)
            save_config(model.config, folder)
            save_generation_config(model, folder)
            for name, source, tokens in zip(TOKEN_FILES, found.sources, found.tokens, strict=False):
                if source.file is None:
                    tokens.path = folder / f"{name}.bin"
                    tokens.sha256 = write_tokens(
                        tokens.path, source.text, tokenizer, source.names, tokens.array
                    ).sha256
            write_text(folder / "train.toml", config.to_toml())
            run = Run(folder, config, model, tokenizer, found.data, found.validation)
            run.remember()
            run.save_state()
        for tokens in found.tokens:
            tokens.array = open_tokens(tokens.path, tokenizer)[0]
        return dataclasses.replace(run)
    except OSError as error:
        release(folder)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        reason = error.strerror or error
        raise UserError(f"the folder {folder} cannot be written: {reason}") from None


TOKEN_FILES = ("tokens", "val_tokens")  # of the data and of the validation data, in a run folder


@dataclass
class Evaluation:
    """The losses of a model: estimates, and that over the whole validation split."""

    step: int
    train_loss: float
    val_loss: float
    whole_val_loss: float


def evaluate_plan(config: TrainConfig, given: Collection[str] = ()) -> Evaluation:
    """Evaluate the model that a run would begin with; nothing is written."""
    found = plan(config, given)
    barrier = end_token(found.tokenizer) if config.separate else None
    losses = estimate_losses(found.model, found.splits, found.config, 0, barrier)
    return Evaluation(0, *losses, whole_loss(found.model, found.splits[1], end=barrier))


def evaluate_run(folder: Path, changes: dict[str, Any]) -> Evaluation:
    """Evaluate a run as its last checkpoint stands; nothing is written."""
    run = open_run(folder)
    demand_fixed(run.config, changes, folder)
    run.configure(dataclasses.replace(run.config, **changes))
    losses = run.evaluate()
    whole = whole_loss(run.model, run.validation_tokens, end=run.barrier)
    return Evaluation(run.progress.step, *losses, whole)


def resolve_options(
    config: TrainConfig,
    base: GPT | None,
    tokenizer: Tokenizer,
    given: Collection[str],
    origin: str,
) -> TrainConfig:
    """Return the configuration with the values that a model and a tokenizer decide.

    A configuration that says otherwise is refused; only its context may be shorter than the
    model's. `origin` is the model, or the token file, in the words of a message.
    """
    said = {*given, *(f.name for f in fields(config) if getattr(config, f.name) != f.default)}
    values = {} if base is None else keys_of(base.config)
    if "block_size" in said and base is not None:
        values["block_size"] = min(config.block_size, values["block_size"])
    name = config.tokenizer
    is_named = name == tokenizer.kind or (
        "tokenizer" in said and make_tokenizer(name).tokens == tokenizer.tokens
    )
    values["tokenizer"] = name if is_named else tokenizer.kind
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


def resume(folder: Path, changes: dict[str, Any]) -> Run:
    """Take up a run where its last checkpoint stands; `changes` are training keys to change."""
    if folder.is_dir():
        hold(folder)
    run = open_run(folder)
    config = run.config
    if Path(changes.get("out_dir", folder)).resolve() != folder.resolve():
        raise UserError(f"a resumed run stays in its folder, {folder}: leave out --out_dir")
    demand_fixed(config, changes, folder)
    for leftover in leftovers(folder) + leftovers(folder / "checkpoints"):
        leftover.unlink()
    run.configure(dataclasses.replace(config, **changes))
    if run.progress.step < run.config.max_iters and not run.is_out_of_patience:
        run.progress.finished = False
    run.check_best()
    if changes:
        write_text(folder / "train.toml", run.config.to_toml())
    if run.remember():
        run.save_state()
    return run


def demand_fixed(config: TrainConfig, changes: dict[str, Any], folder: Path) -> None:
    """Refuse to change what a resumed run cannot change."""
    for key, value in changes.items():
        if key in FIXED and value != getattr(config, key):
            fixed = getattr(config, key)
            words = () if fixed is None else fixed if isinstance(fixed, tuple) else (fixed,)
            spelled = " ".join(quoted(str(word)) for word in words) or "not given"
            raise UserError(f"--{key} is {spelled} in the run {folder}, and stays so")


def open_run(folder: Path) -> Run:
    """Read a run as its last checkpoint stands; nothing is written."""
    state = folder / "state.safetensors"
    finish(folder)
    if not state.is_file():
        filled = " --overwrite" if folder.is_dir() and any(folder.iterdir()) else ""
        raise UserError(
            f"{folder} holds no run that can be resumed (no {state.name}); "
            f"start one with npgpt train --out_dir {quoted(str(folder))}{filled}"
        )
    config = TrainConfig.from_toml(folder / "train.toml")
    _, metadata = read_state(state)
    try:
        where = [parse_json(metadata[key], key) for key in TOKEN_FILES if key in metadata]
        named = fit(where, list[tuple[FileName, str]], "tokens")
        recorded = [(Path(path), sha256) for path, sha256 in named]
        if "tokens" not in metadata:
            raise KeyError
        history = history_of(metadata)
        expected = parse_json(metadata.get("architecture", "{}"), "architecture")
        expected = fit(expected, dict[str, Any], "architecture")
    except KeyError:
        raise UserError(f"{state} is damaged: it does not name its token file") from None
    except UserError as error:
        raise UserError(f"{state} is damaged: {error}") from None
    if history:
        demand_unchanged(config, history[-1]["config"], folder / "train.toml")
    architecture = load_config(folder)
    if not expected:  # of version 0.1.0; what the configuration of the run says of the model
        expected = dataclasses.asdict(config.model(architecture.vocab_size))
        if config.init_from != "scratch":
            expected = {
                name: expected[name] for key in keys_of(architecture) for name in MODEL_KEYS[key]
            }
    demand_same_model(architecture, expected, folder)
    if metadata.get("tokenizer") not in (None, hash_file(folder / "tokenizer.json", LARGE)):
        raise UserError(
            f"{folder / 'tokenizer.json'} was changed since the run began: its tokens would stand "
            "for something else. Put back a copy of the file, or train a new run"
        )
    tokenizer = load_tokenizer(folder)
    tokens = []
    for name, (path, sha256) in zip(TOKEN_FILES, recorded, strict=False):
        inside = folder / f"{name}.bin"
        path = inside if inside.is_file() else path
        array, info = open_tokens(path, tokenizer)
        if info.sha256 != sha256:
            raise UserError(
                f"{path} is not the text that {folder} was trained on (another hash). {RESTORE}"
            )
        tokens.append(Tokens(array, path, sha256))
    demand_memory(architecture, config.batch_size * config.block_size)
    model = GPT(architecture, seed=config.seed)
    run = Run(folder, config, model, tokenizer, *pair(tokens))
    run.is_hashed = "architecture" in metadata
    run.load_state()
    return run


STATE = {"progress", "history", "architecture", "tokenizer", *TOKEN_FILES}  # metadata of a state


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


class Setting(TypedDict):
    """What holds from a step of a run on: an entry of the run's history."""

    step: Steps
    parameters: str | None
    config: dict[str, Any]
    environment: dict[str, Any] | None


def history_of(metadata: dict[str, str]) -> list[dict[str, Any]]:
    """Return the history in the metadata of a state; runs of the first version have none."""
    history = parse_json(metadata.get("history", "[]"), "history")
    return fit(history, list[Setting], "history")


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


def latest_run(out: Path = Path("out")) -> Path:
    """Return the run under out/ whose model was written last."""
    models = list(out.glob("*/model.safetensors"))
    if not models:
        raise UserError(
            f"there is no trained model under {out}/; train one with npgpt train, "
            "or name a folder with --model"
        )
    return max(models, key=lambda path: path.stat().st_mtime).parent


def __getattr__(name: str) -> Any:
    """Return `accumulate_gradients` by the name that it had up to version 0.2.0, with a warning."""
    if name != "train_step":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = "train_step is now accumulate_gradients: it adds up gradients, and takes no step"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return accumulate_gradients


__all__ = ["Interrupted", "Run", "accumulate_gradients", "latest_run", "resume", "start", "train"]

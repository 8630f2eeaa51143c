"""The training loop: `Run` is what is trained and how far it is, `train` takes it to its end."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy import ndarray

from autograd import Tensor
from autograd.files import written
from autograd.reading import hash_file
from npgpt.errors import UserError
from npgpt.evaluation.loss import Check, Objective
from npgpt.models.gpt import GPT
from npgpt.models.layers import dropout_from
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.curve import write_loss_png
from npgpt.training.data import AnyBatch
from npgpt.training.display import Display, OutputLost
from npgpt.training.distillation import Distillation
from npgpt.training.folder import RunFolder
from npgpt.training.interrupt import Interrupted, interruptible
from npgpt.training.memory import keep_freed_memory
from npgpt.training.metrics import Metrics
from npgpt.training.optim import (
    AdamW,
    inverse_sqrt_rate_at,
    learning_rate_at,
)
from npgpt.training.ranks import Alone
from npgpt.training.state import Progress, Setting, State, environment, hash_parameters
from npgpt.training.task import Task, accumulate_gradients
from npgpt.weights.adapters import save_adapter
from npgpt.weights.load import load_model, save_weights
from npgpt.weights.packed import PackedGPT
from npgpt.weights.part import Base, save_part


def train(run: Run, display: Display) -> None:
    """Train a run to its end, from the step where it is.

    Every `eval_interval` updates, and at the end, the losses are estimated, the model is written if
    it is the best so far, and the state is saved. A signal such as that of Ctrl-C ends the loop
    between two updates, with the state saved.

    Parameters
    ----------
    run : Run
        A new run (`npgpt.training.run.start`), or one that is resumed (`resume`).
    display : Display
        Shows losses and samples.

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
    metrics = Metrics(run.files.metrics, progress.step)
    started = time.monotonic() - progress.elapsed_seconds

    def elapsed() -> float:
        progress.elapsed_seconds = time.monotonic() - started
        return progress.elapsed_seconds

    with interruptible() as interrupt, metrics, display:
        try:
            # Each turn evaluates if it is time to, ends the loop if the run is complete, and does
            # one update. With eval_interval = 250 and max_iters = 500, the losses are evaluated at
            # the steps 0, 250 and 500. A run that was interrupted at step 317 enters the loop at
            # step 317, and evaluates at step 500. `since` and `n_tokens` measure tokens per second,
            # from the last such line of metrics on, without the time of evaluations.
            since, n_tokens = time.monotonic(), 0
            while True:
                interrupt.check()
                if run.must_evaluate:
                    paused = time.monotonic()
                    train_loss, val_loss = run.evaluate(interrupt.check)
                    run.save_if_best(val_loss)
                    others = run.task.metrics(run.model, progress.step, interrupt.check)
                    values = {"train_loss": train_loss, "val_loss": val_loss, **others}
                    metrics.write(progress.step, **values, elapsed_seconds=elapsed())
                    run.save_state()
                    display.evaluated(progress.step, train_loss, val_loss, **others)
                    if config.sample_tokens:
                        display.sampled(run.task.sample(run.model))
                    since += time.monotonic() - paused
                if run.is_complete:
                    break
                loss, norm, lr = run.update()
                n_tokens += run.tokens_per_update
                if progress.step % config.log_interval == 0:
                    rate = n_tokens / (time.monotonic() - since)
                    since, n_tokens = time.monotonic(), 0
                    metrics.write(
                        progress.step, train_loss=loss, lr=lr, grad_norm=norm,
                        tokens_per_second=rate, elapsed_seconds=elapsed(),
                    )  # fmt: skip
                    display.step(progress.step, loss, rate)
                if config.checkpoint_interval and progress.step % config.checkpoint_interval == 0:
                    run.save_state(run.files.checkpoint(progress.step))
            if not progress.finished:  # as it is for a complete run that is resumed as it was
                loss = run.task.whole_loss(run.best_model(), interrupt.check)
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
            run.files.unlock()


@dataclass
class Run:
    """What is trained, on what, and how far it is.

    Attributes
    ----------
    files : RunFolder
    config : TrainConfig
    model : GPT
    task : Task
        Draws the batches, and judges the model.
    ranks : Alone
        Who computes an update: this process alone, or several that divide the work.
    progress : Progress
    history : list of Setting
        The configurations and environments of the run so far, each from the step at which it began
        to hold, with the hash of the parameters at that step.
    optimizer : AdamW
    is_hashed : bool
        Whether the run's files hold hashes of themselves; version 0.1.0 wrote none.
    distillation : Distillation, optional
        The teacher whose probabilities the model learns, too.
    base : Base, optional
        The model that has the frozen parameters: they are not in the run's files.
    """

    files: RunFolder
    config: TrainConfig
    model: GPT
    task: Task
    ranks: Alone = field(default_factory=Alone)
    progress: Progress = field(default_factory=Progress)
    history: list[Setting] = field(default_factory=list)
    is_hashed: bool = True
    distillation: Distillation | None = None
    base: Base | None = None

    def __post_init__(self) -> None:
        self.tokenizer_sha256 = hash_file(written(self.files.tokenizer))
        trained = ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)
        self.optimizer = AdamW(trained)
        self.configure(self.config)

    def configure(self, config: TrainConfig) -> None:
        """Go on by another configuration, of the same model and data."""
        self.config = self.task.config = config
        self.optimizer.betas = config.beta1, config.beta2
        self.optimizer.weight_decay = config.weight_decay
        self.model.transformer.checkpoint_activations = config.checkpoint_activations
        self.model.label_smoothing = config.label_smoothing

    @property
    def folder(self) -> Path:
        """The path of the run folder."""
        return self.files.path

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the task."""
        return self.task.tokenizer

    # ---- one update

    def update(self) -> tuple[float, float, float]:
        """Do one update; return loss, norm of the gradient before clipping, and learning rate."""
        self.ranks.order_update()
        loss = self.backward()
        return loss, *self.descend()

    def backward(self) -> float:
        """Add the gradient of this step's batches to ``.grad``; return their mean loss."""
        loss = self.ranks.add_up(self.optimizer.parameters, self.backward_part)
        self.demand_finite("loss", loss)
        return loss

    def backward_part(self, rank: int, size: int) -> float:
        """Add the gradient of a rank's part of the batches; return its part of the loss."""
        with self.dropout():
            batches = self.task.batches(self.progress.step)
            return accumulate_gradients(self.objective(), batches, rank, size)

    def objective(self) -> Objective:
        """Return what maps a batch to an output and the loss whose gradient an update follows."""
        if self.distillation is not None:
            return self.distillation.objective(self.model)
        return self.task.objective(self.model)

    def losses(self, batch: AnyBatch) -> Tensor:
        """Return the loss of each target of a batch, of which the objective returns the mean."""
        if self.distillation is not None:
            return self.distillation.losses(self.model, batch)
        return self.task.losses(self.model, batch)

    def dropout(self) -> AbstractContextManager[None]:
        """Let the code in the block drop what this step drops."""
        return dropout_from(np.random.default_rng([self.config.seed, 4, self.progress.step]))

    def descend(self) -> tuple[float, float]:
        """Clip the gradient and let the optimizer take a step; count the update.

        Returns the norm of the gradient before clipping, and the learning rate.
        """
        lr = self.learning_rate()
        norm = self.ranks.clip(self.optimizer.parameters, self.config.grad_clip)
        self.demand_finite("norm of the gradient", norm)
        self.optimizer.step(lr)
        self.ranks.complete_update()
        self.optimizer.zero_grad()
        self.progress.step += 1
        return norm, lr

    def learning_rate(self) -> float:
        """Return the learning rate of this step."""
        config = self.config
        if not config.decay_lr:
            return config.learning_rate
        step, peak = self.progress.step, config.learning_rate
        if config.lr_schedule == "inverse_sqrt":
            return inverse_sqrt_rate_at(step, peak, config.warmup_iters)
        until = config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters
        return learning_rate_at(step, peak, config.min_lr, config.warmup_iters, until)

    @property
    def tokens_per_update(self) -> int:
        """How many tokens the batches of an update hold."""
        return self.task.tokens_per_batch * self.config.gradient_accumulation_steps

    def demand_finite(self, what: str, value: float) -> None:
        """Stop the run, before anything is saved, if a number shows that training diverged."""
        if not math.isfinite(value):
            advice = "Lower --learning_rate, or warm up for longer (--warmup_iters)"
            if not 0 < self.config.grad_clip <= 1:
                advice += ", or clip the gradient (--grad_clip 1)"
            raise UserError(
                f"after step {self.progress.step} the {what} is {value}. The last good checkpoint "
                f"is kept ({self.files.state}). {advice}"
            )

    # ---- evaluation, and the end

    @property
    def must_evaluate(self) -> bool:
        """Whether this step is to be evaluated, and was not yet."""
        step, config = self.progress.step, self.config
        is_due = step % config.eval_interval == 0 or step >= config.max_iters
        return is_due and self.progress.evaluated != step

    def evaluate(self, check: Check = lambda: None) -> tuple[float, float]:
        """Estimate the losses on the training and the validation data."""
        losses = self.task.estimate_losses(self.model, self.progress.step, check)
        for loss in losses:
            self.demand_finite("loss", loss)
        return losses

    def save_if_best(self, val_loss: float) -> None:
        """Count this step as evaluated; write the model if its loss is the best so far."""
        progress = self.progress
        if val_loss < progress.best_loss or progress.evaluated < 0:
            progress.best_loss, progress.best_step = val_loss, progress.step
            progress.n_worse = 0
            self.save_best()
        else:
            progress.n_worse += 1
        progress.evaluated = progress.step

    @property
    def is_out_of_patience(self) -> bool:
        """Whether too many evaluations have brought no better loss."""
        return 0 < self.config.patience <= self.progress.n_worse

    @property
    def is_complete(self) -> bool:
        """Whether all updates are done, or the run is out of patience."""
        return self.progress.step >= self.config.max_iters or self.is_out_of_patience

    # ---- state

    def own_parameters(self) -> dict[str, ndarray]:
        """Return the parameters that the run saves: all, or those that are not of its base."""
        state = self.model.state_dict()
        return state if self.base is None else {name: state[name] for name in self.optimizer.means}

    def save_state(self, path: Path | None = None) -> None:
        """Write all that a resumed run needs: to the folder's state, or to another file."""
        self.ranks.collect()
        parameters = self.own_parameters()
        for name, array in parameters.items():
            self.demand_finite(f"sum of {name}", float(array.sum()))
        State(
            parameters
            | self.optimizer.state_dict()
            | {f"task.{name}": array for name, array in self.task.state_dict().items()},
            self.progress,
            {name: (str(tokens.path), tokens.sha256) for name, tokens in self.task.data.items()},
            self.history,
            dataclasses.asdict(self.model.config),
            self.tokenizer_sha256,
            None if self.distillation is None else self.distillation.sha256,
            self.base,
        ).write(path or self.files.state)

    def load_state(self, path: Path) -> None:
        """Take up the state in a file of this run's folder."""
        self.take_up(State.read(path), path)

    def take_up(self, state: State, path: Path) -> None:
        """Go on from a state; `path` is where the state was read."""
        frozen = self.model.state_dict().keys() - self.own_parameters().keys()
        try:
            self.model.load_state_dict(state.parameters, frozen)
            self.optimizer.load_state_dict(state.means, state.progress.step)
            self.task.load_state_dict(state.of_task)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path} does not belong to this run, or is damaged: {error}") from None
        self.progress, self.history = state.progress, state.history
        self.is_hashed = bool(state.architecture)

    def save_best(self) -> None:
        """Write the model, or the part of it that is trained, as the best of the run.

        LoRA's matrices are written apart in peft's form as well.
        """
        if self.base is None:
            save_weights(self.model, self.files.model)
        else:
            save_part(self.model, self.base, self.files.part)
        if self.config.lora_r:
            save_adapter(self.model, self.files.adapter, self.config.init_from)

    def best_model(self) -> GPT:
        """Load the best model of the run; its weights are packed if those in training are."""
        return load_model(self.folder, packed=isinstance(self.model, PackedGPT))

    def remember(self) -> bool:
        """Add to the history what holds from here on; return whether it is anything new."""
        config = json.loads(json.dumps(dataclasses.asdict(self.config)))  # tuples are lists there
        here = environment()
        if self.ranks.size > 1:
            here["processes"] = self.ranks.size
        last = self.history[-1] if self.history else None
        if last and (last["config"], last["environment"]) == (config, here):
            return False
        self.history.append(
            {
                "step": self.progress.step,
                "parameters": hash_parameters(self.model),
                "config": config,
                "environment": here,
            }
        )
        return True

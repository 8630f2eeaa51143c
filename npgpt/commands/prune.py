"""``npgpt prune``: make a model smaller in rounds, each of which removes parts and fine-tunes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from autograd import no_grad
from autograd.files import together, write_text
from autograd.schema import FileName, Range
from npgpt.commands import train
from npgpt.commands.distill import task_of
from npgpt.diagnostics.info import config_of
from npgpt.diagnostics.page import loss_chart
from npgpt.errors import UserError
from npgpt.evaluation.result import Table
from npgpt.models.config import Interval, ModelConfig, Positive, Size, Steps
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.options import read
from npgpt.parallel.mpi import launched_rank
from npgpt.say import say
from npgpt.tokenizers import save_tokenizer
from npgpt.training.config import TRAINABLE_KEYS, TrainConfig
from npgpt.training.data import AnyBatch
from npgpt.training.folder import RunFolder
from npgpt.training.prepare import plan
from npgpt.training.pruning import (
    Parts,
    count_parts,
    demand_places,
    measure_importance,
    remove_parts,
    share_of_zeros,
    smaller_config,
    units_of,
    zero_smallest,
)
from npgpt.training.task import TRAIN, Task
from npgpt.weights.load import load_model

Share = Annotated[float, Range(0, 1)]


@dataclass
class Options(TrainConfig):
    """Prune a model: remove the heads, MLP channels or layers that the loss needs least.

    With --weights, small weights become zero instead, and stay zero. The model then is as large and
    as fast as before.

    Each round removes a part of them, then fine-tunes what is left, by the keys of npgpt train. The
    folder --out_dir gets an ordinary model and a run for each round (pruned-1, tuned-1, pruned-2
    and so on), and the losses, sizes and speeds as a table and two pictures.
    """

    model: FileName = ""  # type: ignore[assignment] # options are no configuration
    """The folder of the model, or its name."""
    heads: Share = 0.0
    """The share of heads to remove, the same number in each layer."""
    channels: Share = 0.0
    """The share of the channels of MLPs to remove, the same number in each layer."""
    layers: Share = 0.0
    """The share of layers to remove."""
    weights: Share = 0.0
    """The share of the weights of each linear layer to set to zero, the smallest ones."""
    rounds: Size = 1
    """In how many rounds the shares are removed."""
    samples: Size = 64
    """Sequences of the training data from which importance is computed."""
    workers: Size = 1
    """Processes of this machine that divide each batch, at most one for each core."""
    max_iters: Steps = 200
    """Updates of each round; 0 leaves the model as it is after the cut."""
    learning_rate: Positive = 1e-3
    warmup_iters: Steps = 20
    eval_interval: Interval = 100
    sample_tokens: Steps = 0


# The options that are no keys of a run, and the other values that are not those of npgpt train.
OWN = ("model", *Parts._fields, "weights", "rounds", "samples", "workers")
USUAL = {name: getattr(Options, name) for name in Options.__annotations__ if name not in OWN}


def run(args: list[str]) -> int:
    """Prune, and return the exit code: 128 + n if signal n ended a fine-tuning."""
    given = read(Options, args, "prune")
    if launched_rank() is not None:
        raise UserError("npgpt prune is not for mpirun, which starts one run: use --workers")
    if not given.get("model"):
        raise UserError("there is no model: give a folder with a model, or a name, with --model")
    if "init_from" in given:
        raise UserError("--init_from is --model here: give the model with --model")
    if "eval_only" in given:
        raise UserError("--eval_only prunes nothing: leave it out, or use npgpt train --eval_only")
    config = config_of(given["model"])
    units_of(config)
    options = Options(**{"task": task_of(config), "init_from": given["model"]} | given)
    demand_shares(config, options)
    if options.layers:
        demand_places(config)
    if options.out_dir:
        RunFolder(options.out_dir).demand_free(overwrite=False)
    keys = {"task": options.task} | {key: x for key, x in given.items() if key not in OWN}
    whole = {key: x for key, x in keys.items() if key not in TRAINABLE_KEYS}
    found = plan(TrainConfig(**USUAL | whole | {"init_from": options.model}), keys)
    if found.task.objective(found.model) is not found.model:
        raise UserError(f"--task {options.task} has another loss than its model: leave it out")
    files = RunFolder.make(options.out_dir)
    try:
        return prune_in_rounds(options, keys, found.model, found.task, files.path)
    finally:
        files.unlock()


def demand_shares(config: ModelConfig, options: Options) -> None:
    """Refuse shares that remove nothing, or all, of what they are a share of."""
    shares = {name: getattr(options, name) for name in Parts._fields}
    if not any(shares.values()) and not options.weights:
        raise UserError(
            "nothing is to be removed: give a share, such as --heads 0.5, --channels 0.5, "
            "--layers 0.5 or --weights 0.5"
        )
    if options.weights == 1:
        raise UserError("--weights 1 sets all weights to zero: give less than 1, such as 0.5")
    numbers, keep = count_parts(config)._asdict(), parts_after(config, options, options.rounds)
    for name, kept in keep._asdict().items():
        n, share = numbers[name], shares[name]
        if not share or 0 < kept < n:
            continue
        of_layer = "" if name == "layers" else " in each layer"
        if n == 1:
            raise UserError(f"the model has one of its {name}{of_layer}: leave out --{name}")
        raise UserError(
            f"--{name} {share:g} removes {'none' if kept else 'all'} of the {n} {name} that the "
            f"model has{of_layer}: give a share from {1 / n:.3g} to {1 - 1 / n:.3g}"
        )


def parts_after(config: ModelConfig, options: Options, n_rounds: int) -> Parts:
    """Return how many parts a model has after so many rounds."""
    done = n_rounds / options.rounds
    return Parts(
        *(
            n - round(n * getattr(options, name) * done)
            for name, n in count_parts(config)._asdict().items()
        )
    )


def prune_in_rounds(
    options: Options, keys: dict[str, Any], model: GPT, task: Task, folder: Path
) -> int:
    """Prune and fine-tune in rounds, and show the results; return the exit code.

    `keys` are the keys of npgpt train that the user gave.
    """
    config, latest = model.config, folder
    measured = [measure(model, model, task)]
    say(f"{options.model}: loss {measured[0].loss:.4f} over the whole validation split")
    for i in range(1, options.rounds + 1):
        keep = parts_after(config, options, i)
        say(f"round {i} of {options.rounds}: keeps {describe(smaller_config(config, keep))}")
        cut = remove_parts(model, keep, measure_importance(model, draw_sequences(task, options, i)))
        if options.weights:
            zero_smallest(cut, options.weights * i / options.rounds)
        latest = folder / f"pruned-{i}"
        with together(latest):
            save_tokenizer(task.tokenizer, latest)
            cut.save_pretrained(latest)
        model = cut
        if options.max_iters:
            of_run: dict[str, Any] = {"init_from": str(latest), "workers": options.workers}
            of_run |= {"keep_zeros": True} if options.weights else {}
            latest = folder / f"tuned-{i}"
            default = train.Options(task=options.task, **USUAL)
            if code := train.train_as(keys | of_run | {"out_dir": str(latest)}, default, ()):
                return code
            model = load_model(latest)
        measured.append(measure(cut, model, task))
    write_results(measured, folder)
    say(f"the table and its pictures are in {folder}; for more of the last model:")
    say(f"  {task.command(latest)}")
    return 0


@dataclass
class Measured:
    """A model after a round: how large, how good and how fast it is."""

    parts: str
    n_parameters: int
    loss_of_cut: float
    loss: float
    tokens_per_second: float


def measure(cut: GPT, model: GPT, task: Task) -> Measured:
    """Measure a model; `cut` is the same model before the fine-tuning, or `model` itself."""
    loss = task.whole_loss(model)
    zeros = share_of_zeros(model)
    return Measured(
        describe(model.config) + (f", zeros {zeros:.0%}" if zeros else ""),
        model.n_parameters(),
        loss if cut is model else task.whole_loss(cut),
        loss,
        measure_speed(model, task),
    )


def measure_speed(model: GPT, task: Task) -> float:
    """Return how many tokens the model reads in a second, in the fastest of five passes."""
    batch = task.random_batch(TRAIN, np.random.default_rng(task.config.seed))
    seconds = []
    with no_grad(), evaluating():
        for _ in range(6):  # the first compiles kernels
            began = time.perf_counter()
            model(batch[0], None, *batch[2:])
            seconds.append(time.perf_counter() - began)
    return batch[0].size / min(seconds[1:])


def describe(config: ModelConfig) -> str:
    """Return the sizes of a model in words."""
    return f"layers {config.n_layer}, heads {config.n_head}, channels {config.mlp_width:,}"


def draw_sequences(task: Task, options: Options, i: int) -> Iterator[AnyBatch]:
    """Yield random sequences of the training data, each as a batch."""
    generator = np.random.default_rng([options.seed, 5, i])
    left = options.samples
    while left > 0:
        batch = task.random_batch(TRAIN, generator)
        for row in range(min(left, len(batch[1]))):
            parts: Any = (None if x is None else x[row : row + 1] for x in batch)
            yield type(batch)(*parts)
        left -= len(batch[1])


def write_results(measured: list[Measured], folder: Path) -> None:
    """Print the table; write the table and the pictures to the folder."""
    rows = [
        [
            each.parts, f"{each.n_parameters:,}", f"{each.loss_of_cut:.4f}", f"{each.loss:.4f}",
            f"{each.tokens_per_second:,.0f}",
        ]
        for each in measured
    ]  # fmt: skip
    columns = ["model", "parameters", "loss after the cut", "loss after training", "tokens/s"]
    table = str(Table(columns, rows))
    print(f"\n{table}\n")
    write_text(folder / "pruning.md", f"{table}\n")
    for file, axis in (("size.svg", "n_parameters"), ("speed.svg", "tokens_per_second")):
        losses = {
            f"after the {name}": [(getattr(each, axis), getattr(each, key)) for each in measured]
            for name, key in (("cut", "loss_of_cut"), ("training", "loss"))
        }
        title = f"loss by {axis.removeprefix('n_').replace('_', ' ')}"
        write_text(folder / file, f"{loss_chart(losses, title)}\n")

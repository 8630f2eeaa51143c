"""Train a model to the same loss here and in PyTorch; print the seconds and the losses of both.

The recipe is that of configs/shakespeare_char_cpu.toml, case (a) of `train_step.py`. Both begin
with the same weights and take turns of 50 steps, on the same batches. The seconds are those of the
training steps alone. The losses are means over the same windows of the last 10 % of the text.

    python benchmarks/quality.py TEXT [--steps 2000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
from harness import OURS, need
from numpy import ndarray
from train_step import SHAPES, Shape, make_model, make_step, make_twin, make_twin_step

import autograd
from autograd.reading import LARGE, read_text
from npgpt import UserError
from npgpt.evaluation.result import Table
from npgpt.training.memory import keep_freed_memory
from npgpt.training.optim import learning_rate_at

torch = need("torch")

TURN = 50  # steps
CHECKS = 8  # how often the losses are computed
VALIDATION_BATCHES = 50
PEAK, MINIMUM, WARMUP = 1e-3, 1e-4, 100  # the learning rate, and the steps of its warm-up

Batch = tuple[ndarray, ndarray]


def read_tokens(path: Path) -> tuple[ndarray, int]:
    """Return a text as the number of each character among those that occur, and how many occur."""
    characters, tokens = np.unique(list(read_text(path, limit=LARGE)), return_inverse=True)
    return tokens, len(characters)


def draw(tokens: ndarray, shape: Shape, generator: np.random.Generator) -> Batch:
    """Return windows at random places, and the tokens that follow each token, (B, T) each."""
    starts = generator.integers(0, len(tokens) - shape.block_size, shape.batch_size)
    windows = tokens[starts[:, None] + np.arange(shape.block_size + 1)]
    return windows[:, :-1].copy(), windows[:, 1:].copy()


def make_losses(model: Callable, twin: Callable, batches: list[Batch]) -> dict[str, Callable]:
    """Return functions that compute the mean loss over the same batches: ours, and PyTorch's."""

    @autograd.no_grad()
    def ours() -> float:
        return float(np.mean([model(*batch)[1].item() for batch in batches]))

    @torch.inference_mode()
    def theirs() -> float:
        pairs = [tuple(map(torch.from_numpy, batch)) for batch in batches]
        return float(np.mean([twin(*pair).item() for pair in pairs]))

    return {OURS: ours, "torch": theirs}


def run(tokens: ndarray, shape: Shape, steps: int) -> list[list[str]]:
    """Train both; return a row of the table for each check."""
    generator = np.random.default_rng(0)
    n_train = len(tokens) * 9 // 10
    batches = [draw(tokens[n_train:], shape, generator) for _ in range(VALIDATION_BATCHES)]
    model, twin = make_model(shape), make_twin(shape)
    twin.copy_weights(model.state_dict())
    # A step of other models first: kernels are compiled before the clock runs.
    make_step(make_model(shape), shape)(), make_twin_step(make_twin(shape), shape)()
    contenders = {OURS: make_step(model, shape), "torch": make_twin_step(twin, shape)}
    losses, seconds = make_losses(model, twin, batches), dict.fromkeys(contenders, 0.0)
    rows, every = [], max(1, steps // CHECKS)
    for first in range(0, steps, TURN):
        numbers = range(first, min(first + TURN, steps))
        plan = [
            (draw(tokens[:n_train], shape, generator),
             learning_rate_at(i, PEAK, MINIMUM, WARMUP, steps))
            for i in numbers
        ]  # fmt: skip
        for who, step in contenders.items():
            start = perf_counter()
            for batch, rate in plan:
                step(batch, rate)
            seconds[who] += perf_counter() - start
        done = numbers[-1] + 1
        if done == steps or done // every > first // every:
            found = [losses[who]() for who in contenders]
            ratio = seconds[OURS] / seconds["torch"]
            times = [f"{value:.1f} s" for value in seconds.values()]
            rows.append([str(done), *times, f"{ratio:.2f}", *(f"{loss:.3f}" for loss in found)])
    return rows


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a file of UTF-8")
    parser.add_argument("--steps", type=int, default=2000, help="updates of the training")
    options = parser.parse_args()
    keep_freed_memory()  # as npgpt train does; PyTorch gains from this as well
    try:
        tokens, vocab_size = read_tokens(options.text)
    except UserError as error:
        parser.error(str(error))
    shape = replace(SHAPES["a"], vocab_size=vocab_size)
    if options.steps < 1 or len(tokens) < 20 * shape.block_size:
        parser.error(
            f"got {options.steps} steps and {len(tokens):,} characters; expected at least 1 step "
            f"and {20 * shape.block_size:,} characters"
        )
    rows = run(tokens, shape, options.steps)
    columns = ["steps", OURS, "torch", "ours / torch", "our loss", "torch's loss"]
    print(Table(columns, rows))


if __name__ == "__main__":
    main()

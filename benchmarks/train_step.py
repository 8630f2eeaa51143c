"""Time training steps here and in PyTorch, beside the matrix products of a step.

A step is forward, backward, clipping, AdamW and dropping the gradients, in float32, of the same GPT
on the same tokens. PyTorch is at its best: scaled_dot_product_attention, and AdamW in one kernel.

    python benchmarks/train_step.py [a c ...] [--threads 1,2] [--compile] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import OURS, Row, apart, burst, keep_memory, main, need, peak_memory, take_turns, timed
from numpy import ndarray

# Ours and PyTorch are imported in the functions that use them: a process that measures the memory
# of one of the two must not hold the other.


@dataclass(frozen=True)
class Shape:
    """A model and a batch."""

    n_layer: int
    n_head: int
    n_embd: int
    batch_size: int
    block_size: int
    dropout: float = 0.0
    vocab_size: int = 65
    n_positions: int = 0  # as many as the batch has, if 0
    bias: bool = False

    def __str__(self) -> str:
        """Say what the model and the batch are."""
        model = f"{self.n_layer}/{self.n_head}/{self.n_embd}, {self.batch_size} x {self.block_size}"
        return model + (f", dropout {self.dropout:g}" if self.dropout else "")


SHAPES = {  # layers, heads, width, batch, context
    "a": Shape(4, 4, 128, 12, 64),  # nanoGPT's recipe for a CPU
    "b": Shape(6, 6, 192, 16, 128),
    "c": Shape(6, 6, 384, 16, 256, dropout=0.2),  # nanoGPT's recipe for a GPU
    "d": Shape(12, 12, 768, 4, 64, vocab_size=50257, n_positions=1024, bias=True),  # GPT-2 124M
    "e": Shape(8, 8, 512, 2, 1024),
}
FORWARD = " forward"  # the logits only, without a tape
CASES = ["a", "b", "b forward", "c", "d", "d forward", "e"]
COMPARED_STEPS = 3
LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 1e-3, (0.9, 0.99), 0.1, 1.0


def draw_batch(shape: Shape) -> tuple[ndarray, ndarray]:
    """Return tokens and the tokens after them, (B, T) each."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(shape.vocab_size, size=(shape.batch_size, shape.block_size + 1))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


# ---- ours


def make_model(shape: Shape) -> Any:
    from npgpt import GPT, GPTConfig

    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout)
    return GPT(
        GPTConfig(
            shape.vocab_size, shape.n_positions or shape.block_size, shape.n_embd, shape.n_layer,
            shape.n_head, bias=shape.bias, **dropouts,
        )
    )  # fmt: skip


def make_step(model: Any, shape: Shape) -> Callable[..., float]:
    """Return a function that takes one training step and returns the loss before the update.

    The step may be given a batch of its own, and its learning rate.
    """
    from npgpt.training.optim import AdamW, clip_grad_norm

    optimizer = AdamW(model.named_parameters(), BETAS, weight_decay=WEIGHT_DECAY)
    always = draw_batch(shape)

    def step(batch: tuple[ndarray, ndarray] = always, rate: float = LEARNING_RATE) -> float:
        _, loss = model(*batch)
        loss.backward()
        clip_grad_norm(model.parameters(), MAX_NORM)
        optimizer.step(rate)
        optimizer.zero_grad()
        return loss.item()

    return step


def make_forward(model: Any, shape: Shape) -> Callable[[], Any]:
    """Return a function that computes the logits, without a tape."""
    import autograd

    model.eval()
    ids, _ = draw_batch(shape)

    @autograd.no_grad()
    def forward() -> Any:
        return model(ids)[0]

    return forward


# ---- PyTorch's


def make_twin(shape: Shape) -> Any:
    from torch_gpt import TorchGPT

    return TorchGPT(
        shape.vocab_size, shape.n_positions or shape.block_size, shape.n_embd, shape.n_layer,
        shape.n_head, shape.dropout, shape.bias,
    )  # fmt: skip


def make_twin_step(twin: Any, shape: Shape, compiled: bool = False) -> Callable[..., float]:
    import torch_gpt

    options = (LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM)
    return torch_gpt.make_step(twin, draw_batch(shape), *options, compiled)


def make_twin_forward(twin: Any, shape: Shape, compiled: bool = False) -> Callable[[], Any]:
    import torch_gpt

    return torch_gpt.make_forward(twin, draw_batch(shape)[0], compiled)


# ---- the floor


def matrix_products(shape: Shape, is_training: bool) -> list[tuple[ndarray, ndarray, ndarray]]:
    """Return the operands and the result of every matrix product of a step or a forward pass."""
    B, T, C, H = shape.batch_size, shape.block_size, shape.n_embd, shape.n_head
    generator = np.random.default_rng(0)

    def some(*lengths: int) -> ndarray:
        return generator.standard_normal(lengths, np.float32)

    def linear(weight: ndarray) -> list[tuple[ndarray, ndarray]]:
        x, g = some(B * T, weight.shape[0]), some(B * T, weight.shape[1])
        return [(x, weight), (g, weight.T), (x.T, g)][: 3 if is_training else 1]

    query, key, value, g = (some(B, H, T, C // H) for _ in range(4))
    p, g_scores = some(B, H, T, T), some(B, H, T, T)
    attention = [
        (query, key.swapaxes(2, 3)),
        (p, value),
        (p.swapaxes(2, 3), g),  # for value
        (g, value.swapaxes(2, 3)),  # for p
        (g_scores, key),  # for query
        (g_scores.swapaxes(2, 3), query),  # for key
    ][: 6 if is_training else 2]
    weights = [some(C, 3 * C), some(C, C), some(C, 4 * C), some(4 * C, C)]
    layer = [*attention, *(pair for weight in weights for pair in linear(weight))]
    head = linear(some(shape.vocab_size, C).T)
    products = [(a, b, a @ b) for a, b in layer + head]
    return products[: len(layer)] * shape.n_layer + products[len(layer) :]


def make_floor(shape: Shape, n_updated: int) -> Callable[[], float]:
    """Return a function that measures what a step takes at least; a forward pass, without updates.

    This is the time of its matrix products, shared out as in the step, and of AdamW's traffic at
    the speed of a copy: AdamW reads the parameter, its gradient and both means, and writes all but
    the gradient. Attention's products are computed in full, with the masked half.
    """
    from autograd.ops.linalg import product

    products = matrix_products(shape, is_training=n_updated > 0)
    source, target = np.ones(2**24, np.float32), np.zeros(2**24, np.float32)  # 64 MB each
    copies = 7 * n_updated / (source.size + target.size)

    def multiply() -> None:
        for a, b, out in products:
            product(a, b) if a.ndim == 2 else np.matmul(a, b, out=out)

    return lambda: timed(multiply)[0] + copies * timed(np.copyto, target, source)[0]


# ---- measuring


def require_equal(case: str, run: Callable, twin_run: Callable) -> None:
    """End the program if ours and PyTorch's are not the same model."""
    # From the second step on, the loss also compares gradients, clipping and AdamW.
    for i in range(1 if case.endswith(FORWARD) else COMPARED_STEPS):
        results = [np.asarray(result) for result in (run(), twin_run())]
        if (difference := np.abs(np.subtract(*results)).max()) > 1e-4:
            sys.exit(
                f"{case}, run {i + 1}: our result and PyTorch's differ by {difference:.2g}: "
                "these are different models, and their times do not compare"
            )


def make_runs(
    shape: Shape, is_forward: bool = False, with_compiled: bool = False
) -> dict[str, Callable]:
    """Return what the contenders run, of one model: a step, or a forward pass."""
    model, twin = make_model(shape), make_twin(shape)
    twin.copy_weights(model.state_dict())
    ours, theirs = (make_forward, make_twin_forward) if is_forward else (make_step, make_twin_step)
    runs = {OURS: ours(model, shape), "torch": theirs(twin, shape)}
    if with_compiled:
        twin = make_twin(shape)
        twin.copy_weights(model.state_dict())
        runs["torch.compile"] = theirs(twin, shape, compiled=True)
    return runs


def measure_peak(case: str, who: str) -> float:
    """Return the peak memory of a process that takes a few steps of one of the two, in bytes."""
    name, is_forward = case.removesuffix(FORWARD), case.endswith(FORWARD)
    shape = SHAPES[name]
    if who == OURS:
        from npgpt.training.memory import keep_freed_memory

        keep_freed_memory()  # as npgpt train does
        run = (make_forward if is_forward else make_step)(make_model(shape), shape)
    else:
        run = (make_twin_forward if is_forward else make_twin_step)(make_twin(shape), shape)
    for _ in range(COMPARED_STEPS):
        run()
    return peak_memory()


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return the rows of a case: steady steps, a step after a pause, and the peak memory."""
    # Memory comes first: a process starts with the peak of the process that started it.
    memory = {who: [apart(measure_peak, case, who)] for who in (OURS, "torch")}
    keep_memory(args)
    name, is_forward = case.removesuffix(FORWARD), case.endswith(FORWARD)
    shape = SHAPES[name]
    runs = make_runs(shape, is_forward, args.compile)
    if not shape.dropout:
        require_equal(case, runs[OURS], runs["torch"])
    turns: dict[str, Callable] = {
        who: lambda run=run: burst(run, quick=args.quick) for who, run in runs.items()
    }
    n_updated = 0 if is_forward else make_model(shape).n_parameters()
    turns["floor"] = make_floor(shape, n_updated)
    times = take_turns(turns, args.rounds)
    floor = times.pop("floor")  # (rounds,); the others (rounds, 2, 1)
    label, what = f"{name}: {shape}", "forward" if is_forward else "step"
    steady = {who: t[:, 1, 0].tolist() for who, t in times.items()}
    paused = {who: t[:, 0, 0].tolist() for who, t in times.items()}
    return [
        Row(label, what, "s", {**steady, "floor": floor.tolist()}),
        Row(label, f"{what} after a pause", "s", paused),
        Row(label, f"{what}, peak memory", "B", memory),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile", action="store_true", help="also time torch.compile, which needs a C++ compiler"
    )


if __name__ == "__main__":
    need("torch")
    main(__doc__, CASES, measure, options=add_options)

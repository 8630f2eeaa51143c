"""Time one training step here, in PyTorch, and of the matrix products that no step can avoid.

A step is forward, backward, clipping, AdamW and dropping the gradients, in float32, of the same
GPT-2 on the same tokens. Our step, PyTorch's (eager) and the floor take turns in one process, so
that whatever else the machine does slows all three alike; compare the ratios, not the times.

    python benchmarks/train_step.py [--quick] [--shape a] [--json FILE]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray
from rich import box
from rich.table import Table
from timing import environment, options, ratios, report, shown

from autograd.machine import usable_cpus
from autograd.ops.linalg import product
from npgpt import GPT, GPTConfig
from npgpt.models.layers import dropout_from
from npgpt.training.memory import keep_freed_memory
from npgpt.training.optim import AdamW, clip_grad_norm
from npgpt.training.task import accumulate_gradients

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    print("this benchmark compares with PyTorch; install it: pip install torch", file=sys.stderr)
    sys.exit(2)


@dataclass(frozen=True)
class Shape:
    """A model, a batch, and how often to measure them."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    batch_size: int
    block_size: int
    dropout: float
    repetitions: int
    quick_repetitions: int


SHAPES = [
    Shape("a", 4, 4, 128, 12, 64, 0.0, repetitions=20, quick_repetitions=5),
    Shape("b", 6, 6, 192, 16, 128, 0.0, repetitions=15, quick_repetitions=3),
    Shape("c", 6, 6, 384, 16, 256, 0.2, repetitions=7, quick_repetitions=2),
]
VOCABULARY = 65
WARM_UP = 3  # steps
PAUSE = 0.1  # seconds; a BLAS's idle threads spin for a while, and would slow whoever comes next
LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 1e-3, (0.9, 0.99), 0.1, 1.0


# ---- ours


def our_step(model: GPT, ids: ndarray, targets: ndarray) -> Callable[[], float]:
    """Return a function that takes one step with our code and returns the loss before it."""
    optimizer = AdamW(model.named_parameters(), BETAS, weight_decay=WEIGHT_DECAY)
    generator = np.random.default_rng(0)

    def step() -> float:
        with dropout_from(generator):
            loss = accumulate_gradients(model, [(ids, targets)])
        clip_grad_norm(model.parameters(), MAX_NORM)
        optimizer.step(LEARNING_RATE)
        optimizer.zero_grad()
        return loss

    return step


# ---- PyTorch's


class TorchBlock(nn.Module):
    """Attention and MLP; its parameters have the names of ours."""

    def __init__(self, C: int, n_head: int, dropout: float) -> None:
        super().__init__()
        linear = partial(nn.Linear, bias=False)
        self.n_head, self.dropout = n_head, dropout
        self.ln_1 = nn.LayerNorm(C, bias=False)
        self.attn = nn.ModuleDict({"c_attn": linear(C, 3 * C), "c_proj": linear(C, C)})
        self.ln_2 = nn.LayerNorm(C, bias=False)
        self.mlp = nn.ModuleDict({"c_fc": linear(C, 4 * C), "c_proj": linear(4 * C, C)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, T, C) -> (B, T, C)``."""
        B, T, C = x.shape
        qkv = self.attn["c_attn"](self.ln_1(x))  # (B, T, 3C)
        query, key, value = (
            part.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, T, C) -> (B, H, T, D)
            for part in qkv.split(C, dim=-1)
        )
        y = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout
        )
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, H, T, D) -> (B, T, C)
        x = x + F.dropout(self.attn["c_proj"](y), self.dropout)
        h = F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")  # (B, T, 4C)
        return x + F.dropout(self.mlp["c_proj"](h), self.dropout)


class TorchGPT(nn.Module):
    """The same model in PyTorch, for training only: dropout is always on."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, self.dropout = config.n_embd, config.embd_pdrop
        self.wte = nn.Embedding(config.vocab_size, C)
        self.wpe = nn.Embedding(config.n_positions, C)
        self.h = nn.ModuleList(
            TorchBlock(C, config.n_head, self.dropout) for _ in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(C, bias=False)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy."""
        positions = torch.arange(ids.shape[1])
        x = F.dropout(self.wte(ids) + self.wpe(positions), self.dropout)  # (B, T, C)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def copy_weights(self, model: GPT) -> None:
        """Take over our weights; those of linear layers are (in, out) here, and (out, in) there."""
        weights = model.state_dict()
        for name, parameter in self.named_parameters():
            weight = torch.tensor(weights[f"transformer.{name}"])
            parameter.copy_(weight.T if ".c_" in name else weight)


def torch_step(model: TorchGPT, ids: ndarray, targets: ndarray) -> Callable[[], float]:
    """Return a function that takes one step with PyTorch and returns the loss before it."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, BETAS, fused=True)
    inputs, expected = torch.from_numpy(ids), torch.from_numpy(targets)

    def step() -> float:
        loss = model(inputs, expected)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


# ---- the floor


def matrix_products(shape: Shape) -> list[tuple[ndarray, ndarray, ndarray]]:
    """Return the operands and the result of every matrix product of a step."""
    B, T, C, H = shape.batch_size, shape.block_size, shape.n_embd, shape.n_head
    generator = np.random.default_rng(0)

    def some(*lengths: int) -> ndarray:
        return generator.standard_normal(lengths, np.float32)

    def linear(weight: ndarray) -> list[tuple[ndarray, ndarray]]:
        x, g = some(B * T, weight.shape[0]), some(B * T, weight.shape[1])
        return [(x, weight), (g, weight.T), (x.T, g)]

    query, key, value, g = (some(B, H, T, C // H) for _ in range(4))
    p, g_scores = some(B, H, T, T), some(B, H, T, T)
    layer = [
        *linear(some(C, 3 * C)),
        (query, key.swapaxes(2, 3)),
        (p, value),
        (p.swapaxes(2, 3), g),  # for value
        (g, value.swapaxes(2, 3)),  # for p
        (g_scores, key),  # for query
        (g_scores.swapaxes(2, 3), query),  # for key
        *linear(some(C, C)),
        *linear(some(C, 4 * C)),
        *linear(some(4 * C, C)),
    ]
    head = linear(some(VOCABULARY, C).T)
    products = [(a, b, a @ b) for a, b in layer + head]
    return products[: len(layer)] * shape.n_layer + products[len(layer) :]


def floor(shape: Shape, n_parameters: int) -> Callable[[], float]:
    """Return a function that measures the least seconds of a step.

    These are its matrix products, shared out as in the step, and AdamW's traffic at the speed of a
    copy: it reads the parameter, its gradient and both means, and writes all but the gradient.
    """
    products = matrix_products(shape)
    source, target = np.ones(2**24, np.float32), np.zeros(2**24, np.float32)  # 64 MB each
    copies = 7 * n_parameters / (source.size + target.size)

    def multiply() -> None:
        for a, b, out in products:
            product(a, b) if a.ndim == 2 else np.matmul(a, b, out=out)

    return lambda: timed(multiply)[0] + copies * timed(lambda: np.copyto(target, source))[0]


# ---- measuring


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(shape: Shape, repetitions: int) -> dict[str, Any]:
    """Return one shape's row: medians, and what the ratios of each round spread over."""
    config = GPTConfig(
        VOCABULARY, shape.block_size, shape.n_embd, shape.n_layer, shape.n_head,
        resid_pdrop=shape.dropout, embd_pdrop=shape.dropout, attn_pdrop=shape.dropout, bias=False,
    )  # fmt: skip
    model, twin = GPT(config), TorchGPT(config)
    twin.copy_weights(model)
    generator = np.random.default_rng(0)
    tokens = generator.integers(VOCABULARY, size=(shape.batch_size, shape.block_size + 1))
    batch = tokens[:, :-1].copy(), tokens[:, 1:].copy()  # (B, T) each
    ours, theirs = our_step(model, *batch), torch_step(twin, *batch)
    least = floor(shape, model.n_parameters())

    rounds = []
    for i in range(WARM_UP + repetitions):
        (ours_s, loss), (torch_s, expected) = timed(ours), timed(theirs)
        rounds.append((ours_s, torch_s, least()))
        # From the second step on, this also compares gradients, clipping and AdamW.
        if i < WARM_UP and not shape.dropout and not abs(loss - expected) <= 1e-4:
            sys.exit(
                f"shape {shape.name}, step {i + 1}: our loss is {loss:.6f} and PyTorch's "
                f"{expected:.6f}: these are different models, and their times do not compare"
            )
    rounds = np.array(rounds[WARM_UP:])  # (repetitions, 3)
    ours_s, torch_s, floor_s = rounds.T  # (repetitions,) each
    ours_ms, torch_ms, floor_ms = (float(x) for x in 1000 * np.median(rounds, axis=0))
    return {
        "shape": shape.name,
        "ours_ms": ours_ms,
        "torch_ms": torch_ms,
        "floor_ms": floor_ms,
        **ratios(ours_s, torch_s),
        "floor_ratio": float(np.median(ours_s / floor_s)),
    }


# ---- reporting


def table(shapes: list[Shape], rows: list[dict[str, Any]]) -> Table:
    out = Table(title="one training step, median ms", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    out.add_column("layers/heads/width,\nbatch, dropout", no_wrap=True)
    for heading in ("ours", "torch", "floor", "ours/torch\n(10-90 %)", "ours/\nfloor"):
        out.add_column(heading, justify="right", no_wrap=True)
    for s, row in zip(shapes, rows, strict=True):
        out.add_row(
            f"{s.name}: {s.n_layer}/{s.n_head}/{s.n_embd}, {s.batch_size} x {s.block_size}, "
            f"{s.dropout:g}",
            *(f"{row[key]:.1f}" for key in ("ours_ms", "torch_ms", "floor_ms")),
            shown(row),
            f"{row['floor_ratio']:.2f}",
        )
    return out


def main() -> None:
    parser = options(
        "Time a training step here and in PyTorch.", "few repetitions, shapes a and b only"
    )
    parser.add_argument("--shape", nargs="+", choices=[s.name for s in SHAPES], help="only these")
    args = parser.parse_args()

    keep_freed_memory()  # as npgpt train does; PyTorch gains from it as well
    torch.set_num_threads(usable_cpus())

    names = args.shape or ("ab" if args.quick else "abc")
    shapes = [s for s in SHAPES if s.name in names]
    rows = []
    for shape in shapes:
        print(f"measuring shape {shape.name}", file=sys.stderr)
        rows.append(measure(shape, shape.quick_repetitions if args.quick else shape.repetitions))

    report([table(shapes, rows)], f"Below 1 is faster; {environment()}", rows, args.json)


if __name__ == "__main__":
    main()

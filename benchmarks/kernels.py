"""Time each kernel, forward and vjp, and PyTorch's eager op of the same arrays.

A turn is a burst of forward passes and vjps in float32, one after the other as in training. "copy"
is the time in which a copy of large arrays moves as many bytes as the op must read and write.

    python benchmarks/kernels.py [gelu softmax ...] [--threads 1,2] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import OURS, Row, burst, keep_memory, main, need, take_turns
from numpy import ndarray

import autograd
from npgpt.module import Parameter
from npgpt.training.optim import AdamW, clip_grad_norm

torch = need("torch")
F, nn = torch.nn.functional, autograd.nn

ROWS, WIDTH = 4096, 768
CLASSES = 50257
SETTLE = 0.02  # seconds, after which the idle threads of the other side have stopped spinning
BURST = 0.03  # seconds


def some(*shape: int, seed: int = 0) -> ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@dataclass
class Pair:
    """What ours and PyTorch's run: one stage, or a forward pass and then the vjp of its result.

    Parameters
    ----------
    size : str
        Of the arrays, for the table.
    traffic : dict of str to float
        The bytes that each stage must read and write, by its name.
    ours, theirs : tuple of callable
        The stages, as `burst` runs them.
    """

    size: str
    traffic: dict[str, float]
    ours: tuple[Callable, ...]
    theirs: tuple[Callable, ...]


def make_pair(
    ours: Callable, theirs: Callable, arrays: list[ndarray], traffic: tuple[float, float], unit: Any
) -> Pair:
    """Return an op of some arrays, and its vjp; `traffic` counts in arrays as large as `unit`."""
    leaves = [autograd.tensor(x, requires_grad=True) for x in arrays]
    twins = [torch.tensor(x, requires_grad=True) for x in arrays]
    g = some(*ours(*leaves).shape, seed=1)
    twin_g = torch.tensor(g)
    return Pair(
        "x".join(map(str, unit.shape)),
        {"forward": traffic[0] * unit.nbytes, "vjp": traffic[1] * unit.nbytes},
        (lambda: ours(*leaves), lambda y: autograd.grad(y, leaves, g)),
        (lambda: theirs(*twins), lambda y: torch.autograd.grad(y, twins, twin_g)),
    )


# ---- the cases: functions that return a pair


def by_rows(ours: Callable, theirs: Callable, n_vectors: int = 0) -> Callable[[], Pair]:
    """Return the case of an op of a matrix, and of weights as long as its rows."""

    def case() -> Pair:
        x, *weights = some(ROWS, WIDTH), *(some(WIDTH, seed=i) for i in range(n_vectors))
        return make_pair(ours, theirs, [x, *weights], (2, 3), x)

    return case


def attention(dropout_p: float) -> Callable[[], Pair]:
    options = dict(is_causal=True, dropout_p=dropout_p)

    def case() -> Pair:
        qkv = [some(1, 16, 1024, 64, seed=i) for i in range(3)]
        return make_pair(
            lambda *qkv: nn.scaled_dot_product_attention(*qkv, **options),
            lambda *qkv: F.scaled_dot_product_attention(*qkv, **options),
            qkv, (4, 8), qkv[0],
        )  # fmt: skip

    return case


def cross_entropy() -> Pair:
    logits, target = some(512, CLASSES), np.random.default_rng(0).integers(0, CLASSES, 512)
    classes = torch.tensor(target)
    return make_pair(
        lambda x: nn.cross_entropy(x, target), lambda x: F.cross_entropy(x, classes),
        [logits], (1, 2), logits,
    )  # fmt: skip


def embedding() -> Pair:
    ids = np.random.default_rng(0).integers(0, CLASSES, (16, 256))
    twin_ids = torch.tensor(ids)
    return make_pair(
        lambda w: nn.embedding(ids, w), lambda w: F.embedding(twin_ids, w),
        [some(CLASSES, WIDTH)], (2, 1 + CLASSES / ids.size), some(*ids.shape, WIDTH),
    )  # fmt: skip


def parameters() -> tuple[str, float, list[Parameter], list[Any]]:
    """Return those of four MLPs with gradients: their size and bytes, ours and PyTorch's."""
    shapes = [(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH), (WIDTH,), (4 * WIDTH,)] * 4
    ours = [Parameter(some(*s)) for s in shapes]
    theirs = [torch.nn.Parameter(torch.tensor(some(*s))) for s in shapes]
    for p, twin in zip(ours, theirs, strict=True):
        g = some(*p.shape, seed=1)
        p.grad, twin.grad = autograd.tensor(g), torch.tensor(g)
    n = sum(p.size for p in ours)
    return f"{n / 1e6:.1f} M", 4 * n, ours, theirs


def adamw() -> Pair:
    size, n_bytes, ours, theirs = parameters()
    optimizer = AdamW([(str(i), p) for i, p in enumerate(ours)])
    twin = torch.optim.AdamW(theirs, fused=True)
    return Pair(size, {"update": 7 * n_bytes}, (lambda: optimizer.step(1e-6),), (twin.step,))


def gradient_norm() -> Pair:
    size, n_bytes, ours, theirs = parameters()
    gradients = [twin.grad for twin in theirs]
    return Pair(
        size, {"norm": n_bytes},
        (lambda: clip_grad_norm(ours, 0),), (lambda: torch.nn.utils.get_total_norm(gradients),),
    )  # fmt: skip


CASES = {
    "gelu (tanh)": by_rows(lambda x: nn.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "gelu (erf)": by_rows(nn.gelu, F.gelu),
    "silu": by_rows(nn.silu, F.silu),
    "sigmoid": by_rows(nn.sigmoid, torch.sigmoid),
    "dropout": by_rows(lambda x: nn.dropout(x, 0.1), lambda x: F.dropout(x, 0.1)),
    "softmax": by_rows(nn.softmax, lambda x: F.softmax(x, -1)),
    "log_softmax": by_rows(nn.log_softmax, lambda x: F.log_softmax(x, -1)),
    "layer_norm": by_rows(
        lambda x, w, b: nn.layer_norm(x, (WIDTH,), w, b),
        lambda x, w, b: F.layer_norm(x, (WIDTH,), w, b), 2,
    ),
    "rms_norm": by_rows(
        lambda x, w: nn.rms_norm(x, (WIDTH,), w, 1e-5),
        lambda x, w: F.rms_norm(x, (WIDTH,), w, 1e-5), 1,
    ),
    "cross_entropy": cross_entropy,
    "embedding": embedding,
    "attention": attention(0.0),
    "attention (dropout)": attention(0.1),
    "adamw": adamw,
    "gradient norm": gradient_norm,
}  # fmt: skip


# ---- measuring


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return a row for each stage."""
    keep_memory(args)
    pair = CASES[case]()
    source = torch.zeros(2**25)
    target = torch.empty_like(source)

    def turn(*stages: Callable) -> ndarray:
        return burst(*stages, seconds=BURST, pause=SETTLE, quick=args.quick)[1]

    times = take_turns(
        {
            OURS: lambda: turn(*pair.ours),
            "torch": lambda: turn(*pair.theirs),
            "copy": lambda: turn(lambda: target.copy_(source)),
        },
        args.rounds,
    )
    per_byte = times.pop("copy")[:, 0] / (2 * source.nbytes)
    rows = []
    for i, (stage, n_bytes) in enumerate(pair.traffic.items()):
        samples = {who: t[:, i].tolist() for who, t in times.items()}
        rows.append(
            Row(
                f"{case}, {pair.size}",
                stage,
                "s",
                {**samples, "copy": (n_bytes * per_byte).tolist()},
            )
        )
    return rows


if __name__ == "__main__":
    main(__doc__, list(CASES), measure, rounds=20)

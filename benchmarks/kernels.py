"""Time each kernel, forward and backward, and PyTorch's eager op of the same shape.

Both take turns in one process, on the same threads and in float32, so that whatever else the
machine does slows both alike; compare the ratios, not the times. A turn is a burst of forward and
backward passes, one after the other as in training, and its median counts: a single call after a
pause mostly times how the system wakes threads. The share of bandwidth is that of a copy: the bytes
that must be read and written, over the time, over what a copy reaches.

    python benchmarks/kernels.py [--quick] [--kernel gelu ...] [--json FILE]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray
from rich import box
from rich.table import Table
from timing import environment, options, ratios, report, shown

import autograd
from autograd.kernels import kernels_enabled
from npgpt.module import Parameter
from npgpt.training.memory import keep_freed_memory
from npgpt.training.optim import AdamW, clip_grad_norm

try:
    import torch
    from torch.nn import functional as F
except ImportError:
    print("this benchmark compares with PyTorch; install it: pip install torch", file=sys.stderr)
    sys.exit(2)

nn = autograd.nn
ROWS, WIDTH = 4096, 768
CLASSES = 50257
PAUSE = 0.02  # seconds: idle threads of the other side spin for a while
BURST = 0.03  # seconds


def some(*shape: int, seed: int = 0) -> ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


class Case:
    """An op, ours and PyTorch's, of the same arrays.

    `traffic` counts the arrays of the size of `unit` that forward and rule must read or write.
    """

    def __init__(
        self,
        ours: Callable,
        theirs: Callable,
        arrays: list[ndarray],
        traffic: tuple[float, float],
        unit: ndarray | None = None,
    ) -> None:
        self.ours, self.theirs, self.arrays = ours, theirs, arrays
        unit = arrays[0] if unit is None else unit
        self.shape = "x".join(map(str, unit.shape))
        self.bytes = [int(n * unit.nbytes) for n in traffic]
        self.leaves = [autograd.tensor(x, requires_grad=True) for x in arrays]  # own, so unwatched
        self.twins = [torch.tensor(x, requires_grad=True) for x in arrays]
        y = self.forward()
        self.g = some(*y.shape, seed=1)
        self.torch_g = torch.tensor(self.g)

    def forward(self) -> Any:
        """Run ours."""
        return self.ours(*self.leaves)

    def torch_forward(self) -> Any:
        """Run PyTorch's."""
        return self.theirs(*self.twins)

    def gradients(self, y: Any) -> Any:
        """Pull a cotangent back through ours."""
        return autograd.grad(y, self.leaves, self.g)

    def torch_gradients(self, y: Any) -> Any:
        """Pull the same cotangent back through PyTorch's."""
        return torch.autograd.grad(y, self.twins, self.torch_g)


def cases() -> dict[str, Callable[[], Case]]:
    def elementwise(ours: Callable, theirs: Callable) -> Callable[[], Case]:
        return lambda: Case(ours, theirs, [some(ROWS, WIDTH)], (2, 3))

    def norms(ours: Callable, theirs: Callable, vectors: int) -> Callable[[], Case]:
        weights = [some(WIDTH, seed=i) for i in range(vectors)]
        return lambda: Case(ours, theirs, [some(ROWS, WIDTH), *weights], (2, 3))

    def loss() -> Case:
        target = np.random.default_rng(0).integers(0, CLASSES, 512)
        classes = torch.tensor(target)
        return Case(
            lambda x: nn.cross_entropy(x, target), lambda x: F.cross_entropy(x, classes),
            [some(512, CLASSES)], (1, 2),
        )  # fmt: skip

    def lookup() -> Case:
        ids = np.random.default_rng(0).integers(0, CLASSES, (16, 256))
        torch_ids = torch.tensor(ids)
        return Case(
            lambda w: nn.embedding(ids, w), lambda w: F.embedding(torch_ids, w),
            [some(CLASSES, WIDTH)], (2, 1 + CLASSES / ids.size), some(16, 256, WIDTH),
        )  # fmt: skip

    def attention(dropout_p: float) -> Callable[[], Case]:
        options = dict(is_causal=True, dropout_p=dropout_p)
        arrays = [some(1, 16, 1024, 64, seed=i) for i in range(3)]
        return lambda: Case(
            lambda *qkv: nn.scaled_dot_product_attention(*qkv, **options),
            lambda *qkv: F.scaled_dot_product_attention(*qkv, **options),
            arrays, (4, 8),
        )  # fmt: skip

    shape = (WIDTH,)
    return {
        "gelu (tanh)": elementwise(
            lambda x: nn.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")
        ),
        "gelu (erf)": elementwise(nn.gelu, F.gelu),
        "silu": elementwise(nn.silu, F.silu),
        "sigmoid": elementwise(nn.sigmoid, torch.sigmoid),
        "dropout": elementwise(lambda x: nn.dropout(x, 0.1), lambda x: F.dropout(x, 0.1)),
        "softmax": elementwise(nn.softmax, lambda x: F.softmax(x, -1)),
        "log_softmax": elementwise(nn.log_softmax, lambda x: F.log_softmax(x, -1)),
        "layer_norm": norms(
            lambda x, w, b: nn.layer_norm(x, shape, w, b),
            lambda x, w, b: F.layer_norm(x, shape, w, b), 2,
        ),
        "rms_norm": norms(
            lambda x, w: nn.rms_norm(x, shape, w, 1e-5), lambda x, w: F.rms_norm(x, shape, w, 1e-5),
            1,
        ),
        "cross_entropy": loss,
        "embedding": lookup,
        "attention": attention(0.0),
        "attention (dropout)": attention(0.1),
    }  # fmt: skip


def optimizers() -> list[tuple[str, str, Callable, Callable, int]]:
    """Return (name, shape, ours, PyTorch's, bytes) of the steps that no tape sees."""
    shapes = [(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH), (WIDTH,), (4 * WIDTH,)] * 4
    parameters = [Parameter(some(*s)) for s in shapes]
    twins = [torch.nn.Parameter(torch.tensor(some(*s))) for s in shapes]
    for p, twin in zip(parameters, twins, strict=True):
        p.grad = autograd.tensor(some(*p.shape, seed=1))
        twin.grad = torch.tensor(some(*p.shape, seed=1))
    optimizer = AdamW([(str(i), p) for i, p in enumerate(parameters)])
    theirs = torch.optim.AdamW(twins)
    n = sum(p.size for p in parameters)
    shape = f"{n / 1e6:.1f} M"
    return [
        ("adamw", shape, lambda: optimizer.step(1e-6), theirs.step, 7 * 4 * n),
        (
            "gradient norm", shape, lambda: clip_grad_norm(parameters, 0),
            lambda: torch.nn.utils.get_total_norm([t.grad for t in twins]), 4 * n,
        ),
    ]  # fmt: skip


def timed(function: Callable, *args: Any) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def burst(*functions: Callable) -> list[float]:
    """Return the median seconds of each function; each is given the result of the one before."""
    time.sleep(PAUSE)
    end = time.perf_counter() + BURST
    calls: list[list[float]] = []
    while len(calls) < 3 or time.perf_counter() < end:
        seconds, result = timed(functions[0])
        calls.append([seconds])
        for function in functions[1:]:
            seconds, result = timed(function, result)
            calls[-1].append(seconds)
        del result  # so that the next call finds its memory free
    return np.median(calls, axis=0).tolist()


def bandwidth() -> float:
    """Return the bytes a second that a copy on all threads reads and writes."""
    x = torch.zeros(2**25)
    y = torch.empty_like(x)
    return 2 * 4 * x.numel() / min(burst(lambda: y.copy_(x))[0] for _ in range(3))


def row(name: str, shape: str, ours: list, theirs: list, n_bytes: int, copy: float) -> dict:
    ours_ms, torch_ms = (1000 * float(np.median(x)) for x in (ours, theirs))
    return {
        "kernel": name, "shape": shape, "ours_ms": ours_ms, "torch_ms": torch_ms,
        **ratios(ours, theirs), "bandwidth": n_bytes / (ours_ms / 1000) / copy,
    }  # fmt: skip


def measure(name: str, case: Case, repetitions: int, copy: float) -> list[dict[str, Any]]:
    """Return a row for the forward pass and one for the rule."""
    rounds = []
    for _ in range(repetitions + 1):
        ours = burst(case.forward, case.gradients)
        theirs = burst(case.torch_forward, case.torch_gradients)
        rounds.append((*ours, *theirs))
    f, b, tf, tb = map(list, zip(*rounds[1:], strict=True))
    return [
        row(name, case.shape, f, tf, case.bytes[0], copy),
        row(f"{name} vjp", case.shape, b, tb, case.bytes[1], copy),
    ]


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title="kernels, median ms", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for heading in ("kernel", "shape"):
        out.add_column(heading, no_wrap=True)
    for heading in ("ours", "torch", "ours/torch\n(10-90 %)", "of a\ncopy"):
        out.add_column(heading, justify="right", no_wrap=True)
    for r in rows:
        times = (f"{r[key]:.2f}" for key in ("ours_ms", "torch_ms"))
        out.add_row(r["kernel"], r["shape"], *times, shown(r), f"{r['bandwidth']:.0%}")
    return out


def main() -> None:
    parser = options("Time each kernel, here and in PyTorch.")
    parser.add_argument("--kernel", nargs="+", metavar="NAME", help="only those that begin so")
    args = parser.parse_args()

    keep_freed_memory()  # as npgpt train does; PyTorch gains from it as well
    threads = int(os.environ.get("NUMBA_NUM_THREADS", 0)) or torch.get_num_threads()
    torch.set_num_threads(threads)
    repetitions, copy = 5 if args.quick else 20, bandwidth()

    def chosen(name: str) -> bool:
        return not args.kernel or name.startswith(tuple(args.kernel))

    rows = []
    for name, make in cases().items():
        if chosen(name):
            print(f"measuring {name}", file=sys.stderr)
            rows += measure(name, make(), repetitions, copy)
    for name, shape, ours, theirs, n_bytes in optimizers():
        if chosen(name):
            rounds = [(*burst(ours), *burst(theirs)) for _ in range(repetitions + 1)][1:]
            rows.append(row(name, shape, *map(list, zip(*rounds, strict=True)), n_bytes, copy))

    note = f"Kernels {'on' if kernels_enabled() else 'off'}; below 1 is faster; {environment()}"
    report([table(rows)], note, rows, args.json)


if __name__ == "__main__":
    main()

"""Time what the tape adds to an op, here, in PyTorch and in HIPS autograd.

The arrays are so small that a program's time is that of recording its ops and of running their
rules, on one thread. Our program, PyTorch's (eager) and HIPS autograd's take turns, block by block,
so that whatever else the machine does slows all three alike; compare the ratios, not the times.

HIPS autograd's package is called autograd, as ours is: pip installs it into a folder of its own,
and a second process runs it, with the same interpreter and the same NumPy.

    python benchmarks/engine.py [--quick] [--no-hips] [--hips-env DIR] [--json FILE]
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from rich import box
from rich.table import Table
from timing import environment, options, ratios, report, shown

import autograd  # ours; in the process that Hips starts, HIPS's

try:
    import torch
except ImportError:
    print("this benchmark compares with PyTorch; install it: pip install torch", file=sys.stderr)
    sys.exit(2)

# Rounds, the lengths of the long chains, and their rounds.
FULL, QUICK = (40, (100_000, 1_000_000), 3), (5, (10_000, 100_000), 1)
BLOCK = 0.01  # seconds of our calls in a row, before the next takes its turn
TARGETS = {"chain": (0.7, 0.4)}  # of PyTorch's time, and of HIPS autograd's
SERVE = "--serve-hips"


# ---- the programs


@dataclass(frozen=True)
class Row:
    """A program: a link, repeated on its first array, and the sum of the result.

    The link is written once, in NumPy's names: it is given `numpy` for ours, `torch`, or
    `autograd.numpy`, then the arrays, of which gradients are taken, then the constants.
    """

    name: str
    link: Callable
    ops_per_link: int
    links: int
    arrays: tuple[ndarray, ...]
    constants: tuple[ndarray, ...] = ()
    order: int = 1  # of the derivative

    @property
    def n_ops(self) -> int:
        """Count the ops of the program, with the final sum."""
        return self.ops_per_link * self.links + 1

    def program(self, np: Any, x: Any, *others: Any) -> Any:
        """Return a scalar."""
        for _ in range(self.links):
            x = self.link(np, x, *others)
        return np.sum(x)


def mlp(np: Any, w_1: Any, b_1: Any, w_2: Any, b_2: Any, x: Any, y: Any) -> Any:
    """Return the squared errors of two layers."""
    error = np.tanh(x @ w_1 + b_1) @ w_2 + b_2 - y
    return error * error


def layer_norm(np: Any, x: Any, w: Any, b: Any) -> Any:
    centered = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centered * centered, axis=-1, keepdims=True)
    return centered / np.sqrt(variance + 1e-5) * w + b


def make_rows() -> list[Row]:
    generator = np.random.default_rng(0)

    def some(*lengths: int) -> ndarray:
        return generator.uniform(0.5, 1.0, lengths)

    x, w, b = some(4, 4), some(4, 4), some(4)
    rotation = np.linalg.qr(w)[0]  # products of it stay of one size
    layers = some(8, 8), some(8), some(8, 8), some(8)

    def chain(np: Any, x: Any) -> Any:
        return np.tanh(x * 1.01)

    return [
        Row("chain", chain, 2, 100, (x,)),
        Row("add", lambda np, x, w: x + w, 1, 100, (x, w)),
        Row("multiply", lambda np, x, w: x * w, 1, 100, (x, w)),
        Row("exp, log", lambda np, x: np.log(np.exp(x)), 2, 50, (x,)),
        Row("sum(axis) * w", lambda np, x, w: np.sum(x, axis=0) * w, 2, 50, (x, w / 4)),
        Row("matmul", lambda np, x, w: x @ w, 1, 100, (x, rotation)),
        Row("getitem", lambda np, x: x[1:], 1, 50, (some(54, 4),)),
        Row("reshape", lambda np, x: x.reshape(2, 8).reshape(4, 4), 2, 50, (x,)),
        Row("small MLP", mlp, 7, 1, layers, (some(8, 8), some(8, 8))),
        Row("layer_norm", layer_norm, 9, 10, (x, some(4), b)),
        Row("create_graph", chain, 2, 100, (x,), order=2),
    ]


# ---- the three engines: each makes, of a row, a function that returns the gradients


def on_tensors(row: Row, np: Any, tensor: Callable, grad: Callable) -> Callable[[], Any]:
    """Serve ours and PyTorch, which differ in nothing but where the names come from."""
    inputs = [tensor(x, requires_grad=True) for x in row.arrays]
    constants = [tensor(x) for x in row.constants]

    def first() -> Any:
        return grad(row.program(np, *inputs, *constants), inputs)

    def second() -> Any:
        gradients = grad(row.program(np, *inputs, *constants), inputs, create_graph=True)
        return grad(sum(np.sum(g) for g in gradients), inputs)

    return first if row.order == 1 else second


def on_functions(row: Row) -> Callable[[], Any]:
    """Serve HIPS autograd, where ``grad`` maps functions to functions."""
    from autograd import numpy as traced

    # One array goes by itself: a tuple of one would be traced, too.
    which: Any = 0 if len(row.arrays) == 1 else tuple(range(len(row.arrays)))
    first = autograd.grad(partial(row.program, traced), which)

    def total(*inputs: Any) -> Any:
        gradients = first(*inputs)
        return sum(traced.sum(g) for g in (gradients if which else (gradients,)))

    function = first if row.order == 1 else autograd.grad(total, which)

    def run() -> Any:
        gradients = function(*row.arrays, *row.constants)
        return gradients if which else (gradients,)

    return run


class Hips:
    """HIPS autograd, in a process of its own, which ends when its input closes."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, SERVE],
            env={**os.environ, "PYTHONPATH": str(folder)},  # comes before where ours is installed
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.version = self._answer()

    def ask(self, name: str, repetitions: int) -> Any:
        """Return the seconds of a row's program; for no repetitions, its gradients."""
        print(json.dumps([name, repetitions]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        if not (line := self.process.stdout.readline()):  # type: ignore[union-attr]
            sys.exit("the process that runs HIPS autograd has ended")
        return json.loads(line)


def serve() -> None:
    """Run HIPS autograd on request: the other end of :class:`Hips`."""
    runs = {row.name: on_functions(row) for row in make_rows()}
    gc.freeze()
    print(json.dumps(version("autograd")), flush=True)
    for line in sys.stdin:
        name, repetitions = json.loads(line)
        run = runs[name]
        answer = seconds(run, repetitions) if repetitions else [g.tolist() for g in run()]
        print(json.dumps(answer), flush=True)


def start_hips(folder: Path, may_install: bool) -> tuple[Hips | None, str]:
    """Return HIPS autograd with its version, or None with the reason; install it once."""
    if not (folder / "autograd" / "numpy").is_dir():
        if not may_install:
            return None, f"not in {folder}, where a run without --quick installs it"
        print(f"installing HIPS autograd in {folder}", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--retries=1", "--timeout=10"]
        options = ["--no-deps", "--target", str(folder), "autograd"]  # its one dependency is NumPy
        if subprocess.run([*pip, *options]).returncode:
            return None, "pip could not install it"
    hips = Hips(folder)
    return hips, hips.version


# ---- measuring


def seconds(run: Callable[[], Any], repetitions: int) -> float:
    """Return the seconds of the median call of some in a row, after one to warm up."""
    run()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(row: Row, hips: Hips | None, rounds: int) -> dict[str, Any]:
    """Return one row: median microseconds per op, and what the ratios spread over."""
    ours = on_tensors(row, np, autograd.tensor, autograd.grad)
    theirs = on_tensors(row, torch, torch.tensor, torch.autograd.grad)
    require_equal(row, "PyTorch", ours(), theirs())
    if hips:
        require_equal(row, "HIPS autograd", ours(), hips.ask(row.name, 0))

    repetitions = max(1, round(BLOCK / seconds(ours, 5)))
    times: dict[str, list[float]] = {"ours": [], "torch": [], "hips": []}
    for _ in range(rounds):
        times["ours"].append(seconds(ours, repetitions))
        times["torch"].append(seconds(theirs, repetitions))
        if hips:
            times["hips"].append(hips.ask(row.name, repetitions))
    out: dict[str, Any] = {"row": row.name, "ops": row.n_ops}
    for who, taken in times.items():
        out[f"{who}_us"] = 1e6 * float(np.median(taken)) / row.n_ops if taken else None
        if who != "ours":
            out[f"ours/{who}"] = ratios(times["ours"], taken) if taken else None
    return out


def require_equal(row: Row, name: str, gradients: Any, expected: Any) -> None:
    for x, y in zip(gradients, expected, strict=True):
        if not np.allclose(x.numpy(), y, rtol=1e-9, atol=0):
            sys.exit(f"row {row.name}: our gradients are not those of {name}: nothing to compare")


def measure_long(n_nodes: int, rounds: int) -> dict[str, Any]:
    """Return microseconds and bytes of each node of a long chain, here."""
    x = autograd.tensor([1.0], requires_grad=True)

    def forward() -> Any:
        y = x
        for _ in range(n_nodes):
            y = y * 1.0000001
        return y

    times = []
    for _ in range(rounds):
        x.grad = None
        start = time.perf_counter()
        y = forward()
        middle = time.perf_counter()
        y.backward()
        times.append((middle - start, time.perf_counter() - middle))
    if not np.allclose(x.grad.numpy(), 1.0000001**n_nodes):
        sys.exit(f"the gradient through {n_nodes} nodes is wrong")

    tracemalloc.start()
    y = forward()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    forward_us, backward_us = (float(t) for t in 1e6 * np.median(times, axis=0) / n_nodes)
    return {
        "row": "long chain",
        "ops": n_nodes,
        "forward_us": forward_us,
        "backward_us": backward_us,
        "bytes": allocated / n_nodes,
    }


# ---- reporting


def table(rows: list[dict[str, Any]]) -> Table:
    title = "forward and backward of one op, median µs"
    out = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    out.add_column("program", no_wrap=True)
    for heading in ("ours", "ours/torch\n(10-90 %)", "target", "ours/HIPS\n(10-90 %)", "target"):
        out.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        targets = TARGETS.get(row["row"], ("", ""))
        cells = [shown(row[key]) if row[key] else "" for key in ("ours/torch", "ours/hips")]
        beside = [str(cell) for pair in zip(cells, targets, strict=True) for cell in pair]
        out.add_row(row["row"], f"{row['ours_us']:.2f}", *beside)
    return out


def long_table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title="one node of a long chain, here", box=box.SIMPLE_HEAD)
    for heading in ("nodes", "forward µs", "backward µs", "bytes (tracemalloc)"):
        out.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        times = (f"{row[key]:.2f}" for key in ("forward_us", "backward_us"))
        out.add_row(f"{row['ops']:,}", *times, f"{row['bytes']:.0f}")
    return out


def main() -> None:
    parser = options(
        "Time ops here, in PyTorch and HIPS autograd.", "few repetitions, installing nothing"
    )
    parser.add_argument("--no-hips", action="store_true", help="leave HIPS autograd out")
    parser.add_argument(
        "--hips-env", type=Path, metavar="DIR",
        default=Path(tempfile.gettempdir(), "hips-autograd"),
        help="where HIPS autograd is, or will be installed (%(default)s)",
    )  # fmt: skip
    args = parser.parse_args()

    torch.set_num_threads(1)  # NumPy's BLAS starts no threads for products so small
    hips, note = None, "left out"
    if not args.no_hips:
        hips, note = start_hips(args.hips_env, may_install=not args.quick)
    programs = make_rows()
    gc.freeze()  # what was imported is no concern of the garbage collector, in neither process
    rounds, lengths, long_rounds = QUICK if args.quick else FULL
    rows = []
    for row in programs:
        print(f"measuring {row.name}", file=sys.stderr)
        rows.append(measure(row, hips, rounds))
    long_rows = []
    for n_nodes in lengths:
        print(f"measuring a chain of {n_nodes:,} nodes", file=sys.stderr)
        long_rows.append(measure_long(n_nodes, long_rounds))

    note = f"Below 1 is faster; HIPS autograd: {note}; {environment()}"
    report([table(rows), long_table(long_rows)], note, rows + long_rows, args.json)


if __name__ == "__main__":
    serve() if sys.argv[1:] == [SERVE] else main()

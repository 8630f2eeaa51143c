"""Time what the tape adds to an op, here, in PyTorch and in HIPS autograd.

The arrays are so small that a program's time is that of recording its ops and of running their
rules. Times are of one op: forward and backward of the program, over the number of its ops.

HIPS autograd's package is called autograd, as ours is: pip installs it into a folder of its own,
and a second process runs it, with the same interpreter and the same NumPy.

    python benchmarks/engine.py [chain matmul ...] [--no-hips] [--hips-env DIR] [--quick]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from harness import OURS, Row, burst, main, need, take_turns, timed
from numpy import ndarray

import autograd  # ours; in the process that Hips starts, HIPS's

torch = need("torch")

BLOCK = 0.01  # seconds of calls in a row, before the next contender takes its turn
LONG = "long chain"
LENGTH, QUICK_LENGTH = 1_000_000, 10_000  # nodes of the long chain
SERVE = "--serve-hips"


# ---- the programs


@dataclass(frozen=True)
class Program:
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

    def run(self, np: Any, x: Any, *others: Any) -> Any:
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


def make_programs() -> list[Program]:
    generator = np.random.default_rng(0)

    def some(*lengths: int) -> ndarray:
        return generator.uniform(0.5, 1.0, lengths)

    x, w, b = some(4, 4), some(4, 4), some(4)
    rotation = np.linalg.qr(w)[0]  # products of it stay of one size
    layers = some(8, 8), some(8), some(8, 8), some(8)

    def chain(np: Any, x: Any) -> Any:
        return np.tanh(x * 1.01)

    return [
        Program("chain", chain, 2, 100, (x,)),
        Program("add", lambda np, x, w: x + w, 1, 100, (x, w)),
        Program("multiply", lambda np, x, w: x * w, 1, 100, (x, w)),
        Program("exp, log", lambda np, x: np.log(np.exp(x)), 2, 50, (x,)),
        Program("sum(axis) * w", lambda np, x, w: np.sum(x, axis=0) * w, 2, 50, (x, w / 4)),
        Program("matmul", lambda np, x, w: x @ w, 1, 100, (x, rotation)),
        Program("getitem", lambda np, x: x[1:], 1, 50, (some(54, 4),)),
        Program("reshape", lambda np, x: x.reshape(2, 8).reshape(4, 4), 2, 50, (x,)),
        Program("small MLP", mlp, 7, 1, layers, (some(8, 8), some(8, 8))),
        Program("layer_norm", layer_norm, 9, 10, (x, some(4), b)),
        Program("create_graph", chain, 2, 100, (x,), order=2),
    ]


# ---- the three engines: each makes, of a program, a function that returns the gradients


def on_tensors(program: Program, np: Any, tensor: Callable, grad: Callable) -> Callable[[], Any]:
    """Serve ours and PyTorch, which differ in nothing but where the names come from."""
    inputs = [tensor(x, requires_grad=True) for x in program.arrays]
    constants = [tensor(x) for x in program.constants]

    def first() -> Any:
        return grad(program.run(np, *inputs, *constants), inputs)

    def second() -> Any:
        gradients = grad(program.run(np, *inputs, *constants), inputs, create_graph=True)
        return grad(sum(np.sum(g) for g in gradients), inputs)

    return first if program.order == 1 else second


def on_functions(program: Program) -> Callable[[], Any]:
    """Serve HIPS autograd, where ``grad`` maps functions to functions."""
    from autograd import numpy as traced

    # One array goes by itself: a tuple of one would be traced, too.
    which: Any = 0 if len(program.arrays) == 1 else tuple(range(len(program.arrays)))
    first = autograd.grad(partial(program.run, traced), which)

    def total(*inputs: Any) -> Any:
        gradients = first(*inputs)
        return sum(traced.sum(g) for g in (gradients if which else (gradients,)))

    function = first if program.order == 1 else autograd.grad(total, which)

    def run() -> Any:
        gradients = function(*program.arrays, *program.constants)
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

    def ask(self, name: str, is_timed: bool) -> Any:
        """Return the seconds of a program, or its gradients."""
        print(json.dumps([name, is_timed]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        if not (line := self.process.stdout.readline()):  # type: ignore[union-attr]
            sys.exit("the process that runs HIPS autograd has ended")
        return json.loads(line)


def serve() -> None:
    """Run HIPS autograd on request: the other end of :class:`Hips`."""
    runs = {program.name: on_functions(program) for program in make_programs()}
    gc.freeze()
    print(json.dumps(version("autograd")), flush=True)
    for line in sys.stdin:
        name, is_timed = json.loads(line)
        run = runs[name]
        answer = median_seconds(run) if is_timed else [g.tolist() for g in run()]
        print(json.dumps(answer), flush=True)


def start_hips(folder: Path, may_install: bool) -> Hips | None:
    """Return HIPS autograd, or None where it cannot be installed; install it once."""
    if not (folder / "autograd" / "numpy").is_dir():
        if not may_install:
            print(f"HIPS autograd, not in {folder}, is left out: --quick installs nothing")
            return None
        print(f"installing HIPS autograd in {folder}", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--retries=1", "--timeout=10"]
        options = ["--no-deps", "--target", str(folder), "autograd"]  # its one dependency is NumPy
        if subprocess.run([*pip, *options]).returncode:
            print("HIPS autograd is left out: pip could not install it")
            return None
    return Hips(folder)


# ---- measuring


def median_seconds(run: Callable[[], Any]) -> float:
    """Return the seconds of the median call of some in a row, after a call to warm up."""
    return float(burst(run, seconds=BLOCK, at_least=1, pause=0)[1, 0])


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return the row of a program, or the rows of the long chain."""
    if case == LONG:
        return measure_long(QUICK_LENGTH if args.quick else LENGTH, 1 if args.quick else 3)
    (program,) = (program for program in make_programs() if program.name == case)
    hips = None if args.no_hips else start_hips(args.hips_env, may_install=not args.quick)
    gc.freeze()  # what was imported is no concern of the garbage collector, in neither process
    ours = on_tensors(program, np, autograd.tensor, autograd.grad)
    theirs = on_tensors(program, torch, torch.tensor, torch.autograd.grad)
    require_equal(program, "PyTorch", ours(), theirs())
    turns = {OURS: partial(median_seconds, ours), "torch": partial(median_seconds, theirs)}
    if hips:
        require_equal(program, "HIPS autograd", ours(), hips.ask(case, False))
        turns[f"HIPS {hips.version}"] = partial(hips.ask, case, True)
    times = take_turns(turns, args.rounds)
    samples = {who: (t / program.n_ops).tolist() for who, t in times.items()}
    return [Row(case, "op", "s", samples)]


def require_equal(program: Program, name: str, gradients: Any, expected: Any) -> None:
    for x, y in zip(gradients, expected, strict=True):
        if not np.allclose(x.numpy(), y, rtol=1e-9, atol=0):
            sys.exit(f"{program.name}: our gradients are not those of {name}: nothing to compare")


def measure_long(n_nodes: int, rounds: int) -> list[Row]:
    """Return what a node of a long chain takes here: seconds and bytes."""
    x = autograd.tensor([1.0], requires_grad=True)

    def forward() -> Any:
        y = x
        for _ in range(n_nodes):
            y = y * 1.0000001
        return y

    times = []
    for _ in range(rounds):
        x.grad = None
        forward_s, y = timed(forward)
        times.append((forward_s, timed(y.backward)[0]))
    if not np.allclose(x.grad.numpy(), 1.0000001**n_nodes):
        sys.exit(f"the gradient through {n_nodes} nodes is wrong")

    tracemalloc.start()
    y = forward()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    label = f"{LONG}, {n_nodes:,} nodes"
    forward_s, backward_s = (np.array(times).T / n_nodes).tolist()
    return [
        Row(label, "forward of a node", "s", {OURS: forward_s}),
        Row(label, "backward of a node", "s", {OURS: backward_s}),
        Row(label, "memory of a node", "B", {OURS: [allocated / n_nodes]}),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-hips", action="store_true", help="leave HIPS autograd out")
    parser.add_argument(
        "--hips-env", type=Path, metavar="DIR",
        default=Path(tempfile.gettempdir(), "hips-autograd"),
        help="where HIPS autograd is, or will be installed (%(default)s)",
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        serve()
    else:
        cases = [*(program.name for program in make_programs()), LONG]
        main(__doc__, cases, measure, rounds=15, threads=(1,), options=add_options)

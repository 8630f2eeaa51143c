"""Time training steps of several processes, beside one process of one thread and of a team.

"Ours" are the processes of ``npgpt train --workers``, each with one thread; they and the others
take turns. Beside them is the time that a simulation of the schedule predicts, from a process that
computes one part of the batch alone. The second row of a shape is the time in which the processes
exchange data in a step, and the time that a model predicts from bytes and latency. The last table
is a calculation: how training would scale over machines in a network.

    python benchmarks/distributed.py [a c ...] [--workers 2] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import OURS, Row, burst, keep_memory, main, take_turns, timed, usable_cpus
from train_step import BETAS, LEARNING_RATE, MAX_NORM, SHAPES, WEIGHT_DECAY, draw_batch, make_model

WHAT = "NPGPT_BENCHMARK"  # the variable that tells a worker its shape, and whether it computes
BARRIERS = 5  # of an update: the order, the loss, the sum, the norm, the parameters
BANDWIDTH, DELAY = 12.5e9, 2e-6  # of a network: bytes a second (100 Gb/s), seconds of a message
NODES = 8, 64, 1024
MODELS = {"GPT-2 124M": 124e6, "GPT-3 1.3B": 1.3e9}
TOKENS = 16 * 1024  # of a node and a step


def make_run(name: str, batch_size: int | None = None) -> Any:
    """Return a run of a shape without a folder; every step has the same batch, or none (0)."""
    from npgpt.training.config import TrainConfig
    from npgpt.training.loop import Run
    from npgpt.training.optim import AdamW
    from npgpt.training.ranks import Alone
    from npgpt.training.state import Progress

    shape = SHAPES[name]
    batch = tuple(x[:batch_size] for x in draw_batch(shape))
    run = object.__new__(Run)
    run.files, run.ranks, run.progress = SimpleNamespace(path=Path()), Alone(), Progress()
    run.config = TrainConfig(
        learning_rate=LEARNING_RATE, decay_lr=False, grad_clip=MAX_NORM, dropout=shape.dropout
    )
    run.model = make_model(shape).train()
    run.optimizer = AdamW(run.model.named_parameters(), BETAS, weight_decay=WEIGHT_DECAY)
    batches = [] if batch_size == 0 else [batch]
    run.task = SimpleNamespace(data={}, batches=lambda step: batches, objective=lambda model: model)
    return run


def work(group: Any) -> None:
    """Do what a worker of `npgpt train` does, for the shape that the environment names."""
    from npgpt.training.together import obey

    for _ in range(100):
        group.gather(None)
    group.broadcast()  # the folder of the run, which this benchmark has not
    name, batch_size = os.environ[WHAT].split()
    obey(make_run(name, int(batch_size)), group)


@contextmanager
def processes(name: str, n: int, batch_size: int) -> Iterator[tuple[Any, float]]:
    """Yield a run that n processes train, and the seconds of a barrier."""
    from autograd.kernels import use_threads
    from npgpt.parallel.workers import Workers
    from npgpt.training.ranks import Ranks
    from npgpt.training.together import variables_of

    variables = variables_of(1) | {WHAT: f"{name} {batch_size}"}
    run = make_run(name, batch_size)
    with use_threads(1), Ranks(Workers(n, f"distributed:{work.__name__}", variables)) as run.ranks:
        barriers = [timed(run.ranks.group.gather, None)[0] for _ in range(100)]
        run.ranks.join(run)
        yield run, float(np.median(barriers))


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return the rows of a shape."""
    from autograd.kernels import use_threads
    from npgpt.training.ranks import Layout

    keep_memory(args)
    n, batch_size = args.workers, SHAPES[case].batch_size
    alone, part = make_run(case), make_run(case, batch_size // n)
    part.optimizer.cuts = Layout(part.optimizer.parameters).cuts(0, n)

    def step(n_threads: int, run: Any) -> float:
        with use_threads(n_threads):
            return float(burst(run.update, seconds=0.3, quick=args.quick)[1, 0])

    with processes(case, n, batch_size) as (run, _):
        turns = {
            OURS: partial(step, 1, run),
            "one thread": partial(step, 1, alone),
            "team": partial(step, usable_cpus(), alone),
            "part": partial(step, 1, part),
        }
        times = {who: found.tolist() for who, found in take_turns(turns, args.rounds).items()}
    with processes(case, n, 0) as (run, barrier):
        exchange = take_turns({OURS: partial(step, 1, run)}, args.rounds)[OURS].tolist()
    size = sum(parameter.size for parameter in alone.optimizer.parameters.values())
    source, target = np.ones((2, size), np.float32)
    copy = np.median([timed(np.copyto, target, source)[0] for _ in range(20)])
    # A rank writes its gradient, and reads n times its part of 1 / n: the traffic of a copy and,
    # with the sum that it writes, of a half more. A copy reads once and writes once.
    foretold = float(copy) * (1 + 1 / (2 * n)) + BARRIERS * barrier
    times["simulated"] = simulate(times.pop("part"), foretold, n)
    return [
        Row(case, "step", "s", times),
        Row(case, "exchange", "s", {OURS: exchange, "model": [foretold] * len(exchange)}),
    ]


def simulate(parts: Sequence[float], exchange: float, n: int) -> list[float]:
    """Return the seconds of steps in which n ranks compute, wait for the last, and exchange.

    Each rank takes its times from those that a process alone measured, at random.
    """
    generator = np.random.default_rng(0)
    steps = []
    for _ in parts:
        clocks = np.zeros(n)
        for _ in range(100):
            clocks += generator.choice(parts, n)
            clocks[:] = clocks.max() + exchange
        steps.append(float(clocks[0]) / 100)
    return steps


# ---- on paper


def foretell(rows: Sequence[dict[str, Any]]) -> str:
    """Return how efficient machines in a network are, from the speed of the largest shape here.

    A step of P parameters and t tokens a machine takes 6 P t operations. Each machine sends the
    gradients of all parts but its own, and gets as many parameters: 2 (N - 1) / N times 4 P bytes,
    in 2 (N - 1) messages.
    """
    steps = [row for row in rows if row["what"] == "step"]
    shape = SHAPES[steps[-1]["case"]]
    n = sum(parameter.size for parameter in make_model(shape).parameters())
    speed = 6 * n * shape.batch_size * shape.block_size / steps[-1]["values"]["team"]
    lines = [
        f"On paper, at {speed / 1e9:,.0f} GFLOP/s a machine (shape {steps[-1]['case']}), "
        f"{BANDWIDTH / 1e9:g} GB/s, {TOKENS:,} tokens a machine and step:",
        "",
        "| model | machines | computing | network | efficiency | one half at |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, size in MODELS.items():
        for nodes in NODES:
            computing = 6 * size * TOKENS / speed
            network = 2 * (nodes - 1) * (4 * size / nodes / BANDWIDTH + DELAY)
            half = TOKENS * network / computing
            lines.append(
                f"| {name} | {nodes:,} | {computing:,.1f} s | {network:.3g} s | "
                f"{computing / (computing + network):.1%} | {half:,.0f} tokens |"
            )
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (2)")


if __name__ == "__main__":
    rows = main(__doc__, ["a", "b", "c", "d"], measure, rounds=5, options=add_options)
    print(f"\n{foretell(rows)}")

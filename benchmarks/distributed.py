"""Time training steps of several processes, beside one process of one thread and of a team.

"Ours" are the processes of ``npgpt train --workers``, each with one thread; they and the others
take turns. Beside them is the time that a simulation of the schedule predicts, from processes that
compute their parts of the batch at the same time, but wait for nobody. The second row of a shape is
the time in which the processes exchange data in a step, and the time that a model predicts from
bytes and latency. The last table is a calculation: how training would scale over machines in a
network.

    python benchmarks/distributed.py [a c ...] [--workers 2] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import OURS, Row, burst, keep_memory, main, take_turns, timed, usable_cpus
from train_step import (
    BETAS,
    LEARNING_RATE,
    MAX_NORM,
    SHAPES,
    WEIGHT_DECAY,
    Shape,
    draw_batch,
    make_model,
)

WHAT = "NPGPT_BENCHMARK"  # the variable that tells a worker its shape, batch and partners
PROBES = {  # models that only exchange; from both follow the latency and the bandwidth
    "few bytes": Shape(4, 1, 16, 2, 8),
    "many bytes": Shape(4, 8, 640, 2, 8),
}
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

    shape = (SHAPES | PROBES)[name]
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
    """Do what a worker of `npgpt train` does, for the run that the environment describes."""
    from npgpt.training.together import obey

    name, batch_size, together = json.loads(os.environ[WHAT])
    run = make_run(name, batch_size)
    if together:
        group.broadcast()  # the folder of the run, which this benchmark has not
        obey(run, group)
    else:
        take_part(run, group)
        while n_steps := group.broadcast():
            take_steps(run, n_steps)


@contextmanager
def processes(name: str, n: int, batch_size: int, together: bool = True) -> Iterator[Any]:
    """Yield a run that n processes train; if not together, each for itself, and the group."""
    from autograd.kernels import use_threads
    from npgpt.parallel.workers import Workers
    from npgpt.training.ranks import Ranks
    from npgpt.training.together import variables_of

    variables = variables_of(1) | {WHAT: json.dumps([name, batch_size, together])}
    run = make_run(name, batch_size)
    with use_threads(1):
        group = Workers(n, f"distributed:{work.__name__}", variables)
        if together:
            with Ranks(group) as run.ranks:
                run.ranks.join(run)
                yield run
        else:
            take_part(run, group)
            yield run, group
            group.broadcast(0)
            group.close(is_failure=False)


def take_part(run: Any, group: Any) -> None:
    """Let a run update the part of the parameters that belongs to this rank."""
    from npgpt.training.ranks import Layout

    run.optimizer.cuts = Layout(run.optimizer.parameters).cuts(group.rank, group.size)


def take_steps(run: Any, n_steps: int) -> list[float]:
    """Return the seconds of each of n steps."""
    return [timed(run.update)[0] for _ in range(n_steps)]


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return the rows of a shape."""
    from autograd.kernels import use_threads

    keep_memory(args)
    n, batch_size = args.workers, SHAPES[case].batch_size
    alone = make_run(case)

    def step(n_threads: int, run: Any) -> float:
        with use_threads(n_threads):
            return float(burst(run.update, seconds=0.3, quick=args.quick)[1, 0])

    exchanges, sizes = {}, {}
    for name in (*PROBES, case):
        with processes(name, n, 0) as run:
            exchanges[name] = take_turns({OURS: partial(step, 1, run)}, args.rounds)[OURS].tolist()
            sizes[name] = run.model.n_parameters()
    foretold = foretell_exchange(sizes, exchanges, case)

    with (
        processes(case, n, batch_size) as run,
        processes(case, n, batch_size // n, False) as (
            part,
            group,
        ),
    ):

        def simulated() -> float:
            n_steps = 1 if args.quick else max(4, round(0.5 / take_steps(part, 1)[0]))
            group.broadcast(n_steps)
            return simulate(take_steps(part, n_steps), foretold, n)

        turns = {
            OURS: partial(step, 1, run),
            "one thread": partial(step, 1, alone),
            "team": partial(step, usable_cpus(), alone),
            "simulated": simulated,
        }
        times = {who: found.tolist() for who, found in take_turns(turns, args.rounds).items()}
    model = [foretold] * len(exchanges[case])
    return [
        Row(case, "step", "s", times),
        Row(case, "exchange", "s", {OURS: exchanges[case], "model": model}),
    ]


def foretell_exchange(sizes: dict[str, int], exchanges: dict[str, list[float]], case: str) -> float:
    """Return the seconds of an exchange, latency + bytes / bandwidth, as measured with two probes.

    Parameters
    ----------
    sizes : dict of str to int
        How many parameters the probes and the case have.
    exchanges : dict of str to list of float
        The seconds that their exchanges took.
    case : str
    """
    few, many = (sizes[probe] for probe in PROBES)
    fast, slow = (float(np.median(exchanges[probe])) for probe in PROBES)
    return fast + (sizes[case] - few) * (slow - fast) / (many - few)


def simulate(parts: Sequence[float], exchange: float, n: int) -> float:
    """Return the median of the seconds of steps in which n ranks compute, wait and exchange.

    Each rank takes its times at random from those that a process measured while n processes
    computed, and waits for the rank that is the last.
    """
    computing = np.random.default_rng(0).choice(parts, (1000, n))
    return float(np.median(computing.max(axis=1))) + exchange


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

"""Time a training step against width, depth, context and batch size, here and in PyTorch.

One of the four grows, and the others stay as in `BASE`. The table is followed by a plot of each,
with logarithmic axes, and by what the times on 1 and more threads say about further threads.

    python benchmarks/scaling.py [width depth ...] [--threads 1,2] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
from harness import OURS, Row, burst, keep_memory, main, need, take_turns, usable_cpus
from train_step import Shape, make_runs

BASE = Shape(n_layer=4, n_head=4, n_embd=128, batch_size=8, block_size=64)
SERIES = {  # field of the shape, and its values
    "width": ("n_embd", [64, 128, 256, 512]),
    "depth": ("n_layer", [1, 2, 4, 8, 16]),
    "context": ("block_size", [32, 64, 128, 256, 512]),
    "batch": ("batch_size", [1, 2, 4, 8, 16, 32]),
}
WIDTH, HEIGHT = 60, 14  # of a plot, in characters
MARKS = {OURS: "o", "torch": "x"}


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return a row for each value of a series."""
    keep_memory(args)
    field, values = SERIES[case]
    rows = []
    for value in values:
        runs = make_runs(dataclasses.replace(BASE, **{field: value}))
        turns = {
            who: partial(burst, run, seconds=0.2, quick=args.quick) for who, run in runs.items()
        }
        times = take_turns(turns, args.rounds)
        samples = {who: t[:, 1, 0].tolist() for who, t in times.items()}
        rows.append(Row(case, str(value), "s", samples))
    return rows


# ---- what the numbers say


def plot(case: str, rows: list[dict[str, Any]]) -> str:
    """Return times over values, both logarithmic: ``o`` is ours, ``x`` PyTorch's, ``*`` both.

    A line through the points of slope 1 is a time that doubles with the value.
    """
    values = np.log([float(row["what"]) for row in rows])
    times = {who: np.log([row["values"][who] for row in rows]) for who in MARKS}
    low, high = min(t.min() for t in times.values()), max(t.max() for t in times.values())
    lines = [[" "] * (WIDTH + 1) for _ in range(HEIGHT + 1)]
    for who, mark in MARKS.items():
        for value, time in zip(values, times[who], strict=True):
            x = round((value - values[0]) / (values[-1] - values[0]) * WIDTH)
            y = round((high - time) / (high - low) * HEIGHT)
            lines[y][x] = mark if lines[y][x] == " " else "*"
    labels = {0: math.exp(high), HEIGHT: math.exp(low)}
    slopes = {who: np.polyfit(values, times[who], 1)[0] for who in MARKS}
    title = ", ".join(f"{mark} {who}: {case}^{slopes[who]:.2f}" for who, mark in MARKS.items())
    drawn = [
        f"{f'{1000 * labels[i]:.3g} ms' if i in labels else '':>9} |{''.join(line)}".rstrip()
        for i, line in enumerate(lines)
    ]
    first, last = rows[0]["what"], rows[-1]["what"]
    axis = f"{'':>9} +{'-' * (WIDTH + 1)}\n{'':>11}{first:<{WIDTH + 1 - len(last)}}{last}"
    return "\n".join([f"{case}, threads: {rows[0]['threads']}; {title}", *drawn, axis])


def foretell(rows: list[dict[str, Any]]) -> str:
    """Return how much faster our steps are on more threads, and would be on many.

    Amdahl's law says that n threads take s + p / n seconds: s is the serial part of a step, which
    one thread runs while the others wait. The times on one thread and on n give both.
    """
    one, more = rows[0], rows[-1]
    n, t1, tn = more["threads"], one["values"][OURS], more["values"][OURS]
    serial = min(1.0, max(0.0, (n * tn - t1) / (n - 1) / t1))
    further = ", ".join(
        f"{1 / (serial + (1 - serial) / m):.2f} on {m}" for m in (2 * n, 4 * n, 8 * n)
    )
    return (
        f"{one['case']} {one['what']}: {t1 / tn:.2f} times as fast on {n} threads as on 1; serial "
        f"{serial:.0%}; by Amdahl's law {further}"
    )


if __name__ == "__main__":
    need("torch")
    threads = sorted({1, usable_cpus()})
    rows = main(__doc__, list(SERIES), measure, rounds=3, threads=threads)
    series, points = defaultdict(list), defaultdict(list)
    for row in rows:
        series[row["case"], row["threads"]].append(row)
        points[row["case"], row["what"]].append(row)
    for (case, _), members in series.items():
        print(f"\n{plot(case, members)}")
    print()
    for members in points.values():
        if members[0]["threads"] == 1 and len(members) > 1:
            print(foretell(members))

"""What the benchmarks share: processes, alternating runs, ratios with their spread, and the report.

A benchmark is a list of cases and a function `measure` that returns the rows of a case. `main` runs
this function in new processes: one for each case, number of threads and repetition. So a case does
not depend on the cases before it, and its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

# This module imports neither autograd nor PyTorch: NumPy and PyTorch read the number of their
# threads when they are imported, and a process whose memory is measured holds one of the two alone.

OURS = "ours"
PAUSE = 0.1  # seconds; idle threads spin for some milliseconds, and would slow who runs next
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")]
PACKAGES = ("numpy", "numba", "torch", "transformers", "tokenizers", "tiktoken")
VECTORS = ("AVX", "X86_V", "NEON", "ASIMD", "SVE")  # beginnings of names of vector instructions


# ---- measuring


@dataclass
class Row:
    """What a process measured: for each contender one number a round.

    Parameters
    ----------
    case, what : str
        The row's name in the table.
    unit : str
        Of the numbers: ``"s"``, ``"B"``, or empty for a plain number.
    samples : mapping of str to sequence of float
        The numbers by contender, `OURS` among them. Numbers at the same place are of one round: the
        contenders took turns, so the quotient is fair although other programs slow the machine.
    """

    case: str
    what: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    threads: int = 0  # `main` sets the number


def timed(function: Callable, *args: Any) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def burst(
    *stages: Callable,
    seconds: float = 0.5,
    at_least: int = 3,
    pause: float = PAUSE,
    quick: bool = False,
) -> ndarray:
    """Run the same stages again and again, as a training loop does, without a pause between them.

    A pass calls the first stage without an argument, and each later stage with the result of the
    stage before. The first pass comes after a pause: threads sleep, caches hold other data. The
    passes after it take so many seconds together, and are so many at least; if `quick`, one.

    Returns
    -------
    ndarray of float, (2, stages)
        Seconds of each stage: in the first pass, and the median of all later passes.
    """

    def run_once() -> list[float]:
        taken, result = timed(stages[0])
        times = [taken]
        for stage in stages[1:]:
            taken, result = timed(stage, result)
            times.append(taken)
        return times  # the result is freed here, so the next pass finds its memory free

    time.sleep(pause)
    first = run_once()
    passes, end = list[list[float]](), time.perf_counter() + seconds
    while not passes or (not quick and (len(passes) < at_least or time.perf_counter() < end)):
        passes.append(run_once())
    return np.array([first, np.median(passes, axis=0)])


def take_turns(turns: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, ndarray]:
    """Call the contenders alternately: ours, PyTorch, ours, PyTorch; return their results.

    The first round is not counted: in it kernels are compiled and memory is requested.

    Returns
    -------
    dict of str to ndarray, (rounds, ...)
    """
    results: dict[str, list] = {name: [] for name in turns}
    for _ in range(1 + rounds):
        for name, turn in turns.items():
            results[name].append(turn())
    return {name: np.array(result[1:]) for name, result in results.items()}


def apart(function: Callable, *args: Any) -> Any:
    """Return what a function of a module returns when a new process of Python calls it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            sys.exit(f"{args[0]}: the process ended early; perhaps the memory did not suffice")


def peak_memory() -> float:
    """Return the largest resident memory that this process had so far, in bytes; NaN on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def need(package: str) -> Any:
    """Import a package to compare with; end the program if it is not installed."""
    if find_spec(package) is None:
        sys.exit(f"this benchmark compares with {package}; install it: pip install {package}")
    return import_module(package)


# ---- running a benchmark


def main(
    description: str,
    cases: Sequence[str],
    measure: Callable[[str, argparse.Namespace], list[Row]],
    rounds: int = 5,
    threads: Sequence[int] = (),
    options: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
) -> list[dict[str, Any]]:
    """Run a benchmark from the command line; print its table, and return the table's rows.

    Parameters
    ----------
    description : str
        Of the benchmark: its docstring.
    cases : sequence of str
        Their names.
    measure : callable
        Maps a case's name and the options to rows. ``args.rounds`` says how many rounds to measure,
        and ``args.quick`` whether to measure as little as possible.
    rounds : int
        Of each process; one with ``--quick``.
    threads : sequence of int
        The default of ``--threads``; if empty, as many as the process may use.
    options : callable
        Adds further options to the parser.
    """
    args = parse(description, cases, threads, options)
    args.rounds = 1 if args.quick else rounds
    measured: list[list[Row]] = []
    for case in args.cases:
        for n in args.threads:
            os.environ.update(dict.fromkeys(THREADS, str(n)))
            runs = []
            for i in range(args.processes):
                many = f", process {i + 1} of {args.processes}" if args.processes > 1 else ""
                print(f"measuring {case}, threads: {n}{many}", file=sys.stderr)
                runs.append(apart(start, case, n, measure, args))
            measured += zip(*runs, strict=True)
    rows = [summarize(runs) for runs in measured]
    machine, command = describe_machine(), shlex.join(["python", *sys.argv])
    print(markdown(rows))
    print(f"\nBelow 1, ours is faster, or needs less. `{command}` on " + sentence(machine))
    if args.json:
        report = {"machine": machine, "command": command, "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return rows


def parse(
    description: str, cases: Sequence[str], threads: Sequence[int], options: Callable
) -> argparse.Namespace:
    """Return the options that every benchmark has, and its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(cases)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"beginnings of names: {names}")
    parser.add_argument("--quick", action="store_true", help="one round in one process")
    parser.add_argument(
        "--threads", type=numbers, default=threads, metavar="N,N", help="one row for each number"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="whose median counts (3)")
    parser.add_argument(
        "--return_memory", action="store_true",
        help="let the C library return freed memory to the system, as in a program that never "
        "calls npgpt train",
    )  # fmt: skip
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows there")
    options(parser)
    args = parser.parse_args()
    for name in args.cases:
        if not any(case.startswith(name) for case in cases):
            parser.error(f"no case begins with {name!r}; the cases are: {names}")
    args.cases = [case for case in cases if case.startswith(tuple(args.cases) or "")]
    if args.processes is None:
        args.processes = 1 if args.quick else 3
    if args.processes < 1:
        parser.error("--processes must be at least 1")
    args.threads = args.threads or [usable_cpus()]
    if max(args.threads) > usable_cpus():
        parser.error(f"--threads {max(args.threads)}: this process may use {usable_cpus()} CPUs")
    return args


def start(case: str, threads: int, measure: Callable, args: argparse.Namespace) -> list[Row]:
    """Measure a case; this is the first function that a new process runs."""
    args.n_threads = threads
    rows: list[Row] = measure(case, args)
    for row in rows:
        row.threads = threads
    return rows


def keep_memory(args: argparse.Namespace) -> None:
    """Let the C library keep freed memory as in `npgpt train`; PyTorch gains from this as well."""
    from npgpt.training.memory import keep_freed_memory

    if not args.return_memory:
        keep_freed_memory()


def numbers(text: str) -> list[int]:
    """Parse numbers of threads: ``1,2``."""
    found = [int(n) if n.strip().isdecimal() else 0 for n in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers from 1 on, as in 1,2")
    return found


def new_file(text: str) -> Path:
    """Parse an option that names a file to write."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: give a file, in a folder that exists")
    return path


# ---- reporting


def summarize(runs: Sequence[Row]) -> dict[str, Any]:
    """Return one row of the table from the same row of several processes.

    A number is the median over the processes of each process's median over its rounds; so is a
    ratio. Its spread is that of all rounds of all processes, from the 10th to the 90th percentile.
    """
    row = {key: value for key, value in asdict(runs[0]).items() if key != "samples"}
    samples = {name: [list(run.samples[name]) for run in runs] for name in runs[0].samples}
    row["values"] = {name: middle(x) for name, x in samples.items()}
    row["ratios"] = {}
    for name, theirs in samples.items():
        if name != OURS:
            each = [list(np.divide(*pair)) for pair in zip(samples[OURS], theirs, strict=True)]
            low, high = np.percentile(sum(each, []), [10, 90])
            row["ratios"][name] = {"median": middle(each), "low": float(low), "high": float(high)}
    row["samples"] = samples  # by contender, process and round
    return row


def middle(processes: Iterable[Sequence[float]]) -> float:
    return float(np.median([np.median(rounds) for rounds in processes]))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown, aligned so that a terminal shows it well, too."""
    contenders = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    headings = ["case", "", "threads", OURS]
    for name in contenders:
        headings += [name, f"{OURS} / {name}"]
    lines = [headings, ["---", "---", *["--:"] * (len(headings) - 2)]]
    for row in rows:
        cells = [row["case"], row["what"], str(row["threads"])]
        cells.append(show(row["values"][OURS], row["unit"]))
        for name in contenders:
            ratio = row["ratios"].get(name)
            cells.append(show(row["values"][name], row["unit"]) if ratio else "")
            cells.append(show_ratio(**ratio) if ratio else "")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(n) for cell, n in zip(line, widths, strict=True))} |"
        for line in lines
    )


def show_ratio(median: float, low: float, high: float) -> str:
    return f"{median:.2f}" + (f" ({low:.2f}-{high:.2f})" if low < high else "")


def show(value: float, unit: str) -> str:
    """Return a number with three digits, and its unit with a prefix.

    >>> show(0.0123456, "s"), show(2.5e9, "B"), show(2.5, "")
    ('12.3 ms', '2.50 GB', '2.50')
    """
    if not math.isfinite(value) or not unit:
        return f"{value:.3g}"
    power = max(-3, min(3, math.floor(math.log10(value) / 3))) if value else 0
    prefix = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G"}[power]
    return f"{value / 1000**power:#.3g} {prefix}{unit}".replace(". ", " ")


# ---- the machine


def usable_cpus() -> int:
    from autograd.machine import usable_cpus

    return usable_cpus()


def describe_machine() -> dict[str, Any]:
    """Return what times depend on: processor, caches, vectors, system and versions."""
    from threadpoolctl import threadpool_info

    from autograd.machine import vector_bits

    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    names = [*simd.get("baseline", []), *simd.get("found", [])]
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "caches": caches(),
        "vectors": [name for name in names if name.startswith(VECTORS)],
        "numba_vector_bits": vector_bits(),  # the compiler may use less than the CPU has
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version_of(name))},
        "blas": [
            f"{pool['internal_api']} {pool['version']}"
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ],
        "commit": commit(),
    }


def sentence(machine: dict[str, Any]) -> str:
    """Return a machine in words."""
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    vectors = f"{' '.join(machine['vectors'])} (Numba: {machine['numba_vector_bits']} bits)"
    return (
        f"{machine['cpu']}, CPUs: {machine['cpus']}, caches: {', '.join(machine['caches'])}, "
        f"{vectors}; {machine['system']}, Python {machine['python']}, {packages}, "
        f"BLAS: {', '.join(machine['blas'])}; commit {machine['commit']}."
    )


def cpu_name() -> str:
    """Return the processor's name, where the system tells."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return output("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.processor() or platform.machine()


def caches() -> list[str]:
    """Return the data caches of the first CPU with their sizes (Linux)."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return found


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def commit() -> str:
    """Return which version of the source is measured; with "+" if files were changed since.

    A package that pip copied elsewhere is measured in the place of this folder's, and is named.
    """
    import autograd

    measured = Path(autograd.__file__).parent.parent
    if measured != Path(__file__).resolve().parent.parent:
        return f"unknown: npgpt {version_of('npgpt')} as installed in {measured}"
    return output("git", "describe", "--always", "--dirty=+", "--exclude=*") or "unknown"


def output(*command: str) -> str:
    """Return what a command prints; nothing if it cannot run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parent, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()

"""Time generation here, in transformers, and at the speed of memory.

A GPT-2 of 124M random weights continues prompts greedily, with a cache. A step for one token has to
read every weight once: the bytes of the weights over the memory's bandwidth are its floor. Ours in
float32, ours in int8, transformers and a read of as many bytes take turns in one process, so that
whatever else the machine does slows all alike; compare the ratios, not the times. Last come the
seconds from the start of the command `npgpt generate` to its first token.

    python benchmarks/generate.py [--quick] [--case NAME ...] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from rich import box
from rich.table import Table
from timing import environment, options, ratios, report, shown

from autograd.kernels.jit import SUMS, jit, n_threads, share
from autograd.machine import usable_cpus
from autograd.ops.linalg import product
from npgpt import GPT, GPTConfig, generate
from npgpt.generation.quantize import quantize
from npgpt.tokenizers import make_tokenizer, save_tokenizer
from npgpt.training.memory import keep_freed_memory

try:
    import torch
    from transformers import GPT2LMHeadModel
except ImportError:
    print("this benchmark compares with transformers: pip install 'npgpt[oracle]'", file=sys.stderr)
    sys.exit(2)


@dataclass(frozen=True)
class Case:
    """Prompts, and how many tokens follow; where only one does, the prompt is what counts."""

    name: str
    batch_size: int
    prompt: int
    new_tokens: int
    repetitions: int
    quick_repetitions: int


CASES = [
    Case("batch1", 1, 32, 128, repetitions=7, quick_repetitions=2),
    Case("batch8", 8, 32, 128, repetitions=3, quick_repetitions=1),
    Case("prefill", 1, 512, 1, repetitions=9, quick_repetitions=3),
]
STARTS = "starts"  # the case of the command
PAUSE = 0.1  # seconds; idle threads spin for a while, and would slow whoever comes next


# ---- who generates


def ours(model: GPT) -> Callable[[ndarray, int], None]:
    """Return a function that continues prompts with our code."""
    return lambda ids, n: generate(model, ids, max_new_tokens=n)


def transformers(model: GPT2LMHeadModel) -> Callable[[ndarray, int], None]:
    """Return a function that continues prompts with transformers."""

    def run(ids: ndarray, n: int) -> None:
        inputs = torch.from_numpy(ids)
        model.generate(
            inputs, attention_mask=torch.ones_like(inputs), pad_token_id=0, do_sample=False,
            max_new_tokens=n, min_new_tokens=n,
        )  # fmt: skip

    return run


def twin(model: GPT, folder: Path) -> GPT2LMHeadModel:
    """Return the same model in transformers, by way of a folder."""
    model.save_pretrained(folder)
    other = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = np.arange(64)[None]
    with torch.no_grad():
        difference = np.abs(model(ids)[0].numpy() - other(torch.from_numpy(ids)).logits.numpy())
    if difference.max() > 1e-3:
        sys.exit("these are different models, and their times do not compare")
    return other


# ---- the floor


@jit(SUMS)
def _sum(x):
    total = np.float32(0)
    for i in range(x.size):
        total += x[i]
    return total


def multiplying(model: GPT, n: int) -> Callable[[], float]:
    """Return a function that measures the matrix products of the layers, for n tokens."""
    weights = [w for name, w in model.state_dict().items() if ".c_" in name and w.ndim == 2]
    inputs = {w.shape[0]: np.ones((n, w.shape[0]), np.float32) for w in weights}

    def multiply() -> None:
        for w in weights:
            product(inputs[w.shape[0]], w)

    return lambda: timed(multiply)


def reading(n_bytes: int) -> Callable[[], float]:
    """Return a function that measures the seconds of reading so many bytes, on all threads."""
    parts = np.array_split(np.ones(n_bytes // 4, np.float32), n_threads())
    return lambda: timed(lambda: share(_sum, parts, n_bytes))


# ---- measuring


def timed(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(case: Case, runs: dict[str, Callable], floor: Callable, repetitions: int) -> dict:
    """Return one case's row: medians in ms, and what the ratios of each round spread over."""
    generator = np.random.default_rng(0)
    ids = generator.integers(50257, size=(case.batch_size, case.prompt))
    rounds: dict[str, list[tuple]] = {name: [] for name in runs}
    floors = []
    for _ in range(1 + repetitions):
        floors.append(np.median([floor() for _ in range(3)]))
        for name, run in runs.items():
            first = timed(lambda run=run: run(ids, 1))
            whole = (
                timed(lambda run=run: run(ids, case.new_tokens)) if case.new_tokens > 1 else first
            )
            step = (whole - first) / (case.new_tokens - 1) if case.new_tokens > 1 else first
            rounds[name].append((first, whole, step))
    times = {name: np.array(r[1:]).T for name, r in rounds.items()}  # (3, repetitions) each
    floors = np.array(floors[1:])
    row: dict[str, Any] = {"case": case.name, "floor_ms": 1e3 * float(np.median(floors))}
    for name, (first, _, step) in times.items():
        row[f"{name}_first_ms"] = 1e3 * float(np.median(first))
        if case.new_tokens > 1:
            row[f"{name}_step_ms"] = 1e3 * float(np.median(step))
    row |= ratios(times["ours"][1], times["transformers"][1])
    row["floor_share"] = float(np.median(floors / times["ours"][2]))
    if "int8" in times:
        row["int8_speedup"] = float(np.median(times["ours"][2] / times["int8"][2]))
    return row


def measure_starts(folder: Path, repetitions: int) -> list[dict[str, Any]]:
    """Return what a first token takes from the start of the command, in seconds."""
    small = folder / "run"
    GPT(GPTConfig(65, 256, 384, 6, 6)).save_pretrained(small)
    save_tokenizer(make_tokenizer("char", "".join(map(chr, range(32, 97)))), small)
    commands = {"python and numpy": ["-c", "import numpy"]}
    commands["run folder, 11M"] = _command(small)
    try:
        save_tokenizer(make_tokenizer("gpt2"), folder)
    except Exception as error:
        print(f"124M is left out: {error}", file=sys.stderr)
    else:
        commands["124M"] = _command(folder)
        commands["124M, --int8"] = [*_command(folder), "--int8", "True"]
    rows = []
    for name, command in commands.items():
        seconds = []
        for _ in range(1 + repetitions):
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
            seconds.append(time.perf_counter() - start)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
        rows.append({"case": STARTS, "what": name, "seconds": float(np.median(seconds[1:]))})
    return rows


def _command(folder: Path) -> list[str]:
    call = "import sys; from npgpt.cli import main; sys.exit(main())"
    return ["-c", call, "generate", "--model", str(folder), "--prompt", "THE ",
            "--max_new_tokens", "1"]  # fmt: skip


# ---- reporting


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title="GPT-2 124M, median ms", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    out.add_column("", no_wrap=True)
    headings = [
        "floor",
        "ours",
        "int8",
        "hf",
        "ours/hf, whole\n(10-90 %)",
        "floor/\nours",
        "ours/\nint8",
    ]
    for heading in headings:
        out.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        for kind in ("first", "step"):
            if f"ours_{kind}_ms" not in row:
                continue
            is_last = kind == "step" or "ours_step_ms" not in row
            cells = [row["floor_ms"] if is_last else None]
            cells += [row.get(f"{name}_{kind}_ms") for name in ("ours", "int8", "transformers")]
            quotients = [
                row.get(key) if is_last else None for key in ("floor_share", "int8_speedup")
            ]
            out.add_row(
                f"{row['case']} {kind}",
                *("" if cell is None else f"{cell:.1f}" for cell in cells),
                shown(row) if is_last else "",
                *("" if quotient is None else f"{quotient:.2f}" for quotient in quotients),
            )
    return out


def main() -> None:
    parser = options("Time generation here and in transformers.")
    names = [*(case.name for case in CASES), STARTS]
    parser.add_argument("--case", nargs="+", choices=names, default=names, help="only these")
    args = parser.parse_args()

    keep_freed_memory()  # as npgpt generate does; PyTorch gains from it as well
    torch.set_num_threads(usable_cpus())
    rows, tables = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = GPT(GPTConfig()).eval()
        runs = {"ours": ours(model), "transformers": transformers(twin(model, folder))}
        read = reading(4 * model.n_parameters())
        for case in CASES:
            if case.name in args.case:
                print(f"measuring {case.name}", file=sys.stderr)
                runs.pop("int8", None)
                if case.name == "batch1":
                    runs["int8"] = ours(quantize(model))
                repetitions = case.quick_repetitions if args.quick else case.repetitions
                floor = read if case.new_tokens > 1 else multiplying(model, case.prompt)
                rows.append(measure(case, runs, floor, repetitions))
        if rows:
            tables.append(table(rows))
        if STARTS in args.case:
            print("measuring starts", file=sys.stderr)
            starts = measure_starts(folder, 2 if args.quick else 5)
            tables.append("seconds from the start of the command to its first token:")
            tables += [f"  {row['what']:20} {row['seconds']:.2f}" for row in starts]
            rows += starts
    note = (
        "first: the prompt, to the first token; step: each token after it; hf: transformers, and "
        "ours/hf of the whole text: below 1 is faster; floor: of a step, to read as many bytes as "
        "the weights have, and of a prompt, its matrix products; "
        f"{environment()}"
    )
    report(tables, note, rows, args.json)


if __name__ == "__main__":
    main()

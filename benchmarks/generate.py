"""Time generation here, in transformers, and at the speed of memory.

A GPT-2 of 124M random weights continues prompts greedily, with a cache. A step for one token has to
read every weight once: the bytes of the weights over the memory's bandwidth are its floor; that of
a prompt is the matrix products of its tokens. Then come the seconds from the start of the command
`npgpt generate` to its first token. The last case is SmolLM2, with the weights that its file packs,
int8 and float32; it needs ``npgpt models add smollm2``. llama.cpp runs beside it where Node.js is
there and ``NODE_MODULES`` names a folder with the packages node-llama-cpp and
@node-llama-cpp/linux-x64 (or that of another system).

    python benchmarks/generate.py [batch1 prompt512 ...] [--threads 1,2] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from harness import OURS, Row, burst, keep_memory, main, need, take_turns, timed
from numpy import ndarray

from autograd.kernels.jit import SUMS
from autograd.kernels.team import n_threads, parts_of, row_kernel, split
from autograd.ops.linalg import product
from npgpt import GPT, GPTConfig, UserError, generate, load_model
from npgpt.generation.quantize import quantize
from npgpt.hub import find_model
from npgpt.tokenizers import make_tokenizer, save_tokenizer

torch = need("torch")
transformers = need("transformers")
GPT2LMHeadModel = transformers.GPT2LMHeadModel


@dataclass(frozen=True)
class Case:
    """Prompts, and how many tokens follow; where only one does, the prompt is what counts."""

    batch_size: int
    prompt: int
    new_tokens: int
    has_int8: bool = False


CASES = {
    "batch1": Case(1, 32, 128, has_int8=True),
    "batch8": Case(8, 32, 128),
    "prompt512": Case(1, 512, 1),
}
STARTS = "starts"  # the case of the command
PACKED, PACKED_PROMPT, PACKED_TOKENS = "smollm2", 43, 128


# ---- who generates


def run_ours(model: GPT) -> Callable[[ndarray, int], None]:
    """Return a function that continues prompts with our code."""
    return lambda ids, n: generate(model, ids, max_new_tokens=n, min_new_tokens=n)


def run_transformers(model: torch.nn.Module) -> Callable[[ndarray, int], None]:
    """Return a function that continues prompts with transformers."""

    def run(ids: ndarray, n: int) -> None:
        inputs = torch.from_numpy(ids)
        model.generate(
            inputs, attention_mask=torch.ones_like(inputs), pad_token_id=0, do_sample=False,
            max_new_tokens=n, min_new_tokens=n,
        )  # fmt: skip

    return run


def make_twin(model: GPT, folder: Path) -> GPT2LMHeadModel:
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


@row_kernel(SUMS)
def _sum(starts, stops, totals, x):
    for k in range(starts.size):
        part, total = x[starts[k] : stops[k]], np.float32(0)
        for i in range(part.size):
            total += part[i]
        totals[k] = total


def time_products(model: GPT, n: int) -> Callable[[], float]:
    """Return a function that measures the matrix products of the layers, for n tokens."""
    weights = [w for name, w in model.state_dict().items() if ".c_" in name and w.ndim == 2]
    inputs = {w.shape[0]: np.ones((n, w.shape[0]), np.float32) for w in weights}

    def multiply() -> None:
        for w in weights:
            product(inputs[w.shape[0]], w)

    return lambda: timed(multiply)[0]


def time_reading(n_bytes: int) -> Callable[[], float]:
    """Return a function that measures the seconds of reading so many bytes, on all threads."""
    x, parts = np.ones(n_bytes // 4, np.float32), parts_of(n_bytes // 4, n_threads())
    rows = (*parts, np.empty(len(parts[0]), np.float32))
    return lambda: timed(lambda: split(_sum, rows, x, size=n_bytes))[0]


# ---- measuring


def measure(name: str, args: argparse.Namespace) -> list[Row]:
    """Return the rows of a case."""
    if name == PACKED:
        return measure_packed(args)
    with tempfile.TemporaryDirectory() as folder:
        model = GPT(GPTConfig()).eval()
        other = make_twin(model, Path(folder))
        if name == STARTS:
            return measure_starts(Path(folder), args.rounds)
    keep_memory(args)
    case = CASES[name]
    runs = {OURS: run_ours(model), "transformers": run_transformers(other)}
    if case.has_int8:
        runs["int8"] = run_ours(quantize(model))
    ids = np.random.default_rng(0).integers(50257, size=(case.batch_size, case.prompt))
    if case.new_tokens == 1:
        return measure_prompt(name, runs, time_products(model, case.prompt), ids, args)
    return measure_tokens(
        name, runs, time_reading(4 * model.n_parameters()), ids, case.new_tokens, args
    )


def measure_packed(args: argparse.Namespace) -> list[Row]:
    """Return the rows of SmolLM2; none if it is not there."""
    keep_memory(args)
    try:
        path = find_model(PACKED)
    except UserError as error:
        print(f"{PACKED} is left out: {error}", file=sys.stderr)
        return []
    model, whole = load_model(path, packed=True), load_model(path)
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        other = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    runs = {
        OURS: run_ours(model),
        "transformers": run_transformers(other),
        "int8": run_ours(quantize(model)),
        "float32": run_ours(whole),
    }
    ids = np.random.default_rng(0).integers(model.config.vocab_size, size=(1, PACKED_PROMPT))
    n_bytes = path.stat().st_size
    rows = measure_tokens(PACKED, runs, time_reading(n_bytes), ids, PACKED_TOKENS, args)
    node, modules = shutil.which("node"), os.environ.get("NODE_MODULES")
    if not node or not modules:
        print("llama.cpp is left out: it needs node, and NODE_MODULES", file=sys.stderr)
        return rows
    command = [
        node, str(Path(__file__).with_name("llama_cpp.mjs")), modules, str(path),
        json.dumps(ids[0].tolist()), str(PACKED_TOKENS), str(args.n_threads),
    ]  # fmt: skip
    ours = runs[OURS]

    def turn() -> tuple[ndarray, ndarray]:
        """Return the seconds of the first token and of all, ours and llama.cpp's."""
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            sys.exit(f"llama.cpp: {found.stderr}")
        ours(ids, 1)  # the kernels' threads are awake again
        mine = [timed(ours, ids, n)[0] for n in (1, PACKED_TOKENS)]
        return np.array(mine), np.array(json.loads(found.stdout.splitlines()[-1]))

    times = np.array([turn() for _ in range(args.rounds)])  # (rounds, 2, 2)
    first, all_of = ({OURS: t[:, 0], "llama.cpp": t[:, 1]} for t in (times[..., 0], times[..., 1]))
    step = {who: (all_of[who] - first[who]) / (PACKED_TOKENS - 1) for who in first}
    return rows + [
        Row(PACKED, "first token, llama.cpp", "s", as_lists(first)),
        Row(PACKED, "each token after it, llama.cpp", "s", as_lists(step)),
    ]


def measure_prompt(
    name: str, runs: dict[str, Callable], floor: Callable, ids: ndarray, args: argparse.Namespace
) -> list[Row]:
    """Return the rows of prompts, one after the other, up to their first new token."""
    turns: dict[str, Callable] = {
        who: partial(burst, partial(run, ids, 1), quick=args.quick) for who, run in runs.items()
    }
    turns["floor"] = floor
    times = take_turns(turns, args.rounds)
    floors = times.pop("floor").tolist()  # (rounds,); the others (rounds, 2, 1)
    steady = {who: t[:, 1, 0].tolist() for who, t in times.items()}
    paused = {who: t[:, 0, 0].tolist() for who, t in times.items()}
    return [
        Row(name, "prompt", "s", {**steady, "floor": floors}),
        Row(name, "prompt after a pause", "s", paused),
    ]


def measure_tokens(
    name: str, runs: dict[str, Callable], floor: Callable, ids: ndarray, n: int,
    args: argparse.Namespace,
) -> list[Row]:  # fmt: skip
    """Return the rows of whole texts, of their first token, and of each token after it."""

    def turn(run: Callable) -> ndarray:
        stages = (lambda: run(ids, 1), lambda _: run(ids, n))
        return burst(*stages, seconds=0, at_least=1, quick=args.quick)[1]

    turns: dict[str, Callable] = {who: partial(turn, run) for who, run in runs.items()}
    turns["floor"] = lambda: np.median([floor() for _ in range(3)])
    times = take_turns(turns, args.rounds)
    floors = times.pop("floor").tolist()  # (rounds,); the others (rounds, 2)
    first, whole = ({who: t[:, i] for who, t in times.items()} for i in range(2))
    step = {who: (whole[who] - first[who]) / (n - 1) for who in times}
    return [
        Row(name, f"{n} tokens", "s", as_lists(whole)),
        Row(name, "first token", "s", as_lists(first)),
        Row(name, "each token after it", "s", {**as_lists(step), "floor": floors}),
    ]


def as_lists(samples: dict[str, ndarray]) -> dict[str, list[float]]:
    return {who: x.tolist() for who, x in samples.items()}


def measure_starts(folder: Path, rounds: int) -> list[Row]:
    """Return the seconds from the start of the command to its first token."""
    small = folder / "run"
    GPT(GPTConfig(65, 256, 384, 6, 6)).save_pretrained(small)
    save_tokenizer(make_tokenizer("char", "".join(map(chr, range(32, 97)))), small)
    commands = {"python and numpy": ["-c", "import numpy"]}
    commands["run folder, 11M"] = make_command(small)
    try:
        save_tokenizer(make_tokenizer("gpt2"), folder)
    except Exception as error:
        print(f"124M is left out: {error}", file=sys.stderr)
    else:
        commands["124M"] = make_command(folder)
        commands["124M, --int8"] = [*make_command(folder), "--int8", "True"]

    def run(name: str) -> float:
        command = [sys.executable, *commands[name]]
        seconds, done = timed(partial(subprocess.run, command, capture_output=True, text=True))
        if done.returncode:
            sys.exit(f"{name}: {done.stderr}")
        return seconds

    times = take_turns({name: partial(run, name) for name in commands}, rounds)
    return [Row(STARTS, name, "s", {OURS: t.tolist()}) for name, t in times.items()]


def make_command(folder: Path) -> list[str]:
    """Return the arguments of a Python that writes one token."""
    call = "import sys; from npgpt.cli import main; sys.exit(main())"
    return ["-c", call, "generate", "--model", str(folder), "--prompt", "THE ",
            "--max_new_tokens", "1"]  # fmt: skip


if __name__ == "__main__":
    main(__doc__, [*CASES, STARTS, PACKED], measure, rounds=3)

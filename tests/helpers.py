"""What several test files use: small models, small runs, and the command line."""

import json
import os
import signal
from pathlib import Path

import numpy as np

from autograd.reading import read_tensors
from npgpt import GPT, GPTConfig
from npgpt.cli import main
from npgpt.training.config import TrainConfig
from npgpt.training.display import Display

ROOT = Path(__file__).parent.parent  # of the repository


def npgpt(*args):
    """Run the command in this process; return its exit code."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as stop:
        return stop.code


def cut(path, n=10):
    """Take the last bytes from a file, as a full disk does."""
    path.write_bytes(path.read_bytes()[:-n])


# ---- models

TINY = dict(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3)


def draw_model(dtype=np.float32, **options):
    """Return a model with all weights normal, so that no part of it is neutral."""
    config = dict(vocab_size=66, n_positions=16, n_embd=20, n_layer=2, n_head=2) | options
    model = GPT(GPTConfig(**config), dtype=dtype).eval()
    generator = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * generator.standard_normal(parameter.shape)
    return model


# ---- training runs

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40

SMALL = dict(
    n_layer=2, n_head=2, n_embd=16, block_size=8, batch_size=4, max_iters=12, eval_interval=4,
    eval_iters=2, log_interval=2, warmup_iters=2, dropout=0.1, gradient_accumulation_steps=2,
)  # fmt: skip


def train_config(text, folder, **changes):
    """Return the configuration of a small run on a text file, in a folder."""
    return TrainConfig(**{**SMALL, "data": (text,), "out_dir": str(folder), **changes})


class Quiet(Display):
    """A display that interrupts, as Ctrl-C does, when a step is shown."""

    def __init__(self, run, interrupt_at=None):
        super().__init__(run.config.max_iters)
        self.interrupt_at = interrupt_at
        self.console.quiet = True

    def step(self, step, loss, rate):
        if step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)


def lines(folder):
    """Return the lines of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder):
    """Return the lines without what differs between two equal runs."""
    times = ("tokens_per_second", "elapsed_seconds")
    return [{k: v for k, v in line.items() if k not in times} for line in lines(folder)]


def same_runs(a, b):
    """Whether two run folders hold the same results, bit for bit."""
    assert timeless(a) == timeless(b)
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    (x, mx), (y, my) = read_tensors(a / "state.safetensors"), read_tensors(b / "state.safetensors")
    assert x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)
    progress = [json.loads(m["progress"]) for m in (mx, my)]
    assert [p.pop("elapsed_seconds") > 0 for p in progress] == [True, True]
    assert progress[0] == progress[1]

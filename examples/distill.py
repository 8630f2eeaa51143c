"""Measure how much a student learns with a teacher and without, for equal steps and equal time.

    export OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python examples/distill.py [--teacher_steps 3000] [--steps 1000] [--seeds 1 2 3 4]

The teacher has four layers, and is trained on the source code of Python's library. Each student has
two. It is trained three times from the same initialization: alone; with the teacher, on the same
batches; and alone for as long as the training with the teacher took. The time is processor time, so
with one thread other programs have no effect on it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from npgpt.evaluation.loss import whole_loss
from npgpt.training.config import TrainConfig
from npgpt.training.run import start

parser = argparse.ArgumentParser()
parser.add_argument("--teacher_steps", type=int, default=3000)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4], help="2 to 6 of them")
options = parser.parse_args()
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # the 0.975 quantile, by the seeds
t = T[len(options.seeds)]
folder = Path(tempfile.mkdtemp())


def measure(name, seed, steps, n_layer, **keys):
    """Train a model; return its loss on 50,000 held-out tokens, and the seconds of an update."""
    run = start(
        TrainConfig(
            n_layer=n_layer, n_head=4, n_embd=64, block_size=32, batch_size=8, max_iters=steps,
            warmup_iters=50, learning_rate=2e-3, out_dir=str(folder / name), seed=seed, **keys,
        )
    )  # fmt: skip
    began = time.process_time()
    while not run.is_complete:
        run.update()
    seconds = time.process_time() - began
    run.save_best()
    loss = whole_loss(run.model.eval(), run.task.splits[1][:50_000])
    print(f"{name:<14} {steps:>5} steps {seconds:6.1f} s   loss {loss:.4f}", flush=True)
    return loss, seconds / steps


measure("teacher", 7, options.teacher_steps, 4)
how = dict(teacher=str(folder / "teacher"), teacher_temperature=1.0, teacher_share=0.9)
gains = []
for seed in options.seeds:
    alone, step = measure(f"alone-{seed}", seed, options.steps, 2)
    taught, taught_step = measure(f"taught-{seed}", seed, options.steps, 2, **how)
    as_long = round(options.steps * taught_step / step)
    longer, _ = measure(f"longer-{seed}", seed, as_long, 2)
    gains.append((alone - taught, longer - taught))

for what, differences in zip(("steps", "time"), np.transpose(gains), strict=True):
    mean, far = differences.mean(), t * differences.std(ddof=1) / len(differences) ** 0.5
    print(
        f"less loss than alone, for equal {what}: {mean:.3f} [{mean - far:.3f}, {mean + far:.3f}]"
    )

"""Measure what rounding to 4 bits costs, after training and in training, over several seeds.

    export OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python examples/quantize.py [--steps 1000] [--more 300] [--seeds 1 2 3 4 5 6]

A model is trained on the source code of Python's library. Then it is trained for some more steps
from the same weights and on the same batches, once as before and once with fake quantization. The
first is rounded to Q4_0 after this training; the second computes with rounded weights all the time.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from npgpt import load_model
from npgpt.evaluation.loss import whole_loss
from npgpt.training.config import TrainConfig
from npgpt.training.run import start
from npgpt.weights.export import export_gguf

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--more", type=int, default=300)
parser.add_argument("--seeds", type=int, nargs="+", default=range(1, 7), help="2 to 6 of them")
options = parser.parse_args()
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # the 0.975 quantile, by the seeds
t = T[len(options.seeds)]
folder = Path(tempfile.mkdtemp())
sizes = dict(n_layer=2, n_head=4, n_embd=64, block_size=32, tokenizer="byte")


def trained(name, **keys):
    """Train a model, and return its folder and the held-out tokens."""
    run = start(TrainConfig(out_dir=str(folder / name), batch_size=8, warmup_iters=20, **keys))
    while not run.is_complete:
        run.update()
    run.save_best()
    return run.folder, run.task.splits[1][:50_000]


def loss_of(path, tokens):
    """Return the loss of a model in a folder, or in a file."""
    return whole_loss(load_model(path), tokens)


costs = []
for seed in options.seeds:
    base, tokens = trained(
        f"base-{seed}", seed=seed, max_iters=options.steps, learning_rate=2e-3, **sizes
    )
    more = dict(init_from=str(base), seed=seed, max_iters=options.more, learning_rate=5e-4)
    plain, _ = trained(f"plain-{seed}", **more)
    aware, _ = trained(f"aware-{seed}", fake_quantize="Q4_0", **more)
    losses = [loss_of(plain, tokens)]
    for path in (plain, aware):
        file = path / "model.gguf"
        export_gguf(path, file, "Q4_0")
        losses.append(loss_of(file, tokens))
    assert losses[2] == loss_of(aware, tokens)  # the file has exactly the weights that were trained
    print("seed {}: not rounded {:.4f}, rounded after training {:.4f}, in training {:.4f}".format(
        seed, *losses), flush=True)  # fmt: skip
    costs.append((losses[1] - losses[0], losses[2] - losses[0], losses[1] - losses[2]))

what = "cost of rounding after training", "cost of rounding in training", "less loss by the latter"
for name, values in zip(what, np.transpose(costs), strict=True):
    mean, far = values.mean(), t * values.std(ddof=1) / len(values) ** 0.5
    print(f"{name}: {mean:.4f} [{mean - far:.4f}, {mean + far:.4f}]")

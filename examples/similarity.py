"""Fine-tune MiniLM so that the cosine of two sentences says how similar their meanings are.

    python examples/similarity.py --train stsb-en-train.csv --valid stsb-en-dev.csv [--steps 179]

A row of a file has two sentences, and a number by people. The program shows the pairs whose cosine
has changed most: before and after the training, beside the number. The last line is the result as
JSON.
"""

import argparse
import json
import sys
import tempfile

import numpy as np

from npgpt import TrainConfig, UserError
from npgpt.evaluation.examples import read_rows
from npgpt.evaluation.metrics import estimate, pearson
from npgpt.sentences import SentenceEncoder
from npgpt.training.display import Display
from npgpt.training.run import start, train

parser = argparse.ArgumentParser()
parser.add_argument("--train", required=True, help="a table: a sentence, another one, a number")
parser.add_argument("--valid", required=True, help="another table, to judge with")
parser.add_argument("--model", default="minilm", help="the model to start from")
parser.add_argument("--steps", type=int, default=179, help="updates of 32 pairs")
parser.add_argument("--learning_rate", type=float, default=5e-5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt embed")
options = parser.parse_args()


def cosines(model, rows):
    """Return the cosine of the vectors of the two sentences of each row."""
    encoder = SentenceEncoder.load(model)
    first, second = (encoder.encode([row.cells[side] for row in rows]) for side in (0, 1))
    return np.sum(first * second, axis=1)


with tempfile.TemporaryDirectory() as scratch:
    try:
        rows = read_rows(options.valid, ("1", "2", "3"))
        before = cosines(options.model, rows)
        config = TrainConfig(
            task="similarity", data=(options.train,), val_data=(options.valid,), batch_size=32,
            init_from=options.model, max_iters=options.steps, learning_rate=options.learning_rate,
            min_lr=0.0, warmup_iters=min(20, options.steps), weight_decay=0.01, beta2=0.999,
            seed=options.seed, eval_interval=max(1, options.steps), eval_iters=5, sample_tokens=0,
            out_dir=options.save or f"{scratch}/run",
        )  # fmt: skip
        run = start(config)
    except UserError as error:
        sys.exit(str(error))
    train(run, Display(run.config.max_iters))
    after = cosines(run.folder, rows)

print("\nthe pairs that have changed most\n\n people  before   after")
for n in np.argsort(-np.abs(after - before))[:10]:
    first, second, score = rows[n].cells
    print(f"{score:>7} {before[n]:>7.2f} {after[n]:>7.2f}  {first}\n{'':>25}{second}")
scores = np.array([float(row.cells[2]) for row in rows])
old, new = (estimate(pearson, found, scores) for found in (before, after))
print(f"\nPearson's correlation with the numbers of people: {old} -> {new}")
print(json.dumps({"before": round(old.value, 4), "after": round(new.value, 4)}))

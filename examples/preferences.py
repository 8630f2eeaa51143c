"""Train a model to prefer the better of two answers (DPO); draw how far each pair has moved.

    python examples/preferences.py --data pairs.json [--model smollm2] [--steps 25] [--pairs 100]

The data are questions with a chosen and a rejected answer, as npgpt finetune preferences takes
them; the last pairs are used for validation. LoRA changes the queries and the values. The margin of
a pair says how much more the better answer has gained than the worse one: all margins begin at 0.
The last line is the result as JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from autograd import no_grad
from autograd.reading import read_json
from npgpt import TrainConfig, UserError, load_model
from npgpt.evaluation.metrics import estimate
from npgpt.training.display import Display
from npgpt.training.preferences import preferred
from npgpt.training.run import start, train
from npgpt.training.task import VALIDATION

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True, help="a JSON list of questions with two answers")
parser.add_argument("--model", default="smollm2", help="the model to start from")
parser.add_argument("--template", default="plain", help="how a question becomes a text")
parser.add_argument("--steps", type=int, default=25)
parser.add_argument("--pairs", type=int, default=100, help="how many pairs train, and validate")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt chat")
options = parser.parse_args()


def draw(margin, widest, width=20):
    """Return a bar to the right of a line for a positive margin, and to the left for another."""
    n = round(abs(margin) / widest * width)
    left, right = ("", "█" * n) if margin > 0 else ("█" * n, "")
    return f"{left:>{width}}│{right:<{width}}"


def short(text, length=34):
    """Return a text on one line, cut to a length."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


with tempfile.TemporaryDirectory() as scratch:
    try:
        rows = read_json(options.data, list[dict[str, str]])
        files = [f"{scratch}/{name}.json" for name in ("train", "valid")]
        n = min(options.pairs, len(rows) // 2)
        for file, part in zip(files, (rows[:n], rows[-n:]), strict=True):
            Path(file).write_text(json.dumps(part), encoding="utf-8")
        config = TrainConfig(
            task="preferences", data=(files[0],), val_data=(files[1],), init_from=options.model,
            out_dir=options.save or f"{scratch}/run", template=options.template, lora_r=8,
            lora_alpha=16.0, batch_size=4, max_iters=options.steps, learning_rate=1e-3, min_lr=1e-4,
            warmup_iters=min(5, options.steps), eval_interval=max(1, options.steps), eval_iters=5,
            sample_tokens=0, seed=options.seed,
        )  # fmt: skip
        run = start(config)
    except UserError as error:
        sys.exit(str(error))
    train(run, Display(run.config.max_iters))

    task, model = run.task, load_model(run.folder)
    margins = {}
    with no_grad():
        for numbers, batch in task.every_batch(VALIDATION):
            logits = task.objective(model)(*batch)[0].numpy()
            margins |= dict(zip(numbers.tolist(), logits[:, 0] - logits[:, 1], strict=True))

found = np.array([*margins.values()])
widest = max(float(np.abs(found).max()), 1e-9)
held_out = rows[-n:]
order = sorted(margins, key=lambda number: -margins[number])
print("\nthe pairs whose margin is largest and smallest: the better answer, the worse one\n")
for number in [*order[:5], *order[-5:]]:
    pair = held_out[number - n]  # the pairs to train on are numbered first
    print(f"{margins[number]:>+7.3f} {draw(margins[number], widest, 12)} ", end="")
    print(f"{short(pair['chosen']):<34} {short(pair['rejected'])}")
accuracy = estimate(preferred, found)
print(f"\nof {len(found)} held-out pairs, the better answer has gained more in {accuracy}")
result = {"accuracy": round(accuracy.value, 4), "margin": round(float(found.mean()), 4)}
print(json.dumps(result))

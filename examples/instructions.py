"""Fine-tune a model on instructions; print its answers before and after, and the right ones.

    python examples/instructions.py --data instructions.json [--model smollm2] [--steps 60]

The data are rows with an instruction and its answer, as npgpt finetune instructions takes them; a
tenth of the rows is used for validation. LoRA changes the queries and the values. ROUGE compares
the model's answers to the first validation examples with the right answers. The last line is the
result as JSON.
"""

import argparse
import json
import sys
import tempfile

import numpy as np

from npgpt import TrainConfig, UserError, load_model
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.written import rouge
from npgpt.training.display import Display
from npgpt.training.run import start, train

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True, help="a table of instructions and answers")
parser.add_argument("--model", default="smollm2", help="the model to start from")
parser.add_argument("--template", default="alpaca", help="how an instruction becomes a text")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--answers", type=int, default=20, help="how many answers ROUGE compares")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt chat")
options = parser.parse_args()


def judge(task, model):
    """Return the loss on all answers of the validation, some answers, and the ROUGE-L of each."""
    numbers = task.splits[1][: options.answers]
    written = task.answer(model, numbers, max_new_tokens=60)
    scores = [rouge(text, task.expected(n)) for text, n in zip(written, numbers, strict=True)]
    return task.whole_loss(model), written, np.array(scores)


with tempfile.TemporaryDirectory() as scratch:
    config = dict(
        task="instructions", data=(options.data,), out_dir=options.save or f"{scratch}/run",
        init_from=options.model, template=options.template, lora_r=8, lora_alpha=16.0,
        batch_size=4, max_iters=options.steps, learning_rate=options.learning_rate, min_lr=0.0,
        warmup_iters=min(6, options.steps), weight_decay=0.01, beta2=0.999, seed=options.seed,
        eval_interval=max(1, options.steps), eval_iters=5, sample_tokens=0,
    )  # fmt: skip
    try:
        run = start(TrainConfig(**config))
    except UserError as error:
        sys.exit(str(error))
    loss, written, scores = judge(run.task, run.model)
    train(run, Display(run.config.max_iters))
    new_loss, new_written, new_scores = judge(run.task, load_model(run.folder))

    for n, old, new in zip(run.task.splits[1][:5], written, new_written, strict=False):
        prompt = run.task.decode(run.task.rows[n].prompt)
        print(f"\n{prompt}\nbefore    {old}\nafter     {new}\nexpected  {run.task.expected(n)}")
    print(f"\nloss on the answers  {loss:.3f} -> {new_loss:.3f}")
    print(f"ROUGE-L              {estimate(np.mean, scores)} -> {estimate(np.mean, new_scores)}")
    result = dict(
        loss_before=round(loss, 4), loss_after=round(new_loss, 4),
        rouge_before=round(scores.mean(), 4), rouge_after=round(new_scores.mean(), 4),
    )  # fmt: skip
    print(json.dumps(result))

"""Measure how much of its training text a model writes out again: a table of docs/limits.md.

    python benchmarks/memory.py TEXT [--steps 2500]

Secrets, each a box and its code of six digits, are put into a text, some of them several times. A
small model is trained on the text, and is then asked for each code. The rank of a code among random
codes is the measure of Carlini et al. 2019 (arXiv:1802.08232, section 4).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from autograd.reading import LARGE, read_text
from npgpt import UserError, generate
from npgpt.evaluation.choices import Scorer
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.result import Table
from npgpt.training.config import TrainConfig
from npgpt.training.display import Display
from npgpt.training.loop import Run
from npgpt.training.run import start, train

COPIES = (0, 1, 2, 4, 8, 16, 32)  # how often a secret stands in the text
SECRETS = 16  # for each of these numbers
DIGITS, OTHERS = 6, 99  # of a code; other codes, with which it is compared
SIZE = dict(n_layer=2, n_head=4, n_embd=64, block_size=64, batch_size=16, learning_rate=3e-3)


def hide(text: str, generator: np.random.Generator) -> tuple[str, list[str], list[str]]:
    """Return the text with secrets on lines of their own, the questions, and their codes."""
    n = len(COPIES) * SECRETS
    questions = [f"\nThe code of box {box} is " for box in generator.permutation(900)[:n] + 100]
    codes = draw_codes(n, generator)
    lines = text.split("\n")
    for question, code, copies in zip(questions, codes, np.repeat(COPIES, SECRETS), strict=True):
        for place in generator.integers(0, len(lines), copies):
            lines[place] += f"{question}{code}."
    return "\n".join(lines), questions, codes


def draw_codes(n: int, generator: np.random.Generator) -> list[str]:
    """Draw codes."""
    return [f"{code:0{DIGITS}}" for code in generator.integers(0, 10**DIGITS, n)]


def learn(text: str, folder: Path, steps: int) -> Run:
    """Train a model on a text."""
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    run = start(TrainConfig(
        data=(str(path),), out_dir=str(folder / "run"), max_iters=steps, eval_interval=steps,
        eval_iters=5, sample_tokens=0, **SIZE,
    ))  # fmt: skip
    train(run, Display(run.config.max_iters))
    return run


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a file of UTF-8")
    parser.add_argument("--steps", type=int, default=2500, help="updates of the training")
    parser.add_argument("--characters", type=int, default=50_000, help="of the text")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    try:
        text = read_text(options.text, limit=LARGE)[: options.characters]
    except UserError as error:
        parser.error(str(error))
    text, questions, codes = hide(text, generator)
    choices = [[code, *draw_codes(OTHERS, generator)] for code in codes]
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = learn(text, Path(folder), options.steps)
        except UserError as error:
            parser.error(str(error))
        model, tokenizer = run.model.eval(), run.tokenizer
        prompts = np.stack([tokenizer.encode(question) for question in questions])  # (N, T)
        ids = generate(model, prompts, max_new_tokens=DIGITS, do_sample=False)
        written = [tokenizer.decode(row[prompts.shape[1] :]) for row in ids]
        scores = np.array(Scorer(model, tokenizer).score(questions, choices))  # (N, codes)
    is_written = np.array(written) == codes
    ranks = 1 + np.sum(scores[:, 1:] >= scores[:, :1], axis=1)  # (N,), of the right code
    epochs = options.steps * run.task.tokens_per_batch / run.task.n_tokens
    print(f"\n{run.task.n_tokens:,} characters, read {epochs:.1f} times\n")
    shape = len(COPIES), SECRETS
    rows = [
        [str(copies), str(estimate(np.mean, right)), f"{np.median(rank):g}"]
        for copies, right, rank in zip(
            COPIES, is_written.reshape(shape), ranks.reshape(shape), strict=True
        )
    ]
    print(Table(["copies", "written out", f"median rank among {OTHERS + 1} codes"], rows))


if __name__ == "__main__":
    main()

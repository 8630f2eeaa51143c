"""Tell good film reviews from bad ones: a classifier from scratch, or from a model that has read.

    python examples/sentiment.py --data rt-polarity [--seed N] [--model minilm] [--size published]

The data are a table or a folder as npgpt finetune takes them; a tenth of the examples validates,
which the seed draws. The last line is the result as JSON. A linear classifier on the words of the
same split is measured beside, if scikit-learn is installed (``pip install 'npgpt[eval]'``).
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from npgpt import TrainConfig, UserError
from npgpt.evaluation.examples import read_examples
from npgpt.tokenizers import save_tokenizer
from npgpt.tokenizers.training import train_wordpiece
from npgpt.training.display import Display
from npgpt.training.run import start, train

SIZES = {
    "published": dict(  # of many introductions: 1,000 words, 100 tokens, 10 epochs
        model_type="gpt",
        vocab_size=1000,
        n_layer=2,
        n_head=4,
        n_embd=64,
        n_inner=64,
        block_size=100,
        epochs=10.0,
    ),
    "best": dict(  # the best that was found for this task and ten minutes
        model_type="bert",
        vocab_size=8000,
        n_layer=1,
        n_head=4,
        n_embd=64,
        block_size=64,
        epochs=4.0,
        dropout=0.5,
    ),
}

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True, help="a folder with a file for each label, or a table")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--model", default="scratch", help="scratch, minilm, or another model")
parser.add_argument("--size", choices=SIZES, default="best", help="of a model from scratch")
parser.add_argument("--epochs", type=float)
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt classify")
options = parser.parse_args()


def train_classifier(folder):
    """Train a classifier in a folder; return the run."""
    examples = read_examples(options.data)
    keys = dict(
        task="classification", data=(options.data,), out_dir=str(folder / "run"),
        seed=options.seed, batch_size=32, beta2=0.999, sample_tokens=0, eval_iters=5,
    )  # fmt: skip
    if options.model == "scratch":
        size = SIZES[options.size].copy()
        tokenizer = train_wordpiece("\n".join(text for text, _ in examples), size.pop("vocab_size"))
        (folder / "words").mkdir(parents=True, exist_ok=True)
        save_tokenizer(tokenizer, folder / "words")
        keys |= size | dict(
            tokenizer=str(folder / "words" / "tokenizer.json"),
            learning_rate=1e-3, weight_decay=0.1,
        )  # fmt: skip
    else:
        keys |= dict(
            init_from=options.model, learning_rate=5e-5, min_lr=0.0, warmup_iters=20,
            weight_decay=0.01, epochs=1.0,
        )  # fmt: skip
    if options.epochs:
        keys["epochs"] = options.epochs
    run = start(TrainConfig(**keys))
    train(run, Display(run.config.max_iters))
    return run


def bag_of_words(task):
    """Return the accuracy of a linear classifier on the words of the same split, or None."""
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    texts = [text for text, _ in read_examples(options.data)]
    known, judged = ([texts[i] for i in split] for split in task.splits)
    count = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True).fit(known)
    linear = LogisticRegression(C=0.3, max_iter=1000)
    linear.fit(count.transform(known), task.targets[task.splits[0]])
    return linear.score(count.transform(judged), task.targets[task.splits[1]])


with tempfile.TemporaryDirectory() as scratch:
    began = time.perf_counter()
    try:
        run = train_classifier(Path(options.save or scratch))
    except UserError as error:
        sys.exit(str(error))
    seconds = time.perf_counter() - began
    accuracy = run.task.metrics(run.model, run.progress.step)["accuracy"]  # of the last epoch
    print(f"\n{run.task.final_sample(run.model)}\n")
    if (linear := bag_of_words(run.task)) is not None:
        print(f"a linear classifier on words and pairs of words: {linear:.3f}")
    result = dict(
        val_accuracy=round(accuracy, 4), parameters=run.model.n_parameters(),
        seconds=round(seconds, 1), bag_of_words=linear and round(linear, 4),
    )  # fmt: skip
    print(json.dumps(result))

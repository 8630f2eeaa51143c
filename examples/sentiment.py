"""Tell good film reviews from bad ones: a classifier from scratch, or from a model that has read.

    python examples/sentiment.py --data rt-polarity [--seed N] [--model minilm] [--size published]
    python examples/sentiment.py --data rt-polarity [--seed N] --model minilm --frozen [--labels N]

The data are a table or a folder as npgpt finetune takes them; a tenth of the examples validates,
which the seed draws. The last line is the result as JSON. A linear classifier on the words of the
same split is measured beside, if scikit-learn is installed (``pip install 'npgpt[eval]'``). With
--frozen, the model is not trained: a linear classifier learns from its vectors of the texts, as
npgpt embed prints them; with --labels, from those of this many texts alone.
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from npgpt import TrainConfig, UserError
from npgpt.evaluation.examples import read_examples
from npgpt.hub import find_model
from npgpt.sentences import SentenceEncoder
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
parser.add_argument("--frozen", action="store_true", help="train no layer of --model")
parser.add_argument("--labels", type=int, help="with --frozen: how many texts have a label")
parser.add_argument("--size", choices=SIZES, default="best", help="of a model from scratch")
parser.add_argument("--epochs", type=float)
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt classify")
options = parser.parse_args()
if options.frozen and options.model == "scratch":
    parser.error("--frozen is about a model that has read: name it with --model")
if options.frozen and options.save:
    parser.error("--frozen trains no model, so there is no run to keep: leave out --save")
if options.labels is not None and (not options.frozen or options.labels < 2):
    parser.error("--labels is about --frozen: give both, and a number of 2 or more")
if options.frozen and find_spec("sklearn") is None:
    parser.error("--frozen needs scikit-learn: pip install 'npgpt[eval]'")


def start_run(folder, texts):
    """Start the run of a classifier in a folder."""
    keys = dict(
        task="classification", data=(options.data,), out_dir=str(folder / "run"),
        seed=options.seed, batch_size=32, beta2=0.999, sample_tokens=0, eval_iters=5,
    )  # fmt: skip
    if options.model == "scratch":
        size = SIZES[options.size].copy()
        tokenizer = train_wordpiece("\n".join(texts), size.pop("vocab_size"))
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
    return start(TrainConfig(**keys))


def score_linear(task, known, features, strength):
    """Return the accuracy of a linear classifier that learns from the known examples.

    `features` returns the features of some examples, (n,) -> (n, F).
    """
    from sklearn.linear_model import LogisticRegression

    judged = task.splits[1]
    linear = LogisticRegression(C=strength, max_iter=1000)
    linear.fit(features(known), task.targets[known])
    return linear.score(features(judged), task.targets[judged])


def score_vectors(task, known, texts):
    """Return the accuracy of a linear classifier on the model's vectors of the texts."""
    encoder = SentenceEncoder.load(find_model(options.model))
    return score_linear(task, known, lambda some: encoder.encode([texts[i] for i in some]), 10)


def score_words(task, known, texts):
    """Return the accuracy of a linear classifier on the words of the same texts, or None."""
    if find_spec("sklearn") is None:
        return None
    from sklearn.feature_extraction.text import CountVectorizer

    count = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True)
    count.fit([texts[i] for i in known])
    return score_linear(task, known, lambda some: count.transform([texts[i] for i in some]), 0.3)


with tempfile.TemporaryDirectory() as scratch:
    began = time.perf_counter()
    try:
        texts = [text for text, _ in read_examples(options.data)]
        run = start_run(Path(options.save or scratch), texts)
        order = np.random.default_rng(options.seed).permutation(run.task.splits[0])
        known = order[: options.labels]  # all, if --labels is not given
        if len(np.unique(run.task.targets[known])) < 2:
            sys.exit(f"--labels is {options.labels}, and these texts have one label: give more")
        if options.frozen:
            accuracy = score_vectors(run.task, known, texts)
        else:
            train(run, Display(run.config.max_iters))
            accuracy = run.task.metrics(run.model, run.progress.step)["accuracy"]  # last epoch
            print(f"\n{run.task.final_sample(run.model)}\n")
    except UserError as error:
        sys.exit(str(error))
    seconds = time.perf_counter() - began
    if (linear := score_words(run.task, known, texts)) is not None:
        print(f"a linear classifier on words and pairs of words: {linear:.3f}")
    result = dict(
        val_accuracy=round(accuracy, 4), parameters=run.model.n_parameters(),
        seconds=round(seconds, 1), bag_of_words=linear and round(linear, 4),
    )  # fmt: skip
    print(json.dumps(result))

"""Tell good film reviews from bad ones: a classifier from scratch, or from a model that has read.

    python examples/sentiment.py --data rt-polarity [--seed N] [--model minilm] [--size published]
    python examples/sentiment.py --data rt-polarity [--seed N] --model minilm --frozen

The data are a table or a folder as npgpt finetune takes them; a tenth of the examples validates,
which the seed draws. The last line is the result as JSON. A linear classifier on the words of the
same split is measured beside, if scikit-learn is installed (``pip install 'npgpt[eval]'``). With
--frozen, the model is not trained: a linear classifier learns from its vectors of the texts, as
npgpt embed prints them.
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

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
parser.add_argument("--size", choices=SIZES, default="best", help="of a model from scratch")
parser.add_argument("--epochs", type=float)
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt classify")
options = parser.parse_args()
if options.frozen and options.model == "scratch":
    parser.error("--frozen is about a model that has read: name it with --model")
if options.frozen and options.save:
    parser.error("--frozen trains no model, so there is no run to keep: leave out --save")
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


def score_linear(task, features, strength):
    """Return the accuracy of a linear classifier on features of all texts, (N, n)."""
    from sklearn.linear_model import LogisticRegression

    known, judged = task.splits
    linear = LogisticRegression(C=strength, max_iter=1000)
    linear.fit(features[known], task.targets[known])
    return linear.score(features[judged], task.targets[judged])


def bag_of_words(task, texts):
    """Return the accuracy of a linear classifier on the words of the same split, or None."""
    if find_spec("sklearn") is None:
        return None
    from sklearn.feature_extraction.text import CountVectorizer

    count = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True)
    count.fit([texts[i] for i in task.splits[0]])
    return score_linear(task, count.transform(texts), 0.3)


with tempfile.TemporaryDirectory() as scratch:
    began = time.perf_counter()
    try:
        texts = [text for text, _ in read_examples(options.data)]
        run = start_run(Path(options.save or scratch), texts)
        if options.frozen:
            vectors = SentenceEncoder.load(find_model(options.model)).encode(texts)
            accuracy = score_linear(run.task, vectors, 10)
        else:
            train(run, Display(run.config.max_iters))
            accuracy = run.task.metrics(run.model, run.progress.step)["accuracy"]  # last epoch
            print(f"\n{run.task.final_sample(run.model)}\n")
    except UserError as error:
        sys.exit(str(error))
    seconds = time.perf_counter() - began
    if (linear := bag_of_words(run.task, texts)) is not None:
        print(f"a linear classifier on words and pairs of words: {linear:.3f}")
    result = dict(
        val_accuracy=round(accuracy, 4), parameters=run.model.n_parameters(),
        seconds=round(seconds, 1), bag_of_words=linear and round(linear, 4),
    )  # fmt: skip
    print(json.dumps(result))

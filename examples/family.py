"""Compare a GPT, a BERT and an encoder-decoder of one size, after the same text.

    python examples/family.py --text STORIES.txt --questions TREC.train [--work FOLDER] [--seeds N]

Three models of one size (within 5 % of each other) read the same text, cut into windows of 64
tokens, for the same number of updates. The GPT predicts each token from the tokens before it. The
BERT fills gaps. The encoder-decoder reads the first half of a window, and writes the second half.
All three then fill gaps, write on, and classify questions, in text that none of them has read.

FOLDER keeps the runs, and ``results.jsonl`` with a line for each measurement. A second run with the
same folder does what is missing, and prints the tables again.
"""

import argparse
import json
import sys
from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from autograd import nn, no_grad
from autograd.files import make_folders, write_text
from npgpt import TrainConfig, UserError, load_tokenizer
from npgpt.evaluation.examples import draw_examples, read_examples
from npgpt.gaps import MASK
from npgpt.module import evaluating
from npgpt.tokenizers import save_tokenizer, train_bpe
from npgpt.training.data import END, read_text, windows_at, write_tokens
from npgpt.training.display import Display
from npgpt.training.run import Interrupted, open_run, resume, start, train

MEASURES = {  # and the same in the tables
    "fill": "fill a gap",
    "write": "write on: loss of a token",
    "classify": "classify, after the pre-training",
    "scratch": "classify, without pre-training",
}

parser = argparse.ArgumentParser()
parser.add_argument("--text", required=True, metavar="FILE", help="what the models read")
parser.add_argument("--questions", required=True, metavar="FILE", help="as TREC is published")
parser.add_argument("--work", type=Path, default=Path("out/family"), metavar="FOLDER")
parser.add_argument("--seeds", type=int, default=1, help="how many times each model is trained")
parser.add_argument("--measures", nargs="+", choices=MEASURES, default=[*MEASURES])
parser.add_argument("--width", type=int, default=64, help="of the models: channels")
parser.add_argument("--updates", type=int, default=400, help="of the pre-training")
parser.add_argument("--train", type=int, default=1000, help="questions to train on")
parser.add_argument("--judged", type=int, default=1000, help="questions to classify")
parser.add_argument("--candidates", type=int, default=20, help="words for each gap")
options = parser.parse_args()

WINDOW, HALF = 64, 32
SHAPE = dict(n_head=4, n_embd=options.width, block_size=WINDOW, activation_function="gelu")
MODELS = {  # the keys of each: as many parameters, and a norm after each sum, as first published
    "GPT": dict(
        task="language_modelling", model_type="gpt", n_layer=5, norm_position="post"
    ),
    "BERT": dict(task="masked", model_type="bert", n_layer=5),
    "encoder-decoder": dict(
        task="pairs", model_type="encoder-decoder", n_layer=2, n_inner=options.width * 9 // 2
    ),
}  # fmt: skip
WORDS = {  # what the encoder-decoder writes for a label
    "ABBR": " short", "DESC": " what", "ENTY": " thing", "HUM": " who", "LOC": " where",
    "NUM": " how many",
}  # fmt: skip

COUNTS = "counts"  # no model: the most frequent label, word or token of the text that is read
PARTS = "train", "validation"

# ---- the data: files in the folder, made once


def story(part):
    """Return the file with a part of the text."""
    return options.work / f"{part}.txt"


def questions(part):
    """Return the file with a part of the questions."""
    return options.work / f"questions-{part}.jsonl"


def pairs(kind, part):
    """Return the token file of pairs: halves of windows, or questions and their labels."""
    return options.work / f"{kind}-{part}.bin"


def prepare():
    """Write the tokenizer, both parts of the text and of the questions, and the pairs of these.

    Raises
    ------
    UserError
        If the folder was prepared with other options, or the data do not suffice.
    """
    others = "work", "seeds", "measures"  # which a second run may change
    settings = {key: value for key, value in vars(options).items() if key not in others}
    done = options.work / "settings.json"
    if done.exists():
        if json.loads(done.read_text("utf-8")) != settings:
            raise UserError(
                f"{options.work} has results of other options, which are in {done}: "
                "give another folder with --work"
            )
        return
    text, _ = read_text((options.text,))
    middle = text.find("\n", len(text) * 9 // 10) + 1
    texts = text[:middle], text[middle:]
    asked = dict(read_examples(options.questions, form="trec", encoding="latin-1"))
    asked = draw_examples([*asked.items()], len(asked))
    asked = asked[: options.train], asked[options.train :][: options.judged]
    if unknown := {label for part in asked for _, label in part} - {*WORDS}:
        raise UserError(f"the labels are {', '.join(WORDS)}, and not {', '.join(unknown)}")
    if not asked[1]:
        raise UserError(f"there are {len(asked[0])} questions, and none is left: lower --train")
    read = "\n".join([texts[0], *(question for question, _ in asked[0])])
    tokenizer = train_bpe(read, 2048, special_tokens=[END, "[PAD]", MASK])
    save_tokenizer(tokenizer, options.work)
    for part, text, examples, step in zip(PARTS, texts, asked, (16, WINDOW), strict=True):
        ids = tokenizer.encode(text)
        if len(ids) < 10 * WINDOW:
            raise UserError(f"the text is too short: {len(ids)} tokens for the {part}")
        halves = [(row[:HALF], row[HALF:]) for row in cut(ids, step)]
        write_pairs(pairs("halves", part), halves, tokenizer)
        rows = [
            (tokenizer.encode(text)[: WINDOW - 1], tokenizer.encode(WORDS[label]))
            for text, label in examples
        ]
        write_pairs(pairs("labels", part), rows, tokenizer)
        write_text(story(part), text)
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in examples]
        write_text(questions(part), "".join(lines))
    write_text(done, json.dumps(settings) + "\n")


def cut(ids, step):
    """Return the windows of a text, (B, 64); each begins `step` tokens after the one before it."""
    return windows_at(ids, range(0, len(ids) - WINDOW + 1, step), WINDOW - 1).astype(np.int64)


def write_pairs(path, rows, tokenizer):
    """Write a token file of pairs, as the task ``pairs`` reads it."""
    end = [tokenizer.special_tokens[END]]
    parts = [part for pair in rows for side in pair for part in (side, end)]
    write_tokens(path, [], tokenizer, [], np.concatenate(parts))


# ---- training


def trained(name, **keys):
    """Return a run that is trained to its end: one that is there, or a new one."""
    folder = options.work / name
    if folder.exists():
        run = open_run(folder)
        if run.progress.finished:
            return run
        run = resume(folder, {})
    else:
        print(f"\n{name}", file=sys.stderr)
        run = start(TrainConfig(out_dir=str(folder), sample_tokens=0, eval_iters=5, **keys))
    train(run, Display(run.config.max_iters, run.progress.step))
    return run


def pretrain(name, seed):
    """Return the run of a model that reads the text."""
    keys = SHAPE | MODELS[name]
    if keys["task"] == "pairs":
        keys |= files(partial(pairs, "halves"))
    else:
        keys |= files(story) | {"tokenizer": str(options.work / "tokenizer.json")}
    return trained(
        f"{name}-{seed}", learning_rate=2e-3, batch_size=16, max_iters=options.updates,
        eval_interval=options.updates, seed=seed, **keys,
    )  # fmt: skip


def finetune(name, seed, is_pretrained):
    """Return the run of a model that learns to classify: after the pre-training, or without it."""
    keys = SHAPE | MODELS[name]
    if is_pretrained:
        keys = {"task": keys["task"], "init_from": str(options.work / f"{name}-{seed}")}
    if keys["task"] == "pairs":
        keys |= files(partial(pairs, "labels"))
    else:
        keys |= files(questions) | {"task": "classification"}
        if not is_pretrained:
            keys["tokenizer"] = str(options.work / "tokenizer.json")
    updates = 4 * options.train // 32  # four epochs
    return trained(
        f"{name}-{seed}-{'after' if is_pretrained else 'without'}", learning_rate=1e-3,
        batch_size=32, max_iters=updates, eval_interval=updates, warmup_iters=20, seed=seed, **keys,
    )  # fmt: skip


def files(path):
    """Return the keys for the data, which are in the files ``path(part)``."""
    return dict(zip(("data", "val_data"), (str(path(part)) for part in PARTS), strict=True))


# ---- the measurements: each returns results by name, with a number for each question or window


def classify(name, run):
    """Return for each question whether the label is right."""
    known, asked = (read_examples(questions(part)) for part in PARTS)
    right = [label for _, label in asked]
    if run is None:
        found = [Counter(label for _, label in known).most_common(1)[0][0]] * len(asked)
    elif run.config.task == "classification":
        numbers, labels = run.task.predict(run.model)
        found = [run.config.labels[label] for label in labels[np.argsort(numbers)]]
    else:  # the label whose words are the most probable ones
        targets = {label: np.append(tokenizer.encode(WORDS[label]), end)[None] for label in WORDS}
        found = []
        for text, _ in asked:
            source = tokenizer.encode(text)[None, : WINDOW - 1]
            losses = {
                label: losses_after(run.model, source, target).sum()
                for label, target in targets.items()
            }
            found.append(min(losses, key=losses.get))
    return {"": [a == b for a, b in zip(found, right, strict=True)]}


def fill(name, run):
    """Return for each gap whether the right one of the candidates is the most probable.

    A GPT and an encoder-decoder write the text with each candidate; the most probable text wins.
    Their second result takes the probability of the candidate alone, after the text before it.
    """
    found = {"": [], ", from the text before it alone": []}
    for row, gap, candidates, counts in make_gaps():
        rows = np.repeat(row[None], len(candidates), axis=0)
        if run is None:
            losses = [-counts]
        elif name == "BERT":
            rows[0, gap] = mask
            losses = [-run.model(rows[:1])[0].numpy()[0, gap, candidates]]
        else:
            rows[:, gap] = candidates
            each = second_half(name, run.model, rows)
            losses = each.sum(axis=1), each[:, gap - HALF]
        for right, loss in zip(found.values(), losses, strict=False):
            right.append(loss.argmin() == 0)
    return {key: right for key, right in found.items() if right}


def make_gaps():
    """Yield windows with a place in each, the candidates for the place, and how frequent these are.

    The place is that of a word of one token in the second half of the window. The word is the first
    candidate. The others are drawn from the words of the text that was read, the frequent ones more
    often.
    """
    random = np.random.default_rng(0)
    spelled = [tokenizer.decode([token]) for token in range(tokenizer.n_vocab)]
    begins = np.array([text[:1] == " " and text[1:].isalpha() for text in spelled])
    continues = np.array([text[:1].isalpha() for text in spelled])
    is_word = begins[read[:-1]] & ~continues[read[1:]]
    counts = np.bincount(read[:-1][is_word], minlength=tokenizer.n_vocab)
    if np.count_nonzero(counts) < options.candidates:
        raise UserError(f"{options.text} has fewer words than --candidates {options.candidates}")
    for row in windows:
        places = np.flatnonzero(begins[row[:-1]] & ~continues[row[1:]])
        if not np.any(places >= HALF):
            continue
        gap = random.choice(places[places >= HALF])
        others = np.where(np.arange(len(counts)) == row[gap], 0, counts)
        drawn = random.choice(len(others), options.candidates - 1, False, others / others.sum())
        candidates = np.append(row[gap], drawn)
        yield row, gap, candidates, counts[candidates]


def write_on(name, run):
    """Return the mean loss of the second half of each window, after the first half.

    A BERT predicts the tokens of the second half one after the other, each from the right tokens
    before it. In its first result, the rest of the window is gaps; in its second result, the text
    ends with the one gap.
    """
    if run is None:
        counts = np.bincount(read, minlength=tokenizer.n_vocab) + 1
        return {"": -np.log(counts / counts.sum())[windows[:, HALF:]].mean(axis=1)}
    if name != "BERT":
        return {"": second_half(name, run.model, windows).mean(axis=1)}
    found = {"": [], ", with one gap at the end": []}
    for place in range(HALF, WINDOW):
        rows = windows.copy()
        rows[:, place:] = mask
        for losses, asked in zip(found.values(), (rows, rows[:, : place + 1]), strict=True):
            logits = run.model(asked)[0][:, place : place + 1]
            losses.append(token_losses(logits, windows[:, place : place + 1]))
    return {key: np.mean(losses, axis=0)[:, 0] for key, losses in found.items()}


def second_half(name, model, rows):
    """Return the loss of each token in the second half of some windows, (B, 64) -> (B, 32)."""
    if name == "encoder-decoder":
        return losses_after(model, rows[:, :HALF], rows[:, HALF:])
    return token_losses(model(rows[:, :-1])[0][:, HALF - 1 :], rows[:, HALF:])


def losses_after(model, sources, targets):
    """Return the loss of each token that an encoder-decoder writes, (B, T)."""
    return token_losses(model(sources, None, None, model.shifted(targets))[0], targets)


def token_losses(logits, targets):
    """Return the loss of each token: ``(B, T, V), (B, T) -> (B, T)``."""
    rows = logits.reshape(-1, logits.shape[-1])
    losses = nn.cross_entropy(rows, targets.reshape(-1), reduction="none")
    return losses.numpy().reshape(targets.shape)


RUNS = {  # the run that is measured, and how
    "fill": (pretrain, fill),
    "write": (pretrain, write_on),
    "classify": (partial(finetune, is_pretrained=True), classify),
    "scratch": (partial(finetune, is_pretrained=False), classify),
}

# ---- all that is missing

path = options.work / "results.jsonl"
try:
    make_folders(options.work)
    prepare()
    tokenizer = load_tokenizer(options.work)
    end, mask = (tokenizer.special_tokens[token] for token in (END, MASK))
    read, ids = (tokenizer.encode(story(part).read_text("utf-8")) for part in PARTS)
    windows = cut(ids, WINDOW)
    results = {}
    if path.exists():
        for line in map(json.loads, path.read_text("utf-8").splitlines()):
            results[line["seed"], line["model"], line["measure"]] = line["found"]
    sizes = {}
    for seed in range(options.seeds):
        for name in MODELS:
            sizes[name] = pretrain(name, seed).model.n_parameters()
        for measure in options.measures:
            runs, function = RUNS[measure]
            for name in (*MODELS, COUNTS):
                if (seed, name, measure) in results:
                    continue
                run = None if name == COUNTS else runs(name, seed)
                with no_grad(), evaluating():
                    found = {
                        key: np.round(np.asarray(values, float), 4).tolist()
                        for key, values in function(name, run).items()
                    }
                results[seed, name, measure] = found
                line = {"seed": seed, "model": name, "measure": measure, "found": found}
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
except UserError as error:
    sys.exit(str(error))
except Interrupted as stop:
    sys.exit(f"{stop}: the run is saved, and the same command goes on with it")

# ---- the tables

# Quantiles of Student's t, 97.5 %, for 1 to 9 degrees of freedom: 2 to 10 seeds, and for more the
# last, which makes an interval wider than it need be.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values):
    """Return the mean of (seeds, items), and its 95 % interval by bootstrap over both."""
    random = np.random.default_rng(0)
    S, N = values.shape
    means = [
        values[random.integers(0, S, (S, 1)), random.integers(0, N, N)].mean() for _ in range(2000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def by_seed(values):
    """Return the mean of each seed, and the 95 % interval of the mean of all by Student's t."""
    means = values.mean(axis=1)
    S = len(means)
    half = STUDENT[min(S, len(STUDENT) + 1) - 2] * means.std(ddof=1) / np.sqrt(S)
    low, high = means.mean() - half, means.mean() + half
    return f"{', '.join(f'{mean:.3f}' for mean in means)} [{low:.3f}, {high:.3f}]"


def found_by(name, measure, key=""):
    """Return the results of a model: (seeds, items)."""
    return np.array([results[seed, name, measure][key] for seed in range(options.seeds)])


print("| | " + " | ".join(f"{name}, {size:,} parameters" for name, size in sizes.items()), end="")
print(f" | {COUNTS} |\n|---|---|---|---|---|")
for measure in options.measures:
    keys = {key: None for name in (*MODELS, COUNTS) for key in results[0, name, measure]}
    for key in keys:
        cells = [
            interval(found_by(name, measure, key)) if key in results[0, name, measure] else ""
            for name in (*MODELS, COUNTS)
        ]
        print(f"| {MEASURES[measure]}{key} | {' | '.join(cells)} |")
pairs_of_models = [*combinations(MODELS, 2)]
for title, summary in {"difference": interval, "difference, by seed": by_seed}.items():
    if summary is by_seed and options.seeds == 1:
        break
    print(f"\n| {title} | " + " | ".join(f"{a} - {b}" for a, b in pairs_of_models) + " |")
    print("|---|---|---|---|")
    for measure in options.measures:
        cells = [summary(found_by(a, measure) - found_by(b, measure)) for a, b in pairs_of_models]
        print(f"| {MEASURES[measure]} | {' | '.join(cells)} |")

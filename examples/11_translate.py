"""Train the first Transformer to translate, measure it, and see where it looks.

    python examples/11_translate.py [FILE.tsv] [--steps N] [--save FOLDER] [--picture FILE.svg]

FILE.tsv has a source, a tab and a target on each line, such as the English and Chinese sentences of
Tatoeba. Without a file, the pairs are numbers in English and in Chinese, and training takes a
minute. ``pip install 'npgpt[eval]'`` adds BLEU and chrF.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from npgpt import TrainConfig, UserError, load_model, load_tokenizer
from npgpt.diagnostics.inside import cross_attention_maps
from npgpt.diagnostics.page import heat_map
from npgpt.say import visible
from npgpt.tokenizers import train_bpe, write_tiktoken
from npgpt.tokenizers.bpe import PATTERN
from npgpt.training.display import Display
from npgpt.training.pairs import read_pairs
from npgpt.training.run import start, train
from npgpt.translation import translate

parser = argparse.ArgumentParser()
parser.add_argument("file", nargs="?", help="pairs, one a line, with a tab between them")
parser.add_argument("--steps", type=int, help="2,400, or 300 for the numbers")
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt translate")
parser.add_argument("--picture", metavar="FILE.svg", help="draw the cross-attention")
options = parser.parse_args()

# ---- the pairs

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen".split()
ONES += "fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def english(n):
    """Write a number below 10,000 in English words."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")
    unit, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    rest = n % unit
    between = " and " if rest < 100 else " "
    return f"{ONES[n // unit]} {name}" + (between + english(rest) if rest else "")


def chinese(n):
    """Write a number below 10,000 in Chinese characters: 305 is 三百零五."""
    if n < 10:
        return "零一二三四五六七八九"[n]
    unit, name = next((u, c) for u, c in ((1000, "千"), (100, "百"), (10, "十")) if n >= u)
    rest = n % unit
    zero = "零" if rest and rest < unit // 10 else ""
    first = "" if 10 <= n < 20 else chinese(n // unit)
    tail = "一" + chinese(rest) if 10 <= rest < 20 else chinese(rest)
    return first + name + (zero + tail if rest else "")


if options.file:
    try:
        texts, _ = read_pairs((options.file,))
    except UserError as error:
        sys.exit(str(error))
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    vocab_size, width, context, steps = 6700, 128, 64, 2400
else:
    numbers = np.random.default_rng(0).permutation(10_000)[:3000].tolist()
    pairs = [(english(n), chinese(n)) for n in numbers]
    vocab_size, width, context, steps = 400, 64, 24, 300

# Some sources are held out, to measure the model; others judge it during the training. A source
# may have several translations, and all of them are held out with it.
sources = sorted({source for source, _ in pairs})
order = np.random.default_rng(0).permutation(len(sources))
n_held_out = min(300, len(sources) // 30)
test, validation = (
    {sources[i] for i in order[part * n_held_out : (part + 1) * n_held_out]} for part in range(2)
)
known = [pair for pair in pairs if pair[0] not in test | validation]
first = dict(reversed(pairs))  # of each source its first translation
asked = [(sources[i], first[sources[i]]) for i in order[:n_held_out]]

folder = Path(options.save or tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)


def write(name, pairs):
    """Write a pairs file; return its name."""
    path = folder / name
    path.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return str(path)


data = write("train.tsv", known)
judges = write("validation.tsv", [pair for pair in pairs if pair[0] in validation])

# ---- the tokenizer: pieces of words, and single Chinese characters

pattern = rf"\p{{Han}}|{PATTERN}"  # a token is never longer than a match: here one character
text = "\n".join(part for pair in known for part in pair)
write_tiktoken(train_bpe(text, vocab_size, pattern=pattern), folder / "bpe.tiktoken")

# ---- training

config = TrainConfig(
    task="pairs", model_type="encoder-decoder", data=data, val_data=judges,
    tokenizer=str(folder / "bpe.tiktoken"), out_dir=str(folder / "run"),
    n_layer=2, n_head=4, n_embd=width, block_size=context, batch_size=64, dropout=0.1,
    label_smoothing=0.1, learning_rate=2e-3, warmup_iters=300, beta2=0.98,
    max_iters=options.steps or steps, eval_interval=300, eval_iters=10,
)  # fmt: skip
try:
    run = start(config)
except UserError as error:
    sys.exit(str(error))
train(run, Display(run.config.max_iters))
model, tokenizer = load_model(run.folder), load_tokenizer(run.folder)
print(f"{model.n_parameters():,} parameters, {len(known):,} pairs")

# ---- measured on sources that were never seen, beside the pair whose source is nearest


def trigrams(text):
    """Return all sequences of three letters in a text."""
    return {text[i : i + 3] for i in range(len(text) - 2)}


def nearest(source):
    """Return the target of the known source that shares most trigrams: the baseline."""
    wanted = trigrams(source)
    shares = [len(wanted & had) / (len(wanted | had) or 1) for had in features]
    return known[int(np.argmax(shares))][1]


features = [trigrams(source) for source, _ in known]
targets = [target for _, target in asked]
found = translate(model, tokenizer, [source for source, _ in asked])
written = [each.target for each in found]
copied = [nearest(source) for source, _ in asked]
print(f"\n{len(asked)} held-out pairs    the model  the nearest pair")
same = [
    np.mean([a == b for a, b in zip(texts, targets, strict=True)]) for texts in (written, copied)
]
print(f"  the same text         {same[0]:6.1%}  {same[1]:6.1%}")
try:
    from sacrebleu import corpus_bleu, corpus_chrf
except ImportError:
    print("  pip install 'npgpt[eval]' adds BLEU and chrF")
else:
    scores = [
        (corpus_bleu(texts, [targets], tokenize="char").score, corpus_chrf(texts, [targets]).score)
        for texts in (written, copied)
    ]
    for name, (ours, theirs) in zip(
        ("BLEU of characters", "chrF"), zip(*scores, strict=True), strict=True
    ):
        print(f"  {name:<20}  {ours:6.1f}  {theirs:6.1f}")
names = "source", "model", "target", "nearest"
for (source, target), ours, theirs in list(zip(asked, written, copied, strict=True))[:8]:
    print()
    for name, text in zip(names, (source, ours, target, theirs), strict=True):
        print(f"{name:<8} {text}")

# ---- where the decoder looks: the mean over the heads of the last layer

source_ids = tokenizer.encode(asked[0][0])  # (S,)
target_ids = np.array(found[0].ids)  # (T,), with the end
weights = cross_attention_maps(model, source_ids, target_ids)[-1].mean(axis=0)  # (T, S)
rows, columns = (
    [visible(tokenizer.tokens[i]) for i in ids.tolist()] for ids in (target_ids, source_ids)
)
print("\neach token looks most at")
for row, shares in zip(rows, weights, strict=True):
    print(f"  {row:<15}{columns[int(shares.argmax())]} {shares.max():.0%}")
if options.picture:
    title = "Where each token of the translation looks in the source"
    Path(options.picture).write_text(heat_map(weights, rows, columns, title) + "\n", "utf-8")

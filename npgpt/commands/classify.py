"""``npgpt classify``: give each text one of some labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from numpy import ndarray

from autograd.escape import brief
from autograd.schema import FileName
from npgpt.commands.chat import find_partner
from npgpt.commands.complete import Shots, read_shots, read_task
from npgpt.commands.embed import read_sentences
from npgpt.commands.generate import demand_writer, load_writer
from npgpt.errors import UserError
from npgpt.evaluation.choices import Scorer
from npgpt.evaluation.few_shot import classify
from npgpt.evaluation.labels import label_logits, label_probabilities
from npgpt.hub import find_config
from npgpt.models.config import ModelConfig, Seed
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.training.memory import keep_freed_memory

BLOCK = 64  # texts that are classified at once: their labels are printed before the next are read


@dataclass
class Texts:
    """The texts: the first options of the command."""

    texts: Annotated[tuple[str, ...], Argument("TEXT ...")] = ()
    """The texts."""
    file: FileName = ""
    """A file of texts, one a line."""
    pairs: bool = False
    """Each text is two, with a tab between them, for a model that was trained on pairs."""


@dataclass
class Labels:
    """The model and the labels."""

    model: FileName = ""
    """A folder with a model, a .safetensors or .gguf file, the name of an added model (npgpt models
    list), or a name on the Hugging Face hub; if not given, smollm2."""
    labels: str = ""
    """The labels with commas between them, each as the model is to write it, or as LABEL=TEXT:
    pos=positive,neg=negative. If not given, those of the examples."""


@dataclass
class Judging(Shots, Labels):  # the fields of the last base class come first
    """How a model names labels; ``npgpt eval classification`` has these options, too."""

    seed: Seed = 0
    """Of the drawing of examples."""
    calibrate: bool = False
    """Divide the probability of a label by that after a text without content, such as N/A. This
    undoes what the template and the examples alone favour."""
    calibrate_batch: bool = False
    """Divide the probability of a label by its mean over all texts. All texts are read before the
    first label is printed."""
    normalize: bool = False
    """Divide the log-probability of a label by its number of characters."""
    float32: bool = False
    """Compute with float32 weights where the model's file has fewer bits, which takes more memory
    and time."""


@dataclass
class Options(Judging, Texts):
    """Give each text one of some labels, and print it.

    A model with a classification head uses its own labels, or gives a number if it was trained for
    this. Any other model gets a prompt with examples, if --shots is given, and the text; the label
    is the one that the model finds the most probable continuation. Without any text or --file, each
    line of standard input is a text. An empty line gets an empty line.
    """

    json: bool = False
    """Print for each text one line of JSON: the text, the label, the probability of each label."""


Classifier = Callable[[Sequence[str]], ndarray]


def run(args: list[str]) -> int:
    """Print a label for each text; return 130 after Ctrl-C."""
    options = parse(Options, args, "classify")
    keep_freed_memory()
    lines = read_sentences("classify", options.texts, options.file)
    labels, find = make_classifier(options, options.pairs)
    try:
        while block := list(islice(lines, block_size(options))):
            print_labels(block, labels, find, options.json)
    except KeyboardInterrupt:
        return 130
    return 0


def block_size(options: Judging) -> int | None:
    """Return how many texts are classified at once; None for all."""
    return None if options.calibrate_batch else BLOCK


def make_classifier(options: Judging, pairs: bool = False) -> tuple[Sequence[str], Classifier]:
    """Return the labels, and the function that returns their probabilities for texts.

    The only label of a model that gives a number stands for this number. With `pairs`, each text is
    two, with a tab between them.
    """
    path = find_partner(options.model)
    config = find_config(path)
    if config is not None and config.labels:
        return head_classifier(options, path, config, pairs)
    if pairs:
        raise UserError(
            f"{path} has no classification head, which pairs of texts need: give single texts"
        )
    if options.calibrate and options.calibrate_batch:
        raise UserError("--calibrate and --calibrate_batch are two ways: leave one of them out")
    words = find_words(options)
    task = read_task(options, options.seed, words)
    model, tokenizer = load_writer(path, False, options.float32)
    demand_writer(model, path)
    calibrated: bool | Literal["batch"] = "batch" if options.calibrate_batch else options.calibrate
    scorer = Scorer(model, tokenizer)

    def find(texts: Sequence[str]) -> ndarray:
        return classify(
            scorer,
            task,
            texts,
            [*words.values()],
            calibrated=calibrated,
            normalized=options.normalize,
        )

    return [*words], find


def head_classifier(
    options: Judging, path: Path, config: ModelConfig, pairs: bool
) -> tuple[Sequence[str], Classifier]:
    """Return the labels of a model with a classification head, and the function for their use."""
    names = "labels", "shots", "k", "instruction", "chat", "calibrate", "normalize"
    for name in (*names, "calibrate_batch"):
        if getattr(options, name):
            raise UserError(
                f"{path} was trained to classify, and gives one of the labels "
                f"{brief(config.labels)}: leave out --{name}"
            )
    model, tokenizer = load_writer(path, False, options.float32)
    compute = label_logits if len(config.labels) == 1 else label_probabilities

    def find(texts: Sequence[str]) -> ndarray:
        if not pairs:
            return compute(model, tokenizer, texts)
        for text in texts:
            if text.count("\t") != 1:
                raise UserError(f"{brief(text)} is no pair: expected two texts with a tab between")
        first, second = zip(*(text.split("\t") for text in texts), strict=True)
        return compute(model, tokenizer, first, second)

    return config.labels, find


def find_words(options: Judging) -> dict[str, str]:
    """Return the labels, and how each is written in a prompt."""
    labels = options.labels.split(",")
    if not options.labels:
        if not options.shots:
            raise UserError(
                "say which labels there are, as in: --labels positive,negative (or show examples "
                "that have them, with --shots FILE)"
            )
        labels = sorted({label for _, label in read_shots(options)})
    words = {}
    for label in labels:
        parts = label.partition("=") if options.labels else (label, "", "")
        name, equals, word = map(str.strip, parts)
        if not name or (equals and not word) or name in words:
            raise UserError(
                f"one of the labels is {brief(label)}; give different texts with commas between "
                "them, or LABEL=TEXT"
            )
        words[name] = word if equals else name
    if len(words) < 2:
        raise UserError(f"the only label is {brief(*words)}; at least two are needed")
    return words


def print_labels(
    texts: Sequence[str], labels: Sequence[str], find: Classifier, as_json: bool
) -> None:
    """Print the most probable label of each text, or its number; an empty text has none."""
    full = [text for text in texts if text.strip()]
    found = iter(find(full)) if full else iter(())
    for text in texts:
        row = next(found) if text.strip() else None
        if len(labels) == 1:
            number = None if row is None else float(row[0])
            if as_json:
                print(json.dumps({"text": text, labels[0]: number}), flush=True)
            else:
                say("" if number is None else f"{number:.4f}")
            continue
        label = None if row is None else labels[row.argmax()]
        if not as_json:
            say(label or "")
            continue
        shares = {} if row is None else dict(zip(labels, map(float, row), strict=True))
        print(json.dumps({"text": text, "label": label, "probabilities": shares}), flush=True)

"""Measure which texts two filters let pass, forbidden words and a guard: tables of docs/limits.md.

    python benchmarks/filters.py [--model smollm2]
    python benchmarks/filters.py --guard DIR --label LABEL --texts FILE

The first command asks for words that it forbids by ``bad_words_ids``, and looks for them in the
text: the word itself, and other forms of the word, such as other capitals. The second command lets
a guard (``npgpt chat --guard``) read texts as they are, and with digits in the place of letters.
"""

import argparse
import re

import numpy as np

from npgpt import UserError, generate, load_model, load_tokenizer
from npgpt.evaluation.examples import read_examples
from npgpt.evaluation.guard import Guard
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.result import Table
from npgpt.hub import find_model

QUESTIONS = {  # texts, and the word that follows
    "On a sunny day the colour of the sky is": "blue",
    "The capital of France is the city of": "Paris",
    "The first president of the United States was George": "Washington",
    "Romeo and": "Juliet",
    "The opposite of cold is": "hot",
    "Bees live in a hive and make": "honey",
    "Monday, Tuesday, Wednesday,": "Thursday",
    "Water freezes and turns into": "ice",
    "The sun rises in the east and sets in the": "west",
    "One, two, three, four,": "five",
    "A young dog is called a": "puppy",
    "The largest planet of the solar system is": "Jupiter",
}
N_TOKENS, DRAWS = 12, 4  # of each text; texts of each question
DISGUISE = str.maketrans("aeioAEIO", "43104310")


def forbid(source: str) -> str:
    """Return the table of forbidden words."""
    path = find_model(source)
    model, tokenizer = load_model(path, packed=True), load_tokenizer(path)
    rows = []
    for name, is_forbidden in (("no filter", False), ("the word is forbidden", True)):
        same, other = [], []
        for question, word in QUESTIONS.items():
            bad = [tokenizer.encode(space + word).tolist() for space in ("", " ")]
            prompt = tokenizer.encode(question)
            for seed in range(DRAWS):
                ids = generate(
                    model, prompt, max_new_tokens=N_TOKENS, do_sample=True, temperature=0.7,
                    top_k=0, top_p=1.0, repetition_penalty=1.0, seed=seed,
                    bad_words_ids=bad if is_forbidden else [],
                )  # fmt: skip
                text = tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
                same.append(re.search(rf"\b{word}\b", text) is not None)
                other.append(word.lower() in text.lower() and not same[-1])
                if (same[-1] or other[-1]) and is_forbidden:
                    print(f"{word} is forbidden: {text!r}")
        rows.append([name, *(str(estimate(np.mean, np.array(found))) for found in (same, other))])
    columns = ["", "texts with the word", "with another form of the word alone"]
    return f"\n{Table(columns, rows)}"


def judge(source: str, label: str, file: str) -> str:
    """Return the table of a guard: the texts that it refuses, as they are and disguised."""
    guard = Guard.load(source, label)
    examples = read_examples(file)
    rows = []
    for name, is_refused in (
        ("as they are", lambda text: guard.check(text) is not None),
        ("with digits for letters", lambda text: guard.check(text.translate(DISGUISE)) is not None),
    ):
        found = np.array([is_refused(text) for text, _ in examples])
        is_bad = np.array([each == label for _, each in examples])
        if is_bad.all() or not is_bad.any():
            raise UserError(f"{file} needs texts of the label {label}, and others")
        rows.append([
            name, str(estimate(np.mean, found[is_bad])), str(estimate(np.mean, found[~is_bad])),
        ])  # fmt: skip
    return str(Table(["texts", f"refused, of those that are {label}", "of the others"], rows))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--guard", metavar="DIR", help="a classifier, such as that of a run")
    parser.add_argument("--label", default="spam", help="the label that the guard refuses")
    parser.add_argument("--texts", metavar="FILE", help="texts with their labels, for the guard")
    options = parser.parse_args()
    if bool(options.guard) != bool(options.texts):
        parser.error("--guard and --texts belong together: give both, or neither")
    try:
        if options.guard:
            print(judge(options.guard, options.label, options.texts))
        else:
            print(forbid(options.model))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

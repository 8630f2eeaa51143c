"""Measure how much a model repeats itself, by how its tokens are chosen: a table of docs/limits.md.

    python benchmarks/repetition.py [--model smollm2] [--tokens 80]

A sequence of four tokens is repeated if it stands earlier in the same new text. The mean
log-probability says what the model itself thinks of the text that the options made it write.
"""

import argparse

import numpy as np
from numpy import ndarray

from npgpt import UserError, generate, load_model, load_tokenizer
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.result import Table
from npgpt.hub import find_model

PROMPTS = (
    "The weather in the mountains",
    "My grandmother lived in a small house",
    "The most important thing about cooking is",
    "In the year 1900, the city",
    "Scientists have found that",
    "The dog looked at the door and",
    "To learn a language, you",
    "The history of the bicycle",
)
SETTINGS = {
    "the most probable token": dict(do_sample=False),
    "`repetition_penalty=1.2`": dict(do_sample=False, repetition_penalty=1.2),
    "`no_repeat_ngram_size=4`": dict(do_sample=False, no_repeat_ngram_size=4),
    "drawn, `temperature=0.7`": dict(do_sample=True, temperature=0.7, top_k=0, top_p=1.0),
    "drawn, `temperature=1`": dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0),
}
LENGTH = 4  # of the sequences that are compared


def repeated(ids: ndarray) -> float:
    """Return the share of sequences of a text that stand earlier in it.

    Examples
    --------
    >>> repeated(np.array([1, 2, 3, 4, 1, 2, 3, 4]))
    0.2
    """
    sequences = np.lib.stride_tricks.sliding_window_view(ids, LENGTH)
    return 1 - len(np.unique(sequences, axis=0)) / len(sequences)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=80, help="of each text, 4 or more")
    options = parser.parse_args()
    if options.tokens < LENGTH:
        parser.error(f"--tokens is {options.tokens}; a text needs at least {LENGTH}")
    try:
        path = find_model(options.model)
        model, tokenizer = load_model(path, packed=True), load_tokenizer(path)
    except UserError as error:
        parser.error(str(error))
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    usual = dict(repetition_penalty=1.0, seed=0, eos_token_id=None)
    rows = []
    for name, setting in SETTINGS.items():
        found = generate(
            model, prompts, max_new_tokens=options.tokens, output_logprobs=True, **usual | setting
        )
        texts = found.sequences[:, -options.tokens :]
        share = estimate(np.mean, np.array([repeated(ids) for ids in texts]))
        rows.append([name, str(share), str(estimate(np.mean, found.logprobs.mean(axis=1)))])
        print(f"{name}: {tokenizer.decode(texts[0])!r}")
    columns = ["tokens are", f"repeated sequences of {LENGTH}", "mean log-probability"]
    print(f"\n{Table(columns, rows)}")


if __name__ == "__main__":
    main()

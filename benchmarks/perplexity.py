"""Compute the perplexity of a model with packed, int8 and float32 weights.

    python benchmarks/perplexity.py TEXT [--model smollm2] [--tokens 20000]

The first tokens of the text are cut into windows of 1,024, and each token is predicted once, from
those before it in its window.
"""

import argparse
import math

from npgpt import load_model, load_tokenizer
from npgpt.evaluation.loss import every_window, mean_loss
from npgpt.generation.quantize import quantize
from npgpt.hub import find_model

WINDOW = 1024


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="a file of UTF-8")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=20_000, help="of the text, from its start")
    args = parser.parse_args()
    path = find_model(args.model)
    with open(args.text, encoding="utf-8") as file:
        ids = load_tokenizer(path).encode(file.read(), add_special_tokens=False)[: args.tokens]
    makers = {
        "as in the file": lambda: load_model(path, packed=True),
        "int8": lambda: quantize(load_model(path, packed=True)),
        "float32": lambda: load_model(path),
    }
    print("| weights | perplexity |\n|---|---|")
    for name, make in makers.items():
        loss = mean_loss(make(), every_window(ids, WINDOW, 1, None))
        print(f"| {name} | {math.exp(loss):.4f} |", flush=True)


if __name__ == "__main__":
    main()

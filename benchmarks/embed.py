"""Time vectors of sentences here, and with transformers.

The model is all-MiniLM-L6-v2 (npgpt models add minilm); tokenization counts. transformers reads
batches of 32 sentences, the longest first, as sentence-transformers does by default; and, in a
second column, the batches that we make, whose sentences have about one length. The sentences are
those of a file, one a line, or the first lines of docstrings in Python's library.

    python benchmarks/embed.py [CASE ...] [--quick] [--data FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from harness import OURS, Row, keep_memory, main, need, take_turns, timed
from numpy import ndarray

CASES = ["all", "one"]
N_SENTENCES = {"all": 1000, "one": 100}


def docstrings() -> list[str]:
    """Return the first lines of the docstrings in Python's library, in the order of the files."""
    lines: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                lines[text.splitlines()[0]] = None
    return [*lines]


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return the row of a case: seconds for a sentence, of all sentences or of one at a time."""
    os.environ["RAYON_NUM_THREADS"] = str(args.n_threads)  # of Hugging Face's tokenizer
    from npgpt.errors import UserError
    from npgpt.hub import find_model
    from npgpt.sentences import SentenceEncoder, batches

    torch, transformers = need("torch"), need("transformers")
    torch.set_num_threads(args.n_threads)
    keep_memory(args)
    text = args.data.read_text(encoding="utf-8").splitlines() if args.data else docstrings()
    sentences = [line for line in text if line.strip()]
    sentences = sentences[: 20 if args.quick else N_SENTENCES[case]]
    try:
        folder = find_model("minilm")
        encoder = SentenceEncoder.load(folder)
    except UserError as error:
        sys.exit(str(error))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def their_vectors(texts: Sequence[str], by_length: bool) -> ndarray:
        rows = tokenizer(texts, truncation=True, max_length=encoder.max_length)
        lengths = [len(row) for row in rows["input_ids"]]
        order = np.argsort(-np.array(lengths), kind="stable")
        groups: Iterable[ndarray] = np.split(order, range(32, len(order), 32))
        vectors = np.empty((len(texts), encoder.width), np.float32)
        with torch.inference_mode():
            for group in batches(lengths) if by_length else groups:
                part = {name: [values[n] for n in group] for name, values in rows.items()}
                batch = tokenizer.pad(part, return_tensors="pt")
                hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
                mean = (hidden * mask).sum(1) / mask.sum(1)
                vectors[group] = torch.nn.functional.normalize(mean).numpy()
        return vectors

    if np.abs(encoder.encode(sentences) - their_vectors(sentences, False)).max() > 1e-5:
        sys.exit("the vectors differ")
    each = [[sentence] for sentence in sentences] if case == "one" else [sentences]
    times = take_turns(
        {
            OURS: lambda: timed(lambda: [encoder.encode(texts) for texts in each])[0],
            "transformers": lambda: timed(lambda: [their_vectors(t, False) for t in each])[0],
            "transformers, our batches": lambda: timed(
                lambda: [their_vectors(t, True) for t in each]
            )[0],
        },
        args.rounds,
    )
    label = f"{len(sentences):,} sentences{' one by one' if case == 'one' else ''}"
    per_sentence = {who: (t / len(sentences)).tolist() for who, t in times.items()}
    return [Row(label, "a sentence", "s", per_sentence)]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="sentences, one a line")


if __name__ == "__main__":
    main(__doc__, CASES, measure, rounds=3, options=add_options)

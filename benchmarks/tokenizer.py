"""Time the training of a byte-pair encoding here, and with Hugging Face's trainer in Rust.

Both get the same text, cut by GPT-2's pattern, and the same size of the vocabulary; they take turns
in one process. They decide between equal counts differently, so the vocabularies differ a little:
what they have in common, and how well each compresses the text, says that they do the same. Then
each encodes the text: tiktoken runs ours.

    python benchmarks/tokenizer.py [--quick] [--data FILE ...] [--vocab_size N] [--json FILE]
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from timing import options, ratios, report, shown

from npgpt.errors import UserError
from npgpt.tokenizers import train_bpe
from npgpt.tokenizers.huggingface import byte_letters
from npgpt.training.data import read_text

try:
    import tokenizers
except ImportError:
    print(
        "this benchmark compares with tokenizers; install it: pip install tokenizers",
        file=sys.stderr,
    )
    sys.exit(2)

SPECIAL = "<|endoftext|>"
MIN_FREQUENCY = 2


def library(n_bytes: int) -> str:
    """Return source code of Python's library, all of it in the order of its names, up to a size."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts, size = [], 0
    for path in sorted(folder.rglob("*.py")):
        if "site-packages" in path.parts or size > n_bytes:
            continue
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:  # a test of other encodings
            continue
        size += path.stat().st_size
    return "\n".join(texts)


def their_training(text: str, vocab_size: int) -> tokenizers.Tokenizer:
    """Train with Hugging Face's trainer; the text goes in by lines, which it works on in parallel.

    A line break begins the line after it, so that no piece of GPT-2's pattern is cut.
    """
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=MIN_FREQUENCY, special_tokens=[SPECIAL],
        initial_alphabet=byte_level.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(whole_pieces(text), trainer)
    return tokenizer


def whole_pieces(text: str, length: int = 10_000) -> list[str]:
    """Cut a text where GPT-2's pattern always does: before white space that follows something."""
    parts, start = [], 0
    while start < len(text):
        end = start + length
        while end < len(text) and not (text[end] == "\n" and not text[end - 1].isspace()):
            end += 1
        parts.append(text[start:end])
        start = end
    return parts


def timed(function: Callable, *args: Any, **options: Any) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function(*args, **options)
    return time.perf_counter() - start, result


def measure(name: str, text: str, vocab_size: int, repetitions: int) -> dict[str, Any]:
    """Return what was measured: medians, and what the ratios of each round spread over."""
    rounds = []
    for _ in range(repetitions):
        ours_s, ours = timed(train_bpe, text, vocab_size, min_frequency=MIN_FREQUENCY)
        theirs_s, theirs = timed(their_training, text, vocab_size)
        our_encoding_s, ids = timed(ours.encode, text)
        their_encoding_s, encoded = timed(theirs.encode_batch, whole_pieces(text))
        rounds.append((ours_s, theirs_s, our_encoding_s, their_encoding_s))
    letters = byte_letters()
    spelled = {"".join(letters[byte] for byte in token) for token in ours.ranks}
    n_bytes = len(text.encode())
    columns = np.array(rounds).T
    ours_s, theirs_s, our_encoding_s, their_encoding_s = (float(np.median(c)) for c in columns)
    return {
        "text": name,
        "megabytes": n_bytes / 1e6,
        "vocab_size": vocab_size,
        "ours_s": ours_s,
        "theirs_s": theirs_s,
        **ratios(columns[0], columns[1]),
        "common": len(spelled & theirs.get_vocab().keys()) / len(spelled),
        "our_bytes_per_token": n_bytes / ids.size,
        "their_bytes_per_token": n_bytes / sum(len(part.ids) for part in encoded),
        "our_encoding_mb_s": n_bytes / 1e6 / our_encoding_s,
        "their_encoding_mb_s": n_bytes / 1e6 / their_encoding_s,
    }


def table(row: dict[str, Any]) -> Table:
    title = f"{row['text']}, {row['megabytes']:.1f} MB, {row['vocab_size']:,} tokens"
    out = Table(title=title, box=box.SIMPLE_HEAD)
    out.add_column("median", no_wrap=True)
    for heading in ("ours", "theirs", "ours/theirs (10-90 %)"):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_row("training, s", f"{row['ours_s']:.1f}", f"{row['theirs_s']:.1f}", shown(row))
    out.add_row(
        "encoding, MB/s", f"{row['our_encoding_mb_s']:.1f}", f"{row['their_encoding_mb_s']:.1f}"
    )
    out.add_row(
        "bytes to a token",
        f"{row['our_bytes_per_token']:.3f}",
        f"{row['their_bytes_per_token']:.3f}",
    )
    out.add_row("tokens in common", f"{row['common']:.1%}")
    return out


def main() -> None:
    parser = options("Time the training of a tokenizer.", "1 MB, once")
    parser.add_argument("--data", nargs="+", help="texts; if not given, Python's library")
    parser.add_argument("--megabytes", type=float, default=10, help="how much of the text")
    parser.add_argument("--vocab_size", type=int, default=8192)
    args = parser.parse_args()

    n_bytes = int(1e6 * (1 if args.quick else args.megabytes))
    try:
        text = read_text(tuple(args.data))[0] if args.data else library(n_bytes)
    except UserError as error:
        sys.exit(str(error))
    text = text.encode()[:n_bytes].decode(errors="ignore")
    name = "data" if args.data else "library"
    row = measure(name, text, args.vocab_size, 1 if args.quick else 3)

    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("tokenizers", "tiktoken", "regex")
    )
    note = f"Below 1 is faster; threads: ours 1, theirs up to {os.cpu_count()}; {versions}"
    report([table(row)], note, [row], args.json)


if __name__ == "__main__":
    main()

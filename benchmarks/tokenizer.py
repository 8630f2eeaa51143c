"""Time the training of a byte-pair encoding here, and with Hugging Face's trainer in Rust.

Both get the same text, cut by GPT-2's pattern, and the same size of the vocabulary. They decide
between equal counts differently, so the vocabularies differ a little: the tokens that they have in
common, and the bytes of text to a token, show that both do the same. Then each encodes the text;
tiktoken encodes with ours. We train on one thread, Hugging Face's trainer on all.

    python benchmarks/tokenizer.py [--quick] [--data FILE ...] [--vocab_size N] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import OURS, Row, main, need, take_turns, timed

from npgpt.errors import UserError
from npgpt.tokenizers import train_bpe
from npgpt.tokenizers.huggingface import byte_letters
from npgpt.training.data import read_text

tokenizers = need("tokenizers")
THEIRS = "tokenizers"
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


def their_training(text: str, vocab_size: int) -> Any:
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


def measure(case: str, args: argparse.Namespace) -> list[Row]:
    """Return the rows of a text: seconds to train and to encode, and how well both compress it."""
    os.environ["RAYON_NUM_THREADS"] = str(args.n_threads)  # Hugging Face's, which start later
    n_bytes = int(1e6 * (1 if args.quick else args.megabytes))
    try:
        text = read_text(tuple(args.data))[0] if args.data else library(n_bytes)
    except UserError as error:
        sys.exit(str(error))
    text = text.encode()[:n_bytes].decode(errors="ignore")
    trained = {}

    def train(who: str, trainer: Callable) -> float:
        seconds, trained[who] = timed(trainer, text, args.vocab_size)
        return seconds

    pieces = whole_pieces(text)
    training = take_turns(
        {
            OURS: partial(train, OURS, partial(train_bpe, min_frequency=MIN_FREQUENCY)),
            THEIRS: partial(train, THEIRS, their_training),
        },
        args.rounds,
    )
    ours, theirs = trained[OURS], trained[THEIRS]
    encoding = take_turns(
        {
            OURS: lambda: timed(ours.encode, text)[0],
            THEIRS: lambda: timed(theirs.encode_batch, pieces)[0],
        },
        args.rounds,
    )
    n_tokens = {
        OURS: ours.encode(text).size,
        THEIRS: sum(len(part.ids) for part in theirs.encode_batch(pieces)),
    }
    letters = byte_letters()
    spelled = {"".join(letters[byte] for byte in token) for token in ours.ranks}
    common = len(spelled & theirs.get_vocab().keys()) / len(spelled)
    size = len(text.encode())
    label = f"{'data' if args.data else case}, {size / 1e6:.1f} MB, {args.vocab_size:,} tokens"
    return [
        Row(label, "training", "s", {who: t.tolist() for who, t in training.items()}),
        Row(label, "encoding", "s", {who: t.tolist() for who, t in encoding.items()}),
        Row(label, "text to a token", "B", {who: [size / n] for who, n in n_tokens.items()}),
        Row(label, "share of tokens in common", "", {OURS: [common]}),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", help="texts; if not given, Python's library")
    parser.add_argument("--megabytes", type=float, default=10, help="how much of the text")
    parser.add_argument("--vocab_size", type=int, default=8192)


if __name__ == "__main__":
    main(__doc__, ["library"], measure, rounds=1, options=add_options)

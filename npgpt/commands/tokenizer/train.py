"""``npgpt tokenizer train``: train a byte-pair encoding, or WordPiece, on a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from autograd.console import Console
from autograd.files import write_text
from autograd.schema import FileName, Range
from npgpt.errors import UserError
from npgpt.options import check_file, parse, quoted
from npgpt.say import say
from npgpt.tokenizers import (
    BPETokenizer,
    WordPieceTokenizer,
    train_bpe,
    train_wordpiece,
    write_tiktoken,
)
from npgpt.tokenizers.base import MOST_IDS
from npgpt.tokenizers.bpe import PATTERN
from npgpt.tokenizers.training import END_OF_TEXT
from npgpt.training.data import read_text


@dataclass
class Options:
    """Train a tokenizer on a text."""

    kind: Literal["bpe", "wordpiece"] = "bpe"
    """bpe is a byte-pair encoding, as GPT has; wordpiece is BERT's kind, in lower case."""
    vocab_size: Annotated[int, Range(1, MOST_IDS)] = 8192
    """The number of tokens: 256 bytes (of wordpiece the characters), the merges, and the special
    tokens."""
    data: tuple[FileName, ...] = ()
    """Files, folders or patterns of text; if not given, Python's own library."""
    out: FileName = ""
    """The file to write: .tiktoken, or vocab.txt for wordpiece; if not given, bpeN.tiktoken or
    wordpieceN-vocab.txt in this folder, N the size."""
    pattern: str = PATTERN
    """A regular expression that cuts the text into pieces; a token never crosses a cut. Of bpe."""
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """Tokens that are never split or merged, such as the mark at the end of a document. Of bpe:
    wordpiece has BERT's."""
    min_frequency: Annotated[int, Range(1)] = 2
    """How often a pair must occur to become a token."""
    overwrite: bool = False
    """Replace --out."""


def run(args: list[str]) -> int:
    """Train the tokenizer, write the tokenizer, and print how well it compresses the text."""
    options = parse(Options, args, "tokenizer train")
    is_wordpiece = options.kind == "wordpiece"
    ending = "vocab.txt" if is_wordpiece else ".tiktoken"
    path = Path(options.out or f"{options.kind}{options.vocab_size}{'-' * is_wordpiece}{ending}")
    if not path.name.endswith(ending):
        raise UserError(f"--out {path} must end in {ending}")
    if is_wordpiece and (options.pattern, options.special_tokens) != (PATTERN, (END_OF_TEXT,)):
        raise UserError(
            "--kind wordpiece cuts a text into words and has BERT's special tokens: leave out "
            "--pattern and --special_tokens"
        )
    check_file("--out", path)
    for file in (path,) if is_wordpiece else (path, path.with_suffix(".json")):
        if file.exists() and not options.overwrite:
            raise UserError(f"{file} exists; replace it with --overwrite, or give another --out")
    text, _ = read_text(options.data)
    start = time.monotonic()
    tokenizer: WordPieceTokenizer | BPETokenizer
    with _progress(options.vocab_size) as progress:
        common: dict[str, Any] = dict(min_frequency=options.min_frequency, progress=progress)
        if is_wordpiece:
            tokenizer = train_wordpiece(text, options.vocab_size, **common)
        else:
            tokenizer = train_bpe(
                text, options.vocab_size, pattern=options.pattern, name=path.stem,
                special_tokens=options.special_tokens, **common,
            )  # fmt: skip
    seconds = time.monotonic() - start
    if isinstance(tokenizer, WordPieceTokenizer):
        write_text(path, "".join(f"{token}\n" for token in tokenizer.vocab))
    else:
        write_tiktoken(tokenizer, path)
    size, length = len(text.encode()), tokenizer.encode(text, disallowed_special=()).size
    say(
        f"{path}: {tokenizer.n_vocab:,} tokens, of {size / 1e6:.1f} MB in {seconds:.1f} s; "
        f"a token has {size / length:.2f} bytes of it on average"
    )
    if tokenizer.n_vocab < options.vocab_size:
        print(f"fewer than asked for: no other pair occurs {options.min_frequency} times")
    task = "--task masked " if is_wordpiece else ""
    say(f"to train a model with it: npgpt train {task}--tokenizer {quoted(str(path))}")
    return 0


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show the number of tokens on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("tokens"), MofNCompleteColumn(), BarColumn(None), TimeElapsedColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("tokens", total=total)
        yield lambda n: progress.update(task, completed=n)

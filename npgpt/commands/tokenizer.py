"""The command line of tokenizers: ``npgpt tokenizer add``, ``train``, ``show`` and ``list``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.text import Text

from autograd.console import Console
from autograd.escape import shown
from autograd.reading import read_stream
from autograd.schema import FileName, Range, nearest
from npgpt.errors import UserError
from npgpt.options import Argument, check_file, overview, parse, quoted
from npgpt.say import say
from npgpt.tokenizers import make_tokenizer, train_bpe, write_tiktoken
from npgpt.tokenizers.base import MOST_IDS
from npgpt.tokenizers.bpe import PATTERN, BPETokenizer
from npgpt.tokenizers.gpt1 import GPT1Tokenizer
from npgpt.tokenizers.store import KNOWN, add, encoding, folder, gpt1_files
from npgpt.tokenizers.training import END_OF_TEXT

USAGE = """\
npgpt tokenizer: text to token ids, and back

  npgpt tokenizer list
      The tokenizers that are here, and those that are known.
  npgpt tokenizer add PATH ... [--name NAME]
      Keep one: encoder.json and vocab.bpe, vocab.json and merges.txt, a .tiktoken file.
  npgpt tokenizer train --vocab_size N [--data FILE|DIR|GLOB ...] [--out FILE]
      Train one on a text. Without --data: on the source code of Python's own library.
  npgpt tokenizer show TEXT [--tokenizer NAME|FILE] [--steps]
      Print the tokens of a text; with --steps every merge. TEXT - is standard input.

NAME or FILE is also what npgpt train --tokenizer takes.
"""
COLOURS = ("green", "cyan", "yellow", "magenta", "blue", "red")


def main(args: list[str]) -> int:
    """``npgpt tokenizer``."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": show_list, "add": add_files, "train": train, "show": show,
    }  # fmt: skip
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview(USAGE))
        return 0
    if args[0] not in commands:
        raise UserError(
            f"unknown command {args[0]!r} of npgpt tokenizer{nearest(args[0], [*commands])}"
        )
    return commands[args[0]](args[1:])


# ---- list and add


@dataclass
class ListOptions:
    """Show the tokenizers that are here, and those that are known."""


def show_list(args: list[str]) -> int:
    """``npgpt tokenizer list``."""
    parse(ListOptions, args, "tokenizer list")
    print("char           of the training text")
    print("byte           256 tokens")
    for name, files in KNOWN.items():
        try:
            n = len(gpt1_files()[0]) if name == "gpt1" else _size(encoding(name))
            print(f"{name:13}  {n:,} tokens")
        except UserError:
            print(f"{name:13}  not here; npgpt tokenizer add {' '.join(files)}")
    for path in sorted(folder().glob("*.json")):
        try:
            say(f"{path.stem:13}  {make_tokenizer(path.stem).n_vocab:,} tokens")
        except UserError as error:
            say(f"{path.stem:13}  {error}")
    print()
    say(f"Those that were added are in {folder()}")
    return 0


def _size(values: dict) -> int:
    return max(*values["ranks"].values(), *values["special_tokens"].values()) + 1


@dataclass
class AddOptions:
    """Keep a tokenizer in our own folder."""

    paths: Annotated[tuple[FileName, ...], Argument("PATH ...")] = ()
    """Its files, or a folder of them."""
    name: str = ""
    """What to call it; the name of its file or folder if not given."""


def add_files(args: list[str]) -> int:
    """``npgpt tokenizer add``."""
    options = parse(AddOptions, args, "tokenizer add")
    if not options.paths:
        raise UserError("name what to add, as in: npgpt tokenizer add encoder.json vocab.bpe")
    for name, tokenizer in add([Path(path) for path in options.paths], options.name).items():
        say(f"{name}: {tokenizer.n_vocab:,} tokens, in {folder()}")
    return 0


# ---- train


@dataclass
class TokenizerOptions:
    """Train a byte-pair encoding on a text."""

    vocab_size: Annotated[int, Range(1, MOST_IDS)] = 8192
    """Tokens in all: 256 bytes, merges, special tokens."""
    data: tuple[FileName, ...] = ()
    """Files, folders or patterns of text; none: Python's own library."""
    out: FileName = ""
    """The .tiktoken file to write; if empty, bpe and the size, here."""
    pattern: str = PATTERN
    """The regular expression of a piece, which no token reaches beyond."""
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """Tokens that stand for themselves, such as the end of a document."""
    min_frequency: Annotated[int, Range(1)] = 2
    """How often a pair must occur to become a token."""
    overwrite: bool = False
    """Replace --out."""


def train(args: list[str]) -> int:
    """``npgpt tokenizer train``."""
    from npgpt.training.data import read_text

    options = parse(TokenizerOptions, args, "tokenizer train")
    path = Path(options.out or f"bpe{options.vocab_size}.tiktoken")
    if path.suffix != ".tiktoken":
        raise UserError(f"--out {path} must end in .tiktoken")
    check_file("--out", path)
    for file in (path, path.with_suffix(".json")):
        if file.exists() and not options.overwrite:
            raise UserError(f"{file} exists; replace it with --overwrite, or give another --out")
    text, _ = read_text(options.data)
    start = time.monotonic()
    with _progress(options.vocab_size) as progress:
        tokenizer = train_bpe(
            text, options.vocab_size, pattern=options.pattern, name=path.stem,
            special_tokens=options.special_tokens, min_frequency=options.min_frequency,
            progress=progress,
        )  # fmt: skip
    seconds = time.monotonic() - start
    write_tiktoken(tokenizer, path)
    size, length = len(text.encode()), tokenizer.encode(text, disallowed_special=()).size
    say(
        f"{path}: {tokenizer.n_vocab:,} tokens, of {size / 1e6:.1f} MB in {seconds:.1f} s; "
        f"a token has {size / length:.2f} bytes of it on average"
    )
    if tokenizer.n_vocab < options.vocab_size:
        print(f"fewer than asked for: no other pair occurs {options.min_frequency} times")
    say(f"to train a model with it: npgpt train --tokenizer {quoted(str(path))}")
    return 0


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show tokens on standard error, in a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("tokens"), MofNCompleteColumn(), BarColumn(None), TimeElapsedColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("tokens", total=total)
        yield lambda n: progress.update(task, completed=n)


# ---- show


@dataclass
class ShowOptions:
    """Print the tokens of a text, with their ids."""

    text: Annotated[str | None, Argument("TEXT", is_text=True)] = None
    """The text; - is standard input."""
    tokenizer: FileName = "gpt2"
    """A name (see npgpt tokenizer list), a file, or a folder such as a run's."""
    steps: bool = False
    """Show every merge."""


def show(args: list[str]) -> int:
    """``npgpt tokenizer show``."""
    options = parse(ShowOptions, args, "tokenizer show")
    text = options.text
    if text is None:
        raise UserError(
            'give a text first, as in: npgpt tokenizer show "Hello, world"; '
            "one that begins with -- comes through a pipe, as -"
        )
    if text == "-":
        try:
            text = read_stream(sys.stdin.buffer, "standard input").decode()
        except UnicodeDecodeError:
            raise UserError("standard input is not UTF-8") from None
    tokenizer = make_tokenizer(options.tokenizer, text)
    console = Console()
    if options.steps:
        if not isinstance(tokenizer, BPETokenizer | GPT1Tokenizer):
            raise UserError(f"the tokenizer {options.tokenizer} merges nothing: it has no --steps")
        for line in merge_lines(tokenizer, text):
            console.print(line, soft_wrap=True)
        return 0
    ids = tokenizer.encode(text, allowed_special="all").tolist()
    pieces = [(i, visible(tokenizer.tokens[i])) for i in ids]
    if console.is_terminal:
        line = Text()
        for k, (i, piece) in enumerate(pieces):
            line.append(piece, f"black on {COLOURS[k % len(COLOURS)]}").append(f"{i} ", "dim")
        console.print(line)
        console.print(f"{len(text):,} characters, {len(ids):,} tokens", style="dim")
    else:
        for i, piece in pieces:
            print(f"{i}\t{piece}")
    return 0


def merge_lines(tokenizer: Any, text: str) -> Iterator[Text]:
    """Yield a line for each merge in each different piece of a text, with what it made."""
    ids = tokenizer.ranks if isinstance(tokenizer, BPETokenizer) else tokenizer.vocab
    for piece in dict.fromkeys(map(tuple, tokenizer.pieces(text))):
        yield Text(" ".join(map(visible, piece)))
        parts = list(piece)
        for merged in tokenizer.merge_steps(piece):
            made = next(part for part in merged if merged.count(part) > parts.count(part))
            line = Text("  ")
            for part in merged:
                line.append(visible(part), "bold green" if part == made else "").append(" ")
            yield line.append(f"  {visible(made)} = {ids[made]}", "dim")
            parts = merged


def visible(token: str | bytes) -> str:
    """Return a token with all that cannot be seen in a visible form: a space is ``·``."""
    text = token if isinstance(token, str) else token.decode("utf-8", "backslashreplace")
    return shown(text).replace(" ", "·")

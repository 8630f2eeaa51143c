"""``npgpt embed``: vectors of sentences, how similar they are, and the nearest ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

from numpy import ndarray

from autograd.files import write_text
from autograd.reading import LARGE, read_text
from autograd.schema import FileName
from npgpt.commands.generate import is_piped
from npgpt.diagnostics import page
from npgpt.errors import UserError
from npgpt.models.config import Size
from npgpt.options import Argument, NewFile, parse
from npgpt.say import say
from npgpt.sentences import SentenceEncoder, nearest, similarities
from npgpt.training.memory import keep_freed_memory

DEFAULT = "minilm"
BLOCK = 2048  # lines that are encoded at once: their vectors are printed before the next are read
MOST_SHOWN, MOST_DRAWN = 20, 200  # sentences of a matrix that is printed, and of one that is drawn


@dataclass
class Options:
    """Turn sentences into vectors.

    Several sentences: how similar each is to each other, as a cosine from -1 to 1. With --nearest:
    the lines that are nearest to a sentence. With --json: the vectors themselves. Without any
    sentence or --file, the lines of standard input are the sentences.
    """

    texts: Annotated[tuple[str, ...], Argument("TEXT ...")] = ()
    """The sentences."""
    model: FileName = DEFAULT
    """A folder with a model, a name (see npgpt models list), or a name on the Hugging Face hub."""
    file: FileName = ""
    """A file of sentences, one a line."""
    nearest: str = ""
    """Show the sentences that are nearest to this one."""
    top: Size = 5
    """With --nearest: how many."""
    json: bool = False
    """Print the vector of each sentence as a list of numbers, one a line."""
    html: NewFile = ""
    """A file to write: the picture of the matrix of similarities, as a web page."""


def run(args: list[str]) -> int:
    """Print what the options ask for; return 130 after Ctrl-C."""
    options = parse(Options, args, "embed")
    if options.json and (options.nearest or options.html):
        raise UserError("--json prints vectors: leave out --nearest and --html")
    if options.nearest and options.html:
        raise UserError("--html draws how similar all sentences are: leave out --nearest")
    keep_freed_memory()
    lines = read_sentences("embed", options.texts, options.file)
    encoder = SentenceEncoder.load(options.model)
    try:
        if options.json:
            print_vectors(encoder, lines)
        elif options.nearest:
            print_nearest(encoder, options, [line for line in lines if line.strip()])
        else:
            print_matrix(encoder, options, [line for line in lines if line.strip()])
    except KeyboardInterrupt:
        return 130
    return 0


def read_sentences(command: str, texts: Sequence[str], file: str) -> Iterator[str]:
    """Return the sentences: those of the command line, or the lines of a file as they come."""
    if texts and file:
        raise UserError("give the sentences, or --file with one a line, not both")
    if texts:
        return iter(texts)
    if file:
        text = read_text(file, LARGE, pipes=True)
        if not text:
            raise UserError(f"there is no sentence: {file} is empty")
        return (line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))
    if not is_piped():
        raise UserError(
            f'there is no sentence; give some, as in: npgpt {command} "A cat." "A dog."'
        )
    return read_stdin()


def read_stdin() -> Iterator[str]:
    """Yield the lines of standard input as they come, the empty ones, too."""
    number = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(f"line {number} of standard input is not UTF-8") from None
    if not number:
        raise UserError("there is no sentence: standard input is empty")


def print_vectors(encoder: SentenceEncoder, lines: Iterator[str]) -> None:
    """Print a list of numbers for each sentence, one a line, an empty sentence included."""
    while block := list(islice(lines, BLOCK)):
        for vector in encoder.encode(block):
            print(json.dumps([float(str(x)) for x in vector]))  # the digits of a float32
        sys.stdout.flush()


def print_nearest(encoder: SentenceEncoder, options: Options, sentences: list[str]) -> None:
    """Print the sentences that are nearest to that of the option, with their cosines."""
    if not sentences:
        raise UserError("there is no sentence to compare with; give some, or --file FILE")
    vectors = encoder.encode([options.nearest, *sentences])
    numbers, cosines = nearest(vectors[0], vectors[1:], options.top)
    for number, cosine in zip(numbers, cosines, strict=True):
        say(f"{cosine:6.3f}  {sentences[number]}")


def print_matrix(encoder: SentenceEncoder, options: Options, sentences: list[str]) -> None:
    """Print how similar each sentence is to each other, and draw it if the option says so."""
    n = len(sentences)
    if n < 2:
        raise UserError(
            "one sentence has nothing that it could be compared with: give two, or --json for its "
            "vector"
        )
    most = MOST_DRAWN if options.html else MOST_SHOWN
    if n > most:
        raise UserError(
            f"there are {n:,} sentences, and a matrix {'is drawn' if options.html else 'is shown'} "
            f"of {most} at most; --json prints their vectors, and --nearest TEXT the nearest"
        )
    cosines = similarities(encoder.encode(sentences))
    if n <= MOST_SHOWN:
        show_matrix(sentences, cosines)
    if options.html:
        title = "How similar sentences are"
        picture = page.heat_map(cosines, sentences, sentences, title)
        about = "The cosine of the vectors of two sentences: 1 for the same direction, 0 for none."
        write_text(Path(options.html), page.page(title, page.note(about), picture))


def show_matrix(sentences: list[str], cosines: ndarray) -> None:
    """Print a matrix with a number for each sentence, and the sentence behind its row."""
    say("".join(f"{number:>6}" for number in range(1, len(sentences) + 1)))
    for number, (sentence, row) in enumerate(zip(sentences, cosines, strict=True), 1):
        say("".join(f"{cosine:6.2f}" for cosine in row) + f"  {number:>2} {sentence}")

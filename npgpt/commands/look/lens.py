"""``npgpt look lens``: what each layer would predict."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from npgpt.commands.look import _subject
from npgpt.commands.look._subject import (
    Subject,
    bar,
    find_index,
    percent,
    print_json,
    shorten,
    write_page,
)
from npgpt.diagnostics import page
from npgpt.diagnostics.inside import Predictions, logit_lens
from npgpt.options import parse


@dataclass
class Options(_subject.Options):
    """Show what each layer would predict, if it were the last one: the logit lens.

    The last norm and the head read the hidden states after each layer. The terminal shows one
    position, and a page shows all positions.
    """

    position: int = -1
    """The position of the text after which the next token is predicted; -1 is the last."""


def run(args: list[str]) -> int:
    """Show the predictions of all layers."""
    options = parse(Options, args, "look lens")
    subject = _subject.load_subject(options)
    tokens = subject.tokens
    n = len(tokens)
    t = find_index("--position", options.position, n, f"the text has {n} tokens")
    found, names = logit_lens(subject.model, subject.ids), names_of(subject)
    if options.json:
        print_json(
            tokens=subject.texts, ids=subject.ids, best=found.best,
            probabilities=found.probabilities, ranks=found.ranks,
        )  # fmt: skip
    else:
        print_lens(subject, found, t)
    if options.html:
        cells = [[shorten(subject.name(i), 12) for i in line] for line in found.best[..., 0]]
        titles = [
            [
                f"layer {name}, after {tokens[i]}: {subject.describe(best, p)}; what the model "
                f"predicts has rank {rank}"
                for i, (best, p, rank) in enumerate(zip(*line, strict=True))
            ]
            for name, line in zip(
                names, zip(found.best, found.probabilities, found.ranks, strict=True), strict=True
            )
        ]
        write_page(
            options,
            "Logit lens",
            page.note(
                "Each row is a layer, the last layer on top; each column is a token that was "
                "read. A cell has the token that the layer would predict next. The stronger its "
                "colour, the more probable it is. The pointer shows more."
            ),
            page.colour_table(
                names[::-1], tokens, cells[::-1], found.probabilities[::-1, :, 0], titles[::-1]
            ),
        )
    return 0


def names_of(subject: Subject) -> list[str]:
    """Return the names of the layers, of which the first is the embedding."""
    return ["embed", *map(str, range(subject.model.config.n_layer))]


def print_lens(subject: Subject, found: Predictions, t: int) -> None:
    """Print what each layer would predict after a position."""
    console, tokens = subject.console, subject.tokens
    final = subject.name(found.best[-1, t, 0])
    console.print(Text(f"after {t} {tokens[t]}: the model predicts {final}", "bold"))
    console.print(Text(f"layer  {'its best token':<16}       {'':8}  {'rank of that':>12}", "dim"))
    for layer, name in enumerate(names_of(subject)):
        best, p = found.best[layer, t], found.probabilities[layer, t]
        drawn = bar(p[0], 8)
        line = Text(f"{name:>5}  {shorten(subject.name(best[0]), 16):<16} {percent(p[0]):>6}")
        line.append(" ").append(drawn).append(" " * (8 - len(drawn)))
        line.append(f"  {found.ranks[layer, t]:>10,}  ")
        others = subject.describe(best[1:3], p[1:3])
        if (room := console.width - len(line)) > 10:
            line.append(shorten(others, room), "dim")
        console.print(line, soft_wrap=True)
    console.print(Text(f"rank of that: the place of {final}; 1 is the layer's best token", "dim"))

"""``npgpt look surprise``: how much each token surprises the model."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from npgpt.commands.look import _subject
from npgpt.commands.look._subject import bar, labels, print_json, shorten, write_page
from npgpt.diagnostics import page
from npgpt.diagnostics.inside import surprises
from npgpt.options import parse


@dataclass
class Options(_subject.Options):
    """Show how much each token surprises the model: minus the logarithm of its probability.

    The unit is the nat. The mean of the surprises is the loss.
    """


def run(args: list[str]) -> int:
    """Show the surprises."""
    options = parse(Options, args, "look surprise")
    subject = _subject.load_subject(options, n_at_least=2)
    found, tokens = surprises(subject.model, subject.ids), subject.tokens
    if options.json:
        print_json(
            tokens=subject.texts, ids=subject.ids, surprises=found.surprises, ranks=found.ranks,
            best=found.best, probabilities=found.probabilities,
        )  # fmt: skip
    else:
        console, widest = subject.console, max(1.0, found.surprises.max())
        width = console.width
        name, room = (16, 8) if width < 80 else (20, 16)
        console.print(Text(f"{'token':<{name}}  nats  {'':{room}}  rank  expected", "dim"))
        console.print(Text(labels(tokens, name)[0]))
        for t, label in enumerate(labels(tokens, name)[1:]):
            line = Text(f"{label}  {found.surprises[t]:4.1f}  ")
            drawn = bar(found.surprises[t] / widest, room)
            line.append(drawn).append(" " * (room - len(drawn)))
            line.append(f"  {found.ranks[t]:>4}  ")
            expected = subject.describe(found.best[t, :3], found.probabilities[t, :3])
            line.append(shorten(expected, width - len(line)), "dim")
            console.print(line, soft_wrap=True)
        mean = found.surprises.mean()
        console.print(Text(f"mean {mean:.4f} nats, the loss of the text", "bold"))
    if options.html:
        titles = ["the first token, which nothing predicts"] + [
            f"{found.surprises[t]:.2f} nats, rank {found.ranks[t]}; expected: "
            + subject.describe(found.best[t], found.probabilities[t])
            for t in range(len(tokens) - 1)
        ]
        shares = [0.0, *(found.surprises / max(10, found.surprises.max()))]
        write_page(
            options,
            "Surprise per token",
            page.note(
                "The stronger the colour of a token, the less the model expected it. The pointer "
                "shows what the model expected instead. The mean is "
                f"{found.surprises.mean():.4f} nats."
            ),
            page.colour_text(subject.texts, shares, titles),
        )
    return 0

"""``npgpt why``: the history of one weight, and the batch that moved it most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

import autograd
from autograd.console import Console
from autograd.schema import FileName
from npgpt.diagnostics.axis_names import name_axes
from npgpt.diagnostics.pixels import beside
from npgpt.errors import UserError
from npgpt.models.config import Steps
from npgpt.options import parse, quoted
from npgpt.training.follow import History, Moved, by_pixel, find_movers, find_weight, follow
from npgpt.training.images import Images
from npgpt.training.replay import Replay
from npgpt.training.run import Run

MOST_ROWS = 20  # of a history that is printed
MOST_SEQUENCES = 5
BEFORE = 8  # tokens that are shown before the one whose loss adds most


@dataclass
class Options:
    """Follow one weight through the updates of a run, and find the batch that moved it most."""

    run: FileName = ""
    """A run folder; its updates are computed again."""
    param: str = ""
    """The weight, as in 'transformer.h.0.attn.c_attn.weight[3,17]'."""
    from_: Steps = 0
    """The first update to follow."""
    to: Steps | None = None
    """The last update to follow; if not given, the last that was saved."""
    force: bool = False
    """Replay even if the threads, kernels or libraries differ from those of the run."""


def run(args: list[str]) -> int:
    """Print the history of a weight."""
    why(parse(Options, args, "why"), Console())
    return 0


def why(options: Options, console: Console) -> None:
    """Print the history of a weight; see `Options`."""
    if not options.run or not options.param:
        raise UserError("give a run and a weight: --run DIR --param 'NAME[INDEX]'")
    first, last = options.from_, options.to

    def say(text: Any = "", style: str = "") -> None:
        console.print(text, style=style, soft_wrap=isinstance(text, str))

    replay = Replay(options.run, first, last, force=options.force)
    name, index = find_weight(replay.run, options.param)
    say(f"{name}{list(index)}", "bold")
    say(f"updates {first} to {replay.last} of {options.run}, replayed from {replay.origin}")
    for note in replay.notes:
        say(f"note: {note}", "yellow")
    history = follow(replay, name, index, first)
    moves = history.moves
    is_still = not any(move.gradient for move in moves)
    if not is_still or history.before:
        say()
        say(_table(history))
        say()
    if is_still:
        say("Its gradient is 0 in each of them: none of their batches has moved it.")
        return
    if clip := replay.run.config.grad_clip:
        n = sum(move.gradient != move.clipped for move in moves)
        say(f"gradient: before it was clipped to the norm {clip:g}, as {n} of {len(moves)} were")
    say(
        "update: what the step changed; batch: what its batch changed, then and, through\n"
        "Adam's running mean of the gradients, in the updates after it"
    )
    most = max(moves, key=lambda move: abs(move.moved))
    say(f"\nThe batch of step {most.step} moved it most, by {most.moved:+.2e} in all.")
    replay = Replay(options.run, most.step, most.step, force=options.force)
    replay.seek(most.step)
    say("Its gradient is the sum over these sequences:")
    movers = find_movers(replay.run, name, index)
    say(table_of_movers(replay.run, movers))
    if isinstance(replay.run.task, Images):
        say(_pixels(replay.run, name, index, movers[0].number))
    if text := _explain(replay.run, name, index, console.width):
        say(f"\n{text}")
    say(f"\nTo walk through it: npgpt step --run {quoted(options.run)} --at {most.step}")


def _table(history: History) -> Table:
    """Return a history as a table; of a long history some rows, with the largest values."""
    moves = history.moves
    notes: dict[int, str] = {}
    for title, key in (("update", "change"), ("gradient", "gradient"), ("batch", "moved")):
        sizes = [abs(getattr(move, key)) for move in moves]
        notes[sizes.index(max(sizes))] = f"largest {title}"
    rows = list(range(len(moves)))
    if len(moves) > MOST_ROWS:
        evenly = np.linspace(0, len(moves) - 1, MOST_ROWS - len(notes)).round().astype(int)
        rows = sorted({*evenly.tolist(), *notes})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("step", "value", "gradient", "update", "batch", "loss"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    for i in rows:
        move = moves[i]
        signed = map(_signed, (move.gradient, move.change, move.moved))
        table.add_row(
            str(move.step), f"{move.value:.7f}", *signed, f"{move.loss:.4f}", notes.get(i, "")
        )
    end = moves[-1]
    for share, what in ((history.before, "batches before"), (history.decay, "weight decay")):
        if share:
            table.add_row("", "", "", "", _signed(share), "", what)
    way = end.value + end.change - moves[0].value
    value = f"{end.value + end.change:.7f}"
    table.add_row(str(end.step + 1), value, "", _signed(way), _signed(way), "", "in all")
    return table


def table_of_movers(run: Run, movers: list[Moved]) -> Table:
    """Return a table of the sequences that add most to a weight's gradient, the largest first.

    Below the text of a sequence stands where the data have it, and the token whose loss adds most.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right", no_wrap=True, min_width=len("+1.00e-01"))
    table.add_column(no_wrap=True, overflow="ellipsis")
    for moved in movers[:MOST_SEQUENCES]:
        table.add_row(_signed(moved.adds), Text(repr(moved.sequence.text)))
        for about in filter(None, (moved.sequence.place, _largest(run, moved))):
            table.add_row("", Text(about, "dim"))
    if others := movers[MOST_SEQUENCES:]:
        total = _signed(sum(moved.adds for moved in others))
        table.add_row(total, f"the {len(others)} others")
    return table


def _largest(run: Run, moved: Moved) -> str:
    """Say which token's loss adds most to the part of a sequence, and after which text."""
    if not moved.shares.any():
        return ""
    t, tokens = int(np.abs(moved.shares).argmax()), moved.sequence.tokens
    decode = run.tokenizer.decode
    after = f" after {decode(tokens[max(0, t - BEFORE) : t])!r}" if t else ""
    return f"{moved.shares[t]:+.2e} by {decode(tokens[t : t + 1])!r}{after}"


def _explain(run: Run, name: str, index: tuple[int, ...], width: int) -> str:
    """Return the stepper's answer to ``why``, of the batch of this step with the largest gradient.

    An update adds up the gradients of `gradient_accumulation_steps` batches. The passes of a task
    that computes its loss outside the model's tape have no answer, and the text is empty.
    """
    largest, text = 0.0, ""

    def take(trace: autograd.stepper.Trace) -> None:
        nonlocal largest, text
        name_axes(trace.recording, run.model, run.tokenizer)
        number = trace.recording.number(name)
        gradient = trace.cotangent_of(number)
        if gradient is not None and (size := abs(float(gradient[index]))) > largest:
            largest, text = size, trace.why(number, index, width)

    with autograd.stepper.stopping_at_backward(take):
        run.backward()
    n = run.config.gradient_accumulation_steps
    return f"Of the {n} batches, the one with the largest part:\n{text}" if n > 1 and text else text


def _texts(run: Run) -> list[str]:
    """Return the texts of the sequences of this step."""
    batches = run.task.batches(run.progress.step)
    return [text for batch in batches for text in run.task.texts(batch)]


def _pixels(run: Run, name: str, index: tuple[int, ...], n: int) -> str:
    """Return the image of a sequence of this step, and what its pixels add to the gradient."""
    image, adds = by_pixel(run, name, index, n)
    unit = 10.0 ** np.floor(np.log10(np.abs(adds).max() or 1))
    lines = "\n".join(f"  {line}" for line in beside(image, adds / unit))
    return (
        f"\nWhat the pixels of {_texts(run)[n]!r} add to its part: the derivative of this part by\n"
        f"the pixel, times the pixel, in units of {unit:.0e}\n\n{lines}"
    )


def _signed(x: float) -> Text:
    """Return a number in the colour that the stepper uses for its sign."""
    return Text(f"{x:+.2e}", "color(172)" if x > 0 else "color(68)" if x < 0 else "dim")

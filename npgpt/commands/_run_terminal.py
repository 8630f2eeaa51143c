"""The stepper's commands about an update of a run: ``batch``, and what moves a weight."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from autograd.console import Console
from autograd.stepper import Trace
from npgpt.commands._model_terminal import ModelTerminal
from npgpt.commands.why import table_of_movers
from npgpt.errors import UserError
from npgpt.training.follow import find_movers, find_weight, read_sequences
from npgpt.training.loop import Run


class RunTerminal(ModelTerminal):
    """A terminal whose pass is that of an update of a run.

    Parameters
    ----------
    trace : Trace
    model : GPT
    tokenizer : Tokenizer
    run : Run
        The run before the update.
    console : Console, optional
    """

    def __init__(
        self, trace: Trace, model: Any, tokenizer: Any, run: Run, console: Console | None = None
    ) -> None:
        super().__init__(trace, model, tokenizer, console)
        self.run_of_pass = run

    def do_batch(self, text: str) -> None:
        """List the sequences of this update, the greatest loss first, and their places."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for each in sorted(read_sequences(self.run_of_pass), key=lambda each: -each.loss):
            table.add_row(f"{each.loss:.4f}", Text(repr(each.text)))
            if each.place:
                table.add_row("", Text(each.place, "dim"))
        self.console.print(table)

    def do_why(self, text: str) -> None:
        """Show what a gradient is the sum of, largest first.  why NAME.

        why NAME         a whole gradient: by use, line and element, by token and head where
                         these are known, and the largest path to the start of the pass
        why NAME[0, 2]   one element, or a part such as NAME[5]; of one weight also the sequences
                         of the update, and where the data have them

        Of a NaN it says which op made the first one, and of a zero, which factor was 0.
        """
        super().do_why(text)
        run = self.run_of_pass
        try:
            name, index = find_weight(run, text)
        except UserError:
            return  # it is not one weight
        if self.session.levels[0].changed:
            return  # the sequences are those that were recorded
        self.print("\nthe gradient of the whole update is the sum over these sequences:")
        self.console.print(table_of_movers(run, find_movers(run, name, index)))

"""``npgpt report``: one page on a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autograd.files import write_text
from autograd.schema import FileName
from npgpt.diagnostics.report import make_report, to_html, to_markdown
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.training.run import latest_run


@dataclass
class Options:
    """Write one page on a run: data, tokenizer, model, training, evaluations, samples, cost.

    The page is written into the run's folder as report.md, and as report.html with a picture of
    the losses. If the folder has files evaluation*.json, with what npgpt eval --json printed, the
    page shows these results.
    """

    run: Annotated[FileName | None, Argument("DIR")] = None
    """The folder of the run; if not given, the latest run under out/."""


def run(args: list[str]) -> int:
    """Write the page, and print where it is."""
    options = parse(Options, args, "report")
    folder = Path(options.run) if options.run is not None else latest_run()
    sections = make_report(folder)
    title = f"The run {folder.resolve().name}"
    for name, content in (
        ("report.md", to_markdown(title, sections)),
        ("report.html", to_html(title, sections)),
    ):
        write_text(folder / name, content)
        say(f"{folder / name} is written")
    return 0

"""``npgpt report``: one page on a run, or on several."""

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
    page shows these results. Several runs, such as a pre-training and the fine-tuning that began
    from it, have one page, which is written into the folder of the last: its first tables compare
    them, and add up the cost.
    """

    runs: Annotated[tuple[FileName, ...], Argument("DIR ...")] = ()
    """The folders of the runs; if not given, the latest run under out/."""


def run(args: list[str]) -> int:
    """Write the page, and print where it is."""
    options = parse(Options, args, "report")
    folders = [Path(folder) for folder in options.runs] or [latest_run()]
    sections = make_report(*folders)
    names = [folder.resolve().name for folder in folders]
    title = f"The run{'s' if len(names) > 1 else ''} {', '.join(names)}"
    folder = folders[-1]
    for name, content in (
        ("report.md", to_markdown(title, sections)),
        ("report.html", to_html(title, sections)),
    ):
        write_text(folder / name, content)
        say(f"{folder / name} is written")
    return 0

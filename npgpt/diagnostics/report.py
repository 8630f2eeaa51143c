"""The report of a run: one page on its data, tokenizer, training, evaluations, samples and cost.

A report is made from the files in the run's folder. So it can be made at any time, also while the
run is still going on. The report of several runs, such as a pre-training and the fine-tuning after
it, begins with tables that compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autograd.reading import SMALL, read_json
from npgpt.diagnostics import info, page
from npgpt.diagnostics.info import Cost
from npgpt.errors import UserError
from npgpt.evaluation.result import Result, Table
from npgpt.say import visible
from npgpt.training.curve import loss_curve, read_losses
from npgpt.training.data import open_tokens
from npgpt.training.loop import Run
from npgpt.training.run import open_run
from npgpt.training.task import TRAIN, VALIDATION

EVALUATIONS = "evaluation*.json"  # of a run's folder: what npgpt eval --json has printed
TOKENS = 40  # of a text, which the report shows at most


@dataclass
class Section:
    """A part of a report.

    Attributes
    ----------
    title : str
    parts : list of str or Table
        Paragraphs and tables, in their order.
    text : str
        A text that keeps its lines.
    picture : str
        In place of the text on the HTML page: SVG.
    """

    title: str
    parts: list[str | Table]
    text: str = ""
    picture: str = ""


def make_report(*folders: Path) -> list[Section]:
    """Return the report of the run in a folder, or of the runs in several folders.

    Parameters
    ----------
    *folders : Path
        Several are in the order of the training: a run that begins from another one follows it.

    Raises
    ------
    UserError
        If a folder holds no run, or one of its files is damaged; if a folder is given twice.
    """
    if len(folders) == 1:
        return describe_run(open_run(folders[0]), read_evaluations(folders[0]))
    names = name_folders(folders)
    steps, sections = [], []
    for folder, name in names.items():
        run, evaluations = open_run(folder), read_evaluations(folder)
        steps.append(make_step(name, run, evaluations, names))
        sections += [
            replace(section, title=f"{name}: {section.title}")
            for section in describe_run(run, evaluations)
        ]
    return [describe_steps(steps), *sections]


def describe_run(run: Run, evaluations: list[Result]) -> list[Section]:
    """Return all sections on a run."""
    return [
        describe_data(run),
        describe_tokenizer(run),
        describe_model(run),
        describe_training(run),
        *map(describe_evaluation, evaluations),
        describe_samples(run),
        describe_cost(run),
    ]


def facts(**values: object) -> Table:
    """Return a table of names and values; commas separate the thousands of a number."""
    rows = [
        [name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)]
        for name, value in values.items()
    ]
    return Table(["", ""], rows)


def describe_data(run: Run) -> Section:
    """Return where the data come from, how much there is, and how it begins."""
    rows = []
    for name, tokens in run.task.data.items():
        _, described = open_tokens(tokens.path, run.tokenizer)
        sources = ", ".join(Path(source).name for source in described.sources[:5])
        rows.append(
            [
                name,
                sources,
                f"{described.n_characters:,}",
                f"{described.n_tokens:,}",
                described.sha256[:16],
            ]
        )
    generator = np.random.default_rng(0)
    splits = (run.task.evaluation_batch(split, generator) for split in (TRAIN, VALIDATION))
    examples = "\n".join(run.task.texts(batch)[0] for batch in splits)
    columns = ["file", "from", "characters", "tokens", "SHA-256 begins"]
    about = "An example of the training split, and one of the validation split:"
    return Section("Data", [Table(columns, rows), about], examples)


def describe_tokenizer(run: Run) -> Section:
    """Return the kind of tokenizer, and the tokens that it makes of a text."""
    tokenizer = run.tokenizer
    table = facts(
        kind=tokenizer.kind,
        vocabulary=tokenizer.n_vocab,
        special_tokens=", ".join(tokenizer.special_tokens) or "none",
    )
    ids = tokenizer.encode(run.task.prompt(), allowed_special="all")[:TOKENS]
    tokens = " ".join(visible(tokenizer.tokens[i]) for i in ids.tolist())
    return Section("Tokenizer", [table, "The tokens of a text from the data:"], tokens)


def describe_model(run: Run) -> Section:
    """Return the architecture, where its parameters are, and what a token costs."""
    config = run.config
    described = info.sections(run.model.config, config.batch_size, config.block_size, [])
    parts: list[str | Table] = [f"The training began from {config.init_from}."]
    for title, values in described.items():
        if values:
            parts.append(Table([title, ""], [*values.items()]))
    return Section("Model", parts)


def describe_training(run: Run) -> Section:
    """Return how the run was trained, and its losses."""
    config, progress = run.config, run.progress
    table = facts(
        task=config.task,
        updates=f"{progress.step:,} of {config.max_iters:,}",
        batch=f"{config.batch_size} x {config.gradient_accumulation_steps}",
        learning_rate=f"{config.learning_rate:g} to {config.min_lr:g}",
        weight_decay=config.weight_decay,
        dropout=config.dropout,
        seed=config.seed,
        best_validation_loss=f"{progress.best_loss:.4f} at update {progress.best_step:,}"
        if progress.evaluated >= 0
        else "not evaluated yet",
    )
    if not run.files.metrics.is_file():
        return Section("Training", [table])
    losses = read_losses(run.folder)
    picture = page.loss_chart(losses, "loss against the update") if any(losses.values()) else ""
    return Section("Training", [table], loss_curve(run.folder), picture)


def read_evaluations(folder: Path) -> list[Result]:
    """Return what ``npgpt eval --json`` has printed into files of a run's folder."""
    found = []
    for path in sorted(folder.glob(EVALUATIONS)):
        try:
            result = Result.from_dict(read_json(path, limit=SMALL))
            str(result)  # which fails for a table that is none
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} is no result of npgpt eval --json: {type(error).__name__}; remove or "
                "rename it"
            ) from None
        found.append(result)
    return found


def describe_evaluation(result: Result) -> Section:
    """Return the numbers and tables of an evaluation."""
    parts: list[str | Table] = [result.title, result.metric_table()]
    for name, table in result.tables.items():
        parts += [name, table]
    return Section(f"Evaluation: {result.task}", parts)


def describe_samples(run: Run) -> Section:
    """Return what the best model writes: the sample that the training shows at its end."""
    if not run.files.best.is_file():
        return Section("Samples", ["There is no model yet: no evaluation has saved one."])
    sample = run.task.final_sample(run.best_model())
    return Section("Samples", [run.task.command(run.folder)], sample)


class Spent(NamedTuple):
    """What the training of a run has cost up to now."""

    seconds: float
    tokens: int
    operations: float


def count_cost(run: Run) -> Spent:
    """Return the time, the tokens and the operations of the training."""
    config = run.config
    n_tokens = run.progress.step * run.task.tokens_per_batch * config.gradient_accumulation_steps
    cost = Cost(run.model.config, config.batch_size, config.block_size)
    return Spent(run.progress.elapsed_seconds, n_tokens, cost.training_flops * n_tokens)


def describe_cost(run: Run) -> Section:
    """Return what the training has cost, and how fast it was."""
    seconds, n_tokens, operations = count_cost(run)
    table = facts(
        seconds=f"{seconds:,.0f}",
        tokens_read=n_tokens,
        tokens_per_second=f"{n_tokens / seconds:,.0f}" if seconds else "none yet",
        operations=f"{operations:.3g}",
        operations_per_second=f"{operations / seconds:.3g}" if seconds else "none yet",
    )
    return Section("Cost", [table])


# ---- several runs


class Step(NamedTuple):
    """A run among several: its row in the table of the runs, and those of its evaluations."""

    row: list[str]
    spent: Spent
    evaluations: list[list[str]]


def name_folders(folders: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each folder: its own, or the whole path if two folders have one name."""
    own = [folder.resolve().name for folder in folders]
    for number, folder in enumerate(folders):
        if folder.resolve() in (other.resolve() for other in folders[:number]):
            raise UserError(f"{folder} is given twice: name each run once")
    return {
        folder: name if own.count(name) == 1 else str(folder)
        for folder, name in zip(folders, own, strict=True)
    }


def make_step(name: str, run: Run, evaluations: list[Result], names: dict[Path, str]) -> Step:
    """Return what the tables of several runs say of one."""
    config, progress, spent = run.config, run.progress, count_cost(run)
    resolved = {folder.resolve(): other for folder, other in names.items()}
    begin = resolved.get(Path(config.init_from).resolve(), config.init_from)
    best = f"{progress.best_loss:.4f}" if progress.evaluated >= 0 else "not evaluated yet"
    row = [name, begin, config.task, f"{progress.step:,} of {config.max_iters:,}", best]
    rows = [
        [name, f"{result.task}: {', '.join(Path(file).name for file in result.data)}", *numbers]
        for result in evaluations
        for numbers in result.metric_table().rows
    ]
    return Step(row, spent, rows)


def describe_steps(steps: list[Step]) -> Section:
    """Return the tables of several runs: what each is and costs, and all evaluations."""
    total = Spent(*map(sum, zip(*(step.spent for step in steps), strict=True)))
    rows = [[*step.row, *format_cost(step.spent)] for step in steps]
    rows.append(["all", "", "", "", "", *format_cost(total)])
    columns = [
        "run", "begins from", "task", "updates", "best validation loss", "seconds", "tokens read",
        "operations",
    ]  # fmt: skip
    parts: list[str | Table] = [Table(columns, rows)]
    if evaluations := [row for step in steps for row in step.evaluations]:
        parts.append(Table(["run", "evaluation", "metric", "value", "95 % interval"], evaluations))
    return Section("Runs", parts)


def format_cost(spent: Spent) -> list[str]:
    """Return the cells of a cost."""
    return [f"{spent.seconds:,.0f}", f"{spent.tokens:,}", f"{spent.operations:.3g}"]


# ---- the two forms of a report


def to_markdown(title: str, sections: list[Section]) -> str:
    """Return a report in Markdown."""
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *map(str, section.parts)]
        if section.text:
            parts.append("\n".join(f"    {line}" for line in section.text.split("\n")))
    return "\n\n".join(parts) + "\n"


def to_html(title: str, sections: list[Section]) -> str:
    """Return a report as a page in one file, with the loss curve as a picture."""
    parts = []
    for section in sections:
        parts.append(page.heading(section.title))
        for part in section.parts:
            if isinstance(part, Table):
                parts.append(page.table(part.columns, part.rows))
            else:
                parts.append(page.note(part))
        parts.append(section.picture or (page.text(section.text) if section.text else ""))
    return page.page(title, *parts)

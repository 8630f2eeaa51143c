"""``npgpt eval generation``: how near the texts that a model writes are to references."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from autograd.schema import FileName
from npgpt.commands.chat import find_partner
from npgpt.commands.complete import (
    Shots,
    read_task,
    resolve_answers,
    write_answer,
)
from npgpt.commands.embed import read_sentences
from npgpt.commands.eval._result import show_result
from npgpt.commands.generate import Sampling, demand_writer, load_writer
from npgpt.errors import UserError
from npgpt.evaluation.examples import Example, draw_examples, read_examples
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.result import Table
from npgpt.evaluation.written import compare, corpus_scores
from npgpt.models.config import Steps
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.training.memory import keep_freed_memory
from npgpt.translation import translate

SHOWN = 5  # texts that are printed


@dataclass
class Data:
    """The references and the model: the first options of the command."""

    data: Annotated[FileName, Argument("FILE")] = ""
    """A .csv, .tsv or .jsonl file with a question and its answer in each row; --text_column,
    --label_column, --form and --encoding also describe this file. If several rows have the same
    question, the nearest of their answers counts."""
    n: Steps = 0
    """Ask only so many questions, drawn at random; 0 asks all."""
    model: FileName = ""
    """A folder with a model, a .safetensors or .gguf file, the name of an added model (npgpt models
    list), or a name on the Hugging Face hub; if not given, smollm2. An encoder-decoder translates
    the questions, with 4 beams."""
    written: FileName = ""
    """A file with a text in each line, in the order of the questions: these texts are measured, and
    no model is asked."""
    float32: bool = False
    """Compute with float32 weights where the model's file has fewer bits, which takes more memory
    and time."""
    json: bool = False
    """Print the result as one line of JSON."""


@dataclass
class Options(Sampling, Shots, Data):  # the fields of the last base class come first
    """Measure how near the texts that a model writes are to references.

    A model that continues texts answers the questions as in npgpt complete, with the same options.
    """

    seed: int | None = None
    """The seed with which questions and examples are drawn (0 if not given), and with which tokens
    are drawn if --temperature is not 0."""


def run(args: list[str]) -> int:
    """Print the numbers; return 130 after Ctrl-C."""
    options = parse(Options, args, "eval generation")
    keep_freed_memory()
    if not options.data:
        raise UserError("there are no references: give a file of questions and answers")
    asked = read_references(options)
    if options.n:
        questions = [Example(question, "") for question in asked]
        drawn = draw_examples(questions, options.n, options.seed or 0)
        asked = {question: asked[question] for question, _ in drawn}
    try:
        path, texts = write_texts(options, [*asked])
    except KeyboardInterrupt:
        return 130
    references = [*asked.values()]
    each = compare(texts, references)
    metrics = {name: estimate(np.mean, found) for name, found in each.items()}
    try:
        metrics |= corpus_scores(texts, references)
    except UserError as error:  # without sacrebleu: all other numbers are there
        say(str(error), sys.stderr)
    rows = [[q, text, asked[q][0]] for q, text in zip(asked, texts, strict=True)][:SHOWN]
    tables = {"the first texts": Table(["question", "written", "reference"], rows)}
    files = options.data, options.shots, options.written
    show_result("generation", options, path, files, len(texts), metrics, tables)
    return 0


def read_references(options: Options) -> dict[str, list[str]]:
    """Return the references of each question."""
    asked: dict[str, list[str]] = {}
    for question, answer in read_examples(
        options.data,
        options.text_column,
        options.label_column,
        form=options.form,
        encoding=options.encoding,
    ):
        asked.setdefault(question, []).append(answer)
    return asked


def write_texts(options: Options, questions: list[str]) -> tuple[Path, list[str]]:
    """Return where the texts come from, and the text for each question."""
    if options.written:
        lines = [line.strip() for line in read_sentences("eval generation", (), options.written)]
        if len(lines) != len(questions):
            raise UserError(
                f"{options.written} has {len(lines):,} lines, and there are {len(questions):,} "
                f"different questions in {options.data}; give a line for each"
            )
        return Path(options.written), lines
    path = find_partner(options.model)
    model, tokenizer = load_writer(path, False, options.float32)
    if isinstance(model, EncoderDecoder):
        return path, [each.target for each in translate(model, tokenizer, questions)]
    demand_writer(model, path)
    task = read_task(options, options.seed or 0)
    resolved = resolve_answers(options, model, tokenizer, task)
    return path, [write_answer(model, tokenizer, task, q, resolved)[0] for q in questions]

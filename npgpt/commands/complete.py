"""``npgpt complete``: let a model answer questions as a few examples answer theirs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

from autograd.schema import FileName
from npgpt.commands.chat import find_partner
from npgpt.commands.embed import read_sentences
from npgpt.commands.generate import Sampling, collect_choices, demand_writer, load_writer
from npgpt.errors import UserError
from npgpt.evaluation.choices import encode_prompt
from npgpt.evaluation.examples import Example, Form, draw_examples, read_examples
from npgpt.evaluation.few_shot import FewShot
from npgpt.generation import resolve_options, start_search
from npgpt.generation.chat import NONE_HERE, Cutter
from npgpt.generation.options import Options as GenerationOptions
from npgpt.generation.search import Continuation
from npgpt.models.config import Steps
from npgpt.models.gpt import GPT
from npgpt.options import Argument, parse
from npgpt.say import say_text
from npgpt.tokenizers import Tokenizer
from npgpt.tokenizers.templates import find_end, require_template
from npgpt.training.memory import keep_freed_memory

# of options that are neither given nor in the model's generation_config.json
DEFAULTS = {"max_new_tokens": 100, "do_sample": True, "temperature": 0.0}


@dataclass
class Shots:
    """How a model is shown what to do; ``npgpt classify`` has these options, too."""

    shots: FileName = ""
    """Examples: a .csv, .tsv or .jsonl file with a text and an answer in each row, or a folder with
    a file for each label."""
    k: Steps | None = None
    """Show only this many of the examples, drawn at random."""
    template: str = "Input: {input}\nOutput: {output}"
    """How an example is written, with {input} and after it {output}; \\n stands for a new line."""
    instruction: str = ""
    """A text in front of the examples."""
    chat: bool = False
    """Write the examples as a conversation, by the model's chat template."""
    text_column: str = ""
    """The column of the texts in --shots: its name in the first line, or its number from 1. If
    neither this nor --label_column is given: input, or text, or the first."""
    label_column: str = ""
    """The column of the answers or labels. If neither is given: output, or label, or the second."""
    form: Form | None = None
    """The form of the file, if the end of its name does not say it."""
    encoding: str = "utf-8"
    """The encoding of the file, such as latin-1."""


@dataclass
class Questions:
    """The questions: the first options of the command."""

    texts: Annotated[tuple[str, ...], Argument("TEXT ...")] = ()
    """The questions."""
    file: FileName = ""
    """A file of questions, one a line."""


@dataclass
class Writer:
    """The model that writes; ``npgpt summarize`` has these options, too."""

    model: FileName = ""
    """A folder with a model, a .safetensors or .gguf file, the name of an added model (npgpt models
    list), or a name on the Hugging Face hub; if not given, smollm2."""
    int8: bool = False
    """Round the weights to 8 bits: generation is faster, and a little less exact."""
    float32: bool = False
    """Compute with float32 weights where the model's file has fewer bits, which takes more memory
    and time."""


@dataclass
class Options(Sampling, Shots, Writer, Questions):  # the fields of the last base class come first
    """Answer questions as a few examples answer theirs; the model is not trained.

    The model continues a text that has the examples and the question. An answer ends where the next
    example would begin. Without any question or --file, each line of standard input is a question.

    An option that is not given has the value in the model's generation_config.json. If the file has
    no value either, an answer has up to 100 tokens, each the most probable one.
    """

    seed: int | None = None
    """Of the drawing of examples, 0 if not given, and of tokens if --temperature is not 0."""
    json: bool = False
    """Print each answer as one line of JSON: the question, the answer, its tokens, why it ended."""


def run(args: list[str]) -> int:
    """Print an answer to each question; return 130 after Ctrl-C."""
    options = parse(Options, args, "complete")
    keep_freed_memory()
    questions = read_sentences("complete", options.texts, options.file)
    task = read_task(options, options.seed or 0)
    model, tokenizer = find_writer(options)
    resolved = resolve_answers(options, model, tokenizer, task)
    try:
        for question in questions:
            if question.strip():
                answer(model, tokenizer, task, question, resolved, options.json)
    except KeyboardInterrupt:
        return 130
    return 0


def find_writer(options: Writer) -> tuple[GPT, Tokenizer]:
    """Return the model that the options name, and its tokenizer."""
    folder = find_partner(options.model)
    model, tokenizer = load_writer(folder, options.int8, options.float32)
    demand_writer(model, folder)
    return model, tokenizer


def read_task(options: Shots, seed: int, words: Mapping[str, str] | None = None) -> FewShot:
    """Return the task that the options show.

    Parameters
    ----------
    options : Shots
    seed : int
        Of the drawing of k examples.
    words : mapping of str to str, optional
        The labels that the examples may have, and how each is written in the prompt.
    """
    if options.k and not options.shots:
        raise UserError(f"--k is {options.k}; say from which file, with --shots FILE")
    examples = read_shots(options, words or ()) if options.shots else []
    if options.k is not None:
        examples = draw_examples(examples, options.k, seed)
    shown = [(text, words[label] if words else label) for text, label in examples]
    return FewShot(options.template.replace("\\n", "\n"), shown, options.instruction, options.chat)


def read_shots(options: Shots, labels: Collection[str] = ()) -> list[Example]:
    """Return the examples in the file that the options name, which have some of the labels."""
    return read_examples(
        options.shots,
        options.text_column,
        options.label_column,
        labels=labels,
        form=options.form,
        encoding=options.encoding,
    )


def resolve_answers(
    options: Sampling, model: GPT, tokenizer: Tokenizer, task: FewShot
) -> GenerationOptions:
    """Return how answers are written: what the options, the model's file and `DEFAULTS` say."""
    choices = collect_choices(options, model, tokenizer) | dict.fromkeys(NONE_HERE)
    return end_answers(resolve_options(model, choices, tokenizer, DEFAULTS), task, tokenizer)


def end_answers(
    options: GenerationOptions, task: FewShot, tokenizer: Tokenizer
) -> GenerationOptions:
    """Return options with which a text ends where an answer in the examples ends."""
    if not task.as_chat:
        return dataclasses.replace(options, stop_strings=(*options.stop_strings, task.end))
    token, text = find_end(tokenizer, require_template(tokenizer))
    return dataclasses.replace(
        options,
        eos_token_id=[*options.eos, *([] if token is None else [token])],
        stop_strings=(*options.stop_strings, *([text] if text else [])),
    )


def answer(
    model: GPT,
    tokenizer: Tokenizer,
    task: FewShot,
    question: str,
    options: GenerationOptions,
    as_json: bool,
) -> None:
    """Print the answer to a question."""
    text, found = write_answer(model, tokenizer, task, question, options)
    if not as_json:
        say_text(text)
        return
    values = {"question": question, "answer": text, "ids": found.ids}
    print(json.dumps(values | {"finish_reason": found.finish_reason}), flush=True)


def write_answer(
    model: GPT, tokenizer: Tokenizer, task: FewShot, question: str, options: GenerationOptions
) -> tuple[str, Continuation]:
    """Return the answer to a question, without the white space around it, and its tokens."""
    ids = encode_prompt(tokenizer, task.prompt(question, tokenizer))
    search = start_search(model, ids, options, tokenizer=tokenizer)
    search.run(None)
    (found,) = search.continuations()
    cutter = Cutter(options.stop_strings)
    text = cutter.put(tokenizer.decode(found.ids, skip_special_tokens=True)) + cutter.end()
    return text.strip(), found

"""``npgpt answer``: the parts of a text that answer questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autograd.reading import LARGE, read_text
from autograd.schema import FileName
from npgpt.commands.embed import read_sentences
from npgpt.errors import UserError
from npgpt.evaluation.spans import LONGEST, STRIDE, demand_span_head, find_answer
from npgpt.hub import find_model
from npgpt.models.bert import Bert
from npgpt.models.config import Size
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.tokenizers import Tokenizer, load_tokenizer
from npgpt.training.memory import keep_freed_memory
from npgpt.weights.load import load_model


@dataclass
class Questions:
    """The questions and the text: the first options of the command."""

    texts: Annotated[tuple[str, ...], Argument("QUESTION ...")] = ()
    """The questions."""
    file: FileName = ""
    """A file of questions, one a line."""
    context: FileName = ""
    """The file of the text that the questions are about."""


@dataclass
class Finding:
    """How a model finds an answer; ``npgpt eval spans`` has these options, too."""

    model: FileName = ""
    """A folder with a model that npgpt finetune spans has trained, or a name on the Hugging Face
    hub; the latest run under out/, if not given."""
    stride: Size = STRIDE
    """A context that is too long for the model is cut into windows: each begins so many tokens
    after the window before."""
    longest: Size = LONGEST
    """The most tokens of an answer."""


@dataclass
class Options(Finding, Questions):  # the fields of the last base class come first
    """Find the answers to questions in a text.

    An answer is a part of the text: the model gives each token a score as the start of the answer,
    and a score as its end. Without any question or --file, each line of standard input is a
    question. An empty line gets an empty line.
    """

    json: bool = False
    """Print each answer as one line of JSON: the question, the answer, its first character in the
    text, the character after its last one, and the probability of this part among all parts."""


def run(args: list[str]) -> int:
    """Print an answer to each question; return 130 after Ctrl-C."""
    options = parse(Options, args, "answer")
    keep_freed_memory()
    if not options.context:
        raise UserError("there is no text to find answers in: give a file, with --context FILE")
    questions = read_sentences("answer", options.texts, options.file)
    context = read_text(options.context, LARGE, pipes=True)
    _, model, tokenizer = load_finder(options)
    try:
        for question in questions:
            if not question.strip():
                say("")
                continue
            found = find_answer(
                model, tokenizer, question, context, options.stride, options.longest
            )
            if options.json:
                print(json.dumps({"question": question} | found._asdict()), flush=True)
            else:
                say(found.answer)
    except KeyboardInterrupt:
        return 130
    return 0


def load_finder(options: Finding) -> tuple[Path, Bert, Tokenizer]:
    """Return the path of a model that finds spans, the model and its tokenizer."""
    if options.model:
        folder = find_model(options.model)
    else:
        from npgpt.training.run import latest_run  # takes longer to import than all of the others

        folder = latest_run()
    return folder, demand_span_head(load_model(folder), str(folder)), load_tokenizer(folder)

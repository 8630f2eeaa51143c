"""``npgpt eval language_modelling``: how well a model predicts a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from autograd.reading import LARGE, read_text
from autograd.schema import FileName
from npgpt.commands.chat import find_partner
from npgpt.commands.eval._result import show_result
from npgpt.commands.generate import demand_writer, load_writer
from npgpt.errors import UserError
from npgpt.evaluation.result import Table
from npgpt.evaluation.texts import ngram_loss, text_loss
from npgpt.models.config import Size, Steps
from npgpt.options import Argument, parse
from npgpt.training.memory import keep_freed_memory

LONGEST = 1024  # tokens of a window, if --length is not given


@dataclass
class Options:
    """Measure how well a model predicts a text.

    The model reads the text in windows. Each token except the first is predicted once, from the
    tokens before it in a window. The intervals come from a bootstrap over the windows.
    """

    file: Annotated[FileName, Argument("FILE")] = ""
    """The text, in UTF-8."""
    model: FileName = ""
    """A folder with a model, a .safetensors or .gguf file, the name of an added model (npgpt models
    list), or a name on the Hugging Face hub; if not given, smollm2."""
    characters: Steps = 0
    """Read only the first characters of the text; 0 reads all of it."""
    length: Steps = 0
    """The tokens of a window; if not given, the model's context, at most 1,024."""
    stride: Steps = 0
    """How many tokens a window begins after the beginning of the window before; if not given, half
    of the length."""
    baseline: FileName = ""
    """A text in which n-grams are counted: the numbers of this n-gram model are printed, too."""
    order: Size = 3
    """With --baseline: the tokens of an n-gram."""
    float32: bool = False
    """Compute with float32 weights where the model's file has fewer bits, which takes more memory
    and time."""
    json: bool = False
    """Print the result as one line of JSON."""


def run(args: list[str]) -> int:
    """Print the numbers; return 130 after Ctrl-C."""
    options = parse(Options, args, "eval language_modelling")
    keep_freed_memory()
    if not options.file:
        raise UserError("there is no text: give a file, as in: npgpt eval language_modelling FILE")
    text = read_text(options.file, LARGE)[: options.characters or None]
    train = read_text(options.baseline, LARGE) if options.baseline else ""
    path = find_partner(options.model)
    model, tokenizer = load_writer(path, False, options.float32)
    demand_writer(model, path)
    options.length = options.length or min(LONGEST, model.config.n_positions)
    options.stride = options.stride or max(1, options.length // 2)
    try:
        found = text_loss(model, tokenizer, text, options.length, options.stride)
    except KeyboardInterrupt:
        return 130
    metrics, tables = found.metrics(), {}
    if train:
        other = ngram_loss(train, options.order, tokenizer, text, found.sizes).metrics()
        rows = [
            [name, *(f"{each[name].value:.4g}" for each in (metrics, other))] for name in metrics
        ]
        tables["baseline"] = Table(["metric", "model", f"{options.order}-grams"], rows)
    n = int(found.sizes.sum())
    show_result("language_modelling", options, path, (options.file,), n, metrics, tables)
    return 0

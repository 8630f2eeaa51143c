"""``npgpt export``: write a model and its tokenizer for transformers, or for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from autograd.schema import FileName
from npgpt.errors import UserError
from npgpt.hub import find_config
from npgpt.options import Argument, parse
from npgpt.say import say
from npgpt.weights.export import export, export_gguf


@dataclass
class Options:
    """Write a model and its tokenizer for transformers, to a new folder, or for llama.cpp.

    With --gguf, the new one is a file of the format GGUF, which has all in one.
    """

    source: Annotated[FileName, Argument("DIR")] = ""
    """A folder with a model and its tokenizer, such as a run, or another model by its name."""
    folder: Annotated[FileName, Argument("FOLDER")] = ""
    """The new folder; with --gguf, the new file."""
    gguf: bool = False
    """Write a GGUF file: of a GPT-2, or of a Llama, a Mistral without a window, or a Qwen2."""
    type: Literal["F32", "F16", "Q8_0", "Q4_1", "Q4_0"] = "F32"
    """With --gguf, the type of matrices. Those that begin with Q round 32 numbers at a time to 8 or
    4 bits."""


def run(args: list[str]) -> int:
    """Write the folder or the file."""
    options = parse(Options, args, "export")
    if not options.source or not options.folder:
        raise UserError(
            "give two folders, as in: npgpt export out/0001 exported; or a folder and a file, as "
            "in: npgpt export out/0001 model.gguf --gguf"
        )
    if options.gguf:
        if not options.folder.endswith(".gguf"):
            raise UserError(f"{options.folder} must end with .gguf: npgpt opens no other name")
        export_gguf(Path(options.source), Path(options.folder), options.type)
        say(f"{options.folder}: llama.cpp opens it, and npgpt does with --model")
        return 0
    if options.type != "F32" or options.folder.endswith(".gguf"):
        raise UserError("for a GGUF file add --gguf; a folder for transformers is of type F32")
    export(Path(options.source), Path(options.folder))
    (kind,) = find_config(Path(options.folder)).to_dict()["architectures"]
    say(f"{options.folder}: transformers opens it with {kind} and AutoTokenizer")
    return 0

"""``npgpt profile``: what a training step costs, op by op."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import autograd
from autograd import Roof
from autograd.files import write_json
from autograd.kernels import kernels_enabled
from autograd.schema import FileName
from npgpt.diagnostics.profile import WARM_UP, Step, resolve_model, summary
from npgpt.models.config import Size
from npgpt.options import Argument, NewFile, read
from npgpt.training.config import TrainConfig
from npgpt.training.memory import keep_freed_memory


@dataclass
class Options(TrainConfig):
    """Show what a training step costs, op by op.

    The steps are taken on random tokens; no run is written. Options on the command line replace
    those of CONFIG.toml.
    """

    config: Annotated[FileName, Argument("CONFIG.toml")] = ""
    """A TOML file whose keys are these options."""
    vocab_size: Size | None = None
    """The size of the vocabulary of a model from scratch; if not given, the tokenizer's."""
    steps: Size = 10
    """Steps that are measured; each number is their median."""
    json: NewFile = ""
    """A file to write the rows to."""


def run(args: list[str]) -> int:
    """Print the ledger of a step, and write it to a file if one is asked for."""
    given = read(Options, args, "profile")
    path = given.get("config")
    options = dataclasses.replace(Options.from_toml(path) if path else Options(), **given)
    keep_freed_memory()
    step = Step(options, resolve_model(options, options.vocab_size))
    for _ in range(WARM_UP):
        step.take()
    rows = autograd.ledger.medians([step.take() for _ in range(options.steps)])
    roof = Roof.measure()
    print(
        f"A step of {options.gradient_accumulation_steps * options.batch_size} x "
        f"{step.context} tokens, {step.model.n_parameters():,} parameters, "
        f"median of {options.steps};\n"
        f"kernels {'on' if kernels_enabled() else 'off'}; this machine: "
        f"{roof.flops / 1e9:.0f} GFLOP/s in matrix products, {roof.bandwidth / 1e9:.1f} GB/s\n"
    )
    print(autograd.ledger.table(rows, roof))
    if options.json:
        write_json(options.json, summary(options, rows, roof))
    return 0

"""``npgpt profile``: the ledger of a training step, op by op, beside what the machine could do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

import autograd
from autograd import Ledger, Roof
from autograd.kernels import kernels_enabled
from autograd.schema import FileName
from npgpt.diagnostics.info import config_of
from npgpt.files import write_json
from npgpt.models.config import GPTConfig, Size
from npgpt.models.gpt import GPT
from npgpt.models.layers import dropout_from
from npgpt.options import Argument, NewFile
from npgpt.training.config import TrainConfig, keys_of
from npgpt.training.data import random_batch, separated
from npgpt.training.memory import demand_memory, keep_freed_memory
from npgpt.training.optim import AdamW, clip_grad_norm
from npgpt.training.run import accumulate_gradients, source_of, tokenizer_for

WARM_UP = 3  # steps: kernels are loaded, memory and caches are in use


@dataclass
class ProfileOptions(TrainConfig):
    """Show what a training step costs, by a file of options and these options.

    On random tokens: nothing is trained or written.
    """

    config: Annotated[FileName, Argument("CONFIG.toml")] = ""
    """A TOML file of these options; each is a key."""
    vocab_size: Size | None = None
    """Of a model from scratch; the tokenizer's if not given."""
    steps: Size = 10
    """Steps to take the median of."""
    json: NewFile = ""
    """A file to write the rows to."""


class Step:
    """A training step on random tokens, taken again and again.

    Parameters
    ----------
    config : TrainConfig
    architecture : GPTConfig
    """

    def __init__(self, config: TrainConfig, architecture: GPTConfig) -> None:
        self.config, self.context = config, architecture.n_positions
        self.barrier = architecture.vocab_size - 1 if config.separate else None
        self.random = np.random.default_rng(config.seed)
        self.tokens = self.random.integers(architecture.vocab_size, size=100_000 + self.context)
        demand_memory(architecture, config.batch_size * config.block_size)
        self.model = GPT(architecture, seed=config.seed)
        self.optimizer = AdamW(
            self.model.named_parameters(),
            (config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def take(self) -> Ledger:
        """Take one step, as `npgpt.training.run` does; return its ledger."""
        config, n = self.config, self.model.n_parameters()
        with Ledger() as ledger:
            with ledger.part("batch"):
                batches = [
                    separated(
                        *random_batch(self.tokens, config.batch_size, self.context, self.random),
                        self.barrier,
                    )
                    for _ in range(config.gradient_accumulation_steps)
                ]
            with dropout_from(self.random):
                accumulate_gradients(self.model, batches)
            with ledger.part("clipping") as row:
                norm = clip_grad_norm(self.model.parameters(), config.grad_clip)
                scaled = norm > config.grad_clip > 0
                row.flops += 3 * n if scaled else 2 * n
                row.bytes += 4 * (3 * n if scaled else n)  # read, and where scaled rewritten
            with ledger.part("AdamW") as row:
                self.optimizer.step(config.learning_rate)
                row.flops += 14 * n
                row.bytes += 4 * 7 * n  # all but the gradient are read and written
            with ledger.part("zero_grad"):
                self.optimizer.zero_grad()
        return ledger


def architecture_of(options: ProfileOptions) -> GPTConfig:
    """Return the architecture that a training run with these options would have."""
    if options.init_from != "scratch":
        base = config_of(options.init_from)
        return dataclasses.replace(options, **keys_of(base)).model(base.vocab_size, base)
    if options.vocab_size is not None:
        return options.model(options.vocab_size)
    sources = [source_of(options.data, options, True)]
    if options.val_data:
        sources.append(source_of(options.val_data, options, False))
    return options.model(tokenizer_for(options, sources, None, None).n_vocab)


def run(options: ProfileOptions) -> None:
    """Print the ledger of a step, and write it to a file if one is asked for."""
    keep_freed_memory()
    step = Step(options, architecture_of(options))
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


def summary(options: ProfileOptions, rows: list[autograd.ledger.Row], roof: Roof) -> dict[str, Any]:
    """Return everything that the table shows, and its configuration, for programs."""
    total = sum(row.seconds for row in rows)
    return {
        "config": dataclasses.asdict(options),
        "kernels": kernels_enabled(),
        "roof": {"gflops_per_s": roof.flops / 1e9, "gb_per_s": roof.bandwidth / 1e9},
        "ms": 1e3 * total,
        "rows": [
            {
                "name": row.name,
                "kind": row.kind,
                "calls": int(row.calls),
                "ms": 1e3 * row.seconds,
                "share": row.seconds / total,
                "flops": row.flops,
                "gflops_per_s": row.flops / row.seconds / 1e9,
                "bytes": row.bytes,
                "gb_per_s": row.bytes / row.seconds / 1e9,
                "share_of_roof": autograd.ledger.share_of_roof([row], roof),
            }
            for row in rows
        ],
    }

"""The ledger of a training step, op by op, beside what the machine could do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import autograd
from autograd import Ledger, Roof
from autograd.kernels import kernels_enabled
from npgpt.diagnostics.info import config_of
from npgpt.models.config import ModelConfig
from npgpt.models.layers import dropout_from
from npgpt.models.registry import architecture_of
from npgpt.training.config import TrainConfig, keys_of
from npgpt.training.data import AnyBatch, random_batch, separated
from npgpt.training.memory import demand_memory
from npgpt.training.optim import AdamW, clip_grad_norm
from npgpt.training.prepare import read_sources, resolve_model_type, tokenizer_for
from npgpt.training.registry import TASKS
from npgpt.training.task import accumulate_gradients

WARM_UP = 3  # steps: kernels are loaded, memory and caches are in use


class Step:
    """A training step on random tokens, taken again and again.

    Parameters
    ----------
    config : TrainConfig
    architecture : ModelConfig
    """

    def __init__(self, config: TrainConfig, architecture: ModelConfig) -> None:
        self.config, self.context = config, architecture.n_positions
        self.barrier = architecture.vocab_size - 1 if config.separate else None
        self.random = np.random.default_rng(config.seed)
        self.tokens = self.random.integers(architecture.vocab_size, size=100_000 + self.context)
        demand_memory(
            architecture, config.batch_size * config.block_size, config.checkpoint_activations
        )
        self.model = architecture_of(architecture).model(architecture, seed=config.seed)
        self.model.transformer.checkpoint_activations = config.checkpoint_activations
        self.optimizer = AdamW(
            self.model.named_parameters(),
            (config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def random_batch(self) -> AnyBatch:
        """Draw random tokens in the form of the task's batches."""
        windows = random_batch(self.tokens, self.config.batch_size, self.context, self.random)
        batch = separated(*windows, self.barrier)
        return TASKS[self.config.task].imitate(batch, self.model.config, self.random)

    def take(self) -> Ledger:
        """Take one step, as `npgpt.training.loop` does; return its ledger."""
        config, n = self.config, self.model.n_parameters()
        with Ledger() as ledger:
            with ledger.part("batch"):
                batches = [self.random_batch() for _ in range(config.gradient_accumulation_steps)]
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


def resolve_model(config: TrainConfig, vocab_size: int | None) -> ModelConfig:
    """Return the architecture that a training run with this configuration would have.

    If no size of the vocabulary is given, the size is that of the run's tokenizer.
    """
    if config.init_from != "scratch":
        base = config_of(config.init_from)
        return dataclasses.replace(config, **keys_of(base)).model(base.vocab_size, base)
    config = resolve_model_type(config, None)
    if vocab_size is not None:
        return config.model(vocab_size)
    sources = read_sources(config)
    config = TASKS[config.task].complete(config, sources)
    return config.model(tokenizer_for(config, sources, None, None).n_vocab)


def summary(config: TrainConfig, rows: list[autograd.ledger.Row], roof: Roof) -> dict[str, Any]:
    """Return everything that the table shows, and its configuration, for programs."""
    total = sum(row.seconds for row in rows)
    return {
        "config": dataclasses.asdict(config),
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

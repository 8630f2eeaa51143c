"""Every kernel that training in float32 and generation need, used once."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np

import autograd
from npgpt.evaluation.loss import whole_loss
from npgpt.models.config import Activation, GPTConfig, ModelConfig
from npgpt.models.layers import dropout_from
from npgpt.models.llama import LlamaConfig
from npgpt.models.registry import architecture_of
from npgpt.training.optim import AdamW, clip_grad_norm
from npgpt.training.task import accumulate_gradients
from npgpt.weights.packed import product


def use_kernels_once() -> None:
    """Train, evaluate and let write a tiny model of every kind."""
    generator = np.random.default_rng(0)
    ids = generator.integers(8, size=(2, 9))
    large = np.ones((256, 256), np.float32)
    autograd.tensor(large) @ large  # a product that the threads share
    product(large, large.astype(np.int8), large[0])  # with packed weights
    plain = GPTConfig(
        vocab_size=8, n_positions=8, n_embd=8, n_layer=2, n_head=2, bias=False, window_size=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    dropping = replace(plain, bias=True, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    llama = LlamaConfig(vocab_size=8, n_positions=8, n_embd=8, n_layer=2, n_head=4, n_kv_head=2)
    kinds: list[ModelConfig] = [plain, llama]
    kinds += (replace(dropping, activation_function=x) for x in get_args(Activation))
    for config in kinds:
        model = architecture_of(config).model(config)
        optimizer = AdamW(model.named_parameters())
        with dropout_from(generator):
            accumulate_gradients(model, [(ids[:, :-1], ids[:, 1:])])
        clip_grad_norm(model.parameters(), 1e-6)
        optimizer.step(1e-3)
        whole_loss(model, ids[0])
        model.generate(ids[:1, :4], max_new_tokens=2, do_sample=True, seed=0)

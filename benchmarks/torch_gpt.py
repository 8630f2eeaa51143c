"""The GPT of `train_step.py` in PyTorch, with the parameter names of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and MLP."""

    def __init__(self, C: int, n_head: int, dropout: float, bias: bool) -> None:
        super().__init__()
        linear = partial(nn.Linear, bias=bias)
        self.n_head, self.dropout = n_head, dropout
        self.ln_1 = nn.LayerNorm(C, bias=bias)
        self.attn = nn.ModuleDict({"c_attn": linear(C, 3 * C), "c_proj": linear(C, C)})
        self.ln_2 = nn.LayerNorm(C, bias=bias)
        self.mlp = nn.ModuleDict({"c_fc": linear(C, 4 * C), "c_proj": linear(4 * C, C)})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, T, C)``."""
        B, T, C = x.shape
        qkv = self.attn["c_attn"](self.ln_1(x))  # (B, T, 3C)
        query, key, value = (
            part.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, T, C) -> (B, H, T, D)
            for part in qkv.split(C, dim=-1)
        )
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=p)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, H, T, D) -> (B, T, C)
        x = x + F.dropout(self.attn["c_proj"](y), p)
        h = F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")  # (B, T, 4C)
        return x + F.dropout(self.mlp["c_proj"](h), p)


class TorchGPT(nn.Module):
    """Token and position embeddings, blocks, a norm, and a head that is the token embedding."""

    def __init__(
        self, vocab_size: int, n_positions: int, C: int, n_layer: int, n_head: int,
        dropout: float, bias: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dropout = dropout
        self.wte = nn.Embedding(vocab_size, C)
        self.wpe = nn.Embedding(n_positions, C)
        self.h = nn.ModuleList(Block(C, n_head, dropout, bias) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(C, bias=bias)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the logits, or with targets the mean cross-entropy."""
        positions = torch.arange(ids.shape[1])
        p = self.dropout if self.training else 0.0
        x = F.dropout(self.wte(ids) + self.wpe(positions), p)  # (B, T, C)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # (B, T, V)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def copy_weights(self, weights: Mapping[str, ndarray]) -> None:
        """Copy our weights; a linear layer's is (in, out) there, and (out, in) here."""
        for name, parameter in self.named_parameters():
            weight = torch.tensor(weights[f"transformer.{name}"])
            parameter.copy_(weight.T if ".c_" in name and weight.ndim == 2 else weight)


def make_step(
    model: TorchGPT,
    batch: tuple[ndarray, ndarray],
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    max_norm: float,
    compiled: bool = False,
) -> Callable[..., float]:
    """Return a function that takes one training step and returns the loss before the update.

    The step may be given a batch of its own, and its learning rate.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, learning_rate, betas, fused=True)
    run = torch.compile(model) if compiled else model

    def step(batch: tuple[ndarray, ndarray] = batch, rate: float = learning_rate) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = run(*map(torch.from_numpy, batch))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def make_forward(model: TorchGPT, ids: ndarray, compiled: bool = False) -> Callable[[], Tensor]:
    """Return a function that computes the logits, without a tape."""
    inputs = torch.from_numpy(ids)
    run = torch.compile(model.eval()) if compiled else model.eval()

    @torch.inference_mode()
    def forward() -> Tensor:
        return run(inputs)

    return forward

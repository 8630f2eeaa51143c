"""The small sorter of a lesson: ``python -m npgpt.learn.sorter`` trains it again, in a minute.

A sequence is four different letters from a to h, ``>``, and the same letters in order, as in
``dgbe>bdeg``. ``examples/08_sorter.py`` trains a larger one. The lesson has the numbers of the
saved model, so it must be brought up to date afterwards.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy import ndarray

from npgpt.models.config import GPTConfig
from npgpt.models.gpt import GPT
from npgpt.tokenizers import CharTokenizer, save_tokenizer
from npgpt.training.optim import AdamW, clip_grad_norm, learning_rate_at

FOLDER = Path(__file__).parent / "lessons" / "sorter"
LETTERS, N = "abcdefgh", 4
STEPS = 3000


def draw(n: int, random: np.random.Generator) -> ndarray:
    """Draw problems with their solutions, as token ids (n, 2N + 1)."""
    tokenizer = CharTokenizer.from_text(LETTERS + ">")
    letters, arrow = tokenizer.encode(LETTERS), tokenizer.encode(">")
    drawn = random.permuted(np.tile(letters, (n, 1)), axis=1)[:, :N]
    return np.concatenate([drawn, np.tile(arrow, (n, 1)), np.sort(drawn, axis=1)], axis=1)


def train(steps: int = STEPS) -> GPT:
    """Train the sorter from the same random numbers each time."""
    config = GPTConfig(
        vocab_size=len(LETTERS) + 1, n_positions=2 * N, n_layer=1, n_head=1, n_embd=16,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT(config, seed=1)
    optimizer = AdamW(model.named_parameters(), betas=(0.9, 0.99), weight_decay=0.1)
    random = np.random.default_rng(1)
    for step in range(steps):
        ids = draw(64, random)
        targets = ids[:, 1:].copy()
        targets[:, :N] = -100  # the letters of the problem are random: no loss for them
        _, loss = model(ids[:, :-1], targets)
        loss.backward()
        clip_grad_norm(model.parameters(), max_norm=1.0)
        optimizer.step(learning_rate_at(step, 1e-2, 1e-3, warmup=50, decay_until=steps))
        optimizer.zero_grad()
    model.eval()
    return model


if __name__ == "__main__":
    train().save_pretrained(FOLDER)
    save_tokenizer(CharTokenizer.from_text(LETTERS + ">"), FOLDER)

"""Continue sequences of tokens."""

from __future__ import annotations

import sys

import numpy as np
from numpy import ndarray

from autograd import no_grad
from npgpt.errors import UserError
from npgpt.evaluate import evaluating
from npgpt.model import GPT


def generate(
    model: GPT,
    input_ids: ndarray,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    num_return_sequences: int = 1,
    seed: int | None = None,
) -> ndarray:
    """Continue sequences, one token at a time; names and defaults are Hugging Face's.

    Once the context is full, the model sees the last ``n_positions`` tokens; the first time that
    a prompt alone is longer, a note on standard error says so.

    Parameters
    ----------
    model : GPT
    input_ids : ndarray of int, (B, T) or (T,)
        The prompts, of at least one token.
    max_new_tokens : int
    do_sample : bool
        Draw each token from its distribution; otherwise take the most probable.
    temperature : float
        Divides the logits before sampling; 0 is the same as not to sample.
    top_k : int
        Sample among the k most probable only; 0 is off.
    num_return_sequences : int
        Continuations of each prompt, next to each other in the result.
    seed : int, optional
        Of the sampling; the same seed gives the same tokens.

    Returns
    -------
    ndarray of int, (B * num_return_sequences, T + max_new_tokens)

    Raises
    ------
    UserError
        If an argument cannot be.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=10).shape
    (1, 13)
    """
    vocab_size, n_positions = model.config.vocab_size, model.config.n_positions
    ids = np.atleast_2d(np.asarray(input_ids))  # (B, T)
    if ids.size == 0:
        raise UserError("the prompt is empty; the model needs at least one token to continue")
    if ids.dtype.kind not in "iu" or ids.ndim != 2:
        raise UserError(f"input_ids must be integers, (B, T), and are {ids.dtype}{list(ids.shape)}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise UserError(f"input_ids must be in [0, {vocab_size}), and reach {ids.max()}")
    for name, value in (("max_new_tokens", max_new_tokens), ("top_k", top_k)):
        if value < 0:
            raise UserError(f"{name} is {value}; it must not be negative")
    if not temperature >= 0:
        raise UserError(f"temperature is {temperature}; it must not be negative (0 is greedy)")
    if num_return_sequences < 1:
        raise UserError(f"num_return_sequences is {num_return_sequences}; it must be at least 1")
    greedy = not do_sample or temperature == 0
    if greedy and num_return_sequences > 1:
        raise UserError(
            f"greedy decoding has one answer, and num_return_sequences is {num_return_sequences}; "
            "sample to get several (do_sample=True with a temperature above 0)"
        )
    if ids.shape[1] > n_positions:
        print(
            f"note: the prompt has {ids.shape[1]} tokens; the model sees the last {n_positions}",
            file=sys.stderr,
        )
    random = np.random.default_rng(seed)
    ids = np.repeat(ids.astype(np.int64), num_return_sequences, axis=0)
    with no_grad(), evaluating(model):
        for _ in range(max_new_tokens):
            hidden = model.transformer(ids[:, -n_positions:])  # (B, T, C)
            logits = model.lm_head(hidden[:, -1]).numpy().astype(np.float64)  # (B, V)
            if greedy:
                chosen = logits.argmax(-1)
            else:
                chosen = sample(logits / temperature, min(top_k, vocab_size), random)
            ids = np.concatenate([ids, chosen[:, None]], axis=1)
    return ids


def sample(logits: ndarray, top_k: int, random: np.random.Generator) -> ndarray:
    """Draw one token a row from softmax(logits), among the k largest if k is not 0."""
    if top_k:
        threshold = np.partition(logits, -top_k, axis=-1)[:, -top_k, None]
        logits = np.where(logits < threshold, -np.inf, logits)
    p = np.exp(logits - logits.max(-1, keepdims=True))  # (B, V)
    cumulative = p.cumsum(-1)
    drawn = random.random(len(p)) * cumulative[:, -1]
    return (cumulative > drawn[:, None]).argmax(-1)

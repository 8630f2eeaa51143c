"""More tokens for a model and its tokenizer: new special tokens, and new rows of the embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy import ndarray

from autograd.escape import brief
from npgpt.errors import UserError
from npgpt.models.gpt import GPT
from npgpt.models.registry import architecture_of
from npgpt.module import unallocated
from npgpt.tokenizers import AddedToken, BPETokenizer, Tokenizer
from npgpt.tokenizers.bpe import format_ranks
from npgpt.tokenizers.store import tokenizer_of
from npgpt.weights.packed import demand_float32


def add_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """Return a copy of a tokenizer with more special tokens, whose ids follow all others.

    Raises
    ------
    UserError
        If a name is empty, is given twice, or is a token already.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> tokenizer = add_special_tokens(ByteTokenizer(), ["<|user|>"])
    >>> tokenizer.encode("<|user|>Hi", allowed_special="all").tolist()
    [256, 72, 105]
    """
    known = {token.content for token in tokenizer.added_tokens}
    for n, name in enumerate(names):
        if not name or name in known or name in names[:n]:
            why = (
                "it is empty" if not name else "the tokenizer has it already, or it is given twice"
            )
            raise UserError(f"{brief(name)} cannot be a new special token: {why}")
    values = tokenizer.to_dict()
    if isinstance(tokenizer, BPETokenizer):  # the description of a published one is its name
        values = {"kind": "bpe", **tokenizer.describe(), "ranks": format_ranks(tokenizer.ranks)}
    new = [AddedToken(name, tokenizer.n_vocab + n) for n, name in enumerate(names)]
    if tokenizer.kind in ("char", "byte"):
        values["special_tokens"] = [*tokenizer.special_tokens, *names]
    else:
        added = values.get("added_tokens", [])
        values["added_tokens"] = [*added, *map(asdict, new)]
    found = tokenizer_of(values, Path("tokenizer.json"))
    found.chat_template = tokenizer.chat_template
    found.special_tokens_map = dict(tokenizer.special_tokens_map)
    return found


def resize_token_embeddings(model: GPT, n_tokens: int) -> GPT:
    """Return a copy of a model whose vocabulary has `n_tokens` tokens, more than before.

    Each new row of the token embedding is the mean of the old rows, and so is each new row of a
    head that is not tied to the embedding. So at first, the logit of a new token is the mean of all
    logits, and no new token is more probable than 1 / V (Hewitt 2021, "Initializing new word
    embeddings for pretrained language models"). A new element of a head's bias is 0.

    Parameters
    ----------
    model : GPT
        It does not change; the copy shares the other parameters with it.
    n_tokens : int

    Raises
    ------
    UserError
        If the model has more tokens than this, or packed weights.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> larger = resize_token_embeddings(model, 67)
    >>> logits, _ = larger(np.array([[1, 2, 66]]))
    >>> logits.shape, larger.lm_head.weight is larger.transformer.wte.weight
    ((1, 3, 67), True)
    """
    demand_float32(model)
    more = n_tokens - model.config.vocab_size
    if more < 0:
        raise UserError(
            f"the model has {model.config.vocab_size:,} tokens, and {n_tokens:,} are asked for: "
            "tokens can be added, and none can be removed"
        )
    config = dataclasses.replace(model.config, vocab_size=n_tokens)
    with unallocated():
        larger = architecture_of(config).model(config, dtype=model.transformer.wte.weight.dtype)
    shapes = {name: parameter.shape for name, parameter in larger.named_parameters()}
    larger.adopt_state_dict(
        {
            name: array if array.shape == shapes[name] else _with_rows(array, more)
            for name, array in model.state_dict().items()
        }
    )
    larger.generation_config = model.generation_config
    larger.train(model.training)
    return larger


def _with_rows(array: ndarray, n: int) -> ndarray:
    """Return an array with n more rows, each the mean of the others; of a bias with zeros."""
    row = array.mean(axis=0, dtype=np.float64) if array.ndim > 1 else np.zeros(())
    return np.concatenate([array, np.broadcast_to(row, (n, *row.shape)).astype(array.dtype)])

"""The labels that a model with a classification head gives to texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from autograd import nn, no_grad
from npgpt.errors import UserError
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.sentences import batches
from npgpt.tokenizers.base import Tokenizer
from npgpt.training.data import END, end_token

PADDING = "<pad>"  # the padding of a tokenizer that is made for a classification


def label_row(ids: ndarray, tokenizer: Tokenizer, length: int) -> ndarray:
    """Return the tokens of a text as a model with labels reads them, at most `length`.

    The tokenizer's own tokens stand around them, or if it has none after a text, the end token
    stands there (Radford et al. 2018, section 3.3), provided that another token is the padding. A
    longer text loses its last tokens.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> label_row(np.array([104, 105]), ByteTokenizer([END, PADDING]), 8)
    array([104, 105, 256])
    """
    before, after = tokenizer.before, tokenizer.after
    stop = tokenizer.special_tokens.get(END)
    if not after and stop is not None and stop != padding_token(tokenizer):
        after = (stop,)
    room = length - len(before) - len(after)
    if room < 1:
        raise UserError(
            f"the context has {length} tokens, and {length - room} stand before and after each "
            "text: a larger one (block_size) is needed"
        )
    return np.concatenate([before, ids[:room], after]).astype(np.int64)


def stop_token(tokenizer: Tokenizer) -> int:
    """Return the token that ends a text: the last of the tokenizer's own, or the end token."""
    if tokenizer.after:
        return tokenizer.after[-1]
    return end_token(tokenizer, f"a text ends with {END}")


def padding_token(tokenizer: Tokenizer) -> int:
    """Return the token that fills up shorter texts: the tokenizer's, or the end token, or 0."""
    names = tokenizer.special_tokens_map.get("pad_token", ""), "[PAD]", PADDING, END
    known = tokenizer.special_tokens
    return next((known[name] for name in names if name in known), 0)


def label_probabilities(model: GPT, tokenizer: Tokenizer, texts: Sequence[str]) -> ndarray:
    """Return the probability of each label for each text.

    Parameters
    ----------
    model : GPT
        A model with labels, such as a ``BertForSequenceClassification``.
    tokenizer : Tokenizer
    texts : sequence of str
        A text that is longer than the model's context loses its end.

    Returns
    -------
    ndarray of float64, (N, number of labels)
        Equal probabilities for a text without any token.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> config = GPTConfig(vocab_size=257, n_positions=16, n_embd=8, n_layer=1, n_head=2,
    ...                    labels=("bad", "good", "neither"))
    >>> found = label_probabilities(GPT(config), ByteTokenizer([END]), ["a film", "a bore"])
    >>> found.shape, found.sum(axis=1).round(6).tolist()
    ((2, 3), [1.0, 1.0])
    """
    most, n = model.config.n_positions, len(model.config.labels)
    rows = []
    for text in texts:
        ids = tokenizer.encode(text, disallowed_special=(), add_special_tokens=False)
        rows.append(label_row(ids, tokenizer, most) if len(ids) else ids)
    found = np.full((len(rows), n), 1 / n)
    with no_grad(), evaluating():
        for group in batches([len(row) for row in rows]):
            lengths = np.array([len(rows[i]) for i in group])
            mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
            ids = np.full(mask.shape, padding_token(tokenizer))
            ids[mask] = np.concatenate([rows[i] for i in group])
            logits, _ = model(ids, attention_mask=None if mask.all() else mask)  # (B, L)
            found[group] = nn.softmax(logits.numpy().astype(np.float64), -1)
    return found

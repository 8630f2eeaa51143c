"""The labels that a model with a classification head gives to texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import nn, no_grad
from npgpt.errors import UserError
from npgpt.models.bert import Bert
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.sentences import batches
from npgpt.tokenizers.base import Tokenizer, shorten
from npgpt.training.data import END, end_token

PADDING = "<pad>"  # the padding of a tokenizer that is made for a classification
DELIMITER = "<|delimiter|>"  # between two texts, in a tokenizer that is made for pairs of them


def label_row(texts: Sequence[ndarray], tokenizer: Tokenizer, length: int) -> ndarray:
    """Return the tokens of a text, or of two, as a model with labels reads them, at most `length`.

    The tokenizer's own tokens stand around them, or if it has none after a text, the end token
    stands there (Radford et al. 2018, section 3.3), provided that another token is the padding.
    Between two texts stands the token after a text, or if there is none the delimiter, or the end
    token. A longer text loses its last tokens. Of two, the longer is cut, as far as the other is
    long; then both are.

    Examples
    --------
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> tokenizer, text, other = ByteTokenizer([END, PADDING]), np.array([104, 105]), np.array([33])
    >>> label_row([text], tokenizer, 8), label_row([text, other], tokenizer, 8)
    (array([104, 105, 256]), array([104, 105, 256,  33, 256]))
    """
    before, after = tokenizer.before, tokenizer.after
    stop = tokenizer.special_tokens.get(END)
    if not after and stop is not None and stop != padding_token(tokenizer):
        after = (stop,)
    between: tuple[int, ...] = ()
    if len(texts) > 1:
        delimiter = tokenizer.special_tokens.get(DELIMITER)
        between = tokenizer.after or (stop_token(tokenizer) if delimiter is None else delimiter,)
    room = length - len(before) - len(between) - len(after)
    if room < len(texts):
        raise UserError(
            f"the context has {length} tokens, and {length - room} stand before and after each "
            "text: a larger one (block_size) is needed"
        )
    if len(texts) == 1:
        return np.concatenate([before, texts[0][:room], after]).astype(np.int64)
    first, second = texts
    n, m = shorten(len(first), len(second), room)
    return np.concatenate([before, first[:n], between, second[:m], after]).astype(np.int64)


def segments(ids: ndarray, tokenizer: Tokenizer) -> ndarray:
    """Return the segment of each token of pairs, (B, T): 1 after the first text, as BERT reads it.

    Examples
    --------
    >>> from npgpt.tokenizers import WordPieceTokenizer
    >>> names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]
    >>> tokenizer = WordPieceTokenizer({name: i for i, name in enumerate(names)})
    >>> segments(np.array([[2, 4, 3, 4, 4, 3, 0]]), tokenizer)
    array([[0, 0, 0, 1, 1, 1, 0]])
    """
    is_end = ids == stop_token(tokenizer)
    ends = np.cumsum(is_end, axis=1) - is_end  # texts that end before each token
    return (ends == 1).astype(np.int64)


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


def label_logits(
    model: GPT, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] = ()
) -> ndarray:
    """Return the logit of each label for each text; of a model with one label, its number.

    Parameters
    ----------
    model : GPT
        A model with labels, such as a ``BertForSequenceClassification``.
    tokenizer : Tokenizer
    texts : sequence of str
        A text that is longer than the model's context loses its end.
    pairs : sequence of str, optional
        A second text for each text, for a model that was trained on pairs.

    Returns
    -------
    ndarray of float64, (N, number of labels)
        Zeros for a text without any token.
    """
    most = model.config.n_positions
    rows = []
    for both in zip(texts, pairs, strict=True) if pairs else zip(texts, strict=True):
        ids = [
            tokenizer.encode(text, disallowed_special=(), add_special_tokens=False) for text in both
        ]
        rows.append(label_row(ids, tokenizer, most) if len(ids[0]) else ids[0])
    found = np.zeros((len(rows), len(model.config.labels)))
    with no_grad(), evaluating():
        for group in batches([len(row) for row in rows]):
            lengths = np.array([len(rows[i]) for i in group])
            mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
            inputs = np.full(mask.shape, padding_token(tokenizer))
            inputs[mask] = np.concatenate([rows[i] for i in group])
            more: dict[str, Any] = {"attention_mask": None if mask.all() else mask}
            if pairs and isinstance(model, Bert):
                more["token_type_ids"] = segments(inputs, tokenizer)
            found[group] = model(inputs, **more)[0].numpy()  # (B, L)
    return found


def label_probabilities(
    model: GPT, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] = ()
) -> ndarray:
    """Return the probability of each label for each text; see `label_logits`.

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
    return nn.softmax(label_logits(model, tokenizer, texts, pairs), -1)

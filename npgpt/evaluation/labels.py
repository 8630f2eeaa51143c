"""The labels that a model with a classification head gives to texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from autograd import nn, no_grad
from npgpt.models.bert import Bert
from npgpt.module import evaluating
from npgpt.sentences import batches
from npgpt.tokenizers.base import Tokenizer


def label_probabilities(model: Bert, tokenizer: Tokenizer, texts: Sequence[str]) -> ndarray:
    """Return the probability of each label for each text.

    Parameters
    ----------
    model : Bert
        A ``BertForSequenceClassification``.
    tokenizer : Tokenizer
    texts : sequence of str
        A text that is longer than the model's context loses its end.

    Returns
    -------
    ndarray of float64, (N, number of labels)
        Equal probabilities for a text without any token.

    Examples
    --------
    >>> from npgpt.models.bert import BertConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> kind = "BertForSequenceClassification"
    >>> config = BertConfig(vocab_size=256, n_positions=16, n_embd=8, n_layer=1, n_head=2,
    ...                     architecture=kind, num_labels=3)
    >>> found = label_probabilities(Bert(config), ByteTokenizer(), ["a film", "a bore"])
    >>> found.shape, found.sum(axis=1).round(6).tolist()
    ((2, 3), [1.0, 1.0])
    """
    most = model.config.n_positions
    rows = [tokenizer.encode_batch([text], max_length=most).input_ids[0] for text in texts]
    n = model.config.num_labels
    found = np.full((len(rows), n), 1 / n)
    with no_grad(), evaluating():
        for group in batches([len(row) for row in rows]):
            lengths = np.array([len(rows[i]) for i in group])
            mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
            ids = np.full(mask.shape, tokenizer.pad_token_id)
            ids[mask] = np.concatenate([rows[i] for i in group])
            logits, _ = model(ids, attention_mask=None if mask.all() else mask)  # (B, L)
            found[group] = nn.softmax(logits.numpy().astype(np.float64), -1)
    return found

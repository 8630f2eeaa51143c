"""The loss of a language model over a text: per token, per character and per byte.

Two tokenizers divide a text into different tokens, so losses per token cannot be compared. Bits per
character and per byte can be compared, since the characters and bytes of a text do not depend on
the tokenizer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.evaluation.choices import encode_text
from npgpt.evaluation.loss import Check, batch_losses, every_window
from npgpt.evaluation.metrics import Estimate, estimate
from npgpt.evaluation.ngram import NGram
from npgpt.models.gpt import GPT
from npgpt.tokenizers.base import Tokenizer


class TextLoss(NamedTuple):
    """The losses over the windows of a text, in nats per token."""

    losses: ndarray  # (windows,), the mean of each
    sizes: ndarray  # (windows,), the tokens that each predicts
    characters: int  # of the text of all these tokens
    bytes: int  # of the same text in UTF-8

    def metrics(self) -> dict[str, Estimate]:
        """Return loss, perplexity and bits, with intervals by a bootstrap over the windows."""

        def mean(losses: ndarray, sizes: ndarray) -> float:
            return float(np.average(losses, weights=sizes))

        loss = estimate(mean, self.losses, self.sizes)
        bits = self.sizes.sum() / np.log(2)  # of a loss of 1
        return {
            "loss": loss,
            "perplexity": Estimate(*np.exp(loss).tolist()),
            "bits per character": Estimate(*(np.array(loss) * bits / self.characters).tolist()),
            "bits per byte": Estimate(*(np.array(loss) * bits / self.bytes).tolist()),
        }


def text_loss(
    model: GPT,
    tokenizer: Tokenizer,
    text: str,
    length: int,
    stride: int,
    check: Check = lambda: None,
) -> TextLoss:
    """Return the loss of a model over a text: each token but the first is predicted once.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    text : str
        A special token that is spelled out in the text is read as ordinary text.
    length : int
        How many tokens the model reads at once.
    stride : int
        The number of tokens from the beginning of a window to the beginning of the next. The model
        reads at least `length` - `stride` tokens before each token that it predicts, if the text
        has so many. A small stride takes more time, and gives a lower loss.
    check : callable
        Called before each window: it may raise to end the evaluation.

    Raises
    ------
    UserError
        If the text has fewer than two tokens, if `length` is larger than the model's context, or if
        `stride` is larger than `length`, so that tokens would be left out.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    >>> found = text_loss(model, ByteTokenizer(), "To be, or not to be?", length=8, stride=4)
    >>> found.sizes.tolist()
    [8, 4, 4, 3]
    >>> round(found.metrics()["bits per byte"].value)  # an untrained model: 8 bits or so
    8
    """
    if not 1 <= length <= model.config.n_positions:
        raise UserError(
            f"the length is {length}; the model reads from 1 to {model.config.n_positions} tokens"
        )
    if not 1 <= stride <= length:
        raise UserError(f"the stride is {stride}; it must be from 1 to the length, {length}")
    ids = encode(tokenizer, text)
    windows = every_window(ids, length, 1, None, stride)
    return _in_text(*batch_losses(model, windows, check), tokenizer, text, ids)


def ngram_loss(train: str, order: int, tokenizer: Tokenizer, text: str, sizes: ndarray) -> TextLoss:
    """Return the loss of an n-gram model over the same tokens, in windows of the same sizes."""
    counted = NGram(encode(tokenizer, train), tokenizer.n_vocab, order)
    ids = encode(tokenizer, text)
    sums = np.add.reduceat(counted.losses(ids), np.cumsum(sizes) - sizes)
    return _in_text(sums / sizes, sizes, tokenizer, text, ids)


def encode(tokenizer: Tokenizer, text: str) -> ndarray:
    """Return the tokens of a text, of which there are at least two."""
    ids = encode_text(tokenizer, text)
    if len(ids) < 2:
        raise UserError(f"the text has {len(ids)} tokens; at least two are needed")
    return ids


def _in_text(
    losses: ndarray, sizes: ndarray, tokenizer: Tokenizer, text: str, ids: ndarray
) -> TextLoss:
    """Return losses with the characters and bytes that the predicted tokens stand for."""
    first = tokenizer.decode(ids[:1])
    n_bytes = max(1, len(text.encode()) - len(first.encode()))
    return TextLoss(losses, sizes, max(1, len(text) - len(first)), n_bytes)

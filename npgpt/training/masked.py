"""Pre-training of a BERT: fill the gaps of a text, from what stands before and after them.

Devlin et al. 2018, arXiv:1810.04805, section 3.1, task 1. Of each window of a text, 15 % of the
tokens are chosen, and the loss asks for these. Of the chosen tokens, 80 % are replaced by the token
``[MASK]``, 10 % by a random token, and 10 % stay. The texts for which the model is made have no
``[MASK]``. Since any token may have been replaced, the model must judge every token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import no_grad
from npgpt.errors import UserError
from npgpt.evaluation.loss import Check, mean_loss
from npgpt.gaps import MASK, name_mask, ordinary_tokens
from npgpt.models.bert import BertConfig
from npgpt.models.config import ModelConfig
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.options import quoted
from npgpt.tokenizers import Tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import IGNORED, Batch, Tokens, n_predicted, separated
from npgpt.training.task import VALIDATION, LanguageModelling, first_words

CHOSEN, MASKED, REPLACED = 0.15, 0.8, 0.1  # of all tokens, and of the chosen ones


def mask_tokens(
    ids: ndarray, generator: np.random.Generator, mask: int, ordinary: ndarray
) -> tuple[ndarray, ndarray]:
    """Return what a model reads in place of a text, and the tokens that it is to find.

    Of the ordinary tokens in the text, 15 % are chosen, rounded, but one at least.

    Parameters
    ----------
    ids : ndarray of int, (T,)
    generator : Generator
    mask : int
        The token that stands for a gap.
    ordinary : ndarray of int
        The tokens that may be chosen, and that may replace others; special tokens are not among
        them. In ascending order.

    Returns
    -------
    inputs, targets : ndarray of int, (T,)
        A target of -100 is not asked for. A text without ordinary tokens has no other targets.

    Examples
    --------
    >>> inputs, targets = mask_tokens(
    ...     np.arange(10, 30), np.random.default_rng(1), 1, np.arange(10, 30)
    ... )
    >>> inputs
    array([10,  1, 12, 13, 14, 15, 16, 17, 18, 19,  1, 21, 22, 23, 24, 25, 26,
           27,  1, 29])
    >>> targets[targets != -100]
    array([11, 20, 28])
    """
    places = np.flatnonzero(np.isin(ids, ordinary))
    n = min(len(places), max(1, round(CHOSEN * len(places))))
    chosen = generator.permutation(places)[:n]
    draws = generator.random(n)
    others = generator.choice(ordinary, n)
    inputs, targets = ids.copy(), np.full_like(ids, IGNORED)
    targets[chosen] = ids[chosen]
    inputs[chosen[draws < MASKED]] = mask
    is_replaced = (draws >= MASKED) & (draws < MASKED + REPLACED)
    inputs[chosen[is_replaced]] = others[is_replaced]
    return inputs, targets


class MaskedTokens(LanguageModelling):
    """Find the tokens that were masked in windows of a text (`mask_tokens`).

    If the tokenizer puts tokens before and after a text, such as ``[CLS]`` and ``[SEP]``, these
    stand at the ends of each window. The gaps of a window are a function of the seed, the step and
    the number of the window in the step. Those of the validation data are a function of the seed
    and the number of the window, so all steps, and all runs of a seed, are judged by the same gaps.

    Raises
    ------
    UserError
        If the tokenizer has no token for gaps, or the context has no room between the tokens at the
        ends of a window; see also `LanguageModelling`.
    """

    name = "masked"
    model_types = ("bert",)

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, data: dict[str, Tokens]) -> None:
        self.mask = tokenizer.special_tokens[name_mask(tokenizer)]
        self.ordinary = ordinary_tokens(tokenizer)
        self.ends = np.array(tokenizer.before, np.int64), np.array(tokenizer.after, np.int64)
        super().__init__(config, tokenizer, data)
        if self.n_text < 1:
            raise UserError(
                f"block_size is {config.block_size}, and the tokenizer puts "
                f"{sum(map(len, self.ends))} tokens around a text: give a larger --block_size"
            )

    @classmethod
    def special_tokens(cls, config: TrainConfig) -> list[str]:
        """Return the special tokens that a tokenizer needs which is made for a run."""
        return [*super().special_tokens(config), MASK]

    def architecture(self, base: ModelConfig | None) -> ModelConfig:
        """Return the configuration of the model; a new one has the tokenizer's padding token.

        Raises
        ------
        UserError
            If the model to start from has no head for masked tokens.
        """
        architecture = super().architecture(base)
        assert isinstance(architecture, BertConfig)
        if base is None:
            padding = self.tokenizer.special_tokens.get("[PAD]")
            return dataclasses.replace(architecture, pad_token_id=padding)
        if architecture.architecture != "BertForMaskedLM":
            raise UserError(
                f"{self.config.init_from} is a {architecture.architecture}, which has no head for "
                "masked tokens: start from a BertForMaskedLM, or from scratch"
            )
        return architecture

    def generation_config(self) -> dict[str, Any]:
        """Return no options: a BERT does not generate."""
        return {}

    @property
    def n_text(self) -> int:
        """The tokens of the text in a window."""
        return self.config.block_size - sum(map(len, self.ends))

    @property
    def window_length(self) -> int:
        """How many tokens of the text a window has."""
        return self.n_text

    def make_batch(self, windows: ndarray, generators: Iterable[np.random.Generator]) -> Batch:
        """Return the batch of some windows (B, n): with tokens at their ends, and gaps.

        The gaps of each window are drawn from a generator of its own.
        """
        before, after = (np.broadcast_to(end, (len(windows), len(end))) for end in self.ends)
        ids = np.concatenate([before, windows, after], axis=1, dtype=np.int64)  # (B, T)
        drawn = zip(ids, generators, strict=True)
        rows = [mask_tokens(row, generator, self.mask, self.ordinary) for row, generator in drawn]
        inputs, targets = map(np.stack, zip(*rows, strict=True))
        apart = separated(ids, ids, self.boundary)
        return Batch(inputs, targets, apart.attention_mask, apart.position_ids)

    def random_batch(self, split: int, generator: np.random.Generator) -> Batch:
        """Draw windows of a split at random, and the gaps in them, (B, T)."""
        windows = self.draw_windows(split, self.n_text, generator)[:, :-1]
        seeds = generator.integers(2**63, size=len(windows))
        return self.make_batch(windows, map(np.random.default_rng, seeds))

    def validation_batches(self, batch_size: int, n_text: int) -> Iterator[Batch]:
        """Yield all windows of the validation split; the last batch may be one, shorter, window."""
        text = self.splits[VALIDATION]
        n_whole, rest = divmod(len(text), n_text)
        groups = [range(n_whole)[first:][:batch_size] for first in range(0, n_whole, batch_size)]
        if rest:
            groups.append(range(n_whole, n_whole + 1))
        for numbers in groups:
            windows = np.stack([text[n * n_text : (n + 1) * n_text] for n in numbers])  # (B, n)
            yield self.make_batch(
                windows, (np.random.default_rng([self.config.seed, 5, n]) for n in numbers)
            )

    def whole_loss(self, model: GPT, check: Check = lambda: None) -> float:
        """Return the mean loss over the gaps in all windows of the validation split."""
        T, V = model.config.n_positions, model.config.vocab_size
        batch_size = max(1, min(64, 2**22 // (T * V)))  # so that the logits stay small
        return mean_loss(model, self.validation_batches(batch_size, self.n_text), check)

    def metrics(self, model: GPT, step: int, check: Check = lambda: None) -> dict[str, float]:
        """Return the share of gaps that the best token fills, in the batches of the loss."""
        generator = np.random.default_rng([self.config.seed, 2 + VALIDATION, step])
        n_right = n_asked = 0
        with no_grad(), evaluating():
            for _ in range(self.config.eval_iters):
                check()
                inputs, targets, *others = self.random_batch(VALIDATION, generator)
                best = model(inputs, None, *others)[0].numpy().argmax(axis=-1)  # (B, T)
                n_right += int(np.count_nonzero(best == targets))
                n_asked += n_predicted(targets)
        return {"accuracy": n_right / max(1, n_asked)}

    def texts(self, batch: Batch) -> list[str]:
        """Return each window as the model reads it, with its gaps."""
        return [self.tokenizer.decode(row) for row in batch.inputs]

    def prompt(self) -> str:
        """Return the beginning of the text, with a gap."""
        ids = self.text[:200]
        words = first_words(self.tokenizer.decode(ids[np.isin(ids, self.ordinary)]))
        ids = self.tokenizer.encode(words, disallowed_special=(), add_special_tokens=False)
        middle = len(ids) // 2
        return self.tokenizer.decode([*ids[:middle], self.mask, *ids[middle + 1 :]])

    def sample(self, model: GPT) -> str:
        """Return the beginning of the validation data with gaps, and as the model fills them."""
        return self.fill(model, min(self.config.sample_tokens, self.n_text))

    def final_sample(self, model: GPT) -> str:
        """Return the same, of a whole window."""
        return self.fill(model, self.n_text)

    def fill(self, model: GPT, n: int) -> str:
        """Return the first n tokens of the validation data with gaps, ``_``, and as filled."""
        inputs, targets, *others = next(self.validation_batches(1, n))
        with no_grad(), evaluating():
            logits = model(inputs, None, *others)[0].numpy()  # (1, T, V)
        best = self.ordinary[logits[..., self.ordinary].argmax(axis=-1)]  # (1, T)
        is_asked = targets != IGNORED
        inside = slice(len(self.ends[0]), len(self.ends[0]) + n)
        gaps, filled = (
            self.tokenizer.decode(np.where(is_asked, tokens, inputs)[0, inside])
            for tokens in (np.full_like(inputs, self.mask), best)
        )
        return f"{gaps.replace(name_mask(self.tokenizer), '_')}\n{filled}"

    def command(self, folder: Path) -> str:
        """Return the command that fills a gap."""
        return f"npgpt fill --model {quoted(str(folder))} {quoted(self.prompt())}"

"""Gaps in a text: the token that stands for one, and the tokens that a BERT fills it with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from autograd import nn, no_grad
from npgpt.errors import UserError
from npgpt.models.bert import Bert
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.tokenizers import Tokenizer

MASK = "[MASK]"


def name_mask(tokenizer: Tokenizer) -> str:
    """Return the name of the token that stands for a gap: ``[MASK]``, or another in some files.

    Raises
    ------
    UserError
        If the tokenizer has no such token.
    """
    name = tokenizer.special_tokens_map.get("mask_token", MASK)
    if name not in tokenizer.special_tokens:
        raise UserError(
            f"the tokenizer ({tokenizer.kind}) has no special token {name}, which stands for a "
            "gap: take char, byte, or BERT's kind, which npgpt tokenizer train --kind wordpiece "
            "trains"
        )
    return name


def ordinary_tokens(tokenizer: Tokenizer) -> ndarray:
    """Return the ids of all tokens that are not special, in ascending order."""
    special = {*tokenizer.special_tokens.values(), *tokenizer.before, *tokenizer.after}
    return np.array(sorted(set(tokenizer.tokens) - special), np.int64)


def demand_masked_head(model: GPT, what: str) -> Bert:
    """Return a model that can fill gaps, and refuse any other; `what` names it in the message.

    Raises
    ------
    UserError
        If the model is no BERT, or has no head for masked tokens.
    """
    if not isinstance(model, Bert):
        raise UserError(
            f"{what} reads from left to right, and fills no gaps: give a BERT, as npgpt train "
            "--task masked trains it, or let this model continue a text with npgpt generate"
        )
    if model.config.architecture != "BertForMaskedLM":
        raise UserError(
            f"{what} is a {model.config.architecture}, which has no head for masked tokens: give a "
            "BertForMaskedLM"
        )
    return model


@dataclass(frozen=True)
class Guess:
    """A token for a gap, with the names that the fill-mask pipeline of transformers has.

    Attributes
    ----------
    score : float
        The probability of the token.
    token : int
    token_str : str
        What the token spells. In WordPiece, ``##s`` continues a word.
    sequence : str
        The text with this token in the gap. Other gaps stay.
    """

    score: float
    token: int
    token_str: str
    sequence: str


def fill_gaps(model: GPT, tokenizer: Tokenizer, text: str, top: int = 5) -> list[list[Guess]]:
    """Return the most probable tokens for each gap of a text.

    Each gap is filled for itself, as if the other gaps stayed.

    Parameters
    ----------
    model : GPT
        A `Bert` with a head for masked tokens.
    tokenizer : Tokenizer
    text : str
        A gap is written as the tokenizer's mask token, ``[MASK]``.
    top : int
        How many tokens.

    Returns
    -------
    list of list of Guess
        For each gap, the most probable token first.

    Raises
    ------
    UserError
        If the model cannot fill gaps, the tokenizer has no token for one, or the text has no gap
        or more tokens than the model reads.

    Examples
    --------
    >>> from npgpt.models.bert import BertConfig
    >>> from npgpt.tokenizers import CharTokenizer
    >>> tokenizer = CharTokenizer("abc", ["[MASK]"])
    >>> model = Bert(BertConfig(vocab_size=4, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    >>> first, second = fill_gaps(model, tokenizer, "[MASK]b[MASK]", top=4)
    >>> round(sum(guess.score for guess in first), 6)
    1.0
    """
    model = demand_masked_head(model, "the model")
    name = name_mask(tokenizer)
    mask = tokenizer.special_tokens[name]
    ids = tokenizer.encode(text, allowed_special={name}, disallowed_special=())  # (T,)
    gaps = np.flatnonzero(ids == mask)
    if not len(gaps):
        raise UserError(f"the text has no gap: write one as {name}")
    if len(ids) > model.config.n_positions:
        raise UserError(
            f"the text has {len(ids)} tokens, and the model reads {model.config.n_positions}"
        )
    with no_grad(), evaluating():
        probabilities = nn.softmax(model(ids[None])[0][0]).numpy()[gaps]  # (gaps, V)
    inside = slice(len(tokenizer.before), len(ids) - len(tokenizer.after))
    found = []
    for gap, scores in zip(gaps, probabilities, strict=True):
        guesses = []
        for token in np.argsort(-scores, kind="stable")[:top].tolist():
            filled = ids.copy()
            filled[gap] = token
            guesses.append(
                Guess(
                    float(scores[token]),
                    token,
                    tokenizer.decode([token]),
                    tokenizer.decode(filled[inside]),
                )
            )
        found.append(guesses)
    return found

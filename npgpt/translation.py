"""Translating texts with an encoder-decoder: text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.generation import generate
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.tokenizers import Tokenizer

BATCH = 32  # texts that are translated at once


@dataclass
class Translation:
    """What a model wrote for a source.

    Attributes
    ----------
    source, target : str
    logprob : float
        The logarithm of the probability of the target, with its end.
    ids : list of int
        The tokens of the target, with its end.
    """

    source: str
    target: str
    logprob: float
    ids: list[int]


def demand_encoder_decoder(model: GPT) -> EncoderDecoder:
    """Return the model; refuse another than an encoder-decoder."""
    if isinstance(model, EncoderDecoder):
        return model
    raise UserError(
        f"the model is a {model.config.model_type}, and only an encoder-decoder translates; "
        "npgpt train --pairs FILE makes one"
    )


def encode_source(model: GPT, tokenizer: Tokenizer, text: str) -> ndarray:
    """Return the tokens of a source, (S,), which the model can read.

    A special token that the text spells is encoded like any other text.

    Raises
    ------
    UserError
        If the model is no `EncoderDecoder`; or if the text is empty, has more tokens than the model
        has positions, or has a character that is not in the vocabulary.
    """
    demand_encoder_decoder(model)
    ids = tokenizer.encode(text, disallowed_special=())
    if not len(ids):
        raise UserError("the source is empty")
    if len(ids) > model.config.n_positions:
        raise UserError(
            f"the source has {len(ids):,} tokens, and the model reads at most "
            f"{model.config.n_positions:,}: shorten it, or cut it into several"
        )
    return ids


def translate(
    model: GPT, tokenizer: Tokenizer, texts: Sequence[str], num_beams: int = 4
) -> list[Translation]:
    """Translate texts, or do what else the model was trained to do with a source.

    Parameters
    ----------
    model : EncoderDecoder
    tokenizer : Tokenizer
    texts : sequence of str
    num_beams : int
        How many beginnings of a target the beam search keeps; 1 takes the most probable token in
        each step.

    Returns
    -------
    list of Translation
        One for each text, in the order of the texts.

    Raises
    ------
    UserError
        See `encode_source`.

    Examples
    --------
    >>> from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
    >>> from npgpt.tokenizers import ByteTokenizer
    >>> config = EncoderDecoderConfig(256, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    >>> found = translate(EncoderDecoder(config), ByteTokenizer(), ["a cat", "a dog"])
    >>> [each.source for each in found]
    ['a cat', 'a dog']
    """
    if isinstance(texts, str):
        raise UserError("translate takes a list of texts, and this is one text")
    writer = demand_encoder_decoder(model)
    sources = [encode_source(model, tokenizer, text) for text in texts]
    # sources of similar lengths are translated together, since the longest decides the time
    order = sorted(range(len(sources)), key=lambda n: len(sources[n]))
    found: dict[int, Translation] = {}
    for first in range(0, len(order), BATCH):
        numbers = order[first : first + BATCH]
        result = generate(
            writer,
            [sources[n] for n in numbers],
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=writer.config.n_positions,
            eos_token_id=writer.config.eos_token_id,
            output_logprobs=True,
        )
        for n, row, logprobs in zip(numbers, result.sequences, result.logprobs, strict=True):
            ids = row[1:].tolist()  # without the token that the decoder reads first
            if writer.config.eos_token_id in ids:
                ids = ids[: ids.index(writer.config.eos_token_id) + 1]
            text = tokenizer.decode(
                [i for i in ids if i in tokenizer.tokens], skip_special_tokens=True
            )
            found[n] = Translation(texts[n], text, float(np.sum(logprobs)), ids)
    return [found[n] for n in range(len(texts))]

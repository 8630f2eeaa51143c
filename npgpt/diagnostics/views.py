"""What a page shows of a model beside a pass: the logit lens, and what adds to a prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from autograd.page.views import View
from npgpt.diagnostics.axis_names import name_token
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import Predictions, logit_lens
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT


def make_views(model: Any, tokenizer: Any, ids: ndarray) -> list[View]:
    """Return what a page shows of a model that has read a text; empty if it predicts no next token.

    Parameters
    ----------
    model : Module
    tokenizer : Tokenizer
    ids : ndarray of int, (T,)
    """
    if isinstance(model, EncoderDecoder) or not model.predicts_tokens:
        return []
    lens = logit_lens(model, ids)
    best = int(lens.best[-1, -1, 0])
    return [
        _lens_view(tokenizer, ids, lens),
        *_attribution_views(model, tokenizer, ids, best),
    ]


def _names(tokenizer: Any, ids: ndarray) -> list[str]:
    return [name_token(tokenizer, i) for i in ids.tolist()]


def _lens_view(tokenizer: Any, ids: ndarray, lens: Predictions) -> View:
    def tip(best: ndarray, probabilities: ndarray) -> str:
        pairs = zip(_names(tokenizer, best), probabilities.tolist(), strict=True)
        return "  ".join(f"{name} {100 * p:.3g} %" for name, p in pairs)

    layers = ["embeddings", *(f"layer {i}" for i in range(len(lens.best) - 1))]
    tokens = _names(tokenizer, ids)
    tips = [
        [f"{layer}, after {token}: {tip(b, p)}" for token, b, p in zip(tokens, bs, ps, strict=True)]
        for layer, bs, ps in zip(layers, lens.best, lens.probabilities, strict=True)
    ]
    return View(
        "what each layer would predict (logit lens)",
        "A column is a token that was read. A cell has the most probable next token, if the last "
        "norm and the head read the hidden state after this layer. The stronger its colour, the "
        "more probable it is.",
        layers,
        tokens,
        [_names(tokenizer, line) for line in lens.best[..., 0]],
        lens.probabilities[..., 0],
        tips,
    )


def _attribution_views(model: GPT, tokenizer: Any, ids: ndarray, token: int) -> list[View]:
    found = attribute_directly(model, ids, token)
    tokens = _names(tokenizer, ids)
    added = np.concatenate([found.heads.sum(axis=-1), found.mlps[:, None]], axis=1)  # (L, H + 1)
    by_token = found.heads.sum(axis=1)  # (L, T)
    name, rest = name_token(tokenizer, token), found.total - added.sum()
    layers = [f"layer {i}" for i in range(len(added))]
    heads = [f"head {i}" for i in range(found.heads.shape[1])]
    tips = [
        [*(_where(parts, tokens) for parts in line), f"the MLP adds {mlp:+.4f}"]
        for line, mlp in zip(found.heads, found.mlps, strict=True)
    ]
    return [
        _numbers(
            f"what adds to the logit of {name}, the best token after the text",
            f"The logit is {found.logit:.4g}. Each head and each MLP adds its number directly, not "
            f"through a later layer; embeddings and biases add {rest:+.4g}.",
            layers, [*heads, "MLP"], added, tips,
        ),
        _numbers(
            f"what heads add to the logit of {name}, by the token that they look at",
            "The numbers of all heads of a layer together.",
            layers, tokens, by_token,
            [[f"{layer}, at {token}: {x:+.4f}" for token, x in zip(tokens, line, strict=True)]
             for layer, line in zip(layers, by_token, strict=True)],
        ),
    ]  # fmt: skip


def _where(parts: ndarray, tokens: list[str]) -> str:
    """Say what a head adds, and at which token it does so most."""
    most = int(np.abs(parts).argmax())
    return f"the head adds {parts.sum():+.4f}, most at {most} {tokens[most]}: {parts[most]:+.4f}"


def _numbers(
    title: str, note: str, rows: list[str], columns: list[str], x: ndarray, tips: list[list[str]]
) -> View:
    """Return a view of numbers, of which the largest has the full colour."""
    shares = x / (np.abs(x).max(initial=0) or 1)
    return View(
        title, note, rows, columns, [[f"{n:.3g}" for n in line] for line in x], shares, tips
    )

"""What a page shows of a model beside a pass: the logit lens, and what adds to a logit."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy import ndarray

from autograd import Tensor
from autograd.page.views import Element, Link, Term, View, Why
from autograd.stepper import Recording, Trace
from autograd.stepper.stops import CommandError
from npgpt.diagnostics.axis_names import name_token, read_ids
from npgpt.diagnostics.direct import DirectAttribution, DirectPass
from npgpt.diagnostics.inside import Predictions, logit_lens
from npgpt.gaps import MASK
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.models.vision import VisionGPT

MOST_ELEMENTS = 64  # logits about which a page offers to ask
CLOSE = 1e-3  # of a logit, and of 1: how far the model's logit may be from that of the pass


class ModelInsight:
    """What a page shows of a model that has read a text; of several texts, the first.

    If a weight or a token of the recorded pass was changed, the numbers are those of the model with
    the change.

    Parameters
    ----------
    model : GPT
        It says nothing about a model that predicts no tokens.
    tokenizer : Tokenizer
    """

    def __init__(self, model: GPT, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._known: WeakKeyDictionary[Trace, _Reading | None] = WeakKeyDictionary()

    def views(self, trace: Trace) -> list[View]:
        """Return the logit lens, and what adds to the logit of the first of `elements`."""
        reading = self._reading(trace)
        if reading is None:
            return []
        if not reading.is_whole:
            return [
                View(
                    "what each layer would predict",
                    "This is not known: with these weights and tokens alone, the model computes "
                    "other logits than this pass. A result inside the model was set, or the model "
                    "has read more than tokens.",
                    [], [], [], np.zeros((0, 0)), [],
                )
            ]  # fmt: skip
        found = [self._lens_view(reading)]
        if asked := reading.asked(self.tokenizer):
            found += self._attribution_views(reading, *asked[0])
        return found

    def elements(self, trace: Trace) -> list[Element]:
        """Return the logits of the best token and of the next one, after each position.

        Of a BERT, these are the logits of the best token for each gap. The last is the first.
        """
        reading = self._reading(trace)
        if reading is None or not reading.is_whole:
            return []
        return [
            Element(reading.logits, (0, t, token), self._what(reading, t, token))
            for t, token in reading.asked(self.tokenizer)[:MOST_ELEMENTS]
        ]

    def why(self, trace: Trace, number: int, place: tuple[int, ...]) -> Why:
        """Return what the parts of the model add to a logit."""
        reading = self._reading(trace)
        if reading is None or number != reading.logits or not reading.is_whole:
            raise CommandError("what adds to this value is known for the logits of a model alone")
        example, t, token = place
        if example:
            raise CommandError("what adds to a logit is known for example 0 alone")
        found = reading.direct.split(token, position=t)
        return Why(
            f"the logit of {self._what(reading, t, token)}",
            "Each part adds its number directly, not through a later layer. The divisors of norms "
            "are kept at their values.",
            float(trace.recording.values[number][place]),
            _split(found, reading.places, self._names(reading.ids), t),
        )

    def _reading(self, trace: Trace) -> _Reading | None:
        if trace not in self._known:
            self._known[trace] = self._read(trace.recording)
        return self._known[trace]

    def _read(self, recording: Recording) -> _Reading | None:
        model = self.model
        if isinstance(model, EncoderDecoder | VisionGPT) or model.lm_head is None:
            return None
        ids = read_ids(recording, model)  # (B, T)
        shape = None if ids is None else (*ids.shape, model.config.vocab_size)
        logits = [
            call.results[0] for call in recording.calls.values()
            if call.scope == "lm_head" and recording.values[call.results[0]].shape == shape
        ]  # fmt: skip
        if ids is None or not logits:
            return None
        return _Reading(_with_values(model, recording), ids[0], logits[-1], recording)

    def _names(self, ids: ndarray) -> list[str]:
        return [name_token(self.tokenizer, i) for i in ids.tolist()]

    def _what(self, reading: _Reading, t: int, token: int) -> str:
        """Return which logit is meant: that of a token at, or after, a position."""
        where = "after" if self.model.predicts_tokens else "at"
        name, here = name_token(self.tokenizer, token), name_token(self.tokenizer, reading.ids[t])
        return f"{name} {where} {t} {here}"

    def _lens_view(self, reading: _Reading) -> View:
        def tip(best: ndarray, probabilities: ndarray) -> str:
            pairs = zip(self._names(best), probabilities.tolist(), strict=True)
            return "  ".join(f"{name} {100 * p:.3g} %" for name, p in pairs)

        lens, is_causal = reading.lens, self.model.predicts_tokens
        where = "after" if is_causal else "at"
        layers = ["embeddings", *(f"layer {i}" for i in range(len(lens.best) - 1))]
        tokens = self._names(reading.ids)
        tips = [
            [
                f"{layer}, {where} {token}: {tip(b, p)}"
                for token, b, p in zip(tokens, bs, ps, strict=True)
            ]
            for layer, bs, ps in zip(layers, lens.best, lens.probabilities, strict=True)
        ]
        norm = "the last norm and the head" if self.model.transformer.ln_f else "the head"
        return View(
            "what each layer would predict (logit lens)",
            f"A column is a token that was read. A cell has the most probable "
            f"{'next token' if is_causal else 'token at this place'}, if {norm} read the hidden "
            "state after this layer. The stronger its colour, the more probable it is.",
            layers,
            tokens,
            [self._names(line) for line in lens.best[..., 0]],
            lens.probabilities[..., 0],
            tips,
        )

    def _attribution_views(self, reading: _Reading, t: int, token: int) -> list[View]:
        found, tokens = reading.direct.split(token, position=t), self._names(reading.ids)
        added = np.concatenate([found.heads.sum(axis=-1), found.mlps[:, None]], axis=1)  # (L, H+1)
        by_token = found.heads.sum(axis=1)  # (L, T)
        rest, what = found.total - added.sum(), self._what(reading, t, token)
        layers = [f"layer {i}" for i in range(len(added))]
        heads = [f"head {i}" for i in range(found.heads.shape[1])]
        tips = [
            [*(_where(parts, tokens) for parts in line), f"the MLP adds {mlp:+.4f}"]
            for line, mlp in zip(found.heads, found.mlps, strict=True)
        ]
        return [
            _numbers(
                f"what adds to the logit of {what}",
                f"The logit is {found.logit:.4g}. Each head and each MLP adds its number directly, "
                f"not through a later layer; embeddings and biases add {rest:+.4g}.",
                layers, [*heads, "MLP"], added, tips,
            ),
            _numbers(
                f"what heads add to the logit of {what}, by the token that they look at",
                "The numbers of all heads of a layer together.",
                layers, tokens, by_token,
                [[f"{layer}, at {token}: {x:+.4f}" for token, x in zip(tokens, line, strict=True)]
                 for layer, line in zip(layers, by_token, strict=True)],
            ),
        ]  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where the parts of a model stand in a recorded pass.

    Parameters
    ----------
    embedding : int or None
        The number of the sum of the embeddings.
    attentions : list of (int, tuple of int)
        The numbers of the calls of attention, one for each layer, and the axes of their heads: H,
        or the groups of heads that share keys.
    mlps : list of (int or None)
        The numbers of the results of the MLPs.
    """

    embedding: int | None
    attentions: list[tuple[int, tuple[int, ...]]]
    mlps: list[int | None]

    def weight(self, layer: int, head: int, query: int, key: int) -> Link | None:
        """Return the link to an attention weight."""
        if layer >= len(self.attentions):
            return None
        number, axes = self.attentions[layer]
        return Link(number, (0, *map(int, np.unravel_index(head, axes)), query, key), "p")

    def at(self, number: int | None, t: int) -> Link | None:
        """Return the link to a position of a result."""
        return None if number is None else Link(number, (0, t, 0))


@dataclass(frozen=True)
class _Reading:
    """A model that has read a text, in a recorded pass."""

    model: GPT
    ids: ndarray  # (T,)
    logits: int  # the number of the value
    recording: Recording

    @cached_property
    def lens(self) -> Predictions:
        return logit_lens(self.model, self.ids)

    @cached_property
    def direct(self) -> DirectPass:
        return DirectPass(self.model, self.ids)

    @cached_property
    def is_whole(self) -> bool:
        """Whether the weights and the tokens alone give the logits of the pass."""
        recorded = self.recording.values[self.logits][0]  # (T, V)
        best = self.lens.best[-1, :, 0]  # (T,)
        own = [self.direct.split(int(best[t]), position=t).logit for t in (0, -1)]
        return all(
            abs(x - recorded[t, best[t]]) <= CLOSE * max(1, abs(x))
            for t, x in zip((0, -1), own, strict=True)
        )

    @cached_property
    def places(self) -> Places:
        """Where the parts of the model stand in the recording."""
        calls = self.recording.calls.values()
        last = {call.scope: call.results[0] for call in calls}
        n = self.model.config.n_layer
        return Places(
            last.get("transformer", last.get("transformer.wte")),
            [
                (call.number, self.recording.values[call.results[0]].shape[1:-2])
                for call in calls
                if call.op.name == "attention"
            ][:n],
            [_last_within(last, f"transformer.h.{i}.mlp") for i in range(n)],
        )

    def asked(self, tokenizer: Any) -> list[tuple[int, int]]:
        """Return the positions and tokens that a reader asks about first."""
        best = self.lens.best[-1, :, 0].tolist()
        positions = range(len(self.ids) - 1, -1, -1)
        if not self.model.predicts_tokens:
            mask = tokenizer.special_tokens.get(
                tokenizer.special_tokens_map.get("mask_token", MASK)
            )
            return [(t, best[t]) for t in reversed(positions) if self.ids[t] == mask]
        following = [*self.ids[1:].tolist(), best[-1]]
        return [(t, token) for t in positions for token in dict.fromkeys((best[t], following[t]))]


def _last_within(last: dict[str, int], scope: str) -> int | None:
    """Return the last result of a module, or of the modules in it."""
    return max((n for name, n in last.items() if f"{name}.".startswith(f"{scope}.")), default=None)


def _with_values(model: GPT, recording: Recording) -> GPT:
    """Return the model with the weights of a recorded pass, which may have been changed.

    No array is copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        node = parameter._node
        known = None if node is None else recording.values.get(node.number)
        memo[id(parameter)] = parameter.detach() if known is None else Tensor(known)
    return copy.deepcopy(model, memo)


def _split(
    found: DirectAttribution, places: Places, tokens: list[str], t: int
) -> dict[str, list[Term]]:
    """Return a logit as sums: by the path through the model, by layer, by head, and by token."""
    L, H, T = found.heads.shape
    looks = found.heads.sum(axis=(0, 1))  # (T,)
    embedding, position = found.token_embedding, found.position_embedding
    biases = [
        Term("biases of norms", found.norm_biases),
        Term("biases of the head", found.head_biases),
    ]
    ends = [
        Term(f"embedding of {tokens[t]}", embedding, link=places.at(places.embedding, t)),
        Term("embedding of the position", position),
        *biases,
    ]

    def head(layer: int, head: int, name: str) -> Term:
        parts = found.heads[layer, head]
        looks = [
            Term(f"at {k} {tokens[k]}", float(parts[k]), link=places.weight(layer, head, t, k))
            for k in range(T)
        ]
        return Term(name, float(parts.sum()), looks)

    paths, layers = [], []
    for i in range(L):
        bias, mlp = float(found.attention_biases[i]), float(found.mlps[i])
        parts = [*(head(i, j, f"head {j}") for j in range(H)), Term("bias", bias)]
        attention = sum(part.amount for part in parts)
        paths += [
            Term(f"layer {i} attention", attention, parts),
            Term(f"layer {i} MLP", mlp, link=places.at(places.mlps[i], t)),
        ]
        layers.append(Term(f"layer {i}", attention + mlp))
    heads = [head(i, j, f"layer {i} head {j}") for i in range(L) for j in range(H)]
    return {
        "path": [*paths, *ends],
        "layer": [*layers, *ends],
        "head": [*heads, Term("MLPs, embeddings and biases", found.total - float(looks.sum()))],
        "token": [
            *(Term(f"heads that look at {k} {tokens[k]}", float(looks[k])) for k in range(T)),
            Term(f"embedding of {tokens[t]}", embedding),
            Term("MLPs, position and biases", found.total - float(looks.sum()) - embedding),
        ],
    }


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

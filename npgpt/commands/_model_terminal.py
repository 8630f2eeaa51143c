"""The stepper's commands about a model that has read a text: ``attn``, ``lens`` and ``logits``.

They print what ``npgpt look`` prints, of the text that the pass has read.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy import ndarray
from rich.text import Text

from autograd import no_grad
from autograd.console import Console
from autograd.stepper import Trace
from autograd.stepper.stops import CommandError
from autograd.stepper.terminal import Terminal
from npgpt.commands.look import attention, attribution, lens
from npgpt.commands.look._subject import Subject, find_index
from npgpt.diagnostics.axis_names import read_ids
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import attention_maps, logit_lens
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.module import evaluating

BEST = 5  # tokens that `logits` lists


class ModelTerminal(Terminal):
    """A terminal whose pass is that of a model, which it may ask.

    Parameters
    ----------
    trace : Trace
    model : GPT
    tokenizer : Tokenizer
    console : Console, optional
    """

    def __init__(
        self, trace: Trace, model: Any, tokenizer: Any, console: Console | None = None
    ) -> None:
        super().__init__(trace, console)
        self.model, self.tokenizer = model, tokenizer

    def do_attn(self, text: str) -> None:
        """Show where heads look: all, the mean of a layer, or a head.  attn [LAYER [HEAD]].

        attn       what each head mostly looks at
        attn 3     the map of layer 3, the mean of its heads; of a negative number, from the end
        attn 3 0   the map of head 0 of layer 3: row t has the weights of position t
        """
        config, subject = self.model.config, self.subject(predicts=False)
        found = integers(text, "attn 3 0", 2)
        L, H = config.n_layer, config.n_head
        layers, heads = [*range(L)], [*range(H)]
        if found:
            layers = [find_index("the layer", found[0], L, f"the model has {L} layers")]
        if found[1:]:
            heads = [find_index("the head", found[1], H, f"a layer has {H} heads")]
        maps = attention_maps(self.model, subject.ids)[layers]
        if not found:
            attention.print_overview(subject, maps, "attn LAYER HEAD")
            return
        attention.print_title(subject, layers[0], heads)
        attention.print_map(subject, maps[0, heads].mean(axis=0), subject.tokens)

    def do_lens(self, text: str) -> None:
        """Show what each layer would predict, if it were the last one.  lens [POSITION]."""
        subject = self.subject()
        t = self.position(subject, integers(text, "lens 4", 1))
        lens.print_lens(subject, logit_lens(self.model, subject.ids), t)

    def do_logits(self, text: str) -> None:
        """Show the best next tokens, and what adds to a logit.  logits [POSITION [TOKEN]].

        logits           after the last position: what heads, MLPs and embeddings add to the logit
                         of the best token; and rank, logit and probability of the best tokens
        logits 4         after position 4
        logits 4 " the"  of another token
        """
        subject = self.subject()
        number, _, word = text.partition(" ")
        t = self.position(subject, integers(number, "logits 4 ' the'", 1))
        ids = subject.ids[: t + 1]
        with no_grad(), evaluating():
            logits = self.model(ids[None])[0].numpy()[0, -1].astype(np.float64)  # (V,)
        token = int(logits.argmax())
        if word:
            token = subject.find_token("TOKEN", unquoted(word))
        found = attribute_directly(self.model, ids, token)
        here = Subject(self.model, self.tokenizer, ids, self.console)
        self.print(Text(f"after {t} {here.tokens[t]}", "bold"))
        self.show_best(here, logits, token)
        attribution.print_terms(here, f"the logit of {here.name(token)}", found)

    def show_best(self, subject: Subject, logits: ndarray, token: int) -> None:
        """List the most probable tokens, with their logits and probabilities; and one more."""
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        order = np.argsort(-logits, kind="stable")
        best = order[:BEST].tolist()
        for i in (*best, *([token] if token not in best else [])):
            rank = int(np.flatnonzero(order == i)[0]) + 1
            self.print(f"  {rank:>6,}  {logits[i]:>9.4f}  {shares[i]:>8.2%}  {subject.name(i)}")

    # ---- the text

    def subject(self, predicts: bool = True) -> Subject:
        """Return the model with the text that it has read; of several texts, the first."""
        if isinstance(self.model, EncoderDecoder) or predicts and not self.model.predicts_tokens:
            kind = self.model.config.model_type
            raise CommandError(f"the model is of the type {kind}, of which this shows nothing")
        ids = read_ids(self.session.levels[0].recorded.recording, self.model)  # (B, T)
        if ids is None:
            raise CommandError("this pass does not look up the ids of a text")
        notes = [f"of example 0 of {len(ids)}"] * (len(ids) > 1)
        notes += ["as recorded, without what was set"] * bool(self.session.levels[0].changed)
        if notes:
            self.print(Text(", ".join(notes), "dim"))
        return Subject(self.model, self.tokenizer, ids[0], self.console)

    def position(self, subject: Subject, given: list[int]) -> int:
        """Return a position of the text; the last one if none is given."""
        n = len(subject.ids)
        return find_index("the position", given[0] if given else -1, n, f"there are {n} tokens")


def integers(text: str, usage: str, most: int) -> list[int]:
    """Return the numbers of a command, at most so many."""
    words = text.split()
    if len(words) > most or not all(re.fullmatch(r"-?\d{1,9}", word) for word in words):
        raise CommandError(f"{text!r}: expected numbers, as in {usage}")
    return [*map(int, words)]


def unquoted(text: str) -> str:
    """Return a text without the quotes around it, within which spaces count."""
    quoted = re.fullmatch(r"\s*([\"'])(.*)\1\s*", text, re.DOTALL)
    return quoted[2] if quoted else text.strip()

"""``npgpt look attention``: where heads look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from rich.text import Text

from npgpt.commands.look import _subject
from npgpt.commands.look._subject import (
    BLOCKS,
    Subject,
    find_index,
    labels,
    print_json,
    write_page,
)
from npgpt.diagnostics import page
from npgpt.diagnostics.inside import attention_maps, cross_attention_maps
from npgpt.errors import UserError
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.options import parse

MOST_PIXELS = 2**23  # of all maps on a page together
MOSTLY = 0.4  # the share of a head's attention from which it has a letter


@dataclass
class Options(_subject.Options):
    """Show where the heads of attention look.

    Without --layer, each head has a letter for what it mostly looks at: f the first token, p the
    previous one, s the token itself; and the share of its attention in percent.

    Of an encoder-decoder, --text is a source, and the map has a row for each token of the target
    that the model writes: where it looks in the source. A tab and a target after the source take
    the place of what the model writes. Without --layer, the map is that of the last layer.
    """

    layer: int | None = None
    """The layer whose map to show, from 0; the mean over its heads if --head is not given."""
    head: int | None = None
    """The head whose map to show, from 0."""


def run(args: list[str]) -> int:
    """Show what heads look at, or the map of one."""
    options = parse(Options, args, "look attention")
    if options.head is not None and options.layer is None:
        raise UserError(f"--head is {options.head}; say of which layer, with --layer N")
    subject = _subject.load_subject(options, predicts=False, translates=True)
    L, H = subject.model.config.n_layer, subject.model.config.n_head
    layers, heads, tokens = [*range(L)], [*range(H)], subject.tokens
    if options.layer is not None:
        layers = [find_index("--layer", options.layer, L, f"the model has {L} layers")]
    if options.head is not None:
        heads = [find_index("--head", options.head, H, f"a layer has {H} heads")]
    if subject.target is not None:
        show_cross_attention(options, subject, subject.target, layers, heads)
        return 0
    if (options.html or options.json) and len(layers) * H * len(tokens) ** 2 > MOST_PIXELS:
        most = int((MOST_PIXELS / len(layers) / H) ** 0.5)
        raise UserError(
            f"the text has {len(tokens):,} tokens, and the maps of {len(layers) * H} heads have "
            f"room for {most:,}; give a shorter text, or a --layer"
        )
    maps = attention_maps(subject.model, subject.ids)[layers]
    if options.json:
        print_json(
            tokens=subject.texts,
            ids=subject.ids,
            layers=layers,
            heads=heads,
            attention=maps[:, heads],
        )
    elif options.layer is None:
        print_overview(subject, maps)
    else:
        print_title(subject, layers[0], heads)
        print_map(subject, maps[0, heads].mean(axis=0), tokens)
    if options.html:
        write_page(
            options,
            "Attention",
            page.note(
                "A picture for each head: row t has the weights with which token t looks at the "
                "tokens before it and at itself. A click shows a head with its tokens."
            ),
            page.attention_pictures(maps, tokens, layers),
        )
    return 0


def show_cross_attention(
    options: Options, subject: Subject, target: ndarray, layers: list[int], heads: list[int]
) -> None:
    """Show where the tokens of a target look in the source."""
    model = subject.model
    assert isinstance(model, EncoderDecoder)
    maps = cross_attention_maps(model, subject.ids, target)[layers][:, heads]  # (L, H, T, S)
    rows = [subject.name(i) for i in target.tolist()]
    if options.json:
        print_json(
            tokens=subject.texts,
            ids=subject.ids,
            target_tokens=subject.spell(target),
            target_ids=target,
            layers=layers,
            heads=heads,
            cross_attention=maps,
        )
    else:
        print_title(subject, layers[-1], heads)
        names = "  ".join(f"{i} {token}" for i, token in enumerate(subject.tokens))
        subject.console.print(Text(f"the source: {names}", "dim"))
        print_map(subject, maps[-1].mean(axis=0), rows)
    if options.html:
        parts = []
        for layer, weights in zip(layers, maps, strict=True):
            title = f"Layer {layer}, {describe_heads(heads)}"
            picture = page.heat_map(weights.mean(axis=0), rows, subject.tokens, title)
            parts += [page.heading(title), picture]
        about = "Row t has the weights with which token t of the target looks at the source."
        write_page(options, "Cross-attention", page.note(about), *parts)


def print_title(subject: Subject, layer: int, heads: list[int]) -> None:
    """Print which layer and heads a map is of."""
    what = f"layer {layer}, {describe_heads(heads)}: where each token looks"
    subject.console.print(Text(what, "bold"))


def describe_heads(heads: list[int]) -> str:
    """Return which heads a map is of."""
    return f"head {heads[0]}" if len(heads) == 1 else f"the mean of {len(heads)} heads"


def print_overview(subject: Subject, maps: ndarray, how: str = "--layer N --head N") -> None:
    """Print a letter for each head, and the share of attention that goes there."""
    shares = summarize(maps)  # (3, L, H)
    width, H = subject.console.width - 6, maps.shape[1]
    cell = 4 if 4 * H <= width else 2 if 2 * H <= width else 1
    print_line = subject.console.print
    legend = "f: the first token, p: the previous one, s: itself, ·: elsewhere; in percent"
    print_line(Text(legend, "dim"))
    if cell > 1:
        names = "".join(f"{h % 10 ** (cell - 1):>{cell}}" for h in range(H))
        print_line(Text(f"layer{names[1:] if cell > 2 else names}", "dim"), soft_wrap=True)
    for layer in range(len(maps)):
        line = Text(f"{layer:>4} ")
        for head in range(H):
            i = int(shares[:, layer, head].argmax())
            share = shares[i, layer, head]
            letter = "fps"[i] if share >= MOSTLY else "·"
            number = f"{min(round(100 * share), 99):02}" if cell == 4 and letter != "·" else ""
            style = {"f": "color(208)", "p": "color(33)", "s": "color(71)"}.get(letter, "dim")
            line.append(f"{letter}{number}".rjust(cell), style)
        print_line(line, soft_wrap=True)
    print_line(Text(f"{how} shows the map of a head", "dim"))


def summarize(maps: ndarray) -> ndarray:
    """Return each head's share of attention to the first token, the previous one, and itself.

    The result is (3, L, H). The mean is over all positions but the first two: for these, the three
    are not all different.
    """
    T = maps.shape[-1]
    rows = np.arange(min(2, T - 1), T)
    looked = (np.zeros_like(rows), np.maximum(rows - 1, 0), rows)
    return np.stack([maps[:, :, rows, columns].mean(axis=-1) for columns in looked])


def print_map(subject: Subject, weights: ndarray, tokens: list[str]) -> None:
    """Print a map, (T, S): in percent where there is room, or else a block for each weight.

    `tokens` are the labels of the rows.
    """
    width, T = subject.console.width, weights.shape[1]
    name = min(20, 6 + max(map(len, tokens)), width // 3)
    cell = 3 if name + 3 * T <= width else 1
    first = max(0, T - (width - name) // cell)
    if cell == 3:
        numbers = "".join(f"{column % 100:>3}" for column in range(T))
        subject.console.print(Text(" " * name + numbers, "dim"), soft_wrap=True)
    for t, label in enumerate(labels(tokens, name)):
        line = Text(label)
        for s in range(first, T):
            w = weights[t, s]
            shade = "" if w >= 0.3 else "dim"
            if cell == 1:
                line.append(BLOCKS[min(int(w * 5 + 0.6), 4)])
            else:
                text = "" if s > t and not w else "·" if w < 0.005 else f"{min(100 * w, 99):.0f}"
                line.append(text.rjust(3), shade)
        line.rstrip()
        subject.console.print(line, soft_wrap=True)
    if cell == 1:
        what = f"tokens {first} to {T - 1} of {T}" if first else f"the {T} tokens"
        subject.console.print(
            Text(f"columns: {what}; {BLOCKS[1]} from 10 %, {BLOCKS[4]} from 70 %", "dim"),
            soft_wrap=True,
        )

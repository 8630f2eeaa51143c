"""``npgpt look attribution``: what adds to the logit of the next token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.text import Text

from autograd import no_grad
from npgpt.commands.look import _subject
from npgpt.commands.look._subject import (
    Subject,
    bar,
    find_index,
    labels,
    print_json,
    shorten,
    write_page,
)
from npgpt.diagnostics import page
from npgpt.diagnostics.direct import DirectAttribution, attribute_directly
from npgpt.diagnostics.inside import TokenAttribution, integrate_gradients
from npgpt.options import parse

MOST_ROWS = 12


@dataclass
class Options(_subject.Options):
    """Split the logit of the next token into what each head, MLP and embedding adds directly.

    The terms add up to the logit. What a head adds is split by the token that it looks at.
    """

    position: int = -1
    """The position of the text after which the next token is predicted; -1 is the last."""
    token: str = ""
    """The token whose logit is split, such as ' Paris'; if not given, the most probable one."""
    against: str = ""
    """Another token: split the difference of the two logits."""
    gradients: bool = False
    """Attribute the logit to the tokens of the text as well, by integrated gradients, which takes
    as long as up to 300 backward passes."""


def run(args: list[str]) -> int:
    """Show what adds to a logit."""
    options = parse(Options, args, "look attribution")
    subject = _subject.load_subject(options)
    n = len(subject.ids)
    t = find_index("--position", options.position, n, f"the text has {n} tokens")
    model, ids = subject.model, subject.ids[: t + 1]
    if options.token:
        token = subject.find_token("--token", options.token)
    else:
        with no_grad():
            token = int(model(ids[None])[0].numpy()[0, -1].argmax())
    against = subject.find_token("--against", options.against) if options.against else None
    found = attribute_directly(model, ids, token, against)
    by_token = integrate_gradients(model, ids, token, against) if options.gradients else None
    what = f"the logit of {subject.name(token)}"
    if against is not None:
        what = f"{what} minus that of {subject.name(against)}"
    subject = Subject(model, subject.tokenizer, ids, subject.console)
    if options.json:
        print_json(
            tokens=subject.texts, ids=ids, token=token, against=against, logit=found.logit,
            token_embedding=found.token_embedding, position_embedding=found.position_embedding,
            heads=found.heads, attention_biases=found.attention_biases, mlps=found.mlps,
            norm_biases=found.norm_biases,
            gradients=by_token and dict(
                tokens=by_token.tokens, logit=by_token.logit, baseline=by_token.baseline,
                error=by_token.error,
            ),
        )  # fmt: skip
    else:
        print_terms(subject, what, found)
        if by_token:
            print_tokens(subject, by_token)
    if options.html:
        write_page(options, "Attribution", *page_parts(subject, what, found, by_token))
    return 0


def terms_of(subject: Subject, found: DirectAttribution) -> list[tuple[str, float, str]]:
    """Return the terms that are not 0: the name, the number, and where a head has looked most."""
    terms = [
        ("token embedding", found.token_embedding, ""),
        ("position embedding", found.position_embedding, ""),
        ("biases of norms", found.norm_biases, ""),
    ]
    for layer, heads in enumerate(found.heads):
        for head, parts in enumerate(heads):
            most = int(np.abs(parts).argmax())
            where = f"at {most} {subject.name(subject.ids[most])}: {parts[most]:+.2f}"
            terms.append((f"layer {layer} head {head}", float(parts.sum()), where))
        terms.append((f"layer {layer} MLP", float(found.mlps[layer]), ""))
        terms.append((f"layer {layer} attention bias", float(found.attention_biases[layer]), ""))
    return [term for term in terms if term[1]]


def print_terms(subject: Subject, what: str, found: DirectAttribution) -> None:
    """Print the largest terms, and the sum of all."""
    console = subject.console
    terms = sorted(terms_of(subject, found), key=lambda term: -abs(term[1]))
    console.print(Text(f"{what}: {found.logit:.4f}", "bold"), soft_wrap=True)
    largest = max((abs(number) for _, number, _ in terms), default=1)
    room = 10 if console.width < 80 else 20

    def row(name: str, number: float, where: str = "") -> None:
        drawn = bar(number / largest, room)
        line = Text(f"{number:>+9.3f}  ").append(drawn).append(" " * (room - len(drawn) + 2))
        line.append(f"{name:<20}  ")
        line.append(shorten(where, max(1, console.width - len(line))), "dim")
        line.rstrip()
        console.print(line, soft_wrap=True)

    for term in terms[:MOST_ROWS]:
        row(*term)
    if rest := terms[MOST_ROWS:]:
        row(f"the {len(rest)} other terms", sum(number for _, number, _ in rest))
    console.print(Text(f"{found.total:>+9.3f}  the sum of all terms", "bold"))


def print_tokens(subject: Subject, found: TokenAttribution) -> None:
    """Print what each token adds."""
    console = subject.console
    console.print()
    console.print(Text("what each token adds, by integrated gradients", "bold"))
    largest = max(float(np.abs(found.tokens).max()), 1e-300)
    for number, label in zip(found.tokens, labels(subject.tokens, 20), strict=True):
        console.print(
            Text(f"{number:>+9.3f}  {label}  ").append(bar(number / largest, 20)), soft_wrap=True
        )
    console.print(
        Text(
            f"{found.tokens.sum():>+9.3f}  the sum; the logit is {found.logit:.3f}, and "
            f"{found.baseline:.3f} with average tokens, so the error is {found.error:+.3f}",
            "dim",
        ),
        soft_wrap=True,
    )


def page_parts(
    subject: Subject, what: str, found: DirectAttribution, by_token: TokenAttribution | None
) -> list[str]:
    """Return the parts of the page."""
    L, H, T = found.heads.shape
    tokens = subject.tokens
    layers, heads = [f"layer {i}" for i in range(L)], [f"head {i}" for i in range(H)]
    added = np.concatenate([found.heads.sum(axis=-1), found.mlps[:, None]], axis=1)
    looked = found.heads.sum(axis=(0, 1))  # (T,)
    largest = float(np.abs(looked).max(initial=0)) or 1.0
    rest = found.total - added.sum()
    parts = [
        page.note(
            f"{what[0].upper()}{what[1:]} is {found.logit:.4f}. Blue adds to it, and orange takes "
            "away. The numbers of the first picture and of the line below it add up to it."
        ),
        page.heading("By head and MLP"),
        page.heat_map(added, layers, [*heads, "MLP"], f"What each head and MLP adds to {what}"),
        page.note(f"Embeddings and biases add {rest:+.4f}."),
        page.heading("What heads add, by the token that they look at"),
        page.colour_text(
            subject.texts,
            (looked / largest).tolist(),
            [f"{x:+.4f}, from all heads together" for x in looked],
        ),
        page.heat_map(
            found.heads.sum(axis=1), layers, tokens, f"What each layer's heads add to {what}"
        ),
    ]
    if by_token:
        most = float(np.abs(by_token.tokens).max(initial=0)) or 1.0
        parts += [
            page.heading("By the tokens of the text, with integrated gradients"),
            page.colour_text(
                subject.texts,
                (by_token.tokens / most).tolist(),
                [f"{x:+.4f}" for x in by_token.tokens],
            ),
            page.note(
                f"With average tokens, the number is {by_token.baseline:.4f}. The tokens add "
                f"{by_token.tokens.sum():.4f}; the error of the integral is {by_token.error:+.4f}."
            ),
        ]
    return parts

"""What the axes of a recorded pass of a model count: the tokens that it reads and predicts."""

from __future__ import annotations

from typing import Any

from numpy import ndarray

from autograd.escape import shown
from autograd.stepper import Call, Recording
from autograd.stepper.axes import count
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.heads import Head
from npgpt.say import visible


def name_token(tokenizer: Any, token: int) -> str:
    """Return a token in visible characters; an id beyond the tokenizer's has no text."""
    known = tokenizer.tokens
    return visible(known[token]) if token in known else f"[{token}]"


def name_axes(recording: Recording, model: Any, tokenizer: Any) -> None:
    """Give the recording of a model's pass the names of axes from which the others follow.

    The rows of the token embedding and of the head are tokens, what the embedding of ids returns
    has the axes (example, position), and the head for labels has labels. What reads other ids has
    positions of its own: those of an encoder-decoder's source, for example.
    """
    axes, texts = recording.axes, recording.texts
    head, label_head = getattr(model, "lm_head", None), getattr(model, "label_head", None)
    table = number_of(recording, model.transformer.wte)
    for number in (table, number_of(recording, head)):
        if number is None:
            continue
        size = len(recording.values[number])
        axes[number] = (count("token", size), ())
        texts["token",] = [name_token(tokenizer, i) for i in range(size)]
    if (number := number_of(recording, label_head)) is not None:
        labels = count("label", len(model.config.labels))
        axes[number] = (labels, ()) if isinstance(label_head, Head) else ((), labels)
        texts["label",] = [shown(label) for label in model.config.labels]
    known: dict[bytes, str] = {}  # what the positions of some ids are called
    for call in lookups(recording, table):
        ids = call.arguments["input"]  # (B, T)
        if (key := ids.tobytes()) not in known:
            names = ["source position"] * isinstance(model, EncoderDecoder) + ["position"]
            n = len(known) - len(names) + 2  # the positions of other ids are numbered
            known[key] = names[len(known)] if n < 2 else f"position {n}"
            texts["example", known[key]] = [
                [name_token(tokenizer, i) for i in row] for row in ids.tolist()
            ]
        axes[call.number] = (count("example", len(ids)), count(known[key], ids.shape[1]), ())


def number_of(recording: Recording, module: Any) -> int | None:
    """Return the number of a module's weight in a recording, if the pass has used it."""
    node = getattr(getattr(module, "weight", None), "_node", None)
    return node.number if node is not None and node.number in recording.values else None


def lookups(recording: Recording, table: int | None) -> list[Call]:
    """Return the calls that look ids up in a table; none if the table is frozen, so not recorded.

    Parameters
    ----------
    recording : Recording
    table : int or None
        The number of the table.
    """
    calls = recording.calls.values() if table is not None else ()
    return [
        call for call in calls
        if call.op.name == "embedding" and call.parents.get("weight") == table
    ]  # fmt: skip


def read_ids(recording: Recording, model: Any) -> ndarray | None:
    """Return the ids, (B, T), that a model has looked up first in a recorded pass, if any."""
    found = lookups(recording, number_of(recording, model.transformer.wte))
    return found[0].arguments["input"] if found else None

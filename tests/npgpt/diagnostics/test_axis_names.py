"""The rows and columns of a model's arrays carry tokens, heads, channels and labels."""

import re

import numpy as np
import pytest
from rich.console import Console

import autograd
from autograd.stepper import Trace, trace
from autograd.stepper.axes import Labels
from autograd.stepper.terminal import Terminal
from npgpt.diagnostics.axis_names import name_axes
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.config import GPTConfig
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from npgpt.models.gpt import GPT
from npgpt.models.llama import Llama, LlamaConfig
from npgpt.tokenizers import ByteTokenizer, CharTokenizer

IDS = np.array([[104, 105, 32, 116, 104], [111, 110, 101, 50, 51]])  # "hi th", "one23"
SIZES = dict(vocab_size=256, n_positions=8, n_embd=12, n_layer=1)


def labels_after(model, *args, **options):
    """Labels by the name of a value, of a recorded pass."""
    with autograd.record() as recording:
        model(*args, **options)
    name_axes(recording, model, ByteTokenizer())
    return {
        name: Labels(recording.axes_of(number), recording.texts)
        for number, name in recording.names.items()
        if number in recording.values
    }


@pytest.mark.parametrize("model", [
    GPT(GPTConfig(n_head=3, **SIZES)),
    Llama(LlamaConfig(n_head=6, n_kv_head=3, **SIZES)),
    Llama(LlamaConfig(n_head=3, **SIZES)),
], ids=["gpt", "llama with shared keys", "llama"])  # fmt: skip
def test_tokens_and_heads(model):
    found = labels_after(model, IDS[:, :-1], targets=IDS[:, 1:])
    assert found["logits"].names == "(example, position, token)"
    assert found["logits"].label(1, 2, (1,)) == "2 e"
    assert found["logits"].label(2, 104) == "104 h"
    assert found["transformer.wte.weight"].label(0, 32) == "32 ·"
    last = "attn.c_proj" if "transformer.h.0.attn.c_proj.weight" in found else "self_attn.o_proj"
    H = model.config.n_head
    size = 12 // H
    proj = found[f"transformer.h.0.{last}.weight"]
    assert proj.names == "(head and channel in head, channel)"
    for i in range(12):
        assert proj.label(0, i) == f"head {i // size}, channel in head {i % size}"
    if H == 6:  # six heads of queries, three of keys
        query, key = (found[f"transformer.h.0.self_attn.{n}_proj.weight"] for n in "qk")
        assert query.label(1, 7) == "head 3, channel in head 1"
        assert key.label(1, 5) == "key head 2, channel in head 1"


def test_labels_of_classes():
    config = GPTConfig(n_head=3, labels=("bad", "good\x1b"), **SIZES)
    found = labels_after(GPT(config), IDS, targets=np.array([0, 1]))
    head = found["label_head.weight"]
    assert head.names == "(label, channel)" and head.label(0, 1) == r"1 good\x1b"
    bert = Bert(BertConfig(
        n_head=3, architecture="BertForSequenceClassification", labels=("bad", "good"), **SIZES
    ))  # fmt: skip
    found = labels_after(bert, IDS, targets=np.array([0, 1]))
    assert found["label_head.weight"].names == "(·, label)"
    assert found["logits"].names == "(example, label)"


def test_source_and_target_have_positions_of_their_own():
    config = EncoderDecoderConfig(256, n_positions=8, n_embd=12, n_layer=1, n_head=3)
    found = labels_after(EncoderDecoder(config), IDS, targets=IDS[:, :3])
    assert found["logits"].names == "(example, position, token)"
    source = [v for v in found.values() if "source position" in v.names]
    assert source and source[0].label(1, 4, (1,)) == "4 3"


def test_the_stepper_shows_them(tmp_path):
    """In the terminal, after a saved trace is loaded, and of a token that is set."""
    model, console = GPT(GPTConfig(n_head=3, **SIZES)), Console(width=80, highlight=False)
    with autograd.record() as recording:
        _, loss = model(IDS[:1, :-1], targets=IDS[:1, 1:])
    name_axes(recording, model, ByteTokenizer())
    trace(loss).save(tmp_path)
    stepper = Terminal(Trace.load(tmp_path), console)
    with console.capture() as capture:
        for command in ("print transformer.wte.weight[104:106]", "print d(loss) * 2", "next",
                        "into", "out", "print d(logits)[0, 2:]", "args"):  # fmt: skip
            stepper.run(command)
    out = capture.get()
    assert "104 h [" in out and "105 i [" in out and "2 · [" in out and "3 t [" in out
    assert "(·, position, token)" in out and max(map(len, out.splitlines())) <= 80
    ids = next(n for n, x in recording.constants.items() if np.array_equal(x, IDS[:1, :-1]))
    name = stepper.session.trace.recording.name(ids)
    with console.capture() as capture:
        stepper.run(f"set {name}[0, 2] = 65")
        stepper.run("print logits")
    assert "2 A [" in capture.get() and "2 · [" not in capture.get()
    assert re.search(r"position 2 A: \d+ .*, p\(116 t\) ", capture.get())  # ids with their tokens


def test_a_formula_names_an_element_and_its_terms():
    """The head, the position and the token, also of the keys that are summed over."""
    model = GPT(GPTConfig(n_head=3, **SIZES), seed=0).eval()  # without dropout: no term is 0
    console = Console(width=80, highlight=False)
    with autograd.record() as recording:
        _, loss = model(IDS[:, :-1], targets=IDS[:, 1:])
    name_axes(recording, model, ByteTokenizer())
    stepper = Terminal(trace(loss), console)

    def said(*commands):
        with console.capture() as capture:
            for command in commands:
                stepper.run(command)
        return capture.get()

    out = said("until h.0.attn.c_proj", "formula d(weight)[5, 4]")
    assert "element: head 1, channel in head 1, channel 4" in out
    assert "at example 1, position 3 2 " in out and "at example 0, position 3 t " in out
    out = said("next", "next", "next", "formula y[1, 2, 2, 3]")
    assert "element: example 1, head 2, position 2 e, channel in head 3" in out
    for term in ("s = position 0", "s = position 2"):  # which token it is depends on the example
        assert term in out


def test_axes_in_another_order_are_not_named():
    """A softmax along the first axis sums over rows, and evaluates its formula on columns."""
    model = GPT(GPTConfig(n_head=3, **SIZES | {"vocab_size": 4, "n_positions": 4}), seed=0)
    with autograd.record() as recording:
        logits, _ = model(np.array([[0, 1, 2, 3]]))
        p = autograd.nn.softmax(logits[0], 0)
        loss = p[1, 1]
    name_axes(recording, model, CharTokenizer.from_text("abcd"))
    console = Console(width=80, highlight=False)
    stepper = Terminal(trace(loss), console)
    with console.capture() as capture:
        for command in ("next", "formula p[1, 2]"):
            stepper.run(command)
    out = capture.get()
    assert "element: position 1 b, token 2 c" in out
    assert re.search(r"j = 2 +[+-]", out)  # a position, and no token


def test_a_frozen_embedding_says_nothing_wrong():
    model = GPT(GPTConfig(n_head=3, **SIZES))
    model.transformer.wte.weight.requires_grad_(False)
    found = labels_after(model, IDS[:, :-1], targets=IDS[:, 1:])
    assert "token" not in found["logits"].names

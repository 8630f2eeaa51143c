"""Drawings of tapes, and what notebooks show: what is in them, and that it is well laid out."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis.strategies import characters, text

import autograd
from autograd.stepper import record, trace
from autograd.stepper.draw import Box, arrange, draw
from npgpt import GPT, GPTConfig
from npgpt.module import Module, Parameter

printable = characters(exclude_categories=["C"], exclude_characters=".").filter(str.isprintable)


def labels(drawing):
    root = ElementTree.fromstring(drawing.svg)
    return [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def net():
    x = autograd.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    w = autograd.tensor(np.ones((3, 2)), requires_grad=True)
    h = np.tanh(x @ w)
    return x, w, h, (h * h).sum()


def test_names_ops_and_shapes():
    with record():
        x, w, h, loss = net()
    found = labels(draw(loss))
    assert set(found[0::2]) == {"x", "w", "matmul", "h = tanh", "multiply", "loss = sum"}
    assert {"(1, 3)", "(3, 2)", "(1, 2)", "()"} == set(found[1::2])


def test_a_tape_that_was_not_recorded():
    *_, loss = net()
    found = labels(draw(loss))
    assert sorted(found[0::2]) == ["leaf", "leaf", "matmul", "multiply", "sum", "tanh"]


def test_a_leaf_and_several_outputs():
    x = autograd.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    assert labels(draw(x)) == ["leaf", "(4,)"]
    with record():
        a, b = np.split(x, 2)
        y = a * b
    assert sorted(labels(draw(y))[0::2]) == ["a = split", "b = split", "x", "y = multiply"]


def test_arrays_off_the_tape_are_inputs():
    """Those that have a name; a number only where it stands in the program itself."""
    X, targets, scale = np.ones((2, 3)), np.array([0, 1]), 0.5
    w = autograd.tensor(np.ones((3, 2)), requires_grad=True)
    with record():
        logits = scale * (X @ w) + np.ones(2)
        loss = autograd.nn.cross_entropy(logits, targets)
    drawing = draw(loss)
    found = labels(drawing)
    assert {"X", "targets", "scale", "w"} < set(found) and len(found) == 2 * 8
    assert drawing.svg.count("class='data'") == 3 and drawing.svg.count("class='leaf'") == 1
    model, ids = GPT(GPTConfig(vocab_size=17, n_positions=8, n_embd=8, n_layer=1, n_head=2)), X > 0
    ids = ids.astype(int)
    with record():
        _, loss = model(ids, targets=ids)
    assert draw(loss, depth=1).svg.count("class='data'") == 1  # which is read twice


def test_labels_are_escaped():
    with record():
        parts = {"<script>&'": autograd.tensor(2.0, requires_grad=True)}
        y = parts["<script>&'"] * 2
    drawing = draw(y)
    assert "<script>" not in drawing.svg and "&lt;script&gt;&amp;" in drawing.svg
    assert any("<script>&'" in label for label in labels(drawing))


def test_large_ones_are_drawn_by_module():
    config = GPTConfig(vocab_size=17, n_positions=8, n_embd=8, n_layer=3, n_head=2)
    model = GPT(config)
    ids = np.zeros((2, 5), int)
    with record():
        _, loss = model(ids, targets=ids)
    small, whole, top = draw(loss), draw(loss, depth=9), draw(loss, depth=2)
    assert len(labels(top)) < len(labels(small)) <= 2 * 60
    assert "transformer.h.2.ln_1: layer_norm" in labels(small)
    assert "transformer.h.1" in labels(top) and "transformer.h.1.ln_1" not in labels(top)
    assert "transformer.wte.weight" in labels(small)  # read by the head, too
    assert "transformer.ln_f.weight" not in labels(small)  # a part of one box
    assert whole.svg.count("class='module'") > 0


def test_edges_lead_down_and_boxes_do_not_overlap():
    random = np.random.default_rng(0)
    boxes = []
    for i in range(60):
        inputs = [boxes[j] for j in set(random.integers(0, i, 2).tolist())] if i > 5 else []
        boxes.append(Box(f"box {i}", "", "op" if inputs else "leaf", inputs))
    layers = arrange(boxes)
    for depth, layer in enumerate(layers):
        for box in layer:
            assert box.layer == depth
            assert all(x.layer == depth - 1 for x in box.inputs)
        for left, right in zip(layer, layer[1:], strict=False):
            assert left.x + left.width / 2 <= right.x - right.width / 2


def test_saving_and_showing(tmp_path):
    *_, loss = net()
    drawing = draw(loss)
    drawing.save(tmp_path / "tape.svg")
    assert (tmp_path / "tape.svg").read_text(encoding="utf-8") == drawing.svg
    assert drawing._repr_svg_() == drawing.svg and drawing.svg in drawing._repr_html_()
    assert "prefers-color-scheme: dark" in drawing.svg
    assert not re.search(r"(href|src)=", drawing.svg)  # nothing from elsewhere
    assert len(repr(drawing)) < 80


def test_what_is_no_tape():
    with pytest.raises(TypeError, match="requires a gradient"):
        draw(autograd.tensor([1.0]))
    with pytest.raises(TypeError, match="requires a gradient"):
        draw(1.0)


# ---- notebooks


def cells(html):
    """The rows of a table, as texts."""
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(html)[1]]


@settings(max_examples=20)
@given(name=text(printable, min_size=1))
@example(name="<script>alert(1)</script>")
@example(name="]]>&amp;'\"")
def test_every_view_is_escaped(name):
    x = autograd.tensor([1.0, 2.0], requires_grad=True)
    with record() as recording, recording.scope(name):
        y = (x * 2).sum()
    recording.give_name(x._node.number, name)
    for thing in (recording, trace(y)):
        html = thing._repr_html_()
        assert name in {cell for row in cells(html) for cell in row} and "<script" not in html
    module = Module()
    setattr(module, name, Parameter(np.ones(2)))
    assert [name, "float64", "(2,)", "2"] in cells(module._repr_html_())


def test_tensors_in_notebooks():
    x = autograd.tensor(np.arange(3000.0).reshape(3, 10, 100), requires_grad=True)
    for tensor in (x, x * 2, autograd.tensor([True]), autograd.tensor(1.5)):
        shown = "".join(ElementTree.fromstring(tensor._repr_html_()).itertext())
        assert shown.startswith(f"{tensor.dtype}{list(tensor.shape)}") and len(shown) < 2000
    assert "op=multiply" in (x * 2)._repr_html_() and "requires_grad=True" in x._repr_html_()


def test_recordings_and_traces_in_notebooks():
    with record() as recording:
        x, w, h, loss = net()
    rows = cells(recording._repr_html_())
    assert [row[1] for row in rows] == ["op", "matmul", "tanh", "multiply", "sum"]
    assert rows[2][:4] == ["h", "tanh", recording.name(x._node.number + 2), "float64[1, 2]"]
    assert rows[2][5].startswith("test_draw.py:")
    rows = cells(trace(loss)._repr_html_())
    assert [row[1] for row in rows] == ["op", "sum", "multiply", "tanh", "matmul"]
    assert rows[4][5] == "x, w" and rows[1][2:5] == ["loss", "float64", "1"]
    with record() as recording:
        for _ in range(100):
            x = np.tanh(x)
    assert len(rows := cells(recording._repr_html_())) == 62 and rows[-1][0] == "… and 40 more"


def test_models_in_notebooks():
    """Layers that are alike are one row, tied parameters count once, and the sizes are right."""
    model = GPT(GPTConfig(vocab_size=17, n_positions=8, n_embd=8, n_layer=3, n_head=2))
    html = model._repr_html_()
    caption = ElementTree.fromstring(html)[0].text
    total = sum(parameter.size for parameter in model.parameters())
    assert caption == f"GPT of {total:,} parameters"
    rows = {row[0]: row[1:] for row in cells(html)}
    assert rows["transformer.h.*.attn.c_attn.weight"] == ["float32", "(8, 24)", "3 × 192"]
    assert rows["transformer.h.*"][0] == "Block"
    assert rows["lm_head.weight"][2] == "those of transformer.wte.weight"
    sizes = [row[2].replace(",", "").split(" × ") for row in rows.values() if row[1][:1] == "("]
    assert total == sum(np.prod([int(n) for n in s]) for s in sizes if s[-1].isdigit())
    assert "prefers-color-scheme" not in html and "color" not in html  # it takes the page's own

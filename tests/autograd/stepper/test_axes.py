"""What the axes of arrays count: it follows from the calls, and it is never wrong."""

import json

import numpy as np
import pytest
from helpers import as_leaves
from hypothesis import given, settings

import autograd
from autograd import nn
from autograd.stepper import Trace, trace
from autograd.stepper.axes import Coordinate, Labels, count, find_owners
from autograd.stepper.display import matrix
from autograd.testing.strategies import op_calls

E, T, V, C, H = 2, 5, 7, 6, 3  # examples, positions, tokens, channels, heads: all different
WORDS = [[f"w{b}{t}" for t in range(T)] for b in range(E)]


def label_ids(recording, table, embedded):
    """Say what a program knows: the tokens of a table, and of the ids that it looks up."""
    recording.axes[table._node.number] = (count("token", V), ())
    recording.axes[embedded._node.number] = (count("example", E), count("position", T), ())
    recording.texts["token",] = [f"t{i}" for i in range(V)]
    recording.texts["example", "position"] = WORDS


def attention_program():
    """Attention over a text, as in a GPT: (the recording, its tensors by name)."""
    rng = np.random.default_rng(0)
    table = autograd.tensor(rng.random((V, C)), requires_grad=True)
    qkv = autograd.tensor(rng.random((C, 3 * C)), requires_grad=True)
    proj = autograd.tensor(rng.random((C, C)), requires_grad=True)
    ids = rng.integers(V, size=(E, T))
    with autograd.record() as recording:
        x = nn.embedding(ids, table)
        parts = np.split(x @ qkv, 3, axis=-1)
        heads = [part.reshape(E, T, H, -1).swapaxes(1, 2) for part in parts]
        y = nn.scaled_dot_product_attention(*heads, is_causal=True)
        y = y.swapaxes(1, 2).reshape(E, T, C)
        logits = (x + y @ proj) @ table.T
        rows = logits.reshape(-1, V)
        loss = nn.cross_entropy(rows, ids.reshape(-1))
    label_ids(recording, table, x)
    return recording, dict(x=x, table=table, qkv=qkv, proj=proj, y=y, logits=logits, rows=rows,
                           query=heads[0], loss=loss)  # fmt: skip


def labels_of(recording, x):
    return Labels(recording.axes_of(x._node.number), recording.texts)


def test_axes_follow_from_the_calls():
    recording, values = attention_program()
    found = {name: labels_of(recording, x) for name, x in values.items()}
    assert found["logits"].names == "(example, position, token)"
    assert found["query"].names == "(example, head, position, channel in head)"
    assert found["qkv"].names == "(channel, part and head and channel in head)"
    assert found["rows"].names == "(example and position, token)"
    assert found["logits"].label(1, 3, (1,)) == "3 w13"
    assert found["rows"].label(0, T + 3) == "example 1, 3 w13"
    assert found["rows"].label(1, 4) == "4 t4"
    size = C // H
    for part, name in enumerate(("query", "key", "value")):  # each with all heads
        for i in range(C):
            head = f"head {i // size}, channel in head {i % size}"
            assert found["qkv"].label(1, part * C + i) == f"{name}, {head}"
            assert found["proj"].label(0, i) == head
    assert found["proj"].label(1, 4) == "channel 4"
    assert found["loss"].names == ""


def test_the_weights_of_attention_count_queries_and_keys():
    """The formula alone has these weights: they are no value of the recording."""
    recording, _ = attention_program()
    (call,) = (c for c in recording.calls.values() if c.op.name == "attention")
    labels = Labels(recording.axes_of(call.number, "p"), recording.texts)
    assert labels.names == "(example, head, position, position)"
    assert labels.label(3, 2, (1, 0, 4)) == "2 w12"
    owners = find_owners(call)
    assert (owners["t"], owners["s"]) == ("query", "key")
    assert recording.axes_of(call.number, "scale") == ()


def test_a_contradiction_has_no_name():
    """A name is never a guess: a value minus the next one belongs to neither position."""
    x = autograd.tensor(np.arange(9.0).reshape(3, 3), requires_grad=True)
    with autograd.record() as recording:
        later, earlier = x[1:], x[:-1]
        step = later - earlier
        mixed = x + x.T
    recording.axes[x._node.number] = (count("position", 3), count("channel", 3))
    for tensor in (step, mixed, later, earlier):
        assert not labels_of(recording, tensor).axes[0]
    assert labels_of(recording, step).names == ""  # the columns are those of x, and x contradicts


def test_parts_keep_their_places():
    x = autograd.tensor(np.ones((4, 3)), requires_grad=True)
    with autograd.record() as recording:
        part = x[::-2]
        row = x[np.array([3, 0])]
        turned = x.T
        padded = np.pad(x, ((1, 0), (0, 0)))
        summed = x.sum(axis=1)
        kept = x.mean(axis=0, keepdims=True)
    recording.axes[x._node.number] = (count("position", 4), count("class", 3))
    recording.texts["position",] = list("abcd")
    assert [labels_of(recording, part).label(0, i) for i in (0, 1)] == ["3 d", "1 b"]
    assert [labels_of(recording, row).label(0, i) for i in (0, 1)] == ["3 d", "0 a"]
    assert labels_of(recording, turned).names == "(class, position)"
    assert labels_of(recording, padded).names == ""
    assert labels_of(recording, summed).names == "(position)"
    assert labels_of(recording, kept).names == "(·, class)"


def test_an_op_without_a_formula_says_nothing():
    @autograd.op
    def backwards(x):
        return x[::-1] * 1

    backwards.vjp(x=lambda g: g[::-1])
    x = autograd.tensor(np.ones(3), requires_grad=True)
    with autograd.record() as recording:
        y = backwards(x)
    del autograd.REGISTRY["backwards"]
    recording.axes[x._node.number] = (count("position", 3),)
    assert labels_of(recording, y).names == ""


def test_a_saved_trace_keeps_them(tmp_path):
    recording, values = attention_program()
    trace(values["loss"]).save(tmp_path)
    loaded = Trace.load(tmp_path).recording
    number = values["rows"]._node.number
    labels = Labels(loaded.axes_of(number), loaded.texts)
    assert labels.label(0, T + 3) == "example 1, 3 w13" and labels.label(1, 4) == "4 t4"
    path = tmp_path / "trace.json"
    contents = json.loads(path.read_text())
    for damaged, message in [
        ({"axes": [[999, []]]}, "the axes of value 999"),
        ({"axes": [[number, [[], [["token", [0]]]]]]}, "not those of its shape"),
        ({"texts": [[["token"], [1]]]}, "texts"),
    ]:
        path.write_text(json.dumps(contents | damaged))
        with pytest.raises(ValueError, match=message):
            Trace.load(tmp_path)
    hostile = {"texts": [[["token"], ["\x1b[31m"] * V]]}
    path.write_text(json.dumps(contents | hostile))
    assert "\x1b" not in Trace.load(tmp_path).recording.texts["token",][0]
    del contents["axes"], contents["texts"]  # as a trace of an earlier version
    path.write_text(json.dumps(contents))
    old = Trace.load(tmp_path).recording
    assert Labels(old.axes_of(number), old.texts).names == "(·, class)"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_labelled_arrays_stay_within_the_width(width):
    words = [["界界界", "a", "·a very long word", "", "b"], *WORDS[1:]]
    labels = Labels(
        ((), count("position", T), count("token", 300)),
        {("example", "position"): words[:1], ("token",): [f"·token {i}" for i in range(300)]},
    )
    lines = [*matrix(np.random.default_rng(0).random((1, T, 300)), width, labels=labels)]
    assert len(lines) == T + 1 and max(line.cell_len for line in lines) <= width
    assert "·to" in lines[0].plain and "0 界" in lines[1].plain


def test_a_label_needs_its_example():
    """The token at a position depends on the example; without the example there is only a place."""
    labels = Labels((count("position", T),), {("example", "position"): WORDS})
    assert labels.label(0, 2) == "position 2"
    merged = (Coordinate("example", np.array([1])), Coordinate("position", np.array([9])))
    assert (
        Labels((merged,), {("example", "position"): WORDS}).label(0, 0) == "example 1, position 9"
    )


@pytest.mark.parametrize("name", sorted(autograd.REGISTRY))
def test_each_op_is_read(name):
    """Of each axis of a result, either nothing is known, or as many places as it has indices."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=5)
    @given(call=op_calls(op))
    def check(call):
        with autograd.record() as recording, np.errstate(all="ignore"):
            op(*as_leaves(op, call), **call.kwargs)
        for number, x in recording.values.items():
            if number not in recording.maker:
                recording.axes[number] = tuple(count(f"axis {i}", n) for i, n in enumerate(x.shape))
        for number, x in recording.values.items():
            axes = recording.axes_of(number)
            assert len(axes) == np.ndim(x)
            assert all(len(c.at) == n for axis, n in zip(axes, x.shape, strict=True) for c in axis)

    check()

"""`why` of a number: its terms add up to it, for every op, and NaN and zero have their origin."""

import re

import numpy as np
import pytest
from helpers import as_leaves, two_layer_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

import autograd
from autograd import nn
from autograd.page.why import explain
from autograd.stepper import contributions, trace
from autograd.stepper.axes import count
from autograd.stepper.contributions import (
    Element,
    derivatives_along,
    explain_part,
    find_uses,
    follow_path,
)
from autograd.stepper.origins import find_not_finite, find_zeros
from autograd.stepper.places import first_of, name_of, read_index, split_index
from autograd.stepper.session import CommandError, Session
from autograd.stepper.why import why
from autograd.testing import properties
from autograd.testing.strategies import op_calls
from npgpt import GPT, GPTConfig

OPS = sorted(autograd.REGISTRY)


def several(x):
    return x if isinstance(x, tuple) else (x,)


def leaf(*values):
    return autograd.tensor(np.array(values), requires_grad=True)


def one_at(x, place):
    one = np.zeros_like(x)
    one[place] = 1
    return one


@pytest.mark.parametrize("name", OPS)
def test_terms_add_up_for_every_op(name):
    """The terms of each use add up to what the engine's rule sent, the uses to the gradient, for
    elements and for parts; and there is an answer to `why`."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=5)
    @given(data=st.data())
    def check(data):
        call = data.draw(op_calls(op))
        wanted = set(properties.differentiable(op, call))
        generator = np.random.default_rng(0)
        with autograd.record(), np.errstate(all="ignore"):
            args = as_leaves(op, call)
            outs = [*several(op(*args, **call.kwargs)), *several(op(*args, **call.kwargs))]
            loss = sum((y * generator.standard_normal(y.shape)).sum() for y in outs)
        found = trace(loss)
        for i in wanted:
            number = args[i]._node.number
            gradient = found.cotangent_of(number)
            places = [()] if gradient is not None and gradient.size else []
            if places and gradient.ndim:
                places += [tuple(map(int, np.argwhere(gradient == gradient.max())[0])), (0,)]
            for place in places:
                assert "gradient of" in why(found, number, place) or not place
                part = np.asarray(gradient[place])
                if not part.any() or not np.isfinite(gradient).all():
                    continue
                explained = explain_part(found, number, place)
                # what may cancel: in softmax minus target the derivatives are differences of ones
                size = sum(np.abs(g).sum() for use in explained.uses for g in use.cotangents)
                size += sum(np.abs(t).sum() for use in explained.uses for t in use.terms)
                for use in explained.uses:
                    total = sum(terms.sum() for terms in use.terms)
                    np.testing.assert_allclose(total, use.amount, rtol=1e-9, atol=1e-12 * size)
                total = sum(use.amount for use in explained.uses)
                np.testing.assert_allclose(total, explained.total, rtol=1e-12, atol=1e-12 * size)
                assert explained.path[-1].element == (found.start, ())
                if part.ndim == 0 and np.isfinite(found.recording.values[number][place]):
                    flat = int(np.ravel_multi_index(place, gradient.shape)) if place else 0
                    assert_page_agrees(explain(found, number, flat), explained, 1e-12 * size)

    check()


def assert_page_agrees(answer, explained, noise):
    """What a page shows are the uses, the terms and the path of the stepper's `why`."""
    assert answer["total"] == explained.total
    assert [use["amount"] for use in answer["uses"]] == [use.amount for use in explained.uses]
    for shown, use in zip(answer["uses"], explained.uses, strict=True):
        terms = dict(zip(use.call.results, use.terms, strict=True))
        for amount, number, flat, g, d in shown["terms"]:
            assert float(amount) == terms[number].flat[flat] == float(g) * float(d)
        total = sum(float(row[0]) for row in shown["terms"]) + float(shown["others"][1])
        np.testing.assert_allclose(total, use.amount, rtol=1e-9, atol=noise)
        assert len(shown["terms"]) + shown["others"][0] == sum(map(np.count_nonzero, use.terms))
    path = [(hop.element.number, float(hop.derivative), hop.factor) for hop in explained.path]
    assert [(n, float(d), factor) for n, _, d, _, factor in answer["path"]] == path


def two_layers():
    loss, X = two_layer_classifier()
    return Session(trace(loss)), X


def test_one_weight_of_two_layers():
    """The terms are those of the textbook: d(z)[n, 2] X[n, 0]; the path is the chain rule."""
    session, X = two_layers()
    recording = session.trace.recording
    number, index = session.find_part("W1[0, 2]")
    (use,) = explain_part(session.trace, number, index).uses
    (terms,) = use.terms
    expected = np.zeros((8, 5))
    expected[:, 2] = session.trace.cotangent_of(recording.number("a"))[:, 2] * X[:, 0]
    np.testing.assert_allclose(terms, expected, rtol=1e-14)
    path = list(follow_path(session.trace, Element(number, index)))
    assert [recording.name(hop.element.number) for hop in path] == ["a", "z", "h", "logits", "loss"]
    n = int(np.argmax(np.abs(expected[:, 2])))
    k = path[3].element.place[1]
    assert [hop.element.place for hop in path[:3]] == 3 * [(n, 2)]
    h, W2 = session.evaluate("h"), session.evaluate("W2")
    p = session.trace.cotangent_of(recording.number("logits"))
    local = [X[n, 0], 1, 1 - h[n, 2] ** 2, W2[2, k], p[n, k]]
    np.testing.assert_allclose([hop.derivative for hop in path], local, rtol=1e-13)
    assert path[3].factor == f"W2[2, {k}]" and path[0].factor == f"X[{n}, 0]"
    assert [path[i].factor for i in (1, 2, 4)] == ["", "", ""]
    text = session.why("W1[0, 2]")
    assert f"it is X[{n}, 0]" in text and "off the tape" in session.why("X")
    assert "the 3 others" in text and "matmul(y)  helpers.py:" in text


def test_the_path_through_values_keeps_every_element():
    """Where each value has one use, the whole gradient stays on the path; at a branch, a part."""
    session, _ = two_layers()
    part = explain_part(session.trace, *session.find_part("W1[0, 2]"))
    np.testing.assert_allclose([flow.amount for flow in part.flow], part.total, rtol=1e-12)
    assert part.flow[-1].number == session.trace.start
    x = leaf(1.0, 2.0)
    with autograd.record():
        y = 3 * x
        loss = (y * y + y).sum()
    found = trace(loss)
    part = explain_part(found, x._node.number, (1,))
    assert part.total == 39 and [flow.amount for flow in part.flow] == [39, 18, 18, 18]


def test_a_path_that_ends_before_the_start(monkeypatch):
    """Of a pass of thousands of steps; what the path adds is still the gradient here."""
    monkeypatch.setattr(contributions, "LONGEST_PATH", 3)
    with autograd.record():
        x = h = autograd.tensor([0.5, 0.2], requires_grad=True)
        for _ in range(5):
            h = np.tanh(h)
        loss = h.sum()
    found, number = trace(loss), x._node.number
    answer = explain(found, number, 1)
    assert len(answer["path"]) == 3
    assert np.isclose(float(answer["along"]), found.cotangent_of(number)[1])
    assert "the cotangent after 3 steps, = +0.8279: +100.0%" in why(found, number, (1,), width=200)


def test_a_scalar_has_signs():
    a, b = leaf(3.0)[0], leaf(2.0)[0]
    with autograd.record():
        a, b = (autograd.tensor(x, requires_grad=True) for x in (3.0, 2.0))
        y = a * a - 4 * a + b
    text = why(trace(y), a._node.number)
    assert text.splitlines()[0] == "gradient of a: +2, from 3 uses"
    assert "+3  +150.0%" in text and "-4  -200.0%" in text
    assert "the pass begins here" in why(trace(y), y._node.number)


def test_a_whole_array_by_line_module_and_label():
    """Uses of several lines and modules are also summed by them, and labelled axes by label."""
    w = leaf(1.0, -2.0)
    x = np.array([[0.1, 0.2], [0.3, 0.05], [0.0, 0.1]])
    with autograd.record() as recording:
        h = x * w
        for _ in range(2):
            h = h * w
        loss = (h * h).sum()
    recording.axes[w._node.number] = (count("head", 2),)
    recording.texts["head",] = ["early", "late"]
    text = why(trace(loss), w._node.number, width=200)
    assert text.startswith(
        "gradient of w: norm 10.1, from 3 uses\n  the numbers below are components"
    )
    assert "\n  by head: +10.1 at 1 late, +0.0357 at 0 early\n" in text
    assert re.search(r"\n  by line: \+6.73 at \S+, \+3.37 at \S+\n", text)
    assert "    by head: +3.35 at 1 late" in text and "    by axis 0: " in text


def test_a_row_of_an_embedding():
    """The shares of a row's uses are those along its gradient; an unused row says why it is 0."""
    model = GPT(
        GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2), seed=0
    ).eval()
    ids = np.array([[3, 1, 3, 2, 5], [3, 4, 5, 6, 1]])
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    session = Session(trace(loss))
    number, index = session.find_part("wte.weight[3]")
    row = session.trace.cotangent_of(number)[3]
    part = explain_part(session.trace, number, index)
    assert {use.call.op.name for use in part.uses} == {"embedding", "transpose"}
    for use in part.uses:
        (sent,) = [
            edge.contribution[3] for i, edge in session.trace.edges_to(number)
            if session.trace.steps[i].number == use.call.number
        ]  # fmt: skip
        np.testing.assert_allclose(use.amount, sent @ row / np.linalg.norm(row), rtol=1e-5)
    text = " ".join(session.why("wte.weight[3]").split())  # a line may break anywhere
    assert "example 0, position 0, token 3" in text
    assert "by example: " in text and "by position: " in text
    table = leaf(*np.ones((4, 2)))
    with autograd.record():
        rows = nn.embedding(np.array([1, 2]), table)
        loss = rows.sum()
    text = why(trace(loss), table._node.number, (3,), width=120)
    assert "gradient of table[3]: 0 in each of 2 elements" in text
    assert "table[3, 0] is no part of rows" in text


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_nan_has_an_origin():
    """Forward, backward, and the infinity that the NaN was made from."""
    x = leaf(4.0, 0.0)
    with autograd.record():
        root = np.sqrt(x)
        loss = np.where(x > 0, root, 0.0).sum()
    (origin,) = find_not_finite(trace(loss))
    assert (origin.kind, origin.call.op.name, origin.input, origin.place) == (
        "NaN", "sqrt", "x", (1,),
    )  # fmt: skip
    text = why(trace(loss), x._node.number)
    assert "0 times infinity is NaN" in text and "x[1] = 0" in text
    assert why(trace(loss), x._node.number, (0,)).startswith("gradient of x[0]: +0.25, from 1 use")
    with autograd.record():
        a = np.log(x)
        loss = (a - a).sum()
    nan, inf = find_not_finite(trace(loss))
    assert (nan.call.op.name, inf.call.op.name, inf.place) == ("subtract", "log", (1,))
    for number in (x._node.number, loss._node.number):
        assert "the first infinity is a[1], made by log" in why(trace(loss), number)


def test_a_zero_has_a_factor():
    """A factor, a derivative, terms that cancel, and a cotangent that is 0 further on."""
    W = leaf([1.0, 2.0], [3.0, 4.0])
    X = leaf([0.0, 1.0], [0.0, 2.0])
    with autograd.record():
        z = X @ W
        loss = (z * z).sum()
    session = Session(trace(loss))
    (zero,) = find_zeros(session.trace, Element(*session.find_part("W[0, 1]")))
    assert zero.factors == ["X[0, 0]", "X[1, 0]"] and not zero.behind and not zero.cancels
    assert "the factors X[0, 0], X[1, 0] are 0" in session.why("W[0]")
    with autograd.record():
        z = X @ W - 100
        h = nn.relu(z)
        loss = (h * 3).sum()
    session = Session(trace(loss))
    text = session.why("W[1, 0]")
    assert "→" in text and "relu(input)" in text
    assert "h does not change with z[0, 0] = -97" in text
    v = leaf(1.0, 1.0)
    with autograd.record():
        d = v * leaf(1.0, 2.0)
        e = d[np.array([0, 0])] * np.array([1.0, -1.0])
        loss = e.sum()
    session = Session(trace(loss))
    assert "add up to 0" in session.why("d[0]")


MASK, NONE = np.array([True, False, True]), 0.0


@pytest.mark.parametrize(
    ("program", "place", "said"),
    [
        (lambda x: x * MASK, 1, r"the factor \S+\[1\] is 0"),
        (lambda x: x * np.array([0, 1, 0]), 0, r"the factor \S+\[0\] is 0"),
        (lambda x: x * 0, 0, "a factor is the number 0"),
        (lambda x: x * NONE, 0, r"a factor is the number 0|the factor NONE is 0"),
        (nn.relu, 2, r"does not change with x\[2\] = -3"),
        (lambda x: np.where(MASK, x, 0.0), 1, r"x\[1\] = 2, since \S+\[1\] is False"),
        (lambda x: np.clip(x, -1, 2.5), 2, r"does not change with x\[2\] = -3"),
        (lambda x: x.max(), 0, r"does not change with x\[0\] = 1"),
        (lambda x: nn.dropout(x, 0.9, generator=np.random.default_rng(0)), 0, r"x\[0\] is dropped"),
        (lambda x: x @ np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]), 0,
         r"the factors \S+\[0, 0\], \S+\[0, 1\] are 0"),
        (lambda x: np.einsum("i,i,i->", x, 1 - 1 * MASK, 1 - 1 * MASK), 0,
         r"the factors \S+\[0\], \S+\[0\] are 0"),
        (lambda x: (x - 1) ** 3, 0, r"the factor \S+( - 1\))?\[0\] is 0"),
        (lambda x: x[1:], 0, r"x\[0\] is no part of"),
        (lambda x: nn.embedding(np.array([0, 2]), x.reshape(3, 1)), 1, "is no part of"),
        (lambda x: x - x, 0, "2 uses send numbers that are not 0, and add up to 0:"),
        (lambda x: (x - x) + x * MASK, 1, "2 uses send numbers that are not 0, and add up to 0:"),
        (lambda x: (x - x) + x * MASK, 1, r"the factor \S+\[1\] is 0"),
        (lambda x: nn.scaled_dot_product_attention(
            np.ones((1, 1)), np.ones((3, 1)), x.reshape(3, 1), attn_mask=MASK, is_causal=False
        ), 1, r"the factor \S+\[1\] is 0"),
    ],
)  # fmt: skip
def test_a_zero_names_what_is_zero(program, place, said):
    with autograd.record():
        x = leaf(1.0, 2.0, -3.0)
        loss = program(x).sum()
    text = why(trace(loss), x._node.number, (place,), 200)
    assert text.startswith(f"gradient of x[{place}]: 0\n") and re.search(said, text), text


def test_terms_that_cancel_up_to_their_rounding():
    with autograd.record():
        x = leaf(1.0, 2.0, -3.0)
        loss = nn.softmax(x, -1).sum()
    found = trace(loss)
    text = why(found, x._node.number, (0,))
    assert 0 < abs(found.cotangent_of(x._node.number)[0]) < 1e-15
    assert text.count("%") == 0 and "its terms add up to 0, but for rounding" in text


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_other_elements_stay_out_of_a_part():
    """An infinite derivative of another element is no part of the answer."""
    x = leaf(4.0, 0.0)
    with autograd.record():
        loss = np.sqrt(x).sum()
    found = trace(loss)
    (use,) = find_uses(found, x._node.number, one_at(x.numpy(), 0))
    assert use.terms[0].tolist() == [0.25, 0]
    (step,) = [s for s in found.steps if found.call(s).op.name == "sqrt"]
    (along,) = derivatives_along(found.call(step), "x", one_at(x.numpy(), 0))
    assert along[0] == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("W1[0, 9]", r"W1\[0, 9\] is out of range: the shape is \[3, 5\]"),
        ("W1[0, 1, 2]", "out of range"),
        ("W1[x]", "write integers and slices"),
        ("W1[0.5]", "write integers and slices"),
        ("W1[True]", "write integers and slices"),
        ("W1[::0]", "write integers and slices"),
        ("W1[]", "nothing here is called 'W1"),
        ("W1[__import__('os')]", "write integers and slices"),
        ("V[0]", "nothing here is called 'V'"),
    ],
)
def test_a_place_that_is_none(text, message):
    with pytest.raises(CommandError, match=message):
        two_layers()[0].why(text)


def test_places():
    assert split_index("ws[0][1, 2]") == ("ws[0]", "1, 2") and split_index("W") == ("W", "")
    index = read_index("-1, 1:", (3, 5))
    assert index == (2, slice(1, None)) and first_of(index, (3, 5)) == (2, 1)
    assert name_of("W", index) == "W[2, 1:]" and name_of("W", ()) == "W"
    assert first_of((slice(None, None, -1),), (3, 5)) == (2, 0)


@pytest.mark.filterwarnings("error")
def test_why_blames_no_other_nan():
    """Only what an element depends on made it NaN; a neighbour that is infinite adds nothing."""
    w, v = (autograd.tensor(x, requires_grad=True) for x in ([1.0, -1.0, 0.0], [0.0, 1.0, 1.0]))
    with autograd.record(), np.errstate(all="ignore"):
        s, q = np.sqrt(w), v / v
        loss = s.sum() + q.sum()
    with np.errstate(all="ignore"):
        found = trace(loss)
    for x, place, said in [
        (v, 0, "the first NaN is q[0], made by divide"),
        (w, 1, "the first NaN is s[1], made by sqrt"),
        (w, 2, "the first infinity is in what sqrt(x)"),
        (w, 0, "gradient of w[0]: +0.5, from 1 use"),
    ]:
        text = why(found, x._node.number, (place,))
        assert said in text and "+nan" not in text


@pytest.mark.filterwarnings("error")
def test_why_of_an_infinity_blames_no_nan_beside_it():
    """The op makes an infinity of the element that is asked for, and a NaN of its neighbour."""
    x = autograd.tensor([0.0, -1.0, 2.0], requires_grad=True)
    with np.errstate(all="ignore"):
        with autograd.record():
            y = np.log(x)
            loss = (y * x).sum()
        found = trace(loss)
    for place, said in [(0, "infinity is y[0], made by log"), (1, "NaN is y[1], made by log")]:
        lines = why(found, x._node.number, (place,)).splitlines()
        assert said in lines[1] and lines[2] == f"    x[{place}] = {-place}" and len(lines) == 3


@pytest.mark.filterwarnings("error")
def test_a_finite_gradient_beside_an_infinite_one():
    w = autograd.tensor([1.0, 0.0, 2.0], requires_grad=True)
    with autograd.record(), np.errstate(all="ignore"):
        loss = np.log(np.abs(w)).sum()
        found = trace(loss)
    text = why(found, w._node.number, (2,))
    assert "product +0.5: +100.0% of +0.5" in text and "nan" not in text and "inf" not in text


def test_a_path_with_the_cotangent_at_its_start():
    """The product is that of the derivatives; the cotangent of the loss is one more factor."""
    w = autograd.tensor(3.0, requires_grad=True)
    with autograd.record():
        loss = w * 4.0
        found = trace(loss, np.array(0.5))
    said = "product +4 · 0.5, the cotangent at the start, = +2: +100.0% of +2"
    assert said in why(found, w._node.number)


@pytest.mark.parametrize(("n", "said"), [(5, None), (6, "the other one"), (7, "the 2 others")])
def test_the_terms_that_are_not_listed(n, said):
    x = autograd.tensor(np.arange(1.0, n + 1), requires_grad=True)
    with autograd.record():
        loss = (x * x).sum()
    text = why(trace(loss), x._node.number, ())
    assert said in text if said else "other" not in text


def test_an_expression_that_is_a_name_may_have_other_spaces():
    x = autograd.tensor([[1.0, 2.0], [0.5, -1.0]], requires_grad=True)
    with autograd.record():
        loss = nn.softmax(x, -1).var()
    session = Session(trace(loss))
    for written in ("nn.softmax(x, -1)", "nn.softmax(x,-1)"):
        assert session.value(session.find(written)).shape == (2, 2)
        assert np.allclose(session.evaluate(written).sum(1), 1)
        for stop in (written, f"{written}, x[0, 0] > 0"):
            assert session.add_break(stop).pending == ""
    assert session.breaks()[-1] == "nn.softmax(x,-1) if x[0, 0] > 0"


def test_why_takes_the_name_that_is_shown():
    w = autograd.tensor([1.0, 2.0], requires_grad=True)
    with autograd.record():
        h = np.tanh(w)
        loss = (h * h).sum()
    session = Session(trace(loss))
    for shown, plain in [("d(h)", "h"), ("d(w)[1]", "w[1]"), ("d(h * h)", "h * h")]:
        assert session.why(shown) == session.why(plain)


def test_queries_keys_and_values_are_apart():
    """A weight that makes all three says which of them, of which head, it is a part of."""
    model = GPT(
        GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2), seed=0
    ).eval()
    ids = np.array([[3, 1, 3, 2, 5]])
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    session = Session(trace(loss))
    name = "transformer.h.0.attn.c_attn.weight"
    for column, part in [(1, "query, head 0"), (13, "key, head 1"), (21, "value, head 1")]:
        lines = session.why(f"{name}[3, {column}]", 200).splitlines()
        assert lines[1] == f"  at channel 3, {part}, channel in head 1"
    text = session.why(name, 200)
    assert re.search(r"\n  by part: .* at value", text)
    names = re.findall(r"\n  by ([\w ]+):", text)
    assert names == ["channel", "part", "head", "channel in head"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.linalg.slogdet(x)[1],
        lambda x: np.linalg.inv(x)[0, 0],
        lambda x: np.linalg.solve(x, np.array([1.0, 0.0]))[0],
        lambda x: np.linalg.cholesky(x)[0, 0],
    ],
)
def test_why_a_gradient_of_the_identity_is_zero(function):
    """The factors that are 0 are sought with ones in their place; this matrix has no inverse."""
    x = autograd.tensor(np.eye(2), requires_grad=True)
    with autograd.record():
        loss = function(x)
    found = trace(loss)
    gradient = found.cotangent_of(x._node.number)
    assert gradient[0, 1] == 0 != gradient[0, 0]
    for place in ((0, 1), (0, 0)):
        assert "gradient of" in why(found, x._node.number, place)

"""The stepper: the recording tells the truth, and every command does what it says."""

import gc
import json
import math
import os
import re
import select
import subprocess
import sys
import textwrap
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import as_leaves
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import autograd
from autograd import nn
from autograd.escape import shown_text
from autograd.files import write_tensors
from autograd.formula import FUNCTIONS
from autograd.reading import read_tensors
from autograd.stepper import Trace, formulas, recording_of, stopping_at_backward, trace, tracing
from autograd.stepper.check import judge, prove
from autograd.stepper.display import matrix
from autograd.stepper.lines import fold
from autograd.stepper.session import Session, inside_of
from autograd.stepper.source import Part, Statement
from autograd.stepper.stops import CommandError
from autograd.stepper.terminal import Terminal
from autograd.testing import (
    GradientError,
    check_op,
    check_vjp,
    gradcheck,
    gradgradcheck,
    properties,
)
from autograd.testing.strategies import op_calls
from npgpt import GPT, GPTConfig
from npgpt.cli import main
from npgpt.commands.step import Options as StepOptions
from npgpt.commands.step import walk
from npgpt.errors import UserError

OPS = sorted(autograd.REGISTRY)
TANH = "h = np.tanh(z)"
FUSED = [name for name in OPS if autograd.REGISTRY[name].reference_function is not None]


def net():
    """The net of examples/01, recorded: (loss, its leaves by name)."""
    leaves = {
        "W1": autograd.tensor([[0.1, -0.2], [0.4, 0.3]], requires_grad=True),
        "b1": autograd.tensor([0.0, -0.5], requires_grad=True),
        "w2": autograd.tensor([0.7, -0.6], requires_grad=True),
    }
    W1, b1, w2 = leaves.values()
    with autograd.record():
        z = W1 @ np.array([1.0, 2.0]) + b1
        h = np.tanh(z)
        p = w2 * h
        e = p.sum() - 0.5
        loss = e * e
    return loss, leaves


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    return GPT(config, dtype=np.float64).eval()


def gpt_loss(model):
    ids = np.random.default_rng(0).integers(11, size=(2, 6))
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    return loss


def same(some, others):
    """Whether two traces agree in every bit."""
    return len(some.steps) == len(others.steps) and all(
        a.number == b.number
        and all(map(np.array_equal, several(a.cotangent), several(b.cotangent)))
        and [e.input for e in a.edges] == [e.input for e in b.edges]
        and all(
            np.array_equal(e.contribution, f.contribution, equal_nan=True)
            for e, f in zip(a.edges, b.edges, strict=True)
        )
        for a, b in zip(some.steps, others.steps, strict=True)
    )


def line(text):
    """The number of a line of this file."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return str(1 + [each.strip() for each in lines].index(text))


def several(x):
    return x if isinstance(x, tuple) else (x,)


def said(stepper, *commands):
    """Run commands, and return what they print."""
    with stepper.console.capture() as capture:
        for command in commands:
            stepper.run(command)
    return capture.get()


def stepper_of(loss, width=80):
    return Terminal(trace(loss), Console(width=width, highlight=False))


# ---- the recording and the trace


def test_of_a_scalar_expression():
    a, b = (autograd.tensor(v, requires_grad=True) for v in (2.0, 3.0))
    with autograd.record() as recording:
        y = a * b + a
    found = trace(y)
    assert [found.call(step).op.name for step in found.steps] == ["add", "multiply"]
    assert [e.contribution.item() for step in found.steps for e in step.edges] == [1, 1, 3, 2]
    assert {recording.names[n] for n in recording.leaves()} == {"a", "b"}
    assert recording.name(found.start) == "y"
    call = recording.calls[found.start]
    assert call.line.endswith("y = a * b + a") and "test_stepper.py" in call.line
    assert call.parents["y"] == a._node.number and call.arguments["y"] == 2
    assert a.grad is None and found.cotangent_of(a._node.number) == 4


def test_of_ones_own_op():
    @autograd.op
    def doubled(x):
        return 2 * x

    doubled.vjp(x=lambda g: 2 * g)
    try:
        x = autograd.tensor([1.0, 2.0], requires_grad=True)
        with autograd.record():
            y = doubled(x).sum()
        stepper = stepper_of(y)
        text = said(stepper, "next")
        assert "doubled" in text and "d(x) += $dx" in text and "[ 2.0 2.0 ]" in text
        assert "states no formula" in said(stepper, "formula")
        assert "✓" in said(stepper, "check")
    finally:
        del autograd.REGISTRY["doubled"]


def test_of_a_training_step(model):
    """Every gradient that the observer saw is backward's own, and has its parameter's name."""
    loss = gpt_loss(model)
    with tracing(loss) as found:
        loss.backward()
    recording = recording_of(loss)
    for name, parameter in model.named_parameters():
        number = recording.number(name)
        assert np.array_equal(found.cotangent_of(number), parameter.grad.numpy())
        assert number == parameter._node.number
    scopes = {call.op.name: call.scope for call in recording.calls.values()}
    assert scopes["attention"] == "transformer.h.1.attn"
    assert scopes["cross_entropy"] == ""
    assert len(set(recording.names.values())) == len(recording.names)
    assert recording.name(loss._node.number) == "loss"
    model.zero_grad()


def test_of_a_second_derivative():
    x = autograd.tensor([0.3, 0.7], requires_grad=True)
    with autograd.record():
        dy = autograd.grad(np.sin(x).sum(), x, create_graph=True)
        slope = dy.sum()
    found = trace(slope)
    assert np.allclose(found.cotangent_of(x._node.number), -np.sin([0.3, 0.7]), rtol=1e-14)


def test_of_a_pass_that_is_recorded_itself():
    x = autograd.tensor(2.0, requires_grad=True)
    with autograd.record():
        y = x**3
        with tracing(y) as found:
            y.backward(create_graph=True)
    assert found.cotangent_of(x._node.number) == 12
    assert trace(x.grad).cotangent_of(x._node.number) == 12


def test_of_several_outputs():
    x = autograd.tensor(np.arange(6.0), requires_grad=True)
    with autograd.record():
        first, _, last = np.split(x, 3)
        y = np.concatenate([last, first * first]).sum()
    found = trace(y)
    assert found.cotangent_of(x._node.number).tolist() == [0, 2, 0, 0, 1, 1]
    split = next(i for i, s in enumerate(found.steps) if found.call(s).op.name == "split")
    for i in range(len(found.steps)):
        assert same(found.rerun(i, found.steps[i].cotangent), found)
    stepper = Terminal(found, Console(width=80))
    text = said(stepper, f"next {split}")
    assert "  d(first)  " in text and "  d(last)  " in text
    middle = recording_of(y).name(found.call(found.steps[split]).results[1])
    asked = f"set which of d(first), d({middle}), d(last)?"
    for wrong in ("1", "d(x) = 1", "$g = 1", "$g3 = 1"):
        assert asked in said(stepper, f"set {wrong}")
    text = said(stepper, "set $g1 = [7, 8]", "continue")
    assert "[   0 2.0 7.0 8.0 1.0 1.0 ]   its norm was" in text
    assert stepper.session.trace.cotangent_of(x._node.number).tolist() == [0, 2, 7, 8, 1, 1]


def test_leaves_are_copied(model):
    """What happens to parameters and arrays after the forward pass does not reach the recording."""
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    loss = gpt_loss(model)
    found = trace(loss)
    loss.backward()
    with autograd.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad.numpy()
    recording = recording_of(loss)
    tape = recording.replay(found.start)
    assert tape[found.start].item() == loss.item()
    for name, value in before.items():
        assert np.array_equal(recording.values[recording.number(name)], value)
    for number, value in recording.values.items():
        assert np.array_equal(tape[number].numpy(), value)
    model.load_state_dict(before)
    model.zero_grad()


def test_a_recording_without_copies_is_the_same(model):
    """The parameters are shared, and so are views of them; all numbers are those of a copy."""
    ids = np.random.default_rng(0).integers(11, size=(2, 6))
    with autograd.record(copy=False) as recording:
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    found, expected = trace(loss), trace(gpt_loss(model))
    for name, parameter in model.named_parameters():
        assert np.shares_memory(recording.values[recording.number(name)], parameter.numpy())
    for step, other in zip(found.steps, expected.steps, strict=True):
        assert found.call(step).op is expected.call(other).op
        for edge, likewise in zip(step.edges, other.edges, strict=True):
            assert np.array_equal(edge.contribution, likewise.contribution)
    after = said(Terminal(found, Console(width=80)), "set transformer.wte.weight[0] = 0", "undo")
    assert "what if" in after and np.array_equal(
        recording.values[found.start], expected.recording.values[expected.start]
    )


def test_a_leaf_that_changes_in_between():
    w = autograd.tensor([1.0, 2.0], requires_grad=True)
    data = np.array([3.0, 4.0])
    with autograd.record() as recording:
        for _ in range(2):
            loss = (w * data).sum()
            with autograd.no_grad():
                w -= 1.0
                data += 1.0
    first, second = (c for c in recording.calls.values() if c.op.name == "multiply")
    assert first.arguments["x"].tolist() == [1, 2] and second.arguments["x"].tolist() == [0, 1]
    assert first.arguments["y"].tolist() == [3, 4] and second.arguments["y"].tolist() == [4, 5]
    assert recording.replay(loss._node.number)[loss._node.number].item() == 5


def test_without_a_recording():
    x = autograd.tensor(2.0, requires_grad=True)
    y = x * x
    with pytest.raises(RuntimeError, match=r"^step: .* inside `with autograd.record\(\):`$"):
        autograd.step(y)
    with pytest.raises(RuntimeError, match="requires no gradient"):
        autograd.step(autograd.tensor(1.0))
    with pytest.raises(TypeError, match="tensor or a function"):
        autograd.step(3)
    with autograd.record():  # what was made before it is an end, like a leaf
        z = y * y
    assert trace(z).cotangent_of(y._node.number) == 8
    assert len(trace(z).steps) == 1


def test_nothing_is_kept_when_off(model):
    """Outside the block the nodes are the plainest again."""
    gpt_loss(model)
    x = autograd.tensor(2.0, requires_grad=True)
    y = np.exp(x) * x
    assert y._node.plain and not vars(y._node)
    assert autograd.stepper.current_recording() is None


def test_a_recording_is_freed_with_its_tape(model):
    """No cycle of references holds the arrays until the garbage collector runs."""

    gc.disable()
    try:
        loss = gpt_loss(model)
        assert len(trace(loss).steps) > 10
        recording = weakref.ref(recording_of(loss))
        assert recording() is not None
        del loss
        assert recording() is None
    finally:
        gc.enable()


def test_of_a_released_tape_whose_leaves_are_gone():
    with autograd.record():
        loss = (autograd.tensor([1.0, 2.0], requires_grad=True) * 2.0).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="released by an earlier backward pass"):
        trace(loss)


@pytest.mark.parametrize("name", OPS)
def test_every_op(name, tmp_path_factory):
    """Replay, rerun, save and load repeat every bit; what `why` lists adds up to the gradient; and
    every step can be shown."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=5)
    @given(data=st.data())
    def check(data):
        call = data.draw(op_calls(op))
        wanted = set(properties.differentiable(op, call))
        with autograd.record(), np.errstate(all="ignore"):
            args = as_leaves(op, call)
            outs = [*several(op(*args, **call.kwargs)), *several(op(*args, **call.kwargs))]
            loss = sum((y * y).sum() for y in outs)
        with np.errstate(all="ignore"):
            found = trace(loss)
            loss.backward(retain_graph=True)
            for i in wanted:
                expected, number = args[i].grad, args[i]._node.number
                seen = found.cotangent_of(number)
                assert expected is None or np.array_equal(seen, expected.numpy(), equal_nan=True)
                parts = Session(found).explanation(number).contributions
                assert len(parts) >= 2
                total = sum(part.gradient for part in parts)
                np.testing.assert_allclose(total, seen, rtol=1e-12, atol=1e-300)
            folder = tmp_path_factory.mktemp("trace")
            found.save(folder)
            loaded = Trace.load(folder)
            for other in (loaded, found):
                for i in {0, len(found.steps) - 1}:
                    assert same(other.rerun(i, other.steps[i].cotangent), found)
            stepper = Terminal(loaded, Console(width=80))
            last = found.steps[-1].number == next(iter(found.recording.calls))
            assert last and "DIFFERENT" not in said(stepper, *["formula", "where", "next"] * 9)

    check()


@pytest.mark.parametrize("name", FUSED)
def test_the_inside_of_every_fused_op(name):
    """Its reference, node by node, ends in the op's own result and gradients."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=20)
    @given(data=st.data())
    def check(data):
        call = data.draw(op_calls(op))
        with autograd.record():
            args = as_leaves(op, call)
            out = op(*args, **call.kwargs)
        g = np.random.default_rng(0).standard_normal(out.shape)
        found = trace(out, g)
        (step,) = found.steps
        proofs = list(prove(inside_of(found.call(step), step), step, out.numpy()))
        assert len(proofs) == 1 + len(step.edges)
        for title, verdict in proofs:
            assert verdict, title

    check()


# ---- on disk


def test_a_saved_trace_is_the_same(model, tmp_path):
    found = trace(gpt_loss(model))
    found.save(tmp_path / "saved")
    assert sorted(os.listdir(tmp_path / "saved")) == ["trace.json", "trace.safetensors"]
    loaded = Trace.load(tmp_path / "saved")
    assert same(loaded, found) and loaded.recording.names == found.recording.names
    for a, b in zip(found.recording.calls.values(), loaded.recording.calls.values(), strict=True):
        assert (a.number, a.op, a.parents, a.results, a.line, a.scope) == (
            b.number, b.op, b.parents, b.results, b.line, b.scope,
        )  # fmt: skip
        for name, value in a.arguments.items():
            np.testing.assert_equal(b.arguments[name], value)


def test_a_saved_trace_keeps_the_order_in_memory(tmp_path):
    """On which the rounding of a sum may depend: so the loaded one runs again to the same bits."""
    x = autograd.Tensor(np.asfortranarray(np.arange(6.0).reshape(2, 3))).requires_grad_()
    with autograd.record():
        y = (x * x).sum()
    trace(y).save(tmp_path)
    loaded = Trace.load(tmp_path)
    (value,) = (loaded.recording.values[n] for n in loaded.recording.leaves())
    assert value.flags.f_contiguous and np.array_equal(value, x.numpy())


def test_what_is_no_trace(tmp_path):
    with pytest.raises(FileNotFoundError):
        Trace.load(tmp_path)
    (tmp_path / "trace.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no trace"):
        Trace.load(tmp_path)

    @autograd.op
    def passing(x):
        return x * 1

    passing.vjp(x=lambda g: g)
    with autograd.record():
        y = passing(autograd.tensor(1.0, requires_grad=True))
    trace(y).save(tmp_path)
    del autograd.REGISTRY["passing"]
    with pytest.raises(ValueError, match="'passing' is not registered"):
        Trace.load(tmp_path)


def contradictory(contents):
    """Change what a file says of a net in one way after the other; yield what is wrong with it."""
    calls = {call["op"]: call for call in contents["calls"]}
    arguments = {op: call["arguments"] for op, call in calls.items()}
    for op, name, values in [
        ("reshape", "shape", [None, "x", {"float": "0x1p+0"}, {"tuple": [10**9]}]),
        ("getitem", "index", [10**9, {"slice": [None, None, 0]}, {"list": ["a"]}]),
        ("concatenate", "axis", [None, 7, "x", {"ellipsis": None}]),
        ("cross_entropy", "reduction", [None, "most", {"list": []}]),
        ("cross_entropy", "weight", [10**500, True]),
        ("cross_entropy", "label_smoothing", ["x", None]),
    ]:
        before = arguments[op][name]
        for value in values:
            arguments[op][name] = value
            yield f"{op}: {name} = {str(value)[:40]}"
        arguments[op][name] = before
    for op, other in [("tanh", "sum"), ("reshape", "tanh"), ("matmul", "multiply")]:
        calls[op]["op"] = other
        yield f"{other} in the place of {op}"
        calls[op]["op"] = op
    step = contents["steps"][0]
    step["edges"] *= 2
    yield "an edge twice"
    del step["edges"][1:]
    start, contents["start"] = contents["start"], calls["matmul"]["parents"]["y"]
    yield "a start at a leaf"
    contents["start"] = start


def test_a_trace_that_contradicts_itself(tmp_path):
    """What its ops cannot have computed is refused in one line, before anything is shown."""
    X, targets = np.arange(12.0).reshape(4, 3), np.array([0, 1, 2])
    with autograd.record():
        W = autograd.tensor(np.eye(3) / 4, requires_grad=True)
        a = np.tanh(X @ W)
        rows = np.concatenate([a[1:], a[:1]], axis=0).reshape(6, 2).reshape(4, 3)
        loss = nn.cross_entropy(rows[:3], targets)
    trace(loss).save(tmp_path)
    path = tmp_path / "trace.json"
    contents = json.loads(path.read_text())
    for what in contradictory(contents):
        path.write_text(json.dumps(contents))
        with pytest.raises(ValueError, match="holds no trace that can be read: ") as error:
            Trace.load(tmp_path)
            pytest.fail(what, pytrace=False)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600, what
    path.write_text(json.dumps(contents))
    assert same(Trace.load(tmp_path), trace(loss))
    tensors, _ = read_tensors(tmp_path / "trace.safetensors")
    for name, x in tensors.items():  # an array of another shape
        write_tensors(tmp_path / "trace.safetensors", {**tensors, name: np.ones(x.size + 1)})
        with pytest.raises(ValueError, match="holds no trace that can be read: "):
            Trace.load(tmp_path)


@pytest.mark.parametrize("place", ["names", "scope", "statement", "line", "texts"])
def test_a_text_of_megabytes_is_no_name(tmp_path, place):
    """A page would repeat it until the browser has no memory left."""
    with autograd.record():
        x = autograd.tensor(1.0, requires_grad=True)
        y = x * x
    trace(y).save(tmp_path)
    contents = json.loads((tmp_path / "trace.json").read_text())
    long = "a." * 500_000
    if place == "names":
        contents["names"][0][1] = long
    elif place == "texts":
        contents["texts"] = [[["token"], ["short", long]]]
    else:
        contents["calls"][0][place] = long
    (tmp_path / "trace.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match="1,000,000 characters; expected 100,000 at most") as error:
        Trace.load(tmp_path)
    assert len(str(error.value)) < 500


# ---- commands

TRANSCRIPT = """\
loss = 0.9627: 7 steps back to 3 leaves

── step 1 of 7  multiply ──────────────────────────────────── test_stepper.py:NN
loss = e * e
  d(loss)  float64   1.0
  d(e) += d(loss) · e  float64   -0.9812   and once more in this step
  d(e) += d(loss) · e  float64   -0.9812   summed
(step) until w2

── step 4 of 7  multiply ──────────────────────────────────── test_stepper.py:NN
p = w2 * h
  d(p)  float64[2]   [ -1.9624 -1.9624 ]
  d(w2) += d(p) · h  float64[2]   [  0.5717 -0.9068 ]   its gradient is complete
  d(h) += d(p) · w2  float64[2]   [ -1.3737  1.1774 ]
(step) formula
$x is w2, $y is h, $out is p, $g is d(p)
  p = w2 · h
  d(w2) += d(p) · h
  d(h) += d(p) · w2
with numbers
  p[0] = 0.7 · (-0.2913) = -0.2039
  p[1] = (-0.6) · 0.4621 = -0.2773
  d(w2)[0] += (-1.962) · (-0.2913) =  0.5717
  d(w2)[1] += (-1.962) · 0.4621    = -0.9068
  d(h)[0] += (-1.962) · 0.7    = -1.374
  d(h)[1] += (-1.962) · (-0.6) =  1.177
(step) where
    ▲  p.sum() = sum(p, None, False)  float64
    │
  ▶ ●  p = multiply(w2, h)  float64[2]
    ├─ w2  float64[2]  as $x
    └─ h = tanh(z)  float64[2]  as $y
        └─ z = add(matmul_1, b1)  float64[2]
(step) continue

── the end: gradients ──────────────────────────────────────────────────────────
  W1  float64[2, 2]
      [ -1.2571 -2.5142 ]
      [  0.9260  1.8520 ]
  b1  float64[2]   [ -1.2571  0.9260 ]
  w2  float64[2]   [  0.5717 -0.9068 ]
"""


def test_a_transcript(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    file = tmp_path / "commands"
    file.write_text("# the net\n\nuntil w2\nformula\nwhere\ncontinue\n")
    autograd.step(net()[0], commands=file)
    out = re.sub(r"(stepper.py:)\d\d", r"\1NN", capsys.readouterr().out)
    assert out.replace("(step) # the net\n", "") == TRANSCRIPT


def test_step_takes_a_function(capsys):
    autograd.step(lambda a, b: a * b + a, 2.0, np.array(3.0), commands=["continue"])
    out = capsys.readouterr().out
    assert "a  float64   4.0" in out and "b  float64   2.0" in out
    with pytest.raises(TypeError, match="returned int"):
        autograd.step(lambda a: 1, 2.0)


def test_moving():
    stepper = stepper_of(net()[0])
    assert "this is the first step" in said(stepper, "back")
    assert "step 3 of 7" in said(stepper, "next 2") and "step 2 of 7" in said(stepper, "back")
    assert "step 5 of 7  tanh" in said(stepper, "until tanh")
    assert "no later step" in said(stepper, "until w2")
    assert "step 6 of 7  add" in said(stepper, "n") and "step 2 of 7" in said(stepper, "back 4")
    assert "step 5 of 7" in said(stepper, f"until {line(TANH)}") and "no number of steps" in said(
        stepper, "next two"
    )
    assert "the end" in said(stepper, "c") and "at its end" in said(stepper, "where")
    assert "step 7 of 7" in said(stepper, "back") and not stepper.done
    said(stepper, "next", "next")
    assert stepper.done and not stepper.quit


@pytest.mark.parametrize(
    ("condition", "step"),
    [("tanh", 5), ("h", 4), ("b1", 6), (line(TANH), 5), (f"test_stepper.py:{line(TANH)}", 5),
     ("[]", 2), ("[2]", 4), ("exploding 1.5", 2), ("vanishing 1.95", 4)],
)  # fmt: skip
def test_breakpoints(condition, step):
    stepper = stepper_of(net()[0])
    text = said(stepper, f"break {condition}", "continue")
    assert f"break: {condition}" in text and f"step {step} of 7" in text
    assert "no step of this pass has to do with [9, 9]" in said(stepper, "break [9, 9]")
    assert "no step of this pass has to do with 9999" in said(stepper, "break 9999")
    assert "pending, for a later pass: nothing here is called 'w3'" in said(stepper, "break w3")
    assert "is no number: write one" in said(stepper, "break exploding x")
    text = said(stepper, "break clear", f"b {line(TANH)}, d(h)[0] < 0", "b [2], W1[0, 0] > 0")
    assert f": {line(TANH)} if d(h)[0] < 0\n" in text and ": [2] if W1[0, 0] > 0\n" in text
    assert "pending" not in text and "if what is true?" in said(stepper, "b h if")
    assert "break where?" in said(stepper, "break if h[0] > 0")
    said(stepper, "break clear")
    assert "no breakpoints" in said(stepper, "break") and "the end" in said(stepper, "c")


PASSES = """
import numpy as np
import autograd
w = autograd.tensor([1.0, -2.0], requires_grad=True)
for i in range(4):
    h = w * (1.0 + i)
    if i == 2:
        h = np.tanh(h)
    loss = (h * h).sum()
    loss.backward()
    print("pass", i)
"""


def walk_through(script, commands, tmp_path, capsys):
    """Walk through a script with commands, and return what is printed after each command."""
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "commands").write_text("\n".join(commands) + "\n")
    walk(StepOptions(str(tmp_path / "script.py"), commands=str(tmp_path / "commands")))
    first, *parts = re.split(r"^\(step\) .*\n", capsys.readouterr().out, flags=re.MULTILINE)
    return [first, *parts]


def test_breakpoints_stay_in_later_passes(tmp_path, capsys):
    """A breakpoint at a name that is not known yet waits for the pass that has it."""
    commands = ["display loss", "tbreak sum if loss > 50", "break tanh", "c", "c", "break",
                "history", "clear 2", "c", "c", "b"]  # fmt: skip
    parts = walk_through(PASSES, commands, tmp_path, capsys)
    assert "break 1: sum if loss > 50  once\n" in parts[2] and "pending" not in parts[2]
    pending = "break 2: tanh\n    pending, for a later pass: nothing here is called 'tanh'"
    assert pending in parts[3] and "the end" in parts[4]
    # `continue` runs on to the pass with the tanh, and says which breakpoint has stopped it
    assert parts[5].startswith("pass 0\npass 1\nloss = ") and "break: tanh\n" in parts[5]
    assert "step 3 of 4  tanh" in parts[5] and "pass 2" not in parts[5] and "loss:" in parts[5]
    assert parts[6] == "break 1: sum if loss > 50  once\nbreak 2: tanh\n"
    assert "   1  display loss\n   2  tbreak sum" in parts[7]
    assert "pass 2\nloss = 80.0" in parts[10] and "break: sum if loss > 50" in parts[10]
    assert parts[11] == "no breakpoints\n"  # it stops once


def test_a_breakpoint_that_never_holds_lets_the_program_run(tmp_path, capsys):
    parts = walk_through(PASSES, ["break nonfinite", "c", "c", "q"], tmp_path, capsys)
    assert parts[-1] == "pass 0\npass 1\npass 2\npass 3\n"
    parts = walk_through(PASSES, ["c", "c", "n", "q"], tmp_path, capsys)  # each pass stops
    assert parts[2].startswith("pass 0\nloss = 20.0: 3 steps") and "step 2 of 3" in parts[3]


def test_break_at_what_is_not_finite():
    x = autograd.tensor([0.0, 4.0], requires_grad=True)
    with autograd.record():
        loss = (np.sqrt(x) * 2).sum()
    with np.errstate(divide="ignore"):
        stepper = stepper_of(loss)
    text = said(stepper, "break nonfinite", "c")
    assert "step 3 of 3  sqrt" in text and "Inf" in text


def test_printing():
    loss, leaves = net()
    stepper = stepper_of(loss)
    said(stepper, "until tanh")
    assert "[ -0.2913  0.4621 ]" in said(stepper, "print np.tanh(z)")
    assert said(stepper, "p d(h)[0] * 2").strip() == "-2.7473"
    assert "True" in said(stepper, "print np.array_equal($g, d(h))")
    assert "True" in said(stepper, "print np.allclose($dx, $g * (1 - $out**2), rtol=1e-14)")
    assert "the rule of tanh has no $y; it has $x, $g, $out, $dx" in said(stepper, "print $y")
    assert said(stepper, "print W1[:, 0].sum()").strip() == "0.5"
    assert "nothing here is called 'w3'; did you mean w2" in said(stepper, "print w3 + 1")
    assert "did you mean subtract?" in said(stepper, "until subtrac")
    assert said(stepper, "print 1 +") == "SyntaxError: invalid syntax\n"
    assert "print what?" in said(stepper, "print")


def test_a_name_is_always_that_of_the_program():
    """Also where the op's arguments, its result or its cotangent have the same name."""
    x, y, g, out, sum = (autograd.tensor(v, requires_grad=True) for v in (2.0, 3.0, 5.0, 7.0, 11.0))
    with autograd.record():
        a = g * y
        loss = a * x + (out - sum)
    stepper = stepper_of(loss)
    text = said(stepper, "until a")
    assert "d(a) += d(a * x) · x  float64   2.0" in text
    assert said(stepper, "print g * y") == "15.0\n"
    assert said(stepper, "print x, out") == "(array(2.), array(7.))\n"
    assert said(stepper, "print $g * $y") == "2.0\n"
    assert "✓ right: d(x) is" in said(stepper, "predict d(x) = g * y")
    assert "✓ right: d(a)" in said(stepper, "predict x")
    assert "step 4 of 4  multiply" in said(stepper, "until g")
    text = said(stepper, "formula")
    assert "$x is g, $y is y, $out is a, $g is d(a)" in text
    assert "  d(g) += d(a) · y\n" in text and "d(y) += d(a) · g\n" in text
    assert "✓ right: $dx" in said(stepper, "predict $dx = $g * $y")
    assert "step 2 of 4  subtract" in said(stepper, "back 9", "break sum", "continue")
    assert "✓ right: d(a * x) is" in said(stepper, "predict d(a * x) = 1")


def test_arrays_off_the_tape_have_names(tmp_path):
    X, t, scale = np.array([[1.0, 2.0], [3.0, 4.0]]), autograd.tensor([1.0, 0.0]), 0.5
    w = autograd.tensor([0.5, -1.0], requires_grad=True)
    with autograd.record() as recording:
        for _ in range(2):
            e = X @ w
            loss = ((e - t) ** 2 * scale).sum() * 0.5
            X[0, 0] = 9.0
    found = trace(loss)
    first, second = (call for call in recording.calls.values() if call.op.name == "matmul")
    assert first.arguments["x"][0, 0] == 1 and second.arguments["x"][0, 0] == 9
    assert recording.name(second.constants["x"]) == "X" and len(recording.constants) == 4
    names = {recording.name(n) for n in recording.constants}
    assert names == {"X", "X_2", "t", "scale"}
    found.save(tmp_path)
    for stepper in (Terminal(found, Console(width=80)), Terminal(Trace.load(tmp_path))):
        stepper.console = Console(width=80, highlight=False)
        assert "d(w)_j += Σ_i X_ij · d(e)_i" in said(stepper, "until X")
        assert said(stepper, "print X[0, 0] + t[0] + scale") == "10.5\n"
        assert "d(e) += d(subtract_2)" in said(stepper, "back")


def test_a_trace_of_an_earlier_version_has_no_names_of_arrays(tmp_path):
    w, x = autograd.tensor([0.5, -1.0], requires_grad=True), np.array([2.0, 3.0])
    with autograd.record():
        y = w * x
    trace(y, np.ones(2)).save(tmp_path)
    contents = json.loads((tmp_path / "trace.json").read_text())
    del contents["constants"]
    for call in contents["calls"]:
        del call["constants"], call["statement"], call["part"]
    (tmp_path / "trace.json").write_text(json.dumps(contents))
    stepper = Terminal(Trace.load(tmp_path), Console(width=80, highlight=False))
    text = said(stepper, "back 1", "next", "back")
    assert "d(w) += d(y) · $y" in text and "y = w * x\n" in text
    contents["calls"][0]["constants"] = {"y": 9999}
    (tmp_path / "trace.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match="has a constant for 'y' that does not exist"):
        Trace.load(tmp_path)


def test_the_whole_statement_is_shown_and_the_part_that_runs():
    x = autograd.tensor([1.0, 2.0], requires_grad=True)
    with autograd.record():
        y = np.exp(
            (x * x  # ä
             ).sum()
            + 1.0
        )  # fmt: skip
        loss = y * 2.0 + np.log(y)
    stepper = stepper_of(loss)
    text = said(stepper, "next")
    assert "\nloss = y * 2.0 + np.log(y)\n                 ^^^^^^^^^\n" in text
    text = said(stepper, "next 2")
    assert "y = np.exp(\n    (x * x  # ä\n     ).sum()\n    + 1.0\n)" in text and ">" not in text
    text = said(stepper, "next")
    assert "  y = np.exp(\n>     (x * x  # ä\n>      ).sum()\n>     + 1.0\n  )" in text
    text = said(stepper, "next")
    assert "    ).sum()\n       ^^^^^\n" in text and "d(sum_1)" in text
    text = said(stepper, "next")
    assert "    (x * x  # ä\n     ^^^^^\n" in text and "d(x) += d(x * x) · x" in text


def test_calls_that_this_pass_does_not_go_through_do_not_count():
    def f(x):
        return (x * x).sum()

    x = autograd.tensor([1.0, 2.0], requires_grad=True)
    with autograd.record():
        for _ in range(3):
            loss = f(x)
        both = f(x) + f(x)
    assert "call" not in said(stepper_of(loss), "jump 1", "next")
    text = said(stepper_of(both), "until multiply")
    assert "── step 3 of 5  multiply" in text and "call 2 of 2" in text
    assert "── step 5 of 5  multiply" in said(stepper_of(both), "until multiply", "jump call 1")


def test_loops_show_their_call_and_can_be_jumped():
    W, h = autograd.tensor([[0.5, 1.0], [-1.0, 0.3]], requires_grad=True), np.ones(2)
    with autograd.record():
        first = (W @ h).sum()
        for _ in range(5):
            h = np.tanh(W @ h)
        loss = h.sum() + first
    stepper = stepper_of(loss)
    assert "in no loop" in said(stepper, "jump call 2")
    assert "call 5 of 5" in said(stepper, "until tanh")
    text = said(stepper, "jump call 3")
    assert "── step 7 of 14  tanh" in text and "call 3 of 5" in text and "  d(h_4)  " in text
    assert "step 13 of 14  sum" in said(stepper, "jump loop")
    assert "call" not in said(stepper, "next")
    assert "step 4 of 14  matmul" in said(stepper, "jump 4")
    assert "'9' is no call: they are numbered from 1 to 5" in said(stepper, "jump call 9")
    assert "`until 15` goes to a line" in said(stepper, "jump 15") and "where?" in said(
        stepper, "jump"
    )


def test_a_cell_of_a_notebook_is_called_so(monkeypatch):
    class Shell:
        class compile:
            @staticmethod
            def format_code_name(name):
                return ("Cell", "In[7]") if name == __file__ else None

    monkeypatch.setattr("builtins.get_ipython", Shell, raising=False)
    monkeypatch.setattr(
        "autograd.stepper.source._places", {}
    )  # other tests ran this line as a file
    number = line(TANH)
    stepper = stepper_of(net()[0])
    assert f"── cell 7:{number}\n" in said(stepper, f"until cell 7:{number}")


def test_names_of_modules(model):
    stepper = stepper_of(gpt_loss(model))
    name = "transformer.h.0.attn.c_attn.weight"
    whole = said(stepper, f"print {name}[:2]")
    assert whole == said(stepper, "print h.0.attn.c_attn.weight[:2]")
    assert "may be transformer.h.0.attn.c_attn.weight," in said(stepper, "why c_attn.weight")
    said(stepper, "until attention")
    assert "in transformer.h.1.attn" in said(stepper, "back", "next")
    number = stepper.session.find("query")
    assert stepper.session.trace.recording.name(number) == "transformer.h.1.attn.query"


def test_why_adds_up(model):
    """The contributions to every gradient sum to it, and their shares to one."""
    loss = gpt_loss(model)
    stepper = stepper_of(loss)
    for number in stepper.session.trace.recording.values:
        if number == loss._node.number:
            continue
        explanation = stepper.session.explanation(number)
        gradient = stepper.session.trace.cotangent_of(number)
        total = sum(part.gradient for part in explanation.contributions)
        np.testing.assert_allclose(total, gradient, rtol=1e-13, atol=1e-18)
    text = said(stepper, "why wte.weight")
    assert "from 2 uses" in text
    assert "lm_head: transpose(x)" in text and "transformer.wte: embedding(weight)" in text
    for name in ("wte.weight", "h.0.attn.c_attn.weight"):
        add_up(said(stepper, f"why {name}"))


def add_up(text):
    """Assert that the uses, and each line of sums, add up to what stands above them."""
    text = re.sub("\n {6}(?! )", " ", text)  # lines that were wrapped
    total = float(re.search(r"norm (\S+),", text)[1])
    uses = [float(x) for x in re.findall(r"^  ([+-]\S+)  [+-].*%", text, re.M)]
    assert uses and np.isclose(sum(uses), total, rtol=2e-3)
    for line in re.findall(r"^  by .*", text, re.M):
        terms = [float(x) for x in re.findall(r"[+-][\d.e-]+(?= at)", line)]
        # The terms are printed in three digits, the norm in four.
        assert abs(sum(terms) - total) <= 5e-3 * sum(map(abs, terms)) + 5e-4 * total, line
    for use, block in zip(uses, re.split(r"^  [+-].*", text, flags=re.M)[1:], strict=True):
        for line in re.findall(r"^    by .*", block, re.M):
            terms = [float(x) for x in re.findall(r"[+-][\d.e-]+(?= at)", line)]
            assert abs(sum(terms) - use) < 0.01 * sum(map(abs, terms)), line
        terms = [float(x) for x in re.findall(r"^    ([+-]\S+) ", block, re.M)]
        assert not terms or abs(sum(terms) - use) < 1e-3 * sum(map(abs, terms))


class Layer:
    """As one writes it before one knows `nn.Module`."""

    def __init__(self, *shape):
        self.params = {"W": autograd.tensor(np.ones(shape), requires_grad=True)}
        self.b, self.parent = autograd.tensor(np.zeros(shape[1]), requires_grad=True), self

    def __call__(self, x):
        return np.tanh(x @ self.params["W"] + self.b)


def test_names_in_objects():
    layers = [Layer(2, 3), Layer(3, 1)]
    with autograd.record() as recording:
        loss = layers[1](layers[0](np.ones((4, 2)))).sum()
        for p in (layers[0].b, layers[1].b):  # a later name is none
            p.grad = None
    names = {recording.name(number) for number in recording.leaves()}
    assert names == {f"layers[{i}].{name}" for i in (0, 1) for name in ("params['W']", "b")}
    stepper = stepper_of(loss)
    for name in ("layers[0].b", "layers[1].params['W']", 'layers[1].params["W"]'):
        assert "✓" in said(stepper, f"check loss {name}")
        assert "called" not in said(stepper, f"print {name} + 1", f"print {name}.shape")
    assert "W may be layers[" in said(stepper, "why W")


def test_a_dict_that_grows_while_it_is_read():
    """As that of a program's thread, or of parameters that are made when they are asked for."""
    models = {}

    class Lazy:
        def named_parameters(self):
            models[f"other {len(models)}"] = None
            return []

    models["lazy"] = Lazy()
    with autograd.record() as recording:
        y = autograd.tensor(2.0, requires_grad=True) * 3.0
    assert recording.names[y._node.number] == "y" and len(models) == 2


def test_set_is_a_real_pass():
    """The pass is linear in the cotangent: doubled at a step, all behind it doubles."""
    loss, leaves = net()
    stepper = stepper_of(loss)
    before = {
        name: stepper.session.trace.cotangent_of(x._node.number) for name, x in leaves.items()
    }
    said(stepper, "until tanh", "set d(h) * 2")
    after = {name: stepper.session.trace.cotangent_of(x._node.number) for name, x in leaves.items()}
    np.testing.assert_array_equal(after["W1"], 2 * before["W1"])
    np.testing.assert_array_equal(after["b1"], 2 * before["b1"])
    np.testing.assert_array_equal(after["w2"], before["w2"])
    assert "its norm was" in (text := said(stepper, "continue")) and "as recorded" in text
    said(stepper, "back 3", "set")
    assert stepper.session.trace is stepper.session.level.recorded
    text = said(stepper, "set np.ones(3)")
    assert "expected float64[2], and was given float64[3]" in text
    assert all(x.grad is None for x in leaves.values())


def test_checks(model):
    stepper = stepper_of(net()[0])
    for _ in range(7):
        text = said(stepper, "check", "next")
        assert "✓" in text and "✗" not in text
    assert "✓" in said(stepper, "check loss W1") and "✓" in said(stepper, "check loss h")
    stepper = stepper_of(gpt_loss(model))
    assert "✓ largest" in said(stepper, "check loss h.0.attn.c_attn.weight")
    assert "✓ largest" in said(stepper, "until attention", "check")
    assert "check loss NAME" in said(stepper, "check all")


def test_a_wrong_rule_fails_its_check():
    @autograd.op
    def crooked(x):
        return x**2

    crooked.vjp(x=lambda g, x: g * 3 * x)
    try:
        x = autograd.tensor([1.0, 2.0], requires_grad=True)
        with autograd.record():
            loss = crooked(x).sum()
        assert "✗" in said(stepper_of(loss), "next", "check")
    finally:
        del autograd.REGISTRY["crooked"]


def test_a_gradient_that_is_zero_passes_its_check():
    """What the differences see of it is rounding; what is more than that is still seen."""
    x = autograd.tensor(np.random.default_rng(0).standard_normal((3, 5)), requires_grad=True)
    for f in (nn.softmax, lambda x: nn.layer_norm(x, 5), lambda x: np.round(x, 1),
              lambda x: np.sin(x) ** 2 + np.cos(x) ** 2):  # fmt: skip
        with autograd.record():
            loss = f(x).sum()
        stepper = stepper_of(loss)
        for _ in stepper.session.trace.steps:
            assert "✓" in (text := said(stepper, "check", "next")) and "✗" not in text
        assert "✓" in said(stepper, "check loss x")

    @autograd.op
    def crooked(x):
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()

    crooked.vjp(x=lambda g, out: out * (g - factor * np.sum(g * out)))
    try:
        for factor in (1 + 1e-5, 1 + 1e-9):  # read by the rule
            with autograd.record():
                loss = crooked(x).sum()
            assert "✓" not in said(stepper_of(loss), "next", "check"), factor
    finally:
        del autograd.REGISTRY["crooked"]


def test_where_differences_cannot_tell():
    x = autograd.tensor([0.0, 1.0], requires_grad=True)
    with autograd.record():
        kinked = nn.relu(x).sum()
        steep = np.sqrt(x).sum()
    text = said(stepper_of(kinked), "next", "check")
    assert "?" in text and "a kink: 0 from the left, 1 from the right" in text
    with np.errstate(divide="ignore"):
        assert "not finite" in said(stepper_of(steep), "next", "check")


def test_several_outputs():
    x = autograd.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    with autograd.record():
        a, b = np.split(x, 2)
        loss = (a * b).sum()
    stepper = stepper_of(loss)
    said(stepper, "next")
    assert said(stepper, "predict [3, 4], [1, 2]").count("✓ right: d(") == 2
    text = said(stepper, "predict [3, 4], [1, 3]")
    assert "✓ right: d(a)" in text and "✗ d(b): 1 of 2 are wrong" in text
    for wrong in ("[3, 4]", "1, 2, 3"):
        text = said(stepper, f"predict {wrong}")
        assert "has 2 outputs: predict their cotangents, with commas between" in text
    assert "✓" in said(stepper, "next", "check")
    assert "nothing here is called 'nosuch'" in said(stepper, "set d(b) = nosuch")


def test_an_error_in_a_command_is_a_message(monkeypatch):
    def fail(stepper, text):
        raise IndexError("out of bounds")

    monkeypatch.setattr(Terminal, "do_where", fail)
    assert "where: IndexError: out of bounds" in said(stepper_of(net()[0]), "where")


def test_into_and_out():
    query, key, value = (
        autograd.tensor(np.random.default_rng(i).standard_normal((3, 2)), requires_grad=True)
        for i in range(3)
    )
    with autograd.record():
        y = nn.scaled_dot_product_attention(query, key, value, is_causal=True).sum()
    stepper = stepper_of(y)
    assert "sum is a primitive" in said(stepper, "into")
    text = said(stepper, "next", "into")
    assert "attention ▸ step 1 of " in text and "return p @ value" in text
    assert "weights" not in text and "d(value)_jk += " in text
    assert "outermost" not in said(stepper, "until softmax") and len(stepper.session.levels) == 2
    text = said(stepper, "out")
    assert text.count("✓") == 4 and "DIFFERENT" not in text and "step 2 of 2  attention" in text
    assert "outermost" in said(stepper, "out")
    assert said(stepper, "into", "continue").count("✓") == 4
    assert "step 2 of 2  attention" in said(stepper, "next")


def test_predicting():
    stepper = stepper_of(net()[0])
    said(stepper, "until w2")
    assert "✓ right: d(h)" in said(stepper, "predict [-1.374, 1.177]")
    assert "the sign is the other one" in said(stepper, "predict [1.374, -1.177]")
    assert "a factor of 2" in said(stepper, "predict [-2.7473, 2.3549]")
    assert "1 of 2 are wrong" in said(stepper, "predict [-1.374, 0]")
    assert "✓ right: $dx is" in said(stepper, "predict $dx = $g * $y")
    assert "✓ right: d(w2) +=" in said(stepper, "predict d(w2) += d(p) * h")
    assert "adds nothing to d(z); it adds to d(w2), d(h)" in said(stepper, "predict d(z) += 1")
    assert "$dz is none of $dx, $dy" in said(stepper, "predict $dz = 1")
    assert "predict d(NAME) += VALUE or $dx = VALUE" in said(stepper, "predict dx = 1")
    text = said(stepper, "predict")
    assert "hidden" in text and "0.5717" not in text
    assert "0.5717" in said(stepper, "predict")
    assert "no next step" in said(stepper, "until matmul", "predict 3")


def test_formulas_with_numbers():
    """Every element of what is small, and the first of what is larger."""
    random = np.random.default_rng(0)
    x = autograd.tensor(random.standard_normal((2, 1)), requires_grad=True)
    y = autograd.tensor(random.standard_normal((2, 6)), requires_grad=True)
    with autograd.record():
        loss = (x * y).sum()
    text = said(stepper_of(loss), "next", "formula")
    rows = re.findall(r"^  (.+)\[(\d), (\d)\] \+?= (.*\S) += +(\S+)$", text, re.M)
    assert [row[:3] for row in rows] == [
        ("(x * y)", "0", "0"), ("d(x)", "0", "0"), ("d(x)", "1", "0"), ("d(y)", "0", "0"),
    ]  # fmt: skip
    assert text.count("the first of 12 elements") == 2 and " + … + " in rows[1][3]
    sums = y.numpy().sum(1)
    assert [row[4] for row in rows[1:3]] == [f"{total:.4g}" for total in sums]
    large = autograd.tensor(np.ones(2000), requires_grad=True)
    with autograd.record():
        loss = (large * 2).sum()
    text = said(stepper_of(loss), "next", "formula")
    assert "d(large) += d(large * 2) · 2" in text
    assert "d(large)[0] += 1 · 2 = 2\n  the first of 2000 elements" in text


def test_any_element_is_written_term_by_term():
    random = np.random.default_rng(0)
    x, targets = random.standard_normal((50, 30)), random.integers(40, size=50)
    W = autograd.tensor(random.standard_normal((30, 40)), requires_grad=True)
    b = autograd.tensor(random.standard_normal(40), requires_grad=True)
    with autograd.record():
        h = x @ W
        z = h + b
        p = nn.softmax(z, 0)
        loss = nn.cross_entropy(p, targets)
    stepper = stepper_of(loss)
    session = stepper.session
    for part, name in (
        ("d(p)[3, 4]", "p"), ("d(z)[2, 7]", "z"), ("d(b)[3]", "b"), ("d(h)[49, 39]", "h"),
        ("d(W)[2, 7]", "W"), ("$dy[29, 0]", "W"),
    ):  # fmt: skip
        while f"d({name})" not in session.names_of_symbols(session.call).values():
            session.move(1)
        (equation,) = session.formula(part).with_numbers
        index = tuple(map(int, re.findall(r"\d+", part.partition("[")[2])))
        expected = session.trace.cotangent_of(session.find(name))[index]
        ((place, written, value),) = equation.rows
        assert place == f"d({name})[{', '.join(map(str, index))}]"
        assert (value or written) == f"{expected:.4g}" and equation.sign == "+="
        if name in "bW":
            assert len(equation.terms) == 50
            assert np.isclose(sum(term for _, _, term in equation.terms), expected, rtol=1e-9)
            sizes = [abs(term) for _, _, term in equation.terms]
            assert sizes == sorted(sizes, reverse=True)
    i = int(np.argmax(np.abs(x[:, 2] * session.trace.cotangent_of(session.find("h"))[:, 7])))
    text = said(stepper, "formula d(W)[2, 7]")
    assert re.search(rf"\n    i = {i} .*\n(.*\n)+ .*the 42 others\n", text)
    for part, message in (
        ("d(W)[2, 77]", "out of range: the shape is [30, 40]"), ("d(W)[2]", "the shape [30, 40]"),
        ("d(W)[:, 1]", "name one element"), ("d(W)[x]", "is no index"),
        ("W", "the formula has no W; it has $out, h, $dy, d(W)"),
    ):  # fmt: skip
        assert message in said(stepper, f"formula {part}")
    assert "  p[2, 7] = exp(" in said(stepper, "back 2", "formula p[2, 7]")
    assert "formula alone" in said(stepper, "back", "formula $p[0, 0]")


@pytest.mark.parametrize("name", OPS)
def test_formulas_with_numbers_are_right(name, monkeypatch):
    """What is written out, evaluated as it stands, is the element that it is written for."""
    op = autograd.REGISTRY[name]
    monkeypatch.setattr(formulas, "four_digits", lambda x: f"F({float(x)!r})")  # every digit
    monkeypatch.setattr(formulas, "MOST_TERMS", 1000)
    space = {key: getattr(np, key) for key in FUNCTIONS if hasattr(np, key)}
    space |= {"erf": math.erf, "mod": np.mod, "round": np.rint, "max": max, "min": min, "abs": abs}
    space |= {"F": np.float64, "inf": np.inf, "nan": np.nan, "__builtins__": {}}

    @settings(max_examples=4)
    @given(data=st.data())
    def check(data):
        call = data.draw(op_calls(op))
        with autograd.record(), np.errstate(all="ignore"):
            args = as_leaves(op, call)
            loss = sum((y * y).sum() for y in several(op(*args, **call.kwargs)))
            stepper = stepper_of(loss, width=400)
            stepper.session.go(len(stepper.session.trace.steps) - 1)
            lines = said(stepper, "formula").partition("with numbers\n")[2].splitlines()
            for line in lines:
                text = re.split(r" \+?= ", line.strip(), maxsplit=1)[-1]
                text, equals, value = text.partition(" = ")
                if equals and not text.rstrip().endswith("…"):
                    code = re.sub(r"\|([^|]*)\|", r"abs(\1)", text)
                    found = eval(code.replace("·", "*").replace("^", "**"), space)
                    expected = eval(value, space)
                    assert np.isclose(found, expected, rtol=1e-6, atol=1e-9, equal_nan=True), line

    check()


@pytest.mark.parametrize("name", OPS)
def test_many_terms_are_computed_as_one_array(name, monkeypatch):
    """The terms of a long sum have the values that they have one by one."""
    op = autograd.REGISTRY[name]
    write = formulas._Written.write_many_terms

    def checked(self, node, indices, is_first):
        text = write(self, node, indices, is_first)
        n = self.ranges[node.letter]
        found = np.zeros(n) + self.values_of(node.body, indices | {node.letter: np.arange(n)})
        each = [self.write(node.body, indices | {node.letter: i})[2] for i in range(n)]
        np.testing.assert_allclose(found, each, rtol=1e-9, atol=1e-12)
        return text

    monkeypatch.setattr(formulas._Written, "write_many_terms", checked)
    monkeypatch.setattr(formulas, "MANY", 3)

    @settings(max_examples=2)
    @given(data=st.data())
    def check(data):
        call = data.draw(op_calls(op))
        with autograd.record(), np.errstate(all="ignore"):
            loss = sum((y * y).sum() for y in several(op(*as_leaves(op, call), **call.kwargs)))
            stepper = stepper_of(loss)
            stepper.session.go(len(stepper.session.trace.steps) - 1)
            assert "Error" not in said(stepper, "formula")

    check()


def test_the_terms_of_a_long_sum(monkeypatch):
    """The first, the last and the largest terms are written; the sum has all of them."""
    x = np.linspace(1.0, 2.0, 600).reshape(300, 2)
    w = autograd.tensor(np.where(np.arange(300) == 7, 50.0, 1.0), requires_grad=True)
    with autograd.record():
        y = w @ x
        loss = y.sum()
    text = said(stepper_of(loss), "next", "formula y[1]")
    monkeypatch.setattr(formulas, "MANY", 1000)
    assert said(stepper_of(loss), "next", "formula y[1]") == text
    assert "= 7 " in text and "the 292 others" in text


def test_steps_belong_to_modules(model):
    stepper = stepper_of(gpt_loss(model))
    scopes = [call.scope for call in map(stepper.session.trace.call, stepper.session.trace.steps)]
    attention = "transformer.h.0.attn"
    inside = [i for i, scope in enumerate(scopes) if scope.startswith(attention)]
    said(stepper, "until h.0.attn")
    assert stepper.session.level.index == inside[0] and stepper.session.scope.startswith(attention)
    assert f"past {attention}" in said(stepper, f"over {attention}")
    assert stepper.session.level.index == inside[-1] + 1
    said(stepper, "back until h.0.attn")
    assert stepper.session.level.index == inside[0]
    own = stepper.session.scope
    assert f"past {own}" in said(stepper, "over") and stepper.session.scope != own
    text = said(stepper, "back 999", "break transformer.h.1.mlp", "continue")
    assert "break: transformer.h.1.mlp" in text and "h.1.mlp" in stepper.session.scope
    assert "the end" in said(stepper, "continue")  # it is entered once
    assert "is at its end" not in said(stepper, "back 999", "over transformer")
    assert "no later step is in" in said(stepper, "over h.1.attn")
    assert "no module here is called 'h.7'" in said(stepper, "over h.7")
    assert "in no module" in said(stepper, "back 999", "over")


def test_up_and_down_look_at_the_modules_around_a_step(model):
    stepper = stepper_of(gpt_loss(model))
    session = stepper.session
    said(stepper, "until transformer.h.1.mlp")
    here, n = session.level.index, len(session.trace.steps)
    out = said(stepper, "up")
    inside = [i for i, s in enumerate(session.trace.steps, 1)
              if session.trace.call(s).scope.startswith(session.scope)]  # fmt: skip
    assert f"steps {inside[0]} to {inside[-1]} of {n}" in out and "── " + session.scope in out
    view = session.module_view("transformer.h.1")
    assert session.level.index == here and len(view.results) == 1  # what the next norm reads
    (received,) = view.results
    g = session.trace.cotangent_of(session.trace.recording.number(received.name))
    assert np.array_equal(received.value, g)
    recording = session.trace.recording
    makers = [recording.maker[recording.number(r.name)].scope for r in view.inputs]
    assert makers and not any(scope.startswith("transformer.h.1") for scope in makers)
    depth = session.scope.count(".") + 1
    whole = said(stepper, f"up {depth}")
    assert "── the whole pass ─" in whole and f"steps 1 to {n} of {n}" in whole
    assert "this is the whole pass" in said(stepper, "up")
    said(stepper, "down 2")
    assert session.level.frame == "transformer.h"
    said(stepper, "down", "out")
    assert not session.scope.startswith("transformer.h.1") and session.level.frame is None
    assert "this is the step itself" in said(stepper, "down")
    assert "this is the step itself" in said(stepper, "up", "down", "down")
    assert "no number of steps" in said(stepper, "up x")
    said(stepper, "continue")
    assert "at its end" in said(stepper, "up")


def test_breakpoints_have_numbers_and_conditions():
    stepper = stepper_of(net()[0])
    assert "break 1: tanh if h[0] > 0\n" in said(stepper, "break tanh if h[0] > 0")
    assert "the end" in said(stepper, "continue")  # h[0] is negative
    text = said(stepper, "back 9", "break tanh if d(h)[0] < 0", "tbreak w2", "clear 1")
    assert "break 2: tanh if d(h)[0] < 0\nbreak 3: w2  once\n" in text
    assert "break 1" not in text.rpartition("(")[2].rpartition("once\n")[2]
    assert "step 4 of 7" in said(stepper, "continue") and "step 5 of 7" in said(stepper, "continue")
    assert said(stepper, "break") == "break 2: tanh if d(h)[0] < 0\n"
    assert "pending, for a later pass: nothing here is called 'q'" in said(
        stepper, "break z if q > 0"
    )
    assert "SyntaxError" in said(stepper, "break z if q >")
    said(stepper, "clear 4")
    assert "there is no breakpoint 9" in said(stepper, "clear 9")
    assert "no number of a breakpoint" in said(stepper, "clear x")
    assert "no breakpoints" in said(stepper, "clear")
    assert "tbreak at what?" in said(stepper, "tbreak")


def test_a_number_is_of_steps_or_of_a_line():
    """`next` and `back` take steps, `until` and `back until` a line, and the messages say so."""
    stepper = stepper_of(net()[0])
    at = line(TANH)
    assert "step 5 of 7" in said(stepper, f"until {at}")
    text = said(stepper, f"until {at}", "next", f"until {at}")
    assert f"no later step has to do with line {at}" in text
    assert f"`back until {at}` finds one" in text
    assert "step 5 of 7" in said(stepper, f"back until {at}")
    assert "`until b1` finds one" in said(stepper, "back until b1")
    assert "step 4 of 7" in said(stepper, "back until w2") and "step 2 of 7" in said(
        stepper, "back 2"
    )
    assert "line 4; `jump 4` goes to step 4" in said(stepper, "until 4")
    assert "no number of steps; `back until w2` goes to" in said(stepper, "back w2")
    assert "no number of steps; `until tanh` goes to" in said(stepper, "next tanh")
    assert "until which" in said(stepper, "back until")


def test_an_empty_line_repeats_the_last_command():
    """As in pdb; but not what changes numbers or breakpoints."""
    stepper = stepper_of(net()[0])

    def typed(*lines):
        waiting = iter(lines)
        with stepper.console.capture() as capture:
            stepper.converse(lambda: next(waiting, "q"), stepper.run)
        stepper.done = False
        return capture.get()

    text = typed("n", "", "", "p d(h)", "", "h", "")
    assert "step 4 of 7" in text and text.count("-1.3737") == 1 + 2
    assert text.count("List the commands, or explain one") == 2
    assert typed("descend 0.1", "", "").count("the program ran again") == 1
    assert "break 1" in (text := typed("break tanh", "")) and "break 2" not in text
    assert typed("1 + 1", "") == "2\n2\n"
    assert typed("nonsense", "").count("no command 'nonsense'") == 1
    stepper.screen = "full"  # there, an empty line removes what a command printed
    waiting = iter(["p 1 + 1", "", "n", "", "screen off"])
    with stepper.console.capture() as capture:
        stepper.in_terminal = True
        stepper.converse(lambda: next(waiting), stepper.run)
    assert capture.get().count("2\n") == 1 and stepper.session.level.index == 5


def test_as_in_pdb():
    loss, _ = net()
    stepper = stepper_of(loss)
    said(stepper, "until tanh")
    assert said(stepper, "h[0] * 0 + 1.5", "d(h)[0] * 2", "loss") == "1.5\n-2.7473\n0.9627\n"
    assert said(stepper, "p * 0 + z") == said(stepper, "print p * 0 + z")  # p alone is print
    assert "nothing here is called 'w3'" in said(stepper, "w3 + (1)")
    assert "  $x is z  float64[2]" in (text := said(stepper, "args"))
    assert "  $g is d(h)  " in text and "  $out is h  " in text and "  $dx adds to d(z)  " in text
    text = said(stepper, "list")
    number = line(TANH)
    assert f"{number:>4} ->         {TANH}\n" in text and len(text.splitlines()) == 11
    assert "np.tanh(x)" in said(stepper, "list op") and "g - g * out" in said(stepper, "list rule")
    assert "list op or list rule" in said(stepper, "list all")
    assert said(stepper, "list 3").startswith("   1 ") and "->" not in said(stepper, "list 3")
    assert re.match(r" *\d+  ", said(stepper, "list 99999"))  # the end of the file
    text = said(stepper, "whatis h")
    assert "h: float64[2], made by tanh" in text and "  used by multiply for p" in text
    assert "W1: float64[2, 2], a leaf" in said(stepper, "whatis W1")
    assert said(stepper, "whatis h + 1", "whatis (1, 2)") == "h + 1: float64[2]\n(1, 2): tuple\n"
    assert said(stepper, "pp np.arange(300)").count("99") >= 3 and "pp what?" in said(stepper, "pp")
    said(stepper, "display d(z)")
    assert "d(z):" in said(stepper, "next") and said(stepper, "display") == "watch d(z)\n"
    assert "h is not watched" in said(stepper, "undisplay h")
    assert said(stepper, "undisplay d(z)") == "nothing is watched\n"
    assert "is a primitive" in said(stepper, "s") and "the whole pass" in said(stepper, "u")
    assert said(stepper, "!h[0] * 0 + 1.5", "! loss") == "1.5\n0.9627\n"
    assert "   1  until tanh\n   2  h[0] * 0 + 1.5\n" in said(stepper, "history")
    assert all(len(line) <= 80 for line in said(stepper, "help").splitlines())


def test_a_session_answers_every_command_with_data(capsys):
    """A page needs no terminal: each of its commands has a method, which prints nothing."""
    x = autograd.tensor([[1.0, 2.0], [0.5, -1.0]], requires_grad=True)
    with autograd.record():
        loss = nn.softmax(x).max()
    session = Session(trace(loss))
    overview = session.overview()
    assert (overview.name, overview.n_steps, overview.n_ends) == ("loss", 2, 1)
    assert overview.ends_are_leaves and overview.value == loss.item()
    session.watch("d(x)")
    with pytest.raises(CommandError, match="nothing"):
        session.watch("nothing")
    with pytest.raises(CommandError, match="first step"):
        session.move(-1)
    assert session.current_view() == session.view() and session.view().op == "max"
    session.add_break("softmax")
    assert session.breaks() == ["softmax"] and session.go_on() == "softmax"
    session.clear_breaks()
    assert session.breaks() == [] and session.move(-1).view().op == "max"
    session.go_until("softmax")
    assert [value.kind for value in session.neighbourhood().results] == ["float64[2, 2]"]
    _, *equations = session.formula().with_numbers  # the first is of the largest
    assert equations[0].total == 4 and equations[0].rows[0][0] == "nn.softmax(x)[0, 0]"
    assert all(isinstance(text, str) for row in equations[0].rows for text in row)
    assert session.explanation(session.find("x")).contributions[0].op == "softmax"
    found = [*session.check_step(), session.check_loss(session.find("x"))]
    assert [comparison.verdict for comparison in found] == ["right", "right"]
    session.hidden = True
    assert session.view().sent is None
    rule = "$out * ($g - ($g * $out).sum(1, keepdims=True))"
    (judgement,) = session.predict(f"$dinput = {rule}")
    assert judgement.is_right
    (watched,) = session.watched_values()
    assert np.array_equal(watched.value, session.trace.cotangent_of(x._node.number))
    assert session.step_into() == "softmax" and session.view().inside == "softmax"
    assert session.watched_values()[0].error.startswith("nothing here is called 'x'")
    assert session.go(99).current_view() == session.proof()
    assert all(proof.verdict for proof in session.proof().proofs)
    session.step_out()
    session.set("$g * 2")
    (gradient,) = session.move(1).current_view().gradients
    assert gradient.name == "x" and gradient.note.startswith("its norm was")
    session.reset()
    assert session.gradients()[0].note == ""
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("error")
def test_check_where_a_value_is_infinite():
    x = autograd.tensor([0.0, 1.0], requires_grad=True)
    with np.errstate(all="ignore"):
        with autograd.record():
            loss = (x * np.log(x)).sum()
        session = Session(trace(loss)).move(1)
    assert {found.verdict for found in session.check_step()} == {"unclear"}


def test_a_session_needs_no_terminal():
    code = (
        "import sys, autograd.stepper.session; print({'rich', 'prompt_toolkit'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "set()\n", found.stderr


def test_watching():
    stepper = stepper_of(net()[0])
    said(stepper, "watch d(w2)")
    assert "nothing has arrived at w2: step 4 is the first to send to it" in said(stepper, "next 2")
    assert said(stepper, "next").count("[  0.5717 -0.9068 ]") == 2
    said(stepper, "watch d(w2)", "unwatch")
    assert "d(w2)" not in said(stepper, "next")


def test_habits_are_answered():
    """What users of Python and pdb type says which command is meant."""
    stepper = stepper_of(net()[0])
    for typed, meant in {
        "w2 = 3": "set w2 = 3", "!w2 = 3": "set w2 = 3", "W1[0, 0] = 5": "set W1[0, 0] = 5",
        "w2 *= 2 + 1": "set w2 = w2 * (2 + 1)", "p = h": "set p = h",
        "d(loss) = 2": "set d(loss) = 2",
        "set w2 [1, 2]": "set w2 = [1, 2] changes w2", "set w2 3": "set w2 = 3 changes w2",
        "q = 1": "nothing here is called 'q'",
        "W1.grad": "W1 is an array of NumPy here; its gradient is d(W1)",
        "p 2 * h.numpy()": "h is an array of NumPy here; leave out .numpy()",
        "condition 1 h[0] > 0": "did you mean break PLACE if EXPRESSION?",
        "restart": "did you mean jump 1?",
        "p grad(W1)": "the gradient of W1 is d(W1)", "grad h": "did you mean print d(NAME)?",
        "dh": "did you mean d(h)?", "check W1": "of the whole loss: check loss W1",
        "check loss": "check loss NAME", "why": "As in: why W[0, 2]",
        "W1?": "W1: float64[2, 2], a leaf", "5": "5", "finish": "outermost pass",
    }.items():  # fmt: skip
        assert meant in said(stepper, typed), typed
    assert not stepper.quit and not stepper.session.level.history
    for text in ("W1.sum(axis=0)", "p W1.sum(axis=0)", "h[0] == 0", "set d(loss) * 2", "set loss"):
        assert "set W1" not in said(stepper, text) and "changes" not in said(stepper, text)
    assert "[1] of which array? As in: formula loss[1]" in said(stepper, "formula [1]")
    x, t = autograd.tensor([1.0, 2.0], requires_grad=True), np.array([3.0, 4.0])
    with autograd.record():
        loss = (x * t).sum()
    for command in ("p d(t)", "d(t)", "watch d(t)"):
        assert "t is off the tape: it gets no cotangent" in said(stepper_of(loss), command)


def test_a_part_of_a_name_finds_what_is_inside():
    class Layer:
        def __init__(self):
            self.weight = autograd.tensor(2.0, requires_grad=True)
            self.bias = autograd.tensor(3.0, requires_grad=True)

    l1 = Layer()
    with autograd.record():
        loss = l1.weight * l1.bias
    stepper = stepper_of(loss)
    for command in ("print l1", "until l1", "why l1"):
        assert "nothing here is called 'l1'; did you mean l1.weight, l1.bias?" in said(
            stepper, command
        )
    assert "its gradient is d(l1.weight)" in said(stepper, "l1.weight.grad")
    assert "its gradient is d(weight)" in said(stepper, "p weight.grad")


def test_help_and_mistakes():
    stepper = stepper_of(net()[0])
    text = said(stepper, "help")
    assert all(name in text for name in Terminal.commands())
    for name in Terminal.commands():
        assert len(said(stepper, f"help {name}")) > 10
    assert "did you mean formula?" in said(stepper, "formla")
    assert "help lists" in said(stepper, "xyzzy")
    assert "wh may be where, whatis, why" in said(stepper, "wh")
    for name in ("until", "why"):
        assert "which" in said(stepper, name)
    said(stepper, "", "# a remark", "quit")
    assert stepper.done and stepper.quit


# ---- how it looks


@pytest.mark.parametrize("width", [30, 40, 80, 120])
def test_arrays_stay_within_the_width(width):
    random = np.random.default_rng(0)
    for shape in [(), (0,), (3,), (100,), (2, 2), (50, 60), (2, 3, 4, 5), (1, 1)]:
        for scale in (1e-12, 1e-3, 1, 1e9):
            lines = list(matrix(random.standard_normal(shape) * scale, width))
            assert lines and all(line.cell_len <= width for line in lines)
            assert len(lines) <= 9


def test_numbers_are_aligned():
    lines = [str(line) for line in matrix(np.array([[1.5, -200.25], [0.0, np.nan]]), 80)]
    assert lines == ["[    1.5000 -200.2500 ]", "[         0       NaN ]"]
    (line,) = matrix(np.array([2e-5, -1e-6]), 80)
    assert str(line) == "[  2.0 -0.1 ] × 1e-05"


def test_colours_only_in_a_terminal(monkeypatch):
    def shown(**options):
        stepper = Terminal(trace(net()[0]), Console(width=80, **options))
        with stepper.console.capture() as capture:
            stepper.show()
        return capture.get()

    assert "\x1b[" not in shown()
    text = shown(force_terminal=True, color_system="256")
    assert "\x1b[1;38;5;208m1.0\x1b[0m" in text  # and it is not dimmed with its brackets
    monkeypatch.setenv("NO_COLOR", "1")
    assert "38;5;" not in shown(force_terminal=True)


EVERY = (
    ["help", *(f"help {name}" for name in Terminal.commands()), "next", "break sum", "break [2]"]
    + [
        "tbreak h if d(h)[0] < 0",
        "clear 1",
        "clear",
        "continue",
        "jump 1",
        "until tanh",
        "back until w2",
    ]
    + ["where", "args", "list", "list op", "list rule", "formula", "formula d(w2)[0]", "why h"]
    + ["why W1[0, 1]", "why b1", "whatis h", "print W1 * d(W1)", "pp W1", "watch d(h)", "next"]
    + ["check", "check loss W1", "predict 3", "predict [1.0, 2.0] * h", "predict", "predict"]
    + ["watch", "up", "down", "set W1[0, 0] = 5", "descend 0.1", "undo", "set $g * 2", "set"]
    + ["history", "into", "out", "over", "jump 99", "jump call 2", "break nowhere", "xyzzy"]
    + ["print transformer.h.0.attn.nothing", "print 1 +", "set W1 = 'a'", "print $q", "next 99"]
)


def words(text):
    """The words of a text, without the lines that are drawn across."""
    return re.sub("[─│]+", " ", text).split()


def lines_at(width, loss, commands):
    """What the commands print in a terminal of a width: each as lines, that fit."""
    stepper = Terminal(trace(loss), Console(width=width, force_terminal=True, color_system=None))
    for command in commands:
        found = said(stepper, command).splitlines()
        assert all(cell_len(line) <= width for line in found), (command, found)
        yield found


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_every_command_stays_within_the_width_and_loses_nothing(width):
    """A line that is too wide goes on below: each word is there, and no number is cut in two."""
    loss, _ = net()
    for command, narrow, wide in zip(
        EVERY, lines_at(width, loss, EVERY), lines_at(1000, loss, EVERY), strict=True
    ):
        if width == 40:  # names are wider than the line, and numeric derivatives have fewer digits
            continue
        assert words("\n".join(narrow)) == words("\n".join(wide)), command


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_a_gpt_stays_within_the_width(model, width):
    """Also with long names of modules, and labels of axes; and every name is there."""
    walk = ["where", "formula", "args", "up", "list", "next"]
    commands = [
        *walk * 20,
        "until embedding",
        *walk,
        "back",
        "check",
        "why wte.weight",
        "why wte.weight[3]",
    ]
    loss = gpt_loss(model)
    narrow, wide = ([line for lines in lines_at(w, loss, commands) for line in lines]
                    for w in (width, 300))  # fmt: skip
    names = set(re.findall(r"transformer(?:\.\w+)+", "\n".join(wide)))
    assert len(names) > 20
    whole = re.sub(r"\s", "", "".join(narrow))
    assert all(name in whole for name in names)


def test_the_marks_follow_the_part_that_ran(monkeypatch):
    """Below a statement that is broken, the marks stand below the same characters."""
    text = "result = first_function(alpha, beta) + second_function(gamma, delta) * alpha"
    part = Part(0, text.index("second"), 0, text.index(" * alpha"))
    stepper = stepper_of(net()[0], 40)
    with stepper.console.capture() as capture:
        stepper.show_statement(Statement(text, part))
    assert capture.get().splitlines() == [
        "result = first_function(alpha, beta)",
        "    + second_function(gamma, delta)",
        "      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
        "    * alpha",
    ]


@given(st.text(alphabet="ab.,(1 2-_\t漢\x1b\n", max_size=60), st.integers(8, 30))
def test_folding_keeps_every_character(text, width):
    lines = [*fold(Text(text), width)]
    assert all(line.cell_len <= width for line in lines)
    plain = re.sub(r"\s", "", shown_text(text))
    assert re.sub(r"\s", "", "".join(line.plain for line in lines)) == plain


# ---- the command

SCRIPT = textwrap.dedent(
    """
    import sys
    import autograd
    x = autograd.tensor([1.0, 2.0], requires_grad=True)
    for i in range(2):
        loss = (x * x).sum()
        loss.backward()
        print("pass", i, x.grad.tolist(), sys.argv[1:])
    """
)


def test_of_a_script(tmp_path, capsys):
    script, commands = tmp_path / "script.py", tmp_path / "commands"
    script.write_text(SCRIPT)
    commands.write_text("next\nset 0\ncontinue\nnext\nprint x\ncontinue\nnext\n")
    before = list(sys.argv), autograd.Tensor.backward
    saved = str(tmp_path / "saved")
    walk(StepOptions(str(script), ("--flag",), commands=str(commands), save=saved))
    out = capsys.readouterr().out
    assert "script.py:6" in out and out.count("loss = 5.0: 2 steps back") == 2
    assert "pass 0 [2.0, 4.0] ['--flag']" in out  # what if does not reach the program
    assert "pass 1 [4.0, 8.0]" in out
    assert (list(sys.argv), autograd.Tensor.backward) == before
    commands.write_text("quit")
    walk(StepOptions(trace=str(tmp_path / "saved"), commands=str(commands)))
    assert "loss = 5.0: 2 steps back" in capsys.readouterr().out
    walk(StepOptions(script=str(script), commands=str(commands)))
    assert "pass" not in capsys.readouterr().out


def test_of_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("to be, or not to be: that is the question.\n" * 60)
    Path("commands").write_text("until attention\nwhy wte.weight\nquit\n")
    sizes = "--n_layer 1 --n_head 2 --n_embd 8 --block_size 8 --batch_size 2".split()
    assert main(["train", "--data", "text.txt", "--max_iters", "1", *sizes]) == 0
    capsys.readouterr()
    step = ["step", "--model", "out/0001", "--commands", "commands", "--text"]
    assert main([*step, "to be"]) == 0
    out = capsys.readouterr().out
    assert "in transformer.h.0.attn" in out and "transformer.wte: embedding(weight)" in out
    assert main([*step, "t"]) == 2 and "two tokens or more" in capsys.readouterr().err
    assert main([*step, "to be " * 9]) == 2 and "the model reads 8" in capsys.readouterr().err


DERIVATIVES = textwrap.dedent(
    """
    import numpy as np
    from autograd import grad, tensor
    from autograd.functional import grad as grad_of, hvp
    x = tensor([1.0, 2.0], requires_grad=True)
    y = (x**3).sum()
    print("grad", grad(y, x).tolist())
    h = np.sin(x)
    print("of a result", grad((h * h).sum(), h, retain_graph=True).tolist())
    print("second", grad_of(grad_of(lambda v: v**3))(2.0))
    print("along", hvp(lambda v: np.sum(v**3), [np.ones(2)], [np.ones(2)])[0].tolist())
    """
)


def test_of_a_script_that_calls_grad(tmp_path, capsys):
    """It stops at `grad` and at functional's, with the numbers of the program; also the second."""
    script, commands = tmp_path / "script.py", tmp_path / "commands"
    script.write_text(DERIVATIVES)
    commands.write_text("continue\nnext\n" * 9)
    walk(StepOptions(script=str(script), commands=str(commands)))
    out = capsys.readouterr().out
    assert "x  float64[2]   [  3.0 12.0 ]" in out and "grad [3.0, 12.0]" in out
    assert "2 steps back to 1 value" in out and "  h  float64[2]   [ 1.6829 1.8186 ]" in out
    assert "  v  float64   12.0" in out  # the first derivative, inside of the second
    assert re.search(r"  leaf_\d+  float64   12.0\n\(step\) next\nsecond 12.0", out)
    assert "along [6.0, 6.0]" in out


def test_a_scripts_own_error(tmp_path, capsys):
    script = tmp_path / "mistaken.py"
    script.write_text("def f(x):\n    return x.nothing\n\n\nf(1)\n")
    with pytest.raises(SystemExit) as left:
        main(["step", str(script)])
    said = capsys.readouterr().err.splitlines()
    assert left.value.code == 1 and "AttributeError" in said[-1]
    assert said[0].startswith("Traceback") and said[1].endswith('mistaken.py", line 5, in <module>')


def test_a_program_goes_on_as_if_nobody_watched(tmp_path, capsys):
    """What detect_anomaly watches is left to it, and what has several outputs runs by."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(
        """
        import autograd
        x = autograd.tensor(2.0, requires_grad=True)
        with autograd.detect_anomaly():
            (x * x).backward()
        print(x.grad.item(), [g.item() for g in autograd.grad([x * x, x * 3], [x])])
        """
    ))  # fmt: skip
    with pytest.raises(UserError, match="ended"):
        walk(StepOptions(script=str(script)))
    assert capsys.readouterr().out == "4.0 [7.0]\n"


def test_a_program_may_have_observers_of_its_own(tmp_path, capsys):
    """The program's observers and the stepper both see a pass; `explain` is no pass to stop at."""
    script, commands = tmp_path / "script.py", tmp_path / "commands"
    script.write_text(textwrap.dedent(
        """
        import autograd
        class Narrator:
            def visit(self, node, cotangent):
                print("narrator:", node.op.name)
            def edge(self, *details):
                pass
        x = autograd.tensor(2.0, requires_grad=True)
        loss = x * x
        print(len(autograd.explain(loss, x).contributions), "uses")
        with autograd.observe(Narrator()), autograd.detect_anomaly():
            loss.backward()
        """
    ))  # fmt: skip
    commands.write_text("next\nnext\n")
    walk(StepOptions(script=str(script), commands=str(commands)))
    out = capsys.readouterr().out
    assert out.index("2 uses") < out.index("narrator: multiply") < out.index("loss = 4.0: 1 step")
    assert out.count("1 step back") == 1


def test_a_check_of_gradients_is_no_stop():
    """The checks run the function and the backward pass hundreds of times, for nobody to see."""
    stops = []
    x = autograd.tensor([0.5, 1.0], requires_grad=True)
    with stopping_at_backward(stops.append):
        check_op(autograd.REGISTRY["tanh"], max_examples=2)
        gradcheck(np.tanh, [x])
        gradgradcheck(np.tanh, [x])
        with pytest.raises(GradientError):
            check_vjp(np.tanh, lambda g, x: g, [x])
        loss = np.tanh(x).sum()
        loss.backward()
    assert [str(found) for found in stops] == ["<Trace of 2 steps back from loss>"]
    assert len(recording_of(loss).calls) == 2


def test_a_check_inside_of_anomaly_detection_is_watched():
    with (
        autograd.detect_anomaly(),
        np.errstate(invalid="ignore"),
        pytest.raises(autograd.AnomalyError, match="log"),
    ):
        gradcheck(lambda x: np.log(x - 1) * 2, [np.array([0.5, 3.0])])


def test_stopping_at_backward_is_of_its_own_context():
    """The engine stays as it is for other threads, and a pass that fails is not handed over."""
    x, passes = autograd.tensor(2.0, requires_grad=True), []
    differentiate, elsewhere = autograd.tensor.__globals__["differentiate"], x * 5
    with stopping_at_backward(passes.append):
        assert autograd.tensor.__globals__["differentiate"] is differentiate
        with ThreadPoolExecutor(1) as pool:
            pool.submit(elsewhere.backward).result()
        y = x * 3
        y.register_hook(lambda g: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            y.backward()
        assert passes == []
        z = x * 7
        z.backward()
    elsewhere = x * 5
    elsewhere.backward()
    assert [found.recording.name(found.start) for found in passes] == ["z"]
    assert passes[0].cotangent_of(x._node.number).item() == 7 and x.grad.item() == 5 + 7 + 5


def test_a_pass_inside_a_pass_is_handed_over_first():
    """A hook that calls backward starts a pass of its own; each trace has its own steps."""
    x, passes = autograd.tensor(2.0, requires_grad=True), []
    with stopping_at_backward(passes.append):
        inner, outer = np.exp(x), x * x
        outer.register_hook(lambda g: inner.backward(retain_graph=True))
        (outer + 1.0).backward(retain_graph=True)
    ops = [[found.call(step).op.name for step in found.steps] for found in passes]
    assert ops == [["exp"], ["add", "multiply"]]


def test_the_steppers_own_passes_are_no_part_of_the_program(tmp_path, capsys):
    """Checks, and stepping into an op, are neither stopped at nor recorded."""
    script, commands = tmp_path / "script.py", tmp_path / "commands"
    script.write_text(textwrap.dedent(
        """
        import autograd
        x = autograd.tensor([[1.0, 2.0]], requires_grad=True)
        for _ in range(2):
            autograd.nn.softmax(x).max().backward(retain_graph=True)
        """
    ))  # fmt: skip
    commands.write_text("next\ncheck\ncheck loss x\ninto\nout\nset 2 * $g\ncontinue\nnext\n" * 2)
    walk(StepOptions(script=str(script), commands=str(commands)))
    out = capsys.readouterr().out
    assert out.count("steps back to 1 leaf") == 2 and out.count("✓ largest") == 4
    assert out.count("d(x)           ✓ equal") == 2 and "✗" not in out


def test_in_a_notebook(monkeypatch, capsys):
    """It asks by `input`, which notebooks replace by a field; an interrupt is for the notebook."""
    answers = iter(["next", "", "print w2", KeyboardInterrupt])
    asked = []

    def ask(text):
        asked.append(text)
        if (answer := next(answers)) is KeyboardInterrupt:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    monkeypatch.setattr("builtins.input", ask)
    with pytest.raises(KeyboardInterrupt):
        autograd.step(net()[0])
    out = capsys.readouterr().out
    assert "step 3 of 7" in out and "[  0.7 -0.6 ]" in out
    assert asked == [f"(step {n} of 7) " for n in (1, 2, 3, 3)]


def test_breakpoints_live_as_long_as_the_program(monkeypatch, capsys):
    """As in pdb: `step` stops, with the breakpoints of before, and `quit` ends the program."""
    monkeypatch.setattr(sys.modules["autograd.stepper.walk"], "_typed", [])
    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    answers = iter(["break tanh", "display loss", "c", "c", "c", "break", "c", "q"])
    monkeypatch.setattr("builtins.input", lambda text: next(answers))
    autograd.step(net()[0])
    out = capsys.readouterr().out
    assert "step 5 of 7  tanh" in out and "the end" in out
    with pytest.raises(SystemExit):
        autograd.step(net()[0])
    out = capsys.readouterr().out
    assert "step 1 of 7" in out and "break 1: tanh\n" in out and "loss:" in out
    assert "break: tanh\n" in out and "step 5 of 7  tanh" in out
    autograd.step(net()[0], commands=["break", "quit"])  # these are a script of their own
    assert "no breakpoints" in capsys.readouterr().out


def test_starting_is_light(tmp_path):
    """A script loads neither the prompt's library nor what only models and checks need."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "commands").write_text("quit")
    code = (
        "import sys; from npgpt.commands.step import Options, walk; "
        f"walk(Options({str(tmp_path / 'script.py')!r}, "
        f"commands={str(tmp_path / 'commands')!r})); "
        "print(sorted({'prompt_toolkit', 'hypothesis', 'torch', 'tiktoken'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_in_a_terminal(tmp_path):
    pty = pytest.importorskip("pty")
    (tmp_path / "script.py").write_text(SCRIPT)
    master, slave = pty.openpty()
    code = "from npgpt.commands.step import Options, walk; walk(Options('script.py'))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave, stdout=slave, stderr=slave, close_fds=True, cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )  # fmt: skip
    os.close(slave)
    screen, answers = "", ["next", "", "back", "form\t", "\x1b[A\x1b[A", "quit"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.5)[0]:
            try:
                screen += os.read(master, 4096).decode(errors="replace")
            except OSError:  # the other side has closed
                break
        elif answers and "(step 1 of 2)" in screen:  # quiet: it waits for an answer
            os.write(master, answers.pop(0).encode() + b"\r")
    process.kill()
    os.close(master)
    process.wait()
    assert not answers, screen
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", screen)
    assert "step 2 of 2  multiply" in plain and "the end" in plain and "with numbers" in plain
    assert "Traceback" not in plain


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("", {}, "give a script, or --model"),
        ("none.py", {}, "none.py does not exist"),
        ("quiet.py", {}, r"quiet.py ended, and called neither backward"),
        ("", {"trace": "."}, "holds no trace"),
    ],
)
def test_what_is_wrong_is_said(script, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quiet.py").write_text("x = 1\n")
    Path("trace.json").write_text("[]")
    with pytest.raises(UserError, match=message):
        walk(StepOptions(script=script, **options))


def test_variables_of_the_file_that_is_recorded_have_names(monkeypatch):
    """Also where the file belongs to an installed package, whose results have no names else."""
    module = sys.modules["autograd.stepper.record"]  # a function of the package has the same name
    monkeypatch.setattr(module, "OTHERS", (str(Path(__file__).parent),))

    def names(file):
        weight = autograd.tensor([2.0], requires_grad=True)
        with autograd.record(file=file) as recording:
            loss = (weight * weight).sum()
        trace(loss)
        return set(recording.names.values())

    assert "loss" in names(__file__)
    assert "loss" not in names("")


def test_a_program_without_a_file_has_no_statements():
    """As of python -c, or of code that is run from a text."""
    names = {"autograd": autograd}
    code = "x = autograd.tensor(2.0, requires_grad=True)\nwith autograd.record():\n    y = x * x"
    exec(compile(code, "<nowhere>", "exec"), names)
    text = said(stepper_of(names["y"]), "where", "list", "up", "down", "formula", "next", "back")
    assert "2 · 2" in text and "Error" not in text


def test_a_line_is_that_of_its_file():
    """Two cells of a notebook may hold the same text: their codes are equal, their names not."""
    code = "y = x * x"
    with autograd.record() as recording:
        for name in ("<cell 1>", "<cell 2>", "<cell 1>"):
            exec(compile(code, name, "exec"), {"x": autograd.tensor(2.0, requires_grad=True)})
    lines = [call.line for call in recording.calls.values()]
    assert lines == ["<cell 1>:1", "<cell 2>:1", "<cell 1>:1"]


def test_a_single_number_has_no_odd_factor():
    """Two numbers always differ by some factor; two times, or a third, are mistakes of a kind."""
    for found, expected, hint in [
        (12.0, 6.0, "a factor of 2"), (2.0, 6.0, "a factor of 0.333"), (4938.0, 6.0, "not that"),
        ([3.0, 5.0], [6.0, 10.0], "a factor of 0.5"),
        ([3.69, 6.15], [6.0, 10.0], "a factor of 0.615"),
    ]:  # fmt: skip
        assert hint in judge("", np.asarray(found), np.asarray(expected)).hint


def test_an_element_that_was_asked_for_is_not_the_first():
    x = autograd.tensor(np.linspace(1.0, 2.0, 20), requires_grad=True)
    with autograd.record():
        loss = np.tanh(x).sum()
    text = said(stepper_of(loss), "next", "formula d(x)[3]")
    assert "d(x)[3]" in text and "the first of" not in text


def test_a_formula_that_cannot_be_read_hides_no_step():
    @autograd.op(broadcasts=True)
    def square_of(x):
        return x * x

    try:
        square_of.formula(lambda x=None: "out = x^2" if x is None else "out = x ^ ^ 2")
        square_of.vjp(x=lambda g, x: 2 * g * x)
        x = autograd.tensor([1.0, 2.0], requires_grad=True)
        with autograd.record():
            loss = square_of(x).sum()
        text = said(stepper_of(loss), "next", "args", "formula")
        assert "step 2 of 2  square_of" in text and "[ 2.0 4.0 ]" in text
        assert text.count("FormulaError") == 1 and "expected a number" in text
    finally:
        autograd.REGISTRY.pop("square_of", None)


def test_the_cotangent_of_a_broadcast_input_is_a_sum():
    """Also along an axis that has an index in the formula, and of nothing at all."""
    q, k, v = (
        autograd.tensor(np.arange(6.0).reshape(3, 2) / n, requires_grad=True) for n in (3, 4, 5)
    )
    mask = autograd.tensor(np.zeros((3, 1)), requires_grad=True)
    y, empty = autograd.tensor(2.0, requires_grad=True), autograd.tensor([], requires_grad=True)
    with autograd.record():
        seen = autograd.nn.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=False)
        loss = (seen**2).sum() + (empty**y).sum()
    stepper = stepper_of(loss)
    text = said(stepper, *["next", "formula"] * (len(stepper.session.trace.steps) - 1))
    assert "d(y) += 0" in text and "and the op has" not in text and "d(mask)[0, 0] += " in text


def test_looking_at_a_pass_is_not_recorded(tmp_path):
    """Whoever looks inside the `record` block sees the program's calls alone, however often."""
    with autograd.record() as recording:
        x = autograd.tensor([1.0, 2.0], requires_grad=True)
        h = np.tanh(x * np.array([3.0, 4.0]))
        loss = (h * x).sum()
        n_calls = len(recording.calls)
        found = trace(loss)
        stepper = Terminal(found, Console(width=80))
        commands = ["why x[0]", "why h", "check", "check x", "check loss", "formula h[0]", "into",
                    "out", "set x[0] = 5", "descend 0.1", "undo", "set", "predict"]  # fmt: skip
        assert "x[0]" in said(stepper, *commands, "next", *commands)
        found.to_html(tmp_path / "page.html")
        assert len(recording.calls) == n_calls

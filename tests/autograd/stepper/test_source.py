"""Tape to source: scripts that know NumPy alone print what the engine computed, bit for bit."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis.strategies import just

import autograd
from autograd import nn
from autograd.kernels import use_kernels
from autograd.stepper import Trace, record, recording_of, stopping_at_backward, trace
from autograd.stepper.to_source import to_source
from autograd.tensor import Tensor
from autograd.testing import op_calls
from autograd.testing.properties import Applied
from npgpt import GPTConfig
from npgpt.models.layers import dropout_from
from npgpt.models.llama import LlamaConfig
from npgpt.models.registry import architecture_of

EXAMPLES = ROOT / "examples"
GROUPS = sorted({op.__module__ for op in autograd.REGISTRY.values()})

# Runs scripts where nothing but NumPy and Python's own library can be imported.
RUNNER = """
import contextlib, io, json, runpy, sys
import numpy as np

class Guard:
    def find_spec(self, name, *_):
        if name.split(".")[0] not in {"numpy", *sys.stdlib_module_names}:
            raise ImportError(f"{name} is not NumPy")

sys.meta_path.insert(0, Guard())
for path in sys.stdin.read().split():
    with contextlib.redirect_stdout(io.StringIO()) as out, np.errstate(all="ignore"):
        names = runpy.run_path(path)
    name, loss = out.getvalue().split("\\n")[0].split(" = ")
    assert loss == str(np.asarray(names[name]))
    arrays = {"": names[name], **names["gradients"]}
    found = {key: [str(x.dtype), x.shape, x.tobytes().hex()] for key, x in arrays.items()}
    print(json.dumps(found))
"""


def run(*paths):
    """Return what scripts computed: for each, the loss under "", and the gradients by name."""
    command = [sys.executable, "-c", RUNNER]
    result = subprocess.run(
        command, input="\n".join(map(str, paths)), capture_output=True, text=True, env=os.environ
    )
    assert result.returncode == 0, result.stderr
    return [
        {
            key: np.frombuffer(bytes.fromhex(data), dtype).reshape(shape)
            for key, (dtype, shape, data) in json.loads(line).items()
        }
        for line in result.stdout.splitlines()
    ]


def computed(loss):
    """Return what the engine computes, as `run` does; on a tape of its own if that is released."""
    recording, start = recording_of(loss), loss._node.number
    parents = [n for call in recording.behind(start) for n in call.parents.values()]
    leaves = [n for n in dict.fromkeys(parents) if n not in recording.maker]
    nodes = {n: recording.node(n) for n in leaves}
    if loss._node.steps is None:
        tape = recording.replay(start)
        nodes, loss = {n: x._node for n, x in tape.items()}, tape[start]
    for n in leaves:
        nodes[n].grad = None
    loss.backward(retain_graph=True)
    found = {recording.name(n): nodes[n].grad.numpy() for n in leaves}
    return {"": loss.numpy(), **found}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        assert found[key].dtype == x.dtype and found[key].shape == x.shape, key
        assert found[key].tobytes() == x.tobytes(), f"{key}: {found[key]} and {x}"


def check(_loss, path):
    """Write a script, run it, and compare; return its text."""
    expected = computed(_loss)  # a variable here would give the loss its name
    text = to_source(_loss, path)
    assert_same(run(path)[0], expected)
    assert "autograd" not in text.split('"""')[2]
    return text


@pytest.fixture(autouse=True)
def reference_path():
    with use_kernels(False):
        yield


@pytest.mark.parametrize("group", GROUPS, ids=lambda name: name.split(".")[-1])
def test_every_op(group, tmp_path):
    expected = {}

    def write(op, call):
        function = Applied(op, call)
        leaves = [Tensor(x.copy(order="K")).requires_grad_() for x in function.inputs]
        random = np.random.default_rng(0)
        with record():
            outputs = function.outputs(*leaves)
            loss = sum((y * random.standard_normal(y.shape)).sum() for y in outputs)
        path = tmp_path / f"{len(expected)}.py"
        path.write_text(to_source(loss), encoding="utf-8")
        expected[path] = computed(loss)

    for op in list(autograd.REGISTRY.values()):
        if op.__module__ == group:
            examples = given(op=just(op), call=op_calls(op))(write)
            with np.errstate(all="ignore"):
                settings(max_examples=4, database=None, derandomize=True)(examples)()
    for found, values in zip(run(*expected), expected.values(), strict=True):
        assert_same(found, values)


def test_a_net_by_hand(tmp_path):
    """The net of the first example, whose script is short enough to be read here."""
    x = np.array([1.0, 2.0])
    with record():
        W1 = autograd.tensor([[0.1, -0.2], [0.4, 0.3]], requires_grad=True)
        b1 = autograd.tensor([0.0, -0.5], requires_grad=True)
        w2 = autograd.tensor([0.7, -0.6], requires_grad=True)
        z = W1 @ x + b1
        h = np.tanh(z)
        e = np.sum(w2 * h) - 0.5
        loss = e * e
    text = check(loss, tmp_path / "net.py")
    data, rest = text.split("# ---- data\n\n")[1].split("\n\n# ---- forward\n\n")
    forward, rest = rest.split("\n\n# ---- backward\n\n")
    backward, _ = rest.split("\n\n# ---- gradients\n\n")
    assert (
        data
        == """\
W1 = np.array([[0.1, -0.2], [0.4, 0.3]])  # (2, 2)
b1 = np.array([0.0, -0.5])                # (2,)
w2 = np.array([0.7, -0.6])                # (2,)
x = np.array([1.0, 2.0])                  # (2,)"""
    )
    assert (
        forward
        == """\
matmul_1 = matmul(W1, x)                                      # (2,)
z = matmul_1 + b1                                             # (2,)
h = np.tanh(z)                                                # out = 1 - 2 / (exp(2 · x) + 1)  (2,)
multiply_1 = w2 * h                                           # (2,)
sum_1 = np.add.reduce(multiply_1, axis=None, keepdims=False)  # out = Σ_i x_i  ()
e = sum_1 - 0.5                                               # ()
loss = e * e                                                  # ()"""
    )
    assert (
        backward
        == """\
d_loss = np.ones(())
d_e = d_loss * e                                    # dx = g · y  ()
d_e = d_e + d_loss * e                              # dy = g · x  ()
d_sum_1 = d_e                                       # dx = g  ()
d_multiply_1 = restore(d_sum_1, (2,), None, False)  # dx_i = g  (2,)
d_w2 = d_multiply_1 * h                             # dx = g · y  (2,)
d_h = d_multiply_1 * w2                             # dy = g · x  (2,)
d_z = d_h - d_h * h * h                             # dx = g · (1 - tanh(x)^2)  (2,)
d_matmul_1 = d_z                                    # dx = g  (2,)
d_b1 = d_z                                          # dy = g  (2,)
d_W1 = matmul_vjp_x(d_matmul_1, x, (2, 2))          # (2, 2)"""
    )


def test_the_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(autograd.testing, "check_op", lambda op: None)
    examples = [
        runpy.run_path(str(EXAMPLES / f"{name}.py")) for name in ("06_hessian", "07_pendulum")
    ]
    names = {key: value for example in examples for key, value in example.items()}
    try:
        with record():
            by_hand = runpy.run_path(str(EXAMPLES / "01_backprop_by_hand.py"))["loss"]
            normed = runpy.run_path(str(EXAMPLES / "04_find_a_wrong_gradient.py"))
            y = normed["op"](autograd.tensor(normed["x"], requires_grad=True))
            shares = (y * y * y).sum()
            fitted = runpy.run_path(str(EXAMPLES / "03_your_own_op.py"))["loss"]
            x = autograd.tensor([-1.2, 1.0, 0.5], requires_grad=True)
            valley = names["rosenbrock"](x)
            q = autograd.tensor([2.0, 2.5], requires_grad=True)
            p = autograd.tensor([0.3, -0.1], requires_grad=True)
            energy = names["hamiltonian"](q, p)
        losses = {"by_hand": by_hand, "fitted": fitted, "valley": valley, "energy": energy,
                  "shares": shares}  # fmt: skip
        for name, loss in losses.items():
            text = check(loss, tmp_path / f"{name}.py")
            assert ("def log_normal(x, mu, sigma):" in text) == (name == "fitted")
    finally:
        autograd.REGISTRY.pop("log_normal", None)
        autograd.REGISTRY.pop("rms_scaled", None)


class Enough(BaseException):
    """What leaves an example."""


@pytest.mark.parametrize(
    ("name", "arguments", "n"),
    [("02_train_and_generate", ["text"], 2), ("05_find_a_nan", [], 1), ("08_sorter", [], 1)],
)
def test_passes_of_whole_examples(name, arguments, n, tmp_path, monkeypatch):
    """The first passes back, as `npgpt step` meets them, are written with their own numbers."""
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("to be, or not to be: that is the question.\n" * 20)
    monkeypatch.setattr("sys.argv", ["example", *arguments])
    expected = {}

    def write(found):
        path = tmp_path / f"{len(expected)}.py"
        to_source(found, path)
        names, values = found.recording.name, found.recording.values
        gradients = {names(number): found.cotangent_of(number) for number in found.waiting()}
        expected[path] = {"": values[found.start], **gradients}
        if len(expected) == n:
            raise Enough

    with pytest.raises(Enough), stopping_at_backward(write):
        runpy.run_path(str(EXAMPLES / f"{name}.py"))
    for found, values in zip(run(*expected), expected.values(), strict=True):
        assert_same(found, values)


SCALE = 3.0


def test_a_users_op_with_a_closure_and_globals(tmp_path):
    power = 2

    def _factor(x: np.ndarray, n: int = 1) -> np.ndarray:
        """Return a multiple."""
        return SCALE * n * x

    @autograd.op
    def scaled(x):
        total = _factor(x, power)
        return total**power

    @scaled.vjp("x")
    def _(g, x):
        factor = nn.sigmoid(x) * 0 + 2 * SCALE * power
        return g * factor * _factor(x) * _factor(power)  # a script calls the function `factor`, too

    try:
        with record():
            x = autograd.tensor([0.1, 0.7], requires_grad=True)
            loss = (scaled(x) * scaled(x)).sum()
        text = check(loss, tmp_path / "op.py")
        assert "SCALE = 3.0" in text and "power = 2" in text and "n: int" not in text
        assert text.count("global_factor = factor") == 1 and "global_factor_2" not in text
    finally:
        del autograd.REGISTRY["scaled"]


def test_a_users_op_of_several_arrays(tmp_path):
    """It is called with all of them; and what has values for its rules is called for its result."""

    @autograd.op
    def blend(*arrays, weight=0.5):
        total = sum(arrays) * weight
        return nn.layer_norm(total, (3,), np.ones(3), np.zeros(3), 1e-5) + total

    @blend.vjp("arrays")
    def _(g, arrays, weight):
        return [g * weight * x for x in arrays]

    try:
        with record():
            x = autograd.tensor([0.1, 0.7, 0.2], requires_grad=True)
            loss = (blend(x, np.arange(3.0), x * x, weight=2.0) * x).sum()
        text = check(loss, tmp_path / "op.py")
        assert "blend(*(x, " in text and "_and_saved(*args, **kwargs)[0]" in text
    finally:
        del autograd.REGISTRY["blend"]


def gpt(p, dtype=np.float32, **fields):
    """Return the loss of a training step of a GPT, or a Llama, of two layers."""
    kind = LlamaConfig if "model_type" in fields else GPTConfig
    config = kind(vocab_size=17, n_positions=8, n_embd=8, n_layer=2, n_head=2, resid_pdrop=p,
                  embd_pdrop=p, attn_pdrop=p, **fields)  # fmt: skip
    model = architecture_of(config).model(config, seed=1, dtype=dtype).train()
    ids = np.random.default_rng(0).integers(0, 17, (2, 7))
    with record(), dropout_from(np.random.default_rng(2)):
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    return loss


@pytest.mark.parametrize("p", [0.0, 0.2])
def test_a_gpts_training_step(p, tmp_path):
    text = check(gpt(p), tmp_path / "step.py")
    assert "# transformer.h.1.mlp" in text and "h1_attn_y, h1_attn_y_largest = attention(" in text
    assert (tmp_path / "step.npz").exists()
    assert max(map(len, text.split("# ---- data")[1].splitlines())) <= 100


@pytest.mark.parametrize(
    "fields",
    [
        {"norm_position": "post", "activation_function": "gelu"},  # as GPT-1
        {"window_size": 3},  # bands in alternation with dense layers, as GPT-3
        {"position_embedding": "sinusoidal", "activation_function": "silu"},
        {"tie_word_embeddings": False, "bias": False, "activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True, "norm_position": "post", "window_size": 2},
        {"model_type": "llama", "n_kv_head": 1},
        {"model_type": "mistral", "window_size": 3},
    ],
    ids="-".join,
)
def test_other_architectures(fields, tmp_path):
    check(gpt(0.1, **fields), tmp_path / "step.py")


def test_a_trace(tmp_path):
    """A trace will do, also one that was saved, or that began with another number than 1."""
    with record():
        x = autograd.tensor([0.3, -0.8], requires_grad=True)
        loss = (np.tanh(x) * x).sum()
    found = trace(loss)
    found.save(tmp_path / "saved")
    text = to_source(loss)
    assert to_source(found) == to_source(Trace.load(tmp_path / "saved")) == text
    to_source(loss, tmp_path / "once.py")
    to_source(trace(loss, 2.0), tmp_path / "twice.py")
    once, twice = run(tmp_path / "once.py", tmp_path / "twice.py")
    assert np.array_equal(twice["x"], 2 * once["x"])
    with record():
        y = x * x
    with pytest.raises(ValueError, match="must be a number"):
        to_source(trace(y, [1.0, 1.0]))


def test_primitives(tmp_path):
    loss = gpt(0.2, np.float64)
    expected = computed(loss)
    text = to_source(loss, tmp_path / "step.py", primitives=True)
    for name in ("layer_norm", "attention", "cross_entropy", "softmax", "affine", "gelu"):
        assert f"def {name}(" not in text
    found = run(tmp_path / "step.py")[0]
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        np.testing.assert_allclose(found[key], x, rtol=1e-9, atol=1e-14, err_msg=key)


def test_a_second_derivative(tmp_path):
    with record():
        x = autograd.tensor([0.3, -0.8, 1.2], requires_grad=True)
        y = np.sum(np.exp(x) * np.tanh(x))
        (slope,) = autograd.grad(y, [x], create_graph=True)
        logits = autograd.tensor([[0.1, 0.9]], requires_grad=True)
        (p,) = autograd.grad(nn.cross_entropy(logits, [1]), [logits], create_graph=True)
        loss = (slope * slope).sum() + (p * p).sum()
    check(loss, tmp_path / "second.py")


def test_scalars_are_arrays_where_that_rounds_otherwise(tmp_path):
    with record():
        x = autograd.tensor(np.linspace(0.1, 3, 40), requires_grad=True)
        loss_largest = autograd.tensor(0.3, requires_grad=True)
        loss = nn.cross_entropy(x, 7)
        total = loss**3 + (x.sum() * loss_largest) ** 3.7
        result = total * total
    text = check(result, tmp_path / "scalars.py")
    assert "loss = np.asarray(loss)" in text and "loss_largest_2" in text


def test_broadcasting_dtypes_and_orders_in_memory(tmp_path):
    with record():
        single = autograd.tensor([[0.1], [0.7]], requires_grad=True, dtype=np.float32)
        a = Tensor(np.asfortranarray(np.linspace(0, 1, 6).reshape(2, 3))).requires_grad_()
        b = Tensor(np.linspace(-1, 2, 24).reshape(2, 3, 4).transpose(1, 2, 0)).requires_grad_()
        scalar = autograd.tensor(0.3, requires_grad=True)
        y = single * a + scalar**2 + np.float64(0.1)
        loss = (y[:, ::-1] * np.nan_to_num(np.inf, posinf=2.0)).sum() + (b * y.T[:, None]).sum()
        loss = loss + np.where(np.array([True, False]), scalar, np.inf)[0]
    text = check(loss, tmp_path / "mixed.py")
    assert ".astype(np.float32)" in text and ".sum(" in text and "[:, ::-1]" in text


def test_names_that_cannot_be_are_changed(tmp_path):
    with record():
        lambda_ = {"lambda": autograd.tensor(2.0, requires_grad=True)}
        np_ = [autograd.tensor(3.0, requires_grad=True)]
        sum = lambda_["lambda"] * np_[0]
        math = sum * sum
    text = check(math, tmp_path / "names.py")
    assert "lambda_lambda" in text and "np_0" in text


def test_large_arrays_need_a_file(tmp_path):
    with record():
        x = autograd.tensor(np.random.default_rng(0).random((300, 100)), requires_grad=True)
        loss = (x * x).sum()
    with pytest.raises(ValueError, match="give a file"):
        to_source(loss)
    check(loss, tmp_path / "large.py")


def test_what_has_no_source():
    with record():
        x = autograd.tensor([1.0, 2.0], requires_grad=True)
        y = x * x
        loss = y.sum()
        hooked = y.sum()
    with pytest.raises(ValueError, match="must be a number"):
        to_source(y)
    with pytest.raises(RuntimeError, match="this tape was not recorded"):
        to_source((x * x).sum())
    with pytest.raises(TypeError, match="needs a tensor"):
        to_source(1.0)
    y.register_hook(lambda g: 2 * g)
    for z in (loss, hooked):
        with pytest.raises(RuntimeError, match="a hook sees the gradient of y"):
            to_source(z)
    with record():
        loss = (x * x).sum()
        with autograd.no_grad():
            x += 1
        loss = loss + x.sum()
    with pytest.raises(RuntimeError, match="x was changed in place between two uses"):
        to_source(loss)
    names = {"autograd": autograd}
    exec("@autograd.op\ndef unseen(x):\n    return x * 1\nunseen.vjp(x=lambda g: g)", names)
    try:
        with record():
            loss = names["unseen"](x).sum()
        with pytest.raises(TypeError, match="the source of unseen was not found"):
            to_source(loss)
    finally:
        del autograd.REGISTRY["unseen"]

"""`to_source` in textbook style: the lines of a person, which agree with the engine to rounding."""

import contextlib
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import two_layer_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

import autograd
from autograd import nn
from autograd.stepper.textbook import TABLE
from autograd.stepper.to_source import to_source
from autograd.testing import op_calls, properties
from npgpt import GPT, GPTConfig
from npgpt.cli import main
from npgpt.commands.step import Options as StepOptions
from npgpt.commands.step import walk
from npgpt.errors import UserError

END = "the loss and all gradients agree with those of the engine"


def run(script, **names):
    """Run a script, which asserts its agreement; return its names."""
    names["__name__"] = "script"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), np.errstate(all="ignore"), np.printoptions():
        exec(compile(script, "script.py", "exec"), names)  # it sets print options
    assert END in out.getvalue()
    return names


def test_the_lines_of_a_textbook(tmp_path):
    """No functions, and every line of the backward pass is that of a textbook."""
    script = to_source(two_layer_classifier()[0], tmp_path / "step.py", style="textbook")
    backward = script.split("# ---- backward")[1].split("# ---- gradients")[0]
    lines = [line.partition("  # ")[0].strip() for line in backward.strip().splitlines()]
    assert lines == [
        "d_loss = np.ones(())",
        "d_logits = (p - onehot) / 8",
        "d_h = d_logits @ W2.T",
        "d_W2 = h.T @ d_logits",
        "d_z = d_h * (1 - h**2)",
        "d_a = d_z",
        "d_b1 = d_z.sum(0)",
        "d_W1 = X.T @ d_a",
    ]
    assert "def " not in script and "loss = -np.log(p[np.arange(8), targets]).mean()" in script
    result = subprocess.run(
        [sys.executable, "-I", tmp_path / "step.py"], capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stdout.rstrip().endswith(END), result.stderr


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("d_logits = (p - onehot) / 8", "d_logits = (onehot - p) / 8"),
        ("d_z = d_h * (1 - h**2)", "d_z = d_h * (1 - h)"),
        ("d_b1 = d_z.sum(0)", "d_b1 = d_z.mean(0)"),
        ("d_W1 = X.T @ d_a", "d_W1 = X.T @ d_a * (1 + 1e-9)"),
        (".mean()  ", ".sum()  "),
    ],
)
def test_a_wrong_line_is_noticed(line, wrong):
    script = to_source(two_layer_classifier()[0], style="textbook")
    assert script.count(line) == 1
    run(script)
    with pytest.raises(AssertionError):
        run(script.replace(line, wrong))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_short_form(name, dtype):
    """Each op, on what its sampler draws: the script agrees, in short form or in exact style."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=15)
    @given(data=st.data())
    def check(data):
        call = data.draw(op_calls(op))
        wanted = properties.differentiable(op, call)
        with autograd.record() as recording, np.errstate(all="ignore"):
            args = [
                autograd.tensor(x.astype(dtype), requires_grad=True) if i in wanted
                else x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
                for i, x in enumerate(call.args)
            ]  # fmt: skip
            y = op(*args, **call.kwargs)
            loss = (y * y).sum()
        if not all(np.isfinite(x).all() for x in recording.values.values()):
            return
        run(to_source(loss, style="textbook"))

    check()


SHORT = {  # for each op, calls that have a short form, of x (3, 4), positive
    "affine": [lambda x: nn.linear(x, np.ones((2, 4), x.dtype), np.ones(2, x.dtype)),
               lambda x: nn.linear(np.stack([x, x]), np.ones((2, 4), x.dtype), np.ones(2, x.dtype)),
               lambda x: nn.linear(x[0], np.ones((2, 4), x.dtype))],
    "cross_entropy": [lambda x: nn.cross_entropy(x, np.array([0, 1, 3])),
                      lambda x: nn.cross_entropy(x[:, np.arange(101) % 4], np.array([0, 9, 99]))],
    "layer_norm": [lambda x: nn.layer_norm(x, 4), lambda x: nn.layer_norm(x, 4, x[0], x[1])],
    "log_softmax": [lambda x: nn.log_softmax(x, 0)],
    "matmul": [lambda x: x @ x.T, lambda x: x @ x[0], lambda x: x[0] @ x.T, lambda x: x[0] @ x[1]],
    "mean": [lambda x: x.mean(), lambda x: x.mean(0), lambda x: x.mean((0, 1), keepdims=True)],
    "power": [lambda x: x**2, lambda x: x**3.0],
    "reshape": [lambda x: x.reshape(2, -1)],
    "sigmoid": [nn.sigmoid],
    "softmax": [lambda x: nn.softmax(x, 0), lambda x: nn.softmax(x)],
    "sum": [lambda x: x.sum(), lambda x: x.sum(-1), lambda x: x.sum(0, keepdims=True)],
    "swapaxes": [lambda x: np.swapaxes(x, 0, 1)],
    "tanh": [np.tanh],
    "transpose": [lambda x: x.T, lambda x: x.transpose(1, 0)],
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(TABLE))
def test_what_has_a_short_form(name, dtype, monkeypatch):
    """None of these calls falls back to the exact style; each script agrees."""
    written = []
    short = TABLE[name]
    monkeypatch.setitem(TABLE, name, lambda texts: written.append(short(texts)) or written[-1])
    for function in SHORT[name]:
        data = np.random.default_rng(0).random((3, 4)).astype(dtype) + dtype(0.5)
        x = autograd.tensor(data, requires_grad=True)
        with autograd.record():
            y = function(x)
            loss = (y * y * dtype(0.5)).sum()
        run(to_source(loss, style="textbook"))
    assert len(written) >= len(SHORT[name]) and None not in written


def test_a_gpt(tmp_path):
    model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()
    ids = np.arange(10).reshape(2, 5) % 11
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    script = to_source(loss, tmp_path / "step.py", style="textbook")
    assert re.search(r"d_h0_mlp_c_fc_weight = .*\.T @ d_.*reshape", script)
    run(script, __file__=str(tmp_path / "step.py"))


def test_of_a_pass_with_another_start():
    """The number that the pass begins with is a factor again."""
    script = to_source(autograd.stepper.trace(two_layer_classifier()[0], 3.0), style="textbook")
    assert "d_loss * (p - onehot) / 8" in script
    run(script)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(
        "import numpy as np, autograd\n"
        "w = autograd.tensor([1.0, 2.0], requires_grad=True)\n"
        "loss = np.tanh(w).sum()\nloss.backward()\n"
    )
    assert main(["step", "script.py", "--source", "out.py", "--textbook"]) == 0
    script = (tmp_path / "out.py").read_text(encoding="utf-8")
    assert "d_tanh_1 = np.full((2,), 1.0)" in script
    run(script)
    with pytest.raises(UserError, match="add --source FILE.py"):
        walk(StepOptions(script="script.py", textbook=True))


def test_an_unknown_style():
    with pytest.raises(ValueError, match="style is 'short'; expected one of exact, textbook"):
        to_source(two_layer_classifier()[0], style="short")

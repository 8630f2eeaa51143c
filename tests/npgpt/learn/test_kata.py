"""Katas: right rules pass, wrong ones are answered, and nothing that was done is lost."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from rich.console import Console

from autograd import REGISTRY, Op
from npgpt.cli import main
from npgpt.errors import UserError
from npgpt.learn.katas import PATH, Kata, Progress, Session, WrongRule
from npgpt.learn.prose import fold_report

# written as a learner would: for clarity, not for speed
SOLUTIONS = {
    "multiply": """
        def x(g, y):
            return g * y

        def y(g, x):
            return g * x
    """,
    "divide": """
        def vjp(g, x, y):
            return g / y, -g * x / y**2
    """,
    "tanh": "x = lambda g, out: g * (1 - out**2)",
    "relu": """
        def input(g, input):
            return np.where(input > 0, g, 0)
    """,
    "sum": """
        def x(g, x_shape, axis, keepdims):
            if axis is not None and not keepdims:
                g = np.expand_dims(g, axis)
            return np.broadcast_to(g, x_shape)
    """,
    "matmul": """
        def vjp(g, x, y):
            X = x[None, :] if x.ndim == 1 else x  # (..., n, k)
            Y = y[:, None] if y.ndim == 1 else y  # (..., k, m)
            if y.ndim == 1:
                g = g[..., None]
            if x.ndim == 1:
                g = g[..., None, :]  # (..., n, m)
            dx, dy = g @ np.swapaxes(Y, -1, -2), np.swapaxes(X, -1, -2) @ g
            return dx[..., 0, :] if x.ndim == 1 else dx, dy[..., 0] if y.ndim == 1 else dy
    """,
    "embedding": """
        def weight(g, input, weight_shape, padding_idx):
            if padding_idx is not None:
                g = g * (input % weight_shape[0] != padding_idx % weight_shape[0])[..., None]
            return scatter_rows(g, input, weight_shape)
    """,
    "softmax": """
        def input(g, out, dim):
            mean = np.sum(g * out, axis=dim, keepdims=True)
            return out * (g - mean)
    """,
    "gelu": """
        def input(g, input, approximate):
            x = input
            if approximate == "tanh":
                tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
                slope = (1 - tanh**2) / 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
                return (g * ((1 + tanh) / 2 + x * slope)).astype(g.dtype)
            density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
            return (g * ((1 + erf(x / np.sqrt(2))) / 2 + x * density)).astype(g.dtype)
    """,
    "cross_entropy": """
        def input(g, input, target, weight, ignore_index, reduction, label_smoothing):
            n = input.shape[-1]
            share = (target != ignore_index) * 1.0
            if weight is not None:
                share = share * weight[np.where(target == ignore_index, 0, target)]
            q = (1 - label_smoothing) * share[..., None] * (target[..., None] == np.arange(n))
            if label_smoothing:
                even = np.ones(n) if weight is None else weight
                q = q + label_smoothing / n * even * (target != ignore_index)[..., None]
            p = np.exp(input - input.max(axis=-1, keepdims=True))
            p = p / p.sum(axis=-1, keepdims=True)
            if reduction == "mean":
                g = g / (share.sum() or 1)
            if reduction == "none":
                g = g[..., None]
            return (g * (p * q.sum(axis=-1, keepdims=True) - q)).astype(input.dtype)
    """,
    "layer_norm": """
        def input(g, input, normalized_shape, weight, mean, rstd):
            n = np.prod(normalized_shape)
            z = (input.reshape(-1, n) - mean) * rstd  # (rows, n)
            dz = (g if weight is None else g * weight).reshape(-1, n)
            dx = dz - dz.mean(1, keepdims=True) - z * (dz * z).mean(1, keepdims=True)
            return (dx * rstd).reshape(input.shape)

        def weight(g, input, normalized_shape, mean, rstd):
            n = np.prod(normalized_shape)
            z = (input.reshape(-1, n) - mean) * rstd
            return (g.reshape(-1, n) * z).sum(0).reshape(normalized_shape)

        def bias(g, normalized_shape):
            return g.reshape(-1, *normalized_shape).sum(0)
    """,
    "attention": """
        def vjp(
            g, query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size, largest
        ):
            scores = scale * query @ np.swapaxes(key, -1, -2)
            if is_causal:
                seen = np.tri(*scores.shape[-2:], dtype=bool)
                if window_size is not None:
                    seen &= ~np.tri(*scores.shape[-2:], -window_size, dtype=bool)
                scores = np.where(seen, scores, -np.inf)
            if attn_mask is not None and attn_mask.dtype == bool:
                scores = np.where(attn_mask, scores, -np.inf)
            elif attn_mask is not None:
                scores = scores + attn_mask
            p = np.exp(scores - largest)
            p = p / np.maximum(p.sum(axis=-1, keepdims=True), 1)  # 0 if no key is seen
            r = dropout_like(p.shape, dropout_p, seed, p.dtype)
            dp = r * (g @ np.swapaxes(value, -1, -2))
            de = p * (dp - np.sum(p * dp, axis=-1, keepdims=True))
            dmask = None
            if attn_mask is not None and attn_mask.dtype != bool:
                shape = (1,) * (de.ndim - attn_mask.ndim) + attn_mask.shape
                axes = tuple(i for i, n in enumerate(shape) if n == 1)
                dmask = np.sum(de, axis=axes, keepdims=True).reshape(attn_mask.shape)
            dkey = scale * np.swapaxes(de, -1, -2) @ query
            dvalue = np.swapaxes(p * r, -1, -2) @ g
            shared = tuple(i for i, n in enumerate(key.shape) if n != dkey.shape[i])
            dkey, dvalue = (d.sum(axis=shared, keepdims=True) for d in (dkey, dvalue))
            return scale * de @ key, dkey, dvalue, dmask
    """,
}
SOLUTIONS = {name: textwrap.dedent(source) for name, source in SOLUTIONS.items()}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NPGPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def kata(*args):
    """Run the command in this process; return its exit code."""
    try:
        return main(["kata", *map(str, args)])
    except SystemExit as stop:
        return stop.code


def session(*answers):
    """Return a session that is given these answers, and what it prints to."""
    lines, out = iter(answers), io.StringIO()

    def ask(prompt):
        out.write(prompt)
        for line in lines:
            if isinstance(line, BaseException):
                raise line
            return line
        raise EOFError

    return Session(console=Console(file=out, width=80, highlight=False), ask=ask), out


# ---- the rules


@pytest.mark.parametrize("name", PATH)
def test_right_rules_pass(name):
    ours = dict(REGISTRY)
    Kata(name).check(SOLUTIONS[name])
    assert ours == REGISTRY


def test_the_path():
    assert len(PATH) == len(set(PATH)) == 12 and set(PATH) == set(SOLUTIONS)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_op_is_an_exercise(name):
    exercise, op = Kata(name), REGISTRY[name]
    assert f"def {op.forward.__name__}(" in exercise.code
    value, cotangents = exercise.formulas()
    for line in value:
        assert not any(line.startswith(f"d{x}") for x in exercise.inputs), "the answer is shown"
    assert cotangents
    assert set(exercise.names()) <= {*op.namespace, "needs"}
    compile(exercise.skeleton(), name, "exec")
    with pytest.raises(WrongRule, match="returned"):
        exercise.check(exercise.skeleton(), max_examples=10)
    hints = exercise.hints()
    assert len(hints) == 3 and ("lambda" in hints[2] or "def " in hints[2])


WRONG = {
    "the likely cause": ("multiply", "def vjp(g, x, y): return g * x, g * y", "inputs swapped"),
    "no cotangent": ("tanh", "def x(g, out): return 1 - out**2", "the cotangent g is missing"),
    "no cotangents": ("multiply", "def vjp(g, x, y): return y, x", "the cotangent g is missing"),
    "a sign": ("subtract", "def vjp(g): return g, g", "a wrong sign"),
    "the smallest call": ("tanh", "def x(g): return g", r"\n  x = np.array\("),
    "an option": ("softmax", "def input(g, out): return out * (g - np.sum(g * out, -1, "
                  "keepdims=True))", "dim   = 0"),
    "a shape": ("sum", "def x(g): return g", r"gradient of shape \(\), and the input"),
    "syntax": ("tanh", "def x(g):\n    return g *\n", r"^line 2: return g \*\n  invalid syntax"),
    "a name": ("tanh", "def x(g):\n    return g * z", "^line 2: return g . z\n  NameError"),
    "an import": ("tanh", "import nowhere", "^line 1: import nowhere\n  ModuleNotFoundError"),
    "exit": ("tanh", "def x(g):\n    exit()", r"^line 2: exit\(\)\n  SystemExit"),
    "nothing": ("tanh", "def x(g): g", "line 1: x must return an array, and returned None"),
    "a number": ("tanh", "def x(g): return 1.5", "and returned 1.5, of type float"),
    "no tuple": ("multiply", "def vjp(g): return g", "vjp must return a tuple"),
    "too few": ("multiply", "def vjp(g): return g,", "must return 2 cotangents, and returned 1"),
    "booleans": ("tanh", "def x(g, x): return x > 0", "a gradient of dtype bool"),
    "no rule": ("multiply", "def x(g, y): return g * y", "^no rule for y: write def y"),
    "no function": ("multiply", "dx = g*y\ndy = g * x",
                    r"such as\ndef x\(g, y\):\n    return g\*y"),
    "an argument": ("tanh", "def x(g, y): return g", "^line 1: x reads y, which is none of x, out"),
    "no g": ("tanh", "def x(x): return x", "first argument of a rule is g"),
    "in place": ("square", "def x(g, x):\n    g *= 2 * x\n    return g", "changed .* in place"),
    "memory": ("square", "n = []\ndef x(g, x):\n    n.append(1)\n"
               "    return g * 2 * x * (2 if len(n) % 7 == 0 else 1)", "different results|again"),
    "several arrays": ("stack", "def arrays(g, arrays): return [0 * x for x in arrays]",
                       "the gradient of x0 is wrong"),
    "several outputs": ("slogdet", "def a(g, a): return g[1][..., None, None] * a",
                        "the gradient of a is wrong"),
    "recursion": ("sin", "def x(g): return x(g)", "RecursionError"),
}  # fmt: skip


def test_an_expression_may_say_for_which_input_it_is():
    kata = Kata("multiply")
    assert kata.rule("y", "dy = g * (\n    x\n)") == kata.rule("y", "g * (\n    x\n)")
    with pytest.raises(WrongRule, match="for dy is asked for, not for dx"):
        kata.rule("y", "dx = g * y")


@pytest.mark.parametrize("what", WRONG)
def test_wrong_rules_are_answered(what):
    name, source, message = WRONG[what]
    with pytest.raises(WrongRule, match=message) as caught:
        Kata(name).check(source)
    text = str(caught.value)
    assert "Traceback" not in text and "to repeat it" not in text and "input 0" not in text


TEXTBOOK = {
    "cross_entropy": """
        def input(g, input, target):
            e = np.exp(input - input.max(-1, keepdims=True))
            p = e / e.sum(-1, keepdims=True)
            p[np.arange(len(target)), target] -= 1
            return g * p / len(target)
    """,
    "matmul": "def vjp(g, x, y): return g @ y.T, x.T @ g",
    "softmax": "def input(g, out): return out * (g - np.sum(g * out, -1, keepdims=True))",
    "sum": "def x(g, x): return g * np.ones_like(x)",
    "layer_norm": """
        def vjp(g, input, weight, mean, rstd):
            z = (input - mean) * rstd
            dz = g * weight
            dx = dz - dz.mean(-1, keepdims=True) - z * (dz * z).mean(-1, keepdims=True)
            return dx * rstd, (g * z).sum(0), g.sum(0)
    """,
}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_rule_of_a_textbook_passes_the_first_level(name):
    with pytest.raises(WrongRule, match="^Level [123] of 4, .* is passed") as caught:
        Kata(name).check(textwrap.dedent(TEXTBOOK[name]))
    assert caught.value.passed >= 1


def test_a_counterexample_is_generic():
    with pytest.raises(WrongRule) as caught:
        Kata("layer_norm").check(SOLUTIONS["layer_norm"].replace("- dz.mean(1, keepdims=True)", ""))
    text = str(caught.value)
    numeric = next(float(line.split()[1]) for line in text.splitlines() if "  numeric  " in line)
    assert caught.value.passed == 0 and abs(numeric) > 1e-3
    assert "the mean over axis 1 is not subtracted" in text
    assert max(len(row) for row in text.splitlines() if "1e-8" in row or "|error|" in row) <= 80


def test_a_level_that_is_passed_is_kept(home, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(TEXTBOOK["matmul"])
    assert kata("matmul", "--file", path) == 1
    out = capsys.readouterr().out
    assert "Level 1 of 4 is passed, and kept." in out
    assert json.loads((home / "katas.json").read_text()) == {"matmul": {"level": 1}}
    assert "x.T @ g" in (home / "katas/matmul.py").read_text()
    path.write_text("def vjp(g, x, y): return g, g")
    kata("matmul", "--file", path)
    assert "x.T @ g" in (home / "katas/matmul.py").read_text(), "a worse solution replaced a better"
    capsys.readouterr()
    kata()
    out = capsys.readouterr().out
    assert "matmul  level 1 of 4 is passed" in out and "0 of these 12" in out
    kata("matmul")
    assert "Level 1 of 4 is passed" in capsys.readouterr().out
    path.write_text(SOLUTIONS["matmul"])
    assert kata("matmul", "--file", path) == 0
    kata()
    out = capsys.readouterr().out
    assert "✓ matmul\n" in out


def test_a_hint_answers_the_mistake():
    learner, out = session("-g * (1 - out**2)", "hint", "hint", "quit")
    learner.practise(Kata("tanh"))
    text = out.getvalue()
    assert "Your last answer: a wrong sign.\nDifferentiate the function for numbers" in text
    assert text.count("Your last answer") == 1
    assert "The rule of x reads g and out." in text.split("Your last answer")[1]
    assert Progress().read()["tanh"] == {"hints": 2}


def test_the_reference_is_shown_in_the_place_of_a_kernel():
    code = Kata("attention").code
    assert code.startswith("def attention(query, key, value") and "softmax(" in code
    assert "QueryBlocks" not in code and "@" not in code.split("\n")[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def x(g, x):\n    return g * np.cos(x.numpy() if hasattr(x, 'numpy') else x)", "sin"),
        ("def x(g, x):\n    c = np.zeros(x.shape)\n    c[...] = np.cos(x)\n    return g * c", "2"),
    ],
)
def test_a_right_first_derivative_is_acknowledged(source, message):
    with pytest.raises(WrongRule, match=r"The first derivative is right already(.|\n)*Tensors"):
        Kata("sin").check(source)


def test_exercises_from_python():
    assert Kata(REGISTRY["tanh"]).inputs == ("x",)
    with pytest.raises(UserError, match="did you mean softmax"):
        Kata("sofmax")
    with pytest.raises(UserError, match="--list"):
        Kata("qqqq")

    def forward(x):
        return 2.0 * x

    own = Op(forward)
    with pytest.raises(UserError, match="no rule"):
        Kata(own)
    own.vjp(x=lambda g: 2.0 * g)
    Kata(own).check("x = lambda g: g + g", max_examples=5)


# ---- the command


def test_a_file_is_checked(home, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def vjp(g, x, y): return g, g")
    assert kata("multiply", "--file", path) == 1
    assert "the gradient of x is wrong" in capsys.readouterr().out
    assert not home.exists()
    path.write_text(SOLUTIONS["multiply"])
    assert kata("multiply", "--file", path) == 0
    assert "Right" in capsys.readouterr().out
    assert json.loads((home / "katas.json").read_text()) == {"multiply": {"solved_with": 0}}
    kata()
    out = capsys.readouterr().out
    assert "✓ multiply\n" in out and "→ divide" in out and "Next: npgpt kata divide" in out
    assert f"1 of these 12, and 1 of all {len(REGISTRY)}" in out
    kata("--list")
    out = capsys.readouterr().out
    assert "✓multiply" in out and all(name in out for name in REGISTRY)
    assert max(map(len, out.splitlines())) <= 80
    kata("multiply")
    out = capsys.readouterr().out
    assert "You solved it" in out and "return g * y" in out
    assert not (tmp_path / ".hypothesis").exists()


def test_without_a_terminal_an_exercise_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("g * y\n"))
    assert kata("multiply") == 0
    out = capsys.readouterr().out
    assert "return x * y" in out and "out = x · y" in out and "--file FILE" in out
    assert "g · y" not in out and "\x1b" not in out


def test_hints_come_in_stages(home, tmp_path, capsys):
    seen = []
    for _ in range(4):
        assert kata("multiply", "--hint") == 0
        seen.append(capsys.readouterr().out)
    assert seen[0] == "The rule of x reads g and y.\nThe rule of y reads g and x.\n"
    assert seen[1] == "dx = g · y\ndy = g · x\n"
    assert "lambda g, y: g * y" in seen[2] and seen[3] == seen[2]
    (tmp_path / "mine.py").write_text(SOLUTIONS["multiply"])
    kata("multiply", "--file", "mine.py")
    kata()
    assert "✓ multiply  with 3 hints" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["multyply"], "there is no op 'multyply'; did you mean multiply?"),
        (["--hint"], "name the op first"),
        (["multiply", "--file", "missing.py"], "missing.py does not exist"),
        (["multiply", "--hnt"], "did you mean '--hint'?"),
    ],
)
def test_wrong_input_ends_in_one_message(args, message, capsys):
    assert kata(*args) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_in_an_endless_rule(tmp_path):
    source = "def x(g):\n    print('here', flush=True)\n    while True:\n        pass\n"
    (tmp_path / "endless.py").write_text(source)
    command = [sys.executable, "-m", "npgpt.cli", "kata", "tanh", "--file", "endless.py"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "interrupted" in out and "line " in out and "Traceback" not in out


# ---- a session


def test_rules_are_asked_for_one_by_one(home):
    learner, out = session("", "g *", "g * y", "x", "hint", "", "dy = g * x")
    assert learner.practise(Kata("multiply"))
    text = out.getvalue()
    assert "g * is not an expression" in text
    assert text.count("dx = ") == 5 and "is wrong" in text and "Right" in text
    assert json.loads((home / "katas.json").read_text())["multiply"]["solved_with"] == 1
    Kata("multiply").check((home / "katas/multiply.py").read_text(), max_examples=5)


@pytest.mark.parametrize("answers", [["quit"], ["q"], ["exit"], []])
def test_a_session_is_left(answers, home):
    learner, _ = session(*answers)
    assert not learner.practise(Kata("multiply"))
    assert not home.exists()


@pytest.mark.parametrize("word", ["help", "?"])
def test_help_shows_the_question_again(word, home):
    learner, out = session(word, "quit")
    learner.practise(Kata("multiply"))
    text = out.getvalue()
    assert "Write the cotangent of x and y" in text and "_Helper" not in text
    assert text.count("or: hint, show, edit") == text.count("dx = ") == 2


def test_ctrl_c_ends_the_line_of_a_question(home):
    learner, out = session(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        learner.practise(Kata("multiply"))
    assert out.getvalue().endswith("dx = \n")


def test_giving_up_shows_the_rule():
    learner, out = session("show", "quit")
    learner.practise(Kata("tanh"))
    assert "lambda g, out" in out.getvalue() and Progress().read()["tanh"] == {"hints": 3}


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["softmax", "attention", "cross_entropy"])
def test_an_exercise_fits_any_terminal(name, width):
    """No line is wider than the terminal, and no word or number is broken."""
    wide, wide_out = session()
    wide.show(Kata(name))
    narrow, out = session()
    narrow.console = Console(file=out, width=width, force_terminal=True, color_system=None)
    narrow.show(Kata(name))
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert set(out.getvalue().split()) <= set(wide_out.getvalue().split())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_answer_fits_any_terminal(width):
    with pytest.raises(WrongRule) as error:
        Kata("softmax").check("input = lambda g, out: g * out", max_examples=5)
    message = str(error.value)
    folded = fold_report(message, width)
    assert max(map(len, folded.splitlines())) <= width
    assert set(folded.split()) <= set(message.split())
    assert ("1e-8" in folded) == (width >= 80)
    if width >= 80:
        assert folded == message or max(map(len, message.splitlines())) > width


@pytest.mark.parametrize(
    ("name", "rule", "advice"),
    [
        ("softmax", "out * (g - np.sum(g * out, axis=0, keepdims=True))", "So does the rule."),
        ("tanh", "g * (1 - x**2)", "with the input, or with the result?"),
        ("relu", "g * (input < 0)", "For which elements is the derivative 0?"),
    ],
)
def test_advice_for_a_mistake(name, rule, advice):
    learner, out = session(rule, "hint", "quit")
    learner.practise(Kata(name))
    assert advice in out.getvalue()


def test_an_error_of_numpy_says_the_shapes():
    with pytest.raises(WrongRule) as error:
        Kata("matmul").check("def vjp(g, x, y): return g @ y, x @ g", max_examples=5)
    first, second, third, *_ = str(error.value).splitlines()
    assert first == "line 1: def vjp(g, x, y): return g @ y, x @ g" and "mismatch" in second
    assert third == "  the shapes are g (2, 2), x (2, 3), y (3, 2)"


def test_matrices_that_are_too_wide_stand_in_a_column():
    report = "\n".join(
        [
            "f: the gradient of x is wrong:",
            "  step      1e-1    1e-2    1e-3",
            "  |error|   1.0e+0  1.0e+0  1.0e+0",
            "",
            "  backward              numeric",
            "  [[0.1234 0.5678]      [[1.1234 1.5678]",
            "   [0.2345 0.6789]]      [1.2345 1.6789]]",
        ]
    )
    assert fold_report(report, 80) == report
    assert fold_report(report, 30).splitlines() == [
        "f: the gradient of x is wrong:",
        "  step      1e-1    1e-2",
        "  |error|   1.0e+0  1.0e+0",
        "",
        "  backward",
        "  [[0.1234 0.5678]",
        "   [0.2345 0.6789]]",
        "  numeric",
        "  [[1.1234 1.5678]",
        "   [1.2345 1.6789]]",
    ]


EDITOR = r"""
import pathlib, sys
path, count = pathlib.Path(sys.argv[1]), pathlib.Path("count")
rules = ["x = lambda g: g\n", "x = lambda g, out: g * (1 - out**2)\n"]
path.write_text(path.read_text() + rules[count.exists()])
count.touch()
"""


def test_an_editor(home, tmp_path, monkeypatch):
    (tmp_path / "editor.py").write_text(EDITOR)
    monkeypatch.setenv("VISUAL", f"{sys.executable} {tmp_path / 'editor.py'}")
    learner, out = session("edit", "hint", "what?", "")
    assert learner.practise(Kata("tanh"))
    text = out.getvalue()
    assert "the gradient of x is wrong" in text and "reads g and out" in text and "Right" in text
    assert "# out = " in (home / "katas/tanh.py").read_text()
    monkeypatch.setenv("VISUAL", "no-such-editor")
    with pytest.raises(UserError, match="'no-such-editor' does not start"):
        session()[0].edit(Kata("sin"))


def test_in_a_terminal(tmp_path):
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "npgpt.cli", "kata", "multiply"],
        stdin=slave, stdout=slave, stderr=slave, close_fds=True, cwd=tmp_path,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    screen, answers = "", ["g * x", "g * y", "g * y", "g * x"]
    prompts = ["dx = ", "dy = ", "dx = ", "dy = "]
    while True:
        try:
            screen += os.read(master, 4096).decode(errors="replace")
        except OSError:  # the other side has closed
            break
        if prompts and prompts[0] in screen.rsplit("\n", 1)[-1]:
            prompts.pop(0)
            os.write(master, answers.pop(0).encode() + b"\n")
            screen += "\n"
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert "inputs swapped" in screen and "Right" in screen and "Traceback" not in screen


# ---- progress


@pytest.mark.parametrize(
    "content", ['{"multiply": {"solv', "[]", '{"tanh": 3}', '{"tanh": {"hints": "many"}}', "\xff"]
)
def test_damaged_progress_is_left_alone(content, home, capsys):
    home.mkdir()
    (home / "katas.json").write_text(content, encoding="latin-1")
    for args in [[], ["multiply"], ["multiply", "--hint"]]:
        assert kata(*args) == 2
        err = capsys.readouterr().err
        assert "katas.json" in err and "move the file" in err and err.count("\n") == 1
    assert (home / "katas.json").read_text(encoding="latin-1") == content


def test_a_solution_outlives_damaged_progress(home, tmp_path, capsys):
    home.mkdir()
    (home / "katas.json").write_text("{")
    (tmp_path / "mine.py").write_text(SOLUTIONS["multiply"])
    assert kata("multiply", "--file", "mine.py") == 2
    assert "Right" in capsys.readouterr().out
    assert "g * y" in (home / "katas/multiply.py").read_text()


def test_progress_of_another_session_is_kept(home):
    first, second = Progress(), Progress()
    first.write("tanh", hints=1)
    second.write("sin", solved_with=0)
    first.write("tanh", solved_with=1)
    assert Progress().read() == {
        "tanh": {"hints": 1, "solved_with": 1},
        "sin": {"solved_with": 0},
    }


def test_where_progress_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("NPGPT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Progress().file == tmp_path / "data/npgpt/katas.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert str(Progress().file).endswith(".local/share/npgpt/katas.json")
    assert Progress(tmp_path).file == tmp_path / "katas.json"

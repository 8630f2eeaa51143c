"""Whatever names and texts files hold, they end up shown: in scripts, pages, and terminals."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import helpers
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

import autograd
from autograd.console import Console
from autograd.escape import shown, shown_text
from autograd.stepper.draw import draw
from autograd.stepper.notebook import table
from autograd.stepper.record import Recording
from autograd.stepper.terminal import Terminal
from autograd.stepper.to_source import to_source
from autograd.stepper.trace import Trace, trace
from npgpt import GPT, GPTConfig
from npgpt.tokenizers import CharTokenizer, save_tokenizer

EVIL = [
    "a\nimport os; os.abort()", "b\r\x85x", "\x1b]0;title\x07\x1b[31m", "\x9b31m", "\u202ee\u202c",
    "x\u2028y\u2029z", "</svg><script>alert(1)</script>", "[red]x[/red] [/]:smile:", '"""', "\\",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "'; import os #", "{x}", "\ud800", "x²", "ﬁ", "\0",
    "a\n\n# ---- gradients\n", "\ufffe", "def", "\x0c", "gradients", "１", "a.b.c\n.d",
]  # fmt: skip
MIXED = ["a\nb\r\x1b]0;t\x07\x9b31m\u202e\u2028\x85", "[red]x[/red] [/]:smile:{x}'\"\\"]
names = st.sampled_from(EVIL) | st.text(max_size=12) | st.text(st.characters(categories=["C", "Z"]))
OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@given(names)
def test_what_is_shown(name):
    assert shown(name).isprintable() and not OBEYED.search(shown_text(name))
    assert shown(shown(name)) == shown(name) and shown_text(shown_text(name)) == shown_text(name)
    if name.isprintable():
        assert shown(name) == shown_text(name) == name
    text = re.sub(r"\\", "", name)
    meant = text.translate({0xDC00 + byte: byte for byte in range(128, 256)})  # of file names
    assert shown(text).encode("ascii", "backslashreplace").decode("unicode_escape") == meant


def test_scripts_and_signs_pass():
    for text in ("größe 天 👩‍👩‍👧 🇩🇪", "שלום\u200f", "می‌خواهم", "a\tb\nc\xa0d\xad"):
        assert shown_text(text) == text


# ---- traces: scripts, pictures, pages, and the stepper


def hostile(scope, name, word):
    """A trace whose file says these; two leaves may even share a name."""
    with autograd.record() as recording:
        x, z = (autograd.tensor(np.arange(1.0, 4), requires_grad=True) for _ in range(2))
        with recording.scope(scope):
            y = np.tanh(x * z)
        with recording.scope("plain"):
            total = np.einsum("i,i->", y, z)
    found = trace(total)
    recording.give_name(x._node.number, name)
    recording.give_name(z._node.number, name + word)
    return found, total


@given(names, names, names)
@example(EVIL[0], EVIL[0], EVIL[0])
@example("x", "ﬁ", "fi")
def test_a_trace_injects_nothing(tmp_path_factory, monkeypatch, scope, name, word):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(Recording, "name_variables", lambda *frames: None)  # of the test's runner
    found, total = hostile(scope, name, word)
    folder = tmp_path_factory.mktemp("t")
    found.save(folder)
    ends = [each for each in found.waiting() if each not in found.recording.maker]
    expected = {found.recording.name(n): list(found.cotangent_of(n)) for n in ends}
    for each in (found, Trace.load(folder)):
        for call in each.recording.calls.values():  # what a program may have set afterwards
            call.scope = scope if call.scope == shown(scope) else call.scope
        source = to_source(each)
        assert not OBEYED.search(source)
        nodes = list(ast.walk(ast.parse(source)))
        imported = [node.names[0].name for node in nodes if isinstance(node, ast.Import)]
        assert imported == ["numpy"]
        space: dict = {"print": lambda *line: None}
        exec(source, space)
        gradients = {name: list(value) for name, value in space["gradients"].items()}
        first, second = (each.recording.name(n) for n in each.recording.leaves())
        assert gradients.keys() == {first, second} and first.isprintable()
        assert gradients == expected
        for page in (each._repr_html_(), each.recording._repr_html_()):
            assert not OBEYED.search(page) and "<script" not in page
            ElementTree.fromstring(page)
        assert not OBEYED.search(repr(each))
    stepper = Terminal(each, Console(file=_Terminal(), force_terminal=True, color_system=None))
    for command in ("begin", "where", "why", "formula", "continue"):
        stepper.run(command)
    assert not OBEYED.search(stepper.console.file.getvalue())
    svg = draw(total).svg
    assert not OBEYED.search(svg) and "<script" not in svg
    ElementTree.fromstring(svg)


class _Terminal(io.StringIO):
    encoding = "utf-8"


@given(names, names)
def test_tables(caption, cell):
    page = table(caption, [cell], [[cell]])
    assert not OBEYED.search(page)
    assert "".join(ElementTree.fromstring(page).itertext()).count(shown(cell)) >= 2


@given(names)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_console(terminal, name):
    console = Console(file=_Terminal(), force_terminal=terminal, color_system=None, width=10**4)
    console.print(name, Text(name, "bold"), soft_wrap=True)
    out = console.file.getvalue()
    assert not OBEYED.search(re.sub(r"\x1b\[[0-9;]*m", "", out) if terminal else out)
    if name.isprintable():
        assert out.count(name) >= 2 or not name.strip()


# ---- commands


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NPGPT_HOME", str(tmp_path / "home"))
    return tmp_path


def model_that_writes(text, folder):
    """A model that always continues with the signs of this text, in order."""
    tokenizer = CharTokenizer.from_text(text)
    model = GPT(
        GPTConfig(vocab_size=tokenizer.n_vocab, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    )
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def npgpt(capsys, *args):
    """Run a command; check and return what it prints."""
    code = helpers.npgpt(*args)
    out, err = capsys.readouterr()
    assert not OBEYED.search(out + err), out + err
    return code, out + err


@pytest.mark.parametrize("name", [MIXED[0], MIXED[1].replace("/", "")])
def test_commands_show_the_names_of_files(name, here, capsys):
    name = "x" + name
    folder = model_that_writes("ab", here / name)
    (here / f"{name}.txt").write_text("to be or not to be\n" * 9)
    tiny = "--n_layer 1 --n_head 1 --n_embd 4 --block_size 4 --max_iters 1 --eval_iters 1".split()
    data = ["--data", f"{name}.txt", "--batch_size", 1, *tiny]
    for args in (
        ["info", folder], ["generate", "--model", folder, "--prompt", "a", "--max_new_tokens", 3],
        ["generate", "--model", f"{name}x"], ["train", f"{name}.toml"],
        ["train", *data, f"--{name}"],
        ["train", *data, "--out_dir", f"{name}.run"], ["train", *data, "--out_dir", f"{name}.run"],
        ["train", "--resume", f"{name}.run", "--max_iters", 2], ["train", "--resume", name],
        ["tokenizer", "train", "--data", f"{name}.txt", "--vocab_size", 260, "--out",
         f"{name}.tiktoken"],
        ["tokenizer", "add", f"{name}.tiktoken"], ["tokenizer", "list"],
        ["tokenizer", "show", name, "--tokenizer", f"{name}.tiktoken"],
        ["tokenizer", "show", name, "--tokenizer", f"{name}.tiktoken", "--steps"],
        ["why", "--run", f"{name}.run", "--param", name],
        ["step", "--run", f"{name}.run", "--at", 9], ["step", f"{name}.py"], ["kata", name],
        ["lesson", name], [name],
    ):  # fmt: skip
        npgpt(capsys, *args)
    out = npgpt(capsys, "generate", "--model", f"{name}x")[1]
    assert shown(f"{name}x") in out


@pytest.mark.parametrize("content", MIXED)
def test_errors_show_what_they_quote(content, here, capsys):
    """One line each, whatever the file says."""
    folder = model_that_writes("ab", here / "m")
    config = json.loads((folder / "config.json").read_text())
    for key, value in (("activation_function", content), ("model_type", content), (content, 1)):
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        code, said = npgpt(capsys, "generate", "--model", folder, "--prompt", "a")
        assert code == 0 or said.count("\n") == 1
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({content: content, "top_k": content}))
    npgpt(capsys, "generate", "--model", folder, "--prompt", "a")
    (folder / "generation_config.json").write_text(json.dumps({content: content}))
    npgpt(capsys, "generate", "--model", folder, "--prompt", "a")
    (folder / "generation_config.json").unlink()
    kept = (folder / "tokenizer.json").read_text()
    for values in ({"kind": content}, {content: content}, {"kind": "char", "tokens": content}):
        (folder / "tokenizer.json").write_text(json.dumps(values))
        code, said = npgpt(capsys, "generate", "--model", folder, "--prompt", "a")
        assert code == 2 and said.count("\n") == 1
    (folder / "tokenizer.json").write_text(kept)
    text = json.dumps(content)
    for toml in (f"data = [{text}]", f"{text} = 1", f"tokenizer = {text}", f"init_from = {text}"):
        Path("c.toml").write_text(toml)
        code, said = npgpt(capsys, "train", "c.toml")
        assert code == 2 and said.count("\n") == 1
        npgpt(capsys, "train", "c.toml", "--help")


WRITTEN = "a\x1b]0;title\x07\x9b31m\u202e\tb\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_generated_text_is_shown_in_a_terminal_and_raw_in_a_pipe(here):
    folder = model_that_writes(WRITTEN, here / "m")
    args = [sys.executable, "-m", "npgpt.cli", "generate", "--model", str(folder), "--prompt", "a"]
    args += ["--max_new_tokens", "200", "--seed", "1", "--temperature", "2"]
    piped = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True).stdout.decode()
    assert set(WRITTEN) <= set(piped)
    # with colorama, which other packages bring, Numba ends the output by a code of its own
    environment = os.environ | {"NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING": "1"}
    for more in [], ["--num_beams", "2", "--do_sample", "True"]:
        ours, theirs = os.openpty()
        process = subprocess.Popen(args + more, stdin=subprocess.DEVNULL, stdout=theirs,
                                   stderr=subprocess.PIPE, env=environment)  # fmt: skip
        os.close(theirs)
        seen = b""
        while part := _read(ours):
            seen += part
        assert process.wait() == 0, process.stderr.read()
        text = seen.decode().replace("\r\n", "\n")
        assert not OBEYED.search(text) and "\\x1b" in text and "\t" in text
        if not more:
            assert text == shown_text(piped)


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""

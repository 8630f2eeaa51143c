"""The command line's options: every way to write them, to get them wrong, and to be helped."""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import npgpt.commands
from autograd.schema import FileName, Range
from npgpt.cli import main
from npgpt.commands.completion import find_commands
from npgpt.errors import UserError
from npgpt.options import FOREIGN, Argument, check_file, parse, quoted

COMMANDS = [name for name, _ in find_commands("npgpt.commands")]


def test_every_file_of_a_command_is_in_the_table():
    folder = Path(npgpt.commands.__file__).parent
    files = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("[!_]*.py")}
    assert files == {name.replace(" ", os.sep) for name in COMMANDS}
    assert {"train", "tokenizer add", "models add", "completion"} <= {*COMMANDS}


@dataclass
class Example:
    """Options of every kind."""

    script: Annotated[FileName, Argument("SCRIPT")] = ""
    """A script."""
    rest: Annotated[tuple[str, ...], Argument("-- ARG ...")] = ()
    size: Annotated[int, Range(0)] = 3
    """How large."""
    rate: float = 0.5
    limit: int | None = None
    files: tuple[FileName, ...] = ()
    ids: tuple[int, ...] = ()
    kind: Literal["a", "b"] = "a"
    fast: bool = False
    maybe: bool | None = None
    name: str = ""
    from_: int = 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {}),
        ("--size 4", {"size": 4}),
        ("--size=4", {"size": 4}),
        ("--rate -1.5", {"rate": -1.5}),
        ("--rate=-1e-3", {"rate": -1e-3}),
        ("--rate 2", {"rate": 2.0}),
        ("--limit None", {"limit": None}),
        ("--limit 3 --limit 4", {"limit": 4}),
        ("--files a b --size 1", {"files": ("a", "b"), "size": 1}),
        ("--files=a --files b c", {"files": ("a", "b", "c")}),
        ("--files - -1.5", {"files": ("-", "-1.5")}),
        ("--files", {"files": ()}),
        ("--ids 1 -2", {"ids": (1, -2)}),
        ("--fast", {"fast": True}),
        ("--fast False", {"fast": False}),
        ("--fast=true --size 2", {"fast": True, "size": 2}),
        ("--fast x.py", {"fast": True, "script": "x.py"}),
        ("--maybe none", {"maybe": None}),
        ("--name=", {"name": ""}),
        ("--name=--size", {"name": "--size"}),
        ("--name=a=b", {"name": "a=b"}),
        ("--from 3", {"from_": 3}),
        ("x.py --size 2", {"script": "x.py", "size": 2}),
        ("--size 2 x.py", {"script": "x.py", "size": 2}),
        ("x.py --size 2 -- --size -x", {"script": "x.py", "size": 2, "rest": ("--size", "-x")}),
        ("--kind b", {"kind": "b"}),
        ("--files ~/a ~nobody-at-all/b", {"files": ("/users/me/a", "~nobody-at-all/b")}),
        ("~/x.py --name ~/a", {"script": "/users/me/x.py", "name": "~/a"}),
    ],
)  # fmt: skip
def test_what_options_mean(words, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/users/me")
    assert parse(Example, words.split(), "example") == Example(**expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--size", "--size needs a value"),
        ("--size --rate 3", "--size needs a value"),
        ("--size=", "--size must be a whole number, and is ''"),
        ("--size 1.5", "--size must be a whole number, and is '1.5'"),
        ("--size 1e3", "--size must be a whole number, and is '1e3'"),
        ("--size -1", "--size is -1; it must not be negative"),
        ("--size True", "--size must be a whole number"),
        ("--size " + "9" * 5000, "--size must be a whole number, and is '9999"),
        ("--rate nan", "--rate is nan"),
        ("--rate 1e400", "--rate is inf; it must be a finite number"),
        ("--fast=maybe", "--fast must be true or false, and is 'maybe'"),
        ("--ids 1 two", "--ids must be a whole number, and is 'two'"),
        ("--kind c", "--kind must be 'a' or 'b', and is 'c'"),
        ("--sise 3", "unknown option --sise; did you mean '--size'?"),
        ("--zzz 3", "unknown option --zzz; npgpt example --help lists all"),
        ("-s 3", "unknown option -s (a value that begins with - : --NAME=-s)"),
        ("--name -x", "unknown option -x (a value that begins with - : --name=-x)"),
        ("--device cuda", "CPU only"),
        ("--device=mps", "CPU only"),
        ("--dtype bfloat16", "float32 only: leave out --dtype"),
        ("--compile True", "npgpt warmup"),
        ("--no-cuda", "CPU only"),
    ],
)
def test_wrong_options(words, message):
    with pytest.raises(UserError) as error:
        parse(Example, words.split(), "example")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not str(error.value).startswith("npgpt example")  # after "npgpt: "


@given(st.lists(st.text(alphabet="-=a1 .~é\udce9\n\0", max_size=6) | st.sampled_from(
    ["--size", "--files", "--fast", "--", "--kind=a", "-1", "True"]), max_size=6))  # fmt: skip
def test_any_words(words):
    try:
        found = parse(Example, words, "example")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found.size, int) and isinstance(found.files, tuple)


@pytest.mark.parametrize("words", [["-\n"], ["--a\n"], ["--size", "-\n"], ["--name", "-a\n"]])
def test_a_line_break_in_an_unknown_option_is_spelled(words):
    with pytest.raises(UserError, match=r"^unknown option \$'-.*\\x0a'") as error:
        parse(Example, words, "example")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_options_of_other_programs(name, capsys):
    assert main(["train", f"--{name}", "cuda"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"leave out --{name}" in said and "did you mean" not in said


def test_keys_of_other_programs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text('device = "cuda"\n')
    assert main(["train", "a.toml"]) == 2
    assert "CPU only" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a b", "caf\udce9.txt", "it's", "a\nb", "\x1b[2J", "é$x", "\\"])
def test_quoted_words_come_back_from_a_shell(text):
    found = subprocess.run(["bash", "-c", f"printf %s {quoted(text)}"], capture_output=True)
    assert found.stdout == os.fsencode(text)
    assert quoted(text).isprintable()


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
def test_a_file_that_may_not_be_written_is_refused_at_once():
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # other users cannot look into pytest's folders
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "mine").touch(mode=0o444)
        (folder / "link").symlink_to(folder / "mine")
        (folder / "free").symlink_to("/nowhere/x")
        if user == 0:
            os.seteuid(65534)  # permissions do not apply to root
        try:
            check_file("--json", folder / "new")
            for name in "mine", "link":
                with pytest.raises(UserError, match=f"{name}: you may not write to this file"):
                    check_file("--json", folder / name)
            with pytest.raises(UserError, match="free: there is no folder"):
                check_file("--json", folder / "free")
        finally:
            os.seteuid(user)


# ---- help


def help_of(command, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", ["80", "0", "1", "4", "1000000", "x", "-3", ""])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits(command, columns, capsys, monkeypatch):
    text = help_of(command, columns, capsys, monkeypatch)
    width = max(map(len, text.splitlines()))
    limit = {"0": 80, "x": 80, "-3": 80, "": 80, "80": 80, "1000000": 100}.get(columns, 46)
    assert width <= limit
    assert text.startswith("usage: npgpt") and "--help" in text
    assert not re.search(r",  \w", text)


@pytest.mark.parametrize("columns", ["80", "50"])
@pytest.mark.parametrize("args", [[], ["tokenizer"], ["models"]])
def test_overviews_fit(args, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(args) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= int(columns)
    assert "\n\n  npgpt " in text and "\n\n\n" not in text and text.endswith(".\n")


def test_help_shows_arguments(capsys, monkeypatch):
    text = help_of("train", "80", capsys, monkeypatch)
    assert "[CONFIG.toml]" in text and "\narguments:\n  CONFIG.toml" in text
    assert re.search(r"--batch_size N +Sequences in a batch. \(default: 12\)", text)
    assert "[PRESET|DIR]" in help_of("info", "80", capsys, monkeypatch)
    assert "PATH ..." in help_of("tokenizer add", "80", capsys, monkeypatch)
    assert "[-- ARG ...]" in help_of("step", "80", capsys, monkeypatch)


def test_help_shows_the_values_of_a_configuration(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.toml").write_text("batch_size = 7")
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "a.toml"), "--help"])
    assert "(default: 12)" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(24, 4), (1, 1), (0, 0)])
def test_tiny_terminals(size):
    """A terminal of a few columns neither takes all memory nor breaks what is laid out."""
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2);"
        "from npgpt.cli import main; main(['info', 'gpt2']); main(['kata']);"
        "from npgpt.training.display import Display; d = Display(3)\n"
        "with d: d.step(1, 2.0, 3.0); d.evaluated(2, 1.0, 1.0)\n"
        "main(['train', '--help'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=follower, stderr=subprocess.PIPE, env=environment
    )
    os.close(follower)
    try:
        while os.read(leader, 2**16):
            pass
    except OSError:
        pass  # the other end is closed
    assert process.wait(timeout=60) == 0, process.stderr.read()
    os.close(leader)


# ---- as a module, names of files, completion


def test_as_a_module():
    found = subprocess.run([sys.executable, "-m", "npgpt", "--version"], capture_output=True)
    assert found.returncode == 0 and found.stdout.startswith(b"npgpt ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes")
def test_file_names_that_are_not_utf8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = b"caf\xe9"
    with open(name + b".txt", "w") as file:
        file.write("to be, or not to be: that is the question.\n" * 40)
    tiny = (
        "--n_layer 1 --n_head 1 --n_embd 4 --block_size 4 --batch_size 1 --max_iters 1 "
        "--eval_iters 1"
    ).split()

    def npgpt(*args, expected=0):
        command = [sys.executable, "-m", "npgpt", *args]
        found = subprocess.run(command, capture_output=True)
        assert found.returncode == expected, found.stderr
        assert b"Traceback" not in found.stderr
        return (found.stdout + found.stderr).decode()  # which is UTF-8

    said = npgpt("train", "--data", name + b".txt", "--out_dir", name, *tiny)
    assert r"caf\xe9" in said and r"/caf\xe9' --prompt" in said
    assert r"caf\xe9 is finished" in npgpt("train", "--resume", name)
    npgpt("train", "--resume", name, "--max_iters", "2")
    npgpt("generate", "--model", name, "--prompt", "to", "--max_new_tokens", "2")
    npgpt("train", "--init_from", name, "--data", name + b".txt", "--max_iters", "0")
    npgpt("train", "--data", name + b"/tokens.bin", "--block_size", "4", "--max_iters", "0")
    npgpt("export", name, name + b"2")
    npgpt("info", name + b"2")
    npgpt("step", "--run", name, "--at", "0", "--save", name + b"3", "--commands", os.devnull)
    npgpt("tokenizer", "show", "to", "--tokenizer", name)
    said = npgpt("train", "--resume", name + b"4", expected=2)
    assert r"caf\xe94 holds no run" in said and said.count("\n") == 1
    said = npgpt("generate", "--model", name + b".txt", "--prompt", "a", expected=2)
    assert r"caf\xe9.txt" in said and said.count("\n") == 1


def test_home_in_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question.\n" * 40)
    (tmp_path / "a.toml").write_text(
        'data = ["~/text.txt"]\nout_dir = "~/run"\nn_layer = 1\nn_head = 1\nn_embd = 4\n'
        "block_size = 4\nbatch_size = 1\nmax_iters = 0\neval_iters = 1\n"
    )
    assert main(["train", "~/a.toml"]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file() and not Path("~").exists()
    for command in ("generate --prompt to --max_new_tokens 1 --model ~/run --json ~/out.json",
                    "info ~/run", "export ~/run ~/out", "tokenizer show to --tokenizer ~/run",
                    "train --resume ~/run", "profile ~/a.toml --steps 1 --json ~/rows.json",
                    "step --model ~/run --text to --source ~/pass.py"):  # fmt: skip
        assert main(command.split()) == 0, capsys.readouterr().err
    for file in ("out.json", "out/config.json", "rows.json", "pass.py"):
        assert (tmp_path / file).is_file()
    assert not Path("~").exists()


def completed(shell_words):
    lines = 'eval "$(npgpt completion bash)"\n'
    lines = f'npgpt() {{ "{sys.executable}" -m npgpt "$@"; }}\n' + lines
    for words in shell_words:
        lines += f"COMP_WORDS=(npgpt {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _npgpt\n"
        lines += 'echo "${COMPREPLY[*]}"\n'
    found = subprocess.run(["bash", "-c", lines], capture_output=True, text=True)
    assert found.returncode == 0 and not found.stderr, found.stderr
    return found.stdout.splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash():
    found = completed([
        "tr", "train --norm", "train --norm_position ''", "tokenizer s", "models r",
        "tokenizer show a --st", "kata mat", "info gpt2-", "train --data ''", "completion ''",
        "train --documents T",
    ])  # fmt: skip
    assert found == [
        "train translate", "--norm_position", "pre post", "show", "remove", "--steps", "matmul",
        "gpt2-medium gpt2-large gpt2-xl", "", "bash zsh", "True",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert f'"{command}") options="' in script
    if program := shutil.which(shell):
        checked = subprocess.run([program, "-n"], input=script, text=True, capture_output=True)
        assert checked.returncode == 0 and not checked.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'?"),
        ("completion", "name the shell"),
        ("completion fish", "npgpt: shell must be 'bash' or 'zsh' or absent, and is 'fish'"),
        ("info gpt2 gpt1", "npgpt info takes PRESET|DIR and nothing else, not gpt1"),
        ("info gpt2x", "gpt2x is no folder with a model"),
        ("info gpt2x", "it is no preset either; did you mean 'gpt2'?"),
        ("info --batch 0", "--batch is 0"),
        ("info gpt2 --context 99999999999999999999", "--context is too large"),
        ("warmup now", "npgpt warmup takes options and nothing else, not now"),
        ("export one", "give two folders"),
        ("export one two three", "takes DIR and FOLDER and nothing else, not three"),
        ("tokenizer", ""),
        ("tokenizer sho", "did you mean 'show'?"),
        ("tokenizer add", "name what to add"),
        ("tokenizer show", "give a text first"),
        ("models", ""),
        ("models ad", "did you mean 'add'?"),
        ("models add", "name what to add"),
        ("models add smolm2", "did you mean 'smollm2'?"),
        ("models remove", "name the model to remove"),
        ("models remove smollm2", "no model 'smollm2' was added"),
        ("tokenizer train --vocab_size -5", "--vocab_size is -5"),
        ("lesson 99", "there is no lesson '99'"),
        ("kata multiply --file", "--file needs a value"),
        ("why", "give a run and a weight"),
        ("step", "give a script"),
        ("step x.py --trace y", "give a script, or"),
        ("step x.py --epochs 3", "lists all (the script's own options stand after --)"),
        ("generate hello", "--prompt hello"),
        ("generate --top_k 1.5 --prompt a", "--top_k must be a whole number"),
        ("doctor --json /nowhere/x.json", "there is no folder /nowhere"),
    ],
)
def test_wrong_commands_end_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = main(words.split())
    said = capsys.readouterr()
    if message:
        assert status == 2 and message in said.err and said.err.count("\n") == 1
    else:
        assert status == 0

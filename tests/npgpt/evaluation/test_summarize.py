"""npgpt summarize: the prompt, texts that are too long, and input that is no text."""

import io
import json
import os
import sys

import pytest
from helpers import draw_model, npgpt

from npgpt import load_model, load_tokenizer
from npgpt.tokenizers import ByteTokenizer, save_tokenizer

CHAT = (
    "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


@pytest.fixture(params=["chat", "plain"])
def model(request, tmp_path):
    """The folder of a model with a context of 100, with a chat template and without one."""
    tokenizer = ByteTokenizer(["<|end|>"])
    if request.param == "chat":
        tokenizer.chat_template = CHAT
    draw_model(vocab_size=257, n_positions=100).save_pretrained(tmp_path / request.param)
    save_tokenizer(tokenizer, tmp_path / request.param)
    return tmp_path / request.param


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def expected(model, prompt, n_new):
    """What the model writes after a prompt, up to the end of a summary."""
    tokenizer = load_tokenizer(model)
    ids = tokenizer.encode(prompt)
    new = load_model(model).generate(ids, max_new_tokens=n_new, temperature=0.0)[0, len(ids) :]
    return tokenizer.decode(new.tolist())


def test_the_prompt(model, tmp_path, capsys):
    """A model that knows conversations gets a message, another continues after TL;DR."""
    (tmp_path / "a.txt").write_text("\nThe cat sat.\n")
    (tmp_path / "b.txt").write_text("It rains.")
    instruction = ["--instruction", "Be short."] if model.name == "chat" else []
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    args = ["summarize", "--model", model, *instruction, "--max_new_tokens", 8]
    assert npgpt(*args, "--json", *files) == 0
    found = lines(capsys)
    for line, file in zip(found, files, strict=True):
        text = file.read_text().strip()
        prompt = f"<Be short.\n\n{text}>:" if instruction else f"{text}\n\nTL;DR:"
        written = expected(model, prompt, 8)
        assert line["file"] == str(file) and line["left_out"] == 0
        assert written.startswith(load_tokenizer(model).decode(line["ids"]))
        assert line["summary"] == written.partition("<|end|>")[0].partition("\n\n")[0].strip()
    assert npgpt(*args, *files) == 0
    assert capsys.readouterr().out.count("\n") >= 3  # an empty line stands between summaries


@pytest.mark.parametrize("model", ["chat"], indirect=True)
def test_without_an_instruction(model, tmp_path, capsys, monkeypatch):
    """The message is the text alone, as the template of a model for summaries may want it."""
    monkeypatch.setattr(sys, "stdin", piped(tmp_path, "The cat sat."))
    args = ["--instruction", "", "--max_new_tokens", 8, "--json"]
    assert npgpt("summarize", "--model", model, *args) == 0
    (line,) = lines(capsys)
    assert expected(model, "<The cat sat.>:", 8).startswith(
        load_tokenizer(model).decode(line["ids"])
    )
    assert line["file"] == "standard input"


def piped(tmp_path, text):
    (tmp_path / "stdin").write_text(text, encoding="utf-8")
    return io.TextIOWrapper((tmp_path / "stdin").open("rb"))


def test_a_text_that_is_too_long_loses_its_end(model, tmp_path, capsys):
    """Prompt and summary fill the context; characters are not cut in two."""
    text = "".join(chr(ord("A") + n % 26) + "é" for n in range(100))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    instruction = ["--instruction", "Be."] if model.name == "chat" else []
    args = ["--model", model, *instruction, "--max_new_tokens", 20, "--json"]
    assert npgpt("summarize", *args, tmp_path / "long.txt") == 0
    out, err = capsys.readouterr()
    before, after = ("<Be.\n\n", ">:") if instruction else ("", "\n\nTL;DR:")
    n_read = 80 - len(before + after)
    assert json.loads(out)["left_out"] == 300 - n_read
    assert f"the last {300 - n_read} of its tokens are left out" in err
    kept = text.encode()[:n_read].decode(errors="ignore")
    written = expected(model, before + kept + after, 20)
    assert written.startswith(load_tokenizer(model).decode(json.loads(out)["ids"]))


def test_what_cannot_be_summarized(model, tmp_path, capsys):
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "text").write_text("x")
    asked = "{input}" if model.name == "chat" else "Be short."
    for args, said in [
        ([os.devnull], f"{os.devnull} has no text"),
        ([tmp_path / "missing"], "missing does not exist"),
        ([tmp_path / "text", tmp_path / "missing"], "missing does not exist"),
        ([tmp_path / "bytes"], "not UTF-8"),
        ([tmp_path / "text", "--instruction", asked], f"--instruction is '{asked}'"),
        ([tmp_path / "text", "--max_new_tokens", 100], "lower --max_new_tokens"),
        ([tmp_path / "text", "--max_new_tokens", -1], "max_new_tokens"),
    ]:
        assert npgpt("summarize", "--model", model, *args) == 2
        out, err = capsys.readouterr()
        assert said in err and err.count("\n") == 1 and not out

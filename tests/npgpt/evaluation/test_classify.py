"""npgpt classify and npgpt complete; the example that measures them."""

import io
import json
import os
import runpy
import sys

import numpy as np
import pytest
from helpers import ROOT, draw_model, npgpt

from npgpt import GPT, UserError, load_model, load_tokenizer
from npgpt.evaluation.choices import Scorer
from npgpt.evaluation.examples import draw_examples
from npgpt.evaluation.few_shot import FewShot, classify
from npgpt.evaluation.labels import label_probabilities
from npgpt.models.bert import Bert, BertConfig
from npgpt.tokenizers import ByteTokenizer, save_tokenizer

SHOTS = [("a", "yes"), ("b", "no"), ("c", "yes"), ("d", "yes")]
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def folder(tmp_path):
    """A model that continues texts, examples, and texts to classify."""
    tokenizer = ByteTokenizer(["<|end|>"])
    tokenizer.chat_template = CHAT
    draw_model(vocab_size=257, n_positions=160).save_pretrained(tmp_path / "gpt")
    save_tokenizer(tokenizer, tmp_path / "gpt")
    (tmp_path / "shots.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in SHOTS))
    (tmp_path / "texts.txt").write_bytes(b"one\r\n\r\ntwo three\n")
    return tmp_path


def draw_bert(num_labels=3, labels=("x", "y", "z")):
    config = BertConfig(
        vocab_size=256, n_positions=8, n_embd=12, n_layer=1, n_head=3, num_labels=num_labels,
        architecture="BertForSequenceClassification", labels=labels,
    )  # fmt: skip
    model = Bert(config).eval()
    random = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * random.standard_normal(parameter.shape)
    return model


@pytest.fixture
def bert(tmp_path):
    draw_bert().save_pretrained(tmp_path / "bert")
    save_tokenizer(ByteTokenizer(), tmp_path / "bert")
    return tmp_path / "bert"


def json_lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("options", [[], ["--calibrate"], ["--normalize"], ["--chat"]])
def test_labels_by_examples(options, folder, capsys):
    """The command gives the probabilities of the function, in the order of the lines."""
    assert npgpt(
        "classify", "--model", folder / "gpt", "--file", folder / "texts.txt", "--json",
        "--shots", folder / "shots.tsv", "--k", 2, "--seed", 3, "--labels", "yes = good,no",
        "--template", r"{input}\n{output}", "--instruction", "Say.", *options,
    ) == 0  # fmt: skip
    first, empty, second = json_lines(capsys)
    assert empty == {"text": "", "label": None, "probabilities": {}}
    words = {"yes": "good", "no": "no"}
    shown = [(text, words[label]) for text, label in draw_examples(SHOTS, 2, seed=3)]
    task = FewShot("{input}\n{output}", shown, "Say.", as_chat="--chat" in options)
    model, tokenizer = GPT.from_pretrained(folder / "gpt"), load_tokenizer(folder / "gpt")
    expected = classify(
        Scorer(model, tokenizer), task, ["one", "two three"], ["good", "no"],
        calibrated="--calibrate" in options, normalized="--normalize" in options,
    )  # fmt: skip
    for line, row in zip((first, second), expected, strict=True):
        assert [*line["probabilities"]] == ["yes", "no"]
        np.testing.assert_allclose([*line["probabilities"].values()], row, rtol=1e-5)
        assert line["label"] == ["yes", "no"][row.argmax()]


def test_labels_by_the_batch(folder, monkeypatch, capsys):
    """All lines are one batch, also those beyond a block of which labels are printed."""
    monkeypatch.setattr("npgpt.commands.classify.BLOCK", 2)
    texts = ["one", "two three", "a film", "four", "5"]
    args = ["classify", "--model", folder / "gpt", "--labels", "good,no", "--calibrate_batch"]
    assert npgpt(*args, "--json", *texts) == 0
    found = [[*line["probabilities"].values()] for line in json_lines(capsys)]
    scorer = Scorer(GPT.from_pretrained(folder / "gpt"), load_tokenizer(folder / "gpt"))
    raw = classify(scorer, FewShot(), texts, ["good", "no"])
    expected = raw / raw.mean(axis=0)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    (folder / "five.tsv").write_text("".join(f"{text}\tno\n" for text in texts))
    evaluate = ["eval", "classification", folder / "five.tsv", *args[1:], "--json"]
    assert npgpt(*evaluate) == 0
    (result,) = json_lines(capsys)
    right = np.mean(expected.argmax(axis=1) == 1)
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(right)
    for wrong, message in ((["one"], "give several"), (["--calibrate", *texts], "two ways")):
        assert npgpt(*args, *wrong) == 2
        assert message in capsys.readouterr().err


def test_labels_are_those_of_the_examples(folder, monkeypatch, capsys):
    """Lines of standard input; what is printed is a label for each."""
    args = ["classify", "--model", folder / "gpt", "--shots", folder / "shots.tsv"]
    assert npgpt(*args, "one", "two three") == 0
    printed = capsys.readouterr().out
    assert set(printed.split()) <= {"yes", "no"} and printed.count("\n") == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\ntwo three")))
    monkeypatch.setattr("npgpt.commands.embed.is_piped", lambda: True)
    assert npgpt(*args) == 0
    assert capsys.readouterr().out == printed.replace("\n", "\n\n", 1)


def test_labels_by_a_head(bert, capsys):
    """The labels have the names of config.json, and no text depends on the others."""
    texts = ["one", "a long text", "two", "", "b"]
    assert npgpt("classify", "--model", bert, "--json", *texts) == 0
    found = json_lines(capsys)
    model = load_model(bert)
    for text, line in zip(texts, found, strict=True):
        if not text:
            assert line["label"] is None
            continue
        logits = model(np.frombuffer(text[:8].encode(), np.uint8)[None])[0].numpy()[0]
        expected = np.exp(logits) / np.exp(logits).sum()
        assert [*line["probabilities"]] == ["x", "y", "z"]
        np.testing.assert_allclose([*line["probabilities"].values()], expected, rtol=1e-5)
    assert label_probabilities(model, ByteTokenizer(), []).shape == (0, 3)


def test_names_of_labels_are_in_the_file():
    """Also those of transformers' files; without names, the usual ones."""
    config = draw_bert().config
    assert BertConfig.from_dict(config.to_dict()) == config
    usual = draw_bert(2, ()).config
    assert usual.labels == ("LABEL_0", "LABEL_1")
    assert BertConfig.from_dict(usual.to_dict()) == usual
    with pytest.raises(UserError, match="labels has 1 names, and num_labels is 3"):
        draw_bert(3, ("x",))
    with pytest.raises(UserError, match="id2label has the keys"):
        BertConfig.from_dict(usual.to_dict() | {"id2label": {"0": "a", "2": "b"}})


def test_answers(folder, capsys):
    """An answer is what the model writes after the prompt, up to the end of an example."""
    args = ["--model", folder / "gpt", "--shots", folder / "shots.tsv", "--max_new_tokens", 12]
    assert npgpt("complete", *args, "--json", "one", " ", "two") == 0
    found = json_lines(capsys)
    assert [line["question"] for line in found] == ["one", "two"]
    model, tokenizer = GPT.from_pretrained(folder / "gpt"), load_tokenizer(folder / "gpt")
    task = FewShot(examples=SHOTS)
    for line in found:
        prompt = tokenizer.encode(task.prompt(line["question"], tokenizer))
        new = model.generate(prompt, max_new_tokens=12)[0, len(prompt) :].tolist()
        assert line["ids"] == new[: len(line["ids"])]
        assert line["answer"] == tokenizer.decode(line["ids"]).partition("\n\n")[0].strip()
    assert npgpt("complete", *args, "one", "two") == 0
    assert [line["answer"] in capsys.readouterr().out for line in found[:1]] == [True]
    assert npgpt("complete", *args, "--chat", "--json", "one") == 0
    (line,) = json_lines(capsys)
    prompt = FewShot(examples=SHOTS, as_chat=True).prompt("one", tokenizer)
    new = model.generate(prompt, max_new_tokens=12, eos_token_id=256)[0, len(prompt) :]
    assert line["ids"] == new.tolist()


def test_an_answer_ends_where_an_example_ends(folder, monkeypatch, capsys):
    """The stop string is what stands between two examples, and is no part of the answer."""
    logits = iter(9 * np.eye(257, dtype=np.float32)[[*b" yes;\n\nInput: x"]])
    monkeypatch.setattr("npgpt.generation.reader.Reader.logits", lambda self: next(logits)[None])
    template = "{input}: {output};"
    assert (
        npgpt("complete", "--model", folder / "gpt", "--template", template, "one", "--json") == 0
    )
    (line,) = json_lines(capsys)
    assert line["answer"] == "yes" and line["finish_reason"] == "stop_string"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["classify", "--labels", "a,b"], "there is no sentence"),
        (["classify", "x"], "say which labels there are"),
        (["classify", "x", "--labels", "a"], "the only label is 'a'"),
        (["classify", "x", "--labels", "a,a"], "one of the labels is 'a'"),
        (["classify", "x", "--labels", "a,=b"], "one of the labels is '=b'"),
        (["classify", "x", "--labels", "a,b="], "one of the labels is 'b='"),
        (["classify", "x", "--labels", "a=c,b=c"], "give two or more different texts"),
        (["classify", "x", "--labels", "a,b", "--k", "1"], "--k is 1; say from which file"),
        (["classify", "x", "--labels", "a,b", "--template", "{input}"], "{output} once"),
        (["classify", "x", "--labels", "a,b", "--shots", "SHOTS"], "line 1: the label is 'yes'"),
        (["classify", "x", "--shots", "SHOTS", "--k", "5"], "k is 5, and there are 4 examples"),
        (["classify", "x" * 200, "--labels", "a,b"], "the model's context has 160"),
        (["classify", "x", "--file", "SHOTS", "--labels", "a,b"], "not both"),
        (["classify", "--file", os.devnull, "--labels", "a,b"], f"{os.devnull} is empty"),
        (["complete", "--file", os.devnull], f"{os.devnull} is empty"),
        (["complete", "x", "--shots", "missing.tsv"], "missing.tsv does not exist"),
        (["complete", "x", "--shots", "SHOTS", "--label_column", "2"], "or neither"),
        (["complete", "x", "--max_new_tokens", "-1"], "max_new_tokens"),
    ],
)
def test_wrong_commands(args, said, folder, capsys):
    args = [folder / "shots.tsv" if arg == "SHOTS" else arg for arg in args]
    assert npgpt(args[0], "--model", folder / "gpt", *args[1:]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_models_that_do_not_fit(bert, tmp_path, capsys):
    assert npgpt("classify", "--model", bert, "x", "--labels", "a,b") == 2
    assert "one of the labels ('x', 'y', 'z'): leave out --labels" in capsys.readouterr().err
    draw_bert(1, ()).save_pretrained(tmp_path / "number")
    save_tokenizer(ByteTokenizer(), tmp_path / "number")
    (tmp_path / "x.tsv").write_text("x\t1\n")
    args = ["--model", tmp_path / "number"]
    assert npgpt("eval", "classification", tmp_path / "x.tsv", *args) == 2
    assert "gives a number to a text" in capsys.readouterr().err
    number = float(draw_bert(1, ())(np.array([[ord("x")]]))[0].numpy()[0, 0])
    assert npgpt("classify", *args, "x") == 0
    assert capsys.readouterr().out == f"{number:.4f}\n"
    assert npgpt("classify", *args, "--json", "x", "") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"text": "x", "LABEL_0": pytest.approx(number, abs=1e-5)}
    assert second == {"text": "", "LABEL_0": None}
    Bert(BertConfig(vocab_size=256, n_embd=12, n_layer=1, n_head=3)).save_pretrained(tmp_path / "m")
    save_tokenizer(ByteTokenizer(), tmp_path / "m")
    for command in (["classify", "--labels", "a,b"], ["complete"]):
        assert npgpt(*command, "--model", tmp_path / "m", "x") == 2
        assert "does not continue a text" in capsys.readouterr().err


def test_the_example_continues_where_it_stopped(folder, tmp_path, monkeypatch, capsys):
    """A run makes what is missing, and draws pictures; the same draws give the same results."""
    data = tmp_path / "data"
    (data / "rt-polarity").mkdir(parents=True)
    (data / "trec").mkdir()
    for label in ("pos", "neg"):
        text = "".join(f"{label} {i}\n" for i in range(9))
        (data / "rt-polarity" / f"rt-polarity.{label}").write_text(text)
    kinds = ("ABBR:a", "DESC:b", "ENTY:c", "HUM:d", "LOC:e", "NUM:f") * 3
    text = "".join(f"{kind} \xe9 {i} ?\n" for i, kind in enumerate(kinds))
    (data / "trec/TREC.train").write_bytes(text.encode("latin-1"))
    draw_model(vocab_size=257, n_positions=600).save_pretrained(folder / "gpt")
    script = str(ROOT / "examples/few_shot.py")
    args = ["--data", str(data), "--model", str(folder / "gpt"), "--n", "6", "--draws", "2"]
    args += ["--k", "0", "2", "--results", str(tmp_path / "out/r.jsonl")]
    monkeypatch.setattr(sys, "argv", [script, *args, "--tasks", "trec", "--draws", "1"])
    runpy.run_path(script)
    first = (tmp_path / "out/r.jsonl").read_text()
    assert first.count("\n") == 2
    monkeypatch.setattr(sys, "argv", [script, *args])
    for _ in range(2):
        runpy.run_path(script)
        whole = (tmp_path / "out/r.jsonl").read_text()
        assert whole.startswith(first) and whole.count("\n") == 6
    for name in ("rt-polarity", "trec"):
        picture = (tmp_path / f"out/few_shot_{name}.svg").read_text()
        assert picture.count("<polyline") == 2
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4 + 6 + 6 and out[-1].startswith("| trec | 2 | 0.")
    monkeypatch.setattr(sys, "argv", [script, *args, "--n", "17"])
    with pytest.raises(SystemExit, match="k is 2, and there are 1 examples"):
        runpy.run_path(script)


def test_a_real_model(smollm2, folder, capsys):
    (folder / "capitals.tsv").write_text("France\tParis\nJapan\tTokyo\nItaly\tRome\n")
    form = r"Country: {input}\nCapital: {output}"
    args = ["--model", smollm2, "--shots", folder / "capitals.tsv"]
    assert npgpt("complete", *args, "--template", form, "Egypt", "Germany") == 0
    assert capsys.readouterr().out == "Cairo\nBerlin\n"
    args = ["--model", smollm2, "--labels", "positive,negative"]
    template = r"Review: {input}\nSentiment: {output}"
    texts = ["a moving, brilliant film", "a bore"]
    assert npgpt("classify", *args, "--template", template, *texts, "--calibrate") == 0
    assert capsys.readouterr().out == "positive\nnegative\n"


@pytest.mark.parametrize("command", [["classify", "--labels", "a,b"], ["complete"]])
def test_a_pipe_without_text(command, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr("npgpt.commands.embed.is_piped", lambda: True)
    assert npgpt(*command, "--model", folder / "gpt") == 2
    assert "there is no sentence: standard input is empty\n" in capsys.readouterr().err

"""Sentences to vectors: what modules.json says, the command, and the real model."""

import csv
import io
import json
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import npgpt
from hypothesis import given
from hypothesis import strategies as st

from npgpt import GPT, GPTConfig, UserError
from npgpt.models.bert import Bert, BertConfig
from npgpt.sentences import BATCH, SentenceEncoder, batches, nearest, similarities
from npgpt.tokenizers import ByteTokenizer, save_tokenizer

TEXTS = ["a cat", "dog", "", "a cat sat", "x" * 40, "a cat"]


def draw(kind=Bert, **options):
    config = (BertConfig if kind is Bert else GPTConfig)(
        vocab_size=256, n_positions=16, n_embd=12, n_layer=2, n_head=3
    )
    model = kind(config, dtype=np.float64).eval()
    random = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * random.standard_normal(parameter.shape)
    return SentenceEncoder(model, ByteTokenizer(), **options)


def write_modules(folder, steps, pooling=None, own=None):
    """Write the files of sentence-transformers beside a model."""
    encoder = draw()
    encoder.model.save_pretrained(folder)
    save_tokenizer(encoder.tokenizer, folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": step, "type": f"sentence_transformers.{kinds[step]}"}
        if isinstance(step, str)
        else step
        for i, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling or {}))
    if own is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(own))


@pytest.mark.parametrize("kind", [Bert, GPT])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "mean_sqrt_len"])
def test_the_poolings(kind, normalize, pooling):
    encoder = draw(kind, poolings=[pooling], normalize=normalize)
    vectors = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = ByteTokenizer().encode(text)[:16]
        if not len(ids):
            assert not vector.any()
            continue
        hidden = encoder.model.transformer(ids[None]).numpy()[0]
        expected = {
            "mean": hidden.mean(0),
            "max": hidden.max(0),
            "cls": hidden[0],
            "mean_sqrt_len": hidden.sum(0) / np.sqrt(len(ids)),
        }[pooling]
        if normalize:
            expected = expected / np.linalg.norm(expected)
        np.testing.assert_allclose(vector, expected, rtol=1e-9, atol=1e-12)


@given(st.lists(st.integers(0, 2 * BATCH) | st.integers(0, 20), max_size=300))
def test_every_text_is_in_one_batch(lengths):
    groups = list(batches(lengths))
    found = np.concatenate([np.zeros(0, int), *groups])
    assert sorted(found) == [n for n, length in enumerate(lengths) if length]
    for group in groups:
        sizes = [lengths[n] for n in group]
        assert len(group) == 1 or max(sizes) * len(group) <= BATCH
        assert len({*sizes}) == 1 or max(sizes) * len(group) <= BATCH // 2


def test_modules_are_obeyed(tmp_path):
    steps = ["", "1_Pooling", "2_Normalize"]
    mean = {"pooling_mode_mean_tokens": True}
    write_modules(tmp_path, steps, mean, dict(max_seq_length=4, do_lower_case=True))
    encoder = SentenceEncoder.load(tmp_path)
    assert (encoder.poolings, encoder.normalize) == (("mean",), True)
    a, b, c = encoder.encode(["abcdefg", "ABCD", "abce"])
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    write_modules(tmp_path, steps[:2], both, dict(max_seq_length=None))
    encoder = SentenceEncoder.load(tmp_path)
    assert (encoder.poolings, encoder.normalize) == (("cls", "mean"), False)
    assert encoder.encode(["a"]).shape == (1, 24) and encoder.max_length == 16
    write_modules(tmp_path, steps[:2], {"pooling_mode": "max"})
    assert SentenceEncoder.load(tmp_path).poolings == ("max",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(steps=["", "2_Normalize"]), "has the steps 'Transformer', 'Normalize'"),
        (dict(steps=["", "1_Pooling", {"type": "x.Dense", "path": "d"}]), "'Dense'; known here"),
        (dict(steps=["", {"type": "x.Pooling", "path": "../.."}]), "no folder beside it"),
        (dict(steps=[{"type": "x.Transformer", "path": "0"}, "1_Pooling"]), "its model in '0'"),
        (dict(steps=["", {"type": 3, "path": ""}]), "modules.json"),
        (dict(pooling={"pooling_mode_weightedmean_tokens": True}), "weightedmean_tokens"),
        (dict(pooling={"pooling_mode": "lasttoken"}), "no pooling 'lasttoken'"),
        (dict(own={"max_seq_length": 17}), "max_length is 17, and the model reads at most 16"),
        (dict(own={"max_seq_length": 0}), "sentence_bert_config.json"),
        (dict(own={"do_lower_case": "yes"}), "sentence_bert_config.json"),
    ],
)
def test_files_that_are_wrong(change, said, tmp_path):
    write_modules(tmp_path, **dict(steps=["", "1_Pooling"]) | change)
    with pytest.raises(UserError, match=said) as error:
        SentenceEncoder.load(tmp_path)
    assert "\n" not in str(error.value)


def test_nearest_and_similarities():
    vectors = np.array([[1.0, 0], [0, 2], [1, 1], [0, 0], [-3, 0]])
    cosines = similarities(vectors)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(cosines[0], [1, 0, half, 0, -1], atol=1e-12)
    numbers, found = nearest(np.array([2.0, 0]), vectors, 9)
    assert numbers.tolist() == [0, 2, 1, 3, 4]
    np.testing.assert_allclose(found, [1, half, 0, 0, -1], atol=1e-12)


@pytest.fixture
def folder(tmp_path):
    write_modules(tmp_path, ["", "1_Pooling", "2_Normalize"])
    return tmp_path


def lines_in(monkeypatch, text):
    """Let standard input be a file with a text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    monkeypatch.setattr("npgpt.commands.embed.is_piped", lambda: True)


def test_the_command(folder, monkeypatch, capsys):
    (folder / "lines.txt").write_text("one\n\ntwo\nthree\n")
    assert npgpt("embed", "--model", folder, "--json", "--file", folder / "lines.txt") == 0
    vectors = np.array([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    expected = SentenceEncoder.load(folder).encode(["one", "", "two", "three"])
    np.testing.assert_array_equal(vectors.astype(np.float32), expected)
    lines_in(monkeypatch, b"one\n\ntwo\r\nthree")
    assert npgpt("embed", "--model", folder, "--json") == 0
    again = np.array([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    np.testing.assert_array_equal(again, vectors)
    assert npgpt("embed", "--model", folder, "--nearest", "two", "--file", folder / "lines.txt",
                 "--top", 2) == 0  # fmt: skip
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[0].split() == ["1.000", "two"]
    assert npgpt("embed", "--model", folder, "one", "<b>two</b>", "--html", folder / "m.html") == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["1", "2"] and second.split()[0] == "1.00" and "<b>two</b>" in third
    page = (folder / "m.html").read_text()
    assert page.count("<rect") == 4 and "<b>" not in page


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["one"], "nothing that it could be compared with"),
        (["one", "--file", "x.txt"], "not both"),
        (["one", "two", "--json", "--nearest", "a"], "leave out --nearest"),
        (["one", "--nearest", "a", "--html", "x.html"], "leave out --nearest"),
        ([" ", "--nearest", "a"], "no sentence to compare with"),
        (["--file", "missing.txt"], "missing.txt"),
        ([*"abcdefghijklmnopqrstu"], "there are 21 sentences"),
    ],
)
def test_wrong_commands(args, said, folder, capsys):
    assert npgpt("embed", "--model", folder, *args) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_wrong_lines(folder, monkeypatch, capsys):
    for text, said in ((b"a\n\xff\n", "line 2 of standard input is not UTF-8"), (b"", "is empty")):
        lines_in(monkeypatch, text)
        assert npgpt("embed", "--model", folder, "--json") == 2
        assert said in capsys.readouterr().err


def test_wrong_texts():
    with pytest.raises(UserError, match="a list of texts"):
        draw().encode("text")
    with pytest.raises(UserError, match="max_length is 17"):
        draw(max_length=17)


# ---- the real model


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


def ranks(values):
    """Return the rank of each value; equal values have the mean of their ranks."""
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[groups]


@pytest.fixture
def pairs(shared):
    """Pairs of sentences, and how people judged their similarity, from 0 to 5."""
    path = shared / "tasks/stsb/stsb-en-dev.csv"
    with path.open(encoding="utf-8", newline="") as file:
        first, second, judged = zip(*csv.reader(file), strict=True)
    return first, second, np.array(judged, float)


def test_real_model_judges_as_people_do(minilm, pairs):
    first, second, judged = pairs
    vectors = SentenceEncoder.load(minilm).encode([*first, *second])
    cosines = np.sum(vectors[: len(first)] * vectors[len(first) :], axis=1)
    assert round(pearson(cosines, judged), 4) == 0.8696
    assert round(pearson(ranks(cosines), ranks(judged)), 4) == 0.8672


def test_real_model_has_the_vectors_of_transformers(minilm, pairs, oracle):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = [*pairs[0][::10], *pairs[1][::10], "Déjà vu", "今天天气很好", "😀 " * 300, "w " * 700]
    ours = SentenceEncoder.load(minilm).encode(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm)
    with torch.inference_mode():
        for text, vector in zip(texts, ours, strict=True):
            batch = tokenizer([text], truncation=True, max_length=256, return_tensors="pt")
            hidden = model.eval()(**batch).last_hidden_state
            expected = torch.nn.functional.normalize(hidden.mean(1))[0].numpy()
            assert np.abs(vector - expected).max() < 1e-5


def test_real_model_finds_what_is_meant(minilm, monkeypatch, capsys):
    sentences = ["The stock market fell.", "A dog runs across the grass.", "He cooks pasta."]
    assert npgpt("embed", "--model", minilm, *sentences, "--nearest", "A puppy plays outside.",
                 "--top", 1) == 0  # fmt: skip
    assert capsys.readouterr().out.endswith("A dog runs across the grass.\n")


def test_real_model_reads_in_both_directions(minilm, capsys):
    assert npgpt("info", minilm) == 0
    out = capsys.readouterr().out
    assert "22,713,216" in out and "both ways" in out
    assert npgpt("generate", "--model", minilm, "--prompt", "a") == 2
    assert "cannot continue" in capsys.readouterr().err


def test_the_nearest_need_little_memory():
    """The query is compared with each vector, and no vector with another."""
    vectors = np.random.default_rng(0).standard_normal((3000, 8))
    tracemalloc.start()
    numbers, cosines = nearest(vectors[7], vectors, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numbers[0] == 7 and cosines[0] == pytest.approx(1)
    assert peak < 10 * vectors.nbytes  # all with all: 375 times as much

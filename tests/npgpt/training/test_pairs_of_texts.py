"""Pairs of texts, numbers and similarity: what is read, what is learned, and the folders."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, demand_unnoticed_interruption, lines, npgpt, train_config
from test_classification import bert_folder
from test_trainable import base_of

from autograd import no_grad
from npgpt import UserError, load_model
from npgpt.evaluation.labels import label_logits, label_probabilities, label_row, segments
from npgpt.sentences import SentenceEncoder
from npgpt.tokenizers import load_tokenizer
from npgpt.training.follow import by_sequence
from npgpt.training.run import evaluate_run, start

WORDS = "a film the plot of it dull fun ok".split()


def pair_of(n):
    """Return two texts, and the last word of the second, which is the label."""
    random = np.random.default_rng(n)
    first, second = random.choice(WORDS[6:], 2)
    texts = [f"{random.choice(WORDS[:6])} {word}" for word in (first, second)]
    return *texts, second


@pytest.fixture
def pairs(tmp_path):
    rows = ["\t".join(pair_of(n)) for n in range(60)]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "pairs.tsv")


@pytest.fixture
def numbers(tmp_path):
    """Two texts are alike, 4.5, if they end with the same word."""
    texts = [pair_of(n)[:2] for n in range(60)]
    rows = [f"{a},{b},{4.5 if a.split()[1] == b.split()[1] else 0.5}" for a, b in texts]
    (tmp_path / "numbers.csv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "numbers.csv")


@pytest.fixture
def ratings(tmp_path):
    """The last word of the second text decides the number."""
    rating = {"dull": -2.25, "ok": 1.5, "fun": 1e6 / 3e5}
    rows = [f"{a},{b},{rating[word]}" for a, b, word in map(pair_of, range(60))]
    (tmp_path / "ratings.csv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "ratings.csv")


COLUMNS = dict(text_column="1", text_pair_column="2", label_column="3")


def config_of(data, folder, base, **changes):
    keys = dict(task="classification", batch_size=6, sample_tokens=0, dropout=0.1, n_layer=2)
    keys |= dict(n_embd=16, n_head=2, block_size=24, init_from=base, **COLUMNS)
    keys |= dict(tokenizer="byte" if "gpt" in base else "char")
    return train_config(data, folder, **keys | changes)


def test_a_bert_reads_a_pair_as_the_tokenizer_encodes_it(pairs, tmp_path):
    """[CLS] a [SEP] b [SEP], with the second text as the second segment; long pairs are cut."""
    for block_size in (24, 6):
        config = config_of(
            pairs, tmp_path / str(block_size), base_of("bert", tmp_path / "base"),
            block_size=block_size,
        )  # fmt: skip
        task = start(config).task
        texts = [pair_of(n)[:2] for n in range(60)]
        known = task.tokenizer.encode_batch(*zip(*texts, strict=True), max_length=block_size)
        for n, row in enumerate(task.rows):
            assert row.tolist() == known.input_ids[n][known.attention_mask[n] == 1].tolist()
        batch = task.batch(np.arange(60))
        found = segments(batch.inputs, task.tokenizer)
        np.testing.assert_array_equal(found, known.token_type_ids)
    assert task.n_cut == sum(len(row) == 6 for row in task.rows) - sum(
        len(f"{a} {b}".split()) == 3 for a, b in texts
    )


def test_a_gpt_reads_a_pair_with_a_delimiter(pairs, tmp_path):
    """From scratch, the delimiter is a token of its own; of another model, the end token."""
    run = start(config_of(pairs, tmp_path / "new", "scratch", tokenizer="byte"))
    special = run.tokenizer.special_tokens
    a, b, _ = pair_of(0)
    expected = [*a.encode(), special["<|delimiter|>"], *b.encode(), special["<|endoftext|>"]]
    assert run.task.rows[0].tolist() == expected[:11] + expected[-13:] or (
        run.task.rows[0].tolist() == expected
    )
    run = start(config_of(pairs, tmp_path / "run", base_of("gpt", tmp_path / "gpt")))
    row = label_row([np.array([1, 2, 3]), np.array([4])], run.tokenizer, 6)
    assert row.tolist() == [1, 2, 3, 256, 4]  # the padding is the end token: none at the end
    assert label_row([np.arange(9), np.arange(4)], run.tokenizer, 8).tolist() == [
        0, 1, 2, 3, 256, 0, 1, 2,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_a_pair_is_learned_and_classified(kind, pairs, tmp_path, capsys):
    base = base_of(kind, tmp_path / kind)
    args = ["--train", pairs, "--model", base, "--out_dir", tmp_path / "run", "--dropout", 0]
    args += [word for name, column in COLUMNS.items() for word in (f"--{name}", column)]
    args += ["--max_iters", 400, "--eval_interval", 200, "--learning_rate", "5e-3"]
    args += ["--batch_size", 10, "--block_size", 24, "--seed", 3, "--beta2", "0.99"]
    assert npgpt("finetune", "classification", *args) == 0
    out = capsys.readouterr().out
    assert "54 examples train, 6 validate; " in out and "npgpt classify --pairs" in out
    assert lines(tmp_path / "run")[-1]["val_loss"] < 0.4
    first, second, _ = zip(*map(pair_of, range(60)), strict=True)
    model, tokenizer = load_model(tmp_path / "run"), load_tokenizer(tmp_path / "run")
    found = label_probabilities(model, tokenizer, first, second)
    labels = [model.config.labels[i] for i in found.argmax(axis=1)]
    assert np.mean([label == pair_of(n)[2] for n, label in enumerate(labels)]) > 0.95
    asked = ["\t".join(pair_of(n)[:2]) for n in range(3)]
    assert npgpt("classify", "--pairs", "--model", tmp_path / "run", *asked) == 0
    assert capsys.readouterr().out.split() == labels[:3]
    assert npgpt("classify", "--pairs", "--model", tmp_path / "run", "one text") == 2
    assert "is no pair" in capsys.readouterr().err


@pytest.mark.parametrize("choice", [dict(), dict(train_layers=0), dict(lora_r=2)])
def test_a_run_on_pairs_goes_on_as_if_it_were_not_interrupted(choice, pairs, tmp_path):
    base = base_of("bert", tmp_path / "base")
    demand_unnoticed_interruption(lambda out: config_of(pairs, out, base, **choice), tmp_path)


# ---- the loss of the texts as language


def test_the_loss_of_the_texts_is_added(pairs, tmp_path):
    """With lm_loss, the gradient is that of the label's loss and of half the loss of the tokens."""
    base = base_of("gpt", tmp_path / "gpt")
    run = start(config_of(pairs, tmp_path / "run", base, lm_loss=0.5, dropout=0.0))
    plain = start(config_of(pairs, tmp_path / "plain", base, dropout=0.0))
    batch = run.task.batches(0)[0]
    logits, loss = run.task.objective(run.model)(*batch)
    _, label_loss = plain.model(*batch)
    # the same weights read the texts as language: each token is predicted from those before it
    states = plain.model.transformer(batch.inputs, batch.attention_mask)
    scores = states.numpy() @ plain.model.transformer.wte.weight.numpy().T
    scores = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    mask = np.ones(batch.inputs.shape) if batch.attention_mask is None else batch.attention_mask
    rows, columns = np.nonzero(mask[:, 1:])
    expected = -scores[rows, columns, batch.inputs[:, 1:][rows, columns]].mean()
    assert loss.item() == pytest.approx(label_loss.item() + 0.5 * expected, rel=1e-5)
    run.model.eval()
    assert run.task.objective(run.model)(*batch)[1].item() == pytest.approx(
        label_loss.item(), rel=1e-5
    )
    run.model.train()
    run.backward()
    name, index = "transformer.wte.weight", (97, 3)
    gradient = run.optimizer.parameters[name].grad.numpy()[index]
    assert sum(by_sequence(run, name, index)) == pytest.approx(gradient, rel=1e-3, abs=1e-8)


# ---- numbers


def test_numbers_come_back(ratings, tmp_path):
    run = start(config_of(ratings, tmp_path / "run", base_of("bert", tmp_path / "b"),
                          task="regression"))  # fmt: skip
    expected = [np.float32(line.split(",")[2]) for line in open(ratings)]
    assert run.task.targets.tolist() == expected
    batch = run.task.batches(0)[0]
    run.model.eval()
    losses = run.task.losses(run.model, batch).numpy()
    assert run.task.objective(run.model)(*batch)[1].item() == pytest.approx(losses.mean(), rel=1e-5)
    found = run.task.metrics(run.model, 0)
    assert {*found} == {"pearson", "spearman"} and -1 <= found["pearson"] <= 1
    folder = json.loads((run.folder / "config.json").read_text())
    assert folder["problem_type"] == "regression" and len(folder["id2label"]) == 1


def test_a_number_is_learned_and_printed(ratings, tmp_path, capsys):
    base = base_of("bert", tmp_path / "base")
    args = ["--train", ratings, "--model", base, "--out_dir", tmp_path / "run", "--dropout", 0]
    args += [word for name, column in COLUMNS.items() for word in (f"--{name}", column)]
    args += ["--max_iters", 300, "--eval_interval", 100, "--learning_rate", "5e-3"]
    assert npgpt("finetune", "regression", *args, "--batch_size", 10, "--block_size", 24) == 0
    assert [line["pearson"] for line in lines(tmp_path / "run") if "pearson" in line][-1] > 0.9
    capsys.readouterr()
    texts = pair_of(0)[:2]
    assert npgpt("classify", "--pairs", "--model", tmp_path / "run", "\t".join(texts)) == 0
    model, tokenizer = load_model(tmp_path / "run"), load_tokenizer(tmp_path / "run")
    expected = label_logits(model, tokenizer, texts[:1], texts[1:])[0, 0]
    assert float(capsys.readouterr().out) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_similarity_is_that_of_the_sentence_encoder(kind, numbers, tmp_path):
    """The cosine that is trained is the one that npgpt embed prints, with the run's folder."""
    run = start(config_of(numbers, tmp_path / "run", base_of(kind, tmp_path / kind),
                          task="similarity"))  # fmt: skip
    assert run.task.targets[run.task.splits[0]].min() == 0
    assert run.task.targets[run.task.splits[0]].max() == 1
    for _ in range(4):
        run.update()
    run.save_best()
    run.model.eval()
    batch = run.task.batch(np.arange(8))
    with no_grad():
        cosines, loss = run.task.objective(run.model)(*batch)
    if kind == "bert":
        encoder = SentenceEncoder.load(run.folder)
        texts = [pair_of(n)[:2] for n in range(8)]
        a, b = (encoder.encode(list(side)) for side in zip(*texts, strict=True))
        np.testing.assert_allclose(cosines.numpy()[:, 0], (a * b).sum(axis=1), atol=1e-5)
    expected = np.mean((cosines.numpy()[:, 0] - run.task.targets[:8]) ** 2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert evaluate_run(run.folder, {}).whole_val_loss > 0
    run.model.train()
    run.backward()
    name = next(name for name in run.optimizer.parameters if "attn" in name and "weight" in name)
    gradient = run.optimizer.parameters[name].grad.numpy()[0, 0]
    total = sum(by_sequence(run, name, (0, 0)))
    assert total == pytest.approx(gradient, rel=1e-3, abs=1e-7)


def test_similarity_is_learned(numbers, tmp_path, capsys):
    base = bert_folder(tmp_path / "base", n_layer=2)
    args = ["--train", numbers, "--model", base, "--out_dir", tmp_path / "run", "--dropout", 0]
    args += ["--max_iters", 200, "--eval_interval", 50, "--learning_rate", "3e-3"]
    args += ["--valid", numbers]
    assert npgpt("finetune", "similarity", *args, "--batch_size", 10, "--block_size", 24) == 0
    found = [line for line in lines(tmp_path / "run") if "pearson" in line]
    assert found[-1]["pearson"] > 0.99 and found[-1]["val_loss"] < 0.01 < found[0]["val_loss"]
    out = capsys.readouterr().out
    assert "numbers from 0.00 to 1.00" in out and "npgpt embed --model" in out
    assert load_model(tmp_path / "run").config.architecture == "BertModel"


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ("a,b,1\nc,d,high\n", {}, "line 2: the label is 'high'; a number is expected"),
        ("a,b,1\nc,d,nan\n", {}, "line 2: the label is 'nan'"),
        ("a,b,1\nc,d,1e39\n", {}, "line 2: the label is '1e39'"),
        ("a,b,1\nc,d,1\n", {}, "all examples have the number 1"),
        ("a,b,1\nc,d,1.0\n", {}, "all examples have the number 1"),
        ("a,b,1\nc,,2\n", {}, "line 2: column 2 is empty"),
        ("a,b,1\nc,d\n", {}, "line 2 has 2 columns"),
        ("a,1\nc,2\n", {}, "no column 3"),
        ("a,b,1\nc,d,2\n", dict(labels=("1", "2")), "leave out --labels"),
        ("a,b,1\nc,d,2\n", dict(train_layers=0), "has no head"),
        ("a,b,1\nc,d,2\n", dict(text_column="1"), "name all columns, or none"),
        ("a,b,1\nc,d,2\n", dict(lm_loss=0.5), "are of a classification"),
    ],
)
def test_wrong_numbers(tmp_path, rows, changes, message):
    (tmp_path / "x.csv").write_text(rows)
    config = config_of(
        str(tmp_path / "x.csv"), tmp_path / "run", bert_folder(tmp_path / "base", n_layer=2),
        **dict(task="similarity", text_column="", text_pair_column="", label_column="") | changes,
    )  # fmt: skip
    with pytest.raises(UserError, match=message) as error:
        start(config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_example_of_similarity(numbers, tmp_path):
    """The cosines that it shows are those of the run that it saves."""
    base = bert_folder(tmp_path / "base", n_layer=2)
    result = subprocess.run(
        [sys.executable, ROOT / "examples/similarity.py", "--train", numbers, "--valid", numbers,
         "--model", base, "--steps", "60", "--learning_rate", "3e-3", "--save", tmp_path / "run"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["after"] > found["before"]
    shown = result.stdout.partition("people  before   after\n")[2].splitlines()[:20]
    encoder = SentenceEncoder.load(tmp_path / "run")
    for line, below in zip(shown[::2], shown[1::2], strict=True):
        _, _, after, first = line.split(None, 3)
        a, b = encoder.encode([first, below.strip()])
        assert float(after) == pytest.approx(a @ b, abs=0.006)

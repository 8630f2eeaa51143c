"""Classifiers: how examples become batches, what is learned, and the runs."""

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import need
from helpers import (
    ROOT,
    demand_unnoticed_interruption,
    lines,
    npgpt,
    train_config,
)

from npgpt import GPTConfig, UserError, load_model
from npgpt.evaluation.labels import label_probabilities
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.llama import LlamaConfig
from npgpt.models.registry import architecture_of
from npgpt.tokenizers import ByteTokenizer, WordPieceTokenizer, load_tokenizer, save_tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.follow import by_sequence
from npgpt.training.replay import Replay
from npgpt.training.run import evaluate_run, start

SMALL = dict(task="classification", n_embd=16, n_head=2, block_size=24, batch_size=6)


def example(n):
    """Return a text and its label, which one word decides."""
    random = np.random.default_rng(n)
    words = random.choice("a film the plot of it".split(), random.integers(1, 4)).tolist()
    label = ("bad", "good", "so so")[n % 3]
    words.insert(random.integers(len(words) + 1), {"bad": "dull", "good": "fun"}.get(label, "ok"))
    return " ".join(words), label


@pytest.fixture
def table(tmp_path):
    rows = ["\t".join(example(n)) for n in range(90)]
    (tmp_path / "films.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "films.tsv")


def config_of(table, folder, **changes):
    return train_config(table, folder, **SMALL | dict(tokenizer="byte", sample_tokens=0) | changes)


def bert_folder(folder, kind="BertModel", n_layer=1):
    """Write a small BERT that was trained to do something else, and its tokenizer."""
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a film the plot of it dull fun ok".split()
    tokenizer = WordPieceTokenizer({word: i for i, word in enumerate(words)})
    size = dict(n_embd=16, n_layer=n_layer, n_head=2, initializer_range=0.1)
    config = BertConfig(len(words), 24, architecture=kind, **size)
    Bert(config, seed=3).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return str(folder)


# ---- the examples


def test_an_epoch_reads_every_example_once(table, tmp_path):
    task = start(
        config_of(table, tmp_path / "run", batch_size=9, gradient_accumulation_steps=1)
    ).task
    n = len(task.splits[0]) // 9
    for first in (0, n):  # two epochs, in different orders
        seen = [tuple(row[row != task.padding]) for i in range(first, first + n)
                for batch in task.batches(i) for row in batch.inputs]  # fmt: skip
        rows = [tuple(task.rows[i]) for i in task.splits[0]]
        assert sorted(seen) == sorted(rows)
    assert not np.array_equal(task.epoch(0), task.epoch(1))
    assert not set(task.splits[0]) & set(task.splits[1])


def test_texts_and_labels_come_back(table, tmp_path):
    task = start(config_of(table, tmp_path / "run")).task
    assert task.config.labels == ("bad", "good", "so so")
    for n in range(90):
        assert task.decode(task.rows[n]) == example(n)[0]
        assert task.config.labels[task.targets[n]] == example(n)[1]
    batch = task.batch(np.arange(4))
    assert task.texts(batch)[3] == " -> ".join(example(3))


def test_long_texts_are_cut_at_their_end(table, tmp_path):
    task = start(config_of(table, tmp_path / "run", block_size=4)).task
    for n in range(90):
        assert task.rows[n].tolist() == [*example(n)[0].encode()[:3], task.stop]
    run = start(
        config_of(table, tmp_path / "bert", init_from=bert_folder(tmp_path / "base"),
                  tokenizer="char", n_layer=1, block_size=4)
    )  # fmt: skip
    for row in run.task.rows:
        assert len(row) <= 4 and row[0] == 2 and row[-1] == 3  # [CLS] ... [SEP]


def test_padding_changes_nothing(table, tmp_path):
    """A text has the same label whatever it is read with."""
    run = start(config_of(table, tmp_path / "run"))
    for parameter in run.model.parameters():
        parameter.data[...] = np.random.default_rng(1).standard_normal(parameter.shape)
    texts = [example(n)[0] for n in range(12)]
    together = label_probabilities(run.model, run.tokenizer, texts)
    alone = [label_probabilities(run.model, run.tokenizer, [text])[0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    task = run.task
    run.model.eval()
    logits, _ = run.model(*task.batch(task.splits[0][:8])._replace(targets=None))
    single = [run.model(task.rows[n][None])[0].numpy()[0] for n in task.splits[0][:8]]
    np.testing.assert_allclose(logits.numpy(), single, rtol=1e-4, atol=1e-4)


# ---- runs


@pytest.mark.parametrize("base", ["scratch", "BertModel", "BertForMaskedLM"])
def test_what_decides_is_learned(table, tmp_path, base, capsys):
    """From scratch and from a BERT; the folder is a classifier for npgpt classify."""
    model = base if base == "scratch" else bert_folder(tmp_path / "base", base)
    size = [
        "--n_layer",
        1,
        "--n_embd",
        16,
        "--n_head",
        2,
        "--block_size",
        24,
        "--tokenizer",
        "byte",
    ]
    folder = tmp_path / "run"
    args = ["--train", table, "--out_dir", folder, "--epochs", 40, "--eval_interval", 180]
    rate = "1e-2" if base == "scratch" else "5e-3"  # after a norm of each sum, less
    args += ["--learning_rate", rate, "--batch_size", 9, "--model", model, "--dropout", 0]
    assert npgpt("finetune", "classification", *args, *(size if base == "scratch" else [])) == 0
    assert [line["accuracy"] for line in lines(folder) if "accuracy" in line][-1] == 1.0
    out = capsys.readouterr().out
    assert "npgpt classify --model" in out
    assert npgpt("classify", "--model", folder, "a fun film", "dull plot", "ok") == 0
    assert capsys.readouterr().out.split("\n")[:3] == ["good", "bad", "so so"]
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    found = label_probabilities(model, tokenizer, [example(n)[0] for n in range(30)])
    assert [model.config.labels[i] for i in found.argmax(axis=1)] == [
        example(n)[1] for n in range(30)
    ]


def test_a_run_that_is_interrupted_goes_on_as_if_it_were_not(table, tmp_path):
    demand_unnoticed_interruption(lambda out: config_of(table, out), tmp_path)


def test_a_step_is_replayed(table, tmp_path):
    run = start(config_of(table, tmp_path / "run", dropout=0.0))
    losses = [run.update()[0] for _ in range(3)]
    loss = run.backward()
    name, index = "transformer.h.0.attn.c_attn.weight", (1, 2)
    gradient = run.optimizer.parameters[name].grad.numpy()
    replay = Replay(run.folder, 0, 3)
    assert [replay.run.update()[0] for _ in range(3)] == losses
    assert replay.run.backward() == loss
    parts = by_sequence(replay.run, name, index)
    assert sum(parts) == pytest.approx(gradient[index], rel=1e-3, abs=1e-9)
    assert evaluate_run(run.folder, {}).whole_val_loss > 0


# ---- wrong input


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ("a\tbad\nb\tbad\n", {}, "all examples have the label 'bad'"),
        ("a\tbad\n\tgood\n", {}, "line 2: the text is empty"),
        ("a\tbad\nb\n", {}, "line 2 has 1 column"),
        ("a\tbad\nb\tgood\n", dict(labels=("bad", "fine")), "line 2: 'b' has the label 'good'"),
        ("a\tbad\nb\tgood\n", dict(text_pair_column="2"), "name all columns, or none"),
        ("a\tbad\nb\tgood\n", dict(label_column="2"), "name all columns, or none"),
        ("a\tbad\nb\tgood\n", dict(encoding="utf-99"), "there is no encoding 'utf-99'"),
        ("a\tbad\nb\tgood\n", dict(form="jsonl"), "line 1"),
        ("a\tbad\nb\tgood\n", dict(block_size=1), "no room|a larger one"),
        ("text\tlabel\na\tbad\nb\tgood\n", dict(text_column="txt", label_column="label"), "txt"),
        ("a\tbad\nb\tgood\n", dict(documents=True), "leave it out"),
        ("a\tbad\nb\tgood\n", dict(model_type="marian"), "model_type is marian"),
    ],
)
def test_wrong_examples(tmp_path, rows, changes, message):
    (tmp_path / "x.tsv").write_text(rows)
    with pytest.raises(UserError, match=message) as error:
        start(config_of(str(tmp_path / "x.tsv"), tmp_path / "run", **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_files_of_another_form_and_encoding(tmp_path):
    (tmp_path / "questions").write_bytes(b"DESC:manner How ?\nENTY:food What is pur\xe9e ?\n" * 9)
    keys = dict(form="trec", encoding="latin-1")
    task = start(config_of(str(tmp_path / "questions"), tmp_path / "run", **keys)).task
    assert task.config.labels == ("DESC", "ENTY")
    assert task.decode(task.rows[1]) == "What is purée ?"
    assert task.notes()[0] == "17 examples train, 1 validate; DESC 50.0 %, ENTY 50.0 %"
    assert task.notes()[1] == "tokens of an example: 12 (median) to 17; none is cut"
    with pytest.raises(UserError, match=r"line 2 is not utf-8; .*--encoding"):
        start(config_of(str(tmp_path / "questions"), tmp_path / "other", form="trec"))


def test_a_file_of_other_tokens_holds_no_examples(table, tmp_path):
    run = start(config_of(table, tmp_path / "run"))
    with pytest.raises(UserError, match="has the numbers of labels"):
        start(config_of(str(run.folder / "tokens.bin"), tmp_path / "other"))
    other = start(TrainConfig(data=(table,), out_dir=str(tmp_path / "text"), block_size=8))
    with pytest.raises(UserError, match="holds no examples|end token|tokenizer"):
        start(
            config_of(str(other.folder / "tokens.bin"), tmp_path / "third", labels=("a", "b"),
                      tokenizer="char")
        )  # fmt: skip


def test_the_command_says_what_lacks(table, tmp_path, capsys):
    assert npgpt("finetune", "classification") == 2
    assert "give a file, or a folder, with --train" in capsys.readouterr().err
    assert npgpt("finetune", "classification", "--train", table, "--data", table) == 2
    assert "--train stands for --data" in capsys.readouterr().err
    args = ["--train", table, "--epochs", 1, "--max_iters", 3]
    assert npgpt("finetune", "classification", *args) == 2
    assert "--epochs sets --max_iters" in capsys.readouterr().err
    assert npgpt("train", "--data", table, "--epochs", 3) == 2
    assert "epochs says something of examples" in capsys.readouterr().err
    assert npgpt("finetune", "poetry", "--train", table) == 2
    assert "poetry" in capsys.readouterr().err


def test_the_example(table, tmp_path):
    """Its last line is the result, and it keeps what npgpt classify opens."""
    found = subprocess.run(
        [sys.executable, ROOT / "examples/sentiment.py", "--data", table, "--epochs", "1",
         "--save", tmp_path / "kept"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert not found.returncode, found.stderr
    result = json.loads(found.stdout.splitlines()[-1])
    assert {"val_accuracy", "parameters", "seconds"} <= result.keys()
    assert load_model(tmp_path / "kept/run").config.labels == ("bad", "good", "so so")
    assert load_model(tmp_path / "kept/run").n_parameters() == result["parameters"]


def test_the_example_with_a_frozen_model(minilm, table, tmp_path):
    """A linear classifier learns from the model's vectors; the split is that of the training."""
    need(find_spec("sklearn") is not None, "scikit-learn")
    script = [sys.executable, ROOT / "examples/sentiment.py", "--data", table, "--frozen"]
    found = subprocess.run(
        [*script, "--model", minilm, "--labels", "45"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert not found.returncode, found.stderr
    result = json.loads(found.stdout.splitlines()[-1])
    assert result["val_accuracy"] == 1
    for options, message in (
        ([], "name it with --model"),
        (["--model", minilm, "--save", tmp_path / "kept"], "leave out --save"),
        (["--model", minilm, "--labels", "1"], "2 or more"),
    ):
        found = subprocess.run([*script, *options], capture_output=True, text=True, check=False)
        assert found.returncode == 2 and message in found.stderr
    assert not (tmp_path / "kept").exists()


# ---- what a model with labels is not for


@pytest.fixture(params=["gpt", "llama"])
def judge(request, tmp_path):
    """Write a model with labels, and its tokenizer."""
    size = dict(vocab_size=258, n_positions=24, n_embd=16, n_layer=1, n_head=2)
    kind = {"gpt": GPTConfig, "llama": LlamaConfig}[request.param]
    config = kind(**size, labels=("bad", "good"), pad_token_id=257)
    architecture_of(config).model(config).save_pretrained(tmp_path / "judge")
    save_tokenizer(ByteTokenizer(["<|endoftext|>", "<pad>"]), tmp_path / "judge")
    return tmp_path / "judge"


@pytest.mark.parametrize(
    "words",
    [
        "generate --prompt hi --max_new_tokens 3 --model",
        "generate --prompt hi --max_new_tokens 3 --int8 --model",
        "look surprise --text hello --model",
        "look lens --text hello --model",
        "step --text hello --model",
        "complete hi --shots {table} --model",
        "export {new}.gguf --gguf",
        "train --data {table} --block_size 8 --out_dir {new} --init_from",
    ],
)
def test_what_needs_the_next_token_refuses_a_model_with_labels(words, judge, table, capsys):
    words = [word.format(table=table, new=judge.parent / "new") for word in words.split()]
    at = 1 if words[0] == "export" else len(words)
    assert npgpt(*words[:at], judge, *words[at:]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ("judge" in error or "labels" in error), error
    assert not list(judge.parent.glob("new*"))


def test_a_model_with_labels_learns_others(judge, table, tmp_path):
    """With the same labels it keeps its head; with others it gets a new one."""
    head = load_model(judge).label_head.weight.numpy()
    run = start(config_of(table, tmp_path / "run", init_from=str(judge), n_layer=1, n_head=2))
    assert run.model.label_head.weight.shape == (3, 16)
    (tmp_path / "same.tsv").write_text("a\tbad\nb\tgood\nc\tbad\n")
    same = config_of(
        str(tmp_path / "same.tsv"), tmp_path / "again", init_from=str(judge), n_layer=1, n_head=2
    )
    np.testing.assert_array_equal(start(same).model.label_head.weight.numpy(), head)


@pytest.mark.parametrize("kind", [GPTConfig, LlamaConfig])
def test_a_loss_that_is_not_computed_is_refused(kind):
    fields = kind(labels=("bad", "good")).to_dict()
    with pytest.raises(UserError, match="problem_type is 'multi_label_classification'"):
        kind.from_dict(fields | {"problem_type": "multi_label_classification"})
    assert kind.from_dict(fields | {"problem_type": "single_label_classification"})


def test_the_class_that_opens_an_exported_model_is_named(judge, tmp_path, capsys):
    assert npgpt("export", judge, tmp_path / "out") == 0
    assert "ForSequenceClassification" in capsys.readouterr().out
    assert npgpt("info", judge) == 0
    assert "2 labels" in capsys.readouterr().out

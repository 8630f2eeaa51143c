"""Instructions: how conversations are read and written as tokens, what counts, and the runs."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import (
    ROOT,
    demand_unnoticed_interruption,
    draw_model,
    npgpt,
    train_config,
)

from npgpt import UserError, load_model
from npgpt.generation.chat import Chat
from npgpt.tokenizers import ByteTokenizer, load_tokenizer, save_tokenizer
from npgpt.tokenizers.templates import TEMPLATES
from npgpt.training.conversations import read_conversations
from npgpt.training.data import END, IGNORED
from npgpt.training.instructions import pack
from npgpt.training.run import evaluate_run, start
from npgpt.training.task import accumulate_gradients

SMALL = dict(task="instructions", n_embd=16, n_head=2, block_size=64, batch_size=6)


def conversation(n):
    """Return a question and its answer, of various lengths."""
    random = np.random.default_rng(n)
    words = random.choice("red blue green".split(), random.integers(1, 5)).tolist()
    return " ".join(words), " ".join(words[::-1])


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


@pytest.fixture
def file(tmp_path):
    pairs = [conversation(n) for n in range(40)]
    rows = [{"prompt": asked, "response": answer} for asked, answer in pairs]
    return write(tmp_path / "rows.jsonl", rows)


def config_of(file, folder, **changes):
    return train_config(file, folder, **SMALL | dict(tokenizer="byte", sample_tokens=0) | changes)


def learned(task, n):
    """Return the text of what the loss asks for in an example."""
    inputs, targets, *_ = task.batch(np.array([n]))
    return task.tokenizer.decode(targets[targets != IGNORED])


# ---- what is in a file

ASKED = {"role": "user", "content": "Hi!"}
SAID = {"role": "assistant", "content": "Hello."}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, SAID]},
        {"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]},
        {"instruction": "Hi!", "input": "", "output": "Hello."},
        {"instruction": "Hi!", "output": " Hello.\n"},
        {"prompt": "Hi!", "completion": "Hello.", "id": 3},
        {"question": "Hi!", "answer": "Hello."},
    ],
)
def test_forms_that_say_the_same_are_read_as_the_same(row, tmp_path):
    for form in ("jsonl", "json"):
        path = tmp_path / f"rows.{form}"
        path.write_text(json.dumps(row) if form == "jsonl" else json.dumps([row], indent=1))
        assert read_conversations(path)[0].messages == [ASKED, SAID]


def test_tables_are_read_by_the_names_of_their_columns(tmp_path):
    (tmp_path / "a.csv").write_text('response,prompt\n"Hello.","Hi!"\n')
    (tmp_path / "b.tsv").write_text("x\ty\nHi!\tHello.\n")
    for found in (
        read_conversations(tmp_path / "a.csv"),
        read_conversations(tmp_path / "b.tsv", "x", "y"),
    ):
        assert found[0].messages == [ASKED, SAID] and "line 2" in found[0].where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"prompt": "a", "response": "b"},\n\n {"prompt": "a"}]', "line 4 has the fields"),
        (
            '[{"prompt": "a", "response": "b"},\n {"prompt": "a", "response": " "}]',
            "line 2: the re",
        ),
        ("[1]", "line 1 is 1; it must be an object"),
        ('{"prompt": "a"}', "it must be a list of objects"),
        ("[]", "has no example"),
        ("[{]", "is damaged, or no JSON"),
        ('[{"messages": "x"}]', "line 1: the messages are 'x'"),
        ('[{"messages": []}]', "expected a list of objects"),
        ('[{"messages": [{"role": "bot", "content": "x"}]}]', "with a role"),
        ('[{"messages": [{"role": "user", "content": "x"}]}]', "the last one must"),
        ('[{"messages": [{"role": "assistant", "content": "x"}]}]', "must not be an answer"),
        *(
            (json.dumps([{"messages": [{"role": r, "content": "x"} for r in roles]}]), "take turns")
            for roles in (
                ("system", "assistant"),
                ("system", "system", "user", "assistant"),
                ("user", "user", "assistant"),
                ("user", "assistant", "assistant"),
                ("user", "assistant", "system", "user", "assistant"),
            )
        ),
        ('[{"conversations": [{"from": ["x"], "value": "y"}]}]', "with a role"),
        ('[{"conversations": [3]}]', "a message is 3"),
        ('[{"instruction": 3, "output": "x"}]', "the instruction is 3; it must be a text"),
        ('[{"instruction": "x", "input": 3, "output": "x"}]', "the input is 3"),
    ],
)
def test_a_wrong_row_is_named(text, message, tmp_path):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        read_conversations(tmp_path / "rows.json")


def test_a_column_that_is_missing_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"asked": "x", "said": "y"}])
    assert read_conversations(path, "asked", "said")[0].messages[1]["content"] == "y"
    with pytest.raises(UserError, match="line 1 has no field 'sayd'"):
        read_conversations(path, "asked", "sayd")
    with pytest.raises(UserError, match="--text_column PROMPTS --label_column RESPONSES"):
        read_conversations(path)


# ---- what is learned

TURNS = [
    {"role": "system", "content": "Be brief."}, ASKED, SAID,
    {"role": "user", "content": "And <|im_end|>?"}, {"role": "assistant", "content": "No more."},
]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("chatml", "Hello.<|im_end|>No more.<|im_end|>"),
        ("plain", f" Hello.\n No more.{END}"),
        ("alpaca", f"Hello.\n\nNo more.{END}"),
    ],
)
def test_the_loss_asks_for_the_answers_alone(template, expected, tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"messages": TURNS}] * 3)
    base = tmp_path / "base"
    tokenizer = ByteTokenizer([END, "<|im_start|>", "<|im_end|>"])
    draw_model(vocab_size=tokenizer.n_vocab, n_positions=300).save_pretrained(base)
    save_tokenizer(tokenizer, base)
    keys = dict(n_embd=20, block_size=300, init_from=str(base), template=template, bias=True)
    task = start(config_of(file, tmp_path / "run", **keys)).task
    assert learned(task, 0) == expected
    whole = task.tokenizer.apply_chat_template(TURNS, tokenize=False)
    read = task.tokenizer.decode(task.rows[0].ids)
    assert read.removesuffix(END) == whole.rstrip()
    # a message that spells the token of an end is no end
    token = tokenizer.special_tokens["<|im_end|>"]
    n_ends = len(TURNS) if template == "chatml" else 0
    assert np.count_nonzero(task.rows[0].ids == token) == n_ends
    prompt = task.tokenizer.apply_chat_template(
        TURNS[:-1], add_generation_prompt=True, sanitize_control_tokens=True
    )
    assert task.rows[0].prompt.tolist() == prompt.tolist()


def test_the_loss_is_the_mean_over_the_tokens_of_answers(file, tmp_path):
    run = start(config_of(file, tmp_path / "run", dropout=0.0))
    run.model.eval()
    task, numbers = run.task, run.task.splits[0][:5]
    total, count = 0.0, 0
    for n in numbers:
        ids, is_answer = task.rows[n]
        logits = run.model(ids[None, :-1])[0].numpy()[0].astype(float)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for place in np.flatnonzero(is_answer):
            total, count = total - log_p[place - 1, ids[place]], count + 1
    for packs in (False, True):
        task.config.pack = packs
        np.testing.assert_allclose(run.model(*task.batch(numbers))[1].item(), total / count, 1e-6)


@pytest.mark.parametrize("kind", [{}, {"model_type": "llama"}])
def test_packing_changes_neither_the_loss_nor_the_gradient(kind, file, tmp_path):
    task = start(config_of(file, tmp_path / "run")).task
    model = draw_model(np.float64, vocab_size=task.tokenizer.n_vocab, n_positions=64, **kind)
    numbers = np.arange(12)
    found = []
    for packs in (False, True):
        task.config.pack = packs
        batch = task.batch(numbers)
        loss = accumulate_gradients(model, [batch])
        found.append((loss, {n: p.grad.numpy().copy() for n, p in model.named_parameters()}))
        for parameter in model.parameters():
            parameter.grad = None
    assert len(batch.inputs) < 12  # it is packed
    (a, gradients), (b, packed) = found
    assert abs(a - b) <= 1e-10 * abs(a)
    for name, gradient in gradients.items():
        scale = np.abs(gradient).max()
        assert np.abs(gradient - packed[name]).max() <= 1e-10 * scale, name


def test_packing_fills_rows_and_loses_nothing():
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    bins = pack(lengths)
    assert sorted(n for members in bins for n in members) == list(range(200))
    sums = [lengths[members].sum() for members in bins]
    assert max(sums) <= lengths.max()
    assert len(bins) <= 1.05 * lengths.sum() / lengths.max() + 1


def test_long_examples_lose_their_end_and_those_without_an_answer_are_left_out(file, tmp_path):
    whole = start(config_of(file, tmp_path / "whole")).task
    size = 24
    task = start(config_of(file, tmp_path / "run", block_size=size)).task
    kept = [row for row in whole.rows if row.is_answer[: size + 1].any()]
    assert 0 < len(task.rows) == len(kept) < 40
    for row, long in zip(task.rows, kept, strict=True):
        assert row.ids.tolist() == long.ids[: size + 1].tolist()
    n_cut = sum(len(row.ids) > size + 1 for row in kept)
    assert n_cut and task.notes()[1].startswith(f"note: {n_cut} examples are longer than 24 tokens")
    assert f"{40 - len(kept)} more are left out" in task.notes()[1]
    with pytest.raises(UserError, match="no example has an answer within the first 4 tokens"):
        start(config_of(file, tmp_path / "none", block_size=4))


def test_a_template_that_writes_no_turns_is_refused(file, tmp_path):
    (tmp_path / "odd.jinja").write_text("{{ messages | length }}{{ messages[0].content }}")
    with pytest.raises(UserError, match="line 1: the chat template does not write the messages"):
        start(config_of(file, tmp_path / "run", template=str(tmp_path / "odd.jinja")))
    with pytest.raises(UserError, match="unknown chat template 'plan'"):
        start(config_of(file, tmp_path / "run", template="plan"))
    with pytest.raises(UserError, match="template says something of examples"):
        start(config_of(file, tmp_path / "run", task="language_modelling", template="plain"))
    assert not (tmp_path / "run").exists()


# ---- runs


@pytest.mark.parametrize("packs", [False, True])
def test_a_run_that_is_interrupted_goes_on_as_if_it_were_not(packs, file, tmp_path):
    demand_unnoticed_interruption(lambda out: config_of(file, out, pack=packs), tmp_path)
    assert evaluate_run(tmp_path / "broken", {}).whole_val_loss > 0


def test_a_model_learns_to_answer_and_talks(tmp_path, capsys, monkeypatch):
    """What is learned is used by npgpt chat, with the template of the training."""
    answers = {"Who are you?": "A pen.", "What do you do?": "I write."}
    rows = [{"instruction": asked, "output": said} for asked, said in answers.items()] * 10
    file = write(tmp_path / "rows.jsonl", rows)
    args = ["--train", file, "--out_dir", tmp_path / "run", "--template", "plain", "--pack", "true"]
    size = ["--n_layer", 1, "--n_embd", 32, "--n_head", 2, "--dropout", 0, "--tokenizer", "byte"]
    rate = ["--max_iters", 60, "--learning_rate", 1e-2, "--eval_interval", 60, "--log_interval", 60]
    assert npgpt("finetune", "instructions", *args, *size, *rate) == 0
    out = capsys.readouterr().out
    assert "18 examples train and 2 validate" in out and "npgpt chat --model" in out
    assert "model     A pen." in out or "model     I write." in out
    monkeypatch.setattr("sys.stdin", io.StringIO("Who are you?\n"))
    assert npgpt("chat", "--model", tmp_path / "run", "--temperature", 0) == 0
    assert "A pen.\n" in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path / "run")
    assert tokenizer.chat_template == TEMPLATES["plain"]
    chat = Chat(load_model(tmp_path / "run"), tokenizer, do_sample=False)
    assert chat.say("What do you do?").strip() == "I write."
    prompt = "User: Who are you?\nAssistant:"
    assert (
        npgpt("generate", "--model", tmp_path / "run", "--prompt", prompt, "--temperature", 0) == 0
    )
    assert "Assistant: A pen." in capsys.readouterr().out


def test_clumsy_commands(file, tmp_path, capsys):
    out = ["--out_dir", tmp_path / "run"]
    for args, message in [
        (["--labels", "a", "b"], "labels says something of examples"),
        (["--documents", "true"], "leave it out to train on examples"),
        (["--model_type", "bert"], "--task instructions trains gpt, llama, mistral, qwen2"),
        (["--template", tmp_path], "directory"),
    ]:
        assert npgpt("finetune", "instructions", "--train", file, *args, *out) == 2
        assert message in capsys.readouterr().err
    assert npgpt("finetune", "instructions", "--train", tmp_path / "x.bin", *out) == 2
    assert "expected one file of conversations" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_example(tmp_path):
    tokenizer = ByteTokenizer([END])
    draw_model(vocab_size=tokenizer.n_vocab, n_positions=300).save_pretrained(tmp_path / "base")
    save_tokenizer(tokenizer, tmp_path / "base")
    pairs = [conversation(n) for n in range(40)]
    rows = [{"instruction": asked, "output": answer} for asked, answer in pairs]
    file = write(tmp_path / "rows.jsonl", rows)
    result = subprocess.run(
        [sys.executable, ROOT / "examples/instructions.py", "--data", file, "--model",
         str(tmp_path / "base"), "--steps", "12", "--answers", "3", "--save", tmp_path / "run"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["loss_after"] < found["loss_before"]
    assert result.stdout.count("\nbefore    ") == 3

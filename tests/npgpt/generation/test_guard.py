"""npgpt chat --guard: what a classifier refuses is neither answered nor printed nor kept."""

import io
import json
import sys

import numpy as np
import pytest
from helpers import draw_model, npgpt

from npgpt import Chat, GPTConfig, UserError
from npgpt.commands.chat import Terminal
from npgpt.evaluation.guard import Guard
from npgpt.evaluation.labels import label_probabilities
from npgpt.models.gpt import GPT
from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.tokenizers.templates import TEMPLATES


def draw_judge():
    """Return a model with two labels."""
    config = GPTConfig(
        vocab_size=257, n_positions=32, n_embd=8, n_layer=1, n_head=2, labels=("ham", "spam")
    )
    model = GPT(config).eval()
    random = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * random.standard_normal(parameter.shape)
    return model


class Words(Guard):
    """A guard that refuses texts with some words."""

    def __init__(self, *words):
        super().__init__(draw_judge(), TOKENIZER, "spam")
        self.words, self.seen = words, []

    def check(self, text):
        self.seen.append(text)
        return ("spam", 0.9) if any(word in text for word in self.words) else None


TOKENIZER = ByteTokenizer(["<|endoftext|>"])


@pytest.fixture
def chat():
    tokenizer = ByteTokenizer(["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = TEMPLATES["chatml"]
    model = draw_model(vocab_size=258, n_positions=400, n_layer=1)
    return Chat(model, tokenizer, max_new_tokens=5, temperature=0)


def test_the_probability_is_that_of_the_label():
    guard = Guard(draw_judge(), TOKENIZER, "spam", threshold=0.0)
    for text in ("one", "another text", "x" * 100):
        expected = label_probabilities(guard.model, TOKENIZER, [text])[0, 1]
        assert guard.check(text) == ("spam", pytest.approx(expected))
        assert Guard(guard.model, TOKENIZER, "spam", expected).check(text) is None
    assert guard.check(" \n") is None


def test_messages_and_answers(chat, capsys):
    """The message is not asked, the answer not shown; what is allowed is as without a guard."""
    free = Terminal(chat)
    free.run("hello")
    said, _ = capsys.readouterr()
    chat.reset()
    guard = Words("win")
    Terminal(chat, guard=guard).run("you win")
    assert capsys.readouterr().out == "(refused: the message is spam, with probability 0.90)\n"
    assert not chat.turns and guard.seen == ["you win"]
    Terminal(chat, guard=guard).run("hello")
    assert capsys.readouterr().out == said
    assert guard.seen[1:] == ["hello", chat.turns[0][1]]
    chat.reset()
    Terminal(chat, as_json=True, guard=Words(guard.seen[-1])).run("hello")
    assert not chat.turns
    values = json.loads(capsys.readouterr().out)
    assert values == dict(message="hello", refused="answer", label="spam", probability=0.9)


def test_a_part_of_an_answer_is_not_kept(chat, monkeypatch):
    """Ctrl-C comes in the middle of an answer that the guard has not read."""
    stream = chat.stream

    def interrupted(text):
        pieces = stream(text)
        yield next(pieces)
        try:
            raise KeyboardInterrupt
        finally:
            pieces.close()

    monkeypatch.setattr(chat, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Terminal(chat, guard=Words("win")).run("hello")
    assert not chat.turns


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_an_answer_that_the_guard_could_not_read_is_not_kept(chat, error):
    class Failing(Words):
        def check(self, text):
            if text != "hello":
                raise error("while the guard reads the answer")

    with pytest.raises(error):
        Terminal(chat, guard=Failing("win")).run("hello")
    assert not chat.turns


def test_the_command(chat, tmp_path, monkeypatch, capsys):
    """Each line from a pipe, with files: one guard refuses all, and another nothing."""
    chat.model.save_pretrained(tmp_path / "chat")
    save_tokenizer(chat.tokenizer, tmp_path / "chat")
    draw_judge().save_pretrained(tmp_path / "judge")
    save_tokenizer(TOKENIZER, tmp_path / "judge")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npgpt.commands.chat.is_piped", lambda: True)
    args = ["chat", "--model", "chat", "--max_new_tokens", 3, "--json", "--guard", "judge"]
    for threshold, key in ((0, "refused"), (1, "text")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
        assert npgpt(*args, "--guard_label", "spam", "--guard_threshold", threshold) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [key in line for line in found] == [True, True]
    for label, says in (("", "no label is refused yet; known are ham, spam"), ("spma", "'spam'")):
        assert npgpt(*args, "--guard_label", label) == 2
        assert says in capsys.readouterr().err
    assert npgpt(*args[:-2], "--guard_label", "spam") == 2
    assert "name the guard with --guard" in capsys.readouterr().err


def test_a_guard_that_cannot_judge_lets_no_text_pass():
    with pytest.raises(UserError, match="the threshold is nan"):
        Guard(draw_judge(), TOKENIZER, "spam", np.nan)
    guard = Guard(draw_judge(), TOKENIZER, "spam")
    for parameter in guard.model.parameters():
        parameter.data = np.full_like(parameter.numpy(), np.nan)
    with pytest.raises(UserError, match="its weights are damaged"):
        guard.check("You have won!")


def test_a_model_without_labels_is_no_guard():
    with pytest.raises(UserError, match="needs a model that names labels"):
        Guard(draw_model(vocab_size=257), TOKENIZER, "spam")

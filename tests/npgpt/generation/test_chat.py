"""Conversations: `npgpt.Chat`, and the command."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import draw_model, npgpt
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Chat, generate, load_model, load_tokenizer
from npgpt.commands.chat import Terminal
from npgpt.errors import UserError
from npgpt.generation.chat import Cutter
from npgpt.models.cache import KVCache
from npgpt.tokenizers import ByteTokenizer, CharTokenizer, save_tokenizer
from npgpt.tokenizers.templates import TEMPLATES

TOKENS = ["<|im_start|>", "<|im_end|>"]
WORDS = st.text(st.sampled_from("ab <|é"), min_size=1, max_size=12).filter(str.strip)


@pytest.fixture(scope="module")
def model():
    return draw_model(np.float64, vocab_size=258, n_positions=400, n_layer=1)


def tokenizer_of(template="chatml"):
    tokenizer = ByteTokenizer(TOKENS)
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def talk(model, **options):
    return Chat(model, tokenizer_of(), **{"max_new_tokens": 5, "seed": 1} | options)


def expected(chat, text, **options):
    """The answer's tokens by one call of `generate`, on the text that the template writes."""
    messages = [*chat.messages, {"role": "user", "content": text}]
    ids = chat.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, sanitize_control_tokens=True
    )
    found = generate(chat.model, ids, max_new_tokens=5, eos_token_id=257, **options)
    return found[0, len(ids) :].tolist()


@given(texts=st.lists(WORDS, min_size=1, max_size=3), system=st.none() | WORDS)
def test_a_conversation_is_what_generate_makes_of_its_text(model, texts, system):
    for sampled in (False, True):
        how = dict(do_sample=sampled, temperature=0.8, top_p=1.0) if sampled else {}
        chat = talk(model, system=system, **{"temperature": 0, **how})
        for turn, text in enumerate(texts):
            options = how | ({"seed": 1 + turn} if sampled else {})
            ids = expected(chat, text, **options)
            pieces = list(chat.stream(text))
            assert chat.last.ids == ids
            assert (
                "".join(pieces)
                == chat.turns[-1][1]
                == chat.tokenizer.decode(ids, skip_special_tokens=True)
            )
        assert len(chat.turns) == len(texts)


@given(texts=st.lists(WORDS, min_size=1, max_size=4), data=st.data())
def test_the_cache_changes_no_token(model, texts, data):
    """Whatever happens between the answers."""
    cached, plain = talk(model), talk(model, use_cache=False)
    for text in texts:
        assert cached.say(text) == plain.say(text) and cached.last == plain.last
        step = data.draw(st.sampled_from(["nothing", "undo", "reset", "system"]))
        for chat in (cached, plain):
            if step == "undo":
                chat.undo()
            elif step == "reset":
                chat.reset()
            elif step == "system":
                chat.system = "Be " + text


def test_only_new_tokens_are_read(model):
    chat = talk(model, temperature=0)
    chat.say("a" * 100)
    n_read = len(chat._read)
    read = []
    forward = model.transformer.forward

    def count(ids, *args, **kwargs):
        read.append(np.shape(ids)[1])
        return forward(ids, *args, **kwargs)

    model.transformer.forward = count
    try:
        chat.say("b")
    finally:
        model.transformer.forward = forward
    assert n_read > 100 and read and read[0] < 60


@given(texts=st.lists(WORDS, max_size=3), more=WORDS)
def test_undo_restores(model, texts, more):
    chat = talk(model)
    for text in texts:
        chat.say(text)
    before, answer = chat.messages, chat.say(more)
    assert chat.undo() == more and chat.messages == before
    assert chat.say(more) == answer
    chat.reset()
    assert chat.messages == []
    with pytest.raises(UserError, match="no turn to undo"):
        chat.undo()


@given(texts=st.lists(WORDS, max_size=3), system=st.none() | WORDS)
def test_saved_and_loaded(model, tmp_path_factory, texts, system):
    path = tmp_path_factory.mktemp("chat") / "chat.json"
    chat, other = talk(model, system=system), talk(model)
    for text in texts:
        chat.say(text)
    chat.save(path)
    other.say("of another conversation")
    other.load(path)
    assert other.messages == chat.messages == json.loads(path.read_text())
    assert other.say("next") == chat.say("next")


USER, ASSISTANT = '{"role": "user", "content": "a"}', '{"role": "assistant", "content": "b"}'


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[1]", f"[{USER}]", f"[{ASSISTANT}, {USER}]", f"[{USER}, {USER}]", "[" * 9999,
        '[{"role": "tool", "content": "a"}]', '[{"role": "user"}]', f"[{USER}, {ASSISTANT}",
        '[{"role": "user", "content": 5}]', '[{"role": "user", "content": "\\ud800"}]',
        f'[{USER}, {ASSISTANT}, {{"role": "system", "content": "a"}}]',
    ],
)  # fmt: skip
def test_a_hostile_history_ends_in_one_line(model, tmp_path, text):
    (tmp_path / "chat.json").write_text(text)
    chat = talk(model)
    chat.say("before")
    before = chat.messages
    with pytest.raises(UserError) as caught:
        chat.load(tmp_path / "chat.json")
    assert str(caught.value).isprintable() and "chat.json" in str(caught.value)
    assert chat.messages == before


def test_the_oldest_turns_are_left_out_when_the_context_is_full(capsys):
    model = draw_model(np.float64, vocab_size=258, n_positions=300, n_layer=1)
    chat = talk(model, system="Be brief.", temperature=0)
    left_out = []
    for turn in range(25):
        chat.say(f"question {turn}")
        left_out.append(chat.n_forgotten)
        seen = chat._messages(chat.n_forgotten)[:-1]
        ids = chat.tokenizer.apply_chat_template(seen, add_generation_prompt=True)
        assert len(ids) + 5 <= 300  # the room of an answer
        assert chat._read[: len(ids)].tolist() == ids.tolist()
    assert left_out == sorted(left_out) and left_out[0] == 0 and left_out[-1] > 15
    assert len(set(left_out)) <= 13  # they are left out several at a time
    assert len(chat.turns) == 25
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == len(set(left_out)) - 1 and "longer than the model's context" in notes[0]
    with pytest.raises(UserError, match="the model's context has room for 299"):
        chat.say("x" * 300)
    assert len(chat.turns) == 25


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(model):
    chat = talk(model)
    stream = chat.stream("a")
    pieces = list(itertools.islice(stream, 2))
    stream.close()
    assert chat.turns == [("a", "".join(pieces))] and chat.last.finish_reason == "interrupted"
    chat.stream("b").close()  # which has not begun
    assert len(chat.turns) == 1
    fresh = talk(model, use_cache=False)
    fresh.turns = [*chat.turns]
    assert chat.say("c") == fresh.say("c")

    def interrupt(ids, scores):
        raise KeyboardInterrupt

    chat.options.logits_processor = interrupt
    with pytest.raises(KeyboardInterrupt):
        chat.say("d")
    assert len(chat.turns) == 2


def test_two_streams_at_once(model):
    chat, other = talk(model), talk(model)
    both = zip(chat.stream("a"), chat.stream("a"), strict=True)
    assert [pair for pair in both] and other.say("a") == chat.turns[0][1] == chat.turns[1][1]


def test_an_answer_ends_where_the_template_says(model):
    """With a special token, or with the text that begins the next question."""

    def saying(text, ids):
        def process(input_ids, scores):
            said = np.full(scores.shape, -np.inf)
            n = input_ids.shape[1] - len(ids)
            said[:, [*text.encode(), 257][min(n, len(text))]] = 0
            return said

        return process

    for template, text, ends in (
        ("chatml", "hello", "eos"),
        ("plain", " hi\nUser: b", "stop_string"),
    ):
        chat = Chat(model, tokenizer_of(template), max_new_tokens=20)
        chat.options.logits_processor = (saying(text, chat._prompt("a")[0]),)
        assert list(chat.stream("a")) == list(text.split("\nUser:")[0])
        assert chat.last.finish_reason == ends


@given(st.text("ab#", max_size=12), st.lists(st.text("ab#", min_size=1, max_size=3)), st.data())
def test_a_text_is_cut_at_its_first_stop_string(text, stops, data):
    cutter, shown, rest = Cutter(stops), "", text
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        shown, rest = shown + cutter.put(rest[:n]), rest[n:]
        whole = text[: len(text) - len(rest)]
        found = [place for stop in stops if (place := whole.find(stop)) >= 0]
        assert cutter.done == bool(found)
        assert text.startswith(shown)
    if not cutter.done:
        assert shown + cutter.end() == text
    elif len(set(map(len, stops))) == 1:
        assert shown == text[: min(place for stop in stops if (place := text.find(stop)) >= 0)]


def test_nothing_is_shown_after_a_stop_string():
    cutter = Cutter(["a"])
    assert [cutter.put(piece) for piece in ("xa", "#a", "b")] == ["x", "", ""]


def test_wrong_options(model):
    with pytest.raises(UserError, match="no chat template"):
        Chat(model, ByteTokenizer())
    with pytest.raises(UserError, match="a chat has no option 'num_beams'"):
        talk(model, num_beams=2)
    with pytest.raises(UserError, match="generate has no option 'temprature'"):
        talk(model, temprature=2)
    for text in ("", " \n", None):
        with pytest.raises(UserError, match="must be a text that is not empty"):
            talk(model).say(text)
    chars = CharTokenizer.from_text("abc")
    with pytest.raises(UserError, match="does not know 'U'|does not know"):
        Chat(model, chars, chat_template=TEMPLATES["plain"]).say("abc")


def test_the_models_own_options_of_other_searches_do_not_count(model):
    own = draw_model(np.float64, vocab_size=258, n_positions=400)
    own.generation_config = {"num_beams": 4, "max_length": 20, "eos_token_id": 5}
    chat = Chat(own, tokenizer_of())
    assert chat.options.num_beams == 1 and chat.options.max_new_tokens == 512
    assert [*chat.options.eos] == [5, 257]


# ---- the command


@pytest.fixture
def folder(tmp_path):
    draw_model(vocab_size=258, n_positions=400).save_pretrained(tmp_path / "model")
    save_tokenizer(tokenizer_of(), tmp_path / "model")
    return tmp_path / "model"


def pipe(folder, text, *args):
    """Run the command with a text on its standard input."""
    command = [sys.executable, "-m", "npgpt", "chat", "--model", folder, "--seed", "1", *args]
    return subprocess.run(
        [*map(str, command), "--max_new_tokens", "6"], input=text, capture_output=True
    )


def test_each_line_from_a_pipe_is_answered(folder, tmp_path):
    found = pipe(folder, b"one\n\n  \n/save x.json\n", "--json")
    assert found.returncode == 0, found.stderr
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [answer["message"] for answer in answers] == ["one", "/save x.json"]  # no command
    assert len(answers[0]["ids"]) == 6 and answers[0]["finish_reason"] == "length"
    assert answers[0]["forgotten_turns"] == 0
    plain = pipe(folder, b"one\n")
    assert plain.stdout.decode().rstrip("\n") == answers[0]["text"].rstrip("\n")
    assert pipe(folder, b"\xff\n").returncode == 2
    found = pipe(folder, b"")
    assert found.returncode == 2 and b"standard input has no text" in found.stderr


class Script:
    """A terminal's prompt that returns lines, and interrupts where the script says so."""

    def __init__(self, *lines):
        self.lines = iter(lines)

    def __call__(self, prompt):
        line = next(self.lines, EOFError)
        if isinstance(line, str):
            return line
        raise line


def test_commands(model, tmp_path, monkeypatch, capsys):
    chat = talk(model)
    terminal = Terminal(chat)
    path = tmp_path / "chat.json"
    (tmp_path / "notes.txt").write_text("mine")
    script = Script(
        "/help", "one", "two", "/undo", f"/save {path}", KeyboardInterrupt, "/reset", "three",
        f"/load {path}", "/system Be brief.", "/system", "", f"/save {tmp_path}/notes.txt",
        "/lode x", "/save", f"/save {path}/x", "/load nowhere", " /etc",
    )  # fmt: skip
    monkeypatch.setattr(terminal, "prompt", lambda: script)
    terminal.talk()
    out, err = capsys.readouterr()
    for name in Terminal.commands():
        assert f"/{name}" in out
    assert "forgotten: two" in out and f"{path}: 1 turns" in out
    assert [question for question, _ in chat.turns] == ["one", "/etc"] and chat.system is None
    assert "did you mean '/load'" in err and "name the file, as in: /save chat.json" in err
    assert (tmp_path / "notes.txt").read_text() == "mine" and "notes.txt is damaged" in err
    assert "nowhere does not exist" in err


def test_ctrl_c_stops_an_answer_and_not_the_chat(model, monkeypatch, capsys):
    chat = talk(model)
    terminal = Terminal(chat)
    monkeypatch.setattr(terminal, "prompt", lambda: Script("one", "two"))
    n = 0

    def interrupt(ids, scores):
        nonlocal n
        n += 1
        if n == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return scores

    chat.options.logits_processor = (interrupt,)
    terminal.talk()
    assert [question for question, _ in chat.turns] == ["one", "two"]
    assert "(stopped)" in capsys.readouterr().out and chat.last.finish_reason == "length"


def test_what_a_model_says_is_shown_and_not_obeyed(model, monkeypatch):
    chat = talk(model)
    monkeypatch.setattr(chat, "stream", lambda text: (piece for piece in ["\x1b[31m", "é\n"]))

    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Screen())
    Terminal(chat).run("Hi!")
    assert sys.stdout.getvalue() == "\\x1b[31mé\n\n"


def test_a_model_without_a_template(tmp_path, capsys, monkeypatch):
    draw_model(vocab_size=256, n_positions=64).save_pretrained(tmp_path)
    save_tokenizer(ByteTokenizer(), tmp_path)
    assert npgpt("chat", "--model", tmp_path) == 2
    assert "--template plain" in capsys.readouterr().err
    monkeypatch.setattr("builtins.input", Script())
    assert npgpt("chat", "--model", tmp_path, "--template", "plain") == 0
    assert npgpt("chat", "--model", tmp_path, "--template", "plan") == 2
    assert "did you mean 'plain'" in capsys.readouterr().err
    assert npgpt("chat", "--model", tmp_path, "--template", "plain", "--load", tmp_path / "x") == 2


def test_a_template_that_makes_nothing(model):
    chat = Chat(model, ByteTokenizer(), chat_template="{# nothing #}")
    with pytest.raises(UserError, match="makes no token of these messages; give another template"):
        chat.say("hi")


def test_without_the_model(monkeypatch, capsys):
    """In a pipe the message says the command; in a terminal, the command offers to download."""
    assert npgpt("chat") == 2
    assert "npgpt models add smollm2 downloads it (98 MB)" in capsys.readouterr().err
    assert npgpt("chat", "--model", "nowhere/at/all") == 2
    capsys.readouterr()
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    asked, added = [], []

    def reply(prompt):
        asked.append(prompt)
        if len(asked) == 2:
            raise EOFError  # Ctrl-D
        return "n" if len(asked) == 1 else ""

    def add(name):
        added.append(name)
        raise UserError("there is no network here")

    monkeypatch.setattr("builtins.input", reply)
    monkeypatch.setattr("npgpt.weights.store.add", add)
    assert npgpt("chat") == 2 and not added
    assert "98 MB" in asked[0] and "npgpt models add smollm2" in capsys.readouterr().err
    assert npgpt("chat") == 2 and not added
    assert "npgpt models add smollm2" in capsys.readouterr().err
    assert npgpt("chat") == 2 and added == ["smollm2"]
    assert "no network" in capsys.readouterr().err


def test_a_real_model(smollm2, tmp_path):
    """Its default system prompt is in its template; the sentence is transformers' on the file."""
    chat = Chat(load_model(smollm2), load_tokenizer(smollm2), temperature=0, max_new_tokens=60)
    assert chat.say("What is the capital of France, and why is it famous?") == (
        "The capital of France is Paris. It's a city steeped in history and culture, and it's also "
        "famous for its iconic landmarks like the Eiffel Tower and the Louvre Museum."
    )
    assert chat.last.finish_reason == "eos"
    n_read = len(chat._read)
    chat.say("And of Italy?")
    prompt = chat.tokenizer.apply_chat_template(chat.messages[:-1], add_generation_prompt=True)
    assert chat._read[: len(prompt)].tolist() == prompt.tolist() and len(prompt) - n_read < 20
    assert "Rome" in chat.turns[-1][1]


def test_a_cache_of_the_whole_context_is_not_needed_twice(model):
    chat = talk(model)
    chat.say("a")
    cache = chat._cache
    assert isinstance(cache, KVCache)
    chat.say("b")
    assert chat._cache is cache and cache.length == len(chat._read)

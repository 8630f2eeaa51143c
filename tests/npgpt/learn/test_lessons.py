"""Lessons: what they say is what the stepper prints, and a learner may stray from them."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from autograd.stepper.terminal import Terminal
from npgpt.cli import main
from npgpt.errors import UserError
from npgpt.learn.lessons import Lesson, Player, essential, lessons, question

NUMBERS = [lesson.number for lesson in lessons()]


def player_of(number, ask=None):
    console = Console(file=io.StringIO(), width=80, highlight=False, record=True)
    return Player(Lesson(number), console, ask)


def said(player):
    return player.console.file.getvalue()


@pytest.mark.parametrize("number", NUMBERS)
def test_says_what_the_stepper_prints(number):
    lesson = Lesson(number)
    text = lesson.path.read_text(encoding="utf-8")
    assert text == lesson.replayed(), "if that is right, run: python -m npgpt.learn.lessons"


@pytest.mark.parametrize("number", NUMBERS)
def test_every_command_is_carried_out(number, monkeypatch):
    def run(stepper, line):
        word, _, rest = line.partition(" ")
        stepper.command(word)(rest)  # raises what `Terminal.run` would only print

    monkeypatch.setattr(Terminal, "run", run)
    player = player_of(number)
    player.play()
    assert "✗" not in said(player)
    asked = [command for command in commands(number) if question(command)]
    assert asked and said(player).count("✓ right") == len(asked)


def commands(number):
    text = Lesson(number).path.read_text(encoding="utf-8")
    return re.findall(r"^\(step\) (.*)", text, re.MULTILINE)


@pytest.mark.parametrize("number", NUMBERS)
def test_fits_the_terminal(number):
    lesson = Lesson(number)
    assert all(
        len(line) <= 80 for kind, x in lesson.parts if kind == "text" for line in x.split("\n")
    )
    assert "\n## Questions\n" in lesson.path.read_text(encoding="utf-8")


def test_a_wrong_number_is_noticed(monkeypatch):
    """Of what is printed, only the size of rounding errors and the like are let pass."""
    lesson = Lesson(1)
    for kind, content in lesson.parts:
        if kind == "step":
            for place in re.finditer(r"\d", content):
                n = place.start()
                changed = content[:n] + str((int(content[n]) + 1) % 10) + content[n + 1 :]
                passed = essential(changed) == essential(content)
                assert passed == ("difference" in content[:n].rpartition("\n")[2])


def test_numbers_of_attention():
    """Lesson 5 again, in plain NumPy."""
    q, k, v = np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([1.0, 2.0])
    e = np.exp(np.outer(q, k))
    text = Lesson(5).path.read_text(encoding="utf-8")
    for mask in (np.ones((2, 2)), np.tri(2)):
        p = mask * e / (mask * e).sum(axis=1, keepdims=True)
        ds = p * (v - (p @ v)[:, None])
        for row in p:
            assert "[ " + " ".join(f"{x:.4f}" if x else "     0" for x in row) + " ]" in text
        for x in (*(p @ v), *(ds @ k), *(ds.T @ q), *p.sum(axis=0)):
            assert (f" {x:.4f} ]" if x else "[       0 ]") in text
    for number in ("0.7311", "0.2689", "0.8808", "0.1192", "1.2689", "1.1192"):
        assert number in text


# ---- a learner


def test_straying(monkeypatch):
    """Whatever a learner tries, the lesson goes on where it was."""
    steps = []
    run = Terminal.run

    def noted(stepper, line):
        run(stepper, line)
        if stepper is player.stepper:
            d = stepper.session.trace.steps[-1].cotangent
            steps.append(
                (
                    line,
                    len(stepper.session.levels),
                    stepper.session.level.index,
                    stepper.session.hidden,
                    str(d),
                )
            )

    monkeypatch.setattr(Terminal, "run", noted)
    player = player_of(5)
    player.play()
    undisturbed, steps[:] = steps[:], []
    own = "next", "set g * 100", "predict", "watch d(v)", "break 9", "into", "c", "next", "nonsense"

    def ask(command):
        answers.append(command)
        turn = len([c for c in answers if c == command]) - 1
        return own[turn % 10] if turn % 10 < len(own) and not question(command) else ""

    answers = []
    player = player_of(5, ask)
    player.play()
    without_rests = [step for step in undisturbed if step[0] in answers]
    assert steps == without_rests == undisturbed
    assert "there is no command 'nonsense'" in said(player)


def answering(*answers):
    """A learner who types these, and then Enter; and what was asked."""
    waiting, asked = iter(answers), []

    def ask(command):
        asked.append(command)
        return next(waiting, "")

    return ask, asked


def test_predictions_are_judged():
    first = commands(1).index("predict d(a) += d(f) * b")
    begin = [""] * (1 + first)  # one more: to run the script
    ask, asked = answering(
        *begin,
        "predict d(a) += 15",
        "predict d(b) += 10",
        "predict d(a)+=-15",
        "predict d(b) += 1",
        "q",
    )
    player = player_of(1, ask)
    player.play()
    tail = ["predict d(a) += d(f) * b"] * 3 + ["predict d(b) += d(f) * a"] * 2
    assert asked[-5:] == tail  # the right answer to another question does not count
    assert "✗ d(a) +=: the sign is the other one" in said(player)
    assert said(player).count("✓ right: d(a) +=") == 1 and "Next:" not in said(player)


def test_the_lessons_command_in_the_learners_words():
    ask, asked = answering("", "f", "n", "quit")
    player = player_of(1, ask)
    player.play()
    assert asked == ["", "formula", "next", "where"]
    assert said(player).count("step 2 of 3  add") == 1


@pytest.mark.parametrize(
    ("command", "begun"),
    [("predict d(a) += d(f) * b", "predict d(a) += "), ("predict $dx=3", "predict $dx = "),
     ("predict d(a) = 3", "predict d(a) = "), ("predict  3", "predict "),
     ("predict g == 2", "predict "), ("predict", ""), ("print 3", "")],
)  # fmt: skip
def test_questions(command, begun):
    assert question(command) == begun


# ---- the command


def test_the_command(capsys):
    assert main(["lesson"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[: len(NUMBERS)]] == NUMBERS
    assert main(["lesson", "3"]) == 0  # piped: all of it, and nobody is asked
    out = capsys.readouterr().out
    for kind, content in Lesson(3).parts:
        if kind == "text":
            assert content in out
    assert out.count("(step) ") == len(commands(3)) and out.endswith("Next: npgpt lesson 4\n")
    assert main(["lesson", NUMBERS[-1]]) == 0
    assert "Next:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [(["99"], "no lesson '99'; npgpt lesson lists them"), (["one"], "no lesson 'one'"),
     (["1", "2"], "takes N and nothing else, not 2"), (["--all"], "unknown option --all")],
)  # fmt: skip
def test_what_is_wrong_is_said(args, message, capsys):
    assert main(["lesson", *args]) == 2
    assert message in capsys.readouterr().err
    if args[0] == "99":
        with pytest.raises(UserError, match="no lesson 99"):
            Lesson(99)


def test_in_a_terminal():
    """Enter runs what stands there in grey; a question stands there in part; ^D leaves."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "npgpt.cli", "lesson", "1"], stdin=slave, stdout=slave,
        stderr=slave, close_fds=True,
        env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )  # fmt: skip
    os.close(slave)
    n = 1 + commands(1).index("predict d(a) += d(f) * b")
    screen, answers = "", [*["\r"] * n, "7\r", "\r", "\x03", "\x04"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.3)[0]:
            try:
                screen += os.read(master, 4096).decode(errors="replace")
            except OSError:  # the other side has closed
                break
        elif answers and "(step)" in screen:  # quiet: it waits for an answer
            os.write(master, answers.pop(0).encode())
    process.kill()
    os.close(master)
    assert process.wait() == 0 and not answers, screen
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", screen)
    assert "(step) Enter runs the script" in plain and "(step) predict d(a) += 7" in plain
    assert "✗ d(a) +=: not that" in plain and "✓ right: d(a) +=" in plain
    assert "✓ right: d(b)" not in plain and "Traceback" not in plain

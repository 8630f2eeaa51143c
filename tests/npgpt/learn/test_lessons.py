"""Lessons: what they say is what the stepper prints, and a learner may stray from them."""

import io
import json
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

import autograd
from autograd.console import Console as AutogradConsole
from autograd.stepper.terminal import Terminal
from npgpt import GPT
from npgpt.cli import main
from npgpt.errors import UserError
from npgpt.learn import sorter
from npgpt.learn.lessons import Lesson, essential, judge, lessons, right_answer
from npgpt.learn.player import ANSWER, Player
from npgpt.learn.progress import Progress
from npgpt.learn.prose import fold
from npgpt.learn.questions import read_question

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


@pytest.mark.parametrize("number", [7, 10])
def test_in_a_file_an_empty_line_stands_before_each_question(number):
    player = player_of(number)
    player.play()
    contents = [text for kind, text in player.lesson.parts if kind == "question"]
    assert len(contents) > 5
    for content in contents:
        assert f"\n\n{read_question(content).text}\n" in said(player)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_command_is_carried_out(number, monkeypatch):
    def run(stepper, line):
        word, _, rest = line.partition(" ")
        stepper.command(word)(rest)  # raises what `Terminal.run` would only print

    monkeypatch.setattr(Terminal, "run", run)
    player = player_of(number)
    player.play()
    lesson = player.lesson
    text = lesson.path.read_text(encoding="utf-8")
    assert said(player).count("✗") == text.count("✗")  # those of a rule that is to be wrong
    assert len(lesson.questions) >= 5
    for question in lesson.questions:
        assert question.text in said(player) and question.hint and question.why


def commands(number):
    text = Lesson(number).path.read_text(encoding="utf-8")
    return re.findall(r"^\(step\) (.*)", text, re.MULTILINE)


@pytest.mark.parametrize("number", NUMBERS)
def test_fits_the_terminal(number):
    lesson = Lesson(number)
    assert all(
        len(line) <= 80 for kind, x in lesson.parts if kind == "text" for line in x.split("\n")
    )


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


# ---- questions


@pytest.mark.parametrize("number", NUMBERS)
def test_answers_are_judged(number):
    """The right answer is right; each mistake that is expected is told apart from it."""
    lesson = Lesson(number)
    for n, question in enumerate(lesson.questions, 1):
        right = question.answer if question.kind == "value" else right_answer(lesson, n)
        if question.kind == "choice":
            right = right[0]
            assert set(question.replies) | {right} == set("abcd"[: len(question.options)])
        assert judge(lesson, n, right) == ("right", ""), question
        for mistake, reply in question.replies.items():
            assert judge(lesson, n, mistake) == ("wrong", reply), question
        for nonsense in ("", "nonsense", "))", "1, 2, y", "what?", "'a'", "9" * 501):
            verdict, message = judge(lesson, n, nonsense)
            assert verdict == "unclear" and message and "\n" not in message


def judged(block, answer, number=2):
    """Judge an answer to a question of a test, at the first question of a lesson."""
    lesson = Lesson(number)
    lesson.questions[0] = read_question(block)
    return judge(lesson, 1, answer)


@pytest.mark.parametrize(
    ("block", "answer", "verdict", "message"),
    [("value: d(h)", "[4, 6]", "right", ""), ("value: d(h)", "[ 4.0 6.0 ]", "right", ""),
     ("value: d(h)", "predict d(h) += 2 * w2", "right", ""),
     ("value: d(h)", "d(z) = [−4, -6]", "wrong", "the sign is the other one"),
     ("value: d(h)", "[8, 12]", "wrong", "a factor of 2"),
     ("value: d(h)", "[4, 5]", "wrong", "1 of 2 are wrong"),
     ("value: d(h)", "[4, 6, 1]", "unclear",
      "expected float64[2], and was given "),
     ("value: loss", "1.02", "wrong", "near, but not exact"),
     ("value: loss", "(1 + 1)^2 / 4", "right", ""),
     ("value: W1.size", "4.5", "wrong", ""), ("value: W1.size", "2 × 2", "right", ""),
     ("value: loss", "1 / 0", "unclear", "ZeroDivisionError"),
     ("value: loss", "1j", "unclear",
      "expected float64, and was given a complex"),
     ("shape: np.zeros((2, 3))", "2 x 3", "right", ""),
     ("shape: np.zeros((2, 3))", "[2, 3]", "right", ""),
     ("shape: np.zeros((2, 3))", "(3, 2)", "wrong", "in the other order"),
     ("shape: np.zeros((2, 3))", "(2, 4)", "wrong", "axis 1 has another length"),
     ("shape: np.zeros((2, 3))", "6", "wrong", "number of axes"),
     ("shape: np.zeros((2, 1))", "(2,)", "wrong", "an axis of length 1"),
     ("shape: loss", "()", "right", ""), ("shape: loss", "scalar", "right", ""),
     ("shape: loss", "", "unclear", "no shape"),
     ("places: W1 > 0", "[0,0] and [1,0], [1,1]", "right", ""),
     ("places: W1 > 0", "all", "wrong", "[0, 1] is not among them"),
     ("places: W1 > 0", "none", "wrong", "something is missing"),
     ("places: W1 > 9", "None.", "right", ""),
     ("places: W1 > 0", "0, 0, 1", "unclear", "2 indices"),
     ("places: W1 > 0", "[0, 2]", "unclear", "there is no place [0, 2]"),
     ("places: d(h) > 5", "1", "right", ""),
     ("+ yes\n- no | Look again.", "A)", "right", ""),
     ("+ yes\n- no | Look again.", "NO", "wrong", "Look again."),
     ("+ yes\n- no", "b", "wrong", "not that"),
     ("+ yes\n- no", "c", "unclear", "a letter from a to b")],
)  # fmt: skip
def test_kinds_of_questions(block, answer, verdict, message):
    found = judged(block, answer)
    assert found.verdict == verdict and message in found.message, found


def test_an_op_of_a_lesson_is_not_registered_for_others():
    """So a lesson can define an op again, and be played again."""
    lesson = Lesson(10)
    assert lesson.sessions[1].step.number and "smooth_relu" not in autograd.REGISTRY


def test_the_sorter_of_a_lesson_is_made_by_its_module():
    made, saved = sorter.train(steps=1), GPT.from_pretrained(sorter.FOLDER)
    assert {name: x.shape for name, x in made.named_parameters()} == {
        name: x.shape for name, x in saved.named_parameters()
    }


def test_data_of_a_lesson():
    lesson = Lesson(2)
    data = json.loads(json.dumps(lesson.data()))
    parts = [part for section in data["sections"] for part in section["parts"]]
    assert [(part["kind"], part.get("text", part.get("code"))) for part in parts] == [
        (kind, read_question(content).text if kind == "question" else content)
        for kind, content in lesson.parts
    ]
    asked = [part for part in parts if part["kind"] == "question"]
    assert [part["number"] for part in asked] == [*range(1, len(lesson.questions) + 1)]
    assert {part["judge"] for part in asked} == {"value", "shape", "places"}


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
        return own[turn % 10] if turn % 10 < len(own) and command != ANSWER else ""

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


def play_answering(number, answers):
    """Play a lesson; answer its questions, each with as many answers as are given for it."""
    waiting = iter([answer for answers_of_one in answers for answer in answers_of_one])
    player = player_of(number, lambda shown: next(waiting) if shown == ANSWER else "")
    player.play()
    assert next(waiting, None) is None  # every answer was asked for
    return said(player)


@pytest.mark.parametrize("number", NUMBERS)
def test_who_answers_right(number):
    lesson = Lesson(number)
    answers = [[right_answer(lesson, n + 1)] for n in range(len(lesson.questions))]
    answers = [
        [question.answer if question.kind in ("value", "choice") else right[0]]
        for question, right in zip(lesson.questions, answers, strict=True)
    ]
    out = play_answering(number, answers)
    assert "Hint:" not in out and "\n✗" not in out and "\n?" not in out
    assert out.count("✓ right\n") == len(lesson.questions)


@pytest.mark.parametrize("number", NUMBERS)
def test_who_answers_wrong(number):
    lesson, out = Lesson(number), ""
    nowhere = {"shape": "(9, 9)", "value": "123.25"}
    wrong = []
    for n, question in enumerate(lesson.questions, 1):
        places = "none" if right_answer(lesson, n) != "none" else "all"
        other = nowhere.get(question.kind, places)
        wrong.append(next(iter(question.replies), other))
    out = play_answering(number, [[answer, answer] for answer in wrong])
    for n, (question, answer) in enumerate(zip(lesson.questions, wrong, strict=True), 1):
        reply = judge(lesson, n, answer).message
        right = f"answer: {right_answer(lesson, n)}\n{question.why}\n"
        assert f"✗ {reply}\nHint: {question.hint}\n✗ {reply}\n{right}" in out


def test_at_a_question():
    """A hint can be asked for, commands run, nonsense is no answer, and Enter goes on."""
    ask, asked = answering(
        *[""] * 3, "hint", "formula", "x y", "read", "part", "part 77", "14", "d(c)", "q"
    )
    player = player_of(1, ask)
    player.play()
    assert asked[3:] == [*[ANSWER] * 8, "where"]
    question, out = player.lesson.questions[0], said(player)
    assert out.count(question.hint) == 2  # asked for, and after a wrong answer
    assert "d(c) += 2" in out and "The question waits" in out
    assert "'x y' is no expression; expected a number" in out
    assert out.count("Back through the last line") == 4  # the text, `read`, two lists
    assert "There is no part 77; they are numbered from 1 to 5." in out


def test_the_lessons_command_in_the_learners_words():
    ask, asked = answering("", "f", "n", "", "quit")
    player = player_of(1, ask)
    player.play()
    assert asked == ["Enter runs the script", "formula", "next", ANSWER, "where"]
    assert said(player).count("step 2 of 3  add") == 1


def test_answers_from_a_pipe(monkeypatch, capsys, tmp_path):
    """Each line is what a learner would type; when they have ended, nothing is asked any more."""
    monkeypatch.setenv("NPGPT_HOME", str(tmp_path))
    lesson = Lesson(1)
    lines = ["", "f", "", "hint", "14", right_answer(lesson, 1), "d(c)", ""]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    assert main(["lesson", "1"]) == 0
    out = capsys.readouterr().out
    assert "(step) f\n" in out and "(step) next\n" in out  # an empty line runs what is shown
    assert f"(answer) hint\n{lesson.questions[0].hint}\n" in out
    assert "(answer) 14\n✗" in out and "✓ right\n" in out
    before, _, after = out.partition(
        "The input has ended: the rest of the lesson asks no questions"
    )
    assert "(step) where" in before and after.count("answer: ") >= 3 and "Next: " in after
    assert Progress(tmp_path).read()["1"]["part"] < len(lesson.sections) - 1  # not finished
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    assert main(["lesson", "1"]) == 0
    assert "You left lesson 1 at part" in capsys.readouterr().out


# ---- the parts of a lesson


def test_leaving_and_going_on(tmp_path):
    progress = Progress(tmp_path)
    for leave in ("q", "quit", "exit"):
        ask, asked = answering("part 3", leave)
        player = Player(Lesson(1), player_of(1).console, ask, progress)
        player.play()
        out = said(player)
        assert "lesson 1, part 3 of 5" in out and "You left lesson 1 at part 3 of 5." in out
        assert progress.read() == {"1": {"part": 2}}
    assert "npgpt lesson 1" in out and "Next:" not in out
    ask, asked = answering()
    player = Player(Lesson(1), player_of(1).console, ask, progress)
    player.play()
    out = said(player)
    assert "part 2 of 5" not in out and out.index("part 3 of 5") < out.index("part 4 of 5")
    assert "── step 3 of 3  multiply" in out  # the steps of the parts before have been taken
    assert progress.read() == {"1": {"part": 0, "finished": 1}}


def test_going_back_in_a_lesson():
    """Parts before the one that is gone to run silently, and every number is the same again."""
    whole = player_of(5, lambda shown: "")
    whole.play()
    ask, asked = answering(*["part 4"], *[""] * 6, "part 2", "part 6")
    player = player_of(5, ask)
    player.play()
    tail = said(whole)[said(whole).index("part 6 of 6") :]
    assert said(player).endswith(tail)


def test_a_file_that_cannot_be_used(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NPGPT_HOME", str(tmp_path))
    progress = Progress()
    progress.file.write_text("{")
    player = Player(Lesson(1), player_of(1).console, lambda shown: "", progress)
    player.play()
    assert said(player).count("Your place in the lesson is not saved: ") == 1
    assert "move the file" in said(player) and "Next:" in said(player)
    assert progress.file.read_text() == "{"  # as it was
    assert main(["lesson"]) == 0
    out, err = capsys.readouterr()
    assert "The chain rule" in out and "move the file" in err
    progress.file.write_text('{"1": {"part": 99}, "2": {"finished": 1}}')  # a longer lesson 1
    assert main(["lesson"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "part 5 of 5" in out[0] and "✓" in out[1] and out[-1] == "Begin with: npgpt lesson 1"
    (tmp_path / "file").write_text("")
    progress = Progress(tmp_path / "file" / "folder")
    player = Player(Lesson(1), player_of(1).console, lambda shown: "", progress)
    player.play()
    assert said(player).count("Your place in the lesson is not saved: ") == 1


def test_two_processes_save_their_places(tmp_path):
    one, other = Progress(tmp_path), Progress(tmp_path)
    one.write("1", part=2)
    other.write("2", part=3)
    one.write("1", finished=1)
    assert other.read() == {"1": {"part": 2, "finished": 1}, "2": {"part": 3}}


# ---- any width


@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (120, 40)])
def test_fits_any_terminal(width, height):
    """Nothing is wider than the terminal, and a learner can read all before it moves away."""
    console = AutogradConsole(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None,
        record=True,
    )  # fmt: skip
    screens, start = [], 0

    def ask(shown):
        nonlocal start
        screens.append(console.file.getvalue()[start:])
        start = len(console.file.getvalue())
        return ""

    player = Player(Lesson(2), console, ask)
    player.play()
    lines = said(player).splitlines()
    assert max(map(len, lines)) <= width
    for kind, content in player.lesson.parts:
        if kind == "text":
            words = content.replace("#", "").split()
            assert " ".join(words[-8:]) in " ".join(said(player).split())
    # what one command prints may be longer; prose, questions and code stop before they are
    long = [screen for screen in screens if screen.count("\n") >= height and "── " not in screen]
    assert not long


def test_the_text_stays_in_view():
    """After a long output the end of the text is repeated above the prompt."""
    console = AutogradConsole(
        file=io.StringIO(), width=80, height=12, force_terminal=True, color_system=None,
        record=True,
    )  # fmt: skip
    seen = []

    def ask(shown):
        seen.append(console.file.getvalue().splitlines()[-11:])
        return "formula" if shown == ANSWER and len(seen) < 40 else ""

    Player(Lesson(1), console, ask).play()
    question = Lesson(1).questions[0].text
    with_question = [screen for screen in seen if question in screen]
    assert len(with_question) > 10


@pytest.mark.parametrize("width", [20, 60, 120])
def test_prose_is_folded(width):
    text = "# Title\n\none two\nthree\n\n- an item\n  of a list\n- b\n\n    x = 1\n\n" + "w " * 99
    chunks = fold(text, width)
    assert [chunk.plain.splitlines()[0][:9] for chunk in chunks] == [
        "Title", "one two t", "- an item", "    x = 1", "w w w w w",
    ]  # fmt: skip
    assert all(len(line) <= width for chunk in chunks for line in chunk.plain.splitlines())
    assert chunks[2].plain.splitlines()[-1] == "- b"


# ---- the command


def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["lesson"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[: len(NUMBERS)]] == NUMBERS
    assert main(["lesson", "3"]) == 0  # nobody types: all of it is printed
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


def test_in_a_terminal(tmp_path):
    """Enter runs what stands there in grey; an answer is judged; ^C clears the line, or leaves."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "npgpt.cli", "lesson", "1", "--part", "3"],
        stdin=slave, stdout=slave, stderr=slave, close_fds=True,
        env={
            **os.environ, "TERM": "xterm", "NPGPT_HOME": str(tmp_path),
            "PROMPT_TOOLKIT_NO_CPR": "1",
        },
    )  # fmt: skip
    os.close(slave)
    screen, answers = "", ["6\r", "-6\r", "\r", "xx\x03", "\x03"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.3)[0]:
            try:
                screen += os.read(master, 4096).decode(errors="replace")
            except OSError:  # the other side has closed
                break
        elif answers and "(answer)" in screen:  # quiet: it waits for an answer
            os.write(master, answers.pop(0).encode())
    process.kill()
    os.close(master)
    assert process.wait() == 0 and not answers, screen
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", screen)
    assert "✗ The size is right. What is the sign of b?" in plain and "✓ right" in plain, plain
    assert "(step) next" in plain
    assert "You left lesson 1 at part 3 of 5." in plain and "Traceback" not in plain
    assert Progress(tmp_path).read() == {"1": {"part": 2}}

"""The full screen: it fits any terminal, shows what the lines show, and leaves no trace."""

import io
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import DummyInput
from prompt_toolkit.output import DummyOutput

import autograd
from autograd.console import Console
from autograd.escape import OBEYED
from autograd.stepper import trace
from autograd.stepper.screen import Screen
from autograd.stepper.terminal import Terminal
from npgpt import GPT, GPTConfig
from npgpt.commands.step import Options, walk
from npgpt.errors import UserError

SIZES = [(60, 20), (80, 24), (120, 40), (200, 60), (40, 10), (20, 6), (10, 3), (1, 1)]
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def terminal_of(loss, kind="full"):
    """A terminal that talks in a full screen."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="256")
    terminal = Terminal(trace(loss), console)
    terminal.screen, terminal.in_terminal = kind, True
    return terminal


def small_loss():
    W = autograd.tensor([[0.123456, -0.2], [0.4, 0.3]], requires_grad=True)
    x = np.array([1.0, 2.0])
    with autograd.record():
        z = W @ x
        h = np.tanh(z)
        loss = (h * h).sum()
    return loss


def gpt_loss():
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model, ids = GPT(GPTConfig(**sizes)).eval(), np.arange(5)[None]
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    return loss


@pytest.fixture
def size():
    """The size of the terminal that `prompt_toolkit` sees, which a test may change."""

    class Output(DummyOutput):
        rows, columns = 24, 80

        def get_size(self):
            return Size(self.rows, self.columns)

    output = Output()
    with create_app_session(input=DummyInput(), output=output):
        yield output


@pytest.mark.parametrize("kind", ["full", "projector"])
@pytest.mark.parametrize("loss", [small_loss, gpt_loss])
def test_it_fits_every_terminal(loss, kind, size):
    terminal = terminal_of(loss(), kind)
    screen = Screen(terminal)
    for line in ("", "print 1", "help", "next", "up", "jump 5", "continue", "print nothing"):
        screen.run(line)
        for columns, rows in SIZES:
            lines = screen.lines(columns, rows)
            assert len(lines) == rows and max(each.cell_len for each in lines) <= columns
            assert not any("cannot be shown" in each.plain for each in lines)


def plain(screen, columns, rows):
    return "\n".join(line.plain.rstrip() for line in screen.lines(columns, rows))


def test_the_panes(size):
    terminal = terminal_of(small_loss())
    screen = Screen(terminal)
    screen.run("until tanh")
    wide, narrow = plain(screen, 120, 40), plain(screen, 60, 30)
    for shown in (wide, narrow):
        assert "step 3 of 4  tanh" in shown and "test_screen.py" in shown
        assert "->         h = np.tanh(z)" in shown  # the source
        assert "▶ ●  h = tanh(z)" in shown  # the graph
        assert "z  float64[2]   [ -0.2765  1.0000 ]" in shown  # the values
        assert "d(z) += d(h) · (1 - tanh(z)^2)" in shown  # the cotangents
    assert wide.count("│ ─ ") == 2 and "│ ─ " not in narrow
    screen.run("print W * 2")
    assert "0.2469" in plain(screen, 80, 24) and "step 3 of 4" in plain(screen, 80, 24)
    screen.run("")
    assert "0.2469" not in plain(screen, 80, 24)
    screen.run("continue")
    assert "the end: gradients" in plain(screen, 80, 24)


def test_a_later_pass_begins_at_its_breakpoint(size):
    terminal = terminal_of(small_loss())
    for line in ("break tanh", "continue", "continue", "continue"):
        terminal.run(line)
    assert terminal.done and terminal.is_running
    terminal.enter(trace(small_loss()))
    shown = plain(screen := Screen(terminal), 80, 24)
    assert "step 3 of 4  tanh" in shown and "break: tanh" in shown and not terminal.done
    screen.run("next")
    assert "break: tanh" not in plain(screen, 80, 24)
    assert "break: tanh" not in plain(Screen(terminal), 80, 24)


def test_for_a_projector(size):
    """Fewer digits, an empty line after each line, no dtypes and no places."""
    screen = Screen(terminal_of(small_loss(), "projector"))
    screen.run("until tanh")
    shown = plain(screen, 80, 24)
    assert "z   [ -0.28  1.00 ]" in shown and "-0.2765" not in shown
    assert "float64" not in shown and "test_screen.py" not in shown


def test_what_is_printed_can_be_scrolled(size):
    screen = Screen(terminal_of(small_loss()))
    screen.run("help")
    first = plain(screen, 80, 24)
    assert "lines 1 to " in first and " next " in first and "Leave the stepper" not in first
    for _ in range(9):
        screen.scroll(screen.shown)
    last = plain(screen, 80, 24)
    assert "Leave the stepper" in last and last.rstrip().endswith("script")
    screen.scroll(-100)
    assert plain(screen, 80, 24) == first


def test_names_are_escaped(size):
    terminal = terminal_of(small_loss())
    hostile = "x\x1b]0;title\x07\x1b[2J"
    terminal.session.call.scope = hostile
    terminal.session.trace.recording.give_name(terminal.session.step.number, hostile)
    screen = Screen(terminal)
    screen.run("print nothing\x1b[2J")
    text = re.sub(r"\x1b\[[\d;]*m", "", screen.message().value)
    assert "\\x1b]0;title" in text and not OBEYED.search(text)


def test_an_exception_leaves_the_second_screen(size):
    terminal = terminal_of(small_loss())
    with pytest.raises(ZeroDivisionError), Screen(terminal):
        raise ZeroDivisionError
    written = terminal.console.file.getvalue()
    assert ENTER in written and written.rindex(LEAVE) > written.rindex(ENTER)


def test_only_in_a_terminal(tmp_path, capsys, monkeypatch):
    terminal = terminal_of(small_loss())
    terminal.in_terminal = False
    terminal.run("screen")
    assert "typed in a terminal" in terminal.console.file.getvalue()
    terminal.in_terminal = True
    terminal.run("screen sideways")
    assert "not screen sideways" in terminal.console.file.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.can_redraw
    (tmp_path / "s.py").write_text(SCRIPT)
    monkeypatch.setattr("sys.stdin", io.StringIO("next\n"))
    walk(Options(str(tmp_path / "s.py"), full_screen=True))  # in a pipe: lines
    out = capsys.readouterr().out
    assert "step 2 of 2  multiply" in out and "\x1b" not in out
    with pytest.raises(UserError, match="leave out --commands"):
        walk(Options("s.py", full_screen=True, commands="c"))


# ---- in a real terminal

SCRIPT = """
import autograd
x = autograd.tensor([1.0, 2.0], requires_grad=True)
for i in range(2):
    loss = (x * x).sum()
    loss.backward()
    print("pass", i)
"""


def test_in_a_real_terminal(tmp_path):
    """It enters the second screen, follows a resize, and leaves the screen at the end of a pass."""
    pty = pytest.importorskip("pty")
    import fcntl
    import termios

    (tmp_path / "script.py").write_text(SCRIPT)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    code = (
        "from npgpt.commands.step import Options, walk; walk(Options('script.py', full_screen=1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": ""},
    )  # fmt: skip
    answers = [b"next\r", b"pri\x03", b"RESIZE", b"print x * 21\r", b"c\r", b"c\r", b"c\r", b"\x04"]
    screen, deadline = "", time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([master], [], [], 0.5)[0]:
            screen += os.read(master, 1 << 16).decode(errors="replace")
        elif answers and "(step 1 of 2)" in screen:  # quiet: it waits for an answer
            if (answer := answers.pop(0)) == b"RESIZE":
                fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
                process.send_signal(signal.SIGWINCH)
                at = len(screen)
            else:
                os.write(master, answer)
    process.kill()
    while select.select([master], [], [], 0.1)[0]:
        screen += os.read(master, 1 << 16).decode(errors="replace")
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    assert not answers and "Traceback" not in screen, screen
    assert screen.count(ENTER) == screen.count(LEAVE) == 2 and screen.count("pass 0") == 1
    assert screen.index(LEAVE) < screen.index("pass 0") < screen.rindex(ENTER)
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")  # the cursor is shown
    shown = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", screen)
    assert "│ ─ values" in shown and "[ 21.0 42.0 ]" in shown
    narrow = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", screen[at : screen.index(LEAVE)])
    assert "─ source ".ljust(59, "─") in narrow  # as wide as the terminal is now


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("full", [True, False])
def test_a_signal_restores_the_terminal(name, full, tmp_path):
    """The second screen is left, and what is typed afterwards is shown again."""
    pty = pytest.importorskip("pty")
    import termios

    (tmp_path / "script.py").write_text(SCRIPT)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    number = getattr(signal, name)
    code = (
        f"import signal; signal.signal({number:d}, signal.SIG_DFL)\n"  # nohup ignores SIGHUP
        "from npgpt.commands.step import Options, walk\n"
        f"walk(Options('script.py', full_screen={full}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": ""},
    )  # fmt: skip
    screen, deadline, is_sent = "", time.monotonic() + 90, False
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([master], [], [], 0.5)[0]:
            screen += os.read(master, 1 << 16).decode(errors="replace")
        elif "(step 1 of 2)" in screen and not is_sent:  # quiet: it waits for a command
            assert termios.tcgetattr(slave) != before
            process.send_signal(number)
            is_sent = True
    process.kill()
    while select.select([master], [], [], 0.1)[0]:
        screen += os.read(master, 1 << 16).decode(errors="replace")
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    assert process.wait() == 128 + number and "Traceback" not in screen and "pass 0" not in screen
    assert screen.count(ENTER) == screen.count(LEAVE) == full

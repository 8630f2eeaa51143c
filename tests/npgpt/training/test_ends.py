"""Runs of several processes that end early: one message, a whole checkpoint, nothing left."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import TEXT, Quiet, train_config

import autograd
from npgpt import UserError
from npgpt.commands.train import train as train_command
from npgpt.parallel import workers
from npgpt.parallel.group import STOPS, RankError, signals_wait
from npgpt.parallel.workers import Workers
from npgpt.training.loop import Run
from npgpt.training.run import open_run, resume, start, train
from npgpt.training.together import working_together

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs sockets that pass descriptors on")

KILLS = 50 if os.environ.get("NPGPT_TEST_ALL") == "1" else 5
SECONDS = 15  # in which all processes must be gone, on a machine that has other work as well


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(autograd.machine, "usable_cpus", lambda: 2)


def launch(folder):
    """Start a command that trains by two processes, in a session of its own."""
    (folder / "text.txt").write_text(TEXT)
    options = dict(
        data=folder / "text.txt", out_dir=folder / "run", workers=2, batch_size=4, n_layer=1,
        n_embd=16, n_head=2, block_size=8, max_iters=10**6, eval_interval=20, eval_iters=1,
        sample_tokens=0, checkpoint_interval=50,
    )  # fmt: skip
    code = (
        "import sys, autograd; from npgpt.cli import main\n"
        "autograd.machine.usable_cpus = lambda: 2\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def processes_of(session):
    """Return the ids of the living processes of a session, without the first."""
    found = subprocess.run(["ps", "-eo", "pid=,sess=,stat="], capture_output=True, text=True).stdout
    rows = (line.split() for line in found.splitlines())
    return [int(p) for p, s, stat in rows if int(s) == session != int(p) and stat[0] != "Z"]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def end_of(process):
    """Return exit code and standard error, once all processes of the session have ended."""
    began = time.monotonic()
    _, error = process.communicate(timeout=SECONDS)
    wait_for(lambda: not processes_of(process.pid), SECONDS)
    assert time.monotonic() - began < SECONDS
    return process.returncode, [line for line in error.splitlines() if "compiling" not in line]


def demand_whole(folder):
    """The checkpoint is one that a run can go on from."""
    if (folder / "state.safetensors").exists():
        run = open_run(folder)
        run.update()
        assert run.progress.step > 0


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Compile the kernels: a process that compiles one sees no other end meanwhile."""
    folder = tmp_path_factory.mktemp("compiled")
    process = launch(folder)
    # not for the state of step 0, which is written before anything is compiled
    wait_for(lambda: list((folder / "run" / "checkpoints").glob("step-*50.safetensors")), 300)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("number", range(KILLS))
def test_a_kill_at_any_moment(number, tmp_path):
    chance = random.Random(number)
    process = launch(tmp_path)
    workers_of = lambda: processes_of(process.pid)  # noqa: E731
    if is_early := chance.random() < 0.2:
        (victim,) = wait_for(workers_of)
    else:
        wait_for((tmp_path / "run" / "metrics.jsonl").exists)
        (victim,) = workers_of()
    time.sleep(chance.random() * 1.5)
    is_rank_0 = chance.random() < 0.4
    os.kill(process.pid if is_rank_0 else victim, signal.SIGKILL)
    code, lines = end_of(process)
    if is_rank_0:
        assert code == -signal.SIGKILL
    else:
        assert code == 2 and len(lines) == 1 and "rank 1 was killed by SIGKILL" in lines[0], lines
        assert is_early or "Continue with: npgpt train --resume" in lines[0]
    demand_whole(tmp_path / "run")


@pytest.mark.parametrize("moment", ["start", "training", "twice"])
def test_ctrl_c_at_any_moment(moment, tmp_path):
    process = launch(tmp_path)
    wait_for(lambda: processes_of(process.pid))
    if moment != "start":
        wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    for pid in [process.pid, *processes_of(process.pid)]:  # a terminal would signal rank 0 alone
        os.kill(pid, signal.SIGINT)
    if moment == "twice":
        os.kill(process.pid, signal.SIGINT)
    code, lines = end_of(process)
    assert code == 130 and len(lines) <= 1, lines
    demand_whole(tmp_path / "run")


def test_a_signal_waits_for_a_rank_that_starts():
    """It comes before the rank ignores signals, and even before Python runs."""
    code = "from npgpt.parallel.group import ignore_signals; ignore_signals(); print('works')"
    with signals_wait():
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    for number in STOPS:
        process.send_signal(number)
    assert process.communicate()[0].split() == [b"works"] and process.returncode == 0


# ---- what a worker does wrong


def work_and_raise(group):
    group.gather(1)
    raise OSError(errno.ENOSPC, "No space left on device", "/a/file")


def work_and_leave(group):
    print("a reason\n", file=sys.stderr, flush=True)
    os._exit(3)


def work_wrongly(group):
    raise ValueError("a number is wrong")


def work_until_a_signal_without_a_name(group):
    os.kill(os.getpid(), 40)


WORK = f"{__name__.rpartition('.')[2]}:"


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (work_and_raise, "^rank 1: /a/file: No space left on device$"),
        (work_and_leave, "^rank 1 ended with exit code 3: a reason$"),
        (work_until_a_signal_without_a_name, "^rank 1 was killed by signal 40$"),
        (work_wrongly, "^rank 1: ValueError: a number is wrong$"),
    ],
)
def test_the_message_names_the_rank_and_the_cause(work, message, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    group = Workers(3, WORK + work.__name__, {})
    with pytest.raises(RankError, match=message):
        for _ in range(3):
            group.gather(0)
    group.close(is_failure=True)
    assert all(process.returncode is not None for process in group.processes)


def test_modules_of_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("raise SystemExit('the wrong pickle')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    group = Workers(2, f"{WORK}{work_and_raise.__name__}", {})
    assert group.gather(0) == [0, 1]
    group.close(is_failure=True)


def test_a_full_disk_ends_all_ranks(tmp_path, monkeypatch, two_cores):
    (tmp_path / "text.txt").write_text(TEXT)
    groups, make = [], Workers.__init__
    monkeypatch.setattr(Workers, "__init__", lambda *args: groups.append(args[0]) or make(*args))
    saved = Run.save_state

    def save(run, path=None):
        if run.progress.step:
            raise OSError(errno.ENOSPC, "No space left on device", "state.safetensors")
        saved(run, path)

    with working_together(2) as ranks:
        run = start(train_config(str(tmp_path / "text.txt"), tmp_path / "run"), ranks=ranks)
        monkeypatch.setattr(Run, "save_state", save)
        with pytest.raises(UserError, match="No space left.*when there is room again, continue"):
            train_command(run, is_resumed=False)
    assert [process.returncode for process in groups[0].processes] == [0]
    monkeypatch.undo()
    demand_whole(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_a_loss_that_is_no_number_ends_all_ranks(tmp_path, two_cores):
    (tmp_path / "text.txt").write_text(TEXT)
    config = train_config(str(tmp_path / "text.txt"), tmp_path / "run", learning_rate=1e30)
    with pytest.raises(UserError, match="The last good checkpoint is kept"):
        with working_together(2) as ranks:
            run = start(config, ranks=ranks)
            train(run, Quiet(run))
    demand_whole(tmp_path / "run")


def test_other_data_on_a_rank_are_refused(tmp_path, monkeypatch, two_cores):
    (tmp_path / "text.txt").write_text(TEXT)
    run = start(train_config(str(tmp_path / "text.txt"), tmp_path / "run"))
    run.files.unlock()
    with (
        pytest.raises(UserError, match="rank 1: .*does not have the hash"),
        working_together(2) as ranks,
    ):
        order = ranks.order

        def change_and_order(what):
            (tmp_path / "run" / "tokens.bin").write_bytes(b"\1\0" * len(run.task.text))
            order(what)

        monkeypatch.setattr(ranks, "order", change_and_order)
        resume(tmp_path / "run", {}, ranks)


def test_nothing_is_left_in_the_memory_file_system():
    """Its files have no names, so that no end of any process can leave one."""
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    with workers.shared_memory(4096) as descriptor:
        x = workers.map_memory(descriptor, 4096, np.dtype(float))
        x[:] = 1
        after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert after <= before and x.sum() == 512

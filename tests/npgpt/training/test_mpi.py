"""Runs that ``mpirun`` starts: the bits of ``--workers``, and one message when they end early."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import need
from helpers import ROOT, TEXT

from autograd.kernels import product_choice
from autograd.reading import read_tensors
from npgpt import UserError
from npgpt.parallel.mpi import RANKS, SIZES
from npgpt.training.replay import Replay
from npgpt.training.run import open_run
from npgpt.training.together import follow_launched, working_together

SMALL = dict(
    batch_size=8, n_layer=2, n_embd=16, n_head=2, block_size=8, max_iters=6, eval_interval=3,
    eval_iters=1, sample_tokens=0, dropout=0.2,
)  # fmt: skip


@pytest.fixture
def mpirun():
    """The command of MPI, beside this Python or on the path."""
    folders = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    found = shutil.which("mpirun", path=folders)
    need(found is not None and importlib.util.find_spec("mpi4py") is not None, "npgpt[mpi]")
    return found


def launch(mpirun, n, folder, code="", **options):
    """Train by n processes; return what the command printed, and its exit code."""
    (folder / "text.txt").write_text(TEXT)
    options = SMALL | dict(data=folder / "text.txt", out_dir=folder / "run") | options
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    program = (
        "import sys, autograd; from npgpt.cli import main\n"
        f"autograd.machine.usable_cpus = lambda: 2\n{code}\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [mpirun, "-n", str(n), sys.executable, "-c", program, "train", *words],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "AUTOGRAD_PRODUCT": product_choice()}
        | (VARIABLES if n > 2 else {}),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


VARIABLES = {"MPIR_CVAR_NUM_CLIQUES": "2"}  # lets MPICH take one machine for two


@pytest.mark.parametrize("n", [2, 4])
def test_mpirun_has_the_bits_of_one_process_in_turn(n, mpirun, tmp_path):
    """With four ranks, on two machines of two ranks: what each shares must reach the other."""
    code, out, error = launch(mpirun, n, tmp_path)
    assert code == 0, error
    assert f"{n} processes" in out and out.count("trains:") == 1 and out.count("done in") == 1
    state = read_tensors(tmp_path / "run" / "state.safetensors")[0]
    replay = Replay(tmp_path / "run")
    replay.seek(6)
    assert replay.run.history[0]["environment"]["processes"] == n
    found = replay.run.model.state_dict() | replay.run.optimizer.state_dict()
    assert found.keys() == state.keys()
    for name, x in found.items():
        assert np.array_equal(state[name], x), name


def test_one_line_for_bad_input(mpirun, tmp_path):
    code, out, error = launch(mpirun, 2, tmp_path, batch_size=5)
    assert code != 0 and not (tmp_path / "run").exists()
    assert [line for line in error.splitlines() if "npgpt:" in line] == error.splitlines()[:1]
    assert "2 processes cannot share evenly" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(bogus=3), "unknown option --bogus"),
        (dict(workers=2), "leave out --workers"),
        (dict(n_head=3), "n_head"),
    ],
)
def test_a_wrong_option_ends_all_ranks(options, message, mpirun, tmp_path):
    """Before there is a run, the other ranks wait for an order."""
    code, out, error = launch(mpirun, 2, tmp_path, **options)
    assert code != 0 and not (tmp_path / "run").exists()
    assert [line for line in error.splitlines() if "npgpt:" in line] == error.splitlines()[:1]
    assert message in error


def test_too_little_shared_memory_is_one_line(mpirun, tmp_path):
    """MPI reserves more than there is, and the first access would kill a rank (SIGBUS)."""
    fault = "import npgpt.parallel.mpi as m; m.free_bytes = lambda folder: 1000"
    code, out, error = launch(mpirun, 2, tmp_path, fault)
    assert code != 0
    assert error.count("npgpt: MPI cannot reserve 0 MB of shared memory in /dev/shm") == 1
    assert "Traceback" not in error


def test_an_evaluation_alone_ends_all_ranks(mpirun, tmp_path):
    code, out, error = launch(mpirun, 2, tmp_path, eval_only="true")
    assert code == 0, error
    assert out.count("over the whole validation split") == 1


def test_a_rank_that_raises_is_named(mpirun, tmp_path):
    fault = (
        "import os, npgpt.training.loop as loop\n"
        "if os.environ['PMI_RANK'] == '1':\n"
        "    def fail(*_): raise OSError(28, 'No space left on device', '/a/file')\n"
        "    loop.Run.backward_part = fail\n"
    )
    code, out, error = launch(mpirun, 2, tmp_path, fault)
    assert code != 0
    lines = [line for line in error.splitlines() if line.startswith("npgpt:")]
    assert len(lines) == 1 and re.search(r"rank 1 \(on .*\): /a/file: No space left", lines[0])
    assert open_run(tmp_path / "run").progress.step == 0


def test_a_rank_that_is_killed_ends_all(mpirun, tmp_path):
    fault = (
        "import os, signal, npgpt.training.loop as loop\n"
        "if os.environ['PMI_RANK'] == '1':\n"
        "    loop.Run.backward_part = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    code, _, _ = launch(mpirun, 2, tmp_path, fault)
    assert code != 0 and open_run(tmp_path / "run").progress.step == 0


# ---- without MPI


def test_without_mpi4py_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("npgpt.parallel.mpi.find_spec", lambda name: None)
    monkeypatch.setenv("PMI_RANK", "0")
    with pytest.raises(UserError, match=r"pip install npgpt\[mpi\]"):
        follow_launched()
    with pytest.raises(UserError, match="leave out --workers"), working_together(2):
        pass
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setattr("npgpt.training.together.ignore_signals", lambda: None)
    assert follow_launched() == 2


def test_without_mpirun_a_command_goes_on(monkeypatch):
    for name in (*RANKS, *SIZES):
        monkeypatch.delenv(name, raising=False)
    assert follow_launched() is None
    monkeypatch.setenv("SLURM_PROCID", "0")  # as in a script of sbatch, and in a step of one task
    assert follow_launched() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert follow_launched() is None


def test_a_launcher_of_another_mpi_is_refused(mpirun, tmp_path):
    """Each process would train alone, and write into the folder of the others."""
    (tmp_path / "text.txt").write_text(TEXT)
    command = [sys.executable, "-m", "npgpt", "train", "--data", tmp_path / "text.txt"]
    command += ["--out_dir", tmp_path / "run"]
    started = {"PYTHONPATH": str(ROOT), "SLURM_STEP_NUM_TASKS": "2"}
    for rank, said in ("0", 1), ("1", 0):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60,
            env=os.environ | started | {"SLURM_PROCID": rank},
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.count("2 processes were started, and MPI (MPICH") == said
        assert len(done.stderr.splitlines()) == said
    assert not (tmp_path / "run").exists()

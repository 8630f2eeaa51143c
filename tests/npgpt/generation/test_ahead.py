"""Compiling the decoding step in a second process."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

from autograd.kernels import kernels_enabled
from npgpt.generation import ahead

compiled = pytest.mark.skipif(not kernels_enabled(), reason="needs kernels")
SCRIPT = """
import os, sys
from npgpt.generation import ahead
os.cpu_count = lambda: 2
{before}
ahead.start()
print(ahead._child is not None)
ahead.finish()
ahead.start()  # now there is a compiled step
print(ahead._child is not None, "numba" in sys.modules)
"""


def run(folder, before="", **environment):
    """Run the script with its own folder of compiled kernels; return what it printed, and these."""
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)} | environment,
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert not found.stderr
    return found.stdout.split(), sorted(path.name for path in folder.rglob("decode._run-*"))


@compiled
def test_a_second_process_compiles_the_step(tmp_path):
    printed, files = run(tmp_path)
    assert printed == ["True", "False", "True"] and len(files) == 1


def test_without_kernels_nothing_is_started(tmp_path):
    printed, files = run(tmp_path, AUTOGRAD_KERNELS="0")
    assert printed == ["False", "False", "False"] and not files


@compiled
def test_a_process_that_fails_is_waited_for(tmp_path):
    printed, files = run(tmp_path, before="ahead.CODE = 'raise SystemExit(3)'")
    assert printed[0] == "True" and not files


def test_a_finish_without_a_start_returns():
    ahead.finish()

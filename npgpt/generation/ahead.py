"""Compiling the decoding step in a second process, while the first one compiles what reads prompts.

The first command that generates on a machine compiles for some 18 seconds, of which the decoding
step takes a third. A second process shares this work. Without it, all is the same but slower.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys

import autograd

CODE = "from npgpt.generation.decode import compile_step; compile_step()"
LONGEST = 60  # seconds that `finish` waits

_child: subprocess.Popen | None = None


def start() -> None:
    """Begin to compile in a second process, if there is a second processor and no compiled step."""
    global _child
    if _child is not None or (os.cpu_count() or 1) < 2 or not sys.executable:
        return
    folder = autograd.machine.kernel_cache() if autograd.machine.compiles() else None
    if folder is None or any(folder.glob("decode._run-*.nbc")):
        return
    nothing = subprocess.DEVNULL
    try:
        _child = subprocess.Popen(
            [sys.executable, "-c", CODE], stdin=nothing, stdout=nothing, stderr=nothing
        )
    except OSError:
        return
    atexit.register(_child.kill)


def finish() -> None:
    """Wait for the second process, if there is one."""
    global _child
    if _child is not None:
        try:
            _child.wait(LONGEST)
        except subprocess.TimeoutExpired:
            _child.kill()
        _child = None

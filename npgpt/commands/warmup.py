"""``npgpt warmup``: compile all kernels now, for later processes."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import autograd
from npgpt.diagnostics.warmup import use_kernels_once
from npgpt.errors import UserError
from npgpt.options import parse
from npgpt.say import say


@dataclass
class Options:
    """Compile ahead what training in float32 and generation need; once, for all processes."""


def run(args: list[str]) -> int:
    """Use every kernel once, so that Numba compiles it; print how long that took.

    Raises
    ------
    UserError
        If there is no folder to keep compiled kernels in.
    """
    parse(Options, args, "warmup")
    if not autograd.machine.compiles():
        print("kernels are off (AUTOGRAD_KERNELS=0, NUMBA_DISABLE_JIT=1 or no Numba)")
        return 0
    folder = autograd.machine.kernel_cache()
    if folder is None:
        raise UserError(
            "no folder can be written to, so every process compiles kernels for itself; "
            "set NUMBA_CACHE_DIR to one that can be"
        )
    from numba.core import event

    for path in autograd.machine.kernel_files()["damaged"]:
        with suppress(OSError):
            path.unlink()
    wall, cpu = time.perf_counter(), time.process_time()
    with event.install_recorder("numba:compile") as compilations:
        use_kernels_once()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    did = "kernels compiled" if compilations.buffer else "all kernels are there, and loaded"
    say(f"{did} in {wall:.1f} s ({cpu:.1f} s of CPU time): {folder}")
    return 0

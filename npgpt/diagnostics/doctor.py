"""Whether this installation is healthy, and what to do where it is not."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

import autograd
from autograd import Roof
from autograd.kernels import kernels_enabled, product_choice
from autograd.reading import hash_file
from npgpt.errors import UserError
from npgpt.tokenizers.store import KNOWN, PUBLISHED, folder, gpt1_files, read_encoding


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    section, name, value : str
        Where it belongs, what it is, how it is.
    fix : str
        What to do; empty if it is as it should be.
    """

    section: str
    name: str
    value: str
    fix: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, one thing after the other."""
    yield from versions()
    yield from threads()
    yield from kernels()
    yield from tokenizers()
    yield from speed()


def versions() -> Iterator[Finding]:
    """Look at what is installed, and whether another package stands in the place of ours."""
    section = "versions"
    yield Finding(section, "python", f"{platform.python_version()} on {platform.platform()}")
    for name in ("npgpt", "numpy", "numba", "tiktoken"):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(section, name, "not installed", f"pip install {name}")
            continue
        if works(name):
            yield Finding(section, name, found)
        else:
            fix = f"pip install --upgrade --force-reinstall {name}"
            if name == "numba" and not is_count(os.environ.get("NUMBA_NUM_THREADS", "1")):
                fix = "see NUMBA_NUM_THREADS below"
            yield Finding(section, name, f"{found}, which cannot be imported", fix)
    # where its files replace ours, `import npgpt` has ended with a message before this runs
    try:
        theirs = version("autograd")
    except PackageNotFoundError:
        yield Finding(section, "autograd", f"ours, in {Path(autograd.__file__).parent}")
    else:
        yield Finding(
            section, "autograd", f"another package of this name is installed, too ({theirs})",
            "pip uninstall autograd, then install npgpt again; or use a new environment",
        )  # fmt: skip


def works(name: str) -> bool:
    """Return whether a package can be imported."""
    try:
        import_module(name)
    except (ImportError, ValueError):  # Numba's of NUMBA_NUM_THREADS=0
        return False
    return True


def is_count(value: str) -> bool:
    """Return whether the value of a variable is a number of 1 or more."""
    with suppress(ValueError):
        return int(value) > 0
    return False


def threads() -> Iterator[Finding]:
    """Look at the threads of BLAS and of our kernels, and at what was said about them."""
    section, usable = "threads", autograd.machine.usable_cpus()
    yield Finding(section, "CPUs", f"{usable} usable of {os.cpu_count()}")
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not pools:
        name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
        yield Finding(section, "BLAS", f"{name}, which does not tell its threads")
    variables = ["OMP_NUM_THREADS"]
    for pool in pools:
        variables.append(f"{pool['internal_api'].upper()}_NUM_THREADS")
        name = f"{pool['internal_api']} {pool['version']}"
        yield too_many("BLAS", pool["num_threads"], f" of {name}", variables[-1])
    variables.append("NUMBA_NUM_THREADS")
    if works("numba"):
        n = autograd.machine.kernel_threads()
        yield too_many("kernels", n, " of our own, not Numba's threading layer", variables[-1])
    said = {name: os.environ[name] for name in variables if name in os.environ}
    for name, value in said.items():
        fix = "" if is_count(value) else f"unset {name}, or give a number of 1 or more"
        yield Finding(section, name, value, fix)
    if len(set(said.values())) > 1:
        yield Finding(
            section, "variables", "these numbers differ: products and kernels wait for each other",
            f"unset {' '.join(said)}",
        )  # fmt: skip


def too_many(name: str, n: int, whose: str, variable: str) -> Finding:
    """Return a finding on a number of threads: more than CPUs get in each other's way."""
    usable = autograd.machine.usable_cpus()
    fix = f"export {variable}={usable}" if n > usable else ""
    return Finding("threads", name, f"{n} thread{'s' * (n != 1)}{whose}", fix)


def kernels() -> Iterator[Finding]:
    """Look at the vectors that compilers use, and at the cache of compiled kernels."""
    section = "kernels"
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    used = [*simd.get("baseline", []), *simd.get("found", [])]
    yield Finding(section, "NumPy's SIMD", ", ".join(used) or "none")
    if not works("numba"):
        return
    if not autograd.machine.compiles():
        off = not kernels_enabled()
        value = "off, by AUTOGRAD_KERNELS" if off else "run as Python, by NUMBA_DISABLE_JIT"
        yield Finding(section, "kernels", value, "" if off else "unset NUMBA_DISABLE_JIT")
        return
    bits = autograd.machine.vector_bits()
    width = f"{bits} bits: {bits // 32} numbers of float32" if bits else "of a width not known here"
    yield Finding(section, "Numba's SIMD", width)
    try:
        chosen = product_choice(measure=False) or "measured when the first is needed"
        yield Finding(section, "products", f"{chosen} (AUTOGRAD_PRODUCT chooses by hand)")
    except UserError as error:
        yield Finding(section, "products", str(error), "unset AUTOGRAD_PRODUCT")
    files = autograd.machine.kernel_files()
    for cache, n in Counter(path.parent for path in files["good"]).items():
        yield Finding(section, "cache", f"{n} kernels in {cache}")
    written = autograd.machine.kernel_cache()
    if written is None:
        yield Finding(
            section, "cache", "no folder can be written to: every process compiles what it lacks",
            "export NUMBA_CACHE_DIR=FOLDER, one that can be",
        )  # fmt: skip
    elif not files["good"]:
        yield Finding(section, "cache", f"empty: {written}")
    if files["damaged"]:
        value = f"{len(files['damaged'])} damaged, which are compiled anew: {files['damaged'][0]}"
        others = [path for path in files["damaged"] if not path.is_file()]
        fix = f"remove {others[0]}" if others else "npgpt warmup"
        yield Finding(section, "cache", value, fix)


def tokenizers() -> Iterator[Finding]:
    """Look at which tokenizers are here; nothing is downloaded."""
    section = "tokenizers, offline"
    published = folder() / "published"
    for path in sorted(path for path in published.glob("*") if path.is_file()):
        if PUBLISHED.get(hash_file(path)) != path.name:
            yield Finding(section, path.name, "damaged", f"delete {path}, and add it again")
    if not works("tiktoken"):
        return
    here, cached, missing = list[str](), list[str](), list[str]()
    for name, files in KNOWN.items():
        try:
            gpt1_files() if name == "gpt1" else read_encoding(name)
        except UserError:
            missing.append(name)
        else:
            ours = all((published / file).is_file() for file in files)
            (here if ours else cached).append(name)
    yield Finding(section, "in our folder", f"{', '.join(here) or 'none'} ({folder()})")
    yield Finding(section, "in tiktoken's cache", ", ".join(cached) or "none")
    if missing:
        yield Finding(section, "not here", f"{', '.join(missing)} (npgpt tokenizer list: more)")


def speed() -> Iterator[Finding]:
    """Measure what the machine does at best."""
    roof = Roof.measure()
    yield Finding("speed", "products", f"{roof.flops / 1e9:.0f} GFLOP/s in float32")
    yield Finding("speed", "memory", f"{roof.bandwidth / 1e9:.1f} GB/s in a copy")

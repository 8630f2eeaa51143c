"""The cache of compiled kernels: whatever is wrong with it, kernels run."""

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import machine
from npgpt.cli import main
from npgpt.diagnostics import doctor

pytestmark = pytest.mark.skipif(not machine.compiles(), reason="needs compiled kernels")
if machine.compiles():
    from autograd.kernels import cache

CODE = (  # two kernels that are compiled fast
    "from autograd.kernels.jit import EXACT, jit\n"
    "one, two = jit(EXACT)(lambda x: x + 1), jit(EXACT)(\n"
    "    lambda x: x * 2)\n"
    "print(one(1.0), two(2.0))"
)


def run(folder, code=CODE, **environment):
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)} | environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout == "2.0 4.0\n"
    return found.stderr


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache with the kernels of the code above, and nothing else."""
    folder = tmp_path_factory.mktemp("warm")
    assert run(folder).count("compiling kernels, once, into") == 1
    assert len(files(folder)) == 2 and run(folder) == ""
    return folder


def files(folder):
    return sorted(folder.rglob("*.nbc"))


def test_settings_of_the_compiler_have_kernels_of_their_own(tmp_path):
    """What a debugging session compiled, without optimization, is not used later."""
    for number, environment in enumerate([{"NUMBA_OPT": "0"}, {}, {"NUMBA_BOUNDSCHECK": "1"}], 1):
        assert "compiling kernels" in run(tmp_path, **environment)
        assert run(tmp_path, **environment) == ""
        assert len(files(tmp_path)) == 2 * number


KERNELS = """
import hashlib, sys
import numpy as np
from autograd.kernels import activation, normalization, optimizer

rng = np.random.default_rng(0)
x, g, m, s = np.float32(rng.uniform(-2, 2, (4, 8, 100)))

def adamw():
    p, *others = (a.reshape(-1).copy() for a in (x, g, m, s * s))
    optimizer.adamw([(p, *others, 0.9998)], 1e-3, 0.5, 1e-8, (0.9, 0.99))
    return p

def gelu():
    return activation.gelu_vjp(g, x, "tanh", activation.gelu(x, "tanh"))

def norm():
    out, *saved = normalization.layer_norm(x, (100,), m[0], s[0], 1e-5)
    return np.hstack([out, *normalization.layer_norm_vjp(
        g, x, (100,), m[0], s[0], 1e-5, *saved, (True, True, True))[:1]])

found = {f.__name__: hashlib.sha256(f().tobytes()).hexdigest() for f in map(eval, sys.argv[1:])}
print(sorted(found.items()))
for each in (optimizer._adamw, activation._gelu_tanh, normalization._layer_norm_vjp):
    for compiled in each.launch.overloads.values():
        print("linkonce" in compiled.library.get_llvm_str(), file=sys.stderr)
"""


def test_a_kernel_that_was_just_compiled_rounds_like_one_from_the_cache(tmp_path):
    """A run that compiles the kernels must go on with the same bits in a process that reads them.

    So a kernel calls its own copies of its helpers, whatever else the process has compiled.
    """
    kernels = ["adamw", "gelu", "norm"]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    found = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", KERNELS, *order],
            env=environment, capture_output=True, text=True, check=True,
        )
        for order in (kernels, kernels, kernels[::-1])
    ]  # fmt: skip
    assert len({each.stdout for each in found}) == 1
    assert "True" not in found[0].stderr and found[0].stderr.count("False") == 3


@pytest.fixture
def cached(warm, tmp_path, monkeypatch):
    """A copy of that, which this process looks at as well."""
    shutil.copytree(warm, tmp_path / "cache")
    monkeypatch.setattr(cache, "folders", lambda: [files(tmp_path / "cache")[0].parent])
    return tmp_path / "cache"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:99]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "other bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)),
    "flipped early": lambda path: flip(path, 0.01),
    "flipped in the code": lambda path: flip(path, 0.5),
    "flipped late": lambda path: flip(path, 0.99),
    "huge": lambda path: os.truncate(path, 2**40),
    "a link to zeros": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_seen(damage, cached):
    """By who loads it, and by the doctor."""
    before = [finding for finding in doctor.kernels() if finding.name == "cache"]
    assert [f.fix for f in before] == [""] and "2 kernels" in before[0].value
    path = files(cached)[0]
    DAMAGES[damage](path)
    assert cache.read(path) == ("damaged", b"")
    good, damaged = (finding for finding in doctor.kernels() if finding.name == "cache")
    assert "1 kernels" in good.value and "1 damaged" in damaged.value and str(path) in damaged.value
    assert damaged.fix == ("npgpt warmup" if path.is_file() else f"remove {path}")


@given(st.data())
def test_any_changed_bit_is_seen(warm, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bit") / files(warm)[0].name
    content = bytearray(files(warm)[0].read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert cache.read(path)[0] in ("damaged", "old")
    other = path.with_name(files(warm)[1].name)  # a whole file under another's name is none, too
    shutil.copy(files(warm)[0], other)
    assert cache.read(other)[0] == "damaged"


@pytest.mark.parametrize("damage", ["flipped in the code", "a folder"])
def test_damaged_kernels_are_compiled_anew(damage, cached):
    """With one note, and once; a folder in the place of a file stays, and is said to be there."""
    for path in files(cached):
        DAMAGES[damage](path)
    notes = run(cached)
    assert notes.count("compiling kernels (") == 1 and "is damaged" in notes
    if damage == "a folder":
        assert notes.count("\n") == 2 and notes.count("cannot be kept") == 1
    else:
        assert notes.count("\n") == 1 and run(cached) == ""


def test_old_files_of_numba_are_left_alone(cached):
    for name in ("normalization._softmax-124.py311.1.nbc", "normalization._softmax-124.py311.nbi"):
        (files(cached)[0].parent / name).write_bytes(b"")
    assert run(cached) == ""
    assert not cache.survey()["damaged"]


def test_kernels_of_other_sources_are_old(cached, monkeypatch):
    monkeypatch.setattr(cache, "version", lambda: bytes(32))
    assert [len(found) for found in cache.survey().values()] == [0, 2, 0]


@pytest.mark.parametrize("kind", ["a file", "nowhere"])
def test_a_cache_that_cannot_be_written(kind, tmp_path):
    folder = tmp_path / "cache"
    folder.write_text("") if kind == "a file" else folder.symlink_to("/proc/nowhere")
    notes = run(folder)
    assert notes.count("\n") == 1 and "for this process alone" in notes


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (%d, -1))\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of the system")
@pytest.mark.parametrize("size", [0, 300_000])
def test_a_full_disk(size, tmp_path):
    """One that is full, and one that fills up while a kernel is written."""
    code = LIMIT % 2000 + CODE
    if size:
        code = (
            "import autograd.kernels.cache as c, os; c.replacing = lambda path: open('/dev/full',"
            "'wb', buffering=0)\n" + CODE
        )
    notes = run(tmp_path, code)
    assert notes.count("\n") == (2 if size else 1), notes
    assert "No space left" in notes if size else "for this process alone" in notes
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_read_only_cache_is_read(cached):
    folder = files(cached)[0].parent
    folder.chmod(stat.S_IREAD | stat.S_IEXEC)
    assert run(cached) == ""
    folder.chmod(0o700)


def test_without_a_home(tmp_path):
    """Nothing is made in the current folder, and kernels run."""
    package = tmp_path / "autograd"
    source = Path(cache.__file__).parent.parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "kernels" / "__pycache__").write_text("no folder")
    here = tmp_path / "here"
    here.mkdir()
    code = "import os; os.path.expanduser = lambda p: p\n" + CODE
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-P", "-c", code], env=environment, cwd=here,
                           capture_output=True, text=True)  # fmt: skip
    assert found.returncode == 0 and "for this process alone" in found.stderr, found.stderr
    assert not list(here.iterdir())


def test_processes_at_once(tmp_path):
    with ThreadPoolExecutor() as pool:
        notes = list(pool.map(run, [tmp_path] * 3))
    assert all(note.count("\n") <= 1 for note in notes)
    assert len(files(tmp_path)) == 2 and run(tmp_path) == ""
    assert not [path for path in tmp_path.rglob("*.tmp")]


def test_warmup_mends_the_cache(cached, capsys, monkeypatch):
    from npgpt.commands import warmup

    flip(files(cached)[0], 0.5)
    monkeypatch.setattr(warmup, "use_kernels_once", lambda: None)
    assert main(["warmup"]) == 0
    assert not cache.survey()["damaged"] and len(cache.survey()["good"]) == 1

"""Files are written whole or not at all, one by one and together, whatever happens meanwhile."""

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import autograd
from autograd import files
from autograd.files import (
    JOURNAL,
    finish,
    make_folders,
    read_together,
    remove,
    replacing,
    together,
    write_json,
    write_tensors,
    write_text,
    written,
)
from autograd.reading import read_tensors
from autograd.stepper.draw import draw
from autograd.stepper.to_source import to_source
from autograd.stepper.trace import Trace, trace
from npgpt import GPT, GPTConfig
from npgpt.errors import UserError
from npgpt.files import append
from npgpt.tokenizers import BPETokenizer, ByteTokenizer, read_tokenizer, write_tiktoken
from npgpt.training.config import TrainConfig
from npgpt.training.data import open_tokens, write_tokens
from npgpt.training.folder import RunFolder
from npgpt.training.run import open_run, start
from npgpt.weights.load import load_model

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
CALLS = "open fsync replace link unlink".split()  # of the system, at which a process may end
TINY = dict(vocab_size=5, n_positions=4, n_layer=1, n_head=1)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- what is written: by old and new contents, and how a reader tells them apart


def write_model(folder, new):
    GPT(GPTConfig(n_embd=4 + 4 * new, **TINY), seed=0).save_pretrained(folder / "m")


def read_model(folder):
    model = load_model(folder / "m")
    assert model.state_dict()["transformer.wte.weight"].shape[1] == model.config.n_embd
    return model.config.n_embd == 8


@cache
def traced(new):
    with autograd.record():
        x = autograd.tensor(np.full(99, 1.0 + new), requires_grad=True)
        y = (x * x).sum() if new else np.tanh(x).sum()
    return trace(y)


def write_trace(folder, new):
    traced(new).save(folder / "t")


def read_trace(folder):
    loaded = Trace.load(folder / "t")
    (x,) = (loaded.recording.values[n] for n in loaded.recording.leaves())
    new = "multiply" in {call.op.name for call in loaded.recording.calls.values()}
    assert x[0] == 1 + new
    return new


def write_token_file(folder, new):
    write_tokens(folder / "x.bin", "new" if new else "old one", ByteTokenizer(), [])


def read_token_file(folder):
    return bytes(open_tokens(folder / "x.bin")[0].astype(np.uint8)) == b"new"


def write_bpe(folder, new):
    ranks = {bytes([i]): i for i in range(256)} | ({b"ab": 256} if new else {})
    tokenizer = BPETokenizer(ranks, name="x", pattern=r"\S+|\s+" if new else r"\w+|\W+")
    write_tiktoken(tokenizer, folder / "x.tiktoken")


def read_bpe(folder):
    found = read_tokenizer(folder / "x.tiktoken")
    new = found.n_vocab == 257
    assert found.pattern == (r"\S+|\s+" if new else r"\w+|\W+")
    return new


SETS = {
    "model": (write_model, read_model),
    "trace": (write_trace, read_trace),
    "tokens": (write_token_file, read_token_file),
    "bpe": (write_bpe, read_bpe),
    "text": (
        lambda folder, new: write_text(folder / "x", "new" * 99 if new else "old"),
        lambda folder: {"old": False, "new" * 99: True}[(folder / "x").read_text()],
    ),
}


def ending_at(number, end, calls=CALLS):
    """Let the call of that number end in something; return a counter, and what puts all back."""
    count, real = [0], {name: getattr(os, name) for name in calls}

    def ends(name):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == number:
                end()
            return real[name](*args, **kwargs)

        return call

    for name in calls:
        setattr(os, name, ends(name))
    return count, lambda: [setattr(os, name, function) for name, function in real.items()]


@pytest.fixture
def fast(monkeypatch):
    """No waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@posix
@pytest.mark.parametrize("kind", SETS)
def test_a_kill_at_any_moment_leaves_the_old_files_or_the_new(kind, tmp_path, fast):
    """And the next process that writes or reads clears up, but for files under unfinished names."""
    write, read = SETS[kind]
    write(tmp_path, True)
    seen = set()
    for number in range(1, 60):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, False)
        child = os.fork()
        if not child:
            count, _ = ending_at(number, lambda: os._exit(9))
            write(folder, True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seen.add(read(folder))
        assert not list(folder.rglob(JOURNAL))
        if code == 0:
            break
        assert code == 9
    assert seen == {False, True} and read(folder)


@posix
@pytest.mark.parametrize("kind", SETS)
def test_an_error_at_any_moment_leaves_the_old_files_or_the_new(kind, tmp_path, fast):
    """And nothing else. Before the renames begin, the old ones."""
    write, read = SETS[kind]
    number, count = 0, [99]
    while count[0] >= number:
        number += 1
        write(tmp_path, False)
        before = contents(tmp_path)
        count, restore = ending_at(number, full, CALLS[:-1])
        try:
            write(tmp_path, True)
        except OSError as error:
            assert error.errno == errno.ENOSPC and ".tmp" not in str(error.filename)
        finally:
            restore()
        if not read(tmp_path):
            assert contents(tmp_path) == before
        assert contents(tmp_path).keys() == before.keys()
    assert number > 3


@posix
def test_a_full_disk_keeps_what_was_there(tmp_path):
    """By a limit of the system, so that it is the write itself that fails."""
    import resource

    write_model(tmp_path, False)
    write_trace(tmp_path, False)
    before = contents(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 1, 10, 400, 700):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
        try:
            for write in (write_model, write_trace):
                with pytest.raises(OSError, match="too large") as caught:
                    write(tmp_path, True)
                assert Path(caught.value.filename).parent.parent == tmp_path
            with pytest.raises(OSError):
                write_model(tmp_path / "new", True)
            assert not (tmp_path / "new" / "m").exists()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert contents(tmp_path) == before


@posix
def test_overwrite_keeps_a_run_until_the_new_one_is_written(tmp_path, fast):
    """Ended by an error at any moment, there is the old run or the new one."""
    (tmp_path / "text.txt").write_text("to be or not to be " * 20)
    shape = dict(
        block_size=4, n_layer=1, n_head=1, tokenizer="char", data=(f"{tmp_path}/text.txt",)
    )

    def make(n_embd, **options):
        start(TrainConfig(n_embd=n_embd, out_dir=f"{tmp_path}/run", **shape), **options)
        RunFolder(tmp_path / "run").unlock()

    make(4)
    (tmp_path / "run" / "metrics.jsonl").write_text("of the old run")
    before, number, count = contents(tmp_path), 0, [99]
    while count[0] >= number:
        number += 1
        count, restore = ending_at(number, full, CALLS[:-1])
        try:
            make(8, overwrite=True)
        except UserError:
            assert contents(tmp_path) == before or "run/" + JOURNAL in contents(tmp_path)
        finally:
            restore()
        run = open_run(tmp_path / "run")
        if run.config.n_embd == 8:
            assert not (tmp_path / "run" / "metrics.jsonl").exists()
            break
        assert contents(tmp_path) == before
    assert number > 3
    make(8, overwrite=True)
    assert open_run(tmp_path / "run").model.config.n_embd == 8


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    class Full:
        """A file on a disk with room for a few bytes more."""

        def __init__(self, path, room):
            self.file, self.room = open(path, "ab", buffering=0), room  # noqa: SIM115
            self.fileno, self.truncate = self.file.fileno, self.file.truncate

        def write(self, part):
            if not self.room:
                full()
            n = self.file.write(part[: min(2, self.room)])
            self.room -= n
            return n

    path = tmp_path / "x.jsonl"
    path.write_bytes(b"one\n")
    for room in range(4):
        with pytest.raises(OSError):
            append(Full(path, room), b"two\n")
        assert path.read_bytes() == b"one\n"
    append(Full(path, 4), b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


@posix
def test_writers_and_readers_at_once(tmp_path):
    """Two processes write the same model and trace again and again; who reads finds one of them."""
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_files as t\n"
        "folder, new = pathlib.Path(sys.argv[2]), sys.argv[3] == '1'\n"
        "for _ in range(12): t.write_model(folder, new); t.write_trace(folder, new)"
    )
    write_model(tmp_path, False)
    write_trace(tmp_path, False)
    writers = [
        subprocess.Popen([sys.executable, "-c", script, Path(__file__).parent, tmp_path, new])
        for new in "01"
    ]
    while any(writer.poll() is None for writer in writers):
        read_model(tmp_path)
        read_trace(tmp_path)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(contents(tmp_path)) == [
        "m/config.json", "m/model.safetensors", "t/trace.json", "t/trace.safetensors",
    ]  # fmt: skip


def test_a_reader_waits_for_renames_that_begin_before_it_reads(tmp_path, monkeypatch):
    """A process that stands still between two renames must not be read, however long it does."""
    with together(tmp_path):
        write_text(tmp_path / "a", "old")
        write_text(tmp_path / "b", "old")
    renames = {name: f".{name}.0123456789abcdef.tmp" for name in "ab"}
    before, waits = files.finish, []

    def finish(folder):
        before(folder)
        if not waits:  # another process begins now
            for temporary in renames.values():
                (tmp_path / temporary).write_text("new")
            (tmp_path / JOURNAL).write_text(json.dumps(renames))
            os.replace(tmp_path / renames["a"], tmp_path / "a")
        waits.append(folder)

    monkeypatch.setattr(files, "finish", finish)
    read = files.read_together(
        tmp_path, "ab".__contains__, lambda: [(tmp_path / name).read_text() for name in "ab"]
    )
    assert read == ["new", "new"] and len(waits) == 2


def test_a_file_that_is_written_and_removed_in_one_block_is_not_there(tmp_path):
    with together(tmp_path):
        write_text(tmp_path / "a", "a")
        write_text(tmp_path / "b", "b")
        remove(tmp_path / "a")
    assert contents(tmp_path) == {"b": b"b"}


def test_a_file_of_another_folder_is_where_its_name_says(tmp_path):
    with together(tmp_path):
        write_text(tmp_path / "a", "a")
        assert written(tmp_path / "a").read_text() == "a"
        assert written(tmp_path / "other" / "a") == tmp_path / "other" / "a"


def test_threads_do_not_join_each_others_blocks(tmp_path):
    with together(tmp_path):
        write_text(tmp_path / "a", "a")
        thread = threading.Thread(target=lambda: write_text(tmp_path / "b", "b"))
        thread.start()
        thread.join()
        assert os.path.exists(tmp_path / "b") and not os.path.exists(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "a"


def test_a_block_that_raises_leaves_all_as_it_was(tmp_path):
    write_text(tmp_path / "a", "old")
    for folder in (tmp_path, tmp_path / "new" / "deep"):
        with pytest.raises(ZeroDivisionError), together(folder):
            for text in "new", "newer":
                write_text(folder / "a", text)
            remove(folder / "a")
            write_text(folder / "b", "b")
            1 / 0  # noqa: B018
        assert contents(tmp_path) == {"a": b"old"}
    assert not (tmp_path / "new" / "deep").exists()
    with together(tmp_path), together(tmp_path / "."):  # the same
        write_text(tmp_path / "b", "b")
        remove(tmp_path / "a")
        remove(tmp_path / "never")
        assert contents(tmp_path)["a"] == b"old"
    assert contents(tmp_path) == {"b": b"b"}


@given(
    st.one_of(
        st.binary(max_size=30),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=9)
            | st.sampled_from(["x", "..", "../x", "/etc/x", ".x.0123456789abcdef.tmp", ""]),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["x", "y", "../y", "", "..", "/y"]), inner),
        ).map(lambda values: json.dumps(values).encode()),
    )
)  # fmt: skip
def test_a_journal_of_someone_elses_moves_nothing_outside(tmp_path_factory, fast, journal):
    outside = tmp_path_factory.mktemp("outside")
    folder = outside / "folder"
    folder.mkdir()
    (outside / ".x.0123456789abcdef.tmp").write_text("outside")
    (outside / "y").write_text("outside")
    (folder / JOURNAL).write_bytes(journal)
    finish(folder)
    assert contents(outside) == {".x.0123456789abcdef.tmp": b"outside", "y": b"outside"}


@posix
@pytest.mark.parametrize("make", [lambda p: os.mkfifo(p), lambda p: p.symlink_to("/dev/zero")])
def test_a_journal_that_is_no_file(make, tmp_path):
    make(tmp_path / JOURNAL)
    for _ in range(2):
        with suppress(OSError):  # within a moment, in any case
            finish(tmp_path)


def test_what_is_written_all_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "TRIES", 3)
    calls = []

    def read():
        calls.append(1)
        write_text(tmp_path / "x", str(len(calls)))

    with pytest.raises(OSError, match="written all the time"):
        read_together(tmp_path, lambda name: True, read)
    assert len(calls) == 3
    read_together(tmp_path, lambda name: name != "x", read)


# ---- names, links and modes


@posix
def test_nothing_is_written_through_names_that_were_laid_out(tmp_path):
    """Whatever links lie in the folder, and however they are called."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    names = ["x", "config.json", "model.safetensors", "trace.json", "trace.safetensors", "tape.svg"]
    for name in names:
        for temporary in (f".{name}.tmp", f"{name}.tmp", f".tmp{name}"):
            (folder / temporary).symlink_to(victim)
    laid = {path: os.readlink(path) for path in folder.iterdir()}
    write_text(folder / "x", "text")
    GPT(GPTConfig(n_embd=4, **TINY)).save_pretrained(folder)
    with autograd.record():
        y = (autograd.tensor(np.ones(30), requires_grad=True) * 2.0).sum()
    trace(y).save(folder)
    draw(y).save(folder / "tape.svg")
    to_source(y, folder / "step.py")
    assert victim.read_text() == "mine"
    assert {path: os.readlink(path) for path in folder.iterdir() if path.is_symlink()} == laid


@posix
def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    for target, link in ((far / "x", "x"), (far / "new", "new"), (tmp_path / "x", "to-x")):
        (tmp_path / link).symlink_to(os.path.relpath(target, tmp_path))
    (far / "x").write_text("old")
    for link in ("x", "new", "to-x"):
        with together(tmp_path):
            write_text(tmp_path / link, link)
    assert contents(far) == {"x": b"to-x", "new": b"new"}
    assert all((tmp_path / link).is_symlink() for link in ("x", "new", "to-x"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError):
        write_text(tmp_path / "loop", "text")
    assert (tmp_path / "loop").is_symlink()


@posix
def test_modes(tmp_path):
    """New files have that of the umask, others keep theirs."""

    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(0)
    try:
        for umask in (0o022, 0o077, 0o002, 0):
            os.umask(umask)
            path = tmp_path / f"{umask:o}"
            write_text(path, "text")
            write_tensors(tmp_path / f"t{umask:o}", {"a": np.ones(3)})
            make_folders(tmp_path / f"f{umask:o}")
            assert mode(path) == mode(tmp_path / f"t{umask:o}") == 0o666 & ~umask
            assert mode(tmp_path / f"f{umask:o}") == 0o777 & ~umask
            for kept in (0o600, 0o640, 0o664, 0o755, 0o4755):
                path.chmod(kept)
                write_text(path, "other")
                assert mode(path) == kept and path.read_text() == "other"
    finally:
        os.umask(before)


@posix
def test_a_file_that_may_not_be_written_is_not_replaced():
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # other users cannot look into pytest's folders
        path = Path(folder) / "x"
        path.write_text("mine")
        path.chmod(0o444)
        Path(folder).chmod(0o777)
        if user == 0:
            os.seteuid(65534)  # permissions do not apply to root
        try:
            write_text(path.with_name("y"), "another")
            with pytest.raises(PermissionError) as caught:
                write_text(path, "text")
        finally:
            os.seteuid(user)
        assert caught.value.filename == str(path)
        assert contents(Path(folder)) == {"x": b"mine", "y": b"another"}


@posix
def test_devices_and_pipes_are_written_to(tmp_path, capfd):
    write_text("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 99) == b"text" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "text")


@pytest.mark.parametrize("name", ["é" * 120, "x" * 255, ".", "\u202e", "a\nb"])
def test_names_as_long_and_odd_as_the_system_takes(name, tmp_path):
    if name != ".":
        write_text(tmp_path / name, "text")
        write_text(tmp_path / name, "other")
        assert contents(tmp_path) == {name: b"other"}


def test_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "x"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "no" / "x"):
        pass
    assert caught.value.filename == str(tmp_path / "no" / "x")


# ---- formats


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter("__metadata__".__ne__),
        st.sampled_from(sorted(files.DTYPES)).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
        ),
        max_size=5,
    ),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                    st.text(st.characters(exclude_categories=["Cs"])), max_size=1),
)  # fmt: skip
def test_the_library_reads_what_was_written(tmp_path_factory, fast, tensors, metadata):
    """From any layout in memory."""
    from safetensors.numpy import load

    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    for change in (np.asarray, lambda a: a.T.copy().T, lambda a: a.astype(a.dtype.newbyteorder())):
        write_tensors(path, {name: change(a) for name, a in tensors.items()}, metadata)
        data = path.read_bytes()
        loaded = load(data)
        assert loaded.keys() == tensors.keys()
        for name, array in loaded.items():
            assert array.tobytes() == tensors[name].tobytes()
            assert array.shape == tensors[name].shape


def test_each_bit_of_the_hash_counts(tmp_path):
    """A digit that becomes another sign does not make a file of another program."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": np.zeros(3)})
    content, key = path.read_bytes(), b'"npgpt.sha256":"'
    start = content.index(key) + len(key)
    for bit in range(8 * start, 8 * (start + 64)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            read_tensors(path)


def test_what_the_format_has_no_name_for(tmp_path):
    for name, array in (("a", np.ones(2, "c16")), ("b", np.array(["x"])), ("__metadata__", 1.0)):
        with pytest.raises(TypeError, match=name):
            write_tensors(tmp_path / "x", {name: array})
    assert not contents(tmp_path)


def test_json_of_names_that_are_not_utf8(tmp_path):
    values = {"name": os.fsdecode(b"\xff\xfe.txt"), "text": "häß\u2028\x1b"}
    write_json(tmp_path / "x", values)
    assert json.loads((tmp_path / "x").read_text(encoding="utf-8")) == values

"""Files that are damaged or made to do harm: one line about the file, in bounded time and memory.

Every kind of file that this package reads is mutated, by a seed: bytes, and where the file holds
JSON or TOML, values. A reader then either reads the file or raises the package's own error.
"""

import copy
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from helpers import gguf_llama, write_gguf
from hypothesis import settings
from rich.console import Console

import autograd
from autograd.files import HASH
from autograd.schema import UserError
from autograd.stepper import trace
from autograd.stepper.terminal import Terminal
from npgpt import GPT, GPTConfig, generate, load_tokenizer
from npgpt.cli import main
from npgpt.learn.katas import Progress
from npgpt.tokenizers import train_bpe, write_tiktoken
from npgpt.tokenizers.huggingface import byte_letters
from npgpt.training import run as training
from npgpt.training.config import TrainConfig
from npgpt.training.data import open_tokens, tokenizer_of_tokens
from npgpt.training.data import read_text as read_corpus
from npgpt.training.folder import RunFolder
from npgpt.training.metrics import Metrics
from npgpt.training.replay import Replay
from npgpt.weights.load import load_model

TEXT = "to be, or not to be: that is the question.\n" * 20
MEMORY = 2**30  # bytes that a reader may take
SECONDS = 20


# ---- one valid set of files of each kind, and how each is read


def _model(**values):
    config = dict(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    return GPT(GPTConfig(**(config | values)), seed=1)


def make_model(folder):
    model = _model()
    model.generation_config = {"eos_token_id": 3, "top_k": 5, "max_new_tokens": 2}
    model.save_pretrained(folder)


def read_model(folder):
    model = load_model(folder)
    generate(model, [[1, 2]], max_new_tokens=2, seed=0)


def make_sharded(folder):
    make_model(folder)
    tensors, _ = read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    from safetensors.numpy import save_file

    names = sorted(tensors)
    where = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_safetensors(path):
    from autograd.reading import read_tensors

    return read_tensors(path)


def make_gguf(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf(folder / "tiny.gguf", *gguf_llama({"ffn_up": "Q4_1"}, n_layer=1))


def make_gguf_parts(folder):
    """A model in two files, with blocks of every kind, and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"ffn_up": "Q4_0", "ffn_down": "Q8_0", "attn_v": "F16", "attn_output": "BF16"}
    metadata, tensors = gguf_llama(kinds, n_layer=1)
    metadata["tokenizer.chat_template"] = "{{ messages[0].content }}"
    names = sorted(tensors)
    for i in (0, 1):
        split = {"split.no": i, "split.count": 2, "split.tensors.count": len(names)}
        of_part = {name: tensors[name] for name in names[i::2]}
        path = folder / f"tiny-{i + 1:05}-of-00002.gguf"
        write_gguf(path, (metadata if i == 0 else {}) | split, of_part)


def make_other_ggufs(folder):
    """A GPT-2 and a Qwen2, as npgpt writes them."""
    from npgpt.models.llama import Llama, LlamaConfig
    from npgpt.tokenizers import ByteTokenizer
    from npgpt.weights.export import export_gguf

    folder.mkdir(parents=True, exist_ok=True)
    sizes = dict(vocab_size=256, n_positions=8, n_embd=32, n_layer=1, n_head=2)
    qwen2 = Llama(LlamaConfig(**sizes, model_type="qwen2", rope_scaling={
        "rope_type": "yarn", "factor": 2.0,
    }), seed=1)  # fmt: skip
    for name, model in {"gpt2": _model(**sizes), "qwen2": qwen2}.items():
        source = folder.parent / name
        model.save_pretrained(source)
        _save(ByteTokenizer(), source)
        export_gguf(source, folder / f"{name}.gguf", "Q4_1")


def read_gguf(folder):
    paths = [*folder.glob("*-of-*.gguf")][:1] or [*folder.glob("*.gguf")]
    for path in paths:
        read_model(path)
        generate(load_model(path, packed=True), [[1, 2]], max_new_tokens=2, seed=0)
        read_any_tokenizer(path, folder)


def make_release(folder):
    shapes = [[8, 64], [20, 64]] + [
        [1, 64, 192], [192], [1, 64, 64], [64], [64], [64], [1, 64, 256], [256], [1, 256, 64],
        [64], [64], [64],
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params_shapes.json").write_text(json.dumps(shapes))
    size = sum(int(np.prod(shape)) for shape in shapes)
    for i, part in enumerate(np.array_split(np.zeros(size, np.float32), 10)):
        np.save(folder / f"params_{i}.npy", part)


def make_run(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "text.txt").write_text(TEXT)
    config = TrainConfig(
        data=(str(folder.parent / "text.txt"),), out_dir=str(folder), n_layer=1, n_head=1, n_embd=4,
        block_size=4, batch_size=1, max_iters=2, eval_interval=1, eval_iters=1, log_interval=1,
    )  # fmt: skip
    run = training.start(config)
    training.train(run, _Silent())


class _Silent:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def read_run(folder):
    """Resume, replay and metrics: all that reads a run."""
    run = training.resume(folder, {})
    RunFolder(folder).unlock()
    Metrics(folder / "metrics.jsonl", run.progress.step)
    replay = Replay(folder, 0, 0, force=True)
    replay.seek(0)


def make_toml(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.toml").write_text(TrainConfig(data=("a.txt",)).to_toml())


def read_toml_config(folder):
    TrainConfig.from_toml(folder / "train.toml")


def _save(tokenizer, folder):
    from npgpt.tokenizers import save_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, folder)


def _bpe():
    return train_bpe(TEXT, 270, special_tokens=("<|endoftext|>",))


def make_char(folder):
    from npgpt.tokenizers import CharTokenizer

    _save(CharTokenizer.from_text(TEXT), folder)


def make_bpe(folder):
    _save(_bpe(), folder)


def _gpt1():
    from npgpt.tokenizers import GPT1Tokenizer

    vocab = {"<unk>": 0, "t": 1, "o</w>": 2, "to</w>": 3, "b": 4, "e</w>": 5, "be</w>": 6}
    return GPT1Tokenizer(vocab, [("t", "o</w>"), ("b", "e</w>")])


def make_gpt1(folder):
    _save(_gpt1(), folder)


def make_tiktoken(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_tiktoken(_bpe(), folder / "own.tiktoken")


def _pair():
    letters = byte_letters()
    vocab = {letter: i for i, letter in enumerate(letters.values())}
    merges = [("t", "o"), ("b", "e")]
    vocab |= {"to": 256, "be": 257}
    return vocab, merges


def make_pair(folder):
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = _pair()
    vocab["<|endoftext|>"] = 258
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)))
    token = {"content": "<|extra|>", "special": True, "lstrip": False, "rstrip": False,
             "normalized": False, "single_word": False}  # fmt: skip
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>",
              "added_tokens_decoder": {"259": token}}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps({"<|extra|>": 259}))
    special = {"eos_token": {**token, "content": "<|endoftext|>"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def make_hugging_face(folder):
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = _pair()
    vocab["<|endoftext|>"] = 258
    token = {"id": 258, "content": "<|endoftext|>", "special": True, "lstrip": False,
             "rstrip": False, "normalized": False, "single_word": False}  # fmt: skip
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [258],
                                             "tokens": ["<|endoftext|>"]}},
    }  # fmt: skip
    values = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [token],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": template,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab,
                  "merges": [list(pair) for pair in merges]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(values))


def read_any_tokenizer(path, folder=None):
    tokenizer = load_tokenizer(path)
    ids = tokenizer.encode("to be", allowed_special="all")
    "".join(tokenizer.decode_stream(ids))
    tokenizer.decode(ids, skip_special_tokens=True)
    again = (folder or path) / "again"
    _save(tokenizer, again)
    load_tokenizer(again)


def make_tokens(folder):
    from npgpt.tokenizers import CharTokenizer
    from npgpt.training.data import write_tokens

    folder.mkdir(parents=True, exist_ok=True)
    write_tokens(folder / "own.bin", TEXT, CharTokenizer.from_text(TEXT), ["text.txt"])
    described = json.loads((folder / "own.json").read_text())
    del described["description_sha256"]  # as in version 0.1.0; or the hash alone decides
    (folder / "own.json").write_text(json.dumps(described))


def read_token_file(folder):
    tokens, info = open_tokens(folder / "own.bin")
    tokenizer_of_tokens(folder / "own.bin", info).decode(tokens)


def make_trace(folder):
    rng = np.random.default_rng(0)
    with autograd.use_kernels(False), autograd.record():
        x = autograd.tensor(rng.normal(size=(2, 3)), requires_grad=True)
        w = autograd.tensor(rng.normal(size=(3, 2)), requires_grad=True)
        y = autograd.nn.softmax((x @ w)[..., ::-1], dim=-1)
        loss = (np.concatenate([y, y]).sum(axis=0) * np.float32(2)).mean()
    trace(loss).save(folder)


def read_trace(folder):
    found = autograd.stepper.Trace.load(folder)
    stepper = Terminal(found, Console(file=io.StringIO(), width=80))
    lines = "where;next;print;why w;formula;check;into;where;out;next;print d(x);continue;where"
    stepper.play(lines.split(";"))


def make_katas(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "katas.json").write_text(
        json.dumps({"multiply": {"hints": 1, "solved_with": 1}, "divide": {"hints": 2}})
    )


def read_katas(folder):
    progress = Progress(folder)
    progress.solved()
    progress.following()


def make_text(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(TEXT)


def read_texts(folder):
    read_corpus((str(folder / "text.txt"),))


KINDS = {
    "model": (make_model, read_model),
    "sharded model": (make_sharded, read_model),
    "gguf": (make_gguf, read_gguf),
    "gguf in parts": (make_gguf_parts, read_gguf),
    "other gguf": (make_other_ggufs, read_gguf),
    "release": (make_release, load_model),
    "run": (make_run, read_run),
    "train.toml": (make_toml, read_toml_config),
    "characters": (make_char, read_any_tokenizer),
    "byte pairs": (make_bpe, read_any_tokenizer),
    "gpt1": (make_gpt1, read_any_tokenizer),
    "tiktoken": (make_tiktoken, read_any_tokenizer),
    "vocab.json": (make_pair, read_any_tokenizer),
    "tokenizer.json": (make_hugging_face, read_any_tokenizer),
    "tokens": (make_tokens, read_token_file),
    "trace": (make_trace, read_trace),
    "katas": (make_katas, read_katas),
    "text": (make_text, read_texts),
}


# ---- mutations

NESTED = json.loads("[" * 60 + "]" * 60)
HOSTILE = [
    None, True, False, 0, -1, 3, 2**16, 2**31, 2**32, 2**63, 10**9, 10**30, 10**400, 0.5, -0.0,
    float("inf"), float("-inf"), float("nan"), 1e300, "", "3", "a", "\ud800", "\udcff", "\x1b[2J",
    "a\nb", "../x", "/dev/zero", "é" * 300, [], [[]], [None], [1, 2], {}, {"a": 1}, {"": {}},
    NESTED,
]  # fmt: skip
TOML_VALUES = [
    "1", "-1", "0", "1e400", "-inf", "nan", "9" * 30, "9" * 5000, "'3'", "''", "true", "[]", "[1]",
    "['a', 1]", "[['a']]", "{}", "{a = 1}", "1979-05-27", "[" * 3000 + "]" * 3000, "'\\u0000'",
    '"\\u0000"', '"\\u001b[2J"', "0x10", "1_000",
]  # fmt: skip
BYTES = [b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 2000, b"{", b"}", b'"', b",",
         b"9" * 5000, b"1e400", b"NaN", b"\n", b"\x1b[2J", b"-", b"\\ud800"]  # fmt: skip


def places(value, path=()):
    """Yield the paths to all values inside of one."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, item in [*items, *enumerate(value if isinstance(value, list) else ())]:
        yield from places(item, (*path, key))


def mutate_json(value, rng):
    """Return the text of a JSON value after one change."""
    paths = [path for path in places(value) if len(path)]
    if not paths:
        return json.dumps(rng.choice(HOSTILE))
    short = [path for path in paths if len(path) <= 2]
    path = rng.choice(short if rng.random() < 0.5 else paths)
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    way = rng.randrange(6)
    if way == 0:
        del parent[key]
    elif way == 1 and isinstance(parent, dict):
        parent["\u2028unknown"] = rng.choice(HOSTILE)
    elif way == 2:
        other = rng.choice(paths)
        try:
            found = value
            for step in other:
                found = found[step]
            parent[key] = copy.deepcopy(found)
        except (KeyError, IndexError, TypeError):
            parent[key] = None
    elif way == 3 and isinstance(parent[key], int | float):
        parent[key] = rng.choice(
            [parent[key] + 1, -parent[key], parent[key] * 10**6, str(parent[key])]
        )
    elif way == 4 and isinstance(parent, dict):  # a key twice
        text = json.dumps(value)
        entry = f"{json.dumps(key)}: "
        return text.replace(entry, f"{entry}{json.dumps(rng.choice(HOSTILE))}, {entry}", 1)
    else:
        parent[key] = rng.choice(HOSTILE)
    return json.dumps(value, ensure_ascii=rng.random() < 0.9)


def mutate_bytes(content, rng):
    """Return bytes after one change."""
    content = bytearray(content)
    i, j = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    way = rng.randrange(6)
    if way == 0:
        del content[i:]
    elif way == 1:
        del content[i:j]
    elif way == 2:
        content[i:i] = content[i:j]
    elif way == 3:
        content[i:i] = rng.choice(BYTES)
    elif way == 4 and i < len(content):
        content[i] ^= 1 << rng.randrange(8)
    else:
        content[0:0] = rng.choice(BYTES)
    return bytes(content)


def mutate(path, rng):
    """Change a file, as its kind allows; a file that was damaged before in its bytes."""
    content = path.read_bytes()
    try:
        content = _mutated(path, content, rng)
    except (ValueError, RecursionError, LookupError, struct.error):
        content = mutate_bytes(content, rng)
    path.write_bytes(content)


def _mutated(path, content, rng):
    way = rng.random()
    text = None
    if path.suffix == ".json" and way < 0.8:
        text = mutate_json(json.loads(content), rng)
    elif path.suffix == ".jsonl" and way < 0.8:
        lines = content.decode().splitlines()
        i = rng.randrange(len(lines))
        lines[i] = mutate_json(json.loads(lines[i]), rng)
        text = "\n".join(lines)
    elif path.suffix == ".toml" and way < 0.8:
        lines = content.decode().splitlines()
        i = rng.randrange(len(lines))
        key = lines[i].split(" = ")[0]
        lines[i] = f"{key} = {rng.choice(TOML_VALUES)}" + ("\n" + lines[i] if way < 0.1 else "")
        text = "\n".join(lines)
    elif path.suffix == ".safetensors" and way < 0.7:
        content = mutate_safetensors(content, rng)
    elif path.suffix == ".gguf" and way < 0.7:
        content = mutate_gguf(content, rng)
    elif path.suffix == ".npy" and way < 0.5:
        content = content.replace(b"(", b"(-" if way < 0.2 else b"(9" * rng.randrange(30), 1)
    else:
        content = mutate_bytes(content, rng)
    return content if text is None else text.encode("utf-8", "surrogatepass")


def mutate_safetensors(content, rng):
    """Change the header: the metadata's JSON inside of it, an entry, or the length in front."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    way = rng.random()
    if way < 0.15:
        length = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])
        return struct.pack("<Q", length) + content[8:]
    metadata = header.get("__metadata__", {})
    inner = [key for key, text in metadata.items() if text[:1] in "{["]
    if inner and way < 0.7:
        key = rng.choice(inner)
        metadata[key] = mutate_json(json.loads(metadata[key]), rng)
        metadata.pop(HASH, None)  # or the file is refused for its hash alone
        new = json.dumps(header)
    else:
        metadata.pop(HASH, None)
        new = mutate_json(header, rng)
    new = new.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(new)) + new + content[8 + length :]


NUMBERS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    12,
    31,
    33,
    64,
    2**15,
    2**20,
    2**31,
    2**32,
    2**60,
    2**63,
    2**64 - 1,
]


def mutate_gguf(content, rng):
    """Change a number of the header; or lengths, types and values of an entry of metadata."""
    form = rng.choice(["<I", "<Q"])
    value = rng.choice(NUMBERS) % 2 ** (8 * struct.calcsize(form))
    places = [8, 16]  # how many tensors and entries there are
    for key in re.findall(
        rb"(?:general|llama|gpt2|qwen2|split|tokenizer|blk|token_embd|output)[\w.]*", content
    ):
        end = content.index(key) + len(key)
        places += [end - len(key) - 8, *range(end, end + 32, 4)]
    place = rng.choice(places)
    return content[:place] + struct.pack(form, value) + content[place + struct.calcsize(form) :]


# ---- the limits


class Late(BaseException):
    """A reader takes too long; no reader catches this as an error of the file."""


@contextmanager
def bounded():
    """Let what runs inside take `SECONDS` and `MEMORY` at most."""

    def late(*_):
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    if pages.exists():
        used = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """One folder of valid files for each kind."""
    root = tmp_path_factory.mktemp("valid")
    with redirect_stdout(io.StringIO()):
        for kind, (make, _) in KINDS.items():
            make(root / kind / "it")
    return root


def of_kind(kind, valid, tmp_path):
    """Return a copy of a kind's files, its folder, and the files to change."""
    folder = tmp_path / "it"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid / kind / "it", folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return folder, [path for path in files if not path.name.startswith(".")]


@pytest.mark.parametrize("kind", KINDS)
def test_valid_files(kind, valid, tmp_path):
    folder, _ = of_kind(kind, valid, tmp_path)
    with bounded():
        KINDS[kind][1](folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_mutated_files(kind, valid, tmp_path, monkeypatch):
    """A reader reads the file, or says in one line what is wrong with which file."""
    monkeypatch.chdir(tmp_path)
    for seed in range(settings().max_examples):
        rng = random.Random(f"{kind} {seed}")
        folder, files = of_kind(kind, valid, tmp_path)
        changed = rng.choice(files)
        for _ in range(rng.choice([1, 1, 2])):
            mutate(changed, rng)
        where = f"{kind} {seed}: {changed.name}"
        with bounded(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            try:
                KINDS[kind][1](folder)
            except UserError as error:
                message = str(error)
            except BaseException as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
            else:
                continue
        assert message.isprintable() or "\n" not in message, where
        assert len(message) < 1500, where


# ---- what is no regular file


def a_socket(path):
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    server.bind(path.name)
    os.chdir(here)
    server.close()


def a_sparse_file(path):
    with path.open("wb") as file:
        file.truncate(2**40)


SPECIAL = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": a_socket,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: None,
    "a file of 1 TB": a_sparse_file,
}


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "text"])
def test_special_files(kind, what, valid, tmp_path, monkeypatch):
    """Each file of a folder in turn is none: nobody waits, and nobody reads without end."""
    monkeypatch.chdir(tmp_path)
    folder, files = of_kind(kind, valid, tmp_path)
    for file in files:
        of_kind(kind, valid, tmp_path)
        file.unlink()
        SPECIAL[what](file)
        with bounded(), redirect_stderr(io.StringIO()):
            try:
                KINDS[kind][1](folder)
            except UserError as error:
                assert "\n" not in str(error)
            except OSError as error:  # whose reason is the system's
                assert error.filename and what in ("nothing", "a link to itself")
            except BaseException as error:
                raise AssertionError(f"{file.name}: {error!r}") from error


@pytest.mark.parametrize("what", ["a folder", "a pipe", "a device"])
@pytest.mark.parametrize(
    "args",
    [
        "train --data X", "train X.toml", "train --resume X", "train --init_from X --data text.txt",
        "train --tokenizer X --data text.txt", "generate --model X --prompt a", "info X",
        "generate --model run --prompt_file X", "step --trace X", "step X", "step --run X --at 0",
        "step --model run --text abc --commands X", "tokenizer add X",
        "tokenizer show a --tokenizer X", "models add X", "models add X.whl", "models add X.gguf",
        "tokenizer train --data X", "why --run X --param a[0]", "kata multiply --file X",
        "profile X.toml", "profile --data X", "export X out", "train --val_data X --data text.txt",
        "info --compare X run",
    ],
)  # fmt: skip
def test_special_files_by_command(args, what, valid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(valid / "run" / "it", tmp_path / "run")
    Path("text.txt").write_text(TEXT)
    args = args.split()
    name = next(arg for arg in args if arg.startswith("X"))
    if what == "a pipe" and name == "X" and takes_pipes(args):
        pytest.skip("waits for a writer, as cat does")
    SPECIAL[what](Path(name))
    with bounded():
        try:
            status = main(args)
        except SystemExit as stop:
            status = stop.code
    message = capsys.readouterr().err
    assert status in (1, 2) and "Traceback" not in message
    assert message.startswith("npgpt: ") and message.count("\n") == 1, message


def takes_pipes(args):
    return {"--data", "--prompt_file", "--commands", "--file", "--val_data"} & set(args)


def test_text_from_a_pipe(tmp_path, monkeypatch):
    """A pipe is read to its end where text is expected, up to a limit."""
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import sys; from npgpt.training.data import read_text; "
        "print(len(read_text((sys.argv[1],))[0]))"
    )
    command = [sys.executable, "-c", code, tmp_path / "pipe"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with (tmp_path / "pipe").open("w") as pipe:
        pipe.write(TEXT)
    assert int(process.communicate(timeout=60)[0]) == len(TEXT)

    monkeypatch.setattr("autograd.reading.LARGE", 100)
    read_end, write_end = os.pipe()
    os.write(write_end, TEXT.encode())
    with pytest.raises(UserError, match="not end within 100 bytes"):
        read_corpus((f"/dev/fd/{read_end}",))
    os.close(read_end)
    os.close(write_end)

"""What several test files use: small models, small runs, GGUF files, and the command line."""

import json
import os
import signal
import struct
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import autograd
from autograd import nn, tensor
from autograd.reading import read_tensors
from autograd.stepper import trace
from autograd.testing import properties
from npgpt import GPT, GPTConfig
from npgpt.cli import main
from npgpt.diagnostics.axis_names import name_axes
from npgpt.models.bert import BertConfig
from npgpt.models.llama import LlamaConfig
from npgpt.models.registry import architecture_of
from npgpt.tokenizers import ByteTokenizer
from npgpt.tokenizers.huggingface import byte_letters
from npgpt.training.config import TrainConfig
from npgpt.training.display import Display
from npgpt.training.folder import RunFolder
from npgpt.training.interrupt import Interrupted
from npgpt.training.run import resume, start, train
from npgpt.weights.gguf import QUANTIZED

ROOT = Path(__file__).parent.parent  # of the repository


def npgpt(*args):
    """Run the command in this process; return its exit code."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as stop:
        return stop.code


def cut(path, n=10):
    """Take the last bytes from a file, as a full disk does."""
    path.write_bytes(path.read_bytes()[:-n])


def as_leaves(op, call):
    """Return the arguments of a call of an op, with leaves for those that have a gradient."""
    wanted = set(properties.differentiable(op, call))
    return [tensor(x, requires_grad=True) if i in wanted else x for i, x in enumerate(call.args)]


def two_layer_classifier():
    """Return the recorded loss of a net of two layers, and its input (8, 3)."""
    generator = np.random.default_rng(0)
    X, targets = generator.standard_normal((8, 3)), generator.integers(4, size=8)
    W1 = autograd.tensor(generator.standard_normal((3, 5)), requires_grad=True)
    b1 = autograd.tensor(np.zeros(5), requires_grad=True)
    W2 = autograd.tensor(generator.standard_normal((5, 4)), requires_grad=True)
    with autograd.record():
        a = X @ W1
        z = a + b1
        h = np.tanh(z)
        logits = h @ W2
        loss = nn.cross_entropy(logits, targets)
    return loss, X


# ---- models

TINY = dict(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3)


def draw_model(dtype=np.float32, **options):
    """Return a model with all weights normal, so that no part of it is neutral.

    With a `model_type`, it is a Llama.
    """
    fields = dict(vocab_size=66, n_positions=16, n_embd=20, n_layer=2, n_head=2) | options
    config = (LlamaConfig if "model_type" in options else GPTConfig)(**fields)
    return draw(config, dtype)


def draw_bert(dtype=np.float32, architecture="BertForMaskedLM", **options):
    """Return a BERT whose weights are drawn in the same way."""
    return draw(BertConfig(architecture=architecture, **options), dtype)


def draw(config, dtype):
    """Return the model of a configuration; its weights are drawn in the same way."""
    model = architecture_of(config).model(config, dtype=dtype).eval()
    generator = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * generator.standard_normal(parameter.shape)
    return model


def reading():
    """Return the trace of a GPT's loss on two texts, whose tokens are known; the model, the ids."""
    model, ids = GPT(GPTConfig(256, 8, 12, 1, 3)).eval(), np.array([[*b"cat sat"], [*b"the mat"]])
    with autograd.record() as recording:
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    name_axes(recording, model, ByteTokenizer())
    return trace(loss), model, ids[:, :-1]


# ---- training runs

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40

SMALL = dict(
    n_layer=2, n_head=2, n_embd=16, block_size=8, batch_size=4, max_iters=12, eval_interval=4,
    eval_iters=2, log_interval=2, warmup_iters=2, dropout=0.1, gradient_accumulation_steps=2,
)  # fmt: skip


def train_config(text, folder, **changes):
    """Return the configuration of a small run on a text file, in a folder."""
    return TrainConfig(**{**SMALL, "data": (text,), "out_dir": str(folder), **changes})


@contextmanager
def opened(browser, address, **options):
    """Open a file, or an address, as a page; fail if the page reports an error."""
    errors = []
    page = browser.new_page(**options)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.goto(str(address) if "://" in str(address) else f"file://{address}")
    yield page
    page.close()
    assert not errors, errors


SIZES = [  # of windows: a phone, a laptop, a projector
    {"width": 390, "height": 844}, {"width": 1366, "height": 768}, {"width": 1920, "height": 1080},
]  # fmt: skip


def assert_fits(page):
    """Fail if a part of a page of a pass is cut, too small, or lies over another one."""
    assert page.evaluate((ROOT / "tests/unfit.js").read_text("utf-8")) == []


class Quiet(Display):
    """A display that interrupts, as Ctrl-C does, when a step is shown."""

    def __init__(self, run, interrupt_at=None):
        super().__init__(run.config.max_iters)
        self.interrupt_at = interrupt_at
        self.console.quiet = True

    def step(self, step, loss, rate):
        if step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)


def lines(folder):
    """Return the lines of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder):
    """Return the lines without what differs between two equal runs."""
    times = ("tokens_per_second", "elapsed_seconds")
    return [{k: v for k, v in line.items() if k not in times} for line in lines(folder)]


def same_runs(a, b):
    """Whether two run folders hold the same results, bit for bit."""
    assert timeless(a) == timeless(b)
    best, other = RunFolder(a).best, RunFolder(b).best
    assert best.name == other.name and best.read_bytes() == other.read_bytes()
    (x, mx), (y, my) = read_tensors(a / "state.safetensors"), read_tensors(b / "state.safetensors")
    assert x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)
    progress = [json.loads(m["progress"]) for m in (mx, my)]
    assert [p.pop("elapsed_seconds") > 0 for p in progress] == [True, True]
    assert progress[0] == progress[1]


def demand_unnoticed_interruption(config_at, folder, at=6):
    """A run that is interrupted and resumed ends as one that is not, bit for bit.

    `config_at` returns the configuration of the run for an output folder.
    """
    whole, broken = (start(config_at(folder / name)) for name in ("whole", "broken"))
    train(whole, Quiet(whole))
    with pytest.raises(Interrupted):
        train(broken, Quiet(broken, interrupt_at=at))
    again = resume(broken.folder, {})
    train(again, Quiet(again))
    same_runs(whole.folder, again.folder)


# ---- GGUF files

GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}


def write_gguf(path, metadata, tensors, version=3, alignment=32):
    """Write a GGUF file.

    A tensor is a pair of its type and an array: the values, or of a quantized tensor the blocks
    (out, in / 32), as they are stored. A metadata value is a number, a text, or a list of these.
    """
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += gguf_text(key) + gguf_value(value)
    data = b""
    for name, (kind, array) in tensors.items():
        is_quantized = array.dtype.names is not None
        shape = (*array.shape[:-1], array.shape[-1] * 32) if is_quantized else array.shape
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += gguf_text(name) + axes + struct.pack("<IQ", GGUF_TYPES[kind], len(data))
        data += array.tobytes()
        data += bytes(-len(data) % alignment)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)


def gguf_text(text):
    """Return a text as a GGUF file has it."""
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def gguf_value(value):
    """Return the number of a value's type, and the value."""
    if isinstance(value, list):
        parts = [gguf_value(each) for each in value] or [gguf_value(0)]
        return struct.pack("<I4sQ", 9, parts[0][:4], len(value)) + b"".join(
            part[4:] for part in parts[: len(value)]
        )
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_text(value)
    kind, form = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}[type(value)]
    return struct.pack(f"<I{form}", kind, value)


def gguf_vocabulary(**changes):
    """Return the metadata of a tokenizer of 259 tokens that cuts as SmolLM2's."""
    tokens = ["<|end|>", *byte_letters().values(), "th", "the"]
    metadata = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3] + [1] * 258,
        "merges": ["t h", "th e"],
        "eos_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | changes).items()}


def gguf_llama(kinds=None, seed=0, n_layer=2, **changes):
    """Return the metadata and the tensors of a Llama of 64 channels, 4 heads and 2 of keys.

    `kinds` has the type of a matrix whose name ends with the key; others are of type F32.
    """
    C, D, F, V = 64, 16, 96, 259
    shapes = {"token_embd.weight": (V, C), "output_norm.weight": (C,)}
    for i in range(n_layer):
        of_block = {"attn_q": (4 * D, C), "attn_k": (2 * D, C), "attn_v": (2 * D, C),
                    "attn_output": (C, 4 * D), "ffn_gate": (F, C), "ffn_up": (F, C),
                    "ffn_down": (C, F), "attn_norm": (C,), "ffn_norm": (C,)}  # fmt: skip
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in of_block.items()}
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        kind = next(
            (k for end, k in (kinds or {}).items() if name.endswith(f"{end}.weight")), "F32"
        )
        tensors[name] = kind, draw_gguf(kind, shape, rng)
    metadata = {
        "block_count": n_layer,
        "context_length": 32,
        "embedding_length": C,
        "feed_forward_length": F,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }
    metadata = {f"llama.{key}": value for key, value in (metadata | changes).items()}
    return {"general.architecture": "llama"} | metadata | gguf_vocabulary(), tensors


def draw_gguf(kind, shape, rng):
    """Return random values of a type, or random blocks."""
    if kind in QUANTIZED:
        blocks = np.empty((*shape[:-1], shape[-1] // 32), QUANTIZED[kind].block)
        for field in blocks.dtype.names:
            part = blocks[field]
            part[...] = (
                rng.integers(0, 256, part.shape).astype(part.dtype)
                if field == "q"
                else {"Q8_0": 0.002}.get(kind, 0.03) * rng.standard_normal(part.shape)
            )
        return blocks
    values = (0.2 * rng.standard_normal(shape) + (len(shape) == 1)).astype(np.float32)
    if kind == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"F32": np.float32, "F16": np.float16}[kind])


# ---- oracles


@contextmanager
def computing_in(dtype):
    """Let transformers compute in float64 where it says float32, if the model is of float64."""
    import torch

    names = "float", "float32"
    before = [getattr(torch, name) for name in names], torch.Tensor.float
    if dtype == np.float64:
        torch.float = torch.float32 = torch.float64
        torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        (torch.float, torch.float32), torch.Tensor.float = before


@contextmanager
def serving(server):
    """Let a server answer in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

"""A step for one token as one kernel, against the modules."""

import numpy as np
import pytest
from helpers import draw_model
from hypothesis import example, given
from hypothesis import strategies as st

from autograd import no_grad
from autograd.kernels import decode, team, use_kernels
from autograd.kernels.decode import FEW, MOST_ROWS, TILE
from npgpt import generate
from npgpt.generation.decode import Decoder
from npgpt.generation.quantize import quantize
from npgpt.models.blocks import Block
from npgpt.models.cache import KVCache
from npgpt.models.context import ALONE
from npgpt.models.layers import Linear

MODELS = {
    "gpt2": {},
    "no_bias": {"bias": False},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "tanh": {"activation_function": "tanh"},
    "gpt1": {"norm_position": "post"},
    "sinusoidal": {"position_embedding": "sinusoidal"},
    "gpt3": {"window_size": 3},
    "untied": {"tie_word_embeddings": False},
    "layer_scale": {"scale_attn_by_inverse_layer_idx": True},
    "wide": {"n_inner": 11},
    "llama": {"model_type": "llama", "n_head": 5, "n_kv_head": 1},
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, wide heads": {"model_type": "llama", "n_head": 4, "n_kv_head": 2, "head_dim": 6},
    "mistral": {"model_type": "mistral", "window_size": 3},
    "qwen2": {"model_type": "qwen2", "window_size": 3, "max_window_layers": 1, "n_head": 1},
}


@pytest.fixture(autouse=True)
def compiled():
    numba = pytest.importorskip("numba", reason="kernels need Numba")
    if numba.config.DISABLE_JIT:
        pytest.skip("needs compiled kernels")
    with use_kernels():
        yield


def read(model, ids, mask=None, prompt=4, kernels=True):
    """Return the logits after the prompt and after each token behind it, and the decoder."""
    decoder = Decoder(model, KVCache(ids.shape[1]))
    stops = [prompt, *range(prompt + 1, ids.shape[1] + 1)]
    found = []
    with use_kernels(kernels), no_grad():
        for start, stop in zip([0, *stops], stops, strict=False):
            seen = None if mask is None else mask[:, :stop]
            found.append(decoder(ids[:, start:stop], seen))
    return np.array(found), decoder


def check(model, ids, mask=None, is_kernel=True):
    found, decoder = read(model, ids, mask)
    assert (decoder._step is not None) == is_kernel
    expected, _ = read(model, ids, mask, kernels=False)
    assert found.dtype == expected.dtype
    # A logit is a sum of terms, whose rounding it has, even if they cancel: with the drawn weights,
    # the sum is of the order of 1.
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_it_computes_what_the_modules_compute(options, bits):
    model = draw_model(**options)
    model = quantize(model) if bits == 8 else model
    ids = np.random.default_rng(1).integers(0, 66, (3, 12))
    mask = np.ones((3, 12), bool)
    mask[1, :3] = mask[2, 5] = False
    check(model, ids[:1])
    check(model, ids, mask)


@given(
    n_head=st.integers(4, 7), size=st.integers(2, 12), n_inner=st.integers(1, 40),
    vocab_size=st.integers(1, 40), B=st.integers(1, MOST_ROWS), bits=st.sampled_from([32, 8]),
)  # fmt: skip
def test_any_size(n_head, size, n_inner, vocab_size, B, bits):
    """From 8 channels on: the norm of two or three magnifies rounding."""
    model = draw_model(n_head=n_head, n_embd=n_head * size, n_inner=n_inner, vocab_size=vocab_size)
    model = quantize(model) if bits == 8 else model
    check(model, np.random.default_rng(1).integers(0, vocab_size, (B, 7)))


def between(numbers, outside):
    """Return a copy of an array that lies in memory between numbers that nobody may use."""
    room = np.full(numbers.size + 32, outside, np.float32)
    array = room[16:-16].reshape(numbers.shape)
    array[...] = numbers
    return array, room


LAYOUTS = ("rows", "transposed", "packed")


@given(
    n=st.integers(1, MOST_ROWS), n_in=st.integers(1, 600), n_out=st.integers(1, 90),
    layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 2**31),
)  # fmt: skip
@example(n=8, n_in=256, n_out=64, layout="rows", seed=0)
@example(n=MOST_ROWS, n_in=600, n_out=83, layout="rows", seed=0)
@example(n=9, n_in=257, n_out=17, layout="transposed", seed=0)
@example(n=9, n_in=257, n_out=17, layout="packed", seed=0)
def test_a_linear_layer(n, n_in, n_out, layout, seed):
    """Nothing outside the arrays is used or written; up to 8 rows have the bits of any batch."""
    random = np.random.default_rng(seed)
    x, _ = between(random.standard_normal((n, n_in)), np.nan)
    weight, _ = between(random.standard_normal((n_out, n_in)), np.nan)
    scale, _ = between(random.standard_normal(n_out), np.nan)
    stored = dict(weight=weight.T)
    if layout == "packed":
        packed = random.integers(-127, 128, (n_out, n_in)).astype(np.int8)
        weight, stored = packed * scale[:, None], dict(weight=packed.T, scale=scale, packing="int8")
    elif layout == "rows":
        stored = dict(weight=between(weight.T, np.nan)[0])

    def run(x, threads):
        out, room = between(np.zeros((len(x), n_out)), 7)
        step = decode.program(len(x))
        step.linear(x, stored["weight"], scale, out, stored.get("scale"), stored.get("packing"))
        step.size = 10**9  # large enough to be shared
        with pytest.MonkeyPatch.context() as patch:
            for module in (team, decode):
                patch.setattr(module, "n_threads", lambda: threads)
            step()
        assert np.all(room[:16] == 7) and np.all(room[-16:] == 7)
        return out

    found = run(x, 1)
    exact = x.astype(np.float64) @ weight.astype(np.float64).T + scale
    most = np.abs(x) @ np.abs(weight).T + np.abs(scale)
    assert np.all(np.abs(found - exact) <= 1e-6 * most)
    np.testing.assert_array_equal(run(x, 3), found)
    some = FEW + 1
    if some <= n <= TILE:
        np.testing.assert_array_equal(run(np.ascontiguousarray(x[-some:]), 1), found[-some:])


class OwnLinear(Linear):
    """A layer that the kernel does not know."""

    def forward(self, x):
        return super().forward(x) * 2


def test_what_the_kernel_does_not_know_goes_through_the_modules():
    ids = np.random.default_rng(1).integers(0, 66, (MOST_ROWS + 1, 8))
    check(draw_model(), ids, is_kernel=False)  # too many sequences
    check(draw_model(np.float64), ids[:1], is_kernel=False)
    model = draw_model()
    layer = OwnLinear(20, 20)
    layer.load_state_dict(model.transformer.h[0].attn.c_proj.state_dict())
    model.transformer.h[0].attn.c_proj = layer
    check(model, ids[:1], is_kernel=False)


class Parallel(Block):
    """Attention and MLP read the same norm."""

    def forward(self, x, context=ALONE):
        normed = self.ln_1(x)
        return x + self.attn(normed, context) + self.mlp(normed)


class TracedParallel(Parallel):
    forward = Parallel.forward
    trace = forward


class Counting(Block):
    """A block whose forward does something beside; its trace is that of another forward."""

    n_calls = 0

    def forward(self, x, context=ALONE):
        self.n_calls += 1
        return super().forward(x, context)


def with_blocks(kind):
    model = draw_model()
    model.transformer.h = [kind(model.config, layer, np.float32) for layer in range(2)]
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * np.random.default_rng(2).standard_normal(parameter.shape)
    return model.eval()


def test_the_kernel_of_another_architecture_is_traced_from_its_forward():
    ids = np.random.default_rng(1).integers(0, 66, (3, 12))
    check(with_blocks(TracedParallel), ids)
    check(quantize(with_blocks(TracedParallel)), ids)
    check(with_blocks(Parallel), ids, is_kernel=False)  # it has no trace of its own


def test_a_forward_without_a_trace_runs_for_each_token():
    ids = np.random.default_rng(1).integers(0, 66, (1, 8))
    model = with_blocks(Counting)
    read(model, ids, prompt=4)
    assert [block.n_calls for block in model.transformer.h] == [5, 5]
    model, calls = draw_model(), []
    block = model.transformer.h[1]
    block.forward = lambda *args: calls.append(1) or Block.forward(block, *args)
    read(model, ids, prompt=4)
    assert len(calls) == 5


def test_sequences_that_are_repeated_and_reordered():
    model = draw_model()
    ids = np.random.default_rng(1).integers(0, 66, (1, 6))
    with no_grad():
        decoder = Decoder(model, KVCache(8))
        decoder(ids[:, :3]), decoder(ids[:, 3:4])
        decoder.cache.reorder(np.zeros(3, int))
        rows = np.concatenate([np.repeat(ids[:, :4], 3, axis=0), np.arange(3)[:, None]], axis=1)
        found = decoder(rows[:, 4:])
        np.testing.assert_allclose(found, read(model, rows, kernels=False)[0][-1], atol=1e-5)
        order = np.array([2, 0, 0])
        decoder.cache.reorder(order)
        rows = np.concatenate([rows[order], rows[:, :1]], axis=1)
        found = decoder(rows[:, 5:])
    np.testing.assert_allclose(found, read(model, rows, kernels=False)[0][-1], atol=1e-5)


@pytest.mark.parametrize("bits", [32, 8])
def test_the_bits_do_not_depend_on_the_threads(monkeypatch, bits):
    model = draw_model(n_embd=128, n_inner=500)  # large enough to be shared
    model = quantize(model) if bits == 8 else model
    ids = np.random.default_rng(1).integers(0, 66, (2, 16))
    results = []
    for n in (1, 2, 5):
        monkeypatch.setattr("autograd.kernels.team.n_threads", lambda n=n: n)
        monkeypatch.setattr("autograd.kernels.decode.n_threads", lambda n=n: n)
        results.append(read(model, ids, prompt=1)[0])
    assert all(np.array_equal(result, results[0]) for result in results)


def test_generated_texts_are_those_of_the_modules():
    model = draw_model()
    prompts = [[1, 2, 3], [4], [5, 6]]
    options = dict(max_new_tokens=20, output_logprobs=True)  # past the context
    found = generate(model, prompts, **options)
    with use_kernels(False):
        expected = generate(model, prompts, **options)
    assert np.array_equal(found.sequences, expected.sequences)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)


def test_weights_that_change_in_place_are_read():
    model = draw_model()
    ids = np.random.default_rng(1).integers(0, 66, (1, 8))
    decoder = Decoder(model, KVCache(16))
    with no_grad():
        decoder(ids[:, :7]), decoder(ids[:, 7:])
        model.transformer.ln_f.bias[...] = 1.5
        found = decoder(ids[:, :1])
        expected = read(model, np.append(ids, ids[:, :1], axis=1), kernels=False)[0][-1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_wrong_is_said_as_by_the_modules():
    decoder = Decoder(draw_model(), KVCache(4))
    ids = np.ones((2, 3), int)
    with no_grad():
        decoder(ids)
        for mask in (np.ones((2, 1)), np.ones((2, 5)), np.ones((1, 4))):
            with pytest.raises(ValueError, match="attention_mask has shape"):
                decoder(ids[:, :1], mask)
        with pytest.raises(ValueError, match="the cache is of 2 sequences, not 1"):
            decoder(ids[:1, :1])
        decoder(ids[:, :1])
        with pytest.raises(ValueError, match="5 tokens do not fit the cache of 4"):
            decoder(ids[:, :1])

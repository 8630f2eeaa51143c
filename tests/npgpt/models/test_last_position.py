"""Where only the last position is wanted, the last block computes no other: the result is equal."""

import numpy as np
import pytest
from helpers import draw, draw_bert, draw_model

from autograd import no_grad, use_kernels
from autograd.testing import gradcheck
from npgpt import GPT, GPTConfig, generate
from npgpt.models.blocks import Block
from npgpt.models.cache import KVCache
from npgpt.models.context import ALONE
from npgpt.models.encoder_decoder import EncoderDecoderConfig
from npgpt.models.vision import VisionConfig

CAUSAL = {
    "gpt": {},
    "one layer": dict(n_layer=1),
    "post-norm": dict(norm_position="post"),
    "llama": dict(model_type="llama", n_embd=24, n_head=4, n_kv_head=2),
    "mistral": dict(model_type="mistral", n_embd=24, n_head=4, n_kv_head=1, window_size=5),
    "qwen2": dict(
        model_type="qwen2", n_embd=24, n_head=2, n_layer=3, window_size=3, max_window_layers=2
    ),
}
KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "numpy"])
KIND = pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)


def assert_last(last, whole):
    assert last.shape == (*whole.shape[:-2], 1, whole.shape[-1])
    np.testing.assert_allclose(last.numpy(), whole.numpy()[:, -1:], rtol=1e-10, atol=1e-12)


def masks(B, T):
    """Yield no mask, padding at the left, and a mask of pairs."""
    yield None
    padding = np.ones((B, T), int)
    padding[0, :3] = 0
    yield padding
    pairs = np.random.default_rng(1).integers(0, 2, (B, T, T))
    pairs[:, np.arange(T), np.arange(T)] = 1
    yield pairs


@KERNELS
@KIND
def test_it_is_the_last_of_all(options, kernels):
    body = draw_model(np.float64, **options).transformer
    ids = np.random.default_rng(0).integers(0, 66, (2, 11))
    with use_kernels(kernels):
        for mask in masks(*ids.shape):
            assert_last(body(ids, mask, only_last=True), body(ids, mask))


@KERNELS
@KIND
def test_the_cache_is_the_same(options, kernels):
    body = draw_model(np.float64, **options).transformer
    ids = np.random.default_rng(0).integers(0, 66, (2, 14))
    (padding,) = (mask for mask in masks(*ids.shape) if mask is not None and mask.ndim == 2)
    with no_grad(), use_kernels(kernels):
        for mask in (None, padding):
            expected = body(ids, mask)
            cache, start = KVCache(capacity=16), 0
            for stop in (1, 6, 7, 13, 14):  # pieces of 1, 5, 1, 6 and 1 tokens
                seen = None if mask is None else mask[:, :stop]
                last = body(ids[:, start:stop], seen, cache=cache, only_last=True)
                assert_last(last, expected[:, :stop])
                start = stop


def test_without_a_causal_mask():
    bert = draw_bert(np.float64, vocab_size=66, n_embd=20, n_layer=2, n_head=2).transformer
    ids = np.random.default_rng(0).integers(0, 66, (2, 9))
    assert_last(bert(ids, only_last=True), bert(ids))


def test_in_a_decoder():
    config = EncoderDecoderConfig(vocab_size=66, n_positions=16, n_embd=20, n_layer=2, n_head=2)
    model = draw(config, np.float64)
    source, ids = np.random.default_rng(0).integers(3, 66, (2, 2, 9))
    memory = model.encode(source)
    last = model.transformer(ids, memory=memory, only_last=True)
    assert_last(last, model.transformer(ids, memory=memory))


def test_with_an_image():
    sizes = dict(image_size=4, patch_size=2, num_channels=1, image_token_id=65)
    config = VisionConfig(vocab_size=66, n_positions=16, n_embd=20, n_layer=2, n_head=2, **sizes)
    model = draw(config, np.float64)
    memory = model.encode(np.random.default_rng(0).random((2, 1, 4, 4)))
    ids = np.array([[65, 65, 65, 65, 1, 2], [65, 65, 65, 65, 3, 4]])
    last = model.transformer(ids, memory=memory, only_last=True)
    assert_last(last, model.transformer(ids, memory=memory))


def test_a_block_that_does_not_know_of_it():
    class Simple(Block):
        def forward(self, x, context=ALONE):
            x = x + self.attn(self.ln_1(x), context)
            return x + self.mlp(self.ln_2(x))

    class Model(GPT):
        block = Simple

    config = GPTConfig(vocab_size=66, n_positions=16, n_embd=20, n_layer=2, n_head=2)
    ids = np.random.default_rng(0).integers(0, 66, (2, 9))
    body = Model(config, dtype=np.float64).eval().transformer
    assert_last(body(ids, only_last=True)[:, -1:], body(ids))


@KIND
def test_its_gradient(options):
    model = draw_model(np.float64, **options | dict(vocab_size=7))
    ids, table = np.array([[1, 6, 2, 2, 5, 0]]), model.transformer.wte

    def last_of(weight):
        table.weight = weight
        return model.transformer(ids, only_last=True).sum()

    assert gradcheck(last_of, [table.weight])


def test_generation_computes_no_more(monkeypatch):
    model, rows = draw_model(n_layer=3), []
    for block in model.transformer.h:
        forward = block.mlp.c_fc.forward
        monkeypatch.setattr(
            block.mlp.c_fc, "forward", lambda x, f=forward: (rows.append(x.shape[1]), f(x))[1]
        )
    generate(model, np.array([[1, 2, 3, 4, 5]]), max_new_tokens=1)
    assert rows == [5, 5, 1]

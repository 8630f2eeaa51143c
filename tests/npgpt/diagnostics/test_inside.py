"""What a model does with a text: contributions add up, and agree with the model."""

import numpy as np
import pytest
from helpers import draw_bert, draw_model, gguf_llama, write_gguf

from autograd import no_grad
from npgpt import UserError, load_model
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import (
    attention_maps,
    encode,
    integrate_gradients,
    logit_lens,
    surprises,
)
from npgpt.generation.quantize import quantize
from npgpt.tokenizers import ByteTokenizer

MODELS = {
    "gpt2": dict(),
    "gpt2, without biases": dict(bias=False),
    "gpt1": dict(norm_position="post"),
    "gpt3": dict(window_size=3, n_layer=3, position_embedding="sinusoidal"),
    "scaled": dict(scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
    "llama": dict(model_type="llama", n_kv_head=1, tie_word_embeddings=True),
    "llama, biases": dict(model_type="llama", attention_bias=True, mlp_bias=True),
    "mistral": dict(model_type="mistral", window_size=3),
    "qwen2": dict(model_type="qwen2"),
}
IDS = np.arange(9) * 7 % 66


@pytest.fixture(params=MODELS)
def model(request):
    return draw_model(np.float64, **MODELS[request.param])


def logits_of(model, ids):
    with no_grad():
        return model(ids[None])[0].numpy()[0]


@pytest.mark.parametrize("against", [None, 7])
@pytest.mark.parametrize("T", [1, 2, 9])
def test_direct_attribution_adds_up_to_the_logit(model, T, against):
    found = attribute_directly(model, IDS[:T], 5, against)
    logits = logits_of(model, IDS[:T])[-1]
    expected = logits[5] - (0 if against is None else logits[against])
    np.testing.assert_allclose([found.logit, found.total], expected, rtol=1e-10, atol=1e-12)
    assert found.heads.shape == (model.config.n_layer, model.config.n_head, T)


def test_direct_attribution_names_the_right_head(model):
    """Without one head's rows of the last linear layer, this head adds nothing."""
    last = model.config.n_layer - 1
    before = attribute_directly(model, IDS, 5)
    block = model.transformer.h[last]
    is_llama = hasattr(block, "self_attn")
    projection = block.self_attn.o_proj if is_llama else block.attn.c_proj
    size = model.config.head_size
    projection.weight.data[size : 2 * size] = 0
    after = attribute_directly(model, IDS, 5)
    assert before.heads[last, 1].any() and not after.heads[last, 1].any()
    assert after.heads[last, 0].any()
    np.testing.assert_allclose(after.total, logits_of(model, IDS)[-1, 5], rtol=1e-10)


@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_direct_attribution_of_a_bert_adds_up_at_every_position(act):
    """Its embeddings have a norm, and its head has an activation."""
    model = draw_bert(
        np.float64, vocab_size=66, n_positions=16, n_embd=20, n_layer=2, n_head=2,
        activation_function=act,
    )  # fmt: skip
    logits = logits_of(model, IDS)
    for t in (0, 4, -1):
        for against in (None, 7):
            found = attribute_directly(model, IDS, 5, against, position=t)
            expected = logits[t, 5] - (0 if against is None else logits[t, against])
            np.testing.assert_allclose([found.logit, found.total], expected, rtol=1e-10)
    assert found.heads.all()  # a position looks at those after it, too
    model.transformer.h[1].self_attn.out_proj.weight.data[10:] = 0
    after = attribute_directly(model, IDS, 5, position=4)
    assert after.heads[1, 0].all() and not after.heads[1, 1].any()
    np.testing.assert_allclose(after.total, logits_of(model, IDS)[4, 5], rtol=1e-10)


def test_a_logit_after_any_position_is_that_of_the_text_up_to_there(model):
    for t in (0, 3):
        found = attribute_directly(model, IDS, 5, position=t)
        short = attribute_directly(model, IDS[: t + 1], 5)
        np.testing.assert_allclose(found.heads[..., : t + 1], short.heads, rtol=1e-9, atol=1e-12)
        assert not found.heads[..., t + 1 :].any()
        np.testing.assert_allclose(found.mlps, short.mlps, rtol=1e-9)
        np.testing.assert_allclose(found.token_embedding, short.token_embedding, rtol=1e-9)


def test_a_head_looks_at_no_token_that_is_out_of_its_window():
    model = draw_model(np.float64, model_type="mistral", window_size=3)
    found = attribute_directly(model, IDS, 5)
    assert not found.heads[..., :-3].any() and found.heads[..., -3:].all()


def test_the_last_layer_of_the_lens_is_the_model(model):
    lens, logits = logit_lens(model, IDS, k=66), logits_of(model, IDS)
    assert lens.best.shape == (model.config.n_layer + 1, 9, 66)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    expected = np.take_along_axis(p, lens.best[-1], axis=-1)
    np.testing.assert_allclose(lens.probabilities[-1], expected, rtol=1e-10)
    assert (np.diff(lens.probabilities, axis=-1) <= 0).all()
    assert (lens.ranks[-1] == 1).all() and (lens.best[-1, :, 0] == logits.argmax(axis=-1)).all()
    np.testing.assert_allclose(lens.surprises[-1], -np.log(lens.probabilities[-1, :, 0]))
    places = (lens.best == lens.best[-1, :, :1]).argmax(axis=-1)
    assert np.array_equal(lens.ranks, 1 + places)


def test_the_lens_reads_hidden_states_as_the_last_ones(model):
    states = model.activations(IDS[None]).hidden_states
    norm = model.transformer.ln_f
    read = model.lm_head(states[1] if norm is None else norm(states[1])).numpy()[0]
    assert (logit_lens(model, IDS).best[1, :, 0] == read.argmax(axis=-1)).all()


def test_surprises_add_up_to_the_loss(model, monkeypatch):
    expected = model(IDS[None, :-1], targets=IDS[None, 1:])[1].item()
    found = surprises(model, IDS)
    np.testing.assert_allclose(found.surprises.mean(), expected, rtol=1e-12)
    order = np.argsort(-logits_of(model, IDS)[:-1], axis=-1)
    assert [order[t, rank - 1] for t, rank in enumerate(found.ranks)] == IDS[1:].tolist()
    monkeypatch.setattr("npgpt.diagnostics.inside.AT_ONCE", 66 * 3)  # three positions at a time
    np.testing.assert_allclose(surprises(model, IDS).surprises, found.surprises, rtol=1e-10)


@pytest.mark.parametrize("keep_first", [True, False])
def test_integrated_gradients_add_up_within_the_stated_error(model, keep_first):
    logits = logits_of(model, IDS)[-1]
    found = integrate_gradients(
        model, IDS, 5, 7, keep_first=keep_first, tolerance=1e-6, most_gradients=3000
    )
    np.testing.assert_allclose(found.logit, logits[5] - logits[7], rtol=1e-10)
    change = found.logit - found.baseline
    np.testing.assert_allclose(found.tokens.sum() - change, found.error, atol=1e-12)
    assert abs(found.error) <= 1e-6 * max(1, abs(found.logit), abs(found.baseline))
    if keep_first:
        assert found.tokens[0] == 0
    elif model.config.window_size is None:  # no position is out of reach
        assert found.tokens[0] != 0
    assert all(parameter.grad is None for parameter in model.parameters())
    few = integrate_gradients(model, IDS, 5, 7, tolerance=0, most_gradients=12)
    assert few.n_gradients == 12


def test_integrated_gradients_of_a_linear_model_are_exact():
    """Without blocks, only the last token counts, and with one step already."""
    model = draw_model(np.float64, position_embedding="sinusoidal")
    for block in model.transformer.h:
        block.attn.c_proj.weight.data[...] = block.mlp.c_proj.weight.data[...] = 0
    found = integrate_gradients(model, IDS, 5, tolerance=1e-8, most_gradients=3000)
    assert not found.tokens[:-1].any()
    np.testing.assert_allclose(found.tokens[-1], found.logit - found.baseline, atol=1e-8)


def test_attention_maps(model):
    maps = attention_maps(model, IDS)
    assert maps.shape == (model.config.n_layer, model.config.n_head, 9, 9)
    np.testing.assert_allclose(maps.sum(axis=-1), 1)
    assert not np.triu(maps, 1).any()


def test_a_quantized_model():
    model = draw_model()
    whole, rounded = (logits_of(each, IDS)[-1] for each in (model, quantize(model)))
    assert np.abs(whole - rounded).max() < 0.1
    assert surprises(quantize(model), IDS).surprises.shape == (8,)
    assert attention_maps(quantize(model), IDS).shape == (2, 2, 9, 9)


def test_what_cannot_be_looked_into(monkeypatch):
    model, tokenizer = draw_model(vocab_size=256), ByteTokenizer()
    assert encode(model, tokenizer, "a" * 16).shape == (16,)
    with pytest.raises(UserError, match="the text is empty"):
        encode(model, tokenizer, "")
    with pytest.raises(UserError, match="has 17 tokens, and the model reads at most 16"):
        encode(model, tokenizer, "a" * 17)
    with pytest.raises(UserError, match="has 1 token; expected at least 2"):
        encode(model, tokenizer, "a", n_at_least=2)
    monkeypatch.setattr("npgpt.diagnostics.inside.MOST_NUMBERS", 300)
    with pytest.raises(UserError, match="has 9 tokens; at most 8 can be shown"):
        attention_maps(model, IDS)


def test_attribution_needs_float32_weights(tmp_path):
    """Packed weights are read forwards only; what reads them forwards agrees with float32."""
    write_gguf(tmp_path / "a.gguf", *gguf_llama({"norm": "F32", "": "Q4_1"}))
    packed, whole = (load_model(tmp_path / "a.gguf", packed=p) for p in (True, False))
    ids = np.arange(5)
    for attribute in (attribute_directly, integrate_gradients):
        with pytest.raises(UserError, match="load_model without packed"):
            attribute(packed, ids, 3)
    found, expected = surprises(packed, ids), surprises(whole, ids)
    np.testing.assert_allclose(found.surprises, expected.surprises, rtol=1e-4)

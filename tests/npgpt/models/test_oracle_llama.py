"""The same weights in Hugging Face's Llama, Mistral and Qwen2: the same numbers.

transformers computes norms, angles and softmax in float32 whatever the dtype of the model. For
float64, the names ``torch.float`` and ``torch.float32`` stand for float64 while its code runs.
"""

import numpy as np
import pytest
from helpers import computing_in

import npgpt
from npgpt import GPT, generate
from npgpt.models.llama import Llama, LlamaConfig

pytestmark = pytest.mark.usefixtures("oracle")

SMALL = dict(vocab_size=37, n_positions=19, n_embd=24, n_layer=2, n_head=6, n_kv_head=2)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=0.5, high_freq_factor=2.0,
              original_max_position_embeddings=8)  # fmt: skip
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=8, beta_fast=2.0,
            beta_slow=0.2)  # fmt: skip
CONFIGS = {
    "llama": SMALL,
    "llama, a head of keys for each": SMALL | dict(n_kv_head=None),
    "llama, one head of keys": SMALL | dict(n_kv_head=1, n_inner=7),
    "llama, one of each": dict(vocab_size=5, n_positions=1, n_embd=2, n_layer=1, n_head=1),
    "llama, tied, base and epsilon": SMALL
    | dict(tie_word_embeddings=True, rope_theta=100.0, rms_norm_eps=0.1),
    "llama, biases": SMALL | dict(attention_bias=True, mlp_bias=True),
    "llama, biases of attention": SMALL | dict(attention_bias=True, activation_function="gelu_new"),
    "llama, padding": SMALL | dict(pad_token_id=3),
    "llama, wide heads": SMALL | dict(head_dim=10),
    "llama, long": SMALL | dict(n_positions=150, n_layer=1),
    "llama, linear": SMALL | dict(rope_scaling=dict(rope_type="linear", factor=2.5)),
    "llama, dynamic": SMALL | dict(rope_scaling=dict(rope_type="dynamic", factor=2.5)),
    "llama, llama3": SMALL | dict(rope_scaling=LLAMA3, rope_theta=50.0, n_embd=48),
    "llama, yarn": SMALL | dict(rope_scaling=YARN, rope_theta=50.0, n_embd=96),
    "llama, yarn, its scales": SMALL
    | dict(rope_scaling=YARN | dict(mscale=0.7, mscale_all_dim=0.3, truncate=False), n_embd=48),
    "mistral": SMALL | dict(window_size=4),
    "mistral, all": SMALL,
    "mistral, long": SMALL | dict(n_positions=150, n_layer=1, window_size=70),
    "qwen2": SMALL,
    "qwen2, a window from layer 1 on": SMALL
    | dict(window_size=4, max_window_layers=1, n_layer=3, tie_word_embeddings=True),
}
SIZES = [(np.float64, 1e-10), (np.float32, 1e-5)]


def ours_of(name, dtype=np.float32):
    """Return a model with large random weights, biases among them."""
    config = LlamaConfig(**CONFIGS[name], model_type=name.split(",")[0])
    model = Llama(config, dtype=dtype)
    random = np.random.default_rng(7)
    for parameter in model.parameters():
        noise = 0.2 * random.standard_normal(parameter.shape)
        parameter.data = (parameter.data + noise).astype(dtype)
    return model


def theirs_of(ours, dtype=np.float32):
    """Return transformers' model with the same weights, by the names of files."""
    import torch
    import transformers

    config = ours.config.to_dict()
    kind = getattr(transformers, config["architectures"][0])
    with computing_in(dtype):
        theirs = kind(kind.config_class.from_dict(config, attn_implementation="eager"))
    state = {name: torch.tensor(value.copy()) for name, value in saved(ours).items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    theirs.to(state["lm_head.weight"].dtype).load_state_dict(state)
    forward = theirs.forward

    def forward_in_dtype(*args, **kwargs):
        with computing_in(dtype):
            return forward(*args, **kwargs)

    theirs.forward = forward_in_dtype
    return theirs.eval()


def saved(model):
    """Return a model's parameters under the names that files have."""
    from npgpt.models.registry import architecture_of
    from npgpt.weights.names import renamed

    return renamed(model.state_dict(), architecture_of(model.config).names)


def batch(config):
    random = np.random.default_rng(3)
    x, y = random.integers(0, config.vocab_size, (2, 3, config.n_positions))
    y[0, :2] = -100
    return x, y


def close(a, b, tolerance, what, scale=None):
    b = b.detach().numpy()
    assert a.dtype == b.dtype and a.shape == b.shape, what
    largest = np.abs(b).max() if scale is None else scale
    assert np.abs(a - b).max() <= tolerance * largest, what


def assert_same_gradients(ours, theirs, tolerance):
    """Compare gradients under the names of files, transposed where these are."""
    gradients = dict(theirs.named_parameters())
    largest = max(p.grad.abs().max().item() for p in theirs.parameters())
    for _, parameter in ours.named_parameters():
        parameter.data = parameter.grad.numpy()
    found = saved(ours)
    assert set(found) == set(gradients)
    for name, gradient in found.items():
        close(gradient, gradients[name].grad, tolerance, name, largest)


@pytest.mark.parametrize(("dtype", "tolerance"), SIZES)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_loss_and_every_gradient(name, dtype, tolerance):
    import torch
    import torch.nn.functional as F

    ours = ours_of(name, dtype)
    theirs = theirs_of(ours, dtype)
    x, y = batch(ours.config)
    logits, loss = ours(x, y)
    loss.backward()
    expected = theirs(torch.tensor(x)).logits
    expected_loss = F.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten())
    expected_loss.backward()
    assert logits.dtype == loss.dtype == dtype
    close(logits.numpy(), expected, tolerance, "logits")
    close(loss.numpy(), expected_loss, tolerance, "loss")
    assert_same_gradients(ours, theirs, tolerance)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2, a window from layer 1 on"])
def test_hidden_states_and_attention_maps(name):
    import torch

    ours = ours_of(name, np.float64)
    theirs = theirs_of(ours, np.float64)
    x, _ = batch(ours.config)
    inside = ours.activations(x)
    expected = theirs(torch.tensor(x), output_hidden_states=True, output_attentions=True)
    assert len(inside.attentions) == len(expected.attentions) == ours.config.n_layer
    for ours_state, theirs_state in zip(inside.hidden_states, expected.hidden_states, strict=True):
        close(ours_state.numpy(), theirs_state, 1e-10, "a hidden state")
    for ours_map, theirs_map in zip(inside.attentions, expected.attentions, strict=True):
        close(ours_map.numpy(), theirs_map, 1e-10, "an attention map")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_padding_masks_and_explicit_positions(name, side):
    import torch

    ours = ours_of(name, np.float64)
    theirs = theirs_of(ours, np.float64)
    x, y = batch(ours.config)
    mask = np.ones_like(x)
    for row, n in enumerate((0, 4, 9)):
        mask[row, slice(0, n) if side == "left" else slice(x.shape[1] - n, None)] = 0
    y[mask == 0] = -100
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    logits, loss = ours(x, y, attention_mask=mask, position_ids=positions)
    loss.backward()
    expected = theirs(
        torch.tensor(x), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions)
    ).logits
    counts = mask == 1
    close(logits.numpy()[counts], expected[torch.tensor(counts)], 1e-10, "logits")
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten()).backward()
    assert_same_gradients(ours, theirs, 1e-10)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_model_loads_in_transformers(name, tmp_path):
    import torch
    import transformers

    ours = ours_of(name).eval()
    ours.save_pretrained(tmp_path)
    kind = getattr(transformers, ours.config.to_dict()["architectures"][0])
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x, _ = batch(ours.config)
    expected = loaded.eval()(torch.tensor(x)).logits.detach().numpy()
    np.testing.assert_allclose(ours(x)[0].numpy(), expected, rtol=1e-4, atol=1e-4)
    again = GPT.from_pretrained(tmp_path)
    assert type(again) is Llama and again.config == ours.config
    assert np.array_equal(again(x)[0].numpy(), ours(x)[0].numpy())


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("name", ["llama, llama3", "mistral", "qwen2, a window from layer 1 on"])
def test_what_transformers_saves_loads_here(name, shards, kind, tmp_path):
    import torch

    model = ours_of(name)
    theirs = theirs_of(model).to(getattr(torch, kind))
    theirs.save_pretrained(tmp_path, max_shard_size="10KB" if shards else "1GB")
    assert len(list(tmp_path.glob("*.safetensors"))) > shards
    ours = npgpt.load_model(tmp_path)
    assert ours.config == model.config
    x, _ = batch(ours.config)
    # loaded again, since .to rounds the angles, too
    again = type(theirs).from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = again(torch.tensor(x)).logits.detach().numpy()
    np.testing.assert_allclose(ours(x)[0].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_configurations_of_transformers():
    from transformers import LlamaConfig as Theirs
    from transformers import MistralConfig, Qwen2Config

    for config in Theirs(), MistralConfig(), Qwen2Config(), Qwen2Config(use_sliding_window=True):
        ours = LlamaConfig.from_dict(config.to_dict())
        assert ours == LlamaConfig.from_dict(ours.to_dict())
        assert ours == LlamaConfig.from_dict({"model_type": config.model_type} | {
            key: value for key, value in config.to_dict().items() if key == "use_sliding_window"
        })  # fmt: skip
        assert ours.mlp_width == config.intermediate_size
        assert ours.n_key_heads == config.num_key_value_heads
        assert ours.window_size == getattr(config, "sliding_window", None)
        theirs = type(config).from_dict(ours.to_dict())
        for key in (
            "hidden_size",
            "rope_parameters",
            "num_hidden_layers",
            "max_position_embeddings",
        ):
            assert getattr(theirs, key, None) == getattr(config, key, None), key


GENERATION = {
    "greedy": dict(max_new_tokens=9),
    "beams": dict(max_new_tokens=7, num_beams=3),
    "processors": dict(max_new_tokens=9, repetition_penalty=1.3, no_repeat_ngram_size=2),
}


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("options", GENERATION.values(), ids=GENERATION)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2, a window from layer 1 on"])
def test_generation_is_theirs_token_for_token(name, options, use_cache, kernels):
    """Prompts of two lengths, the shorter one padded on its left."""
    import torch

    from autograd.kernels import use_kernels

    ours = ours_of(name).eval()
    theirs = theirs_of(ours)
    prompts = [np.array([5, 1, 7, 7, 30, 2]), np.array([9, 4])]
    ids, mask = np.zeros((2, 6), int), np.zeros((2, 6), int)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **options,
        ).numpy()
    with use_kernels(kernels):
        found = generate(ours, prompts, use_cache=use_cache, **options)
    np.testing.assert_array_equal(found, expected)

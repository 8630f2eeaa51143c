"""The same weights in Hugging Face's GPT-2 and GPT-1: the same logits, loss and gradients."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.training.optim import AdamW, clip_grad_norm, learning_rate_at

pytestmark = pytest.mark.usefixtures("oracle")

SMALL = dict(vocab_size=37, n_positions=19, n_embd=24, n_layer=2, n_head=3)
ODD = dict(vocab_size=101, n_positions=33, n_embd=35, n_layer=3, n_head=7)
ONE = dict(vocab_size=5, n_positions=1, n_embd=5, n_layer=1, n_head=1)
GPT2 = {
    "plain": SMALL,
    "one of each": ONE,
    "odd widths": ODD | dict(n_inner=17),
    "exact gelu": SMALL | dict(activation_function="gelu"),
    "relu": SMALL | dict(activation_function="relu"),
    "silu": SMALL | dict(activation_function="silu"),
    "tanh": SMALL | dict(activation_function="tanh"),
    "other names": SMALL | dict(activation_function="gelu_pytorch_tanh"),
    "untied": SMALL | dict(tie_word_embeddings=False),
    "unscaled": SMALL | dict(scale_attn_weights=False),
    "scaled by layer": SMALL | dict(scale_attn_by_inverse_layer_idx=True, n_layer=4),
    "unscaled but by layer": ODD
    | dict(scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False),
    "upcast": SMALL | dict(reorder_and_upcast_attn=True),
    "large epsilon": SMALL | dict(layer_norm_epsilon=0.1),
    "one head of many channels": SMALL | dict(n_head=1, n_inner=1),
    "long": SMALL | dict(n_positions=150, n_layer=1),
}
GPT1 = {
    "plain": SMALL,
    "one of each": ONE,
    "odd widths": ODD,
    "relu": SMALL | dict(activation_function="relu"),
    "silu": SMALL | dict(activation_function="silu"),
    "swish": ODD | dict(activation_function="swish"),
    "untied": SMALL | dict(tie_word_embeddings=False),
    "large epsilon": SMALL | dict(layer_norm_epsilon=0.1),
    "small epsilon": ODD | dict(layer_norm_epsilon=1e-12),
    "one head of many channels": SMALL | dict(n_head=1),
    "as many heads as channels": SMALL | dict(n_head=24),
    "deep": SMALL | dict(n_layer=7),
    "long": SMALL | dict(n_positions=150, n_layer=1),
}
FAMILIES = {"gpt2": GPT2, "openai-gpt": GPT1}
SIZES = [(np.float64, 1e-10), (np.float32, 1e-5)]
CASES = [
    (family, name, dtype, tolerance)
    for family, configs in FAMILIES.items()
    for name in configs
    for dtype, tolerance in SIZES
    if name != "upcast" or dtype == np.float32  # theirs refuses float64 then
]


def twins(fields, dtype, family="gpt2"):
    """Our model and theirs, with the same random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

    rates = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    norm = "pre" if family == "gpt2" else "post"
    ours = GPT(GPTConfig(**fields, **rates, norm_position=norm), dtype=dtype)
    assert ours.config.model_type == family
    random = np.random.default_rng(7)
    for parameter in ours.parameters():
        parameter.data = (parameter.data + 0.2 * random.standard_normal(parameter.shape)).astype(
            dtype
        )
    if family == "gpt2":
        theirs = GPT2LMHeadModel(GPT2Config(**fields, **rates, attn_implementation="eager"))
    else:
        theirs_fields = dict(fields)
        afn = theirs_fields.pop("activation_function", "gelu")
        theirs = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**theirs_fields, **rates, afn=afn))
    theirs.to(torch.float64 if dtype == np.float64 else torch.float32).eval()
    state = {
        their_name(name, family): torch.tensor(value.copy())
        for name, value in ours.state_dict().items()
    }
    state.setdefault("lm_head.weight", state[their_name("transformer.wte.weight", family)])
    theirs.load_state_dict(state)
    return ours, theirs


def their_name(name, family):
    if family == "openai-gpt":
        name = name.replace(".wte.", ".tokens_embed.").replace(".wpe.", ".positions_embed.")
    return name


def batch(fields):
    random = np.random.default_rng(3)
    shape = (3, fields["n_positions"])
    x, y = random.integers(0, fields["vocab_size"], (2, *shape))
    y[0, :2] = -100
    return x, y


def close(a, b, tolerance, what, scale=None):
    b = b.detach().numpy()
    assert a.dtype == b.dtype
    largest = np.abs(b).max() if scale is None else scale
    assert np.abs(a - b).max() <= tolerance * largest, what


@pytest.mark.parametrize(("family", "name", "dtype", "tolerance"), CASES)
def test_logits_loss_and_every_gradient(family, name, dtype, tolerance):
    import torch
    import torch.nn.functional as F

    fields = FAMILIES[family][name]
    ours, theirs = twins(fields, dtype, family)
    x, y = batch(fields)
    logits, loss = ours(x, y)
    loss.backward()
    expected = theirs(torch.tensor(x)).logits
    # transformers' own loss is float32
    expected_loss = F.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten())
    expected_loss.backward()

    assert logits.dtype == loss.dtype == dtype
    close(logits.numpy(), expected, tolerance, "logits")
    close(loss.numpy(), expected_loss, tolerance, "loss")
    labels = torch.tensor(np.concatenate([np.full((3, 1), -100), y], 1))[:, : x.shape[1] + 1]
    if dtype == np.float32 and x.shape[1] > 1:  # which shifts its labels itself
        theirs_loss = theirs(torch.tensor(x), labels=labels[:, :-1]).loss
        ours_loss = ours(x[:, :-1], y[:, :-1])[1]
        close(ours_loss.numpy(), theirs_loss, tolerance, "their own loss")
    largest = max(p.grad.abs().max().item() for p in theirs.parameters())
    gradients = dict(theirs.named_parameters())
    names = {name: their_name(name, family) for name, _ in ours.named_parameters()}
    assert set(names.values()) == set(gradients)
    for name, parameter in ours.named_parameters():
        close(parameter.grad.numpy(), gradients[names[name]].grad, tolerance, name, largest)


@pytest.mark.parametrize(("family", "name", "dtype", "tolerance"), CASES)
def test_hidden_states_and_attention_maps(family, name, dtype, tolerance):
    import torch

    fields = FAMILIES[family][name]
    ours, theirs = twins(fields, dtype, family)
    x, _ = batch(fields)
    inside = ours.activations(x)
    expected = theirs(torch.tensor(x), output_hidden_states=True, output_attentions=True)
    assert len(inside.hidden_states) == len(expected.hidden_states) == fields["n_layer"] + 1
    assert len(inside.attentions) == len(expected.attentions) == fields["n_layer"]
    for ours_state, theirs_state in zip(inside.hidden_states, expected.hidden_states, strict=True):
        close(ours_state.numpy(), theirs_state, tolerance, "a hidden state")
    for ours_map, theirs_map in zip(inside.attentions, expected.attentions, strict=True):
        close(ours_map.numpy(), theirs_map, tolerance, "an attention map")


@pytest.mark.parametrize(("dtype", "tolerance"), SIZES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_masks_and_explicit_positions(family, side, dtype, tolerance):
    """Padding is worth nothing wherever it stands; with their positions given, rows are equal."""
    import torch

    ours, theirs = twins(SMALL, dtype, family)
    x, y = batch(SMALL)
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
    close(logits.numpy()[counts], expected[torch.tensor(counts)], tolerance, "logits")
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten()).backward()
    gradients = dict(theirs.named_parameters())
    largest = max(p.grad.abs().max().item() for p in theirs.parameters())
    for name, parameter in ours.named_parameters():
        theirs_gradient = gradients[their_name(name, family)].grad
        close(parameter.grad.numpy(), theirs_gradient, tolerance, name, largest)
    for row, n in enumerate((0, 4, 9)):
        alone = x[row, n:] if side == "left" else x[row, : x.shape[1] - n]
        close_to = ours(alone[None])[0].numpy()[0]
        np.testing.assert_allclose(
            logits.numpy()[row][counts[row]], close_to, rtol=0, atol=10 * tolerance
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_three_steps_of_adamw_with_clipping(family):
    import torch
    import torch.nn.functional as F

    ours, theirs = twins(SMALL, np.float64, family)
    x, y = batch(SMALL)
    optimizer = AdamW(ours.named_parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    expected = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    for lr in (1e-2, 3e-3, 1e-3):
        ours(x, y)[1].backward()
        norm = clip_grad_norm(ours.parameters(), 0.7)
        optimizer.step(lr)
        optimizer.zero_grad()
        logits = theirs(torch.tensor(x)).logits
        F.cross_entropy(logits.flatten(0, 1), torch.tensor(y).flatten()).backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
        for group in expected.param_groups:
            group["lr"] = lr
        expected.step()
        expected.zero_grad()
        assert norm == pytest.approx(expected_norm.item(), rel=1e-12)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        # The loss does not depend on the keys' bias (softmax ignores what all scores share), so
        # its gradient is rounding alone, which Adam divides by about eps = 1e-8.
        atol = 1e-10 if name.endswith("c_attn.bias") else 1e-12
        np.testing.assert_allclose(
            parameter.numpy(),
            gradients[their_name(name, family)].detach().numpy(),
            rtol=1e-11,
            atol=atol,
            err_msg=name,
        )


def test_learning_rates_are_nanogpts():
    rates = [learning_rate_at(i, 1e-3, 1e-4, 100, 2000) for i in (0, 99, 100, 1050, 2000, 9999)]
    np.testing.assert_allclose(
        rates, [1e-3 / 101, 1e-3 * 100 / 101, 1e-3, 5.5e-4, 1e-4, 1e-4], rtol=1e-12
    )


SAVED = {
    "gpt2": ("gpt2", {}),
    "gpt2 without biases": ("gpt2", {"bias": False}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2 sinusoidal": ("gpt2", {"position_embedding": "sinusoidal"}),
    "gpt2 odd": ("gpt2", {"n_inner": 7, "activation_function": "relu", "n_layer": 3,
                          "scale_attn_by_inverse_layer_idx": True}),
    "gpt1": ("openai-gpt", {}),
    "gpt1 without biases": ("openai-gpt", {"bias": False, "activation_function": "silu"}),
    "gpt1 sinusoidal": ("openai-gpt", {"position_embedding": "sinusoidal"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_loads_in_transformers(name, tmp_path):
    import torch
    from transformers import GPT2LMHeadModel, OpenAIGPTLMHeadModel

    family, changes = SAVED[name]
    norm = "pre" if family == "gpt2" else "post"
    ours = GPT(GPTConfig(**(SMALL | changes), norm_position=norm), seed=3).eval()
    random = np.random.default_rng(1)
    for parameter in ours.parameters():
        parameter.data += 0.2 * random.standard_normal(parameter.shape, np.float32)
    ours.save_pretrained(tmp_path)
    kind = GPT2LMHeadModel if family == "gpt2" else OpenAIGPTLMHeadModel
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x, _ = batch(SMALL)
    expected = loaded.eval()(torch.tensor(x)).logits.detach().numpy()
    np.testing.assert_allclose(ours(x)[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == ours.config
    assert np.array_equal(again(x)[0].numpy(), ours(x)[0].numpy())


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_loads_here(family, shards, kind, tmp_path):
    import torch

    _, theirs = twins(SMALL, np.float32, family)
    theirs.to(getattr(torch, kind))
    theirs.save_pretrained(tmp_path, max_shard_size="10KB" if shards else "1GB")
    assert len(list(tmp_path.glob("*.safetensors"))) > shards
    ours = GPT.from_pretrained(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {np.dtype(np.float32)}
    x, _ = batch(SMALL)
    expected = theirs.float()(torch.tensor(x)).logits.detach().numpy()
    np.testing.assert_allclose(ours(x)[0].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_configurations_of_transformers():
    from transformers import GPT2Config, OpenAIGPTConfig

    assert GPTConfig.from_dict(GPT2Config().to_dict()) == GPTConfig.preset("gpt2")
    assert GPTConfig.from_dict(OpenAIGPTConfig().to_dict()) == GPTConfig.preset("gpt1")

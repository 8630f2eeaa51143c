"""The same weights in Hugging Face's GPT-2: the same logits, loss and gradients."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.optim import AdamW, clip_grad_norm, learning_rate_at

pytestmark = pytest.mark.usefixtures("oracle")

SMALL = dict(vocab_size=37, n_positions=19, n_embd=24, n_layer=2, n_head=3)
CONFIGS = {
    "plain": SMALL,
    "one of each": dict(vocab_size=5, n_positions=1, n_embd=5, n_layer=1, n_head=1),
    "odd widths": dict(vocab_size=101, n_positions=33, n_embd=35, n_layer=3, n_head=7, n_inner=17),
    "exact gelu": SMALL | dict(activation_function="gelu"),
    "relu": SMALL | dict(activation_function="relu"),
    "untied": SMALL | dict(tie_word_embeddings=False),
    "unscaled": SMALL | dict(scale_attn_weights=False),
    "scaled by layer": SMALL | dict(scale_attn_by_inverse_layer_idx=True, n_layer=4),
    "large epsilon": SMALL | dict(layer_norm_epsilon=0.1),
    "long": SMALL | dict(n_positions=150, n_layer=1),
}


def twins(fields, dtype):
    """Our model and theirs, with the same random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    rates = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ours = GPT(GPTConfig(**fields, **rates), dtype=dtype)
    random = np.random.default_rng(7)
    for parameter in ours.parameters():
        parameter.data = (parameter.data + 0.2 * random.standard_normal(parameter.shape)).astype(
            dtype
        )
    theirs = GPT2LMHeadModel(GPT2Config(**fields, **rates, attn_implementation="eager"))
    theirs.to(torch.float64 if dtype == np.float64 else torch.float32).eval()
    state = {name: torch.tensor(value.copy()) for name, value in ours.state_dict().items()}
    state.setdefault("lm_head.weight", state["transformer.wte.weight"])
    theirs.load_state_dict(state)
    return ours, theirs


def batch(fields):
    random = np.random.default_rng(3)
    shape = (3, fields["n_positions"])
    x, y = random.integers(0, fields["vocab_size"], (2, *shape))
    y[0, :2] = -100
    return x, y


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_loss_and_every_gradient(name, dtype, tolerance):
    import torch
    import torch.nn.functional as F

    fields = CONFIGS[name]
    ours, theirs = twins(fields, dtype)
    x, y = batch(fields)
    logits, loss = ours(x, y)
    loss.backward()
    expected = theirs(torch.tensor(x)).logits
    # transformers' own loss is float32
    expected_loss = F.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten())
    expected_loss.backward()

    def close(a, b, what, scale=None):
        b = b.detach().numpy()
        assert a.dtype == b.dtype == dtype
        largest = np.abs(b).max() if scale is None else scale
        assert np.abs(a - b).max() <= tolerance * largest, what

    close(logits.numpy(), expected, "logits")
    close(loss.numpy(), expected_loss, "loss")
    largest = max(p.grad.abs().max().item() for p in theirs.parameters())
    gradients = dict(theirs.named_parameters())
    assert {name for name, _ in ours.named_parameters()} == set(gradients)
    for name, parameter in ours.named_parameters():
        close(parameter.grad.numpy(), gradients[name].grad, name, largest)


def test_three_steps_of_adamw_with_clipping():
    import torch
    import torch.nn.functional as F

    ours, theirs = twins(SMALL, np.float64)
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
            parameter.numpy(), gradients[name].detach().numpy(), rtol=1e-11, atol=atol, err_msg=name
        )


def test_learning_rates_are_nanogpts():
    rates = [learning_rate_at(i, 1e-3, 1e-4, 100, 2000) for i in (0, 99, 100, 1050, 2000, 9999)]
    np.testing.assert_allclose(
        rates, [1e-3 / 101, 1e-3 * 100 / 101, 1e-3, 5.5e-4, 1e-4, 1e-4], rtol=1e-12
    )


def test_a_saved_model_loads_in_transformers(tmp_path):
    import torch
    from transformers import GPT2LMHeadModel

    ours, theirs = twins(SMALL, np.float32)
    ours.save_pretrained(tmp_path)
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    x, _ = batch(SMALL)
    np.testing.assert_allclose(
        ours(x)[0].numpy(), loaded(torch.tensor(x)).logits.detach().numpy(), rtol=1e-4, atol=1e-5
    )
    again = GPT.from_pretrained(tmp_path)
    assert np.array_equal(again(x)[0].numpy(), ours(x)[0].numpy())

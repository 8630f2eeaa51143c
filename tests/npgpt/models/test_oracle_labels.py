"""GPTs that judge a text as a whole, against transformers' ForSequenceClassification."""

import numpy as np
import pytest
from helpers import computing_in

from npgpt import GPTConfig, load_model
from npgpt.models.llama import LlamaConfig
from npgpt.models.registry import architecture_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

KIND = transformers.AutoModelForSequenceClassification
LABELS = ("bad", "good", "neither")
SMALL = dict(vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=4)
GPT = SMALL | dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, labels=LABELS, pad_token_id=0)
CASES = {
    "gpt2": GPTConfig(**GPT),
    "without biases": GPTConfig(**GPT, bias=False),
    "gpt1": GPTConfig(**GPT, norm_position="post"),
    "a number": GPTConfig(**GPT | dict(labels=("score",))),
    "llama": LlamaConfig(**SMALL, labels=LABELS, pad_token_id=0),
    "tied": LlamaConfig(**SMALL, labels=LABELS, pad_token_id=0, tie_word_embeddings=True),
    "mistral": LlamaConfig(**SMALL, labels=LABELS, pad_token_id=0, model_type="mistral"),
    "qwen2": LlamaConfig(**SMALL, labels=LABELS, pad_token_id=0, model_type="qwen2"),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name, tmp_path):
    config = CASES[name]
    model = architecture_of(config).model(config, seed=1, dtype=np.float64)
    random = np.random.default_rng(2)
    for parameter in model.parameters():
        parameter.data[...] = random.standard_normal(parameter.shape) * 0.3
    model.save_pretrained(tmp_path)
    with computing_in(np.float64):
        twin = KIND.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert load_model(tmp_path).config == config

    B, T = 4, 9
    ids = random.integers(1, config.vocab_size, (B, T))
    lengths = np.array([T, 5, 1, 8])
    mask = (np.arange(T) < lengths[:, None]).astype(int)
    ids[mask == 0] = 0
    n = len(config.labels)
    targets = random.integers(0, n, B) if n > 1 else random.standard_normal(B)
    logits, loss = model(ids, targets, mask)
    loss.backward()
    with computing_in(np.float64):
        theirs = twin(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            labels=torch.tensor(targets),
        )
    theirs.loss.backward()
    assert np.allclose(logits.numpy(), theirs.logits.detach().numpy(), rtol=1e-10, atol=1e-12)
    assert np.isclose(loss.item(), theirs.loss.item(), rtol=1e-12)

    # the gradients, written by the names of files, as the weights are
    for parameter in model.parameters():
        parameter.data[...] = 0 if parameter.grad is None else parameter.grad.numpy()
    model.save_pretrained(tmp_path / "gradients")
    expected = KIND.from_pretrained(tmp_path / "gradients", dtype=torch.float64)
    found = dict(expected.named_parameters())
    largest = max(p.grad.abs().max().item() for p in twin.parameters() if p.grad is not None)
    for key, parameter in twin.named_parameters():
        if parameter.grad is not None and not (key.endswith("bias") and not model_has_bias(config)):
            assert (parameter.grad - found[key]).abs().max().item() <= 1e-10 * largest, key


def model_has_bias(config):
    return getattr(config, "bias", True)

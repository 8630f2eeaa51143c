"""resize_token_embeddings of transformers: the same logits of old tokens, and of new ones."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.weights.vocabulary import resize_token_embeddings

pytestmark = pytest.mark.usefixtures("oracle")
SIZE = dict(vocab_size=40, n_positions=8, n_embd=12, n_layer=1, n_head=2, initializer_range=0.3)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_logits_are_those_of_transformers(kind, tmp_path):
    """Its new rows are drawn around the mean of the old ones, with 1e-9 of their covariance."""
    import torch
    import transformers

    model = GPT(GPTConfig(**SIZE, tie_word_embeddings=kind == "tied"), dtype=np.float64).eval()
    model.save_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float64
    ).eval()
    theirs.resize_token_embeddings(43, mean_resizing=True)
    ids = np.random.default_rng(0).integers(0, 40, (2, 8))
    found = resize_token_embeddings(model, 43)(ids)[0].numpy()
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert found.shape == expected.shape == (2, 8, 43)
    spread = np.abs(expected).max()
    np.testing.assert_allclose(found[..., :40], expected[..., :40], atol=1e-10 * spread)
    np.testing.assert_allclose(found[..., 40:], expected[..., 40:], atol=1e-3 * spread)

"""Pruned models in transformers: the same logits."""

import numpy as np
import pytest
from helpers import draw_model

from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.training.data import Batch
from npgpt.training.pruning import count_parts, measure_importance, remove_parts
from npgpt.weights.export import export

pytestmark = pytest.mark.usefixtures("oracle")

SIZES = dict(vocab_size=256, n_embd=24, n_head=4, n_layer=3)
MODELS = {
    "gpt2": SIZES,
    "gpt2 without biases": SIZES | dict(bias=False),
    "llama": SIZES | dict(model_type="llama", n_kv_head=2, mlp_bias=True),
    "qwen2": SIZES | dict(model_type="qwen2", n_kv_head=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_has_the_same_logits_there(name, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model = draw_model(**MODELS[name])
    ids = np.random.default_rng(1).integers(256, size=(2, 9))
    importance = measure_importance(model, [Batch(ids, ids)])
    keep = count_parts(model.config)._replace(heads=1, channels=20, layers=2)
    small = remove_parts(model, keep, importance)
    small.save_pretrained(tmp_path / "small")
    save_tokenizer(ByteTokenizer(), tmp_path / "small")
    export(tmp_path / "small", tmp_path / "exported")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(small(ids)[0].numpy(), logits, rtol=1e-5, atol=1e-5)

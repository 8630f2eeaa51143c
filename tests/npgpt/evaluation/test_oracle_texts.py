"""Perplexity with a stride, against the loop of Hugging Face's guide in PyTorch."""

import numpy as np
import pytest
from helpers import draw_model

from npgpt.evaluation.texts import text_loss
from npgpt.tokenizers import ByteTokenizer

pytestmark = pytest.mark.usefixtures("oracle")


@pytest.mark.parametrize(("length", "stride"), [(15, 8), (15, 1), (11, 5), (7, 6), (3, 2)])
def test_perplexity_is_that_of_the_guide(length, stride, tmp_path):
    """Its window holds the last target, too, so that it is longer by one than what is read."""
    import torch
    from transformers import AutoModelForCausalLM

    model = draw_model(vocab_size=256, n_positions=16)
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = "The quick brown fox jumps over the lazy dog, and sleeps."
    ids = torch.tensor(ByteTokenizer().encode(text)[None])
    total = count = reached = 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + length + 1, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - reached)] = -100
        with torch.no_grad():
            loss = theirs(ids[:, begin:end], labels=labels).loss.item()
        n = (labels[:, 1:] != -100).sum().item()
        total, count, reached = total + n * loss, count + n, end
        if end == ids.shape[1]:
            break
    found = text_loss(model, ByteTokenizer(), text, length, stride)
    assert found.sizes.sum() == count == ids.shape[1] - 1
    assert found.metrics()["perplexity"].value == pytest.approx(np.exp(total / count), rel=1e-5)

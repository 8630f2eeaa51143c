"""Choice by likelihood, against transformers on a real model and real sentences."""

import os

import numpy as np
import pytest

from npgpt import load_model, load_tokenizer
from npgpt.evaluation.choices import Scorer
from npgpt.evaluation.few_shot import FewShot, classify

pytestmark = pytest.mark.usefixtures("oracle")

LABELS = ["positive", "negative"]


def test_zero_shot_choices_are_those_of_transformers(smollm2, shared):
    """Sentences of rt-polarity: the same label each time, with the same probability."""
    import torch
    from transformers import AutoModelForCausalLM

    if os.environ.get("NPGPT_TEST_ALL") != "1":
        pytest.importorskip("gguf")  # with which transformers reads the file
    reviews = [
        line.strip()
        for kind in ("pos", "neg")
        for line in (shared / "tasks/rt-polarity" / f"rt-polarity.{kind}")
        .read_text(encoding="latin-1")
        .splitlines()[:30]
    ]
    tokenizer = load_tokenizer(smollm2)
    task = FewShot("Review: {input}\nSentiment: {output}")
    found = classify(Scorer(load_model(smollm2), tokenizer), task, reviews, LABELS)
    theirs = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).eval()
    ids = [tokenizer.encode(f" {label}") for label in LABELS]
    assert [len(label) for label in ids] == [1, 1]
    expected = []
    with torch.no_grad():
        for review in reviews:
            prompt = tokenizer.encode(task.prompt(review, tokenizer))
            logits = theirs(torch.tensor(prompt[None])).logits[0, -1]
            expected.append(logits[np.concatenate(ids)].softmax(0).numpy())
    np.testing.assert_array_equal(found.argmax(axis=1), np.argmax(expected, axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-4)

"""What a model does with a text, computed from the hidden states and attentions of transformers.

transformers computes the norms and angles of a Llama in float32, whatever the dtype of the model.
"""

import os

import numpy as np
import pytest
from helpers import draw_model

from npgpt import load_tokenizer
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import (
    attention_maps,
    integrate_gradients,
    logit_lens,
    surprises,
)
from npgpt.weights.load import load_model

pytestmark = pytest.mark.usefixtures("oracle")

MODELS = {
    "gpt2": (dict(), 1e-10),
    "gpt1": (dict(norm_position="post"), 1e-10),
    "llama": (dict(model_type="llama", n_kv_head=1), 2e-6),
    "qwen2": (dict(model_type="qwen2"), 2e-6),
}
IDS = np.arange(12) * 7 % 66


@pytest.fixture(params=MODELS)
def pair(request, tmp_path):
    """Our model, transformers' model of the same weights, and how far the two may differ."""
    import torch
    from transformers import AutoModelForCausalLM

    options, tolerance = MODELS[request.param]
    draw_model(np.float64, **options).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float64
    ).eval()
    return load_model(tmp_path, dtype=np.float64), theirs, tolerance


def run(theirs, ids):
    import torch

    with torch.no_grad():
        return theirs(torch.tensor(ids[None]), output_attentions=True, output_hidden_states=True)


def log_probabilities(logits):
    import torch

    return torch.log_softmax(logits.double(), dim=-1).numpy()


def lens_of(theirs, ids, norm):
    """Return the log-probabilities of all layers, (L + 1, T, V)."""
    import torch

    *states, last = run(theirs, ids).hidden_states
    head = theirs.get_output_embeddings()
    with torch.no_grad():
        read = [head(norm(state) if norm else state)[0] for state in states] + [head(last)[0]]
    return np.stack([log_probabilities(logits) for logits in read])


def norm_of(theirs):
    body = theirs.base_model
    return getattr(body, "ln_f", None) or getattr(body, "norm", None)


def test_maps_lens_and_surprises(pair):
    ours, theirs, tolerance = pair
    expected = run(theirs, IDS)
    maps = np.stack([weights.numpy()[0] for weights in expected.attentions])
    np.testing.assert_allclose(attention_maps(ours, IDS), maps, atol=tolerance)
    logs = lens_of(theirs, IDS, norm_of(theirs))
    lens = logit_lens(ours, IDS, k=66)
    found = np.take_along_axis(logs, lens.best, axis=-1)
    np.testing.assert_allclose(np.log(lens.probabilities), found, rtol=tolerance, atol=tolerance)
    final = logs[-1].argmax(axis=-1)[:, None]
    own = np.take_along_axis(logs, final[None], axis=-1)
    assert np.array_equal(lens.ranks, 1 + (logs > own).sum(axis=-1))
    surprise = -np.take_along_axis(
        log_probabilities(expected.logits[0, :-1]), IDS[1:, None], axis=-1
    )
    found = surprises(ours, IDS).surprises
    np.testing.assert_allclose(found, surprise[:, 0], rtol=tolerance, atol=tolerance)


def test_direct_attribution(pair):
    """The terms of the last block are found by taking its branches out of the sum."""
    import torch

    ours, theirs, tolerance = pair
    found = attribute_directly(ours, IDS, 5, 7)
    logits = run(theirs, IDS).logits[0, -1].numpy()
    np.testing.assert_allclose(found.total, logits[5] - logits[7], rtol=tolerance, atol=tolerance)
    norm = norm_of(theirs)
    if norm is None:  # of a post-norm model, whose sum has a norm after each branch
        return
    body = theirs.base_model
    block = (getattr(body, "h", None) or body.layers)[-1]
    kept = []
    handle = block.mlp.register_forward_hook(lambda module, args, out: kept.append(out))
    caught = []
    before = norm.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    run(theirs, IDS)
    handle.remove()
    before.remove()
    x, mlp = caught[0][0, -1], kept[0][0, -1]
    head = theirs.get_output_embeddings().weight
    row = head[5] - head[7]
    with torch.no_grad():
        if hasattr(norm, "bias"):
            deviation = torch.sqrt(x.var(unbiased=False) + norm.eps)
            term = (mlp - mlp.mean()) / deviation * norm.weight @ row
        else:
            term = mlp / torch.sqrt((x**2).mean() + norm.variance_epsilon) * norm.weight @ row
    np.testing.assert_allclose(found.mlps[-1], term.item(), rtol=tolerance, atol=tolerance)


def test_integrated_gradients(pair):
    """PyTorch's gradients on a fine grid; no token is kept, in the way of the paper."""
    import torch

    ours, theirs, _ = pair
    found = integrate_gradients(
        ours, IDS, 5, 7, keep_first=False, tolerance=1e-7, most_gradients=3000
    )
    table = theirs.get_input_embeddings().weight.detach()
    own, mean = table[torch.tensor(IDS)], table.mean(dim=0)
    points, weights = np.polynomial.legendre.leggauss(200)
    shares = 0
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        x = (mean + point * (own - mean))[None].clone().requires_grad_()
        logits = theirs(inputs_embeds=x).logits[0, -1]
        (gradient,) = torch.autograd.grad(logits[5] - logits[7], x)
        shares = shares + weight * (gradient[0] * (own - mean)).sum(dim=-1).numpy()
    np.testing.assert_allclose(found.tokens, shares, atol=1e-5 * np.abs(shares).max())


def test_smollm2(smollm2):
    """The real model in float32: maps, the lens' best tokens, surprises, and the sum of terms."""
    import torch
    from transformers import AutoModelForCausalLM

    if os.environ.get("NPGPT_TEST_ALL") != "1":
        pytest.importorskip("gguf")  # with which transformers reads the file

    theirs = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ours, tokenizer = load_model(smollm2), load_tokenizer(smollm2)
    ids = tokenizer.encode("The Eiffel Tower stands in the city of Paris. The capital of France is")
    expected = run(theirs, ids)
    maps = np.stack([weights.numpy()[0] for weights in expected.attentions])
    np.testing.assert_allclose(attention_maps(ours, ids), maps, atol=1e-3)
    logs, lens = lens_of(theirs, ids, norm_of(theirs)), logit_lens(ours, ids)
    found = np.take_along_axis(logs, lens.best, axis=-1)
    np.testing.assert_allclose(lens.probabilities, np.exp(found), atol=5e-3)
    assert np.mean(lens.best[..., 0] == logs.argmax(axis=-1)) > 0.99  # all but ties in rounding
    (paris,) = tokenizer.encode(" Paris").tolist()
    assert lens.best[-1, -1, 0] == paris
    logit = expected.logits[0, -1, paris].item()
    np.testing.assert_allclose(attribute_directly(ours, ids, paris).total, logit, atol=2e-3)

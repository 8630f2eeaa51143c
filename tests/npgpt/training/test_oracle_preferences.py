"""Direct preference optimization against its formula in PyTorch: the loss, and its gradient."""

import json

import numpy as np
import pytest
from helpers import draw_model, train_config

from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.training.data import END
from npgpt.training.run import start
from npgpt.training.task import accumulate_gradients

pytestmark = pytest.mark.usefixtures("oracle")


def test_the_loss_and_its_gradient(tmp_path):
    """transformers' GPT-2 with the same weights, and equation 7 of Rafailov et al. 2023."""
    import torch
    import transformers

    rows = [
        {"prompt": "x" * n, "chosen": "good " * (n % 3 + 1), "rejected": "bad" * (n % 4 + 1)}
        for n in range(1, 13)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    tokenizer = ByteTokenizer([END])
    base = draw_model(vocab_size=tokenizer.n_vocab, n_positions=64, bias=True)
    base.save_pretrained(tmp_path / "base")
    save_tokenizer(tokenizer, tmp_path / "base")
    config = train_config(
        str(tmp_path / "pairs.json"), tmp_path / "run", task="preferences", block_size=64,
        init_from=str(tmp_path / "base"), n_embd=20, bias=True, dropout=0.0, dpo_beta=0.3,
    )  # fmt: skip
    task = start(config).task

    model = draw_model(np.float64, vocab_size=tokenizer.n_vocab, n_positions=64, bias=True)
    draw = np.random.default_rng(1)
    for parameter in model.parameters():  # the model has moved on from the reference model
        parameter.data[...] += 0.05 * draw.standard_normal(parameter.shape)
    model.save_pretrained(tmp_path / "moved")
    batch = task.batch(np.arange(8))
    loss = accumulate_gradients(task.objective(model), [batch])

    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "moved", dtype=torch.float64)
    theirs.eval()
    reference = torch.tensor(task.reference[:8])
    terms = []
    for n in range(8):
        changes = []
        for side in (0, 1):
            ids, is_answer = task.rows[2 * n + side]
            log_p = theirs(torch.tensor(ids[None])).logits[0].log_softmax(-1)
            places = torch.tensor(np.flatnonzero(is_answer))
            total = log_p[places - 1, torch.tensor(ids)[places]].sum()
            changes.append(total - reference[n, side])
        terms.append(-torch.nn.functional.logsigmoid(0.3 * (changes[0] - changes[1])))
    expected = torch.stack(terms).mean()
    expected.backward()

    assert abs(loss - expected.item()) <= 1e-10 * abs(loss)
    assert abs(loss - np.log(2)) > 0.01
    gradients = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        if name in gradients:
            found, known = parameter.grad.numpy(), gradients[name].grad.numpy()
            assert np.abs(found - known).max() <= 1e-10 * max(1e-3, np.abs(known).max()), name
            compared += 1
    assert compared >= 20

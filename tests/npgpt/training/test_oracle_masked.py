"""A run with masked tokens is a checkpoint of transformers: the same loss, the same guesses."""

import numpy as np
import pytest
from helpers import TEXT, Quiet, npgpt, train_config

from npgpt import load_model
from npgpt.gaps import fill_gaps
from npgpt.tokenizers import WordPieceTokenizer, save_tokenizer
from npgpt.training.run import start, train

pytestmark = pytest.mark.usefixtures("oracle")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run; the folder ``exported`` beside it is for transformers."""
    folder = tmp_path_factory.mktemp("masked")
    (folder / "text.txt").write_text(TEXT)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the quick brown fox jump ##s over lazy dog .".split()
    (folder / "tokenizer").mkdir()
    save_tokenizer(WordPieceTokenizer({w: i for i, w in enumerate(words)}), folder / "tokenizer")
    changes = dict(task="masked", tokenizer=str(folder / "tokenizer"), sample_tokens=0)
    run = start(train_config(str(folder / "text.txt"), folder / "run", **changes))
    train(run, Quiet(run))
    assert npgpt("export", run.folder, folder / "exported") == 0
    return run


def test_the_loss_of_transformers(run):
    import torch
    from transformers import BertForMaskedLM

    exported = run.folder.parent / "exported"
    theirs = BertForMaskedLM.from_pretrained(exported, dtype=torch.float64).eval()
    ours = load_model(run.folder, dtype=np.float64)
    for batch in run.task.validation_batches(3, run.task.n_text):
        found = theirs(torch.tensor(batch.inputs), labels=torch.tensor(batch.targets))
        logits, loss = ours(batch.inputs, batch.targets)
        np.testing.assert_allclose(logits.numpy(), found.logits.detach().numpy(), atol=1e-10)
        assert loss.item() == pytest.approx(found.loss.item(), rel=1e-10)


def test_the_guesses_of_the_pipeline_of_transformers(run):
    from transformers import pipeline

    theirs = pipeline("fill-mask", str(run.folder.parent / "exported"), top_k=4, device="cpu")
    text = "The [MASK] fox jumps over"
    ours = fill_gaps(load_model(run.folder), run.tokenizer, text, top=4)[0]
    for guess, expected in zip(ours, theirs(text), strict=True):
        assert guess.score == pytest.approx(expected.pop("score"), rel=1e-5)
        found = dict(token=guess.token, token_str=guess.token_str, sequence=guess.sequence)
        assert found == expected

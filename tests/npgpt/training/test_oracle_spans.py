"""Answers as spans, in transformers: the windows of its tokenizer, its loss, and a run's folder."""

import numpy as np
import pytest
from helpers import npgpt, train_config
from test_spans import asked  # noqa: F401
from test_trainable import base_of

from npgpt import load_model
from npgpt.evaluation.spans import encode_words, find_answer, read_spans
from npgpt.models.bert import Bert
from npgpt.tokenizers import load_tokenizer
from npgpt.training.run import start
from npgpt.training.task import accumulate_gradients

pytestmark = pytest.mark.usefixtures("oracle")


def test_windows_loss_and_gradient(asked, tmp_path):  # noqa: F811
    """In float64, the loss of a batch and its gradient agree to 1e-10."""
    import torch
    import transformers

    base = base_of("bert", tmp_path / "base")
    config = train_config(
        asked, tmp_path / "run", task="spans", block_size=10, stride=4, init_from=base, n_embd=16,
        n_head=2, n_layer=2, dropout=0.0,
    )  # fmt: skip
    run = start(config)
    questions = read_spans(asked)[:8]
    vocab = load_tokenizer(base).vocab
    encode = transformers.BertTokenizer(vocab=vocab)
    theirs = encode(
        [each.question for each in questions], [each.context for each in questions],
        truncation="only_second", max_length=10, stride=(10 - 4) - 4, padding=True,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="np",
    )  # fmt: skip
    batch = run.task.batch(np.arange(8))
    np.testing.assert_array_equal(batch.inputs, theirs["input_ids"])
    np.testing.assert_array_equal(batch.attention_mask, theirs["attention_mask"])
    for row, (first, last) in enumerate(batch.targets):  # the characters of the targets
        if first:
            each = questions[theirs["overflow_to_sample_mapping"][row]]
            places = theirs["offset_mapping"][row]
            assert (places[first][0], places[last][1]) == each.span

    model = Bert(run.model.config, dtype=np.float64)
    model.load_state_dict(
        {name: x.astype(np.float64) for name, x in run.model.state_dict().items()}
    )
    model.save_pretrained(tmp_path / "wide")
    loss = accumulate_gradients(run.task.objective(model), [batch])
    other = transformers.BertForQuestionAnswering.from_pretrained(
        tmp_path / "wide", dtype=torch.float64
    ).eval()
    keys = ("input_ids", "attention_mask", "token_type_ids")
    found = other(
        **{key: torch.tensor(theirs[key]) for key in keys},
        start_positions=torch.tensor(batch.targets[:, 0]),
        end_positions=torch.tensor(batch.targets[:, 1]),
    )
    found.loss.backward()
    assert abs(loss - found.loss.item()) <= 1e-10 * loss
    known = other.qa_outputs.weight.grad.numpy().T
    np.testing.assert_allclose(model.span_head.weight.grad.numpy(), known, rtol=1e-10, atol=1e-12)
    known = other.bert.embeddings.word_embeddings.weight.grad.numpy()
    np.testing.assert_allclose(
        model.transformer.wte.weight.grad.numpy(), known, rtol=1e-10, atol=1e-12
    )


def test_transformers_opens_the_exported_run(asked, tmp_path, capsys):  # noqa: F811
    """The exported model has the same logits there, and its best span is our answer."""
    import torch
    import transformers

    base = base_of("bert", tmp_path / "base")
    folder = tmp_path / "run"
    args = ["--train", asked, "--model", base, "--out_dir", folder, "--max_iters", 20]
    assert npgpt("finetune", "spans", *args, "--eval_interval", 20, "--batch_size", 8) == 0
    assert npgpt("export", folder, tmp_path / "exported") == 0
    capsys.readouterr()
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "exported")
    assert type(theirs.eval()).__name__ == "BertForQuestionAnswering"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    for each in read_spans(asked)[:5]:
        batch = tokenizer.encode_batch([each.question], [each.context])
        with torch.no_grad():
            found = theirs(**{key: torch.tensor(x) for key, x in batch._asdict().items()})
        start, end = found.start_logits[0].numpy(), found.end_logits[0].numpy()
        sums = np.where(
            np.triu(np.ones((len(start), len(end)), bool)), start[:, None] + end, -np.inf
        )
        context = slice(len(tokenizer.encode(each.question)), -1)
        i, j = np.unravel_index(sums[context, context].argmax(), sums[context, context].shape)
        _, places = encode_words(each.context, tokenizer)
        answer = find_answer(model, tokenizer, each.question, each.context)
        assert (answer.start, answer.end) == (places[i, 0], places[j, 1])

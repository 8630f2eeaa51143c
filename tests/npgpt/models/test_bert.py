"""BERT without an oracle: both directions, its files, the tools, and messages for wrong input."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import npgpt

import autograd
from npgpt import UserError, generate, load_model
from npgpt.diagnostics.info import Cost
from npgpt.generation.quantize import quantize
from npgpt.models.bert import Bert, BertConfig
from npgpt.tokenizers import ByteTokenizer, save_tokenizer

TINY = dict(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3)
KINDS = (
    "BertModel",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForQuestionAnswering",
)


def tiny(kind="BertForMaskedLM", dtype=np.float32, **options):
    model = Bert(BertConfig(**TINY | dict(architecture=kind) | options), dtype=dtype).eval()
    random = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data[...] = 0.3 * random.standard_normal(parameter.shape)
    return model


def test_every_position_sees_all_others():
    model, ids = tiny(dtype=np.float64), np.array([[1, 2, 3, 4, 5]])
    before = model(ids)[0].numpy()
    for t in range(5):
        other = ids.copy()
        other[0, t] = 9
        assert (np.abs(model(other)[0].numpy() - before).max(axis=-1) > 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    model = tiny(kind)
    ids, padded = np.array([[3, 4, 5]]), np.array([[3, 4, 5, 9, 9]])
    expected = model(ids)[0].numpy()
    found = model(padded, attention_mask=np.array([[1, 1, 1, 0, 0]]))[0].numpy()
    if found.ndim == 3:
        found = found[:, :3]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_segments_of_zero_are_the_default():
    model, ids = tiny(), np.array([[3, 4, 5]])
    zeros = model(ids, token_type_ids=np.zeros_like(ids))[0].numpy()
    np.testing.assert_array_equal(zeros, model(ids)[0].numpy())
    ones = model(ids, token_type_ids=np.ones_like(ids))[0].numpy()
    assert np.abs(ones - zeros).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back(kind, tmp_path):
    model = tiny(kind, num_labels=3, type_vocab_size=4)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is Bert and again.config == model.config
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_costs_are_those_of_both_directions():
    config = BertConfig(**TINY)
    assert Cost(config, 1, 8).visible(0) == 8
    assert Cost(config, 1, 8).cache == 0


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_activations_are_what_the_tape_keeps(kind):
    config = BertConfig(
        vocab_size=100, n_positions=64, n_embd=64, n_layer=3, n_head=4, architecture=kind,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    model, ids = Bert(config), np.random.default_rng(0).integers(1, 100, (8, 64))
    targets = None if kind == "BertModel" else ids
    model(ids, targets)  # what is made once, such as compiled kernels
    tracemalloc.start()
    kept_by = model(ids, targets)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept_by[0].requires_grad
    assert kept == pytest.approx(Cost(config, 8, 64).activations, rel=0.1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m(np.array([[1, 2]]), token_type_ids=np.array([[0, 2]])), "has 2 segments"),
        (lambda m: m(np.array([[1, 2]]), token_type_ids=np.array([0, 1])), "a segment for each"),
        (lambda m: m(np.array([[1, 2]]), token_type_ids=np.array([[0.0, 1.0]])), "token_type_ids"),
        (lambda m: m(np.array([[11]])), "input_ids holds 11"),
        (lambda m: m(np.array([[1]]), np.array([[12]])), "targets holds 12"),
        (lambda m: m(np.array([[1, 2]]), np.array([1, 2])), "targets has shape"),
        (lambda m: generate(m, [[1, 2]]), "cannot continue"),
        (lambda m: quantize(m), "a BERT cannot be quantized"),
        (lambda m: tiny("BertModel")(np.array([[1]]), np.array([[1]])), "predicts nothing"),
        (lambda m: tiny(KINDS[3])(np.array([[1]]), np.array([2])), "there are 2 labels"),
        (lambda m: tiny(KINDS[4])(np.array([[1]]), np.array([0])), "the first and the last"),
        (lambda m: tiny(KINDS[4])(np.array([[1]]), np.array([[0, 1]])), "the texts have 1 tokens"),
        (lambda m: tiny(KINDS[3], num_labels=1)(np.array([[1]]), np.array(["a"])), "numbers"),
        (lambda m: BertConfig(n_embd=10, n_head=3), "multiple of n_head"),
        (lambda m: BertConfig(vocab_size=3, pad_token_id=3), "pad_token_id is 3"),
        (lambda m: BertConfig(window_size=3), "no window_size"),
        (lambda m: BertConfig.from_dict({"is_decoder": True}), "is an encoder"),
        (lambda m: BertConfig.from_dict({"architectures": ["BertForX"]}), "known are BertModel"),
        (
            lambda m: BertConfig.from_dict({"position_embedding_type": "relative_key"}),
            "'relative_key'",
        ),
    ],
)
def test_wrong_input_is_one_line(call, said):
    with pytest.raises(UserError, match=said) as error:
        call(tiny())
    assert "\n" not in str(error.value)


def test_masks_of_other_shapes_and_long_texts_are_refused():
    with pytest.raises(ValueError, match="attention_mask has shape"):
        tiny()(np.array([[1, 2]]), attention_mask=np.array([[1]]))
    with pytest.raises(ValueError, match="9 tokens do not fit the context of 8"):
        tiny()(np.ones((1, 9), int))


@pytest.mark.parametrize("primitives", [False, True])
def test_a_pass_is_written_as_a_script(primitives, tmp_path):
    model = tiny()
    with autograd.use_kernels(False), autograd.record():
        loss = model(np.array([[3, 4]]), np.array([[5, -100]]), np.array([[1, 1]]))[1]
    path = tmp_path / "script.py"
    autograd.to_source(autograd.stepper.trace(loss), path, primitives=primitives)
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    name, _, value = run.stdout.split()[:3]
    assert name == "loss" and float(value) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_info(kind, tmp_path, capsys):
    tiny(kind, vocab_size=256).save_pretrained(tmp_path)
    save_tokenizer(ByteTokenizer(), tmp_path)
    assert npgpt("info", tmp_path) == 0
    out = capsys.readouterr().out
    assert "both ways" in out and "segments" in out

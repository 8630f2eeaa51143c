"""The loss over a text: windows with a stride, bits per character, and n-grams."""

from collections import Counter

import numpy as np
import pytest
from helpers import draw_model
from hypothesis import given
from hypothesis import strategies as st

from autograd import no_grad
from npgpt import UserError
from npgpt.evaluation.loss import every_window, whole_loss
from npgpt.evaluation.ngram import NGram
from npgpt.evaluation.texts import ngram_loss, text_loss
from npgpt.tokenizers import ByteTokenizer
from npgpt.training.data import IGNORED

TEXT = "to be, or not to be: that is the question."


@pytest.fixture
def model():
    return draw_model(vocab_size=256, n_positions=12)


@given(st.integers(2, 60), st.integers(1, 12), st.data())
def test_each_token_is_a_target_once(n, length, data):
    """And has at least length - stride tokens before it, where the text has so many."""
    stride = data.draw(st.integers(1, length))
    batch_size = data.draw(st.integers(1, 4))
    tokens = np.arange(n)
    found = []
    for inputs, targets, *_ in every_window(tokens, length, batch_size, None, stride):
        assert len(inputs) <= batch_size and inputs.shape[1] <= length
        for read, predicted in zip(inputs, targets, strict=True):
            assert np.all(np.diff(read) == 1)
            for i in np.flatnonzero(predicted != IGNORED):
                assert predicted[i] == read[i] + 1
                assert i + 1 >= min(length - stride + 1, predicted[i])
                found.append(predicted[i])
    assert found == [*range(1, n)]


def test_a_stride_of_one_token(model):
    """Each token has all tokens before it that fit into a window."""
    ids = np.frombuffer(TEXT.encode(), np.uint8).astype(np.int64)
    expected = []
    with no_grad():
        for i in range(1, len(ids)):
            logits, _ = model(ids[None, max(0, i - 5) : i])
            shifted = logits.numpy()[0, -1].astype(np.float64)
            expected.append(np.log(np.exp(shifted).sum()) - shifted[ids[i]])
    found = text_loss(model, ByteTokenizer(), TEXT, length=5, stride=1)
    assert found.sizes.tolist() == [5] + [1] * (len(ids) - 6)
    losses = np.average(found.losses, weights=found.sizes)
    assert losses == pytest.approx(np.mean(expected), rel=1e-5)
    np.testing.assert_allclose(found.losses[1:], expected[5:], rtol=1e-4)


def test_without_overlap_the_loss_is_that_of_training(model):
    ids = ByteTokenizer().encode(TEXT)
    found = text_loss(model, ByteTokenizer(), TEXT, 12, 12).metrics()
    assert found["loss"].value == pytest.approx(whole_loss(model, ids), rel=1e-6)
    assert found["perplexity"].value == pytest.approx(np.exp(found["loss"].value))
    bits = found["loss"].value / np.log(2)
    assert found["bits per character"].value == pytest.approx(bits)
    assert found["loss"].low < found["loss"].value < found["loss"].high


def test_bits_per_byte_and_per_character(model):
    """A letter of two bytes is two tokens of bytes: twice the bits of a byte."""
    found = text_loss(model, ByteTokenizer(), "a" + 20 * "é", 12, 6).metrics()
    per_character, per_byte = (found[f"bits per {name}"].value for name in ("character", "byte"))
    assert per_character == pytest.approx(2 * per_byte)
    assert per_byte == pytest.approx(found["loss"].value / np.log(2))


@pytest.mark.parametrize(
    ("text", "length", "stride", "says"),
    [
        ("a", 4, 2, "1 tokens; at least two"),
        (TEXT, 13, 2, "reads from 1 to 12"),
        (TEXT, 4, 5, "from 1 to the length, 4"),
        (TEXT, 4, 0, "the stride is 0"),
    ],
)
def test_windows_that_cannot_be(model, text, length, stride, says):
    with pytest.raises(UserError, match=says):
        text_loss(model, ByteTokenizer(), text, length, stride)


# ---- n-grams


def probability(train, context, token, n_vocab):
    """The formula of the class, from the text itself."""
    shorter = 1 / n_vocab if not context else probability(train, context[1:], token, n_vocab)
    n = len(context)
    after = Counter(train[i + n] for i in range(len(train) - n) if train[i : i + n] == context)
    c, t = after.total(), len(after)
    return (after[token] + t * shorter) / (c + t) if c else shorter


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=25),
    st.lists(st.integers(0, 4), min_size=2, max_size=12),
    st.integers(1, 4),
)
def test_ngrams_by_their_formula(train, text, order):
    found = NGram(np.array(train), 5, order).losses(np.array(text))
    expected = [
        probability(train, text[max(0, i - order + 1) : i], text[i], 5) for i in range(1, len(text))
    ]
    np.testing.assert_allclose(np.exp(-found), expected, rtol=1e-12)


def test_probabilities_of_ngrams_add_up_to_one():
    model = NGram(np.array([0, 1, 2, 0, 1, 3, 0, 1]), 6, 3)
    total = sum(np.exp(-model.losses(np.array([0, 1, token])))[-1] for token in range(6))
    assert total == pytest.approx(1, rel=1e-12)


def test_ngrams_in_the_windows_of_a_model():
    """The mean over the windows is the mean over the tokens."""
    sizes = np.array([12, 12, 12, len(TEXT) - 37])
    found = ngram_loss(3 * TEXT, 2, ByteTokenizer(), TEXT, sizes)
    each = NGram(ByteTokenizer().encode(3 * TEXT), 256, 2).losses(ByteTokenizer().encode(TEXT))
    assert found.metrics()["loss"].value == pytest.approx(each.mean(), rel=1e-12)
    with pytest.raises(UserError, match="at least two"):
        ngram_loss("", 2, ByteTokenizer(), TEXT, sizes)

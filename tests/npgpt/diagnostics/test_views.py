"""What a page shows of a model beside a pass."""

import numpy as np
import pytest
from helpers import TINY, draw_model, npgpt

from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import logit_lens
from npgpt.diagnostics.views import make_views
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig

IDS = np.array([3, 1, 4, 1, 5])


class Tokens:
    """A tokenizer with a token that would move a terminal's cursor."""

    tokens = {i: f"<{i}>" for i in range(10)} | {4: "\x1b[2J"}


@pytest.mark.parametrize("options", [{}, {"model_type": "llama"}], ids=["gpt", "llama"])
def test_views_have_the_numbers_of_the_lens_and_of_the_attribution(options):
    model = draw_model(**{**TINY, "n_embd": 12} | options)
    lens, heads, tokens = (view.entry() for view in make_views(model, Tokens(), IDS))
    expected = logit_lens(model, IDS)
    assert np.allclose(lens["shares"], expected.probabilities[..., 0])
    assert lens["rows"] == ["embeddings", "layer 0", "layer 1"]
    assert "\x1b" not in str(lens["columns"]) + str(lens["cells"]) + str(lens["tips"])
    added = attribute_directly(model, IDS, int(expected.best[-1, -1, 0]))
    shares = np.column_stack([added.heads.sum(axis=-1), added.mlps])
    assert np.allclose(heads["shares"], shares / np.abs(shares).max())
    by_token = added.heads.sum(axis=1)
    assert np.allclose(tokens["shares"], by_token / np.abs(by_token).max())
    head = added.heads[0, 1]
    assert f"adds {head.sum():+.4f}, most at {np.abs(head).argmax()} " in heads["tips"][0][1]


def test_what_predicts_no_next_token_has_no_views():
    sizes = dict(n_positions=8, n_embd=8, n_layer=1, n_head=2)
    assert make_views(Bert(BertConfig(9, **sizes)), Tokens(), IDS) == []
    assert make_views(EncoderDecoder(EncoderDecoderConfig(9, **sizes)), Tokens(), IDS) == []


def test_another_model_is_read_in_a_page_that_is_served(capsys):
    for wrong in (["--model", "x", "--text", "a b"], ["--run", "x", "--at", "0", "--serve"]):
        assert npgpt("step", *wrong, "--against", "y") == 2
        assert "--against is read beside --model" in capsys.readouterr().err

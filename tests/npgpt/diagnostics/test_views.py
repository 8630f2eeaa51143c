"""What a page shows of a model beside a pass: the lens, and what adds to a logit."""

import json

import numpy as np
import pytest
from helpers import TINY, draw_bert, draw_model, npgpt

import autograd
from autograd.page.live import Live
from autograd.page.views import MOST_TERMS
from autograd.page.why import explain_elements, explain_value
from autograd.stepper import trace
from autograd.stepper.stops import CommandError
from npgpt.diagnostics.axis_names import name_axes
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import attention_maps, logit_lens
from npgpt.diagnostics.views import MOST_ELEMENTS, ModelInsight
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig

IDS = np.array([3, 1, 4, 1, 5])
MASK = 4  # the id of the token for a gap


class Tokens:
    """A tokenizer with a token that would move a terminal's cursor."""

    tokens = {i: f"<{i}>" for i in range(11)} | {4: "\x1b[2J"}
    special_tokens = {"[MASK]": MASK}
    special_tokens_map = {}


def read(model, ids=IDS):
    """Return the trace of a model's loss on a text, with the insight of the model."""
    targets = ids[1:] if model.predicts_tokens else np.where(ids == MASK, 7, -100)
    with autograd.record() as recording:
        _, loss = model(ids[None, : len(targets)], targets=targets[None])
    name_axes(recording, model, Tokens())
    found = trace(loss)
    found.insight = ModelInsight(model, Tokens())
    return found


KINDS = {
    "gpt2": lambda: draw_model(**TINY),
    "gpt1": lambda: draw_model(**TINY, norm_position="post"),
    "llama": lambda: draw_model(
        **TINY | dict(n_embd=16, n_head=4), model_type="llama", n_kv_head=2
    ),
    "bert": lambda: draw_bert(**TINY),
}


@pytest.fixture(params=KINDS)
def model(request):
    return KINDS[request.param]()


def test_views_have_the_numbers_of_the_lens_and_of_the_attribution(model):
    found = read(model)
    ids = IDS[:-1] if model.predicts_tokens else IDS
    lens, heads, tokens = (view.entry() for view in found.insight.views(found))
    expected = logit_lens(model, ids)
    assert np.allclose(lens["shares"], expected.probabilities[..., 0])
    assert lens["rows"] == ["embeddings", "layer 0", "layer 1"]
    assert "\x1b" not in str(lens["columns"]) + str(lens["cells"]) + str(lens["tips"])
    t = len(ids) - 1 if model.predicts_tokens else 2  # the gap
    added = attribute_directly(model, ids, int(expected.best[-1, t, 0]), position=t)
    shares = np.column_stack([added.heads.sum(axis=-1), added.mlps])
    assert np.allclose(heads["shares"], shares / np.abs(shares).max())
    by_token = added.heads.sum(axis=1)
    assert np.allclose(tokens["shares"], by_token / np.abs(by_token).max())
    head = added.heads[0, 1]
    assert f"adds {head.sum():+.4f}, most at {np.abs(head).argmax()} " in heads["tips"][0][1]


def assert_adds_up(terms, total):
    assert sum(term.amount for term in terms) == pytest.approx(total, rel=1e-4, abs=1e-5)
    for term in terms:
        if term.terms:
            assert_adds_up(term.terms, term.amount)


def test_every_way_to_split_a_logit_adds_up_to_it(model):
    """And each way has the numbers of the attribution, and links to where they come from."""
    found = read(model)
    logits = found.recording.number("logits")
    recorded = found.recording.values[logits][0]
    ids = IDS[: len(recorded)]
    maps = attention_maps(model, ids)
    elements = found.insight.elements(found)
    positions = range(len(ids)) if model.predicts_tokens else [2]
    assert {element.place[1] for element in elements} == set(positions)
    for number, place, label in elements:
        assert number == logits and "\x1b" not in label
        why = found.insight.why(found, number, place)
        assert why.total == recorded[place[1:]]
        for terms in why.splits.values():
            assert_adds_up(terms, why.total)
        _, t, token = place
        expected = attribute_directly(model, ids, token, position=t)
        path = {term.name: term for term in why.splits["path"]}
        assert path["layer 1 MLP"].amount == pytest.approx(expected.mlps[1])
        head = path["layer 1 attention"].terms[2]
        assert head.amount == pytest.approx(expected.heads[1, 2].sum())
        for k, look in enumerate(head.terms):
            assert look.amount == pytest.approx(expected.heads[1, 2, k])
            call = found.recording.calls[look.link.number]
            groups = found.recording.values[call.results[0]].shape[1:-2]  # of heads
            place = (0, *np.unravel_index(2, groups), t, k)
            assert call.op.name == "attention" and look.link.place == place
        by_layer = dict((term.name, term.amount) for term in why.splits["layer"])
        layer = expected.heads[1].sum() + expected.attention_biases[1] + expected.mlps[1]
        assert by_layer["layer 1"] == pytest.approx(layer)
        by_head = dict((term.name, term.amount) for term in why.splits["head"])
        assert by_head["layer 0 head 1"] == pytest.approx(expected.heads[0, 1].sum())
        looks = [term for term in why.splits["token"] if term.name.startswith("heads")]
        assert np.allclose([term.amount for term in looks], expected.heads.sum(axis=(0, 1)))
    assert maps.shape[-1] == len(looks)
    assert {"embedding", "layer"} <= {name.split()[0] for name in path}


def test_the_largest_terms_are_first_and_the_others_are_one():
    model = draw_model(**{**TINY, "n_layer": 8})
    found = read(model)
    first = found.insight.elements(found)[0]
    why = explain_value(found, first.number, np.ravel_multi_index(first.place, (1, 4, 11)))
    for name, terms in why["splits"]:
        amounts = [abs(amount) for _, amount, _, _ in terms[:MOST_TERMS]]
        assert amounts == sorted(amounts, reverse=True)
        if name in ("path", "head"):
            assert len(terms) == MOST_TERMS + 1 and "others" in terms[-1][0]
        assert sum(term[1] for term in terms) == pytest.approx(why["total"], rel=1e-4)
    json.dumps(explain_elements(found), allow_nan=False)


def test_a_long_text_has_a_bounded_number_of_answers():
    model = draw_model(n_positions=64)
    found = read(model, np.arange(60) % 11)
    assert len(found.insight.elements(found)) == MOST_ELEMENTS


def test_after_a_change_the_lens_is_that_of_the_changed_model():
    """A weight is set, or a token."""
    model = draw_model(**TINY)
    live = Live(read(model))
    before = live._contents["views"]
    number = live.session.find("transformer.h.0.attn.c_proj.weight")
    live.answer({"do": "set", "version": 0, "value": number, "flat": 5, "to": 9.0})
    changed = draw_model(**TINY)
    changed.transformer.h[0].attn.c_proj.weight.data.flat[5] = 9.0
    expected = read(changed)
    entries = [view.entry() for view in expected.insight.views(expected)]
    for shown, entry, old in zip(live._contents["views"], entries, before, strict=True):
        assert np.allclose(shown["shares"], entry["shares"], atol=1e-5)
        assert not np.allclose(shown["shares"], old["shares"], atol=1e-3)
    assert model.transformer.h[0].attn.c_proj.weight.data.flat[5] != 9.0
    trace = live.session.trace
    ids = next(c for c in trace.recording.calls.values() if c.op.name == "embedding")
    live.answer({"do": "set", "version": 1, "value": ids.constants["input"], "flat": 1, "to": 8})
    lens = live._contents["views"][0]
    assert lens["columns"][1] == "<8>"
    changed_ids = np.array([3, 8, 4, 1])
    assert np.allclose(lens["shares"], logit_lens(changed, changed_ids).probabilities[..., 0])
    live.answer({"do": "reset", "version": 2})
    assert live._contents["views"] == before


def test_after_a_change_inside_nothing_untrue_is_said():
    """The model alone cannot compute a pass whose hidden state was set."""
    live = Live(read(draw_model(**TINY)))
    recording = live.session.trace.recording
    hidden = next(c for c in recording.calls.values() if c.scope == "transformer.h.0").results[0]
    answer = live.answer({"do": "set", "version": 0, "value": hidden, "flat": 5, "to": 9.0})
    assert "error" not in answer
    (view,) = live._contents["views"]
    assert "A result inside the model was set" in view["note"] and not view["cells"]
    assert live._contents["asked"] == []
    logits = live.session.find("logits")
    question = {"do": "why", "of": "value", "version": 1, "number": logits, "flat": 0}
    assert "the logits of a model alone" in live.answer(question)["error"]


def test_questions_that_have_no_answer():
    found = read(draw_model(**TINY))
    with pytest.raises(CommandError, match="logits of a model"):
        explain_value(found, found.start, 0)
    found.insight = None
    with pytest.raises(CommandError, match="beyond its sum"):
        explain_value(found, found.recording.number("logits"), 0)


def test_what_predicts_no_token_has_no_views():
    sizes = dict(n_positions=8, n_embd=8, n_layer=1, n_head=2)
    translator = EncoderDecoder(EncoderDecoderConfig(9, **sizes))
    for other in (translator, draw_bert(architecture="BertModel", **TINY)):
        found = read(draw_model(**TINY))
        found.insight = ModelInsight(other, Tokens())
        assert found.insight.views(found) == [] == found.insight.elements(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "x", "--text", "a b", "--against", "y"], "add --html FILE or --serve"),
        (["--run", "x", "--at", "0", "--serve", "--against", "y"], "to compare with --model"),
        (["--model", "x", "--text", "a", "--serve", "--against_text", "b"], "add --html FILE"),
        (["x.py", "--html", "x.html", "--against_text", "b"], "on the page of a --model"),
    ],
)
def test_options_that_compare_need_a_page_of_a_model(options, message, capsys):
    assert npgpt("step", *options) == 2
    assert message in capsys.readouterr().err

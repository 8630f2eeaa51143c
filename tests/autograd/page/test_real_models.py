"""The page of models in a browser: why of a logit, in a file and served, and comparisons."""

import json
import re

import numpy as np
import pytest
from helpers import draw_bert, npgpt, opened, serving
from test_server import wait_until

from autograd.page.live import Live
from autograd.page.server import Server
from npgpt.commands.step import insight_of, trace_text
from npgpt.diagnostics.axis_names import name_token
from npgpt.diagnostics.inside import attention_maps, logit_lens
from npgpt.tokenizers import ByteTokenizer

PICTURES = """(labels) => labels.map((label) => {
  const canvas = document.querySelector(`#inside [aria-label="${label}"] canvas`);
  const { width, height } = canvas;
  return [...canvas.getContext("2d").getImageData(0, 0, width, height).data];
})"""


def attention_steps(trace):
    """Return the calls of attention of a trace with the cotangents of their results."""
    steps = {step.number: step.cotangent for step in trace.steps}
    return [(call, steps[call.number]) for call in trace.recording.calls.values()
            if call.op.name == "attention"]  # fmt: skip


def gradients_of_weights(call, g):
    """Return the gradient of each attention weight, (B, H, T, S): g · value, in NumPy.

    Heads that share keys have an axis for the group.
    """
    found = g @ np.asarray(call.arguments["value"]).swapaxes(-1, -2)
    return found.reshape(len(found), -1, *found.shape[-2:])


def assert_maps(page, layer, head, weights, gradients):
    """Compare the pictures of a head, of example 0, with arrays of all heads, (B, H, T, S)."""
    names = ["weights", "gradients"]
    found = page.evaluate(PICTURES, [f"layer {layer}, head {head}: {name}" for name in names])
    for pixels, x in zip(found, (weights, gradients), strict=True):
        alphas = np.reshape(pixels, (*x.shape[2:], 4))[..., 3]
        assert np.abs(alphas - 255 * np.abs(x[0, head]) / np.abs(x).max()).max() <= 1


def shown(text):
    """Return a number that the page shows."""
    return float(text.replace("−", "-"))


def amounts(page, selector):
    return [shown(text) for text in page.locator(selector).all_inner_texts()]


def assert_why(page, why):
    """Compare what the page says of a value with the insight of its trace."""
    page.locator("#why-value ul").first.wait_for()
    assert why.title in page.inner_text("#why-value p")
    line = "#why-value > div > ul > li"
    top = f"{line} > details > summary .amount, {line} > .amount"
    assert sum(amounts(page, top)) == pytest.approx(why.total, abs=2e-2)
    order = sorted(why.splits["path"], key=lambda term: -abs(term.amount))
    assert amounts(page, top)[:12] == pytest.approx([t.amount for t in order[:12]], rel=2e-3)
    for line in page.locator("#why-value .by").all_inner_texts():
        parts = re.split(r"[:,] (?=[-−]?[\d.]+(?:e-?\d+)? [a-zA-Z])", line)[1:]
        total = sum(shown(part.split(" ")[0]) for part in parts)
        assert total == pytest.approx(why.total, abs=2e-2), line


def test_a_bert_that_fills_gaps(browser, tmp_path):
    """The lens of every position, and why of the best token for each gap, in a file and served."""
    model = draw_bert(vocab_size=257, n_positions=32, n_embd=12, n_layer=2, n_head=3)
    tokenizer = ByteTokenizer(["[MASK]"])
    trace = trace_text("bert", model, tokenizer, "the quick brown fox")
    trace.insight = insight_of((model, tokenizer))
    recording = trace.recording
    ids = next(c for c in recording.calls.values() if c.op.name == "embedding").arguments["input"]
    gaps = np.flatnonzero(ids[0] == 256)
    assert len(gaps)
    lens = logit_lens(model, ids[0])
    trace.to_html(tmp_path / "bert.html")
    number = recording.number("logits")
    with serving(Server(Live(trace))) as server:
        for address in (tmp_path / "bert.html", server.address):
            with opened(browser, address) as page:
                page.click("#inside summary")
                view = page.locator("table.view").first
                cells = view.locator("button").all_text_contents()
                assert cells == [name_token(tokenizer, int(i)) for i in lens.best[..., 0].ravel()]
                weights = attention_maps(model, ids[0])
                for layer, (call, g) in enumerate(attention_steps(trace)):
                    gradients = gradients_of_weights(call, g)
                    assert_maps(page, layer, 1, weights[None, layer], gradients)
                buttons = page.locator("button.ask")
                assert buttons.count() == len(gaps)
                for i, t in enumerate(gaps):
                    buttons.nth(i).click()
                    best = int(lens.best[-1, t, 0])
                    assert_why(page, trace.insight.why(trace, number, (0, int(t), best)))


def test_two_checkpoints_in_a_file(browser, tmp_path, monkeypatch):
    """What two models make of one text stands side by side."""
    from helpers import draw_model

    from npgpt.tokenizers import save_tokenizer

    monkeypatch.chdir(tmp_path)
    models = [draw_model(vocab_size=256), draw_model(vocab_size=256)]
    models[1].transformer.wte.weight.data[...] *= -1
    for name, model in zip("ab", models, strict=True):
        model.save_pretrained(name)
        save_tokenizer(ByteTokenizer(), name)
    given = ["step", "--model", "a", "--text", "the cat", "--html", "both.html", "--against", "b"]
    assert npgpt(*given) == 0
    ids = np.array([*b"the ca"])
    with opened(browser, tmp_path / "both.html") as page:
        page.click("#inside summary")
        sides = page.locator(".side").all()
        for side, name, model in zip(sides, "ba", models[::-1], strict=True):
            assert side.locator("h2").inner_text() == f"{name}: the·ca"
            _, loss = model(ids[None], targets=np.array([[*b"he cat"]]))
            text = side.locator("p").first.inner_text()
            assert shown(text.split("= ")[1]) == pytest.approx(loss.item(), rel=1e-6)
            cells = side.locator("table.view").first.locator("button").all_text_contents()
            best = logit_lens(model, ids).best[..., 0].ravel()
            assert cells == [name_token(ByteTokenizer(), int(i)) for i in best]
            pixels = side.evaluate("""(side) => [...side.querySelectorAll("canvas")].map((c) =>
              [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data])""")
            weights = attention_maps(model, ids)[1, 1]
            alphas = np.reshape(pixels[2 * 3], (6, 6, 4))[..., 3]
            assert np.abs(alphas - 255 * weights / attention_maps(model, ids)[1].max()).max() <= 1
        assert sides[0].locator("button.head").first.is_disabled()
        sides[1].locator("button.ask").first.click()
        assert page.locator("#why-value ul").count()


def test_the_lens_before_a_change_stays_beside_the_new_one(browser):
    """A weight of a model is set while one looks inside."""
    from helpers import draw_model

    model = draw_model(vocab_size=256)
    trace = trace_text("a", model, ByteTokenizer(), "the cat")
    trace.insight = insight_of((model, ByteTokenizer()))
    number = trace.recording.number("transformer.h.0.mlp.c_proj.weight")
    ids = np.array([*b"the ca"])
    before = logit_lens(model, ids)
    changed = draw_model(vocab_size=256)
    changed.transformer.h[0].mlp.c_proj.weight.data.flat[3] = 20.0
    after = logit_lens(changed, ids)
    with serving(Server(Live(trace))) as server, opened(browser, server.address) as page:
        page.click("#inside summary")
        page.evaluate(f"open(value({number}), 3)")
        page.fill("#to", "20")
        page.press("#to", "Enter")
        wait_until(page, "data.version === 1")
        sides = page.locator(".side").all()
        assert len(sides) == 2
        for side, lens in zip(sides, (before, after), strict=True):
            tips = (
                side.locator("table.view")
                .first.locator("button")
                .evaluate_all("xs => xs.map((x) => x.title)")
            )
            for tip, p in zip(tips, lens.probabilities[..., 0].ravel(), strict=True):
                assert f" {100 * p:.3g} %" in tip
    assert json.dumps(before.best.tolist()) != json.dumps(after.best.tolist())

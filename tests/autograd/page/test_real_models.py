"""The page of real models in a browser: SmolLM2 and MiniLM, as files and served; and a BERT."""

import json
import re

import numpy as np
import pytest
from helpers import draw_bert, npgpt, opened, serving
from test_server import wait_until

import autograd
from autograd.page.live import Live
from autograd.page.server import Server
from npgpt.commands.step import insight_of, load_folder, make_reader, trace_text
from npgpt.diagnostics.axis_names import name_token
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import attention_maps, logit_lens
from npgpt.tokenizers import ByteTokenizer

TEXT = "The Eiffel Tower stands in the city of Paris. The capital of France is Paris"
OTHER = "The Colosseum stands in the city of Rome. The capital of Italy is Rome"
LARGEST = 30_000_000  # bytes of a page

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


def test_smollm2_in_a_file(browser, smollm2, tmp_path):
    """The lens, the heads, and why of a logit; the numbers are NumPy's and the model's own."""
    path = tmp_path / "smollm2.html"
    given = ["step", "--model", smollm2, "--text", TEXT, "--html", path, "--against_text", OTHER]
    assert npgpt(*given) == 0
    assert path.stat().st_size <= LARGEST
    model, tokenizer = load_folder(str(smollm2))
    trace = trace_text("smollm2", model, tokenizer, TEXT)
    trace.insight = insight_of((model, tokenizer))
    ids = tokenizer.encode(TEXT)[:-1]
    T, lens = len(ids), logit_lens(model, ids)
    with opened(browser, path) as page:
        page.click("#inside summary")
        sides = page.locator(".side")
        titles = sides.locator("h2").all_inner_texts()
        assert [title.split(": ")[1] for title in titles] == [
            "".join(name_token(tokenizer, i) for i in tokenizer.encode(text)[:-1])
            for text in (OTHER, TEXT)
        ]
        first, second = sides.all()
        loss = trace.recording.values[trace.start].item()
        assert shown(second.locator("p").first.inner_text().split("= ")[1]) == pytest.approx(loss)
        own_lens, own_heads, own_tokens = second.locator("table.view").all()
        assert own_lens.locator("tr").count() == 1 + 31
        cells = np.reshape(own_lens.locator("button").all_text_contents(), (31, T))
        for layer, position in [(0, 3), (15, 7), (30, T - 1)]:
            best = int(lens.best[layer, position, 0])
            assert cells[layer, position] == name_token(tokenizer, best)
        own_lens.locator("button").nth(30 * T + T - 1).click()
        tip = second.locator(".tip").first.inner_text()
        assert f"{100 * lens.probabilities[30, -1, 0]:.3g} %" in tip
        best = int(lens.best[30, -1, 0])
        added = attribute_directly(model, ids, best)
        found = np.reshape([shown(x) for x in own_heads.locator("button").all_text_contents()],
                           (30, 10))  # fmt: skip
        expected = np.column_stack([added.heads.sum(axis=-1), added.mlps])
        assert np.allclose(found, expected, rtol=6e-3, atol=1e-5)
        # the heads, and the gradients of their weights
        maps, steps = attention_maps(model, ids), attention_steps(trace)
        assert second.locator("button.head canvas").count() == 30 * 9 * 2
        for layer, head in [(0, 0), (23, 4), (29, 8)]:
            labels = [f"layer {layer}, head {head}: {x}" for x in ("weights", "gradients")]
            script = PICTURES.replace("#inside [aria", ".side:not(.kept) [aria")
            pictures = page.evaluate(script, labels)
            for pixels, x in zip(
                pictures, (maps[None, layer], gradients_of_weights(*steps[layer])), strict=True
            ):
                alphas = np.reshape(pixels, (T, T, 4))[..., 3]
                assert np.abs(alphas - 255 * np.abs(x[0, head]) / np.abs(x).max()).max() <= 1
        assert first.locator("button.head").first.is_disabled()
        # why
        page.locator("button.ask").first.click()
        number = trace.recording.number("logits")
        why = trace.insight.why(trace, number, (0, T - 1, best))
        assert_why(page, why)
        page.locator("#why-value .by", has_text="by token").wait_for()
        link = page.locator("#why-value details button.number", has_text="$p[").first
        page.evaluate(
            "document.querySelectorAll('#why-value details').forEach((x) => x.open = true)"
        )
        name = link.inner_text()
        _, keys, group, query, key = map(int, re.findall(r"\d+", name))
        head = 3 * keys + group  # three heads share keys
        layer = int(
            link.evaluate(
                "x => /layer (\\d+)/.exec(x.closest('ul').parentElement.closest('ul')"
                ".parentElement.querySelector('summary').textContent)[1]"
            )
        )
        link.click()
        assert page.inner_text("#sum").startswith(name)
        assert shown(page.inner_text("#sum").split("= ")[1]) == pytest.approx(
            maps[layer, head, query, key], rel=1e-3
        )
        page.evaluate("open(value(data.asked[0][0]), 7)")
        page.locator("#why-value [role=status]", has_text="--serve").wait_for()


def test_smollm2_served(browser, smollm2):
    """Another text that is typed stands beside the first, and why is answered for any logit."""
    model, tokenizer = load_folder(str(smollm2))
    found = trace_text("smollm2", model, tokenizer, TEXT)
    found.insight = insight_of((model, tokenizer))
    reader = make_reader([("smollm2", model, tokenizer)])
    typed = "Snow is"
    ids = tokenizer.encode(typed)[:-1]
    with serving(Server(Live(found, reader))) as server, opened(browser, server.address) as page:
        page.set_default_timeout(120_000)
        page.click("#inside summary")
        page.fill("#text", typed)
        page.press("#text", "Enter")
        page.locator(".side").nth(1).wait_for()
        own = page.locator(".side:not(.kept)")
        lens = logit_lens(model, ids)
        cells = own.locator("table.view").first.locator("button").all_text_contents()
        expected = [name_token(tokenizer, int(i)) for i in lens.best[..., 0].ravel()]
        assert cells == expected
        trace = server.live.session.trace
        number = trace.recording.number("logits")
        place = (0, len(ids) - 1, 12)  # not one of those that a file has
        flat = int(np.ravel_multi_index(place, trace.recording.values[number].shape))
        page.evaluate(f"state.why.add('why-value'); open(value({number}), {flat})")
        assert_why(page, trace.insight.why(trace, number, place))


SENTENCES = "A cat sits on the mat.\tA kitten lies on the warm carpet."


def cosine_of(model, tokenizer, texts):
    """Return the cosine of two texts' vectors, each read alone, in NumPy."""
    with autograd.no_grad():
        a, b = (
            model.transformer(tokenizer.encode(text)[None]).numpy()[0].mean(axis=0)
            for text in texts.split("\t")
        )
    return a @ b / np.sqrt(a @ a * (b @ b))


def test_minilm_in_a_file_and_served(browser, minilm, tmp_path):
    """The pass begins with the cosine of two sentences; a head looks both ways."""
    path = tmp_path / "minilm.html"
    assert npgpt("step", "--model", minilm, "--text", SENTENCES, "--html", path) == 0
    model, tokenizer = load_folder(str(minilm))
    trace = trace_text("minilm", model, tokenizer, SENTENCES)
    expected = cosine_of(model, tokenizer, SENTENCES)
    assert 0.5 < expected < 0.9
    steps = attention_steps(trace)
    with opened(browser, path) as page:
        page.set_default_timeout(120_000)
        assert shown(page.inner_text("h1").split("= ")[1]) == pytest.approx(expected, rel=1e-5)
        page.click("#inside summary")
        assert page.locator("button.head canvas").count() == 6 * 12 * 2
        first, second = (tokenizer.encode(text) for text in SENTENCES.split("\t"))
        tokens = page.locator("#tokens p").nth(1).locator("button").all_inner_texts()
        assert tokens == [name_token(tokenizer, i) for i in second.tolist()]
        page.fill("#inside input[type=number]", "1")  # the longer sentence, without padding
        page.keyboard.press("Tab")
        weights = attention_maps(model, second)
        assert (weights[3] > 0).all()
        for layer, head in [(0, 0), (3, 7), (5, 11)]:
            labels = [f"layer {layer}, head {head}: {x}" for x in ("weights", "gradients")]
            found = page.evaluate(PICTURES, labels)
            gradients = gradients_of_weights(*steps[layer])
            alphas = np.reshape(found[1], (*gradients.shape[2:], 4))[..., 3]
            most = np.abs(gradients).max()
            assert np.abs(alphas - 255 * np.abs(gradients[1, head]) / most).max() <= 1
            page.click(f'[aria-label="{labels[0]}"]')
            table = page.locator("#inspector table.numbers").first
            cells = [shown(x) for x in table.locator("button.number").all_inner_texts()]
            assert np.allclose(
                np.reshape(cells, weights.shape[2:]), weights[layer, head], rtol=2e-3, atol=1e-6
            )
        page.fill("#search", "vectors")
        page.press("#search", "Enter")
        page.locator("#inspector figcaption", has_text="vectors").first.wait_for()
    other = "It rains in Spain.\tSpanish weather is wet."
    reader = make_reader([("minilm", model, tokenizer)])
    with serving(Server(Live(trace, reader))) as server, opened(browser, server.address) as page:
        page.set_default_timeout(60_000)
        page.click("#inside summary")
        page.fill("#text", "one text")
        page.press("#text", "Enter")
        page.locator("#inside [role=status]", has_text="two texts").wait_for()
        page.fill("#text", other.replace("\t", r"\t"))
        page.press("#text", "Enter")
        page.locator(".side").nth(1).wait_for()
        loss = page.inner_text("h1").split("= ")[1]
        assert shown(loss) == pytest.approx(cosine_of(model, tokenizer, other), rel=1e-5)


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
        page.locator("button.ask").first.click()
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

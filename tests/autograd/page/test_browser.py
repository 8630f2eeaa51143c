"""The page in a real browser: what it shows for clicks and keys, against NumPy's numbers."""

import json
import math
import re

import numpy as np
import pytest
from helpers import SIZES, as_leaves, assert_fits, opened, reading
from hypothesis import given, settings
from hypothesis import strategies as st

import autograd
from autograd import nn
from autograd.page import arrays, write_page
from autograd.stepper import trace
from autograd.testing.strategies import op_calls
from npgpt.diagnostics.views import ModelInsight
from npgpt.tokenizers import ByteTokenizer

OPS = sorted(autograd.REGISTRY)

# Every element of every array that the page knows, beside the sum that it shows for the element.
SUMS = """() => {
  const found = [];
  const add = (target) => {
    const key = arrayOf(target);
    if (key === undefined || key < 0) return;
    const n = size(data.arrays[key].shape);
    for (let flat = 0; flat < n; flat += Math.max(1, Math.floor(n / 30))) {
      const behind = sums(target, flat);
      for (const { terms } of behind) {
        const total = terms.reduce((sum, term) => sum + product(term), 0);
        const largest = terms.reduce((most, term) => Math.max(most, Math.abs(product(term))), 0);
        found.push([labelOf(target), flat, element(key, flat), total, largest].map(String));
      }
    }
  };
  data.calls.forEach((call, at) => {
    call.results.forEach((n) => add(value(n)));
    (call.equations || []).forEach(({ name }) => add(part(at, name)));
  });
  data.steps.forEach(({ edges }, i) => edges.forEach(([input]) => add(edge(i, input))));
  Object.keys(data.values).forEach((n) => add(cotangent(n)));
  return found;
}"""


# The values from which lines go along which nothing has been sent back.
STILL = """() => [...new Set(drawn.lines
  .filter(({ path }) => !path.classList.contains("flow"))
  .flatMap(({ from }) => [...from].map((n) => data.values[n].name)))].sort()"""


def two_layers():
    """Return the trace of a net of two layers, and its arrays by name."""
    generator = np.random.default_rng(0)
    X, targets = generator.normal(size=(6, 4)), np.array([0, 1, 2, 0, 1, 2])
    W1 = autograd.tensor(generator.normal(size=(4, 5)), requires_grad=True)
    b1 = autograd.tensor(generator.normal(size=5), requires_grad=True)
    W2 = autograd.tensor(generator.normal(size=(5, 3)), requires_grad=True)
    with autograd.record():
        a = X @ W1 + b1
        h = np.tanh(a)
        logits = h @ W2
        loss = nn.cross_entropy(logits, targets)
    loss.backward(retain_graph=True)
    return trace(loss), {"W1": W1, "b1": b1, "W2": W2, "h": h, "logits": logits}


def block():
    """Return the trace of a GPT's loss on a text."""
    from npgpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=20, n_positions=8, n_embd=12, n_layer=1, n_head=3)).eval()
    ids = np.random.default_rng(0).integers(0, 20, (1, 8))
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    return trace(loss), model


def assert_sums_agree(page, tolerance):
    found = page.evaluate(SUMS)
    for name, flat, x, total, largest in found:
        x, total, largest = float(x), float(total), float(largest)
        if np.isfinite(x):
            close = math.isclose(total, x, rel_tol=tolerance, abs_tol=tolerance * largest)
            assert close, (name, flat, x, total)
    return len(found)


@pytest.mark.parametrize("name", OPS)
def test_every_number_is_the_sum_that_the_page_shows(name, browser, tmp_path):
    """For four calls of every op: the results, the parts of the formula, what the rule sends."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=1)
    @given(calls=st.lists(op_calls(op), min_size=4, max_size=4))
    def check(calls):
        loss = 0
        with autograd.record(), np.errstate(all="ignore"):
            for call in calls:
                args = as_leaves(op, call)
                outs = op(*args, **call.kwargs)
                outs = outs if isinstance(outs, tuple) else (outs,)
                loss = loss + sum((y * y).sum() for y in outs)
            write_page(trace(loss), tmp_path / "page.html")
        with opened(browser, tmp_path / "page.html") as page:
            assert assert_sums_agree(page, 1e-6)

    check()


def test_a_sum_in_a_page_of_corners_is_right_or_says_what_is_missing(
    browser, tmp_path, monkeypatch
):
    monkeypatch.setattr(arrays, "MOST", 300)
    rng = np.random.default_rng(0)
    with autograd.record():
        x, w = (autograd.tensor(rng.normal(size=s), requires_grad=True) for s in ((8, 9), (9, 9)))
        left, _, right = np.split(x @ w.T, 3, axis=1)  # both only move elements
        padded = np.pad(left * right, 1)  # its formula has conditions
        loss = (np.flip(padded, 0) ** 2).sum()
    write_page(trace(loss), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        found = page.evaluate(SUMS)
        known = [row[2:] for row in found if "undefined" not in row and row[3] != "NaN"]
        assert 20 < len(known) < len(found)
        for x, total, largest in np.array(known, float):
            assert np.isclose(total, x, rtol=1e-6, atol=1e-6 * largest)
        missing = page.evaluate("""() => data.calls.flatMap(({ results: [n] }) => {
          const lists = sums(value(n), 0).map(({ terms }) => termList(terms).textContent);
          return lists.filter((text) => text.includes("NaN"));
        })""")
        assert missing == []


def test_elements_of_plain_arrays_and_of_no_array_are_sums_too(browser, tmp_path):
    """A tensor beside arrays off the tape, one without elements, and what `pad` fills in."""
    with autograd.record():
        a = autograd.tensor([[1.0, 2.0]], requires_grad=True)
        p = np.full((1, 2), 7.0)
        y = np.concatenate([np.zeros((0, 2)), p, a, [[3.0, 4.0]]])
        s = np.stack([a[0, 0], 5.0])
        padded = np.pad(a, 1, constant_values=6.0)
        loss = (y * y).sum() + s.sum() + (padded * padded).sum()
    found = trace(loss)
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert assert_sums_agree(page, 1e-12) > 20
        page.evaluate(f"open(value({found.recording.number('y')}), 1)")
        assert page.inner_text("#inspector .total") == "together 7"
        page.click('.terms button[title="p[0, 1]"]')
        assert page.inner_text("#sum") == "p[0, 1] = 7"


def test_a_result_that_nothing_reads_has_a_cotangent_without_a_link(browser, tmp_path):
    """Of qr, the program reads R alone: the zeros of d(Q) stand in the parts of the formula."""
    with autograd.record():
        a = autograd.tensor([[2.0, 1.0], [1.0, 3.0]], requires_grad=True)
        q, r = np.linalg.qr(a)
        loss = (r * r).sum()
    write_page(trace(loss), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        shown = page.evaluate("""() => data.calls[0].equations.map(({ name }) => {
          open(part(0, name), 0);
          return inspector.querySelector("#sum").textContent;
        })""")
        assert shown and all("=" in text for text in shown)


def test_an_open_page_follows_its_address(browser, tmp_path):
    found, _ = two_layers()
    write_page(found, tmp_path / "page.html")
    n = found.recording.number("W2")
    with opened(browser, tmp_path / "page.html") as page:
        target = f"%7B%22kind%22:%22value%22,%22n%22:%22{n}%22%7D"
        page.evaluate(f"location.hash = 'step=2&of={target}&el=1,2'")
        page.wait_for_selector("#sum")
        assert page.inner_text("#inspector h2").startswith("2 of ")
        assert page.inner_text("#sum").startswith("W2[1, 2] = ")
        for nonsense in ("step=x&of=[]", "of=%7B&el=9", "%%%"):
            page.evaluate(f"location.hash = '{nonsense}'")
            page.wait_for_function("location.hash.startsWith('#step=')")
            assert " of " in page.inner_text("#inspector h2")


def test_a_long_name_breaks_into_lines(browser, tmp_path):
    long_name = "_".join(["the_square"] * 12)
    with autograd.record() as recording:
        x = autograd.tensor([1.0, 2.0], requires_grad=True)
        y = x * x
        loss = y.sum()
    recording.names[y._node.number] = long_name
    write_page(trace(loss), tmp_path / "page.html")
    for size in SIZES:
        with opened(browser, tmp_path / "page.html", viewport=size) as page:
            rights = page.evaluate("""() => [...inspector.querySelectorAll("button.name")]
              .map((name) => name.getBoundingClientRect().right)""")
            assert max(rights) <= page.evaluate("inspector.getBoundingClientRect().right")


def test_infinite_numbers_are_shown_and_leave_the_other_numbers_their_colours(browser, tmp_path):
    with autograd.record(), np.errstate(all="ignore"):
        x = autograd.tensor([np.nan, -np.inf, 2.0, -4.0], requires_grad=True)
        loss = (x * 1.0).sum()
    found = trace(loss)
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        key = f"data.values[{found.recording.number('x')}].array"
        largest = page.evaluate(f"data.arrays[{key}].largest.map(([, x]) => String(Number(x)))")
        assert largest == ["NaN", "-Infinity", "-4", "2"]
        assert page.evaluate(f"scaleOf({key})") == 4


def test_the_numbers_of_a_block(browser, tmp_path):
    found, model = block()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert assert_sums_agree(page, 2e-4) > 1000  # float32
        page.fill("#search", "transformer.h.0.attn.c_attn.weight")
        page.press("#search", "Enter")
        page.wait_for_selector("#inspector figure")
        assert "transformer.h.0.attn.c_attn.weight" in page.inner_text("#inspector")


def test_rows_and_columns_carry_their_tokens_and_heads(browser, tmp_path):
    """In tables, in heat maps, in the list of the largest elements and in sums."""
    from npgpt.diagnostics.inside import attention_maps

    found, model, ids = reading()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.evaluate("""() => {
          const at = data.calls.findIndex(({ op }) => op === "attention");
          open(part(at, "p"), flatOf([1, 2, 4, 3], [2, 3, 6, 6]));
        }""")
        assert page.inner_text("#meaning") == "example 1 · head 2 · query 4 m · key 3 ·"
        shown = float(page.inner_text("#sum").split("= ")[1])
        weights = attention_maps(model, ids[1])[0, 2]
        assert np.isclose(shown, weights[4, 3], rtol=1e-3)
        table = page.locator("#inspector table.numbers").first
        assert table.locator("caption").inner_text() == "↓ query → key"
        assert table.locator("th[scope=row]").all_inner_texts() == [*"the·ma"]
        assert table.locator("th[scope=col]").all_inner_texts() == [*"the·ma"]
        cells = [float(x) for x in table.locator("button.number").all_inner_texts()]
        assert np.allclose(np.reshape(cells, (6, 6)), weights, rtol=1e-3, atol=1e-6)
        page.evaluate(f"open(value({found.recording.number('logits')}), 256 * 8 + 104)")
        assert page.inner_text("#meaning") == "example 1 · position 2 e · token 104 h"
        assert "channel" in page.locator(".terms tr").first.inner_text()
        logits = found.recording.values[found.recording.number("logits")]
        b, t, v = np.unravel_index(np.abs(logits).argmax(), logits.shape)
        largest = page.locator(".largest li").first.inner_text()
        assert f"example {b} · position {t} " in largest and f" · token {v} " in largest
        page.click("#tokens p:nth-child(2) button:nth-child(3)")
        assert page.locator(".rows .label.marked").all_inner_texts() == ["e"]
        page.locator("#inspector input[type=number]").first.fill("0")  # the other example
        page.keyboard.press("Tab")
        assert page.locator(".rows .label.marked").count() == 0
        page.click("#tokens p:nth-child(2) button:nth-child(3)")
        assert page.locator("#tokens [aria-pressed=true]").count() == 0


def test_a_look_inside_a_model(browser, tmp_path):
    """What every head looks at, what each layer would predict, and what adds to a prediction."""
    from npgpt.diagnostics.axis_names import name_token
    from npgpt.diagnostics.direct import attribute_directly
    from npgpt.diagnostics.inside import attention_maps, logit_lens
    from npgpt.diagnostics.views import ModelInsight
    from npgpt.tokenizers import ByteTokenizer

    found, model, ids = reading()
    found.insight = ModelInsight(model, ByteTokenizer())
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.click("#inside summary")
        lens, heads, tokens = page.locator("#inside table.view").all()
        assert lens.locator("th[scope=col]").all_inner_texts() == [*"cat·sa"]
        shown = lens.locator("button").all_inner_texts()
        expected = logit_lens(model, ids[0])
        assert len(shown) == 2 * 6
        for text, token in zip(shown, expected.best[..., 0].ravel(), strict=True):
            assert text == name_token(ByteTokenizer(), int(token)).strip()
        lens.locator("button").nth(7).click()
        tip = page.locator("#inside .tip").first.inner_text()
        assert tip.startswith("layer 0, after a: ")
        assert f"{100 * expected.probabilities[1, 1, 0]:.3g} %" in tip
        added = attribute_directly(model, ids[0], int(expected.best[-1, -1, 0]))
        numbers = [float(x) for x in heads.locator("button").all_inner_texts()]
        assert np.allclose(numbers, [*added.heads[0].sum(axis=-1), added.mlps[0]], rtol=5e-3)
        numbers = [float(x) for x in tokens.locator("button").all_inner_texts()]
        assert np.allclose(numbers, added.heads[0].sum(axis=0), rtol=5e-3, atol=1e-6)
        page.fill("#inside input[type=number]", "1")  # the other example
        page.keyboard.press("Tab")
        assert page.locator("button.head canvas").count() == 2 * 3
        pixels = page.evaluate("""() => [...document.querySelectorAll("button.head canvas")]
          .map((c) => [...c.getContext("2d").getImageData(0, 0, 6, 6).data])""")
        weights, *_ = attention_maps(model, ids[1])
        largest = max(weights.max(), attention_maps(model, ids[0]).max())
        for head in range(3):
            alphas = np.reshape(pixels[2 * head], (6, 6, 4))[..., 3]
            assert np.abs(alphas - 255 * weights[head] / largest).max() <= 1
        page.click('[aria-label="layer 0, head 2: gradients"]')
        assert page.locator("#inspector input[type=number]").nth(1).input_value() == "2"
        assert "$dp" in page.inner_text("#inspector figcaption")


def test_a_number_opens_as_its_sum(browser, tmp_path):
    """A click goes from a gradient to a term, and on to the number that the term names."""
    found, arrays = two_layers()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert "backward, cross_entropy" in page.inner_text("#inspector h2")
        page.keyboard.press("n")
        assert "backward, matmul" in page.inner_text("#inspector h2")
        assert "logits = h @ W2" in page.inner_text("#source .running")
        page.click('#inspector [title="d(W2)[1, 0]"]')
        gradient = arrays["W2"].grad.numpy()
        heading = page.inner_text("#sum")
        assert heading.startswith("d(W2)[1, 0] = ")
        assert np.isclose(float(heading.split("= ")[1]), gradient[1, 0], rtol=1e-3)
        rows = page.locator(".terms tr")
        assert rows.count() == 6  # one for each example, the largest first
        values = [abs(float(text)) for text in page.locator(".terms .value").all_inner_texts()]
        assert values == sorted(values, reverse=True)
        factor = rows.nth(0).locator('button[title^="h["]')
        place = re.fullmatch(r"h\[(\d+), 1\]", factor.get_attribute("title"))
        factor.click()
        assert page.inner_text("#sum").startswith(f"h[{place[1]}, 1] = ")
        shown = float(page.inner_text("#sum").split("= ")[1])
        assert np.isclose(shown, arrays["h"].numpy()[int(place[1]), 1], rtol=1e-3)
        page.click('.terms button[title^="a["]')  # tanh(a): to the sum that a is
        assert page.inner_text("#sum").startswith(f"a[{place[1]}, 1] = ")


def test_arrays_off_the_tape_stand_in_the_graph(browser, tmp_path):
    """A click opens them, and so does each number of a sum that comes from them."""
    found, _ = two_layers()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        for name in ("X", "targets"):
            page.locator("svg .box.data", has_text=name).click()
            assert page.inner_text("#inspector figcaption .name") == name
        page.evaluate(f"open(cotangent({found.recording.number('W1')}), 0)")
        page.locator('.terms button[title^="X["]').first.click()
        assert page.inner_text("#inspector figcaption .name") == "X"


def test_a_number_that_a_variable_holds_has_its_name_in_a_formula(browser, tmp_path):
    t = 0.5
    with autograd.record():
        y = autograd.tensor([1.0, 3.0], requires_grad=True)
        e = y - t
        loss = (e * e).sum()
    found = trace(loss)
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.evaluate("go(0)")
        formula = page.text_content("#inspector .formula math")
        assert formula.endswith("−t") and "$" not in formula
        page.evaluate(f"open(value({found.recording.number('e')}), 1)")
        page.click('.terms button[title="t"]')
        assert page.inner_text("#inspector figcaption .name") == "t"
        assert page.inner_text("#sum") == "t = 0.5"


def test_the_scrubber_changes_what_has_changed_alone(browser, tmp_path):
    """No element of the graph is made anew, and few attributes are written in a moment."""
    found, *_ = reading()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        changes = page.evaluate("""() => {
          const seen = new MutationObserver(() => {});
          seen.observe(graph, { childList: true, attributes: true, subtree: true });
          return [...Array(N).keys()].map((at) => {
            go(at);
            const records = seen.takeRecords();
            return [records.filter(({ type }) => type === "childList").length, records.length];
          });
        }""")
        n = len(found.steps)
        made = [i for i, (nodes, _) in enumerate(changes) if nodes]
        assert made in ([], [n], [0, n])  # norms of closed modules, where the pass turns
        assert np.median([k for _, k in changes]) < 10  # of some 150 boxes and lines


def test_while_the_reader_scrubs_the_result_alone_is_shown(browser, tmp_path):
    """Of a single move all is shown at once; of moves without a pause, the rest after the last."""
    found, _ = two_layers()
    write_page(found, tmp_path / "page.html")
    n = len(found.steps)
    headings = "[...inspector.querySelectorAll('h3')].map((heading) => heading.textContent)"
    with opened(browser, tmp_path / "page.html") as page:
        page.wait_for_timeout(300)
        for at, first, last in [
            (1, ["result"], ["result", "inputs"]),
            (n + 1, ["sends"], ["received", "sends", "inputs"]),
        ]:
            assert page.evaluate(f"(go({at - 1}), go({at}), {headings})") == first
            page.wait_for_selector("#inspector h3:text('inputs')")
            assert page.evaluate(headings) == last
            page.wait_for_timeout(300)
            assert page.evaluate(f"(go({at}), {headings})") == last


def test_a_long_pass_is_drawn_around_the_window(browser, tmp_path):
    """What is far away is not drawn; each step is seen, and what is near to it."""
    with autograd.record():
        w = h = autograd.tensor([0.5, 0.2], requires_grad=True)
        for _ in range(200):
            h = np.tanh(h * w)
        loss = h.sum()
    write_page(trace(loss), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", viewport=SIZES[1]) as page:
        for moment in (0, 150, 399, 401):
            page.evaluate(f"go({moment})")
            page.wait_for_timeout(100)  # for the event of the scroll
            box, panel = (page.locator(x).bounding_box() for x in ("svg .box.here", "#graph"))
            assert panel["y"] <= box["y"]
            assert box["y"] + box["height"] <= panel["y"] + panel["height"] + 2  # its outline
            drawn = page.locator("svg .box:not([data-away])").count()
            assert 8 < drawn < 60 < page.locator("svg .box").count()
        longest = page.evaluate("Math.max(...drawn.lines.map(({ path }) => path.getTotalLength()))")
        lengths = page.evaluate("drawn.lines.map(({ path }) => path.getTotalLength())")
        assert sum(length > longest / 4 for length in lengths) == 1  # w has 200 uses
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(drawn.boxes[0].group).display") == "inline"


def test_the_scrubber_and_the_keys_go_through_the_pass(browser, tmp_path):
    found, _ = two_layers()
    write_page(found, tmp_path / "page.html")
    n = 2 * len(found.steps)
    with opened(browser, tmp_path / "page.html") as page:
        for key, expected in [("b", len(found.steps)), ("g", len(found.steps) + 1)]:
            page.keyboard.press(key)
            assert page.inner_text("#inspector h2").startswith(f"{expected} of {n}")
        page.focus("#scrubber")
        page.keyboard.press("Home")
        assert "1 of 10: forward, matmul" in page.inner_text("#inspector h2")
        page.keyboard.press("End")
        assert "10 of 10: backward, matmul" in page.inner_text("#inspector h2")
        assert page.locator("path.flow").count() == 7
        assert page.evaluate(STILL) == ["X", "targets"]
        page.keyboard.press("n")  # there is nothing behind the end
        assert page.inner_text("#inspector h2").startswith("10 of 10")
        page.click("svg .box:has-text('tanh')")
        assert "backward, tanh" in page.inner_text("#inspector h2")


def test_modules_unfold_in_place(browser, tmp_path):
    """One by one, with what flows into and out of each; a folded module says its norm."""
    found, model, _ = reading()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        for _ in range(9):
            page.keyboard.press("o")
        folded = page.locator("svg .box").count()
        module = page.locator("svg .box.module", has_text="transformer")
        cotangent = found.cotangent_of(max(c.number for c in found.recording.calls.values()
                                           if c.scope.startswith("transformer")))  # fmt: skip
        norm = float(module.locator(".shape").text_content().split("norm ")[1])
        assert np.isclose(norm, np.linalg.norm(cotangent), rtol=1e-3)
        page.click('[aria-label="open transformer"]')
        before = page.locator('[aria-label="open transformer.h.0"]').bounding_box()
        page.click('[aria-label="open transformer.h.0"]')
        after = page.locator('[aria-label="close transformer.h.0"]').bounding_box()
        assert (after["x"], after["y"]) == pytest.approx((before["x"], before["y"]), abs=2)
        assert page.evaluate("document.activeElement.dataset.title") == "transformer.h.0"
        page.click('[aria-label="open transformer.h.0.ln_1"]')
        assert page.locator("svg .box.leaf", has_text="weight").count() > 1
        page.keyboard.press("Enter")  # the button has the focus
        assert page.locator('[aria-label="open transformer.h.0.ln_1"]').count() == 1
        page.focus("#scrubber")
        page.keyboard.press("End")
        assert page.locator("path.flow").count() > 15
        assert {name.split(".")[-1] for name in page.evaluate(STILL)} <= {"ids", "targets"}
        page.locator("svg .box.module", has_text="ln_2").click()
        assert "backward, layer_norm" in page.inner_text("#inspector h2")
        for _ in range(9):
            page.keyboard.press("o")
        assert page.locator("svg .box").count() == folded
        page.keyboard.press("i")
        assert page.locator('[aria-label="close transformer"]').count() == 1


def test_a_link_leads_to_a_step_and_an_element(browser, tmp_path):
    found, arrays = two_layers()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.keyboard.press("n")
        page.click('#inspector [title="d(W2)[4, 2]"]')
        address, heading = page.evaluate("location.hash"), page.inner_text("#sum")
    with opened(browser, f"{tmp_path}/page.html{address}") as page:
        assert page.inner_text("#sum") == heading
    d = found.cotangent_of(found.recording.number("h"))
    for short, name, x in [  # of what the moment sends, and of what it computes
        ("#step=7&el=4,2", "d(h)[4, 2]", d[4, 2]),
        ("#step=3&el=5,1", "h[5, 1]", arrays["h"].numpy()[5, 1]),
    ]:
        with opened(browser, f"{tmp_path}/page.html{short}") as page:
            found_name, found_x = page.inner_text("#sum").split(" = ")
            assert found_name == name and float(found_x) == pytest.approx(x, rel=1e-3)
    for wrong in (
        "#step=99&of=7&el=x",
        '#of={"kind":"value"}',
        "#step=-1",
        "#of=[",
        "#el=1,2,3",
        "#step=7&el=9,9",
    ):
        with opened(browser, f"{tmp_path}/page.html#{wrong}") as page:
            assert " of 10: " in page.inner_text("#inspector h2")


def test_predictions_are_judged(browser, tmp_path):
    found, arrays = two_layers()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.keyboard.press("n")
        page.click("footer button:has-text('predict')")
        assert page.locator('[title^="d(W2)["]').count() == 0
        question = page.locator(".question", has_text="d(W2)")
        shape, entry = question.locator("form").all()
        place = json.loads(re.search(r"\[.*\]", entry.inner_text())[0])
        x = arrays["W2"].grad.numpy()[tuple(place)]
        for form, answer, expected in [
            (shape, "3, 5", "Not right"), (shape, "(5, 3)", "Right."), (entry, "", "Type a number"),
            (entry, str(-x), "sign"), (entry, str(2 * x), "2 times"), (entry, f"{x:.3g}", "Right."),
        ]:  # fmt: skip
            form.locator("input").fill(answer)
            form.locator("button").click()
            assert expected in question.locator("[role=status]").inner_text()


def test_a_name_of_markup_stays_a_name(browser, tmp_path):
    """Nothing from a trace becomes markup or runs."""
    found, _ = two_layers()
    evil = (
        "</script><img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    )
    for number in list(found.recording.names):
        found.recording.names[number] = f"{evil}{number}"
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.keyboard.press("n")
        assert page.title().startswith("Backpropagation from </script>")
        assert page.locator("img").count() == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window(browser, tmp_path, size, scheme):
    """No part is wider than the window; what is wide scrolls inside its part."""
    found, _ = two_layers()
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", viewport=size, color_scheme=scheme) as page:
        assert_fits(page)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
        for _ in range(3):
            page.keyboard.press("m")
        assert page.evaluate("document.documentElement.dataset.mode") == "projector"
        assert_fits(page)
        page.emulate_media(media="print", color_scheme=scheme)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"


LOW = [  # windows: small phones, upright and turned; a laptop's at zooms of 200 % and 150 %
    {"width": 320, "height": 568}, {"width": 640, "height": 360}, {"width": 683, "height": 384},
    {"width": 960, "height": 540}, {"width": 1024, "height": 768},
]  # fmt: skip


# Whether the running line and its box can be seen in their parts of the page.
IN_SIGHT = """() => [[source, ".running"], [graph, ".here > rect"]].every((pair) => {
  const [part, name] = pair;
  const [a, b] = [part, part.querySelector(name)].map((node) => node.getBoundingClientRect());
  return a.top - 2 <= b.top && b.bottom <= a.bottom + 2;
})"""


@pytest.mark.parametrize("size", LOW)
def test_low_windows_leave_room_for_every_part(browser, tmp_path, size):
    """Also beside what a look inside a model shows; the running line and its box stay in sight."""
    write_page(reading()[0], tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", viewport=size) as page:
        page.evaluate("go(30); inside.open = true")
        page.locator(".maps").wait_for()
        for _ in range(4):  # the modes, of which the last one is for a projector
            assert_fits(page)
            assert page.evaluate(IN_SIGHT)
            page.keyboard.press("m")
        page.evaluate("scrollTo(0, 1e6)")
        bottom = page.evaluate("document.querySelector('footer').getBoundingClientRect().bottom")
        assert bottom <= size["height"] + 1


def test_on_a_phone_the_next_step_does_not_move_the_page(browser, tmp_path):
    """Who reads the numbers of one step after the other goes on reading numbers."""
    write_page(reading()[0], tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", viewport=SIZES[0]) as page:
        page.evaluate("inspector.scrollIntoView()")
        before = page.evaluate("scrollY")
        assert before > 200
        for _ in range(12):
            page.click("footer button:text-is('next')")
            assert page.evaluate("scrollY") == before
            assert page.evaluate(IN_SIGHT)


# What is cut on paper, wider than the paper, or lies over something else.
PRINTED = """() => {
  const nodes = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility());
  const isCut = (node) => getComputedStyle(node).overflow !== "visible" && node.clientWidth
    && (node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1);
  const isWide = (node) => node.getBoundingClientRect().right > innerWidth + 1;
  const cut = nodes.filter((node) => !node.matches(".unseen, input") && isCut(node));
  const known = nodes.filter((node) => node.matches("code, .numbers button, svg, p"));
  const parts = [inside, source, graph, inspector].map((node) => node.getBoundingClientRect());
  const over = parts.slice(1).filter(({ top }, i) => top < parts[i].bottom - 1);
  const found = [...cut, ...known.filter(isWide)].map((node) => node.outerHTML.slice(0, 200));
  return [...found, ...over.map(() => "a part lies over another one")];
}"""


@pytest.mark.parametrize("width", [718, 480])  # pixels: of the text on A4 and on A5
def test_paper_shows_everything(browser, tmp_path, width):
    """Nothing that scrolls on the screen is cut, and no part lies over another one."""
    found, model, _ = reading()
    found.insight = ModelInsight(model, ByteTokenizer())
    write_page(found, tmp_path / "page.html")
    size = {"width": width, "height": 1000}
    with opened(browser, tmp_path / "page.html", viewport=size) as page:
        page.evaluate("inside.open = true")
        page.emulate_media(media="print")
        for _ in range(4):
            page.evaluate("go(N_FORWARD + 6)")
            page.wait_for_timeout(200)
            assert page.evaluate(PRINTED) == []
            page.evaluate("open(value(numberOf('logits')), 3)")
            assert page.evaluate(PRINTED) == []
            page.evaluate("open(value(data.calls[2].results[0]), 0)")
            assert page.evaluate(PRINTED) == []
            page.keyboard.press("m")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_long_formula_has_a_mark_where_it_goes_on(browser, tmp_path, scheme):
    """At its right as long as there is more, and then at its left alone."""
    write_page(reading()[0], tmp_path / "page.html")
    size = {"width": 360, "height": 640}
    with opened(browser, tmp_path / "page.html", viewport=size, color_scheme=scheme) as page:
        page.evaluate("open(cotangent(numberOf('transformer.h.0.attn.c_attn.weight')), 1)")
        formula = page.locator(".scroll:has(math)")

        def is_marked(side):
            box = formula.bounding_box()
            x = box["x"] + (box["width"] - 6 if side == "right" else 0)
            strip = {"x": x, "y": box["y"], "width": 6, "height": box["height"]}
            pictures = []
            for background in ("none", ""):
                formula.evaluate("(node, x) => { node.style.background = x; }", background)
                pictures.append(page.screenshot(clip=strip))
            return pictures[0] != pictures[1]

        formula.scroll_into_view_if_needed()
        assert formula.evaluate("(node) => node.scrollWidth > node.clientWidth + 40")
        assert (is_marked("left"), is_marked("right")) == (False, True)
        formula.evaluate("(node) => { node.scrollLeft = 1e6; }")
        assert (is_marked("left"), is_marked("right")) == (True, False)
        assert formula.get_attribute("tabindex") == "0"  # the keyboard comes to it, too


@pytest.mark.parametrize("shape", [(17, 30), (16, 300), (900, 5), (30, 30)])
def test_a_heat_map_fills_the_panel(browser, tmp_path, shape):
    """Cells are as large as the panel allows, up to 24 pixels; a zoom keeps the focus."""
    x = np.random.default_rng(0).normal(size=shape)
    with autograd.record():
        leaf = autograd.tensor(x, requires_grad=True)
        loss = (leaf * 2.0).sum()
    found = trace(loss)
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", viewport=SIZES[1]) as page:
        page.evaluate(f"open(value({found.recording.number('leaf')}))")
        canvas = page.locator("#inspector canvas").first
        room = page.evaluate("inspector.clientWidth")
        size = canvas.bounding_box()
        wide, high = size["width"] / shape[1], size["height"] / shape[0]
        assert size["width"] <= room - 20
        assert wide >= min(12, 0.9 * (room - 40) / shape[1]) - 1 and high >= min(12, 450 / shape[0])
        larger = page.locator("#inspector [aria-label='larger cells']").first
        larger.focus()
        while larger.is_enabled():
            page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.ariaLabel") == "smaller cells"
        size = canvas.bounding_box()
        assert size["width"] == pytest.approx(24 * shape[1])
        page.set_viewport_size({"width": 700, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 700


@pytest.mark.parametrize(("most", "shape"), [(arrays.MOST, (30, 40)), (10_000, (30, 20))])
def test_a_heat_map_has_a_pixel_for_each_element(browser, tmp_path, monkeypatch, most, shape):
    """Blue where an element is positive, orange where it is negative; also of a corner."""
    monkeypatch.setattr(arrays, "MOST", most)
    x = np.random.default_rng(0).normal(size=(3, 30, 40))
    x[1, 2, 5] = np.nan
    with autograd.record(), np.errstate(all="ignore"):
        leaf = autograd.tensor(x, requires_grad=True)
        loss = (leaf * 2.0).sum()
    found = trace(loss)
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        n = found.recording.number("leaf")
        page.evaluate(f"state.slice[data.values[{n}].array] = [1]; open(value({n}))")
        rows, columns, pixels = page.evaluate("""() => {
          const canvas = document.querySelector("#inspector canvas");
          const { width, height } = canvas;
          const picture = canvas.getContext("2d").getImageData(0, 0, width, height);
          return [height, width, [...picture.data]];
        }""")
        assert (rows, columns) == shape
        part, pixels = x[1, :rows, :columns], np.reshape(pixels, (rows, columns, 4))
        most_opaque = np.nanmax(np.abs(x))
        for sign, colour in [(1, [31, 119, 180]), (-1, [214, 106, 0])]:
            strong = sign * part > most_opaque / 4  # a weak colour is rounded
            assert np.abs(pixels[strong][:, :3] - colour).max() <= 4
        expected = np.where(np.isnan(part), 255, 255 * np.abs(part) / most_opaque)
        assert np.abs(pixels[..., 3] - expected).max() <= 1
        assert pixels[2, 5].tolist() == [200, 0, 120, 255]


def test_keys_alone_lead_to_a_number_and_back(browser, tmp_path):
    """The focus stays where the reader is, and a screen reader is told each moment."""
    found, _ = two_layers()
    write_page(found, tmp_path / "page.html")
    focused = "[document.activeElement.id, document.activeElement.tagName]"
    with opened(browser, tmp_path / "page.html") as page:
        page.keyboard.press("n")
        assert page.inner_text("footer [role=status]") == "backward, 7 of 10: matmul"
        page.focus('#inspector [title="d(W2)[1, 0]"]')
        page.keyboard.press("Enter")
        assert page.evaluate(focused) == ["sum", "H3"]
        page.keyboard.press("Tab")  # to the first number of the sum
        page.keyboard.press("Enter")
        assert page.evaluate(focused) == ["sum", "H3"]
        assert not page.inner_text("#sum").startswith("d(W2)")
        page.keyboard.press("Escape")
        assert page.evaluate(focused) == ["", "H2"]
        page.focus("footer button:has-text('predict')")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.textContent") == "predict"
        unnamed = page.locator("button, input, [role=img], [role=group]").evaluate_all(
            "xs => xs.filter((x) => !(x.textContent || x.ariaLabel || x.labels?.length)).length"
        )
        assert unnamed == 0

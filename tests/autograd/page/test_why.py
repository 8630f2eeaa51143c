"""Why an element of a gradient is what it is, as a page shows it."""

import json

import numpy as np
import pytest
from helpers import opened, two_layer_classifier

import autograd
from autograd.page import make_page, write_page
from autograd.page import why as why_module
from autograd.page.live import Live
from autograd.page.why import MOST_WRITTEN, explain, explain_leaves
from autograd.stepper import trace
from autograd.stepper.axes import count


def classifier():
    """A net of two layers, whose rows are examples with two words each."""
    loss, _ = two_layer_classifier()
    found = trace(loss)
    recording = found.recording
    number = recording.number("a")
    n, width = recording.values[number].shape
    recording.axes[number] = (count("example", n), count("unit", width))
    return found


def test_the_sums_by_name_add_up():
    found = classifier()
    W1 = found.recording.number("W1")
    (use,) = explain(found, W1, 2)["uses"]
    a = found.recording.number("a")
    g, X = found.cotangent_of(a), found.recording.constants[found.recording.number("X")]
    ((name, sums, n_others, _),) = use["by"]  # there is one unit alone, so it has no sums
    assert name == "example" and n_others == 0
    assert dict(sums) == pytest.approx({i: x for i, x in enumerate(g[:, 2] * X[:, 0]) if x})
    assert sum(x for _, x in sums) == pytest.approx(use["amount"], rel=1e-12)
    sizes = [abs(x) for _, x in sums]
    assert sizes == sorted(sizes, reverse=True)


def test_tokens_and_heads():
    """The same token at two positions is one sum; a head is the sum of its channels."""
    rng = np.random.default_rng(0)
    with autograd.record() as recording:
        scale = autograd.tensor(2.0, requires_grad=True)
        h = scale * rng.normal(size=(1, 3, 2, 4))
        loss = (h * h).sum()
    n = recording.number("h")
    recording.axes[n] = tuple(map(count, ("example", "position", "head", "channel"), (1, 3, 2, 4)))
    recording.texts["example", "position"] = [["the", "cat", "the"]]
    (use,) = explain(trace(loss), recording.number("scale"), 0)["uses"]
    by = {name: dict(sums) for name, sums, _, _ in use["by"]}
    terms = (recording.values[n] ** 2)[0]
    assert by.keys() == {"position", "head", "channel", "token"}
    assert by["head"] == pytest.approx(dict(enumerate(terms.sum((0, 2)))))
    assert by["token"] == pytest.approx({"the": terms[[0, 2]].sum(), "cat": terms[1].sum()})


def test_a_file_has_the_answers_that_are_few():
    """About each element of a small net, about the largest of a larger one, about four of a block
    of GPT-2's size; the numbers in the file are those of the stepper."""
    x = np.random.default_rng(0).normal(size=MOST_WRITTEN // 2)
    for n, expected in [(1, x.size), (3, 3)]:
        with autograd.record():
            leaves = [autograd.tensor(x + i, requires_grad=True) for i in range(n)]
            loss = sum((leaf**2).sum() for leaf in leaves)
        found = trace(loss)
        answers = explain_leaves(found)
        assert len(answers) == expected
        for key, answer in answers.items():
            number, flat = map(int, key.split(":"))
            assert answer["total"] == found.cotangent_of(number).flat[flat]


def test_a_file_of_a_large_pass_has_the_answers_about_the_largest_gradients(monkeypatch):
    rng = np.random.default_rng(0)
    shapes = [(1025, 1024), (2049, 2048), (3,), (4,), (5,), (6,)]
    factors = [1.0, 100.0, 5.0, 4.0, 3.0, 0.5]
    with autograd.record():
        leaves = [autograd.tensor(rng.random(shape), requires_grad=True) for shape in shapes]
        loss = sum((c * leaf).sum() for c, leaf in zip(factors, leaves, strict=True))
    found = trace(loss)
    answers = explain_leaves(found)
    numbers = [leaf._node.number for leaf in leaves]
    assert [int(key.split(":")[0]) for key in answers] == [numbers[i] for i in (2, 3, 4, 0)]
    assert [answer["total"] for answer in answers.values()] == [5.0, 4.0, 3.0, 1.0]
    monkeypatch.setattr(why_module, "MOST_ELEMENTS", 1 << 20)
    assert explain_leaves(found) == {} and '"why":{}' in make_page(found)


def test_a_gradient_of_zero_and_of_nan():
    with autograd.record(), np.errstate(all="ignore"):
        x = autograd.tensor([-1.0, 0.0], requires_grad=True)
        loss = (np.maximum(x, -3.0) * [0.0, 1.0]).sum() + (np.sqrt(x) * 0.0).sum()
        found = trace(loss)
    for flat in (0, 1):
        text = explain(found, x._node.number, flat)["text"]
        assert text == found.why(x._node.number, (flat,)) and "nan" in text.lower()
    json.dumps(explain_leaves(found), allow_nan=False)


@pytest.mark.parametrize(
    "request_",
    [
        {}, {"number": 1}, {"number": "W1", "flat": 0}, {"number": True, "flat": 0},
        {"number": -1, "flat": 0}, {"number": 10**9, "flat": 0}, {"number": 1.0, "flat": 0},
        {"number": "W1", "flat": -1}, {"flat": 10**30}, {"flat": 0.0}, {"flat": float("nan")},
        {"flat": [0]}, {"flat": None}, {"flat": True},
    ],
)  # fmt: skip
def test_clumsy_questions_are_refused(request_):
    live = Live(classifier())
    known = {"number": live.session.find("W1")} if request_.keys() == {"flat"} else {}
    answer = live.answer({"do": "why", "version": 0, **known, **request_})
    assert answer.keys() == {"error"} and "no such" in answer["error"]
    X = live.session.find("X")
    assert "error" in live.answer({"do": "why", "version": 0, "number": X, "flat": 0})
    assert live.version == 0


def test_the_answer_is_about_the_pass_after_a_change():
    live = Live(classifier())
    W1, W2 = map(live.session.find, ("W1", "W2"))
    ask = {"do": "why", "number": W1, "flat": 2}
    before = live.answer({**ask, "version": 0})["why"]
    live.answer({"do": "set", "version": 0, "value": W2, "flat": 0, "to": 3.0})
    after = live.answer({**ask, "version": 1})["why"]
    assert after == explain(live.session.trace, W1, 2) and after["total"] != before["total"]
    assert "error" in live.answer({**ask, "version": 0})


def test_the_page_says_which_cotangent_the_product_has(browser, tmp_path):
    w = autograd.tensor(3.0, requires_grad=True)
    with autograd.record():
        loss = w * 4.0
    found = trace(loss, np.array(0.5))
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.evaluate(f"open(cotangent({w._node.number}), 0)")
        page.click("#why summary")
        said = page.locator("#why .total").last.inner_text()
    assert said.startswith("product 2, with the cotangent 0.5 at the end of the path: 100")


def test_the_page_follows_the_largest_term(browser, tmp_path):
    """From a weight to the loss: each number of the page is that of the stepper."""
    found = classifier()
    evil = "<img src=x onerror=document.title='owned'>"
    recording = found.recording
    recording.names[recording.number("a")] = evil
    W1 = recording.number("W1")
    assert recording.values[W1].size <= MOST_WRITTEN
    write_page(found, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.evaluate(f"open(cotangent({W1}), 2)")
        page.click("#why summary")
        page.wait_for_selector("#why .path")
        answer = explain(found, W1, 2)
        (use,) = answer["uses"]
        assert float(page.inner_text("#why .amount")) == pytest.approx(use["amount"], rel=1e-3)
        terms = page.locator("#why .terms .value").all_inner_texts()
        expected = [term[0] for term in use["terms"]]
        assert [float(x) for x in terms] == pytest.approx(expected, rel=1e-3)
        assert "by example: " in page.inner_text("#why .by")
        assert "100.0 % by matmul(y)" in page.inner_text("#why .use p")
        hops = page.locator("#why .path li")
        assert hops.count() == len(answer["path"]) and evil in hops.nth(0).inner_text()
        assert page.locator("#inspector img").count() == 0
        n, flat = answer["path"][0][:2]
        hops.nth(0).locator("button").click()
        x = found.cotangent_of(n).flat[flat]
        assert float(page.inner_text("#sum").split("= ")[1]) == pytest.approx(x, rel=1e-3)
        page.wait_for_selector("#why [role=status]")  # the panel stays open; the file has no answer
        assert "Python serves" in page.inner_text("#why")

"""Every interaction of a page, by clicks and keys, on passes of the six lessons and of a run."""

import linecache
import re
import runpy

import numpy as np
import pytest
from helpers import TEXT, opened, serving, train_config
from test_server import wait_for_version, wait_until

from autograd.page.live import Live
from autograd.page.server import Server
from autograd.stepper import stopping_at_backward
from autograd.stepper.what_if import run_again
from npgpt.diagnostics.axis_names import name_axes
from npgpt.learn.lessons import Lesson
from npgpt.training.run import start


def pass_of_lesson(number, folder):
    """Return the first backward pass of a lesson's program."""
    script = folder / f"lesson{number}.py"
    script.write_text("".join(code for kind, code in Lesson(number).parts if kind == "python"))
    found = []
    with stopping_at_backward(found.append):
        runpy.run_path(str(script), run_name="__main__")
    linecache.getlines(str(script))
    return found[0]


def pass_of_run(folder):
    """Return the backward pass of the fourth update of a run."""
    (folder / "text.txt").write_text(TEXT)
    changes = dict(dropout=0.0, gradient_accumulation_steps=1)
    run = start(train_config(str(folder / "text.txt"), folder / "run", **changes))
    for _ in range(3):
        run.update()
    found = []
    with stopping_at_backward(found.append):
        run.backward()
    name_axes(found[0].recording, run.model, run.tokenizer)
    return found[0]


@pytest.fixture(params=[1, 2, 3, 4, 5, 6, "run"])
def found(request, tmp_path):
    return (
        pass_of_run(tmp_path) if request.param == "run" else pass_of_lesson(request.param, tmp_path)
    )


def number_after(text):
    return float(text.split("= ")[1])


def choose(page, name):
    """Open a value by the key / and its name."""
    page.keyboard.press("/")
    page.fill("#search", name)
    page.press("#search", "Enter")
    page.locator("#inspector figcaption .name", has_text=name).first.wait_for()


def open_element(page, place):
    """Open an element of the value that is open: by its cell, or by its index if it has none."""
    index = ", ".join(map(str, place))
    field = page.locator("#inspector [aria-label='index of an element']")
    if field.count():
        field.fill(index)
        field.press("Enter")
    else:
        cells = page.locator("#inspector figure").first.locator(".numbers button.number")
        if place:
            cells = cells.and_(page.locator(f'[title$="[{index}]"]'))
        cells.first.click()


def test_every_interaction(found, browser, tmp_path):
    """Click a number, scrub, predict and why in a file; drag in a page that is served."""
    recording = found.recording
    leaves = [
        n for n in found.waiting() if recording.names.get(n) and np.abs(found.cotangent_of(n)).max()
    ]
    leaf = max(leaves, key=lambda n: np.abs(found.cotangent_of(n)).max())
    name, gradient = recording.name(leaf), found.cotangent_of(leaf)
    place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    n_forward, n_steps = len(recording.behind(found.start)), len(found.steps)
    found.to_html(tmp_path / "pass.html")
    with opened(browser, tmp_path / "pass.html") as page:
        # scrub
        page.focus("#scrubber")
        page.keyboard.press("End")
        assert page.inner_text("#inspector h2").startswith(f"{n_forward + n_steps} of ")
        page.keyboard.press("g")
        op = found.call(found.steps[0]).op.name
        place_of_step = f"{n_forward + 1} of {n_forward + n_steps}: backward, {op}"
        assert page.inner_text("#inspector h2") == place_of_step
        # predict
        page.click("footer button:has-text('predict')")
        question = page.locator(".question").first
        edge = found.steps[0].edges[0]
        shape, entry = question.locator("form").all()
        asked = tuple(map(int, re.findall(r"\d+", entry.inner_text())))
        x = float(edge.contribution[asked])
        for form, answer in [(shape, str(edge.contribution.shape)), (entry, f"{x:.4g}")]:
            form.locator("input").fill(answer)
            form.locator("input").press("Enter")
            assert question.locator("[role=status]").inner_text() == "Right."
        entry.locator("input").fill(f"{-x:.4g}")
        entry.locator("input").press("Enter")
        assert "sign" in question.locator("[role=status]").inner_text()
        page.click("footer button:has-text('predict')")
        # click a number, and follow its largest term to where it came from
        choose(page, name)
        page.locator("#inspector .name", has_text=f"d({name})").first.click()
        open_element(page, place)
        assert number_after(page.inner_text("#sum")) == pytest.approx(gradient[place], rel=1e-3)
        total = page.locator("#inspector p.total").first.inner_text().removeprefix("together ")
        assert float(total) == pytest.approx(gradient[place], rel=2e-3)
        before = page.inner_text("#sum")
        page.locator("#inspector .terms").first.locator("button.number").first.click()
        assert page.inner_text("#sum") != before
        page.keyboard.press("Escape")
        # why
        choose(page, name)
        page.locator("#inspector .name", has_text=f"d({name})").first.click()
        open_element(page, place)
        page.click("#why summary")
        page.locator("#why .use").first.wait_for()
        shown = [float(x) for x in page.locator("#why .amount").all_inner_texts()]
        assert sum(shown) == pytest.approx(gradient[place], rel=2e-3)
        assert page.locator("#why .path li").count()
    value = recording.values[leaf]
    with serving(Server(Live(found))) as server, opened(browser, server.address) as page:
        choose(page, name)
        open_element(page, place)
        page.focus("#drag")
        page.keyboard.press("ArrowRight")
        wait_for_version(page, 1)
        changed = value.copy()
        changed[place] = server.live.session.value(leaf)[place]
        assert changed[place] != value[place]
        again = run_again(found, {leaf: changed})
        loss = again.recording.values[found.start].item()
        assert number_after(page.inner_text("h1")) == pytest.approx(loss, rel=1e-6)
        page.locator("#inspector .name", has_text=f"d({name})").first.click()
        open_element(page, place)
        after = again.cotangent_of(leaf)[place]
        assert number_after(page.inner_text("#sum")) == pytest.approx(after, rel=1e-3)
        page.click("#undo")
        wait_until(page, "data.changes === 0")
        loss = recording.values[found.start].item()
        assert number_after(page.inner_text("h1")) == pytest.approx(loss, rel=1e-6)

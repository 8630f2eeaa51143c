"""The page for those who use no mouse, or a screen reader: axe's rules, and the keyboard alone."""

from importlib.util import find_spec

import pytest
from conftest import need
from helpers import opened, reading, serving

from autograd.page.live import Live, Reader
from autograd.page.server import Server
from autograd.stepper.stops import CommandError


def assert_axe_finds_nothing(page):
    """Fail with axe's report, if a part of the page breaks one of its rules."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_timeout(300)  # after which Tab comes to what is too wide
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.fixture
def axe():
    """The rules of axe-core, from the package index."""
    need(find_spec("axe_playwright_python") is not None, "axe-playwright-python")


MODES = [("light", 0), ("dark", 0), ("dark", 3)]  # the third is for a projector


@pytest.mark.parametrize(("scheme", "times"), MODES)
def test_axe_finds_nothing_on_any_panel(axe, browser, scheme, times):
    """Moments, a number with its sum and its why, a prediction, a change, a look inside."""
    from npgpt.diagnostics.views import ModelInsight
    from npgpt.tokenizers import ByteTokenizer

    found, model, _ = reading()
    found.insight = ModelInsight(model, ByteTokenizer())
    with (
        serving(Server(Live(found), 0)) as server,
        opened(browser, server.address, color_scheme=scheme) as page,
    ):
        for _ in range(times):
            page.keyboard.press("m")
        for moment in ("0", "N_FORWARD + 3"):
            page.evaluate(f"go({moment})")
            assert_axe_finds_nothing(page)
        page.evaluate(f"open(value({found.recording.number('logits')}), 5)")  # a heat map
        page.click("#tokens button")
        page.click("[aria-label='larger cells']")
        assert_axe_finds_nothing(page)
        page.evaluate("open(cotangent(Object.keys(data.values)[0]), 1)")
        page.click("#why summary")
        page.locator("#why .use").first.wait_for()
        assert_axe_finds_nothing(page)
        page.evaluate(f"open(value({found.recording.number('transformer.ln_f.bias')}), 1)")
        page.fill("#to", "0.5")
        page.press("#to", "Enter")
        page.locator("#outcome table").wait_for()
        assert_axe_finds_nothing(page)
        page.keyboard.press("g")
        page.click("footer button:has-text('predict')")
        page.click("#inside summary")
        assert_axe_finds_nothing(page)


def tab_to(page, selector):
    """Press Tab until an element has the focus."""
    for _ in range(600):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not come to {selector}")


def test_six_interactions_with_the_keyboard_alone(browser):
    """A sum, the scrubber, a changed value, a prediction, why, and a look inside."""
    found, *_ = reading()
    with serving(Server(Live(found), 0)) as server, opened(browser, server.address) as page:
        name = "transformer.ln_f.bias"
        page.keyboard.press("/")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        tab_to(page, f"#inspector [title='d({name})[3]']")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "sum"
        tab_to(page, ".terms button.number")
        heading = page.inner_text("#sum")
        page.keyboard.press("Enter")
        assert page.inner_text("#sum") != heading

        tab_to(page, "#scrubber")
        heading = page.inner_text("#inspector h2")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#inspector h2") != heading

        page.keyboard.press("/")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        tab_to(page, f"#inspector [title='{name}[3]']")
        page.keyboard.press("Enter")
        tab_to(page, "#drag")
        page.keyboard.press("ArrowRight")
        page.locator("#outcome table").wait_for()
        while page.evaluate("data.version") == 0:
            page.wait_for_timeout(20)

        tab_to(page, "#why summary")
        page.keyboard.press("Enter")
        page.locator("#why .use").first.wait_for()

        tab_to(page, "footer [aria-pressed]")
        page.keyboard.press("Enter")
        page.keyboard.press("g")
        tab_to(page, ".question input")
        page.keyboard.type("1")
        page.keyboard.press("Enter")
        assert "Not right" in page.inner_text(".question [role=status]")

        tab_to(page, "#inside summary")
        page.keyboard.press("Enter")
        tab_to(page, "button.head")
        page.keyboard.press("Enter")
        assert "$p" in page.inner_text("#inspector figcaption")


def test_an_answer_does_not_take_the_focus(browser):
    """Also if what had the focus is gone, or can do nothing any more."""
    found, model, _ = reading()

    def read(model, text):
        if not text:
            raise CommandError("no text")
        return reading()[0]

    with (
        serving(Server(Live(found, Reader(["a model"], read)), 0)) as server,
        opened(browser, server.address) as page,
    ):
        name = "transformer.ln_f.bias"

        def focused_after(version):
            while page.evaluate("data.version") < version or page.evaluate("busy"):
                page.wait_for_timeout(20)
            return page.evaluate("document.activeElement.id || document.activeElement.tagName")

        page.evaluate(f"open(value({found.recording.number(name)}), 3); panel.open = true")
        page.focus("#change button:text-is('descend')")
        page.keyboard.press("Enter")
        assert focused_after(1) == "BUTTON"
        for version, button in ((2, "undo"), (4, "reset")):
            if button == "reset":
                page.fill("#to", "0.5")
                page.press("#to", "Enter")
                assert focused_after(3) == "to"
            page.focus(f"#{button}")
            page.keyboard.press("Enter")
            assert focused_after(version) == "rate"
        page.click("#why summary")
        page.locator("#why .use").first.wait_for()
        page.focus("#why .use button")
        page.evaluate("send({ do: 'descend', rate: 0.1 })")
        assert focused_after(5) == "sum"
        page.evaluate("open(null); inspector.querySelector('button').focus()")
        page.evaluate("send({ do: 'descend', rate: 0.1 })")
        assert focused_after(6) == "H2"
        page.click("#inside summary")
        page.fill("#text", "cat sat")
        page.focus("#read")
        page.keyboard.press("Enter")
        assert focused_after(7) == "read"

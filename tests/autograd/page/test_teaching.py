"""The teacher's page: its commands run, and its links and keys lead where it says."""

import re
import shlex
from io import StringIO

import pytest
from helpers import ROOT, npgpt, opened

TEXT = (ROOT / "docs/teaching.md").read_text("utf-8")
SCRIPT, SOLUTION = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the two files of the page."""
    (tmp_path / "lecture.py").write_text(SCRIPT)
    (tmp_path / "tanh.py").write_text(SOLUTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", StringIO())  # nobody types
    return tmp_path


def test_every_command_runs(folder):
    commands = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).splitlines()
    assert len(commands) == 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "npgpt" and npgpt(*arguments) == 0, command
    assert 100_000 < (folder / "lecture.html").stat().st_size < 140_000  # about 120 KB


def test_links_keys_and_predictions(browser, folder):
    npgpt("step", "lecture.py", "--html", "lecture.html")
    for step in {int(n) for n in re.findall(r"#step=(\d)", TEXT)} | {4, 5}:
        with opened(browser, f"{folder}/lecture.html#step={step}") as page:
            direction = "forward" if step < 5 else "backward"
            assert page.inner_text("#inspector h2").startswith(f"{step} of 8: {direction}")
    with opened(browser, folder / "lecture.html") as page:
        for _ in range(3):
            page.keyboard.press("m")
        assert page.evaluate("document.documentElement.dataset.mode") == "projector"
        page.click("footer button:has-text('predict')")
        question = page.locator(".question").first
        assert "its shape" in question.inner_text()
        question.locator("button:has-text('show it')").click()
        assert page.locator(".question").count() == 0
        page.focus("#scrubber")
        page.keyboard.press("End")
        page.click('#inspector [title="d(W)[0, 1]"]')
        page.click("#why summary")
        page.locator("#why .use .terms tr").first.wait_for()
        assert page.locator("#why .use .terms tr").count() == 2  # one for each example
        page.emulate_media(media="print")
        assert page.locator("footer").is_hidden() and page.locator("#graph svg").is_visible()

"""The page, lessons and katas in JupyterLab itself, in a browser."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from conftest import need
from helpers import ROOT

CELLS = [
    """\
import numpy as np
import autograd

W = autograd.tensor([[0.5, -1.0], [2.0, 0.25]], requires_grad=True)
with autograd.record():
    loss = (np.array([[1.0, 2.0], [3.0, 4.0]]) @ W).sum()
autograd.step(loss)""",
    """\
from npgpt.learn.page import practise

practise("tanh")""",
    'practise("1")',
]


@pytest.fixture
def lab(tmp_path):
    """The address of a notebook in a JupyterLab, which ends with the test."""
    for name in ("jupyterlab", "anywidget", "ipykernel"):
        need(find_spec(name) is not None, name)
    from nbformat import write
    from nbformat.v4 import new_code_cell, new_notebook

    folder = tmp_path / "books"
    folder.mkdir()
    python = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_code_cell(cell) for cell in CELLS]
    write(new_notebook(cells=cells, metadata={"kernelspec": python}), folder / "book.ipynb")
    homes = ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    own = {name: str(tmp_path / name) for name in homes} | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
             "--port=0", "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
             "jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={folder}"],
            env=os.environ | own, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield address_of(process, tmp_path)
    finally:
        process.terminate()
        process.wait(30)


def address_of(process, folder):
    """Wait until a JupyterLab says where it is."""
    for _ in range(600):
        for file in (folder / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            if text := file.read_text():
                found = json.loads(text)
                return f"{found['url']}lab/tree/book.ipynb?token={found['token']}"
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "log").read_text())


def shown(cell):
    """Return the page below a cell, scrolled into view: Chromium draws no frame out of sight."""
    frame = cell.locator("iframe[title='backpropagation']")
    frame.scroll_into_view_if_needed()
    return frame.content_frame


def test_a_notebook_shows_the_page_and_answers(browser, lab):
    """A number opens as its sum, and a changed weight is computed in the kernel; a kata judges."""
    page = browser.new_page(viewport={"width": 1366, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(lab)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cells.nth(len(CELLS) - 1).wait_for()
    page.locator("#jp-main-statusbar >> text=| Idle").wait_for()  # what runs before is lost
    cells.first.locator(".cm-content").click()
    for _ in CELLS:
        page.keyboard.press("Shift+Enter")
    ready = ("#inspector h2", "#rule-x", "text=lesson 1, part 1 of")
    for at in reversed(range(len(CELLS))):  # after the last, the notebook scrolls no more by itself
        shown(cells.nth(at)).locator(ready[at]).wait_for()

    pass_ = shown(cells.nth(0))
    pass_.locator("footer button:text('next')").click()
    pass_.locator('[title="d(W)[0, 1]"]').first.click()
    assert pass_.locator("#sum").inner_text() == "d(W)[0, 1] = 4"
    assert pass_.locator(".terms .value").all_inner_texts() == ["3", "1"]
    pass_.locator("#search").fill("W")
    pass_.locator("#search").press("Enter")
    pass_.locator('[title="W[1, 0]"]').click()
    pass_.locator("#to").fill("5")
    pass_.locator("#to").press("Enter")
    pass_.locator("#outcome table").wait_for()
    loss = pass_.locator("#outcome tr:nth-child(2) td").all_inner_texts()
    assert loss == ["11.5", "29.5"]  # a change of 3 in W[1, 0], times 2 + 4

    kata = shown(cells.nth(1))
    kata.locator("#rule-x").fill("g * (1 - out**2)")
    kata.locator("#rules button:text-is('check')").click()
    kata.locator(".verdict.right").wait_for()

    lesson = shown(cells.nth(2))
    lesson.locator("button:text-is('next part')").click()
    lesson.locator("text=lesson 1, part 2 of").wait_for()
    page.close()

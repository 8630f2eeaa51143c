"""The page in a notebook: what a cell's output is, and the messages between the page and Python."""

import json
import re
import sys
from importlib.resources import files
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import need
from helpers import opened, two_layer_classifier

import autograd
from autograd.page import live as live_module
from autograd.page import notebook
from autograd.page.live import Live
from autograd.stepper import trace

CELL = """
import numpy as np
import autograd

W = autograd.tensor([[0.5, -1.0], [2.0, 0.25]], requires_grad=True)
with autograd.record():
    loss = (np.array([1.0, 2.0]) @ W).sum()
autograd.step(loss)
"""


class Display:
    """In the place of IPython: a kernel's shell, and what is displayed."""

    def __init__(self, monkeypatch):
        self.shown = []
        ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
        display = SimpleNamespace(display=self.shown.append, HTML=lambda text: text)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)


def test_without_anywidget_the_page_is_for_reading(monkeypatch, browser, tmp_path):
    """The frame shows the page; a name of markup ends neither the attribute nor the frame."""
    display = Display(monkeypatch)
    monkeypatch.setattr(notebook, "find_spec", lambda name: None)
    found = trace(two_layer_classifier()[0])
    found.recording.names[found.start] = '"></iframe><script>x</script>'
    notebook.show(found)
    (text,) = display.shown
    assert text.count("<script") == 0 and text.count("</iframe>") == 1
    assert "pip install 'npgpt[notebook]'" in text
    (tmp_path / "cell.html").write_text(f"<!DOCTYPE html>{text}", encoding="utf-8")
    with opened(browser, tmp_path / "cell.html") as page:
        inside = page.frame_locator("iframe")
        inside.locator("#inspector h2").wait_for()
        assert inside.locator("h1").inner_text().startswith('"></iframe>')
        inside.locator("footer button:text('next')").click()
        assert "matmul" in inside.locator("#inspector h2").inner_text()
        assert inside.locator("#drag").count() == 0


def test_commands_run_in_a_notebook_as_elsewhere(monkeypatch, capsys):
    display = Display(monkeypatch)
    autograd.step(two_layer_classifier()[0], commands=["quit"])
    assert not display.shown and "(step) quit" in capsys.readouterr().out


class Widget:
    """In the place of the widget: keeps what Python sends to the page."""

    def send(self, content, buffers):
        self.sent = json.loads(json.dumps(content, allow_nan=False)), buffers


BRIDGE = """
const handlers = [];
const model = {
  get: (name) => ({ page: window.thePage, height: 640 })[name],
  send: async (message) => {
    const [content, bytes] = await window.toPython(message);
    const whole = Uint8Array.from([0, 0, 0, ...bytes]); // a view with an offset, as in Jupyter
    const views = bytes.length ? [new DataView(whole.buffer, 3)] : [];
    for (const handler of handlers) handler(content, views);
  },
  on: (name, handler) => handlers.push(handler),
  off: (name, handler) => handlers.splice(handlers.indexOf(handler), 1),
};
window.ends = [...document.querySelectorAll("div")].map((el) => render({ model, el }));
"""


def test_the_widget_carries_messages(browser, tmp_path, monkeypatch):
    """Two views of a widget, as JupyterLab may show: a weight is changed in one of them."""
    monkeypatch.setattr(live_module, "MOST", 60)
    loss, X = two_layer_classifier()
    live, widget = Live(trace(loss)), Widget()
    script = files("autograd.page").joinpath("widget.js").read_text().replace("export default", "")
    (tmp_path / "cell.html").write_text("<!DOCTYPE html><div></div><div></div>")
    with opened(browser, tmp_path / "cell.html") as page:

        def to_python(message):
            notebook._reply(live, widget, message)
            content, buffers = widget.sent
            return [content, [*b"".join(buffers)]]

        page.expose_function("toPython", to_python)
        page.evaluate("(page) => { window.thePage = page; }", live.page("frame"))
        page.add_script_tag(content=f"{{{script}{BRIDGE}}}".replace("({ render });", ""))
        first, second = (page.frame_locator(f"div:nth-of-type({i}) iframe") for i in (1, 2))
        for inside in (first, second):
            inside.locator("#search").fill("X")
            inside.locator("#search").press("Enter")
            inside.locator('[title="X[7, 2]"]').click()  # which was not in the page: it is fetched
            number = inside.locator("#sum").inner_text().split("= ")[1]
            assert float(number) == pytest.approx(X[7, 2], rel=1e-3)
        first.locator("#to").fill("4")
        first.locator("#to").press("Enter")
        first.locator("#outcome table").wait_for()
        assert live.session.value(live.session.find("X"))[7, 2] == 4
        second.locator("#change summary").click()
        second.locator("#change button:text('descend')").click()
        second.locator("#message:has-text('another page has changed')").wait_for()
        # A cell that is moved: the browser loads the frame again, as it was at first.
        page.eval_on_selector("iframe", "(frame) => { frame.srcdoc = frame.srcdoc; }")
        first.locator(f"h1:text-is('{second.locator('h1').inner_text()}')").wait_for()
        page.evaluate("window.ends.forEach((end) => end())")
        assert page.evaluate("document.querySelectorAll('iframe').length") == 2


@pytest.mark.parametrize(
    "message",
    [
        None, [], "x", {}, {"request": None}, {"request": []},
        {"request": {"do": "array", "key": "../x"}},
        {"request": {"do": "array", "version": 0, "key": 1e9}},
    ],
)  # fmt: skip
def test_messages_that_are_no_requests(message):
    widget, live = Widget(), Live(trace(two_layer_classifier()[0]))
    notebook._reply(live, widget, message)
    if isinstance(message, dict):
        content, buffers = widget.sent
        assert content["answer"]["error"] and not buffers


def test_a_kernel_shows_the_widget_and_answers(tmp_path):
    """A real kernel, by nbclient: the output is a widget, and a message changes the pass."""
    for name in ("nbclient", "anywidget", "ipykernel"):
        need(find_spec(name) is not None, name)
    from nbclient import NotebookClient
    from nbclient.util import run_sync
    from nbformat.v4 import new_code_cell, new_notebook

    book = new_notebook(cells=[new_code_cell(CELL)])
    client = NotebookClient(book, timeout=120, kernel_name="python3")
    with client.setup_kernel():
        client.execute_cell(book.cells[0], 0)
        (output,) = [x for x in book.cells[0].outputs if x.output_type == "display_data"]
        comm = output.data["application/vnd.jupyter.widget-view+json"]["model_id"]
        page = client.widget_state[comm]["page"]
        data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
        (number,) = [int(n) for n, v in data["values"].items() if v["name"] == "W"]
        request = {"do": "set", "version": 0, "value": number, "flat": 2, "to": 5.0}
        content = {"method": "custom", "content": {"id": 7, "request": request}}
        kernel = client.kc
        kernel.shell_channel.send(
            kernel.session.msg("comm_msg", {"comm_id": comm, "data": content})
        )
        while True:
            message = run_sync(kernel.get_iopub_msg)(timeout=60)
            if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == comm:
                break
    answer = message["content"]["data"]["content"]
    assert answer["id"] == 7
    loss = (np.array([1.0, 2.0]) @ [[0.5, -1.0], [5.0, 0.25]]).sum()
    assert answer["answer"]["outcome"]["rows"][0] == ["loss", "4", f"{loss:.4g}"]

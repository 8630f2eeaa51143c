"""The page of a trace in a notebook: in a frame, so that neither can touch the other.

With `anywidget`, the page can ask Python, as a served page can: the frame and the widget around it
(``widget.js``) exchange messages, which the notebook carries. Without `anywidget`, the page is for
reading.
"""

from __future__ import annotations

import html
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from autograd.page import make_page
from autograd.page.live import Answers, Live
from autograd.stepper.stops import CommandError
from autograd.stepper.trace import Trace

HEIGHT = 640  # pixels


def show(trace: Trace) -> None:
    """Show the page of a trace as the output of a notebook's cell."""
    from IPython.display import HTML, display

    if find_spec("anywidget"):
        display(make_widget(Live(trace)))
    else:
        note = "To change values here: pip install 'npgpt[notebook]', and restart the kernel."
        display(HTML(f"<div>{frame(make_page(trace))}<p>{note}</p></div>"))


def frame(page: str) -> str:
    """Return a frame with a page. The page's script runs, and can reach nothing outside of it.

    The page has forms, which its own policy keeps from being sent anywhere.
    """
    return (
        '<iframe sandbox="allow-scripts allow-forms" title="backpropagation" '
        f'style="width: 100%; height: {HEIGHT}px; border: 1px solid #8888" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


def make_widget(live: Answers) -> Any:
    """Return a widget with a page; needs `anywidget`."""
    import anywidget
    import traitlets

    class Page(anywidget.AnyWidget):
        _esm = files(__package__).joinpath("widget.js").read_text("utf-8")
        page = traitlets.Unicode().tag(sync=True)
        height = traitlets.Int(HEIGHT).tag(sync=True)

    widget = Page(page=live.page("frame"))
    widget.on_msg(lambda widget, message, buffers: _reply(live, widget, message))
    return widget


def _reply(live: Answers, widget: Any, message: Any) -> None:
    """Answer a message of the page, with the elements of an array as bytes beside the answer."""
    if not isinstance(message, dict):
        return
    request, buffers, answer = message.get("request"), [], {}
    if isinstance(request, dict) and request.get("do") == "array":
        try:
            buffers = [live.array(request.get("key"), request.get("version"))]
        except CommandError as error:
            answer = {"error": str(error)}
    else:
        answer = live.answer(request)
    widget.send({"id": message.get("id"), "answer": answer}, buffers=buffers)

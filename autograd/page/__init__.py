"""A trace as a page: one HTML file with every number of a pass, and the sum behind each number.

The file needs no server and no network. Everything that the page shows is data in an element of
the page, which the page's script reads. The files of the script (``scripts``) are joined when the
page is written. By the file's content security policy, a browser runs no other script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograd.escape import shown
from autograd.files import write_text
from autograd.page.arrays import MOST, Arrays
from autograd.page.contents import collect, collect_inside
from autograd.page.why import explain_elements, explain_leaves
from autograd.stepper.trace import Trace

if TYPE_CHECKING:
    from autograd.page.live import Course

SCRIPTS = (
    "data", "sums", "notation", "elements", "state", "labels", "source", "graph", "inspector",
    "why", "arrays", "inside", "run", "predict", "controls", "links", "page",
)  # fmt: skip


def make_page(trace: Trace, title: str = "", beside: Sequence[tuple[str, Trace]] = ()) -> str:
    """Return the page of a trace, as the text of an HTML file.

    If the arrays have more than four million elements together, the large ones are reduced to a
    corner, their norm and their ten largest elements; a sum that needs other elements says how many
    of its terms are missing. An element that a large op has only moved, such as a transpose, then
    has no sum.

    Parameters
    ----------
    trace : Trace
    title : str
        What has computed the pass, such as the name of a model.
    beside : sequence of (str, Trace)
        Other passes, each with its title: the page shows their attention and their tables beside
        those of the trace.

    Examples
    --------
    >>> import autograd
    >>> from autograd.page import make_page
    >>> with autograd.record():
    ...     x = autograd.tensor([1.0, 2.0], requires_grad=True)
    ...     y = (x * x).sum()
    >>> make_page(autograd.stepper.trace(y))[:15]
    '<!DOCTYPE html>'
    """
    return fill_page(
        collect(trace, title=title)
        | {"why": explain_leaves(trace), "why_values": explain_elements(trace)}
        | {"beside": [collect_inside(other, name) for name, other in beside]}
    )


def make_page_of_steps(course: Course, steps: Sequence[int]) -> str:
    """Return the page of some updates of a training run, as the text of an HTML file.

    The updates share the four million elements that a page holds (`make_page`).

    Parameters
    ----------
    course : Course
    steps : sequence of int
        The updates, of which the page shows the first one first.

    Raises
    ------
    CommandError
        If the run has no such update.
    """
    passes: list[dict[str, Any]] = []
    most = MOST // len(steps)
    for step in steps:
        batch, n = 0, 1
        while batch < n:  # an update may have several batches, each with a pass
            trace = course.go(step, batch)
            run = course.entry()
            n = run["batches"]
            why = {
                "why": explain_leaves(trace, course.why),
                "why_values": explain_elements(trace),
            }
            contents = collect(trace, Arrays(max(1, most // n)), title=run["name"])
            passes.append(contents | why | {"beside": [], "run": run})
            batch += 1
    first = passes[0]
    changed = [{key: x for key, x in each.items() if first[key] != x} for each in passes[1:]]
    return fill_page(first | {"passes": [{}, *changed]})


def fill_page(contents: dict[str, Any]) -> str:
    """Return the text of an HTML file with the contents of a page, and with our script.

    If the contents name a ``channel``, the page asks Python through this channel (``ask.js``).
    """
    name = contents["values"][contents["start"]]["name"]
    names = (*SCRIPTS, "ask", "live") if "channel" in contents else SCRIPTS
    return fill_html(f"Backpropagation from {name}", contents, read_scripts(names), read_style())


def read_scripts(names: Iterable[str]) -> str:
    """Return the text of some of the files in ``scripts``."""
    folder = files(__package__).joinpath("scripts")
    return "\n".join(folder.joinpath(f"{name}.js").read_text("utf-8") for name in names)


def read_style() -> str:
    """Return the text of ``page.css``."""
    return files(__package__).joinpath("page.css").read_text("utf-8")


def fill_html(title: str, contents: dict[str, Any], script: str, style: str) -> str:
    """Return the text of an HTML file in which a browser runs this script, and no other one.

    Parameters
    ----------
    title : str
    contents : dict
        Data for the script, in the element ``data``. If the ``channel`` is ``http``, the script may
        send requests to the server that the file came from.
    script, style : str
        JavaScript and CSS.
    """
    title = html.escape(shown(title))
    # In a script element, only "<" could end it or begin a comment.
    data = json.dumps(contents, allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    if contents.get("channel") == "http":
        policy += "; connect-src 'self'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _hash(text: str) -> str:
    """Return the name of a text in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write_page_of_steps(course: Course, steps: Sequence[int], path: str | Path) -> None:
    """Write the page of some updates of a run to a file; see `make_page_of_steps`."""
    write_text(path, make_page_of_steps(course, steps))


def write_page(
    trace: Trace, path: str | Path, title: str = "", beside: Sequence[tuple[str, Trace]] = ()
) -> None:
    """Write the page of a trace to a file; see `make_page`."""
    write_text(path, make_page(trace, title, beside))

"""The documentation site: ``pip install '.[docs]' && sphinx-build -W docs out/site``."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

import npgpt
from autograd import nn

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"

project = "npgpt"
author = "the npgpt authors"
version = release = npgpt.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "npgpt"
html_show_sourcelink = False
html_extra_path = ["generated/pages"]  # what make_gallery.py writes, published as it is
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say types, and shapes
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# ---- what is made from other files: the lessons, the examples with what they print, the gallery

ARGUMENTS = {
    "02_train_and_generate": ["--steps", "300"],
    "08_sorter": ["--save", "sorter"],
    "09_pretrained": ["sorter", "--text", "qzbuamtc>abcm"],  # the sorter that 08 saves
}


def write_lessons() -> None:
    """Copy the lessons, which are Markdown already, to pages of the site."""
    folder = GENERATED / "lessons"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "npgpt/learn/lessons").glob("*.md")):
        text = re.sub("```(step|output|question)\n", "```text\n", source.read_text("utf-8"))
        (folder / source.name).write_text(text, "utf-8")


def write_examples() -> None:
    """Run each example, and write a page of its docstring, its code, and its output."""
    folder = GENERATED / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "examples").glob("[0-9]*.py")):
        page = folder / f"{source.stem}.md"
        command = [sys.executable, str(source), *ARGUMENTS.get(source.stem, [])]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if result.returncode:
            raise RuntimeError(f"{source.name} failed:\n{result.stderr}")
        code = source.read_text("utf-8")
        _, docstring, code = code.split('"""', 2)
        title, _, rest = docstring.partition("\n")
        shown = " ".join(["python", f"examples/{source.name}", *ARGUMENTS.get(source.stem, [])])
        page.write_text(
            f"# {source.stem[:2]}: {title.rstrip('.')}\n\n```text\n{rest.strip()}\n```\n\n"
            f"`{shown}` runs this script:\n\n```python\n{code.strip()}\n```\n\n"
            f"The script prints:\n\n```text\n{result.stdout.rstrip()}\n```\n",
            "utf-8",
        )


def link_lessons(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links to the lessons' files, which serve readers of the repository, lead to their pages.

    Sphinx calls this function with each page's text before it parses the page.
    """
    source[0] = source[0].replace("../npgpt/learn/lessons/", "generated/lessons/")
    if name == "lessons":
        source[0] += "\n```{toctree}\n:glob:\n:hidden:\n\ngenerated/lessons/*\n```\n"


def show_ops_as_functions() -> None:
    """Replace each op by its forward function, whose signature and docstring Sphinx can read."""
    for name in nn.__all__:
        forward = getattr(getattr(nn, name), "forward", getattr(nn, name))
        setattr(nn, name, inspect.unwrap(forward))  # the NumPy function, not its kernel


def setup(app: Sphinx) -> None:
    """Prepare what Sphinx reads."""
    show_ops_as_functions()
    write_lessons()
    write_examples()
    subprocess.run([sys.executable, str(DOCS / "make_gallery.py")], check=True)
    app.connect("source-read", link_lessons)

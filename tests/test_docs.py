"""What the documentation shows runs: docstrings, the README's code, and the examples."""

import contextlib
import doctest
import importlib
import importlib.util
import io
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

import autograd
import npgpt
from autograd.op import NUMPY
from npgpt import GPT, GPTConfig
from npgpt.models.registry import ARCHITECTURES
from npgpt.tokenizers import CharTokenizer, save_tokenizer

MODULES = sorted(
    module.name
    for package in (autograd, npgpt)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if module.name != "autograd.numpy"  # which only says that there is none
)


@pytest.mark.parametrize("name", ["autograd", "npgpt", *MODULES])
def test_docstrings(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]))
def test_code_in_pages(page):
    """The Python blocks of a page run in order, and print what the page says after them."""
    text = page.read_text()
    blocks = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", text, re.DOTALL)
    assert blocks or re.search(r"\b(npgpt|python) \w", text), f"{page.name} has nothing to run"
    names = {}
    registries = autograd.REGISTRY, NUMPY, ARCHITECTURES
    before = [set(registry) for registry in registries]
    for code, expected in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, page.name, "exec"), names)
        if expected:
            assert out.getvalue() == expected
    for registry, known in zip(registries, before, strict=True):
        for added in set(registry) - known:
            del registry[added]


ARGUMENTS = {
    "02_train_and_generate.py": ["--steps", "3"],
    "08_sorter.py": ["--steps", "20"],
    "09_pretrained.py": ["model", "--text", "bca>ab"],
    "10_images.py": ["--steps", "20"],
    "11_translate.py": ["--steps", "3", "--picture", "looks.svg"],
}
NEEDS = {"10_images.py": "sklearn"}


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))
)
def test_examples(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    tokenizer = CharTokenizer.from_text("abc>")
    GPT(GPTConfig(tokenizer.n_vocab, 8, 8, 2, 2)).save_pretrained(tmp_path / "model")
    save_tokenizer(tokenizer, tmp_path / "model")
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *ARGUMENTS.get(name, [])],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 200
    for line in result.stderr.splitlines():
        assert "compiling kernels, once" in line or line.startswith("note: ")


def test_the_table_of_ops_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_ops", ROOT / "docs" / "make_ops.py")
    make_ops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_ops)
    page = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    assert page == make_ops.page(), "run: python docs/make_ops.py"


def test_every_function_of_numpy_is_in_the_table_of_ops():
    """Each public name of the installed NumPy stands in one of the four groups."""
    page = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    section = page.partition("## Every function of NumPy")[2].partition("## What is refused")[0]
    expected = [
        f"{prefix}.{name}"
        for prefix, module in {"np": np, "np.linalg": np.linalg, "np.fft": np.fft}.items()
        for name in module.__all__
        if callable(getattr(module, name)) and not isinstance(getattr(module, name), type)
    ]
    assert [name for name in expected if f"`{name}`" not in section] == []
    total = sum(int(n) for n in re.findall(r"(?<=\| )\d+(?= \|)", section))
    assert total == len(expected)


def test_the_repository_names_no_machine():
    """No path of anybody's machine in what is published."""
    for path in ROOT.rglob("*"):
        if path.suffix in (".py", ".md", ".toml", ".yaml") and ".venv" not in path.parts:
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not re.search(r"(^|[^\w.~-])/(home|root|work|opt)/[a-z]", line), (path, line)

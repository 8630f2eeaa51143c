"""Who may import whom, and what an import may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autograd
import npgpt

# From the bottom up: a module may import from its own layer and from those below.
LAYERS = [
    [
        "autograd.blocks",
        "autograd.changes",
        "autograd.dispatch",
        "autograd.engine",
        "autograd.files",
        "autograd.formula",
        "autograd.modes",
        "autograd.op",
    ],
    ["autograd.kernels"],
    ["autograd.ops"],
    ["autograd.nn", "autograd.numpy", "autograd.tensor"],
    ["autograd", "autograd.anomaly", "autograd.functional", "autograd.testing"],
    ["npgpt"],
]


def modules():
    for package in (autograd, npgpt):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def layer(module):
    """The layer of the longest name that the module's begins with."""
    found = [
        (len(name), depth)
        for depth, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(found)[1]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            known = dict(modules())
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value)[-40:])
def test_nothing_imports_what_stands_above_it(module, path):
    for name in imported(path):
        if name.split(".")[0] in ("autograd", "npgpt"):
            # a package's public names count as its top
            assert layer(name) <= layer(module), f"{module} imports {name}"


def test_npgpt_uses_the_engines_public_names():
    public = {"autograd", "autograd.kernels", "autograd.nn", "autograd.testing"}
    public |= {"autograd.console", "autograd.escape", "autograd.files", "autograd.reading"}
    public |= {"autograd.schema", "autograd.stepper.terminal"}
    for module, path in modules():
        if module.startswith("npgpt"):
            for name in imported(path):
                assert not name.startswith("autograd") or name in public, f"{module} imports {name}"


@pytest.mark.parametrize("module", ["autograd", "autograd.testing", "npgpt"])
def test_imports_are_light(module):
    heavy = {"hypothesis", "numba", "torch", "tiktoken", "tyro", "rich", "prompt_toolkit"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_namesake_is_named(tmp_path):
    """Another package called autograd in the place of ours ends in one message."""
    (tmp_path / "autograd" / "numpy").mkdir(parents=True)
    (tmp_path / "autograd" / "__init__.py").write_text("")
    (tmp_path / "npgpt").symlink_to(Path(npgpt.__file__).parent)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import npgpt"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: another package named 'autograd'" in result.stderr

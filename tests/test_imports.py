"""Who may import whom, and what an import may cost."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import autograd
import npgpt
from autograd.stepper import trace
from npgpt.renamed import RENAMED

# From the bottom up: a module may import from its own layer and from those below.
LAYERS = [
    [
        "autograd.blocks",
        "autograd.cpus",
        "autograd.escape",
        "autograd.files",
        "autograd.forks",
        "autograd.formula",
    ],
    ["autograd.console", "autograd.schema"],
    ["autograd.reading"],
    ["autograd.changes", "autograd.modes"],
    ["autograd.engine"],
    ["autograd.dispatch", "autograd.precision"],
    ["autograd.pullback", "autograd.tape"],
    ["autograd.op"],
    ["autograd.fast"],
    ["autograd.kernels"],
    ["autograd.ops"],
    ["autograd.nn", "autograd.numpy", "autograd.tensor"],
    ["autograd.anomaly", "autograd.functional"],
    ["autograd", "autograd.testing"],
    ["npgpt.errors", "npgpt.files", "npgpt.module", "npgpt.options", "npgpt.parallel", "npgpt.say"],
    ["npgpt.models"],
    ["npgpt.generation.options", "npgpt.hub", "npgpt.tokenizers", "npgpt.weights"],
    [
        "npgpt.evaluation",
        "npgpt.gaps",
        "npgpt.generation",
        "npgpt.sentences",
        "npgpt.training",
        "npgpt.translation",
    ],
    ["npgpt.diagnostics", "npgpt.learn"],
    ["npgpt.scaling"],
    ["npgpt.commands"],
    ["npgpt"],
]


def find_modules():
    for package in (autograd, npgpt):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(find_modules())


def layer(module):
    """The layer of the longest name that the module's begins with."""
    found = [
        (len(name), depth)
        for depth, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(found)[1]


def running(tree):
    """Yield all nodes but those under ``if TYPE_CHECKING:``, which no program runs."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from running(node)


def imported(path, whole=True):
    """Yield what a file imports: anywhere, or only when the file itself is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in running(tree) if whole else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


@pytest.mark.parametrize(
    ("module", "path"), list(MODULES.items()), ids=lambda value: str(value)[-40:]
)
def test_nothing_imports_what_stands_above_it(module, path):
    for name in imported(path):
        if name.split(".")[0] in ("autograd", "npgpt"):
            # a package's public names count as its top
            assert layer(name) <= layer(module), f"{module} imports {name}"


def test_imports_run_in_no_circle():
    """Any module may be imported first."""
    graph = {
        module: set(imported(path, whole=False)) - {module} for module, path in MODULES.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_methods_of_upper_layers_are_there_whatever_is_imported_first():
    code = (
        "from npgpt.models.gpt import GPT; import npgpt, npgpt.weights.load as load\n"
        "assert GPT.generate is npgpt.generate and GPT.from_pretrained is load.load_model\n"
        "assert GPT.save_pretrained is load.save_pretrained"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_npgpt_uses_the_engines_public_names():
    public = {"autograd", "autograd.functional", "autograd.kernels", "autograd.nn"}
    public |= {"autograd.testing", "autograd.testing.properties", "autograd.testing.strategies"}
    public |= {"autograd.console", "autograd.escape", "autograd.files", "autograd.reading"}
    public |= {"autograd.schema", "autograd.signals", "autograd.stepper", "autograd.page"}
    public |= {f"autograd.page.{name}" for name in ("live", "notebook", "server", "views")}
    stepper = ("axes", "check", "display", "lines", "session", "stops", "symbols", "terminal")
    public |= {f"autograd.stepper.{name}" for name in stepper}
    for module, path in MODULES.items():
        if module.startswith("npgpt"):
            for name in imported(path):
                assert not name.startswith("autograd") or name in public, f"{module} imports {name}"


@pytest.mark.parametrize("module", ["autograd", "autograd.testing", "npgpt"])
def test_imports_are_light(module):
    heavy = {"hypothesis", "numba", "torch", "tiktoken", "tyro", "rich", "prompt_toolkit", "jinja2"}
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


@pytest.mark.parametrize("name", sorted(RENAMED))
def test_old_names_of_modules_warn_and_work(name):
    code = (
        f"import warnings; warnings.simplefilter('error'); import npgpt; module = '{name}'\n"
        "try:\n    __import__(module)\n"
        "except DeprecationWarning as warning:\n    print(warning)\n"
        "warnings.simplefilter('ignore'); __import__(module)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.startswith(f"{name} is now npgpt."), result.stderr


def test_the_old_name_of_accumulate_gradients():
    from npgpt.training import run

    with pytest.warns(DeprecationWarning, match="train_step is now accumulate_gradients"):
        assert run.train_step is run.accumulate_gradients
    with pytest.raises(AttributeError, match="no attribute 'train_stop'"):
        _ = run.train_stop


def test_the_old_names_that_people_use():
    code = (
        "from npgpt.config import GPTConfig, TrainConfig; from npgpt.model import GPT, KVCache\n"
        "from npgpt.nn import Module, Parameter, dropout_from; from npgpt.train import train_step\n"
        "from npgpt.optim import AdamW, clip_grad_norm, learning_rate_at\n"
        "from npgpt.weights import MINGPT, find_model, load_model\n"
        "import npgpt.models.gpt; assert GPT is npgpt.models.gpt.GPT\n"
        "from npgpt.training.run import accumulate_gradients as new; assert train_step is new"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (autograd, "relu", "autograd.nn.relu"),
        (autograd, "conv2d", "autograd.nn.conv2d"),
        (autograd, "jacobian", "autograd.functional.jacobian"),
        (autograd, "exp", "np.exp"),
        (autograd.nn, "tanh", "np.tanh"),
        (autograd, "no_such_name", ""),
        (autograd.nn, "Linear", ""),
    ],
)
def test_names_of_other_libraries(module, name, instead):
    """They are answered with what to write here, if there is something."""
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'") as caught:
        getattr(module, name)
    assert str(caught.value).partition("; write ")[2] == instead


def test_no_folder_of_tests_hides_a_library():
    """Python would import the folder where the library is not installed."""
    root = Path(__file__).parent
    project = tomllib.loads((root.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    libraries = {re.split(r"[^\w-]", line)[0] for line in lines}
    assert {"numpy", "tokenizers"} <= libraries
    assert libraries.isdisjoint(path.name for path in root.rglob("*") if path.is_dir())


RARE = """
import sys
import numpy as np, autograd
from autograd.dispatch import RARELY_USED

def imported():
    return [name for name in RARELY_USED if name in sys.modules]

x = autograd.tensor(np.eye(4).reshape(4, 2, 2) + 1, requires_grad=True)
np.sum(x @ x).backward()
assert RARELY_USED and not imported(), imported()
"""


@pytest.mark.parametrize(
    "code",
    [
        "assert np.linalg.tensorinv(x, 1).requires_grad",
        "assert np.add.reduceat(x.detach(), [0, 2]).shape == (2, 2, 2)",
        "assert 'add' in autograd.REGISTRY",
        "autograd.op(lambda x: x)",
        "autograd.nn.max_pool1d(x[0], 1); autograd.REGISTRY",
        "from autograd.nn import conv2d; from autograd.nn import *; autograd.REGISTRY",
    ],
)
def test_files_of_rarely_used_functions_are_imported_when_they_are_needed(code):
    code = f"{RARE}\n{code}\nassert imported() == RARELY_USED"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_users_implementation_stays():
    code = f"""{RARE}
from autograd.op import implements

@implements(np.linalg.tensorinv)
def _(a, ind=2):
    return "mine"

assert np.linalg.tensorinv(x) == "mine" and autograd.REGISTRY
assert np.linalg.tensorinv(x) == "mine"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_saved_trace_brings_the_ops_that_it_needs(tmp_path):
    x = autograd.tensor([[2.0, 1.0], [1.0, 3.0]], requires_grad=True)
    with autograd.record():
        loss = np.sum(np.linalg.eigvalsh(x) ** 3)
    trace(loss).save(tmp_path / "saved")
    code = (
        "from autograd.stepper import Trace\n"
        f"found = Trace.load({str(tmp_path / 'saved')!r})\n"
        "print([call.op.name for call in found.recording.calls.values()])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "'eigh'" in result.stdout, result.stderr

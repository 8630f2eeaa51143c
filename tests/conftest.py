"""What the tests share: hypothesis profiles, and what some of them need from outside."""

import importlib.util
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

COMMON = dict(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("default", max_examples=30, **COMMON)
settings.register_profile("ci", max_examples=30, derandomize=True, print_blob=True, **COMMON)
settings.register_profile("quick", max_examples=8, derandomize=True, print_blob=True, **COMMON)
settings.register_profile("thorough", max_examples=300, **COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "default")

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared out already
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs

HOME = os.environ.get("NPGPT_HOME", "")  # of the user; each test has a home of its own
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def need(available: bool, what: str) -> None:
    """Skip a test that lacks something; with NPGPT_TEST_ALL=1, where nothing may lack, fail it."""
    if not available:
        if os.environ.get("NPGPT_TEST_ALL") == "1":
            pytest.fail(f"{what} is needed here", pytrace=False)
        pytest.skip(f"needs {what}")


def pytest_report_header() -> str:
    """Say which of the two paths this run takes."""
    from autograd.kernels import kernels_enabled

    return f"kernels: {'on' if kernels_enabled() else 'off'}"


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """The note that kernels are compiled comes once, before any test looks at what is printed."""
    import numpy as np

    from autograd import nn

    nn.gelu(np.zeros(1))


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own folder, empty."""
    monkeypatch.setenv("NPGPT_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def browser() -> Any:
    """Chromium, as Debian has it."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    need(sync_playwright is not None, "playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    need(path is not None, "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def shared() -> Path:
    """The folder of real texts and weights beside the repository."""
    if not SHARED.is_dir():
        # CI always has it: a run without it would have tested less than it says
        if os.environ.get("CI"):
            pytest.fail("the shared data folder is missing in CI", pytrace=False)
        pytest.skip("needs the shared data folder")
    return SHARED


@pytest.fixture
def smollm2(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the model that ``npgpt models add smollm2`` downloads."""
    return added_model("smollm2", monkeypatch)


@pytest.fixture
def minilm(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the model that ``npgpt models add minilm`` downloads."""
    return added_model("minilm", monkeypatch)


def added_model(name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a published model is; skip the test without it."""
    from npgpt.hub import find_added, find_installed

    with monkeypatch.context() as patch:
        patch.setenv("NPGPT_HOME", HOME)
        path = find_added(name) or find_installed(name)
    need(path is not None, f"the model {name} (npgpt models add {name})")
    return path


@pytest.fixture
def oracle() -> None:
    """PyTorch and transformers, to compare with."""
    for name in ("torch", "transformers"):
        need(importlib.util.find_spec(name) is not None, name)

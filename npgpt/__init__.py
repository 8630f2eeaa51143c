"""GPT in plain NumPy: train it, look inside it, let it write."""

from __future__ import annotations

import importlib.util as _util
import os as _os
import sys as _sys
from pathlib import Path as _Path


def _refuse_namesake() -> None:
    """End with one message where another package named autograd stands in the place of ours."""
    spec = _util.find_spec("autograd")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (_Path(folder) / "numpy").is_dir() or not (_Path(folder) / "engine.py").is_file():
            message = (
                f"another package named 'autograd' (HIPS autograd) is installed in {folder}, and "
                "npgpt brings its own: the two cannot share an environment. Run 'pip uninstall "
                "autograd' and install npgpt again (pip install --force-reinstall --no-deps .), or "
                "use a new environment"
            )
            if _Path(_sys.argv[0]).stem == "npgpt":  # the command: no traceback
                raise SystemExit(f"npgpt: {message}")
            raise ImportError(message)


_refuse_namesake()
# OpenBLAS's idle threads look out for work for 2^26 cycles, some 30 ms, on the processors that our
# kernels need. NumPy's copy reads this as it is loaded, so it has no effect where that came first.
_os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")

from npgpt.config import GPTConfig, TrainConfig  # noqa: E402
from npgpt.errors import UserError  # noqa: E402
from npgpt.generation import TextStreamer, generate  # noqa: E402
from npgpt.model import GPT  # noqa: E402
from npgpt.tokenizers import load_tokenizer  # noqa: E402

__all__ = [
    "GPT",
    "GPTConfig",
    "TextStreamer",
    "TrainConfig",
    "UserError",
    "generate",
    "load_tokenizer",
]
__version__ = "0.1.0"

"""GPT in plain NumPy: train it, look inside it, let it write."""

from __future__ import annotations

# the part of the module signal that takes no time to import
import _signal  # type: ignore[import-not-found]
import sys as _sys


def _is_command() -> bool:
    """Return whether this process is the command: npgpt, or python -m npgpt."""
    if _sys.argv[:1] == ["-m"]:  # as long as Python looks for the module
        after = _sys.orig_argv[_sys.orig_argv.index("-m") + 1 :]
        return after[:1] in (["npgpt"], ["npgpt.cli"])
    name = "".join(_sys.argv[:1]).replace("\\", "/").rsplit("/", 1)[-1]
    return name in ("npgpt", "npgpt.exe")


if _is_command() and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Ctrl-C while the libraries are imported ends the command without a traceback
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import importlib.util as _util  # noqa: E402
import os as _os  # noqa: E402
from pathlib import Path as _Path  # noqa: E402


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
            if _is_command():  # no traceback
                raise SystemExit(f"npgpt: {message}")
            raise ImportError(message)


_refuse_namesake()
# OpenBLAS's idle threads look out for work for 2^26 cycles, some 30 ms, on the processors that our
# kernels need. NumPy's copy reads this as it is loaded, so it has no effect where that came first.
_os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")

from npgpt import renamed as _renamed  # noqa: E402, F401
from npgpt.errors import UserError  # noqa: E402
from npgpt.generation import TextStreamer, generate  # noqa: E402
from npgpt.generation.chat import Chat  # noqa: E402
from npgpt.models.config import GPTConfig  # noqa: E402
from npgpt.models.gpt import GPT  # noqa: E402
from npgpt.tokenizers import load_tokenizer  # noqa: E402
from npgpt.training.config import TrainConfig  # noqa: E402
from npgpt.weights.load import load_model  # noqa: E402
from npgpt.weights.load import save_pretrained as _save_pretrained  # noqa: E402

# The methods of GPT that stand for functions of upper layers, which models/gpt.py cannot import.
GPT.generate = generate
GPT.from_pretrained = staticmethod(load_model)
GPT.save_pretrained = _save_pretrained

__all__ = [
    "GPT",
    "Chat",
    "GPTConfig",
    "TextStreamer",
    "TrainConfig",
    "UserError",
    "generate",
    "load_model",
    "load_tokenizer",
]
__version__ = "0.2.0"

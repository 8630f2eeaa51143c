"""Weights in and out: published and saved files, and the names in them.

The functions of `npgpt.weights.load` and the mapping `MINGPT` are names of this package, too.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # not imported above: `load` needs `npgpt.hub`, which needs a module of this package
    if not name.startswith("_"):
        from npgpt.weights import load, names

        for module in (load, names):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

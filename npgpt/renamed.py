"""Modules that had another name in version 0.1.0: importing the old name works, with a warning."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

RENAMED = {
    "npgpt.config": ("npgpt.models.config", "npgpt.training.config"),
    "npgpt.data": ("npgpt.training.data",),
    "npgpt.decode": ("npgpt.generation.decode",),
    "npgpt.evaluate": ("npgpt.evaluation.loss",),
    "npgpt.info": ("npgpt.diagnostics.info",),
    "npgpt.kata": ("npgpt.learn.katas",),
    "npgpt.lessons": ("npgpt.learn.lessons",),
    "npgpt.memory": ("npgpt.training.memory",),
    "npgpt.model": ("npgpt.models.gpt", "npgpt.models.attention", "npgpt.models.blocks"),
    "npgpt.nn": ("npgpt.module", "npgpt.models.layers"),
    "npgpt.optim": ("npgpt.training.optim",),
    "npgpt.quantize": ("npgpt.generation.quantize",),
    "npgpt.train": ("npgpt.training.run", "npgpt.training.loop", "npgpt.training.folder"),
}


class _Finder(MetaPathFinder, Loader):
    """Makes a module of an old name, which holds the names of the modules that replaced it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return how to load a module of an old name; None for any other module."""
        if fullname not in RENAMED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Copy the names of the new modules into the module, and warn."""
        successors = RENAMED[module.__name__]
        modules = [importlib.import_module(name) for name in successors]
        for successor in modules:
            for key, value in vars(successor).items():
                if not key.startswith("__"):
                    module.__dict__.setdefault(key, value)

        def older_name(key: str) -> Any:
            """Return what a successor knows by an older name, such as ``train_step``."""
            for successor in modules:
                with suppress(AttributeError):
                    return getattr(successor, key)
            raise AttributeError(f"module {module.__name__!r} has no attribute {key!r}")

        module.__dict__["__getattr__"] = older_name
        warnings.warn(
            f"{module.__name__} is now {' and '.join(successors)}", DeprecationWarning, stacklevel=2
        )


sys.meta_path.append(_Finder())

"""Reverse-mode automatic differentiation over NumPy arrays.

>>> import numpy as np, autograd
>>> x = autograd.tensor([0.5, 1.0], requires_grad=True)
>>> y = np.exp(-x * x).sum()
>>> y.backward()
>>> x.grad.numpy().round(4).tolist()
[-0.7788, -0.7358]
"""

from typing import TYPE_CHECKING, Any

from autograd import functional, nn
from autograd.anomaly import AnomalyError, debug, detect_anomaly, explain
from autograd.kernels import use_kernels
from autograd.ledger import Ledger
from autograd.machine import Roof
from autograd.modes import Observer, enable_grad, is_grad_enabled, no_grad, observe
from autograd.op import Op, op
from autograd.stepper import record, step
from autograd.stepper.draw import draw
from autograd.stepper.to_source import to_source
from autograd.tensor import Tensor, grad, tensor, write_in_place

if TYPE_CHECKING:
    from autograd.op import REGISTRY

__all__ = [
    "REGISTRY",
    "AnomalyError",
    "Ledger",
    "Observer",
    "Op",
    "Roof",
    "Tensor",
    "debug",
    "detect_anomaly",
    "draw",
    "enable_grad",
    "explain",
    "functional",
    "grad",
    "is_grad_enabled",
    "nn",
    "no_grad",
    "observe",
    "op",
    "record",
    "step",
    "tensor",
    "to_source",
    "use_kernels",
    "write_in_place",
]


def __getattr__(name: str) -> Any:
    """Return the registry of all ops, also of those whose modules are imported when needed."""
    if name != "REGISTRY":
        import numpy as np

        places = (("autograd.nn", nn), ("autograd.functional", functional), ("np", np))
        found = [f"{place}.{name}" for place, module in places if hasattr(module, name)]
        hint = f"; write {found[0]}" if found and name[0] != "_" else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    from autograd.dispatch import import_rarely_used
    from autograd.op import REGISTRY

    import_rarely_used()
    return REGISTRY

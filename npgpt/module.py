"""Modules: the parts of a model, with parameters that have names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

import autograd
from autograd import Tensor
from autograd.nn import misfit
from npgpt.errors import UserError


class Parameter(Tensor):
    """A leaf tensor that belongs to a module, and requires a gradient."""

    __slots__ = ()

    def __init__(self, data: ndarray) -> None:
        super().__init__(data)
        self.requires_grad_()

    @classmethod
    def full(cls, shape: tuple[int, ...], value: float, dtype: DTypeLike) -> Parameter:
        """Make a parameter of one value everywhere; without memory inside `unallocated`."""
        if is_unallocated():
            return cls(np.broadcast_to(np.asarray(value, dtype), shape))
        return cls(np.full(shape, value, dtype))


_unallocated: ContextVar[bool] = ContextVar("unallocated", default=False)
is_unallocated = _unallocated.get


@contextmanager
def unallocated() -> Iterator[None]:
    """Make models inside the block without memory: their names and shapes, to be given arrays."""
    token = _unallocated.set(True)
    try:
        yield
    finally:
        _unallocated.reset(token)


def check_ids(name: str, ids: ndarray, n: int, of: str, ignored: int | None = None) -> None:
    """Raise UserError unless an array holds integers in [0, n); `of` says what n counts."""
    if fault := misfit(ids, n, of, ignored):
        raise UserError(f"{name} {fault}")


_evaluating: ContextVar[bool] = ContextVar("evaluating", default=False)


@contextmanager
def evaluating() -> Iterator[None]:
    """Switch dropout off inside the block, in this thread only; no model is changed.

    Examples
    --------
    >>> from npgpt.models.layers import Dropout
    >>> from npgpt.module import evaluating
    >>> layer = Dropout(0.5)
    >>> with evaluating():
    ...     layer.training
    False
    >>> layer.training
    True
    """
    token = _evaluating.set(True)
    try:
        yield
    finally:
        _evaluating.reset(token)


class Traced:
    """A stand-in for hidden states, with which a model is traced: run without numbers.

    A module that is called with a traced value runs its method `trace` in the place of `forward`. A
    module whose forward only calls modules and adds says ``trace = forward``. A layer calls one of
    the methods below, which returns the stand-in for its result. For ``x + mlp(ln_2(x))``, the
    calls are `layer_norm`, `linear`, `activation`, `linear` and `__add__`, in this order.

    A subclass defines the use of these calls: that of `npgpt.generation.decode` writes the
    instructions of a compiled decoding step, that of `npgpt.diagnostics.info` adds up the costs.
    """

    __array_ufunc__ = None  # NumPy's functions refuse a traced value

    def linear(self, weight: ndarray, bias: Parameter | None = None) -> Any:
        """Trace ``x @ weight + bias``, with ``weight (in, out)``."""
        raise TypeError(f"{type(self).__name__} cannot trace a linear layer")

    def packed_linear(self, weight: Any, bias: Parameter | None = None) -> Any:
        """Trace a linear layer whose weight is a `npgpt.weights.packed.PackedMatrix`."""
        raise TypeError(f"{type(self).__name__} cannot trace a packed weight")

    def layer_norm(self, weight: Parameter, bias: Parameter | None, eps: float) -> Any:
        """Trace layer norm."""
        raise TypeError(f"{type(self).__name__} cannot trace layer norm")

    def rms_norm(self, weight: Parameter, eps: float) -> Any:
        """Trace RMS norm."""
        raise TypeError(f"{type(self).__name__} cannot trace RMS norm")

    def activation(self, function: Any) -> Any:
        """Trace a function of each element, which follows a linear layer."""
        raise TypeError(f"{type(self).__name__} cannot trace {function}")

    def rotate(self, head_size: int) -> Any:
        """Trace the rotation of heads by the angles of their positions."""
        raise TypeError(f"{type(self).__name__} cannot trace rotary positions")

    def split(self, n: int) -> Any:
        """Trace the division of the last axis into n equal parts."""
        raise TypeError(f"{type(self).__name__} cannot trace a split")

    def attend(
        self, key: Any, value: Any, layer: int, n_head: int, scale: float, window_size: int | None
    ) -> Any:
        """Trace causal attention of queries, (..., H D), to keys and values, (..., K D)."""
        raise TypeError(f"{type(self).__name__} cannot trace attention")

    def attend_all(self, key: Any, value: Any, n_head: int, cached: bool = False) -> Any:
        """Trace attention to all keys of a sequence, which may be `cached` for later queries."""
        raise TypeError(f"{type(self).__name__} cannot trace attention in both directions")

    def __mul__(self, other: Any) -> Any:
        """Trace a product, element by element."""
        raise TypeError(f"{type(self).__name__} cannot trace a product")

    def __add__(self, other: Any) -> Any:
        """Trace a residual connection."""
        raise TypeError(f"{type(self).__name__} cannot trace a sum")

    def __array__(self, *args: Any, **kwargs: Any) -> ndarray:
        raise TypeError("a traced value has no numbers")


class Module:
    """A part of a model: its attributes may be parameters, modules and lists of modules."""

    part: str | None = None  # the row of `npgpt info` that counts the parameters of this module
    _training = True

    @property
    def training(self) -> bool:
        """Whether dropout is on: what `train` or `eval` said last, and never in `evaluating`."""
        return self._training and not _evaluating.get()

    @training.setter
    def training(self, mode: bool) -> None:
        self._training = bool(mode)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`; with a `Traced` value in the place of numbers, run `trace`."""
        if args and isinstance(args[0], Traced):
            return self._tracer()(*args, **kwargs)
        recording = autograd.stepper.current_recording()
        if recording is None:
            return self.forward(*args, **kwargs)
        with recording.module(self):
            return self.forward(*args, **kwargs)

    def _repr_html_(self) -> str:
        """Show the parts and their parameters in a notebook; layers that are alike in one row."""
        rows: Counter[tuple] = Counter()  # in order; and how many are alike
        names: dict[int, str] = {}
        for path, module in self.named_modules():
            if path:
                size = f"{sum(parameter.size for parameter in module.parameters()):,}"
                rows[_folded(path), type(module).__name__, "", size] += 1
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    whole = f"{path}.{name}" if path else name
                    first = names.setdefault(id(value), whole)
                    size = f"{value.size:,}" if first == whole else f"those of {first}"
                    rows[_folded(whole), value.dtype, value.shape, size] += 1
        return autograd.stepper.table(
            f"{type(self).__name__} of {sum(p.size for p in self.parameters()):,} parameters",
            ["name", "type", "shape", "parameters"],
            [(*row, size if n == 1 else f"{n} × {size}") for (*row, size), n in rows.items()],
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's output."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def _tracer(self) -> Any:
        """Return `trace`, if it belongs to the `forward` of this module.

        A subclass that changes `forward` alone inherits a `trace` of something else.
        """
        for kind in type(self).__mro__:
            if "trace" in vars(kind) and "forward" not in vars(self):
                return self.trace  # type: ignore[attr-defined]
            if "forward" in vars(kind):
                break
        raise TypeError(
            f"{type(self).__name__} cannot be traced: its forward has no trace beside it. Where "
            "forward only calls modules and adds, write trace = forward below it"
        )

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all below it, with dotted names."""
        yield prefix, self
        for name, value in vars(self).items():
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(value, Module):
                yield from value.named_modules(path)
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    yield from item.named_modules(f"{path}.{i}")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter once, with its dotted name; a shared one under its first."""
        seen = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> list[Parameter]:
        """Return each parameter once."""
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self) -> dict[str, ndarray]:
        """Return the parameters' arrays by name (the arrays themselves, not copies)."""
        return {name: parameter.numpy() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: dict[str, ndarray], but: Collection[str] = ()) -> None:
        """Copy arrays into the parameters; nothing changes unless names and shapes all fit.

        Parameters named in `but` stay as they are.
        """
        kept = {name: p.shape for name, p in self.named_parameters() if name in but}
        self.check_shapes(kept | {name: array.shape for name, array in state.items()})
        with autograd.no_grad():
            for name, parameter in self.named_parameters():
                if name not in kept:
                    parameter[...] = state[name]

    def check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise ValueError unless these are the names and shapes of the parameters."""
        parameters = dict(self.named_parameters())
        problems = [f"{name} is missing" for name in parameters if name not in shapes]
        problems += [
            f"{name} is not part of the model" for name in shapes if name not in parameters
        ]
        problems += [
            f"{name} has shape {list(shapes[name])}, expected {list(parameter.shape)}"
            for name, parameter in parameters.items()
            if name in shapes and tuple(shapes[name]) != parameter.shape
        ]
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            raise ValueError("; ".join(problems[:3]) + more)

    def adopt_state_dict(self, state: dict[str, ndarray], but: Collection[str] = ()) -> None:
        """Make new parameters of arrays, without copying them; tied ones stay tied.

        Parameters named in `but` stay as they are.
        """
        kept = {name: p.shape for name, p in self.named_parameters() if name in but}
        self.check_shapes(kept | {name: array.shape for name, array in state.items()})
        new = {
            id(old): Parameter(state[name])
            for name, old in self.named_parameters()
            if name not in kept
        }
        for _, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) in new:
                    setattr(module, name, new[id(value)])

    def train(self, mode: bool = True) -> Module:
        """Switch dropout on, here and below."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Switch dropout off, here and below."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None


def _folded(path: str) -> str:
    """Return a dotted name with a star for the number of a layer."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)

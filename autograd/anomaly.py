"""Finding out what went wrong: which op made a NaN, and which uses of a tensor make a gradient.

:func:`detect_anomaly` and :func:`debug` watch the forward and the backward pass, and raise at the
first op whose result is not finite. :func:`explain` lists the contributions to a gradient.
"""

from __future__ import annotations

import builtins
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.blocks import Block
from autograd.changes import Copy, Fingerprint
from autograd.engine import Node, TensorBase, differentiate
from autograd.modes import observing, record_with
from autograd.op import Op
from autograd.tensor import Tensor

PACKAGE = str(Path(__file__).parent)


class AnomalyError(FloatingPointError):
    """An op made a NaN or an Inf."""


def detect_anomaly(function: Callable | None = None) -> Any:
    """Raise an error at the first op, forward or backward, that makes a NaN or an Inf.

    Use it as a block, ``with detect_anomaly():``, or as a decorator, ``@detect_anomaly()``. Inside
    the block every result on the tape and every gradient is examined, which takes a few
    microseconds for each op. An op whose inputs already contain a NaN or an Inf raises no error:
    the error names the op that made the first one.

    Raises
    ------
    AnomalyError
        The message names the op, the shapes and ranges of its inputs, and the line of the program
        that called the op.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> x = autograd.tensor([0.0, 1.0], requires_grad=True)
    >>> try:
    ...     with np.errstate(all="ignore"), autograd.detect_anomaly():
    ...         np.where(x > 0, np.sqrt(x), 0.0).sum().backward()
    ... except autograd.AnomalyError as error:
    ...     print(str(error).splitlines()[0])
    backward of sqrt: the gradient of 'x' has 1 NaN of 2
    """
    block = Block(_Watch, _watching)
    return block if function is None else block(function)


def debug(function: Callable | None = None) -> Any:
    """Do what `detect_anomaly` does, and notice every in-place write to a value on the tape.

    Use it as a block, ``with debug():``, or as a decorator, ``@debug()``. Inside the block the tape
    copies every array that a rule will read. The backward pass compares each array with its copy,
    and raises RuntimeError if the array was written to. Without `debug`, some in-place writes are
    not noticed; `docs/how_backward_works.md` lists these. The block takes twice the memory, and
    more time.

    Examples
    --------
    >>> import autograd
    >>> x = autograd.tensor(3.0, requires_grad=True)
    >>> with autograd.debug():
    ...     (x * x).backward()
    >>> x.grad.item()
    6.0
    """
    block = Block(partial(_Watch, copies=True), _watching)
    return block if function is None else block(function)


@contextmanager
def _watching(watch: _Watch) -> Iterator[None]:
    with record_with(watch), observing(watch):
        yield


class _Watch:
    """A recorder of the forward pass and an observer of the backward pass."""

    def __init__(self, copies: bool = False) -> None:
        self.copies = copies
        self.witness = Copy if copies else Fingerprint  # for `autograd.functional.checkpoint`
        self.given: list[ndarray] = []

    def recorded(self, op: Op, args: tuple, result: Any) -> None:
        """Raise if a result is not finite, and note the line that made the result."""
        line = users_line()
        outputs = result if isinstance(result, tuple) else (result,)
        inputs = [
            (name, x._array if isinstance(x, TensorBase) else x) for name, x in op.named(args)
        ]
        inputs = [(name, x) for name, x in inputs if _is_floating(x)]
        found = _anomaly([y._array for y in outputs], [x for _, x in inputs])
        if found:
            raise AnomalyError(
                f"{op.name}: the result has {found}\n"
                + "".join(f"  {name:<12} {summary(x)}\n" for name, x in inputs)
                + f"  made at {line}"
            )
        nodes = {y._node.selects[0] if y._node.selects else y._node for y in outputs}
        for node in nodes:
            node.mark(made_at=line)
            if self.copies:
                kept = (
                    (name, value, Copy.of(value))
                    for rule, residuals, _ in node.steps
                    for name, value in zip(rule.residuals, residuals, strict=True)
                    if isinstance(value, ndarray)
                )
                node.mark(watched=(*node.watched, *kept))

    def visit(self, node: Node, cotangent: Any) -> None:
        """Keep the cotangent: `edge` asks whether a NaN was in it already."""
        self.given = _arrays(cotangent)

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """Raise if a contribution is not finite and the cotangent was."""
        g, given = _arrays(contribution), self.given
        found = _anomaly(g, given)
        if found:
            trap = ""
            if zero_times_infinity(g[0], given):
                trap = (
                    "\n  There the cotangent is 0 and the derivative infinite, and 0 times "
                    "infinity is NaN.\n  np.where around the op does not help, since the op "
                    "runs on these elements all the same.\n  Replace them before the op: "
                    "np.sqrt(np.where(x > 0, x, 1))."
                )
            raise AnomalyError(
                f"backward of {node.op.name}: the gradient of {name!r} has {found}\n"  # type: ignore[union-attr]
                + "".join(f"  {'cotangent':<12} {summary(x)}\n" for x in given)
                + "".join(f"  {key:<12} {summary(x)}\n" for key, x in _residuals(node).items())
                + f"  made at {node.made_at or 'an unknown line: it was not recorded here'}"
                + trap
            )


def _arrays(value: Any) -> list[ndarray]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return [np.asarray(x._array if isinstance(x, TensorBase) else x) for x in parts]


def _is_floating(x: Any) -> bool:
    return isinstance(x, ndarray | np.floating | float) and np.asarray(x).dtype.kind == "f"


def _anomaly(results: list[ndarray], inputs: list[ndarray]) -> str:
    """Return how many NaN or Inf are in the results; an empty text if the inputs had them too."""
    if all(np.isfinite(y).all() for y in results):
        return ""
    nan = sum(int(np.isnan(y).sum()) for y in results)
    inf = sum(int(np.isinf(y).sum()) for y in results)
    if nan and not any(np.isnan(x).any() for x in inputs):
        return f"{nan} NaN of {sum(y.size for y in results)}"
    if inf and not any((~np.isfinite(x)).any() for x in inputs):
        return f"{inf} Inf of {sum(y.size for y in results)}"
    return ""


def zero_times_infinity(contribution: ndarray, cotangents: list[ndarray]) -> bool:
    """Return whether a contribution is not finite at an element whose cotangent is 0."""
    return (
        len(cotangents) == 1
        and cotangents[0].shape == contribution.shape
        and bool(np.any(~np.isfinite(contribution) & (cotangents[0] == 0)))
    )


def _residuals(node: Node) -> dict[str, ndarray]:
    """Return the floating-point values that the rules of a node read, by name."""
    return {
        name: value
        for rule, residuals, _ in node.steps or ()
        for name, value in zip(rule.residuals, residuals, strict=True)
        if _is_floating(value)
    }


def summary(x: Any) -> str:
    """Return an array's dtype, shape and range, as in ``float64[3] from -1 to 2, 1 NaN``."""
    x = np.asarray(x)
    text = f"{x.dtype}{list(x.shape)}"
    finite = x[np.isfinite(x)]
    if finite.size:
        text += f" from {finite.min():.4g} to {finite.max():.4g}"
    for name, is_one in (("NaN", np.isnan(x)), ("Inf", np.isinf(x))):
        if is_one.any():
            text += f", {int(is_one.sum())} {name}"
    return text


def users_frame(file: str = "") -> FrameType:
    """Return the innermost frame of the user's program: the innermost one outside this package.

    If `file` is given and code of this file is running, return the innermost frame of that code.
    """
    first = frame = sys._getframe(1)
    while file and first is not None and first.f_code.co_filename != file:
        first = first.f_back  # type: ignore[assignment]
    if file and first is not None:
        return first
    while frame.f_back is not None and _is_of_library(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


@lru_cache(maxsize=10_000)
def _is_of_library(file: str) -> bool:
    return file.startswith(PACKAGE) or "contextlib" in file


def line_of(frame: FrameType) -> str:
    """Return the line where a frame stands, as ``file:number: text``, or as ``cell 3:1: text``."""
    path, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(path, number).strip()
    return f"{_cell_of(path) or path}:{number}: {text}".removesuffix(": ")


def _cell_of(path: str) -> str:
    """Return ``cell 3`` if a file is the third cell that a notebook ran, and else nothing."""
    shell = getattr(builtins, "get_ipython", lambda: None)()
    name = getattr(getattr(shell, "compile", None), "format_code_name", None)
    kind, label = (name and name(path)) or ("", "")
    return f"cell {label.removeprefix('In[').removesuffix(']')}" if kind == "Cell" else ""


def users_line() -> str:
    """Return the innermost line of the user's program, as ``file:number: text``."""
    return line_of(users_frame())


# ---- the contributions to a gradient


@dataclass(frozen=True)
class Contribution:
    """What one use of a tensor adds to its gradient."""

    op: str  # the name of the op that read the tensor
    input: str  # the name of the op's input
    shape: tuple[int, ...]  # the shape of the op's result
    number: int  # the number of the op's node
    gradient: ndarray  # the array that is added
    scope: str = ""  # the module in which the op ran, inside `autograd.record`

    @property
    def source(self) -> str:
        """The module, the op and the input, as in ``h.0.attn: affine(weight)``."""
        return f"{self.scope}: {self.op}({self.input})".removeprefix(": ")

    @property
    def norm(self) -> float:
        """The Euclidean norm of the added array."""
        return float(np.linalg.norm(self.gradient))


@dataclass(frozen=True)
class Explanation:
    """A gradient and its contributions, the largest first; it prints as a table."""

    gradient: ndarray
    contributions: tuple[Contribution, ...]

    @classmethod
    def of(cls, gradient: ndarray, parts: list[Contribution]) -> Explanation:
        """Return an explanation whose contributions are grouped by source, the largest first."""
        sizes: dict[str, float] = {}
        for part in parts:
            sizes[part.source] = max(sizes.get(part.source, 0.0), part.norm)
        order = sorted(parts, key=lambda part: (-sizes[part.source], part.source, -part.norm))
        return cls(gradient, tuple(order))

    def __str__(self) -> str:
        total = float(np.linalg.norm(self.gradient))
        n = len(self.contributions)
        lines = [
            f"gradient {self.gradient.dtype}{list(self.gradient.shape)}, norm {total:.4g}, "
            f"from {n} use{'s' * (n != 1)}"
        ]
        groups: dict[str, list[Contribution]] = {}
        for part in self.contributions:
            groups.setdefault(part.source, []).append(part)
        width = max(map(len, groups), default=0)
        for name, parts in groups.items():
            whole = np.sum([part.gradient for part in parts], axis=0)
            lines.append(f"  {name:<{width}}  norm {float(np.linalg.norm(whole)):<10.4g}"
                         f"{self._along(whole):+8.1%} of the gradient")  # fmt: skip
            if len(parts) > 1:
                lines += [
                    f"    {'node ' + str(part.number):<{width - 2}}  norm {part.norm:<10.4g}"
                    f"{self._along(part.gradient):+8.1%}   to {list(part.shape)}"
                    for part in parts
                ]
        return "\n".join(lines)

    __repr__ = __str__

    def _along(self, part: ndarray) -> float:
        """Return the share of a part in the direction of the gradient: all shares add up to 1."""
        square = float(np.vdot(self.gradient, self.gradient))
        return float(np.vdot(part, self.gradient)) / square if square else 0.0


def explain(loss: Tensor, tensor: Tensor) -> Explanation:
    """Run a backward pass, and list the contributions to the gradient of one tensor.

    Each use of the tensor contributes an array, and the gradient is the sum of these arrays. The
    table groups them by the op that used the tensor. A percentage is the share of a contribution in
    the direction of the gradient; the shares add up to 100.

    Parameters
    ----------
    loss : Tensor
        A number.
    tensor : Tensor
        A tensor that the loss was computed from.

    Returns
    -------
    Explanation
        It prints as a table. The pass changes no ``.grad``, and keeps the tape.

    Raises
    ------
    TypeError
        If an argument is not a tensor that requires a gradient.
    ValueError
        If the loss is not a number.
    RuntimeError
        If an earlier pass released the tape.

    Examples
    --------
    >>> import autograd
    >>> x = autograd.tensor([3.0, 4.0], requires_grad=True)
    >>> loss = (x * x).sum() + 2 * x.sum()
    >>> print(autograd.explain(loss, x))
    gradient float64[2], norm 12.81, from 3 uses
      multiply(x)  norm 5           +39.0% of the gradient
      multiply(y)  norm 5           +39.0% of the gradient
      sum(x)       norm 2.828       +22.0% of the gradient
    """
    for what, x in (("loss", loss), ("tensor", tensor)):
        if not isinstance(x, TensorBase) or x._node is None:
            raise TypeError(f"explain: {what} must be a tensor that requires a gradient")
    if loss.size != 1:
        raise ValueError(f"explain: the loss must be a number, and has shape {loss.shape}")
    edges = _Edges(tensor._node)
    outputs: list[Any] = [loss._node]
    inputs: list[Any] = [tensor._node]
    with observing(None), observing(edges):  # an observer of the program must not see this pass
        start = np.ones(loss.shape, loss.dtype)
        (gradient,) = differentiate(outputs, [start], inputs, retain_graph=True)
    if gradient is None:
        gradient = np.zeros(tensor.shape, tensor.dtype)
    return Explanation.of(np.asarray(gradient), edges.parts)


class _Edges:
    """An observer that collects the contributions to the cotangent of one node."""

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.parts: list[Contribution] = []

    def visit(self, node: Node, cotangent: Any) -> None:
        """Do nothing."""

    def edge(self, node: Node, name: str, parent: Node, part: Any) -> None:
        """Keep a contribution to the node."""
        if parent is self.node and node.op is not None:
            recording = node.recording  # None outside `autograd.record`
            scope = recording.calls[node.number].scope if recording else ""
            self.parts.append(
                Contribution(node.op.name, name, node.shape, node.number, np.array(part), scope)
            )

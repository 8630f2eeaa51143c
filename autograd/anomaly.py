"""Finding out what went wrong: where a NaN was made, and what a gradient is the sum of."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
    """Stop at the first op, forward or backward, that makes a NaN or an Inf.

    A block, ``with detect_anomaly():``, or a decorator of a function, ``@detect_anomaly()``.
    Inside the block every result on the tape and every gradient is looked at, which costs a few
    microseconds an op. An op that was given a NaN or an Inf is not blamed for passing it on.

    Raises
    ------
    AnomalyError
        Naming the op, the shapes, what its inputs were like, and the user's line.

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
    """Look at everything: `detect_anomaly`, and a copy of all that the tape keeps.

    A block, ``with debug():``, or a decorator of a function, ``@debug()``.

    Every change in place to what a rule will read is an error then, by whatever way it was made;
    `docs/how_backward_works.md` lists those that are not noticed otherwise. Slow, and takes twice
    the memory.
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
        """Look at a result, and note where it was made."""
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
        """Keep the cotangent, to tell what was given from what was made."""
        self.given = _arrays(cotangent)

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """Look at a gradient."""
        g, given = _arrays(contribution), self.given
        found = _anomaly(g, given)
        if found:
            trap = ""
            if len(given) == 1 and given[0].shape == g[0].shape and np.any(
                ~np.isfinite(g[0]) & (given[0] == 0)
            ):  # fmt: skip
                trap = (
                    "\n  Where it is NaN the cotangent is 0, and 0 times an infinite derivative is "
                    "NaN: choosing another\n  branch with np.where comes too late. Choose the "
                    "input, too: np.sqrt(np.where(x > 0, x, 1))."
                )
            raise AnomalyError(
                f"backward of {node.op.name}: the gradient of {name!r} has {found}\n"  # type: ignore[union-attr]
                + "".join(f"  {'cotangent':<12} {summary(x)}\n" for x in given)
                + "".join(f"  {key:<12} {summary(x)}\n" for key, x in _kept(node).items())
                + f"  made at {node.made_at or 'an unknown line: it was not recorded here'}"
                + trap
            )


def _arrays(value: Any) -> list[ndarray]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return [np.asarray(x._array if isinstance(x, TensorBase) else x) for x in parts]


def _is_floating(x: Any) -> bool:
    return isinstance(x, ndarray | np.floating | float) and np.asarray(x).dtype.kind == "f"


def _anomaly(results: list[ndarray], inputs: list[ndarray]) -> str:
    """Say how many NaN or Inf stand in results, if the inputs have none of the kind."""
    if all(np.isfinite(y).all() for y in results):
        return ""
    nan = sum(int(np.isnan(y).sum()) for y in results)
    inf = sum(int(np.isinf(y).sum()) for y in results)
    if nan and not any(np.isnan(x).any() for x in inputs):
        return f"{nan} NaN of {sum(y.size for y in results)}"
    if inf and not any((~np.isfinite(x)).any() for x in inputs):
        return f"{inf} Inf of {sum(y.size for y in results)}"
    return ""


def _kept(node: Node) -> dict[str, ndarray]:
    return {
        name: value
        for rule, residuals, _ in node.steps or ()
        for name, value in zip(rule.residuals, residuals, strict=True)
        if _is_floating(value)
    }


def summary(x: Any) -> str:
    """Return an array's dtype, shape and range in a few words."""
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
    """Return the innermost frame outside this package, or the innermost of a file, if there is."""
    first = frame = sys._getframe(1)
    while file and first is not None and first.f_code.co_filename != file:
        first = first.f_back  # type: ignore[assignment]
    if file and first is not None:
        return first
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(PACKAGE) or "contextlib" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return frame


def line_of(frame: FrameType) -> str:
    """Return the file, number and text of the line that a frame is at."""
    path, number = frame.f_code.co_filename, frame.f_lineno
    return f"{path}:{number}: {linecache.getline(path, number).strip()}".removesuffix(": ")


def users_line() -> str:
    """Return the file, number and text of the innermost line outside this package."""
    return line_of(users_frame())


# ---- what a gradient is the sum of


@dataclass(frozen=True)
class Contribution:
    """What one use of a tensor adds to its gradient."""

    op: str  # which read it
    input: str  # as which input
    shape: tuple[int, ...]  # of that op's result
    number: int  # of that op's node
    gradient: ndarray  # the part
    scope: str = ""  # the module in which it was read, if somebody recorded that

    @property
    def source(self) -> str:
        """The use: the module, the op and its input."""
        return f"{self.scope}: {self.op}({self.input})".removeprefix(": ")

    @property
    def norm(self) -> float:
        """Length of the part, as a vector."""
        return float(np.linalg.norm(self.gradient))


@dataclass(frozen=True)
class Explanation:
    """The contributions that meet in a gradient, largest first."""

    gradient: ndarray
    contributions: tuple[Contribution, ...]

    @classmethod
    def of(cls, gradient: ndarray, parts: list[Contribution]) -> Explanation:
        """Put the contributions in order: of each kind of use the largest first."""
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
        """Return how much of the gradient a part is, along the gradient: these add up to 1."""
        square = float(np.vdot(self.gradient, self.gradient))
        return float(np.vdot(part, self.gradient)) / square if square else 0.0


def explain(loss: Tensor, tensor: Tensor) -> Explanation:
    """Run a backward pass, and list what meets in the gradient of one tensor.

    Every use of the tensor adds a part. The parts are grouped by the op that made the use, largest
    first; the percentages are the shares along the gradient, which add up to 100.

    Parameters
    ----------
    loss : Tensor
        A number.
    tensor : Tensor
        Anything that the loss was computed from.

    Returns
    -------
    Explanation
        Which prints as a table. No ``.grad`` changes, and the tape stays.

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
    with observing(None), observing(edges):  # no other observer: it is no pass of the program
        start = np.ones(loss.shape, loss.dtype)
        (gradient,) = differentiate(outputs, [start], inputs, retain_graph=True)
    if gradient is None:
        gradient = np.zeros(tensor.shape, tensor.dtype)
    return Explanation.of(np.asarray(gradient), edges.parts)


class _Edges:
    """An observer that collects what arrives at one node."""

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.parts: list[Contribution] = []

    def visit(self, node: Node, cotangent: Any) -> None:
        """Do nothing."""

    def edge(self, node: Node, name: str, parent: Node, part: Any) -> None:
        """Keep a part."""
        if parent is self.node and node.op is not None:
            recording = node.recording  # of `autograd.record`
            scope = recording.calls[node.number].scope if recording else ""
            self.parts.append(
                Contribution(node.op.name, name, node.shape, node.number, np.array(part), scope)
            )

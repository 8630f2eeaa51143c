"""The ledger: the time, bytes and floating-point operations of every op, forward and backward.

The ledger watches the real computation, as a recorder of the forward pass and an observer of the
backward pass. It has one clock, which always runs for one row of the table. At each event (an op
begins, a rule has returned, ...) the time since the last event is added to the current row, and the
clock runs for another row. So the times of all rows add up to the whole time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.engine import Differentiable, Node, TensorBase
from autograd.machine import Roof
from autograd.modes import observing, record_with
from autograd.op import Op

FORWARD, BACKWARD, REST = "forward", "backward", "rest"
OVERHEAD = "overhead"  # the tape, and all Python outside of ops
SUMS = "sums of gradients"  # adding the contributions of several uses, and copies for the leaves


@dataclass
class Row:
    """The cost of one op, forward or backward, or of another part of the computation.

    Attributes
    ----------
    name, kind : str
        For an op its name, and "forward" or "backward"; for another part its name, and "rest".
    calls, seconds : float
    flops : float
        The floating-point operations that the mathematics needs; see `docs/profiling.md`.
    bytes : float
        The bytes of the arrays that are read and written, each array once. A view moves no bytes.
    """

    name: str
    kind: str
    calls: float = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0


class Ledger:
    """Counts calls, time, bytes and floating-point operations for each op.

    A ledger is a context manager. It counts every op that goes on the tape inside the block, and
    every backward pass, in its own thread. Time outside of ops is "overhead", unless `part` gives
    it a name. The time that the ledger itself needs is left out.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> w = autograd.tensor(np.ones((3, 4)), requires_grad=True)
    >>> with autograd.Ledger() as ledger:
    ...     np.tanh(np.ones((2, 3)) @ w).sum().backward()
    >>> for row in ledger.rows:
    ...     print(row.kind, row.name, row.calls, row.flops)
    rest overhead 1 0.0
    forward matmul 1 48.0
    forward tanh 1 8.0
    forward sum 1 8.0
    backward sum 1 8.0
    rest sums of gradients 1 0.0
    backward tanh 1 24.0
    backward matmul 1 48.0
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._base = self._row = self.row(OVERHEAD, REST)
        self._base.calls = 1
        self._outer: list[Row] = []  # what ran before each backward pass that runs
        self._reached: set[int] = set()  # nodes that have received a contribution
        self._given: list[ndarray] = []  # the cotangent of the node whose rules run
        self._unread = 0  # bytes that the rules of this node read, not yet added to a row

    @property
    def rows(self) -> list[Row]:
        """The rows in order of appearance; their seconds add up to the time of the block."""
        return list(self._rows.values())

    def row(self, name: str, kind: str) -> Row:
        """Return the row of this name and kind; make it if there is none."""
        return self._rows.setdefault((name, kind), Row(name, kind))

    @contextmanager
    def part(self, name: str) -> Iterator[Row]:
        """Give the time inside the block that belongs to no op a row of its own, of kind "rest".

        The caller may add flops and bytes to the row.
        """
        outer, self._base = self._base, self.row(name, REST)
        self._base.calls += 1
        self._turn(self._base)
        try:
            yield self._base
        finally:
            self._base = outer
            self._turn(outer)

    def __str__(self) -> str:
        return table(self.rows)

    def __enter__(self) -> Ledger:
        self._watching = ExitStack()
        self._watching.enter_context(record_with(self))
        self._watching.enter_context(observing(self))
        self._since = perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._turn(self._base)
        self._watching.close()

    def _turn(self, row: Row) -> None:
        """Add the time since the last event to the current row, and make `row` the current one."""
        self._row.seconds += perf_counter() - self._since
        self._row = row
        self._since = perf_counter()

    # ---- the forward pass: a Recorder

    def around(self, op: Op) -> Callable:
        """Return a function that runs the op's forward function and takes the time."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self._row.kind != REST:  # this op runs inside another op, and is part of it
                return op.forward(*args, **kwargs)
            row = self.row(op.name, FORWARD)
            self._turn(row)
            try:
                out = op.forward(*args, **kwargs)
            finally:
                self._turn(self._base)
            row.calls += 1
            named = dict(op.named((args, *kwargs.values()) if op.variadic else args))
            row.flops += forward_flops(op, named, out)
            row.bytes += forward_bytes(op, named, out)
            self._since = perf_counter()
            return out

        return run

    def recorded(self, op: Op, args: tuple, result: Any) -> None:
        """Do nothing: `around` has counted the call."""

    # ---- the backward pass: an Observer

    def begin(self, *_: Any) -> None:
        """Note what ran before a backward pass: a rule, if this pass is inside another."""
        self._outer.append(self._row)

    def end(self, _: BaseException | None) -> None:
        """Go on with what ran before."""
        self._turn(self._outer.pop())

    def visit(self, node: Node, cotangent: Any) -> None:
        """Start the clock for the rules of a node."""
        self._turn(self.row(node.op.name, BACKWARD))  # type: ignore[union-attr]
        self._row.calls += 1
        self._reached.discard(node.number)
        self._given = arrays_in(cotangent)
        kept = kept_by(node)
        self._row.flops += joint_flops(node, kept, self._given)
        self._unread = size_of(self._given) + size_of(arrays_in(list(kept.values())))
        self._since = perf_counter()

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """Count a contribution that a rule returned. The time after it is that of adding it."""
        row, sums = self.row(node.op.name, BACKWARD), self.row(SUMS, REST)  # type: ignore[union-attr]
        self._turn(sums)
        (gradient,) = arrays_in(contribution)
        if not is_view(gradient, self._given):
            row.flops += rule_flops(node, name, gradient, self._given)
            row.bytes += gradient.nbytes + self._unread
            self._unread = 0
        if parent.number in self._reached:
            sums.calls += 1
            sums.flops += gradient.size
            sums.bytes += 3 * gradient.nbytes
        elif parent.op is None:
            sums.calls += 1
            sums.bytes += 2 * gradient.nbytes
        self._reached.add(parent.number)
        self._since = perf_counter()


# ---- bytes


def kept_by(node: Node) -> dict[str, Any]:
    """Return the values that the rules of a node read, by name."""
    return {
        name: value
        for rule, residuals, _ in node.steps or ()
        for name, value in zip(rule.residuals, residuals, strict=True)
    }


def arrays_in(value: Any) -> list[ndarray]:
    """Return the arrays in a value or in nested tuples and lists of values, each array once."""
    found: dict[int, ndarray] = {}

    def collect(value: Any) -> None:
        if isinstance(value, TensorBase):
            value = value._array
        elif isinstance(value, np.generic):  # NumPy returns scalars instead of arrays without axes
            value = np.asarray(value)
        if isinstance(value, ndarray):
            found[id(value)] = value
        elif isinstance(value, tuple | list):
            for item in value:
                collect(item)

    collect(value)
    return list(found.values())


def size_of(arrays: Iterable[ndarray]) -> int:
    """Return how many bytes arrays have together."""
    return sum(x.nbytes for x in arrays)


def is_view(x: ndarray, arrays: Iterable[ndarray]) -> bool:
    """Return whether an array shares memory with one of the others."""
    return any(np.may_share_memory(x, other) for other in arrays)


def forward_bytes(op: Op, named: dict[str, Any], out: Any) -> int:
    """Return the bytes that a call reads and writes.

    An op that looks up elements, such as an embedding, reads only the elements that it finds.
    """
    inputs, outputs = arrays_in(list(named.values())), arrays_in(out)
    if any(is_view(x, inputs) for x in outputs):
        return 0
    if moves(op):
        return 2 * size_of(outputs) + size_of(x for x in inputs if x.dtype.kind in "iu")
    return size_of(inputs) + size_of(outputs)


# ---- floating-point operations
#
# These are the operations of the mathematics. If a kernel computes something a second time to save
# memory, the second time does not count. For an op with matrix products only the products count,
# with 2 operations for a multiplication and its addition.

# Operations for one element, forward and backward, counted in the NumPy function and its rule. An
# exponential, a division and a root count as 1. An op that is not listed has 1 forward, and 1 for
# each gradient.
PER_ELEMENT = {
    "sigmoid": (4, 3), "tanh": (1, 3), "gelu": (8, 9), "silu": (5, 7), "softplus": (4, 5),
    "softmax": (5, 4), "log_softmax": (5, 3), "logsumexp": (4, 4), "cross_entropy": (4, 4),
    "layer_norm": (7, 13), "rms_norm": (4, 9), "var": (4, 3), "std": (4, 3),
}  # fmt: skip
NOT_COUNTED = {"inv", "solve", "det", "slogdet", "cholesky"}


def moves(op: Differentiable) -> bool:
    """Return whether an op only reorders, selects or copies elements."""
    module = op.__module__.rpartition(".")[2]
    return module in ("shape", "index") or op.name in ("alias", "astype", "embedding", "flip")


def forward_flops(op: Op, named: dict[str, Any], out: Any) -> float:
    """Return the operations of a call. `named` are its arguments by name, `out` its result."""
    arrays = arrays_in([out, *named.values()])
    if op.name == "matmul":
        return 2.0 * np.size(out) * np.shape(named["x"])[-1]
    if op.name == "affine":
        return 2.0 * np.size(out) * np.shape(named["weight"])[0]
    if op.name == "attention":
        return attention_flops(**named)
    if op.name == "einsum":
        subscripts = named["subscripts"]
        return einsum_flops(subscripts, [x for name, x in named.items() if name != "subscripts"])
    if moves(op) or op.name in NOT_COUNTED:
        return 0.0
    return float(PER_ELEMENT.get(op.name, (1, 1))[0] * max((x.size for x in arrays), default=1))


def joint_flops(node: Node, kept: dict[str, Any], given: list[ndarray]) -> float:
    """Return the operations of a node's rules, for ops whose rules are counted together."""
    name = node.op.name  # type: ignore[union-attr]
    if name == "attention":
        return 2 * attention_flops(**kept)
    if name in PER_ELEMENT:
        return float(
            PER_ELEMENT[name][1] * max(x.size for x in given + arrays_in([*kept.values()]))
        )
    return 0.0


def rule_flops(node: Node, name: str, gradient: ndarray, given: list[ndarray]) -> float:
    """Return the operations for the gradient of one input, if `joint_flops` leaves them out."""
    op, n = node.op, float(max(x.size for x in given))
    assert op is not None
    if op.name == "matmul":
        return 2 * n * gradient.shape[-2 if name == "y" and gradient.ndim > 1 else -1]
    if op.name == "affine":
        return 0.0 if name == "bias" else 2 * n * gradient.shape[-1 if name == "input" else 0]
    if op.name == "einsum":
        kept = kept_by(node)
        return einsum_flops(kept["subscripts"], kept["operands"])
    if op.name in PER_ELEMENT or op.name in NOT_COUNTED or op.name == "attention" or moves(op):
        return 0.0
    return max(n, gradient.size)


def einsum_flops(subscripts: str, operands: Sequence[ndarray]) -> float:
    """Return the operations of an einsum, or of the gradient by one operand, which are as many.

    Both are one loop over all labels: ``ij,jk->ik`` has i * j * k rounds.
    """
    sizes: dict[str, int] = {}
    for labels, x in zip(subscripts.split("->")[0].split(","), operands, strict=True):
        sizes.update(zip(labels, np.shape(x), strict=True))
    return float(len(operands) * math.prod(sizes.values()))


def attention_flops(
    query: ndarray,
    key: ndarray,
    value: ndarray,
    attn_mask: Any,
    is_causal: bool,
    window_size: int | None,
    **_: Any,
) -> float:
    """Return the operations of attention's two products, for the pairs that the mask allows."""
    *lead, n_queries, depth = query.shape
    n_keys = key.shape[-2]
    rows = np.arange(n_queries)[:, None]  # (T, 1)
    stop = np.minimum(rows + 1, n_keys) if is_causal else np.full_like(rows, n_keys)
    start = np.zeros_like(rows) if window_size is None else np.maximum(rows + 1 - window_size, 0)
    n_pairs = math.prod(lead) * float(np.maximum(stop - start, 0).sum())
    if isinstance(attn_mask, ndarray) and attn_mask.dtype == bool:
        keys = np.arange(n_keys)
        seen = (start <= keys) & (keys < stop) & attn_mask  # (..., T, S)
        n_pairs = math.prod(lead) * n_queries * n_keys * float(seen.mean())
    return 2.0 * n_pairs * (depth + value.shape[-1])


# ---- tables


def medians(ledgers: Sequence[Ledger]) -> list[Row]:
    """Return the rows of several runs of a computation as one list of rows, with the medians."""
    names = dict.fromkeys((row.name, row.kind) for ledger in ledgers for row in ledger.rows)
    found = [[ledger.row(*name) for ledger in ledgers] for name in names]
    return [
        Row(
            rows[0].name,
            rows[0].kind,
            *(
                float(np.median([getattr(row, field) for row in rows]))
                for field in ("calls", "seconds", "flops", "bytes")
            ),
        )
        for rows in found
    ]


def share_of_roof(rows: Iterable[Row], roof: Roof) -> float | None:
    """Return the least time that the machine needs, as a share of the rows' time.

    The result is None if the rows have neither operations nor bytes.
    """
    least = sum(roof.least_seconds(row.flops, row.bytes) for row in rows)
    return least / sum(row.seconds for row in rows) if least else None


def table(rows: Sequence[Row], roof: Roof | None = None) -> str:
    """Return rows as a table of less than 80 columns, grouped by kind, the slowest first.

    With a roof, the last column is the least time that the machine needs, as a share of the time.
    """
    total = sum(row.seconds for row in rows)
    heading = f"{'':<22}{'calls':>6}{'ms':>10}{'share':>7}{'MFLOP':>10}{'GFLOP/s':>9}{'GB/s':>7}"
    lines = [heading + (f"{'roof':>6}" if roof else "")]

    def add(name: str, rows: Sequence[Row]) -> None:
        calls, seconds, flops, size = (
            sum(getattr(row, field) for row in rows)
            for field in ("calls", "seconds", "flops", "bytes")
        )
        cells = [
            f"{name:<22.21}{calls:>6,.0f}{seconds * 1e3:>10.2f}{seconds / total:>7.1%}",
            f"{flops / 1e6:>10,.1f}{flops / seconds / 1e9:>9.1f}"
            if flops
            else f"{'-':>10}{'-':>9}",
            f"{size / seconds / 1e9:>7.1f}" if size else f"{'-':>7}",
        ]
        if roof:
            share = share_of_roof(rows, roof)
            cells.append(f"{share:>6.0%}" if share else f"{'-':>6}")
        lines.append("".join(cells))

    for kind in (FORWARD, BACKWARD, REST):
        of_kind = sorted((r for r in rows if r.kind == kind), key=lambda row: -row.seconds)
        if of_kind:
            lines.append(kind)
        for row in of_kind:
            add(f"  {row.name}", [row])
    add("all", rows)
    return "\n".join(lines)

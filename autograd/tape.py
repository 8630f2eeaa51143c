"""Calling an op, and what the tape keeps of the call.

:func:`call` runs the op's NumPy function on plain arrays. If an argument requires a gradient,
:func:`record` makes a node for the result. The node keeps, for each rule that will run, exactly the
values that the rule names: the *residuals*.

The residuals must still be right when the backward pass reads them. Results are read-only. Small
constants are copied. A large constant, and a leaf whose array code outside the engine may hold, is
*watched*: `autograd.changes` notices an in-place write to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from autograd import changes
from autograd.engine import Node, TensorBase, new_result, new_tensor
from autograd.modes import answered, current_recorder, forward_of, grad_mode
from autograd.precision import is_half

if TYPE_CHECKING:
    from autograd.op import Op

COPY_LIMIT = 65536  # bytes: smaller constants are copied, larger ones are watched
IMMUTABLE = {int, float, bool, str, type(None), np.float64, np.float32, slice}


def call(op: Op, args: tuple, kwargs: dict) -> Any:
    """Run an op, on the tape if an argument requires a gradient.

    Parameters
    ----------
    op : Op
    args, kwargs
        As the user gave them: Tensors, arrays, numbers, options.

    Returns
    -------
    Tensor, ndarray or tuple
        A Tensor if an argument is one, else what the NumPy function returns; several if the op
        returns several.
    """
    if kwargs or len(args) != op.n_plain:
        args = bind(op, args, kwargs)
        if op.variadic:
            return _call_variadic(op, args[0], args[1:])
    raw = list(args)  # the arguments with plain arrays in the place of Tensors
    parents: dict[int, Any] = {}  # by position: the nodes of the arguments that require gradients
    is_tensor = False
    for position, arg in enumerate(args):
        if isinstance(arg, TensorBase):
            is_tensor = True
            if arg._node is not None:
                parents[position] = arg._node
                _forget_sharing(arg)
            raw[position] = arg._array
        elif type(arg) in (list, tuple) and position in op.differentiable:
            return call(op, (*args[:position], np.asarray(arg), *args[position + 1 :]), {})
    mode = grad_mode()
    out = (op.forward if type(mode) is bool else forward_of(op, mode))(*raw)
    if parents and mode:
        return record(op, args, raw, parents, out)
    taped = [raw[i] for i, node in parents.items() if node.op is not None] if parents else []
    if not is_tensor:
        return out[0] if op.saves else out
    return _unrecorded(op, tuple(args), {}, out, taped)


def _call_variadic(op: Op, arrays: tuple, static: tuple) -> Any:
    """Run an op of any number of arrays, such as ``concatenate``; `static` are its options."""
    arrays = tuple([np.asarray(a) if type(a) in (list, tuple) else a for a in arrays])
    for x in arrays:
        if isinstance(x, TensorBase) and x._node is not None:
            _forget_sharing(x)
    raw = tuple([a._array if isinstance(a, TensorBase) else a for a in arrays])
    nodes = tuple([a._node if isinstance(a, TensorBase) else None for a in arrays])
    mode = grad_mode()
    forward = op.forward if type(mode) is bool else forward_of(op, mode)
    options = dict(zip(op.names[1:], static, strict=True))
    out = forward(*raw, **options)
    if any(nodes) and mode:
        return record(op, (arrays, *static), [raw, *static], {0: nodes}, out)
    if not any(isinstance(a, TensorBase) for a in arrays):
        return out[0] if op.saves else out
    taped = [x for x, node in zip(raw, nodes, strict=True) if node and node.op is not None]
    return _unrecorded(op, arrays, options, out, taped)


def _forget_sharing(x: Any) -> None:
    """Note that a leaf's array is no longer shared, if no other code refers to it any more."""
    if x._node.is_shared and not changes.has_other_owner(x):
        x._node.unmark("is_shared")


def _unrecorded(op: Op, args: tuple, options: dict, out: Any, taped: list[ndarray]) -> Any:
    """Return the result of a call that made no node; `taped` are the inputs that are results.

    A view of such an input is read-only, since a rule may have kept the input.
    """
    if op.saves:
        out = out[0]
    result: Any
    if op.multiple:
        result = tuple([new_tensor(changes.guarded(part, taped)) for part in out])
    else:
        result = new_tensor(changes.guarded(out, taped) if taped else out)
    if current_recorder.get() is not None:
        answered(op, args, options, result)
    return result


def bind(op: Op, args: tuple, kwargs: dict) -> tuple:
    """Return every argument in order, with defaults where none was given.

    ``inspect.signature(...).bind`` does the same in a hundred times the time, so it is called only
    for its error message.
    """
    bound = [args] if op.variadic else list(args)
    taken = 0
    for name in op.names[len(bound) :]:
        if name in kwargs:
            bound.append(kwargs[name])
            taken += 1
        elif name in op.defaults:
            bound.append(op.defaults[name])
    if len(bound) != len(op.names) or taken != len(kwargs):
        try:
            op.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{op.name}{op.signature}: {error}") from None
    return tuple(bound)


# ---- making the node


def record(op: Op, args: tuple, raw: list, parents: dict[int, Any], out: Any) -> Any:
    """Return the result of a call as a Tensor whose node keeps what the rules will read.

    Parameters
    ----------
    op : Op
    args, raw
        The arguments, with Tensors and with plain arrays.
    parents : dict of int to Node
        By position, the nodes of the arguments that require gradients. For a variadic op,
        ``{0: nodes}``, with None for a constant.
    out
        What ``op.forward(*raw)`` returned.
    """
    positions = tuple(parents)
    rules, kept, uses_shapes = op.plans.get(positions) or _plan(op, positions)
    nodes = [node for node in (parents[0] if op.variadic else parents.values()) if node is not None]
    if is_half(nodes):
        rules = [(rule.in_single, only) for rule, only in rules]
    watched: list[tuple] = []
    for i in kept:
        if i == 0 and op.variadic:
            raw[0] = tuple(
                _keep(f"{op.names[0]}[{k}]", value, parent, watched)
                for k, (value, parent) in enumerate(zip(raw[0], parents[0], strict=True))
            )
        else:
            raw[i] = _keep(op.names[i], raw[i], parents.get(i), watched)
    # `values` stand in the order of `op.namespace`, so that `rule.keep` can take its residuals
    if op.saves:
        out, *saved = out
        values = [*raw, out, *saved]
    else:
        values = [*raw, out]
    if uses_shapes:
        values += [_shape_of(value) for value in raw]
    steps = tuple(
        [
            (rule, rule.keep(values), (parents[only],) if only is not None
             else parents[0] if op.variadic else tuple(map(parents.get, rule.positions)))
            for rule, only in rules
        ]
    )  # fmt: skip
    is_shared = any([node.is_shared for node in nodes])
    if op.multiple:
        result = _record_several(op, steps, out, watched, is_shared)
    else:
        out = _check_result(op, out)
        result = new_result(op, steps, out)
        if watched:
            result._node.mark(watched=tuple(watched))
        if is_shared and (out.base is not None or any(out is x for x in raw)):
            result._node.mark(is_shared=True)  # a view of a shared array, or that array itself
    if (recorder := grad_mode()) is not True:
        recorder.recorded(op, args, result)
    return result


def _plan(op: Op, positions: tuple[int, ...]) -> tuple:
    """Return what a call keeps if the arguments at these positions require gradients.

    The plan depends on nothing else, so that the op remembers it: the rules that will run (each
    with the position of its input, or None if it has several), the arguments that these rules
    read, and whether they read shapes. For ``x * y`` with a gradient for x alone: the rule of x,
    the argument y, no shapes.
    """
    rules = [r for r in op.rules if not set(r.positions).isdisjoint(positions)]
    unruled = set(positions).difference(*(rule.positions for rule in rules))
    if unruled:
        name = op.names[min(unruled)]
        raise TypeError(
            f"{op.name}: input {name!r} requires a gradient, and the op has no rule for it; "
            f"pass it detached if it is a constant"
        )
    sources = sorted({source for rule in rules for source in rule.sources})
    first_shape = len(op.names) + 1 + len(op.saves)
    only = [r.positions[0] if len(r.positions) == 1 and not op.variadic else None for r in rules]
    paired = list(zip(rules, only, strict=True))
    arguments = [source for source in sources if source < len(op.names)]
    op.plans[positions] = plan = paired, arguments, any(source >= first_shape for source in sources)
    return plan


def _keep(name: str, value: Any, parent: Node | None, watched: list) -> Any:
    """Return an argument as a residual, such that no later change to it goes unnoticed."""
    if parent is not None:
        if parent.is_shared:
            watched.append((name, value, changes.Fingerprint.of(value)))
    elif type(value) is ndarray and value.nbytes > COPY_LIMIT:
        watched.append((name, value, changes.Fingerprint.of(value)))
    elif type(value) not in IMMUTABLE:
        return _copy(value)
    return value


def _copy(value: Any) -> Any:
    """Copy arrays and lists, also inside an index: the caller may change them before backward."""
    if isinstance(value, ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        items = map(_copy, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _record_several(op: Op, steps: tuple, out: Any, watched: list, is_shared: bool) -> tuple:
    """Return a Tensor for each of several outputs.

    Each Tensor has a small node that says which output it is. All of these have one parent, the
    op's own node, where their cotangents come together before the rules run.
    """
    out = tuple([_check_result(op, part) for part in out])
    node = Node(op, steps, (), out[0].dtype)
    outputs = tuple((part.shape, part.dtype) for part in out)
    node.mark(watched=tuple(watched), outputs=outputs)
    selectors = []
    for index, (shape, dtype) in enumerate(outputs):
        selector = Node(op, (), shape, dtype)
        selector.mark(selects=(node, index), is_shared=is_shared)
        selectors.append(new_tensor(out[index], selector))
    return tuple(selectors)


def _check_result(op: Op, out: Any) -> ndarray:
    """Return a result as an array, or raise TypeError if it can have no gradient."""
    if isinstance(out, np.matrix | np.ma.MaskedArray):
        raise TypeError(
            f"{op.name}: {type(out).__name__} means other things by the same operators; "
            "give np.asarray(...) of it"
        )
    out = np.asarray(out)
    if out.dtype.kind != "f":
        raise TypeError(
            f"{op.name}: the result has dtype {out.dtype}, and gradients exist for real "
            "floating point only; detach() the inputs if none is wanted"
        )
    return out


def _shape_of(value: Any) -> Any:
    """Return the shape of an array, or the shapes of a tuple of arrays."""
    if type(value) is ndarray:
        return value.shape
    if type(value) in IMMUTABLE:
        return ()
    return tuple(map(np.shape, value)) if isinstance(value, tuple) else np.shape(value)

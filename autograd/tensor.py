"""The tensor: an array that remembers how it was computed, and that NumPy's functions accept.

A :class:`Tensor` has an array and, if it requires a gradient, a node on the tape (see
`autograd.engine`). Its operators and methods call ops, and NumPy calls ops for it: ``np.exp(x)`` of
a tensor runs the op ``exp``. A NumPy function without a rule raises an error for a tensor that
requires a gradient, and runs on the plain array of any other tensor.
"""

from __future__ import annotations

import html
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from types import MemberDescriptorType
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike, DTypeLike

from autograd import engine
from autograd.changes import has_other_owner
from autograd.dispatch import (
    JOINING,
    NUMPY,
    call_function,
    call_ufunc,
    implements,
    requires_gradient,
    tensors_in,
)
from autograd.engine import Node, TensorBase, differentiate, log_write
from autograd.modes import answered, current_recorder, is_grad_enabled
from autograd.op import Op, alias
from autograd.ops import elementwise, index, linalg, shape


def _binary(op: Op) -> tuple[Callable, Callable]:
    """Return the methods for ``tensor + other`` and for ``other + tensor``."""
    call = op.__call__  # calling a bound method takes less time than calling the op
    return lambda self, other: call(self, other), lambda self, other: call(other, self)


def _shown(result: Any, function: Callable | None, *args: Any) -> Any:
    """Return what a function made of a tensor, off the tape; a recorder may see that."""
    if current_recorder.get() is not None:
        answered(function, args, {}, result)
    return result


def _comparison(compare: Callable) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        return _shown(compare(self._array, _plain(other)), compare, self, other)

    return method


FUNCTIONS = "NumPy's functions, np.exp for math.exp, "  # what to write instead of float(x)


def _in_place(ufunc: np.ufunc, operate: Callable, sign: str) -> Callable:
    """Return the method for an operator in place, such as ``x += y``.

    If the result belongs on the tape, the method returns a new tensor, and Python binds the name on
    the left to it. Otherwise the method writes to the array of x.
    """

    def change(self: Tensor, other: Any) -> Tensor:
        if self._node is None:
            is_new = is_grad_enabled() and requires_gradient(other)
        else:
            is_new = self._node.op is not None
        if is_new:
            return operate(self, other)
        if self._node is not None and is_grad_enabled():
            raise RuntimeError(
                f"{ufunc.__name__} in place would change a leaf, whose old values the tape may "
                f"need; write x = x {sign} y for a new tensor, or change the leaf under "
                "autograd.no_grad()"
            )
        self._demand_writeable()
        ufunc(self._array, _plain(other), out=self._array)
        log_write(self._array)
        return self

    return change


def _method(function: Any) -> Callable:
    """Return a method that calls one of NumPy's functions with the tensor as first argument."""
    name = f"Tensor.{function.__name__}"

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return call_function(function, (self, *args), kwargs, name)

    method.__name__, method.__doc__ = function.__name__, f"Run ``np.{function.__name__}`` on this."
    return method


class Tensor(TensorBase):
    """An array that can require a gradient. :func:`tensor` makes one, and ops make the others."""

    __slots__ = ()
    __array_priority__ = 1000

    # ---- what it is

    def _read_only(self) -> ndarray:
        view = self._array.view()
        view.flags.writeable = False
        return view

    @property
    def data(self) -> ndarray:
        """The array: writable for a leaf, a read-only view for a result.

        Assigning an array of the same shape and dtype to ``data`` replaces a leaf's array.
        """
        if self._node is not None:
            if self._node.op is not None:
                return _shown(self._read_only(), np.asarray, self)
            self._node.share(self._array)
        return _shown(self._array, np.asarray, self)

    @data.setter
    def data(self, value: ArrayLike) -> None:
        if self._node is not None and self._node.op is not None:
            raise ValueError("the data of a result cannot be set: only that of a leaf can")
        value = np.asarray(value)
        if value.shape != self.shape or value.dtype != self.dtype:
            raise ValueError(
                f"data must stay {self.dtype}{list(self.shape)}, and was given "
                f"{value.dtype}{list(value.shape)}"
            )
        if value is self._array:  # after `t.data -= ...`
            log_write(value)
        elif self._node is not None:  # the caller may keep the new array, and write to it
            self._node.mark(is_shared=True)
        self._array = value

    @property
    def grad(self) -> Tensor | None:
        """The gradient accumulated so far, or None; ``requires_grad_(False)`` keeps it."""
        node = self._kept_node()
        gradient = None if node is None else node.grad
        return None if gradient is None else _shown(gradient, None, self)

    @grad.setter
    def grad(self, value: Any) -> None:
        node = self._kept_node()
        if value is None:
            if node is not None:
                node.grad = None
            return
        if node is None:
            raise ValueError("only a tensor that requires a gradient can have one")
        value = value if isinstance(value, Tensor) else Tensor(np.asarray(value))
        if value.shape != self.shape or value.dtype != self.dtype:
            raise ValueError(
                f"a gradient must have its tensor's dtype and shape, {self.dtype}"
                f"{list(self.shape)}, and was given {value.dtype}{list(value.shape)}"
            )
        node.grad = value

    def _kept_node(self) -> Node | None:
        """Return the node of this tensor, also if ``requires_grad_(False)`` set it aside."""
        return self._node or getattr(self, "_paused", None)

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is computed for this tensor: it is a leaf that asked, or a result."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set, in place, whether a leaf requires a gradient; return the leaf.

        A leaf that was switched off keeps its ``.grad`` and its hooks. What was computed from it
        before can still run backward, and adds nothing to its ``.grad`` until it is on again.
        What is computed from it meanwhile takes it for a constant.

        Raises
        ------
        TypeError
            If the tensor is not of real floating point, or `requires_grad` is no boolean.
        ValueError
            If the tensor is a result, which always requires a gradient.

        Examples
        --------
        >>> import autograd
        >>> w = autograd.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = (w * w).sum()
        >>> (w.requires_grad_(False) * w).requires_grad
        False
        >>> w.requires_grad_()
        tensor([1., 2.], requires_grad=True)
        >>> loss.backward()
        >>> w.grad
        tensor([2., 4.])
        """
        if not isinstance(requires_grad, bool | np.bool_):
            raise TypeError(f"requires_grad must be True or False, and is {requires_grad!r:.60}")
        node = self._node
        if node is not None and node.op is not None:
            if not requires_grad:
                raise ValueError(
                    "a result always requires a gradient: detach() returns one without"
                )
        elif not requires_grad and node is not None:
            node.share(self._array)  # while it requires no gradient, it may be written to
            node.mark(paused=True)
            self._paused: Node | None = node
            self._node = None
        elif requires_grad and node is None:
            node = self._kept_node()
            if node is None:
                node = _leaf(self._array)
                if has_other_owner(self):
                    node.mark(is_shared=True)
            else:
                node.unmark("paused")
            self._node, self._paused = node, None
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op computed this tensor."""
        return self._node is None or self._node.op is None

    shape = property(lambda self: self._array.shape, doc="Length of each axis.")
    dtype = property(lambda self: self._array.dtype, doc="Type of the elements.")
    ndim = property(lambda self: self._array.ndim, doc="Number of axes.")
    size = property(lambda self: self._array.size, doc="Number of elements.")
    nbytes = property(lambda self: self._array.nbytes, doc="Bytes of the elements.")

    # ---- the tape

    def backward(
        self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add the derivative of this tensor to the ``.grad`` of every leaf that it depends on.

        Parameters
        ----------
        gradient : array_like, optional
            The cotangent to start with; 1 if this tensor is a scalar.
        retain_graph : bool
            Keep what the rules need, so that this can run again.
        create_graph : bool
            Record the backward pass itself: gradients can be differentiated.
        """
        node = _node_of(self, "backward")
        start = _cotangent(self, gradient, create_graph)
        differentiate([node], [start], retain_graph=retain_graph, create_graph=create_graph)

    def detach(self) -> Tensor:
        """Return the same values off the tape: a view, read-only if this requires a gradient."""
        return Tensor(self.numpy())

    def retain_grad(self) -> None:
        """Let backward passes store the gradient of this result in ``.grad``, as for a leaf."""
        _node_of(self, "retain_grad").mark(retains_grad=True)

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Callable[[], None]:
        """Call ``hook(gradient)`` in each backward pass, when this tensor's gradient is complete.

        The hook may return another gradient, which takes the place of the first. The gradient that
        the hook is given is read-only, since other tensors may have the same one.

        Returns
        -------
        callable
            A function that removes the hook.
        """
        node = _node_of(self, "register_hook")
        own = partial(hook)  # a new object, since the same function may be registered twice
        node.add_hook(own)
        return partial(node.remove_hook, own)

    # ---- copies: a copied leaf is a new leaf; a result cannot be copied without its tape

    def _parts(self) -> tuple:
        """Return the class, the array and ``requires_grad``, from which a copy is made."""
        if self._node is not None and self._node.op is not None:
            raise TypeError(
                f"a result of {self._node.op.name}, of shape {self.shape}, cannot be copied or "
                "pickled: its tape stays here; take its values with .detach(), or copy it on the "
                "tape with .copy()"
            )
        return type(self), self._array, self.requires_grad

    def _attributes(self) -> dict[str, Any]:
        """Return the attributes that a subclass added, in ``__dict__`` or in slots."""
        found = dict(getattr(self, "__dict__", {}))
        for kind in type(self).__mro__[: type(self).__mro__.index(Tensor)]:
            for name, slot in vars(kind).items():
                if isinstance(slot, MemberDescriptorType) and hasattr(self, name):
                    found[name] = getattr(self, name)
        return found

    def __copy__(self) -> Tensor:
        """Return a new leaf on the same array: a write to one changes both, as in PyTorch."""
        new = _rebuilt(*self._parts())
        for x in (self, new):
            if x._node is not None:
                x._node.share(x._array)
        _set_attributes(new, self._attributes())
        return new

    def __deepcopy__(self, memo: dict) -> Tensor:
        """Return a new leaf with a copy of the array and of ``.grad``, without the hooks."""
        kind, array, requires_grad = self._parts()
        if self.grad is not None and self.grad.requires_grad:
            raise TypeError(
                "a leaf whose .grad is on the tape (create_graph=True) cannot be copied; "
                "set x.grad = x.grad.detach() or x.grad = None before"
            )
        new = memo[id(self)] = _rebuilt(kind, deepcopy(array, memo), requires_grad)
        if self.grad is not None:
            new.requires_grad_().grad = deepcopy(self.grad, memo)
            new.requires_grad_(requires_grad)
        _set_attributes(new, deepcopy(self._attributes(), memo))
        return new

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle a leaf as a new leaf without its ``.grad`` and its hooks, as PyTorch does."""
        own = getattr(self, "__dict__", None)
        slots = {k: v for k, v in self._attributes().items() if k not in (own or {})}
        return _rebuilt, self._parts(), (own, slots) if slots else own

    # ---- leaving the tape

    def numpy(self) -> ndarray:
        """Return the plain array, off the tape; a read-only view if this requires a gradient."""
        array = self._array if self._node is None else self._read_only()
        return _shown(array, np.asarray, self)

    def item(self) -> Any:
        """Return the only element as a Python number."""
        return _shown(self._array.item(), ndarray.item, self)

    def tolist(self) -> Any:
        """Return the elements as nested lists of Python numbers."""
        return _shown(self._array.tolist(), ndarray.tolist, self)

    def _refuse_escape(self, what: str, instead: str = "") -> None:
        if self._node is not None:
            raise TypeError(
                f"a tensor that requires a gradient does not become {what} behind the tape's back; "
                f"use {instead}.detach() for a constant, .numpy() for its array, .item() for its "
                "number"
            )

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> ndarray:
        self._refuse_escape("an array", JOINING)
        return np.array(self._array, dtype=dtype, copy=copy)

    def __float__(self) -> float:
        self._refuse_escape("a float", FUNCTIONS + JOINING)
        return _shown(float(self._array), float, self)

    def __int__(self) -> int:
        self._refuse_escape("an int", FUNCTIONS)
        return _shown(int(self._array), int, self)

    def __index__(self) -> int:
        self._refuse_escape("an index")
        return operator.index(self._array)

    def __bool__(self) -> bool:
        return _shown(bool(self._array), bool, self)

    def __len__(self) -> int:
        return len(self._array)

    def __format__(self, spec: str) -> str:
        return format(self._array.item(), spec) if self.ndim == 0 and spec else str(self)

    def __repr__(self) -> str:
        values = np.array2string(self._array, separator=", ", prefix="tensor(")
        dtype = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        return f"tensor({values}{dtype}{self._made_by()})"

    def _repr_html_(self) -> str:
        """Show dtype, shape and values in a notebook; of large arrays the corners."""
        values = np.array2string(self._array, precision=4, threshold=100, separator=", ")
        text = f"{self.dtype}{list(self.shape)}{self._made_by()}\n{values}"
        return f"<pre>{html.escape(text)}</pre>"

    def _made_by(self) -> str:
        if self._node is None:
            return ""
        return ", requires_grad=True" if self._node.op is None else f", op={self._node.op.name}"

    __hash__ = object.__hash__

    def __iter__(self) -> Any:
        if self.ndim == 0:
            raise TypeError("cannot iterate over a tensor of no axes")
        parts = shape.split(self, len(self), 0) if len(self) else ()
        return (shape.reshape(part, self.shape[1:]) for part in parts)

    # ---- operators

    __add__, __radd__ = _binary(elementwise.add)
    __sub__, __rsub__ = _binary(elementwise.subtract)
    __mul__, __rmul__ = _binary(elementwise.multiply)
    __truediv__, __rtruediv__ = _binary(elementwise.divide)
    __floordiv__, __rfloordiv__ = _binary(elementwise.floor_divide)
    __mod__, __rmod__ = _binary(elementwise.remainder)
    __pow__, __rpow__ = _binary(elementwise.power)
    __matmul__, __rmatmul__ = _binary(linalg.matmul)

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __neg__(self) -> Tensor:
        return elementwise.negative(self)

    def __pos__(self) -> Tensor:
        return alias(self)

    def __abs__(self) -> Tensor:
        return elementwise.absolute(self)

    def __getitem__(self, key: Any) -> Tensor:
        return index.getitem(self, _plain(key))

    # Comparisons have no derivative, and return plain arrays of booleans.

    __eq__ = _comparison(operator.eq)
    __ne__ = _comparison(operator.ne)
    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)

    # In-place writes are for leaves under no_grad, and for tensors without a gradient.

    __iadd__ = _in_place(np.add, operator.add, "+")
    __isub__ = _in_place(np.subtract, operator.sub, "-")
    __imul__ = _in_place(np.multiply, operator.mul, "*")
    __itruediv__ = _in_place(np.divide, operator.truediv, "/")
    __ifloordiv__ = _in_place(np.floor_divide, operator.floordiv, "//")
    __imod__ = _in_place(np.remainder, operator.mod, "%")
    __imatmul__ = _in_place(np.matmul, operator.matmul, "@")
    __ipow__ = _in_place(np.power, operator.pow, "**")

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._node is not None and (self._node.op is not None or is_grad_enabled()):
            raise RuntimeError(
                "assigning to elements would change a value that the tape may need; make a new "
                "tensor with np.where, np.concatenate or np.stack, or change a leaf under "
                "autograd.no_grad()"
            )
        if is_grad_enabled():
            for part in tensors_in(value):
                part._refuse_escape("part of another array", JOINING)  # type: ignore[attr-defined]
        self._demand_writeable()
        self._array[_plain(key)] = _plain(value)
        log_write(self._array)

    def _demand_writeable(self) -> None:
        if not self._array.flags.writeable:
            raise ValueError(
                "this tensor is a read-only view of values that the tape may need; "
                "write x = x + y for a new tensor, or change a copy: x.copy()"
            )

    # ---- methods: NumPy's functions of the same names

    sum, mean, max, min = map(_method, (np.sum, np.mean, np.max, np.min))
    var, std, cumsum = map(_method, (np.var, np.std, np.cumsum))
    ravel, swapaxes, squeeze = map(_method, (np.ravel, np.swapaxes, np.squeeze))
    flatten = ravel
    repeat, take, trace, diagonal = map(_method, (np.repeat, np.take, np.trace, np.diagonal))
    prod, cumprod, ptp, copy = map(_method, (np.prod, np.cumprod, np.ptp, np.copy))
    dot, round, sort = map(_method, (np.dot, np.round, np.sort))
    argmax, argmin, argsort = map(_method, (np.argmax, np.argmin, np.argsort))  # plain results
    all, any, nonzero = map(_method, (np.all, np.any, np.nonzero))

    def clip(self, min: Any = None, max: Any = None, **others: Any) -> Tensor:
        """Run ``np.clip`` on this; a bound of None does not limit the values."""
        bounds = others.pop("a_min", min), others.pop("a_max", max)
        return call_function(np.clip, (self, *bounds), others, "Tensor.clip")

    def reshape(self, *new_shape: Any) -> Tensor:
        """Return the same elements in another shape, given as numbers or as one tuple."""
        return shape.reshape(self, new_shape[0] if len(new_shape) == 1 else new_shape)

    def transpose(self, *axes: Any) -> Tensor:
        """Permute the axes, given as numbers or as one tuple; reverse them without any."""
        if len(axes) == 1 and isinstance(axes[0], tuple | list | None):
            axes = tuple(axes[0] or ())
        return shape.transpose(self, tuple(axes) or None)

    T = property(lambda self: shape.transpose(self), doc="The axes in reverse.")
    mT = property(lambda self: shape.swapaxes(self, -1, -2), doc="The last two axes exchanged.")

    def astype(self, dtype: DTypeLike) -> Tensor:
        """Convert to another dtype; to integers or booleans only off the tape."""
        if np.dtype(dtype).kind == "f":
            return elementwise.astype(self, dtype)
        self._refuse_escape(f"an array of {np.dtype(dtype)}")
        return Tensor(self._array.astype(dtype))

    # ---- NumPy's dispatch

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Run NumPy's ``ufunc(tensor, ...)`` as an op (NEP 13)."""
        if not kwargs and method == "__call__" and (call := NUMPY.get(ufunc)) is not None:
            return call(*inputs)
        return call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(
        self, function: Callable, types: Sequence, args: tuple, kwargs: dict
    ) -> Any:
        """Run NumPy's ``function(tensor, ...)`` as an op (NEP 18)."""
        return call_function(function, args, kwargs)


def tensor(data: Any, requires_grad: bool = False, dtype: DTypeLike | None = None) -> Tensor:
    """Make a tensor from a copy of some data.

    Parameters
    ----------
    data : array_like
    requires_grad : bool
        Whether backward passes compute a gradient for the tensor and add it to ``.grad``.
    dtype : dtype_like, optional
        The dtype that ``np.array`` chooses if not given. Integers stay integers, and a tensor of
        integers cannot require a gradient.

    Raises
    ------
    TypeError
        If the data are complex numbers, strings or objects, or if a tensor that requires a gradient
        would not be of floating point.

    Examples
    --------
    >>> import autograd
    >>> x = autograd.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """
    if isinstance(data, Tensor):
        data = data._array
    if isinstance(data, np.matrix | np.ma.MaskedArray):
        raise TypeError(f"{type(data).__name__} is not supported: give np.asarray(...) of it")
    array = np.array(data, dtype=dtype)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"a tensor holds real numbers or booleans, and was given {array.dtype}: {data!r:.60}"
        )
    return Tensor(array, _leaf(array) if requires_grad else None)


def _set_attributes(x: Tensor, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(x, name, value)


def _rebuilt(kind: type[Tensor], data: ndarray, requires_grad: bool) -> Tensor:
    """Make a copied or unpickled tensor; pickles refer to this function by its name."""
    new = kind.__new__(kind)
    TensorBase.__init__(new, np.asarray(data))
    return new.requires_grad_(requires_grad)


def _leaf(data: ndarray) -> Node:
    if data.dtype.kind != "f":
        raise TypeError(
            f"a tensor of dtype {data.dtype} cannot require a gradient: only real floating point "
            "(float16, float32, float64) can, dtype=float for example"
        )
    return Node(None, (), data.shape, data.dtype)


@contextmanager
def write_in_place(*leaves: Tensor) -> Iterator[list[ndarray]]:
    """Let a block write to the arrays of leaves: an optimizer that updates many of them at once.

    The arrays are neither copied nor looked at, so the writes cost nothing more. (Reading
    ``leaf.data`` takes one pass over the array: any code may write to it from then on, so the tape
    has to know what the array was like.)

    When the block ends, whether by an exception or not, each array counts as written. A backward
    pass that needs the old values raises RuntimeError, as after any other write in place. The block
    may keep the arrays: a later write to one of them is noticed, too.

    Parameters
    ----------
    *leaves : Tensor
        Tensors that no op made.

    Yields
    ------
    list of ndarray
        The array of each leaf.

    Raises
    ------
    ValueError
        If one of the tensors is the result of an op, or a read-only view.

    Examples
    --------
    >>> import autograd
    >>> w, b = autograd.tensor([1.0, 2.0], requires_grad=True), autograd.tensor(3.0)
    >>> with autograd.write_in_place(w, b) as arrays:
    ...     for array in arrays:
    ...         array *= 10
    >>> w, b
    (tensor([10., 20.], requires_grad=True), tensor(30.))
    """
    for leaf in leaves:
        if leaf._node is not None and leaf._node.op is not None:
            raise ValueError(
                f"only a leaf can be written to, and this tensor of shape {leaf.shape} is a result "
                f"of {leaf._node.op.name}; copy it off the tape first: x.detach().copy()"
            )
        leaf._demand_writeable()
    arrays = [leaf._array for leaf in leaves]
    try:
        yield arrays
    finally:
        for leaf, array in zip(leaves, arrays, strict=True):
            log_write(array)
            if leaf._node is not None:
                leaf._node.mark(is_shared=True)  # until nothing but the leaf refers to the array


def grad(
    outputs: Any,
    inputs: Any = None,
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Any:
    """Return the derivatives of outputs with respect to inputs, and leave every ``.grad`` as it is.

    Parameters
    ----------
    outputs, inputs : Tensor or sequence of Tensor
    grad_outputs : array_like or sequence of array_like, optional
        The cotangents of the outputs; 1 for scalars.
    retain_graph, create_graph : bool
        As for `Tensor.backward`.

    Returns
    -------
    Tensor or tuple of Tensor
        The derivative for each input: of the input's shape, zeros if no output depends on it.

    Examples
    --------
    >>> import autograd
    >>> x = autograd.tensor(3.0, requires_grad=True)
    >>> dy = autograd.grad(x**3, x, create_graph=True)
    >>> autograd.grad(dy, x)
    tensor(18.)
    """
    if callable(outputs):
        raise TypeError(
            "autograd.grad takes tensors, as torch.autograd.grad does; "
            "to differentiate a function, use autograd.functional.grad"
        )
    if inputs is None:
        raise TypeError("autograd.grad needs inputs: the tensors to differentiate with respect to")
    single = isinstance(inputs, Tensor)
    inputs = (inputs,) if single else tuple(inputs)
    if isinstance(outputs, Tensor):
        outputs, grad_outputs = (outputs,), (grad_outputs,)
    elif grad_outputs is None:
        grad_outputs = (None,) * len(outputs)
    nodes = [_node_of(x, "grad") for x in inputs]
    cotangents = [
        _cotangent(y, g, create_graph) for y, g in zip(outputs, grad_outputs, strict=True)
    ]
    found = differentiate(
        [_node_of(y, "grad") for y in outputs],
        cotangents,
        nodes,
        retain_graph=retain_graph,
        create_graph=create_graph,
    )
    found.reverse()
    gradients = tuple([_take_gradient(found, x) for x in inputs])
    if not create_graph and current_recorder.get() is not None:
        answered(None, (*outputs, *inputs), {}, gradients)  # how, the recorder cannot say
    return gradients[0] if single else gradients


def _take_gradient(found: list, x: Tensor) -> Tensor:
    """Take the cotangent of `x` from the end of a list, as a tensor with an array of its own."""
    g = found.pop()
    if g is None:
        return Tensor(np.zeros(x.shape, x.dtype))
    if isinstance(g, Tensor):
        return g
    gradient = Tensor(g)
    del g
    return Tensor(np.array(gradient._array)) if has_other_owner(gradient) else gradient


def _node_of(x: Any, what: str) -> Node:
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} needs a tensor, and was given {type(x).__name__}")
    if x._node is None:
        raise RuntimeError(
            f"{what}: this tensor of shape {x.shape} requires no gradient: none of what it was "
            "computed from does, or it was made under no_grad()"
        )
    return x._node


def _cotangent(output: Tensor, gradient: Any, create_graph: bool) -> Any:
    if gradient is None:
        if output.size != 1:
            raise ValueError(
                f"the output has shape {output.shape}: give a gradient of that shape, or reduce it "
                "to a number first, with .sum() for example"
            )
        gradient = np.ones(output.shape, output.dtype)
    if not isinstance(gradient, Tensor):
        gradient = Tensor(np.asarray(gradient))
    if gradient.dtype.kind not in "fiub":
        raise TypeError(f"gradient has dtype {gradient.dtype}; expected real numbers")
    if gradient.shape != output.shape:
        raise ValueError(f"gradient has shape {gradient.shape}, and the output {output.shape}")
    if gradient.dtype != output.dtype:
        gradient = gradient.astype(output.dtype)
    return gradient if create_graph else gradient._array


def _plain(x: Any) -> Any:
    """Return an index or an operand, with every tensor in it replaced by its array."""
    if isinstance(x, Tensor):
        return x._array
    return type(x)(map(_plain, x)) if type(x) in (tuple, list) else x


implements(np.astype)(lambda x, dtype: x.astype(dtype))

assert engine._tensor_type is Tensor

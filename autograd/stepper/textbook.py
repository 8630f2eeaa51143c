"""Ops as a person would write them, for `to_source` in textbook style.

The functions of the ops handle every shape, dtype and option, in blocks and in place. One call
needs only a small part of this code. Here each op has a short form for the calls that textbooks
show: the lines of the forward pass, and one expression for each cotangent. A call without a short
form is written in the exact style.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.stepper.literals import literal
from autograd.stepper.record import Call

MOST_CLASSES = 100  # up to this number, a one-hot row is a row of the identity matrix


@dataclass
class Written:
    """A call as lines of a script.

    Attributes
    ----------
    value : str
        The expression for the result.
    sends : dict of str to str
        For each differentiable input, the expression for what the rule sends, in the input's shape.
    before : list of (str, str)
        Targets and values of lines that stand before the result.
    behind : list of (str, str)
        Targets and values of lines that stand before what the rule sends.
    """

    value: str
    sends: dict[str, str]
    before: list[tuple[str, str]] = field(default_factory=list)
    behind: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Texts:
    """The texts of a call: of its arguments by name, of its result, and of the cotangent.

    Attributes
    ----------
    call : Call
    result : ndarray
    arguments : dict of str to str
    out, g : str
    is_one : bool
        Whether the cotangent is the number 1, because the backward pass begins here.
    new : callable
        Makes a name of the script that no other value has.
    """

    call: Call
    result: ndarray
    arguments: dict[str, str]
    out: str
    g: str
    is_one: bool
    new: Callable[[str], str]

    def __getitem__(self, name: str) -> str:
        """Return the text of an argument, in brackets if it is not a name or a number."""
        text = self.arguments[name]
        atom = isinstance(ast.parse(text, mode="eval").body, ast.Name | ast.Constant)
        return text if atom else f"({text})"

    def value(self, name: str) -> Any:
        """Return the value of an argument."""
        return self.call.arguments[name]

    def times_g(self, text: str) -> str:
        """Return an expression times the cotangent."""
        return text if self.is_one else f"{self.g} * {text}"


def write(texts: Texts) -> Written | None:
    """Return a call as a person would write it, or None if it has no short form."""
    call, result = texts.call, texts.result
    arrays = [x for x in call.arguments.values() if isinstance(x, ndarray) and x.dtype.kind == "f"]
    plain = result.dtype in (np.float32, np.float64) and all(x.size for x in (result, *arrays))
    if not plain or any(x.dtype != result.dtype for x in arrays) or call.op.name not in TABLE:
        return None
    return TABLE[call.op.name](texts)


# ---- products


def _matmul(t: Texts) -> Written | None:
    x, y, g = t["x"], t["y"], t.g
    dims = np.ndim(t.value("x")), np.ndim(t.value("y"))
    sends = {
        (2, 2): (f"{g} @ {y}.T", f"{x}.T @ {g}"),
        (2, 1): (f"np.outer({g}, {y})", f"{x}.T @ {g}"),
        (1, 2): (f"{y} @ {g}", f"np.outer({x}, {g})"),
        (1, 1): (f"{g} * {y}", f"{g} * {x}"),
    }.get(dims)
    return sends and Written(f"{x} @ {y}", dict(zip("xy", sends, strict=True)))


def _affine(t: Texts) -> Written | None:
    x, weight, g = t["input"], t["weight"], t.g
    shape, has_bias = t.value("input").shape, t.value("bias") is not None
    lead = tuple(range(len(shape) - 1))
    if not lead:
        d_weight, d_bias = f"np.outer({x}, {g})", g
    else:
        d_weight, d_bias = f"{x}.T @ {g}", f"{g}.sum({_axes(lead)})"
    if len(lead) > 1:
        rows = f"{x}.reshape(-1, {shape[-1]}).T"
        d_weight = f"{rows} @ {g}.reshape(-1, {t.result.shape[-1]})"
    return Written(
        f"{x} @ {weight}" + (f" + {t['bias']}" if has_bias else ""),
        {"input": f"{g} @ {weight}.T", "weight": d_weight, "bias": d_bias},
    )


def _transpose(t: Texts) -> Written | None:
    axes, n = t.value("axes"), np.ndim(t.value("x"))
    if n != 2 or (axes is not None and tuple(a % n for a in axes) != (1, 0)):
        return None
    return Written(f"{t['x']}.T", {"x": f"{t.g}.T"})


def _reshape(t: Texts) -> Written:
    shape, before = literal(t.result.shape), literal(np.shape(t.value("x")))
    return Written(f"{t['x']}.reshape({shape})", {"x": f"{t.g}.reshape({before})"})


# ---- reductions


def _axes(axes: Any) -> str:
    """Return an axis or axes as an argument: ``0`` for ``(0,)``."""
    return literal(axes[0] if isinstance(axes, tuple) and len(axes) == 1 else axes)


def _reduction(t: Texts) -> Written:
    x, axis, keepdims = t.value("x"), t.value("axis"), bool(t.value("keepdims"))
    name = t.call.op.name
    options = [] if axis is None else [f"axis={_axes(axis)}"]
    options += ["keepdims=True"] if keepdims else []
    n = x.size // t.result.size
    g = f"{t.g} / {n}" if name == "mean" else t.g
    if t.result.ndim == 0 and not keepdims:
        number = f"1 / {n}" if name == "mean" else "1.0"
        back = f"np.full({literal(x.shape)}, {number if t.is_one else g}{_dtype(x)})"
    else:
        g = g if keepdims else f"np.expand_dims({g}, {_axes(axis)})"
        back = f"np.broadcast_to({g}, {literal(x.shape)})"
    return Written(f"{t['x']}.{name}({', '.join(options)})", {"x": back})


def _dtype(x: ndarray) -> str:
    return "" if x.dtype == np.float64 else f", np.{x.dtype.name}"


# ---- elementwise


def _tanh(t: Texts) -> Written:
    return Written(f"np.tanh({t['x']})", {"x": f"{t.g} * (1 - {t.out}**2)"})


def _sigmoid(t: Texts) -> Written | None:
    if np.abs(t.value("input")).max() > 80:  # e^-x overflows in float32
        return None
    x = t["input"]
    return Written(f"1 / (1 + np.exp(-{x}))", {"input": f"{t.g} * {t.out} * (1 - {t.out})"})


def _power(t: Texts) -> Written | None:
    n = t.value("y")
    if np.ndim(n) or "y" in t.call.parents or float(n) not in (2.0, 3.0):
        return None
    x, less = t["x"], "" if float(n) == 2 else "**2"
    return Written(f"{x}**{int(n)}", {"x": f"{t.g} * {int(n)} * {x}{less}"})


# ---- softmax and its loss


def _softmax(t: Texts) -> Written:
    x, along = t["input"], f"axis={literal(t.value('dim'))}, keepdims=True"
    e = t.new(f"{t.out}_e")
    return Written(
        f"{e} / {e}.sum({along})",
        {"input": f"{t.out} * ({t.g} - ({t.g} * {t.out}).sum({along}))"},
        [(e, f"np.exp({x} - {x}.max({along}))")],
    )


def _log_softmax(t: Texts) -> Written:
    x, along = t["input"], f"axis={literal(t.value('dim'))}, keepdims=True"
    shifted = t.new(f"{t.out}_shifted")
    return Written(
        f"{shifted} - np.log(np.exp({shifted}).sum({along}))",
        {"input": f"{t.g} - np.exp({t.out}) * {t.g}.sum({along})"},
        [(shifted, f"{x} - {x}.max({along})")],
    )


def _cross_entropy(t: Texts) -> Written | None:
    logits, target = t.value("input"), t.value("target")
    plain = t.value("weight") is None and not t.value("label_smoothing")
    ignored = (target == t.value("ignore_index")).any()
    if not plain or logits.ndim != 2 or t.value("reduction") != "mean" or ignored:
        return None
    n, k = logits.shape
    chosen = logits[np.arange(n), target] - logits.max(axis=1)
    if chosen.min() < -80:  # the probability of a target is 0 in float32
        return None
    x, y = t["input"], t["target"]
    e, p, onehot = t.new("e"), t.new("p"), t.new("onehot")
    at = f"np.arange({n}), {y}"
    before = [
        (e, f"np.exp({x} - {x}.max(axis=1, keepdims=True))"),
        (p, f"{e} / {e}.sum(axis=1, keepdims=True)"),
    ]
    if k <= MOST_CLASSES:
        before.append((onehot, f"np.eye({k}{_dtype(logits).replace(', ', ', dtype=')})[{y}]"))
    else:
        before += [(onehot, f"np.zeros_like({p})"), (f"{onehot}[{at}]", "1")]
    send = f"{t.times_g(f'({p} - {onehot})')} / {n}"
    return Written(f"-np.log({p}[{at}]).mean()", {"input": send}, before)


# ---- normalization


def _layer_norm(t: Texts) -> Written | None:
    x, shape, weight = t.value("input"), t.value("normalized_shape"), t.value("weight")
    if np.ndim(shape) and len(shape) != 1:
        return None
    centred, std, z = (t.new(f"{t.out}_{what}") for what in ("centred", "std", "z"))
    along = "axis=-1, keepdims=True"
    lead = tuple(range(x.ndim - 1))
    total = f".sum({_axes(lead)})" if lead else ""
    value, dz, behind = z, t.g, []
    if weight is not None:
        value, dz = f"{z} * {t['weight']}", t.new(f"d_{z}")
        behind = [(dz, f"{t.g} * {t['weight']}")]
    if t.value("bias") is not None:
        value += f" + {t['bias']}"
    middle = t.new(f"{dz}_mean")
    behind.append((middle, f"{dz}.mean({along}) + {z} * ({dz} * {z}).mean({along})"))
    return Written(
        value,
        {
            "input": f"({dz} - {middle}) / {std}",
            "weight": f"({t.g} * {z}){total}",
            "bias": f"{t.g}{total}",
        },
        [
            (centred, f"{t['input']} - {t['input']}.mean({along})"),
            (std, f"np.sqrt(({centred}**2).mean({along}) + {literal(t.value('eps'))})"),
            (z, f"{centred} / {std}"),
        ],
        behind,
    )


def _swapaxes(t: Texts) -> Written | None:
    axes = {t.value("axis1") % 2, t.value("axis2") % 2}
    if np.ndim(t.value("x")) != 2 or axes != {0, 1}:
        return None
    return Written(f"{t['x']}.T", {"x": f"{t.g}.T"})


TABLE: dict[str, Callable[[Texts], Written | None]] = {
    "affine": _affine,
    "cross_entropy": _cross_entropy,
    "layer_norm": _layer_norm,
    "log_softmax": _log_softmax,
    "matmul": _matmul,
    "mean": _reduction,
    "power": _power,
    "reshape": _reshape,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "sum": _reduction,
    "swapaxes": _swapaxes,
    "tanh": _tanh,
    "transpose": _transpose,
}

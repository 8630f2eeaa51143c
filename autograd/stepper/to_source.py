"""Writing a recorded forward and backward pass as one NumPy script that needs no engine.

The function of an op and its rules are NumPy source already. A short one is written in the place of
the call, with the script's variables in the place of the arguments. A longer one becomes a function
of the script, together with everything that it calls. The script also writes out what the engine
does between the ops, in the same order: adding contributions, summing over broadcast axes,
converting dtypes. So the script's numbers equal the engine's bit for bit.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.anomaly import users_frame
from autograd.engine import TensorBase
from autograd.escape import shown
from autograd.files import replacing, together, write_text
from autograd.kernels import use_kernels
from autograd.modes import enable_grad, record_with
from autograd.op import Op, Rule
from autograd.stepper import textbook
from autograd.stepper.functions import Functions, Names
from autograd.stepper.literals import WIDTH, identical, literal, memory_order, tuple_of, wrapped
from autograd.stepper.measure import largest
from autograd.stepper.record import Call, Recording, recording_of
from autograd.stepper.trace import Trace
from autograd.tensor import Tensor, grad

SMALL = 16  # elements: a smaller array is written out even if there is a file for arrays
MOST = 20_000  # elements that are written out if there is no file for arrays
FUNCTIONS = "functions: what the ops compute, and their rules"
CHECK = "check"  # the name of a hash among the arrays
LOAD = """\
arrays = np.load(__file__.removesuffix(".py") + ".npz")
if arrays["check"] != "{check}":
    raise SystemExit("the .npz beside this file belongs to another: write both again")

"""
# By dtype: how far the numbers of a script in textbook style may be from the engine's, as a share
# of the largest element, since the two add up in different orders.
AGREEMENT = {np.dtype(d): share for d, share in (("f2", 1e-2), ("f4", 1e-4), ("f8", 1e-11))}
ROUNDINGS = 64  # of the largest number: terms of this size may cancel
STYLES = ("exact", "textbook")
SECTION = 16  # up to this many ops, a module is one section of the script


def to_source(
    loss: Tensor | Trace,
    file: str | Path | None = None,
    *,
    primitives: bool = False,
    style: str = "exact",
) -> str:
    """Write the forward and the backward pass of a loss as a NumPy script.

    The script prints the loss and the gradients of the leaves. They equal those of the engine with
    kernels off, bit for bit. In textbook style the script is as a person would write it, with
    ``d_W = X.T @ d_z`` in the place of general functions. It then asserts that its numbers agree
    with the engine's up to rounding.

    Parameters
    ----------
    loss : Tensor or Trace
        A number, computed inside ``with autograd.record():``, or a trace of the pass back from one.
    file : str or Path, optional
        Where to write the script; its large arrays go to a file beside it, with ``.npz`` for its
        suffix.
    primitives : bool
        Write the references of fused ops in their place. The numbers are then theirs: the same but
        for rounding.
    style : {"exact", "textbook"}
        Whether the numbers or the lines matter most.

    Returns
    -------
    str
        The script.

    Raises
    ------
    RuntimeError
        If `loss` was not recorded, or a hook changed one of its gradients.
    ValueError
        If `loss` is not a number, its arrays are large and there is no file for them, or there is
        no such style.
    TypeError
        If the source of an op is not to be found, or has a constant that cannot be written.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> from autograd.stepper.to_source import to_source
    >>> with autograd.record():
    ...     x = autograd.tensor([0.5, 1.0], requires_grad=True)
    ...     y = np.tanh(x)
    ...     loss = (y * y).sum()
    >>> print(to_source(loss).split("# ---- backward")[1].split("# ---- gradients")[0].strip())
    d_loss = np.ones(())
    d_multiply_1 = restore(d_loss, (2,), None, False)  # dx_i = g  (2,)
    d_y = d_multiply_1 * y                             # dx = g · y  (2,)
    d_y = d_y + d_multiply_1 * y                       # dy = g · x  (2,)
    d_x = d_y - d_y * y * y                            # dx = g · (1 - tanh(x)^2)  (2,)
    """
    if style not in STYLES:
        raise ValueError(f"to_source: style is {style!r}; expected one of {', '.join(STYLES)}")
    begin = 1.0
    if isinstance(loss, Trace):
        recording, start = loss.recording, loss.start
        begin = float(np.asarray(loss.cotangent).flat[0])
    else:
        recording = recording_of(loss, "to_source")
        start = loss._node.number  # type: ignore[union-attr]
    if math.prod(shape := recording.values[start].shape) != 1:
        raise ValueError(f"to_source: the loss must be a number, and has shape {shape}")
    frame = users_frame()
    recording.name_variables(frame)
    for call in recording.behind(start):
        for name, number in call.parents.items():
            value = recording.values[number]
            if number not in recording.maker and call.arguments[name] is not value:
                raise RuntimeError(
                    f"to_source: {recording.name(number)} was changed in place between two uses"
                )
        for number in (*call.results, *call.parents.values()):
            if getattr(recording.node(number), "hooks", ()):
                raise RuntimeError(
                    f"to_source: a hook sees the gradient of {recording.name(number)}, and what "
                    "it does is no part of the tape"
                )
    with use_kernels(False), np.errstate(all="ignore"):
        while primitives and any(call.op.reference_function for call in recording.behind(start)):
            recording, start = _expanded(recording, start)
        path = None if file is None else Path(file)
        kind = _Textbook if style == "textbook" else _Script
        script = kind(recording, start, begin, _arrays_in(frame), path)
        text = script.text()
    if path is not None:
        with together(path.parent.resolve(strict=True)):
            write_text(path, text)
            if script.stored:
                arrays: dict[str, Any] = script.stored | {CHECK: np.array(script.check())}
                with replacing(path.with_suffix(".npz")) as arrays_file:
                    np.savez(arrays_file, **arrays)
    return text


def _arrays_in(frame: FrameType | None) -> list[tuple[str, ndarray]]:
    """Return the constant arrays that variables of a frame, and of its callers, hold."""
    found = []
    while frame is not None:
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, TensorBase) and value._node is None:
                value = value._array
            if type(value) is ndarray and not name.startswith("_"):
                found.append((name, value))
        frame = frame.f_back
    return found


def _expanded(recording: Recording, start: int) -> tuple[Recording, int]:
    """Run a recording again with the references of fused ops in their place."""
    new = Recording()
    tensors: dict[int, Tensor] = {}
    with record_with(new), enable_grad():
        for call in recording.behind(start):
            for parent in call.parents.values():
                if parent not in tensors:
                    leaf = Tensor(recording.values[parent].copy(order="K"))
                    tensors[parent] = leaf.requires_grad_()
            values = {
                name: tensors[call.parents[name]] if name in call.parents else x
                for name, x in call.arguments.items()
            }
            run = call.op.reference_function or call.op
            within = f"{call.scope}.{call.op.name}" if run is not call.op else call.scope
            with new.scope(within.strip(".")):
                out = call.run(run, values)
            outputs = out if isinstance(out, tuple) else (out,)
            tensors.update(zip(call.results, outputs, strict=True))
    numbers = {old: x._node.number for old, x in tensors.items()}  # type: ignore[union-attr]
    new.names = {numbers[old]: name for old, name in recording.names.items() if old in numbers}
    return new, numbers[start]


# ---- the script


@dataclass
class _Line:
    """One line of the script: ``target = value``, and what its comment says."""

    target: str
    value: str
    formula: str = ""
    shape: Any = None
    scope: str = ""
    number: int = 0  # the number of a scalar value that may have to become an array

    @property
    def comment(self) -> str:
        shape = self.shape if isinstance(self.shape, list) else [self.shape]
        shapes = ", ".join("" if x is None else str(tuple(x)) for x in shape)
        return shown("  ".join(filter(None, [self.formula, shapes])))


class _Script:
    """The script of the calls that computed one node, and of the backward pass from there."""

    def __init__(
        self,
        recording: Recording,
        start: int,
        begin: float,
        known: list[tuple[str, ndarray]],
        file: Path | None,
    ) -> None:
        self.recording, self.start, self.begin = recording, start, begin
        self.known, self.file = known, file
        self.calls = recording.behind(start)
        self.names = Names()
        self.functions = Functions(self.names)
        self.stored: dict[str, ndarray] = {}
        self.data: list[_Line] = []
        self.constants: list[tuple[ndarray, str]] = []
        self.written_out = 0  # elements of arrays that are written out so far
        self.arrays: set[int] = set()  # numbers of values that must be arrays, not scalars
        self.scalars: set[int] = set()  # numbers of values that are scalars
        self.saved: dict[int, dict] = {}  # of calls: the saved values, with variable and value
        self.short: dict[int, textbook.Written] = {}  # of calls: the short forms
        maker = {n for call in self.calls for n in call.results}
        used = [n for call in self.calls for n in call.parents.values()]
        self.leaves = list(dict.fromkeys(n for n in used if n not in maker))
        self.full = self._full_names()
        self.shorten = _without_root(self.full.values())
        self.variable = {n: self.names.new(self.shorten(name)) for n, name in self.full.items()}
        self.cotangent = {n: self.names.new("d_" + self.variable[n]) for n in self.full}
        self.formulas = self._formulas()

    def _full_names(self) -> dict[int, str]:
        """Return the names of leaves and results: from their names, modules or ops."""
        recording, full = self.recording, {n: self.recording.name(n) for n in self.leaves}
        last = {call.scope: call for call in self.calls}  # the result of a module
        counted: Counter[str] = Counter()
        for call in self.calls:
            for number in call.results:
                if number in recording.names:
                    full[number] = recording.names[number]
                elif call.scope and last[call.scope] is call and len(call.results) == 1:
                    full[number] = call.scope
                else:
                    name = f"{call.scope}.{call.op.name}".removeprefix(".")
                    counted[name] += 1
                    full[number] = f"{name}_{counted[name]}"
        return full

    def _formulas(self) -> dict[str, str]:
        """Return a formula for each op: that of its calls if all have the same, or the default."""
        found: dict[str, set[str]] = {}
        for call in self.calls:
            if call.op.stated is not None and not call.op.stated.moves:
                found.setdefault(call.op.name, set()).add(call.op.stated.text(call.arguments))
        plain = {call.op.name: call.op.stated for call in self.calls}
        return {
            name: texts.pop() if len(texts) == 1 else str(plain[name])
            for name, texts in found.items()
        }

    # ---- texts of values

    def constant(self, value: Any, wanted: str) -> str:
        """Return the source code of an argument that is not on the tape."""
        if not isinstance(value, ndarray):
            if not isinstance(value, tuple | list):
                return literal(value)
            parts = [self.constant(part, wanted) for part in value]
            return tuple_of(parts) if isinstance(value, tuple) else f"[{', '.join(parts)}]"
        for array, name in self.constants:
            if identical(array, value):
                return name
        users = (name for name, array in self.known if identical(array, value))
        name = next(users, wanted)
        if value.size <= 1 and name == wanted:
            return literal(value)
        name = self.names.new(name)
        self.constants.append((value, name))
        self.data.append(_Line(name, self.array(value, name), shape=value.shape))
        return name

    def array(self, x: ndarray, name: str) -> str:
        """Return the source code of an array, or code that reads it from the file of arrays."""
        if self.file is not None and x.size > SMALL:
            axes = memory_order(x)
            self.stored[name] = x.transpose(axes)
            back = tuple(int(a) for a in np.argsort(axes))
            moved = "" if axes == list(range(x.ndim)) else f".transpose({literal(back)})"
            return f"arrays[{literal(name)}]{moved}"
        self.written_out += x.size
        if self.written_out > MOST and self.file is None:
            raise ValueError(
                f"to_source: the arrays have more than {MOST} elements; give a file, and they are "
                "written beside it: to_source(loss, 'step.py')"
            )
        return literal(x)

    def namespace(self, call: Call) -> tuple[dict[str, str], dict[str, Any], dict[str, list[int]]]:
        """Return the names that a call's rules may use: texts, values, and numbers of nodes."""
        op = call.op
        texts, numbers = {}, {}
        for name, x in call.arguments.items():
            parent = call.parents.get(name)
            if parent is None:
                known = self.recording.names.get(call.constants.get(name, -1))
                wanted = self.shorten(known or f"{call.scope}.{name}".removeprefix("."))
                texts[name] = self.constant(x, wanted)
            else:
                texts[name] = self.variable[parent]
                numbers[name] = [parent]
        values = dict(call.arguments)
        if op.variadic:
            name = op.names[0]
            values[name] = tuple(values.pop(x) for x in call.several)
            texts[name] = tuple_of(texts.pop(x) for x in call.several)
            numbers[name] = [numbers.pop(x)[0] for x in call.several if x in numbers]
        results = [self.variable[n] for n in call.results]
        outs = tuple(self.recording.values[n] for n in call.results)
        texts["out"] = tuple_of(results) if op.multiple else results[0]
        values["out"] = outs if op.multiple else outs[0]
        numbers["out"] = list(call.results)
        read = {name for rule in op.rules for name in rule.residuals}
        for name in op.names:
            if f"{name}_shape" not in read:
                continue
            x = values[name]
            shape = tuple(map(np.shape, x)) if isinstance(x, tuple) else np.shape(x)
            values[f"{name}_shape"], texts[f"{name}_shape"] = shape, literal(shape)
        for name, (variable, value) in self.saved.get(call.number, {}).items():
            texts[name], values[name] = variable, value
        return texts, values, numbers

    # ---- forward

    def forward(self) -> Iterator[_Line]:
        """Yield the lines of the forward pass."""
        for call in self.calls:
            op = call.op
            if (short := self.short_form(call)) is not None:
                yield from short
                continue
            out = call.run(op.forward, call.arguments)
            if op.saves:
                out, *saved = out
                names = [self.names.new(f"{self.variable[call.results[0]]}_{n}") for n in op.saves]
                pairs = zip(names, saved, strict=True)
                self.saved[call.number] = dict(zip(op.saves, pairs, strict=True))
            parts = out if op.multiple else [out]
            for number, part in zip(call.results, parts, strict=True):
                if isinstance(part, np.generic):
                    self.scalars.add(number)
            texts, _, numbers = self.namespace(call)
            formula, _ = _split(self.formulas.get(op.name, ""), op)
            value, alike = self.functions.inline(op.forward, texts) or ("", False)
            said = formula.replace("\n", "; ")
            if not value:
                name, said = self.functions.name(op.forward, doc=_doc(op, formula)), ""
                value = f"{name}({', '.join(self._arguments(call, texts))})"
            if not alike:
                self.arrays.update(n for name in op.names for n in numbers.get(name, ()))
            if _is_arithmetic(value):
                said = ""  # the line itself is the formula
            if op.multiple and not self.scalars.isdisjoint(call.results):
                value = f"map(np.asarray, {value})"
            targets = [self.variable[n] for n in call.results]
            targets += [texts[name] for name in op.saves]
            target = ", ".join(targets) + ("," if op.multiple and len(targets) == 1 else "")
            shape = self.recording.values[call.results[0]].shape
            yield _Line(target, value, said, shape, call.scope, 0 if op.multiple else number)

    def short_form(self, call: Call) -> list[_Line] | None:
        """Return the lines of a call that has a short form in this style, or None."""
        return None

    def _arguments(self, call: Call, texts: dict[str, str]) -> list[str]:
        """Return the source of a call's arguments; those after the last array have names."""
        op = call.op
        if op.variadic:
            return [f"*{texts[op.names[0]]}", *(f"{name}={texts[name]}" for name in op.names[1:])]
        arrays = [i for i, n in enumerate(op.names) if isinstance(call.arguments[n], ndarray)]
        last = max(arrays, default=0)
        return [
            texts[name] if i <= last else f"{name}={texts[name]}" for i, name in enumerate(op.names)
        ]

    # ---- backward

    def backward(self) -> Iterator[_Line]:
        """Yield the lines of the backward pass, in the order of the engine.

        For each call, from the newest to the oldest: the complete cotangent of the result, the
        rules, and the sums that add the contributions to the cotangents of the inputs.
        """
        first = self.recording.values[self.start]
        dtype = "" if first.dtype == np.float64 else f", np.{first.dtype.name}"
        number = "" if self.begin == 1 else f", {literal(self.begin)}"
        ones = f"np.{'full' if number else 'ones'}({literal(first.shape)}{number}{dtype})"
        self.reached = {self.start}
        scope = self.recording.maker[self.start].scope if self.calls else ""
        yield _Line(self.cotangent[self.start], ones, scope=scope)
        for call in sorted(self.calls, key=lambda call: -call.number):
            yield from self._pulled_back(call)

    def _pulled_back(self, call: Call) -> Iterator[_Line]:
        op, values = call.op, self.recording.values
        if short := self.short.get(call.number):
            for target, text in short.behind:
                yield _Line(target, text, scope=call.scope)
            for name, parent in call.parents.items():
                yield self._added(parent, short.sends[name], values[parent], "", call)
            return
        texts, known, numbers = self.namespace(call)
        g = [
            self.cotangent[n] if n in self.reached
            else f"np.zeros({literal(values[n].shape)}, np.{values[n].dtype.name})"
            for n in call.results
        ]  # fmt: skip
        ones = [np.ones(values[n].shape, values[n].dtype) for n in call.results]
        if half := any(values[n].dtype == np.float16 for n in call.parents.values()):
            g = [f"{text}.astype(np.float32)" if x.dtype == np.float16 else text
                 for text, x in zip(g, ones, strict=True)]  # fmt: skip
            texts = {name: _in_single(text, known.get(name)) for name, text in texts.items()}
        texts["g"] = tuple_of(g) if op.multiple else g[0]
        for rule in op.rules:
            parents = [call.parents.get(name) for name in call.several or rule.inputs]
            needs = tuple(p is not None for p in parents)
            if not any(needs):
                continue
            residuals = [known[name] for name in rule.residuals]
            extra = {"needs": needs} if rule.wants_needs else {}
            run = (rule.in_single if half else rule).function
            found = run(tuple(ones) if op.multiple else ones[0], *residuals, **extra)
            _, formula = _split(self.formulas.get(op.name, ""), op)
            texts["needs"] = literal(needs)
            value, alike = self.functions.inline(rule.function, texts) or ("", False)
            said = "; ".join(x for x in formula.split("\n") if _speaks_of(x, rule.inputs))
            if not value:
                helper = "_".join([op.name, "vjp", *(rule.inputs if len(op.rules) > 1 else ())])
                doc, said = _rules_doc(op, rule, formula), ""
                arguments = [texts[name] for name in ("g", *rule.residuals)]
                arguments += [f"needs={needs}"] if rule.wants_needs else []
                name = self.functions.name(rule.function, helper, doc)
                value = f"{name}({', '.join(arguments)})"
            if not alike:
                self.arrays.update(n for name in rule.residuals for n in numbers.get(name, ()))
            if not rule.joint:
                yield self._added(call.parents[rule.inputs[0]], value, found, said, call)
                continue
            yield from self._unpacked(parents, value, tuple(found), said, call)

    def _unpacked(
        self, parents: list, value: str, found: tuple, said: str, call: Call
    ) -> Iterator[_Line]:
        """Yield the lines of a joint rule, which returns the cotangents of several inputs."""
        targets, later = [], []
        for parent, part in zip(parents, found, strict=True):
            if parent is None:
                targets.append("_")
                continue
            name = self.cotangent[parent]
            if parent in self.reached or name in targets:
                name = self.names.new(f"{name}_from_{call.op.name}")
            if name != self.cotangent[parent] or self._fitted("x", part, parent) != "x":
                later.append((parent, name, part))
            else:
                self.reached.add(parent)
            targets.append(name)
        shapes = [tuple(part.shape) for part, parent in zip(found, parents, strict=True)
                  if parent is not None]  # fmt: skip
        target = ", ".join(targets) + ("," if len(targets) == 1 else "")
        yield _Line(
            target, value, said, shapes[:1] if len(set(shapes)) == 1 else shapes, call.scope
        )
        for parent, name, part in later:
            yield self._added(parent, name, part, "", call)

    def _added(self, parent: int, value: str, found: Any, said: str, call: Call) -> _Line:
        """Return the line that adds a contribution to a cotangent."""
        value = self._fitted(value, found, parent)
        name = self.cotangent[parent]
        if parent in self.reached:
            tree = ast.parse(value, mode="eval").body
            low = isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add | ast.Sub)
            value = f"{name} + ({value})" if low else f"{name} + {value}"
        self.reached.add(parent)
        return _Line(name, value, said, self.recording.values[parent].shape, call.scope)

    def _fitted(self, text: str, found: Any, parent: int) -> str:
        """Return a contribution in the input's shape and dtype: summed and converted."""
        like = self.recording.values[parent]
        if found.shape == like.shape and found.dtype == like.dtype:
            return text
        if not isinstance(ast.parse(text, mode="eval").body, ast.Name | ast.Call | ast.Subscript):
            text = f"({text})"
        if found.shape != like.shape:
            added = len(found.shape) - len(like.shape)
            axes = [
                i
                for i, n in enumerate(found.shape)
                if i < added or (like.shape[i - added] == 1 and n != 1)
            ]
            text += f".sum({axes[0] if len(axes) == 1 else tuple(axes)})"
            left = tuple(n for i, n in enumerate(found.shape) if i not in axes)
            if left != like.shape or not like.shape:
                text += f".reshape({literal(like.shape)})"
        if found.dtype != like.dtype:
            text += f".astype(np.{like.dtype.name})"
        return text

    # ---- the whole script

    def text(self) -> str:
        """Return the script."""
        values = self.recording.values
        for n in self.leaves:
            name = self.variable[n]
            code = self.array(values[n], name)
            self.data.append(_Line(name, code, shape=values[n].shape))
        forward = list(self.forward())
        backward = list(self.backward())
        for line in list(forward):  # values that are arrays in the engine
            if line.number in self.scalars & self.arrays:
                if line.target == self.variable[line.number]:
                    line.value = f"np.asarray({line.value})"
                else:
                    name = self.variable[line.number]
                    after = _Line(name, f"np.asarray({name})", scope=line.scope)
                    forward.insert(forward.index(line) + 1, after)
        loss = self.variable[self.start]
        imports = "\n".join(f"import {name}" for name in sorted(self._imports(forward, backward)))
        imports += "\n\n" if imports else ""
        parts = [_head(loss, bool(self.stored)) + f"\n\n{imports}import numpy as np"]
        if self.functions.definitions:
            parts.append("\n\n".join([_rule(FUNCTIONS), *self._definitions()]).rstrip() + "\n")
        sections = _sections(self.calls)
        agreement = self.agreement()
        load = LOAD.format(check=self.check()) if self.stored else ""
        parts.append(f"{_rule('data')}\n\n{load}{_aligned(self.data)}")
        parts.append(f"{_rule('forward')}\n\n{self._body(forward, sections)}")
        parts.append(f"{_rule('backward')}\n\n{self._body(backward, sections)}")
        gradients = [
            f'    {literal(self.full[n])}: np.array({self.cotangent[n]}, order="C"),'
            for n in self.leaves
        ]
        parts.append("\n".join([
            _rule("gradients"), "", "gradients = {", *gradients, "}", "",
            'np.set_printoptions(floatmode="unique")  # every digit', f'print("{loss} =", {loss})',
            "for name, gradient in gradients.items():",
            f'    print(f"\\nd {loss} / d {{name}}, {{gradient.shape}}:\\n{{gradient}}")',
        ]))  # fmt: skip
        parts += [_rule("agreement") + f"\n\n{agreement}"] if agreement else []
        return "\n\n".join(parts) + "\n"

    def agreement(self) -> str:
        """Return the lines that compare the script's numbers with the engine's, in this style."""
        return ""

    def check(self) -> str:
        """Return a hash of the arrays: the script checks that it reads the file written with it."""
        digest = hashlib.sha256()
        for name, array in self.stored.items():
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
        return digest.hexdigest()[:16]

    def _imports(self, *passes: list[_Line]) -> set[str]:
        code = [line.value for lines in passes for line in lines]
        code += self.functions.definitions.values()
        return self.functions.imports | {"math" for x in code if re.search(r"\bmath\.", x)}

    def _definitions(self) -> Iterator[str]:
        """Yield the functions and constants of the script, with empty lines between them."""
        for constant, names in groupby(
            self.functions.definitions, lambda n: not re.match("def|class",
                                                               self.functions.definitions[n])
        ):  # fmt: skip
            found = [self.functions.definitions[name] for name in names]
            yield "\n".join(found) if constant else "\n" + "\n\n\n".join(found) + "\n"

    def _body(self, lines: list[_Line], sections: dict[str, str]) -> str:
        """Return the lines with a heading for each module."""
        found = []
        for section, group in groupby(lines, lambda line: sections.get(line.scope, line.scope)):
            text = _aligned(list(group))
            found.append(f"# {shown(section)}\n{text}" if section and len(sections) > 1 else text)
        return "\n\n".join(found)


class _Textbook(_Script):
    """The script as a person would write it; see `autograd.stepper.textbook`."""

    def short_form(self, call: Call) -> list[_Line] | None:
        """Return the lines of a call that has a short form, and keep what its rules send."""
        if len(call.results) != 1:
            return None
        (number,) = call.results
        value, out = self.recording.values[number], self.variable[number]
        written = textbook.write(
            textbook.Texts(
                call,
                value,
                self.namespace(call)[0],
                out,
                self.cotangent[number],
                is_one=number == self.start and self.begin == 1,
                new=self.names.new,
            )
        )
        if written is None:
            return None
        self.short[call.number] = written
        lines = [_Line(target, text, scope=call.scope) for target, text in written.before]
        return [*lines, _Line(out, written.value, shape=value.shape, scope=call.scope)]

    def agreement(self) -> str:
        """Return the lines that compare the script's numbers with the engine's."""
        tape = self.recording.replay(self.start)
        loss = tape[self.start]
        begin = np.full(loss.shape, self.begin, loss.dtype)
        found = dict(zip(tape, grad(loss, list(tape.values()), begin), strict=True))
        numbers = [self.start, *self.leaves]
        recorded = [loss.numpy(), *(found[n].numpy() for n in self.leaves)]
        dtype = max((x.dtype for x in recorded), key=lambda dtype: np.finfo(dtype).eps)
        top = max(largest(x.numpy()) for x in (*tape.values(), *found.values()))
        names = [self.names.new(f"recorded_{self.variable[n]}") for n in numbers]
        values = [_Line(name, self.array(x, name), shape=x.shape)
                  for name, x in zip(names, recorded, strict=True)]  # fmt: skip
        pairs = zip([self.variable[self.start], *(self.cotangent[n] for n in self.leaves)], names,
                    strict=True)  # fmt: skip
        rounding = f"{ROUNDINGS * np.finfo(dtype).eps * top:.1e}"
        ours, theirs, size = map(self.names.new, ("ours", "theirs", "size"))
        return "\n".join([
            _aligned(values), "",
            f"for {ours}, {theirs} in [", *(f"    ({a}, {b})," for a, b in pairs), "]:",
            f"    {size} = np.abs({theirs}[np.isfinite({theirs})]).max(initial=0)",
            f"    np.testing.assert_allclose({ours}, {theirs}, rtol=0, "
            f"atol={AGREEMENT[dtype]} * {size} + {rounding})",
            'print("\\nthe loss and all gradients agree with those of the engine")',
        ])  # fmt: skip


def _in_single(text: str, value: Any) -> str:
    """Return the text of a value that a rule reads, with float16 converted to float32."""
    if isinstance(value, tuple):
        parts = [x for x in value if isinstance(x, ndarray) and x.dtype == np.float16]
        return f"tuple(x.astype(np.result_type(x, np.float32)) for x in {text})" if parts else text
    is_half = isinstance(value, ndarray | np.generic) and value.dtype == np.float16
    return f"{text}.astype(np.float32)" if is_half else text


def _without_root(names: Iterable[str]) -> Callable[[str], str]:
    """Return a function that removes the first part of dotted names, if most have the same."""
    deep = [name for name in names if name.count(".") > 1]
    if not deep:
        return lambda name: name
    root, n = Counter(name.split(".")[0] + "." for name in deep).most_common(1)[0]
    return lambda name: name.removeprefix(root) if 2 * n > len(deep) else name


def _sections(calls: list[Call]) -> dict[str, str]:
    """Return, for each scope, the module whose section its calls belong to."""

    def above(scope: str) -> Iterator[str]:
        parts = scope.split(".")
        return (".".join(parts[: i + 1]) for i in range(len(parts)))

    sizes = Counter(name for call in calls for name in above(call.scope))
    return {
        scope: next((name for name in above(scope) if sizes[name] <= SECTION), scope)
        for scope in dict.fromkeys(call.scope for call in calls)
    }


def _split(formula: str, op: Op) -> tuple[str, str]:
    """Split a formula into the equations of the result, and those of the cotangents."""
    lines = formula.split("\n") if formula else []
    inputs = "|".join(["x\\d+"] if op.variadic else map(re.escape, op.names))
    about = re.compile(rf"(?<![\w])(g\d*|d({inputs}))(?![^\W_])")
    first = next((i for i, line in enumerate(lines) if about.search(line)), len(lines))
    ends = [i for i, line in enumerate(lines[:first]) if re.search(r"\bout(?![^\W_])", line)]
    last = max(ends, default=-1) + 1
    return "\n".join(lines[:last]), "\n".join(lines[last:])


def _speaks_of(line: str, inputs: tuple[str, ...]) -> bool:
    left = line.split("=")[0]
    return any(re.match(rf"d{re.escape(name)}(?![^\W_])", left.strip()) for name in inputs)


def _doc(op: Op, formula: str) -> str:
    """Return the docstring for an op's function: its own first line, and the formula."""
    summary = (op.__doc__ or op.name).strip().split("\n")[0]
    if not formula:
        return summary
    return summary + "\n\n" + textwrap.indent(formula, "    ") + "\n"


def _rules_doc(op: Op, rule: Rule, formula: str) -> str:
    """Return the docstring of a rule."""
    lines = formula.split("\n") if formula else []
    others = [n for n in op.names if n not in rule.inputs]
    lines = [line for line in lines if not _speaks_of(line, tuple(others))]
    summary = f"Cotangent of {' and '.join(rule.inputs)}."
    if len(rule.inputs) > 1:
        summary = f"Cotangents of {', '.join(rule.inputs[:-1])} and {rule.inputs[-1]}."
    return summary if not lines else "\n".join([summary, "", *("    " + x for x in lines), ""])


def _head(loss: str, stored: bool) -> str:
    beside = "\nThe arrays are in the .npz beside this file.\n" if stored else ""
    return (
        f'"""What computed {loss}, and its derivatives: a tape of autograd, as NumPy.\n\n'
        f"d_x is the derivative of {loss} with respect to x. In a formula, out is an op's result,\n"
        f"g the derivative of {loss} with respect to it, and dx with respect to its input x.\n"
        f'{beside}"""'
    )


def _rule(title: str) -> str:
    return f"# ---- {title}"


def _aligned(lines: list[_Line]) -> str:
    """Return lines with their comments in one column."""
    codes = [wrapped(f"{line.target} = {line.value}", len(line.comment)) for line in lines]
    ends = [
        len(code)
        for code, line in zip(codes, lines, strict=True)
        if line.comment and "\n" not in code and len(code) + len(line.comment) + 4 <= WIDTH
    ]
    width = max([n for n in ends if n <= 64] or ends, default=0)
    padded = [0 if "\n" in code else width - len(code) for code in codes]
    return "\n".join(
        f"{code}{' ' * padding}  # {line.comment}" if line.comment else code
        for code, padding, line in zip(codes, padded, lines, strict=True)
    )


def _is_arithmetic(value: str) -> bool:
    """Return whether an expression is one operation on names and numbers."""
    tree = ast.parse(value, mode="eval").body
    return isinstance(tree, ast.BinOp) and all(
        isinstance(side, ast.Name | ast.Constant) for side in (tree.left, tree.right)
    )

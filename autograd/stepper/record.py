"""The recording of a forward pass: every call with its arguments, results, line and names.

The tape keeps what the rules will read, and nothing else. For ``z = x + 1`` it keeps no value at
all. A recording (``with autograd.record():``) also keeps the value of x, the value of z, the line
of the program, the module in which the line ran, and the names ``x`` and ``z``.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from operator import itemgetter
from os.path import abspath
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, ClassVar
from weakref import ref

import numpy as np
from numpy import ndarray

from autograd import changes
from autograd.anomaly import PACKAGE, users_frame
from autograd.blocks import Block
from autograd.dispatch import plain
from autograd.engine import Node, TensorBase, tick
from autograd.escape import shown
from autograd.modes import record_with, unseen
from autograd.op import Op
from autograd.stepper.axes import Axis, find_axes
from autograd.stepper.notebook import table
from autograd.stepper.off_tape import (
    OF_SHAPES,
    Answer,
    Number,
    Pass,
    ScalarNumber,
    each_of,
    is_unchanged,
    parts_of,
)
from autograd.stepper.source import UNKNOWN, Statement, place_of, short_place, split_line
from autograd.tensor import Tensor, _leaf

# Folders of code whose variables give no names to values: this package, where `self` may be the
# loss, and installed packages.
OTHERS = (PACKAGE, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
LONGEST_NAME = 80  # letters: a value deeper inside containers gets no name
LONGEST_EXPRESSION = 24  # letters: a result of a longer expression is called by its op
_PLAIN = {int, float, bool, str, bytes, type(None), ndarray}  # types that contain no tensors
_WITHOUT = (_PLAIN - {ndarray}) | {type, ModuleType, FunctionType}  # and are no arrays
_ARRAYS = TensorBase, ndarray


@dataclass(eq=False)
class Call:
    """One call of an op.

    Attributes
    ----------
    number : int
        The number of the call's node. Numbers ascend in the order of execution.
    op : Op
    arguments : dict of str to Any
        Every argument by name, with arrays in the place of tensors. The arrays of a variadic op
        are x0, x1, ...
    parents : dict of str to int
        For each argument that was a tensor on the tape, the number of its node.
    results : tuple of int
        The numbers of the results' nodes: the call's own number, or one for each of several
        outputs.
    line : str
        The line of the program: ``file:number: text``.
    scope : str
        The dotted name of the module in which the op ran.
    constants : dict of str to int
        For each argument that was an array off the tape, or a number from a variable: its number in
        the recording's `constants`.
    statement : Statement
        The statement of the program, and the part of it that called the op. If the source is not at
        hand, it is the text of the line.
    """

    number: int
    op: Op
    arguments: dict[str, Any]
    parents: dict[str, int]
    results: tuple[int, ...]
    line: str = ""
    scope: str = ""
    constants: dict[str, int] = field(default_factory=dict)
    statement: Statement = UNKNOWN

    @property
    def place(self) -> tuple[str, str, str]:
        """The file, the number and the text of the line; empty texts if the line is unknown."""
        return split_line(self.line)

    @property
    def at(self) -> str:
        """The file and the number of the line in short, as in ``script.py:6``."""
        return short_place(self.line)

    @property
    def part(self) -> tuple:
        """The part of the program that called the op, inside its module."""
        return self.op.name, self.line, self.scope, self.statement

    @property
    def differentiable(self) -> set[str]:
        """The names of the arguments for which the op has a rule."""
        return {*self.several, *(self.op.names[i] for i in self.op.differentiable)}

    @property
    def several(self) -> list[str]:
        """The names x0, x1, ... of the arrays of a variadic op; an empty list for other ops."""
        others = self.op.names if self.op.variadic else self.arguments
        return [name for name in self.arguments if name not in others]

    def run(self, function: Callable, values: dict[str, Any]) -> Any:
        """Call a function in the way in which the op was called, with other argument values."""
        if not self.op.variadic:
            return function(*values.values())
        static = {name: values[name] for name in self.op.names[1:]}
        return function(*[values[name] for name in self.several], **static)


@dataclass(eq=False)
class Recording:
    """Calls, values and names, each by the number of a node; made by :func:`record`.

    Attributes
    ----------
    calls : dict of int to Call
        The calls in order of execution.
    values : dict of int to ndarray
        The values of leaves and results at the time of their calls. Do not write to them.
    names : dict of int to str
        Names of values: those of the parameters of modules, and of variables of the program. No two
        values have the same name, and some have none.
    constants : dict of int to ndarray
        The arrays off the tape that calls have read, and the numbers that variables held. They have
        numbers and names as values have, and no cotangents. Do not write to them.
    axes : dict of int to tuple of Axis
        What the axes of some values count, as the program says; see `axes_of`.
    texts : dict of tuple of str to list
        What has a text: ``texts["example", "position"][0][3]`` is the text of position 3 of example
        0. The last name is that of what has the text.
    answers : list of Answer
        What the program computed off the tape from values on it, in the order of execution.
    maker : dict of int to Call
        For each result, the call that computed it. A number that is missing is that of a leaf, or
        of a result from before the recording.
    """

    calls: dict[int, Call] = field(default_factory=dict)
    values: dict[int, ndarray] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    keeps_calls: ClassVar[bool] = True  # for `autograd.modes.current_recording`
    file: str = ""  # the file whose lines to note; if empty, those of the program
    constants: dict[int, ndarray] = field(default_factory=dict)
    axes: dict[int, tuple[Axis, ...]] = field(default_factory=dict)
    texts: dict[tuple[str, ...], list] = field(default_factory=dict)
    copies: bool = True  # whether leaves are copied when they are used
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = {number: shown(name) for number, name in self.names.items()}
        self.maker = {number: call for call in self.calls.values() for number in call.results}
        self._numbers = {name: number for number, name in self.names.items()}
        self._namesakes: dict[str, int] = {}  # n, if the names name_2, ..., name_n are taken
        self._parameters: set[int] = set()  # numbers of values whose names come from modules
        self._nodes: dict[int, ref[Node]] = {}
        self._modules: dict[int, tuple[Any, str]] = {}  # by id: the module, and its dotted name
        self._scopes = [""]
        self._foreign: set[int] = set()  # ids of arrays that the program may write to
        self._copied_at: dict[int, int] = {}  # for each leaf, the time when it was copied
        # The number of a constant: by the id of the program's array, with a reference that tells
        # whether that array still exists; and by the name and value of a variable with a number.
        self._arrays: dict[int, tuple[ref[ndarray], int]] = {}
        self._scalars: dict[tuple[str, Any], int] = {}
        # Leaves that were asked about, and that no call has read yet: who fills or updates a leaf
        # may write to it without a word.
        self._asked: set[int] = set()
        # For the id of an array that is an answer: a reference as above, and the answer.
        self._answered: dict[int, tuple[ref[ndarray], Answer]] = {}
        # Tables for `name` and `axes_of`, each with the size of the recording when it was made.
        self._unnamed: tuple[int, dict[int, str]] = 0, {}
        self._found_axes: tuple[int, dict[Any, tuple[Axis, ...]]] = 0, {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a recording belongs to its tape, and the tape cannot be copied or pickled; "
            "Trace.save writes a recording to files"
        )

    def __repr__(self) -> str:
        return f"<Recording of {len(self.calls)} calls>"

    def _repr_html_(self) -> str:
        """Show the calls in a notebook."""
        return table(repr(self)[1:-1], ["result", "op", "of", "holds", "module", "line"], [
            (
                ", ".join(map(self.name, call.results)),
                call.op.name,
                ", ".join(map(self.name, call.parents.values())),
                kind(self.values[call.results[0]]),
                call.scope,
                call.at,
            )
            for call in self.calls.values()
        ])  # fmt: skip

    # ---- reading the recording

    def leaves(self) -> list[int]:
        """Return the numbers of the leaves, in the order in which they were first used."""
        return [number for number in self.values if number not in self.maker]

    def name(self, number: int) -> str:
        """Return the name of a value.

        A result that no variable holds is called by the part of the program that computed it, such
        as ``W @ x``, if this part is short and ran once, outside of modules. Otherwise, it is
        numbered among the results of its op, or of the variable that it was assigned to first, in
        its module: ``h.0.mlp.affine_1``, or ``h_49`` in a loop that assigns to ``h``.
        """
        if number in self.names:
            return self.names[number]
        size = len(self.calls) + len(self.values) + len(self.constants)
        if self._unnamed[0] != size:
            self._unnamed = size, self._descriptions()
        return self._unnamed[1].get(number, f"node_{number}")

    def _descriptions(self) -> dict[int, str]:
        """Return what values are called that no variable holds; see `name`."""
        found: dict[int, str] = {}
        counts = Counter[str]()

        def count_up(number: int, kind: str) -> None:
            counts[kind] += 1
            while f"{kind}_{counts[kind]}" in self._numbers:
                counts[kind] += 1
            found[number] = f"{kind}_{counts[kind]}"

        for number in self.leaves():
            count_up(number, "leaf")
        for number in self.constants:
            count_up(number, "array")
        texts = Counter(call.statement.running for call in self.calls.values())
        ops: dict[tuple, set[str]] = {}  # of each part: a library function may call several
        for call in self.calls.values():
            ops.setdefault(call.part[1:], set()).add(call.op.name)
        for call in self.calls.values():
            text = call.statement.running
            is_short = 0 < len(text) <= LONGEST_EXPRESSION and not call.op.multiple
            if is_short and not call.scope and texts[text] == 1:
                found[call.number] = text
                continue
            is_direct = not call.op.multiple and len(ops[call.part[1:]]) == 1
            own = call.statement.target if is_direct else ""
            for result in dict.fromkeys((*call.results, call.number)):
                if result not in self.names:
                    count_up(result, f"{call.scope}.{own or call.op.name}".removeprefix("."))
        return found

    def number(self, name: str) -> int:
        """Return the number of the value with this name; raise KeyError if there is none."""
        if name in self._numbers:
            return self._numbers[name]
        found = [number for number in self.values if self.name(number) == name]
        if not found:
            raise KeyError(name)
        return found[0]

    def node(self, number: int) -> Node | None:
        """Return the node of a value, or None if the program has dropped its tape."""
        return self._nodes[number]() if number in self._nodes else None

    def axes_of(self, number: int, name: str = "") -> tuple[Axis, ...]:
        """Return what each axis of a value counts, as far as it is known.

        With a name, `number` is that of a call, and the axes are those of a name that the formula
        of the call alone has. See `autograd.stepper.axes`.
        """
        size = len(self.calls) + len(self.axes)
        if self._found_axes[0] != size:
            self._found_axes = size, find_axes(self)
        return self._found_axes[1].get((number, name) if name else number, ())

    def resemble(self, other: Recording) -> None:
        """Take names and axes from another recording of the program, with the same numbers."""
        other.name(0)  # fills the table of names, and the next line that of axes
        other.axes_of(0)
        self._unnamed = len(self.calls) + len(self.values) + len(self.constants), other._unnamed[1]
        self._found_axes = len(self.calls) + len(self.axes), other._found_axes[1]

    def behind(self, number: int, answers: bool = False) -> list[Call]:
        """Return the calls that computed a value and its inputs, in order of execution.

        With `answers`, also those that computed what was asked off the tape, through which no
        gradient flows: the maximum in ``x * (x == np.max(x))``, the sum in ``if x.sum() > 0:``.
        """
        found: set[int] = set()
        wanted = {number}
        if answers:
            wanted.update(n for answer in self.answers for n in answer.numbers)
        for call in reversed(self.calls.values()):
            if call.number in wanted or not wanted.isdisjoint(call.results):
                found.add(call.number)
                wanted.update(call.parents.values())
        return [call for call in self.calls.values() if call.number in found]

    # ---- recording (the Recorder of `autograd.modes.record_with`)

    def recorded(self, op: Op, args: tuple, result: Any) -> None:
        """Keep a call: this is the method that the engine calls for each op."""
        frame = users_frame(self.file)
        line, statement = place_of(frame)
        outputs = result if isinstance(result, tuple) else (result,)
        nodes = [y._node for y in outputs]
        owner = nodes[0].selects[0] if nodes[0].selects else nodes[0]
        arguments, parents, constants = {}, {}, {}
        for name, x in op.named(args):
            if isinstance(x, TensorBase) and x._node is not None:
                parents[name] = x._node.number
                arguments[name] = self._value(x, line)
            elif isinstance(x, _ARRAYS):
                constants[name] = self._constant(x if isinstance(x, ndarray) else x._array)
                arguments[name] = self.constants[constants[name]]
            else:
                arguments[name] = _copy_arrays(x)
                if type(x) in (int, float) and any(name in rule.inputs for rule in op.rules):
                    constants |= self._scalar(name, x, statement, frame)
        call = Call(owner.number, op, arguments, parents, tuple([node.number for node in nodes]),
                    line, self._scopes[-1], constants, statement)  # fmt: skip
        self.calls[owner.number] = call
        for node in {owner, *nodes}:
            # not by `Node.mark`, which takes a lock: no other thread has this node yet
            node.made_at, node.recording, node.plain = line, self, False
            self._nodes[node.number] = ref(node)
        for y, node in zip(outputs, nodes, strict=True):
            self.maker[node.number] = call
            self.values[node.number] = self._copied(y._array)
        if frame.f_code.co_name != "<module>":  # a script's variables are named at the end
            self._see_variables(frame)

    def _constant(self, x: ndarray) -> int:
        """Return the number of an array off the tape; a new number if the array has changed."""
        owner, number = self._arrays.get(id(x), (None, 0))
        if owner is not None and owner() is x and is_unchanged(x, self.constants[number]):
            return number
        number = tick()
        self._foreign.add(id(changes._root(x)))
        self._arrays[id(x)] = ref(x), number
        self.constants[number] = x.copy(order="K")
        if answer := self._answer(x):
            if answer.constant >= 0:  # the program has written to the array since
                answer = replace(answer)
                self.answers.append(answer)
            answer.constant = number
        return number

    def _answer(self, x: ndarray) -> Answer | None:
        """Return how the program computed an array off the tape, as far as the recording saw."""
        owner, answer = self._answered.get(id(x), (None, None))
        return answer if owner is not None and owner() is x else None

    def answered(
        self, function: Callable | None, args: tuple, kwargs: dict[str, Any], result: Any
    ) -> None:
        """Keep how a result off the tape was computed; see `autograd.modes.answered`."""

        def is_from_tape(x: Any) -> bool:
            if isinstance(x, TensorBase):
                return x._node is not None or self._answer(x._array) is not None
            return type(x) is ndarray and self._answer(x) is not None

        def kept(x: Any) -> Any:
            if isinstance(x, TensorBase) and x._node is not None:
                number = x._node.number
                if number not in self.values:
                    self._value(x, line)
                    self._asked.add(number)
                return Number(number)
            if isinstance(x, _ARRAYS):
                return Number(self._constant(plain(x)))
            of = self._scalar("", x, statement, frame) if type(x) is float else {}
            return ScalarNumber(of[""]) if of else x

        if function in OF_SHAPES or not any(map(is_from_tape, parts_of([*args, *kwargs.values()]))):
            return
        frame = users_frame(self.file)
        line, statement = place_of(frame)
        place = f"{shown(statement.running or split_line(line)[2])}  {short_place(line)}"
        given = {key: each_of(kept, x) for key, x in kwargs.items()}
        answer = Answer(function, each_of(kept, args), given, place)
        several = isinstance(result, tuple)
        for part, x in enumerate(result) if several else [(None, result)]:
            answer = replace(answer, part=part)
            self.answers.append(answer)
            if type(x := plain(x)) is ndarray:
                self._answered[id(x)] = ref(x), answer

    def _scalar(
        self, argument: str, x: float, statement: Statement, frame: FrameType
    ) -> dict[str, int]:
        """Return the argument with the number of the variable that it was read from, if any.

        Equal constants of a program are one object, so the statement must also name the variable.
        """
        for name in re.findall(r"[^\W\d]\w*", statement.running or statement.text):
            if frame.f_locals.get(name, frame.f_globals.get(name)) is x:
                if (name, x) not in self._scalars:
                    self._scalars[name, x] = number = tick()
                    self.constants[number] = np.asarray(x)
                    scope = self._scopes[-1] and self._scopes[-1] + "."
                    self.give_name(number, self._free(scope + name))
                return {argument: self._scalars[name, x]}
        return {}

    def _value(self, x: TensorBase, line: str) -> ndarray:
        """Return the array of a tensor on the tape: the recorded array, or for a leaf a copy.

        A leaf is copied because the program may write to its array. The copy is used again as long
        as the array is the same.
        """
        assert x._node is not None
        number = x._node.number
        known, asked = self.values.get(number), number in self._asked
        self._asked.discard(number)
        if known is not None and (
            number in self.maker
            or (changes.last_entry <= self._copied_at[number] and not asked)
            or np.array_equal(known, x._array, equal_nan=True)
        ):
            return known
        if asked:  # answers of before, as of the update before this pass, are about other numbers
            self.answers = [a for a in self.answers if number not in a.numbers]
        elif known is not None:
            place = f"the value of a leaf, which was written to  {short_place(line)}"
            self.answers.append(Answer(None, (Number(number),), {}, place))
        self._nodes[number] = ref(x._node)
        self._copied_at[number] = changes.last_entry
        if not self.copies:
            self.values[number] = x._array
            return x._array
        self._foreign.add(id(changes._root(x._array)))
        self.values[number] = x._array.copy(order="K")
        return self.values[number]

    def _copied(self, out: ndarray) -> ndarray:
        """Return a result, or a copy if it is a view of an array that the program may write to."""
        return out.copy(order="K") if id(changes._root(out)) in self._foreign else out

    def take(self) -> Recording:
        """Return everything recorded so far as a new recording, and empty this one.

        Without this, the recording of a long training loop would grow without bound.
        """
        taken = Recording(
            self.calls, self.values, self.names, self.file, self.constants, self.axes, self.texts,
            self.copies, self.answers,
        )  # fmt: skip
        taken._arrays = self._arrays
        taken._nodes, taken._modules, taken._parameters = self._nodes, {}, self._parameters
        for node in filter(None, map(taken.node, taken._nodes)):
            node.mark(recording=taken)
        self.calls, self.values, self.names, self.constants = {}, {}, {}, {}
        self.axes, self.texts, self.answers = {}, {}, []
        self.__post_init__()
        return taken

    # ---- names

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Give the calls inside the block a scope: the full dotted name of a module."""
        self._scopes.append(shown(name))
        try:
            yield
        finally:
            self._scopes.pop()

    def module(self, module: Any) -> Any:
        """Return the block of a module's scope.

        The outermost module gives names to its parameters and to the modules inside it.
        """
        if id(module) not in self._modules:
            for path, part in module.named_modules():
                self._modules.setdefault(id(part), (part, path))
            self._see_parameters(module)
        return self.scope(self._modules[id(module)][1])

    def _see_parameters(self, module: Any) -> None:
        for name, parameter in module.named_parameters():
            node = getattr(parameter, "_node", None)
            if node is not None and node.number not in self._parameters:
                self.give_name(node.number, name)
                self._parameters.add(node.number)

    def give_name(self, number: int, name: str) -> None:
        """Give a value a name. If another value has this name, it is renamed to ``name_2``."""
        name = shown(name)
        other = self._numbers.get(name)
        if other == number or other in self._parameters:
            return
        if number in self.names:
            del self._numbers[self.names[number]]
            self._namesakes.clear()
        if other is not None:
            moved = self._free(name)
            self.names[other], self._numbers[moved] = moved, other
        self.names[number], self._numbers[name] = name, number

    def _free(self, name: str) -> str:
        """Return the name if no value has it, or else the first free one of name_2, name_3, ..."""
        free, i = name, self._namesakes.get(name, 1)
        while free in self._numbers:
            i += 1
            free = f"{name}_{i}"
        self._namesakes[name] = i
        return free

    def _see_variables(self, frame: FrameType) -> None:
        """Name values after the variables of a function that hold them, inside its scope."""
        scope = self._scopes[-1] and self._scopes[-1] + "."
        for name, value in frame.f_locals.items():
            if isinstance(value, _ARRAYS):
                number = self._number_of(value)
                if number is not None and number not in self.names:
                    name = self._free(scope + name)
                    self.names[number], self._numbers[name] = name, number

    def _number_of(self, value: Any) -> int | None:
        """Return the number of the value or the constant that is a variable's content, if any."""
        if isinstance(value, TensorBase):
            if value._node is not None:
                return value._node.number if value._node.number in self.values else None
            value = value._array
        if type(value) is ndarray:
            owner, number = self._arrays.get(id(value), (None, 0))
            return number if owner is not None and owner() is value else None
        return None

    def name_variables(self, frame: FrameType) -> None:
        """Name values after the variables of a frame and of its callers.

        The names of modules' parameters stay. If several variables hold a value, an attribute of an
        object is preferred (``model.w``), then a plain variable (``w``), then an entry of a list
        (``ws[0]``), and among equal ones the first. So the variable of a loop ``for w in ws`` does
        not become the name of a parameter.
        """
        frames = []
        here: FrameType | None = frame if self.values or self.constants else None
        while here is not None:
            file = here.f_code.co_filename
            if file == self.file or not file.startswith(OTHERS):
                frames.append(here)
            here = here.f_back
        for here in reversed(frames):  # names from inner frames replace those from outer ones
            seen: set[int] = set()
            found = [
                (2 * ("." in name) - ("[" in name), name, number)
                for variable, value in list(here.f_locals.items())
                if not variable.startswith("_") and type(value) not in _WITHOUT
                for name, number in self._named_in(variable, value, here, seen)
            ]
            names: dict[int, str] = {}
            for _, name, number in sorted(found, key=itemgetter(0), reverse=True):
                names.setdefault(number, name)
            for number, name in names.items():
                if number not in self._parameters:
                    self.give_name(number, name)

    def _named_in(
        self, name: str, value: Any, frame: FrameType, seen: set[int]
    ) -> Iterator[tuple[str, int]]:
        """Yield names and numbers: of a tensor or array, or of those in a container or object."""
        number = self._number_of(value)
        if number is not None:
            yield name, number
        if number is not None or isinstance(value, TensorBase):
            return
        if id(value) in seen or len(name) > LONGEST_NAME:
            return
        seen.add(id(value))
        inside: Iterable[tuple[str, Any]] = ()
        if isinstance(value, list | tuple) and len(value) <= 1000:
            inside = ((f"[{i}]", x) for i, x in enumerate(value) if type(x) not in _PLAIN)
        elif isinstance(value, dict) and len(value) <= 1000:
            items = list(value.items())  # a thread of the program may change the dict meanwhile
            inside = ((f"[{key!r}]", item) for key, item in items if isinstance(key, str))
        elif not isinstance(value, type) and hasattr(type(value), "named_parameters"):
            if id(value) not in self._modules:  # otherwise `module` has seen its parameters
                self._see_parameters(value)
        elif _belongs_to(frame, value):
            inside = ((f".{key}", item) for key, item in list(vars(value).items()))
        for suffix, item in inside:
            yield from self._named_in(name + suffix, item, frame, seen)

    # ---- running the calls again

    @unseen()
    def replay(
        self,
        number: int,
        changed: dict[int, ndarray] | None = None,
        dtype: Any = None,
        leaves: Collection[int] = (),
        answers: dict[int, ndarray] | None = None,
    ) -> dict[int, Tensor]:
        """Run the calls that computed a value again.

        Parameters
        ----------
        number : int
            The number of the value.
        changed : dict of int to ndarray, optional
            Values of leaves, results or constants that replace the recorded ones.
        dtype : dtype_like, optional
            The dtype to compute in, instead of the recorded ones.
        leaves : collection of int, optional
            Constants that become leaves, where an op has a rule for them.
        answers : dict of int to ndarray, optional
            If given, the constants that the program computed from changed values, as in ``x > 0``,
            are computed again, and put in here.

        Returns
        -------
        dict of int to Tensor
            The leaves and results, on a new tape whose nodes have the numbers of the recorded ones.
        """
        changed = changed or {}

        def convert(x: Any) -> Any:
            floating = isinstance(x, ndarray) and x.dtype.kind == "f"
            return x.astype(dtype) if dtype is not None and floating else x

        this = Pass(self, changed, answers)
        tensors = this.tensors

        def argument(call: Call, name: str) -> Any:
            value, parent = call.arguments[name], call.parents.get(name)
            order, constant = parent, call.constants.get(name)
            other = None if constant is None else this.constant(constant)
            if other is not None:
                value = other if isinstance(value, ndarray) else other.item()
            if constant is not None and constant in leaves and name in call.differentiable:
                # the number of a constant is newer than that of the call's result
                parent, order = constant, -constant
            if parent is None:
                return convert(value)
            if parent not in tensors:
                value = changed.get(parent, self.values.get(parent, value))
                tensors[parent] = leaf_of(convert(value))
                tensors[parent]._node.number = order  # type: ignore[union-attr]
            return tensors[parent]

        # For z = x * y + x, the loop runs multiply on the recorded x and y, then add on its result
        # and x. A result in `changed` becomes a leaf, so that what follows depends on this leaf.
        for call in self.behind(number, answers is not None):
            values = {name: argument(call, name) for name in call.arguments}
            out = call.run(call.op, values)
            outputs = out if isinstance(out, tuple) else (out,)
            for result, y in zip(call.results, outputs, strict=True):
                if y._node.selects:
                    y._node.selects[0].number = call.number
                y._node.number = result
                tensors[result] = y
                if result in changed:
                    tensors[result] = leaf_of(convert(changed[result]))
                    tensors[result]._node.number = result  # type: ignore[union-attr]
        if answers is not None:
            for answer in self.answers:  # also those that no call reads
                if answer.constant >= 0:
                    this.constant(answer.constant)
        return tensors


def leaf_of(x: Any) -> Tensor:
    """Return a leaf with a recorded array, which is not copied, since nobody writes to it."""
    array = np.asarray(x)
    return Tensor(array, _leaf(array))


def record(file: str = "", copy: bool = True) -> Block:
    """Record every call inside the block with all its values, for `step`, `draw` and `to_source`.

    Use it as a block, ``with record() as recording:``, or as a decorator, ``@record()``. Each call
    of a decorated function makes a new recording; `step` finds it by the function's result.

    Parameters
    ----------
    file : str, optional
        The file whose lines to note for each call, and whose variables name values. By default, the
        innermost line outside this package is noted, and the variables of all files count that do
        not belong to installed packages.
    copy : bool
        Whether to copy leaves, which a program may change in place. Without a copy, the recording
        of a large model takes less time and half the memory, and nothing may be written to its
        parameters as long as the recording is in use.

    Returns
    -------
    Block
        A ``with`` statement on it gives the `Recording`.

    Raises
    ------
    TypeError
        If `file` is not a text, for example because ``@record`` was written without parentheses.

    Examples
    --------
    >>> import autograd
    >>> with autograd.record() as recording:
    ...     x = autograd.tensor(3.0, requires_grad=True)
    ...     y = x * x
    >>> [call.op.name for call in recording.calls.values()]
    ['multiply']
    >>> recording.names[y._node.number]
    'y'
    """
    if not isinstance(file, str):
        raise TypeError(
            f"record: file is {file!r:.60}; expected the name of a file, or none: @record()"
        )
    return Block(partial(Recording, file=file, copies=copy), _recording)


@contextmanager
def _recording(recording: Recording) -> Iterator[Recording]:
    with record_with(recording):
        yield recording
    recording.name_variables(users_frame())


def recording_of(x: Any, what: str = "step") -> Recording:
    """Return the recording in which a tensor was made.

    Raises
    ------
    TypeError
        If `x` is not a tensor.
    RuntimeError
        If `x` requires no gradient, or was not made inside a recording. `what` is the name of the
        function that needs the recording, for the message.
    """
    if not isinstance(x, TensorBase):
        raise TypeError(f"{what} needs a tensor, and was given {type(x).__name__}")
    if x._node is None:
        raise RuntimeError(
            f"{what}: this tensor of shape {x.shape} requires no gradient"  # type: ignore[attr-defined]
        )
    recording = getattr(x._node, "recording", None)
    if recording is None:
        raise RuntimeError(
            f"{what}: this tape was not recorded; compute the loss inside `with autograd.record():`"
        )
    return recording


def kind(x: Any) -> str:
    """Return dtype and shape, as in ``float64[2, 3]``."""
    x = np.asarray(x)
    return f"{x.dtype}{list(x.shape) if x.ndim else ''}"


def _belongs_to(frame: FrameType, value: Any) -> bool:
    """Return whether an object's class is from the frame's module, or from a file beside it."""
    if isinstance(value, type | ModuleType) or not hasattr(value, "__dict__"):
        return False
    module = type(value).__module__
    if module == frame.f_globals.get("__name__"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and _folder_of(abspath(file)) == _folder_of(
        abspath(frame.f_code.co_filename)
    )


@lru_cache(maxsize=10_000)
def _folder_of(file: str) -> Path:
    """Return the folder of a source file, given its absolute path, without symbolic links."""
    return Path(file).resolve().parent


def _copy_arrays(value: Any) -> Any:
    """Return an argument with copies of its arrays, because the caller may write to them."""
    if isinstance(value, ndarray):
        return value.copy(order="K")
    if isinstance(value, list | tuple):
        items = [_copy_arrays(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value

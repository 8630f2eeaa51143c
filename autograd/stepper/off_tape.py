"""What a program computed off the tape, such as the condition ``x > 0``: seen, and computed again.

A recording keeps calls of ops. Between them, a program asks for numbers through which no gradient
flows: comparisons, orders, constants, branches. An `Answer` says how the program got one. So a pass
with other values can compute it again, or say that it is another one now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from autograd.dispatch import rebuilt

if TYPE_CHECKING:
    from autograd.stepper.record import Recording
    from autograd.tensor import Tensor

OF_SHAPES = {np.ndim, np.shape, np.size}  # functions whose results do not depend on values


class Number(int):
    """The number of a value or a constant, in the place of its tensor or array."""


class ScalarNumber(Number):
    """The number of a constant that is no array, but a number from a variable."""


@dataclass(eq=False)
class Answer:
    """What the program computed off the tape: the booleans of ``x > 0``, for example.

    Attributes
    ----------
    function : callable, optional
        What computed it, from arrays: `operator.gt`. None if that is not known.
    args, kwargs : tuple, dict
        The arguments, with a `Number` in the place of each tensor and each array.
    place : str
        The part of the program, and its file and line: ``x > 0  script.py:6``.
    part : int, optional
        Which of several results it is.
    constant : int
        The number of the array among the recording's constants; -1 if nothing that the recording
        sees has read it.
    """

    function: Callable | None
    args: tuple
    kwargs: dict[str, Any]
    place: str
    part: int | None = None
    constant: int = -1

    @property
    def numbers(self) -> list[int]:
        """The numbers of the values and constants that it was computed from."""
        parts = parts_of([*self.args, *self.kwargs.values()])
        return [x for x in parts if isinstance(x, Number)]

    def compute(self, values: Mapping[int, ndarray]) -> ndarray | None:
        """Compute it from the values of a pass; None if one of these is missing."""
        if self.function is None or not all(n in values for n in self.numbers):
            return None

        def given(x: Any) -> Any:
            if isinstance(x, ScalarNumber):
                return values[x].item()  # NumPy's dtypes depend on that
            return values[x] if isinstance(x, Number) else x

        kwargs = {name: each_of(given, x) for name, x in self.kwargs.items()}
        result = self.function(*each_of(given, self.args), **kwargs)
        return np.asarray(result if self.part is None else result[self.part])

    def is_same(self, before: Mapping[int, ndarray], after: Mapping[int, ndarray]) -> bool:
        """Return whether the values of two passes are known to give the same."""
        x, y = self.compute(before), self.compute(after)
        return x is not None and y is not None and is_unchanged(x, y)


def parts_of(x: Any) -> Iterator[Any]:
    """Yield an argument, or the parts of a list or tuple, also those inside it."""
    if isinstance(x, list | tuple):
        for part in x:
            yield from parts_of(part)
    else:
        yield x


def each_of(function: Callable, x: Any) -> Any:
    """Return an argument with other parts, also those inside lists and tuples."""
    if isinstance(x, list | tuple):
        return rebuilt(x, [each_of(function, part) for part in x])
    return function(x)


@dataclass(eq=False)
class Pass:
    """The values of a pass that runs again, as far as the pass has come; see `Recording.replay`."""

    recording: Recording
    changed: dict[int, ndarray]
    answers: dict[int, ndarray] | None
    tensors: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = self.recording.answers if self.answers is not None else []
        self._asked = {answer.constant: answer for answer in known}
        self._recorded = self.recording.values | self.recording.constants

    def constant(self, number: int) -> ndarray | None:
        """Return a constant if it is another one than in the recording, or was computed again."""
        answer = self._asked.get(number)
        if self.answers is None or answer is None or number in self.changed:
            return self.changed.get(number)
        if number not in self.answers:
            old = answer.compute(self._recorded)
            if old is None or not is_unchanged(old, self._recorded[number]):
                return None  # the program has written to it since
            values = {n: x for n in answer.numbers if (x := self._value(n)) is not None}
            again = answer.compute(values)
            if again is None:
                return None
            self.answers[number] = again
        return self.answers[number]

    def _value(self, n: int) -> ndarray | None:
        """Return a value or a constant; None if the pass has not come so far."""
        if n in self.tensors:
            return self.tensors[n]._array
        if n in self.recording.maker:
            return None
        other = self.constant(n) if n in self.recording.constants else self.changed.get(n)
        return self._recorded.get(n) if other is None else other


def is_unchanged(x: ndarray, copy: ndarray) -> bool:
    """Return whether an array still has the dtype, the shape and the elements of its copy."""
    if x.dtype != copy.dtype or x.shape != copy.shape:
        return False
    return np.array_equal(x, copy, equal_nan=x.dtype.kind in "fc")

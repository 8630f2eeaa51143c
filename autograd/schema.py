"""Values of files and options, checked against annotated types: `fit`.

A type annotation says what a value must be, and `Range` in it the bounds of a number:

>>> from typing import Annotated
>>> fit([1, 2], list[Annotated[int, Range(1)]], "sizes")
[1, 2]
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NotRequired

from autograd.escape import brief


class UserError(ValueError):
    """An error that the user can correct.

    The message says what was given, what was expected, and what to do.
    """


@dataclass(frozen=True)
class Range:
    """The bounds of a number, for `typing.Annotated`.

    Parameters
    ----------
    low, high : float
        The smallest and the largest value.
    excluded : float, optional
        A bound that is itself not allowed.
    finite : bool
        Whether infinities are refused. NaN is always refused.

    Examples
    --------
    >>> from typing import Annotated
    >>> fit(1, Annotated[float, Range(0, 1)], "top_p")
    1.0
    >>> fit(1.5, Annotated[float, Range(0, 1)], "top_p")
    Traceback (most recent call last):
      ...
    autograd.schema.UserError: top_p is 1.5; it must be a number from 0 to 1
    """

    low: float = -math.inf
    high: float = math.inf
    excluded: float | None = None
    finite: bool = True

    def check(self, value: Any, name: str) -> None:
        """Refuse a number that is out of bounds; `name` says what the number is."""
        if value == self.low == self.excluded:
            reason = f"is {brief(value)}; it must be above {self.low:g}"
        elif self.low <= value <= self.high and value != self.excluded:
            if not self.finite or -math.inf < value < math.inf:
                return
            reason = f"is {value}; it must be a finite number"
        elif value != value:
            reason = "is nan; it must be a number"
        elif self.high <= 1 and self.low == 0:
            bounds = "in [0, 1)" if self.excluded == 1 else "a number from 0 to 1"
            reason = f"is {brief(value)}; it must be {bounds}"
        elif value > self.high:
            power = int(self.high).bit_length() - 1 if self.high < math.inf else 0
            limit = f"2^{power}" if power > 9 and self.high == 2**power else f"{self.high:,}"
            reason = f"is too large; it must be at most {limit}"
        elif self.low == 0:
            reason = f"is {brief(value)}; it must not be negative"
        else:
            reason = f"is {brief(value)}; it must be at least {self.low:,}"
        raise UserError(f"{name} {reason}")


class _AnyName:
    """Marks a string as a file's name, which may hold bytes that are not UTF-8."""


FileName = Annotated[str, _AnyName]
"""A string that names a file; Python keeps bytes that are not UTF-8 as halves of surrogates."""
Count = Annotated[int, Range(0, 2**63 - 1)]
"""A number of things, or an index."""
Check = Callable[[Any, str], Any]


class _WrongType(UserError):
    """The value itself, and not a value inside of it, has the wrong type.

    A union then tries its next type.
    """


def fit(value: Any, annotation: Any, name: str = "") -> Any:
    """Return a value as the type that an annotation says, or refuse the value.

    Parameters
    ----------
    value : object
        Of JSON, TOML or Python.
    annotation : type
        ``Any``, ``None``, ``bool``, ``int``, ``float``, ``str``, lists, tuples and dictionaries of
        these, unions, literals, data classes and typed dictionaries. A data class refuses keys that
        the class does not have; a typed dictionary lets them pass. `Range` in ``Annotated`` bounds
        numbers.
    name : str
        What the message calls the value.

    Returns
    -------
    object
        The value; an integer as a float where the annotation is ``float``, a list as a tuple where
        the annotation is a tuple, an object as an instance where it is a data class.

    Raises
    ------
    UserError
        If the value does not have that type, or a number is out of bounds.

    Examples
    --------
    >>> fit("12", int | None, "batch_size")
    Traceback (most recent call last):
      ...
    autograd.schema.UserError: batch_size must be a whole number or absent, and is '12'
    """
    try:
        return _check_of(annotation)(value, name)
    except _WrongType as error:
        raise UserError(str(error)) from None


def fit_fields(instance: Any, names: Iterable[str] | None = None) -> None:
    """Check all fields of a data class, or some, by their annotations, as `fit` does."""
    kind: Any = type(instance)
    hints = _hints(kind)
    for name in names or [field.name for field in dataclasses.fields(instance)]:
        setattr(instance, name, fit(getattr(instance, name), hints[name], name))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


@functools.cache
def _check_of(annotation: Any) -> Check:
    """Return the function that checks values of an annotation."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return _accept
    if origin is Annotated:
        if _AnyName in annotation.__metadata__:
            return _check_file_name
        bounds = next((each for each in annotation.__metadata__ if isinstance(each, Range)), None)
        return _check_of(parts[0]) if bounds is None else _check_number(parts[0], bounds)
    if annotation is str:
        return _check_text
    if annotation in (int, float):
        return _check_number(annotation, Range())
    if origin in (types.UnionType, typing.Union):
        return _check_union(annotation, [_check_of(part) for part in parts])
    if origin is Literal:
        return _check_literal(annotation, parts)
    if dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation):
        return _check_object(annotation)
    kind = origin or annotation
    if kind is tuple and Ellipsis not in parts and parts:
        return _check_row(annotation, [_check_of(part) for part in parts])
    if kind is dict and parts:
        return _check_mapping(annotation, _check_of(parts[1]))
    if kind in (list, tuple):
        return _check_sequence(annotation, kind, _check_of(parts[0] if parts else Any))
    return _check_instance(annotation, type(None) if kind is None else kind)


def _accept(value: Any, name: str) -> Any:
    return value


def _check_instance(annotation: Any, kind: type) -> Check:
    def check(value: Any, name: str) -> Any:
        if not isinstance(value, kind):
            raise _wrong(value, annotation, name)
        return value

    return check


def _check_text(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        raise _wrong(value, str, name)
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{name} is {brief(value)}, which no UTF-8 can hold")
    return value


def _check_file_name(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        raise _wrong(value, str, name)
    if "\0" in value:
        raise UserError(
            f"{name} is {brief(value)}, and holds a zero byte, which no file's name has"
        )
    return value


def _check_number(kind: type, bounds: Range) -> Check:
    accepted = Integral if kind is int else Real

    def check(value: Any, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise _wrong(value, kind, name)
        try:
            number = kind(value)
        except OverflowError:
            raise UserError(f"{name} is too large") from None
        bounds.check(number, name)
        return number

    return check


def _check_union(annotation: Any, checks: list[Check]) -> Check:
    def check(value: Any, name: str) -> Any:
        found = None
        for each in checks:
            try:
                return each(value, name)
            except _WrongType:
                pass
            except UserError as error:  # the right type, and a wrong value
                found = found or error
        raise found or _wrong(value, annotation, name)

    return check


def _check_literal(annotation: Any, known: tuple) -> Check:
    def check(value: Any, name: str) -> Any:
        if not any(type(value) is type(each) and value == each for each in known):
            error = _wrong(value, annotation, name)
            if isinstance(value, str) and (close := _closest(value, map(str, known))):
                error = _WrongType(f"{error}; did you mean {close!r}?")
            raise error
        return value

    return check


def _check_sequence(annotation: Any, kind: type, check_item: Check) -> Check:
    def check(value: Any, name: str) -> Any:
        if not isinstance(value, list | tuple):
            raise _wrong(value, annotation, name)
        if check_item is _accept:  # a vocabulary has many items, of which nothing is to be checked
            return kind(value)
        return kind([_inside(check_item, item, name, i) for i, item in enumerate(value)])

    return check


def _check_row(annotation: Any, checks: list[Check]) -> Check:
    def check(value: Any, name: str) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(checks):
            raise _wrong(value, annotation, name)
        rows = enumerate(zip(value, checks, strict=True))
        return tuple(_inside(each, item, name, i) for i, (item, each) in rows)

    return check


def _check_mapping(annotation: Any, check_item: Check) -> Check:
    def check(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, annotation, name)
        for key in value:
            _check_text(key, f"a key of {name}" if name else "a key")
        return {key: _inside(check_item, item, name, key) for key, item in value.items()}

    return check


def _check_object(annotation: Any) -> Check:
    """Check an object with known keys: a data class, or a typed dictionary."""
    hints, is_class = _hints(annotation), dataclasses.is_dataclass(annotation)
    if is_class:
        fields = {field.name: field for field in dataclasses.fields(annotation)}
        hints = {name: hints[name] for name in fields}
        needed = [
            name for name, field in fields.items()
            if field.default is field.default_factory is dataclasses.MISSING
        ]  # fmt: skip
    else:
        needed = [key for key, hint in hints.items() if typing.get_origin(hint) is not NotRequired]
        hints = {
            key: typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint
            for key, hint in hints.items()
        }

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, annotation, name)
        where = f"{name} " if name else ""
        if missing := [key for key in needed if key not in value]:
            raise UserError(f"{where}lacks the key {missing[0]!r}")
        values = dict(value)
        for key in values:
            if key in hints:
                values[key] = fit(values[key], hints[key], f"{name}.{key}" if name else key)
            elif is_class:
                raise UserError(f"{where}has the unknown key {brief(key)}{nearest(key, [*hints])}")
        return annotation(**values) if is_class else values

    return check


def _inside(check: Check, item: Any, name: str, key: Any) -> Any:
    """Check a value inside of another value.

    To make the name of each item would be slow. So an item is checked without a name, and again
    with its name if the first check failed.
    """
    try:
        return check(item, "")
    except UserError:
        pass
    try:
        return check(item, f"{name}[{brief(key)}]")
    except _WrongType as error:  # of the item, not of the whole
        raise UserError(str(error)) from None


def _wrong(value: Any, annotation: Any, name: str) -> _WrongType:
    expected = f"be {_described(annotation)}, and is {brief(value)}"
    return _WrongType(f"{name or 'the value'} must {expected}")


def _described(annotation: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false",
             type(None): "absent", None: "absent"}  # fmt: skip
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _described(parts[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_described, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if annotation in names:
        return names[annotation]
    if (origin or annotation) in (list, tuple):
        one = parts and (len(parts) == 1 or parts[1] is Ellipsis)
        plain = _described(parts[0]).partition(" ")[2] if one and parts[0] is not Any else ""
        return f"a list of {plain}s" if plain and " or " not in plain else "a list"
    return "an object"


def nearest(word: str, known: Collection[str], prefix: str = "", *, help: str = "") -> str:
    """Return the end of a message about an unknown word: what the user may have meant.

    Parameters
    ----------
    word : str
    known : collection of str
    prefix : str
        Stands before each known word, such as the hyphens of options.
    help : str
        Where all known words are listed. Without this, the message lists them itself.

    Examples
    --------
    >>> nearest("trian", ["train", "step"])
    "; did you mean 'train'?"
    >>> nearest("x", ["train", "step"])
    '; known are train, step'
    >>> nearest("x", ["train", "step"], help="npgpt --help")
    '; npgpt --help lists all'
    """
    if close := _closest(word, known):
        return f"; did you mean {prefix + close!r}?"
    if help:
        return f"; {help} lists all"
    return f"; known are {', '.join(prefix + each for each in known)}"


def _closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a word may be a misspelling of; none if there is no such word."""
    return next(iter(difflib.get_close_matches(word[:80], list(known), 1)), None)

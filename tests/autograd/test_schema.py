"""Values checked against annotated types: what fits comes back, what does not is named."""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd.escape import brief
from autograd.reading import parse_json
from autograd.schema import Count, FileName, Range, UserError, fit, fit_fields


class Entry(TypedDict):
    """An object that may have other keys."""

    name: str
    size: NotRequired[Count]


@dataclass
class Settings:
    """An object that may not."""

    rate: Annotated[float, Range(0, 1, excluded=1)]
    steps: Count = 3
    kind: Literal["a", "b"] = "a"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ANNOTATIONS = [
    Any, int, float, str, bool, None, int | None, str | list[str], Count, FileName, Entry, Settings,
    list[int], tuple[str, ...], tuple[int, str], dict[str, int], list[Entry], dict[str, Settings],
    Literal["a", "b"], list[str | tuple[str, str]], Annotated[float, Range(-1, 1)],
]  # fmt: skip


@given(value=json_values, annotation=st.sampled_from(ANNOTATIONS))
def test_any_value_fits_or_is_refused_in_one_line(value, annotation):
    try:
        fit(value, annotation, "x")
    except UserError as error:
        assert type(error) is UserError
        assert "\n" not in str(error) and len(str(error)) < 400


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, float, 3.0),
        (None, int | None, None),
        (["a"], tuple[str, ...], ("a",)),
        ([1, "a"], tuple[int, str], (1, "a")),
        ({"name": "a", "other": 1}, Entry, {"name": "a", "other": 1}),
        ({"rate": 0}, Settings, Settings(0.0)),
        ({"a": {"rate": 0.5, "steps": 0}}, dict[str, Settings], {"a": Settings(0.5, 0)}),
        (math.inf, Annotated[float, Range(finite=False)], math.inf),
        ("caf\udce9", FileName, "caf\udce9"),
    ],
)
def test_what_fits(value, annotation, expected):
    found = fit(value, annotation)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (True, int, "x must be a whole number, and is True"),
        (1.0, int, "x must be a whole number, and is 1.0"),
        (1, bool, "x must be true or false, and is 1"),
        (math.nan, float, "x is nan; it must be a number"),
        (math.inf, float, "x is inf; it must be a finite number"),
        (10**400, float, "x is too large"),
        (-1, Count, "x is -1; it must not be negative"),
        (0, Annotated[int, Range(1)], "x is 0; it must be at least 1"),
        (2**40, Annotated[int, Range(1, 2**28)], r"x is too large; it must be at most 2\^28"),
        ([1, "2"], list[int], r"x\[1\] must be a whole number, and is '2'"),
        ({"a": [1, None]}, dict[str, list[int]], r"x\['a'\]\[1\] must be a whole number"),
        ("a", list[str], "x must be a list of strings, and is 'a'"),
        ([1], tuple[int, str], "x must be a list, and is"),
        ({}, Entry, "x lacks the key 'name'"),
        ({"name": "a", "size": -1}, Entry, "x.size is -1"),
        ({"rate": 1}, Settings, r"x.rate is 1.0; it must be in \[0, 1\)"),
        ({"rate": 0, "step": 1}, Settings, "x has the unknown key 'step'; did you mean 'steps'"),
        ({"rate": 0, "kind": ["a"]}, Settings, "x.kind must be 'a' or 'b', and is"),
        (2, bool | Literal["never"], "x must be true or false or 'never', and is 2"),
        (np.ones(2), Literal["a"], "x must be 'a', and is array"),
        ("caf\udce9", str, "which no UTF-8 can hold"),
        ({"caf\udce9": 1}, dict[str, int], "which no UTF-8 can hold"),
        ("a" * 10**6, int, "and is 'a{16}...a{17}'$"),
    ],
)
def test_what_does_not_fit(value, annotation, message):
    with pytest.raises(UserError, match=message):
        fit(value, annotation, "x")


def test_fields():
    settings = Settings(rate=0)
    fit_fields(settings)
    assert type(settings.rate) is float
    settings.steps = "3"
    with pytest.raises(UserError, match="steps must be a whole number, and is '3'"):
        fit_fields(settings)


@given(value=json_values)
def test_json_comes_back(value):
    text = json.dumps(value)
    found = parse_json(text, "text")
    assert json.dumps(found) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "has the key 'a' twice"),
        ('[{"x": {"a": 1, "a": 1}}]', "has the key 'a' twice"),
        ("[" * 10**5 + "]" * 10**5, "nested more than 100 deep"),
        ("[" * 150 + "]" * 150, "nested more than 100 deep"),
        ("9" * 5000, "4300 digits"),
        ("", "no JSON"),
        ("{", "no JSON"),
    ],
)
def test_what_is_no_json(text, message):
    with pytest.raises(UserError, match=message):
        parse_json(text, "text")


def test_brief_is_short():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    nested = {"a": {}}
    for _ in range(5):
        nested = {key * 40: nested for key in "abcd"}
    for value in (nested, "a" * 10**6, [[[[[[[[[1]]]]]]]]], 10**5000, Odd(), ["a\nb"] * 100):
        assert len(brief(value)) < 160 and "\n" not in brief(value)

"""The formula of an op says what the op computes, also of numbers near the ends of the range."""

import re
from itertools import islice

import numpy as np
import pytest
from helpers import as_leaves
from hypothesis import given, settings
from hypothesis import strategies as st

import autograd
from autograd import nn
from autograd.formula import FormulaError
from autograd.page.contents import collect
from autograd.stepper import trace
from autograd.stepper.formulas import four_digits
from autograd.stepper.session import Session
from autograd.stepper.stops import CommandError
from autograd.testing.strategies import Call, op_calls

OPS = sorted(autograd.REGISTRY)
MOVES = [name for name in OPS if (found := autograd.REGISTRY[name].stated) and found.moves]
EXTREMES = [1e3, 1e-30, 0.0, 1.0]


def several(x):
    return x if isinstance(x, tuple) else (x,)


def made_extreme(call, data):
    """Return a call with the same signs and other sizes, in float32 or float64."""
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    sizes = data.draw(st.lists(st.sampled_from(EXTREMES), min_size=1, max_size=4))

    def extreme(x):
        if isinstance(x, list | tuple):
            return type(x)(map(extreme, x))
        if not (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
            return x
        return np.asarray(np.sign(x) * np.resize(sizes, x.shape), dtype)

    return Call(tuple(map(extreme, call.args)), {k: extreme(x) for k, x in call.kwargs.items()})


def shown_rows(session):
    """Return the texts of an op's formula with numbers, at the step where a session stands."""
    return [" = ".join(row) for part in session.formula().with_numbers for row in part.rows]


@pytest.mark.parametrize("name", OPS)
def test_formulas_agree_with_ops_near_the_ends_of_the_range(name):
    """Wherever the op is finite, its formula has the same number, and the session says no other."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=5)
    @given(data=st.data())
    def check(data):
        call = made_extreme(data.draw(op_calls(op)), data)
        with autograd.record(), np.errstate(all="ignore"):
            try:
                args = as_leaves(op, call)
                loss = sum(y.astype(float).sum() for y in several(op(*args, **call.kwargs)))
                session = Session(trace(loss))
            except np.linalg.LinAlgError:
                return  # of a singular matrix
        for i, step in enumerate(session.trace.steps):
            if session.trace.call(step).op is op and op.stated and not op.stated.moves:
                for row in shown_rows(session.go(i)):
                    assert not re.search(r"and the op has (?!-?inf|nan)", row), row

    check()


@pytest.mark.parametrize("name", OPS)
def test_formulas_where_one_argument_alone_has_a_gradient(name):
    """The others are plain arrays: nothing is sent to them, and their gradients are left out."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=4)
    @given(data=st.data())
    def check(data):
        call = data.draw(op_calls(op))
        given = as_leaves(op, call)
        for only in (i for i, x in enumerate(given) if isinstance(x, autograd.Tensor)):
            args = [
                x if i == only else y for i, (x, y) in enumerate(zip(given, call.args, strict=True))
            ]
            with autograd.record():
                out = op(*args, **call.kwargs)
                loss = sum(y.astype(float).sum() for y in several(out))
            session = Session(trace(loss))
            for i, step in enumerate(session.trace.steps):
                if session.trace.call(step).op is op and op.stated:
                    for row in shown_rows(session.go(i)):
                        assert not re.search(r"and the op has (?!-?inf|nan)", row), row
            for entry in collect(session.trace)["calls"]:
                others = {f"d{x}" for x in (*entry["constants"], *entry["off_tape"])}
                assert not others & {equation["name"] for equation in entry.get("equations", ())}

    check()


def formula_of(loss, at=0):
    return shown_rows(Session(trace(loss)).go(at))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits(dtype):
    """The largest is subtracted, and the formula says so."""
    x = autograd.tensor(np.array([[1000.0, 999.0, -1000.0]], dtype), requires_grad=True)
    for function in (
        nn.softmax,
        nn.log_softmax,
        lambda x: nn.logsumexp(x, -1),
        lambda x: nn.cross_entropy(x, np.array([1])),
    ):
        with autograd.record():
            loss = (function(x) * 2).sum()
        session = Session(trace(loss))
        rows = shown_rows(session.go(len(session.trace.steps) - 1))
        assert "nan" not in str(rows) and "and the op has" not in str(rows)
        assert any("m[0] = max(1000, 999, -1000) = 1000" in row for row in rows)
        assert any("exp(999 - 1000)" in row for row in rows)


def test_a_mask_hides_what_is_infinite():
    """A product with a condition that does not hold is 0, and its text is 0."""
    q = autograd.tensor(np.full((2, 1), 40.0), requires_grad=True)
    k = autograd.tensor(np.array([[1.0], [30.0]]), requires_grad=True)
    with autograd.record():
        y = nn.scaled_dot_product_attention(q, k, np.array([[1.0], [2.0]]), is_causal=True)
        loss = y.sum()
    rows = formula_of(loss, 1)
    assert (
        "$a[0, 1] = 1 · (40 · 30) - inf · 1 = -inf" in rows and "$m[0] = max(40, -inf) = 40" in rows
    )
    assert "$p[1, 1] = exp(1200 - 1200) / (exp(40 - 1200) + exp(1200 - 1200)) = 1" in rows
    x = autograd.tensor([np.inf, 2.0], requires_grad=True)
    with autograd.record(), np.errstate(all="ignore"):
        loss = np.where(np.array([False, True]), x, 0.0).sum()
    assert "d(x)[0] = 1 · 0 = 0" in formula_of(loss, 1)


@pytest.mark.parametrize(
    "options",
    [
        dict(attn_mask=np.array([[True, True], [False, False], [True, False]])),
        dict(attn_mask=np.array([[0.0, 1.0], [-np.inf, -np.inf], [0.5, -np.inf]])),
        dict(attn_mask=np.array([[True], [False], [True]])),
        dict(attn_mask=np.array([[False, True]]), is_causal=True),
        dict(is_causal=True, window_size=1),
    ],
)
def test_a_query_that_sees_no_key(options):
    """Three queries and two keys; one query, at least, sees no key, and its result is 0."""
    q = autograd.tensor(np.array([[1.0], [2.0], [3.0]]), requires_grad=True)
    k = autograd.tensor(np.array([[1.0], [0.5]]), requires_grad=True)
    with autograd.record():
        y = nn.scaled_dot_product_attention(q, k, np.array([[1.0], [2.0]]), **options)
        loss = y.sum()
    assert (y.numpy() == 0).any()
    rows = formula_of(loss, 1)
    assert "nan" not in str(rows) and "and the op has" not in str(rows)
    assert any(row.startswith("y[") and row.endswith("= 0") for row in rows)


def test_the_singular_values_of_zeros():
    """The vectors of a value of 0 are not determined; what does not use them is."""
    x = autograd.tensor(np.zeros((1, 1)), requires_grad=True)
    with autograd.record():
        loss = np.linalg.svd(x)[1].sum()
    rows = formula_of(loss, len(Session(trace(loss)).trace.steps) - 1)
    assert "nan" not in str(rows) and "and the op has" not in str(rows)


def test_a_number_beyond_the_range_of_its_dtype():
    x = autograd.tensor(np.array([100.0], np.float32), requires_grad=True)
    with autograd.record(), np.errstate(over="ignore"):
        y = np.exp(x)
        loss = y.sum()
    assert "y[0] = exp(100) = 2.688e+43, which is inf in float32" in formula_of(loss, 1)


# ---- formulas of one's own


def test_a_formula_is_read_when_it_is_declared():
    """With the text as its author wrote it."""

    def declared(text, **options):
        def cubed(x):
            return x**3

        op = autograd.Op(cubed)
        op.formula(text, **options)
        return op

    assert str(declared("out = x ** 3; dx = 3 * g * x**2").stated) == (
        "out = x ^ 3\ndx = 3 · g · x^2"
    )
    for text, message in [
        ("out = x ** ** 3", "op 'cubed': formula 'out = x ** ** 3': expected a number, a name or a "
         "bracket, found **"),
        ("out = x * ) 3", "found )"),
        ("out = y ** 3; dx = g", "formula 'out = y ** 3' names 'y', which nothing defines"),
        ("out_i = x_j", "formula 'out_i = x_j' names 'j', which nothing defines"),
        ("out_i = Σ_j x_j · [i = k]", "names 'k', which nothing defines"),
        ("x · out = z", "names 'z'"),
    ]:  # fmt: skip
        with pytest.raises(FormulaError, match=re.escape(message)):
            declared(text)
    declared("s = Σ_j x_j; out_i = s · [i = 0] · c + n", c=lambda x: 1, along=lambda x: (0,))
    declared(lambda x: "out = what is given when x is known")  # there is no default case
    with pytest.raises(FormulaError, match="names 'b', which nothing defines"):
        declared(lambda x="x": "out = b")


def test_a_computed_subscript_of_an_axis_of_length_1():
    """Outside of the array is 0, also of an array with one element."""
    a, v = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    a = autograd.tensor(a, requires_grad=True)
    with autograd.record():
        loss = np.correlate(a, v).sum()
    assert "d(a)[1] = 0 · 4 + 1 · 5 + 0 · 6 = 5" in formula_of(loss, 1)


def test_a_formula_of_another_step():
    """Any result, and a cotangent of one use, is found; of several uses, the steps are named."""
    X, W = np.array([[1.0, 2.0], [3.0, 0.0]]), autograd.tensor([0.1, -0.2], requires_grad=True)
    with autograd.record():
        p = X @ W
        e = p - 1
        q = p * e
        loss = q.sum()
    session = Session(trace(loss))
    found = session.formula("p[1]")
    assert found.place == "step 4, matmul" and found.lines == ["p_i = Σ_j X_ij · W_j"]
    assert found.with_numbers[0].rows == [("p[1]", "3 · 0.1 + 0 · (-0.2)", "0.3")]
    found = session.formula("d(W)[0]")
    expected = f"{X[:, 0] @ (2 * p.numpy() - 1):.4g}"
    assert found.place == "step 4, matmul" and found.with_numbers[0].rows[0][2] == expected
    assert session.formula("q").place == "step 2, multiply" and session.view().number == 1
    assert session.go(1).formula("q").place == ""
    session.go(0)
    for asked, said in {
        "d(p)": r"d\(p\) is the sum of what the steps 2, 3 add: why p prints the sum",
        "W": "the formula has no W; it has",
        "p[7]": r"p\[7\] is out of range: the shape is \[2\]",
        "zz": "the formula has no zz; it has",
        "$zz": r"the formula has no \$zz; it has",
        "d(zz)": r"the formula has no d\(zz\); it has",
    }.items():
        with pytest.raises(CommandError, match=said):
            session.formula(asked)


@pytest.mark.parametrize("name", MOVES)
def test_an_element_that_was_moved(name):
    """Asked for, it says where it came from, or where it went, with the number that is there."""
    op = autograd.REGISTRY[name]

    @settings(max_examples=10)
    @given(call=op_calls(op))
    def check(call):
        with autograd.record():
            out = op(*as_leaves(op, call), **call.kwargs)
            loss = sum((y * y).sum() for y in several(out))
        session = Session(trace(loss))
        calls = [session.trace.call(step) for step in session.trace.steps]
        session.go([call.op for call in calls].index(op))
        values, names = session.symbols(), session.names_of_symbols(session.call)
        named = {
            names[symbol]: np.asarray(x)
            for symbol, x in values.items()
            if symbol in names and not isinstance(x, tuple)  # indices of several arrays
        }

        def number(text):
            """Return what stands at a place such as ``x[1, 0]``; a number stands for itself."""
            for name, x in named.items():
                if found := re.fullmatch(rf"{re.escape(name)}(\[.+\])?", text):
                    return x[tuple(map(int, re.findall(r"\d+", found[1] or "")))]
            return float(text)

        for symbol in values:
            if symbol.startswith("out") or symbol[1:] in session.call.arguments:
                for index in islice(np.ndindex(np.shape(values[symbol])), 8):
                    (equation,) = session.formula(f"${symbol}{list(index) or ''}").with_numbers
                    ((_, text, shown),) = equation.rows
                    x = np.asarray(values[symbol])[index]
                    assert (shown or text) == four_digits(x)
                    if "…" not in text:
                        assert np.isclose(sum(map(number, text.split(" + "))), x, rtol=1e-3)

    check()


def test_what_is_joined_to_a_tensor():
    """An array beside it has its place in the formula; what is cut out many times is a sum."""
    a, c = autograd.tensor(np.array([[1.0, 2.0]]), requires_grad=True), np.array([[5.0, 6.0]])
    with autograd.record():
        w = np.concatenate([a, c])
        r = a[[0, 0, 0, 0, 0, 0]]
        z = np.pad(a, 1)
        loss = (w * 3).sum() + (r * np.arange(12.0).reshape(6, 2)).sum() + z.sum()
    session = Session(trace(loss))

    def shown(text):
        found = session.formula(text)
        return [
            *found.lines,
            *(" = ".join(filter(None, row)) for row in found.with_numbers[0].rows),
        ]

    assert shown("w[1, 0]") == ["w = concatenate(a, c)", "w[1, 0] = c[0, 0] = 5"]
    assert shown("w[0, 1]")[-1] == "w[0, 1] = a[0, 1] = 2"
    assert shown("z[0, 0]")[-1] == "z[0, 0] = 0"
    assert shown("r[3, 1]")[-1] == "r[3, 1] = a[0, 1] = 2"
    at = [session.trace.call(step).op.name for step in session.trace.steps].index("getitem")
    found = session.go(at).formula("$dx[0, 1]").with_numbers[0]
    row = ("d(a)[0, 1]", "d(r)[0, 1] + d(r)[1, 1] + … + d(r)[5, 1]", "36")
    assert found.rows == [row]
    assert found.terms[0] == ("d(r)[5, 1]", "11", 11.0)

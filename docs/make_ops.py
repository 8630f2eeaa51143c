"""Write docs/ops.md, the table of all ops, from the registry: ``python docs/make_ops.py``."""

import inspect
from pathlib import Path

import numpy as np

import autograd
from autograd.dispatch import NUMPY, Question
from autograd.files import write_text

HEAD = """# The ops

Made from the registry by `python docs/make_ops.py`. Everything here works on tensors through
NumPy's own names, operators and methods, or as a function of `autograd.nn`; everything is
differentiable to any order, and tested: values, first and second derivatives, dtypes, memory
layouts, empty arrays, and that the formula is what the code computes.

In the formulas, `g` is the cotangent of the result `out`, and `dx` that of the input `x`;
subscripts name the last axes, `[condition]` is 1 where it holds and 0 elsewhere, and `at_k` is
where the k-th element of the result came from. The whole notation is in the docstring of
`autograd.formula`:

```python
import autograd.formula

print(autograd.REGISTRY["softmax"].stated)
```

```text
m = max_j input_j
out_i = exp(input_i - m) / Σ_j exp(input_j - m)
dinput_i = out_i · (g_i - Σ_j g_j · out_j)
```

Formulas that depend on the arguments stand in their plainest form.
"""
LIMITS = """
results below the smallest normal number: The error is a few times the smallest normal number.

`softmax`, `log_softmax`, `cross_entropy`, attention: Where a probability p is close to 1, 1 - p
loses digits, as in PyTorch. An error is relative to the largest cotangent, not to the element.

`tanh`: 1 - tanh(x)^2 loses digits where tanh(x) is close to 1 or -1, as in PyTorch. An error is
relative to the cotangent.

`gelu`: 1 + erf(x) loses digits below about -3, and 1 - Phi above 5, as in PyTorch. An error is
relative to the cotangent.

`layer_norm`, `rms_norm`: Digits are lost where terms cancel. An error is relative to the largest
cotangent times weight, divided by the standard deviation. The mean is rounded to the dtype first.
Cotangent times weight must be in range.

`layer_norm`, `rms_norm` with `create_graph=True`: The squares of the inputs must be in range, since
the derivatives are those of the reference.

`prod`, `cumprod`, `einsum` of three operands or more: The products of some of the elements must be
in range, as in NumPy's forward pass.

attention: A score and its mask are rounded where they are added: an error is relative to the
largest score. Scores must be smaller than 1 / (10 eps).

`inv`, `solve`, `det`, `slogdet`, `cholesky`, `eigh`, `svd`, `qr`, `pinv`, `lstsq`: What LAPACK
computes on its way must be in range. NumPy has no float16 here.

`eigh`, `svd`, `qr`, `pinv`, `lstsq`: An error is relative to the largest element of a matrix, and
grows with the condition number. The squares of the values and of their differences must be in
range.

`power`: x^(y - 1) must be in range, even if y x^(y - 1) is.

`exp`, `exp2`, `hypot`: The result must be in range.

functions that are made of ops, as `cov`, `nanvar`, `geomspace`: What the ops compute on the
way must be in range.

norms of an order below 1: An element has no gradient if its quotient by the largest is 0.

a float16 tensor that is used very often: The tape adds the contributions in the dtype of the
tensor, as PyTorch does.
"""
TITLES = {
    "elementwise": "Element by element",
    "reduce": "Reductions, and sums and products so far",
    "linalg": "Products of matrices, and `np.linalg`",
    "decomposition": "Decompositions of matrices",
    "shape": "Shape and order",
    "index": "Indexing",
    "ufuncs": "Element by element: the less common",
    "products": "Products of sequences",
    "activation": "Activations",
    "normalization": "Softmax and normalization",
    "embedding": "Tables, and layers that are products",
    "convolution": "Convolution",
    "loss": "Losses",
    "dropout": "Dropout",
    "attention": "Attention",
    "rotary": "Rotary positions",
    "op": "Other",
}
MODULES = {"np": np, "np.linalg": np.linalg, "np.fft": np.fft}

# Why a function has no rule: each reason, and the functions that it holds for.
REFUSED = {
    "They write to their first argument, which the tape may need.": """
        np.copyto np.fill_diagonal np.place np.put np.put_along_axis np.putmask""",
    "Their results are complex, or those of complex numbers; gradients are real here.": """
        np.fft.fft np.fft.fft2 np.fft.fftn np.fft.hfft np.fft.ifft np.fft.ifft2 np.fft.ifftn
        np.fft.ihfft np.fft.irfft np.fft.irfft2 np.fft.irfftn np.fft.rfft np.fft.rfft2 np.fft.rfftn
        np.linalg.eig np.linalg.eigvals np.roots np.sort_complex""",
    "They take dates, which have no gradient.": """
        np.busday_count np.busday_offset np.datetime_as_string np.is_busday""",
    "They call your function on pieces of the array; write the loop, and use `np.stack`.": """
        np.apply_along_axis np.apply_over_axes""",
    "They compare two sets; use `np.unique`, `np.isin` and an index.": """
        np.intersect1d np.setdiff1d np.setxor1d np.union1d""",
    "The zeros decide about the shape; use a slice.": "np.trim_zeros",
    "They work on the digits of a number in memory.": "np.frexp np.ldexp np.nextafter np.spacing",
    "It makes an index of its arguments; give it integers or booleans.": "np.ix_",
    "There is no rule so far.": "np.i0 np.polydiv",
}
TAIL = """
## In terms of these

Functions of `autograd.nn` that are made of the ops above:

{made}.

## Every function of NumPy

What becomes of a tensor that requires a gradient in the functions of NumPy {version}:

{counts}

**Differentiable.** {differentiable}.

**Plain answers.** Comparisons, `np.argmax` and their like have no derivative: they return plain
arrays, also for tensors that require a gradient. {plain}.

**Refused.** These raise for a tensor that requires a gradient:

{refused}

**Not asked.** NumPy calls these functions without asking the types of the arguments. They make
arrays of numbers and shapes, convert, read files, print, or answer about dtypes. Where such a
function makes an array of its argument, a tensor that requires a gradient is refused. {unasked}.

## What is refused

A function that is refused raises for a tensor that requires a gradient. So does a differentiable
function when an argument has no rule, such as `out=` of `np.sum`, and when a tensor that
requires a gradient is given for an argument through which none flows: no gradient is lost without
an error. Where nothing requires a gradient, and under `no_grad()`, all of NumPy's functions and all
of their arguments work, `out=` included.

```python
import numpy as np

import autograd

x = autograd.tensor([3.0, 4.0], requires_grad=True)
np.sum(x * x, where=[True, False]).backward()
print(x.grad, np.sum(x.grad, dtype=np.float32))
try:
    np.sum(x, dtype=np.float32)
except TypeError as error:
    print(str(error).split(",")[0])
```

```text
tensor([6., 0.]) tensor(6., dtype=float32)
np.sum with dtype= has no derivative here
```

## Conventions where there is no derivative

At kinks and ties gradients are PyTorch's: `abs`, `relu`, `sign` and norms have 0 at 0; `clip`
passes the gradient at its bounds, `hardtanh` and `relu6` do not; `max`, `min` and norms of order
inf share it among elements that tie, `maximum` and `minimum` give one half to each; `sort` and
`topk` are stable, so that the first of equals goes first; `unique` and `max_pool2d` pick the first
of equals; the counts of a histogram are constants, and the edges of its bins move with the ends of
the data; `prod` and `cumprod` are exact at zeros; `0**y` has the gradient 0 for y.

`fmax` and `fmin` pass the gradient to the first of equals, and to the number beside a NaN. A
quantile is taken from a stable order, so that the first of equals gets the gradient. At a point of
the data, `interp` and a quantile have the slope on the right, at the last point that on the left.
An element that makes a median NaN gets its gradient; elements that the `nan` functions leave out
get 0.

The vectors of equal eigenvalues or singular values can turn, so the gradient through such vectors
is NaN; the gradient through the values exists. Values count as equal, or as 0, if the difference is
at most eps times the largest value times the larger side of the matrix. A singular value of 0 has
the gradient u v^T, as in PyTorch. The rank of a pseudoinverse and of a least-squares fit counts as
constant.

## Range and rounding

A gradient is right in the whole range of its dtype. In float16 and float32 the gradient is the one
that float64 gives, rounded. Its error is a few roundings of the gradient, and a few times the
change that the rounding of the inputs makes. A rule that squares, counts or subtracts on its way
loses nothing: `np.arctan2(1e-200, 1e-200)`, `np.expm1(-40.0)`, the standard
deviation and the norm of numbers near `1e200`, and the cross-entropy of float32 logits near `1e4`
have the right gradients. `tests/autograd/ops/test_range.py` checks every op with inputs from the
smallest to the largest numbers of each dtype.

In float16, rules and the functions of `autograd.nn` compute in float32, and the result is rounded
to float16: the mean of 70,000 numbers has the gradient 1 / 70,000, although 70,000 is infinite in
float16. The forward pass of NumPy's own functions is NumPy's.

The limits:

{limits}
"""


def code(text):
    """Return text as code in a cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def names(function):
    """Return how a user writes one of NumPy's functions."""
    module = {"numpy": "np", "numpy.linalg": "np.linalg"}.get(
        getattr(function, "__module__", "numpy")
    )
    return f"{module or 'np'}.{function.__name__}"


def where(op):
    """Return an op's public names."""
    found = [names(f) for f in NUMPY if f.__name__ == op.name or NUMPY[f] is op]
    if op.name in autograd.nn.__all__:
        found.append(f"autograd.nn.{op.name}")
    return sorted(set(found))


def row(op):
    """Return an op's row."""
    formula = "<br>".join(map(code, op.stated.text().split("\n")))
    told = inspect.getdoc(op).split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    public = "<br>".join(map(code, where(op))) or f"({op.name})"
    return f"| {public} | {told} | {formula} |"


def page():
    """Return the page."""
    ops = [op for op in autograd.REGISTRY.values() if op.__module__.startswith("autograd.")]
    parts = [HEAD]
    for module, title in TITLES.items():
        rows = [row(op) for op in ops if op.__module__.split(".")[-1] == module]
        if rows:
            parts += [f"## {title}\n", "| name | what it does | formula |", "| --- | --- | --- |"]
            parts += [*rows, ""]
    shown = {name for op in ops for name in where(op)}
    made = sorted({f"autograd.nn.{name}" for name in autograd.nn.__all__} - shown)
    kinds = sorted_by_kind()
    version = ".".join(np.__version__.split(".")[:2])
    return "\n".join(parts) + TAIL.format(
        made=listed(made), version=version, counts=counts(kinds), refused=refused(kinds["refused"]),
        limits=limits(), **{k: listed(kinds[k]) for k in ("differentiable", "plain", "unasked")},
    )  # fmt: skip


def listed(names):
    """Return names as a list in a sentence."""
    return ", ".join(map(code, names))


def kind_of(function):
    """Return what becomes of a tensor that requires a gradient in a function of NumPy."""
    if isinstance(NUMPY.get(function), Question):
        return "plain"
    if function in NUMPY:
        return "differentiable"
    asks = isinstance(function, np.ufunc) or hasattr(function, "_implementation")
    return "refused" if asks else "unasked"


def sorted_by_kind():
    """Return the public names of NumPy's functions, by what becomes of a tensor in them."""
    kinds = {kind: [] for kind in ("differentiable", "plain", "refused", "unasked")}
    for prefix, module in MODULES.items():
        for name in sorted(module.__all__):
            function = getattr(module, name)
            if callable(function) and not isinstance(function, type):
                kinds[kind_of(function)].append(f"{prefix}.{name}")
    return kinds


def counts(kinds):
    """Return the table of how many functions are of which kind, in each module."""
    rows = ["| | " + " | ".join(map(code, MODULES)) + " |", "| --- |" + " --- |" * len(MODULES)]
    titles = ("differentiable", "plain answers", "refused", "not asked")
    for title, names in zip(titles, kinds.values(), strict=True):
        numbers = [sum(name.rpartition(".")[0] == prefix for name in names) for prefix in MODULES]
        rows.append(f"| {title} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(rows)


def refused(names):
    """Return the table of the functions that are refused, and why."""
    reasons = {name: why for why, group in REFUSED.items() for name in group.split()}
    if unknown := [name for name in names if name not in reasons]:
        raise SystemExit(f"REFUSED in docs/make_ops.py must say why these have no rule: {unknown}")
    rows = ["| functions | why |", "| --- | --- |"]
    for why in REFUSED:
        group = [name for name in names if reasons[name] == why]
        if group:
            rows.append(f"| {listed(group)} | {why} |")
    return "\n".join(rows)


def limits():
    """Return the table of where a gradient loses digits."""
    entries = (" ".join(entry.split()).split(": ", 1) for entry in LIMITS.split("\n\n"))
    rows = [f"| {where} | {what} |" for where, what in entries]
    return "\n".join(["| where | what is lost |", "| --- | --- |", *rows])


if __name__ == "__main__":
    write_text(Path(__file__).with_name("ops.md"), page())

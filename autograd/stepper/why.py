"""The answer to ``why NAME[INDEX]`` as text, for the stepper and for ``npgpt why``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.anomaly import summary, zero_times_infinity
from autograd.stepper.axes import Labels
from autograd.stepper.contributions import (
    Element,
    Hop,
    Part,
    Use,
    cotangent_at_end,
    explain_part,
    sums_by_name,
    token_ids,
)
from autograd.stepper.lines import the_others
from autograd.stepper.origins import NotFinite, Zero, find_not_finite, find_source, find_zeros
from autograd.stepper.places import Index, first_of, name_of
from autograd.stepper.record import Call, Recording
from autograd.stepper.symbols import names_of
from autograd.stepper.trace import Trace

MOST_TERMS = 5  # terms of a use, and entries of an axis, that are listed
MOST_USES = 8
MOST_HOPS = 14  # steps of a path that are listed; of a longer path, the first and the last steps
SMALL_SHARE = 0.01  # of a gradient: a path from element to element that adds less explains little
ROUNDING = 4  # last places: what is left of terms that cancel
Row = tuple[str, ...]  # the cells of a line; a single cell is not aligned
Text = str | list[Row]  # a line, or a table


def why(trace: Trace, number: int, index: Index = (), width: int = 80) -> str:
    """Return why a gradient, or a part of it, is what it is.

    The text has the contributions by use, source line and element, their sums by example, position,
    token and head, and the largest path to the start of the pass. For a NaN, it says which op made
    the first NaN, and for a zero, which factor was zero. The contributions that are listed, and
    those counted as "others", add up to the number.

    Parameters
    ----------
    trace : Trace
    number : int
        The number of a value of the recording.
    index : tuple of int and slice
        The part of the value; the empty tuple is the whole value.
    width : int
        The number of columns: longer lines are wrapped.
    """
    return "\n".join(line for part in _parts(trace, number, index) for line in _fit(part, width))


def _parts(trace: Trace, number: int, index: Index) -> Iterator[Text]:
    recording = trace.recording
    name = name_of(recording.name(number), index)
    if number in recording.constants:
        yield f"{name} requires no gradient: it is an array off the tape"
        return
    value, gradient = recording.values[number], trace.cotangent_of(number)
    part = None if gradient is None else np.asarray(gradient[index])
    if not np.isfinite(value[index]).all():
        yield from _not_finite_lines(trace, name, value[index], find_not_finite(trace, number))
    elif part is None:
        yield f"no gradient reaches {name}: the result does not depend on it"
    elif not np.isfinite(part).all():
        is_bad = np.zeros(value.shape, bool)
        is_bad[index] = ~np.isfinite(part)
        place = tuple(map(int, np.argwhere(is_bad)[0]))
        origins = find_source(trace, Element(number, place))
        yield from _not_finite_lines(trace, f"gradient of {name}", part, origins)
    elif not part.size:
        yield f"{name} has no elements"
    elif not part.any():
        yield from _zero_lines(trace, number, index)
    else:
        yield from _part_lines(trace, explain_part(trace, number, index))


def _fit(text: Text, width: int) -> Iterator[str]:
    """Yield the lines of a text: a table is aligned if it fits a width, and wrapped otherwise."""
    rows = [(text,)] if isinstance(text, str) else text
    whole = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    if sum(widths) + 2 * len(widths) - 2 > width:
        widths = [0] * len(widths)
    for row in rows:
        cells = [cell.ljust(w) for cell, w in zip(row, widths, strict=True)] if row[1:] else row
        line = "  ".join(cell for cell in cells if cell).rstrip()
        yield from textwrap.wrap(line, width, subsequent_indent="      ", break_on_hyphens=False)


def _label(recording: Recording, element: Element) -> str:
    return name_of(recording.name(element.number), element.place)


def _made_by(call: Call, name: str = "") -> str:
    """Return a call as its module, op and input, and its line: ``mlp: affine(weight)  a.py:3``."""
    op = f"{call.op.name}({name})" if name else call.op.name
    return "  ".join(filter(None, [f"{call.scope}: {op}".removeprefix(": "), call.at]))


# ---- the terms of a part


def _part_lines(trace: Trace, part: Part) -> Iterator[Text]:
    recording, n = trace.recording, len(part.uses)
    is_one = part.gradient.ndim == 0
    what = f"{part.total:+.4g}" if is_one else f"norm {part.total:.4g}"
    yield f"gradient of {part.name}: {what}, from {n} use{'s' * (n != 1)}"
    meaning = _meaning(recording, part.first) if is_one else []
    if meaning:
        yield f"  at {', '.join(meaning)}"
    if not is_one and n:
        yield "  the numbers below are components along the gradient: their sum is its norm"
        yield from _own_lines(recording, part)
    if not part.uses:
        yield "  the pass begins here"
        return
    if is_one and _is_rounding(part):
        yield "  its terms add up to 0, but for rounding"
        for use in part.uses[:MOST_USES]:
            yield from _use_lines(recording, use, f"{use.amount:+.4g}", meaning)
        return
    for use in part.uses[:MOST_USES]:
        amount = f"{use.amount:+.4g}  {use.amount / part.total:+.1%}"
        yield from _use_lines(recording, use, amount, meaning)
    if rest := part.uses[MOST_USES:]:
        yield f"  {sum(use.amount for use in rest):+.4g}  the {len(rest)} other uses"
    yield from _source_lines(part)
    if part.path:
        yield from _path_lines(trace, part)


def _is_rounding(part: Part) -> bool:
    """Return whether all that is left of the terms of an element is their rounding."""
    size = sum(float(np.abs(terms).sum()) for use in part.uses for terms in use.terms)
    return abs(part.total) < ROUNDING * float(np.finfo(part.gradient.dtype).eps) * size


def _use_lines(
    recording: Recording, use: Use, amount: str, known: Sequence[str] = ()
) -> Iterator[Text]:
    """Yield the lines of a use: its amount, its call, and its terms.

    What an element stands for is left out where it is `known`, that is, where it stands above.
    """
    result = ", ".join(recording.name(number) for number in use.call.results)
    yield f"  {amount}  {result}  {_made_by(use.call, use.input)}"
    yield from _term_lines(recording, use, known)


def _own_lines(recording: Recording, part: Part) -> Iterator[str]:
    """Yield the shares of the rows and columns of a part in its norm, if they have labels."""
    number = part.first.number
    shares = np.zeros(recording.values[number].shape)
    shares[part.at] = np.square(part.gradient) / part.total
    yield from _labelled_lines(recording, number, shares, "  ")


def _source_lines(part: Part) -> Iterator[str]:
    """Yield the sums of all uses by source line, and by module, if one of these has several."""
    for what, keys in (
        ("line", [use.call.at for use in part.uses]),
        ("module", [use.call.scope for use in part.uses]),
    ):
        sums: dict[str, float] = {}
        for key, use in zip(keys, part.uses, strict=True):
            sums[key] = sums.get(key, 0.0) + use.amount
        if 1 < len(sums) < len(keys) and "" not in sums:
            yield "  " + _sums_line(what, sums)


def _term_lines(recording: Recording, use: Use, known: Sequence[str] = ()) -> Iterator[Text]:
    """Yield the terms of a use, if there are several: the largest, and their sums by axis."""
    found: list[tuple[float, Element, float, float]] = []
    total, count = 0.0, 0
    for number, terms, g, d in zip(
        use.call.results, use.terms, use.cotangents, use.derivatives, strict=True
    ):
        if terms.ndim and terms.size:
            at = np.flatnonzero(terms)  # to order millions of zeros would take seconds
            total, count = total + float(terms.sum()), count + at.size
            order = np.argsort(-np.abs(terms.reshape(-1)[at]), kind="stable")[:MOST_TERMS]
            for k in zip(*np.unravel_index(np.sort(at[order]), terms.shape), strict=True):
                element = Element(number, tuple(map(int, k)))
                found.append((float(terms[k]), element, float(g[k]), float(d[k])))
    if count < 2:
        return
    found = sorted(found, key=lambda entry: -abs(entry[0]))[:MOST_TERMS]
    rows: list[Row] = [
        (f"    {term:+.4g}", _label(recording, element), f"{_signed(g)} · {_signed(d)}",
         ", ".join(text for text in _meaning(recording, element) if text not in known))
        for term, element, g, d in found
    ]  # fmt: skip
    if count > len(found):
        rest = total - sum(entry[0] for entry in found)
        rows.append((f"    {rest:+.4g}", the_others(count - len(found)), "", ""))
    yield rows
    for number, terms in zip(use.call.results, use.terms, strict=True):
        yield from _axis_lines(recording, number, terms)


def _axis_lines(recording: Recording, number: int, terms: ndarray) -> Iterator[str]:
    """Yield the sums of terms along each axis, if the terms are spread over several axes."""
    spread = [axis for axis in range(terms.ndim)
              if np.count_nonzero(terms.any(axis=_others(terms, axis))) > 1]  # fmt: skip
    if len(spread) < 2:
        return
    yield from _labelled_lines(recording, number, terms, "    ")
    axes = recording.axes_of(number)
    n_known = 2 if token_ids(recording, number) is not None else 0  # example and position
    for axis in spread:
        if axis >= n_known and not any(axes[axis : axis + 1]):
            sums = terms.sum(axis=_others(terms, axis))
            yield "    " + _sums_line(f"axis {axis}", dict(enumerate(sums.tolist())))


def _labelled_lines(
    recording: Recording, number: int, terms: ndarray, indent: str
) -> Iterator[str]:
    """Yield the sums of terms by what the axes of a value count: by head, and by channel."""
    labels = Labels(recording.axes_of(number), recording.texts)
    for name, sums in sums_by_name(recording, number, terms).items():
        yield indent + _sums_line(name, {
            key if isinstance(key, str) else labels.text_of(name, key): x for key, x in sums.items()
        })  # fmt: skip


def _sums_line(what: str, sums: dict[Any, float]) -> str:
    order = sorted((key for key in sums if sums[key]), key=lambda key: -abs(sums[key]))
    texts = [f"{sums[key]:+.3g} at {key}" for key in order[:MOST_TERMS]]
    if rest := order[MOST_TERMS:]:
        others = "others" if len(rest) > 1 else "other"
        texts.append(f"{sum(sums[key] for key in rest):+.3g} at {len(rest)} {others}")
    return f"by {what}: {', '.join(texts)}"


def _others(x: ndarray, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(x.ndim) if a != axis)


def _meaning(recording: Recording, element: Element) -> list[str]:
    """Return what an element stands for, as far as it is known: position 3 ·fox, channel 5."""
    number, place = element
    axes, ids, texts = recording.axes_of(number), token_ids(recording, number), []
    if ids is not None and not any(axes[1:2]):
        b, t, *_ = place
        texts += [f"example {b}"] * (len(ids) > 1) + [f"position {t}, token {ids[b, t]}"]
    shape = recording.values[number].shape  # what there is one of needs no name
    known = tuple(axis if n > 1 else () for axis, n in zip(axes, shape, strict=False))
    labels = Labels(known, recording.texts)
    return texts + list(filter(None, labels.of_element(place).split(", ")))


def _signed(x: float) -> str:
    return f"({x:.4g})" if x < 0 else f"{x:.4g}"


def _path_lines(trace: Trace, part: Part) -> Iterator[Text]:
    """Yield the path from element to element; if it says little, the path from value to value."""
    recording, first = trace.recording, part.first
    begin = cotangent_at_end(trace, part.path)
    product = float(np.prod([hop.derivative for hop in part.path]))
    gradient = float(np.asarray(trace.cotangent_of(first.number))[first.place])
    share = begin * product / gradient
    if abs(share) < SMALL_SHARE:
        yield "along the largest use at each step, what it adds:"
        yield _cut(list(_flow_rows(recording, part)))
        return
    yield "along the largest term at each step, with the derivative of each element:"
    yield f"  {_label(recording, first)}"
    yield _cut(list(_hop_rows(recording, part.path)))
    is_whole = part.path[-1].element.number == trace.start
    end = "at the start" if is_whole else f"after {len(part.path)} steps"
    amount = f"{product:+.4g}"
    if begin != 1 or not is_whole:
        amount += f" · {_signed(begin)}, the cotangent {end}, = {begin * product:+.4g}"
    yield f"  product {amount}: {share:+.1%} of {gradient:+.4g}"


def _cut(rows: list[Row]) -> list[Row]:
    """Return rows without those in the middle, if there are many."""
    half, left_out = MOST_HOPS // 2, len(rows) - MOST_HOPS
    if left_out <= 0:
        return rows
    return [*rows[:half], (f"  the {left_out} steps between",), *rows[-half:]]


def _flow_rows(recording: Recording, part: Part) -> Iterator[Row]:
    """Yield the cells of each step of a path from value to value."""
    for flow in part.flow:
        k = np.unravel_index(int(np.argmax(np.abs(flow.terms))), flow.terms.shape)
        element = Element(flow.number, tuple(map(int, k)))
        most = f"most at {_label(recording, element)}" if flow.terms.ndim else ""
        notes = "  ".join(filter(None, [flow.call.op.name, flow.call.at]))
        share = f"{flow.amount / part.total:+.1%}"
        meaning = ", ".join(_meaning(recording, element))
        yield f"  {flow.amount:+.4g}", share, most or recording.name(flow.number), notes, meaning


def _hop_rows(recording: Recording, path: list[Hop]) -> Iterator[Row]:
    """Yield the cells of each step; the example, the token and so on only where they are new."""
    known: list[str] = []
    for hop in path:
        factor = hop.factor and f"it is {hop.factor}"
        meaning = _meaning(recording, hop.element)
        news, known = ", ".join(text for text in meaning if text not in known), meaning or known
        notes = "  ".join(filter(None, [hop.call.op.name, hop.call.at, factor, news]))
        yield f"  · {_signed(hop.derivative)}", f"→ {_label(recording, hop.element)}", notes


# ---- not finite, and zero


def _not_finite_lines(
    trace: Trace, name: str, part: ndarray, origins: list[NotFinite]
) -> Iterator[str]:
    recording = trace.recording
    yield f"{name}: {summary(part)}" if part.ndim else f"{name}: {float(part)}"
    if not origins:
        given = recording.values | recording.constants
        leaves = [n for n in given if n not in recording.maker and not _is_finite(given[n])]
        names = ", ".join(map(recording.name, leaves[:MOST_TERMS]))
        yield f"  no op made it: {names} had it already" if names else "  no op made it"
    for origin in origins:
        call = origin.call
        article = "the first NaN" if origin.kind == "NaN" else "the first infinity"
        if origin.input:
            place = name_of(recording.name(call.parents[origin.input]), origin.place)
            yield f"  {article} is in what {_made_by(call, origin.input)} sends to {place}"
        else:
            yield f"  {article} is {_result_name(recording, origin)}, made by {_made_by(call)}"
        yield from dict.fromkeys(_read(recording, origin))
        if origin.input and zero_times_infinity(origin.value, list(origin.cotangents)):
            yield "    the cotangent is 0 and the derivative infinite: 0 times infinity is NaN"


def _is_finite(x: Any) -> bool:
    return np.asarray(x).dtype.kind != "f" or bool(np.isfinite(x).all())


def _result_name(recording: Recording, origin: NotFinite) -> str:
    number = next(n for n in origin.call.results if recording.values[n] is origin.value)
    return name_of(recording.name(number), origin.place)


def _read(recording: Recording, origin: NotFinite) -> Iterator[str]:
    """Yield the arrays that a call read: the element at the same place, or the range."""
    arrays = dict(origin.call.arguments)
    names = names_of(origin.call, recording, recording.name)
    arrays |= {f"cotangent{i or ''}": g for i, g in enumerate(origin.cotangents)}
    for name, x in arrays.items():
        if not (isinstance(x, ndarray | np.floating | float) and np.asarray(x).dtype.kind == "f"):
            continue
        known = names.get(name, name)
        if np.shape(x) == origin.value.shape:
            element = float(np.asarray(x)[origin.place])
            yield f"    {name_of(known, origin.place)} = {element:.4g}"
        else:
            yield f"    {known}: {summary(x)}"


def _zero_lines(trace: Trace, number: int, index: Index) -> Iterator[Text]:
    recording = trace.recording
    value = recording.values[number]
    element = Element(number, first_of(index, value.shape))
    size = value[index].size
    what = f"gradient of {name_of(recording.name(number), index)}: 0"
    if size > 1:
        what += f" in each of {size} elements; of the first, {_label(recording, element)}:"
    yield what
    zeros = list(find_zeros(trace, element))
    if sent := [zero.use for zero in zeros if zero.use.amount and not zero.behind]:
        yield f"  {len(sent)} uses send numbers that are not 0, and add up to 0:"
        for use in sent:
            yield from _use_lines(recording, use, f"{use.amount:+.4g}")
        zeros = [zero for zero in zeros if zero.behind or not zero.use.amount]
    for zero in zeros[:MOST_USES]:
        yield from _cause_lines(recording, zero)
    if rest := zeros[MOST_USES:]:
        yield f"  the {len(rest)} other uses send 0, too"


def _cause_lines(recording: Recording, zero: Zero) -> Iterator[Text]:
    """Yield the lines that say why one use sends 0."""
    if zero.behind:
        way = [_label(recording, at) for at in zero.behind]
        shown = way if len(way) < 4 else [way[0], "...", way[-1]]
        yield f"  it acts only on values whose cotangent is 0: {' → '.join(shown)}"
    call = zero.use.call
    what = _label(recording, zero.element)
    value = float(recording.values[zero.element.number][zero.element.place])
    by = _made_by(call, zero.use.input)
    if zero.cancels:
        yield f"  {by}: its terms are not 0, and add up to 0"
        yield from _term_lines(recording, zero.use)
    elif zero.factors == ["0"]:
        yield f"  {by}: a factor is the number 0"
    elif zero.factors:
        names = zero.factors[:MOST_TERMS]
        more = f" and {len(zero.factors) - len(names)} more" * (len(zero.factors) > len(names))
        is_one = len(zero.factors) == 1
        factors = f"the factor{'s' * (not is_one)} {', '.join(names)}{more}"
        yield f"  {by}: {factors} {'is' if is_one else 'are'} 0"
    else:
        result = ", ".join(recording.name(n) for n in call.results)
        if call.op.name == "embedding" or call.op.stated is not None and call.op.stated.moves:
            yield f"  {by}: {what} is no part of {result}"
            return
        if call.op.name == "dropout_seeded":
            yield f"  {by}: {what} is dropped"
            return
        chosen = ", ".join(_conditions(recording, zero))
        yield f"  {by}: {result} does not change with {what} = {value:.4g}" + (
            f", since {chosen}" if chosen else ""
        )


def _conditions(recording: Recording, zero: Zero) -> Iterator[str]:
    """Yield the elements of masks and other conditions of a call at the place of an element."""
    call, place = zero.use.call, zero.element.place
    shape = recording.values[zero.element.number].shape
    names = names_of(call, recording, recording.name)
    for name, x in call.arguments.items():
        is_mask = isinstance(x, ndarray) and x.dtype == bool and 0 < x.ndim <= len(shape)
        if is_mask and all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1], strict=False)):
            here = tuple(i if n > 1 else 0 for i, n in zip(place[-x.ndim :], x.shape, strict=True))
            yield f"{name_of(names[name], here)} is {bool(x[here])}"

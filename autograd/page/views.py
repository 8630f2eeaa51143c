"""What a page shows beside a pass, computed by whoever made the trace: tables, and why of values.

An `Insight` belongs to a trace, and knows what the pass computes: a model that reads a text, for
example. It answers for each pass: the recorded one, and those after changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from numpy import ndarray

from autograd.escape import shown
from autograd.page.arrays import number as written
from autograd.stepper.lines import the_others

if TYPE_CHECKING:
    from autograd.stepper.trace import Trace

MOST_TERMS = 12  # of a sum; the others are added up


@dataclass(frozen=True)
class View:
    """A table of short texts, each on the colour of a number.

    Parameters
    ----------
    title, note : str
        What the table is, and how to read it.
    rows, columns : list of str
        The labels.
    cells : list of list of str
        A text for each row and column.
    shares : ndarray, (rows, columns)
        The colour of each cell: 1 is blue, -1 orange, and 0 clear.
    tips : list of list of str
        What a click on a cell says.

    Examples
    --------
    >>> import numpy as np
    >>> view = View("best", "", ["layer 0"], ["a", "b"], [["x", "y"]], np.ones((1, 2)),
    ...             [["x 90 %", "y 80 %"]])
    >>> view.entry()["shares"]
    [[1.0, 1.0]]
    """

    title: str
    note: str
    rows: list[str]
    columns: list[str]
    cells: list[list[str]]
    shares: ndarray
    tips: list[list[str]]

    def entry(self) -> dict[str, Any]:
        """Return the view as data for JSON, with no character that a screen would obey.

        A share that is not finite has no colour.
        """
        found = asdict(self) | {"shares": self.shares.clip(-1, 1).tolist()}
        for name in ("rows", "columns"):
            found[name] = [*map(shown, found[name])]
        for name in ("cells", "tips"):
            found[name] = [[*map(shown, line)] for line in found[name]]
        return found


class Link(NamedTuple):
    """An element that a page can open."""

    number: int
    """A recorded value; or, with a symbol, a call."""
    place: tuple[int, ...]
    symbol: str = ""
    """A symbol of the formula of the call, such as ``p``."""


class Term(NamedTuple):
    """A term of a sum, and the terms that add up to it, if it is a sum itself."""

    name: str
    amount: float
    terms: Sequence[Term] = ()
    link: Link | None = None


@dataclass(frozen=True)
class Why:
    """Why a value is what it is: sums that give it, each in another way.

    Parameters
    ----------
    title, note : str
        What the value is, and how the sums are meant.
    total : float
        The value.
    splits : dict of str to list of Term
        By what the value is split, such as ``path``; the terms of each split add up to the value.

    Examples
    --------
    >>> why = Why("x", "", 3.0, {"part": [Term("a", 1.0), Term("b", 2.0)]})
    >>> why.entry({})["splits"]
    [['part', [['b', 2.0, None, []], ['a', 1.0, None, []]]]]
    """

    title: str
    note: str
    total: float
    splits: dict[str, list[Term]]

    def entry(self, calls: dict[int, int]) -> dict[str, Any]:
        """Return the answer as data for JSON, with the largest terms first.

        Parameters
        ----------
        calls : dict of int to int
            The place of each call on the page.
        """
        return {
            "title": shown(self.title),
            "note": shown(self.note),
            "total": written(self.total),
            "splits": [[by, _entries(terms, calls)] for by, terms in self.splits.items()],
        }


def _entries(terms: Iterable[Term], calls: dict[int, int]) -> list[list[Any]]:
    """Return the largest terms, without those that are 0, and the others as one term."""
    order = sorted((term for term in terms if term.amount), key=lambda term: -abs(term.amount))
    n_listed = MOST_TERMS + (len(order) == MOST_TERMS + 1)  # one other is listed, too
    found = [
        [
            shown(term.name),
            _short(term.amount),
            _link(term.link, calls),
            _entries(term.terms, calls),
        ]
        for term in order[:n_listed]
    ]
    if rest := order[n_listed:]:
        amount = sum(term.amount for term in rest)
        found.append([the_others(len(rest)), _short(amount), None, []])
    return found


def _short(x: float) -> float | str:
    """Return a number for JSON with six digits: a file has thousands of terms."""
    return written(float(f"{x:.6g}"))


def _link(link: Link | None, calls: dict[int, int]) -> list[Any] | None:
    """Return a link as data: a value or the place of a call, the symbol, and the element."""
    if link is None:
        return None
    return [calls[link.number] if link.symbol else link.number, link.symbol, list(link.place)]


class Element(NamedTuple):
    """An element of a value, for which a file without Python has the answer."""

    number: int
    place: tuple[int, ...]
    label: str
    """What the page calls the element."""


class Insight(Protocol):
    """What is known of the passes of a program beyond their numbers."""

    def views(self, trace: Trace) -> list[View]:
        """Return the tables that the page shows beside a pass."""

    def elements(self, trace: Trace) -> list[Element]:
        """Return the elements about which the page offers to ask.

        If Python can answer, the page asks about any element of their values.
        """

    def why(self, trace: Trace, number: int, place: tuple[int, ...]) -> Why:
        """Return why an element of a value is what it is.

        Raises
        ------
        CommandError
            If nothing is known about it.
        """

"""A page whose values can be changed: what a browser may ask for, and the answers, as data.

A server (`autograd.page.server`) and a notebook (`autograd.page.notebook`) carry the same requests.
No request holds code, a name or a path: each names an action, arrays by their numbers, and numbers.
Only a text that a model is to read is a text; a tokenizer turns it into numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy import ndarray

from autograd.page import fill_page
from autograd.page.arrays import Arrays, readable
from autograd.page.contents import collect
from autograd.page.why import explain, explain_value
from autograd.stepper.session import Session, replaced_part
from autograd.stepper.stops import CommandError
from autograd.stepper.trace import Trace
from autograd.stepper.what_if import Outcome, compare, outcome_notes, outcome_rows

MOST = 1 << 20  # elements that the page holds; it fetches the other ones when they are looked at


class Answers(Protocol):
    """What a page asks, through a server or a notebook."""

    longest: int
    """The most bytes of a request to a server."""

    def page(self, channel: str) -> str:
        """Return the page; see `Live.page`."""

    def array(self, key: Any, version: Any) -> bytes:
        """Return an array; see `Live.array`."""

    def answer(self, request: Any) -> dict[str, Any]:
        """Carry out a request; see `Live.answer`."""


class Reader(NamedTuple):
    """Lets models read other texts for a page."""

    models: list[str]
    """The names of the models; the page begins with the first."""
    read: Callable[[int, str], Trace]
    """Returns the trace of a model's loss on a text; raises CommandError, if the model cannot."""


class Course(Protocol):
    """A training run, for a page that shows the pass of one update after the other."""

    def entry(self) -> dict[str, Any]:
        """Return what the page shows of the run: losses, the update that is shown, its batch."""

    def go(self, step: Any, batch: Any) -> Trace:
        """Return the pass of an update, for one of its batches; CommandError if there is none."""

    def why(self, name: str, place: tuple[int, ...]) -> dict[str, Any]:
        """Return what moves a weight in this update; empty if the value is no weight."""

    def follow(self, name: str, place: tuple[int, ...], first: Any, last: Any) -> dict[str, Any]:
        """Return what each of several updates did to a weight; CommandError if it cannot."""


class Live:
    """The passes behind a page: the recorded one, and those after changes.

    Several pages may show one `Live`. The passes have versions, and a request for another version
    than the current one changes nothing.

    Parameters
    ----------
    trace : Trace
    reader : Reader, optional
        Reads the texts that the page asks for.
    course : Course, optional
        The run whose update the trace is; the page then asks for others.

    Attributes
    ----------
    session : Session
    version : int
        How many changes there were, with those that were undone.

    Examples
    --------
    >>> import autograd
    >>> from autograd.page.live import Live
    >>> with autograd.record():
    ...     x = autograd.tensor([1.0, 2.0], requires_grad=True)
    ...     loss = (x * x).sum()
    >>> live = Live(autograd.stepper.trace(loss))
    >>> number = live.session.find("x")
    >>> request = {"do": "set", "version": 0, "value": number, "flat": 1, "to": 3.0}
    >>> for name, before, after in live.answer(request)["outcome"]["rows"]:
    ...     print(name, before, after)
    loss 5 10
    d(x) [ 2 4 ] [ 2 6 ]
    """

    longest = 1 << 12

    def __init__(
        self, trace: Trace, reader: Reader | None = None, course: Course | None = None
    ) -> None:
        self.session = Session(trace)
        self.reader, self.course = reader, course
        self.model = self.readings = 0  # which model has read, and how many texts were asked for
        self.is_away = False  # whether the pass is that of another text than the run's
        self.version = 0
        self._lock = Lock()  # a server answers each request in a thread
        self._arrays = Arrays(MOST)
        self._contents = self._collect()

    def page(self, channel: str) -> str:
        """Return the page as it is now.

        Parameters
        ----------
        channel : str
            How the page asks: ``http``, or ``frame`` for messages to the window around a frame.
        """
        with self._lock:
            contents = self._contents
        return fill_page(contents | {"channel": channel})

    def array(self, key: Any, version: Any) -> bytes:
        """Return the elements of an array of the page, in the type that the page reads.

        Raises
        ------
        CommandError
            If the page has no such array, or shows an earlier pass.
        """
        with self._lock:
            known = range(len(self._arrays.kept))
            if version != self.version or type(key) is not int or key not in known:
                raise CommandError("there is no such array in this version of the pass")
            x = self._arrays.kept[key]
        return readable(np.asarray(x)).tobytes()

    def answer(self, request: Any) -> dict[str, Any]:
        """Carry out a request.

        Parameters
        ----------
        request : dict
            ``version``, and ``do`` with one of these: ``set`` and ``try`` change an element of an
            array, ``value`` or ``cotangent``, at the place ``flat``, ``to`` a number; ``descend``
            takes a step of gradient descent with a ``rate``; ``undo``; ``reset``; ``why`` asks
            about the element at the place ``flat`` of the gradient of the value ``number``, or, if
            ``of`` is ``value``, about the element of the value itself; ``read`` lets a ``model``, a
            number, read a ``text``; ``show`` asks for the pass, if the version is an old one. Of a
            run, ``step`` goes to the update ``step`` and one of its batches, ``batch``; ``follow``
            asks what the updates from ``first`` to ``last`` did to the weight at the place ``flat``
            of the value ``number``.

        Returns
        -------
        dict
            ``outcome``, what the change does to the loss and the gradients; ``contents``, what the
            page is to show from now on: the parts that have changed, with the number of an array in
            the old contents in the place of one that is the same; ``error``, why a request was not
            carried out. ``try`` changes nothing, so its answer has no ``contents``.
        """
        with self._lock:
            if not isinstance(request, dict):
                return {"error": "a request is an object"}
            if request.get("version") != self.version:
                message = "another page has changed the pass; this page now shows it, too"
                return {"error": message, "contents": self._contents}
            try:
                with np.errstate(all="ignore"):
                    return self._carry_out(request)
            except CommandError as error:
                return {"error": str(error)}

    def _carry_out(self, request: dict[str, Any]) -> dict[str, Any]:
        action = request.get("do")
        if action == "why":
            return {"why": self._why(request)}
        if action == "follow":
            return {"history": self._follow(request)}
        if action == "show":
            return {}
        if action == "try":
            return {"outcome": _set(self.session.branch(), request)}
        outcome = None
        if action == "set":
            outcome = _set(self.session, request)
        elif action == "descend":
            outcome = _as_data(self.session.descend(repr(_number(request, "rate"))))
        elif action == "undo":
            self.session.undo()
        elif action == "reset":
            self.session.reset()
        elif action == "read":
            self._read(request.get("model"), request.get("text"))
        elif action == "step":
            self._step(request.get("step"), request.get("batch"))
        else:
            known = "set, try, descend, undo, reset, why, show, read, step, follow"
            raise CommandError(f"the request is none of {known}")
        self.version += 1
        before, self._contents = self._contents, self._collect()
        return {"outcome": outcome, "contents": _changed(before, self._contents)}

    def _read(self, model: Any, text: Any) -> None:
        """Go on with the pass of a model on a text."""
        if self.reader is None:
            raise CommandError("this page shows a pass that reads no text")
        if type(model) is not int or model not in range(len(self.reader.models)):
            raise CommandError("there is no such model")
        if not isinstance(text, str):
            raise CommandError("the text is to be a text")
        self.session = Session(self.reader.read(model, text))
        self.model, self.readings, self.is_away = model, self.readings + 1, True

    def _step(self, step: Any, batch: Any) -> None:
        """Go on with the pass of another update of the run."""
        self.session = Session(self._demand_course().go(step, batch))
        self.is_away = False

    def _why(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return why an element of a gradient is what it is; of a weight of a run, what moves it.

        The batches of a run are those that were recorded. So there is no answer about them after a
        change.
        """
        found = _why(self.session.trace, request)
        is_of_run = self.course and not self.is_away and not self.session.level.history
        if is_of_run and request.get("of") != "value":
            found |= self._demand_course().why(*self._named(request))
        return found

    def _follow(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what several updates of the run did to a weight."""
        name, place = self._named(request)
        return self._demand_course().follow(name, place, request.get("first"), request.get("last"))

    def _named(self, request: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
        """Return the name of the value that a request asks about, and the place of the element."""
        recording = self.session.trace.recording
        number = _known(recording.values, request.get("number"))
        x, name = recording.values[number], recording.name(number)
        flat = _known_element(x, request.get("flat"), name)
        return name, tuple(map(int, np.unravel_index(flat, x.shape)))

    def _demand_course(self) -> Course:
        if self.course is None:
            raise CommandError("this page shows no update of a run")
        return self.course

    def _collect(self) -> dict[str, Any]:
        level = self.session.level
        self._arrays = Arrays(MOST, self._arrays)
        before = level.history[-1][0] if level.history else None
        title = self.reader.models[self.model] if self.reader else ""
        contents = collect(level.trace, self._arrays, before, title)
        reads = {"reads": self.reader.models, "model": self.model} if self.reader else {}
        run = {"run": self.course.entry() | {"away": self.is_away}} if self.course else {}
        versions = {"version": self.version, "readings": self.readings}
        return contents | versions | {"changes": len(level.history)} | reads | run


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of contents that have changed; an array that has not is its old number."""
    numbers = {id(entry): i for i, entry in enumerate(before["arrays"])}
    arrays = [numbers.get(id(entry), entry) for entry in after["arrays"]]
    return {key: x for key, x in after.items() if before[key] != x} | {"arrays": arrays}


def _set(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    """Change one element of a value, or of the cotangent that a step received."""
    recording, to = session.trace.recording, _number(request, "to")
    if "cotangent" not in request:
        number = _known(recording.values | recording.constants, request.get("value"))
        x, name = session.value(number), session.name(number)
        changed = _with_element(x, request.get("flat"), to, name)
        return _as_data(session.change({number: changed}))
    places = {n: (i, k) for i, step in enumerate(session.trace.steps)
              for k, n in enumerate(session.trace.call(step).results)}  # fmt: skip
    number = _known(places, request["cotangent"])
    index, k = places[number]
    given, before = session.go(index).step.symbols, session.trace
    symbol = list(given)[k]
    name = f"d({session.name(number)})"
    given[symbol] = _with_element(np.asarray(given[symbol]), request.get("flat"), to, name)
    session.rerun(given)
    rows = outcome_rows(compare(before, session.trace, {}))
    return {"rows": rows[1:], "notes": ["a cotangent changes the gradients behind it alone"]}


def _why(trace: Trace, request: dict[str, Any]) -> dict[str, Any]:
    """Return why an element of a gradient, or of a value, is what it is."""
    number = _known(trace.recording.values, request.get("number"))
    recording = trace.recording
    flat = _known_element(recording.values[number], request.get("flat"), recording.name(number))
    about = explain_value if request.get("of") == "value" else explain
    return about(trace, number, flat)


def _known_element(x: ndarray, flat: Any, name: str) -> int:
    if type(flat) is not int or not 0 <= flat < x.size:
        raise CommandError(f"{name} has no such element")
    return flat


def _known(numbers: Container[int], number: Any) -> int:
    if type(number) is not int or number not in numbers:
        raise CommandError("there is no such array in this pass")
    return number


def _number(request: dict[str, Any], key: str) -> int | float:
    x = request.get(key)
    if not isinstance(x, int | float):
        raise CommandError(f"{key} is to be a number")
    return x


def _with_element(x: ndarray, flat: Any, to: float, name: str) -> ndarray:
    """Return a copy of an array with another element."""
    index = np.unravel_index(_known_element(x, flat, name), x.shape)
    return replaced_part(x, tuple(map(int, index)), to, name)


def _as_data(outcome: Outcome) -> dict[str, Any]:
    return {"rows": outcome_rows(outcome), "notes": list(outcome_notes(outcome))}

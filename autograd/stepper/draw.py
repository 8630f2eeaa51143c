"""Drawing a tape as an SVG picture: leaves at the top, each op below its inputs."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from typing import Any

from autograd.anomaly import users_frame
from autograd.engine import Node, TensorBase
from autograd.escape import shown
from autograd.files import write_text
from autograd.stepper.record import Call, Recording
from autograd.tensor import Tensor

MOST = 60  # boxes: in the picture of a larger tape, a module is one box
CHARACTER, BOX, GAP, LAYER, MARGIN = 7.0, 40, 18, 30, 12  # widths and heights, in pixels
LONGEST = 34  # characters of a label
LEAF, LONG = 0.1, 1e3  # weights: leaves give way, and a long edge, as of a residual, is straight
FAR = 8  # layers: a leaf that is read so far below has a straight edge, too
INPUTS = "leaf", "data"  # kinds of boxes: a tensor that no op has computed; an array off the tape
ROUNDS = 8  # how often the boxes of all layers are reordered

STYLE = """
.tape { color-scheme: light dark;
        --ink: #24292f; --soft: #6e7781; --leaf: #ddf4ff; --data: #eceff2; --op: #ffffff;
        --module: #fff8e5; --end: #dafbe1; --line: #afb8c1; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  .tape { --ink: #e6edf3; --soft: #9198a1; --leaf: #12304d; --data: #262c35; --op: #1c2128;
          --module: #3a2f12; --end: #14361f; --line: #57606a; --page: #0d1117; }
}
.tape .page { fill: var(--page); stroke: none; }
.tape text { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
             fill: var(--ink); text-anchor: middle; }
.tape .shape { fill: var(--soft); font-size: 11px; }
.tape rect { stroke: var(--line); }
.tape .leaf { fill: var(--leaf); } .tape .data { fill: var(--data); } .tape .op { fill: var(--op); }
.tape .module { fill: var(--module); } .tape .end { fill: var(--end); }
.tape path { fill: none; stroke: var(--line); stroke-width: 1.3; }
.tape .arrow { fill: var(--line); stroke: none; }
"""


@dataclass(eq=False)
class Drawing:
    """A picture of a tape. Notebooks show the picture.

    Attributes
    ----------
    svg : str
        The text of the picture.
    """

    svg: str

    def __repr__(self) -> str:
        return f"<Drawing of {len(self.svg)} characters; .save('tape.svg') writes it>"

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x: auto">{self.svg}</div>'

    def save(self, path: str | Path) -> None:
        """Write the picture to an SVG file."""
        write_text(path, self.svg)


@dataclass(eq=False)
class Box:
    """A box of the picture: a leaf, an op or a module.

    A box with an empty `kind` is invisible: an edge passes through it on its way to a later layer.
    """

    label: str = ""
    detail: str = ""
    kind: str = ""
    inputs: list[Box] = field(default_factory=list)
    layer: int = 0
    x: float = 0.0
    title: str = ""
    numbers: list[int] = field(default_factory=list)  # of the values that the box stands for
    room: int = 0  # characters that a page writes behind the detail
    weight: float = 1.0  # how much its neighbours follow it, when `arrange` places boxes

    @property
    def width(self) -> float:
        """In pixels; for the longer of the two texts."""
        longest = max(len(self.label), len(self.detail) + self.room)
        return longest * CHARACTER + 20 if self.kind else 2.0


def draw(loss: Tensor, depth: int | None = None) -> Drawing:
    """Draw the ops that computed a tensor: leaves at the top, the tensor at the bottom.

    If the tape was recorded (``with autograd.record():``), the picture has names and modules;
    otherwise it has ops and shapes.

    Parameters
    ----------
    loss : Tensor
    depth : int, optional
        The depth of modules that are opened. With 1, ``transformer`` is one box; with 2,
        ``transformer.h.0`` and ``transformer.ln_f`` are boxes. By default it is chosen such that
        the picture has at most 60 boxes, if possible.

    Returns
    -------
    Drawing
        Its ``.svg`` is the text of the picture, and ``.save(path)`` writes a file.

    Raises
    ------
    TypeError
        If `loss` is not a tensor that requires a gradient.

    Examples
    --------
    >>> import autograd
    >>> from autograd.stepper.draw import draw
    >>> with autograd.record():
    ...     x = autograd.tensor([1.0, 2.0], requires_grad=True)
    ...     y = (x * x).sum()
    >>> draw(y).svg.count("<rect class='op'")
    1
    """
    if not isinstance(loss, TensorBase) or loss._node is None:
        raise TypeError("draw needs a tensor that requires a gradient: one on a tape")
    recording = getattr(loss._node, "recording", None)
    if recording is not None:
        recording.name_variables(users_frame())
    end = loss._node.number
    nodes = read_tape(loss._node) if recording is None else read_recording(recording, end)
    boxes = make_boxes(nodes, end, depth)
    if depth is None and recording is not None:
        deepest = depth_of_modules(recording, end)
        while len(boxes) > MOST and deepest > 0:
            deepest -= 1
            boxes = make_boxes(nodes, end, deepest)
    return Drawing(_svg(arrange(boxes)))


def depth_of_modules(recording: Recording, number: int) -> int:
    """Return how deep the modules lie in each other whose ops computed a value."""
    scopes = {call.scope for call in recording.behind(number)}
    return max((scope.count(".") + 1 for scope in scopes if scope), default=0)


# ---- the boxes


def make_boxes(nodes: dict[int, tuple], end: int, depth: int | None) -> list[Box]:
    """Return the boxes for the ops that computed a node; each box stands after its inputs.

    The loop goes through what has no inputs, then through the ops from old to new: an array off the
    tape may have a newer number than the op that reads it. With a depth, the ops of one module
    share one box, unless that would make a circle: if an op of the module reads a result from
    outside that was itself computed from the module, then this op begins a second box.
    """
    boxes: dict[Any, Box] = {}  # by module or node
    of: dict[int, Box] = {}  # by number
    for number in sorted(nodes, key=lambda n: (bool(nodes[n][-1]), n)):
        label, detail, kind, scope, inputs = nodes[number]
        module = _module(scope, depth) if kind == "op" and depth is not None else ""
        key = module or number
        if kind == "op" and module and number != end:
            above = [of[n] for n in inputs]
            box = boxes.get(key)
            if box is None or _reaches(above, box):
                only = f"{module}: {label.split(' = ')[-1]}"  # the label if this is the only op
                only = only if len(only) <= LONGEST else module
                box = Box(only, detail, "module", title=module)
                boxes[key] = box
                boxes[(key, number)] = box
            else:
                box.label = module  # the label for several ops
            box.label, box.detail = _cut(box.label), detail
            box.numbers.append(number)
            box.inputs += [x for x in above if x is not box and x not in box.inputs]
        else:
            box = boxes[number] = Box(_cut(label), detail, kind, [], title=label, numbers=[number])
            box.inputs = [of[n] for n in inputs]
            if number == end:
                box.kind = "end"
        of[number] = box
    return _sort(_hide_parameters(list(dict.fromkeys(boxes.values()))))


def _hide_parameters(boxes: list[Box]) -> list[Box]:
    """Return the boxes without the parameters of a module that only this module reads."""
    readers: dict[int, list[Box]] = {}
    for box in boxes:
        for x in box.inputs:
            readers.setdefault(id(x), []).append(box)
    kept = []
    for box in boxes:
        (reader, *others) = readers.get(id(box), [box])
        inside = reader.kind == "module" and box.title.startswith(reader.title + ".")
        if box.kind in INPUTS and inside and not others:
            reader.inputs.remove(box)
        else:
            kept.append(box)
    return kept


def _reaches(above: list[Box], box: Box) -> bool:
    """Return whether a box in `above`, other than `box`, was computed from `box`."""
    seen: set[int] = set()
    waiting = [x for x in above if x is not box]
    while waiting:
        x = waiting.pop()
        if x is box:
            return True
        if id(x) not in seen:
            seen.add(id(x))
            waiting += x.inputs
    return False


def _sort(boxes: list[Box]) -> list[Box]:
    """Return the boxes in an order in which each stands after its inputs."""
    done: dict[int, Box] = {}
    for box in boxes:
        stack = [(box, iter(box.inputs))]
        while stack:
            top, rest = stack[-1]
            following = next((x for x in rest if id(x) not in done), None)
            if following is not None:
                stack.append((following, iter(following.inputs)))
            else:
                done.setdefault(id(top), top)
                stack.pop()
    return list(done.values())


def _module(scope: str, depth: int) -> str:
    """Return the first parts of a module's name: ``transformer.h.0`` for a depth of 2.

    The number of a module in a list does not count as a part.
    """
    kept: list[str] = []
    for part in scope.split("."):
        depth -= not part.isdigit()
        if depth < 0:
            break
        kept.append(part)
    return ".".join(kept)


def read_recording(recording: Recording, end: int) -> dict[int, tuple]:
    """Return the nodes that a recorded node was computed from.

    For each number: the label, shape and kind of the box, the module, and the numbers of inputs.
    Named arrays off the tape, such as the targets of a loss, are inputs, too.
    """
    found: dict[int, tuple] = {}
    for call in recording.behind(end):
        data = [n for n in call.constants.values() if _is_data(recording, call, n)]
        inputs = [*call.parents.values(), *data]
        for n in inputs:
            if n not in recording.maker:
                x = recording.constants[n] if n in data else recording.values[n]
                found[n] = recording.name(n), _shape(x), "data" if n in data else "leaf", "", []
        for n in call.results:
            name = recording.names.get(n, "")
            label = f"{name.split('.')[-1]} = {call.op.name}" if name else call.op.name
            found[n] = label, _shape(recording.values[n]), "op", call.scope, inputs
    if end not in found:
        found[end] = recording.name(end), _shape(recording.values[end]), "leaf", "", []
    return found


def _is_data(recording: Recording, call: Call, number: int) -> bool:
    """Return whether a constant has a name, and is no mere number in a module, such as a scale."""
    return number in recording.names and bool(recording.constants[number].ndim or not call.scope)


def read_tape(end: Node) -> dict[int, tuple]:
    """Return the same as `read_recording` for a node that was not recorded, from its tape."""
    found: dict[int, tuple] = {}
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node.number in found:
            continue
        owner = node.selects[0] if node.selects else node
        parents = [p for _, _, ps in owner.steps or () for p in ps if p is not None]
        waiting += parents
        label, kind = (node.op.name, "op") if node.op else ("leaf", "leaf")
        inputs = list(dict.fromkeys(p.number for p in parents))
        found[node.number] = label, _shape(node), kind, "", inputs
    return found


def _shape(x: Any) -> str:
    return f"{x.dtype} {tuple(x.shape)}".removeprefix("float64 ")


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else "…" + label[1 - LONGEST :]


# ---- the places of the boxes


def arrange(boxes: list[Box]) -> list[list[Box]]:
    """Put the boxes into layers, and return the layers.

    A box stands one layer below the lowest of its inputs; a leaf stands one layer above its first
    reader. Edges that pass a layer go through an invisible box there. Then the layers are visited
    in rounds, downwards and upwards, and each box moves to the mean place of its neighbours in the
    layer before (Sugiyama, Tagawa and Toda 1981, doi:10.1109/TSMC.1981.4308636). After that, boxes
    move without changing their order, which straightens the edges.
    """
    for box in boxes:
        box.weight = LEAF if box.kind in INPUTS else 1.0
        box.inputs = list(dict.fromkeys(box.inputs))
        box.layer = max((x.layer + 1 for x in box.inputs), default=0)
    readers: dict[int, list[Box]] = {id(box): [] for box in boxes}
    for box in boxes:
        for x in box.inputs:
            readers[id(x)].append(box)
    for box in boxes:
        if not box.inputs and readers[id(box)]:
            box.layer = min(x.layer for x in readers[id(box)]) - 1
            if max(x.layer for x in readers[id(box)]) - box.layer > FAR:
                box.weight = 1.0
    layers: list[list[Box]] = [[] for _ in range(max(box.layer for box in boxes) + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    for box in boxes:
        box.inputs = [_through(x, box.layer, layers) for x in box.inputs]
    above = {id(box): box.inputs for layer in layers for box in layer}
    below: dict[int, list[Box]] = {id(box): [] for layer in layers for box in layer}
    for layer in layers:
        for box in layer:
            for x in box.inputs:
                below[id(x)].append(box)
    for layer in layers:
        _place(layer, {})
    for i in range(ROUNDS):
        down = i % 2 == 0
        for layer in layers if down else reversed(layers):
            near = above if down else below
            wish = {id(box): _mean(near[id(box)], box.x) for box in layer}
            layer.sort(key=lambda box, wish=wish: wish[id(box)])  # type: ignore[misc]
            _place(layer, wish)
    for i in range(ROUNDS * 4):  # move, without changing the order
        for layer in layers if i % 2 else reversed(layers):
            wish = {id(box): _mean(above[id(box)] + below[id(box)], box.x) for box in layer}
            _place(layer, wish)
    return layers


def _through(x: Box, layer: int, layers: list[list[Box]]) -> Box:
    """Return the box in the layer above from which an edge comes: x, or an invisible one."""
    weight = LEAF if x.weight == LEAF else LONG
    for between in range(x.layer + 1, layer):
        passing = next((p for p in layers[between] if not p.kind and p.inputs == [x]), None)
        if passing is None:
            passing = Box(inputs=[x], layer=between, weight=weight)
            layers[between].append(passing)
        x = passing
    return x


def _mean(boxes: list[Box], otherwise: float) -> float:
    """Return the mean place of boxes, by their weights."""
    weights = [box.weight for box in boxes]
    places = [box.x for box in boxes]
    return sum(map(mul, weights, places)) / sum(weights) if boxes else otherwise


def _place(layer: list[Box], wish: dict[int, float]) -> None:
    """Put the boxes of a layer as near to their wished places as order and widths allow.

    Boxes that would overlap form a group, which stands at the weighted mean of its wished places.
    If groups overlap, they become one group.
    """
    groups: list[Any] = []  # of boxes that touch: the boxes, where they begin, weight, width
    for box in layer:
        width = box.width + GAP
        groups.append([[box], wish.get(id(box), 0.0) - width / 2, box.weight, width])
        while len(groups) > 1 and groups[-2][1] + groups[-2][3] > groups[-1][1]:
            boxes, begin, weight, width = groups.pop()
            first = groups[-1]
            whole = first[2] + weight
            first[1] = (first[1] * first[2] + (begin - first[3]) * weight) / whole
            first[0] += boxes
            first[2], first[3] = whole, first[3] + width
    for boxes, begin, _, _ in groups:
        for box in boxes:
            box.x = begin + (box.width + GAP) / 2
            begin += box.width + GAP


# ---- the text of the picture


def _svg(layers: list[list[Box]]) -> str:
    boxes = [box for layer in layers for box in layer]
    left = min(box.x - box.width / 2 for box in boxes) - MARGIN
    width = max(box.x + box.width / 2 for box in boxes) + MARGIN - left
    height = len(layers) * (BOX + LAYER) - LAYER + 2 * MARGIN
    body = "\n".join([*_edges(boxes, left), *_rects(boxes, left)])
    return (
        f"<svg class='tape' xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' "
        f"height='{height:.0f}' viewBox='0 0 {width:.0f} {height:.0f}' role='img' "
        f"aria-label='graph of a computation' style='max-width: none; color: currentColor'>\n"
        f"<style>{STYLE}</style>\n<rect class='page' width='100%' height='100%'/>\n"
        f"{body}\n</svg>\n"
    )


def _escaped(text: str) -> str:
    return html.escape(shown(text))


def top(box: Box) -> float:
    """Return the upper end of a box in the picture."""
    return MARGIN + box.layer * (BOX + LAYER)


def _edges(boxes: list[Box], left: float) -> Iterator[str]:
    for box in boxes:
        for x in box.inputs:
            x0, y0 = x.x - left, top(x) + BOX
            x1, y1 = box.x - left, top(box) - (6 if box.kind else 0)
            bend = (y1 - y0) / 2
            through = "" if box.kind else f" v{BOX}"
            yield (
                f"<path d='M{x0:.1f} {y0:.1f} C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} "
                f"{x1:.1f} {y1:.1f}{through}'/>"
            )
        if box.kind and box.inputs:
            x1, y1 = box.x - left, top(box)
            yield f"<path class='arrow' d='M{x1 - 4:.1f} {y1 - 7:.1f}h8l-4 7z'/>"


def _rects(boxes: list[Box], left: float) -> Iterator[str]:
    for box in boxes:
        if box.kind:
            x, y = box.x - left, top(box)
            radius = 18 if box.kind in INPUTS else 5
            yield (
                f"<g><title>{_escaped(box.title)}</title><rect class='{box.kind}' "
                f"x='{x - box.width / 2:.1f}' y='{y:.1f}' width='{box.width:.1f}' height='{BOX}' "
                f"rx='{radius}'/><text x='{x:.1f}' y='{y + 17:.1f}'>{_escaped(box.label)}</text>"
                f"<text class='shape' x='{x:.1f}' y='{y + 32:.1f}'>{_escaped(box.detail)}</text>"
                "</g>"
            )

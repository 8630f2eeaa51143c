"""The graph of a page: each module holds the picture of its inside, and so unfolds in its place."""

from __future__ import annotations

import os
from typing import Any

from autograd.escape import shown
from autograd.stepper.draw import BOX, INPUTS, LAYER, Box, arrange, make_boxes, read_recording
from autograd.stepper.trace import Trace

DEEPEST = 64  # parts of a module's name: one box for what lies deeper
STRAIGHT = 1.0  # pixels: a line that strays less is straight
NORM = len(", norm -1.234e-05")  # what a page writes behind the shape of a module's result


def draw_graph(trace: Trace) -> dict[str, Any]:
    """Return the picture of a trace's graph with all modules closed, and what is inside of each.

    A picture is a dict: ``boxes``, each with its place ``x`` and its ``layer``, and the picture of
    its inside as ``inside``; and ``lines`` between boxes, each with the layers where it bends. A
    page puts the layers below each other, as high as their boxes are. The blocks of a model are a
    module of their own, so that they are one box at first.

    In the picture of an inside, boxes of the kind ``port`` stand for the values that come from
    outside, and one at the end for what reads the results outside.
    """
    nodes = read_recording(trace.recording, trace.start)
    picture = _draw(nodes, {n: node[3] for n, node in nodes.items()}, trace.start, "", set())
    return picture | {"box": BOX, "gap": LAYER}


def _draw(
    nodes: dict[int, tuple], scopes: dict[int, str], end: int, prefix: str, known: set[int]
) -> dict[str, Any]:
    """Return the picture of some nodes.

    Parameters
    ----------
    nodes : dict of int to tuple
        As of `read_recording`.
    scopes : dict of int to str
        The module of each op, relative to the module that is drawn.
    end : int
        The node at which the pass begins, which is in no module.
    prefix : str
        The name of the module that is drawn, with a dot behind; empty for the whole.
    known : set of int
        The leaves that a picture outside of this one shows.
    """
    children = _children(scopes)
    boxes = make_boxes(
        {n: (*node[:3], children.get(n, ""), node[4]) for n, node in nodes.items()}, end, DEEPEST
    )
    known = known | {n for box in boxes for n in box.numbers}
    for box in boxes:
        if box.kind == "module":
            box.room = NORM
            blocks = {
                scopes[n].removeprefix(f"{box.title}.").partition(".")[0] for n in box.numbers
            }
            if len(blocks) > 1 and all(map(str.isdigit, blocks)):
                box.label += f": {len(blocks)} blocks"
            if box.title.isdigit():  # a block
                box.label = f"{prefix.split('.')[-2]}.{box.label}"
    inside = {
        id(box): _draw_inside(box, nodes, scopes, children, prefix, known)
        for box in boxes if box.kind == "module"
    }  # fmt: skip
    return _place(arrange(boxes), inside, prefix)


def _children(scopes: dict[int, str]) -> dict[int, str]:
    """Return the child of the drawn module that each op belongs to: the longest common name.

    Examples
    --------
    >>> _children({1: "", 2: "h.0.ln", 3: "h.1.ln"}), _children({2: "h.0.ln", 3: "h.0.attn"})
    ({2: 'h', 3: 'h'}, {2: 'h.0', 3: 'h.0'})
    """
    groups: dict[str, list[int]] = {}
    for n, scope in scopes.items():
        if scope:
            groups.setdefault(scope.partition(".")[0], []).append(n)
    return {
        n: ".".join(os.path.commonprefix([scopes[m].split(".") for m in group]))
        for group in groups.values()
        for n in group
    }


def _draw_inside(
    box: Box, nodes: dict[int, tuple], scopes: dict[int, str], children: dict[int, str],
    prefix: str, known: set[int],
) -> dict[str, Any]:  # fmt: skip
    """Return the picture of the inside of a module's box."""
    own = set(box.numbers)
    child = children[box.numbers[0]]
    found, readers = {n: nodes[n] for n in box.numbers}, []
    for n, (_, _, _, _, inputs) in nodes.items():
        if n not in own and not own.isdisjoint(inputs):
            readers.append(n)
    for n in {n for m in own for n in nodes[m][4]} - own:
        label, detail, kind, *_ = nodes[n]
        name = label.removeprefix(f"{child}.")
        found[n] = name, detail, kind if kind in INPUTS and n not in known else "port", "", []
    within = {n: scopes[n].removeprefix(child).removeprefix(".") for n in box.numbers}
    outputs = [n for n in box.numbers if any(n in nodes[m][4] for m in readers)]
    last = max(nodes) + 1  # one port for all results
    found[last] = "", "", "port", "", outputs
    picture = _draw(found, within, -1, f"{prefix}{child}.", known)
    for entry in picture["boxes"]:
        if entry["numbers"] == [last]:
            entry["numbers"] = readers
    return picture


def _bends(points: list[list[float]]) -> list[list[float]]:
    """Return the ends of the straight parts of a line.

    A weight that a loop uses a thousand times has a line to each use, most of which pass a thousand
    layers.

    Examples
    --------
    >>> _bends([[5, 0], [5.2, 1], [5.1, 2], [7, 3]])
    [[5, 0], [5, 2], [7, 3]]
    """
    parts = [[points[0]]]
    for at in points[1:]:
        if abs(at[0] - parts[-1][0][0]) > STRAIGHT:
            parts.append([at])
        else:
            parts[-1].append(at)
    return [
        [part[0][0], layer] for part in parts for layer in dict.fromkeys((part[0][1], part[-1][1]))
    ]


def _place(layers: list[list[Box]], inside: dict[int, Any], prefix: str) -> dict[str, Any]:
    """Return the places of boxes, and the lines between them."""
    boxes = [box for layer in layers for box in layer]
    found = {id(box): i for i, box in enumerate(box for box in boxes if box.kind)}
    lines = []
    for box in boxes:
        for first in box.inputs if box.kind else ():
            points, at = [[round(box.x, 1), box.layer]], first
            while not at.kind:  # an invisible box, which the line passes
                points.append([round(at.x, 1), at.layer])
                at = at.inputs[0]
            points.append([round(at.x, 1), at.layer])
            lines.append([found[id(at)], found[id(box)], _bends(points[::-1])])
    return {
        "layers": len(layers),
        "boxes": [
            {
                "x": round(box.x, 1),
                "layer": box.layer,
                "width": round(box.width, 1),
                "kind": box.kind,
                "label": shown(box.label),
                "detail": shown(box.detail),
                "title": shown(prefix + box.title if box.kind == "module" else box.title),
                "numbers": box.numbers,
                **({"inside": inside[id(box)]} if id(box) in inside else {}),
            }
            for box in boxes
            if box.kind
        ],
        "lines": lines,
    }

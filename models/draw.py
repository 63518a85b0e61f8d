"""Draw the network of a prototxt file as an SVG picture, readable in light and in dark mode.

    python models/draw.py models/deepq/train_val.prototxt > net.svg

Every layer is a box with its name, its type and the shape of what it makes; layers that work in
place are named in the box before them.  Boxes lie in rows below what they read, and arrows that
pass rows go around the boxes there, as in Sugiyama, Tagawa and Toda, 1981, *Methods for visual
understanding of hierarchical system structures*: rows, order within the rows, places.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, only models/ is on the path.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from caffe.graph import included  # noqa: E402 - needs the path above
from caffe.proto import caffe_pb2  # noqa: E402 - needs the path above
from caffe.prototxt import parse_text, read_net  # noqa: E402 - needs the path above

import caffe  # noqa: E402 - needs the path above

if TYPE_CHECKING:
    from collections.abc import Sequence

BOX, HEIGHT, GAP, ROW = 236, 44, 24, 76  # a box, between boxes, from row to row; in pixels
DETOUR = 12  # room that an arrow takes in a row it passes
PORTS = 22  # between the heads of arrows that come to one box
MARGIN = 12
SWEEPS = 24
_WITH_WEIGHTS = {"Convolution", "Deconvolution", "Embed", "InnerProduct", "LSTM", "RNN"}

STYLE = """\
text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
.name { font-size: 13px; font-weight: 600 }
.shape, .kind { font-size: 11.5px }
text { fill: #1f2328 } .kind, .shape { fill: #59636e }
rect { stroke: #8c959f; fill: #f6f8fa }
.input rect { fill: #eaeef2 } .weights rect { fill: #ddf4ff; stroke: #54aeff }
.frozen rect { fill: #f6f8fa; stroke: #54aeff; stroke-dasharray: 5 3 }
.output rect { fill: #dafbe1; stroke: #4ac26b } .loss rect { fill: #ffebe9; stroke: #ff8182 }
.arrow { fill: none; stroke: #818b98; stroke-width: 1.4 } .head { fill: #818b98 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .kind, .shape { fill: #b1bac4 }
rect { stroke: #656c76; fill: #21262d }
.input rect { fill: #2f353d } .weights rect { fill: #0c2d4d; stroke: #388bfd }
.frozen rect { fill: #21262d; stroke: #388bfd }
.output rect { fill: #0f3420; stroke: #2ea043 } .loss rect { fill: #491516; stroke: #da3633 }
}
"""


@dataclass(eq=False)
class Node:
    """A box, or the place where an arrow passes a row."""

    layer: caffe_pb2.LayerParameter | None = None
    shape: tuple[int, ...] = ()
    extras: list[str] = field(default_factory=list)  # types of the layers in place on it
    reads: list[Node] = field(default_factory=list)  # boxes
    above: list[Node] = field(default_factory=list)  # neighbours in the row above
    below: list[Node] = field(default_factory=list)
    row: int = 0
    x: float = 0.0  # of its middle

    @property
    def width(self) -> int:
        """Pixels that it takes in its row."""
        return DETOUR if self.layer is None else BOX


def svg(net: caffe_pb2.NetParameter) -> str:
    """Return a picture of a net in its TRAIN phase.

    Raises:
        caffe.CaffeError: If the net cannot be built.
    """
    boxes = _boxes(net)
    _choose_rows(boxes)
    rows = _rows(boxes)
    _order(rows)
    _place(rows)
    return _rendered(net.name or "net", rows)


def svg_of_text(text: str) -> str:
    """Return a picture of a prototxt's net.  Raises what `svg` does."""
    return svg(parse_text(text, caffe_pb2.NetParameter()))


def _boxes(param: caffe_pb2.NetParameter) -> list[Node]:
    """Return the boxes of a net, each behind those that it reads."""
    net = caffe.Net(param, caffe.TRAIN)
    makers: dict[str, Node] = {}
    boxes = []
    for layer in included(param.layer, caffe_pb2.NetState(phase=caffe_pb2.TRAIN)):
        if list(layer.bottom) == list(layer.top) and len(layer.top) == 1:
            makers[layer.top[0]].extras.append(layer.type)
            continue
        box = Node(layer, tuple(net.blobs[layer.top[0]].shape) if layer.top else ())
        box.reads = list(dict.fromkeys(makers[name] for name in layer.bottom))
        makers.update(dict.fromkeys(layer.top, box))
        boxes.append(box)
    return boxes


def _choose_rows(boxes: Sequence[Node]) -> None:
    """Put every box below all that it reads, and inputs just above what reads them first."""
    for box in boxes:
        box.row = max((each.row + 1 for each in box.reads), default=0)
    for box in boxes:
        readers = [each.row for each in boxes if box in each.reads]
        if not box.reads and readers:
            box.row = min(readers) - 1


def _rows(boxes: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes by their rows, with one in every row that an arrow passes."""
    rows: list[list[Node]] = [[] for _ in range(1 + max(box.row for box in boxes))]
    for box in boxes:
        rows[box.row].append(box)
    for box in boxes:
        for start in box.reads:
            chain = [start, *(Node(row=row) for row in range(start.row + 1, box.row)), box]
            for above, below in itertools.pairwise(chain):
                above.below.append(below)
                below.above.append(above)
            for node in chain[1:-1]:
                rows[node.row].append(node)
    return rows


def _order(rows: list[list[Node]]) -> None:
    """Order the nodes within their rows so that few arrows cross: each near its neighbours."""
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            places = {node: place for each in rows for place, node in enumerate(each)}
            wishes = {}
            for node in row:
                near = node.above if sweep % 2 == 0 else node.below
                wishes[node] = _mean([places[each] for each in near], default=places[node])
            row.sort(key=wishes.__getitem__)
        if _crossings(rows) < fewest:
            best, fewest = [list(row) for row in rows], _crossings(rows)
    rows[:] = best


def _crossings(rows: list[list[Node]]) -> int:
    """Return how many pairs of arrows cross."""
    count = 0
    for upper, lower in itertools.pairwise(rows):
        places = {node: place for place, node in enumerate(lower)}
        arrows = [(i, places[below]) for i, node in enumerate(upper) for below in node.below]
        count += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(arrows, 2))
    return count


def _place(rows: list[list[Node]]) -> None:
    """Choose the nodes' x: in their order, without overlaps, and near their neighbours.

    Downwards every node wants to lie below what it reads, upwards above what reads it; a chain
    that nothing pushes aside is straight, as the last sweep is an upward one.
    """
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        for row in rows if is_down else reversed(rows):
            near = [node.above if is_down else node.below for node in row]
            wishes = [
                _mean([each.x for each in nodes], default=node.x)
                for node, nodes in zip(row, near, strict=True)
            ]
            _spread(row, wishes)
    left = min(node.x - node.width / 2 for row in rows for node in row)
    for node in itertools.chain(*rows):
        node.x += MARGIN - left


def _spread(row: list[Node], wishes: list[float]) -> None:
    """Put nodes as near to where they wish to be as their widths allow: least squares.

    With the gaps taken out, their places must not fall from left to right; neighbours for which
    they would share the mean of their wishes.
    """
    offsets = [0.0]
    for left, right in itertools.pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + GAP)
    blocks: list[list[float]] = []
    for wish, offset in zip(wishes, offsets, strict=True):
        blocks.append([wish - offset])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    places = [_mean(block) for block in blocks for _ in block]
    for node, place, offset in zip(row, places, offsets, strict=True):
        node.x = place + offset


def _mean(values: Sequence[float], default: float = 0.0) -> float:
    return sum(values) / len(values) if values else default


def _rendered(name: str, rows: list[list[Node]]) -> str:
    """Return the picture of nodes that have their places."""
    width = round(max(node.x + node.width / 2 for row in rows for node in row) + MARGIN)
    height = (len(rows) - 1) * ROW + HEIGHT + 2 * MARGIN
    boxes = [node for row in rows for node in row if node.layer is not None]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>The layers of the network {escape(name)}</title>",
        f"<style>\n{STYLE}</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="head" d="M0 0 8 4 0 8Z"/></marker>',
        *(_arrow(box, start) for box in boxes for start in _by_x(box.above)),
        *(_box(box) for box in boxes),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _by_x(nodes: list[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.x)


def _top(node: Node) -> int:
    return MARGIN + node.row * ROW


def _arrow(box: Node, start: Node) -> str:
    """Return the arrow that comes to a box from this neighbour above it, whole."""
    x = box.x + (_by_x(box.above).index(start) - (len(box.above) - 1) / 2) * PORTS
    path = f"{round(x)} {_top(box) - 2}"
    bend = (ROW - HEIGHT) // 2
    y = _top(box) - 2
    while True:
        bottom = _top(start) + HEIGHT
        path = (
            f"{round(start.x)} {bottom}C{round(start.x)} {bottom + bend} {round(x)} {y - bend} "
            + path
        )
        if start.layer is not None:
            return f'<path class="arrow" marker-end="url(#head)" d="M{path}"/>'
        x, y = start.x, _top(start)
        path = f"{round(x)} {y}L{path}"
        start = start.above[0]


def _box(box: Node) -> str:
    """Return a box with its text."""
    assert box.layer is not None
    left, top = round(box.x - BOX / 2), _top(box)
    shape = f"[{', '.join(map(str, box.shape))}]" if box.shape else "a number"
    kind = " + ".join((_kind(box.layer), *box.extras))
    return (
        f'<g class="{_role(box)}" transform="translate({left} {top})">'
        f'<rect width="{BOX}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="10" y="18">{escape(box.layer.name)}</text>'
        f'<text class="shape" x="{BOX - 10}" y="18" text-anchor="end">{shape}</text>'
        f'<text class="kind" x="10" y="35">{escape(kind)}</text></g>'
    )


def _role(box: Node) -> str:
    """Return the class of a box, which decides its colours."""
    assert box.layer is not None
    layer = box.layer
    if layer.type == "Input":
        return "input"
    if layer.type.endswith("Loss"):
        return "loss"
    if layer.param and not any(param.lr_mult for param in layer.param):
        return "frozen"
    if any(layer.loss_weight) or not box.below:
        return "output"
    return "weights" if layer.type in _WITH_WEIGHTS else "plain"


def _kind(layer: caffe_pb2.LayerParameter) -> str:
    """Return a layer's type, with what it is set to."""
    setting = ""
    if layer.type == "Convolution":
        window = layer.convolution_param
        setting = f" {window.kernel_size[0]}×{window.kernel_size[0]} / {[*window.stride, 1][0]}"
    elif layer.type == "Power":
        setting = f" × {layer.power_param.scale:.4g}"
    elif layer.type == "Eltwise":
        name = caffe_pb2.EltwiseParameter.EltwiseOp.Name(layer.eltwise_param.operation)
        setting = " ".join(("", name, *(f"{each:+g}" for each in layer.eltwise_param.coeff)))
    elif layer.type == "Reduction":
        operation = layer.reduction_param.operation
        setting = f" {caffe_pb2.ReductionParameter.ReductionOp.Name(operation)}"
    elif layer.type == "ArgMax" and layer.argmax_param.out_max_val:
        setting = ", its value"
    return layer.type + setting


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="prototxt of a network; the picture is printed")
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(svg(read_net(given.file)))
    except caffe.CaffeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

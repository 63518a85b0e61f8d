"""Drawing a NetParameter as a graph; takes pydot, and for pictures Graphviz; no PyTorch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe.errors import CaffeError, CaffeFileError, require
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    import os

_FILLED = {"shape": "record", "style": "filled"}
_COLORS = {
    "Convolution": "#FF5050",
    "Deconvolution": "#FF5050",
    "Pooling": "#FF9900",
    "InnerProduct": "#CC33FF",
}
# What pycaffe's users change.
LAYER_STYLE_DEFAULT = {**_FILLED, "fillcolor": "#6495ED"}
NEURON_LAYER_STYLE = {**_FILLED, "fillcolor": "#90EE90"}
BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}


def _pydot() -> Any:
    try:
        return importlib.import_module("pydot")
    except ImportError as error:
        raise CaffeError(f"caffe.draw draws with pydot: pip install pydot ({error})") from None


def _quoted(text: str) -> str:
    return '"' + text.replace('"', r"\"") + '"'


def get_pooling_types_dict() -> dict[int, str]:
    """Return the names of the ways of pooling, by their numbers."""
    return {number: name for name, number in caffe_pb2.PoolingParameter.PoolMethod.items()}


def get_edge_label(layer: caffe_pb2.LayerParameter) -> str:
    """Return what stands at the edge from a layer to its top: how much comes out, or nothing."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return '""'


def get_layer_lr_mult(layer: caffe_pb2.LayerParameter) -> tuple[float, float]:
    """Return lr_mult of a layer's weights and of its bias.

    Raises:
        CaffeError: If the layer is none with weights and a bias.
    """
    require(
        layer.type in ("Convolution", "Deconvolution", "InnerProduct") and len(layer.param) <= 2,
        f"layer '{layer.name}' ({layer.type}) has no lr_mult of one weight and one bias",
    )
    weights, bias = [*(spec.lr_mult for spec in layer.param), 1.0, 1.0][:2]
    return weights, bias


def get_layer_label(
    layer: caffe_pb2.LayerParameter,
    rankdir: str,
    display_lrm: bool = False,  # noqa: FBT001, FBT002  # as in pycaffe
) -> str:
    """Return what stands in a layer's node, quoted: name, type, and the kernel where it has one."""
    kind, lines = layer.type, []
    if layer.type == "Pooling":
        param = layer.pooling_param
        kind += f" {get_pooling_types_dict()[param.pool]}"
        lines = [param.kernel_size, param.stride, param.pad]
    elif layer.type in ("Convolution", "Deconvolution"):
        own = layer.convolution_param
        lines = [[*own.kernel_size, 1][0], [*own.stride, 1][0], [*own.pad, 0][0]]
    words = [layer.name, f"({kind})"]
    names = ("kernel size", "stride", "pad")[: len(lines)]
    words += [f"{name}: {value}" for name, value in zip(names, lines, strict=True)]
    if display_lrm and layer.type in ("Convolution", "Deconvolution", "InnerProduct"):
        rates = get_layer_lr_mult(layer)
        if any(rates):
            words.append("lr mult: {:.1f}, {:.1f}".format(*rates))
    # A graph that grows downwards has room at the sides, one that grows sideways below.
    return _quoted((" " if rankdir in ("TB", "BT") else r"\n").join(words))


def choose_color_by_layertype(layertype: str) -> str:
    """Return the colour of a layer's node."""
    return _COLORS.get(layertype, LAYER_STYLE_DEFAULT["fillcolor"])


def _shown(layer: caffe_pb2.LayerParameter, phase: int | None) -> bool:
    """Return whether a layer is of this phase, as far as its rules are about phases."""
    require(
        phase is None or not (layer.include and layer.exclude),
        f"layer '{layer.name}' has both include and exclude",
    )
    if phase is None:
        return True
    if layer.include:
        return any(rule.phase == phase for rule in layer.include)
    return all(rule.phase != phase for rule in layer.exclude)


def get_pydot_graph(
    caffe_net: caffe_pb2.NetParameter,
    rankdir: str,
    label_edges: bool = True,  # noqa: FBT001, FBT002  # as in pycaffe
    phase: int | None = None,
    display_lrm: bool = False,  # noqa: FBT001, FBT002  # as in pycaffe
) -> Any:
    """Return the net as a pydot graph of layers and blobs.

    Args:
        caffe_net: The net, as its prototxt says.
        rankdir: Where the graph grows: LR, TB or BT.
        label_edges: Whether the edges say how many channels there are.
        phase: Draw this phase only; both by default.
        display_lrm: Whether layers show their lr_mult.

    Raises:
        CaffeError: If pydot is not installed.
    """
    pydot = _pydot()
    graph = pydot.Dot(caffe_net.name or "Net", graph_type="digraph", rankdir=rankdir)
    nodes: dict[tuple[str, str], Any] = {}
    edges: list[tuple[tuple[str, str], tuple[str, str], str]] = []
    for layer in caffe_net.layer:
        if not _shown(layer, phase):
            continue
        in_place = list(layer.bottom) == list(layer.top) and len(layer.top) == 1
        style = LAYER_STYLE_DEFAULT | {"fillcolor": choose_color_by_layertype(layer.type)}
        me = (layer.name, layer.type)
        nodes[me] = pydot.Node(
            get_layer_label(layer, rankdir, display_lrm),
            **(NEURON_LAYER_STYLE if in_place else style),
        )
        for name in (*layer.bottom, *layer.top):
            plain = name if name.isidentifier() else _quoted(name)
            nodes[name, ""] = pydot.Node(plain, **BLOB_STYLE)
        edges += [((name, ""), me, '""') for name in layer.bottom]
        label = get_edge_label(layer) if label_edges else '""'
        edges += [(me, (name, ""), label) for name in layer.top]
    for node in nodes.values():
        graph.add_node(node)
    for start, end, label in edges:
        graph.add_edge(pydot.Edge(nodes[start], nodes[end], label=label))
    return graph


def draw_net(
    caffe_net: caffe_pb2.NetParameter,
    rankdir: str,
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,  # noqa: FBT001, FBT002  # as in pycaffe
) -> bytes:
    """Return the net as a picture in a format that Graphviz knows, or "raw", its own text.

    Raises:
        CaffeError: If pydot or Graphviz is not installed, or the format is unknown.
    """
    graph = get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    if ext == "raw":
        return str(graph.to_string()).encode()
    try:
        picture: bytes = graph.create(format=ext)
    except (OSError, AssertionError) as error:  # dot is missing, or ends with an error
        raise CaffeError(
            f"Graphviz cannot draw the net as '{ext}': is its program `dot` installed? ({error})"
        ) from None
    return picture


def draw_net_to_file(
    caffe_net: caffe_pb2.NetParameter,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,  # noqa: FBT001, FBT002  # as in pycaffe
) -> None:
    """Write what `draw_net` returns; the end of the file's name is the format.

    Raises:
        CaffeError: If pydot or Graphviz is not installed, or the format is unknown.
        CaffeFileError: If the file cannot be written.
    """
    path = Path(filename)
    picture = draw_net(caffe_net, rankdir, path.suffix[1:], phase, display_lrm)
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise CaffeFileError(path, error.strerror, action="write") from None

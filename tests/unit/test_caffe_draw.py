import shutil
import sys
import types

import pytest
from caffe.proto.caffe_pb2 import NetParameter
from google.protobuf import text_format

import caffe
from caffe import draw

NET = text_format.Parse(
    """
    layer { name: "mem" type: "Input" top: "data" }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 2 }
      convolution_param { num_output: 4 kernel_size: 3 kernel_size: 5 stride: 2 } }
    layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "pool" type: "Pooling" bottom: "conv" top: "a\\"b:c"
      pooling_param { pool: AVE kernel_size: 2 pad: 1 } }
    layer { name: "ip" type: "InnerProduct" bottom: "a\\"b:c" top: "out" include { phase: TRAIN }
      inner_product_param { num_output: 7 } }
    layer { name: "end" type: "Silence" bottom: "out" exclude { phase: TEST } }
    """,
    NetParameter(),
)


class Drawn:
    """Stands in for pydot's Dot, Node and Edge."""

    def __init__(self, *names, **settings):
        self.names, self.settings = names, settings
        self.nodes, self.edges = [], []

    def add_node(self, node):
        self.nodes.append(node)

    def add_edge(self, edge):
        self.edges.append(edge)

    def to_string(self):
        return "digraph"

    def create(self, *, format):  # noqa: A002  # as in pydot
        if format == "png":
            return b"picture"
        raise FileNotFoundError("dot")


@pytest.fixture
def _pydot(monkeypatch):
    module = types.ModuleType("pydot")
    module.Dot = module.Node = module.Edge = Drawn
    monkeypatch.setitem(sys.modules, "pydot", module)


def labels(graph):
    return [node.names[0] for node in graph.nodes]


def ends(edge):
    return tuple(node.names[0].split(r"\n")[0] for node in edge.names), edge.settings["label"]


@pytest.mark.usefixtures("_pydot")
def test_a_graph_has_a_node_for_every_layer_and_blob():
    graph = draw.get_pydot_graph(NET, "LR", display_lrm=True)
    assert (graph.names, graph.settings) == (("Net",), {"graph_type": "digraph", "rankdir": "LR"})
    assert labels(graph) == [
        r'"mem\n(Input)"',
        "data",
        r'"conv\n(Convolution)\nkernel size: 3\nstride: 2\npad: 0\nlr mult: 2.0, 1.0"',
        "conv",
        r'"relu\n(ReLU)"',
        r'"pool\n(Pooling AVE)\nkernel size: 2\nstride: 1\npad: 1"',
        r'"a\"b:c"',
        r'"ip\n(InnerProduct)\nlr mult: 1.0, 1.0"',
        "out",
        r'"end\n(Silence)"',
    ]
    colors = {node.names[0].split(r"\n")[0]: node.settings["fillcolor"] for node in graph.nodes}
    assert (colors['"conv'], colors['"relu'], colors['"mem']) == ("#FF5050", "#90EE90", "#6495ED")
    found = [ends(edge) for edge in graph.edges]
    assert found[:4] == [
        (('"mem', "data"), '""'),
        (("data", '"conv'), '""'),
        (('"conv', "conv"), "4"),
        (("conv", '"relu'), '""'),
    ]
    assert found[-2:] == [(('"ip', "out"), "7"), (("out", '"end'), '""')]


@pytest.mark.usefixtures("_pydot")
def test_edges_need_no_labels_and_words_stand_side_by_side_in_a_graph_that_grows_downwards():
    graph = draw.get_pydot_graph(NET, "TB", label_edges=False)
    assert '"relu (ReLU)"' in labels(graph)
    assert {edge.settings["label"] for edge in graph.edges} == {'""'}


@pytest.mark.usefixtures("_pydot")
@pytest.mark.parametrize(("phase", "shown"), [(caffe.TRAIN, True), (caffe.TEST, False)])
def test_a_phase_can_be_drawn(phase, shown):
    names = labels(draw.get_pydot_graph(NET, "LR", phase=phase))
    assert (r'"ip\n(InnerProduct)"' in names) == shown
    assert (r'"end\n(Silence)"' in names) == shown


@pytest.mark.usefixtures("_pydot")
def test_a_layer_with_both_kinds_of_rules_has_no_phase():
    net = NetParameter(layer=[{"name": "x", "include": [{"phase": 0}], "exclude": [{"phase": 1}]}])
    assert draw.get_pydot_graph(net, "LR").nodes
    with pytest.raises(caffe.CaffeError, match="both include and exclude"):
        draw.get_pydot_graph(net, "LR", phase=caffe.TRAIN)


@pytest.mark.usefixtures("_pydot")
def test_pictures_are_returned_and_written(tmp_path):
    assert caffe.draw.draw_net(NET, "LR") == b"picture"
    draw.draw_net_to_file(NET, str(tmp_path / "net.png"))
    assert (tmp_path / "net.png").read_bytes() == b"picture"
    draw.draw_net_to_file(NET, tmp_path / "net.raw")
    assert (tmp_path / "net.raw").read_bytes() == b"digraph"
    with pytest.raises(caffe.CaffeFileError, match="Could not write file"):
        draw.draw_net_to_file(NET, tmp_path / "nope" / "net.png")


@pytest.mark.usefixtures("_pydot")
def test_without_graphviz_one_line_says_so():
    with pytest.raises(caffe.CaffeError, match="Graphviz cannot draw the net as 'svg'"):
        draw.draw_net(NET, "LR", "svg")


def test_without_pydot_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(caffe.CaffeError, match="pip install pydot") as caught:
        draw.draw_net_to_file(NET, str(tmp_path / "net.png"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_layers_with_weights_have_lr_mult():
    assert draw.get_layer_lr_mult(NET.layer[1]) == (2, 1)
    with pytest.raises(caffe.CaffeError, match="'relu'"):
        draw.get_layer_lr_mult(NET.layer[2])


def test_pydot_takes_the_graph(tmp_path):
    pytest.importorskip("pydot", reason="pydot is not installed")
    draw.draw_net_to_file(NET, tmp_path / "net.raw")
    text = (tmp_path / "net.raw").read_text()
    assert r'"pool\n(Pooling AVE)\nkernel size: 2\nstride: 1\npad: 1"' in text
    assert text.count("->") == 10
    if shutil.which("dot"):
        assert draw.draw_net(NET, "LR")[1:4] == b"PNG"

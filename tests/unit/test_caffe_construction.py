"""What is built; how it runs is in test_caffe_net.py."""

import pytest
from caffe.construction import Construction
from caffe.proto import caffe_pb2
from caffe.prototxt import parse_text

import caffe

TEXT = """
name: "two"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { lr_mult: 0 }
  inner_product_param { num_output: 3 } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
  inner_product_param { num_output: 3 bias_term: false } }
layer { name: "l" type: "EuclideanLoss" bottom: "b" bottom: "x" top: "l" }
layer { name: "t" type: "TanH" bottom: "a" top: "t" exclude { phase: TRAIN } }
"""


def build(text=TEXT, phase=caffe_pb2.TRAIN):
    param = parse_text(text, caffe_pb2.NetParameter())
    param.state.phase = phase
    return Construction(param)


def test_layers_blobs_and_splits_are_caffes():
    net = build()
    assert net._layer_names == ["x", "x_x_0_split", "a", "b", "l"]
    assert net._blob_names == ["x", "x_x_0_split_0", "x_x_0_split_1", "a", "b", "l"]
    assert [net._blob_names[i] for i in net._outputs] == ["l"]
    assert build(phase=caffe_pb2.TEST)._layer_names[-1] == "t"


def test_shared_parameters_lie_once_in_the_arena_and_frozen_ones_behind():
    net = build()
    assert net.arena.layout == [("a", 0, (3, 3))]
    assert len(net.arena.values) == 9 + 3
    assert [(owner is net.layers[2].blobs[0]) for _, owner in net.shared] == [True]


def test_only_what_leads_to_a_loss_runs_backward():
    assert build()._layer_needs_backward == [False, False, True, True, True]
    assert build(TEXT.replace('top: "l"', 'top: "l" loss_weight: 0'))._layer_needs_backward == (
        [False] * 5
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('bottom: "a" top: "b"', 'bottom: "z" top: "b"', "no layer before it makes bottom 0, 'z'"),
        ('top: "l" }', 'top: "a" }', "another layer already makes top 'a'"),
        ('param { name: "w" }\n  inner', "param {} param {} param {}\n  inner", "3 param messages"),
        (
            '"EuclideanLoss" bottom: "b" bottom: "x" top: "l"',
            '"Reduction" bottom: "b" top: "b"',
            "in place",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(old, new, message):
    assert old in TEXT
    with pytest.raises(caffe.CaffeError, match=message):
        build(TEXT.replace(old, new))


def test_what_breaks_in_a_layer_names_it_and_its_bottoms(monkeypatch):
    def reshape(_self, bottom, _top):
        return bottom[0].shape[7]

    monkeypatch.setattr("caffe.layers.losses.EuclideanLoss.reshape", reshape)
    with pytest.raises(caffe.CaffeError, match=r"'l' .* bottoms \[2, 3\], \[2, 3\]: tuple index"):
        build()

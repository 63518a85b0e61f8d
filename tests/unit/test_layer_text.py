"""Layers as prototxt text: read back with Caffe's schema, they say what was asked for."""

import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from barista.games import layer_text


def _layer(text):
    return text_format.Parse(text, caffe_pb2.NetParameter()).layer[0]


def test_layer_has_its_bottoms_its_top_and_its_settings():
    layer = _layer(
        layer_text.layer("a", "Eltwise", ("b", "c"), "loss_weight: 2", top="d", note="why")
    )
    assert (layer.name, layer.type) == ("a", "Eltwise")
    assert (list(layer.bottom), list(layer.top)) == (["b", "c"], ["d"])
    assert list(layer.loss_weight) == [2.0]


def test_input_has_its_shape():
    layer = _layer(layer_text.input_layer("state", (32, 1, 4)))
    assert list(layer.input_param.shape[0].dim) == [32, 1, 4]


def test_rectifier_works_in_place():
    layer = _layer(layer_text.relu("conv1"))
    assert list(layer.bottom) == list(layer.top) == ["conv1"]


@pytest.mark.parametrize(
    ("text", "fan_in"),
    [
        (layer_text.inner_product("a", "b", outputs=3, inputs=50), 50),
        (layer_text.convolution("a", "b", filters=2, kernel=3, stride=1, channels=4), 36),
    ],
)
def test_weights_and_biases_start_within_one_over_root_fan_in(text, fan_in):
    layer = _layer(text)
    own = layer.inner_product_param
    if layer.type == "Convolution":
        own = layer.convolution_param
    for filler in (own.weight_filler, own.bias_filler):
        assert filler.type == "uniform"
        assert filler.max == -filler.min
        assert filler.max == pytest.approx(fan_in**-0.5, rel=1e-5)


def test_frozen_layers_do_not_learn():
    for text in (
        layer_text.inner_product("a", "b", outputs=3, inputs=5, frozen=True),
        layer_text.convolution("a", "b", filters=2, kernel=3, stride=1, channels=4, frozen=True),
    ):
        assert [param.lr_mult for param in _layer(text).param] == [0.0, 0.0]

import copy

import numpy as np
import pytest
from caffe.errors import CaffeError
from caffe.net_spec import NetSpec, Top, to_proto

import caffe
from caffe import layers, params


def test_a_net_is_written_bottoms_first():
    n = NetSpec()
    n.state = layers.Input(shape=[{"dim": [1, 4, 8, 8]}])
    n.conv = layers.Convolution(
        n.state, num_output=2, kernel_size=3, weight_filler={"type": "xavier"}
    )
    n.relu = layers.ReLU(n.conv, in_place=True)
    n.pool = layers.Pooling(n.relu, pool=params.Pooling.AVE, kernel_size=2)
    n.Q_out = layers.InnerProduct(n.pool, num_output=3, loss_weight=1, param=[{"lr_mult": 2}])
    proto = n.to_proto()
    assert [layer.name for layer in proto.layer] == ["state", "conv", "relu", "pool", "Q_out"]
    assert proto.layer[2].top == proto.layer[2].bottom == ["conv"]
    assert proto.layer[3].pooling_param.pool == params.Pooling.AVE
    assert proto.layer[4].param[0].lr_mult == 2
    assert list(proto.layer[4].loss_weight) == [1]
    assert caffe.Net(proto, caffe.TRAIN).outputs == ["Q_out"]


def test_tops_without_a_name_are_counted():
    x = layers.Input(shape={"dim": [2]})
    proto = to_proto(layers.TanH(layers.TanH(x)))
    assert [layer.name for layer in proto.layer] == ["Input1", "TanH1", "TanH2"]


def test_several_tops_and_none():
    n = NetSpec()
    n.a, n.b = layers.DummyData(ntop=2, shape=[{"dim": 1}, {"dim": 2}])
    n.quiet = layers.Silence(n.a, n.b, ntop=0)
    proto = n.to_proto()
    assert list(proto.layer[0].top) == ["a", "b"]
    assert (proto.layer[1].name, list(proto.layer[1].top)) == ("quiet", [])


def test_tops_are_attributes_and_items():
    n = NetSpec()
    n["x"] = layers.Input()
    assert n.x is n["x"]
    assert isinstance(n.x, Top)
    assert len(n.x.to_proto().layer) == 1
    del n["x"]
    with pytest.raises(AttributeError, match="'x'"):
        _ = n.x
    n.y = layers.Input()
    del n.y
    assert not n.tops


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nope": 1}, "LayerParameter has no field 'nope'"),
        ({"num_output": "many"}, "'num_output' of ConvolutionParameter cannot be set to 'many'"),
        ({"kernel_size": [2.5]}, "'kernel_size' of ConvolutionParameter"),
        ({"num_output": {"a": 1}}, "'num_output' of ConvolutionParameter"),
        ({"weight_filler": 3}, "'weight_filler' of ConvolutionParameter"),
        ({"weight_filler": {"type": 2}}, "'type' of FillerParameter"),
        ({"param": 3}, "'param' of LayerParameter"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(CaffeError, match=message):
        to_proto(layers.Convolution(layers.Input(), **settings))


def test_numpys_integers_and_enums_by_name_are_taken():
    top = layers.Pooling(layers.Input(), pool="AVE", kernel_size=np.int64(3))
    param = top.to_proto().layer[1].pooling_param
    assert (param.pool, param.kernel_size) == (params.Pooling.AVE, 3)


def test_a_bottom_must_be_a_top():
    data = layers.DummyData(ntop=2)
    message = r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"
    with pytest.raises(TypeError, match=message):
        layers.Silence(data, ntop=0)
    layers.Silence(*data, ntop=0)


def test_a_spec_can_be_copied():
    n = NetSpec()
    n.x = layers.Input()
    assert copy.deepcopy(n).to_proto() == n.to_proto()
    assert copy.copy(n).x is n.x


def test_the_layers_package_has_no_other_attributes():
    with pytest.raises(AttributeError):
        _ = layers.nope

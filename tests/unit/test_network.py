"""The flat parameters of a net: gathered from blobs they are what our arenas hold."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from hypothesis import assume, given, settings
from param_server import network
from param_server.network import learnable, parameters_of, same_net
from param_server.wire import Layout

import caffe
from tests import tiny
from tests.plain_pycaffe import caffe as plain

STATE = 'layer { name: "state" type: "Input" top: "state" input_param { shape { dim: 2 dim: 3 } } }'
NETS = {
    "catch": tiny.MODEL,
    "frozen, shared, normalised": STATE + """
        layer { name: "a" type: "InnerProduct" bottom: "state" top: "a"
                param { name: "w" } param { lr_mult: 0 }
                inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "norm" type: "BatchNorm" bottom: "a" top: "a" }
        layer { name: "scale" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } }
        layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
                inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "Q_out" type: "InnerProduct" bottom: "b" top: "Q_out" loss_weight: 1
                inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }""",
    "one that shares says that neither learns": STATE + """
        layer { name: "a" type: "InnerProduct" bottom: "state" top: "a" param { name: "w" }
                inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" loss_weight: 1
                param { name: "w" lr_mult: 0 }
                inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }""",
    "other layers of the same name in TEST": STATE + """
        layer { name: "a" type: "InnerProduct" bottom: "state" top: "a" include { phase: TEST }
                inner_product_param { num_output: 7 } param { lr_mult: 0 } }
        layer { name: "a" type: "InnerProduct" bottom: "state" top: "a" include { phase: TRAIN }
                inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "a" type: "InnerProduct" bottom: "a" top: "Q_out" loss_weight: 1
                inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }""",
    "of the old form": """input: "state" input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 1
        layers { name: "a" type: INNER_PRODUCT bottom: "state" top: "a" blobs_lr: 1 blobs_lr: 0
                 inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layers { name: "Q_out" type: INNER_PRODUCT bottom: "a" top: "Q_out" loss_weight: 1
                 inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }""",
}  # fmt: skip


@pytest.fixture(params=NETS)
def file(request, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NETS[request.param])
    return str(path)


def test_a_net_with_arenas_is_not_copied(file):
    net = caffe.Net(file, caffe.TRAIN)
    parameters = parameters_of(net)
    assert parameters.layout == Layout.from_arena(net.arena_layout)
    assert np.shares_memory(parameters.weights(), net.param_arena)
    assert np.shares_memory(parameters.gradient(), net.diff_arena)


def test_a_plain_net_has_the_layout_and_the_weights_of_one_with_arenas(file):
    caffe.set_random_seed(3)
    ours = parameters_of(caffe.Net(file, caffe.TRAIN))
    plain.set_random_seed(3)
    theirs = parameters_of(plain.Net(file, plain.TRAIN))
    assert type(ours) is not type(theirs)
    assert theirs.layout == ours.layout
    assert theirs.weights().dtype == np.float32
    assert np.array_equal(theirs.weights(), ours.weights())


def test_what_is_set_in_blobs_is_in_the_arenas(file):
    net = caffe.Net(file, caffe.TRAIN)
    parameters = network._InBlobs(net)
    size = parameters.layout.size
    weights, gradient = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    parameters.set_weights(weights)
    parameters.set_gradient(gradient)
    assert np.array_equal(net.param_arena, weights)
    assert np.array_equal(net.diff_arena, gradient)
    assert np.array_equal(parameters.gradient(), gradient)


def test_weights_are_always_the_same_array(file):
    net = caffe.Net(file, caffe.TRAIN)
    for parameters in (parameters_of(net), network._InBlobs(net)):
        kept = parameters.weights()
        parameters.set_weights(np.full(parameters.layout.size, 2, np.float32))
        assert np.shares_memory(parameters.weights(), kept)
        assert (kept == 2).all()


PARAM = st.tuples(st.sampled_from(["", "p", "q"]), st.sampled_from([None, 0, 1, 2]))


@settings(max_examples=60)
@given(layers=st.lists(st.tuples(PARAM, PARAM), min_size=1, max_size=5))
def test_parameters_learn_and_share_as_in_the_arena(layers):
    message = text_format.Parse(STATE, caffe_pb2.NetParameter())
    for number, specs in enumerate(layers):
        layer = message.layer.add(name=f"fc{number}", type="InnerProduct", top=[f"fc{number}"])
        layer.bottom.append(f"fc{number - 1}" if number else "state")
        layer.inner_product_param.num_output = 3
        for place, (name, lr_mult) in enumerate(specs):
            spec = layer.param.add()
            if name:
                spec.name = f"{name}{place}"
            if lr_mult is not None:
                spec.lr_mult = lr_mult
    try:
        net = caffe.Net(message, caffe.TRAIN)
    except caffe.CaffeError:
        assume(False)  # two that share a parameter want it to learn differently
    parameters = learnable(network._saved(net))
    assert [(p.name, p.shape) for p in parameters] == [
        (f"{layer}/{place}", shape) for layer, place, shape in net.arena_layout
    ]
    for parameter in parameters:
        addresses = {
            net.layers[layer].blobs[blob].data.ctypes.data for layer, blob in parameter.places
        }
        assert len(addresses) == 1
        assert math.prod(parameter.shape) > 0


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (('name: "catch"', 'name: "other"  # and a comment'), True),
        (("dim: 16 dim: 1", "dim: 99 dim: 1"), True),
        (("dim: 16 dim: 1", "dim: 16 dim: 2"), False),
        (("num_output: 32", "num_output: 33"), False),
        (('type: "ReLU"', 'type: "TanH"'), False),  # the same parameters, another function
    ],
)
def test_nets_are_compared_by_what_they_compute(change, same):
    assert change[0] in tiny.MODEL
    assert same_net(tiny.MODEL, tiny.MODEL.replace(*change)) is same

import numpy as np
import pytest
import torch
from caffe.gradient_check import net_from_text
from caffe.proto.caffe_pb2 import NetParameter
from caffe.prototxt import parse_text
from torch.nn import functional

import caffe

Q_NET = """
layer { name: "state" type: "Input" top: "state" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "state" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "q" type: "InnerProduct" bottom: "fc" top: "Q_out" WEIGHT
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


def build(text, phase=caffe.TRAIN):
    return caffe.Net(parse_text(text, NetParameter()), phase)


def q_net(weight="loss_weight: 1"):
    net = build(Q_NET.replace("WEIGHT", weight))
    net.blobs["state"].data[...] = np.random.default_rng(0).normal(size=(2, 3))
    net.forward()
    return net


DIFF = np.array([[1, 0], [0, -2]], np.float32)


def test_backward_from_q_out_gives_the_exact_gradients():
    net = q_net()
    net.backward(Q_out=DIFF)
    w1, b1, w2, b2 = (
        torch.tensor(net.params[layer][i].data, requires_grad=True)
        for layer, i, _ in net.arena_layout
    )
    hidden = functional.relu(torch.tensor(net.blobs["state"].data) @ w1.t() + b1)
    (hidden @ w2.t() + b2).backward(torch.tensor(DIFF))
    expected = np.concatenate([p.grad.numpy().ravel() for p in (w1, b1, w2, b2)])
    np.testing.assert_allclose(net.diff_arena, expected, rtol=1e-5, atol=1e-7)


def test_without_a_loss_weight_nothing_has_a_backward():
    net = q_net(weight="")
    net.backward(Q_out=DIFF)
    assert not net.diff_arena.any()


def test_the_first_layer_computes_no_input_gradient():
    net = q_net()
    net.backward(Q_out=DIFF)
    assert not net.blobs["state"].diff.any()


def test_force_backward_computes_it():
    net = build("force_backward: true " + Q_NET.replace("WEIGHT", ""))
    net.blobs["state"].data[...] = 1
    net.params["fc"][0].data[...] = 1
    net.forward()
    net.backward(Q_out=DIFF)
    assert net.blobs["state"].diff.any()


def test_propagate_down_false_stops_the_gradient():
    net = q_net()
    stopped = build(
        Q_NET.replace("WEIGHT", "loss_weight: 1 propagate_down: false"),
    )
    stopped.blobs["state"].data[...] = net.blobs["state"].data
    stopped.forward()
    stopped.backward(Q_out=DIFF)
    assert stopped.params["q"][1].diff.any()
    assert not stopped.params["fc"][0].diff.any()


def test_frozen_layers_before_the_loss_are_skipped():
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    net = build(
        Q_NET.replace('top: "fc"\n', f'top: "fc" {frozen}\n').replace("WEIGHT", "loss_weight: 1")
    )
    net.forward()
    net.backward(Q_out=DIFF)
    assert not net.blobs["fc"].diff.any()
    assert net.params["q"][1].diff.any()


def test_the_loss_is_the_sum_of_weighted_tops():
    net = net_from_text(
        """layer { name: "e" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "l" loss_weight: 3 }
        layer { name: "r" type: "Reduction" bottom: "z" top: "s" loss_weight: 0.5 }""",
        x=(2, 1), t=(2, 1), z=(2,),
    )  # fmt: skip
    net.blobs["x"].data[...] = 2
    net.blobs["z"].data[...] = 4
    assert net._forward(0, len(net.layers) - 1) == pytest.approx(3 * 2 + 0.5 * 8)


def test_a_reshaped_input_reshapes_the_net_at_the_next_forward():
    net = q_net()
    net.blobs["state"].reshape(5, 3)
    net.forward()
    assert net.blobs["Q_out"].data.shape == (5, 2)
    net.backward(Q_out=np.ones((5, 2), np.float32))
    assert net.diff_arena.any()


def test_reshape_keeps_the_loss_weight():
    net = q_net()
    net.blobs["state"].reshape(5, 3)
    net.reshape()
    assert (net.blobs["Q_out"].diff == 1).all()


def test_views_stay_live_over_forwards():
    net = q_net()
    view = net.blobs["Q_out"].data
    net.blobs["state"].data[...] = 3
    net.forward()
    np.testing.assert_array_equal(view, net.blobs["Q_out"].data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layer { name: "a" type: "TanH" bottom: "nope" top: "y" }', "nope"),
        (
            'layer { name: "a" type: "TanH" bottom: "x" top: "y" }'
            'layer { name: "b" type: "TanH" bottom: "x" top: "y" }',
            "already makes top 'y'",
        ),
        (
            'layer { name: "a" type: "TanH" bottom: "x" top: "y" param {} }',
            "has 0 parameters, but 1 param",
        ),
        (
            'layer { name: "a" type: "TanH" bottom: "x" top: "y" loss_weight: 1 loss_weight: 2 }',
            "loss_weight",
        ),
        (
            'layer { name: "a" type: "TanH" bottom: "x" top: "y" propagate_down: true '
            "propagate_down: true }",
            "propagate_down",
        ),
    ],
)
def test_a_wrong_net_is_refused_with_the_reason(text, message):
    with pytest.raises(caffe.CaffeError, match=message):
        net_from_text(text, x=(1, 2))


SHARED = """
layer { name: "a" type: "InnerProduct" bottom: "x" top: "y" param { name: "w" SPEC }
  inner_product_param { num_output: 4 bias_term: false } }
layer { name: "b" type: "InnerProduct" bottom: "y" top: "z" param { name: "w" OTHER }
  inner_product_param { num_output: N bias_term: false } }
"""


def shared(spec="", other="", n=4):
    text = SHARED.replace("SPEC", spec).replace("OTHER", other).replace("N ", f"{n} ")
    return net_from_text(text, x=(1, 4))


def test_shared_parameters_must_agree_in_shape_and_multipliers():
    with pytest.raises(caffe.CaffeError, match="shape"):
        shared(n=2)
    with pytest.raises(caffe.CaffeError, match="lr_mult"):
        shared("lr_mult: 1", "lr_mult: 2")


def test_a_multiplier_given_by_the_sharer_counts():
    assert shared(other="lr_mult: 3").arena.parameters[0].lr_mult == 3


def test_gradients_of_shared_parameters_add_up():
    net = shared()
    net.params["a"][0].data[...] = 1
    net.blobs["x"].data[...] = 1
    net.forward()
    net.backward(z=np.ones((1, 4), np.float32))
    # a: dz·w = 4 at every place, times x = 1; b: dz = 1 times y = 4
    assert (net.params["a"][0].diff == 8).all()


def test_an_empty_range_of_layers_is_refused():
    with pytest.raises(caffe.CaffeError, match="has 0"):
        build("").forward()


# -- parameters that are set, and gradients that are written over

LARGE_NET = """
layer { name: "state" type: "Input" top: "state"
  input_param { shape { dim: 2 dim: 1 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "state" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc1" type: "InnerProduct" bottom: "conv" top: "fc1"
  inner_product_param { num_output: 9 TRANSPOSE weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2" PARAM
  inner_product_param { num_output: 9 TRANSPOSE weight_filler { type: "xavier" } } }
layer { name: "fc3" type: "InnerProduct" bottom: "fc2" top: "fc3" PARAM
  inner_product_param { num_output: 9 TRANSPOSE weight_filler { type: "xavier" } } }
layer { name: "q" type: "InnerProduct" bottom: "fc3" top: "Q_out" loss_weight: 1
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
NETS = {
    "plain": {"PARAM": "", "TRANSPOSE": ""},
    "transposed": {"PARAM": "", "TRANSPOSE": "transpose: true"},
    "shared": {"PARAM": 'param { name: "w" }', "TRANSPOSE": ""},
    "frozen": {"PARAM": "param { lr_mult: 0 } param { lr_mult: 0 }", "TRANSPOSE": ""},
}


def large_net(name="plain"):
    text = LARGE_NET
    for place, option in NETS[name].items():
        text = text.replace(place, option)
    return build(text)


@pytest.fixture
def precision(request):
    caffe.set_precision(request.param)
    yield request.param
    caffe.set_precision("float32")


def run(net, rng):
    net.forward(state=rng.normal(size=(2, 1, 8, 8)))
    return rng.normal(size=(2, 3))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("precision", ["float32", "bf16", "bf16-all"], indirect=True)
def test_backward_afresh_is_clearing_and_backward(name, precision):
    one, other = (large_net(name) for _ in range(2))
    other.share_with(one)
    for seed in range(3):
        one.diff_arena[...] = np.nan
        one.backward_afresh(Q_out=run(one, np.random.default_rng(seed)))
        diff = run(other, np.random.default_rng(seed))
        other.clear_param_diffs()
        other.backward(Q_out=diff)
        # What is not added to anything may be rounded to bfloat16 on its way.
        rtol = 0 if precision == "float32" else 2**-8
        np.testing.assert_allclose(one.diff_arena, other.diff_arena, rtol=rtol, atol=0)
        assert np.abs(one.diff_arena).max() > 0
        one.backward(Q_out=diff)  # which adds, as ever
        np.testing.assert_allclose(one.diff_arena, 2 * other.diff_arena, rtol=2**-8, atol=1e-6)


def test_backward_afresh_clears_what_no_backward_reaches():
    net = q_net(weight="")
    net.diff_arena[...] = 7
    net.backward_afresh(Q_out=DIFF)
    assert not net.diff_arena.any()


def test_backward_afresh_starts_at_what_the_blobs_hold():
    net, other = q_net(), q_net()
    other.param_arena[...] = net.param_arena
    other.forward()
    for each in (net, other):
        each.blobs["Q_out"].diff[...] = DIFF
    net.backward()
    other.backward_afresh()
    assert np.array_equal(net.diff_arena, other.diff_arena)
    assert net.diff_arena.any()


@pytest.mark.parametrize("precision", ["float32", "bf16", "bf16-all"], indirect=True)
@pytest.mark.usefixtures("precision")
def test_parameters_that_were_set_are_those_of_all_nets_that_share_them():
    net, acting, fresh = (large_net() for _ in range(3))
    acting.share_with(net)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=net.param_arena.size).astype(np.float32)
        net.set_params(values)
        fresh.param_arena[...] = values
        state = rng.normal(size=(2, 1, 8, 8))
        expected = fresh.forward(state=state)["Q_out"].copy()
        for each in (acting, net, net):
            assert np.array_equal(each.forward(state=state)["Q_out"], expected)
    acting.params["fc1"][0].data[...] = 0  # NumPy may write at any time once it was given a view
    fresh.params["fc1"][0].data[...] = 0
    assert np.array_equal(net.forward(state=state)["Q_out"], fresh.forward(state=state)["Q_out"])


@pytest.mark.parametrize("name", ["plain", "shared"])
@pytest.mark.parametrize("precision", ["float32", "bf16-all"], indirect=True)
@pytest.mark.usefixtures("precision")
def test_parameters_move_into_memory_of_the_callers(name):
    net, twin = large_net(name), large_net(name)
    twin.param_arena[...] = net.param_arena
    rng = np.random.default_rng(0)
    net.backward_afresh(Q_out=run(net, rng))
    before, gradient = net.param_arena.copy(), net.diff_arena.copy()
    values, diffs = np.full((2, before.size), 9, np.float32)
    assert net.move_params(values, diffs)
    assert np.array_equal(values, before)
    assert np.array_equal(diffs, gradient)
    values[...] = twin.param_arena[...] = rng.normal(size=values.size)
    net.set_params(values)
    for each in (net, twin):
        each.backward_afresh(Q_out=run(each, np.random.default_rng(1)))
    assert np.array_equal(diffs, twin.diff_arena)
    assert not np.array_equal(diffs, gradient)
    assert net.params["fc1"][0].data.base is not None
    assert np.may_share_memory(net.params["fc1"][0].data, values)


def test_parameters_stay_where_some_are_frozen():
    net = large_net("frozen")
    values, diffs = np.zeros((2, net.param_arena.size), np.float32)
    assert not net.move_params(values, diffs)
    assert not np.may_share_memory(net.param_arena, values)


def test_parameters_may_be_set_from_a_view_of_themselves():
    net = large_net()
    expected = net.param_arena[::-1].copy()
    net.set_params(net.param_arena[::-1])
    assert np.array_equal(net.param_arena, expected)
    with pytest.raises(ValueError, match="broadcast"):
        net.set_params(net.param_arena[:3])
    assert np.array_equal(net.param_arena, expected)

import numpy as np
import pytest
from caffe.gradient_check import gradient_errors, net_from_text

import caffe

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
S = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def make(kind, param, operand=None, top="y"):
    inputs = {"x": X.shape} if operand is None else {"x": X.shape, "s": operand.shape}
    bottom = "" if operand is None else 'bottom: "s"'
    net = net_from_text(
        f'layer {{ name: "l" type: "{kind}" bottom: "x" {bottom} top: "{top}" '
        f"{kind.lower()}_param {{ {param} }} }}",
        **inputs,
    )
    net.blobs["x"].data[...] = X
    if operand is not None:
        net.blobs["s"].data[...] = operand
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = np.resize(S[:, 0], blob.shape)
    return net


def test_scale_of_a_channel_and_bias():
    net = make("Scale", "bias_term: true")
    s = S[:, 0][None, :, None]
    np.testing.assert_allclose(net.forward()["y"], X * s + s, rtol=1e-5)
    assert max(gradient_errors(net).values()) < 1e-2


@pytest.mark.parametrize(("kind", "combine"), [("Scale", np.multiply), ("Bias", np.add)])
def test_the_operand_may_be_a_bottom(kind, combine):
    net = make(kind, "axis: 1", S)
    np.testing.assert_allclose(net.forward()["y"], combine(X, S), rtol=1e-5)
    assert max(gradient_errors(net).values()) < 1e-2


def test_a_scalar_operand():
    net = make("Scale", "", np.float32(3).reshape(()))
    np.testing.assert_allclose(net.forward()["y"], 3 * X, rtol=1e-6)


def test_default_scale_is_one():
    net = net_from_text('layer { name: "l" type: "Scale" bottom: "x" top: "y" }', x=(2, 3))
    assert net.params["l"][0].data.tolist() == [1, 1, 1]


@pytest.mark.parametrize("param", ["num_axes: 0", "axis: 0 num_axes: -1"])
def test_numbers_of_axes(param):
    net = net_from_text(
        f'layer {{ name: "l" type: "Bias" bottom: "x" top: "y" bias_param {{ {param} }} }}',
        x=(2, 3),
    )
    assert net.params["l"][0].shape == (() if "0" in param[-1] else (2, 3))
    assert max(gradient_errors(net).values()) < 1e-2


def test_in_place_scaling_differentiates_the_input():
    net = make("Scale", "", top="x")
    net.forward()
    net.backward(x=np.ones(X.shape, np.float32))
    np.testing.assert_allclose(net.params["l"][0].diff, X.sum((0, 2)), rtol=1e-4)


def test_in_place_the_gradient_of_a_whole_bias_is_the_tops():
    net = make("Scale", "axis: 0 num_axes: -1 bias_term: true", top="x")
    scale, bias = net.params["l"]
    scale.data[...] = 3
    net.forward()
    net.backward(x=X)
    np.testing.assert_array_equal(bias.diff, X)
    np.testing.assert_allclose(scale.diff, X * X, rtol=1e-6)
    np.testing.assert_allclose(net.blobs["x"].diff, 3 * X, rtol=1e-6)


@pytest.mark.parametrize(("kind", "shape"), [("Scale", (2, 1, 4)), ("Bias", (2, 4, 4))])
def test_another_number_of_channels_is_refused_at_forward(kind, shape):
    net = make(kind, "")
    net.blobs["x"].reshape(*shape)
    with pytest.raises(caffe.CaffeError, match=r"\[3\] does not match the axes"):
        net.forward()


def test_a_negative_axis_follows_the_number_of_axes():
    net = make("Bias", "axis: -1")
    net.blobs["x"].reshape(5, 4)
    net.blobs["x"].data[...] = 0
    np.testing.assert_array_equal(net.forward()["y"], [net.params["l"][0].data] * 5)


@pytest.mark.parametrize(
    ("param", "operand"), [("axis: 0", S), ("num_axes: 9", None), ("num_axes: -2", None)]
)
def test_what_does_not_fit_is_refused(param, operand):
    with pytest.raises(caffe.CaffeError, match="layer 'l'"):
        make("Scale", param, operand)

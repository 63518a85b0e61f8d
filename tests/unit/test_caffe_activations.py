import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text
from torch.nn import functional

import caffe

X = np.array([[-2.3, -0.7, -0.2], [0.3, 0.9, 2.1]], np.float32)

TWINS = {
    "AbsVal": ("", torch.abs),
    "BNLL": ("", functional.softplus),
    "Clip": ("clip_param { min: -0.5 max: 1 }", lambda x: x.clamp(-0.5, 1)),
    "ELU": ("elu_param { alpha: 0.5 }", lambda x: functional.elu(x, 0.5)),
    "Exp": ("exp_param { base: 2 scale: 3 shift: 1 }", lambda x: 2 ** (1 + 3 * x)),
    "Power": (
        "power_param { power: 3 scale: 0.5 shift: 4 }",
        lambda x: (4 + 0.5 * x) ** 3,
    ),
    "PReLU": ("", lambda x: functional.leaky_relu(x, 0.25)),
    "ReLU": ("", torch.relu),
    "Sigmoid": ("", torch.sigmoid),
    "Swish": ("swish_param { beta: 2 }", lambda x: x * torch.sigmoid(2 * x)),
    "TanH": ("", torch.tanh),
}


def make(kind, param="", top="y", phase=caffe.TRAIN):
    net = net_from_text(
        f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "{top}" {param} }}',
        x=X.shape,
        phase=phase,
    )
    net.blobs["x"].data[...] = X
    return net


@pytest.mark.parametrize("kind", TWINS)
def test_forward_is_pytorchs(kind):
    param, twin = TWINS[kind]
    net = make(kind, param)
    np.testing.assert_allclose(net.forward()["y"], twin(torch.from_numpy(X)), rtol=1e-5)


@pytest.mark.parametrize("kind", TWINS)
def test_backward_is_the_derivative(kind):
    # Steps of 1e-3 keep to one side of every kink.
    assert max(gradient_errors(make(kind, TWINS[kind][0]), step=1e-3).values()) < 2e-2


@pytest.mark.parametrize("kind", [kind for kind in TWINS if kind != "AbsVal"])
def test_in_place_gives_the_same(kind):
    param = TWINS[kind][0]
    apart, within = make(kind, param), make(kind, param, top="x")
    np.testing.assert_array_equal(apart.forward()["y"], within.forward()["x"])
    diff = np.arange(6, dtype=np.float32).reshape(2, 3)
    apart.backward(y=diff)
    within.backward(x=diff)
    np.testing.assert_allclose(within.blobs["x"].diff, apart.blobs["x"].diff, rtol=1e-5)


def test_a_leaky_relu():
    net = make("ReLU", "relu_param { negative_slope: 0.1 }")
    np.testing.assert_allclose(net.forward()["y"], np.where(X > 0, X, 0.1 * X), rtol=1e-6)
    assert gradient_errors(net, step=1e-3)["x"] < 1e-2


def test_log_of_positive_values():
    net = make("Log", "log_param { base: 10 scale: 2 shift: 5 }")
    np.testing.assert_allclose(net.forward()["y"], np.log10(5 + 2 * X), rtol=1e-5)
    assert gradient_errors(net, step=1e-3)["x"] < 1e-2


def test_power_zero_is_a_constant_without_gradient():
    net = make("Power", "power_param { power: 0 shift: 2 }")
    assert (net.forward()["y"] == 1).all()
    net.backward(y=X)
    assert not net.blobs["x"].diff.any()


def test_threshold_is_a_step_without_backward():
    net = make("Threshold", "threshold_param { threshold: 0.5 }")
    assert net.forward()["y"].tolist() == [[0, 0, 0], [0, 1, 1]]
    with pytest.raises(caffe.CaffeError, match="no backward"):
        net.backward()


def test_prelu_shares_one_slope_over_channels():
    net = make("PReLU", "prelu_param { channel_shared: true filler { value: 0.5 } }")
    assert net.params["l"][0].shape == ()
    np.testing.assert_allclose(net.forward()["y"], np.where(X > 0, X, 0.5 * X), rtol=1e-6)
    assert max(gradient_errors(net, step=1e-3).values()) < 1e-2


def test_dropout_scales_what_it_keeps_and_masks_the_gradient():
    caffe.set_random_seed(0)
    net = net_from_text('layer { name: "d" type: "Dropout" bottom: "x" top: "y" }', x=(100, 10))
    net.blobs["x"].data[...] = 1
    y = net.forward()["y"].copy()
    assert set(np.unique(y)) == {0, 2}
    assert y.mean() == pytest.approx(1, abs=0.1)
    net.backward(y=np.ones(y.shape, np.float32))
    np.testing.assert_array_equal(net.blobs["x"].diff, y)


def test_dropout_passes_on_when_testing():
    net = make("Dropout", phase=caffe.TEST)
    np.testing.assert_array_equal(net.forward()["y"], X)
    net.backward(y=X)
    np.testing.assert_array_equal(net.blobs["x"].diff, X)


@pytest.mark.parametrize(
    ("kind", "param", "top"),
    [
        ("AbsVal", "", "x"),
        ("Exp", "exp_param { base: 0 }", "y"),
        ("Log", "log_param { base: 1 }", "y"),
    ],
)
def test_unfit_settings_are_refused(kind, param, top):
    with pytest.raises(caffe.CaffeError, match="layer 'l'"):
        make(kind, param, top)

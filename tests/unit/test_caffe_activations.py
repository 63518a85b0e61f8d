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


RIGHT_IN_PLACE = ("ELU", "Exp", "PReLU", "ReLU", "Sigmoid", "Swish", "TanH")
DIFF = np.array([[1, -2, 0.5], [3, -0.1, 2]], np.float32)


@pytest.mark.parametrize("kind", RIGHT_IN_PLACE)
def test_in_place_gives_the_same(kind):
    param = TWINS[kind][0]
    apart, within = make(kind, param), make(kind, param, top="x")
    np.testing.assert_array_equal(apart.forward()["y"], within.forward()["x"])
    apart.backward(y=DIFF)
    within.backward(x=DIFF)
    np.testing.assert_allclose(within.blobs["x"].diff, apart.blobs["x"].diff, rtol=1e-5)


# What Caffe makes of the output y and its diff, where it should know the input.
OWN_IN_PLACE = {
    "BNLL": lambda y: DIFF / (1 + np.exp(-y)),
    "Clip": lambda y: DIFF,
    "ELU": lambda y: DIFF * np.where(y > 0, 1, y - 0.5),
    "Log": lambda y: (1 / np.log(10) * 2 / (2 * y + 5)) ** 2,
    "Power": lambda y: (1.5 * y / (4 + 0.5 * y)) ** 2,
}
OWN_SETTINGS = {
    "BNLL": "",
    "Clip": TWINS["Clip"][0],
    "ELU": "elu_param { alpha: -0.5 }",
    "Log": "log_param { base: 10 scale: 2 shift: 5 }",
    "Power": TWINS["Power"][0],
}


@pytest.mark.parametrize("kind", OWN_IN_PLACE)
def test_in_place_caffes_own_derivative_is_kept(kind):
    param = OWN_SETTINGS[kind]
    apart, within = make(kind, param), make(kind, param, top="x")
    y = within.forward()["x"].copy()
    np.testing.assert_array_equal(y, apart.forward()["y"])
    within.backward(x=DIFF)
    np.testing.assert_allclose(within.blobs["x"].diff, OWN_IN_PLACE[kind](y), rtol=1e-4)


def test_a_leaky_relu():
    net = make("ReLU", "relu_param { negative_slope: 0.1 }")
    np.testing.assert_allclose(net.forward()["y"], np.where(X > 0, X, 0.1 * X), rtol=1e-6)
    assert gradient_errors(net, step=1e-3)["x"] < 1e-2


def test_log_of_positive_values():
    net = make("Log", "log_param { base: 10 scale: 2 shift: 5 }")
    np.testing.assert_allclose(net.forward()["y"], np.log10(5 + 2 * X), rtol=1e-5)
    assert gradient_errors(net, step=1e-3)["x"] < 1e-2


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("power: 0 shift: 2", 1),
        ("power: 0", 1),
        ("power: 2 scale: 0 shift: 3", 9),
        ("power: -1 scale: 0", np.inf),
        ("power: 0.5 scale: 0 shift: -4", np.nan),
        ("scale: 0", 0),
    ],
)
def test_a_power_without_x_is_a_constant_without_gradient(param, value):
    net = make("Power", f"power_param {{ {param} }}")
    np.testing.assert_array_equal(net.forward()["y"], np.full(X.shape, value))
    net.backward(y=X)
    assert not net.blobs["x"].diff.any()


def test_a_power_of_zero_has_caffes_derivative_y_over_x():
    net = make("Power", "power_param { power: 3 }")
    net.blobs["x"].data[0] = 0
    net.forward()
    net.backward(y=np.ones_like(X))
    expected = np.array([[np.nan] * 3, 3 * X[1] ** 2])
    np.testing.assert_allclose(net.blobs["x"].diff, expected, rtol=1e-5)


def test_an_exponential_beyond_float32_is_infinite():
    net = make("Exp", "exp_param { base: 10 shift: 1000 }")
    assert np.isposinf(net.forward()["y"]).all()


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


def test_a_dropout_ratio_of_one_gives_nan_as_in_caffe():
    net = make("Dropout", "dropout_param { dropout_ratio: 1 }")
    assert np.isnan(net.forward()["y"]).all()


@pytest.mark.parametrize("ratio", [1.5, -0.5])
def test_a_dropout_ratio_that_is_no_probability_is_refused_in_training(ratio):
    param = f"dropout_param {{ dropout_ratio: {ratio} }}"
    make("Dropout", param, phase=caffe.TEST).forward()
    with pytest.raises(caffe.CaffeError, match=f"between 0 and 1, got {ratio}"):
        make("Dropout", param).forward()


@pytest.mark.parametrize("shape", [(2, 4), (3,)])
def test_prelu_refuses_another_number_of_channels(shape):
    net = make("PReLU")
    net.blobs["x"].reshape(*shape)
    with pytest.raises(caffe.CaffeError, match=r"made for \[3\] channels"):
        net.forward()


@pytest.mark.parametrize(
    ("kind", "param", "top"),
    [
        ("AbsVal", "", "x"),
        ("Exp", "exp_param { base: 0 }", "y"),
        ("Exp", "exp_param { base: inf }", "y"),
        ("Log", "log_param { base: -2 }", "y"),
        ("Log", "log_param { base: inf }", "y"),
        ("Log", "log_param { base: 1 }", "y"),
    ],
)
def test_unfit_settings_are_refused(kind, param, top):
    with pytest.raises(caffe.CaffeError, match="layer 'l'"):
        make(kind, param, top)


@pytest.mark.parametrize(("kind", "slope"), [("Swish", 1 / (1 + np.exp(-1))), ("Softmax", 0)])
def test_the_derivative_takes_what_later_layers_made_of_the_output(kind, slope):
    # As in Caffe: the output is 0 by then, whatever it was.
    net = net_from_text(
        f"""layer {{ name: "y" type: "Power" bottom: "x" top: "y" }}
        layer {{ name: "l" type: "{kind}" bottom: "y" top: "y" }}
        layer {{ name: "t" type: "Power" bottom: "y" top: "y" power_param {{ scale: 0 }} }}""",
        x=(1, 3),
    )
    net.forward(x=np.ones((1, 3), np.float32))
    net.blobs["y"].diff[...] = [[1, 2, 4]]
    net.backward(start="l")
    np.testing.assert_allclose(net.blobs["x"].diff, slope * np.array([[1, 2, 4]]), rtol=1e-6)

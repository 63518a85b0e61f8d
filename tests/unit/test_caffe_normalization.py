import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text
from torch.nn import functional

import caffe

X = np.random.default_rng(0).normal(size=(3, 5, 2, 3)).astype(np.float32)


def make(kind, param="", phase=caffe.TRAIN, x=X):
    net = net_from_text(
        f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {param} }}',
        phase=phase,
        x=x.shape,
    )
    net.blobs["x"].data[...] = x
    return net


def test_lrn_across_channels_is_pytorchs():
    net = make("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }")
    expected = functional.local_response_norm(torch.from_numpy(X), 3, 0.5, 0.6, 2)
    np.testing.assert_allclose(net.forward()["y"], expected, rtol=1e-5)
    assert gradient_errors(net)["x"] < 1e-2


def test_lrn_within_a_channel():
    net = make("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }")
    assert gradient_errors(net)["x"] < 1e-2
    squares = np.pad(X**2, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, :3, :3].sum((2, 3)) / 9
    expected = X[:, :, 0, 0] * (1 + 0.5 * squares) ** -0.75
    np.testing.assert_allclose(net.forward()["y"][:, :, 0, 0], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("param", "axes"), [("", (2, 3)), ("mvn_param { across_channels: true }", (1, 2, 3))]
)
def test_mvn_has_mean_zero_and_deviation_one(param, axes):
    net = make("MVN", param)
    y = net.forward()["y"]
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axes), 1, rtol=1e-4)
    assert gradient_errors(net)["x"] < 1e-2


def test_mvn_of_the_mean_only():
    net = make("MVN", "mvn_param { normalize_variance: false }")
    np.testing.assert_allclose(net.forward()["y"], X - X.mean((2, 3), keepdims=True), atol=1e-6)
    assert gradient_errors(net)["x"] < 1e-2


def test_mvn_makes_four_axes():
    net = make("MVN", "mvn_param { across_channels: true }", x=X[0, :, 0])
    y = net.forward()["y"]
    assert y.shape == (5, 3, 1, 1)
    np.testing.assert_allclose(y.std(1), 1, rtol=1e-4)
    assert gradient_errors(net)["x"] < 1e-2


def test_mvn_in_place_has_caffes_own_gradient():
    net = net_from_text(
        """layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: 1 } }
        layer { name: "l" type: "MVN" bottom: "y" top: "y" }""", x=X.shape,
    )  # fmt: skip
    net.blobs["x"].data[...] = X
    y = net.forward()["y"].copy()
    np.testing.assert_allclose(y, make("MVN").forward()["y"], rtol=1e-6)
    dy = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    net.backward(y=dy)
    # The top's diff is overwritten by y · mean(y · dy) before it is used.
    expected = -2 * y * (y * dy).mean((2, 3), keepdims=True) / X.std((2, 3), keepdims=True)
    np.testing.assert_allclose(net.blobs["x"].diff, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("LRN", (3, 5, 2)), ("BatchNorm", (3, 4, 2, 3)), ("BatchNorm", (3,)), ("MVN", (1,) * 5)],
)
def test_another_shape_that_does_not_fit_is_refused_at_forward(kind, shape):
    net = make(kind)
    net.blobs["x"].reshape(*shape)
    with pytest.raises(caffe.CaffeError, match="layer 'l'"):
        net.forward()


def test_batch_norm_normalises_the_batch_and_keeps_running_sums():
    net = make("BatchNorm", "batch_norm_param { eps: 0 }")
    y = net.forward()["y"]
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, rtol=1e-4)
    mean, variance, factor = (blob.data for blob in net.params["l"])
    np.testing.assert_allclose(mean, X.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, X.var((0, 2, 3), ddof=1), rtol=1e-4)
    assert factor == [1]
    net.forward()
    assert factor == pytest.approx([1.999])


def test_batch_norm_has_no_learnable_parameters():
    net = make("BatchNorm")
    assert net.arena_layout == []
    net.forward()
    net.backward(y=np.ones(X.shape, np.float32))
    assert not any(blob.diff.any() for blob in net.params["l"])


@pytest.mark.parametrize("kind", ["BatchNorm", "MVN"])
def test_the_diff_is_written_though_nobody_asks_as_in_caffe(kind):
    net = make(kind, "propagate_down: false")
    net.forward()
    net.blobs["y"].diff[...] = np.random.default_rng(1).normal(size=X.shape)
    net.layer_dict["l"].backward([net.blobs["y"]], [False], [net.blobs["x"]])
    assert net.blobs["x"].diff.any()


def test_the_gradient_of_batch_norm_is_the_differences():
    net = make("BatchNorm", "batch_norm_param { moving_average_fraction: 0 }")
    net.forward()
    errors = gradient_errors(net)
    assert errors["x"] < 1e-2


def test_batch_norm_uses_its_sums_when_testing():
    net = make("BatchNorm", "batch_norm_param { eps: 0 }", caffe.TEST)
    mean, variance, factor = net.params["l"]
    mean.data[...], variance.data[...], factor.data[...] = 2, 8, 2
    np.testing.assert_allclose(net.forward()["y"], (X - 1) / 2, rtol=1e-5)
    assert gradient_errors(net)["x"] < 1e-2
    assert factor.data == [2]


@pytest.mark.parametrize(
    ("kind", "param", "x"),
    [
        ("LRN", "lrn_param { local_size: 4 }", X),
        ("LRN", "", X[0]),
        ("BatchNorm", "param { lr_mult: 1 }", X),
        ("BatchNorm", "", X[0, 0, 0]),
        ("MVN", "", X[None]),
        ("BatchNorm", "", np.zeros((0, 5, 2))),
    ],
)
def test_what_does_not_fit_is_refused(kind, param, x):
    with pytest.raises(caffe.CaffeError, match="layer 'l'"):
        make(kind, param, x=x)

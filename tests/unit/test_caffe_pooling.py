import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text
from caffe.layers.pooling import pooled_size
from torch.nn import functional

import caffe

X = np.random.default_rng(0).permutation(2 * 2 * 5 * 6).reshape(2, 2, 5, 6).astype(np.float32)


def make(param, kind="Pooling", tops='top: "y"', x=X):
    name = "pooling_param" if kind == "Pooling" else "spp_param"
    net = net_from_text(
        f'layer {{ name: "p" type: "{kind}" bottom: "x" {tops} {name} {{ {param} }} }}', x=x.shape
    )
    net.blobs["x"].data[...] = x
    return net


def windows(param):
    """Yield place and values of every window, by Caffe's loops."""
    k, s, p = param
    height, width = X.shape[2:]
    rows = pooled_size(height, k, s, p, floor=False, clip=p > 0)
    columns = pooled_size(width, k, s, p, floor=False, clip=p > 0)
    for i in range(rows):
        for j in range(columns):
            top, left = i * s - p, j * s - p
            bottom, right = min(top + k, height + p), min(left + k, width + p)
            area = (bottom - top) * (right - left)
            part = X[:, :, max(top, 0) : bottom, max(left, 0) : right]
            yield (i, j), part, area


@pytest.mark.parametrize("setting", [(2, 2, 0), (3, 2, 1), (3, 1, 2), (3, 4, 0), (4, 4, 2)])
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_pooling_is_caffes_loop(method, setting):
    net = make("pool: {} kernel_size: {} stride: {} pad: {}".format(method, *setting))
    y = net.forward()["y"]
    for (i, j), part, area in windows(setting):
        expected = part.max((2, 3)) if method == "MAX" else part.sum((2, 3)) / area
        np.testing.assert_allclose(y[:, :, i, j], expected, rtol=1e-5)
    assert gradient_errors(net, step=0.25)["x"] < 1e-2


def test_the_second_top_has_the_places_of_the_maxima():
    net = make("kernel_size: 3 stride: 2 pad: 1", tops='top: "y" top: "m"')
    net.forward()
    places = net.blobs["m"].data.astype(int)
    flat = X.reshape(2, 2, -1)
    taken = np.take_along_axis(flat, places.reshape(2, 2, -1), 2)
    np.testing.assert_array_equal(taken, net.blobs["y"].data.reshape(2, 2, -1))


def test_of_equal_maxima_the_first_gets_the_gradient():
    net = make("kernel_size: 2 stride: 2", x=np.ones((1, 1, 2, 2), np.float32))
    net.forward()
    net.backward(y=np.ones((1, 1, 1, 1), np.float32))
    assert net.blobs["x"].diff.ravel().tolist() == [1, 0, 0, 0]


def test_global_pooling_and_floor():
    np.testing.assert_allclose(
        make("pool: AVE global_pooling: true").forward()["y"][..., 0, 0], X.mean((2, 3)), rtol=1e-6
    )
    assert make("kernel_size: 2 stride: 2 round_mode: FLOOR").blobs["y"].shape == (2, 2, 2, 3)


def test_a_pyramid_joins_its_levels():
    net = make("pyramid_height: 2 pool: AVE", "SPP")
    y = net.forward()["y"]
    assert y.shape == (2, 2 * (1 + 4))
    np.testing.assert_allclose(y[:, :2], X.mean((2, 3)), rtol=1e-5)
    assert gradient_errors(net, step=0.25)["x"] < 1e-2
    assert make("pyramid_height: 1", "SPP").blobs["y"].shape == (2, 2, 1, 1)


def test_without_padding_it_is_pytorchs():
    expected = functional.max_pool2d(torch.from_numpy(X), 3, 2, ceil_mode=True)
    np.testing.assert_array_equal(make("kernel_size: 3 stride: 2").forward()["y"], expected)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("", "needs either kernel_size"),
        ("kernel_h: 2", "both kernel_h and kernel_w"),
        ("kernel_size: 0", "must be positive"),
        ("kernel_size: 2 stride: 0", "must be positive"),
        ("kernel_size: 2 pad: 2", "smaller than the kernel"),
        ("kernel_size: 2 pad: 1 pad_h: 1", "either pad"),
        ("kernel_size: 2 stride: 1 stride_h: 1 stride_w: 1", "either stride"),
        ("kernel_size: 2 pad_h: 1", "both pad_h and pad_w"),
        ("kernel_size: 2 stride_h: 0 stride_w: 1", "must be positive"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "needs either"),
        ("kernel_size: 2 pad: 1 pool: STOCHASTIC", "only MAX and AVE take pad"),
        ("kernel_size: 9 stride: 2", "larger than its input"),
        ("global_pooling: true kernel_size: 2", "no kernel"),
        ("global_pooling: true stride: 2", "neither pad nor stride"),
    ],
)
def test_unfit_settings_are_refused(param, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(param)


@pytest.mark.parametrize(
    "param", ["kernel_size: 2 kernel_h: 3", "kernel_size: 2 stride: 1 pad: 0", "kernel_size: 5"]
)
def test_odd_settings_that_caffe_takes_are_taken(param):
    kernel = 5 if "5" in param else 2
    assert make(param).blobs["y"].shape == (2, 2, 6 - kernel, 7 - kernel)


def test_a_window_beyond_the_input_is_empty():
    net = make("kernel_size: 2 stride: 5 kernel_h: 9", tops='top: "y" top: "m"', x=X[..., :4])
    assert net.blobs["y"].shape == (2, 2, 2, 2)
    net.forward()
    assert (net.blobs["y"].data[:, :, 1] == np.finfo(np.float32).min).all()
    assert (net.blobs["m"].data[:, :, 1] == -1).all()
    assert (net.blobs["m"].data[:, :, 0] >= 0).any()
    mean = make("pool: AVE kernel_size: 2 stride: 5", x=X[..., :4]).forward()["y"]
    assert np.isnan(mean[:, :, 1]).all()


def test_a_top_that_holds_nothing_is_refused_at_forward():
    net = make("kernel_size: 6")
    assert net.blobs["y"].shape == (2, 2, 0, 1)
    with pytest.raises(caffe.CaffeError, match="hold nothing"):
        net.forward()


def test_a_stride_that_is_negative_in_caffe_is_refused():
    with pytest.raises(caffe.CaffeError, match="no such size"):
        make("kernel_size: 3 stride: 4294967295")


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_no_channels_are_refused_at_forward(method):
    net = make(f"pool: {method} kernel_size: 2", x=X[:, :0])
    with pytest.raises(caffe.CaffeError, match="hold nothing"):
        net.forward()


def test_only_max_has_places():
    with pytest.raises(caffe.CaffeError, match="second top"):
        make("pool: AVE kernel_size: 2", tops='top: "y" top: "m"')


@pytest.mark.parametrize(
    ("kind", "param"), [("Pooling", "kernel_size: 2"), ("SPP", "pyramid_height: 1")]
)
def test_stochastic_pooling_is_refused_at_forward(kind, param):
    net = make(f"pool: STOCHASTIC {param}", kind)
    with pytest.raises(caffe.CaffeError, match="STOCHASTIC"):
        net.forward()


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("", "must be positive"),
        ("pyramid_height: 4", "does not fit"),
        ("pyramid_height: 2 pool: STOCHASTIC", "only MAX and AVE take pad"),
    ],
)
def test_unfit_pyramids_are_refused(param, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(param, "SPP")

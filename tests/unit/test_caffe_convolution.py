import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text
from torch.nn import functional

import caffe
from caffe import tuning

FILLERS = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.3 }'


def make(kind, settings, shape):
    caffe.set_random_seed(0)
    net = net_from_text(
        f'layer {{ name: "c" type: "{kind}" bottom: "x" top: "y" '
        f"convolution_param {{ {settings} {FILLERS} }} }}",
        x=shape,
    )
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=shape)
    return net


CASES = [
    ("Convolution", "num_output: 4 kernel_size: 3 stride: 2 pad: 1", (2, 3, 7, 6)),
    ("Convolution", "num_output: 4 kernel_size: 3 group: 2 dilation: 2", (2, 2, 7, 6)),
    ("Convolution", "num_output: 2 kernel_h: 3 kernel_w: 1 bias_term: false", (1, 2, 5, 4)),
    ("Convolution", "num_output: 2 kernel_size: 2", (1, 2, 5)),
    ("Convolution", "num_output: 2 kernel_size: 2", (1, 2, 3, 4, 3)),
    ("Convolution", "num_output: 2 kernel_size: 2 axis: 2", (2, 2, 2, 3, 4)),
    ("Convolution", "num_output: 4 axis: 2 group: 2", (2, 1, 2)),
    ("Deconvolution", "num_output: 2", (3, 2)),
    ("Deconvolution", "num_output: 4 kernel_size: 3 stride: 2 pad: 1", (2, 3, 3, 4)),
    ("Deconvolution", "num_output: 4 kernel_size: 3 group: 2 bias_term: false", (1, 2, 3, 3)),
]


@pytest.mark.parametrize(("kind", "settings", "shape"), CASES)
def test_gradients_are_the_differences(kind, settings, shape):
    assert max(gradient_errors(make(kind, settings, shape)).values()) < 5e-3


def test_forward_is_pytorchs():
    net = make(
        "Convolution", "num_output: 6 kernel_size: 3 stride: 2 pad: 1 group: 3", (2, 3, 9, 8)
    )
    x, (w, b) = net.blobs["x"], net.params["c"]
    expected = functional.conv2d(x.data_tensor, w.data_tensor, b.data_tensor, 2, 1, 1, 3)
    torch.testing.assert_close(torch.from_numpy(net.forward()["y"]), expected)
    assert w.shape == (6, 1, 3, 3)


def test_without_spatial_axes_it_is_a_product():
    net = make("Convolution", "num_output: 4 kernel_size: 3 axis: 2", (2, 3, 5))
    weight, bias = (blob.data for blob in net.params["c"])
    assert weight.shape == (4, 5)
    np.testing.assert_allclose(net.forward()["y"], net.blobs["x"].data @ weight.T + bias, rtol=1e-5)


def test_too_many_spatial_axes_are_refused():
    with pytest.raises(caffe.CaffeError, match="4 spatial axes, but takes at most 3"):
        make("Convolution", "num_output: 1 kernel_size: 1", (1, 1, 2, 2, 2, 2))


@pytest.mark.parametrize("lowering", ["contiguous", "channels_last", "gemm"])
def test_a_scaled_bottom_with_more_axes_before_the_channels(lowering):
    tuning.set_lowering(lowering)
    try:
        net = net_from_text(
            """layer { name: "p" type: "Power" bottom: "x" top: "s" power_param { scale: 0.5 } }
            layer { name: "c" type: "Convolution" bottom: "s" top: "y" convolution_param {
              num_output: 2 kernel_size: 2 axis: 2 weight_filler { type: "xavier" } } }""",
            x=(2, 3, 1, 3, 4),
        )
        net.blobs["x"].data[...] = x = np.random.default_rng(0).normal(size=(2, 3, 1, 3, 4))
        assert net.forward()["y"].shape == (2, 3, 2, 2, 3)
        np.testing.assert_allclose(net.blobs["s"].data, x / 2, rtol=1e-6)
    finally:
        tuning.set_lowering("auto")


def test_deconvolution_is_the_transpose():
    net = make("Deconvolution", "num_output: 4 kernel_size: 3 stride: 2", (2, 3, 4, 4))
    x, (w, b) = net.blobs["x"], net.params["c"]
    expected = functional.conv_transpose2d(x.data_tensor, w.data_tensor, b.data_tensor, 2)
    torch.testing.assert_close(torch.from_numpy(net.forward()["y"]), expected)
    assert w.shape == (3, 4, 3, 3)


def test_several_bottoms_share_the_weights():
    net = net_from_text(
        """layer { name: "c" type: "Convolution" bottom: "x" bottom: "z" top: "y" top: "w"
        convolution_param { num_output: 1 kernel_size: 2 weight_filler { type: "xavier" } } }""",
        x=(1, 1, 3, 3), z=(1, 1, 3, 3),
    )  # fmt: skip
    net.blobs["x"].data[...] = net.blobs["z"].data[...] = np.arange(9).reshape(1, 1, 3, 3)
    out = net.forward()
    np.testing.assert_array_equal(out["y"], out["w"])
    assert max(gradient_errors(net).values()) < 5e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("kernel_size: 3", "num_output"),
        ("num_output: 2", "kernel needs 1 value"),
        ("num_output: 2 kernel_size: 0", "kernel dimensions"),
        ("num_output: 2 kernel_size: 3 stride: 0", "stride dimensions"),
        ("num_output: 2 kernel_size: 9", "larger than its input"),
        ("num_output: 2 kernel_size: 3 group: 2", "group 2"),
        ("num_output: 2 kernel_size: 3 kernel_h: 3 kernel_w: 3", "not both"),
        ("num_output: 2 kernel_size: [1, 2, 3]", "got 3"),
        ("num_output: 2 kernel_size: 3 axis: 4", "axis 4"),
        ("num_output: 2 kernel_size: 3 dilation: 0", "dilation dimensions"),
        ("num_output: 2 kernel_size: 1 axis: -7", "axis -7"),
    ],
)
def test_unfit_settings_are_refused(settings, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make("Convolution", settings, (1, 3, 6, 6))


def test_another_number_of_channels_is_refused_at_forward():
    net = make("Convolution", "num_output: 2 kernel_size: 3", (1, 3, 6, 6))
    net.blobs["x"].reshape(1, 4, 6, 6)
    with pytest.raises(caffe.CaffeError, match="3 channels"):
        net.forward()


def test_a_pad_that_leaves_nothing_is_refused():
    with pytest.raises(caffe.CaffeError, match="leaves nothing"):
        make("Deconvolution", "num_output: 1 kernel_size: 2 pad: 4", (1, 1, 3, 3))


@pytest.mark.parametrize("lowering", ["contiguous", "channels_last", "gemm"])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_kernel_may_stand_out_by_less_than_a_stride(lowering, pad):
    settings = f"num_output: 2 kernel_size: {4 + 2 * pad} stride: 2 pad: {pad}"
    caffe.set_lowering(lowering)
    try:
        net = make("Convolution", settings, (2, 3, 3, 3))
        x, (w, b) = net.blobs["x"], net.params["c"]
        padded = functional.pad(x.data_tensor, (pad, pad + 1, pad, pad + 1))
        expected = functional.conv2d(padded, w.data_tensor, b.data_tensor, 2)
        torch.testing.assert_close(torch.from_numpy(net.forward()["y"]), expected)
        assert expected.shape == (2, 2, 1, 1)
        assert max(gradient_errors(net).values()) < 5e-3
    finally:
        caffe.set_lowering("auto")


def test_im2col_stands_out_too():
    net = net_from_text(
        """layer { name: "c" type: "Im2col" bottom: "x" top: "y"
        convolution_param { kernel_size: 4 stride: 2 } }""", x=(1, 1, 3, 3),
    )  # fmt: skip
    net.blobs["x"].data[...] = np.arange(1, 10).reshape(1, 1, 3, 3)
    window = np.pad(np.arange(1, 10).reshape(3, 3), (0, 1))
    np.testing.assert_array_equal(net.forward()["y"].ravel(), window.ravel())
    assert max(gradient_errors(net).values()) < 5e-3

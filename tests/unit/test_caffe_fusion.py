"""What computes together gives what Caffe's layers give one by one."""

import numpy as np
import pytest
import torch
from caffe.gradient_check import net_from_text

import caffe
from caffe import fusion

CONV = """layer { name: "c" type: "Convolution" bottom: "%s" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }"""
RELU = 'layer { name: "r" type: "ReLU" bottom: "c" top: "%s" %s}'
SCALE = 'layer { name: "s" type: "Power" bottom: "x" top: "s" power_param { scale: 0.25 } }'
DENSE = """layer { name: "f" type: "InnerProduct" bottom: "c" top: "f"
  inner_product_param { num_output: 3 weight_filler { type: "msra" } } }"""


@pytest.fixture(params=["contiguous", "channels_last", "gemm"])
def lowering(request):
    caffe.set_lowering(request.param)
    yield request.param
    caffe.set_lowering("auto")


def net_of(*layers, shape=(2, 3, 7, 6)):
    caffe.set_random_seed(0)
    net = net_from_text("\n".join(layers), x=shape)
    net.blobs["x"].data[...] = np.random.default_rng(0).integers(0, 9, shape)
    return net


def joined(net):
    return [net.layers[i - 1].name for i in net._joined]


def outcome(net, *, apart):
    """Return everything a pass leaves behind; apart: with a callback between the layers."""
    if apart:
        net.before_forward(lambda _: None)
    net.clear_param_diffs()
    net.forward()
    for name in net.outputs:
        shape = net.blobs[name].shape
        net.blobs[name].diff[...] = np.random.default_rng(1).normal(size=shape)
    net.backward()
    blobs = {name: (b.data.copy(), b.diff.copy()) for name, b in net.blobs.items()}
    params = {
        f"{name}/{i}": (b.data.copy(), b.diff.copy())
        for name, row in net.params.items()
        for i, b in enumerate(row)
    }
    return blobs | params


@pytest.mark.usefixtures("lowering")
def test_together_is_as_apart():
    layers = (SCALE, CONV % "s", RELU % ("c", ""), DENSE)
    together, apart = (outcome(net_of(*layers), apart=a) for a in (False, True))
    assert together.keys() == apart.keys()
    for name, pair in together.items():
        for got, expected in zip(pair, apart[name], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.usefixtures("lowering")
def test_a_blob_that_was_looked_at_stays_live():
    net = net_of(SCALE, CONV % "s", RELU % ("c", ""), DENSE)
    views = {name: blob.data for name, blob in net.blobs.items()}
    net.forward()
    kept = {name: view.copy() for name, view in views.items()}
    fresh = net_of(SCALE, CONV % "s", RELU % ("c", ""), DENSE)
    fresh.forward()
    for name, view in views.items():
        np.testing.assert_allclose(view, fresh.blobs[name].data, rtol=1e-5, atol=1e-6)
    views["c"][...] = 0  # what is written there counts, in backward too
    net.forward(start="f")
    assert not np.array_equal(views["f"], kept["f"])
    net.clear_param_diffs()
    net.blobs["f"].diff[...] = 1
    net.backward()
    assert not net.params["f"][0].diff.any()
    assert not net.params["c"][0].diff.any()


def test_a_partial_pass_leaves_the_relu_out():
    net = net_of(CONV % "x", RELU % ("c", ""))
    net.forward()
    assert net.blobs["c"].data.min() == 0
    net.forward(end="c")
    assert net.blobs["c"].data.min() < 0
    net.forward()
    assert net.blobs["c"].data.min() == 0


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ((CONV % "x", RELU % ("c", "")), ["c"]),
        ((CONV % "x", RELU % ("c", ""), DENSE, RELU.replace('"c"', '"f"') % ("f", "")),
         ["c", "f"]),
        ((CONV % "x", RELU % ("r", "")), []),  # not in place
        ((CONV % "x", RELU % ("c", "relu_param { negative_slope: 0.1 }")), []),
        ((CONV % "x", DENSE), []),
    ],
)  # fmt: skip
def test_what_is_joined(layers, names):
    assert joined(net_of(*layers)) == names


@pytest.mark.parametrize(
    ("layers", "follows"),
    [
        ((CONV % "x", (CONV % "c").replace('"c" type', '"d" type')
          .replace('top: "c"', 'top: "d"')), [False, True]),
        ((CONV % "x", RELU % ("r", ""), (CONV % "r").replace('"c"', '"d"')),
         [False, True]),
        ((SCALE, CONV % "s"), [False]),
    ],
)  # fmt: skip
def test_which_convolutions_follow_another(layers, follows):
    net = net_of(*layers)
    places = fusion.convolutions(
        net.layers, net._bottom_indices, net._top_indices, net._bottom_needs_backward
    )
    assert [place.follows for place in places] == follows


@pytest.mark.usefixtures("lowering")
def test_bytes_are_taken_as_they_are():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 7, 6), dtype=np.uint8)
    by_floats = net_of(SCALE, CONV % "s", RELU % ("c", ""))
    by_bytes = net_from_text("\n".join((SCALE, CONV % "s", RELU % ("c", ""))), x=(2, 3, 7, 6))
    by_bytes.share_with(by_floats)
    got = by_bytes.forward(x=frames)["c"]
    frames_then = frames.copy()
    frames[...] = 0  # the net has its own copy
    np.testing.assert_array_equal(by_bytes.blobs["x"].data, frames_then)
    expected = by_floats.forward(x=frames_then.astype(np.float32))["c"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_grey_values_stay_exact_in_bf16():
    caffe.set_lowering("channels_last")
    caffe.set_precision("bf16")
    try:
        net = net_from_text("\n".join((SCALE, CONV % "s")), phase=caffe.TEST, x=(2, 3, 7, 6))
        frames = np.arange(252, dtype=np.uint8).reshape(2, 3, 7, 6)
        net.blobs["x"].data[...] = frames
        net.forward()
        memory, scale = net.blobs["s"].values.newest_scaled()
        assert memory.dtype is torch.bfloat16
        assert scale == 0.25
        np.testing.assert_array_equal(memory.float().numpy(), frames)
        np.testing.assert_array_equal(net.blobs["s"].data, frames * np.float32(0.25))
    finally:
        caffe.set_precision("float32")
        caffe.set_lowering("auto")

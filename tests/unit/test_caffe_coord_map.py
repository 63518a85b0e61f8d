import numpy as np
import pytest
from caffe.coord_map import (
    AxisMismatchException,
    CropError,
    compose,
    coord_map_from_to,
    crop,
    inverse,
)
from hypothesis import given
from hypothesis import strategies as st

import caffe
from caffe import layers, params


def spec(kernel=3, stride=1, pad=0, *, pool=2, up=2, up_pad=0):
    """Return data → conv → pool → deconv, all of a kind that can be followed."""
    n = caffe.NetSpec()
    n.data = layers.Input(shape={"dim": [2, 1, 100, 100]})
    n.conv = layers.Convolution(
        n.data, num_output=2, kernel_size=kernel, stride=stride, pad=pad, bias_term=False
    )
    n.pool = layers.Pooling(n.conv, pool=params.Pooling.MAX, kernel_size=pool, stride=pool)
    n.deconv = layers.Deconvolution(
        n.pool,
        convolution_param={
            "num_output": 2, "kernel_size": 2 * up, "stride": up, "pad": up_pad, "bias_term": False
        },
    )  # fmt: skip
    return n


def test_pooling_and_its_inverse_cancel_out():
    n = spec()
    assert coord_map_from_to(n.deconv, n.data) == (1, 1, 0)
    n = spec(pool=4, up=4)
    assert coord_map_from_to(n.deconv, n.data) == (1, 1, -1)


def test_pointwise_layers_and_1x1_convolutions_change_nothing():
    n = spec()
    before = coord_map_from_to(n.deconv, n.data)
    n.relu = layers.ReLU(n.deconv)
    n.conv1x1 = layers.Convolution(n.relu, num_output=2, kernel_size=1)
    for top in (n.relu, n.conv1x1):
        assert coord_map_from_to(top, n.data) == before


@given(st.integers(0, 10))
def test_padding_moves_one_way_and_that_of_deconvolution_the_other(pad):
    for settings, shift in (({"pad": pad}, -pad), ({"up_pad": pad}, pad),
                            ({"pad": pad, "up_pad": pad}, 0)):  # fmt: skip
        n = spec(**settings)
        _, scale, moved = coord_map_from_to(n.deconv, n.data)
        assert (scale, moved) == (1, shift)


def test_every_bottom_of_a_layer_is_mapped_alike():
    n = spec()
    n.aux = layers.Input(shape={"dim": [2, 1, 20, 20]})
    n.a, n.b = layers.Convolution(n.data, n.aux, ntop=2, num_output=2, kernel_size=5, stride=2)
    assert coord_map_from_to(n.a, n.data) == coord_map_from_to(n.b, n.aux)


def test_axes_may_differ():
    both = spec(kernel=[3, 5], stride=[1, 2], pad=[0, 10])
    axis, scale, shift = coord_map_from_to(both.deconv, both.data)
    for place, n in enumerate((spec(3, 1, 0), spec(5, 2, 10))):
        assert (axis, scale[place], shift[place]) == coord_map_from_to(n.deconv, n.data)


def test_a_crop_moves_by_its_offset():
    n = spec()
    axis, scale, shift = coord_map_from_to(n.deconv, n.data)
    n.crop = layers.Crop(n.deconv, n.data, axis=2, offset=3)
    assert coord_map_from_to(n.crop, n.data) == (axis, scale, shift + 3)
    n.other = layers.Crop(n.deconv, n.data, axis=3, offset=3)
    with pytest.raises(AxisMismatchException, match="axis 2 and axis 1"):
        coord_map_from_to(n.other, n.data)


def test_a_crop_of_what_only_crops_moved():
    n = caffe.NetSpec()
    n.data = layers.Input(shape={"dim": [1, 1, 9, 9]})
    n.inner = layers.Crop(n.data, n.data, offset=[2, 3])
    axis, scale, shift = coord_map_from_to(n.inner, n.data)
    assert (axis, scale, shift.tolist()) == (1, 1, [2, 3])


def test_crop_makes_a_layer_that_runs():
    n = spec(pad=3)
    n.cropped = crop(n.deconv, n.data)
    param = n.to_proto().layer[-1].crop_param
    assert (param.axis, list(param.offset)) == (2, [3])
    n = caffe.NetSpec()
    n.data = layers.Input(shape={"dim": [1, 1, 5, 5]})
    n.pad = layers.Convolution(n.data, num_output=1, kernel_size=1, pad=2,
                               weight_filler={"type": "constant", "value": 1})  # fmt: skip
    n.back = crop(n.pad, n.data)
    net = caffe.Net(n.to_proto(), caffe.TEST)
    x = np.arange(25.0).reshape(1, 1, 5, 5)
    np.testing.assert_array_equal(net.forward(data=x)["back"], x)


def test_crop_to_itself_has_no_axis_to_give():
    n = spec()
    n.same = crop(layers.ReLU(n.conv), n.conv)
    param = n.to_proto().layer[-1].crop_param
    assert (param.HasField("axis"), list(param.offset)) == (False, [0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 3}, "scale mismatch"),
        ({"up_pad": 10}, "negative offset"),
        ({"kernel": 2}, "noninteger offset"),
        ({"kernel": 4, "pad": 2}, "noninteger offset"),
    ],
)
@pytest.mark.parametrize("kind", [AssertionError, caffe.CaffeError])
def test_what_cannot_be_cropped_is_refused(settings, message, kind):
    n = spec(**settings)
    with pytest.raises(kind, match=message):
        crop(n.deconv, n.data)


def test_tops_that_nothing_connects_are_refused():
    n = spec()
    n.ip = layers.InnerProduct(n.deconv, num_output=2)
    with pytest.raises(RuntimeError, match="not connected"):
        coord_map_from_to(n.ip, n.data)


@pytest.mark.parametrize("settings", [{"kernel_h": 3, "kernel_w": 3}, {}])
def test_a_kernel_that_is_not_given_as_kernel_size_is_refused(settings):
    n = caffe.NetSpec()
    n.data = layers.Input(shape={"dim": [1, 1, 9, 9]})
    n.conv = layers.Convolution(n.data, num_output=1, **settings)
    with pytest.raises(CropError, match="kernel_size"):
        coord_map_from_to(n.conv, n.data)


def test_many_ways_to_a_top_are_not_all_gone():
    n = caffe.NetSpec()
    n.data = layers.Input(shape={"dim": [1, 1, 9, 9]})
    top = n.data
    for _ in range(60):  # two to the sixtieth ways
        top = layers.Eltwise(top, layers.Convolution(top, num_output=1, kernel_size=3, pad=1))
    assert coord_map_from_to(top, n.data) == (1, 1, 0)


@given(st.integers(1, 9), st.integers(-9, 9))
def test_a_map_and_its_inverse_are_nothing(scale, shift):
    axis, there, moved = compose((1, scale, shift), inverse((1, scale, shift)))
    assert axis == 1
    assert (there, moved) == pytest.approx((1, 0))

import numpy as np
import pytest
from caffe.gradient_check import gradient_errors, net_from_text

import caffe

FILLERS = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 0.3 }'


def make(settings, shape=(2, 3, 2)):
    caffe.set_random_seed(0)
    net = net_from_text(
        f'layer {{ name: "f" type: "InnerProduct" bottom: "x" top: "y" '
        f"inner_product_param {{ num_output: 4 {settings} {FILLERS} }} }}",
        x=shape,
    )
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=shape)
    return net


CASES = {
    "": ((2, 4), (4, 6)),
    "axis: 2": ((2, 3, 4), (4, 2)),
    "axis: -1 transpose: true": ((2, 3, 4), (2, 4)),
    "bias_term: false": ((2, 4), (4, 6)),
}


@pytest.mark.parametrize("settings", CASES)
def test_shapes_and_gradients(settings):
    net = make(settings)
    top, weight = CASES[settings]
    assert (net.blobs["y"].shape, net.params["f"][0].shape) == (top, weight)
    assert max(gradient_errors(net).values()) < 1e-3


def test_forward_is_x_times_w_plus_b():
    net = make("")
    weight, bias = (blob.data for blob in net.params["f"])
    expected = net.blobs["x"].data.reshape(2, 6) @ weight.T + bias
    np.testing.assert_allclose(net.forward()["y"], expected, rtol=1e-5)


def test_rows_of_another_length_are_refused():
    net = make("")
    net.blobs["x"].reshape(2, 5)
    with pytest.raises(caffe.CaffeError, match="5 values, but the weight was made for 6"):
        net.forward()


def test_a_negative_axis_follows_the_number_of_axes():
    net = make("axis: -1")
    net.blobs["x"].reshape(5, 2)
    assert net.forward()["y"].shape == (5, 4)


def test_num_output_is_needed():
    with pytest.raises(caffe.CaffeError, match="num_output"):
        net_from_text('layer { name: "f" type: "InnerProduct" bottom: "x" top: "y" }', x=(1, 2))

import numpy as np
import pytest
from caffe.gradient_check import double_precision, gradient_errors, net_from_text
from caffe.layer import TorchLayer, register
from caffe.precision import computes_bf16

import caffe


def test_a_right_gradient_has_a_small_error():
    net = net_from_text(
        'layer { name: "i" type: "InnerProduct" bottom: "x" top: "y"'
        ' inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }',
        x=(3, 4),
    )
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=(3, 4))
    errors = gradient_errors(net)
    assert set(errors) == {"x", "i/0", "i/1"}
    assert max(errors.values()) < 1e-3


def test_a_wrong_gradient_is_found():
    @register("HalfGradient")
    class HalfGradient(TorchLayer):
        def reshape(self, bottom, top):
            top[0].resize(bottom[0].shape)

        def compute(self, *bottom):
            return bottom[0] / 2 + (bottom[0] / 2).detach()

    net = net_from_text('layer { name: "h" type: "HalfGradient" bottom: "x" top: "y" }', x=(2,))
    net.blobs["x"].data[...] = 1
    assert gradient_errors(net)["x"] > 0.05


def test_values_are_put_back():
    net = net_from_text('layer { name: "h" type: "TanH" bottom: "x" top: "y" }', x=(2,))
    net.blobs["x"].data[...] = [1, 2]
    gradient_errors(net)
    assert net.blobs["x"].data.tolist() == [1, 2]


TANH = 'layer { name: "h" type: "TanH" bottom: "x" top: "y" }'


def test_in_double_precision_steps_are_small_and_so_are_errors():
    with double_precision():
        net = net_from_text(TANH, x=(2,))
        net.blobs["x"].data[...] = [0.3, -1.2]
        assert net.blobs["x"].data.dtype == np.float64
        assert gradient_errors(net)["x"] < 1e-8
    assert net_from_text(TANH, x=(2,)).blobs["x"].data.dtype == np.float32


def fail_in_double_precision():
    with double_precision():
        assert not computes_bf16()
        raise ZeroDivisionError


def test_double_precision_is_left_after_an_error_too():
    caffe.set_precision("bf16")
    try:
        with pytest.raises(ZeroDivisionError):
            fail_in_double_precision()
        assert computes_bf16()
    finally:
        caffe.set_precision("float32")
    assert net_from_text(TANH, x=(2,)).blobs["x"].data.dtype == np.float32


def test_without_force_backward_inputs_get_no_gradient():
    net = net_from_text(
        'layer { name: "b" type: "Bias" bottom: "x" top: "y" loss_weight: 1 }',
        force_backward=False, x=(1, 2),
    )  # fmt: skip
    assert set(gradient_errors(net, inputs=[])) == {"b/0"}
    assert not net.blobs["x"].diff.any()
    assert net.params["b"][0].diff.tolist() == [1, 1]

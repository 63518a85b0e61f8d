import numpy as np
from caffe.gradient_check import gradient_errors, net_from_text
from caffe.layer import TorchLayer, register


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

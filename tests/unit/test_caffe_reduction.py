import numpy as np
import pytest
from caffe.gradient_check import gradient_errors, net_from_text

import caffe

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def make(param):
    net = net_from_text(
        'layer { name: "r" type: "Reduction" bottom: "x" top: "y" '
        f"reduction_param {{ {param} }} }}",
        x=X.shape,
    )
    net.blobs["x"].data[...] = X
    return net


CASES = {
    "": lambda x: x.sum(),
    "axis: 1 coeff: 2": lambda x: 2 * x.sum((1, 2)),
    "operation: ASUM axis: -1": lambda x: np.abs(x).sum(2),
    "operation: SUMSQ axis: 1": lambda x: (x**2).sum((1, 2)),
    "operation: MEAN axis: 2 coeff: 3": lambda x: 3 * x.mean(2),
}


@pytest.mark.parametrize("param", CASES)
def test_operations_and_their_gradients(param):
    net = make(param)
    expected = CASES[param](X)
    assert net.blobs["y"].shape == np.shape(expected)
    np.testing.assert_allclose(net.forward()["y"], expected, rtol=1e-5)
    assert gradient_errors(net, step=1e-3)["x"] < 1e-2


@pytest.mark.parametrize(
    ("param", "shape"), [("", ()), ("axis: 2", (2, 3)), ("operation: MEAN", (2, 0))]
)
def test_what_cannot_be_reduced_is_refused(param, shape):
    text = 'layer {{ name: "r" type: "Reduction" bottom: "x" top: "y" reduction_param {{ {} }} }}'
    with pytest.raises(caffe.CaffeError, match="layer 'r'"):
        net_from_text(text.format(param), x=shape)

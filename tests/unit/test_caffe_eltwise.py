import numpy as np
import pytest
from caffe.gradient_check import gradient_errors, net_from_text

import caffe


def make(param, shapes=((2, 3),) * 3):
    names = "abc"[: len(shapes)]
    bottoms = "".join(f'bottom: "{name}" ' for name in names)
    net = net_from_text(
        f'layer {{ name: "e" type: "Eltwise" {bottoms} top: "y" eltwise_param {{ {param} }} }}',
        **dict(zip(names, shapes, strict=True)),
    )
    generator = np.random.default_rng(0)
    for name, shape in zip(names, shapes, strict=True):
        net.blobs[name].data[...] = generator.normal(size=shape)
    return net


OPERATIONS = {
    "": lambda a, b, c: a + b + c,
    "coeff: 1 coeff: -2 coeff: 0.5": lambda a, b, c: a - 2 * b + 0.5 * c,
    "operation: PROD": lambda a, b, c: a * b * c,
    "operation: MAX": lambda a, b, c: np.maximum(np.maximum(a, b), c),
}


@pytest.mark.parametrize("param", OPERATIONS)
def test_operations_and_their_gradients(param):
    net = make(param)
    values = [net.blobs[name].data for name in "abc"]
    np.testing.assert_allclose(net.forward()["y"], OPERATIONS[param](*values), rtol=1e-5)
    assert max(gradient_errors(net, step=1e-3).values()) < 1e-2


def test_of_equal_maxima_the_second_bottom_gets_the_gradient():
    net = make("operation: MAX")
    for name in "abc":
        net.blobs[name].data[...] = 1
    net.forward()
    net.backward(y=np.ones((2, 3), np.float32))
    assert [net.blobs[name].diff.sum() for name in "abc"] == [0, 6, 0]


def test_max_ignores_its_coefficients():
    net = make("operation: MAX coeff: 1 coeff: 9 coeff: 9")
    values = [net.blobs[name].data for name in "abc"]
    np.testing.assert_array_equal(net.forward()["y"], np.max(values, 0))


@pytest.mark.parametrize("stable", ["true", "false"])
def test_the_gradient_of_a_product_with_zeros(stable):
    net = make(f"operation: PROD stable_prod_grad: {stable}")
    for name, values in zip("abc", ([0, 2, 3], [4, 5, 0], [7, 8, 9]), strict=True):
        net.blobs[name].data[...] = values
    net.forward()
    net.backward(y=np.ones((2, 3), np.float32))
    zero = 28 if stable == "true" else np.nan  # y / x is 0 / 0
    np.testing.assert_allclose(net.blobs["a"].diff, [[zero, 40, 0]] * 2)


def test_in_place_a_sum_forgets_the_first_bottom_as_in_caffe():
    net = net_from_text(
        'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "a" }', a=(2,), b=(2,)
    )
    net.blobs["a"].data[...], net.blobs["b"].data[...] = [1, 2], [30, 40]
    assert net.forward()["a"].tolist() == [30, 40]


@pytest.mark.parametrize(
    ("param", "shapes"),
    [
        ("coeff: 1", ((2,), (2,))),
        ("operation: PROD coeff: 1 coeff: 2", ((2,), (2,))),
        ("", ((2,), (3,))),
    ],
)
def test_what_does_not_fit_is_refused(param, shapes):
    with pytest.raises(caffe.CaffeError, match="layer 'e'"):
        make(param, shapes)

import numpy as np
import pytest
from caffe.gradient_check import gradient_errors, net_from_text

import caffe


def make(text, **shapes):
    net = net_from_text(f'layer {{ name: "l" {text} }}', **shapes)
    for name, shape in shapes.items():
        net.blobs[name].data[...] = np.random.default_rng(0).normal(size=shape)
    return net


XY = 'bottom: "x" top: "y"'
SHAPES = {
    "": (2, 12),
    "axis: 0 end_axis: 1": (6, 4),
    "axis: -1": (2, 3, 4),
    "axis: 2 end_axis: 1": (2, 3, 1, 4),
}


@pytest.mark.parametrize("param", SHAPES)
def test_flatten(param):
    net = make(f'type: "Flatten" {XY} flatten_param {{ {param} }}', x=(2, 3, 4))
    assert net.blobs["y"].shape == SHAPES[param]
    assert gradient_errors(net)["x"] < 1e-2


RESHAPES = {
    "shape { dim: 0 dim: -1 }": (2, 12),
    "shape { dim: 2 dim: 2 } axis: 1 num_axes: 1": (2, 2, 2, 3),
    "shape { dim: 1 } axis: -1 num_axes: 0": (2, 4, 3, 1),
}


@pytest.mark.parametrize("param", RESHAPES)
def test_reshape(param):
    net = make(f'type: "Reshape" {XY} reshape_param {{ {param} }}', x=(2, 4, 3))
    assert net.blobs["y"].shape == RESHAPES[param]
    assert gradient_errors(net)["x"] < 1e-2


def test_flatten_and_split_copy_nothing():
    net = net_from_text(
        """layer { name: "f" type: "Flatten" bottom: "x" top: "f" }
        layer { name: "a" type: "TanH" bottom: "f" top: "a" }
        layer { name: "b" type: "TanH" bottom: "f" top: "b" }""",
        x=(2, 3, 1),
    )
    net.blobs["x"].data[...] = 4
    assert (net.blobs["f_f_0_split_1"].data == 4).all()
    net.blobs["x"].reshape(5, 3, 2)
    net.forward()
    net.blobs["x"].data[...] = 3
    assert (net.blobs["f_f_0_split_1"].data == 3).all()
    assert gradient_errors(net)["x"] < 1e-2


@pytest.mark.parametrize(
    "sharing",
    [
        'type: "Flatten"',
        'type: "Split"',
        'type: "Slice"',
        'type: "Concat"',
        'type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }',
    ],
)
def test_in_place_on_shared_memory_changes_the_owner(sharing):
    net = net_from_text(
        f"""layer {{ name: "o" type: "Power" bottom: "x" top: "o" }}
        layer {{ name: "s" bottom: "o" top: "s" {sharing} }}
        layer {{ name: "r" type: "ReLU" bottom: "s" top: "s" }}
        layer {{ name: "y" type: "InnerProduct" bottom: "s" top: "y"
          inner_product_param {{ num_output: 1 weight_filler {{ type: "constant" value: 1 }} }} }}
        layer {{ name: "z" type: "Power" bottom: "o" top: "z" }}""",
        x=(2, 3),
    )
    # Nobody but the layers looks at the blobs between: they may keep results as they like.
    for value, rectified in ((2, 2), (5, 5), (-1, 0)):
        outputs = net.forward(x=np.full((2, 3), value, np.float32))
        assert (outputs["y"] == 3 * rectified).all()
        assert (outputs["z"] == rectified).all()


def test_concat_joins_and_its_backward_cuts():
    net = make(
        'type: "Concat" bottom: "x" bottom: "z" top: "y" concat_param { axis: -1 }',
        x=(2, 1), z=(2, 3),
    )  # fmt: skip
    expected = np.concatenate([net.blobs["x"].data, net.blobs["z"].data], 1)
    np.testing.assert_array_equal(net.forward()["y"], expected)
    assert max(gradient_errors(net).values()) < 1e-2


@pytest.mark.parametrize(
    ("param", "sizes"), [("", [2, 2, 2]), ("slice_point: 1 slice_point: 3", [1, 2, 3])]
)
def test_slice_cuts_and_its_backward_joins(param, sizes):
    net = make(
        f'type: "Slice" bottom: "x" top: "a" top: "b" top: "c" slice_param {{ {param} }}', x=(2, 6)
    )
    assert [net.blobs[name].shape[1] for name in "abc"] == sizes
    outputs = net.forward()
    np.testing.assert_array_equal(
        np.concatenate([outputs[name] for name in "abc"], 1), net.blobs["x"].data
    )
    assert gradient_errors(net)["x"] < 1e-2


def test_silence_hides_an_output():
    net = make('type: "Silence" bottom: "x"', x=(2,))
    assert net.outputs == []
    net.blobs["x"].diff[...] = 1
    net.forward()
    net.backward()
    assert not net.blobs["x"].diff.any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "Flatten" bottom: "x" top: "x"', "in-place"),
        (f'type: "Flatten" {XY} flatten_param {{ axis: 2 end_axis: 0 }}', "behind"),
        ('type: "Reshape" bottom: "x" top: "x"', "in-place"),
        (f'type: "Reshape" {XY} reshape_param {{ shape {{ dim: -1 dim: -1 }} }}', "more than one"),
        (f'type: "Reshape" {XY} reshape_param {{ shape {{ dim: 5 }} }}', "not as many"),
        (f'type: "Reshape" {XY} reshape_param {{ shape {{ dim: 5 dim: -1 }} }}', "do not divide"),
        (f'type: "Reshape" {XY} reshape_param {{ axis: 9 }}', "axis 9"),
        (f'type: "Reshape" {XY} reshape_param {{ num_axes: 9 }}', "num_axes 9"),
        (f'type: "Reshape" {XY} reshape_param {{ num_axes: -2 }}', "at least -1"),
        (f'type: "Reshape" {XY} reshape_param {{ axis: 3 shape {{ dim: 0 }} }}', "does not have"),
        ('type: "Split" bottom: "x" top: "x"', "in-place"),
        ('type: "Slice" bottom: "x" top: "a" top: "b"', "do not divide"),
        ('type: "Slice" bottom: "x" top: "a" top: "b" slice_param { slice_point: 3 }', "rise"),
        ('type: "Slice" bottom: "x" top: "a" slice_param { slice_point: 1 }', "slice points"),
        ('type: "Slice" bottom: "x" top: "a" slice_param { axis: 1 slice_dim: 1 }', "not both"),
        ('type: "Concat" bottom: "x" bottom: "z" top: "y"', "differ"),
        ('type: "Concat" bottom: "x" top: "y" concat_param { axis: 1 concat_dim: 1 }', "not both"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(text, x=(2, 3, 4), z=(1, 3, 4))

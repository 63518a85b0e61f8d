import numpy as np
import pytest
import torch
from caffe.gradient_check import gradient_errors, net_from_text
from caffe.proto.caffe_pb2 import NetParameter
from caffe.prototxt import parse_text
from torch.nn import functional

import caffe

X = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)


def make(kind, param="", tops='top: "y"', **values):
    bottoms = "".join(f'bottom: "{name}" ' for name in values)
    net = net_from_text(
        f'layer {{ name: "l" type: "{kind}" {bottoms} {tops} {param} }}',
        **{name: value.shape for name, value in values.items()},
    )
    for name, value in values.items():
        net.blobs[name].data[...] = value
    return net


def test_crop_takes_the_second_bottoms_sizes():
    net = make("Crop", "crop_param { offset: 1 offset: 2 }", x=X, r=np.zeros((1, 1, 2, 3)))
    np.testing.assert_array_equal(net.forward()["y"], X[:, :, 1:3, 2:5])
    assert gradient_errors(net)["x"] < 1e-2


def test_crop_may_be_told_sizes_by_a_blob_of_more_axes():
    net = make("Crop", "crop_param { axis: -2 offset: 1 }", x=X, r=np.zeros((9, 9, 2, 3, 7)))
    np.testing.assert_array_equal(net.forward()["y"], X[:, :, 1:3, 1:4])


def test_tile_repeats_along_an_axis():
    net = make("Tile", "tile_param { axis: 1 tiles: 3 }", x=X)
    np.testing.assert_array_equal(net.forward()["y"], np.tile(X, (1, 3, 1, 1)))
    assert gradient_errors(net)["x"] < 1e-2


def test_filter_keeps_the_selected_rows_and_reshapes_what_follows():
    net = net_from_text(
        """layer { name: "f" type: "Filter" bottom: "x" bottom: "s" top: "f" }
        layer { name: "t" type: "TanH" bottom: "f" top: "y" }""",
        x=(3, 2), s=(3,),
    )  # fmt: skip
    net.blobs["x"].data[...] = X[:, 0, 0, :2]
    for selector in ([1, 0, 1], [0, -1, 0], [0, 0, 0], [1, 0.5, 1]):
        net.blobs["s"].data[...] = selector
        rows = np.flatnonzero(selector)
        np.testing.assert_allclose(net.forward()["y"], np.tanh(X[rows, 0, 0, :2]), rtol=1e-5)
    net.blobs["s"].data[...] = [0, 0, 1]
    net.reshape()
    assert net.blobs["y"].shape == (1, 2)


def test_filter_scatters_gradients_to_the_selected_rows():
    net = net_from_text(
        """layer { name: "b" type: "Bias" bottom: "x" top: "b" bias_param { axis: 0 num_axes: -1 } }
        layer { name: "f" type: "Filter" bottom: "b" bottom: "s" top: "y" loss_weight: 1 }""",
        x=(3, 2), s=(3,), force_backward=False,
    )  # fmt: skip
    net.blobs["s"].data[...] = [1, 0, 1]
    net.forward()
    net.backward(y=np.full((2, 2), 2, np.float32))
    assert net.params["b"][0].diff.tolist() == [[2, 2], [0, 0], [2, 2]]


def test_filter_gives_its_selector_no_gradient():
    net = make("Filter", x=X, s=np.ones(3, np.float32))
    net.forward()
    with pytest.raises(caffe.CaffeError, match="selector"):
        net.backward()


def test_batch_reindex_gathers_rows():
    net = net_from_text(
        'layer { name: "b" type: "BatchReindex" bottom: "x" bottom: "i" top: "y" }',
        x=(3, 2), i=(4,),
    )  # fmt: skip
    net.blobs["i"].data[...] = [2, 0, 2, 1]
    net.blobs["x"].data[...] = X[:, 0, 0, :2]
    np.testing.assert_array_equal(net.forward()["y"], X[[2, 0, 2, 1], 0, 0, :2])


def test_embed_looks_rows_up():
    net = make(
        "Embed", "embed_param { num_output: 2 input_dim: 3 }", x=np.array([2, 0], np.float32)
    )
    weight, bias = net.params["l"]
    weight.data[...] = np.arange(6).reshape(3, 2)
    bias.data[...] = 10
    assert net.forward()["y"].tolist() == [[14, 15], [10, 11]]


def test_embed_learns():
    net = caffe.Net(
        parse_text(
            """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }
            layer { name: "e" type: "Embed" bottom: "x" top: "y" loss_weight: 1
              embed_param { num_output: 2 input_dim: 3 } }""",
            NetParameter(),
        ),
        caffe.TRAIN,
    )
    net.blobs["x"].data[...] = [2, 2]
    net.forward()
    net.backward(y=np.ones((2, 2), np.float32))
    assert net.params["e"][0].diff.tolist() == [[0, 0], [0, 0], [2, 2]]
    assert net.params["e"][1].diff.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("", [[[1]], [[2]]]),
        ("top_k: 2", [[[1, 0]], [[2, 1]]]),
        ("out_max_val: true", [[[1], [5]], [[2], [7]]]),
        ("axis: 1", [[1], [2]]),
        ("axis: 1 top_k: 2 out_max_val: true", [[5, 5], [7, 7]]),
        ("axis: 0 top_k: 2", [[0, 1, 1], [1, 0, 0]]),
        ("top_k: 2 out_max_val: true", [[[1, 0], [5, 5]], [[2, 1], [7, 7]]]),
    ],
)
def test_argmax_prefers_the_last_of_equal_values(param, expected):
    x = np.array([[5, 5, 1], [0, 7, 7]], np.float32)
    net = make("ArgMax", f"argmax_param {{ {param} }}", x=x)
    assert net.forward()["y"].tolist() == expected


def test_argmax_of_numbers_takes_each_for_itself():
    net = make("ArgMax", x=np.ones(3, np.float32))
    assert net.forward()["y"].tolist() == [[[0]]] * 3


@pytest.mark.parametrize(
    ("kind", "param"),
    [
        ("Tile", "tile_param { tiles: 2 }"),
        ("Embed", "embed_param { num_output: 1 input_dim: 1 }"),
        ("ArgMax", ""),
    ],
)
def test_what_gives_another_shape_cannot_be_computed_in_place(kind, param):
    with pytest.raises(caffe.CaffeError, match="in place"):
        make(kind, param, tops='top: "x"', x=X)


def test_filter_cannot_be_computed_in_place():
    with pytest.raises(caffe.CaffeError, match="in place"):
        make("Filter", tops='top: "x"', x=X, s=X[:, 0, 0, 0])


def test_im2col_is_pytorchs_unfold():
    net = make("Im2col", "convolution_param { kernel_size: 2 stride: 2 pad: 1 }", x=X)
    y = net.forward()["y"]
    expected = functional.unfold(torch.from_numpy(X), 2, padding=1, stride=2)
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)
    assert gradient_errors(net)["x"] < 1e-2


@pytest.mark.parametrize(
    ("kind", "param", "values", "message"),
    [
        ("Crop", "crop_param { offset: 3 }", {"x": X, "r": X}, "do not fit"),
        ("Crop", "crop_param { offset: [1, 2, 3] }", {"x": X, "r": X}, "0, 1 or 2 times"),
        ("Crop", "crop_param { axis: -2 offset: [1, 2, 3] }", {"x": X, "r": X}, "0, 1 or 2 times"),
        ("Crop", "", {"x": X, "r": X[0]}, "must have 4 axes"),
        ("Tile", "", {"x": X}, "positive"),
        ("Filter", "", {"x": X, "s": X[:, 0]}, "not a column"),
        ("Filter", "", {"x": X, "s": X[:2, 0, 0, 0]}, "as many rows"),
        ("BatchReindex", "", {"x": X, "i": X}, "one axis"),
        ("BatchReindex", "", {"x": X, "i": np.full(2, 9, np.float32)}, "outside"),
        ("Embed", "", {"x": X}, "positive"),
        ("Embed", "embed_param { num_output: 1 input_dim: 2 }", {"x": X * 0 + 2}, "outside"),
        ("BatchReindex", "", {"x": X.sum(), "i": np.ones(2, np.float32)}, "axis 0"),
        ("ArgMax", "argmax_param { top_k: 99 }", {"x": X}, "top_k"),
        ("Im2col", "convolution_param { kernel_size: 1 axis: -1 }", {"x": X}, "spatial axes"),
        ("ArgMax", "", {"x": X.sum()}, "axis 0"),
    ],
)
def test_what_does_not_fit_is_refused(kind, param, values, message):
    with pytest.raises(caffe.CaffeError, match=message):
        make(kind, param, **values).forward()

import numpy as np
import pytest
from caffe.gradient_check import gradient_errors, net_from_text

import caffe

MEMORY = """layer { name: "d" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }"""


def floats(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_one_shape_serves_every_input():
    net = net_from_text(
        'layer { name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 } } }'
    )
    assert [net.blobs[name].shape for name in net.inputs] == [(2,), (2,)]


def test_dummy_data_fills_constants_once_and_draws_the_rest():
    net = net_from_text(
        """layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param {
        shape { dim: 3 } data_filler { value: 2 } data_filler { type: "uniform" } } }"""
    )
    net.blobs["a"].data[0] = 5
    assert not net.blobs["b"].data.any()  # drawn by forward only
    first = net.forward()["b"].copy()
    assert net.blobs["a"].data.tolist() == [5, 2, 2]
    assert (net.forward()["b"] != first).any()


def test_dummy_data_takes_old_dimensions():
    net = net_from_text(
        """layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param {
        num: 1 num: 2 channels: 3 height: 4 width: 5 } }"""
    )
    assert [blob.shape for blob in net.blobs.values()] == [(1, 3, 4, 5), (2, 3, 4, 5)]


@pytest.mark.parametrize(
    "param",
    [
        "",
        "shape { dim: 1 } shape { dim: 2 } shape { dim: 3 }",
        "shape { dim: 1 } num: 3",
        "shape { dim: 1 } data_filler {} data_filler {} data_filler {}",
        "shape { dim: 0 }",
        "shape { dim: -1 }",
        "shape { dim: 1 } data_filler { type: 'nope' }",
    ],
)
def test_dummy_data_refuses_other_numbers_of_settings(param):
    with pytest.raises(caffe.CaffeError, match="layer 'd'"):
        net_from_text(
            'layer { name: "d" type: "DummyData" top: "a" top: "b" '
            f"dummy_data_param {{ {param} }} }}"
        )


def test_memory_data_goes_round():
    net = net_from_text(MEMORY)
    data = floats(4, 1, 1, 3)
    net.set_input_arrays(data, floats(4))
    seen = [net.forward()["label"].ravel().tolist() for _ in range(3)]
    assert seen == [[0, 1], [2, 3], [0, 1]]
    np.testing.assert_array_equal(net.blobs["data"].data, data[:2])


def test_memory_data_takes_arrays_that_cannot_be_written():
    net = net_from_text(MEMORY)
    data, labels = floats(2, 1, 1, 3), floats(2)
    data.flags.writeable = labels.flags.writeable = False
    net.set_input_arrays(data, labels)
    np.testing.assert_array_equal(net.forward()["data"], data)


def test_memory_data_without_arrays_says_so():
    with pytest.raises(caffe.CaffeError, match="set_input_arrays"):
        net_from_text(MEMORY).forward()


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (np.ones((2, 1, 1, 3)), floats(2), "data array must be float32"),
        (floats(2, 1, 1, 3), np.ones(2), "labels array must be float32"),
        (floats(3, 1, 1, 3), floats(3), "multiple of batch size"),
        (floats(4, 1, 1, 3)[::2], floats(2), "C contiguous"),
        (floats(2, 2, 1, 3), floats(2), "data array has wrong number of channels: 2, not 1"),
        (floats(2, 1, 2, 3), floats(2), "data array has wrong height"),
        (floats(2, 1, 1, 2), floats(2), "data array has wrong width"),
        (floats(2, 3), floats(2), "data array must be 4-d"),
        (floats(2, 1, 1, 3), floats(2, 1), "labels array must be 4-d"),
        (floats(2, 1, 1, 3), floats(4), "same first dimension"),
        (floats(2, 1, 1, 3), floats(2, 2, 1, 1), "labels array has wrong number of channels"),
        ([[[[1]]]], floats(1), "data array must be C contiguous"),
    ],
)
def test_memory_data_refuses_unfit_arrays(data, labels, message):
    with pytest.raises(RuntimeError, match=message):
        net_from_text(MEMORY).set_input_arrays(data, labels)


def test_memory_data_needs_its_sizes():
    with pytest.raises(caffe.CaffeError, match="must be positive"):
        net_from_text('layer { name: "d" type: "MemoryData" top: "a" top: "b" }')


def test_a_parameter_is_a_blob():
    net = net_from_text(
        """layer { name: "p" type: "Parameter" top: "w" parameter_param { shape { dim: 2 } } }
        layer { name: "e" type: "Eltwise" bottom: "x" bottom: "w" top: "y"
          eltwise_param { operation: PROD } }""",
        x=(2,),
    )
    net.params["p"][0].data[...] = [2, 3]
    net.blobs["x"].data[...] = [5, 7]
    assert net.forward()["y"].tolist() == [10, 21]
    assert max(gradient_errors(net).values()) < 1e-2

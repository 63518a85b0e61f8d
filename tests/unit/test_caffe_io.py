import numpy as np
import pytest
from caffe.errors import CaffeError
from caffe.proto.caffe_pb2 import BlobProto
from numpy.testing import assert_array_equal

from caffe import io


def test_arrays_survive_blobprotos():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    blob = io.array_to_blobproto(array, -array)
    assert_array_equal(io.blobproto_to_array(blob), array)
    assert_array_equal(io.blobproto_to_array(blob, return_diff=True), -array)


def test_old_shapes_and_doubles_are_read():
    blob = BlobProto(double_data=[1, 2], num=1, channels=2, height=1, width=1)
    assert io.blobproto_to_array(blob).shape == (1, 2, 1, 1)


def test_lists_of_arrays_survive():
    arrays = [np.ones((2, 2), np.float32), np.zeros(3, np.float32)]
    back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(arrays))
    for one, other in zip(back, arrays, strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_arrays_survive_datums(dtype):
    array = np.arange(12, dtype=dtype).reshape(3, 2, 2)
    datum = io.array_to_datum(array, label=4)
    assert datum.label == 4
    assert_array_equal(io.datum_to_array(datum), array)


def test_a_datum_has_three_axes():
    with pytest.raises(CaffeError, match="three axes"):
        io.array_to_datum(np.ones((2, 2)))


@pytest.fixture
def transformer():
    transformer = io.Transformer({"data": (1, 3, 2, 4)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([1.0, 2.0, 3.0]))
    transformer.set_input_scale("data", 0.5)
    return transformer


def test_preprocess_and_deprocess_are_inverse(transformer):
    image = np.random.default_rng(0).random((2, 4, 3)).astype(np.float32)
    values = transformer.preprocess("data", image)
    assert values.shape == (3, 2, 4)
    assert values[0, 0, 0] == pytest.approx((image[0, 0, 2] * 255 - 1) / 2, rel=1e-5)
    np.testing.assert_allclose(transformer.deprocess("data", values), image, rtol=1e-4)


def test_a_mean_image_is_taken(transformer):
    transformer.set_mean("data", np.ones((3, 2, 4)))
    assert transformer.mean["data"].shape == (3, 2, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.preprocess("nope", np.ones((2, 4, 3))),
        lambda t: t.preprocess("data", np.ones((3, 4, 3))),
        lambda t: t.set_transpose("data", (0, 1)),
        lambda t: t.set_channel_swap("data", (0, 1)),
        lambda t: t.set_mean("data", np.ones(2)),
        lambda t: t.set_mean("data", np.ones((3, 9, 9))),
    ],
)
def test_what_does_not_fit_is_refused(transformer, call):
    with pytest.raises(CaffeError):
        call(transformer)

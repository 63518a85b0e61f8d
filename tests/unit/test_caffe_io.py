import sys

import numpy as np
import pytest
from caffe.errors import CaffeError, CaffeFileError
from caffe.proto.caffe_pb2 import BlobProto, Datum
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import caffe
from caffe import io


def nearest(image, size, order=1, mode="constant"):
    """Stand in for scikit-image's resize."""
    assert (order, mode) == (1, "constant")
    assert image.min() >= 0
    assert image.max() <= 1
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, image.shape, strict=False))
    return image[rows][:, columns]


def test_arrays_survive_blobprotos():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    blob = io.array_to_blobproto(array, -array)
    assert_array_equal(io.blobproto_to_array(blob), array)
    assert io.blobproto_to_array(blob).dtype == np.float64  # as in pycaffe
    assert_array_equal(io.blobproto_to_array(blob, return_diff=True), -array)


def test_old_shapes_and_doubles_are_read():
    blob = BlobProto(double_data=[1, 2], num=1, channels=2, height=1, width=1)
    assert io.blobproto_to_array(blob).shape == (1, 2, 1, 1)


def test_a_blobproto_without_a_shape_holds_one_value():
    assert io.blobproto_to_array(BlobProto(data=[123])) == 123
    with pytest.raises(CaffeError, match="holds 2 values, but its shape is"):
        io.blobproto_to_array(BlobProto(data=[1, 2]))


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


def test_what_is_no_datum_is_refused():
    with pytest.raises(CaffeError, match="three axes"):
        io.array_to_datum(np.ones((2, 2)))
    with pytest.raises(CaffeError, match="label"):
        io.array_to_datum(np.ones((1, 1, 1)), label="cat")
    with pytest.raises(CaffeError, match="encoded"):
        io.datum_to_array(Datum(encoded=True, data=b"jpeg"))
    with pytest.raises(CaffeError, match="holds 2 values"):
        io.datum_to_array(Datum(channels=3, height=1, width=1, data=b"ab"))
    with pytest.raises(CaffeError, match="BlobProtoVector"):
        io.blobprotovector_str_to_arraylist(b"\xff")


def test_a_label_that_is_not_given_takes_no_room():
    array = np.ones((2, 2, 1))
    assert not io.array_to_datum(array).HasField("label")
    assert io.array_to_datum(array, label=0).HasField("label")


def test_the_array_of_a_datum_can_be_written():
    io.datum_to_array(io.array_to_datum(np.ones((1, 1, 2), np.uint8)))[...] = 2


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


def test_an_image_is_left_as_it_was(transformer):
    image = np.ones((2, 4, 3), np.float32)
    transformer.preprocess("data", image)
    assert (image == 1).all()


def test_deprocess_takes_a_batch_of_one(transformer):
    values = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    assert_array_equal(
        transformer.deprocess("data", values), transformer.deprocess("data", values[0])
    )
    with pytest.raises(CaffeError, match="image"):
        transformer.deprocess("data", np.ones((2, 3, 2, 4)))


def test_one_channel_survives():
    transformer = io.Transformer({"x": (1, 1, 2, 3)})
    transformer.set_transpose("x", (2, 0, 1))
    image = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    values = transformer.preprocess("x", image)
    assert values.shape == (1, 2, 3)
    assert_array_equal(transformer.deprocess("x", values[np.newaxis]), image)


def test_mean_images_are_taken_and_fitted(transformer, monkeypatch):
    mean = np.arange(24.0).reshape(3, 2, 4)
    transformer.set_mean("data", mean)
    assert_array_equal(transformer.mean["data"], mean)
    transformer.set_mean("data", mean[0])
    assert transformer.mean["data"].shape == (1, 2, 4)
    monkeypatch.setattr(io, "resize", nearest)
    transformer.set_mean("data", np.repeat(np.repeat(mean, 2, axis=1), 3, axis=2))
    assert_allclose(transformer.mean["data"], mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.preprocess("nope", np.ones((2, 4, 3))), "nope is not one of"),
        (lambda t: t.preprocess("data", np.ones((2, 4))), "the image has 2 axes"),
        (lambda t: t.preprocess("data", np.ones((2, 4, 2))), "needs more than 2 channels"),
        (lambda t: t.preprocess("data", np.ones(4)), r"only \[H, W, C\] is resized"),
        (lambda t: t.set_transpose("data", (0, 1)), "order of axes"),
        (lambda t: t.set_transpose("data", (0, 0, 1)), "order of axes"),
        (lambda t: t.set_channel_swap("data", (0, 1)), "as many channels"),
        (lambda t: t.set_channel_swap("data", (0, 1, 3)), "as many channels"),
        (lambda t: t.set_mean("data", np.ones(2)), "as many channels"),
        (lambda t: t.set_mean("data", np.ones((2, 9, 9))), "does not fit"),
        (lambda t: t.set_raw_scale("nope", 1), "nope"),
        (lambda t: t.set_input_scale("nope", 1), "nope"),
    ],
)
def test_what_does_not_fit_is_refused(transformer, call, message):
    with pytest.raises(CaffeError, match=message):
        call(transformer)


def test_a_mean_of_another_shape_than_the_values_is_refused():
    transformer = io.Transformer({"x": (1, 3, 2, 2)})
    transformer.set_mean("x", np.ones((3, 2, 2)))
    with pytest.raises(CaffeError, match="the mean"):
        transformer.preprocess("x", np.ones((2, 2, 3)))  # not transposed


def test_images_of_another_size_are_resized(transformer, monkeypatch):
    monkeypatch.setattr(io, "resize", nearest)
    image = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32) * 9
    large = np.repeat(image, 2, axis=0)
    assert_allclose(
        transformer.preprocess("data", large), transformer.preprocess("data", image), rtol=1e-4
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.floats(-10, 10, width=32))
def test_a_constant_image_stays_constant_at_any_size(rows, columns, channels, value):
    image = np.full((3, 3, channels), value, np.float32)
    if channels in (1, 3) or (rows, columns) == (3, 3):
        resized = io.resize_image(image, (rows, columns))
        assert resized.shape == (rows, columns, channels)
        assert (resized == np.float32(value)).all()


def test_other_numbers_of_channels_are_zoomed(monkeypatch):
    def zoom(image, factors, order):
        assert (factors, order) == ((2, 0.5, 1), 1)
        return image.repeat(2, axis=0)[:, ::2]

    monkeypatch.setattr(io, "zoom", zoom)
    image = np.arange(12).reshape(2, 2, 3)[:, :, :2]
    assert io.resize_image(image, (4, 1)).shape == (4, 1, 2)


@pytest.mark.parametrize(("shape", "size"), [((2, 2), (1, 1)), ((2, 2, 3), (0, 1))])
def test_what_is_no_image_is_not_resized(shape, size):
    with pytest.raises(CaffeError, match="an image"):
        io.resize_image(np.ones(shape), size)


def test_the_ten_crops_are_the_corners_the_centre_and_their_mirrors():
    image = np.arange(5 * 6, dtype=np.float32).reshape(5, 6, 1)
    crops = io.oversample([image, -image], (2, 3))
    assert crops.shape == (20, 2, 3, 1)
    corners = [image[:2, :3], image[:2, 3:], image[3:, :3], image[3:, 3:], image[1:3, 1:4]]
    assert_array_equal(crops[:5], corners)
    assert_array_equal(crops[5:10], np.array(corners)[:, :, ::-1])
    assert_array_equal(crops[10:], -crops[:10])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "one shape"),
        ([np.ones((2, 2, 1)), np.ones((3, 2, 1))], "one shape"),
        ([np.ones((2, 2))], "one shape"),
        ([np.ones((1, 2, 1))], "larger than the image"),
    ],
)
def test_what_cannot_be_cropped_is_refused(images, message):
    with pytest.raises(CaffeError, match=message):
        io.oversample(images, (2, 2))


@pytest.fixture
def _no_scikit_image(monkeypatch):
    for name in ("skimage", "skimage.transform", "scipy.ndimage"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("_no_scikit_image")
@pytest.mark.parametrize(
    "call",
    [
        lambda: io.load_image("cat.jpg"),
        lambda: io.resize_image(np.arange(3.0).reshape(1, 1, 3), (2, 2)),
        lambda: io.resize_image(np.arange(2.0).reshape(1, 1, 2), (2, 2)),
        lambda: io.skimage.io,
    ],
)
def test_without_scikit_image_one_line_says_what_to_install(call):
    with pytest.raises(CaffeError, match="pip install scikit-image") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_names_that_users_find_in_the_module_import_nothing():
    assert "skimage" not in sys.modules
    assert not hasattr(io.skimage, "_repr_html_")
    assert callable(io.resize)
    assert callable(io.zoom)
    assert io.caffe_pb2 is caffe.proto.caffe_pb2
    assert "skimage" not in sys.modules


def test_images_are_read_and_resized_by_scikit_image(tmp_path):
    skimage_io = pytest.importorskip("skimage.io", reason="scikit-image is not installed")
    path = str(tmp_path / "image.png")
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, 3:, 0], pixels[..., 3] = 255, 128
    skimage_io.imsave(path, pixels, check_contrast=False)
    image = io.load_image(path)
    assert (image.shape, image.dtype) == ((4, 6, 3), np.float32)
    assert_array_equal(image[..., 0], pixels[..., 0] / 255)
    assert io.load_image(path, color=False).shape == (4, 6, 1)
    small = io.resize_image(image, (2, 3))
    assert (small.shape, small.dtype) == ((2, 3, 3), np.float32)
    assert_allclose(small[:, 0, 0], 0, atol=0.2)
    assert io.resize_image(np.arange(16.0).reshape(2, 4, 2), (4, 2)).shape == (4, 2, 2)
    with pytest.raises(CaffeFileError, match="Could not open"):
        io.load_image(str(tmp_path / "nope.png"))

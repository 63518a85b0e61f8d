"""Arrays to and from Caffe's messages, and preparing images for a net; no PyTorch.

Reading and resizing images takes scikit-image, which is imported when first used.
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from caffe.errors import CaffeError, CaffeFileError, require
from caffe.proto import caffe_pb2
from caffe.wire import set_floats

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Array = NDArray[Any]

_LEGACY = ("num", "channels", "height", "width")


class _Lazy:
    """A module of scikit-image or SciPy, or a function of one, imported when first used."""

    def __init__(self, module: str, name: str = "") -> None:
        self._module = module
        self._name = name

    def _get(self) -> Any:
        try:
            module = importlib.import_module(self._module)
        except ImportError as error:
            raise CaffeError(
                f"images are read and resized by scikit-image: pip install scikit-image ({error})"
            ) from None
        return getattr(module, self._name) if self._name else module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python asks of any object is no reason to import
            raise AttributeError(name)
        return getattr(self._get(), name)


# Names that users find in pycaffe's module.
skimage = _Lazy("skimage")
resize = _Lazy("skimage.transform", "resize")
zoom = _Lazy("scipy.ndimage", "zoom")


# -- messages -----------------------------------------------------------------------------------


def _shaped(array: Array, shape: Sequence[int], what: str) -> Array:
    require(
        array.size == math.prod(shape) and min(shape, default=0) >= 0,
        f"the {what} holds {array.size} values, but its shape is {list(shape)}",
    )
    return array.reshape(shape)


def blobproto_to_array(
    blob: caffe_pb2.BlobProto,
    return_diff: bool = False,  # noqa: FBT001, FBT002  # as in pycaffe
) -> NDArray[np.float64]:
    """Return the values, or the gradient, of a message as an array of its shape.

    Raises:
        CaffeError: If the values are not as many as the shape says.
    """
    values = blob.diff if return_diff else blob.data
    if not values:
        values = blob.double_diff if return_diff else blob.double_data
    legacy = any(blob.HasField(name) for name in _LEGACY)
    shape = [getattr(blob, name) for name in _LEGACY] if legacy else blob.shape.dim
    return _shaped(np.array(values, np.float64), tuple(shape), "BlobProto")


def array_to_blobproto(arr: Array, diff: Array | None = None) -> caffe_pb2.BlobProto:
    """Return a message that holds the array, and perhaps a gradient."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    set_floats(blob, "data", arr)
    if diff is not None:
        set_floats(blob, "diff", diff)
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[Array]) -> bytes:
    """Return the arrays as a serialised BlobProtoVector."""
    blobs = [array_to_blobproto(array) for array in arraylist]
    return caffe_pb2.BlobProtoVector(blobs=blobs).SerializeToString()


def blobprotovector_str_to_arraylist(content: bytes) -> list[NDArray[np.float64]]:
    """Return the arrays of a serialised BlobProtoVector.

    Raises:
        CaffeError: If it is none.
    """
    try:
        vector = caffe_pb2.BlobProtoVector.FromString(content)
    except DecodeError as error:
        raise CaffeError(f"this is no serialised BlobProtoVector: {error}") from None
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: Array, label: int | None = None) -> caffe_pb2.Datum:
    """Return a Datum of an array [channels, height, width]; uint8 is kept as bytes.

    Raises:
        CaffeError: If the array has not three axes, or the label is no integer.
    """
    require(arr.ndim == 3, f"a Datum has three axes, the array has {arr.ndim}")
    channels, height, width = arr.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel())
    if label is not None:
        try:
            datum.label = label
        except (TypeError, ValueError):
            raise CaffeError(f"a Datum's label is an int32, not {label!r}") from None
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> Array:
    """Return the array [channels, height, width] of a Datum; its label is not in it.

    Raises:
        CaffeError: If the values are not as many as the shape says.
    """
    require(not datum.encoded, "the Datum holds an encoded image: decode its `data` first")
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        return _shaped(np.frombuffer(datum.data, np.uint8).copy(), shape, "Datum")
    return _shaped(np.array(datum.float_data, float), shape, "Datum")


# -- images -------------------------------------------------------------------------------------


class Transformer:
    """Turns images [H, W, C] into what a net's inputs want, and back.

    In this order: resize, transpose, swap channels, raw scale, subtract the mean, input scale.
    `inputs` are the shapes of the net's inputs, by name.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def __check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise CaffeError(f"{in_} is not one of the net inputs: {list(self.inputs)}")

    def preprocess(self, in_: str, data: Array) -> Floats:
        """Return a copy of an image [H, W, C] as the input wants it.

        Raises:
            CaffeError: If there is no such input, or the settings do not fit the image.
        """
        self.__check_input(in_)
        array = np.array(data, np.float32)
        size = tuple(self.inputs[in_][2:])
        if array.shape[:2] != size:
            require(
                (array.ndim, len(size)) == (3, 2),
                f"the image has the shape {list(array.shape)}, input '{in_}' "
                f"{list(self.inputs[in_])}: only [H, W, C] is resized, and only to [N, C, H, W]",
            )
            array = resize_image(array, size)
        if in_ in self.transpose:
            order = self.transpose[in_]
            require(array.ndim == len(order), f"the image has {array.ndim} axes, not {len(order)}")
            array = array.transpose(order)
        if in_ in self.channel_swap:
            array = array[self.__swap(in_, len(array))]
        if in_ in self.raw_scale:
            array *= self.raw_scale[in_]
        if in_ in self.mean:
            self.__check_mean(in_, array)
            array -= self.mean[in_]
        if in_ in self.input_scale:
            array *= self.input_scale[in_]
        return array

    def deprocess(self, in_: str, data: Array) -> Floats:
        """Return an input's values, of one image, as an image [H, W, C]: `preprocess` backwards.

        Raises:
            CaffeError: If there is no such input, or the settings do not fit the values.
        """
        self.__check_input(in_)
        array = np.array(data, np.float32)
        # Without an order of axes there is nothing to tell a batch of one from one channel.
        image = array.shape[-len(self.transpose[in_]) :] if in_ in self.transpose else ()
        array = _shaped(array, image, "image") if image else array.squeeze()
        if in_ in self.input_scale:
            array /= self.input_scale[in_]
        if in_ in self.mean:
            self.__check_mean(in_, array)
            array += self.mean[in_]
        if in_ in self.raw_scale:
            array /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            array = array[np.argsort(self.__swap(in_, len(array)))]
        if in_ in self.transpose:
            array = array.transpose(np.argsort(self.transpose[in_]))
        return array

    def __swap(self, in_: str, channels: int) -> list[int]:
        order = list(self.channel_swap[in_])
        require(
            max(order) < channels, f"the channel swap {order} needs more than {channels} channels"
        )
        return order

    def __check_mean(self, in_: str, array: Array) -> None:
        shape = self.mean[in_].shape
        require(
            array.ndim >= len(shape)
            and all(
                mine in (1, theirs)
                for mine, theirs in zip(shape[::-1], array.shape[::-1], strict=False)
            ),
            f"the mean, {list(shape)}, does not fit values of the shape {list(array.shape)}",
        )

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of axes, (2, 0, 1) for [C, H, W]."""
        self.__check_input(in_)
        axes = len(self.inputs[in_]) - 1
        require(
            sorted(order) == list(range(axes)),
            f"the order of axes is one of 0 to {axes - 1} for input '{in_}', not {order}",
        )
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of channels, the first axis by then: (2, 1, 0) for RGB to BGR."""
        self.__check_input(in_)
        channels = self.inputs[in_][1]
        require(
            len(order) == channels and all(0 <= channel < channels for channel in order),
            f"a channel swap needs as many channels as input '{in_}', {channels}, not {order}",
        )
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set the factor before the mean is subtracted."""
        self.__check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Array) -> None:
        """Set the mean: a value for each channel, or [C, H, W], resized to the input's H and W."""
        self.__check_input(in_)
        mean, shape = np.asarray(mean), tuple(self.inputs[in_][1:])
        if mean.ndim == 1:
            require(
                len(mean) == shape[0], f"the mean needs as many channels as input '{in_}', {shape}"
            )
            self.mean[in_] = mean[:, np.newaxis, np.newaxis]
            return
        if mean.ndim == 2:
            mean = mean[np.newaxis]
        require(
            mean.ndim == len(shape) == 3 and mean.shape[0] in (1, shape[0]),
            f"a mean of the shape {list(mean.shape)} does not fit input '{in_}', {list(shape)}",
        )
        if mean.shape[1:] != shape[1:]:
            mean = resize_image(mean.transpose(1, 2, 0), shape[1:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set the factor after the mean is subtracted."""
        self.__check_input(in_)
        self.input_scale[in_] = scale


def load_image(
    filename: str | os.PathLike[str],
    color: bool = True,  # noqa: FBT001, FBT002  # as in pycaffe
) -> Floats:
    """Return an image file's values, in [0, 1]: [H, W, 3], or [H, W, 1] if not in colour.

    Raises:
        CaffeError: If the file cannot be read, or scikit-image is not installed.
    """
    read, to_float = skimage.io.imread, skimage.util.img_as_float
    try:
        image = to_float(read(filename, as_gray=not color)).astype(np.float32)
    except Exception as error:  # noqa: BLE001  # every image plugin has errors of its own
        raise CaffeFileError(filename, error) from None
    if image.ndim == 2:
        return np.tile(image[:, :, np.newaxis], (1, 1, 3 if color else 1))
    colors: Floats = image[:, :, :3]  # without the opacity
    return colors


def resize_image(im: Array, new_dims: Sequence[int], interp_order: int = 1) -> Floats:
    """Return an image [H, W, C] of another height and width, interpolated (1 is linearly).

    Raises:
        CaffeError: If scikit-image is not installed.
    """
    height, width = (int(dim) for dim in new_dims)
    require(im.ndim == 3 and im.size, f"an image has the shape [H, W, C], not {list(im.shape)}")
    require(min(height, width) > 0, f"an image cannot have the size {height} × {width}")
    least, most = im.min(), im.max()
    if im.shape[:2] == (height, width):
        return im.astype(np.float32)
    if im.shape[2] not in (1, 3):
        factors = (height / im.shape[0], width / im.shape[1], 1)
        return np.asarray(zoom(im, factors, order=interp_order), np.float32)
    if least == most:
        return np.full((height, width, im.shape[2]), least, np.float32)
    # scikit-image takes values in [0, 1] only.
    scaled = resize((im - least) / (most - least), (height, width), order=interp_order,
                    mode="constant")  # fmt: skip
    return np.asarray(scaled * (most - least) + least, np.float32)


def oversample(images: Sequence[Array], crop_dims: Sequence[int]) -> Floats:
    """Return ten crops of each image [H, W, C]: the four corners, the centre, all mirrored.

    Raises:
        CaffeError: If there are no images, or of several sizes, or smaller than the crops.
    """
    shapes = {image.shape for image in images}
    require(
        len(shapes) == 1 and len(images[0].shape) == 3,
        f"images to crop have one shape, [H, W, C]; these have {sorted(map(list, shapes))}",
    )
    height, width, channels = images[0].shape
    rows, columns = (int(dim) for dim in crop_dims)
    require(
        rows <= height and columns <= width,
        f"a crop of {rows} × {columns} is larger than the image, {height} × {width}",
    )
    bottom, right = height - rows, width - columns
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = np.empty((len(images), 2, len(corners), rows, columns, channels), np.float32)
    for image, taken in zip(images, crops, strict=True):
        for place, (top, left) in enumerate(corners):
            taken[0, place] = image[top : top + rows, left : left + columns]
        taken[1] = taken[0, :, :, ::-1]
    return crops.reshape(-1, rows, columns, channels)

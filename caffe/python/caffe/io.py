"""Arrays to and from Caffe's messages, and preparing images for a net; no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from caffe.errors import CaffeError
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_LEGACY = ("num", "channels", "height", "width")


def blobproto_to_array(
    blob: caffe_pb2.BlobProto,
    return_diff: bool = False,  # noqa: FBT001, FBT002  # as in pycaffe
) -> NDArray[Any]:
    """Return the values, or the gradient, of a message as an array of its shape."""
    values = blob.diff if return_diff else blob.data
    if not values:
        values = blob.double_diff if return_diff else blob.double_data
    array = np.array(values, np.float64 if values and not (blob.data or blob.diff) else np.float32)
    if any(blob.HasField(name) for name in _LEGACY):
        return array.reshape([getattr(blob, name) for name in _LEGACY])
    return array.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: NDArray[Any], diff: NDArray[Any] | None = None) -> caffe_pb2.BlobProto:
    """Return a message that holds the array, and perhaps a gradient."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(np.float32, copy=False).ravel())
    if diff is not None:
        blob.diff.extend(diff.astype(np.float32, copy=False).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[NDArray[Any]]) -> bytes:
    """Return the arrays as a serialised BlobProtoVector."""
    blobs = [array_to_blobproto(array) for array in arraylist]
    return caffe_pb2.BlobProtoVector(blobs=blobs).SerializeToString()


def blobprotovector_str_to_arraylist(content: bytes) -> list[NDArray[Any]]:
    """Return the arrays of a serialised BlobProtoVector."""
    return [
        blobproto_to_array(blob) for blob in caffe_pb2.BlobProtoVector.FromString(content).blobs
    ]


def array_to_datum(arr: NDArray[Any], label: int | None = None) -> caffe_pb2.Datum:
    """Return a Datum of an array [channels, height, width]; uint8 is kept as bytes.

    Raises:
        CaffeError: If the array has not three axes.
    """
    if arr.ndim != 3:
        raise CaffeError(f"a Datum has three axes, the array has {arr.ndim}")
    channels, height, width = arr.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> NDArray[Any]:
    """Return the array [channels, height, width] of a Datum; its label is not in it."""
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        return np.frombuffer(datum.data, np.uint8).reshape(shape)
    return np.array(datum.float_data).astype(float).reshape(shape)


class Transformer:
    """Turns images [H, W, C] into what a net's inputs want, and back.

    In this order: transpose, swap channels, raw scale, subtract the mean, input scale.  Images
    must have the input's height and width already.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Floats] = {}
        self.input_scale: dict[str, float] = {}

    def _check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise CaffeError(f"{in_} is not one of the net inputs: {list(self.inputs)}")

    def preprocess(self, in_: str, data: NDArray[Any]) -> Floats:
        """Return an image as the input wants it.

        Raises:
            CaffeError: If there is no such input, or the image has another size.
        """
        self._check_input(in_)
        array = np.asarray(data).astype(np.float32, copy=False)
        size = tuple(self.inputs[in_][2:])
        if array.shape[:2] != size:
            raise CaffeError(f"the image is {array.shape[:2]}, but input '{in_}' takes {size}")
        if in_ in self.transpose:
            array = array.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            array = array[list(self.channel_swap[in_]), :, :]
        if in_ in self.raw_scale:
            array = array * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            array = array - self.mean[in_]
        if in_ in self.input_scale:
            array = array * np.float32(self.input_scale[in_])
        return array

    def deprocess(self, in_: str, data: NDArray[Any]) -> Floats:
        """Return an input's values as an image: `preprocess` backwards."""
        self._check_input(in_)
        array: Floats = np.asarray(data).astype(np.float32).squeeze()
        if in_ in self.input_scale:
            array = array / np.float32(self.input_scale[in_])
        if in_ in self.mean:
            array = array + self.mean[in_]
        if in_ in self.raw_scale:
            array = array / np.float32(self.raw_scale[in_])
        if in_ in self.channel_swap:
            array = array[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            array = array.transpose(np.argsort(self.transpose[in_]))
        return array

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of axes, (2, 0, 1) for [C, H, W]."""
        self._check_input(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise CaffeError(f"order {order} needs as many axes as input '{in_}' less the batch")
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of channels, (2, 1, 0) for RGB to BGR."""
        self._check_input(in_)
        if len(order) != self.inputs[in_][1]:
            raise CaffeError(f"channel swap {order} needs as many channels as input '{in_}'")
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set the factor before the mean is subtracted."""
        self._check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: NDArray[Any]) -> None:
        """Set the mean: a value for each channel, or an array [C, H, W]."""
        self._check_input(in_)
        if mean.ndim == 1:
            if mean.shape[0] != self.inputs[in_][1]:
                raise CaffeError(f"the mean needs as many channels as input '{in_}'")
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.shape != tuple(self.inputs[in_][1:]):
            raise CaffeError(f"a mean of shape {mean.shape} does not fit input '{in_}'")
        self.mean[in_] = mean.astype(np.float32)

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set the factor after the mean is subtracted."""
        self._check_input(in_)
        self.input_scale[in_] = scale

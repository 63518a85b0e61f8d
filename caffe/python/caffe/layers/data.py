"""Layers without bottoms: Input, DummyData, MemoryData, and Parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from caffe.errors import CaffeCallError, CaffeError
from caffe.fillers import fill, find
from caffe.layer import Layer, register
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffe.blob import Blob


class Source(Layer):
    """A layer without bottoms, whose backward has nothing to do."""

    bottoms: ClassVar[tuple[int, int | None]] = (0, 0)
    tops: ClassVar[tuple[int, int | None]] = (1, None)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Leave the tops as they are: their shapes are the user's."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Leave the tops as they are: their values are the user's."""

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Do nothing."""


@register("Input")
class Input(Source):
    """What the caller writes before forward."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their first shapes."""
        shapes = self.param.input_param.shape
        self.require(
            len(shapes) in (0, 1, len(top)),
            f"input_param needs 0, 1 or {len(top)} shapes, got {len(shapes)}",
        )
        for index, blob in enumerate(top[: len(top) if shapes else 0]):
            blob.resize(tuple(shapes[index if len(shapes) > 1 else 0].dim))


@register("DummyData")
class DummyData(Source):
    """Constants, and random values drawn anew by every forward."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Shape the tops and fill those that are constant."""
        param = self.param.dummy_data_param
        fillers = list(param.data_filler) or [caffe_pb2.FillerParameter()]
        self.require(
            len(fillers) in (1, len(top)),
            f"data_filler must be given 0, 1 or {len(top)} times, got {len(fillers)}",
        )
        self.fillers = fillers * (len(top) if len(fillers) == 1 else 1)
        for blob, shape in zip(top, self._shapes(len(top)), strict=True):
            blob.resize(shape)
        for blob, filler in zip(top, self.fillers, strict=True):
            find(filler.type)
            if filler.type == "constant":
                fill(blob.data_tensor, filler)

    def _shapes(self, num_tops: int) -> list[tuple[int, ...]]:
        param = self.param.dummy_data_param
        if param.shape:
            legacy = (param.num, param.channels, param.height, param.width)
            self.require(not any(legacy), "give either shape or num, channels, height, width")
            shapes = [tuple(shape.dim) for shape in param.shape]
        else:
            columns = [list(c) for c in (param.num, param.channels, param.height, param.width)]
            self.require(
                all(len(column) in (1, num_tops) for column in columns),
                f"needs shape, or num, channels, height and width, 1 or {num_tops} times each",
            )
            rows = max(len(column) for column in columns)
            full = [c * (rows if len(c) == 1 else 1) for c in columns]
            shapes = list(zip(*full, strict=True))
        self.require(
            len(shapes) in (1, num_tops), f"needs 1 or {num_tops} shapes, got {len(shapes)}"
        )
        return shapes * (num_tops if len(shapes) == 1 else 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Draw new values for the tops that are not constant."""
        for blob, filler in zip(top, self.fillers, strict=True):
            if filler.type != "constant":
                fill(blob.data_tensor, filler)


@register("MemoryData")
class MemoryData(Source):
    """Batches of the arrays that `Net.set_input_arrays` was given, over and over."""

    tops: ClassVar[tuple[int, int | None]] = (2, 2)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Shape the tops: data [batch_size, channels, height, width], labels [batch_size]."""
        param = self.param.memory_data_param
        self.batch_size = param.batch_size
        shape = (param.batch_size, param.channels, param.height, param.width)
        self.require(all(shape), f"batch_size, channels, height, width must be positive: {shape}")
        top[0].resize(shape)
        top[1].resize((param.batch_size,))
        self._data: torch.Tensor | None = None
        self._position = 0

    def set_arrays(self, data: Any, labels: Any) -> None:
        """Take the arrays (not copied) that the next batches come from.

        Raises:
            CaffeError: If type, shape or layout is not what the layer needs (a RuntimeError too).
        """
        param = self.param.memory_data_param
        sizes = (param.channels, param.height, param.width)
        for name, array, wanted in (("data", data, sizes), ("labels", labels, (1, 1, 1))):
            if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
                raise CaffeCallError(f"{name} array must be C contiguous")
            if array.ndim != 4:
                raise CaffeCallError(f"{name} array must be 4-d, not {array.ndim}-d")
            if array.dtype != np.float32:
                raise CaffeCallError(f"{name} array must be float32, not {array.dtype}")
            for what, size, given in zip(
                ("number of channels", "height", "width"), wanted, array.shape[1:], strict=True
            ):
                if size != given:
                    raise CaffeCallError(f"{name} array has wrong {what}: {given}, not {size}")
        if data.shape[0] != labels.shape[0]:
            raise CaffeCallError("data and labels must have the same first dimension")
        if data.shape[0] == 0 or data.shape[0] % self.batch_size:
            raise CaffeCallError(
                "first dimensions of input arrays must be a multiple of batch size"
            )
        # PyTorch takes writable memory only.
        self._data, self._labels = (
            torch.from_numpy(array if array.flags.writeable else array.copy())
            for array in (data, labels.reshape(-1))
        )
        self._position = 0

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the next batch."""
        if self._data is None:
            raise CaffeError(f"{self.label}: call Net.set_input_arrays before forward")
        batch = slice(self._position, self._position + self.batch_size)
        top[0].data_tensor.copy_(self._data[batch])
        top[1].resize((self.batch_size, 1, 1, 1))  # as in Caffe, from the first forward on
        top[1].data_tensor.view(-1).copy_(self._labels[batch])
        self._position = batch.stop % self._data.shape[0]


@register("Parameter")
class Parameter(Source):
    """A parameter as a blob."""

    tops: ClassVar[tuple[int, int | None]] = (1, 1)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the parameter, of zeros."""
        self.add_parameter(list(self.param.parameter_param.shape.dim), caffe_pb2.FillerParameter())

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the parameter's shape."""
        top[0].resize(self.blobs[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        top[0].data_tensor.copy_(self.blobs[0].data_tensor)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Add to the parameter's diff."""
        self.blobs[0].diff_tensor.add_(top[0].diff_tensor)

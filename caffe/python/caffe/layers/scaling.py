"""Scale and Bias: a learned factor or summand, or one that is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from caffe.layer import TorchLayer, register
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


class _Broadcast(TorchLayer):
    """A bottom, and a smaller operand whose axes match the bottom's from `axis` on.

    The operand is the second bottom or, without one, a parameter.
    """

    bottoms: ClassVar[tuple[int, int | None]] = (1, 2)
    settings: caffe_pb2.ScaleParameter | caffe_pb2.BiasParameter

    def add_operand(self, bottom: Blob, num_axes: int, filler: caffe_pb2.FillerParameter) -> None:
        """Create a parameter of `num_axes` of the bottom's axes, from `axis` on; -1 is all."""
        first = self.axis(self.settings.axis, bottom)
        last = len(bottom.shape) if num_axes == -1 else first + num_axes
        self.require(num_axes >= -1, f"num_axes must be at least -1, got {num_axes}")
        self.require(
            last <= len(bottom.shape), f"num_axes {num_axes} does not fit {list(bottom.shape)}"
        )
        self.add_parameter(bottom.shape[first:last], filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        shape = bottom[0].shape
        for blob in (*bottom[1:], *self.blobs):
            # Of a scalar, the axis does not matter.
            first = self.axis(self.settings.axis, bottom[0]) if blob.shape else 0
            self.require(
                shape[first : first + len(blob.shape)] == blob.shape,
                f"{list(blob.shape)} does not match the axes of {list(shape)} from {first} on",
            )
        top[0].resize(shape)

    def spread(self, operand: Tensor, x: Tensor) -> Tensor:
        """Return the operand with axes of size 1 after its own, so that it fits x."""
        if not operand.dim():
            return operand
        behind = x.dim() - self.settings.axis % x.dim() - operand.dim()
        return operand.reshape(*operand.shape, *[1] * behind)


@register("Bias")
class Bias(_Broadcast):
    """X + bias."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the bias unless it is a bottom."""
        self.settings = self.param.bias_param
        if len(bottom) == 1:
            self.add_operand(bottom[0], self.settings.num_axes, self.settings.filler)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        operand = bottom[1] if len(bottom) > 1 else self.weights[0]
        return bottom[0] + self.spread(operand, bottom[0])


@register("Scale")
class Scale(_Broadcast):
    """X · scale, and perhaps + bias."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the scale, of ones by default, unless it is a bottom, and the bias."""
        self.settings = param = self.param.scale_param
        num_axes = param.num_axes
        if len(bottom) == 1:
            filler = caffe_pb2.FillerParameter(type="constant", value=1)
            filler = param.filler if param.HasField("filler") else filler
            self.add_operand(bottom[0], num_axes, filler)
        else:
            num_axes = len(bottom[1].shape)
        if param.bias_term:
            self.add_operand(bottom[0], num_axes, param.bias_filler)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        operand = bottom[1] if len(bottom) > 1 else self.weights[0]
        y = bottom[0] * self.spread(operand, bottom[0])
        if self.param.scale_param.bias_term:
            y = y + self.spread(self.weights[-1], bottom[0])
        return y

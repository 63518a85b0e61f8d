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

    def _operand_shape(
        self, bottom: Sequence[Blob], param: caffe_pb2.ScaleParameter | caffe_pb2.BiasParameter
    ) -> tuple[int, ...]:
        """Return the operand's shape; `first_axis` is then where it begins."""
        shape = bottom[0].shape
        if len(bottom) > 1 and not bottom[1].shape:
            self.first_axis = 0
            return ()
        self.first_axis = self.axis(param.axis, bottom[0])
        if len(bottom) > 1:
            operand = bottom[1].shape
        else:
            self.require(param.num_axes >= -1, f"num_axes must be at least -1: {param.num_axes}")
            last = len(shape) if param.num_axes == -1 else self.first_axis + param.num_axes
            self.require(
                last <= len(shape), f"num_axes {param.num_axes} does not fit {list(shape)}"
            )
            operand = shape[self.first_axis : last]
        self.require(
            shape[self.first_axis : self.first_axis + len(operand)] == operand,
            f"{list(operand)} does not match the axes of {list(shape)} from {self.first_axis} on",
        )
        return operand

    def _spread(self, operand: Tensor, x: Tensor) -> Tensor:
        """Return the operand with axes of size 1 after its own, so that it fits x."""
        return operand.reshape(*operand.shape, *[1] * (x.dim() - self.first_axis - operand.dim()))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        if len(bottom) > 1:
            self._check(bottom)
        top[0].resize(bottom[0].shape)

    def _check(self, bottom: Sequence[Blob]) -> tuple[int, ...]:
        raise NotImplementedError


@register("Bias")
class Bias(_Broadcast):
    """X + bias."""

    def _check(self, bottom: Sequence[Blob]) -> tuple[int, ...]:
        return self._operand_shape(bottom, self.param.bias_param)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the bias unless it is a bottom."""
        shape = self._check(bottom)
        if len(bottom) == 1:
            self.add_parameter(shape, self.param.bias_param.filler)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        operand = bottom[1] if len(bottom) > 1 else self.weights[0]
        return bottom[0] + self._spread(operand, bottom[0])


@register("Scale")
class Scale(_Broadcast):
    """X · scale, and perhaps + bias."""

    def _check(self, bottom: Sequence[Blob]) -> tuple[int, ...]:
        return self._operand_shape(bottom, self.param.scale_param)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the scale, of ones by default, unless it is a bottom, and the bias."""
        param, shape = self.param.scale_param, self._check(bottom)
        if len(bottom) == 1:
            filler = caffe_pb2.FillerParameter(type="constant", value=1)
            self.add_parameter(shape, param.filler if param.HasField("filler") else filler)
        if param.bias_term:
            self.add_parameter(shape, param.bias_filler)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        operand = bottom[1] if len(bottom) > 1 else self.weights[0]
        y = bottom[0] * self._spread(operand, bottom[0])
        if self.param.scale_param.bias_term:
            y = y + self._spread(self.weights[-1], bottom[0])
        return y

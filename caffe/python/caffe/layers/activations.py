"""Element by element: ReLU, Sigmoid, TanH, Power and their like; all may work in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from caffe.layer import Layer, TorchLayer, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


class _Elementwise(TorchLayer):
    """One bottom, one top of its shape."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        top[0].resize(bottom[0].shape)


@register("ReLU")
class ReLU(Layer):
    """max(x, 0) + negative_slope · min(x, 0)."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read relu_param."""
        self.slope: float = self.param.relu_param.negative_slope

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        top[0].resize(bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        x, y = bottom[0].data_tensor, top[0].data_tensor
        if self.slope:
            y.copy_(functional.leaky_relu(x, self.slope))
        else:
            torch.clamp_min(x, 0, out=y)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff; in place, the sign of the output stands for the input's."""
        if not propagate_down[0]:
            return
        x, dy, dx = bottom[0].data_tensor, top[0].diff_tensor, bottom[0].diff_tensor
        if self.slope:
            dx.copy_(torch.where(x > 0, dy, dy * self.slope))
        else:
            torch.ops.aten.threshold_backward(dy, x, 0, grad_input=dx)


@register("Sigmoid")
class Sigmoid(_Elementwise):
    """1 / (1 + e⁻ˣ)."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.sigmoid(bottom[0])


@register("TanH")
class TanH(_Elementwise):
    """The hyperbolic tangent."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.tanh(bottom[0])


@register("Power")
class Power(_Elementwise):
    """(shift + scale · x) ** power."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        param = self.param.power_param
        if param.power * param.scale == 0:
            # A constant, whose gradient is 0 even where the formula's is not defined.
            value = 1.0 if param.power == 0 else param.shift**param.power
            return torch.full_like(bottom[0], value)
        x = bottom[0] * param.scale if param.scale != 1 else bottom[0]
        if param.shift:
            x = x + param.shift
        return x if param.power == 1 else x**param.power

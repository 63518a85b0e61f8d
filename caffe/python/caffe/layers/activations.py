"""Element by element: ReLU, Sigmoid, TanH, Power and their like; all may work in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from caffe.layer import Layer, TorchLayer, register
from caffe.proto import caffe_pb2

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

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data; scaling alone, as of a net's input, needs no memory of its own."""
        param = self.param.power_param
        if param.power == 1 and param.shift == 0 and bottom[0] is not top[0]:
            torch.mul(bottom[0].data_tensor, param.scale, out=top[0].data_tensor)
        else:
            super().forward(bottom, top)

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


@register("AbsVal")
class AbsVal(_Elementwise):
    """|x|; not in place."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Refuse to work in place."""
        self.require(top[0] is not bottom[0], "does not allow in-place computation")

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return bottom[0].abs()


@register("BNLL")
class BNLL(_Elementwise):
    """log(1 + eˣ)."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return functional.softplus(bottom[0])


@register("Clip")
class Clip(_Elementwise):
    """x, kept between min and max."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        param = self.param.clip_param
        return bottom[0].clamp(param.min, param.max)


@register("ELU")
class ELU(_Elementwise):
    """X where positive, else alpha (eˣ - 1)."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return functional.elu(bottom[0], self.param.elu_param.alpha)


@register("Exp")
class Exp(_Elementwise):
    """base ** (shift + scale · x); base -1 stands for e."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Check exp_param."""
        base = self.param.exp_param.base
        self.require(base == -1 or base > 0, f"base must be -1 (for e) or positive, got {base}")

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        param = self.param.exp_param
        log_base = 1.0 if param.base == -1 else math.log(param.base)
        return torch.exp(bottom[0] * (log_base * param.scale)) * math.exp(log_base * param.shift)


@register("Log")
class Log(_Elementwise):
    """The logarithm of shift + scale · x to a base; base -1 stands for e."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Check log_param."""
        base = self.param.log_param.base
        self.require(
            base == -1 or (base > 0 and base != 1),
            f"base must be -1 (for e) or positive and not 1, got {base}",
        )

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        param = self.param.log_param
        log_base = 1.0 if param.base == -1 else math.log(param.base)
        return torch.log(bottom[0] * param.scale + param.shift) / log_base


@register("Swish")
class Swish(_Elementwise):
    """X · sigmoid(beta · x)."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return bottom[0] * torch.sigmoid(bottom[0] * self.param.swish_param.beta)


@register("Threshold")
class Threshold(Layer):
    """1 where x exceeds the threshold, else 0; has no backward."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        top[0].resize(bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        top[0].data_tensor.copy_(bottom[0].data_tensor > self.param.threshold_param.threshold)


@register("PReLU")
class PReLU(_Elementwise):
    """X where positive, else slope · x; a learned slope for each channel, or a single one."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the slopes, 0.25 unless the filler says otherwise."""
        param = self.param.prelu_param
        self.require(len(bottom[0].shape) >= 2, "needs a bottom of at least 2 axes")
        filler = caffe_pb2.FillerParameter(type="constant", value=0.25)
        if param.HasField("filler"):
            filler = param.filler
        self.add_parameter(() if param.channel_shared else bottom[0].shape[1:2], filler)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        x, slope = bottom[0], self.weights[0]
        if slope.dim():
            slope = slope.view(-1, *[1] * (x.dim() - 2))
        return torch.where(x > 0, x, slope * x)


@register("Dropout")
class Dropout(Layer):
    """In training, zeroes a random part of x and scales up the rest; otherwise passes x on."""

    _mask: Tensor | None = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        top[0].resize(bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        x, y = bottom[0].data_tensor, top[0].data_tensor
        if self.phase != caffe_pb2.TRAIN:
            y.copy_(x)
            return
        keep = 1 - self.param.dropout_param.dropout_ratio
        scale = 1 / keep if keep else math.inf
        self._mask = torch.empty_like(x).bernoulli_(keep).mul_(scale)
        torch.mul(x, self._mask, out=y)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff, with the mask of the last forward."""
        if not propagate_down[0]:
            return
        if self.phase != caffe_pb2.TRAIN or self._mask is None:
            bottom[0].diff_tensor.copy_(top[0].diff_tensor)
        else:
            torch.mul(top[0].diff_tensor, self._mask, out=bottom[0].diff_tensor)

"""Element by element: ReLU, Sigmoid, TanH, Power and their like; all may work in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from caffe.layer import Layer, TorchLayer, register
from caffe.layouts import like
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


class Arranging(Protocol):
    """What is asked of a layer that takes its bottom in a layout of its own."""

    def arranged(self, x: Tensor) -> Tensor:
        """Return a bottom's values as forward takes them, perhaps x itself."""


class _Neuron(Layer):
    """One bottom, one top of its shape, given by its value and its derivative.

    The derivative is a function of the bottom's and the top's data.  In place both are the
    output, also where the derivative should be the input's: so it is in Caffe.
    """

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        raise NotImplementedError

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative where the bottom's data is x and the top's y."""
        raise NotImplementedError

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        top[0].resize(bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        top[0].data_tensor.copy_(self.value(bottom[0].data_tensor))

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff."""
        if propagate_down[0]:
            slope = self.slope(bottom[0].data_tensor, top[0].data_tensor)
            torch.mul(top[0].diff_tensor, slope, out=bottom[0].diff_tensor)


class _Overwriting(_Neuron):
    """A neuron that Caffe differentiates wrongly in place.

    It writes the slope into the bottom's diff, which in place is the top's, and then multiplies
    by the top's: the result, which is kept here, is the square of the slope.
    """

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff."""
        if propagate_down[0]:
            dx = bottom[0].diff_tensor
            dx.copy_(self.slope(bottom[0].data_tensor, top[0].data_tensor))
            dx.mul_(top[0].diff_tensor)


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
        x = bottom[0].values.newest()
        y = functional.leaky_relu(x, self.slope) if self.slope else torch.clamp_min(x, 0)
        top[0].values.put(y)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff; in place, the sign of the output stands for the input's."""
        if not propagate_down[0]:
            return
        x = bottom[0].values.newest()
        dy = like(top[0].gradient.newest(), x)
        if self.slope:
            dx = torch.where(x > 0, dy, dy * self.slope)
        else:
            dx = torch.ops.aten.threshold_backward(dy, x.to(dy.dtype), 0)
        bottom[0].gradient.put(dx)


@register("Sigmoid")
class Sigmoid(_Neuron):
    """1 / (1 + e⁻ˣ)."""

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.sigmoid(x)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative."""
        return y * (1 - y)


@register("TanH")
class TanH(_Neuron):
    """The hyperbolic tangent."""

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.tanh(x)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative."""
        return 1 - y * y


@register("Power")
class Power(_Overwriting):
    """(shift + scale · x) ** power.

    Set by the net: `reader`, the convolution that is the only one to read the top, if it is one.
    """

    reader: Arranging | None = None

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read power_param."""
        param = self.param.power_param
        self.power, self.scale, self.shift = param.power, param.scale, param.shift

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data.

        Scaling alone, as of a net's input, is left to a convolution, which scales its weight
        instead; in bfloat16 the grey values of 0 to 255 then stay exact.
        """
        if self.power != 1 or self.shift != 0 or self.scale == 0 or bottom[0] is top[0]:
            super().forward(bottom, top)
            return
        top[0].values.forget()
        x, scale = bottom[0].values.newest_scaled()
        if scale != 1 or self.reader is None:
            x, scale = bottom[0].data_tensor, 1.0
        arranged = self.reader.arranged(x) if self.reader else x
        if arranged.data_ptr() == x.data_ptr() or arranged.shape != x.shape:
            top[0].values.put(x * self.scale)
        else:
            top[0].values.put(arranged, self.scale)

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        if self.power * self.scale == 0:
            return torch.full_like(x, self.shift) ** self.power
        x = x * self.scale + self.shift
        return x if self.power == 1 else x**self.power

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative, by Caffe's formulas: some are not a number where y = x = 0."""
        factor = self.power * self.scale
        if factor == 0 or self.power == 1:
            return torch.full_like(x, factor)
        if self.power == 2:
            return (x * self.scale + self.shift) * factor
        if self.shift == 0:
            return y / x * self.power
        return y / (x * self.scale + self.shift) * factor


@register("AbsVal")
class AbsVal(_Neuron):
    """|x|; not in place."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Refuse to work in place."""
        self.require(top[0] is not bottom[0], "does not allow in-place computation")

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        return x.abs()

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative; 0 where x is."""
        return x.sign()


@register("BNLL")
class BNLL(_Neuron):
    """log(1 + eˣ)."""

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        return functional.softplus(x)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative."""
        return torch.sigmoid(x)


@register("Clip")
class Clip(_Neuron):
    """x, kept between min and max."""

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        param = self.param.clip_param
        return x.clamp(max=param.max).clamp(min=param.min)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative: 1 from min to max, both included."""
        param = self.param.clip_param
        return (x >= param.min) & (x <= param.max)


@register("ELU")
class ELU(_Neuron):
    """X where positive, else alpha (eˣ - 1)."""

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        return functional.elu(x, self.param.elu_param.alpha)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative."""
        return torch.where(x > 0, 1.0, y + self.param.elu_param.alpha)


def _log_of(base: float) -> float:
    """Return the logarithm of a base; -1 stands for e.  NaN if there is none."""
    if base == -1:
        return 1.0
    return math.log(base) if 0 < base < math.inf else math.nan


@register("Exp")
class Exp(_Neuron):
    """base ** (shift + scale · x); base -1 stands for e."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read exp_param."""
        param = self.param.exp_param
        log_base = _log_of(param.base)
        self.require(
            not math.isnan(log_base), f"base must be -1 (for e) or positive, got {param.base}"
        )
        self.inner, self.outer = log_base * param.scale, log_base * param.shift

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.exp(x * self.inner) * torch.exp(torch.full((), self.outer))

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative."""
        return y * self.inner


@register("Log")
class Log(_Overwriting):
    """The logarithm of shift + scale · x to a base; base -1 stands for e."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read log_param."""
        param = self.param.log_param
        self.log_base = _log_of(param.base)
        self.require(
            self.log_base and not math.isnan(self.log_base),
            f"base must be -1 (for e) or positive and not 1, got {param.base}",
        )
        self.scale, self.shift = param.scale, param.shift

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.log(x * self.scale + self.shift) / self.log_base

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative."""
        return self.scale / self.log_base / (x * self.scale + self.shift)


@register("Swish")
class Swish(_Neuron):
    """X · sigmoid(beta · x); the sigmoid is kept, so the derivative is right in place too."""

    _gate = torch.zeros(())

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        super().reshape(bottom, top)
        if self._gate.shape != bottom[0].shape:
            self._gate = torch.zeros(())

    def value(self, x: Tensor) -> Tensor:
        """Return the top's values."""
        self._gate = torch.sigmoid(x * self.param.swish_param.beta)
        return x * self._gate

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the derivative, from the sigmoid and the top's data as it is now."""
        scaled = y * self.param.swish_param.beta
        return scaled + self._gate * (1 - scaled)


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
class PReLU(TorchLayer):
    """X where positive, else slope · x; a learned slope for each channel, or a single one."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the slopes, 0.25 unless the filler says otherwise."""
        param = self.param.prelu_param
        self.require(len(bottom[0].shape) >= 2, "needs a bottom of at least 2 axes")
        filler = caffe_pb2.FillerParameter(type="constant", value=0.25)
        if param.HasField("filler"):
            filler = param.filler
        self.add_parameter(() if param.channel_shared else bottom[0].shape[1:2], filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        shape, slopes = bottom[0].shape, self.blobs[0].shape
        self.require(
            len(shape) >= 2 and slopes in ((), shape[1:2]),
            f"bottom has the shape {list(shape)}, but slopes were made for {list(slopes)} channels",
        )
        top[0].resize(shape)

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
        ratio = self.param.dropout_param.dropout_ratio
        self.require(0 <= ratio <= 1, f"dropout_ratio must lie between 0 and 1, got {ratio}")
        keep = 1 - ratio
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

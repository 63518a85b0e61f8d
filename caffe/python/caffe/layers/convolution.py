"""Convolution and Deconvolution, over 1 to 3 spatial axes.

The bottom is [N, C, spatial…]; `axis` says which axis is C, those before it are all "N".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from caffe.layer import Layer, register
from caffe.precision import HalfCopies, computes_bf16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


class Windowed(Layer):
    """What convolutions and Im2col have in common: kernel, stride, pad and dilation."""

    def read_windows(self, bottom: Blob) -> None:
        """Read those settings of convolution_param, one for every spatial axis."""
        param = self.param.convolution_param
        self.channel_axis = self.axis(param.axis, bottom)
        num_spatial = len(bottom.shape) - self.channel_axis - 1
        self.require(1 <= num_spatial <= 3, f"has {num_spatial} spatial axes, but takes 1 to 3")
        pairs = {
            name: [getattr(param, f"{name}_h"), getattr(param, f"{name}_w")]
            for name in ("kernel", "stride", "pad")
            if param.HasField(f"{name}_h") or param.HasField(f"{name}_w")
        }
        self.kernel = self._per_axis("kernel", param.kernel_size, num_spatial, pairs)
        self.stride = self._per_axis("stride", param.stride, num_spatial, pairs, default=1)
        self.pad = self._per_axis("pad", param.pad, num_spatial, pairs, default=0)
        self.dilation = self._per_axis("dilation", param.dilation, num_spatial, {}, default=1)
        self.require(all(self.kernel), "kernel dimensions must be positive")
        self.require(all(self.stride), "stride dimensions must be positive")

    def _per_axis(
        self,
        name: str,
        values: Sequence[int],
        num_spatial: int,
        pairs: dict[str, list[int]],
        default: int | None = None,
    ) -> list[int]:
        """Return one setting for every spatial axis, whichever way it was given."""
        if name in pairs:
            self.require(num_spatial == 2, f"{name}_h and {name}_w need 2 spatial axes")
            self.require(not values, f"give either {name} or {name}_h and {name}_w, not both")
            return pairs[name]
        if not values and default is not None:
            return [default] * num_spatial
        self.require(
            len(values) in (1, num_spatial),
            f"{name} needs 1 value or one for each of {num_spatial} axes, got {len(values)}",
        )
        return list(values) * (num_spatial if len(values) == 1 else 1)

    def window_counts(self, spatial: Sequence[int]) -> list[int]:
        """Return the number of windows along every spatial axis."""
        counts = []
        for size, kernel, stride, pad, dilation in zip(
            spatial, self.kernel, self.stride, self.pad, self.dilation, strict=True
        ):
            room = size + 2 * pad - (dilation * (kernel - 1) + 1)
            counts.append(room // stride + 1 if room >= 0 else 0)
        self.require(
            min(counts) > 0, f"the kernel {self.kernel} is larger than its input {list(spatial)}"
        )
        return counts


class _BaseConvolution(Windowed):
    """What convolution and its transpose have in common: parameters and both directions."""

    bottoms: ClassVar[tuple[int, int | None]] = (1, None)
    tops: ClassVar[tuple[int, int | None]] = (1, None)
    transposed: ClassVar[bool] = False

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read convolution_param and create weight and bias."""
        param = self.param.convolution_param
        self.require(len(bottom) == len(top), "needs as many tops as bottoms")
        self.read_windows(bottom[0])
        self._half = HalfCopies()
        self.group = param.group
        self.channels = bottom[0].shape[self.channel_axis]
        self.num_output = param.num_output
        self.require(self.num_output > 0, "num_output must be positive")
        self.require(
            self.group > 0
            and self.channels % self.group == 0
            and self.num_output % self.group == 0,
            f"group {self.group} must divide {self.channels} channels, {self.num_output} outputs",
        )
        ends = (self.num_output, self.channels)
        outer, inner = reversed(ends) if self.transposed else ends
        self.add_parameter((outer, inner // self.group, *self.kernel), param.weight_filler)
        if param.bias_term:
            self.add_parameter((self.num_output,), param.bias_filler)

    def sizes(self, spatial: Sequence[int]) -> list[int]:
        """Return the top's size along every spatial axis."""
        if not self.transposed:
            return self.window_counts(spatial)
        return [
            stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad
            for size, kernel, stride, pad, dilation in zip(
                spatial, self.kernel, self.stride, self.pad, self.dilation, strict=True
            )
        ]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give every top its shape."""
        for below, above in zip(bottom, top, strict=True):
            shape = below.shape
            self.require(shape == bottom[0].shape, "all bottoms must have the same shape")
            self.require(
                len(shape) == self.channel_axis + 1 + len(self.kernel)
                and shape[self.channel_axis] == self.channels,
                f"bottom has the shape {list(shape)}, but the layer was set up for "
                f"{self.channels} channels and {len(self.kernel)} spatial axes",
            )
            spatial = shape[self.channel_axis + 1 :]
            sizes = self.sizes(spatial)
            self.require(min(sizes) > 0, f"pad {self.pad} leaves nothing of {list(spatial)}")
            above.resize((*shape[: self.channel_axis], self.num_output, *sizes))

    def _batched(self, values: Tensor) -> Tensor:
        if self.channel_axis == 1:
            return values
        return values.reshape(-1, *values.shape[self.channel_axis :])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' data."""
        weight = self.blobs[0].data_tensor
        bias = self.blobs[1].data_tensor if len(self.blobs) > 1 else None
        half = computes_bf16()
        for below, above in zip(bottom, top, strict=True):
            x = self._batched(below.data_tensor)
            w, b = weight, bias
            if half:
                x, w = self._half.of("x", x), self._half.of("w", w)
                b = None if b is None else b.bfloat16()
            y = torch.convolution(
                x,
                w,
                b,
                self.stride,
                self.pad,
                self.dilation,
                self.transposed,
                self._zeros,
                self.group,
            )
            above.data_tensor.copy_(y.view(above.shape))

    @property
    def _zeros(self) -> list[int]:
        return [0] * len(self.kernel)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the marked bottoms' diffs; add to the parameters' diffs."""
        weight = self.blobs[0].data_tensor
        half = computes_bf16()
        for above, below, down in zip(top, bottom, propagate_down, strict=True):
            mask = [
                down,
                self.wants_gradient(0),
                len(self.blobs) > 1 and self.wants_gradient(1),
            ]
            if not any(mask):
                continue
            x = self._batched(below.data_tensor)
            dy, w = self._batched(above.diff_tensor), weight
            if half:
                x, dy, w = (self._half.of(k, v) for k, v in (("x", x), ("dy", dy), ("w", w)))
            dx, dw, db = torch.ops.aten.convolution_backward(
                dy,
                x,
                w,
                [self.num_output],
                self.stride,
                self.pad,
                self.dilation,
                self.transposed,
                self._zeros,
                self.group,
                mask,
            )
            if down:
                below.diff_tensor.copy_(dx.view(below.shape))
            for index, gradient in ((0, dw), (1, db)):
                if mask[index + 1]:
                    self.blobs[index].diff_tensor.add_(gradient)


@register("Convolution")
class Convolution(_BaseConvolution):
    """Convolution: a weight [num_output, C / group, kernel…] and a bias [num_output]."""


@register("Deconvolution")
class Deconvolution(_BaseConvolution):
    """The transpose of a convolution: a weight [C, num_output / group, kernel…]."""

    transposed: ClassVar[bool] = True

"""Convolution and Deconvolution, over up to 3 spatial axes.

The bottom is [N, C, spatial…]; `axis` says which axis is C, those before it are all "N".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from caffe import lowerings
from caffe.layer import Layer, register
from caffe.precision import computes_bf16, keeps_signs
from caffe.proto import caffe_pb2
from caffe.tuning import Problem

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
        self.require(num_spatial <= 3, f"has {num_spatial} spatial axes, but takes at most 3")
        pairs = {
            name: [getattr(param, f"{name}_h"), getattr(param, f"{name}_w")]
            for name in ("kernel", "stride", "pad")
            if param.HasField(f"{name}_h") or param.HasField(f"{name}_w")
        }
        self.kernel = self._per_axis("kernel", param.kernel_size, num_spatial, pairs)
        self.stride = self._per_axis("stride", param.stride, num_spatial, pairs, default=1)
        self.pad = self._per_axis("pad", param.pad, num_spatial, pairs, default=0)
        self.dilation = self._per_axis("dilation", param.dilation, num_spatial, {}, default=1)
        self.overhang = [0] * num_spatial
        self.require(all(self.kernel), "kernel dimensions must be positive")
        self.require(all(self.stride), "stride dimensions must be positive")
        self.require(all(self.dilation), "dilation dimensions must be positive")

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
        """Return the number of windows along every spatial axis.

        As in Caffe, whose division rounds towards zero, a kernel may stand out over the end by
        less than a stride, over zeros: `overhang`, a number for every axis.
        """
        counts, self.overhang = [], []
        for size, kernel, stride, pad, dilation in zip(
            spatial, self.kernel, self.stride, self.pad, self.dilation, strict=True
        ):
            room = size + 2 * pad - (dilation * (kernel - 1) + 1)
            counts.append(int(room / stride) + 1)
            self.overhang.append(max(0, -room))
        self.require(
            all(count > 0 for count in counts),
            f"the kernel {self.kernel} is larger than its input {list(spatial)}",
        )
        return counts

    def with_overhang(self, x: Tensor) -> Tensor:
        """Return x with as many zeros at the ends of its spatial axes as kernels stand out."""
        if not any(self.overhang):
            return x
        return functional.pad(x, [n for over in reversed(self.overhang) for n in (0, over)])


class BaseConvolution(Windowed):
    """What convolution and its transpose have in common: parameters and both directions.

    Set by the net: `rectify`, that a ReLU in place follows, and the lowerings of both directions.
    """

    bottoms: ClassVar[tuple[int, int | None]] = (1, None)
    tops: ClassVar[tuple[int, int | None]] = (1, None)
    transposed: ClassVar[bool] = False
    rectify = False
    forward_lowering = backward_lowering = lowerings.CONTIGUOUS

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read convolution_param and create weight and bias."""
        param = self.param.convolution_param
        self.require(len(bottom) == len(top), "needs as many tops as bottoms")
        self.read_windows(bottom[0])
        self._is_plain = self.channel_axis == 1 and bool(self.kernel)
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
        windows = zip(self.kernel, self.stride, self.pad, self.dilation, strict=True)
        # Without spatial axes it is computed as if there were one, of size 1.
        kernel, stride, pad, dilation = zip(*(list(windows) or [(1, 1, 0, 1)]), strict=True)
        self.windows = lowerings.Windows(kernel, stride, pad, dilation, self.group, self.transposed)
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
            self.require(
                min(sizes, default=1) > 0, f"pad {self.pad} leaves nothing of {list(spatial)}"
            )
            above.resize((*shape[: self.channel_axis], self.num_output, *sizes))
        self._shapes = (
            (math.prod(shape[: self.channel_axis]), self.channels, *spatial),
            (math.prod(shape[: self.channel_axis]), self.num_output, *sizes),
        )

    def problem(self, *, needs_diff: bool) -> Problem:
        """Return what there is to compute, for whoever chooses the lowerings."""
        below, above = self._shapes
        wanted = (needs_diff, self.wants_gradient(0), self.wants_gradient(len(self.blobs) - 1))
        halves = (self._forward_is_half, computes_bf16())
        return Problem(below, self.blobs[0].shape, above, wanted, halves)

    def arranged(self, x: Tensor) -> Tensor:
        """Return a bottom's values as forward takes them, perhaps x itself."""
        x = self.with_overhang(x)
        return self._arranged(x, self.forward_lowering, half=self._forward_is_half)

    @property
    def _forward_is_half(self) -> bool:
        return computes_bf16() and not (keeps_signs() and self.phase == caffe_pb2.TRAIN)

    def _arranged(self, x: Tensor, lowering: str, *, half: bool) -> Tensor:
        if not self._is_plain:
            channels, *spatial = x.shape[self.channel_axis :]
            x = x.reshape(-1, channels, *(spatial or (1,)))
        x = lowerings.arrange(x, lowering)
        dtype = torch.bfloat16 if half else torch.get_default_dtype()
        return x if x.dtype is dtype else x.to(dtype)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' data."""
        weight, bias = self._parameters(half=self._forward_is_half, anew=True)
        for below, above in zip(bottom, top, strict=True):
            above.values.forget()
            x, scale = below.values.newest_scaled()
            w = weight if scale == 1 else weight * scale
            y = lowerings.forward(self.arranged(x), w, bias, self.windows, self.forward_lowering)
            if self.rectify:
                y.clamp_min_(0)
            above.values.put(y if self._is_plain else y.view(above.shape))

    def _parameters(self, *, half: bool, anew: bool) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias in the precision of the products."""
        tensors = [blob.values.half(anew=anew) if half else blob.data_tensor for blob in self.blobs]
        if not self.kernel:
            tensors[0] = tensors[0].unsqueeze(2)
        return tensors[0], tensors[1] if len(tensors) > 1 else None

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the marked bottoms' diffs; add to the parameters' diffs."""
        lowering, half = self.backward_lowering, computes_bf16()
        weight, _ = self._parameters(half=half, anew=not self._forward_is_half)
        for above, below, down in zip(top, bottom, propagate_down, strict=True):
            wanted = [
                down,
                self.wants_gradient(0),
                len(self.blobs) > 1 and self.wants_gradient(1),
            ]
            if not any(wanted):
                continue
            if down:
                below.gradient.forget()
            x, scale = below.values.newest_scaled()
            x, dy = (
                self._arranged(values, lowering, half=half)
                for values in (self.with_overhang(x), above.gradient.newest())
            )
            dx, dw, db = lowerings.backward(dy, x, weight, self.windows, lowering, wanted=wanted)
            if dx is not None:
                for axis, over in enumerate(self.overhang):
                    dx = dx.narrow(2 + axis, 0, dx.shape[2 + axis] - over) if over else dx
                below.gradient.put(dx.reshape(below.shape))
            if dw is not None:
                self.blobs[0].diff_tensor.add_(dw.view(self.blobs[0].shape), alpha=scale)
            if db is not None:
                self.blobs[1].diff_tensor.add_(db)


@register("Convolution")
class Convolution(BaseConvolution):
    """Convolution: a weight [num_output, C / group, kernel…] and a bias [num_output]."""


@register("Deconvolution")
class Deconvolution(BaseConvolution):
    """The transpose of a convolution: a weight [C, num_output / group, kernel…]."""

    transposed: ClassVar[bool] = True

"""InnerProduct: y = x Wᵀ + b, over all axes from `axis` on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from caffe.layer import Layer, register
from caffe.layouts import to_contiguous
from caffe.precision import computes_bf16
from caffe.products import product, put, put_product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob
    from caffe.memory import Memory


# With fewer, a gradient takes as long as its memory: to add a product in bfloat16 is slower.
_FEW_ROWS = 64


@register("InnerProduct")
class InnerProduct(Layer):
    """A dense layer: a weight [num_output, K] (`transpose`: [K, num_output]) and a bias.

    Set by the net: `rectify`, that a ReLU in place follows; `is_output`, that none follows, so
    that it is always computed in float32; `overwrites`, that backward is to set the weight's diff,
    and not to add to it.
    """

    rectify = is_output = overwrites = False

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read inner_product_param and create weight and bias."""
        param = self.param.inner_product_param
        self.transpose = param.transpose
        self._room = torch.empty(0)  # for a gradient in bfloat16
        self.num_output = param.num_output
        self.num_input = math.prod(bottom[0].shape[self.axis(param.axis, bottom[0]) :])
        shape = [self.num_output, self.num_input]
        self.require(self.num_output > 0, "num_output must be positive")
        self.add_parameter(shape[::-1] if self.transpose else shape, param.weight_filler)
        if param.bias_term:
            self.add_parameter((self.num_output,), param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        shape = bottom[0].shape
        first = self.axis(self.param.inner_product_param.axis, bottom[0])
        count = math.prod(shape[first:])
        self.require(
            count == self.num_input,
            f"a row of the bottom has {count} values, but the weight was made for {self.num_input}",
        )
        top[0].resize((*shape[:first], self.num_output))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        top[0].values.forget()
        x = self._rows(bottom[0].values, self.num_input)  # [M, K]
        weight = self.blobs[0].data_tensor
        bias = self.blobs[1].data_tensor if len(self.blobs) > 1 else None
        if self._is_half:
            weight = self.blobs[0].values.half()
            bias = None if bias is None else self.blobs[1].values.half()
        y = product(x, weight.t() if self.transpose else weight, bias)
        if self.rectify:
            y.clamp_min_(0)
        y = y.contiguous()
        top[0].values.put(y if len(top[0].shape) == 2 else y.view(top[0].shape))

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff; add to the parameters' diffs."""
        x = self._rows(bottom[0].values, self.num_input)  # [M, K]
        dy = self._rows(top[0].gradient, self.num_output)  # [M, N]
        if len(self.blobs) > 1 and self.wants_gradient(1):
            self.blobs[1].diff_tensor.add_(dy.sum(dim=0))
        if self.wants_gradient(0):
            left, right = (x, dy) if self.transpose else (dy, x)
            total = self.blobs[0].diff_tensor
            if self._is_half and (self.overwrites or len(x) > _FEW_ROWS):
                self._room = self._room.to(x.dtype).resize_(total.shape)
                put(torch.mm(left.t(), right, out=self._room), total, adds=not self.overwrites)
            else:
                left, right = (rows.to(total.dtype).t() for rows in (left, right))
                put_product(left, right, total, adds=not self.overwrites)
        if propagate_down[0]:
            bottom[0].gradient.forget()
            weight = self.blobs[0].data_tensor
            if self._is_half:
                weight = self.blobs[0].values.half(anew=False)
            dx = product(dy, weight if self.transpose else weight.t()).contiguous()
            bottom[0].gradient.put(dx.view(bottom[0].shape))

    @property
    def _is_half(self) -> bool:
        return computes_bf16() and not self.is_output

    def _rows(self, memory: Memory, width: int) -> Tensor:
        """Return the newest values as a matrix of this width, in the layer's precision."""
        rows = to_contiguous(memory.newest()).view(-1, width)
        dtype = torch.bfloat16 if self._is_half else torch.get_default_dtype()
        return rows if rows.dtype is dtype else rows.to(dtype)

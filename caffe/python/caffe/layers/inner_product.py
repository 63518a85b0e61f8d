"""InnerProduct: y = x Wᵀ + b, over all axes from `axis` on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from caffe.layer import Layer, register
from caffe.precision import HalfCopies, computes_bf16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffe.blob import Blob


@register("InnerProduct")
class InnerProduct(Layer):
    """A dense layer: a weight [num_output, K] (`transpose`: [K, num_output]) and a bias.

    Set by the net: `is_output`, that no ReLU follows, so that it is always computed in float32.
    """

    is_output = False

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read inner_product_param and create weight and bias."""
        param = self.param.inner_product_param
        self.first_axis = self.axis(param.axis, bottom[0])
        self.transpose = param.transpose
        self._half = HalfCopies()
        self.num_output = param.num_output
        self.num_input = math.prod(bottom[0].shape[self.first_axis :])
        shape = [self.num_output, self.num_input]
        self.require(self.num_output > 0, "num_output must be positive")
        self.add_parameter(shape[::-1] if self.transpose else shape, param.weight_filler)
        if param.bias_term:
            self.add_parameter((self.num_output,), param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        shape = bottom[0].shape
        count = math.prod(shape[self.first_axis :])
        self.require(
            count == self.num_input,
            f"a row of the bottom has {count} values, but the weight was made for {self.num_input}",
        )
        top[0].resize((*shape[: self.first_axis], self.num_output))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        x = bottom[0].data_tensor.view(-1, self.num_input)  # [M, K]
        y = top[0].data_tensor.view(-1, self.num_output)  # [M, N]
        weight = self.blobs[0].data_tensor
        if computes_bf16() and not self.is_output:
            x, weight = self._half.of("x", x), self._half.of("weight", weight)
            y.copy_(torch.mm(x, weight if self.transpose else weight.t()))
            if len(self.blobs) > 1:
                y.add_(self.blobs[1].data_tensor)
        elif len(self.blobs) > 1:
            columns = weight if self.transpose else weight.t()  # [K, N]
            torch.addmm(self.blobs[1].data_tensor, x, columns, out=y)
        else:
            torch.mm(x, weight if self.transpose else weight.t(), out=y)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff; add to the parameters' diffs."""
        x = bottom[0].data_tensor.view(-1, self.num_input)  # [M, K]
        dy = top[0].diff_tensor.view(-1, self.num_output)  # [M, N]
        if len(self.blobs) > 1 and self.wants_gradient(1):
            self.blobs[1].diff_tensor.add_(dy.sum(dim=0))
        weight, total = self.blobs[0].data_tensor, self.blobs[0].diff_tensor
        half = computes_bf16() and not self.is_output
        if half:
            x, dy = self._half.of("x", x), self._half.of("dy", dy)
        if self.wants_gradient(0):
            left, right = (x, dy) if self.transpose else (dy, x)
            if half:
                room = self._half.room("gradient", total.shape)
                total.add_(torch.mm(left.t(), right, out=room))
            else:
                total.addmm_(left.t(), right)
        if propagate_down[0]:
            if half:
                weight = self._half.of("weight", weight)
            rows = weight.t() if self.transpose else weight  # [N, K]
            dx = bottom[0].diff_tensor.view(-1, self.num_input)
            if half:
                dx.copy_(torch.mm(dy, rows))
            else:
                torch.mm(dy, rows, out=dx)

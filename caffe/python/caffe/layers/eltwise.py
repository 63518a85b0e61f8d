"""Eltwise: the sum, product or maximum of blobs of one shape."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar

import torch

from caffe.layer import Layer, register
from caffe.proto.caffe_pb2 import EltwiseParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffe.blob import Blob


@register("Eltwise")
class Eltwise(Layer):
    """Combines its bottoms element by element.

    In place it gives Caffe's values, which are of little use: SUM and MAX lose the first bottom.
    """

    bottoms: ClassVar[tuple[int, int | None]] = (2, None)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read eltwise_param."""
        param = self.param.eltwise_param
        self.operation = param.operation
        self.require(
            len(param.coeff) in (0, len(bottom)),
            f"needs one coeff for each of {len(bottom)} bottoms, got {len(param.coeff)}",
        )
        self.require(
            self.operation != EltwiseParameter.PROD or not param.coeff,
            "takes no coeff for operation PROD",
        )
        self.coefficients = list(param.coeff) or [1.0] * len(bottom)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottoms' shape."""
        for blob in bottom[1:]:
            self.require(
                blob.shape == bottom[0].shape,
                f"bottoms differ in shape: {list(bottom[0].shape)} and {list(blob.shape)}",
            )
        top[0].resize(bottom[0].shape)
        self.winners = bottom[0].data_tensor.new_zeros((), dtype=torch.long)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        y, inputs = top[0].data_tensor, [blob.data_tensor for blob in bottom]
        if self.operation == EltwiseParameter.PROD:
            torch.mul(inputs[0], inputs[1], out=y)
            for x in inputs[2:]:
                y.mul_(x)
        elif self.operation == EltwiseParameter.SUM:
            y.zero_()
            for x, coefficient in zip(inputs, self.coefficients, strict=True):
                y.add_(x, alpha=coefficient)
        else:
            y.fill_(torch.finfo(torch.float32).min)
            # Of equal values the second bottom's wins over the first's, but no later one's.
            wins = ~(inputs[0] > inputs[1])
            best, self.winners = torch.where(wins, inputs[1], inputs[0]), wins.long()
            for index, x in enumerate(inputs[2:], 2):
                self.winners = torch.where(x > best, index, self.winners)
                best = torch.where(x > best, x, best)
            y.copy_(best)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the marked bottoms' diffs."""
        y, dy, inputs = top[0].data_tensor, top[0].diff_tensor, [b.data_tensor for b in bottom]
        for index, (blob, down) in enumerate(zip(bottom, propagate_down, strict=True)):
            if not down:
                continue
            dx = blob.diff_tensor
            if self.operation == EltwiseParameter.SUM:
                torch.mul(dy, self.coefficients[index], out=dx)
            elif self.operation == EltwiseParameter.MAX:
                dx.copy_(torch.where(self.winners == index, dy, 0.0))
            elif self.param.eltwise_param.stable_prod_grad:
                others = [x for place, x in enumerate(inputs) if place != index]
                dx.copy_(functools.reduce(torch.mul, others)).mul_(dy)
            else:
                torch.div(y, inputs[index], out=dx).mul_(dy)

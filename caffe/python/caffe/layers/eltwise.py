"""Eltwise: the sum, product or maximum of blobs of one shape."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, ClassVar

import torch

from caffe.layer import TorchLayer, register
from caffe.proto.caffe_pb2 import EltwiseParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


@register("Eltwise")
class Eltwise(TorchLayer):
    """Combines its bottoms element by element."""

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
            self.operation == EltwiseParameter.SUM or not param.coeff,
            "takes coeff for operation SUM only",
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

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        if self.operation == EltwiseParameter.PROD:
            return functools.reduce(operator.mul, bottom)
        if self.operation == EltwiseParameter.SUM:
            terms = [x if c == 1 else x * c for x, c in zip(bottom, self.coefficients, strict=True)]
            return functools.reduce(operator.add, terms)
        # Of equal values, the second wins over the first, but no later one over an earlier.
        best = torch.where(bottom[0] > bottom[1], bottom[0], bottom[1])
        for x in bottom[2:]:
            best = torch.where(x > best, x, best)
        return best

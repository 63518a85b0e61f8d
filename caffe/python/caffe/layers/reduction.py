"""Reduction: sums over the last axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from caffe.layer import TorchLayer, register
from caffe.proto.caffe_pb2 import ReductionParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


@register("Reduction")
class Reduction(TorchLayer):
    """The sum, mean, sum of magnitudes or of squares over all axes from `axis` on, times coeff."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        shape = bottom[0].shape
        first = self.axis(self.param.reduction_param.axis, bottom[0])
        self.size = math.prod(shape[first:])
        self.require(self.size, f"a bottom of the shape {list(shape)} leaves nothing to reduce")
        top[0].resize(shape[:first])

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        param = self.param.reduction_param
        x = bottom[0].reshape(-1, self.size)
        if param.operation == ReductionParameter.ASUM:
            x = x.abs()
        elif param.operation == ReductionParameter.SUMSQ:
            x = x * x
        coeff = param.coeff
        if param.operation == ReductionParameter.MEAN:
            coeff /= self.size
        return x.sum(dim=1) * coeff

"""Layers that normalise: LRN, BatchNorm, MVN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from caffe.layer import Layer, TorchLayer, register
from caffe.proto import caffe_pb2
from caffe.proto.caffe_pb2 import LRNParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


@register("LRN")
class LRN(TorchLayer):
    """X divided by (k + alpha · mean of squares near by) ** beta, over channels or in a channel."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Check lrn_param."""
        size = self.param.lrn_param.local_size
        self.require(size % 2 == 1, f"local_size must be odd, got {size}")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        shape = bottom[0].shape
        self.require(len(shape) == 4, f"needs a bottom of 4 axes, got {list(shape)}")
        top[0].resize(shape)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        param, x = self.param.lrn_param, bottom[0]
        size = param.local_size
        if param.norm_region == LRNParameter.ACROSS_CHANNELS:
            return functional.local_response_norm(x, size, param.alpha, param.beta, param.k)
        means = functional.avg_pool2d(x * x, size, stride=1, padding=size // 2)
        return x * (1 + param.alpha * means) ** -param.beta


@register("BatchNorm")
class BatchNorm(TorchLayer):
    """(x - mean) / √(variance + eps) for each channel.

    Three parameters, which no gradient changes: running sums of means and of variances, and what
    both are to be divided by.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Create the running sums, of zeros, and keep the solver away from them."""
        param = self.param.batch_norm_param
        self.from_sums = self.phase == caffe_pb2.TEST
        if param.HasField("use_global_stats"):
            self.from_sums = param.use_global_stats
        shape = bottom[0].shape
        self.require(len(shape) >= 2, f"needs a bottom of at least 2 axes, got {list(shape)}")
        channels = shape[1]
        for shape in ((channels,), (channels,), (1,)):
            self.add_parameter(shape, caffe_pb2.FillerParameter())
        specs = self.param.param
        while len(specs) < 3:
            specs.add(lr_mult=0.0)
        self.require(
            all(spec.lr_mult == 0 for spec in specs),
            "lr_mult must be 0: its parameters are statistics, not weights",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        shape, channels = bottom[0].shape, self.blobs[0].count
        self.require(
            shape[1:2] == (channels,),
            f"bottom has the shape {list(shape)}, but the layer was set up for {channels} channels",
        )
        self.require(bottom[0].count, f"a bottom of the shape {list(shape)} has no statistics")
        top[0].resize(shape)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of every channel of x [N, C, …]."""
        if self.from_sums:
            mean, variance, factor = (blob.data_tensor for blob in self.blobs)
            scale = torch.where(factor == 0, 0.0, 1 / factor)
            return mean * scale, variance * scale
        rows = self._rows(x)
        mean = rows.mean(dim=(0, 2))
        return mean, (rows - mean[:, None]).square().mean(dim=(0, 2))

    def _rows(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.blobs[0].count, -1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data; in training, add to the running sums."""
        if not self.from_sums:
            x = bottom[0].data_tensor
            mean, variance = self._statistics(x)
            samples = x.numel() // mean.numel()
            fraction = self.param.batch_norm_param.moving_average_fraction
            correction = samples / (samples - 1) if samples > 1 else 1.0
            sums = [blob.data_tensor for blob in self.blobs]
            sums[0].mul_(fraction).add_(mean)
            sums[1].mul_(fraction).add_(variance, alpha=correction)
            sums[2].mul_(fraction).add_(1)
        super().forward(bottom, top)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff, marked or not as in Caffe."""
        super().backward(top, [True], bottom)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        mean, variance = self._statistics(bottom[0])
        scale = (variance + self.param.batch_norm_param.eps).sqrt()
        rows = (self._rows(bottom[0]) - mean[:, None]) / scale[:, None]
        return rows.view(bottom[0].shape)


@register("MVN")
class MVN(Layer):
    """X less its mean and divided by its deviation, for each image or each channel of one."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape, with 1s after it up to four axes unless in place."""
        shape = bottom[0].shape
        self.require(len(shape) <= 4, f"needs a bottom of at most 4 axes, got {list(shape)}")
        shape = (*shape, *[1] * (4 - len(shape)))
        if top[0] is not bottom[0]:
            top[0].resize(shape)
        across = self.param.mvn_param.across_channels
        # What is normalised together makes a row.
        self.rows = (math.prod(shape[: 1 if across else 2]), math.prod(shape[1 if across else 2 :]))
        self.deviation = bottom[0].data_tensor.new_ones(self.rows[0], 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        x, y = bottom[0].data_tensor.view(self.rows), top[0].data_tensor.view(self.rows)
        torch.sub(x, x.mean(dim=1, keepdim=True), out=y)
        if self.param.mvn_param.normalize_variance:
            variance = y.square().mean(dim=1, keepdim=True)
            self.deviation = variance.sqrt() + self.param.mvn_param.eps
            y.div_(self.deviation)

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff by Caffe's formula, in which eps is as if it were not there.

        It is computed step by step in the bottom's diff; in place, where that is the top's too,
        it comes out as in Caffe, which is not the gradient.  It is written marked or not.
        """
        y, dy = top[0].data_tensor.view(self.rows), top[0].diff_tensor.view(self.rows)
        dx = bottom[0].diff_tensor.view(self.rows)
        if not self.param.mvn_param.normalize_variance:
            torch.sub(dy, dy.mean(dim=1, keepdim=True), out=dx)
            return
        torch.mul(y, dy, out=dx)
        torch.mul(y, dx.sum(dim=1, keepdim=True), out=dx)
        dx.add_(dy.sum(dim=1, keepdim=True))
        dx.mul_(-1 / max(1, self.rows[1])).add_(dy).div_(self.deviation)

"""Losses: a scalar top, of weight 1 unless the prototxt says otherwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from caffe.layer import TorchLayer, register
from caffe.proto.caffe_pb2 import LossParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, _value: Tensor, result: Tensor) -> Tensor:
        return result.clone()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def straight_through(value: Tensor, forward: Tensor) -> Tensor:
    """Return `forward`, to the bit, with the gradient of `value`."""
    result: Tensor = _StraightThrough.apply(value, forward.detach())  # type: ignore[no-untyped-call]
    return result


def normalizer(
    mode: LossParameter.NormalizationMode, num_all: int, num_valid: int, batch: int
) -> float:
    """Return what a sum of losses is divided by, at least 1."""
    sizes = {
        LossParameter.FULL: num_all,
        LossParameter.VALID: num_valid,
        LossParameter.BATCH_SIZE: batch,
        LossParameter.NONE: 1,
    }
    return max(1.0, float(sizes[mode]))


class Loss(TorchLayer):
    """Two bottoms with as many rows, prediction and label; a scalar top."""

    bottoms: ClassVar[tuple[int, int | None]] = (2, 2)
    auto_tops: ClassVar[bool] = True
    is_loss: ClassVar[bool] = True
    constants: ClassVar[tuple[int, ...]] = (1,)

    def allows_force_backward(self, bottom_index: int) -> bool:
        """Return True but for the label."""
        return bottom_index not in self.constants

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar."""
        rows = [blob.shape[self.axis(0, blob)] for blob in bottom[:2]]
        self.require(rows[0] == rows[1], f"bottoms have {rows[0]} and {rows[1]} rows")
        top[0].resize(())

    def require_columns(self, blob: Blob, columns: int, name: str) -> None:
        """Check that a blob is [N], if columns is 1, or [N, columns], perhaps with axes of 1."""
        shape = (*blob.shape[:4], *(1,) * (4 - len(blob.shape)))
        self.require(
            len(blob.shape) <= 4 and shape[1:] == (columns, 1, 1),
            f"{name} must have {columns} columns in each row, but is {list(blob.shape)}",
        )


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """Σ (a - b)² / 2N; both bottoms get gradients."""

    constants: ClassVar[tuple[int, ...]] = ()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar."""
        super().reshape(bottom, top)
        columns = [math.prod(blob.shape[1:]) for blob in bottom]
        self.require(
            columns[0] == columns[1], f"bottoms have {columns[0]} and {columns[1]} columns"
        )

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the loss."""
        difference = bottom[0].reshape(-1) - bottom[1].reshape(-1)
        return difference.dot(difference) / (2 * bottom[0].shape[0])


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """-Σ t log p + (1 - t) log(1 - p) with p = sigmoid(x), divided by the batch by default."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar."""
        super().reshape(bottom, top)
        self.require(
            bottom[0].count == bottom[1].count,
            f"bottoms hold {bottom[0].count} and {bottom[1].count} values",
        )

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the loss."""
        param, targets = self.param.loss_param, bottom[1].detach().reshape(-1)
        mode = LossParameter.BATCH_SIZE
        if param.HasField("normalization"):
            mode = param.normalization
        elif param.HasField("normalize") and param.normalize:
            mode = LossParameter.VALID
        valid = torch.ones_like(targets, dtype=torch.bool)
        if param.HasField("ignore_label"):
            valid = targets.trunc() != param.ignore_label
        losses = functional.binary_cross_entropy_with_logits(
            bottom[0].reshape(-1), targets, reduction="none"
        )
        size = normalizer(mode, valid.numel(), int(valid.sum()), bottom[0].shape[0])
        return torch.where(valid, losses, 0.0).sum() / size


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Hadsell et al., 2006: pulls pairs together where the third bottom is not 0, others apart."""

    bottoms: ClassVar[tuple[int, int | None]] = (3, 3)
    constants: ClassVar[tuple[int, ...]] = ()

    def allows_force_backward(self, bottom_index: int) -> bool:
        """Return True but for the third bottom, which gets no gradient."""
        return bottom_index != 2

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Check that the first bottoms are matrices and the third one is a column."""
        columns = math.prod(bottom[0].shape[1:2])
        for index, blob in enumerate(bottom):
            self.require_columns(blob, 1 if index == 2 else columns, f"bottom {index}")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar."""
        super().reshape(bottom, top)
        rows = bottom[0].shape[0]
        self.require(bottom[0].count == bottom[1].count, "the first bottoms must have one size")
        self.require(bottom[2].count >= rows, f"bottom 2 must have {rows} values")

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the loss; where a pair is pushed apart, the gradient is Caffe's, not quite its."""
        param, rows = self.param.contrastive_loss_param, bottom[0].shape[0]
        columns = math.prod(bottom[0].shape[1:])
        difference = bottom[0].reshape(rows, columns) - bottom[1].reshape(rows, columns)
        squares = difference.square().sum(1)  # [N]
        if param.legacy_version:
            apart = functional.relu(param.margin - squares)
        else:
            distance = squares.detach().sqrt()
            room = functional.relu(param.margin - distance)
            # Caffe divides by the distance + 1e-4, so that equal pairs do no harm.
            slope = -room / (distance + 1e-4)
            apart = straight_through(slope * squares, room.square())
        similar = bottom[2].detach().reshape(-1)[:rows].trunc() != 0
        return torch.where(similar, squares, apart).sum() / (2 * rows)

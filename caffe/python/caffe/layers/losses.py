"""Losses: a scalar top, of weight 1 unless the prototxt says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from caffe.layer import TorchLayer, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


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
        rows = [blob.shape[:1] for blob in bottom[:2]]
        self.require(rows[0] == rows[1], f"bottoms have {rows[0]} and {rows[1]} rows")
        top[0].resize(())


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """Σ (a - b)² / 2N; both bottoms get gradients."""

    constants: ClassVar[tuple[int, ...]] = ()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar."""
        super().reshape(bottom, top)
        counts = [blob.count // max(1, blob.shape[0]) for blob in bottom]
        self.require(counts[0] == counts[1], f"bottoms have {counts[0]} and {counts[1]} columns")

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the loss."""
        difference = bottom[0].reshape(-1) - bottom[1].reshape(-1)
        return difference.dot(difference) / (2 * bottom[0].shape[0])

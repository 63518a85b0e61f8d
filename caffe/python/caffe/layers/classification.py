"""Softmax, the losses of classifiers, and Accuracy.  Labels are class indices, as float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from caffe.layer import Layer, register
from caffe.layers.losses import Loss, normalizer, straight_through
from caffe.proto import caffe_pb2
from caffe.proto.caffe_pb2 import HingeLossParameter, LossParameter
from caffe.prototxt import read_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob

# The least probability whose logarithm is taken.
_LEAST_SOFTMAX = torch.finfo(torch.float32).tiny
_LEAST_PROBABILITY = 1e-20


@register("Softmax")
class Softmax(Layer):
    """eˣ / Σ eˣ along an axis; its gradient is made of the top's data."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top the bottom's shape."""
        self.dim = self.axis(self.param.softmax_param.axis, bottom[0])
        top[0].resize(bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        top[0].data_tensor.copy_(torch.softmax(bottom[0].data_tensor, self.dim))

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the bottom's diff: y · (dy - Σ dy · y)."""
        if propagate_down[0]:
            y, dy = top[0].data_tensor, top[0].diff_tensor
            bottom[0].diff_tensor.copy_(y * (dy - (y * dy).sum(self.dim, keepdim=True)))


class _Classifying(Loss):
    """A loss of scores [outer…, C, inner…] and labels [outer…, inner…]."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read loss_param."""
        param = self.param.loss_param
        self.ignored = param.ignore_label if param.HasField("ignore_label") else None
        self.mode = param.normalization
        if not param.HasField("normalization") and param.HasField("normalize"):
            self.mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE

    def class_axis(self) -> int:
        """Return the axis of the classes, as the prototxt has it."""
        return self.param.softmax_param.axis

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar; check that there is a label for every row of scores."""
        super().reshape(bottom, top)
        shape = bottom[0].shape
        axis = self.axis(self.class_axis(), bottom[0])
        self.outer, self.classes = math.prod(shape[:axis]), shape[axis]
        self.inner = math.prod(shape[axis + 1 :])
        self.require(
            self.outer * self.inner == bottom[1].count,
            f"{self.outer * self.inner} labels are needed for scores {list(shape)}, "
            f"got {bottom[1].count}",
        )

    def rows(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores [M, C], labels [M], and which of them count; others are label 0."""
        scores = scores.reshape(self.outer, self.classes, self.inner).transpose(1, 2)
        size = self.outer * self.inner
        targets = labels.detach().reshape(-1)[:size].long()
        valid = torch.ones_like(targets, dtype=torch.bool)
        if self.ignored is not None:
            valid = targets != self.ignored
        targets = torch.where(valid, targets, 0)
        self.require(
            not targets.numel() or (targets.min() >= 0 and targets.max() < self.classes),
            f"a label lies outside 0 … {self.classes - 1}",
        )
        return scores.reshape(size, self.classes), targets, valid

    def total(self, losses: Tensor, valid: Tensor) -> Tensor:
        """Return the sum of the losses that count, divided by the normalizer."""
        size = normalizer(self.mode, valid.numel(), int(valid.sum()), self.outer)
        return torch.where(valid, losses, 0.0).sum() / size


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(_Classifying):
    """The mean of -log softmax(x)[label]."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the loss."""
        scores, labels, valid = self.rows(*bottom)
        logs = torch.log_softmax(scores, 1).gather(1, labels[:, None])[:, 0]
        logs = straight_through(logs, logs.clamp(min=math.log(_LEAST_SOFTMAX)))
        return self.total(-logs, valid)


@register("InfogainLoss")
class InfogainLoss(_Classifying):
    """The mean of -Σ H[label, k] log softmax(x)[k]; H is a third bottom or a file.

    A second top is softmax(x).
    """

    bottoms: ClassVar[tuple[int, int | None]] = (2, 3)
    tops: ClassVar[tuple[int, int | None]] = (1, 2)
    constants: ClassVar[tuple[int, ...]] = (1, 2)

    def class_axis(self) -> int:
        """Return the axis of the classes, as the prototxt has it."""
        return self.param.infogain_loss_param.axis

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read loss_param, and H if it is a file."""
        super().setup(bottom, top)
        self.require(
            not self.param.loss_param.HasField("normalize"),
            "takes loss_param's normalization, not the older normalize",
        )
        self.matrix: Tensor | None = None
        if len(bottom) == 2:
            source = self.param.infogain_loss_param.source
            self.require(source, "needs H as a third bottom or infogain_loss_param's source")
            proto = read_binary(source, caffe_pb2.BlobProto())
            self.matrix = torch.tensor(list(proto.double_data or proto.data))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the loss a scalar; check the size of H."""
        super().reshape(bottom, top)
        for blob in top[1:]:
            blob.resize(bottom[0].shape)
        count = bottom[2].count if self.matrix is None else self.matrix.numel()
        self.require(
            count == self.classes**2,
            f"H must hold {self.classes} × {self.classes} values, got {count}",
        )

    def compute(self, *bottom: Tensor) -> Sequence[Tensor]:
        """Return the loss and the probabilities."""
        scores, labels, valid = self.rows(bottom[0], bottom[1])
        logs = torch.log_softmax(scores, 1)
        logs = straight_through(logs, logs.clamp(min=math.log(_LEAST_PROBABILITY)))
        matrix = bottom[2].detach() if self.matrix is None else self.matrix
        weights = matrix.reshape(self.classes, self.classes)[labels]
        probabilities = torch.softmax(bottom[0].detach(), self.class_axis())
        return self.total(-(weights * logs).sum(1), valid), probabilities


class _OfImages(_Classifying):
    """A loss for which all values of an image are its scores, and no label is ignored."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Do not read loss_param."""
        self.ignored = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar."""
        Loss.reshape(self, bottom, top)
        self.outer, self.inner = bottom[0].shape[0], 1
        self.classes = math.prod(bottom[0].shape[1:])
        self.require(bottom[1].count >= self.outer, f"{self.outer} labels are needed")


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(_OfImages):
    """The mean of -log p[label], for probabilities p."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the top a scalar; check that the labels are a column."""
        super().reshape(bottom, top)
        self.require_columns(bottom[1], 1, "the label")

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the loss."""
        rows, labels, _ = self.rows(*bottom)
        chosen = rows.gather(1, labels[:, None])[:, 0]
        chosen = straight_through(chosen, chosen.clamp(min=_LEAST_PROBABILITY))
        return -chosen.log().sum() / self.outer


@register("HingeLoss")
class HingeLoss(_OfImages):
    """The mean over rows of Σ max(0, 1 ± x), the sign being - for the label; L2 squares it."""

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the loss."""
        rows, labels, _ = self.rows(*bottom)
        signs = torch.ones_like(rows).scatter_(1, labels[:, None], -1.0)
        margins = functional.relu(1 + signs * rows)
        if self.param.hinge_loss_param.norm == HingeLossParameter.L2:
            margins = margins.square()
        return margins.sum() / self.outer


@register("Accuracy")
class Accuracy(Layer):
    """The part of labels that are among the top_k scores; a second top has it for each class."""

    bottoms: ClassVar[tuple[int, int | None]] = (2, 2)
    tops: ClassVar[tuple[int, int | None]] = (1, 2)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the first top a scalar."""
        param, shape = self.param.accuracy_param, bottom[0].shape
        self.dim = self.axis(param.axis, bottom[0])
        self.classes = shape[self.dim]
        self.require(
            bottom[1].count * self.classes == bottom[0].count,
            f"{bottom[0].count // max(1, self.classes)} labels are needed, got {bottom[1].count}",
        )
        self.require(
            param.top_k <= self.classes, f"top_k {param.top_k} exceeds {self.classes} classes"
        )
        top[0].resize(())
        for blob in top[1:]:
            blob.resize((self.classes,))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' data; scores equal to the label's count as better than it."""
        param, x = self.param.accuracy_param, bottom[0].data_tensor
        scores = x.movedim(self.dim, -1).reshape(-1, self.classes)
        labels = bottom[1].data_tensor.reshape(-1).long()
        if param.HasField("ignore_label"):
            valid = labels != param.ignore_label
            scores, labels = scores[valid], labels[valid]
        self.require(
            not labels.numel() or (labels.min() >= 0 and labels.max() < self.classes),
            f"a label lies outside 0 … {self.classes - 1}",
        )
        own = scores.gather(1, labels[:, None])
        hits = ((scores >= own).sum(1) <= param.top_k).to(x.dtype)
        top[0].data_tensor.fill_(float(hits.sum()) / max(1, hits.numel()))
        if len(top) > 1:
            ones = torch.ones_like(hits)
            counts = torch.zeros(self.classes).index_add_(0, labels, ones)
            right = torch.zeros(self.classes).index_add_(0, labels, hits)
            top[1].data_tensor.copy_(right / counts.clamp(min=1))

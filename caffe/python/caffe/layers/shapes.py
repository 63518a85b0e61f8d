"""Layers that move values without computing: Split, Slice, Concat, Flatten, Reshape, Silence."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, ClassVar

import torch

from caffe.layer import Layer, TorchLayer, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


@register("Split")
class Split(Layer):
    """Hands one blob to several layers: tops share its data, their diffs are summed."""

    tops: ClassVar[tuple[int, int | None]] = (1, None)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops the bottom's shape and memory."""
        for blob in top:
            self.require(blob is not bottom[0], "does not allow in-place computation")
            blob.resize(bottom[0].shape)
            blob.share_data(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the memory that the tops share up to date."""
        bottom[0].values.settle()

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the sum of the tops' diffs."""
        if not propagate_down[0]:
            return
        total = bottom[0].diff_tensor
        total.copy_(top[0].diff_tensor)
        for blob in top[1:]:
            total.add_(blob.diff_tensor)


class _Reshaping(Layer):
    """A layer whose top is its bottom, in another shape."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Make the memory that the top shares up to date."""
        bottom[0].values.settle()

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the top's diff, in the bottom's shape."""
        if propagate_down[0]:
            bottom[0].diff_tensor.view(-1).copy_(top[0].diff_tensor.view(-1))


@register("Flatten")
class Flatten(_Reshaping):
    """Makes the axes from `axis` to `end_axis` one; where there is none, it adds one of size 1."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape and the bottom's memory."""
        self.require(top[0] is not bottom[0], "does not allow in-place computation")
        param, shape = self.param.flatten_param, bottom[0].shape
        first, last = self.axis(param.axis, bottom[0]), self.axis(param.end_axis, bottom[0])
        self.require(first <= last + 1, f"axis {param.axis} lies behind end_axis {param.end_axis}")
        top[0].resize((*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))
        top[0].share_data(bottom[0])


@register("Reshape")
class Reshape(_Reshaping):
    """Replaces `num_axes` axes from `axis` on by others; 0 copies a size, -1 is inferred."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Check reshape_param."""
        self.require(top[0] is not bottom[0], "does not allow in-place computation")
        self.dims = list(self.param.reshape_param.shape.dim)
        self.require(self.dims.count(-1) <= 1, f"shape {self.dims} has more than one -1")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape and the bottom's memory."""
        param, shape = self.param.reshape_param, bottom[0].shape
        first = param.axis if param.axis >= 0 else len(shape) + param.axis + 1
        self.require(0 <= first <= len(shape), f"axis {param.axis} does not fit {list(shape)}")
        self.require(param.num_axes >= -1, f"num_axes must be at least -1, got {param.num_axes}")
        last = len(shape) if param.num_axes == -1 else first + param.num_axes
        self.require(last <= len(shape), f"num_axes {param.num_axes} does not fit {list(shape)}")
        self.require(
            all(dim or first + index < len(shape) for index, dim in enumerate(self.dims)),
            f"shape {self.dims} copies an axis that {list(shape)} does not have",
        )
        new = [dim or shape[first + index] for index, dim in enumerate(self.dims)]
        if -1 in new:
            known = math.prod(shape[:first] + shape[last:]) * -math.prod(new)
            self.require(
                known and bottom[0].count % known == 0,
                f"{bottom[0].count} values do not divide by {known} for the -1 of {self.dims}",
            )
            new[new.index(-1)] = bottom[0].count // known
        dims = (*shape[:first], *new, *shape[last:])
        self.require(
            math.prod(dims) == bottom[0].count,
            f"{list(shape)} has not as many values as {list(dims)}",
        )
        top[0].resize(dims)
        top[0].share_data(bottom[0])


@register("Concat")
class Concat(TorchLayer):
    """Joins its bottoms along an axis."""

    bottoms: ClassVar[tuple[int, int | None]] = (1, None)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        param = self.param.concat_param
        self.require(
            not (param.HasField("axis") and param.HasField("concat_dim")),
            "give either axis or concat_dim, not both",
        )
        axis = param.concat_dim if param.HasField("concat_dim") else param.axis
        self.dim = self.axis(axis, bottom[0])
        first = bottom[0].shape
        for blob in bottom[1:]:
            self.require(
                len(blob.shape) == len(first)
                and all(
                    a == b
                    for i, (a, b) in enumerate(zip(first, blob.shape, strict=True))
                    if i != self.dim
                ),
                f"shapes {list(first)} and {list(blob.shape)} differ beside axis {self.dim}",
            )
        total = sum(blob.shape[self.dim] for blob in bottom)
        top[0].resize((*first[: self.dim], total, *first[self.dim + 1 :]))
        if len(bottom) == 1:
            top[0].share_data(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        if len(bottom) == 1:
            bottom[0].values.settle()
        else:
            torch.cat([blob.data_tensor for blob in bottom], self.dim, out=top[0].data_tensor)

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.cat(bottom, self.dim)


@register("Slice")
class Slice(TorchLayer):
    """Cuts its bottom along an axis, into equal parts or at `slice_point`s."""

    tops: ClassVar[tuple[int, int | None]] = (1, None)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes."""
        param = self.param.slice_param
        self.require(
            not (param.HasField("axis") and param.HasField("slice_dim")),
            "give either axis or slice_dim, not both",
        )
        axis = param.slice_dim if param.HasField("slice_dim") else param.axis
        self.dim = self.axis(axis, bottom[0])
        shape, points = bottom[0].shape, list(param.slice_point)
        total = shape[self.dim]
        if points:
            self.require(
                len(points) == len(top) - 1,
                f"{len(top)} tops need {len(top) - 1} slice points, got {len(points)}",
            )
            edges = [0, *points, total]
            self.sizes = [after - before for before, after in itertools.pairwise(edges)]
            self.require(
                min(self.sizes) > 0, f"slice points {points} must rise, between 0 and {total}"
            )
        else:
            self.require(
                total % len(top) == 0, f"{len(top)} tops do not divide axis {axis} of size {total}"
            )
            self.sizes = [total // len(top)] * len(top)
        for blob, size in zip(top, self.sizes, strict=True):
            blob.resize((*shape[: self.dim], size, *shape[self.dim + 1 :]))
        if len(top) == 1:
            top[0].share_data(bottom[0])

    def compute(self, *bottom: Tensor) -> Sequence[Tensor]:
        """Return the tops' values."""
        return torch.split(bottom[0], self.sizes, self.dim)


@register("Silence")
class Silence(Layer):
    """Takes blobs that nobody wants among the net's outputs."""

    bottoms: ClassVar[tuple[int, int | None]] = (1, None)
    tops: ClassVar[tuple[int, int | None]] = (0, 0)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Do nothing."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Do nothing."""

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write zeros."""
        for blob, down in zip(bottom, propagate_down, strict=True):
            if down:
                blob.diff_tensor.zero_()

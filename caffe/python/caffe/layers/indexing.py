"""Layers that pick, repeat or look up: Embed, Crop, Tile, Filter, BatchReindex, ArgMax, Im2col."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from caffe.layer import Layer, TorchLayer, register
from caffe.layers.convolution import Windowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


@register("Embed")
class Embed(TorchLayer):
    """A row of the weight [input_dim, num_output] for every index of the bottom, plus a bias."""

    constants: ClassVar[tuple[int, ...]] = (0,)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read embed_param and create weight and bias."""
        param = self.param.embed_param
        self.require(
            param.num_output > 0 and param.input_dim > 0,
            "num_output and input_dim must be positive",
        )
        self.add_parameter((param.input_dim, param.num_output), param.weight_filler)
        if param.bias_term:
            self.add_parameter((param.num_output,), param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        top[0].resize((*bottom[0].shape, self.param.embed_param.num_output))

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        indices, size = bottom[0].long(), self.param.embed_param.input_dim
        self.require(
            not indices.numel() or (indices.min() >= 0 and indices.max() < size),
            f"an index lies outside 0 … {size - 1}",
        )
        y = functional.embedding(indices, self.weights[0])
        return y + self.weights[1] if len(self.weights) > 1 else y


@register("Crop")
class Crop(TorchLayer):
    """The first bottom, cut from `axis` on to the second one's sizes there, at the offsets."""

    bottoms: ClassVar[tuple[int, int | None]] = (2, 2)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        param, shape, reference = self.param.crop_param, bottom[0].shape, bottom[1].shape
        first, num_axes = self.axis(param.axis, bottom[0]), len(shape)
        self.require(len(reference) >= num_axes, f"the second bottom must have {num_axes} axes")
        number = num_axes - first
        self.require(
            len(param.offset) in (0, 1, number),
            f"offset must be given 0, 1 or {number} times, got {len(param.offset)}",
        )
        offsets = list(param.offset) or [0]
        offsets *= num_axes if len(offsets) == 1 else 1
        reference = reference[:num_axes]
        self.cuts = [slice(None)] * first
        for size, wanted, offset in zip(shape[first:], reference[first:], offsets, strict=False):
            self.require(
                offset + wanted <= size,
                f"{wanted} values from {offset} on do not fit an axis of {size}",
            )
            self.cuts.append(slice(offset, offset + wanted))
        top[0].resize((*shape[:first], *reference[first:]))

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return bottom[0][tuple(self.cuts)].contiguous()


@register("Tile")
class Tile(TorchLayer):
    """`tiles` copies of the bottom, joined along an axis."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        param = self.param.tile_param
        self.require(param.tiles > 0, f"tiles must be positive, got {param.tiles}")
        self.dim = self.axis(param.axis, bottom[0])
        shape = list(bottom[0].shape)
        shape[self.dim] *= param.tiles
        top[0].resize(tuple(shape))

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        return torch.cat([bottom[0]] * self.param.tile_param.tiles, self.dim)


@register("Filter")
class Filter(TorchLayer):
    """Those rows of all bottoms but the last for which the last one is not 0."""

    bottoms: ClassVar[tuple[int, int | None]] = (2, None)
    tops: ClassVar[tuple[int, int | None]] = (1, None)
    reshapes_always: ClassVar[bool] = True  # the tops' shapes depend on the selector's values

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Check the bottoms and the tops."""
        self.require(len(top) == len(bottom) - 1, "needs one bottom more than tops")
        self.require(
            not any(above is below for above in top for below in bottom),
            "cannot be computed in place",
        )
        self._selector_is_empty = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes: at first, when the selector has no values yet, every row."""
        rows = bottom[-1].shape[self.axis(0, bottom[-1])]
        selector = bottom[-1].shape
        self.require(
            all(size == 1 for size in selector[1:]),
            f"the selector {list(selector)} is not a column",
        )
        self.require(
            all(blob.shape[:1] == selector[:1] for blob in bottom),
            "the selector must have as many rows as the other bottoms",
        )
        if not self._selector_is_empty:
            rows = int(torch.count_nonzero(bottom[-1].data_tensor))
        self._selector_is_empty = False
        for below, above in zip(bottom, top, strict=False):
            above.resize((rows, *below.shape[1:]))

    def backward(
        self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]
    ) -> None:
        """Write the diffs of the marked bottoms, of which the selector must not be one."""
        self.require(not propagate_down[-1], "cannot backpropagate to its selector")
        super().backward(top, propagate_down, bottom)

    def compute(self, *bottom: Tensor) -> Sequence[Tensor]:
        """Return the tops' values."""
        rows = bottom[-1].detach().view(-1).nonzero().view(-1)
        return [x.index_select(0, rows) for x in bottom[:-1]]


@register("BatchReindex")
class BatchReindex(TorchLayer):
    """The rows of the first bottom that the second one lists."""

    bottoms: ClassVar[tuple[int, int | None]] = (2, 2)
    constants: ClassVar[tuple[int, ...]] = (1,)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        self.require(len(bottom[1].shape) == 1, "the second bottom must have one axis")
        self.axis(0, bottom[0])
        top[0].resize((*bottom[1].shape, *bottom[0].shape[1:]))

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        rows, size = bottom[1].detach().long(), bottom[0].shape[0]
        self.require(
            not rows.numel() or (rows.min() >= 0 and rows.max() < size),
            f"an index lies outside 0 … {size - 1}",
        )
        return bottom[0].index_select(0, rows)


@register("ArgMax")
class ArgMax(Layer):
    """The places, or the values, of the `top_k` greatest; of equal ones the last comes first."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        param, shape = self.param.argmax_param, bottom[0].shape
        self.has_axis = param.HasField("axis")
        if self.has_axis:
            self.dim = self.axis(param.axis, bottom[0])
            self.size, dims = shape[self.dim], list(shape)
            dims[self.dim] = param.top_k
        else:
            self.axis(0, bottom[0])
            self.size = math.prod(shape[1:])
            dims = [1] * max(3, len(shape))
            dims[0], dims[2] = shape[0], param.top_k
            dims[1] = 2 if param.out_max_val else 1
        self.require(
            1 <= param.top_k <= self.size,
            f"top_k {param.top_k} must lie between 1 and {self.size}",
        )
        top[0].resize(tuple(dims))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the top's data."""
        param, x = self.param.argmax_param, bottom[0].data_tensor
        x, dim = (x, self.dim) if self.has_axis else (x.view(x.shape[0], self.size), 1)
        values, places = x.flip(dim).sort(dim=dim, descending=True, stable=True)
        values = values.narrow(dim, 0, param.top_k)
        places = (x.shape[dim] - 1 - places.narrow(dim, 0, param.top_k)).to(x.dtype)
        result = values if param.out_max_val else places
        if param.out_max_val and not self.has_axis:
            result = torch.stack([places, values], 1)
        top[0].data_tensor.copy_(result.reshape(top[0].shape))


@register("Im2col")
class Im2col(Windowed, TorchLayer):
    """Every window of a convolution as a column: [N, C · kernel…, out…]."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read convolution_param."""
        self.read_windows(bottom[0])
        self.require(self.kernel, "needs a bottom with spatial axes")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        shape, axis = bottom[0].shape, self.channel_axis
        self.out = self.window_counts(shape[axis + 1 :])
        num_places = len(list(itertools.product(*map(range, self.kernel))))
        top[0].resize((*shape[:axis], shape[axis] * num_places, *self.out))

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        edges = [pad for pad in reversed(self.pad) for _ in (0, 1)]
        x, first = functional.pad(self.with_overhang(bottom[0]), edges), self.channel_axis + 1
        columns = []
        for place in itertools.product(*map(range, self.kernel)):
            part = x
            for axis, offset in enumerate(place):
                start = offset * self.dilation[axis]
                stop = start + (self.out[axis] - 1) * self.stride[axis] + 1
                cut = [slice(None)] * (first + axis) + [slice(start, stop, self.stride[axis])]
                part = part[tuple(cut)]
            columns.append(part)
        return torch.stack(columns, first).flatten(self.channel_axis, first)

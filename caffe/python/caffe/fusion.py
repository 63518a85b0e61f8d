"""Which layers of a net compute together, and which stay apart from bfloat16.

All of this is for speed or precision: a net without it gives the same, but for rounding.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from caffe.layers.activations import Power, ReLU
from caffe.layers.convolution import BaseConvolution
from caffe.layers.inner_product import InnerProduct
from caffe.tuning import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffe.layer import Layer

Indices = list[list[int]]


def fuse(
    layers: Sequence[Layer], bottoms: Indices, tops: Indices
) -> dict[int, BaseConvolution | InnerProduct]:
    """Tell layers about their neighbours.

    Args:
        layers: All layers of a net.
        bottoms: Per layer, the indices of its bottoms.
        tops: Per layer, the indices of its tops.

    Returns:
        The layers that can apply the ReLU that follows in place, by the place of the ReLU.
    """
    readers = Counter(index for indices in bottoms for index in indices)
    reader = {index: layer for layer, row in zip(layers, bottoms, strict=True) for index in row}
    rectified = {
        index
        for layer, row in zip(layers, bottoms, strict=True)
        for index in row
        if layer.type in ("ReLU", "PReLU", "ELU")
    }
    joined: dict[int, BaseConvolution | InnerProduct] = {}
    for i, layer in enumerate(layers):
        if isinstance(layer, InnerProduct):
            layer.is_output = tops[i][0] not in rectified
        if isinstance(layer, Power) and readers[tops[i][0]] == 1:
            follower = reader[tops[i][0]]
            layer.reader = follower if isinstance(follower, BaseConvolution) else None
        if (
            i + 1 < len(layers)
            and isinstance(layer, BaseConvolution | InnerProduct)
            and _is_plain_relu(layers[i + 1])
            and bottoms[i + 1] == tops[i + 1] == tops[i]
        ):
            joined[i + 1] = layer
    return joined


def _is_plain_relu(layer: Layer) -> bool:
    return isinstance(layer, ReLU) and not layer.slope


def convolutions(
    layers: Sequence[Layer], bottoms: Indices, tops: Indices, needs_diff: Sequence[Sequence[bool]]
) -> list[Place]:
    """Return the convolutions among the layers, for whoever chooses how they are computed."""
    makers: dict[int, int] = {}
    for i, row in enumerate(tops):
        for index in row:
            makers.setdefault(index, i)

    def is_convolved(index: int) -> bool:
        maker = makers[index]
        if isinstance(layers[maker], ReLU):
            return is_convolved(bottoms[maker][0])
        return isinstance(layers[maker], BaseConvolution)

    return [
        Place(layer, needs_diff[i][0], is_convolved(bottoms[i][0]))
        for i, layer in enumerate(layers)
        if isinstance(layer, BaseConvolution)
    ]

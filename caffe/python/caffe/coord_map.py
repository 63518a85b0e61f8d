"""How the coordinates of one top of a NetSpec relate to another's: for cropping; no PyTorch.

A map is (axis, scale, shift): position x of a layer's bottom is position `scale · x + shift` of
its top, on every axis behind `axis`, the channels' (1 for images); axis None stands for a map that
holds on any.  Where a layer has a value for each axis, scale and shift are arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from caffe.errors import CaffeCallError, CaffeError
from caffe.net_spec import layers

if TYPE_CHECKING:
    from caffe.net_spec import Function, Top

    Map = tuple[int | None, Any, Any]

#: Layers that leave coordinates as they are.
PASS_THROUGH_LAYERS = [
    "AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp", "MVN",
    "Power", "ReLU", "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold",
]  # fmt: skip
_IDENTITY: Map = (None, 1, 0)
_LEGACY = ("pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w")


class UndefinedMapException(CaffeError):  # noqa: N818  # pycaffe's name
    """A layer through which coordinates cannot be followed."""


class AxisMismatchException(CaffeError):  # noqa: N818  # pycaffe's name
    """Maps of different axes in a row."""


class CropError(CaffeError, AssertionError):
    """Tops or settings that `crop` cannot relate; pycaffe fails an assertion."""


def conv_params(fn: Function) -> tuple[int, Any, Any, Any]:
    """Return axis, stride, reach of the kernel (dilated), and pad of a layer with a kernel.

    Raises:
        CropError: If they are given for height and width apart.
    """
    params = fn.params.get("convolution_param", fn.params)
    legacy = sorted(set(_LEGACY) & set(params))
    if legacy or "kernel_size" not in params:
        raise CropError(
            f"coordinates are followed through a {fn.type_name} whose kernel is given as "
            f"kernel_size; this one has {', '.join(legacy) or 'none'}"
        )
    kernel, dilation, stride, pad = (
        np.array(params.get(name, default), ndmin=1)
        for name, default in (("kernel_size", 1), ("dilation", 1), ("stride", 1), ("pad", 0))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Function) -> tuple[int, Any]:
    """Return axis and offset of a Crop layer."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> Map:
    """Return the map from a layer's bottom to its top.

    Raises:
        UndefinedMapException: If the layer has none.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, reach, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (reach - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, reach, pad = conv_params(fn)
        return axis, stride, (reach - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return _IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset  # Crop's axis is the first with coordinates
    raise UndefinedMapException(f"coordinates cannot be followed through {fn.type_name}")


def compose(base_map: Map, next_map: Map) -> Map:
    """Return the map that applies the second map and then the first.

    Raises:
        AxisMismatchException: If they are of different axes.
    """
    base_axis, base_scale, base_shift = base_map
    axis, scale, shift = next_map
    if None not in (base_axis, axis) and base_axis != axis:
        raise AxisMismatchException(f"maps of axis {base_axis} and axis {axis} follow each other")
    first = axis if base_axis is None else base_axis
    return first, base_scale * scale, base_scale * shift + base_shift


def inverse(coord_map: Map) -> Map:
    """Return the map back, from top to bottom."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def _bottoms(top: Top) -> tuple[Top, ...]:
    # The second bottom of Crop gives nothing but its size.
    return top.fn.inputs[:1] if top.fn.type_name == "Crop" else top.fn.inputs


def _step(maps: dict[Top, Map], top: Top) -> list[Top]:
    """Note the maps of the top's bottoms, and return those to go on from."""
    try:
        here = compose(maps[top], coord_map(top.fn)) if top.fn.inputs else _IDENTITY
    except UndefinedMapException:
        return []
    # All ways to a bottom are taken to agree, but one through a convolution knows the axis.
    news = [
        bottom
        for bottom in _bottoms(top)
        if bottom not in maps or (maps[bottom][0] is None and here[0] is not None)
    ]
    maps.update(dict.fromkeys(news, here))
    return news


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """Return the map from a top's coordinates to another's, through a top that makes both.

    Raises:
        CaffeCallError: If no way connects them (a RuntimeError, as in pycaffe).
    """
    from_maps, frontier = {top_from: _IDENTITY}, [top_from]
    while frontier:
        frontier += _step(from_maps, frontier.pop())
    to_maps, frontier = {top_to: _IDENTITY}, [top_to]
    while frontier:
        top = frontier.pop()
        if top in from_maps:
            return compose(to_maps[top], inverse(from_maps[top]))
        frontier += _step(to_maps, top)
    raise CaffeCallError(
        "the tops are not connected by layers through which coordinates can be followed"
    )


def crop(top_from: Top, top_to: Top) -> Any:
    """Return a Crop layer's top: `top_from` cut out where it lies over `top_to`.

    Raises:
        CropError: If the tops differ in scale, or the cut would not be at whole positions of
            `top_from` (an AssertionError too, as in pycaffe).
        CaffeCallError: If no way connects them.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    for holds, what in (
        (scale == np.ones(1), f"scale mismatch on crop: scale {scale}, not 1"),
        (shift <= np.zeros(1), f"cannot crop negative offset: shift {shift} is above 0"),
        (np.round(shift) == shift, f"cannot crop noninteger offset: shift {shift}"),
    ):
        if not np.all(holds):
            raise CropError(what)
    offset = (-np.round(np.atleast_1d(shift))).astype(int).tolist()
    settings = {"offset": offset} if axis is None else {"axis": axis + 1, "offset": offset}
    return layers.Crop(top_from, top_to, crop_param=settings)

"""Ways to compute a convolution; which is fastest depends on the processor.

- contiguous: oneDNN on Caffe's layout, NCHW
- channels_last: oneDNN on NHWC
- gemm: windows copied into a matrix [N·oH·oW, kH·kW·C] (im2col, on NHWC), then matrix products

A tensor is [N, C, spatial…], whatever its layout; results are in the layout of the lowering.
The last two are for images, that is two spatial axes, and gemm for one group without dilation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from caffe.layouts import to_channels_last, to_contiguous

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CONTIGUOUS, LAST, GEMM = "contiguous", "channels_last", "gemm"


@dataclass(frozen=True)
class Windows:
    """How a kernel moves; one value for every spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    group: int = 1
    transposed: bool = False

    @cached_property
    def arguments(self) -> tuple[Any, ...]:
        """The last arguments of PyTorch's convolutions."""
        zeros = (0,) * len(self.kernel)
        return (self.stride, self.pad, self.dilation, self.transposed, zeros, self.group)

    def lowerings(self) -> tuple[str, ...]:
        """Return the names of the lowerings that can compute it."""
        if len(self.kernel) != 2:
            return (CONTIGUOUS,)
        if self.group > 1 or self.transposed or any(d > 1 for d in self.dilation):
            return (CONTIGUOUS, LAST)
        return (CONTIGUOUS, LAST, GEMM)


def arrange(x: Tensor, lowering: str) -> Tensor:
    """Return x in the layout that a lowering takes."""
    return to_contiguous(x) if lowering == CONTIGUOUS else to_channels_last(x)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, w: Windows, lowering: str) -> Tensor:
    """Return the convolution of x, arranged, with the weight, plus the bias."""
    if lowering == GEMM:
        columns, sizes = _columns(x, w)
        matrix = _matrix(weight)
        y = torch.mm(columns, matrix) if bias is None else torch.addmm(bias, columns, matrix)
        return y.view(x.shape[0], *sizes, -1).permute(0, 3, 1, 2)
    return torch.convolution(x, weight, bias, *w.arguments)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, w: Windows, lowering: str, *, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias, those that are wanted; dy and x are arranged."""
    if lowering == GEMM:
        return _backward_by_products(dy, x, weight, w, wanted=wanted)
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None]
    gradients = torch.ops.aten.convolution_backward(
        dy, x, weight, [dy.shape[1]], *w.arguments, wanted
    )
    return gradients


def _backward_by_products(
    dy: Tensor, x: Tensor, weight: Tensor, w: Windows, *, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    rows = dy.permute(0, 2, 3, 1).reshape(-1, dy.shape[1])  # [N·oH·oW, out]
    dx = dw = None
    if wanted[0]:
        dx = _fold(torch.mm(rows, _matrix(weight).t()), x, w)
    if wanted[1]:
        columns, _ = _columns(x, w)
        dw = torch.mm(columns.t(), rows).view(*w.kernel, x.shape[1], -1).permute(3, 2, 0, 1)
    return dx, dw, rows.sum(dim=0) if wanted[2] else None


def _matrix(weight: Tensor) -> Tensor:
    """Return the weight [out, C, kH, kW] as [kH·kW·C, out]."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _columns(x: Tensor, w: Windows) -> tuple[Tensor, tuple[int, int]]:
    """Return the windows of x as rows [N·oH·oW, kH·kW·C], and oH, oW."""
    if any(w.pad):
        x = to_channels_last(functional.pad(x, (w.pad[1], w.pad[1], w.pad[0], w.pad[0])))
    num, channels, height, width = x.shape
    sizes = (
        (height - w.kernel[0]) // w.stride[0] + 1,
        (width - w.kernel[1]) // w.stride[1] + 1,
    )
    pixel, row = channels, width * channels
    windows = x.permute(0, 2, 3, 1).as_strided(
        (num, *sizes, *w.kernel, channels),
        (height * row, w.stride[0] * row, w.stride[1] * pixel, row, pixel, 1),
    )
    return windows.reshape(-1, w.kernel[0] * w.kernel[1] * channels), sizes


def _fold(columns: Tensor, x: Tensor, w: Windows) -> Tensor:
    """Return the sum of the windows of `columns`, each at its place in a tensor like x."""
    num, channels, height, width = x.shape
    padded = columns.new_zeros((num, height + 2 * w.pad[0], width + 2 * w.pad[1], channels))
    sizes = [
        (size - kernel) // stride + 1
        for size, kernel, stride in zip(padded.shape[1:3], w.kernel, w.stride, strict=True)
    ]
    windows = columns.view(num, *sizes, *w.kernel, channels)
    for i in range(w.kernel[0]):
        for j in range(w.kernel[1]):
            rows = slice(i, i + w.stride[0] * sizes[0], w.stride[0])
            places = slice(j, j + w.stride[1] * sizes[1], w.stride[1])
            padded[:, rows, places].add_(windows[:, :, :, i, j])
    inner = padded[:, w.pad[0] : w.pad[0] + height, w.pad[1] : w.pad[1] + width]
    return to_channels_last(inner.permute(0, 3, 1, 2))

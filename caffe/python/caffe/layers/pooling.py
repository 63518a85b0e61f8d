"""Pooling, and spatial pyramids of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from caffe.layer import TorchLayer, register
from caffe.proto.caffe_pb2 import PoolingParameter, SPPParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob

_LOWEST = torch.finfo(torch.float32).min
_NO_STOCHASTIC = "STOCHASTIC pooling is not implemented, nor is it in Caffe on the processor"


def pooled_size(size: int, kernel: int, stride: int, pad: int, *, floor: bool, clip: bool) -> int:
    """Return the number of windows along an axis.

    Windows at the end may hang over (unless floor); with padding, none starts beyond the input
    and its left padding (clip).
    """
    steps = (size + 2 * pad - kernel) / stride
    windows = (math.floor(steps) if floor else math.ceil(steps)) + 1
    if clip and (windows - 1) * stride >= size + pad:
        windows -= 1
    return windows


def _windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    out: Sequence[int],
    *,
    fill: float,
) -> Tensor:
    """Return x [N, C, H, W] extended or cut to exactly what the windows cover."""
    edges: list[int] = []
    for axis in (1, 0):  # the last axis first, as torch wants it
        end = (out[axis] - 1) * stride[axis] + kernel[axis] - pad[axis] - x.shape[2 + axis]
        edges += [pad[axis], end]
    return functional.pad(x, edges, value=fill) if any(edges) else x


def max_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], out: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the maxima [N, C, *out], and their places in what the windows cover: the first ones.

    A window that lies beyond the input has the least float32.
    """
    covered = _windows(x, kernel, stride, pad, out, fill=_LOWEST)
    values, places = functional.max_pool2d(covered, list(kernel), list(stride), return_indices=True)
    return values, places


def average_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], out: Sequence[int]
) -> Tensor:
    """Return the means [N, C, *out]; padding counts, but what hangs over its end does not."""
    covered = _windows(x, kernel, stride, pad, out, fill=0.0)
    sums = functional.avg_pool2d(covered, list(kernel), list(stride), divisor_override=1)
    lengths = []
    for axis in (0, 1):
        starts = torch.arange(out[axis], device=x.device) * stride[axis] - pad[axis]
        ends = (starts + kernel[axis]).clamp(max=x.shape[2 + axis] + pad[axis])
        lengths.append(ends - starts)
    return sums / (lengths[0][:, None] * lengths[1][None, :])


@register("Pooling")
class Pooling(TorchLayer):
    """Maximum or mean over windows of the last two of four axes; MAX may give the places too."""

    tops: ClassVar[tuple[int, int | None]] = (1, 2)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read pooling_param."""
        param = self.param.pooling_param
        self.method, self.gives_places = param.pool, len(top) > 1
        self.require(
            self.method == PoolingParameter.MAX or not self.gives_places,
            "only MAX has a second top",
        )
        once = param.HasField("kernel_size")
        pair = [param.HasField("kernel_h"), param.HasField("kernel_w")]
        if param.global_pooling:
            self.require(not once and not any(pair), "global_pooling takes no kernel size")
        else:
            self.require(
                once != all(pair), "needs either kernel_size, or both kernel_h and kernel_w"
            )
        self.kernel = [param.kernel_size] * 2 if once else [param.kernel_h, param.kernel_w]
        self.pad, self.stride = self._per_axis("pad"), self._per_axis("stride")
        if param.global_pooling:
            self.require(
                self.pad == [0, 0] and self.stride == [1, 1],
                "global_pooling takes neither pad nor stride",
            )
        self.require(
            self.method != PoolingParameter.STOCHASTIC or not any(self.pad),
            "only MAX and AVE take pad",
        )

    def _per_axis(self, name: str) -> list[int]:
        """Return the pad or the stride of both axes, given once or for each."""
        param = self.param.pooling_param
        pair = [param.HasField(f"{name}_{axis}") for axis in "hw"]
        if not any(pair):
            return [getattr(param, name)] * 2
        self.require(
            all(pair) and not param.HasField(name),
            f"give either {name} or both {name}_h and {name}_w",
        )
        return [getattr(param, f"{name}_h"), getattr(param, f"{name}_w")]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shape."""
        shape = bottom[0].shape
        self.require(len(shape) == 4, f"needs a bottom of 4 axes, got {list(shape)}")
        if self.param.pooling_param.global_pooling:
            self.kernel = list(shape[2:])
        self.require(min(self.kernel) > 0, f"kernel dimensions must be positive: {self.kernel}")
        self.require(min(self.stride) > 0, f"stride dimensions must be positive: {self.stride}")
        self.require(
            max(*self.kernel, *self.stride, *self.pad) < 2**31,
            f"kernel {self.kernel}, stride {self.stride} or pad {self.pad} is no such size",
        )
        self.require(
            all(pad < kernel for pad, kernel in zip(self.pad, self.kernel, strict=True)),
            f"pad {self.pad} must be smaller than the kernel {self.kernel}",
        )
        floor = self.param.pooling_param.round_mode == PoolingParameter.FLOOR
        clip = any(self.pad)
        self.out = [
            pooled_size(size, kernel, stride, pad, floor=floor, clip=clip)
            for size, kernel, stride, pad in zip(
                shape[2:], self.kernel, self.stride, self.pad, strict=True
            )
        ]
        self.require(
            min(self.out) >= 0,
            f"the kernel {self.kernel} is larger than its input {list(shape[2:])}",
        )
        for blob in top:
            blob.resize((*shape[:2], *self.out))

    def compute(self, *bottom: Tensor) -> Tensor | Sequence[Tensor]:
        """Return the tops' values."""
        self.require(self.method != PoolingParameter.STOCHASTIC, _NO_STOCHASTIC)
        self.require(
            min(self.out) and bottom[0].shape[1], f"its tops, of {self.out} windows, hold nothing"
        )
        windows = (self.kernel, self.stride, self.pad, self.out)
        if self.method == PoolingParameter.AVE:
            return average_pool(bottom[0], *windows)
        values, places = max_pool(bottom[0], *windows)
        return [values, self._places(values, places, bottom[0])] if self.gives_places else values

    def _places(self, values: Tensor, places: Tensor, x: Tensor) -> Tensor:
        """Return the places of the maxima in a channel of x, row by row; -1 is none."""
        width = (self.out[1] - 1) * self.stride[1] + self.kernel[1]
        rows, columns = places // width - self.pad[0], places % width - self.pad[1]
        return torch.where(values > _LOWEST, rows * x.shape[3] + columns, -1)


@register("SPP")
class SPP(TorchLayer):
    """Pools into 1, 4, 16 … bins (He et al., 2014), flattened and joined."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the top its shape."""
        shape, height = bottom[0].shape, self.param.spp_param.pyramid_height
        method = self.param.spp_param.pool
        self.require(len(shape) == 4, f"needs a bottom of 4 axes, got {list(shape)}")
        self.require(height > 0, "pyramid_height must be positive")
        self.levels = []
        for level in range(height):
            kernel = [math.ceil(size / 2**level) for size in shape[2:]]
            pad = [
                (k * 2**level - size + 1) // 2 for k, size in zip(kernel, shape[2:], strict=True)
            ]
            self.require(
                all(p < k for p, k in zip(pad, kernel, strict=True)),
                f"a pyramid of height {height} does not fit {list(shape[2:])}",
            )
            self.require(
                method != SPPParameter.STOCHASTIC or not any(pad), "only MAX and AVE take pad"
            )
            out = [
                pooled_size(size, k, k, p, floor=False, clip=any(pad))
                for size, k, p in zip(shape[2:], kernel, pad, strict=True)
            ]
            self.levels.append((kernel, kernel, pad, out))
        if height == 1:
            top[0].resize((*shape[:2], *self.levels[0][3]))
        else:
            top[0].resize((shape[0], sum(shape[1] * math.prod(level[3]) for level in self.levels)))

    def compute(self, *bottom: Tensor) -> Tensor:
        """Return the top's values."""
        self.require(self.param.spp_param.pool != SPPParameter.STOCHASTIC, _NO_STOCHASTIC)
        parts = []
        for level in self.levels:
            if self.param.spp_param.pool == SPPParameter.MAX:
                pooled = max_pool(bottom[0], *level)[0]
            else:
                pooled = average_pool(bottom[0], *level)
            parts.append(pooled.flatten(1))
        return torch.cat(parts, 1)

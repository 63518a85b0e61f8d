"""Weight fillers: how a parameter gets its first values.

Fan-in is count / shape[0], fan-out count / shape[1] for two axes and more, as in Caffe's master.
All draw from PyTorch's global generator, which `caffe.set_random_seed` seeds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from caffe.errors import CaffeError, require
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Filler = Callable[[Tensor, caffe_pb2.FillerParameter], None]


def _constant(values: Tensor, param: caffe_pb2.FillerParameter) -> None:
    values.fill_(param.value)


def _uniform(values: Tensor, param: caffe_pb2.FillerParameter) -> None:
    require(
        0 <= param.max - param.min <= torch.finfo(values.dtype).max,
        f"uniform filler: cannot draw between min {param.min} and max {param.max}",
    )
    values.uniform_(param.min, param.max)


def _gaussian(values: Tensor, param: caffe_pb2.FillerParameter) -> None:
    require(param.std > 0, f"gaussian filler: std must be positive, got {param.std}")
    values.normal_(param.mean, param.std)
    if param.sparse >= 0:
        # On average `sparse` non-zero weights for each input, if the outputs are the first axis.
        outputs = _first_axis(values, param)
        require(
            param.sparse <= outputs,
            f"gaussian filler: sparse {param.sparse} exceeds {outputs}, the size of the first axis",
        )
        values.mul_(torch.bernoulli(torch.full_like(values, param.sparse / outputs)))


def _first_axis(values: Tensor, param: caffe_pb2.FillerParameter) -> int:
    require(values.dim(), f"{param.type} filler: needs a parameter with axes, got a scalar")
    return values.shape[0]


def _positive_unitball(values: Tensor, param: caffe_pb2.FillerParameter) -> None:
    values.uniform_(0, 1)
    rows = values.view(_first_axis(values, param), -1)
    rows.div_(rows.sum(dim=1, keepdim=True))


def _fan(values: Tensor, param: caffe_pb2.FillerParameter) -> float:
    """Return the number of connections that the variance is divided by."""
    count = values.numel()
    fan_in = count / _first_axis(values, param)
    fan_out = count / values.shape[1] if values.dim() > 1 else float(count)
    if param.variance_norm == caffe_pb2.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if param.variance_norm == caffe_pb2.FillerParameter.FAN_OUT else fan_in


def _xavier(values: Tensor, param: caffe_pb2.FillerParameter) -> None:
    # Glorot and Bengio, 2010, with Caffe's choice of n.
    scale = math.sqrt(3.0 / _fan(values, param))
    values.uniform_(-scale, scale)


def _msra(values: Tensor, param: caffe_pb2.FillerParameter) -> None:
    # He et al., 2015, equation 10.
    values.normal_(0.0, math.sqrt(2.0 / _fan(values, param)))


def _bilinear(values: Tensor, _param: caffe_pb2.FillerParameter) -> None:
    require(
        values.dim() == 4 and values.shape[2] == values.shape[3],
        f"bilinear filler: needs a square filter of 4 axes, got {list(values.shape)}",
    )
    size = values.shape[3]
    factor = math.ceil(size / 2)
    ramp = 1 - (torch.arange(size) / factor - (size - 1) / (2.0 * factor)).abs()
    values.copy_(ramp[:, None] * ramp[None, :])


_FILLERS: dict[str, Filler] = {
    "bilinear": _bilinear,
    "constant": _constant,
    "gaussian": _gaussian,
    "msra": _msra,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
}


def find(name: str) -> Filler:
    """Return the filler of this type.

    Raises:
        CaffeError: If there is none.
    """
    if name not in _FILLERS:
        raise CaffeError(f"unknown filler '{name}'; known are {', '.join(_FILLERS)}")
    return _FILLERS[name]


def fill(values: Tensor, param: caffe_pb2.FillerParameter) -> None:
    """Fill a tensor in place as the message says.

    Raises:
        CaffeError: If the filler's type is unknown or its settings contradict the shape.
    """
    filler = find(param.type)
    require(values.numel(), f"{param.type} filler: nothing to fill in {list(values.shape)}")
    require(
        param.sparse == -1 or (param.sparse > -1 and param.type == "gaussian"),
        f"{param.type} filler: sparse cannot be {param.sparse}",
    )
    filler(values, param)

"""Turning images between Caffe's layout, NCHW, and channels-last, NHWC.

A tensor's shape is always [N, C, H, W]; in channels-last its memory runs over C first.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS_LAST = torch.channels_last


def to_channels_last(x: Tensor) -> Tensor:
    """Return [N, C, H, W] with the channels last in memory; the tensor itself if they are."""
    if x.is_contiguous(memory_format=CHANNELS_LAST):
        return x
    if not x.is_contiguous():
        return x.contiguous(memory_format=CHANNELS_LAST)
    num, channels, height, width = x.shape
    flat = _transposed(x, num, channels, height * width)
    return flat.view(num, height, width, channels).permute(0, 3, 1, 2)


def to_contiguous(x: Tensor) -> Tensor:
    """Return the tensor in Caffe's layout; the tensor itself if it is."""
    if x.is_contiguous():
        return x
    if x.dim() != 4 or not x.is_contiguous(memory_format=CHANNELS_LAST):
        return x.contiguous()
    num, channels, height, width = x.shape
    return _transposed(x.permute(0, 2, 3, 1), num, height * width, channels).view(x.shape)


def like(x: Tensor, other: Tensor) -> Tensor:
    """Return x in the layout of the other, which has its shape."""
    if x.stride() == other.stride():
        return x
    return to_contiguous(x) if other.is_contiguous() else to_channels_last(x)


def _transposed(x: Tensor, num: int, rows: int, columns: int) -> Tensor:
    """Return `num` contiguous matrices [rows, columns] as contiguous matrices [columns, rows].

    In PyTorch a channel shuffle of one channel a group is this transpose, and several times as
    fast as a strided copy.
    """
    channels = x.reshape(1, num, 1, rows * columns).permute(0, 3, 1, 2)
    return torch.native_channel_shuffle(channels, rows).permute(0, 2, 3, 1)

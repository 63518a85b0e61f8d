"""Where nets compute: on the processor, or on a GPU that PyTorch can use.

As in pycaffe the choice is the process's; a net keeps the one that held when it was made.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from caffe.errors import CaffeError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

CPU = torch.device("cpu")


class _Choice:
    gpu = 0
    current = CPU


def set_mode_cpu() -> None:
    """Make nets on the processor from now on."""
    _Choice.current = CPU


def set_mode_gpu() -> None:
    """Make nets on the chosen GPU from now on; without one do nothing, as a pycaffe for CPUs."""
    if torch.cuda.is_available():
        _Choice.current = torch.device("cuda", _Choice.gpu)


def set_device(device: int) -> None:
    """Choose a GPU by its number; `set_mode_gpu` then uses it.

    Raises:
        CaffeError: If PyTorch sees no such GPU.
    """
    count = torch.cuda.device_count()
    if not 0 <= device < count:
        raise CaffeError(f"device {device} is not available: PyTorch sees {count} GPUs")
    _Choice.gpu = device
    if _Choice.current != CPU:
        set_mode_gpu()


def current() -> torch.device:
    """Return where nets are made now."""
    return _Choice.current


def tensors_on(device: torch.device) -> AbstractContextManager[object]:
    """Let new tensors lie on a device, for layers that make some."""
    return contextlib.nullcontext() if device == CPU else device

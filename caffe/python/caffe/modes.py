"""pycaffe's functions about the process: modes, devices, many GPUs, log and clock.

Most of them do nothing, because this engine computes on one processor.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from caffe.errors import CaffeError
from caffe.layer import layer_types


def set_mode_cpu() -> None:
    """Do nothing: the engine computes on the processor."""


def set_mode_gpu() -> None:
    """Do nothing, as a pycaffe built without a GPU."""


def set_device(device: int) -> None:
    """Refuse: the engine computes on the processor."""
    raise CaffeError(f"device {device} is not available: this engine computes on the processor")


def set_multiprocess(_value: bool) -> None:  # noqa: FBT001  # as in pycaffe
    """Do nothing: this is pycaffe's way of training on many GPUs."""


def set_solver_count(_count: int) -> None:
    """Do nothing."""


def set_solver_rank(_rank: int) -> None:
    """Do nothing."""


def solver_count() -> int:
    """Return 1."""
    return 1


def solver_rank() -> int:
    """Return 0."""
    return 0


def has_nccl() -> bool:
    """Return False."""
    return False


def layer_type_list() -> list[str]:
    """Return the names of the known layer types."""
    return layer_types()


def log(message: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{message}\n")


def init_log(*_args: Any) -> None:
    """Do nothing: this engine writes no log of its own."""


class Timer:
    """A stopwatch; milliseconds."""

    def __init__(self) -> None:
        self._started = self._elapsed_ms = 0.0

    def start(self) -> None:
        """Start anew."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop; `ms` is the time since `start`."""
        self._elapsed_ms = 1000 * (time.perf_counter() - self._started)

    @property
    def ms(self) -> float:
        """Milliseconds between the last start and the last stop."""
        return self._elapsed_ms

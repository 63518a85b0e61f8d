"""pycaffe's functions about the process: many GPUs, log and clock.

Those about many GPUs do nothing: this engine trains on one device.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from caffe import layers as layer_families
from caffe.errors import CaffeCallError, CaffeError
from caffe.layer import layer_types

_logger = logging.getLogger("caffe")
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class _Processes:
    """What pycaffe's scripts for many GPUs set and read; nothing here depends on it."""

    solver_count = 1
    solver_rank = 0


def set_multiprocess(_value: bool) -> None:  # noqa: FBT001  # as in pycaffe
    """Do nothing: this is pycaffe's way of training on many GPUs."""


def set_solver_count(count: int) -> None:
    """Set what `solver_count` returns; nothing depends on it."""
    _Processes.solver_count = count


def set_solver_rank(rank: int) -> None:
    """Set what `solver_rank` returns; nothing depends on it."""
    _Processes.solver_rank = rank


def solver_count() -> int:
    """Return 1, or what was set."""
    return _Processes.solver_count


def solver_rank() -> int:
    """Return 0, or what was set."""
    return _Processes.solver_rank


def has_nccl() -> bool:
    """Return False."""
    return False


class NCCL:
    """pycaffe's way of training on many GPUs, which this engine does not have."""

    def __init__(self, _solver: Any, _uid: bytes) -> None:
        self.new_uid()

    @staticmethod
    def new_uid() -> bytes:
        """Refuse."""
        raise CaffeCallError("NCCL is not available: this engine trains in one process")


def layer_type_list() -> list[str]:
    """Return the names of the known layer types."""
    layer_families.load()
    return layer_types()


class _Stderr(logging.Handler):
    """Writes lines to whatever stderr is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


def init_log(level: int = 0, stderr: bool = True) -> None:  # noqa: FBT001, FBT002  # as in pycaffe
    """Let the logger "caffe" pass its messages, as of solvers, to stderr.

    Args:
        level: The least that is passed: 0 information, 1 warnings, 2 errors, 3 fatal errors.
        stderr: False leaves the output to the handlers of Python's logging.

    Raises:
        CaffeError: If the level is another.
    """
    if level not in range(len(_LEVELS)):
        raise CaffeError(f"a log level is one of 0 to {len(_LEVELS) - 1}, not {level}")
    _logger.setLevel(_LEVELS[level])
    for handler in [known for known in _logger.handlers if isinstance(known, _Stderr)]:
        _logger.removeHandler(handler)
    if stderr:
        _logger.addHandler(_Stderr())


def log(message: str) -> None:
    """Write a line of information to the log, on stderr unless logging was set up otherwise."""
    if not _logger.hasHandlers():
        init_log()
    _logger.info(message)


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

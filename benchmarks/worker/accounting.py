"""The processor time of whole process trees, those that ended included."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TRIES = 20


def adopt_orphans() -> None:
    """Become the parent of whatever process below loses its own, so that none leaves the tree.

    Raises:
        OSError: Where the kernel does not do that.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all below it, zombies too."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def tree_cpu_s(pid: int, look: Callable[[int], list[psutil.Process]] = tree) -> float:
    """Return the processor time that a process and all that it ever started have used.

    User and system, to 10 ms.  The time of a child that has ended goes to the parent that waits
    for it, and before that stays with the zombie; so the sum never falls.

    Raises:
        RuntimeError: If processes end faster than they can be looked at.
    """
    for _ in range(_TRIES):
        try:
            # A process that ends between two looks would be missed, or counted twice.
            before = {process.pid for process in look(pid)}
            total = sum(_used_s(process) for process in look(pid))
            if before == {process.pid for process in look(pid)}:
                return total
        except psutil.NoSuchProcess:
            if not psutil.pid_exists(pid):
                raise
    raise RuntimeError(f"the processes below {pid} do not stand still")


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def end_below(pid: int) -> None:
    """Kill all processes below one; nothing happens where that has ended itself."""
    with suppress(psutil.NoSuchProcess):
        for process in tree(pid)[1:]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

"""Why a Barista leaves though nobody asked it to: its executor is gone.

A Barista outlives tasks and rounds on purpose, so nothing of Spark's ends it.  It waits for the end
of the executor's JVM itself: by a pidfd where the kernel has them (an event, not polling), else by
looking once a second. That the server is unreachable for longer than a lease is the worker's own
reason (`worker.py`).
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)
_GRACE_S = 3.0


def wait_until_gone(pid: int, created: float) -> None:
    """Return when process `pid`, started at `created` (seconds since the epoch), is gone."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) >= 1.0:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            process.wait()
            return
        try:
            # Between the look at the start time and the open the pid may have changed hands.
            if process.is_running():
                select.select([descriptor], [], [])
        finally:
            os.close(descriptor)
    except psutil.NoSuchProcess:
        return


def leave_with(pid: int, created: float, leave: Callable[[], None]) -> None:
    """Call `leave` when that process is gone; end this one hard if it is still here 3 s later."""

    def watch() -> None:
        wait_until_gone(pid, created)
        _log.info("the executor (pid %d) is gone: leaving", pid)
        leave()
        time.sleep(_GRACE_S)
        os._exit(0)

    threading.Thread(target=watch, name="watch", daemon=True).start()

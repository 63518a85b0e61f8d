"""What has happened to the processes of a run, as its driver tells it: the newest few.

A server sees workers come and go silent, but not why.  The driver knows, and the dashboard shows
it.  Nothing of this is kept on disk: the driver's log has all of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 50
TEXT_LIMIT = 512  # characters


class Incidents:
    """The newest ``LIMIT`` incidents.  Safe to call from many threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: deque[dict[str, Any]] = deque(maxlen=LIMIT)

    def add(self, text: str) -> None:
        """Note what has just happened."""
        with self._lock:
            self._newest.appendleft({"time": self._clock(), "text": text})

    def clear(self) -> None:
        """Forget them: they were another run's."""
        with self._lock:
            self._newest.clear()

    def listing(self) -> list[dict[str, Any]]:
        """Return them, the newest first: `time`, seconds since the epoch, and `text`."""
        with self._lock:
            return list(self._newest)

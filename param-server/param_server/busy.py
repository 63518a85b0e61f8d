"""How busy this process is: processor seconds per second, over the last half minute."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW_S = 30.0
_LEAST_S = 0.5  # between two samples


class Busy:
    """The busy share, measured whenever it is asked for.  Safe to call from many threads.

    Args:
        clock: Seconds.
        spent: Processor seconds of this process so far.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._spent = clock, spent
        self._samples = deque([(clock(), spent())])

    def share(self) -> float:
        """Return processor seconds per second: 1 is one core."""
        now, spent = self._clock(), self._spent()
        if now - self._samples[-1][0] >= _LEAST_S:
            self._samples.append((now, spent))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()
        begin, spent_then = self._samples[0]
        return (spent - spent_then) / (now - begin) if now > begin else 0.0

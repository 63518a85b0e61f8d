"""How many gradients are received at once: as few as fill the link.

Flows that share a link fairly and begin together also end together.  Then all workers send while
none receives, and afterwards all receive, and one direction of the link is idle; the workers of a
round do begin together.  Taken in one after another, the first gradient is applied and answered
while the next one comes in.

How few are enough is tried out, for it may also be the workers' own links that are slow.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEWEST, MOST = 2, 64  # the end of one flow and the beginning of the next overlap
SMALL_BYTES = 256 << 10  # what is smaller waits for no turn
WINDOW_S = 0.5  # of receiving
HOLD_WINDOWS = 20  # between two trials, when the last one did not pay
AS_MUCH, MORE = 0.95, 1.1  # of what was received before: fewer are enough, more are better
_PATIENCE_S = 1.0  # for one flow


class Body(Protocol):
    """What is being received."""

    remaining: int  # bytes


class Limit:
    """How many at once, from how much was received in one window after another.

    From time to time half as many are tried, and twice as many.  Fewer are kept if they bring as
    much, more if they bring more, and what has paid is tried again at once.
    """

    def __init__(self) -> None:
        self.now = MOST
        self._before: tuple[int, float] | None = None  # a trial: the limit before, what it brought
        self._settles = False  # the trial has only begun
        self._hold = 0  # windows until the next trial
        self._upwards = False

    def follow(self, bytes_per_s: float, peak: int) -> None:
        """Take in what a window has brought, with at most `peak` at once."""
        if self._settles:
            self._settles = False
        elif self._before is not None:
            self._judge(bytes_per_s, *self._before)
        elif self._hold > 0:
            self._hold -= 1
        else:
            self._try(bytes_per_s, peak)

    def _try(self, bytes_per_s: float, peak: int) -> None:
        wanted = 2 * self.now if self._upwards else min(peak, self.now) // 2
        wanted = min(max(wanted, FEWEST), MOST)
        if wanted == self.now or peak < FEWEST:
            self._turn_round()
            return
        self._before, self._settles = (self.now, bytes_per_s), True
        self.now = wanted

    def _judge(self, bytes_per_s: float, limit: int, before: float) -> None:
        self._before = None
        if bytes_per_s < (MORE if self.now > limit else AS_MUCH) * before:
            self.now = limit
            self._turn_round()

    def _turn_round(self) -> None:
        self._upwards, self._hold = not self._upwards, HOLD_WINDOWS


@dataclass
class _Flow:
    waited_for_until: float
    seen: int  # of its bytes that were still to come, when last looked


class Receiving:
    """Gives those who receive a gradient their turns, in order.  Safe to call from many threads.

    Whoever takes much longer than others goes on, but is waited for no more: a worker that hangs in
    the middle of its push does not hold up the rest.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[threading.Condition] = deque()
        self._flows: dict[Body, _Flow] = {}
        self.limit = Limit()
        # Of this window: bytes, seconds in which any came, flows at once.
        self._bytes, self._seconds, self._peak = 0, 0.0, 0
        self._since = 0.0  # when seconds were last counted

    @contextmanager
    def turn(self, body: Body, size: int) -> Iterator[None]:
        """Wait for a turn, then receive the `size` bytes that are left of a body in the block."""
        if size < SMALL_BYTES:
            yield
            return
        with self._lock:
            self._wait_for_place()
            self._enter(body, size)
        try:
            yield
        finally:
            with self._lock:
                self._leave(body)
                if self._waiting:
                    self._waiting[0].notify()

    def _wait_for_place(self) -> None:
        if not self._waiting and self._wait_s() <= 0:
            return
        mine = threading.Condition(self._lock)
        self._waiting.append(mine)
        while self._waiting[0] is not mine or self._wait_s() > 0:
            mine.wait(self._wait_s() if self._waiting[0] is mine else None)
        self._waiting.popleft()
        if self._waiting:
            self._waiting[0].notify()  # there may be a place for more than one

    def _wait_s(self) -> float:
        """Return how long it takes at most until there is a place."""
        now = self._clock()
        ends = [end for flow in self._flows.values() if (end := flow.waited_for_until) > now]
        return 0.0 if len(ends) < self.limit.now else min(ends) - now

    def _enter(self, body: Body, size: int) -> None:
        now = self._clock()
        if not self._flows:
            self._since = now
        self._flows[body] = _Flow(now + _PATIENCE_S, size)
        self._peak = max(self._peak, len(self._flows))

    def _leave(self, body: Body) -> None:
        now = self._clock()
        for each, flow in self._flows.items():
            self._bytes += flow.seen - each.remaining
            flow.seen = each.remaining
        self._seconds += now - self._since
        self._since = now
        del self._flows[body]
        if self._seconds >= WINDOW_S:
            self.limit.follow(self._bytes / self._seconds, self._peak)
            self._bytes, self._seconds, self._peak = 0, 0.0, len(self._flows)

"""Waiting for a parameter server that is silent, going down, failing, or asks for it.

Requests come back here only after the client's own short tries: what is decided in this file is
how long a worker lasts without an answer, and that its heart beats meanwhile.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, TypeVar

from param_server.errors import Crowded, Draining, ServerFailed, ServerUnreachable, TooEarly

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_log = logging.getLogger(__name__)

LEASE_S = 60.0  # how long a server may be of no use before the worker gives up
# What may pass: a restart, a full disk (nothing is acknowledged that cannot be written).
_PASSING = (ServerUnreachable, Draining, Crowded, ServerFailed)
_FIRST_DELAY_S, _LAST_DELAY_S = 0.25, 5.0


class Patience:
    """Repeats a request until it is answered.

    A server that is silent, going down or failing is waited for a lease.  One that answers "too
    early" is alive, and so is somebody whom this worker is ahead of: that is waited out until the
    deadline, for the server itself stops counting whoever is lost.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def ask(
        self, call: Callable[[], T], wait: Callable[[float], bool], deadline: float = math.inf
    ) -> T | None:
        """Return what `call` returns, None when told to stop or when the deadline has passed.

        Args:
            call: the request.
            wait: spends so many seconds, and says whether to stop.
            deadline: of the clock, for waits that the server asks for.

        Raises:
            ServerUnreachable, Draining, Crowded, ServerFailed: If that was all there was to hear
                for a lease.
        """
        began = self._clock()
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                return call()
            except TooEarly as error:
                began, delay_s = self._clock(), _FIRST_DELAY_S
                if began >= deadline:
                    return None
                _log.debug("%s; asking again in %.2g s", error, delay_s)
            except _PASSING as error:
                if self._clock() - began >= LEASE_S:
                    raise
                _log.warning("%s; asking again in %.2g s", error, delay_s)
            if wait(delay_s):
                return None
            delay_s = min(2 * delay_s, _LAST_DELAY_S)

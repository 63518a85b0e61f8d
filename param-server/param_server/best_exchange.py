"""The choice between the same-host path and HTTP.

``BestExchange`` uses shared memory while it can be reached and HTTP while it cannot.  A push may go
by both: the server knows it by its sequence.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from param_server.errors import Draining, ParamServerError, ServerUnreachable
from param_server.same_host_client import SameHostClient
from param_server.segment import is_available

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.client import Client
    from param_server.payload import Float32
    from param_server.same_host_client import Taker
    from param_server.wire import Model, Push, PushAnswer

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 5.0  # between two looks for the same-host path of a server that has none


class BestExchange:
    """Pushes and pulls by shared memory while the server can be reached so, else by HTTP.

    Safe to call from many threads.  A server that is killed or going down is left to the HTTP
    client, which knows how to wait for one; once it has answered there, it is asked where its
    socket is.

    Args:
        client: Talks HTTP to the server.
        clock: Says how long ago the same-host path was looked for, in seconds.
    """

    def __init__(
        self,
        client: Client,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._clock = client, clock
        self._taker: Taker | None = None
        self._lock = threading.Lock()
        self._same_host: SameHostClient | None = None
        self._look_at = clock()
        self._look_if_due()

    @property
    def is_same_host(self) -> bool:
        """Whether the next request goes by shared memory."""
        return self._same_host is not None

    def lend_to(self, taker: Taker) -> None:
        """See ``SameHostClient.lend_to``; for one thread, or many that wait for each other."""
        with self._lock:
            self._taker = taker
            if self._same_host is not None:
                self._same_host.lend_to(taker)

    def pull(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """See ``Client.pull``."""
        return self._ask(lambda way: way.pull(known, out))

    def pull_target(
        self, known: tuple[int, int] | None = None, out: Float32 | None = None
    ) -> Model | None:
        """See ``Client.pull_target``."""
        return self._ask(lambda way: way.pull_target(known, out))

    def push(
        self, push: Push, gradient: Float32, out: Float32 | None = None
    ) -> tuple[PushAnswer, Model | None]:
        """See ``Client.push``.  One whose answer was lost is repeated under its sequence."""
        return self._ask(lambda way: way.push(push, gradient, out))

    def leave(self, worker: str, incarnation: str) -> object:
        """See ``Client.leave``."""
        return self._client.leave(worker, incarnation)

    def close(self) -> None:
        """Close the shared connection and this thread's; the next request opens others."""
        with self._lock:
            if self._same_host is not None:
                self._same_host.close()
        self._client.close()

    def _ask(self, ask: Callable[[Client | SameHostClient], T]) -> T:
        same_host = self._same_host
        if same_host is not None:
            try:
                return ask(same_host)
            except (ServerUnreachable, Draining) as error:
                _log.info("%s; using HTTP", error)
                self._leave(same_host)
        answer = ask(self._client)
        self._look_if_due()  # now that it is there
        return answer

    def _leave(self, same_host: SameHostClient) -> None:
        with self._lock:
            same_host.close()
            if self._same_host is same_host:
                self._same_host = None
                self._look_at = self._clock()

    def _look_if_due(self) -> None:
        with self._lock:
            if self._same_host is None and self._clock() >= self._look_at:
                self._look_at = self._clock() + _LOOK_AGAIN_S
                self._same_host = self._found()

    def _found(self) -> SameHostClient | None:
        """Ask the server for its socket, and connect."""
        try:
            prototxt = self._client.prototxt()
            if not prototxt.same_host:
                return None
            same_host = SameHostClient(
                prototxt.same_host,
                self._client.token,
                run=self._client.run,
                worker=self._client.worker,
                layout=prototxt.layout.digest,
                timeout_s=self._client.timeout_s,
                taker=self._taker,
            )
            same_host.connect()
        except ParamServerError as error:
            _log.info("using HTTP: %s", error)
            return None
        _log.info("using shared memory: %s", same_host.path)
        return same_host


def best_exchange(client: Client) -> Client | BestExchange:
    """Return the fastest way to a client's server.

    ``DDQ_SAME_HOST=0``, or a system without sealed memory, leaves HTTP.
    """
    if not is_available() or os.environ.get("DDQ_SAME_HOST") == "0":
        return client
    return BestExchange(client)

"""The status as it goes: once a second it is read, kept as history, and told to those who watch.

One thread reads the status and writes it as JSON, for all viewers together: what the dashboard
costs does not depend on how many look at it.  A viewer is a connection, and so a thread of
``serving``, that waits here for the next event (server-sent events, WHATWG HTML, section 9.2).

Viewers vanish without a word.  A send fails soon where the other side has closed, and only after
a long while where it has merely gone, so a stream ends by itself after ``_LIFE_EVENTS``: a browser
that is still there comes back within a second.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from param_server.errors import Draining, TooManyViewers
from param_server.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_log = logging.getLogger(__name__)

PERIOD_S = 1.0
MOST_VIEWERS = 16
_LIFE_EVENTS = 600
_HEARTBEAT_S = 5.0  # after so long without an event a comment shows who is still there
_PREAMBLE = b"retry: 1000\n\n"  # milliseconds until a browser that lost us asks again


class Live:
    """The newest status, its history, and its viewers.  Safe to call from many threads.

    Args:
        status: Returns the server's status, a JSON object.
    """

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status
        self._history = History()
        self._changed = threading.Condition()
        self._event = b""
        self._number = 0  # of events so far
        self._viewers = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        """Begin to read the status in time."""
        self._thread.start()

    def close(self) -> None:
        """Read it no more; all streams end."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def read_status(self) -> None:
        """Read the status once: a point of the history, and an event."""
        status = self._status()
        event = f"data: {json.dumps(status)}\n\n".encode()
        with self._changed:
            self._history.add(status)
            self._event, self._number = event, self._number + 1
            self._changed.notify_all()

    def history(self) -> dict[str, Any]:
        """Return the run so far; see ``History.as_json``."""
        with self._changed:
            return self._history.as_json()

    def watch(self) -> Iterator[bytes]:
        """Return the events to come, the newest first, as a stream to be closed at its end.

        Raises:
            TooManyViewers: If there are as many as there may be.
            Draining: If the server is going down.
        """
        with self._changed:
            if self._stop.is_set():
                raise Draining("the server is going down")
            if self._viewers >= MOST_VIEWERS:
                raise TooManyViewers(f"{MOST_VIEWERS} viewers are watching already")
            self._viewers += 1
        return _Viewer(self)

    @property
    def viewers(self) -> int:
        """How many are watching."""
        return self._viewers

    def next_event(self, seen: int) -> tuple[int, bytes]:
        """Wait for an event after number ``seen``; return its number and text.

        A comment comes where nothing happens for a while, and nothing (``b""``) at the end.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._number > seen or self._stop.is_set(), timeout=_HEARTBEAT_S
            )
            if self._stop.is_set():
                return seen, b""
            return (self._number, self._event) if self._number > seen else (seen, b":\n\n")

    def leave(self) -> None:
        """Count a viewer no more."""
        with self._changed:
            self._viewers -= 1

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.read_status()
            except Exception:  # noqa: BLE001 - this thread must outlive any one reading
                _log.exception("the status could not be read")
            self._stop.wait(PERIOD_S)


class _Viewer:
    """One viewer's stream.  A class, for a generator that never began cannot be told to end."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._seen = 0
        self._left = _LIFE_EVENTS
        self._is_new = True
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._is_new:
            self._is_new = False
            return _PREAMBLE
        self._seen, event = self._live.next_event(self._seen)
        self._left -= 1
        if not event or self._left < 0:
            raise StopIteration
        return event

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._live.leave()

"""The book of who is connected: strangers, and those who have shown the token.

A port is open to everybody, and a connection costs a thread.  So it begins as a stranger's, of
whom there are few: where there are too many, the one that has stood longest is cut for the one
that comes.  A worker needs a moment to show its token, and is then known; no number of strangers
can cut it.  The known are limited too, by refusal: who has the token may wait.

A stranger that was cut needs a moment to leave.  Those on their way out are limited as well, so
that the number of threads is, and the port takes nobody in while there are too many of them.
"""

from __future__ import annotations

import threading
from typing import Protocol

from param_server.errors import Crowded

_PATIENCE_S = 1.0  # with those on their way out


class Connection(Protocol):
    """Whatever can be entered."""

    def cut(self) -> None:
        """Have the connection end soon: whatever it waits for fails.  Must not block."""


class Connections:
    """Who is connected.  Safe to call from many threads.

    Args:
        strangers: How many there may be.
        known: How many there may be.

    Invariants: nobody is in two of the three groups; each group is within its limit.
    """

    def __init__(self, *, strangers: int, known: int) -> None:
        assert strangers > 0
        assert known > 0
        self._most_strangers, self._most_known = strangers, known
        self._most_leaving = max(1, strangers // 2)
        self._strangers: dict[Connection, None] = {}  # a set that knows who came first
        self._known: set[Connection] = set()
        self._leaving: set[Connection] = set()
        self._has_left = threading.Condition()
        self._is_closed = False

    def admit(self, newcomer: Connection) -> bool:
        """Enter a stranger, cutting the one that has stood longest if there is no room.

        Returns False where those that were cut before do not make room in time.
        """
        with self._has_left:
            if len(self._strangers) >= self._most_strangers:
                self._has_left.wait_for(
                    lambda: len(self._leaving) < self._most_leaving, timeout=_PATIENCE_S
                )
                if len(self._leaving) >= self._most_leaving:
                    return False
            # The wait may have ended with room: somebody left by himself.
            if len(self._strangers) >= self._most_strangers:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                self._leaving.add(oldest)
                oldest.cut()
            if self._is_closed:
                return False
            self._strangers[newcomer] = None
            return True

    def recognise(self, connection: Connection) -> None:
        """Take a stranger for known from now on.

        Raises:
            Crowded: If there are as many as may be; it stays a stranger.
        """
        with self._has_left:
            if connection not in self._strangers:  # known already, or cut a moment ago
                return
            if len(self._known) >= self._most_known:
                raise Crowded(f"{self._most_known} connections are open already")
            del self._strangers[connection]
            self._known.add(connection)

    def is_known(self, connection: Connection) -> bool:
        """Whether it has shown the token."""
        return connection in self._known

    def leave(self, connection: Connection) -> None:
        """Strike a connection that has ended."""
        with self._has_left:
            self._strangers.pop(connection, None)
            self._known.discard(connection)
            self._leaving.discard(connection)
            self._has_left.notify_all()

    def close(self) -> None:
        """Cut everybody and take nobody in."""
        with self._has_left:
            self._is_closed = True
            for connection in (*self._strangers, *self._known):
                connection.cut()

    def wait_until_empty(self, timeout_s: float) -> None:
        """Wait until everybody has left, but no longer than that."""
        with self._has_left:
            self._has_left.wait_for(
                lambda: not (self._strangers or self._known or self._leaving), timeout=timeout_s
            )

    def count(self) -> tuple[int, int, int]:
        """Return how many strangers there are, how many known, how many on their way out."""
        with self._has_left:
            return len(self._strangers), len(self._known), len(self._leaving)

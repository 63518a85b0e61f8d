"""Ctrl-C on the driver."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interrupts:
    """Ctrl-C and SIGTERM: an exception, and a flag in case the exception is swallowed.

    A signal that arrives while Python runs a finalizer (py4j has many) raises there, and is lost.
    """

    def __init__(self) -> None:
        self.requested = False
        self._held_back = False

    def install(self) -> None:
        """Listen to both signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was asked for and has not come through."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let the block come to its end: an interrupt in it is raised behind it."""
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False
        self.check()

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        if not self._held_back:
            raise KeyboardInterrupt


class StartInterrupted(KeyboardInterrupt):
    """Interrupted before there was a Spark context."""

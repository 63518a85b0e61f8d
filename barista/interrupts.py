"""Ctrl-C on the driver."""

from __future__ import annotations

import signal


class Interrupts:
    """Ctrl-C and SIGTERM: an exception, and a flag in case the exception is swallowed.

    A signal that arrives while Python runs a finalizer (py4j has many) raises there, and is lost.
    """

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Listen to both signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was asked for and has not come through."""
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        raise KeyboardInterrupt


class StartInterrupted(KeyboardInterrupt):
    """Interrupted before there was a Spark context."""

"""The far end of a contender: it works while it is told to, and says how far it came.

Standard library only: peers run it in an environment of their own.  Orders and answers are lines of
JSON on stdin and on what was stdout; whatever else the process prints goes to its log.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


class Channel:
    """Orders from the benchmark, answers to it."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # loops of other people print

    def order(self) -> dict[str, Any] | None:
        """Return the next order, None once the benchmark has hung up."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def answer(self, **message: Any) -> None:
        """Send a line."""
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()


class Gate:
    """Stands in a training loop and holds it while others are measured.

    Args:
        channel: To the benchmark.
        lead: Gradients until the loop counts as warm: its replay is filled and nothing is new.
    """

    def __init__(self, channel: Channel, lead: int) -> None:
        self._channel, self._lead = channel, lead
        self._until_s: float | None = None
        self._at_begin = (0, 0, 0.0)  # agent steps, gradients, the clock in seconds

    def at(self, steps: int, gradients: int) -> None:
        """Note how far the loop is; returns when it may go on, ends the process at hang-up.

        Args:
            steps: Agent steps since the start.
            gradients: The same of gradients.
        """
        now = time.monotonic()
        if self._until_s is None:
            if gradients < self._lead:
                return
            self._channel.answer(ready=True)
        elif now < self._until_s:
            return
        else:
            steps_before, gradients_before, began = self._at_begin
            self._channel.answer(
                steps=steps - steps_before,
                gradients=gradients - gradients_before,
                wall_s=now - began,
            )
        order = self._channel.order()
        if order is None:
            os._exit(0)  # there is nothing to keep, and libraries' threads would hold it
        began = time.monotonic()
        self._at_begin = (steps, gradients, began)
        self._until_s = began + order["seconds"]

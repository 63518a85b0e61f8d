"""The server's alarms on the console: a line when one begins, a line when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class AlarmLines:
    """Says what changes from one status to the next.  Not thread-safe.

    Args:
        say: Takes a line for the user.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        #: names of the alarms in the newest status
        self.active: list[str] = []

    def show(self, status: Mapping[str, Any]) -> None:
        """Say which alarms have begun or ended since the last status.

        Args:
            status: A server's `status_data`; one of before there were alarms has none.
        """
        alarms = {alarm["name"]: alarm["text"] for alarm in status.get("alarms", ())}
        for name, text in alarms.items():
            if name not in self.active:
                self._say(f"alarm: {name}: {text}")
        for name in self.active:
            if name not in alarms:
                self._say(f"alarm over: {name}")
        self.active = [*alarms]

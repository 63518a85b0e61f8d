"""Snapshots in time: after so many updates or seconds, after a new beginning, and on demand."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.errors import SnapshotFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from param_server.snapshot import Folder, Snapshot

_log = logging.getLogger(__name__)

_TICK_S = 0.5
_RETRY_S = 10.0  # after one that failed: each try holds up pushes for a moment


class Moment(NamedTuple):
    """Where the store is: its epoch, what was answered, the updates applied."""

    epoch: int
    changes: int
    updates: int


class Snapshotter:
    """Writes snapshots when they are due, in a thread of its own, and on demand.

    One is due when something changed and enough updates or time have gone by, or the journal is
    full, or the model was cleared: an older snapshot would bring back what was thrown away.  One
    that fails is logged, shown in the status, and tried again later; training goes on.

    Args:
        folder: Where they go.
        fill: See ``Folder.write``.
        moment: Returns where the store is.
        written: Called with each snapshot that is safe on disk.
        every_updates: Updates between two; 0: no such limit.
        every_s: Seconds between two; 0: no such limit.
        is_full: Whether the journal since the last one is as long as it may be.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Folder,
        fill: Callable[[Path], Mapping[str, Any]],
        *,
        moment: Callable[[], Moment],
        written: Callable[[Snapshot], None],
        every_updates: int,
        every_s: float,
        is_full: Callable[[], bool] = lambda: False,
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._fill = fill
        self._moment = moment
        self._written = written
        self._every_updates = every_updates
        self._every_s = every_s
        self._is_full = is_full
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._last_moment = self._last_try = moment()
        self._last_time = clock()
        self._last: Snapshot | None = None
        self._error = ""

    def start(self) -> None:
        """Begin to write them in time."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more in time; wait for one that is being written."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def is_due(self) -> bool:
        """Whether something changed, and enough of it, or long enough ago."""
        moment = self._moment()
        since_s = self._clock() - self._last_time
        if moment.changes == self._last_moment.changes or (self._error and since_s < _RETRY_S):
            return False
        updates = moment.updates - self._last_try.updates
        return (
            moment.epoch != self._last_try.epoch
            or 0 < self._every_updates <= updates
            or 0 < self._every_s <= since_s
            or self._is_full()
        )

    def has_changes(self) -> bool:
        """Whether the store moved since the last one."""
        return self._moment().changes != self._last_moment.changes

    def now(self) -> dict[str, Any]:
        """Write one and return its path, epoch and version.

        Raises:
            SnapshotFailed: If it cannot be written; the last one stays.
        """
        with self._lock:
            moment = self._last_try = self._moment()
            self._last_time = self._clock()
            try:
                snapshot = self._folder.write(self._fill)
            except SnapshotFailed as error:
                self._error = str(error)
                _log.error("%s; training goes on", error)
                raise
            self._last, self._last_moment, self._error = snapshot, moment, ""
        self._written(snapshot)
        epoch, version = snapshot.age
        _log.info("snapshot of version %d in %s", version, snapshot.path)
        return {"path": str(snapshot.path), "epoch": epoch, "version": version}

    def mark_evaluated(
        self, version: int, /, *, return_mean: float, return_se: float, episodes: int
    ) -> bool:
        """Note how good a version plays; return whether it is the best so far.

        Raises:
            NoSnapshot: If that version has none.
        """
        result = {"return_mean": return_mean, "return_se": return_se, "episodes": episodes}
        return self._folder.mark_evaluated(version, result)

    def status(self) -> dict[str, Any]:
        """Return the last snapshot and the last error as JSON."""
        last = self._last
        return {
            "folder": str(self._folder.path),
            "last_version": last.manifest["version"] if last else None,
            "error": self._error,
        }

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            self._turn()

    def _turn(self) -> None:
        try:
            if self.is_due():
                self.now()
        except SnapshotFailed:
            pass  # logged and shown; a later turn tries again
        except Exception as error:  # noqa: BLE001 - this thread must outlive any one snapshot
            self._error = f"{type(error).__name__}: {error}"
            _log.exception("a snapshot failed in a way nobody foresaw")

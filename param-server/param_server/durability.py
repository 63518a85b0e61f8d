"""What happens between a change and its acknowledgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from param_server.journal import Journal
    from param_server.progress import Progress
    from param_server.store import Store


class Durability:
    """Has changes on disk where that is promised, and notes what was acknowledged.

    Safe to call from many threads.

    Args:
        progress: Where it is noted.
        journal: Where the changes are; None in mode ``interval``.
    """

    def __init__(self, progress: Progress, journal: Journal | None = None) -> None:
        self._progress = progress
        self._journal = journal

    def acknowledge(self, store: Store, /) -> None:
        """Return when all that this thread has changed may be acknowledged.

        Raises:
            JournalFailed: It may not be: it could be lost.
        """
        # Read before the sync: each of these was in the journal before it was in the store.
        reached = store.epoch, store.version, store.changes
        if self._journal is not None:
            self._journal.sync()
        self._progress.write(*reached)

    def close(self) -> None:
        """Close the files; nobody changes anything any more."""
        self._progress.close()
        if self._journal is not None:
            self._journal.close()

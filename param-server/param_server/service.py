"""What the server does for whoever asks, by whatever way they came.

Two transports lead here: HTTP (``app``, ``model_routes``, ``page_routes``) and the same-host one.
Both authenticate and decode; what a push or a pull means is said once, here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from param_server.filters import Filters
from param_server.live import Live
from param_server.metrics import Metrics
from param_server.receiving import Receiving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from param_server.access import Access
    from param_server.downloads import Downloads
    from param_server.incidents import Incidents
    from param_server.store import Store
    from param_server.wire import Float32, Model, Push, PushAnswer


_PATIENCE_S = 1.0  # how long a push may wait here for other workers'


class Snapshots(Protocol):
    """Whatever writes snapshots."""

    def now(self) -> dict[str, Any]:
        """Write one and return its path, epoch and version."""

    def mark_evaluated(
        self, version: int, /, *, return_mean: float, return_se: float, episodes: int
    ) -> bool:
        """Note how good a version plays; return whether it is the best so far.

        Raises:
            NoSnapshot: If that version has none.
        """


class Durability(Protocol):
    """Whatever has to happen between a change and its acknowledgement."""

    def acknowledge(self, store: Store, /) -> None:
        """Return when all that this thread has changed may be acknowledged."""


class _Forgetful:
    """Has nothing happen."""

    def acknowledge(self, store: Store, /) -> None:
        """See ``Durability``."""


class Service:
    """What the transports need; one for each server.  Safe to call from many threads."""

    def __init__(
        self,
        store: Store,
        *,
        access: Access,
        snapshots: Snapshots,
        downloads: Downloads,
        incidents: Incidents,
        prototxt: Mapping[str, Any],
        status: Callable[[], dict[str, Any]],
        new_epoch: Callable[[], int],
        durability: Durability | None = None,
    ) -> None:
        self._durability = durability or _Forgetful()
        self.store = store
        self.access = access
        self.snapshots = snapshots
        self.downloads = downloads
        self.incidents = incidents
        self.prototxt = prototxt
        self.status = status
        self.new_epoch = new_epoch
        self.metrics = Metrics(status)
        self.live = Live(status)
        self.filters = Filters(store)
        self.receiving = Receiving()
        self._local = threading.local()

    def push(self, push: Push, gradient: Float32, out: Float32) -> tuple[PushAnswer, Model | None]:
        """Judge a push; copy the new weights into ``out`` where the push wants them.

        Args:
            push: What its worker says about it.
            gradient: float32 [P]; read, not kept.
            out: float32 [P]; may be the gradient's own memory.

        Raises:
            Refused: See ``Store``; nothing changed.
            JournalFailed: It could not be made durable, and is not acknowledged.
        """
        if push.want_model:
            answered = self.store.exchange(push, gradient, out=out, patience_s=_PATIENCE_S)
        else:
            answered = self.store.apply(push, gradient, patience_s=_PATIENCE_S), None
        self._durability.acknowledge(self.store)
        return answered

    def clear(self) -> None:
        """Send the model back to version 0, in a new epoch.

        Raises:
            JournalFailed: As for ``push``.
        """
        self.store.clear(self.new_epoch())
        self._durability.acknowledge(self.store)

    def pull(
        self, known: tuple[int, int] | None, out: Float32, *, target: bool = False
    ) -> Model | None:
        """Copy the weights (or the target's) into ``out``, None where they are ``known``."""
        read = self.store.read_target if target else self.store.read
        return read(known, out=out)

    def buffer(self) -> Float32:
        """Return this thread's float32 [P], for a payload on its way in or out."""
        buffer: Float32 | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = np.empty(self.store.layout.size, np.float32)
        return buffer

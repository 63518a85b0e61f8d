"""What a worker needs of a parameter server, and a server in the same process.

`param_server.client.Client` is an `Exchange` over HTTP; `LocalExchange` calls a store directly, for
serial mode and for tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from param_server.wire import Model, Push, PushAnswer

    Float32 = NDArray[np.float32]


class Exchange(Protocol):
    """Pull and push, by whatever way.

    Weights are read into the float32 [P] that the caller brings, `out`, which is undefined after an
    error; a model's `weights` are that array, or where they lie already if they need not be copied.
    """

    def pull(self, known: tuple[int, int] | None, out: Float32, /) -> Model | None:
        """Return the weights, None where (epoch, version) is `known` already."""

    def pull_target(self, known: tuple[int, int] | None, out: Float32, /) -> Model | None:
        """Return the target's weights, None where (epoch, target version) is `known` already."""

    def push(
        self, push: Push, gradient: Float32, out: Float32, /
    ) -> tuple[PushAnswer, Model | None]:
        """Send a gradient; return the verdict, and newer weights where the push wants them."""

    def leave(self, worker: str, incarnation: str, /) -> object:
        """Say that this worker pushes no more for now, so that nobody waits for it."""


class LocalStore(Protocol):
    """The part of `param_server.store.Store` that an exchange uses."""

    def apply(self, push: Push, gradient: Float32) -> PushAnswer:
        """Judge a push and apply its gradient."""

    def exchange(
        self, push: Push, gradient: Float32, out: Float32
    ) -> tuple[PushAnswer, Model | None]:
        """Apply a push and copy the weights into `out`, if they are newer than the push's."""

    def read(self, known: tuple[int, int] | None = None, *, out: Float32) -> Model | None:
        """Copy the weights into `out`, unless they are known."""

    def read_target(self, known: tuple[int, int] | None = None, *, out: Float32) -> Model | None:
        """Copy the target's weights into `out`, unless they are known."""

    def leave(self, worker: str, incarnation: str) -> None:
        """Count a worker no more until it pushes again."""


class LocalExchange:
    """An exchange with a store of this process.  As safe for threads as the store is."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def pull(self, known: tuple[int, int] | None, out: Float32, /) -> Model | None:
        """See `Exchange`."""
        return self._store.read(known, out=out)

    def pull_target(self, known: tuple[int, int] | None, out: Float32, /) -> Model | None:
        """See `Exchange`."""
        return self._store.read_target(known, out=out)

    def push(
        self, push: Push, gradient: Float32, out: Float32, /
    ) -> tuple[PushAnswer, Model | None]:
        """See `Exchange`."""
        if push.want_model:
            return self._store.exchange(push, gradient, out)
        return self._store.apply(push, gradient), None

    def leave(self, worker: str, incarnation: str, /) -> None:
        """See `Exchange`."""
        self._store.leave(worker, incarnation)

"""Pushes that become an update together: ``iter_size``, and synchronous rounds.

Caffe's solver sums the gradients of ``iter_size`` passes and divides the sum itself when it
applies it, after clipping; so what it is handed here is the sum.  A synchronous update is the
mean, one gradient like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from param_server.errors import BadRequest
from param_server.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from param_server.wire import Float32


class Update(NamedTuple):
    """What was gathered: float32 [P], good until the next is asked for, and its step's factor."""

    gradient: Float32
    scale: float


class Gathering:
    """The pushes of the next update so far.  Not thread-safe: the store calls it under its lock.

    Args:
        size: Floats in a gradient.
        averages: Whether an update is the mean of its gradients, or their sum.
    """

    def __init__(self, size: int, *, averages: bool) -> None:
        self._sum, self._total = np.zeros((2, size), np.float32)
        self._averages = averages
        self._scales = 0.0
        self.workers: list[str] = []  # one for each push

    def __len__(self) -> int:
        """Return the number of pushes."""
        return len(self.workers)

    def add(self, worker: str, gradient: Float32, scale: float) -> None:
        """Add a push."""
        if self.workers:
            self._sum += gradient
        else:
            np.copyto(self._sum, gradient)
        self._scales += scale
        self.workers.append(worker)

    def update(self, last: Float32 | None = None, scale: float = 0.0) -> Update:
        """Return the update, with the push that completes it if there is one; keep what is here.

        The caller clears when the update was applied: one that failed has changed nothing.
        """
        total, count, scales = self._total, len(self.workers), self._scales
        assert count or last is not None, "nothing was gathered"
        if last is None:
            np.copyto(total, self._sum)
        elif count:
            np.add(self._sum, last, out=total)
        else:
            np.copyto(total, last)
        if last is not None:
            count, scales = count + 1, scales + scale
        if self._averages and count > 1:
            total /= count
        return Update(total, scales / count)

    def clear(self) -> None:
        """Forget what was gathered."""
        self.workers = []
        self._scales = 0.0

    def gradient(self) -> Float32 | None:
        """Return a copy of the sum so far, None if there is none."""
        return self._sum.copy() if self.workers else None

    def state(self) -> dict[str, Any]:
        """Return all but the sum as JSON."""
        return {"workers": self.workers, "scales": self._scales}

    def restore(self, state: Mapping[str, Any], gradient: Float32 | None) -> None:
        """Take up the state of a snapshot.

        Raises:
            BadRequest: If it is damaged; the gathering is unchanged.
        """
        workers = state.get("workers")
        scales = Fields(state).number("scales")
        if not isinstance(workers, list) or not all(isinstance(name, str) for name in workers):
            raise BadRequest("the gathered pushes are damaged")
        if bool(workers) != (gradient is not None):
            raise BadRequest("the gathered gradient is missing")
        if gradient is not None:
            np.copyto(self._sum, gradient)
        self.workers, self._scales = list(workers), scales

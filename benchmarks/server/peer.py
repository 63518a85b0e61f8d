"""What every variant's worker can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

PULL, PUSH, TWO, ONE = "pull", "push", "push, then pull", "push that pulls"


class Peer(ABC):
    """A worker that is connected to its server."""

    @abstractmethod
    def pull(self) -> None:
        """Get the weights."""

    @abstractmethod
    def push(self) -> None:
        """Send a gradient and wait until it is applied."""

    def exchange(self) -> None:
        """Send a gradient and get the new weights, in one request."""
        raise NotImplementedError

    def ways(self) -> dict[str, Callable[[], None]]:
        """Return what can be timed, by name."""
        ways = {PULL: self.pull, PUSH: self.push, TWO: self._push_then_pull}
        if type(self).exchange is not Peer.exchange:
            ways[ONE] = self.exchange
        return ways

    def _push_then_pull(self) -> None:
        self.push()
        self.pull()


def gradient_of(size: int) -> NDArray[np.float32]:
    """Return a gradient, float32 [P]: the same for all."""
    gradient: NDArray[np.float32] = np.random.default_rng(0).standard_normal(size, np.float32)
    gradient *= np.float32(1e-3)
    return gradient


def parts_of(
    flat: NDArray[np.float32], parameters: Sequence[tuple[str, Sequence[int]]]
) -> dict[str, NDArray[np.float32]]:
    """Return a flat array's parameters by name, each an array of its own."""
    ends = np.cumsum([np.prod(shape) for _, shape in parameters])
    parts = np.split(flat, ends[:-1])
    return {
        name: part.reshape(shape).copy()
        for part, (name, shape) in zip(parts, parameters, strict=True)
    }

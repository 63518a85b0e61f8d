"""A sum tree: numbers from which one can be drawn with a chance in proportion to its size.

Schaul et al., 2016, "Prioritized Experience Replay", appendix B.2.1, draw from a binary tree whose
nodes hold the sum of their children.  Here a node has 64 children and the root up to 4096, a whole
batch goes down at once, and sums are made only before they are read:

- two levels serve 262 144 leaves, three 16 million, so a batch takes a few NumPy calls in all;
- to set a leaf is one store and one mark, cheap enough for every step of a game;
- a sum is always made anew from its children, never by adding differences: it cannot drift.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAN_OUT = 64  # children of a node
ROOT_WIDTH = 4096  # children of the root at most: one running sum, in which a batch is searched


class SumTree:
    """Sums over an array of leaves, float64 [blocks, FAN_OUT], which is used and not copied.

    Whatever the leaves hold at first counts.  From then on they are set by `set` alone.

    Not thread-safe.
    """

    def __init__(self, leaves: NDArray[np.float64]) -> None:
        self._levels = [leaves]
        while self._levels[-1].size > ROOT_WIDTH:
            self._levels.append(np.zeros(self.shape_for(len(self._levels[-1]))))
        self._flat = leaves.reshape(-1)  # the same memory
        self._is_stale = np.ones(len(leaves), np.bool_)  # blocks whose sum is not yet made

    @staticmethod
    def shape_for(size: int) -> tuple[int, int]:
        """Return the shape of an array of at least `size` leaves; those beyond `size` stay 0."""
        return math.ceil(size / FAN_OUT), FAN_OUT

    @classmethod
    def nbytes_for(cls, size: int) -> int:
        """Return the bytes of a tree of `size` leaves, these included, without allocating them."""
        blocks = math.ceil(size / FAN_OUT)
        nodes = total = blocks * FAN_OUT
        while nodes > ROOT_WIDTH:
            nodes = math.prod(cls.shape_for(nodes // FAN_OUT))
            total += nodes
        return 8 * total + blocks

    @property
    def nbytes(self) -> int:
        """Bytes of all levels, the leaves included."""
        return sum(level.nbytes for level in self._levels) + self._is_stale.nbytes

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        self._refresh()
        return float(self._levels[-1].sum())

    def get(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the leaves at `indices`, int64 [B]: float64 [B]."""
        return self._flat[indices]

    def set(self, indices: NDArray[np.int64] | int, values: NDArray[np.float64] | float) -> None:
        """Set the leaves at `indices`, int64 [B] or one, to `values`, float64 [B] or one, ≥ 0.

        Of an index that is given twice, the last value stays.
        """
        self._flat[indices] = values
        self._is_stale[indices // FAN_OUT] = True

    def find(self, masses: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return for each mass the first leaf at which the running sum of the leaves exceeds it.

        A leaf of 0 is never returned, however the sums were rounded.

        Args:
            masses: float64 [B], in [0, total); what lies outside counts as the nearest within.

        Returns:
            int64 [B].  At least one leaf must be positive.
        """
        self._refresh()
        *below, root = self._levels
        children = root.reshape(-1)
        ends = children.cumsum()
        # Every mass is brought strictly within its node, so that the child found is positive.
        masses = _within(masses, ends[-1])
        nodes: NDArray[np.int64] = ends.searchsorted(masses, side="right")  # [B]
        masses = masses - (ends - children)[nodes]
        each = np.arange(len(nodes))  # [B]
        for level in reversed(below):
            siblings = level.take(nodes, axis=0)  # [B, FAN_OUT]
            sums = siblings.cumsum(axis=1)  # [B, FAN_OUT]
            masses = _within(masses, sums[:, -1])
            chosen = (sums > masses[:, None]).argmax(axis=1)  # [B]
            masses = masses - (sums - siblings)[each, chosen]
            nodes = nodes * FAN_OUT + chosen
        return nodes

    def check(self) -> None:
        """Assert that leaves are finite and not negative, and every node the sum of its children.

        O(leaves).
        """
        self._refresh()
        assert np.isfinite(self._flat).all()
        assert (self._flat >= 0).all()
        for below, above in itertools.pairwise(self._levels):
            sums = np.zeros(above.size)
            sums[: len(below)] = below.sum(axis=1)
            assert np.array_equal(above.reshape(-1), sums)

    def _refresh(self) -> None:
        """Make the sums above the leaves that have been set, level by level."""
        stale = np.flatnonzero(self._is_stale)
        if not len(stale):
            return
        self._is_stale[stale] = False
        for number, (below, above) in enumerate(itertools.pairwise(self._levels)):
            if number:
                stale = np.unique(stale // FAN_OUT)
            above.reshape(-1)[stale] = below.take(stale, axis=0).sum(axis=1)


def _within(
    masses: NDArray[np.float64], end: NDArray[np.float64] | np.float64
) -> NDArray[np.float64]:
    """Return masses in [0, end): subtracting may have moved one past either by a rounding."""
    return np.maximum(np.minimum(masses, np.nextafter(end, 0.0)), 0.0)

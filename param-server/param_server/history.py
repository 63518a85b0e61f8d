"""The run so far as a series of points, few enough to draw, however long it lasts.

Points begin one reading apart.  When there are ``limit`` of them, each two become one and points
are twice as far apart from then on: a day's run is as whole as a minute's, only coarser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIMIT = 1000


class Point(NamedTuple):
    """What the curves show of one moment, or of a stretch of time.

    Of a stretch, the counts are those at its end and the others are means.
    """

    uptime_s: float
    version: int
    steps: int
    episodes: int
    loss: float | None
    return_mean: float | None
    epsilon: float | None
    updates_per_s: float | None
    staleness_mean: float | None
    busy: float | None


_COUNTS = 4  # how many fields of a Point, the first ones, are counts


class History:
    """The points of one life of the model: another epoch begins anew.

    Not thread-safe.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        assert limit >= 2, limit
        assert limit % 2 == 0, limit
        self._limit = limit
        self._points: list[Point] = []
        self._newest: list[Point] = []  # readings of a point that is not complete
        self._stride = 1  # readings in a point
        self._epoch: int | None = None

    def add(self, status: Mapping[str, Any]) -> None:
        """Add one reading of the server's status."""
        if status["epoch"] != self._epoch:
            self._epoch, self._stride = status["epoch"], 1
            self._points, self._newest = [], []
        self._newest.append(point_of(status))
        if len(self._newest) < self._stride:
            return
        self._points.append(_merge(self._newest))
        self._newest = []
        if len(self._points) == self._limit:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_merge(pair) for pair in pairs]
            self._stride *= 2

    def as_json(self) -> dict[str, Any]:
        """Return the points by column, oldest first; the last may be of a shorter stretch."""
        points = self._points + ([_merge(self._newest)] if self._newest else [])
        columns = zip(*points, strict=True) if points else [()] * len(Point._fields)
        return {
            "epoch": self._epoch,
            "stride": self._stride,
            "columns": {
                name: list(values) for name, values in zip(Point._fields, columns, strict=True)
            },
        }

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._points) < self._limit, len(self._points)
        assert len(self._newest) < self._stride, (len(self._newest), self._stride)


def point_of(status: Mapping[str, Any]) -> Point:
    """Return what the curves show of a status."""
    epsilon = status["stats"].get("epsilon")
    return Point._make(epsilon if n == "epsilon" else status.get(n) for n in Point._fields)


def _merge(points: Sequence[Point]) -> Point:
    gauges = zip(*(point[_COUNTS:] for point in points), strict=True)
    return Point._make((*points[-1][:_COUNTS], *map(_mean, gauges)))


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that there are, to six digits: the points travel as text."""
    known = [value for value in values if value is not None]
    return float(f"{sum(known) / len(known):.6g}") if known else None

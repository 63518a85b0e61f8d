"""Whether the network learns at a sound pace, layer by layer.

The ratio of an update's size to that of the weights it changes should be about 1e-3: far below,
nothing is learned; far above, the weights jump about (Karpathy, CS231n, *Neural networks part 3*,
"Ratio of weights:updates").  The solver decides how large an update is, so it is measured: the
weights are copied before an update and compared with those after it.

That costs one copy and three dot products of all weights, under the store's lock; one update in
``period_s`` seconds pays it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from param_server.wire import Float32, Layout

PERIOD_S = 2.0


class Probe:
    """Measures one update in a while.

    Not thread-safe: the store calls ``begin`` and ``end`` under its lock.  ``layers`` is replaced
    whole, so reading it is safe from any thread.

    Args:
        layout: Of the weights.
        clock: Monotonic seconds.
        period_s: Seconds between two updates that are measured, at least.
    """

    def __init__(
        self, layout: Layout, *, clock: Callable[[], float], period_s: float = PERIOD_S
    ) -> None:
        self._layout = layout
        self._clock = clock
        self._period_s = period_s
        self._due = -math.inf
        self._before = np.empty(layout.size, np.float32)
        #: Name, shape, weight_norm, gradient_norm and update_ratio of each parameter, as JSON;
        #: the last three are None before the first update.
        self.layers = [_layer(name, shape) for name, shape in layout.entries]

    def begin(self, weights: Float32) -> bool:
        """Say whether the update that follows is measured, and remember the weights if so.

        Args:
            weights: float32 [P], before the update; not kept.
        """
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + self._period_s
        np.copyto(self._before, weights)
        return True

    def end(self, gradient: Float32, weights: Float32) -> None:
        """Measure the update that ``begin`` said is to be measured.

        Args:
            gradient: float32 [P], as it was applied; not kept.
            weights: float32 [P], after the update; not kept.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            change = np.subtract(weights, self._before, out=self._before)
        self.layers = [
            _layer(name, shape, _norm(weights[part]), _norm(gradient[part]), _norm(change[part]))
            for (name, shape), (_, part) in zip(
                self._layout.entries, self._layout.slices(), strict=True
            )
        ]


def _layer(
    name: str,
    shape: tuple[int, ...],
    weight_norm: float = math.nan,
    gradient_norm: float = math.nan,
    change_norm: float = math.nan,
) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(shape),
        "weight_norm": _finite(weight_norm),
        "gradient_norm": _finite(gradient_norm),
        "update_ratio": _finite(change_norm / weight_norm) if 0 < weight_norm < math.inf else None,
    }


def _norm(values: Float32) -> float:
    """Return the Euclidean norm, infinite where a square is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(float(np.dot(values, values)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

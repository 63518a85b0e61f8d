"""Rejecting gradients whose loss stands out: Gorila's stability measure (Nair et al., 2015).

Gorila keeps a running mean and standard deviation of the absolute loss and drops gradients whose
loss is several deviations above the mean.  Losses of dropped gradients count in both, so that a
loss that has risen for good is soon no outlier any more.  Should more than one push in twenty be
dropped all the same, the measure itself is wrong: it then accepts everything and says so, until
that share is small again.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Any

_log = logging.getLogger(__name__)

_DECAY = 0.99  # of the running mean and variance: about the last hundred losses
_FIRST = 100  # losses before anything is rejected
_WINDOW = 200  # pushes over which the share of outliers is taken
_MOST = 0.05


class Outliers:
    """The running statistics of the loss, and the judgement they allow.

    Not thread-safe: the store calls it under its lock.

    Args:
        sigmas: Standard deviations above the mean from which a loss is an outlier; 0: none is.
    """

    def __init__(self, sigmas: float) -> None:
        self._sigmas = sigmas
        self._mean = self._variance = 0.0
        self._seen = 0
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self.overruled = False  # whether there are too many outliers to believe in them

    def objection(self, loss: float) -> str:
        """Judge and count a push's loss; return why it is rejected, "" if it is not."""
        size = abs(loss)
        if not self._sigmas or not math.isfinite(size):
            return ""
        limit = self._mean + self._sigmas * math.sqrt(self._variance)
        stands_out = self._seen >= _FIRST and size > limit
        self._count(size)
        self._recent.append(stands_out)
        self._overrule()
        if not stands_out or self.overruled:
            return ""
        return f"outlier: loss {size:.4g} above {limit:.4g}"

    def _count(self, size: float) -> None:
        self._seen += 1
        # The plain mean at first, exponential decay once there is enough to forget.
        rate = max(1 - _DECAY, 1 / self._seen)
        difference = size - self._mean
        self._mean += rate * difference
        self._variance = (1 - rate) * (self._variance + rate * difference * difference)

    def _overrule(self) -> None:
        too_many = sum(self._recent) > _MOST * _WINDOW
        if too_many and not self.overruled:
            _log.warning("more than 5 %% of the losses are outliers: accepting them all")
        self.overruled = too_many

    def status(self) -> dict[str, Any]:
        """Return the measure as JSON."""
        return {"sigmas": self._sigmas, "overruled": self.overruled}

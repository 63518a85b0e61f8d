"""What the server has seen of training: counts, windows of recent values, rates.

For people and for the driver's decisions; nothing here decides about a gradient.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from param_server.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from param_server.ledger import Verdict
    from param_server.wire import Push

WINDOW = 100
#: pushes, accepted or rejected, of which alarms take the share
JUDGED_WINDOW = 300
#: where a worker's time goes; a push reports the seconds of each since the last, as "act_s"
STAGES = ("act", "sample", "compute", "exchange", "wait")
STALENESS_BOUNDS = (0, 1, 2, 3, 7, 15, 31, 63)
_RATE_WINDOW_S = 30.0
_STATS_LIMIT = 32
_STAGE_OF = {f"{stage}_s": stage for stage in STAGES}
_LONGEST_STAGE_S = 86_400.0  # between two pushes; what claims to be longer is no time


class Tally:
    """Counts and windows over all workers.

    Not thread-safe: the store calls it under its lock.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.episode_lengths: deque[int] = deque(maxlen=WINDOW)
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.stats: dict[str, deque[float]] = {}
        #: seconds of all workers together, by stage
        self.worker_s = dict.fromkeys(STAGES, 0.0)
        #: of the pushes judged last, whether each was rejected
        self._rejections: deque[bool] = deque(maxlen=JUDGED_WINDOW)
        self.rejected: Counter[str] = Counter()
        self.late = 0
        self.duplicates = 0
        #: gradients taken, by staleness: a count per bound, the last for what exceeds them all
        self.staleness = [0] * (len(STALENESS_BOUNDS) + 1)
        self.staleness_sum = 0
        self.non_finite_in_a_row = 0
        self.non_finite_parameter = ""
        self._update_times: deque[float] = deque(maxlen=4096)

    def forget_failures(self) -> None:
        """Begin the count of non-finite gradients anew: another run is not to blame for them."""
        self.non_finite_in_a_row = 0
        self.non_finite_parameter = ""

    def count_push(self, push: Push, verdict: Verdict) -> None:
        """Add what a push reports, whatever became of its gradient."""
        self.steps += push.steps
        self.episodes += len(push.episodes)
        self.returns.extend(push.episodes)
        self.episode_lengths.extend(push.episode_lengths)
        for name, value in push.stats.items():
            self._count_stat(name, value)
        if verdict.status == "late":
            self.late += 1
        else:
            self._rejections.append(verdict.status == "rejected")
        if verdict.status == "rejected":
            kind, _, parameter = verdict.reason.partition(": ")
            self.rejected[kind] += 1
            if kind == "non-finite":
                self.non_finite_in_a_row += 1
                self.non_finite_parameter = parameter

    def _count_stat(self, name: str, value: float) -> None:
        if name in _STAGE_OF:
            if 0 <= value <= _LONGEST_STAGE_S:
                self.worker_s[_STAGE_OF[name]] += value
        elif math.isfinite(value) and (name in self.stats or len(self.stats) < _STATS_LIMIT):
            self.stats.setdefault(name, deque(maxlen=WINDOW)).append(value)

    def count_gradient(self, loss: float, staleness: int) -> None:
        """Add a gradient that was taken, ``staleness`` updates after its weights."""
        self.forget_failures()
        if math.isfinite(loss):
            self.losses.append(loss)
        bucket = sum(staleness > bound for bound in STALENESS_BOUNDS)
        self.staleness[bucket] += 1
        self.staleness_sum += staleness

    def count_update(self, now: float) -> None:
        """Add one update."""
        self._update_times.append(now)

    def updates_per_s(self, now: float) -> float:
        """Return the rate of the last half minute, or of the time since the first update."""
        times = [time for time in self._update_times if now - time <= _RATE_WINDOW_S]
        if not times or now <= times[0]:
            return 0.0
        return len(times) / (now - times[0])

    def status(self, now: float) -> dict[str, Any]:
        """Return everything as JSON."""
        labels = [str(bound) for bound in STALENESS_BOUNDS]
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "updates_per_s": self.updates_per_s(now),
            "loss": mean(self.losses),
            "return_mean": mean(self.returns),
            "return_se": standard_error(self.returns),
            "return_largest": max(map(abs, self.returns), default=None),
            "returns_count": len(self.returns),
            "episode_length_mean": mean(self.episode_lengths),
            "staleness": dict(zip([*labels, "more"], self.staleness, strict=True)),
            "staleness_mean": self.staleness_sum / max(1, sum(self.staleness)),
            "rejected": dict(self.rejected),
            "judged": {"count": len(self._rejections), "rejected": sum(self._rejections)},
            "late": self.late,
            "duplicates": self.duplicates,
            "consecutive_non_finite": {
                "count": self.non_finite_in_a_row,
                "parameter": self.non_finite_parameter,
            },
            "stats": {name: mean(values) for name, values in sorted(self.stats.items())},
            "worker_s": dict(self.worker_s),
        }

    def state(self) -> dict[str, Any]:
        """Return as JSON what a resumed run continues."""
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "returns": list(self.returns),
            "episode_lengths": list(self.episode_lengths),
            "losses": list(self.losses),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a snapshot; the rest starts at zero.

        Raises:
            BadRequest: If it is not what ``state`` returns; the tally is unchanged.
        """
        fields = Fields(state)
        steps, episodes = fields.integer("steps"), fields.integer("episodes")
        returns, losses = fields.finite_numbers("returns"), fields.finite_numbers("losses")
        lengths = fields.integers("episode_lengths")
        self.__init__()  # type: ignore[misc]  # everything that is not in the state is zero
        self.steps, self.episodes = steps, episodes
        self.returns.extend(returns)
        self.losses.extend(losses)
        self.episode_lengths.extend(lengths)

    def check(self) -> None:
        """Assert the invariants."""
        assert self.steps >= 0, self.steps
        assert len(self.returns) <= min(WINDOW, self.episodes), (len(self.returns), self.episodes)
        assert all(map(math.isfinite, (*self.returns, *self.losses)))


def mean(values: deque[float] | deque[int]) -> float | None:
    """Return the mean of a window, None while it is empty."""
    if not values:
        return None
    total = sum(values)
    if math.isfinite(total):
        return total / len(values)
    return sum(value / len(values) for value in values)  # of numbers whose sum is none


def standard_error(values: deque[float]) -> float | None:
    """Return the standard error of a window's mean, None of fewer than two values."""
    centre, count = mean(values), len(values)
    if centre is None or count < 2:
        return None
    spread = math.dist(values, [centre] * count)  # sums squares that would overflow
    error = spread / math.sqrt(count * (count - 1))
    return error if math.isfinite(error) else None

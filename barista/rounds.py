"""A round, as a worker sees it: what is asked of it, and the row of numbers that it gives back."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from barista.timings import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from param_server.wire import PushAnswer

    from barista.learner import LearnStats

_log = logging.getLogger(__name__)

TAKEN = frozenset({"applied", "gathered"})
"""The verdicts on a push whose gradient counts: in an update, or in the next one that completes."""


class RoundError(RuntimeError):
    """A round could not be carried out; the message is the reason, without stack traces."""


@dataclass(frozen=True)
class RoundRequest:
    """What the driver asks of a worker: to push until the round is over.

    Raises:
        ValueError: If a field is out of range.
    """

    number: int  # from 1; 0 for training without rounds
    partition: int = 0  # Spark's, for the record
    quota: int = 0  # pushes of all workers that complete the round; 0: none do
    deadline_s: float = math.inf  # seconds from now
    push_period: int = 0  # gradients in a push; 0: what the configuration says

    def __post_init__(self) -> None:
        for name in ("number", "partition", "quota", "push_period"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}, expected a count")
        if type(self.deadline_s) not in {int, float} or not self.deadline_s > 0:
            raise ValueError(f"deadline_s is {self.deadline_s!r}, expected seconds above 0")


class RoundMetrics(TypedDict):
    """One worker's round, as a JSON object.  Means of nothing are null."""

    worker: str
    round: int
    partition: int
    applied: int  # pushes, by the server's verdict
    gathered: int  # taken, to become an update together with others
    rejected: int
    late: int
    duplicates: int
    dropped: int  # gradients that never were pushes: an epoch, or their weights, had ended
    steps: int  # agent steps
    episodes: int  # that ended in the round
    return_mean: float | None  # of their raw rewards' sums
    loss_mean: float | None  # Huber
    q_mean: float | None  # Q(s, a) of the actions taken
    td_error_mean: float | None  # |δ|
    staleness_mean: float | None  # updates, of the pushes that were taken
    epsilon: float  # at the end of the round
    seconds: float
    act_s: float
    sample_s: float
    compute_s: float
    exchange_s: float
    wait_s: float  # for answers, minibatches or games, with nothing else to do


class RoundTally:
    """What has happened since the last row.  Not thread-safe.

    Args:
        stages_s: Seconds spent in each stage so far; the row holds the differences.
    """

    def __init__(self, stages_s: Mapping[str, float]) -> None:
        self._stages_before_s = stages_s
        self._verdicts: Counter[str] = Counter()
        self._stats: list[LearnStats] = []
        self._staleness: list[int] = []
        self._returns: list[float] = []
        self._steps = self._dropped = 0
        self._complained: set[str] = set()  # about kinds of rejections

    def add_steps(self, steps: int, returns: Sequence[float]) -> None:
        """Count agent steps and the episodes that they ended."""
        self._steps += steps
        self._returns.extend(returns)

    def add_gradient(self, stats: LearnStats) -> None:
        """Count a gradient."""
        self._stats.append(stats)

    def add_answer(self, answer: PushAnswer) -> None:
        """Count a push by its verdict; of each kind of rejection, log the first one."""
        self._verdicts[answer.status] += 1
        kind = answer.reason.partition(":")[0]
        if answer.status == "rejected" and kind not in self._complained:
            self._complained.add(kind)
            _log.warning("the server rejects a gradient: %s", answer.reason)
        if answer.status in TAKEN:
            self._staleness.append(answer.staleness)

    def add_dropped(self, gradients: int) -> None:
        """Count gradients that were given up."""
        self._dropped += gradients

    def row(
        self,
        worker: str,
        request: RoundRequest,
        *,
        epsilon: float,
        seconds: float,
        stages_s: Mapping[str, float],
    ) -> RoundMetrics:
        """Return the row of a round that took `seconds`."""
        spent_s = {
            name: stages_s.get(name, 0.0) - self._stages_before_s.get(name, 0.0) for name in STAGES
        }
        return RoundMetrics(
            worker=worker,
            round=request.number,
            partition=request.partition,
            applied=self._verdicts["applied"],
            gathered=self._verdicts["gathered"],
            rejected=self._verdicts["rejected"],
            late=self._verdicts["late"],
            duplicates=self._verdicts["duplicate"],
            dropped=self._dropped,
            steps=self._steps,
            episodes=len(self._returns),
            return_mean=mean(self._returns),
            loss_mean=mean([stats.loss for stats in self._stats]),
            q_mean=mean([stats.q_mean for stats in self._stats]),
            td_error_mean=mean([stats.td_error_mean for stats in self._stats]),
            staleness_mean=mean(self._staleness),
            epsilon=epsilon,
            seconds=seconds,
            act_s=spent_s["act"],
            sample_s=spent_s["sample"],
            compute_s=spent_s["compute"],
            exchange_s=spent_s["exchange"],
            wait_s=spent_s["wait"],
        )


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of nothing, and where it is not finite: JSON has neither."""
    if not values or not all(map(math.isfinite, values)):
        return None
    return math.fsum(values) / len(values)

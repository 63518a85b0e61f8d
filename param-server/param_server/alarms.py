"""Signs that a run does not learn, judged from the status once a second at most.

What the server hears is little: means over the last pushes, returns, verdicts.  It knows neither
the game nor, unless workers tell it, the discount.  So each alarm compares one number with a limit
that holds for any game, and keeps quiet where nothing can be said:

- **q-runaway**: the largest |Q| of the minibatches.  With rewards clipped to [-1, 1] no value can
  exceed 1/(1 - γ); workers may tell that as `q_bound`, and half as much again is a network's error.
  Otherwise |Q| is compared with what the game pays: ten times the largest |return| of the last
  episodes.  How fast it grows is no sign: from an untrained network, whose values are near 0, it
  grows by any factor.
- **td-error-runaway**: mean |TD error|.  It depends on the game's rewards, so it is compared with
  the smallest it was in this run (ten times), and as that may be next to nothing where rewards are
  rare, with a tenth of what an episode pays too.
- **one-action**, **dead-units**: shares.  An untrained network prefers one action for a while, so
  these have to last.  A minibatch of frames that look alike leaves many healthy units at 0: a third
  to a half of an untrained network's on Pong, a third after 10 000 updates on Snake; hence 0.8.
- **rejected-gradients**: the share of the pushes judged last.
- **no-progress**: the mean return against the best it was.  By chance a mean exceeds the best a
  little again and again, so only three standard errors of the difference count; and both the
  stated time and a window of new episodes have to pass.

An alarm begins when its limit has been exceeded for a while and ends clearly below it, so that it
does not flicker.  Time counts only while pushes come: a server that idles has no alarms to raise.
The clock is the status's own, `uptime_s`.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.tally import WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Status = Mapping[str, Any]

PERIOD_S = 1.0
_LONGEST_GAP_S = 60.0  # between two pushes of a run that trains
_FEWEST_JUDGED = 100  # pushes that make a share


class Sign(NamedTuple):
    """How far one fault has come."""

    value: float
    limit: float  # above it there is an alarm
    detail: str = ""


class Best(NamedTuple):
    """The best mean return so far, and when it was reached."""

    mean: float
    error: float  # standard error
    trained_s: float
    episodes: int


class Course:
    """What a run has shown so far, as far as alarms compare with it.  Not thread-safe."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self.trained_s = 0.0  # time in which pushes came
        self.lowest_td_error = math.inf
        self.best: Best | None = None
        self._progress: tuple[int, int] | None = None
        self._moved_at = 0.0

    def follow(self, status: Status) -> bool:
        """Take in a status; return whether pushes came since the last one."""
        progress = status["version"], status["steps"]
        now = status["uptime_s"]
        if self._progress is None:
            self._progress, self._moved_at = progress, now
        if progress == self._progress:
            return False
        self.trained_s += min(max(0.0, now - self._moved_at), _LONGEST_GAP_S)
        self._progress, self._moved_at = progress, now
        self.lowest_td_error = min(
            self.lowest_td_error, status["stats"].get("td_error_mean", math.inf)
        )
        self._compare_returns(status)
        return True

    def _compare_returns(self, status: Status) -> None:
        mean, error = status["return_mean"], status["return_se"]
        if mean is None or error is None or status["returns_count"] < WINDOW:
            return
        best = self.best
        if best is None or mean - best.mean > 3 * math.hypot(error, best.error):
            self.best = Best(mean, error, self.trained_s, status["episodes"])


class Rule(NamedTuple):
    """When an alarm begins and ends, and what it says."""

    name: str
    measure: Callable[[Status, Course], Sign | None]  # None: too little is known
    hold_s: float  # of training above the limit before it begins
    relief: float  # it ends below this share of the limit
    text: str  # with the sign's fields


def _q(status: Status, _: Course) -> Sign | None:
    stats = status["stats"]
    values = [abs(stats[name]) for name in ("q_max", "q_mean") if name in stats]
    limits = [10 * paid] if (paid := _paid(status)) else []
    if stats.get("q_bound", 0) > 0:
        limits.append(1.5 * stats["q_bound"])
    return Sign(max(values), min(limits)) if values and limits else None


def _td_error(status: Status, course: Course) -> Sign | None:
    value, paid = status["stats"].get("td_error_mean"), _paid(status)
    if value is None or paid is None:
        return None
    return Sign(value, max(1.0, paid / 10, 10 * course.lowest_td_error))


def _paid(status: Status) -> float | None:
    """Return the most that an episode of late was worth, at least one reward of 1."""
    largest = status["return_largest"]
    return None if largest is None else max(1.0, largest)


def _share(name: str, limit: float) -> Callable[[Status, Course], Sign | None]:
    """Return the measure of a share that workers report."""

    def measure(status: Status, _: Course) -> Sign | None:
        value = status["stats"].get(name)
        return None if value is None else Sign(value, limit)

    return measure


def _rejected(status: Status, _: Course) -> Sign | None:
    recent = status["judged"]
    if recent["count"] < _FEWEST_JUDGED:
        return None
    reasons = status["rejected"]
    most = max(reasons, key=lambda reason: reasons[reason], default="")
    return Sign(recent["rejected"] / recent["count"], 0.2, most)


def _stalled(status: Status, course: Course) -> Sign | None:
    best = course.best
    if best is None or not course.stall_s:
        return None
    if status["episodes"] - best.episodes < WINDOW:  # most of the mean is as old as the best
        return Sign(0.0, course.stall_s)
    return Sign(course.trained_s - best.trained_s, course.stall_s, f"{best.mean:.4g}")


RULES = (
    Rule(
        "q-runaway",
        _q,
        hold_s=60,
        relief=0.5,
        text="Q values run away: they reach {value:.3g}, and beyond {limit:.3g} they promise more "
        "than the game pays. Lower base_lr, lengthen --target-period, or clip rewards.",
    ),
    Rule(
        "td-error-runaway",
        _td_error,
        hold_s=60,
        relief=0.5,
        text="TD errors run away: {value:.3g} on average, above {limit:.3g}, ten times what this "
        "run began with or more. Lower base_lr, set clip_gradients, or lengthen --target-period.",
    ),
    Rule(
        "one-action",
        _share("action_share", 0.97),
        hold_s=600,
        relief=0.98,
        text="The network chooses one action nearly always ({value:.1%} of its choices): it does "
        "not tell states apart. Explore longer (--epsilon-steps), or lower base_lr.",
    ),
    Rule(
        "dead-units",
        _share("dead_units", 0.8),
        hold_s=600,
        relief=0.9,
        text="{value:.0%} of the rectified units are 0 for whole minibatches, and learn nothing. "
        "Lower base_lr and begin anew: dead units rarely come back.",
    ),
    Rule(
        "rejected-gradients",
        _rejected,
        hold_s=30,
        relief=0.5,
        text="{value:.0%} of the last gradients were rejected, most in this run as {detail}. If "
        "stale, loosen --staleness or use fewer workers; if outlier, raise --outliers; if "
        "non-finite, lower base_lr.",
    ),
    Rule(
        "no-progress",
        _stalled,
        hold_s=0,
        relief=0.5,
        text="No progress in {minutes:.0f} minutes of training: the mean return has not risen "
        "above {detail} by more than chance. Unless the game allows no more: explore longer "
        "(--epsilon-steps), change base_lr, or enlarge --replay-capacity.",
    ),
)
NAMES = tuple(rule.name for rule in RULES)


class _Alarm(NamedTuple):
    text: str
    began_at: float  # uptime_s


class Alarms:
    """The alarms of one server.  Safe to call from many threads.

    Args:
        stall_s: Training time without a better return that is an alarm; 0: none is.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._lock = threading.Lock()
        self._judged_at = -math.inf
        self._run: tuple[int, str] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._course = Course(self._stall_s)
        self._exceeded_since: dict[str, float] = {}  # trained_s by alarm
        self._active: dict[str, _Alarm] = {}

    def look(self, status: Status) -> list[dict[str, Any]]:
        """Judge a status, unless that was done within the last second.

        Args:
            status: What the store and its tally show, as JSON.

        Returns:
            The active alarms, the oldest first: `name`, `text`, and `since_s`, seconds.
        """
        now = status["uptime_s"]
        with self._lock:
            if now - self._judged_at >= PERIOD_S:
                self._judged_at = now
                self._judge(status)
            return [
                {"name": name, "text": alarm.text, "since_s": max(0.0, now - alarm.began_at)}
                for name, alarm in self._active.items()
            ]

    def _judge(self, status: Status) -> None:
        run = status["epoch"], status["run"]
        if run != self._run:
            self._run = run
            self._begin_anew()
        if self._course.follow(status):
            for rule in RULES:
                self._apply(rule, status)

    def _apply(self, rule: Rule, status: Status) -> None:
        """Begin an alarm, end it, or leave it as it is."""
        sign = rule.measure(status, self._course)
        if sign is None or sign.value <= sign.limit:
            self._exceeded_since.pop(rule.name, None)
            if sign is not None and sign.value < rule.relief * sign.limit:
                self._active.pop(rule.name, None)
            return
        trained_s = self._course.trained_s
        since = self._exceeded_since.setdefault(rule.name, trained_s)
        if rule.name not in self._active and trained_s - since >= rule.hold_s:
            text = rule.text.format(**sign._asdict(), minutes=sign.value / 60)
            self._active[rule.name] = _Alarm(text, status["uptime_s"])

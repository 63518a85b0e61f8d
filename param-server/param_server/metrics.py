"""The Prometheus page: the store's status in that format, and counts of the requests.

What the store knows is not counted again here: it is read when the page is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from param_server.alarms import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_COUNTERS = {
    "version": ("ddq_updates", "Gradients applied"),
    "steps": ("ddq_steps", "Agent steps of all workers"),
    "episodes": ("ddq_episodes", "Episodes of all workers"),
    "late": ("ddq_late_pushes", "Pushes that came after their round"),
    "duplicates": ("ddq_duplicate_pushes", "Pushes that were repeats"),
}
_GAUGES = {
    "epoch": ("ddq_epoch", "Life of the server, changes when it restarts or is cleared"),
    "durable_version": ("ddq_durable_version", "Newest version on disk"),
    "target_version": ("ddq_target_version", "Version of the target weights"),
    "updates_per_s": ("ddq_updates_per_second", "Updates per second over the last half minute"),
    "loss": ("ddq_loss", "Mean loss of the last 100 updates"),
    "return_mean": ("ddq_return_mean", "Mean return of the last 100 episodes"),
    "lr": ("ddq_learning_rate", "The solver's learning rate"),
    "uptime_s": ("ddq_uptime_seconds", "Time since the server started"),
}
_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """One server's registry; nothing of it is global.  Safe to call from many threads."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(status))
        #: requests answered 4xx, by kind of problem
        self.refused = Counter(
            "ddq_refused_requests", "Requests refused", ["kind"], registry=self._registry
        )
        #: requests that ended in an error of ours
        self.failures = Counter(
            "ddq_failed_requests", "Requests answered 500", registry=self._registry
        )
        #: seconds a request took in the application, its body's arrival included
        self.request_s = Histogram(
            "ddq_request_seconds",
            "Time of a request",
            ["route"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )

    def page(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)


class _StatusCollector(Collector):
    """Turns a status into metric families when it is asked."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for key, (name, help_text) in _COUNTERS.items():
            yield CounterMetricFamily(name, help_text, value=status[key])
        for key, (name, help_text) in _GAUGES.items():
            if status.get(key) is not None:
                yield GaugeMetricFamily(name, help_text, value=status[key])
        yield GaugeMetricFamily("ddq_workers", "Workers heard of", value=len(status["workers"]))
        rejected = CounterMetricFamily("ddq_rejected_pushes", "Pushes rejected", labels=["reason"])
        for reason, count in status["rejected"].items():
            rejected.add_metric([reason], count)
        yield rejected
        seconds = CounterMetricFamily(
            "ddq_worker_seconds", "Where the time of all workers went", labels=["stage"]
        )
        for stage, value in status["worker_s"].items():
            seconds.add_metric([stage], value)
        yield seconds
        yield _alarms(status)
        yield _staleness(status)


def _alarms(status: Mapping[str, Any]) -> GaugeMetricFamily:
    """Return every alarm there can be, 1 where it is active: absent series cannot be alerted on."""
    family = GaugeMetricFamily("ddq_alarm", "Sign that the run does not learn", labels=["name"])
    active = {alarm["name"] for alarm in status["alarms"]}
    for name in NAMES:
        family.add_metric([name], float(name in active))
    return family


def _staleness(status: Mapping[str, Any]) -> HistogramMetricFamily:
    """Return the staleness histogram, whose buckets Prometheus wants cumulative."""
    total = 0
    buckets = []
    for label, count in status["staleness"].items():
        total += count
        buckets.append(("+Inf" if label == "more" else label, total))
    return HistogramMetricFamily(
        "ddq_staleness_updates",
        "Staleness of applied gradients",
        buckets=buckets,
        sum_value=status["staleness_mean"] * total,
    )

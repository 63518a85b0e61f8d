"""A round as a Spark job, seen from the driver.

The job runs in a thread of its own, so that the driver's main thread stays free for progress, for
the server's health and for Ctrl-C.  Rounds map over one cached *anchor* RDD: Spark then sends
partition i to the executor that holds block i, where its Barista and replay already are (a fresh
RDD every round moved every second partition).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JError
from pyspark import InheritableThread

from barista.mailbox import encode_order, encode_target
from barista.rounds import RoundError
from barista.spark import task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pyspark import RDD, Broadcast, SparkContext

    from barista.driver.synchronous import Errand, Updates

STOP_S = 20.0  # for the Baristas to stop
EXPORT_S = 600.0  # for the Baristas to stop where each writes its replay first
# Longer than Spark waits before it looks on the same host, in the same rack, and anywhere: a
# second each as the session sets it, 3 s where a user has set back `spark.locality.wait`.
LOCALITY_S = 10.0
_GROUP = "ddq"


class Rounds:
    """Runs rounds over the slots of a context.  Not thread-safe."""

    def __init__(self, context: SparkContext, workers: int, assignment: task.Assignment) -> None:
        self._context = context
        self._workers = workers
        self._assignment = assignment
        self._anchor: RDD[int] | None = None

    def start(self, request: Mapping[str, Any], description: str) -> RoundJob:
        """Submit a round; returns at once.

        Args:
            request: Fields of `RoundRequest`, without the partition.
            description: For Spark's UI.

        Raises:
            RoundError: If Spark is gone.
        """
        assignment = self._assignment._replace(round=dict(request))

        def body(partition: int, items: Iterable[int]) -> Iterator[dict[str, Any]]:
            task.read_all(items)
            return task.supervise(assignment, partition)

        def work() -> list[dict[str, Any]]:
            self._context.setJobGroup(_GROUP, description, interruptOnCancel=False)
            return self._anchored().mapPartitionsWithIndex(body).collect()

        with spark_may_be_gone():
            return RoundJob(work)

    def has_running_tasks(self) -> bool:
        """Say whether any task of ours was given a slot.

        Raises:
            RoundError: If Spark is gone.
        """
        with spark_may_be_gone():
            tracker = self._context.statusTracker()
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        return any(stage is not None and stage.numActiveTasks > 0 for stage in stages)

    def cancel(self) -> None:
        """Cancel whatever job is running; nothing to do where Spark is gone."""
        with suppress(RoundError), spark_may_be_gone():
            self._context.cancelJobGroup(_GROUP)

    def stop_baristas(self) -> None:
        """Have every executor stop its Baristas; where Spark is gone, they leave by themselves."""
        timeout_s = self._stop_s()
        each_s = timeout_s / 2

        def body(items: Iterable[int]) -> Iterator[int]:
            task.read_all(items)
            return task.stop_all(each_s)

        def work() -> list[int]:
            self._context.setJobGroup(_GROUP, "stop the Baristas", interruptOnCancel=False)
            return self._anchored().mapPartitions(body).collect()

        with suppress(RoundError), spark_may_be_gone():
            RoundJob(work).wait(timeout_s)

    def _stop_s(self) -> float:
        """Return how long Baristas may take to stop."""
        writes = self._assignment.orders.get("config", {}).get("replay_to")
        return EXPORT_S if writes else STOP_S

    def _anchored(self) -> RDD[int]:
        if self._anchor is None:
            self._anchor = self._context.parallelize(range(self._workers), self._workers).cache()
            self._anchor.count()
        return self._anchor


class SynchronousRounds(Rounds):
    """Rounds without a server: each update is a job, and a round is K of them.

    An order is a broadcast, destroyed when its job is over; the target's weights are one that lasts
    until there are others.  Pushes come back by `collect`: in the order of their partitions.
    """

    def __init__(
        self, context: SparkContext, workers: int, assignment: task.Assignment, updates: Updates
    ) -> None:
        super().__init__(context, workers, assignment)
        self._updates = updates
        self._target: tuple[tuple[int, int], Broadcast[bytes]] | None = None
        self._share = 0  # of the partitions, that one executor had in the first round
        self._spread_over = ""  # executors, when partitions were last spread
        self._cancelled = threading.Event()

    def start(self, request: Mapping[str, Any], description: str) -> RoundJob:
        """See `Rounds`."""

        def work() -> list[dict[str, Any]]:
            rows = self._updates.run_round(
                request, lambda errand: self._carry(errand, request, description)
            )
            with suppress(Py4JError):  # the round is over; if Spark is gone, the next one says so
                self._spread(rows)
            return rows

        return RoundJob(work)

    def cancel(self) -> None:
        """See `Rounds`; no further update begins."""
        self._cancelled.set()
        super().cancel()

    def _carry(
        self, errand: Errand, request: Mapping[str, Any], description: str
    ) -> list[dict[str, Any]]:
        """Run the job of an update; return what each partition's Barista gave."""
        if self._cancelled.is_set():
            raise RoundError("the round was cancelled")
        # What is left of the round's time is for a Barista that has to begin it anew.
        assignment = self._assignment._replace(round={**request, "deadline_s": errand.left_s})
        key, target = self._broadcast_target(errand)
        order, is_last = self._context.broadcast(encode_order(errand.order)), errand.order.is_last

        def body(partition: int, items: Iterable[int]) -> Iterator[dict[str, Any]]:
            task.read_all(items)
            parcel = task.Parcel(order.value, target.value, key, is_last)
            return task.exchange(assignment, parcel, partition)

        try:
            self._context.setJobGroup(_GROUP, description, interruptOnCancel=False)
            return self._anchored().mapPartitionsWithIndex(body).collect()
        finally:
            order.destroy()

    def _spread(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Have partitions that a lost executor drove together spread again, if there is room.

        Spark keeps each where the anchor's part is cached, and jobs as short as an update never
        wait long enough for it to look elsewhere.  So the anchor is copied by a job that does.
        """
        self._share = self._share or max(map(len, by_executor(rows)), default=0)
        surplus = surplus_partitions(rows, self._share)
        status = self._context._jsc.sc().getExecutorMemoryStatus()  # noqa: SLF001 (as elsewhere)
        executors = str(status.keys().mkString(" "))
        room = (status.size() - 1) * self._share  # the driver is among them
        if not surplus or room < self._workers or executors == self._spread_over:
            return
        self._spread_over = executors
        each_s = self._stop_s() / 2

        def leave(partition: int, items: Iterable[int]) -> Iterator[int]:
            task.read_all(items)
            return task.stop_one(partition, each_s) if partition in surplus else iter(())

        anchor = self._anchored()
        anchor.mapPartitionsWithIndex(leave).count()
        until = time.time() + LOCALITY_S
        self._anchor = anchor.mapPartitions(lambda items: task.held(items, until)).cache()
        self._anchor.count()
        anchor.unpersist()

    def _broadcast_target(self, errand: Errand) -> tuple[tuple[int, int], Broadcast[bytes]]:
        key = (errand.target.epoch, errand.target.target_version)
        if self._target is None or self._target[0] != key:
            if self._target is not None:
                self._target[1].destroy()
            self._target = key, self._context.broadcast(encode_target(errand.target))
        return self._target


def by_executor(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the rows of each executor's workers, whose names differ in their slots alone."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["worker"].rpartition("-")[0]].append(row)
    return list(found.values())


def surplus_partitions(rows: Sequence[Mapping[str, Any]], share: int) -> set[int]:
    """Return the partitions beyond `share` of each executor: those with the least replay."""
    return {
        row["partition"]
        for those in by_executor(rows)
        for row in sorted(those, key=lambda row: -row["replay_size"])[share:]
    }


class RoundJob:
    """A running job."""

    def __init__(self, work: Any) -> None:
        self._over = threading.Event()
        self._rows: list[dict[str, Any]] = []
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._rows = work()
            except BaseException as error:  # noqa: BLE001 (handed to the thread that waits)
                self._error = error
            finally:
                self._over.set()

        InheritableThread(target=run, name="round", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; says whether it came."""
        return self._over.wait(timeout_s)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of a job that is over.

        Raises:
            RoundError: If it failed.
        """
        if self._error is not None:
            raise RoundError(reason(self._error)) from self._error
        return self._rows


@contextmanager
def spark_may_be_gone() -> Iterator[None]:
    """Turn what py4j raises without a JVM into a RoundError."""
    try:
        yield
    except (Py4JError, OSError) as error:
        raise RoundError("Spark is gone; see logs/spark.log") from error


# What our own code raises comes before what Spark makes of it.
_MARKERS = (
    "barista.launch.LaunchError: ",
    "barista.launch.BaristaRefusalError: ",
    "Caused by: ",
    "most recent failure: ",
    "SparkException: ",
    "Error: ",
)


def reason(error: BaseException) -> str:
    """Return the part of a Spark exception's text that says what happened."""
    text = str(error)
    for marker in _MARKERS:
        start = text.find(marker)
        if start >= 0:
            said = _without_java(text[start + len(marker) :])
            if said:
                return said
    return next((line for line in text.splitlines() if line.strip()), type(error).__name__)


def _without_java(text: str) -> str:
    kept: list[str] = []
    for line in text.splitlines():
        if line.startswith(("\tat ", "Caused by", "Driver stacktrace", "Traceback")):
            break
        kept.append(line)
    return "\n".join(kept).strip()

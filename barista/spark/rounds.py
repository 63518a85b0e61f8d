"""A round as a Spark job, seen from the driver.

The job runs in a thread of its own, so that the driver's main thread stays free for progress, for
the server's health and for Ctrl-C.  Rounds map over one cached *anchor* RDD: Spark then sends
partition i to the executor that holds block i, where its Barista and replay already are (a fresh
RDD every round moved every second partition).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pyspark import InheritableThread

from barista.spark import task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyspark import RDD, SparkContext

_GROUP = "ddq"


class RoundError(RuntimeError):
    """A round's job failed; the message is the reason without Spark's stack traces."""


class Rounds:
    """Runs rounds over the slots of a context.  Not thread-safe."""

    def __init__(self, context: SparkContext, workers: int, slots: int) -> None:
        self._context = context
        self._workers = workers
        self._slots = slots
        self._anchor: RDD[int] | None = None

    def start(self, assignment: task.Assignment, description: str) -> RoundJob:
        """Submit a round; returns at once."""

        def body(partition: int, _: Iterable[int]) -> Iterator[dict[str, Any]]:
            return task.supervise(assignment, partition)

        def work() -> list[dict[str, Any]]:
            self._context.setJobGroup(_GROUP, description, interruptOnCancel=False)
            return self._anchored().mapPartitionsWithIndex(body).collect()

        return RoundJob(work)

    def has_running_tasks(self) -> bool:
        """Say whether any task of ours was given a slot."""
        tracker = self._context.statusTracker()
        stages = (tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds())
        return any(stage is not None and stage.numActiveTasks > 0 for stage in stages)

    def cancel(self) -> None:
        """Cancel whatever job is running."""
        self._context.cancelJobGroup(_GROUP)

    def stop_baristas(self, timeout_s: float = 20.0) -> bool:
        """Have every executor stop its Baristas; False when that took too long."""
        slots = self._slots

        def body(_: Iterable[int]) -> Iterator[int]:
            return task.stop_all(slots)

        def work() -> list[int]:
            self._context.setJobGroup(_GROUP, "stop the Baristas", interruptOnCancel=False)
            return self._anchored().mapPartitions(body).collect()

        job = RoundJob(work)
        return job.wait(timeout_s)

    def _anchored(self) -> RDD[int]:
        if self._anchor is None:
            self._anchor = self._context.parallelize(range(self._workers), self._workers).cache()
            self._anchor.count()
        return self._anchor


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


def reason(error: BaseException) -> str:
    """Return the line of a Spark exception that says what happened."""
    text = str(error)
    for line in reversed(text.splitlines()):
        for marker in ("LaunchError: ", "BaristaRefusalError: ", "Error: "):
            if marker in line and "SparkException" not in line and "Py4JJavaError" not in line:
                start = text.index(line)
                return _without_java(text[start:]).partition(": ")[2]
    return next((line for line in text.splitlines() if line.strip()), type(error).__name__)


def _without_java(text: str) -> str:
    kept: list[str] = []
    for line in text.splitlines():
        if line.startswith(("\tat ", "Caused by", "Driver stacktrace")):
            break
        kept.append(line)
    return "\n".join(kept).strip()

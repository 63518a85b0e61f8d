"""What the driver makes of a job."""

import threading

import pytest
from py4j.protocol import Py4JNetworkError

from barista.rounds import RoundError
from barista.spark.rounds import RoundJob, Rounds, reason, surplus_partitions
from barista.spark.task import Assignment

TRACE = """An error occurred while calling o51.collect.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed 4 \
times, most recent failure: Lost task 0.3: org.apache.spark.api.python.PythonException: \
Traceback (most recent call last):
  File "/somewhere/worker.py", line 1, in main
    process()
barista.launch.LaunchError: a Barista did not start; the end of barista.log:
the last line of the log

\tat org.apache.spark.api.python.BasePythonRunner.handle(PythonRunner.scala)
\tat java.base/java.lang.Thread.run(Thread.java:840)

Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abort(DAGScheduler.scala)
Caused by: org.apache.spark.api.python.PythonException: Traceback (most recent call last):
barista.launch.LaunchError: a Barista did not start; the end of barista.log:
the last line of the log

\tat java.base/java.lang.Thread.run(Thread.java:840)
"""


def row(worker, partition, replay_size):
    return {"worker": worker, "partition": partition, "replay_size": replay_size}


def test_partitions_beyond_an_executors_share_are_those_with_the_least_replay():
    apart = [row("here-aa-0", 0, 90), row("here-bb-1", 1, 80), row("there-cc-2", 2, 70)]
    assert surplus_partitions(apart, 1) == set()
    together = [row("here-aa-0", 0, 20), row("here-aa-1", 1, 80), row("there-cc-2", 2, 70)]
    assert surplus_partitions(together, 1) == {0}
    assert surplus_partitions(together, 2) == set()


def test_the_reason_is_ours_without_javas():
    assert reason(RuntimeError(TRACE)) == (
        "a Barista did not start; the end of barista.log:\nthe last line of the log"
    )


LOST = """An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 2.0 failed 8 \
times, most recent failure: Lost task 0.7 (executor 3): ExecutorLostFailure (executor 3 exited \
caused by one of the running tasks) Reason: worker lost
Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abort(DAGScheduler.scala)
"""
IN_THE_LOG = TRACE.replace(
    "the last line of the log", "ModuleNotFoundError: No module named 'torch'"
)


def test_what_a_quoted_log_says_hides_nothing():
    assert reason(RuntimeError(IN_THE_LOG)) == (
        "a Barista did not start; the end of barista.log:\n"
        "ModuleNotFoundError: No module named 'torch'"
    )


def test_a_lost_executor_is_named():
    assert reason(RuntimeError(LOST)).startswith("Lost task 0.7 (executor 3): ExecutorLostFailure")


class Gone:
    """A context whose JVM has died."""

    def __getattr__(self, _):
        def fail(*_):
            raise Py4JNetworkError("Answer from Java side is empty")

        return fail


def test_a_spark_that_is_gone_is_one_line_or_nothing_to_do():
    rounds = Rounds(Gone(), 1, Assignment({}, {}, 2, "log", "host"))
    with pytest.raises(RoundError, match="Spark is gone"):
        rounds.has_running_tasks()
    rounds.cancel()
    rounds.stop_baristas()


def test_a_foreign_reason_is_its_first_line():
    assert reason(RuntimeError("\nsomething else\n\tat java")) == "something else"
    assert reason(KeyError()) == "KeyError"


def test_a_job_hands_over_its_rows():
    go = threading.Event()
    job = RoundJob(lambda: go.wait(10) and [{"applied": 1}])
    assert not job.wait(0)
    go.set()
    assert job.wait(10)
    assert job.rows() == [{"applied": 1}]


def test_a_failed_job_raises_for_who_asks():
    def work():
        raise ValueError(TRACE)

    job = RoundJob(work)
    assert job.wait(10)
    with pytest.raises(RoundError, match="did not start"):
        job.rows()


class Anchor:
    """An RDD of one partition and the context that makes it; a job runs where it is asked for."""

    def __init__(self):
        self.left = []  # of each task's input

    def __getattr__(self, _):
        return lambda *_, **__: self

    def mapPartitionsWithIndex(self, body):  # noqa: N802 (as Spark spells it)
        return self.mapPartitions(lambda items: body(0, items))

    def mapPartitions(self, body):  # noqa: N802
        items = iter([1, 2])
        body(items).close()
        self.left.append(list(items))
        return self

    def collect(self):
        return []


def test_a_task_leaves_nothing_of_its_input():
    """Else Spark would end its Python worker, and the next task wait for another one."""
    anchor = Anchor()
    rounds = Rounds(anchor, 1, Assignment({}, {}, 2, "log", "host"))
    assert rounds.start({}, "a round").wait(10)
    rounds.stop_baristas()
    assert anchor.left == [[], []]

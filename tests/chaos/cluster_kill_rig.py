"""A run on a real standalone cluster whose processes are killed, and what its accounts say."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import psutil
import requests

from tests.spark_cluster import Cluster
from tests.spark_site import ROOT, marked

WORKERS = 2
PUSHES = 400  # of a worker in a round
OPTIONS = [
    "--game", "ddq/Snake-v0", "--warmup", "200", "--replay-capacity", "4000", "--batch-size", "8",
    "--evaluate", "0", "--seed", "1", "--updates-per-round", str(PUSHES),
]  # fmt: skip


class Recovery(NamedTuple):
    """What became of one kill, over the rounds that it touched."""

    acknowledged: int  # pushes that Baristas say were applied
    applied: int  # updates of the server, and those that a restart printed as gone
    printed_gone: int
    duplicates: int  # answered again, not applied again
    event: str = ""
    pushing_s: float = 0.0  # until two workers have pushed again
    round_s: float = 0.0  # until the round was over

    @property
    def unreported(self):
        """How many updates nobody gave an account of: of Baristas that were killed."""
        return self.applied - self.acknowledged


class Trial:
    """A run of many rounds on a cluster of two workers; `kill` one process after another."""

    def __init__(self, site, *options):
        self.site, self.cluster = site, Cluster(site)
        self.folder = site.home / "run"
        self.process = self._start("--run-dir", str(self.folder), *OPTIONS, *options)
        self._wait_for_mid_round()

    def rows(self):
        """Return the rounds that are over."""
        file = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def kill(self, event):
        """Kill a process in mid-round; return what became of the run."""
        find, how, then, ends_a_barista = EVENTS[event]
        self._wait_for_mid_round()
        before, gone = len(self.rows()), self._printed_gone()
        find(self).send_signal(how)
        began = time.monotonic()
        seen = self._pushes()
        then(self)
        self._wait_for(lambda: self._is_whole_again(seen, ends_a_barista))
        pushing_s = time.monotonic() - began
        self._wait_for(lambda: len(self.rows()) > before)
        round_s = time.monotonic() - began
        # A killed server's workers may have pushed before it was missed: the next round is whole.
        touched = self._wait_for(lambda: len(self.rows()) > before + 1 and self.rows())
        printed_gone = self._printed_gone() - gone
        return _account(touched[before - 1 :], printed_gone)._replace(
            event=event, pushing_s=pushing_s, round_s=round_s
        )

    def kill_driver(self):
        """Kill the driver, resume the run; return what became of it."""
        self._wait_for_mid_round()
        before = len(self.rows())
        # spark-submit's JVM has these words too.
        self.site.find(sys.executable, str(ROOT / "ddq.py")).kill()
        began = time.monotonic()
        self.process.wait(90)
        self.site.assert_nothing_left(but=[self.cluster.master, *self.cluster.workers])
        killed, self.folder = self.folder, self.site.home / "resumed"
        self.process = self._start(
            "--run-dir", str(self.folder), "--resume", str(killed), "--updates-per-round",
            str(PUSHES), "--rounds", "2",
        )  # fmt: skip
        self._wait_for(lambda: len(self._pushing_since({})) > 1)
        pushing_s = time.monotonic() - began
        rows = self._wait_for(lambda: len(self.rows()) > before and self.rows())
        round_s = time.monotonic() - began
        return _account(rows[before - 1 :], 0)._replace(
            event="the driver", pushing_s=pushing_s, round_s=round_s
        )

    def finish(self):
        """Stop run and cluster; see that nothing is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(90)
        self.site.assert_nothing_left(but=[self.cluster.master, *self.cluster.workers])
        self.cluster.stop()
        self.site.assert_nothing_left()

    def said(self):
        """Return what the run has said on its console."""
        return self.process.out.read_text()

    def incidents(self):
        """Return what the dashboard shows of what has happened."""
        return [incident["text"] for incident in self._status().get("incidents", [])]

    def _start(self, *options):
        return self.site.start(self.cluster.command(*options))

    def _printed_gone(self):
        told = re.findall(r"restarted from version \d+; (\d+) acknowledged", self.said())
        return sum(map(int, told))

    def _status(self):
        """Return the server's status, {} while there is none."""
        address = re.search(r"server +(127\.0\.0\.1:\d+)", self.said())
        try:
            return requests.get(f"http://{address[1]}/api/v1/status_data", timeout=2).json()
        except (TypeError, requests.RequestException):
            return {}

    def _pushes(self):
        status = self._status()
        return {
            (status["epoch"], worker["incarnation"]): worker["pushes"]
            for worker in status.get("workers", {}).values()
        }

    def _is_whole_again(self, seen, needs_new):
        """Say whether two workers have pushed since; a new one, where one has died."""
        pushing = self._pushing_since(seen)
        return len(pushing) > 1 and (not needs_new or bool(set(pushing) - set(seen)))

    def _pushing_since(self, seen):
        return [key for key, pushes in self._pushes().items() if pushes > seen.get(key, 0)]

    def _wait_for_mid_round(self):
        """Wait until both workers push and a round, not the first, is neither young nor old."""

        def is_so():
            round_ = self._status().get("round", {})
            is_mid = 0.1 < round_.get("credited", 0) / (WORKERS * PUSHES) < 0.5
            return is_mid and 1 < round_["number"] == len(self.rows()) + 1

        self._wait_for(is_so)
        seen = self._pushes()
        self._wait_for(lambda: len(self._pushing_since(seen)) > 1)

    def _wait_for(self, condition):
        return self.site.wait_for(condition, self.process, timeout_s=150)


def _account(rows, printed_gone):
    """Return the accounts of the rounds after the first of `rows`."""
    workers = [worker for row in rows[1:] for worker in row["workers"]]
    return Recovery(
        acknowledged=sum(worker["applied"] for worker in workers),
        applied=rows[-1]["version"] - rows[0]["version"] + printed_gone,
        printed_gone=printed_gone,
        duplicates=sum(worker["duplicates"] for worker in workers),
    )


def _python(trial, *, is_daemon):
    """Return a Python process of Spark's: the daemon, or a worker that it has forked."""
    of_spark = [p for p in marked(trial.site.env) if "pyspark.daemon" in p.cmdline()]
    pids = {process.pid for process in of_spark}
    return next(process for process in of_spark if (process.ppid() in pids) != is_daemon)


def _barista(trial):
    return trial.site.find("-m", "barista")


def _jvm(trial, name):
    return trial.site.find(f"org.apache.spark.{name}")


def _another_worker(trial):
    """Start a Spark worker in the place of a dead one, as a cluster's manager would."""
    trial.cluster.workers = [each for each in trial.cluster.workers if each.poll() is None]
    trial.cluster.workers.append(trial.cluster.start_worker(trial.cluster.hosts[0]))


def _nothing(_):
    """Leave everything to the product."""


class Event(NamedTuple):
    """How to strike."""

    find: Callable[[Trial], psutil.Process]
    how: signal.Signals = signal.SIGKILL
    then: Callable[[Trial], None] = _nothing
    ends_a_barista: bool = False


EVENTS = {
    "a Python worker": Event(partial(_python, is_daemon=False)),
    "pyspark.daemon": Event(partial(_python, is_daemon=True)),
    "a Barista": Event(_barista, ends_a_barista=True),
    "a Barista, by SIGSTOP": Event(_barista, signal.SIGSTOP, ends_a_barista=True),
    "an executor": Event(
        partial(_jvm, name="executor.CoarseGrainedExecutorBackend"), ends_a_barista=True
    ),
    "a Spark worker": Event(
        partial(_jvm, name="deploy.worker.Worker"), then=_another_worker, ends_a_barista=True
    ),
    "the parameter server": Event(lambda trial: trial.site.find("param_server.cli")),
}

"""Kill what holds up an update of `--exchange spark`: every other one waits for it."""

import json
import os
import re
import signal
from collections import Counter

import pytest

from tests.spark_cluster import Cluster

pytestmark = [pytest.mark.chaos, pytest.mark.spark, pytest.mark.slow]
UPDATES = 60  # in a round
OPTIONS = [
    "--exchange", "spark", "--game", "ddq/Snake-v0", "--warmup", "200", "--replay-capacity", "4000",
    "--batch-size", "8", "--evaluate", "0", "--seed", "1", "--updates-per-round", str(UPDATES),
]  # fmt: skip


@pytest.mark.timeout(600)
def test_a_barista_and_an_executor_are_killed(site):
    cluster = Cluster(site)
    folder = site.home / "run"
    process = site.start(cluster.command(*OPTIONS, "--run-dir", str(folder)))

    def rows():
        file = folder / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for_rounds(more):
        wanted = len(rows()) + more
        site.wait_for(lambda: len(rows()) >= wanted, process, timeout_s=150)

    wait_for_rounds(2)
    site.find("-m", "barista").kill()
    wait_for_rounds(2)
    site.find("org.apache.spark.executor.CoarseGrainedExecutorBackend").kill()
    wait_for_rounds(4)  # the last ones after the partitions have spread again
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(90) == 130, site.story(process)
    site.assert_nothing_left(but=[cluster.master, *cluster.workers])
    cluster.stop()
    site.assert_nothing_left()

    said = process.out.read_text()
    # Between two updates no task watches it: then the next one finds none.
    told = re.findall(r"Barista \d+ died in round|the Barista of partition \d was gone", said)
    assert len(told) >= 2, said
    for before, after in zip(rows(), rows()[1:], strict=False):
        assert after["version"] - before["version"] == UPDATES
        assert after["steps"] > before["steps"]
    at = Counter(worker["worker"].rpartition("-")[0] for worker in rows()[-1]["workers"])
    assert set(at.values()) == {1}  # an executor each, as in the beginning

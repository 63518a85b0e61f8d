"""A real standalone cluster: a master, workers, executors, each a process of its own."""

import json
import os
import re
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.spark_cluster import LOOPBACK, Cluster, namespaces, why_no_namespaces

pytestmark = [pytest.mark.spark, pytest.mark.timeout(400)]
SMALL = [
    "--game", "ddq/Snake-v0", "--warmup", "200", "--replay-capacity", "4000", "--batch-size", "8",
    "--evaluate", "0", "--seed", "1",
]  # fmt: skip


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def descriptions(folder):
    """What Spark's UI shows of each job, from the event log."""
    events = [
        json.loads(line)
        for file in folder.rglob("*")
        if file.name.startswith("events_")
        for line in file.read_text().splitlines()
    ]
    return [
        event["Properties"].get("spark.job.description")
        for event in events
        if event["Event"] == "SparkListenerJobStart"
    ]


def test_a_standalone_cluster_trains_and_is_left_as_it_was(site):
    """With GPUs that there are not: what Spark assigns reaches the Baristas."""
    cluster = Cluster(site, [LOOPBACK._replace(gpu="3"), LOOPBACK._replace(gpu="5")])
    run, events = site.home / "run", site.home / "events"
    events.mkdir()
    command = cluster.command(
        *SMALL, "--rounds", "3", "--updates-per-round", "40", "--run-dir", str(run),
        "--device", "cpu",
        spark_options=["--conf", "spark.eventLog.enabled=true",
                       "--conf", f"spark.eventLog.dir={events}",
                       "--conf", "spark.eventLog.compress=false",
                       "--conf", "spark.executor.resource.gpu.amount=1",
                       "--conf", "spark.task.resource.gpu.amount=1"],
    )  # fmt: skip
    code, out, err = site.run(command, timeout_s=240)
    assert code == 0, out + err
    site.assert_nothing_left(but=[cluster.master, *cluster.workers])
    assert rows(run)[-1]["version"] == 3 * 2 * 40
    for row in rows(run):  # the same two, each with its replay, in every round
        assert sum(worker["applied"] for worker in row["workers"]) == 80
        assert {w["worker"] for w in row["workers"]} == {
            w["worker"] for w in rows(run)[0]["workers"]
        }
    workers = {w["worker"] for w in rows(run)[0]["workers"]}
    assert {name.rpartition("-")[2] for name in workers} == {"gpu3", "gpu5"}
    told = [text for text in descriptions(events) if text]
    assert [text for text in told if re.search(r"round 2\b", text)], told
    cluster.stop()
    site.assert_nothing_left()


@pytest.mark.skipif(why_no_namespaces() is not None, reason=str(why_no_namespaces()))
def test_hosts_of_their_own_and_a_link_that_is_cut_in_mid_round(site):
    hidden = [site.logs, Path(tempfile.gettempdir(), f"ddq-{os.getuid()}")]  # logs, shared memory
    for folder in hidden:
        folder.mkdir(mode=0o700, exist_ok=True)
    with namespaces(2, hidden=hidden) as network:
        cluster = Cluster(site, network.hosts, address=network.address)
        run = site.home / "run"
        process = site.start(
            cluster.command(
                *SMALL,
                "--updates-per-round",
                "300",
                "--run-dir",
                str(run),
                spark_options=[
                    "--conf",
                    "spark.network.timeout=20s",
                    "--conf",
                    "spark.network.timeoutInterval=5s",
                    "--conf",
                    "spark.executor.heartbeatInterval=2s",
                ],
            )
        )
        site.wait_for((run / "metrics.jsonl").exists, process)
        network.links[1].cut()
        before = len(rows(run))
        site.wait_for(lambda: len(rows(run)) > before, process)
        network.links[1].mend(network.bridge)
        site.wait_for(lambda: "takes part since round" in process.out.read_text(), process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(90) == 130, site.story(process)
        site.assert_nothing_left(but=[cluster.master, *cluster.workers])
        cluster.stop()
    site.assert_nothing_left()

    found = rows(run)
    assert [row["version"] for row in found] == [600 * (at + 1) for at in range(len(found))]
    by_host = [Counter() for _ in found]
    for row, applied in zip(found, by_host, strict=True):
        for worker in row["workers"]:
            applied[worker["worker"].partition("-")[0]] += worker["applied"]
    assert min(by_host[0].values()) > 0
    assert set(by_host[0]) == {"host0", "host1"}
    # The other host did the rest.  Of what a lost worker had pushed before nobody gave an account.
    cut = by_host[before]
    assert set(cut) == {"host0"}
    assert 300 < cut["host0"] <= 600
    said = process.out.read_text()
    assert re.search(rf"host1-\w+-0 took no part in round {before + 1}$", said, re.MULTILINE)
    assert re.search(r"host1-\w+-0 takes part since round \d", said)
    log = (site.logs / "barista.log").read_text()
    assert re.search(r"host0-\w+-0 INFO round 1 over", log)
    assert re.search(r"host1-\w+-0 INFO round 1 over", log)
    assert f"at {network.address}:" in (site.logs / "param-server.log").read_text()
    assert "by HTTP" in log
    assert "shared memory" not in log

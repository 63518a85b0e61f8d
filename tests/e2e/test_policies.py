"""Policies under which workers wait for each other, in real runs: nobody waits for the dead.

One run goes by shared memory, the other by TLS and in bfloat16, as to another host.
"""

import json
import re
import urllib.request

import psutil
import pytest
from param_server.tls import client_context

from tests.tls_rig import Authority

pytestmark = [pytest.mark.spark, pytest.mark.timeout(240)]

# Small enough for seconds; round 1 is long enough for a worker to die in it.
SMALL = [
    "--game", "ddq/Snake-v0", "--num-envs", "2", "--warmup", "64", "--replay-capacity", "2000",
    "--batch-size", "8", "--evaluate", "10", "--seed", "1", "--rounds", "2",
]  # fmt: skip
EACH = 120  # pushes of each worker in a round


def status(process, trusted=None):
    """Return what the run's server says, None before there is one."""
    found = re.search(r"server +(127\.0\.0\.1:\d+)", process.out.read_text())
    if found is None:
        return None
    scheme = "https" if trusted else "http"
    url = f"{scheme}://{found[1]}/api/v1/status_data"
    with urllib.request.urlopen(url, context=trusted) as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    ("policy", "is_tls"),
    [("sync", False), pytest.param("ssp:2", True, marks=pytest.mark.slow)],
)
def test_a_killed_worker_does_not_stop_those_that_would_wait_for_it(site, policy, is_tls):
    options, trusted = ["--staleness", policy, "--lease", "3", "--evaluate-every", "1"], None
    if is_tls:
        files = Authority(site.home).sign("127.0.0.1")
        options += ["--tls-cert", str(files.cert), "--tls-key", str(files.key)]
        options += ["--wire-dtype", "bfloat16"]
        trusted = client_context(files.cert)
    run = site.home / "run"
    process = site.start(
        site.command(*SMALL, *options, "--updates-per-round", str(EACH), "--run-dir", str(run))
    )
    way, log = "by HTTPS, bfloat16" if is_tls else "by shared memory", site.logs / "barista.log"
    # The second worker may come when the first has done its part already.
    site.wait_for(lambda: log.exists() and log.read_text().count(way) == 2, process)
    site.wait_for(lambda: (status(process, trusted) or {"version": 0})["version"] >= 20, process)
    victim = int(re.findall(r"pid (\d+), server", log.read_text())[0])
    psutil.Process(victim).kill()
    assert process.wait(120) == 0, site.story(process)
    said = process.out.read_text()
    assert f"staleness {policy}" in said
    assert ("https://127.0.0.1" in said) == is_tls
    assert f"Barista {victim} died in round 1; restarted" in said

    first, second = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    updates = second["version"] - first["version"]
    rows = second["workers"]
    applied, gathered, rejected = (
        sum(row[verdict] for row in rows) for verdict in ("applied", "gathered", "rejected")
    )
    # Each push of the round counts once; what was left of an update at its end is one more.
    assert applied + gathered + rejected == 2 * EACH
    assert applied <= updates <= applied + (gathered > 0)
    assert (gathered > 0) == (policy == "sync")
    assert all(row["applied"] + row["gathered"] > 0 for row in rows)
    assert all(row["dropped"] == 0 for row in rows)

    # Round 1's last version was played beside round 2, the final one by Spark's tasks; each score
    # lies beside its snapshot, in the run's summary and, if it came in time, in a round's metrics.
    summary = json.loads((run / "summary.json").read_text())
    beside, final = sorted(summary["evaluations"], key=lambda score: score["version"])
    assert (beside["version"], beside["steps"]) == (first["version"], first["steps"])
    assert f"evaluated version {beside['version']:,}: greedy" in said
    assert second.get("evaluation", beside) == beside
    assert final["version"] >= second["version"]
    assert len(summary["greedy"]["returns"]) == len(summary["random"]["returns"]) == 10
    assert summary["greedy"]["mean"] == final["return_mean"]
    for score in (beside, final):
        assert score["episodes"] == 10
        kept = run / "snapshots" / str(score["version"]) / "evaluation.json"
        assert json.loads(kept.read_text())["return_mean"] == score["return_mean"]
    site.assert_nothing_left()

"""`--exchange spark`: real Spark, no server, the same weights twice."""

import json

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.timeout(240)]

SMALL = [
    "--exchange", "spark", "--game", "ddq/Snake-v0", "--num-envs", "2", "--warmup", "64",
    "--replay-capacity", "2000", "--batch-size", "8", "--evaluate", "0", "--seed", "1",
    "--rounds", "2", "--updates-per-round", "3",
]  # fmt: skip


def test_the_same_seed_gives_the_same_weights(site):
    weights = []
    for name in ("first", "again"):
        run = site.home / name
        code, out, err = site.run(site.command(*SMALL, "--run-dir", str(run)))
        assert code == 0, err
        site.assert_nothing_left()
        assert "server   in this process" in out
        rounds = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["version"] for row in rounds] == [3, 6]
        rows = [row for each in rounds for row in each["workers"]]
        assert [(row["partition"], row["applied"]) for row in rows] == [(0, 3), (1, 3)] * 2
        assert all(row["restarts"] == [] for row in rows)
        weights.append((run / "snapshots" / "6" / "model.caffemodel").read_bytes())
    assert weights[0] == weights[1]
    assert not list(site.logs.glob("param-server*"))

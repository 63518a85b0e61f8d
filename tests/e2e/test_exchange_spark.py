"""`--exchange spark`: real Spark, no server, the same weights twice."""

import json
import re

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.timeout(240)]

SMALL = [
    "--exchange", "spark", "--game", "ddq/Snake-v0", "--num-envs", "2", "--warmup", "64",
    "--replay-capacity", "2000", "--batch-size", "8", "--evaluate", "0", "--seed", "1",
    "--rounds", "2", "--updates-per-round", "3",
]  # fmt: skip


# What a data engineer may do with experience: look at it, sort it, hand it on.
SCRIPT = """
import shutil, sys
from pyspark.sql import SparkSession

run, played, sorted_ = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
rounds = spark.read.parquet(f"{run}/metrics.parquet")
workers = spark.read.parquet(f"{run}/workers.parquet")
joined = rounds.join(workers, "round").groupBy("round", "version").sum("applied")
steps = spark.read.parquet(played)
order = ["file", "environment", "episode", "step"]
steps = steps.withColumn("file", steps["_metadata.file_name"])
steps = steps.repartition(3).coalesce(1).sortWithinPartitions(*order)
steps.drop("file").write.parquet(sorted_)
shutil.copy(f"{played}/_settings.json", sorted_)
print("FOUND", sorted(map(tuple, joined.collect())), steps.filter("action IS NOT NULL").count())
"""


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.timeout(400)
def test_the_same_seed_gives_the_same_weights_and_a_resumed_run_learns_from_parquet(site):
    weights, experience = [], site.home / "experience"
    for name, more in (("first", ["--replay-to", str(experience)]), ("again", [])):
        run = site.home / name
        code, out, err = site.run(site.command(*SMALL, *more, "--run-dir", str(run)))
        assert code == 0, err
        site.assert_nothing_left()
        assert "server   in this process" in out
        rounds = metrics(run)
        assert [row["version"] for row in rounds] == [3, 6]
        rows = [row for each in rounds for row in each["workers"]]
        assert [(row["partition"], row["applied"]) for row in rows] == [(0, 3), (1, 3)] * 2
        assert all(row["restarts"] == [] for row in rows)
        weights.append((run / "snapshots" / "6" / "model.caffemodel").read_bytes())
    assert weights[0] == weights[1]
    assert not list(site.logs.glob("param-server*"))

    # Spark reads the tables, and writes experience as it likes to.
    script = site.home / "look.py"
    script.write_text(SCRIPT)
    first, by_spark = site.home / "first", site.home / "by-spark"
    code, out, err = site.run(
        ["spark-submit", "--master", "local[1]", str(script), str(first), str(experience),
         str(by_spark)]
    )  # fmt: skip
    assert code == 0, err
    found = re.search(r"FOUND (\[.*\]) (\d+)", out)
    assert found[1] == "[(1, 3, 6), (2, 6, 6)]"
    # Every step of an episode whose beginning is held: here all.
    assert int(found[2]) == metrics(first)[-1]["steps"]

    resumed = site.home / "resumed"
    code, out, err = site.run(
        site.command("--resume", str(first), "--replay-from", str(by_spark), "--replay-to", "",
                     "--rounds", "1", "--updates-per-round", "2", "--run-dir", str(resumed))
    )  # fmt: skip
    assert code == 0, err
    site.assert_nothing_left()
    rounds = metrics(resumed)
    assert [row["version"] for row in rounds] == [3, 6, 8]
    played = rounds[-1]["steps"] - rounds[-2]["steps"]
    held = sum(worker["replay_size"] for worker in rounds[-1]["workers"])
    assert held > played + rounds[-2]["steps"] / 2

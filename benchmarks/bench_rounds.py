"""What a round costs beside its work, over exchanges, tasks and lengths: bench_rounds [options].

Every figure is of a real run of ddq.py: Spark, a Barista for each task, Snake with minibatches of
8 so that many workers fit on a small machine.

    overhead   what passes between the ends of two rounds, less the time that the worker which took
               longest has worked at it: Spark's job, finding the Baristas, rows, metrics, snapshots
    an update  with `--exchange spark` each update is a job: what passes between two of them, and
               what the slowest worker computes in it

A round's overhead does not depend on its length; what share of the round it is does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from barista.driver.training import ROUND_S  # noqa: E402 - needs the path above
from benchmarks.server.machine import machine  # noqa: E402
from benchmarks.training import runs  # noqa: E402

LIMIT_S = 900  # of one run
FIRST = 3  # rounds that are not counted: Baristas start, JVM and caches warm up
WORK = ("act_s", "sample_s", "compute_s")


class Case(NamedTuple):
    """One run: how gradients are exchanged, tasks of a round, updates of each worker in it."""

    exchange: str
    tasks: int
    updates: int
    rounds: int = 23


CASES = [
    *(Case("server", tasks, 50) for tasks in (1, 2, 4, 8, 16)),
    *(Case("server", tasks, 10, rounds=13) for tasks in (32, 64)),
    *(Case("server", 2, updates) for updates in (10, 250)),
    Case("server", 2, 1000, rounds=13),
    *(Case("spark", tasks, 20, rounds=13) for tasks in (1, 2, 4, 8, 16)),
    *(Case("spark", tasks, 5, rounds=8) for tasks in (32, 64)),
]


def measure(case: Case) -> dict[str, Any]:
    """Run a case; return its figures: medians over its rounds, in seconds.

    Raises:
        RuntimeError: If the run fails.
    """
    asked: dict[str, object] = {
        "--exchange": case.exchange, "--game": "ddq/Snake-v0", "--num-envs": 2, "--batch-size": 8,
        "--warmup": 64 * case.tasks, "--replay-capacity": 1000 * case.tasks, "--evaluate": 0,
        "--rounds": case.rounds, "--updates-per-round": case.updates, "--seed": 1,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ddq-rounds-") as home:
        run = runs.train(runs.on_spark(case.tasks), asked, Path(home), limit_s=LIMIT_S)
        return {**case._asdict(), **figures(runs.rows(run)[FIRST - 1 :])}


def figures(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of rounds after the first of these rows, which only dates the second."""
    between = [
        (after["time"] - before["time"], max(worker["seconds"] for worker in after["workers"]))
        for before, after in pairwise(rounds)
    ]
    updates = [max(each["applied"] + each["gathered"] for each in row["workers"]) for row in rounds]
    computing = [
        max(sum(worker[stage] for stage in WORK) for worker in row["workers"]) / max(many, 1)
        for row, many in zip(rounds, updates, strict=True)
    ]
    return {
        "round_s": statistics.median(whole for whole, _ in between),
        "overhead_s": statistics.median(whole - work for whole, work in between),
        "update_s": statistics.median(
            whole / max(many, 1) for (whole, _), many in zip(between, updates[1:], strict=True)
        ),
        "computing_s": statistics.median(computing[1:]),
        "counted": len(between),
    }


def table(done: list[dict[str, Any]]) -> str:
    """Return both exchanges' figures as two Markdown tables."""
    server = [
        "| tasks | updates of each | round, ms | overhead, ms | of this round "
        f"| of a default round, {ROUND_S:.0f} s |",
        "|---|---|---|---|---|---|",
    ]
    spark = [
        "| tasks | an update, ms | of it the slowest worker computes, ms | jobs and exchange, ms |",
        "|---|---|---|---|",
    ]
    for one in done:
        if one["exchange"] == "server":
            over_s = one["overhead_s"]
            server.append(
                f"| {one['tasks']} | {one['updates']} | {1e3 * one['round_s']:,.0f} "
                f"| {1e3 * over_s:,.0f} | {over_s / one['round_s']:.1%} "
                f"| {over_s / (ROUND_S + over_s):.2%} |"
            )
        else:
            rest_s = one["update_s"] - one["computing_s"]
            spark.append(
                f"| {one['tasks']} | {1e3 * one['update_s']:,.1f} "
                f"| {1e3 * one['computing_s']:,.1f} | {1e3 * rest_s:,.1f} |"
            )
    return "\n".join(["`--exchange server`", "", *server, "", "`--exchange spark`", "", *spark])


def main() -> int:
    """Run what is missing, print the tables and write the JSON file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=64, metavar="TASKS", help="(default: 64)")
    parser.add_argument("--exchange", choices=("server", "spark"), help="(default: both)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/rounds.json")
    given = parser.parse_args()
    done = json.loads(given.output.read_text())["runs"] if given.output.exists() else []
    for case in CASES:
        is_wanted = case.tasks <= given.most and given.exchange in {None, case.exchange}
        if is_wanted and not any(case._asdict().items() <= one.items() for one in done):
            done.append(measure(case))
            runs.write_whole(given.output, {"machine": machine(), "runs": done})
            print(f"{case}: {1e3 * done[-1]['overhead_s']:.0f} ms", file=sys.stderr, flush=True)
    print(table(sorted(done, key=lambda one: (one["tasks"], one["updates"]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

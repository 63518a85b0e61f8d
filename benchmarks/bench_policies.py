"""What each staleness policy learns from the same number of gradients: bench_policies [options].

Every run is the real thing: spark-submit, ddq.py, a parameter server and four workers, on Snake.
A policy sees as many gradients as any other, whatever it makes of them; then the weights play.
Runs that the results file holds already are not repeated, so the script can be stopped and started
again.  It prints a Markdown table: means over the seeds and their standard errors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GAME = "ddq/Snake-v0"
POLICIES = ("accept", "reject:4", "scale", "dc", "ssp:2", "sync")
EPISODES = 100
LIMIT_S = 900  # of one run


def train(policy: str, seed: int, given: argparse.Namespace, home: Path) -> Path:
    """Train and evaluate once; return the run's folder.

    Args:
        policy: Of the server.
        seed: Of weights, games, exploration and replay.
        given: The numbers of gradients, rounds and workers.
        home: Where the run leaves its files.

    Raises:
        RuntimeError: If the run fails; the message ends with what it said last.
    """
    run = home / "run"
    each = given.gradients // (given.rounds * given.workers)
    command = ["spark-submit", "--master", f"local[{given.workers},4]", str(ROOT / "ddq.py")]
    options = {
        "--game": GAME,
        "--workers": given.workers,
        "--rounds": given.rounds,
        "--updates-per-round": each,
        "--staleness": policy,
        "--seed": seed,
        "--evaluate": EPISODES,
        "--run-dir": run,
    }
    for option, value in options.items():
        command += [option, str(value)]
    done = subprocess.run(
        command,
        check=False,
        env={**os.environ, "DDQ_ROOT": str(home)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    if done.returncode:
        last = (done.stdout + done.stderr)[-1500:]
        raise RuntimeError(f"{policy}, seed {seed}: exit code {done.returncode}\n{last}")
    return run


def collect(run: Path) -> dict[str, Any]:
    """Return what a run's folder says."""
    summary = json.loads((run / "summary.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    workers = [worker for row in rows for worker in row["workers"]]
    counts = {
        verdict: sum(worker[verdict] for worker in workers)
        for verdict in ("applied", "gathered", "rejected", "late")
    }
    returns = summary["greedy"]["returns"]
    return {
        "return": statistics.fmean(returns),
        "return_se": statistics.stdev(returns) / math.sqrt(len(returns)),
        "random": statistics.fmean(summary["random"]["returns"]),
        "gradients": sum(counts.values()),
        "updates": summary["version"],
        **counts,
        "steps": summary["steps"],
        "staleness": rows[-1]["staleness_mean"],
        "train_s": sum(row["seconds"] for row in rows),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Return the runs as a Markdown table, a row for each policy."""
    lines = [
        "| policy | seeds | greedy return | gradients | updates | rejected | mean staleness | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy in dict.fromkeys(run["policy"] for run in runs):
        own = [run for run in runs if run["policy"] == policy]
        mean = {key: statistics.fmean(run[key] for run in own) for key in _AVERAGED}
        returns = [run["return"] for run in own]
        error = f" ± {statistics.stdev(returns) / math.sqrt(len(own)):.2f}" if len(own) > 1 else ""
        lines.append(
            f"| `{policy}` | {len(own)} | {mean['return']:.2f}{error} "
            f"| {mean['gradients']:,.0f} | {mean['updates']:,.0f} "
            f"| {mean['rejected'] / mean['gradients']:.1%} | {mean['staleness']:.2f} "
            f"| {mean['train_s']:.0f} |"
        )
    chance = statistics.fmean(run["random"] for run in runs)
    return "\n".join([*lines, "", f"A random player's return: {chance:.2f}."])


_AVERAGED = ("return", "gradients", "updates", "rejected", "staleness", "train_s")


def key(run: dict[str, Any]) -> tuple[Any, ...]:
    """Return what makes a run the same as another."""
    return tuple(run[name] for name in ("policy", "seed", "asked", "rounds", "workers"))


def main() -> int:
    """Run what is missing, print the table, write the JSON file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", nargs="+", default=POLICIES, metavar="POLICY")
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3), metavar="S")
    parser.add_argument("--gradients", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/policies.json")
    given = parser.parse_args()
    if given.gradients < given.rounds * given.workers:
        parser.error("--gradients: each worker needs one in each round")
    runs: list[dict[str, Any]] = []
    if given.output.exists():
        runs = json.loads(given.output.read_text())["runs"]
    known = {key(run) for run in runs}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    # Seed by seed: what slows the machine down for a while meets all policies alike.
    for seed in given.seeds:
        for policy in given.policies:
            asked = {
                "policy": policy,
                "seed": seed,
                "asked": given.gradients,
                "rounds": given.rounds,
                "workers": given.workers,
            }
            if key(asked) in known:
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="ddq-policies-") as home:
                found = collect(train(policy, seed, given, Path(home)))
            runs.append({**asked, **found, "wall_s": time.monotonic() - began})
            _write(given.output, {"game": GAME, "episodes": EPISODES, "runs": runs})
            print(f"{policy}, seed {seed}: {json.dumps(runs[-1])}", file=sys.stderr, flush=True)
    wanted = [
        run
        for run in runs
        if (run["asked"], run["rounds"], run["workers"])
        == (given.gradients, given.rounds, given.workers)
        and run["policy"] in given.policies
        and run["seed"] in given.seeds
    ]
    print(table(wanted))
    return 0


def _write(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())

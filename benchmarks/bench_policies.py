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
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training import runs  # noqa: E402 - needs the path above

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
    options = {
        "--game": GAME,
        "--rounds": given.rounds,
        "--updates-per-round": given.gradients // (given.rounds * given.workers),
        "--staleness": policy,
        "--seed": seed,
        "--evaluate": EPISODES,
    }
    return runs.train(runs.on_spark(given.workers), options, home, limit_s=LIMIT_S)


def table(done: list[dict[str, Any]]) -> str:
    """Return the runs as a Markdown table, a row for each policy."""
    lines = [
        "| policy | seeds | greedy return | gradients | updates | rejected | mean staleness | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy in dict.fromkeys(run["policy"] for run in done):
        own = [run for run in done if run["policy"] == policy]
        mean = {key: statistics.fmean(run[key] for run in own) for key in _AVERAGED}
        returns = [run["return"] for run in own]
        error = f" ± {statistics.stdev(returns) / math.sqrt(len(own)):.2f}" if len(own) > 1 else ""
        lines.append(
            f"| `{policy}` | {len(own)} | {mean['return']:.2f}{error} "
            f"| {mean['gradients']:,.0f} | {mean['updates']:,.0f} "
            f"| {mean['rejected'] / mean['gradients']:.1%} | {mean['staleness']:.2f} "
            f"| {mean['train_s']:.0f} |"
        )
    chance = statistics.fmean(run["random"] for run in done)
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
    done: list[dict[str, Any]] = []
    if given.output.exists():
        done = json.loads(given.output.read_text())["runs"]
    known = {key(run) for run in done}
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
                found = runs.collect(train(policy, seed, given, Path(home)))
            done.append({**asked, **found, "wall_s": time.monotonic() - began})
            runs.write_whole(given.output, {"game": GAME, "episodes": EPISODES, "runs": done})
            print(f"{policy}, seed {seed}: {json.dumps(done[-1])}", file=sys.stderr, flush=True)
    wanted = [
        run
        for run in done
        if (run["asked"], run["rounds"], run["workers"])
        == (given.gradients, given.rounds, given.workers)
        and run["policy"] in given.policies
        and run["seed"] in given.seeds
    ]
    print(table(wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())

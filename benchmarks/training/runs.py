"""One run of ddq.py as a user would start it, and what its folder says afterwards."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
DDQ = str(ROOT / "ddq.py")


def on_spark(workers: int) -> list[str]:
    """Return how a run on this machine begins: spark-submit, a slot for each worker."""
    return ["spark-submit", "--master", f"local[{workers},4]", DDQ, "--workers", str(workers)]


def serially(workers: int) -> list[str]:
    """Return how a run in one process begins."""
    return [sys.executable, DDQ, "--serial", "--workers", str(workers)]


def train(
    begin: list[str],
    options: Mapping[str, object],
    home: Path,
    *,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Train and evaluate once; return the run's folder.

    Args:
        begin: The command up to the options, from `on_spark` or `serially`.
        options: Names with their dashes, and values; True for one that takes none.
        home: Where the run leaves its files.
        limit_s: How long it may take.
        environment: Variables beside this process's own.

    Raises:
        RuntimeError: If the run fails; the message ends with what it said last.
    """
    run = home / "run"
    command = [*begin, "--run-dir", str(run)]
    for option, value in options.items():
        command += [option] if value is True else [option, str(value)]
    done = subprocess.run(
        command,
        check=False,
        env={**os.environ, "DDQ_ROOT": str(home), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=limit_s,
    )
    if done.returncode:
        last = (done.stdout + done.stderr)[-1500:]
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{last}")
    return run


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics, one a round."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def collect(run: Path) -> dict[str, Any]:
    """Return what a run's folder says of the whole of it."""
    summary = json.loads((run / "summary.json").read_text())
    rounds = rows(run)
    workers = [worker for row in rounds for worker in row["workers"]]
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
        "staleness": rounds[-1]["staleness_mean"],
        "train_s": sum(row["seconds"] for row in rounds),
    }


def write_whole(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)

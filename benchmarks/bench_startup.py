"""How long `scripts/train` takes to start, everything installed: bench_startup [options].

The game, the warm-up and the master are the defaults: Pong, two workers.  Seconds are counted from
the start of the command, and read off what it says and writes as it goes:

    plan        the console shows what will be done: Spark, the model and the server are there
    listening   the last worker's Barista has begun to import and build what it needs
    playing     the last worker's first round begins: its games take their first step
    learning    the server has applied the first gradient: the replay is warm
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.server.machine import machine  # noqa: E402 - needs the path above
from benchmarks.training import runs  # noqa: E402

WORKERS = 2  # of scripts/train's local[2,4]
LIMIT_S = 180.0
LOOK_S = 0.02  # between two looks
STAGES = ("plan", "listening", "playing", "learning")


def start(options: list[str]) -> dict[str, float]:
    """Start training once, wait for its first gradient, end it; return seconds by stage.

    Raises:
        RuntimeError: If it ends or takes too long; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="ddq-startup-") as home:
        console, log = Path(home, "console"), Path(home, "logs/barista.log")
        environment = {**os.environ, "DDQ_ROOT": home}
        began = time.monotonic()
        with console.open("w") as file:
            process = subprocess.Popen(
                [ROOT / "scripts/train", *options],
                env=environment, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        seen: dict[str, float] = {}
        try:
            while len(seen) < len(STAGES):
                time.sleep(LOOK_S)
                now = time.monotonic() - began
                said = console.read_text()
                if process.poll() is not None or now > LIMIT_S:
                    raise RuntimeError(f"it did not come to learn in {now:.0f} s:\n{said[-1500:]}")
                logged = log.read_text() if log.exists() else ""
                for stage in reached(said, logged):
                    seen.setdefault(stage, now)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    return seen


def reached(said: str, logged: str) -> list[str]:
    """Return the stages that the console and the workers' log show to be over."""
    address = re.search(r"^ +server +([0-9.]+:[0-9]+)", said, re.MULTILINE)
    return [
        *(["plan"] if address else []),
        *(["listening"] if logged.count(" listening on ") >= WORKERS else []),
        *(["playing"] if logged.count(" round 1, partition ") >= WORKERS else []),
        *(["learning"] if address and _updates(address[1]) > 0 else []),
    ]


def _updates(server: str) -> int:
    """Return how many gradients a server has applied."""
    try:
        status = requests.get(f"http://{server}/api/v1/status_data", timeout=5).json()
    except requests.RequestException:
        return 0
    return int(status.get("version", 0))


def table(done: list[dict[str, float]]) -> str:
    """Return median, least and most of each stage as a Markdown table."""
    lines = ["| s from the start | median | least | most |", "|---|---|---|---|"]
    for stage in STAGES:
        seconds = [one[stage] for one in done]
        lines.append(
            f"| {stage} | {statistics.median(seconds):.1f} | {min(seconds):.1f} "
            f"| {max(seconds):.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Start several times, print the table and write the JSON file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/startup.json")
    given, options = parser.parse_known_args()
    done = []
    for _ in range(given.repeats):
        done.append(start(options))
        print(json.dumps(done[-1]), file=sys.stderr, flush=True)
    print(table(done))
    runs.write_whole(given.output, {"machine": machine(), "starts": done})
    return 0


if __name__ == "__main__":
    sys.exit(main())

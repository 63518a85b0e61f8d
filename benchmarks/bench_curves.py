"""Learning curves over several seeds, drawn with their spread: bench_curves STUDY [options].

Every run is the real thing: ddq.py on Spark with a server and workers of their own processes, or in
one process (`--serial`), where a study says so.  Contenders of a study see as many gradients and
hold as large a replay in total.  Runs that the results file holds are not repeated, so the script
can be stopped and started again; serial runs use one thread each and are run side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.server.machine import machine  # noqa: E402 - needs the path above
from benchmarks.training import runs  # noqa: E402 - needs the path above

LIMIT_S = 4 * 3600.0  # of one run


class Contender(NamedTuple):
    """One way to train."""

    workers: int
    serial: bool = False
    options: dict[str, object] = {}  # noqa: RUF012 (nobody changes it)


class Study(NamedTuple):
    """What is compared, and on what."""

    title: str
    game: str
    gradients: int  # of all workers together
    rounds: int
    episodes: int
    contenders: dict[str, Contender]
    options: dict[str, object] = {}  # noqa: RUF012


STUDIES = {
    "snake": Study(
        "Is asynchrony free?  Snake, equal gradients, equal total replay",
        "ddq/Snake-v0",
        gradients=60_000,
        rounds=60,
        episodes=100,
        contenders={
            "1 worker": Contender(1, serial=True),
            "2 workers, on Spark": Contender(2),
            "2 asynchronous, simulated": Contender(2, serial=True),
            "2 synchronous, on Spark": Contender(2, options={"--exchange": "spark"}),
            "2 synchronous, simulated": Contender(2, serial=True, options={"--staleness": "sync"}),
            "4 asynchronous, simulated": Contender(4, serial=True),
            "1 worker, bf16-all": Contender(1, serial=True, options={"--precision": "bf16-all"}),
        },
        options={"--epsilon-end": 0.05},  # the default when it was run first
    ),
    "pong": Study(
        "Is asynchrony free?  Pong, equal gradients, equal total replay",
        "ALE/Pong-v5",
        gradients=120_000,
        rounds=120,
        episodes=30,
        contenders={
            "1 worker": Contender(1, serial=True),
            "2 asynchronous, simulated": Contender(2, serial=True),
        },
        options={"--precision": "bf16-all"},
    ),
}


def run_once(study: Study, contender: Contender, seed: int, options: list[str]) -> dict[str, Any]:
    """Train once; return the figures of the whole run and its curve.

    Raises:
        RuntimeError: If the run fails.
    """
    begin = runs.serially if contender.serial else runs.on_spark
    asked: dict[str, object] = {
        "--game": study.game,
        "--rounds": study.rounds,
        "--updates-per-round": study.gradients // (study.rounds * contender.workers),
        "--seed": seed,
        "--evaluate": study.episodes,
        **study.options,
        **contender.options,
    }
    environment = {"OMP_NUM_THREADS": "1"} if contender.serial else {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ddq-curves-") as home:
        command = [*begin(contender.workers), *options]
        run = runs.train(command, asked, Path(home), limit_s=LIMIT_S, environment=environment)
        found = runs.collect(run)
        curve = [
            (row["version"], row["steps"], row["return_mean"])
            for row in runs.rows(run)
            if row["return_mean"] is not None
        ]
    return {**found, "curve": curve, "wall_s": time.monotonic() - began}


def table(done: list[dict[str, Any]]) -> str:
    """Return the runs as a Markdown table, a row for each contender."""
    lines = [
        "| contender | seeds | evaluated at the end | gradients | updates | staleness | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run["contender"] for run in done):
        own = [run for run in done if run["contender"] == name]
        scores = [run["return"] for run in own]
        error = f" ± {_standard_error(scores):.2f}" if len(own) > 1 else ""
        mean = {
            key: statistics.fmean(run[key] or 0.0 for run in own)
            for key in ("gradients", "updates", "staleness", "train_s")
        }
        lines.append(
            f"| {name} | {len(own)} | {statistics.fmean(scores):.2f}{error} "
            f"({', '.join(f'{score:.2f}' for score in scores)}) "
            f"| {mean['gradients']:,.0f} | {mean['updates']:,.0f} | {mean['staleness']:.2f} "
            f"| {mean['train_s'] / 60:.1f} |"
        )
    chance = statistics.fmean(run["random"] for run in done)
    return "\n".join([*lines, "", f"A random player's return: {chance:.2f}."])


def draw(study: Study, done: list[dict[str, Any]], path: Path) -> None:
    """Draw each contender's mean training return over gradients, and the seeds', to a PNG."""
    import matplotlib as mpl  # noqa: PLC0415 (half a second)
    import numpy as np  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(8, 5))
    for number, name in enumerate(dict.fromkeys(run["contender"] for run in done)):
        own = [run for run in done if run["contender"] == name]
        color = f"C{number}"
        x = np.linspace(0, study.gradients, 200)
        curves = []
        for run in own:
            at, _, value = (np.array(column, float) for column in zip(*run["curve"], strict=True))
            at *= run["gradients"] / max(run["updates"], 1)  # synchronous: several an update
            curves.append(np.interp(x, at, value, left=np.nan))
            axes.plot(at, value, color=color, alpha=0.3, linewidth=0.8)
        mean = np.mean(curves, axis=0)
        axes.plot(x, mean, color=color, label=f"{name} ({len(own)} seeds)")
        axes.fill_between(
            x, np.min(curves, axis=0), np.max(curves, axis=0), color=color, alpha=0.12
        )
    axes.set_xlabel("gradients")
    axes.set_ylabel("training return, mean of the last 100 episodes")
    axes.set_title(study.title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Run what is missing, print the table, write JSON and picture; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3), metavar="S")
    parser.add_argument("--gradients", type=int, help="(default: the study's)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after that")
    parser.add_argument("--output", type=Path, help="(default: benchmarks/results/STUDY.json)")
    given, options = parser.parse_known_args()
    study = STUDIES[given.study]
    if given.gradients:
        study = study._replace(gradients=given.gradients)
    names = given.contenders or list(study.contenders)
    if unknown := [name for name in names if name not in study.contenders]:
        parser.error(f"--contenders: {unknown[0]!r} is none of {', '.join(study.contenders)}")
    output = given.output or ROOT / f"benchmarks/results/{given.study}.json"
    done: list[dict[str, Any]] = json.loads(output.read_text())["runs"] if output.exists() else []
    asked = [
        {"contender": name, "seed": seed, "asked": study.gradients, "options": options}
        for seed in given.seeds
        for name in names
    ]
    writing = threading.Lock()
    stop_at = time.monotonic() + 60 * given.minutes

    def work(one: dict[str, Any]) -> None:
        if time.monotonic() > stop_at:
            return
        found = run_once(study, study.contenders[one["contender"]], one["seed"], options)
        with writing:
            done.append({**one, **found})
            runs.write_whole(output, {"machine": machine(), "study": study.title, "runs": done})
        line = f"{one['contender']}, seed {one['seed']}: {found['return']:.2f}"
        print(f"{line} after {found['wall_s'] / 60:.1f} minutes", file=sys.stderr, flush=True)

    missing = [one for one in asked if not any(_is(run, one) for run in done)]
    alone = [one for one in missing if not study.contenders[one["contender"]].serial]
    side_by_side = [one for one in missing if one not in alone]
    for one in alone:
        work(one)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(work, side_by_side))
    wanted = [run for one in asked for run in done if _is(run, one)]
    if wanted:
        print(table(wanted))
        draw(study, wanted, output.with_suffix(".png"))
    return 0


def _is(run: dict[str, Any], asked: dict[str, Any]) -> bool:
    return all(run[key] == value for key, value in asked.items())


def _standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    sys.exit(main())

"""How training scales: a model fitted on one and two workers, held to runs of up to 64.

    fit        measure what exchanges of one and two workers cost
    predict N  write down what the runs of attempt N will show
    check N    run them: the real server, workers that sleep for each gradient; goes on where it
               was stopped
    plots      (the default) the tables of all attempts, and the model's 1 to 10,000 workers

docs/scaling.md says what came of it; benchmarks/scaling/ holds the parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scaling import clusters, report, runs  # noqa: E402 - needs the path above
from benchmarks.scaling.costs import Fit, goodput  # noqa: E402
from benchmarks.scaling.model import Scenario, simulate  # noqa: E402
from benchmarks.scaling.runs import BOTH, FIT_COMPUTE_MS, LINK_MBIT, MAIN, PUSH, Case  # noqa: E402
from benchmarks.server.machine import machine  # noqa: E402
from benchmarks.server.nets import SIZES  # noqa: E402
from benchmarks.server.rig import HALF, HTTP, SAME  # noqa: E402
from benchmarks.training.runs import write_whole  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FOLDER = ROOT / "docs/results/2026-11-23-scaling"
#: What no attempt before had run; a later one was written when the one before had been looked at.
ATTEMPTS: dict[int, list[Case]] = {
    1: [
        *(Case(HTTP, MAIN, clients, 30) for clients in (4, 8, 16, 32, 64)),
        Case(HTTP, MAIN, 8, 200),
        Case(HTTP, MAIN, 32, 200),
        Case(HTTP, MAIN, 64, 500),
        Case(HTTP, MAIN, 64, 1000),
        Case(HTTP, MAIN, 16, 30, push_period=4),
        Case(HTTP, MAIN, 64, 30, push_period=16),
        Case(HTTP, MAIN, 16, 30, pull_period=4),
        Case(HTTP, MAIN, 64, 500, pull_period=4),
        Case(HTTP, "2.71 MB", 4, 30),
        Case(HTTP, "2.71 MB", 16, 30),
        Case(HTTP, "2.71 MB", 64, 200),
        Case(HTTP, "15.0 MB", 4, 100),
        Case(HTTP, "15.0 MB", 16, 100),
        Case(HTTP, "15.0 MB", 64, 1000),
        *(Case(SAME, MAIN, clients, 30) for clients in (4, 16, 64)),
        Case(SAME, MAIN, 64, 300),
        Case(SAME, MAIN, 64, 300, pull_period=4),
        Case(SAME, "2.71 MB", 16, 30),
        Case(SAME, "15.0 MB", 16, 100),
        Case(HTTP, MAIN, 4, 30, link_mbit=1000),
        Case(HTTP, MAIN, 16, 500, link_mbit=1000),
        Case(HTTP, MAIN, 8, 30, push_period=8, link_mbit=1000),
        Case(HTTP, "2.71 MB", 4, 30, link_mbit=200),
    ],
    2: [
        Case(HTTP, MAIN, 6, 30),
        Case(HTTP, MAIN, 12, 30),
        Case(HTTP, MAIN, 24, 100),
        Case(HTTP, MAIN, 48, 300),
        Case(HTTP, MAIN, 12, 30, push_period=2),
        Case(HTTP, MAIN, 24, 30, pull_period=2),
        Case(HTTP, "2.71 MB", 8, 20),
        Case(HTTP, "15.0 MB", 8, 200),
        Case(SAME, MAIN, 8, 30),
        Case(SAME, MAIN, 32, 100),
        Case(SAME, MAIN, 48, 200, pull_period=2),
        Case(SAME, "15.0 MB", 6, 50),
        Case(HTTP, MAIN, 3, 30, link_mbit=1000),
        Case(HTTP, MAIN, 12, 400, link_mbit=1000),
        Case(HTTP, MAIN, 6, 30, push_period=8, link_mbit=1000),
        Case(HTTP, "2.71 MB", 5, 30, link_mbit=500),
    ],
    3: [
        Case(HTTP, MAIN, 4, 60, link_mbit=1000),
        Case(HTTP, MAIN, 8, 300, link_mbit=1000),
        Case(HTTP, MAIN, 5, 20, push_period=10, link_mbit=1000),
        Case(HTTP, MAIN, 16, 30, link_mbit=1000),
        Case(HTTP, "2.71 MB", 6, 50, link_mbit=300),
    ],
    4: [
        Case(HTTP, MAIN, 3, 100, link_mbit=1000),
        Case(HTTP, MAIN, 6, 200, link_mbit=1000),
        Case(HTTP, MAIN, 10, 30, link_mbit=1000),
        Case(HTTP, MAIN, 20, 50, link_mbit=1000),
        Case(HTTP, MAIN, 32, 2500, link_mbit=1000),
        Case(HTTP, MAIN, 24, 30, push_period=8, link_mbit=1000),
        Case(HTTP, MAIN, 8, 30, pull_period=4, link_mbit=1000),
        Case(HTTP, MAIN, 6, 30, link_mbit=2000),
        Case(HTTP, "2.71 MB", 7, 40, link_mbit=300),
        Case(HTTP, "2.71 MB", 12, 100, link_mbit=500),
        Case(HTTP, "15.0 MB", 5, 100, link_mbit=1000),
        Case(HTTP, "15.0 MB", 12, 800, link_mbit=2000),
    ],
}


def main() -> int:
    """Do what is asked; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="?", default="plots", choices=("fit", "predict", "check", "plots")
    )
    parser.add_argument("attempt", nargs="?", type=int, default=max(ATTEMPTS), choices=ATTEMPTS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of results")
    parser.add_argument("--seconds", type=float, default=2.5, help="of one window (default: 2.5)")
    parser.add_argument("--rounds", type=int, default=2, help="of windows (default: 2)")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which to stop")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # as the server sets it for itself
    scratch = Path(tempfile.mkdtemp(prefix="bench-scaling-"))
    try:
        {"fit": fit, "predict": predict, "check": check, "plots": plots}[given.what](given, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def fit(given: argparse.Namespace, scratch: Path) -> None:
    """Measure one and two workers, as far as that was not done; print what fits."""
    began = _now()
    cases = [
        *(
            Case(transport, size.label, clients, compute_ms, way=way)
            for transport in (HTTP, HALF, SAME)
            for size in SIZES
            for clients, compute_ms, way in (
                (1, FIT_COMPUTE_MS, PUSH),
                (1, FIT_COMPUTE_MS, BOTH),
                (2, 0, BOTH),
            )
        ),
        *(Case(transport, MAIN, 1, 0) for transport in (HTTP, HALF, SAME)),
        *(Case(transport, MAIN, 2, FIT_COMPUTE_MS) for transport in (HTTP, HALF, SAME)),
        *(Case(HTTP, MAIN, n, FIT_COMPUTE_MS, link_mbit=LINK_MBIT) for n in (1, 2)),
        Case(HTTP, MAIN, 2, 0, link_mbit=LINK_MBIT),
    ]
    path = given.folder / "fit.json"
    document: dict[str, Any] = {"sessions": [], "runs": []}
    if path.exists():
        document = json.loads(path.read_text())
    if "arrays" not in document:
        document["arrays"] = {size.label: runs.engine_costs(size.label, scratch) for size in SIZES}
    document["runs"] += _run(_missing(cases, document), given, scratch)
    document["sessions"].append({"began": began, "ended": _now(), "machine": machine()})
    write_whole(path, document)
    print(_in_sample(document))


def _in_sample(document: dict[str, Any]) -> str:
    """Return what the model makes of the very runs that it was fitted on."""
    fitted = set(map(report.case_of, document["runs"]))
    cases = sorted(case for case in fitted if case.way == BOTH)
    return report.table(_predictions(cases, document), document["runs"])


def _missing(cases: Sequence[Case], document: dict[str, Any]) -> list[Case]:
    """Return the cases that have no calm run yet."""
    had = set(map(report.case_of, filter(runs.is_calm, document["runs"])))
    return [case for case in cases if case not in had]


def predict(given: argparse.Namespace, _scratch: Path) -> None:
    """Write predictions down, unless they are."""
    text = (given.folder / "fit.json").read_text()
    path = given.folder / f"predictions-{given.attempt}.json"
    if path.exists():
        raise SystemExit(f"{path} was written before: another prediction is another attempt")
    document = json.loads(text)
    found = _predictions(ATTEMPTS[given.attempt], document)
    facts = {"fit_sha256": _digest(text), "fit_runs": len(document["runs"])}
    write_whole(path, {"written": _now(), **facts, "predictions": found})
    print(f"{len(found)} predictions in {path}")


def check(given: argparse.Namespace, scratch: Path) -> None:
    """Run what was predicted and has no calm run yet."""
    text = (given.folder / f"predictions-{given.attempt}.json").read_text()
    path = given.folder / f"runs-{given.attempt}.json"
    document: dict[str, Any] = {
        "predictions_sha256": _digest(text), "began": _now(), "machine": machine(), "runs": []
    }  # fmt: skip
    if path.exists():
        document = json.loads(path.read_text())
    until = time.monotonic() + given.limit
    cases = _missing(ATTEMPTS[given.attempt], document)
    for run in _run(cases, given, scratch, until=until):
        document["runs"].append(run)
        write_whole(path, {**document, "ended": _now()})
    print(report.table(json.loads(text)["predictions"], document["runs"]))


def plots(given: argparse.Namespace, _scratch: Path) -> None:
    """Print all tables and draw all plots."""
    document = json.loads((given.folder / "fit.json").read_text())
    attempts = {}
    for number in ATTEMPTS:
        files = [given.folder / f"{name}-{number}.json" for name in ("predictions", "runs")]
        if all(file.exists() for file in files):
            predicted, measured = (json.loads(file.read_text()) for file in files)
            attempts[f"attempt {number}"] = predicted["predictions"], measured["runs"]
            print(f"attempt {number}\n\n{report.table(*attempts[f'attempt {number}'])}\n")
    if attempts:
        report.plot_agreement(attempts, given.folder / "agreement.png")
    share, payload = goodput(document), document["arrays"][MAIN]["bytes"]
    points = clusters.sweep(Fit(document, HTTP), payload, share)
    write_whole(given.folder / "clusters.json", {"assumed": clusters.ASSUMED, "points": points})
    report.plot_scaling(points, "gradients_per_s", "gradients/s", given.folder / "gradients.png")
    report.plot_scaling(points, "staleness", "staleness, updates", given.folder / "staleness.png")
    print(
        clusters.advice(
            {name: Fit(document, name) for name in (HTTP, HALF)}, document["arrays"], share
        )
    )


def _run(
    cases: Iterable[Case], given: argparse.Namespace, scratch: Path, *, until: float = float("inf")
) -> Iterable[dict[str, Any]]:
    """Yield each case's run, the mean of some windows; cases of one site take turns."""

    def place(case: Case) -> tuple[str, str, int]:
        return case.transport, case.size, case.link_mbit

    for (transport, size, mbit), group in groupby(sorted(cases, key=place), place):
        if time.monotonic() > until:
            return
        here = list(group)
        most = max(case.clients for case in here)
        with runs.site(transport, size, scratch=scratch, clients=most, link_mbit=mbit) as site:
            windows: dict[Case, list[dict[str, Any]]] = {case: [] for case in here}
            for case in here * (given.rounds + 1):
                if sum(map(runs.is_calm, windows[case])) < given.rounds:  # else once more
                    windows[case].append(site.run(case, given.seconds))
        for case, tried in windows.items():
            found = sorted(tried, key=itemgetter("others"))[: given.rounds]
            measured = found[0].keys() - set(Case._fields)
            means = {name: statistics.fmean(each[name] for each in found) for name in measured}
            print(case, f"{means['updates_per_s']:.1f}/s", file=sys.stderr, flush=True)
            rates = [round(each["updates_per_s"], 2) for each in found]
            yield {**case._asdict(), **means, "windows_updates_per_s": rates}


def _predictions(cases: Sequence[Case], document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the model says of cases."""
    fits = {transport: Fit(document, transport) for transport in {case.transport for case in cases}}
    share = goodput(document) if any(case.link_mbit for case in cases) else 1.0
    found = []
    for case in cases:
        size = 4 * runs.parameters(case.size)
        scenario = Scenario(
            workers=case.clients,
            payload=size / 2 if case.transport == HALF else size,
            compute_s=case.compute_ms / 1000,
            push_period=case.push_period,
            pull_period=case.pull_period,
            bits_per_s=case.link_mbit * 1e6 * share,
        )
        outcome = simulate(scenario, fits[case.transport].at(size))
        found.append(
            {
                **case._asdict(),
                "updates_per_s": outcome.updates_per_s,
                "exchange_ms": 1000 * outcome.exchange_s,
                "staleness": outcome.staleness,
                "busy": {name: round(share, 3) for name, share in outcome.busy.items()},
            }
        )
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

"""The fitted model where nobody could measure: up to 10,000 workers on machines of their own."""

from __future__ import annotations

import json
import math
from itertools import product
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from benchmarks.scaling.model import Scenario, bottleneck, simulate
from benchmarks.server.nets import ROOT
from benchmarks.server.rig import HALF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.scaling.costs import Fit

_ENGINE = json.loads((ROOT / "docs/results/2026-11-22-engine/engine.json").read_text())
_MS: dict[str, float] = {
    name: found["engine"]["median"] for name, found in _ENGINE["milliseconds"].items()
}
#: What a machine of a cluster is taken to be.  Only the first figure was measured.
ASSUMED = {
    "CPU worker, ms": _MS["step, batch 32, float32"] + 4 * _MS["act, batch 1, float32"],
    "GPU worker, ms": 3.0,
    "server's cores": 16,
    "round trip, ms": 0.1,
}
KINDS: dict[str, float] = {
    "CPU": ASSUMED["CPU worker, ms"] / 1000,
    "GPU": ASSUMED["GPU worker, ms"] / 1000,
}
GBIT = (10, 100)
SHARDS = (1, 4, 16, 64)
WORKERS = (1, 4, 16, 64, 256, 1024, 10_000)
_ADVISED = (2, 8, 32, 128, 512, 2048, 10_000)
_LOADED = 0.8  # of what the server can do: beyond, queues grow


def sweep(costs: Fit, payload: float, goodput: float) -> list[dict[str, Any]]:
    """Return what comes of every number of workers and shards, network and kind of worker."""
    grid = [(place, costs, payload, goodput) for place in product(KINDS, GBIT, SHARDS, WORKERS)]
    with get_context("spawn").Pool() as pool:
        return pool.starmap(_point, grid, chunksize=1)


def _point(
    place: tuple[str, int, int, int], costs: Fit, payload: float, goodput: float
) -> dict[str, Any]:
    kind, gbit, shards, workers = place
    scenario = _cluster(workers, payload, KINDS[kind], gbit * goodput, shards=shards)
    outcome = simulate(scenario, costs.at(payload / shards), updates=300)
    return {
        "kind": kind, "gbit": gbit, "shards": shards, "workers": workers,
        **outcome._asdict(), "bottleneck": bottleneck(outcome),
    }  # fmt: skip


def _cluster(
    workers: int, payload: float, compute_s: float, gbit: float, *, shards: int = 1
) -> Scenario:
    return Scenario(
        workers=workers,
        payload=payload,
        compute_s=compute_s,
        cores=int(ASSUMED["server's cores"]),
        is_shared=False,
        bits_per_s=gbit * 1e9,
        round_trip_s=ASSUMED["round trip, ms"] / 1000,
        shards=shards,
    )


def advice(
    fits: Mapping[str, Fit], arrays: Mapping[str, Mapping[str, float]], goodput: float
) -> str:
    """Return as a table which push period keeps one server unsaturated, and what that gives."""
    lines = [
        "| net | network | wire | at most, updates/s | saturates first "
        + "".join(f"| {workers:,} " for workers in _ADVISED) + "|",
        "|---" * (5 + len(_ADVISED)) + "|",
    ]  # fmt: skip
    for (size, facts), gbit, (name, fit) in product(arrays.items(), (1, *GBIT), fits.items()):
        payload = facts["bytes"] / (2 if name == HALF else 1)
        costs = fit.at(facts["bytes"])
        full = simulate(_cluster(64, payload, 0.0, gbit * goodput), costs, updates=300)
        cells = "".join(f"| {_period(full.updates_per_s, n)} " for n in _ADVISED)
        lines.append(
            f"| {size} | {gbit} Gb/s | {name.removeprefix('HTTP, ').replace('HTTP', 'float32')} "
            f"| {full.updates_per_s:.0f} | {bottleneck(full)} {cells}|"
        )
    return "\n".join(lines)


def _period(at_most: float, workers: int) -> int:
    """Return the gradients of one push with which CPU workers leave the server some air."""
    return max(1, math.ceil(workers / (_LOADED * at_most) / KINDS["CPU"]))

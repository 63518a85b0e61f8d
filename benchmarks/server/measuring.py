"""Variants take turns in rounds, so that a busy moment of the machine hits them all."""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.server.children import UnavailableError
from benchmarks.server.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.server.rig import Variant

_LEAD_S = 0.2  # until all workers of a window are at work

#: Values of each round, by whatever names them.
Rounds = dict[str, list[list[float]]]


class Pace(NamedTuple):
    """How long to measure."""

    rounds: int
    seconds: float  # for each variant and way in a round
    least: int = 3  # exchanges in that time, if they are slow


@contextmanager
def running(
    variants: Sequence[Variant],
    *,
    solver: Path,
    folder: Path,
    workers: int,
    missing: dict[str, str],
) -> Iterator[list[Rig]]:
    """Start variants, yield those that can run here, end them; note in ``missing`` why not."""
    rigs: list[Rig] = []
    try:
        for index, variant in enumerate(variants):
            place = folder / str(index)
            rigs.append(Rig(variant, solver=solver, folder=place, workers=workers))
        for rig in rigs:
            rig.start_workers()
        settled = []
        for rig in rigs:
            try:
                rig.settle()
                settled.append(rig)
            except UnavailableError as reason:
                missing[rig.name] = str(reason)
        yield settled
    except BaseException:
        for rig in rigs:
            rig.kill()
        raise
    finally:
        for rig in rigs:
            rig.close()


def latencies(rigs: Sequence[Rig], pace: Pace) -> dict[str, Rounds]:
    """Return the milliseconds of each way of exchanging of each variant, one worker at work."""
    times: dict[str, Rounds] = {rig.name: {way: [] for way in rig.ways} for rig in rigs}
    for number in range(pace.rounds):
        for rig in _from(rigs, number):
            with rig.turn(1) as (worker,):
                for way in rig.ways:
                    worker.tell(way=way, seconds=pace.seconds, least=pace.least)
                    times[rig.name][way].append(worker.answer()["ms"])
    return times


def throughputs(
    rigs: Sequence[Rig], counts: Sequence[int], pace: Pace
) -> dict[str, dict[str, Rounds]]:
    """Return updates/s, and per update milliseconds: in all, and of both sides' processor time.

    By variant and number of workers; one value for each round.
    """
    results: dict[str, dict[str, Rounds]] = {
        rig.name: {str(count): {} for count in counts} for rig in rigs
    }
    for number in range(pace.rounds):
        for count in counts:
            for rig in _from(rigs, number):
                for name, value in _window(rig, count, pace.seconds).items():
                    results[rig.name][str(count)].setdefault(name, []).append([value])
    return results


def _window(rig: Rig, count: int, seconds: float) -> dict[str, float]:
    with rig.turn(count) as workers:
        begin = time.monotonic() + _LEAD_S
        for worker in workers:
            worker.tell(**{"from": begin, "until": begin + seconds})
        _sleep_until(begin)
        server_cpu_s = -rig.server_cpu_s()
        _sleep_until(begin + seconds)
        server_cpu_s += rig.server_cpu_s()
        answers: list[dict[str, Any]] = [worker.answer() for worker in workers]
    updates = max(1, sum(answer["updates"] for answer in answers))
    return {
        "updates_per_s": updates / seconds,
        "update_ms": 1000 * seconds / updates,
        "server_cpu_ms": 1000 * server_cpu_s / updates,
        "worker_cpu_ms": 1000 * sum(answer["cpu_s"] for answer in answers) / updates,
    }


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _from(rigs: Sequence[Rig], number: int) -> list[Rig]:
    """Return the variants in turn, a different one first each round: neighbours disturb."""
    first = number % len(rigs) if rigs else 0
    return [*rigs[first:], *rigs[:first]]


def summary(rounds: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return median, quartiles and count of all values."""
    values = [value for values in rounds for value in values]
    if len(values) == 1:
        values *= 2
    quarter, median, three_quarters = statistics.quantiles(values, n=4, method="inclusive")
    count = sum(map(len, rounds))
    return {"median": median, "quarter": quarter, "three_quarters": three_quarters, "count": count}


def ratio(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the ratio of two medians, and the quartiles of the rounds' own ratios."""
    each = [
        [statistics.median(a) / statistics.median(b)] for a, b in zip(above, below, strict=True)
    ]
    spread = summary(each)
    value = summary(above)["median"] / summary(below)["median"]
    return {**spread, "median": value}

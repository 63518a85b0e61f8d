"""One worker process: ``python -m benchmarks.server.worker KIND``; configured and told by stdin.

Two orders: time one way of exchanging for a while, or exchange without pause and count what ends
within a window of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.server.children import UnavailableError
from benchmarks.server.peer import ONE, TWO

if TYPE_CHECKING:
    from collections.abc import Callable

_WARM_UP = 2  # other variants had the caches
PEERS = {
    "ours": ("ours", "Ours"),
    "floor": ("floor", "Floor"),
    "elephas": ("elephas_design", "ElephasWorker"),
    "2015": ("design_2015", "Barista2015"),
    "rpc": ("torch_rpc", "RpcWorker"),
}


def main() -> None:
    """Connect, then follow orders until stdin ends."""
    module, name = PEERS[sys.argv[1]]
    try:
        peer = getattr(import_module(f"benchmarks.server.{module}"), name)(read_order())
    except UnavailableError as reason:
        write_answer({"unavailable": str(reason)})
        return
    ways = peer.ways()
    write_answer({"ways": list(ways)})
    while order := read_order():
        if "way" in order:
            write_answer({"ms": _time(ways[order["way"]], order["seconds"], order["least"])})
        else:
            write_answer(_count(ways.get(ONE, ways[TWO]), order["from"], order["until"]))
    sys.stdout.flush()


def _time(exchange: Callable[[], None], seconds: float, least: int) -> list[float]:
    """Return the milliseconds of each of as many exchanges as fit, and of no fewer than asked."""
    for _ in range(_WARM_UP):
        exchange()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        started = time.perf_counter()
        exchange()
        times.append(1000 * (time.perf_counter() - started))
    return times


def _count(exchange: Callable[[], None], begin: float, end: float) -> dict[str, Any]:
    """Exchange until the end; count what ended within the window, and the processor time of it."""
    updates = 0
    cpu_at_begin = cpu_s()
    while True:
        exchange()
        now = time.monotonic()
        if now >= end:
            return {"updates": updates, "cpu_s": cpu_s() - cpu_at_begin}
        if now < begin:
            cpu_at_begin = cpu_s()
        else:
            updates += 1


def cpu_s() -> float:
    """Return this process's processor time, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read_order() -> dict[str, Any]:
    """Return the next line of stdin, empty at its end."""
    line = sys.stdin.readline()
    order: dict[str, Any] = json.loads(line) if line else {}
    return order


def write_answer(answer: dict[str, Any]) -> None:
    """Answer with one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

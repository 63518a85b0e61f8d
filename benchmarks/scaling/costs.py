"""What a push costs, from runs with one and two workers: processor time, by the bytes of the net.

The split of one exchange.  With C and S the processor time of worker and server, of a push alone
(p) and of one that pulls (b), and with what one thread takes to look at all of an array, to apply
it and to copy it:

    rest            by how much C_b and S_b of one worker, which sleeps, exceed those of two
                    without pause, at the smallest size; it is taken off what follows
    request         what S_p comes to at 0 bytes, on the line through the two smallest sizes
    receive         S_p - request - check - apply
    send            S_b - S_p - copy
    worker_send     C_p
    worker_receive  C_b - C_p
    overlap, delay  whichever makes one worker's exchange take as long as it did
    contention      makes two workers without pause make as many updates as they did
    goodput         of a link: likewise, makes one worker behind it as fast as it was
"""

from __future__ import annotations

from dataclasses import astuple, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.scaling.model import Costs, Scenario, simulate
from benchmarks.scaling.runs import BOTH, FIT_COMPUTE_MS, LINK_MBIT, MAIN, PUSH, is_calm
from benchmarks.server.rig import HTTP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.scaling.model import Outcome

    Run = Mapping[str, Any]

_STEPS = 8  # of a bisection


class Rest(NamedTuple):
    """Milliseconds more of processor time after a rest."""

    worker: float
    server: float


class Fit:
    """The costs of one transport at any size.

    Args:
        document: What ``bench_scaling fit`` has written.
        transport: One of its runs'.
    """

    def __init__(self, document: Mapping[str, Any], transport: str) -> None:
        runs = [run for run in document["runs"] if run["transport"] == transport]
        arrays = sorted(document["arrays"].items(), key=lambda item: item[1]["bytes"])
        alone = {size: _of(runs, size, PUSH, 1, FIT_COMPUTE_MS) for size, _ in arrays}
        both = {size: _of(runs, size, BOTH, 1, FIT_COMPUTE_MS) for size, _ in arrays}
        (small, facts), (large, more) = arrays[:2]
        idle = _of(runs, small, BOTH, 1, FIT_COMPUTE_MS)
        busy = _of(runs, small, BOTH, 2, 0)
        rest = Rest(
            *(max(0.0, idle[f"{side}_cpu_ms"] - busy[f"{side}_cpu_ms"]) for side in Rest._fields)
        )
        slope = (alone[large]["server_cpu_ms"] - alone[small]["server_cpu_ms"]) / (
            more["bytes"] - facts["bytes"]
        )
        request_ms = alone[small]["server_cpu_ms"] - slope * facts["bytes"] - rest.server
        self._points = [
            (facts["bytes"], _split(max(0.0, request_ms), rest, alone[size], both[size], facts))
            for size, facts in arrays
        ]
        payload = document["arrays"][MAIN]["bytes"]
        contention = _bisect(
            lambda value: simulate(
                Scenario(workers=2, payload=payload, compute_s=0.0),
                replace(self.at(payload), contention=value),
                updates=150,
            ),
            _of(runs, MAIN, BOTH, 2, 0)["updates_per_s"],
        )
        self._points = [
            (size, replace(costs, contention=contention)) for size, costs in self._points
        ]

    def at(self, payload: float) -> Costs:
        """Return the costs of a payload: on the line through the two nearest sizes."""
        points = self._points
        above = next((i for i, point in enumerate(points) if point[0] >= payload), len(points) - 1)
        (low, less), (high, more) = points[max(above, 1) - 1], points[max(above, 1)]
        share = (payload - low) / (high - low)
        return Costs(
            *(
                max(0.0, a + share * (b - a))
                for a, b in zip(astuple(less), astuple(more), strict=True)
            )
        )


def goodput(document: Mapping[str, Any]) -> float:
    """Return the share of a link's bits that are a payload's, by one worker behind it."""
    fit, payload = Fit(document, HTTP), document["arrays"][MAIN]["bytes"]
    runs = [run for run in document["runs"] if run["transport"] == HTTP]
    lost = _bisect(
        lambda value: simulate(
            Scenario(
                workers=1,
                payload=payload,
                compute_s=FIT_COMPUTE_MS / 1000,
                bits_per_s=LINK_MBIT * 1e6 * (1 - value),
            ),
            fit.at(payload),
            updates=150,
        ),
        _of(runs, MAIN, BOTH, 1, FIT_COMPUTE_MS, mbit=LINK_MBIT)["updates_per_s"],
    )
    return 1 - lost


def _bisect(outcome: Callable[[float], Outcome], updates_per_s: float) -> float:
    """Return the value from 0 to 1, the more the slower, that makes so many updates."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if outcome(middle).updates_per_s > updates_per_s:
            low = middle
        else:
            high = middle
    return low


def _of(
    runs: Sequence[Run], size: str, way: str, clients: int, compute_ms: float, *, mbit: int = 0
) -> Run:
    """Return the means over all such runs that nothing else disturbed."""
    wanted = {
        "size": size, "way": way, "clients": clients, "compute_ms": compute_ms,
        "link_mbit": mbit,
    }  # fmt: skip
    calm = [run for run in runs if wanted.items() <= run.items() and is_calm(run)]
    names = ("updates_per_s", "exchange_ms", "server_cpu_ms", "worker_cpu_ms")
    return {name: fmean(run[name] for run in calm) for name in names}


def _split(
    request_ms: float, rest: Rest, push: Run, both: Run, arrays: Mapping[str, float]
) -> Costs:
    """Return the costs of one size."""
    check, apply, copy = arrays["check_ms"], arrays["apply_ms"], arrays["copy_ms"]
    receive = max(0.0, push["server_cpu_ms"] - rest.server - request_ms - check - apply)
    send = max(0.0, both["server_cpu_ms"] - push["server_cpu_ms"] - copy)
    worker_send = max(0.0, push["worker_cpu_ms"] - rest.worker)
    worker_receive = max(0.0, both["worker_cpu_ms"] - push["worker_cpu_ms"])
    serial = request_ms + receive + check + apply + copy + send + worker_send + worker_receive
    saved = serial + rest.worker + rest.server - both["exchange_ms"]
    at_most = min(worker_send, receive) + min(send, worker_receive)
    return Costs(
        request=request_ms / 1000,
        receive=receive / 1000,
        check=check / 1000,
        apply=apply / 1000,
        copy=copy / 1000,
        send=send / 1000,
        worker_send=worker_send / 1000,
        worker_receive=worker_receive / 1000,
        delay=max(0.0, -saved) / 1000,
        overlap=min(1.0, max(0.0, saved) / at_most) if at_most else 0.0,
        contention=0.0,
        worker_rest=rest.worker / 1000,
        server_rest=rest.server / 1000,
    )

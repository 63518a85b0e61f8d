"""Real runs: the parameter server, synthetic workers, and a slow link where one is asked for."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from benchmarks.server import nets
from benchmarks.server.ours import SAME_HOST
from benchmarks.server.rig import HALF, HTTP, OURS, SAME, Rig, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

PUSH, BOTH = "push", "push that pulls"
MAIN = nets.MAIN
FIT_COMPUTE_MS = 10.0  # between exchanges while the costs are measured: caches forget
PATHS = {HTTP: "float32", HALF: "bfloat16", SAME: SAME_HOST}
SIZES = {
    size.label: size
    for size in (
        *nets.SIZES,
        nets.Size("2.71 MB", (32, 64, 64), 190),
        nets.Size("15.0 MB", (32, 64, 64), 1168),
    )
}
LINK_MBIT = 1000  # of the link that is fitted
_QUIET = ("--snapshot-seconds", "0", "--snapshot-updates", "0")
_SERVER, _WORKERS = "198.18.77.1", "198.18.77.2"  # addresses set aside for benchmarks
_NETWORK = "198.18.77.0/30"
_SETTLE_S = 0.8
_DISTURBED = 0.1  # cores at work for others
_COPIES = 12  # of an array, so that caches do not hold the next one


class Case(NamedTuple):
    """One run."""

    transport: str
    size: str
    clients: int
    compute_ms: float  # of one gradient
    push_period: int = 1
    pull_period: int = 1
    link_mbit: int = 0  # 0: no link but the machine's own
    way: str = BOTH  # or PUSH: for the fit


class Site(Rig):
    """A server, and clients that wait for orders.

    Args:
        transport: One of ``PATHS``.
        size: One of ``SIZES``.
        scratch: A folder for everything that is not a result.
        clients: How many at most.
        namespace: The network that they are in, the server's own if empty; HTTP only.
    """

    def __init__(
        self, transport: str, size: str, *, scratch: Path, clients: int, namespace: str = ""
    ) -> None:
        folder = scratch / f"{transport}-{size}-{bool(namespace)}".replace(" ", "")
        solver = nets.write_solver(nets.SOLVER, SIZES[size], folder / "net")
        host = ("--host", _SERVER) if namespace else ()
        variant = Variant(transport, OURS, "", PATHS[transport], (*_QUIET, *host))
        super().__init__(variant, solver=solver, folder=folder / "rig", workers=1)
        self._clients, self._namespace = clients, namespace

    def start_workers(self) -> None:
        """Wait for the server and start all clients, which are forks of one process."""
        ready = self._server.answer()
        clients = self._child("clients", ["-m", "benchmarks.scaling.clients"])
        self._workers.append(clients)
        clients.tell(
            **ready,
            path=self._variant.path,
            token=self._token,
            clients=self._clients,
            namespace=self._namespace and f"/run/netns/{self._namespace}",
        )

    def run(self, case: Case, seconds: float) -> dict[str, Any]:
        """Run a case; return what was counted, as JSON."""
        pull_period = 10**9 if case.way == PUSH else case.pull_period
        compute_s = case.compute_ms / 1000
        with self.turn(1) as (clients,):
            # All begin with a pull, which a slow link takes a while for.
            crowd_s = 2 * case.clients * _transfer_s(case)
            begin = time.monotonic() + _SETTLE_S + crowd_s + 1.2 * compute_s * case.push_period
            clients.tell(
                clients=case.clients,
                compute_s=compute_s,
                push_period=case.push_period,
                pull_period=pull_period,
                seed=0,
                **{"from": begin, "until": begin + seconds},
            )
            time.sleep(max(0.0, begin - time.monotonic()))
            server_cpu_s, all_cpu_s = -self.server_cpu_s(), -_busy_s()
            time.sleep(max(0.0, begin + seconds - time.monotonic()))
            server_cpu_s += self.server_cpu_s()
            all_cpu_s += _busy_s()
            answer = clients.answer()
        updates = max(1, answer["updates"])
        return {
            **case._asdict(),
            "updates_per_s": updates / seconds,
            "staleness": answer["staleness"] / updates,
            "exchange_ms": 1000 * answer["exchange_s"] / updates,
            "server_cpu_ms": 1000 * server_cpu_s / updates,
            "worker_cpu_ms": 1000 * answer["cpu_s"] / updates,
            "others": (all_cpu_s - server_cpu_s - answer["cpu_s"]) / seconds,  # cores
        }


def is_calm(run: Mapping[str, Any]) -> bool:
    """Tell whether nothing else was at work during a run (not known of the first ones)."""
    return bool(run.get("others", 0.0) <= _DISTURBED)


def _transfer_s(case: Case) -> float:
    return 32 * parameters(case.size) / (case.link_mbit * 1e6) if case.link_mbit else 0.0


def _busy_s() -> float:
    """Return the processor time of everything on this machine, and what its host took."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait)


def parameters(size: str) -> int:
    """Return the number of floats in a net of one of ``SIZES``, by which it is labelled."""
    return round(float(size.removesuffix(" MB")) * 1e6 / 4)


@contextmanager
def site(
    transport: str, size: str, *, scratch: Path, clients: int, link_mbit: int = 0
) -> Iterator[Site]:
    """Start a site, behind a link of its own if one is asked for, and end it."""
    with slow_link(link_mbit) as namespace:
        folder = scratch / f"{link_mbit}mbit"
        here = Site(transport, size, scratch=folder, clients=clients, namespace=namespace)
        try:
            here.start_workers()
            here.settle()
            yield here
        except BaseException:
            here.kill()
            raise
        finally:
            here.close()


@contextmanager
def slow_link(mbit: int) -> Iterator[str]:
    """Yield the name of a network behind a link so slow each way, "" where 0 is asked for.

    Raises:
        OSError: If this machine does not let us; needs root, ``ip``, ``tc`` with ``tbf``.
    """
    if not mbit:
        yield ""
        return
    name, near, far = f"ddq{os.getpid()}", f"ddq{os.getpid()}a", f"ddq{os.getpid()}b"
    inside = ("ip", "netns", "exec", name)
    shape = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "256kb", "latency", "20ms")
    route = ("ip", "route", "change", _NETWORK, "congctl", "cubic", "dev")  # Linux's default
    try:
        for command in (
            ("ip", "netns", "add", name),
            ("ip", "link", "add", near, "type", "veth", "peer", "name", far),
            ("ip", "link", "set", far, "netns", name),
            ("ip", "addr", "add", f"{_SERVER}/30", "dev", near),
            ("ip", "link", "set", near, "up"),
            (*inside, "ip", "addr", "add", f"{_WORKERS}/30", "dev", far),
            (*inside, "ip", "link", "set", far, "up"),
            ("tc", "qdisc", "add", "dev", near, *shape),
            (*inside, "tc", "qdisc", "add", "dev", far, *shape),
            (*route, near),
            (*inside, *route, far),
        ):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        yield name
    finally:
        for command in (("ip", "link", "del", near), ("ip", "netns", "del", name)):
            subprocess.run(command, check=False, capture_output=True)


def engine_costs(size: str, scratch: Path) -> dict[str, float]:
    """Return the milliseconds of what the server does with a whole array, by one thread each."""
    from param_server.engine import Engine  # noqa: PLC0415 - clients need none

    folder = scratch / f"engine-{size}".replace(" ", "")
    solver = nets.write_solver(nets.SOLVER, SIZES[size], folder / "net")
    (folder / "work").mkdir()
    engine = Engine(solver, roots=[nets.ROOT], work=folder / "work", seed=0)
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(engine.layout.size, np.float32) * np.float32(1e-3)
        for _ in range(_COPIES)
    ]
    parts: dict[str, Callable[[Any], Any]] = {
        "check_ms": lambda array: np.dot(array, array),
        "apply_ms": engine.apply,
        "copy_ms": lambda array: np.copyto(array, engine.weights),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(4):
        for array in arrays:
            for name, part in parts.items():
                began = time.perf_counter()
                part(array)
                times[name].append(1000 * (time.perf_counter() - began))
    shutil.rmtree(folder)
    return {
        "bytes": 4.0 * engine.layout.size,
        **{name: statistics.median(values[_COPIES:]) for name, values in times.items()},
    }

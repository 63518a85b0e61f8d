"""Who is measured: each contender as a command, and as a process that takes turns."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from barista.cores import confined_to
from benchmarks.server.children import Child
from benchmarks.server.nets import ROOT
from benchmarks.worker.accounting import end_below, tree_cpu_s

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_START_S = 600.0  # a busy machine that plays by chance and compiles
_AFTER_S = 120.0  # beyond a turn, for its answer
_SPARK_STARTS_S = 90.0


@dataclass(frozen=True)
class Contender:
    """One row of the tables."""

    name: str
    module: str  # of benchmarks.worker
    options: Mapping[str, Any] = field(default_factory=dict)
    cores: int = 1  # that it may use, and as many threads where it has one process
    precision: str = "float32"  # ours: of the engine
    is_peer: bool = False
    starts_s: float = 0.0  # about; above 0: it is started for each turn and ends with it
    windows: int = 1  # measured in a turn

    @property
    def is_parts(self) -> bool:
        """Whether it measures parts of a cycle, not cycles."""
        return self.module == "parts"


def peers(cores: int) -> list[Contender]:
    """Return the peers, on so many cores and threads."""
    on = f"{cores} core{'s' * (cores > 1)}"
    common: dict[str, Any] = {"cores": cores, "is_peer": True}
    threads = {"threads": cores}
    return [
        Contender(f"SB3, {on}", "sb3", threads, **common),
        Contender(f"SB3, 8 environments, {on}", "sb3", {**threads, "envs": 8}, **common),
        Contender(f"CleanRL, {on}", "cleanrl", threads, **common),
    ]


PRECISIONS = ("float32", "bf16", "bf16-all")
AGENTS = ("plain", "default")


def ours(agent: str, precision: str, *, workers: int = 1, cores: int = 1) -> Contender:
    """Return workers of ours with their server."""
    who = f"{workers} workers" if workers > 1 else "ours"
    on = f"{cores} core{'s' * (cores > 1)}"
    options = {"agent": agent, "workers": workers}
    name = f"{who}, {agent}, {precision}, {on}"
    return Contender(name, "ours", options, cores=cores, precision=precision)


def parts(agent: str, precision: str) -> Contender:
    """Return the parts of a worker's cycle, each alone."""
    name = f"parts, {agent}, {precision}"
    return Contender(name, "parts", {"agent": agent}, precision=precision)


def spark(agent: str, precision: str) -> Contender:
    """Return a whole run of two workers, by spark-submit."""
    name = f"spark-submit local[2,4], {agent}, {precision}"
    options = {"agent": agent, "workers": 2}
    return Contender(
        name, "spark", options, cores=2, precision=precision, starts_s=_SPARK_STARTS_S, windows=3
    )


_BOTH = [(agent, precision) for agent in AGENTS for precision in PRECISIONS]
#: What is interleaved with what: all of a section take turns.
SECTIONS: dict[str, list[Contender]] = {
    "one core": [
        *peers(1),
        *(ours(*which) for which in _BOTH),
        *(parts(*which) for which in _BOTH),
    ],
    "two cores": [
        *peers(2),
        *(ours("plain", precision, cores=2) for precision in PRECISIONS),
        *(ours(*which, workers=2, cores=2) for which in _BOTH),
        *(spark("default", precision) for precision in PRECISIONS),
    ],
}


class Racer(Child):
    """A contender's process, and whatever it starts.

    Args:
        contender: Who.
        python: Its interpreter.
        folder: For its files; must not exist.
        work: Options that all have: the sizes of the work.
    """

    ends_s = 90.0  # Spark stops its workers, its server writes a snapshot

    def __init__(
        self, contender: Contender, *, python: Path, folder: Path, work: Mapping[str, Any]
    ) -> None:
        folder.mkdir(parents=True)
        options = {"folder": folder, **work, **contender.options}
        command = ["-m", f"benchmarks.worker.{contender.module}"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        environ = {"OMP_NUM_THREADS": str(contender.cores), "DDQ_PRECISION": contender.precision}
        cores = sorted(os.sched_getaffinity(0))[: contender.cores]
        with confined_to(cores):
            super().__init__(command, log=folder / "log", environ=environ, root=ROOT, python=python)

    def settle(self) -> dict[str, Any]:
        """Wait until it is warm.

        Raises:
            ChildError: If it is not in time, or ended.
        """
        return self.answer(_START_S)

    def turn(self, seconds: float) -> dict[str, Any]:
        """Let it work for a while; return what it did, and `cpu_s` of all its processes."""
        cpu_s = -tree_cpu_s(self._process.pid)
        self.tell(seconds=seconds)
        answer = self.answer(seconds + _AFTER_S)
        return {**answer, "cpu_s": cpu_s + tree_cpu_s(self._process.pid)}

    def kill(self) -> None:
        """End it and all that it started, now."""
        end_below(self._process.pid)
        super().kill()

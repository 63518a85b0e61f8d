"""One variant running: its server and its workers, each a process, paused while others measure."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from benchmarks.server import serve
from benchmarks.server.children import Child
from benchmarks.server.nets import ROOT
from benchmarks.server.ours import SAME_HOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = "ours"
# No snapshot while times are taken.
_NO_SNAPSHOTS = ("--snapshot-seconds", "0", "--snapshot-updates", "0")


@dataclass(frozen=True)
class Variant:
    """What is measured: a server and the workers that fit it."""

    name: str
    server: str  # OURS, or one of serve's
    worker: str  # one of worker's
    path: str = ""  # ours: same host, or the dtype over HTTP
    flags: tuple[str, ...] = _NO_SNAPSHOTS  # ours: of the server


HTTP, HALF, SAME = "HTTP", "HTTP, bfloat16", "same host"
TCP, UNIX = "floor, TCP", "floor, Unix socket"
RPC, ELEPHAS, DESIGN_2015 = "torch rpc", "elephas", "2015 design"

VARIANTS = (
    Variant(HTTP, OURS, OURS, "float32"),
    Variant(HALF, OURS, OURS, "bfloat16"),
    Variant(SAME, OURS, OURS, SAME_HOST),
    Variant(TCP, serve.TCP, "floor"),
    Variant(UNIX, serve.UNIX, "floor"),
    Variant(RPC, serve.RPC, "rpc"),
    Variant(ELEPHAS, serve.ELEPHAS, "elephas"),
    Variant(DESIGN_2015, serve.DESIGN_2015, "2015"),
)


def durable_variants() -> tuple[Variant, ...]:
    """Return ours with each promise about kills, by both paths, snapshots as they come."""
    return tuple(
        Variant(f"{name}, {mode}", OURS, OURS, path, ("--durability", mode))
        for name, path in ((HTTP, "float32"), (SAME, SAME_HOST))
        for mode in ("interval", "acknowledged")
    )


class Rig:
    """A variant's processes.

    Args:
        variant: What to run.
        solver: Its solver's prototxt.
        folder: For its files; must not exist.
        workers: How many.
    """

    def __init__(self, variant: Variant, *, solver: Path, folder: Path, workers: int) -> None:
        self.name = variant.name
        self.ways: list[str] = []
        self._variant = variant
        self._folder = folder
        self._token = secrets.token_urlsafe(16)
        self._wanted = workers
        self._workers: list[Child] = []
        folder.mkdir(parents=True)
        self._server = self._child(
            "server",
            ["param-server/server.py", str(solver), "--embedded", "--port", "0", "--seed", "0",
             "--snapshot-dir", str(folder / "snapshots"), *variant.flags]
            if variant.server == OURS
            else ["-m", "benchmarks.server.serve", variant.server, str(solver),
                  str(folder / "work"), str(workers)],
        )  # fmt: skip

    def _child(self, name: str, command: list[str]) -> Child:
        environ = {
            "DDQ_ROOT": str(self._folder),
            "DDQ_TOKEN": self._token,
            "OMP_NUM_THREADS": "1",  # as our server sets it for itself
        }
        return Child(command, log=self._folder / f"{name}.log", environ=environ, root=ROOT)

    def start_workers(self) -> None:
        """Wait for the server, start the workers and tell them where it is."""
        ready = self._server.answer()
        for index in range(self._wanted):
            command = ["-m", "benchmarks.server.worker", self._variant.worker]
            worker = self._child(f"worker{index}", command)
            self._workers.append(worker)
            worker.tell(
                **ready,
                path=self._variant.path,
                token=self._token,
                worker=index,
                workers=self._wanted,
            )

    def settle(self) -> None:
        """Wait until all workers are connected, then pause everything.

        Raises:
            UnavailableError: If the variant cannot run here.
        """
        for worker in self._workers:
            self.ways = worker.answer()["ways"]
        for child in self._children():
            child.pause()

    @contextmanager
    def turn(self, workers: int) -> Iterator[list[Child]]:
        """Let the server and some workers run for a while."""
        active = self._workers[:workers]
        for child in (self._server, *active):
            child.resume()
        try:
            yield active
        finally:
            for child in (self._server, *active):
                child.pause()

    def server_cpu_s(self) -> float:
        """Return the processor time that the server has used."""
        return self._server.cpu_s()

    def close(self) -> None:
        """End all processes."""
        for child in self._children():
            child.hang_up()
        for child in self._children():
            child.close()

    def kill(self) -> None:
        """End all processes now."""
        for child in self._children():
            child.kill()

    def _children(self) -> Iterator[Child]:
        return chain(self._workers, [self._server])

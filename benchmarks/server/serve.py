"""A server that ours is measured beside: ``python -m benchmarks.server.serve KIND SOLVER WORK``.

It prints one line when it is ready, and ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from param_server.engine import Engine

from benchmarks.server import design_2015, elephas_design, floor
from benchmarks.server.nets import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

TCP, UNIX, ELEPHAS, DESIGN_2015, RPC = "tcp", "unix", "elephas", "2015", "rpc"


def main() -> None:
    """Serve until stdin ends."""
    kind, solver, work, workers = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    work.mkdir()
    engine = Engine(solver, roots=[ROOT], work=work, seed=0)
    address, serve = _SERVERS[kind](engine, work, int(workers))
    ready = {"address": address, "size": engine.layout.size, "parameters": engine.layout.entries}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    threading.Thread(target=serve, daemon=True).start()
    sys.stdin.read()
    sys.stdout.flush()
    os._exit(0)  # threads of other people's libraries would hold it


def _tcp(engine: Engine, _work: Path, _workers: int) -> tuple[str, Callable[[], None]]:
    listener, address = floor.listen(unix=None)
    return address, lambda: floor.serve(listener, engine)


def _unix(engine: Engine, work: Path, _workers: int) -> tuple[str, Callable[[], None]]:
    listener, address = floor.listen(unix=work / "s")
    return address, lambda: floor.serve(listener, engine)


def _elephas(engine: Engine, _work: Path, _workers: int) -> tuple[str, Callable[[], None]]:
    return _flask(elephas_design.application(engine), threaded=elephas_design.THREADED)


def _2015(engine: Engine, _work: Path, _workers: int) -> tuple[str, Callable[[], None]]:
    return _flask(design_2015.application(engine), threaded=design_2015.THREADED)


def _flask(application: Flask, *, threaded: bool) -> tuple[str, Callable[[], None]]:
    """Return what ``Flask.run`` would do, with a port of the system's choice."""
    from werkzeug.serving import make_server  # noqa: PLC0415 - floors need none

    server = make_server("127.0.0.1", 0, application, threaded=threaded)
    return f"127.0.0.1:{server.server_port}", server.serve_forever


def _rpc(engine: Engine, work: Path, workers: int) -> tuple[str, Callable[[], None]]:
    from benchmarks.server import torch_rpc  # noqa: PLC0415 - not in every build

    rendezvous = str((work / "rendezvous").absolute())
    return rendezvous, lambda: torch_rpc.serve(engine, rendezvous, workers)


_SERVERS = {TCP: _tcp, UNIX: _unix, ELEPHAS: _elephas, DESIGN_2015: _2015, RPC: _rpc}


if __name__ == "__main__":
    main()

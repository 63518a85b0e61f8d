"""Try in another process what a plain Caffe would answer by ending this one.

Where our own engine raises CaffeError, BVLC's Caffe logs which check has failed and aborts: on a
net with an unknown layer, a weights file of other shapes, a device that it was not built for.  So
whoever gives it a user's files lets a child take them first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import caffe

_MESSAGE_LIMIT = 300  # Caffe lists all its layer types
# What glog writes last of all: `F1122 20:54:34.123456 4711 layer_factory.hpp:81] Check failed: …`.
_FATAL = re.compile(r"^F\d+ [\d:.]+ +\d+ [^\]]+\] (.+)$", re.MULTILINE)


class EngineAbortError(ValueError):
    """The engine ends a process that asks this of it; the message is one line."""


def rehearse(
    *,
    device: int | None = None,
    solver: str | None = None,
    net: str | None = None,
    weights: str | None = None,
    state: str | None = None,
) -> None:
    """Let a child choose a device, make a solver or a TEST net, and load files into it.

    Does nothing where the engine is our own.  What the child gets an exception for is left to the
    caller, who will get the same.

    Args:
        device: of a GPU.
        solver: a solver's prototxt.
        net: a net's prototxt.
        weights: for the solver's net, or the net.
        state: a .solverstate, for the solver.

    Raises:
        EngineAbortError: If the child was aborted.
    """
    if hasattr(caffe, "CaffeError"):
        return
    steps = {"device": device, "solver": solver, "net": net, "weights": weights, "state": state}
    paths = [os.path.abspath(path or ".") for path in sys.path]  # noqa: PTH100 - of any kind
    done = subprocess.run(
        [sys.executable, "-m", "param_server.rehearsal", json.dumps(steps)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode < 0:
        said = _FATAL.findall(done.stderr)
        reason = said[-1] if said else f"ended by signal {-done.returncode}"
        if len(reason) > _MESSAGE_LIMIT:
            reason = reason[:_MESSAGE_LIMIT] + " …"
        raise EngineAbortError(f"Caffe gives up: {reason}")


def _act(
    *,
    device: int | None,
    solver: str | None,
    net: str | None,
    weights: str | None,
    state: str | None,
) -> None:
    if device is not None:
        caffe.set_device(device)
    made = caffe.get_solver(solver) if solver else None
    target = made.net if made is not None else caffe.Net(net, caffe.TEST) if net else None
    if target is not None and weights:
        target.copy_from(weights)
    if made is not None and state:
        made.restore(state)


if __name__ == "__main__":
    _act(**json.loads(sys.argv[1]))

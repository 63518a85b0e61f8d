"""Ours as in product: ``python -m benchmarks.worker.ours OPTIONS`` stands in for Spark and driver.

A parameter server in a process of its own and Baristas in theirs, started by the very functions
that Spark's tasks call, with a push and a pull for every gradient.  A turn is a round.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from param_server.launch import EmbeddedServer, start_embedded

from barista import launch
from barista.config import AgentConfig, defaults_for
from benchmarks.server.nets import SOLVER
from benchmarks.worker.gate import Channel
from benchmarks.worker.setting import GAME, LEAD, TARGET_STEPS

#: The agents: what the peers learn, and what ours does unless told otherwise.
AGENTS: dict[str, dict[str, Any]] = {"plain": {"agent": "dqn"}, "default": {}}
_START_S = 60.0
_WARM_S = 300.0
_AFTER_S = 30.0  # beyond a round's end, for an answer


def parser() -> argparse.ArgumentParser:
    """Return the parser of those that run ours."""
    found = argparse.ArgumentParser()
    found.add_argument("--folder", type=Path, required=True, help="for whatever it writes")
    found.add_argument("--agent", choices=list(AGENTS), default="plain")
    found.add_argument("--workers", type=int, default=1)
    found.add_argument("--capacity", type=int, required=True, help="transitions, of each worker")
    found.add_argument("--warmup", type=int, required=True, help="agent steps, of each worker")
    found.add_argument("--epsilon", type=float, required=True, help="once warm")
    return found


def configuration(given: argparse.Namespace) -> AgentConfig:
    """Return what the workers are told."""
    settings: dict[str, Any] = {
        **AGENTS[given.agent],
        "workers": given.workers,
        "replay_capacity": given.workers * given.capacity,
        "warmup": given.workers * given.warmup,
        "epsilon_end": given.epsilon,
        "epsilon_steps": 1,
        "steps_per_update": 4,
        "device": "cpu",
    }
    config = defaults_for(GAME, **settings)
    return defaults_for(GAME, **settings, target_period=TARGET_STEPS // config.steps_per_update)


def start_server(folder: Path, config: AgentConfig, token: str) -> EmbeddedServer:
    """Start a parameter server for Pong's model, everything else as a run's own has it."""
    arguments = [str(SOLVER), "--port", "0", "--seed", "0", "--snapshot-dir", str(folder / "kept")]
    arguments += ["--target-period", str(config.target_period)]
    return start_embedded(
        arguments, token=token, log_path=folder / "server.log", timeout_s=_START_S
    )


def main() -> None:
    """Run a round for each order until the benchmark hangs up."""
    given = parser().parse_args()
    channel = Channel()
    os.environ["DDQ_ROOT"] = str(given.folder)
    config, token = configuration(given), secrets.token_urlsafe(16)
    with ExitStack() as stack:
        server = start_server(given.folder, config, token)
        stack.callback(server.stop, 20.0)
        baristas = []
        for ordinal in range(given.workers):
            barista = _start(given.folder, ordinal, config, server.address, token)
            stack.callback(barista.stop)
            baristas.append(barista)
        _round(baristas, number=1, quota=LEAD * given.workers, deadline_s=_WARM_S)
        channel.answer(ready=True)
        number = 1
        while order := channel.order():
            number += 1
            channel.answer(**_round(baristas, number=number, quota=0, deadline_s=order["seconds"]))


def _start(
    folder: Path, ordinal: int, config: AgentConfig, address: str, token: str
) -> launch.Barista:
    this = psutil.Process()
    orders = {
        "server": address,
        "token": token,
        "run": "bench",
        "config": config.to_json(),
        "worker": f"w{ordinal}",
        "local_workers": config.workers,
        "alone": True,
        "ordinal": ordinal,
        "executor": {"pid": this.pid, "created": this.create_time()},
    }
    slot = launch.Slot(folder, str(ordinal))
    return launch.start(slot, orders, folder / f"worker{ordinal}.log")


def _round(
    baristas: list[launch.Barista], *, number: int, quota: int, deadline_s: float
) -> dict[str, Any]:
    """Have all Baristas work on a round; return what they did in all."""
    request = {"number": number, "quota": quota, "deadline_s": deadline_s}
    began = time.monotonic()
    for partition, barista in enumerate(baristas):
        barista.start_round({**request, "partition": partition})
    rows = [_row(barista, number, began + deadline_s + _AFTER_S) for barista in baristas]
    stages = [name for name in rows[0] if name.endswith("_s")]
    return {
        "steps": sum(row["steps"] for row in rows),
        "gradients": sum(row["applied"] for row in rows),
        "wall_s": time.monotonic() - began,
        "stages": {name: sum(row[name] for row in rows) for name in stages},
    }


def _row(barista: launch.Barista, number: int, until: float) -> dict[str, Any]:
    while time.monotonic() < until:
        status = barista.status(round_number=number, wait_s=10.0)
        if status["error"]:
            raise RuntimeError(f"{status['error']}\n{barista.last_lines()}")
        if status["round"] == number and status["metrics"] is not None:
            row: dict[str, Any] = status["metrics"]
            return row
    raise RuntimeError(f"round {number} does not end: {json.dumps(status)}")


if __name__ == "__main__":
    main()

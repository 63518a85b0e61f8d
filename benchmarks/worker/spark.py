"""End to end: ``python -m benchmarks.worker.spark OPTIONS`` runs a real ``spark-submit … ddq.py``.

It is the parent of the JVM, the driver, the server, the Python workers and the Baristas, also of
those whose own parent has ended, so that their processor time can be counted.  Such a run cannot be
held between two turns; it lives for one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.worker.accounting import adopt_orphans, end_below
from benchmarks.worker.gate import Channel
from benchmarks.worker.ours import configuration, parser
from benchmarks.worker.setting import GAME, LEAD

ROOT = Path(__file__).resolve().parents[2]
_WARM_S = 400.0
_ENDS_S = 60.0


def main() -> None:
    """Train, and count for as long as each order says, until the benchmark hangs up."""
    arguments = parser()
    arguments.add_argument("--master", default="local[2,4]")
    given = arguments.parse_args()
    channel = Channel()
    adopt_orphans()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        _command(given, port),
        env={**os.environ, "DDQ_ROOT": str(given.folder)},
        cwd=given.folder,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_gradients(process, port)
        channel.answer(ready=True)
        while order := channel.order():
            channel.answer(**_count(port, order["seconds"]))
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: driver and JVM
            process.wait(_ENDS_S)
        end_below(os.getpid())


def _command(given: Any, port: int) -> list[str]:
    config = configuration(given)
    options: dict[str, Any] = {
        "--game": GAME,
        "--agent": config.agent,
        "--workers": config.workers,
        "--replay-capacity": config.replay_capacity,
        "--warmup": config.warmup,
        "--epsilon-end": config.epsilon_end,
        "--epsilon-steps": config.epsilon_steps,
        "--steps-per-update": config.steps_per_update,
        "--target-period": config.target_period,
        "--device": config.device,
        "--server-port": port,
        "--minutes": 60,
        "--evaluate": 0,
        "--run-dir": given.folder / "run",
    }
    command = ["spark-submit", "--master", given.master, str(ROOT / "ddq.py")]
    return [*command, *(str(word) for option in options.items() for word in option)]


def _await_gradients(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _WARM_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"spark-submit ended with exit code {process.returncode}")
        try:
            if _progress(port)[1] >= LEAD:
                return
        except (urllib.error.URLError, ConnectionError):  # the server is not up yet
            pass
        time.sleep(0.5)
    raise RuntimeError("spark-submit has not learned anything in time")


def _count(port: int, seconds: float) -> dict[str, Any]:
    steps, gradients = _progress(port)
    began = time.monotonic()
    time.sleep(seconds)
    steps_after, gradients_after = _progress(port)
    wall_s = time.monotonic() - began
    return {
        "steps": steps_after - steps,
        "gradients": gradients_after - gradients,
        "wall_s": wall_s,
    }


def _progress(port: int) -> tuple[int, int]:
    """Return agent steps and updates, as the server's open page says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status_data", timeout=10) as page:
        status = json.load(page)
    return int(status["steps"]), int(status["version"])


if __name__ == "__main__":
    main()

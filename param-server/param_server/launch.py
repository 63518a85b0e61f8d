"""Start a parameter server inside a driver, and find one that was started on its own.

Standard library only: a driver imports this before anything heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from queue import Empty, Queue
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from param_server.discovery import StandaloneServer, find_standalone
from param_server.errors import ServerStartError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["EmbeddedServer", "StandaloneServer", "find_standalone", "start_embedded"]

_LAST_LINES = 15


class _Ready(NamedTuple):
    address: str
    epoch: int
    version: int


class EmbeddedServer:
    """A server process that lives no longer than its driver: it stops when its stdin ends."""

    def __init__(self, process: subprocess.Popen[bytes], ready: _Ready) -> None:
        self._process = process
        self.address = ready.address
        self.epoch = ready.epoch
        self.version = ready.version

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def stop(self, timeout_s: float) -> int:
        """Let it drain, write its last snapshot and end; return its exit code.

        A server that has not ended in time is killed, and its exit code is negative.
        """
        _close_pipes(self._process)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def start_embedded(
    arguments: Sequence[str], *, token: str, log_path: Path, timeout_s: float
) -> EmbeddedServer:
    """Start a server as a child and wait until it is ready.

    Args:
        arguments: Of the server's command line, without ``--embedded``.
        token: Its token, handed over in the environment.
        log_path: Receives its stderr, appended.
        timeout_s: How long it may take to be ready; PyTorch alone takes seconds.

    Raises:
        ServerStartError: If it ended or hung before; no process is left.
    """
    command = [sys.executable, "-m", "param_server.cli", *arguments, "--embedded"]
    paths = [os.path.abspath(path or ".") for path in sys.path]  # noqa: PTH100 - of any kind
    environ = {**os.environ, "DDQ_TOKEN": token, "PYTHONPATH": os.pathsep.join(paths)}
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        log_start = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environ,
            start_new_session=True,
        )
    assert process.stdout is not None
    ready = _wait(process.stdout, timeout_s)
    if ready is not None:
        return EmbeddedServer(process, ready)
    raise _failure(process, log_path, log_start, timeout_s)


def _wait(stdout: IO[bytes], timeout_s: float) -> _Ready | None:
    """Return what the ready line says, None if none comes in time."""
    lines: Queue[bytes] = Queue()
    threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
    try:
        line: Any = json.loads(lines.get(timeout=timeout_s))
        return _Ready(line["address"], line["epoch"], line["version"])
    except (Empty, ValueError, KeyError, TypeError):
        return None


def _failure(
    process: subprocess.Popen[bytes], log_path: Path, log_start: int, timeout_s: float
) -> ServerStartError:
    """End a process that is not ready and say what it said last."""
    exit_code: int | None
    try:
        exit_code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        exit_code = None
        process.kill()
        process.wait()
    _close_pipes(process)
    with log_path.open("rb") as log:
        log.seek(log_start)
        lines = log.read().decode(errors="replace").splitlines()
    last_lines = "\n".join(lines[-_LAST_LINES:])
    how = f"ended with exit code {exit_code}" if exit_code is not None else "was not ready"
    message = f"the parameter server {how} within {timeout_s:g} s: {last_lines or 'no output'}"
    return ServerStartError(message, exit_code=exit_code, last_lines=last_lines)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

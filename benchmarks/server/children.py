"""Processes of their own for servers and workers, spoken to in lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Python 3.10 knows a new session only, which nobody hangs up.
_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)
_LAST_LINES = 12


class UnavailableError(Exception):
    """A variant cannot run here; the message says why."""


class ChildError(Exception):
    """A process ended or hung; the message holds what it said last."""


class Child:
    """A process that ends when its stdin ends, and answers each line with one line.

    It stands in a process group of its own, so that Ctrl-C reaches only the benchmark, which then
    ends it.  Should the benchmark be killed, the kernel hangs such a group up if it is stopped.
    """

    ends_s = 20.0  # how long it may take to end: a server may write a last snapshot

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str],
        root: Path,
        python: str | Path = sys.executable,
    ) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [python, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **environ},
                cwd=root,
                **_GROUP,
            )
        self._cpu = psutil.Process(self._process.pid)

    def cpu_s(self) -> float:
        """Return the processor time it has used, user and system, to 10 ms."""
        times = self._cpu.cpu_times()
        return times.user + times.system

    def pause(self) -> None:
        """Stop it: idle peers must not disturb (some of them spin)."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def tell(self, **message: Any) -> None:
        """Send it a line."""
        try:
            _pipe(self._process.stdin).write(f"{json.dumps(message)}\n".encode())
            _pipe(self._process.stdin).flush()
        except BrokenPipeError:
            raise self._failure("ended") from None

    def answer(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """Return its next line.

        Raises:
            UnavailableError: If that says so.
            ChildError: If there is none in time.
        """
        stdout = _pipe(self._process.stdout)
        if not select.select([stdout], [], [], timeout_s)[0]:
            raise self._failure(f"said nothing for {timeout_s:g} s")
        line = stdout.readline()
        if not line:
            raise self._failure("ended")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise UnavailableError(answer["unavailable"])
        return answer

    def hang_up(self) -> None:
        """Let it end."""
        self.resume()
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()

    def close(self) -> None:
        """Wait for its end, or make one."""
        try:
            self._process.wait(self.ends_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        finally:
            _pipe(self._process.stdout).close()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def _failure(self, how: str) -> ChildError:
        lines = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        command = " ".join(map(str, self._process.args[1:4]))  # type: ignore[index]
        return ChildError("\n".join([f"{command} {how}:", *lines]))


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe

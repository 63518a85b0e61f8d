"""Find, start, watch and stop the Barista of a task slot.  Runs in a Spark task: no torch.

A slot is (this executor's private directory, name); its name is the GPU address that Spark gave the
task, or else the first free ordinal: partition ids move between executors, so they identify
nothing.  Two files in `<private directory>/barista/` make a slot:

* `slot-K.lock`, held by `flock` for as long as a task uses the slot, released when the task ends,
  however it ends;
* `slot-K.json` (mode 0600), written by the task that started the Barista: how to find it again.

A Barista is known by pid *and* start time, for pids are reused.  It is started in a session of its
own, so that Ctrl-C on the driver's terminal does not reach it; its orders (secrets among them) go
in by a pipe on stdin, never by argv or environment; it says on another pipe when it listens.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
from param_server.wire import MEDIA_TYPE

from barista import cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FATAL = "fatal: "
"""How the error of a Barista begins that no restart can mend."""

_READY_TIMEOUT_S = 30.0
_REQUEST_TIMEOUT_S = 10.0
_LOOK_S = 0.02  # between two looks whether a process has ended
_LOG_LIMIT_BYTES = 32 << 10
# What a Python worker inherits from Spark and a Barista must not: it would think itself a part of
# the daemon.
_FOREIGN_PREFIXES = ("PYTHON_WORKER", "PYSPARK_GATEWAY", "SPARK_", "OMP_", "DDQ_TOKEN")


class LaunchError(RuntimeError):
    """A Barista did not start; the message ends with the last lines of its log."""


class BaristaRefusalError(RuntimeError):
    """A Barista runs but refused a request, or left with an error that no restart mends."""


class Barista(NamedTuple):
    """How to reach a running Barista."""

    pid: int
    created: float  # the process's start time, seconds since the epoch
    port: int
    token: str
    incarnation: str
    log: str  # path of the file that has its stdout and stderr

    def is_alive(self) -> bool:
        """Say whether that very process runs (a zombie does not)."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # reap it, if it was this task's own child
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.created) < 1.0
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def start_round(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Start a round, or join it; return what `status` does.

        Raises:
            BaristaRefusalError: If it does not want to (the round is over, the request malformed).
            OSError: If it cannot be reached.
        """
        return self._request("POST", "/round", json.dumps(request).encode())

    def status(self, *, round_number: int, wait_s: float) -> dict[str, Any]:
        """Return round, metrics, error and progress; wait up to `wait_s` for the round's end."""
        return self._request("GET", f"/status?round={round_number}&wait_s={wait_s}", None, wait_s)

    def push(self, *, round_number: int, wait_s: float) -> dict[str, Any]:
        """Return {"push": frame} of a synchronous update once there is one, else the status."""
        return self._request("GET", f"/push?round={round_number}&wait_s={wait_s}", None, wait_s)

    def deliver(self, what: str, frame: bytes) -> None:
        """Hand over a frame, "order" or "target", of a synchronous update."""
        self._request("POST", f"/{what}", frame)

    def ask_to_stop(self) -> None:
        """Ask it to leave, and do not wait for it."""
        with suppress(OSError, BaristaRefusalError, http.client.HTTPException):
            self._request("POST", "/stop", b"{}")

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask it to leave; kill it after `timeout_s`."""
        self.ask_to_stop()
        if not self._is_gone_within(timeout_s):
            self.kill()

    def kill(self) -> None:
        """Kill it, and whatever it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._is_gone_within(5.0)

    def _is_gone_within(self, timeout_s: float) -> bool:
        """Wait for it to end.  A zombie has: the Python worker that started it may be idle."""
        until = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_S)
        return True

    def last_lines(self, count: int = 5) -> str:
        """Return the end of its log, for an error message."""
        try:
            with Path(self.log).open("rb") as file:
                file.seek(max(0, Path(self.log).stat().st_size - 8192))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return f"(no log at {self.log})"
        return "\n".join(lines[-count:])

    def new_lines(self, slot: Slot) -> list[str]:
        """Return what its log has had since the last call for this slot: at most 32 KiB."""
        mark = slot.folder / f"slot-{slot.name}.read"
        try:
            seen = int(mark.read_text()) if mark.exists() else 0
            with Path(self.log).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(seen, end - _LOG_LIMIT_BYTES) if seen <= end else 0)
                content = file.read(_LOG_LIMIT_BYTES)
            mark.write_text(str(end))
        except (OSError, ValueError):
            return []
        return content.decode("utf-8", "replace").splitlines()

    def _request(
        self, method: str, path: str, content: bytes | None, extra_s: float = 0.0
    ) -> dict[str, Any]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=_REQUEST_TIMEOUT_S + extra_s
        )
        try:
            connection.request(
                method,
                path,
                body=content,
                headers={"Authorization": f"Bearer {self.token}"},
            )
            answer = connection.getresponse()
            content = answer.read()
            if answer.headers.get_content_type() == MEDIA_TYPE:
                return {"push": content}
            body: dict[str, Any] = json.loads(content or b"{}")
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"Barista {self.pid} answered nonsense: {error}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise BaristaRefusalError(str(body.get("error", answer.status)))
        return body


class Slot(NamedTuple):
    """A task slot: the files by which its Barista is found again."""

    folder: Path
    name: str

    @property
    def _file(self) -> Path:
        return self.folder / f"slot-{self.name}.json"

    def find(self) -> Barista | None:
        """Return this slot's Barista, if it is alive."""
        try:
            barista = Barista(**json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return barista if barista.is_alive() else None

    def ordinal(self, partition: int) -> int:
        """Return the partition that first started a Barista here: its successors stand in for it.

        Whoever restarts one may be of another partition, whose own Barista lives in another slot.
        """
        file = self.folder / f"slot-{self.name}.ordinal"
        if not file.exists():
            file.write_text(str(partition))
        return int(file.read_text())

    def remember(self, barista: Barista) -> None:
        """Write down how to find `barista`; readable by this user only."""
        beside = self._file.with_suffix(".tmp")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(barista._asdict(), file)
        beside.rename(self._file)


def slots_folder() -> Path:
    """Return this executor's own folder for its Baristas' files, made with mode 0700.

    Spark tells Python workers their executor's private directories in SPARK_LOCAL_DIRS.
    """
    private = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    if not private:
        raise LaunchError("SPARK_LOCAL_DIRS is not set: not inside a Spark task")
    folder = Path(private) / "barista"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def take_slot(folder: Path, names: list[str]) -> Iterator[Slot]:
    """Hold the first free slot of `names` for the duration of the block.

    Raises:
        LaunchError: If all of them are held by other tasks.
    """
    for name in names:
        descriptor = os.open(folder / f"slot-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield Slot(folder, name)
            return
        finally:
            os.close(descriptor)  # a descriptor left open would block the slot in later rounds
    raise LaunchError(f"every slot of {folder} is taken by another task")


def start(slot: Slot, orders: Mapping[str, Any], log: Path) -> Barista:
    """Start a Barista in `slot` and wait until it listens.

    Args:
        slot: The slot, held by the caller.
        orders: What `barista.__main__` reads from stdin: one JSON object.
        log: The file that receives its stdout and stderr, appended to.

    Raises:
        LaunchError: If it does not listen within 30 s, or dies; nothing is left running.
    """
    token, incarnation = secrets.token_urlsafe(24), secrets.token_hex(8)
    workers = int(orders.get("local_workers", 1))
    threads = cores.share(workers)
    orders = {**orders, "local_token": token, "incarnation": incarnation, "threads": threads}
    listening, said = os.pipe()
    try:
        with cores.confined_to(_own_cores(slot, workers) if orders.get("alone") else ()):
            process = _popen(said, log, slot.folder, threads)
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(orders).encode() + b"\n")
        port = _read_port(listening)
    finally:
        os.close(listening)
    if port is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        failed = Barista(process.pid, 0.0, 0, token, incarnation, str(log))
        raise LaunchError(f"a Barista did not start; the end of {log}:\n{failed.last_lines()}")
    created = psutil.Process(process.pid).create_time()
    barista = Barista(process.pid, created, port, token, incarnation, str(log))
    slot.remember(barista)
    process.returncode = 0  # it outlives this task on purpose: no ResourceWarning for that
    return barista


def _own_cores(slot: Slot, workers: int) -> set[int]:
    """Return the processors of the slot that has a number; none where a GPU names it."""
    return cores.slice_of(int(slot.name), workers) if slot.name.isdecimal() else set()


def _popen(said: int, log: Path, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start the process; `said`, the pipe it announces its port on, is its own from here on."""
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "barista", "--orders-on-stdin", "--ready-fd", str(said)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment(threads),
                cwd=folder,
                start_new_session=True,
                pass_fds=[said],
            )
    finally:
        os.close(said)


def _read_port(descriptor: int) -> int | None:
    """Return the port that a starting Barista announces, or None if it dies or is too late."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    announced = b""
    while not announced.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
            return None
        chunk = os.read(descriptor, 64)
        if not chunk:
            return None
        announced += chunk
    return int(announced)


def environment(threads: int) -> dict[str, str]:
    """Return what a Barista started by this task inherits: our code's path, nothing of Spark's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN_PREFIXES)}
    # Spark puts shipped zips on sys.path (as relative paths), not into PYTHONPATH.
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
    # Any engine's libraries heed it, but only when they are loaded.
    kept["OMP_NUM_THREADS"] = str(threads)
    return kept


@cache
def executor_process() -> psutil.Process:
    """Return the JVM above this task: when it is gone, Baristas have to go too.

    It is looked for once: Spark goes on using a Python worker whose daemon was killed, and which so
    has no JVM above it any more.

    Raises:
        LaunchError: If there is none; Spark does the task again, in another Python worker.
    """
    for process in psutil.Process().parents():
        if process.name().startswith("java"):
            return process
    raise LaunchError("this task runs under no JVM: was pyspark.daemon killed?")

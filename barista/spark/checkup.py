"""What `ddq.py --doctor` looks at on an executor.  Runs in a Spark task.

Standard library only: whatever else may be missing is what is asked here.  Each executor answers
once, however many tasks it is given.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECT_S = 5.0
_TRYOUT_S = 90.0


class Question(NamedTuple):
    """What the driver asks of every executor."""

    number: str  # of this examination: an executor answers it once
    mark: str  # what the driver's listener says; "" where a server of somebody else listens
    address: tuple[str, int] | None  # where the driver listens; None: there will be no server
    packages: tuple[str, ...]  # whose versions are wanted
    replay_dir: str
    tryout: dict[str, Any]  # what `barista.tryout` reads, but for the GPU


class Finding(NamedTuple):
    """What one executor answers; sizes in bytes, times in seconds."""

    host: str
    folder: str  # its private directory: one an executor
    python: str  # version
    executable: str
    versions: dict[str, str | None]  # of the packages; None: missing
    bf16: bool  # whether the processor multiplies them
    route: str  # "" or why the driver cannot be reached
    clock_s: float | None  # how far its clock is ahead of the driver's
    memory: int  # that is available
    address_limit: int | None  # of the address space
    gpus: tuple[str, ...]  # that the host has
    gpu: str | None  # the address that Spark has assigned
    disk: int | None  # free where the replay's folder would be; None: it cannot be written
    tryout: dict[str, Any]  # what `barista.tryout` has printed


def examine(question: Question) -> Iterator[Finding]:
    """Yield what there is on this executor; nothing where another task has been asked already."""
    folder = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    mark = Path(folder, f"doctor-{question.number}")
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    try:
        yield _look_around(question, folder)
    except Exception:
        mark.unlink(missing_ok=True)  # Spark tries again, and is to hear the same
        raise


def _look_around(question: Question, folder: str) -> Finding:
    route, clock_s = _reach(question)
    gpu = _assigned_gpu()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return Finding(
        host=socket.gethostname(),
        folder=folder,
        python=platform.python_version(),
        executable=sys.executable,
        versions={name: _version(name) for name in question.packages},
        bf16="bf16" in _read("/proc/cpuinfo"),
        route=route,
        clock_s=clock_s,
        memory=available_memory(),
        address_limit=None if limit == resource.RLIM_INFINITY else limit,
        gpus=_gpus(),
        gpu=gpu,
        disk=_free(question.replay_dir),
        tryout=_try_out({**question.tryout, "gpu": gpu}),
    )


def _reach(question: Question) -> tuple[str, float | None]:
    """Connect to the driver; returns why that failed, or "", and the difference of the clocks."""
    if question.address is None:
        return "", None
    host, port = question.address
    began = time.time()
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
            if not question.mark:
                return "", None
            line = connection.makefile("rb").readline(200).decode()
    except (OSError, UnicodeDecodeError) as error:
        return f"{type(error).__name__}: {error}", None
    mark, _, there = line.partition(" ")
    if mark != question.mark:
        return "somebody else answers", None
    return "", (began + time.time()) / 2 - float(there)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this host, or this container, can still give out."""
    fields = dict(
        line.split(":", 1) for line in _read(root / "proc/meminfo").splitlines() if ":" in line
    )
    free = int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024
    groups = root / "sys/fs/cgroup"  # a container's own is at the top
    limit, used = (_read(groups / f"memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        # Files that were read once are dropped when their memory is wanted.
        stat = dict(line.split(" ", 1) for line in _read(groups / "memory.stat").splitlines())
        return min(free, int(limit) - int(used) + int(stat.get("inactive_file", 0)))
    return free


def _gpus() -> tuple[str, ...]:
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(said.stdout.split("\n")[:-1])


def _assigned_gpu() -> str | None:
    from pyspark import TaskContext  # noqa: PLC0415 (only where a task runs)

    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context is not None else None
    return str(gpus.addresses[0]) if gpus is not None and gpus.addresses else None


def _free(folder: str) -> int | None:
    if not folder:
        return 0
    try:
        here = next(place for place in (Path(folder), *Path(folder).parents) if place.exists())
        return shutil.disk_usage(here).free if os.access(here, os.W_OK) else None
    except OSError:  # a folder on the way that is not to be looked into
        return None


def _try_out(question: dict[str, Any]) -> dict[str, Any]:
    """Start what a Barista starts, in a process like its own."""
    try:
        from barista.launch import environment  # noqa: PLC0415 (needs a package)
    except ImportError as error:
        return {"error": str(error)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "barista.tryout"], input=json.dumps(question) + "\n",
            env=environment(question["threads"]), capture_output=True, text=True,
            timeout=_TRYOUT_S, check=False,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": f"not ready after {_TRYOUT_S:.0f} s"}
    except ValueError:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"it ended with {done.returncode}"}
    return answer


def _read(file: str | Path) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""

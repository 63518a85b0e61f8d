"""The Spark session of a run: settings, slots, shipped code, a quiet console.

Spark's settings are set only where the user has not; each says why it is not left alone.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark import SparkConf, SparkContext

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_MASTER = "local[2,4]"  # two slots; a task may fail four times

SETTINGS = {
    # A Barista that dies costs its task an attempt; a week of training should not end at the
    # fourth.
    "spark.task.maxFailures": "8",
    # Two copies of a task would fight for one slot; the ledger makes them harmless, not useful.
    "spark.speculation": "false",
    # A cancelled round must give its slots back before the next one.
    "spark.task.reaper.enabled": "true",
    # The first round sees all slots, so that partitions spread evenly.
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    # The progress line is ours.
    "spark.ui.showConsoleProgress": "false",
    # Rounds are many and alike: the UI need not keep them all.
    "spark.ui.retainedJobs": "200",
    "spark.ui.retainedStages": "200",
}


class SessionError(ValueError):
    """The session cannot be what the user asked for."""


def check_conf(conf: SparkConf) -> None:
    """Refuse what Spark would answer by waiting for ever.

    Raises:
        SessionError: One line that says what to change.
    """
    if is_local(conf.get("spark.master")):
        for key in ("spark.task.resource.gpu.amount", "spark.executor.resource.gpu.amount"):
            if conf.contains(key):
                raise SessionError(
                    f"{key} is set, but a local master has no GPU resources and Spark would wait "
                    "for ever: leave it out and use --device cuda:0"
                )


def master() -> str:
    """Return the master that spark-submit was told, or our default; starts no context."""
    return _conf().get("spark.master") or DEFAULT_MASTER


def _conf() -> SparkConf:
    """Return the settings that spark-submit was given."""
    # Only a conf made after the JVM has been reached knows them.
    SparkContext._ensure_initialized()  # noqa: SLF001 (SparkContext itself would do too much)
    return SparkConf()


def open_context(name: str) -> SparkContext:
    """Start Spark.

    Raises:
        SessionError: If a setting cannot work.
    """
    conf = _conf().setIfMissing("spark.app.name", name)
    conf.setIfMissing("spark.master", DEFAULT_MASTER)
    check_conf(conf)
    for key, value in SETTINGS.items():
        conf.setIfMissing(key, value)
    if (conf.get("spark.master") or "").startswith("local"):
        # Otherwise Python workers are whatever `python3` is on PATH.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    context = SparkContext(conf=conf)
    _leave_interrupts_to_python(context)
    return context


def _leave_interrupts_to_python(context: SparkContext) -> None:
    """Have Ctrl-C reach our own handler alone.

    The JVM would exit with 130 while Python is still writing, and pyspark's own handler prints
    py4j tracebacks.
    """
    jvm = context._jvm  # noqa: SLF001 (there is no public way to the JVM's signals)
    signals = jvm.sun.misc  # type: ignore[union-attr]
    signals.Signal.handle(signals.Signal("INT"), signals.SignalHandler.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def is_local(master: str | None) -> bool:
    """Say whether executors are threads of the driver's own JVM."""
    return (
        master is not None and master.startswith("local") and not master.startswith("local-cluster")
    )


def driver_host(context: SparkContext) -> str:
    """Return the address by which executors reach the driver."""
    return context.getConf().get("spark.driver.host") or "127.0.0.1"


def task_slots(context: SparkContext) -> int:
    """Return how many tasks run at once."""
    per_task = int(context.getConf().get("spark.task.cpus", "1") or 1)
    return max(1, context.defaultParallelism // per_task)


def slots_per_executor(context: SparkContext) -> int:
    """Return how many tasks one executor can run at once, or more."""
    if is_local(context.master):
        return task_slots(context)
    cores = int(context.getConf().get("spark.executor.cores", "0") or 0)
    return cores or max(task_slots(context), os.cpu_count() or 1, 64)


def ship_code(context: SparkContext) -> None:
    """Give executors this project's code; a local master has it already."""
    if not is_local(context.master):
        archive = Path(tempfile.mkdtemp(prefix="ddq-")) / "ddq-pyfiles.zip"
        context.addPyFile(str(write_pyfiles(archive)))


def write_pyfiles(path: str | Path) -> Path:
    """Write a zip for `--py-files` with what a Barista imports; returns its path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, name in _sources():
            archive.write(file, name)
    return target


def _sources() -> Iterator[tuple[Path, str]]:
    root = Path(__file__).resolve().parents[2]
    yield root / "replay.py", "replay.py"
    # Each package under its import name: `caffe` is caffe/python/caffe, see setup.py.
    for folder, name in (
        (root / "barista", "barista"),
        (root / "caffe/python/caffe", "caffe"),
        (root / "param-server/param_server", "param_server"),
    ):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file, f"{name}/{file.relative_to(folder)}"

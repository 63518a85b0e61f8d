"""The Spark session of a run: settings, slots, shipped code, a quiet console.

Spark's settings are set only where the user has not; each says why it is not left alone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException

from barista.spark import cluster, shipping
from barista.spark.rounds import reason

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_MASTER = "local[2,4]"  # two slots; a task may fail four times

SETTINGS = {
    # A Barista that dies costs its task an attempt; a week of training should not end at the
    # fourth.
    "spark.task.maxFailures": "8",
    # Two copies of a task would fight for one slot; the ledger makes them harmless, not useful.
    "spark.speculation": "false",
    # A cancelled round must give its slots back before the next one.
    "spark.task.reaper.enabled": "true",
    # Where Spark knows how many executors to expect (YARN, Kubernetes), it waits for all of them.
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    # Partitions of a lost executor are cached on another one, which is busy: rounds that are over
    # before Spark looks elsewhere, by default after 3 s a level, would never get them back.
    "spark.locality.wait": "1s",
    # With --exchange spark an update's results are a gradient of each worker: no GiB is too much.
    "spark.driver.maxResultSize": "0",
    # The progress line is ours.
    "spark.ui.showConsoleProgress": "false",
    # Rounds are many and alike: the UI need not keep them all.
    "spark.ui.retainedJobs": "200",
    "spark.ui.retainedStages": "200",
}


MANY_SLOTS = 256  # more than one executor will have, where its cores are not known
REGISTER_S = 30.0  # how long executors may take to come
SETTLED_S = 5.0  # when no more have come for so long, those that are there are all


class SessionError(RuntimeError):
    """There is no session; `exit_code` is 2 where the user asked for what cannot be."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def check_conf(conf: SparkConf, device: str = "auto", folder: Path | None = None) -> None:
    """Refuse what would wait for ever, not start, or vanish at the end.

    Args:
        conf: Spark's settings.
        device: `--device`.
        folder: Of the run; None where nothing is kept.

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
    settings = dict(conf.getAll())
    wrong = cluster.address_limit(settings, device)
    wrong = wrong or (cluster.vanishing_folder(settings, folder) if folder else None)
    if wrong:
        raise SessionError(wrong)


def master() -> str:
    """Return the master that spark-submit was told, or our default; starts no context."""
    return _conf().get("spark.master") or DEFAULT_MASTER


def _conf() -> SparkConf:
    """Return the settings that spark-submit was given."""
    # Only a conf made after the JVM has been reached knows them.
    try:
        SparkContext._ensure_initialized()  # noqa: SLF001 (SparkContext itself does too much)
    except PySparkException as error:
        raise SessionError(f"Spark does not start: {reason(error)}", exit_code=1) from error
    _leave_interrupts_to_python()
    return SparkConf()


def open_context(name: str, *, device: str = "auto", folder: Path | None = None) -> SparkContext:
    """Start Spark.

    Args:
        name: Of the application.
        device: `--device`.
        folder: Of the run; None where nothing is kept.

    Raises:
        SessionError: If a setting cannot work.
    """
    conf = _conf().setIfMissing("spark.app.name", name)
    conf.setIfMissing("spark.master", DEFAULT_MASTER)
    check_conf(conf, device, folder)
    for key, value in {**SETTINGS, **_engine_settings()}.items():
        conf.setIfMissing(key, value)
    if (conf.get("spark.master") or "").startswith("local"):
        # Otherwise Python workers are whatever `python3` is on PATH.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if not _resolves("localhost"):
        # pyspark's accumulators listen on that name, unless they use a socket file.
        conf.setIfMissing("spark.python.unix.domain.socket.enabled", "true")
    handler = signal.getsignal(signal.SIGINT)
    try:
        context = SparkContext(conf=conf)
    except (PySparkException, Py4JError, OSError) as error:
        code = 2 if "Master URL" in str(error) else 1
        raise SessionError(
            f"Spark does not start: {reason(error)}; see logs/spark.log", exit_code=code
        ) from error
    # pyspark has put its own handler here, which prints py4j's tracebacks.
    signal.signal(signal.SIGINT, handler)
    return context


def _engine_settings() -> dict[str, str]:
    """Return what makes executors use the engine that this process uses."""
    settings = {name: os.environ.get(name) for name in ("DDQ_CAFFE", "DDQ_PRECISION")}
    if settings["DDQ_CAFFE"]:
        settings["DDQ_CAFFE"] = str(Path(settings["DDQ_CAFFE"]).absolute())
    return {f"spark.executorEnv.{name}": value for name, value in settings.items() if value}


def halt(code: int) -> None:
    """End the JVM with this exit code, without its shutdown hooks."""
    jvm = SparkContext._jvm  # noqa: SLF001 (there is no public way to the JVM)
    if jvm is not None:
        with suppress(Py4JError, OSError):  # it does not live to answer
            jvm.java.lang.Runtime.getRuntime().halt(code)


def _resolves(name: str) -> bool:
    try:
        socket.gethostbyname(name)
    except OSError:
        return False
    return True


def _leave_interrupts_to_python() -> None:
    """Have Ctrl-C reach our own handler alone.

    The JVM would exit with 130 while Python is still writing.
    """
    jvm = SparkContext._jvm  # noqa: SLF001 (there is no public way to the JVM's signals)
    signals = jvm.sun.misc  # type: ignore[union-attr]
    signals.Signal.handle(signals.Signal("INT"), signals.SignalHandler.SIG_IGN)


def is_local(master: str | None) -> bool:
    """Say whether executors are threads of the driver's own JVM."""
    return (
        master is not None and master.startswith("local") and not master.startswith("local-cluster")
    )


def settings(context: SparkContext) -> dict[str, str]:
    """Return Spark's settings, the master's among them."""
    return {**dict(context.getConf().getAll()), "spark.master": str(context.master)}


def driver_host(context: SparkContext) -> str:
    """Return the address by which executors reach the driver."""
    return context.getConf().get("spark.driver.host") or "127.0.0.1"


def task_slots(
    context: SparkContext, wanted: int | None, say: Callable[[str], object] = print
) -> int:
    """Return how many tasks run at once, after the executors have registered.

    Waits until there are `wanted`, or none has come for 5 s, for 30 s at the most: a cluster's
    executors come one by one, and Spark itself waits for none of them.
    """
    spark = context._jsc.sc()  # noqa: SLF001 (pyspark has no way to ask)
    profile = spark.resourceProfileManager().defaultResourceProfile()
    slots = int(spark.maxNumConcurrentTasks(profile))
    if is_local(context.master):
        return slots
    began = changed = time.monotonic()
    while slots < (wanted or slots + 1) and time.monotonic() < began + REGISTER_S:
        if slots and time.monotonic() > changed + SETTLED_S:
            break
        time.sleep(0.5)
        now = int(spark.maxNumConcurrentTasks(profile))
        if now != slots:
            slots, changed = now, time.monotonic()
            say(f"executors register: {slots} task slots so far")
    return slots


def slots_per_executor(context: SparkContext) -> int:
    """Return how many tasks one executor can run at once, or more."""
    if is_local(context.master):
        return task_slots(context, None)
    conf = context.getConf()
    # https://spark.apache.org/docs/latest/configuration.html, spark.executor.cores: 1 on YARN and
    # Kubernetes, all of a host's on a standalone cluster.
    default = "1" if cluster.is_container(settings(context)) else str(MANY_SLOTS)
    cores = int(conf.get("spark.executor.cores", default) or default)
    return max(1, cores // int(conf.get("spark.task.cpus", "1") or 1))


def ship_code(context: SparkContext, folder: Path) -> None:
    """Give executors this project's code; a local master has it already.

    Spark hands the file itself to executors, late ones too: it stays in `folder`.
    """
    if not is_local(context.master):
        context.addPyFile(str(shipping.write_pyfiles(folder / "ddq-pyfiles.zip")))

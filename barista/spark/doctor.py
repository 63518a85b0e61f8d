"""`ddq.py --doctor`: one short job that says, for each executor, what would go wrong in a run.

`consult` puts it together: `examine` asks (see `barista.spark.checkup`), `diagnose`, which is pure,
compares what they answer with what the run needs, `table` shows it.
"""

from __future__ import annotations

import platform
import secrets
import socket
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from param_server.client import split_address

from barista.driver import memory
from barista.driver.job import UsageError
from barista.driver.server_link import DEFAULT_PORT, WILDCARDS
from barista.rounds import RoundError
from barista.spark import checkup, cluster, session
from barista.spark.rounds import RoundJob, spark_may_be_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pyspark import SparkContext

    from barista.config import AgentConfig
    from barista.driver.job import Job
    from barista.spark.checkup import Finding, Question

# What a Barista imports, or its engine and games do; what the driver alone needs is not asked for.
PACKAGES = (
    "ale-py", "gymnasium", "h5py", "ml-dtypes", "numpy", "protobuf", "psutil", "pyarrow",
    "requests", "torch",
)  # fmt: skip
_CLOCK_S = 5.0  # a difference that makes logs of several hosts hard to read
_ENVIRONMENT = "scripts/pyfiles --environment (docs/cluster.md) makes one to send"
_HEADINGS = ("executor", "Python", "packages", "starts", "route", "clock", "memory", "GPU", "disk")


class Needs(NamedTuple):
    """What a run will ask of each executor."""

    config: AgentConfig  # with the number of workers that there will be
    worker_bytes: int  # memory of one
    disk_bytes: int  # that one writes to --replay-dir
    address: str  # HOST:PORT, where the server would be
    versions: Mapping[str, str]  # of the packages, as the driver has them


def consult(
    context: SparkContext, job: Job, config: AgentConfig, slots: int
) -> tuple[list[str], bool]:
    """Examine all executors.

    Args:
        context: Spark's, with the code shipped.
        job: The run that is planned.
        config: With the number of workers that there would be.
        slots: How many tasks run at once.

    Returns:
        Lines to print, and whether a run would go well.

    Raises:
        UsageError: If the server could not listen where it should.
    """
    settings = session.settings(context)
    with ExitStack() as stack:
        mark, address = _expected(context, job, stack)
        needs = Needs(
            config=config,
            worker_bytes=memory.worker_bytes(config, job.spec),
            disk_bytes=memory.disk_bytes(config, job.spec),
            address="{}:{}".format(*address) if address else "",
            versions=_versions_here(),
        )
        asked = checkup.Question(
            number=secrets.token_hex(4),
            mark=mark,
            address=address,
            packages=tuple(needs.versions),
            replay_dir=config.replay_dir,
            tryout={"config": config.to_json(), "net": job.net.read_text(), "threads": 1},
        )
        try:
            findings, wrong = examine(context, asked, slots, job.interrupts.check), []
        except RoundError as error:
            findings, wrong = [], [_no_answer(error)]
        if not (findings or wrong):
            wrong = ["no executor has answered: see logs/spark.log for why its tasks ended"]
    in_one = min(config.workers, session.slots_per_executor(context))
    wrong += filter(
        None,
        (
            cluster.memory_shortage(settings, needs.worker_bytes, in_one),
            cluster.closures_in_clear(settings) if address else None,  # else there is no token
        ),
    )
    wrong += diagnose(findings, needs)
    shown = table(findings, needs) if findings else []
    server = f"its server at {needs.address}" if address else "without a server"
    lines = [f"A run on {context.master}, {server}:", *shown]
    if not wrong:
        return [*lines, "Nothing would go wrong."], True
    return [*lines, "What would go wrong:", *(f"- {line}" for line in wrong)], False


def _expected(
    context: SparkContext, job: Job, stack: ExitStack
) -> tuple[str, tuple[str, int] | None]:
    """Return what would be said at the server's address, and that address; None without a server.

    A server that `--server` names is only connected to: what is said there is "".
    """
    given = job.given
    if given.exchange == "spark":
        return "", None
    if given.server:
        try:
            return "", split_address(given.server)
        except ValueError as error:
            raise UsageError(f"--server: {error}") from error
    own = "127.0.0.1" if session.is_local(context.master) else session.driver_host(context)
    host = given.server_host or own
    ports = [given.server_port] if given.server_port else [*range(DEFAULT_PORT, 5520), 0]
    mark = secrets.token_hex(8)
    try:
        port = stack.enter_context(listening(mark, host, ports))
    except OSError as error:
        raise UsageError(
            f"the server cannot listen on {host}, port {ports[0]} ({error.strerror}): name an "
            "address of this machine with --server-host, and a free --server-port"
        ) from error
    return mark, (own if host in WILDCARDS else host, port)


def _no_answer(error: RoundError) -> str:
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"tasks fail on the executors ({str(error).splitlines()[0]}): they need Python {python}, "
        f"as here: name it with PYSPARK_PYTHON, or send an environment; {_ENVIRONMENT}"
    )


@contextmanager
def listening(mark: str, host: str, ports: Iterable[int]) -> Iterator[int]:
    """Answer whoever connects with `mark` and the time here; yields the port, the first free one.

    Raises:
        OSError: If none of the ports can be listened on.
    """
    listener = _first_free(host, ports)

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the listener is closed
                return
            with connection, suppress(OSError):
                connection.sendall(f"{mark} {time.time()!r}\n".encode())

    thread = threading.Thread(target=answer, name="doctor", daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # ends the accept, which closing would not
        thread.join()
        listener.close()


def _first_free(host: str, ports: Iterable[int]) -> socket.socket:
    failed: OSError | None = None
    for port in ports:
        try:
            return socket.create_server((host, port))
        except OSError as error:
            failed = error
    assert failed is not None
    raise failed


def examine(
    context: SparkContext, asked: Question, tasks: int, check: Callable[[], None]
) -> list[Finding]:
    """Ask every executor, by one job with a task for each slot; calls `check` once a second.

    Raises:
        RoundError: If the job fails: a Python that Spark cannot start, or cannot work with.
    """

    def work() -> list[Finding]:
        context.setJobGroup("ddq doctor", "ddq doctor")
        slots = context.parallelize(range(tasks), tasks)
        return slots.mapPartitions(lambda _: checkup.examine(asked)).collect()

    with spark_may_be_gone():
        job = RoundJob(work)
    while not job.wait(1.0):
        check()
    found: list[Any] = job.rows()
    return sorted(found, key=lambda one: (one.host, one.folder))


def _versions_here() -> dict[str, str]:
    """Return the driver's versions of `PACKAGES`; what it lacks itself is not asked for."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def diagnose(findings: Sequence[Finding], needs: Needs) -> list[str]:
    """Return what would go wrong, each in a line that ends with its remedy."""
    each = [line for one in findings for line in _of_executor(one, needs)]
    return list(dict.fromkeys([*each, *_of_hosts(findings, needs)]))  # executors of a host agree


def _of_executor(one: Finding, needs: Needs) -> Iterator[str]:
    lacks, differs = _packages(one, needs)
    if lacks:
        yield (
            f"{one.host}: {one.executable} lacks {', '.join(lacks)}: install them there "
            f"(pip install -c constraints.txt .), or send an environment; {_ENVIRONMENT}"
        )
    elif "error" in one.tryout:  # a missing package explains itself
        yield f"{one.host}: a Barista does not start: {one.tryout['error']}"
    if differs:
        yield (
            f"{one.host}: other versions than the driver's: {', '.join(differs)}: install the same "
            f"(pip install -c constraints.txt .), or send an environment; {_ENVIRONMENT}"
        )
    if one.route:
        yield (
            f"{one.host}: does not reach {needs.address} ({one.route}): open that port in the "
            "firewall, or name an address and a port that it can reach with --server-host and "
            "--server-port"
        )
    if one.clock_s is not None and abs(one.clock_s) > _CLOCK_S:
        yield (
            f"{one.host}: its clock differs by {one.clock_s:+.0f} s from the driver's: synchronise "
            "both (NTP), or the lines of logs will be out of order"
        )
    if one.address_limit is not None and one.address_limit < needs.worker_bytes:
        yield (
            f"{one.host}: processes are limited to {_gb(one.address_limit)} of addresses, and a "
            f"Barista needs {_gb(needs.worker_bytes)}: leave spark.executor.pyspark.memory out"
        )
    yield from _of_processors(one, needs.config)
    if one.disk is None:
        yield (
            f"{one.host}: cannot write {needs.config.replay_dir}: name another --replay-dir, or "
            "let the executors' user write there"
        )


def _of_processors(one: Finding, config: AgentConfig) -> Iterator[str]:
    if one.gpus and one.gpu is None and config.device == "auto":
        yield (
            f"{one.host}: has a GPU ({one.gpus[0]}) that Spark has not assigned and nobody will "
            "use: --device cuda:0, or on a cluster spark.executor.resource.gpu.amount and "
            "spark.task.resource.gpu.amount; --device cpu if that is meant"
        )
    if config.precision.startswith("bf16") and not one.bf16 and not one.gpus:
        yield (
            f"{one.host}: its processor does not multiply bfloat16, and only imitates it: drop "
            f"--precision {config.precision}"
        )


def _of_hosts(findings: Sequence[Finding], needs: Needs) -> Iterator[str]:
    """Yield what executors of one host lack together."""
    hosts: dict[str, list[Finding]] = defaultdict(list)
    for one in findings:
        hosts[one.host].append(one)
    for host, executors in hosts.items():
        share = -(-needs.config.workers // len(findings))
        baristas = min(len(executors) * share, needs.config.workers)
        wanted, free = baristas * needs.worker_bytes, executors[0].memory
        if wanted > free:
            yield (
                f"{host}: {_gb(free)} of memory are free, and {baristas} Baristas need "
                f"{_gb(wanted)}: ask for a smaller --replay-capacity or fewer --workers, or keep "
                "the replay on disk: --replay-dir FOLDER"
            )
        wanted, disk = baristas * needs.disk_bytes, executors[0].disk
        if disk is not None and wanted > disk:
            yield (
                f"{host}: {_gb(disk)} are free in {needs.config.replay_dir}, and {baristas} "
                f"Baristas write {_gb(wanted)}: ask for a smaller --replay-capacity, or name "
                "another --replay-dir"
            )


def table(findings: Sequence[Finding], needs: Needs) -> list[str]:
    """Return a line for each executor, under a line of headings."""
    rows = [_HEADINGS, *(_row(one, needs) for one in findings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(one: Finding, needs: Needs) -> tuple[str, ...]:
    lacks, differs = _packages(one, needs)
    packages = [f"{len(lacks)} missing"] if lacks else []
    packages += [f"{len(differs)} differ"] if differs else []
    engine = "bf16" if one.bf16 else "no bf16"
    took = one.tryout.get("memory")
    return (
        one.host,
        f"{one.python} {one.executable}",
        ", ".join(packages) or "as here",
        "no" if took is None else f"yes, {engine}, {_gb(took)}",
        "no" if one.route else "yes",
        "?" if one.clock_s is None else f"{one.clock_s:+.2f} s",
        f"{_gb(one.memory)} free, {_gb(needs.worker_bytes)} a worker",
        f"{len(one.gpus)}, {'none' if one.gpu is None else one.gpu} assigned" if one.gpus else "-",
        "-" if not needs.disk_bytes else "no" if one.disk is None else f"{_gb(one.disk)} free",
    )


def _packages(one: Finding, needs: Needs) -> tuple[list[str], list[str]]:
    """Return which packages are missing, and which are not the driver's."""
    lacks = [name for name in needs.versions if one.versions[name] is None]
    differs = [
        f"{name} {there}, not {here}"
        for name, here in needs.versions.items()
        # A build for GPUs has the same version up to the plus sign.
        if (there := one.versions[name]) and there.partition("+")[0] != here.partition("+")[0]
    ]
    return lacks, differs


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"

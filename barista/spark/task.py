"""What runs in a Spark task: supervise one Barista through one round.

The task holds a slot, finds the Barista that lives there or starts one, says which round is wanted,
and waits in short requests until that round is over.  It restarts a Barista that dies or makes no
progress.  Everything it says is idempotent, so Spark may retry or repeat it.

With `--exchange server` no tensor passes through it.  With `--exchange spark` a task is one update
of one worker: it carries the driver's order to the Barista and the Barista's push back.
"""

from __future__ import annotations

import gc
import os
import socket
import time
import zlib
from collections import deque
from contextlib import suppress
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from barista import launch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

POLL_S = 2.0  # how long one request waits for the end of the round
STALLED_S = 60.0  # a Barista without any progress for so long is hung
_RETRY_S = 0.5  # between two tries to reach a Barista that lives but does not answer
MAX_RESTARTS = 3  # in one round; then it is Spark's turn to retry the task


class Assignment(NamedTuple):
    """What the driver asks of every task of a round; travels in the closure."""

    round: dict[str, Any]  # fields of `RoundRequest`, without the partition
    orders: dict[str, Any]  # what a Barista is started with
    slots: int  # how many slots one executor has at the most
    log: str  # the driver's barista.log
    host: str  # the driver's host


def supervise(assignment: Assignment, partition: int) -> Iterator[dict[str, Any]]:
    """Run `assignment` in this task's slot and yield its row of metrics.

    Raises:
        launch.LaunchError: If no Barista can be kept running.
        launch.BaristaRefusalError: If one says that it cannot do this at all.
    """
    gpu = _gpu_address()
    names = [f"gpu{gpu}"] if gpu is not None else [str(k) for k in range(assignment.slots)]
    with launch.take_slot(launch.slots_folder(), names) as slot:
        yield _run_round(assignment, partition, slot, gpu)


def read_all(items: Iterable[Any]) -> None:
    """Read a task's input to its end, though nothing in it matters.

    Spark ends the Python worker of a task that has left some of its input, and starting one for
    the next task takes a second or so; the same worker goes on otherwise.
    """
    _acknowledge_at_once()
    deque(items, maxlen=0)
    _spare_the_collector()


def _acknowledge_at_once() -> None:
    """Acknowledge what Spark has sent so far, without the kernel's usual delay.

    Spark sends a task and then its input.  The second waits until the first is acknowledged
    (Nagle's algorithm), for 40 ms, since the task has nothing to answer yet.
    """
    if not hasattr(socket, "TCP_QUICKACK"):  # Linux has it
        return
    for connection in _connections():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@cache
def _connections() -> list[socket.socket]:
    """Return this Python worker's own TCP connections: the one that Spark has to it."""
    with suppress(OSError, RuntimeError, psutil.Error):  # a /proc unlike others: it is slower then
        found = psutil.Process().net_connections("tcp")
        return [socket.socket(fileno=os.dup(connection.fd)) for connection in found]
    return []


@cache
def _spare_the_collector() -> None:
    """Take what this Python worker has imported out of the garbage collector's sight, once.

    Spark has a worker look for garbage after every task: 17 ms where pandas and all are loaded,
    more than all else that a task does.
    """
    gc.freeze()


def held(items: Iterable[int], until: float) -> Iterator[int]:
    """Return `items`, having held the slot until then, in seconds since the epoch.

    Whoever comes here meanwhile finds it taken.  One that does this again, later, does not wait.
    """
    kept = list(items)
    time.sleep(min(max(until - time.time(), 0.0), 30.0))  # clocks differ
    return iter(kept)


class Parcel(NamedTuple):
    """What a task of a synchronous update carries to its Barista."""

    order: bytes  # a frame, see `barista.mailbox`
    target: bytes  # a frame too
    target_key: tuple[int, int]  # (epoch, target version) of it
    is_last: bool  # whether the order ends the round

    def hand_over(self, barista: launch.Barista, status: dict[str, Any]) -> None:
        """Deliver the order, and the target's weights where the Barista has others."""
        if status["target"] != list(self.target_key):
            barista.deliver("target", self.target)
        barista.deliver("order", self.order)


def exchange(assignment: Assignment, parcel: Parcel, partition: int) -> Iterator[dict[str, Any]]:
    """Bring `parcel` to this partition's Barista; yield its push, or its row if the round is over.

    Here a slot belongs to a partition: whose gradient is added when must not depend on which task
    was first.  What is yielded has a "push" (a frame), or is a row as from `supervise`, or, of a
    Barista that died when nothing more was wanted of it, has neither.

    Raises:
        launch.LaunchError: If no Barista can be kept running.
        launch.BaristaRefusalError: If one says that it cannot do this at all.
    """
    with launch.take_slot(launch.slots_folder(), [str(partition)]) as slot:
        yield _run_round(assignment, partition, slot, _gpu_address(), parcel)


def stop_all(timeout_s: float = 10.0) -> Iterator[int]:
    """Stop every Barista of this executor within `timeout_s` each; yields how many there were."""
    folder = launch.slots_folder()
    names = {path.stem.removeprefix("slot-") for path in folder.glob("slot-*.json")}
    found = [b for name in sorted(names) if (b := launch.Slot(folder, name).find()) is not None]
    for barista in found:  # all at once: each may have a replay to write
        barista.ask_to_stop()
    for barista in found:
        barista.stop(timeout_s)
    yield len(found)


def stop_one(partition: int, timeout_s: float) -> Iterator[int]:
    """Stop the Barista of a partition, see `exchange`, on this executor; yields how many it was."""
    barista = launch.Slot(launch.slots_folder(), str(partition)).find()
    if barista is not None:
        barista.ask_to_stop()
        barista.stop(timeout_s)
    yield int(barista is not None)


def _run_round(
    assignment: Assignment,
    partition: int,
    slot: launch.Slot,
    gpu: str | None,
    parcel: Parcel | None = None,
) -> dict[str, Any]:
    number = int(assignment.round["number"])
    request = {**assignment.round, "partition": partition}
    launch.executor_process()  # while it can be found
    started = time.monotonic()
    restarts: list[str] = []
    while True:
        # A restarted Barista gets what is left of the round's time.
        left_s = float(assignment.round["deadline_s"]) - (time.monotonic() - started)
        request["deadline_s"] = max(left_s, 1.0)
        barista = slot.find()
        if barista is None and parcel is not None and parcel.is_last:
            return {"restarts": restarts}
        barista = barista or launch.start(
            slot, _orders(assignment, partition, slot, gpu), _log_path(assignment)
        )
        why = _watch_round(barista, number, request, parcel)
        if isinstance(why, dict):
            told = {"incarnation": barista.incarnation, "restarts": restarts}
            if "push" not in why and barista.log != assignment.log:
                told["log"] = barista.new_lines(slot)
            return {**why, "partition": partition, **told}
        barista.kill()
        restarts.append(why)
        if len(restarts) > MAX_RESTARTS:
            raise launch.LaunchError(
                f"Barista {slot.name} on {socket.gethostname()}: {'; then '.join(restarts)}; "
                f"the end of {barista.log}:\n{barista.last_lines()}"
            )


def _watch_round(
    barista: launch.Barista, number: int, request: dict[str, Any], parcel: Parcel | None = None
) -> dict[str, Any] | str:
    """Return the round's metrics or a push, or why this Barista has to be replaced."""
    wants_push = parcel is not None and not parcel.is_last
    submitted = False
    last_heartbeat: Any = None
    last_change = time.monotonic()
    while time.monotonic() - last_change < STALLED_S:
        try:
            if not submitted:
                _begin(barista, request, parcel)
                submitted = True
            ask = barista.push if wants_push else barista.status
            status = ask(round_number=number, wait_s=POLL_S)
        except (OSError, HTTPException):
            if not barista.is_alive():
                return f"Barista {barista.pid} died in round {number}"
            time.sleep(_RETRY_S)
            continue
        if "push" in status:
            return status
        if status["error"]:
            error = str(status["error"])
            if error.startswith(launch.FATAL):
                raise launch.BaristaRefusalError(error.removeprefix(launch.FATAL))
            return f"Barista {barista.pid} failed in round {number}: {error}"
        if status["round"] == number and status["metrics"] is not None:
            return {**status["metrics"], "replay_size": status["progress"]["replay_size"]}
        heartbeat = status["progress"].get("heartbeat")
        if heartbeat != last_heartbeat:
            last_heartbeat, last_change = heartbeat, time.monotonic()
    return f"Barista {barista.pid} made no progress for {STALLED_S:.0f} s in round {number}"


def _begin(barista: launch.Barista, request: dict[str, Any], parcel: Parcel | None) -> None:
    status = barista.start_round(request)
    if parcel is not None:
        parcel.hand_over(barista, status)


def _orders(
    assignment: Assignment, partition: int, slot: launch.Slot, gpu: str | None
) -> dict[str, Any]:
    executor = launch.executor_process()
    # One host may have several executors: their folders tell them apart.
    tag = f"{zlib.crc32(str(slot.folder).encode()):08x}"
    return {
        **assignment.orders,
        "worker": f"{socket.gethostname().split('.')[0]}-{tag}-{slot.name}",
        "ordinal": slot.ordinal(partition),
        "gpu": gpu,
        "executor": {"pid": executor.pid, "created": executor.create_time()},
    }


def _log_path(assignment: Assignment) -> Path:
    """Return where a Barista of this host writes: the driver's file, or one beside its slot."""
    shared = Path(assignment.log)
    if socket.gethostname() == assignment.host and shared.parent.is_dir():
        return shared
    return launch.slots_folder() / "barista.log"


def _gpu_address() -> str | None:
    from pyspark import TaskContext  # noqa: PLC0415 (only where a task runs)

    context = TaskContext.get()
    with suppress(AttributeError, KeyError):
        addresses = context.resources()["gpu"].addresses  # type: ignore[union-attr]
        return str(addresses[0]) if addresses else None
    return None

"""Synchronous rounds with nothing but Spark: the driver's side of `--exchange spark`.

Synchronous SGD (Chen et al., 2016, without backup workers).  The driver holds the weights θ and the
solver, and does for each of a round's K updates:

    send θ to all workers                              an order
    take the gradient of each, all computed at θ       their pushes
    apply the mean, added up in the partitions' order

Nothing in it depends on who was first, so a run is a function of its seed, bit for bit, as long as
its partitions stay where they are and all its pushes are made.  An update is applied by this loop
alone, when the pushes of a job are there: a job or a task that is repeated applies nothing twice.
To the store it is one push by a worker of the name `WORKER`, which reports what all of them have
done.

How an order comes to the workers and their pushes back is the affair of the callable that is
handed in: Spark jobs in `spark.rounds`, threads in tests.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from param_server.wire import Push

from barista.config import AgentConfig, ConfigError, option_name
from barista.mailbox import Order, decode_push, push_id
from barista.rounds import RoundRequest, mean

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from param_server.wire import Model, PushAnswer

    Float32 = NDArray[np.float32]

WORKER = "all"  # the name of all workers together

# What is about a server, or about pushes of single workers.
_OF_A_SERVER = (
    "server", "server_host", "server_port", "tls_ca", "tls_cert", "tls_key", "lease",
)  # fmt: skip
# The only value of an option of the agent that works, and why.
_ONLY: dict[str, tuple[Any, str]] = {
    "pull_period": (1, "every update begins with the newest weights"),
    "wire_dtype": ("float32", "Spark's jobs carry float32"),
}


class Server(Protocol):
    """What holds the weights; see `barista.driver.local_server`."""

    def model(self) -> Model:
        """Return a copy of the weights."""

    def target(self) -> Model:
        """Return a copy of the target's weights."""

    def update(self, push: Push, gradient: Float32) -> PushAnswer:
        """Judge a gradient and apply it."""


class Errand(NamedTuple):
    """What is carried to the workers, and what may be known of its end."""

    order: Order
    target: Model
    left_s: float  # of the round's time


def check(given: argparse.Namespace, config: AgentConfig) -> None:
    """See that the options make sense without a server.

    Raises:
        ConfigError: Naming the first that does not.
    """
    said = [name for name in _OF_A_SERVER if getattr(given, name) is not None]
    for name in [*said, *(["serial"] if given.serial else [])]:
        raise ConfigError(
            f"{option_name(name)} and --exchange spark exclude each other: there is no server then"
        )
    if given.staleness not in {None, "sync"}:
        raise ConfigError(
            f"--staleness {given.staleness} and --exchange spark exclude each other: its updates "
            "are synchronous; drop one"
        )
    if given.durability == "acknowledged":
        raise ConfigError(
            "--durability acknowledged is for a server that may be killed alone; with --exchange "
            "spark the driver has the weights: drop it"
        )
    for name, (value, why) in _ONLY.items():
        if getattr(config, name) != value:
            raise ConfigError(f"--exchange spark needs {option_name(name)} {value}: {why}")
    if config.overlap == "on":
        raise ConfigError(
            "--overlap on and --exchange spark exclude each other: a worker waits for each update"
        )


class Updates:
    """The updates of a run, round by round.  Not thread-safe.

    Args:
        server: Has the weights.
        run: The run's name in the server's ledger.
        workers: How many push in each update.
        clock: Seconds.
    """

    def __init__(
        self, server: Server, run: str, workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server, self._run, self._workers = server, run, workers
        self._clock = clock
        self._orders = self._updates = 0
        self._target: Model | None = None
        self._lives: dict[int, str] = {}  # incarnation of each partition's Barista

    def run_round(
        self,
        request: Mapping[str, Any],
        exchange: Callable[[Errand], Sequence[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        """Make the updates of a round; return the row of each worker.

        The round is over after the quota of all workers' pushes, or when its time is up: then an
        update may be made of fewer pushes, those of the workers that had begun.

        Args:
            request: Fields of `RoundRequest`, without the partition.
            exchange: Brings an order to each worker; returns what each gives, in the order of
                their partitions: its "push", or its row where it has left the round.
        """
        asked = RoundRequest(**request)
        deadline = self._clock() + asked.deadline_s
        restarts: dict[int, list[str]] = defaultdict(list)
        order = self._order()
        while True:
            left_s = max(deadline - self._clock(), 1.0)
            results = exchange(Errand(order, self._newest_target(order.model), left_s))
            pushes = self._pushes(results, order.model, restarts)
            if not pushes:
                return _rows(results, restarts)
            answer = self._apply(asked, pushes)
            ends = len(pushes) < len(results) or self._clock() >= deadline
            order = self._order(answer, pushes, is_last=ends)

    def _pushes(
        self, results: Sequence[dict[str, Any]], model: Model, restarts: dict[int, list[str]]
    ) -> list[tuple[Push, Float32]]:
        """Return the pushes that have come, computed at `model`; note who was restarted."""
        pushes = []
        for partition, result in enumerate(results):
            restarts[partition] += result.get("restarts", ())
            if "push" not in result:
                continue
            push, gradient = decode_push(result["push"])
            before = self._lives.get(partition, push.incarnation)
            if before != push.incarnation and not restarts[partition]:
                restarts[partition].append(f"the Barista of partition {partition} was gone")
            self._lives[partition] = push.incarnation
            if (push.epoch, push.version) == (model.epoch, model.version):
                pushes.append((push, gradient))
        return pushes

    def _apply(self, request: RoundRequest, pushes: list[tuple[Push, Float32]]) -> PushAnswer:
        """Apply the mean of gradients, added up in the order given."""
        total = pushes[0][1].copy()
        with np.errstate(over="ignore", invalid="ignore"):  # the store looks for what is not finite
            for _, gradient in pushes[1:]:
                total += gradient
            total /= len(pushes)
        self._updates += 1
        return self._server.update(self._joined(request, [push for push, _ in pushes]), total)

    def _joined(self, request: RoundRequest, pushes: list[Push]) -> Push:
        """Return what several pushes say, as one."""
        first = pushes[0]
        names = {name for push in pushes for name in push.stats}
        stats = {
            name: [push.stats[name] for push in pushes if name in push.stats] for name in names
        }
        means = {name: mean(values) for name, values in sorted(stats.items())}
        sums = {name: sum(values) for name, values in stats.items() if name.endswith("_s")}
        return Push(
            run=self._run,
            worker=WORKER,
            incarnation=self._run,  # each driver has a run of its own
            sequence=self._updates,
            epoch=first.epoch,
            version=first.version,
            layout=first.layout,
            round=request.number,
            quota=request.quota // self._workers,
            loss=sum(push.loss for push in pushes) / len(pushes),
            steps=sum(push.steps for push in pushes),
            episodes=tuple(each for push in pushes for each in push.episodes),
            episode_lengths=tuple(each for push in pushes for each in push.episode_lengths),
            stats={name: each for name, each in {**means, **sums}.items() if each is not None},
        )

    def _order(
        self,
        answer: PushAnswer | None = None,
        pushes: Sequence[tuple[Push, Float32]] = (),
        *,
        is_last: bool = False,
    ) -> Order:
        self._orders += 1
        if answer is not None and is_last:
            answer = replace(answer, round_over=True)
        return Order(
            self._orders,
            self._server.model(),
            answer,
            frozenset(push_id(push) for push, _ in pushes),
        )

    def _newest_target(self, model: Model) -> Model:
        """Return the target's weights, read only when there are others."""
        target = self._target
        if target is None or target.target_version != model.target_version:
            target = self._target = self._server.target()
        return target


def _rows(
    results: Sequence[dict[str, Any]], restarts: Mapping[int, list[str]]
) -> list[dict[str, Any]]:
    """Return the rows among the results; one names who was restarted, though it has no row."""
    rows = [{**row, "restarts": restarts[at]} for at, row in enumerate(results) if "worker" in row]
    lost = [
        event for at, row in enumerate(results) if "worker" not in row for event in restarts[at]
    ]
    if rows:
        rows[0]["restarts"] = [*rows[0]["restarts"], *lost]
    return rows
